"""The tasks' end: one request a connection, read strictly, and its answer."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from contextlib import suppress
from dataclasses import replace
from http.client import responses
from typing import TYPE_CHECKING

import h11

from docker_proxy.errors import EngineError, RefusedError
from docker_proxy.messages import HEAD_BYTES, Reply, Stream, read_request
from docker_proxy.routes import understand

if TYPE_CHECKING:
    from docker_proxy.filter import Filter

logger = logging.getLogger(__name__)

CONNECTIONS = 64
# How long, and for how many bytes, a client that was refused may go on talking before the connection ends.
_LINGER_SECONDS = 2.0
_LINGER_BYTES = 4 * 1024**2
# After this much silence the kernel asks whether the other side is still there.
_KEEPALIVE_SECONDS = 60

_CHUNK = 64 * 1024
_CONTENT_TYPES = {
    "application/json",
    "application/vnd.docker.multiplexed-stream",
    "application/vnd.docker.raw-stream",
    "text/plain",
}


class Server:
    """Accepts connections and gives each request to the filter."""

    def __init__(self, proxy: Filter) -> None:
        self._filter = proxy
        self._open = 0

    async def start(self, host: str, port: int) -> asyncio.Server:
        """Listen."""
        return await asyncio.start_server(self._connected, host, port, limit=HEAD_BYTES)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES)
        self._open += 1
        try:
            _keep_alive(writer)
            with suppress(OSError):
                await self._serve(connection, reader, writer)
        finally:
            self._open -= 1
            writer.close()

    async def _serve(
        self, connection: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        asked = "a request that could not be read"
        try:
            if self._open > CONNECTIONS:
                raise RefusedError(f"{CONNECTIONS} connections are open: try again later", 503)
            request = await read_request(connection, reader)
            asked = f"{request.method} {request.target.partition('?')[0]}"
            call = understand(request.method, request.target)
            async with self._filter.answer(call, request) as answer:
                if isinstance(answer, Reply):
                    await _send(connection, writer, answer)
                else:
                    await _pass_on(connection, reader, writer, answer)
                return
        except ConnectionError:
            return
        except RefusedError as refused:
            logger.warning("refused %s: %s", ascii(asked[:200]), refused)
            reply = complaint(refused.status, str(refused))
        except EngineError as error:
            logger.error("%s: %s", ascii(asked[:200]), error)  # noqa: TRY400
            reply = complaint(502, str(error))
        if connection.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            await _send(connection, writer, replace(reply, body=b"") if asked.startswith("HEAD ") else reply)
            await _linger(reader, writer)
        else:
            # The head is sent already: only breaking off tells the client that something is missing.
            writer.transport.abort()


def complaint(status: int, sentence: str) -> Reply:
    """Return an answer in the engine's own form, so that its clients show the sentence."""
    return Reply(status, json.dumps({"message": f"docker-proxy: {sentence}"}).encode())


async def _send(connection: h11.Connection, writer: asyncio.StreamWriter, reply: Reply) -> None:
    headers = [("Connection", "close"), *reply.headers]
    if reply.status not in (204, 304):
        headers += [("Content-Type", reply.content_type), ("Content-Length", str(len(reply.body)))]
    reason = responses.get(reply.status, "")
    _write(connection, writer, h11.Response(status_code=reply.status, headers=headers, reason=reason))
    if reply.body:
        _write(connection, writer, h11.Data(reply.body))
    _write(connection, writer, h11.EndOfMessage())
    await writer.drain()


async def _pass_on(
    connection: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, stream: Stream
) -> None:
    """Write piece by piece until the engine or the client ends it; nothing that the client says is passed on."""
    if stream.status == 101:
        headers = [("Content-Type", _content_type(stream)), ("Connection", "Upgrade"), ("Upgrade", "tcp")]
        _write(connection, writer, h11.InformationalResponse(status_code=101, headers=headers, reason="UPGRADED"))
    else:
        headers = [("Content-Type", _content_type(stream)), ("Connection", "close")]
        _write(connection, writer, h11.Response(status_code=stream.status, headers=headers))
    await writer.drain()

    async def write() -> None:
        async for part in stream.parts:
            if stream.status == 101:
                writer.write(part)
            else:
                _write(connection, writer, h11.Data(part))
            await writer.drain()
        if stream.status != 101:
            _write(connection, writer, h11.EndOfMessage())
            await writer.drain()

    async def until_the_client_leaves() -> None:
        with suppress(ConnectionError):
            while await reader.read(_CHUNK):
                pass

    writing = asyncio.create_task(write())
    leaving = asyncio.create_task(until_the_client_leaves())
    try:
        await asyncio.wait((writing, leaving), return_when=asyncio.FIRST_COMPLETED)
        if writing.done():
            await writing
    finally:
        for task in (writing, leaving):
            task.cancel()
        await asyncio.gather(writing, leaving, return_exceptions=True)


async def _linger(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read what is still on its way: closing at once could take the answer from the client."""
    with suppress(TimeoutError, OSError):
        writer.write_eof()
        async with asyncio.timeout(_LINGER_SECONDS):
            left = _LINGER_BYTES
            while left > 0 and (data := await reader.read(_CHUNK)):
                left -= len(data)


def _write(connection: h11.Connection, writer: asyncio.StreamWriter, event: h11.Event) -> None:
    writer.write(connection.send(event) or b"")


def _content_type(stream: Stream) -> str:
    return stream.content_type if stream.content_type in _CONTENT_TYPES else "application/octet-stream"


def _keep_alive(writer: asyncio.StreamWriter) -> None:
    client: socket.socket = writer.get_extra_info("socket")
    client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", _KEEPALIVE_SECONDS), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            client.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
