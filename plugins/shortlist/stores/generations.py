"""Publishing by generations: load beside what is served, audit, then move one pointer.

A statement on a view sees the served generation as a whole, because the pointer and the rows belong to one snapshot.
Nothing on the way takes a lock that readers wait for.
"""

from __future__ import annotations

import json
import logging
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from shortlist.errors import (
    AuditError,
    DatabaseUnavailableError,
    NothingToDoError,
    PublishError,
    ShortlistError,
)
from shortlist.stores import audits, forgotten, hand_over_files
from shortlist.stores.datasets import DATASETS, PERSONAL_RECS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import pyarrow as pa
    from psycopg2.extensions import cursor as Cursor  # noqa: N812 - the driver's own name is lower case

    from shortlist.settings import PublishSettings
    from shortlist.stores.database import Database
    from shortlist.stores.datasets import Dataset
    from shortlist.stores.hand_over_files import HandOverFile

PLANNING_SECONDS = 2.0
RETIRE_LOCK_SECONDS = 2
LOADER_LOCK_MINUTES = 30

_COLUMNS = "generation_id, dataset, run_key, week::text, fingerprint, model_version, status, kept, rows, metrics"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Generation:
    """One version of a data set; see the table `generations`."""

    generation_id: int
    dataset: str
    run_key: str
    week: str
    fingerprint: str
    model_version: str | None
    status: str
    kept: bool
    rows: int | None
    metrics: dict[str, Any] = field(repr=False)

    @property
    def spec(self) -> Dataset:
        """The data set this is a generation of."""
        return DATASETS[self.dataset]

    @property
    def table(self) -> str:
        """The partition with its rows."""
        return f"internal.{self.dataset}_{self.generation_id}"

    @property
    def landing(self) -> str:
        """Where rows land: in the partition itself, or in a table of their own if they will be packed into arrays."""
        return f"{self.table}_rows" if self.spec.packing else self.table


def begin(
    database: Database,
    dataset: Dataset,
    *,
    run_key: str,
    week: str,
    fingerprint: str,
    model_version: str | None = None,
    metrics: dict[str, Any] | None = None,
) -> Generation:
    """Open a new generation, in the place of what an earlier attempt of the same run left unfinished.

    Args:
        database: Its schema must be there.
        dataset: What will be loaded.
        run_key: The same for all attempts of one run.
        week: ISO date, from `weeks.week_of`.
        fingerprint: Of the data. A generation of this run and fingerprint that was published is returned as it is.
        model_version: The model that made the data, if known.
        metrics: Whatever should be stored with it.
    """
    with database.cursor() as cursor:
        _lock(cursor, dataset.name)
        mine = "dataset = %s AND run_key = %s"
        found = _select(
            cursor,
            f"{mine} AND fingerprint = %s AND status = 'published' AND kept ORDER BY published_at DESC LIMIT 1",
            [dataset.name, run_key, fingerprint],
        )
        if found:
            return found[0]
        cursor.execute(
            f"UPDATE internal.generations SET status = 'abandoned'"
            f" WHERE {mine} AND status IN ('loading', 'loaded', 'audited')",
            [dataset.name, run_key],
        )
        cursor.execute(
            "INSERT INTO internal.generations (dataset, run_key, week, fingerprint, model_version, metrics)"
            f" VALUES (%s, %s, %s, %s, %s, %s) RETURNING {_COLUMNS}",
            [dataset.name, run_key, week, fingerprint, model_version, json.dumps(metrics or {})],
        )
        generation = _fetch(cursor)[0]
        _create_tables(cursor, generation)
        replaced = _select(cursor, f"{mine} AND kept AND status IN ('abandoned', 'refused')", [dataset.name, run_key])
    _discard(database, replaced)
    return generation


def load(database: Database, generation: Generation, file: HandOverFile) -> int:
    """Load a file into a generation, in batches and one transaction.

    Returns:
        The number of rows.

    Raises:
        InputError: If the file is not as documented; the generation is refused.
        PublishError: If another attempt has taken over.
    """
    return write_batches(database, generation, hand_over_files.read_batches(file, generation.spec))


