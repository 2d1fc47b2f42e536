"""A shop's site on this machine that does what real ones do on bad days, and writes down who asked when for what."""

from __future__ import annotations

import hashlib
import ssl
import time
from collections import defaultdict, deque
from dataclasses import dataclass, field
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path


@dataclass(frozen=True)
class Answer:
    """What the site sends. `missing` bytes are announced and never sent; after each byte it sleeps `pause` seconds."""

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    kind: str = "text/html; charset=utf-8"
    missing: int = 0
    pause: float = 0


@dataclass(frozen=True)
class Asked:
    """One request; `at` is the monotonic time of its arrival, in seconds."""

    path: str
    at: float
    headers: Mapping[str, str]


class MisbehavingSite:
    """Runs inside a `with` block.

    Attributes:
        pages: What it answers, by path with query. Anything else is not found.
        instead: Answers to give before those, once each, by path.
        before: Called with the path before each answer.
        asked: Every request.
        validators: Whether it knows ETag and answers 304.
    """

    def __init__(self, certificate: Path | None = None) -> None:
        """Listen; with a file of a key and its certificate by HTTPS."""
        self.pages: dict[str, Answer] = {}
        self.instead: dict[str, deque[Answer]] = defaultdict(deque)
        self.before: Callable[[str], None] = lambda _: None
        self.asked: list[Asked] = []
        self.validators = False
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                site.asked.append(Asked(self.path, time.monotonic(), dict(self.headers.items())))
                site.before(self.path)
                waiting = site.instead[self.path]
                answer = waiting.popleft() if waiting else site.pages.get(self.path, Answer(b"nothing here", 404))
                tag = f'"{hashlib.sha256(answer.body).hexdigest()[:16]}"'
                validators = site.validators and answer.status == 200
                if validators and self.headers.get("If-None-Match") == tag:
                    answer = Answer(status=304)
                self.send_response(answer.status)
                if validators:
                    self.send_header("ETag", tag)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                if answer.status != 304:
                    self.send_header("Content-Type", answer.kind)
                    self.send_header("Content-Length", str(len(answer.body) + answer.missing))
                self.end_headers()
                for part in [answer.body] if not answer.pause else [bytes([byte]) for byte in answer.body]:
                    self.wfile.write(part)
                    time.sleep(answer.pause)
                self.close_connection = self.close_connection or answer.missing > 0

            def log_message(self, *_: object) -> None: ...

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_: object) -> None:
                """A client that was killed does not read its answer."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http{'s' if certificate else ''}://127.0.0.1:{self._server.server_port}/"
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)

    def __enter__(self) -> Self:
        Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def paths(self) -> list[str]:
        """What was asked for, in order, without robots.txt."""
        return [one.path for one in self.asked if one.path != "/robots.txt"]

    def offer(self, count: int, *, per_page: int = 2) -> None:
        """Have a catalogue of so many items, on pages of so many that link to the next."""
        self.pages = {path: page for path, page in self.pages.items() if path == "/robots.txt"}
        shown = [line(number) for number in range(count)]
        last = -(-count // per_page)
        for page in range(1, last + 1):
            self.pages["/" if page == 1 else f"/?page={page}"] = html(
                shown[(page - 1) * per_page : page * per_page],
                following=f"/?page={page + 1}" if page < last else None,
            )

    def forbid(self, rules: str) -> None:
        """Have such a robots.txt."""
        self.pages["/robots.txt"] = Answer(rules.encode(), kind="text/plain")


def line(number: int, **fields: str | None) -> dict[str, str | None]:
    """One item of the catalogue; None leaves a field out."""
    return {
        "item_id": f"{10000 + number}",
        "title": f"Cup no. {number}",
        "category": "Kitchen",
        "price": f"£{number + 1}.50",
        "stock": "In stock",
        **fields,
    }


def html(
    items: Sequence[Mapping[str, str | None]], *, following: str | None = None, encoding: str = "utf-8", total: int = 0
) -> Answer:
    """A page that lists items."""
    shown = []
    for item in items:
        fields = "".join(
            f'<span class="{name}">{escape(value)}</span>'
            for name, value in item.items()
            if name != "item_id" and value is not None
        )
        shown.append(f'<li class="item" data-id="{escape(item["item_id"] or "")}">{fields}</li>')
    link = "" if following is None else f'<a rel="next" href="{escape(following)}">More</a>'
    count = f'<p class="total">{total}</p>' if total else ""
    body = f"<!DOCTYPE html><html><body>{count}<ul>{''.join(shown)}</ul>{link}</body></html>"
    return Answer(body.encode(encoding))
