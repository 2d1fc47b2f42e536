"""The service `search-init`: the users of Elasticsearch, each with what it may do. The same at every start."""

from __future__ import annotations

import base64
import json
import os
import sys
import time
import urllib.error
import urllib.request

# Indexes that a role may use, and how. `monitor` lets clients ask what they talk to.
ROLES = {
    "shortlist-items": {"names": ["shortlist-items", "shortlist-items-*"], "privileges": ["all"]},
    "shortlist-service": {
        "names": ["shortlist-items", "shortlist-items-*"],
        "privileges": ["read", "view_index_metadata"],
    },
    "shortlist-logs": {"names": ["airflow-logs*"], "privileges": ["all"]},
}

# Which variable has the password of the user that plays the role of the same name.
PASSWORDS = {
    "shortlist-items": "ITEMS_SEARCH_PASSWORD",
    "shortlist-service": "SERVICE_SEARCH_PASSWORD",
    "shortlist-logs": "LOGS_SEARCH_PASSWORD",
}

_TRIES = 30


class SearchError(Exception):
    """Says what Elasticsearch refused, without a password."""


def main() -> int:
    """Create or renew the users.

    Returns:
        The exit code.
    """
    try:
        ensure_users(os.environ["ELASTICSEARCH"], dict(os.environ))
    except SearchError as problem:
        print(f"shortlist: {problem}", file=sys.stderr)
        return 1
    return 0


def ensure_users(server: str, secrets: dict[str, str]) -> None:
    """Give Kibana's own user its password, and each of the project's users a role and a password.

    Args:
        server: URL of Elasticsearch, without a user.
        secrets: Holds the passwords, by the names of `PASSWORDS`; `ELASTIC_PASSWORD` is that of the superuser and
            `ELASTICSEARCH_PASSWORD` Kibana's.

    Raises:
        SearchError: If Elasticsearch refuses or does not answer.
    """
    administrator = secrets["ELASTIC_PASSWORD"]
    kibana = {"password": secrets["ELASTICSEARCH_PASSWORD"]}
    _send(server, "user/kibana_system/_password", kibana, administrator)
    for name, index in ROLES.items():
        _send(server, f"role/{name}", {"cluster": ["monitor"], "indices": [index]}, administrator)
        _send(server, f"user/{name}", {"password": secrets[PASSWORDS[name]], "roles": [name]}, administrator)


def _send(server: str, path: str, body: object, administrator: str) -> None:
    login = base64.b64encode(f"elastic:{administrator}".encode()).decode()
    request = urllib.request.Request(  # noqa: S310 - the URL is that of docker-compose.yaml
        f"{server}/_security/{path}",
        data=json.dumps(body).encode(),
        headers={"Authorization": f"Basic {login}", "Content-Type": "application/json"},
        method="PUT",
    )
    problem = ""
    for attempt in range(_TRIES):
        try:
            with urllib.request.urlopen(request, timeout=30):  # noqa: S310
                return
        except urllib.error.HTTPError as error:
            if error.code < 500:
                hint = (
                    ": its volume is older than the secrets of this stack. It holds nothing that cannot be made anew:"
                    " remove it with  docker volume rm, and start again"
                    if error.code == 401
                    else ""
                )
                raise SearchError(f"Elasticsearch refuses {path} with {error.code}{hint}") from None
            problem = str(error.code)
        except OSError as error:
            problem = type(error).__name__
        if attempt < _TRIES - 1:  # its own index of users may still be coming up
            time.sleep(1)
    raise SearchError(f"Elasticsearch does not answer to {path}: {problem}")


if __name__ == "__main__":
    sys.exit(main())
