"""
# From raw events to interactions

Every hour, in containers: reads the raw events that are new in object storage (`[transform]` says where), writes
processed events and tables for charts, keeps a version of both in the repository of data sets, and lets
`model_trigger_dag` decide whether a model is trained on them. Without new data the run is skipped, and so it is while
another one is active: runs may take longer than an hour. While the variable `is_development` is `true`, no version is
kept. Safe to re-run: each raw object is processed exactly once.

Needs the profile `containers`, and is switched off until somebody switches it on.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import dag

from dag_support.approval import patience
from dag_support.assets import DATASET, VIZ
from dag_support.containers import DATASETS, S3, job_task, said_by
from dag_support.defaults import DAG_DEFAULT_ARGS, START_DATE
from dag_support.notifiers import NOTIFY_RUN_FAILURE, NOTIFY_SUCCESS
from dag_support.runs import check_dag_active, trigger_and_wait
from dag_support.tasks import short_circuit_task
from shortlist.settings import load_settings
from steps.containers import NEW_DATA, check_run_docker_output

SETTINGS = load_settings()


@dag(
    schedule="@hourly",
    start_date=START_DATE,
    catchup=False,
    max_active_runs=2,  # the second one sees the first and is skipped, where with 1 it would wait
    is_paused_upon_creation=True,
    dagrun_timeout=timedelta(hours=22) + patience(SETTINGS),
    default_args=DAG_DEFAULT_ARGS,
    on_failure_callback=NOTIFY_RUN_FAILURE,
    doc_md=__doc__,
    tags=["containers", "etl"],
)
def interactions_transform() -> None:
    active = short_circuit_task(check_dag_active)()
    transformed = job_task("run_transform", "transform", listen_for=(NEW_DATA,), **S3)
    # Runs after a skipped one, too, so that what is behind it does not.
    new_data = short_circuit_task(check_run_docker_output, trigger_rule="none_failed")(
        result=transformed.output, said=said_by("run_transform")
    )
    kept = [
        job_task("load_processed", "load-processed", skip_when="is_development", outlets=[DATASET], **DATASETS),
        job_task("load_viz", "load-viz", skip_when="is_development", outlets=[VIZ], **DATASETS),
    ]
    triggered = trigger_and_wait(
        "trigger_model_dag",
        "model_trigger_dag",
        trigger_rule="none_failed",
        on_success_callback=NOTIFY_SUCCESS,
    )
    active >> transformed >> new_data >> kept >> triggered


interactions_transform()
