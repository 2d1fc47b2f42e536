"""What somebody who has the account's key tries beside shipping. sshd allows all of it to others here.

The key is one whose line in the file of keys restricts nothing, so that sshd's settings alone must hold.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import paramiko
import pytest

from tests.deployment.conftest import PROJECT, DeployServer, Repository, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def ssh(server: DeployServer, *words: str, command: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    address = f"{server.user}@127.0.0.1"
    return run(
        "ssh", *server.options, "-p", server.port, *words, address, *command, check=False, stdin=subprocess.DEVNULL
    )


@contextmanager
def connected(server: DeployServer) -> Iterator[paramiko.SSHClient]:
    client = paramiko.SSHClient()
    client.load_host_keys(str(server.known_hosts))
    client.connect(
        "127.0.0.1", server.port, server.user, key_filename=str(server.bare_key), allow_agent=False, look_for_keys=False
    )
    with client:
        yield client


@pytest.mark.parametrize(
    "command",
    [
        ("id",),
        ("sh", "-c", "id"),
        ("/bin/sh",),
        ("scp", "-t", "/project"),
        ("rsync", "--server", ".", "/"),
        ("cat", "/etc/passwd"),
    ],
    ids=" ".join,
)
def test_no_command_runs(server: DeployServer, command: tuple[str, ...]) -> None:
    """Whatever is asked for, SFTP answers, waits for its own kind of words and ends with the connection."""
    tried = ssh(server, command=command)
    assert (tried.returncode != 0, "uid=" in tried.stdout, "root:" in tried.stdout) == (True, False, False)


def test_there_is_no_shell_and_no_terminal(server: DeployServer) -> None:
    tried = ssh(server, "-tt")
    assert tried.returncode != 0
    assert "PTY allocation request failed" in tried.stderr
    with connected(server) as client:
        channel = client.get_transport().open_session()
        channel.invoke_shell()  # granted, but what answers is SFTP
        channel.settimeout(10)
        with suppress(OSError):  # closed before anything is sent
            channel.sendall(b"id; echo here\n")
        assert b"uid=" not in (channel.recv(1000) or b"")


def test_nothing_is_forwarded_to_a_port(server: DeployServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, connected(server) as client:
        with pytest.raises(paramiko.ChannelException, match="Administratively prohibited"):
            client.get_transport().open_channel("direct-tcpip", listener.getsockname(), ("127.0.0.1", 1))
        listener.settimeout(0.5)
        with pytest.raises(TimeoutError):
            listener.accept()


def test_nothing_is_forwarded_to_a_socket(server: DeployServer, tmp_path: Path) -> None:
    """Such as the container engine's."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(server.project / "socket"))
        (server.project / "socket").chmod(0o777)
        listener.listen()
        here = tmp_path / "here"
        words = ["ssh", *server.options, "-p", str(server.port), "-N", "-L", f"{here}:/project/socket"]
        with subprocess.Popen([*words, f"{server.user}@127.0.0.1"], stderr=subprocess.DEVNULL) as forwarding:
            try:
                for _ in range(300):
                    if here.exists():
                        break
                    time.sleep(0.1)
                with socket.socket(socket.AF_UNIX) as asking:
                    asking.settimeout(30)
                    asking.connect(str(here))
                    assert asking.recv(1) == b""
            finally:
                forwarding.terminate()
        listener.settimeout(0.5)
        with pytest.raises(TimeoutError):
            listener.accept()


def test_nothing_is_forwarded_in(server: DeployServer) -> None:
    with connected(server) as client, pytest.raises(paramiko.SSHException):
        client.get_transport().request_port_forward("127.0.0.1", 0)
    tried = ssh(server, "-N", "-o", "ExitOnForwardFailure=yes", "-R", "/project/socket:127.0.0.1:1")
    assert (tried.returncode != 0, server.everything()) == (True, set())


