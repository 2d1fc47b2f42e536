"""A site, and the settings that read it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from shortlist.settings import CatalogueSettings, CrawlFieldSettings, CrawlSettings, PathSettings, Settings
from tests.catalogue.misbehaving_site import MisbehavingSite

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def site() -> Iterator[MisbehavingSite]:
    with MisbehavingSite() as site:
        yield site


@pytest.fixture
def other_site() -> Iterator[MisbehavingSite]:
    with MisbehavingSite() as site:
        yield site


@pytest.fixture
def settings_for(tmp_path: Path) -> Callable[..., Settings]:
    """Settings that read the site at a URL as fast as it allows; more settings of the crawl replace these."""

    def build(start_url: str | None, **more: Any) -> Settings:
        fields = CrawlFieldSettings(category=".category::text", price=".price::text", available=".stock::text")
        options = {"next": "a[rel=next]::attr(href)", "fields": fields, "delay_seconds": 0, "backoff_seconds": 0.01}
        crawl = CrawlSettings(**{"start_url": start_url, **options, **more})
        return Settings(catalogue=CatalogueSettings(crawl=crawl), paths=PathSettings(jobs=str(tmp_path / "jobs")))

    return build
