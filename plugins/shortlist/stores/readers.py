"""Spark readers of the files a user drops in: Parquet, CSV, JSON lines and the Netflix combined format.

Every format ends in the same frame of text columns, so that an id such as `007` or `1e3` survives whatever the file
type, and every row knows its file and its position in it.
"""

from __future__ import annotations

import csv
import difflib
import io
import json
import os
import re
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import IO, TYPE_CHECKING, Any, Final, cast
from urllib.parse import unquote

from shortlist.columns import CATEGORY, ITEM, RAW, SOURCE_FILE, TIME, TITLE, USER, WEIGHT
from shortlist.errors import InputError, NoInputError
from shortlist.settings import PROJECT_ROOT
from shortlist.stores.files import resolve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    import pyarrow
    from pyarrow import fs
    from pyspark.sql import Column, DataFrame, SparkSession

    from shortlist.settings import FileSettings, InputSettings, Settings

EVENT: Final = "event"
CANCELLATION: Final = "cancellation"
MALFORMED: Final = "malformed"
SOURCE_BLOCK: Final = "source_block"
SOURCE_POSITION: Final = "source_position"

# What a mapped column may stand for; each becomes a text column, null where the file has none.
FIELDS: Final = (USER, ITEM, TIME, WEIGHT, EVENT, TITLE, CATEGORY, CANCELLATION, "available")

NETFLIX_COLUMNS: Final = ("MovieID", "CustomerID", "Rating", "Date")

_CORRUPT: Final = "__corrupt"
_ENDINGS: Final = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".txt": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
}
_OPEN_QUOTE: Final = "a quote opens and never closes; mend the line, or set [input].multiline = false"
_SAMPLE_LINES: Final = 100
# A longer field of a CSV file is a quote that never closes.
_LONGEST_FIELD: Final = 100_000


@dataclass(frozen=True)
class InputFile:
    """One input file as it was when it was listed."""

    path: str
    bytes: int
    modified: int


@dataclass(frozen=True)
class _Layout:
    """What must be equal for files to be read together."""

    format: str
    columns: tuple[str, ...]
    types: str = ""
    nanoseconds: tuple[tuple[str, bool], ...] = ()  # Parquet columns that Spark has no type for; with a zone or not
    rows: bool = True


def list_files(location: str) -> tuple[InputFile, ...]:
    """List the input files behind a path, folder, glob or URL, and refuse what cannot be read.

    Names that begin with `_` or `.` inside a folder are not data. A symbolic link found in a folder or by a glob
    must stay inside that folder; a single file may be a link, because it was named on purpose.

    Raises:
        NoInputError: If nothing is there.
        InputError: If a file has 0 bytes, or a link leaves its folder.
    """
    from pyarrow import fs

    if "://" not in location:
        location = str(PROJECT_ROOT / location)
    scheme, separator, path = location.rpartition("://")
    # Brackets and stars would confuse the parser of URLs; the folder in front of them does not.
    folder = re.split(r"[*?\[]", path, maxsplit=1)[0].rpartition("/")[0]
    filesystem, _ = resolve(scheme + separator + (folder if "/" in folder else path))
    named = filesystem.get_file_info(path)
    if named.type == fs.FileType.File:
        found = [named]
    elif named.type == fs.FileType.Directory:
        found = _search(filesystem, path, "*", recursive=True)
    else:
        found = _search(filesystem, folder, path, recursive="*" in path or "?" in path or "[" in path)
    if not found:
        raise NoInputError(f"no input at {location}: put a file there, or set [input].path in config/pipeline.toml")
    for file in found:
        if not file.size:
            raise InputError(f"{file.path} is empty (0 bytes): was the upload interrupted? Deliver it again")
    return tuple(InputFile(scheme + separator + file.path, file.size or 0, file.mtime_ns or 0) for file in found)