def write_batches(database: Database, generation: Generation, batches: Iterator[pa.RecordBatch]) -> int:
    """Load Arrow batches with exactly the data set's columns, in one transaction; see `load`.

    Rows of forgotten users are left out and counted in the log.
    """
    import pyarrow as pa

    count = left_out = 0
    stopped_by: Exception | None = None
    users = forgotten.forgotten_users(database)

    def counted() -> Iterator[pa.RecordBatch]:
        nonlocal count, left_out, stopped_by
        try:
            for batch in batches:
                kept = forgotten.without_users(batch, users)
                count += kept.num_rows
                left_out += batch.num_rows - kept.num_rows
                yield kept
        except Exception as error:
            # The driver would turn it into an error of its own, with a stack trace for a message.
            stopped_by = error
            raise

    if generation.status != "loading":
        raise PublishError(f"{_name(generation)} is {generation.status}: only a new generation can be loaded")
    reader = pa.RecordBatchReader.from_batches(hand_over_files.arrow_schema(generation.spec), counted())
    try:
        with database.bulk() as connection, connection.cursor() as cursor:
            schema, table = generation.landing.split(".")
            cursor.adbc_ingest(table, reader, mode="append", db_schema_name=schema)
            connection.commit()
    except Exception:
        if stopped_by is None:
            raise
        if isinstance(stopped_by, ShortlistError):
            _refuse(database, generation, {"error": str(stopped_by)})
        raise stopped_by from None
    with database.cursor() as cursor:
        cursor.execute(
            "UPDATE internal.generations SET status = 'loaded', rows = %s, loaded_at = clock_timestamp()"
            " WHERE generation_id = %s AND status = 'loading'",
            [count, generation.generation_id],
        )
        if not cursor.rowcount:
            raise PublishError(f"{_name(generation)} was taken over by another attempt of the same run")
    logger.info("loaded %d rows into %s", count, _name(generation))
    if left_out:
        logger.info("left out %d rows of forgotten users", left_out)
    return count


def audit(database: Database, generation_id: int, *, publish: PublishSettings) -> dict[str, Any]:
    """Check every rule of a loaded generation; where all are kept, bring it into the form readers want.

    Returns:
        `{"rows": n, "rules": …}` with what `audits.check` found; also stored in the generation's metrics.

    Raises:
        AuditError: Naming every broken rule with counts and examples; the generation is refused and its rows dropped.
        PublishError: If the generation is not loaded.
    """
    generation = get(database, generation_id)
    result: dict[str, Any] = generation.metrics.get("audit", {})
    if generation.status in ("audited", "published"):
        return result
    if generation.status == "loaded":
        with database.cursor() as cursor:
            result = {"rows": generation.rows, "rules": _check(cursor, generation, publish)}
            if not audits.broken(result["rules"]):
                _finish(cursor, generation)
                _set_status(cursor, generation, "audited", {"audit": result})
                return result
        generation = _refuse(database, generation, {"audit": result})
    if generation.status == "refused" and result:
        raise AuditError(
            f"{_name(generation)} was refused, what is served stays: {audits.broken(result['rules'])}."
            " Mend the data and run the load again."
        )
    raise PublishError(
        f"{_name(generation)} is {generation.status}, only a loaded generation can be audited: run the load again"
    )


def publish(database: Database, generation_id: int, *, keep: int) -> dict[str, Any]:
    """Let readers see an audited generation, and drop those that are older than the last `keep`.

    Returns:
        `{"dataset", "generation_id", "previous", "rows", "week"}`. A generation that was published before stays as it
        is, so a retry is safe.

    Raises:
        PublishError: If the generation was not audited, or another publisher holds the lock for too long.
        NothingToDoError: If a later week is served already.
    """
    dataset = get(database, generation_id).spec
    with database.cursor() as cursor:
        _lock(cursor, dataset.name)
        generation = _select(cursor, "generation_id = %s", [generation_id])[0]
        served_now = _served(cursor, dataset.name)
        summary = {
            "dataset": dataset.name,
            "generation_id": generation_id,
            "previous": served_now.generation_id if served_now else None,
            "rows": generation.rows,
            "week": generation.week,
        }
        if generation.status == "published":
            return summary
        if generation.status not in ("audited", "superseded"):
            raise PublishError(
                f"{_name(generation)} is {generation.status}, only an audited generation can be published:"
                " run load and audit again"
            )
        is_late = served_now is not None and served_now.week > generation.week
        if is_late:
            _set_status(cursor, generation, "superseded")
        else:
            _wait_for_planners(cursor, dataset)
            cursor.execute(
                "INSERT INTO internal.served VALUES (%s, %s, clock_timestamp()) ON CONFLICT (dataset)"
                " DO UPDATE SET generation_id = excluded.generation_id, since = excluded.since",
                [dataset.name, generation_id],
            )
            _set_status(cursor, generation, "published")
    _retire(database, dataset, keep)
    if is_late and served_now:
        raise NothingToDoError(
            f"{_name(generation)} is of the week {generation.week}, but that of {served_now.week} is served already:"
            " it stays"
        )
    logger.info("published %s, %s rows", _name(generation), generation.rows)
    return summary


