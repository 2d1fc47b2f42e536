"""What the service is told by its environment: addresses and secrets. Everything else is in `config/pipeline.toml`."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from shortlist.errors import SettingsError
from shortlist.settings import PROJECT_ROOT


@dataclass(frozen=True)
class Environment:
    """Where the parts are. URLs and the key are secrets and never show in a repr, log or answer.

    Attributes:
        database_url: Of `recs`.
        redis_url: Of recent events; empty: lists are not blended with them.
        features_redis_url: Of the feature store, whose user is forgotten, too; empty: there is none.
        elasticsearch_url: Where items are searched; empty: PostgreSQL finds them.
        api_key: What a client that changes something must send; empty: nobody may.
        rules_file: Business rules.
        last_known_file: Where the newest default list is kept for a start without PostgreSQL; empty: nowhere.
        frame_ancestors: Origins that may show the page in a frame, such as Airflow's, separated by spaces.
    """

    database_url: str = field(repr=False)
    redis_url: str = field(default="", repr=False)
    features_redis_url: str = field(default="", repr=False)
    elasticsearch_url: str = field(default="", repr=False)
    api_key: str = field(default="", repr=False)
    rules_file: str = str(PROJECT_ROOT / "config" / "rules.toml")
    last_known_file: str = ""
    frame_ancestors: str = ""

    @classmethod
    def from_os(cls, *, last_known_file: str) -> Environment:
        """Read them.

        `RECS_DATABASE_URL`, `SERVICE_REDIS_URL`, `FEATURES_REDIS_URL`, `ELASTICSEARCH_URL`, `SERVICE_API_KEY`,
        `SERVICE_RULES` and `AIRFLOW_URL`, in this order of the attributes.

        Args:
            last_known_file: As the attribute.

        Raises:
            SettingsError: If the database is not named.
        """
        if not os.environ.get("RECS_DATABASE_URL"):
            raise SettingsError(
                "RECS_DATABASE_URL is not set: give the service postgresql://user:password@host:5432/recs"
            )
        redis_url = os.environ.get("SERVICE_REDIS_URL", "")
        return cls(
            database_url=os.environ["RECS_DATABASE_URL"],
            redis_url=redis_url,
            features_redis_url=os.environ.get("FEATURES_REDIS_URL") or _features_beside(redis_url),
            elasticsearch_url=os.environ.get("ELASTICSEARCH_URL", "").strip(),
            api_key=os.environ.get("SERVICE_API_KEY", ""),
            rules_file=os.environ.get("SERVICE_RULES") or cls.rules_file,
            last_known_file=last_known_file,
            frame_ancestors=os.environ.get("AIRFLOW_URL") or "http://localhost:8080",
        )


def _features_beside(redis_url: str) -> str:
    """The feature store of compose: database 2 of the same Redis."""
    return urlsplit(redis_url)._replace(path="/2").geturl() if redis_url else ""
