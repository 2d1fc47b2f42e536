"""Files made elsewhere: what is accepted, and how each fault is named."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from shortlist.errors import InputError
from shortlist.stores import hand_over_files
from shortlist.stores.datasets import CANDIDATES_TRAIN, DEFAULT_RECS, ITEMS, USER_HISTORY
from tests.conftest import empty_database
from tests.shop import Shop

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from embedded.postgres import EmbeddedPostgres
    from shortlist.stores.datasets import Dataset

HEADER = b"rank,item_id,score\n"


def read(folder: Path, dataset: Dataset) -> list[dict[str, Any]]:
    file = hand_over_files.find(str(folder), dataset)
    return pa.Table.from_batches(hand_over_files.read_batches(file, dataset)).to_pylist()


def write_parquet(path: Path, **columns: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.table(columns), path)


def test_ids_are_text_whatever_they_look_like(tmp_path: Path) -> None:
    ids = ["007", "-1", "99999999999999999999", "1e3", "NA", "null", "ключ", "a b", "=1+1", "../x"]
    lines = [f"{rank},{item},1" for rank, item in enumerate(ids, 1)]
    (tmp_path / "default_recs.csv").write_text("\n".join(["rank,item_id,score", *lines]), encoding="utf-8")

    assert [row["item_id"] for row in read(tmp_path, DEFAULT_RECS)] == ids


def test_bom_crlf_quotes_delimiters_and_line_breaks_in_csv(tmp_path: Path) -> None:
    text = '\ufeffitem_id,title,category,available\r\n1,"a, ""b""",x|y,true\r\n2,"two\nlines",,FALSE\r\n3,plain,,1\r\n'
    (tmp_path / "items.csv").write_bytes(text.encode())

    assert read(tmp_path, ITEMS) == [
        {"item_id": "1", "title": 'a, "b"', "category": "x|y", "available": True},
        {"item_id": "2", "title": "two\nlines", "category": None, "available": False},
        {"item_id": "3", "title": "plain", "category": None, "available": True},
    ]


def test_times_may_name_a_zone_or_mean_utc(tmp_path: Path) -> None:
    times = ["2026-11-01T10:00:00Z", "2026-11-01 10:00:00", "2026-11-01T12:00:00.5+02:00", "2026-11-01"]
    lines = [f"u,{number},{time},1" for number, time in enumerate(times)]
    (tmp_path / "user_history.csv").write_text("\n".join(["user_id,item_id,time,weight", *lines]))

    assert [row["time"] for row in read(tmp_path, USER_HISTORY)] == [
        datetime(2026, 11, 1, 10, tzinfo=UTC),
        datetime(2026, 11, 1, 10, tzinfo=UTC),
        datetime(2026, 11, 1, 10, 0, 0, 500_000, tzinfo=UTC),
        datetime(2026, 11, 1, tzinfo=UTC),
    ]


def test_parquet_of_other_writers_is_converted(tmp_path: Path) -> None:
    write_parquet(
        tmp_path / "candidates_train.parquet",
        user_id=pa.array(["u", "u"]).dictionary_encode(),
        item_id=pa.array([7, 8], pa.int64()),
        als_score=pa.array([Decimal("0.5"), None]),
        popular_rank=pa.array([1, None], pa.int64()),
        target=pa.array([1.0, 0.0]),
        as_of=pa.array([datetime(2026, 11, 1), None], pa.timestamp("ns")),  # noqa: DTZ001 - without a zone on purpose
    )

    rows = read(tmp_path, CANDIDATES_TRAIN)

    names = ("user_id", "item_id", "als_score", "popular_rank", "target", "as_of", "source")
    assert [tuple(row[name] for name in names) for row in rows] == [
        ("u", "7", 0.5, 1.0, 1, datetime(2026, 11, 1, tzinfo=UTC), None),
        ("u", "8", None, None, 0, None, None),
    ]


