"""Takes the README's pictures of the page: `python -m tests.browser.screenshots` (PYTHONPATH=plugins).

The shop is a small one, made for the purpose from the bundled invoices: their titles and most frequent items, a few of
their customers. Its candidates come from a plain matrix factorization and from cosine similarity, so that pictures take
a minute and no Spark; the ranker, the tables and the service are the real ones.
"""

from __future__ import annotations

import io
import os
import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from PIL import Image
from playwright.sync_api import expect, sync_playwright

from embedded.postgres import EmbeddedPostgres
from shortlist.stores.database import Database, ensure_schema
from shortlist.stores.service_tables import ensure_service_schema
from tests.browser.page_shop import HEADLESS, Goods, fill
from tests.redis_server import RedisServer
from tests.running_service import PROJECT, RunningService
from tests.shop import WEEK_1, WEEK_2, Shop

if TYPE_CHECKING:
    from playwright.sync_api import Browser

K = 20
ITEMS = 600
CUSTOMERS = 12
COLOURS = 96  # enough for flat colours and smooth letters, and a third of the bytes
SETTINGS = f"[publish]\nk = {K}\ndefault_recs = {K}\nonline_recs = {K}\n"


def sales() -> pd.DataFrame:
    """Customers and the items they bought, the most frequent items only, with titles."""
    columns = ["StockCode", "Description", "Quantity", "CustomerID"]
    rows = pd.read_parquet(PROJECT / "sample_data/online_retail.parquet", columns=columns)
    rows = rows[(rows.Quantity > 0) & rows.StockCode.str.match(r"\d{5}")].dropna()
    rows["title"] = rows.groupby("StockCode").Description.transform(lambda texts: texts.mode().iloc[0].strip())
    frequent = rows.groupby("StockCode").CustomerID.nunique().nlargest(ITEMS).index
    rows["user"] = rows.CustomerID.astype(int).astype(str)
    return rows[rows.StockCode.isin(frequent)]


def proposals(bought: pd.DataFrame, user: str) -> list[tuple[str, str]]:
    """What to propose to a user: items and their sources, the best first."""
    matrix = bought.to_numpy(float)
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    place = bought.index.get_loc(user)
    by_taste = (left[place, :24] * values[:24]) @ right[:24]
    norms = np.linalg.norm(matrix, axis=0)
    by_similarity = matrix[place] @ ((matrix.T @ matrix) / np.outer(norms, norms))
    new = matrix[place] == 0
    tops = {
        name: set(np.argsort(-np.where(new, scores, -np.inf))[:length])
        for name, scores, length in (
            ("als", by_taste, 22),
            ("similar", by_similarity, 16),
            ("popular", matrix.sum(axis=0), 8),
        )
    }
    listed = sorted(set().union(*tops.values()), key=lambda item: -by_taste[item])
    return [(str(bought.columns[item]), "+".join(name for name, top in tops.items() if item in top)) for item in listed]


def fill_from_sample(shop: Shop) -> str:
    """Publish the shop; returns the user of the pictures."""
    rows = sales()
    bought = pd.crosstab(rows.user, rows.StockCode).clip(upper=1)
    popular = bought.sum().sort_values(ascending=False)
    titles = rows.groupby("StockCode").title.first()
    sizes = bought.sum(axis=1)
    users = sizes[sizes.between(18, 40)].index[:CUSTOMERS]
    fill(
        shop,
        [Goods(str(item), titles[item]) for item in popular.index],
        {user: [str(item) for item in bought.columns[bought.loc[user] == 1]] for user in users},
        {user: proposals(bought, user) for user in users},
        weeks=(WEEK_1, WEEK_2),
        k=K,
    )
    return str(users[0])


def picture(browser: Browser, address: str, file: Path, *, why: bool, **context: Any) -> None:
    """Save one picture, in few colours."""
    page = browser.new_context(**context).new_page()
    page.goto(address)
    expect(page.get_by_role("button", name="Why?").first).to_be_visible()
    if why:
        page.get_by_role("button", name="Why?").first.click()
        expect(page.locator(".why .bars")).to_be_visible()
    page.locator("body").click(position={"x": 1, "y": 1})
    image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    image.quantize(COLOURS, dither=Image.Dither.NONE).save(file, optimize=True)
    page.context.close()
    print(f"{file.relative_to(PROJECT)}: {file.stat().st_size // 1000} kB")  # noqa: T201


def main() -> None:
    """Fill the shop, start the service, take the pictures."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="shortlist-pictures-")))
        folder.chmod(0o755)  # PostgreSQL may run as another user
        for name in ("shop", "redis"):
            (folder / name).mkdir()
        postgres = stack.enter_context(EmbeddedPostgres(folder / "postgres", port=0))
        redis = stack.enter_context(RedisServer(folder / "redis"))
        os.environ["RECS_DATABASE_URL"] = postgres.url
        shop = Shop(Database(postgres.url), folder / "shop")
        ensure_schema(shop.database)
        ensure_service_schema(shop.database)
        user = fill_from_sample(shop)
        service = stack.enter_context(
            RunningService(shop.folder, database_url=postgres.url, redis_url=redis.service_url, settings=SETTINGS)
        )
        service.call("POST", "/v1/events", {"events": [{"user_id": user, "item_id": "22423", "kind": "click"}]})
        chromium = stack.enter_context(sync_playwright()).chromium
        browser = chromium.launch(executable_path=shutil.which("chromium"), args=HEADLESS)
        address = f"{service.url}/#/user/{user}"
        desk = {"viewport": {"width": 1200, "height": 800}, "color_scheme": "light"}
        phone = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "color_scheme": "dark"}
        picture(browser, address, PROJECT / "docs/page.png", why=False, **desk)
        picture(browser, address, PROJECT / "docs/page_dark_phone.png", why=True, **phone)
        browser.close()


if __name__ == "__main__":
    main()
