"""Builds the application."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from asyncpg import PostgresError
from fastapi import FastAPI, HTTPException
from fastapi.exceptions import RequestValidationError
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.staticfiles import StaticFiles

from service import feedback, reports
from service.connections import AwayError, Postgres, RedisPart
from service.filters import FilterReader
from service.handing_out import Desk
from service.last_known import LastKnown
from service.limits import BodyLimitMiddleware, WriteLimitMiddleware
from service.lists import Lists
from service.recent import RecentEvents
from service.routes import Stand, routes
from service.rules import RulesFile
from service.searching import SearchPart
from service.security import SecurityHeadersMiddleware, key_dependency
from service.short_way import ShortWayMiddleware
from service.watching import Watch, WatchMiddleware

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request

    from service.environment import Environment
    from shortlist.settings import Settings

logger = logging.getLogger(__name__)

_PAGE: Final = Path(__file__).parent / "page"

_LONGEST_PLACE: Final = 200

# Looks at what is served, to one at Elasticsearch: less depends on it.
_SEARCH_LOOKS_EVERY: Final = 5

_ABOUT = (
    "Recommendations of the served generation, blended with what users did since. Lists always answer: while PostgreSQL"
    " or Redis is away they are the last known ones, with `stale: true`."
)


def create_app(environment: Environment, settings: Settings) -> FastAPI:
    """Build the application.

    Args:
        environment: Addresses and secrets.
        settings: Of the project.

    Raises:
        SettingsError: If an address that may frame the page is none.
    """
    limits = settings.service
    postgres = Postgres(environment.database_url, seconds=limits.database_seconds)
    redis = RedisPart(environment.redis_url, seconds=limits.redis_seconds)
    features = RedisPart(environment.features_redis_url, seconds=limits.redis_seconds)
    search = SearchPart(environment.elasticsearch_url, seconds=limits.search_seconds)
    rules = RulesFile(Path(environment.rules_file))
    lists = Lists(postgres, redis, rules, LastKnown(environment.last_known_file), limits)
    recents = RecentEvents(redis, limits)
    watch = Watch()
    stand = Stand(
        settings=settings,
        postgres=postgres,
        redis=redis,
        search=search,
        features=features,
        lists=lists,
        recents=recents,
        rules=rules,
        desk=Desk(
            lists,
            recents,
            rules,
            allow_repeats=settings.publish.allow_repeats,
            remembered=limits.users_in_memory,
        ),
        filters=FilterReader(settings),
        watch=watch,
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await lists.look()
        await _make_tables(stand)  # the first event may come at once
        looking = search.keep_looking(limits.refresh_seconds * _SEARCH_LOOKS_EVERY)
        lasting = (_keep_going(stand), recents.keep_listening(), recents.keep_reading(), looking)
        tasks = [asyncio.create_task(one) for one in lasting]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
            await lists.stop_packing()
            await search.close()
            await redis.close()
            await features.close()
            await postgres.close()

    app = FastAPI(
        title="Shortlist",
        version="1",
        description=_ABOUT,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.include_router(routes(stand, key_dependency(environment.api_key)))
    app.add_exception_handler(AwayError, _away)
    app.add_exception_handler(RequestValidationError, _not_allowed)
    _add_page(app, settings.paths.reports)
    app.add_middleware(BodyLimitMiddleware, body_bytes=limits.body_bytes)
    app.add_middleware(WriteLimitMiddleware, a_minute=limits.writes_a_minute)
    app.add_middleware(ShortWayMiddleware, desk=stand.desk, filters=stand.filters, watch=watch)
    app.add_middleware(SecurityHeadersMiddleware, frame_ancestors=environment.frame_ancestors)
    app.add_middleware(WatchMiddleware, watch=watch)
    return app


async def _make_tables(stand: Stand) -> bool:
    """Create the service's own tables; say whether it is of no use to try again."""
    try:
        await feedback.ensure_tables(stand.postgres)
    except AwayError:
        return False
    except PostgresError as error:
        logger.error("events cannot be kept, the schema service cannot be made: %s", error)
    return True


async def _keep_going(stand: Stand) -> None:
    """Create the service's own tables as soon as PostgreSQL is there, and watch what is served."""
    while not await _make_tables(stand):
        await asyncio.sleep(stand.settings.service.refresh_seconds)
        await stand.lists.look()
    await stand.lists.keep_fresh()


def _add_page(app: FastAPI, folder: str) -> None:
    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(_PAGE / "index.html", headers={"Cache-Control": "no-cache"})

    @app.get("/favicon.ico", include_in_schema=False)
    async def no_icon() -> Response:
        return Response(status_code=204)

    async def report(request: Request) -> Response:
        found = await asyncio.to_thread(reports.read, folder, request)
        if found is None:
            raise HTTPException(404, "There is no such report: GET /v1/reports lists them.")
        return found

    app.add_route("/reports/{name}/{file}", report)
    app.mount("/page", StaticFiles(directory=_PAGE), name="page")


async def _away(request: Request, error: Exception) -> JSONResponse:  # noqa: ARG001 - Starlette passes it
    detail = f"{error or 'A part is away'}: try again in a few seconds."
    return JSONResponse({"detail": detail}, status_code=503, headers={"Retry-After": "5"})


async def _not_allowed(request: Request, error: Exception) -> JSONResponse:  # noqa: ARG001 - Starlette passes it
    """One sentence, as of every other refusal; without the value, which may be long or a secret."""
    assert isinstance(error, RequestValidationError)
    first, *others = error.errors()
    place = ".".join(map(str, first["loc"]))[:_LONGEST_PLACE].encode("utf-8", "replace").decode()
    more = f" (and {len(others)} more)" if others else ""
    return JSONResponse({"detail": f"{place}: {first['msg']}{more}"}, status_code=422)
