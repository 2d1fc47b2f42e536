"""`python -m examples.events`: fills `[transform].raw` with raw events, made from the bundled data.

One object of JSON lines a month, packed; config/pipeline.toml names the fields in `[transform.columns]`. Buckets that
are missing are made. The same call again changes nothing; a larger number of months adds the months that are missing,
which then are new data.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from typing import TYPE_CHECKING, Any

from shortlist.errors import ShortlistError
from shortlist.settings import PROJECT_ROOT, load_settings
from shortlist.stores.objects import open_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shortlist.settings import Settings

SOURCE = PROJECT_ROOT / "sample_data" / "online_retail.parquet"
MONTHS = 13


def fill(settings: Settings, *, months: int = MONTHS) -> list[str]:
    """Put the first months of the bundled data where raw events lie.

    Args:
        settings: `[transform]`.
        months: How many, from 2010-12 on; 13 is all there is.

    Returns:
        The keys of the objects that were written; those that were there with the same bytes are left alone.

    Raises:
        ObjectStorageError: If storage is away or refuses.
    """
    places = settings.transform
    folders = [
        open_folder(location, timeout_seconds=places.timeout_seconds)
        for location in (places.raw, places.processed, places.viz, places.quarantine, settings.datasets.remote)
    ]
    for folder in folders:
        folder.make()
    raw = folders[0]
    written = []
    for month, events in _by_month(months):
        lines = "".join(json.dumps(event, ensure_ascii=False) + "\n" for event in events)
        content = gzip.compress(lines.encode(), mtime=0)
        key = f"{month}.jsonl.gz"
        if raw.read(key) != content:
            raw.write(key, content)
            written.append(key)
    return written


def _by_month(months: int) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    import pyarrow as pa
    from pyarrow import parquet

    columns = ["InvoiceNo", "StockCode", "Description", "Quantity", "InvoiceDate", "CustomerID"]
    table = parquet.read_table(SOURCE, columns=columns)
    times = table.schema.get_field_index("InvoiceDate")
    # Python knows no nanoseconds, and the data has none.
    rows = table.set_column(times, "InvoiceDate", table[times].cast(pa.timestamp("us"))).to_pylist()
    by_month: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        user, time = row["CustomerID"], row["InvoiceDate"].isoformat()
        by_month.setdefault(time[:7], []).append(
            {
                "invoice": row["InvoiceNo"],
                "user_id": None if user is None else str(int(user)),
                "item_id": row["StockCode"],
                "title": row["Description"],
                "quantity": row["Quantity"],
                "time": time,
            }
        )
    yield from sorted(by_month.items())[:months]


def main() -> int:
    """Run the command. Returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m examples.events", description="Put example events into S3.")
    parser.add_argument("--months", type=int, default=MONTHS, help=f"how many, from 2010-12 on (default {MONTHS}, all)")
    chosen = parser.parse_args()
    settings = load_settings()
    try:
        written = fill(settings, months=chosen.months)
    except ShortlistError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{len(written)} object(s) written to {settings.transform.raw}: {', '.join(written) or 'all were there'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
