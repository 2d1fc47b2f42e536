"""What was made of raw events: Parquet files, tables for charts, the quarantine; and the state that says of what.

The state is written last. Whatever a killed run has written before is written again, with the same bytes under the same
names, by the next one, to which the state says that nothing of it was done.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

from pydantic import TypeAdapter, ValidationError

from shortlist.columns import ITEM, RAW, REASON, SOURCE_FILE, SOURCE_ROW, TIME, USER, WEIGHT
from shortlist.errors import ObjectStorageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import pyarrow as pa

    from shortlist.recommender.raw_events import RawEvent
    from shortlist.stores.objects import Folder

STATE: Final = "_state.json"  # readers of folders pass over such a name
TABLES: Final = ("events_per_day.csv", "events_per_item.csv", "events_per_kind.csv")

_BATCH: Final = 20_000


@dataclass(frozen=True)
class Source:
    """One raw object that was dealt with.

    Attributes:
        tag: Its content, as object storage names it.
        bytes: Its size.
        rows: Usable events in it.
        rejected: Rows by reason.
        sha256: Of the part made of it; None where there is none.
        error: Why it could not be read; the part is then that of what lay there before, if anything did.
    """

    tag: str
    bytes: int
    rows: int
    rejected: dict[str, int]
    sha256: str | None
    error: str | None = None


@dataclass(frozen=True)
class State:
    """What the folders hold.

    Attributes:
        rules: Fingerprint of the settings that all sources were read by.
        sources: By key of the raw object.
        tables: SHA-256 of each table for charts, by name.
        run: The last run that changed something.
        result: What it returned.
    """

    rules: str
    sources: dict[str, Source] = field(default_factory=dict)
    tables: dict[str, str] = field(default_factory=dict)
    run: str = ""
    result: dict[str, Any] = field(default_factory=dict)

    def parts(self) -> dict[str, str]:
        """Return the SHA-256 of every part, by its name."""
        return {part_name(key): source.sha256 for key, source in sorted(self.sources.items()) if source.sha256}


def read_state(folder: Folder) -> State | None:
    """Read the state of a folder of parts; None before the first run.

    Raises:
        ObjectStorageError: If it is damaged, or storage is away.
    """
    content = folder.read(STATE)
    if content is None:
        return None
    try:
        return TypeAdapter(State).validate_json(content)
    except ValidationError as error:
        raise ObjectStorageError(
            f"{folder.location}/{STATE} is damaged ({error.error_count()} errors): remove it, and the next run makes "
            "everything anew from the raw events"
        ) from None


def write_state(folder: Folder, state: State) -> None:
    """Write the state, which makes what it names count."""
    folder.write(STATE, json.dumps(asdict(state), indent=1, sort_keys=True).encode())


def part_name(key: str) -> str:
    """Return the name of the part of a raw object. Keys come from anywhere, so nothing of one is in it."""
    return f"part-{_name(key)}.parquet"


def quarantine_name(key: str) -> str:
    """Return the name of the object that holds the rejected rows of a raw object."""
    return f"rejected-{_name(key)}.parquet"


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class PartWriter:
    """Writes the part of one raw object: the columns of `[input.columns]`, all texts but the time and the weight."""

    def __init__(self, path: Path, columns: Mapping[str, str]) -> None:
        """Begin a part.

        Args:
            path: Written to when the writer is closed.
            columns: Name of the column by field, as `readers.interaction_columns` gives it.
        """
        import pyarrow as pa
        from pyarrow import parquet

        types = {TIME: pa.timestamp("us", "UTC"), WEIGHT: pa.float64()}
        # One column may stand for two fields: an event's kind that also tells a cancellation.
        self._fields: dict[str, str] = {}
        for what, name in columns.items():
            self._fields.setdefault(name, what)
        self._schema = pa.schema(
            [pa.field(name, types.get(field, pa.string())) for name, field in self._fields.items()]
        )
        self._writer = parquet.ParquetWriter(path, self._schema, compression="zstd")
        self._events: list[RawEvent] = []
        self.rows = 0

    def add(self, event: RawEvent) -> None:
        """Add one event."""
        self._events.append(event)
        self.rows += 1
        if len(self._events) >= _BATCH:
            self._flush()

    def close(self) -> None:
        """Complete the file. A part without a row is one, too."""
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        import pyarrow as pa

        values = {
            name: [getattr(event, _ATTRIBUTES.get(field, field)) for event in self._events]
            for name, field in self._fields.items()
        }
        self._writer.write_table(pa.table(values, schema=self._schema))
        self._events.clear()


def write_quarantine(path: Path, rejected: list[tuple[str, int | None, str, str]]) -> None:
    """Write rejected rows: key of the object, number of the record (null: the whole object), reason, text."""
    import pyarrow as pa
    from pyarrow import parquet

    types = {SOURCE_FILE: pa.string(), SOURCE_ROW: pa.int64(), REASON: pa.string(), RAW: pa.string()}
    columns = zip(*rejected, strict=True)
    table = pa.table(
        {name: list(column) for name, column in zip(types, columns, strict=True)},
        schema=pa.schema([pa.field(*each) for each in types.items()]),
    )
    parquet.write_table(table, path, compression="zstd")


def read_part(path: Path) -> Iterator[pa.RecordBatch]:
    """Read a part, in pieces."""
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        yield from file.iter_batches(batch_size=_BATCH)


# Fields of a `RawEvent`, by the names that the readers of interactions give them; the others are called alike.
_ATTRIBUTES: Final = {USER: "user", ITEM: "item"}


def _name(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:32]
