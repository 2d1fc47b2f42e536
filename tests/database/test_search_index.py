"""Indexing the catalogue with the official client, on a real PostgreSQL and a stand-in for Elasticsearch.

The real Elasticsearch is in no package registry: see `tests/elasticsearch_server.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from elasticsearch import Elasticsearch

from shortlist.errors import NothingToDoError, SearchIndexError
from shortlist.stores import search_index
from steps.catalogue_tables import index_items, upsert_items
from tests.catalogue_files import item, write_crawl
from tests.database.test_catalogue_table import GENERATION, HAT, MUG, NEW, settings
from tests.elasticsearch_server import ElasticsearchServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.shop import Shop


@pytest.fixture
def elastic(monkeypatch: pytest.MonkeyPatch) -> Iterator[ElasticsearchServer]:
    with ElasticsearchServer() as server:
        monkeypatch.setenv("ELASTICSEARCH_URL", server.url)
        yield server


def index(shop: Shop, *items: dict[str, Any], day: int = 0) -> dict[str, Any]:
    write_crawl(shop.folder / "jobs" / "catalogue", *items, day=day)
    return index_items(settings=settings(shop.folder))


def found(elastic: ElasticsearchServer, text: str) -> list[str]:
    with Elasticsearch(elastic.url) as client:
        answer = client.search(
            index=search_index.ALIAS, query=search_index.query(text), sort=list(search_index.SORT), size=10
        )
    return [hit["_source"]["item_id"] for hit in answer["hits"]["hits"]]


def test_everything_the_view_shows_can_be_searched_before_or_after_the_upsert(
    shop: Shop, elastic: ElasticsearchServer
) -> None:
    shop.reference(items=GENERATION)
    result = index(shop, MUG, HAT, NEW)
    assert (result["items"], result["replaced"]) == (4, [])
    documents = elastic.indices[result["index"]].searchable
    assert documents["mug"] == {
        "item_id": "mug",
        "title": "White mug, large",
        "category": "kitchen|gift",
        "price": 2.95,
        "currency": "GBP",
        "available": True,
        "url": "http://shop/mug",
    }
    assert {name: one["available"] for name, one in documents.items()} == {
        "mug": True,
        "hat": False,
        "new": True,
        "old": False,
    }
    upsert_items(settings=settings(shop.folder))
    assert elastic.indices[index(shop, MUG, HAT, NEW)["index"]].searchable == documents


def test_a_new_index_takes_the_place_of_the_old_one_and_leftovers_go(shop: Shop, elastic: ElasticsearchServer) -> None:
    first = index(shop, MUG)["index"]
    with Elasticsearch(elastic.url) as client:
        client.indices.create(index="shortlist-items-20200101t000000000000")  # of a task that was killed
        client.indices.create(index="somebody-elses")
    second = index(shop, MUG, NEW, day=1)
    assert second["replaced"] == ["shortlist-items-20200101t000000000000", first]
    assert elastic.aliases == {"shortlist-items": {second["index"]}}
    assert set(elastic.indices) == {second["index"], "somebody-elses"}
    # Searches go from one to the other in one step.
    assert elastic.alias_changes == [{"shortlist-items": {first}}, {"shortlist-items": {second["index"]}}]


def test_an_item_is_found_by_its_id_the_beginning_of_one_or_words_of_its_title(
    shop: Shop, elastic: ElasticsearchServer
) -> None:
    index(
        shop,
        item("TEA-1", "Cup with handle"),
        item("tea", "Green leaves"),
        item("x1", "Tea cup, white"),
        item("x2", "White tea cup with saucer", available=False),
        item("x3", "Crème brûlée dish"),
    )
    assert found(elastic, "tea") == ["tea", "TEA-1", "x1", "x2"]
    assert found(elastic, "tea c") == ["x1", "x2"]
    assert found(elastic, "cup white") == ["x1", "x2"]
    assert found(elastic, "saucre") == ["x2"]  # two edits away
    assert found(elastic, "creme") == ["x3"]
    assert found(elastic, "nothing") == []
    assert found(elastic, ":*&!\"'") == []


def test_with_an_empty_url_there_is_nothing_to_do(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELASTICSEARCH_URL", " ")
    with pytest.raises(NothingToDoError, match="the profile search is off"):
        index(shop, MUG)


def test_lost_documents_are_noticed_and_what_was_searched_stays(shop: Shop, elastic: ElasticsearchServer) -> None:
    first = index(shop, MUG)["index"]
    elastic.lossy = 1
    with pytest.raises(SearchIndexError, match=r"has 1 items of 2: what was searched stays"):
        index(shop, MUG, NEW)
    assert elastic.aliases == {"shortlist-items": {first}}
    assert set(elastic.indices) == {first}


def test_an_id_that_is_longer_than_those_of_documents_is_found(shop: Shop, elastic: ElasticsearchServer) -> None:
    index(shop, item("x" * 1200), item("x" * 600))
    assert found(elastic, "x" * 1200) == ["x" * 1200]


def test_documents_that_are_refused_are_told_and_what_was_searched_stays(
    shop: Shop, elastic: ElasticsearchServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = index(shop, MUG)["index"]
    properties: Any = search_index._MAPPINGS["properties"]
    monkeypatch.setitem(properties, "price", {"type": "keyword"})
    with pytest.raises(SearchIndexError, match=r"refused 1 items, for example .*failed to parse field .price."):
        index(shop, MUG, NEW)
    assert elastic.aliases == {"shortlist-items": {first}}
    assert set(elastic.indices) == {first}


@pytest.mark.parametrize("how", ["away", "broken", "wrong password", "no url"])
def test_trouble_is_told_without_the_password(
    shop: Shop, elastic: ElasticsearchServer, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    if how == "away":
        monkeypatch.setenv("ELASTICSEARCH_URL", "http://elastic:p%40ss%2Fword@127.0.0.1:1")
    elif how == "broken":
        elastic.broken = 503
    elif how == "wrong password":
        monkeypatch.setenv("ELASTICSEARCH_URL", f"http://elastic:other-secret@{elastic.place}")
    else:
        monkeypatch.setenv("ELASTICSEARCH_URL", "elastic:p%40ss%2Fword@somewhere")
    monkeypatch.setattr(search_index, "_RETRIES", 0)
    with pytest.raises(SearchIndexError) as told:
        index(shop, MUG)
    assert told.value.__cause__ is None
    for secret in ("p@ss", "p%40ss", "other-secret"):
        assert secret not in str(told.value)
