"""What the API takes and gives, as typed models. They make the OpenAPI document."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue

from shortlist.columns import TITLE

_LONGEST_ID = 600

Variant = Literal["A", "B"]


# Python counts no years before 1: near them, a time cannot be turned into UTC.
_EARLIEST = datetime(1900, 1, 1, tzinfo=UTC)

# PostgreSQL takes no NUL, and no id of a shop has control characters.
Id = Annotated[str, Field(min_length=1, max_length=_LONGEST_ID, pattern=r"^[^\x00-\x1f]+$")]


class Problem(BaseModel):
    """Why there is no answer: what, where and what to do."""

    detail: str


class Item(BaseModel):
    """One item of a list.

    `source` says where it comes from: `als`, `similar` or `popular`, or several of them joined by `+`, for personal
    recommendations, `recent` for what is
    similar to a recent event, `default` for the list of everybody, `pinned` for a rule, `catalogue` if nothing else was
    left. `reason` is a sentence for people.
    """

    rank: int
    item_id: str
    title: str | None
    category: str | None
    score: float | None
    source: str
    reason: str


class _ListAnswer(BaseModel):
    """What every list says of itself.

    `generation` and `model_version` say what it was made from, `stale` that PostgreSQL or Redis is away and these are
    the last known ones, `complete` that there are as many items as were asked for.
    """

    generation: int | None
    model_version: str | None
    variant: Variant | None = None
    stale: bool
    complete: bool
    time: datetime
    items: list[Item]


_EXAMPLE_ITEM: dict[str, JsonValue] = {
    "rank": 1,
    "item_id": "22423",
    TITLE: "REGENCY CAKESTAND 3 TIER",
    "category": None,
    "score": 0.41,
    "source": "als",
    "reason": "Fits what people with this taste take",
}
_EXAMPLE_HEAD: dict[str, JsonValue] = {
    "generation": 12,
    "model_version": "version_20261121T210500+version_20261121T211500",
    "variant": None,
    "stale": False,
    "complete": True,
    "time": "2026-11-22T08:00:00Z",
    "items": [_EXAMPLE_ITEM],
}


class Recommendations(_ListAnswer):
    """Recommendations for one user. `known`: the user is in the served history or has a list of his own."""

    model_config = ConfigDict(json_schema_extra={"example": {**_EXAMPLE_HEAD, "user_id": "14911", "known": True}})

    user_id: str
    known: bool


class Similar(_ListAnswer):
    """Items similar to one."""

    model_config = ConfigDict(
        json_schema_extra={"example": {**_EXAMPLE_HEAD, "item_id": "22424", "title": "ENAMEL BREAD BIN CREAM"}}
    )

    item_id: str
    title: str | None


class Popular(_ListAnswer):
    """The list of everybody."""

    model_config = ConfigDict(json_schema_extra={"example": _EXAMPLE_HEAD})


class FoundItem(BaseModel):
    """One item of the catalogue."""

    item_id: str
    title: str | None
    category: str | None
    available: bool


class FoundItems(BaseModel):
    """Items whose id or title fits."""

    items: list[FoundItem]


class FoundUser(BaseModel):
    """One user, with the number of items in his history."""

    user_id: str
    interactions: int


class FoundUsers(BaseModel):
    """Users whose id begins so."""

    users: list[FoundUser]


class Taken(BaseModel):
    """One item that a user took."""

    item_id: str
    title: str | None
    category: str | None
    time: datetime
    weight: float


class RecentEvent(BaseModel):
    """One event of the last days, not yet in the served history."""

    item_id: str
    title: str | None
    time: datetime
    kind: str


class User(BaseModel):
    """What is known of a user, newest first."""

    user_id: str
    known: bool
    interactions: int
    history: list[Taken]
    recent: list[RecentEvent]


class Forgotten(BaseModel):
    """Rows and keys that were removed, by table or store, and what happens to the files."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "user_id": "14911",
                "removed": {"personal_recs": 3, "user_history": 3, "events": 12, "redis": 1},
                "files": "the DAG forget_users takes the user out of the files in its next run, at 22:30 UTC",
            }
        }
    )

    user_id: str
    removed: dict[str, int]
    files: str


class Event(BaseModel):
    """Something that happened to a user and an item.

    `generation` is that of the list the item was shown in: clicks and impressions that name it give its online rate.
    An event with a `key` that is known already counts as repeated and is not kept twice.
    """

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "example": {"user_id": "14911", "item_id": "22423", "kind": "click", "generation": 12, "key": "order-17-1"}
        },
    )

    user_id: Id
    item_id: Id
    kind: Literal["interaction", "click", "impression"] = "interaction"
    time: AwareDatetime | None = Field(default=None, ge=_EARLIEST, description="Of the event; now if left out")
    weight: float = Field(default=1.0, ge=-1e6, le=1e6, allow_inf_nan=False)
    generation: int | None = Field(default=None, ge=1, le=2**31 - 1)
    key: Id | None = None


