"""Why an item is in a list: where it came from, what the ranker knew of it, and what that was worth."""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, Any, Final

from service import reading
from service.answers import CandidateSource, Contribution, Explanation
from service.lists import PERSONAL
from service.reasons import reason_of
from shortlist.columns import CANDIDATE_FEATURES
from shortlist.errors import ModelVersionError, RankerError
from shortlist.stores import files, model_versions

if TYPE_CHECKING:
    from catboost import CatBoost

    from service.connections import Postgres
    from service.lists import Lists

_SHOWN: Final = 8
_NOT_LISTED: Final = "Was a candidate, but others were ranked higher"


async def explain(postgres: Postgres, lists: Lists, *, rankers: str, user_id: str, item_id: str) -> Explanation | None:
    """Explain a pair of user and item; None if it is neither listed nor a candidate.

    Args:
        postgres: Where the candidates are.
        lists: What is served.
        rankers: Folder of the ranker versions.
        user_id: Of the list.
        item_id: In question.

    Raises:
        AwayError: If PostgreSQL is away.
    """
    user = await lists.user(user_id)
    personal = list(user.personal)
    candidate = await reading.explained_candidate(postgres, user_id, item_id)
    listed = next((place for place, one in enumerate(personal, start=1) if one.item_id == item_id), None)
    if listed is None and candidate is None:
        return None
    pointer = lists.world.pointer(PERSONAL)
    model_version = pointer.model_version if pointer else None
    ranker = (model_version or "").partition("+")[2]
    features = candidate[1] if candidate else {}
    contributions: list[Contribution] = []
    base_value: float | None = None
    manifest: dict[str, Any] = {}
    if features and ranker:
        contributions, base_value, manifest = await asyncio.to_thread(_of_ranker, f"{rankers}/{ranker}", features)
    proposal = personal[listed - 1] if listed else None
    return Explanation(
        user_id=user_id,
        item_id=item_id,
        title=lists.world.catalogue.title(item_id),
        listed=listed is not None,
        rank=listed,
        score=proposal.score if proposal else None,
        sources=_sources(features),
        features=features,
        contributions=contributions,
        base_value=base_value,
        model_version=model_version,
        ranker=ranker or None,
        training_run=pointer.run_key if pointer else None,
        data_fingerprint=manifest.get("fingerprint"),
        generation=user.generation_id,
        reason=reason_of(proposal.source) if proposal else _NOT_LISTED,
    )


def _sources(features: dict[str, float | None]) -> list[CandidateSource]:
    found = []
    for source in ("als", "similar", "popular"):
        rank = features.get(f"{source}_rank")
        if rank is not None:
            found.append(CandidateSource(source=source, rank=int(rank), score=features.get(f"{source}_score")))
    return sorted(found, key=lambda one: one.rank or 0)


def _of_ranker(path: str, features: dict[str, float | None]) -> tuple[list[Contribution], float | None, dict[str, Any]]:
    """The top contributions; none where the ranker's folder is gone, which is no reason to say nothing."""
    import numpy as np

    from shortlist.recommender import ranking

    if not files.exists(path):
        return [], None, {}
    row = np.array([[np.nan if value is None else value for value in features.values()]], np.float32)
    try:
        model, manifest = _load(path)
        values, base = ranking.contributions(model, row, tuple(CANDIDATE_FEATURES))
    except (ModelVersionError, RankerError):
        return [], None, {}
    order = np.argsort(-np.abs(values[0]), kind="stable")[:_SHOWN]
    names = list(features)
    top = [
        Contribution(feature=names[place], value=features[names[place]], contribution=float(values[0, place]))
        for place in order
        if values[0, place]
    ]
    return top, float(base[0]), manifest


@functools.lru_cache(maxsize=2)
def _load(path: str) -> tuple[CatBoost, dict[str, Any]]:
    return model_versions.load_ranker(path, model_versions.SERVED), model_versions.read_manifest(path)
