"""Hand-over steps: files in `postgres_data/` become generations in PostgreSQL that readers see."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from shortlist.errors import NothingToDoError, PublishError
from shortlist.stores import generations, hand_over_files, model_versions
from shortlist.stores.database import database_from_env, ensure_schema
from shortlist.stores.datasets import DATASETS, PERSONAL_RECS
from shortlist.weeks import SCHEDULED, week_of
from steps import tracking

if TYPE_CHECKING:
    from shortlist.settings import Settings
    from shortlist.stores.database import Database
    from shortlist.stores.datasets import Dataset

logger = logging.getLogger(__name__)


def load_reference(*, settings: Settings, datasets: tuple[str, ...], run_key: str, run_after: str) -> None:
    """Load, audit and publish the tables that other audits look things up in, where their files are there.

    Does nothing for a file that is served already, so several DAGs of a week may ask for the same ones.

    Args:
        settings: Of the project.
        datasets: Such as `("items", "user_history")`.
        run_key: The same for all attempts of one run.
        run_after: ISO time of the run; decides its week.

    Raises:
        InputError: If a file is not as documented.
        AuditError: If a file breaks a rule.
    """
    database = _open_database()
    for name in datasets:
        dataset = DATASETS[name]
        try:
            with generations.only_loader(database, dataset):
                file = _find(settings, dataset)
                served = generations.served(database, dataset)
                if served and served.fingerprint == file.fingerprint:
                    logger.info("%s is served already", file.location)
                    continue
                generation_id = _load(database, dataset, file, run_key=run_key, run_after=run_after)
                generations.audit(database, generation_id, publish=settings.publish)
                generations.publish(database, generation_id, keep=settings.publish.keep_generations)
        except NothingToDoError as nothing:
            logger.info("%s", nothing)


def load_file(*, settings: Settings, dataset: str, run_key: str, run_after: str, run_type: str) -> int:
    """Load the file of a data set into a new generation that nobody sees yet.

    Args:
        settings: Of the project.
        dataset: Name of the file and the table.
        run_key: The same for all attempts of one run: a retry replaces what an earlier attempt left unfinished.
        run_after: ISO time of the run; decides its week.
        run_type: Airflow's; a `scheduled` run does not load again what another run of its week has published.

    Returns:
        The number of the generation.

    Raises:
        NothingToDoError: If there is no file, it is served already, or the model that made it was rolled back.
        InputError: If the file is not as documented.
    """
    database = _open_database()
    file = _find(settings, DATASETS[dataset])
    if run_type == SCHEDULED:
        served = generations.served(database, DATASETS[dataset])
        if served and served.week >= week_of(run_after) and served.fingerprint == file.fingerprint:
            if served.run_key != run_key:
                raise NothingToDoError(f"{file.location} is served already, by {served.run_key} of the same week")
    return _load(database, DATASETS[dataset], file, run_key=run_key, run_after=run_after)


def audit_generation(*, settings: Settings, generation_id: int) -> dict[str, Any]:
    """Check a loaded generation against all rules; see `generations.audit`."""
    return generations.audit(database_from_env(), generation_id, publish=settings.publish)


def publish_generation(*, settings: Settings, generation_id: int) -> dict[str, Any]:
    """Let readers see an audited generation; see `generations.publish`. The ranker of it becomes the champion."""
    database = database_from_env()
    result = generations.publish(database, generation_id, keep=settings.publish.keep_generations)
    served = generations.served(database, PERSONAL_RECS)
    if served and served.generation_id == generation_id and "evaluation" in served.metrics:
        ranker = (served.model_version or "").rpartition("+")[2]
        reason = served.metrics["evaluation"]["gate"]["reason"]
        tracking.promote(settings=settings, model=tracking.RANKER, version=ranker, reason=reason)
    return result


def roll_back(*, view: str) -> dict[str, Any]:
    """Let readers of a view see the generation before; see `generations.roll_back`."""
    if view not in DATASETS:
        raise PublishError(f"there is no view {view!r} to roll back: choose one of {', '.join(DATASETS)}")
    return generations.roll_back(_open_database(), DATASETS[view])


def _open_database() -> Database:
    database = database_from_env()
    ensure_schema(database)
    return database


def _find(settings: Settings, dataset: Dataset) -> hand_over_files.HandOverFile:
    file = hand_over_files.find(settings.paths.hand_over, dataset)
    champion = model_versions.champion(settings.paths.model_versions)
    version = file.export.get("model_version")
    if champion and version in champion.rolled_back:
        raise NothingToDoError(f"{file.location} was made by {version}, which was rolled back: train or export anew")
    return file


def _load(
    database: Database, dataset: Dataset, file: hand_over_files.HandOverFile, *, run_key: str, run_after: str
) -> int:
    generation = generations.begin(
        database,
        dataset,
        run_key=run_key,
        week=week_of(run_after),
        fingerprint=file.fingerprint,
        model_version=file.export.get("model_version"),
        metrics={"file": file.location, "export": file.export},
    )
    if generation.status == "loading":
        generations.load(database, generation, file)
    return generation.generation_id
