"""Searches better settings on the data of the last run, by the DAG `tune`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from embedded import dag_runs
from shortlist.settings import settings_file
from shortlist.stores.studies import TRIALS

if TYPE_CHECKING:
    from rich.console import Console

    from embedded.progress import Progress


def run_tune(minutes: float | None, trials: int | None, config: str | None) -> int:
    """Run the search and print what it found.

    Args:
        minutes: Budget of this call instead of `[tune].minutes`.
        trials: At most, with those of earlier calls, instead of `[tune].trials`.
        config: Settings file instead of `config/pipeline.toml`.

    Returns:
        The exit code: 0, 1 after an error, 130 after an interrupt.
    """
    if config:
        os.environ["SHORTLIST_CONFIG"] = str(Path(config).absolute())
    conf = {name: value for name, value in (("minutes", minutes), ("trials", trials)) if value is not None}

    def work(folder: Path, progress: Progress) -> dict[str, Any]:
        with dag_runs.airflow(folder, progress, with_database=False) as dags:
            run = dags.run("tune", conf)
            result: dict[str, Any] = run.get_task_instance("tune_recommender").xcom_pull(task_ids="tune_recommender")
            return result

    return dag_runs.run_command("tune", work, show, interrupted="The next call goes on where this one stopped.")


def show(console: Console, result: dict[str, Any]) -> None:
    """Print the outcome, what would change, and where everything lies."""
    outcome = result["outcome"]
    console.print(Text(f"\n{outcome[0].upper()}{outcome[1:]}."), soft_wrap=True)
    if result["proposal"]:
        changes = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
        for name in ("setting", "in use", "proposed"):
            changes.add_column(name, justify="left" if name == "setting" else "right")
        for name, values in result["changed"].items():
            changes.add_row(name, *(str(value) for value in values))
        console.print(changes)
        console.print(Text(f"To accept it: mv {result['proposal']} {settings_file()}"), soft_wrap=True)
    console.print(Text(f"All trials, {result['seconds_per_trial']} s each: {result['study']}/{TRIALS}"), soft_wrap=True)
