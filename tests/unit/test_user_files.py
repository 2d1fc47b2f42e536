"""Files without the rows of some users, everything else as it was, byte for byte."""

from __future__ import annotations

import gzip
import os
import shutil
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shortlist.errors import InputError, UserFileError
from shortlist.settings import FileSettings
from shortlist.stores import user_files

if TYPE_CHECKING:
    from pathlib import Path

ANNA = frozenset({"anna"})


def take_out(
    path: Path, users: frozenset[str] = ANNA, *, column: str = "user", rewrite: bool = True, **source: Any
) -> int:
    return user_files.take_out(
        str(path), users, source=FileSettings(**source), columns=(column, "user_id"), rewrite=rewrite
    )


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            b"user,item\nanna,a\nbert,b\nanna,c\n",
            b"user,item\nbert,b\n",
        ),
        (  # line endings, blank lines, spaces, quotes and the missing last line break stay
            b'\xef\xbb\xbf"item", user \r\n\r\n"a ""b""", anna \r\n  c ,"bert"\r\nd,"anna"\r\ne,carl',
            b'\xef\xbb\xbf"item", user \r\n\r\n  c ,"bert"\r\ne,carl',
        ),
        (  # records over several lines
            b'user,title\nbert,"one\nanna,two"\nanna,"three\n\nfour"\nanna,x\ncarl,"five\n"\n',
            b'user,title\nbert,"one\nanna,two"\ncarl,"five\n"\n',
        ),
        (  # bytes that are not in the encoding
            b"user,title\nbert,caf\xe9\nanna,caf\xe9\n",
            b"user,title\nbert,caf\xe9\n",
        ),
        (  # too many and too few fields: any of them may be the id
            b"item,user\na,b,anna\nanna\nc,bert,d\ne,bert\n",
            b"item,user\nc,bert,d\ne,bert\n",
        ),
        (  # an item called like the user
            b"user,item\nbert,anna\nannabel,a\nANNA,a\n",
            b"user,item\nbert,anna\nannabel,a\nANNA,a\n",
        ),
        (  # no column of users
            b"item,title\nanna,anna\n",
            b"item,title\nanna,anna\n",
        ),
    ],
    ids=["plain", "untidy", "over several lines", "other bytes", "shifted", "others", "no users"],
)
def test_a_csv_loses_the_records_of_the_users_and_nothing_else(tmp_path: Path, before: bytes, after: bytes) -> None:
    file = tmp_path / "f.csv"
    file.write_bytes(before)

    gone = take_out(file)

    assert file.read_bytes() == after
    assert (gone > 0) == (before != after)
    assert os.listdir(tmp_path) == ["f.csv"]


def test_where_fields_hold_no_line_breaks_an_open_quote_ends_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "f.csv"
    file.write_bytes(b'user,item\nbert,"open\nanna,a\ncarl,b\n')

    assert take_out(file, multiline=False) == 1

    assert file.read_bytes() == b'user,item\nbert,"open\ncarl,b\n'


def test_delimiter_and_encoding_are_those_of_the_settings(tmp_path: Path) -> None:
    file = tmp_path / "f.csv"
    file.write_bytes("user;item\nmüller;a\nmaier;b\n".encode("ISO-8859-1"))

    assert take_out(file, frozenset({"müller"}), delimiter=";", encoding="ISO-8859-1") == 1

    assert file.read_bytes() == b"user;item\nmaier;b\n"


def test_json_lines_lose_the_objects_of_the_users_and_lines_that_may_be_theirs(tmp_path: Path) -> None:
    file = tmp_path / "f.jsonl"
    lines = [
        b'{"user": "anna", "item": "a"}\n',
        b'{"item":"anna",  "user": "bert"}\r\n',
        b'{"user": 1e3, "item": "a"}\n',
        b'{"user": 1000, "item": "a"}\n',
        b'{"user": "anna", "item": \n',
        b"\n",
        b'["anna"]\n',
        b'{"item": "a"}',
    ]
    file.write_bytes(b"".join(lines))

    assert take_out(file, frozenset({"anna", "1000"})) == 3

    assert file.read_bytes() == b"".join(lines[number] for number in (1, 2, 5, 6, 7))


