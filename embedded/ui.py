"""The Airflow UI on the embedded home, with scheduler, dag-processor and triggerer."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console

from embedded import home
from embedded.java import choose_java
from embedded.progress import Progress
from shortlist.errors import SetupError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_START_SECONDS = 600


def run_ui(port: int) -> int:
    """Serve the UI until an interrupt.

    Returns:
        The exit code.
    """
    home.check_port(port, "ui")
    folder = home.home_folder()
    home.prepare(folder)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console(highlight=False)
    progress = Progress(console)
    log = home.log_folder(folder) / "ui.log"
    try:
        with home.exclusive(folder, "ui"), home.database(folder) as url:
            environment = home.environment(
                folder, java_home=choose_java(folder / "java"), database_url=url, api_port=port
            )
            with _servers(environment | {"AIRFLOW__LOGGING__LOGGING_LEVEL": "INFO"}, log) as servers:
                with progress.step("Airflow starts"):
                    _wait_until_healthy(servers, port, log)
                console.print(f"\n  http://localhost:{port}    user admin    password {home.admin_password(folder)}\n")
                console.print("Switch a DAG on and press its play button; ctrl-C here stops everything.")
                console.print(f"log: {log}", soft_wrap=True)
                servers.wait()
                raise SetupError(f"Airflow ended by itself: {log} tells why.")
    except KeyboardInterrupt:
        console.print("Stopped.")
    return 0


@contextmanager
def _servers(environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run `airflow standalone` in a process group of its own: only an interrupt of the whole group ends all parts."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "airflow", "standalone"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        for seconds, number in ((30, signal.SIGINT), (5, signal.SIGKILL)):
            try:
                os.killpg(process.pid, number)
                process.wait(timeout=seconds)
            except ProcessLookupError:
                break
            except subprocess.TimeoutExpired:
                continue


def _wait_until_healthy(servers: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not _healthy(port):
        if servers.poll() is not None or time.monotonic() > deadline:
            raise SetupError(f"Airflow did not start: {log} tells why.")
        time.sleep(0.5)


def _healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v2/monitor/health", timeout=5) as answer:  # noqa: S310
            parts = json.load(answer)
    except (OSError, ValueError):
        return False
    return all(parts[name]["status"] == "healthy" for name in ("metadatabase", "scheduler", "dag_processor"))
