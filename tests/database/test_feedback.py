"""Events of the service become files of feedback: each interaction in exactly one of them, whoever is killed when."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest

from shortlist.errors import NothingToDoError, SettingsError
from shortlist.settings import (
    CancellationSettings,
    InteractionSettings,
    PathSettings,
    Settings,
    StreamingColumnSettings,
    StreamingSettings,
)
from shortlist.stores import files, readers
from shortlist.stores.service_tables import ensure_service_schema
from steps.feedback import export_feedback
from steps.streaming import process_streaming_data

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from shortlist.stores.database import Database

MORNING = datetime(2026, 11, 20, 9, 0, tzinfo=UTC)
NOON = datetime(2026, 11, 20, 12, 30, 15, 250000, tzinfo=UTC)

# Exports, and dies without a word before the n-th of its steps; the third is half a file.
DYING_EXPORT = """
import os, sys
from shortlist.settings import PathSettings, Settings
from shortlist.stores import feedback_files
from steps.feedback import export_feedback

left = int(sys.argv[2])

def dying(step):
    def run(*args):
        global left
        left -= 1
        if left < 0:
            if step.__name__ == "_write_parquet":
                args[1].write(b"PAR1 and no more")
                args[1].close()
            os._exit(9)
        return step(*args)
    return run

for name in ("mark", "_write", "_write_parquet", "_note", "_rename"):
    setattr(feedback_files, name, dying(getattr(feedback_files, name)))
