"""New feedback as the drift DAG takes it, step by step on real Spark: every branch, and what comes of it."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from shortlist.errors import (
    EmptyInteractionsError,
    GateRefusedError,
    InputError,
    ModelVersionError,
    NothingToDoError,
    RejectedRowsError,
)
from shortlist.recommender import drift, profiles
from shortlist.settings import (
    AlsSettings,
    CandidateSettings,
    ColumnSettings,
    DriftSettings,
    EvaluationSettings,
    GateSettings,
    InputSettings,
    InteractionSettings,
    PathSettings,
    PublishSettings,
    Settings,
    SimilaritySettings,
    StreamingSettings,
)
from shortlist.stores import drift_records, files, model_versions, report_files
from steps.drift import check_retrain, detect_drift, find_current_model, skip_retrain
from steps.etl import run_etl
from steps.evaluate import evaluate_recommender
from steps.export import export_recommendations
from steps.streaming import merge_streaming_data, process_streaming_data
from steps.train import find_latest_model, train_recommender

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyspark.sql import SparkSession

HEADER = "DATE,CUST_ID,MOVIE_ID,RATING\n"
START = datetime(2026, 1, 1, tzinfo=UTC)
DAYS = 60
AS_OF = (START + timedelta(days=DAYS + 30)).isoformat()


def feedback(first_day: int, days: int, *, seed: int = 0, rating: Callable[[int], int] = int, users: str = "u") -> str:
    """Ratings of a small shop: two tastes, every user on some days, always the same habits."""
    generator = np.random.default_rng([seed, first_day])
    lines = []
    for day in range(first_day, first_day + days):
        for user in np.flatnonzero(generator.random(80) < 0.25):
            taste = 0 if user < 40 else 10
            for item in generator.choice(15, 1 + generator.integers(4), replace=False):
                when = START + timedelta(days=day, seconds=int(generator.integers(80_000)))
                stars = rating(int(generator.choice(5, p=[0.05, 0.1, 0.2, 0.4, 0.25]) + 1))
                lines.append(f"{when:%Y-%m-%d %H:%M:%S},{users}{user},i{taste + item:02},{stars}\n")
    return "".join(lines)


def shop_settings(root: Path) -> Settings:
    columns = ColumnSettings("CUST_ID", "MOVIE_ID", "DATE", "RATING")
    return Settings(
        input=InputSettings(path=str(root / "history.csv"), columns=columns),
        interactions=InteractionSettings(min_weight=1, max_weight=5, repeated="last", weight_transform="one"),
        als=AlsSettings(rank=4, iterations=2),
        similarity=SimilaritySettings(history=10, neighbours=10, shrinkage=1.0),
        candidates=CandidateSettings(als=5, similar=5, popular=5),
        evaluation=EvaluationSettings(k=(5, 10), bootstrap_samples=100),
        # With so few users the interval of a difference is wide.
        gate=GateSettings(tolerance=0.1),
        publish=PublishSettings(k=5, default_recs=5, online_recs=3, allow_repeats=True),
        drift=DriftSettings(waiting=1.0),
        paths=PathSettings(root=str(root)),
    )


@pytest.fixture(scope="module")
def trained(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A shop with a champion; tests copy it."""
    root = tmp_path_factory.mktemp("shop")
    settings = shop_settings(root)
    (root / "history.csv").write_text(HEADER + feedback(0, DAYS))
    run_etl(spark, settings=settings, as_of=AS_OF)
    path = train_recommender(spark, settings=settings, version="version_20260301T000000")
    evaluate_recommender(spark, settings=settings, version_path=path)
    export_recommendations(spark, settings=settings, version_path=path)
    return settings


@pytest.fixture
def shop(trained: Settings, tmp_path: Path) -> Settings:
    import shutil

    for name in ("data", "models", "postgres_data"):
        shutil.copytree(Path(trained.paths.root) / name, tmp_path / name)
    return replace(trained, paths=PathSettings(root=str(tmp_path)))


@pytest.fixture
def small(tmp_path: Path) -> Settings:
    """A shop without a model."""
    return shop_settings(tmp_path)


def deliver(settings: Settings, text: str, name: str = "current.csv") -> Path:
    file = Path(settings.paths.streaming) / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def process(spark: SparkSession, settings: Settings, batch: str = "drift_20260309T000000") -> str:
    return process_streaming_data(spark, settings=settings, batch=batch, as_of=AS_OF)


