"""The server in front of the service: real sockets, in a process of its own."""

from __future__ import annotations

import http.client
import re
import socket
import subprocess
import sys
import time

import httpx
import pytest

from tests.service.small_app import ROOT, SmallApp, allow_many_connections, everything

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
SLOW = b"GET /slow HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
HELLO = b'"hello"'


def status(answer: bytes) -> int:
    found = re.match(rb"HTTP/1\.1 (\d+) ", answer)
    assert found, answer
    return int(found[1])


def answered(connection: socket.socket) -> int:
    """The status of the next answer, which is read to its end."""
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    answer.read()
    return answer.status


def test_the_log_has_one_line_whatever_clients_do_and_a_stop_is_no_failure() -> None:
    mistakes = [
        b"\x00\xff\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
        b"CONNECT other:80 HTTP/1.1\r\nHost: other\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"POST /length HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /length HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /length HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf of it",
        b"POST /length HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nno number\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nHalf",
        SLOW,
    ]
    with SmallApp() as app:
        for mistake in mistakes:
            with app.connect(mistake) as connection:
                connection.settimeout(0.1)
                try:
                    while connection.recv(65536):
                        pass
                except (TimeoutError, ConnectionResetError):
                    pass
        assert httpx.get(app.url).text == '"hello"'
        app.terminate()
        assert app.exit_code() == 0
        assert [re.sub(r"^\S+ \S+ ", "", line) for line in app.log] == [
            f"INFO Listening on http://127.0.0.1:{app.port}\n"
        ]


def test_a_taken_port_is_a_sentence_and_a_failure() -> None:
    with SmallApp() as app:
        second = subprocess.run(
            [
                sys.executable,
                "-c",
                f"from service.server import serve; import sys; sys.exit(serve('127.0.0.1', "
                f"{app.port}, lambda: 1 / 0, connections=1, header_seconds=1))",
            ],
            cwd=ROOT,
            env={"PYTHONPATH": f"{ROOT}/plugins:{ROOT}"},
            capture_output=True,
            text=True,
            timeout=20,
        )
    assert second.returncode == 1
    assert re.sub(r"^\S+ \S+ ", "", second.stderr) == (
        f"ERROR Cannot listen on 127.0.0.1:{app.port} (Address already in use):"
        " end what listens there, or choose another SERVICE_HOST or SERVICE_PORT.\n"
    )


def test_a_request_that_has_begun_is_answered_before_the_server_ends() -> None:
    with SmallApp() as app, app.connect(SLOW) as connection:
        time.sleep(0.3)
        app.terminate()
        assert everything(connection).endswith(b'"slow"')
        assert app.exit_code() == 0


def test_no_header_names_the_server() -> None:
    with SmallApp() as app:
        assert "server" not in httpx.get(app.url).headers


@pytest.mark.parametrize("before", [b"", GET], ids=["first request", "later request"])
@pytest.mark.parametrize(
    "beginning",
    [
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ", id="head"),
        pytest.param(b"POST /length HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\n\r\n", id="body"),
    ],
)
def test_a_request_that_trickles_is_given_up(before: bytes, beginning: bytes) -> None:
    with SmallApp(header_seconds=1.0) as app, app.connect(before) as connection:
        if before:
            assert answered(connection) == 200
        connection.sendall(beginning)
        started = time.monotonic()
        connection.settimeout(0.1)
        answer = b""
        while not answer and time.monotonic() - started < 15:
            connection.sendall(b"x")
            try:
                answer = connection.recv(65536)
            except TimeoutError:
                continue
        assert 0.8 < time.monotonic() - started < 10
        assert status(answer) == 408
        assert answer.endswith(
            b'{"detail": "The request did not arrive in time: send it faster, or in smaller parts."}'
        )


@pytest.mark.parametrize("sent", [b"", b"\r\n\r\n"], ids=["nothing", "blank lines"])
def test_a_connection_without_a_request_is_closed_without_an_answer(sent: bytes) -> None:
    with SmallApp(header_seconds=1.0) as app, app.connect(sent) as connection:
        started = time.monotonic()
        assert everything(connection) in (b"", b"<reset>")
        assert 0.8 < time.monotonic() - started < 10


