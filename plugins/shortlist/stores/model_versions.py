"""Folders of trained models, `version_<UTC timestamp>`: written under a temporary name, renamed when complete."""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from shortlist.code_version import code_version
from shortlist.columns import AVAILABLE, CATEGORY, FACTORS, ITEM, ITEM_INDEX, SCORE, SIMILAR_INDEX
from shortlist.errors import ModelVersionError
from shortlist.recommender import als
from shortlist.recommender.candidates import ITEM_FEATURES, ItemState, category_matrix
from shortlist.stores import files

if TYPE_CHECKING:
    import pyarrow as pa
    from catboost import CatBoost

MANIFEST = "manifest.json"
METRICS = "metrics.json"
CURVES = "curves.json"
CHAMPION = "champion.json"

# The moments stage one is trained for: before the target window, before the test window, after everything.
HISTORY, TRAIN, ALL = "history", "train", "all"

# Two rankers a version: one has not seen the window it is evaluated on, the other has seen everything and is served.
EVALUATED, SERVED = "evaluated", "served"

_LIBRARIES = ("apache-airflow", "catboost", "numpy", "pandas", "pyarrow", "pyspark", "scipy")


@dataclass(frozen=True)
class Champion:
    """Which version of a folder is in use, and why.

    Attributes:
        version: Its name, `version_…`.
        since: ISO time, UTC.
        reason: One sentence.
        previous: Names of earlier champions, newest first.
        rolled_back: Names of versions that a person has taken out of use; nothing they made is loaded any more.
    """

    version: str
    since: str
    reason: str
    previous: tuple[str, ...] = ()
    rolled_back: tuple[str, ...] = ()


