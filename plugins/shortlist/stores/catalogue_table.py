"""The catalogue in the database: what a complete crawl found, laid over the served items.

It changes row by row and is no generation: titles, prices and availability may move every day, while lists, audits and
roll-backs stay with the generation of `items` that they were made of.
"""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from shortlist.columns import AVAILABLE, CATEGORY, CURRENCY, ITEM, PRICE, SCRAPED_AT, TITLE, URL
from shortlist.errors import InputError, NothingToDoError
from shortlist.stores.audits import MAX_ID_BYTES
from shortlist.stores.datasets import items_with_catalogue

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa
    from psycopg2.extensions import cursor as Cursor  # noqa: N812 - the driver's own name is lower case

    from shortlist.stores.database import Database

FILE: Final = "items.parquet"

# Beside the id and the time. A change of one of them is a change of the item.
_TOLD: Final = (TITLE, CATEGORY, PRICE, CURRENCY, AVAILABLE, URL)
_TEXTS: Final = (ITEM, TITLE, CATEGORY, CURRENCY, URL)
_COLUMNS: Final = (ITEM, *_TOLD, SCRAPED_AT)
_EXAMPLES: Final = 5
_CHUNK_BYTES: Final = 1 << 20
_BATCH_ROWS: Final = 10_000
_LOCK: Final = "shortlist:catalogue"

_STAGE_DDL: Final = f"""
    CREATE TEMPORARY TABLE fresh (
        {ITEM} text COLLATE "C", {TITLE} text COLLATE "C", {CATEGORY} text COLLATE "C", {PRICE} double precision,
        {CURRENCY} text COLLATE "C", {AVAILABLE} boolean, {URL} text COLLATE "C", {SCRAPED_AT} timestamptz
    ) ON COMMIT DROP
"""

_THEIRS = ", ".join(f"c.{name}" for name in _TOLD)
_OURS = ", ".join(f"f.{name}" for name in _TOLD)

_CHANGED = f"""
    UPDATE service.catalogue_items AS c
    SET {", ".join(f"{name} = f.{name}" for name in (*_TOLD, SCRAPED_AT))}, updated_at = clock_timestamp()
    FROM fresh AS f WHERE f.{ITEM} = c.{ITEM} AND ({_THEIRS}) IS DISTINCT FROM ({_OURS})
"""  # noqa: S608 - the names are constants

# The time alone is no news.
_SEEN_AGAIN = f"""
    UPDATE service.catalogue_items AS c SET {SCRAPED_AT} = f.{SCRAPED_AT}
    FROM fresh AS f WHERE f.{ITEM} = c.{ITEM} AND c.{SCRAPED_AT} IS DISTINCT FROM f.{SCRAPED_AT}
"""  # noqa: S608

_INSERT = f"""
    INSERT INTO service.catalogue_items ({", ".join(_COLUMNS)})
    SELECT {", ".join(_COLUMNS)} FROM fresh AS f
    WHERE NOT EXISTS (SELECT FROM service.catalogue_items AS c WHERE c.{ITEM} = f.{ITEM})
"""  # noqa: S608

_GONE = f"""
    UPDATE service.catalogue_items AS c SET {AVAILABLE} = false, updated_at = clock_timestamp()
    WHERE c.{AVAILABLE} IS DISTINCT FROM false AND NOT EXISTS (SELECT FROM fresh AS f WHERE f.{ITEM} = c.{ITEM})
"""  # noqa: S608

_NEXT_VERSION: Final = """
    INSERT INTO service.catalogue_version (version) VALUES (1)
    ON CONFLICT (single) DO UPDATE SET version = catalogue_version.version + 1, changed_at = clock_timestamp()
"""

# What `service.catalogue_items` is after `upsert`, whether or not that has run.
_AFTER_UPSERT = f"""(
    SELECT {", ".join(_COLUMNS)} FROM fresh
    UNION ALL
    SELECT c.{ITEM}, c.{TITLE}, c.{CATEGORY}, c.{PRICE}, c.{CURRENCY}, false, c.{URL}, c.{SCRAPED_AT}
    FROM service.catalogue_items AS c WHERE NOT EXISTS (SELECT FROM fresh AS f WHERE f.{ITEM} = c.{ITEM})
)"""  # noqa: S608


