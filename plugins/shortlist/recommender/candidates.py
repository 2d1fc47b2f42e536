"""Candidates: each source proposes items to a user; merged, with everything the ranker may know of the pair.

The kernel works on one batch of users at a time, in NumPy, inside Spark's `mapInArrow`: users and interactions never
gather anywhere, only the items (factors, neighbours, features) must fit into the memory of one Python worker.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from shortlist.columns import CANDIDATE_FEATURES, ITEM, RELEVANT, SOURCE, SOURCES, TARGET, USER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray
    from pyspark.sql import DataFrame
    from scipy.sparse import csr_array

    from shortlist.settings import CandidateSettings

# Scores of one block of users against all items are dense: this bounds them to about 64 MiB an array.
_SCORES_PER_BLOCK = 16_000_000

# An item of the history counts half when so many newer ones follow it.
_HALF_AFTER = 20.0
_LEAST = 1e-6

# How many neighbours of the newest item make the list `similar-to-last`.
_LAST_LIST = 50

CANDIDATES_DDL = ", ".join(
    [
        f"{USER} string, {ITEM} string, {SOURCE} string",
        *(f"{name} float" for name in CANDIDATE_FEATURES),
        f"{TARGET} int, {RELEVANT} int",
    ]
)

USER_FEATURES = tuple(name for name in CANDIDATE_FEATURES if name.startswith("user_") and name != "user_popularity")
ITEM_FEATURES = tuple(name for name in CANDIDATE_FEATURES if name.startswith("item_"))


@dataclass(frozen=True)
class ItemState:
    """What stage one knows of the items at one moment; row i belongs to item index i.

    Attributes:
        ids: Item ids, (items,).
        factors: float32 (items, rank); zeros where stage one has not met the item.
        similar: Sparse float32 (items, items), the strongest neighbours of each row's item.
        popularity: float32 (items,), recent popularity, larger is more.
        available: bool (items,); others are never proposed.
        features: float32 (items, len(ITEM_FEATURES)).
        categories: Sparse float32 (items, categories), 1 where the item belongs.
    """

    ids: NDArray[np.object_]
    factors: NDArray[np.float32]
    similar: csr_array
    popularity: NDArray[np.float32]
    available: NDArray[np.bool_]
    features: NDArray[np.float32]
    categories: csr_array


@dataclass(frozen=True)
class UserBatch:
    """Some users at the same moment; row u belongs to the u-th user.

    Attributes:
        ids: User ids, (users,).
        factors: float32 (users, rank); zeros where stage one has not met the user.
        history: Sparse float32 (users, items): freshness of each item of the history, 1 for the newest, above 0.
        last: int (users,), index of the newest item.
        relevant: Sparse (users, items) of the items taken in the labelled window, or None.
        features: float32 (users, len(USER_FEATURES)).
    """

    ids: NDArray[np.object_]
    factors: NDArray[np.float32]
    history: csr_array
    last: NDArray[np.int64]
    relevant: csr_array | None
    features: NDArray[np.float32]


def propose(
    users: DataFrame,
    load_items: Callable[[], ItemState],
    config: CandidateSettings,
    *,
    allow_repeats: bool,
) -> DataFrame:
    """Propose candidates to every user of a frame.

    Args:
        users: One row a user, columns of `features.USERS_DDL`.
        load_items: Called once a task, where the task runs.
        config: How many items each source proposes.
        allow_repeats: Whether items of the user's history may be proposed.

    Returns:
        Columns of `CANDIDATES_DDL`; the rows of a user stand together. Each user has at least
        `config.popular` candidates, or all items that are left when there are fewer.
    """

    def kernel(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        items: ItemState | None = None
        for batch in batches:
            if batch.num_rows:
                items = items or load_items()
                size = max(1, _SCORES_PER_BLOCK // max(1, len(items.ids)))
                for start in range(0, batch.num_rows, size):
                    block = read_users(batch.slice(start, size), items)
                    yield propose_block(block, items, config, allow_repeats=allow_repeats)

    return users.mapInArrow(kernel, CANDIDATES_DDL)


def read_users(batch: pa.RecordBatch, items: ItemState) -> UserBatch:
    """Turn a batch of user rows into arrays."""
    import numpy as np

    n_items = len(items.ids)
    history = cast("pa.ListArray[pa.Int32Scalar]", batch.column("history"))
    rank = items.factors.shape[1]
    factors = np.zeros((batch.num_rows, rank), np.float32)
    learned = cast("pa.ListArray[pa.FloatScalar]", batch.column("factors"))
    factors[np.asarray(learned.is_valid())] = np.asarray(learned.drop_null().flatten()).reshape(-1, rank)
    return UserBatch(
        ids=batch.column(USER).to_numpy(zero_copy_only=False),
        factors=factors,
        history=read_history(batch, n_items),
        last=np.asarray(history.values)[np.asarray(history.offsets)[1:] - 1].astype(np.int64),
        relevant=_sparse(cast("pa.ListArray[pa.Int32Scalar]", batch.column("relevant")), n_items)
        if "relevant" in batch.schema.names
        else None,
        features=np.column_stack([batch.column(name).to_numpy(zero_copy_only=False) for name in USER_FEATURES]).astype(
            np.float32
        ),
    )


def read_history(batch: pa.RecordBatch, n_items: int) -> csr_array:
    """Return the freshness of each item of each user's `history`, as `UserBatch.history`."""
    import numpy as np

    history = cast("pa.ListArray[pa.Int32Scalar]", batch.column("history"))
    offsets = np.asarray(history.offsets)
    newer = np.repeat(offsets[1:], np.diff(offsets)) - 1 - np.arange(offsets[0], offsets[-1])
    fresh = np.zeros(len(history.values), np.float32)
    # Never 0, however long the history: what is stored here is also what the user has seen.
    fresh[offsets[0] : offsets[-1]] = np.maximum(np.exp2(-newer / _HALF_AFTER), _LEAST)
    return _sparse(history, n_items, fresh)


