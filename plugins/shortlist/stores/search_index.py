"""The search index of items in Elasticsearch: built beside the old one, then exchanged for it by one alias."""

from __future__ import annotations

import hashlib
import logging
import os
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from shortlist.columns import AVAILABLE, CATEGORY, CURRENCY, ITEM, PRICE, TITLE, URL
from shortlist.errors import SearchIndexError
from shortlist.redaction import redact

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from elasticsearch import Elasticsearch

logger = logging.getLogger(__name__)

URL_VARIABLE: Final = "ELASTICSEARCH_URL"
ALIAS: Final = "shortlist-items"

_PATTERN: Final = f"{ALIAS}-*"
_REQUEST_SECONDS: Final = 30.0
_RETRIES: Final = 3
_LONGEST_REASON: Final = 300
_LONGEST_DOCUMENT_ID: Final = 512

_SETTINGS: Final = {
    "number_of_shards": 1,
    # One node has no room for a second copy; the index can be made again.
    "number_of_replicas": 0,
    "analysis": {
        "analyzer": {"titles": {"type": "custom", "tokenizer": "standard", "filter": ["lowercase", "asciifolding"]}}
    },
}

_MAPPINGS: Final = {
    "dynamic": "strict",
    "properties": {
        ITEM: {"type": "keyword", "fields": {"lower": {"type": "keyword", "normalizer": "lowercase"}}},
        TITLE: {"type": "text", "analyzer": "titles"},
        CATEGORY: {"type": "keyword", "ignore_above": 1024},
        PRICE: {"type": "double"},
        CURRENCY: {"type": "keyword"},
        AVAILABLE: {"type": "boolean"},
        URL: {"type": "keyword", "index": False, "doc_values": False},
    },
}


def rebuild(url: str, items: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Index all items and let searches see them, all at once; what an earlier attempt left is removed.

    Args:
        url: Of the server, with user and password where it wants them.
        items: As `catalogue_table.read_all_items` gives them.

    Returns:
        `{"index": name, "items": n, "replaced": [names]}`.

    Raises:
        SearchIndexError: If the server is away or refuses, or has not as many items in the end as it was given. What
            was searched stays.
    """
    from elasticsearch import helpers

    index = f"{ALIAS}-{datetime.now(UTC):%Y%m%dt%H%M%S%f}"
    sent = 0

    def actions() -> Iterator[dict[str, Any]]:
        nonlocal sent
        for item in items:
            sent += 1
            yield {"_op_type": "create", "_index": index, "_id": _document_id(item[ITEM]), "_source": dict(item)}

    with _connected(url) as client:
        client.indices.create(index=index, settings={**_SETTINGS, "refresh_interval": "-1"}, mappings=_MAPPINGS)
        try:
            helpers.bulk(client, actions(), chunk_size=1_000, max_retries=_RETRIES)
            client.indices.put_settings(index=index, settings={"refresh_interval": None})
            client.indices.refresh(index=index)
            found = int(client.count(index=index)["count"])
            if found != sent:
                raise SearchIndexError(
                    f"{index} at {_place(url)} has {found:,} items of {sent:,}: what was searched stays; run the task"
                    " again"
                )
            searched = client.options(ignore_status=404).indices.get_alias(name=ALIAS)
            # What is not found comes as an answer with an error.
            before = [] if "error" in searched else sorted(searched)
            removals = [{"remove": {"index": name, "alias": ALIAS}} for name in before]
            client.indices.update_aliases(actions=[*removals, {"add": {"index": index, "alias": ALIAS}}])
        except Exception:
            client.options(ignore_status=404).indices.delete(index=index)
            raise
        replaced = sorted(set(client.indices.get(index=_PATTERN)) - {index})
        if replaced:
            client.options(ignore_status=404).indices.delete(index=",".join(replaced))
    logger.info("%d items can be searched in %s", sent, index)
    return {"index": index, "items": sent, "replaced": replaced}


def _document_id(item_id: str) -> str:
    """Elasticsearch takes ids of 512 bytes, items may have longer ones."""
    content = item_id.encode()
    return item_id if len(content) <= _LONGEST_DOCUMENT_ID else hashlib.sha256(content).hexdigest()


def query(text: str) -> dict[str, Any]:
    """Return the query for an id, the beginning of one, or words of a title.

    In this order: the item of that id, ids that begin so, titles with all the words (of the last one a beginning will
    do), titles with words that are nearly those. Among equals, what is available comes first.
    """
    return {
        "bool": {
            "must": [
                {
                    "bool": {
                        "should": [
                            {"constant_score": {"filter": {"term": {ITEM: text}}, "boost": 1000.0}},
                            {
                                "constant_score": {
                                    "filter": {"prefix": {f"{ITEM}.lower": {"value": text.lower()}}},
                                    "boost": 300.0,
                                }
                            },
                            {"match_bool_prefix": {TITLE: {"query": text, "operator": "and", "boost": 3.0}}},
                            {"match": {TITLE: {"query": text, "operator": "and", "fuzziness": "AUTO"}}},
                        ],
                        "minimum_should_match": 1,
                    }
                }
            ],
            "should": [{"constant_score": {"filter": {"term": {AVAILABLE: True}}, "boost": 0.5}}],
        }
    }


SORT: Final = ("_score", {ITEM: "asc"})


@contextmanager
def _connected(url: str) -> Iterator[Elasticsearch]:
    from elastic_transport import TransportError
    from elasticsearch import ApiError, Elasticsearch
    from elasticsearch.helpers import BulkIndexError

    try:
        client = Elasticsearch(url, request_timeout=_REQUEST_SECONDS, max_retries=_RETRIES, retry_on_timeout=True)
    except ValueError:
        raise SearchIndexError(
            f"{URL_VARIABLE} must look like http://user:password@host:9200 (its present value is not shown: it may hold"
            " a password)"
        ) from None
    try:
        with client:
            yield client
    except BulkIndexError as error:
        # The reason, without the document.
        first = str([one.get("error") for one in error.errors[0].values()])[:_LONGEST_REASON]
        raise SearchIndexError(
            f"Elasticsearch at {_place(url)} refused {len(error.errors)} items, for example {redact(first)}: what was"
            " searched stays"
        ) from None
    except (ApiError, TransportError) as error:
        reason = redact(f"{type(error).__name__}: {error}")[:_LONGEST_REASON]
        raise SearchIndexError(
            f"Elasticsearch at {_place(url)}: {reason}. Check that it runs and the user and password in {URL_VARIABLE};"
            " what was searched stays"
        ) from None


def _place(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]


def url_from_env() -> str:
    """Return `$ELASTICSEARCH_URL`; empty where there is no Elasticsearch."""
    return os.environ.get(URL_VARIABLE, "").strip()
