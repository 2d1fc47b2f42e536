"""Takes users out of files: rewrites one file without their rows, and leaves every other byte of a text as it was.

A file is written under a hidden name in the same folder and renamed when it is complete. A file without rows of these
users is only read. Memory grows with one row group of a Parquet file, or one record of a text.
"""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Final, cast

from shortlist.columns import RAW, REASON
from shortlist.errors import UserFileError
from shortlist.stores import files, readers

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    import pyarrow as pa
    from pyarrow import fs
    from pyarrow.parquet import ParquetFile

    from shortlist.settings import FileSettings

    # Columns that must be read, and what tells of a table with them which rows go.
    _Mask = tuple[list[str], Callable[[pa.Table], Any]]
    # A record as it stands in the file, line breaks and all, and whether it goes; None: it is no row.
    _Record = tuple[str, bool | None]

_INT96: Final = "INT96"
# What no id of a malformed line can be part of.
_BETWEEN_TOKENS: Final = re.compile(r"""[\s,;|"'{}\[\]]+""")


def take_out(
    path: str,
    users: frozenset[str],
    *,
    source: FileSettings,
    columns: Collection[str],
    kind: str | None = None,
    rewrite: bool = True,
    remove_empty: bool = False,
) -> int:
    """Rewrite a file without the rows of some users.

    Args:
        path: Local or by URL.
        users: Their ids, as the pipeline knows them: trimmed.
        source: Format, delimiter, encoding.
        columns: Names that the column of users may have; the first one that the file has is meant.
        kind: The format, where neither settings nor name tell it.
        rewrite: `False` only counts.
        remove_empty: A file that has no other rows is removed.

    Returns:
        Number of their rows. 0, also where the file has no such column: then nothing was written.

    Raises:
        UserFileError: If it cannot be read or rewritten here, with the reason.
        InputError: If its format cannot be told.
    """
    with _named_errors(path):
        kind = kind or readers.format_of(path, source)
        if kind == "parquet":
            found = _search_parquet(path, lambda names: _user_mask(names, users, columns))
        else:
            found = _search_text(path, users, kind, source, columns)
        if found.gone and rewrite and remove_empty and found.gone == found.rows:
            files.remove(path)
        elif found.gone and rewrite:
            _replace(path, found.copy, compression=found.compression)
    return found.gone


def take_out_indexes(path: str, indexes: Collection[int], column: str) -> int:
    """Rewrite a Parquet file without the rows whose `column` is one of `indexes`; returns their number.

    Raises:
        UserFileError: If it cannot be read or rewritten here.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    def mask(names: Collection[str]) -> _Mask | None:
        if column not in names:
            return None
        return [column], lambda table: pc.is_in(table[column], value_set=pa.array(sorted(indexes), table[column].type))

    with _named_errors(path):
        found = _search_parquet(path, mask)
        if found.gone:
            _replace(path, found.copy, compression=None)
    return found.gone


def parquet_columns(path: str) -> frozenset[str]:
    """Return the names of the columns of a Parquet file.

    Raises:
        UserFileError: If it is none.
    """
    with _named_errors(path), _open_parquet(path) as file:
        return frozenset(file.schema_arrow.names)


def parquet_rows(path: str) -> int:
    """Return the number of rows of a Parquet file.

    Raises:
        UserFileError: If it is none.
    """
    with _named_errors(path), _open_parquet(path) as file:
        return int(file.metadata.num_rows)


def read_indexes(path: str, users: frozenset[str], user: str, index: str) -> frozenset[int]:
    """Return the indexes that a Parquet table of ids and indexes gives to some users.

    Raises:
        UserFileError: If it cannot be read.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    with _named_errors(path), _open_parquet(path) as file:
        found: set[int] = set()
        for batch in file.iter_batches(columns=[user, index]):
            mine = batch.filter(pc.is_in(batch.column(user), value_set=pa.array(sorted(users), pa.string())))
            found.update(int(number) for number in mine.column(index).to_pylist() if number is not None)
        return frozenset(found)


