"""
# Forget users

Takes the users whom the service was asked to forget out of the files: input, feedback, processed data, model versions
and hand-over files. From the database and Redis the service has removed them at once, and no load brings them back.
A file that cannot be rewritten here is named in the log and in the result, for a person to look after; until then
those users stay on the list. Without anybody to forget the run is skipped. Safe to re-run.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import dag

from dag_support.defaults import DAG_DEFAULT_ARGS, START_DATE
from dag_support.notifiers import NOTIFY_RUN_FAILURE, NOTIFY_SUCCESS
from dag_support.tasks import step_task
from shortlist.settings import load_settings
from steps import forgetting

SETTINGS = load_settings()


@dag(
    schedule="30 22 * * *",
    start_date=START_DATE,
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=timedelta(hours=6),
    default_args=DAG_DEFAULT_ARGS,
    on_failure_callback=NOTIFY_RUN_FAILURE,
    doc_md=__doc__,
    tags=["service", "privacy"],
)
def forget_users() -> None:
    step_task(forgetting.forget_users, on_success_callback=NOTIFY_SUCCESS)(settings=SETTINGS)


forget_users()
