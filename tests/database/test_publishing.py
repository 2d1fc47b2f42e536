"""The protocol: load beside what is served, audit, move the pointer, go back."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.database.conftest import Shop

RECS = """
    rank,item_id,score
    1,007,0.9
    2,8,0.5
"""


def test_a_published_file_is_what_the_view_shows_and_leading_zeros_survive(shop: Shop) -> None:
    shop.publish("default_recs", RECS)

    assert shop.read("SELECT * FROM default_recs ORDER BY rank") == [(1, "007", 0.9), (2, "8", 0.5)]
