"""What must never be seen: the secrets of the environment, taken out of texts for people and logs."""

from __future__ import annotations

import os
from urllib.parse import unquote, urlsplit

_SECRETS = (
    "TELEGRAM_TOKEN",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "SERVICE_API_KEY",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "DATASETS_TOKEN",
)
_URLS = ("RECS_DATABASE_URL", "FEATURES_REDIS_URL", "MLFLOW_TRACKING_URI", "ELASTICSEARCH_URL")

# Shorter values are words that a text holds anyway; Airflow's own masker draws the same line.
_SHORTEST = 5


def secrets(*further: str) -> tuple[str, ...]:
    """Return the secret values of this process's environment, the longest first; `further` names more of them."""
    values = {os.environ.get(name, "") for name in (*_SECRETS, *further)}
    for name in (*_URLS, *further):
        url = os.environ.get(name, "")
        try:
            password = urlsplit(url).password or ""
        except ValueError:  # not a URL: who knows where in it the password is
            password = url
        values |= {password, unquote(password)}
    return tuple(sorted((value for value in values if len(value) >= _SHORTEST), key=len, reverse=True))


def redact(text: str, *further: str) -> str:
    """Replace every secret of the environment in `text` by `***`; `further` names more variables that hold one."""
    for value in secrets(*further):
        text = text.replace(value, "***")
    return text
