from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
from typing import TYPE_CHECKING

from rich.console import Console

from embedded.home import PROJECT
from embedded.progress import Progress, printable

if TYPE_CHECKING:
    from pathlib import Path


def log(progress: Progress, message: str) -> None:
    progress.handle(logging.LogRecord("steps.train", logging.INFO, __file__, 1, message, None, None))


def test_without_a_terminal_every_step_is_plain_lines() -> None:
    screen = io.StringIO()
    progress = Progress(Console(file=screen, width=120))
    progress.group("etl_train_test_pipeline")
    progress.begin("spark_etl")
    log(progress, "read [bold]5[/bold] rows")
    progress.end("done")
    progress.begin("create_futures")
    progress.end("skipped")
    lines = [" ".join(line.split()) for line in screen.getvalue().splitlines()]
    assert lines == [
        "etl_train_test_pipeline",
        "… spark_etl",
        "read [bold]5[/bold] rows",
        "✓ spark_etl 0.0 s read [bold]5[/bold] rows",
        "… create_futures",
        "– create_futures 0.0 s",
    ]
    assert "\x1b" not in screen.getvalue()


def test_seconds_are_kept_by_group_and_step() -> None:
    progress = Progress(Console(file=io.StringIO()))
    progress.group("set-up")
    with progress.step("java"):
        pass
    assert [(step["group"], step["step"]) for step in progress.seconds] == [("set-up", "java")]
    assert isinstance(progress.seconds[0]["seconds"], float)


def test_on_a_terminal_the_finished_line_stays() -> None:
    screen = io.StringIO()
    progress = Progress(Console(file=screen, width=120, force_terminal=True))
    progress.begin("spark_etl")
    log(progress, "reading")
    progress.end("failed")
    assert "✗" in screen.getvalue().splitlines()[-1]
    assert "reading" in screen.getvalue().splitlines()[-1]


def test_log_messages_cannot_send_control_codes_to_the_terminal() -> None:
    assert printable("red \x1b[31m\r\nMUG ☕") == "red  [31m  MUG ☕"


def test_what_libraries_and_child_processes_print_goes_to_the_log(tmp_path: Path) -> None:
    program = (
        "import pathlib, subprocess, sys; from embedded.progress import quiet_output\n"
        "with quiet_output(pathlib.Path(sys.argv[1])) as console:\n"
        "    print('library')\n"
        "    subprocess.run(['sh', '-c', 'echo child; echo complaint >&2'])\n"
        "    console.print('for the screen')\n"
        "print('after')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "log")],
        env=os.environ | {"PYTHONPATH": f"{PROJECT}/plugins"},
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("for the screen\nafter\n", "")
    assert sorted((tmp_path / "log").read_text().split()) == ["child", "complaint", "library"]
