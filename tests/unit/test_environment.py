"""`.env.example` keeps up with the code."""

from __future__ import annotations

import re
from pathlib import Path


def test_the_example_of_the_environment_names_every_variable_that_is_read() -> None:
    project = Path(__file__).resolve().parents[2]
    sources = "".join(path.read_text() for path in (project / "plugins").rglob("*.py"))
    read = set(re.findall(r'environ(?:\.get\(|\[)"(\w+)"', sources)) | {"RECS_DATABASE_URL"}

    explained = set(re.findall(r"^(\w+)=", (project / ".env.example").read_text(), re.MULTILINE))

    # Known to everybody who needs them, and nothing of this project.
    of_others = {"PATH", "GIT_SSH_COMMAND", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL_S3"}
    assert len(read) > 5
    assert read - of_others <= explained
