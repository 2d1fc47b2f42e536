"""Tasks in containers of their own, on the real engine and through the proxy: the three pipelines, and what goes wrong.

The engine is restarted where `RESTART_ENGINE` says that nobody else uses it, as `.ci/run` does. Everywhere, what a
restart does to a job is done by hand, too: its container, the proxy and the worker are killed together.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests

from tests.compose.stack import PROJECT, Airflow, Stack, found_in, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

PROBE = Path(__file__).parent / "dags" / "container_probe.py"
REFRESH = "catalogue_refresh"
TRANSFORM = "interactions_transform"
TRIGGER = "model_trigger_dag"
TRAINING = "etl_train_test_pipeline"

SERVICES = ("airflow-worker-containers", "docker-proxy", "example-site", "example-s3")
ONCE = ("jobs", "example-events")

# Says a word, waits until somebody makes a file, says another.
WAITS = """
import os, pathlib, time
print("waiting", flush=True)
while not pathlib.Path("/tmp/go").exists():
    time.sleep(0.2)
print("went on", flush=True)
print('{"result": {"went": "on"}}')
"""

# Waits for ever, the first time.
WAITS_ONCE = """
import sys, time
print("attempt", sys.argv[1], flush=True)
while sys.argv[1] == "1":
    time.sleep(1)
print('{"result": "done"}')
"""


@dataclass
class Jobs:
    """The stack with the profiles `containers` and `examples`, and what its jobs do."""

    stack: Stack
    airflow: Airflow

    def containers(self) -> list[str]:
        """Return the names of the containers of jobs, also of those that have ended."""
        listed = self.stack.command(
            "docker", "ps", "--all", "--filter", f"label=shortlist.project={self.stack.name}", "--format", "{{.Names}}"
        )
        return sorted(listed.stdout.split())

    def start(self, dag_id: str, run_id: str | None = None, **conf: object) -> str:
        body = {"logical_date": None, "conf": conf, **({"dag_run_id": run_id} if run_id else {})}
        return str(self.airflow.call("POST", f"dags/{dag_id}/dagRuns", body)["dag_run_id"])

    def probe(self, script: str, run_id: str | None = None) -> str:
        return self.start("container_probe", run_id, script=script)

    def container_of(self, run_id: str, dag_id: str = "container_probe", task_id: str = "speak") -> str:
        """Return the name that the container of a task has or will have."""
        key = "\n".join((dag_id, run_id, task_id, "-1"))
        return f"{self.stack.name}-job-{hashlib.sha256(key.encode()).hexdigest()[:16]}"

    def log(self, run_id: str, dag_id: str = "container_probe", task_id: str = "speak") -> str:
        return self.stack.task_log(dag_id, run_id, task_id)

    def wait_until_says(self, run_id: str, text: str, seconds: float = 120) -> None:
        wait_for(lambda: text in self.log(run_id), f"{text!r} in the log of {run_id}", seconds)

    def let_go(self, run_id: str) -> None:
        self.stack.command("docker", "exec", self.container_of(run_id), "touch", "/tmp/go")

    def run(self, dag_id: str, run_id: str | None = None, **conf: object) -> tuple[str, dict[str, str]]:
        """Start a run, wait for its end; returns its id and the states of its tasks."""
        started = self.start(dag_id, run_id, **conf)
        assert self.airflow.wait(dag_id, started) == "success", self.airflow.states(dag_id, started)
        return started, self.airflow.states(dag_id, started)

    def training_of(self, dag_id: str, run_id: str) -> dict[str, Any]:
        """Wait until that run has started a training, and return it."""
        path = f"dags/{TRAINING}/dagRuns/{dag_id}__{run_id}"

        def started() -> dict[str, Any] | None:
            try:
                return self.airflow.get(path)
            except requests.HTTPError:
                return None

        return wait_for(started, f"{run_id} to start a training", 240)

    @contextmanager
    def variables(self, *names: str) -> Iterator[None]:
        """Set variables in Airflow's UI."""
        for name in names:
            self.airflow.call("POST", "variables", {"key": name, "value": "true"})
        try:
            yield
        finally:
            for name in names:
                self.airflow.call("DELETE", f"variables/{name}")


