"""Sends requests to a service from a process of its own and says how long each answer took.

Imports little, so that it costs little: it shares the machine with what it measures.

    python -m benchmarks.load '{"port": 8000, "seconds": 10, "rate": 200, "users": 6040}'
"""

from __future__ import annotations

import asyncio
import gc
import json
import random
import selectors
import sys
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

import httptools

# Items whose number leaves the same remainder belong together: each generation of the personal recs has a class of its
# own, so that an answer shows which generations its items come from.
CLASSES = 16
DEFAULT_CLASS = 1
_PERSONAL_CLASSES = tuple(range(3, CLASSES, 2))

# Of users that no table knows.
UNKNOWN = "nobody-"

# Answers that are still on their way when the time is over.
_LAST_SECONDS = 5


def item_class(item_id: str) -> int:
    """Return the class of an item."""
    return int(item_id) % CLASSES


def generation_class(generation_id: int) -> int:
    """Return the class of the items that a generation of the personal recs recommends."""
    return _PERSONAL_CLASSES[generation_id % len(_PERSONAL_CLASSES)]


@dataclass(frozen=True)
class Load:
    """What to send.

    Attributes:
        port: On 127.0.0.1.
        seconds: How long; 0: until the standard input ends.
        path: Where `{user}` stands for a user.
        rate: Requests a second, at random moments as they come from people who know nothing of each other (Poisson);
            each waits for nothing but its moment, and its latency counts from there: an answer that keeps others
            waiting is not hidden. 0: every connection sends its next request as soon as it has an answer.
        connections: Kept alive.
        users: Ids are 1 to `users`.
        unknown: Share of the requests for users that nobody knows.
        seed: Of users and moments.
        k: If not 0, every answer must be of one generation, fresh, and have exactly so many items.
    """

    port: int
    seconds: float
    path: str = "/v1/recommendations/{user}?k=20"
    rate: float = 0
    connections: int = 32
    users: int = 1
    unknown: float = 0
    seed: int = 0
    k: int = 0


