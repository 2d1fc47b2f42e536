"""The protocol: load beside what is served, audit, move the pointer, go back."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet
import pytest

from shortlist.errors import NothingToDoError, PublishError
from shortlist.stores import generations, hand_over_files
from shortlist.stores.database import ensure_schema
from shortlist.stores.datasets import CANDIDATES_INFERENCE, CANDIDATES_TRAIN, DEFAULT_RECS, ITEMS, PERSONAL_RECS
from steps import hand_over
from tests.shop import WEEK_1, WEEK_2, WEEK_3

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.shop import Shop

RECS = "rank,item_id,score\n1,007,0.5\n2,8,0.25"
OTHER_RECS = "rank,item_id,score\n1,9,1\n2,007,0.5"
READ_RECS = "SELECT item_id FROM default_recs ORDER BY rank"
GENERATIONS = "SELECT generation_id, status, kept FROM generations ORDER BY generation_id"


def test_default_recs_keep_order_and_leading_zeros(shop: Shop) -> None:
    shop.publish("default_recs", RECS)

    assert shop.read("SELECT * FROM default_recs ORDER BY rank") == [(1, "007", 0.5), (2, "8", 0.25)]


def test_online_recs_are_stored_as_one_row_an_item_and_read_as_ranked_rows(shop: Shop) -> None:
    generation_id = shop.publish("online_recs", "score,item_id,rank,similar_item_id\n0.25,a,2,c\n0.5,b,1,a\n0.75,a,1,b")

    assert shop.read("SELECT * FROM online_recs ORDER BY item_id, rank") == [
        ("a", 1, "b", 0.75),
        ("a", 2, "c", 0.25),
        ("b", 1, "a", 0.5),
    ]
    assert shop.read("SELECT item_id, similar_item_ids FROM internal.online_recs ORDER BY 1") == [
        ("a", ["b", "c"]),
        ("b", ["a"]),
    ]
    assert shop.leftovers() == {f"online_recs_{generation_id}"}


def test_reference_tables_show_titles_attributes_and_history_by_time(shop: Shop) -> None:
    shop.reference(
        items='item_id,title,category,available\n1,"Mug, ""blue""",kitchen|gift,true\n2,,,false',
        user_history="user_id,item_id,time,weight\nu,2,2026-11-02,1.5\nu,1,2026-11-01T10:00:00+02:00,2",
    )

    assert shop.read("SELECT * FROM items ORDER BY item_id") == [
        ("1", 'Mug, "blue"', {"category": "kitchen|gift"}, True),
        ("2", None, {}, False),
    ]
    assert shop.read("SELECT * FROM user_history") == [
        ("u", "1", datetime(2026, 11, 1, 8, tzinfo=UTC), 2.0),
        ("u", "2", datetime(2026, 11, 2, tzinfo=UTC), 1.5),
    ]


def test_candidates_may_lack_optional_columns(shop: Shop) -> None:
    shop.publish("candidates_train", "target,user_id,item_id,als_score\n1.0,u,1,0.5\n0.0,u,2,")

    rows = shop.read(
        "SELECT user_id, item_id, target, als_score, source, als_rank, as_of FROM candidates_train ORDER BY 2"
    )
    assert rows == [("u", "1", 1, 0.5, None, None, None), ("u", "2", 0, None, None, None, None)]


def test_nothing_is_visible_before_the_pointer_moves(shop: Shop) -> None:
    first = shop.publish("default_recs", RECS)
    shop.write("default_recs", OTHER_RECS)
    second = shop.load("default_recs", run="next")
    assert shop.read(READ_RECS) == [("007",), ("8",)]
    shop.audit(second)
    assert shop.read(READ_RECS) == [("007",), ("8",)]

    summary = shop.flip(second)

    assert shop.read(READ_RECS) == [("9",), ("007",)]
    assert summary == {
        "dataset": "default_recs",
        "generation_id": second,
        "previous": first,
        "rows": 2,
        "week": "2026-11-07",
    }


def test_what_was_published_is_recorded(shop: Shop) -> None:
    shop.file("default_recs.parquet").mkdir()
    part = shop.file("default_recs.parquet") / "part-0.parquet"
    pyarrow.parquet.write_table(pa.table({"rank": [1, 2], "item_id": ["a", "b"], "score": [1.0, 0.5]}), part)
    export = '{"model_version": "version_20261107T200000", "fingerprint": "abc", "as_of": "2026-11-07", "rows": 2}'
    (shop.file("default_recs.parquet") / "_export.json").write_text(export)
    generation_id = shop.publish("default_recs", run="load_default_recs weekly", after=WEEK_2)

    ((run_key, week, model_version, rows, metrics),) = shop.read(
        "SELECT run_key, week::text, model_version, rows, metrics FROM served WHERE generation_id = %s", [generation_id]
    )
    assert (run_key, week, model_version, rows) == (
        "load_default_recs weekly",
        "2026-11-14",
        "version_20261107T200000",
        2,
    )
    assert metrics["audit"]["rows"] == 2
    assert metrics["audit"]["rules"]["unique_rows"] == {"broken": 0}
    assert metrics["export"]["fingerprint"] == "abc"


