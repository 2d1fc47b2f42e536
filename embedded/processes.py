"""Programs that run beside a command and end with it."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

from embedded import home

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

_KILLED_SECONDS = 5


@contextmanager
def running(
    command: Sequence[str],
    log: Path,
    environment: Mapping[str, str],
    *,
    stop: signal.Signals = signal.SIGTERM,
    stop_seconds: float = 15,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program in a session of its own, so that an interrupt at the terminal reaches it last, in order.

    At the end of the block it and all that it started get `stop`, and are killed if that was not enough.

    Args:
        command: Program and arguments.
        log: Gets what it prints; anew each time.
        environment: Of the program.
        stop: The signal that ends it.
        stop_seconds: How long it may take to end.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env=environment,
            cwd=home.PROJECT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        for number, seconds in ((stop, stop_seconds), (signal.SIGKILL, _KILLED_SECONDS)):
            try:
                os.killpg(process.pid, number)
                process.wait(timeout=seconds)
            except ProcessLookupError:
                break
            except subprocess.TimeoutExpired:
                continue
