"""Similar items: shrunk cosine of co-occurrence in the users' newest items."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from shortlist.columns import ITEM_INDEX, RANK, SCORE, SIMILAR_INDEX

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray
    from pyspark.sql import DataFrame
    from scipy.sparse import csr_array

    from shortlist.settings import SimilaritySettings

NEIGHBOURS_DDL = f"{ITEM_INDEX} int, {RANK} int, {SIMILAR_INDEX} int, {SCORE} float"

# What one task says of some items to the task that gathers them: rows of a sparse matrix, as bytes, which Spark hands
# on much faster than lists of numbers.
_COUNTS_DDL = "chunk int, lengths binary, seconds binary, together binary"

# Items in one message; users in one sparse product; cells held before they are handed on: all bound memory.
_ITEMS_PER_MESSAGE = 512
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

    def choose(messages: pa.Table) -> pa.Table:
        return _nearest(messages, alone, config)

    return newest.mapInArrow(count, _COUNTS_DDL).groupBy("chunk").applyInArrow(choose, NEIGHBOURS_DDL)


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
                yield from _as_messages(held)
                held = csr_array((n_items, n_items), dtype=np.int32)
    yield from _as_messages(held)


def _as_messages(held: csr_array) -> Iterator[pa.RecordBatch]:
    import numpy as np
    import pyarrow as pa

    for chunk, begin in enumerate(range(0, held.shape[0], _ITEMS_PER_MESSAGE)):
        rows = held[begin : begin + _ITEMS_PER_MESSAGE]
        parts = (np.diff(rows.indptr), rows.indices, rows.data)
        message = [pa.array([part.astype(np.int32).tobytes()], pa.binary()) for part in parts]
        yield pa.RecordBatch.from_arrays(
            [pa.array([chunk], pa.int32()), *message], names=["chunk", "lengths", "seconds", "together"]
        )


def _nearest(messages: pa.Table, alone: NDArray[np.float64], config: SimilaritySettings) -> pa.Table:
    """Sum up what the tasks say of some items, score the pairs and keep the best of each item."""
    import numpy as np
    import pyarrow as pa
    from scipy.sparse import csr_array

    def read(name: str) -> list[NDArray[np.int32]]:
        return [np.frombuffer(part.as_buffer(), np.int32) for part in messages[name]]

    begin = messages["chunk"][0].as_py() * _ITEMS_PER_MESSAGE
    n_rows = min(_ITEMS_PER_MESSAGE, len(alone) - begin)
    cells = csr_array((n_rows, len(alone)), dtype=np.int32)
    for lengths, seconds, together in zip(read("lengths"), read("seconds"), read("together"), strict=True):
        pointers = np.concatenate([[0], np.cumsum(lengths)])
        cells = cells + csr_array((together, seconds, pointers), shape=cells.shape)
    cells.sort_indices()

    row = np.repeat(np.arange(n_rows), np.diff(cells.indptr))
    item, other = begin + row, cells.indices
    score = (cells.data / (np.sqrt(alone[item] * alone[other]) + config.shrinkage)).astype(np.float32)
    order = np.lexsort((other, -score, row))
    order = order[item[order] != other[order]]
    starts = np.searchsorted(row[order], np.arange(n_rows))
    rank = np.arange(len(order)) - starts[row[order]] + 1
    kept = order[rank <= config.neighbours]
    columns = {ITEM_INDEX: item[kept], RANK: rank[rank <= config.neighbours], SIMILAR_INDEX: other[kept]}
    integers = {name: pa.array(column.astype(np.int32), pa.int32()) for name, column in columns.items()}
    return pa.table({**integers, SCORE: pa.array(score[kept], pa.float32())})
