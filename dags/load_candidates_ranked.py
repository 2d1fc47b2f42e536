"""
# Rank this week's candidates

Waits until this week's `candidates_train` and `candidates_inference` are served, trains the CatBoost ranker on the
one, evaluates it, and, if the gate lets it pass, ranks the other and publishes the result as the view `personal_recs`.
Without a file of candidates the run is skipped; when the gate refuses, it fails with the numbers and what is served
stays. The report lies in `reports/ranker_version_<time>/`. Safe to re-run.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import dag

from dag_support.approval import patience, wire_approval
from dag_support.assets import RANKER_VERSION
from dag_support.defaults import DAG_DEFAULT_ARGS, START_DATE
from dag_support.notifiers import NOTIFY_RUN_FAILURE
from dag_support.tasks import sensor_task, step_task
from dag_support.templates import RUN_AFTER, RUN_KEY, RUN_TYPE, TIMINGS, VERSION
from dag_support.wiring import audit_and_publish
from shortlist.settings import load_settings
from steps.ranked_data import (
    candidates_ready,
    check_gate,
    evaluate_ranker,
    publish_ranked,
    rank_candidates,
    train_ranker,
)

SETTINGS = load_settings()


@dag(
    schedule="15 21 * * 6",
    start_date=START_DATE,
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=timedelta(hours=18) + patience(SETTINGS),
    default_args=DAG_DEFAULT_ARGS,
    on_failure_callback=NOTIFY_RUN_FAILURE,
    doc_md=__doc__,
    tags=["rank", "weekly"],
)
def load_candidates_ranked() -> None:
    ready = sensor_task(
        candidates_ready,
        task_id="wait_for_candidates",
        poke_interval=timedelta(minutes=1),
        timeout=timedelta(hours=12),
    )(settings=SETTINGS, run_after=RUN_AFTER, run_type=RUN_TYPE)
    ranker = step_task(train_ranker, outlets=[RANKER_VERSION])(settings=SETTINGS, version=VERSION, run_after=RUN_AFTER)
    evaluated = step_task(evaluate_ranker)(settings=SETTINGS, ranker_path=ranker, timings=TIMINGS)
    passed = step_task(check_gate)(settings=SETTINGS, ranker_path=ranker)
    generation = step_task(rank_candidates)(settings=SETTINGS, ranker_path=ranker, run_key=RUN_KEY, run_after=RUN_AFTER)
    ready >> ranker >> evaluated >> passed
    judged = "{{ ti.xcom_pull(task_ids='check_gate')['reason'] }}"
    wire_approval(passed, generation, reason=judged, settings=SETTINGS)
    audit_and_publish(
        "personal_recs", generation, settings=SETTINGS, step=publish_ranked, ranker_path=ranker, timings=TIMINGS
    )


load_candidates_ranked()