class Events(BaseModel):
    """Events in the order in which they happened."""

    model_config = ConfigDict(extra="forbid")

    events: list[Event] = Field(min_length=1)


class Accepted(BaseModel):
    """How many events were kept, were known by their key, or are of users who asked to be forgotten."""

    accepted: int
    repeated: int
    forgotten: int


class CandidateSource(BaseModel):
    """Where a candidate came from, with its place there."""

    source: str
    rank: int | None
    score: float | None


class Contribution(BaseModel):
    """What one feature adds to the score of the ranker (SHAP value, in the units of the model's raw score)."""

    feature: str
    value: float | None
    contribution: float


class Explanation(BaseModel):
    """Why an item is, or is not, in the list of a user."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "user_id": "14911",
                "item_id": "22423",
                "title": "REGENCY CAKESTAND 3 TIER",
                "listed": True,
                "rank": 1,
                "score": 0.41,
                "sources": [{"source": "als", "rank": 2, "score": 0.93}],
                "features": {"als_score": 0.93, "item_trend": 0.2},
                "contributions": [{"feature": "als_score", "value": 0.93, "contribution": 0.61}],
                "base_value": -2.1,
                "model_version": "version_20261121T210500+version_20261121T211500",
                "ranker": "version_20261121T211500",
                "training_run": "load_candidates_ranked/scheduled__2026-11-21T21:15:00+00:00",
                "data_fingerprint": "5d41402abc4b2a76",
                "generation": 12,
                "reason": "Fits what people with this taste take",
            }
        }
    )

    user_id: str
    item_id: str
    title: str | None
    listed: bool
    rank: int | None
    score: float | None
    sources: list[CandidateSource]
    features: dict[str, float | None]
    contributions: list[Contribution]
    base_value: float | None
    model_version: str | None
    ranker: str | None
    training_run: str | None
    data_fingerprint: str | None
    generation: int | None
    reason: str


class Interval(BaseModel):
    """A figure with its 95 % interval."""

    mean: float
    low: float
    high: float


class OnlineRate(BaseModel):
    """Clicks of impressions, with the 95 % interval of Wilson (1927)."""

    impressions: int
    clicks: int
    rate: float | None
    low: float | None
    high: float | None


class GenerationRow(BaseModel):
    """One generation, with NDCG@10 of each model it was judged by and the online rate, if there are any."""

    generation_id: int
    week: str
    run_key: str
    model_version: str | None
    status: str
    kept: bool
    rows: int | None
    created_at: datetime
    published_at: datetime | None
    metrics: dict[str, Interval]
    online: OnlineRate | None


class DatasetRow(BaseModel):
    """One data set with its generations, newest first."""

    dataset: str
    served: int | None
    generations: list[GenerationRow]


class Generations(BaseModel):
    """All data sets."""

    datasets: list[DatasetRow]


class DriftRun(BaseModel):
    """One decision about a retraining."""

    batch: str
    retrain: bool
    reason: str
    score: float
    data_drift: float
    model_drift: float
    waiting: int | None
    champion: str | None
    report: str | None


class DriftRuns(BaseModel):
    """Decisions, newest first."""

    runs: list[DriftRun]


class VariantRow(OnlineRate):
    """One side of an experiment."""

    variant: Variant
    generation: int


class ExperimentAnswer(BaseModel):
    """The experiment in `config/rules.toml`: B is the generation it names, A the one that is served.

    `difference` is that of the rates, B - A, with the 95 % interval of Newcombe (1998), method 10.
    """

    active: bool
    name: str | None
    share: float | None
    variants: list[VariantRow]
    difference: Interval | None


class PartRow(BaseModel):
    """One part that the service stands on."""

    name: str
    ok: bool
    detail: str


class Parts(BaseModel):
    """All parts."""

    parts: list[PartRow]


class ReportRow(BaseModel):
    """One report."""

    name: str
    kind: str
    time: datetime
    headline: str
    url: str


class Reports(BaseModel):
    """Reports, newest first."""

    reports: list[ReportRow]


class Refreshed(BaseModel):
    """What is served now, the version of the catalogue, and what the rules file says."""

    served: dict[str, int]
    catalogue: int | None
    rules: str


class Live(BaseModel):
    """The process answers."""

    status: Literal["alive"] = "alive"


class Ready(BaseModel):
    """Whether lists can be handed out, and what is missing for it."""

    status: Literal["ready", "not ready"]
    missing: list[str]


def problems(*codes: int) -> dict[int | str, dict[str, Any]]:
    """Return the `responses` of a route that may answer with these codes."""
    return {code: {"model": Problem, "description": _DESCRIPTIONS[code]} for code in codes}


_DESCRIPTIONS = {
    400: "The request cannot be read",
    401: "The key is missing or wrong",
    404: "There is no such thing",
    408: "The request took too long to arrive",
    413: "The body is too large",
    422: "A value is not allowed",
    429: "Too many requests that change something; see Retry-After",
    503: "A part that is needed for this is away",
}
