"""Stops and crashes in the middle of the chain: it ends right, and readers never see a part of anything."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.compose.stack import deliver_feedback, wait_for

if TYPE_CHECKING:
    from tests.compose.stack import Airflow, Stack

RETRAIN = "drift_detection_retrain_pipeline"
SERVED = "SELECT count(DISTINCT user_id), count(*) FROM personal_recs"

# What is killed while a task runs. Together, every service that runs for long.
KILLED_DURING = {
    "train_recommender": ("spark-connect", "airflow-scheduler", "airflow-triggerer"),
    "test_recommender": ("airflow-worker", "mlflow", "recs-api"),
    "export_recommendations": ("spark-worker", "airflow-apiserver", "postgres", "airflow-dag-processor"),
}


@pytest.fixture(scope="module")
def run_id(stack: Stack, airflow: Airflow) -> str:
    """One retraining for all tests: what they do to it would be too slow to do twice."""
    settings = stack.folder / "config" / "pipeline.toml"
    # On so few users the interval of a difference is wide.
    settings.write_text(settings.read_text().replace("tolerance = 0.01", "tolerance = 0.5"))
    deliver_feedback(stack, times=20, days_later=10)
    return airflow.trigger(RETRAIN)


def wait_until_runs(airflow: Airflow, run_id: str, task_id: str) -> None:
    def runs() -> bool:
        state = airflow.states(RETRAIN, run_id).get(task_id)
        assert state not in ("failed", "upstream_failed"), f"{task_id} is {state}"
        return state == "running"

    wait_for(runs, f"{task_id} to run", 600)


def test_a_stop_in_mid_task_loses_nothing_and_the_task_runs_again(stack: Stack, airflow: Airflow, run_id: str) -> None:
    served = stack.sql(SERVED)
    wait_until_runs(airflow, run_id, "process_streaming_data")
    stack.compose("stop")
    stack.up()

    assert stack.sql(SERVED) == served
    processed = "process_streaming_data"
    wait_for(lambda: airflow.states(RETRAIN, run_id)[processed] == "success", f"{processed} to run again", 600)


def test_any_container_may_be_killed_during_the_chain(stack: Stack, airflow: Airflow, run_id: str) -> None:
    served = stack.sql(SERVED)
    for task_id, services in KILLED_DURING.items():
        wait_until_runs(airflow, run_id, task_id)
        for service in services:
            stack.compose("kill", service)
            stack.compose("start", service)
        stack.wait_until_healthy()
        assert stack.sql(SERVED) == served
    assert airflow.wait(RETRAIN, run_id, seconds=1200) == "success"
    assert airflow.states(RETRAIN, run_id)["skip_retrain"] == "skipped"
    decision = airflow.xcom(RETRAIN, run_id, "check_retrain", "retrain_decision")
    assert "weights" in decision["reason"]
    champion = json.loads((stack.folder / "models" / "artifacts" / "champion.json").read_text())
    assert champion["previous"][0] == decision["champion"]
    merged = json.loads((stack.folder / "data" / "processed" / "etl.json").read_text())["merged"]
    # Batches of runs that skipped the retraining come with it, each once.
    assert merged[-1] == airflow.xcom(RETRAIN, run_id, "process_streaming_data").rsplit("/", 1)[-1]
    assert len(set(merged)) == len(merged)
    assert not list((stack.folder / "data" / "batches").iterdir())

    for dag_id in ("load_candidates_train", "load_candidates_inference", "load_candidates_ranked"):
        assert stack.sql(SERVED) == served
        loading = airflow.trigger(dag_id)
        for service in ("redis", "spark-master") if dag_id == "load_candidates_train" else ():
            stack.compose("kill", service)
            stack.compose("start", service)
        assert airflow.wait(dag_id, loading, seconds=900) == "success"
    [[users, rows]] = stack.sql(SERVED)
    assert int(rows) == 20 * int(users)
    assert int(users) >= int(served[0][0])
