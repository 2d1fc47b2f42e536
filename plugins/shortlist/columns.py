"""Names and schemas of every table that crosses a module, a file or the database.

Ids are strings at the edges (files, tables, API) and dense int32 indexes inside. Spark schemas are DDL strings, for
`DataFrame.select` contracts and `createDataFrame`.
"""

from __future__ import annotations

from typing import Final

USER: Final = "user_id"
ITEM: Final = "item_id"
TIME: Final = "time"
WEIGHT: Final = "weight"

TITLE: Final = "title"
CATEGORY: Final = "category"
AVAILABLE: Final = "available"
PRICE: Final = "price"
CURRENCY: Final = "currency"
URL: Final = "url"
SCRAPED_AT: Final = "scraped_at"

USER_INDEX: Final = "user_index"
ITEM_INDEX: Final = "item_index"
FACTORS: Final = "factors"

RANK: Final = "rank"
SCORE: Final = "score"
SOURCE: Final = "source"
SIMILAR_ITEM: Final = "similar_item_id"
SIMILAR_INDEX: Final = "similar_index"
CATEGORY_SHARES: Final = "category_shares"

TARGET: Final = "target"
AS_OF: Final = "as_of"
RELEVANT: Final = "n_relevant"

SOURCE_FILE: Final = "source_file"
SOURCE_ROW: Final = "source_row"
REASON: Final = "reason"
RAW: Final = "raw"

# One accepted event. `weight` is the signed amount of the event: a cancellation is negative and cancels earlier ones.
INTERACTIONS_DDL: Final = "user_id string, item_id string, time timestamp, weight float"

# One row an item, as known at the end of the data.
ITEMS_DDL: Final = "item_id string, title string, category string, available boolean"

# A row that was not accepted. `raw` is the row as JSON; `source_row` counts records from 1 within the file.
QUARANTINE_DDL: Final = "source_file string, source_row bigint, reason string, raw string"

# What the feature store knows of the weights of a user or an item, beside the features of the ranker. The weight is the
# signed amount of an event: a rating, a quantity, a price that was paid.
WEIGHT_STATISTICS: Final = (
    "weight_7d",
    "weight_30d",
    "weight_90d",
    "weight",
    "std_weight",
    "min_weight",
    "max_weight",
)

# Where a candidate came from, best first when it came from several.
SOURCES: Final = ("als", "similar", "popular")

# What the ranker may look at, all known at `as_of`, all float32, missing = null.
CANDIDATE_FEATURES: Final = (
    "als_score",
    "als_relative",
    "als_rank",
    "similar_score",
    "similar_relative",
    "similar_rank",
    "last_score",
    "last_rank",
    "popular_score",
    "popular_rank",
    "item_count_7d",
    "item_count_30d",
    "item_count_90d",
    "item_count",
    "item_trend",
    "item_age_days",
    "item_recency_days",
    "item_mean_weight",
    "user_count_30d",
    "user_count",
    "user_items",
    "user_tenure_days",
    "user_recency_days",
    "user_mean_weight",
    "user_popularity",
    "category_share",
)