@dataclass(frozen=True)
class Run:
    data_drift: dict[str, Any]
    model_drift: dict[str, Any]
    decision: dict[str, Any]


def decide(spark: SparkSession, settings: Settings, batch_path: str) -> Run:
    """From the batch to the branch, as the DAG wires it."""
    version_path = find_current_model(settings=settings)
    found = detect_drift(spark, settings=settings, batch_path=batch_path, version_path=version_path)
    decision = check_retrain(settings=settings, batch_path=batch_path, version_path=version_path, **found)
    return Run(**found, decision=decision)


def rows(spark: SparkSession, *paths: str) -> list[tuple[Any, ...]]:
    found = spark.read.parquet(*paths).select("user_id", "item_id", "time", "weight").collect()
    return sorted(tuple(row) for row in found)


def listed_by_hand(settings: Settings, batch: str) -> dict[str, Any]:
    """What share of a batch the lists that were handed over hold."""
    proposed = pq.read_table(f"{settings.paths.hand_over}/candidates_inference.parquet").to_pandas()
    lists = proposed[proposed.als_rank <= 5].groupby("user_id").item_id.agg(set)
    parts = [pq.read_table(f"{settings.paths.batches}/{batch}/{part}") for part in ("train", "test")]
    pairs = {(row["user_id"], row["item_id"]) for part in parts for row in part.to_pylist()}
    found = [item in lists[user] for user, item in pairs if user in lists.index]
    return {"k": 5, "pairs": len(found), "share": pytest.approx(sum(found) / len(found))}


def test_without_a_file_there_is_nothing_to_do(spark: SparkSession, small: Settings) -> None:
    with pytest.raises(NothingToDoError, match="there is no new feedback"):
        process(spark, small)


def test_feedback_becomes_a_batch_and_the_files_go_to_the_archive(spark: SparkSession, small: Settings) -> None:
    text = feedback(DAYS, 20)
    lines = text.splitlines(keepends=True)
    deliver(small, HEADER + "".join(lines[:300]))
    deliver(small, HEADER + "".join(lines[300:]) + lines[0] + "no time,u1,i01,3\n", "more/late.csv")

    path = process(spark, small)

    train, test = rows(spark, f"{path}/train"), rows(spark, f"{path}/test")
    assert len(train) + len(test) == len(lines)
    assert not set(train) & set(test)
    assert 0.15 < len(test) / len(lines) < 0.25
    manifest = files.read_json(f"{path}/batch.json")
    assert {name: manifest[name] for name in ("read", "accepted", "rejected")} == {
        "read": len(lines) + 2,
        "accepted": len(lines),
        "rejected": {"bad_time": 1, "duplicate": 1},
    }
    assert sorted(map(str, pq.read_table(f"{path}/quarantine")["reason"].to_pylist())) == ["bad_time", "duplicate"]
    assert not any(file.is_file() for file in Path(small.paths.streaming).rglob("*"))
    archive = Path(small.paths.streaming_archive) / "drift_20260309T000000"
    assert (archive / "current.csv").read_text() == HEADER + "".join(lines[:300])
    assert (archive / "more/late.csv").exists()


def test_files_are_removed_when_no_archive_is_wanted(spark: SparkSession, small: Settings) -> None:
    file = deliver(small, HEADER + feedback(DAYS, 1))
    process(spark, replace(small, streaming=StreamingSettings(archive=False)))
    assert not file.exists()
    assert not Path(small.paths.streaming_archive).exists()


def test_a_retry_makes_the_same_batch_and_only_finishes_what_was_left(spark: SparkSession, small: Settings) -> None:
    file = deliver(small, HEADER + feedback(DAYS, 1))
    modified = file.stat().st_mtime_ns
    path = process(spark, small)
    before = rows(spark, f"{path}/train")
    # Killed after the batch was complete, before the file was taken away.
    (Path(small.paths.streaming_archive) / "drift_20260309T000000" / "current.csv").rename(file)
    assert file.stat().st_mtime_ns == modified
    newer = deliver(small, HEADER + feedback(DAYS + 1, 1), "newer.csv")

    assert process(spark, small) == path

    assert rows(spark, f"{path}/train") == before
    assert not file.exists()
    assert newer.exists()


