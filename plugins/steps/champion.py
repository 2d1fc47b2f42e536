"""Holds a new stage-one version against the champion, on the same users and the same window."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from shortlist.columns import ITEM, ITEM_INDEX, RELEVANT, TARGET, USER, USER_INDEX
from shortlist.errors import GateRefusedError, ModelVersionError
from shortlist.recommender import evaluation, features, gate, metrics
from shortlist.stores import files, model_versions
from steps.stage_one import indexed_events, propose_at

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray
    from pyspark.sql import SparkSession

    from shortlist.settings import Settings

logger = logging.getLogger(__name__)

_K = 10


def judge(spark: SparkSession, settings: Settings, version_path: str, challenger: pa.Table) -> dict[str, Any]:
    """Let the gate decide whether a version may take the champion's place.

    Both recommend to the users of the challenger's test window by ALS, popular items where that ends. The champion uses
    its newest model that has not seen the window.

    Args:
        spark: Session owned by the caller.
        settings: Paths, gate, evaluation.
        version_path: The challenger.
        challenger: Its labelled candidates, `evaluation.COLUMNS`.

    Returns:
        `passed`, `reason`, and where they could be compared `champion`, `difference`, `tolerance`.

    Raises:
        ModelVersionError: If the champion is there, but damaged.
    """
    folder = settings.paths.model_versions
    pointer = model_versions.champion(folder)
    name = version_path.rsplit("/", 1)[-1]
    if pointer is None or pointer.version == name:
        return {"passed": True, "reason": "passed: there is no other champion"}
    path = f"{folder}/{pointer.version}"
    if not files.exists(path):
        return {"passed": True, "reason": f"passed: the champion {pointer.version} was removed"}
    try:
        moment = _unseen_moment(path, version_path)
    except ModelVersionError as error:
        raise ModelVersionError(
            f"the champion cannot be compared with: {error}. Or go back to the one before (make rollback "
            "MODEL=recommender), or remove its folder"
        ) from error
    if moment is None:
        return {"passed": True, "reason": f"passed: every model of {pointer.version} has seen the test window"}
    rival = _champions_candidates(spark, settings, path, version_path, moment, challenger)
    if rival is None:
        return {"passed": True, "reason": f"passed: {pointer.version} knows none of the users or items"}
    decision = gate.decide(
        _ndcg(challenger), {f"the champion {pointer.version}": _ndcg(rival)}, settings.gate, settings.evaluation
    )
    difference = next(iter(decision.differences.values()))
    return {
        "passed": decision.passed,
        "reason": decision.reason,
        "champion": pointer.version,
        "difference": {"mean": difference.mean, "low": difference.low, "high": difference.high},
        "tolerance": decision.tolerance,
    }


def refuse(decision: dict[str, Any], version_path: str) -> None:
    """Stop the run if the gate did not let a version pass.

    Raises:
        GateRefusedError: With the difference that was too bad.
    """
    logger.info("gate %s", decision["reason"])
    if not decision["passed"]:
        raise GateRefusedError(
            f"the gate {decision['reason']}. The champion stays, and so does what is served. Look at "
            f"{version_path}/{model_versions.METRICS}; [gate].tolerance says how much worse is allowed"
        )


def _unseen_moment(champion: str, challenger: str) -> str | None:
    window = model_versions.read_manifest(challenger)["as_of"][model_versions.TRAIN]
    known_until = model_versions.read_manifest(champion)["as_of"]
    newest_first = (model_versions.ALL, model_versions.TRAIN, model_versions.HISTORY)
    return next((moment for moment in newest_first if known_until[moment] <= window), None)


def _champions_candidates(
    spark: SparkSession, settings: Settings, champion: str, version_path: str, moment: str, challenger: pa.Table
) -> pa.Table | None:
    """The champion's list of each of the challenger's users, labelled alike; None where it knows nobody."""
    import pyarrow as pa
    from pyspark.sql import functions as f

    moments = model_versions.read_manifest(version_path)["as_of"]
    since, until = moments[model_versions.TRAIN], moments[model_versions.ALL]
    wanted = spark.createDataFrame(pa.table([challenger[USER].unique()], names=[USER]))
    users = spark.read.parquet(f"{champion}/users").join(f.broadcast(wanted), on=USER, how="inner")
    events = indexed_events(spark, settings, champion)
    proposed = propose_at(spark, settings, champion, events, users, moment, as_of=since)
    listed = proposed.where(f.col("als_rank") <= max(settings.evaluation.k))
    taken = (
        features.relevant_items(indexed_events(spark, settings, version_path), since, until, settings.interactions)
        .join(spark.read.parquet(f"{version_path}/users"), on=USER_INDEX, how="inner")
        .select(USER, f.explode("relevant").alias(ITEM_INDEX))
        .join(spark.read.parquet(f"{version_path}/items"), on=ITEM_INDEX, how="inner")
        .select(USER, ITEM, f.lit(1).alias(TARGET))
    )
    # Bounded by [candidates].train_users times the longest list, as the challenger's.
    lists = (
        listed.select(USER, ITEM, "als_rank")
        .join(taken, on=[USER, ITEM], how="left")
        .select(USER, ITEM, "als_rank", f.coalesce(TARGET, f.lit(0)).alias(TARGET))
        .toArrow()
    )
    return _completed(lists, challenger) if lists.num_rows else None


def _completed(lists: pa.Table, challenger: pa.Table) -> pa.Table:
    """Put the challenger's popular items behind the champion's lists; counts of users are those of the challenger."""
    import pandas as pd
    import pyarrow as pa

    known = challenger.select([*evaluation.COLUMNS]).to_pandas()
    own = lists.to_pandas()
    of_user = known.drop_duplicates(USER).set_index(USER)
    both = pd.concat([own, known[[USER, ITEM, TARGET]]], ignore_index=True).drop_duplicates([USER, ITEM], keep="first")
    ranks = known.set_index([USER, ITEM])["popular_rank"]
    pairs = pd.MultiIndex.from_frame(both[[USER, ITEM]])
    both["popular_rank"] = ranks.reindex(pairs).to_numpy()
    both["last_rank"] = float("nan")
    for name in ("user_items", RELEVANT):
        both[name] = of_user[name].reindex(both[USER]).to_numpy()
    return pa.Table.from_pandas(both[list(evaluation.COLUMNS)], preserve_index=False)


def _ndcg(table: pa.Table) -> NDArray[Any]:
    lists, _ = evaluation.model_lists(table, _K)
    return metrics.ndcg(lists["als"], _K)
