"""Every rule goes red on its own bad data, and only that rule."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import pytest

from shortlist.errors import AuditError, PublishError
from shortlist.stores import generations, hand_over_files
from shortlist.stores.datasets import PERSONAL_RECS
from tests.conftest import empty_database
from tests.shop import Shop

if TYPE_CHECKING:
    from collections.abc import Iterator

    from embedded.postgres import EmbeddedPostgres

ITEMS = """
    item_id,title,category,available
    1,One,a|b,true
    2,Two,,true
    3,Three,a,true
    4,,,false
"""
USER_HISTORY = """
    user_id,item_id,time,weight
    u,1,2026-11-01T10:00:00Z,2.5
    v,2,2026-11-01T10:00:00Z,1
    w,2,2026-11-01T10:00:00Z,1
    x,1,2026-11-01T10:00:00Z,1
    x,2,2026-11-01T10:00:00Z,1
"""
# `w` has no candidates, so nobody misses recommendations for it.
CANDIDATES = "user_id,item_id,source\nu,2,als\nu,3,als+popular\nv,1,similar\nv,3,popular"

CASES = {
    "a short default list": ("default_recs", "rank,item_id,score\n1,1,0.9", {"enough_rows"}),
    "a header without rows": ("online_recs", "item_id,rank,similar_item_id,score", {"enough_rows"}),
    "an empty id": ("default_recs", "rank,item_id,score\n1,1,0.9\n2,,0.5", {"no_missing_value"}),
    "a missing score": ("default_recs", "rank,item_id,score\n1,1,0.9\n2,2,", {"no_missing_value"}),
    "a very long id": (
        "user_history",
        f"user_id,item_id,time,weight\n{'u' * 1201},1,2026-11-01T10:00:00Z,1",
        {"short_ids"},
    ),
    "NaN": ("default_recs", "rank,item_id,score\n1,1,nan\n2,2,0.5", {"finite_numbers"}),
    "infinity": ("user_history", "user_id,item_id,time,weight\nu,1,2026-11-01T10:00:00Z,inf", {"finite_numbers"}),
    "NaN in a feature": (
        "candidates_inference",
        "user_id,item_id,als_score\nu,2,0.5\nu,3,nan",
        {"finite_numbers"},
    ),
    "an item twice": ("default_recs", "rank,item_id,score\n1,1,0.9\n2,1,0.5", {"unique_rows"}),
    "a user and item twice": (
        "user_history",
        "user_id,item_id,time,weight\nu,1,2026-11-01T10:00:00Z,1\nu,1,2026-11-02T10:00:00Z,1",
        {"unique_rows"},
    ),
    "an item twice in the catalogue": ("items", "item_id,available\n1,true\n1,false", {"unique_rows"}),
    "a candidate twice": (
        "candidates_train",
        "user_id,item_id,target\nu,2,0\nu,2,0\nu,3,1",
        {"unique_rows"},
    ),
    "ranks from 0": ("default_recs", "rank,item_id,score\n0,1,0.9\n1,2,0.5", {"ranks_without_gaps"}),
    "a gap in the ranks": ("default_recs", "rank,item_id,score\n1,1,0.9\n3,2,0.5", {"ranks_without_gaps"}),
    "a rank twice": (
        "online_recs",
        "item_id,rank,similar_item_id,score\n1,1,2,0.9\n1,1,3,0.9\n2,1,1,0.9",
        {"ranks_without_gaps"},
    ),
    "scores that rise": ("default_recs", "rank,item_id,score\n1,1,0.5\n2,2,0.9", {"scores_fall"}),
    "scores that rise in one list": (
        "online_recs",
        "item_id,rank,similar_item_id,score\n1,1,2,0.9\n1,2,3,0.8\n2,1,1,0.1\n2,2,3,0.2",
        {"scores_fall"},
    ),
    "an item similar to itself": ("online_recs", "item_id,rank,similar_item_id,score\n1,1,1,0.9", {"self_similar"}),
    "an unknown item": ("default_recs", "rank,item_id,score\n1,1,0.9\n2,99,0.5", {"known_items"}),
    "a list for an unknown item": ("online_recs", "item_id,rank,similar_item_id,score\n99,1,1,0.9", {"known_items"}),
    "an unknown similar item": ("online_recs", "item_id,rank,similar_item_id,score\n1,1,99,0.9", {"known_items"}),
    "an unavailable item": ("default_recs", "rank,item_id,score\n1,1,0.9\n2,4,0.5", {"available_items"}),
    "an unavailable similar item": (
        "online_recs",
        "item_id,rank,similar_item_id,score\n1,1,4,0.9",
        {"available_items"},
    ),
    "an unavailable candidate": ("candidates_inference", "user_id,item_id\nu,4", {"available_items"}),
    "a target of 2": ("candidates_train", "user_id,item_id,target\nu,2,0\nu,3,2", {"target_values"}),
    "no positive target": ("candidates_train", "user_id,item_id,target\nu,2,0\nu,3,0", {"both_classes"}),
    "an unknown source": ("candidates_inference", "user_id,item_id,source\nu,2,als+magic", {"known_source"}),
    "a seen candidate": ("candidates_inference", "user_id,item_id\nu,1", {"not_seen"}),
}


@pytest.fixture(scope="module")
def stocked(postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """One for all: a refused generation changes nothing that another test could see."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECS_DATABASE_URL", postgres.url)
        shop = Shop(empty_database(postgres), tmp_path_factory.mktemp("stocked"))
        shop.reference(items=ITEMS, user_history=USER_HISTORY)
        shop.publish("candidates_inference", CANDIDATES)
        yield shop


