from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from embedded.dag_runs import describe
from embedded.home import PROJECT
from shortlist.errors import InputError, RejectedRowsError

if TYPE_CHECKING:
    from pathlib import Path

MAKEFILE = (PROJECT / "Makefile").read_text()


def run(*command: str, home: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": f"{PROJECT}/plugins", "SHORTLIST_HOME": str(home)} | variables
    return subprocess.run(command, env=environment, cwd=PROJECT, capture_output=True, text=True)


def test_make_help_lists_every_target(tmp_path: Path) -> None:
    done = run("make", "help", home=tmp_path)
    listed = re.findall(r"^  make ([a-z-]+) +\S", done.stdout, re.MULTILINE)
    assert listed == re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE)
    (phony,) = re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    assert sorted(listed) == sorted(phony.split())


def test_every_command_of_the_makefile_is_known(tmp_path: Path) -> None:
    used = set(re.findall(r"\$\(RUN\) (\w+)", MAKEFILE))
    done = run(sys.executable, "-m", "embedded", "--help", home=tmp_path)
    assert used == set(re.findall(r"^    (\w+) ", done.stdout, re.MULTILINE))


def test_a_wrong_settings_file_ends_the_demo_with_one_paragraph(tmp_path: Path) -> None:
    settings = tmp_path / "my.toml"
    settings.write_text("[als]\nrnak = 3\n")
    done = run(sys.executable, "-m", "embedded", "demo", "--config", str(settings), home=tmp_path / "home")
    assert done.returncode == 1
    assert f"{settings}: [als.rnak] Unexpected keyword argument" in done.stdout
    assert f"logged: {tmp_path}/home/logs/demo.log" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize("command", [["psql"], ["rollback", "--view", "personal_recs"]], ids=lambda value: value[0])
def test_commands_on_tables_say_that_there_are_none_yet(command: list[str], tmp_path: Path) -> None:
    done = run(sys.executable, "-m", "embedded", *command, home=tmp_path / "home")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"\nThere are no tables in {tmp_path}/home yet: run `make demo` first.\n"


def test_a_roll_back_of_both_or_neither_asks_which(tmp_path: Path) -> None:
    for words in ((), ("--view", "personal_recs", "--model", "ranker")):
        done = run(sys.executable, "-m", "embedded", "rollback", *words, home=tmp_path / "home")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("\nroll back which? Either a table, VIEW=personal_recs, or a model, MODEL=")


def test_without_models_the_list_says_so_and_nothing_goes_back(tmp_path: Path) -> None:
    done = run("make", "--old-file=setup", "models", home=tmp_path, DATA_ROOT=str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert "there is no ranker yet" in done.stdout
    done = run("make", "--old-file=setup", "rollback", "MODEL=ranker", home=tmp_path, DATA_ROOT=str(tmp_path))
    assert f"no champion in {tmp_path}/models/rankers" in done.stderr


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A checkout without packages, as far as the set-up looks at it."""
    (tmp_path / "embedded").mkdir()
    shutil.copy(PROJECT / "embedded" / "setup.sh", tmp_path / "embedded")
    shutil.copy(PROJECT / "requirements.lock", tmp_path)
    return tmp_path


def make_command(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def link_commands(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).symlink_to(str(shutil.which(name)))


def test_set_up_names_the_pythons_that_do_not_fit(clone: Path) -> None:
    make_command(clone / "bin", "python3", '[ "$1" = --version ] && echo Python 3.9.2 || exit 1')
    link_commands(clone / "bin", "sh", "dirname", "df", "awk", "cmp", "cut")
    done = run("sh", f"{clone}/embedded/setup.sh", home=clone, PATH=f"{clone}/bin", PYTHON="")
    assert done.returncode == 1
    assert "needs Python 3.11, 3.12 or 3.13 with sqlite3 and ssl. Found: python3 is Python 3.9.2;" in done.stderr


def test_set_up_refuses_a_chosen_python_that_does_not_fit(clone: Path) -> None:
    make_command(clone / "bin", "old", '[ "$1" = --version ] && echo Python 3.14.0 || exit 1')
    done = run("sh", f"{clone}/embedded/setup.sh", home=clone, PYTHON=f"{clone}/bin/old")
    assert done.returncode == 1
    assert f"PYTHON={clone}/bin/old does not fit (Python 3.14.0)" in done.stderr


def test_set_up_without_the_venv_module_says_what_to_install(clone: Path) -> None:
    make_command(clone / "bin", "bare", '[ "$1" = -m ] && { echo "ensurepip is not available"; exit 1; } || exit 0')
    done = run("sh", f"{clone}/embedded/setup.sh", home=clone, PYTHON=f"{clone}/bin/bare")
    assert done.returncode == 1
    assert "ensurepip is not available" in done.stderr
    assert "apt-get install python3-venv" in done.stderr


def test_set_up_stops_when_the_disk_is_nearly_full(clone: Path) -> None:
    make_command(clone / "bin", "df", "printf 'head\\ndisk 100 90 2048 98%% /\\n'")
    done = run(
        "sh", f"{clone}/embedded/setup.sh", home=clone, PATH=f"{clone}/bin:{os.environ['PATH']}", PYTHON=sys.executable
    )
    assert done.returncode == 1
    assert "Only 2 MiB are free on the disk" in done.stderr


def test_set_up_is_done_when_the_lock_has_not_changed(clone: Path) -> None:
    (clone / ".bootstrap" / "bin").mkdir(parents=True)
    (version,) = re.findall(r"^UV_VERSION=(.*)$", (clone / "embedded" / "setup.sh").read_text(), re.MULTILINE)
    make_command(clone / ".bootstrap" / "bin", "uv", f'[ "$1" = --version ] && echo "uv {version}" || exit 9')
    (clone / ".venv" / "bin").mkdir(parents=True)
    (clone / ".venv" / "bin" / "python").symlink_to(sys.executable)
    shutil.copy(clone / "requirements.lock", clone / ".venv" / ".lock")
    done = run("sh", f"{clone}/embedded/setup.sh", home=clone, PYTHON="")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    (clone / "requirements.lock").write_text("changed")
    done = run("sh", f"{clone}/embedded/setup.sh", home=clone, PYTHON="")
    assert done.returncode == 1
    assert "The packages could not be installed" in done.stderr


def test_an_error_is_told_without_its_stack_trace() -> None:
    assert describe(InputError("no file at a.csv: put one there")) == "no file at a.csv: put one there"
    final = RuntimeError("RejectedRowsError: too many")
    final.__cause__ = RejectedRowsError("too many")
    assert describe(final) == "too many"
    assert describe(OSError("disk\n\nfull\n1\n2\n3")) == "OSError: disk\nfull\n1\n2"
    assert describe(KeyError()) == "KeyError: "


def test_of_an_error_in_a_spark_worker_only_its_own_message_is_told() -> None:
    error = RuntimeError(
        "An exception was thrown from the Python worker:\nTraceback (most recent call last):\n"
        '  File "candidates.py", line 119, in kernel\n    raise InputError\nshortlist.errors.InputError: bad row 7\n'
    )
    assert describe(error) == "shortlist.errors.InputError: bad row 7"
