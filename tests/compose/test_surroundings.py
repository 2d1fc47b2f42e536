"""Bad surroundings: one clear sentence from a start-up check, before anything has run for long."""

from __future__ import annotations

import socket
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.compose.stack import Stack

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.compose.stack import Airflow

SETUP = ("run", "--rm", "--no-deps", "-T")


@pytest.fixture
def second_copy(stack: Stack) -> Iterator[Stack]:
    """Another folder with the project, and the name of the first one's stack."""
    with tempfile.TemporaryDirectory(prefix="shortlist-compose-") as folder:
        yield Stack(Path(folder), stack.name, {"PORT": stack.settings["PORT"]})


@pytest.mark.parametrize(
    ("variable", "told"),
    [
        ("AIRFLOW_UID=0", "AIRFLOW_UID=0 must be the number of a user other than root"),
        ("FERNET_KEY=of-another-stack", "FERNET_KEY in .env is not the one that this stack was made with"),
        ("MEMORY_NEEDED_GIB=4000", "GiB of memory and these services need 4000"),
    ],
)
def test_a_wrong_setting_is_named_and_nothing_starts(stack: Stack, variable: str, told: str) -> None:
    ended = stack.compose(*SETUP, "--env", variable, "setup", check=False)

    assert ended.returncode == 1
    assert told in ended.stderr
    assert "Traceback" not in ended.stderr + ended.stdout


def test_a_second_copy_of_the_same_name_is_told_apart(stack: Stack, second_copy: Stack) -> None:
    ended = second_copy.compose(*SETUP, "setup", check=False)

    assert ended.returncode == 1
    assert f"belong to another copy of the project, in {stack.folder}" in ended.stderr
    assert "COMPOSE_PROJECT_NAME=" in ended.stderr


def test_a_copy_that_was_moved_can_adopt_its_stack(stack: Stack, second_copy: Stack) -> None:
    adopt = (*SETUP, "setup", "python", "/opt/shortlist/setup.py", "adopt")
    secrets = stack.secrets()
    second_copy.compose(*adopt)
    ended = stack.compose(*SETUP, "setup", check=False)
    stack.compose(*adopt)

    assert f"belong to another copy of the project, in {second_copy.folder}" in ended.stderr
    assert stack.secrets() == secrets
    stack.compose(*SETUP, "setup")


def test_secrets_of_airflow_that_its_key_cannot_read_are_told_by_airflow_init(stack: Stack, airflow: Airflow) -> None:
    """A Fernet key was lost, or another one was put into .env, while the tables are those of the old one."""
    airflow.call("POST", "variables", {"key": "kept", "value": "with the old key"})
    key = "c2hvcnRsaXN0LXNob3J0bGlzdC1zaG9ydGxpc3QtMTI="
    command = f"AIRFLOW__CORE__FERNET_KEY={key} exec python /opt/shortlist/init.py"
    ended = stack.compose(*SETUP, "airflow-init", "bash", "-c", command, check=False)

    assert ended.returncode == 1
    assert "1 connections or variables were encrypted with another Fernet key" in ended.stderr
    assert "Traceback" not in ended.stderr + ended.stdout


def test_unwritable_logs_are_named(second_copy: Stack) -> None:
    logs = second_copy.folder / "logs"
    logs.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(logs)], check=True)
    try:
        ended = second_copy.compose(*SETUP, "setup", check=False)
    finally:
        subprocess.run(["umount", str(logs)], check=True)

    assert ended.returncode == 1
    assert "logs/ cannot be written by user 50000" in ended.stderr
    assert "chown -R 50000:0 logs" in ended.stderr


def test_a_port_that_is_taken_is_named_at_once(stack: Stack) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        settings, stack.settings = stack.settings, {**stack.settings, "MLFLOW_PORT": port}
        try:
            ended = stack.compose("up", "--detach", "--no-deps", "mlflow", check=False, timeout=120)
        finally:
            stack.settings = settings
    stack.compose("up", "--detach", "--no-deps", "--wait", "mlflow")

    assert ended.returncode != 0
    assert f"127.0.0.1:{port}" in ended.stderr
    assert "in use" in ended.stderr or "already allocated" in ended.stderr


def test_the_example_of_settings_can_be_copied_as_it_is(second_copy: Stack) -> None:
    """An empty COMPOSE_FILE, as it once was there, keeps compose from finding any file."""
    (second_copy.folder / ".env.example").rename(second_copy.folder / ".env")

    services = second_copy.compose("config", "--services").stdout.split()

    assert {"airflow-worker", "spark-connect", "redis"} <= set(services)
