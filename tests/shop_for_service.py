"""Every table that the service reads, small enough to know by heart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from shortlist.stores import generations
from shortlist.stores.datasets import PERSONAL_RECS

if TYPE_CHECKING:
    from tests.shop import Shop

# As Shop's own settings, so that audits and lists agree.
SETTINGS = """
[publish]
k = 3
default_recs = 4
online_recs = 2
[candidates]
popular = 3
[service]
writes_a_minute = 6000
refresh_seconds = 0.2
database_seconds = 5.0
redis_seconds = 5.0
"""

ITEMS = """
    item_id,title,category,available
    mug,White mug,kitchen,true
    pot,Tea pot,kitchen|tea,true
    tea,Green tea,tea,true
    hat,Red hat,clothes,true
    bag,"<script>alert(1)</script> & ""red"" bag",clothes,true
    pin,Pin,,true
    old,Old lamp,kitchen,false
"""

HISTORY = """
    user_id,item_id,time,weight
    ann,mug,2026-10-01T10:00:00Z,1
    ann,hat,2026-10-02T10:00:00Z,2
    bob,tea,2026-10-03T10:00:00Z,1
"""

DEFAULTS = """
    rank,item_id,score
    1,mug,9
    2,tea,8
    3,pot,7
    4,hat,6
"""

SIMILAR = """
    item_id,rank,similar_item_id,score
    tea,1,pin,0.9
    tea,2,pot,0.5
    pot,1,tea,0.8
    pot,2,mug,0.4
"""

PERSONAL = {
    "ann": [("pot", 0.9, "als"), ("tea", 0.5, "als+popular"), ("bag", 0.2, "popular")],
    "bob": [("pot", 0.8, "similar"), ("mug", 0.7, "als"), ("hat", 0.1, "popular")],
}


def publish_all(shop: Shop) -> None:
    """Publish all of it by the steps of the weekly DAGs."""
    changed = shop.with_settings(k=3, default_recs=4)
    changed.reference(items=ITEMS, user_history=HISTORY)
    changed.publish("default_recs", DEFAULTS)
    changed.publish("online_recs", SIMILAR)
    publish_personal(shop, PERSONAL)


def publish_personal(shop: Shop, lists: dict[str, list[tuple[str, float, str]]], *, run: str = "ranked") -> int:
    """Publish lists as the ranker does; returns the generation."""
    changed = shop.with_settings(k=3, default_recs=4)
    generation = generations.begin(
        shop.database,
        PERSONAL_RECS,
        run_key=run,
        week="2026-11-02",
        fingerprint=run,
        model_version=f"version_a+version_{run}",
    )
    batch = pa.RecordBatch.from_arrays(
        [
            pa.array(list(lists), pa.string()),
            pa.array([[item for item, _, _ in one] for one in lists.values()], pa.list_(pa.string())),
            pa.array([[score for _, score, _ in one] for one in lists.values()], pa.list_(pa.float32())),
            pa.array([[source for _, _, source in one] for one in lists.values()], pa.list_(pa.string())),
        ],
        names=["user_id", "item_ids", "scores", "sources"],
    )
    generations.write_batches(shop.database, generation, iter([batch]))
    changed.audit(generation.generation_id)
    changed.flip(generation.generation_id)
    return generation.generation_id