def test_a_retry_of_a_published_run_changes_nothing(shop: Shop) -> None:
    generation_id = shop.publish("default_recs", RECS)
    before = shop.read("SELECT * FROM generations")

    assert shop.publish("default_recs") == generation_id
    assert shop.read("SELECT * FROM generations") == before


def test_a_new_file_of_the_same_run_is_a_new_generation(shop: Shop) -> None:
    first = shop.publish("default_recs", RECS)
    second = shop.publish("default_recs", OTHER_RECS)

    assert second != first
    assert shop.read(READ_RECS) == [("9",), ("007",)]


@pytest.mark.parametrize("reached", ["loaded", "audited"])
def test_a_retry_replaces_the_unfinished_generation_of_its_run(shop: Shop, reached: str) -> None:
    shop.write("default_recs", RECS)
    unfinished = shop.load("default_recs")
    if reached == "audited":
        shop.audit(unfinished)

    generation_id = shop.publish("default_recs")

    assert shop.read(GENERATIONS) == [(unfinished, "abandoned", False), (generation_id, "published", True)]
    assert shop.leftovers() == {f"default_recs_{generation_id}"}
    with pytest.raises(PublishError, match="is abandoned"):
        shop.flip(unfinished)


def test_another_run_leaves_an_unfinished_generation_alone(shop: Shop) -> None:
    shop.write("default_recs", RECS)
    slow = shop.load("default_recs", run="slow")
    shop.publish("default_recs", OTHER_RECS, run="quick")

    shop.audit(slow)
    shop.flip(slow)

    assert shop.read(READ_RECS) == [("007",), ("8",)]


def test_an_older_week_never_replaces_a_later_one(shop: Shop) -> None:
    served = shop.publish("default_recs", RECS, after=WEEK_2)
    shop.write("default_recs", OTHER_RECS)
    late = shop.load("default_recs", run="late", after=WEEK_1)
    shop.audit(late)

    for _ in range(2):
        with pytest.raises(
            NothingToDoError, match="is of the week 2026-11-07, but that of 2026-11-14 is served already"
        ):
            shop.flip(late)

    assert shop.read(READ_RECS) == [("007",), ("8",)]
    assert shop.read(GENERATIONS) == [(served, "published", True), (late, "superseded", False)]


def test_the_same_week_again_replaces_what_is_served(shop: Shop) -> None:
    shop.publish("default_recs", RECS, after=WEEK_1)
    shop.publish("default_recs", OTHER_RECS, run="again", after=WEEK_1)

    assert shop.read(READ_RECS) == [("9",), ("007",)]


def test_roll_back_goes_back_step_by_step_and_says_to_what(shop: Shop) -> None:
    first = shop.publish("default_recs", RECS, run="one", after=WEEK_1)
    second = shop.publish("default_recs", OTHER_RECS, run="two", after=WEEK_2)
    third = shop.publish("default_recs", "rank,item_id,score\n1,x,1\n2,y,1", run="three", after=WEEK_3)

    assert hand_over.roll_back(view="default_recs") == {
        "dataset": "default_recs",
        "from": third,
        "to": second,
        "week": "2026-11-14",
        "run_key": "two",
    }
    assert shop.read(READ_RECS) == [("9",), ("007",)]
    assert hand_over.roll_back(view="default_recs")["to"] == first
    assert shop.read(READ_RECS) == [("007",), ("8",)]
    with pytest.raises(PublishError, match="there is none to go back to"):
        hand_over.roll_back(view="default_recs")


def test_after_a_roll_back_the_same_week_can_be_published_again(shop: Shop) -> None:
    first = shop.publish("default_recs", RECS, run="one", after=WEEK_1)
    bad = shop.publish("default_recs", OTHER_RECS, run="two", after=WEEK_2)
    hand_over.roll_back(view="default_recs")

    good = shop.publish("default_recs", OTHER_RECS, run="two", after=WEEK_2)

    assert good != bad
    assert shop.read(READ_RECS) == [("9",), ("007",)]
    assert shop.leftovers() == {f"default_recs_{first}", f"default_recs_{good}"}