def test_files_by_items_lose_the_lines_of_the_users(tmp_path: Path) -> None:
    file = tmp_path / "combined.txt"
    file.write_bytes(b"7:\n7,5,2005-09-06\n8,4,2005-09-06\n17:\n7,1,2005-09-07\n")

    assert take_out(file, frozenset({"7", "17"})) == 2

    assert file.read_bytes() == b"7:\n8,4,2005-09-06\n17:\n"


def test_a_compressed_text_stays_compressed(tmp_path: Path) -> None:
    file = tmp_path / "f.csv.gz"
    file.write_bytes(gzip.compress(b"user,item\nanna,a\nbert,b\n", mtime=0))

    assert take_out(file) == 1

    assert gzip.decompress(file.read_bytes()) == b"user,item\nbert,b\n"


def test_parquet_loses_the_rows_and_keeps_types_metadata_and_row_groups(tmp_path: Path) -> None:
    file = tmp_path / "f.parquet"
    schema = pa.schema(
        [
            pa.field("user", pa.dictionary(pa.int32(), pa.string())),
            pa.field("seen", pa.list_(pa.string())),
            pa.field("at", pa.timestamp("ns", "UTC")),
            pa.field("price", pa.decimal128(5, 2)),
        ],
        metadata={"from": "a shop"},
    )
    rows = [
        {"user": user, "seen": [user, None], "at": datetime(2026, 11, day, tzinfo=UTC), "price": Decimal(day)}
        for day, user in enumerate(["anna", "bert", " anna ", "carl", None], start=1)
    ]
    table = pa.Table.from_pylist(rows, schema=schema)
    pq.write_table(table, file, row_group_size=2, compression="zstd")
    as_written = pq.read_schema(file)

    assert take_out(file) == 2

    with pq.ParquetFile(file) as written:
        assert written.read().to_pylist() == [rows[1], rows[3], rows[4]]
        assert written.schema_arrow.equals(as_written, check_metadata=True)
        assert [written.metadata.row_group(group).num_rows for group in range(3)] == [1, 1, 1]
        assert written.metadata.row_group(0).column(0).compression == "ZSTD"


@pytest.mark.parametrize(
    ("ids", "left"),
    [
        (pa.array([17850, 17851, None], pa.int64()), [17851, None]),
        (pa.array([17850.0, 17850.5, None], pa.float64()), [17850.5, None]),
        (pa.array([Decimal("17850.0"), Decimal("17851.0"), None], pa.decimal128(9, 1)), [Decimal("17851.0"), None]),
        (pa.array(["17850", "017850", None], pa.large_string()), ["017850", None]),
    ],
    ids=["integer", "double", "decimal", "large text"],
)
def test_an_id_of_any_type_is_the_text_that_the_pipeline_makes_of_it(tmp_path: Path, ids: Any, left: list[Any]) -> None:
    file = tmp_path / "f.parquet"
    pq.write_table(pa.table({"user": ids}), file)

    assert take_out(file, frozenset({"17850"})) == 1

    assert pq.read_table(file)["user"].to_pylist() == left


def test_times_as_spark_writes_them_stay_what_they_are(tmp_path: Path) -> None:
    file = tmp_path / "f.parquet"
    times = pa.array([-14_182_940_000_000, 1_795_176_000_123_456], pa.timestamp("us"))
    table = pa.table({"user": ["anna", "bert"], "time": times})
    pq.write_table(table, file, use_deprecated_int96_timestamps=True)
    (tmp_path / ".f.parquet.crc").write_bytes(b"the checksum of the old content")

    assert take_out(file) == 1

    with pq.ParquetFile(file) as written:
        assert [written.schema.column(number).physical_type for number in range(2)] == ["BYTE_ARRAY", "INT96"]
        assert written.read()["time"].cast(pa.timestamp("us")).to_pylist() == times[1:].to_pylist()
    assert os.listdir(tmp_path) == ["f.parquet"]  # with its checksum, Spark could not read it


def test_a_quarantine_loses_the_rows_whose_content_names_the_user(tmp_path: Path) -> None:
    file = tmp_path / "part.parquet"
    raws = [
        '{"user":"anna","item":"a"}',
        '{"user":"bert","item":"anna"}',
        '{"user":null,"_line":"anna;a;b"}',
        '{"user":null,"_line":"bert;a;b"}',
        None,
    ]
    pq.write_table(pa.table({"source_row": [1, 2, 3, 4, 5], "reason": ["malformed"] * 5, "raw": raws}), file)

    assert take_out(file) == 2

    assert pq.read_table(file)["source_row"].to_pylist() == [2, 4, 5]


