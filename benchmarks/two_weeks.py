"""Two weeks of MovieLens 1M, day by day, through the DAG that watches for drift.

A model is trained on all ratings before the first day, by `etl_train_test_pipeline`. Then each day's ratings are put
into `data/streaming/` and `drift_detection_retrain_pipeline` runs as it would that evening: the real DAG, its gate, one
Spark, the default thresholds and, but for what describes the files, the default settings. On 19 November 2000 ten times
as many people as before begin to rate.

    PYTHONPATH=plugins python -m benchmarks.two_weeks --data ratings.parquet
    PYTHONPATH=plugins python -m benchmarks.two_weeks --plot     # draws docs/two_weeks.svg from the result again
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from embedded import dag_runs, home
from embedded.progress import Progress, quiet_output
from shortlist.reports import drift as report
from shortlist.settings import load_settings
from shortlist.stores import drift_records, files, model_versions

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PROJECT = Path(__file__).resolve().parents[1]
RESULT = PROJECT / "benchmarks" / "results" / "two_weeks.json"
PLOT = PROJECT / "docs" / "two_weeks.svg"

FIRST_DAY = datetime(2000, 11, 13, tzinfo=UTC)
DAYS = 14

# Airflow runs nothing before a DAG's start date: all times are moved, by whole weeks.
MOVED = timedelta(weeks=1330)

SETTINGS = """
[input]
path = "{root}/before.parquet"
[input.columns]
user = "user_id"
item = "movie_id"
time = "timestamp"
weight = "rating"
[interactions]
time_format = "epoch_s"
min_weight = 1.0
max_weight = 5.0
repeated = "last"
weight_transform = "raw"
[streaming]
format = "parquet"
[streaming.columns]
user = "user_id"
item = "movie_id"
time = "timestamp"
weight = "rating"
"""


def main() -> None:
    """Run the two weeks, write `benchmarks/results/two_weeks.json` and draw `docs/two_weeks.svg`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="ratings.parquet of MovieLens 1M: user_id, movie_id, rating, timestamp")
    parser.add_argument("--plot", action="store_true", help="only draw")
    options = parser.parse_args()
    if not options.plot:
        with tempfile.TemporaryDirectory(prefix="two-weeks-") as folder:
            result = run(Path(folder), pd.read_parquet(options.data))
        RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    draw(json.loads(RESULT.read_text(encoding="utf-8")))


def run(root: Path, ratings: pd.DataFrame) -> dict[str, Any]:
    """Train, then give the DAG one day after the other. Returns what it decided on each."""
    ratings = ratings[["user_id", "movie_id", "rating", "timestamp"]]
    ratings = ratings.assign(timestamp=ratings.timestamp + int(MOVED.total_seconds()))
    first_day = FIRST_DAY + MOVED
    ratings[ratings.timestamp < first_day.timestamp()].to_parquet(root / "before.parquet")
    (root / "settings.toml").write_text(SETTINGS.format(root=root), encoding="utf-8")
    os.environ |= {
        "DATA_ROOT": str(root),
        "SHORTLIST_HOME": str(root / "home"),
        "SHORTLIST_CONFIG": str(root / "settings.toml"),
    }
    settings = load_settings()
    folder = home.home_folder()
    home.prepare(folder)
    days = []
    with quiet_output(root / "log.txt") as console:
        progress = Progress(console)
        with dag_runs.airflow(folder, progress, with_database=False) as dags:
            dags.run("etl_train_test_pipeline", run_after=first_day)
            for number in range(DAYS):
                day = first_day + timedelta(days=number)
                evening = day + timedelta(days=1)
                todays = ratings[ratings.timestamp.between(day.timestamp(), evening.timestamp(), inclusive="left")]
                (root / "data" / "streaming").mkdir(parents=True, exist_ok=True)
                todays.to_parquet(root / "data" / "streaming" / "current.parquet")
                started = time.monotonic()
                error = None
                try:
                    dags.run("drift_detection_retrain_pipeline", run_after=evening)
                except dag_runs.TaskFailedError as failure:
                    error = str(failure)
                    if "the gate" not in error:
                        raise
                days.append(
                    _outcome(settings, day - MOVED, len(todays), error) | {"seconds": round(time.monotonic() - started)}
                )
                print(days[-1], flush=True)
    return {"data": "MovieLens 1M", "first_day": FIRST_DAY.date().isoformat(), "days": days}


