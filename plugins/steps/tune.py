"""Tuning step: tries settings on the target window, and proposes the best. The test window is never read."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from dataclasses import asdict
from statistics import fmean
from typing import TYPE_CHECKING, Any

from shortlist.columns import AVAILABLE, CATEGORY, ITEM
from shortlist.errors import ShortlistError, TuningError
from shortlist.recommender import metrics, tuning
from shortlist.stores import files, studies
from steps import tuning_window

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from optuna import Study
    from optuna.trial import FrozenTrial
    from pyspark.sql import SparkSession

    from shortlist.settings import Settings

logger = logging.getLogger(__name__)

# What else decides how good settings are; with another value, earlier trials say nothing.
_DECIDING_SECTIONS = ("interactions", "items", "similarity", "als", "ranker")


def tune_recommender(
    spark: SparkSession, *, settings: Settings, settings_path: str, minutes: float, trials: int
) -> dict[str, Any]:
    """Search ALS, candidate mix and ranker settings on the target window, and propose the best beside those in use.

    The settings in use are tried first. Where a study of the same data and the same other settings is there, it goes
    on. Everything that is tried is written into the study's folder below `models/tuning/`, trial by trial.

    Args:
        spark: Session owned by the caller; never stopped here.
        settings: In use.
        settings_path: Their file; a proposal is written beside it.
        minutes: After these no further trial begins.
        trials: So many at most, with those of earlier calls.

    Returns:
        Where the study lies, its trials, NDCG@10 of both settings with the difference, the values that change,
        `proposal`, the path of the new file or `None`, and `outcome`, a sentence.

    Raises:
        TuningError: If `spark_etl` has not run, or the settings in use cannot be tried.
        EmptyInteractionsError: If nothing lies before the window.
    """
    end = time.monotonic() + minutes * 60
    if not files.exists(settings.paths.etl_report):
        raise TuningError(f"no {settings.paths.etl_report}: run etl_train_test_pipeline first, for example `make demo`")
    etl = files.read_json(settings.paths.etl_report)
    folder = f"{settings.paths.tuning}/{_study_name(spark, settings, etl)}"
    tuning_window.prepare(spark, settings, etl, folder)
    study = studies.open_study(folder, settings.tune.seed)
    in_use = tuning.parameters(settings)
    studies.enqueue(study, in_use)
    with tuning_window.opened(spark, folder) as window:
        while not studies.find(study, in_use) or (studies.ended(study) < trials and time.monotonic() < end):
            _try_next(study, window, settings, folder, trials)
    return _propose(study, settings, settings_path, folder, etl)


def _study_name(spark: SparkSession, settings: Settings, etl: dict[str, Any]) -> str:
    """Trials of one name can be compared: the same data, windows, users, other settings and bounds of the search."""
    from optuna.distributions import distribution_to_json
    from pyspark.sql import functions as f

    content = f.bit_xor(f.xxhash64(ITEM, f.coalesce(CATEGORY, f.lit("")), AVAILABLE))
    fixed = {section: asdict(getattr(settings, section)) for section in _DECIDING_SECTIONS}
    for name in tuning.parameters(settings):
        section, key = name.split(".")
        fixed.get(section, {}).pop(key, None)
    deciding = {
        "data": [etl["fingerprint"], etl["target_from"], etl["test_from"]],
        "catalogue": spark.read.parquet(settings.paths.items).agg(content).collect()[0][0],
        "settings": fixed,
        "allow_repeats": settings.publish.allow_repeats,
        "users": settings.tune.users,
        "space": {name: distribution_to_json(where) for name, where in tuning.space(settings).items()},
    }
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()[:16]


def _try_next(study: Study, window: tuning_window.Window, settings: Settings, folder: str, trials: int) -> None:
    """Run one trial. One that fails says nothing against the next, except that of the settings in use.

    Raises:
        TuningError: If these fail.
    """
    began = time.monotonic()
    trial = study.ask(tuning.space(settings))
    chosen = tuning.with_parameters(settings, trial.params)
    place = f"{studies.ended(study) + 1} of {trials}"
    tried = ", ".join(f"{name} {value}" for name, value in tuning.parameters(chosen).items())
    try:
        worth = tuning.judge(tuning_window.propose_in(window, chosen), chosen)
    except ShortlistError as error:
        told = f"{type(error).__name__}: {error}"
        studies.end_trial(folder, study, trial, value=None, seconds=time.monotonic() - began, error=told)
        logger.warning("trial %s failed: %s; %s", place, told, tried)
        if trial.params == tuning.parameters(settings):
            raise TuningError(f"the settings in use cannot be tried on the target window: {error}") from error
        return
    ndcg = {"choosing": worth.choosing.tolist(), "confirming": worth.confirming.tolist()}
    files.write_json(_ndcg_file(folder, trial.number), ndcg)
    value, seconds = float(worth.choosing.mean()), time.monotonic() - began
    studies.end_trial(folder, study, trial, value=value, seconds=seconds)
    best = study.best_value
    logger.info("trial %s: NDCG@10 %.4f (best %.4f) in %.1f s; %s", place, value, best, seconds, tried)


def _propose(study: Study, settings: Settings, settings_path: str, folder: str, etl: dict[str, Any]) -> dict[str, Any]:
    """Compare the best trial with the settings in use, and propose it if users without a part in the choice agree."""
    complete = studies.complete_trials(study)
    in_use = next(trial for trial in complete if trial.params == tuning.parameters(settings))
    best = max(complete, key=lambda trial: (_value(trial), trial is in_use))
    before, after = (_confirming(folder, trial) for trial in (in_use, best))
    difference = metrics.bootstrap(after - before, settings.evaluation)
    compared = (
        f"NDCG@10 {after.mean():.4f} instead of {before.mean():.4f} on {len(after)} users with no part in the choice, "
        f"difference {difference.mean:+.4f} [{difference.low:+.4f}, {difference.high:+.4f}]"
    )
    result = {
        "study": folder,
        "trials": len(complete),
        "failed": len(studies.failed_trials(study)),
        "seconds_per_trial": round(fmean(trial.user_attrs["seconds"] for trial in complete), 1),
    }
    if difference.mean <= 0:
        studies.withdraw_proposal(settings_path, folder)
        found = "the settings in use are the best" if best is in_use else f"the best trial does not hold: {compared}"
        outcome = f"nothing better found in {len(complete)} trials; {found}"
        logger.info("%s", outcome)
        return result | {"ndcg@10": {"in_use": float(before.mean())}, "proposal": None, "outcome": outcome}
    chosen = tuning.parameters(tuning.with_parameters(settings, best.params))
    changed = {name: value for name, value in chosen.items() if value != in_use.params[name]}
    reasons = [
        f"Proposed in the place of {settings_path} by trial {best.number} in {folder}, of {len(complete)}:",
        f"{compared}.",
        *(["The interval holds 0: this may be chance."] if difference.low <= 0 else []),
        f"Tried on what the users took from {etl['target_from']} to {etl['test_from']}, data {etl['fingerprint']}.",
        "The test window was not read: what this file is worth there, the evaluation of a run with it tells.",
        f"Changed: {', '.join(f'{name} {in_use.params[name]} -> {value}' for name, value in changed.items())}",
    ]
    place = studies.write_proposal(studies.proposal(settings_path, changed, reasons), settings_path, folder)
    outcome = f"{compared}; proposed in {place}"
    logger.info("%s", outcome)
    return result | {
        "ndcg@10": {"in_use": float(before.mean()), "proposed": float(after.mean())},
        "difference": asdict(difference),
        "changed": {name: [in_use.params[name], value] for name, value in changed.items()},
        "proposal": place,
        "outcome": outcome,
    }


def _value(trial: FrozenTrial) -> float:
    assert trial.value is not None  # a complete trial has one
    return trial.value


def _confirming(folder: str, trial: FrozenTrial) -> NDArray[np.float64]:
    import numpy as np

    return np.array(files.read_json(_ndcg_file(folder, trial.number))["confirming"])


def _ndcg_file(folder: str, number: int) -> str:
    return f"{folder}/ndcg/trial_{number:04}.json"