def test_a_kept_connection_outlives_the_patience_with_requests() -> None:
    with SmallApp(header_seconds=0.5) as app, app.connect(GET) as connection:
        assert answered(connection) == 200
        time.sleep(1.5)
        connection.sendall(GET)
        assert answered(connection) == 200


def test_a_client_that_does_not_read_its_answer_is_cut_off() -> None:
    with SmallApp(header_seconds=1.0) as app, app.connect(GET.replace(b"/ ", b"/big ")) as connection:
        time.sleep(3)
        received = everything(connection)
        assert len(received) < 50_000_000


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"BREW / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + b"X-A: b\r\n" * 200 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nX-A: " + b"a" * 200_000, 431),
        (b"GET /" + b"a" * 200_000, 431),
    ],
    ids=["nonsense", "unknown method", "many headers", "long header", "long address"],
)
def test_a_head_that_cannot_be_read_is_refused_in_json(sent: bytes, expected: int) -> None:
    with SmallApp() as app, socket.create_connection(("127.0.0.1", app.port), timeout=20) as connection:
        connection.sendall(sent)
        answer = everything(connection)
        assert status(answer) == expected
        assert b"content-type: application/json\r\n" in answer
        assert httpx.get(app.url).status_code == 200


def test_two_requests_in_one_packet_are_both_answered() -> None:
    with SmallApp() as app, app.connect(GET + GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")) as connection:
        assert everything(connection).count(HELLO) == 2


def test_a_connection_serves_on_after_a_body_that_was_too_large() -> None:
    head = b"POST /length HTTP/1.1\r\nHost: x\r\nContent-Length: 300000\r\n\r\n"
    with SmallApp() as app, app.connect(head) as connection:
        assert answered(connection) == 413
        connection.sendall(b"x" * 300_000)
        connection.sendall(GET)
        assert answered(connection) == 200


def test_a_new_client_takes_the_place_of_who_has_waited_longest_and_never_asked() -> None:
    with SmallApp(connections=3) as app:
        kept = app.connect(GET)
        assert answered(kept) == 200
        first, second = app.connect(b"GET / HTTP/1.1\r\n"), app.connect(b"GET / HTTP/1.1\r\n")
        time.sleep(0.2)
        third = app.connect(GET)
        assert answered(third) == 200
        assert everything(first) in (b"", b"<reset>")
        for still_there, rest in ((kept, GET), (second, b"Host: x\r\n\r\n"), (third, GET)):
            still_there.sendall(rest)
            assert answered(still_there) == 200
        fourth = app.connect(GET)
        assert answered(fourth) == 200
        assert everything(kept) in (b"", b"<reset>")
        for connection in (kept, first, second, third, fourth):
            connection.close()


def test_when_every_connection_is_being_answered_the_next_is_refused() -> None:
    with SmallApp(connections=2) as app:
        busy = [app.connect(SLOW), app.connect(SLOW)]
        time.sleep(0.3)
        with app.connect() as refused:
            answer = everything(refused)
        assert status(answer) == 503
        assert answer.endswith(b'{"detail": "All connections of the service are busy: try again in a few seconds."}')
        assert [everything(connection)[-6:] for connection in busy] == [b'"slow"', b'"slow"']
        assert httpx.get(app.url).status_code == 200
        for connection in busy:
            connection.close()


def test_a_thousand_slow_clients_do_not_keep_others_waiting() -> None:
    allow_many_connections()
    with SmallApp(connections=100) as app:
        slow = [app.connect(b"GET / HTTP/1.1\r\nX-Slow: ") for _ in range(1000)]
        started = time.monotonic()
        for _ in range(20):
            assert httpx.get(app.url).status_code == 200
        assert time.monotonic() - started < 10
        for connection in slow:
            connection.close()
