"""A step that is in no clone of the server: only a commit that was shipped or fetched has it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd
    from pyspark.sql import SparkSession

SAID = "first"


def say() -> str:
    """Tell it in the task's own process."""
    return SAID


def say_in_spark(spark: SparkSession) -> str:
    """Tell it in an executor's process, which imports this module itself."""
    [row] = spark.range(1, numPartitions=1).mapInPandas(_add, "id long, said string").collect()
    return str(row.said)


def _add(batches: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
    for batch in batches:
        yield batch.assign(said=SAID)
