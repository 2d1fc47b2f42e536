"""The report of a drift decision: what came, how it differs, what was decided."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from shortlist.recommender import drift
from shortlist.reports.drawing import AFTER, ALARM, BEFORE, GREY, png, soften, svg
from shortlist.reports.pages import page

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLES = {
    drift.WEIGHTS: "weights",
    drift.POPULARITY: "popularity of the items",
    drift.ITEMS: "single items",
    drift.ACTIVITY: "interactions of a user's day",
    drift.WEEKDAYS: "weekdays",
    drift.PREDICTIONS: "predictions of the model",
    drift.NEW_USERS: "new users",
    drift.NEW_ITEMS: "new items",
}
PARTS = {
    "kl": "KL divergence",
    "mean_shift": "shift of the mean",
    "median_shift": "shift of the median",
    "share": "share",
    "usual_share": "usual share",
}
_DAYS = ("Mo", "Tu", "We", "Th", "Fr", "Sa", "Su")

# What goes beyond is cut; a number says how far it goes.
_WIDEST_SCORE = 4.0


def render(
    decision: Mapping[str, Any],
    compared: Mapping[str, Any],
    batch: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
) -> str:
    """Return the page.

    Args:
        decision: Of `check_retrain`.
        compared: Histograms of batch and reference, as `detect_drift` keeps them.
        batch: The manifest of the batch.
        history: Decisions up to this one, oldest first.
    """
    plots = {
        "terms": svg(partial(_draw_terms, decision, history), label="Terms of the score", size=(9, 3.4)),
        "distributions": svg(
            partial(_draw_distributions, compared),
            label="Distributions before and after",
            size=(9, 2.1 * -(-len(_compared_names(compared)) // 2)),
        ),
    }
    return page(
        "drift.html.j2",
        decision=decision,
        compared=compared,
        batch=batch,
        plots=plots,
        titles=TITLES,
        parts=PARTS,
    )


def headline(decision: Mapping[str, Any]) -> str:
    """Return the decision in one sentence, as a list of reports shows it."""
    return f"{'Retraining' if decision['retrain'] else 'No retraining'}: {decision['reason']}"


def picture(decision: Mapping[str, Any], history: Sequence[Mapping[str, Any]]) -> bytes:
    """Return the terms of the score and their history as a PNG, for a message."""
    return png(partial(_draw_terms, decision, history), size=(9, 3.4))


def draw_history(axes: Axes, history: Sequence[Mapping[str, Any]]) -> None:
    """Draw the scores of the last decisions against the threshold, and which of them led to a retraining.

    Args:
        axes: To draw into.
        history: Decisions, oldest first.
    """
    for name, colour, label in (("data_drift", AFTER, "data"), ("model_drift", BEFORE, "model")):
        scores = [min(past[name], _WIDEST_SCORE) for past in history]
        axes.plot(range(1, len(history) + 1), scores, marker="o", markersize=3, color=colour, label=label)
    retrained = [place for place, past in enumerate(history, start=1) if past["retrain"]]
    scores = [min(history[place - 1]["score"], _WIDEST_SCORE) for place in retrained]
    axes.plot(retrained, scores, "o", color=ALARM, label="retrain")
    axes.axhline(1, color=ALARM, linestyle="--", linewidth=1)
    axes.set_ylim(0, _WIDEST_SCORE + 0.2)
    axes.set_xlim(0.5, len(history) + 0.5)
    axes.locator_params(axis="x", integer=True)
    axes.set_xlabel(f"the last {len(history)} runs")
    axes.legend(frameon=False, fontsize=8)


def _draw_terms(decision: Mapping[str, Any], history: Sequence[Mapping[str, Any]], figure: Figure) -> None:
    """Each term against its threshold and chance; and the scores of the last runs."""
    left, right = figure.subplots(1, 2, width_ratios=[3, 2])
    terms = decision["terms"]
    for place, term in enumerate(terms):
        score, limit = min(term["score"], _WIDEST_SCORE), min(term["limit"], _WIDEST_SCORE)
        left.barh(place, score, color=ALARM if term["drifted"] else AFTER, height=0.6)
        left.plot([limit, limit], [place - 0.4, place + 0.4], color=GREY, linewidth=2)
        left.text(max(score, limit) + 0.06, place, f"{term['score']:.2f}", va="center", color=GREY)
    left.axvline(1, color=ALARM, linestyle="--", linewidth=1)
    left.set_yticks(range(len(terms)), [TITLES[term["name"]] for term in terms])
    left.invert_yaxis()
    left.set_xlim(0, _WIDEST_SCORE + 0.5)
    left.set_xlabel("score; dashed: threshold, bar: what chance reaches")
    draw_history(right, history)
    soften(left, right)


def _compared_names(compared: Mapping[str, Any]) -> list[str]:
    return [name for name in TITLES if sum(compared["new"][name]) and sum(compared["reference"][name])]


def _draw_distributions(compared: Mapping[str, Any], figure: Figure) -> None:
    """Shares by bin, before and after."""
    import numpy as np

    shown = _compared_names(compared)
    grid = figure.subplots(-(-len(shown) // 2), 2, squeeze=False).flatten()
    for axes, name in zip(grid, shown, strict=False):
        before, after = (np.array(compared[side][name]) for side in ("reference", "new"))
        if name == drift.ITEMS:  # the most popular ones are what a person can read
            before, after = before[:50] / before.sum(), after[:50] / after.sum()
        else:
            before, after = before / before.sum(), after / after.sum()
        used = np.flatnonzero(before + after)
        kept = slice(0, int(used.max(initial=0)) + 1)
        place = np.arange(len(before[kept]))
        axes.bar(place - 0.2, before[kept], 0.4, color=BEFORE, label="trained on")
        axes.bar(place + 0.2, after[kept], 0.4, color=AFTER, label="new")
        axes.set_title(TITLES[name], fontsize=9, color=GREY)
        labels = _labels(name, compared, len(place))
        step = max(1, len(labels) // 10)
        axes.set_xticks(place[::step], labels[::step])
    for axes in grid[len(shown) :]:
        axes.set_axis_off()
    grid[0].legend(frameon=False, fontsize=8)
    soften(*grid)


def _labels(name: str, compared: Mapping[str, Any], n: int) -> list[str]:
    if name in compared["values"]:
        return [f"{value:.2g}" for value in compared["values"][name][:n]]
    if name == drift.WEEKDAYS:
        return list(_DAYS[:n])
    if name == drift.ACTIVITY:
        return [f"{2**place}+" if place else "1" for place in range(n)]
    if name in (drift.NEW_USERS, drift.NEW_ITEMS):
        return ["known", "new"][:n]
    return [str(place + 1) for place in range(n)]