@pytest.fixture(scope="module")
def jobs(stack: Stack, airflow: Airflow) -> Iterator[Jobs]:
    before = dict(stack.settings)
    stack.settings |= {"COMPOSE_PROFILES": "containers,examples", "EXAMPLE_MONTHS": "3"}
    shutil.copy(PROBE, stack.folder / "dags")
    stack.up()
    for dag_id in (TRAINING, REFRESH, TRANSFORM, TRIGGER):
        airflow.call("PATCH", f"dags/{dag_id}", {"is_paused": False})
    wait_for(lambda: airflow.get("dags?dag_id_pattern=container_probe")["dags"], "the probe", 60)
    yield Jobs(stack, airflow)
    for dag_id in (REFRESH, TRANSFORM, TRIGGER):
        airflow.call("PATCH", f"dags/{dag_id}", {"is_paused": True})
    (stack.folder / "dags" / PROBE.name).unlink()
    stack.compose("rm", "--stop", "--force", *SERVICES, *ONCE)
    stack.settings.clear()
    stack.settings.update(before)


@pytest.fixture(scope="module")
def containers(jobs: Jobs) -> dict[str, dict[str, Any]]:
    return jobs.stack.inspect()


@pytest.fixture(autouse=True)
def _nothing_is_left(jobs: Jobs) -> Iterator[None]:
    yield
    wait_for(lambda: not jobs.containers(), "all containers of jobs to be gone", 90)


def test_the_services_are_healthy_locked_down_and_published_nowhere(containers: dict[str, dict[str, Any]]) -> None:
    states = {name: containers[name]["State"] for name in (*SERVICES, *ONCE)}
    assert {name: states[name]["Health"]["Status"] for name in SERVICES} == dict.fromkeys(SERVICES, "healthy")
    assert {name: states[name]["ExitCode"] for name in ONCE} == dict.fromkeys(ONCE, 0)
    for name in (*SERVICES, *ONCE):
        host = containers[name]["HostConfig"]
        assert 0 < host["Memory"] <= 1024**3, name
        assert host["SecurityOpt"] == ["no-new-privileges:true"], name
        assert (host["CapDrop"], host["CapAdd"]) == (["ALL"], None), name
        assert host["LogConfig"] == {"Type": "json-file", "Config": {"max-file": "3", "max-size": "10m"}}, name
        assert not host["Privileged"], name
        assert not any(containers[name]["NetworkSettings"]["Ports"].values()), name
    assert containers["docker-proxy"]["HostConfig"]["ReadonlyRootfs"]
    assert containers["docker-proxy"]["HostConfig"]["Memory"] == 64 * 1024**2
    assert containers["docker-proxy"]["HostConfig"]["PidsLimit"] == 64


def test_only_the_proxy_has_the_engine_and_only_one_worker_the_proxy(
    jobs: Jobs, containers: dict[str, dict[str, Any]]
) -> None:
    with_socket = {name for name, container in containers.items() if "docker.sock" in json.dumps(container["Mounts"])}
    assert with_socket == {"docker-proxy"}
    proxy = containers["docker-proxy"]
    assert {mount["Destination"]: mount["RW"] for mount in proxy["Mounts"]} == {
        "/var/run/docker.sock": True,
        **{f"/opt/airflow/{folder}": False for folder in ("plugins", "jobs", "config", "models")},
    }
    engine = f"{jobs.stack.name}_engine"
    networks = {name: set(container["NetworkSettings"]["Networks"]) for name, container in containers.items()}
    assert {name for name, joined in networks.items() if engine in joined} == {
        "docker-proxy",
        "airflow-worker-containers",
    }
    assert networks["docker-proxy"] == {engine}
    [network] = json.loads(jobs.stack.command("docker", "network", "inspect", engine).stdout)
    assert network["Internal"]


def test_each_service_knows_its_own_secrets_only(jobs: Jobs) -> None:
    secrets = {name: value for name, value in jobs.stack.secrets().items() if name not in ("clone", "ADMIN_USER")}
    assert {service: found_in([jobs.stack.known_to(service)], secrets) for service in SERVICES} == {
        "airflow-worker-containers": {"RECS_DB_PASSWORD", "SERVICE_API_KEY", "REDIS_PASSWORD", "ADMIN_PASSWORD"},
        "docker-proxy": set(),
        "example-site": set(),
        "example-s3": set(),
    }


