"""All lists and histories of the served generations in little memory, so that no request waits for them.

A recommendation takes 7 bytes (9 in a catalogue of more than 65,536 items), an item of a history 2 (4). They are read
in the background, a few users at a time; until they are there, and where they do not fit, PostgreSQL is asked for each
user.
"""

from __future__ import annotations

import sys
from array import array
from typing import TYPE_CHECKING, Final

from service import reading

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from service.connections import Postgres

# Users who are decoded at once: a request that comes meanwhile waits for about a millisecond.
_USERS: Final = 20

_SECONDS: Final = 600.0

_MIB: Final = 2**20

# Of a user, or of an item with similar ones: the id, its place, where its rows begin and end.
_BYTES_A_KEY: Final = 200


class TooLargeError(Exception):
    """The lists do not fit into the memory that they may have."""


class PackedLists:
    """Lists and histories of all users, of one moment."""

    def __init__(self, *, most_mib: int) -> None:
        """Begin with nobody.

        Args:
            most_mib: Mebibytes that the rows may take.
        """
        self._most = most_mib * _MIB
        self._users: dict[str, int] = {}
        self._ids: list[str] = []
        self._numbers: dict[str, int] = {}
        self._kinds: list[str] = []
        self._kind_numbers: dict[str, int] = {}
        self._listed = _Rows()
        self._seen = _Rows()
        self._items: dict[str, int] = {}
        self._similar = _Rows()
        self._similar_scores = array("f")
        self._scores = array("f")
        self._sources = bytearray()

    async def read(self, postgres: Postgres, personal: int, history: int | None, online: int | None) -> None:
        """Read everything, as of one moment.

        Args:
            postgres: Where it is.
            personal: Generation of the lists of users.
            history: Generation of their histories, if there is one.
            online: Generation of similar items, if there is one.

        Raises:
            AwayError: If PostgreSQL is away.
            TooLargeError: If they take more memory than they may.
        """
        async with (
            postgres.connection(seconds=_SECONDS) as connection,
            connection.transaction(readonly=True, isolation="repeatable_read"),
        ):
            lists = connection.cursor(reading.ALL_LISTS, personal, prefetch=_USERS)
            async for user_id, item_ids, scores, sources in lists:
                self.add_list(user_id, item_ids, scores, sources)
            if history is not None:
                async for user_id, item_ids in connection.cursor(reading.ALL_HISTORIES, history, prefetch=_USERS):
                    self.add_history(user_id, item_ids)
            if online is not None:
                async for item_id, item_ids, scores in connection.cursor(reading.ALL_SIMILAR, online, prefetch=_USERS):
                    self.add_similar(item_id, item_ids, scores)

    def add_list(self, user_id: str, item_ids: Sequence[str], scores: Sequence[float], sources: Sequence[str]) -> None:
        """Add the list of a user, best first.

        Raises:
            TooLargeError: If there is no room left.
        """
        self._listed.append(self._place(user_id), self._numbered(item_ids))
        self._scores.extend(scores)
        for source in set(sources).difference(self._kind_numbers):
            self._kind_numbers[source] = len(self._kinds)
            self._kinds.append(sys.intern(source))
        self._sources += bytes(map(self._kind_numbers.__getitem__, sources))
        self._check()

    def add_history(self, user_id: str, item_ids: Sequence[str]) -> None:
        """Add the items of a user's history.

        Raises:
            TooLargeError: If there is no room left.
        """
        self._seen.append(self._place(user_id), self._numbered(item_ids))
        self._check()

    def add_similar(self, item_id: str, item_ids: Sequence[str], scores: Sequence[float]) -> None:
        """Add the items similar to one, best first.

        Raises:
            TooLargeError: If there is no room left.
        """
        self._similar.append(self._items.setdefault(item_id, len(self._items)), self._numbered(item_ids))
        self._similar_scores.extend(scores)
        self._check()

    def forget(self, user_id: str) -> None:
        """Make a user unknown."""
        self._users.pop(user_id, None)

    def list_of(self, user_id: str) -> tuple[Iterable[str], Sequence[float], Iterable[str]] | None:
        """Return items, scores and sources of a user's list; None for a user without one."""
        place = self._users.get(user_id)
        if place is None:
            return None
        start, end = self._listed.bounds(place)
        if start == end:
            return None
        items = _Named(self._listed.values[start:end], self._ids)
        return items, self._scores[start:end], _Named(self._sources[start:end], self._kinds)

    def history_of(self, user_id: str) -> tuple[str, ...] | None:
        """Return the items of a user's history; None for a user without one."""
        place = self._users.get(user_id)
        if place is None:
            return None
        start, end = self._seen.bounds(place)
        return tuple([self._ids[number] for number in self._seen.values[start:end]]) if start < end else None

    def similar_to(self, item_id: str) -> Iterator[tuple[str, float]]:
        """Give the items similar to one and their scores, best first."""
        place = self._items.get(item_id)
        if place is None:
            return iter(())
        start, end = self._similar.bounds(place)
        return zip(_Named(self._similar.values[start:end], self._ids), self._similar_scores[start:end], strict=True)

    @property
    def bytes(self) -> int:
        """Bytes that all this takes, about."""
        return (
            self._listed.bytes
            + self._seen.bytes
            + self._similar.bytes
            + len(self._similar_scores) * self._similar_scores.itemsize
            + len(self._scores) * self._scores.itemsize
            + len(self._sources)
            + (len(self._users) + len(self._items)) * _BYTES_A_KEY
        )

    def __len__(self) -> int:
        """Return the number of users."""
        return len(self._users)

    def _place(self, user_id: str) -> int:
        return self._users.setdefault(user_id, len(self._users))

    def _numbered(self, item_ids: Sequence[str]) -> list[int]:
        numbers = self._numbers
        try:
            return [numbers[item_id] for item_id in item_ids]
        except KeyError:
            for item_id in item_ids:
                if item_id not in numbers:
                    shared = sys.intern(item_id)
                    numbers[shared] = len(self._ids)
                    self._ids.append(shared)
            return [numbers[item_id] for item_id in item_ids]

    def _check(self) -> None:
        if self.bytes > self._most:
            raise TooLargeError(f"the lists of {len(self._users):,} users fill {self._most // _MIB} MiB")


class _Named:
    """Texts of a list by their numbers, looked up only as far as somebody reads."""

    __slots__ = ("_names", "_numbers")

    def __init__(self, numbers: Iterable[int], names: list[str]) -> None:
        self._numbers = numbers
        self._names = names

    def __iter__(self) -> Iterator[str]:
        return map(self._names.__getitem__, self._numbers)


class _Rows:
    """Numbers of many users one after another, and where those of each begin and end."""

    def __init__(self) -> None:
        self.values: array[int] = array("H")
        self._starts: array[int] = array("q")
        self._ends: array[int] = array("q")

    def append(self, place: int, numbers: list[int]) -> None:
        """Add those of a user, once."""
        while len(self._starts) <= place:
            self._starts.append(0)
            self._ends.append(0)
        if self.values.typecode == "H" and max(numbers, default=0) > 0xFFFF:
            self.values = array("i", self.values)
        self._starts[place] = len(self.values)
        self.values.extend(numbers)
        self._ends[place] = len(self.values)

    def bounds(self, place: int) -> tuple[int, int]:
        """Where those of a user begin and end; the same for a user without any."""
        return (self._starts[place], self._ends[place]) if place < len(self._starts) else (0, 0)

    @property
    def bytes(self) -> int:
        return len(self.values) * self.values.itemsize
