"""The proxy in its image, before the real engine: attempts to get out, and jobs as DockerOperator runs them."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from docker import APIClient
from docker.errors import APIError, NotFound
from docker.types import LogConfig, Mount

from tests.compose.stack import PROJECT, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SOCKET = "/var/run/docker.sock"
BASE = "python:3.13-slim"
NAME = f"shortlist-proxytest-{os.getpid()}"
FOLDERS = ("plugins", "jobs", "config", "models")


# A new volume takes its owner and mode from the image, and python does for a job.
JOBS = f"FROM {BASE}\nRUN install -d -o 50000 -g 0 -m 775 /opt/airflow/jobs-data\n"


def _docker(*words: str, given: str = "", check: bool = True) -> str:
    ended = subprocess.run(["docker", *words], input=given, capture_output=True, text=True, timeout=600, check=False)
    if check and ended.returncode:
        raise AssertionError(f"docker {' '.join(words)}:\n{ended.stdout}\n{ended.stderr}")
    return ended.stdout.strip()


@dataclass
class Bench:
    """A proxy as compose runs it, beside things of the same engine that are none of its business.

    Attributes:
        project: Its COMPOSE_PROJECT_NAME.
        port: Where it answers.
        folder: The project's folder on this machine.
        engine: The engine itself.
        api: What paths of the engine's newest API begin with.
    """

    project: str
    port: int
    folder: Path
    engine: APIClient
    api: str

    @property
    def client(self) -> APIClient:
        return APIClient(base_url=f"tcp://127.0.0.1:{self.port}", timeout=60)

    def ask(
        self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
    ) -> tuple[int, str]:
        """Send a request to the proxy; return status and body."""
        return _ask(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60), method, path, body, headers)

    def create(self, *command: str, name: str | None = None, **more: Any) -> str:
        """Create a container as DockerOperator does; return its id."""
        client = self.client
        host = {"network_mode": f"{self.project}_jobs", **more.pop("host", {})}
        made = client.create_container(
            image=f"{self.project}-jobs",
            command=list(command),
            name=name,
            host_config=client.create_host_config(
                auto_remove=False,
                cpu_shares=1024,
                port_bindings={},
                log_config=LogConfig(config={}),
                ulimits=[],
                **host,
            ),
            **more,
        )
        return str(made["Id"])

    def there(self) -> dict[str, object]:
        """What the engine holds, but for other stacks and their jobs, which may come and go."""
        ours = [
            one
            for one in self.engine.containers(all=True)
            if "com.docker.compose.project" not in one["Labels"]
            and one["Labels"].get("shortlist.project", self.project) in (self.project, "another")
        ]
        states = {}
        for one in ours:
            shown = self.engine.inspect_container(one["Id"])
            states[one["Id"]] = (shown["Name"], shown["State"]["StartedAt"], shown["State"]["Running"], shown["Config"])
        named = [tag for image in self.engine.images() for tag in image["RepoTags"] or []]
        networks = {
            each["Id"]: each for each in self.engine.networks() if "com.docker.compose.project" not in each["Labels"]
        }
        return {
            "containers": states,
            "images": sorted(tag for tag in named if tag.startswith(NAME)),
            "volumes": sorted(
                each["Name"]
                for each in self.engine.volumes()["Volumes"] or []
                if "com.docker.compose.project" not in (each["Labels"] or {})
            ),
            "networks": {
                each["Name"]: sorted(self.engine.inspect_network(key)["Containers"]) for key, each in networks.items()
            },
            "swarm": self.engine.info()["Swarm"]["LocalNodeState"],
            "plugins": [each["Name"] for each in self.engine.plugins()],
        }


class EngineConnection(http.client.HTTPConnection):
    """A connection to the engine itself."""

    def __init__(self) -> None:
        super().__init__("engine", timeout=60)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(SOCKET)


def _ask(
    connection: http.client.HTTPConnection, method: str, path: str, body: object, headers: dict[str, str] | None
) -> tuple[int, str]:
    content = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
    try:
        connection.request(method, path, content, {"Content-Type": "application/json", **(headers or {})})
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")
    finally:
        connection.close()


@pytest.fixture(scope="module")
def engine() -> Iterator[APIClient]:
    client = APIClient(base_url=f"unix://{SOCKET}", timeout=60)
    try:
        client.ping()
    except Exception:  # noqa: BLE001
        pytest.skip(f"no container engine answers at {SOCKET}")
    yield client
    client.close()


@pytest.fixture(scope="module")
def image(engine: APIClient) -> Iterator[str]:
    """The proxy's image, as the Dockerfile makes it."""
    name = f"{NAME}-docker-proxy"
    _docker("build", "--quiet", "--target", "docker-proxy", "--tag", name, str(PROJECT))
    yield name
    _docker("image", "rm", name, check=False)


