"""What the tests of the ETL share: small settings, and everything that a run left behind."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shortlist.settings import ColumnSettings, InputSettings, InteractionSettings, PathSettings, Settings
from steps.etl import run_etl

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

AS_OF = "2026-11-20T00:00:00+00:00"
HEADER = "user,item,time,amount\n"
COLUMNS = ColumnSettings(user="user", item="item", time="time", weight="amount")


def settings_for(root: Path, path: Path | str, *, columns: ColumnSettings = COLUMNS, **rules: Any) -> Settings:
    """Settings that read `path` and keep everything below `root`; `rules` belong to [interactions]."""
    return Settings(
        input=InputSettings(path=str(path), columns=columns),
        interactions=InteractionSettings(**rules),
        paths=PathSettings(root=str(root)),
    )


def good_lines(prefix: str = "u", days: int = 10) -> str:
    """One valid interaction on each of the first days of March 2026."""
    return "".join(f"{prefix}{day % 3},i{day % 4},2026-03-{day + 1:02} 12:00:00,{day + 1}\n" for day in range(days))


@dataclass(frozen=True)
class Outputs:
    """What a run left: report, accepted `(user, item, amount)`, rejected `(file name, row, reason)`."""

    report: dict[str, Any]
    accepted: list[tuple[str, str, float]]
    rejected: list[tuple[str, int, str]]

    def assert_nothing_lost(self) -> None:
        assert self.report["read"] == len(self.accepted) + len(self.rejected)
        assert self.report["accepted"] == len(self.accepted)
        assert sum(self.report["rejected"].values()) == len(self.rejected)


def run(spark: SparkSession, settings: Settings) -> Outputs:
    report = run_etl(spark, settings=settings, as_of=AS_OF)
    outputs = Outputs(report, accepted_rows(spark, settings), quarantine_rows(spark, settings))
    outputs.assert_nothing_lost()
    return outputs


def accepted_rows(spark: SparkSession, settings: Settings) -> list[tuple[str, str, float]]:
    rows = spark.read.parquet(settings.paths.train, settings.paths.test).select("user_id", "item_id", "weight")
    return sorted(tuple(row) for row in rows.collect())


def quarantine_rows(spark: SparkSession, settings: Settings) -> list[tuple[str, int, str]]:
    rows = spark.read.parquet(settings.paths.quarantine).select("source_file", "source_row", "reason").collect()
    return sorted((Path(file).name, row, reason) for file, row, reason in rows)


def digest(settings: Settings) -> dict[str, str]:
    """Every output that later steps read, by content. Not the quarantine, which shows the last run, good or bad."""
    processed = Path(settings.paths.processed)
    return {
        str(file.relative_to(processed)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(processed.rglob("*"))
        if file.is_file() and "quarantine" not in file.parts
    }
