"""Ships `dags/` and `plugins/` of one commit to a server by SFTP, all or nothing, and goes back to an earlier one.

    python -m deployment.ship --host airflow.example.com --user shortlist-deploy --key-file KEY --known-hosts FILE

The server's account can do nothing but this: `deployment/add-account` makes it. In its folder lie

    releases/<commit>/{dags,plugins,SHA256SUMS}   complete: read back and compared before they got this name
    releases/.…                                   what an interrupted call left behind; the next one removes it
    current -> releases/<commit>                  what runs; replaced by one rename
    history                                       commits that ran before, the last one last
    lock -> <who>                                 while somebody ships

Needs paramiko and nothing of the project. It speaks plain SFTP, so no command ever runs on the server.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import socket
import stat
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final, Self

import paramiko
from paramiko.sftp import CMD_EXTENDED

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType

SHIPPED: Final = ("dags", "plugins")
SUMS: Final = "SHA256SUMS"

_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_SECONDS_TO_CONNECT: Final = 15
_SECONDS_OF_SILENCE: Final = 60
_SECONDS_BETWEEN_BEATS: Final = 5.0
_SECONDS_TO_SETTLE: Final = 1.0


class ShipError(Exception):
    """Says why nothing, or not all, was done on the server and what to do about it."""


class _GoneError(Exception):
    """The server has no such file."""


@dataclass(frozen=True)
class Release:
    """The files of one commit.

    Attributes:
        commit: 40 hexadecimal digits.
        files: Content by path, such as `dags/load.py`.
    """

    commit: str
    files: dict[str, bytes]

    @property
    def sums(self) -> bytes:
        """What `sha256sum --check` takes."""
        lines = [f"{hashlib.sha256(self.files[path]).hexdigest()}  {path}\n" for path in sorted(self.files)]
        return "".join(lines).encode()


def read_release(repository: Path, revision: str) -> Release:
    """Read the tracked files of a commit, whatever lies in the working tree.

    Args:
        repository: Folder of a Git checkout.
        revision: A commit, branch or tag.

    Raises:
        ShipError: If there is no such commit, it has no DAGs, or something that is no plain file.
    """
    commit = _git(repository, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    name = commit.decode().strip()
    files = {}
    for entry in _git(repository, "ls-tree", "-r", "-z", "--full-tree", name, "--", *SHIPPED).split(b"\0")[:-1]:
        described, _, raw_path = entry.partition(b"\t")
        mode, _, sha = described.decode().split()
        try:
            path = raw_path.decode()
        except UnicodeDecodeError as error:
            raise ShipError(f"the name {raw_path!r} in commit {name} is not UTF-8: rename it") from error
        if not path.isprintable():
            raise ShipError(f"the name {path!r} in commit {name} holds what cannot be printed: rename it")
        if mode not in ("100644", "100755"):
            raise ShipError(f"{path} in commit {name} is a symbolic link or submodule: only plain files are shipped")
        files[path] = _git(repository, "cat-file", "blob", sha)
    if not any(path.startswith("dags/") and path.endswith(".py") for path in files):
        raise ShipError(f"commit {name} has no DAG below dags/: shipping it would remove every DAG from the server")
    return Release(name, files)


def _git(repository: Path, *words: str) -> bytes:
    command = ["git", "-C", str(repository), *words]
    try:
        return subprocess.run(command, capture_output=True, check=True).stdout
    except FileNotFoundError as error:
        raise ShipError("there is no git here: install it") from error
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip() or f"it knows no {words[-1]}"
        raise ShipError(f"git {words[0]} failed in {repository}: {said}") from error


class Server:
    """The account's folder on the server, open inside a `with` block.

    Raises:
        ShipError: From every method, if the server cannot be reached, is not the one that is known, or refuses.
    """

    def __init__(self, *, host: str, port: int, user: str, key_file: Path, known_hosts: Path, folder: str) -> None:
        self._address = (host, port)
        self._user = user
        self._key_file = key_file
        self._known_hosts = known_hosts
        self._folder = f"/{folder.strip('/')}"
        self._client = paramiko.SSHClient()

    def __enter__(self) -> Self:
        host, port = self._address
        where = f"{self._user}@{host}:{port}"
        for file in (self._key_file, self._known_hosts):
            if not file.is_file():
                raise ShipError(f"there is no file {file}")
        try:
            self._client.load_host_keys(str(self._known_hosts))
            # Never trust on first use: a key that is not known ends the connection before anything is sent.
            self._client.set_missing_host_key_policy(paramiko.RejectPolicy())
            self._client.connect(
                host,
                port,
                self._user,
                key_filename=str(self._key_file),
                timeout=_SECONDS_TO_CONNECT,
                banner_timeout=_SECONDS_TO_CONNECT,
                auth_timeout=_SECONDS_TO_CONNECT,
                allow_agent=False,
                look_for_keys=False,
            )
            self._sftp = self._client.open_sftp()
            self._sftp.get_channel().settimeout(_SECONDS_OF_SILENCE)
        except paramiko.BadHostKeyException as error:
            self._client.close()
            raise ShipError(
                f"{host} shows another host key than {self._known_hosts} has: it is not the server that was set up, or"
                " it was set up anew. Nothing was sent. Compare the keys on the server itself before changing the file"
            ) from error
        except paramiko.AuthenticationException as error:
            self._client.close()
            raise ShipError(f"{where} does not take the key {self._key_file}: see deployment/add-account") from error
        except (paramiko.SSHException, OSError, EOFError, ValueError) as error:
            self._client.close()
            raise ShipError(f"no connection to {where}: {_reason(error)}") from error
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._client.close()

    def path(self, *parts: str) -> str:
        """Return the absolute path of what lies in the account's folder."""
        return "/".join([self._folder, *parts])

    def names(self, *parts: str) -> list[str]:
        """Return what lies in a folder, sorted."""
        with _told(f"list {'/'.join(parts)}"):
            return sorted(self._sftp.listdir(self.path(*parts)))

    def make_folder(self, *parts: str) -> None:
        """Make a folder in one that is there."""
        with _told(f"make the folder {'/'.join(parts)}"):
            self._sftp.mkdir(self.path(*parts), 0o755)

    def read(self, *parts: str) -> bytes:
        """Return the content of a file."""
        with _told(f"read {'/'.join(parts)}"), self._sftp.open(self.path(*parts), "rb") as file:
            file.prefetch()
            content: bytes = file.read()
            return content

    def write(self, content: bytes, *parts: str) -> None:
        """Write a file and wait until it is on the server's disk."""
        with _told(f"write {'/'.join(parts)}"), self._sftp.open(self.path(*parts), "wb") as file:
            file.write(content)
            file.flush()
            # Without it, a server that loses power could keep the switch and lose what was switched to.
            self._sftp._request(CMD_EXTENDED, "fsync@openssh.com", file.handle)

    def files(self, *parts: str) -> Iterator[str]:
        """Yield the paths of all that is no folder, at any depth, relative to the folder that is named."""
        with _told(f"list {'/'.join(parts)}"):
            entries = self._sftp.listdir_attr(self.path(*parts))
        for entry in entries:
            if stat.S_ISDIR(entry.st_mode or 0):
                yield from (f"{entry.filename}/{path}" for path in self.files(*parts, entry.filename))
            else:
                yield entry.filename

    def touch(self, *parts: str) -> None:
        """Give a file the server's present time by writing its first byte again: the account may not set times."""
        with _told(f"touch {'/'.join(parts)}"), self._sftp.open(self.path(*parts), "r+b") as file:
            if first := file.read(1):
                file.seek(0)
                file.write(first)

    def link(self, target: str, *parts: str) -> bool:
        """Make a symbolic link; False if the name is taken."""
        for attempt in range(3):
            try:
                with _told(f"make the link {'/'.join(parts)}"):
                    self._sftp.symlink(target, self.path(*parts))
            except ShipError:
                if self.target(*parts) is not None:
                    return False
                if attempt == 2:  # not one that was there a moment ago
                    raise
            else:
                return True
        return False

    def target(self, *parts: str) -> str | None:
        """Where a symbolic link leads; None if there is none."""
        try:
            with _told(f"read the link {'/'.join(parts)}"):
                target: str | None = self._sftp.readlink(self.path(*parts))
                return target
        except _GoneError:
            return None

    def changed_at(self, *parts: str) -> float:
        """When a file or link was made or changed, by the server's clock, in seconds."""
        with _told(f"look at {'/'.join(parts)}"):
            return float(self._sftp.lstat(self.path(*parts)).st_mtime or 0)

    def replace(self, old: str, new: str) -> None:
        """Rename, in one step also where the new name is taken."""
        with _told(f"rename {old} to {new}"):
            self._sftp.posix_rename(self.path(old), self.path(new))

    def remove(self, *parts: str) -> None:
        """Remove a file, link, or folder with all that is in it; nothing happens if it is gone."""
        with suppress(_GoneError), _told(f"remove {'/'.join(parts)}"):
            self._remove(self.path(*parts))

    def _remove(self, path: str) -> None:
        if not stat.S_ISDIR(self._sftp.lstat(path).st_mode or 0):
            self._sftp.remove(path)
            return
        for name in self._sftp.listdir(path):
            self._remove(f"{path}/{name}")
        self._sftp.rmdir(path)


