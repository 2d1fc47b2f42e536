"""The report of a training, as each step that knows more of it writes it anew."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from shortlist.recommender import diagnostics
from shortlist.stores import drift_records, files, model_versions, report_files
from steps import messages, tracking

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shortlist.settings import PathSettings, Settings

logger = logging.getLogger(__name__)

_TITLES = {tracking.RECOMMENDER: "Training", tracking.RANKER: "Ranker"}
_SHOWN_DECISIONS = 60


@dataclass(frozen=True)
class Report:
    """A report that was written: its title, what it says in one sentence, where its page lies, and a PNG of it."""

    title: str
    headline: str
    page: str
    picture: bytes = field(repr=False)


def leave_report(
    *, settings: Settings, model: str, path: str, timings: str | None = None, outcome: str | None = None
) -> Report | None:
    """Write the report as `write_report` does; one that cannot be drawn is no reason to hold a good model back.

    Returns:
        The report, or None, with one warning, where numbers were such that there is none.
    """
    from jinja2 import TemplateError

    try:
        return write_report(settings=settings, model=model, path=path, timings=timings, outcome=outcome)
    except (ArithmeticError, LookupError, TemplateError, TypeError, ValueError) as error:
        logger.warning("there is no report of %s: %s: %s", path, type(error).__name__, error)
        return None


def write_report(
    *, settings: Settings, model: str, path: str, timings: str | None = None, outcome: str | None = None
) -> Report:
    """Write the report of an evaluated version; what an earlier step or attempt wrote is replaced.

    Args:
        settings: Of the project.
        model: `recommender` or `ranker`.
        path: A complete version with `metrics.json`.
        timings: JSON: `task` and `started` (ISO) of the task that writes, and `done`, a list of `task`, `started` and
            `seconds` of the tasks before it, null for those that have not run. None where nobody measured.
        outcome: One sentence: what became of the version. Left out, what the gate's word means for it.
    """
    from shortlist.reports import training as page_of_training

    manifest = model_versions.read_manifest(path)
    metrics = files.read_json(f"{path}/{model_versions.METRICS}")
    curves = None
    if files.exists(f"{path}/{model_versions.CURVES}"):
        curves = TypeAdapter(diagnostics.Curves).validate_python(files.read_json(f"{path}/{model_versions.CURVES}"))
    passed = "What it recommends had not been handed over when this was written."
    training = page_of_training.Training(
        title=f"{_TITLES[model]} {manifest['version']}",
        model=tracking.HEADLINE[model],
        manifest=manifest,
        metrics=metrics,
        outcome=outcome or (passed if metrics["gate"]["passed"] else "The champion and what is served stay."),
        curves=curves,
        rows=_rows(settings.paths, manifest),
        segments=_segments_of_stage_one(settings.paths, manifest, metrics),
        decisions=drift_records.history(settings.paths.drift, _SHOWN_DECISIONS),
        seconds=_seconds(timings, datetime.now(UTC)),
        confidence=settings.evaluation.confidence,
    )
    picture = page_of_training.picture(training)
    headline = page_of_training.headline(training)
    kind = report_files.KINDS[model]
    page = report_files.write_report(
        settings.paths.reports,
        report_files.name_of(kind, manifest["version"]),
        kind=kind,
        headline=headline,
        page=page_of_training.render(training),
        pictures={"quality.png": picture},
    )
    return Report(title=training.title, headline=headline, page=page, picture=picture)


def tell(report: Report | None) -> None:
    """Send headline and picture of a report to Telegram, if there is one and Telegram is configured."""
    if report is None:
        return
    text = messages.training(title=report.title, headline=report.headline, page=report.page)
    messages.send_message(text, picture=report.picture)


def _rows(paths: PathSettings, manifest: Mapping[str, Any]) -> dict[str, Any] | None:
    """The ETL's report, if it is still of the data that stage one was trained on."""
    fingerprint = manifest["fingerprint"]
    if stage_one := _stage_one(paths, manifest):
        fingerprint = model_versions.read_manifest(stage_one)["fingerprint"]
    if not files.exists(paths.etl_report):
        return None
    report: dict[str, Any] = files.read_json(paths.etl_report)
    return report if report["fingerprint"] == fingerprint else None


def _segments_of_stage_one(
    paths: PathSettings, manifest: Mapping[str, Any], metrics: Mapping[str, Any]
) -> dict[str, Any]:
    """Of a ranker, the segments in which only stage one was evaluated, if that was in the same window."""
    stage_one = _stage_one(paths, manifest)
    if stage_one is None or not files.exists(f"{stage_one}/{model_versions.METRICS}"):
        return {}
    known = files.read_json(f"{stage_one}/{model_versions.METRICS}")
    same = _moment(known["window"]["from"]) == _moment(metrics["window"]["from"])
    segments: dict[str, Any] = known.get("segments", {})
    return segments if same else {}


def _stage_one(paths: PathSettings, manifest: Mapping[str, Any]) -> str | None:
    """Where the version lies that made a ranker's candidates; None of stage one itself, and of foreign candidates."""
    version = manifest.get("model_version")
    path = f"{paths.model_versions}/{version}"
    return path if version and files.exists(f"{path}/{model_versions.MANIFEST}") else None


def _moment(iso: str | None) -> datetime | None:
    if iso is None:
        return None
    moment = datetime.fromisoformat(iso)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _seconds(timings: str | None, now: datetime) -> list[dict[str, Any]]:
    """Task and seconds in the order in which they began, the writing one so far."""
    if timings is None:
        return []
    measured = json.loads(timings)
    done = sorted((step for step in measured["done"] if step), key=lambda step: str(step["started"]))
    so_far = (now - datetime.fromisoformat(measured["started"])).total_seconds()
    return [
        *({"task": step["task"], "seconds": step["seconds"], "running": False} for step in done),
        {"task": measured["task"], "seconds": max(0.0, so_far), "running": True},
    ]
