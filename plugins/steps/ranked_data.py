"""Ranking steps: this week's candidates become personal recommendations."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from shortlist.columns import AS_OF, CANDIDATE_FEATURES, ITEM, RELEVANT, SOURCE, TARGET, USER
from shortlist.errors import GateRefusedError, ModelVersionError, NothingToDoError, RankerError
from shortlist.recommender import diagnostics, evaluation, gate, metrics, ranking
from shortlist.reports import plots
from shortlist.stores import files, generations, hand_over_files, model_versions, recommendations
from shortlist.stores.database import database_from_env, ensure_schema
from shortlist.stores.datasets import CANDIDATES_INFERENCE, CANDIDATES_TRAIN, ITEMS, PERSONAL_RECS
from shortlist.weeks import SCHEDULED, week_of
from steps import hand_over, report, tracking

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from shortlist.settings import Settings
    from shortlist.stores.database import Database

logger = logging.getLogger(__name__)

# Where a table has one window only, this share of its users is held out instead.
_HELD_OUT_USERS = 0.2

_FILLED_FROM = "popular"

_CHAMPION = "the champion"


def candidates_ready(*, settings: Settings, run_after: str, run_type: str) -> bool:
    """Whether both candidate tables of the run's week (or a later one) are served.

    Args:
        settings: Of the project.
        run_after: ISO time of the run.
        run_type: Airflow's; a `scheduled` run does not rank again what another run of its week has ranked.

    Raises:
        NothingToDoError: If they never will be, because there is no file to load, or if they are ranked already.
    """
    database = database_from_env()
    ensure_schema(database)
    week = week_of(run_after)
    wanted = (CANDIDATES_TRAIN, CANDIDATES_INFERENCE)
    served = [generations.served(database, dataset) for dataset in wanted]
    current = {generation.dataset: generation for generation in served if generation and generation.week >= week}
    missing = [dataset for dataset in wanted if dataset.name not in current]
    for dataset in missing:
        hand_over_files.find(settings.paths.hand_over, dataset)
    if missing:
        logger.info("waiting for %s of the week %s", " and ".join(dataset.name for dataset in missing), week)
        return False
    ranked = generations.served(database, PERSONAL_RECS)
    if run_type == SCHEDULED and ranked and ranked.week >= week:
        if ranked.generation_id > max(generation.generation_id for generation in current.values()):
            raise NothingToDoError(f"the candidates of the week {week} are ranked already, by {ranked.run_key}")
    return True


def train_ranker(*, settings: Settings, version: str, run_after: str) -> str:
    """Train the ranker on the served `candidates_train`, once without its last window and once on all of it.

    Args:
        settings: Of the project.
        version: Name of the ranker version; an earlier attempt of the same name is replaced.
        run_after: ISO time of the run.

    Returns:
        The path of the complete version.

    Raises:
        RankerError: If the labels teach nothing.
        NothingToDoError: If no candidates are served.
    """
    database = database_from_env()
    generation = generations.served(database, CANDIDATES_TRAIN)
    if generation is None:
        raise NothingToDoError("no candidates_train is served: load_candidates_train publishes it")
    table = _read_labelled(database, generation.generation_id)
    held_out = _held_out(table)
    logger.info("training the ranker on %d candidates", table.num_rows)
    models = {
        model_versions.EVALUATED: ranking.fit(ranking.labelled(table.filter(~held_out)), settings.ranker),
        model_versions.SERVED: ranking.fit(ranking.labelled(table), settings.ranker),
    }
    manifest = {
        "week": week_of(run_after),
        "candidates_train": generation.generation_id,
        "model_version": generation.model_version,
        "window": _held_out_window(table),
        "fingerprint": generation.fingerprint,
        "seed": settings.ranker.seed,
        "parameters": asdict(settings.ranker),
        "features": list(CANDIDATE_FEATURES),
        "trees": {name: model.tree_count_ for name, model in models.items()},
        "importance": ranking.importance(models[model_versions.SERVED]),
    }
    path = model_versions.save_ranker(settings.paths.rankers, version, models, manifest)
    logger.info("ranker complete: %s, trees %s", path, manifest["trees"])
    return path


def evaluate_ranker(*, settings: Settings, ranker_path: str, timings: str | None = None) -> dict[str, Any]:
    """Hold the ranker against baselines and champion on the window (or users) it has not seen; the gate decides.

    Writes `metrics.json`, `curves.json` and plots into the ranker's version, and the report; logs all to MLflow and
    tells Telegram, whatever the gate says. The champion that has seen the window, or was trained on other features, is
    left out of the comparison, and the log says so.

    Args:
        settings: Of the project.
        ranker_path: Of `train_ranker`.
        timings: JSON, see `report.write_report`.

    Returns:
        `evaluation.evaluate`, with `window`, `difference` to each rival, `gate` and feature `importance`.

    Raises:
        ModelVersionError: If the champion is there, but damaged.
    """
    database = database_from_env()
    manifest = model_versions.read_manifest(ranker_path)
    table = _read_labelled(database, manifest["candidates_train"])
    table = table.filter(_held_out(table))
    scores = ranking.predict(
        model_versions.load_ranker(ranker_path, model_versions.EVALUATED),
        ranking.features_of(table),
        tuple(CANDIDATE_FEATURES),
    )
    n_items = _available_items(database, table)
    result = evaluation.evaluate(table, n_items, settings.evaluation, scores)
    lists, _ = evaluation.model_lists(table, max(10, *settings.evaluation.k), scores)
    by_user = {name: metrics.ndcg(of_model, 10) for name, of_model in lists.items()}
    ranker = by_user.pop(evaluation.RANKER)
    rival = _champions_scores(settings, manifest, table)
    if rival is not None:
        by_user[_CHAMPION] = metrics.ndcg(evaluation.model_lists(table, 10, rival)[0][evaluation.RANKER], 10)
    decision = gate.decide(ranker, by_user, settings.gate, settings.evaluation)
    as_of = table[AS_OF][0].as_py()
    result |= {
        "window": {"from": as_of.isoformat() if as_of else None, "to": None},
        "difference": {name: asdict(interval) for name, interval in decision.differences.items()},
        "gate": {"passed": decision.passed, "reason": decision.reason, "tolerance": decision.tolerance},
        "importance": manifest["importance"],
    }
    files.write_json(f"{ranker_path}/{model_versions.METRICS}", result)
    curves = diagnostics.curves(lists, table, n_items)
    drawn = tracking.list_plots(curves) | {"importance": plots.feature_importance(manifest["importance"])}
    if settings.ranker.loss == "Logloss":  # the others order the items of a user and promise no probability
        promised = diagnostics.calibration(scores, table[TARGET].to_numpy())
        curves = replace(curves, calibration=promised)
        drawn["calibration"] = plots.reliability(promised, settings.ranker.negatives)
    files.write_json(f"{ranker_path}/{model_versions.CURVES}", asdict(curves))
    tracking.save_plots(ranker_path, drawn)
    written = report.leave_report(settings=settings, model=tracking.RANKER, path=ranker_path, timings=timings)
    tracking.log_training(settings=settings, model=tracking.RANKER, path=ranker_path)
    ndcg = {name: round(model["ndcg@10"]["mean"], 4) for name, model in result["models"].items()}
    logger.info("ranker on %d held-out users, NDCG@10: %s", result["users"], ndcg)
    report.tell(written)
    return {"users": result["users"], "ndcg@10": ndcg, "gate": result["gate"]}


def check_gate(*, settings: Settings, ranker_path: str) -> dict[str, Any]:
    """Let the ranker pass, or stop the run: what is served stays.

    Raises:
        GateRefusedError: With the difference that was too bad.
    """
    decision: dict[str, Any] = files.read_json(f"{ranker_path}/{model_versions.METRICS}")["gate"]
    logger.info("gate %s", decision["reason"])
    if not decision["passed"]:
        raise GateRefusedError(
            f"the gate {decision['reason']}. What is served stays. Look at {ranker_path}/{model_versions.METRICS}; "
            "[gate].tolerance says how much worse is allowed"
        )
    return decision


def rank_candidates(*, settings: Settings, ranker_path: str, run_key: str, run_after: str) -> int:
    """Rank the served `candidates_inference` and load the best K of each user into a new generation.

    Users with fewer candidates than K get popular items they have not taken. Candidates are streamed, a few thousand
    users at a time.

    Returns:
        The number of the generation of `personal_recs`, not audited yet.

    Raises:
        RankerError: If features of model and candidates differ, or scores are not finite.
        NothingToDoError: If no candidates are served.
    """
    database = database_from_env()
    candidates = generations.served(database, CANDIDATES_INFERENCE)
    if candidates is None:
        raise NothingToDoError("no candidates_inference is served: load_candidates_inference publishes it")
    manifest = model_versions.read_manifest(ranker_path)
    origin = f"{candidates.fingerprint} {manifest['fingerprint']} {manifest['parameters']} {settings.publish}"
    generation = generations.begin(
        database,
        PERSONAL_RECS,
        run_key=run_key,
        week=week_of(run_after),
        fingerprint=hashlib.sha256(origin.encode()).hexdigest(),
        model_version=f"{candidates.model_version or 'foreign'}+{manifest['version']}",
        metrics={"evaluation": files.read_json(f"{ranker_path}/{model_versions.METRICS}")},
    )
    if generation.status != "loading":
        return generation.generation_id
    model = model_versions.load_ranker(ranker_path, model_versions.SERVED)
    rows = generations.read_batches(
        database,
        CANDIDATES_INFERENCE,
        columns=[USER, ITEM, SOURCE, *CANDIDATE_FEATURES],
        order_by=[USER, ITEM],
        generation_id=candidates.generation_id,
    )

    def ranked() -> Iterator[pa.RecordBatch]:
        for table in _whole_users(rows):
            scores = ranking.predict(model, ranking.features_of(table), tuple(CANDIDATE_FEATURES))
            yield _best(database, table, scores, settings.publish.k)

    users = generations.write_batches(database, generation, ranked())
    logger.info("ranked the candidates of %d users", users)
    return generation.generation_id


def publish_ranked(
    *, settings: Settings, generation_id: int, ranker_path: str, timings: str | None = None
) -> dict[str, Any]:
    """Let readers see a ranked generation, as `hand_over.publish_generation` does; the ranker's report says so.

    Args:
        settings: Of the project.
        generation_id: Of `rank_candidates`, audited.
        ranker_path: Of `train_ranker`.
        timings: JSON, see `report.write_report`.
    """
    result = hand_over.publish_generation(settings=settings, generation_id=generation_id)
    outcome = f"It is the champion, and what it ranked is served as generation {generation_id}."
    report.leave_report(settings=settings, model=tracking.RANKER, path=ranker_path, timings=timings, outcome=outcome)
    return result


def _read_labelled(database: Database, generation_id: int) -> pa.Table:
    """All labelled candidates, sorted by window and user. Bounded by [candidates].train_users, not by the data."""
    import pyarrow as pa

    columns = [AS_OF, USER, ITEM, TARGET, RELEVANT, *CANDIDATE_FEATURES]
    batches = generations.read_batches(
        database, CANDIDATES_TRAIN, columns=columns, order_by=[AS_OF, USER, ITEM], generation_id=generation_id
    )
    return pa.Table.from_batches(batches)


def _held_out(table: pa.Table) -> NDArray[np.bool_]:
    """Which rows to evaluate on: the last window, or, where there is only one, some users by the hash of their id."""
    import numpy as np
    import pyarrow.compute as pc

    windows = pc.unique(table[AS_OF])
    if len(windows) > 1:
        return np.asarray(pc.equal(table[AS_OF], pc.max(windows)))
    return evaluation.user_places(table[USER]) < _HELD_OUT_USERS


def _held_out_window(table: pa.Table) -> str | None:
    """ISO time at which the window begins that `_held_out` holds out; None where it holds out users."""
    import pyarrow.compute as pc

    return pc.max(table[AS_OF]).as_py().isoformat() if len(pc.unique(table[AS_OF])) > 1 else None


def _champions_scores(settings: Settings, challenger: dict[str, Any], table: pa.Table) -> NDArray[np.float64] | None:
    """Scores of the champion's model that has not seen what it was evaluated on; None if there is nothing to compare.

    What it was evaluated on begins no later than the challenger's window, or was the same users: it has not seen that
    either.
    """
    folder = settings.paths.rankers
    pointer = model_versions.champion(folder)
    if pointer is None or pointer.version == challenger["version"] or not files.exists(f"{folder}/{pointer.version}"):
        return None
    path = f"{folder}/{pointer.version}"
    known = model_versions.read_manifest(path)
    window, its_window = challenger["window"], known.get("window")
    if (window is None) != (its_window is None) or (window is not None and its_window > window):
        logger.warning("the champion %s is not compared with: it may have seen what is held out", path)
        return None
    try:
        return ranking.predict(
            model_versions.load_ranker(path, model_versions.EVALUATED),
            ranking.features_of(table),
            tuple(CANDIDATE_FEATURES),
        )
    except RankerError as error:
        logger.warning("the champion %s is not compared with: %s", path, error)
        return None
    except ModelVersionError as error:
        raise ModelVersionError(
            f"the champion cannot be compared with: {error}. Or go back to the one before (make rollback MODEL=ranker),"
            " or remove its folder"
        ) from error


def _available_items(database: Database, table: pa.Table) -> int:
    """Size of the catalogue that could be recommended, for the coverage."""
    import pyarrow.compute as pc

    try:
        batches = generations.read_batches(database, ITEMS, columns=["available"])
        return sum(pc.sum(batch["available"]).as_py() or 0 for batch in batches)
    except NothingToDoError:
        return len(pc.unique(table[ITEM]))


def _whole_users(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Cut a stream that is sorted by user so that no user is in two pieces."""
    import pyarrow as pa
    import pyarrow.compute as pc

    rest: pa.Table | None = None
    for batch in batches:
        table = pa.Table.from_batches([batch])
        table = table if rest is None else pa.concat_tables([rest, table])
        if table.num_rows == 0:
            continue
        unfinished = pc.index(table[USER], table[USER][-1]).as_py()
        if unfinished:
            yield table.slice(0, unfinished)
        rest = table.slice(unfinished)
    if rest is not None and rest.num_rows:
        yield rest


