"""The pages of a crawl, one small file each, by the hash of the address: nothing a page says becomes a file's name."""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urldefrag, urlsplit, urlunsplit

if TYPE_CHECKING:
    from collections.abc import Iterator

_ABOUT: Final = "about.json"


@dataclass(frozen=True)
class Page:
    """What is kept of a page.

    Attributes:
        url: What was asked for.
        base: What its relative links start from.
        items: The texts of each field, as they stand there, by item.
        next: Absolute addresses of further pages.
        total: How many items the site says it has.
        etag: Of the answer, for the next crawl to ask whether the page has changed; and so `last_modified`.
        unchanged: The site said that it is the one of the crawl before.
    """

    url: str
    base: str
    items: list[dict[str, list[str]]]
    next: list[str] = field(default_factory=list)
    total: int | None = None
    etag: str | None = None
    last_modified: str | None = None
    unchanged: bool = False


@dataclass(frozen=True)
class About:
    """Whose crawl it is.

    Attributes:
        run_key: The same for all attempts of one run.
        started: ISO time of the first attempt.
        selectors: Fingerprint of the settings that decide what is taken from a page.
    """

    run_key: str
    started: str
    selectors: str


class Pages:
    """A folder of pages. Every file is complete or not there; one that cannot be read counts as not there."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def begin(self, about: About) -> None:
        """Make the folder and note whose it is."""
        self.folder.mkdir(parents=True, exist_ok=True)
        _write(self.folder / _ABOUT, asdict(about))

    def about(self) -> About | None:
        """Return whose crawl it is, or None where there is none."""
        noted = _read(self.folder / _ABOUT)
        try:
            return None if noted is None else About(**noted)
        except TypeError:
            return None

    def get(self, url: str) -> Page | None:
        """Return the page, or None where it is not there yet."""
        kept = _read(self._file(url))
        try:
            page = None if kept is None else Page(**kept)
        except TypeError:
            return None
        return page if page and page.url == url else None

    def put(self, page: Page) -> None:
        """Keep a page."""
        _write(self._file(page.url), asdict(page))

    def forget(self, url: str) -> None:
        """Have it asked for again."""
        self._file(url).unlink(missing_ok=True)

    def walk(self, start: str) -> Iterator[tuple[str, Page | None]]:
        """Go through all pages that `start` leads to, nearest first; None stands for one that is not there yet.

        The order only depends on what the pages say, not on when they came.
        """
        seen = {start}
        waiting = deque([start])
        while waiting:
            url = waiting.popleft()
            page = self.get(url)
            yield url, page
            for link in page.next if page else ():
                if link not in seen:
                    seen.add(link)
                    waiting.append(link)

    def _file(self, url: str) -> Path:
        return self.folder / f"{hashlib.sha256(url.encode()).hexdigest()}.json"


def plain_url(url: str) -> str:
    """Return an address as it is asked for and kept: safely escaped, with a path, without a fragment.

    Example:
        >>> plain_url("http://shop.test?q=tea cup#top")
        'http://shop.test/?q=tea%20cup'
    """
    from w3lib.url import safe_url_string

    parts = urlsplit(urldefrag(safe_url_string(url)).url)
    return urlunsplit(parts._replace(path=parts.path or "/"))


def _read(file: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(file.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _write(file: Path, value: dict[str, Any]) -> None:
    new = file.with_suffix(".tmp")
    new.unlink(missing_ok=True)
    with new.open("xb") as stream:
        stream.write(json.dumps(value).encode())
    os.replace(new, file)