@pytest.mark.parametrize("kind", ["auth-agent-req@openssh.com", "x11-req"])
def test_no_agent_and_no_display_are_forwarded(server: DeployServer, kind: str) -> None:
    with connected(server) as client:
        transport = client.get_transport()
        assert transport is not None
        channel = transport.open_session()
        message = paramiko.Message()
        message.add_byte(bytes([98]))  # SSH_MSG_CHANNEL_REQUEST
        message.add_int(channel.remote_chanid)
        message.add_string(kind)
        message.add_boolean(True)
        if kind == "x11-req":
            message.add_boolean(False)
            message.add_string("MIT-MAGIC-COOKIE-1")
            message.add_string("0" * 32)
            message.add_int(0)
        channel._event_pending()
        transport._send_user_message(message)
        with pytest.raises((paramiko.SSHException, EOFError)):
            channel._wait_for_event()


def test_a_second_session_in_one_connection_is_refused(server: DeployServer) -> None:
    with connected(server) as client:
        client.open_sftp()
        with pytest.raises(paramiko.SSHException):
            client.open_sftp()


@pytest.mark.parametrize("way", ["password", "keyboard-interactive"])
def test_no_password_is_asked_for(server: DeployServer, way: str) -> None:
    transport = paramiko.Transport(("127.0.0.1", server.port))
    try:
        transport.start_client(timeout=30)
        ways: dict[str, Callable[[], object]] = {
            "password": lambda: transport.auth_password(server.user, "", fallback=False),
            "keyboard-interactive": lambda: transport.auth_interactive(server.user, lambda *_: [""]),
        }
        with pytest.raises(paramiko.BadAuthenticationType) as refused:
            ways[way]()
        assert refused.value.allowed_types == ["publickey"]
    finally:
        transport.close()


OUTSIDE = ["/outside", "/project/../outside", "/project/../../../../../outside", "/etc/outside", "../outside"]
ATTEMPTS: dict[str, Callable[[paramiko.SFTPClient], object]] = {
    **{f"write {path}": partial(paramiko.SFTPClient.open, filename=path, mode="w") for path in OUTSIDE},
    "make a folder outside": lambda sftp: sftp.mkdir("/folder"),
    "make a link outside": lambda sftp: sftp.symlink("/etc", "/link"),
    "remove its folder": lambda sftp: sftp.rmdir("/project"),
    "replace its folder": lambda sftp: sftp.posix_rename("/project", "/else"),
    "read the server's users": lambda sftp: sftp.open("/etc/passwd"),
    "read them by a path": lambda sftp: sftp.open("/project/../../../../etc/passwd"),
    "read them by a link": lambda sftp: sftp.open("/project/to-users"),
    "read them by a relative link": lambda sftp: sftp.open("/project/to-users-up"),
    "list the server's root by a link": lambda sftp: sftp.listdir("/project/to-root/etc"),
    "write through a link": lambda sftp: sftp.open("/project/to-root/srv/outside", "w"),
    "change rights": lambda sftp: sftp.chmod("/project/own", 0o4777),
    "change rights of an open file": lambda sftp: sftp.open("/project/own", "r+").chmod(0o4777),
    "change the owner": lambda sftp: sftp.chown("/project/own", 0, 0),
    "change times": lambda sftp: sftp.utime("/project/own", (1, 1)),
    "change the size": lambda sftp: sftp.truncate("/project/own", 1),
    "make a hard link": lambda sftp: sftp._request(200, "hardlink@openssh.com", "/project/own", "/project/hard"),
    "ask for users": lambda sftp: sftp._request(200, "expand-path@openssh.com", "~root"),
    "copy on the server": lambda sftp: sftp._request(200, "copy-data", "x"),
}


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_nothing_outside_its_folder_and_no_rights(server: DeployServer, attempt: str) -> None:
    links = {"to-users": "/etc/passwd", "to-users-up": "../../../../../../etc/passwd", "to-root": "/"}
    with connected(server) as client:
        sftp = client.open_sftp()
        sftp.open("/project/own", "w").write("content")
        for name, target in links.items():
            sftp.symlink(target, f"/project/{name}")
        before = (server.project / "own").stat()
        with pytest.raises((OSError, paramiko.SSHException)):
            ATTEMPTS[attempt](sftp)
    after = (server.project / "own").stat()
    assert [after.st_mode & 0o7777, after.st_uid, after.st_size, after.st_nlink, after.st_mtime] == [
        *(0o644, before.st_uid, 7, 1, before.st_mtime)
    ]
    assert server.everything() == {"own", *links}
    assert os.listdir(server.root) == ["project"]
    assert not Path("/srv/outside").exists()


