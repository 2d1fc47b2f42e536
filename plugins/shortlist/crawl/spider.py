"""The spider: from page to page of one site, as often and as fast as the site allows.

Scrapy is imported here and in `process` only: nothing else of the project imports these two modules.
"""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import urlsplit

from protego import Protego
from scrapy import Request, Spider
from scrapy.downloadermiddlewares.retry import get_retry_request
from scrapy.exceptions import CloseSpider, DownloadCancelledError, IgnoreRequest
from scrapy.extensions.throttle import AutoThrottle
from scrapy.http import TextResponse
from scrapy.utils.misc import load_object
from scrapy.utils.response import get_base_url

from shortlist.crawl.extraction import take_apart
from shortlist.crawl.pages import Page, plain_url
from shortlist.errors import CrawlError
from shortlist.settings import PAGE_NUMBER

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from scrapy.crawler import Crawler
    from scrapy.http import Response
    from twisted.python.failure import Failure

    from shortlist.crawl.pages import Pages
    from shortlist.settings import CrawlSettings

logger = logging.getLogger(__name__)

_LONGEST_URL: Final = 2_000
_PORTS: Final = {"http": 80, "https": 443}
_GONE: Final = (HTTPStatus.NOT_FOUND, HTTPStatus.GONE)
_FORBIDDEN: Final = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
_LATER: Final = "Try again later; pages that were read are kept, and the next attempt goes on with those that lack"


class RefusedRequest(IgnoreRequest):
    """A request that must not be sent: to another host, or forbidden by robots.txt."""


def scrapy_settings(crawl: CrawlSettings) -> dict[str, Any]:
    """Return what Scrapy is to be told: polite, quiet, to one site by HTTP only, nothing it could be reached by."""
    return {
        "USER_AGENT": crawl.user_agent,
        "DOWNLOAD_DELAY": crawl.delay_seconds,
        "DOWNLOAD_DELAY_JITTER": 0,  # would also take away from the delay
        "CONCURRENT_REQUESTS": crawl.concurrent,
        "CONCURRENT_REQUESTS_PER_DOMAIN": crawl.concurrent,
        "AUTOTHROTTLE_ENABLED": True,
        "AUTOTHROTTLE_START_DELAY": crawl.delay_seconds,
        "AUTOTHROTTLE_TARGET_CONCURRENCY": float(crawl.concurrent),
        "RETRY_TIMES": crawl.retries,
        "DOWNLOAD_TIMEOUT": crawl.timeout_seconds,
        "DOWNLOAD_MAXSIZE": crawl.max_page_bytes,
        "DOWNLOAD_WARNSIZE": 0,
        "DOWNLOAD_VERIFY_CERTIFICATES": True,
        "DOWNLOAD_HANDLERS": {"data": None, "file": None, "ftp": None, "s3": None},
        "REDIRECT_MAX_TIMES": 5,
        "METAREFRESH_ENABLED": False,
        "HTTPERROR_ALLOW_ALL": True,
        "COOKIES_ENABLED": False,
        "REFERER_ENABLED": False,
        "DOWNLOADER_MIDDLEWARES": {
            OneSite: 10,
            Backoff: 550,
            "scrapy.downloadermiddlewares.retry.RetryMiddleware": None,
            "scrapy.downloadermiddlewares.offsite.OffsiteMiddleware": None,
        },
        "EXTENSIONS": {"scrapy.extensions.logstats.LogStats": None},
        "TELNETCONSOLE_ENABLED": False,
        "REMOTE_CONTROL_ENABLED": False,
        "MEMUSAGE_ENABLED": False,
        "STATS_DUMP": False,
        "LOG_INSTALL_ROOT_HANDLER": False,
    }