@dataclass
class Record:
    """What came of it, by request: moments and milliseconds."""

    began: float = 0.0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    due: list[float] = field(default_factory=list)
    latency_ms: list[float] = field(default_factory=list)
    late_ms: list[float] = field(default_factory=list)
    problems: Counter[str] = field(default_factory=Counter)
    generations: Counter[str] = field(default_factory=Counter)

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON.

        `began` is the seconds since the epoch that `due` counts from. `late_ms` is how late the generator itself was
        with a request for which a connection was free. Where it is large, or `cpu_seconds` are near `seconds`, the
        generator was the bottleneck.
        """
        return {
            "began": self.began,
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
            "due": [round(moment, 5) for moment in self.due],
            "latency_ms": [round(taken, 3) for taken in self.latency_ms],
            "late_ms": [round(late, 3) for late in self.late_ms],
            "problems": dict(self.problems),
            "generations": dict(self.generations),
        }


class _Connection(asyncio.Protocol):
    def __init__(self, sender: _Sender) -> None:
        self._sender = sender
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._due: float | None = None
        self._user = ""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def send(self, user: str, due: float) -> None:
        assert self._transport is not None
        self._user, self._due = user, due
        self._body.clear()
        self._transport.write(self._sender.request(user))

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        assert self._due is not None
        due, self._due = self._due, None
        self._sender.answered(self, due, self._user, self._parser.get_status_code(), b"".join(self._body))

    def connection_lost(self, exc: Exception | None) -> None:
        self._sender.lost(self, waiting=self._due is not None)


class _Sender:
    def __init__(self, load: Load) -> None:
        self._load = load
        self._random = random.Random(load.seed)
        self._free: deque[_Connection] = deque()
        self._queue: deque[tuple[str, float]] = deque()
        self._under_way = 0
        self._start = 0.0
        self._ends = False
        self._tasks: set[asyncio.Task[None]] = set()
        self.record = Record()

    def request(self, user: str) -> bytes:
        return (
            f"GET {self._load.path.replace('{user}', user)} HTTP/1.1\r\nHost: 127.0.0.1:{self._load.port}\r\n"
            "Accept: application/json\r\n\r\n"
        ).encode()

    async def run(self) -> Record:
        load, loop = self._load, asyncio.get_running_loop()
        for _ in range(load.connections):
            self._free.append(await self._connect())
        gc.disable()
        self._start, cpu = time.monotonic(), time.process_time()
        self.record.began = time.time()
        if not load.seconds:
            loop.add_reader(sys.stdin, self._end)
        if load.rate:
            await self._send_in_time()
        else:
            for _ in range(len(self._free)):
                self._dispatch(time.monotonic())
            await asyncio.sleep(load.seconds)
        self._ends = True
        self.record.seconds = time.monotonic() - self._start
        self.record.cpu_seconds = time.process_time() - cpu
        deadline = time.monotonic() + _LAST_SECONDS
        while (self._under_way or self._queue) and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        if left := self._under_way + len(self._queue):
            self.record.problems["no answer"] += left
        return self.record

    async def _send_in_time(self) -> None:
        load = self._load
        due = self._start
        while not self._ends and (not load.seconds or due < self._start + load.seconds):
            wait = due - time.monotonic()
            # Also when late, so that answers are read meanwhile.
            await asyncio.sleep(max(wait, 0))
            if self._free:
                self.record.late_ms.append((time.monotonic() - due) * 1000)
            self._dispatch(due)
            due += self._random.expovariate(load.rate)

    def _dispatch(self, due: float) -> None:
        load = self._load
        if load.unknown and self._random.random() < load.unknown:
            user = f"{UNKNOWN}{self._random.randrange(10**9)}"
        else:
            user = str(self._random.randint(1, load.users))
        if self._free:
            self._under_way += 1
            self._free.popleft().send(user, due)
        else:
            self._queue.append((user, due))

    def answered(self, connection: _Connection, due: float, user: str, status: int, body: bytes) -> None:
        now = time.monotonic()
        self._under_way -= 1
        # Of a closed loop, what comes after its end is not part of the throughput.
        if self._load.rate or not self._ends:
            self.record.due.append(due - self._start)
            self.record.latency_ms.append((now - due) * 1000)
        self._use(connection)
        problem = self._problem(user, status, body)
        if problem:
            self.record.problems[problem] += 1

    def _use(self, connection: _Connection) -> None:
        if self._queue:
            self._under_way += 1
            connection.send(*self._queue.popleft())
        else:
            self._free.append(connection)
            if not self._load.rate and not self._ends:
                self._dispatch(time.monotonic())

    def _problem(self, user: str, status: int, body: bytes) -> str:
        if status != 200:
            return f"status {status}"
        if not self._load.k:
            return ""
        answer = json.loads(body)
        generation, items = answer["generation"], [item["item_id"] for item in answer["items"]]
        self.record.generations[f"{generation} {answer['model_version']}"] += 1
        if answer["stale"]:
            return "stale"
        if len(items) != self._load.k or len(set(items)) != self._load.k:
            return "another number of items"
        expected = DEFAULT_CLASS if user.startswith(UNKNOWN) else generation_class(generation or 0)
        if {item_class(item) for item in items} != {expected}:
            return "mix of generations"
        return ""

    def lost(self, connection: _Connection, *, waiting: bool) -> None:
        if connection in self._free:
            self._free.remove(connection)
        if waiting:
            self._under_way -= 1
            self.record.problems["connection lost"] += 1
        if not self._ends:
            task = asyncio.create_task(self._replace())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _replace(self) -> None:
        try:
            self._use(await self._connect())
        except OSError:
            self.record.problems["no connection"] += 1

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(lambda: _Connection(self), "127.0.0.1", self._load.port)
        return connection

    def _end(self) -> None:
        if not sys.stdin.read():
            self._ends = True


def main() -> None:
    """Send what the argument says and print the record as JSON."""
    load = Load(**json.loads(sys.argv[1]))
    # The default selector waits for whole milliseconds: every request would be sent up to one too late.
    loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
    record = loop.run_until_complete(_Sender(load).run())
    json.dump(record.as_dict(), sys.stdout)


if __name__ == "__main__":
    main()
