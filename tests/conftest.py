"""What every suite shares: one Spark session, one PostgreSQL, one Redis, a Bot API server on this machine."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import psycopg2
import pytest

from embedded.postgres import EmbeddedPostgres
from shortlist.stores.database import Database, ensure_schema
from tests.fake_bot_api import FakeBotApi
from tests.redis_server import RedisServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyspark.sql import SparkSession


# The machine is busy with other tests: how long one example takes says nothing.
hypothesis.settings.register_profile("loaded", deadline=None)
hypothesis.settings.load_profile("loaded")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The demo takes longest: begun first, it does not keep one core busy while the other has nothing left to do."""
    items.sort(key=lambda item: item.path.stem != "test_demo")


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkSession]:
    """One small local session; the settings are those of the DAGs, with few shuffle partitions."""
    os.environ["PYSPARK_PYTHON"] = sys.executable
    # Spark's workers import the functions that they are sent.
    plugins = str(Path(__file__).resolve().parents[1] / "plugins")
    os.environ["PYTHONPATH"] = os.pathsep.join([plugins, *filter(None, [os.environ.get("PYTHONPATH")])])
    os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    from pyspark.sql import SparkSession

    session = (
        SparkSession.builder.master("local[2]")
        .appName("tests")
        .config("spark.ui.enabled", "false")
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.sql.shuffle.partitions", "2")
        .config("spark.driver.memory", "2g")
        .config("spark.ui.showConsoleProgress", "false")
        # Many small jobs: compiling their plans and methods to the last would cost more than it gains.
        .config("spark.driver.extraJavaOptions", "-Xss4m -XX:TieredStopAtLevel=1 -XX:+UseSerialGC")
        .config("spark.sql.codegen.wholeStage", "false")
        .config("spark.sql.adaptive.enabled", "false")
        .getOrCreate()
    )
    session.sparkContext.setLogLevel("ERROR")
    logging.getLogger("py4j").setLevel(logging.WARNING)  # it would speak at exit, when the stream is closed
    yield session
    session.stop()


@pytest.fixture
def bot_api() -> Iterator[FakeBotApi]:
    """A fake of Telegram's Bot API over real HTTP."""
    with FakeBotApi() as api:
        yield api


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A real server, with the users and rights that compose gives it."""
    with tempfile.TemporaryDirectory(prefix="shortlist-redis-") as folder, RedisServer(Path(folder)) as server:
        yield server


@pytest.fixture
def redis(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> RedisServer:
    """The same, empty and running with its first settings; `$FEATURES_REDIS_URL` names it."""
    redis_server.reset()
    monkeypatch.setenv("FEATURES_REDIS_URL", redis_server.url)
    return redis_server


@pytest.fixture
def spark_redis(spark: SparkSession, redis: RedisServer) -> Iterator[RedisServer]:
    """The same, known to Spark's workers, too: they have the environment of the process that started Spark."""
    spark.sparkContext.environment["FEATURES_REDIS_URL"] = redis.url
    yield redis
    del spark.sparkContext.environment["FEATURES_REDIS_URL"]


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """A real server. Not below pytest's own folder: it may run as a user who cannot look into that."""
    with tempfile.TemporaryDirectory(prefix="shortlist-tests-") as folder:
        Path(folder).chmod(0o755)
        with EmbeddedPostgres(Path(folder) / "postgres", port=0) as server:
            _execute(server.url, "ALTER SYSTEM SET fsync = off")
            _execute(server.url, "SELECT pg_reload_conf()")
            yield server


@pytest.fixture
def database(postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch) -> Database:
    """The database `recs` with empty tables; `$RECS_DATABASE_URL` names it."""
    monkeypatch.setenv("RECS_DATABASE_URL", postgres.url)
    return empty_database(postgres)


def empty_database(postgres: EmbeddedPostgres) -> Database:
    _execute(
        postgres.url,
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )
    _execute(
        postgres.url,
        "DROP SCHEMA IF EXISTS internal CASCADE; DROP SCHEMA IF EXISTS service CASCADE;"
        " DROP SCHEMA public CASCADE; CREATE SCHEMA public",
    )
    database = Database(postgres.url)
    ensure_schema(database)
    return database


def _execute(url: str, statement: str) -> None:
    connection = psycopg2.connect(url)
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)
    finally:
        connection.close()
