"""What is served, kept close: pointers, catalogue, default list, rules, and the lists of the last users asked for."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from array import array
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, NamedTuple

from service import catalogue, reading
from service.connections import AwayError
from service.packed import PackedLists, TooLargeError
from shortlist.recommender.blending import Proposal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from service.catalogue import Catalogue
    from service.connections import Postgres, RedisPart
    from service.last_known import LastKnown
    from service.rules import RulesFile
    from shortlist.settings import ServiceSettings

logger = logging.getLogger(__name__)

# All lists are read once nothing has been published for so long: not where one publication follows the other.
_SETTLED_SECONDS: Final = 5.0

PERSONAL: Final = "personal_recs"
ONLINE: Final = "online_recs"
DEFAULT: Final = "default_recs"
ITEMS: Final = "items"
HISTORY: Final = "user_history"

_PACKED: Final = (PERSONAL, HISTORY, ONLINE)


# Their ids and scores, best first.
SimilarItems = tuple[tuple[str, float], ...]


class Pointer(NamedTuple):
    """The served generation of one data set."""

    generation_id: int
    model_version: str | None
    run_key: str
    rows: int | None
    week: str


@dataclass(frozen=True)
class World:
    """One view of everything that is the same for all users; replaced as a whole.

    Attributes:
        served: Pointer of each data set.
        catalogue: Of the items generation, with what the last crawl says over it.
        defaults: The list of everybody.
        defaults_generation: Where it comes from; the last known one where PostgreSQL was never reached.
        other_side: Generation and model version of the experiment's B, if it is kept.
    """

    served: dict[str, Pointer]
    catalogue: Catalogue
    defaults: tuple[Proposal, ...]
    defaults_generation: int | None
    other_side: tuple[int, str | None] | None

    def is_same_as(self, other: World) -> bool:
        """Whether nothing was published or rolled back between the two."""
        return (
            self.served == other.served
            and self.catalogue is other.catalogue
            and self.defaults is other.defaults
            and self.other_side == other.other_side
        )

    def pointer(self, dataset: str) -> Pointer | None:
        """Return the pointer of a data set, if any generation of it is served."""
        return self.served.get(dataset)


@dataclass(frozen=True, slots=True)
class UserLists:
    """One user's list and history, of one moment, as small as they go: thousands are remembered.

    Attributes:
        generation_id: Of the personal recs; None if none is served.
        item_ids: Of the list, best first; empty for a user without one.
        scores: One an item.
        sources: One an item.
        seen: Items of the history.
        known: The user has a list or a history.
    """

    generation_id: int | None
    item_ids: Iterable[str] = ()
    scores: Iterable[float] = ()
    sources: Iterable[str] = ()
    seen: tuple[str, ...] = ()
    known: bool = False

    @property
    def personal(self) -> Iterator[Proposal]:
        """The list, best first; most readers need only the beginning."""
        return map(Proposal, self.item_ids, self.sources, self.scores)


class Lists:
    """Reads what is served, and remembers it for as long as it is."""

    def __init__(
        self,
        postgres: Postgres,
        redis: RedisPart,
        rules: RulesFile,
        last_known: LastKnown,
        settings: ServiceSettings,
    ) -> None:
        self._postgres = postgres
        self._redis = redis
        self._rules = rules
        self._last_known = last_known
        self._settings = settings
        self._users: OrderedDict[tuple[str, int | None], UserLists] = OrderedDict()
        # Replaced when what users' lists were made of may be another one.
        self.moment = object()
        self._packed: PackedLists | None = None
        self._packing: asyncio.Task[None] | None = None
        self._packing_since = -_SETTLED_SECONDS
        self._forgotten: set[str] = set()
        self._similar: OrderedDict[str, tuple[int, SimilarItems]] = OrderedDict()
        self._looking = asyncio.Lock()
        catalogue_, defaults, generation = last_known.read()
        self.world = World({}, catalogue_, defaults, generation, None)

    @property
    def is_away(self) -> bool:
        """Whether PostgreSQL or Redis is away, so that what is handed out may be old."""
        return self._postgres.is_away or self._redis.part.problem is not None

    @property
    def users_in_memory(self) -> int:
        """Users whose lists need no query; 0 until all are in memory, and where they do not fit."""
        return len(self._packed) if self._packed is not None else 0

    async def keep_fresh(self) -> None:
        """Look at pointers, rules and the health of the parts again and again, until cancelled."""
        while True:
            try:
                await self.look()
            except Exception:  # whatever it is: the look that fails must not be the last one
                logger.exception("what is served now could not be looked at; what was known stays")
            self._pack_when_settled()
            await asyncio.sleep(self._settings.refresh_seconds)

    async def look(self) -> None:
        """Look once. What cannot be reached stays as it was."""
        async with self._looking:
            self._rules.refresh()
            if self._redis.client is not None:
                try:
                    await self._redis.probe()
                except AwayError:
                    pass  # the part remembers
            try:
                await self._postgres.probe()
                await self._look_at_tables()
            except AwayError:
                pass

    async def _look_at_tables(self) -> None:
        rows = await self._postgres.rows(reading.SERVED)
        served = {name: Pointer(*pointer) for name, *pointer in rows}
        world = replace(self.world, served=served, other_side=await self._other_side())
        items, defaults = served.get(ITEMS), served.get(DEFAULT)
        if items is not None:
            version = await catalogue.version(self._postgres)
            if (items.generation_id, version) != (world.catalogue.generation_id, world.catalogue.version):
                loaded = await catalogue.load(self._postgres, items.generation_id, version)
                # Dropped while it was being read: the next look finds the one that is served then.
                world = replace(world, catalogue=world.catalogue if loaded.is_empty and items.rows else loaded)
        # The last known ones of an earlier start are only those that were available then.
        if defaults is not None and (not self.world.served or defaults.generation_id != world.defaults_generation):
            found = await self._postgres.rows(reading.DEFAULTS)
            proposals = tuple(Proposal(item_id, "default", score) for item_id, score in found)
            world = replace(world, defaults=proposals, defaults_generation=defaults.generation_id)
        if (world.catalogue, world.defaults) != (self.world.catalogue, self.world.defaults):
            await asyncio.to_thread(self._last_known.write, world.catalogue, world.defaults, world.defaults_generation)
        if any(world.pointer(name) != self.world.pointer(name) for name in _PACKED):
            await self._begin_anew()
        # The same as long as nothing changes: what was made of it is known by it.
        if not world.is_same_as(self.world):
            self.world = world

    async def _begin_anew(self) -> None:
        """Drop all users' lists: others are served."""
        self.moment = object()
        self._users.clear()
        self._packed = None
        # The first time is at the start, when nothing is known to have changed.
        self._packing_since = time.monotonic() if self.world.served else self._packing_since
        await self.stop_packing()

    async def stop_packing(self) -> None:
        """Stop reading all lists, if that is under way: what is open there keeps a publication waiting."""
        if self._packing is not None:
            self._packing.cancel()
            await asyncio.wait([self._packing])
            self._packing = None

    def _pack_when_settled(self) -> None:
        settled = time.monotonic() - self._packing_since >= _SETTLED_SECONDS
        wanted = self._settings.lists_mib > 0 and self.world.pointer(PERSONAL) is not None
        if self._packing is None and wanted and settled and not self.is_away:
            self._forgotten.clear()
            self._packing = asyncio.create_task(self._pack())

    async def _pack(self) -> None:
        """Read the lists of all users."""
        served = [self.world.pointer(name) for name in _PACKED]
        personal, history, online = [pointer.generation_id if pointer else None for pointer in served]
        assert personal is not None
        packed = PackedLists(most_mib=self._settings.lists_mib)
        try:
            await packed.read(self._postgres, personal, history, online)
        except AwayError:
            # Tried again, a while after the part is back.
            self._packing_since, self._packing = time.monotonic(), None
        except TooLargeError as error:
            logger.info("%s: PostgreSQL is asked for each user ([service].lists_mib)", error)
        except Exception:
            logger.exception("not all lists could be read: PostgreSQL is asked for each user")
        else:
            for user_id in self._forgotten:
                packed.forget(user_id)
            self._packed = packed
            self._users.clear()
            self._similar.clear()

    async def _other_side(self) -> tuple[int, str | None] | None:
        experiment = self._rules.current().experiment
        if experiment is None:
            return None
        rows = await self._postgres.rows(reading.IS_KEPT, experiment.generation)
        return (experiment.generation, rows[0][0]) if rows else None

    def remembered(self, user_id: str, generation_id: int | None) -> UserLists | None:
        """Return list and history of a user, if PostgreSQL need not be asked for them."""
        if generation_id is None and self._packed is not None:
            return self._unpacked(self._packed, user_id)
        key = (user_id, generation_id)
        lists = self._users.get(key)
        if lists is not None:
            self._users.move_to_end(key)
        return lists

    def _unpacked(self, packed: PackedLists, user_id: str) -> UserLists:
        pointer = self.world.pointer(PERSONAL)
        listed, seen = packed.list_of(user_id), packed.history_of(user_id)
        known = listed is not None or seen is not None
        return UserLists(pointer and pointer.generation_id, *(listed or ((), (), ())), seen=seen or (), known=known)

    async def user(self, user_id: str, generation_id: int | None = None) -> UserLists:
        """Return list and history of a user.

        Args:
            user_id: Known or not.
            generation_id: Of the personal recs; the served one by default.

        Raises:
            AwayError: If PostgreSQL is away and the user is not remembered.
        """
        remembered = self.remembered(user_id, generation_id)
        if remembered is not None:
            return remembered
        key = (user_id, generation_id)
        moment = self.moment
        rows = await self._postgres.rows(reading.USER_LISTS, user_id, generation_id)
        number, item_ids, scores, sources, seen = rows[0]
        lists = UserLists(
            number,
            _shared(item_ids),
            array("f", scores or ()),
            _shared(sources),
            _shared(seen),
            known=item_ids is not None or seen is not None,
        )
        if self.moment is moment and self.is_served(lists, generation_id):
            self._users[key] = lists
            if len(self._users) > self._settings.users_in_memory:
                self._users.popitem(last=False)
        return lists

    def is_served(self, lists: UserLists, generation_id: int | None) -> bool:
        """Whether lists are those of the generation that is known to be served, or of `generation_id`.

        What was published since the last look is right, but nothing would throw it away in time.
        """
        pointer = self.world.pointer(PERSONAL)
        return lists.generation_id == (generation_id or (pointer and pointer.generation_id))

    def forget(self, user_id: str) -> None:
        """Drop what is remembered of a user."""
        self.moment = object()
        self._forgotten.add(user_id)
        if self._packed is not None:
            self._packed.forget(user_id)
        for key in [key for key in self._users if key[0] == user_id]:
            del self._users[key]

    async def similar(self, item_ids: Sequence[str]) -> dict[str, SimilarItems]:
        """Return the items similar to each of `item_ids`, best first; an item without any is left out.

        Raises:
            AwayError: If PostgreSQL is away and not all are remembered.
        """
        if self._packed is not None:
            packed = self._packed
            return {item_id: similar for item_id in item_ids if (similar := tuple(packed.similar_to(item_id)))}
        pointer = self.world.pointer(ONLINE)
        served = pointer.generation_id if pointer else -1
        found: dict[str, SimilarItems] = {}
        missing = []
        for item_id in item_ids:
            remembered = self._similar.get(item_id)
            if remembered is not None and remembered[0] == served:
                found[item_id] = remembered[1]
            else:
                missing.append(item_id)
        if missing:
            rows = await self._postgres.rows(reading.SIMILAR, missing)
            read = {item_id: tuple(zip(similar_ids, scores, strict=True)) for item_id, similar_ids, scores in rows}
            for item_id in missing:
                found[item_id] = self._remember_similar(item_id, served, read.get(item_id, ()))
        return {item_id: proposals for item_id, proposals in found.items() if proposals}

    def _remember_similar(self, item_id: str, served: int, proposals: SimilarItems) -> SimilarItems:
        self._similar[item_id] = (served, proposals)
        self._similar.move_to_end(item_id)
        if len(self._similar) > self._settings.users_in_memory:
            self._similar.popitem(last=False)
        return proposals


def _shared(texts: Sequence[str] | None) -> tuple[str, ...]:
    """The same texts, each of which is in memory only once however many lists it is in."""
    return tuple(map(sys.intern, texts or ()))
