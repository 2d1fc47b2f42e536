"""Tells, by a task, by Spark's executors and by a job's container, which commit's code each of them runs."""

from __future__ import annotations

import os

from airflow.sdk import dag
from docker.types import Mount
from steps.said import say, say_in_spark  # type: ignore[import-not-found]  # beside it where it is shipped to

from dag_support.containers import JobOperator, project
from dag_support.defaults import DAG_DEFAULT_ARGS, START_DATE
from dag_support.tasks import spark_task, step_task

PLUGINS = "/opt/airflow/plugins"
SCRIPT = """
import json
try:
    from steps.said import SAID
except ModuleNotFoundError:
    SAID = "the server's own"
print(json.dumps({"result": SAID}))
"""


@dag(schedule=None, start_date=START_DATE, default_args=DAG_DEFAULT_ARGS, is_paused_upon_creation=False, tags=["first"])
def code_probe() -> None:
    step_task(say)()
    spark_task(say_in_spark)()
    JobOperator(
        task_id="say_in_a_job",
        image=os.environ.get("JOBS_IMAGE") or f"{project()}-jobs",
        command=["python", "-c", SCRIPT],
        network="jobs",
        mounts=[Mount(PLUGINS, PLUGINS, type="bind", read_only=True)],
    )


code_probe()