def roll_back(database: Database, dataset: Dataset) -> dict[str, Any]:
    """Let readers see the generation that was served before.

    Returns:
        `{"dataset", "from", "to", "week", "run_key"}`, the last two of the generation that is served now.

    Raises:
        PublishError: If there is none to go back to.
    """
    with database.cursor() as cursor:
        _lock(cursor, dataset.name)
        current = _served(cursor, dataset.name)
        if current is None:
            raise PublishError(f"nothing of {dataset.name} is served, so there is nothing to roll back")
        earlier = _select(
            cursor,
            "dataset = %s AND status = 'published' AND kept AND published_at <"
            " (SELECT published_at FROM internal.generations WHERE generation_id = %s)"
            " ORDER BY published_at DESC LIMIT 1",
            [dataset.name, current.generation_id],
        )
        if not earlier:
            raise PublishError(
                f"{_name(current)} is the only one that is kept: there is none to go back to."
                " [publish].keep_generations says how many stay"
            )
        cursor.execute(
            "UPDATE internal.served SET generation_id = %s, since = clock_timestamp() WHERE dataset = %s",
            [earlier[0].generation_id, dataset.name],
        )
        _set_status(cursor, current, "rolled_back")
    return {
        "dataset": dataset.name,
        "from": current.generation_id,
        "to": earlier[0].generation_id,
        "week": earlier[0].week,
        "run_key": earlier[0].run_key,
    }


def served(database: Database, dataset: Dataset) -> Generation | None:
    """Return the generation that readers see, if there is one."""
    with database.cursor() as cursor:
        return _served(cursor, dataset.name)


@contextmanager
def only_loader(database: Database, dataset: Dataset) -> Iterator[None]:
    """Wait until nobody else loads this data set, and keep others waiting; ends with the connection at the latest."""
    with database.cursor(autocommit=True) as cursor:
        cursor.execute(f"SET lock_timeout = '{LOADER_LOCK_MINUTES}min'")
        cursor.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", [f"shortlist:load:{dataset.name}"])
        yield


def get(database: Database, generation_id: int) -> Generation:
    """Return a generation by its number.

    Raises:
        PublishError: If there is none.
    """
    with database.cursor() as cursor:
        found = _select(cursor, "generation_id = %s", [generation_id])
    if not found:
        raise PublishError(f"there is no generation {generation_id} at {database.place}: run the load again")
    return found[0]


def read_batches(
    database: Database,
    dataset: Dataset,
    *,
    columns: Sequence[str] | None = None,
    order_by: Sequence[str] = (),
    generation_id: int | None = None,
) -> Iterator[pa.RecordBatch]:
    """Stream the rows of one generation as the view shows them.

    Args:
        database: Where it is.
        dataset: Of which to read.
        columns: Of the view; all by default.
        order_by: Columns of the view; texts sort by their bytes.
        generation_id: The served one by default. Read it once (`served`) where two reads must see the same.

    Raises:
        NothingToDoError: If nothing is served.
    """
    chosen = columns or list(dataset.view)
    if unknown := {*chosen, *order_by} - dataset.view.keys():
        raise PublishError(
            f"{dataset.name} has no column {', '.join(sorted(unknown))}: it has {', '.join(dataset.view)}"
        )
    if generation_id is None:
        current = served(database, dataset)
        if current is None:
            raise NothingToDoError(f"nothing of {dataset.name} is served yet: load_{dataset.name} publishes it")
        generation_id = current.generation_id
    query = f"SELECT {', '.join(chosen)} FROM ({dataset.select(str(int(generation_id)))}) AS generation"
    if order_by:
        query += f" ORDER BY {', '.join(order_by)}"
    with database.bulk() as connection, connection.cursor() as cursor:
        cursor.execute(query)
        yield from cursor.fetch_record_batch()


