"""The engine's end: requests that the proxy wrote, over the engine's socket, one connection each."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import h11

from docker_proxy.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

_CHUNK = 64 * 1024
_CONNECT_SECONDS = 5.0
_LARGEST_ANSWER = 8 * 1024**2

SWITCHED = 101


@dataclass
class Answer:
    """What the engine says. Leaving the context of `Engine.ask` ends it."""

    status: int
    headers: dict[str, str]
    _connection: h11.Connection
    _reader: asyncio.StreamReader

    async def parts(self) -> AsyncIterator[bytes]:
        """Yield the body as it comes; after status 101, whatever comes.

        Raises:
            EngineError: If it breaks off.
        """
        if self.status == SWITCHED:
            data = self._connection.trailing_data[0]
            while data or not self._reader.at_eof():
                if data:
                    yield data
                data = await self._reader.read(_CHUNK)
            return
        while not isinstance(event := await _next_event(self._connection, self._reader), h11.EndOfMessage):
            if isinstance(event, h11.Data):
                yield bytes(event.data)

    async def whole(self) -> bytes:
        """Return the body.

        Raises:
            EngineError: If it breaks off or is huge.
        """
        body = bytearray()
        async for part in self.parts():
            body += part
            if len(body) > _LARGEST_ANSWER:
                raise EngineError(f"the container engine's answer is larger than {_LARGEST_ANSWER} bytes")
        return bytes(body)

    async def json(self) -> Any:  # noqa: ANN401
        """Return the parsed body.

        Raises:
            EngineError: If it breaks off, is huge or is not JSON.
        """
        try:
            return json.loads(await self.whole())
        except ValueError as error:
            raise EngineError("the container engine's answer is not JSON") from error


class Engine:
    """The container engine behind a Unix socket."""

    def __init__(self, socket: str) -> None:
        self._socket = socket

    @asynccontextmanager
    async def ask(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: object = None,
        seconds: float | None = 60.0,
    ) -> AsyncIterator[Answer]:
        """Send a request and wait for the head of its answer.

        Args:
            method: Of HTTP.
            path: Made of nothing but checked parts.
            query: Parameters.
            headers: Beyond those of HTTP itself.
            body: Sent as JSON.
            seconds: How long the head may take; `None`: as long as it takes.

        Raises:
            EngineError: If the engine does not answer, or not with HTTP.
        """
        content = b"" if body is None else json.dumps(body).encode()
        connection = h11.Connection(h11.CLIENT)
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                reader, writer = await asyncio.open_unix_connection(self._socket)
        except (OSError, TimeoutError) as error:
            raise EngineError(f"the container engine does not answer at {self._socket}: {_reason(error)}") from error
        try:
            request = h11.Request(
                method=method,
                target=f"{path}?{urlencode(query)}" if query else path,
                headers=[
                    ("Host", "docker"),
                    ("Content-Length", str(len(content))),
                    *([("Content-Type", "application/json")] if content else []),
                    *(headers or {}).items(),
                ],
            )
            events: list[h11.Event] = [request, *([h11.Data(content)] if content else []), h11.EndOfMessage()]
            writer.write(b"".join(connection.send(event) or b"" for event in events))
            async with asyncio.timeout(seconds):
                await writer.drain()
                head = await _head(connection, reader)
        except (OSError, TimeoutError) as error:
            writer.close()
            raise EngineError(f"the container engine gave no answer: {_reason(error)}") from error
        except BaseException:
            writer.close()
            raise
        try:
            named = {name.decode("ascii"): value.decode("latin-1") for name, value in head.headers}
            yield Answer(head.status_code, named, connection, reader)
        finally:
            writer.close()


async def _head(connection: h11.Connection, reader: asyncio.StreamReader) -> h11.Response | h11.InformationalResponse:
    while True:
        event = await _next_event(connection, reader)
        if isinstance(event, h11.Response):
            return event
        if isinstance(event, h11.InformationalResponse) and event.status_code == SWITCHED:
            return event
        if not isinstance(event, h11.InformationalResponse):
            raise EngineError("the container engine hung up")


async def _next_event(connection: h11.Connection, reader: asyncio.StreamReader) -> Any:  # noqa: ANN401
    try:
        while (event := connection.next_event()) is h11.NEED_DATA:
            connection.receive_data(await reader.read(_CHUNK))
    except h11.ProtocolError as error:
        raise EngineError(f"the container engine does not speak HTTP: {error}") from error
    except OSError as error:
        raise EngineError(f"the container engine broke off: {_reason(error)}") from error
    return event


def _reason(error: BaseException) -> str:
    return "it takes too long" if isinstance(error, TimeoutError) else str(error)
