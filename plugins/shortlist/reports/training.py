"""The report of a training: how good it is against baselines, for whom, on what data, and what it took."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from shortlist.reports import drift, plots
from shortlist.reports.drawing import AFTER, ALARM, GREY, png, soften, svg
from shortlist.reports.pages import page, value

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from markupsafe import Markup
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from shortlist.recommender.diagnostics import Curves

METRICS: Final = {
    "ndcg": "NDCG",
    "recall": "recall",
    "map": "MAP",
    "precision": "precision",
    "hit_rate": "hit rate",
}
SEGMENTS: Final = {
    "new": "new users, whom no model has met, all get the most popular items",
    "light": "light users have up to the median of items so far",
    "heavy": "heavy users more",
}

_HEADLINE: Final = "ndcg@10"
_SHORT_LISTED: Final = 12
_SHOWN_DECISIONS: Final = 6
_LONGEST_NAME: Final = 15
_MARKERS: Final = {"popular": "s", "similar_to_last": "^", "als": "o", "ranker": "D"}
_NARROW, _WIDE = (3.7, 2.6), (4.4, 2.9)


@dataclass(frozen=True)
class Training:
    """What is known of an evaluated version.

    Attributes:
        title: Such as `Training version_20261121T000000`.
        model: The one whose metrics speak for the version: `als` or `ranker`.
        manifest: Of the version.
        metrics: As `evaluation.evaluate` returns them, with `window`, `gate` and, of a ranker, `difference`.
        outcome: One sentence: what became of the version.
        curves: What the lists are like.
        rows: The ETL's report, where it is of the same data.
        segments: Those that the metrics lack, such as new users in front of a ranker.
        decisions: About retraining, oldest first.
        seconds: `task` and `seconds` of each task so far, in order.
        confidence: Of the intervals.
    """

    title: str
    model: str
    manifest: Mapping[str, Any]
    metrics: Mapping[str, Any]
    outcome: str
    curves: Curves | None = None
    rows: Mapping[str, Any] | None = None
    segments: Mapping[str, Any] = field(default_factory=dict)
    decisions: Sequence[Mapping[str, Any]] = ()
    seconds: Sequence[Mapping[str, Any]] = ()
    confidence: float = 0.95


def headline(training: Training) -> str:
    """Return the result in one sentence."""
    models = training.metrics["models"]
    own = models[training.model][_HEADLINE]
    rivals = {name: model[_HEADLINE]["mean"] for name, model in models.items() if name != training.model}
    told = (
        f"NDCG@10 {value(own['mean'])} ({value(own['low'])} to {value(own['high'])}) by {plots.MODELS[training.model]}"
    )
    if rivals:
        best = max(rivals, key=lambda name: rivals[name])
        told += f", best baseline {plots.MODELS[best]} {value(rivals[best])}"
    return f"{told}; the gate {'passed' if training.metrics['gate']['passed'] else 'refused'}"


def render(training: Training) -> str:
    """Return the page."""
    metrics = training.metrics
    lengths = sorted({int(name.partition("@")[2]) for name in metrics["models"][training.model]})
    segments = {
        name: found
        for name in SEGMENTS
        if (found := metrics.get("segments", {}).get(name) or training.segments.get(name))
    }
    return page(
        "training.html.j2",
        training=training,
        headline=headline(training),
        lengths=lengths,
        metrics=METRICS | {"coverage": "coverage"},
        models={name: plots.MODELS[name] for name, _ in plots.in_order(metrics["models"])},
        colours=plots.COLOURS,
        segments=segments,
        segment_titles=SEGMENTS,
        differences=_differences(training),
        negatives=plots.promise(training.manifest["parameters"]["negatives"])
        if training.curves and training.curves.calibration
        else "",
        importance=sorted(metrics.get("importance", {}).items(), key=lambda pair: -pair[1]),
        short_listed=_SHORT_LISTED,
        decisions=training.decisions[-_SHOWN_DECISIONS:][::-1],
        plots=_plots(training, lengths, segments),
    )


def picture(training: Training) -> bytes:
    """Return quality with intervals as PNG, for a message."""

    def draw(figure: Figure) -> None:
        for axes, metric in zip(figure.subplots(1, 2), ("ndcg", "recall"), strict=True):
            _draw_models(axes, {name: model[f"{metric}@10"] for name, model in training.metrics["models"].items()})
            axes.set_xlabel(f"{METRICS[metric]}@10, {training.confidence:.0%} interval")
            soften(axes)

    return png(draw, size=(9, 2.8))


def _plots(training: Training, lengths: Sequence[int], segments: Mapping[str, Any]) -> dict[str, Markup]:
    models = training.metrics["models"]
    spoken = f"k = {', '.join(str(k) for k in lengths)}"
    drawn = {
        metric: _plot(
            partial(_draw_metric, models=models, metric=metric, lengths=lengths),
            f"{title} at {spoken}",
            _NARROW,
        )
        for metric, title in METRICS.items()
    }
    if differences := _differences(training):
        drawn["difference"] = _plot(
            partial(_draw_differences, differences=differences, allowed=-training.metrics["gate"]["tolerance"]),
            "Difference in NDCG@10 from each rival",
            _NARROW,
        )
    if segments:
        drawn["segments"] = _plot(partial(_draw_segments, segments=segments), "NDCG@10 by segment of users", _WIDE)
    if curves := training.curves:
        of_curves: dict[str, tuple[str, Callable[[Axes], None]]] = {
            "coverage": ("Coverage by length of the list", partial(plots.draw_coverage, coverage=curves.coverage)),
            "trade": ("Precision and recall", partial(plots.draw_precision_recall, curves=curves.precision_recall)),
        }
        if curves.popularity:
            draw = partial(plots.draw_popularity, percentiles=curves.popularity)
            of_curves["popularity"] = ("Popularity of what is recommended", draw)
        if curves.calibration:
            draw = partial(plots.draw_reliability, calibration=curves.calibration)
            of_curves["calibration"] = ("Calibration of the ranker", draw)
        drawn |= {name: _plot(draw, label, _WIDE) for name, (label, draw) in of_curves.items()}
    if importance := training.metrics.get("importance"):
        size = (_WIDE[0], 0.7 + 0.19 * len(importance))
        drawn["importance"] = _plot(
            partial(plots.draw_importance, importance=importance), "Importance of the features", size
        )
    if training.decisions:
        drawn["drift"] = _plot(
            partial(drift.draw_history, history=training.decisions), "Drift scores of the last runs", _WIDE
        )
    if training.rows:
        counts = {"accepted": training.rows["accepted"]} | training.rows.get("rejected", {})
        drawn["rows"] = _plot(
            partial(_draw_bars, counts=counts, written="{:,.0f}".format, unit="rows"),
            "Rows accepted and rejected",
            (_WIDE[0], 0.8 + 0.28 * len(counts)),
        )
    if training.seconds:
        seconds = {step["task"]: step["seconds"] for step in training.seconds}
        drawn["seconds"] = _plot(
            partial(_draw_bars, counts=seconds, written="{:,.1f}".format, unit="seconds"),
            "Seconds of each task",
            (_WIDE[0], 0.8 + 0.28 * len(seconds)),
        )
    return drawn


def _plot(draw: Callable[[Axes], None], label: str, size: tuple[float, float]) -> Markup:
    def draw_softly(figure: Figure) -> None:
        axes = figure.subplots()
        draw(axes)
        soften(axes)

    return svg(draw_softly, label=label, size=size)


def _differences(training: Training) -> dict[str, Mapping[str, float]]:
    """NDCG@10 of the version minus that of each rival, by the names that people see."""
    if differences := training.metrics.get("difference"):
        return {plots.MODELS.get(name, name): interval for name, interval in differences.items()}
    gate = training.metrics["gate"]
    return {f"the champion {gate['champion']}": gate["difference"]} if "difference" in gate else {}


def _draw_metric(axes: Axes, models: Mapping[str, Any], metric: str, lengths: Sequence[int]) -> None:
    """A point with its interval for each model and length, side by side."""
    shown = plots.in_order(models)
    for number, (name, model) in enumerate(shown):
        points = [(place, model[f"{metric}@{k}"]) for place, k in enumerate(lengths) if f"{metric}@{k}" in model]
        _draw_intervals(axes, name, [(place + 0.16 * (number - (len(shown) - 1) / 2), of) for place, of in points])
    axes.set_xticks(range(len(lengths)), [f"@{k}" for k in lengths])
    axes.set_xlim(-0.5, len(lengths) - 0.5)
    axes.set_ylim(bottom=0)
    axes.grid(visible=True, axis="y", alpha=0.25)


def _draw_segments(axes: Axes, segments: Mapping[str, Any]) -> None:
    for place, segment in enumerate(segments.values()):
        shown = plots.in_order(segment["models"])
        for number, (name, model) in enumerate(shown):
            shift = 0.16 * (number - (len(shown) - 1) / 2)
            _draw_intervals(axes, name, [(place + shift, model[_HEADLINE])])
    names = [f"{name}\n{segment['users']:,} users" for name, segment in segments.items()]
    axes.set_xticks(range(len(segments)), names)
    axes.set_xlim(-0.5, len(segments) - 0.5)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("NDCG@10")
    axes.grid(visible=True, axis="y", alpha=0.25)


def _draw_intervals(axes: Axes, model: str, points: Sequence[tuple[float, Mapping[str, float]]]) -> None:
    means = [of["mean"] for _, of in points]
    below = [of["mean"] - of["low"] for _, of in points]
    above = [of["high"] - of["mean"] for _, of in points]
    style: Any = {"color": plots.COLOURS[model], "markersize": 5, "capsize": 2}
    axes.errorbar([place for place, _ in points], means, yerr=[below, above], fmt=_MARKERS[model], **style)


def _draw_differences(axes: Axes, differences: Mapping[str, Mapping[str, float]], allowed: float) -> None:
    """One rival a line; an interval that reaches beyond the dashed line is refused."""
    for place, of in enumerate(differences.values()):
        error = [[of["mean"] - of["low"]], [of["high"] - of["mean"]]]
        axes.errorbar(of["mean"], place, xerr=error, fmt="o", color=AFTER, markersize=5, capsize=3)
    axes.axvline(0, color=GREY, linewidth=1)
    axes.axvline(allowed, color=ALARM, linestyle="--", linewidth=1)
    names = [name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}…" for name in differences]
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel("dashed: as much worse is allowed")
    axes.locator_params(axis="x", nbins=4)


def _draw_models(axes: Axes, values: Mapping[str, Mapping[str, float]]) -> None:
    """One model a line, with its name: where no legend stands beside."""
    shown = plots.in_order(values)
    for place, (name, of) in enumerate(shown):
        error = [[of["mean"] - of["low"]], [of["high"] - of["mean"]]]
        axes.errorbar(of["mean"], place, xerr=error, fmt=_MARKERS[name], color=plots.COLOURS[name], capsize=4)
        axes.annotate(
            value(of["mean"]), (of["mean"], place), xytext=(0, 7), textcoords="offset points", ha="center", color=GREY
        )
    axes.set_yticks(range(len(shown)), [plots.MODELS[name] for name, _ in shown])
    axes.set_ylim(len(shown) - 0.5, -0.7)
    axes.set_xlim(left=0)


def _draw_bars(axes: Axes, counts: Mapping[str, float], written: Callable[[float], str], unit: str) -> None:
    """Horizontal bars with their numbers; what was accepted in another colour than what was rejected."""
    colours = [ALARM if unit == "rows" and name != "accepted" else AFTER for name in counts]
    bars = axes.barh(list(counts), list(counts.values()), color=colours, height=0.65)
    axes.bar_label(bars, [written(number) for number in counts.values()], padding=4, color=GREY, fontsize=8)
    axes.set_ylim(len(counts) - 0.5, -0.5)
    axes.margins(x=0.18)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(lambda number, _: f"{number:,.0f}")
    axes.locator_params(axis="x", nbins=4)
    axes.set_xlabel(unit)
