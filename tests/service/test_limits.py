"""Limits of what a client may ask for: over real HTTP, and with a clock of our own where minutes pass."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import httpx
import pytest

from service import limits
from service.limits import BodyLimitMiddleware, WriteLimitMiddleware
from tests.service.small_app import SmallApp

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

TOO_LARGE = {"detail": "The request's body is larger than 1000 bytes: send it in several requests."}


@pytest.fixture(scope="module")
def app() -> Iterator[SmallApp]:
    with SmallApp() as running:
        yield running


@pytest.mark.parametrize("length", [0, 1, 1000])
def test_a_body_up_to_the_limit_arrives_whole(app: SmallApp, length: int) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"x" * length

    assert httpx.post(f"{app.url}/length", content=b"x" * length).json() == length
    assert httpx.post(f"{app.url}/length", content=chunks()).json() == length


@pytest.mark.parametrize("length", [1001, 10_000_000])
def test_a_larger_body_is_refused_also_when_it_does_not_say_its_length(app: SmallApp, length: int) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(length // 1001):
            yield b"x" * 1001

    with httpx.Client(base_url=app.url) as client:
        for content in (b"x" * length, chunks()):
            answer = client.post("/length", content=content)
            assert (answer.status_code, answer.json()) == (413, TOO_LARGE)
        assert client.get("/").json() == "hello"


def test_a_length_that_is_no_number_counts_as_too_large() -> None:
    for length in (b"9" * 5000, b"x", b""):
        assert statuses(BodyLimitMiddleware(fine, 1000), scope(headers=[(b"content-length", length)])) == [413]


def test_bodies_that_are_arriving_share_a_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BODIES_HELD", 2)
    limited = BodyLimitMiddleware(fine, 1000)

    async def half_then_silence() -> list[int]:
        silence = asyncio.Event()
        parts = [body(1000, more=True)]

        async def receive() -> Message:
            if not parts:
                await silence.wait()
            return parts.pop()

        return await answers(limited, scope(), receive)

    async def whole() -> list[int]:
        parts = [body(1000), body(0, more=True)]

        async def receive() -> Message:
            return parts.pop()

        return await answers(limited, scope(), receive)

    async def run() -> list[list[int]]:
        waiting = [asyncio.create_task(half_then_silence()) for _ in range(2)]
        await asyncio.sleep(0)
        seen = [await half_then_silence()]
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        return [*seen, await whole()]

    assert asyncio.run(run()) == [[503], [200]]


def test_a_client_that_leaves_before_its_body_is_complete_never_reaches_the_application() -> None:
    async def receive() -> Message:
        return {"type": "http.disconnect"}

    assert asyncio.run(answers(BodyLimitMiddleware(fine, 1000), scope(), receive)) == []


def test_the_minutes_first_writes_pass_then_one_whenever_a_token_is_there() -> None:
    now = [100.0]
    limited = WriteLimitMiddleware(fine, 3, lambda: now[0])
    assert statuses(limited, *[scope()] * 5) == [200, 200, 200, 429, 429]
    now[0] += 19.9
    assert statuses(limited, scope()) == [429]
    now[0] += 0.2
    assert statuses(limited, scope(), scope()) == [200, 429]
    now[0] += 3600
    assert statuses(limited, *[scope()] * 4) == [200, 200, 200, 429]


def test_addresses_are_counted_apart_and_networks_of_ipv6_together() -> None:
    limited = WriteLimitMiddleware(fine, 1)
    assert statuses(
        limited,
        *[scope(client=address) for address in ("10.0.0.1", "10.0.0.2", "::ffff:10.0.0.2", "2001:db8::1")],
        *[scope(client=address) for address in ("2001:db8::2", "2001:db8:0:1::1", "fe80::1%eth0")],
    ) == [200, 200, 429, 200, 429, 200, 200]


def test_reads_are_not_counted() -> None:
    limited = WriteLimitMiddleware(fine, 1)
    methods = ["POST", "GET", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE"]
    assert statuses(limited, *[scope(method=method) for method in methods]) == [200, 200, 200, 200, 429, 429, 429]


def test_only_so_many_addresses_are_remembered_who_wrote_last_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ADDRESSES", 2)
    limited = WriteLimitMiddleware(fine, 2)
    writers = ["a", "b", "a", "c", "a", "b"]
    # `b` was forgotten for `c`, so it starts anew; `a` was not.
    assert statuses(limited, *[scope(client=writer) for writer in [*writers, "b"]]) == [200] * 4 + [429, 200, 200]


def test_a_wrong_key_uses_up_the_limit_and_the_answer_says_when_to_try_again() -> None:
    with SmallApp(a_minute=3) as app, httpx.Client(base_url=app.url) as client:
        wrong = [client.post("/change", headers={"X-API-Key": "guess"}).status_code for _ in range(3)]
        right = client.post("/change", headers={"X-API-Key": "right"})
        assert wrong == [401, 401, 401]
        assert right.status_code == 429
        assert right.headers["Retry-After"] == "20"
        assert right.json() == {"detail": "More than 3 writes a minute from this address: try again in 20 s."}
        assert client.get("/").status_code == 200


async def fine(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body"})


def scope(method: str = "POST", client: str = "10.0.0.1", headers: list[tuple[bytes, bytes]] | None = None) -> Scope:
    length = [(b"transfer-encoding", b"chunked")] if headers is None else headers
    return {"type": "http", "method": method, "client": (client, 1), "headers": length}


def body(length: int, *, more: bool = False) -> Message:
    return {"type": "http.request", "body": b"x" * length, "more_body": more}


async def answers(app: ASGIApp, request: Scope, receive: Receive) -> list[int]:
    sent: list[int] = []

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            sent.append(message["status"])

    await app(request, receive, send)
    return sent


def statuses(app: ASGIApp, *requests: Scope) -> list[int]:
    async def receive() -> Message:
        return body(0)

    async def run() -> list[int]:
        return [status for request in requests for status in await answers(app, request, receive)]

    return asyncio.run(run())