def test_roll_back_of_nothing_and_of_an_unknown_view_say_so(shop: Shop) -> None:
    with pytest.raises(PublishError, match="nothing of items is served"):
        hand_over.roll_back(view="items")
    with pytest.raises(PublishError, match="no view 'users' to roll back: choose one of items, user_history"):
        hand_over.roll_back(view="users")


def test_the_last_generations_stay_and_older_ones_are_dropped(shop: Shop) -> None:
    ids = [
        shop.publish("default_recs", f"rank,item_id,score\n1,{number},1\n2,b,1", run=str(number)) for number in range(5)
    ]

    assert shop.leftovers() == {f"default_recs_{generation_id}" for generation_id in ids[2:]}
    assert [status for _, status, _ in shop.read(GENERATIONS)] == ["retired"] * 2 + ["published"] * 3


def test_what_a_dead_run_left_is_dropped_by_a_later_publish(shop: Shop) -> None:
    shop.write("default_recs", RECS)
    dead = shop.load("default_recs", run="dead")
    with shop.database.cursor() as cursor:
        cursor.execute("UPDATE internal.generations SET created_at = created_at - interval '2 days'")

    generation_id = shop.publish("default_recs", OTHER_RECS, run="alive")

    assert shop.read(GENERATIONS) == [(dead, "abandoned", False), (generation_id, "published", True)]
    assert shop.leftovers() == {f"default_recs_{generation_id}"}


def test_a_reference_file_that_is_served_already_is_not_loaded_again(shop: Shop) -> None:
    shop.reference(items="item_id,available\n1,true")
    before = shop.read("SELECT * FROM generations")

    hand_over.load_reference(
        settings=shop.settings, datasets=("items", "user_history"), run_key="other", run_after=WEEK_2
    )

    assert shop.read("SELECT * FROM generations") == before


def test_without_a_file_there_is_nothing_to_do(shop: Shop) -> None:
    with pytest.raises(NothingToDoError, match=r"there is neither .*/default_recs.parquet nor .*/default_recs.csv"):
        shop.load("default_recs")


def test_the_ranker_reads_sorted_batches_of_a_served_generation(shop: Shop) -> None:
    shop.publish("candidates_train", "user_id,item_id,als_score,target\nü,1,0.5,1\nb,2,,0\nb,10,0.25,0\nB,1,1,1")

    batches = generations.read_batches(
        shop.database,
        CANDIDATES_TRAIN,
        columns=["user_id", "item_id", "als_score", "target"],
        order_by=["user_id", "item_id"],
    )

    table = pa.Table.from_batches(batches)
    assert table.schema.types == [pa.string(), pa.string(), pa.float32(), pa.int32()]
    assert table.to_pylist() == [
        {"user_id": "B", "item_id": "1", "als_score": 1.0, "target": 1},
        {"user_id": "b", "item_id": "10", "als_score": 0.25, "target": 0},
        {"user_id": "b", "item_id": "2", "als_score": None, "target": 0},
        {"user_id": "ü", "item_id": "1", "als_score": 0.5, "target": 1},
    ]


def test_reading_what_is_not_there_says_so(shop: Shop) -> None:
    with pytest.raises(NothingToDoError, match="nothing of candidates_inference is served yet"):
        next(generations.read_batches(shop.database, CANDIDATES_INFERENCE))
    with pytest.raises(PublishError, match="candidates_inference has no column taste: it has user_id, item_id"):
        next(generations.read_batches(shop.database, CANDIDATES_INFERENCE, columns=["taste"]))


def write_personal_recs(shop: Shop, rows: list[tuple[str, list[str]]], *, run: str = "run") -> int:
    generation = generations.begin(
        shop.database,
        PERSONAL_RECS,
        run_key=run,
        week="2026-11-07",
        fingerprint=str(rows),
        model_version="ranker_1",
        metrics={"ndcg@10": 0.2},
    )
    batches = (
        pa.RecordBatch.from_pylist(
            [{"user_id": user, "item_ids": items, "scores": [1.0] * len(items), "sources": ["als"] * len(items)}],
            schema=hand_over_files.arrow_schema(PERSONAL_RECS),
        )
        for user, items in rows
    )
    generations.write_batches(shop.database, generation, batches)
    shop.audit(generation.generation_id)
    shop.flip(generation.generation_id)
    return generation.generation_id


