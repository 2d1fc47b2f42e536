"""Runs of other DAGs and of one's own: start one and wait for it, give way to one."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import get_current_context
from airflow.sdk.execution_time import task_runner
from airflow.sdk.execution_time.comms import DagRunResult, GetDagRun

from steps.containers import goes_first

if TYPE_CHECKING:
    from collections.abc import Mapping

_ENDED: Final = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})
_POLL_SECONDS = 10


def check_dag_active() -> bool:
    """Return whether this run is the one of the active runs of its DAG that goes on.

    Of two that started in the same moment, it is exactly one. The DAG needs `max_active_runs` of at least 2: with 1, a
    run would wait for the other's end instead of being skipped.
    """
    context = get_current_context()
    ti, dag_run = context["ti"], context["dag_run"]
    active = {ti.run_id: _moment(dag_run.start_date)}
    if ti.get_dr_count(dag_id=ti.dag_id, states=["running"]) > 1:
        # A run is active if its last tasks have not ended. Airflow knows of no shorter way to ask for such runs.
        last = [task.task_id for task in context["dag"].leaves]
        for run_id, states in ti.get_task_states(dag_id=ti.dag_id, task_ids=last).items():
            if run_id != ti.run_id and not _ENDED.issuperset(states.values()):
                other = task_runner.SUPERVISOR_COMMS.send(GetDagRun(dag_id=ti.dag_id, run_id=run_id))
                if isinstance(other, DagRunResult) and other.state == "running":
                    active[run_id] = _moment(other.start_date)
    return goes_first(ti.run_id, active)


def trigger_and_wait(
    task_id: str,
    dag_id: str,
    *,
    conf: Mapping[str, str] | None = None,
    **options: Any,  # noqa: ANN401
) -> TriggerDagRunOperator:
    """Return a task that starts a run of another DAG and waits for its end, without holding a worker slot.

    A further attempt starts the same run anew, not a second one. A DAG that is switched off fails the task at once: its
    run would never begin.

    Args:
        task_id: Of the task.
        dag_id: The other DAG.
        conf: Of the other run: Jinja expressions by name. One that gives nothing leaves its name out.
        options: Of the operator.
    """
    given = ", ".join(f"('{name}', {expression})" for name, expression in (conf or {}).items())
    return TriggerDagRunOperator(
        task_id=task_id,
        trigger_dag_id=dag_id,
        trigger_run_id="{{ dag.dag_id }}__{{ run_id }}",
        reset_dag_run=True,
        logical_date=None,
        # As JSON: of a dictionary's values, templates would make texts.
        conf=f"{{{{ dict([{given}] | selectattr(1)) | tojson }}}}",  # type: ignore[arg-type]
        wait_for_completion=True,
        deferrable=True,
        fail_when_dag_is_paused=True,
        poke_interval=_POLL_SECONDS,
        **options,
    )


def _moment(start: datetime | None) -> str:
    # A run that nobody has started yet comes after all others.
    return start.astimezone(UTC).isoformat(timespec="microseconds") if start else "~"
