"""Tells Airflow what a step's named error means: skip, fail for good, or (all others) try again."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
from airflow.sdk.log import mask_secret

from shortlist.errors import (
    AuditError,
    EmptyInteractionsError,
    GateRefusedError,
    NothingToDoError,
    RejectedRowsError,
    SettingsError,
)
from shortlist.redaction import secrets

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
R = TypeVar("R")

# The same data gives the same answer: another try would only delay the message.
_FINAL = (AuditError, EmptyInteractionsError, GateRefusedError, RejectedRowsError, SettingsError)


def with_outcomes(step: Callable[P, R]) -> Callable[P, R]:
    """Wrap a step for a task of any kind; name, docstring and signature stay.

    `NothingToDoError` skips the task with its reason. An error that another try cannot mend fails it at once. The
    secrets of the environment are masked in the task's log, whatever the step or a driver writes there.
    """

    @functools.wraps(step)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        for value in secrets():
            mask_secret(value)
        try:
            return step(*args, **kwargs)
        except NothingToDoError as nothing:
            raise AirflowSkipException(str(nothing)) from None
        except _FINAL as error:
            raise AirflowFailException(f"{type(error).__name__}: {error}") from error

    return run
