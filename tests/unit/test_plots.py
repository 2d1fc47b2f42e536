"""What the plots of a training show. That they look right, only eyes can tell; here is what can be counted."""

from __future__ import annotations

import io
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from matplotlib.image import imread

from shortlist.recommender import diagnostics, evaluation
from shortlist.reports import plots
from steps.tracking import list_plots

CANDIDATES = pa.table(
    {
        "user_id": ["u", "u", "u", "v", "v", "v"],
        "item_id": ["b", "a", "c", "b", "a", "c"],
        "popular_rank": [1, 2, 3, 1, 2, 3],
        "last_rank": pa.array([None, None, 1, None, None, None], pa.int32()),
        "als_rank": [2, 1, None, 1, 2, None],
        "user_items": [3, 3, 3, 9, 9, 9],
        "target": [0, 1, 0, 1, 0, 0],
        "n_relevant": [1, 1, 1, 2, 2, 2],
        "item_count": [30, 20, 10, 30, 20, 10],
    }
)


def test_counts_stand_in_the_order_of_the_codes_in_the_lists() -> None:
    lists, _ = evaluation.model_lists(CANDIDATES, 2)
    counts = diagnostics.item_counts(CANDIDATES)
    assert counts.tolist() == [20.0, 30.0, 10.0]
    assert [sorted(counts[own.items].ravel().tolist()) for own in (lists["popular"], lists["similar_to_last"])] == [
        [20.0, 20.0, 30.0, 30.0],
        [10.0, 20.0, 30.0, 30.0],
    ]


def test_precision_and_recall_stand_for_every_length() -> None:
    lists, _ = evaluation.model_lists(CANDIDATES, 3)
    assert diagnostics.over_k(lists["als"]) == diagnostics.Curve(
        precision=(1.0, 0.5, pytest.approx(1 / 3)),  # type: ignore[arg-type]
        recall=(0.75, 0.75, 0.75),
    )


def test_coverage_stands_for_every_length() -> None:
    lists, _ = evaluation.model_lists(CANDIDATES, 3)
    assert diagnostics.curves(lists, CANDIDATES, n_items=4).coverage == {
        "popular": (0.25, 0.5, 0.75),
        "similar_to_last": (0.5, 0.75, 0.75),
        "als": (0.5, 0.5, 0.75),
    }


def test_promised_hits_are_the_same_in_every_bin() -> None:
    probability = np.array([0.1] * 8 + [0.8] * 2)
    score = np.log(probability / (1 - probability))
    target = np.array([1.0] + [0.0] * 7 + [1.0, 0.0])
    found = diagnostics.calibration(score, target, bins=3)
    assert found.predicted == pytest.approx((0.1, 0.8, 0.8))
    assert found.observed == pytest.approx((0.125, 1.0, 0.0))


def test_a_well_calibrated_ranker_lies_on_the_diagonal() -> None:
    generator = np.random.default_rng(3)
    score = generator.normal(-2, 1, 100_000)
    target = (generator.random(len(score)) < 1 / (1 + np.exp(-score))).astype(np.float64)
    found = diagnostics.calibration(score, target)
    assert len(found.predicted) == 10
    assert all(earlier < later for earlier, later in pairwise(found.predicted))
    assert found.observed == pytest.approx(found.predicted, rel=0.1)


def test_every_plot_is_a_picture() -> None:
    lists, _ = evaluation.model_lists(CANDIDATES, 3)
    drawn = list_plots(diagnostics.curves(lists, CANDIDATES, 4)) | {
        "importance": plots.feature_importance({"als_score": 60.0, "item_count": 40.0}),
        "calibration": plots.reliability(diagnostics.Calibration((0.1, 0.2), (0.0, 0.1)), negatives=50),
    }
    assert set(drawn) == {"precision_recall", "popularity", "importance", "calibration"}
    for name, image in drawn.items():
        picture = imread(io.BytesIO(image))
        assert picture.shape[1] == 770, name
        assert picture.min() < picture.max(), name


def test_candidates_made_elsewhere_without_counts_have_no_plot_of_popularity() -> None:
    unknown = CANDIDATES.set_column(8, "item_count", pa.nulls(6, pa.float32()))
    lists, _ = evaluation.model_lists(unknown, 3)
    curves = diagnostics.curves(lists, unknown, 4)
    assert curves.popularity == {}
    assert set(list_plots(curves)) == {"precision_recall"}
