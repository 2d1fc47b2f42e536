"""
# Refresh the catalogue

Every day, in containers: collects the items of the shop's site (`[catalogue]` says from where), brings them into the
table behind the view `items` and into the search index, tells the service, and logs what is known of the catalogue to
MLflow. Without Elasticsearch (the profile `search`) `elastic_task` is skipped, and items are searched in PostgreSQL. A
crawl that was interrupted goes on where it was. Safe to re-run: nothing is half replaced.

Needs the profile `containers`, and is switched off until somebody switches it on.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import dag

from dag_support.assets import CATALOGUE, served
from dag_support.containers import job_task
from dag_support.defaults import DAG_DEFAULT_ARGS, START_DATE
from dag_support.notifiers import NOTIFY_RUN_FAILURE, NOTIFY_SUCCESS


@dag(
    schedule="@daily",
    start_date=START_DATE,
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=True,
    dagrun_timeout=timedelta(hours=12),
    default_args=DAG_DEFAULT_ARGS,
    on_failure_callback=NOTIFY_RUN_FAILURE,
    doc_md=__doc__,
    tags=["catalogue", "containers"],
)
def catalogue_refresh() -> None:
    scraped = job_task("scraping_task", "scrape", network="jobs", outlets=[CATALOGUE])
    stored = job_task(
        "postgres_task", "postgres", network="stores", secrets=("RECS_DATABASE_URL",), outlets=[served("items")]
    )
    indexed = job_task("elastic_task", "elastic", network="stores", secrets=("ELASTICSEARCH_URL",))
    told = job_task(
        "fastapi_task",
        "fastapi",
        network="stores",
        secrets=("SERVICE_API_KEY",),
        variables=("SERVICE_URL_INTERNAL",),
        trigger_rule="none_failed_min_one_success",  # also without Elasticsearch, but never without a crawl
        on_success_callback=NOTIFY_SUCCESS,
    )
    logged = job_task("mlflow_task", "mlflow", network="stores", secrets=("MLFLOW_TRACKING_URI",))
    scraped >> [stored, indexed, told, logged]
    indexed >> told


catalogue_refresh()
