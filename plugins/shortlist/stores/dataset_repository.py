"""Versions of data sets: a Git repository with the `.dvc` files, and object storage with what they name.

Git and DVC run as commands in an environment of their own: no configuration of the machine or of a user is read or
written, nothing is reported to anybody. Credentials come from the environment: AWS_… for the data, DATASETS_TOKEN as
the password for an `https://` repository.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from shortlist.errors import DatasetError
from shortlist.redaction import redact
from shortlist.stores.objects import open_folder

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shortlist.settings import Settings

BRANCH: Final = "master"
COMMIT: Final = re.compile(r"[0-9a-f]{40}")

_REMOTE: Final = "storage"
_HEAD: Final = f"refs/remotes/origin/{BRANCH}"
_RUN: Final = "Run: "
_ATTEMPTS: Final = 10
_NFILES: Final = re.compile(r"^\s*(?:- )?nfiles: (\d+)\s*$", re.MULTILINE)
_OUTPUT: Final = re.compile(r"^\s*(?:- )?path: ", re.MULTILINE)

# What of the environment a command may see; the rest is none of its business.
_PASSED: Final = re.compile(
    r"PATH|LANG|LC_\w+|TZ|AWS_(?!CONFIG_FILE|SHARED_CREDENTIALS_FILE|PROFILE)\w+|\w+_CA_BUNDLE|SSL_CERT_\w+|GIT_SSL_\w+"
    r"|(?i:https?_proxy|no_proxy|all_proxy)|GIT_SSH_COMMAND|SSH_AUTH_SOCK|DATASETS_TOKEN|LD_LIBRARY_PATH"
)

_GIT_CONFIG: Final = """\
[user]
    name = Shortlist
    email = shortlist@localhost
[core]
    symlinks = false
[safe]
    directory = *
[http]
    lowSpeedLimit = 1
    lowSpeedTime = 60
    followRedirects = false
[gc]
    auto = 0
[advice]
    detachedHead = false
"""
# Only the server that was named gets the token, and nobody over plain HTTP.
_GIT_HELPER: Final = """\
[credential "{server}"]
    helper = "!f() {{ test \\"$1\\" = get && echo username=token && echo \\"password=$DATASETS_TOKEN\\"; }}; f"
"""
_DVC_CORE: Final = """\
[core]
    analytics = false
    check_update = false
"""
_DVC_CACHE: Final = """\
[cache]
    type = "hardlink,copy"
"""
_DVC_REMOTE: Final = """\
['remote "{name}"']
    url = {url}
"""
# A host name in front of the endpoint's own is known at Amazon only.
_AWS_CONFIG: Final = """\
[default]
s3 =
    addressing_style = path
