"""Raw events of an S3 server become Parquet files, each object exactly once, whatever happens."""

from __future__ import annotations

import gzip
import io
import json
import logging
import socket
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
import requests
from pyarrow import parquet

from shortlist.errors import InputError, ObjectStorageError, RejectedRowsError, SettingsError, ShortlistError
from shortlist.settings import CancellationSettings, ColumnSettings, TransformColumnSettings, load_settings
from shortlist.stores import readers
from shortlist.stores.transformed_events import part_name, quarantine_name
from shortlist.stores.workspaces import workspace
from steps.transform import transform_events
from tests.datasets.conftest import KEY, SECRET, with_transform
from tests.datasets.interrupted import run_killed

if TYPE_CHECKING:
    from pathlib import Path

    from shortlist.settings import Settings
    from tests.datasets.conftest import S3


def line(user: Any = "u1", item: Any = "i1", time: Any = "2026-01-01T00:00:00Z", **more: Any) -> str:
    return json.dumps({"user_id": user, "item_id": item, "time": time, "weight": 1, **more}) + "\n"


def rows(s3: S3, prefix: str = "processed/part-") -> list[dict[str, Any]]:
    """The rows of all parts, sorted."""
    tables = [parquet.read_table(io.BytesIO(content)) for content in s3.all(prefix=prefix).values()]
    return sorted((row for table in tables for row in table.to_pylist()), key=lambda row: list(map(str, row.values())))


def quarantined(s3: S3) -> list[tuple[Any, ...]]:
    return sorted((tuple(row.values()) for row in rows(s3, "quarantine/")), key=repr)


def run(settings: Settings, key: str = "run") -> dict[str, Any]:
    return transform_events(settings=settings, run_key=key)


