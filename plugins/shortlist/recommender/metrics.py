"""Ranking metrics of one list a user, and their bootstrap intervals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from shortlist.settings import EvaluationSettings


@dataclass(frozen=True)
class Lists:
    """The recommended list of each user, held against what the user took.

    Attributes:
        hits: bool (users, k), whether the item at that rank was taken.
        items: int (users, k), item codes; -1 where the list is shorter.
        n_relevant: int (users,), how many items the user took, recommended or not; above 0.
    """

    hits: NDArray[np.bool_]
    items: NDArray[np.int64]
    n_relevant: NDArray[np.int64]


@dataclass(frozen=True)
class Interval:
    """A mean over users with its bootstrap interval."""

    mean: float
    low: float
    high: float


def top_lists(
    user: NDArray[np.int64],
    item: NDArray[np.int64],
    score: NDArray[np.floating],
    target: NDArray[np.integer],
    n_relevant: NDArray[np.integer],
    k: int,
) -> Lists:
    """Take the k best candidates of each user, ties in the order of the rows.

    Args:
        user: int (rows,), 0 to users - 1, every one of them present.
        item: int (rows,), item codes.
        score: (rows,), larger is better; NaN comes last.
        target: (rows,), 1 where the user took the item.
        n_relevant: (users,).
        k: Length of the lists.

    Example:
        >>> import numpy as np
        >>> lists = top_lists(np.array([0, 0, 0]), np.array([7, 8, 9]), np.array([.1, .3, .2]),
        ...                   np.array([0, 0, 1]), np.array([2]), k=2)
        >>> lists.items.tolist(), lists.hits.tolist()
        ([[8, 9]], [[False, True]])
    """
    import numpy as np

    order = np.lexsort((-np.nan_to_num(score, nan=-np.inf), user))
    sorted_user = user[order]
    starts = np.searchsorted(sorted_user, np.arange(len(n_relevant)))
    position = np.arange(len(order)) - starts[sorted_user]
    kept, rows = position < k, order
    hits = np.zeros((len(n_relevant), k), bool)
    items = np.full((len(n_relevant), k), -1, np.int64)
    hits[sorted_user[kept], position[kept]] = target[rows[kept]] > 0
    items[sorted_user[kept], position[kept]] = item[rows[kept]]
    return Lists(hits, items, np.asarray(n_relevant, np.int64))


def ndcg(lists: Lists, k: int) -> NDArray[np.float64]:
    """Normalised discounted cumulative gain of each user, 0 to 1 (Järvelin, Kekäläinen 2002; ideal list cut at k).

    Example:
        >>> import numpy as np
        >>> ndcg(Lists(np.array([[False, True]]), np.array([[1, 2]]), np.array([1])), 2).round(4).tolist()
        [0.6309]
    """
    import numpy as np

    discount = 1 / np.log2(np.arange(2, k + 2))
    ideal = np.cumsum(discount)[np.minimum(lists.n_relevant, k) - 1]
    values: NDArray[np.float64] = (lists.hits[:, :k] * discount).sum(axis=1) / ideal
    return values


def recall(lists: Lists, k: int) -> NDArray[np.float64]:
    """Share of what each user took that is in the first k.

    Example:
        >>> import numpy as np
        >>> recall(Lists(np.array([[False, True]]), np.array([[1, 2]]), np.array([4])), 2).tolist()
        [0.25]
    """
    values: NDArray[np.float64] = lists.hits[:, :k].sum(axis=1) / lists.n_relevant
    return values


def precision(lists: Lists, k: int) -> NDArray[np.float64]:
    """Share of the first k that the user took.

    Example:
        >>> import numpy as np
        >>> precision(Lists(np.array([[False, True]]), np.array([[1, 2]]), np.array([4])), 2).tolist()
        [0.5]
    """
    values: NDArray[np.float64] = lists.hits[:, :k].sum(axis=1) / k
    return values


def average_precision(lists: Lists, k: int) -> NDArray[np.float64]:
    """Average precision at k of each user, over min(k, number relevant); its mean over users is MAP@k.

    Example:
        >>> import numpy as np
        >>> average_precision(Lists(np.array([[False, True]]), np.array([[1, 2]]), np.array([1])), 2).tolist()
        [0.5]
    """
    import numpy as np

    hits = lists.hits[:, :k]
    precisions = np.cumsum(hits, axis=1) / np.arange(1, hits.shape[1] + 1)
    values: NDArray[np.float64] = (precisions * hits).sum(axis=1) / np.minimum(lists.n_relevant, k)
    return values


def hit_rate(lists: Lists, k: int) -> NDArray[np.float64]:
    """1 for each user who took one of the first k, else 0.

    Example:
        >>> import numpy as np
        >>> hit_rate(Lists(np.array([[False, True]]), np.array([[1, 2]]), np.array([4])), 1).tolist()
        [0.0]
    """
    import numpy as np

    values: NDArray[np.float64] = np.any(lists.hits[:, :k], axis=1).astype(np.float64)
    return values


def coverage(lists: Lists, k: int, n_items: int) -> float:
    """Share of the items that anyone is recommended in the first k.

    Example:
        >>> import numpy as np
        >>> coverage(Lists(np.zeros((2, 2), bool), np.array([[1, 2], [1, -1]]), np.array([1, 1])), 2, n_items=8)
        0.25
    """
    import numpy as np

    shown = np.unique(lists.items[:, :k])
    return float(len(shown[shown >= 0]) / max(1, n_items))


METRICS = {
    "ndcg": ndcg,
    "recall": recall,
    "map": average_precision,
    "precision": precision,
    "hit_rate": hit_rate,
}


def bootstrap(values: NDArray[np.float64], config: EvaluationSettings) -> Interval:
    """Return the mean with its percentile bootstrap interval, users drawn with replacement (Efron 1979).

    Given the differences between two models user by user, this is the paired interval of their difference.

    Args:
        values: float (users,), at least one.
        config: Number of samples, confidence and seed.

    Example:
        >>> import numpy as np
        >>> from shortlist.settings import EvaluationSettings
        >>> bootstrap(np.ones(3), EvaluationSettings())
        Interval(mean=1.0, low=1.0, high=1.0)
    """
    import numpy as np

    generator = np.random.default_rng(config.seed)
    means = np.array(
        [values[generator.integers(0, len(values), len(values))].mean() for _ in range(config.bootstrap_samples)]
    )
    tail = (1 - config.confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(values.mean()), float(low), float(high))
