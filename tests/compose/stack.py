"""A real stack of containers for the tests: a copy of the project, a name and ports of its own."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from compose import demo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

T = TypeVar("T")

_PORTS = ("PORT", "MLFLOW_PORT", "FLOWER_PORT", "REDIS_COMMANDER_PORT", "SERVICE_PORT", "KIBANA_PORT")

PROJECT = Path(__file__).resolve().parents[2]

LIGHT = "docker-compose.yaml:docker-compose.light.yaml"

# The services that end when they have done their work.
ONCE = {"setup", "airflow-init"}

# Every fourth customer is enough: what takes the time is the number of steps, not of rows.
SAMPLE = "data/raw/sample.parquet"

# After how many seconds Airflow gives something up for lost; half of what config/airflow.cfg says. A retry comes after
# half the time, too.
IMPATIENCE = {
    "task_instance_heartbeat_timeout": 45,
    "orphaned_tasks_check_interval": 30,
    "task_queued_timeout": 90,
    "task_queued_timeout_check_interval": 15,
}


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
                shutil.copy(PROJECT / name, self.folder / name, follow_symlinks=False)
        self.settings = {
            "COMPOSE_PROJECT_NAME": self.name,
            **{name: str(_free_port()) for name in _PORTS},
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

    def wait_until_healthy(self, seconds: float = 300) -> None:
        """Wait for containers that were started one by one, which sets nothing up again as `up` does."""

        def healthy() -> bool:
            stay = [each for each in self.inspect().values() if each["HostConfig"]["RestartPolicy"]["Name"] != "no"]
            states = [container["State"] for container in stay]
            return all(state["Running"] and state["Health"]["Status"] == "healthy" for state in states)

        wait_for(healthy, "every service to be healthy", seconds)

    def remove(self) -> None:
        """Take the stack down with all it kept, and its images."""
        self.compose("--profile", "*", "down", "--volumes", "--remove-orphans", check=False)
        images = self.command("docker", "image", "ls", "--quiet", f"{self.name}-*").stdout.split()
        self.command("docker", "image", "rm", *images, check=False)

    def inspect(self) -> dict[str, dict[str, Any]]:
        """What the engine knows of each service's container."""
        ids = self.compose("ps", "--all", "--quiet").stdout.split()
        containers = json.loads(_output(["docker", "inspect", *ids], self.folder))
        return {container["Config"]["Labels"]["com.docker.compose.service"]: container for container in containers}

    def secrets(self) -> dict[str, str]:
        """The secrets of the stack, by the names they are kept under."""
        kept = self.compose("run", "--rm", "--no-deps", "-T", "setup", "cat", "/run/secrets/kept/secrets.json").stdout
        return dict(json.loads(kept))

    def known_to(self, service: str) -> str:
        """Return the environment and the arguments of a service's processes, and its files of secrets."""
        # Without capabilities, root reads of other users' processes no more than anybody.
        user = {"postgres": "postgres", "redis": "redis"}.get(service)
        inside = ("exec", "-T", *(("--user", user) if user else ()), service)
        first = self.compose(*inside, "cat", "/proc/1/environ", "/proc/1/cmdline").stdout
        others = "cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline; find /run/secrets -type f -exec cat {} +"
        return first + self.compose(*inside, "sh", "-c", others, check=False).stdout

    def airflow(self) -> Airflow:
        """Log in as the administrator."""
        return Airflow(f"http://127.0.0.1:{self.settings['PORT']}", "admin", self.secrets()["ADMIN_PASSWORD"])

    def add_dag(self, airflow: Airflow, file: Path, *dag_ids: str, seconds: float = 60) -> None:
        """Put a file into dags/ and wait until Airflow knows the DAGs of it."""
        shutil.copy(file, self.folder / "dags")
        for dag_id in dag_ids:
            wait_for(lambda: airflow.get(f"dags?dag_id_pattern={dag_id}")["dags"], dag_id, seconds)  # noqa: B023

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


@contextmanager
def booted(
    name: str, settings: dict[str, str] | None = None, override: Mapping[str, object] | None = None
) -> Iterator[Stack]:
    """Boot a stack on the sample in a folder of its own, and remove it with all it kept; its logs stay beside.

    Args:
        name: Of the project; the process id follows.
        settings: Variables, as in `.env`.
        override: One more compose file.
    """
    with tempfile.TemporaryDirectory(prefix=f"{name}-", ignore_cleanup_errors=True) as folder:
        stack = Stack(
            Path(folder), f"{name}-{os.getpid()}", {"SHORTLIST_INPUT": f"/opt/airflow/{SAMPLE}", **(settings or {})}
        )
        _write_sample(stack.folder)
        _make_impatient(stack.folder)
        _let_nothing_start_by_itself(stack.folder)
        if override:
            (stack.folder / "override.json").write_text(json.dumps(override), encoding="utf-8")
            compose_file = stack.settings.get("COMPOSE_FILE", "docker-compose.yaml")
            stack.settings["COMPOSE_FILE"] = f"{compose_file}:override.json"
        try:
            stack.up()
            yield stack
        finally:
            logs = stack.compose("logs", "--no-color", check=False).stdout
            Path(tempfile.gettempdir(), f"{name}.log").write_text(logs, encoding="utf-8")
            stack.remove()


