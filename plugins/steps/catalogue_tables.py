"""Catalogue steps after the crawl: into the database, the search index, the service and the experiment record."""

from __future__ import annotations

import json
import logging
import os
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from shortlist.columns import ITEM
from shortlist.errors import NothingToDoError, ServiceError
from shortlist.recommender import catalogue_features
from shortlist.stores import catalogue_table, search_index, tracking
from shortlist.stores.database import database_from_env, ensure_schema
from shortlist.stores.service_tables import ensure_service_schema

if TYPE_CHECKING:
    from shortlist.settings import Settings

logger = logging.getLogger(__name__)

EXPERIMENT: Final = "catalogue"

_IDS: Final = "item_ids.json"

_SERVICE_URL: Final = "http://recs-api:8000"
_SERVICE_SECONDS: Final = 30


def upsert_items(*, settings: Settings) -> dict[str, Any]:
    """Bring the last complete crawl into the table behind the view `items`, in one transaction.

    Lists, audits and generations do not change: the service leaves out what is not available when it hands lists out.

    Args:
        settings: `paths.catalogue` is where the crawl lies.

    Returns:
        `{"items", "new", "changed", "gone", "version", "summary"}`, see `catalogue_table.upsert`.

    Raises:
        NothingToDoError: If there was no crawl yet.
        InputError: If what it left is no catalogue.
    """
    items = catalogue_table.read_items(settings.paths.catalogue)
    database = database_from_env()
    ensure_schema(database)
    ensure_service_schema(database)
    counts = catalogue_table.upsert(database, items)
    if counts["new"] or counts["changed"] or counts["gone"]:
        summary = (
            f"{counts['new']:,} items are new, {counts['changed']:,} changed, {counts['gone']:,} are gone:"
            f" version {counts['version']} of the catalogue"
        )
    else:
        summary = f"nothing changed: {counts['items']:,} items as in version {counts['version']} of the catalogue"
    logger.info("%s", summary)
    return {**counts, "summary": summary}


def index_items(*, settings: Settings) -> dict[str, Any]:
    """Let Elasticsearch find all items: of what is served, with the last complete crawl over it.

    Whether `upsert_items` has run before makes no difference.

    Args:
        settings: `paths.catalogue` is where the crawl lies.

    Returns:
        `{"index": name, "items": n, "replaced": [names]}`.

    Raises:
        NothingToDoError: If there is no Elasticsearch, or was no crawl yet.
        SearchIndexError: If it is away or refuses; what was searched stays.
    """
    url = search_index.url_from_env()
    if not url:
        raise NothingToDoError(
            f"{search_index.URL_VARIABLE} is empty: the profile search is off, and PostgreSQL's full text finds items"
        )
    items = catalogue_table.read_items(settings.paths.catalogue)
    database = database_from_env()
    ensure_schema(database)
    ensure_service_schema(database)
    return search_index.rebuild(url, catalogue_table.read_all_items(database, items))


def refresh_service(*, settings: Settings) -> dict[str, Any]:  # noqa: ARG001 - as every step
    """Let the service look at what is served at once, rather than with its next look.

    `$SERVICE_URL_INTERNAL` says where it is, `$SERVICE_API_KEY` is sent along.

    Returns:
        What it answers: the served generations, the version of the catalogue, the state of its rules.

    Raises:
        ServiceError: If it is away, or refuses. It takes in the catalogue by itself, too, as soon as it can.
    """
    import requests

    url = os.environ.get("SERVICE_URL_INTERNAL") or _SERVICE_URL
    place = urlsplit(url).netloc.rpartition("@")[2]
    key = os.environ.get("SERVICE_API_KEY", "")
    if not key:
        raise ServiceError("SERVICE_API_KEY is not set: the service takes no request without it")
    try:
        # The key goes where it is meant to go, and nowhere else.
        answer = requests.post(
            f"{url.rstrip('/')}/v1/admin/refresh",
            headers={"X-API-Key": key},
            timeout=_SERVICE_SECONDS,
            allow_redirects=False,
        )
        told = answer.json() if answer.headers.get("Content-Type", "").startswith("application/json") else {}
    except (requests.RequestException, ValueError) as error:
        raise ServiceError(f"the service at {place} does not answer ({type(error).__name__}): is it running?") from None
    if answer.status_code != requests.codes.ok or not isinstance(told, dict):
        reason = told.get("detail", "") if isinstance(told, dict) else ""
        raise ServiceError(f"the service at {place} answers {answer.status_code}: {reason or 'no reason given'}")
    logger.info("the service looked at what is served: version %s of the catalogue", told.get("catalogue"))
    return told


def log_features(*, settings: Settings) -> dict[str, Any]:
    """Log what the catalogue is like to the MLflow experiment `catalogue`, one run a crawl.

    A crawl that was logged already is not logged again.

    Args:
        settings: `paths.catalogue` is where the crawl lies.

    Returns:
        `{"run": id, "logged": bool, "metrics": {name: value}}`.

    Raises:
        NothingToDoError: If there was no crawl yet, or there is no place to log to.
        TrackingError: If MLflow is away or refuses.
    """
    uri = tracking.tracking_uri(settings.paths)
    if uri is None:
        raise NothingToDoError("MLFLOW_TRACKING_URI is not set, and there is no folder for a local store")
    folder = settings.paths.catalogue
    items = catalogue_table.read_items(folder)
    fingerprint = catalogue_table.fingerprint(folder)
    run = tracking.find_run(uri, experiment=EXPERIMENT, fingerprint=fingerprint)
    described = catalogue_features.describe(items.to_pylist())
    if run is not None:
        logger.info("this crawl is logged already, as run %s", run)
        return {"run": run, "logged": False, "metrics": described.metrics}
    ids = set(items[ITEM].to_pylist())
    metrics = dict(described.metrics)
    before = tracking.newest_file(uri, experiment=EXPERIMENT, name=_IDS)
    if before is not None:
        known = set(json.loads(before))
        metrics |= {"new": float(len(ids - known)), "gone": float(len(known - ids))}
    run = tracking.log_run(
        uri,
        experiment=EXPERIMENT,
        name=catalogue_table.name_of(items),
        fingerprint=fingerprint,
        metrics=metrics,
        files={_IDS: json.dumps(sorted(ids)).encode(), "categories.json": described.table_json},
    )
    logger.info("logged %d figures of %d items", len(metrics), items.num_rows)
    return {"run": run, "logged": True, "metrics": metrics}
