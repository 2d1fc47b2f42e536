"""`python -m examples.store`: an S3 on port 5000 that keeps everything in memory, until it is stopped.

It starts with the buckets that config/pipeline.toml names and a day of made-up raw events, always the same.
"""

from __future__ import annotations

import json
import random
import signal
import threading
from typing import Final

import boto3  # type: ignore[import-untyped]
from moto.server import ThreadedMotoServer

RAW: Final = "shortlist-raw"
DATA: Final = "shortlist-data"
KEY: Final = "events/2011-12-10.jsonl"

_PORT: Final = 5000
_EVENTS: Final = 1000
_GOODS: Final = {
    "22423": "REGENCY CAKESTAND 3 TIER",
    "85123A": "WHITE HANGING HEART T-LIGHT HOLDER",
    "47566": "PARTY BUNTING",
    "20725": "LUNCH BAG RED RETROSPOT",
    "84879": "ASSORTED COLOUR BIRD ORNAMENT",
    "22720": "SET OF 3 CAKE TINS PANTRY DESIGN",
    "23298": "SPOTTY BUNTING",
    "22197": "SMALL POPCORN HOLDER",
    "21212": "PACK OF 72 RETROSPOT CAKE CASES",
    "22383": "LUNCH BAG SUKI DESIGN",
    "22457": "NATURAL SLATE HEART CHALKBOARD",
    "23203": "JUMBO BAG VINTAGE DOILY",
}


def events() -> bytes:
    """Return the events as JSON lines: who bought how many of what, in which invoice, and when in local time."""
    chance = random.Random(42)  # noqa: S311 - nothing secret
    lines = []
    for number in range(_EVENTS):
        item = chance.choice(sorted(_GOODS))
        minute = number * 600 // _EVENTS
        event = {
            "user_id": str(chance.randrange(12346, 18288)),
            "item_id": item,
            "time": f"2011-12-10 {8 + minute // 60:02d}:{minute % 60:02d}:00",
            "quantity": chance.randint(1, 12),
            "title": _GOODS[item],
            "invoice": str(581588 + number // 5),
        }
        lines.append(json.dumps(event))
    return ("\n".join(lines) + "\n").encode()


def main() -> None:
    """Serve until SIGTERM."""
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    server = ThreadedMotoServer(ip_address="0.0.0.0", port=_PORT, verbose=False)  # noqa: S104 - in a container
    server.start()
    client = boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{_PORT}",
        region_name="us-east-1",
        aws_access_key_id="example",
        aws_secret_access_key="example-secret",  # noqa: S106 - it takes any
    )
    client.create_bucket(Bucket=RAW)
    client.put_object(Bucket=RAW, Key=KEY, Body=events())
    client.create_bucket(Bucket=DATA)  # the last: the health check asks for it
    stopped.wait()
    server.stop()


if __name__ == "__main__":
    main()
