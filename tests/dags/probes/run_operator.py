"""Runs container tasks, each in a process of its own that is forked when Airflow is loaded, as workers do.

Reads one task a line from stdin, as JSON; says the process id, and, when that has ended, its exit status.
"""

import json
import logging
import os
import signal
import sys
import traceback
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from airflow.sdk.exceptions import AirflowTaskTimeout
from airflow.sdk.execution_time.timeout import timeout

from dag_support.containers import JobOperator


def run(task: dict[str, Any]) -> dict[str, Any]:
    """Do what Airflow's task runner does with a task."""
    operator = JobOperator(task_id="score", image="shortlist-jobs", network="jobs", **task["options"])
    pushed: dict[str, Any] = {}
    ti = SimpleNamespace(
        id=task["attempt"],
        dag_id="a_dag",
        run_id="manual__2026-03-01",
        task_id="score",
        map_index=-1,
        try_number=task["try_number"],
        xcom_push=lambda key, value: pushed.update({key: value}),
    )
    signal.signal(signal.SIGTERM, lambda *_: operator.on_kill())
    try:
        with timeout(task["timeout"]):  # type: ignore[no-untyped-call]
            try:
                outcome = {"returned": operator.execute({"ti": ti})}  # type: ignore[typeddict-item]
            except AirflowTaskTimeout:
                operator.on_kill()
                raise
    except BaseException as error:  # noqa: BLE001
        outcome = {"raised": type(error).__name__, "message": str(error), "traceback": traceback.format_exc()}
    if task["kill_when_done"]:
        operator.on_kill()
    rendered = {name: str(getattr(operator, name)) for name in operator.template_fields}
    return outcome | {"pushed": pushed, "rendered": rendered, "repr": repr(operator)}


print("ready", flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    child = os.fork()
    if child == 0:
        folder = Path(asked["folder"])
        for number in (1, 2):
            os.dup2(os.open(folder / "output", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), number)
        logging.basicConfig(stream=sys.stderr, level=logging.DEBUG, format="%(name)s %(message)s", force=True)
        os.environ.update(asked["worker"])
        result = json.dumps(run(asked))
        (folder / "result.json").write_text(result)
        os._exit(0)
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
