"""What goes to MLflow: each evaluated version, and who is champion. Without MLflow the pipeline goes on unchanged."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

from shortlist.errors import TrackingError
from shortlist.redaction import redact
from shortlist.reports import plots
from shortlist.stores import files, model_versions, report_files, tracking

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from shortlist.recommender import diagnostics
    from shortlist.settings import PathSettings, Settings

logger = logging.getLogger(__name__)

RECOMMENDER, RANKER = "recommender", "ranker"

# The model whose metrics speak for a version.
HEADLINE = {RECOMMENDER: "als", RANKER: "ranker"}

_PLOTS = "plots"


def folder_of(paths: PathSettings, model: str) -> str:
    """Return the folder of the versions of `recommender` or `ranker`."""
    return {RECOMMENDER: paths.model_versions, RANKER: paths.rankers}[model]


def list_plots(curves: diagnostics.Curves) -> dict[str, bytes]:
    """Draw what the lists of each model are like.

    Returns:
        PNG by name; without the popularity where no candidate says how often it had been taken.
    """
    drawn = {"precision_recall": plots.precision_recall(curves.precision_recall)}
    if curves.popularity:
        drawn["popularity"] = plots.item_popularity(curves.popularity)
    return drawn


def save_plots(path: str, drawn: Mapping[str, bytes]) -> None:
    """Write plots, PNG by name, into a version."""
    for name, image in drawn.items():
        files.write_bytes(f"{path}/{_PLOTS}/{name}.png", image)


def log_training(*, settings: Settings, model: str, path: str) -> None:
    """Log an evaluated version to MLflow and register it as the challenger; one warning when MLflow is away.

    Args:
        settings: Of the project.
        model: `recommender` or `ranker`.
        path: A complete version with `metrics.json` and plots. The report of it is logged, too, if it is there.
    """
    uri = tracking.tracking_uri(settings.paths)
    if uri is None:
        logger.info("%s is not logged: MLFLOW_TRACKING_URI is not set, and DATA_ROOT is no local folder", path)
        return
    try:
        tracking.log_training(uri, _training(settings.paths, model, path))
    except TrackingError as error:
        logger.warning("%s is not logged: %s", path, redact(str(error)))
        return
    logger.info("logged %s to MLflow at %s", path, redact(uri))
    champion = model_versions.champion(folder_of(settings.paths, model))
    if champion and path.endswith(f"/{champion.version}"):  # evaluated again, and so logged anew
        follow_champion(settings=settings, model=model)


def promote(*, settings: Settings, model: str, version: str, reason: str) -> None:
    """Make a version the champion: the pointer file, and MLflow's alias after it.

    Args:
        settings: Of the project.
        model: `recommender` or `ranker`.
        version: Name of a complete version.
        reason: Why, one sentence.
    """
    model_versions.promote(folder_of(settings.paths, model), version, reason)
    follow_champion(settings=settings, model=model)


def follow_champion(*, settings: Settings, model: str, seconds: int = 3) -> bool:
    """Let MLflow's alias `champion` follow the pointer file; one warning when MLflow is away.

    Args:
        settings: Of the project.
        model: `recommender` or `ranker`.
        seconds: Patience with a silent server.

    Returns:
        Whether the alias names the champion now.
    """
    uri = tracking.tracking_uri(settings.paths)
    pointer = model_versions.champion(folder_of(settings.paths, model))
    if uri is None or pointer is None:
        return False
    try:
        tracking.set_champion(
            uri,
            model=_registered_name(model),
            version=pointer.version,
            since=pointer.since,
            reason=pointer.reason,
            seconds=seconds,
        )
    except TrackingError as error:
        logger.warning("MLflow does not know that %s is the champion: %s", pointer.version, redact(str(error)))
        return False
    return True


def flat_metrics(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a `metrics.json` under names that MLflow takes; intervals as `.low` and `.high`.

    Example:
        >>> als = {"ndcg@10": {"mean": 0.2, "low": 0.1, "high": 0.3}}
        >>> flat_metrics({"users": 7, "models": {"als": als}})
        {'users': 7.0, 'ndcg_10/als': 0.2, 'ndcg_10/als.low': 0.1, 'ndcg_10/als.high': 0.3}
    """
    flat = {"users": float(metrics["users"])}
    flat |= _by_model(metrics["models"], "")
    for segment, part in metrics.get("segments", {}).items():
        flat[f"users.{segment}"] = float(part["users"])
        flat |= _by_model(part["models"], f".{segment}")
    for rival, interval in metrics.get("difference", {}).items():
        flat |= _interval(f"ndcg_10.difference/{rival}", interval)
    if gate := metrics.get("gate"):
        flat["gate.passed"] = float(gate["passed"])
        flat |= _interval("ndcg_10.difference/champion", gate.get("difference", {}))
    return flat


def _by_model(models: Mapping[str, Any], suffix: str) -> dict[str, float]:
    return {
        name: value
        for model, values in models.items()
        for metric, interval in values.items()
        for name, value in _interval(f"{metric.replace('@', '_')}{suffix}/{model}", interval).items()
    }


def _interval(name: str, interval: Mapping[str, float]) -> dict[str, float]:
    return {name if bound == "mean" else f"{name}.{bound}": value for bound, value in interval.items()}


def _training(paths: PathSettings, model: str, path: str) -> tracking.Training:
    manifest = model_versions.read_manifest(path)
    metrics = files.read_json(f"{path}/{model_versions.METRICS}")
    names = [model_versions.MANIFEST, model_versions.METRICS]
    names += [f"{_PLOTS}/{name}" for name in files.names(f"{path}/{_PLOTS}")]
    contents = {name: files.read_bytes(f"{path}/{name}") for name in names}
    page = report_files.page_of(paths.reports, report_files.KINDS[model], manifest["version"])
    if files.exists(page):
        contents["report/index.html"] = files.read_bytes(page)
    code = manifest.get("code", {})
    return tracking.Training(
        model=_registered_name(model),
        version=manifest["version"],
        parameters=dict(_flat("", manifest["parameters"])),
        metrics=flat_metrics(metrics),
        tags={
            "data_fingerprint": str(manifest["fingerprint"]),
            "code_commit": code.get("commit", ""),
            "code_sha256": code.get("sha256", ""),
            "window_from": str(metrics["window"]["from"]),
            "window_to": str(metrics["window"]["to"]),
        },
        summary=_summary(metrics, HEADLINE[model]),
        files=contents,
        location=path,
        features=tuple(manifest.get("features", ())),
        ranker=files.read_bytes(f"{path}/{model_versions.SERVED}.cbm") if model == RANKER else None,
    )


def _registered_name(model: str) -> str:
    return f"shortlist-{model}"


def _summary(metrics: Mapping[str, Any], model: str) -> str:
    ndcg = metrics["models"][model]["ndcg@10"]
    text = f"NDCG@10 {ndcg['mean']:.4f} [{ndcg['low']:.4f}, {ndcg['high']:.4f}] on {metrics['users']} held-out users"
    return f"{text}; gate {metrics['gate']['reason']}" if "gate" in metrics else text


def _flat(prefix: str, values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(f"{prefix}{name}.", value)
        else:
            yield f"{prefix}{name}", value if isinstance(value, str) else json.dumps(value)