def _search(filesystem: fs.FileSystem, folder: str, pattern: str, *, recursive: bool) -> list[fs.FileInfo]:
    from pyarrow import fs

    inside = (
        filesystem.get_file_info(fs.FileSelector(folder, allow_not_found=True, recursive=True)) if recursive else []
    )
    local = isinstance(filesystem, fs.LocalFileSystem)
    found = []
    for file in sorted(inside, key=lambda each: each.path):
        parts = file.path[len(folder) :].strip("/").split("/")
        hidden = any(part.startswith(("_", ".")) for part in parts)
        if file.type != fs.FileType.File or hidden or not (pattern == "*" or _matches(file.path, pattern)):
            continue
        home = os.path.join(os.path.realpath(folder), "")
        if local and not os.path.realpath(file.path).startswith(home):
            raise InputError(f"{file.path} is a link that leaves {folder}: put the file itself there, or name it alone")
        found.append(file)
    return found


def _matches(path: str, pattern: str) -> bool:
    parts, patterns = path.split("/"), pattern.rstrip("/").split("/")
    return len(parts) == len(patterns) and all(fnmatch(*pair) for pair in zip(parts, patterns, strict=True))


def check_unchanged(location: str, files: tuple[InputFile, ...], *, others_may_come: bool = False) -> None:
    """Compare the files behind `location` with an earlier listing.

    Args:
        location: As for `list_files`.
        files: The earlier listing.
        others_may_come: A new file is no change.

    Raises:
        InputError: If one grew, changed, came or went in between.
    """
    before = {file.path: file for file in files}
    now = {file.path: file for file in list_files(location) if file.path in before or not others_may_come}
    changed = sorted(path for path in now.keys() | before.keys() if now.get(path) != before.get(path))
    if changed:
        raise InputError(
            f"still growing: {', '.join(changed[:5])} changed while being read. Nothing was written; "
            "run again when the delivery is complete (deliver under a temporary name, then rename)"
        )


def interaction_columns(settings: Settings) -> dict[str, str]:
    """Return which column of the file stands for which field, from `[input.columns]` and the cancellation rule."""
    names = settings.input.columns
    cancellation = settings.interactions.cancellation
    mapped = {
        USER: names.user,
        ITEM: names.item,
        TIME: names.time,
        WEIGHT: names.weight,
        EVENT: names.event,
        TITLE: names.title,
        CATEGORY: names.category,
        CANCELLATION: cancellation.column if cancellation else None,
    }
    return {field: name for field, name in mapped.items() if name}


def read_rows(
    spark: SparkSession, files: Sequence[InputFile], *, columns: Mapping[str, str], source: InputSettings
) -> list[DataFrame]:
    """Read files as text, whatever their format, header and column order.

    Args:
        spark: Session owned by the caller. Parquet times in nanoseconds turn on its `nanosAsLong` option.
        files: From `list_files`.
        columns: Column in the file by field (see `FIELDS`).
        source: Format, delimiter, encoding.

    Returns:
        One frame for each layout (format, columns, types) found, all with the same columns: `source_file`,
        `source_block`, `source_position` (see `number_rows`), `malformed`, every name of `FIELDS` as text (a Parquet
        time stays a time), null where the layout has none, and `raw`, a struct of the whole row.

    Raises:
        InputError: If a file cannot be opened, has no rows, or lacks a column.
    """
    groups: dict[_Layout, list[str]] = {}
    for file in files:
        layout = _layout(file.path, source)
        _check_columns(file.path, layout, columns)
        groups.setdefault(layout, []).append(file.path)
    filled = {layout: paths for layout, paths in groups.items() if layout.rows}
    if not filled:
        raise InputError(f"{files[0].path} has a header and no rows: was the export cut short? Deliver it again")
    read = {"parquet": _read_parquet, "csv": _read_csv, "jsonl": _read_json, "netflix": _read_netflix}
    return [
        _select_fields(read[layout.format](spark, paths, layout, source), layout, columns)
        for layout, paths in filled.items()
    ]


