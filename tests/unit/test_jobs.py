"""`python -m jobs`: what a container job says and how it ends. The steps behind the jobs are stand-ins."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.__main__ import JOBS

PROJECT = Path(__file__).resolve().parents[2]
SECONDS = 60

# Takes the place of the module with the step; the settings are read for real.
STAND_IN = """
import logging, sys, time, types
from shortlist.errors import InputError, NothingToDoError

def step(**arguments):
    {body}

for name in ("catalogue", "catalogue_tables", "transform", "data_versions"):
    module = sys.modules["steps." + name] = types.ModuleType("steps." + name)
    module.__getattr__ = lambda name: step
import steps
steps.data_versions = sys.modules["steps.data_versions"]
from jobs.__main__ import main
sys.exit(main(sys.argv[1:]))
"""

DATABASE_URL = "postgresql://recs:s3cr3t-pass@postgres:5432/recs"


def start(body: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", STAND_IN.format(body=body), *arguments],
        cwd=PROJECT,
        env=os.environ | {"PYTHONPATH": "plugins", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(body: str, *arguments: str, **environment: str) -> tuple[int, list[str], list[str]]:
    with start(body, *(arguments or ("scrape",)), **environment) as job:
        out, err = job.communicate(timeout=SECONDS)
        return job.returncode, out.splitlines(), err.splitlines()


def test_the_jobs_are_those_that_the_dags_name() -> None:
    catalogue = {"scrape", "postgres", "elastic", "fastapi", "mlflow"}
    assert set(JOBS) == catalogue | {"transform", "load-processed", "load-viz", "model-trigger"}


def test_the_result_is_the_last_line_on_stdout_and_the_log_goes_elsewhere() -> None:
    code, out, err = run("logging.getLogger('steps').info('page 1 of 2'); print('found'); return {'items': 3}")

    assert (code, json.loads(out[-1])) == (0, {"result": {"items": 3}})
    assert out[:-1] == ["found"]
    assert err == ["page 1 of 2"]


@pytest.mark.parametrize("job", sorted(JOBS))
def test_each_job_hands_settings_and_key_to_a_step_that_wants_them(job: str) -> None:
    body = "return [sorted(arguments), str(arguments.get('run_key')), arguments['settings'].publish.k]"

    code, out, err = run(body, job, "--run-key", "a_dag/manual 1")

    assert code == 0, err
    keyed = job in {"scrape", "transform", "load-processed", "load-viz"}
    assert json.loads(out[-1])["result"] == (
        [["run_key", "settings"], "a_dag/manual 1", 20] if keyed else [["settings"], "None", 20]
    )


def test_nothing_to_do_is_99_with_the_reason_as_the_last_line() -> None:
    assert run("raise NothingToDoError('there is no\\nnew event')") == (99, [], ["there is no new event"])


def test_an_error_of_ours_is_one_line_with_its_name() -> None:
    assert run("raise InputError('no such file:\\n  x.csv')") == (1, [], ["InputError: no such file: x.csv"])


def test_any_other_error_shows_where_it_happened_and_ends_with_what_it_was() -> None:
    code, out, err = run("raise KeyError('price')")

    assert (code, out) == (1, [])
    assert err[0] == "Traceback (most recent call last):"
    assert err[-1] == "KeyError: 'price'"


def test_a_result_that_is_no_json_is_an_error_of_the_step() -> None:
    code, out, err = run("return {'share': float('nan')}")

    assert (code, out) == (1, [])
    assert err[-1].startswith("ValueError: Out of range float values")


def test_wrong_settings_are_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("[unknown]\n")

    code, out, err = run("return 1", "scrape", SHORTLIST_CONFIG=str(tmp_path / "bad.toml"))

    assert (code, out, len(err)) == (1, [], 1)
    assert err[0].startswith("SettingsError: ")


def test_a_job_that_there_is_not_is_refused_with_the_list() -> None:
    code, _, err = run("return 1", "compress")

    assert code == 2
    assert "invalid choice: 'compress'" in err[-1]
    assert "load-processed" in err[-1]


@pytest.mark.parametrize(
    "body", ["raise ValueError(url)", "raise InputError(url)", "raise NothingToDoError(url)", "return url"]
)
def test_secrets_are_in_nothing_that_a_job_says_in_the_end(body: str) -> None:
    _, out, err = run(f"import os; url = os.environ['RECS_DATABASE_URL']; {body}", RECS_DATABASE_URL=DATABASE_URL)

    said = "\n".join([*out, *err])
    assert "***" in said
    assert "s3cr3t" not in said


def test_sigterm_ends_a_job_at_once() -> None:
    body = "print('begun', flush=True)\n    try:\n        time.sleep(60)\n    finally:\n        time.sleep(60)"
    with start(body, "scrape") as job:
        assert job.stdout
        assert job.stdout.readline() == "begun\n"
        job.send_signal(signal.SIGTERM)
        assert job.wait(SECONDS / 2) == 143
