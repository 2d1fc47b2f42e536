"""What the texts of a page become: prices, availability, addresses, categories."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from shortlist.crawl.items import Item, judge, parse_price
from shortlist.crawl.pages import Page
from shortlist.settings import CrawlSettings, InteractionSettings

CRAWL = CrawlSettings(start_url="https://shop.test/", currency="GBP")


def judged(crawl: CrawlSettings = CRAWL, **texts: list[str]) -> Item | str:
    """The one item of a page, or the reason to reject it."""
    page = Page(
        url="https://shop.test/", base="https://shop.test/all/", items=[{"item_id": ["1"], "title": ["Cup"], **texts}]
    )
    items, rejected = judge([page], crawl=crawl, interactions=InteractionSettings())
    return items[0] if items else rejected[0].reason


@pytest.mark.parametrize(
    ("text", "price"),
    [
        ("2.55", (2.55, None)),
        ("£2.55", (2.55, "GBP")),
        ("$ 1,234,567.80", (1234567.8, "USD")),
        ("EUR 3", (3.0, "EUR")),
        ("3 CHF", (3.0, "CHF")),
        ("1 234.50", (1234.5, None)),
        ("1\u00a0234", (1234.0, None)),
        ("1'234.50", (1234.5, None)),
        ("Now: £0", (0.0, "GBP")),
        ("1,23", None),
        ("12,34.50", None),
        ("1.2.3", None),
        ("-3.00", None),
        ("3-5", None),
        ("was £5.00, now £3.00", None),
        ("1e3", None),
        ("NaN", None),
        ("inf", None),
        ("٣", None),
        ("", None),
        ("free", None),
        ("9" * 400, None),
        ("1000000000.01", None),
    ],
)
def test_prices(text: str, price: tuple[float, str | None] | None) -> None:
    assert parse_price(text) == price


@pytest.mark.parametrize(
    ("text", "price"),
    [
        ("1.234,50 €", (1234.5, "EUR")),
        ("2,5", (2.5, None)),
        ("1.234", (1234.0, None)),
        ("2.50", None),
        ("1,234.50", None),
    ],
)
def test_prices_with_a_decimal_comma(text: str, price: tuple[float, str | None] | None) -> None:
    assert parse_price(text, decimal_comma=True) == price


@pytest.mark.parametrize(
    ("text", "available"),
    [
        ("In stock", True),
        (" in\n stock (3 left)", True),
        ("true", True),
        ("https://schema.org/InStock", True),
        ("Out of stock", False),
        ("https://schema.org/OutOfStock", False),
        ("SOLD OUT", False),
        ("Unavailable", False),
        ("0", False),
        ("trueish", "bad_available"),
        ("instock.php", True),
        ("we hope so", "bad_available"),
    ],
)
def test_availability(text: str, available: bool | str) -> None:
    item = judged(available=[text])

    assert (item.available if isinstance(item, Item) else item) == available


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("/cups/1", "https://shop.test/cups/1"),
        ("1?a=b c", "https://shop.test/all/1?a=b%20c"),
        ("//cdn.test/1", "https://cdn.test/1"),
        ("javascript:alert(1)", "bad_url"),
        ("data:text/html,x", "bad_url"),
        ("file:///etc/passwd", "bad_url"),
        ("http://[", "bad_url"),
        ("/" + "x" * 2000, "bad_url"),
        ("../../../../etc/passwd", "https://shop.test/etc/passwd"),
    ],
)
def test_addresses(text: str, url: str) -> None:
    item = judged(url=[text])

    assert (item.url if isinstance(item, Item) else item) == url


def test_the_first_text_counts_and_categories_are_joined() -> None:
    item = judged(price=[" ", "£1.00", "£2.00"], category=["Cups | mugs", "", "Tea\u200b", "Tea"])

    assert isinstance(item, Item)
    assert item.price == 1.0
    assert item.category == "Cups / mugs|Tea"


@pytest.mark.parametrize(
    ("more", "texts", "outcome"),
    [
        ({}, {"price": ["3"]}, "GBP"),
        ({}, {"price": ["3 $"]}, "USD"),
        ({}, {"price": ["3 $"], "currency": ["aud"]}, "AUD"),
        ({}, {"price": ["3"], "currency": ["pounds"]}, "bad_currency"),
        ({"currency": None}, {"price": ["3"]}, "missing_currency"),
        ({"currency": None, "optional": ("currency",)}, {"price": ["3"]}, None),
        ({}, {"price": ["0"]}, "GBP"),
        ({}, {"price": [""]}, "missing_price"),
        ({"optional": ("price",)}, {"price": []}, None),
        ({"optional": ()}, {"category": []}, "missing_category"),
        ({"optional": ()}, {"url": []}, "missing_url"),
        ({}, {"title": ["x" * 1001]}, "title_too_long"),
        ({}, {"category": ["caf\ufffd"]}, "bad_encoding"),
        ({}, {"item_id": ["caf\ufffd"]}, "bad_encoding"),
    ],
)
def test_what_may_lack_and_what_not(more: dict[str, Any], texts: dict[str, list[str]], outcome: str | None) -> None:
    item = judged(replace(CRAWL, **more), **texts)

    assert (item.currency if isinstance(item, Item) else item) == outcome
