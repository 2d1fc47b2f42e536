"""Puts the service's page into the menu of Airflow, and registers the link from a task to its report."""

from __future__ import annotations

from typing import Any

from airflow.plugins_manager import AirflowPlugin

from dag_support.links import ReportLink, service_url


class ShortlistPages(AirflowPlugin):
    """The page opens inside Airflow; the address is that of the person's browser, not of a container."""

    name = "shortlist_pages"
    external_views: list[dict[str, Any]] = [
        {"name": "Recommendations", "href": service_url(), "destination": "nav", "url_route": "recommendations"}
    ]
    operator_extra_links: list[Any] = [ReportLink()]
