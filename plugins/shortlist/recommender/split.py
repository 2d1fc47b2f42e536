"""The split by time: history | target window | test window. Nothing before a cut ever learns from behind it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from shortlist.columns import TIME
from shortlist.errors import EmptyInteractionsError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pyspark.sql import DataFrame

    from shortlist.settings import SplitSettings

_DAY = 86_400


@dataclass(frozen=True)
class Cuts:
    """The first moments of the target and the test window, UTC."""

    target_from: datetime
    test_from: datetime

    @classmethod
    def of_report(cls, report: Mapping[str, str]) -> Cuts:
        """Read the cuts from the report of `spark_etl`."""
        return cls(_moment(report["target_from"]), _moment(report["test_from"]))


def exact_times(settings: SplitSettings) -> list[datetime]:
    """Return the cuts that the settings name."""
    return [_moment(text) for text in (settings.target_from, settings.test_from) if text]


def choose_cuts(counts: Sequence[tuple[int, int]], settings: SplitSettings) -> Cuts:
    """Place the cuts at midnight UTC, where the windows come closest to their shares of the interactions.

    Args:
        counts: Interactions by day, each with its first second since 1970; a day with an exact cut comes in parts.
        settings: Shares, or exact times, which win.

    Raises:
        EmptyInteractionsError: If there are too few days for three windows, or one window is empty.
        SettingsError: If the exact times are no times or in the wrong order.

    Example:
        >>> from shortlist.settings import SplitSettings
        >>> ten_days = [(day * 86_400, 100) for day in range(10)]
        >>> cuts = choose_cuts(ten_days, SplitSettings(target_share=0.2, test_share=0.1))
        >>> cuts.target_from.isoformat(), cuts.test_from.isoformat()
        ('1970-01-08T00:00:00+00:00', '1970-01-10T00:00:00+00:00')
    """
    total = sum(count for _, count in counts)
    # Days stay free in front of each cut: one for the history, one for the target window.
    test_from = (
        _moment(settings.test_from) if settings.test_from else _cut(counts, settings.test_share * total, free_days=2)
    )
    before = [pair for pair in counts if pair[0] < test_from.timestamp()]
    target_from = (
        _moment(settings.target_from)
        if settings.target_from
        else _cut(before, settings.target_share * total, free_days=1)
    )
    if target_from >= test_from:
        raise SettingsError(
            f"[split].target_from = {target_from.isoformat()} must lie before test_from = {test_from.isoformat()}"
        )
    cuts = Cuts(target_from, test_from)
    _check_windows(counts, cuts)
    return cuts


def history(interactions: DataFrame, cuts: Cuts) -> DataFrame:
    """Return what lies before the target window."""
    return window(interactions, before=cuts.target_from)


def target_window(interactions: DataFrame, cuts: Cuts) -> DataFrame:
    """Return the target window, where the ranker's labels come from."""
    return window(interactions, start=cuts.target_from, before=cuts.test_from)


def held_out_window(interactions: DataFrame, cuts: Cuts) -> DataFrame:
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


def _check_windows(counts: Sequence[tuple[int, int]], cuts: Cuts) -> None:
    target, test = cuts.target_from.timestamp(), cuts.test_from.timestamp()
    sizes = {
        "history": sum(count for first, count in counts if first < target),
        "target": sum(count for first, count in counts if target <= first < test),
        "test": sum(count for first, count in counts if first >= test),
    }
    if not all(sizes.values()):
        figures = ", ".join(f"{name} {size:,}" for name, size in sizes.items())
        raise EmptyInteractionsError(
            f"one side of the time split is empty ({figures}; target window from {cuts.target_from.isoformat()}, test "
            f"window from {cuts.test_from.isoformat()}): change target_from and test_from in [split], or leave them out"
        )


def _cut(counts: Sequence[tuple[int, int]], wanted: float, *, free_days: int) -> datetime:
    per_day: dict[int, int] = {}
    for first, count in counts:
        per_day[first // _DAY] = per_day.get(first // _DAY, 0) + count
    days = sorted(per_day)
    if len(days) <= free_days:
        raise EmptyInteractionsError(
            f"{sum(per_day.values()):,} interactions on {len(days)} day(s) are too few days for a history, a target "
            "and a test window: deliver a longer time, or set target_from and test_from in [split]"
        )
    behind, best = 0, (float("inf"), 0)
    for day in reversed(days[free_days:]):
        behind += per_day[day]
        best = min(best, (abs(behind - wanted), day), key=lambda pair: pair[0])
    return datetime.fromtimestamp(best[1] * _DAY, tz=UTC)


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise SettingsError(f"[split]: {text!r} is no time such as 2026-11-01T00:00:00") from None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
