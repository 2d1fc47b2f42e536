"""Pairs without a rating: both formats, rejected pairs, no half-written file."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from shortlist.errors import InputError, NothingToDoError
from shortlist.settings import ColumnSettings, InputSettings, PathSettings, Settings
from steps.futures import create_futures


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "data" / "raw").mkdir(parents=True)
    columns = ColumnSettings(user="CustomerID", item="StockCode", time="InvoiceDate")
    return Settings(input=InputSettings(columns=columns), paths=PathSettings(root=str(tmp_path)))


def raw(settings: Settings, name: str, content: str) -> Path:
    path = Path(settings.paths.raw, name)
    path.write_bytes(content.encode())
    return path


def made(settings: Settings) -> str:
    return Path(create_futures(settings=settings)).read_text(encoding="utf-8")


def test_qualifying_format_becomes_pairs_with_and_without_a_date(settings: Settings) -> None:
    raw(settings, "future.txt", "1:\r\n1046323,2005-12-19\r\n007\r\n\r\n10:\r\n5,2005-01-01\r\n")
    assert made(settings) == "user_id,item_id,time\n1046323,1,2005-12-19\n007,1,\n5,10,2005-01-01\n"


def test_csv_takes_the_mapped_columns_in_any_order(settings: Settings) -> None:
    raw(settings, "future.csv", '\ufeffStockCode,x,CustomerID\n"85,123A",1,017850\n')
    assert made(settings) == 'user_id,item_id,time\n017850,"85,123A",\n'


def test_csv_takes_our_own_names_too(settings: Settings) -> None:
    raw(settings, "future.csv", "user_id,item_id,time\nu,i,2026-01-01\n")
    assert made(settings) == "user_id,item_id,time\nu,i,2026-01-01\n"


def test_with_both_files_the_pairs_of_both_are_taken(settings: Settings) -> None:
    raw(settings, "future.txt", "m:\nu1\n")
    raw(settings, "future.csv", "user_id,item_id\nu2,i2\n")
    assert made(settings) == "user_id,item_id,time\nu1,m,\nu2,i2,\n"


def test_invalid_pairs_are_left_out_and_counted(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    rows = ["u1,i1", ",i2", "u3,", "u\x004,i4", f"{'u' * 257},i5", "u6,i6,shifted", "u7"]
    raw(settings, "future.csv", "user_id,item_id\n" + "\n".join(rows) + "\n")
    with caplog.at_level(logging.INFO):
        assert made(settings) == "user_id,item_id,time\nu1,i1,\n"
    assert "future.csv: 1 pairs, 6 rejected" in caplog.text


def test_a_pair_before_the_first_movie_is_rejected(settings: Settings) -> None:
    raw(settings, "future.txt", "5\n1:\n6\n")
    assert made(settings) == "user_id,item_id,time\n6,1,\n"


def test_no_file_is_a_normal_day(settings: Settings) -> None:
    with pytest.raises(NothingToDoError, match=r"no future\.txt or future\.csv"):
        create_futures(settings=settings)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no header"),
        ("user_id,item_id\n", "holds no valid pair"),
        ("CustomerID,product\n1,2\n", "needs the columns 'CustomerID' and 'StockCode'.*It has: CustomerID, product"),
    ],
    ids=["empty file", "header only", "missing column"],
)
def test_a_bad_file_is_named_and_the_file_of_the_last_run_stays(settings: Settings, content: str, message: str) -> None:
    path = raw(settings, "future.csv", "user_id,item_id\nu,i\n")
    before = made(settings)
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=message) as caught:
        create_futures(settings=settings)
    assert str(path) in str(caught.value)
    assert Path(settings.paths.futures).read_text(encoding="utf-8") == before
