"""Messages through the Telegram Bot API. The bot token is part of every address, so no address may get out."""

from __future__ import annotations

import logging
import os
import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from shortlist.errors import MessageError

if TYPE_CHECKING:
    from requests import Response

OFFICIAL_API: Final = "https://api.telegram.org"

_LONGEST_TEXT: Final = 4096  # UTF-16 code units
_LONGEST_CAPTION: Final = 1024
_TIMEOUT_SECONDS: Final = 5.0
_WAITS_SECONDS: Final = (1.0, 3.0)  # before the second and the third try
_LONGEST_WAIT_SECONDS: Final = 15.0

_PIECE = re.compile(r"<(?P<end>/?)(?P<tag>[a-z]+)[^<>]*>|&#?\w{1,10};|.", re.DOTALL)


@dataclass(frozen=True)
class TelegramSettings:
    """Which bot writes to which chat.

    Attributes:
        token: The bot's secret.
        chat_id: A number or `@channelname`.
        api: Base URL of the Bot API, or of a server of one's own that speaks it.
    """

    token: str = field(repr=False)
    chat_id: str
    api: str = OFFICIAL_API

    @classmethod
    def from_environment(cls) -> TelegramSettings | None:
        """Read `TELEGRAM_TOKEN`, `TELEGRAM_CHAT_ID` and `TELEGRAM_API`; `None` when token or chat is not set."""
        token = os.environ.get("TELEGRAM_TOKEN", "").strip()
        chat_id = os.environ.get("TELEGRAM_CHAT_ID", "").strip()
        api = os.environ.get("TELEGRAM_API", "").strip() or OFFICIAL_API
        return cls(token, chat_id, api.rstrip("/")) if token and chat_id else None


def send(settings: TelegramSettings, text: str, picture: bytes | None = None) -> None:
    """Send one message; a busy or silent server is tried three times, within a minute.

    Args:
        settings: Where to.
        text: HTML as Telegram knows it, values escaped. Cut when it is too long.
        picture: A PNG, with the text as its caption.

    Raises:
        MessageError: If Telegram refused it or was not reached. Never holds the token.
    """
    # What Telegram echoes back may hold the token as well.
    text = shorten(text.replace(settings.token, "***"), _LONGEST_CAPTION if picture else _LONGEST_TEXT)
    problem = ""
    for wait in (*_WAITS_SECONDS, None):
        problem, asked_wait = _post(settings, text, picture)
        if not problem:
            return
        if wait is None or asked_wait is None or asked_wait > _LONGEST_WAIT_SECONDS:
            break
        time.sleep(asked_wait or wait)
    raise MessageError(f"Telegram did not take the message: {problem.replace(settings.token, '***')}")


def shorten(text: str, limit: int = _LONGEST_TEXT) -> str:
    """Cut HTML to `limit` UTF-16 code units, never inside a tag or an entity; open tags are closed.

    Example:
        >>> shorten("<b>one &amp; two</b>", limit=14)
        '<b>one …</b>'
    """
    if _size(text) <= limit:
        return text
    kept: list[str] = []
    closing: list[str] = []
    used = 0
    for piece in _PIECE.finditer(text):
        pending = closing
        if piece["tag"]:
            pending = closing[1:] if piece["end"] else [f"</{piece['tag']}>", *closing]
        used += _size(piece[0])
        if used + len("…") + sum(map(len, pending)) > limit:
            break
        kept.append(piece[0])
        closing = pending
    return "".join([*kept, "…", *closing])


def _size(text: str) -> int:
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def _post(settings: TelegramSettings, text: str, picture: bytes | None) -> tuple[str, float | None]:
    """Return what went wrong ("" = sent) and the seconds to wait (0 = any, `None` = another try is of no use)."""
    import requests

    body: dict[str, Any] = {"chat_id": settings.chat_id, "parse_mode": "HTML"}
    body |= {"caption": text} if picture else {"text": text, "link_preview_options": {"is_disabled": True}}
    connections = logging.getLogger("urllib3.connectionpool")

    def without_token(record: logging.LogRecord) -> bool:
        return settings.token not in record.getMessage()

    connections.addFilter(without_token)  # at DEBUG it logs the address
    try:
        response = requests.post(
            f"{settings.api}/bot{settings.token}/{'sendPhoto' if picture else 'sendMessage'}",
            json=None if picture else body,
            data=body if picture else None,
            files={"photo": ("plot.png", picture, "image/png")} if picture else None,
            timeout=_TIMEOUT_SECONDS,
            allow_redirects=False,
        )
        answer = _answer(response)
    except requests.RequestException as error:  # its text holds the address
        return type(error).__name__, None if isinstance(error, ValueError) else 0.0
    finally:
        connections.removeFilter(without_token)

    if response.status_code == 200 and answer.get("ok") is True:
        return "", None
    problem = f"{response.status_code} {answer.get('description', 'not an answer of the Bot API')}"
    if response.status_code == 429:
        return problem, _retry_after(answer)
    return problem, 0.0 if response.status_code >= 500 else None


def _answer(response: Response) -> dict[str, Any]:
    try:
        answer = response.json()
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _retry_after(answer: dict[str, Any]) -> float:
    parameters = answer.get("parameters")
    seconds = parameters.get("retry_after") if isinstance(parameters, dict) else None
    return float(seconds) if isinstance(seconds, int | float) and seconds >= 0 else 0.0