def test_nobody_else_can_write_to_what_is_made(server: DeployServer) -> None:
    """A client may name rights when it makes a file or folder."""
    with connected(server) as client:
        sftp = client.open_sftp()
        sftp.mkdir("/project/folder", 0o777)
        attributes = paramiko.SFTPAttributes()
        attributes.st_mode, attributes._flags = 0o777, paramiko.SFTPAttributes.FLAG_PERMISSIONS
        sftp._request(3, b"/project/file", 0x02 | 0x08, attributes)
    assert oct((server.project / "folder").stat().st_mode & 0o022) == "0o0"
    assert oct((server.project / "file").stat().st_mode & 0o022) == "0o0"


def test_the_account_is_made_again_without_a_change_and_refuses_what_it_must(
    server: DeployServer, tmp_path: Path
) -> None:
    def tree() -> dict[str, tuple[int, int, int]]:
        etc = Path(f"{server.root}.etc")
        paths = [server.root, server.project, *etc.glob("sshd_config.d/*")]
        return {str(path): (path.stat().st_uid, path.stat().st_mode, path.stat().st_size) for path in paths}

    etc, public = f"{server.root}.etc", Path(f"{server.key}.pub").read_text().strip()
    usual = ["--user", server.user, "--root", str(server.root), "--key", public, "--etc", etc]
    before, user = tree(), run("getent", "passwd", server.user).stdout
    keys = Path(etc) / f"{server.user}.keys"
    both = keys.read_text()
    again = run(PROJECT / "deployment/add-account", *usual)
    assert keys.read_text() == f"restrict {public}\n"
    keys.write_text(both)
    assert (tree(), run("getent", "passwd", server.user).stdout) == (before, user)
    assert f"{server.user} may ship to {server.root}/project" in again.stdout
    assert user.strip().endswith(":/:/usr/sbin/nologin")
    assert run("getent", "shadow", server.user).stdout.split(":")[1] == "*"
    for words, said in (
        ([], "--key is a public key"),
        (["--key", "-----BEGIN OPENSSH PRIVATE KEY-----"], "--key is a public key"),
        (["--key", f"{public}\n{public}"], "--key is one line"),
        (["--key", public, "--user", "root"], "root is root"),
        (["--key", public, "--user", "a b"], "small letters"),
        (["--key", public, "--root", "relative"], "an absolute path"),
        (["--key", public, "--root", "/srv/a|b"], "an absolute path"),
        (["--key"], "--key needs a value"),
        (["--shell", "/bin/sh"], "unknown: --shell"),
    ):
        refused = run(PROJECT / "deployment/add-account", "--etc", tmp_path, *words, check=False)
        assert (refused.returncode, said in refused.stderr) == (1, True), (words, refused.stderr)
    assert list(tmp_path.iterdir()) == []


def test_a_shipped_release_is_what_an_intruder_can_change_and_nothing_more(
    server: DeployServer, repository: Repository
) -> None:
    """Stated, so that nobody takes the account for less than it is: its key decides which DAGs run."""
    repository.commit(dags__load="theirs\n")
    server.ship(repository)
    with connected(server) as client, client.open_sftp().open("/project/current/dags/load.py", "w") as file:
        file.write("mine\n")
    assert server.files() == {"dags/load.py": "mine\n"}
    started = time.monotonic()
    assert server.ship(repository).returncode == 1
    assert time.monotonic() - started < 60
