"""A real stack of containers for the tests: a copy of the project, a name and ports of its own."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import requests

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

T = TypeVar("T")

PROJECT = Path(__file__).resolve().parents[2]


@dataclass
class Stack:
    """One copy of the project and its containers."""

    folder: Path
    name: str
    settings: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        tracked = _output(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], PROJECT)
        for name in tracked.split("\0"):
            if name and (PROJECT / name).exists():
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(PROJECT / name, self.folder / name)
        self.settings = {
            "COMPOSE_PROJECT_NAME": self.name,
            "PORT": str(_free_port()),
            "MLFLOW_PORT": str(_free_port()),
            **self.settings,
        }

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "COMPOSE_ANSI": "never", "COMPOSE_PROGRESS": "plain", **self.settings}

    def command(self, *words: str, timeout: float = 900, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run any command in the copy, as a user would."""
        ended = subprocess.run(
            words,
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if check and ended.returncode:
            raise AssertionError(f"{' '.join(words)} ended with {ended.returncode}:\n{ended.stdout}\n{ended.stderr}")
        return ended

    def compose(self, *words: str, timeout: float = 900, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.command("docker", "compose", *words, timeout=timeout, check=check)

    def up(self, *words: str) -> None:
        self.compose("up", "--build", "--detach", "--wait", "--wait-timeout", "400", "--quiet-pull", *words)

    def inspect(self) -> dict[str, dict[str, Any]]:
        """What the engine knows of each service's container."""
        ids = self.compose("ps", "--all", "--quiet").stdout.split()
        containers = json.loads(_output(["docker", "inspect", *ids], self.folder))
        return {container["Config"]["Labels"]["com.docker.compose.service"]: container for container in containers}

    def secrets(self) -> dict[str, str]:
        """The secrets of the stack, by the names they are kept under."""
        kept = self.compose("run", "--rm", "--no-deps", "-T", "setup", "cat", "/run/secrets/kept/secrets.json").stdout
        return dict(json.loads(kept))

    def sql(self, query: str) -> list[list[str]]:
        """Ask the database `recs`; every value as text."""
        answer = self.compose(
            "exec", "-T", "--user", "postgres", "postgres",
            "psql", "recs", "--no-align", "--tuples-only", "--field-separator", "\t", "--command", query,
        )  # fmt: skip
        return [line.split("\t") for line in answer.stdout.splitlines()]

    def task_log(self, dag_id: str, run_id: str, task_id: str) -> str:
        folder = self.folder / "logs" / f"dag_id={dag_id}" / f"run_id={run_id}" / f"task_id={task_id}"
        return "".join(file.read_text(encoding="utf-8") for file in sorted(folder.glob("*.log")))


class Airflow:
    """Airflow's REST API, as people use it."""

    def __init__(self, port: str, password: str) -> None:
        self.base = f"http://127.0.0.1:{port}"
        self._session = requests.Session()
        token = self._session.post(
            f"{self.base}/auth/token", json={"username": "admin", "password": password}, timeout=60
        )
        assert token.status_code == 201, token.text
        self._session.headers["Authorization"] = f"Bearer {token.json()['access_token']}"

    def call(self, method: str, path: str, body: object = None, expect: int = 200) -> Any:  # noqa: ANN401
        answer = self._session.request(method, f"{self.base}/api/v2/{path}", json=body, timeout=60)
        assert answer.status_code == expect, f"{method} {path}: {answer.status_code} {answer.text[:500]}"
        return answer.json()

    def get(self, path: str) -> Any:  # noqa: ANN401
        return self.call("GET", path)

    def trigger(self, dag_id: str, **conf: object) -> str:
        run = self.call("POST", f"dags/{dag_id}/dagRuns", {"logical_date": None, "conf": conf})
        return str(run["dag_run_id"])

    def wait(self, dag_id: str, run_id: str, seconds: float = 600) -> str:
        """Wait for the end of a run and return its state."""

        def ended() -> str | None:
            state = self.get(f"dags/{dag_id}/dagRuns/{run_id}")["state"]
            return str(state) if state in ("success", "failed") else None

        return wait_for(ended, f"{dag_id} {run_id} to end", seconds)

    def states(self, dag_id: str, run_id: str) -> dict[str, str]:
        tasks = self.get(f"dags/{dag_id}/dagRuns/{run_id}/taskInstances")["task_instances"]
        return {task["task_id"]: task["state"] for task in tasks}

    def xcom(self, dag_id: str, run_id: str, task_id: str) -> Any:  # noqa: ANN401
        path = f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/return_value"
        return self.get(path)["value"]


def wait_for(look: Callable[[], T | None], what: str, seconds: float) -> T:
    """Look every second until there is something."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(1)
    raise AssertionError(f"waited {seconds} s for {what}")


def found_in(texts: Iterable[str], values: dict[str, str]) -> set[str]:
    """Return the names of the values that occur in any of the texts."""
    return {name for text in texts for name, value in values.items() if value in text}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _output(words: list[str], folder: Path) -> str:
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, check=True).stdout
