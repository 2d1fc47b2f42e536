"""Jinja strings for the arguments of steps.

All stand on `run_after`: `ds`, `ts` and `logical_date` are missing from a manual run that has no logical date.
"""

from __future__ import annotations

from typing import Final

RUN_AFTER: Final = "{{ dag_run.run_after.isoformat() }}"
RUN_TYPE: Final = "{{ dag_run.run_type.value }}"
RUN_KEY: Final = "{{ dag_run.dag_id }}/{{ run_id }}"
ATTEMPT: Final = "{{ dag_run.run_after.strftime('%Y%m%dT%H%M%S') }}-{{ ti.try_number }}"
VERSION: Final = "version_{{ dag_run.run_after.strftime('%Y%m%dT%H%M%S') }}"
FEEDBACK_BATCH: Final = "events_{{ dag_run.run_after.strftime('%Y%m%dT%H%M%S') }}"
BATCH: Final = "drift_{{ dag_run.run_after.strftime('%Y%m%dT%H%M%S') }}"

# For `report.write_report`: what `tasks` measured of the tasks before, and when this one began. One line, as JSON.
TIMINGS: Final = (
    "{{ {'task': ti.task_id, 'started': ti.start_date | string, "
    "'done': ti.xcom_pull(task_ids=dag.task_ids, key='seconds')} | tojson }}"
)
