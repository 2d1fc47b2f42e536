"""
# Export feedback

Writes the interactions that the service took since the last run into one file in `data/streaming/`, where
`drift_detection_retrain_pipeline` finds it a quarter of an hour later. Clicks and impressions stay in the database, and
so do users who asked to be forgotten. Without new interactions the run is skipped. Safe to re-run: each interaction is
in exactly one file, whoever was killed when.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import dag

from dag_support.assets import FEEDBACK
from dag_support.defaults import DAG_DEFAULT_ARGS, START_DATE
from dag_support.notifiers import NOTIFY_RUN_FAILURE, NOTIFY_SUCCESS
from dag_support.tasks import step_task
from dag_support.templates import FEEDBACK_BATCH
from shortlist.settings import load_settings
from steps import feedback

SETTINGS = load_settings()


@dag(
    schedule="45 23 * * *",
    start_date=START_DATE,
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=timedelta(hours=6),
    default_args=DAG_DEFAULT_ARGS,
    on_failure_callback=NOTIFY_RUN_FAILURE,
    doc_md=__doc__,
    tags=["service", "drift"],
)
def export_feedback() -> None:
    step_task(feedback.export_feedback, outlets=[FEEDBACK], on_success_callback=NOTIFY_SUCCESS)(
        settings=SETTINGS, batch=FEEDBACK_BATCH
    )


export_feedback()
