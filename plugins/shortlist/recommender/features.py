"""What is known of users and items at one moment, from nothing but the interactions before it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shortlist.columns import (
    AVAILABLE,
    FACTORS,
    ITEM,
    ITEM_INDEX,
    SCORE,
    TIME,
    USER,
    USER_INDEX,
    WEIGHT,
    WEIGHT_STATISTICS,
)
from shortlist.recommender.candidates import ITEM_FEATURES, USER_FEATURES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyspark.sql import Column, DataFrame

    from shortlist.settings import CandidateSettings, InteractionSettings, ItemSettings

# One row a user at one moment; `history` holds item indexes, oldest first, each once; `relevant` only where labelled.
USERS_DDL = f"{USER} string, {FACTORS} array<float>, history array<int>, relevant array<int>, " + ", ".join(
    f"{name} float" for name in USER_FEATURES
)

# Not for the ranker, but of the same events: for whoever asks `item_features` or `user_features` for them.
ITEM_STATISTICS = tuple(f"item_{name}" for name in WEIGHT_STATISTICS)
USER_STATISTICS = tuple(f"user_{name}" for name in WEIGHT_STATISTICS)

_SECONDS_PER_DAY = 86_400


def indexed(interactions: DataFrame, users: DataFrame, items: DataFrame) -> DataFrame:
    """Put dense indexes in place of the ids: (user_index, item_index, time, weight)."""
    from pyspark.sql import functions as f

    return (
        interactions.join(users.select(USER, USER_INDEX), on=USER, how="inner")
        .join(f.broadcast(items.select(ITEM, ITEM_INDEX)), on=ITEM, how="inner")
        .select(USER_INDEX, ITEM_INDEX, TIME, WEIGHT)
    )


def pairs(interactions: DataFrame, config: InteractionSettings) -> DataFrame:
    """Sum up what each user did with each item.

    Amounts are added (a cancellation takes back), or the last one counts, as `config.repeated` says.

    Returns:
        (user_index, item_index, time of the last event, amount double, weight float). `weight` is the transformed
        amount, null where the amount is not above 0 and the pair is therefore no preference.
    """
    from pyspark.sql import functions as f

    amount = f.sum(WEIGHT) if config.repeated == "sum" else f.max_by(WEIGHT, f.struct(TIME, WEIGHT))
    weight = {
        "log": 1 + f.log(f.greatest(f.col("amount"), f.lit(1.0))),
        "raw": f.col("amount"),
        "one": f.lit(1.0),
    }[config.weight_transform]
    return (
        interactions.groupBy(USER_INDEX, ITEM_INDEX)
        .agg(f.max(TIME).alias(TIME), amount.cast("double").alias("amount"))
        .withColumn(WEIGHT, f.when(f.col("amount") > 0, weight).cast("float"))
    )


def histories(pairs_: DataFrame) -> DataFrame:
    """Return (user_index, history array<int>): each item a user met, in the order of the last meeting."""
    from pyspark.sql import functions as f

    meetings = f.sort_array(f.collect_list(f.struct(TIME, ITEM_INDEX)))
    return pairs_.groupBy(USER_INDEX).agg(f.transform(meetings, lambda pair: pair[ITEM_INDEX]).alias("history"))


def item_features(
    interactions: DataFrame,
    items: DataFrame,
    as_of: str,
    config: ItemSettings,
    candidates: CandidateSettings,
    *,
    also: Sequence[str] = (),
) -> DataFrame:
    """Describe every item at one moment.

    Args:
        interactions: Indexed interactions before `as_of`; others are left out here.
        items: Columns item_index and available.
        as_of: ISO time, UTC.
        config: When an item stops to be available.
        candidates: Half-life of the popularity.
        also: Further columns, of `ITEM_STATISTICS`.

    Returns:
        (item_index, score = recent popularity, available, the columns of `ITEM_FEATURES` and `also`), one row for every
        row of `items`. Popularity is the number of events, each halved every `popular_half_life_days`.
    """
    from pyspark.sql import functions as f

    age = _days_before(as_of)
    events = interactions.where(f.col(TIME) < f.lit(as_of).cast("timestamp")).where(f.col(WEIGHT) > 0)

    def within(days: int) -> Column:
        return f.count_if(age <= days)

    seen = events.groupBy(ITEM_INDEX).agg(
        _popularity(age, candidates).alias(SCORE),
        within(7).alias("item_count_7d"),
        within(30).alias("item_count_30d"),
        within(90).alias("item_count_90d"),
        f.count("*").alias("item_count"),
        f.log((within(30) + 1) / (within(90) / 3 + 1)).alias("item_trend"),
        f.max(age).alias("item_age_days"),
        f.min(age).alias("item_recency_days"),
        f.mean(WEIGHT).alias("item_mean_weight"),
        *_weight_statistics(also, ITEM_STATISTICS, age),
    )
    fresh = f.col("item_recency_days").isNotNull()
    if config.available_within_days:
        fresh = f.coalesce(f.col("item_recency_days") <= config.available_within_days, f.lit(False))
    return items.join(seen, on=ITEM_INDEX, how="left").select(
        ITEM_INDEX,
        f.coalesce(SCORE, f.lit(0.0)).cast("float").alias(SCORE),
        (f.col(AVAILABLE) & fresh).alias(AVAILABLE),
        *(f.col(name).cast("float").alias(name) for name in (*ITEM_FEATURES, *also)),
    )


def popularity(interactions: DataFrame, as_of: str, candidates: CandidateSettings) -> DataFrame:
    """Return (item_index, score float): the popularity that `item_features` gives to the items that were taken."""
    from pyspark.sql import functions as f

    events = interactions.where(f.col(TIME) < f.lit(as_of).cast("timestamp")).where(f.col(WEIGHT) > 0)
    score = _popularity(_days_before(as_of), candidates)
    return events.groupBy(ITEM_INDEX).agg(score.cast("float").alias(SCORE))


def user_features(
    interactions: DataFrame,
    users: DataFrame,
    as_of: str,
    config: InteractionSettings,
    *,
    also: Sequence[str] = (),
) -> DataFrame:
    """Describe every user at one moment, with the history.

    Args:
        interactions: Indexed interactions; those from `as_of` on are left out here.
        users: Columns user_id and user_index: the users wanted; those without history are left out. Further columns are
            passed on.
        as_of: ISO time, UTC.
        config: How amounts are summed up.
        also: Further columns, of `USER_STATISTICS`.

    Returns:
        The columns of `users`, history array<int> as in `USERS_DDL`, and the columns of `USER_FEATURES` and `also`.
    """
    from pyspark.sql import functions as f

    age = _days_before(as_of)
    before = interactions.where(f.col(TIME) < f.lit(as_of).cast("timestamp"))
    counted = before.groupBy(USER_INDEX).agg(
        f.count_if(age <= 30).alias("user_count_30d"),
        f.count("*").alias("user_count"),
        f.max(age).alias("user_tenure_days"),
        f.min(age).alias("user_recency_days"),
        f.mean(WEIGHT).alias("user_mean_weight"),
        *_weight_statistics(also, USER_STATISTICS, age),
    )
    return (
        users.join(histories(pairs(before, config)), on=USER_INDEX, how="inner")
        .join(counted, on=USER_INDEX, how="inner")
        .withColumn("user_items", f.size("history"))
        .select(*users.columns, "history", *(f.col(name).cast("float").alias(name) for name in (*USER_FEATURES, *also)))
    )


def user_rows(
    interactions: DataFrame, users: DataFrame, user_factors: DataFrame, as_of: str, config: InteractionSettings
) -> DataFrame:
    """Describe every user at one moment as candidates are made from it: `user_features` with the factors.

    Args:
        interactions: As `user_features` takes them.
        users: The same; a column `relevant` array<int> of items taken later is passed on.
        user_factors: (user_index, factors) of the model made at `as_of`.
        as_of: ISO time, UTC.
        config: How amounts are summed up.

    Returns:
        Columns of `USERS_DDL`, without `relevant` where `users` has none.
    """
    return with_factors(user_features(interactions, users, as_of, config), user_factors)


def with_factors(described: DataFrame, user_factors: DataFrame) -> DataFrame:
    """Add the factors of a model to described users; null where the model has not met the user."""
    return described.join(user_factors.select(USER_INDEX, FACTORS), on=USER_INDEX, how="left").drop(USER_INDEX)


def relevant_items(interactions: DataFrame, since: str, until: str | None, config: InteractionSettings) -> DataFrame:
    """Return (user_index, relevant array<int>): what each user took, and did not give back, in a window."""
    from pyspark.sql import functions as f

    window = interactions.where(f.col(TIME) >= f.lit(since).cast("timestamp"))
    if until is not None:
        window = window.where(f.col(TIME) < f.lit(until).cast("timestamp"))
    return (
        pairs(window, config)
        .where(f.col(WEIGHT).isNotNull())
        .groupBy(USER_INDEX)
        .agg(f.sort_array(f.collect_list(ITEM_INDEX)).alias("relevant"))
    )


def _weight_statistics(wanted: Sequence[str], names: Sequence[str], age: Column) -> list[Column]:
    """Those of the `WEIGHT_STATISTICS`, called `names` here, that are wanted."""
    from pyspark.sql import functions as f

    def within(days: int) -> Column:
        return f.sum(f.when(age <= days, f.col(WEIGHT)).otherwise(0.0))

    of_weights = (
        within(7), within(30), within(90), f.sum(WEIGHT), f.stddev_pop(WEIGHT), f.min(WEIGHT), f.max(WEIGHT)
    )  # fmt: skip
    return [column.alias(name) for name, column in zip(names, of_weights, strict=True) if name in wanted]


def _popularity(age: Column, candidates: CandidateSettings) -> Column:
    from pyspark.sql import functions as f

    return f.sum(f.pow(f.lit(2.0), -age / candidates.popular_half_life_days))


def _days_before(as_of: str) -> Column:
    from pyspark.sql import functions as f

    return (f.unix_timestamp(f.lit(as_of).cast("timestamp")) - f.unix_timestamp(TIME)) / _SECONDS_PER_DAY
