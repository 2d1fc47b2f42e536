"""Connections to PostgreSQL and Redis that say quickly when the other side is away, and notice when it is back."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import asyncpg
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable

logger = logging.getLogger(__name__)

# Few: a short query on each of two cores, and some that wait for the disk.
_POOL: Final = 8

_LATE_IN_A_ROW: Final = 3

# Of what a person asks for and a dashboard does not: searching, explaining, forgetting.
SLOW_SECONDS: Final = 10.0


class AwayError(Exception):
    """PostgreSQL, Redis or Elasticsearch did not answer, or not in time."""


class Part:
    """Remembers whether a part is there: while it is away, nobody waits for it.

    One answer that comes too late says little of the next one: only several in a row mean that a part is away, or one
    error of another kind.
    """

    def __init__(self, name: str, place: str, meanwhile: str = "answers are the last known ones") -> None:
        self.name = name
        self.place = place
        self._meanwhile = meanwhile
        self.problem: str | None = None
        self._late = 0

    def failed(self, error: BaseException) -> AwayError:
        """Note a failure and return what to raise. The text holds no secret: only the kind of error is told."""
        problem = f"{self.name} at {self.place} does not answer ({type(error).__name__})"
        self._late += 1
        if self._late >= _LATE_IN_A_ROW or not isinstance(error, (TimeoutError, RedisTimeoutError)):
            if self.problem is None:
                logger.warning("%s: %s until it is back", problem, self._meanwhile)
            self.problem = problem
        return AwayError(problem)

    def answered(self) -> None:
        """Note that it is there."""
        self._late = 0
        if self.problem is not None:
            logger.info("%s is back", self.name)
        self.problem = None


class Postgres:
    """A pool of connections to `recs`, opened when the server is first there."""

    def __init__(self, url: str, *, seconds: float) -> None:
        self._url = url
        self._seconds = seconds
        self._pool: asyncpg.Pool | None = None
        self.part = Part("PostgreSQL", place_of(url))

    @property
    def is_away(self) -> bool:
        """Whether the last attempt failed, so that only `probe` tries."""
        return self.part.problem is not None

    async def probe(self) -> None:
        """Look whether the server answers; open the pool if it is the first time.

        Raises:
            AwayError: If not.
        """
        try:
            if self._pool is None:
                pool = asyncpg.create_pool(
                    self._url,
                    # None is opened in the background: asyncpg would log a traceback whenever it fails.
                    min_size=0,
                    reset=_keep_as_it_is,
                    max_size=_POOL,
                    timeout=self._seconds * 4,
                    command_timeout=SLOW_SECONDS,
                    server_settings={"application_name": "shortlist-service", "jit": "off"},
                )
                self._pool = await pool
            # Nobody waits for a probe, and it may have to log in first.
            async with asyncio.timeout(self._seconds * 4), _lent(self._pool) as connection:
                await connection.execute("SELECT")
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, ValueError) as error:
            raise self.part.failed(error) from None
        self.part.answered()

    async def rows(self, query: str, *values: object, seconds: float | None = None) -> list[asyncpg.Record]:
        """Return the rows of one statement.

        Raises:
            AwayError: If the server is away or does not answer in time.
        """
        async with self.connection(seconds=seconds) as connection:
            found: list[asyncpg.Record] = await connection.fetch(query, *values)
        return found

    @asynccontextmanager
    async def connection(self, *, seconds: float | None = None) -> AsyncIterator[Any]:
        """Lend a connection. An error of the statement itself is passed on.

        Raises:
            AwayError: If the server is gone, silent or full, or nothing was ever published on it.
        """
        if self.part.problem is not None or self._pool is None:
            raise AwayError(self.part.problem or f"{self.part.name} was not reached yet")
        try:
            async with asyncio.timeout(seconds or self._seconds), _lent(self._pool) as connection:
                yield connection
            self.part.answered()
        except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError):
            raise AwayError(f"there are no tables at {self.part.place} yet: the load_* DAGs make them") from None
        except (
            OSError,
            TimeoutError,
            asyncpg.PostgresConnectionError,
            asyncpg.InterfaceError,
            asyncpg.OperatorInterventionError,
            asyncpg.InsufficientResourcesError,
            asyncpg.InvalidAuthorizationSpecificationError,
        ) as error:
            raise self.part.failed(error) from None

    async def close(self) -> None:
        """Let all connections go, at once."""
        if self._pool is not None:
            self._pool.terminate()


class RedisPart:
    """Recent events in Redis, or nothing where no Redis is configured."""

    def __init__(self, url: str, *, seconds: float) -> None:
        self._seconds = seconds
        self.part = Part("Redis", place_of(url))
        self.is_configured = bool(url)
        self.client: Redis | None = None
        if url:
            pool = BlockingConnectionPool.from_url(
                url,
                max_connections=_POOL * 2,
                timeout=seconds,
                socket_timeout=seconds * 5,
                socket_connect_timeout=seconds * 5,
                retry=Retry(NoBackoff(), 1),
                decode_responses=True,
                # Redis 7.0 has no rule that lets a user say which library it is.
                lib_name=None,
                lib_version=None,
            )
            self.client = Redis(connection_pool=pool)

    async def probe(self) -> None:
        """Look whether the server answers.

        Raises:
            AwayError: If not.
        """
        if self.client is not None:
            await self._answer(self.client.ping(), self._seconds * 5)
            self.part.answered()

    async def ask(self, question: Awaitable[Any], *, seconds: float | None = None) -> Any:  # noqa: ANN401 - any answer
        """Wait for an answer.

        Raises:
            AwayError: If the server is away or does not answer in time.
        """
        if self.part.problem is not None:
            if hasattr(question, "close"):
                question.close()
            raise AwayError(self.part.problem)
        return await self._answer(question, seconds or self._seconds)

    async def _answer(self, question: Awaitable[Any], seconds: float) -> Any:  # noqa: ANN401
        try:
            async with asyncio.timeout(seconds):
                return await question
        except (OSError, TimeoutError, RedisError) as error:
            raise self.part.failed(error) from None

    async def close(self) -> None:
        """Let all connections go."""
        if self.client is not None:
            await self.client.aclose()
            await self.client.connection_pool.disconnect()


async def _keep_as_it_is(connection: Any) -> None:  # noqa: ANN401 - asyncpg has no types
    """No statement here leaves anything behind in its session: resetting it would be one more way there and back."""


@asynccontextmanager
async def _lent(pool: asyncpg.Pool) -> AsyncIterator[Any]:
    connection = await pool.acquire()
    try:
        yield connection
    except asyncio.CancelledError:
        # The time is up. asyncpg would wait for PostgreSQL to confirm that it stops, which one that hangs never does.
        connection.terminate()
        raise
    finally:
        await pool.release(connection)


def place_of(url: str) -> str:
    """Return host and port of a URL, for messages."""
    try:
        parts = urlsplit(url)
        return f"{parts.hostname}:{parts.port or ''}".rstrip(":")
    except ValueError:
        return "an address that is no URL"
