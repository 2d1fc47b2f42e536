"""The proxy in this process, before an engine that writes down what it is asked."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import socketserver
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from docker_proxy.engine import Engine
from docker_proxy.filter import Filter
from docker_proxy.server import Server
from docker_proxy.settings import Settings, load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

PROJECT = Path(__file__).resolve().parents[2]
SOCKET = "/var/run/docker.sock"
OWN = "1" * 64
FOREIGN = "2" * 64


@dataclass
class Asked:
    """One request that reached the engine."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def line(self) -> str:
        return f"{self.method} {self.target}"


@dataclass
class FakeEngine:
    """An engine with one container of the project and one of somebody else.

    Only a mock shows byte by byte what is passed on; tests/compose/test_docker_proxy.py asks a real engine.

    Attributes:
        asked: All requests so far.
        answers: By request line up to the `?`: status, body.
        released: Set to let `wait` and the output of attached containers end.
    """

    asked: list[Asked] = field(default_factory=list)
    answers: dict[str, tuple[int, object]] = field(default_factory=dict)
    released: threading.Event = field(default_factory=threading.Event)
    gone: threading.Event = field(default_factory=threading.Event)

    @property
    def changes(self) -> list[str]:
        """Request lines that were no looks at containers or the machine."""
        return [asked.line for asked in self.asked if asked.method != "GET"]

    def answer(self, line: str) -> tuple[int, object]:
        if line in self.answers:
            return self.answers[line]
        own = {
            "Id": OWN,
            "Name": "/shop-job-a",
            "Image": "sha256:1",
            "State": {"Status": "running"},
            "Config": {"Labels": {"shortlist.project": "shop"}, "Env": ["PASSWORD=secret"], "Tty": False},
            "HostConfig": {"Binds": ["/home/me/shop"], "Memory": 7},
            "Mounts": [{"Source": "/home/me/shop"}],
        }
        foreign = {**own, "Id": FOREIGN, "Name": "/shop-postgres-1", "Config": {"Labels": {"shortlist.project": "x"}}}
        host = socket.gethostname()
        itself = {
            "Id": f"{host}{'0' * 52}",
            "Mounts": [
                {"Type": "bind", "Source": f"/home/me/shop/{name}", "Destination": f"/opt/airflow/{name}"}
                for name in ("plugins", "jobs", "config")
            ],
            "Config": {"Labels": {}},
        }
        listed = {"Id": OWN, "Names": ["/shop-job-a"], "Labels": {"shortlist.project": "shop"}, "Mounts": ["/home/me"]}
        known: dict[str, object] = {
            "/_ping": "OK",
            "/version": {"ApiVersion": "1.41", "Version": "20.10", "KernelVersion": "6.1"},
            "/info": {"NCPU": 4, "Name": "machine"},
            "/images/json": [{"Id": "sha256:1", "RepoTags": ["shop-jobs:latest", "secret-project:latest"]}],
            "/images/shop-jobs:latest/json": {"Id": "sha256:1", "Config": {"Env": ["A=b"]}, "GraphDriver": {}},
            "/containers/json": [listed, {**listed, "Id": FOREIGN, "Labels": {}}],
            f"/containers/{host}/json": itself,
            **{f"/containers/{name}/json": own for name in (OWN, OWN[:12], "shop-job-a")},
            **{f"/containers/{name}/json": foreign for name in (FOREIGN, "shop-postgres-1")},
            f"/containers/{OWN}/logs": "a log\n",
        }
        method, _, target = line.partition(" ")
        path = target[6:] if target.startswith("/v1.") else target
        if method == "GET":
            return (200, known[path]) if path in known else (404, {"message": f"no such thing: {path}"})
        if method == "POST" and path == "/containers/create":
            return 201, {"Id": "3" * 64, "Warnings": []}
        return 204, ""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def handle_one_request(self) -> None:
        super().handle_one_request()
        self.close_connection = True

    def _answer(self) -> None:
        engine = self.server.engine
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        assert "Transfer-Encoding" not in self.headers
        engine.asked.append(Asked(self.command, self.path, dict(self.headers), body))
        line = f"{self.command} {self.path.partition('?')[0]}"
        if line.endswith("/attach"):
            self._attached(engine)
        elif line.endswith("/wait"):
            self._waiting(engine)
        else:
            status, answer = engine.answer(line)
            told = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/plain" if isinstance(answer, str) else "application/json")
            self.send_header("X-Powered-By", "the engine")
            self.send_header("Api-Version", "1.41")
            self.send_header("Content-Length", str(len(told)))
            self.end_headers()
            self.wfile.write(told)

    def _attached(self, engine: FakeEngine) -> None:
        self.send_response(101, "UPGRADED")
        self.send_header("Content-Type", "application/vnd.docker.raw-stream")
        self.send_header("Connection", "Upgrade")
        self.send_header("Upgrade", "tcp")
        self.end_headers()
        self.wfile.write(b"\x01\0\0\0\0\0\0\x06first\n")
        self._until_released(engine)
        self.wfile.write(b"\x01\0\0\0\0\0\0\x07second\n")

    def _waiting(self, engine: FakeEngine) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self._until_released(engine)
        self.wfile.write(b'10\r\n{"StatusCode":3}\r\n0\r\n\r\n')

    def _until_released(self, engine: FakeEngine) -> None:
        """Whatever comes from the client meanwhile is written down as one more request."""
        self.connection.settimeout(0.05)
        while not engine.released.is_set():
            try:
                came = self.connection.recv(1000)
            except TimeoutError:
                continue
            if not came:
                engine.gone.set()
                return
            engine.asked.append(Asked("RAW", repr(came), {}, came))

    do_GET = do_POST = do_DELETE = do_HEAD = do_PUT = _answer  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    block_on_close = False
    engine: FakeEngine

    def get_request(self) -> tuple[socket.socket, Any]:
        # BaseHTTPRequestHandler wants an address.
        return super().get_request()[0], ("engine", 0)


