"""The files that crawls leave: the catalogue, complete or as it was, and the quarantine of the last crawl."""

from __future__ import annotations

import fcntl
import json
import os
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from shortlist.columns import AVAILABLE, CATEGORY, ITEM, RAW, REASON, SOURCE_FILE, SOURCE_ROW, TITLE
from shortlist.errors import CrawlError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pyarrow as pa

    from shortlist.crawl.items import Item, Rejected

ITEMS: Final = "items.parquet"
REJECTED: Final = "rejected.parquet"

_CRAWL: Final = b"shortlist.crawl"
_LOCK_SECONDS: Final = 60.0


@contextmanager
def only_crawler(folder: str) -> Iterator[int]:
    """Keep other crawls out of the folder; yields the open file that holds the lock, for a child to inherit.

    The lock ends with the last process that has the file, so none is left behind by a kill.

    Raises:
        CrawlError: If another crawl still holds it after a minute.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    handle = os.open(Path(folder) / ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    try:
        deadline = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise CrawlError(f"another crawl is writing to {folder}: wait until it ends, then retry") from None
                time.sleep(0.1)
        yield handle
    finally:
        os.close(handle)


def write_items(folder: str, items: Sequence[Item], *, scraped_at: str, report: dict[str, Any]) -> None:
    """Put the complete catalogue in the place of the one before. The same items and report give the same bytes.

    Args:
        folder: Of the catalogue.
        items: Sorted by id.
        scraped_at: ISO time, the same for all.
        report: Kept in the file; `last_report` returns it.
    """
    from datetime import UTC, datetime

    import pyarrow as pa

    moment = datetime.fromisoformat(scraped_at)
    text = pa.string()
    columns: dict[str, pa.Array[Any]] = {
        ITEM: pa.array([item.item_id for item in items], text),
        TITLE: pa.array([item.title for item in items], text),
        CATEGORY: pa.array([item.category for item in items], text),
        "price": pa.array([item.price for item in items], pa.float64()),
        "currency": pa.array([item.currency for item in items], text),
        AVAILABLE: pa.array([item.available for item in items], pa.bool_()),
        "url": pa.array([item.url for item in items], text),
        "scraped_at": pa.array([moment.astimezone(UTC)] * len(items), pa.timestamp("us", tz="UTC")),
    }
    table = pa.table(columns).replace_schema_metadata({_CRAWL: json.dumps(report, sort_keys=True)})
    _write(table, Path(folder) / ITEMS)


def write_rejected(folder: str, rejected: Sequence[Rejected]) -> None:
    """Put the quarantine of this crawl in the place of the one before: page, position on it, reason, texts as JSON."""
    import pyarrow as pa

    columns: dict[str, pa.Array[Any]] = {
        SOURCE_FILE: pa.array([one.page for one in rejected], pa.string()),
        SOURCE_ROW: pa.array([one.position for one in rejected], pa.int64()),
        REASON: pa.array([one.reason for one in rejected], pa.string()),
        RAW: pa.array([one.raw for one in rejected], pa.string()),
    }
    _write(pa.table(columns), Path(folder) / REJECTED)


def last_report(folder: str) -> dict[str, Any] | None:
    """Return the report of the last complete crawl, or None where there was none.

    Raises:
        CrawlError: If its file is not one that `write_items` made.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = Path(folder) / ITEMS
    try:
        kept = (pq.read_schema(file).metadata or {}).get(_CRAWL)
    except FileNotFoundError:
        return None
    except (OSError, pa.ArrowException) as error:
        raise CrawlError(f"{file} cannot be read ({error}): delete it, and the next crawl makes it anew") from None
    if kept is None:
        raise CrawlError(f"{file} was not made by a crawl: move it away, and the next crawl makes it anew")
    report: dict[str, Any] = json.loads(kept)
    return report


def known_ids(folder: str) -> set[str]:
    """Return the ids of the last complete crawl, none where there was none."""
    import pyarrow.parquet as pq

    try:
        ids: list[Any] = pq.read_table(Path(folder) / ITEMS, columns=[ITEM])[ITEM].to_pylist()
        return set(ids)
    except FileNotFoundError:
        return set()


def _write(table: pa.Table, file: Path) -> None:
    import pyarrow.parquet as pq

    new = file.with_name(f".{file.name}.tmp")
    new.unlink(missing_ok=True)
    with new.open("xb") as stream:  # never through a link that lies there
        pq.write_table(table, stream, compression="zstd")
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(new, file)
