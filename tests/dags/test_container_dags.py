"""Real runs of the DAGs of containers under `dag.test()`, on an engine that only pretends: which branch, and why.

A DAG that triggers another is only watched asking for it: waiting needs a triggerer and a scheduler, which
tests/compose has.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.fake_engine import Container, FakeEngine

if TYPE_CHECKING:
    from collections.abc import Callable

DAGS = Path(__file__).resolve().parents[2] / "dags"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
DATA_SET = {"dataset_commit": COMMIT, "input_path": f"/opt/airflow/jobs-data/{COMMIT}"}
NEW_DATA = "New data was transformed"
MISMATCH = "File counts differ between the dataset commit and master"
DATABASE_URL = "postgresql://recs:s3cr3t-pass@postgres:5432/recs"
AWS_SECRET = "aws-s3cr3t-key"  # noqa: S105

NOTHING = 99
FAILS = 1
GIVEN = {
    "run_transform": {"new_data": True, "rows": 10},
    "load_processed": {"commit": COMMIT, "files": 2, "changed": True},
    "run_model_trigger": {"mismatch": True, "reason": "2 files more", **DATA_SET},
}

INTERACTIONS = {"dag": "interactions_transform"}
MODEL = {"dag": "model_trigger_dag"}
CASES: dict[str, dict[str, Any]] = {
    "catalogue": {"dag": "catalogue_refresh"},
    "no search": {"dag": "catalogue_refresh", "elastic_task": NOTHING},
    "no crawl": {"dag": "catalogue_refresh", "scraping_task": NOTHING},
    "bad crawl": {"dag": "catalogue_refresh", "scraping_task": FAILS},
    "bad search": {"dag": "catalogue_refresh", "elastic_task": FAILS},
    "new data": INTERACTIONS,
    "nothing new": INTERACTIONS | {"run_transform": {"new_data": False}},
    "phrase only": INTERACTIONS | {"run_transform": f"INFO {NEW_DATA}: 10 rows"},
    "neither": INTERACTIONS | {"run_transform": "10 rows"},
    "truthy": INTERACTIONS | {"run_transform": {"new_data": "false"}},
    "nothing to transform": INTERACTIONS | {"run_transform": NOTHING},
    "bad transform": INTERACTIONS | {"run_transform": FAILS},
    "development": INTERACTIONS | {"variables": {"is_development": "true"}},
    "bad load": INTERACTIONS | {"load_viz": FAILS},
    "other before": INTERACTIONS | {"other": -1},
    "other after": INTERACTIONS | {"other": 1},
    "mismatch": MODEL,
    "mismatch by phrase": MODEL | {"run_model_trigger": MISMATCH},
    "no mismatch": MODEL | {"run_model_trigger": {"mismatch": False, "reason": "same files", "dataset_commit": COMMIT}},
    "no repository": MODEL | {"run_model_trigger": NOTHING},
    "bad comparison": MODEL | {"run_model_trigger": FAILS},
    "skip trigger": MODEL | {"variables": {"dev_skip_trigger": "1"}},
    "skip model": MODEL | {"variables": {"dev_skip_model": "True"}},
    "skip both": MODEL | {"variables": {"dev_skip_model": "yes", "dev_skip_trigger": "yes"}},
    "skip neither": MODEL | {"variables": {"dev_skip_model": "false", "dev_skip_trigger": "0"}},
    "other model before": MODEL | {"other": -1},
    "other model after": MODEL | {"other": 1},
}


def program(container: Container) -> int:
    """Do what the case says for the task, else what is usual."""
    task_id = container.labels["task_id"]
    given = CASES[container.environment["SHORTLIST_VERSION"]].get(task_id, GIVEN.get(task_id, {}))
    container.out(f"{task_id} of {container.labels['run_id']} {container.environment.get('RECS_DATABASE_URL', '')}\n")
    if isinstance(given, int):
        container.err(f"{task_id} says {given}\n")
        return given
    container.out(given if isinstance(given, str) else json.dumps({"result": given}))
    return 0


@pytest.fixture(scope="module")
def ran(run_probe: Callable[..., Any]) -> Any:
    with FakeEngine(program=program) as engine:
        ran = run_probe(
            "run_container_dags.py",
            DAGS,
            DOCKER_HOST=engine.url,
            SHORTLIST_TASK_RETRIES="0",
            PROBE_CASES=json.dumps(CASES),
            RECS_DATABASE_URL=DATABASE_URL,
            AWS_SECRET_ACCESS_KEY=AWS_SECRET,
            AIRFLOW__LOGGING__NAMESPACE_LEVELS="steps=INFO shortlist=INFO",
        )
        assert engine.containers == {}
        return ran | {"made": engine.made}


def states(ran: Any, case: str) -> dict[str, str]:
    return dict(ran["cases"][case]["states"])


DONE = dict.fromkeys(
    ("scraping_task", "postgres_task", "elastic_task", "fastapi_task", "mlflow_task", "run"), "success"
)


@pytest.mark.parametrize(
    ("case", "changed"),
    [
        ("catalogue", {}),
        ("no search", {"elastic_task": "skipped"}),
        ("no crawl", dict.fromkeys(DONE, "skipped") | {"run": "success"}),
        ("bad crawl", dict.fromkeys(DONE, "upstream_failed") | {"scraping_task": "failed", "run": "failed"}),
        ("bad search", {"elastic_task": "failed", "fastapi_task": "upstream_failed", "run": "failed"}),
    ],
)
def test_the_service_is_told_of_a_new_catalogue_with_or_without_a_search_index(
    ran: Any, case: str, changed: dict[str, str]
) -> None:
    assert states(ran, case) == DONE | changed


ALL = {
    "check_dag_active": "success",
    "run_transform": "success",
    "check_run_docker_output": "success",
    "load_processed": "success",
    "load_viz": "success",
    "trigger_model_dag": "success",
    "run": "success",
}
REST = dict.fromkeys(("load_processed", "load_viz", "trigger_model_dag"), "skipped")


@pytest.mark.parametrize(
    ("case", "changed", "reason"),
    [
        ("new data", {}, "the container transformed new data"),
        ("phrase only", {}, f"the container said: {NEW_DATA}"),
        ("nothing new", REST, "skipped: the container transformed no new data"),
        ("neither", REST, "skipped: the container transformed no new data"),
        ("truthy", REST, "skipped: the container transformed no new data"),
        ("nothing to transform", {"run_transform": "skipped"} | REST, "nothing to do: run_transform says 99"),
        (
            "bad transform",
            {"run_transform": "failed", "check_run_docker_output": "upstream_failed", "run": "failed"}
            | dict.fromkeys(REST, "upstream_failed"),
            "ended with exit code 1: run_transform says 1",
        ),
        (
            "development",
            {"load_processed": "skipped", "load_viz": "skipped"},
            "nothing to do: the variable is_development is set",
        ),
        (
            "bad load",
            {"load_viz": "failed", "trigger_model_dag": "upstream_failed", "run": "failed"},
            "load_viz says 1",
        ),
        (
            "other before",
            {"run_transform": "skipped", "check_run_docker_output": "skipped"} | REST,
            "skipped: the run ",
        ),
        ("other after", {}, "this run started first and goes on"),
    ],
)
def test_events_are_kept_and_a_model_is_asked_for_only_if_they_are_new(
    ran: Any, case: str, changed: dict[str, str], reason: str
) -> None:
    assert states(ran, case) == ALL | changed
    assert reason in ran["output"]


def test_the_model_is_asked_for_once_a_run(ran: Any) -> None:
    case = ran["cases"]["new data"]
    assert case["asked"] == {
        "dag_id": "model_trigger_dag",
        "run_id": f"interactions_transform__{case['run_id']}",
        "conf": {},
    }


TRAINED = {
    "check_dag_active": "success",
    "run_model_trigger": "success",
    "check_mismatch": "success",
    "start_model_training": "success",
    "end_dag": "skipped",
    "run": "success",
}
ENDED = {"start_model_training": "skipped", "end_dag": "success"}
NEITHER = dict.fromkeys(("run_model_trigger", "check_mismatch", "start_model_training", "end_dag"), "skipped")


@pytest.mark.parametrize(
    ("case", "changed", "reason"),
    [
        ("mismatch", {}, "2 files more"),
        ("mismatch by phrase", {}, MISMATCH),
        ("no mismatch", ENDED, "same files"),
        ("no repository", {"run_model_trigger": "skipped"} | ENDED, "the container found no mismatch"),
        ("skip trigger", {"run_model_trigger": "skipped"}, "the variable dev_skip_trigger is set"),
        ("skip model", ENDED, "the variable dev_skip_model is set"),
        ("skip both", {"run_model_trigger": "skipped"} | ENDED, "the variable dev_skip_model is set"),
        ("skip neither", {}, "2 files more"),
        ("other model after", {}, "2 files more"),
    ],
)
def test_a_model_is_trained_for_the_right_reason(ran: Any, case: str, changed: dict[str, str], reason: str) -> None:
    assert states(ran, case) == TRAINED | changed
    assert ran["cases"][case]["decision"]["reason"] == reason


def test_a_comparison_that_failed_decides_nothing(ran: Any) -> None:
    assert states(ran, "bad comparison") == TRAINED | dict.fromkeys(NEITHER, "upstream_failed") | {
        "run_model_trigger": "failed", "run": "failed",
    }  # fmt: skip


def test_while_another_run_is_active_no_model_is_compared(ran: Any) -> None:
    assert states(ran, "other model before") == TRAINED | NEITHER


@pytest.mark.parametrize(("case", "conf"), [("mismatch", DATA_SET), ("mismatch by phrase", {}), ("skip trigger", {})])
def test_the_training_is_told_which_data_set_to_train_on(ran: Any, case: str, conf: dict[str, str]) -> None:
    found = ran["cases"][case]
    assert found["asked"] == {
        "dag_id": "etl_train_test_pipeline",
        "run_id": f"model_trigger_dag__{found['run_id']}",
        "conf": conf,
    }


def test_what_is_not_to_be_trained_is_not_asked_for(ran: Any) -> None:
    assert [ran["cases"][case]["asked"] for case in ("no mismatch", "no repository", "skip model", "skip both")] == [
        None, None, None, None,
    ]  # fmt: skip


def test_each_job_gets_the_key_of_its_run_and_its_own_secrets_only(ran: Any) -> None:
    jobs = {(made.labels["dag_id"], made.body["Cmd"][3]): made for made in ran["made"]}

    assert len(jobs) == 9
    for (dag_id, _), made in jobs.items():
        assert made.body["Cmd"][4:] == ["--run-key", f"{dag_id}/{made.labels['run_id']}"]
    told = {job for (_, job), made in jobs.items() if made.environment.get("RECS_DATABASE_URL") == DATABASE_URL}
    assert told == {"postgres"}
    told = {job for (_, job), made in jobs.items() if made.environment.get("AWS_SECRET_ACCESS_KEY") == AWS_SECRET}
    assert told == {"transform", "load-processed", "load-viz", "model-trigger"}


def test_secrets_are_in_no_log_and_nowhere_in_airflows_tables(ran: Any) -> None:
    assert "postgres_task of " in ran["output"]  # what the containers say is there
    assert "s3cr3t" not in ran["output"]
    assert ran["rendered"]  # and so are the fields of the tasks
    assert ran["kept"] == []
