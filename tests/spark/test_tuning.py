"""The search for better settings on the small shop, whose test window is removed before anything is tried."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shortlist.errors import RankerError, TuningError
from shortlist.recommender import evaluation, tuning
from shortlist.settings import PathSettings, RankerSettings, Settings, load_settings
from steps import tune, tuning_window
from steps.tune import tune_recommender
from tests.small_shop import LATE_ITEM, LATE_USER, TARGET_FROM, TEST_FROM, events, write_shop

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyspark.sql import SparkSession

IN_USE = """\
# Why this shop is small.
[als]
rank = 4       # small
iterations = 3

[candidates]
als = 5
similar = 5
popular = 5

[publish]
k = 5
default_recs = 5
"""


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Of a shop of which nobody can know what was taken in the test window."""
    root = tmp_path_factory.mktemp("shop")
    settings = replace(write_shop(root), ranker=RankerSettings(iterations=20))
    shutil.rmtree(settings.paths.test)
    (root / "pipeline.toml").write_text(IN_USE)
    return settings


def path_of(settings: Settings) -> str:
    return f"{settings.paths.root}/pipeline.toml"


def table(result: dict[str, Any]) -> list[dict[str, str]]:
    with (Path(result["study"]) / "trials.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def first(spark: SparkSession, settings: Settings) -> dict[str, Any]:
    return tune_recommender(spark, settings=settings, settings_path=path_of(settings), minutes=30, trials=3)


def test_the_settings_in_use_are_tried_first_then_others(first: dict[str, Any], settings: Settings) -> None:
    rows = table(first)

    assert [row["state"] for row in rows] == ["complete"] * 3
    in_use = tuning.parameters(settings)
    assert {name: rows[0][name] for name in in_use} == {name: str(value) for name, value in in_use.items()}
    assert len({tuple(row.values()) for row in rows}) == 3
    assert all(0 < float(row["ndcg@10"]) <= 1 and float(row["seconds"]) > 0 for row in rows)
    assert (first["trials"], first["failed"]) == (3, 0)


def test_every_trial_asks_the_same_users(first: dict[str, Any]) -> None:
    known = {(user, item) for user, item, when, _ in events() if when < TARGET_FROM}
    took = {user for user, item, when, _ in events() if TARGET_FROM <= when < TEST_FROM and (user, item) not in known}
    asked = evaluation.user_places(pa.chunked_array([sorted(took & {user for user, _ in known})]))
    ndcg = [json.loads(file.read_text()) for file in sorted((Path(first["study"]) / "ndcg").iterdir())]

    expected = (((asked >= 0.5) & (asked < 0.8)).sum(), (asked >= 0.8).sum())
    assert [(len(trial["choosing"]), len(trial["confirming"])) for trial in ndcg] == [expected] * 3


def test_no_trial_learns_from_the_window_it_is_judged_on(first: dict[str, Any]) -> None:
    """A planted leak: `u-late` comes in the target window only, `i-late` in the test window only."""
    prepared = Path(first["study"]) / "prepared"
    index = {row["user_id"]: row["user_index"] for row in pq.read_table(prepared / "users").to_pylist()}
    learned = {row["user_index"] for row in pq.read_table(prepared / "preferences").to_pylist()}

    assert index[LATE_USER] not in learned
    assert len(learned) == 60
    assert all(row["time"] < TARGET_FROM.replace(tzinfo=None) for row in pq.read_table(prepared / "events").to_pylist())
    assert LATE_ITEM not in pq.read_table(prepared / "items")["item_id"].to_pylist()


def test_another_call_goes_on_with_the_study(
    spark: SparkSession, settings: Settings, first: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = table(first)

    def prepared_already(*_arguments: object) -> None:
        raise AssertionError("what all trials share was made again")

    monkeypatch.setattr(tuning_window, "train_at", prepared_already)
    again = tune_recommender(spark, settings=settings, settings_path=path_of(settings), minutes=30, trials=4)

    assert again["study"] == first["study"]
    assert table(again)[:3] == before
    assert len(table(again)) == 4


def test_other_settings_or_other_data_are_another_study(
    spark: SparkSession, settings: Settings, first: dict[str, Any]
) -> None:
    etl = json.loads(Path(settings.paths.etl_report).read_text())

    def name(changed: Settings = settings, **report: str) -> str:
        return tune._study_name(spark, changed, etl | report)

    assert Path(first["study"]).name == name()
    assert name(replace(settings, als=replace(settings.als, rank=16))) == name(
        replace(settings, als=replace(settings.als, rank=20))
    )  # what is searched may change within the bounds, for example by a proposal that was accepted
    others = [
        name(replace(settings, als=replace(settings.als, seed=1))),
        name(replace(settings, publish=replace(settings.publish, allow_repeats=True))),
        name(fingerprint="g"),
        name(test_from="2026-03-20T00:00:00+00:00"),
    ]
    assert len({name(), *others}) == 5


@pytest.fixture
def worth(
    settings: Settings, first: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Callable[[Settings], tuple[list[float], list[float]]]], Settings]:
    """Settings of a new study, whose trials are worth what a function says."""

    def fake(of: Callable[[Settings], tuple[list[float], list[float]]]) -> Settings:
        shutil.copytree(settings.paths.root, tmp_path / "root")
        shutil.rmtree(tmp_path / "root" / "models" / "tuning")
        changed = replace(settings, paths=PathSettings(root=str(tmp_path / "root")))
        prepared = f"{first['study']}/prepared"
        monkeypatch.setattr(
            tuning_window,
            "prepare",
            lambda _spark, _settings, _etl, folder: shutil.copytree(prepared, f"{folder}/prepared"),
        )
        monkeypatch.setattr(tuning_window, "propose_in", lambda _window, _settings: None)
        monkeypatch.setattr(
            tuning,
            "judge",
            lambda _table, chosen: tuning.Worth(*(np.array(values) for values in of(chosen))),
        )
        return changed

    return fake


def test_the_best_setting_is_proposed_beside_the_file_in_use(spark: SparkSession, worth: Any) -> None:
    settings = worth(
        lambda chosen: ([0.2, 0.2], [0.2, 0.2, 0.2]) if chosen.als.rank == 4 else ([0.3, 0.4], [0.5, 0.3, 0.4])
    )
    result = tune_recommender(spark, settings=settings, settings_path=path_of(settings), minutes=30, trials=2)

    proposed = Path(f"{settings.paths.root}/pipeline.proposed.toml")
    assert result["proposal"] == str(proposed)
    assert result["ndcg@10"] == {"in_use": pytest.approx(0.2), "proposed": pytest.approx(0.4)}
    assert result["difference"]["low"] > 0
    assert load_settings(str(proposed)).als.rank == result["changed"]["als.rank"][1] != 4
    assert Path(path_of(settings)).read_text() == IN_USE
    text = proposed.read_text()
    assert "NDCG@10 0.4000 instead of 0.2000 on 3 users with no part in the choice, difference +0.2000 [" in text
    assert "what the users took from 2026-03-02T00:00:00+00:00 to 2026-03-22T00:00:00+00:00, data f." in text
    assert "may be chance" not in text
    assert "# Why this shop is small." in text
    assert "# small" in text


def test_a_gain_that_other_users_do_not_confirm_is_not_proposed(spark: SparkSession, worth: Any) -> None:
    settings = worth(lambda chosen: ([0.2], [0.2]) if chosen.als.rank == 4 else ([0.9], [0.1]))
    stale = Path(f"{settings.paths.root}/pipeline.proposed.toml")
    stale.write_text("an earlier one")
    result = tune_recommender(spark, settings=settings, settings_path=path_of(settings), minutes=30, trials=2)

    assert result["proposal"] is None
    assert result["outcome"].startswith(
        "nothing better found in 2 trials; the best trial does not hold: NDCG@10 0.1000"
    )
    assert not stale.exists()


def test_where_nothing_is_better_than_the_settings_in_use_that_is_said(spark: SparkSession, worth: Any) -> None:
    settings = worth(lambda _chosen: ([0.2], [0.2]))
    result = tune_recommender(spark, settings=settings, settings_path=path_of(settings), minutes=30, trials=2)

    assert result["proposal"] is None
    assert result["outcome"] == "nothing better found in 2 trials; the settings in use are the best"


def test_after_the_budget_no_trial_begins_but_the_settings_in_use_are_tried(spark: SparkSession, worth: Any) -> None:
    settings = worth(lambda _chosen: ([0.2], [0.2]))
    result = tune_recommender(spark, settings=settings, settings_path=path_of(settings), minutes=1e-6, trials=100)

    assert len(table(result)) == 1


def test_a_trial_that_fails_is_written_down_and_the_next_one_begins(spark: SparkSession, worth: Any) -> None:
    def of(chosen: Settings) -> tuple[list[float], list[float]]:
        tried.append(chosen)
        if len(tried) == 2:
            raise RankerError("one class")
        return [0.2], [0.2]

    tried: list[Settings] = []
    settings = worth(of)
    result = tune_recommender(spark, settings=settings, settings_path=path_of(settings), minutes=30, trials=3)

    assert [(row["state"], row["error"]) for row in table(result)] == [
        ("complete", ""),
        ("fail", "RankerError: one class"),
        ("complete", ""),
    ]
    assert (result["trials"], result["failed"]) == (2, 1)


def test_settings_in_use_that_cannot_be_tried_end_the_search(spark: SparkSession, worth: Any) -> None:
    def of(_chosen: Settings) -> tuple[list[float], list[float]]:
        raise RankerError("one class")

    settings = worth(of)
    with pytest.raises(TuningError, match="the settings in use cannot be tried on the target window: one class"):
        tune_recommender(spark, settings=settings, settings_path=path_of(settings), minutes=30, trials=3)


def test_without_etl_the_search_says_what_to_run(spark: SparkSession, settings: Settings, tmp_path: Path) -> None:
    empty = replace(settings, paths=PathSettings(root=str(tmp_path)))
    with pytest.raises(TuningError, match="run etl_train_test_pipeline first"):
        tune_recommender(spark, settings=empty, settings_path=path_of(settings), minutes=30, trials=3)
