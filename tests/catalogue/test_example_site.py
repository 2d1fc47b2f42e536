"""The site of the bundled shop, in a process of its own, read by the settings that come with the project."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shortlist.settings import CrawlFieldSettings, PathSettings, load_settings
from steps.catalogue import scrape_catalogue

if TYPE_CHECKING:
    from collections.abc import Iterator

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    command = [sys.executable, "-m", "examples.site", "--port", "0"]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        ready = re.search(r"3900 items on (http://127\.0\.0\.1:\d+/)", process.stdout.readline())
        assert ready
        yield ready[1]
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def ask(url: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as answer:
            return answer.status, dict(answer.headers), answer.read()
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), error.read()


def scrape(url: str, tmp_path: Path, run_key: str, **more: Any) -> tuple[dict[str, Any], pa.Table]:
    settings = load_settings()
    crawl = replace(settings.catalogue.crawl, start_url=url, delay_seconds=0, **more)
    settings = replace(
        settings, catalogue=replace(settings.catalogue, crawl=crawl), paths=PathSettings(jobs=str(tmp_path))
    )
    result = scrape_catalogue(settings=settings, run_key=run_key, as_of="2026-03-01T04:00:00+00:00")
    return result, pq.read_table(result["file"])


def test_the_whole_catalogue_is_read_and_the_second_time_nothing_has_changed(url: str, tmp_path: Path) -> None:
    result, items = scrape(url, tmp_path, "first")

    assert {**result, "file": None} == {
        "items": 3900,
        "new": 3900,
        "pages": 39,
        "unchanged_pages": 0,
        "rejected": {},
        "file": None,
    }
    lantern = next(row for row in items.to_pylist() if row["item_id"] == "85123A")
    assert {**lantern, "scraped_at": None} == {
        "item_id": "85123A",
        "title": "WHITE HANGING HEART T-LIGHT HOLDER",
        "category": "Candles & light",
        "price": 2.95,
        "currency": "GBP",
        "available": True,
        "url": f"{url}items/85123A",
        "scraped_at": None,
    }
    assert Counter(items["available"].to_pylist()) == {True: 3223, False: 677}
    assert len(set(items["category"].to_pylist())) == 12
    assert items["price"].null_count == 0

    again, same = scrape(url, tmp_path, "second")
    assert again == {**result, "new": 0, "unchanged_pages": 39}
    assert same.equals(items)


def test_html_and_json_say_the_same(url: str, tmp_path: Path) -> None:
    _, from_html = scrape(url, tmp_path / "html", "run")
    fields = CrawlFieldSettings(
        item_id="id",
        title="title",
        category="categories",
        price="price.amount",
        currency="price.currency",
        available="in_stock",
        url="url",
    )
    _, from_json = scrape(
        f"{url}api/items",
        tmp_path / "json",
        "run",
        format="json",
        item="items",
        next="next",
        total="total",
        fields=fields,
    )

    assert from_json.equals(from_html)


def test_a_page_that_is_known_is_not_sent_again(url: str) -> None:
    status, headers, body = ask(url)
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert b"WHITE" not in body  # that is on another page
    assert ask(url, **{"If-None-Match": headers["ETag"]})[::2] == (304, b"")
    assert ask(url, **{"If-None-Match": '"old"', "If-Modified-Since": headers["Last-Modified"]})[0] == 200
    assert ask(url, **{"If-Modified-Since": headers["Last-Modified"]})[0] == 304
    assert ask(url, **{"If-Modified-Since": "Thu, 08 Dec 2011 00:00:00 GMT"})[0] == 200
    assert ask(url, **{"If-Modified-Since": "yesterday"})[0] == 200
    assert ask(url)[2] == body


@pytest.mark.parametrize(
    "path",
    ["?page=0", "?page=40", "?page=x", "?page=9999999999", "items/", "items/..%2f..%2fetc%2fpasswd", "basket", "x"],
)
def test_what_is_not_there_is_not_found(url: str, path: str) -> None:
    assert ask(url + path)[0] == 404


def test_robots_txt_and_pages_of_items(url: str) -> None:
    assert b"Disallow: /basket" in ask(f"{url}robots.txt")[2]
    status, _, body = ask(f"{url}items/90214S")
    assert status == 200
    assert b"LETTER &quot;S&quot; BLING KEY RING" in body
