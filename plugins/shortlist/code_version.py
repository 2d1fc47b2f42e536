"""Which code made a model."""

from __future__ import annotations

import hashlib
import os
import subprocess

from shortlist.settings import PROJECT_ROOT

UNKNOWN = "unknown"


def code_version() -> dict[str, str]:
    """Return what identifies the code.

    Returns:
        `commit`: of the project's git checkout, else `$SHORTLIST_VERSION`, else `unknown` (a container sees no
        checkout). `sha256`: over the Python files below `plugins/`, which tells changed code apart everywhere,
        committed or not.
    """
    digest = hashlib.sha256()
    plugins = PROJECT_ROOT / "plugins"
    for file in sorted(plugins.rglob("*.py")):
        digest.update(f"{file.relative_to(plugins)}\0".encode() + file.read_bytes())
    return {"commit": _commit() or os.environ.get("SHORTLIST_VERSION") or UNKNOWN, "sha256": digest.hexdigest()}


def _commit() -> str:
    # The folder is named: without it, git would take that of a checkout around the project.
    command = ["git", "--git-dir", str(PROJECT_ROOT / ".git"), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return ""
