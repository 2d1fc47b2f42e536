"""Links from a task in the Airflow UI to the report of its run, which the service shows."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar

from airflow.sdk import BaseOperatorLink

from shortlist.stores import files, report_files

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow.sdk import BaseOperator
    from airflow.sdk.definitions.xcom_arg import XComArg
    from airflow.sdk.types import TaskInstanceKey

A = TypeVar("A", bound="XComArg")

# The argument by which a step gets what it works on, and what its report is called; the first that is there counts.
_REPORTS: Final = {
    "batch_path": "{}",
    "ranker_path": report_files.name_of(report_files.RANKER, "{}"),
    "version_path": report_files.name_of(report_files.TRAINING, "{}"),
}


def service_url() -> str:
    """Return where people reach the service: `$SERVICE_URL`."""
    return (os.environ.get("SERVICE_URL") or "http://localhost:8000").rstrip("/")


class ReportLink(BaseOperatorLink):
    """The button `Report` of a task. The worker finds the address when the task ends, whatever its end was."""

    operators: ClassVar[list[type[BaseOperator]]] = []

    @property
    def name(self) -> str:
        """What the button says."""
        return "Report"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """Return the address of the report, nothing if there is none yet."""
        arguments: dict[str, Any] = getattr(operator, "op_kwargs", {})
        path = next((arguments[name] for name in _REPORTS if name in arguments), None)
        if not isinstance(path, str):  # the task ended before its arguments were known
            return ""
        title = next(title for name, title in _REPORTS.items() if name in arguments)
        report = title.format(path.rsplit("/", 1)[-1])
        if not files.exists(f"{arguments['settings'].paths.reports}/{report}/{report_files.CARD}"):
            return ""
        return f"{service_url()}/reports/{report}/{report_files.PAGE}"


def linked(make: Callable[..., A]) -> Callable[..., A]:
    """Let the tasks that `make` makes link to a report, if their step works on a version or a batch."""

    def call(*args: Any, **kwargs: Any) -> A:  # noqa: ANN401
        made = make(*args, **kwargs)
        if _REPORTS.keys() & kwargs.keys():
            made.operator.operator_extra_links = (ReportLink(),)  # type: ignore[attr-defined]
        return made

    return call
