"""A shop whose lists were ranked by a ranker that was trained for them: an explanation has something to say."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np

from shortlist.settings import EvaluationSettings, GateSettings, PublishSettings, RankerSettings
from steps.ranked_data import check_gate, evaluate_ranker, rank_candidates, train_ranker

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from tests.shop import Shop

HEADLESS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run"
    " --disable-background-networking --disable-component-update --disable-sync"
).split()
RANKER = "version_20261107T210500"
FEATURES = ("als_score", "als_rank", "popular_rank", "item_count")


@dataclass(frozen=True)
class Goods:
    """One item of the shop."""

    item: str
    title: str
    category: str = ""
    available: bool = True


def table(head: str, rows: Iterable[Sequence[object]]) -> str:
    """Write CSV; titles hold quotes and commas."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head.split(","))
    writer.writerows(rows)
    return text.getvalue()


def fill(
    shop: Shop,
    goods: Sequence[Goods],
    histories: Mapping[str, Sequence[str]],
    candidates: Mapping[str, Sequence[tuple[str, str]]],
    *,
    weeks: Sequence[str],
    k: int,
) -> None:
    """Publish everything that the service reads, one generation a week, ranked by a ranker trained in the first.

    Args:
        shop: Empty.
        goods: Every item, the most popular first.
        histories: The items that each user took, oldest first, one a day until the first week.
        candidates: Of each user: item and source, the best first.
        weeks: ISO times of the weekly runs.
        k: Length of the lists.
    """
    shop = replace(
        shop, publish_settings=PublishSettings(k=k, default_recs=k, online_recs=k, keep_generations=len(weeks) + 1)
    )
    popularity = {one.item: place for place, one in enumerate(goods, start=1)}
    last = datetime.fromisoformat(weeks[0])
    shop.reference(
        items=table(
            "item_id,title,category,available",
            [(one.item, one.title, one.category, str(one.available).lower()) for one in goods],
        ),
        user_history=table(
            "user_id,item_id,time,weight",
            [
                (user, item, (last - timedelta(days=len(items) - place)).isoformat(), 1 + place % 3)
                for user, items in histories.items()
                for place, item in enumerate(items)
            ],
        ),
    )
    offered = [one.item for one in goods if one.available]
    rng = np.random.default_rng(7)
    for week in weeks:
        run = f"scheduled__{week}"
        shop.publish(
            "default_recs",
            table("rank,item_id,score", [(n + 1, item, 1 / (n + 1)) for n, item in enumerate(offered[:k])]),
            run=run,
            after=week,
        )
        shop.publish(
            "online_recs",
            table(
                "item_id,rank,similar_item_id,score",
                [
                    (one.item, rank, other, round(0.9 / rank, 3))
                    for place, one in enumerate(goods)
                    for rank, other in enumerate(_neighbours(offered, one.item, place, k), start=1)
                ],
            ),
            run=run,
            after=week,
        )
        shop.publish("candidates_train", _labelled(rng, offered, popularity), run=run, after=week)
        shop.publish(
            "candidates_inference",
            table(
                f"user_id,item_id,source,{','.join(FEATURES)}",
                [
                    (user, item, source, round(0.95 - 0.05 * n, 3), n + 1, popularity[item], 1000 // popularity[item])
                    for user, wanted in candidates.items()
                    for n, (item, source) in enumerate(wanted)
                ],
            ),
            run=run,
            after=week,
        )
        settings = replace(
            shop.settings,
            ranker=RankerSettings(iterations=40),
            evaluation=EvaluationSettings(k=(5, 10), bootstrap_samples=100),
            gate=GateSettings(tolerance=1.0),
        )
        if week == weeks[0]:
            path = train_ranker(settings=settings, version=RANKER, run_after=week)
            evaluate_ranker(settings=settings, ranker_path=path)
            check_gate(settings=settings, ranker_path=path)
        generation = rank_candidates(settings=settings, ranker_path=path, run_key=run, run_after=week)
        shop.audit(generation)
        shop.flip(generation)


def _neighbours(offered: Sequence[str], item: str, place: int, k: int) -> list[str]:
    others = [other for other in offered if other != item]
    start = place % len(others)
    return (others[start:] + others[:start])[:k]


def _labelled(rng: np.random.Generator, offered: Sequence[str], popularity: dict[str, int]) -> str:
    """Sixty users whose taken item mostly has the largest `als_score`: a ranker can learn that."""
    rows: list[tuple[object, ...]] = []
    for user in range(60):
        chosen = rng.choice(len(offered), size=5, replace=False)
        scores = rng.random(5)
        taken = np.argmax(scores + rng.normal(0, 0.25, 5))
        places = np.argsort(np.argsort(-scores)) + 1
        for n, item in enumerate(offered[index] for index in chosen):
            place = popularity[item]
            rows.append(
                (f"t{user}", item, int(n == taken), round(float(scores[n]), 3), places[n], place, 1000 // place)
            )
    return table(f"user_id,item_id,target,{','.join(FEATURES)}", rows)
