"""Titles, categories and availability of all items, in memory: every item of every answer needs them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from service import reading

if TYPE_CHECKING:
    from collections.abc import Iterator

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


@dataclass(frozen=True)
class Catalogue:
    """One generation of `items` with a version of the catalogue over it, by id.

    An item that it does not list counts as available: nobody said otherwise.

    Attributes:
        generation_id: Of `items`.
        version: Of the catalogue; `None` where the database has none.
        items: What is known.
        only_listed: Items that only the catalogue has: they are found and named, but fill no list.
        unavailable: Items that are not available.
    """

    generation_id: int | None = None
    version: int | None = None
    items: dict[str, CatalogueItem] = field(default_factory=dict, repr=False)
    only_listed: frozenset[str] = field(default=frozenset(), repr=False)
    unavailable: frozenset[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Keep apart what is asked of each item of each answer."""
        gone = frozenset(item_id for item_id, item in self.items.items() if not item.available)
        object.__setattr__(self, "unavailable", gone)

    @property
    def is_empty(self) -> bool:
        """Whether the generation has no items."""
        return len(self.items) == len(self.only_listed)

    def get(self, item_id: str) -> CatalogueItem:
        """Return what is known of an item."""
        return self.items.get(item_id, UNKNOWN)

    def category(self, item_id: str) -> str | None:
        """Return the categories of an item, joined by `|`."""
        return self.items.get(item_id, UNKNOWN).category

    def title(self, item_id: str) -> str | None:
        """Return the title of an item, if it has one."""
        return self.items.get(item_id, UNKNOWN).title

    def available(self) -> Iterator[str]:
        """Give the ids of available items that may fill lists."""
        return (item_id for item_id, item in self.items.items() if item.available and item_id not in self.only_listed)


async def version(postgres: Postgres) -> int | None:
    """Return the version of the catalogue, 0 before the first crawl; `None` where the database has no such table.

    Raises:
        AwayError: If PostgreSQL is away.
    """
    if not (await postgres.rows(reading.HAS_CATALOGUE))[0][0]:
        return None
    return int((await postgres.rows(reading.CATALOGUE_VERSION))[0][0])


async def load(postgres: Postgres, generation_id: int, version: int | None) -> Catalogue:
    """Read one generation of `items` and the catalogue, in small pieces, so that requests are answered meanwhile.

    Args:
        postgres: Where they are.
        generation_id: Of `items`.
        version: That was read before; the rows may be those of a later one, which the next look then finds.

    Raises:
        AwayError: If PostgreSQL is away.
    """
    items: dict[str, CatalogueItem] = {}
    categories: dict[str | None, str | None] = {}
    only_listed = set()
    query = reading.GENERATION_ITEMS if version is None else reading.ITEMS_WITH_CATALOGUE
    async with postgres.connection(seconds=_LOAD_SECONDS) as connection, connection.transaction(readonly=True):
        rows = connection.cursor(query, generation_id, prefetch=_ROWS)
        async for item_id, title, category, available, is_trained in rows:
            items[item_id] = CatalogueItem(title, categories.setdefault(category, category), available)
            if not is_trained:
                only_listed.add(item_id)
    return Catalogue(generation_id, version, items, frozenset(only_listed))
