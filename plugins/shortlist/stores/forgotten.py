"""Users who asked to be forgotten: who they are, and every table that may hold them.

The service forgets a user at once, in one transaction: `LOCK`, `remember`, then each of `removals`. Whatever is loaded
later passes through `without_users`, and through `remove_from_new` at the moment it becomes part of a table; the lock
keeps the two apart, so that no user slips through between them. The files follow with the step `forget_users`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from shortlist.columns import USER
from shortlist.stores.database import URL_VARIABLE, database_from_env
from shortlist.stores.datasets import DATASETS

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pyarrow as pa
    from psycopg2.extensions import cursor as Cursor  # noqa: N812 - the driver's own name is lower case

    from shortlist.stores.database import Database
    from shortlist.stores.datasets import Dataset

# Every table with users, and the column that names them. A parent table stands for all its kept generations.
USER_TABLES: Final[dict[str, str]] = {
    **{
        f"internal.{dataset.name}": USER
        for dataset in DATASETS.values()
        if any(column.name == USER for column in dataset.stored)
    },
    "service.events": "user_id",
}

LOCK: Final = "SELECT pg_advisory_xact_lock(hashtextextended('shortlist:forgotten', 0))"


def remember(placeholder: str) -> str:
    """Return the statement that records a user as forgotten; asked again, the files are searched again.

    Args:
        placeholder: The driver's, such as `$1` or `%s`.
    """
    return (
        f"INSERT INTO service.forgotten (user_id) VALUES ({placeholder}) ON CONFLICT (user_id)"  # noqa: S608
        " DO UPDATE SET requested_at = excluded.requested_at, files_done_at = NULL"
    )


def removals(placeholder: str) -> dict[str, str]:
    """Return the statement that removes one user from each of `USER_TABLES`.

    Args:
        placeholder: The driver's, such as `$1` or `%s`.

    Example:
        >>> removals("$1")["service.events"]
        'DELETE FROM service.events WHERE user_id = $1'
    """
    return {
        table: f"DELETE FROM {table} WHERE {column} = {placeholder}"  # noqa: S608
        for table, column in USER_TABLES.items()
    }


def forgotten_users(database: Database, *, files_pending: bool = False) -> frozenset[str]:
    """Return who is forgotten; nobody where the service never ran.

    Args:
        database: Its schema `service` may be missing.
        files_pending: Only those who may still be in files.
    """
    with database.cursor() as cursor:
        if not _is_there(cursor):
            return frozenset()
        cursor.execute("SELECT user_id FROM service.forgotten WHERE files_done_at IS NULL OR NOT %s", [files_pending])
        return frozenset(user for (user,) in cursor.fetchall())


def forgotten_users_from_env() -> frozenset[str]:
    """Return who is forgotten in the database of the environment; nobody where there is none.

    Raises:
        DatabaseUnavailableError: If there is one, and it cannot be asked.
    """
    return forgotten_users(database_from_env()) if os.environ.get(URL_VARIABLE) else frozenset()


def mark_files_done(database: Database, users: Iterable[str]) -> None:
    """Note that no file holds these users any more."""
    with database.cursor() as cursor:
        cursor.execute(
            "UPDATE service.forgotten SET files_done_at = clock_timestamp()"
            " WHERE user_id = ANY (%s) AND files_done_at IS NULL",
            [sorted(users)],
        )


def remove_again(database: Database) -> int:
    """Remove from all tables what came of forgotten users since, such as an event posted at that very moment.

    Returns:
        Number of rows.
    """
    removed = 0
    with database.cursor() as cursor:
        cursor.execute(LOCK)
        for table, column in USER_TABLES.items():
            cursor.execute(f"DELETE FROM {table} WHERE {column} IN (SELECT user_id FROM service.forgotten)")  # noqa: S608
            removed += cursor.rowcount
    return removed


def without_users(batch: pa.RecordBatch, users: frozenset[str]) -> pa.RecordBatch:
    """Return the rows of a batch that belong to nobody of `users`; all of them if it has no column of users."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not users or USER not in batch.schema.names:
        return batch
    return batch.filter(pc.invert(pc.is_in(batch.column(USER), value_set=pa.array(sorted(users), pa.string()))))


def remove_from_new(cursor: Cursor, dataset: Dataset, table: str) -> None:
    """Remove forgotten users from a table that is about to become a partition, and hold `LOCK` until it is one."""
    if f"internal.{dataset.name}" not in USER_TABLES:
        return
    cursor.execute(LOCK)
    if _is_there(cursor):
        cursor.execute(f"DELETE FROM {table} WHERE {USER} IN (SELECT user_id FROM service.forgotten)")  # noqa: S608


def _is_there(cursor: Cursor) -> bool:
    cursor.execute("SELECT to_regclass('service.forgotten') IS NOT NULL")
    return cursor.fetchone() == (True,)
