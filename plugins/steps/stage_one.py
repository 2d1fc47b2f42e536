"""What steps share that use a stage-one version: its indexes and its candidates."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from shortlist.columns import ITEM, ITEM_INDEX
from shortlist.recommender import candidates, features
from shortlist.stores import model_versions

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from shortlist.settings import Settings


def indexed_events(spark: SparkSession, settings: Settings, version_path: str) -> DataFrame:
    """Return all interactions with the indexes of a version."""
    events = spark.read.parquet(settings.paths.train, settings.paths.test)
    users, items = (spark.read.parquet(f"{version_path}/{name}") for name in ("users", "items"))
    return features.indexed(events, users, items.select(ITEM, ITEM_INDEX))


def propose_at(
    spark: SparkSession,
    settings: Settings,
    version_path: str,
    events: DataFrame,
    users: DataFrame,
    moment: str,
    as_of: str | None = None,
) -> DataFrame:
    """Propose candidates to users by the model of a moment, from what was known then, or at a later time `as_of`."""
    as_of = as_of or model_versions.read_manifest(version_path)["as_of"][moment]
    factors = spark.read.parquet(f"{version_path}/{moment}/user_factors")
    rows = features.user_rows(events, users, factors, as_of, settings.interactions)
    return candidates.propose(
        rows,
        partial(model_versions.load_items, version_path, moment),
        settings.candidates,
        allow_repeats=settings.publish.allow_repeats,
    )