def champion(folder: str) -> Champion | None:
    """Return the champion of a folder of versions, or None when there never was one.

    Raises:
        ModelVersionError: If the pointer is damaged.
    """
    try:
        return TypeAdapter(Champion).validate_python(files.read_json(f"{folder}/{CHAMPION}"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ModelVersionError(
            f"{folder}/{CHAMPION} is no pointer to a champion ({error}): remove it, the next training sets it again"
        ) from None


def promote(folder: str, version: str, reason: str) -> None:
    """Make a version the champion; the pointer is replaced as a whole. Does nothing if it is the champion already."""
    before = champion(folder)
    if before and before.version == version:
        return
    previous = (before.version, *before.previous) if before else ()
    _point(folder, version, reason, previous, before.rolled_back if before else ())


def roll_back(folder: str, to: str | None = None) -> Champion:
    """Make an earlier version the champion again.

    Args:
        folder: Of versions.
        to: Its name; left out, the champion before this one.

    Raises:
        ModelVersionError: If there is no such version, or it is not complete.
    """
    now = champion(folder)
    if now is None:
        raise ModelVersionError(f"no champion in {folder}: there is nothing to roll back")
    candidates = [name for name in now.previous if files.exists(f"{folder}/{name}/{MANIFEST}")]
    chosen = to or next(iter(candidates), None)
    if chosen is None or chosen not in candidates:
        raise ModelVersionError(
            f"{to or 'an earlier champion'} cannot be the champion of {folder} again: complete and once champion are "
            f"{', '.join(candidates) or 'none'}"
        )
    rest = tuple(name for name in now.previous if name != chosen)
    return _point(folder, chosen, f"rolled back from {now.version}", rest, (now.version, *now.rolled_back))


def _point(folder: str, version: str, reason: str, previous: tuple[str, ...], rolled_back: tuple[str, ...]) -> Champion:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    taken_out = tuple(name for name in rolled_back if name != version)
    pointer = Champion(version, since, reason, previous, taken_out)
    files.write_json(f"{folder}/{CHAMPION}", asdict(pointer))
    return pointer


def begin(folder: str, name: str) -> str:
    """Return the temporary path of a new version, empty. A version that was begun and not completed is thrown away."""
    path = f"{folder}/_{name}"
    files.remove(path)
    return path


def complete(folder: str, name: str, manifest: dict[str, Any]) -> str:
    """Write the manifest and give the version its name. An older attempt of the same name is replaced.

    Returns:
        The path of the version.
    """
    libraries = {}
    for library in _LIBRARIES:
        try:
            libraries[library] = version(library)
        except PackageNotFoundError:
            continue
    path = f"{folder}/_{name}"
    files.write_json(
        f"{path}/{MANIFEST}", {"version": name, **manifest, "code": code_version(), "libraries": libraries}
    )
    files.replace(path, f"{folder}/{name}")
    return f"{folder}/{name}"


def find_latest(folder: str) -> str:
    """Return the path of the newest complete version.

    Raises:
        ModelVersionError: If there is none.
    """
    complete_ = find_all(folder)
    if not complete_:
        raise ModelVersionError(f"no complete model version in {folder}: run etl_train_test_pipeline first")
    return f"{folder}/{complete_[-1]}"


def find_all(folder: str) -> list[str]:
    """Return the names of all complete versions, oldest first."""
    named = (name for name in files.names(folder) if name.startswith("version_"))
    return [name for name in named if files.exists(f"{folder}/{name}/{MANIFEST}")]


def read_manifest(path: str) -> dict[str, Any]:
    """Read the manifest of a version.

    Raises:
        ModelVersionError: If the folder is no complete version.
    """
    try:
        manifest = files.read_json(f"{path}/{MANIFEST}")
    except (FileNotFoundError, ValueError) as error:
        raise ModelVersionError(f"{path} is no complete model version ({error}): train again") from None
    if not isinstance(manifest, dict) or "version" not in manifest:
        raise ModelVersionError(f"{path}/{MANIFEST} is not a manifest of this project: train again")
    return manifest


def check_parts(path: str) -> None:
    """Make sure that nothing of a stage-one version was removed.

    Raises:
        ModelVersionError: Naming what is missing.
    """
    read_manifest(path)
    learned = ("user_factors", "item_factors", "similar", "item_features")
    parts = ["users", "items", *(f"{moment}/{part}" for moment in (HISTORY, TRAIN, ALL) for part in learned)]
    missing = [part for part in parts if not files.exists(f"{path}/{part}")]
    if missing:
        raise ModelVersionError(
            f"{path} is damaged, it lacks {', '.join(missing)}: go back to the champion before it (make rollback "
            "MODEL=recommender), or run etl_train_test_pipeline"
        )


@functools.lru_cache(maxsize=2)
def load_items(path: str, moment: str) -> ItemState:
    """Load what stage one knew of the items at one moment. Kept in memory, for the next task of the same worker.

    Args:
        path: A complete version.
        moment: `HISTORY`, `TRAIN` or `ALL`.

    Raises:
        ModelVersionError: If a part is missing, or factors are not finite.
    """
    import numpy as np
    from scipy.sparse import csr_array

    items = _read(f"{path}/items", [ITEM, ITEM_INDEX, CATEGORY]).sort_by(ITEM_INDEX)
    n_items = items.num_rows
    learned = _read(f"{path}/{moment}/item_factors", [ITEM_INDEX, FACTORS])
    if learned.num_rows == 0:
        raise ModelVersionError(f"{path}/{moment}/item_factors is empty: train again")
    factors = als.as_matrix(learned, n_items)
    if not np.isfinite(factors).all():
        raise ModelVersionError(f"{path}/{moment}/item_factors holds NaN or Inf: train again with more regularization")

    near = _read(f"{path}/{moment}/similar", [ITEM_INDEX, SIMILAR_INDEX, SCORE])
    cells = (near[ITEM_INDEX].to_numpy(), near[SIMILAR_INDEX].to_numpy())
    known = _read(f"{path}/{moment}/item_features", [ITEM_INDEX, SCORE, AVAILABLE, *ITEM_FEATURES]).sort_by(ITEM_INDEX)
    return ItemState(
        ids=items[ITEM].to_numpy(),
        factors=factors,
        similar=csr_array((near[SCORE].to_numpy(), cells), shape=(n_items, n_items)),
        popularity=known[SCORE].to_numpy(),
        available=known[AVAILABLE].to_numpy(),
        features=np.column_stack([known[name].to_numpy() for name in ITEM_FEATURES]).astype(np.float32),
        categories=category_matrix(items[CATEGORY].to_pylist())[0],
    )


def save_ranker(folder: str, name: str, models: dict[str, CatBoost], manifest: dict[str, Any]) -> str:
    """Save the rankers of one training, each as `<key>.cbm`, as one version. Returns its path."""
    path = begin(folder, name)
    for key, model in models.items():
        files.write_bytes(f"{path}/{key}.cbm", model._serialize_model())
    return complete(folder, name, manifest)


def load_ranker(path: str, key: str) -> CatBoost:
    """Load one ranker of a version.

    Raises:
        ModelVersionError: If the file is missing or is not a CatBoost model.
    """
    from catboost import CatBoost, CatBoostError

    filesystem, file = files.resolve(f"{path}/{key}.cbm")
    try:
        with filesystem.open_input_stream(file) as stream:
            return CatBoost().load_model(blob=stream.read())
    except (FileNotFoundError, CatBoostError) as error:
        raise ModelVersionError(f"{path}/{key}.cbm is no ranker ({error}): train it again") from None


def _read(path: str, columns: list[str]) -> pa.Table:
    import pyarrow as pa
    import pyarrow.dataset as ds

    filesystem, folder = files.resolve(path)
    try:
        return ds.dataset(folder, filesystem=filesystem, format="parquet").to_table(columns=columns)
    except (FileNotFoundError, pa.ArrowInvalid, KeyError) as error:
        raise ModelVersionError(f"{path} is missing or damaged ({error}): train again") from None
