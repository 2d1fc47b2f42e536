"""Real DVC and Git version what was transformed: data before Git, whoever else pushes, whenever it is killed."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests

from examples.events import fill
from shortlist.errors import DatasetError, NothingToDoError, ObjectStorageError, ShortlistError
from shortlist.settings import DatasetSettings
from shortlist.stores import dataset_repository, files, model_versions
from steps.data_versions import compare_with_champion, load_processed, load_viz
from steps.transform import transform_events
from tests.datasets.conftest import SECRET, with_transform
from tests.datasets.git_server import GitServer
from tests.datasets.interrupted import run_killed

if TYPE_CHECKING:
    from shortlist.settings import Settings
    from tests.datasets.conftest import S3

LINE = '{"user_id": "u", "item_id": "i", "time": "2026-01-01", "weight": 1}\n'
TOKEN = "a-token-that-must-never-be-seen"


def git(repository: Path | str, *arguments: str) -> str:
    """Run Git on a repository, without any configuration of this machine."""
    done = subprocess.run(
        ["git", *arguments],
        cwd=repository,
        env={
            **os.environ,
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_NOSYSTEM": "1",
            **{f"GIT_{who}_{what}": "other" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
        },
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def bare(settings: Settings) -> str:
    return dataset_repository.location(settings)


def commits(settings: Settings) -> list[str]:
    """The subjects of all commits on the branch, oldest first."""
    return git(bare(settings), "log", "--reverse", "--format=%s", "master").splitlines()


def transform(s3: S3, settings: Settings, *keys: str) -> None:
    for key in keys:
        s3.put(f"events/{key}.jsonl", LINE.replace('"u"', f'"{key}"'))
    assert transform_events(settings=settings, run_key=f"transform {keys}")["new_data"]


def pull(settings: Settings, folder: Path) -> dict[str, bytes]:
    """What anybody gets who clones the repository and calls `dvc pull`, by name."""
    git(folder.parent, "clone", "--quiet", bare(settings), str(folder))
    environment = {**os.environ, "HOME": str(folder.parent), "DVC_SITE_CACHE_DIR": str(folder.parent / "site")}
    subprocess.run([sys.executable, "-m", "dvc", "pull", "-q"], cwd=folder, env=environment, check=True, timeout=120)
    outputs = (path for name in ("processed", "viz") for path in (folder / name).glob("*"))
    return {f"{path.parent.name}/{path.name}": path.read_bytes() for path in outputs}


def test_both_folders_are_versioned_and_anybody_can_pull_them(s3: S3, settings: Settings, tmp_path: Path) -> None:
    transform(s3, settings, "a", "b")

    processed = load_processed(settings=settings, run_key="r1")
    viz = load_viz(settings=settings, run_key="r1")

    assert processed == {"commit": git(bare(settings), "rev-parse", "master~1"), "files": 2, "changed": True}
    assert viz == {"commit": git(bare(settings), "rev-parse", "master"), "files": 3, "changed": True}
    assert commits(settings) == ["processed: 2 files", "viz: 3 files"]
    expected = {
        key: content
        for key, content in {**s3.all(prefix="processed/"), **s3.all(prefix="viz/")}.items()
        if key != "processed/_state.json"
    }
    assert pull(settings, tmp_path / "clone") == expected
    left = {path.name for path in (tmp_path / "jobs" / "datasets").rglob("*") if path.is_file()}
    assert left == {"processed.lock", "viz.lock", *(key.partition("/")[2] for key in expected)}


def test_the_same_data_is_no_new_version(s3: S3, settings: Settings) -> None:
    transform(s3, settings, "a")
    first = load_processed(settings=settings, run_key="r1")

    assert load_processed(settings=settings, run_key="r1") == first  # a further attempt of the run that made it
    assert load_processed(settings=settings, run_key="r2") == {**first, "changed": False}
    assert commits(settings) == ["processed: 1 files"]

    transform(s3, settings, "b")
    second = load_processed(settings=settings, run_key="r3")
    assert (second["files"], second["changed"]) == (2, True)
    assert commits(settings) == ["processed: 1 files", "processed: 2 files"]


def test_two_first_versions_at_once(s3: S3, settings: Settings, tmp_path: Path) -> None:
    """Both find no repository, both make the first commit; the slower one begins again on top of the faster."""
    transform(s3, settings, "a")
    together = threading.Barrier(2)

    def load(step: Any) -> Any:
        together.wait(30)
        return step(settings=settings, run_key="r1")

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(load, (load_processed, load_viz)))

    assert [result["changed"] for result in results] == [True, True]
    assert sorted(commits(settings)) == ["processed: 1 files", "viz: 3 files"]
    assert len(pull(settings, tmp_path / "clone")) == 4
    assert [path.name for path in (tmp_path / "jobs").iterdir() if path.name.startswith(".")] == []


def push_something_else(settings: Settings, folder: Path) -> None:
    git(folder.parent, "clone", "--quiet", bare(settings), str(folder))
    (folder / "README").write_text(folder.name)
    git(folder, "add", "README")
    git(folder, "commit", "--quiet", "--message", "by somebody else")
    git(folder, "push", "--quiet", "origin", "HEAD:master")


def test_a_push_that_is_rejected_is_done_again(
    s3: S3, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transform(s3, settings, "a")
    load_viz(settings=settings, run_key="r1")
    run_command: Any = dataset_repository.run_command
    others: list[Path] = []

    def overtaken(command: list[str], **kwargs: Any) -> Any:
        if command[:2] == ["git", "push"] and len(others) < 2:
            others.append(tmp_path / f"other{len(others)}")
            push_something_else(settings, others[-1])
        return run_command(command, **kwargs)

    monkeypatch.setattr(dataset_repository, "run_command", overtaken)
    result = load_processed(settings=settings, run_key="r2")

    assert commits(settings) == ["viz: 3 files", "by somebody else", "by somebody else", "processed: 1 files"]
    assert result["commit"] == git(bare(settings), "rev-parse", "master")
    assert len(pull(settings, tmp_path / "clone")) == 4


def test_others_who_push_all_the_time_are_told(
    s3: S3, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transform(s3, settings, "a")
    load_viz(settings=settings, run_key="r1")
    monkeypatch.setattr(dataset_repository, "_ATTEMPTS", 2)
    monkeypatch.setattr(dataset_repository.Repository, "_push", lambda _: False)
    with pytest.raises(DatasetError, match="others pushed first, 2 times. Run this again"):
        load_processed(settings=settings, run_key="r2")
    assert commits(settings) == ["viz: 3 files"]


@pytest.mark.parametrize(
    ("before", "made"), [("dvc add", 0), ("dvc push", 0), ("git commit", 0), ("git push", 0), ("git rev-parse HEAD", 1)]
)
def test_killed_between_two_commands_and_run_again(
    s3: S3, settings: Settings, tmp_path: Path, before: str, made: int
) -> None:
    """Case 35. The last one is killed after its push: the next attempt knows its own commit."""
    transform(s3, settings, "a")
    load_viz(settings=settings, run_key="r1")

    assert not run_killed("processed", before, settings, "r2")

    assert commits(settings) == ["viz: 3 files", *["processed: 1 files"] * made]
    pushed = s3.all(prefix="versions/")  # whatever a commit names is there
    assert made == 0 or len(pushed) == 6
    result = load_processed(settings=settings, run_key="r2")
    assert result == {"commit": git(bare(settings), "rev-parse", "master"), "files": 1, "changed": True}
    assert commits(settings) == ["viz: 3 files", "processed: 1 files"]
    assert len(pull(settings, tmp_path / "clone")) == 4


def test_without_access_to_the_data_there_is_no_commit(s3: S3, settings: Settings, tmp_path: Path) -> None:
    transform(s3, settings, "a")
    load_viz(settings=settings, run_key="r1")
    (tmp_path / "file").touch()
    for remote, error, said in (
        ("s3://none/versions", ObjectStorageError, "has no bucket 'none'"),
        (f"{tmp_path}/file/versions", DatasetError, "dvc push failed for the repository"),
    ):
        elsewhere = replace(settings, datasets=replace(settings.datasets, remote=remote))
        with pytest.raises(error, match=said):
            load_processed(settings=elsewhere, run_key="r2")
    requests.post(f"{s3.url}/moto-api/reset-auth", data="0", timeout=30).raise_for_status()
    with pytest.raises(ObjectStorageError, match="refuses the login"):
        load_processed(settings=settings, run_key="r2")
    assert commits(settings) == ["viz: 3 files"]


def test_a_repository_that_is_away_or_refuses(s3: S3, settings: Settings, tmp_path: Path) -> None:
    transform(s3, settings, "a")
    away = replace(settings, datasets=replace(settings.datasets, repository=str(tmp_path / "none.git")))
    with pytest.raises(DatasetError, match=r"none.git cannot be reached: .*fatal: .*Is it there\?"):
        load_processed(settings=away, run_key="r1")
    load_viz(settings=settings, run_key="r1")
    hook = tmp_path / "jobs" / "datasets.git" / "hooks" / "pre-receive"
    hook.write_text("#!/bin/sh\necho not on my watch >&2\nexit 1\n")
    hook.chmod(0o755)
    with pytest.raises(
        DatasetError, match=r"cannot be pushed to: .*pre-receive hook declined.*remote: not on my watch"
    ):
        load_processed(settings=settings, run_key="r2")
    assert commits(settings) == ["viz: 3 files"]


def test_a_command_that_hangs_is_ended(s3: S3, settings: Settings, tmp_path: Path) -> None:
    transform(s3, settings, "a")
    load_viz(settings=settings, run_key="r1")
    hook = tmp_path / "jobs" / "datasets.git" / "hooks" / "pre-receive"
    hook.write_text("#!/bin/sh\nexec sleep 600\n")
    hook.chmod(0o755)
    impatient = replace(settings, datasets=replace(settings.datasets, timeout_seconds=20))
    with pytest.raises(DatasetError, match="took more than 20 seconds"):
        load_processed(settings=impatient, run_key="r2")


def test_files_that_are_not_those_of_the_state(s3: S3, settings: Settings) -> None:
    transform(s3, settings, "a")
    s3.put("viz/events_per_day.csv", "changed", "data")
    with pytest.raises(
        ObjectStorageError, match=r"s3://data/viz/events_per_day.csv is not what the last transform made"
    ):
        load_viz(settings=settings, run_key="r1")


def test_nothing_transformed_yet(s3: S3, settings: Settings) -> None:
    with pytest.raises(NothingToDoError, match="nothing was transformed yet"):
        load_processed(settings=settings, run_key="r1")


def test_a_token_is_for_its_server_alone(
    s3: S3, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Over real HTTPS: the token is the password there, and is seen nowhere else."""
    transform(s3, settings, "a")
    folder = tmp_path / "served"
    folder.mkdir()
    git(folder, "init", "--quiet", "--bare", "team.git")
    with GitServer(folder, TOKEN) as server:
        monkeypatch.setenv("GIT_SSL_CAINFO", str(server.certificate))
        settings = replace(settings, datasets=replace(settings.datasets, repository=f"{server.url}/team.git"))
        monkeypatch.setenv("DATASETS_TOKEN", "a-wrong-one")
        with pytest.raises(DatasetError, match="cannot be reached: .*may DATASETS_TOKEN use it") as told:
            load_processed(settings=settings, run_key="r1")
        assert "a-wrong-one" not in str(told.value)
        monkeypatch.delenv("DATASETS_TOKEN")
        with pytest.raises(DatasetError, match="cannot be reached"):
            load_processed(settings=settings, run_key="r1")
        monkeypatch.setenv("DATASETS_TOKEN", TOKEN)

        result = load_processed(settings=settings, run_key="r1")

        assert compare_with_champion(settings=settings)["dataset_commit"] == result["commit"]
    assert git(folder / "team.git", "rev-parse", "master") == result["commit"]
    assert TOKEN not in caplog.text
    seen = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert TOKEN.encode() not in seen
    assert SECRET.encode() not in seen