class CatalogueSpider(Spider):
    """Fetches the pages that are not there yet, one file each.

    Attributes:
        failure: What is wrong and what to do, where the crawl cannot become complete.
    """

    name = "catalogue"

    def __init__(self, *, settings_of_crawl: CrawlSettings, pages: Pages, before: Pages) -> None:
        """Take the orders.

        Args:
            settings_of_crawl: Where to begin and what to take.
            pages: Of this crawl, perhaps some of them already there.
            before: Of the last complete crawl with the same selectors: what may be unchanged.
        """
        super().__init__()
        self._crawl = settings_of_crawl
        self._pages = pages
        self._before = before
        self._start = plain_url(settings_of_crawl.page_url(1))
        self._site = _site(self._start)
        self._robots: Protego | None = None
        # By address; of numbered pages, the number.
        self._asked: dict[str, int] = {}
        self.failure: str | None = None

    async def start(self) -> AsyncIterator[Request]:
        """Read robots.txt, then ask for every page that is known of and not there yet."""
        try:
            await self._read_robots()
            linked_from: dict[str, str] = {}
            for url, page in list(self._pages.walk(self._start)):
                self._count(url)
                for link in page.next if page else ():
                    linked_from.setdefault(link, url)
                if page is None:
                    yield self._ask(url, linked_from=linked_from.get(url))
        except (CrawlError, RefusedRequest) as error:
            self.failure = str(error)

    def check(self, url: str) -> None:
        """Make sure that the address may be asked for.

        Raises:
            RefusedRequest: If it is of another host, or robots.txt forbids it.
        """
        if _site(url) not in _same_site(self._site):
            raise RefusedRequest(
                f"{url[:_LONGEST_URL]} is not on the host of [catalogue.crawl].start_url, {self._start}:"
                " the crawler never leaves it. If the catalogue has moved, set start_url"
            )
        if self._robots and not self._robots.can_fetch(url, self._crawl.user_agent):
            raise RefusedRequest(
                f"robots.txt of the site forbids {url} to [catalogue.crawl].user_agent = {self._crawl.user_agent!r}:"
                " ask its owner, or correct [catalogue.crawl].start_url and next"
            )

    async def page(self, response: Response) -> AsyncIterator[Request]:
        """Keep one page and ask for those it links to.

        Raises:
            CloseSpider: If the crawl cannot become complete.
        """
        try:
            page = self._read(response)
            self._pages.put(page)
            for link in page.next:
                if link not in self._asked:
                    self._count(link)
                    yield self._ask(link, linked_from=page.url)
        except (CrawlError, RefusedRequest) as error:
            self.failure = self.failure or str(error)
            raise CloseSpider("failed") from None
        except Exception as error:
            self.failure = self.failure or f"{response.url}: {type(error).__name__}: {error}"
            raise

    async def no_page(self, failure: Failure) -> AsyncIterator[Request]:
        """Take note that no answer came.

        Raises:
            CloseSpider: Always.
        """
        self.failure = self.failure or self._why(failure)
        raise CloseSpider("failed")
        yield  # an empty generator, as Scrapy wants it

    def _ask(self, url: str, linked_from: str | None = None) -> Request:
        self.check(url)
        headers = {}
        before = self._before.get(url)
        if before and before.etag:
            headers["If-None-Match"] = before.etag
        if before and before.last_modified:
            headers["If-Modified-Since"] = before.last_modified
        # Filtered by Scrapy, a page that another one redirects to would silently be missing.
        return Request(
            url,
            callback=self.page,
            errback=self.no_page,
            headers=headers,
            dont_filter=True,
            meta={"asked": url, "linked_from": linked_from},
        )

    def _count(self, url: str) -> None:
        if len(url) > _LONGEST_URL:
            raise CrawlError(f"a link to a further page is longer than {_LONGEST_URL} characters: {url[:200]}…")
        self._asked.setdefault(url, len(self._asked) + 1)
        if len(self._asked) > self._crawl.max_pages:
            raise CrawlError(
                f"the site at {self._start} has more than [catalogue.crawl].max_pages = {self._crawl.max_pages} pages,"
                f" the next one is {url}: raise the limit, or correct [catalogue.crawl].next if it never ends"
            )

    def _read(self, response: Response) -> Page:
        url = str(response.meta["asked"])
        if response.status == HTTPStatus.NOT_MODIFIED and (before := self._before.get(url)):
            logger.info("page %d: unchanged, %d items: %s", self._number(), len(before.items), url)
            return Page(**{**vars(before), "unchanged": True})
        if response.status in _GONE and self._is_numbered and url != self._start:
            logger.info("no page %d: %s", self._number(), url)
            return Page(url=url, base=url, items=[])
        if response.status != HTTPStatus.OK:
            raise CrawlError(self._refusal(response))
        if not isinstance(response, TextResponse):
            kind = (response.headers.get("Content-Type") or b"no type").decode("latin-1")
            raise CrawlError(
                f"{url} is no text but {kind!r}, {len(response.body)} bytes: is it a page of the catalogue?"
            )
        if self._crawl.encoding:
            response = response.replace(encoding=self._crawl.encoding)
        by = self._crawl.encoding or "utf-8"
        text = response.body.decode(by, "replace") if self._crawl.format == "json" else response.text
        try:
            items, links, total = take_apart(text, self._crawl)
        except CrawlError as error:
            raise CrawlError(f"{url}: {error}") from None
        if self._is_numbered:
            items = self._not_seen(url, items)
            links = [self._crawl.page_url(self._asked[url] + 1)] if items else []
        page = Page(
            url=url,
            base=get_base_url(response),
            items=items,
            next=list(dict.fromkeys(_links(response, links))),
            total=total,
            etag=_header(response, "ETag"),
            last_modified=_header(response, "Last-Modified"),
        )
        logger.info("page %d: %d items: %s", self._number(), len(items), url)
        return page

    @property
    def _is_numbered(self) -> bool:
        return PAGE_NUMBER in (self._crawl.start_url or "")

    def _not_seen(self, url: str, items: list[dict[str, list[str]]]) -> list[dict[str, list[str]]]:
        """Return none where a page shows what the first or the one before did, as sites do where there are no more."""
        number = self._asked[url]
        others = {1, number - 1} - {0, number}
        shown = [self._pages.get(plain_url(self._crawl.page_url(other))) for other in others]
        return [] if any(page and page.items == items for page in shown) else items

    def _number(self) -> int:
        """How many pages are known of: the number of this one, where each links to the next."""
        return len(self._asked)

    def _refusal(self, response: Response) -> str:
        url, status = response.meta["asked"], response.status
        says = f"{url} answers {status}" + (f" (led to {response.url})" if plain_url(response.url) != url else "")
        if status in _GONE:
            linked_from = response.meta["linked_from"]
            if linked_from is None:
                return f"{says}: there is no such page. Correct [catalogue.crawl].start_url"
            self._pages.forget(linked_from)  # it has changed since, or its link is wrong
            return f"{says}, though {linked_from} links to it: try again, and if it stays so, tell the site's owner"
        if status in _FORBIDDEN:
            return f"{says}: the site refuses the crawler. Ask its owner; [catalogue.crawl].user_agent says who asks"
        if response.meta.get("wait_too_long"):
            asked = response.meta["wait_too_long"]
            limit = f"[catalogue.crawl].max_wait_seconds = {self._crawl.max_wait_seconds:g}"
            return f"{says} and wants {asked:.0f} s of rest, more than {limit}. {_LATER}"
        if status == HTTPStatus.TOO_MANY_REQUESTS or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return f"{says}, after {response.meta.get('retry_times', 0) + 1} tries. {_LATER}"
        return f"{says}: no page of a catalogue. Open it in a browser, and correct [catalogue.crawl]"

    def _why(self, failure: Failure) -> str:
        error = failure.value
        url = failure.request.meta.get("asked", failure.request.url)  # type: ignore[attr-defined]
        if isinstance(error, RefusedRequest):
            return str(error)
        if isinstance(error, DownloadCancelledError) or "DOWNLOAD_MAXSIZE" in str(error):
            limit = f"[catalogue.crawl].max_page_bytes = {self._crawl.max_page_bytes}"
            return f"{url} is larger than {limit}: raise it, if that is a page of the catalogue"
        if isinstance(error, IgnoreRequest):
            return f"{url} cannot be read: {_one_line(error)}. Open it in a browser, and correct [catalogue.crawl]"
        tries = failure.request.meta.get("retry_times", 0) + 1  # type: ignore[attr-defined]
        return f"{url} cannot be read: {_one_line(error)}, after {tries} tries. {_LATER}"

    async def _read_robots(self) -> None:
        """Fetch the rules as RFC 9309 says: without such a file all is allowed, without an answer nothing is."""
        parts = urlsplit(self._start)
        url = f"{parts.scheme}://{parts.netloc}/robots.txt"
        assert self.crawler.engine
        try:
            response = await self.crawler.engine.download_async(Request(url, dont_filter=True, meta={"asked": url}))
        except RefusedRequest as error:
            raise CrawlError(f"{url} leads elsewhere: {error}") from None
        except Exception as error:
            raise CrawlError(
                f"{url} cannot be read: {_one_line(error)}. Is [catalogue.crawl].start_url right? {_LATER}"
            ) from None
        if response.status == HTTPStatus.TOO_MANY_REQUESTS or response.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise CrawlError(f"{url} answers {response.status}: until it can be read, nothing may be. {_LATER}")
        if response.status != HTTPStatus.OK:
            logger.info("no robots.txt (%d): %s", response.status, url)
            return
        self._robots = Protego.parse(response.body.decode("utf-8", "replace"))
        asked = self._robots.crawl_delay(self._crawl.user_agent) or 0.0
        rate = self._robots.request_rate(self._crawl.user_agent)
        if rate and rate.requests:
            asked = max(asked, rate.seconds / rate.requests)
        self._slow_down(asked)

    def _slow_down(self, seconds: float) -> None:
        if seconds <= self._crawl.delay_seconds:
            return
        logger.info("robots.txt asks for %g s between two requests", seconds)
        assert self.crawler.engine
        throttle = self.crawler.get_extension(AutoThrottle)
        assert throttle
        throttle.mindelay = seconds
        throttle.maxdelay = max(throttle.maxdelay, seconds)
        self.crawler.engine.downloader._delay = seconds
        for slot in self.crawler.engine.downloader.slots.values():
            slot.delay = max(slot.delay, seconds)


