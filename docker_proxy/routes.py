"""The table of requests: what is not in it does not exist."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from docker_proxy.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    # Returns what is passed on, or None to leave the parameter out; raises ValueError for what is not allowed.
    Parameter = Callable[[str], str | None]

# The oldest one knows of every limit that is imposed.
_VERSION = r"(?:/v(?P<version>1\.(?:4[1-9]|[5-9][0-9])))"
_CONTAINER = r"(?P<of>[A-Za-z0-9][A-Za-z0-9_.-]{0,127})"
_IMAGE = r"(?P<of>[a-z0-9][A-Za-z0-9._/:-]{0,255})"

# No percent sign, so that nothing has to be decoded; no empty part and no dots that lead up.
_PATH = re.compile(r"(?:/[A-Za-z0-9_][A-Za-z0-9_.:-]*)+")
_QUERY = re.compile(r"[A-Za-z0-9._~*+%=&:,/-]*")

_TRUE = {"1", "true", "True"}
_FALSE = {"0", "false", "False", ""}


def _flag(value: str) -> str:
    if value in _TRUE:
        return "1"
    if value in _FALSE:
        return "0"
    raise ValueError("must be 0 or 1")


def _never(value: str) -> None:
    if value not in _FALSE:
        raise ValueError("is not allowed")


def _ignored(value: str) -> None:
    _flag(value)


def _like(pattern: str, what: str) -> Parameter:
    shape = re.compile(pattern)

    def check(value: str) -> str:
        if not shape.fullmatch(value):
            raise ValueError(f"must be {what}")
        return value

    return check


_TIME = _like(r"[0-9]{1,12}(\.[0-9]{1,9})?", "seconds since 1970")
_JSON = _like(r"(?s).{2,4096}", "JSON")


@dataclass(frozen=True)
class Route:
    """A kind of request.

    Attributes:
        name: As the log calls it.
        methods: HTTP methods.
        path: Matches the whole path.
        query: Known parameters.
    """

    name: str
    methods: tuple[str, ...]
    path: re.Pattern[str]
    query: Mapping[str, Parameter]


def _route(name: str, method: str, path: str, /, **query: Parameter) -> Route:
    return Route(name, tuple(method.split("|")), re.compile(path), query)


ROUTES = (
    _route("ping", "GET|HEAD", f"{_VERSION}?/_ping"),
    _route("version", "GET", f"{_VERSION}?/version"),
    _route("images", "GET", f"{_VERSION}/images/json", filters=_JSON, all=_ignored, only_ids=_ignored),
    _route("image", "GET", f"{_VERSION}/images/{_IMAGE}/json"),
    _route(
        "pull", "POST", f"{_VERSION}/images/create",
        fromImage=_like("[a-z0-9][a-z0-9._/:-]{0,255}", "the name of an image"),
        tag=_like("[A-Za-z0-9_.-]{0,128}", "a tag"),
    ),
    _route("create", "POST", f"{_VERSION}/containers/create", name=_like(_CONTAINER, "the name of a container")),
    _route(
        "list", "GET", f"{_VERSION}/containers/json",
        filters=_JSON, all=_flag, limit=_like("-1|[0-9]{1,5}", "a number"), size=_never, trunc_cmd=_ignored,
    ),
    _route("inspect", "GET", f"{_VERSION}/containers/{_CONTAINER}/json", size=_never),
    _route("start", "POST", f"{_VERSION}/containers/{_CONTAINER}/start"),
    _route(
        "attach", "POST", f"{_VERSION}/containers/{_CONTAINER}/attach",
        logs=_flag, stream=_flag, stdout=_flag, stderr=_flag, stdin=_never,
    ),
    _route(
        "logs", "GET", f"{_VERSION}/containers/{_CONTAINER}/logs",
        follow=_flag, stdout=_flag, stderr=_flag, timestamps=_flag, since=_TIME, until=_TIME,
        tail=_like("all|[0-9]{1,9}", "all or a number"),
    ),
    _route(
        "wait", "POST", f"{_VERSION}/containers/{_CONTAINER}/wait",
        condition=_like("not-running|next-exit|removed", "not-running, next-exit or removed"),
    ),
    _route("stop", "POST", f"{_VERSION}/containers/{_CONTAINER}/stop", t=_like("[0-9]{1,3}", "seconds below 1000")),
    _route("kill", "POST", f"{_VERSION}/containers/{_CONTAINER}/kill", signal=_like("[A-Z0-9]{1,10}", "a signal")),
    _route("remove", "DELETE", f"{_VERSION}/containers/{_CONTAINER}", v=_ignored, link=_never, force=_flag),
)  # fmt: skip


@dataclass(frozen=True)
class Call:
    """A request that was understood.

    Attributes:
        route: Its kind.
        version: Of the engine's API; empty: the engine's newest.
        of: The container or image it is about, or empty.
        query: Known parameters with allowed values.
    """

    route: Route
    version: str
    of: str
    query: Mapping[str, str]

    def path(self, rest: str) -> str:
        """Return a path for the engine, in the same version of its API."""
        return f"/v{self.version}{rest}" if self.version else rest


def understand(method: str, target: str) -> Call:
    """Find what a request line asks for.

    Raises:
        RefusedError: If it is in no table, or a parameter is unknown, not allowed or there twice.
    """
    path, _, query = target.partition("?")
    if not _PATH.fullmatch(path) or not _QUERY.fullmatch(query):
        raise RefusedError("the address is not a plain path of the engine's API")
    for route in ROUTES:
        found = route.path.fullmatch(path)
        if found and method in route.methods:
            groups = found.groupdict()
            return Call(route, groups["version"] or "", groups.get("of") or "", _parameters(route, query))
    raise RefusedError(
        f"{method} {path} is not let through: container jobs may be created, watched, stopped and removed, by version"
        " 1.41 or later of the engine's API"
    )


def _parameters(route: Route, query: str) -> dict[str, str]:
    passed: dict[str, str] = {}
    seen: set[str] = set()
    for pair in query.split("&") if query else ():
        name, equals, coded = pair.partition("=")
        if name in seen or name not in route.query or not equals:
            raise RefusedError(f"{route.name}: the parameter {name[:40]!r} is unknown, empty or there twice")
        seen.add(name)
        try:
            value = route.query[name](unquote_to_bytes(coded.replace("+", " ")).decode())
        except UnicodeDecodeError as error:
            raise RefusedError(f"{route.name}: the parameter {name!r} is not UTF-8", 400) from error
        except ValueError as error:
            raise RefusedError(f"{route.name}: the parameter {name!r} {error}") from error
        if value is not None:
            passed[name] = value
    return passed
