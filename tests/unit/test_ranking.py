"""The CatBoost ranker."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest

from shortlist.errors import RankerError
from shortlist.recommender import ranking
from shortlist.recommender.ranking import LabelledCandidates
from shortlist.settings import RankerSettings

CONFIG = RankerSettings(iterations=50, negatives=5)
NAMES = ("signal", "noise", "constant")


def labelled(groups: int = 40, size: int = 8) -> LabelledCandidates:
    """One taken item a group, the one with the largest `signal`."""
    generator = np.random.default_rng(7)
    signal = generator.random((groups, size)).astype(np.float32)
    target = (signal == signal.max(axis=1, keepdims=True)).astype(np.int64)
    features = np.stack([signal, generator.random(signal.shape), np.ones(signal.shape)], axis=2).astype(np.float32)
    return LabelledCandidates(
        group=np.repeat(np.arange(groups), size),
        features=features.reshape(-1, 3),
        target=target.ravel(),
        names=NAMES,
    )


def test_the_ranker_finds_the_feature_that_decides() -> None:
    data = labelled()
    model = ranking.fit(data, CONFIG)
    scores = ranking.predict(model, data.features, NAMES).reshape(40, 8)
    best = data.features[:, 0].reshape(40, 8).argmax(axis=1)
    assert np.mean(scores.argmax(axis=1) == best) > 0.9
    assert list(ranking.importance(model))[0] == "signal"


@pytest.mark.parametrize("loss", ["YetiRank", "QuerySoftMax", "QueryRMSE", "Logloss"])
def test_the_importance_is_known_whatever_the_loss(loss: Literal["YetiRank", "QuerySoftMax", "QueryRMSE"]) -> None:
    """CatBoost's default kind of importance stopped the training with every loss but Logloss."""
    shares = ranking.importance(ranking.fit(labelled(), replace(CONFIG, loss=loss)))
    assert set(shares) == set(NAMES)
    assert sum(shares.values()) == pytest.approx(100, abs=0.01)


def test_the_same_data_and_seed_give_the_same_scores() -> None:
    data = labelled()
    first, second = (ranking.predict(ranking.fit(data, CONFIG), data.features, NAMES) for _ in range(2))
    assert np.array_equal(first, second)


def test_a_better_rank_never_lowers_the_score_and_no_rank_is_the_worst() -> None:
    """In this data a bad rank happens to be good; the next weeks will not be like that."""
    data = labelled()
    names = ("signal", "als_rank", "constant")
    features = data.features.copy()
    features[:, 1] = np.where(data.target == 1, 50, 1) + np.arange(len(features)) % 5
    model = ranking.fit(replace(data, features=features, names=names), CONFIG)
    ranks = np.array([1, 2, 10, 50, np.nan], np.float32)
    pairs = np.column_stack([np.full(5, 0.5), ranks, np.ones(5)]).astype(np.float32)
    scores = ranking.predict(model, pairs, names)
    assert np.all(np.diff(scores) <= 0)


def test_groups_that_are_torn_apart_are_refused() -> None:
    data = labelled()
    shuffled = replace(data, group=data.group[::-1].copy())
    with pytest.raises(RankerError, match="sorted by group"):
        ranking.fit(shuffled, CONFIG)


@pytest.mark.parametrize("value", [0, 1])
def test_a_target_of_one_class_is_refused(value: int) -> None:
    data = labelled()
    with pytest.raises(RankerError, match="taken and not taken"):
        ranking.fit(replace(data, target=np.full_like(data.target, value)), CONFIG)


def test_other_features_than_the_ranker_knows_are_refused() -> None:
    data = labelled()
    model = ranking.fit(data, CONFIG)
    with pytest.raises(RankerError, match="other_noise"):
        ranking.predict(model, data.features, ("signal", "other_noise", "constant"))


def test_features_in_another_order_are_refused() -> None:
    data = labelled()
    model = ranking.fit(data, CONFIG)
    with pytest.raises(RankerError, match="another order"):
        ranking.predict(model, data.features, ("noise", "signal", "constant"))
