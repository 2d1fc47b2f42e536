"""Changes while the stack runs: files to serve and DAGs are live within a minute, step code after `make reload`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from tests.compose.stack import log_of_a_changed_step, wait_for

if TYPE_CHECKING:
    from tests.compose.stack import Airflow, Stack


def test_a_new_file_is_served_without_a_rebuild(stack: Stack, airflow: Airflow) -> None:
    folder = stack.folder / "postgres_data"
    exported = folder / "default_recs.parquet"
    exported.rename(folder / "exported.parquet")
    try:
        items = [item for (item,) in stack.sql("SELECT item_id FROM default_recs ORDER BY rank DESC")]
        rows = [f"{rank},{item},{1 / rank:.6f}" for rank, item in enumerate(items, start=1)]
        (folder / "default_recs.csv").write_text("\n".join(["rank,item_id,score", *rows]) + "\n")
        run_id = airflow.trigger("load_default_recs")
        assert airflow.wait("load_default_recs", run_id, seconds=60) == "success"
        assert stack.sql("SELECT item_id FROM default_recs ORDER BY rank LIMIT 2") == [[items[0]], [items[1]]]
    finally:
        (folder / "default_recs.csv").unlink(missing_ok=True)
        (folder / "exported.parquet").rename(exported)


def test_new_and_changed_dags_are_live(stack: Stack, airflow: Airflow) -> None:
    for file in Path(__file__).with_name("dags").glob("*.py"):
        shutil.copy(file, stack.folder / "dags")

    def tags() -> list[str]:
        found = airflow.get("dags?dag_id_pattern=submitted")["dags"]
        return [tag["name"] for tag in found[0]["tags"]] if found else []

    wait_for(lambda: tags() == ["first"], "the new DAG", 60)
    file = stack.folder / "dags" / "submitted.py"
    file.write_text(file.read_text().replace('"first"', '"second"'))
    wait_for(lambda: tags() == ["second"], "the changed DAG", 60)


def test_changed_step_code_is_live_after_a_reload(stack: Stack, airflow: Airflow) -> None:
    assert "this is the changed step" in log_of_a_changed_step(stack, airflow)
