"""Evaluation of the ranker against its baselines, by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from shortlist.errors import EmptyInteractionsError
from shortlist.recommender import evaluation
from shortlist.settings import EvaluationSettings

CONFIG = EvaluationSettings(k=(1, 10), bootstrap_samples=100)

CANDIDATES: dict[str, list[Any]] = {
    "user_id": ["ann", "ann", "ann", "bob", "bob", "eve", "eve"],
    "item_id": ["a", "b", "c", "a", "b", "a", "c"],
    "als_rank": [1.0, None, 2.0, None, None, 1.0, 2.0],
    "last_rank": [None, 1.0, None, None, None, None, None],
    "popular_rank": [1.0, 2.0, 3.0, 1.0, 2.0, 1.0, 2.0],
    "user_items": [5.0, 5.0, 5.0, 1.0, 1.0, 2.0, 2.0],
    "target": [0, 1, 0, 0, 1, 0, 0],
    "n_relevant": [2, 2, 2, 1, 1, 0, 0],
}


def hit_rates(result: dict[str, object]) -> dict[str, float]:
    models = result["models"]
    assert isinstance(models, dict)
    return {name: metrics["hit_rate@1"]["mean"] for name, metrics in models.items()}


def test_each_model_is_judged_by_its_own_list_then_by_popularity() -> None:
    scores = np.array([0.0, 1.0, 0.0, 1.0, 2.0, 0.0, 0.0])
    result = evaluation.evaluate(pa.table(CANDIDATES), n_items=4, config=CONFIG, ranker_score=scores)
    # Ann took b, which is the neighbour of her last item; Bob has popular candidates only; Eve took nothing new.
    assert result["users"] == 2
    assert hit_rates(result) == {"popular": 0.0, "similar_to_last": 0.5, "als": 0.0, "ranker": 1.0}
    assert result["models"]["ranker"]["recall@10"]["mean"] == pytest.approx((1 / 2 + 1) / 2)
    assert result["models"]["ranker"]["coverage@1"] == {"mean": 0.25}
    assert {name: segment["users"] for name, segment in result["segments"].items()} == {"light": 1, "heavy": 1}


def test_without_counts_what_a_user_took_is_counted_among_the_candidates() -> None:
    foreign = {name: values for name, values in CANDIDATES.items() if name != "n_relevant"}
    result = evaluation.evaluate(pa.table(foreign), n_items=4, config=CONFIG)
    assert result["users"] == 2
    assert result["models"]["popular"]["recall@10"]["mean"] == 1.0


def test_a_window_in_which_nobody_took_anything_is_refused() -> None:
    nothing = {**CANDIDATES, "target": [0] * 7, "n_relevant": [0] * 7}
    with pytest.raises(EmptyInteractionsError, match="no user took a new item"):
        evaluation.evaluate(pa.table(nothing), n_items=4, config=CONFIG)