class OneSite:
    """Downloader middleware: no request leaves the site or goes where robots.txt forbids, redirected or not."""

    def __init__(self, crawler: Crawler) -> None:
        self._crawler = crawler

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        """Make one, as Scrapy does."""
        return cls(crawler)

    def process_request(self, request: Request) -> None:
        """Let it through.

        Raises:
            RefusedRequest: If it must not be sent.
        """
        spider = self._crawler.spider
        assert isinstance(spider, CatalogueSpider)
        spider.check(request.url)


class Backoff:
    """Downloader middleware: errors that may pass are met by waiting, longer each time, or as long as the site says."""

    def __init__(self, crawler: Crawler, crawl: CrawlSettings) -> None:
        self._crawler = crawler
        self._crawl = crawl
        self._statuses = {int(status) for status in crawler.settings.getlist("RETRY_HTTP_CODES")}
        self._errors = tuple(load_object(error) for error in crawler.settings.getlist("RETRY_EXCEPTIONS"))
        self._not_before = 0.0

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        """Make one, as Scrapy does."""
        spider = crawler.spider
        assert isinstance(spider, CatalogueSpider)
        return cls(crawler, spider._crawl)

    async def process_request(self, request: Request) -> None:
        """Hold it back until the site may be asked again."""
        while (wait := self._not_before - time.monotonic()) > 0:
            await asyncio.sleep(wait)

    def process_response(self, request: Request, response: Response) -> Request | Response:
        """Ask again where that may help."""
        if response.status not in self._statuses:
            return response
        asked = _retry_after(response)
        if asked is not None and asked > self._crawl.max_wait_seconds:
            request.meta["wait_too_long"] = asked
            return response
        return self._again(request, f"answers {response.status}", asked) or response

    def process_exception(self, request: Request, exception: Exception) -> Request | None:
        """Ask again where that may help."""
        return self._again(request, _one_line(exception), None) if isinstance(exception, self._errors) else None

    def _again(self, request: Request, reason: str, asked: float | None) -> Request | None:
        assert self._crawler.spider
        retry = get_retry_request(request, spider=self._crawler.spider, reason=reason, give_up_log_level=logging.DEBUG)
        if retry is None:
            return None
        tries: int = retry.meta["retry_times"]
        wait = (
            min(self._crawl.backoff_seconds * 2 ** (tries - 1), self._crawl.max_wait_seconds)
            if asked is None
            else asked
        )
        self._not_before = max(self._not_before, time.monotonic() + wait)
        logger.warning("%s %s; retry %d of %d in %g s", request.url, reason, tries, self._crawl.retries, wait)
        return retry


