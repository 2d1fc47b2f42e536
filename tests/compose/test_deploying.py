"""The stack on DAGs that CI shipped by SSH, and on DAGs that Airflow fetches from Git: whose code runs where."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.compose.stack import wait_for
from tests.deployment.conftest import SSHD, DeployServer, Repository, run, sshd

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.compose.stack import Airflow, Stack

__all__ = ["sshd"]

HERE = Path(__file__).with_name("deployed")
DAG = "code_probe"
TASKS = ("say", "say_in_spark", "say_in_a_job")


@pytest.fixture
def project(stack: Stack, tmp_path: Path) -> Repository:
    """The stack's own DAGs and plugins in Git, with a DAG more."""
    repository = Repository(tmp_path / "repository")
    for folder in ("bundle", "dags", "plugins"):
        shutil.copytree(
            stack.folder / folder,
            repository.folder / folder,
            symlinks=True,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    shutil.copy(HERE / "code_probe.py", repository.folder / "dags")
    shutil.copy(HERE / "said.py", repository.folder / "plugins" / "steps")
    repository.commit()
    return repository


def change(project: Repository) -> str:
    """Commit another tag of the DAG, and another word of the step."""
    for name in ("dags/code_probe.py", "plugins/steps/said.py"):
        file = project.folder / name
        file.write_text(file.read_text().replace('"first"', '"second"'))
    return project.commit()


@pytest.fixture
def deployable(stack: Stack) -> Iterator[Stack]:
    """The stack, to be started with other files; it is as before afterwards."""
    before = dict(stack.settings)
    stack.settings |= {"COMPOSE_PROFILES": "containers"}
    yield stack
    stack.compose("rm", "--stop", "--force", "airflow-worker-containers", "docker-proxy", "jobs")
    stack.settings.clear()
    stack.settings.update(before)
    stack.up()


def tags(airflow: Airflow) -> list[str]:
    found = airflow.get(f"dags?dag_id_pattern={DAG}")["dags"]
    return [tag["name"] for tag in found[0]["tags"]] if found else []


def said(airflow: Airflow) -> list[str]:
    run_id = airflow.trigger(DAG)
    assert airflow.wait(DAG, run_id) == "success", airflow.states(DAG, run_id)
    return [airflow.xcom(DAG, run_id, task) for task in TASKS]


def test_what_ci_shipped_runs_in_tasks_in_spark_and_in_jobs(
    deployable: Stack, airflow: Airflow, sshd: DeployServer, project: Repository
) -> None:
    deployable.settings |= {
        "COMPOSE_FILE": "docker-compose.yaml:docker-compose.deployed.yaml",
        "DEPLOYED": str(sshd.project),
    }
    early = deployable.compose("create", "--build", "docker-proxy", check=False)
    assert early.returncode != 0
    assert str(sshd.project / "current") in early.stderr
    assert list(sshd.project.iterdir()) == []  # nothing lies in the way of the first release

    sshd.ship(project, check=True)
    deployable.up()
    wait_for(lambda: tags(airflow) == ["first"], "the shipped DAG", 90)
    assert said(airflow) == ["first", "first", "first"]

    change(project)
    sshd.ship(project, check=True)
    wait_for(lambda: tags(airflow) == ["second"], "the changed DAG", 90)
    deployable.command("make", "reload")
    deployable.wait_until_healthy()
    assert said(airflow) == ["second", "second", "second"]
    assert airflow.get("importErrors")["import_errors"] == []


@pytest.fixture
def git_server(sshd: DeployServer, stack: Stack, tmp_path: Path) -> Iterator[str]:
    """The same sshd where containers reach it, as `address:port`."""
    [network] = json.loads(stack.command("docker", "network", "inspect", f"{stack.name}_default").stdout)
    gateway = network["IPAM"]["Config"][0]["Gateway"]
    config = tmp_path / "sshd_config"
    text = sshd.key.with_name("sshd_config").read_text()
    config.write_text(text.replace("ListenAddress 127.0.0.1", f"ListenAddress {gateway}"))
    process = subprocess.Popen([str(SSHD), "-D", "-e", "-f", str(config)], stderr=subprocess.DEVNULL)
    try:
        yield f"{gateway}:{sshd.port}"
    finally:
        process.terminate()
        process.wait(30)


def test_what_is_in_git_runs_in_tasks_and_in_spark(
    deployable: Stack, airflow: Airflow, sshd: DeployServer, git_server: str, project: Repository, tmp_path: Path
) -> None:
    bare = tmp_path / "remote.git"
    run("git", "init", "--quiet", "--bare", "--initial-branch", "main", bare)
    project.git("push", "--quiet", str(bare), "main")
    address, _, port = git_server.partition(":")
    access = deployable.folder / "git-access"
    access.mkdir()
    shutil.copy(sshd.key, access / "key")
    (access / "known_hosts").write_text(sshd.known_hosts.read_text().replace("127.0.0.1", address))
    run("chown", "-R", "50000:0", access)
    run("chmod", "-R", "u=rwX,go=", access)
    deployable.settings |= {
        "COMPOSE_FILE": "docker-compose.yaml:docker-compose.git.yaml",
        "DAGS_GIT_URL": f"ssh://root@{address}:{port}{bare}",
        "DAGS_GIT_SECONDS": "2",
    }
    deployable.up()
    wait_for(lambda: tags(airflow) == ["first"], "the DAG from Git", 120)
    assert said(airflow) == ["first", "first", "the server's own"]

    second = change(project)
    project.git("push", "--quiet", str(bare), "main")
    wait_for(lambda: tags(airflow) == ["second"], "the changed DAG", 90)
    assert said(airflow)[0] == "second"
    last = airflow.get(f"dags/{DAG}/dagRuns?order_by=-run_after&limit=1")["dag_runs"][0]
    assert last["bundle_version"] == second
    assert airflow.get("importErrors")["import_errors"] == []