def test_the_pool_has_as_many_slots_as_the_worker_takes_tasks(jobs: Jobs) -> None:
    assert jobs.airflow.get("pools/containers")["slots"] == 2


def test_the_catalogue_is_read_from_the_site_and_brought_everywhere(jobs: Jobs) -> None:
    run_id, states = jobs.run(REFRESH)

    assert states == {
        "scraping_task": "success",
        "postgres_task": "success",
        "elastic_task": "skipped",
        "fastapi_task": "success",
        "mlflow_task": "success",
    }
    reason = jobs.log(run_id, REFRESH, "elastic_task")
    assert re.search(r"nothing to do: .*search", reason), reason
    items = jobs.airflow.xcom(REFRESH, run_id, "scraping_task")["items"]
    assert items > 3000
    assert jobs.stack.sql("SELECT count(*) FROM service.catalogue_items") == [[str(items)]]
    assert "*** " not in jobs.log(run_id, REFRESH, "scraping_task")

    found = requests.get(
        f"http://127.0.0.1:{jobs.stack.settings['SERVICE_PORT']}/v1/items", params={"q": "cakestand"}, timeout=30
    ).json()
    assert "CAKESTAND" in json.dumps(found)
    mlflow = f"http://127.0.0.1:{jobs.stack.settings['MLFLOW_PORT']}/api/2.0/mlflow"
    experiment = requests.get(
        f"{mlflow}/experiments/get-by-name", params={"experiment_name": "catalogue"}, timeout=30
    ).json()["experiment"]["experiment_id"]
    logged = requests.post(f"{mlflow}/runs/search", json={"experiment_ids": [experiment]}, timeout=30).json()["runs"]
    assert {"items": float(items)}.items() <= {
        metric["key"]: metric["value"] for metric in logged[0]["data"]["metrics"]
    }.items()


@pytest.fixture(scope="module")
def first_transform(jobs: Jobs) -> dict[str, Any]:
    """The run that finds the first events, and the training on them that it has started."""
    run_id = jobs.start(TRANSFORM)
    trigger_id = f"{TRANSFORM}__{run_id}"
    training = jobs.training_of(TRIGGER, trigger_id)
    # While this run waits for the training, another one gives way.
    second, states = jobs.run(TRANSFORM)
    assert jobs.airflow.wait(TRAINING, training["dag_run_id"], seconds=900) == "success"
    assert jobs.airflow.wait(TRANSFORM, run_id) == "success"
    return {
        "run_id": run_id,
        "trigger_id": trigger_id,
        "training": training,
        "second": second,
        "states_of_second": states,
        "compared": jobs.airflow.xcom(TRIGGER, trigger_id, "run_model_trigger"),
    }


def test_new_events_are_transformed_kept_and_a_model_is_due(jobs: Jobs, first_transform: dict[str, Any]) -> None:
    run_id, trigger_id, compared = (first_transform[name] for name in ("run_id", "trigger_id", "compared"))

    assert set(jobs.airflow.states(TRANSFORM, run_id).values()) == {"success"}
    assert jobs.airflow.xcom(TRANSFORM, run_id, "run_transform")["new_data"] is True
    assert "New data was transformed" in jobs.log(run_id, TRANSFORM, "run_transform")
    assert jobs.airflow.states(TRIGGER, trigger_id) == {
        "check_dag_active": "success",
        "run_model_trigger": "success",
        "check_mismatch": "success",
        "start_model_training": "success",
        "end_dag": "skipped",
    }
    commits = {jobs.airflow.xcom(TRANSFORM, run_id, task)["commit"] for task in ("load_processed", "load_viz")}
    assert compared["mismatch"] is True
    assert compared["dataset_commit"] in commits
    assert first_transform["training"]["conf"] == {
        "dataset_commit": compared["dataset_commit"],
        "input_path": f"/opt/airflow/jobs-data/datasets/checkouts/{compared['dataset_commit']}",
    }