def number_rows(spark: SparkSession, rows: DataFrame, blocks: Iterable[tuple[str, int, int, int]]) -> DataFrame:
    """Add `source_row`, the number of the record within its file, from 1, and make `source_file` readable.

    Spark splits a large text file into blocks that do not know how many records came before them, so the numbers
    need one count a block, which the caller gets from a pass it makes anyway.

    Args:
        spark: Session owned by the caller.
        rows: With `source_file`, `source_block`, `source_position`.
        blocks: File, block, smallest position and number of records of every block of *all* rows.
    """
    from pyspark.sql import functions as F

    from shortlist.columns import SOURCE_ROW

    offsets, read = [], dict[str, int]()
    for file, block, first, count in sorted(blocks):
        before = read.get(file, 0)
        offsets.append((file, block, readable_name(file), before + 1 - first))
        read[file] = before + count
    table = spark.createDataFrame(offsets, f"file string, {SOURCE_BLOCK} bigint, {SOURCE_FILE} string, offset bigint")
    return (
        rows.withColumnRenamed(SOURCE_FILE, "file")
        .join(F.broadcast(table), ["file", SOURCE_BLOCK], how="left")
        .withColumn(SOURCE_ROW, F.col(SOURCE_POSITION) + F.col("offset"))
        .drop("file")
    )


def readable_name(source_file: str) -> str:
    """Return the path behind a `source_file`, which Spark writes as an escaped URL."""
    return re.sub("^file:(//)?", "", unquote(source_file))


@contextmanager
def readable_errors() -> Iterator[None]:
    """Turn what Spark says about a file it cannot read into an `InputError` that names the file.

    Raises:
        InputError: If a file is truncated, corrupt or gone; any other error passes unchanged.
    """
    from pyspark.errors import PySparkException

    try:
        yield
    except Exception as error:
        text = str(error)
        # Classic Spark raises Py4JJavaError, which a Connect-only installation does not even have.
        if not isinstance(error, PySparkException) and type(error).__name__ != "Py4JJavaError":
            raise
        if "FAILED_READ_FILE" not in text and "UnreadableInput" not in text:
            raise
        named = re.search(r"(?:reading file |OSError: UnreadableInput: )(\S+?)\.?(?:\s|$)", text)
        name = readable_name(named[1]) if named else "a file"
        raise InputError(f"{name} cannot be read to its end: {_cause(text)}") from error


def _cause(text: str) -> str:
    if "FileNotFoundException" in text or "FILE_NOT_EXIST" in text:
        return "it was removed while being read; run again when the delivery is complete"
    if "TextParsingException" in text and "Length of parsed input" in text:
        return _OPEN_QUOTE
    return "it is truncated or corrupt; deliver it again (test a .gz with gzip -t)"


def _layout(path: str, source: InputSettings) -> _Layout:
    try:
        kind = format_of(path, source)
        if kind == "parquet":
            return _parquet_layout(path)
        if kind == "netflix":
            return _Layout("netflix", NETFLIX_COLUMNS)
        with open_text(path, source.encoding) as lines:
            return _json_layout(path, lines) if kind == "jsonl" else _csv_layout(path, lines, source)
    except csv.Error as error:
        raise InputError(f"{path} cannot be read ({error}): {_OPEN_QUOTE}") from error
    except (OSError, ValueError, EOFError) as error:  # pyarrow's errors are ValueErrors and OSErrors
        reason = str(error).splitlines()[0]
        raise InputError(f"{path} cannot be read ({reason}): it is truncated or corrupt; deliver it again") from error