export_feedback(settings=Settings(paths=PathSettings(root=sys.argv[1])), batch="monday")
"""
STEPS = ("mark", "write", "half a file", "note it as written", "rename", "note it as done", "none")


@pytest.fixture
def service(database: Database) -> Database:
    ensure_service_schema(database)
    return database


def settings_for(root: Path, **streaming: Any) -> Settings:
    return Settings(streaming=StreamingSettings(**streaming), paths=PathSettings(root=str(root)))


def add(database: Database, *rows: tuple[str, str, datetime, float], kind: str = "interaction") -> None:
    with database.cursor() as cursor:
        for row in rows:
            cursor.execute(
                "INSERT INTO service.events (user_id, item_id, time, weight, kind) VALUES (%s, %s, %s, %s, %s)",
                [*row, kind],
            )


def forget(database: Database, user: str) -> None:
    with database.cursor() as cursor:
        cursor.execute("INSERT INTO service.forgotten (user_id) VALUES (%s)", [user])


def rows_of(file: Path) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in pq.read_table(file).to_pylist()]


def take_all(root: Path) -> list[tuple[Any, ...]]:
    """What the drift DAG does: read every file that it sees, and take it away."""
    found = []
    if any(file.is_file() and not file.name.startswith(".") for file in (root / "data/streaming").glob("*")):
        for file in readers.list_files(str(root / "data/streaming")):
            found += rows_of(Path(file.path))
            Path(file.path).unlink()
    return found


def test_interactions_that_no_file_has_become_one_file_in_their_order(service: Database, tmp_path: Path) -> None:
    add(service, ("007", "b", NOON, 2.5), ("anna", "a", MORNING, 0.1))
    add(service, ("anna", "seen", NOON, 1.0), kind="impression")
    add(service, ("anna", "clicked", NOON, 1.0), kind="click")

    result = export_feedback(settings=settings_for(tmp_path), batch="monday")

    file = tmp_path / "data/streaming/monday.parquet"
    assert result == {"rows": 2, "files": [str(file)]}
    assert pq.read_table(file).to_pylist() == [
        {"CUST_ID": "007", "MOVIE_ID": "b", "DATE": NOON, "RATING": 2.5},
        {"CUST_ID": "anna", "MOVIE_ID": "a", "DATE": MORNING, "RATING": 0.1},
    ]
    assert os.listdir(tmp_path / "data/streaming") == ["monday.parquet"]


def test_the_next_file_has_only_what_came_since(service: Database, tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    add(service, ("anna", "a", MORNING, 1.0))
    export_feedback(settings=settings, batch="monday")
    add(service, ("bert", "b", NOON, 1.0))

    assert export_feedback(settings=settings, batch="tuesday")["rows"] == 1

    assert rows_of(tmp_path / "data/streaming/tuesday.parquet") == [("bert", "b", NOON, 1.0)]
    assert rows_of(tmp_path / "data/streaming/monday.parquet") == [("anna", "a", MORNING, 1.0)]


def test_without_new_interactions_there_is_nothing_to_do(service: Database, tmp_path: Path) -> None:
    add(service, ("anna", "a", MORNING, 1.0), kind="click")

    with pytest.raises(NothingToDoError, match="no interaction since the last export"):
        export_feedback(settings=settings_for(tmp_path), batch="monday")

    assert not (tmp_path / "data").exists()


def test_a_database_that_the_service_never_used_is_a_day_without_feedback(database: Database, tmp_path: Path) -> None:
    with pytest.raises(NothingToDoError):
        export_feedback(settings=settings_for(tmp_path), batch="monday")


def test_a_retry_after_the_file_was_taken_away_does_not_write_it_again(service: Database, tmp_path: Path) -> None:
    add(service, ("anna", "a", MORNING, 1.0))
    export_feedback(settings=settings_for(tmp_path), batch="monday")
    assert len(take_all(tmp_path)) == 1

    assert export_feedback(settings=settings_for(tmp_path), batch="monday") == {"rows": 1, "files": []}

    assert os.listdir(tmp_path / "data/streaming") == []


def test_events_of_a_forgotten_user_are_never_exported(service: Database, tmp_path: Path) -> None:
    add(service, ("anna", "a", MORNING, 1.0), ("bert", "b", NOON, 1.0))
    forget(service, "anna")

    assert export_feedback(settings=settings_for(tmp_path), batch="monday")["rows"] == 1

    assert rows_of(tmp_path / "data/streaming/monday.parquet") == [("bert", "b", NOON, 1.0)]


@pytest.mark.parametrize("taken", [False, True], ids=["the file stays", "the drift DAG takes the file meanwhile"])
@pytest.mark.parametrize("moment", range(len(STEPS)), ids=STEPS)
def test_killed_between_any_two_steps_the_retry_neither_loses_nor_repeats_a_row(
    service: Database, tmp_path: Path, moment: int, taken: bool
) -> None:
    settings = settings_for(tmp_path)
    add(service, ("anna", "a", MORNING, 1.0), ("bert", "b", NOON, 2.0))
    killed = subprocess.run(
        [sys.executable, "-c", DYING_EXPORT, str(tmp_path), str(moment)],
        env=os.environ | {"PYTHONPATH": "plugins"},
        cwd=Path(__file__).resolve().parents[2],
        check=False,
    )
    assert killed.returncode == (0 if STEPS[moment] == "none" else 9)
    found = take_all(tmp_path) if taken else []
    add(service, ("carl", "c", NOON, 3.0))  # comes between the two attempts

    export_feedback(settings=settings, batch="monday")
    found += take_all(tmp_path) if taken else []
    try:
        export_feedback(settings=settings, batch="tuesday")
    except NothingToDoError:
        assert moment == 0  # not even marked: the retry took everything

    found += take_all(tmp_path)
    assert sorted(found) == [("anna", "a", MORNING, 1.0), ("bert", "b", NOON, 2.0), ("carl", "c", NOON, 3.0)]
    assert os.listdir(tmp_path / "data/streaming") == []


def test_what_a_run_that_failed_for_good_had_marked_comes_with_the_next_run(service: Database, tmp_path: Path) -> None:
    add(service, ("anna", "a", MORNING, 1.0))
    with service.cursor() as cursor:
        cursor.execute("UPDATE service.events SET exported_in = 'monday'")
        cursor.execute("INSERT INTO service.exports (batch) VALUES ('monday')")
    add(service, ("bert", "b", NOON, 1.0))

    assert export_feedback(settings=settings_for(tmp_path), batch="tuesday")["rows"] == 2

    assert rows_of(tmp_path / "data/streaming/monday.parquet") == [("anna", "a", MORNING, 1.0)]
    assert rows_of(tmp_path / "data/streaming/tuesday.parquet") == [("bert", "b", NOON, 1.0)]


def test_a_batch_whose_users_were_all_forgotten_meanwhile_makes_no_file(service: Database, tmp_path: Path) -> None:
    with service.cursor() as cursor:
        cursor.execute("INSERT INTO service.exports (batch) VALUES ('monday')")

    assert export_feedback(settings=settings_for(tmp_path), batch="monday") == {"rows": 0, "files": []}

    assert os.listdir(tmp_path / "data/streaming") == []


def test_a_fixed_csv_is_written_with_its_delimiter_encoding_and_columns(service: Database, tmp_path: Path) -> None:
    add(service, ("müller; k.", "007", NOON, 2.0))
    columns = StreamingColumnSettings(user="who", item="what", time="when", weight="stars", title="name")
    settings = settings_for(
        tmp_path,
        format="csv",
        delimiter=";",
        encoding="ISO-8859-1",
        columns=columns,
        cancellation=CancellationSettings(column="kind", pattern="^C"),
    )

    export_feedback(settings=settings, batch="monday")

    written = (tmp_path / "data/streaming/monday.csv").read_bytes().decode("ISO-8859-1")
    assert written == (
        "who;what;when;stars;name;kind\n"
        '"müller; k.";007;2026-11-20T12:30:15.250000Z;2.0;;\n'
    )  # fmt: skip


@pytest.mark.parametrize(
    ("time_format", "text"),
    [("epoch_s", "1795177815.25"), ("epoch_ms", "1795177815250"), ("epoch_us", "1795177815250000")],
)
def test_times_in_text_are_those_that_the_settings_read(
    service: Database, tmp_path: Path, time_format: str, text: str
) -> None:
    add(service, ("anna", "a", NOON, 1.0))
    settings = replace(settings_for(tmp_path, format="csv"), interactions=InteractionSettings(time_format=time_format))

    export_feedback(settings=settings, batch="monday")

    with (tmp_path / "data/streaming/monday.csv").open() as lines:
        assert [row["DATE"] for row in csv.DictReader(lines)] == [text]


def test_a_fixed_jsonl_has_one_object_a_line(service: Database, tmp_path: Path) -> None:
    add(service, ("ünal", "a", MORNING, 1.0))

    export_feedback(settings=settings_for(tmp_path, format="jsonl"), batch="monday")

    assert (tmp_path / "data/streaming/monday.jsonl").read_text() == (
        '{"CUST_ID": "ünal", "MOVIE_ID": "a", "DATE": "2026-11-20T09:00:00Z", "RATING": 1.0}\n'
    )


def test_where_events_have_names_the_weight_is_what_the_pipeline_will_make_of_both(
    service: Database, tmp_path: Path
) -> None:
    add(service, ("anna", "a", MORNING, 6.0))
    columns = StreamingColumnSettings(event="action")
    settings = replace(
        settings_for(tmp_path, columns=columns),
        interactions=InteractionSettings(event_weights={"buy": 3.0, "view": 0.0}),
    )

    export_feedback(settings=settings, batch="monday")

    (row,) = pq.read_table(tmp_path / "data/streaming/monday.parquet").to_pylist()
    assert (row["action"], row["RATING"]) == ("buy", 2.0)


@pytest.mark.parametrize(
    ("streaming", "rules", "named"),
    [
        ({"format": "netflix"}, {}, r"\[streaming\].format = 'netflix'"),
        ({"format": "csv"}, {"time_format": "dd.MM.yyyy"}, r"\[interactions\].time_format = 'dd.MM.yyyy'"),
        (
            {"columns": StreamingColumnSettings(event="action")},
            {"event_weights": {"view": 0.0}},
            r"\[interactions.event_weights\]",
        ),
    ],
)
def test_settings_that_cannot_hold_events_are_named_before_anything_is_marked(
    service: Database, tmp_path: Path, streaming: dict[str, Any], rules: dict[str, Any], named: str
) -> None:
    add(service, ("anna", "a", MORNING, 1.0))
    settings = replace(settings_for(tmp_path, **streaming), interactions=InteractionSettings(**rules))

    with pytest.raises(SettingsError, match=named):
        export_feedback(settings=settings, batch="monday")

    with service.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM service.events WHERE exported_in IS NULL")
        assert cursor.fetchone() == (1,)


@pytest.mark.parametrize("streaming", [{}, {"format": "csv"}, {"format": "jsonl"}], ids=["auto", "csv", "jsonl"])
def test_the_drift_dag_reads_back_what_was_posted(
    service: Database, tmp_path: Path, spark: SparkSession, streaming: dict[str, Any]
) -> None:
    add(service, ("007", "1e3", MORNING, 0.1), ("anna", "a,b", NOON, 6.0))
    columns = StreamingColumnSettings(event="action", title="name")
    settings = replace(
        settings_for(tmp_path, columns=columns, **streaming),
        interactions=InteractionSettings(event_weights={"buy": 3.0}),
    )
    export_feedback(settings=settings, batch="monday")

    batch = process_streaming_data(spark, settings=settings, batch="drift", as_of="2026-11-21T00:00:00+00:00")

    rows = pq.read_table(f"{batch}/train").to_pylist() + pq.read_table(f"{batch}/test").to_pylist()
    found = sorted((row["user_id"], row["item_id"], row["time"].replace(tzinfo=UTC), row["weight"]) for row in rows)
    assert found == [("007", "1e3", MORNING, pytest.approx(0.1)), ("anna", "a,b", NOON, pytest.approx(6.0))]
    assert files.read_json(f"{batch}/batch.json")["rejected"] == {}
