"""Training step: stage one, for three moments, so that nothing ever sees its own future."""

from __future__ import annotations

import logging
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from shortlist.columns import ITEM, ITEM_INDEX, USER, USER_INDEX, WEIGHT
from shortlist.recommender import als, features, indexing, similarity
from shortlist.stores import files, model_versions

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from shortlist.settings import Settings

logger = logging.getLogger(__name__)


def train_recommender(
    spark: SparkSession, *, settings: Settings, version: str, dataset_commit: str | None = None
) -> str:
    """Train ALS, similar items and popularity on all that lies before each of three moments.

    `history` ends where the target window begins: its candidates, labelled by that window, teach the ranker. `train`
    ends where the test window begins: it is evaluated. `all` knows everything: it is served.

    Args:
        spark: Session owned by the caller; never stopped here.
        settings: Paths and hyper-parameters.
        version: Name of the new version; an earlier attempt of the same name is replaced.
        dataset_commit: Of the data set that the input is, kept in the manifest. Empty counts as none.

    Returns:
        The path of the complete version.

    Raises:
        EmptyInteractionsError: If nothing lies before one of the moments.
    """
    paths = settings.paths
    etl = files.read_json(paths.etl_report)
    path = model_versions.begin(paths.model_versions, version)
    events = spark.read.parquet(paths.train, paths.test)
    indexing.index_ids(events, USER, USER_INDEX).write.parquet(f"{path}/users")
    catalogue = spark.read.parquet(paths.items)
    indexing.index_ids(catalogue, ITEM, ITEM_INDEX).join(catalogue, on=ITEM, how="inner").write.parquet(f"{path}/items")
    items = spark.read.parquet(f"{path}/items")
    indexed = features.indexed(events, spark.read.parquet(f"{path}/users"), items).persist()
    moments = moments_of(etl)
    try:
        for moment, as_of in moments.items():
            train_at(indexed, items, etl["items"], f"{path}/{moment}", as_of, settings)
    finally:
        indexed.unpersist()
    manifest = {
        "as_of": moments,
        "fingerprint": etl["fingerprint"],
        "interactions": etl["accepted"],
        "users": etl["users"],
        "items": etl["items"],
        "seed": settings.als.seed,
        "dataset_commit": dataset_commit or None,
        "parameters": {
            "als": asdict(settings.als),
            "similarity": asdict(settings.similarity),
            "interactions": asdict(settings.interactions),
        },
    }
    complete = model_versions.complete(paths.model_versions, version, manifest)
    logger.info("stage one complete: %s", complete)
    return complete


def moments_of(etl: dict[str, Any]) -> dict[str, str]:
    """Return the time, ISO and UTC, at which each stage-one model stands: it knows what lies before."""
    return {
        model_versions.HISTORY: etl["target_from"],
        model_versions.TRAIN: etl["test_from"],
        model_versions.ALL: (datetime.fromisoformat(etl["last"]) + timedelta(seconds=1)).isoformat(),
    }


def find_latest_model(*, settings: Settings, trained: str) -> str:
    """Return the path of the newest stage-one version, which is the one that this run has trained.

    A later name, from a clock that was ahead or from a run that was due later and came first, changes nothing.

    Args:
        settings: Of the project.
        trained: What `train_recommender` returned.

    Raises:
        ModelVersionError: If it is not complete.
    """
    model_versions.read_manifest(trained)
    last = model_versions.find_latest(settings.paths.model_versions)
    if last.rsplit("/", 1)[-1] != trained.rsplit("/", 1)[-1]:
        logger.warning("%s has a later name than %s, which this run has trained and goes on with", last, trained)
    return trained


def train_at(indexed: DataFrame, items: DataFrame, n_items: int, path: str, as_of: str, settings: Settings) -> None:
    """Write factors, similar items and item features, as known from nothing but what lies before a moment.

    Args:
        indexed: Indexed interactions; those from `as_of` on are left out here.
        items: Columns item_index and available.
        n_items: Number of item indexes.
        path: Folder of the moment in a new version.
        as_of: ISO time, UTC.
        settings: Hyper-parameters.
    """
    from pyspark.sql import functions as f

    before = indexed.where(f.col("time") < f.lit(as_of).cast("timestamp"))
    preferences = features.pairs(before, settings.interactions).where(f.col(WEIGHT).isNotNull()).persist()
    try:
        logger.info("ALS on everything before %s", as_of)
        factors = als.fit(preferences, settings.als)
        factors.users.write.parquet(f"{path}/user_factors")
        factors.items.write.parquet(f"{path}/item_factors")
        logger.info("similar items before %s", as_of)
        similarity.fit(features.histories(preferences), n_items, settings.similarity).write.parquet(f"{path}/similar")
    finally:
        preferences.unpersist()
    features.item_features(before, items, as_of, settings.items, settings.candidates).write.parquet(
        f"{path}/item_features"
    )
