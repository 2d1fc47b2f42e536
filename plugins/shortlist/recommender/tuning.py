"""What a search for better settings may vary, and what settings are worth on users who did not teach the ranker."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from shortlist.columns import CANDIDATE_FEATURES, USER
from shortlist.recommender import evaluation, metrics, ranking

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray
    from optuna.distributions import BaseDistribution

    from shortlist.settings import Settings

# Between these the search looks, evenly on a logarithmic scale, and wider where a setting in use lies outside.
RANGES: Final[dict[str, tuple[int, int] | tuple[float, float]]] = {
    "als.rank": (8, 96),
    "als.iterations": (3, 15),
    "als.regularization": (0.01, 1.0),
    "als.alpha": (0.5, 40.0),
    "candidates.als": (20, 200),
    "candidates.similar": (20, 200),
    "candidates.popular": (20, 200),
    "candidates.popular_half_life_days": (1.0, 90.0),
    "ranker.depth": (3, 8),
    "ranker.learning_rate": (0.02, 0.3),
    "ranker.negatives": (10, 200),
}
_LOSS = "ranker.loss"
_LOSSES = ("Logloss", "QueryRMSE")

# Users up to the first place teach the ranker, up to the second they choose the settings, from there on they say what
# the choice is worth: the best of many is partly luck on the users that it was chosen on.
_TEACHING, _CHOOSING = 0.5, 0.8

_LIST_LENGTH = 10


@dataclass(frozen=True)
class Worth:
    """NDCG@10 of each user who took something new in the window, by id.

    Attributes:
        choosing: float (users,), of those who choose the settings.
        confirming: float (users,), of those whom no choice has seen.
    """

    choosing: NDArray[np.float64]
    confirming: NDArray[np.float64]


def parameters(settings: Settings) -> dict[str, Any]:
    """Return the values that may vary, by `section.key`.

    Example:
        >>> from shortlist.settings import Settings
        >>> parameters(Settings())["als.rank"]
        32
    """
    return {name: _value(settings, name) for name in (*RANGES, _LOSS)}


def space(settings: Settings) -> dict[str, BaseDistribution]:
    """Return where to search: around `RANGES`, with the settings in use inside."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    found: dict[str, BaseDistribution] = {}
    for name, (low, high) in RANGES.items():
        least = max(low, settings.publish.k) if name == "candidates.popular" else low
        value = _value(settings, name)
        kind = IntDistribution if isinstance(low, int) else FloatDistribution
        found[name] = kind(min(least, value), max(high, value), log=True)
    found[_LOSS] = CategoricalDistribution(sorted({*_LOSSES, _value(settings, _LOSS)}))
    return found


def with_parameters(settings: Settings, chosen: Mapping[str, Any]) -> Settings:
    """Return the settings with other values.

    Three digits of a number are enough, and readable in a file; a value that is in use already stays to the last digit.

    Args:
        settings: In use.
        chosen: Values by `section.key`.

    Example:
        >>> from shortlist.settings import Settings
        >>> with_parameters(Settings(), {"als.alpha": 1.23456, "als.rank": 16}).als
        AlsSettings(rank=16, iterations=6, regularization=0.1, alpha=1.23, seed=42)
    """
    changed: dict[str, dict[str, Any]] = {}
    for name, value in chosen.items():
        section, key = name.split(".")
        rounded = float(f"{value:.3g}") if isinstance(value, float) else value
        changed.setdefault(section, {})[key] = value if value == _value(settings, name) else rounded
    sections = {section: replace(getattr(settings, section), **values) for section, values in changed.items()}
    return replace(settings, **sections)


def judge(candidates: pa.Table, settings: Settings) -> Worth:
    """Train the ranker on half of the users and hold its lists against what the others took.

    Args:
        candidates: Labelled candidates of one window with all features, sorted by user.
        settings: The ranker's are used.

    Raises:
        RankerError: If the teaching users teach nothing.
        EmptyInteractionsError: If no other user took anything new.
    """
    place = evaluation.user_places(candidates[USER])
    model = ranking.fit(ranking.labelled(candidates.filter(place < _TEACHING)), settings.ranker)

    def ndcg(rows: NDArray[np.bool_]) -> NDArray[np.float64]:
        of_users = candidates.filter(rows)
        scores = ranking.predict(model, ranking.features_of(of_users), tuple(CANDIDATE_FEATURES))
        lists, _ = evaluation.model_lists(of_users, _LIST_LENGTH, scores)
        return metrics.ndcg(lists[evaluation.RANKER], _LIST_LENGTH)

    return Worth(choosing=ndcg((place >= _TEACHING) & (place < _CHOOSING)), confirming=ndcg(place >= _CHOOSING))


def _value(settings: Settings, name: str) -> Any:  # noqa: ANN401 - int, float or str
    section, key = name.split(".")
    return getattr(getattr(settings, section), key)
