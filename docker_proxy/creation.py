"""The body of a create request: taken apart, checked, and written anew with what is imposed on every container."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, NoReturn

from docker_proxy.errors import RefusedError
from docker_proxy.settings import with_tag

if TYPE_CHECKING:
    from collections.abc import Mapping

    from docker_proxy.settings import Mount, Settings

PROJECT_LABEL = "shortlist.project"

_CPU_SHARES_OF_A_CORE = 1024
_NANO = 1_000_000_000

# Other programs on the machine act on labels with dots: compose itself, and some that run commands.
_LABEL = re.compile(r"[a-z][a-z0-9_]{0,62}")
_HOSTNAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_FOLDER = re.compile(r"(?:/[^/\x00-\x1f]+)+|/")
_ENVIRONMENT = re.compile(r"(?s)[A-Za-z_][A-Za-z0-9_.-]*=.*")


def rebuild(raw: bytes, settings: Settings, *, host_paths: Mapping[str, str], cores: float) -> dict[str, Any]:
    """Write the body that the engine gets.

    The engine's decoder ignores the case of keys and takes the last of two equal ones. Here a key is known letter by
    letter or must be empty, and nothing gets further by itself.

    Args:
        raw: The body as it came.
        settings: What is allowed.
        host_paths: Where on the machine the folders lie that the proxy itself has mounted, by their place in its
            own container.
        cores: That the machine has.

    Returns:
        The new body: known fields, and the limits of `settings`.

    Raises:
        RefusedError: With status 400 if it is not JSON as it should be, and 403 if something is not allowed.
    """
    asked = _Object(parse_json(raw), "")
    host = _Object(asked.take("HostConfig"), "HostConfig.")
    networks = _Object(asked.take("NetworkingConfig"), "NetworkingConfig.")
    networks.done()

    body: dict[str, Any] = {
        "Image": _image(asked, settings),
        "User": _user(asked, settings),
        "Env": asked.texts("Env", _ENVIRONMENT),
        "Labels": _labels(asked) | {PROJECT_LABEL: settings.project},
        "Tty": asked.flag("Tty"),
        "AttachStdin": False,
        "AttachStdout": True,
        "AttachStderr": True,
        "OpenStdin": False,
        "StdinOnce": False,
    }
    for name in ("Cmd", "Entrypoint"):
        if words := asked.texts(name):
            body[name] = words
    for name, shape in (("WorkingDir", _FOLDER), ("Hostname", _HOSTNAME)):
        if text := asked.text(name, shape):
            body[name] = text
    for name in ("AttachStdout", "AttachStderr"):
        asked.flag(name)
    asked.done()

    body["HostConfig"] = _host_config(host, settings, host_paths, cores)
    host.done()
    return body


def _host_config(host: _Object, settings: Settings, host_paths: Mapping[str, str], cores: float) -> dict[str, Any]:
    limits = settings.limits
    cpus = min(limits.cpus, cores)
    memory = host.at_most("Memory", limits.memory)
    imposed: dict[str, Any] = {
        "AutoRemove": False,
        "CapDrop": ["ALL"],
        "CgroupnsMode": "private",
        "Init": True,
        "IpcMode": "private",
        "LogConfig": {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}},
        "MemorySwap": memory,
        "PidsLimit": limits.pids,
        "Privileged": False,
        "PublishAllPorts": False,
        "ReadonlyRootfs": settings.read_only,
        "RestartPolicy": {"Name": "no"},
        "SecurityOpt": ["no-new-privileges"],
        "Tmpfs": {"/tmp": f"rw,nosuid,nodev,size={limits.tmp}"},  # noqa: S108 - in the container
    }
    for name, value in imposed.items():
        asked = host.take(name)
        # What docker-py sends for "the engine's own way".
        if name == "LogConfig" and asked in ({"Type": None, "Config": {}}, {"Type": "json-file", "Config": {}}):
            continue
        if not _empty(asked) and asked != value:
            raise RefusedError(f"HostConfig.{name} is set by the proxy: leave it out")
    return imposed | {
        "Memory": memory,
        "NanoCpus": host.at_most("NanoCpus", int(cpus * _NANO)),
        "CpuShares": host.at_most(
            "CpuShares", max(int(limits.cpus * _CPU_SHARES_OF_A_CORE), _CPU_SHARES_OF_A_CORE), _CPU_SHARES_OF_A_CORE
        ),
        "ShmSize": host.at_most("ShmSize", limits.shm),
        "NetworkMode": _network(host, settings),
        "Mounts": _mounts(host, settings, host_paths),
    }


def _image(asked: _Object, settings: Settings) -> str:
    image = asked.take("Image")
    if not isinstance(image, str) or with_tag(image) not in settings.images:
        raise RefusedError(f"the image {_shown(image)} is not on the list of config/containers.toml")
    return with_tag(image)


def _user(asked: _Object, settings: Settings) -> str:
    user = asked.take("User")
    if not _empty(user) and user != settings.user:
        raise RefusedError(f"the user {_shown(user)} is not {settings.user}: containers run as this one alone")
    return settings.user


def _labels(asked: _Object) -> dict[str, str]:
    labels = asked.take("Labels")
    if _empty(labels):
        return {}
    if not isinstance(labels, dict):
        _wrong("Labels", "an object")
    for name, value in labels.items():
        if not _LABEL.fullmatch(name):
            raise RefusedError(f"the label {_shown(name)} is not of small letters, digits and underscores")
        if not isinstance(value, str):
            _wrong("Labels", "an object of strings")
    return dict(labels)


def _network(host: _Object, settings: Settings) -> str:
    network = host.take("NetworkMode")
    if network == "none":
        return "none"
    if not isinstance(network, str) or network not in settings.networks:
        raise RefusedError(f"the network {_shown(network)} is not one of {', '.join(settings.networks)} or none")
    return network


def _mounts(host: _Object, settings: Settings, host_paths: Mapping[str, str]) -> list[dict[str, Any]]:
    mounts = host.take("Mounts")
    if _empty(mounts):
        return []
    if not isinstance(mounts, list):
        _wrong("HostConfig.Mounts", "a list")
    built = [_mount(_Object(each, "HostConfig.Mounts."), settings, host_paths) for each in mounts]
    targets = [mount["Target"] for mount in built]
    if len(set(targets)) != len(targets):
        raise RefusedError("two mounts have the same target")
    return built


def _mount(asked: _Object, settings: Settings, host_paths: Mapping[str, str]) -> dict[str, Any]:
    source = asked.take("Source")
    allowed: Mount | None = settings.mounts.get(source) if isinstance(source, str) else None
    if allowed is None or asked.take("Type") != allowed.kind:
        raise RefusedError(f"the mount of {_shown(source)} is not on the list of config/containers.toml")
    target = asked.take("Target")
    if target != allowed.target:
        raise RefusedError(f"{allowed.source} is mounted at {allowed.target}, not at {_shown(target)}")
    read_only = asked.flag("ReadOnly")
    if allowed.read_only and not read_only:
        raise RefusedError(f"{allowed.source} is mounted read-only, or not at all")
    asked.done()
    mount = {"Type": allowed.kind, "Source": allowed.source, "Target": allowed.target, "ReadOnly": read_only}
    if allowed.kind == "volume":
        return mount
    if allowed.source not in host_paths:
        raise RefusedError(
            f"{allowed.source} is on the list, but not mounted into the proxy: nobody knows where it lies"
        )
    return mount | {"Source": host_paths[allowed.source], "BindOptions": {"Propagation": "rprivate"}}


class _Object:
    """An object of the request. What nobody has taken when it is done must be empty."""

    def __init__(self, values: object, where: str) -> None:
        if not isinstance(values, dict):
            if not _empty(values):
                _wrong(where.removesuffix(".") or "the body", "an object")
            values = {}
        self._values = dict(values)
        self._where = where

    def take(self, name: str) -> Any:  # noqa: ANN401
        return self._values.pop(name, None)

    def flag(self, name: str) -> bool:
        value = self.take(name)
        if value is not None and not isinstance(value, bool):
            _wrong(self._where + name, "true or false")
        return bool(value)

    def text(self, name: str, shape: re.Pattern[str]) -> str:
        value = self.take(name)
        if _empty(value):
            return ""
        if not isinstance(value, str) or not shape.fullmatch(value):
            raise RefusedError(f"{self._where}{name} has a value that is not allowed")
        return value

    def texts(self, name: str, shape: re.Pattern[str] | None = None) -> list[str]:
        values = self.take(name)
        if _empty(values):
            return []
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            _wrong(self._where + name, "a list of strings")
        if shape and not all(shape.fullmatch(value) for value in values):
            # The value may be a secret.
            raise RefusedError(f"{self._where}{name} has an entry that is not allowed")
        return list(values)

    def at_most(self, name: str, limit: int, default: int | None = None) -> int:
        value = self.take(name)
        if _empty(value):
            return limit if default is None else default
        if isinstance(value, bool) or not isinstance(value, int):
            _wrong(self._where + name, "a whole number")
        if not 0 < value <= limit:
            raise RefusedError(f"{self._where}{name} = {_shown(value)} is not between 1 and {limit}")
        return value

    def done(self) -> None:
        for name, value in self._values.items():
            if not _empty(value):
                raise RefusedError(f"{self._where}{_shown(name)} is not known to the proxy, or not allowed")


def parse_json(raw: bytes) -> Any:  # noqa: ANN401
    """Read JSON more strictly than the engine does.

    Raises:
        RefusedError: With status 400 if it is not UTF-8 or not JSON, or an object has a key twice.
    """
    try:
        return json.loads(raw.decode(), object_pairs_hook=_no_key_twice, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise RefusedError("the body is not JSON", 400) from error


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise RefusedError("the body has a key twice", 400)
    return values


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _empty(value: object) -> bool:
    # 0 and False are equal.
    return value is None or value in ("", 0, [], {})


def _wrong(name: str, what: str) -> NoReturn:
    raise RefusedError(f"{name} must be {what}", 400)


def _shown(value: object) -> str:
    """A value for a sentence: on one line, and short."""
    text = ascii(value)
    return text if len(text) <= 100 else f"{text[:100]}…"
