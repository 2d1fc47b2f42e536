"""Stage two: a CatBoost ranker over the candidates of each user."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from shortlist.columns import AS_OF, CANDIDATE_FEATURES, TARGET, USER
from shortlist.errors import RankerError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from catboost import CatBoost
    from numpy.typing import NDArray

    from shortlist.settings import RankerSettings


# What every source says of a pair can only speak for it: all else equal, a better score or rank, or an item that is
# taken more now, never lowers the prediction. It keeps the ranker sane when the next weeks differ from the last ones.
_SPEAKS_FOR = (
    "als_score",
    "als_relative",
    "similar_score",
    "similar_relative",
    "last_score",
    "popular_score",
    "item_count_7d",
    "item_count_30d",
)
_SPEAKS_AGAINST = ("als_rank", "similar_rank", "last_rank", "popular_rank")

# A pair that a source did not list comes after all that it did.
_AFTER_EVERY_LIST = 1e6


@dataclass(frozen=True)
class LabelledCandidates:
    """Candidates with labels, the rows of a group (a user at one moment) next to each other.

    Attributes:
        group: int (rows,), non-decreasing.
        features: float32 (rows, features).
        target: int (rows,), 1 where the user took the item.
        names: Feature names.
    """

    group: NDArray[np.int64]
    features: NDArray[np.float32]
    target: NDArray[np.int64]
    names: tuple[str, ...]


def labelled(table: pa.Table) -> LabelledCandidates:
    """Return labelled candidates as arrays.

    Args:
        table: Columns as_of, user_id, target and those of `CANDIDATE_FEATURES`; sorted by moment and user.
    """
    import numpy as np

    window, user = table[AS_OF].to_numpy().astype("int64", copy=False), table[USER].to_numpy()
    starts = np.ones(table.num_rows, bool)
    starts[1:] = (window[1:] != window[:-1]) | (user[1:] != user[:-1])
    return LabelledCandidates(
        group=np.cumsum(starts) - 1,
        features=features_of(table),
        target=table[TARGET].to_numpy().astype(np.int64),
        names=tuple(CANDIDATE_FEATURES),
    )


def features_of(table: pa.Table) -> NDArray[np.float32]:
    """Return float32 (rows, features), the columns of `CANDIDATE_FEATURES`."""
    import numpy as np

    return np.column_stack([table[name].to_numpy().astype(np.float32) for name in CANDIDATE_FEATURES])


def fit(data: LabelledCandidates, config: RankerSettings) -> CatBoost:
    """Train the ranker, stopping early on a fifth of the groups.

    Groups without any taken item teach nothing about order and are left out; of the items not taken, at most
    `config.negatives` a group are kept, drawn with the seed.

    Args:
        data: Sorted by group.
        config: Hyper-parameters.

    Raises:
        RankerError: If the rows are not sorted by group, there is only one class, or too few groups to hold some out.
    """
    import numpy as np
    from catboost import CatBoost, Pool

    if len(data.group) and np.any(np.diff(data.group) < 0):
        raise RankerError("candidates must be sorted by group: CatBoost needs the rows of a group next to each other")
    positives = np.bincount(data.group, weights=data.target)
    teaching = np.flatnonzero(positives > 0)
    if len(teaching) < 2 or data.target.min() == 1:
        raise RankerError(
            f"{len(teaching)} of {len(positives)} users took a candidate: the ranker needs at least two users with "
            "taken and not taken candidates. Use a longer history, or a larger [split].target_share"
        )
    generator = np.random.default_rng(config.seed)
    drawn = generator.random(len(data.group))
    order = np.lexsort((drawn, -data.target, data.group))
    size = np.bincount(data.group)
    position = np.arange(len(order)) - np.repeat(np.cumsum(size) - size, size)
    rows = np.sort(order[position < (positives + config.negatives)[data.group[order]]])
    rows = rows[positives[data.group[rows]] > 0]

    held_out = np.zeros(len(positives), bool)
    held_out[generator.permutation(teaching)[: max(1, len(teaching) // 5)]] = True

    def pool(rows: NDArray[np.int64]) -> Pool:
        features = _without_gaps(data.features[rows], data.names)
        return Pool(features, data.target[rows], group_id=data.group[rows], feature_names=list(data.names))

    model = CatBoost(
        {
            "loss_function": config.loss,
            "eval_metric": "NDCG:top=10",
            "iterations": config.iterations,
            "learning_rate": config.learning_rate,
            "depth": config.depth,
            "random_seed": config.seed,
            "monotone_constraints": [(name in _SPEAKS_FOR) - (name in _SPEAKS_AGAINST) for name in data.names],
            "allow_writing_files": False,
            "logging_level": "Silent",
        }
    )
    model.fit(
        pool(rows[~held_out[data.group[rows]]]),
        eval_set=pool(rows[held_out[data.group[rows]]]),
        early_stopping_rounds=config.early_stopping_rounds,
    )
    return model


def predict(model: CatBoost, features: NDArray[np.float32], names: tuple[str, ...]) -> NDArray[np.float64]:
    """Score candidates, larger is better.

    Args:
        model: From `fit`.
        features: float32 (rows, features).
        names: Of the columns, as the model was trained with.

    Raises:
        RankerError: If the names are not those the model was trained with, or a score is not finite.
    """
    import numpy as np

    if tuple(model.feature_names_) != names:
        unknown = sorted(set(names) ^ set(model.feature_names_)) or "the same names in another order"
        raise RankerError(
            f"the ranker was trained on other features than the candidates have: {unknown}. Train it anew"
        )
    scores: NDArray[np.float64] = model.predict(_without_gaps(features, names))
    if not np.isfinite(scores).all():
        raise RankerError("the ranker gave scores that are not finite: train it anew")
    return scores


def contributions(
    model: CatBoost, features: NDArray[np.float32], names: tuple[str, ...]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Divide the raw score of each candidate among its features: SHAP values of trees (Lundberg et al. 2020).

    Args:
        model: From `fit`.
        features: float32 (rows, features).
        names: Of the columns, as the model was trained with.

    Returns:
        What each feature adds, (rows, features), and where the sum starts from, (rows,): together they are the raw
        score, before the loss makes a probability of it.

    Raises:
        RankerError: If the names are not those the model was trained with.
    """
    from catboost import Pool

    if tuple(model.feature_names_) != names:
        raise RankerError("the ranker was trained on other features than the candidates have: train it anew")
    pool = Pool(_without_gaps(features, names), feature_names=list(names))
    values: NDArray[np.float64] = model.get_feature_importance(pool, type="ShapValues")
    return values[:, :-1], values[:, -1]


def _without_gaps(features: NDArray[np.float32], names: tuple[str, ...]) -> NDArray[np.float32]:
    import numpy as np

    ranks = [index for index, name in enumerate(names) if name in _SPEAKS_AGAINST]
    filled = features.copy()
    filled[:, ranks] = np.nan_to_num(filled[:, ranks], nan=_AFTER_EVERY_LIST)
    return filled


def importance(model: CatBoost) -> dict[str, float]:
    """Share of each feature in the ranker's decisions, in percent, largest first."""
    # What CatBoost takes by default asks for the training data where the loss is one of whole lists.
    shares = model.get_feature_importance(type="PredictionValuesChange")
    pairs = zip(model.feature_names_, shares, strict=True)
    return {name: round(float(value), 3) for name, value in sorted(pairs, key=lambda pair: -pair[1])}