@pytest.mark.parametrize(("dataset", "text", "expected"), CASES.values(), ids=CASES.keys())
def test_bad_data_is_refused_and_what_is_served_stays(
    stocked: Shop, dataset: str, text: str, expected: set[str]
) -> None:
    before = stocked.read("SELECT dataset, generation_id FROM served ORDER BY 1")
    tables = stocked.leftovers()
    stocked.write(dataset, text)
    generation_id = stocked.load(dataset)

    with pytest.raises(AuditError) as refused:
        stocked.audit(generation_id)

    ((metrics, status),) = stocked.read(
        "SELECT metrics, status FROM generations WHERE generation_id = %s", [generation_id]
    )
    assert {name for name, result in metrics["audit"]["rules"].items() if result.get("broken")} == expected
    assert all(f"{name}: " in str(refused.value) for name in expected)
    assert status == "refused"
    assert stocked.read("SELECT dataset, generation_id FROM served ORDER BY 1") == before
    assert stocked.leftovers() == tables
    with pytest.raises(PublishError, match="is refused, only an audited generation can be published"):
        stocked.flip(generation_id)


def test_all_broken_rules_are_named_with_counts_and_examples(stocked: Shop) -> None:
    stocked.write("default_recs", "rank,item_id,score\n1,99,0.1\n3,98,0.9\n4,4,0.5")
    generation_id = stocked.load("default_recs")

    with pytest.raises(AuditError) as refused:
        stocked.audit(generation_id)

    assert str(refused.value) == (
        f"generation {generation_id} of default_recs was refused, what is served stays:"
        " ranks_without_gaps: ranks that are not 1, 2, 3, … (1, for example the list);"
        " scores_fall: a score above that of the rank before (1, for example rank=3);"
        " known_items: an item that the served generation of items does not have"
        " (2, for example item_id=98, item_id=99);"
        " available_items: an item that is not available (1, for example item_id=4)."
        " Mend the data and run the load again."
    )


