"""
# Train a model if the data set has changed

Compares, in a container, the version of the data set that the champion was trained on with the one there is now. If
they differ, `etl_train_test_pipeline` is started on the newest one, and waited for. While the variable
`dev_skip_trigger` is `true`, it is started without a comparison, on its usual input; while `dev_skip_model` is, it is
never started. A run that finds another one active is skipped.

Started by `interactions_transform`, by hand or by REST. Needs the profile `containers`, and is switched off until
somebody switches it on.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import dag

from dag_support.approval import patience
from dag_support.containers import DATASETS, job_task, said_by
from dag_support.defaults import DAG_DEFAULT_ARGS, START_DATE
from dag_support.notifiers import NOTIFY_RUN_FAILURE, NOTIFY_SUCCESS
from dag_support.runs import check_dag_active, trigger_and_wait
from dag_support.tasks import branch_task, short_circuit_task
from shortlist.settings import load_settings
from steps.containers import END, MISMATCH, TRAIN, check_mismatch

SETTINGS = load_settings()

# What a training is told of what it trains on.
DATA_SET = ("dataset_commit", "input_path")


@dag(
    schedule=None,
    start_date=START_DATE,
    catchup=False,
    max_active_runs=2,  # the second one sees the first and is skipped, where with 1 it would wait
    is_paused_upon_creation=True,
    dagrun_timeout=timedelta(hours=16) + patience(SETTINGS),
    default_args=DAG_DEFAULT_ARGS,
    on_failure_callback=NOTIFY_RUN_FAILURE,
    doc_md=__doc__,
    tags=["containers", "train"],
)
def model_trigger_dag() -> None:
    active = short_circuit_task(check_dag_active)()
    compared = job_task(
        "run_model_trigger", "model-trigger", skip_when="dev_skip_trigger", listen_for=(MISMATCH,), **DATASETS
    )
    decided = branch_task(
        check_mismatch,
        key="decision",
        choose=lambda decision: TRAIN if decision["train"] else END,
        trigger_rule="none_failed",
    )(
        result=compared.output,
        said=said_by("run_model_trigger"),
        skip_trigger="{{ var.value.get('dev_skip_trigger', '') }}",
        skip_model="{{ var.value.get('dev_skip_model', '') }}",
    )
    trained = trigger_and_wait(
        TRAIN,
        "etl_train_test_pipeline",
        conf={name: f"ti.xcom_pull('check_mismatch', key='decision')['{name}']" for name in DATA_SET},
        on_success_callback=NOTIFY_SUCCESS,
    )
    active >> compared >> decided >> [trained, EmptyOperator(task_id=END)]


model_trigger_dag()
