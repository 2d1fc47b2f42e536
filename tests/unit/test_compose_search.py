"""The service `search-init` against a server that writes down what it is told: the real one is not everywhere."""

from __future__ import annotations

import base64
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from compose import search

if TYPE_CHECKING:
    from collections.abc import Iterator

SECRETS = {
    "ELASTIC_PASSWORD": "of-the-superuser",
    "ELASTICSEARCH_PASSWORD": "of-kibana",
    "ITEMS_SEARCH_PASSWORD": "of-the-jobs",
    "SERVICE_SEARCH_PASSWORD": "of-the-service",
    "LOGS_SEARCH_PASSWORD": "of-the-logs",
}


class Server(HTTPServer):
    """Answers with `codes` one after another, then with 200."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.codes: list[int] = []
        self.told: list[tuple[str, str, Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_PUT(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        user = base64.b64decode(self.headers["Authorization"].removeprefix("Basic ")).decode()
        code = self.server.codes.pop(0) if self.server.codes else 200
        if code == 200:
            self.server.told.append((self.path, user, body))
        self.send_response(code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    with Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_every_user_gets_its_own_password_and_no_more_than_its_indexes(server: Server) -> None:
    search.ensure_users(server.url, SECRETS)

    items = ["shortlist-items", "shortlist-items-*"]
    assert {user for _, user, _ in server.told} == {"elastic:of-the-superuser"}
    assert {path.removeprefix("/_security/"): body for path, _, body in server.told} == {
        "user/kibana_system/_password": {"password": "of-kibana"},
        "role/shortlist-items": {"cluster": ["monitor"], "indices": [{"names": items, "privileges": ["all"]}]},
        "user/shortlist-items": {"password": "of-the-jobs", "roles": ["shortlist-items"]},
        "role/shortlist-service": {
            "cluster": ["monitor"],
            "indices": [{"names": items, "privileges": ["read", "view_index_metadata"]}],
        },
        "user/shortlist-service": {"password": "of-the-service", "roles": ["shortlist-service"]},
        "role/shortlist-logs": {
            "cluster": ["monitor"],
            "indices": [{"names": ["airflow-logs*"], "privileges": ["all"]}],
        },
        "user/shortlist-logs": {"password": "of-the-logs", "roles": ["shortlist-logs"]},
    }


def test_a_server_that_is_still_coming_up_is_asked_again(server: Server) -> None:
    server.codes = [503, 503]

    search.ensure_users(server.url, SECRETS)

    assert len(server.told) == 7


@pytest.mark.parametrize(
    ("codes", "told"),
    [
        ([401], "refuses user/kibana_system/_password with 401: its volume is older than the secrets"),
        ([400], "refuses user/kibana_system/_password with 400$"),
        ([503] * 99, "does not answer to user/kibana_system/_password: 503"),
    ],
)
def test_a_refusal_is_told_without_a_password(
    server: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, codes: list[int], told: str
) -> None:
    server.codes = codes
    for name, value in {**SECRETS, "ELASTICSEARCH": server.url}.items():
        monkeypatch.setenv(name, value)

    assert search.main() == 1

    message = capsys.readouterr().err
    assert message.startswith("shortlist: Elasticsearch ")
    with pytest.raises(search.SearchError, match=told):
        raise search.SearchError(message.strip())
    assert not any(value in message for value in SECRETS.values())
