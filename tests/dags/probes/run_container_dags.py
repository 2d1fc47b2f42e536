"""Runs the DAGs of containers with `dag.test()`, once for each case of `$PROBE_CASES`; writes what came of it as JSON.

The engine is elsewhere: `$DOCKER_HOST`. A triggered DAG is only asked for: under `dag.test()` nobody would run it, and
waiting for it would never end.
"""

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.dag_processing.dagbag import DagBag
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.models.xcom import XComModel
from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk.exceptions import DagRunTriggerException
from airflow.utils.db import initdb
from airflow.utils.session import create_session
from sqlalchemy import update

NOW = datetime.now(UTC)


def ask_only(operator: TriggerDagRunOperator, context: Any) -> None:
    """Keep what would have been asked for."""
    operator.fail_when_dag_is_paused = False  # nobody has told this Airflow's tables of the other DAG
    try:
        execute(operator, context)
    except DagRunTriggerException as asked:
        wanted = {"dag_id": asked.trigger_dag_id, "run_id": asked.dag_run_id, "conf": asked.conf}
        context["ti"].xcom_push(key="asked", value=wanted)


def make_active(run: DagRun, start: datetime) -> None:
    """Let a run that has ended look like one that is at work since then."""
    with create_session() as session:
        session.execute(update(DagRun).where(DagRun.id == run.id).values(state="running", start_date=start))
        session.execute(update(TaskInstance).where(TaskInstance.run_id == run.run_id).values(state=None))


def end(run: DagRun) -> None:
    """Let it have ended again."""
    with create_session() as session:
        session.execute(update(DagRun).where(DagRun.id == run.id).values(state="success"))


def xcom(run: DagRun, task_id: str, key: str) -> Any:
    """What the task left, if anything."""
    with create_session() as session:
        found = session.scalars(XComModel.get_many(run_id=run.run_id, task_ids=task_id, key=key)).first()
        return XComModel.deserialize_value(found) if found else None


execute = TriggerDagRunOperator.execute
TriggerDagRunOperator.execute = ask_only  # type: ignore[assignment]
initdb()
bag = DagBag()
results = {}
moment = NOW
for name, case in json.loads(os.environ["PROBE_CASES"]).items():
    dag = bag.dags[case["dag"]]
    variables = {f"AIRFLOW_VAR_{variable.upper()}": value for variable, value in case.get("variables", {}).items()}
    os.environ |= {"SHORTLIST_VERSION": name, **variables}
    moment += timedelta(seconds=1)
    other = None
    if "other" in case:
        other = dag.test(run_after=moment, logical_date=moment)
        make_active(other, NOW + timedelta(hours=case["other"]))
        moment += timedelta(seconds=1)
    run = dag.test(run_after=moment, logical_date=moment, run_conf=case.get("conf"))
    if other:
        end(other)
    for variable in variables:
        del os.environ[variable]
    results[name] = {
        "states": {ti.task_id: ti.state for ti in run.get_task_instances()} | {"run": run.state},
        "asked": next(filter(None, (xcom(run, task_id, "asked") for task_id in dag.task_ids)), None),
        "decision": xcom(run, "check_mismatch", "decision"),
        "run_id": run.run_id,
    }

# What was written last stands beside the database itself.
database = b"".join(file.read_bytes() for file in Path(os.environ["AIRFLOW_HOME"]).glob("airflow.db*"))
secrets = [value for name, value in os.environ.items() if name in ("RECS_DATABASE_URL", "AWS_SECRET_ACCESS_KEY")]
Path(os.environ["PROBE_RESULT"]).write_text(
    json.dumps(
        {
            "cases": results,
            "rendered": b"PYTHONUNBUFFERED" in database,
            "kept": [secret for secret in secrets if secret.encode() in database],
        }
    )
)
