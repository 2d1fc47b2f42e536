"""The database `recs`: connections, named errors and the schema."""

from __future__ import annotations

import logging
import os
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from shortlist.errors import DatabaseUnavailableError, PublishError
from shortlist.stores.datasets import ITEMS_VIEW_DDL, ITEMS_VIEW_VERSION, SCHEMA_DDL, SCHEMA_VERSION
from shortlist.stores.service_tables import ensure_service_schema

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psycopg2.extensions import connection as Connection  # noqa: N812 - the driver's own name is lower case
    from psycopg2.extensions import cursor as Cursor  # noqa: N812

URL_VARIABLE = "RECS_DATABASE_URL"
CONNECT_SECONDS = 10
LOCK_SECONDS = 30

# A silent server or network is given up after a minute; a publisher that was stopped in mid-transaction lets go of
# its locks after ten. Sorting and hashing a whole generation deserves more memory than the default 4 MB.
_SESSION = {
    "lock_timeout": f"{LOCK_SECONDS}s",
    "idle_in_transaction_session_timeout": "10min",
    "work_mem": "128MB",
    "maintenance_work_mem": "256MB",
    "timezone": "UTC",
}
_SCHEMA_LOCK = "shortlist:schema"
_VIEW_LOCK_SECONDS = 2

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Database:
    """Where `recs` is. The URL holds a password and never shows in a repr, log or error."""

    url: str = field(repr=False)

    def __post_init__(self) -> None:
        if not self.url.startswith(("postgresql://", "postgres://")):
            raise DatabaseUnavailableError(
                f"{URL_VARIABLE} must look like postgresql://user:password@host:5432/recs"
                " (its present value is not shown: it may hold a password)"
            )

    @property
    def place(self) -> str:
        """Host, port and database, for messages."""
        parts = urlsplit(self.url)
        return f"{parts.netloc.rpartition('@')[2] or 'localhost'}{parts.path}"

    @contextmanager
    def cursor(self, *, autocommit: bool = False) -> Iterator[Cursor]:
        """Open a connection for one transaction: committed at the end, rolled back by an error, always closed.

        Args:
            autocommit: Every statement is its own transaction, as `DETACH PARTITION … CONCURRENTLY` asks for.

        Raises:
            DatabaseUnavailableError: If the server cannot be reached, refuses the login or goes away.
            PublishError: If another session holds a lock for too long.
        """
        import psycopg2

        with self._named_errors():
            connection: Connection = psycopg2.connect(self._dsn())
            try:
                connection.autocommit = autocommit
                with connection.cursor() as cursor:
                    yield cursor
                connection.commit()
            finally:
                connection.close()

    @contextmanager
    def bulk(self) -> Iterator[Any]:
        """Open an ADBC connection, which moves Arrow batches by binary COPY. One transaction; commit it yourself."""
        import adbc_driver_postgresql.dbapi as adbc

        with self._named_errors(), adbc.connect(self._dsn()) as connection:
            yield connection

    def _dsn(self) -> str:
        import psycopg2
        from psycopg2.extensions import make_dsn

        try:
            return make_dsn(
                self.url,
                application_name="shortlist",
                connect_timeout=CONNECT_SECONDS,
                keepalives_idle=30,
                keepalives_interval=10,
                keepalives_count=3,
                tcp_user_timeout=60_000,
                options=" ".join(f"-c {name}={value}" for name, value in _SESSION.items()),
            )
        except psycopg2.ProgrammingError:
            raise DatabaseUnavailableError(
                f"{URL_VARIABLE} is no valid URL: special characters of the password must be percent-encoded"
                " (its value is not shown: it may hold a password)"
            ) from None

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        import psycopg2
        from psycopg2 import errorcodes

        errors: tuple[type[Exception], ...] = (psycopg2.Error,)
        broken: tuple[type[Exception], ...] = (psycopg2.OperationalError, psycopg2.InterfaceError)
        with suppress(ImportError):  # container jobs have no ADBC
            from adbc_driver_manager import dbapi

            errors, broken = (*errors, dbapi.Error), (*broken, dbapi.OperationalError)
        try:
            yield
        except errors as error:
            code = getattr(error, "pgcode", None) or getattr(error, "sqlstate", None)
            message = self._without_password(str(error)).strip()
            if code == errorcodes.LOCK_NOT_AVAILABLE:
                raise PublishError(
                    f"another session at {self.place} holds a lock for more than {LOCK_SECONDS} s, probably a"
                    " publisher or a very long read: try again when it has ended"
                ) from None
            if code in (errorcodes.UNDEFINED_TABLE, errorcodes.INSUFFICIENT_PRIVILEGE):
                raise PublishError(
                    f"{message} (at {self.place}): another attempt replaced this generation, or the database user"
                    " lacks rights; run the load again"
                ) from None
            if not isinstance(error, broken) and (code or "")[:2] not in ("08", "28", "3D", "53", "57"):
                raise
            raise DatabaseUnavailableError(
                f"PostgreSQL at {self.place} is not usable: {message}. Check that it runs and has room, and the"
                f" user, password and host in {URL_VARIABLE}; then run the task again."
            ) from None

    def _without_password(self, text: str) -> str:
        password = urlsplit(self.url).password
        for secret in {password, unquote(password or "")}:
            if secret:
                text = text.replace(secret, "***")
        return text