"""


@dataclass(frozen=True)
class Version:
    """One commit of the repository that holds a folder, and whether it was made by this run."""

    commit: str
    files: int
    changed: bool


class Repository:
    """A clone of the repository of data sets, in a folder that nobody else uses meanwhile."""

    def __init__(self, settings: Settings, work: Path) -> None:
        """Prepare the environment of the commands; nothing is fetched yet.

        Args:
            settings: `[datasets]`, and the folder of the jobs.
            work: An empty folder.
        """
        self.url = location(settings)
        self._settings = settings
        self._clone = work / "repository"
        self._home = work / "home"
        self._home.mkdir()
        self._environment = self._prepare()
        self._clone.mkdir()
        self._git("init", "--quiet", f"--initial-branch={BRANCH}")
        self._git("remote", "add", "origin", "--", self.url)

    def fetch(self) -> str | None:
        """Fetch the branch. Returns its newest commit, or None where there is no commit at all.

        Raises:
            DatasetError: If the repository is away or refuses.
        """
        if not self._git("ls-remote", "--heads", "origin", f"refs/heads/{BRANCH}", reach=True):
            return None
        self._git("fetch", "--quiet", "--no-tags", "origin", f"+refs/heads/{BRANCH}:{_HEAD}", reach=True)
        return self._git("rev-parse", "--verify", _HEAD)

    def file_counts(self, commit: str) -> dict[str, int] | None:
        """Return how many files each folder has in a commit, by its name; None where there is no such commit."""
        if not COMMIT.fullmatch(commit):
            return None
        kind = self._run(["git", "cat-file", "-t", commit], allowed=(0, 1, 128))
        if kind.returncode or kind.stdout.strip() != "commit":
            return None
        names = self._git("ls-tree", "-r", "-z", "--name-only", commit).split("\0")
        counts = {}
        for name in names:
            if name.endswith(".dvc"):
                text = self._git("show", f"{commit}:{name}")
                # A single file has no count.
                counts[name.removesuffix(".dvc")] = sum(map(int, _NFILES.findall(text))) or len(_OUTPUT.findall(text))
        return counts

    def commit_folder(self, name: str, files: Mapping[str, Path], *, run_key: str) -> Version:
        """Make the given files the content of a folder, in a new commit on the branch.

        The data is pushed before Git, so that no commit names data that is not there. Where somebody else pushed
        meanwhile, the same is done again on top of that. Without a difference there is no new commit.

        Args:
            name: Of the folder.
            files: By their names in the folder; all on the disk of the clone.
            run_key: The same for all attempts of a run. Kept in the message of the commit.

        Raises:
            DatasetError: If the repository or the data's storage is away or refuses, or others push all the time.
            ObjectStorageError: If the data's storage is away or refuses.
        """
        self._check_storage()
        for attempt in range(1, _ATTEMPTS + 1):
            head = self.fetch()
            self._start_at(head)
            self._place(name, files)
            self._dvc("add", name)
            if not self._stage(name):
                assert head is not None
                return Version(head, len(files), changed=self._made_by(name, run_key))
            self._dvc("push", "--remote", _REMOTE, f"{name}.dvc")
            message = f"{name}: {len(files):,} files\n\n{_RUN}{' '.join(run_key.split())}\n"
            self._git("commit", "--quiet", "--no-verify", "--message", message)
            if self._push():
                return Version(self._git("rev-parse", "HEAD"), len(files), changed=True)
            if attempt < _ATTEMPTS:
                time.sleep(random.uniform(0, 0.2 * attempt))  # noqa: S311 - so that two do not meet again
        raise DatasetError(f"{self._name()}: others pushed first, {_ATTEMPTS} times. Run this again")

    def checkout(self, commit: str, name: str) -> Path:
        """Fetch the files of a folder as they are in a commit.

        Args:
            commit: One that was fetched.
            name: Of the folder.

        Returns:
            The folder, in the clone.

        Raises:
            DatasetError: If the repository refuses, or the storage lacks some of the data.
            ObjectStorageError: If the data's storage is away or refuses.
        """
        self._check_storage()
        self._start_at(commit)
        self._dvc("pull", "--remote", _REMOTE, f"{name}.dvc")
        return self._clone / name

    def _check_storage(self) -> None:
        """Say better than DVC what is wrong with it."""
        remote = open_folder(self._settings.datasets.remote, timeout_seconds=self._settings.transform.timeout_seconds)
        remote.objects(most=1)

    def _start_at(self, head: str | None) -> None:
        if head:
            self._git("checkout", "--quiet", "--force", "-B", BRANCH, head)
        else:
            self._git("read-tree", "--empty")
            self._git("symbolic-ref", "HEAD", f"refs/heads/{BRANCH}")
        remote = _DVC_REMOTE.format(name=_REMOTE, url=self._settings.datasets.remote)
        config = self._clone / ".dvc" / "config"
        if not config.exists():
            self._dvc("init", "--force")
            config.write_text(f"{_DVC_CORE}    remote = {_REMOTE}\n{remote}", encoding="utf-8")
        elif f'remote "{_REMOTE}"' not in (text := config.read_text(encoding="utf-8")):
            config.write_text(f"{text.rstrip()}\n{remote}", encoding="utf-8")
        if self._settings.datasets.remote.startswith("s3://"):
            seconds = max(1, round(self._settings.transform.timeout_seconds))
            remote += f"    read_timeout = {seconds}\n    connect_timeout = {min(seconds, 10)}\n"
        # What this machine is told goes before what the repository says, and is not committed.
        (self._clone / ".dvc" / "config.local").write_text(remote)

    def _place(self, name: str, files: Mapping[str, Path]) -> None:
        folder = self._clone / name
        if self._git("ls-files", "--", name):
            raise DatasetError(
                f"{self._name()} has files of its own in {name}: name another one in [datasets].repository"
            )
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for file, source in files.items():
            try:
                os.link(source, folder / file)
            except OSError:
                shutil.copyfile(source, folder / file)

    def _stage(self, name: str) -> bool:
        """Stage what a version consists of. Returns whether it differs from the commit before."""
        own = [f"{name}.dvc", ".gitignore", ".dvcignore", ".dvc/config", ".dvc/.gitignore"]
        self._git("add", "--force", "--", *(each for each in own if (self._clone / each).exists()))
        return bool(self._git("status", "--porcelain", "--untracked-files=no", "--", *own))

    def _made_by(self, name: str, run_key: str) -> bool:
        last = self._git("log", "-1", "--format=%B", "--", f"{name}.dvc")
        return f"{_RUN}{' '.join(run_key.split())}" in last.splitlines()

    def _push(self) -> bool:
        """Push. Returns False if somebody else was faster."""
        done = self._run(
            ["git", "push", "--porcelain", "origin", f"HEAD:refs/heads/{BRANCH}"], allowed=(0, 1, 128), reach=True
        )
        if done.returncode == 0:
            return True
        said = done.stdout + done.stderr
        if re.search(r"\[rejected\]|cannot lock ref|failed to update ref|incorrect old value|reference already", said):
            return False
        raise self._failed("pushed to", said)

    def _git(self, *arguments: str, reach: bool = False) -> str:
        return self._run(["git", *arguments], reach=reach).stdout.strip()

    def _dvc(self, *arguments: str) -> None:
        self._run([sys.executable, "-m", "dvc", *arguments])

    def _run(
        self, command: list[str], *, allowed: tuple[int, ...] = (0,), reach: bool = False
    ) -> subprocess.CompletedProcess[str]:
        name = "git" if command[0] == "git" else "dvc"
        seconds = self._settings.datasets.timeout_seconds
        try:
            done = run_command(command, folder=self._clone, environment=self._environment, seconds=seconds)
        except FileNotFoundError:
            raise DatasetError(f"there is no {name} here: versions of data sets need it") from None
        except subprocess.TimeoutExpired:
            raise DatasetError(f"{name} {command[-1]} took more than {seconds:g} seconds for {self._name()}") from None
        if done.returncode in allowed:
            return done
        if reach:
            raise self._failed("reached", done.stderr)
        verb = next(each for each in command[1:] if not each.startswith("-") and each != "dvc")
        raise DatasetError(f"{name} {verb} failed for {self._name()}: {_last_words(done.stderr)}")

    def _failed(self, done: str, said: str) -> DatasetError:
        hint = "Is it there, and may DATASETS_TOKEN use it?" if self.url.startswith("https://") else "Is it there?"
        return DatasetError(
            f"{self._name()} cannot be {done}: {_last_words(said)}. {hint} [datasets].repository names it"
        )

    def _name(self) -> str:
        return f"the repository {self.url}"

    def _prepare(self) -> dict[str, str]:
        home = self._home
        git = _GIT_CONFIG
        server = urlsplit(self.url)
        if server.scheme == "https" and os.environ.get("DATASETS_TOKEN"):
            git += _GIT_HELPER.format(server=f"https://{server.netloc}")
        (home / "gitconfig").write_text(git)
        (home / "dvc").mkdir()
        (home / "dvc" / "config").write_text(_DVC_CORE + _DVC_CACHE)
        (home / "aws").write_text(_AWS_CONFIG if os.environ.get("AWS_ENDPOINT_URL") else "")
        (home / "tmp").mkdir()
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
        return {
            **{name: value for name, value in os.environ.items() if _PASSED.fullmatch(name)},
            "HOME": str(home),
            "XDG_CONFIG_HOME": str(home),
            "XDG_CACHE_HOME": str(home / "tmp"),
            "TMPDIR": str(home / "tmp"),
            "GIT_CONFIG_GLOBAL": str(home / "gitconfig"),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ASKPASS": "",
            "SSH_ASKPASS": "",
            "GIT_SSH_COMMAND": os.environ.get("GIT_SSH_COMMAND") or "ssh -o BatchMode=yes -o ConnectTimeout=20",
            "LC_ALL": "C.UTF-8",
            "DVC_GLOBAL_CONFIG_DIR": str(home / "dvc"),
            "DVC_SYSTEM_CONFIG_DIR": str(home / "none"),
            "DVC_SITE_CACHE_DIR": str(home / "site"),
            "DVC_NO_ANALYTICS": "1",
            "DVC_STUDIO_OFFLINE": "1",
            "AWS_CONFIG_FILE": str(home / "aws"),
            "AWS_SHARED_CREDENTIALS_FILE": str(home / "none"),
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_REGION": region,
            "AWS_DEFAULT_REGION": region,
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
            "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
        }


def location(settings: Settings) -> str:
    """Return the URL or path of the repository."""
    return settings.datasets.repository or f"{settings.paths.jobs}/datasets.git"


def is_missing(settings: Settings) -> bool:
    """Whether the repository is one on this machine that is not there yet."""
    url = location(settings)
    return "://" not in url and re.match(r"[^/]+@?[^/]*:", url) is None and not Path(url).exists()


def make_missing(settings: Settings) -> None:
    """Make the repository of the jobs' own folder, empty, if it is the one in use and not there yet."""
    if settings.datasets.repository or not is_missing(settings):
        return
    path = Path(location(settings))
    path.parent.mkdir(parents=True, exist_ok=True)
    new = tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent)
    command = ["git", "init", "--quiet", "--bare", f"--initial-branch={BRANCH}", "."]
    own = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "HOME": new, "PATH": os.environ.get("PATH", "")}
    try:
        done = run_command(command, folder=Path(new), environment=own, seconds=settings.datasets.timeout_seconds)
        if done.returncode:
            raise DatasetError(f"{path} cannot be made: {_last_words(done.stderr)}")
        os.rename(new, path)
    except FileNotFoundError:
        raise DatasetError("there is no git here: versions of data sets need it") from None
    except OSError as error:
        if not path.exists():  # else somebody else was faster
            raise DatasetError(f"{path} cannot be made: {error.strerror}") from None
    finally:
        shutil.rmtree(new, ignore_errors=True)


def run_command(
    command: list[str], *, folder: Path, environment: Mapping[str, str], seconds: float
) -> subprocess.CompletedProcess[str]:
    """Run a command without input to its end; what it started ends with it when it takes too long.

    Raises:
        FileNotFoundError: If there is no such command.
        subprocess.TimeoutExpired: If it takes longer.
    """
    with subprocess.Popen(  # noqa: S603 - fixed commands; nothing of them is read by a shell
        command,
        cwd=folder,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            stdout, stderr = process.communicate(timeout=seconds)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


def _last_words(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    said = [line for line in lines if re.match(r"(ERROR|fatal|remote|error):|!", line)] or lines
    return redact("; ".join(said[-3:]))[:1_000] or "it said nothing"
