"""
# Load default recommendations

Loads `postgres_data/default_recs` (popular items, for anyone), audits it and publishes it as the view
`default_recs`. Without a file the run is skipped. Safe to re-run: a retry replaces its own unfinished generation.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import dag

from dag_support.defaults import DAG_DEFAULT_ARGS, START_DATE
from dag_support.notifiers import NOTIFY_RUN_FAILURE
from dag_support.wiring import load_and_publish
from shortlist.settings import load_settings

SETTINGS = load_settings()


@dag(
    schedule="5 21 * * 6",
    start_date=START_DATE,
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=timedelta(hours=3),
    default_args=DAG_DEFAULT_ARGS,
    on_failure_callback=NOTIFY_RUN_FAILURE,
    doc_md=__doc__,
    tags=["load", "weekly"],
)
def load_default_recs() -> None:
    load_and_publish("default_recs", references=("items",), settings=SETTINGS)


load_default_recs()
