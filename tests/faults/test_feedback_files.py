"""The same bad and strange files as new feedback: into a batch or its quarantine, and what is bad stays to be mended.

The oracle: every row is in the batch or in its quarantine with its reason; where a run stops, its files lie where they
were delivered and there is no batch; the next run works.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from shortlist.errors import EmptyInteractionsError, InputError, RejectedRowsError
from shortlist.settings import StreamingColumnSettings, StreamingSettings
from shortlist.stores import files
from steps.streaming import process_streaming_data
from tests.etl_runs import AS_OF, COLUMNS, HEADER, good_lines, settings_for
from tests.faults.test_input_files import STRANGE, UNREADABLE, T

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyspark.sql import SparkSession

    from shortlist.settings import Settings

BATCH = "drift_20261120T000000"


def feedback_settings(root: Path, **rules: Any) -> Settings:
    columns = StreamingColumnSettings(COLUMNS.user, COLUMNS.item, COLUMNS.time, COLUMNS.weight)
    streaming = StreamingSettings(columns=columns, multiline=True)
    (root / "data" / "streaming").mkdir(parents=True)
    return replace(settings_for(root, root / "nothing", **rules), streaming=streaming)


def process(spark: SparkSession, settings: Settings) -> str:
    return process_streaming_data(spark, settings=settings, batch=BATCH, as_of=AS_OF)


def accepted(spark: SparkSession, path: str) -> list[tuple[str, str, float]]:
    rows = spark.read.parquet(f"{path}/train", f"{path}/test").select("user_id", "item_id", "weight").collect()
    return sorted(tuple(row) for row in rows)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [case for name, case in UNREADABLE.items() if "missing_file" not in name],
    ids=[name for name in UNREADABLE if "missing_file" not in name],
)
def test_unreadable_feedback_stays_where_it_was_delivered(
    spark: SparkSession, tmp_path: Path, name: str, content: Callable[[Path], bytes | None], message: str
) -> None:
    settings = feedback_settings(tmp_path)
    data = content(tmp_path)
    assert data is not None
    file = Path(settings.paths.streaming, name)
    file.write_bytes(data)
    with pytest.raises(InputError, match=message) as caught:
        process(spark, settings)
    assert str(file) in str(caught.value)
    assert file.read_bytes() == data
    assert not Path(settings.paths.batches, BATCH).exists()


def test_strange_feedback_is_taken_as_it_is_or_quarantined(spark: SparkSession, tmp_path: Path) -> None:
    settings = feedback_settings(tmp_path, max_rejected_share=1.0)
    for name, (content, _, _) in STRANGE.items():
        Path(settings.paths.streaming, f"{name}.csv").write_bytes(content)
    path = process(spark, settings)
    assert accepted(spark, path) == sorted(row for _, rows, _ in STRANGE.values() for row in rows)
    rows = spark.read.parquet(f"{path}/quarantine").select("source_file", "source_row", "reason").collect()
    expected = [(f"{name}.csv", row, reason) for name, (_, _, rejected) in STRANGE.items() for row, reason in rejected]
    assert sorted((Path(file).name, row, reason) for file, row, reason in rows) == sorted(expected)
    report = files.read_json(f"{path}/batch.json")
    assert report["read"] == report["accepted"] + sum(report["rejected"].values())
    assert not list(Path(settings.paths.streaming).iterdir())


def test_a_row_repeated_and_a_file_delivered_twice_count_once(spark: SparkSession, tmp_path: Path) -> None:
    settings = feedback_settings(tmp_path)
    for name in ("a.csv", "b.csv"):
        Path(settings.paths.streaming, name).write_text(HEADER + good_lines() + f"u,i,{T},1\n" * 100)
    report = files.read_json(f"{process(spark, settings)}/batch.json")
    assert (report["accepted"], report["rejected"]) == (11, {"duplicate": 209})


@pytest.mark.parametrize(
    ("bad", "error"), [("u,i,soon,1\n" * 3, RejectedRowsError), ("u,i,soon,1\n", EmptyInteractionsError)]
)
def test_too_many_bad_rows_stop_the_run_and_stay(
    spark: SparkSession, tmp_path: Path, bad: str, error: type[Exception]
) -> None:
    settings = feedback_settings(tmp_path)
    file = Path(settings.paths.streaming, "a.csv")
    file.write_text(HEADER + (good_lines() if error is RejectedRowsError else "") + bad)
    with pytest.raises(error, match="bad_time"):
        process(spark, settings)
    assert file.exists()
    file.write_text(HEADER + good_lines())
    assert len(accepted(spark, process(spark, settings))) == 10


def test_a_link_out_of_the_folder_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    settings = feedback_settings(tmp_path)
    (tmp_path / "secret.csv").write_text(HEADER + good_lines())
    Path(settings.paths.streaming, "link.csv").symlink_to(tmp_path / "secret.csv")
    with pytest.raises(InputError, match="link"):
        process(spark, settings)
    assert (tmp_path / "secret.csv").exists()
