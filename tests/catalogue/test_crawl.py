"""Reading a catalogue over real HTTP, from a site that misbehaves."""

from __future__ import annotations

import gzip
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pyarrow.parquet as pq
import pytest

from shortlist.crawl import process, results
from shortlist.errors import CrawlError, NothingToDoError, SettingsError
from shortlist.settings import CrawlFieldSettings, InteractionSettings
from steps import catalogue
from steps.catalogue import scrape_catalogue
from tests.catalogue.misbehaving_site import Answer, MisbehavingSite, html, line
from tests.running_service import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from shortlist.settings import Settings

    SettingsFor = Callable[..., Settings]

PROJECT = Path(__file__).resolve().parents[2]
AS_OF = "2026-03-01T04:00:00+00:00"


def scrape(settings: Settings, run_key: str = "run") -> dict[str, Any]:
    return scrape_catalogue(settings=settings, run_key=run_key, as_of=AS_OF)


def failure(settings: Settings, run_key: str = "run") -> str:
    with pytest.raises(CrawlError) as error:
        scrape(settings, run_key)
    return str(error.value)


def rows(result: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(result["file"]).to_pylist()
    return found


def titles(result: dict[str, Any]) -> dict[str, str]:
    return {row["item_id"]: row["title"] for row in rows(result)}


def quarantine(settings: Settings) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(f"{settings.paths.catalogue}/rejected.parquet").to_pylist()
    return found


def test_every_item_of_every_page_is_read(site: MisbehavingSite, settings_for: SettingsFor) -> None:
    site.offer(5)
    site.pages["/?page=3"] = html([line(4, category=None, price="€ 1,234.50", stock="Sold out")])

    result = scrape(settings_for(site.url, currency="GBP"))

    assert result == {
        "items": 5,
        "new": 5,
        "pages": 3,
        "unchanged_pages": 0,
        "rejected": {},
        "file": result["file"],
    }
    assert rows(result)[3:] == [
        {
            "item_id": "10003",
            "title": "Cup no. 3",
            "category": "Kitchen",
            "price": 4.5,
            "currency": "GBP",
            "available": True,
            "url": None,
            "scraped_at": datetime(2026, 3, 1, 4, tzinfo=UTC),
        },
        {
            "item_id": "10004",
            "title": "Cup no. 4",
            "category": None,
            "price": 1234.5,
            "currency": "EUR",
            "available": False,
            "url": None,
            "scraped_at": datetime(2026, 3, 1, 4, tzinfo=UTC),
        },
    ]
    assert site.paths() == ["/", "/?page=2", "/?page=3"]
    assert sorted(path.name for path in Path(result["file"]).parent.iterdir()) == [
        ".lock",
        "items.parquet",
        "pages",
        "rejected.parquet",
    ]


def test_pages_that_all_link_to_each_other_are_read_once_each(site: MisbehavingSite, settings_for: SettingsFor) -> None:
    links = "".join(f'<a class="page" href="/?page={page}#top">{page}</a>' for page in range(1, 9))
    for page in range(1, 9):
        listed = html([line(page), line(0, title=f"The cup on page {page}")])
        # As browsers do, it sees what comes after the end.
        site.pages[f"/?page={page}"] = replace(listed, body=listed.body + links.encode())

    settings = settings_for(f"{site.url}?page=1", next="a.page::attr(href)", concurrent=4)
    result = scrape(settings)

    assert sorted(site.paths()) == [f"/?page={page}" for page in range(1, 9)]
    # Whichever page came first, the first one in the site's own order counts.
    assert titles(result) == {"10000": "The cup on page 1"} | {
        f"{10000 + page}": f"Cup no. {page}" for page in range(1, 9)
    }
    assert result["rejected"] == {"duplicate": 7}


def test_json_is_read_by_jmespath(site: MisbehavingSite, settings_for: SettingsFor) -> None:
    fields = CrawlFieldSettings(
        item_id="id", title="name", category="groups[].name", price="cost.amount", available="there", url="link"
    )
    first = {
        "goods": [{"id": 71053, "name": "Cup", "groups": [{"name": "a"}, {"name": "b|c"}], "cost": {"amount": 2.55}}],
        "more": "api?p=2",
    }
    second = {"goods": [{"id": "0071", "name": "Pot", "cost": {"amount": "3"}, "there": False, "link": "/pot"}]}
    site.pages = {
        "/api": Answer(json.dumps(first).encode(), kind="application/json"),
        "/api?p=2": Answer(json.dumps(second).encode(), kind="application/json"),
    }

    result = scrape(
        settings_for(
            f"{site.url}api",
            format="json",
            item="goods",
            next="more",
            fields=fields,
            currency="USD",
            optional=("category", "available", "url"),
        )
    )

    assert [{**row, "scraped_at": None} for row in rows(result)] == [
        {
            "item_id": "0071",
            "title": "Pot",
            "category": None,
            "price": 3.0,
            "currency": "USD",
            "available": False,
            "url": f"{site.url}pot",
            "scraped_at": None,
        },
        {
            "item_id": "71053",
            "title": "Cup",
            "category": "a|b/c",
            "price": 2.55,
            "currency": "USD",
            "available": True,
            "url": None,
            "scraped_at": None,
        },
    ]


def test_a_price_in_json_is_taken_as_it_is_written(site: MisbehavingSite, settings_for: SettingsFor) -> None:
    """Read as a binary fraction first, this one would be 1e-05, which is no price."""
    site.pages["/"] = Answer(b'[{"id": "71053", "name": "Bead", "price": 0.00001}]', kind="application/json")
    fields = CrawlFieldSettings(item_id="id", title="name", price="price")

    result = scrape(settings_for(site.url, format="json", item="[]", next=None, currency="EUR", fields=fields))

    assert [(row["price"], row["currency"]) for row in rows(result)] == [(0.00001, "EUR")]


@pytest.mark.parametrize(
    "end",
    [html([]), Answer(b"nothing here", 404), html([line(4)]), html([line(0), line(1)])],
    ids=["empty", "gone", "the last again", "the first again"],
)
def test_numbered_pages_are_read_until_one_shows_nothing_new(
    site: MisbehavingSite, settings_for: SettingsFor, end: Answer
) -> None:
    numbers = ([0, 1], [2, 3], [4])
    site.pages = {f"/all/{page}": html([line(number) for number in shown]) for page, shown in enumerate(numbers, 1)}
    site.pages["/all/4"] = end
    site.validators = True
    settings = settings_for(f"{site.url}all/{{page}}", next=None, concurrent=4)

    first, second = (scrape(settings, run_key) for run_key in ("first", "second"))

    assert site.paths() == [f"/all/{page}" for page in (1, 2, 3, 4)] * 2
    assert sorted(titles(second)) == [f"{10000 + number}" for number in range(5)]
    assert (first["rejected"], second["rejected"]) == ({}, {})
    assert second["unchanged_pages"] >= 3


def test_numbered_pages_that_were_read_are_not_asked_for_again(
    site: MisbehavingSite, settings_for: SettingsFor
) -> None:
    site.pages = {f"/?page={page}": html([line(page)]) for page in (1, 2, 3)} | {"/?page=4": html([])}
    site.pages["/?page=3"] = Answer(b"", 503)
    settings = settings_for(f"{site.url}?page={{page}}", next=None, retries=0)
    assert "page=3 answers 503" in failure(settings)
    site.pages["/?page=3"] = html([line(3)])

    assert sorted(titles(scrape(settings))) == ["10001", "10002", "10003"]
    assert site.paths() == [f"/?page={page}" for page in (1, 2, 3, 3, 4)]


def test_a_first_numbered_page_that_is_missing_says_so(site: MisbehavingSite, settings_for: SettingsFor) -> None:
    assert "there is no such page" in failure(settings_for(f"{site.url}{{page}}", next=None))


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A key, and the certificate of a site at 127.0.0.1 that nobody has signed but itself."""
    file = tmp_path / "site.pem"
    name = ("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *name, "-keyout", file, "-out", f"{file}.new"],
        check=True,
        capture_output=True,
    )
    file.write_text(file.read_text() + Path(f"{file}.new").read_text())
    return file


def test_a_site_is_read_by_https(settings_for: SettingsFor, certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with MisbehavingSite(certificate) as site:
        site.offer(3)
        assert len(rows(scrape(settings_for(site.url)))) == 3


def test_a_site_whose_certificate_nobody_vouches_for_is_not_read(settings_for: SettingsFor, certificate: Path) -> None:
    with MisbehavingSite(certificate) as site:
        site.offer(3)
        assert "certificate verify failed" in failure(settings_for(site.url, retries=0))
        assert site.asked == []


def test_what_robots_txt_forbids_is_never_asked_for(site: MisbehavingSite, settings_for: SettingsFor) -> None:
    site.offer(6)
    site.forbid("User-agent: *\nAllow: /\n\nUser-agent: shortlist\nDisallow: /?page=3\n")

    said = failure(settings_for(site.url))

    assert f"robots.txt of the site forbids {site.url}?page=3" in said
    assert "ask its owner" in said
    assert site.paths() == ["/", "/?page=2"]


def test_a_redirect_does_not_lead_past_robots_txt(site: MisbehavingSite, settings_for: SettingsFor) -> None:
    site.offer(2)
    site.forbid("User-agent: *\nDisallow: /private\n")
    site.pages["/"] = Answer(status=302, headers={"Location": "/private"})
    site.pages["/private"] = html([line(1)])

    assert "robots.txt of the site forbids" in failure(settings_for(site.url))
    assert site.paths() == ["/"]


def test_robots_txt_that_cannot_be_read_forbids_everything(site: MisbehavingSite, settings_for: SettingsFor) -> None:
    site.offer(2)
    site.pages["/robots.txt"] = Answer(b"", 503)

    said = failure(settings_for(site.url, retries=1))

    assert f"{site.url}robots.txt answers 503: until it can be read, nothing may be" in said
    assert site.paths() == []


def _span(site: MisbehavingSite) -> float:
    return site.asked[-1].at - site.asked[0].at


def test_requests_keep_the_distance_that_the_settings_say(site: MisbehavingSite, settings_for: SettingsFor) -> None:
    site.offer(10)

    scrape(settings_for(site.url, delay_seconds=0.2, concurrent=4))

    assert len(site.asked) == 6
    assert _span(site) > 5 * 0.2 - 0.1


def test_requests_keep_the_distance_that_robots_txt_asks_for(site: MisbehavingSite, settings_for: SettingsFor) -> None:
    site.offer(6)
    site.forbid("User-agent: *\nCrawl-delay: 0.5\n")

    scrape(settings_for(site.url, delay_seconds=0.01))

    assert len(site.asked) == 4
    assert _span(site) > 3 * 0.5 - 0.1


def _in_two_seconds() -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)


@pytest.mark.parametrize(("header", "at_least"), [(lambda: "1", 0.9), (_in_two_seconds, 0.7)], ids=["seconds", "date"])
def test_a_site_that_asks_to_wait_is_left_alone_for_so_long(
    site: MisbehavingSite, settings_for: SettingsFor, header: Callable[[], str], at_least: float
) -> None:
    site.offer(4)

    def set_header(path: str) -> None:
        if site.paths() == ["/", "/?page=2"]:
            site.instead["/?page=2"].append(Answer(b"slowly", 429, {"Retry-After": header()}))

    site.before = set_header
    result = scrape(settings_for(site.url))

    assert result["items"] == 4
    assert site.paths() == ["/", "/?page=2", "/?page=2"]
    assert site.asked[-1].at - site.asked[-2].at > at_least


def test_a_site_that_asks_for_a_long_rest_gets_it(site: MisbehavingSite, settings_for: SettingsFor) -> None:
    site.offer(4)
    site.instead["/?page=2"].append(Answer(b"tomorrow", 503, {"Retry-After": "86400"}))

    said = failure(settings_for(site.url))

    assert f"{site.url}?page=2 answers 503 and wants 86400 s of rest" in said
    assert "[catalogue.crawl].max_wait_seconds = 300" in said
    assert site.paths() == ["/", "/?page=2"]


def test_errors_that_pass_are_waited_out(
    site: MisbehavingSite, settings_for: SettingsFor, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    site.offer(4)
    page = site.pages["/?page=2"]
    site.instead["/?page=2"].extend([Answer(b"oops", 500), replace(page, missing=100), Answer(b"", 504)])

    assert scrape(settings_for(site.url))["items"] == 4

    assert site.paths() == ["/"] + ["/?page=2"] * 4
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert said[0] == f"{site.url}?page=2 answers 500; retry 1 of 5 in 0.01 s"
    assert said[1].startswith(f"{site.url}?page=2 ResponseDataLossError")
    assert said[2] == f"{site.url}?page=2 answers 504; retry 3 of 5 in 0.04 s"


def test_an_error_that_stays_fails_and_the_next_attempt_goes_on(
    site: MisbehavingSite, settings_for: SettingsFor
) -> None:
    site.offer(6)
    site.instead["/?page=3"].extend([Answer(b"oops", 500)] * 3)

    said = failure(settings_for(site.url, retries=2))

    assert said == (
        f"{site.url}?page=3 answers 500, after 3 tries. Try again later; pages that were read are kept,"
        " and the next attempt goes on with those that lack"
    )
    assert not Path(settings_for(site.url).paths.catalogue, "items.parquet").exists()

    site.asked.clear()
    assert scrape(settings_for(site.url, retries=2))["items"] == 6
    assert site.paths() == ["/?page=3"]


def test_another_run_starts_afresh(site: MisbehavingSite, settings_for: SettingsFor) -> None:
    site.offer(4)
    site.instead["/?page=2"].append(Answer(b"oops", 500))
    failure(settings_for(site.url, retries=0), "monday")

    site.asked.clear()
    scrape(settings_for(site.url), "tuesday")

    assert site.paths() == ["/", "/?page=2"]


def test_a_page_that_has_gone_since_is_found_out_by_asking_the_one_before_again(
    site: MisbehavingSite, settings_for: SettingsFor
) -> None:
    site.offer(6)
    del site.pages["/?page=3"]

    said = failure(settings_for(site.url))
    assert said.startswith(f"{site.url}?page=3 answers 404, though {site.url}?page=2 links to it")

    site.offer(4)
    site.asked.clear()
    assert scrape(settings_for(site.url))["items"] == 4
    assert site.paths() == ["/?page=2"]


@pytest.mark.parametrize(("status", "words"), [(404, "there is no such page"), (403, "the site refuses the crawler")])
def test_a_start_that_cannot_be_read_says_what_to_do(
    site: MisbehavingSite, settings_for: SettingsFor, status: int, words: str
) -> None:
    site.pages["/"] = Answer(b"no", status)

    assert f"{site.url} answers {status}: {words}" in failure(settings_for(site.url))
    assert site.paths() == ["/"]


def test_pages_that_have_not_changed_are_not_sent_again(site: MisbehavingSite, settings_for: SettingsFor) -> None:
    site.validators = True
    site.offer(6)
    settings = settings_for(site.url)
    first = scrape(settings, "monday")
    before = rows(first)

    site.pages["/?page=2"] = html([line(2, price="£9"), line(7)], following="/?page=3")
    second = scrape(settings, "tuesday")

    assert second == {**first, "new": 1, "unchanged_pages": 2}
    assert [row["item_id"] for row in rows(second)] == ["10000", "10001", "10002", "10004", "10005", "10007"]
    assert rows(second)[:2] == before[:2]
    assert rows(second)[2]["price"] == 9.0


def test_pages_are_sent_again_once_other_things_are_taken_from_them(
    site: MisbehavingSite, settings_for: SettingsFor
) -> None:
    site.validators = True
    site.offer(2)
    scrape(settings_for(site.url), "monday")

    result = scrape(settings_for(site.url, fields=CrawlFieldSettings(title=".category::text")), "tuesday")

    assert result["unchanged_pages"] == 0
    assert titles(result) == {"10000": "Kitchen", "10001": "Kitchen"}


def test_a_run_that_has_finished_gives_its_result_again(site: MisbehavingSite, settings_for: SettingsFor) -> None:
    site.offer(4)
    settings = settings_for(site.url)
    result = scrape(settings)
    site.asked.clear()

    assert scrape(settings) == result
    assert site.asked == []


def _start_elsewhere(settings: Settings) -> subprocess.Popen[str]:
    """The step in a process of its own, as a job is."""
    crawl = settings.catalogue.crawl
    program = (
        "import sys; from shortlist.settings import *; from steps.catalogue import scrape_catalogue;"
        f"crawl = {crawl!r}; paths = PathSettings(jobs={settings.paths.jobs!r});"
        "settings = Settings(catalogue=CatalogueSettings(crawl=crawl), paths=paths);"
        f"scrape_catalogue(settings=settings, run_key='run', as_of={AS_OF!r})"
    )
    environment = {**os.environ, "PYTHONPATH": str(PROJECT / "plugins"), "RECS_DATABASE_URL": "a-secret-url"}
    return subprocess.Popen(
        [sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@pytest.mark.parametrize("victim", ["step", "crawler"])
def test_a_crawl_that_is_killed_goes_on_and_ends_with_the_same_bytes(
    site: MisbehavingSite, settings_for: SettingsFor, tmp_path: Path, victim: str
) -> None:
    site.offer(10)
    settings = settings_for(site.url)
    reached, go_on = threading.Event(), threading.Event()

    def hold(path: str) -> None:
        if path == "/?page=3":
            reached.set()
            go_on.wait(30)

    site.before = hold
    step = _start_elsewhere(settings)
    try:
        assert reached.wait(60)
        crawler = psutil.Process(step.pid).children()[0]
        (crawler if victim == "crawler" else step).send_signal(signal.SIGKILL)
        said = step.communicate(timeout=60)[0]
        wait_until(lambda: not crawler.is_running())
    finally:
        step.kill()
        go_on.set()
    assert ("the crawler ended without a word (-9)" in said) == (victim == "crawler")
    assert not Path(settings.paths.catalogue, "items.parquet").exists()
    assert site.paths() == ["/", "/?page=2", "/?page=3"]

    site.asked.clear()
    result = scrape(settings)
    assert site.paths() == ["/?page=3", "/?page=4", "/?page=5"]

    in_one_go = scrape(replace(settings, paths=replace(settings.paths, jobs=str(tmp_path / "in-one-go"))))
    assert Path(result["file"]).read_bytes() == Path(in_one_go["file"]).read_bytes()


def test_the_process_that_reads_pages_knows_no_secret(site: MisbehavingSite, settings_for: SettingsFor) -> None:
    site.offer(2)
    seen: list[bool] = []
    step: list[subprocess.Popen[str]] = []

    def look(path: str) -> None:
        if path == "/":
            parent = psutil.Process(step[0].pid)
            seen.extend("a-secret-url" in one.environ().values() for one in (parent, *parent.children()))

    site.before = look
    step.append(_start_elsewhere(settings_for(site.url)))
    assert step[0].communicate(timeout=60) is not None

    assert seen == [True, False]
    assert step[0].returncode == 0


def test_a_kill_after_the_result_loses_nothing(
    site: MisbehavingSite, settings_for: SettingsFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.validators = True
    site.offer(4)
    settings = settings_for(site.url)
    with monkeypatch.context() as patch:
        patch.setattr(catalogue, "_keep", lambda *_: None)
        result = scrape(settings, "monday")
    site.asked.clear()

    assert scrape(settings, "monday") == result
    assert site.asked == []
    assert scrape(settings, "tuesday")["unchanged_pages"] == 2


def test_two_crawls_at_once_are_kept_apart(
    site: MisbehavingSite, settings_for: SettingsFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for(site.url)
    monkeypatch.setattr(results, "_LOCK_SECONDS", 0.2)

    with results.only_crawler(settings.paths.catalogue):
        assert "another crawl is writing to" in failure(settings)
    assert site.asked == []


def test_pages_without_end_are_given_up(site: MisbehavingSite, settings_for: SettingsFor) -> None:
    site.before = lambda path: site.pages.update(
        {f"/{len(site.asked) - 1}": html([line(0)], following=f"/{len(site.asked)}")}
    )

    said = failure(settings_for(f"{site.url}1", max_pages=20))

    assert "more than [catalogue.crawl].max_pages = 20 pages" in said
    assert len(site.paths()) == 20


def test_pages_that_go_round_are_read_once(site: MisbehavingSite, settings_for: SettingsFor) -> None:
    site.pages = {"/": html([line(0)], following="/?page=2"), "/?page=2": html([line(1)], following="/#again")}

    assert scrape(settings_for(site.url))["items"] == 2
    assert site.paths() == ["/", "/?page=2"]


@pytest.mark.parametrize("way", ["redirect", "next link", "base", "robots.txt"])
def test_the_crawler_never_leaves_the_host(
    site: MisbehavingSite, other_site: MisbehavingSite, settings_for: SettingsFor, way: str
) -> None:
    site.offer(4)
    other_site.offer(4)
    elsewhere = Answer(status=302, headers={"Location": f"{other_site.url}?page=2"})
    if way == "redirect":
        site.pages["/?page=2"] = elsewhere
    elif way == "next link":
        site.pages["/"] = html([line(0)], following=f"{other_site.url}?page=2")
    elif way == "base":
        page = site.pages["/"]
        site.pages["/"] = replace(
            page, body=page.body.replace(b"<body>", f'<head><base href="{other_site.url}"></head><body>'.encode())
        )
    else:
        site.pages["/robots.txt"] = elsewhere

    said = failure(settings_for(site.url))

    assert f"{other_site.url}?page=2 is not on the host of [catalogue.crawl].start_url, {site.url}" in said
    assert other_site.asked == []


@pytest.mark.parametrize("link", ["file:///etc/passwd", "data:text/html,<li class=item>", "//127.0.0.1:1/", "http://["])
def test_links_to_other_places_are_refused(site: MisbehavingSite, settings_for: SettingsFor, link: str) -> None:
    site.pages["/"] = html([line(0)], following=link)

    said = failure(settings_for(site.url))

    assert "is not on the host of" in said or "which is no address" in said


def test_a_redirect_within_the_host_is_followed(site: MisbehavingSite, settings_for: SettingsFor) -> None:
    site.offer(4)
    site.pages["/?page=2"] = Answer(status=301, headers={"Location": "/second/"})
    site.pages["/second/"] = html([line(2)], following="third")
    site.pages["/second/third"] = html([line(3)])

    assert scrape(settings_for(site.url))["items"] == 4


def test_redirects_without_end_are_given_up(site: MisbehavingSite, settings_for: SettingsFor) -> None:
    site.pages["/"] = Answer(status=302, headers={"Location": "/"})

    assert f"{site.url} cannot be read" in failure(settings_for(site.url))
    assert len(site.paths()) == 6


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_a_huge_page_is_not_read(site: MisbehavingSite, settings_for: SettingsFor, packed: bool) -> None:
    body = html([line(0)]).body + b" " * 5_000_000
    headers = {"Content-Encoding": "gzip"} if packed else {}
    site.pages["/"] = Answer(gzip.compress(body) if packed else body, headers=headers)

    said = failure(settings_for(site.url, max_page_bytes=100_000))

    assert said.startswith(f"{site.url} is larger than [catalogue.crawl].max_page_bytes = 100000")
    assert site.paths() == ["/"]


def test_a_page_that_does_not_come_is_given_up(site: MisbehavingSite, settings_for: SettingsFor) -> None:
    stop = threading.Event()

    def hold(path: str) -> None:
        if path != "/robots.txt":
            stop.wait(20)

    site.before = hold
    said = failure(settings_for(site.url, timeout_seconds=1, retries=1))
    stop.set()

    assert f"{site.url} cannot be read: DownloadTimeoutError" in said
    assert "after 2 tries" in said


def test_fault_49_a_page_that_comes_in_drops_is_given_up(site: MisbehavingSite, settings_for: SettingsFor) -> None:
    site.pages["/"] = replace(html([line(number) for number in range(50)]), pause=0.02)

    assert f"{site.url} cannot be read: DownloadTimeoutError" in failure(
        settings_for(site.url, timeout_seconds=1, retries=0)
    )


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Answer(b"\x89PNG\r\n\x1a\n" + bytes(100), kind="image/png"), "is no text but 'image/png'"),
        (Answer(b"", 204), "answers 204: no page of a catalogue"),
    ],
    ids=["picture", "no content"],
)
def test_what_is_no_page_fails(site: MisbehavingSite, settings_for: SettingsFor, answer: Answer, words: str) -> None:
    site.pages["/"] = answer

    assert words in failure(settings_for(site.url))


@pytest.mark.parametrize("body", [b'{"items": [', b"[" * 100_000, b'"\xff"', b'{"items": 1' + b"0" * 5000 + b"}"])
def test_what_is_no_json_fails(site: MisbehavingSite, settings_for: SettingsFor, body: bytes) -> None:
    site.pages["/"] = Answer(body, kind="application/json")

    said = failure(
        settings_for(site.url, format="json", item="items", next="next", fields=CrawlFieldSettings("id", "t"))
    )

    assert f"{site.url}: no JSON" in said or "no item on 1 pages" in said


def test_fault_9_a_page_in_another_encoding_than_it_says(site: MisbehavingSite, settings_for: SettingsFor) -> None:
    site.pages["/"] = html([line(number) for number in range(19)] + [line(20, title="CRÈME CUP")], encoding="latin-1")
    site.pages["/"] = replace(site.pages["/"], body=site.pages["/"].body.replace("£".encode("latin-1"), b""))
    settings = settings_for(site.url, currency="GBP")

    assert scrape(settings)["rejected"] == {"bad_encoding": 1}
    assert quarantine(settings)[0]["source_row"] == 20

    settings = settings_for(site.url, currency="GBP", encoding="latin-1")
    assert titles(scrape(settings, "next"))["10020"] == "CRÈME CUP"


def test_fault_11_characters_that_cannot_be_seen(site: MisbehavingSite, settings_for: SettingsFor) -> None:
    goods = [
        {"id": "1", "t": "RED\u0000 CUP\u202e\n with\tlid"},
        {"id": "2\u0000", "t": "NUL in the id"},
        {"id": "3\u202e", "t": "turns the text round"},
        {"id": "\ud800", "t": "half a character"},
        {"id": "5", "t": "\ud83d"},
        {"id": " 6\n", "t": "blanks around the id"},
    ]
    site.pages["/"] = Answer(json.dumps({"goods": goods}).encode(), kind="application/json")
    settings = settings_for(
        site.url, format="json", item="goods", next=None, fields=CrawlFieldSettings("id", "t"), max_rejected_share=1
    )

    result = scrape(settings)

    assert titles(result) == {"1": "RED CUP with lid", "6": "blanks around the id"}
    assert result["rejected"] == {"control_character": 3, "missing_title": 1}


HOSTILE = ["../../../etc/passwd", "..", "/etc/passwd", "C:\\x", '=HYPERLINK("http://x")', "@SUM(1)", "a'; DROP TABLE x"]


def test_fault_26_ids_that_look_like_paths_or_formulas(
    site: MisbehavingSite, settings_for: SettingsFor, tmp_path: Path
) -> None:
    site.pages["/"] = html([line(0), *(line(1, item_id=one, title=f"title of {one}") for one in HOSTILE)])
    settings = settings_for(site.url)

    strict = replace(settings, interactions=InteractionSettings(item_pattern=r"^\d{5}$"))
    result = scrape(strict)
    assert titles(result) == {"10000": "Cup no. 0"}
    assert result["rejected"] == {"not_a_product": len(HOSTILE)}

    # Where ids may be anything they are no more than text: no file is named by one.
    result = scrape(settings, "next")
    assert set(titles(result)) == {"10000", *HOSTILE}
    assert {path.name for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".json"} == {
        ".lock",
        "items.parquet",
        "rejected.parquet",
    }
    assert {len(path.stem) for path in tmp_path.rglob("*.json")} == {len("about"), 64}


def test_fault_26_a_link_in_the_place_of_a_file_is_not_followed(
    site: MisbehavingSite, settings_for: SettingsFor, tmp_path: Path
) -> None:
    site.offer(2)
    settings = settings_for(site.url)
    precious = tmp_path / "precious"
    precious.write_text("precious")
    folder = Path(settings.paths.catalogue)
    folder.mkdir(parents=True)
    for name in (".items.parquet.tmp", ".rejected.parquet.tmp", "rejected.parquet"):
        (folder / name).symlink_to(precious)

    scrape(settings)

    assert precious.read_text() == "precious"
    assert not any(path.is_symlink() for path in folder.iterdir())


def test_rejected_items_are_counted_and_kept_with_their_place(site: MisbehavingSite, settings_for: SettingsFor) -> None:
    wrong = [
        line(0, title="Again"),
        line(1, item_id=""),
        line(2, title=" \n"),
        line(3, price=None),
        line(4, price="ask us"),
        line(5, price="-3.00"),
        line(6, price="£1e3"),
        line(7, stock="soon"),
        line(8, stock=None),
        line(9, price="3.00"),
        line(10, item_id="x" * 300),
    ]
    site.pages = {"/": html([line(0)], following="/more"), "/more": html(wrong)}
    settings = settings_for(site.url, max_rejected_share=1)

    result = scrape(settings)

    assert titles(result) == {"10000": "Cup no. 0"}
    assert result["rejected"] == {
        "bad_available": 1,
        "bad_price": 3,
        "duplicate": 1,
        "id_too_long": 1,
        "missing_available": 1,
        "missing_currency": 1,
        "missing_item": 1,
        "missing_price": 1,
        "missing_title": 1,
    }
    kept = quarantine(settings)
    assert [row["source_row"] for row in kept] == list(range(1, 12))
    assert {row["source_file"] for row in kept} == {f"{site.url}more"}
    assert (kept[4]["reason"], json.loads(kept[4]["raw"])["price"]) == ("bad_price", ["ask us"])


@pytest.mark.parametrize("wrong", [1, 2], ids=["fault_25_just_below", "fault_25_just_above"])
def test_fault_25_share_of_bad_items(site: MisbehavingSite, settings_for: SettingsFor, wrong: int) -> None:
    shown = [line(number, price="?" if number < wrong else "£1") for number in range(20)]
    site.pages["/"] = html([*shown, *shown[5:]])  # duplicates are tolerated
    settings = settings_for(site.url, max_rejected_share=0.03)

    if wrong == 1:
        assert scrape(settings)["rejected"] == {"bad_price": 1, "duplicate": 15}
    else:
        said = failure(settings)
        assert "2 of 35 items" in said
        assert "bad_price: 2 (the price is not one number" in said
        assert len(quarantine(settings)) == 17


def test_a_source_that_has_shrunk_is_refused_and_the_last_catalogue_stays(
    site: MisbehavingSite, settings_for: SettingsFor
) -> None:
    site.offer(10)
    settings = settings_for(site.url)
    before = Path(scrape(settings, "monday")["file"]).read_bytes()
    site.offer(4)

    said = failure(settings, "tuesday")

    assert f"{site.url} lists 4 items, 10 were there at {AS_OF}" in said
    assert Path(settings.paths.catalogue, "items.parquet").read_bytes() == before

    # The next attempt looks again; half is enough.
    site.offer(5)
    assert scrape(settings, "tuesday")["items"] == 5


def test_fewer_items_than_the_site_says_are_refused(site: MisbehavingSite, settings_for: SettingsFor) -> None:
    site.pages = {
        "/": html([line(0), line(1)], following="/?page=2", total=6),
        "/?page=2": Answer(b"<html><body>We are sorry.</body></html>"),
    }
    settings = settings_for(site.url, total=".total::text")

    assert f"{site.url} says that it has 6 items, but its 2 pages list 2" in failure(settings)

    site.pages["/?page=2"] = html([line(2), line(3), line(4), line(5)])
    assert scrape(settings)["items"] == 6


def test_an_empty_source_is_refused(site: MisbehavingSite, settings_for: SettingsFor) -> None:
    site.offer(4)
    settings = settings_for(site.url)
    before = Path(scrape(settings, "monday")["file"]).read_bytes()
    site.pages["/"] = Answer(b"")

    assert "no item on 1 pages" in failure(settings, "tuesday")
    assert Path(settings.paths.catalogue, "items.parquet").read_bytes() == before


def test_a_source_that_is_away_says_so(site: MisbehavingSite, settings_for: SettingsFor) -> None:
    site.offer(4)
    settings = settings_for(site.url, retries=1)
    before = Path(scrape(settings, "monday")["file"]).read_bytes()
    site.__exit__()

    said = failure(settings, "tuesday")

    assert f"{site.url}robots.txt cannot be read: DownloadConnectionRefusedError" in said
    assert "Is [catalogue.crawl].start_url right?" in said
    assert Path(settings.paths.catalogue, "items.parquet").read_bytes() == before


def test_the_log_has_one_line_a_page_and_no_line_of_the_site_s_own(
    site: MisbehavingSite, settings_for: SettingsFor, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    site.offer(3)
    site.pages["/robots.txt"] = Answer(b"DONE\nFAILED by the site\n", kind="text/plain")
    site.pages["/"] = html([line(0, title="x\nFAILED by the site")], following="/?page=2\nFAILED by the site")
    site.pages["/?page=2FAILED%20by%20the%20site"] = html([line(1)])

    scrape(settings_for(site.url))

    assert [record.getMessage() for record in caplog.records] == [
        f"page 1: 1 items: {site.url}",
        f"page 2: 1 items: {site.url}?page=2FAILED%20by%20the%20site",
        "2 items, 2 of them new, on 2 pages, 0 of them unchanged",
    ]


def test_a_line_of_the_log_cannot_become_two() -> None:
    record = logging.makeLogRecord(
        {"msg": "a page says %s", "args": ("this\nFAILED by the site",), "levelname": "INFO"}
    )

    assert process._OneLine("%(levelname)s %(message)s").format(record) == "INFO a page says this FAILED by the site"


@pytest.mark.parametrize("item", [".item::text", "xpath:count(//li)"])
def test_items_must_be_elements(site: MisbehavingSite, settings_for: SettingsFor, item: str) -> None:
    site.pages["/"] = html([line(0)])
    site.pages["/"] = replace(site.pages["/"], body=site.pages["/"].body.replace(b'data-id="10000">', b">text"))

    said = failure(settings_for(site.url, item=item))

    assert f"{site.url}: [catalogue.crawl].item = {item!r} selects text there" in said


def test_a_page_that_is_missing_in_the_end_is_never_passed_over(
    site: MisbehavingSite, settings_for: SettingsFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.offer(6)
    site.pages["/?page=2"] = Answer(b"no", 403)
    fetch = process.fetch

    def fetch_and_keep_silent(*arguments: Any, **more: Any) -> None:
        with pytest.raises(CrawlError):
            fetch(*arguments, **more)

    monkeypatch.setattr(process, "fetch", fetch_and_keep_silent)

    assert f"{site.url}?page=2 was not read, though nothing went wrong" in failure(settings_for(site.url))


def test_without_a_site_there_is_nothing_to_do(settings_for: SettingsFor) -> None:
    settings = settings_for(None)

    with pytest.raises(NothingToDoError, match="start_url is not set"):
        scrape(settings)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"next": "a[rel=next"}, "[catalogue.crawl.next] 'a[rel=next' is no CSS"),
        ({"item": "xpath://li["}, "[catalogue.crawl.item] 'xpath://li[' is no XPath"),
        ({"fields": CrawlFieldSettings(price="p::txt")}, "[catalogue.crawl.fields.price] 'p::txt' is no CSS"),
        ({"format": "json", "item": "a[", "next": None}, "[catalogue.crawl.item] 'a[' is no JMESPath"),
    ],
)
def test_a_selector_that_is_none_is_named(settings_for: SettingsFor, more: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError) as error:
        scrape(settings_for("http://shop.test/", **more))
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"start_url": "file:///etc/passwd"}, "must begin with http:// or https://"),
        ({"start_url": "http://me:word@shop.test/"}, "holds a user or password"),
        ({"in_stock": "("}, "in_stock is no regular expression"),
        ({"start_url": "http://shop.test/{page}/{page}", "next": None}, "has {page} once"),
        ({"start_url": "http://{page}.shop.test/", "next": None}, "has {page} once, behind the host"),
        ({"start_url": "http://shop.test/{page}"}, "leave one of them out"),
        ({"encoding": "latin-99"}, "encoding = 'latin-99' is not known"),
        ({"user_agent": "shop\r\nX: y"}, "String should match pattern"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings_for: SettingsFor, more: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match="validation error") as error:
        settings_for(**{"start_url": "http://shop.test/", **more})
    assert words in str(error.value)
