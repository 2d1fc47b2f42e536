"""Similar items: shrunk cosine of co-occurrence in the users' newest items."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from shortlist.columns import ITEM_INDEX, RANK, SCORE, SIMILAR_INDEX

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray
    from pyspark.sql import Column, DataFrame
    from scipy.sparse import csr_array

    from shortlist.settings import SimilaritySettings

NEIGHBOURS_DDL = f"{ITEM_INDEX} int, {RANK} int, {SIMILAR_INDEX} int, {SCORE} float"

_COUNTS_DDL = "first int, second array<int>, together array<int>"

# Users counted in one sparse product, and cells held before they are handed on: both bound the memory of a task.
_USERS_PER_PRODUCT = 4096
_CELLS_HELD = 20_000_000


def fit(histories: DataFrame, n_items: int, config: SimilaritySettings) -> DataFrame:
    """Find the items that the same users take.

    score(i, j) = n_ij / (sqrt(n_i · n_j) + shrinkage) with n the number of users among whose newest
    `config.history` items it is (item-based kNN, Sarwar et al. 2001; the shrinkage as in Ferrari Dacrema et al. 2021).
    Users are counted where they lie, by sparse products; one number an item gathers on the driver.

    Args:
        histories: One row a user, column `history` array<int> of item indexes, oldest first, no item twice.
        n_items: Number of item indexes.
        config: History length, neighbours, shrinkage.

    Returns:
        Columns of `NEIGHBOURS_DDL`, at most `config.neighbours` rows an item, best first, ties by index.
    """
    import numpy as np
    from pyspark.sql import functions as f

    length = f.least(f.size("history"), f.lit(config.history))
    newest = histories.select(f.slice("history", -length, length).alias("newest")).where(f.size("newest") > 0)
    counts = newest.select(f.explode("newest").alias("item")).groupBy("item").count().toArrow()
    alone = np.zeros(n_items, np.float64)
    alone[counts["item"].to_numpy()] = counts["count"].to_numpy()

    def count(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        yield from _count_together(batches, n_items)

    def choose(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            yield _nearest(batch, alone, config)

    def joined(name: str) -> Column:
        return f.flatten(f.collect_list(name)).alias(name)

    together = newest.mapInArrow(count, _COUNTS_DDL).groupBy("first").agg(joined("second"), joined("together"))
    return together.mapInArrow(choose, NEIGHBOURS_DDL)


def _count_together(batches: Iterable[pa.RecordBatch], n_items: int) -> Iterator[pa.RecordBatch]:
    """Count for each pair of items the users who have both."""
    import numpy as np
    from scipy.sparse import csr_array

    held = csr_array((n_items, n_items), dtype=np.int32)
    for batch in batches:
        for start in range(0, batch.num_rows, _USERS_PER_PRODUCT):
            users = cast("pa.ListArray[pa.Int32Scalar]", batch.column("newest").slice(start, _USERS_PER_PRODUCT))
            offsets = np.asarray(users.offsets)
            items = np.array(users.values)[offsets[0] : offsets[-1]]
            taken = csr_array((np.ones(len(items), np.int32), items, offsets - offsets[0]), shape=(len(users), n_items))
            held = held + taken.T @ taken
            if held.nnz > _CELLS_HELD:
                yield _as_batch(held)
                held = csr_array((n_items, n_items), dtype=np.int32)
    yield _as_batch(held)


def _as_batch(held: csr_array) -> pa.RecordBatch:
    """One row an item, its cells as lists."""
    import numpy as np
    import pyarrow as pa

    offsets = pa.array(held.indptr.astype(np.int32))
    lists = [pa.ListArray.from_arrays(offsets, pa.array(cells.astype(np.int32))) for cells in (held.indices, held.data)]
    first = pa.array(np.arange(held.shape[0], dtype=np.int32))
    batch = pa.RecordBatch.from_arrays([first, *lists], names=["first", "second", "together"])
    return batch.filter(pa.array(np.diff(held.indptr) > 0))


def _nearest(batch: pa.RecordBatch, alone: NDArray[np.float64], config: SimilaritySettings) -> pa.RecordBatch:
    """Score the pairs of some items and keep the best of each."""
    import numpy as np
    import pyarrow as pa
    from scipy.sparse import csr_array

    seconds = cast("pa.ListArray[pa.Int32Scalar]", batch.column("second"))
    offsets = np.asarray(seconds.offsets)
    others = np.array(seconds.values)[offsets[0] : offsets[-1]]
    counts = np.asarray(cast("pa.ListArray[pa.Int32Scalar]", batch.column("together")).flatten()).astype(np.float64)
    cells = csr_array((counts, others, offsets - offsets[0]), shape=(batch.num_rows, len(alone)))
    cells.sum_duplicates()  # an item's cells come in several parts, from several tasks

    first = np.asarray(batch.column("first"))
    row = np.repeat(np.arange(batch.num_rows), np.diff(cells.indptr))
    item, other = first[row], cells.indices
    score = (cells.data / (np.sqrt(alone[item] * alone[other]) + config.shrinkage)).astype(np.float32)
    order = np.lexsort((other, -score, row))
    order = order[item[order] != other[order]]
    begin = np.searchsorted(row[order], np.arange(batch.num_rows))
    rank = np.arange(len(order)) - begin[row[order]] + 1
    kept = order[rank <= config.neighbours]
    columns = [item[kept], rank[rank <= config.neighbours].astype(np.int32), other[kept].astype(np.int32), score[kept]]
    return pa.RecordBatch.from_arrays(
        [pa.array(column) for column in columns], names=[ITEM_INDEX, RANK, SIMILAR_INDEX, SCORE]
    )
