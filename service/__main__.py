"""Starts the service: `python -m service`."""

from __future__ import annotations

import logging
import os
import sys

from service.environment import Environment
from shortlist.errors import ShortlistError
from shortlist.settings import PROJECT_ROOT, load_settings


def main() -> int:
    """Serve until told to stop.

    Returns:
        The exit code. A known error is one paragraph on stderr and the code 1.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        settings = load_settings()
        # On this machine, also where everything else lies on object storage.
        root = PROJECT_ROOT if "://" in settings.paths.root else settings.paths.root
        environment = Environment.from_os(last_known_file=f"{root}/data/service/last_known.json")

        from service.app import create_app
        from service.server import serve

        return serve(
            os.environ.get("SERVICE_HOST") or "127.0.0.1",
            int(os.environ.get("SERVICE_PORT") or 8000),
            lambda: create_app(environment, settings),
            connections=settings.service.connections,
            header_seconds=settings.service.header_seconds,
        )
    except ShortlistError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1


if __name__ == "__main__":
    sys.exit(main())
