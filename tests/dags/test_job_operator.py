"""A container task against an engine that only pretends (tests/fake_engine.py), in processes that really are killed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest

from tests.fake_engine import Container, FakeEngine, well

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PROJECT = Path(__file__).resolve().parents[2]
SECRET = "s3cr3t-pass/word"  # noqa: S105
DATABASE_URL = f"postgresql://recs:{SECRET.replace('/', '%2F')}@postgres:5432/recs"
NAME = re.compile(r"shop-job-[0-9a-f]{16}")
# Far more than anything takes; whatever hangs is noticed.
SECONDS = 60
KILLED = ("JobError", "the task was killed")


class Tasks:
    """Runs container tasks, one after the other."""

    def __init__(self, home: Path, engine: FakeEngine) -> None:
        self._home = home
        self._engine = engine
        self._count = 0
        self._running = 0

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, Path(__file__).parent / "probes" / "run_operator.py"],
            env=os.environ
            | {
                "AIRFLOW_HOME": str(self._home),
                "PYTHONPATH": str(PROJECT / "plugins"),
                "COMPOSE_PROJECT_NAME": "shop",
                "DOCKER_HOST": self._engine.url,
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._read()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def start(
        self,
        *,
        attempt: str = "one",
        try_number: int = 1,
        timeout: float = SECONDS,
        kill_when_done: bool = False,
        worker: dict[str, str] | None = None,
        **options: Any,
    ) -> int:
        """Begin a task; returns its process id. `worker` is what the worker's environment has beside the usual."""
        if self._running:  # of a test that failed
            os.kill(self._running, signal.SIGKILL)
            self._read()
        self._count += 1
        self._folder = self._home / str(self._count)
        self._folder.mkdir()
        task = {
            "options": options,
            "attempt": attempt,
            "try_number": try_number,
            "timeout": timeout,
            "kill_when_done": kill_when_done,
            "worker": worker or {},
            "folder": str(self._folder),
        }
        assert self._process.stdin
        self._process.stdin.write(json.dumps(task) + "\n")
        self._process.stdin.flush()
        self._running = int(self._read())
        return self._running

    @property
    def log_file(self) -> Path:
        """Of the task that was started last."""
        return self._folder / "output"

    def end(self) -> dict[str, Any]:
        """Wait for the end of the task."""
        status = int(self._read())
        self._running = 0
        output = (self._folder / "output").read_text()
        assert status == 0, output
        result: dict[str, Any] = json.loads((self._folder / "result.json").read_text())
        return result | {"output": output}

    def run(self, **task: Any) -> dict[str, Any]:
        self.start(**task)
        return self.end()

    def _read(self) -> str:
        assert self._process.stdout
        watch = threading.Timer(2 * SECONDS, self._process.kill)
        watch.start()
        line = self._process.stdout.readline()
        watch.cancel()
        assert line, "the task hung"
        return line


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Tasks, FakeEngine]]:
    with FakeEngine() as engine, Tasks(tmp_path_factory.mktemp("airflow"), engine) as tasks:
        yield tasks, engine


@pytest.fixture
def engine(shared: tuple[Tasks, FakeEngine]) -> FakeEngine:
    engine = shared[1]
    engine.containers.clear()
    engine.made.clear()
    engine.requests.clear()
    engine.program = well
    engine.before = lambda method, path: None
    engine.created = lambda container: None
    return engine


@pytest.fixture
def tasks(shared: tuple[Tasks, FakeEngine], engine: FakeEngine) -> Tasks:
    return shared[0]


def says(*lines: tuple[str, str | bytes], code: int = 0) -> Callable[[Container], int]:
    """A container that says that on `out` and `err`."""

    def program(container: Container) -> int:
        for stream, text in lines:
            (container.out if stream == "out" else container.err)(text)
        return code

    return program


def lines_of(ended: dict[str, Any]) -> list[str]:
    """What the task's own log says."""
    return [
        line.rstrip() for line in re.findall(r"^\S+Z \[\w+ *\] (.*?)\[airflow\.task", ended["output"], re.MULTILINE)
    ]


def wait_for(event: threading.Event) -> None:
    assert event.wait(SECONDS)


