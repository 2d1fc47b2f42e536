"""The week of a run. A week begins on Saturday 21:00 UTC, just before the first weekly DAG."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

# What Airflow calls a run that the schedule started, not a person.
SCHEDULED = "scheduled"

_SATURDAY = 5


def week_of(moment: str) -> str:
    """Return the week that an ISO 8601 time lies in, as the ISO date of the Saturday it began on.

    Args:
        moment: With a zone, or in UTC.

    Example:
        >>> week_of("2026-11-21T21:15:00+00:00")
        '2026-11-21'
        >>> week_of("2026-11-21T20:59:59+00:00")
        '2026-11-14'
    """
    time = datetime.fromisoformat(moment)
    time = time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    shifted = time - timedelta(hours=21)
    return (shifted - timedelta(days=(shifted.weekday() - _SATURDAY) % 7)).date().isoformat()
