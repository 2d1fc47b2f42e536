"""
# Watch for drift, retrain when it is needed

Every day: turns the files of new feedback in `data/streaming/` into a batch, compares it with what the champion was
trained on, and decides. Without a file the run is skipped. No drift: the model stays, the batch waits. Drift, or
many interactions that wait: all batches are merged into the interactions, a new version is trained and evaluated; if
the gate lets it pass, its hand-over files are written and it is the champion; the `load_*` DAGs publish them.

The decision with every term of the score is the XCom `retrain_decision` of `check_retrain`; the reports of it
and of the training lie in `reports/`. Safe to re-run: nothing is merged twice.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import dag

from dag_support.approval import patience, wire_approval
from dag_support.assets import HAND_OVER, INTERACTIONS, MODEL_VERSION
from dag_support.defaults import DAG_DEFAULT_ARGS, START_DATE
from dag_support.notifiers import NOTIFY_RUN_FAILURE, NOTIFY_SUCCESS
from dag_support.tasks import branch_task, spark_task, step_task
from dag_support.templates import BATCH, RUN_AFTER, TIMINGS, VERSION
from shortlist.settings import load_settings
from steps.drift import check_retrain, detect_drift, find_current_model, skip_retrain
from steps.evaluate import evaluate_recommender
from steps.export import export_recommendations
from steps.streaming import merge_streaming_data, process_streaming_data
from steps.train import find_latest_model, train_recommender

SETTINGS = load_settings()


@dag(
    schedule="@daily",
    start_date=START_DATE,
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=timedelta(hours=12) + patience(SETTINGS),
    default_args=DAG_DEFAULT_ARGS,
    on_failure_callback=NOTIFY_RUN_FAILURE,
    doc_md=__doc__,
    tags=["drift", "train"],
)
def drift_detection_retrain_pipeline() -> None:
    batch = spark_task(process_streaming_data)(settings=SETTINGS, batch=BATCH, as_of=RUN_AFTER)
    current = step_task(find_current_model)(settings=SETTINGS)
    drift = spark_task(detect_drift, multiple_outputs=True)(settings=SETTINGS, batch_path=batch, version_path=current)
    decided = branch_task(
        check_retrain,
        key="retrain_decision",
        choose=lambda decision: "merge_streaming_data" if decision["retrain"] else "skip_retrain",
    )(
        settings=SETTINGS,
        batch_path=batch,
        version_path=current,
        data_drift=drift["data_drift"],
        model_drift=drift["model_drift"],
    )
    skipped = step_task(skip_retrain)(decision=decided["retrain_decision"])
    merged = spark_task(merge_streaming_data, outlets=[INTERACTIONS])(settings=SETTINGS)
    trained = spark_task(train_recommender, outlets=[MODEL_VERSION])(settings=SETTINGS, version=VERSION)
    latest = step_task(find_latest_model)(settings=SETTINGS, trained=trained)
    tested = spark_task(evaluate_recommender, task_id="test_recommender")(
        settings=SETTINGS, version_path=latest, timings=TIMINGS
    )
    exported = spark_task(export_recommendations, outlets=[HAND_OVER], on_success_callback=NOTIFY_SUCCESS)(
        settings=SETTINGS, version_path=latest, timings=TIMINGS
    )
    batch >> current
    decided >> [skipped, merged]
    merged >> trained >> latest >> tested
    judged = "{{ ti.xcom_pull(task_ids='test_recommender')['gate']['reason'] }}"
    wire_approval(tested, exported, reason=judged, settings=SETTINGS)


drift_detection_retrain_pipeline()