def test_a_retried_audit_of_a_refused_generation_says_the_same(stocked: Shop) -> None:
    stocked.write("default_recs", "rank,item_id,score\n1,1,0.5\n2,2,0.9")
    generation_id = stocked.load("default_recs")
    with pytest.raises(AuditError) as first:
        stocked.audit(generation_id)
    with pytest.raises(AuditError) as second:
        stocked.audit(generation_id)

    assert str(first.value) == str(second.value)


def test_seen_items_pass_where_repeats_are_allowed(stocked: Shop) -> None:
    stocked.write("candidates_inference", "user_id,item_id\nu,1")
    stocked = stocked.with_settings(allow_repeats=True)

    result = stocked.audit(stocked.load("candidates_inference"))

    assert result["rules"]["not_seen"] == {"not_checked": "repeats are allowed"}


GOOD = [("u", ["2", "3"], [0.9, 0.1], ["als", "popular"]), ("v", ["1", "3"], [0.2, 0.8], ["als+similar", "als"])]
PERSONAL_CASES = {
    "good lists": (GOOD, set()),
    "all that is left for a user who has the rest": ([*GOOD, ("x", ["3"], [1], ["popular"])], set()),
    "one too few": ([GOOD[0], ("v", ["1"], [0.2], ["als"])], {"exactly_k"}),
    "one too many": ([GOOD[0], ("v", ["1", "3", "2"], [1, 1, 1], ["als"] * 3)], {"exactly_k", "not_seen"}),
    "an empty list": ([GOOD[0], ("v", [], [], [])], {"exactly_k", "no_missing_value"}),
    "a score too few": ([GOOD[0], ("v", ["1", "3"], [0.2], ["als"] * 2)], {"no_missing_value"}),
    "an item twice": ([GOOD[0], ("v", ["1", "1"], [1, 1], ["als"] * 2)], {"unique_rows"}),
    "a user twice": ([*GOOD, ("v", ["1", "3"], [1, 1], ["als"] * 2)], {"unique_rows", "exactly_k"}),
    "a user missing": (GOOD[:1], {"no_user_missing"}),
    "no user at all": ([], {"enough_rows", "no_user_missing"}),
    "a seen item": ([GOOD[0], ("v", ["1", "2"], [1, 1], ["als"] * 2)], {"not_seen"}),
    "an unavailable item": ([GOOD[0], ("v", ["1", "4"], [1, 1], ["als"] * 2)], {"available_items"}),
    "an unknown item": ([GOOD[0], ("v", ["1", "99"], [1, 1], ["als"] * 2)], {"known_items"}),
    "an unknown source": ([GOOD[0], ("v", ["1", "3"], [1, 1], ["als", "magic"])], {"known_source"}),
    "NaN": ([GOOD[0], ("v", ["1", "3"], [1, float("nan")], ["als"] * 2)], {"finite_numbers"}),
    "a missing user id": ([*GOOD, (None, ["1", "3"], [1, 1], ["als"] * 2)], {"no_missing_value"}),
}


@pytest.mark.parametrize(("rows", "expected"), PERSONAL_CASES.values(), ids=PERSONAL_CASES.keys())
def test_personal_recs_are_exactly_k_for_everybody_with_candidates(
    stocked: Shop, rows: list[tuple[object, ...]], expected: set[str]
) -> None:
    schema = hand_over_files.arrow_schema(PERSONAL_RECS)
    columns = list(zip(*rows, strict=True)) or [()] * 4
    batch = pa.record_batch(
        [pa.array(values, field.type) for values, field in zip(columns, schema, strict=True)], schema=schema
    )
    generation = generations.begin(stocked.database, PERSONAL_RECS, run_key="r", week="2026-11-07", fingerprint="f")
    generations.write_batches(stocked.database, generation, iter([batch]))

    if expected:
        with pytest.raises(AuditError):
            stocked.audit(generation.generation_id)
    else:
        stocked.audit(generation.generation_id)

    rules = generations.get(stocked.database, generation.generation_id).metrics["audit"]["rules"]
    assert {name for name, result in rules.items() if result.get("broken")} == expected
