"""Export step: writes what training learned as the files that the weekly DAGs load."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from shortlist.columns import (
    AVAILABLE,
    CATEGORY,
    ITEM,
    ITEM_INDEX,
    RANK,
    SCORE,
    SIMILAR_INDEX,
    SIMILAR_ITEM,
    TIME,
    TITLE,
    USER,
    USER_INDEX,
    WEIGHT,
)
from shortlist.recommender import features
from shortlist.stores import files, model_versions
from steps import report, tracking
from steps.evaluate import labelled_candidates
from steps.stage_one import indexed_events, propose_at

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from shortlist.settings import Settings

logger = logging.getLogger(__name__)


def export_recommendations(
    spark: SparkSession, *, settings: Settings, version_path: str, timings: str | None = None
) -> dict[str, int]:
    """Write the hand-over files of a version into `postgres_data/`, each complete or not at all.

    `items`, `user_history`, `default_recs`, `online_recs`, `candidates_train` (the target window and the test window)
    and `candidates_inference`, and the scores of `future.csv` if it is there. The version becomes the champion,
    and its report says so.

    Args:
        spark: Session owned by the caller; never stopped here.
        settings: Paths and list lengths.
        version_path: A complete stage-one version with the candidates that evaluation wrote.
        timings: JSON, see `report.write_report`.

    Returns:
        Number of rows by file.
    """
    from pyspark.sql import functions as f

    tables = _known_tables(spark, settings, version_path)
    events = indexed_events(spark, settings, version_path).persist()
    try:
        target = labelled_candidates(
            spark, settings, version_path, moment=model_versions.HISTORY, until=model_versions.TRAIN
        )
        tested = f"{version_path}/candidates/{model_versions.TRAIN}"
        users = spark.read.parquet(f"{version_path}/users")
        proposed = propose_at(spark, settings, version_path, events, users, model_versions.ALL)
        names = spark.read.parquet(f"{version_path}/items").select(ITEM_INDEX, ITEM)
        history = features.pairs(events, settings.interactions)
        tables |= {
            "user_history": history.join(users, on=USER_INDEX, how="inner")
            .join(f.broadcast(names), on=ITEM_INDEX, how="inner")
            .select(USER, ITEM, TIME, f.col("amount").cast("float").alias(WEIGHT)),
            "candidates_train": spark.read.parquet(target, tested),
            "candidates_inference": proposed.drop("target", "n_relevant"),
        }
        rows = {name: _write(spark, table, name, settings, version_path) for name, table in tables.items()}
    finally:
        events.unpersist()
    if files.exists(settings.paths.futures):
        rows["future_scores"] = _score_futures(spark, settings, version_path)
    decision = files.read_json(f"{version_path}/{model_versions.METRICS}")["gate"]
    version = version_path.rsplit("/", 1)[-1]
    tracking.promote(settings=settings, model=tracking.RECOMMENDER, version=version, reason=decision["reason"])
    handed_over = ", ".join(f"{name} {count:,} rows" for name, count in rows.items())
    report.leave_report(
        settings=settings,
        model=tracking.RECOMMENDER,
        path=version_path,
        timings=timings,
        outcome=f"It is the champion and was handed over: {handed_over}.",
    )
    logger.info("handed over: %s", handed_over)
    return rows


def _known_tables(spark: SparkSession, settings: Settings, version_path: str) -> dict[str, DataFrame]:
    """The tables that stage one holds ready: items, default and online recommendations."""
    from pyspark.sql import functions as f
    from pyspark.sql.window import Window

    known = spark.read.parquet(f"{version_path}/{model_versions.ALL}/item_features")
    items = (
        spark.read.parquet(f"{version_path}/items")
        .drop(AVAILABLE)
        .join(known.select(ITEM_INDEX, SCORE, AVAILABLE), on=ITEM_INDEX, how="inner")
    )
    available = items.where(AVAILABLE)
    popular = available.orderBy(f.col(SCORE).desc(), ITEM).limit(settings.publish.default_recs)
    neighbour = available.select(f.col(ITEM_INDEX).alias(SIMILAR_INDEX), f.col(ITEM).alias(SIMILAR_ITEM))
    best = Window.partitionBy(ITEM).orderBy(f.col(SCORE).desc(), SIMILAR_ITEM)
    similar = (
        spark.read.parquet(f"{version_path}/{model_versions.ALL}/similar")
        .join(f.broadcast(neighbour), on=SIMILAR_INDEX, how="inner")
        .join(f.broadcast(items.select(ITEM_INDEX, ITEM)), on=ITEM_INDEX, how="inner")
        .withColumn(RANK, f.row_number().over(best))
        .where(f.col(RANK) <= settings.publish.online_recs)
    )
    # At most [publish].default_recs rows: one partition is enough, and the window says so to Spark.
    first = Window.partitionBy(f.lit(0)).orderBy(f.col(SCORE).desc(), ITEM)
    return {
        "items": items.select(ITEM, TITLE, CATEGORY, AVAILABLE),
        "default_recs": popular.select(f.row_number().over(first).alias(RANK), ITEM, SCORE),
        "online_recs": similar.select(ITEM, RANK, SIMILAR_ITEM, SCORE),
    }


def _write(spark: SparkSession, table: DataFrame, name: str, settings: Settings, version_path: str) -> int:
    """Write one hand-over folder with its manifest and put it in place. Returns the number of rows."""
    manifest = model_versions.read_manifest(version_path)
    new, place = f"{settings.paths.hand_over}/_{name}.parquet", f"{settings.paths.hand_over}/{name}.parquet"
    table.write.mode("overwrite").parquet(new)
    rows = spark.read.parquet(new).count()
    origin = {"model_version": manifest["version"], "fingerprint": manifest["fingerprint"]}
    files.write_json(f"{new}/_export.json", origin | {"as_of": manifest["as_of"][model_versions.ALL], "rows": rows})
    files.replace(new, place)
    logger.info("wrote %s, %d rows", place, rows)
    return rows


def _score_futures(spark: SparkSession, settings: Settings, version_path: str) -> int:
    """Score the pairs of `future.csv` with the served model: null where it knows the user or the item not."""
    from pyspark.sql import functions as f

    folder = f"{version_path}/{model_versions.ALL}"
    schema = f"{USER} string, {ITEM} string, {TIME} string"
    pairs = spark.read.csv(settings.paths.futures, header=True, schema=schema)
    user = spark.read.parquet(f"{folder}/user_factors").withColumnRenamed("factors", "user_factors")
    item = spark.read.parquet(f"{folder}/item_factors").withColumnRenamed("factors", "item_factors")
    products = f.zip_with("user_factors", "item_factors", lambda left, right: left * right)
    score = f.aggregate(products, f.lit(0.0), lambda total, product: total + product)
    place = f"{settings.paths.processed}/future_scores"
    (
        pairs.join(spark.read.parquet(f"{version_path}/users"), on=USER, how="left")
        .join(spark.read.parquet(f"{version_path}/items").select(ITEM, ITEM_INDEX), on=ITEM, how="left")
        .join(user, on=USER_INDEX, how="left")
        .join(item, on=ITEM_INDEX, how="left")
        .select(USER, ITEM, TIME, score.cast("float").alias(SCORE))
        .write.mode("overwrite")
        .parquet(f"{place}.new")
    )
    files.replace(f"{place}.new", place)
    return spark.read.parquet(place).count()
