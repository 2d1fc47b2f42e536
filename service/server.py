"""The server in front of the application: uvicorn, with an end to the patience it has with slow clients."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import ASGIApp

logger = logging.getLogger(__name__)

HEAD_BYTES = 65_536
HEADERS = 100
_KEEP_ALIVE_SECONDS = 75
_STOP_SECONDS = 10


def serve(host: str, port: int, build: Callable[[], ASGIApp], *, connections: int, header_seconds: float) -> int:
    """Answer HTTP requests until SIGTERM or Ctrl-C; requests that have begun are answered before it ends.

    No client can keep the others waiting. One whose request has not arrived within `header_seconds` (head and body
    together, however it trickles), or who does not read its answer for as long, is let go. When all `connections` are
    taken, a new one replaces the one that has been waiting longest for (the rest of) a request; only if every one is
    being answered, it gets 503.

    Args:
        host: Address to listen on.
        port: Port to listen on; 0: a free one.
        build: Builds the application, once, after the port is known to be free.
        connections: How many connections may be open at once.
        header_seconds: How long a request may take to arrive.

    Returns:
        The exit code: 0 after a stop that was asked for, 1 if the address cannot be listened on.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    # uvicorn raises the signal again when it has stopped. This makes SIGTERM a normal end, as Ctrl-C is.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        listener = _listen(host, port)
    except (OSError, OverflowError) as error:
        logger.error(
            "Cannot listen on %s:%d (%s): end what listens there, or choose another SERVICE_HOST or SERVICE_PORT.",
            host,
            port,
            _reason(error),
        )
        return 1
    try:
        config = uvicorn.Config(
            build(),
            loop="uvloop",
            http=_GuardedProtocol,
            ws="none",
            interface="asgi3",
            log_config=None,
            log_level="error",
            access_log=False,
            server_header=False,
            # The address that counts for limits is the connection's: a header can say anything.
            proxy_headers=False,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=_STOP_SECONDS,
        )
        _Server(config, _Crowd(connections, header_seconds)).run(sockets=[listener])
    except KeyboardInterrupt:
        return 0
    finally:
        listener.close()
    return 0


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=2048)


def _reason(error: OSError | OverflowError) -> str:
    # asyncio and the resolver write more than the plain reason into `strerror`, or nothing.
    number = error.errno if isinstance(error, OSError) else None
    return os.strerror(number) if number and number > 0 else str(error)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, crowd: _Crowd) -> None:
        super().__init__(config)
        self.server_state = self._crowd = crowd
        self._sweeping: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._sweeping = asyncio.create_task(self._crowd.sweep())
        for listener in sockets or []:
            host, port = listener.getsockname()[:2]
            logger.info("Listening on http://%s:%d", f"[{host}]" if ":" in host else host, port)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._sweeping:
            self._sweeping.cancel()
        await super().shutdown(sockets)


class _Crowd(ServerState):
    """All open connections; those that wait for something know since when, and the oldest of them come first."""

    def __init__(self, most: int, patience: float) -> None:
        super().__init__()
        self._most = most
        self._patience = patience
        self._open: set[_GuardedProtocol] = set()
        self._arriving: dict[_GuardedProtocol, float] = {}  # a request has not arrived, or not all of it
        self._unread: dict[_GuardedProtocol, float] = {}  # an answer is not being read
        self._idle: dict[_GuardedProtocol, None] = {}  # kept alive between two requests

    def admit(self, connection: _GuardedProtocol, now: float) -> bool:
        """Find room for one more; who never sent a whole request goes before a client that may send another."""
        if len(self._open) >= self._most:
            for waiting in (self._arriving, self._idle):
                if waiting:
                    oldest = next(iter(waiting))
                    self.leave(oldest)
                    oldest.transport.abort()
                    break
            else:
                return False
        self._open.add(connection)
        self._arriving[connection] = now
        return True

    def arriving(self, connection: _GuardedProtocol, now: float) -> None:
        if connection in self._open:
            self._idle.pop(connection, None)
            self._arriving.setdefault(connection, now)

    def arrived(self, connection: _GuardedProtocol) -> None:
        self._arriving.pop(connection, None)
        self._idle.pop(connection, None)

    def answered(self, connection: _GuardedProtocol) -> None:
        if connection in self._open and connection not in self._arriving:
            self._idle[connection] = None

    def unread(self, connection: _GuardedProtocol, now: float) -> None:
        self._unread[connection] = now

    def read(self, connection: _GuardedProtocol) -> None:
        self._unread.pop(connection, None)

    def leave(self, connection: _GuardedProtocol) -> None:
        self._open.discard(connection)
        self._arriving.pop(connection, None)
        self._unread.pop(connection, None)
        self._idle.pop(connection, None)

    async def sweep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(min(0.5, self._patience / 4))
            before = loop.time() - self._patience
            for connection, since in list(self._arriving.items()):
                if since > before:
                    break
                connection.give_up_request()
            for connection, since in list(self._unread.items()):
                if since > before:
                    break
                connection.transport.abort()


