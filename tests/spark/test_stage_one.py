"""Stage one on real Spark: indexes, ALS, similar items, features."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from shortlist.errors import EmptyInteractionsError
from shortlist.recommender import als, features, indexing, similarity
from shortlist.settings import AlsSettings, CandidateSettings, InteractionSettings, ItemSettings, SimilaritySettings

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

PAIRS_DDL = "user_index int, item_index int, weight float"
INDEXED_DDL = "user_index int, item_index int, time timestamp, weight float"


def day(number: int) -> datetime:
    return datetime(2026, 1, number, tzinfo=UTC)


def test_indexes_are_dense_and_in_the_order_of_the_ids(spark: SparkSession) -> None:
    ids = ["b", "007", "7", "a", "a", "ä", None]
    frame = spark.createDataFrame([(name,) for name in ids], "user_id string").repartition(3)
    indexed = indexing.index_ids(frame, "user_id", "user_index")
    assert {row["user_id"]: row["user_index"] for row in indexed.collect()} == {
        "007": 0,
        "7": 1,
        "a": 2,
        "b": 3,
        "ä": 4,
    }


def test_indexes_of_nothing_are_nothing(spark: SparkSession) -> None:
    frame = spark.createDataFrame([], "user_id string")
    assert indexing.index_ids(frame, "user_id", "user_index").collect() == []


def two_tastes() -> list[tuple[int, int, float]]:
    """Users 0–9 take items 0–4, users 10–19 items 5–9; user 0 lacks item 4, user 10 item 9."""
    pairs = [(user, item, 1.0) for user in range(10) for item in range(5)]
    pairs += [(user, item, 1.0) for user in range(10, 20) for item in range(5, 10)]
    return [pair for pair in pairs if pair[:2] not in {(0, 4), (10, 9)}]


def scores(factors: als.Factors) -> dict[tuple[int, int], float]:
    users = {row["user_index"]: np.array(row["factors"]) for row in factors.users.collect()}
    items = {row["item_index"]: np.array(row["factors"]) for row in factors.items.collect()}
    return {(user, item): float(left @ right) for user, left in users.items() for item, right in items.items()}


def test_als_recommends_what_users_of_the_same_taste_take(spark: SparkSession) -> None:
    factors = als.fit(spark.createDataFrame(two_tastes(), PAIRS_DDL), AlsSettings(rank=4, iterations=5))
    score = scores(factors)
    assert max(range(4, 10), key=lambda item: score[0, item]) == 4
    assert max([*range(5), 9], key=lambda item: score[10, item]) == 9


def test_als_takes_weights_for_confidence_in_a_preference_not_for_ratings(spark: SparkSession) -> None:
    """Goes red with explicit ratings: then a weight of 0.1 is a dislike, and what was never taken is no 0."""
    pairs = [(user, item, 0.1 if item == 0 else 5.0) for user, item, _ in two_tastes()]
    factors = als.fit(spark.createDataFrame(pairs, PAIRS_DDL), AlsSettings(rank=4, iterations=10, alpha=10.0))
    score = scores(factors)
    # Item 0 was taken by everyone of the taste, if with little confidence: well above what the others take.
    assert min(score[user, 0] for user in range(10)) > 0.5
    # Nobody of the one taste takes the other's items: a preference near 0, not unknown.
    assert max(abs(score[user, item]) for user in range(10) for item in range(5, 10)) < 0.2


def test_als_with_the_same_seed_gives_the_same_factors(spark: SparkSession) -> None:
    config = AlsSettings(rank=4, iterations=3)
    first = als.fit(spark.createDataFrame(two_tastes(), PAIRS_DDL), config)
    second = als.fit(spark.createDataFrame(two_tastes()[::-1], PAIRS_DDL).repartition(3), config)
    assert scores(first) == scores(second)


def random_pairs(n_users: int, n_items: int) -> list[tuple[int, int, float]]:
    generator = np.random.default_rng(1)
    taken = generator.random((n_users, n_items)) < 0.2
    taken[3] = taken[:, 5] = False  # a user and an item that nothing is known of
    return [
        (int(user), int(item), float(generator.integers(1, 5))) for user, item in zip(*taken.nonzero(), strict=True)
    ]


def dense_als(pairs: list[tuple[int, int, float]], config: AlsSettings) -> tuple[np.ndarray, np.ndarray]:
    """The equations of Hu, Koren and Volinsky as they stand in the paper, a user or item after the other."""
    shape = (max(user for user, *_ in pairs) + 1, max(item for _, item, _ in pairs) + 1)
    confidence, preference = np.ones(shape), np.zeros(shape)
    for user, item, weight in pairs:
        confidence[user, item] += config.alpha * weight
        preference[user, item] = 1

    def solve(other: np.ndarray, confidence: np.ndarray, preference: np.ndarray) -> np.ndarray:
        rows = np.zeros((len(confidence), config.rank))
        for row, (trust, taken) in enumerate(zip(confidence, preference, strict=True)):
            if taken.any():
                regular = config.regularization * taken.sum() * np.eye(config.rank)
                rows[row] = np.linalg.solve(other.T * trust @ other + regular, other.T @ (trust * taken))
        return rows

    items = np.random.default_rng(config.seed).standard_normal((shape[1], config.rank)).astype(np.float32)
    items = (items / np.linalg.norm(items, axis=1, keepdims=True)).astype(np.float64)
    for _ in range(config.iterations):
        users = solve(items, confidence, preference)
        items = solve(users, confidence.T, preference.T)
    return solve(items, confidence, preference), items


@pytest.mark.parametrize("pairs_per_block", [10_000, 150])
def test_als_solves_the_equations_of_the_paper_in_one_block_and_in_several(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch, pairs_per_block: int
) -> None:
    monkeypatch.setattr(als, "_PAIRS_PER_BLOCK", pairs_per_block)
    monkeypatch.setattr(als, "_NUMBERS_PER_MESSAGE", 4 * 4 * 7)  # seven items in a message
    pairs, config = random_pairs(40, 30), AlsSettings(rank=4, iterations=3)
    factors = als.fit(spark.createDataFrame(pairs, PAIRS_DDL), config)
    users, items = dense_als(pairs, config)
    found = {row["user_index"]: row["factors"] for row in factors.users.collect()}
    assert found.keys() == set(range(40)) - {3}
    np.testing.assert_allclose([found[user] for user in sorted(found)], users[sorted(found)], atol=1e-4)
    found = {row["item_index"]: row["factors"] for row in factors.items.collect()}
    assert found.keys() == set(range(30)) - {5}
    np.testing.assert_allclose([found[item] for item in sorted(found)], items[sorted(found)], atol=1e-4)


def test_als_on_nothing_is_refused(spark: SparkSession) -> None:
    with pytest.raises(EmptyInteractionsError, match="no interactions to train on"):
        als.fit(spark.createDataFrame([], PAIRS_DDL), AlsSettings())


def test_als_with_one_user_and_one_item_works(spark: SparkSession) -> None:
    """Fault 23: the rank is larger than everything there is."""
    factors = als.fit(spark.createDataFrame([(0, 0, 1.0)], PAIRS_DDL), AlsSettings(rank=16, iterations=2))
    assert scores(factors)[0, 0] > 0


def test_similar_items_are_the_shrunk_cosine_of_who_takes_both(spark: SparkSession) -> None:
    histories = spark.createDataFrame([([0, 1],), ([0, 1],), ([0, 2],)], "history array<int>")
    found = similarity.fit(histories, 4, SimilaritySettings(history=10, neighbours=10, shrinkage=1.0))
    rows = sorted((row["item_index"], row["rank"], row["similar_index"], row["score"]) for row in found.collect())
    both, one = 2 / (np.sqrt(3 * 2) + 1), 1 / (np.sqrt(3 * 1) + 1)
    assert [row[:3] for row in rows] == [(0, 1, 1), (0, 2, 2), (1, 1, 0), (2, 1, 0)]
    assert [row[3] for row in rows] == pytest.approx([both, one, both, one])


def test_only_the_newest_items_of_a_user_count_for_similarity(spark: SparkSession) -> None:
    histories = spark.createDataFrame([([0, 1, 2],), ([2],)], "history array<int>")
    found = similarity.fit(histories, 3, SimilaritySettings(history=2, neighbours=10, shrinkage=0.0))
    pairs = {(row["item_index"], row["similar_index"]): round(row["score"], 4) for row in found.collect()}
    assert pairs == {(1, 2): 0.7071, (2, 1): 0.7071}


EVENTS = [
    (0, 0, day(1), 2.0),
    (0, 0, day(2), -2.0),  # given back
    (0, 1, day(3), 4.0),
    (1, 1, day(4), 1.0),
    (1, 1, day(20), 8.0),  # after every moment of these tests
    (2, 2, day(21), 1.0),
]


def test_what_was_given_back_is_no_preference_but_stays_seen(spark: SparkSession) -> None:
    config = InteractionSettings(repeated="sum", weight_transform="raw")
    pairs = features.pairs(spark.createDataFrame(EVENTS[:4], INDEXED_DDL), config)
    found = {(row["user_index"], row["item_index"]): (row["amount"], row["weight"]) for row in pairs.collect()}
    assert found == {(0, 0): (0.0, None), (0, 1): (4.0, 4.0), (1, 1): (1.0, 1.0)}
    histories = features.histories(pairs)
    assert {row["user_index"]: row["history"] for row in histories.collect()} == {0: [0, 1], 1: [1]}


@pytest.mark.parametrize(
    ("repeated", "transform", "expected"),
    [("sum", "raw", 9.0), ("last", "raw", 8.0), ("sum", "one", 1.0), ("sum", "log", 1 + float(np.log(9)))],
)
def test_repeated_events_are_summed_up_as_the_settings_say(
    spark: SparkSession, repeated: Any, transform: Any, expected: float
) -> None:
    config = InteractionSettings(repeated=repeated, weight_transform=transform)
    pairs = features.pairs(spark.createDataFrame(EVENTS[3:5], INDEXED_DDL), config)
    assert [row["weight"] for row in pairs.collect()] == [pytest.approx(expected)]


def test_item_features_know_nothing_from_their_moment_on(spark: SparkSession) -> None:
    items = spark.createDataFrame([(0, True), (1, True), (2, True)], "item_index int, available boolean")
    found = features.item_features(
        spark.createDataFrame(EVENTS, INDEXED_DDL),
        items,
        "2026-01-11T00:00:00",
        ItemSettings(),
        CandidateSettings(popular_half_life_days=1.0),
    )
    rows = {row["item_index"]: row.asDict() for row in found.collect()}
    assert {index: row["item_count"] for index, row in rows.items()} == {0: 1.0, 1: 2.0, 2: None}
    # Item 2 is first taken on the 21st: on the 11th nobody can know of it.
    assert {index: row["available"] for index, row in rows.items()} == {0: True, 1: True, 2: False}
    assert rows[1]["item_count_7d"] == 1.0
    assert (rows[1]["item_age_days"], rows[1]["item_recency_days"]) == (8.0, 7.0)
    assert rows[1]["score"] == pytest.approx(2.0**-8 + 2.0**-7)


def test_an_item_nobody_took_for_long_is_not_available(spark: SparkSession) -> None:
    items = spark.createDataFrame([(0, True), (1, True), (2, False)], "item_index int, available boolean")
    found = features.item_features(
        spark.createDataFrame(EVENTS, INDEXED_DDL),
        items,
        "2026-01-22T00:00:00",
        ItemSettings(available_within_days=10),
        CandidateSettings(),
    )
    assert {row["item_index"]: row["available"] for row in found.collect()} == {0: False, 1: True, 2: False}


def test_user_rows_know_nothing_from_their_moment_on(spark: SparkSession) -> None:
    users = spark.createDataFrame([("ann", 0), ("bob", 1), ("new", 2)], "user_id string, user_index int")
    factors = spark.createDataFrame([(0, [1.0, 2.0])], "user_index int, factors array<float>")
    rows = features.user_rows(
        spark.createDataFrame(EVENTS, INDEXED_DDL), users, factors, "2026-01-11T00:00:00", InteractionSettings()
    )
    found = {row["user_id"]: row.asDict() for row in rows.collect()}
    assert sorted(found) == ["ann", "bob"]
    assert found["ann"]["history"] == [0, 1]
    assert found["bob"]["history"] == [1]
    assert (found["ann"]["factors"], found["bob"]["factors"]) == ([1.0, 2.0], None)
    assert (found["bob"]["user_count"], found["bob"]["user_recency_days"]) == (1.0, 7.0)


def test_relevant_is_what_was_taken_in_the_window_and_kept(spark: SparkSession) -> None:
    events = spark.createDataFrame(EVENTS, INDEXED_DDL)
    found = features.relevant_items(events, "2026-01-01T00:00:00", "2026-01-20T00:00:00", InteractionSettings())
    assert {row["user_index"]: row["relevant"] for row in found.collect()} == {0: [1], 1: [1]}
    later = features.relevant_items(events, "2026-01-20T00:00:00", None, InteractionSettings())
    assert {row["user_index"]: row["relevant"] for row in later.collect()} == {1: [1], 2: [2]}
