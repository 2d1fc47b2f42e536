"""The routes of the API. Each takes typed values, asks one function and answers with a typed model."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Path, Query, Request, Response

from service import explain, feedback, looking, reports
from service.answers import (
    Accepted,
    DriftRuns,
    Events,
    ExperimentAnswer,
    Explanation,
    Forgotten,
    FoundItems,
    FoundUsers,
    Generations,
    Id,
    Live,
    Parts,
    Popular,
    Ready,
    Recommendations,
    Refreshed,
    Reports,
    Similar,
    User,
    problems,
)
from service.connections import AwayError, Postgres, RedisPart
from service.filters import FilterReader
from service.handing_out import Desk
from service.lists import DEFAULT, PERSONAL, Lists
from service.recent import RecentEvents
from service.rules import RulesFile
from service.searching import SearchPart
from service.watching import Watch
from shortlist.settings import Settings


@dataclass(frozen=True)
class Stand:
    """Everything that routes need."""

    settings: Settings
    postgres: Postgres
    redis: RedisPart
    search: SearchPart
    features: RedisPart
    lists: Lists
    recents: RecentEvents
    rules: RulesFile
    desk: Desk
    filters: FilterReader
    watch: Watch


def routes(parts: Stand, require_key: Callable[..., Any]) -> APIRouter:
    """Return all routes of the API.

    Args:
        parts: What they stand on.
        require_key: Dependency of those that change something.
    """
    router = APIRouter()
    _add_lists(router, parts)
    _add_search(router, parts)
    _add_looking(router, parts)
    _add_changes(router, parts, [Depends(require_key)])
    _add_health(router, parts)
    return router


def _add_lists(router: APIRouter, parts: Stand) -> None:
    desk, filters = parts.desk, parts.filters
    query = filters.parameters()

    # Says in the document what `ShortWayMiddleware` answers, and why a request is refused.
    @router.get(
        "/v1/recommendations/{user_id:path}",
        tags=["lists"],
        response_model=Recommendations,
        responses=problems(422),
        openapi_extra=query,
    )
    async def recommendations(user_id: Annotated[Id, Path(examples=["14911"])], request: Request) -> Response:
        """Return exactly k items for a user, known or not."""
        body, _ = await desk.write_recommendations(user_id, filters.wanted(request.scope["query_string"]))
        return Response(body, media_type="application/json")

    @router.get("/v1/items/{item_id:path}/similar", tags=["lists"], responses=problems(404, 422), openapi_extra=query)
    async def similar(item_id: Annotated[Id, Path(examples=["22423"])], request: Request) -> Similar:
        """Return the items most similar to one, at most as many as are kept."""
        answer = await desk.similar(item_id, filters.wanted(request.scope["query_string"]))
        if answer is None:
            raise HTTPException(404, "There is no item with this id in what is served: GET /v1/items?q= finds items.")
        return answer

    @router.get("/v1/popular", tags=["lists"], responses=problems(422), openapi_extra=query)
    async def popular(request: Request) -> Popular:
        """Return the items that anybody gets."""
        return desk.popular(filters.wanted(request.scope["query_string"]))


def _add_search(router: APIRouter, parts: Stand) -> None:
    postgres, lists, rankers = parts.postgres, parts.lists, parts.settings.paths.rankers
    query_type = Annotated[str, Query(min_length=1, max_length=200, description="Id, or words of the title")]
    limit_type = Annotated[int, Query(ge=1, le=100)]

    @router.get("/v1/items", tags=["looking"], responses=problems(422, 503))
    async def find_items(q: query_type, limit: limit_type = 10) -> FoundItems:
        """Find items by id or by words of their title."""
        found, is_fallback = await looking.find_items(postgres, parts.search, lists, _without_nul(q), limit)
        if is_fallback:
            parts.watch.search_fallbacks.inc()
        return found

    @router.get("/v1/users", tags=["looking"], responses=problems(422, 503))
    async def find_users(q: query_type, limit: limit_type = 10) -> FoundUsers:
        """Find users whose id begins so."""
        return await looking.find_users(postgres, _without_nul(q), limit)

    @router.get("/v1/users/{user_id:path}", tags=["looking"], responses=problems(422, 503))
    async def user(
        user_id: Annotated[Id, Path(examples=["14911"])], limit: Annotated[int, Query(ge=1, le=1000)] = 50
    ) -> User:
        """Return the history and the recent events of a user, newest first."""
        return await looking.user(postgres, lists, parts.recents, user_id, limit)

    @router.get("/v1/explain/{user_id}/{item_id:path}", tags=["looking"], responses=problems(404, 422, 503))
    async def explanation(
        user_id: Annotated[Id, Path(examples=["14911"])], item_id: Annotated[Id, Path(examples=["22423"])]
    ) -> Explanation:
        """Say why an item is, or is not, in the list of a user."""
        found = await explain.explain(postgres, lists, rankers=rankers, user_id=user_id, item_id=item_id)
        if found is None:
            raise HTTPException(404, "This item is neither in the list of this user nor among the ranked candidates.")
        return found


def _add_looking(router: APIRouter, parts: Stand) -> None:
    postgres, lists, paths = parts.postgres, parts.lists, parts.settings.paths

    @router.get("/v1/generations", tags=["looking"], responses=problems(503))
    async def generations() -> Generations:
        """Return the newest generations of every data set, with their metrics and online rates."""
        return await looking.generations(postgres, lists)

    @router.get("/v1/drift", tags=["looking"])
    async def drift() -> DriftRuns:
        """Return the newest decisions about retraining."""
        return await asyncio.to_thread(looking.drift, paths.drift, paths.reports)

    @router.get("/v1/experiment", tags=["looking"], responses=problems(503))
    async def experiment() -> ExperimentAnswer:
        """Return both sides of the experiment in config/rules.toml."""
        return await looking.experiment(postgres, lists, parts.rules)

    @router.get("/v1/reports", tags=["looking"])
    async def all_reports() -> Reports:
        """Return the newest reports."""
        return await asyncio.to_thread(reports.newest, paths.reports)

    @router.get("/v1/parts", tags=["looking"])
    async def all_parts() -> Parts:
        """Say which parts are there."""
        return await asyncio.to_thread(
            looking.parts, postgres, parts.redis, parts.search, lists, parts.rules, paths.rankers
        )


def _add_changes(router: APIRouter, parts: Stand, with_key: list[Any]) -> None:
    postgres = parts.postgres

    @router.post(
        "/v1/events",
        tags=["changes"],
        dependencies=with_key,
        responses=problems(400, 401, 408, 413, 422, 429, 503),
    )
    async def events(events: Events) -> Accepted:
        """Keep events: they change the next answers and become next week's feedback file."""
        most = parts.settings.service.events
        if len(events.events) > most:
            raise HTTPException(413, f"More than {most} events in one request: send them in several.")
        latest = datetime.now(UTC) + feedback.AHEAD
        if any(event.time is not None and event.time > latest for event in events.events):
            raise HTTPException(422, "An event's time is more than a day ahead: send times in UTC, as ISO 8601.")
        least, largest = parts.settings.interactions.min_weight, parts.settings.interactions.max_weight
        if any(event.kind == "interaction" and not least <= event.weight <= largest for event in events.events):
            raise HTTPException(
                422, f"An interaction's weight must be from {least:g} to {largest:g}, as [interactions] says."
            )
        kept, repeated, forgotten = await feedback.keep(postgres, parts.recents, events.events)
        return Accepted(accepted=kept, repeated=repeated, forgotten=forgotten)

    @router.delete(
        "/v1/users/{user_id:path}",
        tags=["changes"],
        dependencies=with_key,
        responses=problems(400, 401, 422, 429, 503),
    )
    async def forget(user_id: Annotated[Id, Path(examples=["14911"])]) -> Forgotten:
        """Forget a user: at once in tables and Redis, in files with the next run of the DAG forget_users."""
        removed = await feedback.forget(postgres, parts.recents, parts.features, user_id)
        parts.lists.forget(user_id)
        return Forgotten(
            user_id=user_id,
            removed=removed,
            files="the DAG forget_users takes the user out of the files in its next run, at 22:30 UTC",
        )

    @router.post("/v1/admin/refresh", tags=["changes"], dependencies=with_key, responses=problems(400, 401, 429, 503))
    async def refresh() -> Refreshed:
        """Look at once at what is served and at the rules, rather than within a second."""
        await parts.lists.look()
        if parts.postgres.is_away:
            raise AwayError(parts.postgres.part.problem)
        served = {name: pointer.generation_id for name, pointer in parts.lists.world.served.items()}
        version = parts.lists.world.catalogue.version
        return Refreshed(served=served, catalogue=version, rules=parts.rules.problem or "in use")


def _add_health(router: APIRouter, parts: Stand) -> None:
    @router.get("/health/live", tags=["health"])
    async def live() -> Live:
        """Answer as long as the process does."""
        return Live()

    @router.get("/health/ready", tags=["health"], responses={503: {"model": Ready}})
    async def ready(response: Response) -> Ready:
        """Say whether lists can be handed out."""
        missing = [name for name in (PERSONAL, DEFAULT) if parts.lists.world.pointer(name) is None]
        if parts.postgres.is_away:
            missing.append("postgresql")
        if missing:
            response.status_code = 503
        return Ready(status="not ready" if missing else "ready", missing=missing)

    @router.get("/metrics", tags=["health"], response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """Return the figures for Prometheus."""
        for part in (parts.postgres.part, parts.redis.part, parts.search.part):
            parts.watch.away.labels(part.name).set(part.problem is not None)
        parts.watch.in_memory.set(parts.lists.users_in_memory)
        return Response(parts.watch.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _without_nul(text: str) -> str:
    """PostgreSQL takes no NUL, and no title has one; what is left of a broken character is no character either."""
    return text.replace("\0", " ").encode("utf-8", "replace").decode()
