"""Twenty tasks that do nothing, one after the other: what remains is Airflow's own time."""

from __future__ import annotations

from airflow.sdk import chain, dag, task

TASKS = 20


@dag(schedule=None, catchup=False, tags=["benchmark"])
def noop_chain() -> None:
    @task
    def nothing() -> None:
        pass

    chain(*(nothing.override(task_id=f"task_{number:02}")() for number in range(TASKS)))


noop_chain()
