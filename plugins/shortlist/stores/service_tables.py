"""Tables beside the generations: events, who asked to be forgotten, which events became feedback files; the catalogue.

They lie in a schema of their own, beside the generations of `datasets`, because they change by single rows and are
never published. Both the service and the steps call `ensure_service_schema` before they use them.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from shortlist.stores.database import Database

# An event is `exported_in` the batch that takes it into a feedback file. `written_at`: that file is complete, under its
# temporary name; `done_at`: it has its name. `files_done_at`: no file held the user any more. Byte order, as in
# `internal`, so that joins use indexes. What is missing in `catalogue_items` the served generation of `items` tells.
SERVICE_DDL: Final = (
    "CREATE SCHEMA IF NOT EXISTS service",
    """
    CREATE TABLE IF NOT EXISTS service.events (
        event_id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        key           text COLLATE "C" UNIQUE,
        received_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
        kind          text NOT NULL CHECK (kind IN ('interaction', 'click', 'impression')),
        user_id       text COLLATE "C" NOT NULL,
        item_id       text COLLATE "C" NOT NULL,
        time          timestamptz NOT NULL,
        weight        real NOT NULL DEFAULT 1,
        generation_id integer,
        exported_in   text
    )
    """,
    "CREATE INDEX IF NOT EXISTS events_of_user ON service.events (user_id)",
    "CREATE INDEX IF NOT EXISTS events_of_generation ON service.events (generation_id, kind)"
    " WHERE generation_id IS NOT NULL",
    "CREATE INDEX IF NOT EXISTS events_to_export ON service.events (exported_in)"
    " WHERE exported_in IS NULL AND kind = 'interaction'",
    "CREATE INDEX IF NOT EXISTS events_of_export ON service.events (exported_in) WHERE exported_in IS NOT NULL",
    """
    CREATE TABLE IF NOT EXISTS service.forgotten (
        user_id       text COLLATE "C" PRIMARY KEY,
        requested_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
        files_done_at timestamptz
    )
    """,
    """
    CREATE TABLE IF NOT EXISTS service.exports (
        batch      text PRIMARY KEY,
        started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        rows       bigint,
        written_at timestamptz,
        done_at    timestamptz
    )
    """,
    """
    CREATE TABLE IF NOT EXISTS service.catalogue_items (
        item_id    text COLLATE "C" PRIMARY KEY,
        title      text COLLATE "C",
        category   text COLLATE "C",
        price      double precision,
        currency   text COLLATE "C",
        available  boolean,
        url        text COLLATE "C",
        scraped_at timestamptz,
        updated_at timestamptz NOT NULL DEFAULT clock_timestamp()
    )
    """,
    """
    CREATE TABLE IF NOT EXISTS service.catalogue_version (
        single     boolean PRIMARY KEY DEFAULT true CHECK (single),
        version    bigint NOT NULL,
        changed_at timestamptz NOT NULL DEFAULT clock_timestamp()
    )
    """,
)

# Changes with every table and column.
SERVICE_VERSION: Final = hashlib.sha256("".join(SERVICE_DDL).encode()).hexdigest()[:16]

# Of those who create them at the same moment.
SERVICE_LOCK: Final = "shortlist:service schema"


def ensure_service_schema(database: Database) -> None:
    """Create the schema `service` where something of it is missing; locks no table once it is there.

    Several processes may call it at the same moment.
    """
    with database.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [SERVICE_LOCK])
        cursor.execute("SELECT obj_description(to_regnamespace('service'), 'pg_namespace')")
        if cursor.fetchone() == (SERVICE_VERSION,):
            return
        for statement in SERVICE_DDL:
            cursor.execute(statement)
        cursor.execute(f"COMMENT ON SCHEMA service IS '{SERVICE_VERSION}'")
