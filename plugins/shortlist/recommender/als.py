"""Stage one: alternating least squares on implicit feedback, in blocks of users.

A block solves its own users and says what they add to the normal equations of each item; between blocks only these sums
travel, so that users and interactions stay where they lie. What gathers on the driver grows with the items alone. Up to
`_PAIRS_PER_BLOCK` there is one block, and nothing has to travel at all. Nothing but factors and indexes leaves this
module, so that another kernel can take its place.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shortlist.columns import FACTORS, ITEM_INDEX, USER_INDEX, WEIGHT
from shortlist.errors import EmptyInteractionsError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray
    from pyspark.sql import DataFrame

    from shortlist.settings import AlsSettings

# The number of blocks depends on the data alone, so that sums of floats come out the same on every machine.
_PAIRS_PER_BLOCK = 10_000_000

# float32 numbers in one message between blocks (1 MiB), and in one batch of padded rows (fits the cache of a core).
_NUMBERS_PER_MESSAGE = 262_144
_NUMBERS_PER_BATCH = 262_144

_FACTORS_DDL = f"{USER_INDEX} int, {FACTORS} array<float>"
_ITEMS_DDL = "factors binary"
_SUMS_DDL = "chunk int, block int, matrices binary, vectors binary, counts binary"
_CHUNK_DDL = "chunk int, factors binary"


@dataclass(frozen=True)
class Factors:
    """What ALS learns: frames (user_index int, factors array<float>) and (item_index int, factors array<float>)."""

    users: DataFrame
    items: DataFrame


@dataclass(frozen=True)
class Rows:
    """A sparse matrix by rows; row r has the entries from `starts[r]` up to `starts[r + 1]`.

    Attributes:
        starts: int (rows + 1,).
        columns: int (entries,).
        extra: float32 (entries,), confidence beyond the 1 of what was not observed.
    """

    starts: NDArray[np.int64]
    columns: NDArray[np.integer]
    extra: NDArray[np.float32]


def fit(pairs: DataFrame, config: AlsSettings) -> Factors:
    """Factorise the preferences of users for items.

    Hu, Koren, Volinsky 2008, "Collaborative Filtering for Implicit Feedback Datasets". Every pair is a preference of 1
    held with confidence 1 + alpha · weight, every other one of 0 with confidence 1. The regularization is scaled by
    the number of pairs of the user or item (Zhou et al. 2008).

    Args:
        pairs: One row a user and item: user_index int, item_index int, weight float > 0. Read often; persist it.
        config: Hyper-parameters.

    Returns:
        Factors of the users and items that occur in `pairs`, `config.rank` float32 each.

    Raises:
        EmptyInteractionsError: If there is no pair.
    """
    import numpy as np
    import pyarrow as pa
    from pyspark.sql import functions as f

    n_pairs, last_item = pairs.agg(f.count("*"), f.max(ITEM_INDEX)).collect()[0]
    if not n_pairs:
        raise EmptyInteractionsError("no interactions to train on: check the counts of the ETL report, and [split]")
    by_user = (
        pairs.select(USER_INDEX, ITEM_INDEX, WEIGHT)
        .repartition(-(-n_pairs // _PAIRS_PER_BLOCK), USER_INDEX)
        .sortWithinPartitions(USER_INDEX, ITEM_INDEX)
    )
    items = np.random.default_rng(config.seed).standard_normal((last_item + 1, config.rank)).astype(np.float32)
    items /= np.linalg.norm(items, axis=1, keepdims=True)
    iterate = _iterate_in_one_block if n_pairs <= _PAIRS_PER_BLOCK else _iterate_in_blocks
    items = iterate(by_user, items, config)

    def solve(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        users, rows = read_block(batches, config.alpha)
        yield _as_batch(USER_INDEX, users, solve_rows(rows, items, config.regularization))

    occurring = np.flatnonzero(items.any(axis=1))
    table = pa.Table.from_batches([_as_batch(ITEM_INDEX, occurring, items[occurring])])
    return Factors(
        users=by_user.mapInArrow(solve, _FACTORS_DDL),
        items=pairs.sparkSession.createDataFrame(table),
    )


def as_matrix(learned: pa.Table, n_items: int) -> NDArray[np.float32]:
    """Return item factors as one matrix (n_items, rank), zeros for an item that did not occur.

    Args:
        learned: At least one row of item_index and factors.
        n_items: Number of item indexes.
    """
    import numpy as np
    import pyarrow.compute as pc

    vectors = np.concatenate([np.asarray(pc.list_flatten(chunk)) for chunk in learned[FACTORS].chunks])
    matrix = np.zeros((n_items, len(vectors) // learned.num_rows), np.float32)
    matrix[learned[ITEM_INDEX].to_numpy()] = vectors.reshape(learned.num_rows, -1)
    return matrix


def _iterate_in_one_block(by_user: DataFrame, start: NDArray[np.float32], config: AlsSettings) -> NDArray[np.float32]:
    """Return the factors of the items after all iterations, zeros where an item does not occur."""
    import numpy as np
    import pyarrow as pa

    def iterate(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        _, rows = read_block(batches, config.alpha)
        by_item, items = transpose(rows, len(start)), start
        for _ in range(config.iterations):
            users = solve_rows(rows, items, config.regularization)
            items = solve_rows(by_item, users, config.regularization)
        yield pa.RecordBatch.from_arrays([pa.array([items.tobytes()], pa.binary())], names=["factors"])

    found = by_user.mapInArrow(iterate, _ITEMS_DDL).toArrow()["factors"][0]
    return np.frombuffer(found.as_buffer(), np.float32).reshape(start.shape)


def _iterate_in_blocks(by_user: DataFrame, start: NDArray[np.float32], config: AlsSettings) -> NDArray[np.float32]:
    """Do the same with several blocks, which exchange normal equations after each iteration."""
    held, items = by_user.persist(), start
    try:
        for _ in range(config.iterations):
            items = _next_items(held, items, config)
    finally:
        held.unpersist()
    return items


def _next_items(by_user: DataFrame, items: NDArray[np.float32], config: AlsSettings) -> NDArray[np.float32]:
    """Solve the users of each block for the given items, then the items for all of these users."""
    import numpy as np
    import pyarrow as pa

    rank, n_items = config.rank, len(items)
    chunk_size = max(1, _NUMBERS_PER_MESSAGE // rank**2)

    def sum_up(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        users, rows = read_block(batches, config.alpha)
        factors = solve_rows(rows, items, config.regularization)
        by_item = transpose(rows, n_items)
        for chunk, begin in enumerate(range(0, n_items, chunk_size)):
            chosen = np.arange(begin, min(begin + chunk_size, n_items))
            matrices, vectors = normal_equations(by_item, chosen, factors)
            numbers = [pa.array([number], pa.int32()) for number in (chunk, users[0] if len(users) else -1)]
            counts = np.diff(by_item.starts)[chosen]
            sums = [pa.array([part.tobytes()], pa.binary()) for part in (matrices, vectors, counts)]
            yield pa.RecordBatch.from_arrays(
                [*numbers, *sums], names=["chunk", "block", "matrices", "vectors", "counts"]
            )

    def solve(messages: pa.Table) -> pa.Table:
        ordered = messages.sort_by("block")  # sums of floats depend on the order

        def total(name: str, kind: type[np.generic], *shape: int) -> NDArray[Any]:
            parts = [np.frombuffer(part.as_buffer(), kind) for part in ordered[name]]
            return functools.reduce(np.add, parts).reshape(-1, *shape)

        matrices, vectors = total("matrices", np.float32, rank, rank), total("vectors", np.float32, rank)
        solved = _solve(matrices, vectors, total("counts", np.int64), config.regularization)
        chunk = pa.array([ordered["chunk"][0].as_py()], pa.int32())
        return pa.table({"chunk": chunk, "factors": pa.array([solved.tobytes()], pa.binary())})

    solved = by_user.mapInArrow(sum_up, _SUMS_DDL).groupBy("chunk").applyInArrow(solve, _CHUNK_DDL).toArrow()
    parts = solved.sort_by("chunk")["factors"]
    return np.concatenate([np.frombuffer(part.as_buffer(), np.float32) for part in parts]).reshape(n_items, rank)


def read_block(batches: Iterable[pa.RecordBatch], alpha: float) -> tuple[NDArray[np.int32], Rows]:
    """Gather one block of pairs, sorted by user: the indexes of its users and their rows.

    Args:
        batches: Columns user_index, item_index, weight.
        alpha: Confidence that a weight of 1 adds.
    """
    import numpy as np

    empty = (np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.float32))
    parts = [tuple(batch.column(name).to_numpy() for name in (USER_INDEX, ITEM_INDEX, WEIGHT)) for batch in batches]
    user, item, weight = (np.concatenate(column) for column in zip(empty, *parts, strict=True))
    starts = np.flatnonzero(np.diff(user, prepend=-1))
    return user[starts], Rows(np.append(starts, len(user)), item, np.multiply(alpha, weight, dtype=np.float32))


def transpose(rows: Rows, n_columns: int) -> Rows:
    """Return the same entries by column."""
    import numpy as np

    order = np.argsort(rows.columns, kind="stable")
    row = np.repeat(np.arange(len(rows.starts) - 1), np.diff(rows.starts))
    return Rows(np.searchsorted(rows.columns[order], np.arange(n_columns + 1)), row[order], rows.extra[order])


def solve_rows(rows: Rows, factors: NDArray[np.float32], regularization: float) -> NDArray[np.float32]:
    """Solve the regularized least squares of each row against the factors of its columns.

    Args:
        rows: What was observed.
        factors: float32 (columns, rank).
        regularization: Scaled by the entries of a row.

    Returns:
        float32 (rows, rank), zeros for a row without entries.
    """
    import numpy as np

    counts = np.diff(rows.starts)
    every = factors.T @ factors
    solved = np.zeros((len(counts), factors.shape[1]), np.float32)
    for batch, matrices, vectors in _observed(rows, np.flatnonzero(counts), factors):
        solved[batch] = _solve(matrices + every, vectors, counts[batch], regularization)
    return solved


def normal_equations(
    rows: Rows, chosen: NDArray[np.int64], factors: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the matrices (chosen, rank, rank) and vectors (chosen, rank) of some rows, without regularization."""
    import numpy as np

    rank = factors.shape[1]
    matrices, vectors = np.zeros((len(chosen), rank, rank), np.float32), np.zeros((len(chosen), rank), np.float32)
    filled = chosen[np.diff(rows.starts)[chosen] > 0]
    for batch, observed, wanted in _observed(rows, filled, factors):
        matrices[batch - chosen[0]], vectors[batch - chosen[0]] = observed, wanted
    return matrices + factors.T @ factors, vectors


