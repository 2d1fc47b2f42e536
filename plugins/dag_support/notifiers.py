"""Telegram notifications of DAGs.

Task callbacks run in the worker, DAG callbacks in the dag-processor. One event, one message: the task that failed
speaks for the run, and the last task tells the success, since the XComs are at hand there; a run that was skipped for
want of work stays silent. The DAG's own callback covers the failures that no task sees: a time limit or a deadlock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseNotifier
from airflow.sdk.exceptions import AirflowFailException

from steps import messages

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow.sdk import Context


class TelegramNotifier(BaseNotifier):
    """Sends what `compose` makes of the context; `None` sends nothing."""

    def __init__(self, compose: Callable[[Context], str | None], **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(**kwargs)
        self.compose = compose

    def render_template_fields(self, context: Context, jinja_env: object = None) -> None:
        """Render nothing.

        Airflow renders in place, so that one instance would repeat the first task's text, and fails under
        `dag.test()`, where the DAG of the context has no template environment (apache/airflow#64649).
        """

    def notify(self, context: Context) -> None:
        """Compose and send; never raises on account of Telegram."""
        if text := self.compose(context):
            messages.send_message(text)


def _success(context: Context) -> str:
    ti = context["ti"]
    results = {task_id: ti.xcom_pull(task_ids=task_id) for task_id in context["dag"].task_ids}
    return messages.success(dag_id=ti.dag_id, run_id=ti.run_id, results=results)


def _task_problem(context: Context) -> dict[str, Any]:
    ti = context["ti"]
    error = context.get("exception")
    if isinstance(error, AirflowFailException) and error.__cause__:
        error = error.__cause__
    return {
        "dag_id": ti.dag_id,
        "run_id": ti.run_id,
        "task_id": ti.task_id,
        "attempt": f"{ti.try_number} of {ti.max_tries + 1}",
        "error": error or "",
        "log_url": ti.log_url,
    }


def _run_failure(context: Context) -> str | None:
    reason = context.get("reason") or "no reason given"
    if reason == "task_failure":  # the task told it already
        return None
    return messages.run_failure(dag_id=context["dag"].dag_id, run_id=context["run_id"], reason=reason)


NOTIFY_SUCCESS = TelegramNotifier(_success)
NOTIFY_FAILURE = TelegramNotifier(lambda context: messages.failure(**_task_problem(context)))
NOTIFY_RETRY = TelegramNotifier(lambda context: messages.retry(**_task_problem(context)))
NOTIFY_RUN_FAILURE = TelegramNotifier(_run_failure)
