"""One list out of several, in a shop whose items' ids begin with the letter of their category."""

from __future__ import annotations

from itertools import count, pairwise
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shortlist.recommender.blending import Proposal, Rules, Wanted, blend

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# Cups, jugs, a set that is both, a gift that has no category; the old jug is sold out.
CATALOGUE: dict[str, tuple[str | None, bool]] = {
    "cup1": ("cups", True),
    "cup2": ("cups", True),
    "cup3": ("cups", True),
    "jug1": ("jugs", True),
    "jug2": ("jugs", True),
    "oldjug": ("jugs", False),
    "set": ("cups|jugs", True),
    "gift1": (None, True),
    "gift2": (None, True),
}


def categories(item: str) -> str | None:
    return CATALOGUE.get(item, (None, False))[0]


UNAVAILABLE = frozenset(item for item, (_, available) in CATALOGUE.items() if not available)


def proposals(source: str, *items: str) -> list[Proposal]:
    return [Proposal(item, source) for item in items]


def similar(*items: str) -> list[tuple[str, float]]:
    return [(item, 1 / rank) for rank, item in enumerate(items, start=1)]


def blended(
    *,
    personal: Sequence[str] = (),
    recent: Sequence[Sequence[str]] = (),
    defaults: Sequence[str] = (),
    rest: Sequence[str] = (),
    seen: Sequence[str] = (),
    rules: Rules | None = None,
    **wanted: Any,
) -> list[tuple[str, str]]:
    """Item and source of what is shown."""
    shown = blend(
        personal=proposals("als", *personal),
        recent=[(str(age), similar(*items)) for age, items in enumerate(recent)],
        defaults=proposals("default", *defaults),
        rest=proposals("catalogue", *rest),
        categories=categories,
        unavailable=UNAVAILABLE,
        seen=seen,
        wanted=Wanted(**{"k": 9, **wanted}),
        rules=rules or Rules(),
    )
    return [(proposal.item_id, proposal.source + (proposal.because or "")) for proposal in shown]


def items(shown: list[tuple[str, str]]) -> list[str]:
    return [item for item, _ in shown]


def test_a_user_with_a_list_gets_it_as_it_is() -> None:
    # Falling ids would show a sort by id, rising ones a sort by anything else that falls.
    assert items(blended(personal=["set", "cup1", "jug1", "gift1"], k=3)) == ["set", "cup1", "jug1"]


def test_a_short_list_is_filled_with_defaults_then_with_the_rest() -> None:
    shown = blended(personal=["jug1"], defaults=["jug1", "cup2"], rest=["cup1", "cup2", "cup3"], k=4)

    assert shown == [("jug1", "als"), ("cup2", "default"), ("cup1", "catalogue"), ("cup3", "catalogue")]


def test_the_rest_is_read_only_as_far_as_the_list_is_short() -> None:
    endless: Iterator[Proposal] = (Proposal(f"n{number}", "catalogue") for number in count())

    shown = blend(
        personal=[],
        recent=[],
        defaults=[],
        rest=endless,
        categories=lambda item: None,
        unavailable=(),
        seen=(),
        wanted=Wanted(k=2),
        rules=Rules(),
    )

    assert [proposal.item_id for proposal in shown] == ["n0", "n1"]
    assert next(endless).item_id == "n2"


def test_an_item_keeps_its_score_and_what_it_is_similar_to() -> None:
    proposal = Proposal("cup1", "similar", score=0.25, because="cup2")

    shown = blend(
        personal=[proposal],
        recent=[("jug2", [("jug1", 0.5)])],
        defaults=[],
        rest=[],
        categories=categories,
        unavailable=UNAVAILABLE,
        seen=(),
        wanted=Wanted(k=2),
        rules=Rules(),
    )

    assert shown == [proposal, Proposal("jug1", "recent", 0.5, "jug2")]


