"""The Airflow UI on the embedded home, with scheduler, dag-processor and triggerer."""

from __future__ import annotations

import json
import signal
import sys
import time
import urllib.request
from typing import TYPE_CHECKING

from rich.console import Console

from embedded import home
from embedded.java import choose_java
from embedded.processes import running
from embedded.progress import Progress
from shortlist.errors import SetupError

if TYPE_CHECKING:
    import subprocess
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
            environment["AIRFLOW__LOGGING__LOGGING_LEVEL"] = "INFO"
            standalone = [sys.executable, "-m", "airflow", "standalone"]
            # Only an interrupt of the whole group ends all its parts.
            with running(standalone, log, environment, stop=signal.SIGINT, stop_seconds=30) as servers:
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
