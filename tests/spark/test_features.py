"""Features of users and items on real Spark and a real Redis. `test_training.py` holds them against the ranker's."""

from __future__ import annotations

import logging
import threading
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from shortlist.errors import FeatureMemoryError, FeatureStoreError, RejectedRowsError
from shortlist.recommender.feature_rows import ITEM_PROFILE, USER_PROFILE
from shortlist.settings import FeatureStoreSettings
from shortlist.stores import feature_store
from shortlist.stores.feature_store import FeatureStore
from steps.features import check_redis, process_and_save_features
from tests.etl_runs import AS_OF, COLUMNS, HEADER, settings_for

if TYPE_CHECKING:
    from pathlib import Path

    from pyspark.sql import SparkSession

    from shortlist.settings import Settings
    from tests.redis_server import RedisServer


@pytest.fixture
def store(spark_redis: RedisServer) -> FeatureStore:
    return FeatureStore(spark_redis.url)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A shop of five users and four items in March 2026, with a duplicate and things given back."""
    lines = [
        f"u{day % 5},i{day * 3 % 4},2026-03-{day + 1:02} {day % 24:02}:00:00,{-1 if day == 17 else day % 3 + 0.5}\n"
        for day in range(30)
    ]
    file = tmp_path / "shop.csv"
    file.write_text(HEADER + "".join([*lines, lines[3]]))
    return settings_for(tmp_path, file, min_weight=-5.0, max_weight=5.0)


def save(spark: SparkSession, settings: Settings, version: str = "v1", *, save_to_db: bool = True) -> dict[str, Any]:
    return process_and_save_features(
        spark, settings=settings, as_of=AS_OF, input_path=settings.input.path, save_to_db=save_to_db, version=version
    )


def test_the_input_is_validated_and_counted_as_in_the_etl(
    spark: SparkSession, settings: Settings, store: FeatureStore
) -> None:
    report = save(spark, settings)

    assert report.pop("predicted_megabytes") > 0
    assert report == {
        "read": 31,
        "accepted": 30,
        "rejected": {"duplicate": 1},
        "users": 5,
        "items": 4,
        "features_as_of": "2026-03-30T05:00:01+00:00",
        "version": "v1",
    }
    assert store.served() == "v1"
    assert store.about("v1") == {"as_of": report["features_as_of"], "users": "5", "items": "4"}
    assert len(store.read("user", [f"u{number}" for number in range(6)])) == 5


def test_the_other_features_are_sums_spreads_and_shares_of_the_same_events(
    spark: SparkSession, tmp_path: Path, store: FeatureStore
) -> None:
    file = tmp_path / "shop.csv"
    file.write_text(
        HEADER.replace("amount", "amount,category")
        + "ann,1,2026-01-01 00:00:00,1,books\n"
        + "ann,2,2026-03-01 00:00:00,4,lamps\n"
        + "ann,2,2026-03-11 00:00:00,2,lamps\n"
        + "bob,3,2026-03-09 00:00:00,5,\n"
    )
    settings = settings_for(tmp_path, file, columns=replace(COLUMNS, category="category"))

    save(spark, settings)

    users = store.read("user", ["ann", "bob"])
    assert users["ann"].keys() == {*USER_PROFILE, "share:books", "share:lamps"}
    assert {name: users["ann"][f"user_{name}"] for name in ("weight_7d", "weight_30d", "weight_90d", "weight")} == {
        "weight_7d": 2, "weight_30d": 6, "weight_90d": 7, "weight": 7,
    }  # fmt: skip
    assert (users["ann"]["user_min_weight"], users["ann"]["user_max_weight"]) == (1, 4)
    assert users["ann"]["user_std_weight"] == pytest.approx(np.std([1, 4, 2]))
    # The newest item of the history counts 1, the one before it 2 ** (-1 / 20).
    older = 2 ** (-1 / 20)
    assert users["ann"]["share:lamps"] == pytest.approx(1 / (1 + older), rel=1e-3)
    assert users["ann"]["share:books"] == pytest.approx(older / (1 + older), rel=1e-3)
    assert users["bob"].keys() == set(USER_PROFILE)
    items = store.read("item", ["1", "2"])
    assert items["2"].keys() == set(ITEM_PROFILE)
    assert (items["2"]["item_weight"], items["2"]["item_count_7d"], items["1"]["item_weight_30d"]) == (6, 1, 0)
    assert store.about("v1") == {"as_of": "2026-03-11T00:00:01+00:00", "users": "2", "items": "3"}


def test_only_the_largest_shares_are_kept(spark: SparkSession, tmp_path: Path, store: FeatureStore) -> None:
    file = tmp_path / "shop.csv"
    rows = "".join(f"ann,{number},2026-03-0{number} 00:00:00,1,c{number}\n" for number in range(1, 7))
    file.write_text(HEADER.replace("amount", "amount,category") + rows)
    settings = settings_for(tmp_path, file, columns=replace(COLUMNS, category="category"))

    save(spark, replace(settings, features=FeatureStoreSettings(category_shares=2)))

    shares = [name for name in store.read("user", ["ann"])["ann"] if name.startswith("share:")]
    assert shares == ["share:c6", "share:c5"]


def test_without_saving_some_features_are_shown_and_redis_is_not_asked_for(
    spark: SparkSession, settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("FEATURES_REDIS_URL", raising=False)
    caplog.set_level(logging.INFO)

    check_redis(save_to_db=False)
    report = save(spark, settings, save_to_db=False)

    assert "Redis is not needed" in caplog.text
    assert "features of some of 5 users" in caplog.text
    assert "user_recency_days" in caplog.text
    assert "item_trend" in caplog.text
    assert "version" not in report


def test_redis_is_checked_before_anything_is_computed(
    spark: SparkSession, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FEATURES_REDIS_URL", raising=False)

    with pytest.raises(FeatureStoreError, match=r"FEATURES_REDIS_URL is not set: .* save_to_db = false"):
        check_redis(save_to_db=True)
    with pytest.raises(FeatureStoreError, match="FEATURES_REDIS_URL is not set"):
        save(spark, replace(settings, input=replace(settings.input, path="nowhere.csv")))


def test_a_worker_of_spark_that_does_not_know_redis_says_so(
    spark: SparkSession, settings: Settings, redis: RedisServer
) -> None:
    with pytest.raises(FeatureStoreError, match="FEATURES_REDIS_URL is not set: give the tasks and Spark's workers"):
        save(spark, settings)
    assert FeatureStore(redis.url).served() is None


def test_memory_is_predicted_before_anything_is_refused(
    spark: SparkSession,
    settings: Settings,
    store: FeatureStore,
    redis: RedisServer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    # Room for the sample and what connections need; a tenth of the rest must stay free.
    redis.admin.config_set("maxmemory", str(redis.admin.info("memory")["used_memory"] + 50_000))

    with pytest.raises(FeatureMemoryError, match="what was served stays"):
        save(spark, settings)
    assert "0.0 MB" in caplog.text
    assert redis.admin.keys() == ["features:writing"]
    assert redis.url not in caplog.text


def test_too_many_rejected_rows_are_refused_as_in_the_etl(
    spark: SparkSession, tmp_path: Path, store: FeatureStore
) -> None:
    file = tmp_path / "shop.csv"
    file.write_text(HEADER + "ann,1,2026-01-01,1\nbob,1,yesterday,1\n")

    with pytest.raises(RejectedRowsError, match=r"50.00% of the 2 rows .* bad_time 1 .* `make validate"):
        save(spark, settings_for(tmp_path, file))
    assert store.served() is None


def test_redis_killed_while_sparks_tasks_write_leaves_the_old_version_and_a_retry_completes(
    spark: SparkSession, store: FeatureStore, redis: RedisServer
) -> None:
    """Readers ask all the time; whatever they are answered is of one version, and whole."""
    old = spark.range(0, 4000, 1, 2).selectExpr("CAST(id AS string) AS user_id", "CAST(1 AS float) AS n")
    new = spark.range(0, 4000, 1, 2).selectExpr("CAST(id AS string) AS user_id", "CAST(2 AS float) AS n")
    about: dict[str, str | int] = {"users": 4000}
    first = store.begin("v1", ttl_days=1)
    assert feature_store.write(old, first, "user", batch_size=500) == 4000
    store.publish(first, about)
    wanted = [str(number) for number in range(0, 4000, 40)]
    answers: list[frozenset[float]] = []
    ended = threading.Event()

    def read() -> None:
        reader = FeatureStore(redis.url)
        while not ended.is_set():
            with suppress(FeatureStoreError):
                found = reader.read("user", wanted)
                answers.append(frozenset(user["n"] for user in found.values()) | {float(len(found))})

    def kill_in_the_middle() -> None:
        while redis.admin.dbsize() < 4500:
            ended.wait(0.01)
        redis.kill()

    threads = [threading.Thread(target=target) for target in (read, kill_in_the_middle)]
    attempt = store.begin("v2-1", ttl_days=1)
    for thread in threads:
        thread.start()
    with pytest.raises(FeatureStoreError, match="is not usable"):
        feature_store.write(new, attempt, "user", batch_size=1)
    threads[1].join()
    redis.start()
    attempt = store.begin("v2-2", ttl_days=1)
    assert feature_store.write(new, attempt, "user", batch_size=500) == 4000
    assert store.read("user", ["7"]) == {"7": {"n": 1.0}}
    store.publish(attempt, about)
    assert store.read("user", ["7"]) == {"7": {"n": 2.0}}
    ended.set()
    threads[0].join()
    assert set(answers) <= {frozenset({1.0, 100.0}), frozenset({2.0, 100.0})}
    assert frozenset({1.0, 100.0}) in answers
