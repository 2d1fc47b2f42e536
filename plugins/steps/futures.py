"""Pairs without a rating, which the trained model scores: `data/raw/future.txt` or `future.csv`."""

from __future__ import annotations

import csv
import io
import logging
import re
from typing import IO, TYPE_CHECKING, Final, cast

from shortlist.columns import ITEM, TIME, USER
from shortlist.errors import InputError, NothingToDoError
from shortlist.stores import files, readers

if TYPE_CHECKING:
    from _csv import Writer
    from collections.abc import Iterator

    from shortlist.settings import Settings

logger = logging.getLogger(__name__)

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ufffd]")


def create_futures(*, settings: Settings) -> str:
    """Turn the pairs that a user wants scored into `settings.paths.futures` (`user_id,item_id,time`).

    `future.txt` has the Netflix qualifying format: `MovieID:` lines, each followed by `CustomerID[,Date]` lines.
    `future.csv` has the columns of `[input.columns]`, or `user_id,item_id[,time]`. With both, the pairs of both are
    taken, those of `future.txt` first. Memory does not grow with the files. A pair with an empty, over-long or
    unprintable id is counted and left out.

    Returns:
        The path of the new file.

    Raises:
        NothingToDoError: If there is neither file.
        InputError: If a file is empty, holds no valid pair, cannot be read or lacks a column.
    """
    sources = {
        f"{settings.paths.raw}/future.txt": _netflix_pairs,
        f"{settings.paths.raw}/future.csv": _csv_pairs,
    }
    present = {path: pairs for path, pairs in sources.items() if files.exists(path)}
    if not present:
        raise NothingToDoError(f"no future.txt or future.csv in {settings.paths.raw}: there are no pairs to score")
    filesystem, target = files.resolve(settings.paths.futures)
    filesystem.create_dir(target.rsplit("/", 1)[0], recursive=True)
    with (
        filesystem.open_output_stream(f"{target}.tmp") as stream,
        io.TextIOWrapper(cast("IO[bytes]", stream), encoding="utf-8", newline="") as output,
    ):
        writer = csv.writer(output, lineterminator="\n")
        writer.writerow((USER, ITEM, TIME))
        for path, pairs in present.items():
            _copy_valid(path, pairs(path, settings), writer, settings.interactions.max_id_length)
    filesystem.move(f"{target}.tmp", target)
    return settings.paths.futures


def _copy_valid(path: str, pairs: Iterator[tuple[str, str, str]], writer: Writer, max_length: int) -> None:
    accepted = rejected = 0
    try:
        for pair in pairs:
            if _is_valid(pair, max_length):
                writer.writerow(pair)
                accepted += 1
            else:
                rejected += 1
    except (csv.Error, OSError, EOFError) as error:
        raise InputError(f"{path} cannot be read ({error}): deliver it again") from error
    if not accepted:
        raise InputError(f"{path} holds no valid pair ({rejected:,} rejected): is the format that of the README?")
    logger.info("%s: %d pairs, %d rejected", path, accepted, rejected)


def _netflix_pairs(path: str, _settings: Settings) -> Iterator[tuple[str, str, str]]:
    movie = ""
    with readers.open_text(path, "UTF-8") as lines:
        for line in lines:
            text = line.strip()
            if text.endswith(":"):
                movie = text[:-1].strip()
            elif text:
                user, _, time = text.partition(",")
                yield user.strip(), movie, time.strip()


def _csv_pairs(path: str, settings: Settings) -> Iterator[tuple[str, str, str]]:
    names = settings.input.columns
    with readers.open_text(path, settings.input.encoding) as lines:
        records = csv.DictReader(lines, delimiter=settings.input.delimiter, restval="")
        header = records.fieldnames or ()
        mapped = names.user in header and names.item in header
        user, item = (names.user, names.item) if mapped else (USER, ITEM)
        if user not in header or item not in header:
            raise InputError(
                f"{path} needs the columns {names.user!r} and {names.item!r} (as in [input.columns]), or {USER!r} and "
                f"{ITEM!r}. It has: {', '.join(header) or 'no header'}"
            )
        time = names.time if names.time in header else TIME
        for record in records:
            # A line with too many fields is shifted: no field of it can be trusted.
            shifted = None in record
            yield "" if shifted else record[user].strip(), record[item].strip(), record.get(time, "").strip()


def _is_valid(pair: tuple[str, str, str], max_length: int) -> bool:
    user, item, _ = pair
    return all(0 < len(name) <= max_length and not _CONTROL.search(name) for name in (user, item))
