"""Counts interactions into the histograms that drift is told from, in one pass whose results are bounded by bins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from shortlist.columns import FACTORS, ITEM, TIME, USER, WEIGHT
from shortlist.recommender import drift

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray
    from pyspark.sql import Column, DataFrame
    from scipy.sparse import csr_array

    from shortlist.settings import InteractionSettings

DECILE, TRACKED = "decile", "tracked"

# What is known of the items of the train set: the tenth of the events that an item belongs to when items are sorted by
# popularity, and the place of the most popular ones.
ITEMS_DDL: Final = f"{ITEM} string, {DECILE} int, {TRACKED} int"

_DECILES = 10
TRACKED_ITEMS = 50
BUCKETS = 200
_MOST_VALUES = 50
_QUANTILES = 20
_SAMPLED_BLOCKS = 10_000

BLOCK, _DAY = "block", "day"
_VALUES = (drift.WEIGHTS, drift.PREDICTIONS)
_CODES = tuple(name for name in (*drift.DATA, *drift.MODEL) if name not in (*_VALUES, drift.ACTIVITY))
_BINS = {
    drift.POPULARITY: _DECILES,
    drift.ITEMS: TRACKED_ITEMS + BUCKETS,
    drift.ACTIVITY: drift.ACTIVITY_BINS,
    drift.WEEKDAYS: drift.DAYS_A_WEEK,
    drift.NEW_USERS: 2,
    drift.NEW_ITEMS: 2,
}
_NOT_COUNTED = -1

# What the kernel gives: rows and the sum of their values by histogram and bin, by user-day, by day.
_COUNTS_DDL = "name string, bin bigint, rows bigint, total double"
_BLOCKS_DDL = "block bigint, name string, bin bigint, rows bigint"


@dataclass(frozen=True)
class Edges:
    """Where the bins of weights and predictions end: float (bins - 1,), ascending; a bin includes its upper end."""

    weights: NDArray[np.float64]
    predictions: NDArray[np.float64]

    def of(self, name: str) -> NDArray[np.float64]:
        """Return those of one histogram."""
        return self.weights if name == drift.WEIGHTS else self.predictions

    def bins(self, name: str) -> int:
        """Return the number of bins of any histogram."""
        return len(self.of(name)) + 1 if name in _VALUES else _BINS[name]


def rank_items(interactions: DataFrame) -> DataFrame:
    """Place the items of the train set by popularity. Returns columns of `ITEMS_DDL`.

    What gathers on the driver grows with the items alone.
    """
    import numpy as np
    import pyarrow as pa
    from pyspark.sql import functions as f

    counted = interactions.groupBy(ITEM).agg(f.count("*").alias("rows")).toArrow()
    counted = counted.sort_by([("rows", "descending"), (ITEM, "ascending")])
    rows = counted["rows"].to_numpy().astype(np.float64)
    before = np.cumsum(rows) - rows
    decile = np.minimum(before * _DECILES // max(rows.sum(), 1), _DECILES - 1).astype(np.int32)
    place = np.arange(len(rows), dtype=np.int32)
    tracked = pa.array(place, pa.int32(), mask=place >= TRACKED_ITEMS)
    table = pa.table({ITEM: counted[ITEM].combine_chunks(), DECILE: pa.array(decile), TRACKED: tracked})
    return interactions.sparkSession.createDataFrame(table)


def describe_data(interactions: DataFrame, items: DataFrame, config: InteractionSettings) -> DataFrame:
    """Give each interaction its user-day and its bins in the histograms of `drift.DATA`.

    Args:
        interactions: user_id, item_id, time, weight.
        items: Of `rank_items`.
        config: How the model takes a weight; where it takes none into account, the weight itself is looked at.

    Returns:
        block, day, weights (a value), popularity, items, weekdays, new_items, user_id, item_id. -1 is not counted: an
        item that the train set does not have is new, and in no other histogram of items.
    """
    from pyspark.sql import functions as f

    date = f.to_date(TIME)
    weight = 1 + f.log(f.greatest(f.col(WEIGHT), f.lit(1.0))) if config.weight_transform == "log" else f.col(WEIGHT)
    bucket = f.pmod(f.xxhash64(ITEM), f.lit(BUCKETS)) + TRACKED_ITEMS
    known = f.col(DECILE).isNotNull()
    return interactions.join(f.broadcast(items), on=ITEM, how="left").select(
        f.xxhash64(USER, date).alias(BLOCK),
        f.unix_date(date).alias(_DAY),
        weight.cast("double").alias(drift.WEIGHTS),
        _code(f.col(DECILE)).alias(drift.POPULARITY),
        _code(f.when(known, f.coalesce(TRACKED, bucket))).alias(drift.ITEMS),
        f.weekday(date).alias(drift.WEEKDAYS),
        f.when(known, 0).otherwise(drift.NEW).alias(drift.NEW_ITEMS),
        USER,
        ITEM,
    )


def describe_predictions(data: DataFrame, users: DataFrame, item_factors: DataFrame, *, predicted: Column) -> DataFrame:
    """Add what the model knows of each interaction: predictions (a value) and new_users.

    Args:
        data: Of `describe_data`.
        users: (user_id, factors) of the users the model knows.
        item_factors: (item_id, factors).
        predicted: Which rows get a prediction; those of users and items the model knows.
    """
    from pyspark.sql import functions as f

    user = users.select(USER, f.col(FACTORS).alias("user_factors"))
    item = item_factors.select(ITEM, f.col(FACTORS).alias("item_factors"))
    products = f.zip_with("user_factors", "item_factors", lambda left, right: left * right)
    score = f.aggregate(products, f.lit(0.0), lambda total, product: total + product)
    return (
        data.join(user, on=USER, how="left")
        .join(f.broadcast(item), on=ITEM, how="left")
        .withColumn(drift.PREDICTIONS, f.when(predicted, score))
        .withColumn(drift.NEW_USERS, f.when(f.col("user_factors").isNull(), drift.NEW).otherwise(0))
        .drop("user_factors", "item_factors")
    )


def choose_edges(values: DataFrame, name: str) -> NDArray[np.float64]:
    """Place the edges of the bins of a value: between the values where there are few, else at quantiles.

    Args:
        values: Described interactions with the column `name`; missing values are left out.
        name: `drift.WEIGHTS` or `drift.PREDICTIONS`.
    """
    import numpy as np
    from pyspark.sql import functions as f

    present = values.where(f.col(name).isNotNull()).select(name)
    few = [row[0] for row in present.distinct().limit(_MOST_VALUES + 1).collect()]
    if len(few) <= _MOST_VALUES:
        ordered = np.array(sorted(few), np.float64)
        return (ordered[1:] + ordered[:-1]) / 2
    cuts = present.approxQuantile(name, [part / _QUANTILES for part in range(1, _QUANTILES)], 0.001)
    return np.unique(np.array(cuts, np.float64))


def count(described: DataFrame, edges: Edges) -> tuple[drift.Profile, dict[str, NDArray[np.float64]]]:
    """Count described interactions in one pass.

    Args:
        described: Of `describe_data`, with or without `describe_predictions`.
        edges: Of the reference.

    Returns:
        The profile, and what a row of each bin counts on average (bins,), for weights and predictions.
    """
    from pyspark.sql import functions as f

    columns = _counted_columns(described)

    def kernel(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        yield from _count_batches(batches, edges)

    parts = described.select(*columns).mapInArrow(kernel, _COUNTS_DDL)
    whole = parts.groupBy("name", "bin").agg(f.sum("rows").alias("rows"), f.sum("total").alias("total"))
    size = f.least(f.floor(f.log2("rows")), f.lit(drift.ACTIVITY_BINS - 1))
    of_block = f.col("name") == BLOCK
    bounded = whole.groupBy("name", f.when(of_block, size).otherwise(f.col("bin")).alias("bin"))
    found = bounded.agg(
        f.sum("rows").alias("rows"), f.sum("total").alias("total"), f.count("*").alias("blocks")
    ).collect()
    return _as_profile([row.asDict() for row in found], edges)


def sample_blocks(described: DataFrame, edges: Edges, blocks: int, names: tuple[str, ...]) -> dict[str, csr_array]:
    """Count the rows of some user-days, drawn by hash: sparse (blocks, bins) for each name.

    Args:
        described: As for `count`.
        edges: As for `count`.
        blocks: How many there are; at most about ten thousand are drawn.
        names: `drift.DATA` or `drift.MODEL`.
    """
    import numpy as np
    from pyspark.sql import functions as f
    from scipy.sparse import csr_array

    every = max(1, -(-blocks // _SAMPLED_BLOCKS))
    columns = _counted_columns(described)

    def kernel(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            yield _count_by_block(batch, edges)

    found = (
        described.where(f.pmod(f.col(BLOCK), f.lit(every)) == 0)
        .select(*columns)
        .mapInArrow(kernel, _BLOCKS_DDL)
        .groupBy("block", "name", "bin")
        .agg(f.sum("rows").alias("rows"))
        .toArrow()
    )
    _, row = np.unique(found["block"].to_numpy(), return_inverse=True)
    n, name = int(row.max(initial=-1)) + 1, found["name"].to_numpy()
    rows, bins = found["rows"].to_numpy().astype(np.float64), found["bin"].to_numpy()
    sampled = {}
    for wanted in names:
        if wanted == drift.ACTIVITY:
            counted = name == BLOCK
            place = np.minimum(np.log2(np.maximum(rows, 1)), drift.ACTIVITY_BINS - 1).astype(np.int64)
        else:
            counted, place = name == wanted, bins
        cells = (row[counted], place[counted])
        sampled[wanted] = csr_array((rows[counted], cells), shape=(n, edges.bins(wanted)))
    return sampled


def _code(column: Column) -> Column:
    from pyspark.sql import functions as f

    return f.coalesce(column, f.lit(_NOT_COUNTED)).cast("int")


def _counted_columns(described: DataFrame) -> list[str]:
    return [name for name in (BLOCK, _DAY, *_VALUES, *_CODES) if name in described.columns]


def _coded(batch: pa.RecordBatch, edges: Edges) -> Iterator[tuple[str, NDArray[np.int64], NDArray[np.float64] | None]]:
    """Yield each histogram of a batch: the bin of each row, -1 where it is not counted, and the value if it has one."""
    import numpy as np

    for name in batch.schema.names:
        if name in _VALUES:
            value = batch.column(name).to_numpy(zero_copy_only=False).astype(np.float64)
            place = np.where(np.isnan(value), _NOT_COUNTED, np.searchsorted(edges.of(name), value))
            yield name, place, value
        elif name in _CODES:
            yield name, batch.column(name).to_numpy(), None


def _count_batches(batches: Iterable[pa.RecordBatch], edges: Edges) -> Iterator[pa.RecordBatch]:
    import numpy as np

    rows: dict[str, NDArray[np.int64]] = {}
    totals: dict[str, NDArray[np.float64]] = {}
    for batch in batches:
        for name, place, value in _coded(batch, edges):
            counted = np.bincount(place + 1, minlength=edges.bins(name) + 1)[1:]
            rows[name] = rows[name] + counted if name in rows else counted
            if value is not None:
                summed = np.bincount(place + 1, np.nan_to_num(value), edges.bins(name) + 1)[1:].astype(np.float64)
                totals[name] = totals[name] + summed if name in totals else summed
        for name in (BLOCK, _DAY):
            keys, counts = np.unique(batch.column(name).to_numpy(), return_counts=True)
            yield _counts(name, keys, counts, np.zeros(len(keys)))
    for name, counts in rows.items():
        yield _counts(name, np.arange(len(counts)), counts, totals.get(name, np.zeros(len(counts))))


def _counts(
    name: str, bins: NDArray[np.integer], rows: NDArray[np.integer], totals: NDArray[np.float64]
) -> pa.RecordBatch:
    import pyarrow as pa

    return pa.RecordBatch.from_pydict(
        {
            "name": pa.repeat(name, len(bins)),
            "bin": pa.array(bins, pa.int64()),
            "rows": pa.array(rows, pa.int64()),
            "total": pa.array(totals, pa.float64()),
        }
    )


def _count_by_block(batch: pa.RecordBatch, edges: Edges) -> pa.RecordBatch:
    import numpy as np
    import pyarrow as pa

    blocks, block = np.unique(batch.column(BLOCK).to_numpy(), return_inverse=True)
    parts = [(BLOCK, blocks, np.zeros(len(blocks), np.int64), np.bincount(block, minlength=len(blocks)))]
    for name, place, _ in _coded(batch, edges):
        bins = edges.bins(name)
        cells, counts = np.unique(block[place >= 0] * bins + place[place >= 0], return_counts=True)
        parts.append((name, blocks[cells // bins], cells % bins, counts))
    block_of, bin_of, rows_of = (np.concatenate([part[place] for part in parts]) for place in (1, 2, 3))
    return pa.RecordBatch.from_pydict(
        {
            "block": pa.array(block_of, pa.int64()),
            "name": pa.array([name for name, owner, _, _ in parts for _ in owner], pa.string()),
            "bin": pa.array(bin_of, pa.int64()),
            "rows": pa.array(rows_of, pa.int64()),
        }
    )


def _as_profile(found: list[Mapping[str, float]], edges: Edges) -> tuple[drift.Profile, dict[str, NDArray[np.float64]]]:
    import numpy as np

    histograms = {name: np.zeros(edges.bins(name)) for name in (*drift.DATA, *drift.MODEL)}
    totals = {name: np.zeros(edges.bins(name)) for name in _VALUES}
    blocks, days = 0, []
    for row in found:
        name, place = str(row["name"]), int(row["bin"])
        if name == _DAY:
            days.append(place)
            continue
        if name == BLOCK:
            blocks += int(row["blocks"])
            name = drift.ACTIVITY
        histograms[name][place] = row["rows"]
        if name in totals:
            totals[name][place] = row["total"]
    values = {name: _values(total, histograms[name]) for name, total in totals.items()}
    return drift.Profile(histograms, blocks, max(days) - min(days) + 1 if days else 0), values


def _values(totals: NDArray[np.float64], rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean of each bin; an empty bin takes that of the bin below."""
    import numpy as np

    mean: NDArray[np.float64] = totals / np.maximum(rows, 1)
    filled = np.flatnonzero(rows)
    if len(filled):
        below = np.maximum(np.searchsorted(filled, np.arange(len(rows)), side="right") - 1, 0)
        mean = mean[filled[below]]
    return mean
