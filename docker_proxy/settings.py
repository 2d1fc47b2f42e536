"""What container jobs may do: `config/containers.toml`, typed and checked when it is read."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from docker_proxy.errors import ProxySettingsError

_PROJECT = re.compile(r"[a-z0-9][a-z0-9_-]*")
_IMAGE = re.compile(r"[a-z0-9][a-z0-9._/-]*(:[0-9]+/[a-z0-9._/-]+)?(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_USER = re.compile(r"(?!0+:)[0-9]{1,10}:[0-9]{1,10}")
_BYTES = re.compile(r"([1-9][0-9]{0,8})([kmg])")
_UNITS = {"k": 1024, "m": 1024**2, "g": 1024**3}

# The engine has other names for the machine's own network and for the one that everybody shares.
_NO_NETWORK_OF_OURS = {"host", "default", "none"}


@dataclass(frozen=True)
class Limits:
    """What one container may take, and how many there may be.

    Attributes:
        memory: Bytes, without any swap beyond.
        pids: Processes and threads.
        cpus: Cores.
        shm: Bytes of /dev/shm.
        tmp: Bytes of /tmp, which counts as memory.
        containers: Running or ended, at once.
    """

    memory: int = 1024**3
    pids: int = 256
    cpus: float = 2.0
    shm: int = 64 * 1024**2
    tmp: int = 256 * 1024**2
    containers: int = 8


@dataclass(frozen=True)
class Mount:
    """What a container may mount.

    Attributes:
        source: A folder as the project's containers see it (it starts with `/`), or the name of a volume.
        target: Where in the container, and nowhere else.
        read_only: Whether nothing else is allowed.
    """

    source: str
    target: str
    read_only: bool = True

    @property
    def kind(self) -> str:
        """The engine's word for it: `bind` or `volume`."""
        return "bind" if self.source.startswith("/") else "volume"


@dataclass(frozen=True)
class Settings:
    """What the proxy lets through.

    Attributes:
        project: Name of the compose project; the label `shortlist.project` of every container carries it.
        images: Each with its tag.
        networks: A container joins one of them, or none at all.
        user: `uid:gid` of every container, never root.
        read_only: Whether containers write to nothing but mounts and /tmp.
        pull: Whether an image of the list may be fetched from its registry.
        abandoned_minutes: How long a container stays that nobody attends.
        limits: Of each container.
        mounts: By source.
    """

    project: str
    images: tuple[str, ...]
    networks: tuple[str, ...]
    user: str
    read_only: bool = True
    pull: bool = False
    abandoned_minutes: float = 10.0
    limits: Limits = field(default_factory=Limits)
    mounts: dict[str, Mount] = field(default_factory=dict)


def load_settings(file: Path, *, project: str, uid: str, socket: str) -> Settings:
    """Read the file.

    Args:
        file: TOML.
        project: Stands for `{project}` in the file.
        uid: Stands for `{uid}`.
        socket: Path of the engine's socket, which no mount may show.

    Raises:
        ProxySettingsError: If a key is unknown, a value has the wrong type or is not allowed, or the file is missing.
    """
    if not _PROJECT.fullmatch(project):
        raise ProxySettingsError(f"COMPOSE_PROJECT_NAME={project!r} is no name of a compose project")
    try:
        raw = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ProxySettingsError(f"{file}: {error}") from error
    table = _Table(raw, str(file), {"{project}": project, "{uid}": uid})
    limits = _Table(table.take("limits", dict, {}), f"{file}: [limits]", {})
    settings = Settings(
        project=project,
        images=tuple(with_tag(image) for image in table.names("images", _IMAGE, "image:tag")),
        networks=tuple(table.names("networks", _NAME, "network")),
        user=table.text("user", _USER, "uid:gid in numbers, not root"),
        read_only=table.take("read_only", bool, Settings.read_only),
        pull=table.take("pull", bool, Settings.pull),
        abandoned_minutes=table.number("abandoned_minutes", Settings.abandoned_minutes, 0.01, 7 * 24 * 60),
        limits=Limits(
            memory=limits.bytes("memory", Limits.memory),
            pids=int(limits.number("pids", Limits.pids, 2, 100_000)),
            cpus=limits.number("cpus", Limits.cpus, 0.01, 1024),
            shm=limits.bytes("shm", Limits.shm),
            tmp=limits.bytes("tmp", Limits.tmp),
            containers=int(limits.number("containers", Limits.containers, 1, 1000)),
        ),
        mounts=_mounts(table, socket),
    )
    limits.done()
    table.done()
    if wrong := _NO_NETWORK_OF_OURS.intersection(settings.networks):
        raise ProxySettingsError(f"{file}: networks: {sorted(wrong)[0]!r} may not be on the list")
    return settings


