"""Checks a file against the settings before anything depends on it."""

from __future__ import annotations

import os

from embedded import home
from embedded.java import choose_java
from embedded.progress import Progress, printable, quiet_output
from shortlist.errors import SetupError
from shortlist.settings import load_settings
from steps.validate import render_validation, validate_file


def run_validate(path: str, config: str | None) -> int:
    """Print every problem of a file with counts and examples; nothing is written but a log.

    Returns:
        The exit code: 0 if `spark_etl` would take the file, else 1.
    """
    if not path:
        raise SetupError("Which file? make validate FILE=path/to/interactions.csv")
    settings = load_settings(config)
    folder = home.home_folder()
    home.prepare(folder)
    environment = home.environment(folder, java_home=choose_java(folder / "java"), database_url="")
    os.environ.update(environment)
    log = home.log_folder(folder) / "validate.log"
    with quiet_output(log) as console:
        progress = Progress(console)
        with progress.step("Spark starts"):
            from pyspark.sql import SparkSession

            builder = SparkSession.builder.master("local[*]")
            spark = builder.config("spark.sql.session.timeZone", "UTC").getOrCreate()
        with progress.step("reading the file"):
            result = validate_file(spark, settings=settings, path=path)
        spark.stop()
        for line in render_validation(result).splitlines():
            console.print(printable(line), markup=False, soft_wrap=True)
    return 0 if result["passes"] else 1
