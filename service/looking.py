"""What the page shows beside lists: search, users, generations, drift, the experiment, parts."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

from service import reading
from service.answers import (
    DatasetRow,
    DriftRun,
    DriftRuns,
    ExperimentAnswer,
    FoundItem,
    FoundItems,
    FoundUser,
    FoundUsers,
    GenerationRow,
    Generations,
    Interval,
    OnlineRate,
    PartRow,
    Parts,
    RecentEvent,
    Taken,
    User,
    VariantRow,
)
from service.connections import SLOW_SECONDS, AwayError
from service.lists import DEFAULT, ITEMS, ONLINE, PERSONAL
from shortlist.recommender import rates
from shortlist.stores import drift_records, files

if TYPE_CHECKING:
    from collections.abc import Mapping

    from service.connections import Part, Postgres, RedisPart
    from service.lists import Lists
    from service.recent import RecentEvents
    from service.rules import RulesFile
    from service.searching import Hit, SearchPart

_GENERATIONS: Final = 30

_PUBLISHED_BY: Final = {
    PERSONAL: "load_candidates_ranked",
    ONLINE: "load_online_recs",
    DEFAULT: "load_default_recs",
    ITEMS: "any of the load_* DAGs",
}
_RUNS: Final = 60
_HEADLINE: Final = "ndcg@10"

_WORDS = re.compile(r"\w+")


async def find_items(
    postgres: Postgres, search: SearchPart, lists: Lists, query: str, limit: int
) -> tuple[FoundItems, bool]:
    """Find items by id, beginning of an id, or words (or beginnings of words) of the title.

    Elasticsearch finds them where there is one. PostgreSQL does where there is none, where it is away or late, and
    where it finds nothing: its index is of the last crawl, and may be older than what is served.

    Returns:
        The items, and whether PostgreSQL had to answer because Elasticsearch did not.

    Raises:
        AwayError: If PostgreSQL would have to answer and is away.
    """
    did_not_answer = False
    if search.is_configured:
        try:
            hits = await search.find(query, limit)
        except AwayError:
            did_not_answer = True
        else:
            if hits:
                return FoundItems(items=[_found(hit, lists) for hit in hits]), False
    return await _find_in_tables(postgres, query, limit), did_not_answer


def _found(hit: Hit, lists: Lists) -> FoundItem:
    """What is served now counts, not what was when the index was made."""
    catalogue = lists.world.catalogue
    known = catalogue.items.get(hit.item_id)
    title, category, available = known or hit[1:]
    return FoundItem(item_id=hit.item_id, title=title, category=category, available=available)


async def _find_in_tables(postgres: Postgres, query: str, limit: int) -> FoundItems:
    words = " & ".join(f"{word}:*" for word in _WORDS.findall(query))
    rows = await postgres.rows(reading.FIND_ITEMS, query, words, limit, seconds=SLOW_SECONDS)
    return FoundItems(
        items=[
            FoundItem(item_id=item_id, title=title, category=category, available=available)
            for item_id, title, category, available in rows
        ]
    )


async def find_users(postgres: Postgres, query: str, limit: int) -> FoundUsers:
    """Find users whose id begins so.

    Raises:
        AwayError: If PostgreSQL is away.
    """
    rows = await postgres.rows(reading.FIND_USERS, query, limit, seconds=SLOW_SECONDS)
    return FoundUsers(users=[FoundUser(user_id=user_id, interactions=number) for user_id, number in rows])


async def user(postgres: Postgres, lists: Lists, recents: RecentEvents, user_id: str, limit: int) -> User:
    """Return what is known of a user.

    Raises:
        AwayError: If PostgreSQL is away.
    """
    rows = await postgres.rows(reading.HISTORY, user_id, seconds=SLOW_SECONDS)
    taken = sorted(zip(*rows[0], strict=True), key=lambda one: one[1], reverse=True) if rows else []
    known = bool(rows) or (await lists.user(user_id)).known
    try:
        events = await recents.of(user_id)
    except AwayError:
        events = ()
    catalogue = lists.world.catalogue
    return User(
        user_id=user_id,
        known=known,
        interactions=len(taken),
        history=[
            Taken(
                item_id=item_id,
                title=catalogue.title(item_id),
                category=catalogue.get(item_id).category,
                time=time,
                weight=weight,
            )
            for item_id, time, weight in taken[:limit]
        ],
        recent=[
            RecentEvent(item_id=event.item_id, title=catalogue.title(event.item_id), time=event.time, kind=event.kind)
            for event in events
        ],
    )


async def generations(postgres: Postgres, lists: Lists) -> Generations:
    """Return the newest generations of every data set.

    Raises:
        AwayError: If PostgreSQL is away.
    """
    rows = await postgres.rows(reading.GENERATIONS, _GENERATIONS, seconds=SLOW_SECONDS)
    online = await reading.online_counts(postgres)
    found: dict[str, list[GenerationRow]] = {}
    for row in rows:
        number = row["generation_id"]
        found.setdefault(row["dataset"], []).append(
            GenerationRow(
                generation_id=number,
                week=row["week"],
                run_key=row["run_key"],
                model_version=row["model_version"],
                status=row["status"],
                kept=row["kept"],
                rows=row["rows"],
                created_at=row["created_at"],
                published_at=row["published_at"],
                metrics=_headlines(json.loads(row["metrics"])),
                online=_rate(*online[number]) if number in online else None,
            )
        )
    served = lists.world.served
    return Generations(
        datasets=[
            DatasetRow(
                dataset=dataset,
                served=served[dataset].generation_id if dataset in served else None,
                generations=found[dataset],
            )
            for dataset in sorted(found, key=lambda name: (name != PERSONAL, name))
        ]
    )


def drift(folder: str, reports: str) -> DriftRuns:
    """Return the newest decisions about retraining. Reads files: call it in a thread."""
    runs = []
    for decision in reversed(drift_records.history(folder, _RUNS)):
        name = decision["batch"]
        there = files.exists(f"{reports}/{name}/index.html")
        runs.append(
            DriftRun(
                batch=name,
                retrain=decision["retrain"],
                reason=decision["reason"],
                score=decision["score"],
                data_drift=decision["data_drift"],
                model_drift=decision["model_drift"],
                waiting=decision.get("waiting"),
                champion=decision.get("champion"),
                report=f"/reports/{name}/index.html" if there else None,
            )
        )
    return DriftRuns(runs=runs)


async def experiment(postgres: Postgres, lists: Lists, rules: RulesFile) -> ExperimentAnswer:
    """Return both sides of the experiment with their online rates.

    Raises:
        AwayError: If PostgreSQL is away.
    """
    tried = rules.current().experiment
    world = lists.world
    pointer = world.pointer(PERSONAL)
    if tried is None:
        return ExperimentAnswer(active=False, name=None, share=None, variants=[], difference=None)
    if world.other_side is None or pointer is None:
        return ExperimentAnswer(active=False, name=tried.name, share=tried.share, variants=[], difference=None)
    counts = await reading.online_counts(postgres)
    sides = [counts.get(number, (0, 0)) for number in (pointer.generation_id, world.other_side[0])]
    (shown_a, clicked_a), (shown_b, clicked_b) = sides
    found = rates.newcombe((min(clicked_a, shown_a), shown_a), (min(clicked_b, shown_b), shown_b))
    return ExperimentAnswer(
        active=True,
        name=tried.name,
        share=tried.share,
        variants=[
            VariantRow(variant="A", generation=pointer.generation_id, **_rate(shown_a, clicked_a).model_dump()),
            VariantRow(variant="B", generation=world.other_side[0], **_rate(shown_b, clicked_b).model_dump()),
        ],
        difference=Interval(mean=found.mean, low=found.low, high=found.high) if found else None,
    )


def parts(
    postgres: Postgres, redis: RedisPart, search: SearchPart, lists: Lists, rules: RulesFile, rankers: str
) -> Parts:
    """Say which parts are there. Looks at the files of the ranker: call it in a thread."""
    world = lists.world
    found = [_state("postgresql", postgres.part)]
    if redis.is_configured:
        found.append(_state("redis", redis.part))
    else:
        found.append(PartRow(name="redis", ok=True, detail="not configured: lists are not blended with recent events"))
    if search.is_configured:
        found.append(PartRow(name="elasticsearch", ok=search.part.problem is None, detail=search.state))
    else:
        found.append(PartRow(name="elasticsearch", ok=True, detail="not configured: PostgreSQL finds items"))
    for dataset in (PERSONAL, ONLINE, DEFAULT, ITEMS):
        pointer = world.pointer(dataset)
        detail = (
            f"generation {pointer.generation_id} of the week {pointer.week}, {pointer.rows or 0:,} rows"
            if pointer
            else f"nothing is served: {_PUBLISHED_BY[dataset]} publishes it"
        )
        found.append(PartRow(name=dataset, ok=pointer is not None, detail=detail))
    problem = rules.problem
    tried = rules.current().experiment
    if problem is None and tried is not None and world.other_side is None:
        problem = f"the experiment {tried.name} is off: generation {tried.generation} of personal_recs is not kept"
    found.append(PartRow(name="rules", ok=problem is None, detail=problem or "in use"))
    pointer = world.pointer(PERSONAL)
    ranker = (pointer.model_version or "").partition("+")[2] if pointer else ""
    there = bool(ranker) and files.exists(f"{rankers}/{ranker}")
    detail = ranker if there else "its folder is not here: explanations go without contributions"
    found.append(PartRow(name="ranker", ok=there, detail=detail))
    return Parts(parts=found)


def _state(name: str, part: Part) -> PartRow:
    return PartRow(name=name, ok=part.problem is None, detail=part.problem or f"answers at {part.place}")


def _rate(impressions: int, clicks: int) -> OnlineRate:
    if not impressions:
        return OnlineRate(impressions=0, clicks=clicks, rate=None, low=None, high=None)
    # Clicks whose impression was never sent count as seen once.
    found = rates.wilson(min(clicks, impressions), impressions)
    return OnlineRate(impressions=impressions, clicks=clicks, rate=found.rate, low=found.low, high=found.high)


def _headlines(metrics: Mapping[str, Any]) -> dict[str, Interval]:
    """NDCG@10 of each model the generation was judged by; foreign files bring metrics of any shape."""
    try:
        models = metrics["evaluation"]["models"]
        return {name: Interval(**model[_HEADLINE]) for name, model in models.items()}
    except (KeyError, TypeError, AttributeError, ValueError):
        return {}
