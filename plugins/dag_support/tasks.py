"""Makes tasks out of plain steps, all in one way.

A step's arguments are templates and XComs until it runs, so the results take any. `multiple_outputs` is off unless a
DAG asks for it: a dictionary that a step returns is one XCom. How long each took is the XCom `seconds`, and a task that
works on a version or a batch links to its report.
"""

from __future__ import annotations

import functools
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from airflow.sdk import get_current_context, task

from dag_support.defaults import SPARK_CONFIG, SPARK_CONN_ID
from dag_support.links import linked
from dag_support.outcomes import with_outcomes

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow.sdk.definitions.xcom_arg import PlainXComArg, XComArg

P = ParamSpec("P")
R = TypeVar("R")


def step_task(step: Callable[..., Any], **options: Any) -> Callable[..., XComArg]:  # noqa: ANN401
    """Return `task(step)`, to be called with the step's arguments. `options` are the operator's."""
    return linked(task(multiple_outputs=False, **options)(_timed(with_outcomes(step))))


def spark_task(
    step: Callable[..., Any],
    *,
    conn_id: str = SPARK_CONN_ID,
    multiple_outputs: bool = False,
    **options: Any,  # noqa: ANN401
) -> Callable[..., PlainXComArg]:
    """Return `task.pyspark(step)`, which injects `spark`; the connection says where that runs."""
    on_spark = task.pyspark(conn_id=conn_id, config_kwargs=SPARK_CONFIG, multiple_outputs=multiple_outputs, **options)
    return linked(cast("Callable[..., PlainXComArg]", on_spark(_timed(with_outcomes(step)))))


def branch_task(
    step: Callable[..., dict[str, Any]],
    *,
    key: str,
    choose: Callable[[dict[str, Any]], str],
    **options: Any,  # noqa: ANN401
) -> Callable[..., PlainXComArg]:
    """Return a task that goes on with one of the tasks behind it.

    Args:
        step: Decides.
        key: Of the XCom that keeps the whole decision.
        choose: Gives the id of the next task, for a decision.
        options: Of the operator.
    """

    @functools.wraps(step)
    def decide(*args: Any, **kwargs: Any) -> str:  # noqa: ANN401
        decision = step(*args, **kwargs)
        get_current_context()["ti"].xcom_push(key=key, value=decision)
        return choose(decision)

    decide.__annotations__ = {**decide.__annotations__, "return": "str"}
    return linked(cast("Callable[..., PlainXComArg]", task.branch(**options)(_timed(with_outcomes(decide)))))


def short_circuit_task(step: Callable[..., Any], **options: Any) -> Callable[..., PlainXComArg]:  # noqa: ANN401
    """Return a task that skips everything behind it, whatever the trigger rules there, unless `step` returns true."""
    return cast("Callable[..., PlainXComArg]", task.short_circuit(**options)(_timed(with_outcomes(step))))


def sensor_task(step: Callable[..., Any], **options: Any) -> Callable[..., XComArg]:  # noqa: ANN401
    """Return `task.sensor(step)`, which gives its worker slot back between two looks."""
    return task.sensor(mode="reschedule", **options)(with_outcomes(step))


def _timed(step: Callable[P, R]) -> Callable[P, R]:
    """Keep how long the task took to here, its Spark session included, for the report of the run."""

    @functools.wraps(step)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        result = step(*args, **kwargs)
        ti = get_current_context()["ti"]
        if ti.start_date:
            seconds = (datetime.now(UTC) - ti.start_date).total_seconds()
            measured = {"task": ti.task_id, "started": ti.start_date.isoformat(), "seconds": round(seconds, 2)}
            ti.xcom_push(key="seconds", value=measured)
        return result

    return run
