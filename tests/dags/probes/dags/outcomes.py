"""Tiny DAGs, one for each way a run can go."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from airflow.sdk import Param, dag

from dag_support.defaults import DAG_DEFAULT_ARGS, START_DATE
from dag_support.notifiers import NOTIFY_RUN_FAILURE, NOTIFY_SUCCESS
from dag_support.tasks import spark_task, step_task
from dag_support.templates import RUN_AFTER, RUN_KEY, TIMINGS, VERSION
from shortlist.errors import GateRefusedError, NothingToDoError
from shortlist.settings import Settings, load_settings
from shortlist.stores import report_files

OPTIONS: dict[str, Any] = {
    "start_date": START_DATE,
    "default_args": DAG_DEFAULT_ARGS | {"retries": 1, "retry_delay": timedelta(0)},
    "on_failure_callback": NOTIFY_RUN_FAILURE,
}


def load(*, run_after: str, run_key: str, version: str, source: str) -> dict[str, Any]:
    """Return what the templates became."""
    return {"rows": 3, "run_after": run_after, "run_key": run_key, "version": version, "source": source}


def nothing() -> None:
    """A normal day."""
    raise NothingToDoError("no file data/raw/future.csv")


def nothing_on_spark(spark: object, *, label: str) -> None:
    """A normal day of a Spark step."""
    raise NothingToDoError(f"no rows for {label}")


def publish(*, loaded: dict[str, Any]) -> dict[str, int]:
    """The last task."""
    return {"rows": loaded["rows"]}


def stumble() -> None:
    """Fail with all that a message and a log must survive."""
    token = os.environ["TELEGRAM_TOKEN"]
    raise ConnectionError(f"<b>no & answer</b> from https://host/bot{token}/x\nsecond line")


def refuse() -> None:
    """Fail in a way that another try cannot mend."""
    raise GateRefusedError("challenger 0.10 < champion 0.12")


def train(*, settings: Settings, version: str) -> str:
    """Return the path of a version."""
    return f"{settings.paths.model_versions}/{version}"


def evaluate(*, settings: Settings, version_path: str, timings: str) -> None:
    """Leave a report and what it was told, then let the gate refuse."""
    name = report_files.name_of(report_files.TRAINING, version_path.rsplit("/", 1)[-1])
    report_files.write_report(
        settings.paths.reports, name, kind=report_files.TRAINING, headline=timings, page="<h1>Training</h1>"
    )
    raise GateRefusedError("challenger 0.10 < champion 0.12")


def export(*, settings: Settings, version_path: str) -> None:
    """Never runs."""


@dag(schedule=None, **OPTIONS, params={"source": Param("of the settings", type="string")})
def probe_success() -> None:
    loaded = step_task(load)(run_after=RUN_AFTER, run_key=RUN_KEY, version=VERSION, source="{{ params.source }}")
    step_task(nothing)() >> step_task(load, task_id="after_nothing")(run_after="", run_key="", version="", source="")
    step_task(publish, on_success_callback=NOTIFY_SUCCESS)(loaded=loaded)


@dag(schedule=None, **OPTIONS)
def probe_nothing() -> None:
    spark_task(nothing_on_spark)(label="today") >> step_task(publish, on_success_callback=NOTIFY_SUCCESS)(
        loaded={"rows": 0}
    )


@dag(schedule=None, **OPTIONS)
def probe_failure() -> None:
    step_task(stumble)() >> step_task(publish, on_success_callback=NOTIFY_SUCCESS)(loaded={"rows": 0})


@dag(schedule=None, **OPTIONS)
def probe_refusal() -> None:
    step_task(refuse)()


@dag(schedule=None, **OPTIONS)
def probe_report() -> None:
    settings = load_settings()
    trained = step_task(train)(settings=settings, version="version_20260101T000000")
    judged = step_task(evaluate)(settings=settings, version_path=trained, timings=TIMINGS)
    judged >> step_task(export)(settings=settings, version_path=trained)


probe_report()
probe_success()
probe_nothing()
probe_failure()
probe_refusal()