def with_tag(image: str) -> str:
    """The name of an image with the tag the engine would take.

    >>> with_tag("shop-jobs"), with_tag("localhost:5000/jobs:2")
    ('shop-jobs:latest', 'localhost:5000/jobs:2')
    """
    return image if ":" in image.rpartition("/")[2] else f"{image}:latest"


def _mounts(table: _Table, socket: str) -> dict[str, Mount]:
    mounts: dict[str, Mount] = {}
    for number, raw in enumerate(table.take("mounts", list, []), start=1):
        where = f"{table.where}: [[mounts]] {number}"
        if not isinstance(raw, dict):
            raise ProxySettingsError(f"{where}: must be a table")
        entry = _Table(raw, where, table.stands_for)
        source = entry.text("source", re.compile(r"/.+|" + _NAME.pattern), "an absolute path or the name of a volume")
        of_volume = not source.startswith("/")
        target = entry.text("target", re.compile("/.+"), "an absolute path", *([] if of_volume else [source]))
        mount = Mount(source, target, entry.take("read_only", bool, Mount.read_only))
        entry.done()
        for path in (mount.target, *([] if of_volume else [source])):
            if str(PurePosixPath(path)) != path or ".." in path.split("/"):
                raise ProxySettingsError(f"{where}: {path!r} is not a plain path")
        if not of_volume and PurePosixPath(source) in (PurePosixPath(socket), *PurePosixPath(socket).parents):
            raise ProxySettingsError(f"{where}: {source!r} would show the engine's socket")
        if source in mounts:
            raise ProxySettingsError(f"{where}: {source!r} is there twice")
        mounts[source] = mount
    return mounts


class _Table:
    """A table of the file; what is left when it is done is an unknown key."""

    def __init__(self, values: dict[str, Any], where: str, stands_for: dict[str, str]) -> None:
        self.where = where
        self.stands_for = stands_for
        self._values = dict(values)

    def take(self, key: str, kind: type, *default: Any) -> Any:  # noqa: ANN401
        if key not in self._values and default:
            return default[0]
        value = self._values.pop(key, None)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise ProxySettingsError(f"{self.where}: {key} must be of the type {kind.__name__}")
        return value

    def text(self, key: str, shape: re.Pattern[str], what: str, *default: str) -> str:
        return self._named(key, self.take(key, str, *default), shape, what)

    def names(self, key: str, shape: re.Pattern[str], what: str) -> list[str]:
        return [self._named(key, value, shape, what) for value in self.take(key, list)]

    def number(self, key: str, default: float, least: float, most: float) -> float:
        value = self._values.pop(key, default)
        whole = isinstance(default, int)
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
            raise ProxySettingsError(f"{self.where}: {key} must be a {'whole ' if whole else ''}number")
        if not least <= value <= most:
            raise ProxySettingsError(f"{self.where}: {key} = {value} is not between {least} and {most}")
        return float(value)

    def bytes(self, key: str, default: int) -> int:
        if key not in self._values:
            return default
        size = _BYTES.fullmatch(self.take(key, str))
        if not size:
            raise ProxySettingsError(f'{self.where}: {key} must be a size such as "512m" or "2g"')
        return int(size[1]) * _UNITS[size[2]]

    def done(self) -> None:
        if self._values:
            raise ProxySettingsError(f"{self.where}: unknown key {sorted(self._values)[0]!r}")

    def _named(self, key: str, value: object, shape: re.Pattern[str], what: str) -> str:
        if isinstance(value, str):
            for name, meaning in self.stands_for.items():
                value = value.replace(name, meaning)
            if shape.fullmatch(value):
                return value
        raise ProxySettingsError(f"{self.where}: {key}: {value!r} is not {what}")