def test_the_container_is_the_one_that_was_asked_for_and_gone_in_the_end(tasks: Tasks, engine: FakeEngine) -> None:
    engine.program = says(("out", 'three items\n{"result": {"items": 3}}\n'))

    ended = tasks.run(
        command=["python", "score.sh"],
        secrets=["RECS_DATABASE_URL", "NOT_SET"],
        variables=["PLACE", "NOT_SET_EITHER"],
        environment={"SEEN": "by all"},
        worker={"RECS_DATABASE_URL": DATABASE_URL, "PLACE": "here", "NOT_ASKED_FOR": "x"},
        working_dir="/opt/airflow",
        mem_limit="512m",
    )

    assert ended["returned"] == {"items": 3}
    (container,) = engine.made
    assert NAME.fullmatch(container.name)
    assert container.environment == {"RECS_DATABASE_URL": DATABASE_URL, "PLACE": "here", "SEEN": "by all"}
    assert container.labels == {
        "dag_id": "a_dag",
        "run_id": "manual__2026-03-01",
        "task_id": "score",
        "try_number": "1",
        "attempt": "one",
    }
    assert (container.body["Image"], container.body["Cmd"]) == ("shortlist-jobs", ["python", "score.sh"])
    assert container.body["WorkingDir"] == "/opt/airflow"
    host = container.body["HostConfig"]
    assert (host["NetworkMode"], host["Memory"]) == ("shop_jobs", 512 * 1024**2)
    assert engine.containers == {}


def test_lines_are_in_the_tasks_log_as_soon_as_they_are_said(tasks: Tasks, engine: FakeEngine) -> None:
    said, seen = threading.Event(), threading.Event()

    def program(container: Container) -> int:
        container.out("first\n")
        said.set()
        wait_for(seen)  # the container does not end before its first line was seen
        return 0

    engine.program = program
    tasks.start()
    wait_for(said)
    log = tasks.log_file
    for _ in range(SECONDS * 20):
        if log.exists() and "first" in log.read_text():
            break
        threading.Event().wait(0.05)
    else:
        pytest.fail("the line did not come")
    seen.set()
    assert "raised" not in tasks.end()


def test_pieces_cut_anywhere_become_the_lines_that_were_said(tasks: Tasks, engine: FakeEngine) -> None:
    letters = "größe 漢字\n".encode()
    engine.program = says(
        *(("out", bytes([byte])) for byte in letters),
        ("out", "half"), ("err", "a warning\nanother"), ("out", " a line\n"), ("err", " one\n"),
        ("out", b"\xff broken\n"), ("out", "\n"), ("out", "progress\r\n"), ("out", "the end"),
    )  # fmt: skip

    assert lines_of(tasks.run())[-8:] == [
        "größe 漢字", "a warning", "half a line", "another one", "� broken", "", "progress", "the end",
    ]  # fmt: skip


def test_a_line_without_end_does_not_fill_the_memory(tasks: Tasks, engine: FakeEngine) -> None:
    engine.program = says(*[("out", "x" * 10_000)] * 20)

    assert [len(line) for line in lines_of(tasks.run())[-3:]] == [70_000, 70_000, 60_000]


@pytest.mark.parametrize(
    ("last", "result"),
    [
        ('{"result": [1, "two"]}\n', [1, "two"]),
        ('{"result": null}', None),
        ('{"result": {"share": NaN}}', {"share": None}),
        ('{"result": 1, "more": 2}', None),
        ("{not json", None),
        ("[" * 100_000, None),
        ("", None),
    ],
)
def test_the_result_is_the_last_line_on_stdout(tasks: Tasks, engine: FakeEngine, last: str, result: object) -> None:
    engine.program = says(("out", '{"result": "an earlier one"}\n' if last else ""), ("out", last), ("err", "bye\n"))

    assert tasks.run()["returned"] == result


def test_sentences_listened_for_are_told_once_wherever_they_were_said(tasks: Tasks, engine: FakeEngine) -> None:
    engine.program = says(
        ("err", "INFO New data was transf"), ("err", "ormed today\n"), ("out", "New data was transformed\n"),
        *[("out", f"line {number}\n") for number in range(2000)],
    )  # fmt: skip

    ended = tasks.run(listen_for=["New data was transformed", "never said"])

    assert ended["pushed"] == {"said": ["New data was transformed"]}


def test_nothing_listened_for_nothing_told(tasks: Tasks, engine: FakeEngine) -> None:
    engine.program = says(("out", "New data was transformed\n"))

    assert tasks.run()["pushed"] == {}


def test_exit_code_99_skips_with_the_reason_in_the_log(tasks: Tasks, engine: FakeEngine) -> None:
    engine.program = says(("out", "looking\n"), ("err", "there is no new event\n"), ("out", "bye\n"), code=99)

    ended = tasks.run()

    assert (ended["raised"], ended["message"]) == ("AirflowSkipException", "there is no new event")
    assert "nothing to do: there is no new event" in lines_of(ended)
    assert engine.containers == {}


