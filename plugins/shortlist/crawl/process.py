"""Scrapy in a process of its own: its reactor runs once, and what takes foreign pages apart holds no secrets.

`fetch` starts `python -m shortlist.crawl.process`, tells it by one line of JSON what to do, and passes on its log line
by line. The child ends when its parent does.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic import TypeAdapter

from shortlist.crawl.pages import Pages
from shortlist.errors import CrawlError
from shortlist.settings import CrawlSettings

if TYPE_CHECKING:
    from typing import NoReturn

logger = logging.getLogger(__name__)

_PLUGINS: Final = str(Path(__file__).resolve().parents[2])
_FAILED: Final = "FAILED"
_DONE: Final = "DONE"
_LEVELS: Final = {"INFO": logging.INFO, "WARNING": logging.WARNING, "ERROR": logging.ERROR}
# What a process needs that speaks HTTP, and nothing that opens a door.
_ENVIRONMENT: Final = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR")
_PROXIES: Final = ("http_proxy", "https_proxy", "no_proxy", "all_proxy")


def fetch(crawl: CrawlSettings, *, pages: str, before: str | None, lock: int) -> None:
    """Fetch every page of the site that is not yet in the folder `pages`.

    Args:
        crawl: Where to begin, what to take, how fast.
        pages: Folder of this crawl; kept when it fails, so that the next attempt goes on.
        before: Folder of the last complete crawl, for pages that may not have changed.
        lock: Open file that keeps other crawls out, which the child holds, too.

    Raises:
        CrawlError: If the site is away, forbids it, or a page cannot be read. Says which and what to do.
    """
    order = {"crawl": asdict(crawl), "pages": pages, "before": before}
    environment = {
        name: value for name, value in os.environ.items() if name in _ENVIRONMENT or name.lower() in _PROXIES
    }
    child = subprocess.Popen(  # noqa: S603 - our own module, by the Python that runs
        [sys.executable, "-P", "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**environment, "PYTHONPATH": _PLUGINS, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"},
        pass_fds=(lock,),
        encoding="utf-8",
        errors="replace",
    )
    outcome = None
    try:
        assert child.stdin
        assert child.stdout
        child.stdin.write(json.dumps(order) + "\n")
        child.stdin.flush()
        for line in child.stdout:
            kind, _, text = line.rstrip("\n").partition(" ")
            if kind in (_DONE, _FAILED):
                outcome = kind, text
            elif kind in _LEVELS:
                logger.log(_LEVELS[kind], "%s", text)
            else:
                logger.error("%s", line.rstrip("\n"))
    finally:
        child.kill()
        child.wait()
    if outcome is None:
        raise CrawlError(f"the crawler ended without a word ({child.returncode}): see the lines above, then retry")
    if outcome[0] == _FAILED:
        raise CrawlError(outcome[1])


def main() -> NoReturn:
    """Do what the line of JSON on standard input says; end at once when that is closed."""
    order = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_OneLine("%(levelname)s %(message)s"))
    handler.addFilter(lambda record: record.levelno >= logging.ERROR or record.name.startswith("shortlist"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    failure = _crawl(order)
    print(f"{_FAILED} {' '.join(failure.split())}" if failure else _DONE, flush=True)  # noqa: T201 - to the parent
    os._exit(0)


def _crawl(order: dict[str, Any]) -> str | None:
    from scrapy.crawler import CrawlerProcess

    from shortlist.crawl.spider import CatalogueSpider, scrapy_settings

    crawl = TypeAdapter(CrawlSettings).validate_python(order["crawl"])
    process = CrawlerProcess(scrapy_settings(crawl))
    crawler = process.create_crawler(CatalogueSpider)
    before = Pages(order["before"] or f"{order['pages']}/none")
    process.crawl(crawler, settings_of_crawl=crawl, pages=Pages(order["pages"]), before=before)
    process.start(install_signal_handlers=False)
    spider = crawler.spider
    if not isinstance(spider, CatalogueSpider):
        return "the crawler did not start: see the lines above"
    return spider.failure


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


class _OneLine(logging.Formatter):
    """Nothing in a message can look like a message of its own."""

    def format(self, record: logging.LogRecord) -> str:
        return " ".join(super().format(record).split())


if __name__ == "__main__":
    main()
