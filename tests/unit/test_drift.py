"""The drift decision on histograms of a few rows, where everything can be counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_array

from shortlist.recommender import drift
from shortlist.settings import DriftSettings

BLOCKS = 400
SETTINGS = DriftSettings()
BINS = {
    drift.WEIGHTS: 5,
    drift.POPULARITY: 10,
    drift.ITEMS: 12,
    drift.ACTIVITY: drift.ACTIVITY_BINS,
    drift.WEEKDAYS: 7,
    drift.PREDICTIONS: 5,
    drift.NEW_USERS: 2,
    drift.NEW_ITEMS: 2,
}


def blocks_of(seed: int, n: int, skew: dict[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
    """User-days of five rows, spread evenly over the bins, or as `skew` says; nobody and nothing is new."""
    generator = np.random.default_rng(seed)
    blocks = {}
    for name, bins in BINS.items():
        share = np.full(bins, 1 / bins) if name not in (drift.NEW_USERS, drift.NEW_ITEMS) else np.array([1.0, 0.0])
        share = (skew or {}).get(name, share)
        blocks[name] = generator.multinomial(5, share, n).astype(float)
    return blocks


def profile(blocks: dict[str, np.ndarray], days: int = 7) -> drift.Profile:
    return drift.Profile({name: counts.sum(axis=0) for name, counts in blocks.items()}, len(blocks["items"]), days)


@pytest.fixture(scope="module")
def reference() -> drift.Reference:
    blocks = blocks_of(1, BLOCKS)
    return drift.Reference(
        totals={name: counts.sum(axis=0) for name, counts in blocks.items()},
        blocks={name: csr_array(counts) for name, counts in blocks.items()},
        values={name: np.arange(1.0, 6.0) for name in (drift.WEIGHTS, drift.PREDICTIONS)},
    )


def compare(new: drift.Profile, reference: drift.Reference) -> drift.Drift:
    rows = {name: float(counts.sum()) for name, counts in new.histograms.items()}
    limits = drift.chance_limits(reference, SETTINGS, rows=rows, blocks=new.blocks)
    return drift.compare(new, reference, SETTINGS, limits)


def drifted(found: drift.Drift) -> set[str]:
    return {term.name for term in found.terms if term.drifted}


def test_the_score_of_weights_is_the_documented_sum(reference: drift.Reference) -> None:
    new = profile(blocks_of(2, 200, {drift.WEIGHTS: np.array([0.0, 0.0, 0.0, 0.0, 1.0])}))
    limits = dict.fromkeys((*drift.DATA, *drift.MODEL), 0.0)
    found = {term.name: term for term in drift.compare(new, reference, SETTINGS, limits).terms}
    parts = found[drift.WEIGHTS].parts
    assert parts["median_shift"] == 2.0
    assert parts["mean_shift"] == pytest.approx(2.0, abs=0.1)
    assert parts["kl"] == pytest.approx(np.log(5), abs=0.05)
    expected = 0.5 * parts["kl"] / 0.1 + 0.3 * parts["mean_shift"] / 0.2 + 0.2 * parts["median_shift"] / 0.5
    assert found[drift.WEIGHTS].score == pytest.approx(expected)


@pytest.mark.parametrize("blocks", [1, 20, 400, 20_000])
def test_the_same_habits_are_no_drift_at_any_size(reference: drift.Reference, blocks: int) -> None:
    found = compare(profile(blocks_of(3, blocks)), reference)
    assert drifted(found) == set()
    assert found.drifted is False


@pytest.mark.parametrize(
    ("name", "share"),
    [
        (drift.ITEMS, np.array([0.5, *[0.5 / 11] * 11])),
        (drift.POPULARITY, np.array([0.5, *[0.5 / 9] * 9])),
        (drift.ACTIVITY, np.array([0.5, *[0.5 / 19] * 19])),
        (drift.WEEKDAYS, np.array([0.7, *[0.05] * 6])),
        (drift.NEW_USERS, np.array([0.5, 0.5])),
        (drift.NEW_ITEMS, np.array([0.8, 0.2])),
    ],
)
def test_a_shift_is_told_by_its_own_term(reference: drift.Reference, name: str, share: np.ndarray) -> None:
    found = compare(profile(blocks_of(4, 200, {name: share})), reference)
    assert drifted(found) == {name}
    assert name in found.reason


def test_many_rows_with_a_small_difference_do_not_whisper(reference: drift.Reference) -> None:
    share = np.array([0.26, 0.2, 0.2, 0.2, 0.14])
    found = compare(profile(blocks_of(5, 20_000, {drift.WEIGHTS: share})), reference)
    weights = found.data[0]
    assert weights.limit < weights.score < 1
    assert not found.drifted


def test_few_rows_with_a_large_difference_do_not_cry_wolf(reference: drift.Reference) -> None:
    new = profile({name: counts[:1] for name, counts in blocks_of(6, 1).items()})
    found = compare(new, reference)
    assert max(term.score for term in found.terms) > 1
    assert not found.drifted
    assert "with so little data chance reaches" in found.reason


def test_weekdays_of_less_than_a_week_are_not_compared(reference: drift.Reference) -> None:
    found = compare(profile(blocks_of(7, 50), days=6), reference)
    assert [term.name for term in found.data] == [name for name in drift.DATA if name != drift.WEEKDAYS]


def test_without_predictions_there_is_no_such_term(reference: drift.Reference) -> None:
    blocks = blocks_of(8, 50)
    blocks[drift.PREDICTIONS] = np.zeros((50, 5))
    assert [term.name for term in compare(profile(blocks), reference).model] == [drift.NEW_USERS, drift.NEW_ITEMS]


def test_new_users_count_beyond_the_usual_share_only(reference: drift.Reference) -> None:
    blocks = blocks_of(9, BLOCKS, {drift.NEW_USERS: np.array([0.6, 0.4])})
    usual = drift.Reference(
        totals={**reference.totals, drift.NEW_USERS: blocks[drift.NEW_USERS].sum(axis=0)},
        blocks={**reference.blocks, drift.NEW_USERS: csr_array(blocks[drift.NEW_USERS])},
        values=reference.values,
    )
    again = profile(blocks_of(10, 200, {drift.NEW_USERS: np.array([0.6, 0.4])}))
    assert not compare(again, usual).drifted
