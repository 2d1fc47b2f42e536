"""Every statement that the service reads the tables with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from shortlist.columns import CANDIDATE_FEATURES

if TYPE_CHECKING:
    from service.connections import Postgres

# One statement has one snapshot: list and history are those of the generations that were served at that moment.
# $2: another generation of the personal recs, for the other side of an experiment.
USER_LISTS: Final = """
    WITH g AS (
        SELECT COALESCE($2, (SELECT generation_id FROM internal.served WHERE dataset = 'personal_recs')) AS personal,
               (SELECT generation_id FROM internal.served WHERE dataset = 'user_history') AS history
    )
    SELECT g.personal, p.item_ids, p.scores, p.sources, h.item_ids
    FROM g
    LEFT JOIN internal.personal_recs AS p ON p.generation_id = g.personal AND p.user_id = $1
    LEFT JOIN internal.user_history AS h ON h.generation_id = g.history AND h.user_id = $1
"""

ALL_LISTS: Final = "SELECT user_id, item_ids, scores, sources FROM internal.personal_recs WHERE generation_id = $1"

ALL_HISTORIES: Final = "SELECT user_id, item_ids FROM internal.user_history WHERE generation_id = $1"

ALL_SIMILAR: Final = "SELECT item_id, similar_item_ids, scores FROM internal.online_recs WHERE generation_id = $1"

SIMILAR: Final = """
    SELECT item_id, similar_item_ids, scores FROM internal.online_recs
    WHERE generation_id = (SELECT generation_id FROM internal.served WHERE dataset = 'online_recs')
      AND item_id = ANY($1)
"""

SERVED: Final = """
    SELECT s.dataset, s.generation_id, g.model_version, g.run_key, g.rows, g.week::text
    FROM internal.served AS s JOIN internal.generations AS g USING (generation_id)
"""

IS_KEPT: Final = """
    SELECT model_version FROM internal.generations
    WHERE generation_id = $1 AND dataset = 'personal_recs' AND kept
      AND status IN ('published', 'audited', 'rolled_back')
"""

DEFAULTS: Final = "SELECT item_id, score FROM public.default_recs ORDER BY rank"

# The last column: whether lists may hold it. What only the catalogue has was never trained on.
GENERATION_ITEMS: Final = """
    SELECT item_id, title, category, available, true FROM internal.items WHERE generation_id = $1
"""

ITEMS_WITH_CATALOGUE: Final = """
    SELECT t.item_id, coalesce(c.title, t.title), coalesce(c.category, t.category),
           coalesce(c.available, t.available), true
    FROM internal.items AS t LEFT JOIN service.catalogue_items AS c ON c.item_id = t.item_id
    WHERE t.generation_id = $1
    UNION ALL
    SELECT c.item_id, c.title, c.category, coalesce(c.available, true), false FROM service.catalogue_items AS c
    WHERE NOT EXISTS (SELECT FROM internal.items AS t WHERE t.generation_id = $1 AND t.item_id = c.item_id)
"""

HAS_CATALOGUE: Final = "SELECT to_regclass('service.catalogue_version') IS NOT NULL"
CATALOGUE_VERSION: Final = "SELECT coalesce(max(version), 0) FROM service.catalogue_version"

HISTORY: Final = """
    SELECT h.item_ids, h.times, h.weights FROM internal.user_history AS h
    WHERE h.generation_id = (SELECT generation_id FROM internal.served WHERE dataset = 'user_history')
      AND h.user_id = $1
"""

# An exact id first, then ids that begin so, then titles with all the words, or with just these letters.
FIND_ITEMS: Final = """
    SELECT item_id, title, attributes ->> 'category', available FROM public.items
    WHERE item_id = $1 OR starts_with(lower(item_id), lower($1))
       OR to_tsvector('simple', coalesce(title, '')) @@ to_tsquery('simple', $2)
       OR strpos(lower(title), lower($1)) > 0
    ORDER BY item_id <> $1, NOT starts_with(lower(item_id), lower($1)), NOT available, title, item_id LIMIT $3
"""

FIND_USERS: Final = """
    SELECT user_id, cardinality(item_ids) FROM internal.user_history
    WHERE generation_id = (SELECT generation_id FROM internal.served WHERE dataset = 'user_history')
      AND user_id >= $1 AND starts_with(user_id, $1)
    ORDER BY user_id LIMIT $2
"""

CANDIDATE: Final = f"""
    SELECT source, {", ".join(CANDIDATE_FEATURES)} FROM internal.candidates_inference
    WHERE generation_id = (SELECT generation_id FROM internal.served WHERE dataset = 'candidates_inference')
      AND user_id = $1 AND item_id = $2
"""  # noqa: S608 - the names are constants

GENERATIONS: Final = """
    SELECT dataset, generation_id, week::text, run_key, model_version, status, kept, rows, metrics,
           created_at, published_at
    FROM (SELECT *, row_number() OVER (PARTITION BY dataset ORDER BY generation_id DESC) AS place
          FROM internal.generations) AS g
    WHERE place <= $1 OR EXISTS (SELECT FROM internal.served AS s WHERE s.generation_id = g.generation_id)
    ORDER BY dataset, generation_id DESC
"""

ONLINE: Final = """
    SELECT generation_id, count(*) FILTER (WHERE kind = 'impression'), count(*) FILTER (WHERE kind = 'click')
    FROM service.events WHERE generation_id IS NOT NULL AND kind IN ('impression', 'click') GROUP BY generation_id
"""


async def online_counts(postgres: Postgres) -> dict[int, tuple[int, int]]:
    """Return impressions and clicks of each generation that has any."""
    return {number: (shown, clicked) for number, shown, clicked in await postgres.rows(ONLINE)}


async def explained_candidate(
    postgres: Postgres, user_id: str, item_id: str
) -> tuple[str | None, dict[str, float | None]] | None:
    """Return the source of a candidate and its features; None if the pair is no candidate."""
    rows: list[Any] = await postgres.rows(CANDIDATE, user_id, item_id)
    if not rows:
        return None
    return rows[0][0], dict(zip(CANDIDATE_FEATURES, rows[0][1:], strict=True))
