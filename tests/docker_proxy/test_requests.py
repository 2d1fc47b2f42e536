"""What reaches the engine, and what of its answers comes back."""

from __future__ import annotations

import json
import socket
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, quote, urlsplit

import pytest

from docker_proxy import messages, server
from docker_proxy.engine import Engine
from docker_proxy.filter import Filter
from tests.docker_proxy.conftest import FOREIGN, OWN, running

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from docker_proxy.settings import Settings
    from tests.docker_proxy.conftest import FakeEngine, Proxy

BODY = {"Image": "shop-jobs", "HostConfig": {"NetworkMode": "none"}}
CREATE = b"POST /v1.41/containers/create HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
PING = b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n"


def _own(rest: str) -> str:
    return f"/v1.41/containers/{OWN}{rest}"


REFUSED = {
    # Paths that are none.
    "http://docker/v1.41/containers/json": 403,
    "//v1.41/containers/json": 403,
    "/v1.41//containers/json": 403,
    "/v1.41/containers/json/": 403,
    "/v1.41/../v1.41/containers/json": 403,
    "/v1.41/containers/./json": 403,
    f"/v1.41/containers/{OWN}/../{FOREIGN}/json": 403,
    f"/v1.41/containers/%2e%2e/{OWN}/json": 403,
    f"/v1.41/containers/{OWN}%2fjson": 403,
    "/v1.41/containers%2Fjson": 403,
    "/V1.41/containers/json": 403,
    "/v1.41/Containers/json": 403,
    "/v1.41/containers/json#x": 403,
    "/v1.41/containers/json\\x": 403,
    "/v1.41/containers/json;x=1": 403,
    "*": 403,
    "containers/json": 403,
    # Versions.
    "/containers/json": 403,
    "/v1.40/containers/json": 403,
    "/v1.24/containers/json": 403,
    "/v1/containers/json": 403,
    "/v1.410/containers/json": 403,
    "/v2.0/containers/json": 403,
    # Parameters.
    "/v1.41/containers/json?all=1&all=0": 403,
    "/v1.41/containers/json?all=2": 403,
    "/v1.41/containers/json?all": 403,
    "/v1.41/containers/json?&": 403,
    "/v1.41/containers/json?size=1": 403,
    "/v1.41/containers/json?ALL=1": 403,
    "/v1.41/containers/json?before=x": 403,
    "/v1.41/containers/json?limit=1e3": 403,
    "/v1.41/containers/json?filters=%7B%22ancestor%22%3A%5B%22x%22%5D%7D": 403,
    "/v1.41/containers/json?filters=%5B%5D": 403,
    "/v1.41/containers/json?filters=%7B%22label%22%3A%5B1%5D%7D": 400,
    "/v1.41/containers/json?filters=%7B%22name%22%3A%22x%22%7D": 400,
    "/v1.41/containers/json?filters=%7B%22name%22%3A%5B%5D%2C%22name%22%3A%5B%5D%7D": 400,
    "/v1.41/containers/json?filters=%7Bnope": 400,
    "/v1.41/containers/json?filters=%ff%fe": 400,
    "/v1.41/images/json?digests=1": 403,
    _own("/json?size=1"): 403,
    _own("/logs?details=1"): 403,
    _own("/logs?tail=-1"): 403,
    # What is somebody else's, or not there.
    f"/v1.41/containers/{FOREIGN}/json": 403,
    "/v1.41/containers/shop-postgres-1/json": 403,
    "/v1.41/containers/shop-postgres-1/logs?stdout=1": 403,
    "/v1.41/containers/nobody/json": 404,
    "/v1.41/images/postgres:17/json": 403,
    "/v1.41/images/shop-jobs@sha256:1/json": 403,
    # Everything else that an engine can do.
    **dict.fromkeys(
        (
            "/v1.41/info", "/info", "/v1.41/events", "/v1.41/system/df", "/v1.41/volumes", "/v1.41/networks",
            "/v1.41/swarm", "/v1.41/secrets", "/v1.41/configs", "/v1.41/plugins", "/v1.41/nodes", "/v1.41/services",
            "/v1.41/images/search?term=x", "/v1.41/images/get?names=x", "/v1.41/distribution/x/json", "/metrics",
            "/v1.41/images/shop-jobs/history", "/v1.41/images/shop-jobs/get", _own("/top"), _own("/stats"),
            _own("/changes"), _own("/export"), _own("/archive?path=/"), _own("/attach/ws"), _own(""), "/", "/v1.41/",
        ),
        403,
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    "target",
    [
        "//_ping",
        "/_ping/",
        "/./_ping",
        "/x/../_ping",
        "/%5fping",
        "/_ping#x",
        "/_ping;x",
        "http://x/_ping",
        "/_ping?a;b",
    ],
)
def test_an_address_that_is_no_plain_path_is_not_even_looked_up(proxy: Proxy, target: str) -> None:
    told = proxy.ask("GET", target)[1]

    assert told == {"message": "docker-proxy: the address is not a plain path of the engine's API"}


@pytest.mark.parametrize("target", REFUSED)
def test_what_is_in_no_table_does_not_reach_the_engine(proxy: Proxy, engine: FakeEngine, target: str) -> None:
    status, told = proxy.ask("GET", target)

    assert status == REFUSED[target]
    assert told["message"].startswith("docker-proxy: ")
    # Whose the container is has to be asked; nothing else.
    assert [asked.line for asked in engine.asked] in (
        [],
        *([f"GET /containers/{name}/json"] for name in (FOREIGN, "shop-postgres-1", "nobody")),
    )


ACTIONS = {
    **dict.fromkeys(
        (
            "POST /v1.41/build", "POST /build?remote=x", "POST /v1.41/images/load", "POST /v1.41/commit?container=x",
            "POST /v1.41/volumes/create", "POST /v1.41/networks/create", "POST /v1.41/networks/x/connect",
            "POST /v1.41/swarm/init", "POST /v1.41/plugins/pull", "POST /v1.41/auth", "POST /v1.41/session",
            "POST /grpc", "POST /v1.41/containers/prune", "POST /v1.41/images/prune", "DELETE /v1.41/images/shop-jobs",
            "POST /v1.41/images/shop-jobs/tag?repo=x", "POST /v1.41/images/shop-jobs/push",
            f"POST {_own('/exec')}", "POST /v1.41/exec/x/start", f"PUT {_own('/archive?path=/')}",
            f"HEAD {_own('/archive?path=/')}", f"POST {_own('/rename?name=x')}", f"POST {_own('/update')}",
            f"POST {_own('/restart')}", f"POST {_own('/pause')}", f"POST {_own('/unpause')}", f"POST {_own('/resize')}",
            f"GET {_own('/start')}", f"POST {_own('/json')}", f"PUT {_own('/start')}", f"DELETE {_own('/start')}",
            f"POST {_own('/start?checkpoint=x')}", f"POST {_own('/start?detachKeys=x')}",
            f"POST {_own('/attach?stdin=1')}", f"POST {_own('/attach?stdin=true&stream=1')}",
            f"POST {_own('/kill?signal=../9')}", f"POST {_own('/stop?t=-1')}", f"POST {_own('/wait?condition=x')}",
            f"DELETE {_own('?link=1')}", "POST /v1.41/containers/create?platform=x",
            "POST /v1.41/containers/create?name=/x", "POST /v1.41/containers/create?Name=x",
            "POST /v1.41/images/create?fromImage=postgres&tag=17", "POST /v1.41/images/create?fromSrc=-",
            "POST /v1.41/images/create?fromImage=shop-jobs&tag=other", "POST /v1.41/images/create?fromImage=shop-jobs",
            "TRACE /_ping", "CONNECT engine:2375", "OPTIONS /_ping", "PRI *",
        ),
        403,
    ),
    **{f"POST /v1.41/containers/shop-postgres-1/{act}": 403 for act in ("start", "stop", "kill", "attach", "wait")},
    "DELETE /v1.41/containers/shop-postgres-1?force=1": 403,
    f"DELETE /v1.41/containers/{FOREIGN}": 403,
    "POST /v1.41/containers/nobody/kill": 404,
    f"POST {_own('/attach?stream=1')}": 400,  # without an upgrade
}  # fmt: skip


@pytest.mark.parametrize("line", ACTIONS)
def test_what_is_not_allowed_changes_nothing(proxy: Proxy, engine: FakeEngine, line: str) -> None:
    method, _, target = line.partition(" ")
    answer = proxy.say(f"{method} {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode())

    assert answer.startswith(f"HTTP/1.1 {ACTIONS[line]} ".encode())
    assert (b'{"message": "' in answer) is (method != "HEAD")
    assert engine.changes == []


HEAD = b"GET /_ping HTTP/1.1\r\nHost: x\r\n"
CONTENT = json.dumps(BODY).encode()
EXEC = b"POST /containers/x/exec HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
NOT_HTTP = {
    "length and chunks": (CREATE + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + EXEC, 411),
    "chunks alone": (CREATE + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", 411),
    "chunks by another name": (CREATE + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 501),
    "chunks twice": (CREATE + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 501),
    "two lengths": (CREATE + b"Content-Length: 2\r\nContent-Length: 60\r\n\r\n{}" + EXEC, 400),
    "the same length twice": (CREATE + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}", 400),
    "two lengths in one": (CREATE + b"Content-Length: 2, 60\r\n\r\n{}", 400),
    "a length with a sign": (CREATE + b"Content-Length: +2\r\n\r\n{}", 400),
    "a negative length": (CREATE + b"Content-Length: -2\r\n\r\n{}", 400),
    "a length in hexadecimal": (CREATE + b"Content-Length: 0x2\r\n\r\n{}", 400),
    "a huge length": (CREATE + b"Content-Length: 99999999999\r\n\r\n{}", 413),
    "a length beyond all numbers": (CREATE + b"Content-Length: " + b"9" * 400 + b"\r\n\r\n{}", 400),
    "a space before the colon": (HEAD + b"Content-Length : 0\r\n\r\n", 400),
    "a folded header": (HEAD + b"X: a\r\n b\r\n\r\n", 400),
    "a line that ends with a line feed alone": (HEAD + b"X: a\nY: b\r\n\r\n", 400),
    "a carriage return within": (HEAD + b"X: a\rb\r\n\r\n", 400),
    "a NUL": (HEAD + b"X: a\0b\r\n\r\n", 400),
    "no host": (b"GET /_ping HTTP/1.1\r\n\r\n", 400),
    "two hosts": (HEAD + b"Host: y\r\n\r\n", 400),
    "HTTP/1.0": (b"GET /_ping HTTP/1.0\r\nHost: x\r\n\r\n", 505),
    "HTTP/0.9": (b"GET /_ping\r\n\r\n", 400),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "no request line": (b"\r\n\r\n", 400),
    "a space in the path": (b"GET /_ping x HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "letters beyond ASCII in the path": ("GET /_píng HTTP/1.1\r\nHost: x\r\n\r\n".encode(), 400),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    "a head that is too long": (HEAD + b"X: " + b"a" * messages.HEAD_BYTES + b"\r\n\r\n", 431),
    "a head without an end": (HEAD + b"X: " + b"a" * messages.HEAD_BYTES, 431),
    "half a head": (HEAD, 400),
    "half a body": (CREATE + b"Content-Length: 90\r\n\r\n{}", 400),
}


@pytest.mark.parametrize("name", NOT_HTTP)
def test_what_two_readers_could_read_in_two_ways_is_refused(proxy: Proxy, engine: FakeEngine, name: str) -> None:
    raw, status = NOT_HTTP[name]

    answer = proxy.say(raw, half_close=name.startswith("half"))

    assert answer.startswith(f"HTTP/1.1 {status} ".encode()), answer
    # One answer, so that nothing behind the first request was read as a second.
    assert answer.count(b"Connection: close") == 1
    assert engine.asked == []


def test_of_several_requests_at_once_only_the_first_is_read(proxy: Proxy, engine: FakeEngine) -> None:
    answer = proxy.say(PING + EXEC + PING)

    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.count(b"Connection: close\r\n") == 1
    assert [asked.line for asked in engine.asked] == ["GET /_ping"]


def test_a_connection_without_a_request_gets_no_answer(proxy: Proxy, engine: FakeEngine) -> None:
    assert proxy.say(half_close=True) == b""
    assert engine.asked == []


def test_a_slow_head_is_not_waited_for(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "HEAD_SECONDS", 0.1)

    assert proxy.say(b"GET /_ping HT").startswith(b"HTTP/1.1 408 ")


def test_a_slow_body_is_not_waited_for(proxy: Proxy, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "BODY_SECONDS", 0.1)

    assert proxy.say(CREATE + b"Content-Length: 9\r\n\r\n{").startswith(b"HTTP/1.1 400 ")
    assert engine.asked == []


def test_more_connections_than_allowed_are_turned_away(
    proxy: Proxy, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "CONNECTIONS", 2)
    with proxy.attach(), proxy.attach():
        assert proxy.ask("GET", "/_ping")[0] == 503
    _until(lambda: proxy.ask("GET", "/_ping")[0] == 200)


def test_an_engine_that_is_away_is_told_in_a_sentence(settings: Settings, tmp_path: Path) -> None:
    with running(Filter(Engine(str(tmp_path / "nobody.sock")), settings)) as proxy:
        status, told = proxy.ask("GET", "/_ping")
        assert status == 502
        assert "the container engine does not answer at" in told["message"]
        assert proxy.ask("POST", "/v1.41/containers/create", BODY)[0] == 502
        assert proxy.ask("POST", _own("/start"))[0] == 502


def test_what_is_passed_on_is_written_anew(proxy: Proxy, engine: FakeEngine) -> None:
    headers = "X-Forwarded-For: 1\r\nX-Registry-Auth: abc\r\nAuthorization: Basic x\r\nCookie: a\r\nUpgrade: h2c\r\n"
    status, _ = proxy.ask("POST", "/v1.45/containers/shop-job-a/kill?signal=SIG%54ERM", headers=headers)

    assert status == 204
    # The name is looked up once; what is acted upon is the id that was checked.
    assert [asked.line for asked in engine.asked] == [
        "GET /containers/shop-job-a/json",
        f"POST /v1.45/containers/{OWN}/kill?signal=SIGTERM",
    ]
    assert engine.asked[1].headers == {"Host": "docker", "Content-Length": "0"}


@pytest.mark.parametrize(
    ("asked", "passed_on"),
    [
        (f"POST {_own('/start')}", f"POST {_own('/start')}"),
        (f"POST {_own('/stop?t=3')}", f"POST {_own('/stop?t=3')}"),
        (f"DELETE {_own('')}", f"DELETE {_own('?v=1')}"),
        (f"DELETE {_own('?v=False&link=False&force=True')}", f"DELETE {_own('?force=1&v=1')}"),
        (f"GET {_own('/logs?stderr=1&stdout=1&tail=all')}", f"GET {_own('/logs?stderr=1&stdout=1&tail=all')}"),
        ("GET /version", "GET /version"),
        ("GET /v1.41/_ping", "GET /v1.41/_ping"),
        ("HEAD /_ping", "GET /_ping"),
        ("GET /v1.41/images/shop-jobs/json", "GET /v1.41/images/shop-jobs:latest/json"),
    ],
)
def test_what_container_jobs_need_is_let_through(proxy: Proxy, engine: FakeEngine, asked: str, passed_on: str) -> None:
    status, _ = proxy.ask(*asked.split(" "))

    assert status < 300
    assert engine.asked[-1].line == passed_on
    assert engine.asked[-1].body == b""


def test_a_start_with_a_configuration_of_its_own_is_refused(proxy: Proxy, engine: FakeEngine) -> None:
    status, told = proxy.ask("POST", _own("/start"), {"Privileged": True, "Binds": ["/:/host"]})

    assert (status, told["message"]) == (403, "docker-proxy: start has no body")
    assert engine.changes == []


def test_a_container_is_created_with_the_body_of_the_proxy(proxy: Proxy, engine: FakeEngine) -> None:
    status, told = proxy.ask("POST", "/v1.41/containers/create?name=shop-job-1", BODY)

    assert (status, told) == (201, {"Id": "3" * 64, "Warnings": []})
    assert engine.asked[-1].line == "POST /v1.41/containers/create?name=shop-job-1"
    sent = json.loads(engine.asked[-1].body)
    assert (sent["Image"], sent["HostConfig"]["CapDrop"]) == ("shop-jobs:latest", ["ALL"])


@pytest.mark.parametrize("name", ["postgres", "shop-postgres-1", "other-job-1", "shop-job-", "shop-job-A"])
def test_a_container_takes_no_name_of_a_service(proxy: Proxy, engine: FakeEngine, name: str) -> None:
    status, told = proxy.ask("POST", f"/v1.41/containers/create?name={name}", BODY)

    assert (status, told["message"]) == (403, "docker-proxy: the name of a container begins with shop-job-")
    assert engine.changes == []


def test_a_body_that_is_no_json_object_is_refused(proxy: Proxy, engine: FakeEngine) -> None:
    for body in (b"[]", b'"x"', b"{", b"{}{}", b"\xff", b"\xef\xbb\xbf{}", "{}".encode("utf-16"), b"[" * 200_000):
        status, _ = proxy.ask("POST", "/v1.41/containers/create", body)
        assert status in (400, 403), body[:20]
    head = CREATE.replace(b"application/json", b"application/x-tar") + b"Content-Length: 2\r\n\r\n{}"
    assert proxy.say(head).startswith(b"HTTP/1.1 415 ")
    assert proxy.ask("POST", "/v1.41/containers/create", b" " * (messages.BODY_BYTES + 1))[0] == 413
    assert engine.changes == []


def test_no_more_containers_than_allowed(proxy: Proxy, engine: FakeEngine) -> None:
    each = {"Names": ["/shop-job-a"], "Labels": {"shortlist.project": "shop"}}
    engine.answers["GET /containers/json"] = (200, [{**each, "Id": str(number)} for number in range(8)])

    status, told = proxy.ask("POST", "/v1.41/containers/create", BODY)

    assert (status, told["message"]) == (
        429,
        "docker-proxy: 8 containers of jobs are there already, running or ended",
    )
    assert engine.changes == []


def test_a_container_called_like_the_proxys_own_teaches_it_no_folders(proxy: Proxy, engine: FakeEngine) -> None:
    mount = {"Type": "bind", "Source": "/etc", "Destination": "/opt/airflow/plugins"}
    engine.answers[f"GET /containers/{socket.gethostname()}/json"] = (200, {"Id": OWN, "Mounts": [mount]})
    plugins = {"Type": "bind", "Source": "/opt/airflow/plugins", "Target": "/opt/airflow/plugins", "ReadOnly": True}

    status, told = proxy.ask(
        "POST", "/v1.41/containers/create", {**BODY, "HostConfig": {"NetworkMode": "none", "Mounts": [plugins]}}
    )

    assert status == 403
    assert "/opt/airflow/plugins is on the list, but not mounted into the proxy" in told["message"]
    assert engine.changes == []


def test_answers_hold_no_secrets_and_no_paths_of_the_machine(proxy: Proxy) -> None:
    shown = proxy.ask("GET", _own("/json"))[1]
    assert shown == {
        "Id": OWN,
        "Name": "/shop-job-a",
        "Image": "sha256:1",
        "State": {"Status": "running"},
        "Config": {"Labels": {"shortlist.project": "shop"}, "Tty": False},
        "HostConfig": {"Memory": 7},
    }
    assert proxy.ask("GET", "/v1.41/containers/json")[1] == [
        {"Id": OWN, "Names": ["/shop-job-a"], "Labels": {"shortlist.project": "shop"}}
    ]
    assert proxy.ask("GET", "/v1.41/images/json")[1] == [{"Id": "sha256:1", "RepoTags": ["shop-jobs:latest"]}]
    assert proxy.ask("GET", "/v1.41/images/shop-jobs/json")[1] == {"Id": "sha256:1"}
    assert proxy.ask("GET", "/version")[1] == {"ApiVersion": "1.41", "Version": "20.10"}
    assert b"X-Powered-By" not in proxy.say(PING)
    assert b"Api-Version: 1.41\r\n" in proxy.say(PING)


def test_lists_are_of_this_project_whatever_is_asked_for(proxy: Proxy, engine: FakeEngine) -> None:
    filters = {"label": {"task_id=a": True, "shortlist.project=x": False}, "name": ["shop"]}
    proxy.ask("GET", f"/v1.41/containers/json?all=1&filters={quote(json.dumps(filters))}")

    query = parse_qs(urlsplit(engine.asked[-1].target).query)
    assert json.loads(query["filters"][0]) == {"label": ["task_id=a", "shortlist.project=shop"], "name": ["shop"]}
    assert query["all"] == ["1"]


@pytest.mark.parametrize("reference", ["postgres", "shop-jobs:other", "*", "shop-*"])
def test_images_that_are_not_on_the_list_are_not_there(proxy: Proxy, reference: str) -> None:
    filters = quote(json.dumps({"reference": [reference]}))

    assert proxy.ask("GET", f"/v1.41/images/json?filters={filters}&all=0&only_ids=0") == (200, [])


def test_output_comes_as_it_is_written_and_nothing_goes_in(proxy: Proxy, engine: FakeEngine) -> None:
    with proxy.attach() as client:
        assert _exactly(client, 14) == b"\x01\0\0\0\0\0\0\x06first\n"
        client.sendall(EXEC)
        client.sendall(b"rm -rf /\n")
        engine.released.set()
        assert _exactly(client, 15) == b"\x01\0\0\0\0\0\0\x07second\n"
        assert client.recv(1) == b""
    assert [asked.line for asked in engine.asked if asked.method in ("RAW", "POST")] == [
        f"POST {_own('/attach?stdout=1&stream=1')}"
    ]
    assert engine.asked[-1].headers == {
        "Host": "docker", "Content-Length": "0", "Connection": "Upgrade", "Upgrade": "tcp",
    }  # fmt: skip


def test_a_client_that_leaves_ends_the_engines_side_too(proxy: Proxy, engine: FakeEngine) -> None:
    with proxy.attach():
        assert not engine.gone.is_set()
    assert engine.gone.wait(30)


def test_waiting_takes_as_long_as_it_takes(proxy: Proxy, engine: FakeEngine) -> None:
    threading.Timer(0.5, engine.released.set).start()
    answer = proxy.say(f"POST {_own('/wait')} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode())

    assert answer.endswith(b'10\r\n{"StatusCode":3}\r\n0\r\n\r\n')


def test_an_image_is_fetched_only_where_the_settings_say_so(
    engine: FakeEngine, settings: Settings, tmp_path: Path
) -> None:
    engine.answers["POST /v1.41/images/create"] = (200, {"status": "Pulling"})
    with running(Filter(Engine(str(tmp_path / "engine.sock")), replace(settings, pull=True))) as proxy:
        assert proxy.ask("POST", "/v1.41/images/create?fromImage=postgres&tag=17")[0] == 403
        answer = proxy.say(
            b"POST /v1.41/images/create?tag=latest&fromImage=shop-jobs HTTP/1.1\r\nHost: x\r\nX-Registry-Auth: abc\r\n"
            b"X-Registry-Config: def\r\n\r\n"
        )
    assert b'{"status": "Pulling"}' in answer
    assert [(asked.line, asked.headers.get("X-Registry-Auth")) for asked in engine.asked] == [
        ("POST /v1.41/images/create?fromImage=shop-jobs&tag=latest", "abc")
    ]


def test_what_nobody_attends_is_removed_and_what_somebody_attends_is_not(
    engine: FakeEngine, settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    removed = f"DELETE /containers/{OWN}?force=1&v=1"
    quick = replace(settings, abandoned_minutes=0.02)
    with running(Filter(Engine(str(tmp_path / "engine.sock")), quick), sweep=True) as proxy:
        with proxy.attach():
            time.sleep(3)
            assert removed not in engine.changes
        _until(lambda: removed in engine.changes)
    assert f"DELETE /containers/{FOREIGN}?force=1&v=1" not in engine.changes
    assert "removed container shop-job-a: nobody has attended it for 0.02 minutes" in caplog.text


def test_refusals_are_one_line_of_the_log_without_what_was_sent(proxy: Proxy, caplog: pytest.LogCaptureFixture) -> None:
    proxy.ask("POST", "/v1.41/containers/create", {**BODY, "Env": ["no name=secret"], "Image": "x\ny"})
    proxy.ask("POST", "/v1.41/containers/create", {**BODY, "Env": ["=secret"]})
    proxy.ask("GET", "/v1.41/volumes?filters=secret")

    lines = [record.getMessage() for record in caplog.records if record.name == "docker_proxy.server"]
    assert lines == [
        "refused 'POST /v1.41/containers/create': the image 'x\\ny' is not on the list of config/containers.toml",
        "refused 'POST /v1.41/containers/create': Env has an entry that is not allowed",
        "refused 'GET /v1.41/volumes': GET /v1.41/volumes is not let through: container jobs may be created, watched,"
        " stopped and removed, by version 1.41 or later of the engine's API",
    ]


def _exactly(client: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        data += client.recv(count - len(data))
    return data


def _until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if true():
            return
        time.sleep(0.1)
    raise AssertionError("waited 30 s in vain")