def _best(database: Database, table: pa.Table, scores: NDArray[np.float64], k: int) -> pa.RecordBatch:
    """The K best of each user, best first, as arrays."""
    import numpy as np
    import pyarrow as pa

    users, first, number = np.unique(table[USER].to_numpy(), return_index=True, return_inverse=True)
    order = np.lexsort((table[ITEM].to_numpy().astype(str), -scores, number))
    position = np.arange(len(order)) - first[number[order]]
    kept = order[position < k]
    length = np.bincount(number[kept], minlength=len(users))
    items = np.split(table[ITEM].to_numpy()[kept], np.cumsum(length)[:-1])
    sources = np.split(table[SOURCE].to_numpy()[kept], np.cumsum(length)[:-1])
    score = np.split(scores[kept].astype(np.float32), np.cumsum(length)[:-1])
    rows = [list(map(list, row)) for row in zip(items, score, sources, strict=True)]
    for user in np.flatnonzero(length < k):
        _fill(database, str(users[user]), rows[user], k)
    return pa.RecordBatch.from_arrays(
        [
            pa.array(users, pa.string()),
            pa.array([row[0] for row in rows], pa.list_(pa.string())),
            pa.array([row[1] for row in rows], pa.list_(pa.float32())),
            pa.array([row[2] for row in rows], pa.list_(pa.string())),
        ],
        names=[USER, "item_ids", "scores", "sources"],
    )


def _fill(database: Database, user: str, row: list[list[Any]], k: int) -> None:
    """Fill a short list with popular items, below everything that was ranked."""
    items, scores, sources = row
    added = recommendations.popular_items(database, user, without=items, n=k - len(items))
    items += added
    scores += [scores[-1]] * len(added)
    sources += [_FILLED_FROM] * len(added)
