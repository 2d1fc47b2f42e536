"""Makes tasks out of plain steps, all in one way.

A step's arguments are templates and XComs until it runs, so the results take any. `multiple_outputs` is off unless a
DAG asks for it: a dictionary that a step returns is one XCom.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, cast

from airflow.sdk import get_current_context, task

from dag_support.defaults import SPARK_CONFIG, SPARK_CONN_ID
from dag_support.outcomes import with_outcomes

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow.sdk.definitions.xcom_arg import PlainXComArg, XComArg


def step_task(step: Callable[..., Any], **options: Any) -> Callable[..., XComArg]:  # noqa: ANN401
    """Return `task(step)`, to be called with the step's arguments. `options` are the operator's."""
    return task(multiple_outputs=False, **options)(with_outcomes(step))


def spark_task(
    step: Callable[..., Any],
    *,
    conn_id: str = SPARK_CONN_ID,
    multiple_outputs: bool = False,
    **options: Any,  # noqa: ANN401
) -> Callable[..., PlainXComArg]:
    """Return `task.pyspark(step)`, which injects `spark`; the connection says where that runs."""
    on_spark = task.pyspark(conn_id=conn_id, config_kwargs=SPARK_CONFIG, multiple_outputs=multiple_outputs, **options)
    return cast("Callable[..., PlainXComArg]", on_spark(with_outcomes(step)))


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
    return cast("Callable[..., PlainXComArg]", task.branch(**options)(with_outcomes(decide)))


def sensor_task(step: Callable[..., Any], **options: Any) -> Callable[..., XComArg]:  # noqa: ANN401
    """Return `task.sensor(step)`, which gives its worker slot back between two looks."""
    return task.sensor(mode="reschedule", **options)(with_outcomes(step))
