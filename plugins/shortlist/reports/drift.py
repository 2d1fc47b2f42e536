"""The report of a drift decision: what came, how it differs, what was decided."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shortlist.recommender import drift

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
_BEFORE, _AFTER, _ALARM, _GREY = "#94a3b8", "#3b82f6", "#ef4444", "#808080"
_STYLE: Any = {"svg.fonttype": "none", "text.color": _GREY, "axes.labelcolor": _GREY, "font.size": 9}
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
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    plots = {
        name: Markup(_svg(_terms_figure(decision, history) if name == "terms" else _distributions_figure(compared)))  # noqa: S704 - drawn here, from numbers
        for name in ("terms", "distributions")
    }
    return environment.get_template("drift.html.j2").render(
        decision=decision, compared=compared, batch=batch, plots=plots, titles=TITLES, parts=PARTS
    )


def picture(decision: Mapping[str, Any], history: Sequence[Mapping[str, Any]]) -> bytes:
    """Return the terms of the score and their history as a PNG, for a message."""
    drawing = io.BytesIO()
    _terms_figure(decision, history).savefig(drawing, format="png", dpi=120, facecolor="white")
    return drawing.getvalue()


def _terms_figure(decision: Mapping[str, Any], history: Sequence[Mapping[str, Any]]) -> Figure:
    """Each term against its threshold and chance; and the scores of the last runs."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(9, 3.4), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=[3, 2])
        terms = decision["terms"]
        for place, term in enumerate(terms):
            score, limit = min(term["score"], _WIDEST_SCORE), min(term["limit"], _WIDEST_SCORE)
            left.barh(place, score, color=_ALARM if term["drifted"] else _AFTER, height=0.6)
            left.plot([limit, limit], [place - 0.4, place + 0.4], color=_GREY, linewidth=2)
            left.text(max(score, limit) + 0.06, place, f"{term['score']:.2f}", va="center", color=_GREY)
        left.axvline(1, color=_ALARM, linestyle="--", linewidth=1)
        left.set_yticks(range(len(terms)), [TITLES[term["name"]] for term in terms])
        left.invert_yaxis()
        left.set_xlim(0, _WIDEST_SCORE + 0.5)
        left.set_xlabel("score; dashed: threshold, bar: what chance reaches")
        for name, colour, label in (("data_drift", _AFTER, "data"), ("model_drift", _BEFORE, "model")):
            scores = [min(past[name], _WIDEST_SCORE) for past in history]
            right.plot(range(1, len(history) + 1), scores, marker="o", markersize=3, color=colour, label=label)
        retrained = [place for place, past in enumerate(history, start=1) if past["retrain"]]
        scores = [min(history[place - 1]["score"], _WIDEST_SCORE) for place in retrained]
        right.plot(retrained, scores, "o", color=_ALARM, label="retrain")
        right.axhline(1, color=_ALARM, linestyle="--", linewidth=1)
        right.set_ylim(0, _WIDEST_SCORE + 0.2)
        right.xaxis.get_major_locator().set_params(integer=True)
        right.set_xlabel(f"the last {len(history)} runs")
        right.legend(frameon=False, fontsize=8)
        _soften(left, right)
    return figure


def _distributions_figure(compared: Mapping[str, Any]) -> Figure:
    """Shares by bin, before and after."""
    import matplotlib as mpl
    import numpy as np
    from matplotlib.figure import Figure

    shown = [name for name in TITLES if sum(compared["new"][name]) and sum(compared["reference"][name])]
    with mpl.rc_context(_STYLE):
        rows = -(-len(shown) // 2)
        figure = Figure(figsize=(9, 2.1 * rows), layout="constrained")
        grid = figure.subplots(rows, 2, squeeze=False).flatten()
        for axes, name in zip(grid, shown, strict=False):
            before, after = (np.array(compared[side][name]) for side in ("reference", "new"))
            if name == drift.ITEMS:  # the most popular ones are what a person can read
                before, after = before[:50] / before.sum(), after[:50] / after.sum()
            else:
                before, after = before / before.sum(), after / after.sum()
            used = np.flatnonzero(before + after)
            kept = slice(0, int(used.max(initial=0)) + 1)
            place = np.arange(len(before[kept]))
            axes.bar(place - 0.2, before[kept], 0.4, color=_BEFORE, label="trained on")
            axes.bar(place + 0.2, after[kept], 0.4, color=_AFTER, label="new")
            axes.set_title(TITLES[name], fontsize=9, color=_GREY)
            labels = _labels(name, compared, len(place))
            step = max(1, len(labels) // 10)
            axes.set_xticks(place[::step], labels[::step])
        for axes in grid[len(shown) :]:
            axes.set_axis_off()
        grid[0].legend(frameon=False, fontsize=8)
        _soften(*grid)
    return figure


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


def _soften(*all_axes: Axes) -> None:
    for axes in all_axes:
        axes.tick_params(colors=_GREY)
        for side in axes.spines.values():
            side.set_color("#80808080")


def _svg(figure: Figure) -> str:
    import matplotlib as mpl

    drawing = io.StringIO()
    with mpl.rc_context(_STYLE):
        figure.savefig(drawing, format="svg", transparent=True, metadata={"Date": None})
    text = drawing.getvalue()
    return text[text.index("<svg") :]
