"""Finding items in Elasticsearch, where there is one; nothing waits for it when it is away."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, NamedTuple

from service.connections import AwayError, Part, place_of
from shortlist.columns import AVAILABLE, CATEGORY, ITEM, TITLE
from shortlist.stores import search_index

if TYPE_CHECKING:
    from elasticsearch import AsyncElasticsearch

logger = logging.getLogger(__name__)


class Hit(NamedTuple):
    """One item as it was when the index was made."""

    item_id: str
    title: str | None
    category: str | None
    available: bool


class SearchPart:
    """Asks the index that the DAG `catalogue_refresh` makes; nothing where no Elasticsearch is configured."""

    def __init__(self, url: str, *, seconds: float) -> None:
        """Prepare it; `keep_looking` connects.

        Args:
            url: Of the server, with user and password where it wants them; empty: there is none.
            seconds: An answer that takes longer does not count.
        """
        self._url = url
        self._seconds = seconds
        self._client: AsyncElasticsearch | None = None
        self._items: int | None = None
        self.part = Part("Elasticsearch", place_of(url), "PostgreSQL finds items")
        self.is_configured = bool(url)

    @property
    def state(self) -> str:
        """What people are told of it."""
        if self.part.problem is not None:
            return f"{self.part.problem}: PostgreSQL finds items"
        if self._items is None:
            return "it was not reached yet: PostgreSQL finds items"
        return f"answers at {self.part.place}, {self._items:,} items"

    async def find(self, text: str, limit: int) -> list[Hit]:
        """Return the items that fit best, see `search_index.query`.

        Raises:
            AwayError: If it is away, late, refuses or has no index yet.
        """
        if self.part.problem is not None or self._client is None:
            raise AwayError(self.part.problem or "Elasticsearch was not reached yet")
        answer = await self._ask(
            self._client.search(
                index=search_index.ALIAS,
                query=search_index.query(text),
                sort=list(search_index.SORT),
                size=limit,
                source={"includes": [ITEM, TITLE, CATEGORY, AVAILABLE]},
            )
        )
        found = (hit["_source"] for hit in answer["hits"]["hits"])
        return [Hit(one[ITEM], one.get(TITLE), one.get(CATEGORY), one[AVAILABLE]) for one in found]

    async def keep_looking(self, seconds: float) -> None:
        """Look every so many seconds whether it answers, until cancelled; does nothing where there is none."""
        while self.is_configured:
            try:
                if self._client is None:
                    # Importing the client takes longer than all else that a start does.
                    self._client = await asyncio.to_thread(_connect, self._url, self._seconds)
                answer = await self._ask(self._client.count(index=search_index.ALIAS))
                self._items = int(answer["count"])
            except AwayError:
                pass  # the part remembers
            except ValueError:
                # The text of the error would hold the value.
                self.part.problem = f"{search_index.URL_VARIABLE} is no URL such as http://user:password@host:9200"
                logger.error("%s: PostgreSQL finds items", self.part.problem)
                return
            except Exception:  # whatever it is: the look that fails must not be the last one
                logger.exception("Elasticsearch could not be looked at")
            await asyncio.sleep(seconds)

    async def close(self) -> None:
        """Let all connections go."""
        if self._client is not None:
            await self._client.close()

    async def _ask(self, question: Any) -> Any:  # noqa: ANN401 - the client's own types are too wide
        from elastic_transport import TransportError
        from elasticsearch import ApiError, NotFoundError

        try:
            async with asyncio.timeout(self._seconds):
                answer = await question
        except NotFoundError:
            self.part.problem = f"{self.part.place} has no index of items yet, the DAG catalogue_refresh makes it"
            raise AwayError(self.part.problem) from None
        except (OSError, TimeoutError, ApiError, TransportError) as error:
            raise self.part.failed(error) from None
        self.part.answered()
        return answer


def _connect(url: str, seconds: float) -> AsyncElasticsearch:
    from elasticsearch import AsyncElasticsearch

    # Longer than anybody waits: a late answer is told from one that does not come.
    return AsyncElasticsearch(url, request_timeout=seconds * 2, max_retries=0, retry_on_timeout=False)
