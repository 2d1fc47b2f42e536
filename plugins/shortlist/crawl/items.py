"""What a valid item of a catalogue is: every one found gets the first reason to reject it, or none."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urljoin, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterable

    from shortlist.crawl.pages import Page
    from shortlist.settings import CrawlSettings, InteractionSettings

DUPLICATE: Final = "duplicate"

# Every reason, in the order in which they are looked for, with what a person can do about it.
REMEDIES: Final = {
    "missing_item": "the id is empty: see [catalogue.crawl.fields].item_id",
    "bad_encoding": "a text is not in the encoding of its page: set [catalogue.crawl].encoding, such as ISO-8859-1",
    "control_character": "the id holds NUL or another character that cannot be seen",
    "id_too_long": "the id is longer than [interactions].max_id_length: see [catalogue.crawl.fields].item_id",
    "not_a_product": "the id does not match [interactions].item_pattern",
    "missing_title": "the title is empty: see [catalogue.crawl.fields].title",
    "title_too_long": "the title has more than 1,000 characters: does its selector take too much?",
    "missing_category": "there is no category: see [catalogue.crawl.fields] and [catalogue.crawl].optional",
    "missing_price": "there is no price",
    "bad_price": "the price is not one number from 0 to a thousand million: see [catalogue.crawl].decimal_comma",
    "missing_currency": "neither the item nor [catalogue.crawl].currency names a currency",
    "bad_currency": "the currency is not three letters",
    "missing_available": "nothing says whether the item is available",
    "bad_available": "neither [catalogue.crawl].in_stock nor out_of_stock matches what is said of the availability",
    "missing_url": "there is no address",
    "bad_url": "the address of the item does not begin with http:// or https://, or is longer than 2,000 characters",
    DUPLICATE: "the same id stands further up: add duplicate to [catalogue.crawl].tolerated if that is normal",
}

_LONGEST_TITLE: Final = 1_000
_LONGEST_CATEGORY: Final = 200
_LONGEST_URL: Final = 2_000
_HIGHEST_PRICE: Final = 1e9

_SIGNS: Final = {"£": "GBP", "€": "EUR", "$": "USD", "¥": "JPY"}
# Joiners belong to words of some scripts; other characters of these kinds can only deceive.
_JOINERS: Final = frozenset("\u200c\u200d")
_UNSEEN: Final = ("Cc", "Cf", "Cs")
_NOT_DECODED: Final = "\ufffd"


@dataclass(frozen=True)
class Item:
    """One item of the catalogue.

    Attributes:
        category: Several are joined by `|`. None: not known.
        price: In `currency`, at least 0. None: not known; and so `currency`, `url`.
        url: Absolute, http or https.
    """

    item_id: str
    title: str
    category: str | None
    price: float | None
    currency: str | None
    available: bool
    url: str | None


@dataclass(frozen=True)
class Rejected:
    """One that was not accepted.

    Attributes:
        page: Address of its page.
        position: On the page, from 1.
        reason: A key of `REMEDIES`.
        raw: Its texts, as JSON.
    """

    page: str
    position: int
    reason: str
    raw: str


def judge(
    pages: Iterable[Page], *, crawl: CrawlSettings, interactions: InteractionSettings
) -> tuple[list[Item], list[Rejected]]:
    """Sort what was found into items and rejected ones. Of several with one id the first counts.

    Args:
        pages: In the order in which they follow each other.
        crawl: What a price or an availability looks like, what may be missing.
        interactions: What an id looks like.

    Returns:
        The items, sorted by id, and the rejected ones, in the order of the pages.
    """
    items: dict[str, Item] = {}
    rejected: list[Rejected] = []
    for page in pages:
        for position, texts in enumerate(page.items, start=1):
            item = _item(texts, base=page.base, crawl=crawl, interactions=interactions)
            if isinstance(item, Item) and item.item_id not in items:
                items[item.item_id] = item
                continue
            reason = DUPLICATE if isinstance(item, Item) else item
            rejected.append(Rejected(page.url, position, reason, json.dumps(texts, sort_keys=True)))
    return [items[item_id] for item_id in sorted(items)], rejected


def describe(rejected: Iterable[Rejected]) -> str:
    """Say how many were rejected for which reason, and what to do about it."""
    counts = Counter(one.reason for one in rejected)
    return "; ".join(f"{reason}: {counts[reason]} ({REMEDIES[reason]})" for reason in REMEDIES if counts[reason])


def clean(text: str) -> str:
    r"""Return a text on one line, without characters that cannot be seen.

    Example:
        >>> clean("  RED\n\tBAG\x00 \u202e")
        'RED BAG'
    """
    seen = "".join(
        character
        for character in unicodedata.normalize("NFC", text)
        if character.isspace() or character in _JOINERS or unicodedata.category(character) not in _UNSEEN
    )
    return " ".join(seen.split())


def parse_price(text: str, *, decimal_comma: bool = False) -> tuple[float, str | None] | None:
    """Return the price and the currency that a text names, or None if it is not exactly one price.

    Args:
        text: Such as `£2.55`, `1,234.50` or `EUR 3`.
        decimal_comma: The price is written `1.234,50`.

    Example:
        >>> parse_price("£1,234.50")
        (1234.5, 'GBP')
        >>> parse_price("2,55 €", decimal_comma=True)
        (2.55, 'EUR')
        >>> parse_price("2,55 €") is None and parse_price("was 5.00, now 3.00") is None
        True
    """
    group, point = (".", ",") if decimal_comma else (",", ".")
    spaceless = re.sub(r"(?<=[0-9])[\s'](?=[0-9]{3}(?![0-9]))", "", text)
    whole = rf"[0-9]{{1,3}}(?:{re.escape(group)}[0-9]{{3}})+|[0-9]+"
    match = re.fullmatch(rf"([^0-9.,+-]*)((?:{whole})(?:{re.escape(point)}[0-9]+)?)([^0-9+-]*)", spaceless)
    if match is None:
        return None
    price = float(match[2].replace(group, "").replace(point, "."))
    named = clean(match[1] + match[3])
    sign = next((code for sign, code in _SIGNS.items() if sign in named), None)
    code = re.search(r"\b[A-Z]{3}\b", named)
    return (price, code[0] if code else sign) if price <= _HIGHEST_PRICE else None


def _item(  # noqa: C901 - one check after the other, in the order of REMEDIES
    texts: dict[str, list[str]], *, base: str, crawl: CrawlSettings, interactions: InteractionSettings
) -> Item | str:
    first = {name: next((text.strip() for text in some if text.strip()), "") for name, some in texts.items()}
    item_id, title = first.get("item_id", ""), clean(first.get("title", ""))
    category = _categories(texts.get("category", []))
    if reason := _wrong_id(item_id, interactions):
        return reason
    if _NOT_DECODED in title + category:
        return "bad_encoding"
    if not title:
        return "missing_title"
    if len(title) > _LONGEST_TITLE:
        return "title_too_long"
    # The id and the title are there; of the rest what the settings name, and do not call optional.
    for name in ("category", "price", "available", "url"):
        if name in texts and not first[name] and name not in crawl.optional:
            return f"missing_{name}"
    price = parse_price(first["price"], decimal_comma=crawl.decimal_comma) if first.get("price") else None
    if first.get("price") and price is None:
        return "bad_price"
    currency = clean(first.get("currency", "")).upper() or (price and price[1]) or crawl.currency
    if price and not currency and "currency" not in crawl.optional:
        return "missing_currency"
    if price and currency and not re.fullmatch("[A-Z]{3}", currency):
        return "bad_currency"
    available = _available(clean(first.get("available", "")), crawl)
    if available is None:
        return "bad_available"
    url = _url(base, first["url"]) if first.get("url") else None
    if first.get("url") and url is None:
        return "bad_url"
    return Item(
        item_id=item_id,
        title=title,
        category=category or None,
        price=price[0] if price else None,
        currency=currency if price and currency else None,
        available=available,
        url=url,
    )


def _wrong_id(item_id: str, interactions: InteractionSettings) -> str | None:
    if not item_id:
        return "missing_item"
    if _NOT_DECODED in item_id:
        return "bad_encoding"
    if any(unicodedata.category(character) in _UNSEEN for character in item_id):
        return "control_character"
    if len(item_id) > interactions.max_id_length:
        return "id_too_long"
    if interactions.item_pattern and not re.search(interactions.item_pattern, item_id):
        return "not_a_product"
    return None


def _categories(texts: list[str]) -> str:
    """The names, each once, joined by `|`; that sign within a name becomes a slash."""
    names = [clean(text).replace("|", "/")[:_LONGEST_CATEGORY] for text in texts]
    return "|".join(dict.fromkeys(name for name in names if name))


def _available(text: str, crawl: CrawlSettings) -> bool | None:
    """Whether it can be had; without a word about it, it can. None: what is said means neither."""
    if not text:
        return True
    if re.search(crawl.out_of_stock, text):
        return False
    return True if re.search(crawl.in_stock, text) else None


def _url(base: str, text: str) -> str | None:
    from w3lib.url import safe_url_string

    try:
        url = safe_url_string(urljoin(base, text))
        parts = urlsplit(url)
    except ValueError:
        return None
    proper = parts.scheme in ("http", "https") and parts.hostname and len(url) <= _LONGEST_URL
    return url if proper else None
