"""What becomes of each request: which of the engine's answers it gets, and how much of it."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import socket
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from docker_proxy.attendance import Attendance
from docker_proxy.creation import PROJECT_LABEL, parse_json, rebuild
from docker_proxy.errors import EngineError, RefusedError
from docker_proxy.messages import Reply, Stream
from docker_proxy.settings import with_tag

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from docker_proxy.engine import Answer, Engine
    from docker_proxy.messages import Request
    from docker_proxy.routes import Call
    from docker_proxy.settings import Settings

    Handler = Callable[[Call, Request, AsyncExitStack], Awaitable[Reply | Stream]]

logger = logging.getLogger(__name__)

# `docker stop` waits as long as the client says; creating can wait for a slow disk.
_SECONDS_BESIDE_WAITING = 120.0
_SWEEP_SECONDS = 30.0

_API_VERSION = re.compile(r"1\.[0-9]{1,3}")
_REGISTRY_LOGIN = re.compile(r"[A-Za-z0-9+/=_-]{1,8192}")

# Of the engine's long answers, what a task may know: no environment, no paths of the machine.
_OF_VERSION = ("Version", "ApiVersion", "MinAPIVersion", "Os", "Arch")
_OF_LIST = ("Id", "Names", "Image", "ImageID", "Command", "Created", "State", "Status", "Labels")
_OF_INSPECT = ("Id", "Name", "Created", "Image", "State", "RestartCount", "Platform")
_OF_CONFIG = ("Image", "Cmd", "Entrypoint", "User", "WorkingDir", "Hostname", "Tty", "Labels")
_OF_HOST_CONFIG = ("Memory", "MemorySwap", "NanoCpus", "CpuShares", "PidsLimit", "ShmSize", "NetworkMode")
_OF_IMAGE = ("Id", "RepoTags", "RepoDigests", "Created", "Size", "Os", "Architecture")


@dataclass(frozen=True)
class Machine:
    """What the proxy has to know about the machine under the engine.

    Attributes:
        cores: That it has.
        folders: Where on it those folders lie that the proxy has mounted, by their place in the proxy's container.
    """

    cores: float
    folders: dict[str, str] = field(default_factory=dict)


class Filter:
    """Answers requests that were understood, with the engine's help."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine = engine
        self._settings = settings
        self._attendance = Attendance()
        self._machine: Machine | None = None
        # Between counting containers and creating one more.
        self._creating = asyncio.Lock()
        self._name = re.compile(re.escape(f"{settings.project}-job-") + "[a-z0-9][a-z0-9_.-]{0,62}")
        self._answers: dict[str, Handler] = {
            "ping": self._ping,
            "version": self._version,
            "images": self._images,
            "image": self._image,
            "pull": self._pull,
            "create": self._create,
            "list": self._list,
            "inspect": self._inspect,
            "start": self._act,
            "attach": self._watch,
            "logs": self._watch,
            "wait": self._watch,
            "stop": self._act,
            "kill": self._act,
            "remove": self._act,
        }

    @asynccontextmanager
    async def answer(self, call: Call, request: Request) -> AsyncIterator[Reply | Stream]:
        """Answer a request; the connections to the engine last as long as the context.

        Raises:
            RefusedError: If it is not allowed.
            EngineError: If the engine does not answer.
        """
        if request.body and call.route.name != "create":
            raise RefusedError(f"{call.route.name} has no body")
        async with AsyncExitStack() as stack:
            yield await self._answers[call.route.name](call, request, stack)

    async def machine(self) -> Machine:
        """Return the machine, asked once.

        Raises:
            EngineError: If the engine does not answer.
        """
        if self._machine is None:
            async with self._engine.ask("GET", "/info") as answer:
                cores = (await answer.json()).get("NCPU") or 1
            own_name = socket.gethostname()
            async with self._engine.ask("GET", f"/containers/{own_name}/json") as answer:
                own = await answer.json() if answer.status == 200 else {}
            # Of a container that is only called like this one, nothing is believed.
            mounts = own.get("Mounts") or [] if str(own.get("Id", "")).startswith(own_name) else []
            folders = {each["Destination"]: each["Source"] for each in mounts if each.get("Type") == "bind"}
            self._machine = Machine(float(cores), folders)
        return self._machine

    async def sweep(self) -> None:
        """Remove abandoned containers, for ever."""
        seconds = self._settings.abandoned_minutes * 60
        silent = False
        while True:
            try:
                present = await self._own()
                for container in self._attendance.abandoned(present, seconds):
                    await self._remove_abandoned(container, present[container])
                silent = False
            except EngineError as error:
                if not silent:
                    logger.warning("looking for abandoned containers: %s", error)
                silent = True
            await asyncio.sleep(min(_SWEEP_SECONDS, seconds / 4))

    async def _remove_abandoned(self, container: str, name: str) -> None:
        query = {"force": "1", "v": "1"}
        async with self._engine.ask("DELETE", f"/containers/{container}", query=query) as answer:
            removed = answer.status == 204
            told = await answer.whole()
        if removed:
            logger.warning(
                "removed container %s: nobody has attended it for %g minutes", name, self._settings.abandoned_minutes
            )
        elif answer.status not in (404, 409):  # gone already, or going
            logger.error("abandoned container %s could not be removed: %s", name, ascii(told[:300]))

    async def _own(self) -> dict[str, str]:
        """Names of this project's containers, by id."""
        query = {"all": "1", "filters": json.dumps({"label": [self._label]})}
        async with self._engine.ask("GET", "/containers/json", query=query) as answer:
            found = await answer.json()
            if answer.status != 200:
                raise EngineError(f"the container engine does not list containers: status {answer.status}")
        # One that is just going has no name any more.
        return {
            each["Id"]: (each.get("Names") or [each["Id"][:12]])[0].removeprefix("/")
            for each in found
            if self._is_own(each.get("Labels"))
        }

    @property
    def _label(self) -> str:
        return f"{PROJECT_LABEL}={self._settings.project}"

    def _is_own(self, labels: dict[str, str] | None) -> bool:
        return (labels or {}).get(PROJECT_LABEL) == self._settings.project

    async def _find(self, call: Call) -> dict[str, Any]:
        """Inspect the container that a request is about."""
        async with self._engine.ask("GET", f"/containers/{call.of}/json") as answer:
            if answer.status == 404:
                raise RefusedError(f"No such container: {call.of}", 404)
            found: dict[str, Any] = await answer.json()
            if answer.status != 200:
                raise EngineError(f"the container engine does not show {call.of}: status {answer.status}")
        if not self._is_own(found["Config"].get("Labels")):
            raise RefusedError(f"{call.of} is no container of a job of {self._settings.project}")
        return found

    async def _ping(self, call: Call, request: Request, _: AsyncExitStack) -> Reply:
        async with self._engine.ask("GET", call.path("/_ping")) as answer:
            body = await answer.whole()
        version = answer.headers.get("api-version", "")
        headers = (("Api-Version", version),) if _API_VERSION.fullmatch(version) else ()
        return Reply(answer.status, b"" if request.method == "HEAD" else body, "text/plain", headers)

    async def _version(self, call: Call, _: Request, __: AsyncExitStack) -> Reply:
        async with self._engine.ask("GET", call.path("/version")) as answer:
            return _reply(answer, _part(await answer.json(), _OF_VERSION))

    async def _images(self, call: Call, _: Request, __: AsyncExitStack) -> Reply:
        wanted = set(self._settings.images)
        if filters := _filters(call, {"reference"}):
            wanted &= {with_tag(name) for name in filters["reference"]}
        query = {"filters": json.dumps({"reference": sorted(self._settings.images)})}
        async with self._engine.ask("GET", call.path("/images/json"), query=query) as answer:
            found = await answer.json()
        if answer.status != 200:
            return _reply(answer, {"message": found.get("message", "")})
        named = [(image, sorted(wanted.intersection(image.get("RepoTags") or []))) for image in found]
        return _reply(answer, [_part(image, _OF_IMAGE) | {"RepoTags": names} for image, names in named if names])

    async def _image(self, call: Call, _: Request, __: AsyncExitStack) -> Reply:
        image = self._allowed_image(call.of)
        async with self._engine.ask("GET", call.path(f"/images/{image}/json")) as answer:
            found = await answer.json()
        return _reply(answer, _part(found, _OF_IMAGE) if answer.status == 200 else found)

    async def _pull(self, call: Call, request: Request, stack: AsyncExitStack) -> Stream:
        name, tag = call.query.get("fromImage", ""), call.query.get("tag", "")
        image = self._allowed_image(f"{name}:{tag}" if tag else name)
        if not self._settings.pull:
            raise RefusedError(f"{image} is not fetched: pull = false in config/containers.toml")
        login = request.headers.get("x-registry-auth", "")
        headers = {"X-Registry-Auth": login} if _REGISTRY_LOGIN.fullmatch(login) else None
        name, _, tag = image.rpartition(":")
        logger.info("pulling %s", image)
        return await self._stream(
            stack, "POST", call.path("/images/create"), query={"fromImage": name, "tag": tag}, headers=headers
        )

    def _allowed_image(self, image: str) -> str:
        if with_tag(image) not in self._settings.images:
            raise RefusedError(f"the image {ascii(image)} is not on the list of config/containers.toml")
        return with_tag(image)

    async def _create(self, call: Call, request: Request, _: AsyncExitStack) -> Reply:
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            raise RefusedError("create wants a body of the type application/json", 415)
        name = call.query.get("name", "")
        if name and not self._name.fullmatch(name):
            raise RefusedError(f"the name of a container begins with {self._settings.project}-job-")
        machine = await self.machine()
        body = rebuild(request.body, self._settings, host_paths=machine.folders, cores=machine.cores)
        most = self._settings.limits.containers
        async with self._creating:
            if len(await self._own()) >= most:
                raise RefusedError(f"{most} containers of jobs are there already, running or ended", 429)
            async with self._engine.ask(
                "POST",
                call.path("/containers/create"),
                query={"name": name} if name else None,
                body=body,
                seconds=_SECONDS_BESIDE_WAITING,
            ) as answer:
                made = await answer.json()
        if answer.status == 201:
            network = body["HostConfig"]["NetworkMode"]
            logger.info("created %s from %s in network %s", name or made["Id"][:12], body["Image"], network)
        return _reply(answer, made)

    async def _list(self, call: Call, _: Request, __: AsyncExitStack) -> Reply:
        filters = _filters(call, {"label", "name", "id", "status"})
        filters["label"] = [*filters.get("label", []), self._label]
        query = {**call.query, "filters": json.dumps(filters)}
        async with self._engine.ask("GET", call.path("/containers/json"), query=query) as answer:
            found = await answer.json()
        if answer.status != 200:
            return _reply(answer, {"message": found.get("message", "")})
        return _reply(answer, [_part(each, _OF_LIST) for each in found if self._is_own(each.get("Labels"))])

    async def _inspect(self, call: Call, _: Request, __: AsyncExitStack) -> Reply:
        found = await self._find(call)
        with self._attendance.to(found["Id"]):
            shown = _part(found, _OF_INSPECT)
            shown["Config"] = _part(found["Config"], _OF_CONFIG)
            shown["HostConfig"] = _part(found["HostConfig"], _OF_HOST_CONFIG)
            return Reply(200, json.dumps(shown).encode())

    async def _act(self, call: Call, request: Request, _: AsyncExitStack) -> Reply:
        """Start, stop, kill or remove."""
        found = await self._find(call)
        name, query = call.route.name, dict(call.query)
        path = f"/containers/{found['Id']}"
        if name == "remove":
            # Without it, volumes that the image declares would stay.
            query["v"] = "1"
        else:
            path += f"/{name}"
        seconds = _SECONDS_BESIDE_WAITING + float(query.get("t", "10"))
        with self._attendance.to(found["Id"]):
            async with self._engine.ask(request.method, call.path(path), query=query, seconds=seconds) as answer:
                told = await answer.whole()
        if answer.status < 300:
            logger.info("%s %s", name, found["Name"].removeprefix("/"))
        return Reply(answer.status, b"" if answer.status in (204, 304) else told)

    async def _watch(self, call: Call, request: Request, stack: AsyncExitStack) -> Stream:
        """Attach, follow the log, or wait: the container is attended for as long as the client listens."""
        found = await self._find(call)
        headers = None
        if call.route.name == "attach":
            if request.headers.get("upgrade", "").lower() != "tcp":
                raise RefusedError("attach wants the headers Connection: Upgrade and Upgrade: tcp", 400)
            headers = {"Connection": "Upgrade", "Upgrade": "tcp"}
        stack.enter_context(self._attendance.to(found["Id"]))
        path = call.path(f"/containers/{found['Id']}/{call.route.name}")
        return await self._stream(stack, request.method, path, query=dict(call.query), headers=headers, seconds=None)

    async def _stream(
        self,
        stack: AsyncExitStack,
        method: str,
        path: str,
        *,
        query: dict[str, str],
        headers: dict[str, str] | None = None,
        seconds: float | None = _SECONDS_BESIDE_WAITING,
    ) -> Stream:
        answer = await stack.enter_async_context(
            self._engine.ask(method, path, query=query, headers=headers, seconds=seconds)
        )
        return Stream(answer.status, answer.parts(), answer.headers.get("content-type", ""))


def _filters(call: Call, known: set[str]) -> dict[str, list[str]]:
    """The filters of a list, which come as lists or as objects of `true`."""
    raw = parse_json(call.query["filters"].encode()) if "filters" in call.query else {}
    if not isinstance(raw, dict) or not known.issuperset(raw):
        raise RefusedError(f"{call.route.name}: filters are {', '.join(sorted(known))}")
    filters = {name: [key for key, on in each.items() if on] if isinstance(each, dict) else each
               for name, each in raw.items()}  # fmt: skip
    for values in filters.values():
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise RefusedError(f"{call.route.name}: a filter is a list of strings", 400)
    return filters


def _part(values: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: values[name] for name in names if name in values}


def _reply(answer: Answer, body: object) -> Reply:
    return Reply(answer.status, json.dumps(body).encode())
