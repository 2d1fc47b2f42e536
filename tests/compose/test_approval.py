"""A person's word on the real stack: the run waits, a rejection leaves what is served, an agreement publishes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.compose.stack import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.compose.stack import Airflow, Stack

DAG = "load_candidates_ranked"
SERVED = "SELECT generation_id FROM served WHERE dataset = 'personal_recs'"


@pytest.fixture
def approval(stack: Stack, airflow: Airflow) -> Iterator[None]:
    settings = stack.folder / "config" / "pipeline.toml"
    text = settings.read_text()
    settings.write_text(text.replace("approval = false", "approval = true"))
    stack.command("make", "reload")
    wait_for(lambda: "approval" in tasks(airflow), "the DAG with the question", 120)
    yield
    settings.write_text(text)
    stack.command("make", "reload")
    wait_for(lambda: "approval" not in tasks(airflow), "the DAG without the question", 120)


def tasks(airflow: Airflow) -> set[str]:
    return {task["task_id"] for task in airflow.get(f"dags/{DAG}/tasks")["tasks"]}


def answer(airflow: Airflow, run_id: str, option: str) -> None:
    wait_for(lambda: airflow.states(DAG, run_id)["approval"] == "awaiting_input", "the question", 300)
    place = f"dags/{DAG}/dagRuns/{run_id}/taskInstances/approval/-1/hitlDetails"
    assert "the difference in NDCG@10 is" in airflow.get(place)["body"]
    airflow.call("PATCH", place, {"chosen_options": [option], "params_input": {}})


@pytest.mark.usefixtures("approval")
def test_nothing_is_published_before_a_person_agrees(stack: Stack, airflow: Airflow) -> None:
    before = stack.sql(SERVED)
    run_id = airflow.trigger(DAG)

    answer(airflow, run_id, "Reject")
    assert airflow.wait(DAG, run_id) == "success"
    assert airflow.states(DAG, run_id)["publish"] == "skipped"
    assert stack.sql(SERVED) == before

    again = {"dry_run": False, "dag_run_id": run_id, "task_ids": ["approval"], "include_downstream": True}
    airflow.call("POST", f"dags/{DAG}/clearTaskInstances", again | {"only_failed": False, "reset_dag_runs": True})
    answer(airflow, run_id, "Approve")
    assert airflow.wait(DAG, run_id) == "success"
    assert stack.sql(SERVED) != before
