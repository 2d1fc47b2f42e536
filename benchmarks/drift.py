"""How often the drift decision cries wolf, and what it catches, beside Evidently's default preset.

The world is a year of the bundled shop without time: its user-days are dealt to the train set, the test set and the
future, and new data of any size is drawn from the future's user-days with replacement. What the decision says of it is
a false alarm. Then ten kinds of shift are planted, at the size that `SHIFTS` states, and counted when they are caught.

    PYTHONPATH=plugins python -m benchmarks.drift calibrate
    PYTHONPATH=plugins python -m benchmarks.drift shifts
    PYTHONPATH=plugins python -m benchmarks.drift speed
    PYTHONPATH=plugins python -m benchmarks.drift evidently    # in an environment with evidently
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_array

from shortlist.recommender import als, drift, profiles
from shortlist.settings import AlsSettings, DriftSettings, InteractionSettings

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

PROJECT = Path(__file__).resolve().parents[1]
RESULTS = PROJECT / "benchmarks" / "results"
SIZES = (1_000, 10_000, 100_000, 1_000_000)
SETTINGS = DriftSettings()

# Of the bundled year, one day apart, for the measurement of speed.
_COPIES = 20


@dataclass(frozen=True)
class Rows:
    """Interactions by row: user-day (from 0, every one present), user, item, weekday codes; log weight."""

    block: NDArray[np.int64]
    user: NDArray[np.int64]
    item: NDArray[np.int64]
    weekday: NDArray[np.int64]
    weight: NDArray[np.float64]

    def take(self, rows: NDArray[np.integer]) -> Rows:
        """Return some rows."""
        return Rows(self.block[rows], self.user[rows], self.item[rows], self.weekday[rows], self.weight[rows])


def read_shop() -> Rows:
    """Read the bundled data: purchases of known customers."""
    table = pd.read_parquet(PROJECT / "sample_data" / "online_retail.parquet")
    table = table[table.CustomerID.notna() & (table.Quantity > 0) & table.StockCode.str.match(r"^\d{5}[A-Za-z]*$")]
    day = table.InvoiceDate.dt.normalize()
    return Rows(
        block=pd.factorize(table.CustomerID.astype(str) + day.astype(str))[0],
        user=pd.factorize(table.CustomerID)[0],
        item=pd.factorize(table.StockCode)[0],
        weekday=table.InvoiceDate.dt.weekday.to_numpy().astype(np.int64),
        weight=1 + np.log(np.maximum(table.Quantity.to_numpy(), 1)),
    )


class World:
    """The shop, its reference and its model."""

    def __init__(self, rows: Rows, seed: int = 0) -> None:
        generator = np.random.default_rng(seed)
        part = generator.choice(3, rows.block.max() + 1, p=[0.6, 0.2, 0.2])[rows.block]
        self.train, self.test, self.future = (rows.take(np.flatnonzero(part == which)) for which in range(3))
        self.n_users, self.n_items = rows.user.max() + 1, rows.item.max() + 1
        self._learn()
        count = np.bincount(self.train.item, minlength=self.n_items)
        order = np.argsort(-count, kind="stable")
        decile = np.empty(self.n_items, np.int64)
        decile[order] = np.minimum((np.cumsum(count[order]) - count[order]) * 10 // count.sum(), 9)
        self.decile = np.where(count > 0, decile, -1)
        place = np.full(self.n_items, -1)
        place[order[: profiles.TRACKED_ITEMS]] = np.arange(profiles.TRACKED_ITEMS)
        bucket = generator.integers(0, profiles.BUCKETS, self.n_items) + profiles.TRACKED_ITEMS
        self.code = np.where(count > 0, np.where(place >= 0, place, bucket), -1)
        self.known_user = np.bincount(self.train.user, minlength=self.n_users) > 0
        scores = self.predict(self.test)
        self.edges = profiles.Edges(_quantiles(self.train.weight), _quantiles(scores[np.isfinite(scores)]))
        data, model = self._blocks(self.train), self._blocks(self.test)
        names = {**dict.fromkeys(drift.DATA, data), **dict.fromkeys(drift.MODEL, model)}
        self.reference = drift.Reference(
            totals={name: np.asarray(source[name].sum(axis=0)).reshape(-1) for name, source in names.items()},
            blocks={name: source[name] for name, source in names.items()},
            values={
                drift.WEIGHTS: _means(self.train.weight, self.edges.weights),
                drift.PREDICTIONS: _means(scores[np.isfinite(scores)], self.edges.predictions),
            },
        )

    def _learn(self) -> None:
        rows = pd.DataFrame({"user": self.train.user, "item": self.train.item, "weight": self.train.weight})
        pairs = rows.groupby(["user", "item"]).max().reset_index()
        config = AlsSettings()
        starts = np.searchsorted(pairs.user, np.arange(self.n_users + 1))
        by_user = als.Rows(starts, pairs.item.to_numpy(), (config.alpha * pairs.weight).to_numpy(np.float32))
        by_item = als.transpose(by_user, self.n_items)
        self.items = np.random.default_rng(0).standard_normal((self.n_items, config.rank)).astype(np.float32)
        for _ in range(config.iterations):
            self.users = als.solve_rows(by_user, self.items, config.regularization)
            self.items = als.solve_rows(by_item, self.users, config.regularization)

    def predict(self, rows: Rows) -> NDArray[np.float64]:
        """Return the model's score of each row, NaN where it knows the user or the item not."""
        known = (rows.user < self.n_users) & (rows.item < self.n_items)
        user, item = np.where(known, rows.user, 0), np.where(known, rows.item, 0)
        score = np.einsum("ij,ij->i", self.users[user], self.items[item]).astype(np.float64)
        return np.where(known & self.users[user].any(1) & self.items[item].any(1), score, np.nan)

    def _codes(self, rows: Rows) -> dict[str, NDArray[np.int64]]:
        known_item = rows.item < self.n_items
        item = np.where(known_item, rows.item, 0)
        known_item &= self.code[item] >= 0
        user = np.where(rows.user < self.n_users, rows.user, 0)
        score = self.predict(rows)
        size = np.bincount(rows.block)[rows.block]
        return {
            drift.WEIGHTS: np.searchsorted(self.edges.weights, rows.weight),
            drift.POPULARITY: np.where(known_item, self.decile[item], -1),
            drift.ITEMS: np.where(known_item, self.code[item], -1),
            drift.ACTIVITY: np.minimum(np.log2(size), drift.ACTIVITY_BINS - 1).astype(np.int64),
            drift.WEEKDAYS: rows.weekday,
            drift.PREDICTIONS: np.where(np.isnan(score), -1, np.searchsorted(self.edges.predictions, score)),
            drift.NEW_USERS: np.where((rows.user < self.n_users) & self.known_user[user], 0, 1),
            drift.NEW_ITEMS: np.where(known_item, 0, 1),
        }

    def _blocks(self, rows: Rows) -> dict[str, csr_array]:
        n = rows.block.max() + 1
        present = np.flatnonzero(np.bincount(rows.block))
        ones = np.ones(len(rows.block))
        return {
            name: csr_array(
                (ones[code >= 0], (rows.block[code >= 0], code[code >= 0])), shape=(n, self.edges.bins(name))
            ).tocsr()[present]
            for name, code in self._codes(rows).items()
        }

    def profile(self, rows: Rows) -> drift.Profile:
        """Count new data as the pipeline does; a fifth of the rows gets predictions, as there."""
        histograms = {}
        for name, code in self._codes(rows).items():
            if name == drift.PREDICTIONS:
                code = code[::5]
            histograms[name] = np.bincount(code[code >= 0], minlength=self.edges.bins(name)).astype(float)
        return drift.Profile(histograms, int((np.bincount(rows.block) > 0).sum()), drift.DAYS_A_WEEK)

    def draw(self, n: int, generator: np.random.Generator) -> Rows:
        """Draw user-days of the future with replacement until there are about n rows."""
        order = np.argsort(self.future.block, kind="stable")
        sizes = np.bincount(self.future.block)
        starts = np.cumsum(sizes) - sizes
        filled = np.flatnonzero(sizes)
        blocks = generator.choice(filled, max(1, round(n / sizes[filled].mean())))
        length = sizes[blocks]
        within = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
        drawn = self.future.take(order[np.repeat(starts[blocks], length) + within])
        return replace(drawn, block=np.repeat(np.arange(len(blocks)), length))


