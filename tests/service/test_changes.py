"""Events, forgetting, the key, and both sides of an experiment."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from shortlist.stores import generations
from shortlist.stores.datasets import PERSONAL_RECS
from tests.shop_for_service import publish_personal

if TYPE_CHECKING:
    from tests.redis_server import RedisServer
    from tests.running_service import RunningService
    from tests.shop import Shop


def test_events_are_kept_once_a_key_and_in_the_order_they_came(shop: Shop, service: RunningService) -> None:
    events = [
        {"user_id": "ann", "item_id": "pot", "kind": "impression", "generation": 5, "key": "1"},
        {"user_id": "ann", "item_id": "pot", "kind": "click", "generation": 5, "key": "2"},
        {"user_id": "ann", "item_id": "pot", "time": "2026-11-20T10:00:00+02:00", "weight": 2.5, "key": "3"},
    ]
    assert service.call("POST", "/v1/events", {"events": events}) == (
        200,
        {"accepted": 3, "repeated": 0, "forgotten": 0},
    )
    again = [*events, {"user_id": "ann", "item_id": "tea", "key": "4"}]
    assert service.call("POST", "/v1/events", {"events": again})[1] == {"accepted": 1, "repeated": 3, "forgotten": 0}
    recent = service.get("/v1/users/ann")["recent"]
    assert [(event["item_id"], event["kind"]) for event in recent] == [
        ("tea", "interaction"),
        ("pot", "click"),
        ("pot", "interaction"),
    ]
    kept = shop.read("SELECT key, kind, item_id, weight, generation_id FROM service.events ORDER BY event_id")
    assert kept == [
        ("1", "impression", "pot", 1.0, 5),
        ("2", "click", "pot", 1.0, 5),
        ("3", "interaction", "pot", 2.5, None),
        ("4", "interaction", "tea", 1.0, None),
    ]
    ((time,),) = shop.read("SELECT time AT TIME ZONE 'UTC' FROM service.events WHERE key = '3'")
    assert time.isoformat() == "2026-11-20T08:00:00"


@pytest.mark.parametrize(
    "event",
    [
        {"user_id": "", "item_id": "pot"},
        {"user_id": "ann", "item_id": "a\u0000b"},
        {"user_id": "ann", "item_id": "pot", "weight": float("nan")},
        {"user_id": "ann", "item_id": "pot", "weight": -1},
        {"user_id": "ann", "item_id": "pot", "kind": "purchase"},
        {"user_id": "ann", "item_id": "pot", "time": "2999-01-01T00:00:00Z"},
        {"user_id": "ann", "item_id": "pot", "time": "2026-11-20T10:00:00"},
        {"user_id": "ann", "item_id": "pot", "colour": "red"},
        {"user_id": "a" * 601, "item_id": "pot"},
    ],
)
def test_an_event_that_is_wrong_is_refused_with_all_of_its_request(
    shop: Shop, service: RunningService, event: dict[str, object]
) -> None:
    good = {"user_id": "ann", "item_id": "pot"}
    status, answer = service.call("POST", "/v1/events", {"events": [good, event]})
    assert (status, list(answer)) == (422, ["detail"])
    assert shop.read("SELECT count(*) FROM service.events") == [(0,)]


@pytest.mark.parametrize("key", [None, "wrong", "key-of-the-test", "key-of-the-testsx"])
@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/events", {"events": [{"user_id": "ann", "item_id": "pot"}]}),
        ("DELETE", "/v1/users/ann", None),
        ("POST", "/v1/admin/refresh", None),
    ],
)
def test_who_has_no_key_changes_nothing(
    shop: Shop, service: RunningService, method: str, path: str, body: object, key: str | None
) -> None:
    status, answer = service.call(method, path, body, key=key)
    assert (status, list(answer)) == (401, ["detail"])
    assert shop.read("SELECT (SELECT count(*) FROM service.events), (SELECT count(*) FROM personal_recs)") == [(0, 6)]


def test_a_forgotten_user_is_nobody_in_tables_redis_and_answers(
    shop: Shop, redis: RedisServer, service: RunningService
) -> None:
    service.call("POST", "/v1/events", {"events": [{"user_id": "ann", "item_id": "tea"}]})
    features = redis.admin
    features.set("features:served", "v1")
    features.hset("features:v1:user:ann", "count", 3)
    features.hset("features:v1:user:bob", "count", 3)
    features.set("features:writing", "v2")
    features.hset("features:v2:user:ann", "count", 3)
    status, answer = service.call("DELETE", "/v1/users/ann")
    assert (status, answer["removed"]) == (
        200,
        {
            "user_history": 1,
            "candidates_train": 0,
            "candidates_inference": 0,
            "personal_recs": 1,
            "events": 1,
            "recent_events": 1,
            "features": 2,
        },
    )
    assert "forget_users" in answer["files"]
    after = service.get("/v1/recommendations/ann")
    assert (after["known"], [item["source"] for item in after["items"]]) == (False, ["default"] * 3)
    assert service.get("/v1/users/ann") == {
        "user_id": "ann",
        "known": False,
        "interactions": 0,
        "history": [],
        "recent": [],
    }
    assert features.exists("features:v1:user:ann", "features:v1:user:bob") == 1
    assert service.call("POST", "/v1/events", {"events": [{"user_id": "ann", "item_id": "tea"}]})[1] == {
        "accepted": 0,
        "repeated": 0,
        "forgotten": 1,
    }
    assert shop.read("SELECT user_id FROM service.forgotten") == [("ann",)]
    both = [{"user_id": "ann", "item_id": "tea"}, {"user_id": "eve", "item_id": "tea"}]
    told = service.call("POST", "/v1/events", {"events": both})[1]
    assert told == {"accepted": 1, "repeated": 0, "forgotten": 1}
    assert service.recommended("eve")[0] == "pin"


def test_an_experiment_deals_users_by_hash_and_shows_the_rates_of_both_sides(
    shop: Shop, service: RunningService
) -> None:
    other = publish_personal(
        shop,
        {
            name: [("hat", 1.0, "als"), ("pot", 0.5, "als"), ("pin", 0.4, "als")]
            for name in ("bob", "cid", "dan", "eve")
        },
        run="other",
    )
    back = generations.roll_back(shop.database, PERSONAL_RECS)
    service.rules.write_text(f'[experiment]\nname = "wide"\ngeneration = {other}\nshare = 0.5\n', encoding="utf-8")
    service.refresh()
    dealt = {user: service.get(f"/v1/recommendations/{user}") for user in ("bob", "cid", "dan", "eve")}
    assert {user: service.get(f"/v1/recommendations/{user}")["variant"] for user in dealt} == {
        user: answer["variant"] for user, answer in dealt.items()
    }
    assert {answer["variant"] for answer in dealt.values()} == {"A", "B"}
    for answer in dealt.values():
        assert answer["generation"] == (other if answer["variant"] == "B" else back["to"])
    events = [
        {"user_id": "bob", "item_id": "hat", "kind": kind, "generation": number}
        for number, shown, clicked in ((back["to"], 80, 48), (other, 70, 56))
        for kind, count in (("impression", shown), ("click", clicked))
        for _ in range(count)
    ]
    assert service.call("POST", "/v1/events", {"events": events})[0] == 200
    told = service.get("/v1/experiment")
    assert (told["active"], told["name"], told["share"]) == (True, "wide", 0.5)
    assert [(side["variant"], side["generation"], side["clicks"]) for side in told["variants"]] == [
        ("A", back["to"], 48),
        ("B", other, 56),
    ]
    # Newcombe (1998), table II, example a, method 10.
    assert told["difference"] == pytest.approx({"mean": 0.2, "low": 0.0524, "high": 0.3339}, abs=5e-5)


def test_an_experiment_with_a_generation_that_is_gone_is_off_and_says_so(service: RunningService) -> None:
    service.rules.write_text('[experiment]\nname = "wide"\ngeneration = 999\nshare = 1.0\n', encoding="utf-8")
    service.refresh()
    assert service.get("/v1/recommendations/ann")["variant"] is None
    assert service.get("/v1/experiment")["active"] is False
    rules = next(part for part in service.get("/v1/parts")["parts"] if part["name"] == "rules")
    assert rules == {
        "name": "rules",
        "ok": False,
        "detail": "the experiment wide is off: generation 999 of personal_recs is not kept",
    }