@contextmanager
def _told(what: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise _GoneError(what) from error
    except PermissionError as error:
        raise ShipError(f"the server forbids to {what}: was the account made by deployment/add-account?") from error
    except (paramiko.SSHException, EOFError, TimeoutError, ConnectionError) as error:
        raise ShipError(f"the connection broke when it came to {what}: {_reason(error)}") from error
    except OSError as error:
        if _reason(error) == "Socket is closed":
            raise ShipError(f"the connection broke when it came to {what}") from error
        # SFTP has no word for it.
        raise ShipError(f"the server cannot {what}: {_reason(error)}. Is its disk full?") from error


def _reason(error: BaseException) -> str:
    return str(error).strip() or type(error).__name__


class Lock:
    """Lets one call at a time work on the server. A link, because making one needs no room on a full disk.

    The holder shows every few seconds that it is alive. Who finds a lock without a sign of life for `abandoned_after`
    seconds by the server's clock takes it over. That two hold it for a moment is possible then, and harmless: each
    release is complete before it gets its name, and who has lost the lock stops before switching.
    """

    def __init__(self, server: Server, *, wait: float, abandoned_after: float) -> None:
        self._server = server
        self._me = f"{socket.gethostname()}.{os.getpid()}.{os.urandom(4).hex()}"
        self._wait = wait
        self._abandoned_after = abandoned_after
        self._beat = 0.0

    def __enter__(self) -> Self:
        until = time.monotonic() + self._wait
        while not self._server.link(self._me, "lock"):
            holder = self._server.target("lock")
            if holder and self._silent_for() > self._abandoned_after and self._server.target("lock") == holder:
                self._put()
                time.sleep(
                    _SECONDS_TO_SETTLE
                )  # another one that saw the same may have done so, too: the last one has it
                if self._server.target("lock") == self._me:
                    break
            if time.monotonic() > until:
                raise ShipError(f"{holder} is shipping to the same server: try again when it has ended")
            time.sleep(min(1.0, self._wait / 10))
        self._beat = time.monotonic()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with suppress(ShipError, _GoneError):
            if self._server.target("lock") == self._me:
                self._server.remove("lock")

    def keep(self) -> None:
        """Show a sign of life when it is time for one.

        Raises:
            ShipError: If somebody else has taken the lock.
        """
        if time.monotonic() - self._beat > _SECONDS_BETWEEN_BEATS:
            self.check()
            self._put()
            self._beat = time.monotonic()

    def check(self) -> None:
        """Raise a ShipError if somebody else has taken the lock."""
        if (holder := self._server.target("lock")) != self._me:
            raise ShipError(f"{holder} has taken over, because this call was silent for long: nothing was switched")

    def _put(self) -> None:
        with suppress(_GoneError):  # tidied away by another one, who has the lock then
            self._server.link(self._me, f"lock.{self._me}")
            self._server.replace(f"lock.{self._me}", "lock")

    def _silent_for(self) -> float:
        self._server.link(self._me, f"lock.{self._me}")
        try:
            return self._server.changed_at(f"lock.{self._me}") - self._server.changed_at("lock")
        except _GoneError:  # it has just ended
            return 0.0
        finally:
            self._server.remove(f"lock.{self._me}")


def ship(server: Server, lock: Lock, release: Release, *, keep: int) -> str:
    """Make a release the current one. What is current stays until the new one is complete on the server and compared.

    Args:
        server: Open.
        lock: Held.
        release: What to ship.
        keep: Releases that stay on the server, the current one included.

    Returns:
        One sentence that tells what was done.

    Raises:
        ShipError: If it could not be done; what was current then still is.
    """
    _tidy(server)
    running = current_commit(server)
    if _is_whole(server, lock, release.commit, release):
        told = "was on the server already"
    elif running == release.commit:
        raise ShipError(
            f"release {running} is running and its files on the server are not those of the commit: somebody changed"
            " them. Roll back to another one, then ship it again"
        )
    else:
        _upload(server, lock, release)
        told = f"was shipped: {len(release.files)} files"
    if running != release.commit:
        _switch(server, lock, release.commit, running)
    _prune(server, keep=keep)
    return f"{release.commit} {told}, and is current"


def roll_back(server: Server, lock: Lock, commit: str = "") -> str:
    """Make an earlier release the current one, once its files have been compared with what was shipped.

    Args:
        server: Open.
        lock: Held.
        commit: All or the first of its digits; empty for the one that ran before.

    Returns:
        One sentence that tells what was done.

    Raises:
        ShipError: If there is none, several begin so, or its files were changed.
    """
    _tidy(server)
    running = current_commit(server)
    there = _releases(server)
    if commit:
        found = [name for name in there if name.startswith(commit)]
    else:
        found = [name for name in _history(server) if name in there and name != running][-1:]
    if len(found) != 1:
        raise ShipError(
            f"{'no' if not found else 'more than one'} release {commit or 'that ran before'} on the server:"
            f" it has {', '.join(there) or 'none'}"
        )
    if found[0] == running:
        return f"{running} is current already"
    if not _is_whole(server, lock, found[0]):
        raise ShipError(f"release {found[0]} on the server was changed since it was shipped: ship it again")
    _switch(server, lock, found[0], running)
    return f"{found[0]} is current again"


def describe(server: Server) -> list[str]:
    """Return one line a release, those that ran first first."""
    running, history = current_commit(server), _history(server)
    order = sorted(_releases(server), key=lambda name: _place(name, running, history))
    return [
        f"{name}  {'current' if name == running else 'ran before' if name in history else 'never ran'}"
        for name in order
    ]


def current_commit(server: Server) -> str | None:
    """Return the commit that runs, None before the first one."""
    return (server.target("current") or "").removeprefix("releases/") or None


def _tidy(server: Server) -> None:
    """Remove what interrupted calls left."""
    if "releases" not in server.names():
        server.make_folder("releases")
    for name in server.names():
        if name.startswith(("current.", "history.", "lock.")):
            server.remove(name)
    for name in server.names("releases"):
        if not _COMMIT.fullmatch(name):
            server.remove("releases", name)


def _upload(server: Server, lock: Lock, release: Release) -> None:
    new = f".new-{release.commit}"
    server.make_folder("releases", new)
    folders = {str(parent) for path in release.files for parent in PurePosixPath(path).parents if parent.name}
    try:
        for folder in sorted(folders):
            lock.keep()
            server.make_folder("releases", new, folder)
        for path, content in release.files.items():
            lock.keep()
            server.write(content, "releases", new, path)
        server.write(release.sums, "releases", new, SUMS)
        if not _is_whole(server, lock, new, release):
            raise ShipError("what the server has is not what was sent: try again")
        lock.check()
        _put_away(server, release.commit)
        server.replace(f"releases/{new}", f"releases/{release.commit}")
    except (ShipError, _GoneError) as error:
        with suppress(ShipError):
            server.remove("releases", new)
        if isinstance(error, _GoneError):
            raise ShipError("another call took away what was being shipped: nothing was switched") from error
        raise


def _is_whole(server: Server, lock: Lock, name: str, release: Release | None = None) -> bool:
    """Whether a folder of `releases` has exactly the files of a release; without one, those of its own list."""
    try:
        sums = server.read("releases", name, SUMS)
        if release and sums != release.sums:
            return False
        expected = {path: digest for digest, _, path in (line.partition("  ") for line in sums.decode().splitlines())}
        if set(server.files("releases", name)) != {*expected, SUMS}:
            return False
        for path, digest in expected.items():
            lock.keep()
            if hashlib.sha256(server.read("releases", name, path)).hexdigest() != digest:
                return False
    except _GoneError:
        return False
    return True


def _switch(server: Server, lock: Lock, commit: str, running: str | None) -> None:
    if running and running in _releases(server):
        history = [name for name in _history(server) if name != running]
        server.write("".join(f"{name}\n" for name in [*history, running]).encode(), "history.new")
        server.replace("history.new", "history")
    lock.check()
    server.link(f"releases/{commit}", "current.new")
    server.replace("current.new", "current")
    # Airflow reads a DAG file anew when its time is later than it last looked, and DAGs can change with plugins alone.
    for path in server.files("releases", commit, "dags"):
        if path.endswith(".py"):
            server.touch("releases", commit, "dags", path)


def _prune(server: Server, *, keep: int) -> None:
    running, history = current_commit(server), _history(server)
    for name in sorted(_releases(server), key=lambda name: _place(name, running, history))[:-keep]:
        _put_away(server, name)
    _tidy(server)


def _put_away(server: Server, commit: str) -> None:
    """Take the name from a release before its files go, so that no half of one is ever found."""
    with suppress(_GoneError):
        server.replace(f"releases/{commit}", f"releases/.old-{commit}")
        server.remove("releases", f".old-{commit}")


def _place(name: str, running: str | None, history: Sequence[str]) -> int:
    return len(history) if name == running else history.index(name) if name in history else -1


def _releases(server: Server) -> list[str]:
    return [name for name in server.names("releases") if _COMMIT.fullmatch(name)]


def _history(server: Server) -> list[str]:
    try:
        return server.read("history").decode().split()
    except _GoneError:
        return []


def main(arguments: Sequence[str] | None = None) -> int:
    """Ship, roll back or list.

    Returns:
        The exit code: 0, or 1 with a sentence on stderr.
    """
    parser = argparse.ArgumentParser(prog="python -m deployment.ship", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, default=22)
    parser.add_argument("--user", required=True)
    parser.add_argument("--key-file", type=Path, required=True, help="the private key, without a passphrase")
    parser.add_argument("--known-hosts", type=Path, required=True, help="the server's key, as `ssh-keyscan` writes it")
    parser.add_argument("--folder", default="project", help="the account's folder on the server (project)")
    parser.add_argument("--repository", type=Path, default=Path(), help="a Git checkout (this folder)")
    parser.add_argument("--commit", default="HEAD", help="what to ship: a commit, branch or tag (HEAD)")
    parser.add_argument("--keep", type=_at_least_one, default=5, help="releases that stay on the server (5)")
    parser.add_argument("--wait", type=float, default=180, help="seconds to wait for somebody else who ships (180)")
    parser.add_argument(
        "--abandoned-after", type=float, default=90, help="seconds of silence after which his lock is void (90)"
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--list", action="store_true", help="show the releases on the server")
    what.add_argument("--roll-back", nargs="?", const="", metavar="COMMIT", help="go back; without COMMIT by one")
    given = parser.parse_args(arguments)
    try:
        release = None if given.list or given.roll_back is not None else read_release(given.repository, given.commit)
        server = Server(
            host=given.host,
            port=given.port,
            user=given.user,
            key_file=given.key_file,
            known_hosts=given.known_hosts,
            folder=given.folder,
        )
        with server:
            if given.list:
                print("\n".join(describe(server)) or "no release yet")
                return 0
            with Lock(server, wait=given.wait, abandoned_after=given.abandoned_after) as lock:
                if release:
                    print(ship(server, lock, release, keep=given.keep))
                else:
                    print(roll_back(server, lock, given.roll_back))
    except ShipError as problem:
        print(f"ship: {problem}", file=sys.stderr)
        return 1
    except _GoneError as problem:
        print(f"ship: what is needed to {problem} is not on the server", file=sys.stderr)
        return 1
    return 0


def _at_least_one(value: str) -> int:
    if int(value) < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return int(value)


if __name__ == "__main__":
    raise SystemExit(main())
