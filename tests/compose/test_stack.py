"""The stack as `docker compose up --build` makes it: health, secrets, limits and the chain."""

from __future__ import annotations

import json
import re
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.compose.stack import ONCE, Airflow, Stack, found_in, wait_for

GIB = 1024**3

AIRFLOW = {"airflow-apiserver", "airflow-scheduler", "airflow-dag-processor", "airflow-triggerer", "airflow-worker"}
SPARK = {"spark-master", "spark-worker", "spark-connect"}
SERVICES = {*AIRFLOW, *SPARK, "postgres", "redis", "mlflow", "recs-api"}

WEEKLY = {
    "load_default_recs": "load_file",
    "load_online_recs": "load_file",
    "load_candidates_train": "load_file",
    "load_candidates_inference": "load_file",
    "load_candidates_ranked": "wait_for_candidates",
}

# Who may know what. `recs` is the tables of recommendations, `airflow` the metadata of Airflow.
KNOWN_SECRETS = {
    "postgres": {"POSTGRES_PASSWORD", "AIRFLOW_DB_PASSWORD", "RECS_DB_PASSWORD", "MLFLOW_DB_PASSWORD"},
    "redis": {"REDIS_PASSWORD", "FEATURES_REDIS_PASSWORD", "SERVICE_REDIS_PASSWORD"},
    "mlflow": {"MLFLOW_DB_PASSWORD"},
    "spark-master": set(),
    "spark-worker": {"FEATURES_REDIS_PASSWORD"},
    "spark-connect": set(),
    "airflow-apiserver": {"AIRFLOW_DB_PASSWORD", "FERNET_KEY", "API_SECRET", "JWT_SECRET"},
    "airflow-scheduler": {
        "AIRFLOW_DB_PASSWORD", "FERNET_KEY", "API_SECRET", "JWT_SECRET", "REDIS_PASSWORD", "ADMIN_PASSWORD",
    },
    "airflow-dag-processor": {"AIRFLOW_DB_PASSWORD", "FERNET_KEY", "API_SECRET"},
    "airflow-triggerer": {"AIRFLOW_DB_PASSWORD", "FERNET_KEY", "API_SECRET"},
    "recs-api": {"RECS_DB_PASSWORD", "SERVICE_REDIS_PASSWORD", "SERVICE_API_KEY"},
    "airflow-worker": {"RECS_DB_PASSWORD", "REDIS_PASSWORD", "ADMIN_PASSWORD", "FEATURES_REDIS_PASSWORD"},
}  # fmt: skip


@pytest.fixture(scope="module")
def containers(stack: Stack) -> dict[str, dict[str, Any]]:
    return stack.inspect()


@pytest.fixture(scope="module")
def chain(stack: Stack, airflow: Airflow) -> str:
    """What `make compose-demo` printed; the runs it made are in the API."""
    return stack.command("make", "compose-demo", timeout=1500).stdout


def test_every_service_is_healthy_and_the_others_have_ended_well(containers: dict[str, dict[str, Any]]) -> None:
    states = {name: container["State"] for name, container in containers.items()}
    assert {name: state["ExitCode"] for name, state in states.items() if name in ONCE} == dict.fromkeys(ONCE, 0)
    healthy = {name for name, state in states.items() if state.get("Health", {}).get("Status") == "healthy"}
    assert healthy == SERVICES


def test_the_dags_are_there_and_switched_on_but_those_that_need_containers(airflow: Airflow) -> None:
    paused = {found["dag_id"]: found["is_paused"] for found in airflow.get("dags")["dags"]}
    others = (
        "etl_train_test_pipeline", "drift_detection_retrain_pipeline", "feature_engineering", "tune", "export_feedback",
        "forget_users",
    )  # fmt: skip
    # Those need the profile `containers`.
    pipelines = ("catalogue_refresh", "interactions_transform", "model_trigger_dag")
    assert paused == dict.fromkeys([*WEEKLY, *others], False) | dict.fromkeys(pipelines, True)
    assert airflow.get("importErrors")["total_entries"] == 0


def test_no_more_tasks_are_queued_than_the_worker_takes(stack: Stack, airflow: Airflow) -> None:
    settings = ConfigParser()
    settings.read(stack.folder / "config" / "airflow.cfg")
    assert airflow.get("pools/default_pool")["slots"] == settings.getint("celery", "worker_concurrency")