@pytest.mark.parametrize(
    ("content", "error", "told"),
    [
        ("", InputError, "is empty"),
        (HEADER, InputError, "has a header and no rows"),
        ("DATE,CUST_ID,MOVIE,RATING\n2026-03-01,u1,i1,3\n", InputError, "MOVIE_ID"),
        (HEADER + "2026-03-01,u1,i1,NaN\n", EmptyInteractionsError, "bad_weight 1"),
        (HEADER + feedback(DAYS, 1) + "2026-03-01,u1,i1,99\n" * 30, RejectedRowsError, "weight_out_of_range 30"),
        (HEADER + "1970-01-01,u1,i1,3\n", EmptyInteractionsError, "time_out_of_range 1"),
        (HEADER + "2099-01-01,u1,i1,3\n", EmptyInteractionsError, "time_out_of_range 1"),
    ],
)
def test_bad_feedback_stops_with_its_reason_and_stays_where_it_is(
    spark: SparkSession, small: Settings, content: str, error: type[Exception], told: str
) -> None:
    file = deliver(small, content)
    with pytest.raises(error, match=told):
        process(spark, small)
    assert file.read_text() == content
    assert not list(Path(small.paths.batches).glob("drift_*"))


def test_feedback_like_the_past_skips_the_retraining(spark: SparkSession, shop: Settings) -> None:
    deliver(shop, HEADER + feedback(DAYS, 21))

    run = decide(spark, shop, process(spark, shop))

    assert run.decision["retrain"] is False, run.decision
    assert run.decision["score"] == max(run.data_drift["score"], run.model_drift["score"])
    assert [term["name"] for term in run.data_drift["terms"]] == list(drift.DATA)
    assert [term["name"] for term in run.model_drift["terms"]] == list(drift.MODEL)
    assert "no term is over the threshold" in run.decision["reason"]
    skip_retrain(decision=run.decision)
    (card,) = report_files.list_reports(shop.paths.reports, 1)
    assert (card["name"], card["kind"]) == (run.decision["batch"], "drift")
    assert card["headline"] == f"No retraining: {run.decision['reason']}"
    page = Path(run.decision["report"]).read_text()
    assert "No retraining" in page
    assert page.count("<svg") == 2
    compared = files.read_json(f"{shop.paths.batches}/{run.decision['batch']}/drift.json")
    assert compared["listed"] == listed_by_hand(shop, run.decision["batch"])
    assert f"{100 * compared['listed']['share']:.1f} % were among the 5 items" in page
    assert "http" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    ).replace("https://matplotlib.org", "")


def test_many_interactions_that_wait_are_a_reason_without_drift(spark: SparkSession, shop: Settings) -> None:
    patient = replace(shop, drift=DriftSettings(waiting=0.3))
    for number in range(2):
        deliver(patient, HEADER + feedback(DAYS + 11 * number, 11))
        run = decide(spark, patient, process(spark, patient, f"drift_2026030{number}T000000"))
        assert not run.data_drift["drifted"]
        assert run.decision["retrain"] is (number == 1)
    assert "interactions wait, 3" in run.decision["reason"]
    assert "(allowed: 30%); no term" in run.decision["reason"]


def test_one_row_and_only_new_users_never_cry_wolf(spark: SparkSession, shop: Settings) -> None:
    deliver(shop, HEADER + "2026-03-05 12:00:00,u7,i03,1\n")
    run = decide(spark, shop, process(spark, shop))
    assert run.decision["retrain"] is False
    assert run.decision["score"] > 1
    assert "with so little data chance reaches" in run.decision["reason"]


@pytest.mark.parametrize(
    ("text", "term"),
    [
        (feedback(DAYS, 7, rating=lambda stars: max(1, stars - 2)), drift.WEIGHTS),
        (feedback(DAYS, 7, users="new-"), drift.NEW_USERS),
        (feedback(DAYS, 7).replace(",i", ",next-"), drift.NEW_ITEMS),
    ],
)
def test_a_shift_is_told_by_its_term(spark: SparkSession, shop: Settings, text: str, term: str) -> None:
    deliver(shop, HEADER + text)
    run = decide(spark, shop, process(spark, shop))
    drifted = {told["name"] for told in run.decision["terms"] if told["drifted"]}
    assert term in drifted
    assert run.decision["retrain"] is True
    assert term in run.decision["reason"]
    [kept] = drift_records.history(shop.paths.drift, 10)
    assert kept == run.decision


