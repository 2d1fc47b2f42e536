"""What the schedule does when there is nothing to do, or a person was faster."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shortlist.errors import NothingToDoError
from shortlist.stores import files, generations, hand_over_files, model_versions
from shortlist.stores.datasets import PERSONAL_RECS
from shortlist.weeks import week_of
from steps.ranked_data import candidates_ready
from tests.shop import WEEK_1, WEEK_2

if TYPE_CHECKING:
    from tests.shop import Shop

RECS = "rank,item_id,score\n1,007,0.5\n2,8,0.25"
CANDIDATES = {
    "candidates_train": "user_id,item_id,target\nu,1,1\nu,2,0",
    "candidates_inference": "user_id,item_id\nu,3",
}


def is_ready(shop: Shop, *, after: str = WEEK_1, run_type: str = "scheduled") -> bool:
    return candidates_ready(settings=shop.settings, run_after=after, run_type=run_type)


def test_a_scheduled_run_does_not_load_what_a_person_published_this_week(shop: Shop) -> None:
    shop.publish("default_recs", RECS, run="by hand")

    with pytest.raises(NothingToDoError, match="default_recs.csv is served already, by by hand of the same week"):
        shop.load("default_recs", run="scheduled", run_type="scheduled")


def test_a_scheduled_run_loads_a_changed_file_the_next_week_and_its_own_retry(shop: Shop) -> None:
    first = shop.publish("default_recs", RECS, run="by hand")

    again = shop.load("default_recs", run="by hand", run_type="scheduled")
    next_week = shop.load("default_recs", run="next", after=WEEK_2, run_type="scheduled")
    shop.write("default_recs", "rank,item_id,score\n1,8,0.5\n2,9,0.25")
    changed = shop.load("default_recs", run="changed", run_type="scheduled")

    assert again == first
    assert len({first, next_week, changed}) == 3


def test_a_person_may_load_the_same_file_again(shop: Shop) -> None:
    assert shop.publish("default_recs", RECS, run="one") != shop.publish("default_recs", RECS, run="two")


def test_without_a_file_of_candidates_there_is_nothing_to_wait_for(shop: Shop) -> None:
    shop.publish("candidates_train", CANDIDATES["candidates_train"])

    with pytest.raises(NothingToDoError, match="there is neither .*candidates_inference.parquet nor"):
        is_ready(shop)


def test_the_ranking_waits_for_both_tables_of_its_week(shop: Shop) -> None:
    for name, text in CANDIDATES.items():
        shop.write(name, text)
    assert not is_ready(shop)
    shop.publish("candidates_train")
    assert not is_ready(shop)
    shop.publish("candidates_inference")
    assert is_ready(shop)
    assert not is_ready(shop, after=WEEK_2)


def test_a_scheduled_run_does_not_rank_what_a_person_ranked_this_week(shop: Shop) -> None:
    for name, text in CANDIDATES.items():
        shop.publish(name, text)
    publish_personal_recs(shop)

    with pytest.raises(NothingToDoError, match="the candidates of the week 2026-11-07 are ranked already, by ranked"):
        is_ready(shop)
    assert is_ready(shop, run_type="manual")
    shop.publish("candidates_inference", "user_id,item_id\nu,4", run="later")
    assert is_ready(shop)


def publish_personal_recs(shop: Shop) -> None:
    generation = generations.begin(
        shop.database, PERSONAL_RECS, run_key="ranked", week=week_of(WEEK_1), fingerprint="f", model_version="m"
    )
    row = {"user_id": "u", "item_ids": ["3", "4"], "scores": [1.0, 0.5], "sources": ["als", "als"]}
    schema = hand_over_files.arrow_schema(PERSONAL_RECS)
    generations.write_batches(shop.database, generation, iter([pa.RecordBatch.from_pylist([row], schema=schema)]))
    shop.audit(generation.generation_id)
    shop.flip(generation.generation_id)


def test_a_file_of_a_model_that_was_rolled_back_is_not_loaded(shop: Shop) -> None:
    shop.write("default_recs", RECS)
    exported = shop.file("default_recs.csv").parent / "default_recs.parquet"
    exported.mkdir()
    table = pa.table({"rank": [1, 2], "item_id": ["007", "8"], "score": [0.5, 0.25]})
    pq.write_table(table, exported / "part-0.parquet")
    (exported / "_export.json").write_text('{"model_version": "version_2", "rows": 2}')
    shop.file("default_recs.csv").unlink()
    folder = shop.settings.paths.model_versions
    for name in ("version_1", "version_2"):
        files.write_json(f"{folder}/{name}/manifest.json", {"version": name})
        model_versions.promote(folder, name, "better")
    model_versions.roll_back(folder)

    with pytest.raises(NothingToDoError, match="made by version_2, which was rolled back"):
        shop.load("default_recs", run="scheduled", run_type="scheduled")

    model_versions.promote(folder, "version_2", "better after all")
    assert shop.load("default_recs", run="again", run_type="scheduled")
