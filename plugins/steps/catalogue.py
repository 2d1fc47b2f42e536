"""Catalogue steps: the items of the shop's own site, for search, pages and tables."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections import Counter
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shortlist.crawl import items, process, results
from shortlist.crawl.extraction import check_selectors
from shortlist.crawl.pages import About, Pages, plain_url
from shortlist.errors import CrawlError, NothingToDoError

if TYPE_CHECKING:
    from shortlist.crawl.pages import Page
    from shortlist.settings import CrawlSettings, Settings

logger = logging.getLogger(__name__)


def scrape_catalogue(*, settings: Settings, run_key: str, as_of: str | None = None) -> dict[str, Any]:
    """Read the whole catalogue from its site into `items.parquet`, in place of the last one.

    Pages are fetched once a run: an attempt that failed or was killed is taken up where it was. Pages that have not
    changed since the last crawl are not sent again by a site that knows `ETag` or `Last-Modified`. Nothing but a
    complete crawl is ever seen; a run that has finished gives its result again without a request.

    Args:
        settings: Of the project.
        run_key: The same for all attempts of one run.
        as_of: ISO time of the crawl; when its first attempt began, if left out.

    Returns:
        `items` and how many of them are `new`, `pages` and how many of them were `unchanged_pages`, `rejected` by
        reason, `file`.

    Raises:
        NothingToDoError: If no site is set.
        SettingsError: If a selector cannot be understood.
        CrawlError: If the site is away or forbids it, or what it gave is no complete catalogue; the last one stays.
    """
    crawl = settings.catalogue.crawl
    if crawl.start_url is None:
        raise NothingToDoError("there is no site to read the catalogue from: [catalogue.crawl].start_url is not set")
    check_selectors(crawl)
    folder = settings.paths.catalogue
    with results.only_crawler(folder) as lock:
        last = results.last_report(folder)
        new, kept = Pages(f"{folder}/pages.new"), Pages(f"{folder}/pages")
        if last and last["run_key"] == run_key:
            _keep(new, kept, run_key)
            logger.info("this run has read the catalogue already")
            return _result(folder, last)
        about = _begin(new, run_key, as_of, _fingerprint(crawl))
        before = kept.about()
        usable = before is not None and before.selectors == about.selectors
        process.fetch(crawl, pages=str(new.folder), before=str(kept.folder) if usable else None, lock=lock)
        report = _finish(folder, _complete(new, crawl), about, last, settings)
        _keep(new, kept, run_key)
    return _result(folder, report)


def _begin(new: Pages, run_key: str, as_of: str | None, selectors: str) -> About:
    """Take up the crawl of an earlier attempt of this run, or start afresh."""
    about = new.about()
    if about and about.run_key == run_key and about.selectors == selectors and as_of in (None, about.started):
        logger.info("going on with the crawl that began at %s", about.started)
        return about
    shutil.rmtree(new.folder, ignore_errors=True)
    about = About(run_key, as_of or datetime.now(UTC).isoformat(timespec="seconds"), selectors)
    new.begin(about)
    return about


def _fingerprint(crawl: CrawlSettings) -> str:
    decisive = ("start_url", "format", "item", "next", "total", "fields", "encoding")
    values = asdict(crawl)
    return hashlib.sha256(json.dumps({name: values[name] for name in decisive}).encode()).hexdigest()


def _complete(new: Pages, crawl: CrawlSettings) -> list[Page]:
    pages = []
    for url, page in new.walk(plain_url(crawl.page_url(1))):
        if page is None:
            raise CrawlError(f"{url} was not read, though nothing went wrong: see the lines above, then retry")
        pages.append(page)
    return pages


def _finish(
    folder: str, pages: list[Page], about: About, last: dict[str, Any] | None, settings: Settings
) -> dict[str, Any]:
    """Judge what was found, refuse a crawl that cannot be the catalogue, else write it. Returns the report."""
    crawl = settings.catalogue.crawl
    found, rejected = items.judge(pages, crawl=crawl, interactions=settings.interactions)
    results.write_rejected(folder, rejected)
    if problem := _problem(pages, found, rejected, last, folder, crawl):
        # The next attempt asks again: the site may have been mended.
        shutil.rmtree(f"{folder}/pages.new", ignore_errors=True)
        raise CrawlError(problem)
    known = results.known_ids(folder)
    report: dict[str, Any] = {
        "run_key": about.run_key,
        "started": about.started,
        "items": len(found),
        "new": sum(item.item_id not in known for item in found),
        "pages": len(pages),
        "unchanged_pages": sum(page.unchanged for page in pages),
        "rejected": dict(sorted(Counter(one.reason for one in rejected).items())),
    }
    results.write_items(folder, found, scraped_at=about.started, report=report)
    logger.info(
        "%d items, %d of them new, on %d pages, %d of them unchanged",
        *(report[name] for name in ("items", "new", "pages", "unchanged_pages")),
    )
    if rejected:
        logger.warning("%d rejected, see %s/%s: %s", len(rejected), folder, results.REJECTED, items.describe(rejected))
    return report


def _problem(
    pages: list[Page],
    found: list[items.Item],
    rejected: list[items.Rejected],
    last: dict[str, Any] | None,
    folder: str,
    crawl: CrawlSettings,
) -> str | None:
    """Why this cannot be the catalogue, or None."""
    seen = len(found) + len(rejected)
    if seen == 0:
        return (
            f"no item on {len(pages)} pages of {crawl.start_url}: does [catalogue.crawl].item = {crawl.item!r} still"
            " fit the pages?"
        )
    counted = [one for one in rejected if one.reason not in crawl.tolerated]
    if len(counted) > crawl.max_rejected_share * seen:
        return (
            f"{len(counted)} of {seen} items of {crawl.start_url} were rejected, more than"
            f" [catalogue.crawl].max_rejected_share = {crawl.max_rejected_share}; see {folder}/{results.REJECTED}:"
            f" {items.describe(counted)}"
        )
    if not found:
        return f"all {seen} items of {crawl.start_url} were rejected: {items.describe(rejected)}"
    total = max((page.total for page in pages if page.total is not None), default=None)
    if total is not None and seen < total:
        return (
            f"{crawl.start_url} says that it has {total} items, but its {len(pages)} pages list {seen}: does"
            " [catalogue.crawl].next lead to all pages? Try again; leave [catalogue.crawl].total out if it is wrong"
        )
    if last and len(found) < crawl.min_share * last["items"]:
        return (
            f"{crawl.start_url} lists {len(found)} items, {last['items']} were there at {last['started']}: less than"
            f" [catalogue.crawl].min_share = {crawl.min_share}. If that is right, lower it for one run"
        )
    return None


def _keep(new: Pages, kept: Pages, run_key: str) -> None:
    """Keep the pages of a crawl that became the catalogue, for the next one to ask what has changed."""
    about = new.about()
    if about and about.run_key == run_key:
        shutil.rmtree(kept.folder, ignore_errors=True)
        new.folder.rename(kept.folder)


def _result(folder: str, report: dict[str, Any]) -> dict[str, Any]:
    names = ("items", "new", "pages", "unchanged_pages", "rejected")
    return {name: report[name] for name in names} | {"file": str(Path(folder) / results.ITEMS)}
