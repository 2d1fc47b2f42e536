"""One step in a container of its own: `python -m jobs <job> [options]`.

What is logged goes to stderr. The last line on stdout is the result, `{"result": …}`. The exit code is 0, 99 if there
was nothing to do, 1 after an error, 143 after SIGTERM; the last line on stderr then says why.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import traceback
from typing import TYPE_CHECKING, Any

from shortlist.errors import NothingToDoError, ShortlistError
from shortlist.redaction import redact
from shortlist.settings import Settings, load_settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

NOTHING_TO_DO = 99
_TERMINATED = 128 + signal.SIGTERM

# The steps behind the jobs are imported when they are called: each job needs other packages.


def scrape(settings: Settings, run_key: str) -> Any:  # noqa: ANN401
    """Crawl the catalogue's source."""
    from steps.catalogue import scrape_catalogue

    return scrape_catalogue(settings=settings, run_key=run_key)


def postgres(settings: Settings, run_key: str) -> Any:  # noqa: ANN401
    """Bring the crawled items into PostgreSQL."""
    from steps.catalogue_tables import upsert_items

    return upsert_items(settings=settings)


def elastic(settings: Settings, run_key: str) -> Any:  # noqa: ANN401
    """Bring them into Elasticsearch."""
    from steps.catalogue_tables import index_items

    return index_items(settings=settings)


def fastapi(settings: Settings, run_key: str) -> Any:  # noqa: ANN401
    """Tell the service."""
    from steps.catalogue_tables import refresh_service

    return refresh_service(settings=settings)


def mlflow(settings: Settings, run_key: str) -> Any:  # noqa: ANN401
    """Log what is known of the catalogue."""
    from steps.catalogue_tables import log_features

    return log_features(settings=settings)


def transform(settings: Settings, run_key: str) -> Any:  # noqa: ANN401
    """Turn raw events into processed ones."""
    from steps.transform import transform_events

    return transform_events(settings=settings, run_key=run_key)


def load_processed(settings: Settings, run_key: str) -> Any:  # noqa: ANN401
    """Keep a version of the processed events."""
    from steps import data_versions

    return data_versions.load_processed(settings=settings, run_key=run_key)


def load_viz(settings: Settings, run_key: str) -> Any:  # noqa: ANN401
    """Keep a version of what is ready for charts."""
    from steps import data_versions

    return data_versions.load_viz(settings=settings, run_key=run_key)


def model_trigger(settings: Settings, run_key: str) -> Any:  # noqa: ANN401
    """Compare the champion's data with what there is now."""
    from steps.data_versions import compare_with_champion

    return compare_with_champion(settings=settings)


JOBS: dict[str, Callable[[Settings, str], Any]] = {
    "scrape": scrape,
    "postgres": postgres,
    "elastic": elastic,
    "fastapi": fastapi,
    "mlflow": mlflow,
    "transform": transform,
    "load-processed": load_processed,
    "load-viz": load_viz,
    "model-trigger": model_trigger,
}


def main(arguments: list[str] | None = None) -> int:
    """Run one job.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(prog="python -m jobs", description=__doc__)
    parser.add_argument("job", choices=sorted(JOBS))
    parser.add_argument("--run-key", default="", help="the same for all attempts of a run")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _end_at_once)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s", force=True)
    try:
        result = JOBS[options.job](load_settings(), options.run_key)
        line = json.dumps({"result": result}, allow_nan=False)
    except NothingToDoError as nothing:
        _say(_one_line(str(nothing)))
        return NOTHING_TO_DO
    except ShortlistError as error:
        _say(_one_line(f"{type(error).__name__}: {error}"))
        return 1
    except Exception:
        _say(traceback.format_exc())
        return 1
    print(redact(line), flush=True)
    return 0


def _say(text: str) -> None:
    print(redact(text).rstrip(), file=sys.stderr, flush=True)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _end_at_once(_signal: int, _frame: FrameType | None) -> None:
    # Nothing is tidied up: whatever a job leaves half done, the next attempt must be able to deal with.
    os._exit(_TERMINATED)


if __name__ == "__main__":
    sys.exit(main())
