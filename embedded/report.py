"""The HTML report of a run: one file, no network."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from shortlist.reports.plots import MODELS

METRICS = {
    "ndcg@10": "NDCG@10",
    "recall@10": "recall@10",
    "map@10": "MAP@10",
    "hit_rate@10": "hit rate@10",
    "coverage@10": "coverage",
}


def render(results: dict[str, Any]) -> str:
    """Return the page for the results of a run, as in `data/summary.json`."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    plot = Markup(_plot(results["evaluation"]["models"]))  # noqa: S704 - drawn here, from numbers
    return environment.get_template("report.html.j2").render(results, models=MODELS, metrics=METRICS, plot=plot)


def _plot(models: dict[str, Any]) -> str:
    """Draw NDCG@10 with its interval for every model, as SVG that suits a light and a dark page."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    shown = [(name, models[model]["ndcg@10"]) for model, name in MODELS.items() if model in models]
    with mpl.rc_context({"svg.fonttype": "none", "text.color": "#808080", "axes.labelcolor": "#808080"}):
        figure = Figure(figsize=(7, 2.2), layout="constrained")
        axes = figure.subplots()
        means = [value["mean"] for _, value in shown]
        below = [value["mean"] - value["low"] for _, value in shown]
        above = [value["high"] - value["mean"] for _, value in shown]
        axes.errorbar(means, range(len(shown)), xerr=[below, above], fmt="o", color="#3b82f6", capsize=4)
        axes.set_yticks(range(len(shown)), [name for name, _ in shown])
        axes.set_ylim(len(shown) - 0.5, -0.5)
        axes.set_xlim(left=0)
        axes.set_xlabel("NDCG@10")
        axes.tick_params(colors="#808080")
        for side in axes.spines.values():
            side.set_color("#80808080")
        drawing = io.StringIO()
        figure.savefig(drawing, format="svg", transparent=True, metadata={"Date": None})
    text = drawing.getvalue()
    return text[text.index("<svg") :]