def database_from_env() -> Database:
    """Return the database that `$RECS_DATABASE_URL` names.

    Raises:
        DatabaseUnavailableError: If the variable is not set or is no PostgreSQL URL.
    """
    url = os.environ.get(URL_VARIABLE)
    if not url:
        raise DatabaseUnavailableError(
            f"{URL_VARIABLE} is not set: give the tasks postgresql://user:password@host:5432/recs"
        )
    return Database(url)


def ensure_schema(database: Database) -> None:
    """Create tables and views where they are missing; does nothing, and locks nothing, once they are there.

    Raises:
        PublishError: If another version of Shortlist made the schema.
    """
    with database.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [_SCHEMA_LOCK])
        cursor.execute("SELECT to_regclass('internal.schema_version') IS NOT NULL")
        if cursor.fetchone() == (True,):
            cursor.execute("SELECT version FROM internal.schema_version")
            (found,) = cursor.fetchone() or (None,)
            if found != SCHEMA_VERSION:
                raise PublishError(
                    f"the tables at {database.place} were made by another version of Shortlist: drop its schemas"
                    f" internal and public, or let {URL_VARIABLE} name an empty database; the next load_* runs fill it"
                )
        else:
            for statement in SCHEMA_DDL:
                cursor.execute(statement)
            cursor.execute("CREATE TABLE internal.schema_version AS SELECT %s::text AS version", [SCHEMA_VERSION])
    _ensure_items_view(database)


def _ensure_items_view(database: Database) -> None:
    """Let the view `items` show the catalogue; where somebody reads it for long, the one that is there stays."""
    if _has_items_view(database):
        return
    try:
        ensure_service_schema(database)
        with database.cursor() as cursor:
            cursor.execute(f"SET LOCAL lock_timeout = '{_VIEW_LOCK_SECONDS}s'")
            cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [_SCHEMA_LOCK])
            cursor.execute(ITEMS_VIEW_DDL)
            cursor.execute(f"COMMENT ON VIEW public.items IS '{ITEMS_VIEW_VERSION}'")
    except PublishError as error:
        logger.warning("the view items goes on without the catalogue: %s", error)


def _has_items_view(database: Database) -> bool:
    with database.cursor() as cursor:
        cursor.execute("SELECT obj_description(to_regclass('public.items'), 'pg_class')")
        return bool(cursor.fetchone() == (ITEMS_VIEW_VERSION,))
