"""Files on their way into the database: found, checked and read in batches, never whole in memory."""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shortlist.errors import InputError, NothingToDoError
from shortlist.stores import files

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

    from shortlist.stores.datasets import Column, Dataset

EXPORT_FILE = "_export.json"

_BATCH_ROWS = 65_536
_CHUNK_BYTES = 1 << 20
_MEANING = {
    "text": "text",
    "integer": "a whole number between -2147483648 and 2147483647",
    "real": "a number",
    "boolean": "true or false",
    "time": "a time such as 2026-11-21T21:05:00Z",
}


@dataclass(frozen=True)
class HandOverFile:
    """One file, or one folder of Parquet parts, as it was when it was found.

    Attributes:
        location: Path or URL, for messages and `files.resolve`.
        parts: Path within the file system, size and modification time of each part, by name.
        fingerprint: SHA-256 of all bytes.
        export: Contents of `_export.json`, which our own export writes; empty for other files.
    """

    location: str
    is_csv: bool
    parts: tuple[tuple[str, int, int], ...]
    fingerprint: str
    export: dict[str, Any]


def find(folder: str, dataset: Dataset) -> HandOverFile:
    """Find `<dataset>.parquet` (file or folder) or `<dataset>.csv`.

    Raises:
        NothingToDoError: If there is no such file.
        InputError: If both lie there, or the folder is incomplete.
    """
    parquet, csv = f"{folder}/{dataset.name}.parquet", f"{folder}/{dataset.name}.csv"
    found = [location for location in (parquet, csv) if files.exists(location)]
    if not found:
        raise NothingToDoError(
            f"nothing to load: there is neither {parquet} nor {csv}. Run etl_train_test_pipeline, which exports it,"
            " or put a file with the documented columns there."
        )
    if len(found) == 2:
        raise InputError(f"both {parquet} and {csv} are there: remove the one that must not be loaded")
    location = found[0]
    parts = _list_parts(location)
    return HandOverFile(
        location=location,
        is_csv=location == csv,
        parts=parts,
        fingerprint=_fingerprint(location, parts),
        export=files.read_json(f"{location}/{EXPORT_FILE}") if files.exists(f"{location}/{EXPORT_FILE}") else {},
    )


def read_batches(file: HandOverFile, dataset: Dataset) -> Iterator[pa.RecordBatch]:
    """Yield the rows with exactly the columns and types of `dataset.columns`; an optional column may be all null.

    Raises:
        InputError: Naming file, column and row, if the file is corrupt, lacks a column, has an unknown one or a value
            of the wrong type, or changes while it is read.
    """
    import pyarrow as pa

    rows = 0
    for path, _, _ in file.parts:
        row = 1
        try:
            for batch in _open(file, path, dataset):
                yield _conform(batch, dataset, path, row)
                row += batch.num_rows
        except (pa.ArrowInvalid, OSError) as error:
            what = "CSV in UTF-8, separated by commas" if file.is_csv else "Parquet"
            raise InputError(
                f"{path} cannot be read as {what}: {error}. It is empty, incomplete, damaged or of another format:"
                " write it again under another name, then rename it."
            ) from error
        rows += row - 1
    if _list_parts(file.location) != file.parts:
        raise InputError(
            f"{file.location} changed while it was read: write it under another name, rename it when it is complete,"
            " and run the load again"
        )
    if rows != file.export.get("rows", rows):
        raise InputError(
            f"{file.location} has {rows} rows, but {EXPORT_FILE} in it tells of {file.export['rows']}: parts are"
            " missing or too many; export it again"
        )


def _list_parts(location: str) -> tuple[tuple[str, int, int], ...]:
    from pyarrow import fs

    filesystem, path = files.resolve(location)
    info = filesystem.get_file_info(path)
    if info.type == fs.FileType.File:
        return ((path, info.size, info.mtime_ns or 0),)
    inside = filesystem.get_file_info(fs.FileSelector(path, recursive=True, allow_not_found=True))
    if any("/_temporary" in entry.path.removeprefix(path) for entry in inside):
        raise InputError(f"{location} is still being written (it holds _temporary): wait for it, or export it again")
    parts = sorted(
        (entry.path, entry.size, entry.mtime_ns or 0)
        for entry in inside
        if entry.type == fs.FileType.File and not entry.base_name.startswith(("_", "."))
    )
    if not parts:
        raise InputError(f"{location} is an empty folder: export it again, or remove it")
    return tuple(parts)


def _fingerprint(location: str, parts: tuple[tuple[str, int, int], ...]) -> str:
    filesystem, _ = files.resolve(location)
    digest = hashlib.sha256()
    for path, _, _ in parts:
        with filesystem.open_input_stream(path, compression=None) as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                digest.update(chunk)
    return digest.hexdigest()


