"""Tells Airflow what a step's named error means: skip, fail for good, or (all others) try again."""

from __future__ import annotations

import functools
import logging
import traceback
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
from airflow.sdk.log import mask_secret

from shortlist.errors import (
    AuditError,
    EmptyInteractionsError,
    FeatureMemoryError,
    GateRefusedError,
    ModelVersionError,
    NothingToDoError,
    RankerError,
    RejectedRowsError,
    SettingsError,
    ShortlistError,
    TuningError,
)
from shortlist.redaction import redact, secrets

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

# The same data gives the same answer: another try would only delay the message.
_FINAL = (
    AuditError,
    EmptyInteractionsError,
    FeatureMemoryError,
    GateRefusedError,
    ModelVersionError,
    RankerError,
    RejectedRowsError,
    SettingsError,
    TuningError,
)


def with_outcomes(step: Callable[P, R]) -> Callable[P, R]:
    """Wrap a step for a task of any kind; name, docstring and signature stay.

    `NothingToDoError` skips the task with its reason. An error that another try cannot mend fails it at once. The
    secrets of the environment are masked in the task's log, whatever the step or a driver writes there; an error that
    holds one is replaced, because not every log that shows tracebacks is masked.
    """

    @functools.wraps(step)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        for value in secrets():
            mask_secret(value)
        try:
            return step(*args, **kwargs)
        except NothingToDoError as nothing:
            logger.info("nothing to do: %s", nothing)  # Airflow itself does not say why a task is skipped
            raise AirflowSkipException(str(nothing)) from None
        except Exception as error:
            if not _leaks(error):
                if isinstance(error, _FINAL):
                    raise AirflowFailException(f"{type(error).__name__}: {error}") from error
                raise
            told = redact(f"{type(error).__name__}: {error}")
        # Out here, or the error would live on as this one's context.
        raise ShortlistError(f"{told} (without its traceback, which holds a secret)")

    return run


def _leaks(error: Exception) -> bool:
    shown = "".join(traceback.format_exception(error))
    return redact(shown) != shown