def format_of(path: str, source: FileSettings) -> str:
    """Return the format of a file: that of the settings or, where it is `auto`, what name and first line tell.

    Raises:
        InputError: If the name tells nothing.
    """
    if source.format != "auto":
        return source.format
    name = path.rsplit("/", 1)[-1].lower().removesuffix(".gz")
    kind = next((kind for ending, kind in _ENDINGS.items() if name.endswith(ending)), None)
    if kind is None:
        known = ", ".join(_ENDINGS)
        raise InputError(f"cannot tell the format of {path} by its name ({known}; also .gz): set [input].format")
    if name.endswith(".txt"):
        with open_text(path, source.encoding) as lines:
            if re.fullmatch(r"\s*\d+:\s*", lines.readline()):
                return "netflix"
    return kind


@contextmanager
def open_text(path: str, encoding: str) -> Iterator[io.TextIOWrapper]:
    """Open a text file for reading, local or by URL, `.gz` or not, with or without a byte order mark.

    Bytes that are not in `encoding` become U+FFFD.
    """
    filesystem, inner = resolve(path)
    with (
        filesystem.open_input_stream(inner) as stream,
        io.TextIOWrapper(cast("IO[bytes]", stream), encoding=_codec(encoding), errors="replace", newline="") as lines,
    ):
        yield lines


def _codec(encoding: str) -> str:
    return "utf-8-sig" if encoding.upper().replace("-", "") == "UTF8" else encoding


def _parquet_layout(path: str) -> _Layout:
    import pyarrow as pa
    from pyarrow import parquet

    filesystem, inner = resolve(path)
    with parquet.ParquetFile(inner, filesystem=filesystem) as file:
        schema = file.schema_arrow
        nanoseconds = tuple(
            (column.name, column.type.tz is not None)
            for column in schema
            if pa.types.is_timestamp(column.type) and column.type.unit == "ns"
        )
        return _Layout("parquet", tuple(schema.names), str(schema.types), nanoseconds, file.metadata.num_rows > 0)


def _csv_layout(path: str, lines: Iterable[str], source: InputSettings) -> _Layout:
    records = (record for record in csv.reader(lines, delimiter=source.delimiter) if any(record))
    header = next(records, None)
    if header is None:
        raise InputError(f"{path} has no header: its first line must name the columns")
    names = tuple(name.strip() or f"_c{position}" for position, name in enumerate(header))
    return _Layout("csv", names, rows=next(records, None) is not None)


def _json_layout(path: str, lines: Iterable[str]) -> _Layout:
    names: dict[str, None] = {}
    rows = False
    for number, line in enumerate(lines):
        rows = rows or bool(line.strip())
        if number == 0 and line.lstrip().startswith("["):
            raise InputError(f"{path} is one JSON array: write JSON lines, one object a line (jq -c '.[]')")
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            names.update(dict.fromkeys(record))
        if number >= _SAMPLE_LINES:
            break
    return _Layout("jsonl", tuple(sorted(names)), rows=rows)


def _check_columns(path: str, layout: _Layout, columns: Mapping[str, str]) -> None:
    lowered = [name.lower() for name in layout.columns]
    twice = sorted({name for name in layout.columns if lowered.count(name.lower()) > 1})
    if twice:
        raise InputError(f"{path} has columns of the same name: {', '.join(twice)}. Rename one of them")
    if layout.format == "jsonl" and not layout.columns:
        raise InputError(f"{path} holds no JSON object in its first {_SAMPLE_LINES} lines: one object a line is needed")
    for field, name in columns.items():
        # A JSON line may leave out what it does not know, so only the fields that no row can do without are asked for.
        if name in layout.columns or (layout.format == "jsonl" and field not in (USER, ITEM, TIME)):
            continue
        close = {each.lower(): each for each in layout.columns}
        match = difflib.get_close_matches(name.lower(), close, n=1)
        hint = f" Did you mean {close[match[0]]!r}?" if match else ""
        raise InputError(
            f"{path} has no column {name!r}, which stands for {field}.{hint} It has: {', '.join(layout.columns)}. "
            "Change the names in config/pipeline.toml, or the file"
        )


