"""A Spark application on the connection and in the image of everything else, by SparkSubmitOperator."""

from __future__ import annotations

from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator
from airflow.sdk import dag


@dag(schedule=None, tags=["first"])
def submitted() -> None:
    SparkSubmitOperator(task_id="submit", application="/opt/airflow/dags/application.py", conn_id="spark_default")


submitted()
