"""
# Probe of container tasks

Runs the Python script it is given in a container, with secrets that it may know.
"""

from __future__ import annotations

import os
from datetime import timedelta

from airflow.sdk import dag

from dag_support.containers import JobOperator, project
from dag_support.defaults import DAG_DEFAULT_ARGS, START_DATE


@dag(
    schedule=None,
    start_date=START_DATE,
    max_active_runs=8,
    default_args=DAG_DEFAULT_ARGS | {"retry_delay": timedelta(seconds=1)},
    params={"script": ""},
)
def container_probe() -> None:
    JobOperator(
        task_id="speak",
        image=os.environ.get("JOBS_IMAGE") or f"{project()}-jobs",
        command=["python", "-uc", "{{ params.script }}", "{{ ti.try_number }}"],
        network="jobs",
        secrets=("SERVICE_API_KEY", "RECS_DATABASE_URL"),
        variables=("AWS_REGION",),
    )


container_probe()
