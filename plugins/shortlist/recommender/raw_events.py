"""What a raw event says: who, what, when, how much; or the reason why it cannot be used.

The reasons are those of `interactions`, whose rules are applied to what comes out of here when models are trained. Only
what no later rule could make good is rejected here.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final
from zoneinfo import ZoneInfo

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shortlist.settings import InteractionSettings, TransformSettings

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
_NUMBER: Final = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_MOMENT: Final = re.compile(
    r"(\d{4})-(\d{1,2})-(\d{1,2})(?:[ T](\d{1,2}):(\d{1,2})(?::(\d{1,2})(?:\.(\d{1,9}))?)?)?"
    r" ?(?:(Z|UTC|GMT)|([+-])(\d{1,2})(?::?(\d{2}))?)?",
    re.ASCII,
)
_TICKS: Final = {"auto": 1_000_000, "epoch_s": 1_000_000, "epoch_ms": 1_000, "epoch_us": 1}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LAST: Final = (datetime(9999, 12, 31, tzinfo=UTC) - _EPOCH) // timedelta(microseconds=1)
_LONGEST_TITLE: Final = 5_000
_UNREADABLE: Final = re.compile("[\ufffd\ud800-\udfff]")


@dataclass(frozen=True)
class RawEvent:
    """One usable event. `time` is in microseconds since 1970, UTC; `weight` is what was written, 1 where nothing is."""

    user: str
    item: str
    time: int
    weight: float
    event: str | None
    title: str | None
    category: str | None
    cancellation: str | None


class Rules:
    """What is looked for in a raw event, prepared once for many."""

    def __init__(self, settings: TransformSettings, interactions: InteractionSettings) -> None:
        """Prepare the rules.

        Args:
            settings: Names of the fields, time zone, format of times.
            interactions: Earliest time, longest id.
        """
        self.columns = settings.columns
        self._zone = ZoneInfo(settings.timezone)
        self._ticks = _TICKS[settings.time_format]
        self._iso = settings.time_format == "auto"
        earliest = datetime.fromisoformat(interactions.earliest)
        earliest = earliest if earliest.tzinfo else earliest.replace(tzinfo=UTC)
        self._earliest = (earliest - _EPOCH) // timedelta(microseconds=1)
        self._longest = interactions.max_id_length

    def read(self, record: Mapping[str, Any] | None) -> RawEvent | str:
        """Return the event of a record, or the reason to reject it. `None`: the record could not even be read.

        Examples:
            >>> from shortlist.settings import InteractionSettings, TransformSettings
            >>> rules = Rules(TransformSettings(), InteractionSettings())
            >>> rules.read({"user_id": "7", "item_id": "022", "time": "2026-01-01T00:00:00Z", "weight": 2}).time
            1767225600000000
            >>> rules.read({"user_id": "7", "item_id": "", "time": "2026-01-01"})
            'missing_item'
        """
        if record is None:
            return "malformed"
        names = self.columns
        user, item = _text(record.get(names.user)), _text(record.get(names.item))
        if reason := self._bad_ids(user, item):
            return reason
        moment = record.get(names.time)
        time = self._time(moment)
        if time is None:
            return "missing_time" if _text(moment) == "" else "bad_time"
        if time < self._earliest:
            return "time_out_of_range"
        weight = _number(record.get(names.weight)) if names.weight else 1.0
        if weight is None:
            return "missing_weight"
        if not math.isfinite(weight):
            return "bad_weight"
        title = _label(record, names.title)
        if title and len(title) > _LONGEST_TITLE:
            return "malformed"
        return RawEvent(
            user=str(user),
            item=str(item),
            time=time,
            weight=weight,
            event=_label(record, names.event),
            title=title,
            category=_label(record, names.category),
            cancellation=_label(record, names.cancellation),
        )

    def _bad_ids(self, user: str | None, item: str | None) -> str | None:
        if user is None or item is None:
            return "malformed"
        if not user or not item:
            return "missing_user" if not user else "missing_item"
        for text in (user, item):
            if _UNREADABLE.search(text):
                return "bad_encoding"
            if _CONTROL.search(text):
                return "control_character"
            if len(text) > self._longest:
                return "id_too_long"
        return None

    def _time(self, value: Any) -> int | None:  # noqa: ANN401 - whatever a file holds
        if isinstance(value, datetime):
            return self._since(value)
        if isinstance(value, date):
            return self._since(datetime(value.year, value.month, value.day))  # noqa: DTZ001 - gets its zone there
        text = _text(value)
        if not text:
            return None
        if _NUMBER.fullmatch(text):
            ticks = float(text) * self._ticks
            return round(ticks) if abs(ticks) <= _LAST else None
        return self._moment(text) if self._iso else None

    def _moment(self, text: str) -> int | None:
        found = _MOMENT.fullmatch(text)
        if not found:
            return None
        year, month, day, hour, minute, second = (int(part or 0) for part in found.groups()[:6])
        fraction, utc, sign, zone_hours, zone_minutes = found.groups()[6:]
        try:
            moment = datetime(year, month, day, hour, minute, second, int((fraction or "0").ljust(6, "0")[:6]))  # noqa: DTZ001
        except ValueError:
            return None
        if utc or sign:
            ahead = timedelta(hours=int(zone_hours or 0), minutes=int(zone_minutes or 0))
            since = (moment.replace(tzinfo=UTC) - _EPOCH) - (ahead if sign == "+" else -ahead)
            return since // timedelta(microseconds=1)
        return self._since(moment)

    def _since(self, moment: datetime) -> int | None:
        try:
            return ((moment if moment.tzinfo else moment.replace(tzinfo=self._zone)) - _EPOCH) // timedelta(
                microseconds=1
            )
        except OverflowError:
            return None


def kind_of(event: str | None, *, cancelled: bool) -> str:
    """Return the kind of an event for charts: what the file calls it, `cancellation` or `interaction`."""
    return event or ("cancellation" if cancelled else "interaction")


def _text(value: Any) -> str | None:  # noqa: ANN401
    """Return an id or time as text, "" where there is none, None where it is nothing of the kind."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, bool | dict | list):
        return None
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else ("" if math.isnan(value) else str(value))
    if isinstance(value, bytes):
        return value.decode(errors="replace").strip()
    return str(value) if isinstance(value, int | Decimal) else None


def _number(value: Any) -> float | None:  # noqa: ANN401
    if isinstance(value, bool | dict | list):
        return math.nan
    if isinstance(value, int | float | Decimal):
        try:
            return float(value)
        except OverflowError:
            return math.inf
    text = _text(value)
    if not text:
        return None
    return float(text) if _NUMBER.fullmatch(text) else math.nan


def _label(record: Mapping[str, Any], name: str | None) -> str | None:
    text = _text(record.get(name)) if name else None
    return _UNREADABLE.sub("\ufffd", _CONTROL.sub(" ", text)).strip() or None if text else None
