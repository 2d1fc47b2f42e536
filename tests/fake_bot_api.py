"""A Bot API server on this machine that is as strict as Telegram's: token, length and HTML are checked."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from email.message import Message
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from types import TracebackType

TOKEN = "123456:AAE-secret_of-the_bot"

_OPEN_OR_CLOSE = re.compile(r"<(/?)(b|i|u|s|a|code|pre)(?: [^<>]*)?>")
_ENTITY = re.compile(r"&(?:lt|gt|amp|quot|#\d+|#x[0-9a-f]+);")


def html_problem(text: str) -> str | None:
    """What Telegram would say against the markup."""
    stack: list[str] = []
    for end, tag in _OPEN_OR_CLOSE.findall(text):
        if not end:
            stack.append(tag)
        elif not stack or stack.pop() != tag:
            return f"unexpected end tag {tag}"
    plain = _ENTITY.sub("", _OPEN_OR_CLOSE.sub("", text))
    if stack or any(sign in plain for sign in "<>&"):
        return f"unclosed {stack} or stray sign in {plain!r}"
    return None


def _form(kind: str, content: bytes) -> dict[str, Any]:
    """The fields of a multipart form: texts, and the bytes of files."""
    message = BytesParser().parsebytes(f"Content-Type: {kind}\r\n\r\n".encode() + content)
    fields: dict[str, Any] = {}
    for part in message.get_payload():
        assert isinstance(part, Message)
        value = part.get_payload(decode=True)
        assert isinstance(value, bytes)
        name = str(part.get_param("name", header="content-disposition"))
        fields[name] = value if part.get_filename() else value.decode()
    return fields


@dataclass
class FakeBotApi:
    """Runs while its `with` block does.

    Attributes:
        answers: `(status, body)` to give before the normal ones, first come first served.
        messages: The bodies of the messages that were taken.
        requests: How many calls came in.
    """

    answers: list[tuple[int, bytes]] = field(default_factory=list)
    messages: list[dict[str, Any]] = field(default_factory=list)
    requests: int = 0

    def refuse(self, status: int, description: str, **parameters: object) -> None:
        """Answer the next call as Telegram answers an error."""
        body = {"ok": False, "error_code": status, "description": description, "parameters": parameters}
        self.answers.append((status, json.dumps(body).encode()))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def texts(self) -> list[str]:
        return [message.get("text") or message["caption"] for message in self.messages]

    def __enter__(self) -> Self:
        api = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers["Content-Length"]))
                kind = self.headers["Content-Type"]
                body = _form(kind, content) if kind.startswith("multipart/form-data") else json.loads(content)
                status, answer = api._answer(self.path, body)
                self.send_response(status)
                if status in {301, 302}:
                    self.send_header("Location", f"{api.url}/elsewhere")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def do_GET(self) -> None:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b'{"ok":true}')

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, path: str, body: dict[str, Any]) -> tuple[int, bytes]:
        self.requests += 1
        if self.answers:
            return self.answers.pop(0)
        methods = {f"/bot{TOKEN}/sendMessage": ("text", 4096), f"/bot{TOKEN}/sendPhoto": ("caption", 1024)}
        if path not in methods:
            return 401, b'{"ok":false,"error_code":401,"description":"Unauthorized"}'
        name, limit = methods[path]
        problem = html_problem(body[name])
        if len(body[name].encode("utf-16-le")) // 2 > limit:
            problem = "message is too long"
        if name == "caption" and not body["photo"].startswith(b"\x89PNG"):
            problem = "IMAGE_PROCESS_FAILED"
        if problem:
            return 400, json.dumps({"ok": False, "description": f"Bad Request: {problem}"}).encode()
        self.messages.append(body)
        return 200, b'{"ok":true,"result":{}}'
