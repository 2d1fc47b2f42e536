"""A real sshd on loopback with the account that `deployment/add-account` makes, and a Git repository to ship from."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

PROJECT = Path(__file__).resolve().parents[2]
SSHD = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin")


def run(*words: object, **options: Any) -> subprocess.CompletedProcess[str]:
    options = {"capture_output": True, "text": True, "check": True, "timeout": 300} | options
    return subprocess.run([str(word) for word in words], **options)


class Repository:
    """A project small enough to ship in a moment, in Git."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self.git("init", "--quiet", "--initial-branch", "main")

    def git(self, *words: str) -> str:
        named = ["-c", "user.name=me", "-c", "user.email=me@here", "-c", "commit.gpgsign=false"]
        return run("git", "-C", self.folder, *named, *words).stdout.strip()

    def commit(self, **files: str | None) -> str:
        """Write files (`a__b` is `a/b.py`), remove those that are None, commit; returns the commit."""
        for name, content in files.items():
            path = self.folder / (name.replace("__", "/") + ".py")
            if content is None:
                path.unlink()
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(content)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", "change")
        return self.git("rev-parse", "HEAD")


@dataclass(frozen=True)
class DeployServer:
    """sshd, and the folder of its account as root sees it."""

    port: int
    user: str
    root: Path
    key: Path
    known_hosts: Path

    @property
    def project(self) -> Path:
        return self.root / "project"

    @property
    def current(self) -> str | None:
        link = self.project / "current"
        return os.readlink(link).removeprefix("releases/") if link.is_symlink() else None

    @property
    def login(self) -> list[str]:
        """Of ship.py."""
        return [
            *("--host", "127.0.0.1", "--port", str(self.port), "--user", self.user),
            *("--key-file", str(self.key), "--known-hosts", str(self.known_hosts)),
        ]

    @property
    def bare_key(self) -> Path:
        """Another key of the account, which its line in the file of keys does not restrict."""
        return self.key.with_name("bare")

    @property
    def options(self) -> list[str]:
        """Of OpenSSH's clients, but the port."""
        return [
            *("-i", str(self.bare_key), "-o", "IdentitiesOnly=yes", "-o", f"UserKnownHostsFile={self.known_hosts}"),
            *("-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes", "-F", "none"),
        ]

    def ship(self, repository: Repository, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "deployment.ship", *self.login, "--repository", str(repository.folder), *words]
        return run(*command, cwd=PROJECT, **({"check": False} | options))

    def files(self) -> dict[str, str]:
        """What runs, as Airflow would read it."""
        current = self.project / "current"
        return {
            str(path.relative_to(current)): path.read_text()
            for path in sorted(current.rglob("*"))
            if path.is_file() and path.name != "SHA256SUMS"
        }

    def everything(self) -> set[str]:
        """All names in the account's folder, as deep as releases."""
        return {
            str(path.relative_to(self.project)) for path in [*self.project.glob("*"), *self.project.glob("releases/*")]
        }

    def empty(self) -> None:
        for path in self.project.iterdir():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeployServer]:
    """The chroot lies in /srv: sshd takes none below a folder that others can write to, such as /tmp."""
    if os.getuid() != 0 or not SSHD or not shutil.which("useradd"):
        pytest.skip("needs root and a real sshd: apt-get install openssh-server")
    name = f"shortlist-test-{secrets.token_hex(3)}"
    root = Path("/srv") / name
    etc = tmp_path_factory.mktemp("sshd")
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    for key in ("ssh_host_ed25519_key", "client", "bare"):
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "ci", "-f", etc / key)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    # sshd reads the file of keys with the rights of the account.
    for folder in [etc, *etc.parents][:3]:
        folder.chmod(0o755)
    keys = Path("/srv") / f"{name}.etc"
    process = None
    try:
        keys.mkdir(mode=0o755)
        public = (etc / "client.pub").read_text().strip()
        for _ in range(2):  # the second time, it finds everything
            run(PROJECT / "deployment/add-account", "--user", name, "--root", root, "--key", public, "--etc", keys)
        # A key of the same account without the line's own restrictions: sshd's settings alone must hold.
        with (keys / f"{name}.keys").open("a") as lines:
            lines.write((etc / "bare.pub").read_text())
        # The same key reads Git repositories, as another account.
        (keys / "git.keys").write_text(f'restrict,command="git-shell -c \\"$SSH_ORIGINAL_COMMAND\\"" {public}\n')
        host_key = etc / "ssh_host_ed25519_key"
        (etc / "known_hosts").write_text(
            f"[127.0.0.1]:{port} {' '.join(Path(f'{host_key}.pub').read_text().split()[:2])}\n"
        )
        # Generous where the piece for the account must be strict.
        (etc / "sshd_config").write_text(
            f"Include {keys}/sshd_config.d/*.conf\nPort {port}\nListenAddress 127.0.0.1\nHostKey {host_key}\n"
            "PidFile none\nUsePAM no\nPasswordAuthentication yes\nSubsystem sftp internal-sftp\n"
            "AllowTcpForwarding yes\nAllowStreamLocalForwarding yes\nAllowAgentForwarding yes\nX11Forwarding yes\n"
            "PermitTunnel yes\nPermitUserEnvironment yes\n"
            f"PermitRootLogin prohibit-password\nAuthorizedKeysFile {keys}/git.keys\n"
        )
        run(str(SSHD), "-t", "-f", etc / "sshd_config")
        with (etc / "log").open("wb") as log:
            process = subprocess.Popen([str(SSHD), "-D", "-e", "-f", str(etc / "sshd_config")], stderr=log)
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield DeployServer(port, name, root, etc / "client", etc / "known_hosts")
    finally:
        if process:
            process.send_signal(signal.SIGTERM)
            process.wait(30)
        run("userdel", name, check=False)
        shutil.rmtree(root, ignore_errors=True)
        shutil.rmtree(keys, ignore_errors=True)


@pytest.fixture
def server(sshd: DeployServer) -> DeployServer:
    """The same, with nothing shipped yet."""
    sshd.empty()
    return sshd


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "repository")
