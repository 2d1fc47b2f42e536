"""`.env.example` keeps up with the code."""

from __future__ import annotations

import re
from pathlib import Path


def test_the_example_of_the_environment_names_every_variable_that_is_read() -> None:
    project = Path(__file__).resolve().parents[2]
    sources = "".join(path.read_text() for path in (project / "plugins").rglob("*.py"))
    read = set(re.findall(r'environ(?:\.get\(|\[)"(\w+)"', sources)) | {"RECS_DATABASE_URL"}

    explained = set(re.findall(r"^(\w+)=", (project / ".env.example").read_text(), re.MULTILINE))

    assert len(read) > 5
    assert read <= explained