def _open(file: HandOverFile, path: str, dataset: Dataset) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa
    from pyarrow import csv, parquet

    filesystem, _ = files.resolve(file.location)
    if file.is_csv:
        with (
            filesystem.open_input_stream(path) as stream,
            csv.open_csv(
                stream,  # type: ignore[arg-type] # the stubs do not know that Arrow reads its own streams
                parse_options=csv.ParseOptions(newlines_in_values=True),
                # All text: leading zeros survive, and a number that does not parse is reported with its row.
                convert_options=csv.ConvertOptions(
                    column_types={column.name: pa.string() for column in dataset.columns},
                    strings_can_be_null=True,
                    null_values=[""],
                ),
            ) as reader,
        ):
            _check_names(reader.schema.names, dataset, path)
            yield from reader
    else:
        with filesystem.open_input_file(path) as source, parquet.ParquetFile(source) as table:
            _check_names(table.schema_arrow.names, dataset, path)
            yield from table.iter_batches(batch_size=_BATCH_ROWS)


def _check_names(names: list[str], dataset: Dataset, path: str) -> None:
    known = [column.name for column in dataset.columns]
    problems = [
        f"{problem} {', '.join(map(repr, columns))}"
        for problem, columns in {
            "lacks": [column.name for column in dataset.columns if not column.optional and column.name not in names],
            "has the unknown": [name for name in names if name not in known],
            "has more than one": sorted({name for name in names if names.count(name) > 1}),
        }.items()
        if columns
    ]
    if problems:
        optional = [column.name for column in dataset.columns if column.optional]
        raise InputError(
            f"{path} {', '.join(problems)}. Columns of {dataset.name}:"
            f" {', '.join(name for name in known if name not in optional)}"
            f"{'; optional: ' + ', '.join(optional) if optional else ''}. Rename or remove columns, then load again."
        )


def _conform(batch: pa.RecordBatch, dataset: Dataset, path: str, first_row: int) -> pa.RecordBatch:
    """Return the batch with the columns and Arrow types of the data set; `first_row` counts from 1 within the file."""
    import pyarrow as pa

    arrays = []
    for column in dataset.columns:
        if column.name not in batch.schema.names:
            arrays.append(pa.nulls(batch.num_rows).cast(arrow_type(column)))
            continue
        values = batch.column(column.name)
        try:
            arrays.append(_convert(values, column))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            bad = bisect_left(
                range(len(values)), True, key=lambda last: not _converts(values.slice(0, last + 1), column)
            )
            value = str(values[bad].as_py())[:100]
            hint = "; ids must be text or whole numbers" if pa.types.is_floating(values.type) else ""
            raise InputError(
                f"{path}, row {first_row + bad}, column {column.name!r}: {value!r} is not {_MEANING[column.kind]}"
                f"{hint}: mend the file, then load again"
            ) from None
    return pa.record_batch(arrays, schema=arrow_schema(dataset))


def arrow_schema(dataset: Dataset) -> pa.Schema:
    """Return the Arrow schema of the data set's columns, as the COPY wants it."""
    import pyarrow as pa

    return pa.schema([pa.field(column.name, arrow_type(column)) for column in dataset.columns])


def arrow_type(column: Column) -> pa.DataType:
    """Return the Arrow type that PostgreSQL takes for this column."""
    import pyarrow as pa

    types: dict[str, pa.DataType] = {
        "text": pa.string(),
        "integer": pa.int32(),
        "real": pa.float32(),
        "boolean": pa.bool_(),
        "time": pa.timestamp("us", "UTC"),
        "text[]": pa.list_(pa.string()),
        "real[]": pa.list_(pa.float32()),
    }
    return types[column.kind]


def _converts(values: pa.Array[Any], column: Column) -> bool:
    import pyarrow as pa

    try:
        _convert(values, column)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return False
    return True


def _convert(values: pa.Array[Any], column: Column) -> pa.Array[Any]:
    import pyarrow as pa
    import pyarrow.compute as pc

    target = arrow_type(column)
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if pa.types.is_large_string(values.type) or pa.types.is_string_view(values.type):
        values = values.cast(pa.string())
    if column.kind == "text":
        if pa.types.is_floating(values.type) or pa.types.is_decimal(values.type):
            raise pa.ArrowInvalid("an id that went through floating point has lost its digits")
        values = values.cast(target)
        if pc.any(pc.match_substring(values, "\0")).as_py():
            raise pa.ArrowInvalid("PostgreSQL stores no NUL characters")
        return values
    if column.kind in ("integer", "real"):
        # By way of double, since writers with missing values turn whole numbers into 1.0.
        return values.cast(pa.float64(), safe=column.kind == "integer").cast(target)
    if column.kind == "time":
        return _convert_times(values).cast(target, safe=False)
    return values.cast(target)


def _convert_times(values: pa.Array[Any]) -> pa.Array[Any]:
    """Give texts that name no zone the zone UTC; refuse numbers, whose unit nobody knows."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_integer(values.type):
        raise pa.ArrowInvalid("a number is no time")
    if not pa.types.is_string(values.type):
        return values
    is_date = pc.match_substring_regex(values, r"^\d{4}-\d\d-\d\d$")
    has_zone = pc.match_substring_regex(values, r":.*(Z|[+-]\d\d(:?\d\d)?)$")
    suffix = pc.if_else(is_date, "T00:00Z", pc.if_else(has_zone, "", "Z"))
    zoned: pa.Array[Any] = pc.binary_join_element_wise(values, suffix, "")
    return zoned
