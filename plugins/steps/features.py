"""Feature step: what is known of users and items, for the log or for Redis."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from shortlist.columns import CATEGORY, ITEM, ITEM_INDEX, REASON, TIME, USER, USER_INDEX
from shortlist.errors import FeatureStoreError
from shortlist.recommender import feature_rows, features, indexing, interactions
from shortlist.stores import feature_store, forgotten, readers
from steps import etl

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame, SparkSession

    from shortlist.settings import Settings

logger = logging.getLogger(__name__)

_SHOWN = 5
_SAMPLE = 1000


def check_redis(*, save_to_db: bool) -> None:
    """Make sure that Redis can be written to; without `save_to_db` it is not asked for.

    Raises:
        FeatureStoreError: Saying where Redis was looked for and what is wrong.
    """
    if not save_to_db:
        logger.info("save_to_db is false: the features go to the log, Redis is not needed")
        return
    store = feature_store.store_from_env()
    store.ping()
    logger.info("Redis at %s answers", store.place)


def process_and_save_features(
    spark: SparkSession, *, settings: Settings, as_of: str, input_path: str, save_to_db: bool, version: str
) -> dict[str, Any]:
    """Compute the features of all users and items at the end of the data, as the ranker sees them then.

    The input is read once and validated as `spark_etl` does. With `save_to_db` the features are written to Redis by
    Spark's tasks as a new version, which readers see when it is complete; else some of them are shown in the log.
    Users who are forgotten (where `$RECS_DATABASE_URL` tells) get no features.

    Args:
        spark: Session owned by the caller; may be a Spark Connect one.
        settings: Input, rules, feature store.
        as_of: ISO time of the run. Interactions more than a day later are rejected.
        input_path: File, folder or glob, in place of `settings.input.path`.
        save_to_db: Whether to write to Redis.
        version: Name of the version in Redis; another one for each attempt.

    Returns:
        Counts, `rejected` by reason, `features_as_of`; and, when saved, `version` and `predicted_megabytes`.

    Raises:
        InputError: If a file is missing, empty, unreadable or still growing.
        RejectedRowsError: If more rows were rejected than `[interactions].max_rejected_share` allows.
        EmptyInteractionsError: If nothing is left.
        FeatureMemoryError: If the features would not fit into Redis.
        FeatureStoreError: If Redis is not usable, or loses what is written.
        DatabaseUnavailableError: If there is a database, and it cannot be asked who is forgotten.
    """
    from pyspark.sql import functions as F

    settings = replace(settings, input=replace(settings.input, path=input_path))
    store = feature_store.store_from_env() if save_to_db else None
    found = readers.list_files(input_path)
    with ExitStack() as caches, readers.readable_errors():
        events, catalogue, report = _validated(spark, found, settings=settings, as_of=as_of, caches=caches)
        users = indexing.index_ids(events, USER, USER_INDEX)
        items = indexing.index_ids(catalogue, ITEM, ITEM_INDEX).join(catalogue, on=ITEM, how="inner")
        indexed = _cached(features.indexed(events, users, items), caches)
        moment = report["features_as_of"]
        item_rows = _cached(feature_rows.item_profiles(indexed, items, moment, settings), caches)
        user_rows = _cached(feature_rows.user_profiles(indexed, users, item_rows, moment, settings), caches)
        item_rows = item_rows.drop(ITEM_INDEX, CATEGORY)
        user_rows = user_rows.where(~F.col(USER).isin(*forgotten.forgotten_users_from_env()))
        report |= {"users": user_rows.count(), "items": item_rows.count()}
        readers.check_unchanged(input_path, found)
        if store:
            report |= _save(store, user_rows, item_rows, report, settings=settings, version=version)
        else:
            for name, rows, key in (("users", user_rows, USER), ("items", item_rows, ITEM)):
                some = rows.orderBy(key).limit(_SHOWN).toPandas().set_index(key).T
                logger.info("features of some of %s %s:\n%s", f"{report[name]:,}", name, some.to_string())
    return report


def _validated(
    spark: SparkSession, found: tuple[readers.InputFile, ...], *, settings: Settings, as_of: str, caches: ExitStack
) -> tuple[DataFrame, DataFrame, dict[str, Any]]:
    """Return interactions, catalogue and the first part of the report. The input is read here, once."""
    from pyspark.sql import functions as F

    rows = _cached(etl.validated_rows(spark, found, settings=settings, as_of=as_of), caches)
    accepted = _cached(interactions.distinct_interactions(rows), caches)
    blocks = etl.count_by_block(rows)
    read = sum(block["rows"] for block in blocks)
    valid = sum(block["rows"] for block in blocks if block[REASON] is None)
    (known,) = accepted.agg(F.count(F.lit(1)).alias("rows"), F.unix_seconds(F.max(TIME)).alias("last")).collect()
    rejected = etl.count_reasons(blocks, valid - known["rows"])
    logger.info("read %s rows, accepted %s, rejected %s", f"{read:,}", f"{known['rows']:,}", rejected or "none")
    etl.check_rejected(rejected, read, known["rows"], settings=settings, inputs=found)
    # The moment at which the recommender that knows everything stands.
    moment = datetime.fromtimestamp(known["last"] + 1, tz=UTC).isoformat()
    report = {"read": read, "accepted": known["rows"], "rejected": rejected, "features_as_of": moment}
    return accepted, _cached(etl.catalogue(spark, rows, settings=settings), caches), report


def _save(
    store: feature_store.FeatureStore,
    users: DataFrame,
    items: DataFrame,
    report: dict[str, Any],
    *,
    settings: Settings,
    version: str,
) -> dict[str, Any]:
    """Predict the memory, write both tables and publish them."""
    attempt = store.begin(version, ttl_days=settings.features.ttl_days)
    counts: dict[feature_store.Kind, int] = {"user": report["users"], "item": report["items"]}
    tables: dict[feature_store.Kind, DataFrame] = {"user": users, "item": items}
    needed = 0.0
    for kind, table in tables.items():
        each = store.bytes_each(attempt, kind, _sample(table, counts[kind]))
        logger.info("%s %ss of %.0f bytes each", f"{counts[kind]:,}", kind, each)
        needed += each * counts[kind]
    logger.info("Redis at %s will need %.1f MB for them", store.place, needed / 1e6)
    store.check_memory(attempt, needed)
    for kind, table in tables.items():
        written = feature_store.write(table, attempt, kind, batch_size=settings.features.batch_size)
        if written != counts[kind]:
            raise FeatureStoreError(f"{written:,} of {counts[kind]:,} {kind}s were written: run the task again")
    # Whom the service forgets from here on, it removes from this version, too.
    store.remove_users(attempt, forgotten.forgotten_users_from_env())
    about = {"as_of": report["features_as_of"], "users": report["users"], "items": report["items"]}
    store.publish(attempt, about)
    logger.info("the features %s are served", version)
    return {"version": version, "predicted_megabytes": round(needed / 1e6, 3)}


def _sample(table: DataFrame, count: int) -> pa.RecordBatch:
    """About a thousand rows, drawn by the hash of their id; all of them where there are fewer."""
    from pyspark.sql import functions as F

    share = min(1.0, _SAMPLE / max(1, count))
    drawn = table.where(F.pmod(F.xxhash64(table.columns[0]), F.lit(1_000_000)) < share * 1_000_000)
    return drawn.toArrow().combine_chunks().to_batches()[0]


def _cached(frame: DataFrame, caches: ExitStack) -> DataFrame:
    caches.callback(frame.persist().unpersist)
    return frame
