"""A small application behind the service's own server and limits, in a process of its own."""

from __future__ import annotations

import asyncio
import json
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Self

from fastapi import Depends, FastAPI, Request, Response

from service.limits import BodyLimitMiddleware, WriteLimitMiddleware
from service.security import SecurityHeadersMiddleware, key_dependency
from service.server import serve

ROOT = Path(__file__).resolve().parents[2]
SETTINGS: dict[str, Any] = {
    "port": 0,
    "connections": 50,
    "header_seconds": 10.0,
    "body_bytes": 1000,
    "a_minute": 6000,
    "key": "right",
    "frame_ancestors": "https://airflow.example.com",
}


class SmallApp:
    """Runs inside a `with` block; `log` is what it wrote."""

    def __init__(self, **settings: Any) -> None:
        self._settings = SETTINGS | settings
        self.log: list[str] = []
        self.port = 0

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.service.small_app", json.dumps(self._settings)],
            cwd=ROOT,
            env={"PYTHONPATH": f"{ROOT}/plugins:{ROOT}"},
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stderr
        first = self._process.stderr.readline()
        listening = re.search(r"Listening on http://127\.0\.0\.1:(\d+)$", first)
        if not listening:
            self._process.kill()
            raise AssertionError(first + self._process.communicate()[1])
        self.port = int(listening[1])
        self.log.append(first)
        self._reader = threading.Thread(target=lambda: self.log.extend(self._process.stderr or []))
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        assert self._process.stderr
        self._process.stderr.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def terminate(self) -> None:
        self._process.send_signal(signal.SIGTERM)

    def exit_code(self) -> int:
        code = self._process.wait(timeout=20)
        self._reader.join()
        return code

    def connect(self, send: bytes = b"") -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        connection.sendall(send)
        return connection


def allow_many_connections() -> None:
    """A process may often have 1,024 open files only, unless it asks for more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(4096, hard)), hard))


def everything(connection: socket.socket) -> bytes:
    """What the other side sends until it closes the connection."""
    received = bytearray()
    try:
        while chunk := connection.recv(65536):
            received += chunk
    except ConnectionResetError:
        received += b"<reset>"
    return bytes(received)


def build(settings: dict[str, Any]) -> Any:
    app = FastAPI()

    @app.get("/")
    @app.get("/v1/thing")
    async def hello() -> str:
        return "hello"

    @app.get("/slow")
    async def slow() -> str:
        await asyncio.sleep(1)
        return "slow"

    @app.get("/big")
    async def big() -> Response:
        return Response(b"x" * 50_000_000)

    @app.get("/own-policy")
    async def own_policy() -> Response:
        return Response(headers={"Content-Security-Policy": "sandbox"})

    @app.post("/length")
    async def length(request: Request) -> int:
        return len(await request.body())

    @app.post("/change", dependencies=[Depends(key_dependency(settings["key"]))])
    async def change() -> str:
        return "changed"

    limited = BodyLimitMiddleware(app, settings["body_bytes"])
    return SecurityHeadersMiddleware(WriteLimitMiddleware(limited, settings["a_minute"]), settings["frame_ancestors"])


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    sys.exit(
        serve(
            "127.0.0.1",
            given["port"],
            lambda: build(given),
            connections=given["connections"],
            header_seconds=given["header_seconds"],
        )
    )