def _quantiles(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.unique(np.quantile(values, np.arange(1, 20) / 20))


def _means(values: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    place = np.searchsorted(edges, values)
    return np.bincount(place, values, len(edges) + 1) / np.maximum(np.bincount(place, minlength=len(edges) + 1), 1)


def _some(rows: Rows, share: float, generator: np.random.Generator) -> NDArray[np.bool_]:
    return generator.random(len(rows.block)) < share


def _nothing(rows: Rows, _world: World, _generator: np.random.Generator) -> Rows:
    return rows


def _viral(rows: Rows, world: World, generator: np.random.Generator) -> Rows:
    item = int(generator.integers(world.n_items))
    return replace(rows, item=np.where(_some(rows, 0.15, generator), item, rows.item))


def _new_catalogue(rows: Rows, world: World, generator: np.random.Generator) -> Rows:
    return replace(rows, item=np.where(_some(rows, 0.3, generator), world.n_items + rows.item, rows.item))


def _bots(rows: Rows, world: World, generator: np.random.Generator) -> Rows:
    chosen = _some(rows, 0.3, generator)
    bot = rows.block.max() + 1 + generator.integers(0, max(1, len(rows.block) // 3000), len(rows.block))
    item = generator.integers(0, world.n_items, len(rows.block))
    return replace(
        rows,
        block=np.where(chosen, bot, rows.block),
        user=np.where(chosen, world.n_users + bot, rows.user),
        item=np.where(chosen, item, rows.item),
    )


def _weekday(rows: Rows, _world: World, generator: np.random.Generator) -> Rows:
    return replace(rows, weekday=np.where(_some(rows, 0.5, generator), 6, rows.weekday))


def _replaced_users(rows: Rows, world: World, _generator: np.random.Generator) -> Rows:
    return replace(rows, user=np.where(rows.user % 2 == 0, rows.user + world.n_users, rows.user))


def _flattened(rows: Rows, world: World, generator: np.random.Generator) -> Rows:
    anything = generator.integers(0, world.n_items, len(rows.block))
    return replace(rows, item=np.where(_some(rows, 0.8, generator), anything, rows.item))


def _seasonal(rows: Rows, world: World, generator: np.random.Generator) -> Rows:
    season = generator.permutation(world.n_items)[: world.n_items // 10]
    return replace(
        rows, item=np.where(_some(rows, 0.4, generator), generator.choice(season, len(rows.block)), rows.item)
    )


# What is planted, and how much of it.
SHIFTS: dict[str, tuple[str, Callable[[Rows, World, np.random.Generator], Rows]]] = {
    "mean": ("log amounts +0.7", lambda rows, _w, _g: replace(rows, weight=rows.weight + 0.7)),
    "variance": (
        "log amounts spread 1.8 times as far around their mean",
        lambda rows, w, _g: replace(rows, weight=w.train.weight.mean() + 1.8 * (rows.weight - w.train.weight.mean())),
    ),
    "viral item": ("one item is 15 % of all interactions", _viral),
    "new catalogue": ("30 % of the interactions are with unknown items", _new_catalogue),
    "bots": ("30 % of the interactions are those of few users, a thousand a day each, with any items", _bots),
    "weekday": ("half of the interactions move to Sundays", _weekday),
    "weight scale": (
        "amounts three times as large",
        lambda rows, _w, _g: replace(rows, weight=rows.weight + np.log(3)),
    ),
    "users replaced": ("half of the users are unknown", _replaced_users),
    "popularity flattened": ("80 % of the interactions are with any item", _flattened),
    "seasonal": ("40 % of the interactions are with a tenth of the items", _seasonal),
}


def decide(world: World, rows: Rows, limits: dict[str, float]) -> drift.Drift:
    """Decide on new data."""
    return drift.compare(world.profile(rows), world.reference, SETTINGS, limits)


def limits_for(world: World, rows: Rows) -> dict[str, float]:
    """Return the limits of chance for new data of this size."""
    profile = world.profile(rows)
    size = {name: counts.sum() for name, counts in profile.histograms.items()}
    return drift.chance_limits(world.reference, SETTINGS, rows=size, blocks=profile.blocks)


def calibrate(world: World, repetitions: int) -> dict[str, Any]:
    """Count the false alarms at every size."""
    result = {}
    for size in SIZES:
        generator = np.random.default_rng(size)
        limits = limits_for(world, world.draw(size, generator))
        told = [decide(world, world.draw(size, generator), limits) for _ in range(repetitions)]
        over_one = {
            name: sum(any(term.name == name and term.score > 1 for term in each.terms) for each in told)
            for name in (*drift.DATA, *drift.MODEL)
        }
        result[str(size)] = {
            "repetitions": repetitions,
            "false_alarms": sum(each.drifted for each in told),
            "over_the_threshold_by_chance": over_one,
            "limits": {name: round(limit, 3) for name, limit in limits.items()},
        }
        print(size, result[str(size)], flush=True)
    return result


def shifts(world: World, repetitions: int) -> dict[str, Any]:
    """Count how often each shift is caught at every size, with the limits of each case."""
    result: dict[str, Any] = {}
    for name, (stated, plant) in SHIFTS.items():
        result[name] = {"stated": stated}
        for size in SIZES:
            generator = np.random.default_rng(size)
            limits = limits_for(world, plant(world.draw(size, generator), world, generator))
            n = repetitions if size < SIZES[-1] else max(20, repetitions // 5)
            told = [decide(world, plant(world.draw(size, generator), world, generator), limits) for _ in range(n)]
            result[name][str(size)] = {
                "caught": round(sum(each.drifted for each in told) / n, 3),
                "repetitions": n,
                "by": {
                    term: caught
                    for term in (*drift.DATA, *drift.MODEL)
                    if (caught := sum(any(t.name == term and t.drifted for t in each.terms) for each in told))
                },
            }
        print(name, result[name], flush=True)
    return result


def evidently(world: World, repetitions: int) -> dict[str, Any]:
    """Give the same worlds to Evidently's default preset: columns weight, prediction, item, weekday.

    `alarm` is what the preset itself calls drift (half of the columns drifted), `any_column` that at least one did.
    """
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    columns = DataDefinition(numerical_columns=["weight", "prediction"], categorical_columns=["item", "weekday"])

    def dataset(rows: Rows) -> Any:  # noqa: ANN401 - the package is not installed where types are checked
        frame = pd.DataFrame({"weight": rows.weight, "prediction": world.predict(rows)})
        frame["item"], frame["weekday"] = rows.item.astype(str), rows.weekday.astype(str)
        return Dataset.from_pandas(frame, data_definition=columns)

    # Predictions on what a model was trained on are too good: the test set is the fair reference.
    reference = dataset(world.test)

    def drifted_columns(rows: Rows) -> int:
        metrics = Report([DataDriftPreset()]).run(dataset(rows), reference).dict()["metrics"]
        return int(next(each["value"]["count"] for each in metrics if "DriftedColumnsCount" in each["metric_name"]))

    result: dict[str, Any] = {"evidently": metadata.version("evidently")}
    for name, (_, plant) in {"no drift": ("", _nothing), **SHIFTS}.items():
        result[name] = {}
        for size in SIZES[:-1]:
            generator = np.random.default_rng(size)
            counts = [drifted_columns(plant(world.draw(size, generator), world, generator)) for _ in range(repetitions)]
            result[name][str(size)] = {
                "alarm": sum(count >= 2 for count in counts) / repetitions,
                "any_column": sum(count >= 1 for count in counts) / repetitions,
                "repetitions": repetitions,
            }
        print(name, result[name], flush=True)
    return result


def speed(repetitions: int) -> dict[str, Any]:
    """Time the one pass that counts a data set, on rows that Spark holds in memory, on two cores."""
    from pyspark.sql import SparkSession
    from pyspark.sql import functions as f

    os.environ["PYSPARK_PYTHON"] = sys.executable
    spark = (
        SparkSession.builder.master("local[2]")
        .config("spark.driver.memory", "6g")
        .config("spark.sql.shuffle.partitions", "2")
        .config("spark.ui.enabled", "false")
        .config("spark.sql.legacy.parquet.nanosAsLong", "true")
        .getOrCreate()
    )
    shop = spark.read.parquet(str(PROJECT / "sample_data" / "online_retail.parquet")).where("CustomerID IS NOT NULL")
    interactions = (
        shop.crossJoin(spark.range(_COPIES))
        .select(
            f.col("CustomerID").cast("int").cast("string").alias("user_id"),
            f.col("StockCode").alias("item_id"),
            f.timestamp_seconds(f.col("InvoiceDate") / 1_000_000_000 + f.col("id") * 86_400).alias("time"),
            f.col("Quantity").cast("float").alias("weight"),
        )
        .repartition(2)
        .persist()
    )
    rows = interactions.count()
    settings = InteractionSettings()
    items = profiles.rank_items(interactions).persist()
    items.count()
    described = profiles.describe_data(interactions, items, settings)
    edges = profiles.Edges(profiles.choose_edges(described, drift.WEIGHTS), np.empty(0))
    seconds = []
    for _ in range(repetitions + 1):
        started = time.monotonic()
        profiles.count(described, edges)
        seconds.append(time.monotonic() - started)
    spark.stop()
    per_second = sorted(rows / taken for taken in seconds[1:])
    result = {
        "rows": rows,
        "rows_per_second": {
            "median": round(float(np.median(per_second))),
            "low": round(per_second[0]),
            "high": round(per_second[-1]),
        },
        "repetitions": repetitions,
    }
    print(result)
    return result


def main() -> None:
    """Measure and write `benchmarks/results/drift_<what>.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("calibrate", "shifts", "evidently", "speed"))
    parser.add_argument("--repetitions", type=int)
    options = parser.parse_args()
    repetitions = options.repetitions or {"calibrate": 500, "shifts": 100, "evidently": 20, "speed": 5}[options.what]
    started = time.monotonic()
    if options.what == "speed":
        result = speed(repetitions)
    else:
        measured = {"calibrate": calibrate, "shifts": shifts, "evidently": evidently}[options.what]
        result = measured(World(read_shop()), repetitions)
    result["seconds"] = round(time.monotonic() - started)
    (RESULTS / f"drift_{options.what}.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
