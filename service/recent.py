"""Recent events of a user in Redis: a list of the newest, which expires when nothing comes any more."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from service.answers import Event
    from service.connections import RedisPart
    from shortlist.settings import ServiceSettings

# What a user has only been shown says nothing of his taste.
_TOLD: Final = ("interaction", "click")

_WRITE_SECONDS: Final = 2.0
_KEYS_A_SCAN: Final = 1000


class Recent(NamedTuple):
    """One recent event."""

    item_id: str
    time: datetime
    kind: str


class RecentEvents:
    """Reads and writes `recent:<user_id>`."""

    def __init__(self, redis: RedisPart, settings: ServiceSettings) -> None:
        self._redis = redis
        self._settings = settings

    async def of(self, user_id: str) -> list[Recent]:
        """Return the events of a user that still count, newest first; none where no Redis is configured.

        Raises:
            AwayError: If Redis is away.
        """
        client = self._redis.client
        if client is None:
            return []
        kept = await self._redis.ask(client.lrange(_key(user_id), 0, self._settings.recent - 1))
        if not kept:
            return []
        oldest = datetime.now(UTC) - timedelta(days=self._settings.recent_days)
        events = [Recent(item_id, datetime.fromisoformat(time), kind) for item_id, time, kind in map(json.loads, kept)]
        events.sort(key=lambda event: event.time, reverse=True)
        return [event for event in events if event.time >= oldest]

    async def add(self, events: Sequence[Event], now: datetime) -> None:
        """Keep events that tell of a taste.

        Raises:
            AwayError: If Redis is away; some may be kept then.
        """
        client = self._redis.client
        told = [event for event in events if event.kind in _TOLD and event.weight > 0]
        if client is None or not told:
            return
        pipeline = client.pipeline(transaction=False)
        for event in told:
            key = _key(event.user_id)
            value = json.dumps([event.item_id, (event.time or now).astimezone(UTC).isoformat(), event.kind])
            pipeline.lpush(key, value)
            pipeline.ltrim(key, 0, self._settings.recent - 1)
            pipeline.expire(key, self._settings.recent_days * 86_400)
        await self._redis.ask(pipeline.execute(), seconds=_WRITE_SECONDS)

    async def forget(self, user_id: str) -> int:
        """Remove the events of a user.

        Returns:
            The number of keys that are gone.

        Raises:
            AwayError: If Redis is away.
        """
        client = self._redis.client
        if client is None:
            return 0
        return int(await self._redis.ask(client.unlink(_key(user_id)), seconds=_WRITE_SECONDS))


def _key(user_id: str) -> str:
    return f"recent:{user_id}"
