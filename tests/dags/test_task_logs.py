"""Task logs in Elasticsearch, by Airflow's own provider with the variables of `.env`; a stand-in for the server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from elasticsearch import Elasticsearch

from tests.elasticsearch_server import ElasticsearchServer

if TYPE_CHECKING:
    from collections.abc import Iterator

# What the README says.
VARIABLES = {
    "AIRFLOW__LOGGING__REMOTE_LOGGING": "True",
    "AIRFLOW__ELASTICSEARCH__WRITE_TO_ES": "True",
    "AIRFLOW__ELASTICSEARCH__JSON_FORMAT": "True",
    "AIRFLOW__ELASTICSEARCH__TARGET_INDEX": "airflow-logs",
    "AIRFLOW__ELASTICSEARCH__INDEX_PATTERNS": "airflow-logs*",
}
CONFIG = Path(__file__).resolve().parents[2] / "config"

# The task's supervisor uploads a log when the task has ended; the UI reads it back.
SCRIPT = """
import json, sys
from types import SimpleNamespace
from airflow.logging_config import configure_logging, get_remote_task_log

configure_logging()
logs = get_remote_task_log()
tis = {}
for dag, run, task, number, path in json.loads(sys.argv[1]):
    ti = SimpleNamespace(dag_id=dag, run_id=run, task_id=task, map_index=-1, try_number=number, id="1", raw=False)
    tis[f"{dag} {run} {task} {number}"] = ti
    if path:
        logs.upload(path, ti)
read = {name: logs.read("", ti) for name, ti in tis.items()}
print("READ" + json.dumps(read))
"""


@pytest.fixture
def elastic() -> Iterator[ElasticsearchServer]:
    with ElasticsearchServer() as server:
        yield server


def upload(elastic: ElasticsearchServer, folder: Path, *tasks: tuple[str, str, str, int, str]) -> dict[str, Any]:
    config = ConfigParser(interpolation=None)
    config.read(CONFIG / "airflow.cfg")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(tasks)],
        env=os.environ
        | VARIABLES
        | {
            "AIRFLOW_HOME": str(folder),
            "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(folder / "logs"),
            "AIRFLOW__ELASTICSEARCH__HOST": elastic.url,
            "AIRFLOW__ELASTICSEARCH__LOG_ID_TEMPLATE": config["elasticsearch"]["log_id_template"],
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    (answer,) = [line for line in done.stdout.splitlines() if line.startswith("READ")] or [done.stdout + done.stderr]
    read: dict[str, Any] = json.loads(answer.removeprefix("READ"))
    return read


def log_file(folder: Path, name: str, *events: str) -> str:
    path = folder / "logs" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        {"timestamp": "2026-11-22T00:00:00Z", "level": "info", "event": event, "logger": "task"} for event in events
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return name


def test_a_log_is_read_back_and_found_by_dag_and_run(elastic: ElasticsearchServer, tmp_path: Path) -> None:
    template = json.loads((CONFIG / "elasticsearch" / "airflow-logs.json").read_bytes())["template"]
    with Elasticsearch(elastic.url) as client:
        client.indices.create(index="airflow-logs", **template)
    run, later = "scheduled__2026-11-22T00:00:00+00:00", "scheduled__2026-11-23T00:00:00+00:00"
    read = upload(
        elastic,
        tmp_path,
        ("catalogue_refresh", run, "scraping_task", 1, log_file(tmp_path, "a.log", "page 1", "429: waiting")),
        ("catalogue_refresh", run, "postgres_task", 1, log_file(tmp_path, "b.log", "3 items are new")),
        ("catalogue_refresh", later, "scraping_task", 1, log_file(tmp_path, "c.log", "page 1 again")),
        ("my-catalogue_refresh", run, "scraping_task", 1, log_file(tmp_path, "d.log", "of another DAG")),
        ("catalogue_refresh", run, "scraping_task", 2, ""),
    )
    _, messages = read[f"catalogue_refresh {run} scraping_task 1"]
    # Were ids words, as they are without the template, those of the other DAG would have them all, too.
    assert [json.loads(line)["event"] for line in messages] == ["page 1", "429: waiting"]
    _, messages = read[f"catalogue_refresh {run} scraping_task 2"]
    assert "not found in Elasticsearch" in messages[0]
    with Elasticsearch(elastic.url) as client:

        def search(prefix: str) -> list[str]:
            answer = client.search(
                index="airflow-logs", query={"prefix": {"log_id.keyword": {"value": prefix}}}, size=100
            )
            return sorted(hit["_source"]["event"] for hit in answer["hits"]["hits"])

        assert search("catalogue_refresh/") == ["3 items are new", "429: waiting", "page 1", "page 1 again"]
        assert search(f"catalogue_refresh/{run}/") == ["3 items are new", "429: waiting", "page 1"]
        assert search(f"catalogue_refresh/{later}/scraping_task/") == ["page 1 again"]


def test_the_lines_of_a_log_stay_on_disk_while_elasticsearch_is_away(
    elastic: ElasticsearchServer, tmp_path: Path
) -> None:
    elastic.broken = 503
    name = log_file(tmp_path, "a.log", "page 1")
    done = upload(elastic, tmp_path, ("shop", "run", "task", 1, name))
    assert "not found in Elasticsearch" in done["shop run task 1"][1][0]
    assert (tmp_path / "logs" / name).exists()
