"""Bad and strange input files: each case of the catalogue of faults by its number.

The oracle: every row read is accepted or in quarantine with its reason; nothing accepted is lost or doubled; a run
that fails names the file and the remedy and leaves the outputs of the last good run as they were; the next run works.
"""

from __future__ import annotations

import gzip
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from shortlist.errors import EmptyInteractionsError, InputError, RejectedRowsError
from shortlist.stores import files
from steps.etl import run_etl
from tests.etl_runs import AS_OF, HEADER, Outputs, digest, good_lines, quarantine_rows, run, settings_for

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pyspark.sql import SparkSession

    from shortlist.settings import Settings


@pytest.fixture(scope="module")
def good(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The settings of a good run, whose outputs every failing run has to leave alone."""
    root = tmp_path_factory.mktemp("good")
    (root / "good.csv").write_text(HEADER + good_lines(), encoding="utf-8")
    settings = settings_for(root, root / "good.csv")
    run(spark, settings)
    return settings


def reading(settings: Settings, path: Path | str, **rules: Any) -> Settings:
    return replace(
        settings,
        input=replace(settings.input, path=str(path)),
        interactions=replace(settings.interactions, **rules),
    )


def zipped(lines: int) -> bytes:
    numbers = [(number * 2_654_435_761) % 2**32 for number in range(lines)]
    return gzip.compress((HEADER + "".join(f"{n},{n},2026-03-01,1\n" for n in numbers)).encode(), 1)


def small_parquet(folder: Path) -> bytes:
    table = pa.table({"user": ["u"], "item": ["i"], "time": ["2026-03-01"], "amount": [1]})
    parquet.write_table(table, folder / "whole.parquet")
    return (folder / "whole.parquet").read_bytes()


UNREADABLE: dict[str, tuple[str, Callable[[Path], bytes | None], str]] = {
    "fault_01_empty_file": ("a.csv", lambda _: b"", "is empty .*Deliver it again"),
    "fault_02_header_only": ("a.csv", lambda _: HEADER.encode(), "a header and no rows.*Deliver it again"),
    "fault_03_missing_file": ("a.csv", lambda _: None, "no input at .*put a file there"),
    "fault_06_truncated_gzip": ("a.csv.gz", lambda _: zipped(200_000)[:-100_000], "truncated or corrupt; deliver it"),
    "fault_06_truncated_parquet_footer": (
        "a.parquet",
        lambda folder: small_parquet(folder)[:-20],
        "truncated or corrupt; deliver it again",
    ),
    "fault_07_missing_column": ("a.csv", lambda _: b"user,time,amount\n1,2,3\n", "no column 'item'.*Change the names"),
    "fault_07_renamed_column": (
        "a.csv",
        lambda _: b"user_id,item,time,amount\n1,2,3,4\n",
        "no column 'user'.*Did you mean 'user_id'.*Change the names",
    ),
    "fault_10_quote_that_never_closes": (
        "a.csv",
        lambda _: (HEADER + 'u,"i,2026-03-01,1\n' + good_lines() * 10).encode(),
        "a quote opens and never closes.*Mend the line",
    ),
    "fault_10_quote_that_never_closes_in_a_large_file": (
        "a.csv",
        lambda _: (HEADER + 'u,"i,2026-03-01,1\n' + good_lines() * 1000).encode(),
        "a quote opens and never closes; mend the line",
    ),
}


@pytest.mark.parametrize(("name", "content", "message"), UNREADABLE.values(), ids=UNREADABLE.keys())
def test_unreadable_input_stops_the_run_and_changes_nothing(
    spark: SparkSession,
    good: Settings,
    tmp_path: Path,
    name: str,
    content: Callable[[Path], bytes | None],
    message: str,
) -> None:
    data = content(tmp_path)
    if data is not None:
        (tmp_path / name).write_bytes(data)
    before = digest(good)
    with pytest.raises(InputError, match=message) as caught:
        run_etl(spark, settings=reading(good, tmp_path / name), as_of=AS_OF)
    assert str(tmp_path / name) in str(caught.value)
    assert "\tat " not in str(caught.value)
    assert digest(good) == before


class _Append(logging.Handler):
    """Appends to a file while the ETL reports that it has read it: a delivery that is still going on."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().startswith("read 10 rows"):
            with self.path.open("a", encoding="utf-8") as file:
                file.write("late,i,2026-03-05 12:00:00,1\n")


@pytest.mark.parametrize("_case", [None], ids=["fault_04_file_still_growing"])
def test_growing_input_stops_the_run_and_the_next_one_takes_it_all(
    spark: SparkSession, good: Settings, tmp_path: Path, _case: None
) -> None:
    path = tmp_path / "growing.csv"
    path.write_text(HEADER + good_lines(), encoding="utf-8")
    before = digest(good)
    logger, handler = logging.getLogger("steps.etl"), _Append(path)
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        with pytest.raises(InputError, match=r"still growing: .*growing\.csv.*run again when the delivery is complete"):
            run_etl(spark, settings=reading(good, path), as_of=AS_OF)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    assert digest(good) == before
    assert run(spark, settings_for(tmp_path, path)).report["accepted"] == 11


T = "2026-03-02 12:00:00"
LONG = "x" * 1000
# File by file: its bytes, the interactions that must come out of it, the rows that must not and why.
STRANGE: dict[str, tuple[bytes, list[tuple[str, str, float]], list[tuple[int, str]]]] = {
    "fault_05_truncated_last_line": (
        f"{HEADER}t,a,{T},1\nt,b,{T},1\nt,c,2026-0".encode(),
        [("t", "a", 1), ("t", "b", 1)],
        [(3, "malformed")],
    ),
    "fault_08_reordered_and_extra_columns": (
        f"amount,note,time,item,user\n3,hello,{T},a,r\n".encode(),
        [("r", "a", 3)],
        [],
    ),
    "fault_09_bom_and_crlf": (f"\ufeff{HEADER}b,ä,{T},1\n".replace("\n", "\r\n").encode(), [("b", "ä", 1)], []),
    "fault_09_latin_1_bytes": (
        f"{HEADER}café,a,{T},1\nl,a,{T},1\n".encode("latin-1"),
        [("l", "a", 1)],
        [(1, "bad_encoding")],
    ),
    "fault_10_quotes_newlines_delimiters": (
        f'{HEADER}"q","a ""b"", c",{T},1\nq,"two\nlines",{T},1\nq,plain,{T},1\nq,a,b,{T},1\n'.encode(),
        [("q", 'a "b", c', 1), ("q", "plain", 1)],
        [(2, "control_character"), (4, "malformed")],
    ),
    "fault_11_nul_bytes": (
        f"{HEADER}n\x00,a,{T},1\n\x00n,a,{T},1\nn,a,{T},1\n".encode(),
        [("n", "a", 1)],
        [(1, "control_character"), (2, "control_character")],
    ),
    "fault_12_strange_ids": (
        "".join(
            [HEADER, *(f"{user},{user},{T},1\n" for user in ("007", "-5", "1e3", "2147483648", "9" * 20, "日本", LONG))]
        ).encode(),
        [(user, user, 1) for user in ("007", "-5", "1e3", "2147483648", "9" * 20, "日本")],
        [(7, "id_too_long")],
    ),
    "fault_13_no_number_as_weight": (
        "".join(
            [HEADER, *(f"w,{n},{T},{w}\n" for n, w in enumerate(("NaN", "Inf", "-Infinity", "", "1d", "x", "1e2")))]
        ).encode(),
        [("w", "6", 100)],
        [(n, "missing_weight" if n == 4 else "bad_weight") for n in range(1, 7)],
    ),
    "fault_14_weight_out_of_range": (
        "".join(
            [HEADER, *(f"o,{n},{T},{w}\n" for n, w in enumerate(("0", "-1", "1000001", "0.5", "1000000")))]
        ).encode(),
        [("o", "0", 0), ("o", "3", 0.5), ("o", "4", 1e6)],
        [(2, "weight_out_of_range"), (3, "weight_out_of_range")],
    ),
    "fault_15_times": (
        "".join(
            [
                HEADER,
                *(
                    f"z,{n},{time},1\n"
                    for n, time in enumerate(
                        (
                            "2026-11-22 00:00:00",  # two days ahead
                            "1970-01-01",
                            "1770000000000",  # milliseconds
                            "soon",
                            "",
                            "2026-10-25 01:30:00",  # the hour that occurs twice
                            "2026-03-02T12:00:00+09:00",
                            "1770000000",
                        )
                    )
                ),
            ]
        ).encode(),
        [("z", "5", 1), ("z", "6", 1), ("z", "7", 1)],
        [
            (1, "time_out_of_range"),
            (2, "time_out_of_range"),
            (3, "time_out_of_range"),
            (4, "bad_time"),
            (5, "missing_time"),
        ],
    ),
    "fault_26_formula_in_a_name": (
        f'{HEADER}"=HYPERLINK(""x"")",../../etc/passwd,{T},1\n'.encode(),
        [('=HYPERLINK("x")', "../../etc/passwd", 1)],
        [],
    ),
}


@pytest.fixture(scope="module")
def strange(
    spark: SparkSession, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Outputs, list[tuple[str, str, float]]]:
    """One run over a folder with all strange files and a good one."""
    root = tmp_path_factory.mktemp("strange")
    (root / "in").mkdir()
    (root / "in" / "good.csv").write_text(HEADER + good_lines(), encoding="utf-8")
    for name, (content, _, _) in STRANGE.items():
        (root / "in" / f"{name}.csv").write_bytes(content)
    outputs = run(spark, settings_for(root, root / "in", max_rejected_share=1.0))
    return outputs, outputs.accepted


@pytest.mark.parametrize("case", STRANGE)
def test_strange_rows_are_accepted_as_they_are_or_quarantined(
    strange: tuple[Outputs, list[tuple[str, str, float]]], case: str
) -> None:
    outputs, accepted = strange
    _, interactions, rejected = STRANGE[case]
    assert [(row, reason) for name, row, reason in outputs.rejected if name == f"{case}.csv"] == rejected
    for interaction in interactions:
        assert accepted.count(interaction) == 1


def test_strange_files_together_give_exactly_their_interactions(
    strange: tuple[Outputs, list[tuple[str, str, float]]],
) -> None:
    _, accepted = strange
    expected = [interaction for _, interactions, _ in STRANGE.values() for interaction in interactions]
    ours = [(f"u{day % 3}", f"i{day % 4}", float(day + 1)) for day in range(10)]
    assert accepted == sorted([*expected, *ours])


@pytest.mark.parametrize("_case", [None], ids=["fault_16_every_row_a_duplicate"])
def test_a_file_of_one_row_repeated_is_refused_with_the_figures(
    spark: SparkSession, good: Settings, tmp_path: Path, _case: None
) -> None:
    (tmp_path / "a.csv").write_text(HEADER + f"u,i,{T},1\n" * 1000, encoding="utf-8")
    before = digest(good)
    with pytest.raises(EmptyInteractionsError, match=r"1 interactions on 1 day\(s\).*deliver a longer time"):
        run_etl(spark, settings=reading(good, tmp_path / "a.csv"), as_of=AS_OF)
    assert digest(good) == before


@pytest.mark.parametrize("_case", [None], ids=["fault_17_same_file_delivered_twice"])
def test_a_second_delivery_of_the_same_file_adds_nothing(
    spark: SparkSession, good: Settings, tmp_path: Path, _case: None
) -> None:
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text(HEADER + good_lines(), encoding="utf-8")
    outputs = run(spark, settings_for(tmp_path / "root", tmp_path / "?.csv"))
    once = files.read_json(good.paths.etl_report)
    assert (outputs.report["fingerprint"], outputs.report["rejected"]) == (once["fingerprint"], {"duplicate": 10})
    assert len({name for name, _, _ in outputs.rejected}) == 1


@pytest.mark.parametrize("_case", [None], ids=["fault_18_late_data_for_a_closed_week"])
def test_late_data_goes_where_its_time_belongs(spark: SparkSession, tmp_path: Path, _case: None) -> None:
    late = "late,i,2026-03-01 00:00:01,1\n"
    (tmp_path / "a.csv").write_text(HEADER + good_lines() + late, encoding="utf-8")
    settings = settings_for(tmp_path, tmp_path / "a.csv")
    run(spark, settings)
    assert spark.read.parquet(settings.paths.train).where("user_id = 'late'").count() == 1


VOLUMES = {
    "fault_19_one_user_with_most_events": lambda n: {"user": ["big"] * n, "item": [str(i % 5000) for i in range(n)]},
    "fault_20_one_item_with_99_percent": lambda n: {
        "user": [str(i % 900) for i in range(n)],
        "item": ["hit" if i % 100 else f"rare{i}" for i in range(n)],
    },
    "fault_24_ten_times_the_volume": lambda n: {
        "user": [str(i % 997) for i in range(10 * n)],
        "item": [str(i % 101) for i in range(10 * n)],
    },
}


@pytest.mark.parametrize("columns", VOLUMES.values(), ids=VOLUMES.keys())
def test_lopsided_and_large_volumes_are_taken_whole(
    spark: SparkSession, tmp_path: Path, columns: Callable[[int], dict[str, list[str]]]
) -> None:
    data = columns(10_000)
    rows = len(data["user"])
    moments = [1_770_000_000 + 30 * number for number in range(rows)]
    parquet.write_table(pa.table({**data, "time": moments, "amount": [1] * rows}), tmp_path / "a.parquet")
    report = run_etl(spark, settings=settings_for(tmp_path, tmp_path / "a.parquet"), as_of=AS_OF)
    assert (report["read"], report["accepted"], report["rejected"]) == (rows, rows, {})
    assert (report["users"], report["items"]) == (len(set(data["user"])), len(set(data["item"])))


@pytest.fixture(scope="module")
def delivered(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings after a first delivery, which the next ones replace."""
    root = tmp_path_factory.mktemp("delivered")
    (root / "a.csv").write_text(HEADER + good_lines(), encoding="utf-8")
    settings = settings_for(root, root / "a.csv")
    run(spark, settings)
    return settings


@pytest.mark.parametrize(
    ("user", "item"),
    [("new{0}", "i0"), ("u0", "new{0}"), ("only", "only")],
    ids=["fault_21_every_user_new", "fault_22_every_item_new", "fault_23_one_user_one_item"],
)
def test_a_delivery_replaces_the_last_one_whole(spark: SparkSession, delivered: Settings, user: str, item: str) -> None:
    rows = [(user.format(day), item.format(day), 1.0) for day in range(1, 6)]
    lines = "".join(f"{user},{item},2026-04-0{day},1\n" for day, (user, item, _) in enumerate(rows, 1))
    files.write_bytes(delivered.input.path, (HEADER + lines).encode())
    outputs = run(spark, delivered)
    assert outputs.accepted == sorted(rows)
    assert outputs.report["items"] == spark.read.parquet(delivered.paths.items).count() == len({row[1] for row in rows})


@pytest.mark.parametrize(
    ("bad", "stops"),
    [(1, False), (2, True)],
    ids=["fault_25_share_at_the_limit", "fault_25_share_above_the_limit"],
)
def test_the_limit_of_bad_rows_decides(
    spark: SparkSession, good: Settings, tmp_path: Path, bad: int, stops: bool
) -> None:
    tolerated = ",i,2026-03-01,1\n" * 3
    lines = good_lines(days=20 - 3 - bad) + tolerated + "u,i,never,1\n" * bad
    (tmp_path / "a.csv").write_text(HEADER + lines, encoding="utf-8")
    rules: dict[str, Any] = {"max_rejected_share": 0.05, "tolerated": ("missing_user",)}
    if not stops:
        assert run(spark, settings_for(tmp_path, tmp_path / "a.csv", **rules)).report["read"] == 20
        return
    before = digest(good)
    settings = reading(good, tmp_path / "a.csv", **rules)
    with pytest.raises(
        RejectedRowsError,
        match=r"10\.00% of the 20 rows of .*a\.csv.* bad_time 2 \(.*set \[interactions\]\.time_format",
    ):
        run_etl(spark, settings=settings, as_of=AS_OF)
    assert digest(good) == before
    reasons = [reason for _, _, reason in quarantine_rows(spark, settings)]
    assert sorted(reasons) == ["bad_time"] * 2 + ["missing_user"] * 3
    assert run(spark, good).report["accepted"] == 10


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    (tmp_path / "outside.csv").write_text(HEADER + good_lines(), encoding="utf-8")
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.csv").symlink_to(tmp_path / "outside.csv")
    return folder


@pytest.mark.parametrize("_case", [None], ids=["fault_26_symlink_out_of_the_folder"])
def test_a_link_out_of_the_folder_is_refused(spark: SparkSession, good: Settings, linked: Path, _case: None) -> None:
    before = digest(good)
    for location in (linked, linked / "*.csv", linked / ".." / "in"):
        with pytest.raises(InputError, match=r"a\.csv is a link that leaves .*put the file itself there"):
            run_etl(spark, settings=reading(good, location), as_of=AS_OF)
    assert digest(good) == before


@pytest.mark.parametrize("_case", [None], ids=["fault_26_formula_and_wildcards_in_a_file_name"])
def test_a_file_name_is_a_name_and_nothing_else(spark: SparkSession, tmp_path: Path, _case: None) -> None:
    path = tmp_path / "=cmd|' '!A0 $(x) [ab]* %2e%2e.csv"
    path.write_text(HEADER + good_lines() + "u,i,never,1\n", encoding="utf-8")
    outputs = run(spark, settings_for(tmp_path, path, max_rejected_share=0.1))
    assert outputs.rejected == [(path.name, 11, "bad_time")]
