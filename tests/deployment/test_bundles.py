"""What Airflow's own dag-processor makes of shipped DAGs and of DAGs in Git: new, changed and gone ones."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml  # type: ignore[import-untyped]

from tests.deployment.conftest import PROJECT, DeployServer, Repository, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DAG = """
from airflow.sdk import dag, task
from dag_support.defaults import OWNER

def step():
    from steps.train import RANK
    return RANK

@dag(schedule=None, description=f"{dag_says} {{OWNER}}")
def {name}():
    task(step)()

{name}()
"""


def files(*names: str, dag_says: str, code: str) -> dict[str, str | None]:
    """DAGs that tell what they and the package beside them are; `plugins/` as the project has it."""
    return {
        **{f"dags__{name}": DAG.format(dag_says=dag_says, name=name) for name in names},
        "plugins__dag_support____init__": "",
        "plugins__dag_support__defaults": f"OWNER = {code!r}\n",
        "plugins__steps____init__": "",
        "plugins__steps__train": f"RANK = {code!r}\n",
    }


class Home:
    """An Airflow of its own: tables in SQLite, and the environment that the compose files give, below this folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ} | {
            "AIRFLOW_HOME": str(folder),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{folder}/airflow.db",
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "1",
            # As in config/airflow.cfg: a change must be noticed, not met at the next round.
            "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "300",
            "AIRFLOW__DAG_PROCESSOR__BUNDLE_REFRESH_CHECK_INTERVAL": "1",
            "PYTHONPYCACHEPREFIX": str(folder / "pycache"),
            "PYTHONWARNINGS": "ignore",
        }

    def airflow(self, *words: str) -> None:
        run(sys.executable, "-m", "airflow", *words, env=self.environment, cwd=self.folder, timeout=300)

    def python(self, script: str) -> Any:
        """The JSON that a script prints last."""
        done = run(sys.executable, "-c", script, env=self.environment, cwd=self.folder, timeout=300, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    def dags(self) -> dict[str, str]:
        """What each DAG that is there says, and the import errors."""
        with closing(sqlite3.connect(self.folder / "airflow.db", timeout=30)) as tables:
            found = dict(tables.execute("SELECT dag_id, description FROM dag WHERE NOT is_stale"))
            return found | {name: "error" for (name,) in tables.execute("SELECT filename FROM import_error")}

    def versions(self) -> dict[str, str]:
        """At which commit a run of each DAG would begin."""
        with closing(sqlite3.connect(self.folder / "airflow.db", timeout=30)) as tables:
            return dict(tables.execute("SELECT dag_id, bundle_version FROM dag WHERE NOT is_stale"))

    def becomes(self, read: Callable[[], dict[str, str]], expected: dict[str, str]) -> None:
        until = time.monotonic() + 300
        while (now := read()) != expected:
            log = (self.folder / "processor.log").read_text()[-3000:]
            assert time.monotonic() < until, f"{now} is not {expected}: {log}"
            time.sleep(0.5)

    @contextmanager
    def processor(self) -> Iterator[None]:
        command = [sys.executable, "-m", "airflow", "dag-processor"]
        with (self.folder / "processor.log").open("ab") as log:
            process = subprocess.Popen(
                command, env=self.environment, cwd=self.folder, stdout=log, stderr=log, start_new_session=True
            )
            try:
                yield
            finally:
                os.killpg(process.pid, signal.SIGINT)
                try:
                    process.wait(30)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()


@pytest.fixture(scope="session")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Airflow's tables, made once."""
    home = Home(tmp_path_factory.mktemp("tables"))
    home.airflow("db", "migrate")
    return home.folder / "airflow.db"


@pytest.fixture
def home(tables: Path, tmp_path: Path) -> Home:
    folder = tmp_path / "home"
    folder.mkdir()
    shutil.copy(tables, folder)
    return Home(folder)


def environment_of(override: str, service: str, **given: str) -> dict[str, str]:
    """What a compose file sets for a service, with its variables filled in as compose does."""
    text = (PROJECT / override).read_text()
    for name, value in given.items():
        text = _filled(text, name, value)
    service_settings = yaml.safe_load(text)["services"][service]["environment"]
    return {name: " ".join(str(value).split()) for name, value in service_settings.items()}


def _filled(text: str, name: str, value: str) -> str:
    return re.sub(rf"\$\{{{name}(:[-?][^}}]*)?\}}", value, text)


@pytest.fixture
def shipped_home(home: Home, server: DeployServer) -> Home:
    """With the variables of docker-compose.deployed.yaml, for the folder of the account."""
    for name, value in environment_of("docker-compose.deployed.yaml", "airflow-dag-processor").items():
        home.environment[name] = value.replace("/opt/airflow/deployed", str(server.project))
    return home


def test_shipped_dags_appear_change_and_go_and_come_back(
    shipped_home: Home, server: DeployServer, repository: Repository
) -> None:
    repository.commit(**files("one", "two", dag_says="first", code="A"))
    server.ship(repository, check=True)
    with shipped_home.processor():
        shipped_home.becomes(shipped_home.dags, {"one": "first A", "two": "first A"})
        # A DAG changed, one gone, one new.
        repository.commit(dags__two=None, **files("one", "three", dag_says="second", code="A"))
        server.ship(repository, check=True)
        shipped_home.becomes(shipped_home.dags, {"one": "second A", "three": "second A"})
        # No DAG file changed, but what they import.
        repository.commit(plugins__dag_support__defaults="OWNER = 'B'\n")
        server.ship(repository, check=True)
        shipped_home.becomes(shipped_home.dags, {"one": "second B", "three": "second B"})
        server.ship(repository, "--roll-back", check=True)
        shipped_home.becomes(shipped_home.dags, {"one": "second A", "three": "second A"})


def git_home(home: Home, url: str, access: Path | None = None) -> Home:
    """With the variables of docker-compose.git.yaml."""
    given = {"DAGS_GIT_URL": url, "DAGS_GIT_REF": "main", "DAGS_GIT_SECONDS": "1", "DAGS_GIT_USER": "git"}
    given |= {"DAGS_GIT_TOKEN": "", "DAGS_GIT_ACCESS": "unused"}
    for name, value in environment_of("docker-compose.git.yaml", "airflow-dag-processor", **given).items():
        value = value.replace("/opt/airflow/bundles", str(home.folder / "bundles"))
        home.environment[name] = value.replace("/opt/airflow/git-access", str(access or home.folder))
    return home


@pytest.fixture
def remote(repository: Repository, tmp_path: Path) -> Path:
    """A bare repository, to which `repository` pushes; `bundle/` is the project's."""
    shutil.copytree(PROJECT / "bundle", repository.folder / "bundle", symlinks=True)
    (repository.folder / "plugins" / "shortlist").mkdir(parents=True)
    (repository.folder / "plugins" / "shortlist" / "__init__.py").touch()
    bare = tmp_path / "remote.git"
    run("git", "init", "--quiet", "--bare", "--initial-branch", "main", bare)
    repository.git("remote", "add", "origin", str(bare))
    return bare


RUN = """
import json
from pathlib import Path
from airflow.dag_processing.bundles.manager import DagBundlesManager
from airflow.dag_processing.dagbag import BundleDagBag

bundle = DagBundlesManager().get_bundle("shortlist", version={version!r})
bundle.initialize()
bag = BundleDagBag(dag_folder=str(bundle.path), bundle_path=bundle.path, bundle_name="shortlist")
assert not bag.import_errors, bag.import_errors
print(json.dumps({{dag_id: [dag.description, dag.tasks[0].python_callable()] for dag_id, dag in bag.dags.items()}}))
"""


def of_worker(home: Home) -> None:
    """From now on, clones are those of a worker, which has its own."""
    del home.environment["AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_STORAGE_PATH"]
    home.environment["TMPDIR"] = str(home.folder)


def test_dags_in_git_appear_change_and_go_and_each_run_has_one_commit(
    home: Home, repository: Repository, remote: Path
) -> None:
    git_home(home, str(remote))
    first = repository.commit(**files("one", "two", dag_says="first", code="A"))
    repository.git("push", "--quiet", "origin", "main")
    with home.processor():
        home.becomes(home.dags, {"one": "first A", "two": "first A"})
        home.becomes(home.versions, {"one": first, "two": first})
        second = repository.commit(dags__two=None, **files("one", "three", dag_says="second", code="B"))
        repository.git("push", "--quiet", "origin", "main")
        home.becomes(home.dags, {"one": "second B", "three": "second B"})
        home.becomes(home.versions, {"one": second, "three": second})
    # As a worker does with the commit of a run. The packages are imported when the DAG is read and when the step runs.
    of_worker(home)
    assert home.python(RUN.format(version=first)) == {"one": ["first A", "A"], "two": ["first A", "A"]}
    assert home.python(RUN.format(version=second)) == {"one": ["second B", "B"], "three": ["second B", "B"]}


def test_code_alone_that_changed_is_taken_in_with_the_next_reading(
    home: Home, repository: Repository, remote: Path
) -> None:
    """Git leaves the times of DAG files that did not change: Airflow reads them in its usual round."""
    git_home(home, str(remote))
    home.environment["AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL"] = "2"
    repository.commit(**files("one", dag_says="first", code="A"))
    repository.git("push", "--quiet", "origin", "main")
    with home.processor():
        home.becomes(home.dags, {"one": "first A"})
        second = repository.commit(plugins__dag_support__defaults="OWNER = 'B'\n")
        repository.git("push", "--quiet", "origin", "main")
        home.becomes(home.dags, {"one": "first B"})
        home.becomes(home.versions, {"one": second})


def test_a_remote_that_is_away_leaves_the_dags(home: Home, repository: Repository, remote: Path) -> None:
    """And a worker goes on with the commits it has seen."""
    git_home(home, str(remote))
    first = repository.commit(**files("one", dag_says="first", code="A"))
    repository.git("push", "--quiet", "origin", "main")
    with home.processor():
        of_worker(home)
        assert home.python(RUN.format(version=first)) == {"one": ["first A", "A"]}
        home.becomes(home.dags, {"one": "first A"})
        away = remote.rename(remote.with_name("away.git"))
        until = time.monotonic() + 300
        while "Error refreshing bundle" not in (home.folder / "processor.log").read_text():
            assert time.monotonic() < until
            time.sleep(0.5)
        assert home.dags() == {"one": "first A"}
        assert home.python(RUN.format(version=first)) == {"one": ["first A", "A"]}
        away.rename(remote)
        repository.commit(**files("one", dag_says="second", code="B"))
        repository.git("push", "--quiet", "origin", "main")
        home.becomes(home.dags, {"one": "second B"})


def test_a_repository_behind_ssh_is_read_with_the_key_and_only_from_the_known_host(
    home: Home, repository: Repository, remote: Path, server: DeployServer, tmp_path: Path
) -> None:
    first = repository.commit(**files("one", dag_says="first", code="A"))
    repository.git("push", "--quiet", "origin", "main")
    access = tmp_path / "git-access"
    access.mkdir()
    shutil.copy(server.key, access / "key")
    shutil.copy(server.known_hosts, access / "known_hosts")
    git_home(home, f"ssh://root@127.0.0.1:{server.port}{remote}", access)
    assert home.python(RUN.format(version=first)) == {"one": ["first A", "A"]}
    shutil.rmtree(home.folder / "bundles")
    (access / "known_hosts").write_text("")
    with pytest.raises(AssertionError, match="Host key verification failed"):
        home.python(RUN.format(version=first))


@pytest.fixture
def real_project(repository: Repository) -> Repository:
    """This project's own DAGs, plugins and `bundle/`."""
    for folder in ("bundle", "dags", "plugins"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(PROJECT / folder, repository.folder / folder, symlinks=True, ignore=ignored)
    repository.commit()
    return repository


PARSE = """
import json
from pathlib import Path
from airflow.dag_processing.bundles.manager import DagBundlesManager
from airflow.dag_processing.dagbag import BundleDagBag

(bundle,) = DagBundlesManager().get_all_dag_bundles()
bundle.initialize()
bag = BundleDagBag(dag_folder=str(bundle.path), bundle_path=bundle.path, bundle_name=bundle.name)
assert not bag.import_errors, bag.import_errors
import dag_support, shortlist.code_version, shortlist.settings, steps
print(json.dumps({
    "dags": sorted(bag.dags),
    "from": [str(Path(module.__file__).resolve()) for module in (dag_support, shortlist, steps)],
    "project": str(shortlist.settings.PROJECT_ROOT), "code": shortlist.code_version.code_version()["commit"],
}))
"""


def real_dags() -> list[str]:
    return sorted(path.stem for path in (PROJECT / "dags").glob("*.py"))


def test_the_projects_own_dags_run_as_shipped(
    shipped_home: Home, server: DeployServer, real_project: Repository
) -> None:
    server.ship(real_project, check=True)
    shipped_home.environment["SHORTLIST_PROJECT"] = str(PROJECT)
    seen = shipped_home.python(PARSE)
    commit = real_project.git("rev-parse", "HEAD")
    assert seen["dags"] == real_dags()
    assert {Path(path).parents[2].name for path in seen["from"]} == {commit}
    assert (seen["project"], seen["code"]) == (str(PROJECT), commit)


def test_the_projects_own_dags_run_from_git(home: Home, real_project: Repository) -> None:
    git_home(home, str(real_project.folder))
    home.environment["SHORTLIST_PROJECT"] = str(PROJECT)
    seen = home.python(PARSE)
    assert seen["dags"] == real_dags()
    repo = home.folder / "bundles" / "shortlist" / "tracking_repo"
    assert seen["from"] == [
        str(repo / "plugins" / name / "__init__.py") for name in ("dag_support", "shortlist", "steps")
    ]
    assert seen["project"] == str(PROJECT)
    assert sorted(path.name for path in repo.iterdir()) == [".git", "bundle", "dags", "plugins"]


def test_the_bundle_has_every_package_that_dags_import() -> None:
    packages = {path.parent.name for path in (PROJECT / "plugins").glob("*/__init__.py")}
    links = {path.name: os.readlink(path) for path in (PROJECT / "bundle").iterdir() if path.is_symlink()}
    assert links == {"dags": "../dags"} | {name: f"../plugins/{name}" for name in packages}
    ignored = (PROJECT / "bundle" / ".airflowignore").read_text().splitlines()[1:]
    assert ignored == sorted(f"{name}/" for name in packages)
