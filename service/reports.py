"""The reports of trainings, weekly runs and drift decisions, as files handed out to browsers."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

from starlette.responses import Response

from service.answers import ReportRow, Reports
from shortlist.stores import files
from shortlist.stores.report_files import list_reports

if TYPE_CHECKING:
    from starlette.requests import Request

_SHOWN: Final = 100
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,200}")
_TYPES: Final = {".html": "text/html; charset=utf-8", ".png": "image/png", ".json": "application/json"}

# A report is a document of its own: it runs nothing, loads nothing and cannot touch the page that links it.
_HEADERS: Final = {"Content-Security-Policy": "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:"}


def newest(folder: str) -> Reports:
    """Return the newest reports. Reads files: call it in a thread."""
    return Reports(
        reports=[
            ReportRow(
                name=one["name"],
                kind=one["kind"],
                time=one["time"],
                headline=one["headline"],
                url=f"/reports/{one['name']}/index.html",
            )
            for one in list_reports(folder, _SHOWN)
        ]
    )


def read(folder: str, request: Request) -> Response | None:
    """Return one file of one report; None if there is no such file, or the name is not that of one."""
    name, file = request.path_params["name"], request.path_params["file"]
    kind = _TYPES.get(PurePosixPath(file).suffix)
    place = f"{folder}/{name}/{file}"
    if kind is None or not _NAME.fullmatch(name) or not _NAME.fullmatch(file) or not files.exists(place):
        return None
    return Response(files.read_bytes(place), media_type=kind, headers=_HEADERS)