def test_the_model_is_trained_on_the_version_of_the_data_that_was_compared(
    jobs: Jobs, first_transform: dict[str, Any]
) -> None:
    training = first_transform["training"]
    read = jobs.airflow.xcom(TRAINING, training["dag_run_id"], "spark_etl")
    version = Path(jobs.airflow.xcom(TRAINING, training["dag_run_id"], "find_latest_model")).name
    manifest = json.loads((jobs.stack.folder / "models" / "artifacts" / version / "manifest.json").read_text())

    assert [Path(file["path"]).parent for file in read["files"]] == [Path(training["conf"]["input_path"])] * 3
    transformed = jobs.airflow.xcom(TRANSFORM, first_transform["run_id"], "run_transform")
    assert read["read"] == transformed["rows"] > 0
    assert manifest["dataset_commit"] == training["conf"]["dataset_commit"]


def test_a_run_beside_another_one_gives_way(jobs: Jobs, first_transform: dict[str, Any]) -> None:
    states = dict(first_transform["states_of_second"])

    assert states.pop("check_dag_active") == "success"
    assert set(states.values()) == {"skipped"}
    log = jobs.log(first_transform["second"], TRANSFORM, "check_dag_active")
    assert f"skipped: the run {first_transform['run_id']}" in log


@pytest.mark.usefixtures("first_transform")
def test_without_new_events_the_rest_is_skipped(jobs: Jobs) -> None:
    run_id, states = jobs.run(TRANSFORM)

    assert states == {
        "check_dag_active": "success",
        "run_transform": "success",
        "check_run_docker_output": "success",
        "load_processed": "skipped",
        "load_viz": "skipped",
        "trigger_model_dag": "skipped",
    }
    assert jobs.airflow.xcom(TRANSFORM, run_id, "run_transform")["new_data"] is False
    assert "the container transformed no new data" in jobs.log(run_id, TRANSFORM, "check_run_docker_output")


@pytest.mark.usefixtures("first_transform")
def test_in_development_no_version_is_kept_and_no_model_trained(jobs: Jobs) -> None:
    jobs.stack.compose("run", "--rm", "-T", "example-events", "python", "-m", "examples.events", "--months", "4")
    with jobs.variables("is_development", "dev_skip_model"):
        run_id, states = jobs.run(TRANSFORM)

    assert {task: state for task, state in states.items() if state != "success"} == {
        "load_processed": "skipped",
        "load_viz": "skipped",
    }
    for task in ("load_processed", "load_viz"):
        assert "the variable is_development is set" in jobs.log(run_id, TRANSFORM, task)
    trigger_id = f"{TRANSFORM}__{run_id}"
    assert {task: state for task, state in jobs.airflow.states(TRIGGER, trigger_id).items() if state != "success"} == {
        "start_model_training": "skipped"
    }
    decision = jobs.airflow.xcom(TRIGGER, trigger_id, "check_mismatch", "decision")
    assert (decision["train"], decision["reason"]) == (False, "the variable dev_skip_model is set")


def test_a_champion_of_the_same_data_is_left_alone(jobs: Jobs, first_transform: dict[str, Any]) -> None:
    with champion_of(jobs.stack, first_transform["compared"]["dataset_commit"]):
        run_id, states = jobs.run(TRIGGER)

    assert {task: state for task, state in states.items() if state != "success"} == {"start_model_training": "skipped"}
    compared = jobs.airflow.xcom(TRIGGER, run_id, "run_model_trigger")
    assert (compared["mismatch"], compared["champion_commit"]) == (False, compared["dataset_commit"])
    assert "knows as many files" in jobs.log(run_id, TRIGGER, "check_mismatch")


@contextmanager
def champion_of(stack: Stack, commit: str) -> Iterator[None]:
    """Let the champion for a while be a version that was trained on this commit, as its manifest says."""
    folder = stack.folder / "models" / "artifacts"
    version = folder / "version_20990101T000000"
    version.mkdir(parents=True)
    (version / "manifest.json").write_text(json.dumps({"version": version.name, "dataset_commit": commit}))
    pointer = folder / "champion.json"
    before = pointer.read_text() if pointer.exists() else None
    pointer.write_text(json.dumps({"version": version.name, "since": "2099-01-01T00:00:00Z", "reason": "a test"}))
    try:
        yield
    finally:
        if before is None:
            pointer.unlink()
        else:
            pointer.write_text(before)
        shutil.rmtree(version)


