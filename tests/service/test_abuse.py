"""What people who mean no good send: the service refuses in one sentence, keeps its tables and goes on."""

from __future__ import annotations

import http.client
import json
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from shortlist.stores.service_tables import ensure_service_schema
from tests.conftest import empty_database
from tests.running_service import KEY, RunningService
from tests.service.small_app import allow_many_connections
from tests.shop import Shop
from tests.shop_for_service import SETTINGS, publish_all

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from embedded.postgres import EmbeddedPostgres
    from tests.redis_server import RedisServer

SQL = "'; DROP TABLE internal.personal_recs; --"
JSON = {"Content-Type": "application/json", "X-API-Key": KEY}
LIST = "/v1/recommendations/ann"

READS = {
    f"{LIST}?k=0": 422,
    f"{LIST}?k=-1": 422,
    f"{LIST}?k=101": 422,
    f"{LIST}?k={10**30}": 422,
    f"{LIST}?k={'9' * 5000}": 422,
    f"{LIST}?k=NaN": 422,
    f"{LIST}?k=1e1": 422,
    f"{LIST}?k=": 422,
    f"{LIST}?k=1%00": 422,
    f"{LIST}?k=100": 200,
    f"{LIST}?category=%00": 422,
    f"{LIST}?category={quote(SQL)}": 200,
    f"{LIST}?{'&'.join(['exclude=x'] * 1000)}": 200,
    f"{LIST}?{'&'.join(['exclude=x'] * 1001)}": 422,
    f"{LIST}?max_per_category=0": 422,
    f"{LIST}?max_per_category=-1": 422,
    f"{LIST}?available_only=perhaps": 422,
    f"{LIST}?%FF=%FE&unknown=1": 200,
    f"/v1/recommendations/{quote(SQL)}": 200,
    f"/v1/recommendations/{quote('Łukasz 🛒 ‮‏ٱلْعَرَبِيَّة')}": 200,
    f"/v1/recommendations/{'u' * 600}": 200,
    f"/v1/recommendations/{'u' * 601}": 422,
    "/v1/recommendations/a%00b": 422,
    "/v1/recommendations/a%0Ab": 404,
    "/v1/recommendations/a%1Fb": 422,
    "/v1/recommendations/%FF%FE": 200,
    "/v1/recommendations/%ED%A0%80": 200,
    "/v1/recommendations/..%2F..%2Fetc%2Fpasswd": 200,
    "/v1/recommendations/%25s%25n%7B0%7D": 200,
    f"/v1/items/{quote(SQL)}/similar": 404,
    "/v1/items/mug%00/similar": 422,
    "/v1/items?q=": 422,
    "/v1/items?q=%00": 200,
    f"/v1/items?q={quote(SQL)}": 200,
    f"/v1/items?q={quote('!!! & | <-> :* ( ) %_ ' + chr(92))}": 200,
    f"/v1/items?q={'a' * 200}": 200,
    f"/v1/items?q={'a' * 201}": 422,
    "/v1/items?q=mug&limit=0": 422,
    "/v1/items?q=mug&limit=101": 422,
    "/v1/users?q=%25": 200,
    f"/v1/users?q={quote(SQL)}": 200,
    "/v1/users?q=%F4%8F%BF%BF": 200,
    f"/v1/users/{quote(SQL)}": 200,
    "/v1/users/ann?limit=1001": 422,
    f"/v1/explain/{quote(SQL)}/{quote(SQL)}": 404,
    "/v1/explain/ann/%00": 422,
    "/v2/anything": 404,
    "/reports/..%2F..%2Fetc/passwd": 404,
    "/reports/%2e%2e/pipeline.toml": 404,
    "/reports/x/..%2F..%2Fpipeline.toml": 404,
    "/reports/x%00/index.html": 404,
    f"/reports/{'x' * 5000}/index.html": 404,
    "/page/%2e%2e/app.py": 404,
    "/page/..%2Fapp.py": 404,
    "/page/x%00": 404,
    "/docs": 404,
}


