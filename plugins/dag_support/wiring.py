"""The part that the weekly DAGs share: load, audit, publish."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dag_support.assets import served
from dag_support.notifiers import NOTIFY_SUCCESS
from dag_support.tasks import step_task
from dag_support.templates import RUN_AFTER, RUN_KEY, RUN_TYPE
from steps.hand_over import audit_generation, load_file, load_reference, publish_generation

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow.sdk.definitions.xcom_arg import XComArg

    from shortlist.settings import Settings


def load_and_publish(dataset: str, *, references: tuple[str, ...], settings: Settings) -> None:
    """Wire `load_reference >> load_file >> audit >> publish`.

    Args:
        dataset: The file in `postgres_data/` and the table, such as `default_recs`.
        references: What the audit compares with: `items`, `user_history`.
        settings: Handed to every step.
    """
    reference = step_task(load_reference)(settings=settings, datasets=references, run_key=RUN_KEY, run_after=RUN_AFTER)
    generation = step_task(load_file)(
        settings=settings, dataset=dataset, run_key=RUN_KEY, run_after=RUN_AFTER, run_type=RUN_TYPE
    )
    reference >> generation
    audit_and_publish(dataset, generation, settings=settings)


def audit_and_publish(
    dataset: str,
    generation: XComArg,
    *,
    settings: Settings,
    step: Callable[..., Any] = publish_generation,
    **arguments: Any,  # noqa: ANN401
) -> None:
    """Wire `audit >> publish` behind the task that loaded a generation and returned its id.

    Args:
        dataset: What is published.
        generation: Its id.
        settings: Handed to both steps.
        step: Publishes.
        arguments: Further ones of `step`.
    """
    audit = step_task(audit_generation, task_id="audit")(settings=settings, generation_id=generation)
    publish = step_task(step, task_id="publish", outlets=[served(dataset)], on_success_callback=NOTIFY_SUCCESS)(
        settings=settings, generation_id=generation, **arguments
    )
    audit >> publish
