"""A user who is forgotten is nowhere any more, and nothing brings them back: tables, later loads, files."""

from __future__ import annotations

import json
import logging
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg2
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shortlist.errors import InputError, NothingToDoError
from shortlist.settings import ColumnSettings, InputSettings, StreamingSettings
from shortlist.stores import feature_store, forgotten, generations, hand_over_files
from shortlist.stores.datasets import PERSONAL_RECS
from shortlist.stores.service_tables import ensure_service_schema
from shortlist.weeks import week_of
from steps import forgetting
from steps.etl import run_etl
from steps.features import process_and_save_features
from steps.forgetting import forget_users
from tests.etl_runs import AS_OF, HEADER, accepted_rows, good_lines, settings_for
from tests.shop import WEEK_1, WEEK_2, Shop

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from shortlist.settings import Settings
    from shortlist.stores.database import Database
    from tests.redis_server import RedisServer

ITEMS = "item_id,available\na,true\nb,true\nc,true"
HISTORY = "user_id,item_id,time,weight\nanna,a,2026-11-01,1\nbert,b,2026-11-01,1\nanna,b,2026-11-02,1"
CANDIDATES = "user_id,item_id\nanna,c\nbert,a\nbert,c"
LABELLED = "user_id,item_id,target\nanna,c,1\nbert,a,1\nbert,c,0"

WITH_USERS = ("user_history", "candidates_train", "candidates_inference", "personal_recs")


@pytest.fixture
def served(shop: Shop) -> Shop:
    """The service's schema, and the tables that other tables are checked against."""
    ensure_service_schema(shop.database)
    shop.reference(items=ITEMS)
    return shop


def forget(database: Database, *users: str) -> dict[str, int]:
    """As the service does it."""
    removed: dict[str, int] = {}
    with database.cursor() as cursor:
        cursor.execute(forgotten.LOCK)
        for user in users:
            cursor.execute(forgotten.remember("%s"), [user])
            for table, statement in forgotten.removals("%s").items():
                cursor.execute(statement, [user])
                removed[table] = removed.get(table, 0) + cursor.rowcount
    return removed


def publish_all(shop: Shop, run: str, after: str) -> None:
    """One generation of every table with users."""
    shop.publish("user_history", HISTORY, run=run, after=after)
    shop.publish("candidates_train", LABELLED, run=run, after=after)
    shop.publish("candidates_inference", CANDIDATES, run=run, after=after)
    generation = load_personal_recs(shop, run, after)
    shop.audit(generation)
    shop.flip(generation)


def load_personal_recs(shop: Shop, run: str, after: str) -> int:
    generation = generations.begin(
        shop.database, PERSONAL_RECS, run_key=run, week=week_of(after), fingerprint=run, model_version="m"
    )
    rows = [
        {"user_id": "anna", "item_ids": ["c"], "scores": [1.0], "sources": ["als"]},
        {"user_id": "bert", "item_ids": ["c", "a"], "scores": [1.0, 0.5], "sources": ["als", "als"]},
    ]
    batch = pa.RecordBatch.from_pylist(rows, schema=hand_over_files.arrow_schema(PERSONAL_RECS))
    generations.write_batches(shop.database, generation, iter([batch]))
    return generation.generation_id


def users_in(shop: Shop, table: str) -> list[str]:
    return [user for (user,) in shop.read(f"SELECT DISTINCT user_id FROM {table} ORDER BY user_id")]


def test_every_table_that_names_users_is_on_the_list(served: Shop) -> None:
    publish_all(served, "one", WEEK_1)

    found = served.read(
        "SELECT table_schema || '.' || table_name FROM information_schema.columns JOIN pg_class"
        " ON pg_class.oid = (quote_ident(table_schema) || '.' || quote_ident(table_name))::regclass"
        " WHERE column_name = 'user_id' AND table_schema IN ('internal', 'service') AND NOT relispartition"
    )

    assert {name for (name,) in found} - {"service.forgotten"} == forgotten.USER_TABLES.keys()


