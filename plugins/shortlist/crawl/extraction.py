"""Taking a page apart by the selectors of the settings: texts as they stand there, not judged yet."""

from __future__ import annotations

import json
import re
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from shortlist.errors import CrawlError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable

    from parsel import Selector

    from shortlist.settings import CrawlFieldSettings, CrawlSettings

FIELDS: Final = ("item_id", "title", "category", "price", "currency", "available", "url")

_XPATH: Final = "xpath:"
_LONGEST_TEXT: Final = 10_000
_MOST_TEXTS: Final = 50
_MOST_LINKS: Final = 10_000


def check_selectors(crawl: CrawlSettings) -> None:
    """Make sure that every selector can be understood.

    Raises:
        SettingsError: Naming the key of one that cannot.
    """
    import jmespath
    from cssselect import SelectorError
    from jmespath.exceptions import JMESPathError
    from parsel import Selector

    selectors = {name: getattr(crawl, name) for name in ("item", "next", "total")}
    selectors |= {f"fields.{name}": getattr(crawl.fields, name) for name in FIELDS}
    nothing = Selector(text="<p></p>")
    for name, selector in selectors.items():
        if selector is None:
            continue
        try:
            if crawl.format == "json":
                jmespath.compile(selector)
            else:
                _select(nothing, selector)
        except (SelectorError, ValueError, JMESPathError) as error:
            kind = "JMESPath" if crawl.format == "json" else "XPath" if selector.startswith(_XPATH) else "CSS"
            raise SettingsError(f"[catalogue.crawl.{name}] {selector!r} is no {kind}: {error}") from None


def take_apart(text: str, crawl: CrawlSettings) -> tuple[list[dict[str, list[str]]], list[str], int | None]:
    """Return the items of a page, its links to further pages, and how many items it says there are.

    Args:
        text: The page.
        crawl: Its format and the selectors.

    Returns:
        Of each item the texts of each field, at most 50 of 10,000 characters; the links as they stand there; the total.

    Raises:
        CrawlError: If it is no JSON, with format `json`, or if no elements are selected but texts.
    """
    return _json(text, crawl) if crawl.format == "json" else _html(text, crawl)


def _html(text: str, crawl: CrawlSettings) -> tuple[list[dict[str, list[str]]], list[str], int | None]:
    from parsel import Selector

    page = Selector(text=text, type="html")
    elements = _select(page, crawl.item)
    if any(isinstance(element.root, str | float | bool) for element in elements):
        raise CrawlError(f"[catalogue.crawl].item = {crawl.item!r} selects text there: it must select whole elements")
    items = [_fields(crawl.fields, partial(_texts, element)) for element in elements]
    return items, _texts(page, crawl.next, _MOST_LINKS), _total(_texts(page, crawl.total))


def _json(text: str, crawl: CrawlSettings) -> tuple[list[dict[str, list[str]]], list[str], int | None]:
    import jmespath

    def found(value: Any, path: str | None, most: int = _MOST_TEXTS) -> list[str]:  # noqa: ANN401 - JSON is anything
        return [] if path is None else _cut(_flat(jmespath.search(path, value)), most)

    try:
        # A price stays as it is written: it never was a binary fraction.
        page = json.loads(text.removeprefix("\ufeff"), parse_float=str, parse_constant=str)
        values = jmespath.search(crawl.item, page)
        items = values if isinstance(values, list) else []
        fields = [_fields(crawl.fields, partial(found, item)) for item in items]
        return fields, found(page, crawl.next, _MOST_LINKS), _total(found(page, crawl.total))
    except (ValueError, RecursionError, jmespath.exceptions.JMESPathError) as error:
        raise CrawlError(f"no JSON that [catalogue.crawl] can take apart: {str(error)[:200]}") from None


def _fields(fields: CrawlFieldSettings, texts: Callable[[str], list[str]]) -> dict[str, list[str]]:
    return {name: texts(path) for name in FIELDS if (path := getattr(fields, name)) is not None}


def _select(element: Selector, selector: str) -> Any:  # noqa: ANN401 - a list of selectors, of parsel's own class
    if selector.startswith(_XPATH):
        return element.xpath(selector.removeprefix(_XPATH))
    if element.root.getparent() is None:
        # What follows a </html> that came too early stands beside the root, and browsers show it.
        return element.xpath("/*").css(selector)
    return element.css(selector)


def _texts(element: Selector, selector: str | None, most: int = _MOST_TEXTS) -> list[str]:
    return [] if selector is None else _cut([str(found.get()) for found in _select(element, selector)[:most]], most)


def _flat(value: Any) -> list[str]:  # noqa: ANN401 - JSON is anything
    if value is None:
        return []
    if isinstance(value, list):
        return [text for one in value for text in _flat(one)]
    if isinstance(value, bool):
        return ["true" if value else "false"]
    return [json.dumps(value) if isinstance(value, dict) else str(value)]


def _cut(texts: list[str], most: int) -> list[str]:
    return [text[:_LONGEST_TEXT] for text in texts[:most]]


def _total(texts: list[str]) -> int | None:
    digits = re.sub(r"[^0-9]", "", texts[0]) if texts else ""
    return int(digits[:18]) if digits else None
