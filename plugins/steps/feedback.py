"""Feedback step: the interactions that the service took become a file of new feedback."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from shortlist.errors import NothingToDoError
from shortlist.stores import feedback_files
from shortlist.stores.database import database_from_env
from shortlist.stores.service_tables import ensure_service_schema

if TYPE_CHECKING:
    from shortlist.settings import Settings

logger = logging.getLogger(__name__)


def export_feedback(*, settings: Settings, batch: str) -> dict[str, Any]:
    """Write the interactions of `service.events` that no file has yet into one file in `data/streaming/`.

    Killed anywhere, the retry neither loses nor repeats a row: it writes the rows that were marked with the batch, and
    only as long as the file has not got its name. What an earlier run never finished is finished first. The drift DAG
    takes the files from there.

    Args:
        settings: `[streaming]` says how the file is read, hence how it is written.
        batch: Name of the file without its ending, the same for all attempts of a run.

    Returns:
        `{"rows": n, "files": [path]}` of all files that have got their names.

    Raises:
        NothingToDoError: If there is no interaction that is not exported yet.
        SettingsError: If files as `[streaming]` wants them cannot hold events.
    """
    feedback_files.check_settings(settings)
    database = database_from_env()
    ensure_service_schema(database)
    with feedback_files.only_exporter(database):
        if feedback_files.is_done(database, batch):
            logger.info("%s was complete already", batch)
            return {"rows": feedback_files.rows_of(database, batch), "files": []}
        feedback_files.mark(database, batch)
        unfinished = feedback_files.unfinished(database)
        if not unfinished:
            raise NothingToDoError("the service took no interaction since the last export: there is no new feedback")
        written = {name: feedback_files.finish(database, name, settings) for name in unfinished}
    logger.info("wrote %s", ", ".join(f"{name} with {rows:,} rows" for name, (_, rows) in written.items()))
    return {"rows": sum(rows for _, rows in written.values()), "files": [path for path, _ in written.values() if path]}
