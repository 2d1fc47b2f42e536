"""Which code made a model."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from pathlib import Path

UNKNOWN = "unknown"

CODE_ROOT = Path(__file__).resolve().parents[2]


def code_version() -> dict[str, str]:
    """Return what identifies the code.

    Returns:
        `commit`: of the project's git checkout, else the name of its folder if that is a commit's (as shipped DAGs and
        those of a Git bundle have it), else `$SHORTLIST_VERSION`, else `unknown` (a container sees no checkout).
        `sha256`: over the Python files below `plugins/`, which tells changed code apart everywhere, committed or not.
    """
    digest = hashlib.sha256()
    plugins = CODE_ROOT / "plugins"
    for file in sorted(plugins.rglob("*.py")):
        digest.update(f"{file.relative_to(plugins)}\0".encode() + file.read_bytes())
    return {
        "commit": _commit() or _folder() or os.environ.get("SHORTLIST_VERSION") or UNKNOWN,
        "sha256": digest.hexdigest(),
    }


def _commit() -> str:
    # The folder is named: without it, git would take that of a checkout around the project.
    command = ["git", "--git-dir", str(CODE_ROOT / ".git"), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return ""


def _folder() -> str:
    return CODE_ROOT.name if re.fullmatch(r"[0-9a-f]{40}", CODE_ROOT.name) else ""
