"""The split by time: history | target window | test window. Nothing before a cut ever learns from behind it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from shortlist.columns import TIME
from shortlist.errors import EmptyInteractionsError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pyspark.sql import DataFrame

    from shortlist.settings import SplitSettings

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Cuts:
    """The first moments of the target and the test window, UTC."""

    target_from: datetime
    test_from: datetime

    @classmethod
    def of_report(cls, report: Mapping[str, str]) -> Cuts:
        """Read the cuts from the report of `spark_etl`."""
        return cls(_moment(report["target_from"]), _moment(report["test_from"]))


def choose_cuts(per_day: Mapping[int, int], settings: SplitSettings) -> Cuts:
    """Place the cuts at midnight UTC, where the windows come closest to their shares.

    Args:
        per_day: Interactions by day, counted from 1970-01-01.
        settings: Shares, or exact times, which win.

    Raises:
        EmptyInteractionsError: If there are too few days for three windows.

    Example:
        >>> from shortlist.settings import SplitSettings
        >>> ten_days = {day: 100 for day in range(10)}
        >>> choose_cuts(ten_days, SplitSettings(target_share=0.2, test_share=0.1)).target_from.isoformat()
        '1970-01-08T00:00:00+00:00'
    """
    total = sum(per_day.values())
    if settings.test_from:
        test_from = _moment(settings.test_from)
    else:
        # Two days stay in front of it, for the history and for the target window.
        test_from = _cut(per_day, sorted(per_day)[2:], settings.test_share * total, total)
    if settings.target_from:
        target_from = _moment(settings.target_from)
    else:
        before = {day: count for day, count in per_day.items() if _midnight(day) < test_from}
        target_from = _cut(before, sorted(before)[1:], settings.target_share * total, total)
    if target_from >= test_from:
        raise SettingsError(
            f"[split].target_from = {target_from.isoformat()} must lie before test_from = {test_from.isoformat()}"
        )
    return Cuts(target_from, test_from)


def history(interactions: DataFrame, cuts: Cuts) -> DataFrame:
    """Return what lies before the target window."""
    return window(interactions, before=cuts.target_from)


def target_window(interactions: DataFrame, cuts: Cuts) -> DataFrame:
    """Return the target window, where the ranker's labels come from."""
    return window(interactions, start=cuts.target_from, before=cuts.test_from)


def test_window(interactions: DataFrame, cuts: Cuts) -> DataFrame:
    """Return the test window, which only the evaluation sees."""
    return window(interactions, start=cuts.test_from)


def window(interactions: DataFrame, *, start: datetime | None = None, before: datetime | None = None) -> DataFrame:
    """Return the interactions from `start` (inclusive) to `before` (exclusive)."""
    from pyspark.sql import functions as F

    if start is not None:
        interactions = interactions.where(F.col(TIME) >= F.lit(start))
    if before is not None:
        interactions = interactions.where(F.col(TIME) < F.lit(before))
    return interactions


def check_windows(counts: Mapping[str, int], cuts: Cuts) -> None:
    """Refuse a split with an empty side.

    Args:
        counts: Interactions of `history`, `target` and `test`.
        cuts: Where they were cut.

    Raises:
        EmptyInteractionsError: With the figures and what to change.
    """
    if not all(counts.values()):
        figures = ", ".join(f"{name} {count:,}" for name, count in counts.items())
        raise EmptyInteractionsError(
            f"one side of the time split is empty ({figures}; target window from {cuts.target_from.isoformat()}, test "
            f"window from {cuts.test_from.isoformat()}): change target_from and test_from in [split], or leave them out"
        )


def _cut(per_day: Mapping[int, int], allowed: Sequence[int], wanted: float, total: int) -> datetime:
    if not allowed:
        raise EmptyInteractionsError(
            f"{total:,} interactions on {len(per_day)} day(s) are too few days for history, target and test window: "
            "deliver a longer time, or set target_from and test_from in [split]"
        )
    behind, best = 0, (float("inf"), 0)
    first_allowed = allowed[0]
    for day in sorted(per_day, reverse=True):
        behind += per_day[day]
        if day >= first_allowed:
            best = min(best, (abs(behind - wanted), -day))
    return _midnight(-best[1])


def _midnight(day: int) -> datetime:
    return _EPOCH + timedelta(days=day)


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise SettingsError(f"[split]: {text!r} is no time such as 2026-11-01T00:00:00") from None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
