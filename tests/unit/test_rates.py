"""Click rates and their intervals, held against published tables."""

from __future__ import annotations

import pytest
from scipy.stats import binomtest

from shortlist.recommender.rates import Rate, newcombe, wilson


@pytest.mark.parametrize(
    ("clicks", "impressions", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_intervals_are_those_of_newcombe_s_table_of_single_proportions(
    clicks: int, impressions: int, low: float, high: float
) -> None:
    rate = wilson(clicks, impressions)

    assert rounded(rate.rate, rate.low, rate.high) == rounded(clicks / impressions, low, high)


@pytest.mark.parametrize(
    ("b", "a", "low", "high"),
    [
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((6, 7), (2, 7), 0.0582, 0.8062),
        ((5, 56), (0, 29), -0.0381, 0.1926),
        ((0, 10), (0, 20), -0.1611, 0.2775),
        ((0, 10), (0, 10), -0.2775, 0.2775),
        ((10, 10), (0, 20), 0.6791, 1.0),
        ((10, 10), (0, 10), 0.6075, 1.0),
    ],
)
def test_intervals_are_those_of_newcombe_s_table_of_differences(
    b: tuple[int, int], a: tuple[int, int], low: float, high: float
) -> None:
    interval = newcombe(a, b)

    assert interval is not None
    assert rounded(interval.mean, interval.low, interval.high) == rounded(b[0] / b[1] - a[0] / a[1], low, high)


@pytest.mark.parametrize("confidence", [0.8, 0.99])
def test_intervals_of_any_confidence_are_those_of_scipy(confidence: float) -> None:
    expected = binomtest(81, 263).proportion_ci(confidence, method="wilson")

    rate = wilson(81, 263, confidence)

    assert (rate.low, rate.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_the_difference_turns_round_with_its_rates() -> None:
    forth, back = newcombe((3, 10), (9, 10)), newcombe((9, 10), (3, 10))
    assert forth is not None
    assert back is not None
    assert rounded(forth.mean, forth.low, forth.high) == rounded(-back.mean, -back.high, -back.low)


@pytest.mark.parametrize(("clicks", "impressions"), [(0, 0), (3, 0), (4, 3), (-1, 3)])
def test_impossible_counts_have_no_rate_and_no_difference(clicks: int, impressions: int) -> None:
    assert wilson(clicks, impressions) == Rate(None, None, None)
    assert newcombe((clicks, impressions), (1, 2)) is None
    assert newcombe((1, 2), (clicks, impressions)) is None


def test_the_ends_of_the_scale_are_exact() -> None:
    assert wilson(0, 7).low == 0.0
    assert wilson(7, 7).high == 1.0
    # The limits of 3 of 3 are 3 / (3 + 1.96²) = 0.4385 and 1: 1 - √2 · (1 - 0.4385).
    interval = newcombe((0, 3), (3, 3))
    assert interval is not None
    assert rounded(interval.mean, interval.low, interval.high) == (1.0, 0.2059, 1.0)


def rounded(*values: float | None) -> tuple[float, ...]:
    return tuple(round(value, 4) for value in values if value is not None)
