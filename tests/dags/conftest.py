"""Airflow runs in processes of its own here: it changes logging and warnings of the process that loads it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

PROJECT = Path(__file__).resolve().parents[2]
PROBES = Path(__file__).parent / "probes"

collect_ignore_glob = ["probes/*"]


@pytest.fixture(scope="session")
def run_probe(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Run a script of `probes/` with an Airflow home of its own; returns the JSON it writes, and its output."""

    def run(script: str, dags_folder: Path, **environment: str) -> Any:
        home = tmp_path_factory.mktemp("airflow")
        finished = subprocess.run(
            [sys.executable, PROBES / script],
            env=os.environ
            | {
                "AIRFLOW_HOME": str(home),
                "AIRFLOW__CORE__DAGS_FOLDER": str(dags_folder),
                "AIRFLOW__CORE__PLUGINS_FOLDER": str(PROJECT / "plugins"),
                "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
                "DATA_ROOT": str(home / "root"),
                "PROBE_RESULT": str(home / "result.json"),
                **environment,
            },
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert finished.returncode == 0, finished.stdout + finished.stderr
        return json.loads((home / "result.json").read_text()) | {"output": finished.stdout + finished.stderr}

    return run


@pytest.fixture(scope="session")
def bag(run_probe: Callable[..., Any]) -> Any:
    """What a dag-processor sees in `dags/`."""
    return run_probe("describe_dags.py", PROJECT / "dags")
