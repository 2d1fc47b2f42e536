"""The split by time, on counts and on a frame."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from shortlist.errors import EmptyInteractionsError, SettingsError
from shortlist.recommender import split
from shortlist.settings import SplitSettings

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

DAY = 86_400


def at(day: int, second: int = 0) -> datetime:
    return datetime.fromtimestamp(day * DAY + second, tz=UTC)


def test_cuts_lie_at_midnight_where_the_shares_are_met_best() -> None:
    counts = [(day * DAY + 40_000, 10) for day in range(20)]
    cuts = split.choose_cuts(counts, SplitSettings(target_share=0.2, test_share=0.1))
    assert cuts == split.Cuts(target_from=at(14), test_from=at(18))


def test_order_of_the_counts_does_not_matter() -> None:
    counts = [(0, 70), (DAY, 10), (2 * DAY, 5), (3 * DAY, 15)]
    assert split.choose_cuts(counts, SplitSettings()) == split.choose_cuts(counts[::-1], SplitSettings())


def test_a_last_day_with_most_interactions_still_leaves_a_day_for_each_window() -> None:
    cuts = split.choose_cuts([(0, 1), (DAY, 1), (2 * DAY, 998)], SplitSettings())
    assert cuts == split.Cuts(target_from=at(1), test_from=at(2))


def test_exact_times_win_over_the_shares() -> None:
    settings = SplitSettings(target_from="1970-01-01T00:00:05", test_from="1970-01-01T00:00:09+00:00")
    assert split.choose_cuts([(0, 1), (5, 1), (9, 1)], settings) == split.Cuts(at(0, 5), at(0, 9))


def test_an_exact_test_cut_leaves_the_target_window_to_its_share() -> None:
    cuts = split.choose_cuts([(day * DAY, 10) for day in range(10)], SplitSettings(test_from="1970-01-06"))
    assert cuts == split.Cuts(target_from=at(4), test_from=at(5))


def test_two_days_are_too_few_and_the_message_says_how_many_there_are() -> None:
    with pytest.raises(EmptyInteractionsError, match=r"100 interactions on 2 day\(s\).*deliver a longer time"):
        split.choose_cuts([(0, 60), (DAY, 40)], SplitSettings())


def test_an_empty_window_is_refused_with_the_figures() -> None:
    settings = SplitSettings(target_from="1970-01-02", test_from="1975-01-01")
    with pytest.raises(EmptyInteractionsError, match=r"history 60, target 40, test 0.*change target_from"):
        split.choose_cuts([(0, 60), (DAY, 40)], settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (SplitSettings(target_from="1970-02-01", test_from="1970-01-05"), "must lie before test_from"),
        (SplitSettings(test_from="yesterday"), "'yesterday' is no time"),
    ],
    ids=["wrong order", "no time"],
)
def test_cuts_that_make_no_sense_are_a_settings_error(settings: SplitSettings, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        split.choose_cuts([(day * DAY, 10) for day in range(10)], settings)


def test_windows_take_each_interaction_once_and_a_cut_belongs_to_the_later_window(spark: SparkSession) -> None:
    moments = [at(0), at(1, -1), at(1), at(2, -1), at(2), at(3)]
    frame = spark.createDataFrame([(moment,) for moment in moments], "time timestamp")
    cuts = split.Cuts(target_from=at(1), test_from=at(2))
    sizes = [part(frame, cuts).count() for part in (split.history, split.target_window, split.held_out_window)]
    assert sizes == [2, 2, 2]


def test_the_report_gives_the_cuts_back() -> None:
    report = {"target_from": "1970-01-02T00:00:00+00:00", "test_from": "1970-01-03T00:00:00+00:00"}
    assert split.Cuts.of_report(report) == split.Cuts(at(1), at(2))
