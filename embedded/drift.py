"""Takes new feedback in and decides about a retraining, by the DAG `drift_detection_retrain_pipeline`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from embedded import dag_runs

if TYPE_CHECKING:
    from rich.console import Console

    from embedded.progress import Progress

DAG_ID = "drift_detection_retrain_pipeline"


def run_drift(config: str | None) -> int:
    """Run the DAG once and print the decision.

    Args:
        config: Settings file instead of `config/pipeline.toml`.

    Returns:
        The exit code: 0, 1 after an error, 130 after an interrupt.
    """
    if config:
        os.environ["SHORTLIST_CONFIG"] = str(Path(config).absolute())

    def work(folder: Path, progress: Progress) -> dict[str, Any] | None:
        with dag_runs.airflow(folder, progress, with_database=False) as dags:
            run = dags.run(DAG_ID)
            decided = run.get_task_instance("check_retrain")
            decision: dict[str, Any] | None = decided.xcom_pull(task_ids="check_retrain", key="retrain_decision")
            return decision

    return dag_runs.run_command("drift", work, show, interrupted="The next call goes on where this one stopped.")


def show(console: Console, decision: dict[str, Any] | None) -> None:
    """Print the decision with every term, or that there was nothing to decide."""
    if decision is None:
        console.print("\nThere is no new feedback in data/streaming: nothing was done.")
        return
    head = "Retrained" if decision["retrain"] else "The model stays"
    console.print(Text(f"\n{head}: {decision['reason']}."), soft_wrap=True)
    terms = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for name in ("term", "score", "chance reaches"):
        terms.add_column(name, justify="left" if name == "term" else "right")
    for term in decision["terms"]:
        style = "bold red" if term["drifted"] else None
        terms.add_row(term["name"], f"{term['score']:.2f}", f"{term['limit']:.2f}", style=style)
    console.print(terms)
    console.print(Text(f"Report: {decision['report']}"), soft_wrap=True)
