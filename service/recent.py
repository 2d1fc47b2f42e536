"""Recent events of a user in Redis: a list of the newest, which expires when nothing comes any more.

Most users have none, and what was read is remembered until somebody writes: every write is announced on a channel that
every process of the service listens to. While a process cannot listen, it asks Redis each time.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import OrderedDict
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

from redis.exceptions import RedisError

from service.connections import AwayError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from service.answers import Event
    from service.connections import RedisPart
    from shortlist.settings import ServiceSettings

CHANNEL: Final = "recent"

# What a user has only been shown says nothing of his taste.
_TOLD: Final = ("interaction", "click")

_WRITE_SECONDS: Final = 2.0
_LISTEN_SECONDS: Final = 5.0
_KEY: Final = "recent:"
_KEYS_A_SCAN: Final = 1000
_USERS_A_READ: Final = 50
# Users whose events are remembered: about a kilobyte each.
_MOST_USERS: Final = 50_000


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
        self._remembered: OrderedDict[str, tuple[Recent, ...]] = OrderedDict()
        # Who may have events; it is everybody who has as long as `_knows_all`.
        self._active: set[str] = set()
        self._knows_all = False
        # Of whom what is remembered is missing or out of date.
        self._to_read: dict[str, None] = {}
        self._something_to_read = asyncio.Event()
        self._listens = False
        self._changes = 0

    def remembered(self, user_id: str) -> tuple[Recent, ...] | None:
        """Return the events of a user that still count, newest first, if Redis need not be asked for them."""
        if not self._redis.is_configured:
            return ()
        if self._redis.part.problem is not None:
            return None
        if self._knows_all and user_id not in self._active:
            return ()
        events = self._remembered.get(user_id)
        return self._young(events) if events else events

    async def of(self, user_id: str) -> tuple[Recent, ...]:
        """Return the events of a user that still count, newest first; none where no Redis is configured.

        Raises:
            AwayError: If Redis is away.
        """
        events = self.remembered(user_id)
        client = self._redis.client
        if events is not None or client is None:
            return events or ()
        changes = self._changes
        events = _read(await self._redis.ask(client.lrange(_key(user_id), 0, self._settings.recent - 1)))
        # Something that was written meanwhile may have been this user's.
        if self._listens and changes == self._changes:
            self._remember(user_id, events)
            self._to_read.pop(user_id, None)
        return self._young(events)

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
        users = {event.user_id for event in told}
        for user_id in users:
            pipeline.publish(CHANNEL, user_id)
        try:
            await self._redis.ask(pipeline.execute(), seconds=_WRITE_SECONDS)
        finally:
            # The announcement comes back a moment later; who has written sees it at once.
            for user_id in users:
                self._changed(user_id)

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
        pipeline = client.pipeline(transaction=False)
        pipeline.unlink(_key(user_id))
        pipeline.publish(CHANNEL, user_id)
        removed, _ = await self._redis.ask(pipeline.execute(), seconds=_WRITE_SECONDS)
        self._changed(user_id)
        return int(removed)

    async def keep_listening(self) -> None:
        """Take in what other processes announce, until cancelled; does nothing where no Redis is configured."""
        while self._redis.client is not None:
            try:
                with suppress(OSError, RedisError, AwayError):
                    await self._listen()
            finally:
                self._listens = self._knows_all = False
                self._changes += 1
                self._remembered.clear()
                self._active.clear()
                self._to_read.clear()
            await asyncio.sleep(self._settings.refresh_seconds)

    async def _listen(self) -> None:
        assert self._redis.client is not None
        async with self._redis.client.pubsub() as channel:
            await channel.subscribe(CHANNEL)
            while True:
                message = await channel.get_message(timeout=_LISTEN_SECONDS)
                if message is None:
                    continue
                if message["type"] == "subscribe":
                    self._listens = True
                    await self._find_active()
                elif message["type"] == "message":
                    self._changed(message["data"])

    async def _find_active(self) -> None:
        """Find out who has events. Who gets his first one meanwhile is announced."""
        assert self._redis.client is not None
        async for key in self._redis.client.scan_iter(match=f"{_KEY}*", count=_KEYS_A_SCAN):
            self._to_read[key.removeprefix(_KEY)] = None
            self._active.add(key.removeprefix(_KEY))
        self._knows_all = True
        self._something_to_read.set()

    async def keep_reading(self) -> None:
        """Read the events of all who have any, so that no request waits for them, until cancelled."""
        while self._redis.client is not None:
            await self._something_to_read.wait()
            users = list(islice(self._to_read, _USERS_A_READ))
            if not users or not self._listens:
                self._something_to_read.clear()
                continue
            for user_id in users:
                del self._to_read[user_id]
            pipeline = self._redis.client.pipeline(transaction=False)
            for user_id in users:
                pipeline.lrange(_key(user_id), 0, self._settings.recent - 1)
            try:
                kept = await self._redis.ask(pipeline.execute(), seconds=_WRITE_SECONDS)
            except AwayError:
                await asyncio.sleep(self._settings.refresh_seconds)
                continue
            for user_id, one in zip(users, kept, strict=True):
                # Who has done something meanwhile is read again.
                if self._listens and user_id not in self._to_read:
                    self._remember(user_id, _read(one))

    def _remember(self, user_id: str, events: tuple[Recent, ...]) -> None:
        self._remembered[user_id] = events
        if len(self._remembered) > _MOST_USERS:
            self._remembered.popitem(last=False)

    def _changed(self, user_id: str) -> None:
        self._changes += 1
        self._active.add(user_id)
        self._to_read[user_id] = None
        self._something_to_read.set()
        self._remembered.pop(user_id, None)

    def _young(self, events: tuple[Recent, ...]) -> tuple[Recent, ...]:
        oldest = datetime.now(UTC) - timedelta(days=self._settings.recent_days)
        # The same tuple as long as it may be: what was made of it is known by it.
        if not events or events[-1].time >= oldest:
            return events
        return tuple(event for event in events if event.time >= oldest)


def _read(kept: Iterable[str]) -> tuple[Recent, ...]:
    """What is kept of a user, newest first."""
    read = [
        Recent(sys.intern(item_id), datetime.fromisoformat(time), sys.intern(kind))
        for item_id, time, kind in map(json.loads, kept)
    ]
    return tuple(sorted(read, key=lambda event: event.time, reverse=True))


def _key(user_id: str) -> str:
    return f"{_KEY}{user_id}"
