"""`make compose-models` and `make compose-rollback`: model versions and the way back, inside the stack."""

from __future__ import annotations

import argparse
import sys

from rich.console import Console

from shortlist.errors import ShortlistError
from shortlist.settings import load_settings
from steps.models import list_models, render_models
from steps.rollback import roll_back


def main(arguments: list[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list")
    rollback = commands.add_parser("rollback")
    rollback.add_argument("--view", default="")
    rollback.add_argument("--model", default="")
    options = parser.parse_args(arguments)
    try:
        if options.command == "list":
            Console(highlight=False).print(render_models(list_models(settings=load_settings())))
        else:
            print(roll_back(view=options.view, model=options.model))
    except ShortlistError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