def test_personal_recs_written_in_batches_are_read_as_ranked_rows(shop: Shop) -> None:
    write_personal_recs(shop, [("u", ["b", "a"]), ("v", ["a", "c"])])

    assert shop.read("SELECT * FROM personal_recs WHERE user_id = 'u' ORDER BY rank") == [
        ("u", 1, "b", 1.0, "als"),
        ("u", 2, "a", 1.0, "als"),
    ]
    assert shop.read("SELECT metrics->>'ndcg@10' FROM served WHERE dataset = 'personal_recs'") == [("0.2",)]


def test_one_users_recs_are_found_by_primary_key_in_the_served_partition_only(shop: Shop) -> None:
    old = write_personal_recs(shop, [("u", ["b", "a"])], run="one")
    new = write_personal_recs(shop, [("u", ["c", "a"])], run="two")

    with shop.database.cursor() as cursor:
        cursor.execute("SET enable_seqscan = off")
        cursor.execute("EXPLAIN (ANALYZE, COSTS OFF) SELECT * FROM personal_recs WHERE user_id = 'u'")
        plan = [line for (line,) in cursor.fetchall()]

    scans = {
        line.split(" on ")[1].split()[0]: line for line in plan if "Scan using" in line and "personal_recs" in line
    }
    assert scans.keys() == {f"personal_recs_{old}", f"personal_recs_{new}"}
    assert "never executed" in scans[f"personal_recs_{old}"]
    assert "never executed" not in scans[f"personal_recs_{new}"]
    assert sum("Index Cond" in line and "user_id = 'u'" in line for line in plan) == 2


def test_an_error_of_the_writer_comes_through_and_nothing_is_loaded(shop: Shop) -> None:
    generation = generations.begin(shop.database, PERSONAL_RECS, run_key="r", week="2026-11-07", fingerprint="f")

    def batches() -> Iterator[pa.RecordBatch]:
        row = {"user_id": "u", "item_ids": ["a"], "scores": [1.0], "sources": ["als"]}
        yield pa.RecordBatch.from_pylist([row], schema=hand_over_files.arrow_schema(PERSONAL_RECS))
        raise ZeroDivisionError("in the ranker")

    with pytest.raises(ZeroDivisionError, match="in the ranker"):
        generations.write_batches(shop.database, generation, batches())

    assert shop.read(f"SELECT count(*) FROM {generation.table}") == [(0,)]
    assert generations.get(shop.database, generation.generation_id).status == "loading"


def test_the_schema_is_made_once_and_never_locks_readers_out(shop: Shop) -> None:
    shop.publish("default_recs", RECS)
    with shop.database.cursor() as reader:
        reader.execute("SELECT * FROM default_recs")
        ensure_schema(shop.database)
        reader.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
        assert reader.fetchone() == (0,)

    assert shop.read(READ_RECS) == [("007",), ("8",)]


def test_tables_of_another_schema_version_are_left_alone(shop: Shop) -> None:
    with shop.database.cursor() as cursor:
        cursor.execute("UPDATE internal.schema_version SET version = 'other'")

    with pytest.raises(PublishError, match="were made by another version of Shortlist"):
        ensure_schema(shop.database)


def test_a_generation_that_does_not_exist_is_named(shop: Shop) -> None:
    with pytest.raises(PublishError, match="there is no generation 12345 at 127.0.0.1"):
        shop.audit(12345)
    assert generations.served(shop.database, ITEMS) is None


def test_without_served_items_and_history_the_audit_says_what_it_did_not_check(shop: Shop) -> None:
    shop.write("candidates_inference", "user_id,item_id\nu,1")

    result = shop.audit(shop.load("candidates_inference"))

    assert {name: rule["not_checked"] for name, rule in result["rules"].items() if "not_checked" in rule} == {
        "known_items": "no items served",
        "available_items": "no items served",
        "not_seen": "no user_history served",
    }


def test_a_generation_that_skipped_the_audit_is_never_published(shop: Shop) -> None:
    shop.write("default_recs", "rank,item_id,score\n1,1,0.9\n2,2,0.5")
    generation_id = shop.load("default_recs")

    with pytest.raises(PublishError, match=f"generation {generation_id} of default_recs is loaded, only an audited"):
        shop.flip(generation_id)

    assert shop.read("SELECT * FROM default_recs") == []
    assert generations.served(shop.database, DEFAULT_RECS) is None


def test_an_unloaded_generation_cannot_be_audited(shop: Shop) -> None:
    generation = generations.begin(shop.database, CANDIDATES_INFERENCE, run_key="r", week="2026-11-07", fingerprint="f")
    with pytest.raises(PublishError, match="is loading, only a loaded generation can be audited"):
        shop.audit(generation.generation_id)
