"""The ETL from end to end: formats, rules, catalogue, report, retries; the bundled data by exact numbers."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest
from pyarrow import compute, parquet

from shortlist.errors import EmptyInteractionsError, SettingsError
from shortlist.recommender import interactions, split
from shortlist.settings import (
    PROJECT_ROOT,
    CancellationSettings,
    CatalogueSettings,
    ColumnSettings,
    InputSettings,
    InteractionSettings,
    PathSettings,
    Settings,
    load_settings,
)
from steps.etl import run_etl
from steps.validate import render_validation, validate_file
from tests.etl_runs import AS_OF, HEADER, accepted_rows, digest, good_lines, run, settings_for

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

EXAMPLES = PROJECT_ROOT / "config" / "examples"
MOVIELENS = PROJECT_ROOT.parent / "shared" / "data" / "ml-1m"


def write(path: Path, content: str) -> Path:
    data = content.encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def example(name: str, root: Path, path: Path | str) -> Settings:
    settings = load_settings(str(EXAMPLES / name))
    return replace(settings, input=replace(settings.input, path=str(path)), paths=PathSettings(root=str(root)))


def test_bundled_data_is_accepted_and_rejected_row_by_row(spark: SparkSession, tmp_path: Path) -> None:
    """Account for every line of the data's own description.

    541,909 lines: 135,080 without a customer, 397,924 purchases and 8,905 cancellations by known customers. Of these,
    1,554 and 366 are no products (postage, discounts), 5,193 and 35 repeat a line of the same invoice exactly.
    """
    settings = replace(load_settings(), paths=PathSettings(root=str(tmp_path)))
    report = run_etl(spark, settings=settings, as_of=AS_OF)
    assert report["read"] == 541_909
    assert report["rejected"] == {"missing_user": 135_080, "duplicate": 5_228, "not_a_product": 1_920}
    assert report["accepted"] == 397_924 + 8_905 - 1_554 - 366 - 5_193 - 35
    assert (report["accepted"], report["users"], report["items"]) == (399_681, 4_363, 3_676)
    assert (report["first"], report["last"]) == ("2010-12-01T08:26:00+00:00", "2011-12-09T12:50:00+00:00")
    assert (report["target_from"], report["test_from"]) == ("2011-11-02T00:00:00+00:00", "2011-11-21T00:00:00+00:00")
    assert report["fingerprint"] == "72d34cf43c8d29a90281143c5d5e6efd"
    train, test = (spark.read.parquet(path) for path in (settings.paths.train, settings.paths.test))
    assert train.count() + test.count() == 399_681
    assert abs(test.count() / 399_681 - settings.split.test_share) < 0.01
    assert train.unionByName(test).where("weight < 0").count() == 8_905 - 366 - 35
    titles = {row[0]: row[1] for row in spark.read.parquet(settings.paths.items).select("item_id", "title").collect()}
    assert (len(titles), titles["85123A"]) == (3_676, "CREAM HANGING HEART T-LIGHT HOLDER")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("netflix.toml", None),
        ("ratings_csv.toml", "DATE,CUST_ID,MOVIE_ID,RATING\n"),
    ],
)
def test_example_settings_read_their_format(
    spark: SparkSession, tmp_path: Path, name: str, content: str | None
) -> None:
    if content is None:
        lines = "".join(f"{day}:\n00{day},5,2005-09-{day:02}\n" for day in range(1, 11))
        write(tmp_path / "combined_data_1.txt", lines)
        write(tmp_path / "combined_data_2.txt.gz", "77:\n9,1,2005-09-05\n")
        settings = example(name, tmp_path, tmp_path / "combined_data_*.txt*")
        extra = ("9", "77", 1.0)
    else:
        lines = "".join(f"2005-09-{day:02},00{day},{day},5\n" for day in range(1, 11))
        settings = example(name, tmp_path, write(tmp_path / "ratings.csv.gz", f"{content}{lines}2005-09-05,9,77,1\n"))
        extra = ("9", "77", 1.0)
    outputs = run(spark, settings)
    assert outputs.accepted == sorted([(f"00{day}", str(day), 5.0) for day in range(1, 11)] + [extra])
    assert outputs.report["rejected"] == {}


def test_movielens_split_is_the_published_one(spark: SparkSession, tmp_path: Path) -> None:
    """On a twentieth of the users and every rating at the seconds of the cuts."""
    if not MOVIELENS.exists():
        pytest.skip(f"no {MOVIELENS}: MovieLens may not be redistributed")
    some = (compute.field("user_id") < 300) | compute.field("timestamp").isin([975_768_738, 978_133_367])
    ratings = parquet.read_table(MOVIELENS / "ratings.parquet", filters=some)
    parquet.write_table(ratings, tmp_path / "ratings.parquet")
    published = ratings.to_pylist()
    settings = example("ml-1m.toml", tmp_path, tmp_path / "ratings.parquet")
    settings = replace(settings, catalogue=replace(settings.catalogue, path=str(MOVIELENS / "movies.csv")))
    report = run_etl(spark, settings=settings, as_of=AS_OF)
    assert (report["read"], report["accepted"], report["rejected"]) == (len(published), len(published), {})
    cuts = split.Cuts.of_report(report)
    found = {"test": spark.read.parquet(settings.paths.test)}
    train = spark.read.parquet(settings.paths.train)
    found |= {"val": split.target_window(train, cuts), "train": split.history(train, cuts)}
    expected: dict[str, set[tuple[str, str]]] = {"train": set(), "val": set(), "test": set()}
    for row in published:
        # Of the ratings at the second of the first cut all but one are published as 'train'.
        side = "train" if row["timestamp"] == 975_768_738 else row["split80"]
        expected[side].add((str(row["user_id"]), str(row["movie_id"])))
    for side, pairs in expected.items():
        assert {(row[0], row[1]) for row in found[side].select("user_id", "item_id").collect()} == pairs
    toy_story = spark.read.parquet(settings.paths.items).where("item_id = '1'").collect()[0]
    assert tuple(toy_story) == ("1", "Toy Story (1995)", "Animation|Children's|Comedy", True)


def test_json_lines_and_csv_in_one_folder_are_one_delivery(spark: SparkSession, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    write(folder / "a.csv", HEADER + good_lines("u"))
    lines = [
        json.dumps({"amount": 2, "time": f"2026-03-{day:02}T12:00:00Z", "user": "j", "item": "x"}) for day in (1, 9)
    ]
    write(folder / "b.jsonl.gz", "\n".join(lines) + "\n{broken\n")
    outputs = run(spark, settings_for(tmp_path, folder, max_rejected_share=0.1))
    assert outputs.report["accepted"] == 12
    assert outputs.rejected == [("b.jsonl.gz", 3, "malformed")]


def test_a_cancellation_takes_back_and_events_have_weights(spark: SparkSession, tmp_path: Path) -> None:
    lines = good_lines().replace(",2026", ",view,A,2026")
    extra = "c,i0,buy,C7,2026-03-04 12:00:00,-3\nd,i0,buy,A,2026-03-04 12:00:00,2\ne,i0,sell,A,2026-03-04 12:00:00,2\n"
    path = write(tmp_path / "a.csv", f"user,item,event,invoice,time,amount\n{lines}{extra}")
    columns = ColumnSettings(user="user", item="item", time="time", weight="amount", event="event")
    settings = settings_for(
        tmp_path,
        path,
        columns=columns,
        min_weight=1.0,
        event_weights={"view": 1.0, "buy": 5.0},
        cancellation=CancellationSettings(column="invoice", pattern="^C"),
        tolerated=("unknown_event",),
    )
    outputs = run(spark, settings)
    assert [row for row in outputs.accepted if row[0] in "cde"] == [("c", "i0", -15.0), ("d", "i0", 10.0)]
    assert outputs.rejected == [("a.csv", 13, "unknown_event")]


def test_the_catalogue_names_items_and_the_latest_title_fills_gaps(spark: SparkSession, tmp_path: Path) -> None:
    lines = "".join(f"u,i{day % 3},2026-03-{day:02},t{day}\n" for day in range(1, 8)) + "u,i2,2026-03-09,\n"
    path = write(tmp_path / "a.csv", f"user,item,time,title\n{lines}")
    catalogue = write(tmp_path / "c.csv", "id,name,kind,there\ni0,Zero,a|b,yes\ni1,,,No\nother,Other,,1\n")
    settings = replace(
        settings_for(tmp_path, path, columns=ColumnSettings(user="user", item="item", time="time", title="title")),
        catalogue=CatalogueSettings(path=str(catalogue), item="id", title="name", category="kind", available="there"),
    )
    run(spark, settings)
    items = spark.read.parquet(settings.paths.items).orderBy("item_id").collect()
    assert [tuple(row) for row in items] == [
        ("i0", "Zero", "a|b", True),
        ("i1", "t7", None, False),
        ("i2", "t5", None, True),
    ]


def test_a_second_run_gives_the_same_and_leftovers_of_a_killed_run_do_no_harm(
    spark: SparkSession, tmp_path: Path
) -> None:
    settings = settings_for(tmp_path, write(tmp_path / "a.csv", HEADER + good_lines()))
    first = run(spark, settings)
    write(Path(settings.paths.processed, "_new", "parquet", "train", "part-0.parquet"), "half a file")
    second = run(spark, settings)
    assert second == first
    assert sorted(path.name for path in Path(settings.paths.processed).iterdir()) == ["etl.json", "parquet"]


def test_the_fingerprint_knows_the_rows_and_not_their_order(spark: SparkSession, tmp_path: Path) -> None:
    lines = good_lines().splitlines(keepends=True)
    texts = {"a": lines, "b": lines[::-1], "c": [*lines[:-1], lines[-1].replace(",10\n", ",11\n")]}
    prints = {}
    for name, parts in texts.items():
        path = write(tmp_path / f"{name}.csv", HEADER + "".join(parts))
        prints[name] = run(spark, settings_for(tmp_path, path)).report["fingerprint"]
    assert prints["a"] == prints["b"] != prints["c"]


def test_a_split_without_a_test_window_leaves_the_last_good_run(spark: SparkSession, tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", HEADER + good_lines())
    settings = settings_for(tmp_path, path)
    run(spark, settings)
    before = digest(settings)
    with pytest.raises(EmptyInteractionsError, match=r"history 10, target 0, test 0"):
        run_etl(
            spark,
            settings=replace(settings, split=replace(settings.split, target_from="2026-05-01", test_from="2026-06-01")),
            as_of=AS_OF,
        )
    assert digest(settings) == before


MOMENTS: dict[str, dict[str, str | None]] = {
    "auto": {
        "2026-07-01": "2026-06-30T23:00:00",
        "2026-07-01 10:20": "2026-07-01T09:20:00",
        "2026-07-01T10:20:30": "2026-07-01T09:20:30",
        "2026-07-01 10:20:30.5": "2026-07-01T09:20:30.500000",
        "2026-07-01T10:20:30Z": "2026-07-01T10:20:30",
        "2026-07-01T10:20+02:00": "2026-07-01T08:20:00",
        "2026-07-01 10:20:30 America/New_York": "2026-07-01T14:20:30",
        "2026-10-25 01:30:00": "2026-10-25T00:30:00",  # occurs twice: the first, still summer time
        "2026-10-25 02:30:00": "2026-10-25T02:30:00",
        "2026-03-29 01:30:00": "2026-03-29T01:30:00",  # does not occur: 02:30 summer time
        "1700000000": "2023-11-14T22:13:20",
        "1700000000.25": "2023-11-14T22:13:20.250000",
        "2026-02-30": None,
        "2026": "1970-01-01T00:33:46",
        "10:20": None,
        "01/07/2026": None,
        "NaN": None,
        "9e99": None,
    },
    "epoch_ms": {"1700000000123": "2023-11-14T22:13:20.123000", "2026-07-01": None},
    "epoch_us": {"1700000000000001": "2023-11-14T22:13:20.000001"},
    "dd/MM/yyyy HH:mm": {"01/07/2026 10:20": "2026-07-01T09:20:00", "2026-07-01": None},
    "yyyyMMdd HHmmss X": {"20260701 102030 +02": "2026-07-01T08:20:30"},
}


@pytest.mark.parametrize("zone", ["UTC", "America/New_York"])
def test_times_mean_the_same_in_every_session(spark: SparkSession, zone: str) -> None:
    from pyspark.sql import functions as F

    found: dict[str, dict[str, str | None]] = {}
    spark.conf.set("spark.sql.session.timeZone", zone)
    try:
        for time_format, texts in MOMENTS.items():
            frame = spark.createDataFrame([(text,) for text in texts], "text string")
            moment = interactions.parse_time(F.col("text"), "Europe/London", time_format=time_format)
            rows = frame.select("text", F.unix_micros(moment)).collect()
            found[time_format] = {
                text: None
                if micros is None
                else datetime.fromtimestamp(micros / 1e6, UTC).replace(tzinfo=None).isoformat()
                for text, micros in rows
            }
    finally:
        spark.conf.set("spark.sql.session.timeZone", "UTC")
    assert found == MOMENTS


def test_parquet_times_of_every_kind_mean_the_same(spark: SparkSession, tmp_path: Path) -> None:
    days = [datetime(2026, 7, day, 10, 20) for day in range(1, 5)]  # noqa: DTZ001 - a time without a zone is the case
    for kind in ("ns", "us", "ms"):
        for zone in (None, "UTC"):
            table = pa.table(
                {"user": ["u"] * 4, "item": list("abcd"), "time": pa.array(days, pa.timestamp(kind, zone))}
            )
            (tmp_path / "in").mkdir(exist_ok=True)
            parquet.write_table(table, tmp_path / "in" / f"{kind}-{zone}.parquet")
    settings = settings_for(tmp_path, tmp_path / "in", columns=ColumnSettings(user="user", item="item", time="time"))
    settings = replace(settings, input=replace(settings.input, timezone="Europe/London"))
    report = run(spark, settings).report
    assert (report["accepted"], report["rejected"]) == (8, {"duplicate": 16})
    assert (report["first"], report["last"]) == ("2026-07-01T09:20:00+00:00", "2026-07-04T10:20:00+00:00")


def test_an_unknown_time_zone_is_a_settings_error(spark: SparkSession, tmp_path: Path) -> None:
    settings = settings_for(tmp_path, write(tmp_path / "a.csv", HEADER + good_lines()))
    with pytest.raises(SettingsError, match="'London' is no IANA time zone"):
        run_etl(spark, settings=replace(settings, input=replace(settings.input, timezone="London")), as_of=AS_OF)


def test_validate_names_every_problem_and_writes_nothing(spark: SparkSession, tmp_path: Path) -> None:
    bad = ",i,2026-03-01,1\nu,i,never,1\nu,i,2026-03-01,many\nu0,i0,2026-03-01 12:00:00,1\nshort\n"
    path = write(tmp_path / "a.csv", HEADER + good_lines() + bad)
    settings = settings_for(tmp_path / "root", "elsewhere.csv")
    result = validate_file(spark, settings=settings, path=str(path))
    assert (result["passes"], result["read"], result["accepted"]) == (False, 15, 10)
    assert result["share"] == pytest.approx(4 / 15)
    found = {
        each["reason"]: (each["count"], each["tolerated"], each["examples"][0]["row"]) for each in result["problems"]
    }
    assert found == {
        "missing_user": (1, False, 11),
        "bad_time": (1, False, 12),
        "bad_weight": (1, False, 13),
        "duplicate": (1, True, 14),
        "malformed": (1, False, 15),
    }
    text = render_validation(result)
    assert "does not pass" in text
    assert "26.67% of the rows are bad" in text
    assert 'row 12: {"user":"u","item":"i","time":"never","amount":"1"}' in text
    assert not (tmp_path / "root").exists()


def test_validate_tells_of_a_missing_column_without_a_stack_trace(spark: SparkSession, tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "user,itm,time,amount\n1,2,3,4\n")
    result = validate_file(spark, settings=settings_for(tmp_path, path), path=str(path))
    assert not result["passes"]
    assert "has no column 'item', which stands for item_id. Did you mean 'itm'?" in render_validation(result)


def test_validate_passes_a_good_file(spark: SparkSession, tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", HEADER + good_lines())
    result = validate_file(spark, settings=settings_for(tmp_path, path), path=str(path))
    assert (result["passes"], result["problems"]) == (True, [])
    assert "passes" in render_validation(result)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.toml")), ids=lambda path: path.name)
def test_every_example_is_a_valid_settings_file(path: Path) -> None:
    settings = load_settings(str(path))
    assert settings.input.path.startswith("data/raw/")


def test_rows_accepted_do_not_depend_on_the_partitions(spark: SparkSession, tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", HEADER + good_lines() * 2)
    settings = Settings(
        input=InputSettings(path=str(path), multiline=False, columns=settings_for(tmp_path, path).input.columns),
        interactions=InteractionSettings(),
        paths=PathSettings(root=str(tmp_path)),
    )
    whole = run(spark, settings)
    before = spark.conf.get("spark.sql.files.maxPartitionBytes")
    spark.conf.set("spark.sql.files.maxPartitionBytes", "100")
    try:
        cut = run(spark, settings)
    finally:
        spark.conf.set("spark.sql.files.maxPartitionBytes", str(before))
    assert (cut.report["fingerprint"], cut.rejected) == (whole.report["fingerprint"], whole.rejected)
    assert accepted_rows(spark, settings) == whole.accepted


def test_the_path_of_a_run_takes_the_place_of_the_one_in_the_settings(spark: SparkSession, tmp_path: Path) -> None:
    there = write(tmp_path / "there.csv", HEADER + good_lines("there"))
    settings = settings_for(tmp_path, tmp_path / "nothing.csv")
    report = run_etl(spark, settings=settings, as_of=AS_OF, input_path=str(there))
    assert [file["path"] for file in report["files"]] == [str(there)]
    assert all(user.startswith("there") for user, _, _ in accepted_rows(spark, settings))
