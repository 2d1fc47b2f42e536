"""Requests and answers, and how a request is read: strictly, and never more than one a connection."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

import h11

from docker_proxy.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

HEAD_BYTES = 16 * 1024
BODY_BYTES = 256 * 1024
HEAD_SECONDS = 10.0
BODY_SECONDS = 30.0


@dataclass(frozen=True)
class Request:
    """A request as it came, of known size.

    Attributes:
        method: Of HTTP.
        target: Path and query, not decoded.
        headers: By lower-case name.
        body: All of it.
    """

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Reply:
    """An answer of known size.

    Attributes:
        status: Of HTTP.
        body: All of it.
        content_type: Of the body.
        headers: More of them.
    """

    status: int
    body: bytes = b""
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Stream:
    """An answer that goes on.

    Attributes:
        status: Of HTTP; 101 makes a plain stream of bytes of the connection.
        parts: What comes, piece by piece.
        content_type: Of the body.
    """

    status: int
    parts: AsyncIterator[bytes]
    content_type: str


async def read_request(connection: h11.Connection, reader: asyncio.StreamReader) -> Request:
    """Read a request of known size.

    Args:
        connection: Its state tells how it may be answered.
        reader: Its buffer is bounded by `HEAD_BYTES`.

    Raises:
        RefusedError: If it is not HTTP/1.1, too long, too slow, or leaves open where it ends.
        ConnectionError: If there is none.
    """
    head = await _head(reader)
    # Both are read by some as the end of a line, or as its going on, and by others not.
    if b"\n" in head.replace(b"\r\n", b"") or b"\r\n " in head or b"\r\n\t" in head:
        raise RefusedError("the request's head has lines that are not HTTP's", 400)
    # h11 makes one of two that are equal.
    if head.lower().count(b"\r\ncontent-length:") > 1:
        raise RefusedError("Content-Length is there twice", 400)
    try:
        connection.receive_data(head)
        request = connection.next_event()
    except h11.RemoteProtocolError as error:
        raise RefusedError(f"not HTTP: {error}", error.error_status_hint) from error
    if not isinstance(request, h11.Request):
        raise RefusedError("not HTTP", 400)
    if request.http_version != b"1.1":
        raise RefusedError("HTTP/1.1 is the one version", 505)
    headers = {name.decode("ascii"): value.decode("latin-1") for name, value in request.headers}
    if "transfer-encoding" in headers:
        raise RefusedError("a body comes with Content-Length, not with Transfer-Encoding", 411)
    body = await _body(reader, int(headers.get("content-length", "0")))
    if body:
        connection.receive_data(body)
    while not isinstance(connection.next_event(), h11.EndOfMessage):
        pass
    return Request(request.method.decode("ascii"), request.target.decode("ascii"), headers, body)


async def _head(reader: asyncio.StreamReader) -> bytes:
    try:
        async with asyncio.timeout(HEAD_SECONDS):
            return await reader.readuntil(b"\r\n\r\n")
    except TimeoutError as error:
        raise RefusedError("the request's head takes too long", 408) from error
    except asyncio.LimitOverrunError as error:
        raise RefusedError(f"the request's head is longer than {HEAD_BYTES} bytes", 431) from error
    except asyncio.IncompleteReadError as error:
        if not error.partial:
            raise ConnectionError from error  # somebody looked whether the port is open
        raise RefusedError("the request's head is not complete", 400) from error


async def _body(reader: asyncio.StreamReader, length: int) -> bytes:
    if length > BODY_BYTES:
        raise RefusedError(f"the body is longer than {BODY_BYTES} bytes", 413)
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await reader.readexactly(length)
    except (TimeoutError, asyncio.IncompleteReadError) as error:
        raise RefusedError("the body is shorter than its Content-Length", 400) from error
