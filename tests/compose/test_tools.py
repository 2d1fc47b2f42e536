"""What is started only when asked for: Flower, the page of Redis, Airflow's commands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import requests

from tests.compose.stack import SAMPLE, found_in, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.compose.stack import Airflow, Stack


@pytest.fixture(scope="module")
def tools(stack: Stack) -> Iterator[Stack]:
    stack.up("flower", "redis-commander")
    yield stack
    stack.compose("rm", "--stop", "--force", "flower", "redis-commander")


def test_flower_shows_the_worker_to_the_administrator_alone(tools: Stack) -> None:
    address = f"http://127.0.0.1:{tools.settings['FLOWER_PORT']}/workers?json=1"
    login = ("admin", tools.secrets()["ADMIN_PASSWORD"])

    assert requests.get(address, timeout=30).status_code == 401
    # It knows of a worker from its first heartbeat on.
    wait_for(lambda: "celery@" in requests.get(address, auth=login, timeout=30).text, "the worker to show", 60)


def test_the_page_of_redis_lists_keys_to_the_administrator_alone(tools: Stack) -> None:
    address = f"http://127.0.0.1:{tools.settings['REDIS_COMMANDER_PORT']}"
    login = {"username": "admin", "password": tools.secrets()["ADMIN_PASSWORD"]}

    assert requests.get(f"{address}/apiv2/server/info", timeout=30).status_code == 401
    token = requests.post(f"{address}/signin", json=login, timeout=30).json()["bearerToken"]
    shown = requests.get(f"{address}/apiv2/server/info", headers={"Authorization": f"Bearer {token}"}, timeout=30)
    assert {server["label"] for server in shown.json()["data"]} == {"redis", "features", "recent"}
    assert "Redis version" in shown.text


def test_features_are_written_by_sparks_workers_and_shown_by_the_page_of_redis(tools: Stack, airflow: Airflow) -> None:
    conf = {"input_path": f"/opt/airflow/{SAMPLE}", "save_to_db": True}
    body = {"logical_date": None, "conf": conf}
    run_id = airflow.call("POST", "dags/feature_engineering/dagRuns", body)["dag_run_id"]
    assert airflow.wait("feature_engineering", run_id) == "success"
    told = airflow.xcom("feature_engineering", run_id, "process_and_save_features")

    address = f"http://127.0.0.1:{tools.settings['REDIS_COMMANDER_PORT']}"
    login = {"username": "admin", "password": tools.secrets()["ADMIN_PASSWORD"]}
    token = requests.post(f"{address}/signin", json=login, timeout=30).json()["bearerToken"]

    def page(path: str) -> Any:
        answer = requests.get(f"{address}/apiv2/{path}", headers={"Authorization": f"Bearer {token}"}, timeout=30)
        answer.raise_for_status()
        return answer.json()

    assert page("key/R:redis:6379:2/features:served")["value"] == told["version"]
    users = page(f"keystree/R:redis:6379:2/features:{told['version']}:user:")
    assert len(users["data"] if isinstance(users, dict) else users) == told["users"] > 500


def test_tools_know_no_more_than_they_need(tools: Stack) -> None:
    secrets = {name: value for name, value in tools.secrets().items() if name not in ("clone", "ADMIN_USER")}
    known = {service: found_in([tools.known_to(service)], secrets) for service in ("flower", "redis-commander")}
    assert known == dict.fromkeys(known, {"ADMIN_PASSWORD", "REDIS_PASSWORD"})


def test_airflows_commands_run(stack: Stack) -> None:
    listed = stack.compose("run", "--rm", "-T", "airflow-cli", "airflow", "dags", "list", "--output", "plain").stdout

    assert "etl_train_test_pipeline" in listed
