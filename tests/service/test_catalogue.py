"""The service with a catalogue over what is served, and with Elasticsearch: a stand-in, see its module."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from shortlist.errors import ServiceError
from shortlist.settings import PathSettings, Settings
from shortlist.stores import generations
from shortlist.stores.datasets import ITEMS
from steps.catalogue_tables import index_items, refresh_service, upsert_items
from tests.catalogue_files import item, write_crawl
from tests.elasticsearch_server import ElasticsearchServer
from tests.running_service import KEY, RunningService, wait_until
from tests.shop_for_service import SETTINGS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.shop import Shop

POT = item("pot", "Tea pot of glass", category="glass", price=9.5, currency="GBP")
NEW = item("new", "New vase", category="glass")


@pytest.fixture
def elastic(monkeypatch: pytest.MonkeyPatch) -> Iterator[ElasticsearchServer]:
    with ElasticsearchServer() as server:
        monkeypatch.setenv("ELASTICSEARCH_URL", server.url)
        yield server


@pytest.fixture
def searching(shop: Shop, elastic: ElasticsearchServer) -> Iterator[RunningService]:
    """A service with an index of everything that is served, and nothing more."""
    crawl(shop, POT, NEW)
    index_items(settings=settings(shop))
    with RunningService(
        shop.folder, database_url=shop.database.url, settings=SETTINGS, ELASTICSEARCH_URL=elastic.url
    ) as running:
        wait_until(lambda: "8 items" in part(running)[1])
        yield running


def settings(shop: Shop) -> Settings:
    return Settings(paths=PathSettings(root=str(shop.folder), jobs=str(shop.folder / "jobs")))


def crawl(shop: Shop, *items: dict[str, Any], day: int = 0) -> None:
    write_crawl(shop.folder / "jobs" / "catalogue", *items, day=day)
    upsert_items(settings=settings(shop))


def part(service: RunningService) -> tuple[bool, str]:
    parts = {row["name"]: (row["ok"], row["detail"]) for row in service.get("/v1/parts")["parts"]}
    return parts["elasticsearch"]


def found(service: RunningService, query: str) -> list[str]:
    return [one["item_id"] for one in service.get(f"/v1/items?q={query}")["items"]]


def fallbacks(service: RunningService) -> float:
    _, body = service.raw("/metrics")
    (line,) = [one for one in body.decode().splitlines() if one.startswith("shortlist_search_fallbacks_total")]
    return float(line.rpartition(" ")[2])


def test_a_new_version_of_the_catalogue_is_noticed_without_being_told(shop: Shop, service: RunningService) -> None:
    assert service.recommended("ann")[:2] == ["pot", "tea"]
    crawl(shop, POT, NEW)

    def title() -> str:
        return str(service.get("/v1/recommendations/ann")["items"][0]["title"])

    wait_until(lambda: title() == "Tea pot of glass")
    assert service.get("/v1/recommendations/ann")["items"][0]["category"] == "glass"


def test_what_the_catalogue_says_is_gone_is_left_out_of_every_list_at_once(shop: Shop, service: RunningService) -> None:
    crawl(shop, POT, item("tea", available=True))
    service.refresh()
    assert service.recommended("ann") == ["pot", "tea", "bag"]
    crawl(shop, item("tea", available=True), day=1)  # the pot is gone
    service.refresh()
    lists = [service.recommended("ann"), service.recommended("bob"), service.recommended("nobody")]
    assert lists == [["tea", "bag", "pin"], ["mug", "hat", "bag"], ["mug", "tea", "hat"]]
    assert "pot" not in [one["item_id"] for one in service.get("/v1/items/tea/similar?k=2")["items"]]
    # Asked for, it is shown; and the lists that are stored, and audited, still have it.
    assert "pot" in service.recommended("ann", "?available_only=false")
    assert shop.read("SELECT count(*) FROM personal_recs WHERE item_id = 'pot'") == [(2,)]


def test_what_only_the_catalogue_has_is_found_and_named_but_fills_no_list(shop: Shop, service: RunningService) -> None:
    crawl(shop, NEW)
    service.refresh()
    assert found(service, "vase") == ["new"]
    every = service.get("/v1/recommendations/nobody?k=20")
    assert "new" not in [one["item_id"] for one in every["items"]]
    assert every["complete"] is False
    service.rules.write_text('pin = ["new"]', encoding="utf-8")
    service.refresh()
    first = service.get("/v1/popular?k=2")["items"][0]
    assert (first["item_id"], first["title"], first["source"]) == ("new", "New vase", "pinned")


def test_what_is_available_again_in_the_catalogue_comes_back(shop: Shop, service: RunningService) -> None:
    crawl(shop, item("old", available=True))
    service.refresh()
    assert "old" in service.recommended("nobody", "?k=20")


def test_a_roll_back_of_items_keeps_the_catalogue(shop: Shop, service: RunningService) -> None:
    crawl(shop, POT)
    shop.with_settings(k=3, default_recs=4).publish(
        "items", "item_id,title,category,available\nmug,Other mug,kitchen,true\npot,Pot,kitchen,true", run="next"
    )
    service.refresh()
    assert service.get("/v1/items?q=mug")["items"][0]["title"] == "Other mug"
    generations.roll_back(shop.database, ITEMS)
    service.refresh()
    titles = {one["item_id"]: one["title"] for one in service.get("/v1/popular?k=3")["items"]}
    assert titles == {"mug": "White mug", "tea": "Green tea", "pot": "Tea pot of glass"}


def test_the_step_tells_the_service_which_answers_with_the_version(
    shop: Shop, service: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVICE_URL_INTERNAL", service.url)
    monkeypatch.setenv("SERVICE_API_KEY", KEY)
    crawl(shop, POT)
    told = refresh_service(settings=settings(shop))
    assert (told["catalogue"], told["rules"], told["served"]["items"]) == (1, "in use", 1)
    monkeypatch.setenv("SERVICE_API_KEY", "another-key-of-the-tests")
    with pytest.raises(ServiceError, match="answers 401: ") as refused:
        refresh_service(settings=settings(shop))
    assert "another-key" not in str(refused.value)
    monkeypatch.setenv("SERVICE_URL_INTERNAL", "http://user:secret@127.0.0.1:1")
    with pytest.raises(ServiceError, match="127.0.0.1:1 does not answer .ConnectionError.") as away:
        refresh_service(settings=settings(shop))
    assert "secret" not in str(away.value)
    monkeypatch.setenv("SERVICE_API_KEY", "")
    with pytest.raises(ServiceError, match="SERVICE_API_KEY is not set"):
        refresh_service(settings=settings(shop))


def test_without_elasticsearch_postgresql_finds_items(service: RunningService) -> None:
    assert part(service) == (True, "not configured: PostgreSQL finds items")
    assert found(service, "tea") == ["tea", "pot"]
    assert fallbacks(service) == 0


def test_elasticsearch_finds_items_as_they_are_served_now(
    shop: Shop, searching: RunningService, elastic: ElasticsearchServer
) -> None:
    assert part(searching) == (True, f"answers at {elastic.place}, 8 items")
    assert found(searching, "glss") == ["pot"]  # PostgreSQL knows no near words
    crawl(shop, {**POT, "title": "Jug", "available": False}, NEW, day=1)
    searching.refresh()
    assert searching.get("/v1/items?q=glss")["items"] == [
        {"item_id": "pot", "title": "Jug", "category": "glass", "available": False}
    ]
    assert fallbacks(searching) == 0


def test_what_the_index_does_not_know_yet_postgresql_finds(shop: Shop, searching: RunningService) -> None:
    crawl(shop, POT, NEW, item("later", "Umbrella"), day=1)
    assert found(searching, "umbrella") == ["later"]
    assert found(searching, "no-such-thing") == []
    assert fallbacks(searching) == 0


@pytest.mark.parametrize("how", ["stopped", "broken", "late"])
def test_while_elasticsearch_is_away_postgresql_finds_items_and_it_is_noticed_when_it_is_back(
    searching: RunningService, elastic: ElasticsearchServer, how: str
) -> None:
    if how == "stopped":
        elastic.stop()
    elif how == "broken":
        elastic.broken = 503
    else:
        elastic.delay = 3.0
    for count in range(1, 5):
        assert found(searching, "tea") == ["tea", "pot"]
        assert fallbacks(searching) == count
    ok, detail = part(searching)
    assert not ok
    assert detail.startswith(f"Elasticsearch at {elastic.place} does not answer (")
    assert detail.endswith("): PostgreSQL finds items")
    _, metrics = searching.raw("/metrics")
    assert b'shortlist_part_away{part="Elasticsearch"} 1.0' in metrics
    assert searching.call("GET", "/health/ready")[0] == 200
    if how == "stopped":
        elastic.start()
    elastic.broken, elastic.delay = 0, 0.0
    wait_until(lambda: part(searching)[0])
    assert found(searching, "glss") == ["pot"]
    log = searching.log.read_text(encoding="utf-8")
    assert "p@ss" not in log
    assert "p%40ss" not in log
    assert "PostgreSQL finds items until it is back" in log


def test_an_elasticsearch_without_an_index_is_told_and_used_as_soon_as_there_is_one(
    shop: Shop, elastic: ElasticsearchServer
) -> None:
    with RunningService(
        shop.folder, database_url=shop.database.url, settings=SETTINGS, ELASTICSEARCH_URL=elastic.url
    ) as service:
        wait_until(lambda: "has no index of items yet" in part(service)[1])
        assert found(service, "tea") == ["tea", "pot"]
        crawl(shop, POT)
        index_items(settings=settings(shop))
        wait_until(lambda: part(service)[0])
        assert found(service, "glss") == ["pot"]


def test_an_address_that_is_none_stops_nothing_and_is_not_shown(shop: Shop) -> None:
    with RunningService(
        shop.folder, database_url=shop.database.url, settings=SETTINGS, ELASTICSEARCH_URL="elastic:secret@somewhere"
    ) as service:
        wait_until(lambda: "is no URL such as" in part(service)[1])
        assert found(service, "tea") == ["tea", "pot"]
        assert "secret" not in service.log.read_text(encoding="utf-8") + part(service)[1]


def test_the_key_follows_no_redirect(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Elsewhere(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.path)
            self.send_response(307)
            self.send_header("Location", "/stolen")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Silence."""

    server = HTTPServer(("127.0.0.1", 0), Elsewhere)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        monkeypatch.setenv("SERVICE_URL_INTERNAL", f"http://127.0.0.1:{server.server_port}/")
        monkeypatch.setenv("SERVICE_API_KEY", KEY)
        with pytest.raises(ServiceError, match="answers 307: no reason given"):
            refresh_service(settings=settings(shop))
    finally:
        server.shutdown()
        server.server_close()
    assert asked == ["/v1/admin/refresh"]
