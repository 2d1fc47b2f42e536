"""What every answer says to browsers, and who may write."""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import TYPE_CHECKING, Annotated

from fastapi import HTTPException, Security
from fastapi.security import APIKeyHeader

from shortlist.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

API_KEY_HEADER = APIKeyHeader(
    name="X-API-Key",
    scheme_name="ApiKey",
    description="The service's `SERVICE_API_KEY`. Everything that changes something asks for it.",
    auto_error=False,
)

_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)
_CSP_NAME = b"content-security-policy"
_ORIGIN = re.compile(r"https?://[A-Za-z0-9.\-\[\]:]+")
# No X-Frame-Options: it cannot name another origin, and `frame-ancestors` replaces it.
_ALWAYS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
)
_NO_STORE = (b"cache-control", b"no-store")


class SecurityHeadersMiddleware:
    """Adds the security headers to every answer; a Content-Security-Policy that an answer brings along stays.

    Answers below `/v1` are about people, so no browser and no proxy may keep them.

    Args:
        app: The application behind it.
        frame_ancestors: Origins, separated by spaces, that may show the page in a frame: that of the Airflow UI.

    Raises:
        SettingsError: If one of them is not an origin, such as `https://airflow.example.com`.
    """

    def __init__(self, app: ASGIApp, frame_ancestors: str = "") -> None:
        for origin in frame_ancestors.split():
            if not _ORIGIN.fullmatch(origin):
                raise SettingsError(
                    f"SERVICE_FRAME_ANCESTORS holds {origin!r}, which is no origin:"
                    " write scheme://host[:port], several separated by spaces."
                )
        policy = (_CSP_NAME, " ".join([_CSP, *frame_ancestors.split()]).encode())
        self._app = app
        self._own_policy = _ALWAYS
        self._page = (*_ALWAYS, policy)
        self._api = (*_ALWAYS, policy, _NO_STORE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and add the headers to its answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        added = self._api if scope["path"].startswith("/v1/") else self._page

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(message.get("headers", ()))
                brings_policy = any(name == _CSP_NAME for name, _ in headers)
                message = {**message, "headers": [*headers, *(self._own_policy if brings_policy else added)]}
            await send(message)

        await self._app(scope, receive, send_with_headers)


def key_dependency(key: str) -> Callable[[str | None], Coroutine[None, None, None]]:
    """Build the dependency of routes that change something: they want the key in `X-API-Key`.

    The digests are compared, in constant time: how long an answer takes tells nothing of the key, not even its length.

    Args:
        key: The service's key. Empty: nothing may be changed.

    Returns:
        A FastAPI dependency. It answers 401 to a missing or wrong key, and 503 as long as the service has none.
    """
    expected = _digest(key.encode())

    async def require_key(given: Annotated[str | None, Security(API_KEY_HEADER)]) -> None:
        if not key:
            raise HTTPException(503, "SERVICE_API_KEY is not set: set it and start the service again.")
        # Headers arrive decoded as latin-1.
        if not hmac.compare_digest(expected, _digest((given or "").encode("latin-1", "replace"))):
            raise HTTPException(
                401, "The key in X-API-Key is missing or wrong.", headers={"WWW-Authenticate": 'ApiKey realm="service"'}
            )

    return require_key


def _digest(value: bytes) -> bytes:
    return hashlib.sha256(value).digest()