def test_recent_events_are_fused_with_the_personal_list_by_reciprocal_ranks() -> None:
    # jug2: 1/63 + 0.5/62 = 0.02394; cup1: 1/61 = 0.01639; cup2: 1/62 = 0.01613; gift1: 0.5/61 = 0.00820.
    shown = blended(personal=["cup1", "cup2", "jug2"], recent=[["gift1", "jug2"]])

    assert shown == [("jug2", "als"), ("cup1", "als"), ("cup2", "als"), ("gift1", "recent0")]


def test_older_events_count_less() -> None:
    # jug1: 0.5/62 = 0.00806; cup1: 0.5·0.8/61 = 0.00656; gift1: 0.5·0.8²/61 + 0.5·0.8/62 = 0.01170.
    shown = blended(recent=[["oldjug", "jug1"], ["cup1", "gift1"], ["gift1"]])

    assert shown == [("gift1", "recent1"), ("jug1", "recent0"), ("cup1", "recent1")]


def test_ties_go_to_the_smaller_id() -> None:
    # Both at 61/61 = 62/62 = 1.
    rules = Rules(boost={"cup2": 61.0, "cup1": 62.0})

    assert items(blended(personal=["cup2", "cup1"], rules=rules)) == ["cup1", "cup2"]


@pytest.mark.parametrize(("age", "place"), [(0, 62), (1, 92), (2, 130)])
def test_an_item_is_said_to_come_from_the_list_that_adds_most_to_its_score(age: int, place: int) -> None:
    # First in the list of an event of that age it gets 0.5·0.8^age / 61: 1/122, 1/152.5, 1/190.6.
    recent: list[list[str]] = [[]] * age + [["cup1"]]
    others = [f"other{number}" for number in range(place)]

    assert blended(personal=[*others[1:], "cup1"], recent=recent, seen=others) == [("cup1", "als")]
    assert blended(personal=[*others, "cup1"], recent=recent, seen=others) == [("cup1", f"recent{age}")]


def test_a_boost_lifts_and_sinks_an_item() -> None:
    # cup3: 1.5/63 = 0.0238; cup1: 0.9/61 = 0.01475 is less than cup2: 1/62 = 0.01613.
    rules = Rules(boost={"cup3": 1.5, "cup1": 0.9, "gift1": 100.0})

    assert items(blended(personal=["cup1", "cup2", "cup3"], rules=rules)) == ["cup3", "cup2", "cup1"]


def test_boosts_of_an_item_and_of_each_of_its_categories_multiply() -> None:
    # set: 1.2·1.2·0.8/64 = 0.018; jug1: 0.8/61 = 0.01311; cup1: 1.2/62 = 0.01935; gift1: 1/63 = 0.01587.
    rules = Rules(boost={"set": 1.2}, boost_category={"cups": 1.2, "jugs": 0.8})

    assert items(blended(personal=["jug1", "cup1", "gift1", "set"], rules=rules)) == ["cup1", "set", "gift1", "jug1"]


def test_defaults_are_not_boosted() -> None:
    rules = Rules(boost={"cup2": 9.0})

    assert items(blended(defaults=["cup1", "cup2"], rules=rules)) == ["cup1", "cup2"]


def test_pinned_items_come_first_in_their_order() -> None:
    shown = blended(personal=["cup1", "cup2"], defaults=["jug1"], rules=Rules(pin=("jug1", "cup2")))

    assert shown == [("jug1", "pinned"), ("cup2", "pinned"), ("cup1", "als")]


def test_a_pinned_item_obeys_every_filter() -> None:
    pin = Rules(pin=("oldjug", "cup1", "cup2", "jug1", "jug2"), block=frozenset({"cup2"}))

    assert items(blended(rules=pin, seen=["cup1"], exclude=frozenset({"jug1"}))) == ["jug2"]
    assert items(blended(rules=pin, categories=frozenset({"cups"}))) == ["cup1"]
    assert items(blended(rules=pin, max_per_category=1)) == ["cup1", "jug1"]