def read_items(folder: str) -> pa.Table:
    """Read the last complete crawl.

    Args:
        folder: Where `items.parquet` lies.

    Returns:
        Columns `item_id`, `title`, `category`, `price`, `currency`, `available`, `url`, `scraped_at` (UTC), one row an
        item. What is not known is null; texts have no blanks around them and are never empty.

    Raises:
        NothingToDoError: If there was no crawl yet.
        InputError: If it is no such file, is empty, or an id is missing, too long or there twice.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from shortlist.stores import files

    location = f"{folder}/{FILE}"
    if not files.exists(location):
        raise NothingToDoError(f"there is no {location} yet: the task scraping_task writes it")
    filesystem, path = files.resolve(location)
    others = {PRICE: pa.float64(), AVAILABLE: pa.bool_(), SCRAPED_AT: pa.timestamp("us", "UTC")}
    schema = pa.schema([pa.field(name, others.get(name, pa.string())) for name in _COLUMNS])
    try:
        table = pq.read_table(path, filesystem=filesystem)
        if missing := set(schema.names) - set(table.column_names):
            raise InputError(f"{location} lacks {', '.join(sorted(missing))}: run the DAG catalogue_refresh again")
        columns = {name: list(table[name].cast(schema.field(name).type).to_pylist()) for name in schema.names}
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{location} cannot be read ({error}): run the DAG catalogue_refresh again") from None
    for name in _TEXTS:
        columns[name] = [text.strip() or None if text else None for text in columns[name]]
    _check(columns, location)
    return pa.table(columns, schema=schema)


def _check(columns: dict[str, list[Any]], location: str) -> None:
    ids = columns[ITEM]
    if not ids:
        raise InputError(f"{location} has no items: it would make all of them unavailable")
    known = [one for one in ids if one]
    texts = zip(*(columns[name] for name in _TEXTS), strict=True)
    wrong = {
        "without an id": [title for one, title in zip(ids, columns[TITLE], strict=True) if not one],
        "with an id that is there twice": [one for one, number in Counter(known).items() if number > 1],
        f"with an id of more than {MAX_ID_BYTES} bytes": [one for one in known if len(one.encode()) > MAX_ID_BYTES],
        "with a character 0": [of_item[0] for of_item in texts if any("\0" in text for text in of_item if text)],
        "with a price that is none": [
            one
            for one, price in zip(ids, columns[PRICE], strict=True)
            if price is not None and not 0 <= price < float("inf")
        ],
    }
    problems = [
        f"{len(found)} {what} (for example {', '.join(ascii(one)[:200] for one in found[:_EXAMPLES])})"
        for what, found in wrong.items()
        if found
    ]
    if problems:
        raise InputError(f"{location} is no catalogue: {'; '.join(problems)}. What is known stays.")


def fingerprint(folder: str) -> str:
    """Return the SHA-256 of the file of the last complete crawl."""
    from shortlist.stores import files

    filesystem, path = files.resolve(f"{folder}/{FILE}")
    digest = hashlib.sha256()
    with filesystem.open_input_stream(path) as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def name_of(items: pa.Table) -> str:
    """Return `crawl_<UTC time of the newest page>`."""
    newest = max(filter(None, items[SCRAPED_AT].to_pylist()), default=None)
    return f"crawl_{newest:%Y%m%dT%H%M%S}" if newest else "crawl"


def upsert(database: Database, items: pa.Table) -> dict[str, int]:
    """Bring a complete crawl into the database, in one transaction.

    Items that are not in it any more become unavailable; they keep the rest of what is known of them.

    Args:
        database: Its service schema must be there.
        items: From `read_items`.

    Returns:
        `{"items", "new", "changed", "gone", "version"}`: items of the crawl, those nobody knew, those of which
        something else was known, those that were available and are gone; the version that readers see now. It is a
        higher one only if something changed.
    """
    with _staged(database, items) as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [_LOCK])
        cursor.execute(_CHANGED)
        changed = cursor.rowcount
        cursor.execute(_SEEN_AGAIN)
        cursor.execute(_INSERT)
        new = cursor.rowcount
        cursor.execute(_GONE)
        gone = cursor.rowcount
        if changed or new or gone:
            cursor.execute(_NEXT_VERSION)
        cursor.execute("SELECT coalesce(max(version), 0) FROM service.catalogue_version")
        (version,) = cursor.fetchone() or (0,)
    return {"items": items.num_rows, "new": new, "changed": changed, "gone": gone, "version": version}


def read_all_items(database: Database, items: pa.Table) -> Iterator[dict[str, Any]]:
    """Give what the view `items` shows as soon as `items` are in the database, whether they are or not.

    Args:
        database: Its schemas must be there.
        items: From `read_items`.

    Yields:
        `{"item_id", "title", "category", "price", "currency", "url", "available"}`, without what is not known; one an
        item, each once.
    """
    with _staged(database, items) as cursor:
        cursor.execute(
            f"DECLARE every_item NO SCROLL CURSOR FOR SELECT {ITEM}, {TITLE}, attributes, {AVAILABLE}"  # noqa: S608
            f" FROM ({items_with_catalogue(_AFTER_UPSERT)}) AS every"
        )
        while True:
            cursor.execute(f"FETCH {_BATCH_ROWS} FROM every_item")
            rows = cursor.fetchall()
            for item_id, title, attributes, available in rows:
                known = {ITEM: item_id, AVAILABLE: available, **attributes}
                yield known | {TITLE: title} if title else known
            if not rows:
                return


@contextmanager
def _staged(database: Database, items: pa.Table) -> Iterator[Cursor]:
    """A transaction that sees `items` as the table `fresh`."""
    import pyarrow.csv as pa_csv

    with database.cursor() as cursor:
        cursor.execute(_STAGE_DDL)
        for batch in items.select(list(_COLUMNS)).to_batches(max_chunksize=_BATCH_ROWS):
            rows = io.BytesIO()
            pa_csv.write_csv(batch, rows, pa_csv.WriteOptions(include_header=False))
            rows.seek(0)
            # Null has no quotes, an empty text has: COPY reads the difference.
            cursor.copy_expert("COPY fresh FROM STDIN (FORMAT csv)", rows)
        cursor.execute("ANALYZE fresh")
        yield cursor
