"""Headers for browsers and the key for writers: over real HTTP, from a process of its own."""

from __future__ import annotations

import asyncio
import hmac
from typing import TYPE_CHECKING

import httpx
import pytest
from fastapi import HTTPException

from service.security import SecurityHeadersMiddleware, key_dependency
from shortlist.errors import SettingsError
from tests.service.small_app import SmallApp

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.types import Receive, Scope, Send

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'self' https://airflow.example.com"
)
ALWAYS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
WRONG = {"detail": "The key in X-API-Key is missing or wrong."}


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with SmallApp() as app, httpx.Client(base_url=app.url) as http:
        yield http


@pytest.mark.parametrize(
    ("path", "status", "expected"),
    [
        ("/", 200, {"content-security-policy": POLICY}),
        ("/missing", 404, {"content-security-policy": POLICY}),
        ("/own-policy", 200, {"content-security-policy": "sandbox"}),
        ("/v1/thing", 200, {"content-security-policy": POLICY, "cache-control": "no-store"}),
        ("/v1/missing", 404, {"content-security-policy": POLICY, "cache-control": "no-store"}),
    ],
)
def test_every_answer_has_the_headers(client: httpx.Client, path: str, status: int, expected: dict[str, str]) -> None:
    answer = client.get(path)
    own = {"content-type", "content-length", "date"}
    assert answer.status_code == status
    assert [pair for pair in sorted(answer.headers.multi_items()) if pair[0] not in own] == sorted(
        (ALWAYS | expected).items()
    )


def test_answers_of_the_limits_have_them_too(client: httpx.Client) -> None:
    answer = client.post("/length", content=b"x" * 1001)
    assert answer.status_code == 413
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("given", ["airflow.example.com", "https://a; script-src *", "*", "https://a/path", "'none'"])
def test_what_is_no_origin_may_not_frame_the_page(given: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None: ...

    with pytest.raises(SettingsError, match=r"^SERVICE_FRAME_ANCESTORS holds .*, which is no origin: write scheme"):
        SecurityHeadersMiddleware(app, given)


@pytest.mark.parametrize("key", ["wrong", "", "Right", "right x", "r", "right" * 5000, "rëght"])
def test_a_wrong_key_is_refused(client: httpx.Client, key: str) -> None:
    answer = client.post("/change", headers=[(b"X-API-Key", key.encode())])
    assert (answer.status_code, answer.json()) == (401, WRONG)
    assert answer.headers["www-authenticate"] == 'ApiKey realm="service"'


def test_keys_are_compared_in_constant_time_and_at_equal_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[tuple[int, int]] = []

    def compare(expected: bytes, given: bytes) -> bool:
        lengths.append((len(expected), len(given)))
        return False

    monkeypatch.setattr(hmac, "compare_digest", compare)
    for key in (None, "", "r", "right", "right" * 5000):
        with pytest.raises(HTTPException):
            asyncio.run(key_dependency("right")(key))
    assert lengths == [(32, 32)] * 5


def test_a_missing_key_is_refused_and_the_right_one_is_not(client: httpx.Client) -> None:
    assert client.post("/change").json() == WRONG
    assert client.post("/change", headers={"X-API-Key": "right"}).json() == "changed"


def test_a_key_may_have_any_letters() -> None:
    with SmallApp(key="schlüssel") as app:
        answer = httpx.post(f"{app.url}/change", headers=[(b"X-API-Key", "schlüssel".encode())])
    assert answer.json() == "changed"


def test_a_service_without_a_key_lets_nobody_write() -> None:
    with SmallApp(key="") as app:
        for headers in ({}, {"X-API-Key": ""}, {"X-API-Key": "x"}):
            answer = httpx.post(f"{app.url}/change", headers=headers)
            assert (answer.status_code, answer.json()) == (
                503,
                {"detail": "SERVICE_API_KEY is not set: set it and start the service again."},
            )


def test_openapi_shows_which_operations_want_the_key(client: httpx.Client) -> None:
    schema = client.get("/openapi.json").json()
    assert schema["components"]["securitySchemes"] == {
        "ApiKey": {
            "type": "apiKey",
            "in": "header",
            "name": "X-API-Key",
            "description": "The service's `SERVICE_API_KEY`. Everything that changes something asks for it.",
        }
    }
    assert schema["paths"]["/change"]["post"]["security"] == [{"ApiKey": []}]
    assert "security" not in schema["paths"]["/length"]["post"]
