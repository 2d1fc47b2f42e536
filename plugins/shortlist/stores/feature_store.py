"""Features of users and items in Redis: one hash each under a version, and one pointer to the version that is served.

    features:served                    the version that readers see
    features:<version>:about           as_of, number of users and of items
    features:<version>:user:<user_id>  the features of a user
    features:<version>:item:<item_id>  the features of an item
    features:writing                   the version that is being written

All keys of a version and the pointer to it expire in the same second. A new version is written beside the one that is
served; moving the pointer is one command, and only the attempt that began last, on a server that lost nothing since,
may do so. The version before stays until the next one is begun, for readers that are still at it.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import urlsplit

from shortlist.columns import CATEGORY_SHARES
from shortlist.errors import FeatureMemoryError, FeatureStoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    import pyarrow as pa
    from pyspark.sql import DataFrame

Kind = Literal["user", "item"]

URL_VARIABLE: Final = "FEATURES_REDIS_URL"

_SERVED: Final = "features:served"
_WRITING: Final = "features:writing"

_CONNECT_SECONDS: Final = 5.0
_ANSWER_SECONDS: Final = 30.0
_TRIES_AGAIN: Final = 3

# Redis keeps a hash compact while none of its fields is longer.
_LONGEST_FIELD: Final = 64

# What `MEMORY USAGE` leaves out of a key: its places in the tables of all keys and of those that expire.
_TABLES_BYTES: Final = 64

# Room that is left for the other users of the server, and for what Redis needs while it works.
_FREE_SHARE: Final = 0.1

_KEYS_PER_SCAN: Final = 1000


@dataclass(frozen=True)
class Attempt:
    """One version that is being written.

    Attributes:
        version: Its name.
        expires_at: When its keys expire, in seconds since 1970 by the clock of Redis.
        server: Which process of Redis it was begun on.
        evicted: How many keys that process had thrown away by then for want of memory.
    """

    version: str
    expires_at: int
    server: str
    evicted: int


@dataclass(frozen=True)
class FeatureStore:
    """Where the features are. The URL holds a password and never shows in a repr, log or error."""

    url: str = field(repr=False)

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            usable = parts.scheme in ("redis", "rediss") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        if not usable:
            raise FeatureStoreError(
                f"{URL_VARIABLE} must look like redis://user:password@host:6379/2, special characters of the password"
                " percent-encoded (its present value is not shown: it may hold a password)"
            )

    @property
    def place(self) -> str:
        """Host, port and database, for messages."""
        parts = urlsplit(self.url)
        return f"{parts.netloc.rpartition('@')[2]}{parts.path}"

    def ping(self) -> None:
        """Make sure that Redis answers and knows the user.

        Raises:
            FeatureStoreError: If not.
        """
        with self._named_errors():
            self._client.ping()

    def begin(self, version: str, *, ttl_days: int) -> Attempt:
        """Begin a new version: remove whatever is not served, and keep earlier attempts from moving the pointer.

        Args:
            version: A name that was never used.
            ttl_days: When the version will expire.

        Raises:
            FeatureStoreError: If the version is served already, or Redis is not usable.
        """
        with self._named_errors():
            served = self._client.get(_SERVED)
            if version == served:
                raise FeatureStoreError(f"the features {version} are served already: give the new ones another version")
            info = self._client.info()
            expires_at = self._client.time()[0] + ttl_days * 86_400
            self._client.set(_WRITING, version, exat=expires_at)
            self._remove(lambda key: key not in (_SERVED, _WRITING) and not key.startswith(f"features:{served}:"))
        return Attempt(version, expires_at, info["run_id"], info["evicted_keys"])

    def put(self, attempt: Attempt, kind: Kind, rows: pa.RecordBatch) -> int:
        """Write some users or items, all in one round trip. Twice is as good as once.

        Args:
            attempt: Of `begin`.
            kind: What the rows are.
            rows: The id first, then float columns and perhaps a map of shares. What is null is left out.

        Returns:
            Number of rows.
        """
        with self._named_errors():
            pipeline = self._client.pipeline(transaction=False)
            for identifier, features in _encoded(rows):
                key = _key(attempt.version, kind, identifier)
                pipeline.hset(key, mapping=features)
                pipeline.expireat(key, attempt.expires_at)
            pipeline.execute()
        return rows.num_rows

    def remove_users(self, attempt: Attempt, users: Iterable[str]) -> None:
        """Remove some users from a version that is being written, if they are in it."""
        keys = [_key(attempt.version, "user", user) for user in users]
        if keys:
            with self._named_errors():
                self._client.unlink(*keys)

    def bytes_each(self, attempt: Attempt, kind: Kind, sample: pa.RecordBatch) -> float:
        """Write a sample and return how much memory Redis needs for one of its rows, on average.

        Redis itself measures the keys (`MEMORY USAGE`); what each takes in the tables of all keys is added.
        """
        self.put(attempt, kind, sample)
        with self._named_errors():
            pipeline = self._client.pipeline(transaction=False)
            for identifier in sample.column(0).to_pylist():
                pipeline.memory_usage(_key(attempt.version, kind, str(identifier)), samples=0)
            measured: list[int] = pipeline.execute()
        return sum(measured) / len(measured) + _TABLES_BYTES

    def check_memory(self, attempt: Attempt, needed: float) -> None:
        """Refuse a version that does not fit beside the one that is served; what was written of it is removed.

        There must be room below nine tenths of Redis' `maxmemory`, or, where it has none, of the machine's memory.

        Args:
            attempt: Of `begin`.
            needed: Bytes of the whole version.

        Raises:
            FeatureMemoryError: If there is not.
        """
        with self._named_errors():
            info = self._client.info("memory")
            limit = info["maxmemory"] or info["total_system_memory"]
            free = limit * (1 - _FREE_SHARE) - info["used_memory"]
            if needed <= free:
                return
            self._remove(lambda key: key.startswith(f"features:{attempt.version}:"))
        raise FeatureMemoryError(
            f"the features need {needed / 1e6:.1f} MB and Redis at {self.place} has {max(free, 0) / 1e6:.1f} MB left"
            f" below nine tenths of its {limit / 1e6:.1f} MB (maxmemory): raise maxmemory (REDIS_MAXMEMORY in .env and"
            " with it REDIS_MEMORY, with containers), or keep fewer [features].category_shares. Nothing was written;"
            " what was served stays"
        )

    def publish(self, attempt: Attempt, about: Mapping[str, str | int]) -> None:
        """Let readers see a version from now on, in one transaction.

        Args:
            attempt: Of `begin`; every row of it was written.
            about: What is to be known of the version as a whole.

        Raises:
            FeatureStoreError: If something of it may be lost, or another attempt has begun since.
        """
        from redis.exceptions import WatchError

        lost = None
        with self._named_errors(), self._client.pipeline() as pipeline:
            pipeline.watch(_WRITING)
            info = self._client.info()
            if self._client.get(_WRITING) != attempt.version:
                lost = "its keys were removed (FLUSHALL?), or another attempt has begun since"
            elif info["run_id"] != attempt.server:
                lost = "Redis was restarted in the meantime"
            elif info["evicted_keys"] != attempt.evicted:
                lost = "Redis has evicted keys for want of memory: give it more, and maxmemory-policy noeviction"
            else:
                key = f"features:{attempt.version}:about"
                pipeline.multi()
                pipeline.hset(key, mapping=dict(about))
                pipeline.expireat(key, attempt.expires_at)
                pipeline.set(_SERVED, attempt.version, exat=attempt.expires_at)
                pipeline.delete(_WRITING)
                try:
                    pipeline.execute()
                except WatchError:
                    lost = "another attempt has begun at the same moment"
        if lost:
            raise FeatureStoreError(
                f"the features {attempt.version} in Redis at {self.place} cannot be relied on: {lost}. They are not"
                " served; run the task again"
            )

    def served(self) -> str | None:
        """Return the version that is served, `None` if there is none or it has expired."""
        with self._named_errors():
            version: str | None = self._client.get(_SERVED)
        return version

    def about(self, version: str) -> dict[str, str]:
        """Return what is known of a version as a whole: `as_of`, `users`, `items`. Empty if it is gone."""
        with self._named_errors():
            return dict(self._client.hgetall(f"features:{version}:about"))

    def read(self, kind: Kind, ids: Iterable[str], *, version: str | None = None) -> dict[str, dict[str, float]]:
        """Return the features of those users or items that are known, in one round trip.

        Args:
            kind: What the ids are of.
            ids: Of users or items.
            version: As `served` told, for readers that ask more than once. Else what is served now.

        Returns:
            Features by id; a share of a category is called `share:<category>`.
        """
        version = version or self.served()
        if version is None:
            return {}
        wanted = list(ids)
        with self._named_errors():
            pipeline = self._client.pipeline(transaction=False)
            for identifier in wanted:
                pipeline.hgetall(_key(version, kind, identifier))
            found = pipeline.execute()
        return {
            identifier: {name: float(value) for name, value in features.items()}
            for identifier, features in zip(wanted, found, strict=True)
            if features
        }

    @cached_property
    def _client(self) -> Any:  # noqa: ANN401 - its types do not follow decode_responses
        from redis import Redis
        from redis.backoff import ExponentialWithJitterBackoff
        from redis.retry import Retry

        return Redis.from_url(
            self.url,
            decode_responses=True,
            socket_connect_timeout=_CONNECT_SECONDS,
            socket_timeout=_ANSWER_SECONDS,
            retry=Retry(ExponentialWithJitterBackoff(base=0.5, cap=4), _TRIES_AGAIN),
        )

    def _remove(self, unwanted: Callable[[str], bool]) -> None:
        batch: list[str] = []
        for key in self._client.scan_iter("features:*", count=_KEYS_PER_SCAN):
            if unwanted(key):
                batch.append(key)
            if len(batch) == _KEYS_PER_SCAN:
                self._client.unlink(*batch)
                batch = []
        if batch:
            self._client.unlink(*batch)

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        from redis import RedisError

        try:
            yield
        except RedisError as error:
            reason = str(error).rstrip(".")
            raise FeatureStoreError(
                f"Redis at {self.place} is not usable: {reason}. Check that it runs and has memory left, and the user,"
                f" password and host in {URL_VARIABLE}; then run the task again. What was served stays"
            ) from None


def store_from_env() -> FeatureStore:
    """Return the store that `$FEATURES_REDIS_URL` names.

    Raises:
        FeatureStoreError: If the variable is not set or is no Redis URL.
    """
    url = os.environ.get(URL_VARIABLE)
    if not url:
        raise FeatureStoreError(
            f"{URL_VARIABLE} is not set: give the tasks and Spark's workers redis://user:password@host:6379/2, or start"
            " the run with save_to_db = false, which needs no Redis"
        )
    return FeatureStore(url)


def write(frame: DataFrame, attempt: Attempt, kind: Kind, *, batch_size: int) -> int:
    """Write all rows of a frame from where they are: each task of Spark sends its own to Redis.

    The tasks find Redis by their own environment, so that its password is in no plan and no log of Spark.

    Args:
        frame: Columns as `FeatureStore.put` takes them.
        attempt: Of `FeatureStore.begin`.
        kind: What the rows are.
        batch_size: Rows a round trip.

    Returns:
        Number of rows that were written.

    Raises:
        FeatureStoreError: If a task could not write all of its rows.
    """

    def send(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        written, problem = 0, None
        try:
            store = store_from_env()
            for batch in batches:
                for start in range(0, batch.num_rows, batch_size):
                    written += store.put(attempt, kind, batch.slice(start, batch_size))
        except FeatureStoreError as error:
            problem = str(error)
            for _ in batches:  # Spark expects that a task takes all of its input
                pass
        yield pa.RecordBatch.from_pydict({"written": pa.array([written]), "problem": pa.array([problem], pa.string())})

    reports = frame.mapInArrow(send, "written bigint, problem string").collect()
    for report in reports:
        if report["problem"]:
            raise FeatureStoreError(report["problem"])
    return sum(report["written"] for report in reports)


def _key(version: str, kind: Kind, identifier: str) -> str:
    return f"features:{version}:{kind}:{identifier}"


def _encoded(rows: pa.RecordBatch) -> Iterator[tuple[str, dict[str, str]]]:
    """Each row as its id and the shortest texts that say its float32 values exactly."""
    import pyarrow as pa
    import pyarrow.compute as pc

    identifiers, *columns = rows.columns
    names = rows.schema.names[1:]
    texts = {
        name: pc.cast(column, pa.string()).to_pylist()
        for name, column in zip(names, columns, strict=True)
        if name != CATEGORY_SHARES
    }
    shares: list[Any] = rows.column(CATEGORY_SHARES).to_pylist() if CATEGORY_SHARES in names else []
    for number, identifier in enumerate(identifiers.to_pylist()):
        features = {name: str(values[number]) for name, values in texts.items() if values[number] is not None}
        for category, share in shares[number] if shares else ():
            name = f"share:{category}"
            if len(name.encode()) <= _LONGEST_FIELD:
                features[name] = f"{share:.4g}"
        yield str(identifier), features
