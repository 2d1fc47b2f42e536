"""The Telegram client against a real HTTP server that is as strict as Telegram's (fault 56)."""

from __future__ import annotations

import logging
import socket
import time
import traceback

import pytest

from shortlist.errors import MessageError
from shortlist.stores import telegram
from shortlist.stores.telegram import TelegramSettings, send, shorten
from tests.fake_bot_api import TOKEN, FakeBotApi, html_problem

OTHER_TOKEN = "999:AAE-of-another-bot"


@pytest.fixture
def settings(bot_api: FakeBotApi, monkeypatch: pytest.MonkeyPatch) -> TelegramSettings:
    monkeypatch.setattr(telegram, "_WAITS_SECONDS", (0.01, 0.01))
    return TelegramSettings(TOKEN, "-1001", bot_api.url)


def everything_said_by(error: BaseException) -> str:
    return "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format()) + repr(error)


def test_a_message_arrives_as_html_without_a_link_preview(settings: TelegramSettings, bot_api: FakeBotApi) -> None:
    send(settings, "<b>done</b> 1 &lt; 2 ✅")

    assert bot_api.messages == [
        {
            "chat_id": "-1001",
            "text": "<b>done</b> 1 &lt; 2 ✅",
            "parse_mode": "HTML",
            "link_preview_options": {"is_disabled": True},
        }
    ]


def test_a_picture_arrives_with_the_text_as_its_caption(settings: TelegramSettings, bot_api: FakeBotApi) -> None:
    send(settings, f"<b>done</b>{'x' * 2000}", b"\x89PNG and more")

    [message] = bot_api.messages
    assert message["photo"] == b"\x89PNG and more"
    assert message["caption"].startswith("<b>done</b>xxx")
    assert len(message["caption"]) == 1024
    assert (message["chat_id"], message["parse_mode"]) == ("-1001", "HTML")


def test_429_is_waited_out(settings: TelegramSettings, bot_api: FakeBotApi) -> None:
    bot_api.refuse(429, "Too Many Requests: retry after 1", retry_after=1)
    began = time.monotonic()

    send(settings, "hello")

    assert time.monotonic() - began >= 1
    assert bot_api.texts == ["hello"]


def test_429_that_asks_for_too_long_a_wait_is_given_up_at_once(settings: TelegramSettings, bot_api: FakeBotApi) -> None:
    bot_api.refuse(429, "Too Many Requests: retry after 600", retry_after=600)
    began = time.monotonic()

    with pytest.raises(MessageError, match="429 Too Many Requests: retry after 600"):
        send(settings, "hello")

    assert time.monotonic() - began < 60
    assert bot_api.requests == 1


@pytest.mark.parametrize("parameters", [{}, {"retry_after": "soon"}, {"retry_after": -5}])
def test_429_without_a_sensible_wait_is_tried_again(
    settings: TelegramSettings, bot_api: FakeBotApi, parameters: dict[str, object]
) -> None:
    bot_api.refuse(429, "Too Many Requests", **parameters)

    send(settings, "hello")

    assert bot_api.texts == ["hello"]


def test_a_server_error_is_tried_three_times(settings: TelegramSettings, bot_api: FakeBotApi) -> None:
    bot_api.answers = [(502, b"<html>Bad Gateway</html>")] * 3

    with pytest.raises(MessageError, match="502 not an answer of the Bot API"):
        send(settings, "hello")

    assert bot_api.requests == 3


def test_a_server_error_that_passes_does_not_lose_the_message(settings: TelegramSettings, bot_api: FakeBotApi) -> None:
    bot_api.answers = [(500, b""), (503, b"[]")]

    send(settings, "hello")

    assert bot_api.texts == ["hello"]


def test_a_bad_token_is_not_tried_again_and_not_told(bot_api: FakeBotApi) -> None:
    wrong = TelegramSettings(OTHER_TOKEN, "-1001", bot_api.url)

    with pytest.raises(MessageError, match="401 Unauthorized") as caught:
        send(wrong, "hello")

    assert bot_api.requests == 1
    assert OTHER_TOKEN not in everything_said_by(caught.value)