def category_matrix(values: list[str | None]) -> tuple[csr_array, list[str]]:
    """Return which item belongs to which category, and the names of the categories.

    Args:
        values: The categories of each item, several joined by `|`; None where nothing is known.

    Returns:
        Sparse float32 (items, categories), 1 where the item belongs, and the names in the order of the columns.
    """
    import numpy as np
    from scipy.sparse import csr_array

    of_item = [value.split("|") if value else [] for value in values]
    names = sorted({name for names in of_item for name in names})
    code = {name: number for number, name in enumerate(names)}
    pointers: NDArray[np.int64] = np.cumsum([0, *(len(set(names)) for names in of_item)])
    columns = np.array([code[name] for names in of_item for name in sorted(set(names))], np.int64)
    matrix = csr_array((np.ones(len(columns), np.float32), columns, pointers), shape=(len(values), len(names)))
    return matrix, names


def mean_popularity(history: csr_array, popularity: NDArray[np.float32]) -> NDArray[np.float32]:
    """How popular, from 0 to 1, the items of each user's history are on average: taste for the mainstream."""
    import numpy as np
    from scipy.stats import rankdata

    percentile = (rankdata(popularity) / max(1, len(popularity))).astype(np.float32)
    count = np.maximum(np.diff(history.indptr), 1)
    mean: NDArray[np.float32] = ((history > 0).astype(np.float32) @ percentile / count).astype(np.float32)
    return mean


def category_shares(history: csr_array, categories: csr_array) -> csr_array:
    """Return the share of each user's history (newer items weigh more) in each category: (users, categories)."""
    import numpy as np

    shares = history @ categories
    total = np.maximum(history.sum(axis=1), 1e-9)
    shares.data /= np.repeat(total, np.diff(shares.indptr))
    return shares


