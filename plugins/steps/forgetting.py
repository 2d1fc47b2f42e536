"""Forgetting step: users whom the service has forgotten are taken out of the files, too."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from shortlist.columns import USER, USER_INDEX
from shortlist.errors import InputError, NoInputError, NothingToDoError, UserFileError
from shortlist.settings import PROJECT_ROOT, FileSettings, StreamingSettings
from shortlist.stores import files, forgotten, hand_over_files, readers, user_files
from shortlist.stores.database import database_from_env, ensure_schema
from shortlist.stores.service_tables import ensure_service_schema
from steps import streaming

if TYPE_CHECKING:
    from collections.abc import Callable

    from shortlist.settings import Settings

logger = logging.getLogger(__name__)

# Published with the project; nobody's own file.
_SAMPLE: Final = PROJECT_ROOT / "sample_data"

# Lies in a hand-over folder while its parts and the number of rows in `_export.json` may differ.
_MARKER: Final = "_forgetting.json"

# Spark's own place for what it has not committed.
_UNCOMMITTED: Final = "_temporary"

# Pairs to be scored in the Netflix format, whatever `[input]` says.
_FUTURE_PAIRS: Final = "future.txt"


def forget_users(*, settings: Settings) -> dict[str, Any]:
    """Take every user whom the service has forgotten out of the files of the project, and once more out of its tables.

    Searched are the input (`[input].path`), `data/raw`, new feedback and its archive, batches, everything `spark_etl`
    wrote, the versions of stage one, studies and hand-over files. All forgotten users are looked for each time: a new
    delivery may bring one back. A file is rewritten without their rows and renamed, so that a killed attempt leaves
    whole files; a run that reads one at that moment fails and is tried again. Fingerprints and counts in reports and
    manifests stay: they tell what was there at that time.

    Args:
        settings: Of the project.

    Returns:
        `users`; `table_rows` that had come back; `files` that were rewritten and `rows` they lost; `left` files that a
        person must look after, and which, with the reason, in `left_files`. Nobody counts as done before `left` is 0.

    Raises:
        NothingToDoError: If nobody is forgotten, or nothing was left of them.
        InputError: If feedback that was processed cannot be taken away.
    """
    database = database_from_env()
    ensure_schema(database)
    ensure_service_schema(database)
    users = forgotten.forgotten_users(database)
    if not users:
        raise NothingToDoError("nobody asked to be forgotten")
    pending = forgotten.forgotten_users(database, files_pending=True)
    table_rows = forgotten.remove_again(database)
    streaming.take_away_processed(settings)
    search = _Search(users)
    # Sources first: a run that copies from one to the other meanwhile copies what is clean.
    _search_input(search, settings)
    for folder in (settings.paths.streaming, settings.paths.streaming_archive):
        _search_feedback(search, folder, settings.streaming)
    for folder in (settings.paths.batches, settings.paths.processed):
        for path in _files_below(folder):
            _search_own(search, path, settings)
    for folder in (settings.paths.model_versions, settings.paths.tuning):
        _search_models(search, folder, settings)
    _search_hand_over(search, settings)
    if not search.left:
        forgotten.mark_files_done(database, users)
        if not search.rows and not table_rows and not pending:
            raise NothingToDoError(f"nothing is left of the {len(users)} forgotten users")
    logger.info("took %d rows of %d forgotten users out of %d files", search.rows, len(users), search.files)
    return {
        "users": len(users),
        "table_rows": table_rows,
        "files": search.files,
        "rows": search.rows,
        "left": len(search.left),
        "left_files": search.left,
    }


@dataclass
class _Search:
    """Whom to look for, and what came of it so far."""

    users: frozenset[str]
    files: int = 0
    rows: int = 0
    left: list[str] = field(default_factory=list)

    def in_file(self, take_out: Callable[..., int], *args: Any, **kwargs: Any) -> int:  # noqa: ANN401
        """Count what `take_out` takes out of one file; where it cannot, a person must."""
        try:
            rows = take_out(*args, **kwargs)
        except (UserFileError, InputError) as error:
            self.leave(str(error))
            return 0
        self.files += bool(rows)
        self.rows += rows
        return rows

    def leave(self, what: str) -> None:
        logger.warning("a person must take forgotten users out: %s", what)
        self.left.append(what)


def _search_input(search: _Search, settings: Settings) -> None:
    columns = (settings.input.columns.user, USER)
    searched = set()
    try:
        for file in readers.list_files(settings.input.path):
            searched.add(os.path.realpath(file.path))
            _search_delivery(search, file.path, settings.input, columns, settings)
    except NoInputError as nothing:
        logger.info("%s", nothing)
    except InputError as error:
        search.leave(str(error))
    others = replace(settings.input, format="auto")
    for path in _files_below(settings.paths.raw):
        if os.path.realpath(path) not in searched:
            _search_delivery(search, path, others, columns, settings)


def _search_delivery(
    search: _Search, path: str, source: FileSettings, columns: tuple[str, ...], settings: Settings
) -> None:
    """A file that a person or another system put somewhere: rewritten only within the project."""
    real = path if "://" in path else os.path.realpath(path)
    if _lies_in(real, str(_SAMPLE)):
        logger.info("%s is public and stays as it is", path)
        return
    kind = "netflix" if path.endswith(f"/{_FUTURE_PAIRS}") else None
    ours = _lies_in(real, str(PROJECT_ROOT)) or _lies_in(real, settings.paths.root)

    def take_out() -> int:
        rows = user_files.take_out(real, search.users, source=source, columns=columns, kind=kind, rewrite=ours)
        if rows and not ours:
            raise UserFileError(f"{path} lies outside the project and holds {rows} rows of forgotten users")
        return rows

    search.in_file(take_out)


def _search_feedback(search: _Search, folder: str, source: StreamingSettings) -> None:
    # A delivery that is left without rows would stop the drift DAG.
    how = {"source": source, "columns": (source.columns.user, USER), "remove_empty": True}
    for path in _files_below(folder):
        search.in_file(user_files.take_out, path, search.users, **how)


def _search_own(search: _Search, path: str, settings: Settings) -> None:
    """A file that the pipeline wrote: `user_id`, or, in a quarantine, the columns that the input has."""
    if path.endswith((".parquet", ".csv")):
        columns = (USER, settings.input.columns.user, settings.streaming.columns.user)
        search.in_file(user_files.take_out, path, search.users, source=FileSettings(), columns=columns)


def _search_models(search: _Search, folder: str, settings: Settings) -> None:
    """Versions and studies: `users` tells which index a user has; the factors have the index alone."""
    paths = [path for path in _files_below(folder) if path.endswith(".parquet")]
    tables: dict[str, list[str]] = {}
    for path in paths:
        version, is_table, _ = path.partition("/users/")
        if is_table:
            tables.setdefault(version, []).append(path)
    kept = set()
    for version, of_users in tables.items():
        before = len(search.left)
        indexes: set[int] = set()
        for path in of_users:
            search.in_file(_add_indexes, indexes, path, search.users)
        for path in paths:
            if indexes and path.startswith(f"{version}/"):
                search.in_file(_take_out_factors, path, indexes)
        # Until its factors are gone, a user stays in the table: the next run must find the index again.
        kept |= set(of_users) if len(search.left) > before else set()
    for path in paths:
        if path not in kept:
            _search_own(search, path, settings)


def _add_indexes(indexes: set[int], path: str, users: frozenset[str]) -> int:
    indexes |= user_files.read_indexes(path, users, USER, USER_INDEX)
    return 0


def _take_out_factors(path: str, indexes: set[int]) -> int:
    if USER in user_files.parquet_columns(path):
        return 0
    return user_files.take_out_indexes(path, indexes, USER_INDEX)


def _search_hand_over(search: _Search, settings: Settings) -> None:
    folders: dict[str, list[str]] = {}
    for path in _files_below(settings.paths.hand_over):
        folders.setdefault(path.rpartition("/")[0], []).append(path)
    for folder, paths in folders.items():
        parts = [path for path in paths if path.endswith(".parquet")]
        counted = files.exists(f"{folder}/{hand_over_files.EXPORT_FILE}")
        if counted:
            search.in_file(_begin_count, search, folder, parts)
        for path in paths:
            _search_own(search, path, settings)
        if counted:
            search.in_file(_end_count, folder, parts)


def _begin_count(search: _Search, folder: str, parts: list[str]) -> int:
    """Note whether the folder is complete, before its first part changes: only then may it be called so afterwards."""
    how: dict[str, Any] = {"source": FileSettings(), "columns": (USER,), "rewrite": False}
    if files.exists(f"{folder}/{_MARKER}") or not any(user_files.take_out(part, search.users, **how) for part in parts):
        return 0
    told = files.read_json(f"{folder}/{hand_over_files.EXPORT_FILE}").get("rows")
    files.write_json(f"{folder}/{_MARKER}", {"complete": told == sum(map(user_files.parquet_rows, parts))})
    return 0


def _end_count(folder: str, parts: list[str]) -> int:
    """Bring the number of rows in `_export.json` up to date, without which the folder could not be loaded."""
    marker, export = f"{folder}/{_MARKER}", f"{folder}/{hand_over_files.EXPORT_FILE}"
    if files.exists(marker):
        if files.read_json(marker)["complete"]:
            rows = sum(map(user_files.parquet_rows, parts))
            files.write_json(export, files.read_json(export) | {"rows": rows})
        files.remove(marker)
    return 0


def _lies_in(path: str, folder: str) -> bool:
    if "://" in path or "://" in folder:
        return path.startswith(f"{folder.rstrip('/')}/")
    return path.startswith(os.path.join(os.path.realpath(folder), ""))


def _files_below(folder: str) -> list[str]:
    """All files with rows in a folder, in the order of their names; hidden ones are no data, or not complete."""
    from pyarrow import fs

    filesystem, path = files.resolve(folder)
    found = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True, recursive=True))
    inside = [file.path[len(path) :].lstrip("/") for file in found if file.type == fs.FileType.File and file.size]
    return [
        f"{folder}/{name}"
        for name in sorted(inside)
        if not any(part.startswith(".") or part == _UNCOMMITTED for part in name.split("/"))
        and name.rpartition("/")[2] != "_SUCCESS"
    ]
