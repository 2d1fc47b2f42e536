"""How much a client may ask for: the size of a request's body, and writes a minute."""

from __future__ import annotations

import ipaddress
import math
import time
from collections import OrderedDict
from typing import TYPE_CHECKING

from starlette.responses import JSONResponse

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Bodies that are still arriving are held in memory, all together as much as this many of the largest.
BODIES_HELD = 32
ADDRESSES = 10_000
_READS = frozenset({"GET", "HEAD", "OPTIONS"})


class BodyLimitMiddleware:
    """Answers 413 to a body of more than `body_bytes`, also one that does not say its length beforehand.

    A body is read to its end before the application is called: a slow or broken one never reaches it.

    Args:
        app: The application behind it.
        body_bytes: The largest body, in bytes.
    """

    def __init__(self, app: ASGIApp, body_bytes: int) -> None:
        self._app = app
        self._most = body_bytes
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on a request whose body is small enough."""
        length = _declared_length(scope) if scope["type"] == "http" else 0
        if length == 0:
            await self._app(scope, receive, send)
        elif length is not None and length > self._most:
            await self._too_large(scope, receive, send)
        else:
            await self._read_first(scope, receive, send)

    async def _read_first(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = bytearray()
        try:
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return
                chunk = message.get("body", b"")
                body += chunk
                self._held += len(chunk)
                more = message.get("more_body", False)
                if len(body) > self._most:
                    await self._too_large(scope, receive, send)
                    return
                if more and self._held > BODIES_HELD * self._most:
                    detail = "Too many large requests are arriving at once: try again in a few seconds."
                    await _refuse(503, detail, {"Retry-After": "5"})(scope, receive, send)
                    return
        finally:
            self._held -= len(body)
        await self._app(scope, _replay(bytes(body), receive), send)

    async def _too_large(self, scope: Scope, receive: Receive, send: Send) -> None:
        # The connection stays open: a client that is still sending could not read the answer of a closed one.
        detail = f"The request's body is larger than {self._most} bytes: send it in several requests."
        await _refuse(413, detail)(scope, receive, send)


class WriteLimitMiddleware:
    """Answers 429 to a client address that writes more often than `a_minute`; reads are not counted.

    A token bucket an address: `a_minute` requests at once, then one every 60 / `a_minute` seconds. Requests with a
    wrong key count, too, so that nobody can try keys quickly. IPv6 addresses of one /64 network are one client.

    Args:
        app: The application behind it.
        a_minute: Requests of other methods than GET, HEAD and OPTIONS that an address may send in a minute.
        clock: Seconds that never go back.
    """

    def __init__(self, app: ASGIApp, a_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._app = app
        self._a_minute = a_minute
        self._clock = clock
        # Address -> tokens left and when they were counted. Who wrote last is at the end, who is forgotten in front.
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what is not one write too many."""
        if scope["type"] == "http" and scope["method"] not in _READS:
            seconds = self._seconds_to_wait(_client(scope))
            if seconds > 0:
                detail = f"More than {self._a_minute} writes a minute from this address: try again in {seconds} s."
                await _refuse(429, detail, {"Retry-After": str(seconds)})(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _seconds_to_wait(self, address: str) -> int:
        now = self._clock()
        a_second = self._a_minute / 60
        tokens, counted = self._buckets.pop(address, (float(self._a_minute), now))
        tokens = min(float(self._a_minute), tokens + (now - counted) * a_second)
        allowed = tokens >= 1
        self._buckets[address] = (tokens - 1 if allowed else tokens, now)
        if len(self._buckets) > ADDRESSES:
            self._buckets.popitem(last=False)
        return 0 if allowed else max(1, math.ceil((1 - tokens) / a_second))


def _declared_length(scope: Scope) -> int | None:
    """Zero: no body. None: one whose length is not said."""
    length = 0
    for name, value in scope["headers"]:
        if name == b"transfer-encoding":
            return None
        if name == b"content-length":
            # A longer number is larger than any limit, and slow to read.
            length = int(value[:18]) if value[:18].isdigit() else 10**18
    return length


def _replay(body: bytes, receive: Receive) -> Receive:
    told = False

    async def replay() -> Message:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def _client(scope: Scope) -> str:
    host = scope["client"][0] if scope.get("client") else ""
    if ":" not in host:
        return str(host)
    address = ipaddress.IPv6Address(host.partition("%")[0])
    if address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((address, 64), strict=False))


def _refuse(status: int, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"detail": detail}, status, headers)
