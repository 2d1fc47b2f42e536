"""The commands behind the Makefile."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from typing import TYPE_CHECKING

from embedded import home
from shortlist.errors import SetupError, ShortlistError

if TYPE_CHECKING:
    from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit code. A known error is one paragraph on stderr and the code 1.
    """
    parser = argparse.ArgumentParser(prog="python -m embedded", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser("demo", help="run all DAGs and show recommendations")
    demo.add_argument("--data", help="interaction file, folder or glob instead of [input].path")
    demo.add_argument("--config", help="settings file instead of config/pipeline.toml")
    ui = commands.add_parser("ui", help="start the Airflow UI")
    ui.add_argument("--port", type=int, default=8080)
    serve = commands.add_parser("serve", help="start the service with its page")
    serve.add_argument("--port", type=int, default=8000)
    serve.add_argument("--config", help="settings file instead of config/pipeline.toml")
    commands.add_parser("stop", help="stop what runs in the embedded home")
    commands.add_parser("psql", help="open a database shell")
    validate = commands.add_parser("validate", help="check a file against the settings")
    validate.add_argument("file")
    validate.add_argument("--config", help="settings file instead of config/pipeline.toml")
    drift = commands.add_parser("drift", help="take new feedback in, retrain if it differs too much")
    drift.add_argument("--config", help="settings file instead of config/pipeline.toml")
    tune = commands.add_parser("tune", help="search better settings on the data of the last run")
    tune.add_argument("--minutes", type=float, help="budget instead of [tune].minutes")
    tune.add_argument("--trials", type=int, help="at most, with those of earlier calls, instead of [tune].trials")
    tune.add_argument("--config", help="settings file instead of config/pipeline.toml")
    commands.add_parser("models", help="list model versions and who is champion")
    rollback = commands.add_parser("rollback", help="go back to the previous generation of a view, or champion")
    rollback.add_argument("--view", default="")
    rollback.add_argument("--model", default="")
    try:
        return _run(parser.parse_args(arguments))
    except ShortlistError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1


def _run(options: argparse.Namespace) -> int:
    # Each command imports only what it needs: `make stop` should not wait for Spark's packages.
    if options.command == "demo":
        from embedded.demo import run_demo

        return run_demo(options.data, options.config)
    if options.command == "ui":
        from embedded.ui import run_ui

        return run_ui(options.port)
    if options.command == "serve":
        from embedded.serve import run_serve

        return run_serve(_existing_home(), options.port, options.config)
    if options.command == "validate":
        from embedded.validate import run_validate

        return run_validate(options.file, options.config)
    if options.command == "drift":
        from embedded.drift import run_drift

        return run_drift(options.config)
    if options.command == "tune":
        from embedded.tune import run_tune

        return run_tune(options.minutes, options.trials, options.config)
    if options.command == "rollback":
        return _roll_back(options.view, options.model)
    if options.command == "models":
        return _models()
    if options.command == "psql":
        return _psql()
    home.stop(home.home_folder())
    return 0


def _roll_back(view: str, model: str) -> int:
    from steps.rollback import roll_back

    if view and not model:
        with home.database(_existing_home()) as url:
            os.environ["RECS_DATABASE_URL"] = url
            print(roll_back(view=view, model=""))
    else:
        print(roll_back(view=view, model=model))
    return 0


def _models() -> int:
    from rich.console import Console

    from shortlist.settings import load_settings
    from steps.models import list_models, render_models

    Console(highlight=False).print(render_models(list_models(settings=load_settings())))
    return 0


def _psql() -> int:
    from embedded.postgres import EmbeddedPostgres

    folder = _existing_home()
    with home.database(folder) as url:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-C is for psql: it cancels a query there
        return EmbeddedPostgres(folder / "postgres").shell(url)


def _existing_home() -> Path:
    folder = home.home_folder()
    if not (folder / "postgres").is_dir() and not os.environ.get("RECS_DATABASE_URL"):
        raise SetupError(f"There are no tables in {folder} yet: run `make demo` first.")
    return folder


if __name__ == "__main__":
    sys.exit(main())
