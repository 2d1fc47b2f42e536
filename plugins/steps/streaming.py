"""Streaming steps: new feedback becomes batches, and batches become part of the interactions."""

from __future__ import annotations

import logging
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, Final

from shortlist.columns import AVAILABLE, CATEGORY, ITEM, REASON, TIME, TITLE, USER, WEIGHT
from shortlist.errors import EmptyInteractionsError, InputError, NothingToDoError
from shortlist.recommender import interactions, split
from shortlist.settings import FileSettings, InputSettings
from shortlist.stores import files, readers
from steps import etl

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from shortlist.settings import Settings

logger = logging.getLogger(__name__)

MANIFEST: Final = "batch.json"

# One in so many accepted rows, by hash, goes to the test part.
_ONE_IN = 5

_REPORT = "etl.json"


def process_streaming_data(spark: SparkSession, *, settings: Settings, batch: str, as_of: str) -> str:
    """Turn the files in `data/streaming/` into one batch, 80 % train and 20 % test, and take the files away.

    The batch gets its name when it is complete, and only then are the files removed, or moved to the archive if
    `[streaming].archive` says so. What a killed attempt left of that is done first. Rows that are no interactions are
    in the batch's quarantine.

    Args:
        spark: Session owned by the caller; may be a Spark Connect one.
        settings: Of the project.
        batch: Name of the batch, the same for all attempts of a run.
        as_of: ISO time of the run. Interactions more than a day later are rejected.

    Returns:
        The path of the batch: Parquet `train`, `test`, `quarantine`, and `batch.json` with the counts.

    Raises:
        NothingToDoError: If there is no file.
        InputError: If a file is empty, unreadable, still growing or lacks a column, or cannot be taken away.
        RejectedRowsError: If more rows were rejected than `[interactions].max_rejected_share` allows.
        EmptyInteractionsError: If no row is a valid interaction.
    """
    path = f"{settings.paths.batches}/{batch}"
    take_away_processed(settings)
    if files.exists(f"{path}/{MANIFEST}"):
        logger.info("%s was complete already", path)
        return path
    if not _file_paths(settings.paths.streaming):
        raise NothingToDoError(f"no file in {settings.paths.streaming}: there is no new feedback")
    found = readers.list_files(settings.paths.streaming)
    logger.info("reading %d file(s): %s", len(found), ", ".join(file.path for file in found))
    feedback = feedback_settings(settings)
    new = f"{settings.paths.batches}/_{batch}"
    files.remove(new)
    with readers.readable_errors():
        report = _write_batch(spark, found, new=new, settings=feedback, as_of=as_of)
    readers.check_unchanged(settings.paths.streaming, found, others_may_come=True)
    files.write_json(f"{new}/{MANIFEST}", {"batch": batch, "as_of": as_of, **report})
    files.replace(new, path)
    _take_away(settings, [path])
    rejected = ", ".join(f"{reason} {count:,}" for reason, count in report["rejected"].items()) or "none"
    logger.info("accepted %s of %s rows; rejected: %s", f"{report['accepted']:,}", f"{report['read']:,}", rejected)
    return path


def feedback_settings(settings: Settings) -> Settings:
    """Return the settings with `[streaming]` in the place of `[input]` and its cancellations."""
    source = settings.streaming
    how = {field.name: getattr(source, field.name) for field in fields(FileSettings)}
    return replace(
        settings,
        input=InputSettings(path=settings.paths.streaming, **how),
        interactions=replace(settings.interactions, cancellation=source.cancellation),
    )


def batches(settings: Settings) -> list[str]:
    """Return the paths of the complete batches that are not merged yet, oldest first."""
    from pyarrow import fs

    filesystem, folder = files.resolve(settings.paths.batches)
    found = filesystem.get_file_info(fs.FileSelector(folder, allow_not_found=True))
    names = sorted(file.base_name for file in found if not file.base_name.startswith("_"))
    paths = [f"{settings.paths.batches}/{name}" for name in names]
    return [path for path in paths if files.exists(f"{path}/{MANIFEST}")]


def take_away_processed(settings: Settings) -> None:
    """Take away the files that are in a batch already, which a killed attempt may have left in `data/streaming/`.

    Raises:
        InputError: If one cannot be taken away.
    """
    _take_away(settings, batches(settings))


def merge_streaming_data(spark: SparkSession, *, settings: Settings) -> dict[str, Any]:
    """Add all batches to the interactions that models are trained on, each interaction once, and cut the windows anew.

    The merged set is complete before it takes the place of the old one: a retry goes on where a killed attempt stopped.
    What is there already is not added again, so that a batch which is still there after its merge does no harm.

    Args:
        spark: Session owned by the caller; may be a Spark Connect one.
        settings: Of the project.

    Returns:
        The report that takes the place of the one of `spark_etl`, with the names of the `merged` batches.

    Raises:
        EmptyInteractionsError: If there is no batch to merge.
    """
    new = f"{settings.paths.processed}/_merged"
    if files.exists(f"{new}/{_REPORT}"):  # a killed attempt had it complete
        _install(new, settings)
    report: dict[str, Any] = files.read_json(settings.paths.etl_report)
    waiting = batches(settings)
    if waiting:
        files.remove(new)
        files.write_json(f"{new}/{_REPORT}", _write_merged(spark, waiting, report, new=new, settings=settings))
        report = _install(new, settings)
    elif not report.get("merged"):
        raise EmptyInteractionsError(f"no batch in {settings.paths.batches}: process_streaming_data makes them")
    for path in waiting:
        files.remove(path)
    logger.info("%s", etl.summary(report))
    return report