@contextmanager
def _bench(project: str, engine: APIClient, image: str, abandoned_minutes: float) -> Iterator[Bench]:
    with tempfile.TemporaryDirectory(prefix=f"{project}-") as made:
        folder = Path(made)
        folder.chmod(0o755)
        for name in FOLDERS:
            (folder / name).mkdir()
        (folder / "plugins" / "within").mkdir()
        (folder / "plugins" / "kept.txt").write_text("of the host")
        (folder / "plugins" / "way_out").symlink_to("/")
        text = (PROJECT / "config" / "containers.toml").read_text(encoding="utf-8")
        changed = text.replace("abandoned_minutes = 10 ", f"abandoned_minutes = {abandoned_minutes} ")
        assert changed != text or abandoned_minutes == 10
        (folder / "config" / "containers.toml").write_text(changed, encoding="utf-8")
        proxy = f"{project}-docker-proxy-1"
        try:
            _docker("build", "--quiet", "--tag", f"{project}-jobs", "-", given=JOBS)
            _docker("tag", f"{project}-jobs", f"{project}-jobs:other")
            for network in ("jobs", "stores", "foreign"):
                _docker("network", "create", f"{project}_{network}")
            for volume in ("jobs-data", "foreign"):
                _docker("volume", "create", f"{project}_{volume}")
            _docker(
                "run", "--detach", "--name", f"{project}-foreign", "--label", "shortlist.project=another",
                "--env", "PASSWORD=of-somebody-else", BASE, "sleep", "86400",
            )  # fmt: skip
            _docker(
                "run", "--detach", "--name", proxy, "--user", "0:0", "--read-only", "--cap-drop", "ALL",
                "--security-opt", "no-new-privileges:true", "--memory", "64m", "--pids-limit", "32",
                "--env", f"COMPOSE_PROJECT_NAME={project}", "--volume", f"{SOCKET}:{SOCKET}",
                "--publish", "127.0.0.1::2375",
                *(word for name in FOLDERS for word in ("--volume", f"{folder / name}:/opt/airflow/{name}:ro")),
                image,
            )  # fmt: skip
            port = int(_docker("port", proxy, "2375/tcp").rpartition(":")[2])
            bench = Bench(project, port, folder, engine, f"/v{engine.api_version}")
            wait_for(lambda: _answers(bench), "the proxy", 60)
            yield bench
        finally:
            log = subprocess.run(["docker", "logs", proxy], capture_output=True, text=True, check=False)
            Path(tempfile.gettempdir(), f"{project}.log").write_text(log.stdout + log.stderr, encoding="utf-8")
            jobs = _docker("ps", "--all", "--quiet", "--filter", f"label=shortlist.project={project}", check=False)
            _docker("rm", "--force", "--volumes", proxy, f"{project}-foreign", *jobs.split(), check=False)
            for network in ("jobs", "stores", "foreign"):
                _docker("network", "rm", f"{project}_{network}", check=False)
            for volume in ("jobs-data", "foreign"):
                _docker("volume", "rm", f"{project}_{volume}", check=False)
            _docker("image", "rm", f"{project}-jobs", f"{project}-jobs:other", check=False)


def _answers(bench: Bench) -> bool:
    try:
        return bench.ask("GET", "/_ping") == (200, "OK")
    except OSError:
        return False


@pytest.fixture(scope="module")
def bench(engine: APIClient, image: str) -> Iterator[Bench]:
    with _bench(NAME, engine, image, 10) as bench:
        yield bench


@pytest.fixture(scope="module")
def own(bench: Bench) -> Iterator[str]:
    """A running container of the project."""
    made = bench.create("sleep", "86400")
    bench.client.start(made)
    yield made
    bench.client.remove_container(made, force=True)


# Each is a body that the engine would take. {p} stands for the project, {folder} for its folder on the machine, {here}
# for the same as the proxy wants it named, {image} for the id of the allowed image.
def _host(**fields: object) -> dict[str, object]:
    return {"Image": "{p}-jobs", "HostConfig": {"NetworkMode": "{p}_jobs", **fields}}


def _mount(**fields: object) -> dict[str, object]:
    return _host(Mounts=[fields])


PLUGINS = {"Type": "bind", "Source": "{here}/plugins", "Target": "/opt/airflow/plugins", "ReadOnly": True}
DATA = {"Type": "volume", "Source": "{p}_jobs-data", "Target": "/opt/airflow/jobs-data"}
TO_THE_MACHINE = {"Name": "local", "Options": {"type": "none", "o": "bind", "device": "{folder}"}}

