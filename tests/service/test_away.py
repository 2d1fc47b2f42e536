"""PostgreSQL or Redis is gone, hangs or was never there: lists are answered all the same, quickly, and say `stale`."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from tests.cable import Cable
from tests.running_service import KEY, RunningService
from tests.shop_for_service import SETTINGS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.redis_server import RedisServer
    from tests.shop import Shop

# Of the default settings; those of the other tests allow for a busy machine.
IMPATIENT = SETTINGS.replace("database_seconds = 5.0", "database_seconds = 0.5").replace(
    "redis_seconds = 5.0", "redis_seconds = 0.1"
)
ANN = ["pot", "tea", "bag"]
EVERYBODY = ["mug", "tea", "pot"]
# Seconds of an answer: far above what one takes, since this machine may be testing everything else at the same time,
# and far below what a caller who waits for PostgreSQL or Redis would take.
NOT_HANGING = 8.0


@pytest.fixture
def postgres_cable(shop: Shop) -> Iterator[Cable]:
    with Cable(shop.database.url) as cable:
        yield cable


@pytest.fixture
def redis_cable(redis: RedisServer) -> Iterator[Cable]:
    with Cable(redis.service_url) as cable:
        yield cable


@pytest.fixture
def service(shop: Shop, postgres_cable: Cable, redis_cable: Cable) -> Iterator[RunningService]:
    with RunningService(
        shop.folder, database_url=postgres_cable.url, redis_url=redis_cable.url, settings=IMPATIENT
    ) as running:
        yield running
        running.stop()
        assert_no_secret(running.log.read_text(encoding="utf-8"), postgres_cable, redis_cable)
        assert "Traceback" not in running.log.read_text(encoding="utf-8")


def assert_no_secret(text: str, *cables: Cable) -> None:
    assert KEY not in text
    for cable in cables:
        password = urlsplit(cable.url).password
        assert password
        assert password not in text


def listed(service: RunningService, path: str) -> tuple[bool, list[str], float]:
    """Whether it is stale, its items, and the seconds it took."""
    started = time.monotonic()
    answer = service.get(path)
    return answer["stale"], [item["item_id"] for item in answer["items"]], time.monotonic() - started


def until(service: RunningService, path: str, *, stale: bool) -> list[str]:
    deadline = time.monotonic() + 20
    while True:
        found, items, _ = listed(service, path)
        if found == stale:
            return items
        assert time.monotonic() < deadline, f"stale was never {stale}"
        time.sleep(0.05)


@contextmanager
def silent(cable: Cable) -> Iterator[None]:
    cable.silence()
    yield
    cable.mend()


@contextmanager
def cut(cable: Cable) -> Iterator[None]:
    cable.cut()
    yield
    cable.mend()


@pytest.mark.parametrize("fault", [cut, silent], ids=["gone", "hangs"])
def test_without_postgresql_lists_are_the_last_known_ones(
    service: RunningService, postgres_cable: Cable, redis_cable: Cable, fault: Any
) -> None:
    assert until(service, "/v1/recommendations/ann", stale=False) == ANN

    with fault(postgres_cable):
        assert listed(service, "/v1/recommendations/ann")[1] == ANN
        assert until(service, "/v1/recommendations/new", stale=True) == EVERYBODY
        with ThreadPoolExecutor(20) as threads:
            answers = list(threads.map(lambda number: listed(service, f"/v1/recommendations/new-{number}"), range(20)))
        assert [answer[:2] for answer in answers] == [(True, EVERYBODY)] * 20
        assert max(seconds for _, _, seconds in answers) < NOT_HANGING
        remembered = listed(service, "/v1/recommendations/ann")
        assert remembered[:2] == (True, ANN)
        assert listed(service, "/v1/popular")[:2] == (True, EVERYBODY)
        assert listed(service, "/v1/items/mug/similar")[:2] == (True, [])
        refused = {
            (method, path): service.call(method, path, body)
            for method, path, body in (
                ("GET", "/v1/items?q=mug", None),
                ("GET", "/v1/users?q=ann", None),
                ("GET", "/v1/generations", None),
                ("GET", "/v1/explain/ann/pot", None),
                ("GET", "/v1/users/bob", None),
                ("DELETE", "/v1/users/bob", None),
                ("POST", "/v1/events", {"events": [{"user_id": "bob", "item_id": "hat"}]}),
                ("POST", "/v1/admin/refresh", None),
            )
        }
        assert {request: status for request, (status, _) in refused.items()} == dict.fromkeys(refused, 503)
        for _, answer in refused.values():
            assert set(answer) == {"detail"}
            assert answer["detail"].startswith("PostgreSQL at 127.0.0.1:")
        assert service.call("GET", "/health/live")[0] == 200
        assert service.call("GET", "/health/ready") == (503, {"status": "not ready", "missing": ["postgresql"]})
        parts = {part["name"]: part["ok"] for part in service.get("/v1/parts")["parts"]}
        assert parts["postgresql"] is False
        assert parts["redis"] is True
        assert_no_secret(json.dumps([answer for _, answer in refused.values()]), postgres_cable, redis_cable)

    assert until(service, "/v1/recommendations/bob", stale=False) == ["pot", "mug", "hat"]
    assert service.call("POST", "/v1/events", {"events": [{"user_id": "bob", "item_id": "hat"}]})[0] == 200


@pytest.mark.parametrize("fault", [cut, silent], ids=["gone", "hangs"])
def test_without_redis_lists_are_not_blended_and_events_are_kept(
    service: RunningService, redis_cable: Cable, shop: Shop, fault: Any
) -> None:
    with fault(redis_cable):
        # Until it is noticed, at the latest by the next look, what was known a moment ago counts.
        assert listed(service, "/v1/recommendations/ann")[1] == ANN
        assert until(service, "/v1/recommendations/ann", stale=True) == ANN
        with ThreadPoolExecutor(20) as threads:
            answers = list(threads.map(lambda _: listed(service, "/v1/recommendations/ann"), range(20)))
        assert [answer[:2] for answer in answers] == [(True, ANN)] * 20
        assert max(seconds for _, _, seconds in answers) < NOT_HANGING
        started = time.monotonic()
        kept = service.call("POST", "/v1/events", {"events": [{"user_id": "ann", "item_id": "tea"}]})
        assert kept == (200, {"accepted": 1, "repeated": 0, "forgotten": 0})
        assert time.monotonic() - started < 5
        assert shop.read("SELECT user_id, item_id FROM service.events") == [("ann", "tea")]
        assert service.call("GET", "/health/ready")[0] == 200

    assert until(service, "/v1/recommendations/ann", stale=False) == ANN
    assert service.call("POST", "/v1/events", {"events": [{"user_id": "ann", "item_id": "tea"}]})[0] == 200
    assert until(service, "/v1/recommendations/ann?k=1", stale=False) == ["pot"]


def test_connections_that_postgresql_ends_are_opened_again(service: RunningService, shop: Shop) -> None:
    for _ in range(3):
        shop.read(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'shortlist-service'"
        )
        assert until(service, "/v1/recommendations/bob", stale=False) == ["pot", "mug", "hat"]
        assert service.get("/v1/users?q=a") == {"users": [{"user_id": "ann", "interactions": 2}]}


@pytest.mark.parametrize("fault", [cut, silent], ids=["gone", "hangs"])
def test_a_start_without_postgresql_serves_the_last_known_list_and_recovers(
    shop: Shop, redis: RedisServer, fault: Any
) -> None:
    with Cable(shop.database.url) as cable:
        service = RunningService(shop.folder, database_url=cable.url, redis_url=redis.service_url, settings=IMPATIENT)
        with service:
            assert until(service, "/v1/popular", stale=False) == EVERYBODY
        try:
            with fault(cable):
                service.start()
                stale, items, seconds = listed(service, "/v1/recommendations/ann?k=2")
                assert (stale, items) == (True, EVERYBODY[:2])
                assert seconds < NOT_HANGING
                assert service.call("GET", "/health/ready")[0] == 503
            assert until(service, "/v1/recommendations/ann", stale=False) == ANN
        finally:
            service.stop()


def test_a_first_start_without_postgresql_answers_with_empty_lists(shop: Shop, redis: RedisServer) -> None:
    with Cable(shop.database.url) as cable:
        cable.cut()
        with RunningService(
            shop.folder, database_url=cable.url, redis_url=redis.service_url, settings=IMPATIENT
        ) as service:
            answer = service.get("/v1/recommendations/ann")
            del answer["time"]
            assert answer == {
                "user_id": "ann",
                "known": False,
                "generation": None,
                "model_version": None,
                "variant": None,
                "stale": True,
                "complete": False,
                "items": [],
            }
