"""One row a user and one row an item, for services that look them up: the features of the ranker, and a few more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from shortlist.columns import CATEGORY, CATEGORY_SHARES, ITEM, ITEM_INDEX, SCORE, USER
from shortlist.recommender import candidates, features
from shortlist.recommender.candidates import ITEM_FEATURES, USER_FEATURES
from shortlist.recommender.features import ITEM_STATISTICS, USER_STATISTICS

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa
    from pyspark.sql import DataFrame
    from scipy.sparse import csr_array

    from shortlist.settings import Settings

ITEM_PROFILE: Final = ("popular_score", *ITEM_FEATURES, *ITEM_STATISTICS)
USER_PROFILE: Final = (*USER_FEATURES, "user_popularity", *USER_STATISTICS)

_USERS_DDL = ", ".join(
    [f"{USER} string", *(f"{name} float" for name in USER_PROFILE), f"{CATEGORY_SHARES} map<string, float>"]
)


def item_profiles(interactions: DataFrame, items: DataFrame, as_of: str, settings: Settings) -> DataFrame:
    """Describe every item at one moment.

    Args:
        interactions: Indexed interactions; those from `as_of` on are left out.
        items: Columns item_id, item_index, category, available.
        as_of: ISO time, UTC.
        settings: Of items and candidates.

    Returns:
        (item_id, item_index, category, the columns of `ITEM_PROFILE` as float).
    """
    known = features.item_features(
        interactions, items, as_of, settings.items, settings.candidates, also=ITEM_STATISTICS
    ).withColumnRenamed(SCORE, "popular_score")
    return known.join(items.select(ITEM, ITEM_INDEX, CATEGORY), on=ITEM_INDEX, how="inner").select(
        ITEM, ITEM_INDEX, CATEGORY, *ITEM_PROFILE
    )


def user_profiles(
    interactions: DataFrame, users: DataFrame, items: DataFrame, as_of: str, settings: Settings
) -> DataFrame:
    """Describe every user at one moment.

    Args:
        interactions: Indexed interactions; those from `as_of` on are left out.
        users: Columns user_id, user_index.
        items: Of `item_profiles` at the same moment. Index, popularity and category of all items are gathered here and
            sent to each task: about 20 bytes an item.
        as_of: ISO time, UTC.
        settings: Of interactions, and how many categories of a user are kept.

    Returns:
        (user_id, the columns of `USER_PROFILE` as float, category_shares map<string, float>: the largest shares).
    """
    known = items.select(ITEM_INDEX, "popular_score", CATEGORY).toArrow().sort_by(ITEM_INDEX)
    popularity = known["popular_score"].to_numpy()
    categories, names = candidates.category_matrix(known[CATEGORY].to_pylist())
    kept = settings.features.category_shares

    def kernel(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        for batch in batches:
            history = candidates.read_history(batch, len(popularity))
            mainstream = pa.array(candidates.mean_popularity(history, popularity), pa.float32())
            shares = _largest(candidates.category_shares(history, categories), names, kept)
            columns = [
                batch.column(USER),
                *(mainstream if name == "user_popularity" else batch.column(name) for name in USER_PROFILE),
                shares,
            ]
            yield pa.RecordBatch.from_arrays(columns, [USER, *USER_PROFILE, CATEGORY_SHARES])

    rows = features.user_features(interactions, users, as_of, settings.interactions, also=USER_STATISTICS)
    return rows.mapInArrow(kernel, _USERS_DDL)


def _largest(shares: csr_array, names: list[str], kept: int) -> pa.MapArray[Any, Any]:
    """The `kept` largest shares of each row, largest first, as maps from name to share."""
    import numpy as np
    import pyarrow as pa

    row = np.repeat(np.arange(shares.shape[0]), np.diff(shares.indptr))
    order = np.lexsort((shares.indices, -shares.data, row))
    first = order[np.arange(len(order)) - shares.indptr[row[order]] < kept]
    # int32, whatever the stubs say
    offsets: Any = pa.array(np.searchsorted(row[first], np.arange(shares.shape[0] + 1)), pa.int32())
    return pa.MapArray.from_arrays(
        offsets,
        pa.array(np.array(names, object)[shares.indices[first]], pa.string()),
        pa.array(shares.data[first], pa.float32()),
    )