def test_a_user_goes_from_every_kept_generation_and_the_events(served: Shop) -> None:
    publish_all(served, "one", WEEK_1)
    publish_all(served, "two", WEEK_2)
    with served.database.cursor() as cursor:
        cursor.execute(
            "INSERT INTO service.events (kind, user_id, item_id, time) SELECT 'click', user_id, 'a', now()"
            " FROM unnest('{anna,anna,bert}'::text[]) AS user_id"
        )

    assert forget(served.database, "anna") == {
        "internal.user_history": 2,
        "internal.candidates_train": 2,
        "internal.candidates_inference": 2,
        "internal.personal_recs": 2,
        "service.events": 2,
    }

    assert {table: users_in(served, table) for table in forgotten.USER_TABLES} == dict.fromkeys(
        forgotten.USER_TABLES, ["bert"]
    )
    assert forgotten.forgotten_users(served.database) == {"anna"}


def test_a_later_load_leaves_the_user_out_and_counts_the_rest(served: Shop, caplog: pytest.LogCaptureFixture) -> None:
    forget(served.database, "anna")

    with caplog.at_level(logging.INFO):
        publish_all(served, "one", WEEK_1)

    assert {table: users_in(served, table) for table in WITH_USERS} == dict.fromkeys(WITH_USERS, ["bert"])
    assert served.read("SELECT dataset, rows FROM served WHERE dataset <> 'items' ORDER BY dataset") == [
        ("candidates_inference", 2),
        ("candidates_train", 2),
        ("personal_recs", 1),
        ("user_history", 1),
    ]
    assert "loaded 1 rows into generation 2 of user_history\n" in caplog.text
    assert "left out 2 rows of forgotten users" in caplog.text
    assert "anna" not in caplog.text


@pytest.mark.parametrize("dataset", ["user_history", "candidates_train", "candidates_inference"])
def test_a_user_forgotten_between_load_and_audit_is_not_published(served: Shop, dataset: str) -> None:
    text = {"user_history": HISTORY, "candidates_train": LABELLED, "candidates_inference": CANDIDATES}[dataset]
    served.write(dataset, text)
    generation = served.load(dataset)
    forget(served.database, "anna")

    served.audit(generation)
    served.flip(generation)

    assert users_in(served, dataset) == ["bert"]


def test_a_user_who_is_being_forgotten_while_a_generation_is_attached_is_not_published(served: Shop) -> None:
    served.write("candidates_inference", CANDIDATES)
    generation = served.load("candidates_inference")
    connection = psycopg2.connect(served.database.url)
    with connection, connection.cursor() as cursor:
        cursor.execute(forgotten.LOCK)
        cursor.execute(forgotten.remember("%s"), ["anna"])
        cursor.execute(forgotten.removals("%s")["internal.candidates_inference"], ["anna"])
        auditing = threading.Thread(target=served.audit, args=[generation])
        auditing.start()
        auditing.join(timeout=1)
        assert auditing.is_alive()  # waits for whoever forgets
    connection.close()
    auditing.join()
    served.flip(generation)

    assert users_in(served, "candidates_inference") == ["bert"]


def test_without_the_services_tables_nobody_is_forgotten(shop: Shop) -> None:
    assert forgotten.forgotten_users(shop.database) == frozenset()

    shop.reference(items=ITEMS)
    publish_all(shop, "one", WEEK_1)

    assert users_in(shop, "user_history") == ["anna", "bert"]


def test_a_user_who_asks_again_is_looked_for_again(served: Shop) -> None:
    forget(served.database, "anna", "bert")
    forgotten.mark_files_done(served.database, {"anna", "bert"})
    assert forgotten.forgotten_users(served.database, files_pending=True) == frozenset()

    forget(served.database, "anna")

    assert forgotten.forgotten_users(served.database, files_pending=True) == {"anna"}


# The files.


def with_input(shop: Shop, path: Path | str) -> Settings:
    columns = ColumnSettings(user="who", item="what", time="when")
    return replace(
        shop.settings, input=InputSettings(path=str(path), columns=columns), streaming=StreamingSettings(format="csv")
    )


