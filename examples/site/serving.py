"""The site itself: lists of items page by page, as HTML and as JSON, a page an item, robots.txt."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from email.utils import format_datetime, parsedate_to_datetime
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs, quote, unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from examples.site.goods import Article

logger = logging.getLogger(__name__)

_ROBOTS: Final = "User-agent: *\nDisallow: /basket\nDisallow: /account\n"
_PAGE: Final = """<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>{title}</title></head>
<body>
<h1>{title}</h1>
{body}
<p><a href="/basket" rel="nofollow">Your basket</a></p>
</body>
</html>
"""


class Site:
    """The answers of the site. The same goods always give the same bytes."""

    def __init__(self, articles: Sequence[Article], changed: datetime, *, per_page: int = 100) -> None:
        """Take the goods.

        Args:
            articles: In the order in which they are shown.
            changed: UTC; the `Last-Modified` of every page.
            per_page: Items on a page of the list.
        """
        self._articles = list(articles)
        self._by_id = {article.item_id: article for article in articles}
        self._per_page = per_page
        self.changed = changed.replace(microsecond=0)

    def answer(self, target: str) -> tuple[str, bytes] | None:
        """Return the content type and the body of a path with its query, or None where there is nothing."""
        parts = urlsplit(target)
        path = unquote(parts.path)
        if path == "/robots.txt":
            return "text/plain; charset=utf-8", _ROBOTS.encode()
        if path.startswith("/items/"):
            article = self._by_id.get(path.removeprefix("/items/"))
            return None if article is None else ("text/html; charset=utf-8", self._item(article))
        if path not in ("/", "/api/items"):
            return None
        number = parse_qs(parts.query).get("page", ["1"])[0]
        last = max(1, -(-len(self._articles) // self._per_page))
        if not re.fullmatch(r"[1-9][0-9]{0,5}", number) or int(number) > last:
            return None
        if path == "/":
            return "text/html; charset=utf-8", self._list(int(number), last)
        return "application/json", self._json(int(number), last)

    def _shown(self, page: int) -> list[Article]:
        return self._articles[(page - 1) * self._per_page : page * self._per_page]

    def _list(self, page: int, last: int) -> bytes:
        items = "\n".join(
            f'<li class="item" data-id="{escape(article.item_id)}">{_description(article)}</li>'
            for article in self._shown(page)
        )
        ways = [f'<a rel="prev" href="/?page={page - 1}">Back</a>'] if page > 1 else []
        ways += [f'<a rel="next" href="/?page={page + 1}">More</a>'] if page < last else []
        count = f'<p>Page {page} of {last}, <span class="total">{len(self._articles)}</span> items</p>'
        body = f'{count}\n<ul>\n{items}\n</ul>\n<p class="ways">{" ".join(ways)}</p>'
        return _PAGE.format(title="Catalogue", body=body).encode()

    def _json(self, page: int, last: int) -> bytes:
        items = [
            {
                "id": article.item_id,
                "title": article.title,
                "categories": [article.category],
                "price": {"amount": article.price, "currency": "GBP"},
                "in_stock": article.available,
                "url": f"/items/{quote(article.item_id)}",
            }
            for article in self._shown(page)
        ]
        following = f"/api/items?page={page + 1}" if page < last else None
        return json.dumps({"total": len(self._articles), "items": items, "next": following}, indent=1).encode()

    def _item(self, article: Article) -> bytes:
        return _PAGE.format(title=escape(article.title), body=f"<div>{_description(article)}</div>").encode()


def _description(article: Article) -> str:
    stock = "In stock" if article.available else "Out of stock"
    return (
        f'<a class="title" href="/items/{quote(article.item_id)}">{escape(article.title)}</a>'
        f' <span class="category">{escape(article.category)}</span>'
        f' <span class="price">£{article.price}</span>'
        f' <span class="stock">{stock}</span>'
    )


class Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD; a page that the asker knows already is answered by 304."""

    protocol_version = "HTTP/1.1"
    server_version = "shop"
    sys_version = ""
    timeout = 30
    site: Site

    def do_GET(self) -> None:  # noqa: N802 - the standard library's name
        """Answer with head and body."""
        self._answer(body=True)

    def do_HEAD(self) -> None:  # noqa: N802 - the standard library's name
        """Answer with the head alone."""
        self._answer(body=False)

    def log_message(self, form: str, *values: object) -> None:
        """Log a request."""
        logger.info("%s %s", self.address_string(), form % values)

    def _answer(self, *, body: bool) -> None:
        found = self.site.answer(self.path)
        status, (kind, content) = (200, found) if found else (404, ("text/plain; charset=utf-8", b"nothing here\n"))
        tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        if found and self._known(tag):
            status, content = 304, b""
        self.send_response(status)
        if found:
            self.send_header("ETag", tag)
            self.send_header("Last-Modified", format_datetime(self.site.changed, usegmt=True))
            self.send_header("Cache-Control", "no-cache")
        if status != 304:
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        if body:
            self.wfile.write(content)

    def _known(self, tag: str) -> bool:
        if asked := self.headers.get("If-None-Match"):
            return tag in [one.strip().removeprefix("W/") for one in asked.split(",")]
        since = self.headers.get("If-Modified-Since")
        try:
            return since is not None and parsedate_to_datetime(since) >= self.site.changed
        except ValueError:
            return False


def serve(site: Site, *, host: str, port: int) -> ThreadingHTTPServer:
    """Open the port and return the server, which does not run yet."""

    class OfThisSite(Handler):
        """Knows which site."""

    OfThisSite.site = site
    return ThreadingHTTPServer((host, port), OfThisSite)