@pytest.mark.parametrize("source", ["personal", "defaults", "rest", "recent"])
def test_nothing_seen_excluded_blocked_or_unavailable_is_shown_from_any_list(source: str) -> None:
    everything = ["cup1", "cup2", "cup3", "jug1", "oldjug", "set", "gift1"]
    lists: dict[str, Any] = {source: [everything] if source == "recent" else everything}

    shown = blended(
        **lists,
        seen=["cup1"],
        exclude=frozenset({"cup2"}),
        rules=Rules(block=frozenset({"cup3"}), block_category=frozenset({"jugs"})),
    )

    assert items(shown) == ["gift1"]


def test_unavailable_items_are_shown_when_asked_for() -> None:
    assert items(blended(personal=["oldjug", "cup1"], available_only=False)) == ["oldjug", "cup1"]


def test_an_item_is_in_each_of_its_categories() -> None:
    personal = ["set", "cup1", "jug1", "gift1"]

    assert items(blended(personal=personal, categories=frozenset({"jugs"}))) == ["set", "jug1"]
    assert items(blended(personal=personal, categories=frozenset({"jugs", "cups"}))) == ["set", "cup1", "jug1"]
    assert items(blended(personal=personal, max_per_category=1)) == ["set", "gift1"]


def test_the_limit_of_a_category_holds_across_the_lists_and_not_for_items_without_one() -> None:
    shown = blended(
        personal=["cup1", "cup2", "gift1"], defaults=["cup3", "gift2"], rest=["jug1", "jug2"], max_per_category=2
    )

    assert items(shown) == ["cup1", "cup2", "gift1", "gift2", "jug1", "jug2"]


def test_a_filter_does_not_move_the_ranks_of_other_items() -> None:
    # jug1 stays at place 3: 1/63 = 0.01587 < 1.02/64 = 0.01594; at place 1 it would win.
    rules = Rules(boost={"jug2": 1.02})

    assert items(blended(personal=["cup1", "cup2", "jug1", "jug2"], seen=["cup1", "cup2"], rules=rules)) == [
        "jug2",
        "jug1",
    ]


@pytest.mark.parametrize("k", [0, -1])
def test_nothing_is_shown_when_nothing_is_asked_for(k: int) -> None:
    assert blended(personal=["cup1"], rules=Rules(pin=("cup2",)), k=k) == []


IDS = [f"i{number}" for number in range(12)]
LISTS = st.lists(st.sampled_from(IDS), unique=True)
SETS = st.frozensets(st.sampled_from(IDS), max_size=4)
CATEGORIES = st.sampled_from(["a", "b", "c"])
FACTORS = st.floats(0.01, 100)


@st.composite
def requests(draw: st.DrawFn) -> dict[str, Any]:
    """Anything a request may bring; many items are in several lists."""
    catalogue = {
        item: (draw(st.sampled_from([None, "a", "b", "c", "a|b", "b|c"])), draw(st.booleans())) for item in IDS
    }
    return {
        "personal": proposals("als", *draw(LISTS)),
        "recent": [
            (event, similar(*draw(LISTS))) for event in draw(st.lists(st.sampled_from(IDS), max_size=3, unique=True))
        ],
        "defaults": proposals("default", *draw(LISTS)),
        "rest": proposals("catalogue", *draw(LISTS)),
        "categories": lambda item: catalogue[item][0],
        "unavailable": {item for item, (_, available) in catalogue.items() if not available},
        "seen": draw(SETS),
        "wanted": Wanted(
            k=draw(st.integers(1, 14)),
            categories=draw(st.frozensets(CATEGORIES, max_size=2)),
            exclude=draw(SETS),
            available_only=draw(st.booleans()),
            max_per_category=draw(st.none() | st.integers(1, 3)),
        ),
        "rules": Rules(
            pin=tuple(draw(LISTS)),
            block=draw(SETS),
            boost=draw(st.dictionaries(st.sampled_from(IDS), FACTORS, max_size=3)),
            boost_category=draw(st.dictionaries(CATEGORIES, FACTORS, max_size=2)),
            block_category=draw(st.frozensets(CATEGORIES, max_size=1)),
        ),
    }