def test_a_folder_of_parts_is_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    folder = tmp_path / "default_recs.parquet"
    write_parquet(folder / "part-1.parquet", rank=[2], item_id=["b"], score=[0.5])
    write_parquet(folder / "part-0.parquet", score=[1.0], rank=[1], item_id=["a"])
    (folder / "_SUCCESS").touch()
    (folder / ".part-0.parquet.crc").write_bytes(b"crc")

    assert [row["item_id"] for row in read(tmp_path, DEFAULT_RECS)] == ["a", "b"]


def test_rows_are_read_in_batches_not_all_at_once(tmp_path: Path) -> None:
    write_parquet(
        tmp_path / "default_recs.parquet", rank=range(200_000), item_id=["a"] * 200_000, score=[1.0] * 200_000
    )

    batches = hand_over_files.read_batches(hand_over_files.find(str(tmp_path), DEFAULT_RECS), DEFAULT_RECS)

    assert max(batch.num_rows for batch in batches) <= 65_536


CSV_FAULTS = {
    "empty file": (b"", "default_recs.csv cannot be read as CSV"),
    "missing column": (
        b"rank,item\n1,a\n",
        "lacks 'item_id', 'score', has the unknown 'item'. Columns of default_recs",
    ),
    "renamed column": (b"rank,ITEM_ID,score\n1,a,1\n", "lacks 'item_id', has the unknown 'ITEM_ID'"),
    "extra column": (b"rank,item_id,score,note\n1,a,1,x\n", "has the unknown 'note'"),
    "column twice": (b"rank,item_id,score,score\n1,a,1,1\n", "has more than one 'score'"),
    "semicolons": (b"rank;item_id;score\n1;a;1\n", "has the unknown 'rank;item_id;score'"),
    "no number": (HEADER + b"1,a,0.5\n2,b,high\n", r"row 2, column 'score': 'high' is not a number: mend the file"),
    "decimal comma": (HEADER + b'1,a,"0,5"\n', "row 1, column 'score': '0,5' is not a number"),
    "no whole number": (HEADER + b"1.5,a,1\n", "row 1, column 'rank': '1.5' is not a whole number"),
    "too large": (HEADER + b"3000000000,a,1\n", "'3000000000' is not a whole number between"),
    "truncated last line": (HEADER + b"1,a,0.5\n2,b", "Expected 3 columns, got 2"),
    "latin-1": (HEADER + "1,ä,1\n".encode("latin-1"), "cannot be read as CSV in UTF-8"),
    "NUL byte": (HEADER + b"1,a\0b,1\n", r"row 1, column 'item_id': 'a\\x00b' is not text"),
    "unclosed quote": (HEADER + b'1,"a,1\n2,b,1\n', "cannot be read as CSV"),
}


