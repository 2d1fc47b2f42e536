"""The feature store on a real server: one pointer, expiry, memory, and a server that is lost in the middle."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
from redis.exceptions import NoPermissionError

from shortlist.columns import CATEGORY_SHARES, USER
from shortlist.errors import FeatureMemoryError, FeatureStoreError
from shortlist.recommender.feature_rows import USER_PROFILE
from shortlist.stores import feature_store
from shortlist.stores.feature_store import FeatureStore, store_from_env

if TYPE_CHECKING:
    from tests.redis_server import RedisServer

ABOUT: dict[str, str | int] = {"as_of": "2026-03-11T00:00:00+00:00", "users": 2, "items": 0}
MIB = 1024**2


def rows(**counts: float) -> pa.RecordBatch:
    return batch({USER: list(counts), "user_count": pa.array(counts.values(), pa.float32())})


def batch(columns: dict[str, Any]) -> pa.RecordBatch:
    return pa.record_batch(columns)


def publish(store: FeatureStore, version: str, **counts: float) -> None:
    attempt = store.begin(version, ttl_days=1)
    store.put(attempt, "user", rows(**counts))
    store.publish(attempt, ABOUT)


@pytest.fixture
def store(redis: RedisServer) -> FeatureStore:
    return FeatureStore(redis.url)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_store, "_TRIES_AGAIN", 0)


def test_what_was_published_is_read_by_id_and_the_unknown_is_left_out(store: FeatureStore) -> None:
    publish(store, "v1", ann=3.0, bob=0.1)

    assert store.read("user", ["bob", "nobody", "ann"]) == {
        "bob": {"user_count": pytest.approx(0.1)},
        "ann": {"user_count": 3.0},
    }
    assert store.read("item", ["ann"]) == {}
    assert store.about("v1") == {"as_of": ABOUT["as_of"], "users": "2", "items": "0"}


def test_before_the_first_version_nothing_is_known(store: FeatureStore) -> None:
    assert store.served() is None
    assert store.read("user", ["ann"]) == {}


def test_float32_values_come_back_exactly_and_nulls_are_left_out(store: FeatureStore) -> None:
    values = np.array([1 / 3, 1e-30, 16777217.0], np.float32)
    named = {f"f{number}": [value] for number, value in enumerate(values)}
    attempt = store.begin("v1", ttl_days=1)
    store.put(attempt, "user", batch({USER: ["ann"], **named, "null": pa.array([None], pa.float32())}))

    found = store.read("user", ["ann"], version="v1")["ann"]

    assert list(found) == ["f0", "f1", "f2"]
    np.testing.assert_array_equal(np.array(list(found.values()), np.float32), values)


def test_readers_see_the_old_version_until_the_pointer_moves(store: FeatureStore) -> None:
    publish(store, "v1", ann=1.0)
    attempt = store.begin("v2", ttl_days=1)
    store.put(attempt, "user", rows(ann=2.0))

    assert store.read("user", ["ann"]) == {"ann": {"user_count": 1.0}}
    store.publish(attempt, ABOUT)
    assert store.read("user", ["ann"]) == {"ann": {"user_count": 2.0}}


def test_a_reader_of_the_version_before_still_finds_it_until_the_next_is_begun(store: FeatureStore) -> None:
    publish(store, "v1", ann=1.0)
    version = store.served()
    publish(store, "v2", ann=2.0)

    assert store.read("user", ["ann"], version=version) == {"ann": {"user_count": 1.0}}
    store.begin("v3", ttl_days=1)
    assert store.read("user", ["ann"], version=version) == {}


def test_beginning_removes_what_earlier_attempts_left_and_keeps_what_is_served(
    store: FeatureStore, redis: RedisServer
) -> None:
    publish(store, "v1", ann=1.0)
    store.put(store.begin("v2-1", ttl_days=1), "user", rows(ann=2.0))
    redis.admin.set("not-ours", "1")

    store.begin("v2-2", ttl_days=1)

    assert sorted(redis.admin.keys()) == [
        "features:served",
        "features:v1:about",
        "features:v1:user:ann",
        "features:writing",
        "not-ours",
    ]


def test_more_keys_than_one_round_removes_are_removed_too(
    store: FeatureStore, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_store, "_KEYS_PER_SCAN", 3)
    store.put(store.begin("v1", ttl_days=1), "user", rows(**{f"u{number}": 1.0 for number in range(10)}))

    store.begin("v2", ttl_days=1)

    assert redis.admin.keys() == ["features:writing"]


def test_every_key_of_a_version_expires_in_the_same_second_as_the_pointer(
    store: FeatureStore, redis: RedisServer
) -> None:
    publish(store, "v1", ann=1.0, bob=2.0)

    keys = redis.admin.keys()
    assert len(keys) == 4
    (moment,) = {redis.admin.expiretime(key) for key in keys}
    assert moment == pytest.approx(time.time() + 86_400, abs=60)


def test_expired_features_are_no_features(store: FeatureStore, redis: RedisServer) -> None:
    """Fault 47: Redis holding expired features."""
    publish(store, "v1", ann=1.0)
    for key in redis.admin.keys():
        redis.admin.pexpire(key, 1)
    time.sleep(0.05)

    assert store.served() is None
    assert store.read("user", ["ann"]) == {}


def test_an_attempt_that_another_one_followed_cannot_publish(store: FeatureStore) -> None:
    publish(store, "v1", ann=1.0)
    older = store.begin("v2-1", ttl_days=1)
    store.put(older, "user", rows(ann=2.0))
    newer = store.begin("v2-2", ttl_days=1)

    with pytest.raises(FeatureStoreError, match="v2-1 .* another attempt has begun since"):
        store.publish(older, ABOUT)
    assert store.served() == "v1"
    store.put(newer, "user", rows(ann=3.0))
    store.publish(newer, ABOUT)
    assert store.read("user", ["ann"]) == {"ann": {"user_count": 3.0}}


def test_the_name_of_the_served_version_is_not_used_again(store: FeatureStore) -> None:
    publish(store, "v1", ann=1.0)

    with pytest.raises(FeatureStoreError, match="v1 are served already"):
        store.begin("v1", ttl_days=1)
    assert store.read("user", ["ann"]) == {"ann": {"user_count": 1.0}}


def test_a_server_that_was_flushed_in_the_middle_gets_no_half_version(store: FeatureStore, redis: RedisServer) -> None:
    """Fault 47: Redis flushed."""
    attempt = store.begin("v1", ttl_days=1)
    store.put(attempt, "user", rows(ann=1.0))
    redis.admin.flushall()
    store.put(attempt, "user", rows(bob=2.0))

    with pytest.raises(FeatureStoreError, match="its keys were removed"):
        store.publish(attempt, ABOUT)
    assert store.served() is None
    publish(store, "v2", ann=1.0, bob=2.0)
    assert len(store.read("user", ["ann", "bob"])) == 2


def test_a_server_that_was_restarted_in_the_middle_gets_no_half_version(
    store: FeatureStore, redis: RedisServer
) -> None:
    """Fault 47: Redis restarted. What it kept may lack the last second before the crash."""
    attempt = store.begin("v1", ttl_days=1)
    store.put(attempt, "user", rows(ann=1.0))
    redis.restart()
    store.put(attempt, "user", rows(bob=2.0))

    with pytest.raises(FeatureStoreError, match="Redis was restarted in the meantime"):
        store.publish(attempt, ABOUT)
    assert store.served() is None


@pytest.mark.usefixtures("impatient")
def test_a_server_that_is_gone_is_an_error_with_its_place_and_a_retry_completes(
    store: FeatureStore, redis: RedisServer
) -> None:
    attempt = store.begin("v1", ttl_days=1)
    redis.kill()

    with pytest.raises(FeatureStoreError, match=rf"Redis at 127.0.0.1:{redis.port}/2 is not usable"):
        store.put(attempt, "user", rows(ann=1.0))
    redis.start()
    publish(store, "v2", ann=1.0)
    assert store.read("user", ["ann"]) == {"ann": {"user_count": 1.0}}


def test_what_is_served_survives_a_restart(store: FeatureStore, redis: RedisServer) -> None:
    publish(store, "v1", ann=1.0)
    redis.restart()

    assert store.read("user", ["ann"]) == {"ann": {"user_count": 1.0}}


def test_a_short_absence_is_waited_for(store: FeatureStore, redis: RedisServer) -> None:
    store.ping()
    redis.restart()

    store.ping()


def test_features_that_do_not_fit_are_refused_and_leave_nothing(store: FeatureStore, redis: RedisServer) -> None:
    """Fault 47: Redis at maxmemory."""
    publish(store, "v1", ann=1.0)
    redis.admin.config_set("maxmemory", str(redis.admin.info("memory")["used_memory"] + MIB))
    attempt = store.begin("v2", ttl_days=1)
    store.bytes_each(attempt, "user", rows(ann=2.0))

    with pytest.raises(FeatureMemoryError, match=r"the features need 5.2 MB and Redis at 127.* raise maxmemory"):
        store.check_memory(attempt, 5.2e6)
    assert [key for key in redis.admin.keys() if ":v2:" in key] == []
    assert store.read("user", ["ann"]) == {"ann": {"user_count": 1.0}}


def test_without_a_limit_the_memory_of_the_machine_is_the_limit(store: FeatureStore) -> None:
    attempt = store.begin("v1", ttl_days=1)
    store.check_memory(attempt, 10 * MIB)

    with pytest.raises(FeatureMemoryError):
        store.check_memory(attempt, 1e15)


@pytest.mark.usefixtures("impatient")
def test_a_server_that_is_full_in_the_middle_is_an_error_and_what_was_served_stays(
    store: FeatureStore, redis: RedisServer
) -> None:
    publish(store, "v1", ann=1.0)
    attempt = store.begin("v2", ttl_days=1)
    redis.admin.config_set("maxmemory", "1")

    with pytest.raises(FeatureStoreError, match="used memory > 'maxmemory'"):
        store.put(attempt, "user", rows(ann=2.0))
    assert store.read("user", ["ann"]) == {"ann": {"user_count": 1.0}}


def test_a_version_of_which_keys_were_evicted_is_not_published(store: FeatureStore, redis: RedisServer) -> None:
    attempt = store.begin("v1", ttl_days=1)
    redis.admin.config_set("maxmemory-policy", "volatile-lru")
    store.put(attempt, "user", rows(**{f"u{number}": 1.0 for number in range(2000)}))
    redis.admin.config_set("maxmemory", str(redis.admin.info("memory")["used_memory"] - 100_000))
    redis.admin.set("features:writing", "v1", ex=86_400)

    with pytest.raises(FeatureStoreError, match="Redis has evicted keys"):
        store.publish(attempt, ABOUT)


def profile(number: int) -> dict[str, object]:
    values = {name: 1234.5678 + number / 7 for name in USER_PROFILE}
    shares = [(f"Home & Garden / Lighting {share}", 0.123456) for share in range(5)]
    return {USER: f"customer-{number:010}", **values, CATEGORY_SHARES: shares}


def profiles(count: int) -> pa.RecordBatch:
    floats = [(name, pa.float32()) for name in USER_PROFILE]
    fields: list[Any] = [(USER, pa.string()), *floats, (CATEGORY_SHARES, pa.map_(pa.string(), pa.float32()))]
    return pa.RecordBatch.from_pylist([profile(number) for number in range(count)], pa.schema(fields))


def test_a_user_with_all_features_takes_at_most_a_kilobyte(store: FeatureStore, redis: RedisServer) -> None:
    attempt = store.begin("20261121T135010-1", ttl_days=1)
    store.put(attempt, "user", profiles(1))

    key = "features:20261121T135010-1:user:customer-0000000000"
    assert redis.admin.hlen(key) == len(USER_PROFILE) + 5
    assert redis.admin.object("encoding", key) == "listpack"
    assert redis.admin.memory_usage(key, samples=0) <= 1024


def test_a_share_of_a_category_with_an_endless_name_is_left_out(store: FeatureStore, redis: RedisServer) -> None:
    shares = pa.array([[("Lamps", 0.75), ("x" * 60, 0.25)]], pa.map_(pa.string(), pa.float32()))
    attempt = store.begin("v1", ttl_days=1)
    store.put(attempt, "user", batch({USER: ["ann"], CATEGORY_SHARES: shares}))

    assert redis.admin.hgetall("features:v1:user:ann") == {"share:Lamps": "0.75"}


def test_the_predicted_memory_is_what_redis_takes(store: FeatureStore, redis: RedisServer) -> None:
    count, users = 20_000, profiles(20_000)
    attempt = store.begin("20261121T135010-1", ttl_days=1)
    predicted = count * store.bytes_each(attempt, "user", users.slice(0, 1000))
    before = redis.admin.info("memory")["used_memory"]

    for start in range(1000, count, 1000):
        store.put(attempt, "user", users.slice(start, 1000))

    taken = redis.admin.info("memory")["used_memory"] - before
    assert predicted * (count - 1000) / count == pytest.approx(taken, rel=0.1)


@pytest.mark.parametrize(
    "url",
    ["", "localhost:6379", "http://:secret@localhost", "redis://", "redis://:se/cret@host:6379", "redis://u:p@h:x"],
)
def test_an_unusable_url_is_refused_without_being_shown(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("FEATURES_REDIS_URL", url)

    with pytest.raises(FeatureStoreError, match="FEATURES_REDIS_URL") as refused:
        store_from_env()
    assert "cret" not in str(refused.value)


def test_the_password_shows_in_no_repr_and_no_error(redis: RedisServer) -> None:
    password = redis.url.split(":")[2].split("@")[0]
    wrong = FeatureStore(redis.url.replace(password, f"{password}-not"))

    with pytest.raises(FeatureStoreError, match="is not usable") as refused:
        wrong.ping()
    assert password not in str(refused.value) + repr(refused.value.__context__) + repr(wrong)


def test_what_opens_the_features_opens_nothing_else(store: FeatureStore, redis: RedisServer) -> None:
    redis.admin.set("celery", "queue")

    for forbidden in ("GET celery", "SET celery mine", "FLUSHALL", "CONFIG GET requirepass", "KEYS *", "ACL LIST"):
        with pytest.raises(NoPermissionError):
            store._client.execute_command(*forbidden.split())
