"""The real DAG files, run through Airflow in this process, with what a person sees of it."""

from __future__ import annotations

import logging
import os
import re
import signal
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import psutil

from embedded import home
from embedded.java import choose_java
from embedded.progress import Progress, quiet_output
from shortlist.errors import ShortlistError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import FrameType

    from rich.console import Console

R = TypeVar("R")


class TaskFailedError(ShortlistError):
    """A task of a DAG failed; its own message is the text."""


def run_command(
    name: str, work: Callable[[Path, Progress], R], show: Callable[[Console, R], None], *, interrupted: str
) -> int:
    """Do the work of a command in the embedded home and show the result; everything else goes to its log.

    Args:
        name: Of the command and its log.
        work: Takes the home and the progress to report to.
        show: Prints what `work` returned.
        interrupted: What to say after an interrupt.

    Returns:
        The exit code: 0, 1 after an error, 130 after an interrupt.
    """
    folder = home.home_folder()
    home.prepare(folder)
    log = home.log_folder(folder) / f"{name}.log"
    signal.signal(signal.SIGTERM, _interrupt)
    with home.exclusive(folder, name), quiet_output(log) as console:
        progress = Progress(console)
        try:
            results = work(folder, progress)
        except KeyboardInterrupt:
            progress.end("failed")
            console.print(f"Interrupted. {interrupted}")
            return 130
        except ShortlistError as error:
            progress.end("failed")
            _print_error(console, str(error), log)
            return 1
        except Exception as error:
            progress.end("failed")
            logging.getLogger(__name__).exception("%s failed", name)
            _print_error(console, describe(error), log)
            return 1
        finally:
            _end_children()
        show(console, results)
    return 0


class Dags:
    """The DAGs of the project, ready to run.

    Attributes:
        started: Of all runs.
        database_url: Empty without a database.
    """

    def __init__(self, progress: Progress, database_url: str) -> None:
        self.started = datetime.now(UTC)
        self.database_url = database_url
        self._progress = progress
        self._dags = _load_dags()
        self._watcher = _Watcher(progress)

    def run(self, dag_id: str, conf: dict[str, Any] | None = None, run_after: datetime | None = None) -> Any:  # noqa: ANN401 - Airflow's DagRun
        """Run a DAG to its end.

        Args:
            dag_id: Of the DAG.
            conf: Its params.
            run_after: The time that the run takes for now; left out, when all runs were started.

        Raises:
            TaskFailedError: With the message of the first task that failed.
        """
        if "approval" in self._dags[dag_id].task_dict:
            raise TaskFailedError(
                f"[gate].approval asks a person before anything is published, and {dag_id} can ask nobody here: run it "
                "in the Airflow UI (make ui), or set approval = false"
            )
        self._progress.group(dag_id)
        self._watcher.error = ""
        moment = run_after or self.started
        run = self._dags[dag_id].test(run_after=moment, logical_date=moment, run_conf=conf)
        if run.state != "success":
            raise TaskFailedError(self._watcher.error or f"{dag_id} ended as {run.state}")
        return run


@contextmanager
def airflow(folder: Path, progress: Progress, *, with_database: bool) -> Iterator[Dags]:
    """Set up Java, a database if wanted, and Airflow in the environment of this process."""
    progress.group("set-up")
    with ExitStack() as running:
        with progress.step("java"):
            java_home = choose_java(folder / "java")
        url = ""
        if with_database:
            with progress.step("postgresql"):
                url = running.enter_context(home.database(folder))
        environment = home.environment(folder, java_home=java_home, database_url=url)
        os.environ.clear()
        os.environ.update(environment, SHORTLIST_TASK_RETRIES="0")
        with progress.step("airflow"):
            home.create_metadata()
            dags = Dags(progress, url)
        yield dags


def _load_dags() -> dict[str, Any]:
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(os.environ["AIRFLOW__CORE__DAGS_FOLDER"])
    if bag.import_errors:
        file, problem = next(iter(bag.import_errors.items()))
        raise TaskFailedError(f"{file} cannot be loaded: {problem.strip().splitlines()[-1]}")
    return dict(bag.dags)


class _Watcher:
    """Hears from Airflow what each task does, and shows it.

    Attributes:
        error: The message of the first task that failed.
    """

    def __init__(self, progress: Progress) -> None:
        from airflow.sdk.listener import get_listener_manager

        self.progress = progress
        self.error = ""
        get_listener_manager().add_listener(_as_listener(self))  # type: ignore[no-untyped-call]
        for name in ("steps", "shortlist"):
            logging.getLogger(name).setLevel(logging.INFO)
            logging.getLogger(name).addHandler(progress)

    def failed(self, error: BaseException | str | None) -> None:
        self.progress.end("failed")
        if isinstance(error, KeyboardInterrupt):  # Airflow takes it for an error of the task and would go on
            raise error
        self.error = self.error or describe(error)


def _as_listener(watcher: _Watcher) -> object:
    """Airflow is imported only when the environment is set, so the class with its markers is made late."""
    from airflow.listeners import hookimpl

    class Listener:
        @hookimpl
        def on_task_instance_running(self, task_instance: Any) -> None:  # noqa: ANN401
            signal.signal(signal.SIGTERM, _interrupt)  # Airflow's own handler would swallow it
            watcher.progress.begin(task_instance.task_id)

        @hookimpl
        def on_task_instance_success(self) -> None:
            watcher.progress.end("done")

        @hookimpl
        def on_task_instance_skipped(self) -> None:
            watcher.progress.end("skipped")

        @hookimpl
        def on_task_instance_failed(self, error: BaseException | str | None) -> None:
            watcher.failed(error)

    return Listener()


def _end_children() -> None:
    """End Spark's Java and its workers now rather than soon after this process."""
    children = psutil.Process().children(recursive=True)
    for child in children:
        with suppress(psutil.NoSuchProcess):
            child.terminate()
    for survivor in psutil.wait_procs(children, timeout=10)[1]:
        with suppress(psutil.NoSuchProcess):
            survivor.kill()


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def describe(error: BaseException | str | None) -> str:
    """Return an error in a few lines; of a stack trace (Spark sends those of its workers) only the end counts."""
    cause = error.__cause__ if isinstance(error, BaseException) else None
    if isinstance(cause, ShortlistError):  # in Airflow's "do not try again"
        error = cause
    if isinstance(error, str | ShortlistError):
        return str(error)
    lines = [line for line in str(error).splitlines() if line.strip()]
    named = [line for line in lines if re.match(r"[\w.]+(Error|Exception)\b", line)]
    if named and any(line.startswith("Traceback") for line in lines):
        return named[-1]
    return "\n".join([f"{type(error).__name__}: {lines[0] if lines else ''}", *lines[1:4]])


def _print_error(console: Console, message: str, log: Path) -> None:
    console.print(f"\n{message}\nEverything that was logged: {log}", style="red", markup=False, soft_wrap=True)