@contextmanager
def _named_errors(path: str) -> Iterator[None]:
    try:
        yield
    # pyarrow's errors are OSErrors and ValueErrors; an unknown encoding is a LookupError.
    except (OSError, ValueError, LookupError, EOFError, csv.Error, NotImplementedError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserFileError(f"{path} cannot be rewritten here: {reason}") from error


@dataclass(frozen=True)
class _Found:
    """How many rows a file has, how many of them go, and what writes the others to a stream."""

    rows: int
    gone: int
    copy: Callable[[Any], None]
    compression: str | None = None


def _search_parquet(path: str, choose: Callable[[Collection[str]], _Mask | None]) -> _Found:
    with _open_parquet(path) as file:
        rows = file.metadata.num_rows
        columns, which = choose(file.schema_arrow.names) or ([], None)
        if which is None:
            return _Found(rows, 0, lambda _: None)
        groups = range(file.num_row_groups)
        gone = sum(_count(which(file.read_row_group(group, columns=columns))) for group in groups)
    return _Found(rows, gone, lambda stream: _copy_parquet(path, stream, which))


def _copy_parquet(path: str, stream: Any, which: Callable[[pa.Table], Any]) -> None:  # noqa: ANN401
    import pyarrow.compute as pc
    from pyarrow import parquet

    with _open_parquet(path) as file:
        physical = {file.schema.column(number).physical_type for number in range(len(file.schema))}
        compression: Any = file.metadata.row_group(0).column(0).compression.lower()
        with parquet.ParquetWriter(
            stream,
            file.schema_arrow,
            compression="none" if compression == "uncompressed" else compression,
            # Spark writes times so; read as another type they would no longer fit the other files of the folder.
            use_deprecated_int96_timestamps=_INT96 in physical,
        ) as writer:
            for group in range(file.num_row_groups):
                table = file.read_row_group(group)
                kept = table.filter(pc.invert(which(table)))
                if kept.num_rows:
                    writer.write_table(kept)


def _open_parquet(path: str) -> ParquetFile:
    from pyarrow import parquet

    filesystem, inner = files.resolve(path)
    return parquet.ParquetFile(inner, filesystem=filesystem)


def _user_mask(names: Collection[str], users: frozenset[str], columns: Collection[str]) -> _Mask | None:
    import pyarrow as pa
    import pyarrow.compute as pc

    named = next((name for name in columns if name in names), None)
    if named is not None:
        chosen = named
        ids = pa.array(sorted(users), pa.string())
        return [chosen], lambda table: pc.is_in(pc.utf8_trim_whitespace(_as_ids(table[chosen])), value_set=ids)
    if {RAW, REASON} <= set(names):  # quarantine: the row as JSON
        return [RAW], lambda table: pa.array([_holds(text, users, columns) for text in table[RAW].to_pylist()])
    return None


def _as_ids(values: Any) -> Any:  # noqa: ANN401 - a chunked array of any type
    """The ids as the pipeline reads them: 17850.0, which pandas makes of ids with gaps, is 17850."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = values.type
    if pa.types.is_dictionary(kind):
        return _as_ids(values.cast(kind.value_type))
    if pa.types.is_floating(kind):
        whole = pc.and_(pc.equal(values, pc.floor(values)), pc.less(pc.abs(values), pa.scalar(2.0**53)))
        number = pc.if_else(pc.fill_null(whole, False), values, None)
        return pc.coalesce(number.cast(pa.int64()).cast(pa.string()), values.cast(pa.string()))
    if pa.types.is_decimal(kind):
        return pc.replace_substring_regex(values.cast(pa.string()), r"\.0+$", "")
    return values.cast(pa.string())


def _count(mask: Any) -> int:  # noqa: ANN401 - an array of booleans
    import pyarrow.compute as pc

    return int(pc.sum(mask).as_py() or 0)


def _holds(raw: str | None, users: frozenset[str], columns: Collection[str]) -> bool:
    """Whether a line of JSON is about one of the users. Of a line that was malformed, any word may be the id."""
    if not raw:
        return False
    try:
        record = json.loads(raw, parse_int=str, parse_float=str)
    except ValueError:
        return not users.isdisjoint(_BETWEEN_TOKENS.split(raw))
    if not isinstance(record, dict):
        return False
    # `_line`: how the quarantine keeps a line that could not be parsed.
    line = record.get("_line")
    values = {str(record[name]).strip() for name in columns if record.get(name) is not None}
    return not users.isdisjoint(values) or (line is not None and not users.isdisjoint(_BETWEEN_TOKENS.split(str(line))))


def _search_text(path: str, users: frozenset[str], kind: str, source: FileSettings, columns: Collection[str]) -> _Found:
    if "a,\n".encode(source.encoding) != b"a,\n":
        raise UserFileError(f"{path} cannot be rewritten here: in {source.encoding} a comma is more than one byte")

    def records(stream: IO[bytes]) -> Iterator[_Record]:
        # Bytes that are not in the encoding come through as they are, and no line ending is translated.
        lines = io.TextIOWrapper(stream, encoding=source.encoding, errors="surrogateescape", newline="")
        if kind == "csv":
            return _csv_records(lines, users, source, columns)
        if kind == "jsonl":
            return ((line, _holds(line, users, columns) if line.strip() else None) for line in lines)
        return ((line, _is_of(line, users)) for line in lines)

    def copy(target: Any) -> None:  # noqa: ANN401
        with _open_bytes(path) as stream:
            for record, goes in records(stream):
                if not goes:
                    target.write(record.encode(source.encoding, "surrogateescape"))

    with _open_bytes(path) as stream:
        counts = Counter(goes for _, goes in records(stream))
    compression = "gzip" if path.lower().endswith(".gz") else None
    return _Found(counts[True] + counts[False], counts[True], copy, compression)


def _is_of(line: str, users: frozenset[str]) -> bool | None:
    """Whether a line of a file by items, such as those of Netflix, names one of the users first."""
    text = line.strip()
    return None if not text or text.endswith(":") else text.split(",")[0].strip() in users


def _csv_records(
    lines: Iterable[str], users: frozenset[str], source: FileSettings, columns: Collection[str]
) -> Iterator[_Record]:
    place: int | None = None
    header: list[str] = []
    for text, fields in _split_csv(lines, source):
        goes: bool | None = None
        if any(fields) and not header:
            header = [name.strip().lstrip("\ufeff") for name in fields]
            place = next((header.index(name) for name in columns if name in header), None)
        elif any(fields):
            # In a line with too many or too few fields any of them may be the id.
            asked = fields[place : place + 1] if place is not None and len(fields) == len(header) else fields
            goes = place is not None and not users.isdisjoint(field.strip() for field in asked)
        yield text, goes


def _split_csv(lines: Iterable[str], source: FileSettings) -> Iterator[tuple[str, list[str]]]:
    if not source.multiline:
        for line in lines:
            yield line, next(csv.reader([line], delimiter=source.delimiter), [])
        return
    taken: list[str] = []

    def remembered() -> Iterator[str]:
        for line in lines:
            taken.append(line)
            yield line

    for fields in csv.reader(remembered(), delimiter=source.delimiter):
        yield "".join(taken), fields
        taken.clear()


def _open_bytes(path: str) -> IO[bytes]:
    filesystem, inner = files.resolve(path)
    return cast("IO[bytes]", filesystem.open_input_stream(inner))


def _replace(path: str, write: Callable[[Any], None], *, compression: str | None) -> None:
    """Put a new file in the place of `path`, unless that has changed meanwhile."""
    from pyarrow import fs

    # Not the name under which the file itself was written: that one may still mean something to its writer.
    hidden, (folder, _, name) = files.hidden_name(f"{path}.kept"), path.rpartition("/")
    (filesystem, old), (_, new) = files.resolve(path), files.resolve(hidden)
    before = _state(filesystem, old)
    try:
        with filesystem.open_output_stream(new, compression=compression) as stream:
            write(stream)
        if isinstance(filesystem, fs.LocalFileSystem):
            shutil.copymode(old, new)
        if _state(filesystem, old) != before:
            raise UserFileError(f"{path} changed while it was rewritten: it is left as it is now, until the next run")
        # Spark's checksum of the old content would make the new one unreadable.
        files.remove(f"{folder}/.{name}.crc")
        filesystem.move(new, old)
    finally:
        files.remove(hidden)


def _state(filesystem: fs.FileSystem, path: str) -> tuple[int | None, int | None]:
    found = filesystem.get_file_info(path)
    return found.size, found.mtime_ns
