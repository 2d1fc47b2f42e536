"""A complete crawl, as the scraper leaves it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from pathlib import Path

_OTHERS = {"price": pa.float64(), "available": pa.bool_(), "scraped_at": pa.timestamp("us", "UTC")}
_NAMES = ("item_id", "title", "category", "price", "currency", "available", "url", "scraped_at")
SCHEMA = pa.schema([pa.field(name, _OTHERS.get(name, pa.string())) for name in _NAMES])
MIDNIGHT = datetime(2026, 11, 22, tzinfo=UTC)


def item(item_id: str | None, title: str | None = None, **told: Any) -> dict[str, Any]:
    """One row; what is not given is not known."""
    return {**dict.fromkeys(SCHEMA.names), "item_id": item_id, "title": title, "available": True, **told}


def write_crawl(folder: Path, *items: dict[str, Any], day: int = 0) -> None:
    """Write `items.parquet`, scraped on the given day."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {"scraped_at": MIDNIGHT + timedelta(days=day)} | {k: v for k, v in one.items() if v is not None}
        for one in items
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), folder / "items.parquet")
