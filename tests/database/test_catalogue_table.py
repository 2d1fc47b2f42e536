"""The catalogue over the served items, on a real PostgreSQL: what changes, what stays, what readers see."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, Any

import psycopg2
import pytest

from shortlist.errors import InputError, NothingToDoError, PublishError
from shortlist.settings import PathSettings, Settings
from shortlist.stores import catalogue_table
from shortlist.stores.database import ensure_schema
from shortlist.stores.datasets import ITEMS, SCHEMA_DDL, SCHEMA_VERSION
from steps.catalogue_tables import upsert_items
from tests.catalogue_files import item, write_crawl

if TYPE_CHECKING:
    from pathlib import Path

    from shortlist.stores.database import Database
    from tests.shop import Shop

GENERATION = """
    item_id,title,category,available
    mug,White mug,kitchen,true
    hat,Red hat,clothes,true
    old,Old lamp,kitchen,false
"""
MUG = item("mug", "White mug, large", category="kitchen|gift", price=2.95, currency="GBP", url="http://shop/mug")
HAT = item("hat", None, price=12.5, currency="GBP", available=False)
NEW = item("new", "New vase", category="garden", available=True)


def upsert(shop: Shop, *items: dict[str, Any], day: int = 0) -> dict[str, Any]:
    write_crawl(shop.folder / "jobs" / "catalogue", *items, day=day)
    return upsert_items(settings=settings(shop.folder))


def settings(folder: Path) -> Settings:
    return Settings(paths=PathSettings(root=str(folder), jobs=str(folder / "jobs")))


def view(shop: Shop) -> list[tuple[Any, ...]]:
    return shop.read("SELECT * FROM items ORDER BY item_id")


def test_the_view_shows_the_catalogue_over_the_served_generation_and_what_only_it_knows(shop: Shop) -> None:
    shop.reference(items=GENERATION)
    result = upsert(shop, MUG, HAT, NEW)
    assert {name: result[name] for name in ("items", "new", "changed", "gone", "version")} == {
        "items": 3,
        "new": 3,
        "changed": 0,
        "gone": 0,
        "version": 1,
    }
    assert view(shop) == [
        ("hat", "Red hat", {"category": "clothes", "price": 12.5, "currency": "GBP"}, False),
        (
            "mug",
            "White mug, large",
            {"category": "kitchen|gift", "price": 2.95, "currency": "GBP", "url": "http://shop/mug"},
            True,
        ),
        ("new", "New vase", {"category": "garden"}, True),
        ("old", "Old lamp", {"category": "kitchen"}, False),
    ]
    assert shop.read("SELECT item_id, title, available FROM internal.items ORDER BY 1") == [
        ("hat", "Red hat", True),
        ("mug", "White mug", True),
        ("old", "Old lamp", False),
    ]


def test_what_is_not_in_a_later_crawl_becomes_unavailable_and_comes_back(shop: Shop) -> None:
    upsert(shop, MUG, NEW)
    counts = upsert(shop, MUG, day=1)
    assert (counts["gone"], counts["changed"], counts["new"], counts["version"]) == (1, 0, 0, 2)
    assert [(row[0], row[1], row[3]) for row in view(shop)] == [
        ("mug", "White mug, large", True),
        ("new", "New vase", False),
    ]
    assert upsert(shop, MUG, day=2)["version"] == 2  # gone only once
    counts = upsert(shop, MUG, NEW, day=3)
    assert (counts["gone"], counts["changed"], counts["new"], counts["version"]) == (0, 1, 0, 3)
    assert view(shop)[1][3] is True


def test_a_crawl_without_news_changes_no_version_and_no_row_but_the_time_it_was_seen(shop: Shop) -> None:
    upsert(shop, MUG, HAT)
    rows = "SELECT item_id, updated_at, scraped_at::date::text FROM service.catalogue_items ORDER BY 1"
    before = shop.read(rows)
    again = upsert(shop, HAT, MUG, day=1)
    assert again["version"] == 1
    assert again["summary"] == "nothing changed: 2 items as in version 1 of the catalogue"
    assert shop.read(rows) == [(one, updated, "2026-11-23") for one, updated, _ in before]
    marks = shop.read("SELECT xmin::text FROM service.catalogue_items ORDER BY item_id")
    upsert(shop, HAT, MUG, day=1)
    assert shop.read("SELECT xmin::text FROM service.catalogue_items ORDER BY item_id") == marks
    upsert(shop, {**HAT, "price": 13.0}, MUG, day=1)
    now = shop.read(rows)
    assert now[0][1] > before[0][1]
    assert now[1] == (*before[1][:2], "2026-11-23")


def test_a_generation_published_rolled_back_and_audited_later_knows_nothing_of_the_catalogue(shop: Shop) -> None:
    shop.reference(items=GENERATION)
    upsert(shop, MUG, HAT)
    # The hat is gone from the shop: a list made before that is still a good list.
    shop.publish("default_recs", "rank,item_id,score\n1,mug,2\n2,hat,1")
    # What only the catalogue knows is no item that lists may hold.
    upsert(shop, MUG, HAT, NEW)
    shop.write("default_recs", "rank,item_id,score\n1,mug,2\n2,new,1")
    with pytest.raises(Exception, match="known_items"):
        shop.audit(shop.load("default_recs", run="later"))
    assert [row[0] for row in shop.read("SELECT item_id FROM default_recs ORDER BY rank")] == ["mug", "hat"]


def test_without_a_served_generation_the_view_shows_the_catalogue_alone(shop: Shop) -> None:
    upsert(shop, MUG)
    assert [(row[0], row[3]) for row in view(shop)] == [("mug", True)]


def test_what_will_be_seen_after_the_upsert_is_known_before_it(shop: Shop) -> None:
    shop.reference(items=GENERATION)
    upsert(shop, MUG, NEW)
    folder = shop.folder / "jobs" / "catalogue"
    write_crawl(folder, {**MUG, "price": 3.5}, HAT, day=1)
    items = catalogue_table.read_items(str(folder))

    def all_items() -> list[dict[str, Any]]:
        return sorted(catalogue_table.read_all_items(shop.database, items), key=lambda one: one["item_id"])

    before = all_items()
    assert before[:2] == [
        {
            "item_id": "hat",
            "title": "Red hat",
            "category": "clothes",
            "price": 12.5,
            "currency": "GBP",
            "available": False,
        },
        {**{k: v for k, v in MUG.items() if v is not None}, "price": 3.5},
    ]
    upsert_items(settings=settings(shop.folder))
    assert all_items() == before
    assert before == [
        {"item_id": row[0], "available": row[3], **row[2], **({"title": row[1]} if row[1] else {})}
        for row in view(shop)
    ]


@pytest.mark.parametrize(
    ("items", "problem"),
    [
        ([], "has no items"),
        ([item(None, "Nameless")], "1 without an id .for example 'Nameless'."),
        ([item("a"), item(" a "), item("b")], "1 with an id that is there twice .for example 'a'."),
        ([item("x" * 1201)], "1 with an id of more than 1200 bytes"),
        ([item("a", "nul\0")], "1 with a character 0 .for example 'a'."),
        ([item("a", price=float("nan"))], "1 with a price that is none"),
        ([item("a", price=-1.0)], "1 with a price that is none"),
    ],
)
def test_a_file_that_is_no_catalogue_is_refused_and_what_is_known_stays(
    shop: Shop, items: list[dict[str, Any]], problem: str
) -> None:
    upsert(shop, MUG)
    with pytest.raises(InputError, match=problem):
        upsert(shop, *items)
    assert [row[0] for row in view(shop)] == ["mug"]


def test_texts_of_nothing_but_blanks_are_not_known(shop: Shop) -> None:
    upsert(shop, item(" a ", "  ", category="", url="\u00a0", price=0.0))
    assert view(shop) == [("a", None, {"price": 0.0}, True)]


def test_quotes_line_breaks_and_letters_of_every_kind_arrive_as_they_are(shop: Shop) -> None:
    title = 'A "quoted", \\N title\nof two lines, ünïcødé 日本 🫖; \\.'
    upsert(shop, item("\\.", title))
    assert view(shop) == [("\\.", title, {}, True)]


def test_before_the_first_crawl_there_is_nothing_to_do(shop: Shop) -> None:
    with pytest.raises(NothingToDoError, match="items.parquet yet: the task scraping_task writes it"):
        upsert_items(settings=settings(shop.folder))


def test_a_broken_file_is_told(shop: Shop) -> None:
    folder = shop.folder / "jobs" / "catalogue"
    folder.mkdir(parents=True)
    (folder / "items.parquet").write_bytes(b"PAR1 half of it")
    with pytest.raises(InputError, match="cannot be read"):
        upsert_items(settings=settings(shop.folder))


def test_two_upserts_at_once_count_everything_once(shop: Shop) -> None:
    many = [item(f"i{number}", price=float(number)) for number in range(2_000)]
    write_crawl(shop.folder / "jobs" / "catalogue", *many)
    ensure_schema(shop.database)
    results: list[dict[str, Any]] = []
    threads = [
        threading.Thread(target=lambda: results.append(upsert_items(settings=settings(shop.folder)))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(one["new"] for one in results) == [0, 0, 2_000]
    assert {one["version"] for one in results} == {1}


def _as_the_version_before(database: Database) -> None:
    """The tables of an installation that has no catalogue."""
    with database.cursor() as cursor:
        cursor.execute("DROP SCHEMA internal CASCADE; DROP SCHEMA service CASCADE")
        for statement in SCHEMA_DDL:
            cursor.execute(statement)
        cursor.execute("CREATE TABLE internal.schema_version AS SELECT %s::text AS version", [SCHEMA_VERSION])


def test_an_old_installation_gets_the_view_and_loses_nothing(shop: Shop) -> None:
    _as_the_version_before(shop.database)
    with shop.database.cursor() as cursor:
        cursor.execute("SELECT to_regnamespace('service') IS NULL")
        assert cursor.fetchone() == (True,)
    shop.reference(items=GENERATION)  # a weekly load of the new version
    assert [row[0] for row in view(shop)] == ["hat", "mug", "old"]
    upsert(shop, NEW)
    assert [row[0] for row in view(shop)] == ["hat", "mug", "new", "old"]


def test_the_version_of_tables_is_that_of_installations_before_the_catalogue() -> None:
    """A change of it would make people load everything anew."""
    assert SCHEMA_VERSION == "9b013e5682c79744"


def test_a_load_does_not_wait_for_who_reads_the_view_and_it_is_made_anew_later(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    _as_the_version_before(shop.database)
    reader = psycopg2.connect(shop.database.url)
    try:
        with reader.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM public.items")
            ensure_schema(shop.database)
            assert "the view items goes on without the catalogue" in caplog.text
            reader.rollback()
    finally:
        reader.close()
    upsert(shop, NEW)
    assert [row[0] for row in view(shop)] == ["new"]


def test_one_item_of_many_is_found_through_the_view_by_its_keys(shop: Shop) -> None:
    rows = "\n".join(f"i{number},T{number},c,true" for number in range(5_000))
    shop.reference(items=f"item_id,title,category,available\n{rows}")
    upsert(shop, *(item(f"i{number}", "x") for number in range(2_500, 7_500)))
    with shop.database.cursor() as cursor:
        cursor.execute("ANALYZE; EXPLAIN SELECT * FROM items WHERE item_id = 'i3000'")
        plan = "\n".join(line for (line,) in cursor.fetchall())
    assert "Seq Scan on items_" not in plan
    assert "Seq Scan on catalogue_items" not in plan


def test_container_jobs_work_without_the_driver_that_only_loads_need(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("adbc_driver_manager", "adbc_driver_manager.dbapi", "adbc_driver_postgresql"):
        monkeypatch.setitem(sys.modules, name, None)
    upsert(shop, MUG)
    with pytest.raises(PublishError), shop.database.cursor() as cursor:
        cursor.execute("SELECT FROM nowhere")


def test_audits_name_no_table_of_the_catalogue() -> None:
    """`ITEMS.view` is what generations are read by."""
    assert "catalogue" not in ITEMS.select("1")
