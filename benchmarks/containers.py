"""Measures the stack of containers: Airflow's own time a task, the two kinds of Spark driver, and memory.

Each measurement boots a stack of its own and takes it down again. A container engine and two free cores are needed.

    python -m benchmarks.containers orchestration     twenty tasks that do nothing, by Airflow's defaults and ours
    python -m benchmarks.containers spark_driver      a Spark Connect server against a driver in the worker
    python -m benchmarks.containers spark_kill        the same two, when the worker is killed
    python -m benchmarks.containers memory            the whole chain on the bundled data, in both stacks
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import threading
import time
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

from benchmarks.first_light import PROJECT, RESULTS, spread
from tests.compose.stack import LIGHT, booted, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.compose.stack import Airflow, Stack

NAME = "shortlist-bench"
DAGS = PROJECT / "benchmarks" / "dags"

# What config/airflow.cfg sets and what bears on how fast tasks follow each other, as Airflow has it by itself.
DEFAULTS = {
    "AIRFLOW__CORE__DEFAULT_POOL_TASK_SLOT_COUNT": "128",
    "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "1",
    "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "300",
    "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "30",
    "AIRFLOW__DAG_PROCESSOR__PARSING_PROCESSES": "2",
    "AIRFLOW__CELERY__WORKER_CONCURRENCY": "16",
    "AIRFLOW__LOGGING__LOGGING_LEVEL": "INFO",
}
SERVICES = ("apiserver", "scheduler", "dag-processor", "triggerer", "worker")
_UNITS = {"B": 1 / 2**20, "KiB": 1 / 1024, "MiB": 1, "GiB": 1024}


def main() -> None:
    """Run one measurement and write `benchmarks/results/<name>.json`."""
    measurements = {
        "orchestration": orchestration,
        "spark_driver": spark_driver,
        "spark_kill": spark_kill,
        "memory": memory,
    }
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=measurements)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    result = {
        "name": options.name,
        "command": f"python -m benchmarks.containers {options.name} --runs {options.runs}",
        "cores": os.cpu_count(),
        **measurements[options.name](options.runs),
    }
    file = RESULTS / f"{options.name}.json"
    file.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"written: {file.relative_to(PROJECT)}")


def orchestration(runs: int) -> dict[str, Any]:
    """Time chains of twenty tasks that do nothing: from the queueing of the first to the end of the last."""
    result: dict[str, Any] = {}
    for name, settings in (("defaults", DEFAULTS), ("tuned", {})):
        override = {"services": {f"airflow-{service}": {"environment": settings} for service in SERVICES}}
        with booted(NAME, override=override) as stack:
            airflow = stack.airflow()
            # With Airflow's defaults, a new file is found after five minutes.
            stack.add_dag(airflow, DAGS / "noop_chain.py", "noop_chain", seconds=400)
            chains = [time_chain(airflow) for _ in range(runs + 1)][1:]
        result[name] = {part: spread([chain[part] for chain in chains]) for part in chains[0]}
        print(name, result[name], flush=True)
    result["ratio"] = round(
        result["tuned"]["seconds_a_task"]["median"] / result["defaults"]["seconds_a_task"]["median"], 2
    )
    return result


def time_chain(airflow: Airflow) -> dict[str, float]:
    """Run the chain once and return its seconds a task, and where they went (medians)."""
    run_id = airflow.trigger("noop_chain")
    assert airflow.wait("noop_chain", run_id) == "success"
    tasks = airflow.tasks("noop_chain", run_id)
    moments = sorted(
        tuple(datetime.fromisoformat(task[moment]).timestamp() for moment in ("queued_when", "start_date", "end_date"))
        for task in tasks
    )
    return {
        "seconds_a_task": round((moments[-1][2] - moments[0][0]) / len(moments), 2),
        "to_be_queued": round(
            statistics.median(after[0] - before[2] for before, after in zip(moments, moments[1:], strict=False)), 2
        ),
        "to_start": round(statistics.median(started - queued for queued, started, _ in moments), 2),
        "running": round(statistics.median(ended - started for _, started, ended in moments), 2),
    }


def spark_driver(runs: int) -> dict[str, Any]:
    """Run the same two tasks on both kinds of driver and watch the memory."""
    result: dict[str, Any] = {"data": "a fourth of the bundled customers"}
    with booted(NAME) as stack:
        airflow = stack.airflow()
        add_driver_dags(stack, airflow)
        for name in ("classic", "connect"):
            with watched(stack) as peaks:
                seconds = [time_tasks(airflow, f"driver_{name}") for _ in range(runs + 1)]
            # The first finds the server as it was booted, the others as the task before has left it.
            result[name] = {
                "first_seconds": seconds[0],
                "seconds": {task: spread([each[task] for each in seconds[1:]]) for task in seconds[0]},
                "peak_mib": {
                    service: peaks[service] for service in ("airflow-worker", "spark-connect", "spark-worker", "sum")
                },
            }
            print(name, result[name], flush=True)
    result["ratio"] = {
        task: round(seconds["median"] / result["classic"]["seconds"][task]["median"], 2)
        for task, seconds in result["connect"]["seconds"].items()
    }
    return result


def spark_kill(runs: int) -> dict[str, Any]:
    """Kill the worker in the middle of a query: for how many seconds does the cluster go on with it?"""
    result: dict[str, Any] = {}
    with booted(NAME) as stack:
        airflow = stack.airflow()
        add_driver_dags(stack, airflow)
        for name in ("classic", "connect"):
            result[name] = {"seconds": spread([time_kill(stack, airflow, f"beat_{name}") for _ in range(runs)])}
            print(name, result[name], flush=True)
    return result


def add_driver_dags(stack: Stack, airflow: Airflow) -> None:
    """Add the DAGs that run on each kind of driver, and the connection of those whose driver is in the worker."""
    connection = {"connection_id": "spark_classic", "conn_type": "spark", "host": "spark://spark-master", "port": 7077}
    airflow.call("POST", "connections", connection)
    for dag_id in ("driver_connect", "driver_classic", "beat_connect", "beat_classic"):
        stack.add_dag(airflow, DAGS / "spark_driver.py", dag_id)


def time_tasks(airflow: Airflow, dag_id: str) -> dict[str, float]:
    """Return the seconds of each task of a run."""
    run_id = airflow.trigger(dag_id)
    assert airflow.wait(dag_id, run_id) == "success"
    return {task["task_id"]: round(task["duration"], 1) for task in airflow.tasks(dag_id, run_id)}


def time_kill(stack: Stack, airflow: Airflow, dag_id: str) -> float:
    """Kill the worker in the middle of a query and return for how many seconds the cluster goes on with it."""
    beats = stack.folder / "data" / "beats"
    beats.unlink(missing_ok=True)
    run_id = airflow.trigger(dag_id)
    wait_for(beats.exists, "the query to run", 300)
    stack.compose("kill", "airflow-worker")
    killed = time.time()
    while time.time() - beats.stat().st_mtime < 3:
        time.sleep(0.5)
    airflow.call("PATCH", f"dags/{dag_id}/dagRuns/{run_id}", {"state": "failed"})
    stack.compose("start", "airflow-worker")
    stack.wait_until_healthy()
    return round(max(0.0, beats.stat().st_mtime - killed), 1)


def memory(runs: int) -> dict[str, Any]:
    """Run the chain on the whole bundled data and return the memory before and the peaks during it."""
    result: dict[str, Any] = {}
    for name, compose_file in (("default", "docker-compose.yaml"), ("light", LIGHT)):
        with booted(NAME, {"COMPOSE_FILE": compose_file, "SHORTLIST_INPUT": ""}) as stack:
            time.sleep(60)
            idle = used_mib(stack)
            with watched(stack) as peaks:
                for _ in range(runs):
                    stack.command("make", "compose-demo", timeout=3600)
            limits = sum(
                container["HostConfig"]["Memory"]
                for container in stack.inspect().values()
                if container["State"]["Running"]
            )
        result[name] = {
            "limits_mib": limits // 2**20,
            "idle_mib": idle,
            "peak_mib": peaks,
        }
        print(name, result[name], flush=True)
    return result


@contextmanager
def watched(stack: Stack) -> Iterator[dict[str, int]]:
    """Fill a dictionary with the peak of each service in MiB, and of the sum of all."""
    peaks: dict[str, int] = {}
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(1):
            for service, used in used_mib(stack).items():
                peaks[service] = max(peaks.get(service, 0), used)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peaks
    finally:
        ended.set()
        thread.join()


def used_mib(stack: Stack) -> dict[str, int]:
    """Return what the engine says each service uses now, in MiB, and the sum."""
    lines = subprocess.run(
        ["docker", "stats", "--no-stream", "--format", "{{.Name}} {{.MemUsage}}"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    used = {
        match[1]: round(float(match[2]) * _UNITS[match[3]])
        for match in re.finditer(rf"^{stack.name}-(\S+?)-1 ([\d.]+)([A-Za-z]+) /", lines, re.MULTILINE)
    }
    return {**used, "sum": sum(used.values())}


if __name__ == "__main__":
    main()
