"""The readers: one frame of text out of every format, every row with its file and number."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest
from pyarrow import parquet

from shortlist.columns import ITEM, SOURCE_FILE, SOURCE_ROW, TIME, USER, WEIGHT
from shortlist.errors import InputError
from shortlist.settings import InputSettings
from shortlist.stores import readers

if TYPE_CHECKING:
    from pathlib import Path

    from pyspark.sql import SparkSession

COLUMNS = {USER: "u", ITEM: "i", TIME: "t", WEIGHT: "w"}
NETFLIX = {USER: "CustomerID", ITEM: "MovieID", TIME: "Date", WEIGHT: "Rating"}


def write(path: Path, content: str | bytes) -> Path:
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def read(
    spark: SparkSession, path: Path | str, *, columns: dict[str, str] = COLUMNS, **source: object
) -> list[tuple[str | None, ...]]:
    """User, item, time and weight of every row, in order of file and row."""
    settings = InputSettings(path=str(path), **source)  # type: ignore[arg-type]
    rows = []
    for frame in readers.read_rows(spark, readers.list_files(str(path)), columns=columns, source=settings):
        rows += frame.orderBy(SOURCE_FILE, readers.SOURCE_POSITION).select(USER, ITEM, TIME, WEIGHT).collect()
    return [tuple(row) for row in rows]


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "=cmd|'x'!a [1] +%20é{b}.csv"])
def test_csv_keeps_ids_as_they_are_written(spark: SparkSession, tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, '\ufeffu,i,t,w\r\n007,1e3,2026-01-01,1.50\r\n"a,b","q""q\nz",,\r\n#c,-5,x,y\r\n')
    assert read(spark, path) == [
        ("007", "1e3", "2026-01-01", "1.50"),
        ("a,b", 'q"q\nz', None, None),
        ("#c", "-5", "x", "y"),
    ]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.ndjson", "a.jsonl.gz"])
def test_json_lines_keep_numbers_as_they_are_written(spark: SparkSession, tmp_path: Path, name: str) -> None:
    path = write(
        tmp_path / name,
        '{"u":12345678901234567890,"i":1e3,"t":1700000000,"w":1.50}\n\n{"i":"007","u":"ü","more":[1]}\n',
    )
    assert read(spark, path) == [
        ("12345678901234567890", "1e3", "1700000000", "1.50"),
        ("ü", "007", None, None),
    ]


def test_parquet_numbers_become_ids_without_a_decimal_point(spark: SparkSession, tmp_path: Path) -> None:
    moments = [datetime(2026, 1, 1, tzinfo=UTC)] * 3
    table = pa.table(
        {
            "u": pa.array([17850.0, None, 1.5]),
            "i": pa.array([2**53, -1, 7], pa.int64()),
            "t": pa.array([moment.replace(tzinfo=None) for moment in moments], pa.timestamp("ns")),
            "w": pa.array([1.0, float("nan"), 0.25], pa.float32()),
        }
    )
    parquet.write_table(table, tmp_path / "a.parquet")
    rows = read(spark, tmp_path / "a.parquet")
    assert [(user, item, weight) for user, item, _, weight in rows] == [
        ("17850", "9007199254740992", "1"),
        (None, "-1", "NaN"),
        ("1.5", "7", "0.25"),
    ]
    assert {str(time) for _, _, time, _ in rows} == {"2026-01-01 00:00:00"}


@pytest.mark.parametrize("name", ["ratings.txt", "ratings.txt.gz"])
def test_netflix_lines_take_the_movie_above_them(spark: SparkSession, tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, "\ufeff1:\n0007,5,2005-09-06\n8,3\n\n22:\r\n7,1,2005-09-07\r\n")
    assert read(spark, path, columns=NETFLIX) == [
        ("0007", "1", "2005-09-06", "5"),
        (None, "1", None, None),
        ("7", "22", "2005-09-07", "1"),
    ]


def test_netflix_movie_survives_batches_and_ends_with_its_file(spark: SparkSession, tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "1:\n" + "".join(f"{user},5,2005-09-06\n" for user in range(60_000)))
    write(tmp_path / "b.txt", "9,5,2005-09-06\n2:\n9,5,2005-09-06\n")
    source = InputSettings(path=str(tmp_path), format="netflix")
    (frame,) = readers.read_rows(spark, readers.list_files(str(tmp_path)), columns=NETFLIX, source=source)
    counted = frame.groupBy(ITEM, readers.MALFORMED).count().orderBy(ITEM).collect()
    assert [tuple(row) for row in counted] == [(None, True, 1), ("1", False, 60_000), ("2", False, 1)]


def test_a_folder_is_read_by_name_whatever_the_order_of_columns_and_the_format(
    spark: SparkSession, tmp_path: Path
) -> None:
    write(tmp_path / "1.csv", "u,i,t,w\nu1,i1,t1,1\n")
    write(tmp_path / "2.csv", "w,more,t,i,u\n2,x,t2,i2,u2\n")
    write(tmp_path / "3.jsonl", '{"w":3,"u":"u3","i":"i3","t":"t3"}\n')
    write(tmp_path / "_SUCCESS", "")
    write(tmp_path / ".hidden.csv", "nothing")
    assert sorted(read(spark, tmp_path)) == [(f"u{n}", f"i{n}", f"t{n}", str(n)) for n in (1, 2, 3)]
    assert len(readers.list_files(f"{tmp_path}/*.csv")) == 2


def test_another_encoding_and_delimiter(spark: SparkSession, tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "u;i;t;w\ncafé;ü;t;1\n".encode("latin-1"))
    assert read(spark, path, encoding="ISO-8859-1", delimiter=";") == [("café", "ü", "t", "1")]


def test_rows_are_numbered_within_their_file_across_blocks(spark: SparkSession, tmp_path: Path) -> None:
    lines = [f"u{number},i,t,{number}\n" for number in range(1, 2001)]
    write(tmp_path / "a.csv", "u,i,t,w\n" + "".join(lines))
    write(tmp_path / "b.csv", "u,i,t,w\n" + "".join(lines[:50]))
    before = spark.conf.get("spark.sql.files.maxPartitionBytes")
    spark.conf.set("spark.sql.files.maxPartitionBytes", "4096")
    try:
        source = InputSettings(path=str(tmp_path), multiline=False)
        (frame,) = readers.read_rows(spark, readers.list_files(str(tmp_path)), columns=COLUMNS, source=source)
        blocks = frame.groupBy(SOURCE_FILE, readers.SOURCE_BLOCK).agg({readers.SOURCE_POSITION: "min", "*": "count"})
        table = [(row[0], row[1], row["min(source_position)"], row["count(1)"]) for row in blocks.collect()]
        assert len(table) > 5
        numbered = readers.number_rows(spark, frame, table).select(SOURCE_FILE, SOURCE_ROW, WEIGHT).collect()
    finally:
        spark.conf.set("spark.sql.files.maxPartitionBytes", str(before))
    assert all(row == int(number) for _, row, number in numbered)
    assert sorted({file for file, _, _ in numbered}) == [str(tmp_path / "a.csv"), str(tmp_path / "b.csv")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", "is empty"),
        ("a.csv", "u,i,t,w\n\n", "has a header and no rows"),
        ("a.csv", "u,i,t,W2\n1,2,3,4\n", "no column 'w', which stands for weight.*Did you mean 'W2'.*It has: u, i, t"),
        ("a.csv", "u,i,t,w,W\n1,2,3,4,5\n", "columns of the same name: W, w"),
        ("a.json", "[\n{}\n]", "is one JSON array"),
        ("a.jsonl", "hello\n", "holds no JSON object"),
        ("a.jsonl", '{"u":1,"item":2,"t":3}\n', "no column 'i', which stands for item_id"),
        ("a.doc", "hello", "cannot tell the format"),
        ("a.parquet", "PAR1 cut", "truncated or corrupt"),
    ],
    ids=["empty", "header", "missing", "twice", "array", "text", "json key", "format", "footer"],
)
def test_an_unusable_file_is_named_with_the_reason(
    spark: SparkSession, tmp_path: Path, name: str, content: str, message: str
) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(InputError, match=message) as caught:
        read(spark, path)
    assert str(path) in str(caught.value)


def test_a_file_that_is_gone_is_named(spark: SparkSession, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no input at .*gone\.csv: put a file there"):
        read(spark, tmp_path / "gone.csv")


@pytest.mark.parametrize("name", ["a.csv.gz", "a.jsonl.gz", "a.txt.gz"])
def test_a_truncated_gzip_is_an_input_error_not_a_java_stack_trace(
    spark: SparkSession, tmp_path: Path, name: str
) -> None:
    # Hardly compressible, so that the cut lies far behind what the look at the header reads.
    numbers = [str((number * 2654435761) % 2**32) for number in range(400_000)]
    line = {
        "a.csv.gz": ("u,i,t,w\n", "{0},{0},{0},1\n"),
        "a.jsonl.gz": ("", '{{"u":{0},"i":{0},"t":{0},"w":1}}\n'),
        "a.txt.gz": ("1:\n", "{0},5,2005-01-01\n"),
    }[name]
    data = gzip.compress((line[0] + "".join(line[1].format(number) for number in numbers)).encode(), 1)
    path = tmp_path / name
    path.write_bytes(data[: len(data) * 9 // 10])
    with (
        pytest.raises(InputError, match=r"truncated or corrupt; deliver it again") as caught,
        readers.readable_errors(),
    ):
        read(spark, path, columns=NETFLIX if "txt" in name else COLUMNS)
    assert str(path) in str(caught.value)
    assert "\tat " not in str(caught.value)


def test_a_link_may_not_leave_its_folder(tmp_path: Path) -> None:
    outside = write(tmp_path / "secret.csv", "u,i,t,w\n1,2,3,4\n")
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.csv").symlink_to(outside)
    for location in (folder, f"{folder}/*.csv"):
        with pytest.raises(InputError, match=r"a\.csv is a link that leaves"):
            readers.list_files(str(location))
    assert len(readers.list_files(str(folder / "a.csv"))) == 1


def test_a_changed_file_and_a_new_file_are_noticed(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", "1")
    before = readers.list_files(str(tmp_path))
    readers.check_unchanged(str(tmp_path), before)
    write(tmp_path / "b.csv", "1")
    with pytest.raises(InputError, match=r"still growing: .*b\.csv"):
        readers.check_unchanged(str(tmp_path), before)


def test_the_whole_row_is_kept_as_it_was(spark: SparkSession, tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "u,i,t,w,note\n1,2,3,4,hello\n")
    (frame,) = readers.read_rows(
        spark, readers.list_files(str(path)), columns=COLUMNS, source=InputSettings(path=str(path))
    )
    raw = frame.selectExpr("to_json(raw)").collect()[0][0]
    assert json.loads(raw) == {"u": "1", "i": "2", "t": "3", "w": "4", "note": "hello"}
