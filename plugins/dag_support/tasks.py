"""Makes tasks out of plain steps, all in one way.

A step's arguments are templates and XComs until it runs, so the results take any. `multiple_outputs` is off: a
dictionary that a step returns is one XCom.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import task

from dag_support.defaults import SPARK_CONFIG, SPARK_CONN_ID
from dag_support.outcomes import with_outcomes

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow.sdk.definitions.xcom_arg import XComArg


def step_task(step: Callable[..., Any], **options: Any) -> Callable[..., XComArg]:  # noqa: ANN401
    """Return `task(step)`, to be called with the step's arguments. `options` are the operator's."""
    return task(multiple_outputs=False, **options)(with_outcomes(step))


def spark_task(
    step: Callable[..., Any],
    *,
    conn_id: str = SPARK_CONN_ID,
    **options: Any,  # noqa: ANN401
) -> Callable[..., XComArg]:
    """Return `task.pyspark(step)`, which injects `spark`; the connection says where that runs."""
    on_spark = task.pyspark(conn_id=conn_id, config_kwargs=SPARK_CONFIG, multiple_outputs=False, **options)
    return on_spark(with_outcomes(step))


def sensor_task(step: Callable[..., Any], **options: Any) -> Callable[..., XComArg]:  # noqa: ANN401
    """Return `task.sensor(step)`, which gives its worker slot back between two looks."""
    return task.sensor(mode="reschedule", **options)(with_outcomes(step))
