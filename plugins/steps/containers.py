"""What container jobs say, and what follows from it."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

logger = logging.getLogger(__name__)

# Sentences in a job's log that count like its result.
NEW_DATA: Final = "New data was transformed"
MISMATCH: Final = "File counts differ between the dataset commit and master"

TRAIN: Final = "start_model_training"
END: Final = "end_dag"

_YES = frozenset({"true", "1", "yes", "y", "on"})


def is_yes(value: object) -> bool:
    """Return whether somebody who wrote `value` into a variable meant yes.

    Example:
        >>> [is_yes(value) for value in ("True", " yes", "1", "", "0", "no", None)]
        [True, True, True, False, False, False, False]
    """
    return str(value).strip().lower() in _YES


def read_result(line: str) -> Any:  # noqa: ANN401
    """Return what the last line on a job's stdout gives as its result, `None` if it is no result.

    Numbers that JSON does not know (NaN, infinity) become `None`: XComs are kept as JSON.

    Example:
        >>> read_result('{"result": {"items": 3}}')
        {'items': 3}
        >>> read_result("3 items were found")
    """
    try:
        said = json.loads(line, parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        return None
    return said["result"] if isinstance(said, dict) and said.keys() == {"result"} else None


def goes_first(run: str, active: Mapping[str, str]) -> bool:
    """Return whether a run is the one of all active runs of its DAG that goes on: the one that started first.

    Args:
        run: The id of the run that asks.
        active: When each active run of the DAG started, by run id, this one's included, in ISO 8601 and UTC.
    """
    first = min(active, key=lambda other: (active[other], other))
    if first == run:
        logger.info("no other run is active" if len(active) == 1 else "this run started first and goes on")
        return True
    logger.info("skipped: the run %s, started at %s, is active", first, active[first])
    return False


def check_run_docker_output(*, result: object, said: str) -> bool:
    """Return whether the container has transformed new data, by its result or by what it said.

    Args:
        result: Of the job; `None` if it gave none or was skipped.
        said: Those of the sentences listened for that were in its log.
    """
    if _fields(result).get("new_data") is True:
        logger.info("the container transformed new data")
        return True
    if NEW_DATA in said:
        logger.info("the container said: %s", NEW_DATA)
        return True
    logger.info("skipped: the container transformed no new data")
    return False


def check_mismatch(*, result: object, said: str, skip_trigger: str, skip_model: str) -> dict[str, Any]:
    """Decide whether a model is trained on the data set as it is now.

    Args:
        result: Of the comparison; `None` if it gave none or was skipped.
        said: Those of the sentences listened for that were in its log.
        skip_trigger: The variable `dev_skip_trigger`: train whatever the comparison would say.
        skip_model: The variable `dev_skip_model`: do not train, whatever else holds.

    Returns:
        `train`, `reason`, and the `dataset_commit` to train on with the `input_path` of its files, each `None` if it
        is not known.
    """
    compared = _fields(result)
    if is_yes(skip_model):
        train, reason = False, "the variable dev_skip_model is set"
    elif is_yes(skip_trigger):
        train, reason = True, "the variable dev_skip_trigger is set"
    elif compared.get("mismatch") is True:
        train, reason = True, str(compared.get("reason") or "the data set is not the champion's")
    elif MISMATCH in said:
        train, reason = True, MISMATCH
    else:
        train, reason = False, str(compared.get("reason") or "the container found no mismatch")
    logger.info("%s: %s", "training" if train else "no training", reason)
    return {"train": train, "reason": reason} | {
        name: compared.get(name) or None for name in ("dataset_commit", "input_path")
    }


def _fields(result: object) -> dict[str, Any]:
    return result if isinstance(result, dict) else {}
