"""What the tests of training and tuning share: a small shop with two tastes, as `spark_etl` leaves it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shortlist.settings import (
    AlsSettings,
    CandidateSettings,
    EvaluationSettings,
    PathSettings,
    PublishSettings,
    Settings,
    SimilaritySettings,
)

START = datetime(2026, 1, 1, tzinfo=UTC)
TARGET_FROM, TEST_FROM = START + timedelta(days=60), START + timedelta(days=80)
LATE_USER, LATE_ITEM = "u-late", "i-late"


@cache
def events() -> list[tuple[str, str, datetime, float]]:
    """Users u00–u29 take i00–i09, u30–u59 take i10–i19: a few on the way, some in each window."""
    generator = np.random.default_rng(3)
    rows = []
    for user in range(60):
        first = 0 if user < 30 else 10
        for item in generator.permutation(10)[:8]:
            when = START + timedelta(days=float(generator.random() * 100))
            rows.append((f"u{user:02}", f"i{first + item:02}", when, 1.0))
    rows.append((LATE_USER, "i00", TARGET_FROM + timedelta(days=1), 1.0))
    rows += [(f"u{user:02}", LATE_ITEM, TEST_FROM + timedelta(days=1), 1.0) for user in range(5)]
    return sorted(rows, key=lambda row: row[2])


def write_shop(root: Path) -> Settings:
    """Write the shop below `root` and return settings for it."""
    settings = Settings(
        als=AlsSettings(rank=4, iterations=3),
        similarity=SimilaritySettings(history=10, neighbours=10, shrinkage=1.0),
        candidates=CandidateSettings(als=5, similar=5, popular=5),
        evaluation=EvaluationSettings(k=(5, 10), bootstrap_samples=100),
        publish=PublishSettings(k=5, default_recs=5, online_recs=3),
        paths=PathSettings(root=str(root)),
    )
    rows = events()
    fields: dict[str, pa.DataType] = {
        "user_id": pa.string(),
        "item_id": pa.string(),
        "time": pa.timestamp("us", "UTC"),
        "weight": pa.float32(),
    }
    schema = pa.schema(fields)

    def write(path: str, part: list[tuple[str, str, datetime, float]]) -> None:
        named = [dict(zip(schema.names, row, strict=True)) for row in part]
        pq.write_table(pa.Table.from_pylist(named, schema=schema), folder(path) / "part-0.parquet")

    write(settings.paths.train, [row for row in rows if row[2] < TEST_FROM])
    write(settings.paths.test, [row for row in rows if row[2] >= TEST_FROM])
    items = sorted({row[1] for row in rows})
    catalogue = pa.table(
        {
            "item_id": items,
            "title": [f"Title of {item}" for item in items],
            "category": pa.nulls(len(items), pa.string()),
            "available": [item != "i05" for item in items],
        }
    )
    pq.write_table(catalogue, folder(settings.paths.items) / "part-0.parquet")
    report = {
        "target_from": TARGET_FROM.isoformat(),
        "test_from": TEST_FROM.isoformat(),
        "last": rows[-1][2].isoformat(timespec="seconds"),
        "fingerprint": "f",
        "accepted": len(rows),
        "users": 61,
        "items": len(items),
    }
    Path(settings.paths.etl_report).write_text(json.dumps(report), encoding="utf-8")
    return settings


def folder(path: str) -> Path:
    made = Path(path)
    made.mkdir(parents=True, exist_ok=True)
    return made
