"""Holds the ranker and its baselines against what the same users really took."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from shortlist.columns import ITEM, RELEVANT, TARGET, USER
from shortlist.errors import EmptyInteractionsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from shortlist.recommender.metrics import Lists
    from shortlist.settings import EvaluationSettings

# The rank column that makes each baseline's list; where the list ends, popular items follow.
BASELINES = {"popular": "popular_rank", "similar_to_last": "last_rank", "als": "als_rank"}
RANKER = "ranker"

# What `evaluate` reads of labelled candidates.
COLUMNS = (USER, ITEM, *BASELINES.values(), "user_items", TARGET, RELEVANT)

_AFTER_EVERY_LIST = 1e6


def evaluate(
    candidates: pa.Table, n_items: int, config: EvaluationSettings, ranker_score: NDArray[np.float64] | None = None
) -> dict[str, Any]:
    """Compute every metric of every model with intervals, over all users and by segment.

    Users who took nothing new in the window say nothing and are left out; those of whom no candidate hit count as 0.

    Args:
        candidates: Labelled candidates of one window, `COLUMNS`. Without `n_relevant` (files made elsewhere) what a
            user took is taken to be among the candidates.
        n_items: Number of items that could be recommended, for the coverage.
        config: Cut-offs and bootstrap.
        ranker_score: The ranker's score of each row; left out, only the baselines are evaluated.

    Returns:
        `{"users", "models": {model: {"ndcg@10": {"mean", "low", "high"}, …, "coverage@10": {"mean"}}},
        "segments": {segment: {"users", "models": {model: {"ndcg@10": …}}}}}`.

    Raises:
        EmptyInteractionsError: If no user took anything.
    """
    import numpy as np

    from shortlist.recommender import metrics

    lists, user_items = model_lists(candidates, max(config.k), ranker_score)
    models = {
        name: {
            f"{metric}@{k}": asdict(metrics.bootstrap(function(of_model, k), config))
            for metric, function in metrics.METRICS.items()
            for k in config.k
        }
        | {f"coverage@{k}": {"mean": metrics.coverage(of_model, k, n_items)} for k in config.k}
        for name, of_model in lists.items()
    }
    heavy = user_items > np.median(user_items)
    return {
        "users": len(user_items),
        "models": models,
        "segments": {
            segment: {
                "users": int(member.sum()),
                "models": {
                    name: {"ndcg@10": asdict(metrics.bootstrap(metrics.ndcg(of_model, 10)[member], config))}
                    for name, of_model in lists.items()
                },
            }
            for segment, member in (("light", ~heavy), ("heavy", heavy))
            if member.any()
        },
    }


def evaluate_new_users(
    taken: Sequence[Sequence[int]], popular: Sequence[int], config: EvaluationSettings
) -> dict[str, Any]:
    """Evaluate the list of users whom no model has met: all list the most popular items to them.

    Args:
        taken: What each new user took in the window, item codes, at least one; at least one user.
        popular: Codes of the most popular items, best first.
        config: The bootstrap.

    Returns:
        A segment as those of `evaluate`.

    Example:
        >>> from shortlist.settings import EvaluationSettings
        >>> evaluate_new_users([[7], [3]], [7, 9], EvaluationSettings())["models"]["als"]["ndcg@10"]["mean"]
        0.5
    """
    import numpy as np

    from shortlist.recommender import metrics

    shown = np.full(10, -1, np.int64)
    shown[: len(popular)] = popular[:10]
    lists = metrics.Lists(
        hits=np.stack([np.isin(shown, items) for items in taken]),
        items=np.tile(shown, (len(taken), 1)),
        n_relevant=np.array([len(items) for items in taken]),
    )
    ndcg = asdict(metrics.bootstrap(metrics.ndcg(lists, 10), config))
    return {"users": len(taken), "models": {name: {"ndcg@10": ndcg} for name in BASELINES}}


def user_places(users: pa.ChunkedArray[pa.StringScalar]) -> NDArray[np.float64]:
    """Place each user between 0 and 1 by the hash of the id: a cut there divides them alike in every run.

    Args:
        users: User ids, (rows,); the same id has the same place.

    Example:
        >>> import pyarrow as pa
        >>> user_places(pa.chunked_array([["ann", "bob", "ann"]])).round(4).tolist()
        [0.2874, 0.5067, 0.2874]
    """
    import numpy as np

    encoded = users.combine_chunks().dictionary_encode()
    digests = (hashlib.sha256(str(user).encode()).digest() for user in encoded.dictionary.to_pylist())
    places = np.array([int.from_bytes(digest[:4], "big") / 2**32 for digest in digests])
    of_rows: NDArray[np.float64] = places[encoded.indices.to_numpy()]
    return of_rows


def model_lists(
    candidates: pa.Table, k: int, ranker_score: NDArray[np.float64] | None = None
) -> tuple[dict[str, Lists], NDArray[np.float64]]:
    """Return the list of each model for the same users, and how many items each of them had met before.

    Args:
        candidates: As for `evaluate`.
        k: Length of the lists.
        ranker_score: As for `evaluate`.
    """
    import numpy as np

    from shortlist.recommender.metrics import top_lists

    def column(name: str) -> NDArray[np.float64]:
        values: NDArray[np.float64] = candidates[name].to_numpy().astype(np.float64)
        return values

    target = column(TARGET)
    _, first, user = np.unique(candidates[USER].to_numpy(), return_index=True, return_inverse=True)
    relevant: NDArray[np.float64] = np.bincount(user, weights=target).astype(np.float64)
    if RELEVANT in candidates.column_names and candidates[RELEVANT].null_count == 0:
        relevant = column(RELEVANT)[first]
    counted = relevant > 0
    if not counted.any():
        raise EmptyInteractionsError("no user took a new item in the labelled window: make the window longer")
    kept = counted[user]
    number = (np.cumsum(counted) - 1)[user[kept]]
    _, item = np.unique(candidates[ITEM].to_numpy(), return_inverse=True)

    popular = np.nan_to_num(column("popular_rank"), nan=_AFTER_EVERY_LIST)
    scores = {}
    for name, rank in BASELINES.items():
        own = column(rank)
        scores[name] = -np.where(np.isnan(own), _AFTER_EVERY_LIST + popular, own)
    if ranker_score is not None:
        scores[RANKER] = ranker_score
    lists = {
        name: top_lists(
            number, item[kept], score[kept], target[kept].astype(np.int64), relevant[counted].astype(np.int64), k
        )
        for name, score in scores.items()
    }
    return lists, column("user_items")[first][counted]
