"""What follows from what containers say, and which of several runs goes on."""

from __future__ import annotations

import itertools

import pytest

from shortlist.redaction import redact, secrets
from steps.containers import MISMATCH, NEW_DATA, check_mismatch, check_run_docker_output, goes_first

EARLY, LATE = "2026-03-01T10:00:00.000000+00:00", "2026-03-01T10:00:00.000001+00:00"


@pytest.mark.parametrize(
    "active",
    [
        {"a": EARLY, "b": LATE, "c": LATE},
        {"b": EARLY, "a": LATE},
        {"a": EARLY, "b": EARLY, "c": EARLY},
        {"waits": "~", "a": LATE},
        {"a": "~", "b": "~"},
    ],
)
def test_exactly_one_of_the_active_runs_goes_on_the_one_that_started_first(active: dict[str, str]) -> None:
    for order in itertools.permutations(active.items()):
        going = [run for run in active if goes_first(run, dict(order))]
        assert going == [min(active, key=lambda run: (active[run], run))]


def test_a_run_that_is_alone_goes_on() -> None:
    assert goes_first("a", {"a": EARLY})


@pytest.mark.parametrize(
    ("result", "said", "goes_on"),
    [
        ({"new_data": True}, "", True),
        ({"new_data": False}, NEW_DATA, True),
        (None, f"something, {NEW_DATA}", True),
        ({"new_data": False}, "", False),
        ({"new_data": 1}, "", False),
        ({"new_data": "true"}, "", False),
        ({}, "", False),
        ([True], "", False),
        ("new_data", "", False),
        (None, "", False),
        (None, "Old data was transformed", False),
    ],
)
def test_only_new_data_goes_on(result: object, said: str, goes_on: bool) -> None:
    assert check_run_docker_output(result=result, said=said) is goes_on


@pytest.mark.parametrize(
    ("result", "said", "train"),
    [
        ({"mismatch": True, "dataset_commit": "abc", "input_path": None}, "", True),
        ({"mismatch": False, "dataset_commit": "abc"}, MISMATCH, True),
        ({"mismatch": False, "dataset_commit": "abc"}, "", False),
        ({"mismatch": "yes", "dataset_commit": "abc"}, "", False),
    ],
)
def test_only_a_mismatch_trains(result: object, said: str, train: bool) -> None:
    decision = check_mismatch(result=result, said=said, skip_trigger="", skip_model="")
    assert (decision["train"], decision["dataset_commit"]) == (train, "abc")


@pytest.mark.parametrize("result", [None, [], "mismatch", 7, {}])
def test_no_comparison_no_training_and_no_version(result: object) -> None:
    decision = check_mismatch(result=result, said="", skip_trigger="", skip_model="")
    assert decision == {
        "train": False,
        "reason": "the container found no mismatch",
        "dataset_commit": None,
        "input_path": None,
    }


def test_a_variable_that_is_named_hides_its_whole_value_and_the_password_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_URL", "https://me:pass%2Fword@host/path")
    assert "pass/word" not in redact("logged in with pass/word", "MY_URL")
    assert redact("https://me:pass%2Fword@host/path", "MY_URL") == "***"
    assert "pass/word" in redact("logged in with pass/word")


def test_the_secrets_of_jobs_are_known_without_being_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SERVICE_API_KEY", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "DATASETS_TOKEN"):
        monkeypatch.setenv(name, f"value-of-{name}")
        assert redact(f"it is value-of-{name}.") == "it is ***."
    monkeypatch.setenv("ELASTICSEARCH_URL", "http://elastic:changed@elasticsearch:9200")
    assert "changed" in secrets()