def test_a_training_is_started_by_rest_with_a_token(jobs: Jobs) -> None:
    """The commands of README.md, as they stand there."""
    [commands] = [
        block for block in re.findall(r"```sh\n(.*?)```", (PROJECT / "README.md").read_text(), re.DOTALL)
        if f"/api/v2/dags/{TRIGGER}/dagRuns" in block
    ]  # fmt: skip
    with jobs.variables("dev_skip_trigger"):
        environment = {
            "AIRFLOW": f"http://127.0.0.1:{jobs.stack.settings['PORT']}",
            "PASSWORD": jobs.stack.secrets()["ADMIN_PASSWORD"],
        }
        told = jobs.stack.command(
            "env",
            *(f"{name}={value}" for name, value in environment.items()),
            "bash",
            "-euo",
            "pipefail",
            "-c",
            commands,
        ).stdout
        run_id = json.loads(told.strip().splitlines()[-1])["dag_run_id"]
        training = jobs.training_of(TRIGGER, run_id)
        assert jobs.airflow.wait(TRIGGER, run_id, seconds=900) == "success"

    assert {task: s for task, s in jobs.airflow.states(TRIGGER, run_id).items() if s != "success"} == {
        "run_model_trigger": "skipped",
        "end_dag": "skipped",
    }
    assert "the variable dev_skip_trigger is set" in jobs.log(run_id, TRIGGER, "run_model_trigger")
    assert training["conf"] == {}  # it trains on its usual input


def test_lines_stream_into_the_log_and_the_last_one_is_the_result(jobs: Jobs) -> None:
    run_id = jobs.probe(WAITS)
    jobs.wait_until_says(run_id, "waiting")
    assert "went on" not in jobs.log(run_id)
    assert jobs.airflow.states("container_probe", run_id) == {"speak": "running"}
    assert jobs.containers() == [jobs.container_of(run_id)]

    jobs.let_go(run_id)

    assert jobs.airflow.wait("container_probe", run_id) == "success"
    assert "went on" in jobs.log(run_id)
    assert jobs.airflow.xcom("container_probe", run_id, "speak") == {"went": "on"}


def test_secrets_of_a_job_are_shown_nowhere(jobs: Jobs) -> None:
    secrets = {name: value for name, value in jobs.stack.secrets().items() if name not in ("clone", "ADMIN_USER")}
    run_id = jobs.probe(f"import os\nprint(sorted(os.environ.items()), flush=True)\n{WAITS}")
    jobs.wait_until_says(run_id, "waiting")
    asked = (
        "import docker, json; c = docker.APIClient('tcp://docker-proxy:2375', version='1.41');"
        f"print(json.dumps([c.inspect_container('{jobs.container_of(run_id)}'), c.containers(all=True)]))"
    )
    seen = jobs.stack.compose("exec", "-T", "airflow-worker-containers", "python", "-c", asked).stdout
    on_the_engine = jobs.stack.command("docker", "inspect", jobs.container_of(run_id)).stdout
    jobs.let_go(run_id)
    assert jobs.airflow.wait("container_probe", run_id) == "success"

    # It had them: the engine's own administrator sees that.
    assert found_in([on_the_engine], secrets) == {"RECS_DB_PASSWORD", "SERVICE_API_KEY"}
    assert jobs.container_of(run_id) in seen
    task = json.dumps(jobs.airflow.tasks("container_probe", run_id))
    assert "speak" in task
    assert "'SERVICE_API_KEY', '***'" in jobs.log(run_id)
    assert found_in([seen, task, jobs.log(run_id)], secrets) == set()