@pytest.mark.parametrize(("dag_id", "task_id"), WEEKLY.items())
def test_the_first_weekly_runs_are_skipped_and_say_why(
    stack: Stack, airflow: Airflow, dag_id: str, task_id: str
) -> None:
    run = wait_for(
        lambda: airflow.get(f"dags/{dag_id}/dagRuns?run_type=scheduled")["dag_runs"], f"{dag_id} to run", 120
    )
    run_id = run[0]["dag_run_id"]
    assert airflow.wait(dag_id, run_id) == "success"
    assert airflow.states(dag_id, run_id)[task_id] == "skipped"
    assert set(airflow.states(dag_id, run_id).values()) <= {"success", "skipped"}
    assert "nothing to load: there is neither" in stack.task_log(dag_id, run_id, task_id)


def test_the_first_daily_run_finds_no_feedback_and_says_so(stack: Stack, airflow: Airflow) -> None:
    dag_id = "drift_detection_retrain_pipeline"
    run = wait_for(lambda: airflow.get(f"dags/{dag_id}/dagRuns?run_type=scheduled")["dag_runs"], dag_id, 120)
    run_id = run[0]["dag_run_id"]
    assert airflow.wait(dag_id, run_id) == "success"
    assert set(airflow.states(dag_id, run_id).values()) == {"skipped"}
    assert "there is no new feedback" in stack.task_log(dag_id, run_id, "process_streaming_data")


def test_containers_are_locked_down(containers: dict[str, dict[str, Any]]) -> None:
    total = 0
    for name, container in containers.items():
        host = container["HostConfig"]
        assert host["Memory"] > 0, name
        total += 0 if name in ONCE else host["Memory"]
        assert host["RestartPolicy"]["Name"] == ("no" if name in ONCE else "unless-stopped"), name
        assert host["SecurityOpt"] == ["no-new-privileges:true"], name
        assert host["CapDrop"] == ["ALL"], name
        assert host["LogConfig"] == {"Type": "json-file", "Config": {"max-file": "3", "max-size": "10m"}}, name
        assert not host["Privileged"], name
        assert "/var/run/docker.sock" not in json.dumps(container["Mounts"]), name
    assert total <= 12 * GIB


def test_airflow_and_spark_share_one_image_and_are_not_root(containers: dict[str, dict[str, Any]]) -> None:
    images = {containers[name]["Image"] for name in {*AIRFLOW, *SPARK}}
    assert len(images) == 1
    assert {containers[name]["Config"]["User"] for name in {*AIRFLOW, *SPARK}} == {"50000:0"}
    assert containers["mlflow"]["Config"]["User"] == "mlflow"
    assert containers["recs-api"]["Config"]["User"] == "50000:0"


def test_the_service_can_write_nothing_but_what_it_last_knew(
    stack: Stack, containers: dict[str, dict[str, Any]]
) -> None:
    service = containers["recs-api"]
    assert service["HostConfig"]["ReadonlyRootfs"]
    assert [mount["Destination"] for mount in service["Mounts"] if mount["RW"]] == ["/opt/airflow/data/service"]
    stack.compose("exec", "-T", "recs-api", "touch", "data/service/written")
    (stack.folder / "data" / "service" / "written").unlink()


def test_only_airflow_mlflow_and_the_service_are_published_and_only_to_this_host(
    stack: Stack, containers: dict[str, dict[str, Any]]
) -> None:
    published = {
        name: [
            (binding["HostIp"], binding["HostPort"]) for bindings in ports.values() if bindings for binding in bindings
        ]
        for name, container in containers.items()
        if any((ports := container["NetworkSettings"]["Ports"]).values())
    }
    assert published == {
        "airflow-apiserver": [("127.0.0.1", stack.settings["PORT"])],
        "mlflow": [("127.0.0.1", stack.settings["MLFLOW_PORT"])],
        "recs-api": [("127.0.0.1", stack.settings["SERVICE_PORT"])],
    }


