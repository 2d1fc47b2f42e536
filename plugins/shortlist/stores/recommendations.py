"""Reads what is served."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shortlist.stores.database import Database


def popular_items(database: Database, user: str, *, without: Sequence[str], n: int) -> list[str]:
    """Return the n most popular default recommendations that a user has not met, or as many as there are.

    Args:
        database: Where `default_recs` and `user_history` are served.
        user: Any id, known or not.
        without: Further items to leave out.
        n: How many.
    """
    with database.cursor() as cursor:
        cursor.execute(
            "SELECT item_id FROM default_recs WHERE item_id <> ALL(%s)"
            " AND item_id NOT IN (SELECT item_id FROM user_history WHERE user_id = %s) ORDER BY rank LIMIT %s",
            [list(without), user, n],
        )
        return [item for (item,) in cursor.fetchall()]
