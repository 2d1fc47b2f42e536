"""Runs of DAGs without servers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]

RUN = """
from io import StringIO
from rich.console import Console
from embedded.dag_runs import Dags, TaskFailedError
from embedded.progress import Progress

dags = Dags(Progress(Console(file=StringIO())), "")
for dag_id in ("load_candidates_ranked", "etl_train_test_pipeline"):
    try:
        dags.run(dag_id)
    except TaskFailedError as refused:
        print(refused)
"""


def test_dags_that_ask_a_person_are_refused_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text("[gate]\napproval = true\n", encoding="utf-8")
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "PYTHONPATH": f"{PROJECT / 'plugins'}:{PROJECT}",
        "AIRFLOW_HOME": str(tmp_path),
        "AIRFLOW__CORE__DAGS_FOLDER": str(PROJECT / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "SHORTLIST_CONFIG": str(tmp_path / "settings.toml"),
    }
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        cwd=PROJECT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if "[gate].approval" in line]
    assert lines == [
        f"[gate].approval asks a person before anything is published, and {dag_id} can ask nobody here: run it in the"
        " Airflow UI (make ui), or set approval = false"
        for dag_id in ("load_candidates_ranked", "etl_train_test_pipeline")
    ], done.stderr[-2000:]