@pytest.fixture(scope="module")
def serving(postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """One for all: a refused file changes nothing that another test could see."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECS_DATABASE_URL", postgres.url)
        shop = Shop(empty_database(postgres), tmp_path_factory.mktemp("serving"))
        shop.publish("default_recs", "rank,item_id,score\n1,a,1\n2,b,0.5", run="before")
        yield shop


@pytest.mark.parametrize(("content", "message"), CSV_FAULTS.values(), ids=CSV_FAULTS.keys())
def test_a_faulty_csv_is_refused_with_file_column_and_row(serving: Shop, content: bytes, message: str) -> None:
    tables = serving.leftovers()
    serving.file("default_recs.csv").write_bytes(content)

    with pytest.raises(InputError, match=message) as error:
        serving.load("default_recs")

    assert "default_recs.csv" in str(error.value)
    assert serving.read("SELECT item_id FROM default_recs ORDER BY rank") == [("a",), ("b",)]
    assert serving.leftovers() == tables


def test_a_bad_value_far_into_the_file_is_found_by_its_row(tmp_path: Path) -> None:
    lines = [f"{rank},item{rank},1" for rank in range(1, 150_001)]
    lines[123_455] = "123456,x,oops"
    (tmp_path / "default_recs.csv").write_text("\n".join(["rank,item_id,score", *lines]))

    with pytest.raises(InputError, match="row 123456, column 'score': 'oops' is not a number"):
        read(tmp_path, DEFAULT_RECS)


def test_a_truncated_parquet_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "default_recs.parquet"
    write_parquet(path, rank=[1], item_id=["a"], score=[1.0])
    path.write_bytes(path.read_bytes()[:-20])

    with pytest.raises(InputError, match=r"default_recs.parquet cannot be read as Parquet: .* write it again"):
        read(tmp_path, DEFAULT_RECS)


def test_parquet_damaged_in_its_middle_is_named(tmp_path: Path) -> None:
    path = tmp_path / "default_recs.parquet"
    write_parquet(path, rank=range(5000), item_id=[str(n) for n in range(5000)], score=[1.0] * 5000)
    content = bytearray(path.read_bytes())
    content[4:2000] = b"\xff" * 1996
    path.write_bytes(content)

    with pytest.raises(InputError, match="cannot be read as Parquet"):
        read(tmp_path, DEFAULT_RECS)


def test_ids_that_went_through_floating_point_are_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "default_recs.parquet", rank=[1], item_id=[7.0], score=[1.0])

    with pytest.raises(InputError, match="'7.0' is not text; ids must be text or whole numbers"):
        read(tmp_path, DEFAULT_RECS)


def test_a_time_as_a_number_is_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "user_history.parquet", user_id=["u"], item_id=["a"], time=[1_700_000_000], weight=[1.0])

    with pytest.raises(InputError, match="column 'time': '1700000000' is not a time such as 2026"):
        read(tmp_path, USER_HISTORY)


def test_a_part_that_lacks_a_column_is_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "default_recs.parquet" / "part-0.parquet", rank=[1], item_id=["a"], score=[1.0])
    write_parquet(tmp_path / "default_recs.parquet" / "part-1.parquet", rank=[2], item_id=["b"])

    with pytest.raises(InputError, match="part-1.parquet lacks 'score'"):
        read(tmp_path, DEFAULT_RECS)


def test_parquet_and_csv_of_the_same_name_are_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "default_recs.parquet", rank=[1], item_id=["a"], score=[1.0])
    (tmp_path / "default_recs.csv").write_bytes(HEADER)

    with pytest.raises(InputError, match=r"both .*default_recs.parquet and .*default_recs.csv are there"):
        read(tmp_path, DEFAULT_RECS)


def test_an_export_with_a_part_missing_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "default_recs.parquet"
    write_parquet(folder / "part-0.parquet", rank=[1], item_id=["a"], score=[1.0])
    (folder / "_export.json").write_text('{"model_version": "v", "fingerprint": "f", "as_of": "t", "rows": 2}')

    with pytest.raises(InputError, match="has 1 rows, but _export.json in it tells of 2"):
        read(tmp_path, DEFAULT_RECS)


def test_a_folder_that_spark_still_writes_is_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "default_recs.parquet" / "_temporary" / "0" / "part-0.parquet", rank=[1])

    with pytest.raises(InputError, match="is still being written"):
        read(tmp_path, DEFAULT_RECS)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "default_recs.parquet").mkdir()

    with pytest.raises(InputError, match="is an empty folder"):
        read(tmp_path, DEFAULT_RECS)


def test_the_fingerprint_is_that_of_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "default_recs.csv"
    path.write_bytes(HEADER + b"1,a,1\n")
    first = hand_over_files.find(str(tmp_path), DEFAULT_RECS).fingerprint
    path.write_bytes(HEADER + b"1,a,1\n")
    assert hand_over_files.find(str(tmp_path), DEFAULT_RECS).fingerprint == first
    path.write_bytes(HEADER + b"1,b,1\n")
    assert hand_over_files.find(str(tmp_path), DEFAULT_RECS).fingerprint != first
