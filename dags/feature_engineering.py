"""
# Features of users and items

Computes what the ranker knows of each user and item at the end of the data, and a little more, and shows some of it in
the log; with `save_to_db` it is written to Redis instead, one hash each under a new version, which readers see when it
is complete. `check_redis` fails if Redis cannot be used; without `save_to_db` it is not needed.

Started by hand; the form asks for `input_path` and `save_to_db`. Safe to re-run: each attempt writes a version of its
own, and what an earlier one left is removed.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import Param, dag

from dag_support.assets import FEATURES
from dag_support.defaults import DAG_DEFAULT_ARGS, START_DATE
from dag_support.notifiers import NOTIFY_RUN_FAILURE, NOTIFY_SUCCESS
from dag_support.tasks import spark_task, step_task
from dag_support.templates import ATTEMPT, RUN_AFTER
from shortlist.settings import load_settings
from steps.features import check_redis, process_and_save_features

SETTINGS = load_settings()


@dag(
    schedule=None,
    start_date=START_DATE,
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=timedelta(hours=6),
    default_args=DAG_DEFAULT_ARGS,
    on_failure_callback=NOTIFY_RUN_FAILURE,
    render_template_as_native_obj=True,  # save_to_db stays a boolean
    doc_md=__doc__,
    tags=["features"],
    params={
        "input_path": Param(SETTINGS.input.path, type="string", minLength=1, description="File, folder or glob"),
        "save_to_db": Param(False, type="boolean", description="Write to Redis; else some features go to the log"),
    },
)
def feature_engineering() -> None:
    checked = step_task(check_redis)(save_to_db="{{ params.save_to_db }}")
    saved = spark_task(process_and_save_features, outlets=[FEATURES], on_success_callback=NOTIFY_SUCCESS)(
        settings=SETTINGS,
        as_of=RUN_AFTER,
        input_path="{{ params.input_path | tojson }}",  # a folder called 2026 stays a text
        save_to_db="{{ params.save_to_db }}",
        version=ATTEMPT,
    )
    EmptyOperator(task_id="start") >> checked >> saved >> EmptyOperator(task_id="end")


feature_engineering()
