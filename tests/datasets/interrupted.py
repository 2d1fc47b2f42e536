"""Runs one step in a process of its own that kills itself, as if by the engine, before it touches storage once more.

`python -m tests.datasets.interrupted STEP N`, the settings and the run key as JSON on its standard input. It ends by
SIGKILL before the N-th call of a kind that changes something or, when there are fewer, regularly.
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


def run_killed(step: str, calls: int, settings: Settings, run_key: str) -> bool:
    """Run a step and kill it before its call number `calls`, from 0. Returns whether it came to its end before that."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.datasets.interrupted", step, str(calls)],
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
    step, left = sys.argv[1], int(sys.argv[2])
    values, run_key = json.load(sys.stdin)
    count = 0

    def dying(call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            if count == left:
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1
            return call(*args, **kwargs)

        return counted

    store: Any = objects._S3Folder
    for name in ("upload", "write", "remove"):
        setattr(store, name, dying(getattr(store, name)))
    repository: Any = dataset_repository
    repository.run_command = dying(repository.run_command)
    STEPS[step](settings=TypeAdapter(Settings).validate_python(values), run_key=run_key)


if __name__ == "__main__":
    main()
