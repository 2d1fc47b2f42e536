"""Versions of the transformed data, and whether the champion knows the newest one."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from shortlist.errors import ModelVersionError, NothingToDoError, ObjectStorageError
from shortlist.stores import dataset_repository, files, model_versions, transformed_events
from shortlist.stores.objects import open_folder
from shortlist.stores.workspaces import workspace

if TYPE_CHECKING:
    from shortlist.settings import Settings
    from shortlist.stores.objects import Folder

logger = logging.getLogger(__name__)

PROCESSED: Final = "processed"
VIZ: Final = "viz"

# The words by which `check_mismatch` may know it.
MISMATCH: Final = "File counts differ between the dataset commit and master"

_FILES: Final = "files"

_CHECKOUTS: Final = "datasets/checkouts"
_MOST_CHECKOUTS: Final = 2


def load_processed(*, settings: Settings, run_key: str) -> dict[str, Any]:
    """Make the Parquet files of the last transform the newest version of the data set `processed`.

    Args:
        settings: `[transform]`, `[datasets]`.
        run_key: The same for all attempts of a run.

    Returns:
        `commit` of the branch `master` that has them; `files`; `changed`: whether this run made the commit.

    Raises:
        NothingToDoError: If nothing was transformed yet.
        ObjectStorageError: If storage is away or refuses, or the files are not those that the transform made.
        DatasetError: If the repository is away or refuses. Then there is no new version.
    """
    return _load(PROCESSED, settings=settings, run_key=run_key)


def load_viz(*, settings: Settings, run_key: str) -> dict[str, Any]:
    """Make the tables for charts the newest version of the data set `viz`; as `load_processed`."""
    return _load(VIZ, settings=settings, run_key=run_key)


def compare_with_champion(*, settings: Settings) -> dict[str, Any]:
    """Compare the data set that the champion was trained on with the newest one, by the numbers of files.

    Where they differ, the newest one's files are fetched for the training. They stay until two newer ones are there.

    Args:
        settings: `[datasets]`; the champion is the one of the recommender.

    Returns:
        `mismatch`, whether to train; `reason`, one sentence; `dataset_commit`, the newest; `champion_commit` or None;
        `input_path`, the folder to train on, or None where the repository has no data set `processed`.

    Raises:
        NothingToDoError: If there is no version of the data yet.
        DatasetError: If the repository is away or refuses, or its data is not in the storage.
        ObjectStorageError: If the data's storage is away or refuses.
        ModelVersionError: If the pointer to the champion is damaged.
    """
    if dataset_repository.is_missing(settings):
        raise NothingToDoError(
            f"no repository at {dataset_repository.location(settings)}: interactions_transform makes the first version"
        )
    with workspace(settings, "datasets/compare") as work:
        repository = dataset_repository.Repository(settings, work)
        newest = repository.fetch()
        if newest is None:
            raise NothingToDoError(f"no version in {repository.url}: interactions_transform makes the first one")
        known = _champion_commit(settings)
        before = repository.file_counts(known.commit) if known.commit else None
        now = repository.file_counts(newest) or {}
        mismatch = known.commit is None or before != now
        if known.commit is None:
            reason = known.reason
        elif before is None:
            reason = f"the champion's commit {known.commit} is not in {repository.url}"
        elif mismatch:
            reason = f"{MISMATCH}: {_shown(before)} at {known.commit[:12]}, {_shown(now)} at {newest[:12]}"
        else:
            reason = f"the champion {known.name} knows as many files: {_shown(now)}"
        logger.info("%s", reason)
        fetched = _fetch_for_training(repository, newest, settings) if mismatch and PROCESSED in now else None
    return {
        "mismatch": mismatch,
        "reason": reason,
        "dataset_commit": newest,
        "champion_commit": known.commit,
        "input_path": fetched,
    }


def _fetch_for_training(repository: dataset_repository.Repository, commit: str, settings: Settings) -> str:
    """Bring the processed files of a commit to a folder of their own: complete, or not there."""
    folder = Path(settings.paths.jobs, _CHECKOUTS)
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / commit
    if not place.exists():
        fetched = repository.checkout(commit, PROCESSED)
        os.sync()  # a folder of this name is complete, also after a power failure
        fetched.rename(place)
    for old in sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime)[:-_MOST_CHECKOUTS]:
        shutil.rmtree(old)
    logger.info("%s files to train on in %s", f"{len(list(place.iterdir())):,}", place)
    return str(place)


class _Known:
    def __init__(self, name: str, commit: str | None, reason: str = "") -> None:
        self.name, self.commit, self.reason = name, commit, reason


def _champion_commit(settings: Settings) -> _Known:
    folder = settings.paths.model_versions
    champion = model_versions.champion(folder)
    if champion is None:
        return _Known("", None, "there is no champion yet")
    path = f"{folder}/{champion.version}"
    if not files.exists(path):
        return _Known(champion.version, None, f"the champion {champion.version} was removed")
    try:
        commit = model_versions.read_manifest(path).get("dataset_commit")
    except ModelVersionError as error:
        return _Known(champion.version, None, f"the champion is damaged: {error}")
    if not isinstance(commit, str) or not dataset_repository.COMMIT.fullmatch(commit):
        return _Known(champion.version, None, f"the champion {champion.version} names no commit of a data set")
    return _Known(champion.version, commit)


def _shown(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items())) or "none"


def _load(name: str, *, settings: Settings, run_key: str) -> dict[str, Any]:
    source = settings.transform
    seconds = source.timeout_seconds
    processed = open_folder(source.processed, timeout_seconds=seconds)
    state = transformed_events.read_state(processed)
    if state is None or not state.parts():
        raise NothingToDoError(f"nothing was transformed yet: there is no state in {source.processed}")
    if name == PROCESSED:
        folder, wanted = processed, state.parts()
    else:
        folder = open_folder(source.viz, timeout_seconds=seconds)
        wanted = {table: state.tables[table] for table in transformed_events.TABLES if table in state.tables}
    dataset_repository.make_missing(settings)
    # Files that were fetched once are fetched no more.
    with workspace(settings, f"datasets/{name}", keep=(_FILES,)) as work:
        repository = dataset_repository.Repository(settings, work)
        repository.fetch()  # a repository that is away is told before data is fetched
        fetched = _fetch(folder, wanted, work / _FILES)
        version = repository.commit_folder(name, fetched, run_key=run_key)
    logger.info(
        "%s: %s files at %s%s", name, f"{version.files:,}", version.commit, "" if version.changed else ", as before"
    )
    return {"commit": version.commit, "files": version.files, "changed": version.changed}


def _fetch(folder: Folder, wanted: dict[str, str], into: Path) -> dict[str, Path]:
    """Bring the named objects here, and nothing else."""
    into.mkdir(exist_ok=True)
    for path in into.iterdir():
        if path.name not in wanted:
            path.unlink()
    new = into / ".new"
    fetched = {}
    for name, digest in sorted(wanted.items()):
        path = into / name
        fetched[name] = path
        if path.exists() and transformed_events.sha256_of(path) == digest:
            continue
        if not folder.download(name, new) or transformed_events.sha256_of(new) != digest:
            new.unlink(missing_ok=True)
            raise ObjectStorageError(
                f"{folder.location}/{name} is not what the last transform made: if another one is at work, wait for "
                "it and run this again; else run interactions_transform once more"
            )
        new.replace(path)
    return fetched
