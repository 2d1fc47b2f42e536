"""The floors of the house: what loads what, and that the lint rules which guard them bite."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]

LOADED_BY_STEPS = """
import importlib, json, pkgutil, sys
sys.path.insert(0, "plugins")
import steps
names = [module.name for module in pkgutil.iter_modules(steps.__path__, "steps.")]
for name in names:
    importlib.import_module(name)
print(json.dumps([names, sorted({name.split(".")[0] for name in sys.modules})]))
"""


def test_steps_load_neither_airflow_nor_anything_heavy() -> None:
    finished = subprocess.run(
        [sys.executable, "-c", LOADED_BY_STEPS], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    names, loaded = json.loads(finished.stdout)

    assert names == sorted(f"steps.{path.stem}" for path in (PROJECT / "plugins/steps").glob("[!_]*.py"))
    assert "steps.messages" in names
    heavy = {
        "airflow",
        "pyspark",
        "pandas",
        "numpy",
        "pyarrow",
        "scipy",
        "catboost",
        "optuna",
        "psycopg2",
        "redis",
        "requests",
        "jinja2",
        "mlflow",
        "matplotlib",
    }
    assert heavy & set(loaded) == set()


@pytest.mark.parametrize(
    ("file", "line", "rule"),
    [
        ("plugins/shortlist/recommender/als.py", "import pandas", "TID253"),
        ("plugins/shortlist/stores/new.py", "import psycopg2", "TID253"),
        ("plugins/steps/new.py", "from pyspark.sql import functions", "TID253"),
        ("dags/new.py", "import pyspark", "TID253"),
        ("plugins/dag_support/new.py", "import requests", "TID253"),
        ("plugins/shortlist/recommender/als.py", "from shortlist.stores import files", "TID251"),
        ("plugins/shortlist/recommender/als.py", "from pathlib import Path", "TID251"),
        ("plugins/shortlist/recommender/als.py", "from airflow.sdk import task", "TID251"),
        ("plugins/shortlist/stores/new.py", "from airflow.sdk import task", "TID251"),
        ("plugins/shortlist/stores/new.py", "from steps import train", "TID251"),
        ("plugins/steps/new.py", "from airflow.sdk import task", "TID251"),
        ("plugins/steps/new.py", "from dag_support import assets", "TID251"),
        ("jobs/new.py", "from airflow.sdk import task", "TID251"),
        ("jobs/new.py", "from pyspark.sql import SparkSession", "TID251"),
        ("jobs/new.py", "from dag_support import assets", "TID251"),
        ("jobs/new.py", "import pandas", "TID253"),
        ("service/new.py", "import pandas", "TID253"),
        ("service/new.py", "import catboost", "TID253"),
        ("service/new.py", "from airflow.sdk import task", "TID251"),
        ("service/new.py", "from pyspark.sql import SparkSession", "TID251"),
        ("service/new.py", "from steps import feedback", "TID251"),
        ("service/new.py", "from dag_support import assets", "TID251"),
    ],
)
def test_lint_refuses_an_import_through_a_wall(file: str, line: str, rule: str) -> None:
    assert rule in lint(file, f"{line}\n")


@pytest.mark.parametrize("driver", ["psycopg2", "redis", "requests", "mlflow", "adbc_driver_postgresql"])
def test_lint_refuses_a_driver_in_the_science_even_inside_a_function(driver: str) -> None:
    assert "TID251" in lint("plugins/shortlist/recommender/als.py", f"def fit() -> None:\n    import {driver}\n")


def test_lint_allows_a_heavy_import_inside_a_function() -> None:
    assert not {"TID251", "TID253"} & lint("plugins/steps/new.py", "def fit() -> None:\n    import pandas\n")


def test_lint_allows_the_service_its_redis_client_and_the_library() -> None:
    source = "import redis.asyncio\nfrom shortlist.stores import datasets\n"

    assert not {"TID251", "TID253"} & lint("service/new.py", source)


@pytest.mark.parametrize("name", ["airflow", "pyspark", "steps", "dag_support"])
def test_lint_refuses_a_floor_above_in_the_service_even_inside_a_function(name: str) -> None:
    assert "TID251" in lint("service/new.py", f"def serve() -> None:\n    import {name}\n")


def lint(file: str, source: str) -> set[str]:
    finished = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--output-format", "json", "--stdin-filename", file, "-"],
        cwd=PROJECT,
        input=source,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode in {0, 1}, finished.stderr
    return {problem["code"] for problem in json.loads(finished.stdout)}
