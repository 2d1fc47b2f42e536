"""Evaluation step: stage one and the baselines on the window that training never saw."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from shortlist.columns import AS_OF, TIME, USER, USER_INDEX
from shortlist.recommender import diagnostics, evaluation, features
from shortlist.stores import files, model_versions
from steps import champion, report, tracking
from steps.stage_one import indexed_events, propose_at

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from shortlist.settings import Settings

logger = logging.getLogger(__name__)


def evaluate_recommender(
    spark: SparkSession, *, settings: Settings, version_path: str, timings: str | None = None
) -> dict[str, Any]:
    """Propose to the users of the test window from what lay before it, and compare with what they took.

    Writes the labelled candidates, `metrics.json`, `curves.json` and plots into the version, and the report; logs all
    to MLflow and tells Telegram, whatever the gate says.

    Args:
        spark: Session owned by the caller; never stopped here.
        settings: Paths, candidates, evaluation.
        version_path: A complete stage-one version.
        timings: JSON, see `report.write_report`.

    Returns:
        The metrics of `evaluation.evaluate` for popular, similar-to-last and ALS, with the window and the `gate`.

    Raises:
        GateRefusedError: If the version is worse than the champion; its metrics are written nevertheless.
    """
    from pyspark.sql import functions as f

    path = labelled_candidates(spark, settings, version_path, moment=model_versions.TRAIN, until=model_versions.ALL)
    labelled = spark.read.parquet(path)
    shown = max(settings.evaluation.k)
    listed = [f.col(rank) <= shown for rank in evaluation.BASELINES.values()]
    # Bounded by [candidates].train_users: it fits on the driver whatever the size of the data.
    table = labelled.where(listed[0] | listed[1] | listed[2]).select(*diagnostics.COLUMNS).toArrow()
    moments = model_versions.read_manifest(version_path)["as_of"]
    n_items = int(model_versions.load_items(version_path, model_versions.TRAIN).available.sum())
    result = {
        "window": {"from": moments[model_versions.TRAIN], "to": moments[model_versions.ALL]},
        **evaluation.evaluate(table, n_items, settings.evaluation),
    }
    if new := evaluate_new_users(spark, settings=settings, version_path=version_path):
        result["segments"]["new"] = new
    result["gate"] = champion.judge(spark, settings, version_path, table)
    files.write_json(f"{version_path}/{model_versions.METRICS}", result)
    lists, _ = evaluation.model_lists(table, shown)
    curves = diagnostics.curves(lists, table, n_items)
    files.write_json(f"{version_path}/{model_versions.CURVES}", asdict(curves))
    tracking.save_plots(version_path, tracking.list_plots(curves))
    written = report.leave_report(settings=settings, model=tracking.RECOMMENDER, path=version_path, timings=timings)
    tracking.log_training(settings=settings, model=tracking.RECOMMENDER, path=version_path)
    ndcg = {name: round(model["ndcg@10"]["mean"], 4) for name, model in result["models"].items()}
    logger.info("stage one on %d held-out users, NDCG@10: %s", result["users"], ndcg)
    report.tell(written)
    champion.refuse(result["gate"], version_path)
    return result


def labelled_candidates(spark: SparkSession, settings: Settings, version_path: str, *, moment: str, until: str) -> str:
    """Write the candidates of a past moment with what the users took from then on, and return the path.

    At most about `[candidates].train_users` users, drawn by the hash of their id.
    """
    from pyspark.sql import functions as f

    path = f"{version_path}/candidates/{moment}"
    moments = model_versions.read_manifest(version_path)["as_of"]
    events = indexed_events(spark, settings, version_path).persist()
    try:
        taken = features.relevant_items(events, moments[moment], moments[until], settings.interactions).persist()
        users = spark.read.parquet(f"{version_path}/users")
        drawn = draw_users(users, taken, settings.candidates.train_users)
        proposed = propose_at(spark, settings, version_path, events, drawn, moment)
        proposed.withColumn(AS_OF, f.lit(moments[moment]).cast("timestamp")).write.mode("overwrite").parquet(path)
        taken.unpersist()
    finally:
        events.unpersist()
    return path


def evaluate_new_users(spark: SparkSession, *, settings: Settings, version_path: str) -> dict[str, Any] | None:
    """Evaluate what users get who came in the test window: the list of popular items.

    Returns:
        A segment as those of `evaluation.evaluate`; None if nobody came.
    """
    import numpy as np
    from pyspark.sql import functions as f

    moments = model_versions.read_manifest(version_path)["as_of"]
    since, until = moments[model_versions.TRAIN], moments[model_versions.ALL]
    events = indexed_events(spark, settings, version_path)
    met = events.where(f.col(TIME) < f.lit(since).cast("timestamp")).select(USER_INDEX).distinct()
    taken = features.relevant_items(events, since, until, settings.interactions)
    new = taken.join(met, on=USER_INDEX, how="left_anti").persist()
    try:
        users = spark.read.parquet(f"{version_path}/users")
        # Bounded by [candidates].train_users, as the others.
        rows = draw_users(users, new, settings.candidates.train_users).select("relevant").toArrow()
    finally:
        new.unpersist()
    known = [items for items in rows["relevant"].to_pylist() if items]
    if not known:
        return None
    items = model_versions.load_items(version_path, model_versions.TRAIN)
    popular = np.lexsort((items.ids.astype(str), -items.popularity))
    shown = popular[items.available[popular]][:10]
    return evaluation.evaluate_new_users(known, shown.tolist(), settings.evaluation)


def draw_users(users: DataFrame, taken: DataFrame, at_most: int) -> DataFrame:
    """Return about `at_most` of the users of a window, drawn by the hash of their id, with what they took."""
    from pyspark.sql import functions as f

    share = at_most / max(1, taken.count())
    labelled = users.join(taken, on=USER_INDEX, how="inner")
    return labelled.where(f.pmod(f.xxhash64(USER), f.lit(1_000_000)) < share * 1_000_000)
