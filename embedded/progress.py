"""What a person sees while a command works: one line a step, with its seconds and its newest message."""

from __future__ import annotations

import logging
import os
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_MARKS = {"done": ("✓", "green"), "skipped": ("–", "yellow"), "failed": ("✗", "red")}
_NAME_WIDTH = 26


def printable(text: str) -> str:
    """Return data from a user's file without line breaks and control characters, safe for a terminal."""
    return "".join(character if character.isprintable() else " " for character in text)


@contextmanager
def quiet_output(log: Path) -> Iterator[Console]:
    """Send everything that any library or child process prints to a file; the yielded console keeps the screen."""
    sys.stdout.flush()
    sys.stderr.flush()
    screen, errors = os.dup(1), os.dup(2)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
    try:
        with os.fdopen(os.dup(screen), "w", errors="replace") as stream:
            yield Console(file=stream, highlight=False, width=None if stream.isatty() else 120)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(screen, 1)
        os.dup2(errors, 2)
        os.close(screen)
        os.close(errors)


class Progress(logging.Handler):
    """Shows steps one after another; as a logging handler it shows their newest message.

    Attributes:
        seconds: Group, step and seconds of every finished step, in order.
    """

    def __init__(self, console: Console) -> None:
        super().__init__(level=logging.INFO)
        self.console = console
        self.seconds: list[dict[str, str | float]] = []
        self._group = ""
        self._step = ""
        self._message = ""
        self._began = 0.0
        self._live: Live | None = None

    def group(self, title: str) -> None:
        """Head the steps that follow."""
        self._group = title
        self.console.print(Text(title, style="bold"))

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Show one step from beginning to end."""
        self.begin(name)
        try:
            yield
        except BaseException:
            self.end("failed")
            raise
        self.end("done")

    def begin(self, name: str) -> None:
        """Show that a step works: an animated line on a terminal, a plain line elsewhere."""
        self._step, self._message, self._began = name, "", time.monotonic()
        if self.console.is_terminal:
            self._live = Live(get_renderable=self._running, console=self.console, transient=True, refresh_per_second=8)
            self._live.start()
        else:
            self.console.print(Text(f"  … {name}"), soft_wrap=True)

    def end(self, outcome: str) -> None:
        """Leave the finished line on the screen; nothing happens when no step works."""
        if not self._step:
            return
        self.stop()
        seconds = time.monotonic() - self._began
        self.seconds.append({"group": self._group, "step": self._step, "seconds": round(seconds, 2)})
        mark, style = _MARKS[outcome]
        self.console.print(self._line(Text(mark, style=style), seconds))
        self._step = ""

    def stop(self) -> None:
        """Free the terminal, for example before an error is printed."""
        if self._live:
            self._live.stop()
            self._live = None

    def emit(self, record: logging.LogRecord) -> None:
        """Show the message of a log record beside the step that works."""
        if record.name == "steps.messages":  # "no message sent" would hide what the task achieved
            return
        self._message = printable(record.getMessage())
        if self._step and not self.console.is_terminal:
            self.console.print(Text(f"      {self._message}"), soft_wrap=True)

    def _running(self) -> Text:
        frame = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"[int(time.monotonic() * 8) % 10]
        return self._line(Text(frame, style="cyan"), time.monotonic() - self._began)

    def _line(self, mark: Text, seconds: float) -> Text:
        line = Text.assemble(
            "  ", mark, f" {self._step:<{_NAME_WIDTH}} {seconds:6.1f} s  ", (self._message, "dim"), no_wrap=True
        )
        line.truncate(self.console.width, overflow="ellipsis")
        return line
