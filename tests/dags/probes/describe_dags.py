"""Loads the DAG folder as the dag-processor does and writes what is in it as JSON."""

import json
import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.dag_processing.dagbag import DagBag
from airflow.plugins_manager import get_plugin_info, integrate_macros_plugins
from airflow.sdk import DAG
from airflow.serialization.serialized_objects import DagSerialization, OperatorSerialization

TRIGGERS = (
    "trigger_dag_id",
    "trigger_run_id",
    "reset_dag_run",
    "logical_date",
    "wait_for_completion",
    "deferrable",
    "fail_when_dag_is_paused",
)
PACKAGES = ("steps", "shortlist", "dag_support")
plugins = Path(os.environ["AIRFLOW__CORE__PLUGINS_FOLDER"])

integrate_macros_plugins()  # loads the plugins
bag = DagBag()
heavy_after_parse = sorted(
    {"pyspark", "pandas", "catboost", "optuna", "pyarrow", "psycopg2", "requests"} & sys.modules.keys()
)


def callbacks(owner: Any, kind: str) -> list[str]:
    """The class names of the callbacks."""
    found = getattr(owner, f"on_{kind}_callback") or []
    return [type(callback).__name__ for callback in (found if isinstance(found, list | tuple) else [found])]


def seconds(delta: timedelta | None) -> float | None:
    """Of a timedelta."""
    return delta.total_seconds() if delta else None


def describe(dag: DAG) -> dict[str, Any]:
    """Everything the policy tests ask for."""
    return {
        "file": dag.fileloc,
        "schedule": dag.schedule,
        "tags": sorted(dag.tags),
        "doc": dag.doc_md,
        "catchup": dag.catchup,
        "max_active_runs": dag.max_active_runs,
        "paused": dag.is_paused_upon_creation or False,
        "dagrun_timeout": seconds(dag.dagrun_timeout),
        "on_failure": callbacks(dag, "failure"),
        "params": dict(dag.params),
        "param_schemas": {name: dag.params.get_param(name).schema for name in dag.params},
        "native": dag.render_template_as_native_obj,
        "edges": sorted([task.task_id, below] for task in dag.tasks for below in task.downstream_task_ids),
        "serialized": json.dumps(DagSerialization.serialize_dag(dag), default=str),
        "tasks": {task.task_id: describe_task(task) for task in dag.tasks},
    }


def describe_task(task: Any) -> dict[str, Any]:
    """The same of a task."""
    return {
        "operator": getattr(task, "custom_operator_name", task.task_type),
        "retries": task.retries,
        "retry_delay": seconds(task.retry_delay),
        "backoff": task.retry_exponential_backoff,
        "max_retry_delay": seconds(task.max_retry_delay),
        "execution_timeout": seconds(task.execution_timeout),
        "on_failure": callbacks(task, "failure"),
        "on_retry": callbacks(task, "retry"),
        "on_success": callbacks(task, "success"),
        "outlets": [asset.uri for asset in task.outlets],
        "arguments": {name: str(value) for name, value in getattr(task, "op_kwargs", {}).items()},
        "multiple_outputs": getattr(task, "multiple_outputs", False),
        "conn_id": getattr(task, "conn_id", None),
        "config": getattr(task, "config_kwargs", None),
        "mode": getattr(task, "mode", None),
        "timeout": getattr(task, "timeout", None),
        "links": links(task),
        "queue": task.queue,
        "pool": task.pool,
        "image": getattr(task, "image", None),
        "command": getattr(task, "command", None),
        "network": getattr(task, "network_mode", None),
        "secrets": getattr(task, "secrets", ()),
        "triggers": {name: getattr(task, name) for name in TRIGGERS if hasattr(task, name)},
    }


def links(task: Any) -> dict[str, str]:
    """The XCom of each extra link, as the API server has it after deserialization."""
    server_side = OperatorSerialization.deserialize_operator(OperatorSerialization.serialize_operator(task))
    return {link.name: link.xcom_key for link in server_side.operator_extra_links}


Path(os.environ["PROBE_RESULT"]).write_text(
    json.dumps(
        {
            "import_errors": bag.import_errors,
            "heavy": heavy_after_parse,
            "external_views": [view for plugin in get_plugin_info() for view in plugin["external_views"]],
            "bare_modules": sorted(
                name
                for name, module in list(sys.modules.items())
                if str(getattr(module, "__file__", None) or "").startswith(str(plugins))
                and name.split(".")[0] not in PACKAGES
            ),
            "dags": {dag_id: describe(dag) for dag_id, dag in bag.dags.items()},
        }
    )
)
