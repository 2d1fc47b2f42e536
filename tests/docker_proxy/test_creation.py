"""The body of a create request: what is taken over, what is imposed, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
from docker.types import ContainerConfig, HostConfig, LogConfig
from docker.types import Mount as DockerMount
from hypothesis import strategies as st

from docker_proxy.creation import rebuild
from docker_proxy.errors import RefusedError

if TYPE_CHECKING:
    from docker_proxy.settings import Settings

FOLDERS = {f"/opt/airflow/{name}": f"/home/me/shop/{name}" for name in ("plugins", "jobs", "config")}
PLUGINS = {"Type": "bind", "Source": "/opt/airflow/plugins", "Target": "/opt/airflow/plugins", "ReadOnly": True}
DATA = {"Type": "volume", "Source": "shop_jobs-data", "Target": "/opt/airflow/jobs-data", "ReadOnly": False}
LEAST: dict[str, Any] = {"Image": "shop-jobs", "HostConfig": {"NetworkMode": "shop_jobs"}}


def _built(body: object, settings: Settings, cores: float = 4.0) -> dict[str, Any]:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return rebuild(raw, settings, host_paths=FOLDERS, cores=cores)


def _with_host(**fields: object) -> dict[str, Any]:
    return {**LEAST, "HostConfig": {**LEAST["HostConfig"], **fields}}


def _with_mount(mount: dict[str, Any] | None = None, **fields: object) -> dict[str, Any]:
    return _with_host(Mounts=[{**(PLUGINS if mount is None else mount), **fields}])


def test_what_docker_operator_sends_is_written_anew_with_limits(settings: Settings) -> None:
    # The calls of DockerOperator._run_image_with_mounts, version 4.6.1 of the provider.
    host_config = HostConfig(
        "1.41",
        auto_remove=False,
        mounts=[
            DockerMount("/opt/airflow/plugins", "/opt/airflow/plugins", type="bind", read_only=True),
            DockerMount("/opt/airflow/jobs-data", "shop_jobs-data"),
        ],
        network_mode="shop_jobs",
        cpu_shares=1024,
        port_bindings={},
        privileged=False,
        log_config=LogConfig(config={}),
        ulimits=[],
    )
    asked = ContainerConfig(
        "1.41",
        "shop-jobs",
        ["python", "-m", "jobs", "scrape"],
        ports=[],
        environment={"A": "b=c"},
        tty=False,
        labels={"dag_id": "catalogue_refresh"},
        host_config=host_config,
    )

    assert _built(asked, settings) == {
        "Image": "shop-jobs:latest",
        "Cmd": ["python", "-m", "jobs", "scrape"],
        "User": "50000:0",
        "Env": ["A=b=c"],
        "Labels": {"dag_id": "catalogue_refresh", "shortlist.project": "shop"},
        "Tty": False,
        "AttachStdin": False,
        "AttachStdout": True,
        "AttachStderr": True,
        "OpenStdin": False,
        "StdinOnce": False,
        "HostConfig": {
            "AutoRemove": False,
            "CapDrop": ["ALL"],
            "CgroupnsMode": "private",
            "CpuShares": 1024,
            "Init": True,
            "IpcMode": "private",
            "LogConfig": {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}},
            "Memory": 1024**3,
            "MemorySwap": 1024**3,
            "Mounts": [
                {
                    "Type": "bind",
                    "Source": "/home/me/shop/plugins",
                    "Target": "/opt/airflow/plugins",
                    "ReadOnly": True,
                    "BindOptions": {"Propagation": "rprivate"},
                },
                DATA,
            ],
            "NanoCpus": 2_000_000_000,
            "NetworkMode": "shop_jobs",
            "PidsLimit": 256,
            "Privileged": False,
            "PublishAllPorts": False,
            "ReadonlyRootfs": True,
            "RestartPolicy": {"Name": "no"},
            "SecurityOpt": ["no-new-privileges"],
            "ShmSize": 64 * 1024**2,
            "Tmpfs": {"/tmp": f"rw,nosuid,nodev,size={256 * 1024**2}"},
        },
    }


HARMLESS: dict[str, dict[str, object]] = {
    "an unknown field that is empty": {"OomKillDisable": False, "Devices": [], "Sysctls": {}, "PidMode": "", "X": None},
    "what is imposed anyway": {"CapDrop": ["ALL"], "Init": True, "PidsLimit": 256, "RestartPolicy": {"Name": "no"}},
    "no limits at all": {"Memory": 0, "MemorySwap": None, "PidsLimit": 0, "NanoCpus": 0, "MaskedPaths": []},
}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_is_empty_or_imposed_anyway_makes_no_difference(settings: Settings, name: str) -> None:
    assert _built(_with_host(**HARMLESS[name]), settings) == _built(LEAST, settings)


def test_less_than_the_limits_may_be_asked_for(settings: Settings) -> None:
    host = _built(_with_host(Memory=2**28, ShmSize=2**20, NanoCpus=10**9, CpuShares=512), settings)["HostConfig"]

    assert (host["Memory"], host["MemorySwap"], host["ShmSize"]) == (2**28, 2**28, 2**20)
    assert (host["NanoCpus"], host["CpuShares"]) == (10**9, 512)


def test_no_more_cores_than_the_machine_has(settings: Settings) -> None:
    assert _built(LEAST, settings, cores=1)["HostConfig"]["NanoCpus"] == 10**9


def test_a_container_may_be_without_any_network(settings: Settings) -> None:
    assert _built(_with_host(NetworkMode="none"), settings)["HostConfig"]["NetworkMode"] == "none"


def test_the_settings_decide_whether_containers_may_write(settings: Settings) -> None:
    assert _built(LEAST, replace(settings, read_only=False))["HostConfig"]["ReadonlyRootfs"] is False


REFUSED: dict[str, tuple[object, str]] = {
    # The machine's devices, rights and names.
    "privileged": (_with_host(Privileged=True), "HostConfig.Privileged is set by the proxy"),
    "privileged as a number": (_with_host(Privileged=1), "HostConfig.Privileged is set by the proxy"),
    "a capability": (_with_host(CapAdd=["SYS_ADMIN"]), "HostConfig.'CapAdd' is not known"),
    "all capabilities under the old name": (_with_host(Capabilities=["ALL"]), "HostConfig.'Capabilities'"),
    "fewer capabilities dropped": (_with_host(CapDrop=["CHOWN"]), "HostConfig.CapDrop is set by the proxy"),
    "a device": (_with_host(Devices=[{"PathOnHost": "/dev/vda"}]), "'Devices' is not known"),
    "a device rule": (_with_host(DeviceCgroupRules=["a *:* rwm"]), "'DeviceCgroupRules' is not known"),
    "a graphics card": (_with_host(DeviceRequests=[{"Count": -1}]), "'DeviceRequests' is not known"),
    "processes of the host": (_with_host(PidMode="host"), "'PidMode' is not known"),
    "processes of another container": (_with_host(PidMode="container:x"), "'PidMode' is not known"),
    "memory of the host": (_with_host(IpcMode="host"), "HostConfig.IpcMode is set by the proxy"),
    "memory that can be shared": (_with_host(IpcMode="shareable"), "HostConfig.IpcMode is set by the proxy"),
    "the host's name": (_with_host(UTSMode="host"), "'UTSMode' is not known"),
    "the host's users": (_with_host(UsernsMode="host"), "'UsernsMode' is not known"),
    "the host's control groups": (_with_host(CgroupnsMode="host"), "HostConfig.CgroupnsMode is set by the proxy"),
    "a parent of control groups": (_with_host(CgroupParent="/"), "'CgroupParent' is not known"),
    "a control group": (_with_host(Cgroup="container:x"), "'Cgroup' is not known"),
    "no seccomp": (_with_host(SecurityOpt=["seccomp=unconfined"]), "HostConfig.SecurityOpt is set by the proxy"),
    "new privileges": (_with_host(SecurityOpt=["no-new-privileges:false"]), "HostConfig.SecurityOpt is set"),
    "one more security option": (
        _with_host(SecurityOpt=["no-new-privileges", "apparmor=unconfined"]),
        "HostConfig.SecurityOpt is set",
    ),
    "a kernel setting": (_with_host(Sysctls={"kernel.shm_rmid_forced": "1"}), "'Sysctls' is not known"),
    "another runtime": (_with_host(Runtime="io.containerd.runc.v2"), "'Runtime' is not known"),
    "unmasked paths": (_with_host(MaskedPaths=["/x"]), "'MaskedPaths' is not known"),
    "writable kernel paths": (_with_host(ReadonlyPaths=["/x"]), "'ReadonlyPaths' is not known"),
    "a writable root": (_with_host(ReadonlyRootfs="no"), "HostConfig.ReadonlyRootfs is set"),
    "a group": (_with_host(GroupAdd=["docker"]), "'GroupAdd' is not known"),
    "another storage size": (_with_host(StorageOpt={"size": "1T"}), "'StorageOpt' is not known"),
    "another init": (_with_host(InitPath="/x"), "'InitPath' is not known"),
    "no init": (_with_host(Init=2), "HostConfig.Init is set"),
    # Mounts.
    "a bind of the root": (_with_host(Binds=["/:/host"]), "'Binds' is not known"),
    "a bind of what is on the list": (_with_host(Binds=["/opt/airflow/plugins:/x:ro"]), "'Binds' is not known"),
    "a mount of the root": (_with_mount(Source="/", Target="/host"), "the mount of '/' is not on the list"),
    "a mount of the socket": (_with_mount(Source="/var/run/docker.sock"), "'/var/run/docker.sock' is not on the list"),
    "a folder within": (_with_mount(Source="/opt/airflow/plugins/x"), "'/opt/airflow/plugins/x' is not on the list"),
    "a folder with a slash": (_with_mount(Source="/opt/airflow/plugins/"), "is not on the list"),
    "a folder beside": (_with_mount(Source="/opt/airflow/plugins/../data"), "is not on the list"),
    "a folder with a case": (_with_mount(Source="/opt/airflow/Plugins"), "is not on the list"),
    "the machine's name of a folder": (_with_mount(Source="/home/me/shop/plugins"), "is not on the list"),
    "a folder that is not mounted here": (
        _with_mount(Source="/opt/airflow/models", Target="/opt/airflow/models"),
        "/opt/airflow/models is on the list, but not mounted into the proxy",
    ),
    "read-only to be written": (_with_mount(ReadOnly=False), "/opt/airflow/plugins is mounted read-only, or not at"),
    "read-only not said": (_with_mount(ReadOnly=None), "/opt/airflow/plugins is mounted read-only, or not at all"),
    "read-only as a text": (_with_mount(ReadOnly="true"), "HostConfig.Mounts.ReadOnly must be true or false"),
    "read-only in small letters": (
        _with_host(Mounts=[{**PLUGINS, "readonly": False, "ReadOnly": True, "READONLY": True}]),
        "HostConfig.Mounts.'READONLY' is not known",
    ),
    "another target": (_with_mount(Target="/etc"), "/opt/airflow/plugins is mounted at /opt/airflow/plugins, not at"),
    "another target of a volume": (_with_mount(DATA, Target="/etc"), "shop_jobs-data is mounted at"),
    "a propagation": (_with_mount(BindOptions={"Propagation": "rshared"}), "HostConfig.Mounts.'BindOptions' is not"),
    "a mount as a list": (_with_host(Mounts=[["bind"]]), "HostConfig.Mounts must be an object"),
    "mounts as an object": (_with_host(Mounts={"0": PLUGINS}), "HostConfig.Mounts must be a list"),
    "the same mount twice": (_with_host(Mounts=[PLUGINS, PLUGINS]), "two mounts have the same target"),
    "another volume": (_with_mount(DATA, Source="shop_postgres"), "'shop_postgres' is not on the list"),
    "a volume without a name": (_with_mount(DATA, Source=""), "the mount of '' is not on the list"),
    "a volume as a folder": (_with_mount(DATA, Type="bind"), "'shop_jobs-data' is not on the list"),
    "a folder as a volume": (_with_mount(Type="volume"), "'/opt/airflow/plugins' is not on the list"),
    "a volume with a driver": (
        _with_mount(DATA, VolumeOptions={"DriverConfig": {"Options": {"device": "/", "o": "bind", "type": "none"}}}),
        "HostConfig.Mounts.'VolumeOptions' is not known",
    ),
    "a driver of volumes": (_with_host(VolumeDriver="local"), "'VolumeDriver' is not known"),
    "memory as a mount": (_with_host(Mounts=[{"Type": "tmpfs", "Target": "/x"}]), "the mount of None is not"),
    "a pipe": (_with_mount(Type="npipe"), "is not on the list"),
    "volumes of another container": (_with_host(VolumesFrom=["shop-postgres-1"]), "'VolumesFrom' is not known"),
    "a volume of the image's kind": ({**LEAST, "Volumes": {"/x": {}}}, "'Volumes' is not known"),
    "more memory as a folder": (_with_host(Tmpfs={"/x": "size=100g"}), "HostConfig.Tmpfs is set"),
    # Networks.
    "the host's network": (_with_host(NetworkMode="host"), "the network 'host' is not one of shop_jobs, shop_stores"),
    "another container's network": (_with_host(NetworkMode="container:shop-docker-proxy-1"), "the network 'container"),
    "everybody's network": (_with_host(NetworkMode="bridge"), "the network 'bridge' is not one of"),
    "no word about the network": (_with_host(NetworkMode="default"), "the network 'default' is not one of"),
    "no network mode": ({"Image": "shop-jobs"}, "the network None is not one of"),
    "the engine's network": (_with_host(NetworkMode="shop_engine"), "the network 'shop_engine' is not one of"),
    "a network as a list": (_with_host(NetworkMode=["shop_jobs"]), "is not one of"),
    "one more network": (
        {**LEAST, "NetworkingConfig": {"EndpointsConfig": {"shop_engine": {}}}},
        "NetworkingConfig.'EndpointsConfig' is not known",
    ),
    "a port": (_with_host(PortBindings={"80/tcp": [{"HostPort": "80"}]}), "'PortBindings' is not known"),
    "all ports": (_with_host(PublishAllPorts=True), "HostConfig.PublishAllPorts is set"),
    "a link": (_with_host(Links=["shop-postgres-1:x"]), "'Links' is not known"),
    "a host's address": (_with_host(ExtraHosts=["x:host-gateway"]), "'ExtraHosts' is not known"),
    "a name server": (_with_host(Dns=["1.1.1.1"]), "'Dns' is not known"),
    "a hardware address": ({**LEAST, "MacAddress": "02:42:ac:11:00:02"}, "'MacAddress' is not known"),
    # Limits.
    "too much memory": (_with_host(Memory=2**40), "HostConfig.Memory = 1099511627776 is not between 1 and 1073741824"),
    "negative memory": (_with_host(Memory=-1), "HostConfig.Memory = -1 is not between"),
    "memory as a text": (_with_host(Memory="1g"), "HostConfig.Memory must be a whole number"),
    "memory as a fraction": (_with_host(Memory=1.5), "HostConfig.Memory must be a whole number"),
    "memory as true": (_with_host(Memory=True), "HostConfig.Memory must be a whole number"),
    "swap": (_with_host(MemorySwap=-1), "HostConfig.MemorySwap is set"),
    "no limit of processes": (_with_host(PidsLimit=-1), "HostConfig.PidsLimit is set"),
    "too many cores": (_with_host(NanoCpus=3 * 10**9), "HostConfig.NanoCpus = 3000000000 is not between"),
    "cores by quota": (_with_host(CpuQuota=-1), "'CpuQuota' is not known"),
    "more than others": (_with_host(CpuShares=262144), "HostConfig.CpuShares = 262144 is not between 1 and 2048"),
    "much shared memory": (_with_host(ShmSize=2**40), "HostConfig.ShmSize = 1099511627776 is not between"),
    "no killing when memory ends": (_with_host(OomKillDisable=True), "'OomKillDisable' is not known"),
    "killed last": (_with_host(OomScoreAdj=-1000), "'OomScoreAdj' is not known"),
    "limits of the shell": (_with_host(Ulimits=[{"Name": "core", "Hard": -1}]), "'Ulimits' is not known"),
    "a restart": (_with_host(RestartPolicy={"Name": "always"}), "HostConfig.RestartPolicy is set"),
    "removed at its end": (_with_host(AutoRemove=True), "HostConfig.AutoRemove is set"),
    "another log": (_with_host(LogConfig={"Type": "syslog", "Config": {}}), "HostConfig.LogConfig is set"),
    "a log elsewhere": (
        _with_host(LogConfig={"Type": "json-file", "Config": {"path": "/x"}}),
        "HostConfig.LogConfig is set",
    ),
    # What runs, and as whom.
    "another image": ({**LEAST, "Image": "postgres:17"}, "the image 'postgres:17' is not on the list"),
    "another tag": ({**LEAST, "Image": "shop-jobs:old"}, "the image 'shop-jobs:old' is not on the list"),
    "a digest": ({**LEAST, "Image": f"shop-jobs@sha256:{'0' * 64}"}, "is not on the list"),
    "a digest beside the tag": ({**LEAST, "Image": f"shop-jobs:latest@sha256:{'0' * 64}"}, "is not on the list"),
    "an id": ({**LEAST, "Image": "sha256:" + "0" * 64}, "is not on the list"),
    "a registry": ({**LEAST, "Image": "docker.io/library/shop-jobs"}, "is not on the list"),
    "no image": ({"HostConfig": {"NetworkMode": "none"}}, "the image None is not on the list"),
    "an image as a list": ({**LEAST, "Image": ["shop-jobs"]}, "is not on the list"),
    "root": ({**LEAST, "User": "0"}, "the user '0' is not 50000:0"),
    "root by name": ({**LEAST, "User": "root"}, "the user 'root' is not 50000:0"),
    "root with another group": ({**LEAST, "User": "0:50000"}, "the user '0:50000' is not 50000:0"),
    "root with zeros": ({**LEAST, "User": "00"}, "the user '00' is not 50000:0"),
    "another user": ({**LEAST, "User": "1000"}, "the user '1000' is not 50000:0"),
    "an input": ({**LEAST, "OpenStdin": True}, "'OpenStdin' is not known"),
    "a health check": ({**LEAST, "Healthcheck": {"Test": ["CMD", "x"]}}, "'Healthcheck' is not known"),
    "a signal to stop": ({**LEAST, "StopSignal": "SIGWINCH"}, "'StopSignal' is not known"),
    "another folder to work in": ({**LEAST, "WorkingDir": "x"}, "WorkingDir has a value that is not allowed"),
    "a host name": ({**LEAST, "Hostname": "a b"}, "Hostname has a value that is not allowed"),
    "an environment without a name": ({**LEAST, "Env": ["=secret"]}, "Env has an entry that is not allowed"),
    "an environment as an object": ({**LEAST, "Env": {"A": "b"}}, "Env must be a list of strings"),
    "a command as a text": ({**LEAST, "Cmd": "sh"}, "Cmd must be a list of strings"),
    "a command of numbers": ({**LEAST, "Cmd": [1]}, "Cmd must be a list of strings"),
    "a platform": ({**LEAST, "Platform": "linux/arm64"}, "'Platform' is not known"),
    # Labels.
    "the label of another project": ({**LEAST, "Labels": {"shortlist.project": "x"}}, "the label 'shortlist.project'"),
    "a label of compose": ({**LEAST, "Labels": {"com.docker.compose.service": "x"}}, "the label 'com.docker.compose"),
    "a label that others obey": ({**LEAST, "Labels": {"ofelia.job-local.x.command": "id"}}, "the label 'ofelia"),
    "a label that is no text": ({**LEAST, "Labels": {"dag_id": 1}}, "Labels must be an object of strings"),
    "labels as a list": ({**LEAST, "Labels": ["a"]}, "Labels must be an object"),
    # Spelling.
    "small letters": ({**LEAST, "hostconfig": {"Privileged": True}}, "'hostconfig' is not known"),
    "small letters within": (_with_host(privileged=True), "HostConfig.'privileged' is not known"),
    "a letter that folds to k": ({**LEAST, "Networ\u212aingConfig": {"a": 1}}, "is not known"),
    "a key twice": (
        b'{"Image": "shop-jobs", "HostConfig": {"NetworkMode": "none"}, "HostConfig": {"Privileged": true}}',
        "the body has a key twice",
    ),
    "a key twice within": (
        b'{"Image": "shop-jobs", "HostConfig": {"NetworkMode": "none", "Memory": 1, "Memory": 0}}',
        "the body has a key twice",
    ),
    "a key twice by escapes": (
        rb'{"Image": "shop-jobs", "\u0049mage": "postgres", "HostConfig": {"NetworkMode": "none"}}',
        "the body has a key twice",
    ),
    "not a number": (b'{"Image": "shop-jobs", "HostConfig": {"NetworkMode": "none", "Memory": NaN}}', "is not JSON"),
    "a number beyond all": (b'{"Image": ' + b"9" * 5000 + b"}", "is not JSON"),
    "deep": (b'{"Image":' * 50_000 + b"1" + b"}" * 50_000, "is not JSON"),
    "two bodies": (json.dumps(LEAST).encode() * 2, "the body is not JSON"),
    "a list": ([LEAST], "the body must be an object"),
    "a host configuration as a list": ({**LEAST, "HostConfig": [1]}, "HostConfig must be an object"),
    "networks as a text": ({**LEAST, "NetworkingConfig": "x"}, "NetworkingConfig must be an object"),
    "an unknown field": ({**LEAST, "X": 1}, "'X' is not known"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_allowed_is_refused_with_a_sentence(settings: Settings, name: str) -> None:
    body, sentence = REFUSED[name]

    with pytest.raises(RefusedError) as told:
        _built(body, settings)

    assert sentence in str(told.value)
    assert str(told.value).isprintable()
    assert len(str(told.value)) < 300


def test_each_of_these_bodies_would_be_taken_without_what_is_wrong_in_it(settings: Settings) -> None:
    assert _built(LEAST, settings)["Image"] == "shop-jobs:latest"
    assert len(_built(_with_mount(), settings)["HostConfig"]["Mounts"]) == 1
    assert _built(_with_mount(DATA), settings)["HostConfig"]["Mounts"] == [DATA]
    assert _built({**LEAST, "User": "50000:0", "Hostname": "job", "WorkingDir": "/opt/airflow"}, settings)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)
NAMES = st.sampled_from([
    "Privileged", "privileged", "Binds", "CapAdd", "CapDrop", "Devices", "PidMode", "IpcMode", "SecurityOpt", "Memory",
    "MemorySwap", "PidsLimit", "NanoCpus", "CpuShares", "ShmSize", "Mounts", "NetworkMode", "LogConfig", "Tmpfs",
    "RestartPolicy", "AutoRemove", "Init", "ReadonlyRootfs", "CgroupnsMode", "User", "Env", "Cmd", "Labels", "Tty",
    "Image", "Hostname", "WorkingDir", "NetworkingConfig", "OpenStdin", "Volumes", "Entrypoint",
])  # fmt: skip
GIVEN = st.dictionaries(NAMES, ANYTHING, max_size=4)
FREE = {"Cmd", "Entrypoint", "Env", "Labels", "Hostname", "WorkingDir", "Tty"}
FREE_OF_HOST = {"Memory", "MemorySwap", "NanoCpus", "CpuShares", "ShmSize", "NetworkMode"}


@hypothesis.settings(max_examples=500, suppress_health_check=list(hypothesis.HealthCheck), deadline=None)
@hypothesis.given(top=GIVEN, host=GIVEN)
def test_whatever_is_asked_for_the_body_is_the_least_one_or_there_is_none(
    settings: Settings, top: dict[str, Any], host: dict[str, Any]
) -> None:
    least = _built(LEAST, settings)
    try:
        built = _built({**LEAST, **top, "HostConfig": {"NetworkMode": "shop_jobs", **host}}, settings)
    except RefusedError:
        return

    def fixed(body: dict[str, Any], free: set[str]) -> dict[str, Any]:
        return {name: value for name, value in body.items() if name not in free}

    assert fixed(built, FREE | {"HostConfig"}) == fixed(least, FREE | {"HostConfig"})
    assert fixed(built["HostConfig"], FREE_OF_HOST) == fixed(least["HostConfig"], FREE_OF_HOST)
    for name in FREE_OF_HOST - {"NetworkMode"}:
        assert 0 < built["HostConfig"][name] <= max(least["HostConfig"][name], 2048)
    assert built["HostConfig"]["NetworkMode"] in ("shop_jobs", "none")
    assert built["Labels"]["shortlist.project"] == "shop"