def _write_batch(
    spark: SparkSession, found: tuple[readers.InputFile, ...], *, new: str, settings: Settings, as_of: str
) -> dict[str, Any]:
    from pyspark.sql import functions as f

    rows = etl.validated_rows(spark, found, settings=settings, as_of=as_of).persist()
    accepted = interactions.distinct_interactions(rows).persist()
    try:
        blocks = etl.count_by_block(rows)
        read = sum(block["rows"] for block in blocks)
        valid = sum(block["rows"] for block in blocks if block[REASON] is None)
        kept = accepted.select(USER, ITEM, TIME, WEIGHT)
        in_test = f.pmod(f.xxhash64(USER, ITEM, TIME), f.lit(_ONE_IN)) == 0
        kept.where(~in_test).write.mode("overwrite").parquet(f"{new}/train")
        kept.where(in_test).write.mode("overwrite").parquet(f"{new}/test")
        train, test = (spark.read.parquet(f"{new}/{part}").count() for part in ("train", "test"))
        rejected = etl.count_reasons(blocks, valid - train - test)
        quarantine = etl.rejected_rows(spark, rows, accepted, blocks, settings=settings)
        quarantine.write.mode("overwrite").parquet(f"{new}/quarantine")
        etl.check_rejected(
            rejected,
            read,
            train + test,
            quarantine=(f"{new}/quarantine", f"{settings.paths.processed}/streaming_quarantine"),
            settings=settings,
            inputs=found,
        )
        etl.seen_items(rows).write.mode("overwrite").parquet(f"{new}/items")
    finally:
        accepted.unpersist()
        rows.unpersist()
    return {
        "files": [{"path": file.path, "bytes": file.bytes, "modified": file.modified} for file in found],
        "read": read,
        "accepted": train + test,
        "train": train,
        "test": test,
        "rejected": rejected,
    }


def _take_away(settings: Settings, paths: list[str]) -> None:
    """Remove or archive the files that batches were made of, where they still lie there as they were."""
    there = {file.path: file for file in _listed(settings.paths.streaming)}
    if not there:
        return
    root = files.resolve(settings.paths.streaming)[1]
    for manifest in (files.read_json(f"{path}/{MANIFEST}") for path in paths):
        for made_of in manifest["files"]:
            file = there.get(made_of["path"])
            if file and (file.bytes, file.modified) == (made_of["bytes"], made_of["modified"]):
                inside = files.resolve(file.path)[1].removeprefix(root).lstrip("/")
                _put_away(settings, file.path, f"{manifest['batch']}/{inside}")


def _put_away(settings: Settings, path: str, name: str) -> None:
    try:
        if settings.streaming.archive:
            files.replace(path, f"{settings.paths.streaming_archive}/{name}")
        else:
            files.remove(path)
    except PermissionError as error:
        raise InputError(
            f"{path} was processed but cannot be taken away ({error}): let the pipeline's user write to "
            f"{settings.paths.streaming} and the folders in it"
        ) from error


def _listed(location: str) -> tuple[readers.InputFile, ...]:
    return readers.list_files(location) if _file_paths(location) else ()


def _file_paths(location: str) -> list[str]:
    from pyarrow import fs

    filesystem, path = files.resolve(location)
    found = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True, recursive=True))
    return [
        file.path
        for file in found
        if file.type == fs.FileType.File
        and not any(part.startswith(("_", ".")) for part in file.path[len(path) :].strip("/").split("/"))
    ]


def _write_merged(
    spark: SparkSession, waiting: list[str], before: dict[str, Any], *, new: str, settings: Settings
) -> dict[str, Any]:
    columns = [USER, ITEM, TIME, WEIGHT]
    old = spark.read.parquet(settings.paths.train, settings.paths.test).select(*columns)
    parts = [f"{path}/{part}" for path in waiting for part in ("train", "test")]
    added = spark.read.parquet(*parts).select(*columns).distinct().join(old, on=columns, how="left_anti")
    merged = old.unionByName(added).persist()
    try:
        days = etl.daily(merged, settings)
        cuts = split.choose_cuts([(day["first"], day["rows"]) for day in days], settings.split)
        etl.write_windows(merged, cuts, new)
        known = spark.read.parquet(settings.paths.items)
        seen = spark.read.parquet(*(f"{path}/items" for path in waiting))
        _with_new_items(known, seen).write.mode("overwrite").parquet(f"{new}/parquet/items")
        users = merged.select(USER).distinct().count()
        items = spark.read.parquet(f"{new}/parquet/items").count()
    finally:
        merged.unpersist()
    return {
        **before,
        "accepted": sum(day["rows"] for day in days),
        "users": users,
        "items": items,
        **etl.moments(days, cuts),
        "merged": sorted({*before.get("merged", ()), *(path.rsplit("/", 1)[-1] for path in waiting)}),
    }


def _with_new_items(known: DataFrame, seen: DataFrame) -> DataFrame:
    """The catalogue, and behind it the items of the batches that it lacks."""
    from pyspark.sql import functions as f

    new = seen.groupBy(ITEM).agg(etl.latest(TITLE, TIME), etl.latest(CATEGORY, TIME))
    return known.unionByName(new.join(known.select(ITEM), on=ITEM, how="left_anti").withColumn(AVAILABLE, f.lit(True)))


def _install(new: str, settings: Settings) -> dict[str, Any]:
    """Put a complete merged set in place. Killed anywhere, it can be repeated."""
    report: dict[str, Any] = files.read_json(f"{new}/{_REPORT}")
    files.remove(settings.paths.etl_report)  # without it nothing trusts the folder
    for part in ("train", "test", "items"):
        if files.exists(f"{new}/parquet/{part}"):
            files.replace(f"{new}/parquet/{part}", f"{settings.paths.processed}/parquet/{part}")
    files.write_json(settings.paths.etl_report, report)
    files.remove(new)
    return report
