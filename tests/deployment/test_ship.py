"""What a server has after a ship that went well, was refused, or was killed at any moment. Against a real sshd."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import paramiko
import pytest

from deployment import ship
from deployment.ship import ShipError, read_release
from tests.deployment.conftest import PROJECT, DeployServer, Repository, run

if TYPE_CHECKING:
    from pathlib import Path

QUICK = ("--wait", "20", "--abandoned-after", "1")


def killed_after(requests: int, words: list[str]) -> bool:
    """Ship in a process that is killed once the server has answered so many requests; False if it ended before."""
    child = os.fork()
    if child == 0:
        real, left = paramiko.SFTPClient._read_response, requests

        def read_response(*given: Any) -> Any:
            nonlocal left
            answer = real(*given)
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return answer

        paramiko.SFTPClient._read_response = read_response
        os._exit(ship.main(words))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, -signal.SIGKILL)
    return code != 0


def is_whole(release: Path) -> bool:
    """Whether a release has exactly what its own list names."""
    lines = (release / "SHA256SUMS").read_text().splitlines()
    listed = {path: digest for digest, _, path in (line.partition("  ") for line in lines)}
    there = {path for path in release.rglob("*") if path.is_file() and path.name != "SHA256SUMS"}
    return listed == {str(path.relative_to(release)): hashlib.sha256(path.read_bytes()).hexdigest() for path in there}


def test_what_is_shipped_is_the_commit_and_nothing_else(server: DeployServer, repository: Repository) -> None:
    commit = repository.commit(dags__load="first\n", plugins__steps__train="RANK = 8\n", service__app="not shipped\n")
    (repository.folder / "dags" / "untracked.py").write_text("never committed\n")
    (repository.folder / "dags" / "load.py").write_text("changed, not committed\n")
    shipped = server.ship(repository)
    assert (shipped.returncode, shipped.stdout) == (0, f"{commit} was shipped: 2 files, and is current\n"), (
        shipped.stderr
    )
    assert server.files() == {"dags/load.py": "first\n", "plugins/steps/train.py": "RANK = 8\n"}
    assert os.readlink(server.project / "current") == f"releases/{commit}"
    assert server.everything() == {"current", "releases", f"releases/{commit}"}
    assert run("sha256sum", "--check", "--strict", "SHA256SUMS", cwd=server.project / "current").returncode == 0
    # Airflow's user in the containers is another one.
    path = server.project / "current" / "plugins" / "steps"
    assert [path.stat().st_mode & 0o777, (path / "train.py").stat().st_mode & 0o777] == [0o755, 0o644]


def test_what_is_gone_from_the_commit_is_gone_from_the_server(server: DeployServer, repository: Repository) -> None:
    first = repository.commit(dags__load="a\n", dags__old="b\n", plugins__steps__gone="c\n", plugins__kept="d\n")
    assert server.ship(repository).returncode == 0
    second = repository.commit(dags__old=None, plugins__steps__gone=None, dags__load="new\n")
    assert server.ship(repository).returncode == 0
    assert server.files() == {"dags/load.py": "new\n", "plugins/kept.py": "d\n"}
    assert server.ship(repository, "--list").stdout == f"{first}  ran before\n{second}  current\n"


def test_a_dag_file_of_the_new_current_is_later_than_the_switch(server: DeployServer, repository: Repository) -> None:
    """Airflow had parsed the file of that name in between: an earlier time would let it wait for minutes."""
    first = repository.commit(dags__load="a\n", dags__same="b\n")
    server.ship(repository)
    repository.commit(dags__load="new\n")
    server.ship(repository)
    time.sleep(1.1)  # the next second of the file system
    before = (server.project / "current" / "dags" / "load.py").stat().st_mtime
    assert server.ship(repository, "--roll-back").returncode == 0
    dags = server.project / "releases" / first / "dags"
    assert [(dags / name).stat().st_mtime > before + 1 for name in ("load.py", "same.py")] == [True, True]
    assert server.files() == {"dags/load.py": "a\n", "dags/same.py": "b\n"}


def test_roll_back_goes_to_the_one_before_or_to_the_one_named(server: DeployServer, repository: Repository) -> None:
    commits = []
    for content in ("one", "two", "three"):
        commits.append(repository.commit(dags__load=content))
        server.ship(repository)
    assert server.ship(repository, "--roll-back").stdout == f"{commits[1]} is current again\n"
    assert server.files() == {"dags/load.py": "two"}
    assert server.ship(repository, "--roll-back", commits[0][:12]).returncode == 0
    assert server.files() == {"dags/load.py": "one"}
    assert server.ship(repository, "--roll-back").returncode == 0
    assert server.files() == {"dags/load.py": "two"}
    refused = server.ship(repository, "--roll-back", "0" * 40)
    assert (refused.returncode, "no release 000" in refused.stderr) == (1, True)
    damaged = server.project / "releases" / commits[2] / "dags" / "load.py"
    damaged.write_text("else")
    refused = server.ship(repository, "--roll-back", commits[2])
    assert (refused.returncode, "was changed since it was shipped" in refused.stderr) == (1, True)
    assert server.files() == {"dags/load.py": "two"}
    # Shipped again, it is made whole.
    assert server.ship(repository).returncode == 0
    assert server.files() == {"dags/load.py": "three"}


def test_the_last_releases_stay_and_the_current_one_always(server: DeployServer, repository: Repository) -> None:
    commits = []
    for number in range(5):
        commits.append(repository.commit(dags__load=str(number)))
        assert server.ship(repository, "--keep", "3").returncode == 0
    assert {path.name for path in (server.project / "releases").iterdir()} == set(commits[2:])
    assert server.ship(repository, "--roll-back", commits[2]).returncode == 0
    newest = repository.commit(dags__load="newest")
    assert server.ship(repository, "--keep", "2").returncode == 0
    assert {path.name for path in (server.project / "releases").iterdir()} == {commits[2], newest}


def test_shipping_the_same_again_changes_nothing_unless_somebody_else_did(
    server: DeployServer, repository: Repository
) -> None:
    commit = repository.commit(dags__load="one")
    server.ship(repository)
    again = server.ship(repository)
    assert (again.returncode, again.stdout) == (0, f"{commit} was on the server already, and is current\n")
    (server.project / "current" / "dags" / "extra.py").write_text("a stranger's")
    refused = server.ship(repository)
    assert (refused.returncode, "somebody changed them" in refused.stderr) == (1, True)


@pytest.mark.parametrize("kind", ["roll back", "ship", "ship and remove"])
def test_killed_at_any_moment_it_leaves_one_whole_release_and_the_next_call_tidies(
    server: DeployServer, repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(ship, "_SECONDS_TO_SETTLE", 0.0)  # nobody else is there
    words = [*server.login, "--repository", str(repository.folder), "--abandoned-after", "-1"]
    old = repository.commit(dags__load="old\n", dags__gone="old\n", plugins__a="old\n")
    assert ship.main(words) == 0
    whole = {old: server.files()}
    new = repository.commit(dags__load="new\n", dags__gone=None, plugins__b__c="new\n")
    assert ship.main(words) == 0
    whole[new] = server.files()
    start, end = (new, old) if kind == "roll back" else (old, new)
    if kind == "roll back":
        words += ["--roll-back", old]
    else:
        server.empty()
        assert ship.main([*words, "--commit", old]) == 0
    kept = {f"releases/{old}", f"releases/{new}"}
    if kind == "ship and remove":
        words += ["--keep", "1"]
        kept = {f"releases/{new}"}
    begin = tmp_path / "begin"
    run("cp", "-a", server.project, begin)
    left = set()
    for requests in range(1, 500):
        killed = killed_after(requests, words)
        told = f"killed after {requests} requests"
        assert server.current in (start, end), told
        assert server.files() == whole[server.current], told
        releases = [path for path in (server.project / "releases").iterdir() if not path.name.startswith(".")]
        assert all(is_whole(path) for path in releases), told
        if not killed:
            break
        left.add(server.current)
        assert ship.main(words) == 0, told
        assert (server.current, server.files()) == (end, whole[end]), told
        assert server.everything() == {"current", "history", "releases", *kept}, told
        server.empty()
        run("cp", "-a", f"{begin}/.", server.project)
    assert left == {start, end}
    assert requests > (30 if kind == "roll back" else 50)


def test_two_at_once_come_one_after_the_other(server: DeployServer, repository: Repository) -> None:
    first = repository.commit(dags__load="first\n" * 100, **{f"plugins__m{n}": str(n) for n in range(30)})
    second = repository.commit(dags__load="second\n")
    command = [sys.executable, "-m", "deployment.ship", *server.login, "--repository", str(repository.folder)]
    both = [
        subprocess.Popen([*command, "--commit", commit], cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for commit in (first, second)
    ]
    said = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert server.everything() - {"history"} == {"current", "releases", f"releases/{first}", f"releases/{second}"}
    assert (server.project / "history").read_text().split() == [({first, second} - {server.current}).pop()]


def test_who_does_not_get_the_lock_says_who_has_it(server: DeployServer, repository: Repository) -> None:
    repository.commit(dags__load="first\n")
    (server.project / "lock").symlink_to("builder.1.ab")
    os.chown(server.project / "lock", *server.project.stat()[4:6], follow_symlinks=False)
    refused = server.ship(repository, "--wait", "2")
    assert (refused.returncode, "builder.1.ab is shipping" in refused.stderr) == (1, True)
    assert server.everything() == {"lock"}
    # Silent for long enough, it is void.
    assert server.ship(repository, *QUICK).returncode == 0
    assert "lock" not in server.everything()


def test_who_lost_the_lock_switches_nothing(server: DeployServer, repository: Repository, tmp_path: Path) -> None:
    """As a holder that was stopped for long and goes on: another one has taken over in the meantime."""
    first = repository.commit(dags__load="first\n")
    server.ship(repository)
    repository.commit(dags__load="second\n")
    script = tmp_path / "robbed.py"
    script.write_text(
        "import sys, pathlib\nfrom deployment import ship\n"
        "lock = pathlib.Path(sys.argv.pop(1))\nreal = ship._is_whole\n"
        "def is_whole(*words):\n"
        "    if words[2].startswith('.new'):\n        lock.unlink()\n        lock.symlink_to('thief')\n"
        "    return real(*words)\n"
        "ship._is_whole = is_whole\nraise SystemExit(ship.main())\n"
    )
    command = [sys.executable, script, server.project / "lock", *server.login, "--repository", repository.folder]
    robbed = run(*command, cwd=PROJECT, env=os.environ | {"PYTHONPATH": str(PROJECT)}, check=False)
    assert (robbed.returncode, "thief has taken over" in robbed.stderr) == (1, True), robbed.stderr
    assert server.current == first
    assert os.readlink(server.project / "lock") == "thief"


def test_another_host_key_ends_it_before_anything_is_sent(
    server: DeployServer, repository: Repository, tmp_path: Path
) -> None:
    repository.commit(dags__load="first\n")
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "other")
    other = tmp_path / "known_hosts"
    other.write_text(f"[127.0.0.1]:{server.port} {' '.join((tmp_path / 'other.pub').read_text().split()[:2])}\n")
    refused = server.ship(repository, "--known-hosts", str(other))
    assert (refused.returncode, "shows another host key" in refused.stderr) == (1, True), refused.stderr
    other.write_text("")
    refused = server.ship(repository, "--known-hosts", str(other))
    assert (refused.returncode, "not found in known_hosts" in refused.stderr) == (1, True), refused.stderr
    assert server.everything() == set()


def test_a_wrong_key_no_key_and_no_server_are_told(
    server: DeployServer, repository: Repository, tmp_path: Path
) -> None:
    repository.commit(dags__load="first\n")
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "other")
    (tmp_path / "garbage").write_text("no key\n")
    said = []
    for words in (
        ("--key-file", str(tmp_path / "other")),
        ("--key-file", str(tmp_path / "garbage")),
        ("--key-file", str(tmp_path / "none")),
        ("--port", "1"),
    ):
        refused = server.ship(repository, *words)
        assert refused.returncode == 1
        assert refused.stderr.count("\n") == 1, refused.stderr
        said.append(refused.stderr)
    assert "does not take the key" in said[0]
    assert "there is no file" in said[2]
    assert all("no connection to" in line for line in (said[1], said[3])), said
    assert server.everything() == set()


def test_a_full_disk_leaves_what_runs_and_the_next_ship_goes_through(
    server: DeployServer, repository: Repository
) -> None:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k,mode=755", "tmpfs", str(server.project)],
        check=False,
        capture_output=True,
    )
    if mounted.returncode:
        pytest.skip("a small disk cannot be mounted here")
    try:
        shutil.chown(server.project, server.user, server.user)
        first = repository.commit(dags__load="small\n")
        assert server.ship(repository).returncode == 0
        repository.commit(dags__load="big\n" * 200_000)
        refused = server.ship(repository)
        assert (refused.returncode, "Is its disk full?" in refused.stderr) == (1, True), refused.stderr
        assert server.current == first
        assert server.files() == {"dags/load.py": "small\n"}
        assert server.everything() == {"current", "releases", f"releases/{first}"}
        # Killed before it could tidy: there is no room for anything at all.
        left = server.project / "releases" / ".new-killed"
        left.mkdir()
        with pytest.raises(OSError, match="No space"):
            (left / "half").write_bytes(b"x" * 1_000_000)
        for path in (left, left / "half"):
            shutil.chown(path, server.user, server.user)
        last = repository.commit(dags__load="small again\n")
        assert server.ship(repository).returncode == 0
        assert server.current == last
    finally:
        run("umount", "--lazy", server.project)


def test_the_server_going_away_in_the_middle_is_told(
    server: DeployServer, repository: Repository, tmp_path: Path
) -> None:
    first = repository.commit(dags__load="first\n")
    server.ship(repository)
    repository.commit(dags__load="second\n")
    script = tmp_path / "cut.py"
    script.write_text(
        "from deployment import ship\nreal = ship._is_whole\n"
        "def is_whole(server, lock, name, *words):\n"
        "    if name.startswith('.new'):\n        server._client.get_transport().sock.close()\n"
        "    return real(server, lock, name, *words)\n"
        "ship._is_whole = is_whole\nraise SystemExit(ship.main())\n"
    )
    command = [sys.executable, script, *server.login, "--repository", repository.folder]
    cut = run(*command, cwd=PROJECT, env=os.environ | {"PYTHONPATH": str(PROJECT)}, check=False)
    assert (cut.returncode, "the connection broke" in cut.stderr) == (1, True), cut.stderr
    assert server.current == first
    assert server.ship(repository, *QUICK).returncode == 0
    assert server.files() == {"dags/load.py": "second\n"}


def test_a_commit_that_must_not_be_shipped_is_refused(repository: Repository) -> None:
    repository.commit(plugins__a="no DAG\n")
    with pytest.raises(ShipError, match="has no DAG"):
        read_release(repository.folder, "HEAD")
    with pytest.raises(ShipError, match="it knows no nothing"):
        read_release(repository.folder, "nothing")
    with pytest.raises(ShipError, match="git rev-parse failed"):
        read_release(repository.folder, "--all")
    repository.commit(dags__load="a\n")
    (repository.folder / "dags" / "link.py").symlink_to("/etc/passwd")
    repository.commit()
    with pytest.raises(ShipError, match=r"dags/link.py in commit \w+ is a symbolic link"):
        read_release(repository.folder, "HEAD")
