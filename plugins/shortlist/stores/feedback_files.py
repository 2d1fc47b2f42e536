"""Files of new feedback made from the events of the service, each event in exactly one of them.

A batch goes through four steps, each of which may be the last one of a killed attempt: its rows are marked; its file
is written under a hidden name, and that is noted; the file gets its name; that is noted. Once the file was noted as
written, it is only ever renamed: where the hidden name is gone, the file has been in place, wherever it is now.
"""

from __future__ import annotations

import csv
import io
import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from shortlist.columns import ITEM, TIME, USER, WEIGHT
from shortlist.errors import SettingsError
from shortlist.stores import files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

    import pyarrow as pa

    from shortlist.settings import Settings
    from shortlist.stores.database import Database

_ENDINGS: Final = {"auto": "parquet", "parquet": "parquet", "csv": "csv", "jsonl": "jsonl"}
_TICKS: Final = {"epoch_s": 1, "epoch_ms": 1_000, "epoch_us": 1_000_000}
_EVENT_WEIGHT: Final = 1.0
_WRITTEN: Final = "UPDATE service.exports SET written_at = clock_timestamp(), rows = %s WHERE batch = %s"
_DONE: Final = "UPDATE service.exports SET done_at = clock_timestamp(), rows = %s WHERE batch = %s"


def check_settings(settings: Settings) -> None:
    """Refuse settings by which events cannot be written so that they are read again as they were.

    Raises:
        SettingsError: Naming the key.
    """
    source = settings.streaming
    if source.format not in _ENDINGS:
        raise SettingsError(
            f"[streaming].format = {source.format!r} cannot hold the events of the service: set it to auto, which also "
            "reads such files by their names"
        )
    time_format = settings.interactions.time_format
    if _ENDINGS[source.format] != "parquet" and time_format != "auto" and time_format not in _TICKS:
        raise SettingsError(
            f"times of events cannot be written as [interactions].time_format = {time_format!r}: set "
            "[streaming].format to auto, then they are written as Parquet, whose times need no format"
        )
    factors = settings.interactions.event_weights
    if source.columns.event and factors and not any(factor > 0 for factor in factors.values()):
        raise SettingsError("no event of [interactions.event_weights] has a weight above 0: events cannot be exported")


@contextmanager
def only_exporter(database: Database) -> Iterator[None]:
    """Keep other exporters out; ends with the connection at the latest.

    Raises:
        PublishError: If another one is at work for too long.
    """
    with database.cursor(autocommit=True) as cursor:
        cursor.execute("SELECT pg_advisory_lock(hashtextextended('shortlist:export_feedback', 0))")
        yield


def is_done(database: Database, batch: str) -> bool:
    """Whether the file of the batch has got its name; it may have been taken away since."""
    with database.cursor() as cursor:
        cursor.execute("SELECT FROM service.exports WHERE batch = %s AND done_at IS NOT NULL", [batch])
        return cursor.fetchone() is not None


def rows_of(database: Database, batch: str) -> int:
    """Return the number of rows in the file of a batch that is done."""
    with database.cursor() as cursor:
        cursor.execute("SELECT coalesce(rows, 0) FROM service.exports WHERE batch = %s", [batch])
        (rows,) = cursor.fetchone() or (0,)
        return int(rows)


def mark(database: Database, batch: str) -> None:
    """Mark all interactions that no batch has yet as rows of this one, unless it was marked by an earlier attempt."""
    with database.cursor() as cursor:
        cursor.execute("SELECT FROM service.exports WHERE batch = %s", [batch])
        if cursor.fetchone() is not None:
            return
        cursor.execute(
            "UPDATE service.events AS e SET exported_in = %s WHERE exported_in IS NULL AND kind = 'interaction'"
            " AND NOT EXISTS (SELECT FROM service.forgotten AS f WHERE f.user_id = e.user_id)",
            [batch],
        )
        if cursor.rowcount:
            cursor.execute("INSERT INTO service.exports (batch) VALUES (%s)", [batch])


def unfinished(database: Database) -> list[str]:
    """Return the batches whose files have not got their names yet, oldest first."""
    with database.cursor() as cursor:
        cursor.execute("SELECT batch FROM service.exports WHERE done_at IS NULL ORDER BY started_at, batch")
        return [batch for (batch,) in cursor.fetchall()]


def finish(database: Database, batch: str, settings: Settings) -> tuple[str | None, int]:
    """Bring the file of a marked batch in place, from wherever an earlier attempt stopped.

    Returns:
        Its path, None where all its users were forgotten meanwhile, and its number of rows.
    """
    path = f"{settings.paths.streaming}/{batch}.{_ENDINGS[settings.streaming.format]}"
    hidden = files.hidden_name(path)
    with database.cursor() as cursor:
        cursor.execute("SELECT rows FROM service.exports WHERE batch = %s AND written_at IS NOT NULL", [batch])
        written = cursor.fetchone()
    if written is None:
        rows = _write(database, batch, hidden, settings)
        _note(database, _WRITTEN, rows, batch)
    else:
        (rows,) = written
    _rename(hidden, path)
    _note(database, _DONE, rows, batch)
    return path if rows else None, rows