def write(path: Path, content: str | dict[str, list[Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, str):
        path.write_text(content)
    else:
        pq.write_table(pa.table(content), path)
    return path


def read(path: Path) -> Any:
    return pq.read_table(path).to_pydict() if path.suffix == ".parquet" else path.read_text()


OWN = {"user_id": ["anna", "bert"], "item_id": ["a", "b"]}
OWN_LEFT = {"user_id": ["bert"], "item_id": ["b"]}
FEEDBACK = "CUST_ID,MOVIE_ID,DATE,RATING\nanna,a,2026-11-01,1\nbert,b,2026-11-01,1\n"
FEEDBACK_LEFT = "CUST_ID,MOVIE_ID,DATE,RATING\nbert,b,2026-11-01,1\n"

FILES: dict[str, tuple[Any, Any]] = {
    "data/raw/2025/sales.csv": ("who,what,when\nanna,a,1\nbert,b,1\n", "who,what,when\nbert,b,1\n"),
    "data/raw/old.jsonl": ('{"who": "anna"}\n{"who": "bert"}\n', '{"who": "bert"}\n'),
    "data/raw/future.csv": ("user_id,item_id\nanna,a\nbert,b\n", "user_id,item_id\nbert,b\n"),
    "data/raw/future.txt": ("7:\nanna,2026-11-01\nbert\n", "7:\nbert\n"),
    "data/raw/catalogue.csv": ("item_id,title\nanna,Anna\n", "item_id,title\nanna,Anna\n"),
    "data/streaming/friday/new.csv": (FEEDBACK, FEEDBACK_LEFT),
    "data/streaming/only_hers.csv": ("CUST_ID,MOVIE_ID,DATE,RATING\nanna,a,2026-11-01,1\n", None),
    "data/streaming_archive/drift_1/new.csv": (FEEDBACK, FEEDBACK_LEFT),
    "data/batches/drift_1/train/part-0.parquet": (OWN, OWN_LEFT),
    "data/batches/drift_1/items/part-0.parquet": ({"item_id": ["anna"]}, {"item_id": ["anna"]}),
    "data/batches/drift_1/quarantine/part-0.parquet": (
        {"reason": ["bad_time", "bad_time"], "raw": ['{"CUST_ID":"anna"}', '{"CUST_ID":"bert"}']},
        {"reason": ["bad_time"], "raw": ['{"CUST_ID":"bert"}']},
    ),
    "data/processed/parquet/train/part-0.parquet": (OWN, OWN_LEFT),
    "data/processed/parquet/test/part-0.parquet": (OWN, OWN_LEFT),
    "data/processed/parquet/quarantine/part-0.parquet": (
        {"reason": ["bad_time", "bad_time"], "raw": ['{"who":"anna"}', '{"who":"bert"}']},
        {"reason": ["bad_time"], "raw": ['{"who":"bert"}']},
    ),
    "data/processed/future.csv": ("user_id,item_id,time\nanna,a,\nbert,b,\n", "user_id,item_id,time\nbert,b,\n"),
    "data/processed/future_scores/part-0.parquet": (OWN, OWN_LEFT),
    "models/artifacts/version_1/users/part-0.parquet": (
        {"user_id": ["anna", "bert"], "user_index": [0, 1]},
        {"user_id": ["bert"], "user_index": [1]},
    ),
    "models/artifacts/version_1/train/user_factors/part-0.parquet": (
        {"user_index": [0, 1], "factors": [[0.5], [1.5]]},
        {"user_index": [1], "factors": [[1.5]]},
    ),
    "models/artifacts/version_1/train/item_factors/part-0.parquet": (
        {"item_index": [0, 1], "factors": [[0.5], [1.5]]},
        {"item_index": [0, 1], "factors": [[0.5], [1.5]]},
    ),
    "models/artifacts/version_1/candidates/train/part-0.parquet": (OWN, OWN_LEFT),
    "models/artifacts/version_2/users/part-0.parquet": (
        {"user_id": ["bert", "carl"], "user_index": [0, 1]},
        {"user_id": ["bert", "carl"], "user_index": [0, 1]},
    ),
    "models/artifacts/version_2/train/user_factors/part-0.parquet": (
        {"user_index": [0, 1], "factors": [[0.5], [1.5]]},
        {"user_index": [0, 1], "factors": [[0.5], [1.5]]},
    ),
    "models/tuning/study_1/prepared/users/part-0.parquet": (
        {"user_id": ["bert", "anna"], "user_index": [0, 1]},
        {"user_id": ["bert"], "user_index": [0]},
    ),
    "models/tuning/study_1/prepared/preferences/part-0.parquet": (
        {"user_index": [0, 1], "item_index": [1, 1]},
        {"user_index": [0], "item_index": [1]},
    ),
    "postgres_data/user_history.csv": (f"{HISTORY}\n", "user_id,item_id,time,weight\nbert,b,2026-11-01,1\n"),
    "postgres_data/candidates_inference.parquet/part-0.parquet": (OWN, OWN_LEFT),
    "postgres_data/candidates_inference.parquet/part-1.parquet": (
        {"user_id": ["carl"], "item_id": ["a"]},
        {"user_id": ["carl"], "item_id": ["a"]},
    ),
}


def write_files(shop: Shop) -> None:
    for name, (before, _) in FILES.items():
        write(shop.folder / name, before)
    write(shop.folder / "postgres_data/candidates_inference.parquet/_export.json", '{"rows": 3, "model_version": "m"}')


def left_over(shop: Shop) -> dict[str, Any]:
    return {name: read(shop.folder / name) if (shop.folder / name).exists() else None for name in FILES}


def test_the_user_goes_from_every_file_and_the_others_stay(served: Shop, caplog: pytest.LogCaptureFixture) -> None:
    write_files(served)
    forget(served.database, "anna")

    with caplog.at_level(logging.INFO):
        result = forget_users(settings=with_input(served, served.folder / "data/raw/2025"))

    assert left_over(served) == {name: after for name, (_, after) in FILES.items()}
    changed = [name for name, (before, after) in FILES.items() if before != after]
    assert result == {
        "users": 1,
        "table_rows": 0,
        "files": len(changed),
        "rows": len(changed) + 1,
        "left": 0,
        "left_files": [],
    }
    assert forgotten.forgotten_users(served.database, files_pending=True) == frozenset()
    assert "anna" not in caplog.text
    assert not [path for path in served.folder.rglob("*") if path.name.endswith(".tmp")]


def test_the_next_night_there_is_nothing_to_do_until_a_delivery_brings_the_user_back(served: Shop) -> None:
    write_files(served)
    forget(served.database, "anna")
    settings = with_input(served, served.folder / "data/raw/2025")
    forget_users(settings=settings)
    with pytest.raises(NothingToDoError, match="nothing is left of the 1 forgotten users"):
        forget_users(settings=settings)

    again = write(served.folder / "data/raw/2025/again.csv", "who,what,when\nanna,a,1\ncarl,b,1\n")

    assert forget_users(settings=settings)["rows"] == 1
    assert read(again) == "who,what,when\ncarl,b,1\n"


def test_an_event_posted_while_its_user_was_being_forgotten_goes_with_the_files(served: Shop) -> None:
    forget(served.database, "anna")
    forgotten.mark_files_done(served.database, {"anna"})
    with served.database.cursor() as cursor:
        cursor.execute(
            "INSERT INTO service.events (kind, user_id, item_id, time) VALUES"
            " ('click', 'anna', 'a', now()), ('click', 'bert', 'a', now())"
        )

    result = forget_users(settings=with_input(served, served.folder / "data/raw"))

    assert (result["table_rows"], result["rows"]) == (1, 0)
    assert users_in(served, "service.events") == ["bert"]


def test_without_anybody_to_forget_no_file_is_looked_at(served: Shop) -> None:
    write_files(served)

    with pytest.raises(NothingToDoError, match="nobody asked to be forgotten"):
        forget_users(settings=with_input(served, "data/raw"))

    assert left_over(served) == {name: before for name, (before, _) in FILES.items()}


def test_the_hand_over_can_be_loaded_afterwards(served: Shop) -> None:
    write_files(served)
    forget(served.database, "anna")

    forget_users(settings=with_input(served, served.folder / "data/raw/2025"))

    folder = served.folder / "postgres_data/candidates_inference.parquet"
    assert json.loads((folder / "_export.json").read_text()) == {"rows": 2, "model_version": "m"}
    assert sorted(path.name for path in folder.iterdir()) == ["_export.json", "part-0.parquet", "part-1.parquet"]
    served.load("candidates_inference")


@pytest.mark.parametrize("step", ["_search_own", "_end_count", "_take_out_factors"])
def test_killed_on_the_way_the_retry_brings_all_files_to_the_same_end(
    served: Shop, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    write_files(served)
    forget(served.database, "anna")
    settings = with_input(served, served.folder / "data/raw/2025")

    class Killed(BaseException):
        pass

    def killed(*_: Any) -> int:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(forgetting, step, killed)
        with pytest.raises(Killed):
            forget_users(settings=settings)
    assert forgotten.forgotten_users(served.database, files_pending=True) == {"anna"}

    forget_users(settings=settings)

    assert left_over(served) == {name: after for name, (_, after) in FILES.items()}
    export = served.folder / "postgres_data/candidates_inference.parquet/_export.json"
    assert json.loads(export.read_text())["rows"] == 2


def test_a_hand_over_that_lacked_parts_is_not_called_complete(served: Shop) -> None:
    write_files(served)
    (served.folder / "postgres_data/candidates_inference.parquet/part-1.parquet").unlink()
    forget(served.database, "anna")

    forget_users(settings=with_input(served, served.folder / "data/raw/2025"))

    with pytest.raises(InputError, match="parts are missing or too many"):
        served.load("candidates_inference")


def test_an_input_outside_the_project_is_named_until_a_person_has_done_it(
    served: Shop, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = write(tmp_path_factory.mktemp("warehouse") / "sales.csv", "who,what,when\nanna,a,1\nbert,b,1\n")
    own = write(served.folder / "data/processed/parquet/train/part-0.parquet", OWN)
    forget(served.database, "anna")
    settings = with_input(served, outside)

    result = forget_users(settings=settings)

    assert result == {
        "users": 1,
        "table_rows": 0,
        "files": 1,
        "rows": 1,
        "left": 1,
        "left_files": [f"{outside} lies outside the project and holds 1 rows of forgotten users"],
    }
    assert read(own) == OWN_LEFT
    assert read(outside) == "who,what,when\nanna,a,1\nbert,b,1\n"
    assert forgotten.forgotten_users(served.database, files_pending=True) == {"anna"}

    outside.write_text("who,what,when\nbert,b,1\n")

    assert forget_users(settings=settings)["left"] == 0
    assert forgotten.forgotten_users(served.database, files_pending=True) == frozenset()


def test_a_link_to_a_file_outside_the_project_is_followed_and_named(
    served: Shop, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = write(tmp_path_factory.mktemp("warehouse") / "sales.csv", "who,what,when\nanna,a,1\n")
    (served.folder / "data/raw").mkdir(parents=True)
    link = served.folder / "data/raw/sales.csv"
    link.symlink_to(outside)
    forget(served.database, "anna")

    result = forget_users(settings=with_input(served, link))

    assert result["left_files"] == [f"{link} lies outside the project and holds 1 rows of forgotten users"]
    assert link.is_symlink()


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("data/raw/archive.zip", "PK", "cannot tell the format of"),
        ("data/processed/parquet/train/part-0.parquet", "PAR1 no more", "cannot be rewritten here"),
        ("models/artifacts/version_1/users/part-0.parquet", "PAR1 no more", "cannot be rewritten here"),
    ],
)
def test_a_file_that_cannot_be_looked_into_is_named_and_nobody_counts_as_done(
    served: Shop, name: str, content: str, reason: str
) -> None:
    write(served.folder / name, content)
    forget(served.database, "anna")

    result = forget_users(settings=with_input(served, served.folder / "data/raw/sales.csv"))

    assert result["left"] == len(result["left_files"]) > 0
    assert all(reason in each and name in each for each in result["left_files"])
    assert forgotten.forgotten_users(served.database, files_pending=True) == {"anna"}


def test_a_user_stays_in_the_table_of_a_version_until_the_factors_can_be_taken_out(served: Shop) -> None:
    table: dict[str, list[Any]] = {"user_id": ["anna", "bert"], "user_index": [0, 1]}
    users = write(served.folder / "models/artifacts/version_1/users/part-0.parquet", table)
    factors = write(served.folder / "models/artifacts/version_1/all/user_factors/part-0.parquet", "PAR1 no more")
    forget(served.database, "anna")
    settings = with_input(served, served.folder / "data/raw")

    forget_users(settings=settings)
    assert read(users) == table

    write(factors, {"user_index": [0, 1], "factors": [[0.5], [1.5]]})
    forget_users(settings=settings)

    assert read(factors) == {"user_index": [1], "factors": [[1.5]]}
    assert read(users) == {"user_id": ["bert"], "user_index": [1]}


def test_feedback_that_is_in_a_batch_already_does_not_come_back_as_new(served: Shop) -> None:
    file = write(served.folder / "data/streaming/new.csv", FEEDBACK)
    found = file.stat()
    manifest = {
        "batch": "drift_1",
        "files": [{"path": str(file), "bytes": found.st_size, "modified": found.st_mtime_ns}],
    }
    write(served.folder / "data/batches/drift_1/batch.json", json.dumps(manifest))
    forget(served.database, "anna")

    forget_users(settings=with_input(served, served.folder / "data/raw"))

    assert not file.exists()
    assert read(served.folder / "data/streaming_archive/drift_1/new.csv") == FEEDBACK_LEFT


def test_the_bundled_sample_is_public_and_stays(served: Shop) -> None:
    sample = Path(__file__).resolve().parents[2] / "sample_data/online_retail.parquet"
    before = sample.stat()
    forget(served.database, "17850")

    result = forget_users(settings=replace(served.settings, input=InputSettings()))

    assert (result["rows"], result["left"]) == (0, 0)
    assert (sample.stat().st_ino, sample.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_what_spark_wrote_spark_reads_afterwards(served: Shop, spark: SparkSession) -> None:
    # Beside each of its files lies a checksum, and its times are of a type that others no longer write.
    settings = settings_for(served.folder, served.folder / "data/raw")
    write(served.folder / "data/raw/sales.csv", HEADER + good_lines("anna", days=20) + good_lines("bert", days=20))
    run_etl(spark, settings=settings, as_of=AS_OF)
    before = accepted_rows(spark, settings)
    forget(served.database, "anna1")

    forget_users(settings=settings)

    after = accepted_rows(spark, settings)
    assert after == [row for row in before if row[0] != "anna1"] != before
    times = spark.read.parquet(settings.paths.train, settings.paths.test).select("time")
    assert dict(times.dtypes) == {"time": "timestamp"}
    assert {row[0].hour for row in times.collect()} == {12}
    assert run_etl(spark, settings=settings, as_of=AS_OF)["accepted"] == len(after)


@pytest.mark.parametrize("asks", ["before the run", "while it writes"])
def test_features_of_the_user_are_not_written_again(
    served: Shop, spark: SparkSession, spark_redis: RedisServer, monkeypatch: pytest.MonkeyPatch, asks: str
) -> None:
    file = write(served.folder / "sales.csv", HEADER + good_lines("anna") + good_lines("bert"))
    settings = settings_for(served.folder, file)
    write_features = feature_store.write

    def forget_and_write(*args: Any, **kwargs: Any) -> int:
        written = write_features(*args, **kwargs)
        forget(served.database, "anna1")
        return written

    if asks == "before the run":
        forget(served.database, "anna1")
    else:
        monkeypatch.setattr(feature_store, "write", forget_and_write)

    process_and_save_features(
        spark, settings=settings, as_of=AS_OF, input_path=str(file), save_to_db=True, version="v1"
    )

    keys = {key.rsplit(":", 1)[-1] for key in spark_redis.admin.keys("features:v1:user:*")}
    assert keys == {"anna0", "anna2", "bert0", "bert1", "bert2"}
