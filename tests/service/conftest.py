"""A small shop, published by the real steps, and the real service in front of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from shortlist.stores.service_tables import ensure_service_schema
from tests.running_service import RunningService
from tests.shop import Shop
from tests.shop_for_service import SETTINGS, publish_all

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from shortlist.stores.database import Database
    from tests.redis_server import RedisServer


@pytest.fixture
def shop(database: Database, tmp_path: Path) -> Shop:
    """Everything a service hands out, published."""
    ensure_service_schema(database)
    made = Shop(database, tmp_path)
    publish_all(made)
    return made


@pytest.fixture
def service(shop: Shop, redis: RedisServer) -> Iterator[RunningService]:
    with RunningService(
        shop.folder, database_url=shop.database.url, redis_url=redis.service_url, settings=SETTINGS
    ) as running:
        yield running