def _check(cursor: Cursor, generation: Generation, settings: PublishSettings) -> dict[str, Any]:
    cursor.execute(f"ANALYZE {generation.landing}")
    cursor.execute("SELECT dataset, generation_id FROM internal.served")
    rows = f"{generation.landing} AS rows"
    if generation.spec is PERSONAL_RECS:
        # The left join keeps a user with an empty list.
        rows = (
            f"(SELECT t.user_id, r.* FROM {generation.table} AS t"
            " LEFT JOIN LATERAL unnest(t.item_ids, t.scores, t.sources) WITH ORDINALITY"
            " AS r(item_id, score, source, rank) ON true) AS rows"
        )
    return audits.check(cursor, generation.spec, rows, served=dict(cursor.fetchall()), publish=settings)


def _create_tables(cursor: Cursor, generation: Generation) -> None:
    """Create the partition, and the landing table if it is another one. Not attached: readers do not wait for it."""
    dataset, number = generation.spec, generation.generation_id
    columns = ", ".join(column.ddl for column in dataset.stored)
    cursor.execute(
        f"CREATE TABLE {generation.table}"
        f" (generation_id integer NOT NULL DEFAULT {number} CHECK (generation_id = {number}), {columns})"
    )
    if dataset.packing:
        columns = ", ".join(column.ddl for column in dataset.columns)
        cursor.execute(f"CREATE UNLOGGED TABLE {generation.landing} ({columns})")


def _finish(cursor: Cursor, generation: Generation) -> None:
    """Pack rows into arrays, index, attach. Nobody sees it before the pointer moves."""
    dataset = generation.spec
    if packing := dataset.packing:
        names = ", ".join(column.name for column in dataset.stored)
        cursor.execute(
            f"INSERT INTO {generation.table} ({names}) SELECT {packing.entity}, {', '.join(packing.aggregates)}"
            f" FROM {generation.landing} GROUP BY {packing.entity}"
        )
        cursor.execute(f"DROP TABLE {generation.landing}")
        cursor.execute(f"ANALYZE {generation.table}")
    if dataset.primary_key:
        key = ", ".join(("generation_id", *dataset.primary_key))
        cursor.execute(f"ALTER TABLE {generation.table} ADD PRIMARY KEY ({key})")
    # Who was forgotten since the load looked: whoever forgets a user does not see a partition before it is attached.
    forgotten.remove_from_new(cursor, dataset, generation.table)
    cursor.execute(
        f"ALTER TABLE internal.{dataset.name} ATTACH PARTITION {generation.table}"
        f" FOR VALUES IN ({generation.generation_id})"
    )


def _wait_for_planners(cursor: Cursor, dataset: Dataset) -> None:
    """Wait until statements that were planned before the partition was attached have ended.

    PostgreSQL plans with the partitions it knows and takes the snapshot for execution afterwards: such a statement
    could see the new pointer, but not the new partition, and find nothing. A statement that runs for longer has its
    snapshot, hence the limit.
    """
    holders = "SELECT virtualtransaction FROM pg_locks WHERE relation = %s::regclass AND granted"
    cursor.execute(holders, [f"internal.{dataset.name}"])
    waited_for = set(cursor.fetchall())
    deadline = time.monotonic() + PLANNING_SECONDS
    while waited_for and time.monotonic() < deadline:
        time.sleep(0.005)
        cursor.execute(holders, [f"internal.{dataset.name}"])
        waited_for &= set(cursor.fetchall())


def _refuse(database: Database, generation: Generation, metrics: dict[str, Any]) -> Generation:
    with database.cursor() as cursor:
        _set_status(cursor, generation, "refused", metrics)
    _discard(database, [generation])
    return get(database, generation.generation_id)


