"""`python -m examples.site --port 8000`: the site of the bundled shop, until it is stopped."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from pathlib import Path

from examples.site.goods import read
from examples.site.serving import Site, serve

_SAMPLE = Path(__file__).resolve().parents[2] / "sample_data" / "online_retail.parquet"


def main() -> None:
    """Read the invoices, then serve."""
    parser = argparse.ArgumentParser(prog="python -m examples.site", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 in a container")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--per-page", type=int, default=100, help="items on a page of the list")
    parser.add_argument("--data", default=str(_SAMPLE), help="Parquet with the columns of the bundled data")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stdout)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    articles, changed = read(options.data)
    site = Site(articles, changed, per_page=options.per_page)
    with serve(site, host=options.host, port=options.port) as server:
        logging.info("%d items on http://%s:%d/", len(articles), options.host, server.server_port)
        server.serve_forever()


main()
