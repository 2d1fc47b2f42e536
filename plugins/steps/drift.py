"""Drift steps: new feedback is held against what the champion was trained on, and that decides about a retraining."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from shortlist.columns import FACTORS, ITEM, ITEM_INDEX, USER, USER_INDEX
from shortlist.errors import ModelVersionError
from shortlist.recommender import drift, profiles
from shortlist.stores import drift_records, files, model_versions, report_files
from steps import messages
from steps.streaming import MANIFEST, batches

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pyspark.sql import Column, DataFrame, SparkSession

    from shortlist.settings import Settings

logger = logging.getLogger(__name__)

# What a batch is compared by, in the folder of the batch.
_COMPARISON = "drift.json"

_SHOWN_RUNS = 60


def find_current_model(*, settings: Settings) -> str:
    """Return the path of the champion; where none was made one yet, of the newest complete version.

    Raises:
        ModelVersionError: If there is no complete version, or something of it was removed.
    """
    folder = settings.paths.model_versions
    pointer = model_versions.champion(folder)
    path = f"{folder}/{pointer.version}" if pointer else model_versions.find_latest(folder)
    model_versions.check_parts(path)
    return path


def detect_drift(
    spark: SparkSession, *, settings: Settings, batch_path: str, version_path: str
) -> dict[str, dict[str, Any]]:
    """Compare a batch with the train and test set of a model, and the model's predictions on both.

    The first time, what is known of the model's own data is counted and kept in its version.

    Args:
        spark: Session owned by the caller; may be a Spark Connect one.
        settings: Paths, thresholds.
        batch_path: Of `process_streaming_data`.
        version_path: The model in use.

    Returns:
        `data_drift` and `model_drift`, each with its `score`, the largest of its `terms`.

    Raises:
        ModelVersionError: If the version is damaged, or the data it was trained on is gone.
    """
    if not drift_records.has_reference(version_path):
        _make_reference(spark, settings, version_path)
    reference, edges = drift_records.load_reference(version_path)
    described = _describe_batch(spark, settings, batch_path, version_path)
    profile, _ = profiles.count(described, edges)
    limits = drift.chance_limits(
        reference,
        settings.drift,
        rows={name: float(counts.sum()) for name, counts in profile.histograms.items()},
        blocks=profile.blocks,
    )
    found = drift.compare(profile, reference, settings.drift, limits)
    result = {"data_drift": _summary(found.data), "model_drift": _summary(found.model)}
    files.write_json(
        f"{batch_path}/{_COMPARISON}",
        {
            **result,
            "reason": found.reason,
            "rows": float(profile.histograms[drift.WEIGHTS].sum()),
            "user_days": profile.blocks,
            "days": profile.days,
            "new": {name: counts.tolist() for name, counts in profile.histograms.items()},
            "reference": {name: counts.tolist() for name, counts in reference.totals.items()},
            "values": {name: values.tolist() for name, values in reference.values.items()},
            "listed": _listed(spark, settings, batch_path, version_path),
        },
    )
    logger.info("%s", found.reason)
    return result


def check_retrain(
    *,
    settings: Settings,
    batch_path: str,
    version_path: str,
    data_drift: Mapping[str, Any],
    model_drift: Mapping[str, Any],
) -> dict[str, Any]:
    """Decide whether to retrain, keep the decision, write the report and tell Telegram, with the picture.

    Two things speak for it: a drift, and many interactions in batches that wait, of which the champion knows nothing.

    Returns:
        `retrain`, `reason`, `score` (the largest), every term, interactions `waiting`, and where the `report` lies.
    """
    from shortlist.reports import drift as report

    compared = files.read_json(f"{batch_path}/{_COMPARISON}")
    terms = [*data_drift["terms"], *model_drift["terms"]]
    drifted = any(term["drifted"] for term in terms)
    known = model_versions.read_manifest(version_path)["interactions"]
    waiting = sum(files.read_json(f"{path}/{MANIFEST}")["accepted"] for path in batches(settings))
    many = waiting / known > settings.drift.waiting
    reason = compared["reason"]
    if many and not drifted:
        reason = (
            f"{waiting:,} interactions wait, {waiting / known:.0%} of those that the champion knows "
            f"(allowed: {settings.drift.waiting:.0%}); {reason}"
        )
    batch = batch_path.rsplit("/", 1)[-1]
    decision = {
        "batch": batch,
        "retrain": drifted or many,
        "reason": reason,
        "score": max(data_drift["score"], model_drift["score"]),
        "data_drift": data_drift["score"],
        "model_drift": model_drift["score"],
        "terms": terms,
        "waiting": waiting,
        "champion": version_path.rsplit("/", 1)[-1],
        "report": f"{settings.paths.reports}/{batch}/{report_files.PAGE}",
    }
    drift_records.record(settings.paths.drift, batch, decision)
    history = drift_records.history(settings.paths.drift, _SHOWN_RUNS)
    manifest = files.read_json(f"{batch_path}/{MANIFEST}")
    picture = report.picture(decision, history)
    report_files.write_report(
        settings.paths.reports,
        batch,
        kind=report_files.DRIFT,
        headline=report.headline(decision),
        page=report.render(decision, compared, manifest, history),
        pictures={"decision.png": picture},
    )
    messages.send_message(messages.drift(decision, manifest), picture=picture)
    logger.info("%s: %s", "retrain" if decision["retrain"] else "no retraining", decision["reason"])
    return decision


def skip_retrain(*, decision: Mapping[str, Any]) -> None:
    """Say why the model stays. The batch waits for the next retraining."""
    logger.info(
        "the model stays: %s. The batch %s waits for the next retraining", decision["reason"], decision["batch"]
    )


def _summary(terms: tuple[drift.Term, ...]) -> dict[str, Any]:
    return {
        "score": max((term.score for term in terms), default=0.0),
        "drifted": any(term.drifted for term in terms),
        "terms": [term.as_dict() for term in terms],
    }


def _make_reference(spark: SparkSession, settings: Settings, version_path: str) -> None:
    from pyspark.sql import functions as f

    manifest = model_versions.read_manifest(version_path)
    paths = settings.paths
    known = files.read_json(paths.etl_report)["fingerprint"] if files.exists(paths.etl_report) else None
    if known != manifest["fingerprint"]:
        raise ModelVersionError(
            f"the data that {version_path} was trained on is no longer in {paths.processed}: run "
            "etl_train_test_pipeline, so that there is a model of the data that is there"
        )
    logger.info("counting what %s was trained on", version_path)
    train = spark.read.parquet(paths.train)
    place = f"{version_path}/{drift_records.ITEMS}"
    profiles.rank_items(train).write.mode("overwrite").parquet(place)
    items = spark.read.parquet(place)
    data = profiles.describe_data(train, items, settings.interactions).persist()
    tested = profiles.describe_data(spark.read.parquet(paths.test), items, settings.interactions)
    model = _with_predictions(spark, version_path, tested, f.lit(True)).persist()
    try:
        edges = profiles.Edges(
            weights=profiles.choose_edges(data, drift.WEIGHTS),
            predictions=profiles.choose_edges(model, drift.PREDICTIONS),
        )
        of_data, weights = profiles.count(data, edges)
        of_model, predictions = profiles.count(model, edges)
        reference = drift.Reference(
            totals={name: of_data.histograms[name] for name in drift.DATA}
            | {name: of_model.histograms[name] for name in drift.MODEL},
            blocks=profiles.sample_blocks(data, edges, of_data.blocks, drift.DATA)
            | profiles.sample_blocks(model, edges, of_model.blocks, drift.MODEL),
            values={
                drift.WEIGHTS: weights[drift.WEIGHTS],
                drift.PREDICTIONS: predictions[drift.PREDICTIONS],
            },
        )
    finally:
        data.unpersist()
        model.unpersist()
    drift_records.save_reference(version_path, reference, edges)


def _describe_batch(spark: SparkSession, settings: Settings, batch_path: str, version_path: str) -> DataFrame:
    from pyspark.sql import functions as f

    items = spark.read.parquet(f"{version_path}/{drift_records.ITEMS}")
    parts = [
        _with_predictions(
            spark,
            version_path,
            profiles.describe_data(spark.read.parquet(f"{batch_path}/{part}"), items, settings.interactions),
            f.lit(part == "test"),
        )
        for part in ("train", "test")
    ]
    return parts[0].unionByName(parts[1])


def _listed(spark: SparkSession, settings: Settings, batch_path: str, version_path: str) -> dict[str, float] | None:
    """How much of the batch was among the items that the model lists first for its users, as it was handed over.

    Returns:
        `k`, the length of the lists; `pairs` of users with a list and items; the `share` of them that was listed. None
        if the files that were handed over are no longer this model's, or none of their users is in the batch.
    """
    from pyspark.sql import functions as f

    place = f"{settings.paths.hand_over}/candidates_inference.parquet"
    origin = f"{place}/_export.json"
    if not files.exists(origin) or files.read_json(origin)["model_version"] != version_path.rsplit("/", 1)[-1]:
        return None
    k = settings.publish.k
    lists = spark.read.parquet(place).where(f.col("als_rank") <= k).groupBy(USER).agg(f.collect_set(ITEM).alias("list"))
    pairs = spark.read.parquet(f"{batch_path}/train", f"{batch_path}/test").select(USER, ITEM).distinct()
    listed = f.array_contains("list", f.col(ITEM)).cast("int")
    (found,) = (
        pairs.join(lists, on=USER, how="inner")
        .agg(f.count(listed).alias("pairs"), f.avg(listed).alias("share"))
        .collect()
    )
    return {"k": k, **found.asDict()} if found["pairs"] else None


def _with_predictions(spark: SparkSession, version_path: str, data: DataFrame, predicted: Column) -> DataFrame:
    """Predictions of the model that has not seen the test window: on seen interactions they would be too good."""
    folder = f"{version_path}/{model_versions.TRAIN}"
    users = spark.read.parquet(f"{folder}/user_factors").join(
        spark.read.parquet(f"{version_path}/users"), on=USER_INDEX, how="inner"
    )
    items = spark.read.parquet(f"{folder}/item_factors").join(
        spark.read.parquet(f"{version_path}/items"), on=ITEM_INDEX, how="inner"
    )
    return profiles.describe_predictions(
        data, users.select(USER, FACTORS), items.select(ITEM, FACTORS), predicted=predicted
    )
