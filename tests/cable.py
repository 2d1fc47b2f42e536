"""A way to a server that can be cut or fall silent: what a network does to PostgreSQL and Redis."""

from __future__ import annotations

import select
import socket
import threading
from typing import Literal, Self
from urllib.parse import urlsplit, urlunsplit


class Cable:
    """A way to a server that can be cut (connections end, new ones are refused) or fall silent (nothing arrives)."""

    def __init__(self, url: str) -> None:
        self._parts = urlsplit(url)
        self._there = (self._parts.hostname or "", self._parts.port or 0)
        self._state: Literal["whole", "cut", "silent"] = "whole"
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._lock = threading.Lock()
        self._ended = False

    def __enter__(self) -> Self:
        self._listener: socket.socket | None = socket.create_server(("127.0.0.1", 0))
        self._port = int(self._listener.getsockname()[1])
        self._accept()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True
        self.cut()

    @property
    def url(self) -> str:
        """The server's, through the cable."""
        login = self._parts.netloc.rpartition("@")[0]
        return urlunsplit(self._parts._replace(netloc=f"{login}{'@' if login else ''}127.0.0.1:{self._port}"))

    def cut(self) -> None:
        """The other side is gone, and the kernel says so."""
        with self._lock:
            self._state = "cut"
            if self._listener:
                # Closing alone would not wake the thread that accepts.
                self._listener.shutdown(socket.SHUT_RDWR)
                self._listener.close()
                self._listener = None
            for pair in self._pairs:
                for end in pair:
                    end.close()
            self._pairs.clear()

    def silence(self) -> None:
        """The other side hangs: connections are accepted and nothing ever comes back."""
        self._state = "silent"

    def mend(self) -> None:
        """As before; what was connected while it was silent has to connect again."""
        self.cut()
        self._listener = socket.create_server(("127.0.0.1", self._port))
        self._state = "whole"
        self._accept()

    def _accept(self) -> None:
        threading.Thread(target=self._run, args=(self._listener,), daemon=True).start()

    def _run(self, listener: socket.socket) -> None:
        while True:
            try:
                here, _ = listener.accept()
            except OSError:
                return
            try:
                there = socket.create_connection(self._there)
            except OSError:
                here.close()
                continue
            with self._lock:
                self._pairs.append((here, there))
            threading.Thread(target=self._pump, args=(here, there), daemon=True).start()

    def _pump(self, here: socket.socket, there: socket.socket) -> None:
        try:
            while True:
                readable, _, _ = select.select([here, there], [], [], 0.2)
                for end in readable:
                    data = end.recv(65536)
                    if not data:
                        raise ConnectionResetError
                    if self._state == "whole":
                        (there if end is here else here).sendall(data)
        except (OSError, ValueError):
            here.close()
            there.close()
