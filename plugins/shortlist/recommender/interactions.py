"""What a valid interaction is: every row gets the first reason to reject it, or none."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial, reduce
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from shortlist.columns import AVAILABLE, CATEGORY, ITEM, RAW, REASON, SOURCE_FILE, TIME, TITLE, USER, WEIGHT
from shortlist.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Collection

    from pyspark.sql import Column, DataFrame

    from shortlist.settings import InteractionSettings

EVENT: Final = "event"
CANCELLATION: Final = "cancellation"
POSITION: Final = (SOURCE_FILE, "source_block", "source_position")
ORDER: Final = "source_order"
DUPLICATE: Final = "duplicate"

# A longer title has swallowed the lines below it, through a quote that never closes.
_LONGEST_TITLE: Final = 5_000

# What two rows must share to be the same interaction.
_SAME: Final = (USER, ITEM, TIME, WEIGHT, CANCELLATION)

# Every reason, in the order in which they are looked for, with what a person can do about it.
REMEDIES: Final = {
    "malformed": "the line has the wrong number of fields or is no valid JSON: mend the export (quotes, delimiters)",
    "missing_user": "the user is empty: add missing_user to [interactions].tolerated if that is normal",
    "missing_item": "the item is empty",
    "bad_encoding": "an id is not in the encoding of the file: set [input].encoding, for instance ISO-8859-1",
    "control_character": "an id holds NUL or another control character: mend the export",
    "id_too_long": "an id is longer than [interactions].max_id_length: is the right column mapped?",
    "not_a_product": "the item does not match [interactions].item_pattern",
    "missing_time": "the time is empty",
    "bad_time": "the time cannot be parsed: set [interactions].time_format",
    "time_out_of_range": "the time is before [interactions].earliest or in the future: seconds or milliseconds? "
    "set [interactions].time_format to epoch_s, epoch_ms or epoch_us",
    "unknown_event": "the event is not in [interactions.event_weights]: add it there",
    "missing_weight": "the weight is empty",
    "bad_weight": "the weight is no finite number",
    "weight_out_of_range": "the weight is outside [interactions].min_weight and max_weight",
    DUPLICATE: "the same interaction stands further up: add duplicate to [interactions].tolerated if that is normal",
}

_CONTROL: Final = r"[\x00-\x1f\x7f-\x9f]"
_CLOCK: Final = r"\d{1,2}:\d{1,2}(:\d{1,2}(\.\d*)?)?"
_DATE: Final = r"^\d{4}-\d{1,2}-\d{1,2}$"
_NAIVE_MINUTE: Final = r"^\d{4}-\d{1,2}-\d{1,2}[ T]\d{1,2}:\d{1,2}$"
_NAIVE: Final = r"^\d{4}-\d{1,2}-\d{1,2}[ T]\d{1,2}:\d{1,2}:\d{1,2}(\.\d*)?$"
_ZONED: Final = (
    rf"^\d{{4}}-\d{{1,2}}-\d{{1,2}}[ T]{_CLOCK} ?(Z|UTC|GMT|[+-]\d{{1,2}}(:?\d{{2}})?|[A-Za-z]+/[A-Za-z/_]+)$"
)
_NUMBER: Final = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
_TICKS: Final = {"epoch_s": 1_000_000, "epoch_ms": 1_000, "epoch_us": 1}
_ZONE_LETTERS: Final = frozenset("VzOXxZ")


def validate(
    rows: DataFrame, *, settings: InteractionSettings, timezone: str, as_of: str, mapped: Collection[str]
) -> DataFrame:
    """Give every row its interaction and the first reason to reject it, in one pass without a UDF.

    A cancellation gets a negative amount. A time without a zone is taken to be in `timezone`; of the hour that
    occurs twice in autumn it is the first one (summer time), and in the hour that is left out in spring the clock
    had already been put forward.

    Args:
        rows: One layout, as `readers.read_rows` gives it.
        settings: What is valid.
        timezone: IANA name.
        as_of: ISO time of the run; a time more than a day later is out of range.
        mapped: The fields that the file has. Without a weight every row counts 1.

    Returns:
        Position, `user_id`, `item_id`, `time`, `weight`, `title`, `category`, `cancellation`, `reason` (null: valid,
        though perhaps a duplicate), `raw` (null where valid).
    """
    from pyspark.sql import functions as F

    kind = dict(rows.dtypes)[TIME]
    check_timezone(timezone)
    parse = partial(parse_time, time_format=settings.time_format) if kind == "string" else _MOMENTS[kind]
    cancelled = F.lit(False)
    if settings.cancellation:
        cancelled = F.coalesce(F.col(CANCELLATION).rlike(settings.cancellation.pattern), F.lit(False))
    # Each step is a projection of its own, so that a value used several times is computed once.
    parsed = rows.select(
        *POSITION,
        "malformed",
        _identifier(USER).alias(USER),
        _identifier(ITEM).alias(ITEM),
        _identifier(TIME).alias("time_text") if kind == "string" else F.col(TIME).alias("time_text"),
        _identifier(WEIGHT).alias("weight_text"),
        _identifier(EVENT).alias(EVENT),
        _label(TITLE),
        _label(CATEGORY),
        CANCELLATION,
        cancelled.alias("cancelled"),
        RAW,
    ).withColumns({TIME: parse(F.col("time_text"), timezone), "number": _number(F.col("weight_text"))})
    said = F.col("number") if WEIGHT in mapped else F.lit(1.0)
    amount = F.when(F.col("cancelled"), -F.abs(said)).otherwise(said) * _event_weight(settings, mapped)
    reasons = _reasons(settings, mapped, as_of)
    chosen = F.coalesce(*[F.when(reasons[name], name) for name in REMEDIES if name != DUPLICATE])
    return parsed.withColumn(REASON, chosen).select(
        *POSITION,
        USER,
        ITEM,
        TIME,
        F.when(F.col(REASON).isNull(), amount).cast("float").alias(WEIGHT),
        TITLE,
        CATEGORY,
        CANCELLATION,
        REASON,
        F.when(F.col(REASON).isNotNull(), F.to_json(F.col(RAW))).alias(RAW),
    )


def distinct_interactions(rows: DataFrame) -> DataFrame:
    """Return each valid interaction once, with the `source_order` of its first row (`first`) and how often (`times`).

    An aggregation, not a window: a key with a million rows shrinks to one before the shuffle.
    """
    from pyspark.sql import functions as F

    valid = rows.where(F.col(REASON).isNull())
    return valid.groupBy(*_SAME).agg(F.min(ORDER).alias("first"), F.count(F.lit(1)).alias("times"))


def find_duplicates(rows: DataFrame, distinct: DataFrame) -> DataFrame:
    """Return the valid rows that are not the first of their interaction, given `distinct_interactions` of the rows."""
    from pyspark.sql import functions as F

    repeated = distinct.where(F.col("times") > 1).alias("repeated")
    same = [F.col(f"rows.{key}").eqNullSafe(F.col(f"repeated.{key}")) for key in _SAME]
    later = F.col(ORDER) > F.col("first")
    valid = rows.where(F.col(REASON).isNull()).alias("rows")
    return valid.join(repeated, reduce(lambda a, b: a & b, same, later), how="inner").select("rows.*")


def clean_items(rows: DataFrame) -> DataFrame:
    """Return the rows of a catalogue file that name an item, with clean ids, titles and categories."""
    from pyspark.sql import functions as F

    labels = [_label(name) for name in (TITLE, CATEGORY, AVAILABLE)]
    return rows.select(*POSITION, _identifier(ITEM).alias(ITEM), *labels).where(F.col(ITEM).isNotNull())


def check_timezone(name: str) -> None:
    """Refuse a time zone that does not exist.

    Raises:
        SettingsError: Naming the key.
    """
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        raise SettingsError(f"[input].timezone = {name!r} is no IANA time zone such as Europe/London") from None


def parse_time(text: Column, timezone: str, *, time_format: str) -> Column:
    """Return the moment that a text names, null if it names none. Does not depend on the session's time zone.

    Args:
        text: Trimmed.
        timezone: IANA name, of times without a zone.
        time_format: `auto` (ISO 8601, dates, seconds since 1970), `epoch_s`, `epoch_ms`, `epoch_us` or a Spark pattern.
    """
    from pyspark.sql import functions as F

    if time_format in _TICKS:
        return _epoch(text, _TICKS[time_format])
    zone = F.lit(f" {timezone}")
    if time_format != "auto":
        outside_quotes = "".join(time_format.split("'")[::2])
        if _ZONE_LETTERS & set(outside_quotes):
            return F.try_to_timestamp(text, F.lit(time_format))
        return F.try_to_timestamp(F.concat(text, zone), F.lit(f"{time_format} VV"))
    to_the_minute = F.regexp_replace(text, r"^(\S+[ T]\d{1,2}:\d{1,2})(?![\d:])", "$1:00")
    return (
        F.when(text.rlike(_DATE), F.concat(text, F.lit(" 00:00:00"), zone).try_cast("timestamp"))
        .when(text.rlike(_NAIVE), F.concat(text, zone).try_cast("timestamp"))
        .when(text.rlike(_NAIVE_MINUTE), F.concat(text, F.lit(":00"), zone).try_cast("timestamp"))
        .when(text.rlike(_ZONED), to_the_minute.try_cast("timestamp"))
        .when(text.rlike(_NUMBER), _epoch(text, _TICKS["epoch_s"]))
    )


def _naive_moment(time: Column, timezone: str) -> Column:
    from pyspark.sql import functions as F

    # A cast would use the time zone of the session; the distance from 1970 depends on no zone.
    since = (time - F.lit("1970-01-01 00:00:00").cast("timestamp_ntz")).cast("interval second").cast("decimal(20,6)")
    return F.to_utc_timestamp(F.timestamp_micros((since * 1_000_000).cast("bigint")), timezone)


_MOMENTS: Final = {"timestamp": lambda time, _timezone: time, "timestamp_ntz": _naive_moment}


def _epoch(text: Column, microseconds: int) -> Column:
    from pyspark.sql import functions as F

    return F.timestamp_micros(F.rint(_number(text) * microseconds).try_cast("bigint"))


def _identifier(name: str) -> Column:
    from pyspark.sql import functions as F

    return F.nullif(F.trim(F.col(name)), F.lit(""))


def _label(name: str) -> Column:
    # PostgreSQL cannot hold NUL in a text, and a title is shown, so control characters become spaces.
    from pyspark.sql import functions as F

    clean = F.trim(F.regexp_replace(F.col(name), f"{_CONTROL}+", " "))
    return F.nullif(clean, F.lit("")).alias(name)


def _event_weight(settings: InteractionSettings, mapped: Collection[str]) -> Column:
    from pyspark.sql import functions as F

    factor = F.lit(1.0)
    if settings.event_weights and EVENT in mapped:
        pairs = [F.lit(part) for pair in settings.event_weights.items() for part in pair]
        factor = F.try_element_at(F.create_map(*pairs), F.col(EVENT))
    return factor


def _number(text: Column) -> Column:
    from pyspark.sql import functions as F

    # A cast alone would also take "1d" and "Infinity".
    return F.when(text.rlike(_NUMBER), text.try_cast("double"))


def _reasons(settings: InteractionSettings, mapped: Collection[str], as_of: str) -> dict[str, Column]:
    from pyspark.sql import functions as F

    user, item, time = F.col(USER), F.col(ITEM), F.col(TIME)
    run = datetime.fromisoformat(as_of)
    latest = (run if run.tzinfo else run.replace(tzinfo=UTC)) + timedelta(days=1)
    earliest = datetime.fromisoformat(settings.earliest)
    earliest = earliest if earliest.tzinfo else earliest.replace(tzinfo=UTC)
    no, weighted = F.lit(False), WEIGHT in mapped
    number = F.col("number")
    size = F.when(F.col("cancelled"), F.abs(number)).otherwise(number)
    return {
        "malformed": F.col("malformed") | (F.coalesce(F.length(TITLE), F.lit(0)) > _LONGEST_TITLE),
        "missing_user": user.isNull(),
        "missing_item": item.isNull(),
        "bad_encoding": user.contains("\ufffd") | item.contains("\ufffd"),
        "control_character": user.rlike(_CONTROL) | item.rlike(_CONTROL),
        "id_too_long": (F.length(user) > settings.max_id_length) | (F.length(item) > settings.max_id_length),
        "not_a_product": ~item.rlike(settings.item_pattern) if settings.item_pattern else no,
        "missing_time": F.col("time_text").isNull(),
        "bad_time": time.isNull(),
        "time_out_of_range": (time < F.lit(earliest)) | (time > F.lit(latest)),
        "unknown_event": _event_weight(settings, mapped).isNull(),
        "missing_weight": F.col("weight_text").isNull() if weighted else no,
        "bad_weight": (number.isNull() | (F.abs(number) == float("inf"))) if weighted else no,
        "weight_out_of_range": ~size.between(settings.min_weight, settings.max_weight) if weighted else no,
    }
