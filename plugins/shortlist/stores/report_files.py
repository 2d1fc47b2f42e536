"""The reports that runs leave: `reports/<name>/index.html`, and `report.json` beside it for those who list them."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from shortlist.stores import files

if TYPE_CHECKING:
    from collections.abc import Mapping

PAGE: Final = "index.html"
CARD: Final = "report.json"

TRAINING, RANKER, DRIFT = "training", "ranker", "drift"

# The kind of report that an evaluated version has.
KINDS: Final = {"recommender": TRAINING, "ranker": RANKER}

_MOMENT: Final = re.compile(r"\d{8}T\d{6}$")
_FIELDS: Final = ("name", "kind", "time", "headline")


def name_of(kind: str, version: str) -> str:
    """Return the name of the report of a version.

    Example:
        >>> name_of(RANKER, "version_20261121T211500")
        'ranker_version_20261121T211500'
    """
    return f"{kind}_{version}"


def page_of(folder: str, kind: str, version: str) -> str:
    """Return where the page of a version lies, or will.

    Args:
        folder: Of all reports.
        kind: `TRAINING` or `RANKER`.
        version: Its name.
    """
    return f"{folder}/{name_of(kind, version)}/{PAGE}"


def write_report(
    folder: str, name: str, *, kind: str, headline: str, page: str, pictures: Mapping[str, bytes] | None = None
) -> str:
    """Write the page of a run, its pictures and, last, what lists it. A retry replaces its own.

    Args:
        folder: Of all reports.
        name: Of the run; its time is the moment with which it ends, as `drift_20261121T000000` does, else now.
        kind: `TRAINING`, `RANKER` or `DRIFT`.
        headline: One sentence.
        page: HTML.
        pictures: PNG by file name.

    Returns:
        Where the page lies.
    """
    place = f"{folder}/{name}"
    for file, content in (pictures or {}).items():
        files.write_bytes(f"{place}/{file}", content)
    files.write_bytes(f"{place}/{PAGE}", page.encode())
    files.write_json(f"{place}/{CARD}", {"name": name, "kind": kind, "time": _time(name), "headline": headline})
    return f"{place}/{PAGE}"


def list_reports(folder: str, newest: int) -> list[dict[str, Any]]:
    """Return the newest complete reports, newest first; other folders and damaged ones are left out.

    Args:
        folder: Of all reports; it need not be there.
        newest: How many at most; at least 1.

    Returns:
        `name`, `kind`, `time` (ISO, UTC) and `headline` of each.
    """
    # The newest names are opened first: however many reports there are, few files are read.
    found: list[dict[str, Any]] = []
    for name in sorted(files.names(folder), key=_moment, reverse=True):
        card = _read_card(f"{folder}/{name}/{CARD}", name)
        if card:
            found.append(card)
        if len(found) >= newest:
            break
    return found


def _read_card(location: str, name: str) -> dict[str, Any] | None:
    try:
        card = files.read_json(location)
    except (OSError, ValueError):
        return None
    if not isinstance(card, dict) or card.get("name") != name or not all(isinstance(card.get(f), str) for f in _FIELDS):
        return None
    return {field: card[field] for field in _FIELDS}


def _moment(name: str) -> str:
    found = _MOMENT.search(name)
    return found[0] if found else ""


def _time(name: str) -> str:
    try:
        time = datetime.strptime(_moment(name), "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
    except ValueError:  # a name that tells no time
        time = datetime.now(UTC)
    return time.isoformat(timespec="seconds")
