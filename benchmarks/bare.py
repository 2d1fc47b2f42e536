"""The least that the service's own server can answer with: one route, one small model, nothing around it.

PYTHONPATH=plugins python -m benchmarks.bare 8001
"""

import sys
from datetime import UTC, datetime

from fastapi import FastAPI
from pydantic import BaseModel

from service.server import serve


class Head(BaseModel):
    """What a list says of itself, without the list."""

    user_id: str
    known: bool
    generation: int | None
    model_version: str | None
    variant: str | None
    stale: bool
    complete: bool
    time: datetime


def build() -> FastAPI:
    """Return the application."""
    app = FastAPI(docs_url=None, redoc_url=None)

    @app.get("/bare")
    async def bare() -> Head:
        """Return a head."""
        return Head(
            user_id="14911",
            known=True,
            generation=12,
            model_version="version_20261121T210500+version_20261121T211500",
            variant=None,
            stale=False,
            complete=True,
            time=datetime.now(UTC),
        )

    return app


if __name__ == "__main__":
    sys.exit(serve("127.0.0.1", int(sys.argv[1]), build, connections=512, header_seconds=10.0))
