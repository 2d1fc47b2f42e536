"""Runs one step in a process of its own that kills itself, as if by the engine, before it touches storage once more.

`python -m tests.datasets.interrupted STEP WHEN`, the settings and the run key as JSON on its standard input. It ends by
SIGKILL before that call which changes something in object storage, counted from 0, or before the command that begins
with these words; regularly, when there is none.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from shortlist.settings import Settings
from shortlist.stores import dataset_repository, objects
from steps import data_versions, transform

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[2]
STEPS: dict[str, Callable[..., Any]] = {
    "transform": transform.transform_events,
    "processed": data_versions.load_processed,
    "viz": data_versions.load_viz,
}


def run_killed(step: str, when: int | str, settings: Settings, run_key: str) -> bool:
    """Run a step and kill it before that call or command. Returns whether it came to its end before that."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.datasets.interrupted", step, str(when)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "plugins")},
        input=json.dumps([asdict(settings), run_key]),
        text=True,
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode == 0


def main() -> None:
    step, when = sys.argv[1:]
    values, run_key = json.load(sys.stdin)
    calls = 0

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def dying(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            if str(calls) == when:
                os.kill(os.getpid(), signal.SIGKILL)
            calls += 1
            return call(*args, **kwargs)

        return dying

    def run_command(command: list[str], **kwargs: Any) -> Any:
        if " ".join(command).replace(f"{sys.executable} -m ", "").startswith(when):
            os.kill(os.getpid(), signal.SIGKILL)
        return ran(command, **kwargs)

    store: Any = objects._S3Folder
    for name in ("upload", "write", "remove"):
        setattr(store, name, counted(getattr(store, name)))
    repository: Any = dataset_repository
    ran, repository.run_command = repository.run_command, run_command
    STEPS[step](settings=TypeAdapter(Settings).validate_python(values), run_key=run_key)


if __name__ == "__main__":
    main()
