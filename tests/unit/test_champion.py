"""The pointer to the champion: moved as a whole, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from shortlist.errors import ModelVersionError
from shortlist.stores import files, model_versions

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """Three complete versions and one that is not."""
    for name in ("version_1", "version_2", "version_3"):
        files.write_json(f"{tmp_path}/{name}/manifest.json", {"version": name})
    (tmp_path / "version_4").mkdir()
    return str(tmp_path)


def test_before_the_first_promotion_there_is_no_champion(folder: str) -> None:
    assert model_versions.champion(folder) is None
    with pytest.raises(ModelVersionError, match="nothing to roll back"):
        model_versions.roll_back(folder)


def test_a_promotion_remembers_who_was_there_before_and_why(folder: str) -> None:
    model_versions.promote(folder, "version_1", "first")
    model_versions.promote(folder, "version_2", "better")
    model_versions.promote(folder, "version_2", "a retry of the same run")

    champion = model_versions.champion(folder)

    assert champion is not None
    assert (champion.version, champion.reason, champion.previous) == ("version_2", "better", ("version_1",))


def test_a_roll_back_takes_the_one_before_and_names_what_was_taken_out(folder: str) -> None:
    for name in ("version_1", "version_2", "version_3"):
        model_versions.promote(folder, name, "better")

    first = model_versions.roll_back(folder)
    second = model_versions.roll_back(folder)

    assert (first.version, first.previous, first.rolled_back) == ("version_2", ("version_1",), ("version_3",))
    assert (second.version, second.rolled_back) == ("version_1", ("version_2", "version_3"))
    assert second.reason == "rolled back from version_2"
    assert model_versions.champion(folder) == second
    with pytest.raises(ModelVersionError, match="complete and once champion are none"):
        model_versions.roll_back(folder)


def test_a_version_that_is_promoted_again_is_no_longer_taken_out(folder: str) -> None:
    model_versions.promote(folder, "version_1", "first")
    model_versions.promote(folder, "version_2", "better")
    model_versions.roll_back(folder)
    model_versions.promote(folder, "version_2", "better after all")
    champion = model_versions.champion(folder)
    assert champion is not None
    assert champion.rolled_back == ()


@pytest.mark.parametrize("version", ["version_4", "version_9", "../version_1"])
def test_only_a_complete_former_champion_can_come_back(folder: str, version: str) -> None:
    model_versions.promote(folder, "version_1", "first")
    model_versions.promote(folder, "version_4", "half")
    model_versions.promote(folder, "version_2", "better")
    with pytest.raises(ModelVersionError, match="complete and once champion are version_1"):
        model_versions.roll_back(folder, version)
    assert model_versions.roll_back(folder, "version_1").version == "version_1"


@pytest.mark.parametrize("content", ["", "[]", '{"version": 1}'])
def test_a_damaged_pointer_is_a_named_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "champion.json").write_text(content)
    with pytest.raises(ModelVersionError, match="no pointer to a champion"):
        model_versions.champion(str(tmp_path))