def test_a_failure_names_image_code_and_last_error_line(tasks: Tasks, engine: FakeEngine) -> None:
    engine.program = says(("err", "Traceback\nValueError: no such file\n\n"), ("out", "bye\n"), code=3)

    ended = tasks.run()

    assert (ended["raised"], ended["message"]) == (
        "JobError", "the container of shortlist-jobs ended with exit code 3: ValueError: no such file",
    )  # fmt: skip
    assert engine.containers == {}


def test_that_memory_was_short_is_told(tasks: Tasks, engine: FakeEngine) -> None:
    def program(container: Container) -> int:
        container.err("row 1000\n")
        container.out_of_memory = True
        return 137

    engine.program = program

    assert tasks.run()["message"] == (
        "the container of shortlist-jobs needed more memory than it may have and was killed: row 1000"
    )


def test_a_variable_of_airflow_skips_without_any_container(tasks: Tasks, engine: FakeEngine) -> None:
    ended = tasks.run(skip_when="is_development", worker={"AIRFLOW_VAR_IS_DEVELOPMENT": "Yes"})

    assert (ended["raised"], ended["message"]) == ("AirflowSkipException", "the variable is_development is set")
    assert engine.requests == []


def test_a_variable_that_says_no_skips_nothing(tasks: Tasks, engine: FakeEngine) -> None:
    assert tasks.run(skip_when="is_development", worker={"AIRFLOW_VAR_IS_DEVELOPMENT": "false"})["returned"] is None
    assert len(engine.made) == 1


def test_without_the_proxy_nothing_is_tried_on_the_engines_own_socket(tasks: Tasks) -> None:
    ended = tasks.run(worker={"DOCKER_HOST": ""})

    assert ended["raised"] == "AirflowFailException"
    assert "COMPOSE_PROFILES=containers" in ended["message"]


def test_a_leftover_of_the_same_task_is_removed_and_told(tasks: Tasks, engine: FakeEngine) -> None:
    tasks.run()
    left = engine.put(engine.made[0].name, try_number="1", attempt="one")

    ended = tasks.run(attempt="two", try_number=2)

    assert "returned" in ended
    assert left.killed.is_set()
    assert f"removing the container {left.name}, which attempt 1 left behind" in lines_of(ended)
    assert engine.containers == {}


def test_an_attempt_that_wakes_up_late_leaves_the_newer_one_alone(tasks: Tasks, engine: FakeEngine) -> None:
    tasks.run()
    newer = engine.put(engine.made[0].name, try_number="2", attempt="two")

    ended = tasks.run(attempt="one", try_number=1)

    assert (ended["raised"], ended["message"]) == (
        "JobError", "attempt 2 of this task is at work: attempt 1, long given up, gives way",
    )  # fmt: skip
    assert list(engine.containers.values()) == [newer]
    assert not newer.killed.is_set()


def test_a_container_of_another_attempt_is_not_removed_by_one_that_could_not_create_its_own(
    tasks: Tasks, engine: FakeEngine
) -> None:
    tasks.run()
    name = engine.made[0].name
    others: list[Container] = []

    def somebody_is_faster(method: str, path: str) -> None:
        if path == "/containers/create":
            others.append(engine.put(name, try_number="2", attempt="two"))

    engine.before = somebody_is_faster

    ended = tasks.run()

    assert "is already in use" in ended["message"]
    assert list(engine.containers.values()) == others


def test_a_killed_task_removes_its_container_while_that_runs(tasks: Tasks, engine: FakeEngine) -> None:
    running = threading.Event()

    def program(container: Container) -> int:
        running.set()
        wait_for(container.killed)
        return 0

    engine.program = program
    task = tasks.start()
    wait_for(running)

    os.kill(task, signal.SIGTERM)

    ended = tasks.end()
    assert (ended["raised"], ended["message"]) == KILLED
    assert engine.containers == {}


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_killed_task_leaves_no_container_that_the_engine_was_just_creating(
    tasks: Tasks, engine: FakeEngine, moment: str
) -> None:
    """Killed before the engine has made it, and after that, when the answer is still on its way."""
    asked, looked, go_on = threading.Event(), threading.Event(), threading.Event()

    def hold_before(method: str, path: str) -> tuple[int, str] | None:
        if path == "/containers/create":
            asked.set()
            wait_for(go_on)
        elif asked.is_set() and not looked.is_set():  # the signal handler finds nothing yet
            looked.set()
            return 404, "No such container"
        return None

    def hold_after(container: Container) -> None:
        asked.set()
        wait_for(go_on)

    if moment == "before":
        engine.before = hold_before
    else:
        engine.created = hold_after
    task = tasks.start()
    wait_for(asked)

    os.kill(task, signal.SIGTERM)

    wait_for(looked if moment == "before" else engine.made[0].killed)
    go_on.set()
    ended = tasks.end()
    assert (ended["raised"], ended["message"]) == KILLED
    assert engine.containers == {}
    assert not engine.made[0].started.is_set()