def _retire(database: Database, dataset: Dataset, keep: int) -> None:
    """Drop what is no longer needed. A failure is logged: the next publish tries again."""
    try:
        with database.cursor() as cursor:
            _lock(cursor, dataset.name)
            cursor.execute(
                """
                UPDATE internal.generations SET status = 'retired' WHERE generation_id IN (
                    SELECT generation_id FROM internal.generations AS g
                    WHERE g.dataset = %s AND status = 'published'
                      AND NOT EXISTS (SELECT FROM internal.served AS s WHERE s.generation_id = g.generation_id)
                    ORDER BY published_at DESC OFFSET %s
                )
                """,
                [dataset.name, keep - 1],
            )
            cursor.execute(
                "UPDATE internal.generations SET status = 'abandoned' WHERE dataset = %s"
                " AND status IN ('loading', 'loaded', 'audited') AND created_at < clock_timestamp() - interval '1 day'",
                [dataset.name],
            )
            useless = _select(
                cursor,
                "dataset = %s AND kept AND status NOT IN ('loading', 'loaded', 'audited', 'published')",
                [dataset.name],
            )
    except (PublishError, DatabaseUnavailableError) as error:
        logger.warning("old generations of %s stay for now: %s", dataset.name, error)
        return
    _discard(database, useless)


def _discard(database: Database, generations: Iterable[Generation]) -> None:
    """Drop the rows of generations that nobody reads any more, without making a reader wait."""
    import psycopg2

    for generation in generations:
        parent = f"internal.{generation.dataset}"
        try:
            with database.cursor(autocommit=True) as cursor:
                cursor.execute(f"SET lock_timeout = '{RETIRE_LOCK_SECONDS}s'")
                cursor.execute(
                    "SELECT inhrelid::regclass::text, inhdetachpending FROM pg_inherits"
                    " WHERE inhparent = %s::regclass AND (inhdetachpending OR inhrelid = to_regclass(%s))",
                    [parent, generation.table],
                )
                attached = cursor.fetchall()
                for table, is_half_detached in sorted(attached, key=lambda row: not row[1]):
                    how = "FINALIZE" if is_half_detached else "CONCURRENTLY"
                    cursor.execute(f"ALTER TABLE {parent} DETACH PARTITION {table} {how}")
                if not attached:
                    # A paused attempt that was replaced may still be in its COPY.
                    cursor.execute(
                        "SELECT pg_terminate_backend(pid, 1000) FROM pg_locks WHERE pid <> pg_backend_pid()"
                        " AND relation IN (to_regclass(%s), to_regclass(%s))",
                        [generation.table, generation.landing],
                    )
                cursor.execute(f"DROP TABLE IF EXISTS {generation.table}, {generation.landing}")
                cursor.execute(
                    "UPDATE internal.generations SET kept = false WHERE generation_id = %s", [generation.generation_id]
                )
        except (psycopg2.Error, PublishError, DatabaseUnavailableError) as error:
            logger.warning("the rows of %s stay for now: %s", _name(generation), error)


def _lock(cursor: Cursor, dataset: str) -> None:
    """Keep publishers of one data set apart until the end of the transaction."""
    cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [f"shortlist:{dataset}"])


def _set_status(cursor: Cursor, generation: Generation, status: str, metrics: dict[str, Any] | None = None) -> None:
    moment = {"audited": ", audited_at = clock_timestamp()", "published": ", published_at = clock_timestamp()"}
    cursor.execute(
        f"UPDATE internal.generations SET status = %s, metrics = metrics || %s{moment.get(status, '')}"
        " WHERE generation_id = %s AND status = %s",
        [status, json.dumps(metrics or {}), generation.generation_id, generation.status],
    )
    if not cursor.rowcount:
        raise PublishError(f"{_name(generation)} was taken over by another attempt of the same run")


def _served(cursor: Cursor, dataset: str) -> Generation | None:
    condition = "generation_id = (SELECT generation_id FROM internal.served WHERE dataset = %s)"
    return next(iter(_select(cursor, condition, [dataset])), None)


def _select(cursor: Cursor, condition: str, values: Sequence[object]) -> list[Generation]:
    cursor.execute(f"SELECT {_COLUMNS} FROM internal.generations WHERE {condition}", values)
    return _fetch(cursor)


def _fetch(cursor: Cursor) -> list[Generation]:
    return [Generation(*row) for row in cursor.fetchall()]


def _name(generation: Generation) -> str:
    return f"generation {generation.generation_id} of {generation.dataset}"
