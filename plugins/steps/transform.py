"""Transform step: raw events in object storage become Parquet files to train on, and small tables for charts."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
import re
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from shortlist.columns import ITEM, TIME, TITLE, WEIGHT
from shortlist.errors import InputError, ObjectStorageError, RejectedRowsError
from shortlist.recommender.interactions import REMEDIES
from shortlist.recommender.raw_events import Rules, kind_of
from shortlist.stores import raw_event_files, readers, transformed_events
from shortlist.stores.objects import open_folder
from shortlist.stores.transformed_events import Source, State
from shortlist.stores.workspaces import workspace

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from shortlist.settings import Settings
    from shortlist.stores.objects import Folder, StoredObject

logger = logging.getLogger(__name__)

# The words by which `check_run_docker_output` may know it.
NEW_DATA: Final = "New data was transformed"

# Changes when the same raw events and settings would give other bytes: everything is then made anew.
_REVISION: Final = 1

_MOST_QUARANTINED: Final = 20_000_000  # characters of one object
_LONGEST_NAME: Final = 200
_PLACES: Final = ("raw", "processed", "viz", "quarantine")
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True)
class _Folders:
    raw: Folder
    processed: Folder
    viz: Folder
    quarantine: Folder


def transform_events(*, settings: Settings, run_key: str) -> dict[str, Any]:
    """Transform every raw object that is new, or has new content, exactly once.

    Each raw object becomes one Parquet file below `[transform].processed`, which depends on nothing but the object and
    the settings; new content of an object takes the place of the old. An object that was taken away since keeps its
    file. The state that says what was done is written last: a run killed anywhere is done again with the same bytes.

    Args:
        settings: `[transform]`, the columns of `[input]`, and what `[interactions]` tolerates.
        run_key: The same for all attempts of a run. A further attempt of the run that was done last gives its result.

    Returns:
        `new_data`; `files` and `rows` that were made in this run; `rejected` rows by reason; `rejected_files` with the
        reason of each (the first 20); `all_files` and `all_rows` that there are now.

    Raises:
        ObjectStorageError: If storage is away, silent or refuses, or what lies there was changed by others.
        RejectedRowsError: If more was rejected than `[transform].max_rejected_share` allows. What was made before
            stays; the rejected rows are in the quarantine.
    """
    folders = _open(settings)
    before = transformed_events.read_state(folders.processed)
    rules = _fingerprint(settings)
    known = before.sources if before and before.rules == rules else {}
    listed = [each for each in folders.raw.objects() if not _hidden(each.key)]
    new = [each for each in listed if each.key not in known or known[each.key].tag != each.tag]
    _check_gone(before, rules, listed, settings=settings)
    if not new:
        if before and before.run == run_key and before.rules == rules:
            logger.info("%s by an earlier attempt of this run", NEW_DATA)
            return before.result
        logger.info("no new raw events: %d object(s) in %s were transformed before", len(listed), folders.raw.location)
        return _result({}, before)
    with workspace(settings, "transform") as work:
        return _transform(new, before, rules, folders=folders, work=work, settings=settings, run_key=run_key)


def _open(settings: Settings) -> _Folders:
    source = settings.transform
    return _Folders(*(open_folder(getattr(source, name), timeout_seconds=source.timeout_seconds) for name in _PLACES))


def _fingerprint(settings: Settings) -> str:
    source = asdict(settings.transform)
    for name in (*_PLACES, "timeout_seconds", "max_rejected_share", "max_object_bytes"):
        del source[name]
    interactions = settings.interactions
    decisive = [_REVISION, source, readers.interaction_columns(settings), interactions.earliest]
    return hashlib.sha256(json.dumps([*decisive, interactions.max_id_length]).encode()).hexdigest()


def _check_gone(before: State | None, rules: str, listed: list[StoredObject], *, settings: Settings) -> None:
    if before is None or before.rules == rules:
        return
    gone = before.sources.keys() - {each.key for each in listed}
    if gone:
        raise InputError(
            f"the settings of raw events changed, and {len(gone)} object(s) that were transformed by the old ones are "
            f"no longer in {settings.transform.raw}, such as {readable(min(gone))}: put them back, undo the change, or "
            "name a new folder as [transform].processed"
        )


def _hidden(key: str) -> bool:
    return any(part.startswith(("_", ".")) and part not in (".", "..") for part in key.split("/"))


def _transform(
    new: list[StoredObject],
    before: State | None,
    rules: str,
    *,
    folders: _Folders,
    work: Path,
    settings: Settings,
    run_key: str,
) -> dict[str, Any]:
    old = before.sources if before else {}
    made: dict[str, Source] = {}
    for each in new:
        source = _read_object(each, old.get(each.key), folders=folders, work=work, settings=settings)
        if source:
            made[each.key] = source
    _put_rejected(made, folders=folders, work=work)
    _check_share(made, settings=settings)
    state = State(rules=rules, sources={**old, **made}, tables=before.tables if before else {})
    for key in made:
        part = work / transformed_events.part_name(key)
        if part.exists():
            folders.processed.upload(part, part.name)
    changed = any(source.sha256 != (old[key].sha256 if key in old else None) for key, source in made.items())
    if changed:
        tables = _tables(state, folders=folders, work=work, settings=settings)
        for name, content in tables.items():
            folders.viz.write(name, content)
        digests = {name: hashlib.sha256(content).hexdigest() for name, content in tables.items()}
        state = replace(state, tables=digests)
    again = before is not None and before.run == run_key and bool(before.result.get("new_data"))
    result = {**_result(made, state), "new_data": changed or again}
    transformed_events.write_state(folders.processed, replace(state, run=run_key, result=result))
    shown = f"{result['files']:,} file(s) with {result['rows']:,} rows; rejected: {_counts(result['rejected'])}"
    logger.info("%s: %s", NEW_DATA if result["new_data"] else "no usable data is new", shown)
    return result


def _read_object(
    each: StoredObject, old: Source | None, *, folders: _Folders, work: Path, settings: Settings
) -> Source | None:
    """Write the part and the quarantine of one raw object into `work`. None where it is another one by now."""
    name = readable(each.key)
    if each.bytes > settings.transform.max_object_bytes:
        return _unreadable(each, old, f"it has {each.bytes:,} bytes, more than [transform].max_object_bytes", work=work)
    raw = work / "raw"
    if not folders.raw.download(each.key, raw, tag=each.tag):
        logger.warning("%s changed while it was read: the next run takes it as it is then", name)
        return None
    part = work / transformed_events.part_name(each.key)
    writer = transformed_events.PartWriter(part, readers.interaction_columns(settings))
    counts: Counter[str] = Counter()
    rejected: list[tuple[str, int | None, str, str]] = []
    quarantined = 0
    rules = Rules(settings.transform, settings.interactions)
    try:
        if not each.bytes:
            raise InputError("it is empty (0 bytes)")
        for number, record, text in raw_event_files.read_records(raw, each.key, settings.transform):
            event = rules.read(record)
            if not isinstance(event, str):
                writer.add(event)
                continue
            counts[event] += 1
            if quarantined < _MOST_QUARANTINED:
                rejected.append((each.key, number, event, text))
                quarantined += len(text) + len(each.key)
    except InputError as error:
        writer.close()
        part.unlink()
        return _unreadable(each, old, str(error), work=work)
    finally:
        raw.unlink(missing_ok=True)
    writer.close()
    if rejected:
        transformed_events.write_quarantine(work / transformed_events.quarantine_name(each.key), rejected)
    logger.info("%s: %s rows, rejected: %s", name, f"{writer.rows:,}", _counts(counts))
    digest = transformed_events.sha256_of(part)
    return Source(each.tag, each.bytes, writer.rows, dict(sorted(counts.items())), digest)


def _unreadable(each: StoredObject, old: Source | None, error: str, *, work: Path) -> Source:
    """Reject an object as a whole. What was made of its content before stays."""
    logger.warning("%s cannot be read and is left out: %s", readable(each.key), error)
    row = (each.key, None, "unreadable", error)
    transformed_events.write_quarantine(work / transformed_events.quarantine_name(each.key), [row])
    return Source(each.tag, each.bytes, old.rows if old else 0, {}, old.sha256 if old else None, error)


def _put_rejected(made: Mapping[str, Source], *, folders: _Folders, work: Path) -> None:
    for key in made:
        path = work / transformed_events.quarantine_name(key)
        if path.exists():
            folders.quarantine.upload(path, path.name)
        else:
            folders.quarantine.remove(path.name)


def _check_share(made: Mapping[str, Source], *, settings: Settings) -> None:
    counts = _rejected(made.values())
    read = sum(source.rows for source in made.values() if not source.error) + counts.total()
    bad = sum(count for reason, count in counts.items() if reason not in settings.interactions.tolerated)
    limit = settings.transform.max_rejected_share
    after = (
        f"The limit is the {limit:.2%} of [transform].max_rejected_share. They are in {settings.transform.quarantine}; "
        "mend or remove the objects, or tolerate what is normal. What was made before stays in place"
    )
    if bad > 0 and bad / read > limit:
        reasons = "; ".join(f"{reason} {count:,} ({REMEDIES[reason]})" for reason, count in counts.most_common())
        raise RejectedRowsError(f"{bad / read:.2%} of the {read:,} new rows were rejected: {reasons}. {after}")
    unreadable = {key: source for key, source in made.items() if source.error}
    lost = sum(source.bytes for source in unreadable.values())
    size = sum(source.bytes for source in made.values())
    if lost > 0 and lost / size > limit:
        named = "; ".join(f"{readable(key)}: {source.error}" for key, source in list(unreadable.items())[:3])
        raise RejectedRowsError(
            f"{len(unreadable)} of {len(made)} new objects, {lost / size:.2%} of the bytes, cannot be read: {named}. "
            f"{after}"
        )


def _rejected(sources: Iterable[Source]) -> Counter[str]:
    return sum((Counter(source.rejected) for source in sources), Counter())


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{reason} {count:,}" for reason, count in Counter(counts).most_common()) or "none"


def _result(made: Mapping[str, Source], state: State | None) -> dict[str, Any]:
    good = [source for source in made.values() if not source.error]
    unreadable = {readable(key): source.error for key, source in made.items() if source.error}
    there = [source for source in state.sources.values() if source.sha256] if state else []
    return {
        "new_data": False,
        "files": len(good),
        "rows": sum(source.rows for source in good),
        "rejected": dict(_rejected(good).most_common()),
        "rejected_files": dict(list(unreadable.items())[:20]),
        "all_files": len(there),
        "all_rows": sum(source.rows for source in there),
    }


def readable(key: str) -> str:
    """Return the key of an object for people and logs: one line, not too long."""
    text = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]", "\ufffd", key)
    return text if len(text) <= _LONGEST_NAME else f"{text[:_LONGEST_NAME]}…"


def _tables(state: State, *, folders: _Folders, work: Path, settings: Settings) -> dict[str, bytes]:
    """Count the events of all parts, one part after the other, always in the same order."""
    days: dict[tuple[str, str], _Sum] = defaultdict(_Sum)
    items: dict[tuple[str, str], _Sum] = defaultdict(_Sum)
    kinds: dict[str, _Sum] = defaultdict(_Sum)
    titles: dict[str, str] = {}
    for name, digest in state.parts().items():
        path = work / name
        if not path.exists() and not folders.processed.download(name, path):
            raise _changed(folders.processed, name)
        if transformed_events.sha256_of(path) != digest:
            raise _changed(folders.processed, name)
        for day, item, kind, weight, title in _events(path, settings):
            for total in (days[day, kind], items[item, kind], kinds[kind]):
                total.add(day, weight)
            if title:
                titles[item] = title
        path.unlink()
    by_day = [(*key, total.events, total.weight) for key, total in sorted(days.items())]
    by_item = [
        (item, titles.get(item, ""), kind, total.events, total.weight) for (item, kind), total in sorted(items.items())
    ]
    by_kind = [(kind, each.events, each.weight, each.first, each.last) for kind, each in sorted(kinds.items())]
    contents = (
        _csv(("day", "kind", "events", "weight"), by_day),
        _csv(("item_id", "title", "kind", "events", "weight"), by_item),
        _csv(("kind", "events", "weight", "first_day", "last_day"), by_kind),
    )
    return dict(zip(transformed_events.TABLES, contents, strict=True))


@dataclass
class _Sum:
    events: int = 0
    weight: float = 0.0
    first: str = ""
    last: str = ""

    def add(self, day: str, weight: float) -> None:
        self.events += 1
        self.weight += weight
        self.first = min(self.first or day, day)
        self.last = max(self.last, day)


def _events(path: Path, settings: Settings) -> Iterator[tuple[str, str, str, float, str | None]]:
    columns = readers.interaction_columns(settings)
    rule = settings.interactions.cancellation
    cancels = re.compile(rule.pattern) if rule else None
    fields = (TIME, ITEM, WEIGHT, TITLE, readers.EVENT, readers.CANCELLATION)
    for batch in transformed_events.read_part(path):
        values = [batch[columns[field]].to_pylist() if field in columns else [None] * len(batch) for field in fields]
        for time, item, weight, title, event, mark in zip(*values, strict=True):
            cancelled = bool(cancels and mark and cancels.search(mark))
            amount = 1.0 if weight is None else weight
            yield time.date().isoformat(), item, kind_of(event, cancelled=cancelled), amount, title


def _changed(folder: Folder, name: str) -> ObjectStorageError:
    return ObjectStorageError(
        f"{folder.location}/{name} is gone or was changed by others. Put it back, or remove "
        f"{folder.location}/{transformed_events.STATE}: the next run then makes everything anew from the raw events"
    )


def _csv(header: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> bytes:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(header)
    table.writerows([_cell(value) for value in row] for row in rows)
    return text.getvalue().encode()


def _cell(value: str | int | float) -> str | int:
    if isinstance(value, float):
        return f"{round(value, 6):.15g}"
    # A spreadsheet would run it as a formula.
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return value