CREATIONS: dict[str, object] = {
    "privileged": _host(Privileged=True),
    "add a capability": _host(CapAdd=["SYS_ADMIN"]),
    "keep capabilities": _host(CapDrop=["CHOWN"]),
    "a disk": _host(Devices=[{"PathOnHost": "/dev/null", "PathInContainer": "/dev/x", "CgroupPermissions": "rwm"}]),
    "a rule for devices": _host(DeviceCgroupRules=["b *:* rwm"]),
    "a graphics card": _host(DeviceRequests=[{"Count": -1, "Capabilities": [["gpu"]]}]),
    "bind the root": _host(Binds=["/:/host"]),
    "bind the socket": _host(Binds=["/var/run/docker.sock:/var/run/docker.sock"]),
    "bind a volume": _host(Binds=["{p}_foreign:/x"]),
    "mount the root": _mount(Type="bind", Source="/", Target="/host"),
    "mount the socket": _mount(Type="bind", Source="/var/run/docker.sock", Target="/var/run/docker.sock"),
    "mount the folder of the socket": _mount(Type="bind", Source="/var/run", Target="/x"),
    "mount the project by the machine's path": _mount(Type="bind", Source="{folder}", Target="/opt/airflow/plugins"),
    "mount a folder within an allowed one": _mount(**{**PLUGINS, "Source": "{here}/plugins/within"}),
    "mount a link within an allowed folder": _mount(**{**PLUGINS, "Source": "{here}/plugins/way_out"}),
    "mount up from an allowed folder": _mount(**{**PLUGINS, "Source": "{here}/plugins/../config"}),
    "mount an allowed folder elsewhere": _mount(**{**PLUGINS, "Target": "/etc"}),
    "write to a read-only folder": _mount(**{**PLUGINS, "ReadOnly": False}),
    "share a mount back": _mount(**PLUGINS, BindOptions={"Propagation": "rslave"}),
    "mount an allowed volume elsewhere": _mount(Type="volume", Source="{p}_jobs-data", Target="/etc"),
    "a volume of somebody else": _mount(Type="volume", Source="{p}_foreign", Target="/x"),
    "a new volume": _mount(Type="volume", Source="{p}_new", Target="/x"),
    "a volume without a name": _mount(Type="volume", Target="/x"),
    "a volume that is a bind": _mount(
        Type="volume", Source="{p}_new", Target="/x", VolumeOptions={"DriverConfig": TO_THE_MACHINE}
    ),
    "an allowed volume with a driver": _mount(**DATA, VolumeOptions={"DriverConfig": {"Name": "local"}}),
    "a driver of volumes": _host(VolumeDriver="local"),
    "memory as a folder": _mount(Type="tmpfs", Target="/x"),
    "volumes of another container": _host(VolumesFrom=["{p}-foreign"]),
    "volumes of the proxy": _host(VolumesFrom=["{p}-docker-proxy-1"]),
    "the network of the host": _host(NetworkMode="host"),
    "the network of another container": _host(NetworkMode="container:{p}-docker-proxy-1"),
    "the network of everybody": _host(NetworkMode="bridge"),
    "no word about the network": _host(NetworkMode="default"),
    "a network of somebody else": _host(NetworkMode="{p}_foreign"),
    "one more network": {
        **_host(NetworkMode="{p}_foreign"),
        "NetworkingConfig": {"EndpointsConfig": {"{p}_foreign": {"Aliases": ["postgres"]}}},
    },
    "an alias in an allowed network": {
        **_host(),
        "NetworkingConfig": {"EndpointsConfig": {"{p}_jobs": {"Aliases": ["postgres"]}}},
    },
    "a port": _host(PortBindings={"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "0"}]}),
    "all ports": _host(PublishAllPorts=True),
    "an address of a name": _host(ExtraHosts=["postgres:10.0.0.1"]),
    "processes of the host": _host(PidMode="host"),
    "processes of another container": _host(PidMode="container:{p}-foreign"),
    "memory of the host": _host(IpcMode="host"),
    "memory of another container": _host(IpcMode="container:{p}-foreign"),
    "the name of the host": _host(UTSMode="host"),
    "the users of the host": _host(UsernsMode="host"),
    "the control groups of the host": _host(CgroupnsMode="host"),
    "a parent of control groups": _host(CgroupParent="/docker"),
    "no seccomp": _host(SecurityOpt=["seccomp=unconfined"]),
    "no apparmor": _host(SecurityOpt=["apparmor=unconfined"]),
    "new privileges": _host(SecurityOpt=["no-new-privileges:false"]),
    "no masked paths": {**_host(), "HostConfig": {"NetworkMode": "{p}_jobs", "MaskedPaths": ["/x"]}},
    "kernel settings": _host(Sysctls={"net.ipv4.ip_forward": "1"}),
    "another runtime": _host(Runtime="io.containerd.runc.v2"),
    "a group": _host(GroupAdd=["0"]),
    "huge memory": _host(Memory=2**40),
    "endless swap": _host(Memory=2**30, MemorySwap=-1),
    "endless processes": _host(PidsLimit=-1),
    "the processor for itself": _host(CpuShares=262144),
    "a processor by quota": _host(CpuQuota=100000),
    "huge shared memory": _host(ShmSize=2**40),
    "no limit of open files": _host(Ulimits=[{"Name": "nofile", "Soft": 64, "Hard": 64}]),
    "not killed when memory ends": _host(OomKillDisable=True),
    "killed after all others": _host(OomScoreAdj=-999),
    "started again for ever": _host(RestartPolicy={"Name": "always"}),
    "gone before anybody looks": _host(AutoRemove=True),
    "another way of logging": _host(LogConfig={"Type": "syslog", "Config": {}}),
    "no log": _host(LogConfig={"Type": "none", "Config": {}}),
    "an image of somebody else": {**_host(), "Image": BASE},
    "another tag": {**_host(), "Image": "{p}-jobs:other"},
    "an image by its id": {**_host(), "Image": "{image}"},
    "an image by the start of its id": {**_host(), "Image": "{image12}"},
    "root": {**_host(), "User": "0"},
    "root by name": {**_host(), "User": "root"},
    "root with another group": {**_host(), "User": "0:50000"},
    "a volume on the way": {**_host(), "Volumes": {"/x": {}}},
    "a label of compose": {**_host(), "Labels": {"com.docker.compose.service": "postgres"}},
    "a label of another project": {**_host(), "Labels": {"shortlist.project": "another"}},
    "small letters": {"image": "{p}-jobs", "hostconfig": {"networkmode": "{p}_jobs", "privileged": True}},
    "small letters beside": {**_host(), "hostConfig": {"Privileged": True}},
    "a letter that the engine takes for another": {
        **_host(),
        "Hostconfig": {"Priv\u0131leged": True, "Bind\u017f": ["/:/x"]},
    },
    "a key twice": b'{"Image": "{p}-jobs", "HostConfig": {"NetworkMode": "none", "Memory": 0, "Privileged": false,'
    b' "Privileged": true}}',
    "a body twice": b'{"Image": "{p}-jobs", "HostConfig": {"NetworkMode": "none"}}'
    b' {"HostConfig": {"Privileged": true}}',
}


def _filled(bench: Bench, value: object, here: str = "/opt/airflow") -> bytes:
    whole = value if isinstance(value, bytes) else json.dumps(value).encode()
    image = bench.engine.inspect_image(f"{bench.project}-jobs")["Id"]
    meanings = {"p": bench.project, "folder": str(bench.folder), "here": here, "image": image, "image12": image[7:19]}
    for name, meaning in meanings.items():
        whole = whole.replace(f"{{{name}}}".encode(), meaning.encode())
    return whole


@pytest.mark.parametrize("attempt", CREATIONS)
def test_no_container_is_created_that_could_get_out(bench: Bench, attempt: str) -> None:
    body = _filled(bench, CREATIONS[attempt])
    before = bench.there()

    status, told = bench.ask("POST", f"{bench.api}/containers/create?name={bench.project}-job-x", body)

    assert status in (400, 403), told
    assert json.loads(told)["message"].startswith("docker-proxy: ")
    assert bench.there() == before


def test_the_engine_itself_would_have_taken_those_bodies(bench: Bench) -> None:
    """An attempt that the engine refuses anyway would show nothing about the proxy."""
    refused = {}
    for attempt, body in CREATIONS.items():
        status, told = _ask(
            EngineConnection(), "POST", f"{bench.api}/containers/create", _filled(bench, body, str(bench.folder)), None
        )
        if status == 201:
            bench.engine.remove_container(json.loads(told)["Id"], v=True)
        else:
            refused[attempt] = told
    # One of them was copied from the /etc of an image, as the engine does with a new volume.
    _docker("volume", "rm", f"{bench.project}_new", f"{bench.project}_jobs-data")
    _docker("volume", "create", f"{bench.project}_jobs-data")

    assert refused == {}


ACTIONS: dict[str, tuple[str, str, object]] = {
    **{
        f"{name} a container of somebody else": (method, f"/containers/{{p}}-foreign{rest}", None)
        for name, method, rest in (
            ("start", "POST", "/start"), ("stop", "POST", "/stop"), ("kill", "POST", "/kill"),
            ("restart", "POST", "/restart"), ("pause", "POST", "/pause"), ("remove", "DELETE", "?force=1"),
            ("attach to", "POST", "/attach?stream=1&stdout=1"), ("wait for", "POST", "/wait"),
            ("read the log of", "GET", "/logs?stdout=1"), ("inspect", "GET", "/json"), ("export", "GET", "/export"),
        )
    },
    "stop the proxy": ("POST", "/containers/{p}-docker-proxy-1/stop", None),
    "inspect the proxy": ("GET", "/containers/{p}-docker-proxy-1/json", None),
    "rename": ("POST", "/containers/{own}/rename?name={p}-postgres-1", None),
    "update limits": ("POST", "/containers/{own}/update", {"Memory": 2**40, "RestartPolicy": {"Name": "always"}}),
    "start with a configuration": ("POST", "/containers/{own}/start", {"Privileged": True, "Binds": ["/:/host"]}),
    "start by an old version": ("POST", "!/v1.23/containers/{own}/start", {"Privileged": True, "Binds": ["/:/host"]}),
    "start without a version": ("POST", "!/containers/{own}/start", {"Binds": ["/:/host"]}),
    "create by an old version": ("POST", "!/v1.23/containers/create", _host(Privileged=True)),
    "create without a version": ("POST", "!/containers/create", _host(Privileged=True)),
    "create under the name of a service": ("POST", "/containers/create?name={p}-postgres-1", _host()),
    "create for another platform": ("POST", "/containers/create?platform=linux/amd64", _host()),
    "run a command": ("POST", "/containers/{own}/exec", {"Cmd": ["id"], "User": "0", "Privileged": True}),
    "attach to write": ("POST", "/containers/{own}/attach?stdin=1&stream=1", None),
    "attach by a web socket": ("GET", "/containers/{own}/attach/ws?stream=1", None),
    "take files": ("GET", "/containers/{own}/archive?path=/etc/passwd", None),
    "put files": ("PUT", "/containers/{own}/archive?path=/tmp", b"\0" * 1024),
    "export": ("GET", "/containers/{own}/export", None),
    "commit": ("POST", "/commit?container={own}&repo={p}-jobs&tag=latest", {}),
    "checkpoint": ("POST", "/containers/{own}/checkpoints", {"CheckpointID": "x"}),
    "build": ("POST", "/build?t={p}-jobs", b"a tar"),
    "build from elsewhere": ("POST", "/build?t={p}-jobs&remote=http%3A%2F%2F127.0.0.1%2Fx", None),
    "load an image": ("POST", "/images/load", b"a tar"),
    "import an image": ("POST", "/images/create?fromSrc=-&repo={p}-jobs", b"a tar"),
    "pull an image of somebody else": ("POST", "/images/create?fromImage=python&tag=3.13-slim", None),
    "pull an allowed image": ("POST", "/images/create?fromImage={p}-jobs&tag=latest", None),
    "tag an image": ("POST", "/images/python:3.13-slim/tag?repo={p}-jobs&tag=latest", None),
    "remove an image": ("DELETE", "/images/{p}-jobs?force=1", None),
    "read an image": ("GET", "/images/{p}-jobs/get", None),
    "inspect an image of somebody else": ("GET", "/images/python:3.13-slim/json", None),
    "push an image": ("POST", "/images/{p}-jobs/push", None),
    "make a volume": ("POST", "/volumes/create", {"Name": "{p}_new", "DriverOpts": TO_THE_MACHINE["Options"]}),
    "list volumes": ("GET", "/volumes", None),
    "remove a volume": ("DELETE", "/volumes/{p}_foreign", None),
    "make a network": ("POST", "/networks/create", {"Name": "{p}_new"}),
    "join a network": ("POST", "/networks/{p}_foreign/connect", {"Container": "{own}"}),
    "leave a network": ("POST", "/networks/{p}_jobs/disconnect", {"Container": "{own}"}),
    "remove a network": ("DELETE", "/networks/{p}_foreign", None),
    "make a swarm": ("POST", "/swarm/init", {"ListenAddr": "127.0.0.1:2377"}),
    "make a service": ("POST", "/services/create", {}),
    "make a secret": ("POST", "/secrets/create", {}),
    "install a plugin": ("POST", "/plugins/pull?remote=vieux/sshfs", []),
    "make a plugin": ("POST", "/plugins/create?name=x", b"a tar"),
    "remove what is not used": ("POST", "/containers/prune", None),
    "remove volumes that are not used": ("POST", "/volumes/prune", None),
    "watch": ("GET", "/events", None),
    "learn about the machine": ("GET", "/info", None),
    "learn how much is used": ("GET", "/system/df", None),
    "log in to a registry": ("POST", "/auth", {"username": "x"}),
    "talk to the builder": ("POST", "/session", None),
    "read the processes": ("GET", "/containers/{own}/top", None),
    "two slashes": ("POST", "/containers//{own}/exec", {"Cmd": ["id"]}),
    "a path that leads up": ("POST", "/containers/{own}/../{p}-foreign/kill", None),
    "a path that leads up in disguise": ("POST", "/containers/%2e%2e/containers/{p}-foreign/kill", None),
    "a slash in disguise": ("POST", "/containers/{own}%2f..%2f{p}-foreign/kill", None),
    "a whole address": ("POST", "!http://docker/v1.44/containers/{p}-foreign/kill", None),
    "a parameter twice": ("DELETE", "/containers/{own}?link=0&link=1", None),
}  # fmt: skip


@pytest.mark.parametrize("attempt", ACTIONS)
def test_no_other_way_leads_out(bench: Bench, own: str, attempt: str) -> None:
    method, path, body = ACTIONS[attempt]
    content = _filled(bench, body).replace(b"{own}", own.encode()) if body else None
    path = _filled(bench, path.encode()).decode().replace("{own}", own)
    before = bench.there()

    status, told = bench.ask(method, path[1:] if path.startswith("!") else bench.api + path, content)

    assert status == 403, told
    assert json.loads(told)["message"].startswith("docker-proxy: ")
    assert "of-somebody-else" not in told
    assert bench.there() == before


def test_two_requests_in_one_reach_the_engine_as_one(bench: Bench) -> None:
    before = bench.there()
    kill = f"POST {bench.api}/containers/{bench.project}-foreign/kill HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
    start = f"POST {bench.api}/containers/create HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    smuggled = {
        "one behind the other": f"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n{kill}",
        "a length and chunks": f"{start}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{kill}",
        "two lengths": f"{start}Content-Length: 0\r\nContent-Length: {len(kill)}\r\n\r\n{kill}",
        "a body where none belongs": f"GET /_ping HTTP/1.1\r\nHost: x\r\nContent-Length: {len(kill)}\r\n\r\n{kill}",
    }
    for name, raw in smuggled.items():
        with socket.create_connection(("127.0.0.1", bench.port), timeout=60) as client:
            client.sendall(raw.encode())
            answer = b"".join(iter(lambda: client.recv(65536), b""))  # noqa: B023
        assert answer.count(b"Connection: close") == 1, name
    assert bench.there() == before


def test_an_upgraded_connection_carries_nothing_to_the_engine(bench: Bench, own: str) -> None:
    before = bench.there()
    with socket.create_connection(("127.0.0.1", bench.port), timeout=60) as client:
        client.sendall(
            f"POST {bench.api}/containers/{own}/attach?stream=1&stdout=1 HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n"
            "Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n".encode()
        )
        assert client.recv(12) == b"HTTP/1.1 101"
        client.sendall(f"POST /containers/{bench.project}-foreign/kill HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        client.shutdown(socket.SHUT_WR)
        while client.recv(65536):
            pass
    assert bench.there() == before


def test_what_is_imposed_shows_in_the_engines_own_words(bench: Bench, own: str) -> None:
    shown = bench.engine.inspect_container(own)
    host = shown["HostConfig"]

    imposed = {
        "CapDrop": ["ALL"],
        "CgroupnsMode": "private",
        "Init": True,
        "IpcMode": "private",
        "LogConfig": {"Type": "json-file", "Config": {"max-file": "3", "max-size": "10m"}},
        "Memory": 2**30,
        "NanoCpus": min(2, bench.engine.info()["NCPU"]) * 10**9,
        "NetworkMode": f"{bench.project}_jobs",
        "PidsLimit": 256,
        "ReadonlyRootfs": True,
        "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
        "SecurityOpt": ["no-new-privileges"],
        "ShmSize": 2**26,
        "Tmpfs": {"/tmp": f"rw,nosuid,nodev,size={2**28}"},
    }
    assert {name: host[name] for name in imposed} == imposed
    empty = (
        "AutoRemove", "Binds", "CapAdd", "Devices", "DeviceCgroupRules", "ExtraHosts", "GroupAdd", "OomKillDisable",
        "PidMode", "PortBindings", "Privileged", "PublishAllPorts", "UTSMode", "UsernsMode", "VolumesFrom",
    )  # fmt: skip
    assert {name: host[name] for name in empty if host[name]} == {}
    assert host["MaskedPaths"]
    assert host["ReadonlyPaths"]
    assert shown["Config"]["User"] == "50000:0"
    assert shown["Config"]["Labels"]["shortlist.project"] == bench.project
    assert list(shown["NetworkSettings"]["Networks"]) == [f"{bench.project}_jobs"]


INSIDE = """
import json, os, pathlib, resource
status = dict(line.split(":\t") for line in pathlib.Path("/proc/self/status").read_text().splitlines() if ":\t" in line)
def may(path, mode):
    try:
        with open(path, mode): return True
    except OSError: return False
print(json.dumps({
    "rights": int(status["CapEff"], 16) | int(status["CapBnd"], 16), "new_privileges": status["NoNewPrivs"].strip(),
    "ids": [os.getuid(), os.getgid()], "first": pathlib.Path("/proc/1/comm").read_text().strip(),
    "reads_plugins": may("/opt/airflow/plugins/kept.txt", "r"),
    "writes": [path for path in ("/x", "/tmp/x", "/opt/airflow/plugins/x", "/opt/airflow/config/x",
                                 "/opt/airflow/jobs-data/x", "/dev/shm/x", "/etc/x") if may(path, "w")],
    "secret": os.environ["PASSWORD"], "way_out": os.path.exists("/opt/airflow/plugins/way_out" + os.environ["HERE"]),
}))
"""


def test_a_container_finds_only_what_it_was_given(bench: Bench) -> None:
    mounts = [
        *(Mount(f"/opt/airflow/{name}", f"/opt/airflow/{name}", type="bind", read_only=True) for name in FOLDERS),
        Mount("/opt/airflow/jobs-data", f"{bench.project}_jobs-data"),
    ]
    environment = {"PASSWORD": "for-the-job", "HERE": str(bench.folder)}
    made = bench.create("python", "-c", INSIDE, host={"mounts": mounts}, environment=environment)
    try:
        bench.client.start(made)
        assert bench.client.wait(made)["StatusCode"] == 0
        found = json.loads(bench.client.logs(made))
        shown = json.dumps(bench.client.inspect_container(made))
    finally:
        bench.client.remove_container(made, force=True)

    assert found == {
        "rights": 0,
        "new_privileges": "1",
        "ids": [50000, 0],
        "first": "docker-init",
        "reads_plugins": True,
        "writes": ["/tmp/x", "/opt/airflow/jobs-data/x", "/dev/shm/x"],
        "secret": "for-the-job",
        "way_out": False,
    }
    assert "for-the-job" not in shown
    assert str(bench.folder) not in shown


def test_docker_operator_runs_a_container_and_leaves_none(bench: Bench) -> None:
    from airflow.providers.docker.exceptions import DockerContainerFailedException
    from airflow.providers.docker.operators.docker import DockerOperator

    def operator(script: str, name: str) -> DockerOperator:
        return DockerOperator(
            task_id="job",
            image=f"{bench.project}-jobs",
            command=["python", "-c", script],
            container_name=f"{bench.project}-job-{name}",
            docker_url=f"tcp://127.0.0.1:{bench.port}",
            network_mode=f"{bench.project}_stores",
            mounts=[Mount("/opt/airflow/plugins", "/opt/airflow/plugins", type="bind", read_only=True)],
            mount_tmp_dir=False,
            auto_remove="force",
            private_environment={"PASSWORD": "for-the-job"},
            labels={"dag_id": "a", "task_id": "job", "try_number": "1"},
        )

    before = bench.there()
    assert operator("print('one'); print('two')", "ok").execute({}) == "two"
    with pytest.raises(DockerContainerFailedException, match="'StatusCode': 3"):
        operator("raise SystemExit(3)", "fails").execute({})
    assert bench.there() == before


def test_output_comes_line_by_line_while_the_container_runs(bench: Bench) -> None:
    client = bench.client
    script = "import sys, time; print('one', flush=True); print('two', file=sys.stderr, flush=True); time.sleep(3600)"
    made = bench.create("python", "-c", script)
    try:
        lines = client.attach(made, stdout=True, stderr=True, stream=True)
        client.start(made)
        # Another order is possible: those are two pipes.
        assert {next(lines), next(lines)} == {b"one\n", b"two\n"}
        assert bench.engine.inspect_container(made)["State"]["Running"]

        bench.client.kill(made)
        assert list(lines) == []
        assert bench.client.wait(made)["StatusCode"] == 137
    finally:
        bench.client.remove_container(made, force=True)
    with pytest.raises(NotFound):
        bench.client.inspect_container(made)


def test_the_log_can_be_followed(bench: Bench) -> None:
    made = bench.create("python", "-uc", "import time; print('one'); time.sleep(3600)")
    try:
        bench.client.start(made)
        following = bench.client.logs(made, stream=True, follow=True)
        assert next(following) == b"one\n"
        bench.client.kill(made)
        assert list(following) == []
    finally:
        bench.client.remove_container(made, force=True)


def test_a_container_that_is_stopped_obeys_at_once(bench: Bench) -> None:
    made = bench.create("sleep", "3600")
    try:
        bench.client.start(made)
        # Without an init, sleep would ignore the signal and be killed after all the seconds.
        bench.client.stop(made, timeout=300)
        assert bench.client.wait(made)["StatusCode"] == 143
    finally:
        bench.client.remove_container(made, force=True)


def test_a_name_that_is_taken_is_told_and_can_be_freed(bench: Bench) -> None:
    name = f"{bench.project}-job-twice"
    bench.create("sleep", "1", name=name)
    with pytest.raises(APIError, match="is already in use") as told:
        bench.create("sleep", "1", name=name)
    assert told.value.status_code == 409
    bench.client.remove_container(name, force=True)
    bench.client.remove_container(bench.create("sleep", "1", name=name))


def test_lists_show_this_project_and_allowed_images_alone(bench: Bench, own: str) -> None:
    assert [each["Id"] for each in bench.client.containers(all=True)] == [own]
    assert [each["Id"] for each in bench.client.containers(all=True, filters={"label": "shortlist.project"})] == [own]
    assert bench.client.containers(all=True, filters={"label": "shortlist.project=another"}) == []
    assert [image["RepoTags"] for image in bench.client.images()] == [[f"{bench.project}-jobs:latest"]]
    assert bench.client.images(name=BASE) == []
    assert len(bench.client.images(name=f"{bench.project}-jobs")) == 1


def test_much_output_needs_little_memory(bench: Bench) -> None:
    script = "import sys\nfor _ in range(200): sys.stdout.write('x' * 499_999 + '\\n')"
    made = bench.create("python", "-c", script)
    try:
        stream = bench.client.attach(made, stdout=True, stderr=True, stream=True)
        bench.client.start(made)
        assert sum(len(part) for part in stream) == 100_000_000
    finally:
        bench.client.remove_container(made, force=True)
    state = bench.engine.inspect_container(f"{bench.project}-docker-proxy-1")["State"]
    assert (state["Running"], state["OOMKilled"], state["StartedAt"][:4] > "2000") == (True, False, True)


def test_no_more_containers_than_allowed(bench: Bench, own: str) -> None:
    made: list[str] = []
    try:
        with pytest.raises(APIError, match="8 containers of jobs are there already") as told:
            made.extend(bench.create("sleep", "1") for _ in range(9))
        assert told.value.status_code == 429
    finally:
        present = [each["Id"] for each in bench.client.containers(all=True)]
        for each in set(present) - {own}:
            bench.client.remove_container(each, force=True)
    assert len(present) == 8


def test_the_proxy_calls_itself_healthy(bench: Bench) -> None:
    def healthy() -> bool:
        shown = bench.engine.inspect_container(f"{bench.project}-docker-proxy-1")["State"]["Health"]
        return bool(shown["Status"] == "healthy")

    wait_for(healthy, "the proxy to be healthy", 60)


def test_nothing_can_be_written_in_the_proxys_own_container(bench: Bench) -> None:
    script = (
        "import os, pathlib; "
        "status = pathlib.Path('/proc/self/status').read_text(); "
        "print([line for line in status.splitlines() if line.startswith('CapEff')]); "
        "print([d for d, _, _ in os.walk('/') if not d.startswith(('/proc', '/sys', '/dev')) and os.access(d, os.W_OK)"
        " and not os.statvfs(d).f_flag & os.ST_RDONLY])"
    )
    found = _docker("exec", f"{bench.project}-docker-proxy-1", "python", "-c", script)
    assert found.splitlines() == ["['CapEff:\\t0000000000000000']", "[]"]
    listed = _docker("exec", f"{bench.project}-docker-proxy-1", "python", "-m", "pip", "list", "--format", "freeze")
    assert {line.partition("==")[0] for line in listed.splitlines()} - {"pip", "setuptools", "wheel"} == {"h11"}


@pytest.fixture(scope="module")
def impatient(engine: APIClient, image: str) -> Iterator[Bench]:
    """Another project, whose containers are abandoned after three seconds."""
    with _bench(f"{NAME}-b", engine, image, 0.05) as bench:
        yield bench


def _gone(bench: Bench, container: str) -> Callable[[], bool]:
    def look() -> bool:
        try:
            bench.engine.inspect_container(container)
        except NotFound:
            return True
        return False

    return look


def test_a_container_that_nobody_attends_is_removed(impatient: Bench) -> None:
    running = impatient.create("sleep", "3600", name=f"{impatient.project}-job-running")
    impatient.client.start(running)
    never_started = impatient.create("sleep", "3600")

    wait_for(_gone(impatient, running), "the running one to be removed", 60)
    wait_for(_gone(impatient, never_started), "the other one to be removed", 60)
    log = subprocess.run(
        ["docker", "logs", f"{impatient.project}-docker-proxy-1"], capture_output=True, text=True, check=True
    ).stderr
    assert f"removed container {impatient.project}-job-running: nobody has attended it for 0.05 minutes" in log
    # What is not of its project is none of its business.
    assert impatient.engine.inspect_container(f"{impatient.project}-foreign")["State"]["Running"]


def test_a_container_that_somebody_attends_stays_until_he_leaves(impatient: Bench) -> None:
    made = impatient.create("sleep", "3600")
    client = impatient.client
    stream = client.attach(made, stdout=True, stderr=True, stream=True)
    client.start(made)
    time.sleep(8)
    assert impatient.engine.inspect_container(made)["State"]["Running"]

    stream.close()
    wait_for(_gone(impatient, made), "it to be removed", 60)


def test_a_proxy_that_starts_again_finds_its_containers(impatient: Bench) -> None:
    proxy = f"{impatient.project}-docker-proxy-1"
    made = impatient.create("sleep", "3600")
    client = impatient.client
    stream = client.attach(made, stdout=True, stderr=True, stream=True)
    client.start(made)

    _docker("stop", "--time", "300", proxy)
    state = impatient.engine.inspect_container(proxy)["State"]
    assert (state["ExitCode"], state["OOMKilled"]) == (0, False)
    # The task hears at once that nobody listens any more.
    assert list(stream) == []
    assert impatient.engine.inspect_container(made)["State"]["Running"]

    _docker("start", proxy)
    wait_for(_gone(impatient, made), "it to be removed", 60)
