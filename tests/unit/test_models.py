"""Which versions there are, who is champion and why, and the way back: from files alone."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from compose import models as command
from shortlist.errors import ModelVersionError, PublishError
from shortlist.settings import PROJECT_ROOT, PathSettings, Settings
from shortlist.stores import model_versions
from steps import tracking
from steps.models import list_models, render_models, roll_back_model
from steps.rollback import roll_back

NDCG = {"mean": 0.1234, "low": 0.1, "high": 0.15}
FIRST, SECOND, THIRD = (f"version_202601{day:02}T060000" for day in (1, 8, 15))


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Three rankers: the champion, the one before it, and one that the gate refused. No MLflow."""
    monkeypatch.setenv("DATA_ROOT", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    settings = Settings(paths=PathSettings(root=str(tmp_path)))
    folder = settings.paths.rankers
    for version in (FIRST, SECOND, THIRD):
        model_versions.begin(folder, version)
        path = model_versions.complete(folder, version, {})
        gate = {"passed": version != THIRD}
        Path(path, "metrics.json").write_text(json.dumps({"models": {"ranker": {"ndcg@10": NDCG}}, "gate": gate}))
    model_versions.promote(folder, FIRST, "the first one")
    model_versions.promote(folder, SECOND, "passed: +0.0100 against popular")
    model_versions.begin(settings.paths.model_versions, FIRST)
    model_versions.complete(settings.paths.model_versions, FIRST, {})
    return settings


def shown(settings: Settings) -> list[str]:
    screen = io.StringIO()
    Console(file=screen, width=80).print(render_models(list_models(settings=settings)))
    return [" ".join(line.split()) for line in screen.getvalue().splitlines()]


def test_every_version_is_listed_newest_first_with_the_champion_and_the_reason(settings: Settings) -> None:
    lines = shown(settings)
    start = lines.index("ranker")
    assert lines[start + 1 : start + 5] == [
        "version trained (UTC) NDCG@10",
        f"{THIRD} 2026-01-15 06:00 0.123 [0.100, 0.150] gate refused",
        f"{SECOND} 2026-01-08 06:00 0.123 [0.100, 0.150] champion",
        f"{FIRST} 2026-01-01 06:00 0.123 [0.100, 0.150] earlier",
    ]
    assert " ".join(lines[start + 5 :]).strip().startswith(f"{SECOND} is the champion since 20")
    assert " ".join(lines[start + 5 :]).strip().endswith("+00:00: passed: +0.0100 against popular")


def test_a_version_without_evaluation_and_a_model_without_champion_are_told(settings: Settings) -> None:
    lines = shown(settings)
    assert lines[lines.index("recommender") + 2 :][:2] == [
        f"{FIRST} 2026-01-01 06:00 not evaluated",
        "there is no champion yet",
    ]


def test_without_any_version_it_says_so(tmp_path: Path) -> None:
    assert shown(Settings(paths=PathSettings(root=str(tmp_path)))) == [
        "recommender", "version trained (UTC) NDCG@10", "there is no recommender yet", "",
        "ranker", "version trained (UTC) NDCG@10", "there is no ranker yet", "",
    ]  # fmt: skip


def test_a_rolled_back_version_is_no_champion_any_more(settings: Settings) -> None:
    champion = roll_back_model(settings=settings, model="ranker")
    assert (champion.version, champion.reason) == (FIRST, f"rolled back from {SECOND}")
    roles = [version["role"] for version in list_models(settings=settings)["ranker"]["versions"]]
    assert roles == ["", "rolled back", "champion"]


def test_a_model_goes_back_to_the_version_that_is_asked_for(settings: Settings) -> None:
    model_versions.promote(settings.paths.rankers, THIRD, "tolerated")
    assert roll_back_model(settings=settings, model="ranker", to=FIRST).version == FIRST


@pytest.mark.parametrize(("view", "model"), [("", ""), ("personal_recs", "ranker")])
def test_exactly_one_thing_goes_back(settings: Settings, view: str, model: str) -> None:
    with pytest.raises(PublishError, match=r"roll back which\? Either a table, VIEW=personal_recs, or a model, MODEL="):
        roll_back(view=view, model=model)


def test_what_is_no_model_and_what_has_no_past_is_told(settings: Settings) -> None:
    with pytest.raises(ModelVersionError, match="there is no model 'als' to roll back: choose recommender or ranker"):
        roll_back(view="", model="als")
    with pytest.raises(ModelVersionError, match="there is nothing to roll back"):
        roll_back(view="", model="recommender")


def test_the_command_of_the_stack_lists_and_goes_back(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["list"]) == 0
    assert f"{SECOND} is the champion" in " ".join(capsys.readouterr().out.split())
    assert command.main(["rollback", "--model", "ranker"]) == 0
    assert capsys.readouterr().out == (
        f"{FIRST} is the champion ranker again: rolled back from {SECOND}. The tables that are served stay.\n"
    )
    assert command.main(["rollback"]) == 1
    assert capsys.readouterr().err.startswith("roll back which?")


def test_listing_needs_neither_mlflow_nor_airflow_nor_spark(settings: Settings) -> None:
    script = (
        "import sys; from compose import models; models.main(['list'])\n"
        "print(sorted({name.split('.')[0] for name in sys.modules} & {'mlflow', 'airflow', 'pyspark', 'pandas'}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=PROJECT_ROOT,
        env={"PYTHONPATH": f"{PROJECT_ROOT}/plugins", "DATA_ROOT": settings.paths.root},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_names_of_the_models_are_those_of_their_folders(settings: Settings) -> None:
    assert tracking.folder_of(settings.paths, "recommender") == settings.paths.model_versions
    assert tracking.folder_of(settings.paths, "ranker") == settings.paths.rankers
