"""The candidate kernel, on a shop with five items."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.sparse import csr_array

from shortlist.columns import CANDIDATE_FEATURES
from shortlist.recommender.candidates import ITEM_FEATURES, USER_FEATURES, ItemState, UserBatch, propose_block
from shortlist.settings import CandidateSettings

ITEMS = ItemState(
    ids=np.array(["a", "b", "c", "d", "e"], object),
    factors=np.array([[1, 0], [0.9, 0], [0, 1], [0, 0.5], [0, 0]], np.float32),
    similar=csr_array(
        np.array(
            [
                [0, 0.5, 0.2, 0, 0],
                [0.5, 0, 0, 0, 0],
                [0.2, 0, 0, 0.9, 0],
                [0, 0, 0.9, 0, 0],
                [0, 0, 0, 0, 0],
            ],
            np.float32,
        )
    ),
    popularity=np.array([5, 4, 3, 2, 1], np.float32),
    available=np.array([True, True, True, True, True]),
    features=np.zeros((5, len(ITEM_FEATURES)), np.float32),
    categories=csr_array(np.array([[1, 0], [1, 0], [0, 1], [0, 1], [0, 0]], np.float32)),
)

# Ann met a and then c; she is close to the first factor. Bob met only e, which stage one does not know.
USERS = UserBatch(
    ids=np.array(["ann", "bob"], object),
    factors=np.array([[1, 0.1], [0, 0]], np.float32),
    history=csr_array(np.array([[0.5, 0, 1, 0, 0], [0, 0, 0, 0, 1]], np.float32)),
    last=np.array([2, 4]),
    relevant=csr_array(np.array([[1, 1, 0, 0, 0], [0, 0, 0, 1, 0]], np.float32)),
    features=np.zeros((2, len(USER_FEATURES)), np.float32),
)

CONFIG = CandidateSettings(als=1, similar=2, popular=2)


def proposed(users: UserBatch = USERS, items: ItemState = ITEMS, *, repeats: bool = False) -> dict[str, dict[str, str]]:
    """User → item → source."""
    rows = propose_block(users, items, CONFIG, allow_repeats=repeats).to_pylist()
    result: dict[str, dict[str, str]] = {}
    for row in rows:
        result.setdefault(row["user_id"], {})[row["item_id"]] = row["source"]
    return result


def test_every_source_proposes_its_best_unseen_items_and_they_are_merged() -> None:
    assert proposed() == {
        "ann": {"b": "als+similar+popular", "d": "similar+popular"},
        "bob": {"a": "popular", "b": "popular"},
    }


def test_repeats_are_proposed_only_when_they_are_allowed() -> None:
    assert proposed(repeats=True)["ann"] == {
        "a": "als+similar+popular",
        "b": "similar+popular",
        "d": "similar",
    }


def test_an_item_that_is_not_available_is_never_proposed() -> None:
    sold_out = replace(ITEMS, available=np.array([True, False, True, True, True]))
    assert proposed(items=sold_out) == {
        "ann": {"d": "als+similar+popular", "e": "popular"},
        "bob": {"a": "popular", "c": "popular"},
    }


def test_a_user_who_has_seen_almost_everything_gets_what_is_left() -> None:
    users = replace(USERS, history=csr_array(np.array([[1, 1, 1, 1, 0], [0, 0, 0, 0, 1]], np.float32)))
    assert proposed(users)["ann"] == {"e": "popular"}


def test_a_very_old_item_of_a_long_history_stays_seen() -> None:
    """Freshness halves with every twenty newer items: 4,000 of them once made it 0, and the item unseen."""
    import pyarrow as pa

    from shortlist.recommender.candidates import read_users

    n = 4000
    many = ItemState(
        ids=np.array([str(number) for number in range(n + 1)], object),
        factors=np.ones((n + 1, 1), np.float32),
        similar=csr_array((n + 1, n + 1), dtype=np.float32),
        popularity=np.ones(n + 1, np.float32),
        available=np.ones(n + 1, bool),
        features=np.zeros((n + 1, len(ITEM_FEATURES)), np.float32),
        categories=csr_array((n + 1, 0), dtype=np.float32),
    )
    row = {"user_id": "ann", "factors": [1.0], "history": list(range(n))[::-1], **dict.fromkeys(USER_FEATURES, 0.0)}
    schema = pa.schema(
        [("user_id", pa.string()), ("factors", pa.list_(pa.float32())), ("history", pa.list_(pa.int32()))]
        + [(name, pa.float32()) for name in USER_FEATURES]
    )
    batch = pa.RecordBatch.from_pylist([row], schema=schema)
    rows = propose_block(read_users(batch, many), many, CONFIG, allow_repeats=False).to_pylist()
    assert [row["item_id"] for row in rows] == [str(n)]


def test_labels_count_what_is_new_to_the_user_only() -> None:
    rows = propose_block(USERS, ITEMS, CONFIG, allow_repeats=False).to_pylist()
    labels = {(row["user_id"], row["item_id"]): (row["target"], row["n_relevant"]) for row in rows}
    assert labels == {("ann", "b"): (1, 1), ("ann", "d"): (0, 1), ("bob", "a"): (0, 1), ("bob", "b"): (0, 1)}


def test_features_of_a_pair_are_those_of_its_scores_and_ranks() -> None:
    rows = propose_block(USERS, ITEMS, CONFIG, allow_repeats=False).to_pylist()
    ann_b = next(row for row in rows if (row["user_id"], row["item_id"]) == ("ann", "b"))
    named = {
        name: round(ann_b[name], 4) if ann_b[name] is not None else None
        for name in CANDIDATE_FEATURES
        if name not in (*ITEM_FEATURES, *USER_FEATURES)
    }
    assert named == {
        "als_score": 0.9,
        "als_relative": 1.0,
        "als_rank": 1.0,
        "similar_score": 0.25,  # 0.5 fresh · 0.5 similar
        "similar_relative": 0.2778,  # of d: 1 fresh · 0.9 similar
        "similar_rank": 2.0,
        "last_score": 0.0,
        "last_rank": None,
        "popular_score": 4.0,
        "popular_rank": 1.0,
        "user_popularity": 0.8,  # a is 5th of 5 from below, c 3rd
        "category_share": 0.3333,  # 0.5 of 1.5 fresh
    }


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_candidates_of_random_users_are_unseen_available_and_unique(seed: int) -> None:
    generator = np.random.default_rng(seed)
    users = replace(USERS, history=csr_array((generator.random((2, 5)) < 0.5).astype(np.float32)))
    items = replace(ITEMS, available=generator.random(5) < 0.7)
    rows = propose_block(users, items, CONFIG, allow_repeats=False).to_pylist()
    pairs = [(list(users.ids).index(row["user_id"]), list(items.ids).index(row["item_id"])) for row in rows]
    assert len(pairs) == len(set(pairs))
    assert all(items.available[item] and users.history.toarray()[user, item] == 0 for user, item in pairs)
