"""Stage one: alternating least squares on implicit feedback.

The kernel is Spark's; nothing but factors and indexes leaves this module, so that another kernel can take its place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from shortlist.columns import FACTORS, ITEM_INDEX, USER_INDEX, WEIGHT
from shortlist.errors import EmptyInteractionsError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from shortlist.settings import AlsSettings


@dataclass(frozen=True)
class Factors:
    """What ALS learns: frames (user_index int, factors array<float>) and (item_index int, factors array<float>)."""

    users: DataFrame
    items: DataFrame


def fit(pairs: DataFrame, config: AlsSettings) -> Factors:
    """Factorise the preferences of users for items.

    Hu, Koren, Volinsky 2008, "Collaborative Filtering for Implicit Feedback Datasets". Every pair is a preference of 1
    held with confidence 1 + alpha · weight, every other one of 0 with confidence 1. The regularization is scaled by
    the number of pairs of the user or item (Zhou et al. 2008).

    Args:
        pairs: One row a user and item: user_index int, item_index int, weight float > 0.
        config: Hyper-parameters.

    Returns:
        Factors of the users and items that occur in `pairs`, `config.rank` float32 each.

    Raises:
        EmptyInteractionsError: If there is no pair.
    """
    from pyspark.ml.recommendation import ALS
    from pyspark.sql import functions as f

    if pairs.isEmpty():
        raise EmptyInteractionsError("no interactions to train on: check the counts of the ETL report")
    # One block a partition, in a fixed order of rows: sums of floats, and so the factors, come out the same each time.
    ordered = pairs.select(USER_INDEX, ITEM_INDEX, WEIGHT).sort(USER_INDEX, ITEM_INDEX)
    model = ALS(
        userCol=USER_INDEX,
        itemCol=ITEM_INDEX,
        ratingCol=WEIGHT,
        implicitPrefs=True,
        rank=config.rank,
        maxIter=config.iterations,
        regParam=config.regularization,
        alpha=config.alpha,
        seed=config.seed,
    ).fit(ordered)
    return Factors(
        users=model.userFactors.select(f.col("id").alias(USER_INDEX), f.col("features").alias(FACTORS)),
        items=model.itemFactors.select(f.col("id").alias(ITEM_INDEX), f.col("features").alias(FACTORS)),
    )