def may_be_shown(item: str, request: dict[str, Any]) -> bool:
    wanted, rules = request["wanted"], request["rules"]
    joined, available = request["categories"](item), item not in request["unavailable"]
    categories = set((joined or "").split("|")) - {""}
    return (
        item not in request["seen"] | wanted.exclude | rules.block
        and (available or not wanted.available_only)
        and not categories & rules.block_category
        and (not wanted.categories or bool(categories & wanted.categories))
    )


def of_category(category: str, items: set[str], request: dict[str, Any]) -> int:
    return sum(category in (request["categories"](item) or "").split("|") for item in items)


@settings(max_examples=200, deadline=None)
@given(requests())
def test_whatever_is_asked_the_list_is_allowed_and_as_long_as_it_can_be(request: dict[str, Any]) -> None:
    wanted, rules = request["wanted"], request["rules"]
    most = len(IDS) if wanted.max_per_category is None else wanted.max_per_category

    shown = [proposal.item_id for proposal in blend(**request)]

    proposed = {*rules.pin}
    for several in (request["personal"], request["defaults"], request["rest"]):
        proposed |= {proposal.item_id for proposal in several}
    proposed |= {item for _, found in request["recent"] for item, _ in found}
    allowed = {item for item in proposed if may_be_shown(item, request)}
    assert len(set(shown)) == len(shown) <= wanted.k
    assert set(shown) <= allowed
    assert all(of_category(category, set(shown), request) <= most for category in "abc")
    pinned = [item for item in rules.pin if item in shown]
    assert shown[: len(pinned)] == pinned
    if len(shown) < wanted.k:
        for item in allowed - set(shown):
            categories = (request["categories"](item) or "").split("|")
            assert any(of_category(category, {*shown, item}, request) > most for category in categories if category)
    if wanted.max_per_category is None:
        assert len(shown) == min(wanted.k, len(allowed))


@settings(max_examples=100, deadline=None)
@given(requests())
def test_without_recent_events_and_boosts_the_personal_order_stays(request: dict[str, Any]) -> None:
    rules = request["rules"]
    request |= {
        "recent": [("cup1", []), ("cup2", [])],
        "rules": Rules(block=rules.block, block_category=rules.block_category),
    }
    fused = {**request, "rules": Rules(block=rules.block, block_category=rules.block_category, boost={"other": 2.0})}

    shown = blend(**request)

    of_model = [proposal for proposal in shown if proposal.source == "als"]
    assert of_model == [proposal for proposal in request["personal"] if proposal in of_model]
    assert shown[: len(of_model)] == of_model
    # The short way and the long one agree.
    assert blend(**fused) == shown


@settings(max_examples=200, deadline=None)
@given(requests())
def test_the_order_and_the_origin_are_those_of_the_formula(request: dict[str, Any]) -> None:
    wanted = Wanted(k=len(IDS), available_only=False)
    request |= {"defaults": [], "rest": [], "seen": (), "wanted": wanted, "rules": Rules()}
    added: dict[str, list[tuple[float, int, Proposal]]] = {}
    for rank, proposal in enumerate(request["personal"], start=1):
        added.setdefault(proposal.item_id, []).append((1 / (60 + rank), 0, proposal))
    for age, (event, found) in enumerate(request["recent"]):
        for rank, (item, score) in enumerate(found, start=1):
            worth = 0.5 * 0.8**age / (60 + rank)
            added.setdefault(item, []).append((worth, -age - 1, Proposal(item, "recent", score, event)))

    shown = blend(**request)

    totals = {item: sum(worth for worth, _, _ in several) for item, several in added.items()}
    assert {proposal.item_id for proposal in shown} == set(totals)
    for first, second in pairwise(shown):
        assert totals[first.item_id] >= totals[second.item_id] - 1e-12
    for proposal in shown:
        most = max(worth for worth, _, _ in added[proposal.item_id])
        assert proposal in [one for worth, _, one in added[proposal.item_id] if worth > most - 1e-12]
