"""What a catalogue is like, in a few figures: how much of it can be had, at which prices, how well it is described."""

from __future__ import annotations

import json
import math
import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from shortlist.columns import AVAILABLE, CATEGORY, CURRENCY, PRICE, TITLE
from shortlist.recommender.blending import categories_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

QUANTILES: Final = (0.1, 0.25, 0.5, 0.75, 0.9)

# As metrics; the table has all.
_MOST_CATEGORIES: Final = 20
_NO_NAME = re.compile(r"[^A-Za-z0-9_. -]+")
_LONGEST_NAME: Final = 80


@dataclass(frozen=True)
class CatalogueFeatures:
    """Figures of one crawl.

    Attributes:
        metrics: By flat name, of letters, digits and `_-. /`: `items`, `available_share`, `priced_share`,
            `other_currency_share`, `categorised_share` (shares in [0, 1] of the items), `categories`,
            `title_length_mean` and `title_length_p90` in characters, `price_p10` … `price_p90` and the same of the
            largest categories, `category_price_p50/<category>`. Prices are in the most frequent currency.
        currency: That currency, if prices have one.
        table: All categories, the largest first: `{"category", "items", "available_share", "price": {"p10": …}}`.
    """

    metrics: dict[str, float]
    currency: str | None
    table: list[dict[str, Any]]

    @property
    def table_json(self) -> bytes:
        """The table, for a file."""
        return json.dumps({"currency": self.currency, "categories": self.table}, ensure_ascii=False, indent=1).encode()


def quantile(ordered: Sequence[float], share: float) -> float:
    """Return a quantile by linear interpolation between neighbours (type 7 of Hyndman and Fan 1996).

    Args:
        ordered: At least one number, the smallest first.
        share: In [0, 1].

    Example:
        >>> quantile([1.0, 2.0, 4.0], 0.75)
        3.0
    """
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def describe(items: Iterable[Mapping[str, Any]]) -> CatalogueFeatures:
    """Describe a catalogue.

    Args:
        items: At least one, each with `title`, `category` (several joined by `|`), `price`, `currency`, `available`;
            `None` is not known. What is not known to be available is not counted as such.

    Example:
        >>> mug = {"title": "Mug", "category": "kitchen", "price": 2.5, "currency": "GBP", "available": True}
        >>> described = describe([mug, mug | {"title": "Teapot", "price": 7.5, "available": False}])
        >>> described.metrics["available_share"], described.metrics["category_price_p50/kitchen"], described.currency
        (0.5, 5.0, 'GBP')
    """
    everything = list(items)
    currencies = Counter(item[CURRENCY] for item in everything if item[PRICE] is not None)
    currency = min(currencies, key=lambda name: (-currencies[name], name or "")) if currencies else None
    priced = [item for item in everything if item[PRICE] is not None and item[CURRENCY] == currency]
    lengths = sorted(float(len(item[TITLE] or "")) for item in everything)
    of_category: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for item in everything:
        for category in categories_of(item[CATEGORY]):
            of_category[category].append(item)
    largest = sorted(of_category, key=lambda name: (-len(of_category[name]), name))
    table: list[dict[str, Any]] = [
        {
            "category": name,
            "items": len(of_category[name]),
            "available_share": _share(of_category[name], AVAILABLE),
            "price": _prices(of_category[name], currency),
        }
        for name in largest
    ]
    metrics = {
        "items": float(len(everything)),
        "available_share": _share(everything, AVAILABLE),
        "priced_share": sum(currencies.values()) / len(everything),
        "other_currency_share": (sum(currencies.values()) - len(priced)) / len(everything),
        "categorised_share": _share(everything, CATEGORY),
        "categories": float(len(of_category)),
        "title_length_mean": sum(lengths) / len(lengths),
        "title_length_p90": quantile(lengths, 0.9),
    }
    metrics |= {f"price_{name}": value for name, value in _prices(everything, currency).items()}
    for row in table[:_MOST_CATEGORIES]:
        # MLflow takes no other characters; of two names that become the same the larger category stays.
        name = _NO_NAME.sub("_", row["category"])[:_LONGEST_NAME].strip(". ") or "_"
        for place, value in row["price"].items():
            metrics.setdefault(f"category_price_{place}/{name}", value)
    return CatalogueFeatures(metrics, currency, table)


def _share(items: Sequence[Mapping[str, Any]], column: str) -> float:
    return sum(bool(item[column]) for item in items) / len(items)


def _prices(items: Iterable[Mapping[str, Any]], currency: str | None) -> dict[str, float]:
    prices = sorted(item[PRICE] for item in items if item[PRICE] is not None and item[CURRENCY] == currency)
    return {f"p{round(100 * share)}": quantile(prices, share) for share in QUANTILES} if prices else {}
