"""The wrapper that puts secrets into the environment of a service."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

WRAPPER = Path(__file__).resolve().parents[2] / "compose" / "with-secrets"


def test_an_empty_variable_of_airflow_is_left_to_its_ui() -> None:
    given = {"AIRFLOW_VAR_IS_DEVELOPMENT": "", "AIRFLOW_VAR_DEV_SKIP_MODEL": "true", "EMPTY": ""}

    shown = subprocess.run(
        [str(WRAPPER), "env"], env={"PATH": os.environ["PATH"], **given}, capture_output=True, text=True, check=True
    ).stdout.splitlines()

    assert {line for line in shown if line.startswith(("AIRFLOW_VAR_", "EMPTY"))} == {
        "AIRFLOW_VAR_DEV_SKIP_MODEL=true",
        "EMPTY=",
    }
