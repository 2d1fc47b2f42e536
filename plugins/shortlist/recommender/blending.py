"""One list out of several: what the model says, what was taken just now, what the shop wants, what everybody takes."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from heapq import heapify, heappop
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

# Of reciprocal-rank fusion; the value that Cormack, Clarke and Büttcher settled on.
RANK_OFFSET = 60
# The newest recent event counts half as much as the personal list, each older one less.
RECENT_WEIGHT = 0.5
RECENT_DECAY = 0.8

# The source of an item that a rule puts first, and of one that is similar to a recent event.
PINNED = "pinned"
RECENT = "recent"


class Proposal(NamedTuple):
    """An item that some list proposes.

    Attributes:
        item_id: What is proposed.
        source: Where it comes from: `als`, `similar`, `popular`, `recent`, `default`, `pinned`, `catalogue`.
        score: In units of its source; not comparable between sources.
        because: The item it is similar to.
    """

    item_id: str
    source: str
    score: float | None = None
    because: str | None = None


@dataclass(frozen=True)
class Rules:
    """What the shop wants, whatever the model says.

    Attributes:
        pin: Items that come first, in this order.
        block: Items never shown, pinned or not.
        boost: Item → factor of its blended score, above 0; below 1 it sinks.
        boost_category: The same for every item of a category; factors of one item multiply.
        block_category: Categories never shown.
    """

    pin: tuple[str, ...] = ()
    block: frozenset[str] = frozenset()
    boost: Mapping[str, float] = field(default_factory=dict)
    boost_category: Mapping[str, float] = field(default_factory=dict)
    block_category: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Wanted:
    """What the caller asks for.

    Attributes:
        k: Number of items.
        categories: Only items in at least one of these; empty: any item.
        exclude: Items not to be shown.
        available_only: Whether items that are not available stay out.
        max_per_category: Most items of one category; items without a category are not limited. `None`: no limit.
    """

    k: int
    categories: frozenset[str] = frozenset()
    exclude: frozenset[str] = frozenset()
    available_only: bool = True
    max_per_category: int | None = None


def blend(
    *,
    personal: Iterable[Proposal],
    recent: Sequence[tuple[str, Sequence[tuple[str, float]]]],
    defaults: Sequence[Proposal],
    rest: Iterable[Proposal],
    categories: Callable[[str], str | None],
    unavailable: Collection[str],
    seen: Collection[str],
    wanted: Wanted,
    rules: Rules,
) -> list[Proposal]:
    """Blend the lists of one user into the one that is shown.

    Pinned items come first. Then the personal list and those of recent events, by weighted reciprocal-rank fusion
    (Cormack, Clarke, Büttcher 2009: "Reciprocal rank fusion outperforms Condorcet and individual rank learning
    methods"): the score of an item is the sum of weight / (60 + rank) over the lists it is in, times its boosts. The
    personal list weighs 1, that of the i-th newest event 0.5 · 0.8^i; ties go to the smaller id. Then the defaults and
    the rest, as they come: they are not boosted. Without recent events and boosts the personal order stays.

    A filter never moves the ranks: they are those in the lists as given. Items are taken greedily from the top, so that
    one in several categories may use up the room of two others.

    Args:
        personal: Best first; no item twice. Without recent events and boosts, read only as far as needed.
        recent: For each recent event, newest first, its item and what is similar to it with the scores, best first;
            no item twice in one list.
        defaults: For everybody, best first.
        rest: Read only as far as the list is still short.
        categories: Item → its categories, joined by `|`.
        unavailable: Items that are not available; best a set.
        seen: Items the user took; best a set.
        wanted: Length and filters.
        rules: Of the shop.

    Returns:
        `wanted.k` proposals; fewer only where nothing more may be shown. One that several lists propose is that of the
        list which adds most to its score.

    Example:
        >>> lists = {"personal": [Proposal("a", "als"), Proposal("b", "als")], "recent": [("c", [("b", 0.5)])]}
        >>> shown = blend(**lists, defaults=[Proposal("d", "default")], rest=(), categories=lambda item: None,
        ...               unavailable=(), seen={"a"}, wanted=Wanted(k=2), rules=Rules())
        >>> [(one.item_id, one.source) for one in shown]
        [('b', 'als'), ('d', 'default')]
    """
    if wanted.k < 1:
        return []
    ranked = personal
    if rules.boost or rules.boost_category or any(similar for _, similar in recent):
        ranked = _fused(list(personal), recent, rules, categories)
    pinned = [Proposal(item, PINNED) for item in rules.pin]
    taken = seen if isinstance(seen, (set, frozenset, dict)) else frozenset(seen)
    barred = wanted.exclude | rules.block if wanted.exclude or rules.block else ()
    missing = unavailable if wanted.available_only else ()
    limits = _Categories(wanted, rules) if _by_category(wanted, rules) else None
    shown: dict[str, Proposal] = {}
    for proposal in chain(pinned, ranked, defaults, rest):
        item = proposal.item_id
        if item in shown or item in taken or item in missing or item in barred:
            continue
        if limits is not None and not limits.admit(categories(item)):
            continue
        shown[item] = proposal
        if len(shown) == wanted.k:
            break
    return list(shown.values())


def _fused(
    personal: Sequence[Proposal],
    recent: Sequence[tuple[str, Sequence[tuple[str, float]]]],
    rules: Rules,
    categories: Callable[[str], str | None],
) -> Iterator[Proposal]:
    proposals = {proposal.item_id: proposal for proposal in personal}
    scores = {item: 1 / rank for rank, item in enumerate(proposals, RANK_OFFSET + 1)}
    most = _add_recent(scores, recent)
    for item in scores.keys() & rules.boost.keys():
        scores[item] *= rules.boost[item]
    if rules.boost_category:
        for item in scores:
            for category in categories_of(categories(item)):
                if category in rules.boost_category:
                    scores[item] *= rules.boost_category[category]
    # A heap, since only the first few are asked for.
    heap = [(-score, item) for item, score in scores.items()]
    heapify(heap)
    while heap:
        item = heappop(heap)[1]
        if item in most:
            _, because, score = most[item]
            yield Proposal(item, RECENT, score, because)
        else:
            yield proposals[item]


def _add_recent(
    scores: dict[str, float], recent: Sequence[tuple[str, Sequence[tuple[str, float]]]]
) -> dict[str, tuple[float, str, float]]:
    """Add what recent events propose to the scores.

    Returns:
        Where one of them adds most to the score of an item: how much, for which item of an event, and with which score.
    """
    own = dict(scores)
    most: dict[str, tuple[float, str, float]] = {}
    weight = RECENT_WEIGHT
    for because, similar in recent:
        for rank, (item, score) in enumerate(similar, RANK_OFFSET + 1):
            added = weight / rank
            before = scores.get(item)
            if before is None:
                scores[item] = added
                most[item] = (added, because, score)
                continue
            scores[item] = before + added
            largest = most.get(item)
            if added > (largest[0] if largest else own[item]):
                most[item] = (added, because, score)
        weight *= RECENT_DECAY
    return most


# Asked for every item of every request; a catalogue has far fewer combinations than that.
@lru_cache(maxsize=65_536)
def categories_of(joined: str | None) -> tuple[str, ...]:
    """Take apart categories joined by `|`.

    Example:
        >>> categories_of("Comedy|Drama")
        ('Comedy', 'Drama')
        >>> categories_of(None)
        ()
    """
    # Not a set: factors multiply in the same order in every process, so that ties are the same ties.
    return tuple(dict.fromkeys(part for part in joined.split("|") if part)) if joined else ()


def _by_category(wanted: Wanted, rules: Rules) -> bool:
    return bool(wanted.categories or rules.block_category or wanted.max_per_category is not None)


class _Categories:
    def __init__(self, wanted: Wanted, rules: Rules) -> None:
        self._wanted = wanted.categories
        self._blocked = rules.block_category
        self._most = wanted.max_per_category
        self._shown: dict[str, int] = {}

    def admit(self, joined: str | None) -> bool:
        """Say whether one more item with these categories may be shown, and count it if so."""
        categories = categories_of(joined)
        if self._wanted and self._wanted.isdisjoint(categories):
            return False
        if not self._blocked.isdisjoint(categories):
            return False
        if self._most is not None:
            for category in categories:
                if self._shown.get(category, 0) >= self._most:
                    return False
            for category in categories:
                self._shown[category] = self._shown.get(category, 0) + 1
        return True