def test_a_job_is_nobody_reaches_no_store_and_writes_nowhere(jobs: Jobs) -> None:
    """From the network `jobs`; what else a container cannot do is tested on the proxy."""
    script = """
import json, os, pathlib, socket
def reached(host, port):
    try:
        socket.create_connection((host, port), timeout=3).close()
    except OSError:
        return False
    return True
def written(path):
    try:
        pathlib.Path(path).write_text("x")
    except OSError:
        return False
    return True
status = dict(line.split(":", 1) for line in pathlib.Path("/proc/self/status").read_text().splitlines())
print(json.dumps({"result": {
    "uid": os.getuid(), "gid": os.getgid(), "capabilities": int(status["CapEff"], 16) | int(status["CapBnd"], 16),
    "no_new_privileges": status["NoNewPrivs"].strip(), "socket": os.path.exists("/var/run/docker.sock"),
    "reached": [host for host, port in (
        ("docker-proxy", 2375), ("postgres", 5432), ("redis", 6379), ("airflow-apiserver", 8080), ("example-s3", 5000),
    ) if reached(host, port)],
    "written": [path for path in ("/opt/airflow/x", "/usr/x", "/tmp/x") if written(path)],
}}))
"""
    run_id = jobs.probe(script)

    assert jobs.airflow.wait("container_probe", run_id) == "success"
    assert jobs.airflow.xcom("container_probe", run_id, "speak") == {
        "uid": 50000,
        "gid": 0,
        "capabilities": 0,
        "no_new_privileges": "1",
        "socket": False,
        "reached": ["example-s3"],
        "written": ["/tmp/x"],
    }


def test_other_services_do_not_reach_the_proxy(jobs: Jobs) -> None:
    asked = "import socket; socket.create_connection(('docker-proxy', 2375), timeout=3)"
    told = {
        service: jobs.stack.compose("exec", "-T", service, "python", "-c", asked, check=False)
        for service in ("airflow-worker", "airflow-scheduler", "recs-api", "example-site", "airflow-worker-containers")
    }
    assert {service: ended.returncode for service, ended in told.items()} == {
        "airflow-worker": 1,
        "airflow-scheduler": 1,
        "recs-api": 1,
        "example-site": 1,
        "airflow-worker-containers": 0,
    }
    assert all("gaierror" in ended.stderr for ended in told.values() if ended.returncode)


def test_no_more_jobs_run_at_once_than_the_pool_has_slots(jobs: Jobs) -> None:
    runs = [jobs.probe(WAITS) for _ in range(3)]
    states: dict[str, str] = {}
    ended: set[str] = set()

    def two_run() -> bool:
        states.update({run_id: jobs.airflow.states("container_probe", run_id).get("speak") or "" for run_id in runs})
        return sum("waiting" in jobs.log(run_id) for run_id in runs if run_id not in ended) == 2

    wait_for(two_run, "two jobs to run", 120)
    assert len(jobs.containers()) == 2
    waiting = next(run_id for run_id in runs if "waiting" not in jobs.log(run_id))
    # It is the pool that holds it back: the worker has not been asked yet.
    assert states[waiting] == "scheduled"
    ended.add(next(run_id for run_id in runs if run_id != waiting))
    jobs.let_go(*ended)
    wait_for(two_run, "the third job to run", 120)
    assert len(jobs.containers()) <= 2
    for run_id in set(runs) - ended:
        jobs.let_go(run_id)
    assert {jobs.airflow.wait("container_probe", run_id) for run_id in runs} == {"success"}


def test_a_task_that_is_marked_as_failed_leaves_no_container(jobs: Jobs) -> None:
    run_id = jobs.probe(WAITS)
    jobs.wait_until_says(run_id, "waiting")

    path = f"dags/container_probe/dagRuns/{run_id}/taskInstances/speak"
    jobs.airflow.call("PATCH", path, {"new_state": "failed"})

    wait_for(lambda: not jobs.containers(), "the container to be gone", 60)
    assert jobs.airflow.wait("container_probe", run_id) == "failed"


def test_a_job_whose_container_is_killed_is_tried_again(jobs: Jobs) -> None:
    run_id = jobs.probe(WAITS_ONCE)
    jobs.wait_until_says(run_id, "attempt 1")
    jobs.stack.command("docker", "kill", jobs.container_of(run_id))

    assert jobs.airflow.wait("container_probe", run_id) == "success"
    assert "ended with exit code 137" in jobs.log(run_id)
    assert jobs.airflow.tasks("container_probe", run_id)[0]["try_number"] == 2


