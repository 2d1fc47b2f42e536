"""The short way to a recommendation: what a framework does for any request costs more than this answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from fastapi.exceptions import RequestValidationError
from pydantic import TypeAdapter, ValidationError

from service.answers import Id

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from service.filters import FilterReader
    from service.handing_out import Desk
    from service.watching import Watch

RECOMMENDATIONS: Final = "/v1/recommendations/"
_ID: Final[TypeAdapter[str]] = TypeAdapter(Id)


class _Route(NamedTuple):
    path: str


class ShortWayMiddleware:
    """Answers GET requests for recommendations before they reach routing.

    A request that is refused goes on to the route, which says why.

    Args:
        app: The application behind it.
        desk: Makes the answers.
        filters: Reads query strings.
        watch: Counts stale answers.
    """

    def __init__(self, app: ASGIApp, desk: Desk, filters: FilterReader, watch: Watch) -> None:
        self._app = app
        self._desk = desk
        self._filters = filters
        self._watch = watch
        self._route = _Route(f"{RECOMMENDATIONS}{{user_id:path}}")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass the request on."""
        if scope["type"] != "http" or scope["method"] != "GET" or not scope["path"].startswith(RECOMMENDATIONS):
            await self._app(scope, receive, send)
            return
        try:
            user_id = _ID.validate_python(scope["path"][len(RECOMMENDATIONS) :])
            wanted = self._filters.wanted(scope["query_string"])
        except (ValidationError, RequestValidationError):
            await self._app(scope, receive, send)
            return
        scope["route"] = self._route
        body, is_stale = await self._desk.write_recommendations(user_id, wanted)
        if is_stale:
            self._watch.stale.inc()
        headers = [(b"content-length", b"%d" % len(body)), (b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})
