"""The gate: nothing worse than what is there is ever published."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from shortlist.recommender.metrics import Interval, bootstrap

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from shortlist.settings import EvaluationSettings, GateSettings


@dataclass(frozen=True)
class Decision:
    """Whether the challenger may be published.

    Attributes:
        passed: The lower bound of every difference is not below `-tolerance`.
        differences: Challenger minus each rival, mean over the same users with its paired interval.
        tolerance: As set.
    """

    passed: bool
    differences: dict[str, Interval]
    tolerance: float

    @property
    def reason(self) -> str:
        """One sentence for people."""
        rival, worst = min(self.differences.items(), key=lambda pair: pair[1].low)
        return (
            f"{'passed' if self.passed else 'refused'}: against {rival} the difference in NDCG@10 is {worst.mean:+.4f} "
            f"[{worst.low:+.4f}, {worst.high:+.4f}], allowed is a lower bound of {-self.tolerance:+.4f}"
        )


def decide(
    challenger: NDArray[np.float64],
    rivals: dict[str, NDArray[np.float64]],
    gate: GateSettings,
    evaluation: EvaluationSettings,
) -> Decision:
    """Compare a challenger with its rivals on the same users.

    Args:
        challenger: float (users,), the metric of each user.
        rivals: The same users' metric under each rival; at least one.
        gate: The tolerance.
        evaluation: The bootstrap.

    Example:
        >>> import numpy as np
        >>> from shortlist.settings import EvaluationSettings, GateSettings
        >>> better, worse = np.array([0.5, 0.7]), np.array([0.1, 0.2])
        >>> decide(better, {"popular": worse}, GateSettings(), EvaluationSettings()).passed
        True
        >>> decide(worse, {"champion": better}, GateSettings(), EvaluationSettings()).passed
        False
    """
    differences = {name: bootstrap(challenger - values, evaluation) for name, values in rivals.items()}
    return Decision(
        passed=all(interval.low >= -gate.tolerance for interval in differences.values()),
        differences=differences,
        tolerance=gate.tolerance,
    )
