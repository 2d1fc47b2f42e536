"""The demo: the real DAG files, from interaction files to served tables."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedded import dag_runs, summary
from shortlist.settings import load_settings

if TYPE_CHECKING:
    from embedded.progress import Progress

# Airflow is told the order here; in the UI and in production the schedules and a sensor keep it.
DAG_IDS = (
    "etl_train_test_pipeline",
    "load_default_recs",
    "load_online_recs",
    "load_candidates_train",
    "load_candidates_inference",
    "load_candidates_ranked",
)


def run_demo(data: str | None, config: str | None) -> int:
    """Run all DAGs, print the results and write `data/summary.json`.

    Args:
        data: Interaction file, folder or glob instead of `[input].path`.
        config: Settings file instead of `config/pipeline.toml`.

    Returns:
        The exit code: 0, 1 after an error, 130 after an interrupt.
    """
    if data:
        os.environ["SHORTLIST_INPUT"] = data if "://" in data else str(Path(data).absolute())
    if config:
        os.environ["SHORTLIST_CONFIG"] = str(Path(config).absolute())
    return dag_runs.run_command("demo", _run, summary.show, interrupted="What was served before is still served.")


def _run(folder: Path, progress: Progress) -> dict[str, Any]:
    settings = load_settings()
    with dag_runs.airflow(folder, progress, with_database=True) as dags:
        for dag_id in DAG_IDS:
            run = dags.run(dag_id)
        ranker_path = run.get_task_instance("train_ranker").xcom_pull(task_ids="train_ranker")
        progress.group("results")
        with progress.step("report"):
            results = summary.collect(
                settings, dags.database_url, ranker_path=ranker_path, started=dags.started, seconds=progress.seconds
            )
            summary.write(settings, results)
        return results
