"""
# From interaction files to recommendations

Validates the interactions (bad rows go to quarantine, with counts), splits them by time, trains the stage-one models,
evaluates them against the baselines on the held-out window, and writes the hand-over files to `postgres_data/`, which
the weekly `load_*` DAGs publish, and the report to `reports/training_version_<time>/`. `create_futures` prepares pairs
without a rating for scoring; without `data/raw/future.txt` or `.csv` it is skipped.

Started by hand; the form asks for `input_path`. Safe to re-run: every output is overwritten.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import Param, dag

from dag_support.approval import patience, wire_approval
from dag_support.assets import FUTURES, HAND_OVER, INTERACTIONS, MODEL_VERSION
from dag_support.defaults import DAG_DEFAULT_ARGS, START_DATE
from dag_support.notifiers import NOTIFY_RUN_FAILURE, NOTIFY_SUCCESS
from dag_support.tasks import spark_task, step_task
from dag_support.templates import RUN_AFTER, TIMINGS, VERSION
from shortlist.settings import load_settings
from steps.etl import run_etl
from steps.evaluate import evaluate_recommender
from steps.export import export_recommendations
from steps.futures import create_futures
from steps.train import find_latest_model, train_recommender

SETTINGS = load_settings()


@dag(
    schedule=None,
    start_date=START_DATE,
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=timedelta(hours=12) + patience(SETTINGS),
    default_args=DAG_DEFAULT_ARGS,
    on_failure_callback=NOTIFY_RUN_FAILURE,
    doc_md=__doc__,
    tags=["etl", "train"],
    params={
        "input_path": Param(SETTINGS.input.path, type="string", minLength=1, description="File, folder or glob"),
        "dataset_commit": Param(
            None,
            type=["null", "string"],
            pattern="^[0-9a-f]{40}$",
            description="Version of the data set that the input is, if it has one",
        ),
    },
)
def etl_train_test_pipeline() -> None:
    etl = spark_task(run_etl, task_id="spark_etl", outlets=[INTERACTIONS])(
        settings=SETTINGS, as_of=RUN_AFTER, input_path="{{ params.input_path }}"
    )
    futures = step_task(create_futures, outlets=[FUTURES])(settings=SETTINGS)
    trained = spark_task(train_recommender, task_id="spark_train_recommender", outlets=[MODEL_VERSION])(
        settings=SETTINGS, version=VERSION, dataset_commit="{{ params.dataset_commit or '' }}"
    )
    latest = step_task(find_latest_model)(settings=SETTINGS, trained=trained)
    tested = spark_task(evaluate_recommender, task_id="spark_test_recommender")(
        settings=SETTINGS, version_path=latest, timings=TIMINGS
    )
    exported = spark_task(export_recommendations, outlets=[HAND_OVER], on_success_callback=NOTIFY_SUCCESS)(
        settings=SETTINGS, version_path=latest, timings=TIMINGS
    )
    etl >> [futures, trained]
    trained >> latest >> tested
    judged = "{{ ti.xcom_pull(task_ids='spark_test_recommender')['gate']['reason'] }}"
    wire_approval(tested, exported, reason=judged, settings=SETTINGS)


etl_train_test_pipeline()
