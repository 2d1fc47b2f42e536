"""What the plots of a training show, as numbers: how lists and scores behave beyond their mean quality."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from shortlist.columns import ITEM
from shortlist.recommender import evaluation, metrics

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from shortlist.recommender.metrics import Lists

ITEM_COUNT = "item_count"

# What the diagnostics read of labelled candidates.
COLUMNS = (*evaluation.COLUMNS, ITEM_COUNT)

_PERCENTILES = 101


@dataclass(frozen=True)
class Curve:
    """Mean precision and recall over users at 1 … k; lists of length k."""

    precision: tuple[float, ...]
    recall: tuple[float, ...]


@dataclass(frozen=True)
class Calibration:
    """Candidates in bins of equal expected hits, least likely first.

    Attributes:
        predicted: Mean predicted probability of each bin.
        observed: Share of each bin that was taken.
    """

    predicted: tuple[float, ...]
    observed: tuple[float, ...]


@dataclass(frozen=True)
class Curves:
    """What the lists of each model are like, by model.

    Attributes:
        precision_recall: At every length.
        coverage: Share of the items that anyone is recommended, at every length.
        popularity: Percentiles of `popularity`; empty where no candidate says how often it had been taken.
        calibration: Of the ranker, where its loss promises a probability.
    """

    precision_recall: dict[str, Curve]
    coverage: dict[str, tuple[float, ...]]
    popularity: dict[str, tuple[float, ...]] = field(default_factory=dict)
    calibration: Calibration | None = None


def curves(lists: Mapping[str, Lists], candidates: pa.Table, n_items: int) -> Curves:
    """Describe the lists of each model.

    Args:
        lists: From `evaluation.model_lists`.
        candidates: What they were made from, with `COLUMNS`.
        n_items: Number of items that could be recommended.
    """
    counts = item_counts(candidates)
    percentiles = {name: popularity(own, counts) for name, own in lists.items()}
    return Curves(
        precision_recall={name: over_k(own) for name, own in lists.items()},
        coverage={
            name: tuple(metrics.coverage(own, k, n_items) for k in range(1, own.hits.shape[1] + 1))
            for name, own in lists.items()
        },
        popularity=percentiles if all(percentiles.values()) else {},
    )


def over_k(lists: Lists) -> Curve:
    """Return precision and recall at every length of the lists.

    Example:
        >>> import numpy as np
        >>> over_k(metrics.Lists(np.array([[False, True]]), np.array([[1, 2]]), np.array([2])))
        Curve(precision=(0.0, 0.5), recall=(0.0, 0.5))
    """
    lengths = range(1, lists.hits.shape[1] + 1)
    return Curve(
        precision=tuple(float(metrics.precision(lists, k).mean()) for k in lengths),
        recall=tuple(float(metrics.recall(lists, k).mean()) for k in lengths),
    )


def item_counts(candidates: pa.Table) -> NDArray[np.float64]:
    """Return how often each item had been taken, by its code in the lists that `evaluation.model_lists` makes.

    Args:
        candidates: The same as for `evaluation.model_lists`, with `item_count`. NaN where that is not known.
    """
    import numpy as np

    counts = candidates.group_by(ITEM).aggregate([(ITEM_COUNT, "max")]).sort_by(ITEM)
    return np.asarray(counts[f"{ITEM_COUNT}_max"].to_numpy(), np.float64)


def popularity(lists: Lists, counts: NDArray[np.float64]) -> tuple[float, ...]:
    """Return the percentiles, 0 to 100, of how often the recommended items had been taken before.

    Args:
        lists: Of one model.
        counts: float (items,), by item code.

    Returns:
        101 values, or none if no count is known.

    Example:
        >>> import numpy as np
        >>> lists = metrics.Lists(np.zeros((1, 3), bool), np.array([[0, 1, -1]]), np.array([1]))
        >>> popularity(lists, np.array([10.0, 30.0, 99.0]))[::50]
        (10.0, 20.0, 30.0)
    """
    import numpy as np

    shown = counts[lists.items[lists.items >= 0]]
    known = shown[np.isfinite(shown)]
    if len(known) == 0:
        return ()
    return tuple(float(value) for value in np.percentile(known, np.linspace(0, 100, _PERCENTILES)))


def calibration(score: NDArray[np.float64], target: NDArray[np.float64], bins: int = 10) -> Calibration:
    """Hold the probabilities that a ranker promises against what was taken.

    Args:
        score: float (rows,), log-odds.
        target: (rows,), 1 where the item was taken.
        bins: Each holds the same number of promised hits, so that the few likely candidates are not lost among many.

    Example:
        >>> import numpy as np
        >>> calibration(np.zeros(4), np.array([0.0, 0.0, 0.0, 1.0]), bins=1)
        Calibration(predicted=(0.5,), observed=(0.25,))
    """
    import numpy as np

    order = np.argsort(score, kind="stable")
    probability = (1 / (1 + np.exp(-score)))[order]
    promised = np.cumsum(probability) - probability
    number = np.minimum((promised / probability.sum() * bins).astype(np.int64), bins - 1)
    filled, rows = np.unique(number, return_counts=True)
    return Calibration(
        predicted=tuple((np.bincount(number, probability)[filled] / rows).tolist()),
        observed=tuple((np.bincount(number, target[order])[filled] / rows).tolist()),
    )