def _spark_paths(paths: Sequence[str]) -> list[str]:
    # Spark takes every path for a glob, also one with brackets in a file's name.
    escaped = [re.sub(r"([\[\]{}*?\\])", r"\\\1", path) for path in paths]
    return [path if "://" in path else f"file:{path}" for path in escaped]


def _read_csv(spark: SparkSession, paths: Sequence[str], layout: _Layout, source: InputSettings) -> DataFrame:
    return (
        spark.read.schema(_text_schema(layout.columns))
        .options(header=True, multiLine=source.multiline, sep=source.delimiter, encoding=source.encoding, escape='"')
        .options(columnNameOfCorruptRecord=_CORRUPT, maxCharsPerColumn=_LONGEST_FIELD)
        .csv(_spark_paths(paths))
        .select("*", *_text_position())
    )


def _read_json(spark: SparkSession, paths: Sequence[str], layout: _Layout, source: InputSettings) -> DataFrame:
    reader = spark.read.schema(_text_schema(layout.columns)).options(columnNameOfCorruptRecord=_CORRUPT)
    if source.encoding.upper() != "UTF-8":  # naming it, even UTF-8, makes Spark rewrite the number 1e3 as 1000.0
        reader = reader.options(encoding=source.encoding, lineSep="\n")
    return reader.json(_spark_paths(paths)).select("*", *_text_position())


def _text_schema(names: Sequence[str]) -> str:
    return ", ".join(f"{_quoted(name)} string" for name in (*names, _CORRUPT))


def _text_position() -> list[Column]:
    from pyspark.sql import functions as F

    return [
        F.col("_metadata.file_path").alias(SOURCE_FILE),
        F.col("_metadata.file_block_start").alias(SOURCE_BLOCK),
        F.monotonically_increasing_id().alias(SOURCE_POSITION),
    ]


def _read_parquet(spark: SparkSession, paths: Sequence[str], layout: _Layout, _source: InputSettings) -> DataFrame:
    from pyspark.sql import functions as F

    nanoseconds = dict(layout.nanoseconds)
    if nanoseconds:
        spark.conf.set("spark.sql.legacy.parquet.nanosAsLong", "true")
    frame = spark.read.parquet(*_spark_paths(paths))
    texts = [
        _nanoseconds(name, zoned=nanoseconds[name]) if name in nanoseconds else _as_text(name, kind)
        for name, kind in frame.dtypes
    ]
    return frame.select(
        *texts,
        F.lit(None).cast("string").alias(_CORRUPT),
        F.col("_metadata.file_path").alias(SOURCE_FILE),
        F.lit(0).cast("bigint").alias(SOURCE_BLOCK),
        F.col("_metadata.row_index").alias(SOURCE_POSITION),
    )


def _nanoseconds(name: str, *, zoned: bool) -> Column:
    from pyspark.sql import functions as F

    if zoned:
        return F.timestamp_micros(F.expr(f"{_quoted(name)} div 1000")).alias(name)
    moment = f"timestampadd(MICROSECOND, {_quoted(name)} div 1000, timestamp_ntz'1970-01-01 00:00:00')"
    return F.expr(moment).alias(name)


def _as_text(name: str, kind: str) -> Column:
    from pyspark.sql import functions as F

    column = F.col(_quoted(name))
    if kind in ("double", "float"):
        # pandas stores ids with gaps as double, and NaN for a gap: 17850.0 is the id 17850.
        whole = F.when(column % 1 == 0, column.try_cast("decimal(38,0)")).cast("string")
        text = F.coalesce(whole, column.cast("string"))
    elif kind.startswith("decimal"):
        text = F.regexp_replace(column.cast("string"), r"\.0+$", "")
    elif kind in ("timestamp", "timestamp_ntz"):
        text = column
    elif kind.startswith(("array", "map", "struct")):
        text = F.to_json(column)
    else:
        text = column.cast("string")
    return text.alias(name)


