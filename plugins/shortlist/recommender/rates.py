"""Click rates and their difference, with intervals that hold for few clicks, too."""

from __future__ import annotations

from dataclasses import dataclass
from math import hypot, sqrt
from statistics import NormalDist

from shortlist.recommender.metrics import Interval


@dataclass(frozen=True)
class Rate:
    """A share with its interval, 0 to 1; all `None` where no share can be told."""

    rate: float | None
    low: float | None
    high: float | None


def wilson(clicks: int, impressions: int, confidence: float = 0.95) -> Rate:
    """Return the click rate with its score interval (Wilson 1927).

    Among the methods of Newcombe 1998, "Two-sided confidence intervals for the single proportion", it is method 3.

    Args:
        clicks: Of these impressions.
        impressions: How often something was shown.
        confidence: Share of such intervals that hold the true rate.

    Returns:
        All `None` without impressions, and where more clicks were counted than impressions.

    Example:
        >>> rate = wilson(81, 263)
        >>> round(rate.rate, 4), round(rate.low, 4), round(rate.high, 4)
        (0.308, 0.2553, 0.3662)
        >>> wilson(0, 0)
        Rate(rate=None, low=None, high=None)
    """
    if not _has_rate(clicks, impressions):
        return Rate(None, None, None)
    return Rate(clicks / impressions, *_limits(clicks, impressions, confidence))


def newcombe(a: tuple[int, int], b: tuple[int, int], confidence: float = 0.95) -> Interval | None:
    """Return the difference of two click rates, b - a, with its interval.

    The limits of two Wilson intervals, squared and added: method 10 of Newcombe 1998, "Interval estimation for the
    difference between independent proportions". Impressions of one user are not independent: it is a little narrow.

    Args:
        a: Clicks and impressions.
        b: The same of the other.
        confidence: Share of such intervals that hold the true difference.

    Returns:
        `None` where either rate cannot be told.

    Example:
        >>> interval = newcombe((48, 80), (56, 70))
        >>> round(interval.mean, 4), round(interval.low, 4), round(interval.high, 4)
        (0.2, 0.0524, 0.3339)
    """
    if not (_has_rate(*a) and _has_rate(*b)):
        return None
    rate_a, rate_b = a[0] / a[1], b[0] / b[1]
    (low_a, high_a), (low_b, high_b) = _limits(*a, confidence), _limits(*b, confidence)
    difference = rate_b - rate_a
    return Interval(
        mean=difference,
        low=difference - hypot(rate_b - low_b, high_a - rate_a),
        high=difference + hypot(high_b - rate_b, rate_a - low_a),
    )


def _has_rate(clicks: int, impressions: int) -> bool:
    return 0 <= clicks <= impressions and impressions > 0


def _limits(clicks: int, impressions: int, confidence: float) -> tuple[float, float]:
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    centre = clicks + z * z / 2
    spread = z * sqrt(clicks * (impressions - clicks) / impressions + z * z / 4)
    total = impressions + z * z
    # Rounding would put the limit of nothing but clicks beside 1.
    high = 1.0 if clicks == impressions else (centre + spread) / total
    return (centre - spread) / total, high
