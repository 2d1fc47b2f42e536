"""What every task has unless its DAG says otherwise, and how a Spark session is made."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any, Final

import pendulum

from dag_support.notifiers import NOTIFY_FAILURE, NOTIFY_RETRY

SPARK_CONN_ID: Final = "spark_default"

START_DATE: Final = pendulum.datetime(2026, 1, 1, tz="UTC")

DAG_DEFAULT_ARGS: Final[dict[str, Any]] = {
    "owner": "shortlist",
    "retries": int(os.environ.get("SHORTLIST_TASK_RETRIES") or 2),
    "retry_delay": timedelta(minutes=1),
    "retry_exponential_backoff": 2.0,  # a factor since Airflow 3.2
    "max_retry_delay": timedelta(minutes=15),
    "execution_timeout": timedelta(hours=2),
    "on_failure_callback": NOTIFY_FAILURE,
    "on_retry_callback": NOTIFY_RETRY,
}

# For `task.pyspark(…, config_kwargs=SPARK_CONFIG)`. Where the session runs is the connection's matter; what holds for a
# whole driver, such as its memory, is that of spark-defaults.conf: a Connect server would not let a task set it.
SPARK_CONFIG: Final[dict[str, str]] = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.execution.arrow.pyspark.enabled": "true",
}
