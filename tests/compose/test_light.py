"""The light stack: one more file in COMPOSE_FILE, and there is no Redis, no worker, no cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import requests

from tests.compose.stack import LIGHT, ONCE, booted, log_of_a_changed_step

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.compose.stack import Stack

GIB = 1024**3


@pytest.fixture(scope="module")
def light() -> Iterator[Stack]:
    with booted("shortlist-light", {"COMPOSE_FILE": LIGHT}) as stack:
        yield stack


def test_what_runs_is_healthy_and_may_take_six_gibibytes(light: Stack) -> None:
    containers = {name: container for name, container in light.inspect().items() if name not in ONCE}

    assert set(containers) == {
        "postgres", "mlflow", "airflow-apiserver", "airflow-scheduler", "airflow-dag-processor", "airflow-triggerer",
        "recs-api",
    }  # fmt: skip
    assert {container["State"]["Health"]["Status"] for container in containers.values()} == {"healthy"}
    assert sum(container["HostConfig"]["Memory"] for container in containers.values()) <= 6 * GIB


def test_the_chain_serves_recommendations(light: Stack) -> None:
    told = light.command("make", "compose-demo", timeout=1500).stdout

    assert told.count("✗") == 0
    assert "The whole chain took" in told
    assert light.sql("SELECT DISTINCT count(*) FROM personal_recs GROUP BY user_id") == [["20"]]
    assert light.sql("SELECT count(*) FROM personal_recs JOIN user_history USING (user_id, item_id)") == [["0"]]


def test_the_service_answers_without_redis(light: Stack) -> None:
    answer = requests.get(f"http://127.0.0.1:{light.settings['SERVICE_PORT']}/v1/parts", timeout=30).json()

    parts = {part["name"]: part for part in answer["parts"]}
    assert parts["postgresql"]["ok"]
    assert parts["personal_recs"]["ok"]
    assert "not configured" in parts["redis"]["detail"]


def test_changed_step_code_is_live_after_a_reload(light: Stack) -> None:
    assert "this is the changed step" in log_of_a_changed_step(light, light.airflow())


def test_container_tasks_are_refused_before_anything_starts(light: Stack) -> None:
    told = light.compose(
        "run", "--rm", "--no-deps", "-T", "--env", "COMPOSE_PROFILES=containers", "setup", check=False
    )  # fmt: skip

    assert told.returncode == 1
    assert "the light stack runs no container tasks" in told.stderr
    assert "Traceback" not in told.stderr + told.stdout