def test_telegram_down_is_an_error_without_the_token_in_text_chain_or_locals(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(telegram, "_WAITS_SECONDS", (0.01, 0.01))
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = TelegramSettings(TOKEN, "-1001", f"http://127.0.0.1:{closed.getsockname()[1]}")

        with pytest.raises(MessageError, match="ConnectionError") as caught:
            send(nobody, "hello")

    assert TOKEN not in everything_said_by(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_a_silent_server_is_left_after_the_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telegram, "_WAITS_SECONDS", (0.01, 0.01))
    monkeypatch.setattr(telegram, "_TIMEOUT_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        with pytest.raises(MessageError, match="ReadTimeout"):
            send(TelegramSettings(TOKEN, "-1001", f"http://127.0.0.1:{silent.getsockname()[1]}"), "hello")


@pytest.mark.parametrize("api", ["127.0.0.1:1", "ftp://127.0.0.1", "http://[half", "http://"])
def test_an_api_address_that_is_none_is_an_error_without_the_token(api: str) -> None:
    with pytest.raises(MessageError) as caught:
        send(TelegramSettings(TOKEN, "-1001", api), "hello")

    assert TOKEN not in everything_said_by(caught.value)


@pytest.mark.parametrize("answer", [(200, b"<html>Welcome to our Wi-Fi</html>"), (302, b""), (200, b'{"ok":false}')])
def test_an_answer_that_is_not_telegrams_yes_is_an_error(
    settings: TelegramSettings, bot_api: FakeBotApi, answer: tuple[int, bytes]
) -> None:
    bot_api.answers = [answer]

    with pytest.raises(MessageError):
        send(settings, "hello")

    assert bot_api.requests == 1


def test_an_echo_of_the_token_by_the_server_is_not_told(settings: TelegramSettings, bot_api: FakeBotApi) -> None:
    bot_api.refuse(400, f"Bad Request: no such bot {TOKEN}")

    with pytest.raises(MessageError, match=r"no such bot \*\*\*"):
        send(settings, "hello")


def test_the_token_inside_a_message_is_blotted_out(settings: TelegramSettings, bot_api: FakeBotApi) -> None:
    send(settings, f"failed to post to https://api.telegram.org/bot{TOKEN}/sendMessage")

    assert bot_api.texts == ["failed to post to https://api.telegram.org/bot***/sendMessage"]


def test_the_token_is_in_no_log_even_at_debug(
    settings: TelegramSettings, bot_api: FakeBotApi, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        send(settings, "hello")

    assert "Starting new HTTP connection" in caplog.text  # the log is open
    assert TOKEN not in caplog.text


def test_the_token_is_not_in_the_repr() -> None:
    assert repr(TelegramSettings(TOKEN, "-1001")) == (
        "TelegramSettings(chat_id='-1001', api='https://api.telegram.org')"
    )


@pytest.mark.parametrize(
    "text",
    [
        "x" * 5000,
        "<b>" + "y" * 5000 + "</b>",
        "&amp;" * 2000,
        "<b>title</b> <i><b>" + "&lt;tag&gt; " * 1000 + "</b></i>",
        "😀" * 3000,
    ],
    ids=["plain", "open tag", "entities", "nested tags", "beyond the basic plane"],
)
def test_an_over_long_message_is_cut_and_still_taken(
    settings: TelegramSettings, bot_api: FakeBotApi, text: str
) -> None:
    send(settings, text)

    (sent,) = bot_api.texts
    assert 4000 < len(sent.encode("utf-16-le")) // 2 <= 4096
    assert "…" in sent


@pytest.mark.parametrize("limit", range(30, 60))
def test_no_cut_breaks_a_tag_or_an_entity(limit: int) -> None:
    text = '<b>one &amp; <i>two</i></b> &lt;x&gt; <a href="http://a/?b&amp;c">link</a> 😀😀 tail'

    cut = shorten(text, limit)

    assert html_problem(cut) is None
    assert len(cut.encode("utf-16-le")) // 2 <= limit
    assert cut.endswith(("…", "…</b>", "…</i></b>", "…</a>"))


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TELEGRAM_TOKEN", f" {TOKEN}\n")
    monkeypatch.setenv("TELEGRAM_CHAT_ID", "@shop")
    monkeypatch.setenv("TELEGRAM_API", "http://localhost:8081/")

    assert TelegramSettings.from_environment() == TelegramSettings(TOKEN, "@shop", "http://localhost:8081")


@pytest.mark.parametrize("missing", ["TELEGRAM_TOKEN", "TELEGRAM_CHAT_ID"])
@pytest.mark.parametrize("value", [None, " "])
def test_without_token_or_chat_nothing_is_configured(
    monkeypatch: pytest.MonkeyPatch, missing: str, value: str | None
) -> None:
    monkeypatch.setenv("TELEGRAM_TOKEN", TOKEN)
    monkeypatch.setenv("TELEGRAM_CHAT_ID", "@shop")
    if value is None:
        monkeypatch.delenv(missing)
    else:
        monkeypatch.setenv(missing, value)

    assert TelegramSettings.from_environment() is None
