"""Reads files of raw events record by record, whatever is in them, in bounded memory."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, cast

from shortlist.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import IO

    from shortlist.settings import TransformSettings

    Record = tuple[int, dict[str, Any] | None, str]

_ENDINGS: Final = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
}
_LONGEST_LINE: Final = 1_000_000
_LONGEST_RAW: Final = 10_000
_BATCH: Final = 20_000


def format_of(key: str, settings: TransformSettings) -> str | None:
    """Return the format of an object by the settings or, where they leave it open, by its name; None if that fails."""
    if settings.format != "auto":
        return settings.format
    name = key.lower().removesuffix(".gz")
    return next((kind for ending, kind in _ENDINGS.items() if name.endswith(ending)), None)


def read_records(path: Path, key: str, settings: TransformSettings) -> Iterator[Record]:
    """Read a file of raw events.

    Args:
        path: The file.
        key: Name of the object that it is a copy of; ends with `.gz` where it is packed.
        settings: Format, delimiter, encoding.

    Yields:
        Number of the record, from 1; its fields, None where it is malformed; its text, cut where it is very long. A
        value of a JSON or CSV file is a text, as it stands there: `1e3` and `007` survive.

    Raises:
        InputError: If the file cannot be read to its end. The message says why.
    """
    kind = format_of(key, settings)
    if kind is None:
        raise InputError(f"the name tells no format ({', '.join(_ENDINGS)}; also .gz)")
    try:
        if kind == "parquet":
            yield from _read_parquet(path, settings)
            return
        with _open(path, key, settings, newline="" if kind == "csv" else "\n") as stream:
            yield from (_read_csv if kind == "csv" else _read_json)(stream, settings)
    except (OSError, EOFError, zlib.error, csv.Error, ValueError) as error:  # pyarrow's errors are among them
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(reason.replace(str(path), "the file")) from error


@contextmanager
def _open(path: Path, key: str, settings: TransformSettings, *, newline: str) -> Iterator[io.TextIOWrapper]:
    plain = settings.encoding.upper().replace("-", "") == "UTF8"
    open_bytes: Callable[..., Any] = gzip.open if key.lower().endswith(".gz") else open
    with (
        open_bytes(path, "rb") as stream,
        io.TextIOWrapper(
            cast("IO[bytes]", stream),
            encoding="utf-8-sig" if plain else settings.encoding,
            errors="replace",
            newline=newline,
        ) as text,
    ):
        yield text


def _lines(stream: io.TextIOWrapper) -> Iterator[str | None]:
    """Yield the lines; None for one that is longer than any record can be."""
    while line := stream.readline(_LONGEST_LINE):
        if len(line) < _LONGEST_LINE or line.endswith("\n"):
            yield line
            continue
        while line and not line.endswith("\n"):
            line = stream.readline(_LONGEST_LINE)
        yield None


def _read_json(stream: io.TextIOWrapper, _settings: TransformSettings) -> Iterator[Record]:
    number = 0
    for line in _lines(stream):
        if line is not None and not line.strip():
            continue
        number += 1
        if line is None:
            yield number, None, f"a line of more than {_LONGEST_LINE:,} characters"
            continue
        if number == 1 and line.lstrip().startswith("["):
            raise InputError("it is one JSON array; write JSON lines, one object a line")
        try:
            record = json.loads(line, parse_int=str, parse_float=str, parse_constant=str)
        except (ValueError, RecursionError):
            record = None
        yield number, record if isinstance(record, dict) else None, line.strip()[:_LONGEST_RAW]


def _read_csv(stream: io.TextIOWrapper, settings: TransformSettings) -> Iterator[Record]:
    def lines() -> Iterator[str]:
        for line in _lines(stream):
            if line is None:
                raise InputError(f"a line has more than {_LONGEST_LINE:,} characters")
            yield line

    # Strict: a quote that never closes is an error, not a field that holds the rest of the file.
    records = (each for each in csv.reader(lines(), delimiter=settings.delimiter, strict=True) if any(each))
    header = next(records, None)
    if header is None:
        raise InputError("it has no header: its first line must name the columns")
    names = [name.strip() for name in header]
    if len(set(names)) < len(names):
        raise InputError("two columns have the same name")
    _check_names(names, settings)
    for number, fields in enumerate(records, start=1):
        record = dict(zip(names, fields, strict=True)) if len(fields) == len(names) else None
        yield number, record, json.dumps(record or fields, ensure_ascii=False)[:_LONGEST_RAW]


def _read_parquet(path: Path, settings: TransformSettings) -> Iterator[Record]:
    import pyarrow as pa
    from pyarrow import parquet

    number = 0
    with parquet.ParquetFile(path) as file:
        _check_names(file.schema_arrow.names, settings)
        for batch in file.iter_batches(batch_size=_BATCH):
            table = pa.Table.from_batches([batch])
            for position, field in enumerate(table.schema):
                if pa.types.is_timestamp(field.type):  # Python knows no nanoseconds
                    unit = pa.timestamp("us", field.type.tz)
                    table = table.set_column(position, field.name, table[position].cast(unit, safe=False))
            for record in table.to_pylist():
                number += 1
                yield number, record, json.dumps(record, ensure_ascii=False, default=str)[:_LONGEST_RAW]


def _check_names(names: list[str], settings: TransformSettings) -> None:
    needed = (settings.columns.user, settings.columns.item, settings.columns.time)
    if missing := [name for name in needed if name not in names]:
        raise InputError(f"it has no column {', '.join(missing)}: see [transform.columns]")
