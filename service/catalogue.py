"""Titles, categories and availability of all items, in memory: every item of every answer needs them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from service.reading import CATALOGUE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from service.connections import Postgres

# Rows that are decoded at once: a request that comes meanwhile waits for about a millisecond.
_ROWS: Final = 500

_LOAD_SECONDS: Final = 120.0


class CatalogueItem(NamedTuple):
    """What is known of one item."""

    title: str | None
    category: str | None
    available: bool


UNKNOWN: Final = CatalogueItem(None, None, available=True)


class _Kinds(dict[str, tuple[str | None, bool]]):
    def __missing__(self, item_id: str) -> tuple[str | None, bool]:
        return UNKNOWN[1:]


@dataclass(frozen=True)
class Catalogue:
    """One generation of `items`, by id. An item that it does not list counts as available: nobody said otherwise."""

    generation_id: int | None = None
    items: dict[str, CatalogueItem] = field(default_factory=dict, repr=False)
    _kinds: dict[str, tuple[str | None, bool]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Keep what is asked of each item of each answer where it is found fastest."""
        object.__setattr__(self, "_kinds", _Kinds((key, item[1:]) for key, item in self.items.items()))

    def get(self, item_id: str) -> CatalogueItem:
        """Return what is known of an item."""
        return self.items.get(item_id, UNKNOWN)

    @property
    def kind(self) -> Callable[[str], tuple[str | None, bool]]:
        """What gives category and availability of an item."""
        return self._kinds.__getitem__

    def title(self, item_id: str) -> str | None:
        """Return the title of an item, if it has one."""
        return self.items.get(item_id, UNKNOWN).title

    def available(self) -> Iterator[str]:
        """Give the ids of available items."""
        return (item_id for item_id, item in self.items.items() if item.available)


async def load(postgres: Postgres, generation_id: int) -> Catalogue:
    """Read one generation of `items`, in small pieces, so that requests are answered meanwhile."""
    items: dict[str, CatalogueItem] = {}
    categories: dict[str | None, str | None] = {}
    async with postgres.connection(seconds=_LOAD_SECONDS) as connection, connection.transaction(readonly=True):
        async for item_id, title, category, available in connection.cursor(CATALOGUE, generation_id, prefetch=_ROWS):
            items[item_id] = CatalogueItem(title, categories.setdefault(category, category), available)
    return Catalogue(generation_id, items)
