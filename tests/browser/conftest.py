"""The page in a real Chromium, of the real service, over a real PostgreSQL and a real Redis."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from shortlist.stores.service_tables import ensure_service_schema
from tests.browser.page_shop import HEADLESS, Goods, fill
from tests.conftest import empty_database
from tests.running_service import RunningService
from tests.shop import WEEK_1, WEEK_2, Shop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Browser, ConsoleMessage, Dialog, Page, Request

    from embedded.postgres import EmbeddedPostgres
    from tests.redis_server import RedisServer

SCRIPT = '<script>alert(1)</script> & "quotes"'
GOODS = (
    Goods("mug", "White mug", "Kitchen"),
    Goods("pot", "Tea pot", "Kitchen"),
    Goods("script", SCRIPT),
    Goods("bowl", "Salt bowl", "Kitchen|Gifts"),
    Goods("lamp", "Desk lamp"),
    Goods("rug", "W" + "o" * 120 + "l rug"),
    Goods("clock", "White clock", available=False),
)
HISTORIES = {"anna": ("mug", "pot"), "ben/2?": ("lamp",)}
SETTINGS = """
[publish]
k = 2
default_recs = 2
online_recs = 2
"""
CANDIDATES = {
    "anna": (("script", "als"), ("bowl", "similar"), ("lamp", "popular")),
    "ben/2?": (("mug", "als"), ("bowl", "als")),
}


@pytest.fixture(scope="module")
def shop(postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """Two weeks of lists of two items each."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RECS_DATABASE_URL", postgres.url)
        shop = Shop(empty_database(postgres), tmp_path_factory.mktemp("shop"))
        ensure_service_schema(shop.database)
        fill(shop, GOODS, HISTORIES, CANDIDATES, weeks=(WEEK_1, WEEK_2), k=2)
        yield shop


@pytest.fixture(scope="module")
def address(shop: Shop, redis_server: RedisServer) -> Iterator[str]:
    """Where the service answers; its first events are in."""
    redis_server.reset()
    ((generation,),) = shop.read("SELECT max(generation_id) FROM internal.generations WHERE dataset = 'personal_recs'")
    shown = {"user_id": "anna", "item_id": "bowl", "generation": generation}
    events = [
        *({**shown, "kind": "impression", "key": f"seen {n}"} for n in range(10)),
        *({**shown, "kind": "click", "key": f"clicked {n}"} for n in range(3)),
        {"user_id": "ben/2?", "item_id": "rug"},
    ]
    with RunningService(
        shop.folder, database_url=shop.database.url, redis_url=redis_server.service_url, settings=SETTINGS
    ) as service:
        assert service.call("POST", "/v1/events", {"events": events})[0] == 200
        yield service.url


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium of the system's packages; none is downloaded."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("there is no Chromium here: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=HEADLESS)
        yield browser
        browser.close()


class Watch:
    """What a page does that it must not do: errors, dialogs, requests to other hosts."""

    def __init__(self, page: Page, address: str) -> None:
        self.problems: list[str] = []
        self._address = address
        page.on("console", self._hear)
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("dialog", self._dismiss)
        page.on("request", self._look)

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.problems.append(message.text)

    def _dismiss(self, dialog: Dialog) -> None:
        self.problems.append(f"dialog {dialog.message}")
        dialog.dismiss()

    def _look(self, request: Request) -> None:
        if not request.url.startswith((f"{self._address}/", "data:")):
            self.problems.append(f"request to {request.url}")

    def without_failed_answers(self) -> list[str]:
        """Return the problems but those of answers that a test made fail: Chromium writes each into the console."""
        return [problem for problem in self.problems if not problem.startswith("Failed to load resource")]


@pytest.fixture
def open_page(browser: Browser, address: str) -> Iterator[Callable[..., Page]]:
    """Open the page at `path` as wide as `width`; afterwards no page may have done what none must do.

    `failing=True` is for tests that let answers fail.
    """
    opened: list[tuple[Page, Watch, bool]] = []

    def open_at(path: str = "#/", *, width: int = 1280, scheme: str = "light", failing: bool = False) -> Page:
        context = browser.new_context(
            viewport={"width": width, "height": 800},
            color_scheme="dark" if scheme == "dark" else "light",
            reduced_motion="reduce",
        )
        page = context.new_page()
        page.set_default_timeout(10_000)
        opened.append((page, Watch(page, address), failing))
        page.goto(f"{address}/{path}")
        return page

    yield open_at
    problems = [
        problem
        for _, watch, failing in opened
        for problem in (watch.without_failed_answers() if failing else watch.problems)
    ]
    for page, _, _ in opened:
        page.context.close()
    assert problems == []
