"""The real service in a process of its own, on a free port of this machine."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Callable

PROJECT = Path(__file__).resolve().parents[1]
KEY = "key-of-the-tests"

_START_SECONDS = 30


def wait_until(holds: Callable[[], bool], seconds: float = 20) -> None:
    """Ask again and again, for so long."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class RunningService:
    """Runs inside a `with` block."""

    def __init__(
        self, folder: Path, *, database_url: str, redis_url: str = "", settings: str = "", **more: str
    ) -> None:
        """Prepare it.

        Args:
            folder: Root of its files; gets its settings and rules.
            database_url: Of `recs`.
            redis_url: Of recent events.
            settings: TOML that takes the place of the `[service]` table and others; the rest is the default.
            more: Further variables of its environment.
        """
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self.rules = folder / "rules.toml"
        self.log = folder / "service.log"
        (folder / "pipeline.toml").write_text(settings, encoding="utf-8")
        own = ("RECS_", "SERVICE_", "FEATURES_", "SHORTLIST_", "ELASTICSEARCH_", "DATA_ROOT")
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith(own)} | {
            "PYTHONPATH": f"{PROJECT / 'plugins'}{os.pathsep}{PROJECT}",
            "RECS_DATABASE_URL": database_url,
            "SERVICE_REDIS_URL": redis_url,
            "SERVICE_API_KEY": KEY,
            "SERVICE_PORT": str(self.port),
            "SERVICE_RULES": str(self.rules),
            "SHORTLIST_CONFIG": str(folder / "pipeline.toml"),
            "DATA_ROOT": str(folder),
            **more,
        }
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "service"], env=self._environment, stdout=log, stderr=log, cwd=PROJECT
            )
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                self.get("/health/live")
                return
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(self.log.read_text(encoding="utf-8")) from None
                time.sleep(0.02)

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=20)

    def call(
        self, method: str, path: str, body: object = None, *, key: str | None = KEY, timeout: float = 30
    ) -> tuple[int, Any]:
        """Send one request; status and decoded answer, also of an error."""
        request = urllib.request.Request(
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"} | ({"X-API-Key": key} if key else {}),
        )
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def get(self, path: str) -> Any:
        """The answer to a request that must succeed."""
        status, answer = self.call("GET", path)
        assert status == 200, (status, answer)
        return answer

    def raw(self, path: str) -> tuple[dict[str, str], bytes]:
        """Headers, by lower-case name, and body of an answer."""
        with urllib.request.urlopen(self.url + path, timeout=30) as answer:
            return {name.lower(): value for name, value in answer.headers.items()}, answer.read()

    def recommended(self, user: str, query: str = "") -> list[str]:
        """The ids recommended to a user."""
        answer = self.get(f"/v1/recommendations/{quote(user, safe='')}{query}")
        return [item["item_id"] for item in answer["items"]]

    def refresh(self) -> None:
        """Let it look at what is served, now."""
        assert self.call("POST", "/v1/admin/refresh")[0] == 200
