"""Folders in which one job at a time works, on the disk that jobs keep between runs."""

from __future__ import annotations

import fcntl
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from shortlist.errors import ShortlistError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shortlist.settings import Settings


@contextmanager
def workspace(settings: Settings, name: str, *, keep: tuple[str, ...] = ()) -> Iterator[Path]:
    """Give a folder to work in, which nobody else has meanwhile. What a killed job left there is removed first.

    Args:
        settings: `settings.paths.jobs` is where the folder lies.
        name: Of the folder, below that one.
        keep: What of it stays for the next time.

    Raises:
        ShortlistError: If another process is at work there. A killed process is not: its lock went with it.
    """
    folder = Path(settings.paths.jobs, name)
    folder.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ShortlistError(
                f"another job is at work in {folder}: wait until it has ended, or end it, and run this again"
            ) from None
        _clear(folder, keep)
        try:
            yield folder
        finally:
            _clear(folder, keep)


def _clear(folder: Path, keep: tuple[str, ...]) -> None:
    for path in folder.iterdir():
        if path.name in keep:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