def test_the_stores_are_on_an_internal_network(stack: Stack, containers: dict[str, dict[str, Any]]) -> None:
    network = json.loads(stack.command("docker", "network", "inspect", f"{stack.name}_stores").stdout)[0]
    assert network["Internal"]
    networks = {name: set(containers[name]["NetworkSettings"]["Networks"]) for name in ("postgres", "redis")}
    # Spark's workers write features into Redis, and never see PostgreSQL.
    assert networks == {
        "postgres": {f"{stack.name}_stores"},
        "redis": {f"{stack.name}_stores", f"{stack.name}_default"},
    }


def test_probes_start_no_airflow(containers: dict[str, dict[str, Any]]) -> None:
    probes = {name: " ".join(containers[name]["Config"]["Healthcheck"]["Test"]) for name in SERVICES}
    assert {name for name, probe in probes.items() if re.search(r"\bairflow (jobs|db|info)|python", probe)} == set()


def test_each_service_knows_its_own_secrets_only(stack: Stack) -> None:
    secrets = {name: value for name, value in stack.secrets().items() if name not in ("clone", "ADMIN_USER")}
    assert {service: found_in([stack.known_to(service)], secrets) for service in KNOWN_SECRETS} == KNOWN_SECRETS


def test_the_image_has_openblas_and_one_spark(stack: Stack) -> None:
    script = (
        "import ctypes, numpy, pathlib, pyspark;"
        "ctypes.CDLL('libblas.so.3');"
        "jars = sorted(p.name for p in pathlib.Path(pyspark.__file__).parent.glob('jars/spark-core_*'));"
        "print(pathlib.Path('/usr/lib/x86_64-linux-gnu/libblas.so.3').resolve().parent.name,"
        " numpy.show_config('dicts')['Build Dependencies']['blas']['name'], pyspark.__version__, jars)"
    )
    answer = stack.compose("exec", "-T", "spark-worker", "python", "-c", script).stdout.split(maxsplit=3)
    assert answer[:3] == ["openblas-pthread", "scipy-openblas", "4.3.0"]
    assert answer[3].strip() == "['spark-core_2.13-4.3.0.jar']"


def test_the_chain_serves_recommendations(stack: Stack, airflow: Airflow, chain: str) -> None:
    assert "The whole chain took" in chain
    assert chain.count("✗") == 0
    served = dict(stack.sql("SELECT dataset, rows FROM served"))
    assert set(served) == {
        "candidates_inference", "candidates_train", "default_recs", "items", "online_recs", "personal_recs",
        "user_history",
    }  # fmt: skip
    assert int(served["personal_recs"]) > 500
    assert stack.sql("SELECT DISTINCT count(*) FROM personal_recs GROUP BY user_id") == [["20"]]
    overlap = "SELECT count(*) FROM personal_recs JOIN user_history USING (user_id, item_id)"
    assert stack.sql(overlap) == [["0"]]
    runs = airflow.get("dags/etl_train_test_pipeline/dagRuns")["dag_runs"]
    version = airflow.xcom("etl_train_test_pipeline", runs[0]["dag_run_id"], "find_latest_model")
    assert re.fullmatch(r"/opt/airflow/models/artifacts/version_\d{8}T\d{6}", version)
    assert (stack.folder / "models/artifacts" / Path(version).name / "manifest.json").exists()


