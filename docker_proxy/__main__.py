"""Starts the proxy: `python -m docker_proxy`.

`COMPOSE_PROJECT_NAME` says whose containers they are and `AIRFLOW_UID` (50000) as whom they run. The engine's socket is
`/var/run/docker.sock` and the settings are `/opt/airflow/config/containers.toml`; `DOCKER_PROXY_SOCKET`,
`DOCKER_PROXY_SETTINGS`, `DOCKER_PROXY_HOST` and `DOCKER_PROXY_PORT` (2375) change that.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from pathlib import Path

from docker_proxy.engine import Engine
from docker_proxy.errors import EngineError, ProxyError
from docker_proxy.filter import Filter
from docker_proxy.server import Server
from docker_proxy.settings import Settings, load_settings

logger = logging.getLogger("docker_proxy")


def main() -> int:
    """Let through what is allowed until told to stop.

    Returns:
        The exit code. A known error is one line on stderr and the code 1.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    socket = os.environ.get("DOCKER_PROXY_SOCKET") or "/var/run/docker.sock"
    file = os.environ.get("DOCKER_PROXY_SETTINGS") or "/opt/airflow/config/containers.toml"
    try:
        settings = load_settings(
            Path(file),
            project=os.environ.get("COMPOSE_PROJECT_NAME", ""),
            uid=os.environ.get("AIRFLOW_UID") or "50000",
            socket=socket,
        )
        asyncio.run(_serve(settings, socket))
    except (ProxyError, OSError) as error:
        print(f"docker-proxy: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


async def _serve(settings: Settings, socket: str) -> None:
    proxy = Filter(Engine(socket), settings)
    host = os.environ.get("DOCKER_PROXY_HOST") or "127.0.0.1"
    server = await Server(proxy).start(host, int(os.environ.get("DOCKER_PROXY_PORT") or 2375))
    port = server.sockets[0].getsockname()[1]
    logger.info("listening on %s:%d: %s", host, port, _in_one_line(settings))
    try:
        seen = (await proxy.machine()).folders
        if missing := [mount for mount in settings.mounts if mount.startswith("/") and mount not in seen]:
            logger.warning("not mounted into the proxy, so no container gets them: %s", ", ".join(missing))
    except EngineError as error:
        logger.warning("%s", error)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    sweeping = asyncio.create_task(proxy.sweep())
    stopping = asyncio.create_task(stop.wait())
    # A sweep that fails ends the proxy, which is started again, rather than leaving containers for ever.
    await asyncio.wait((sweeping, stopping), return_when=asyncio.FIRST_COMPLETED)
    server.close()
    if sweeping.done():
        await sweeping


def _in_one_line(settings: Settings) -> str:
    mounts = ", ".join(mount.source + (" (read-only)" if mount.read_only else "") for mount in settings.mounts.values())
    return (
        f"images {', '.join(settings.images)}; networks {', '.join(settings.networks)}; mounts {mounts or 'none'};"
        f" user {settings.user}; {settings.limits}"
    )


if __name__ == "__main__":
    sys.exit(main())
