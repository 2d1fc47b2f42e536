"""The first step: read the interaction files, reject what is wrong, split by time, write Parquet."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import reduce
from typing import TYPE_CHECKING, Any, Final

from shortlist.columns import AVAILABLE, CATEGORY, ITEM, RAW, REASON, SOURCE_FILE, SOURCE_ROW, TIME, TITLE, USER, WEIGHT
from shortlist.errors import EmptyInteractionsError, InputError, RejectedRowsError
from shortlist.recommender import interactions, split
from shortlist.settings import InputSettings
from shortlist.stores import files, readers

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pyspark.sql import Column, DataFrame, Row, SparkSession

    from shortlist.settings import InteractionSettings, Settings

logger = logging.getLogger(__name__)

_MOST_LINE_BREAKS: Final = 20
_NO: Final = ("false", "f", "0", "0.0", "no", "n", "off")


def run_etl(spark: SparkSession, *, settings: Settings, as_of: str, input_path: str | None = None) -> dict[str, Any]:
    """Turn the input files into train and test interactions, the item catalogue and the quarantine.

    All outputs are written under a temporary folder and put in place together at the end: a run that fails leaves
    those of the last good run, except the quarantine, which then shows what was wrong. A retry starts afresh.

    Args:
        spark: Session owned by the caller; may be a Spark Connect one.
        settings: Input, rules, split, paths.
        as_of: ISO time of the run. Interactions more than a day later are rejected.
        input_path: Read this instead of `settings.input.path`.

    Returns:
        The report that also lies at `settings.paths.etl_report`: files, counts, cuts, fingerprint.

    Raises:
        InputError: If a file is missing, empty, unreadable, still growing or lacks a column.
        RejectedRowsError: If more rows were rejected than `[interactions].max_rejected_share` allows.
        EmptyInteractionsError: If nothing is left, or nothing on one side of the split.
    """
    if input_path:
        settings = replace(settings, input=replace(settings.input, path=input_path))
    new = f"{settings.paths.processed}/_new"
    files.remove(new)
    files.remove(f"{settings.paths.processed}/_merged")  # feedback, half merged into what is made anew here
    found = readers.list_files(settings.input.path)
    size = sum(file.bytes for file in found)
    logger.info("reading %d file(s), %.1f MB: %s", len(found), size / 1e6, settings.input.path)
    try:
        with readers.readable_errors():
            report = _write_all(spark, found, new=new, settings=settings, as_of=as_of)
        readers.check_unchanged(settings.input.path, found)
        # Without a report nothing downstream trusts the folder, so a kill between these lines fails closed.
        files.remove(settings.paths.etl_report)
        files.replace(f"{new}/parquet", f"{settings.paths.processed}/parquet")
        files.write_json(settings.paths.etl_report, report)
    finally:
        files.remove(new)
    logger.info("%s", summary(report))
    return report


def validated_rows(
    spark: SparkSession, found: Iterable[readers.InputFile], *, settings: Settings, as_of: str
) -> DataFrame:
    """Return every input row with its interaction and the reason to reject it, not yet read."""
    from pyspark.sql import DataFrame
    from pyspark.sql import functions as F

    columns = readers.interaction_columns(settings)
    validated = [
        interactions.validate(
            rows, settings=settings.interactions, timezone=settings.input.timezone, as_of=as_of, mapped=columns.keys()
        )
        for rows in readers.read_rows(spark, tuple(found), columns=columns, source=settings.input)
    ]
    return reduce(DataFrame.unionByName, validated).withColumn(interactions.ORDER, F.monotonically_increasing_id())


def count_by_block(rows: DataFrame) -> list[Row]:
    """Count the rows by file, block and reason. Grows with the blocks of Spark (128 MB each), not with the rows.

    Raises:
        InputError: If a rejected record spans so many lines that it must have swallowed good ones.
    """
    from pyspark.sql import functions as F

    position = F.min(readers.SOURCE_POSITION).alias("first")
    blocks = rows.groupBy(SOURCE_FILE, readers.SOURCE_BLOCK, REASON)
    breaks = F.max(F.regexp_count(F.col(RAW), F.lit(r"\\n"))).alias("line_breaks")
    counted = blocks.agg(F.count(F.lit(1)).alias("rows"), position, breaks).collect()
    for block in counted:
        if (block["line_breaks"] or 0) > _MOST_LINE_BREAKS:
            raise InputError(
                f"{readers.readable_name(block[SOURCE_FILE])}: a quote opens and never closes, one record holds "
                f"{block['line_breaks']} line breaks. Mend the line, or set [input].multiline = false"
            )
    return counted


def rejected_rows(
    spark: SparkSession, rows: DataFrame, distinct: DataFrame, blocks: list[Row], *, settings: Settings
) -> DataFrame:
    """Return the quarantine: rejected rows and duplicates, with file, record number, reason and content."""
    from pyspark.sql import functions as F

    names = readers.interaction_columns(settings)
    # A duplicate equals the accepted row, so what is known of it is enough; only other rows keep their raw text.
    known = [F.col(field).alias(names[field]) for field in (USER, ITEM, TIME, WEIGHT) if field in names]
    raw = F.to_json(F.struct(*known), {"timeZone": "UTC"})
    position = [F.col(name) for name in interactions.POSITION]
    duplicates = interactions.find_duplicates(rows, distinct).select(
        *position, F.lit(interactions.DUPLICATE).alias(REASON), raw.alias(RAW)
    )
    rejected = rows.where(F.col(REASON).isNotNull()).select(*position, REASON, RAW).unionByName(duplicates)
    return readers.number_rows(spark, rejected, block_table(blocks)).select(SOURCE_FILE, SOURCE_ROW, REASON, RAW)


def block_table(blocks: list[Row]) -> list[tuple[str, int, int, int]]:
    """Sum `count_by_block` over the reasons: file, block, smallest position, records."""
    table: dict[tuple[str, int], tuple[int, int]] = {}
    for block in blocks:
        key = (block[SOURCE_FILE], block[readers.SOURCE_BLOCK])
        first, count = table.get(key, (block["first"], 0))
        table[key] = (min(first, block["first"]), count + block["rows"])
    return [(*key, *value) for key, value in table.items()]


def count_reasons(blocks: list[Row], duplicates: int) -> dict[str, int]:
    """Sum `count_by_block` over the blocks, by reason, most frequent first."""
    counts: dict[str, int] = {interactions.DUPLICATE: duplicates} if duplicates else {}
    for block in blocks:
        if block[REASON] is not None:
            counts[block[REASON]] = counts.get(block[REASON], 0) + block["rows"]
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))


def counted_share(rejected: Mapping[str, int], read: int, settings: InteractionSettings) -> float:
    """Return the share of the rows that were rejected for a reason that is not tolerated."""
    return sum(count for reason, count in rejected.items() if reason not in settings.tolerated) / max(read, 1)


def check_rejected(
    rejected: Mapping[str, int],
    read: int,
    accepted: int,
    *,
    settings: Settings,
    inputs: tuple[readers.InputFile, ...],
    quarantine: tuple[str, str] | None = None,
) -> None:
    """Stop when too many rows were rejected, or all.

    Args:
        rejected: Rows by reason.
        read: All rows.
        accepted: Valid rows, duplicates left out.
        settings: What is tolerated.
        inputs: The files, for the message.
        quarantine: Where the rejected rows are now, and where they are put to be looked at if this stops the run.

    Raises:
        EmptyInteractionsError: If nothing was accepted.
        RejectedRowsError: If more was rejected than the settings allow.
    """
    share = counted_share(rejected, read, settings.interactions)
    if accepted and share <= settings.interactions.max_rejected_share:
        return
    shown = "`make validate FILE=…` shows some of each"
    if quarantine:
        files.replace(*quarantine)
        shown = f"They are in {quarantine[1]}"
    reasons = "; ".join(f"{reason} {count:,} ({interactions.REMEDIES[reason]})" for reason, count in rejected.items())
    names = ", ".join(file.path for file in inputs[:3]) + (" and more" if len(inputs) > 3 else "")
    if not accepted:
        raise EmptyInteractionsError(
            f"none of the {read:,} rows of {names} is a valid interaction: {reasons}. {shown}; "
            "what was made before stays in place"
        )
    raise RejectedRowsError(
        f"{share:.2%} of the {read:,} rows of {names} were rejected, more than the "
        f"{settings.interactions.max_rejected_share:.2%} of [interactions].max_rejected_share: {reasons}. {shown}; "
        "mend the file, or tolerate what is normal. What was made before stays in place"
    )


def catalogue(spark: SparkSession, rows: DataFrame, *, settings: Settings) -> DataFrame:
    """Return the columns of `ITEMS_DDL`, one row for each item of the valid rows of `validated_rows`."""
    from pyspark.sql import DataFrame
    from pyspark.sql import functions as F

    seen = seen_items(rows).drop(TIME)
    source = settings.catalogue
    if source.path is None:
        return seen.withColumn(AVAILABLE, F.lit(True))
    mapped = {ITEM: source.item, TITLE: source.title, CATEGORY: source.category, AVAILABLE: source.available}
    columns = {field: name for field, name in mapped.items() if name}
    found = readers.list_files(source.path)
    layouts = readers.read_rows(spark, found, columns=columns, source=InputSettings(path=source.path))
    position = F.struct(*interactions.POSITION)
    known = (
        reduce(DataFrame.unionByName, map(interactions.clean_items, layouts))
        .groupBy(ITEM)
        .agg(*[latest(field, position) for field in (TITLE, CATEGORY, AVAILABLE)])
    )
    return (
        seen.alias("seen")
        .join(known.alias("known"), ITEM, how="left")
        .select(
            ITEM,
            F.coalesce(f"known.{TITLE}", f"seen.{TITLE}").alias(TITLE),
            F.coalesce(f"known.{CATEGORY}", f"seen.{CATEGORY}").alias(CATEGORY),
            F.coalesce(~F.lower(F.col(AVAILABLE)).isin(*_NO), F.lit(True)).alias(AVAILABLE),
        )
    )


def summary(report: Mapping[str, Any]) -> str:
    """Return the report as one line."""
    rejected = ", ".join(f"{reason} {count:,}" for reason, count in report["rejected"].items()) or "none"
    return (
        f"read {report['read']:,} rows, accepted {report['accepted']:,} ({report['users']:,} users, "
        f"{report['items']:,} items, {report['first'][:10]} to {report['last'][:10]}), rejected: {rejected}; "
        f"target window from {report['target_from']}, test window from {report['test_from']}"
    )


def _write_all(
    spark: SparkSession, inputs: tuple[readers.InputFile, ...], *, new: str, settings: Settings, as_of: str
) -> dict[str, Any]:

    rows = validated_rows(spark, inputs, settings=settings, as_of=as_of).persist()
    accepted = interactions.distinct_interactions(rows).persist()
    try:
        blocks = count_by_block(rows)
        read = sum(block["rows"] for block in blocks)
        logger.info("read %s rows; looking for duplicates", f"{read:,}")
        days = daily(accepted, settings)
        count = sum(day["rows"] for day in days)
        valid = sum(block["rows"] for block in blocks if block[REASON] is None)
        rejected = count_reasons(blocks, valid - count)
        quarantine = rejected_rows(spark, rows, accepted, blocks, settings=settings)
        quarantine.write.mode("overwrite").parquet(f"{new}/parquet/quarantine")
        place = f"{new}/parquet/quarantine", settings.paths.quarantine
        check_rejected(rejected, read, count, quarantine=place, settings=settings, inputs=inputs)
        cuts = split.choose_cuts([(day["first"], day["rows"]) for day in days], settings.split)
        logger.info("accepted %s rows; writing train, test and items", f"{count:,}")
        write_windows(accepted, cuts, new)
        catalogue(spark, rows, settings=settings).write.mode("overwrite").parquet(f"{new}/parquet/items")
        users = accepted.select(USER).distinct().count()
        items = spark.read.parquet(f"{new}/parquet/items").count()
    finally:
        accepted.unpersist()
        rows.unpersist()
    return {
        "files": [{"path": file.path, "bytes": file.bytes} for file in inputs],
        "read": read,
        "accepted": count,
        "rejected": rejected,
        "tolerated": sorted(settings.interactions.tolerated),
        "users": users,
        "items": items,
        **moments(days, cuts),
        "as_of": as_of,
    }


def moments(days: list[Row], cuts: split.Cuts) -> dict[str, str]:
    """Return the times and the fingerprint that a report tells of the days of `daily`."""
    return {
        "first": _iso(min(day["first"] for day in days)),
        "last": _iso(max(day["last"] for day in days)),
        "target_from": cuts.target_from.isoformat(timespec="seconds"),
        "test_from": cuts.test_from.isoformat(timespec="seconds"),
        "fingerprint": _fingerprint(days),
    }


def daily(accepted: DataFrame, settings: Settings) -> list[Row]:
    """Count the interactions by day, with their first and last second since 1970 and their hashes."""
    # Also grouped by the exact times of the settings, so that no group lies on both sides of a cut.
    from pyspark.sql import functions as F

    fingerprint = F.xxhash64(USER, ITEM, TIME, WEIGHT)
    sides = [F.col(TIME) >= F.lit(moment) for moment in split.exact_times(settings.split)]
    return (
        accepted.groupBy(F.floor(F.unix_seconds(TIME) / 86400), *sides)
        .agg(
            F.count(F.lit(1)).alias("rows"),
            F.unix_seconds(F.min(TIME)).alias("first"),
            F.unix_seconds(F.max(TIME)).alias("last"),
            F.sum(fingerprint.cast("decimal(38,0)")).alias("hash_sum"),
            F.bit_xor(fingerprint).alias("hash_xor"),
        )
        .collect()
    )


def _fingerprint(days: list[Row]) -> str:
    total, mixed = 0, 0
    for day in days:
        total += int(day["hash_sum"])
        mixed ^= day["hash_xor"]
    return f"{total % 2**64:016x}{mixed % 2**64:016x}"


def _iso(seconds: int) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(seconds, tz=UTC).isoformat(timespec="seconds")


def write_windows(accepted: DataFrame, cuts: split.Cuts, new: str) -> None:
    """Write the interactions before and in the test window, as `train` and `test` below `new`/parquet."""
    plain = accepted.select(USER, ITEM, TIME, WEIGHT)
    split.window(plain, before=cuts.test_from).write.mode("overwrite").parquet(f"{new}/parquet/train")
    split.held_out_window(plain, cuts).write.mode("overwrite").parquet(f"{new}/parquet/test")


def seen_items(rows: DataFrame) -> DataFrame:
    """Return each item of the valid rows with its latest title and category, and when it was last seen."""
    from pyspark.sql import functions as F

    valid = rows.where(F.col(REASON).isNull())
    return valid.groupBy(ITEM).agg(latest(TITLE, TIME), latest(CATEGORY, TIME), F.max(TIME).alias(TIME))


def latest(name: str, order: Column | str) -> Column:
    """Return the last known value of a column; the value breaks ties, so that the order of the rows does not matter."""
    from pyspark.sql import functions as F

    known = F.when(F.col(name).isNotNull(), F.struct(F.col(order) if isinstance(order, str) else order, F.col(name)))
    return F.max(known).getField(name).alias(name)
