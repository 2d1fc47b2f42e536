"""The space of the search, what settings become of a trial, studies that go on, and the proposal as a file."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from shortlist.columns import CANDIDATE_FEATURES
from shortlist.recommender import evaluation, tuning
from shortlist.settings import CandidateSettings, PublishSettings, RankerSettings, Settings, load_settings
from shortlist.stores import studies

if TYPE_CHECKING:
    from collections.abc import Callable

    from optuna import Study

PROJECT = Path(__file__).resolve().parents[2]
SPACE = {"als.rank": IntDistribution(8, 96, log=True), "als.alpha": FloatDistribution(0.5, 40.0, log=True)}
IN_USE = {"als.rank": 32, "als.alpha": 2.0}

HELD_BY_A_PROCESS = """
import sys
from optuna.distributions import IntDistribution
from shortlist.stores import studies
study = studies.open_study(sys.argv[1], 1)
trial = study.ask({"als.rank": IntDistribution(8, 96, log=True)})
print(trial.number, trial.params["als.rank"], flush=True)
input()
"""


def finish(folder: Path, study: Study, value: float) -> dict[str, Any]:
    trial = study.ask(dict(SPACE))
    studies.end_trial(str(folder), study, trial, value=value, seconds=1.0)
    return trial.params


def test_the_search_covers_als_candidates_and_ranker_around_the_settings_in_use() -> None:
    space = tuning.space(Settings())

    assert {name.split(".")[0] for name in space} == {"als", "candidates", "ranker"}
    assert space.keys() == tuning.parameters(Settings()).keys()
    assert space["als.rank"] == IntDistribution(8, 96, log=True)
    assert space["candidates.popular"] == IntDistribution(20, 200, log=True)
    assert space["ranker.loss"] == CategoricalDistribution(["Logloss", "QueryRMSE"])


def test_settings_in_use_outside_the_usual_bounds_widen_them() -> None:
    space = tuning.space(
        Settings(
            candidates=CandidateSettings(als=500, popular=60, popular_half_life_days=0.5),
            publish=PublishSettings(k=50),
            ranker=RankerSettings(loss="YetiRank"),
        )
    )

    assert space["candidates.als"] == IntDistribution(20, 500, log=True)
    assert space["candidates.popular_half_life_days"] == FloatDistribution(0.5, 90.0, log=True)
    assert space["candidates.popular"] == IntDistribution(50, 200, log=True)  # fewer would not fill a list
    assert space["ranker.loss"] == CategoricalDistribution(["Logloss", "QueryRMSE", "YetiRank"])


def test_the_parameters_in_use_give_the_settings_in_use() -> None:
    settings = Settings(ranker=RankerSettings(learning_rate=0.123456))

    assert tuning.with_parameters(settings, tuning.parameters(settings)) == settings


def test_a_trial_changes_what_it_names_to_three_digits_and_nothing_else() -> None:
    settings = Settings()

    assert tuning.with_parameters(settings, {"als.rank": 64, "ranker.learning_rate": 0.0567891}) == replace(
        settings, als=replace(settings.als, rank=64), ranker=replace(settings.ranker, learning_rate=0.0568)
    )


def candidates(taken: Callable[[float], int], users: int = 120) -> pa.Table:
    """Five candidates a user, told apart by nothing but their age, 1 to 5; `taken` says which age a place takes."""
    rows = users * 5
    ids = np.repeat([f"u{user:03}" for user in range(users)], 5).astype(object)
    age = np.tile(np.arange(1, 6), users)
    wanted = np.array([taken(place) for place in evaluation.user_places(pa.chunked_array([ids]))])
    columns: dict[str, Any] = {name: np.zeros(rows, np.float32) for name in CANDIDATE_FEATURES}
    columns |= {
        "as_of": np.zeros(rows, "datetime64[us]"),
        "user_id": ids,
        "item_id": [f"i{number}" for number in age],
        "item_age_days": age.astype(np.float32),
        "target": (age == wanted).astype(np.int32),
        "n_relevant": np.ones(rows, np.int32),
    }
    return pa.table(columns)


def test_users_teach_or_choose_or_confirm() -> None:
    """Who teaches takes the newest item, who chooses the oldest, who confirms the one before: a mix-up would show."""
    table = candidates(lambda place: 1 if place < 0.5 else 5 if place < 0.8 else 4)

    worth = tuning.judge(table, Settings(ranker=RankerSettings(iterations=20)))

    assert len(worth.choosing) == 28
    assert set(worth.choosing) == {1 / np.log2(1 + 5)}
    assert len(worth.confirming) == 18
    assert set(worth.confirming) == {1 / np.log2(1 + 4)}


def test_a_study_goes_on_and_never_draws_the_same_again(tmp_path: Path) -> None:
    first = [finish(tmp_path, studies.open_study(str(tmp_path), 7), value=0.1) for _ in range(3)]
    study = studies.open_study(str(tmp_path), 7)
    again = [finish(tmp_path, study, value=0.2) for _ in range(2)]

    assert [trial.params for trial in studies.complete_trials(study)] == first + again
    assert len({str(parameters) for parameters in first + again}) == 5


def test_the_same_calls_with_the_same_seed_draw_the_same(tmp_path: Path) -> None:
    draws = [
        [finish(folder, study, value=0.1) for _ in range(3)]
        for folder in (tmp_path / "a", tmp_path / "b")
        for study in [studies.open_study(str(folder), 7)]
    ]

    assert draws[0] == draws[1]


def test_the_settings_in_use_are_tried_first_and_once(tmp_path: Path) -> None:
    study = studies.open_study(str(tmp_path), 7)
    studies.enqueue(study, IN_USE)
    studies.enqueue(studies.open_study(str(tmp_path), 7), IN_USE)  # a call that was killed before its first trial
    study = studies.open_study(str(tmp_path), 7)

    assert finish(tmp_path, study, value=0.1) == IN_USE
    studies.enqueue(study, IN_USE)
    assert finish(tmp_path, study, value=0.2) != IN_USE
    found = studies.find(study, IN_USE)
    assert found is not None
    assert found.number == 0


def test_a_trial_whose_process_was_killed_is_tried_once_more(tmp_path: Path) -> None:
    """Killed for real, by SIGKILL, twice in the same trial: the third call leaves it alone."""
    drawn = []
    for _ in range(2):
        process = subprocess.Popen(
            [sys.executable, "-c", HELD_BY_A_PROCESS, str(tmp_path)],
            env=os.environ | {"PYTHONPATH": f"{PROJECT}/plugins"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        with process:
            assert process.stdout
            drawn.append([int(word) for word in process.stdout.readline().split()])
            process.send_signal(signal.SIGKILL)
    study = studies.open_study(str(tmp_path), 1)

    (_, rank), retried = drawn
    assert retried == [1, rank]
    assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.FAIL]
    assert study.trials[1].user_attrs == {"retry_of": 0}
    assert studies.ended(study) == 0


def test_every_trial_stands_in_a_table(tmp_path: Path) -> None:
    study = studies.open_study(str(tmp_path), 7)
    studies.enqueue(study, IN_USE)
    finish(tmp_path, study, value=0.25)
    trial = study.ask(dict(SPACE))
    studies.end_trial(str(tmp_path), study, trial, value=None, seconds=2.0, error="RankerError: one class")

    with (tmp_path / "trials.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows == [
        {
            "trial": "0",
            "state": "complete",
            "ndcg@10": "0.25",
            "seconds": "1.0",
            "als.rank": "32",
            "als.alpha": "2.0",
            "error": "",
        },
        {
            "trial": "1",
            "state": "fail",
            "ndcg@10": "",
            "seconds": "2.0",
            **{name: str(value) for name, value in trial.params.items()},
            "error": "RankerError: one class",
        },
    ]


def test_optuna_itself_can_read_the_journal(tmp_path: Path) -> None:
    from optuna import load_study
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    finish(tmp_path, studies.open_study(str(tmp_path), 7), value=0.25)

    storage = JournalStorage(JournalFileBackend(str(tmp_path / "journal.log")))
    assert load_study(study_name=tmp_path.name, storage=storage).best_value == 0.25


@pytest.fixture
def in_use(tmp_path: Path) -> Path:
    return Path(shutil.copy(PROJECT / "config" / "pipeline.toml", tmp_path / "pipeline.toml"))


def test_a_proposal_is_the_file_in_use_with_other_values_and_all_its_comments(in_use: Path) -> None:
    text = studies.proposal(str(in_use), {"als.rank": 48, "ranker.learning_rate": 0.0568}, ["Why.", "And how."])

    changed = [line for line in text.splitlines() if line not in in_use.read_text().splitlines()]
    assert changed == ["# Why.", "# And how.", "rank = 48", "learning_rate = 0.0568"]
    assert all(line in text for line in in_use.read_text().splitlines() if "#" in line)


def test_a_proposal_loads_as_the_settings_that_were_tried(in_use: Path) -> None:
    settings = load_settings(str(in_use))
    chosen = tuning.with_parameters(
        settings, {"als.rank": 48, "candidates.popular_half_life_days": 12.3456, "ranker.loss": "QueryRMSE"}
    )
    place = studies.write_proposal(studies.proposal(str(in_use), tuning.parameters(chosen), []), str(in_use), "unused")

    assert place == str(in_use.with_name("pipeline.proposed.toml"))
    assert load_settings(place) == chosen


def test_a_file_that_leaves_sections_to_their_defaults_gets_them_with_what_changes(tmp_path: Path) -> None:
    in_use = tmp_path / "small.toml"
    in_use.write_text('[input]\npath = "a.csv"\n[als]\nrank = 16\n')

    text = studies.proposal(str(in_use), {"als.alpha": 3.5, "ranker.depth": 4}, ["Why."])

    assert tomllib.loads(text) == {
        "input": {"path": "a.csv"},
        "als": {"rank": 16, "alpha": 3.5},
        "ranker": {"depth": 4},
    }


def test_where_nobody_may_write_the_proposal_goes_to_the_study(tmp_path: Path) -> None:
    place = studies.write_proposal("rank = 48\n", "/proc/pipeline.toml", str(tmp_path / "study"))

    assert place == f"{tmp_path}/study/pipeline.proposed.toml"
    assert Path(place).read_text() == "rank = 48\n"


def test_a_withdrawn_proposal_is_gone_from_both_places(in_use: Path, tmp_path: Path) -> None:
    beside, in_study = in_use.with_name("pipeline.proposed.toml"), tmp_path / "study" / "pipeline.proposed.toml"
    in_study.parent.mkdir()
    for place in (beside, in_study):
        place.write_text("")
    studies.withdraw_proposal(str(in_use), str(in_study.parent))

    assert (beside.exists(), in_study.exists(), in_use.exists()) == (False, False, True)
