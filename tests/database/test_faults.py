"""Killed, paused, concurrent and disconnected publishers: readers see one whole generation, the retry succeeds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import psycopg2
import pyarrow as pa
import pytest

from shortlist.errors import DatabaseUnavailableError, InputError, PublishError
from shortlist.stores import database as database_module
from shortlist.stores import generations, hand_over_files
from shortlist.stores.database import Database, database_from_env, ensure_schema
from shortlist.stores.datasets import DEFAULT_RECS, ITEMS, ONLINE_RECS
from tests.shop import WEEK_1

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from embedded.postgres import EmbeddedPostgres
    from tests.shop import Shop

RECS = "rank,item_id,score\n1,a,1\n2,b,0.5"
OTHER_RECS = "rank,item_id,score\n1,c,1\n2,d,0.5"
READ_RECS = "SELECT item_id FROM default_recs ORDER BY rank"
READ_ALL = "SELECT min(score)::int, max(score)::int, count(*) FROM online_recs"
WAITING = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = %s"

# Loads one batch, says so, and waits for another that never comes.
HANGING_LOAD = """
import sys, time
import pyarrow as pa
from shortlist.stores import generations, hand_over_files
from shortlist.stores.database import database_from_env
from shortlist.stores.datasets import DATASETS

spec = DATASETS["online_recs"]

def batches():
    rows = {"item_id": ["x"] * 50000, "rank": range(50000), "similar_item_id": ["y"] * 50000, "score": [0.5] * 50000}
    for _ in range(20):
        yield pa.record_batch(rows, schema=hand_over_files.arrow_schema(spec))
    print("in the middle of the COPY", flush=True)
    sys.stdin.readline()

database = database_from_env()
generation = generations.begin(database, spec, run_key="run", week="2026-11-07", fingerprint="f")
generations.write_batches(database, generation, batches())
"""

# Loads and audits as the tasks do, and dies before it publishes.
DYING_RUN = """
import os, signal, sys
from shortlist.settings import PathSettings, PublishSettings, Settings
from steps import hand_over

