"""What users did, kept durably for next week's feedback file; and users who are to be forgotten."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from service.connections import SLOW_SECONDS, AwayError
from shortlist.stores.forgotten import LOCK, remember, removals
from shortlist.stores.service_tables import SERVICE_DDL, SERVICE_LOCK

if TYPE_CHECKING:
    from collections.abc import Sequence

    from service.answers import Event
    from service.connections import Postgres, RedisPart
    from service.recent import RecentEvents

logger = logging.getLogger(__name__)

# Clocks of clients differ; the pipeline takes no time that is further ahead, either.
AHEAD: Final = timedelta(days=1)

_KEEP: Final = """
    WITH given AS (
        SELECT * FROM unnest(
            $1::text[], $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::real[], $7::integer[]
        ) WITH ORDINALITY AS e(key, kind, user_id, item_id, time, weight, generation_id, place)
    ), kept AS (
        INSERT INTO service.events (key, kind, user_id, item_id, time, weight, generation_id)
        SELECT key, kind, user_id, item_id, time, weight, generation_id FROM given
        WHERE NOT EXISTS (SELECT FROM service.forgotten AS f WHERE f.user_id = given.user_id)
        ORDER BY place
        ON CONFLICT (key) DO NOTHING
        RETURNING key
    )
    SELECT (SELECT count(*) FROM kept),
           ARRAY(SELECT key FROM kept WHERE key IS NOT NULL),
           ARRAY(SELECT DISTINCT user_id FROM given JOIN service.forgotten USING (user_id))
"""


async def keep(postgres: Postgres, recents: RecentEvents, events: Sequence[Event]) -> tuple[int, int, int]:
    """Keep events: in PostgreSQL for good, in Redis for the next minutes and days.

    Redis may be away: what is in PostgreSQL is not lost, only not blended in before the next training.

    Returns:
        How many were kept, how many were known by their key, how many are of users who asked to be forgotten.

    Raises:
        AwayError: If PostgreSQL is away. Nothing is kept then.
    """
    now = datetime.now(UTC)
    columns = zip(
        *(
            (
                event.key,
                event.kind,
                event.user_id,
                event.item_id,
                event.time or now,
                event.weight,
                event.generation,
            )
            for event in events
        ),
        strict=True,
    )
    rows = await postgres.rows(_KEEP, *map(list, columns), seconds=SLOW_SECONDS)
    kept, new_keys, forgotten = rows[0][0], frozenset(rows[0][1]), frozenset(rows[0][2])
    wanted = [event for event in events if event.user_id not in forgotten]
    try:
        await recents.add([event for event in wanted if event.key is None or event.key in new_keys], now)
    except AwayError:
        logger.debug("events are in PostgreSQL only")
    return kept, len(wanted) - kept, len(events) - len(wanted)


async def forget(postgres: Postgres, recents: RecentEvents, features: RedisPart, user_id: str) -> dict[str, int]:
    """Remove a user from all tables, from the recent events and from the features, and note it for the files.

    Returns:
        Removed rows by table, and keys in Redis.

    Raises:
        AwayError: If a part is away: nothing is promised then, and the request can be repeated.
    """
    removed: dict[str, int] = {}
    async with postgres.connection(seconds=SLOW_SECONDS) as connection, connection.transaction():
        await connection.execute(LOCK)
        await connection.execute(remember("$1"), user_id)
        for table, statement in removals("$1").items():
            status = await connection.execute(statement, user_id)
            removed[table.rpartition(".")[2]] = int(status.rpartition(" ")[2])
    removed["recent_events"] = await recents.forget(user_id)
    if features.client is not None:
        await features.probe()  # nobody else asks it
        removed["features"] = 0
        for pointer in ("features:served", "features:writing"):
            version = await features.ask(features.client.get(pointer), seconds=SLOW_SECONDS)
            key = f"features:{version}:user:{user_id}"
            removed["features"] += int(await features.ask(features.client.unlink(key), seconds=SLOW_SECONDS))
    return removed


async def ensure_tables(postgres: Postgres) -> None:
    """Create the service's own tables where they are missing.

    Raises:
        AwayError: If PostgreSQL is away.
    """
    async with postgres.connection(seconds=SLOW_SECONDS) as connection, connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", SERVICE_LOCK)
        for statement in SERVICE_DDL:
            await connection.execute(statement)
