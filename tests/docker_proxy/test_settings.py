"""config/containers.toml: read, and refused when it is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from docker_proxy.errors import ProxySettingsError
from docker_proxy.settings import Limits, Mount, Settings, load_settings
from tests.docker_proxy.conftest import SOCKET

if TYPE_CHECKING:
    from pathlib import Path

LEAST = 'images = ["jobs"]\nnetworks = ["jobs"]\nuser = "50000:0"\n'


def test_the_settings_of_the_project(settings: Settings) -> None:
    assert settings == Settings(
        project="shop",
        images=("shop-jobs:latest",),
        networks=("shop_jobs", "shop_stores"),
        user="50000:0",
        read_only=True,
        pull=False,
        abandoned_minutes=10.0,
        limits=Limits(memory=2**30, pids=256, cpus=2.0, shm=2**26, tmp=2**28, containers=8),
        mounts={
            **{
                path: Mount(path, path, read_only=True)
                for path in ("/opt/airflow/plugins", "/opt/airflow/jobs", "/opt/airflow/config", "/opt/airflow/models")
            },
            "shop_jobs-data": Mount("shop_jobs-data", "/opt/airflow/jobs-data", read_only=False),
        },
    )


def test_what_is_left_out_is_strict(tmp_path: Path) -> None:
    settings = _load(tmp_path, LEAST + '[[mounts]]\nsource = "/opt/x"\n')

    assert settings.mounts == {"/opt/x": Mount("/opt/x", "/opt/x", read_only=True)}
    assert (settings.pull, settings.read_only, settings.limits) == (False, True, Limits())


WRONG = {
    "privileged = true\n" + LEAST: "unknown key 'privileged'",
    LEAST + "[limits]\nmemroy = '1g'\n": "[limits]: unknown key 'memroy'",
    LEAST + "[limits]\nmemory = 1024\n": "memory must be of the type str",
    LEAST + "[limits]\nmemory = '-1'\n": "memory must be a size",
    LEAST + "[limits]\nmemory = '0g'\n": "memory must be a size",
    LEAST + "[limits]\npids = -1\n": "pids = -1 is not between 2 and 100000",
    LEAST + "[limits]\npids = 1.5\n": "pids must be a whole number",
    LEAST + "[limits]\ncpus = true\n": "cpus must be a number",
    LEAST + "[limits]\ncpus = inf\n": "cpus = inf is not between",
    LEAST + "[limits]\ncpus = nan\n": "cpus = nan is not between",
    "pull = 1\n" + LEAST: "pull must be of the type bool",
    "abandoned_minutes = 0\n" + LEAST: "abandoned_minutes = 0 is not between",
    LEAST.replace("50000:0", "0:0"): "'0:0' is not uid:gid in numbers, not root",
    LEAST.replace("50000:0", "000:0"): "'000:0' is not uid:gid in numbers, not root",
    LEAST.replace("50000:0", "root"): "'root' is not uid:gid in numbers, not root",
    LEAST.replace("50000:0", "50000"): "'50000' is not uid:gid in numbers, not root",
    LEAST.replace('networks = ["jobs"]', 'networks = ["host"]'): "'host' may not be on the list",
    LEAST.replace('networks = ["jobs"]', 'networks = ["container:x"]'): "'container:x' is not network",
    LEAST.replace('networks = ["jobs"]', 'networks = "jobs"'): "networks must be of the type list",
    LEAST.replace('images = ["jobs"]', 'images = ["*"]'): "'*' is not image:tag",
    LEAST.replace('images = ["jobs"]', f'images = ["x@sha256:{"0" * 64}"]'): "is not image:tag",
    LEAST.replace('images = ["jobs"]\n', ""): "images must be of the type list",
    LEAST + '[[mounts]]\nsource = "/"\n': "'/' is not an absolute path",
    LEAST + '[[mounts]]\nsource = "/var/run/docker.sock"\n': "would show the engine's socket",
    LEAST + '[[mounts]]\nsource = "/var/run"\n': "would show the engine's socket",
    LEAST + '[[mounts]]\nsource = "/opt/../etc"\n': "is not a plain path",
    LEAST + '[[mounts]]\nsource = "/opt/x/"\n': "is not a plain path",
    LEAST + '[[mounts]]\nsource = "data"\n': "target must be of the type str",
    LEAST + '[[mounts]]\nsource = "../data"\ntarget = "/x"\n': "is not an absolute path or the name of a volume",
    LEAST + '[[mounts]]\nsource = "data"\ntarget = "x"\n': "'x' is not an absolute path",
    LEAST + '[[mounts]]\nsource = "/a"\nreadonly = false\n': "[[mounts]] 1: unknown key 'readonly'",
    LEAST + '[[mounts]]\nsource = "/a"\n[[mounts]]\nsource = "/a"\n': "[[mounts]] 2: '/a' is there twice",
    "mounts = [1]\n" + LEAST: "[[mounts]] 1: must be a table",
    "images = \n": "Invalid value",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_file_is_refused_naming_the_key(tmp_path: Path, text: str) -> None:
    with pytest.raises(ProxySettingsError) as told:
        _load(tmp_path, text)

    assert WRONG[text] in str(told.value)
    assert str(tmp_path / "containers.toml") in str(told.value)


@pytest.mark.parametrize("project", ["", "../x", "A", "x y"])
def test_a_project_needs_a_name(tmp_path: Path, project: str) -> None:
    with pytest.raises(ProxySettingsError, match="is no name of a compose project"):
        _load(tmp_path, LEAST, project)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ProxySettingsError, match="No such file"):
        load_settings(tmp_path / "no.toml", project="shop", uid="1", socket=SOCKET)


def _load(folder: Path, text: str, project: str = "shop") -> Settings:
    (folder / "containers.toml").write_text(text, encoding="utf-8")
    return load_settings(folder / "containers.toml", project=project, uid="50000", socket=SOCKET)
