"""A person's word before anything is published, where `[gate].approval` asks for it."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from airflow.providers.standard.operators.hitl import ApprovalOperator

from dag_support.notifiers import TelegramNotifier
from steps import messages

if TYPE_CHECKING:
    from airflow.sdk import Context
    from airflow.sdk.definitions.xcom_arg import XComArg

    from shortlist.settings import Settings

TASK_ID = "approval"


def patience(settings: Settings) -> timedelta:
    """Return how much longer a run may take because it waits for a person."""
    return timedelta(hours=settings.gate.approval_hours if settings.gate.approval else 0)


def wire_approval(judged: XComArg, publishing: XComArg, *, reason: str, settings: Settings) -> None:
    """Wire `judged >> publishing`, with the question to a person between them if `[gate].approval` says so.

    A rejection skips what follows; without an answer the task fails. Both leave the champion and what is served.

    Args:
        judged: The task that asked the gate.
        publishing: The first task that changes what is handed over or served.
        reason: Template of what the gate said.
        settings: Of the project.
    """
    if not settings.gate.approval:
        judged >> publishing
        return
    approval = ApprovalOperator(
        task_id=TASK_ID,
        subject="Shall {{ dag.dag_id }} publish what it has trained?",
        body=f"The gate {reason}.",
        response_timeout=patience(settings),
        execution_timeout=None,
        retries=0,
        notifiers=TelegramNotifier(_question),
    )
    judged >> approval >> publishing


def _question(context: Context) -> str:
    link = ApprovalOperator.generate_link_to_ui_from_context(context=context)
    ti = context["ti"]
    reason = getattr(context["task"], "body", "")
    return messages.question(dag_id=ti.dag_id, run_id=ti.run_id, reason=reason, link=link)
