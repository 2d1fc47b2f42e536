"""Sentences for people about why an item is in a list."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from service.catalogue import Catalogue

REASONS: Final = {
    "als": "Fits what people with this taste take",
    "similar": "Goes with what you took before",
    "popular": "Popular in these weeks",
    "default": "Popular with everybody",
    "pinned": "Chosen by the shop",
    "catalogue": "Also available",
}

_FOREIGN: Final = "Proposed by the candidates that were loaded"


def reason_of(source: str) -> str:
    """Return a sentence about where an item comes from.

    Args:
        source: One, or several joined by `+`; the first counts.
    """
    return REASONS.get(source.partition("+")[0], _FOREIGN)


def told_because(item_id: str, catalogue: Catalogue) -> str:
    """Return a sentence about the recent event that an item is similar to."""
    return f"Because of {catalogue.title(item_id) or item_id}, a moment ago"
