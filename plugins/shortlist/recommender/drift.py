"""Whether new data still looks like what the model was trained on.

Everything is a histogram of bounded size. Rows of one user on one day belong together (who rates, rates many), so
chance is measured by drawing such blocks, not rows: a difference counts when it is both large and larger than what as
many blocks of the reference itself show.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np
    from numpy.typing import NDArray
    from scipy.sparse import csr_array

    from shortlist.settings import DriftSettings

# Each histogram counts rows. The first group describes the data, the second what the model makes of it.
WEIGHTS, POPULARITY, ITEMS, ACTIVITY, WEEKDAYS = "weights", "popularity", "items", "activity", "weekdays"
PREDICTIONS, NEW_USERS, NEW_ITEMS = "predictions", "new_users", "new_items"
DATA: Final = (WEIGHTS, POPULARITY, ITEMS, ACTIVITY, WEEKDAYS)
MODEL: Final = (PREDICTIONS, NEW_USERS, NEW_ITEMS)

# The first bin of `new_users` and `new_items` counts those the model knows, the second the others.
NEW: Final = 1

# Rows of a user's day: 1, 2–3, 4–7, … in the last bin everything larger.
ACTIVITY_BINS: Final = 20
DAYS_A_WEEK: Final = 7

_DRAWS = 1000
_DRAWS_AT_ONCE = 100


@dataclass(frozen=True)
class Profile:
    """Counts of one data set.

    Attributes:
        histograms: float (bins,), rows by bin, for every name of `DATA` and `MODEL`.
        blocks: Number of user-days.
        days: Number of days from the first to the last, both counted.
    """

    histograms: Mapping[str, NDArray[np.float64]]
    blocks: int
    days: int


@dataclass(frozen=True)
class Reference:
    """What the new data is compared with: the train set for `DATA`, the test set for `MODEL`.

    Attributes:
        totals: float (bins,), rows by bin, of the whole reference, for every name.
        blocks: Sparse float (blocks, bins), a sample of its user-days, for every name; the rows of the names of a
            group belong to the same user-days.
        values: What a row counts, float (bins,), for `weights` and `predictions`: the mean of the bin.
    """

    totals: Mapping[str, NDArray[np.float64]]
    blocks: Mapping[str, csr_array]
    values: Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Term:
    """One difference between new data and reference.

    Attributes:
        name: Such as `weights`.
        score: 1 is the threshold of the settings.
        limit: What chance alone reaches with as much data, with all terms together in no more than
            `[drift].false_alarms` of the cases.
        parts: What the score is made of, by name.
    """

    name: str
    score: float
    limit: float
    parts: Mapping[str, float]

    @property
    def drifted(self) -> bool:
        """Whether the difference is large, and larger than chance."""
        return self.score > 1 and self.score > self.limit

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON can hold it."""
        return {
            "name": self.name,
            "score": self.score,
            "limit": self.limit,
            "drifted": self.drifted,
            "parts": dict(self.parts),
        }


@dataclass(frozen=True)
class Drift:
    """The terms of data drift and of model drift."""

    data: tuple[Term, ...]
    model: tuple[Term, ...]

    @property
    def terms(self) -> tuple[Term, ...]:
        """All terms."""
        return (*self.data, *self.model)

    @property
    def drifted(self) -> bool:
        """Whether any term drifted."""
        return any(term.drifted for term in self.terms)

    @property
    def reason(self) -> str:
        """One sentence for people."""
        drifted = [term for term in self.terms if term.drifted]
        if drifted:
            told = (f"{term.name} {term.score:.2f} (chance: {term.limit:.2f})" for term in drifted)
            return f"over the threshold of 1 and over chance: {', '.join(told)}"
        if not self.terms:
            return "there is nothing to compare"
        worst = max(self.terms, key=lambda term: term.score)
        if worst.score > 1:
            return f"{worst.name} {worst.score:.2f} is over 1, but with so little data chance reaches {worst.limit:.2f}"
        return f"no term is over the threshold of 1; the largest is {worst.name} with {worst.score:.2f}"


def compare(new: Profile, reference: Reference, config: DriftSettings, limits: Mapping[str, float]) -> Drift:
    """Compare new data with the reference.

    Args:
        new: Counts of the new data.
        reference: What it is compared with.
        config: Thresholds.
        limits: Of `chance_limits`, for as much data.

    Returns:
        Each term that can be told: the weekdays only of a week or more, the predictions only when there are some.
    """
    told = {
        name: {part: float(value[0]) for part, value in parts.items()}
        for name, parts in _measure(
            {name: counts[None] for name, counts in new.histograms.items()},
            {name: counts[None] for name, counts in reference.totals.items()},
            reference.values,
            config,
        )
        if name != WEEKDAYS or new.days >= DAYS_A_WEEK
    }

    def terms(group: tuple[str, ...]) -> tuple[Term, ...]:
        return tuple(Term(name, told[name].pop("score"), limits[name], told[name]) for name in group if name in told)

    return Drift(terms(DATA), terms(MODEL))


