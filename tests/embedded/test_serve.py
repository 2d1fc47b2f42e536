"""`make serve`: the service with its page on the tables of the embedded home."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from embedded.home import PROJECT
from embedded.postgres import EmbeddedPostgres
from shortlist.stores.database import Database, ensure_schema

if TYPE_CHECKING:
    from collections.abc import Iterator


class Served:
    """One embedded home and the command that serves it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])

    @contextmanager
    def start(self, *command: str) -> Iterator[subprocess.Popen[str]]:
        """Run a command; it is interrupted at the end of the block, also when the test has failed there."""
        variables = {"PYTHONPATH": f"{PROJECT}/plugins", "SHORTLIST_HOME": str(self.home), "DATA_ROOT": str(self.home)}
        process = subprocess.Popen(
            [sys.executable, "-m", "embedded", *command],
            env=os.environ | variables,
            cwd=PROJECT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        with process:
            try:
                yield process
            finally:
                process.send_signal(signal.SIGINT)

    def run(self, *command: str) -> str:
        with self.start(*command) as process:
            return process.communicate()[0]

    def ask(self, path: str, body: object = None, **headers: str) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", data, {"Content-Type": "application/json"} | headers
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer) if path.startswith("/v1") else answer.read().decode()

    def processes(self) -> list[str]:
        return [
            " ".join(process.info["cmdline"])
            for process in psutil.process_iter(["cmdline"])
            if process.pid != os.getpid() and any(str(self.home) in part for part in process.info["cmdline"] or ())
        ]


@pytest.fixture
def served() -> Iterator[Served]:
    """A home with empty tables, whose PostgreSQL does not run."""
    with tempfile.TemporaryDirectory(prefix="shortlist-tests-") as folder:
        Path(folder).chmod(0o755)
        with EmbeddedPostgres(Path(folder) / "postgres", port=0) as server:
            ensure_schema(Database(server.url))
        yield Served(Path(folder))


def started(command: subprocess.Popen[str]) -> str:
    """Return what the command prints until it is ready."""
    screen = ""
    assert command.stdout is not None
    for line in command.stdout:
        screen += line
        if line.startswith("log: "):
            break
    return screen


def test_the_page_is_served_with_events_and_a_key_until_an_interrupt(served: Served) -> None:
    with served.start("serve", "--port", str(served.port)) as command:
        screen = started(command)
        assert f"  http://localhost:{served.port} " in screen
        key_file = served.home / "service-api-key"
        assert f"X-API-Key: {key_file}" in screen
        assert "<html" in served.ask("/")
        assert {part["name"]: part["ok"] for part in served.ask("/v1/parts")["parts"]}.items() >= {
            ("postgresql", True), ("redis", True),
        }  # fmt: skip
        event = {"events": [{"user_id": "ann", "item_id": "mug", "key": "once"}]}
        with pytest.raises(urllib.error.HTTPError, match="401"):
            served.ask("/v1/events", event)
        for accepted in (1, 0):
            told = served.ask("/v1/events", event, **{"X-API-Key": key_file.read_text()})
            assert (told["accepted"], told["repeated"]) == (accepted, 1 - accepted)
        assert [row["item_id"] for row in served.ask("/v1/users/ann")["recent"]] == ["mug"]

        second = served.run("serve", "--port", str(served.port))
        assert f"Port {served.port} cannot be used" in second
        assert "`make serve PORT=" in second
        second = served.run("serve", "--port", "0")
        assert second == f"\n`make serve` is still at work in {served.home}: wait for its end, or `make stop`.\n"

        command.send_signal(signal.SIGINT)
        assert command.communicate()[0] == "Stopped.\n"
    assert command.returncode == 0
    assert served.processes() == []
    secrets = [key_file.read_text(), (served.home / "postgres" / "password").read_text()]
    log = (served.home / "logs" / "serve.log").read_text()
    assert not [secret for secret in secrets if secret in screen + log]
    assert key_file.stat().st_mode & 0o777 == 0o600


def test_make_stop_ends_it_and_recent_events_are_still_there_at_the_next_start(served: Served) -> None:
    for events in (["mug"], ["jug", "mug"]):
        with served.start("serve", "--port", str(served.port)) as command:
            started(command)
            key = (served.home / "service-api-key").read_text()
            event = {"events": [{"user_id": "ann", "item_id": events[0]}]}
            served.ask("/v1/events", event, **{"X-API-Key": key})
            assert [row["item_id"] for row in served.ask("/v1/users/ann")["recent"]] == events
            assert served.run("stop") == ""
            assert command.communicate()[0] == "Stopped.\n"
        assert served.processes() == []
