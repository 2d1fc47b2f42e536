from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from shortlist import code_version as module
from shortlist.code_version import code_version

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(module, "CODE_ROOT", tmp_path)
    monkeypatch.delenv("SHORTLIST_VERSION", raising=False)
    (tmp_path / "plugins" / "steps").mkdir(parents=True)
    (tmp_path / "plugins" / "steps" / "train.py").write_text("RANK = 8\n")
    return tmp_path


def test_changed_code_is_another_version_wherever_it_runs(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = code_version()
    assert (before["commit"], len(before["sha256"])) == ("unknown", 64)
    assert code_version() == before
    (project / "plugins" / "steps" / "train.py").write_text("RANK = 9\n")
    monkeypatch.setenv("SHORTLIST_VERSION", "1.2.3")
    after = code_version()
    assert after["commit"] == "1.2.3"
    assert after["sha256"] != before["sha256"]


def test_a_checkout_tells_its_commit(project: Path) -> None:
    def git(*words: str) -> str:
        command = ["git", "-C", str(project), "-c", "user.name=me", "-c", "user.email=me@here", *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "--quiet")
    git("commit", "--quiet", "--allow-empty", "--message", "first")
    assert code_version()["commit"] == git("rev-parse", "HEAD")


def test_a_checkout_around_the_project_is_not_taken_for_it(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subprocess.run(["git", "init", "--quiet", str(project)], check=True)
    monkeypatch.setattr(module, "CODE_ROOT", project / "plugins")
    assert code_version()["commit"] == "unknown"
