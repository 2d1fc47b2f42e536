"""The plots of a training, into axes and as PNG. Drawn from numbers; nothing is read or written."""

from __future__ import annotations

import io
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from shortlist.recommender.diagnostics import Calibration, Curve

# The models, in the order and by the names that people see them.
MODELS = {
    "popular": "popular",
    "similar_to_last": "similar to last",
    "als": "ALS",
    "ranker": "ALS + CatBoost",
}

COLOURS = {"popular": "#9ca3af", "similar_to_last": "#d97706", "als": "#2563eb", "ranker": "#16a34a"}
_DOTS_PER_INCH = 110

T = TypeVar("T")


def draw_precision_recall(axes: Axes, curves: Mapping[str, Curve]) -> None:
    """Draw precision against recall for every length of list, one line a model."""
    for model, curve in in_order(curves):
        axes.plot(curve.recall, curve.precision, marker=".", color=COLOURS[model], label=MODELS[model])
        for k in {1, len(curve.recall)}:
            place = (curve.recall[k - 1], curve.precision[k - 1])
            axes.annotate(f"{k}", place, xytext=(4, 4), textcoords="offset points", fontsize=8)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    _label(axes, "recall (mean over users)", "precision (mean over users)")


def draw_popularity(axes: Axes, percentiles: Mapping[str, Sequence[float]]) -> None:
    """Draw how often the items in the lists had been taken before, one distribution a model."""
    for model, values in in_order(percentiles):
        shares = [place / (len(values) - 1) for place in range(len(values))]
        axes.step([max(1.0, value) for value in values], shares, color=COLOURS[model], label=MODELS[model])
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_ylim(0, 1)
    _label(axes, "interactions of the item so far", "share of recommendations up to there")


def draw_coverage(axes: Axes, coverage: Mapping[str, Sequence[float]]) -> None:
    """Draw the share of the items that anyone is recommended against the length of the lists, one line a model."""
    for model, shares in in_order(coverage):
        axes.plot(range(1, len(shares) + 1), shares, marker=".", color=COLOURS[model], label=MODELS[model])
    axes.set_ylim(bottom=0)
    axes.locator_params(axis="x", integer=True)
    _label(axes, "length of the list", "share of the items in any list")


def draw_importance(axes: Axes, importance: Mapping[str, float]) -> None:
    """Draw each feature's share of the ranker's decisions, in percent, largest first."""
    names = sorted(importance, key=lambda name: -importance[name])
    axes.barh(names, [importance[name] for name in names], color=COLOURS["ranker"])
    axes.set_ylim(len(names) - 0.5, -0.5)
    _label(axes, "share of the ranker's decisions, %", "")
    axes.grid(visible=False, axis="y")


def draw_reliability(axes: Axes, calibration: Calibration) -> None:
    """Draw the share of candidates that were taken against the probability that the ranker promised."""
    from matplotlib.ticker import LogLocator, NullFormatter

    # On a log axis a bin without any hit has no place.
    bins = [pair for pair in zip(calibration.predicted, calibration.observed, strict=True) if min(pair) > 0]
    predicted, observed = ([pair[side] for pair in bins] for side in (0, 1))
    lowest, highest = min((*predicted, *observed), default=0.01), max((*predicted, *observed), default=1.0)
    axes.plot([lowest, highest], [lowest, highest], "--", color="#9ca3af", label="as promised")
    axes.plot(predicted, observed, marker="o", color=COLOURS["ranker"], label=MODELS["ranker"])
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())
    _label(axes, "probability promised", "share taken")


def precision_recall(curves: Mapping[str, Curve]) -> bytes:
    """Return the drawing of `draw_precision_recall`."""
    longest = max(len(curve.recall) for curve in curves.values())
    with _drawing(title=f"Precision and recall at k = 1 to {longest}") as (figure, drawn):
        axes = figure.subplots()
        draw_precision_recall(axes, curves)
        axes.legend()
    return drawn.getvalue()


def item_popularity(percentiles: Mapping[str, Sequence[float]]) -> bytes:
    """Return the drawing of `draw_popularity`."""
    with _drawing(title="Popularity of what is recommended") as (figure, drawn):
        axes = figure.subplots()
        draw_popularity(axes, percentiles)
        axes.legend()
    return drawn.getvalue()


def feature_importance(importance: Mapping[str, float]) -> bytes:
    """Return the drawing of `draw_importance`."""
    with _drawing(title="Importance of the features", height=1.2 + 0.2 * len(importance)) as (figure, drawn):
        draw_importance(figure.subplots(), importance)
    return drawn.getvalue()


def reliability(calibration: Calibration, negatives: int) -> bytes:
    """Return the drawing of `draw_reliability`.

    Args:
        calibration: Of the held-out candidates.
        negatives: How many items not taken the ranker saw of each user in training.
    """
    with _drawing(title="Calibration of the ranker") as (figure, drawn):
        axes = figure.subplots()
        draw_reliability(axes, calibration)
        axes.set_xlabel(f"probability promised\n({promise(negatives)})")
        axes.legend()
    return drawn.getvalue()


def promise(negatives: int) -> str:
    """Return what a person must know to read the calibration."""
    return f"trained with at most {negatives} items not taken a user: with more, it promises too much"


def in_order(values: Mapping[str, T]) -> list[tuple[str, T]]:
    """Return those of the models that are there, in the order in which people see them."""
    return [(model, values[model]) for model in MODELS if model in values]


@contextmanager
def _drawing(title: str, height: float = 4.2) -> Iterator[tuple[Figure, io.BytesIO]]:
    """Give an empty figure and the buffer that holds it as PNG after the `with` block."""
    from matplotlib.figure import Figure

    figure, drawn = Figure(figsize=(7, height), layout="constrained"), io.BytesIO()
    figure.suptitle(title, fontsize=12)
    yield figure, drawn
    figure.savefig(drawn, format="png", dpi=_DOTS_PER_INCH, metadata={"Software": None})


def _label(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(visible=True, alpha=0.3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