def _observed(
    rows: Rows, chosen: NDArray[np.int64], factors: NDArray[np.float32]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]]:
    """Sum up extra · f fᵀ and (1 + extra) · f over the entries of the chosen rows, rows of like length together."""
    import numpy as np

    length = np.diff(rows.starts)[chosen]
    longest_first = np.argsort(-length, kind="stable")
    done = 0
    while done < len(chosen):
        width = int(length[longest_first[done]])
        size = max(1, _NUMBERS_PER_BATCH // (width * factors.shape[1]))
        batch = chosen[longest_first[done : done + size]]
        done += size
        begin, end = rows.starts[batch, None], rows.starts[batch + 1, None]
        entries = begin + np.arange(width)
        inside = entries < end
        entries = np.where(inside, entries, begin)
        extra = np.where(inside, rows.extra[entries], np.float32(0))
        near = factors[rows.columns[entries]]
        matrices = (near * extra[..., None]).transpose(0, 2, 1) @ near
        yield batch, matrices, ((extra + inside)[:, None, :] @ near)[:, 0]


def _solve(
    matrices: NDArray[np.float32], vectors: NDArray[np.float32], counts: NDArray[np.integer], regularization: float
) -> NDArray[np.float32]:
    """Solve each regularized system; zeros where nothing was counted."""
    import numpy as np

    diagonal = np.where(counts > 0, regularization * counts, 1).astype(np.float32)
    regular = matrices + diagonal[:, None, None] * np.eye(matrices.shape[1], dtype=np.float32)
    solved: NDArray[np.float32] = np.linalg.solve(regular, vectors[..., None])[..., 0]
    return solved


def _as_batch(name: str, indexes: NDArray[np.integer], factors: NDArray[np.float32]) -> pa.RecordBatch:
    import numpy as np
    import pyarrow as pa

    rank = factors.shape[1]
    offsets = pa.array(np.arange(0, (len(indexes) + 1) * rank, rank, dtype=np.int32), pa.int32())
    vectors = pa.ListArray.from_arrays(offsets, pa.array(factors.reshape(-1), pa.float32()))
    return pa.RecordBatch.from_arrays([pa.array(indexes.astype(np.int32)), vectors], names=[name, FACTORS])
