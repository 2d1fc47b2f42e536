"""All lists in little memory: the same answers as by asking PostgreSQL, and none that is out of date."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.catalogue import Catalogue
from service.lists import PERSONAL, Lists, Pointer
from service.packed import PackedLists, TooLargeError
from shortlist.settings import ServiceSettings
from tests.running_service import RunningService, wait_until
from tests.shop_for_service import SETTINGS, publish_personal

if TYPE_CHECKING:
    from tests.redis_server import RedisServer
    from tests.shop import Shop

SOURCES = ("als", "similar", "als+popular", "popular")


def in_memory(service: RunningService) -> int:
    """Users whose lists need no query."""
    lines = service.raw("/metrics")[1].decode().splitlines()
    return int(float(next(line for line in lines if line.startswith("shortlist_users_in_memory")).split()[1]))


@given(
    lists=st.dictionaries(
        st.text(min_size=1, max_size=3),
        st.lists(
            st.tuples(st.integers(0, 200_000).map(str), st.floats(0, 1, width=32), st.sampled_from(SOURCES)),
            max_size=5,
        ),
    ),
    histories=st.dictionaries(st.text(min_size=1, max_size=3), st.lists(st.integers(0, 200_000).map(str), max_size=5)),
    forgotten=st.sets(st.text(min_size=1, max_size=3), max_size=2),
)
@settings(max_examples=200, deadline=None)
def test_what_was_added_comes_back(
    lists: dict[str, list[tuple[str, float, str]]], histories: dict[str, list[str]], forgotten: set[str]
) -> None:
    packed = PackedLists(most_mib=1)
    for user, rows in lists.items():
        packed.add_list(user, [row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows])
    for user, items in histories.items():
        packed.add_history(user, items)
    for user in forgotten:
        packed.forget(user)

    for user in {*lists, *histories, "nobody at all"}:
        found = packed.list_of(user)
        rows = list(zip(*found, strict=True)) if found else []
        assert rows == ([] if user in forgotten else lists.get(user, []))
        assert list(packed.history_of(user) or ()) == ([] if user in forgotten else histories.get(user, []))
    assert len(packed) == len({*lists, *histories} - forgotten)


def test_more_items_than_two_bytes_can_number_are_told_apart() -> None:
    packed = PackedLists(most_mib=4)
    for first in range(0, 80_000, 1000):
        packed.add_history(f"user {first}", [str(item) for item in range(first, first + 1000)])
    assert packed.history_of("user 0") == tuple(map(str, range(1000)))
    assert packed.history_of("user 79000") == tuple(map(str, range(79_000, 80_000)))


def test_lists_take_little_and_stop_at_their_limit() -> None:
    packed = PackedLists(most_mib=1)
    items = [str(item) for item in range(100)]
    scores = np.linspace(1, 0, 100).tolist()
    # 7 bytes a recommendation and 200 a user.
    for user in range(2**20 // 900):
        packed.add_list(str(user), items, scores, ["als"] * 100)
    with pytest.raises(TooLargeError, match="the lists of 1,166 users fill 1 MiB"):
        packed.add_list("one more", items, scores, ["als"] * 100)


def test_answers_from_memory_are_those_of_queries(shop: Shop, redis: RedisServer, service: RunningService) -> None:
    folder = shop.folder / "asking"
    folder.mkdir()
    asking = SETTINGS.replace("[service]\n", "[service]\nlists_mib = 0\n")
    with RunningService(folder, database_url=shop.database.url, redis_url=redis.service_url, settings=asking) as other:
        wait_until(lambda: in_memory(service) == 2)
        for path in (
            *(f"/v1/recommendations/{user}{query}" for user in ("ann", "bob", "eve") for query in ("", "?k=5")),
            "/v1/recommendations/ann?category=tea&exclude=pot",
            "/v1/users/ann",
            "/v1/users/eve",
        ):
            ours, theirs = service.get(path), other.get(path)
            assert ours.pop("time", None) or "users" in path
            theirs.pop("time", None)
            assert ours == theirs
        assert in_memory(other) == 0


def test_a_publication_and_a_forgotten_user_show_at_once_and_lists_are_read_again(
    shop: Shop, service: RunningService
) -> None:
    wait_until(lambda: in_memory(service) == 2)
    publish_personal(shop, {"bob": [("hat", 0.9, "als"), ("pot", 0.8, "als"), ("mug", 0.7, "als")]}, run="later")
    service.refresh()
    assert in_memory(service) == 0
    assert service.recommended("bob") == ["hat", "pot", "mug"]
    wait_until(lambda: in_memory(service) == 2)
    assert service.recommended("bob") == ["hat", "pot", "mug"]
    assert service.call("DELETE", "/v1/users/bob")[0] == 200
    answer = service.get("/v1/recommendations/bob")
    assert (answer["known"], [item["item_id"] for item in answer["items"]]) == (False, ["mug", "tea", "pot"])
    assert in_memory(service) == 1


def test_a_user_who_is_forgotten_while_lists_are_read_is_in_none(monkeypatch: pytest.MonkeyPatch) -> None:
    async def read_slowly(packed: PackedLists, *_: object) -> None:
        for user in ("ann", "bob"):
            packed.add_list(user, ["pot"], [0.5], ["als"])
        await forgotten.wait()

    async def forget_meanwhile() -> Lists:
        lists = Lists(Mock(), Mock(), Mock(), Mock(read=lambda: (Catalogue(), (), None)), ServiceSettings())
        lists.world = replace(lists.world, served={PERSONAL: Pointer(1, None, "run", 2, "week")})
        reading = asyncio.create_task(lists._pack())
        await asyncio.sleep(0)
        lists.forget("bob")
        forgotten.set()
        await reading
        return lists

    forgotten = asyncio.Event()
    monkeypatch.setattr(PackedLists, "read", read_slowly)
    lists = asyncio.run(forget_meanwhile())

    ann, bob = lists.remembered("ann", None), lists.remembered("bob", None)
    assert ann is not None
    assert bob is not None
    assert (ann.known, bob.known) == (True, False)
