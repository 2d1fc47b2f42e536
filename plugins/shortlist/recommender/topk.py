"""Ranks of the best scores of each row."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# The score of what must not be ranked.
NOT_RANKED = float("-inf")


def top_ranks(scores: NDArray[np.float32], n: int) -> NDArray[np.float32]:
    """Return the rank, from 1, of the n best scores of each row; NaN elsewhere and for `NOT_RANKED`.

    Args:
        scores: float32 (rows, columns).
        n: Length of each row's list.

    Example:
        >>> import numpy as np
        >>> top_ranks(np.array([[0.1, 0.9, 0.5]], np.float32), 2)
        array([[nan,  1.,  2.]], dtype=float32)
    """
    import numpy as np

    n = min(n, scores.shape[1])
    if n < scores.shape[1]:
        best = np.argpartition(-scores, n - 1, axis=1)[:, :n]
        best.sort(axis=1)
    else:
        best = np.tile(np.arange(n), (len(scores), 1))
    values = np.take_along_axis(scores, best, axis=1)
    # Stable, so that ties go to the smaller column index.
    order = np.argsort(-values, axis=1, kind="stable")
    best, values = np.take_along_axis(best, order, axis=1), np.take_along_axis(values, order, axis=1)
    ranks = np.full(scores.shape, np.nan, np.float32)
    positions = np.broadcast_to(np.arange(1, n + 1, dtype=np.float32), best.shape)
    np.put_along_axis(ranks, best, np.where(values > NOT_RANKED, positions, np.nan).astype(np.float32), axis=1)
    return ranks