def propose_block(
    users: UserBatch, items: ItemState, config: CandidateSettings, *, allow_repeats: bool
) -> pa.RecordBatch:
    """Propose candidates to some users; the arrays behind `propose`."""
    import numpy as np
    import pyarrow as pa

    from shortlist.recommender.topk import NOT_RANKED, top_ranks

    blocked = np.broadcast_to(~items.available, (len(users.ids), len(items.ids)))
    if not allow_repeats:
        blocked = blocked | (users.history.toarray() > 0)

    def ranked(scores: NDArray[np.float32], n: int, *, positive: bool) -> NDArray[np.float32]:
        hidden = blocked | (scores <= 0) if positive else blocked
        return top_ranks(np.where(hidden, NOT_RANKED, scores), n)

    als = users.factors @ items.factors.T
    met = np.any(users.factors, axis=1)[:, None] & np.any(items.factors, axis=1)[None, :]
    similar = (users.history @ items.similar).toarray()
    last = items.similar[users.last].toarray()
    popular = np.broadcast_to(items.popularity, als.shape)
    ranks = {
        "als": top_ranks(np.where(blocked | ~met, NOT_RANKED, als), config.als),
        "similar": ranked(similar, config.similar, positive=True),
        "last": ranked(last, min(_LAST_LIST, config.similar), positive=True),
        "popular": ranked(popular, config.popular, positive=False),
    }
    member = np.zeros(als.shape, bool)
    for rank in ranks.values():
        member |= ~np.isnan(rank)
    user, item = np.nonzero(member)

    columns: dict[str, NDArray[np.float32]] = {}
    for name, scores in (("als", als), ("similar", similar), ("last", last), ("popular", popular)):
        columns[f"{name}_score"] = scores[user, item]
        columns[f"{name}_rank"] = ranks[name][user, item]
    for name, scores in (("als", als), ("similar", similar)):
        best = np.where(blocked, 0, scores).max(axis=1)
        columns[f"{name}_relative"] = columns[f"{name}_score"] / np.maximum(best, _LEAST)[user]
    columns.update(zip(ITEM_FEATURES, items.features[item].T, strict=True))
    columns.update(zip(USER_FEATURES, users.features[user].T, strict=True))
    columns["user_popularity"] = mean_popularity(users.history, items.popularity)[user]
    columns["category_share"] = _category_share(users.history, items.categories, user, item)

    relevant = users.relevant
    if relevant is not None and not allow_repeats:
        relevant = relevant - relevant.multiply(users.history > 0)
        relevant.eliminate_zeros()
    labels = None if relevant is None else np.asarray(relevant[user, item]).ravel().astype(np.int32)
    counts = None if relevant is None else np.diff(relevant.indptr).astype(np.int32)[user]
    from_list = {
        "als": ~np.isnan(columns["als_rank"]),
        "similar": ~(np.isnan(columns["similar_rank"]) & np.isnan(columns["last_rank"])),
        "popular": ~np.isnan(columns["popular_rank"]),
    }
    code = sum(from_list[source].astype(np.int8) << bit for bit, source in enumerate(SOURCES))
    return pa.RecordBatch.from_arrays(
        [
            pa.array(users.ids[user], pa.string()),
            pa.array(items.ids[item], pa.string()),
            pa.array(np.array(_SOURCE_NAMES, object)[code], pa.string()),
            *(pa.array(columns[name], pa.float32(), from_pandas=True) for name in CANDIDATE_FEATURES),
            pa.nulls(len(user), pa.int32()) if labels is None else pa.array(labels),
            pa.nulls(len(user), pa.int32()) if counts is None else pa.array(counts),
        ],
        names=[USER, ITEM, SOURCE, *CANDIDATE_FEATURES, TARGET, RELEVANT],
    )


_SOURCE_NAMES = [
    "+".join(source for bit, source in enumerate(SOURCES) if code >> bit & 1) for code in range(2 ** len(SOURCES))
]


def _sparse(
    indexes: pa.ListArray[pa.Int32Scalar], n_items: int, values: NDArray[np.float32] | None = None
) -> csr_array:
    import numpy as np
    from scipy.sparse import csr_array

    offsets = np.asarray(indexes.offsets)
    # A copy, because SciPy sorts in place and Arrow's memory is read-only.
    columns = np.array(indexes.values)[offsets[0] : offsets[-1]]
    data = np.ones(len(columns), np.float32) if values is None else values[offsets[0] : offsets[-1]]
    return csr_array((data, columns, offsets - offsets[0]), shape=(len(indexes), n_items))


def _category_share(
    history: csr_array, categories: csr_array, user: NDArray[np.int64], item: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Share of each pair's user history in the categories of the pair's item."""
    import numpy as np

    if categories.shape[1] == 0:
        return np.full(len(user), np.nan, np.float32)
    share = category_shares(history, categories).toarray()
    belongs = np.maximum(np.diff(categories.indptr), 1)
    of_pair: NDArray[np.float32] = ((categories @ share.T).T / belongs)[user, item].astype(np.float32)
    return of_pair
