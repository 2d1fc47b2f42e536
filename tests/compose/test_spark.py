"""Other ways to Spark than the Connect server, with the same image."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.compose.stack import PROJECT, wait_for

if TYPE_CHECKING:
    from tests.compose.stack import Airflow, Stack


def test_spark_submit_works(stack: Stack, airflow: Airflow) -> None:
    dags = Path(__file__).with_name("dags")
    shutil.copy(dags / "application.py", stack.folder / "dags")
    stack.add_dag(airflow, dags / "submitted.py", "submitted")
    run_id = airflow.trigger("submitted")
    assert airflow.wait("submitted", run_id) == "success"
    assert "rows counted on spark://spark-master:7077 : 1000" in stack.task_log("submitted", run_id, "submit")


def test_a_step_gives_the_same_by_a_connect_server_and_by_a_driver_in_the_worker(
    stack: Stack, airflow: Airflow
) -> None:
    connection = {"connection_id": "spark_classic", "conn_type": "spark", "host": "spark://spark-master", "port": 7077}
    airflow.call("POST", "connections", connection)
    stack.add_dag(airflow, PROJECT / "benchmarks" / "dags" / "spark_driver.py", "driver_classic", "driver_connect")
    told = {}
    for dag_id in ("driver_classic", "driver_connect"):
        run_id = airflow.trigger(dag_id)
        assert airflow.wait(dag_id, run_id) == "success"
        assert airflow.xcom(dag_id, run_id, "count_rows") == 1000
        told[dag_id] = {**airflow.xcom(dag_id, run_id, "spark_etl"), "as_of": None}

    assert told["driver_connect"] == told["driver_classic"]
    assert told["driver_connect"]["accepted"] > 0


def test_a_query_ends_with_its_worker(stack: Stack, airflow: Airflow) -> None:
    """Before the next attempt of its task: nobody says goodbye to the Connect server when a container is killed."""
    stack.add_dag(airflow, PROJECT / "benchmarks" / "dags" / "spark_driver.py", "beat_connect")
    beats = stack.folder / "data" / "beats"
    airflow.trigger("beat_connect")
    wait_for(beats.exists, "the query to run", 120)
    stack.compose("kill", "airflow-worker")
    try:
        wait_for(lambda: time.time() - beats.stat().st_mtime > 3, "the query to end", 60)
    finally:
        stack.compose("start", "airflow-worker")
    stack.wait_until_healthy()
