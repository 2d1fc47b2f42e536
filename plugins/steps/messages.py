"""What the messages about runs say, and their way out. The texts are Telegram's HTML."""

from __future__ import annotations

import html
import logging
from typing import TYPE_CHECKING, Any

from shortlist.errors import MessageError
from shortlist.redaction import redact

if TYPE_CHECKING:
    from collections.abc import Mapping

logger = logging.getLogger(__name__)

_LONGEST_LINE = 500
_HEADLINE = "ndcg@10"


def success(*, dag_id: str, run_id: str, results: Mapping[str, object]) -> str:
    """Say that a run succeeded, with the counts and metrics of its tasks.

    Args:
        dag_id: Of the run.
        run_id: Of the run.
        results: What the tasks returned, by task id. A line for each that returned counts or metrics.

    Example:
        >>> print(success(dag_id="load_default_recs", run_id="manual", results={"publish": {"rows": 1200}}))
        ✅ <b>load_default_recs</b> succeeded
        manual
        <b>publish</b> rows 1,200
    """
    lines = [f"✅ <b>{_line(dag_id)}</b> succeeded", _line(run_id)]
    for task_id, result in results.items():
        facts = _facts(result)
        if facts:
            lines.append(f"<b>{_line(task_id)}</b> {_line(', '.join(facts))}")
    return "\n".join(lines)


def failure(*, dag_id: str, run_id: str, task_id: str, attempt: str, error: object, log_url: str) -> str:
    """Say which task failed for good, and why.

    Args:
        dag_id: Of the run.
        run_id: Of the run.
        task_id: The task that failed.
        attempt: Such as `2 of 3`.
        error: An exception or a text; its first line is told.
        log_url: Where the task's log can be read.
    """
    head = f"❌ <b>{_line(dag_id)}</b> failed in <b>{_line(task_id)}</b>, try {_line(attempt)}"
    return "\n".join([head, _line(_reason(error)), _line(run_id), _line(log_url)])


def retry(*, dag_id: str, run_id: str, task_id: str, attempt: str, error: object, log_url: str) -> str:
    """Say which task failed and will be tried again. Arguments as those of `failure`."""
    head = f"🔁 <b>{_line(dag_id)}</b> tries <b>{_line(task_id)}</b> again after try {_line(attempt)}"
    return "\n".join([head, _line(_reason(error)), _line(run_id), _line(log_url)])


def run_failure(*, dag_id: str, run_id: str, reason: str) -> str:
    """Say that a run failed as a whole, without one task that did.

    Args:
        dag_id: Of the run.
        run_id: Of the run.
        reason: Airflow's word for it, such as `timed_out`.
    """
    return "\n".join([f"❌ <b>{_line(dag_id)}</b> failed: {_line(reason.replace('_', ' '))}", _line(run_id)])


def question(*, dag_id: str, run_id: str, reason: str, link: str) -> str:
    """Ask whether a run may publish what it has made.

    Args:
        dag_id: Of the run.
        run_id: Of the run.
        reason: What the gate said.
        link: Where to answer.
    """
    return "\n".join([f"❓ <b>{_line(dag_id)}</b> waits for your word", _line(reason), _line(run_id), _line(link)])


def drift(decision: Mapping[str, Any], batch: Mapping[str, Any]) -> str:
    """Say whether there will be a retraining, and why.

    Args:
        decision: Of `check_retrain`.
        batch: The manifest of the batch.
    """
    head = "🔁 <b>retraining</b>" if decision["retrain"] else "✅ <b>no retraining</b>"
    rows = f"{batch['accepted']:,} new interactions in {decision['batch']}, drift score {decision['score']:.2f}"
    return "\n".join([f"{head}: {_line(decision['reason'])}", _line(rows), _line(decision["report"])])


def training(*, title: str, headline: str, page: str) -> str:
    """Say how good a new version is.

    Args:
        title: Of the report.
        headline: Of the report.
        page: Where it lies.
    """
    return "\n".join([f"📊 <b>{_line(title)}</b>", _line(headline), _line(page)])


def send_message(text: str, picture: bytes | None = None) -> bool:
    """Send HTML to the configured chat. A message is never a reason for a run to fail.

    Args:
        text: Telegram's HTML, values escaped.
        picture: A PNG that the text becomes the caption of.

    Returns:
        Whether it was sent. `False`, with one line in the log, when Telegram is not configured or did not take it.
    """
    from shortlist.stores import telegram

    settings = telegram.TelegramSettings.from_environment()
    if settings is None:
        logger.info("No message sent: TELEGRAM_TOKEN and TELEGRAM_CHAT_ID are not set")
        return False
    try:
        telegram.send(settings, text, picture)
    except MessageError as error:
        logger.warning("No message sent: %s", error)
        return False
    return True


def _facts(result: object) -> list[str]:
    """Counts, rejected rows by reason, and NDCG@10 of each model; a message is no place for every metric."""
    if not isinstance(result, dict):
        return []
    facts = []
    for name, value in result.items():
        if name == "models":
            facts += _facts({_HEADLINE: {model: metrics[_HEADLINE]["mean"] for model, metrics in value.items()}})
        elif name == _HEADLINE:
            facts += [f"NDCG@10 {model} {mean:.4f}" for model, mean in value.items()]
        elif name == "rejected":
            facts += [f"rejected {reason} {count:,}" for reason, count in value.items()]
        elif isinstance(value, int | float) and not isinstance(value, bool):
            facts.append(f"{name} {value:,}" if isinstance(value, int) else f"{name} {value:.4g}")
    return facts


def _reason(error: object) -> str:
    text = str(error).strip()
    first = text.splitlines()[0] if text else ""
    return f"{type(error).__name__}: {first}" if isinstance(error, BaseException) else first or "no reason given"


def _line(value: str) -> str:
    """One line that is safe inside HTML. Redacted first: escaping would disguise a secret."""
    text = redact(value)
    return html.escape(text if len(text) <= _LONGEST_LINE else f"{text[:_LONGEST_LINE]}…", quote=False)
