"""One stack for all tests of the containers."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.compose.stack import Airflow, Stack

if TYPE_CHECKING:
    from collections.abc import Iterator

# What runs in the stack, not here.
collect_ignore = ["dags"]

# Every fourth customer is enough: what takes the time is the number of steps, not of rows.
SAMPLE = "data/raw/sample.parquet"


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """The stack as `docker compose up --build` makes it, on a sample of the bundled data."""
    with tempfile.TemporaryDirectory(prefix="shortlist-compose-", ignore_cleanup_errors=True) as folder:
        stack = Stack(Path(folder), f"shortlist-test-{os.getpid()}", {"SHORTLIST_INPUT": f"/opt/airflow/{SAMPLE}"})
        _write_sample(stack.folder)
        try:
            stack.up()
            yield stack
        finally:
            logs = stack.compose("logs", "--no-color", check=False).stdout
            Path(tempfile.gettempdir(), "shortlist-compose.log").write_text(logs, encoding="utf-8")
            stack.compose("--profile", "*", "down", "--volumes", "--remove-orphans", check=False)
            stack.command("docker", "image", "rm", f"{stack.name}-airflow", f"{stack.name}-mlflow", check=False)


@pytest.fixture(scope="session")
def airflow(stack: Stack) -> Airflow:
    return Airflow(stack.settings["PORT"], stack.secrets()["ADMIN_PASSWORD"])


def _write_sample(folder: Path) -> None:
    import numpy as np
    import pyarrow.parquet as pq

    rows = pq.read_table(folder / "sample_data/online_retail.parquet")
    customers = rows["CustomerID"].to_numpy()
    kept = np.where(np.isnan(customers), np.arange(rows.num_rows), customers) % 4 == 0
    (folder / SAMPLE).parent.mkdir(parents=True)
    pq.write_table(rows.filter(kept), folder / SAMPLE)