@pytest.fixture(scope="module")
def shop(postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """One for all: whatever is asked here must leave it as it is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECS_DATABASE_URL", postgres.url)
        made = Shop(empty_database(postgres), tmp_path_factory.mktemp("shop"))
        ensure_service_schema(made.database)
        publish_all(made)
        yield made


@pytest.fixture(scope="module")
def service(shop: Shop, redis_server: RedisServer) -> Iterator[RunningService]:
    redis_server.reset()
    with RunningService(
        shop.folder, database_url=shop.database.url, redis_url=redis_server.service_url, settings=SETTINGS
    ) as running:
        yield running


def event(**changes: object) -> bytes:
    return json.dumps({"events": [{"user_id": "ann", "item_id": "pin", **changes}]}).encode()


BODIES: dict[str, tuple[bytes, int]] = {
    "nothing": (b"", 422),
    "no JSON": (b"{", 422),
    "no object": (b"[]", 422),
    "no text": (b"\xff\xfe\x00", 400),
    "deep": (b"[" * 200_000, 400),
    "deep and complete": (b'{"events":' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400),
    "a long number": (b'{"events":[{"user_id":"a","item_id":"b","generation":' + b"9" * 5000 + b"}]}", 400),
    "no events": (b'{"events":[]}', 422),
    "too many events": (json.dumps({"events": [{"user_id": "a", "item_id": "b"}] * 1001}).encode(), 413),
    "more than a megabyte": (b" " * 1_000_001, 413),
    "10 MB": (b" " * 10_000_000, 413),
    "NaN": (event(weight=float("nan")), 422),
    "infinity": (b'{"events":[{"user_id":"a","item_id":"b","weight":1e999}]}', 422),
    "too heavy": (event(weight=1e7), 422),
    "generation 0": (event(generation=0), 422),
    "generation beyond the column": (event(generation=2**31), 422),
    "another kind": (event(kind="purchase"), 422),
    "NUL in an id": (event(user_id="a\0"), 422),
    "half a character in an id": (b'{"events":[{"user_id":"\\ud800","item_id":"b"}]}', 422),
    "half a character in a key": (b'{"events":[{"user_id":"a","item_id":"b","key":"\\udfff"}]}', 422),
    "half a character as a name": (b'{"events":[{"user_id":"a","item_id":"b","\\ud800":1}]}', 422),
    "half a character as the kind": (b'{"events":[{"user_id":"a","item_id":"b","kind":"\\ud800"}]}', 422),
    "half a character as the time": (b'{"events":[{"user_id":"a","item_id":"b","time":"\\ud800"}]}', 422),
    "a field too many": (event(admin=True), 422),
    "a long id": (event(user_id="ü" * 601), 422),
    "a time without a zone": (event(time="2026-01-01T00:00:00"), 422),
    "a time of tomorrow's tomorrow": (event(time="9999-12-31T23:59:59-14:00"), 422),
    "a time before time": (event(time="0001-01-01T00:00:00+14:00"), 422),
    "a time that is a huge number": (event(time=10**18), 422),
}


def asked(
    service: RunningService, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
) -> tuple[int, bytes, dict[str, str]]:
    """Ask as given, with nothing put right on the way."""
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=10)
    try:
        connection.request(method, path, body=body, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read(), {name.lower(): value for name, value in answer.getheaders()}
    finally:
        connection.close()


def in_one_sentence(body: bytes) -> bool:
    detail = json.loads(body)["detail"]
    return isinstance(detail, str) and 0 < len(detail) < 500 and "\n" not in detail


def kept(shop: Shop) -> list[tuple[int, int]]:
    """How many events, and how many users to be forgotten."""
    return shop.read("SELECT (SELECT count(*) FROM service.events), (SELECT count(*) FROM service.forgotten)")


def still_well(service: RunningService) -> None:
    assert service.recommended("ann") == ["pot", "tea", "bag"]
    log = service.log.read_text(encoding="utf-8")
    assert len(log.splitlines()) == 1, log


def test_odd_reads_are_answered_or_refused_in_one_sentence(service: RunningService) -> None:
    seen = {path: asked(service, "GET", path) for path in READS}
    assert {path: status for path, (status, _, _) in seen.items()} == READS
    assert [path for path, (status, body, _) in seen.items() if status != 200 and not in_one_sentence(body)] == []
    assert [path for path, (_, body, _) in seen.items() if b"root:" in body or b"[service]" in body] == []
    assert json.loads(seen[f"/v1/users?q={quote(SQL)}"][1]) == {"users": []}
    assert json.loads(seen["/v1/users?q=%25"][1]) == {"users": []}
    still_well(service)


def test_odd_bodies_are_refused_in_one_sentence_and_keep_nothing(service: RunningService, shop: Shop) -> None:
    before = kept(shop)
    seen = {name: asked(service, "POST", "/v1/events", body, JSON) for name, (body, _) in BODIES.items()}
    assert {name: status for name, (status, _, _) in seen.items()} == {name: code for name, (_, code) in BODIES.items()}
    assert [name for name, (_, body, _) in seen.items() if not in_one_sentence(body)] == []
    assert kept(shop) == before
    still_well(service)


def test_a_body_without_a_length_is_stopped_at_the_limit(service: RunningService) -> None:
    def endless() -> Iterable[bytes]:
        for _ in range(160):
            yield b" " * 65_536

    status, body, _ = asked(service, "POST", "/v1/events", endless(), JSON)
    assert (status, json.loads(body)) == (
        413,
        {"detail": "The request's body is larger than 1000000 bytes: send it in several requests."},
    )
    still_well(service)


def test_sql_in_events_is_only_text(service: RunningService, shop: Shop) -> None:
    body = event(user_id=SQL, item_id=SQL, key=SQL)
    assert asked(service, "POST", "/v1/events", body, JSON)[0] == 200
    of_user = "SELECT user_id, item_id, key FROM service.events WHERE user_id = %s"
    assert shop.read(of_user, [SQL]) == [(SQL, SQL, SQL)]
    assert asked(service, "DELETE", f"/v1/users/{quote(SQL)}", headers=JSON)[0] == 200
    assert shop.read(of_user, [SQL]) == []
    still_well(service)


def test_methods_that_are_not_offered_are_refused(service: RunningService) -> None:
    methods = ("HEAD", "OPTIONS", "PUT", "PATCH", "DELETE", "TRACE", "POST")
    assert {method: asked(service, method, "/v1/popular")[0] for method in methods} == dict.fromkeys(methods, 405)
    assert asked(service, "OPTIONS", "/v1/events")[2]["allow"] == "POST"
    assert asked(service, "BREW", "/v1/popular")[0] == 400
    assert asked(service, "HEAD", "/")[0] in (200, 405)
    still_well(service)


def test_a_flood_of_headers_is_refused(service: RunningService) -> None:
    status, body, _ = asked(service, "GET", "/v1/popular", headers={f"X-{number}": "x" for number in range(1000)})
    assert status == 431
    assert in_one_sentence(body)
    status, body, _ = asked(service, "GET", "/v1/popular", headers={"Cookie": "x" * 60_000})
    assert status == 200
    still_well(service)


def test_a_wrong_key_changes_nothing(service: RunningService, shop: Shop) -> None:
    before = kept(shop)
    changes = [("POST", "/v1/events", event()), ("DELETE", "/v1/users/ann", None), ("POST", "/v1/admin/refresh", None)]
    for key in (None, "", "wrong", KEY[:-1], f"{KEY}x", KEY.upper(), "k" * 50_000):
        headers = {"Content-Type": "application/json"} | ({} if key is None else {"X-API-Key": key})
        for method, path, body in changes:
            status, answer, _ = asked(service, method, path, body, headers)
            assert (status, json.loads(answer)) == (401, {"detail": "The key in X-API-Key is missing or wrong."})
    assert kept(shop) == before
    still_well(service)


def test_who_writes_too_often_has_to_wait_and_others_may_read(shop: Shop, tmp_path: Path) -> None:
    settings = SETTINGS.replace("writes_a_minute = 6000", "writes_a_minute = 3")
    with RunningService(tmp_path, database_url=shop.database.url, settings=settings) as service:
        keys = ["wrong", KEY, KEY, KEY, "wrong"]
        answers = [asked(service, "POST", "/v1/events", event(), {**JSON, "X-API-Key": key}) for key in keys]
        assert [status for status, _, _ in answers] == [401, 200, 200, 429, 429]
        assert answers[3][2]["retry-after"] == "20"
        assert in_one_sentence(answers[3][1])
        assert service.get(f"{LIST}?k=1")["items"][0]["item_id"] == "pot"


def test_a_thousand_slow_clients_do_not_keep_others_waiting(service: RunningService) -> None:
    allow_many_connections()
    beginnings = (
        b"",
        b"GET /v1/popular HTTP/1.1\r\nX-Slow: ",
        b"POST /v1/events HTTP/1.1\r\nContent-Length: 900000\r\n\r\n" + b"x" * 1000,
    )
    slow = [_connected(service, beginnings[number % 3]) for number in range(1000)]
    try:
        for _ in range(10):
            started = time.monotonic()
            still_well(service)
            assert time.monotonic() - started < 5
    finally:
        for connection in slow:
            connection.close()
    still_well(service)


def _connected(service: RunningService, beginning: bytes) -> socket.socket:
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=10)
    connection.connect()
    connection.sock.sendall(beginning)
    return connection.sock