def test_a_drift_leads_to_a_new_champion_that_knows_the_feedback(spark: SparkSession, shop: Settings) -> None:
    before = rows(spark, shop.paths.train, shop.paths.test)
    deliver(shop, HEADER + feedback(DAYS, 3), "first.csv")
    waiting = process(spark, shop, "drift_20260308T000000")
    text = feedback(DAYS + 3, 4, rating=lambda stars: max(1, stars - 2)) + feedback(DAYS + 3, 4, users="new-")
    deliver(shop, HEADER + text)
    batch = process(spark, shop)
    added = rows(spark, *(f"{path}/{part}" for path in (waiting, batch) for part in ("train", "test")))
    assert decide(spark, shop, batch).decision["retrain"] is True

    report = merge_streaming_data(spark, settings=shop)

    assert rows(spark, shop.paths.train, shop.paths.test) == sorted(before + added)
    assert report["merged"] == ["drift_20260308T000000", "drift_20260309T000000"]
    assert report["accepted"] == len(before) + len(added)
    assert not list(Path(shop.paths.batches).iterdir())

    assert merge_streaming_data(spark, settings=shop) == report
    assert rows(spark, shop.paths.train, shop.paths.test) == sorted(before + added)

    trained = train_recommender(spark, settings=shop, version="version_20260309T000000")
    latest = find_latest_model(settings=shop, trained=trained)
    judged = evaluate_recommender(spark, settings=shop, version_path=latest)["gate"]
    assert judged["champion"] == "version_20260301T000000"
    assert judged["difference"]["low"] >= -shop.gate.tolerance
    export_recommendations(spark, settings=shop, version_path=latest)
    champion = model_versions.champion(shop.paths.model_versions)
    assert champion is not None
    assert (champion.version, champion.previous) == ("version_20260309T000000", ("version_20260301T000000",))
    assert champion.reason == judged["reason"]
    users = set(pq.read_table(f"{latest}/users")["user_id"].to_pylist())
    assert "new-1" in users


def test_the_gate_refuses_a_worse_model_and_the_champion_stays(spark: SparkSession, shop: Settings) -> None:
    deliver(shop, HEADER + feedback(DAYS, 7))
    process(spark, shop)
    merge_streaming_data(spark, settings=shop)
    blind = replace(shop, als=AlsSettings(rank=1, iterations=1, regularization=1e6))
    path = train_recommender(spark, settings=blind, version="version_20260309T000000")

    with pytest.raises(GateRefusedError, match="against the champion version_20260301T000000"):
        evaluate_recommender(spark, settings=blind, version_path=path)

    assert files.read_json(f"{path}/metrics.json")["gate"]["passed"] is False
    champion = find_current_model(settings=shop)
    assert champion.endswith("version_20260301T000000")

    # Nothing passes because the champion cannot be read; without it anything does.
    Path(champion, "manifest.json").write_text("half of a manif")
    with pytest.raises(ModelVersionError, match="the champion cannot be compared with"):
        evaluate_recommender(spark, settings=blind, version_path=path)
    files.remove(champion)
    judged = evaluate_recommender(spark, settings=blind, version_path=path)["gate"]
    assert judged == {"passed": True, "reason": "passed: the champion version_20260301T000000 was removed"}