def test_commands_read_and_write_nothing_of_a_user_and_call_nobody(
    s3: S3, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A home that would break every command, and a proxy that would see what goes to other hosts."""
    home = tmp_path / "home"
    (home / ".config" / "dvc").mkdir(parents=True)
    (home / ".gitconfig").write_text(
        "[commit]\ngpgsign = true\n[gpg]\nprogram = /bin/false\n[core]\nhooksPath = /none\n"
    )
    (home / ".config" / "dvc" / "config").write_text("[core]\nremote = nobody\n[broken\n")
    (home / ".aws").mkdir()
    (home / ".aws" / "config").write_text("[default]\nendpoint_url = http://127.0.0.1:1\n")
    before = {path: path.stat().st_mtime_ns for path in home.rglob("*")}
    called = []

    class Proxy(BaseHTTPRequestHandler):
        def do_CONNECT(self) -> None:
            called.append(self.path)
            self.send_error(403)

        do_GET = do_POST = do_HEAD = do_CONNECT

        def log_message(self, *_: Any) -> None:
            pass

    transform(s3, settings, "a")
    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.server_address[1]}")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("HOME", str(home))
        assert load_processed(settings=settings, run_key="r1")["changed"]
        monkeypatch.delenv("HOME")
        assert load_viz(settings=settings, run_key="r1")["changed"]
        # DVC reports by a process that it leaves behind: none was left.
        sessions = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
        proxy.shutdown()
    assert "dvc daemon" not in sessions
    assert called == []
    assert {path: path.stat().st_mtime_ns for path in home.rglob("*")} == before


def test_a_repository_of_somebody_else_keeps_what_it_has(s3: S3, settings: Settings, tmp_path: Path) -> None:
    """It has a branch, files, a DVC of its own; links in it lead nowhere."""
    git(tmp_path, "init", "--quiet", "--initial-branch=master", "team")
    team = tmp_path / "team"
    (team / ".dvc").mkdir()
    (team / ".dvc" / "config").write_text(
        "[core]\n    remote = theirs\n['remote \"theirs\"']\n    url = s3://other/place\n"
    )
    (team / "processed").symlink_to(tmp_path / "outside")
    (tmp_path / "outside").mkdir()
    git(team, "add", ".")
    git(team, "commit", "--quiet", "--message", "theirs")
    git(tmp_path, "clone", "--quiet", "--bare", "team", "team.git")
    settings = replace(settings, datasets=replace(settings.datasets, repository=str(tmp_path / "team.git")))
    transform(s3, settings, "a")

    load_viz(settings=settings, run_key="r1")

    assert commits(settings) == ["theirs", "viz: 3 files"]
    assert git(bare(settings), "show", "master:.dvc/config").splitlines() == [
        "[core]",
        "    remote = theirs",
        "['remote \"theirs\"']",
        "    url = s3://other/place",
        "['remote \"storage\"']",
        "    url = s3://data/versions",
    ]
    with pytest.raises(DatasetError, match="has files of its own in processed"):
        load_processed(settings=settings, run_key="r1")
    assert list((tmp_path / "outside").iterdir()) == []


def champion(settings: Settings, **manifest: Any) -> None:
    """A champion with this manifest."""
    folder = settings.paths.model_versions
    files.write_json(f"{folder}/version_1/manifest.json", {"version": "version_1", **manifest})
    model_versions.promote(folder, "version_1", "test")


def test_a_champion_of_another_number_of_files_is_a_mismatch(
    s3: S3, settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    transform(s3, settings, "a")
    load_processed(settings=settings, run_key="r1")
    known = load_viz(settings=settings, run_key="r1")["commit"]
    champion(settings, dataset_commit=known)

    same = compare_with_champion(settings=settings)

    assert same == {
        "mismatch": False,
        "reason": "the champion version_1 knows as many files: processed 1, viz 3",
        "dataset_commit": known,
        "champion_commit": known,
        "input_path": None,
    }
    assert not (tmp_path / "jobs" / "datasets" / "checkouts").exists()
    assert "File counts differ" not in caplog.text

    transform(s3, settings, "b", "c")
    newest = load_processed(settings=settings, run_key="r2")["commit"]
    other = compare_with_champion(settings=settings)

    assert other == {
        "mismatch": True,
        "reason": "File counts differ between the dataset commit and master: "
        f"processed 1, viz 3 at {known[:12]}, processed 3, viz 3 at {newest[:12]}",
        "dataset_commit": newest,
        "champion_commit": known,
        "input_path": str(tmp_path / "jobs" / "datasets" / "checkouts" / newest),
    }
    parts = s3.all(prefix="processed/part-")
    assert {path.name: path.read_bytes() for path in Path(other["input_path"]).iterdir()} == {
        key.removeprefix("processed/"): content for key, content in parts.items()
    }
    assert len(parts) == 3
    assert "File counts differ between the dataset commit and master" in caplog.text


def test_the_files_to_train_on_are_fetched_once_and_two_versions_of_them_stay(s3: S3, settings: Settings) -> None:
    folder = Path(settings.paths.jobs, "datasets", "checkouts")
    fetched = []
    for key in "abc":
        transform(s3, settings, key)
        load_processed(settings=settings, run_key=key)
        fetched.append(Path(compare_with_champion(settings=settings)["input_path"]))
        before = fetched[-1].stat().st_ino
        assert compare_with_champion(settings=settings)["input_path"] == str(fetched[-1])
        assert fetched[-1].stat().st_ino == before
    assert sorted(folder.iterdir()) == sorted(fetched[1:])
    assert [len(list(path.iterdir())) for path in fetched[1:]] == [2, 3]


def test_data_that_the_storage_has_lost_is_no_data_to_train_on(s3: S3, settings: Settings) -> None:
    transform(s3, settings, "a")
    load_processed(settings=settings, run_key="r1")
    for key in s3.all(prefix="versions/"):
        s3.client.delete_object(Bucket="data", Key=key)

    with pytest.raises(DatasetError, match="dvc pull failed for the repository"):
        compare_with_champion(settings=settings)

    assert list(Path(settings.paths.jobs, "datasets", "checkouts").iterdir()) == []


@pytest.mark.parametrize(
    ("commit", "reason"),
    [
        (None, "the champion version_1 names no commit of a data set"),
        ("--all", "the champion version_1 names no commit of a data set"),
        ("0" * 40, "the champion's commit 0000000000000000000000000000000000000000 is not in "),
    ],
)
def test_a_champion_of_an_unknown_commit_is_a_mismatch(
    s3: S3, settings: Settings, commit: str | None, reason: str
) -> None:
    transform(s3, settings, "a")
    newest = load_processed(settings=settings, run_key="r1")["commit"]
    result = compare_with_champion(settings=settings)
    assert result == {
        "mismatch": True,
        "reason": "there is no champion yet",
        "dataset_commit": newest,
        "champion_commit": None,
        "input_path": f"{settings.paths.jobs}/datasets/checkouts/{newest}",
    }
    champion(settings, dataset_commit=commit)
    result = compare_with_champion(settings=settings)
    assert result["mismatch"]
    assert result["reason"].startswith(reason)


def test_without_a_repository_there_is_nothing_to_compare(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(NothingToDoError, match="no repository at .*interactions_transform makes the first version"):
        compare_with_champion(settings=settings)
    git(tmp_path / "jobs", "init", "--quiet", "--bare", "datasets.git")
    with pytest.raises(NothingToDoError, match="no version in"):
        compare_with_champion(settings=settings)
    away = replace(settings, datasets=DatasetSettings(repository="https://127.0.0.1:1/x.git"))
    with pytest.raises(DatasetError, match="cannot be reached"):
        compare_with_champion(settings=away)


def test_only_one_at_a_time_versions_a_folder(s3: S3, settings: Settings) -> None:
    from shortlist.stores.workspaces import workspace

    transform(s3, settings, "a")
    with workspace(settings, "datasets/processed"), pytest.raises(ShortlistError, match="another job is at work"):
        load_processed(settings=settings, run_key="r1")


def test_the_example_fills_its_buckets_once(s3: S3, settings: Settings) -> None:
    columns = replace(settings.transform.columns, weight="quantity", cancellation="invoice")
    settings = with_transform(settings, raw="s3://raw-of-example/events", columns=columns)
    assert fill(settings, months=1) == ["2010-12.jsonl.gz"]
    assert fill(settings, months=1) == []
    result = transform_events(
        settings=replace(settings, interactions=replace(settings.interactions, tolerated=("missing_user",))),
        run_key="r",
    )
    assert (result["rows"], result["rejected"]) == (26850, {"missing_user": 15631})
