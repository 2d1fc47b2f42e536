"""What Prometheus is told: requests and seconds by route."""

from __future__ import annotations

import time
from functools import cache
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)


class Watch:
    """The figures of one application."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._requests = Counter(
            "shortlist_requests", "Requests by route and status", ["route", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "shortlist_request_seconds", "Seconds to answer", ["route"], buckets=_SECONDS, registry=self._registry
        )
        # What `labels` finds stays the same; it costs more than all the rest of counting.
        self._count = cache(self._requests.labels)
        self._time = cache(self._seconds.labels)
        self.stale = Counter("shortlist_stale_answers", "Lists marked as stale", registry=self._registry)
        self.search_fallbacks = Counter(
            "shortlist_search_fallbacks", "Searches that PostgreSQL answered for Elasticsearch", registry=self._registry
        )
        self.in_memory = Gauge("shortlist_users_in_memory", "Users whose lists need no query", registry=self._registry)
        self.away = Gauge("shortlist_part_away", "1 while a part is away", ["part"], registry=self._registry)

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Count one request."""
        self._count(route, status).inc()
        self._time(route).observe(seconds)

    def text(self) -> bytes:
        """Return the figures in the text format of Prometheus."""
        return generate_latest(self._registry)


class WatchMiddleware:
    """Counts every request under the template of its route, so that ids make no series of their own."""

    def __init__(self, app: ASGIApp, watch: Watch) -> None:
        self._app = app
        self._watch = watch

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and count it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            self._watch.answered(route, status, time.perf_counter() - start)