def chance_limits(
    reference: Reference, config: DriftSettings, *, rows: Mapping[str, float], blocks: int
) -> dict[str, float]:
    """Return what each term's score reaches by chance in data without drift of the same size.

    As many user-days as the new data has are drawn from the reference with replacement (the block bootstrap, Künsch
    1989), and where these have more rows, rows are left out at random; they are compared with as many drawn user-days
    as the whole reference has, since that is a sample, too. A common factor widens the 99 % quantiles of the single
    terms until no more than `config.false_alarms` of the draws exceed any of them.

    Args:
        reference: Drawn from.
        config: Rate of false alarms, thresholds.
        rows: Of the new data, by histogram.
        blocks: User-days of the new data.
    """
    import numpy as np

    generator = np.random.default_rng(config.seed)
    scores: dict[str, list[NDArray[np.float64]]] = {}
    for _ in range(0, _DRAWS, _DRAWS_AT_ONCE):
        new = _draw(reference, generator, dict.fromkeys((*DATA, *MODEL), max(1, blocks)))
        old = _draw(reference, generator, {name: _all_blocks(reference, name) for name in (*DATA, *MODEL)})
        for name, counts in new.items():
            kept = np.minimum(rows.get(name, 0.0) / np.maximum(counts.sum(axis=1, keepdims=True), 1), 1)
            new[name] = generator.binomial(counts.astype(np.int64), kept).astype(np.float64)
        for name, parts in _measure(new, old, reference.values, config):
            scores.setdefault(name, []).append(parts["score"])
    together = {name: np.concatenate(parts) for name, parts in scores.items()}
    single = {name: max(float(np.quantile(values, 0.99)), 1e-9) for name, values in together.items()}
    worst = np.max([values / single[name] for name, values in together.items()], axis=0)
    factor = max(1.0, float(np.quantile(worst, 1 - config.false_alarms)))
    return {name: factor * limit for name, limit in single.items()}


def divergence(counts: NDArray[np.float64], reference: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the Kullback-Leibler divergence, in nats, of histograms from a reference (Kullback, Leibler 1951).

    So that an empty bin is no certainty, half a row is added to each bin of the reference, and as many rows in all to
    the histogram, spread like the reference: few rows look like it.

    Args:
        counts: float (…, bins).
        reference: float (bins,) or (…, bins).

    Example:
        >>> import numpy as np
        >>> divergence(np.array([50.0, 50.0]), np.array([500.0, 500.0])).item()
        0.0
        >>> round(divergence(np.array([90.0, 10.0]), np.array([500.0, 500.0])).item(), 2)
        0.36
    """
    import numpy as np

    added = reference.shape[-1] / 2
    q = (reference + 0.5) / (reference.sum(axis=-1, keepdims=True) + added)
    p = (counts + added * q) / (counts.sum(axis=-1, keepdims=True) + added)
    values: NDArray[np.float64] = (p * np.log(p / q)).sum(axis=-1)
    return np.maximum(values, 0.0)


def centre(counts: NDArray[np.float64], values: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the mean and the median of histograms.

    Args:
        counts: float (…, bins).
        values: float (bins,), ascending: what a row of each bin counts.

    Example:
        >>> import numpy as np
        >>> [float(part) for part in centre(np.array([1.0, 1.0, 3.0]), np.array([1.0, 2.0, 5.0]))]
        [3.6, 5.0]
    """
    import numpy as np

    total = counts.sum(axis=-1, keepdims=True)
    mean = (counts @ values) / np.maximum(total[..., 0], 1e-12)
    middle = (np.cumsum(counts, axis=-1) < total / 2).sum(axis=-1)
    return mean, values[np.minimum(middle, len(values) - 1)]


def _measure(
    new_counts: Mapping[str, NDArray[np.float64]],
    old_counts: Mapping[str, NDArray[np.float64]],
    values: Mapping[str, NDArray[np.float64]],
    config: DriftSettings,
) -> Iterator[tuple[str, dict[str, NDArray[np.float64]]]]:
    """Yield each term that has rows, with its score and what that is made of, each (draws,)."""
    import numpy as np

    shares = {NEW_USERS: config.new_users, NEW_ITEMS: config.new_items}
    for name in (*DATA, *MODEL):
        new, old = new_counts[name], old_counts[name]
        if not new.sum() or not old.sum():
            continue
        if name in shares:
            share = new[:, NEW] / np.maximum(new.sum(axis=1), 1)
            usual = old[:, NEW] / np.maximum(old.sum(axis=1), 1)
            yield name, {"score": np.maximum(share - usual, 0) / shares[name], "share": share, "usual_share": usual}
            continue
        kl = divergence(new, old)
        if name not in values:
            yield name, {"score": kl / config.kl, "kl": kl}
            continue
        mean, median = centre(new, values[name])
        old_mean, old_median = centre(old, values[name])
        parts = {"kl": kl, "mean_shift": mean - old_mean, "median_shift": median - old_median}
        score = (
            config.kl_part * kl / config.kl
            + config.mean_part * abs(parts["mean_shift"]) / config.mean
            + config.median_part * abs(parts["median_shift"]) / config.median
        )
        yield name, {"score": score, **parts}


def _all_blocks(reference: Reference, name: str) -> int:
    """The number of user-days of the whole reference, of which `blocks` may be a sample."""
    sampled = reference.blocks[name]
    n_sampled: int = sampled.shape[0]
    share = float(reference.totals[name].sum()) / max(float(sampled.sum()), 1.0)
    return max(1, round(n_sampled * share))


def _draw(
    reference: Reference, generator: np.random.Generator, blocks: Mapping[str, int]
) -> dict[str, NDArray[np.float64]]:
    """Draw user-days with replacement and count their rows, (draws, bins) for each name."""
    import numpy as np

    drawn = {}
    for group in (DATA, MODEL):
        n = reference.blocks[group[0]].shape[0]
        n_drawn = max(blocks[name] for name in group)
        times = generator.multinomial(n_drawn, np.full(n, 1 / n), _DRAWS_AT_ONCE).astype(np.float64)
        for name in group:
            drawn[name] = np.rint(times @ reference.blocks[name])
    return drawn
