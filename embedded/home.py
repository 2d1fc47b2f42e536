"""The home of the embedded Airflow: one hidden folder with its settings, secrets, metadata and scratch space."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import signal
import socket
import sys
import time
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from shortlist.errors import SetupError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from embedded.postgres import EmbeddedPostgres

PROJECT = Path(__file__).resolve().parents[1]
_DAY = 24 * 60 * 60
MINIMUM_DISK_BYTES = 3 * 1024**3

_LOCK = "lock"
_SERVICE_LOCK = "serve.lock"

# Variables of another Airflow, Spark or Python set-up would lead tasks there.
_FOREIGN = ("AIRFLOW__", "AIRFLOW_CONFIG", "SPARK_HOME", "SPARK_CONF_DIR", "SPARK_MASTER", "PYSPARK_", "PYTHONPATH")

_SPARK_LOGGING = """\
rootLogger.level = warn
rootLogger.appenderRef.file.ref = file
appender.file.type = File
appender.file.name = file
appender.file.fileName = {log}
appender.file.layout.type = PatternLayout
appender.file.layout.pattern = %d{{yyyy-MM-dd HH:mm:ss}} %p %c{{1}}: %m%n%ex
"""


def home_folder() -> Path:
    """Return the folder of the embedded home: `$SHORTLIST_HOME`, else `.airflow` in the project."""
    return Path(os.environ.get("SHORTLIST_HOME") or PROJECT / ".airflow").absolute()


def log_folder(home: Path) -> Path:
    """Return the folder of everything that is not for the screen."""
    return home / "logs"


def prepare(home: Path) -> None:
    """Create the folders, the Spark settings and, once, the secrets.

    Raises:
        SetupError: If the disk is nearly full or a folder cannot be written.
    """
    try:
        for folder in (home, log_folder(home), home / "spark" / "scratch"):
            folder.mkdir(parents=True, exist_ok=True)
        home.chmod(0o711)  # the database server may run as another user, who must pass
        shared = (PROJECT / "config" / "spark" / "spark-defaults.conf").read_text(encoding="utf-8")
        (home / "spark" / "spark-defaults.conf").write_text(
            f"{shared}\n"
            "# Instead, on this machine: the last line for a name counts.\n"
            "spark.driver.bindAddress 127.0.0.1\n"
            f"spark.driver.memory {driver_megabytes()}m\n"
            f"spark.sql.warehouse.dir {home}/spark/warehouse\n"
            f"spark.sql.shuffle.partitions {2 * (os.cpu_count() or 1)}\n"
            f"spark.ui.enabled {os.environ.get('SPARK_UI') or 'false'}\n",
            encoding="utf-8",
        )
        (home / "spark" / "log4j2.properties").write_text(
            _SPARK_LOGGING.format(log=log_folder(home) / "spark.log"), encoding="utf-8"
        )
        _write_secrets(home)
        for left_behind in (home / "spark" / "scratch").iterdir():  # by a Spark that was killed
            if left_behind.stat().st_mtime < time.time() - _DAY:
                shutil.rmtree(left_behind, ignore_errors=True)
    except OSError as error:
        raise SetupError(
            f"{error.filename or home} cannot be written ({error.strerror}): give this user the right to write to"
            " the project's folder, or move the project to a folder of yours."
        ) from error
    free = shutil.disk_usage(home).free
    if free < MINIMUM_DISK_BYTES:
        raise SetupError(
            f"Only {free / 1024**3:.1f} GiB are free on the disk of {home}: at least"
            f" {MINIMUM_DISK_BYTES / 1024**3:.0f} GiB are needed. `make clean` removes what earlier runs made."
        )


@contextmanager
def exclusive(home: Path, command: str) -> Iterator[None]:
    """Keep two commands from working in the same home. The service works beside all others, but only once.

    Raises:
        SetupError: If another one does.
    """
    with (home / (_SERVICE_LOCK if command == "serve" else _LOCK)).open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise SetupError(
                f"`make {lock.read().partition(' ')[0]}` is still at work in {home}: wait for its end, or `make stop`."
            ) from None
        lock.truncate(0)
        lock.write(f"{command} {os.getpid()}")
        lock.flush()
        # A shell starts its background jobs deaf to it, but `stop` must reach them.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        yield


def stop(home: Path) -> None:
    """Interrupt the commands that work in this home, wait for their end, and stop a database that was left behind."""
    from embedded.postgres import EmbeddedPostgres

    if not home.is_dir():
        return
    with ExitStack() as locks:
        for name in (_SERVICE_LOCK, _LOCK):
            lock = locks.enter_context((home / name).open("a+"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                os.kill(int(lock.read().partition(" ")[2]), signal.SIGINT)
                fcntl.flock(lock, fcntl.LOCK_EX)
        if (home / "postgres").is_dir():
            EmbeddedPostgres(home / "postgres").stop()


def database(home: Path) -> AbstractContextManager[str]:
    """Return the database to publish to: `$RECS_DATABASE_URL`, else one of our own that runs inside the `with` block.

    Entering gives the URL, which holds the password.
    """
    from embedded.postgres import EmbeddedPostgres

    if url := os.environ.get("RECS_DATABASE_URL"):
        return nullcontext(url)
    return _running(EmbeddedPostgres(home / "postgres"))


@contextmanager
def _running(server: EmbeddedPostgres) -> Iterator[str]:
    with server:
        yield server.url


def environment(home: Path, *, java_home: Path, database_url: str, api_port: int = 8080) -> dict[str, str]:
    """Return the whole environment of a process that runs DAGs or Airflow's servers.

    Args:
        home: Folder prepared by `prepare`.
        java_home: From `embedded.java.choose_java`.
        database_url: Of the database that recommendations are published to; holds its password.
        api_port: Of Airflow's UI.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    base_url = f"http://localhost:{api_port}"
    return kept | {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(PROJECT / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(PROJECT / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(log_folder(home)),
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
        "AIRFLOW__LOGGING__NAMESPACE_LEVELS": "steps=INFO shortlist=INFO",
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(api_port),
        "AIRFLOW__API__BASE_URL": base_url,
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{base_url}/execution/",
        "AIRFLOW_CONN_SPARK_DEFAULT": json.dumps({"conn_type": "spark", "host": "local[*]"}),
        "RECS_DATABASE_URL": database_url,
        "JAVA_HOME": str(java_home),
        "SPARK_CONF_DIR": str(home / "spark"),
        "SPARK_LOCAL_DIRS": str(home / "spark" / "scratch"),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "PYSPARK_PYTHON": sys.executable,
        "PYTHONPATH": str(PROJECT / "plugins"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
    }


def create_metadata() -> None:
    """Create or upgrade Airflow's own tables. The environment must be set before Airflow is first imported."""
    from airflow.utils import db

    db.initdb()


def admin_password(home: Path) -> str:
    """Return the password of the UI's user `admin`."""
    return str(json.loads((home / "simple_auth_manager_passwords.json.generated").read_text(encoding="utf-8"))["admin"])


def api_key(home: Path) -> Path:
    """Return the file with the key for writing to the service; made on the first call, readable by its owner alone."""
    file = home / "service-api-key"
    _write_private(file, secrets.token_urlsafe(24))
    return file


def check_port(port: int, command: str) -> None:
    """Make sure that a server can listen on this port.

    Args:
        port: To listen on.
        command: What the user called; it takes another `PORT`.

    Raises:
        SetupError: If another program listens there, or the number is no port.
    """
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
    except (OSError, OverflowError) as error:
        raise SetupError(
            f"Port {port} cannot be used ({getattr(error, 'strerror', None) or error}): stop the program that listens"
            f" there, or choose another port, for example `make {command} PORT={port % 60000 + 1001}`."
        ) from error


def driver_megabytes() -> int:
    """Return the memory of the Spark driver: a third of the machine's, between 1 and 3 GiB."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 1024**2
    return min(3072, max(1024, total // 3))


def _write_secrets(home: Path) -> None:
    """Airflow reads `airflow.cfg` in its home; everything that is no secret comes from the environment."""
    from cryptography.fernet import Fernet

    _write_private(
        home / "airflow.cfg",
        f"[core]\nfernet_key = {Fernet.generate_key().decode()}\n\n"
        f"[api]\nsecret_key = {secrets.token_urlsafe(64)}\n\n"
        f"[api_auth]\njwt_secret = {secrets.token_urlsafe(64)}\n",
    )
    _write_private(
        home / "simple_auth_manager_passwords.json.generated", json.dumps({"admin": secrets.token_urlsafe(12)})
    )


def _write_private(file: Path, content: str) -> None:
    """Write a file only its owner can read, unless it is there."""
    if file.exists():
        return
    temporary = file.with_name(f"{file.name}.tmp")
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as stream:
        stream.write(content)
    temporary.rename(file)