def test_a_file_without_the_users_is_not_touched(tmp_path: Path) -> None:
    file = tmp_path / "f.csv"
    file.write_bytes(b"user,item\nbert,b\n")
    before = file.stat()

    assert take_out(file) == 0

    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_only_counted_the_file_stays(tmp_path: Path) -> None:
    file = tmp_path / "f.csv"
    file.write_bytes(b"user,item\nanna,a\n")

    assert take_out(file, rewrite=False) == 1

    assert file.read_bytes() == b"user,item\nanna,a\n"


@pytest.mark.parametrize(
    ("name", "content", "left"),
    [
        ("f.csv", b"user,item\nanna,a\n", False),
        ("f.csv", b"user,item\nanna,a\nbert,b\n", True),
        ("f.jsonl", b'{"user": "anna"}\n\n', False),
        ("f.txt", b"7:\nanna,5,2005-09-06\n", False),
    ],
)
def test_a_file_with_no_other_rows_is_removed_if_asked(tmp_path: Path, name: str, content: bytes, left: bool) -> None:
    file = tmp_path / name
    file.write_bytes(content)

    user_files.take_out(str(file), ANNA, source=FileSettings(), columns=("user",), remove_empty=True)

    assert file.exists() == left


def test_the_rights_of_the_file_stay(tmp_path: Path) -> None:
    file = tmp_path / "f.csv"
    file.write_bytes(b"user,item\nanna,a\n")
    file.chmod(0o640)

    take_out(file)

    assert file.stat().st_mode & 0o777 == 0o640


def test_a_file_that_grows_meanwhile_is_left_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "f.csv"
    file.write_bytes(b"user,item\nanna,a\n")
    copymode = shutil.copymode

    def grow(old: str, new: str) -> None:
        with file.open("ab") as delivery:
            delivery.write(b"bert,b\n")
        copymode(old, new)

    monkeypatch.setattr(shutil, "copymode", grow)

    with pytest.raises(UserFileError, match="changed while it was rewritten"):
        take_out(file)

    assert file.read_bytes() == b"user,item\nanna,a\nbert,b\n"
    assert os.listdir(tmp_path) == ["f.csv"]


@pytest.mark.parametrize(
    ("name", "content", "source", "reason"),
    [
        ("f.parquet", b"PAR1 no more", {}, r"f\.parquet cannot be rewritten here: "),
        ("f.csv.gz", gzip.compress(b"user,item\nanna,a\n", mtime=0)[:-9], {}, r"f\.csv\.gz cannot be rewritten here: "),
        ("f.csv", b'user,item\nbert,"' + b"a" * 200_000, {}, "field larger than field limit"),
        ("f.csv", "user,item\nanna,a\n".encode("UTF-16"), {"encoding": "UTF-16"}, "a comma is more than one byte"),
        ("f.csv", b"user,item\n", {"encoding": "latin-99"}, "unknown encoding"),
    ],
)
def test_what_cannot_be_rewritten_is_named_and_stays(
    tmp_path: Path, name: str, content: bytes, source: dict[str, Any], reason: str
) -> None:
    file = tmp_path / name
    file.write_bytes(content)

    with pytest.raises(UserFileError, match=reason):
        take_out(file, **source)

    assert file.read_bytes() == content
    assert os.listdir(tmp_path) == [name]


def test_a_format_that_the_name_does_not_tell_is_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "f.zip"
    file.write_bytes(b"PK")

    with pytest.raises(InputError, match=r"cannot tell the format of .*f\.zip"):
        take_out(file)


def test_rows_that_have_the_index_alone_go_by_the_index(tmp_path: Path) -> None:
    users, factors = tmp_path / "users.parquet", tmp_path / "factors.parquet"
    pq.write_table(pa.table({"user_id": ["anna", "bert"], "user_index": pa.array([0, 1], pa.int32())}), users)
    pq.write_table(pa.table({"user_index": pa.array([1, 0], pa.int32()), "factors": [[0.5], [1.5]]}), factors)

    indexes = user_files.read_indexes(str(users), ANNA, "user_id", "user_index")

    assert indexes == {0}
    assert user_files.take_out_indexes(str(factors), indexes, "user_index") == 1
    assert pq.read_table(factors).to_pylist() == [{"user_index": 1, "factors": [0.5]}]
