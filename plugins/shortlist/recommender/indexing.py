"""Dense int32 indexes for ids."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def index_ids(ids: DataFrame, column: str, index: str) -> DataFrame:
    """Number the distinct ids of a column from 0, in the order of the ids.

    The order is global but nothing is gathered in one place: ids are sorted by range, numbered within each range, and
    moved up by the sizes of the ranges before.

    Args:
        ids: Any frame with `column`; nulls are left out.
        column: Name of the id column.
        index: Name of the new column, int32, 0 to n - 1.

    Returns:
        Two columns, `column` and `index`; the same ids give the same indexes.
    """
    from pyspark.sql import functions as f
    from pyspark.sql.window import Window

    ranges = (
        ids.select(column)
        .where(f.col(column).isNotNull())
        .distinct()
        .repartitionByRange(column)
        .select(column, f.spark_partition_id().alias("range"))
    )
    # Range bounds are sampled: both uses below must see the same ones.
    ranges = ranges.localCheckpoint()
    sizes = {row["range"]: row["count"] for row in ranges.groupBy("range").count().collect()}
    before = dict(zip(sorted(sizes), accumulate((sizes[key] for key in sorted(sizes)), initial=0), strict=False))
    offset = f.element_at(f.create_map(*(f.lit(part) for pair in before.items() for part in pair)), f.col("range"))
    within = f.row_number().over(Window.partitionBy("range").orderBy(column)) - 1
    return ranges.select(column, (within + (offset if before else f.lit(0))).cast("int").alias(index))
