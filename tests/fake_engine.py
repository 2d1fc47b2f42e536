"""A container engine on this machine that speaks as much of the real one's HTTP as a container task needs.

Containers are Python functions here: they get what they were created with, and say something. Only the real engine can
show that a real one does the same; tests/compose asks it.
"""

from __future__ import annotations

import json
import re
import socket
import struct
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable

VERSION = "1.47"
_ROUTE = re.compile(r"(?:/v[\d.]+)?/containers/(?P<name>[^/]+)(?:/(?P<verb>\w+))?")


class KilledError(Exception):
    """Raised within a program whose container is killed while it says or waits."""


@dataclass
class Container:
    """A container.

    Attributes:
        id: Of the engine's making.
        name: The one it was given.
        body: What it was created with.
        code: Its exit code, `None` as long as it runs or has not begun.
        killed: Set by `kill` and by a removal with force.
    """

    id: str
    name: str
    body: dict[str, Any]
    code: int | None = None
    out_of_memory: bool = False
    killed: threading.Event = field(default_factory=threading.Event)
    started: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)
    log: socket.socket | None = None

    @property
    def environment(self) -> dict[str, str]:
        return dict(line.split("=", 1) for line in self.body["Env"] or [])

    @property
    def labels(self) -> dict[str, str]:
        return dict(self.body["Labels"] or {})

    def out(self, text: str | bytes) -> None:
        """Write to stdout."""
        self._write(1, text)

    def err(self, text: str | bytes) -> None:
        """Write to stderr."""
        self._write(2, text)

    def _write(self, stream: int, text: str | bytes) -> None:
        if self.killed.is_set():
            raise KilledError
        data = text.encode() if isinstance(text, str) else text
        if self.log:
            self.log.sendall(struct.pack(">BxxxL", stream, len(data)) + data)

    def run(self, program: Callable[[Container], int]) -> None:
        """Run the program to its end."""
        try:
            code = program(self)
        except (KilledError, OSError):
            code = 137
        self.code = 137 if self.killed.is_set() else code
        self.ended.set()
        self.hang_up()

    def hang_up(self) -> None:
        """End the connection that follows the log."""
        if self.log:
            try:
                self.log.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


def well(container: Container) -> int:
    """A container that has nothing to say."""
    return 0


@dataclass
class FakeEngine:
    """Runs while its `with` block does.

    Attributes:
        program: What a container runs; returns the exit code.
        images: That are there.
        containers: That are there, by id.
        made: All that were ever created.
        requests: Method and path of each call, without the version.
        before: Called with method and path before a call is answered; may wait, or return `(status, message)`.
        created: Called with each new container before its creator is answered; may wait.
    """

    program: Callable[[Container], int] = well
    images: tuple[str, ...] = ("shortlist-jobs",)
    containers: dict[str, Container] = field(default_factory=dict)
    made: list[Container] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)
    before: Callable[[str, str], tuple[int, str] | None] = lambda method, path: None
    created: Callable[[Container], None] = lambda container: None

    @property
    def url(self) -> str:
        return f"tcp://127.0.0.1:{self._server.server_port}"

    def find(self, name: str) -> Container | None:
        """The container of that name or id."""
        return next((found for found in list(self.containers.values()) if name in (found.id, found.name)), None)

    def put(self, name: str, **labels: str) -> Container:
        """Put a container there that somebody has left."""
        container = self._create(name, {"Labels": labels, "Env": ["LEFT=yes"], "Image": "shortlist-jobs"})
        container.started.set()
        return container

    def __enter__(self) -> Self:
        engine = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                engine._handle(self)

            do_GET = do_POST = do_DELETE = do_HEAD = handle_any

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for container in list(self.containers.values()):
            container.killed.set()
        self._server.shutdown()
        self._server.server_close()

    def _create(self, name: str, body: dict[str, Any]) -> Container:
        container = Container(id=f"{len(self.made):064x}", name=name, body=body)
        self.containers[container.id] = container
        self.made.append(container)
        return container

    def _handle(self, request: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(request.path)
        path = re.sub(r"^/v[\d.]+", "", parts.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        body = json.loads(request.rfile.read(int(request.headers.get("Content-Length") or 0)) or "null")
        self.requests.append((request.command, path))
        refused = self.before(request.command, path)
        try:
            if refused:
                _answer(request, refused[0], {"message": refused[1]})
            elif path == "/_ping":
                _answer(request, 200, "OK")
            elif path == "/version":
                _answer(request, 200, {"ApiVersion": VERSION, "MinAPIVersion": "1.24"})
            elif path == "/images/json":
                wanted = json.loads(query["filters"])["reference"]
                _answer(request, 200, [{"Id": name} for name in self.images if name in wanted])
            elif path == "/images/create":
                _answer(request, 403, {"message": f"{query['fromImage']} may not be fetched"})
            elif path == "/containers/create":
                self._answer_create(request, query["name"], body)
            else:
                self._answer_container(request, path, query)
        except (BrokenPipeError, ConnectionResetError):
            pass

    def _answer_create(self, request: BaseHTTPRequestHandler, name: str, body: dict[str, Any]) -> None:
        if self.find(name):
            _answer(request, 409, {"message": f'Conflict. The container name "/{name}" is already in use'})
        else:
            container = self._create(name, body)
            self.created(container)
            _answer(request, 201, {"Id": container.id, "Warnings": []})

    def _answer_container(self, request: BaseHTTPRequestHandler, path: str, query: dict[str, str]) -> None:
        route = _ROUTE.fullmatch(path)
        container = self.find(unquote(route["name"])) if route else None
        if not route or not container:
            _answer(request, 404, {"message": f"No such container: {path}"})
        elif request.command == "DELETE":
            container.killed.set()
            if container.started.is_set() and not container.ended.is_set():
                container.code = 137
                container.ended.set()
            self.containers.pop(container.id, None)
            container.hang_up()
            _answer(request, 204)
        elif route["verb"] == "json":
            state = {"Running": not container.ended.is_set(), "OOMKilled": container.out_of_memory}
            config = {"Labels": container.labels, "Tty": False}
            _answer(request, 200, {"Id": container.id, "Config": config, "State": state})
        elif route["verb"] == "attach":
            request.wfile.write(
                b"HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\n"
                b"Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
            )
            request.close_connection = True
            container.log = request.connection
            container.ended.wait()
        elif route["verb"] == "start":
            container.started.set()
            threading.Thread(target=container.run, args=(self.program,), daemon=True).start()
            _answer(request, 204)
        elif route["verb"] == "wait":
            container.ended.wait()
            if container.id in self.containers:
                _answer(request, 200, {"StatusCode": container.code})
            else:
                _answer(request, 404, {"message": f"No such container: {path}"})
        else:
            _answer(request, 404, {"message": "page not found"})


def _answer(request: BaseHTTPRequestHandler, status: int, body: object = None) -> None:
    content = b"" if body is None else body.encode() if isinstance(body, str) else json.dumps(body).encode()
    request.send_response(status)
    request.send_header("Content-Type", "application/json")
    request.send_header("Content-Length", str(len(content)))
    request.send_header("Api-Version", VERSION)
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(content)
