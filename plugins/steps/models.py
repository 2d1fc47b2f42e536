"""Model versions for people: which there are, who is champion and why, and the way back. From files alone."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from shortlist.errors import ModelVersionError
from shortlist.stores import files, model_versions
from steps import tracking

if TYPE_CHECKING:
    from rich.console import RenderableType

    from shortlist.settings import Settings

MODELS = (tracking.RECOMMENDER, tracking.RANKER)


def list_models(*, settings: Settings) -> dict[str, dict[str, Any]]:
    """Read all versions of both models and their champions.

    Returns:
        By model: `champion` (or `None`) and `versions`, newest first: `version`, `trained` (ISO, UTC), `ndcg@10` with
        its interval and `gate` (`passed`, `refused`), each `None` where there is none, and `role` (`champion`,
        `rolled back`, `earlier` or "").

    Raises:
        ModelVersionError: If a pointer is damaged.
    """
    listed = {}
    for model in MODELS:
        folder = tracking.folder_of(settings.paths, model)
        champion = model_versions.champion(folder)
        names = reversed(model_versions.find_all(folder))
        listed[model] = {
            "champion": champion,
            "versions": [_facts(model, f"{folder}/{name}") | {"role": _role(name, champion)} for name in names],
        }
    return listed


def roll_back_model(*, settings: Settings, model: str, to: str | None = None) -> model_versions.Champion:
    """Make the champion before this one the champion again; MLflow's alias follows.

    Args:
        settings: Of the project.
        model: `recommender` or `ranker`.
        to: Name of an earlier champion; left out, the one before.

    Returns:
        The champion now. The tables that are served stay as they are.

    Raises:
        ModelVersionError: If there is no such model, or none to go back to.
    """
    if model not in MODELS:
        raise ModelVersionError(f"there is no model {model!r} to roll back: choose {' or '.join(MODELS)}")
    champion = model_versions.roll_back(tracking.folder_of(settings.paths, model), to)
    tracking.follow_champion(settings=settings, model=model)
    return champion


def render_models(listed: dict[str, dict[str, Any]]) -> RenderableType:
    """Return what `list_models` found as tables for a terminal."""
    parts: list[RenderableType] = []
    for model, found in listed.items():
        table = Table(title=model, title_justify="left", title_style="bold", box=None, pad_edge=False)
        table.add_column("version", no_wrap=True)
        for column in ("trained (UTC)", "NDCG@10", ""):
            table.add_column(column)
        for version in found["versions"]:
            table.add_row(
                version["version"],
                version["trained"],
                _interval(version["ndcg@10"]),
                version["role"] or ("gate refused" if version["gate"] == "refused" else ""),
                style="bold green" if version["role"] == "champion" else None,
            )
        parts += [table, _champion_line(model, found), Text("")]
    return Group(*parts)


def _facts(model: str, path: str) -> dict[str, Any]:
    name = path.rsplit("/", 1)[-1]
    facts: dict[str, Any] = {"version": name, "trained": _trained(name), "ndcg@10": None, "gate": None}
    if files.exists(f"{path}/{model_versions.METRICS}"):
        metrics = files.read_json(f"{path}/{model_versions.METRICS}")
        facts["ndcg@10"] = metrics["models"][tracking.HEADLINE[model]]["ndcg@10"]
        if "gate" in metrics:
            facts["gate"] = "passed" if metrics["gate"]["passed"] else "refused"
    return facts


def _role(name: str, champion: model_versions.Champion | None) -> str:
    if champion is None:
        return ""
    if name == champion.version:
        return "champion"
    if name in champion.rolled_back:
        return "rolled back"
    return "earlier" if name in champion.previous else ""


def _trained(name: str) -> str:
    try:
        return datetime.strptime(name, "version_%Y%m%dT%H%M%S").isoformat(" ", "minutes")  # noqa: DTZ007 - UTC by its name
    except ValueError:
        return ""


def _interval(ndcg: dict[str, float] | None) -> str:
    return f"{ndcg['mean']:.3f} [{ndcg['low']:.3f}, {ndcg['high']:.3f}]" if ndcg else "not evaluated"


def _champion_line(model: str, found: dict[str, Any]) -> Text:
    champion = found["champion"]
    if champion:
        return Text(f"{champion.version} is the champion since {champion.since}: {champion.reason}")
    return Text("there is no champion yet" if found["versions"] else f"there is no {model} yet")
