"""What the site sells, from the shop's invoices: titles, prices, categories, what is in stock."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

_PRODUCT: Final = r"^\d{5}[A-Za-z]*$"
_IN_STOCK_DAYS: Final = 90

# The invoices know no categories: the first line with a word of the title decides.
_CATEGORIES: Final = (
    ("Christmas", "CHRISTMAS XMAS ADVENT SANTA REINDEER SNOWMAN SNOWFLAKE WREATH BAUBLE"),
    ("Easter", "EASTER EGG EGGS BUNNY CHICK"),
    ("Jewellery", "NECKLACE BRACELET EARRINGS EARRING RING BROOCH CHARM DIAMANTE BANGLE HAIR TRINKET"),
    ("Bags", "BAG BAGS HANDBAG PURSE SHOPPER UMBRELLA WALLET LUGGAGE"),
    ("Candles & light", "CANDLE CANDLES CANDLEHOLDER CANDLESTICK LIGHT LIGHTS LANTERN LAMP LAMPSHADE INCENSE VOTIVE"),
    (
        "Kitchen & table",
        "MUG CUP CUPS TEA TEAPOT TEACUP COFFEE CAKE CAKESTAND BAKING BOWL PLATE PLATES DISH CUTLERY JAM PANTRY KITCHEN"
        " LUNCH SNACK BOTTLE JUG GLASS TRAY APRON COASTER COASTERS NAPKINS RECIPE SPOON SPOONS EGGCUP DINNER PAN",
    ),
    ("Toys & children", "TOY TOYS DOLLY DOLL CHILDRENS CHILDS GAME PUZZLE JIGSAW SKIPPING SPACEBOY BABY PLAYHOUSE"),
    ("Paper & party", "CARD CARDS WRAP PAPER PARTY BIRTHDAY BUNTING GARLAND RIBBON RIBBONS TISSUE TISSUES DOILY"),
    (
        "Writing & craft",
        "PEN PENS PENCIL PENCILS NOTEBOOK STICKERS STICKER CRAFT FELTCRAFT BOOK TAPE ERASER SEWING KNITTING",
    ),
    ("Storage", "BOX BOXES BASKET STORAGE TIN TINS DRAWER CABINET JAR JARS HOOK HOOKS RACK HANGER"),
    ("Garden", "GARDEN PARASOL WATERING FLOWERPOT PLANT POT TROWEL GNOME BIRDHOUSE PICNIC"),
    ("Home & decoration", ""),
)


@dataclass(frozen=True)
class Article:
    """One item on sale.

    Attributes:
        price: Pounds, with two decimals.
        available: Sold in the last 90 days of the invoices.
    """

    item_id: str
    title: str
    category: str
    price: str
    available: bool


def read(path: str) -> tuple[list[Article], datetime]:
    """Read the invoices and return what is on sale, by id, and when the last invoice was written (UTC).

    The title is the description that most lines have, the price the median of what was paid for one.

    Args:
        path: Parquet with the columns of `sample_data/online_retail.parquet`.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    lines = pq.read_table(path, columns=["StockCode", "Description", "UnitPrice", "Quantity", "InvoiceDate"])
    sold = pc.and_(pc.greater(lines["Quantity"], pa.scalar(0)), pc.greater(lines["UnitPrice"], pa.scalar(0.0)))
    product = pc.match_substring_regex(lines["StockCode"], _PRODUCT)
    lines = lines.filter(pc.and_(pc.and_(sold, product), pc.is_valid(lines["Description"])))
    last = lines.group_by("StockCode").aggregate([("InvoiceDate", "max")]).to_pydict()
    sold_last: dict[str, datetime] = dict(zip(last["StockCode"], last["InvoiceDate_max"], strict=True))
    end = max(sold_last.values())

    counted = lines.group_by(["StockCode", "Description"]).aggregate([([], "count_all")]).to_pydict()
    titles: dict[str, tuple[int, str]] = {}
    for item, title, times in zip(counted["StockCode"], counted["Description"], counted["count_all"], strict=True):
        titles[item] = min(titles.get(item, (0, "")), (-times, " ".join(title.split())))

    counted = lines.group_by(["StockCode", "UnitPrice"]).aggregate([([], "count_all")]).to_pydict()
    prices: dict[str, list[tuple[float, int]]] = {}
    for item, price, times in zip(counted["StockCode"], counted["UnitPrice"], counted["count_all"], strict=True):
        prices.setdefault(item, []).append((price, times))

    articles = [
        Article(
            item_id=item,
            title=titles[item][1],
            category=category(titles[item][1]),
            price=f"{_median(prices[item]):.2f}",
            available=sold_last[item] > end - timedelta(days=_IN_STOCK_DAYS),
        )
        for item in sorted(titles)
    ]
    return articles, end.replace(tzinfo=UTC)


def category(title: str) -> str:
    """Return the category whose words the title has.

    Example:
        >>> category("RED RETROSPOT CAKE STAND")
        'Kitchen & table'
        >>> category("FRENCH BLUE METAL DOOR SIGN 4")
        'Home & decoration'
    """
    words = set(re.findall(r"[A-Z]+", title.upper()))
    return next(name for name, some in _CATEGORIES if not some or words & set(some.split()))


def _median(prices: list[tuple[float, int]]) -> float:
    """The lower median of prices, each with how often it was paid."""
    half = (sum(times for _, times in prices) + 1) // 2
    for price, times in sorted(prices):
        half -= times
        if half <= 0:
            return price
    raise ValueError("no price")
