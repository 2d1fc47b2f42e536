"""Studies in `models/tuning/`: what was tried, what came of it, and the proposal beside the settings in use."""

from __future__ import annotations

import csv
import io
import json
import logging
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shortlist.stores import files

if TYPE_CHECKING:
    from collections.abc import Mapping

    from optuna import Study
    from optuna.storages.journal import BaseJournalBackend
    from optuna.trial import FrozenTrial, Trial

logger = logging.getLogger(__name__)

JOURNAL = "journal.log"
TRIALS = "trials.csv"

_RETRY_OF, _SECONDS, _ERROR = "retry_of", "seconds", "error"


def open_study(folder: str, seed: int) -> Study:
    """Open the study of a folder, or begin one.

    A trial that was running when its process was killed failed; it is tried once more, before anything new.

    Args:
        folder: Of the study, a path or URL.
        seed: Of the sampler.

    Returns:
        A study that maximizes; its storage is Optuna's journal, for Optuna's own tools, too.
    """
    import optuna
    from optuna.storages import JournalStorage
    from optuna.trial import TrialState

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        study_name=folder.rsplit("/", 1)[-1],
        storage=JournalStorage(_journal(f"{folder}/{JOURNAL}")),
        direction="maximize",
        load_if_exists=True,
    )
    for killed in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(killed.number, state=TrialState.FAIL)
        if _RETRY_OF not in killed.user_attrs:
            study.enqueue_trial(killed.params, user_attrs={_RETRY_OF: killed.number})
    # Begun anew with the same seed, the sampler would draw the same again.
    study.sampler = optuna.samplers.TPESampler(seed=seed + len(study.get_trials(deepcopy=False)))
    return study


def enqueue(study: Study, parameters: Mapping[str, Any]) -> None:
    """Let these parameters be tried next, unless they were, or already wait."""
    from optuna.trial import TrialState

    waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
    if find(study, parameters) is None and not any(t.system_attrs["fixed_params"] == parameters for t in waiting):
        study.enqueue_trial(dict(parameters))


def find(study: Study, parameters: Mapping[str, Any]) -> FrozenTrial | None:
    """Return the complete trial of exactly these parameters."""
    return next((trial for trial in complete_trials(study) if trial.params == parameters), None)


def complete_trials(study: Study) -> list[FrozenTrial]:
    """Return the trials that have a value, in their order."""
    from optuna.trial import TrialState

    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def failed_trials(study: Study) -> list[FrozenTrial]:
    """Return the trials that ended with an error. Those that were killed said nothing."""
    from optuna.trial import TrialState

    return [t for t in study.get_trials(deepcopy=False, states=(TrialState.FAIL,)) if _ERROR in t.user_attrs]


def ended(study: Study) -> int:
    """Return how many trials ended, in one way or the other."""
    return len(complete_trials(study)) + len(failed_trials(study))


def end_trial(folder: str, study: Study, trial: Trial, *, value: float | None, seconds: float, error: str = "") -> None:
    """Write down what came of a trial, in the journal and in `trials.csv`.

    Args:
        folder: Of the study.
        study: That the trial belongs to.
        trial: That was asked for.
        value: NDCG@10; `None` if it failed.
        seconds: It took.
        error: Why it failed.
    """
    from optuna.trial import TrialState

    trial.set_user_attr(_SECONDS, round(seconds, 2))
    if error:
        trial.set_user_attr(_ERROR, error)
    study.tell(trial, value, state=TrialState.FAIL if value is None else None)
    files.write_bytes(f"{folder}/{TRIALS}", _table(study).encode())


def proposed(settings_path: str) -> str:
    """Return where the proposal for a settings file lies.

    Example:
        >>> proposed("config/pipeline.toml")
        'config/pipeline.proposed.toml'
    """
    return str(Path(settings_path).with_suffix(".proposed.toml"))


def proposal(settings_path: str, changed: Mapping[str, Any], reasons: list[str]) -> str:
    """Return a settings file with some values changed; its comments and everything else stay.

    Args:
        settings_path: The file in use.
        changed: Values by `section.key`.
        reasons: Lines of the comment on top.
    """
    import tomlkit

    document = tomlkit.parse(Path(settings_path).read_text(encoding="utf-8"))
    for name, value in changed.items():
        section, key = name.split(".")
        document.setdefault(section, tomlkit.table())[key] = value
    return "".join(f"# {line}\n" for line in reasons) + "\n" + tomlkit.dumps(document)


def write_proposal(text: str, settings_path: str, folder: str) -> str:
    """Write a proposal beside the settings file or, where nobody may write there, into the folder of the study.

    Returns:
        Its path.
    """
    withdraw_proposal(settings_path, folder)
    place, instead = _places(settings_path, folder)
    try:
        files.write_bytes(place, text.encode())
    except OSError as error:
        logger.info("%s cannot be written (%s)", place, error)
        place = instead
        files.write_bytes(place, text.encode())
    return place


def withdraw_proposal(settings_path: str, folder: str) -> None:
    """Remove an earlier proposal, wherever it lies, so that none outlives the settings it was for."""
    for place in _places(settings_path, folder):
        with suppress(OSError):  # a read-only folder: what lies there is not ours
            files.remove(place)


def _places(settings_path: str, folder: str) -> tuple[str, str]:
    beside = proposed(settings_path)
    return beside, f"{folder}/{Path(beside).name}"


def _table(study: Study) -> str:
    trials = study.get_trials(deepcopy=False)
    names = list(dict.fromkeys(name for trial in trials for name in trial.params))
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["trial", "state", "ndcg@10", _SECONDS, *names, _ERROR])
    for trial in trials:
        told = trial.user_attrs
        values = [trial.params.get(name) for name in names]
        value = trial.values[0] if trial.values else None
        state = "killed" if trial.state.name == "FAIL" and _ERROR not in told else trial.state.name.lower()
        rows.writerow([trial.number, state, value, told.get(_SECONDS), *values, told.get(_ERROR)])
    return text.getvalue()


def _journal(location: str) -> BaseJournalBackend:
    """Optuna is imported late, so the class is made late. Optuna's own backend needs a local disk and leaves locks."""
    from optuna.storages.journal import BaseJournalBackend

    class Journal(BaseJournalBackend):
        def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
            return [json.loads(line) for line in self._lines()[log_number_from:]]

        def append_logs(self, logs: list[dict[str, Any]]) -> None:
            lines = [*self._lines(), *(json.dumps(log, separators=(",", ":")) for log in logs)]
            files.write_bytes(location, "".join(f"{line}\n" for line in lines).encode())

        def _lines(self) -> list[str]:
            return files.read_bytes(location).decode().splitlines() if files.exists(location) else []

    return Journal()