settings = Settings(publish=PublishSettings(k=2, default_recs=2), paths=PathSettings(root=sys.argv[1]))
run = {"run_key": "run", "run_after": sys.argv[2], "run_type": "manual"}
generation_id = hand_over.load_file(settings=settings, dataset="default_recs", **run)
hand_over.audit_generation(settings=settings, generation_id=generation_id)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def run_python() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def run(program: str, *arguments: str) -> subprocess.Popen[str]:
        environment = os.environ | {"PYTHONPATH": "plugins"}
        process = subprocess.Popen(
            [sys.executable, "-c", program, *arguments],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def wait_until(shop: Shop, query: str, expected: object, *values: object) -> None:
    """Poll; the suite's own time limit is the only one."""
    while shop.read(query, values) != [(expected,)]:
        pass


def test_a_load_killed_in_mid_copy_leaves_nothing_and_its_retry_succeeds(
    shop: Shop, run_python: Callable[..., subprocess.Popen[str]]
) -> None:
    before = shop.publish("online_recs", "item_id,rank,similar_item_id,score\n1,1,2,1", run="before")
    process = run_python(HANGING_LOAD)
    assert process.stdout is not None
    assert process.stdout.readline() == "in the middle of the COPY\n"
    process.kill()
    process.wait()
    assert shop.read("SELECT similar_item_id FROM online_recs") == [("2",)]

    generation_id = shop.publish("online_recs", "item_id,rank,similar_item_id,score\n1,1,3,1")

    assert shop.read("SELECT similar_item_id FROM online_recs") == [("3",)]
    assert shop.leftovers() == {f"online_recs_{before}", f"online_recs_{generation_id}"}


def test_a_paused_load_is_replaced_by_its_retry_and_ends_with_an_error_when_it_wakes(
    shop: Shop, run_python: Callable[..., subprocess.Popen[str]]
) -> None:
    process = run_python(HANGING_LOAD)
    assert process.stdout is not None
    assert process.stdout.readline() == "in the middle of the COPY\n"
    process.send_signal(signal.SIGSTOP)

    generation_id = shop.publish("online_recs", "item_id,rank,similar_item_id,score\n1,1,3,1")
    process.send_signal(signal.SIGCONT)
    _, error = process.communicate("go on\n")

    assert process.returncode == 1
    assert "is not usable" in error or "another attempt" in error
    assert shop.read("SELECT similar_item_id FROM online_recs") == [("3",)]
    assert shop.leftovers() == {f"online_recs_{generation_id}"}


def test_a_run_killed_between_load_and_publish_is_taken_up_by_its_retry(
    shop: Shop, run_python: Callable[..., subprocess.Popen[str]]
) -> None:
    before = shop.publish("default_recs", RECS, run="before")
    shop.write("default_recs", OTHER_RECS)
    process = run_python(DYING_RUN, str(shop.folder), WEEK_1)
    _, error = process.communicate()
    assert process.returncode == -signal.SIGKILL, error
    assert shop.read(READ_RECS) == [("a",), ("b",)]

    generation_id = shop.publish("default_recs")

    assert shop.read(READ_RECS) == [("c",), ("d",)]
    assert shop.leftovers() == {f"default_recs_{before}", f"default_recs_{generation_id}"}


def test_two_publishers_at_once_both_succeed_and_one_whole_generation_is_served(shop: Shop) -> None:
    ids = []
    for run, text in (("one", RECS), ("two", OTHER_RECS)):
        shop.write("default_recs", text)
        ids.append(shop.load("default_recs", run=run))
        shop.audit(ids[-1])
    with shop.database.cursor() as holder:
        generations._lock(holder, "default_recs")
        publishers = [threading.Thread(target=shop.flip, args=[generation_id]) for generation_id in ids]
        for publisher in publishers:
            publisher.start()
        wait_until(shop, WAITING, 2, "advisory")
    for publisher in publishers:
        publisher.join()

    assert shop.read("SELECT status FROM generations") == [("published",), ("published",)]
    assert shop.read(READ_RECS) in ([("a",), ("b",)], [("c",), ("d",)])
    assert shop.leftovers() == {f"default_recs_{generation_id}" for generation_id in ids}


def test_two_runs_that_load_the_same_reference_load_it_once(shop: Shop) -> None:
    shop.write("items", "item_id,available\n1,true")
    with generations.only_loader(shop.database, ITEMS):
        runs = [
            threading.Thread(target=shop.reference, kwargs={"items": "item_id,available\n1,true"}) for _ in range(2)
        ]
        for run in runs:
            run.start()
        wait_until(shop, WAITING, 2, "advisory")
    for run in runs:
        run.join()

    assert shop.read("SELECT status FROM generations") == [("published",)]


def test_readers_see_exactly_one_generation_in_every_statement_during_20_publishes(shop: Shop) -> None:
    """One with plain statements, one with a prepared plan."""
    shop.publish("online_recs", online_recs(0), run="0")
    seen: list[tuple[int, int, int]] = []
    stop = threading.Event()

    def hammer(statement: str) -> None:
        connection = psycopg2.connect(shop.database.url)
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(f"PREPARE hammer AS {READ_ALL}")
            while not stop.is_set():
                cursor.execute(statement)
                seen.extend(cursor.fetchall())
        connection.close()

    readers = [threading.Thread(target=hammer, args=[statement]) for statement in (READ_ALL, "EXECUTE hammer")]
    for reader in readers:
        reader.start()
    try:
        for number in range(1, 21):
            shop.publish("online_recs", online_recs(number), run=str(number))
    finally:
        stop.set()
        for reader in readers:
            reader.join()

    assert {(low, high, count) for low, high, count in seen if low != high or count != 6} == set()
    assert {low for low, _, _ in seen} <= set(range(21))
    assert len({low for low, _, _ in seen}) > 1


def online_recs(score: int) -> str:
    rows = [f"{item},{rank},{10 + rank},{score}" for item in range(3) for rank in (1, 2)]
    return "\n".join(["item_id,rank,similar_item_id,score", *rows])


def test_a_long_running_reader_keeps_its_generation_and_delays_only_the_tidying(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generations, "PLANNING_SECONDS", 0.05)
    monkeypatch.setattr(generations, "RETIRE_LOCK_SECONDS", 1)
    shop = shop.with_settings(keep_generations=1)
    shop.publish("default_recs", RECS, run="one")
    with shop.database.cursor() as reader:
        reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        reader.execute(READ_RECS)
        shop.publish("default_recs", OTHER_RECS, run="two")
        shop.publish("default_recs", OTHER_RECS, run="three")
        assert shop.read(READ_RECS) == [("c",), ("d",)]
        reader.execute(READ_RECS)
        assert reader.fetchall() == [("a",), ("b",)]

    last = shop.publish("default_recs", RECS, run="four")

    assert shop.read(READ_RECS) == [("a",), ("b",)]
    assert shop.leftovers() == {f"default_recs_{last}"}
    assert shop.read("SELECT count(*) FROM pg_inherits WHERE inhdetachpending") == [(0,)]


def test_a_statement_planned_before_the_partition_came_never_meets_the_new_pointer(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the wait the statement would find no rows: the pointer is new, the partition not in its plan."""
    shop.publish("default_recs", RECS, run="one")
    shop.write("default_recs", OTHER_RECS)
    generation_id = shop.load("default_recs", run="two")
    with shop.database.cursor() as cursor:
        # The planner calls a stable function to estimate how many rows a comparison keeps, after it listed partitions.
        cursor.execute(
            "CREATE FUNCTION pause() RETURNS text STABLE LANGUAGE plpgsql"
            " AS 'BEGIN PERFORM pg_advisory_xact_lock_shared(42); RETURN ''none''; END'"
        )
    seen: list[tuple[object, ...]] = []
    query = "SELECT item_id FROM default_recs WHERE item_id <> pause() ORDER BY rank"
    reader = threading.Thread(target=lambda: seen.extend(shop.read(query)))
    with shop.database.cursor() as holder:
        holder.execute("SELECT pg_advisory_xact_lock(42)")
        reader.start()
        wait_until(shop, WAITING, 1, "advisory")
        shop.audit(generation_id)
        with monkeypatch.context() as patch:
            patch.setattr(time, "sleep", lambda _: holder.connection.rollback())
            shop.flip(generation_id)
    reader.join()

    assert seen == [("a",), ("b",)]
    assert shop.read(READ_RECS) == [("c",), ("d",)]


def test_a_server_restarted_in_mid_load_is_a_clear_error_and_the_retry_succeeds(
    shop: Shop, postgres: EmbeddedPostgres
) -> None:
    before = shop.publish("online_recs", "item_id,rank,similar_item_id,score\n1,1,2,1", run="before")
    generation = generations.begin(shop.database, ONLINE_RECS, run_key="run", week="2026-11-07", fingerprint="f")
    rows = {"item_id": ["x"] * 9, "rank": range(9), "similar_item_id": ["y"] * 9, "score": [0.5] * 9}
    batch = pa.record_batch(rows, schema=hand_over_files.arrow_schema(ONLINE_RECS))

    def batches() -> Iterator[pa.RecordBatch]:
        yield batch
        postgres.stop()
        postgres.start()
        yield batch

    with pytest.raises(DatabaseUnavailableError, match=r"PostgreSQL at 127.0.0.1:\d+/recs is not usable") as error:
        generations.write_batches(shop.database, generation, batches())
    assert_no_password(str(error.value), shop.database)

    generation_id = shop.publish("online_recs", "item_id,rank,similar_item_id,score\n1,1,3,1")

    assert shop.read("SELECT similar_item_id FROM online_recs") == [("3",)]
    assert shop.leftovers() == {f"online_recs_{before}", f"online_recs_{generation_id}"}


def test_a_server_restarted_in_mid_publish_leaves_the_old_generation_and_the_retry_succeeds(
    shop: Shop, postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.publish("default_recs", RECS, run="one")
    shop.write("default_recs", OTHER_RECS)
    generation_id = shop.load("default_recs", run="two")
    shop.audit(generation_id)

    def restart(*_: object) -> None:
        postgres.stop()
        postgres.start()

    with monkeypatch.context() as patch:
        patch.setattr(generations, "_wait_for_planners", restart)
        with pytest.raises(DatabaseUnavailableError):
            shop.flip(generation_id)
    assert shop.read(READ_RECS) == [("a",), ("b",)]

    shop.flip(generation_id)

    assert shop.read(READ_RECS) == [("c",), ("d",)]


def test_a_lock_held_by_another_publisher_is_a_named_error_after_the_time_limit(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.write("default_recs", RECS)
    generation_id = shop.load("default_recs")
    shop.audit(generation_id)
    with shop.database.cursor() as holder:
        generations._lock(holder, "default_recs")
        monkeypatch.setitem(database_module._SESSION, "lock_timeout", "50ms")
        with pytest.raises(PublishError, match="another session at .* holds a lock"):
            shop.flip(generation_id)

    shop.flip(generation_id)

    assert shop.read(READ_RECS) == [("a",), ("b",)]


def test_a_failure_to_tidy_up_never_fails_the_publish(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    shop = shop.with_settings(keep_generations=1)
    first = shop.publish("default_recs", RECS, run="one")
    with shop.database.cursor() as cursor:
        cursor.execute(f"CREATE VIEW public.in_the_way AS SELECT * FROM internal.default_recs_{first}")

    second = shop.publish("default_recs", OTHER_RECS, run="two")

    assert shop.read(READ_RECS) == [("c",), ("d",)]
    assert f"the rows of generation {first} of default_recs stay for now" in caplog.text
    assert shop.leftovers() == {f"default_recs_{first}", f"default_recs_{second}"}


def test_two_first_runs_at_once_make_the_schema_once(database: Database) -> None:
    with database.cursor() as cursor:
        cursor.execute("DROP SCHEMA internal CASCADE; DROP VIEW IF EXISTS served, generations")
        cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended('shortlist:schema', 0))")
        runs = [threading.Thread(target=ensure_schema, args=[database]) for _ in range(2)]
        for run in runs:
            run.start()
    for run in runs:
        run.join()

    with database.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM internal.schema_version")
        assert cursor.fetchone() == (1,)


def test_an_unset_or_foreign_url_is_named_without_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RECS_DATABASE_URL", raising=False)
    with pytest.raises(DatabaseUnavailableError, match="RECS_DATABASE_URL is not set"):
        database_from_env()
    for url in ("postgresql+psycopg2://u:geheim@host/recs", "postgresql://u:geheim@[host/recs"):
        monkeypatch.setenv("RECS_DATABASE_URL", url)
        with pytest.raises(DatabaseUnavailableError) as error:
            ensure_schema(database_from_env())
        assert "geheim" not in str(error.value)


@pytest.mark.parametrize("change", ["password", "port", "database"])
def test_an_unreachable_server_is_a_clear_error_without_the_password(database: Database, change: str) -> None:
    url = {
        "password": database.url.replace("@", "x@"),
        "port": database.url.replace("/recs", "/recs?port=1"),
        "database": database.url.replace("/recs", "/nowhere"),
    }[change]
    wrong = Database(url)
    for use in (wrong.cursor, wrong.bulk):
        with pytest.raises(DatabaseUnavailableError, match="Check that it runs and has room") as error, use():
            pass
        assert_no_password(str(error.value), wrong)
    assert repr(wrong) == "Database()"


def test_a_server_without_free_connections_is_a_clear_error(database: Database) -> None:
    with database.cursor() as cursor:
        cursor.execute("DROP ROLE IF EXISTS visitor")
        cursor.execute("CREATE ROLE visitor LOGIN PASSWORD 'pw' CONNECTION LIMIT 0")
    visitor = Database(f"postgresql://visitor:pw@{database.place}")

    with pytest.raises(DatabaseUnavailableError, match='too many connections for role "visitor"'), visitor.cursor():
        pass


def test_a_user_without_rights_is_a_clear_error(database: Database) -> None:
    with database.cursor() as cursor:
        cursor.execute("DROP ROLE IF EXISTS guest")
        cursor.execute("CREATE ROLE guest LOGIN PASSWORD 'pw'")
    guest = Database(f"postgresql://guest:pw@{database.place}")

    with pytest.raises(PublishError, match="permission denied for schema internal"):
        generations.served(guest, DEFAULT_RECS)


def test_a_file_that_changes_while_it_is_read_is_not_loaded(shop: Shop, tmp_path: Path) -> None:
    shop.write("default_recs", RECS)
    file = hand_over_files.find(str(tmp_path / "postgres_data"), DEFAULT_RECS)
    shop.write("default_recs", f"{RECS}\n3,c,0.1")
    generation = generations.begin(
        shop.database, DEFAULT_RECS, run_key="r", week="2026-11-07", fingerprint=file.fingerprint
    )

    with pytest.raises(InputError, match="changed while it was read"):
        generations.load(shop.database, generation, file)

    assert generations.get(shop.database, generation.generation_id).status == "refused"
    assert shop.leftovers() == set()


def assert_no_password(text: str, database: Database) -> None:
    password = database.url.split(":")[2].split("@")[0]
    assert password not in text
