"""Tuning step: tries settings on the target window, and proposes the best. The test window is never read."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING, Any

from shortlist.columns import (
    AS_OF,
    AVAILABLE,
    CATEGORY,
    ITEM,
    ITEM_INDEX,
    SCORE,
    TIME,
    USER,
    USER_INDEX,
    WEIGHT,
)
from shortlist.errors import ModelVersionError, ShortlistError, TuningError
from shortlist.recommender import als, candidates, features, indexing, metrics, tuning
from shortlist.stores import files, model_versions, studies
from steps.evaluate import draw_users
from steps.train import train_at

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray
    from optuna import Study
    from optuna.trial import FrozenTrial
    from pyspark.sql import DataFrame, SparkSession

    from shortlist.settings import Settings

logger = logging.getLogger(__name__)

_PREPARED = "prepared"

# What else decides how good settings are; with another value, earlier trials say nothing.
_DECIDING_SECTIONS = ("interactions", "items", "similarity", "als", "ranker")


@dataclass(frozen=True)
class Window:
    """What all trials share: stage one before the target window, and the users who are asked in it.

    Attributes:
        path: A version with the one moment `history`.
        as_of: ISO time, UTC, at which the window begins.
        n_items: Number of item indexes.
        preferences: (user_index, item_index, weight) that ALS learns from.
        events: (item_index, time, weight) before the window, for the popularity.
        users: The users of the window as `features.described_users` knows them, with what they took.
    """

    path: str
    as_of: str
    n_items: int
    preferences: DataFrame
    events: DataFrame
    users: DataFrame


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
    if not files.exists(f"{folder}/{_PREPARED}/{model_versions.MANIFEST}"):
        _prepare(spark, settings, etl, folder)
    study = studies.open_study(folder, settings.tune.seed)
    in_use = tuning.parameters(settings)
    studies.enqueue(study, in_use)
    with _window(spark, folder, etl) as window:
        while True:
            done = len(studies.complete_trials(study)) + len(studies.failed_trials(study))
            if studies.find(study, in_use) and (done >= trials or time.monotonic() >= end):
                break
            _try_next(study, window, settings, folder, trials)
    return _propose(study, settings, settings_path, folder, etl)


def propose_in(window: Window, settings: Settings) -> pa.Table:
    """Fit ALS and propose candidates to the users of the window: all that depends on the settings of stage one.

    Returns:
        Labelled candidates with their moment, sorted by user and item. Bounded by [tune].users: they fit on the driver.

    Raises:
        ModelVersionError: If the factors are not finite.
    """
    import numpy as np
    from pyspark.sql import functions as f

    factors = als.fit(window.preferences, settings.als)
    item_factors = als.as_matrix(factors.items.toArrow(), window.n_items)
    if not np.isfinite(item_factors).all():
        raise ModelVersionError("the item factors hold NaN or Inf: more [als].regularization, or less alpha")
    recent = features.popularity(window.events, window.as_of, settings.candidates).toArrow()
    popularity = np.zeros(window.n_items, np.float32)
    popularity[recent[ITEM_INDEX].to_numpy()] = recent[SCORE].to_numpy()
    path = window.path

    def load_items() -> candidates.ItemState:
        shared = model_versions.load_items(path, model_versions.HISTORY)
        return replace(shared, factors=item_factors, popularity=popularity)

    proposed = candidates.propose(
        features.with_factors(window.users, factors.users),
        load_items,
        settings.candidates,
        allow_repeats=settings.publish.allow_repeats,
    )
    dated = proposed.withColumn(AS_OF, f.lit(window.as_of).cast("timestamp"))
    return dated.toArrow().sort_by([(USER, "ascending"), (ITEM, "ascending")])


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


def _prepare(spark: SparkSession, settings: Settings, etl: dict[str, Any], folder: str) -> None:
    """Write what all trials share, from nothing but the interactions before the test window."""
    from pyspark.sql import functions as f

    path = model_versions.begin(folder, _PREPARED)
    interactions = spark.read.parquet(settings.paths.train)
    catalogue = spark.read.parquet(settings.paths.items)
    indexing.index_ids(interactions, USER, USER_INDEX).write.parquet(f"{path}/users")
    indexing.index_ids(interactions, ITEM, ITEM_INDEX).join(catalogue, on=ITEM, how="inner").write.parquet(
        f"{path}/items"
    )
    users, items = spark.read.parquet(f"{path}/users"), spark.read.parquet(f"{path}/items")
    indexed = features.indexed(interactions, users, items).persist()
    as_of, until = etl["target_from"], etl["test_from"]
    try:
        train_at(indexed, items, items.count(), f"{path}/{model_versions.HISTORY}", as_of, settings)
        before = indexed.where(f.col(TIME) < f.lit(as_of).cast("timestamp"))
        liked = features.pairs(before, settings.interactions).where(f.col(WEIGHT).isNotNull())
        liked.select(USER_INDEX, ITEM_INDEX, WEIGHT).write.parquet(f"{path}/preferences")
        before.select(ITEM_INDEX, TIME, WEIGHT).write.parquet(f"{path}/events")
        taken = features.relevant_items(indexed, as_of, until, settings.interactions)
        asked = features.described_users(
            indexed, draw_users(users, taken, settings.tune.users), as_of, settings.interactions
        )
        asked.write.parquet(f"{path}/asked")
    finally:
        indexed.unpersist()
    model_versions.complete(folder, _PREPARED, {"as_of": as_of, "until": until, "fingerprint": etl["fingerprint"]})
    logger.info("prepared %s", folder)


@contextmanager
def _window(spark: SparkSession, folder: str, etl: dict[str, Any]) -> Iterator[Window]:
    path = f"{folder}/{_PREPARED}"
    held = [spark.read.parquet(f"{path}/{name}").persist() for name in ("preferences", "events", "asked")]
    try:
        yield Window(path, etl["target_from"], spark.read.parquet(f"{path}/items").count(), *held)
    finally:
        for frame in held:
            frame.unpersist()


def _try_next(study: Study, window: Window, settings: Settings, folder: str, trials: int) -> None:
    """Run one trial. One that fails says nothing against the next, except that of the settings in use.

    Raises:
        TuningError: If these fail.
    """
    began = time.monotonic()
    trial = study.ask(tuning.space(settings))
    chosen = tuning.with_parameters(settings, trial.params)
    tried = ", ".join(f"{name} {value}" for name, value in tuning.parameters(chosen).items())
    try:
        worth = tuning.judge(propose_in(window, chosen), chosen)
    except ShortlistError as error:
        told = f"{type(error).__name__}: {error}"
        studies.end_trial(folder, study, trial, value=None, seconds=time.monotonic() - began, error=told)
        logger.warning("trial %d of %d failed: %s; %s", trial.number + 1, trials, told, tried)
        if trial.params == tuning.parameters(settings):
            raise TuningError(f"the settings in use cannot be tried on the target window: {error}") from error
        return
    ndcg = {"choosing": worth.choosing.tolist(), "confirming": worth.confirming.tolist()}
    files.write_json(_ndcg_file(folder, trial.number), ndcg)
    value, seconds = float(worth.choosing.mean()), time.monotonic() - began
    studies.end_trial(folder, study, trial, value=value, seconds=seconds)
    logger.info(
        "trial %d of %d: NDCG@10 %.4f (best %.4f) in %.1f s; %s",
        trial.number + 1,
        trials,
        value,
        study.best_value,
        seconds,
        tried,
    )


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
        f"Proposed in the place of {settings_path} by trial {best.number + 1} of {len(complete)}:",
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