def test_a_container_of_the_same_name_gives_way(jobs: Jobs) -> None:
    run_id = f"with_a_leftover_{os.getpid()}"
    jobs.stack.command(
        "docker", "create", "--name", jobs.container_of(run_id), "--label", f"shortlist.project={jobs.stack.name}",
        "--label", "try_number=0", f"{jobs.stack.name}-jobs", "sleep", "600",
    )  # fmt: skip
    jobs.stack.command("docker", "start", jobs.container_of(run_id))

    jobs.probe("print('mine')", run_id)

    assert jobs.airflow.wait("container_probe", run_id) == "success"
    assert "which attempt 0 left behind" in jobs.log(run_id)
    assert "mine" in jobs.log(run_id)


def test_a_job_that_dies_with_the_proxy_and_the_worker_runs_again(jobs: Jobs) -> None:
    run_id = jobs.probe(WAITS_ONCE)
    jobs.wait_until_says(run_id, "attempt 1")
    name = jobs.container_of(run_id)
    services = ("airflow-worker-containers", "docker-proxy")
    jobs.stack.command("docker", "kill", name, *(f"{jobs.stack.name}-{service}-1" for service in services))
    # The container is still there, ended, as nobody removed it.
    assert jobs.containers() == [name]
    jobs.stack.compose("start", *reversed(services))

    assert jobs.airflow.wait("container_probe", run_id) == "success"
    assert "which attempt 1 left behind" in jobs.log(run_id)


@pytest.mark.skipif(
    not os.environ.get("RESTART_ENGINE"), reason="others may use this engine: RESTART_ENGINE is not set"
)
def test_a_job_runs_again_after_a_restart_of_the_engine(jobs: Jobs) -> None:
    run_id = jobs.probe(WAITS_ONCE)
    jobs.wait_until_says(run_id, "attempt 1")

    restart_engine()

    jobs.stack.wait_until_healthy(seconds=400)
    assert jobs.airflow.wait("container_probe", run_id) == "success"
    assert jobs.airflow.tasks("container_probe", run_id)[0]["try_number"] >= 2
    assert jobs.stack.sql("SELECT 1") == [["1"]]


def restart_engine() -> None:
    """Let the engine end, which stops all containers, and start it as it was."""
    process = int(Path("/var/run/docker.pid").read_text())
    command = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")[:-1]
    log = Path(f"/proc/{process}/fd/1").readlink()
    os.kill(process, signal.SIGTERM)
    wait_for(lambda: not Path(f"/proc/{process}").exists(), "the engine to end", 120)
    with log.open("ab") as output:
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True)
    wait_for(lambda: not subprocess.run(["docker", "info"], capture_output=True, check=False).returncode, "it", 120)


def test_the_services_of_the_search_profile_are_locked_down_as_the_others(jobs: Jobs) -> None:
    """Their images cannot be had here: this looks at what compose would start."""
    config = json.loads(jobs.stack.compose("--profile", "search", "config", "--format", "json").stdout)["services"]
    services = {name: config[name] for name in ("elasticsearch", "search-init", "kibana")}

    assert {name: sorted(service["networks"]) for name, service in services.items()} == {
        "elasticsearch": ["stores"],
        "search-init": ["stores"],
        "kibana": ["default", "stores"],
    }
    for name, service in services.items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert 0 < int(service["mem_limit"]) <= 2 * 1024**3, name
        assert service["logging"]["driver"] == "json-file", name
        assert service["profiles"] == ["search"], name
    assert {name for name, service in services.items() if service.get("ports")} == {"kibana"}
    assert services["kibana"]["ports"][0]["host_ip"] == "127.0.0.1"
    assert services["elasticsearch"]["environment"]["xpack.security.enabled"] == "true"
    secrets = {
        name: {Path(volume["target"]).name for volume in service["volumes"] if "/run/secrets/" in volume["target"]}
        for name, service in services.items()
    }
    assert secrets == {
        "elasticsearch": {"search"},
        "search-init": {"search", "kibana", "searchers"},
        "kibana": {"kibana"},
    }


def test_logs_hold_no_secret(jobs: Jobs) -> None:
    secrets = {name: value for name, value in jobs.stack.secrets().items() if name not in ("clone", "ADMIN_USER")}
    texts = [jobs.stack.compose("logs", "--no-color", *SERVICES, *ONCE).stdout]
    texts += [file.read_text(encoding="utf-8") for file in (jobs.stack.folder / "logs").rglob("*.log")]
    assert found_in(texts, secrets) == set()
    assert "docker-proxy" in texts[0]