def test_a_merge_that_was_killed_goes_on_where_it_stopped(
    spark: SparkSession, shop: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = rows(spark, shop.paths.train, shop.paths.test)
    deliver(shop, HEADER + feedback(DAYS, 2))
    batch = process(spark, shop)
    added = rows(spark, f"{batch}/train", f"{batch}/test")
    replace_folder, calls = files.replace, []

    def killed(new: str, location: str) -> None:
        calls.append(location)
        if len(calls) == 2:
            raise KeyboardInterrupt
        replace_folder(new, location)

    monkeypatch.setattr(files, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        merge_streaming_data(spark, settings=shop)
    monkeypatch.setattr(files, "replace", replace_folder)
    with pytest.raises(FileNotFoundError):
        files.read_json(shop.paths.etl_report)

    report = merge_streaming_data(spark, settings=shop)

    assert rows(spark, shop.paths.train, shop.paths.test) == sorted(before + added)
    assert report["merged"] == ["drift_20260309T000000"]
    assert not Path(shop.paths.processed, "_merged").exists()


def test_a_batch_with_the_name_of_a_merged_one_is_merged_too(spark: SparkSession, shop: Settings) -> None:
    """As when a run that has merged is cleared, and finds other files."""
    before = rows(spark, shop.paths.train, shop.paths.test)
    deliver(shop, HEADER + feedback(DAYS, 1))
    first = rows(spark, *(f"{process(spark, shop)}/{part}" for part in ("train", "test")))
    merge_streaming_data(spark, settings=shop)
    deliver(shop, HEADER + feedback(DAYS + 1, 1))
    second = rows(spark, *(f"{process(spark, shop)}/{part}" for part in ("train", "test")))

    merge_streaming_data(spark, settings=shop)

    assert rows(spark, shop.paths.train, shop.paths.test) == sorted(before + first + second)


def test_nothing_to_merge_is_told(spark: SparkSession, shop: Settings) -> None:
    with pytest.raises(EmptyInteractionsError, match="process_streaming_data makes them"):
        merge_streaming_data(spark, settings=shop)


def test_without_a_model_the_run_says_what_to_do(small: Settings) -> None:
    with pytest.raises(ModelVersionError, match="run etl_train_test_pipeline first"):
        find_current_model(settings=small)


def test_a_foreign_or_damaged_model_is_told_apart(spark: SparkSession, shop: Settings) -> None:
    deliver(shop, HEADER + feedback(DAYS, 1))
    batch = process(spark, shop)
    current = find_current_model(settings=shop)
    report = files.read_json(shop.paths.etl_report)
    files.write_json(shop.paths.etl_report, report | {"fingerprint": "of other data"})
    with pytest.raises(ModelVersionError, match="is no longer in"):
        detect_drift(spark, settings=shop, batch_path=batch, version_path=current)
    files.write_json(shop.paths.etl_report, report)
    detect_drift(spark, settings=shop, batch_path=batch, version_path=current)
    Path(current, "drift", "reference.json").write_text(json.dumps({"totals": 1}))
    with pytest.raises(ModelVersionError, match="is damaged"):
        detect_drift(spark, settings=shop, batch_path=batch, version_path=current)
    files.remove(f"{current}/train/item_factors")
    with pytest.raises(ModelVersionError, match=r"it lacks train/item_factors: go back to the champion before it"):
        find_current_model(settings=shop)
    Path(current, "manifest.json").write_text("[]")
    with pytest.raises(ModelVersionError, match="not a manifest of this project"):
        find_current_model(settings=shop)


def test_profiles_count_what_is_there(spark: SparkSession) -> None:
    events = spark.createDataFrame(
        [("a", "x", "2026-03-02 10:00", 1.0), ("a", "y", "2026-03-02 11:00", 5.0), ("b", "x", "2026-03-08 09:00", 5.0)],
        "user_id string, item_id string, time string, weight float",
    ).selectExpr("user_id", "item_id", "to_timestamp(time) AS time", "weight")
    settings = InteractionSettings(weight_transform="one")
    items = profiles.rank_items(events)
    assert [tuple(row) for row in items.orderBy("tracked").collect()] == [("x", 0, 0), ("y", 6, 1)]
    newer = events.selectExpr("user_id", "replace(item_id, 'y', 'z') AS item_id", "time", "weight")
    described = profiles.describe_data(newer, items, settings)
    edges = profiles.Edges(profiles.choose_edges(described, drift.WEIGHTS), np.empty(0))

    profile, values = profiles.count(described, edges)

    counted = {name: counts.tolist() for name, counts in profile.histograms.items() if counts.sum()}
    assert edges.weights.tolist() == [3.0]
    assert values[drift.WEIGHTS].tolist() == [1.0, 5.0]
    assert counted[drift.WEIGHTS] == [1.0, 2.0]
    assert counted[drift.POPULARITY] == [2.0] + [0.0] * 9
    assert counted[drift.NEW_ITEMS] == [2.0, 1.0]
    assert counted[drift.WEEKDAYS] == [2.0, 0, 0, 0, 0, 0, 1.0]
    assert counted[drift.ACTIVITY] == [1.0, 2.0] + [0.0] * 18
    assert (profile.blocks, profile.days) == (2, 7)
    blocks = profiles.sample_blocks(described, edges, profile.blocks, drift.DATA)
    for name in drift.DATA:
        assert blocks[name].sum(axis=0).tolist() == profile.histograms[name].tolist()
        assert blocks[name].shape[0] == 2
