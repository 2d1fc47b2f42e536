"""What all trials of a search share: stage one before the target window, and the users who are asked in it."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from shortlist.columns import AS_OF, ITEM, ITEM_INDEX, SCORE, TIME, USER, USER_INDEX, WEIGHT
from shortlist.errors import ModelVersionError
from shortlist.recommender import als, candidates, features, indexing
from shortlist.stores import files, model_versions
from steps.evaluate import draw_users
from steps.train import train_at

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa
    from pyspark.sql import DataFrame, SparkSession

    from shortlist.settings import Settings

logger = logging.getLogger(__name__)

_PREPARED = "prepared"


@dataclass(frozen=True)
class Window:
    """Read-only; a trial adds its own ALS, popularity and ranker.

    Attributes:
        path: A version with the one moment `history`.
        as_of: ISO time, UTC, at which the window begins.
        n_items: Number of item indexes.
        preferences: (user_index, item_index, weight) that ALS learns from.
        events: (item_index, time, weight) before the window, for the popularity.
        users: The users of the window as `features.user_features` knows them, with what they took.
    """

    path: str
    as_of: str
    n_items: int
    preferences: DataFrame
    events: DataFrame
    users: DataFrame


def prepare(spark: SparkSession, settings: Settings, etl: dict[str, Any], folder: str) -> None:
    """Write what all trials of a study share, unless it is there, from what lies before the test window.

    Args:
        spark: Session owned by the caller; never stopped here.
        settings: Those that no trial varies are used.
        etl: The report of `spark_etl`.
        folder: Of the study.
    """
    from pyspark.sql import functions as f

    if files.exists(f"{folder}/{_PREPARED}/{model_versions.MANIFEST}"):
        return
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
        asked = features.user_features(
            indexed, draw_users(users, taken, settings.tune.users), as_of, settings.interactions
        )
        asked.write.parquet(f"{path}/asked")
    finally:
        indexed.unpersist()
    model_versions.complete(folder, _PREPARED, {"as_of": as_of, "until": until, "fingerprint": etl["fingerprint"]})
    logger.info("prepared %s", folder)


@contextmanager
def opened(spark: SparkSession, folder: str) -> Iterator[Window]:
    """Hold what `prepare` wrote in memory while trials run."""
    path = f"{folder}/{_PREPARED}"
    held = [spark.read.parquet(f"{path}/{name}").persist() for name in ("preferences", "events", "asked")]
    try:
        yield Window(
            path, model_versions.read_manifest(path)["as_of"], spark.read.parquet(f"{path}/items").count(), *held
        )
    finally:
        for frame in held:
            frame.unpersist()


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
