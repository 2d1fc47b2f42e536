"""The same tasks on both kinds of driver: in the Connect server, and in the worker by `spark_classic`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from airflow.sdk import dag

from dag_support.tasks import spark_task
from dag_support.templates import RUN_AFTER
from shortlist.settings import load_settings
from steps.etl import run_etl

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd
    from pyspark.sql import SparkSession

BEATS = Path("/opt/airflow/data/beats")
SECONDS_TO_BEAT = 600
SETTINGS = load_settings()


def count_rows(spark: SparkSession) -> int:
    """What remains when a task does next to nothing is the start."""
    return spark.range(1000).repartition(2).count()


def beat(spark: SparkSession) -> None:
    """Leave a sign of life five times a second, from an executor."""

    def touch(frames: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        for frame in frames:
            for _ in range(SECONDS_TO_BEAT * 5):
                BEATS.touch()
                time.sleep(0.2)
            yield frame

    spark.range(1).mapInPandas(touch, "id long").count()


def make_dags(driver: str, conn_id: str) -> None:
    @dag(dag_id=f"driver_{driver}", schedule=None, tags=["benchmark"])
    def measured() -> None:
        counted = spark_task(count_rows, conn_id=conn_id)()
        etl = spark_task(run_etl, task_id="spark_etl", conn_id=conn_id)(settings=SETTINGS, as_of=RUN_AFTER)
        counted >> etl

    @dag(dag_id=f"beat_{driver}", schedule=None, tags=["benchmark"])
    def killed() -> None:
        spark_task(beat, conn_id=conn_id, retries=0)()

    measured()
    killed()


make_dags("connect", "spark_default")
make_dags("classic", "spark_classic")