class Airflow(demo.Airflow):
    """Airflow's REST API, and to wait for it."""

    def get(self, path: str) -> dict[str, Any]:
        return self.call("GET", path)

    def wait(self, dag_id: str, run_id: str, seconds: float = 600) -> str:
        """Wait for the end of a run and return its state."""

        def ended() -> str | None:
            state = self.state(dag_id, run_id)
            return state if state in ("success", "failed") else None

        return wait_for(ended, f"{dag_id} {run_id} to end", seconds)

    def states(self, dag_id: str, run_id: str) -> dict[str, str]:
        return {task["task_id"]: task["state"] for task in self.tasks(dag_id, run_id)}

    def xcom(self, dag_id: str, run_id: str, task_id: str, key: str = "return_value") -> Any:  # noqa: ANN401
        path = f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/{key}"
        return self.get(path)["value"]


def wait_for(look: Callable[[], T | None], what: str, seconds: float) -> T:
    """Look every second until there is something."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(1)
    raise AssertionError(f"waited {seconds} s for {what}")


def log_of_a_changed_step(stack: Stack, airflow: Airflow) -> str:
    """Change the first step of a DAG while the stack runs, reload, and return that task's log."""
    file = stack.folder / "plugins" / "steps" / "hand_over.py"
    text = file.read_text()
    file.write_text(
        f"{text}\n\n"
        "def load_reference(**_):\n"
        "    from shortlist.errors import NothingToDoError\n"
        "    raise NothingToDoError('this is the changed step')\n"
    )
    try:
        stack.command("make", "reload")
        run_id = airflow.trigger("load_default_recs")
        assert airflow.wait("load_default_recs", run_id) == "success"
        return stack.task_log("load_default_recs", run_id, "load_reference")
    finally:
        file.write_text(text)


def found_in(texts: Iterable[str], values: dict[str, str]) -> set[str]:
    """Return the names of the values that occur in any of the texts."""
    return {name for text in texts for name, value in values.items() if value in text}


def deliver_feedback(stack: Stack, *, times: int = 1, days_later: int = 0) -> None:
    """Put a third of the sample's user-days into data/streaming/, with the amounts multiplied and the days moved."""
    import pandas as pd

    rows = pd.read_parquet(stack.folder / SAMPLE)
    day = rows.InvoiceDate.dt.normalize()
    third = pd.util.hash_pandas_object(rows.CustomerID.astype(str) + day.astype(str), index=False) % 3 == 0
    chosen = rows[third & rows.CustomerID.notna() & (rows.Quantity > 0)]
    feedback = pd.DataFrame(
        {
            "DATE": (chosen.InvoiceDate + pd.Timedelta(days=days_later)).dt.strftime("%Y-%m-%d %H:%M:%S"),
            "CUST_ID": chosen.CustomerID.astype(int),
            "MOVIE_ID": chosen.StockCode,
            "RATING": chosen.Quantity * times,
        }
    )
    file = stack.folder / "data" / "streaming" / "current.csv"
    file.parent.mkdir(exist_ok=True)
    file.parent.chmod(0o777)
    feedback.to_csv(file.with_suffix(".part"), index=False)
    file.with_suffix(".part").rename(file)


def _write_sample(folder: Path) -> None:
    """Write a part of the bundled data to `SAMPLE` in a copy of the project."""
    import numpy as np
    import pyarrow.parquet as pq

    rows = pq.read_table(folder / "sample_data/online_retail.parquet")
    customers = rows["CustomerID"].to_numpy()
    kept = np.where(np.isnan(customers), np.arange(rows.num_rows), customers) % 4 == 0
    (folder / SAMPLE).parent.mkdir(parents=True)
    pq.write_table(rows.filter(kept), folder / SAMPLE)


def _make_impatient(folder: Path) -> None:
    file = folder / "config" / "airflow.cfg"
    text = file.read_text(encoding="utf-8")
    for name, seconds in IMPATIENCE.items():
        text, found = re.subn(rf"(?m)^{name} = \d+$", f"{name} = {seconds}", text)
        assert found == 1, name
    file.write_text(text, encoding="utf-8")
    file = folder / "plugins" / "dag_support" / "defaults.py"
    text, found = re.subn(
        r'("retry_delay": timedelta)\(minutes=1\)', r"\1(seconds=30)", file.read_text(encoding="utf-8")
    )
    assert found == 1
    file.write_text(text, encoding="utf-8")


def _let_nothing_start_by_itself(folder: Path) -> None:
    """Take the schedules from DAGs that are switched off, so that those who switch them on get no run beside theirs."""
    for name in ("catalogue_refresh", "interactions_transform"):
        file = folder / "dags" / f"{name}.py"
        text, found = re.subn(r'schedule="@\w+"', "schedule=None", file.read_text(encoding="utf-8"))
        assert found == 1
        file.write_text(text, encoding="utf-8")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _output(words: list[str], folder: Path) -> str:
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, check=True).stdout