@dataclass
class Proxy:
    """The proxy as a client sees it."""

    port: int
    filter: Filter

    def say(self, *pieces: bytes, half_close: bool = False) -> bytes:
        """Send bytes as they are and return everything that comes back."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as client:
            for piece in pieces:
                client.sendall(piece)
            if half_close:
                client.shutdown(socket.SHUT_WR)
            answer = b""
            try:
                while data := client.recv(65536):
                    answer += data
            except ConnectionResetError:
                answer += b"<reset>"
            return answer

    def ask(self, method: str, target: str, body: object = None, headers: str = "") -> tuple[int, Any]:
        """Send a decent request; return status and body, parsed where it is JSON."""
        content = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        kind = "Content-Type: application/json\r\n" if content else ""
        head = f"{method} {target} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n{kind}{headers}\r\n"
        answer = self.say(head.encode(), content)
        top, _, told = answer.partition(b"\r\n\r\n")
        return int(top.split()[1]), json.loads(told) if b"application/json" in top else told.decode()

    def attach(self) -> socket.socket:
        """Attach to the project's container and return the connection behind the answer's head."""
        client = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        client.sendall(
            f"POST /v1.41/containers/{OWN}/attach?stdout=1&stream=1 HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n"
            "Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n".encode()
        )
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += client.recv(1)
        assert head.startswith(b"HTTP/1.1 101 "), head
        return client


@pytest.fixture
def settings() -> Settings:
    """Those of config/containers.toml, for a project `shop`."""
    return load_settings(PROJECT / "config" / "containers.toml", project="shop", uid="50000", socket=SOCKET)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[FakeEngine]:
    fake = FakeEngine()
    with _Server(str(tmp_path / "engine.sock"), _Handler) as server:
        server.engine = fake
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield fake
        fake.released.set()
        server.shutdown()


@pytest.fixture
def proxy(engine: FakeEngine, settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Iterator[Proxy]:
    with running(Filter(Engine(str(tmp_path / "engine.sock")), settings)) as proxy:
        yield proxy
    # What asyncio tells is an error that nobody expected; it does so when the task is collected.
    gc.collect()
    assert [record for record in caplog.get_records("call") if record.name == "asyncio"] == []


@contextmanager
def running(filtering: Filter, *, sweep: bool = False) -> Iterator[Proxy]:
    """Run the proxy in a thread."""
    ready: threading.Event = threading.Event()
    port = 0
    stop = asyncio.Event()
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        nonlocal port
        server = await Server(filtering).start("127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        sweeping = asyncio.create_task(filtering.sweep()) if sweep else None
        ready.set()
        await stop.wait()
        server.close()
        if sweeping:
            sweeping.cancel()

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        thread = threading.Thread(target=lambda: runner.run(serve()))
        thread.start()
        ready.wait(30)
        try:
            yield Proxy(port, filtering)
        finally:
            loop.call_soon_threadsafe(stop.set)
            thread.join(30)