class _GuardedProtocol(HttpToolsProtocol):
    server_state: _Crowd

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: _Crowd,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._crowd = server_state
        self._in_message = False
        self._in_head = False
        self._head_bytes = 0
        self._head_is_too_large = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if not self._crowd.admit(self, self.loop.time()):
            self._refuse(503, "All connections of the service are busy: try again in a few seconds.")

    def connection_lost(self, exc: Exception | None) -> None:
        self._crowd.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        super().data_received(data)
        if self._in_message:
            self._crowd.arriving(self, self.loop.time())
            self._head_bytes += len(data)
            if self._in_head and self._head_bytes > HEAD_BYTES:
                self._refuse_head()
        elif self.cycle is None:
            return  # blank lines: the patience with the first request has begun
        else:
            self._crowd.arrived(self)
            if self.cycle.response_complete:
                # The rest of a request that was answered early, or blank lines: uvicorn has stopped its timer.
                self._crowd.answered(self)
                self._unset_keepalive_if_required()
                self.timeout_keep_alive_task = self.loop.call_later(
                    self.timeout_keep_alive, self.timeout_keep_alive_handler
                )

    def on_message_begin(self) -> None:
        self._in_message = self._in_head = True
        self._head_bytes = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        if len(self.headers) > HEADERS:
            # The parser ends at an exception, and uvicorn then calls send_400_response.
            self._head_is_too_large = True
            raise ValueError("too many headers")
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_message = False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            self._crowd.unread(self, self.loop.time())
        elif self.cycle.response_complete:
            self._crowd.answered(self)

    def pause_writing(self) -> None:
        self._crowd.unread(self, self.loop.time())
        super().pause_writing()

    def resume_writing(self) -> None:
        self._crowd.read(self)
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        # Closing would wait for a client that never reads the last answer.
        self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        if self._head_is_too_large:
            self._refuse_head()
        else:
            self._refuse(400, "This is not an HTTP/1.1 request that the service understands.")

    def give_up_request(self) -> None:
        if self._in_message:
            self._refuse(408, "The request did not arrive in time: send it faster, or in smaller parts.")
        else:
            self.transport.abort()

    def _refuse_head(self) -> None:
        self._refuse(431, f"The request's head has more than {HEADERS} headers or {HEAD_BYTES} bytes: send fewer.")

    def _refuse(self, status: int, detail: str) -> None:
        self._crowd.leave(self)
        if self.cycle and self.cycle.response_started and not self.cycle.response_complete:
            # Half an answer is out: another one would be read as its rest.
            self.transport.abort()
            return
        body = json.dumps({"detail": detail}).encode()
        head = [
            STATUS_LINE[status],
            b"content-type: application/json\r\n",
            b"content-length: %d\r\n" % len(body),
            b"cache-control: no-store\r\nx-content-type-options: nosniff\r\nconnection: close\r\n\r\n",
        ]
        self.transport.write(b"".join([*head, body]))
        self._crowd.unread(self, self.loop.time())
        self.transport.close()
