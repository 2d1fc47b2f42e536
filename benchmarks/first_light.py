"""Measures the demo: seconds and peak memory from interaction files to served tables, and the quality of the result.

Each run is a whole process on its own data folder, with everything it starts: PostgreSQL, the JVM, Python workers. How
fast a machine is differs by the hour and by a factor of several, so each run stands next to the emptiest Spark program
(start a session, count a thousand rows, stop) in the same minute: `ratio` is the one over the other.

    python -m benchmarks.first_light online-retail --runs 5
    python -m benchmarks.first_light ml-1m --data … --config config/examples/ml-1m.toml
    python -m benchmarks.first_light fresh-clone --fresh --runs 1
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

PROJECT = Path(__file__).resolve().parents[1]
RESULTS = PROJECT / "benchmarks" / "results"

# Quality figures that every result file keeps.
MODELS = ("popular", "similar_to_last", "als", "ranker")
METRICS = ("ndcg@10", "recall@10", "map@10", "hit_rate@10", "coverage@10")

# Looking at all processes costs time itself.
SECONDS_BETWEEN_LOOKS = 2

BARE_SPARK = """
from pyspark.sql import SparkSession
spark = SparkSession.builder.master("local[*]").config("spark.ui.enabled", "false").getOrCreate()
spark.range(1000).repartition(2).count()
spark.stop()
"""


def main() -> None:
    """Run the demo several times and write `benchmarks/results/first_light_<name>.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="of the result file")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--data", help="interaction file instead of the bundled data")
    parser.add_argument("--config", help="settings file instead of config/pipeline.toml")
    parser.add_argument("--fresh", action="store_true", help="clone into an empty folder with an empty home each time")
    options = parser.parse_args()
    runs = []
    for number in range(options.runs):
        with tempfile.TemporaryDirectory(prefix="first-light-") as folder:
            run = measure(Path(folder), options)
        runs.append(run)
        print(
            f"run {number + 1}: {run['wall_seconds']} s, bare Spark {run['bare_spark_seconds']} s, "
            f"peak {run['peak_mib']} MiB",
            flush=True,
        )
    result = {
        "name": options.name,
        "command": "make demo" if options.fresh else "python -m embedded demo",
        "fresh_clone": options.fresh,
        "machine": {"cores": os.cpu_count(), "memory_gib": round(psutil.virtual_memory().total / 2**30)},
        "python": platform.python_version(),
        "wall_seconds": spread([run["wall_seconds"] for run in runs]),
        "bare_spark_seconds": spread([run["bare_spark_seconds"] for run in runs]),
        "ratio": spread([round(run["wall_seconds"] / run["bare_spark_seconds"], 2) for run in runs]),
        "peak_mib": spread([run["peak_mib"] for run in runs]),
        "steps": {
            step: spread([run["steps"][step] for run in runs])
            for step in runs[0]["steps"]
            if runs[0]["steps"][step] >= 1
        },
        "identical_recommendations": len({run["recommendations"] for run in runs}) == 1 if len(runs) > 1 else None,
        "rows": runs[0]["rows"],
        "evaluation": runs[0]["evaluation"],
        "runs": [{name: run[name] for name in ("wall_seconds", "bare_spark_seconds", "peak_mib")} for run in runs],
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    file = RESULTS / f"first_light_{options.name.replace('-', '_')}.json"
    file.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"written: {file.relative_to(PROJECT)}")


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Run the demo once and return its wall-clock seconds, the peak memory of all its processes, and its summary."""
    environment = dict(os.environ)
    place, data_root = PROJECT, folder / "data-root"
    if options.fresh:
        place, data_root = folder / "clone", folder / "clone"
        subprocess.run(["git", "clone", "--quiet", str(PROJECT), str(place)], check=True)
        environment["HOME"] = str(folder / "home")
        Path(environment["HOME"]).mkdir()
        command = ["make", "demo"]
    else:
        environment |= {"DATA_ROOT": str(data_root), "PYTHONPATH": "plugins", "SHORTLIST_HOME": str(folder / "home")}
        command = [sys.executable, "-m", "embedded", "demo"]
        command += ["--data", options.data] if options.data else []
        command += ["--config", options.config] if options.config else []
    bare_spark = time_bare_spark()
    with (folder / "output.txt").open("wb") as output:
        started = time.monotonic()
        process = psutil.Popen(command, cwd=place, env=environment, stdout=output, stderr=output)
        peak = 0
        while process.poll() is None:
            peak = max(peak, tree_memory(process, folder))
            time.sleep(SECONDS_BETWEEN_LOOKS)
        wall = time.monotonic() - started
    if process.returncode:
        raise SystemExit((folder / "output.txt").read_text(encoding="utf-8", errors="replace")[-3000:])
    summary = json.loads((data_root / "data" / "summary.json").read_text(encoding="utf-8"))
    evaluation = summary["evaluation"]
    return {
        "wall_seconds": round(wall, 1),
        "bare_spark_seconds": bare_spark,
        "peak_mib": round(peak / 2**20),
        "steps": {f"{step['group']}.{step['step']}": step["seconds"] for step in summary["seconds"]},
        "recommendations": json.dumps(summary["examples"], sort_keys=True),
        "rows": summary["rows"],
        "evaluation": {
            "users": evaluation["users"],
            "models": {model: {name: evaluation["models"][model][name] for name in METRICS} for model in MODELS},
            "difference": evaluation["difference"],
            "segments": evaluation["segments"],
        },
    }


def time_bare_spark() -> float:
    """Return the wall-clock seconds of the emptiest Spark program on this machine."""
    environment = os.environ | {"SPARK_LOCAL_IP": "127.0.0.1", "PYSPARK_PYTHON": sys.executable}
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", BARE_SPARK], env=environment, capture_output=True, check=True)
    return round(time.monotonic() - started, 1)


def tree_memory(process: psutil.Process, folder: Path) -> int:
    """Return the bytes that a process, all it started, and its PostgreSQL hold, shared pages counted once (PSS)."""
    total = 0
    # While the database is being made, PostgreSQL writes its process id with a minus.
    places = (folder / "home" / "postgres", folder / "clone" / ".airflow" / "postgres")
    files = [file for place in places for file in place.rglob("postmaster.pid")]
    roots = [process.pid, *(abs(int(file.read_text().split()[0])) for file in files)]
    for root in roots:
        try:
            tree = [psutil.Process(root), *psutil.Process(root).children(recursive=True)]
            total += sum(each.memory_full_info().pss for each in tree)
        except (psutil.Error, OSError):
            continue
    return total


def spread(values: list[float]) -> dict[str, float]:
    """Return the median with the smallest and the largest value."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


if __name__ == "__main__":
    main()
