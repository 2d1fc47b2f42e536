"""The files that people copy: CI jobs, run as they stand, and the overrides of compose."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from tests.deployment.conftest import PROJECT, DeployServer, Repository, run


@pytest.mark.parametrize("host", ["github", "gitlab"])
def test_the_ci_job_ships_the_commit_it_runs_for(
    server: DeployServer, repository: Repository, tmp_path: Path, host: str
) -> None:
    shutil.copytree(PROJECT / "deployment", repository.folder / "deployment")
    commit = repository.commit(dags__load="shipped\n", plugins__steps="RANK = 8\n")
    repository.commit(dags__load="a later commit\n")
    folder = Path(sys.executable).parent
    environment = {
        **{
            "PATH": f"{folder}:{os.environ['PATH']}",
            "HOME": str(tmp_path),
            "GITHUB_SHA": commit,
            "CI_COMMIT_SHA": commit,
        },
        **{"DEPLOY_HOST": "127.0.0.1", "DEPLOY_PORT": str(server.port), "DEPLOY_USER": server.user},
        **{"RUNNER_TEMP": str(tmp_path)},
    }
    if host == "github":
        job = yaml.safe_load((PROJECT / "deployment/ci/github-actions.yml").read_text())["jobs"]["deploy"]
        script = job["steps"][-1]["run"]
        assert set(job["steps"][-1]["env"]) == {name for name in environment if name.startswith("DEPLOY_")} | {
            "DEPLOY_KEY",
            "DEPLOY_KNOWN_HOSTS",
        }
        environment |= {"DEPLOY_KEY": server.key.read_text().rstrip("\n")}
        environment |= {"DEPLOY_KNOWN_HOSTS": server.known_hosts.read_text().rstrip("\n")}
    else:
        job = yaml.safe_load((PROJECT / "deployment/ci/gitlab-ci.yml").read_text())["deploy"]
        script = "\n".join(line for line in job["script"] if not line.startswith("pip "))
        shutil.copy(server.key, tmp_path / "key")
        environment |= {"DEPLOY_KEY": str(tmp_path / "key"), "DEPLOY_KNOWN_HOSTS": str(server.known_hosts)}
    done = run("bash", "-e", "-c", script, env=environment, cwd=repository.folder, check=False)
    assert done.returncode == 0, done.stderr
    assert server.current == commit
    assert server.files() == {"dags/load.py": "shipped\n", "plugins/steps.py": "RANK = 8\n"}
    assert not [path for path in tmp_path.glob("*") if path.name == "key" and path.stat().st_mode & 0o077]


def _config(*files: str, **given: str) -> Any:
    """What `docker compose` makes of the files; needs its command, not an engine."""
    if not shutil.which("docker") or run("docker", "compose", "version", check=False).returncode:
        pytest.skip("no docker compose here")
    words = [word for file in files for word in ("-f", str(PROJECT / file))]
    profiles = ["--profile", "*"]
    environment = {"PATH": os.environ["PATH"], "COMPOSE_PROJECT_NAME": "shortlist", **given}
    done = run("docker", "compose", *words, *profiles, "config", "--format", "json", env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["services"]


RUNNING_CODE = {
    "airflow-cli",
    "airflow-dag-processor",
    "airflow-scheduler",
    "airflow-triggerer",
    "airflow-worker",
    "airflow-worker-containers",
    "spark-connect",
    "spark-master",
    "spark-worker",
}


def test_compose_runs_what_was_shipped_in_all_services_that_run_dags_or_steps() -> None:
    plain = _config("docker-compose.yaml")
    services = _config("docker-compose.yaml", "docker-compose.deployed.yaml", DEPLOYED="/srv/x")
    assert services.keys() == plain.keys()
    changed = {name for name in services if services[name] != plain[name]}
    assert changed == RUNNING_CODE | {"airflow-apiserver", "docker-proxy"}
    for name in changed - {"docker-proxy"}:
        environment = services[name]["environment"]
        assert environment["PYTHONPATH"] == "/opt/airflow/deployed/current/plugins"
        assert environment["AIRFLOW__CORE__DAGS_FOLDER"] == "/opt/airflow/deployed/current/dags"
        (volume,) = [volume for volume in services[name]["volumes"] if volume["target"] == "/opt/airflow/deployed"]
        assert (volume["source"], volume.get("read_only")) == ("/srv/x", True)
        # The rest is as before.
        assert environment.items() >= plain[name].get("environment", {}).items()
        assert all(volume in services[name]["volumes"] for volume in plain[name]["volumes"])
    sources = {volume["source"]: volume for volume in services["docker-proxy"]["volumes"]}
    assert "/srv/x/current/plugins" in sources
    assert str(PROJECT / "plugins") not in sources
    # A folder that is made here belongs to root, and would be in the way of the first release.
    made = [volume["bind"].get("create_host_path") for volume in (volume, sources["/srv/x/current/plugins"])]
    assert made == [None, None]


def test_compose_takes_dags_from_git_in_all_services_that_run_dags_or_steps() -> None:
    plain = _config("docker-compose.yaml")
    services = _config("docker-compose.yaml", "docker-compose.git.yaml", DAGS_GIT_URL="git@host:team/it.git")
    assert services.keys() == plain.keys()
    changed = {name for name in services if services[name] != plain[name]}
    assert changed == RUNNING_CODE
    for name in changed:
        environment = services[name]["environment"]
        # Nothing of this host's plugins/ comes first.
        assert environment["PYTHONPATH"] in ("", "/opt/airflow/bundles/shortlist/tracking_repo/plugins")
        writes = [
            v["target"] for v in services[name]["volumes"] if v["source"] == "dag-bundles" and not v.get("read_only")
        ]
        assert writes == (["/opt/airflow/bundles"] if name == "airflow-dag-processor" else [])
        if name.startswith("airflow-"):
            (bundle,) = json.loads(environment["AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST"])
            assert bundle["kwargs"] == {
                "git_conn_id": "dags_git",
                "tracking_ref": "main",
                "subdir": "bundle",
                "sparse_dirs": ["bundle", "dags", "plugins"],
                "refresh_interval": 60,
            }
            assert json.loads(environment["AIRFLOW_CONN_DAGS_GIT"])["host"] == "git@host:team/it.git"
        if name in ("airflow-worker", "airflow-triggerer", "airflow-dag-processor", "airflow-worker-containers"):
            assert environment["PYTHONPATH"] == ""
            assert environment["AIRFLOW__CORE__PLUGINS_FOLDER"] == "/opt/airflow/no-plugins"


def test_compose_without_an_address_says_which_is_missing() -> None:
    with pytest.raises(AssertionError, match="DAGS_GIT_URL"):
        _config("docker-compose.yaml", "docker-compose.git.yaml")