def test_every_format_gives_the_columns_of_the_input(
    s3: S3, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    s3.put("events/a.jsonl", line("007", "1e3", title='Té, "x"\n'))
    s3.put(
        "events/2026/01/b.csv",
        "item_id,weight,user_id,time,other\r\ni2,2.5,u2,2026-01-02 10:00,x\r\n".encode("utf-8-sig"),
    )
    table = pa.table(
        {
            "user_id": [3.0],
            "item_id": [44],
            "time": pa.array([datetime.fromisoformat("2026-01-03")], pa.timestamp("ns")),
            "weight": pa.array([7], pa.int8()),
        }
    )
    sink = io.BytesIO()
    parquet.write_table(table, sink)
    s3.put("events/c.parquet", sink.getvalue())
    s3.put("events/d.jsonl.gz", gzip.compress(line(time=1767225600, weight="3").encode()))
    s3.put("events/_SUCCESS", "")
    s3.put("events/", "")
    s3.put("elsewhere/e.jsonl", line("not mine"))
    caplog.set_level(logging.INFO)

    result = run(settings)

    assert result == {
        "new_data": True,
        "files": 4,
        "rows": 4,
        "rejected": {},
        "rejected_files": {},
        "all_files": 4,
        "all_rows": 4,
    }
    assert "New data was transformed" in caplog.text
    assert rows(s3) == [
        {"user_id": "007", "item_id": "1e3", "time": moment("2026-01-01"), "amount": 1.0, "title": 'Té, "x"'},
        {"user_id": "3", "item_id": "44", "time": moment("2026-01-03"), "amount": 7.0, "title": None},
        {"user_id": "u1", "item_id": "i1", "time": moment("2026-01-01"), "amount": 3.0, "title": None},
        {"user_id": "u2", "item_id": "i2", "time": moment("2026-01-02T10:00"), "amount": 2.5, "title": None},
    ]
    assert {key for key in s3.all() if not key.startswith("processed/part-")} == {
        "processed/_state.json",
        "viz/events_per_day.csv",
        "viz/events_per_item.csv",
        "viz/events_per_kind.csv",
    }


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def test_the_folder_can_be_the_input_of_a_training(s3: S3, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The readers of interactions list the parts alone and find every column of the settings in them."""
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    columns = ColumnSettings(
        user="CustomerID", item="Stock", time="When", weight="amount", event="kind", category="cat"
    )
    settings = replace(
        settings,
        input=replace(settings.input, columns=columns),
        interactions=replace(settings.interactions, cancellation=CancellationSettings("InvoiceNo", "^C")),
    )
    s3.put("events/a.jsonl", line())
    s3.put("events/empty.csv", "user_id,item_id,time,weight\n")
    run(settings)

    found = readers.list_files("s3://data/processed")

    assert [file.path for file in found] == sorted(
        f"s3://data/processed/{part_name(key)}" for key in ("a.jsonl", "empty.csv")
    )
    layouts = [readers._parquet_layout(file.path) for file in found]
    assert {layout.columns for layout in layouts} == {
        ("CustomerID", "Stock", "When", "amount", "kind", "cat", "InvoiceNo")
    }
    assert sorted(layout.rows for layout in layouts) == [False, True]


def test_an_object_is_transformed_once(s3: S3, settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    s3.put("events/a.jsonl", line())
    run(settings, "first")
    before = s3.all()
    caplog.set_level(logging.INFO)
    caplog.clear()

    result = run(settings, "second")

    assert result["new_data"] is False
    assert (result["files"], result["all_files"], result["all_rows"]) == (0, 1, 1)
    assert s3.all() == before
    assert "New data was transformed" not in caplog.text

    s3.put("events/b.jsonl", line("u2"))
    result = run(settings, "third")
    assert (result["new_data"], result["files"], result["rows"], result["all_rows"]) == (True, 1, 1, 2)
    assert before[f"processed/{part_name('a.jsonl')}"] == s3.all()[f"processed/{part_name('a.jsonl')}"]


def test_a_further_attempt_of_a_run_gives_its_result(
    s3: S3, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    s3.put("events/a.jsonl", line())
    result = run(settings, "first")
    caplog.set_level(logging.INFO)
    caplog.clear()

    assert run(settings, "first") == result
    assert "New data was transformed" in caplog.text

    s3.put("events/b.jsonl", "")  # new, but not usable: what the first attempt made is still to be versioned
    assert run(with_transform(settings, max_rejected_share=1.0), "first")["new_data"] is True


def test_new_content_of_an_object_takes_the_place_of_the_old(s3: S3, settings: Settings) -> None:
    s3.put("events/a.jsonl", line("u1") + line("u2") + "broken\n")
    s3.put("events/b.jsonl", line("u3"))
    run(settings, "first")
    s3.put("events/a.jsonl", line("u4"))

    result = run(settings, "second")

    assert (result["new_data"], result["files"], result["rows"], result["all_rows"]) == (True, 1, 1, 2)
    assert [row["user_id"] for row in rows(s3)] == ["u3", "u4"]
    assert quarantined(s3) == []
    assert (
        s3.get("viz/events_per_kind.csv")
        == b"kind,events,weight,first_day,last_day\ninteraction,2,2,2026-01-01,2026-01-01\n"
    )


def test_an_object_that_is_gone_keeps_its_part(s3: S3, settings: Settings) -> None:
    s3.put("events/a.jsonl", line("u1"))
    run(settings, "first")
    s3.client.delete_object(Bucket="raw", Key="events/a.jsonl")
    s3.put("events/b.jsonl", line("u2"))

    assert run(settings, "second")["all_rows"] == 2
    assert [row["user_id"] for row in rows(s3)] == ["u1", "u2"]

    other = with_transform(settings, columns=TransformColumnSettings(user="customer"))
    with pytest.raises(InputError, match=r"settings of raw events changed, and 1 object\(s\).* such as a.jsonl"):
        run(other, "third")


def test_other_settings_make_everything_anew(s3: S3, settings: Settings) -> None:
    s3.put("events/a.csv", "user_id,item_id,time,weight,price\nu1,i1,2026-07-01 12:00,1,9\n")
    run(settings, "first")

    columns = replace(settings.transform.columns, weight="price")
    result = run(with_transform(settings, columns=columns, timezone="Europe/London"), "second")

    assert (result["new_data"], result["files"], result["all_rows"]) == (True, 1, 1)
    (row,) = rows(s3)
    assert (row["amount"], row["time"]) == (9.0, moment("2026-07-01T11:00"))


def test_an_empty_bucket_is_no_new_data(s3: S3, settings: Settings) -> None:
    assert run(settings)["new_data"] is False
    assert s3.all() == {}


BAD = {
    "not json": "malformed",
    "[1, 2]": "malformed",
    "[" * 100_000: "malformed",
    '{"a": 1e': "malformed",
    line(None).strip(): "missing_user",
    line("  ").strip(): "missing_user",
    line(item="").strip(): "missing_item",
    line({"a": 1}).strip(): "malformed",
    line("a\x00b").strip(): "control_character",
    line("\ud800").strip(): "bad_encoding",
    line("x" * 51).strip(): "id_too_long",
    line(time=None).strip(): "missing_time",
    line(time="yesterday").strip(): "bad_time",
    line(time="2026-02-30").strip(): "bad_time",
    line(time="1e400").strip(): "bad_time",
    line(time=True).strip(): "bad_time",
    line(time="1969-12-31").strip(): "time_out_of_range",
    line(weight=None).strip(): "missing_weight",
    line(weight="many").strip(): "bad_weight",
    '{"user_id": "u", "item_id": "i", "time": 1767225600, "weight": NaN}': "bad_weight",
    '{"user_id": "u", "item_id": "i", "time": 1767225600, "weight": 1e999}': "bad_weight",
}


def test_bad_rows_are_quarantined_with_reason_and_position(s3: S3, settings: Settings) -> None:
    s3.put("events/a.jsonl", "\n".join(BAD) + "\n\n" + line("good") * len(BAD))

    result = run(settings)

    assert result["rows"] == len(BAD)
    counted: dict[str, int] = {}
    for reason in BAD.values():
        counted[reason] = counted.get(reason, 0) + 1
    assert result["rejected"] == counted
    found = sorted(rows(s3, "quarantine/"), key=lambda row: row["source_row"])
    assert [(row["source_file"], row["source_row"], row["reason"]) for row in found] == [
        ("a.jsonl", number, reason) for number, reason in enumerate(BAD.values(), start=1)
    ]
    assert found[0]["raw"] == "not json"
    assert list(s3.all(prefix="quarantine/")) == [f"quarantine/{quarantine_name('a.jsonl')}"]


@pytest.mark.parametrize(
    ("key", "content", "reason"),
    [
        ("a.jsonl", "", "it is empty"),
        ("a.jsonl", '[{"user_id": 1}]', "one JSON array"),
        ("a.bin", "x", "the name tells no format"),
        ("a.jsonl.gz", gzip.compress(line().encode() * 1000)[:-20], "end-of-stream"),
        ("a.jsonl.gz", b"not packed", "Not a gzipped file"),
        ("a.parquet", b"PAR1....PAR1", ""),
        ("a.csv", "user_id,item_id\nu,i\n", "it has no column time"),
        ("a.csv", 'user_id,item_id,time,weight\nu,"i,2026-01-01,1\nv,i,2026-01-01,1\n', "unexpected end of data"),
        ("a.csv", "user_id,user_id,item_id,time\n", "two columns have the same name"),
        ("big.jsonl", line("x" * 3000), "more than [transform].max_object_bytes"),
    ],
)
def test_an_object_that_cannot_be_read_is_quarantined_as_a_whole(
    s3: S3, settings: Settings, key: str, content: str | bytes, reason: str
) -> None:
    s3.put(f"events/{key}", content)
    s3.put("events/good.jsonl", line())
    settings = with_transform(settings, max_rejected_share=1.0, max_object_bytes=3000)

    result = run(settings, "first")

    assert (result["new_data"], result["files"], result["rows"]) == (True, 1, 1)
    assert list(result["rejected_files"]) == [key]
    assert reason in result["rejected_files"][key]
    ((file, row, why, text),) = quarantined(s3)
    assert (file, row, why) == (key, None, "unreadable")
    assert text == result["rejected_files"][key]
    assert run(settings, "second")["files"] == 0  # not tried again until it changes


def test_content_that_cannot_be_read_does_not_take_what_was_there(s3: S3, settings: Settings) -> None:
    s3.put("events/a.jsonl", line("u1"))
    settings = with_transform(settings, max_rejected_share=1.0)
    run(settings, "first")
    s3.put("events/a.jsonl", "")

    result = run(settings, "second")

    assert (result["new_data"], result["all_rows"]) == (False, 1)
    assert [row["user_id"] for row in rows(s3)] == ["u1"]


@pytest.mark.parametrize(("bad", "passes"), [(5, True), (6, False)])
def test_the_share_of_bad_rows_has_a_limit(s3: S3, settings: Settings, bad: int, passes: bool) -> None:  # noqa: FBT001
    s3.put("events/old.jsonl", line("old"))
    settings = with_transform(settings, max_rejected_share=0.05)
    run(settings, "first")
    before = s3.all()
    s3.put("events/new.jsonl", "bad\n" * bad + line() * (100 - bad))

    if passes:
        assert run(settings, "second")["rejected"] == {"malformed": bad}
        return
    with pytest.raises(
        RejectedRowsError, match=r"6.00% of the 100 new rows were rejected: malformed 6 \(.*limit is the 5.00%"
    ):
        run(settings, "second")
    after = s3.all()
    assert after.pop(f"quarantine/{quarantine_name('new.jsonl')}")
    assert after == before
    s3.put("events/new.jsonl", line("mended"))
    assert run(settings, "third")["rows"] == 1
    assert quarantined(s3) == []


def test_tolerated_reasons_do_not_count_for_the_limit(s3: S3, settings: Settings) -> None:
    s3.put("events/a.jsonl", line("") * 99 + line())
    settings = replace(settings, interactions=replace(settings.interactions, tolerated=("missing_user",)))
    assert run(with_transform(settings, max_rejected_share=0.0))["rejected"] == {"missing_user": 99}


def test_the_share_of_unreadable_bytes_has_a_limit(s3: S3, settings: Settings) -> None:
    s3.put("events/a.jsonl", line())
    s3.put("events/b.parquet", b"x" * 10_000)
    with pytest.raises(
        RejectedRowsError, match=r"1 of 2 new objects, 99\.\d+% of the bytes, cannot be read: b.parquet: "
    ):
        run(settings)
    assert s3.all(prefix="processed/") == {}


NAMES = [
    "../../etc/passwd.jsonl",
    "=cmd|' /C calc'!A0.jsonl",
    "a\u2028b.jsonl",
    "ü 'x\";--.jsonl",
    "//a.jsonl",
    "x" * 900 + ".jsonl",
]


def test_names_lead_nowhere(s3: S3, settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Case 26: keys with path traversal, formulas, line breaks; formulas in items and titles."""
    evil = '=HYPERLINK("http://x")'
    for name in NAMES:
        s3.put(f"events/{name}", line("u", evil, title="@SUM(1)") + "bad\n")
    s3.put("events/ok.jsonl", line("../u", "-1+2", title="ok", weight=-2.5))
    caplog.set_level(logging.INFO)

    result = run(settings)

    assert result["files"] == len(NAMES) + 1
    keys = {key.rpartition("/")[2] for key in s3.all(prefix="processed/part-")}
    assert keys == {part_name(name) for name in (*NAMES, "ok.jsonl")}
    assert all(len(key) == len("part-.parquet") + 32 for key in keys)
    assert sorted(path.name for path in (tmp_path / "jobs").rglob("*")) == ["transform", "transform.lock"]
    items = s3.get("viz/events_per_item.csv").decode().splitlines()
    assert items == [
        "item_id,title,kind,events,weight",
        "'-1+2,ok,interaction,1,-2.5",
        '"\'=HYPERLINK(""http://x"")",\'@SUM(1),interaction,6,6',
    ]
    assert {name for name, *_ in quarantined(s3)} == set(NAMES)
    assert "a\u2028b.jsonl" not in caplog.text
    assert {row["item_id"] for row in rows(s3)} == {evil, "-1+2"}


def test_tables_for_charts_count_by_day_item_and_kind(s3: S3, settings: Settings) -> None:
    columns = replace(settings.transform.columns, event="kind", title="title", cancellation="invoice")
    settings = with_transform(settings, columns=columns)
    settings = replace(
        settings,
        input=replace(settings.input, columns=replace(settings.input.columns, event="kind")),
        interactions=replace(settings.interactions, cancellation=CancellationSettings("InvoiceNo", "^C")),
    )
    s3.put("events/a.jsonl", line(kind="view", title="Old") + line(kind="view", time="2026-01-02", title="New"))
    s3.put("events/b.jsonl", line("u2", "i2", invoice="C1", weight=0.1) + line("u2", "i2", weight=0.2, invoice="1"))

    run(settings)

    assert s3.get("viz/events_per_day.csv").decode().splitlines() == [
        "day,kind,events,weight",
        "2026-01-01,cancellation,1,0.1",
        "2026-01-01,interaction,1,0.2",
        "2026-01-01,view,1,1",
        "2026-01-02,view,1,1",
    ]
    assert s3.get("viz/events_per_item.csv").decode().splitlines()[1:] == [
        "i1,New,view,2,2",
        "i2,,cancellation,1,0.1",
        "i2,,interaction,1,0.2",
    ]
    assert s3.get("viz/events_per_kind.csv").decode().splitlines()[3] == "view,2,2,2026-01-01,2026-01-02"


def test_killed_anywhere_and_run_again_gives_the_same_bytes(s3: S3, settings: Settings) -> None:
    """Case 35: SIGKILL before every call that changes something, then once more to the end."""
    s3.put("events/a.jsonl", line("u1") + "bad\n")
    s3.put("events/b.jsonl", line("u2"))
    run(settings, "first")
    s3.put("events/b.jsonl", line("u3") + "bad\n")
    s3.put("events/c.jsonl", line("u4"))
    start = s3.all()
    result = run(settings, "second")
    whole = s3.all()

    calls = 0
    while True:
        for key in s3.all():
            s3.client.delete_object(Bucket="data", Key=key)
        for key, content in start.items():
            s3.put(key, content, "data")
        if run_killed("transform", calls, settings, "second"):
            break
        assert s3.all()["processed/_state.json"] == start["processed/_state.json"]
        assert run(settings, "second") == result
        assert s3.all() == whole
        calls += 1
    assert calls == len(("quarantine b", "quarantine c", "part b", "part c", "day", "item", "kind", "state"))


def test_what_others_changed_is_told(s3: S3, settings: Settings) -> None:
    s3.put("events/a.jsonl", line("u1"))
    run(settings, "first")
    s3.put(f"processed/{part_name('a.jsonl')}", b"changed", "data")
    s3.put("events/b.jsonl", line("u2"))
    with pytest.raises(
        ObjectStorageError, match=r"part-\w+\.parquet is gone or was changed by others.*remove .*_state.json"
    ):
        run(settings, "second")
    s3.client.delete_object(Bucket="data", Key="processed/_state.json")
    assert run(settings, "third")["all_rows"] == 2

    s3.put("processed/_state.json", b'{"rules": 1}', "data")
    with pytest.raises(ObjectStorageError, match="_state.json is damaged"):
        run(settings, "fourth")


def test_only_one_at_a_time(s3: S3, settings: Settings) -> None:
    s3.put("events/a.jsonl", line())
    with workspace(settings, "transform"), pytest.raises(ShortlistError, match="another job is at work"):
        run(settings)
    assert run(settings)["rows"] == 1


def test_a_folder_of_this_machine_does_as_well(settings: Settings, tmp_path: Path) -> None:
    places = {name: str(tmp_path / "store" / name) for name in ("raw", "processed", "viz", "quarantine")}
    settings = with_transform(settings, **places)
    assert run(settings, "first")["new_data"] is False
    raw = tmp_path / "store" / "raw"
    raw.mkdir(parents=True)
    (raw / "a.jsonl").write_text(line() + "bad\n")
    assert run(settings, "second")["rows"] == 1
    assert run(settings, "third")["new_data"] is False
    (raw / "a.jsonl").write_text(line() + line("u2"))
    assert run(settings, "fourth")["rows"] == 2
    (raw / "link.jsonl").symlink_to("/etc/hostname")
    with pytest.raises(ObjectStorageError, match="is a link that leaves"):
        run(settings, "fifth")


def test_s3_that_is_away(s3: S3, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://user:{SECRET}@127.0.0.1:{port}")
    with pytest.raises(ObjectStorageError) as told:
        run(settings)
    said = f"S3 at 127.0.0.1:{port} cannot be reached. Is it up? AWS_ENDPOINT_URL says where"
    assert str(told.value) == f"s3://data/processed cannot be read: {said}"


def test_s3_that_is_silent(settings: Settings, s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(ObjectStorageError, match=r"cannot be read: S3 at 127.0.0.1:\d+ is silent for 0.2 seconds"):
            run(with_transform(settings, timeout_seconds=0.2))


def test_s3_that_refuses_the_key(s3: S3, settings: Settings) -> None:
    requests.post(f"{s3.url}/moto-api/reset-auth", data="0", timeout=30).raise_for_status()
    with pytest.raises(ObjectStorageError) as told:
        run(settings)
    assert "refuses the login (InvalidAccessKeyId). Set AWS_ACCESS_KEY_ID" in str(told.value)
    assert SECRET not in str(told.value)
    assert KEY not in str(told.value)
    assert told.value.__cause__ is None


def test_a_bucket_that_is_missing(s3: S3, settings: Settings) -> None:
    with pytest.raises(
        ObjectStorageError, match="s3://none/events cannot be listed: .* has no bucket 'none'. Create it"
    ):
        run(with_transform(settings, raw="s3://none/events"))


def test_no_key_at_all(s3: S3, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(ObjectStorageError, match="there is no key for S3: set AWS_ACCESS_KEY_ID"):
        run(settings)


def test_an_object_that_changes_while_it_is_read_waits_for_the_next_run(
    s3: S3, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from shortlist.stores import objects

    s3.put("events/a.jsonl", line("u1"))
    listed = objects._S3Folder.objects

    def and_then_changes(self: Any) -> Any:
        found = listed(self)
        s3.put("events/a.jsonl", line("u2"))
        return found

    monkeypatch.setattr(objects._S3Folder, "objects", and_then_changes)
    result = run(settings, "first")
    assert (result["new_data"], result["all_rows"]) == (False, 0)
    monkeypatch.undo()
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    run(settings, "second")
    assert [row["user_id"] for row in rows(s3)] == ["u2"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[transform]\nraw = "s3://a/x"\nprocessed = "s3://a/x/y"', "each needs a folder of its own"),
        ('[transform]\ntimezone = "Mars"', "must be names such as Europe/London"),
        ('[datasets]\nrepository = "https://me:word@git.example.org/x.git"', "must not hold credentials"),
        ('[datasets]\nrepository = "http://git.example.org/x.git"', "anybody could read the token"),
        ('[datasets]\nrepository = "ext::sh -c id"', "must be a path or a URL"),
        ('[datasets]\nremote = "--config"', "String should match pattern"),
    ],
)
def test_settings_that_are_refused(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "pipeline.toml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=said) as told:
        load_settings(str(file))
    assert "word" not in str(told.value)