def _note(database: Database, statement: str, rows: int, batch: str) -> None:
    with database.cursor() as cursor:
        cursor.execute(statement, [rows, batch])


def _rename(hidden: str, path: str) -> None:
    if files.exists(hidden):
        filesystem, target = files.resolve(path)
        filesystem.move(files.resolve(hidden)[1], target)


def _write(database: Database, batch: str, hidden: str, settings: Settings) -> int:
    """Write the rows of a batch, in the order of their arrival; no file if there are none. Returns their number."""
    filesystem, path = files.resolve(hidden)
    filesystem.create_dir(path.rsplit("/", 1)[0], recursive=True)
    files.remove(hidden)
    write = _write_parquet if _ENDINGS[settings.streaming.format] == "parquet" else _write_text
    with database.bulk() as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT user_id, item_id, time, weight FROM service.events WHERE exported_in = $1 ORDER BY event_id",
            [batch],
        )
        with filesystem.open_output_stream(path, compression=None) as stream:
            rows = write((part for part in cursor.fetch_record_batch() if part.num_rows), stream, settings)
    if not rows:
        files.remove(hidden)
    return rows


def _write_parquet(parts: Iterator[pa.RecordBatch], stream: Any, settings: Settings) -> int:  # noqa: ANN401
    import pyarrow as pa
    from pyarrow import parquet

    names = _columns(settings)
    texts = [name for name in names if name not in (settings.streaming.columns.time, settings.streaming.columns.weight)]
    schema = pa.schema(
        [
            pa.field(name, pa.string())
            if name in texts
            else pa.field(name, pa.timestamp("us", "UTC") if name == settings.streaming.columns.time else pa.float64())
            for name in names
        ]
    )
    rows = 0
    with parquet.ParquetWriter(stream, schema) as writer:
        for part in parts:
            records = [_record(row, settings) for row in part.to_pylist()]
            writer.write_batch(pa.RecordBatch.from_pylist(records, schema=schema))
            rows += part.num_rows
    return rows


def _write_text(parts: Iterator[pa.RecordBatch], stream: Any, settings: Settings) -> int:  # noqa: ANN401
    source = settings.streaming
    names = _columns(settings)
    rows = 0
    try:
        with io.TextIOWrapper(stream, encoding=source.encoding, newline="", write_through=True) as text:
            table = csv.DictWriter(text, names, delimiter=source.delimiter, lineterminator="\n")
            write: Callable[[dict[str, Any]], Any] = table.writerow
            if source.format == "jsonl":
                write = lambda record: text.write(json.dumps(record, ensure_ascii=False) + "\n")  # noqa: E731
            else:
                table.writeheader()
            for part in parts:
                for row in part.to_pylist():
                    record = _record(row, settings)
                    moment = _time_text(record[source.columns.time], settings.interactions.time_format)
                    write(record | {source.columns.time: moment})
                rows += part.num_rows
    except UnicodeEncodeError as error:
        raise SettingsError(
            f"[streaming].encoding = {source.encoding!r} cannot hold an id of an event ({error.reason}): set it to"
            " UTF-8"
        ) from None
    return rows


def _columns(settings: Settings) -> list[str]:
    """Every column that a file of feedback must have, once each."""
    names = settings.streaming.columns
    cancellation = settings.streaming.cancellation
    mapped = [names.user, names.item, names.time, names.weight, names.event, names.title, names.category]
    return list(dict.fromkeys(name for name in [*mapped, cancellation and cancellation.column] if name))


def _record(row: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """One event as the file has it. Columns of which the service knows nothing stay empty."""
    names = settings.streaming.columns
    record = dict.fromkeys(_columns(settings)) | {names.user: row[USER], names.item: row[ITEM], names.time: row[TIME]}
    # Seven digits of a `real` give back what was posted: 0.1, not 0.10000000149.
    weight = float(f"{row[WEIGHT]:.7g}")
    if names.event:
        factors = settings.interactions.event_weights or {"interaction": _EVENT_WEIGHT}
        usable = {name: factor for name, factor in factors.items() if factor > 0}
        wanted = _EVENT_WEIGHT if names.weight else weight
        event = min(usable, key=lambda name: (abs(usable[name] - wanted), name))
        record[names.event] = event
        weight /= usable[event]
    if names.weight:
        record[names.weight] = weight
    return record


def _time_text(time: datetime, time_format: str) -> str:
    if time_format in _TICKS:
        seconds = time.timestamp()
        return str(round(seconds * _TICKS[time_format]) if time_format != "epoch_s" else seconds)
    return time.isoformat().replace("+00:00", "Z")