def test_a_kill_after_the_end_harms_nothing(tasks: Tasks, engine: FakeEngine) -> None:
    engine.program = says(("out", '{"result": 1}'))

    assert tasks.run(kill_when_done=True)["returned"] == 1


def test_a_kill_before_anything_was_asked_of_the_engine_harms_nothing(tasks: Tasks, engine: FakeEngine) -> None:
    ended = tasks.run(kill_when_done=True, skip_when="is_development", worker={"AIRFLOW_VAR_IS_DEVELOPMENT": "true"})

    assert ended["raised"] == "AirflowSkipException"


def test_a_time_limit_removes_the_container_too(tasks: Tasks, engine: FakeEngine) -> None:
    def program(container: Container) -> int:
        wait_for(container.killed)
        return 0

    engine.program = program

    assert tasks.run(timeout=2)["raised"] == "AirflowTaskTimeout"
    assert engine.containers == {}


def test_a_container_that_somebody_else_removes_fails_the_task(tasks: Tasks, engine: FakeEngine) -> None:
    def program(container: Container) -> int:
        engine.containers.pop(container.id)
        return 0

    engine.program = program

    ended = tasks.run()

    assert ended["raised"] == "JobError"
    assert "could not learn how the container ended: No such container" in ended["message"]


def test_an_engine_that_is_away_is_named(tasks: Tasks, engine: FakeEngine) -> None:
    ended = tasks.run(worker={"DOCKER_HOST": "tcp://127.0.0.1:9"})

    assert ended["raised"] == "JobError"
    assert ended["message"].startswith("no answer from the container engine at tcp://127.0.0.1:9: ")


def test_that_a_container_cannot_be_removed_does_not_hide_how_it_ended(tasks: Tasks, engine: FakeEngine) -> None:
    engine.program = says(("err", "no such file\n"), code=1)
    engine.before = lambda method, path: (500, "the disk is full") if method == "DELETE" else None

    ended = tasks.run()

    assert ended["message"].endswith("ended with exit code 1: no such file")
    assert any("could not be removed" in line and line.endswith("the disk is full") for line in lines_of(ended))


def test_an_image_that_is_not_there_is_named_with_what_the_engine_says(tasks: Tasks, engine: FakeEngine) -> None:
    engine.images = ()
    try:
        ended = tasks.run()
    finally:
        engine.images = ("shortlist-jobs",)

    assert ended["message"] == "could not find the image shortlist-jobs: shortlist-jobs may not be fetched"


def repeats_its_secret(container: Container) -> int:
    url = container.environment["RECS_DATABASE_URL"]
    container.out(f"connecting to {url} with {SECRET}\n")
    container.err(f"refused: {url}\n")
    container.out(json.dumps({"result": {"url": url, "token": container.environment["TOKEN"]}}) + "\n")
    return int(container.environment["CODE"])


@pytest.mark.parametrize("code", [0, 1, 99])
def test_secrets_stand_in_no_log_field_or_error_whatever_the_container_says(
    tasks: Tasks, engine: FakeEngine, code: int
) -> None:
    engine.program = repeats_its_secret

    ended = tasks.run(
        secrets=["RECS_DATABASE_URL", "TOKEN"],
        environment={"CODE": str(code)},
        worker={"RECS_DATABASE_URL": DATABASE_URL, "TOKEN": "t0ken-of-mine"},
    )

    assert engine.made[0].environment["RECS_DATABASE_URL"] == DATABASE_URL
    assert "***" in ended["output"]
    shown = json.dumps(ended)
    for secret in (SECRET, SECRET.replace("/", "%2F"), "t0ken-of-mine"):
        assert secret not in shown


def test_secrets_stand_in_no_error_of_the_engine_that_repeats_the_request(tasks: Tasks, engine: FakeEngine) -> None:
    engine.before = lambda method, path: (400, f"bad environment: X={DATABASE_URL}") if "create" in path else None

    ended = tasks.run(secrets=["RECS_DATABASE_URL"], worker={"RECS_DATABASE_URL": DATABASE_URL})

    assert ended["message"].startswith("could not create a container of shortlist-jobs: bad environment: X=")
    assert SECRET.replace("/", "%2F") not in json.dumps(ended)