def _retry_after(response: Response) -> float | None:
    """How many seconds the site asks to wait, or None where it does not say."""
    text = _header(response, "Retry-After")
    if text is None:
        return None
    if text.isascii() and text.isdigit():
        return float(text[:12])
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, (moment.replace(tzinfo=moment.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def _links(response: TextResponse, links: list[str]) -> Iterator[str]:
    for link in links:
        try:
            yield plain_url(response.urljoin(link.strip()))
        except ValueError as error:
            raise CrawlError(f"{response.url} links to {link[:200]!r}, which is no address: {error}") from None


def _header(response: Response, name: str) -> str | None:
    value = response.headers.get(name)
    text = value.decode("latin-1").strip()[:1000] if value else ""
    return text or None


def _site(url: str) -> tuple[str, str, int]:
    try:
        parts = urlsplit(url)
        return parts.scheme, parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 0)
    except ValueError:
        return "", "", 0


def _same_site(site: tuple[str, str, int]) -> tuple[tuple[str, str, int], ...]:
    """The site itself and, at the usual ports, the same host by the safer way."""
    return (site, ("https", site[1], 443)) if site[0] == "http" and site[2] == _PORTS["http"] else (site,)


def _one_line(error: BaseException | None) -> str:
    text = " ".join(str(error).split())[:300]
    return f"{type(error).__name__} ({text})" if text else type(error).__name__