def _outcome(settings: Any, day: datetime, ratings: int, error: str | None) -> dict[str, Any]:  # noqa: ANN401
    decision = drift_records.history(settings.paths.drift, 1)[0]
    outcome = {
        "day": day.date().isoformat(),
        "ratings": ratings,
        "retrain": decision["retrain"],
        "reason": decision["reason"],
        "terms": {
            term["name"]: {
                "score": round(term["score"], 3),
                "limit": round(term["limit"], 3),
                "drifted": term["drifted"],
            }
            for term in decision["terms"]
        },
    }
    if decision["retrain"]:
        path = model_versions.find_latest(settings.paths.model_versions)
        metrics = files.read_json(f"{path}/{model_versions.METRICS}")
        outcome |= {"gate": metrics["gate"], "ndcg@10": metrics["models"]["als"]["ndcg@10"]}
    return outcome | ({"error": error} if error else {})


def draw(result: dict[str, Any]) -> None:
    """Draw ratings, terms and decisions by day."""
    import matplotlib as mpl
    import numpy as np
    from matplotlib.figure import Figure

    days = result["days"]
    names = [name for name in report.TITLES if any(name in day["terms"] for day in days)]
    scores = np.array([[day["terms"].get(name, {"score": np.nan})["score"] for day in days] for name in names])
    with mpl.rc_context({"font.size": 9, "svg.hashsalt": "two_weeks"}):
        figure = Figure(figsize=(9, 5), layout="constrained", facecolor="white")
        volume, terms = figure.subplots(2, 1, sharex=True, height_ratios=(1, 2))
        _draw_volume(volume, days)
        drawn = terms.imshow(np.clip(scores, 0, 4), aspect="auto", cmap="YlOrRd", vmin=0, vmax=4)
        for row, name in enumerate(names):
            for column, day in enumerate(days):
                if term := day["terms"].get(name):
                    terms.text(
                        column,
                        row,
                        f"{term['score']:.1f}",
                        ha="center",
                        va="center",
                        fontsize=8,
                        fontweight="bold" if term["drifted"] else "normal",
                        color="white" if term["score"] > 2.5 else "#334155",
                    )
        terms.set_yticks(range(len(names)), [report.TITLES[name] for name in names])
        terms.set_xticks(range(len(days)), [str(datetime.fromisoformat(day["day"]).day) for day in days])
        terms.set_xlabel(f"{FIRST_DAY:%B %Y}; bold: over the threshold and over chance")
        terms.tick_params(length=0)
        figure.colorbar(drawn, ax=terms, label="score, 1 is the threshold", pad=0.01)
        figure.savefig(PLOT, metadata={"Date": None})


def _draw_volume(axes: Axes, days: list[dict[str, Any]]) -> None:
    colours = {"stays": "#94a3b8", "retrained, new champion": "#22c55e", "retrained, refused by the gate": "#ef4444"}
    outcomes = [
        "stays"
        if not day["retrain"]
        else ("retrained, new champion" if day["gate"]["passed"] else "retrained, refused by the gate")
        for day in days
    ]
    for outcome, colour in colours.items():
        at = [index for index, each in enumerate(outcomes) if each == outcome]
        if at:
            axes.bar(at, [days[index]["ratings"] for index in at], color=colour, label=outcome)
    axes.set_ylabel("ratings")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper left")


if __name__ == "__main__":
    main()