def _read_netflix(spark: SparkSession, paths: Sequence[str], _layout: _Layout, source: InputSettings) -> DataFrame:
    # One row a file and one partition a file: the movie of a line stands somewhere above it.
    listed = spark.createDataFrame([(path,) for path in paths], "path string").repartition(len(paths))
    names = ", ".join(f"{name} string" for name in (*NETFLIX_COLUMNS, _CORRUPT, SOURCE_FILE))
    schema = f"{names}, {SOURCE_BLOCK} bigint, {SOURCE_POSITION} bigint"
    return listed.mapInArrow(_netflix_parser(_codec(source.encoding)), schema)


def _netflix_line_parser() -> Callable[[Iterable[str], str], Iterator[tuple[Any, ...]]]:
    def parse_lines(lines: Iterable[str], name: str) -> Iterator[tuple[Any, ...]]:
        movie, position = None, 0
        for line in lines:
            text = line.strip()
            if text.endswith(":") and text[:-1].strip().isdigit():
                movie = text[:-1].strip()
            elif text:
                fields = text.split(",")
                valid = movie is not None and len(fields) == 3
                user, rating, date = fields if valid else (None, None, None)
                yield movie, user, rating, date, None if valid else text, name, 0, position
                position += 1

    return parse_lines


def _netflix_parser(
    encoding: str, *, size: int = 50_000
) -> Callable[[Iterator[pyarrow.RecordBatch]], Iterator[pyarrow.RecordBatch]]:
    # Runs on Spark's workers, which may not have this package: nested functions travel whole.
    names = [*NETFLIX_COLUMNS, _CORRUPT, SOURCE_FILE, SOURCE_BLOCK, SOURCE_POSITION]

    def to_batch(records: list[tuple[Any, ...]]) -> pyarrow.RecordBatch:
        import pyarrow as pa

        types = [pa.string()] * 6 + [pa.int64()] * 2
        columns = [pa.array(values, kind) for values, kind in zip(zip(*records, strict=True), types, strict=True)]
        return pa.RecordBatch.from_arrays(columns, names)

    parse_lines = _netflix_line_parser()

    def parse_file(path: str) -> Iterator[pyarrow.RecordBatch]:
        from io import TextIOWrapper
        from itertools import islice
        from urllib.parse import quote

        from pyarrow import fs

        filesystem, inner = fs.FileSystem.from_uri(path) if "://" in path else (fs.LocalFileSystem(), path)
        try:
            with (
                filesystem.open_input_stream(inner) as stream,
                TextIOWrapper(cast("IO[bytes]", stream), encoding=encoding, errors="replace") as lines,
            ):
                records = parse_lines(lines, quote(path))
                while chunk := list(islice(records, size)):
                    yield to_batch(chunk)
        except OSError as error:
            raise OSError(f"UnreadableInput: {quote(path)} ({error})") from error

    def parse(batches: Iterator[pyarrow.RecordBatch]) -> Iterator[pyarrow.RecordBatch]:
        for batch in batches:
            for path in batch.column(0).to_pylist():
                yield from parse_file(str(path))

    return parse


def _select_fields(frame: DataFrame, layout: _Layout, columns: Mapping[str, str]) -> DataFrame:
    from pyspark.sql import functions as F

    present = set(layout.columns)
    fields = [
        (F.col(_quoted(columns[field])) if columns.get(field) in present else F.lit(None).cast("string")).alias(field)
        for field in FIELDS
    ]
    return frame.select(
        SOURCE_FILE,
        SOURCE_BLOCK,
        SOURCE_POSITION,
        F.col(_CORRUPT).isNotNull().alias(MALFORMED),
        *fields,
        F.struct(*[F.col(_quoted(name)) for name in layout.columns], F.col(_CORRUPT).alias("_line")).alias(RAW),
    )


def _quoted(name: str) -> str:
    return f"`{name.replace('`', '``')}`"
