"""What the API hands out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from shortlist.stores.database import ensure_schema
from tests.running_service import RunningService, wait_until
from tests.shop import Shop
from tests.shop_for_service import ITEMS, SETTINGS, publish_all, publish_personal

if TYPE_CHECKING:
    from pathlib import Path

    from shortlist.stores.database import Database
    from tests.redis_server import RedisServer


def test_a_known_user_gets_the_served_list_with_titles_sources_and_reasons(service: RunningService) -> None:
    answer = service.get("/v1/recommendations/ann?k=2")
    time = answer.pop("time")
    assert time.endswith("Z")
    assert answer == {
        "user_id": "ann",
        "known": True,
        "generation": 5,
        "model_version": "version_a+version_ranked",
        "variant": None,
        "stale": False,
        "complete": True,
        "items": [
            {
                "rank": 1,
                "item_id": "pot",
                "title": "Tea pot",
                "category": "kitchen|tea",
                "score": pytest.approx(0.9),
                "source": "als",
                "reason": "Fits what people with this taste take",
            },
            {
                "rank": 2,
                "item_id": "tea",
                "title": "Green tea",
                "category": "tea",
                "score": pytest.approx(0.5),
                "source": "als+popular",
                "reason": "Fits what people with this taste take",
            },
        ],
    }


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", ["pot", "tea", "bag"]),
        ("?k=4", ["pot", "tea", "bag", "pin"]),  # mug and hat are taken, the old lamp is not available
        ("?k=5", ["pot", "tea", "bag", "pin"]),
        ("?k=5&available_only=false", ["pot", "tea", "bag", "pin"]),
        ("?exclude=pot&exclude=bag", ["tea", "pin"]),
        ("?category=tea", ["pot", "tea"]),
        ("?k=4&max_per_category=1", ["pot", "bag", "pin"]),
    ],
)
def test_filters_leave_out_and_the_rest_moves_up(service: RunningService, query: str, expected: list[str]) -> None:
    assert service.recommended("ann", query) == expected


@pytest.mark.parametrize(
    "user", ["nobody", "a/b", "ünï ☕", "'; DROP TABLE internal.served; --", "%00x".replace("%00", "")]
)
def test_an_unknown_user_gets_what_everybody_gets(service: RunningService, user: str) -> None:
    assert service.recommended(user) == ["mug", "tea", "pot"]


def test_recent_events_move_what_is_similar_to_the_front(service: RunningService) -> None:
    assert service.recommended("eve") == ["mug", "tea", "pot"]
    status, answer = service.call("POST", "/v1/events", {"events": [{"user_id": "eve", "item_id": "tea"}]})
    assert (status, answer) == (200, {"accepted": 1, "repeated": 0, "forgotten": 0})
    listed = service.get("/v1/recommendations/eve")["items"]
    assert [(item["item_id"], item["source"], item["reason"]) for item in listed] == [
        ("pin", "recent", "Because of Green tea, a moment ago"),
        ("pot", "recent", "Because of Green tea, a moment ago"),
        ("mug", "default", "Popular with everybody"),
    ]


def test_an_event_taken_in_by_one_process_shows_in_the_answers_of_another(
    shop: Shop, redis: RedisServer, service: RunningService
) -> None:
    folder = shop.folder / "other"
    folder.mkdir()
    with RunningService(
        folder, database_url=shop.database.url, redis_url=redis.service_url, settings=SETTINGS
    ) as other:
        assert other.recommended("eve") == other.recommended("eve") == ["mug", "tea", "pot"]
        service.call("POST", "/v1/events", {"events": [{"user_id": "eve", "item_id": "tea"}]})
        wait_until(lambda: other.recommended("eve") == ["pin", "pot", "mug"])
        redis.restart()
        wait_until(lambda: not any(one.get("/v1/recommendations/bob")["stale"] for one in (service, other)))
        service.call("POST", "/v1/events", {"events": [{"user_id": "eve", "item_id": "pot"}]})
        wait_until(lambda: other.recommended("eve") == ["mug", "pin", "hat"])


def test_a_new_generation_and_its_rollback_show_within_a_refresh(shop: Shop, service: RunningService) -> None:
    before = service.get("/v1/recommendations/bob")
    number = publish_personal(
        shop, {"bob": [("hat", 0.9, "als"), ("pot", 0.8, "als"), ("mug", 0.7, "als")]}, run="later"
    )
    service.refresh()
    after = service.get("/v1/recommendations/bob")
    assert (before["generation"], [item["item_id"] for item in before["items"]]) == (number - 1, ["pot", "mug", "hat"])
    assert (after["generation"], [item["item_id"] for item in after["items"]]) == (number, ["hat", "pot", "mug"])
    # Who is not in the new generation is known by his history, and gets what everybody gets.
    assert service.recommended("ann") == ["tea", "pot", "bag"]


def test_similar_items_popular_items_and_unknown_ones(service: RunningService) -> None:
    similar = service.get("/v1/items/tea/similar?k=2")
    assert [(item["item_id"], item["source"], item["reason"]) for item in similar["items"]] == [
        ("pin", "similar", "Goes with Green tea"),
        ("pot", "similar", "Goes with Green tea"),
    ]
    assert service.get("/v1/items/mug/similar")["items"] == []
    status, answer = service.call("GET", "/v1/items/nothing/similar")
    assert (status, list(answer)) == (404, ["detail"])
    assert [item["item_id"] for item in service.get("/v1/popular?k=4")["items"]] == ["mug", "tea", "pot", "hat"]


def test_rules_hold_within_a_refresh_and_a_broken_file_changes_nothing(service: RunningService) -> None:
    assert service.recommended("ann") == ["pot", "tea", "bag"]  # an answer that was kept
    service.rules.write_text('pin = ["pin"]\nblock = ["tea"]\n', encoding="utf-8")
    service.refresh()
    assert service.recommended("ann") == ["pin", "pot", "bag"]
    service.rules.write_text("pin = 3\n", encoding="utf-8")
    service.refresh()
    assert service.recommended("ann") == ["pin", "pot", "bag"]
    rules = next(part for part in service.get("/v1/parts")["parts"] if part["name"] == "rules")
    assert not rules["ok"]
    assert "pin" in rules["detail"]


def test_a_service_that_is_there_before_the_first_publication_waits_for_it(database: Database, tmp_path: Path) -> None:
    with database.cursor() as cursor:
        cursor.execute("DROP SCHEMA internal CASCADE; DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    with RunningService(tmp_path, database_url=database.url, settings=SETTINGS) as service:
        answer = service.get("/v1/recommendations/ann")
        assert (answer["items"], answer["complete"]) == ([], False)
        missing = ["personal_recs", "default_recs"]
        assert service.call("GET", "/health/ready") == (503, {"status": "not ready", "missing": missing})
        assert service.call("GET", "/v1/items?q=mug")[0] == 503
        ensure_schema(database)
        publish_all(Shop(database, tmp_path))
        service.refresh()
        assert service.recommended("ann") == ["pot", "tea", "bag"]
        assert service.call("POST", "/v1/events", {"events": [{"user_id": "ann", "item_id": "tea"}]})[0] == 200


@pytest.mark.parametrize("user", ["ann", "bob", "nobody"])
def test_every_length_is_exact_as_long_as_there_is_anything_left(service: RunningService, user: str) -> None:
    taken = {"ann": {"mug", "hat"}, "bob": {"tea"}}.get(user, set())
    eligible = {"mug", "pot", "tea", "hat", "bag", "pin"} - taken
    for k in range(1, 9):
        answer = service.get(f"/v1/recommendations/{user}?k={k}")
        listed = [item["item_id"] for item in answer["items"]]
        assert len(listed) == len(set(listed)) == min(k, len(eligible))
        assert set(listed) <= eligible
        assert answer["complete"] == (k <= len(eligible))


def test_an_item_that_is_no_longer_available_leaves_the_answers_that_were_kept(
    shop: Shop, service: RunningService
) -> None:
    assert service.recommended("ann") == ["pot", "tea", "bag"]
    shop.reference(items=ITEMS.replace("tea,Green tea,tea,true", "tea,Green tea,tea,false"))
    service.refresh()
    assert service.recommended("ann") == ["pot", "bag", "pin"]