def test_the_service_hands_out_what_is_served_and_keeps_events(stack: Stack, chain: str) -> None:
    service = f"http://127.0.0.1:{stack.settings['SERVICE_PORT']}"
    key = {"X-API-Key": stack.secrets()["SERVICE_API_KEY"]}
    [[generation]] = stack.sql("SELECT generation_id FROM served WHERE dataset = 'personal_recs'")
    [[user, ranked]] = stack.sql(
        "SELECT user_id, string_agg(item_id, ' ' ORDER BY rank) FROM personal_recs GROUP BY 1 ORDER BY 1 LIMIT 1"
    )

    def ask(path: str) -> dict[str, Any]:
        return dict(requests.get(f"{service}{path}", timeout=30).json())

    wait_for(lambda: ask("/v1/popular?k=1")["generation"], "the service to see a generation", 30)
    answer = ask(f"/v1/recommendations/{user}?k=20")
    assert (answer["generation"], answer["stale"], answer["known"]) == (int(generation), False, True)
    assert [item["item_id"] for item in answer["items"]] == ranked.split()
    assert {part["name"]: part["ok"] for part in ask("/v1/parts")["parts"]}.items() >= {
        ("postgresql", True), ("redis", True),
    }  # fmt: skip

    taken = ranked.split()[3]
    event = {"events": [{"user_id": "a visitor", "item_id": taken, "key": "once"}]}
    assert requests.post(f"{service}/v1/events", json=event, timeout=30).status_code == 401
    for accepted in (1, 0):
        told = requests.post(f"{service}/v1/events", json=event, headers=key, timeout=30).json()
        assert (told["accepted"], told["repeated"]) == (accepted, 1 - accepted)
    kept = "SELECT user_id, item_id, kind FROM service.events"
    assert stack.sql(kept) == [["a visitor", taken, "interaction"]]
    assert [row["item_id"] for row in ask("/v1/users/a visitor")["recent"]] == [taken]
    assert taken not in [item["item_id"] for item in ask("/v1/recommendations/a visitor?k=20")["items"]]
    told = requests.delete(f"{service}/v1/users/a visitor", headers=key, timeout=30).json()
    assert (told["removed"]["events"], told["removed"]["recent_events"]) == (1, 1)
    assert stack.sql(kept) == []


@pytest.mark.parametrize("model", ["recommender", "ranker"])
def test_the_champions_are_in_mlflow_and_in_the_list(stack: Stack, chain: str, model: str) -> None:
    answer = requests.get(
        f"http://127.0.0.1:{stack.settings['MLFLOW_PORT']}/api/2.0/mlflow/registered-models/alias",
        params={"name": f"shortlist-{model}", "alias": "champion"},
        timeout=30,
    )
    answer.raise_for_status()
    folder = stack.folder / "models" / {"recommender": "artifacts", "ranker": "rankers"}[model]
    champion = json.loads((folder / "champion.json").read_text())["version"]
    tags = {tag["key"]: tag["value"] for tag in answer.json()["model_version"]["tags"]}
    assert tags["version"] == champion
    assert champion in stack.command("make", "compose-models").stdout


def test_the_spark_tasks_ran_on_the_cluster(stack: Stack, chain: str) -> None:
    master = json.loads(
        stack.compose("exec", "-T", "spark-master", "curl", "-s", "http://spark-master:8080/json/").stdout
    )
    applications = [*master["activeapps"], *master["completedapps"]]
    assert {application["name"] for application in applications} == {"spark-connect"}
    assert len(master["workers"]) == 1


def test_a_scheduled_run_does_not_repeat_what_a_person_published_this_week(
    stack: Stack, airflow: Airflow, chain: str
) -> None:
    """As when a DAG is unpaused late in the week: the first scheduled run is cleared, so that it runs again."""
    before = stack.sql("SELECT dataset, generation_id FROM served ORDER BY 1")
    for dag_id, task_id in WEEKLY.items():
        run_id = airflow.get(f"dags/{dag_id}/dagRuns?run_type=scheduled")["dag_runs"][0]["dag_run_id"]
        airflow.call("POST", f"dags/{dag_id}/dagRuns/{run_id}/clear", {"dry_run": False})
        assert airflow.wait(dag_id, run_id) == "success"
        assert airflow.states(dag_id, run_id)[task_id] == "skipped"
    assert stack.sql("SELECT dataset, generation_id FROM served ORDER BY 1") == before


def test_logs_hold_no_secret(stack: Stack, chain: str) -> None:
    secrets = {name: value for name, value in stack.secrets().items() if name not in ("clone", "ADMIN_USER")}
    texts = [chain, stack.compose("logs", "--no-color").stdout]
    texts += [file.read_text(encoding="utf-8") for file in (stack.folder / "logs").rglob("*.log")]
    assert len(texts) > 30
    assert found_in(texts, secrets) == set()
    assert found_in([stack.command("make", "credentials").stdout], secrets) == {
        "ADMIN_PASSWORD", "FERNET_KEY", "POSTGRES_PASSWORD", "RECS_DB_PASSWORD", "REDIS_PASSWORD",
        "SERVICE_API_KEY",
    }  # fmt: skip
