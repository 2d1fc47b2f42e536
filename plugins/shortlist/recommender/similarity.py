"""Similar items: shrunk cosine of co-occurrence in the users' newest items."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from shortlist.columns import ITEM_INDEX, RANK, SCORE, SIMILAR_INDEX

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import pyarrow as pa
    from pyspark.sql import DataFrame

    from shortlist.settings import SimilaritySettings

NEIGHBOURS_DDL = f"{ITEM_INDEX} int, {RANK} int, {SIMILAR_INDEX} int, {SCORE} float"

_COUNTS_DDL = "first int, second int, together bigint"

# Users counted together in one sparse product: bounds the memory of a task.
_USERS_PER_PRODUCT = 4096


def fit(histories: DataFrame, n_items: int, config: SimilaritySettings) -> DataFrame:
    """Find the items that the same users take.

    score(i, j) = n_ij / (sqrt(n_i · n_j) + shrinkage) with n the number of users among whose newest
    `config.history` items it is (item-based kNN, Sarwar et al. 2001; the shrinkage as in Ferrari Dacrema et al. 2021).

    Args:
        histories: One row a user, column `history` array<int> of item indexes, oldest first, no item twice.
        n_items: Number of item indexes.
        config: History length, neighbours, shrinkage.

    Returns:
        Columns of `NEIGHBOURS_DDL`, at most `config.neighbours` rows an item, best first, ties by index.
    """
    from pyspark.sql import functions as f
    from pyspark.sql.window import Window

    newest = config.history

    def count(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import numpy as np
        import pyarrow as pa
        from scipy.sparse import csr_array, triu

        for batch in batches:
            for start in range(0, batch.num_rows, _USERS_PER_PRODUCT):
                history = cast("pa.ListArray[pa.Int32Scalar]", batch.column("history").slice(start, _USERS_PER_PRODUCT))
                offsets, values = np.asarray(history.offsets), np.asarray(history.values)
                ends = offsets[1:]
                kept = np.concatenate(
                    [values[max(begin, end - newest) : end] for begin, end in zip(offsets[:-1], ends, strict=True)]
                )
                pointers = np.concatenate([[0], np.cumsum(np.minimum(np.diff(offsets), newest))])
                taken = csr_array((np.ones(len(kept), np.int32), kept, pointers), shape=(len(history), n_items))
                together = triu(taken.T @ taken, k=1).tocoo()
                yield pa.RecordBatch.from_arrays(
                    [
                        pa.array(together.row.astype(np.int32)),
                        pa.array(together.col.astype(np.int32)),
                        pa.array(together.data.astype(np.int64)),
                    ],
                    names=["first", "second", "together"],
                )

    together = (
        histories.select("history")
        .mapInArrow(count, _COUNTS_DDL)
        .groupBy("first", "second")
        .agg(f.sum("together").alias("together"))
    )
    alone = (
        histories.select(
            f.explode(f.slice("history", -f.least(f.size("history"), f.lit(newest)), newest)).alias("item")
        )
        .groupBy("item")
        .count()
    )
    score = f.col("together") / (f.sqrt(f.col("n_first") * f.col("n_second")) + f.lit(config.shrinkage))
    upper = (
        together.join(f.broadcast(alone.toDF("first", "n_first")), on="first", how="inner")
        .join(f.broadcast(alone.toDF("second", "n_second")), on="second", how="inner")
        .select("first", "second", score.cast("float").alias(SCORE))
    )
    both = upper.unionByName(upper.select(f.col("second").alias("first"), f.col("first").alias("second"), SCORE))
    return (
        both.select("first", "second", SCORE)
        .toDF(ITEM_INDEX, SIMILAR_INDEX, SCORE)
        .withColumn(
            RANK, f.row_number().over(Window.partitionBy(ITEM_INDEX).orderBy(f.col(SCORE).desc(), SIMILAR_INDEX))
        )
        .where(f.col(RANK) <= config.neighbours)
        .select(ITEM_INDEX, RANK, SIMILAR_INDEX, SCORE)
    )
