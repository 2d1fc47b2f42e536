"""Makes the lists that the API hands out: what is served, blended with recent events, filters and rules."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from service.answers import Popular, Similar
from service.connections import AwayError
from service.lists import DEFAULT, ONLINE, PERSONAL, UserLists
from service.reasons import reason_of
from service.writing import Writer
from shortlist.recommender.blending import Proposal, Wanted, blend

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from service.answers import Variant
    from service.catalogue import Catalogue
    from service.lists import Lists, SimilarItems, World
    from service.recent import Recent, RecentEvents
    from service.rules import LoadedRules, RulesFile

_NOBODY: Final = UserLists(None)


class _Written(NamedTuple):
    """An answer as it was sent, but for its time, and what it was made of."""

    moment: object
    events: tuple[Recent, ...]
    world: World
    loaded: LoadedRules
    body: bytes


class Desk:
    """Hands out lists.

    An answer is the same until something is published, a rule changes or the user does something: it is kept as it
    was written.
    """

    def __init__(
        self, lists: Lists, recents: RecentEvents, rules: RulesFile, *, allow_repeats: bool, remembered: int
    ) -> None:
        """Prepare it.

        Args:
            lists: What is served.
            recents: Events since then.
            rules: Business rules.
            allow_repeats: Items already taken may be recommended again.
            remembered: How many answers are kept.
        """
        self.lists = lists
        self.recents = recents
        self.rules = rules
        self.allow_repeats = allow_repeats
        self._most = remembered
        self._writer = Writer()
        self._written: OrderedDict[tuple[str, Wanted], _Written] = OrderedDict()

    async def write_recommendations(self, user_id: str, wanted: Wanted) -> tuple[bytes, bool]:
        """Return recommendations for a user, known or not, as JSON of `Recommendations`; and whether they are stale.

        Never fails because a part is away.
        """
        loaded, world = self.rules.current(), self.lists.world
        key = (user_id, wanted)
        kept = self._written.get(key)
        if (
            kept is not None
            and kept.world is world
            and kept.loaded is loaded
            and kept.moment is self.lists.moment
            and self.recents.remembered(user_id) is kept.events
            and not self.lists.is_away
        ):
            self._written.move_to_end(key)
            return kept.body + _now(), False
        moment = self.lists.moment
        variant, generation_id = self._dealt(user_id, loaded, world)
        user, events, stale = await self._known_of(user_id, generation_id)
        recent: list[tuple[str, SimilarItems]] = []
        if events:
            try:
                recent = await self._similar_to(events)
            except AwayError:
                stale = True
        stale = stale or self.lists.is_away
        # What was made while something changed may be of both sides.
        unchanged = self.lists.world is world and self.rules.current() is loaded and self.lists.moment is moment
        world = self.lists.world
        chosen = blend(
            personal=user.personal,
            recent=recent,
            defaults=world.defaults,
            rest=_rest(world.catalogue),
            categories=world.catalogue.category,
            unavailable=world.catalogue.unavailable,
            seen=() if self.allow_repeats else _seen(user.seen, events),
            wanted=wanted,
            rules=loaded.rules,
        )
        number, model_version = self._origin(world, user, variant)
        body = self._writer.recommendations(
            chosen,
            world.catalogue,
            user_id=user_id,
            known=user.known,
            generation=number,
            model_version=model_version,
            variant=variant,
            stale=stale,
            complete=len(chosen) == wanted.k,
        )
        if unchanged and not stale and self.lists.is_served(user, generation_id):
            self._written[key] = _Written(moment, events, world, loaded, body)
            if len(self._written) > self._most:
                self._written.popitem(last=False)
        return body + _now(), stale

    @staticmethod
    def _dealt(user_id: str, loaded: LoadedRules, world: World) -> tuple[Variant | None, int | None]:
        """The side of the experiment that a user is on, and its generation if that is not the served one."""
        if loaded.experiment is None or world.other_side is None:
            return None, None
        variant = loaded.experiment.variant_of(user_id)
        return variant, world.other_side[0] if variant == "B" else None

    async def _known_of(self, user_id: str, generation_id: int | None) -> tuple[UserLists, tuple[Recent, ...], bool]:
        """List and events of a user, and whether one of them could not be had."""
        user = self.lists.remembered(user_id, generation_id)
        events = self.recents.remembered(user_id)
        if user is not None and events is not None:
            return user, events, False
        if events is not None:
            try:
                return await self.lists.user(user_id, generation_id), events, False
            except AwayError:
                return _NOBODY, events, True
        read, told = await asyncio.gather(
            self.lists.user(user_id, generation_id), self.recents.of(user_id), return_exceptions=True
        )
        stale = False
        if isinstance(read, BaseException):
            _only_away(read)
            read, stale = _NOBODY, True
        if isinstance(told, BaseException):
            _only_away(told)
            told, stale = (), True
        return read, told, stale

    async def similar(self, item_id: str, wanted: Wanted) -> Similar | None:
        """Return items similar to one; None if there is no such item."""
        stale = False
        try:
            found = await self.lists.similar([item_id])
        except AwayError:
            found, stale = {}, True
        # What the shop pins has its place in the lists of users.
        world, rules = self.lists.world, replace(self.rules.current().rules, pin=())
        if item_id not in found and item_id not in world.catalogue.items and not stale:
            return None
        chosen = blend(
            personal=[Proposal(similar, "similar", score) for similar, score in found.get(item_id, ())],
            recent=[],
            defaults=(),
            rest=(),
            categories=world.catalogue.category,
            unavailable=world.catalogue.unavailable,
            seen=(item_id,),
            wanted=wanted,
            rules=rules,
        )
        pointer = world.pointer(ONLINE)
        return Similar(
            item_id=item_id,
            title=world.catalogue.title(item_id),
            generation=pointer.generation_id if pointer else None,
            model_version=pointer.model_version if pointer else None,
            stale=stale or self.lists.is_away,
            complete=len(chosen) == wanted.k,
            time=datetime.now(UTC),
            items=_items(chosen, world.catalogue, similar_to=item_id),
        )

    def popular(self, wanted: Wanted) -> Popular:
        """Return the list of everybody."""
        world, rules = self.lists.world, self.rules.current().rules
        chosen = blend(
            personal=(),
            recent=[],
            defaults=world.defaults,
            rest=_rest(world.catalogue),
            categories=world.catalogue.category,
            unavailable=world.catalogue.unavailable,
            seen=(),
            wanted=wanted,
            rules=rules,
        )
        pointer = world.pointer(DEFAULT)
        return Popular(
            generation=world.defaults_generation,
            model_version=pointer.model_version if pointer else None,
            stale=self.lists.is_away,
            complete=len(chosen) == wanted.k,
            time=datetime.now(UTC),
            items=_items(chosen, world.catalogue),
        )

    async def _similar_to(self, events: Sequence[Recent]) -> list[tuple[str, SimilarItems]]:
        """One list for each item of the events, the newest first."""
        items = list(dict.fromkeys(event.item_id for event in events))
        similar = await self.lists.similar(items)
        return [(item_id, similar[item_id]) for item_id in items if item_id in similar]

    @staticmethod
    def _origin(world: World, user: UserLists, variant: str | None) -> tuple[int | None, str | None]:
        if user.generation_id is None:
            return world.defaults_generation, None
        if variant == "B" and world.other_side is not None:
            return world.other_side
        pointer = world.pointer(PERSONAL)
        same = pointer is not None and pointer.generation_id == user.generation_id
        return user.generation_id, pointer.model_version if same and pointer else None


def _now() -> bytes:
    return b',"time":"%sZ"}' % datetime.now(UTC).isoformat(timespec="microseconds")[:26].encode()


def _only_away(error: BaseException) -> None:
    if not isinstance(error, AwayError):
        raise error


def _seen(history: Sequence[str], events: Sequence[Recent]) -> Collection[str]:
    taken = {event.item_id for event in events if event.kind == "interaction"}
    return taken.union(history)


def _rest(catalogue: Catalogue) -> Iterable[Proposal]:
    return (Proposal(item_id, "catalogue") for item_id in catalogue.available())


def _items(chosen: Sequence[Proposal], catalogue: Catalogue, similar_to: str | None = None) -> Any:  # noqa: ANN401
    """Plain dictionaries: the answer makes its models of them all at once, several times as fast as one by one."""
    goes_with = f"Goes with {catalogue.title(similar_to) or similar_to}" if similar_to is not None else None
    return [
        {
            "rank": rank,
            "item_id": item_id,
            "title": catalogue.title(item_id),
            "category": catalogue.get(item_id).category,
            "score": score,
            "source": source,
            "reason": goes_with or reason_of(source),
        }
        for rank, (item_id, source, score, _) in enumerate(chosen, start=1)
    ]
