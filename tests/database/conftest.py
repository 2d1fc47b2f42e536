"""The shop of the suites that publish."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.shop import Shop

if TYPE_CHECKING:
    from pathlib import Path

    from shortlist.stores.database import Database


@pytest.fixture
def shop(database: Database, tmp_path: Path) -> Shop:
    return Shop(database, tmp_path)
