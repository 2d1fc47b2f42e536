"""The reports that trainings leave: what stands in them, that nothing in them is dangerous, and how they are listed."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from matplotlib.image import imread

from shortlist.errors import ModelVersionError
from shortlist.recommender import metrics
from shortlist.recommender.diagnostics import Calibration, Curve, Curves
from shortlist.recommender.evaluation import evaluate_new_users
from shortlist.reports import drift as drift_report
from shortlist.settings import EvaluationSettings, PathSettings, Settings
from shortlist.stores import files, report_files
from steps import report
from steps.tracking import RANKER, RECOMMENDER
from tests.fake_bot_api import TOKEN, FakeBotApi, html_problem

if TYPE_CHECKING:
    from collections.abc import Iterator

VERSION = "version_20260101T040000"
MODELS = ("popular", "similar_to_last", "als")
EVIL = '<script>alert("x")</script>'


def interval(mean: float) -> dict[str, float]:
    return {"mean": mean, "low": mean - 0.01, "high": mean + 0.01}


def metrics_of(*models: str) -> dict[str, Any]:
    """NDCG of 0.1, 0.2, … by model, and every other metric."""
    values = {
        model: {f"{metric}@{k}": interval(place / 10) for metric in metrics.METRICS for k in (5, 10)}
        | {f"coverage@{k}": {"mean": place / 8} for k in (5, 10)}
        for place, model in enumerate(models, start=1)
    }
    headline = {model: {"ndcg@10": value["ndcg@10"]} for model, value in values.items()}
    return {
        "users": 1234,
        "window": {"from": "2025-12-01T00:00:00+00:00", "to": "2025-12-31T00:00:00+00:00"},
        "models": values,
        "segments": {"light": {"users": 700, "models": headline}, "heavy": {"users": 534, "models": headline}},
        "gate": {
            "passed": True,
            "reason": f"passed: against the champion {EVIL}",
            "tolerance": 0.01,
            "champion": EVIL,
            "difference": interval(0.015),
        },
    }


def curves_of(*models: str) -> Curves:
    return Curves(
        precision_recall={model: Curve(precision=(0.3, 0.2), recall=(0.1, 0.2)) for model in models},
        coverage={model: (0.125, 0.375) for model in models},
        popularity={model: tuple(float(place) for place in range(101)) for model in models},
    )


def decision(batch: str, *, retrain: bool, score: float) -> dict[str, Any]:
    """Of `check_retrain`, as far as a training's report shows it."""
    reason = f"because of {EVIL}"
    return {
        "batch": batch, "retrain": retrain, "reason": reason, "score": score, "data_drift": score, "model_drift": 0.25,
    }  # fmt: skip


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(paths=PathSettings(root=str(tmp_path)))


@pytest.fixture
def stage_one(settings: Settings) -> str:
    """An evaluated version, the ETL's report of its data, and two decisions about drift."""
    path = f"{settings.paths.model_versions}/{VERSION}"
    manifest = {
        "version": VERSION,
        "fingerprint": "f1",
        "code": {"commit": "0123456789abcdef", "sha256": "s"},
        "interactions": 98765,
        "users": 4321,
        "items": 432,
    }
    found = metrics_of(*MODELS)
    found["segments"]["new"] = {"users": 17, "models": {model: {"ndcg@10": interval(0.05)} for model in MODELS}}
    files.write_json(f"{path}/manifest.json", manifest)
    files.write_json(f"{path}/metrics.json", found)
    files.write_json(f"{path}/curves.json", asdict(curves_of(*MODELS)))
    etl = {
        "fingerprint": "f1", "read": 100000, "accepted": 98765, "rejected": {"missing_user": 1000, EVIL: 235},
        "tolerated": ["missing_user"],
    }  # fmt: skip
    files.write_json(settings.paths.etl_report, etl)
    files.write_json(f"{settings.paths.drift}/drift_1.json", decision("drift_1", retrain=False, score=0.5))
    files.write_json(f"{settings.paths.drift}/drift_2.json", decision("drift_2", retrain=True, score=7.5))
    return path


@pytest.fixture
def ranker(settings: Settings, stage_one: str) -> str:
    """An evaluated ranker of the candidates that stage one made."""
    path = f"{settings.paths.rankers}/{VERSION}"
    manifest = {
        "version": VERSION,
        "fingerprint": "of the file of candidates",
        "code": {"commit": "0123456789abcdef", "sha256": "s"},
        "model_version": VERSION,
        "parameters": {"negatives": 50},
    }
    found = metrics_of(*MODELS, "ranker")
    found |= {
        "window": {"from": "2025-12-01T00:00:00", "to": None},
        "difference": {"als": interval(0.1), "the champion": interval(-0.002)},
        "importance": {f"feature_{place}": 100 / 2**place for place in range(1, 16)},
        "gate": {"passed": False, "reason": "refused: against the champion", "tolerance": 0.01},
    }
    calibrated = {"calibration": asdict(Calibration(predicted=(0.1, 0.5), observed=(0.125, 0.25)))}
    files.write_json(f"{path}/manifest.json", manifest)
    files.write_json(f"{path}/metrics.json", found)
    files.write_json(f"{path}/curves.json", asdict(curves_of(*MODELS, "ranker")) | calibrated)
    return path


class Page(HTMLParser):
    """What a reader sees: the cells of the tables, row by row, the plots, and every tag and address."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.plots: list[str] = []
        self.tags: set[str] = set()
        self.addresses: list[str] = []
        self.text = ""
        self._in_cell = False
        self.feed(content)
        self.text = re.sub(r"\s+", " ", self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        values = dict(attrs)
        self.addresses += [str(value) for name, value in attrs if name in {"href", "src", "xlink:href", "action"}]
        if tag == "svg":
            self.plots.append(str(values["aria-label"]))
        if tag == "tr":
            self.rows.append([])
        if tag in {"td", "th"}:
            self._in_cell = True
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in {"td", "th"}:
            self._in_cell = False

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._in_cell:
            self.rows[-1][-1] = " ".join(f"{self.rows[-1][-1]} {data}".split())


def page_of(written: report.Report) -> Page:
    return Page(Path(written.page).read_text(encoding="utf-8"))


def test_the_report_of_a_training_says_how_good_it_is_against_what_and_for_whom(
    settings: Settings, stage_one: str
) -> None:
    written = report.write_report(settings=settings, model=RECOMMENDER, path=stage_one)

    assert written.page == f"{settings.paths.reports}/training_{VERSION}/index.html"
    assert written.headline == (
        "NDCG@10 0.300 (0.290 to 0.310) by ALS, best baseline similar to last 0.200; the gate passed"
    )
    page = page_of(written)
    assert written.headline in page.text
    assert "98,765 interactions of 4,321 users with 432 items" in page.text
    assert "from 2025-12-01 to 2025-12-31, 1,234 users" in page.text
    rows = page.rows
    assert ["at 10", "NDCG", "recall", "MAP", "precision", "hit rate", "coverage"] in rows
    assert ["ALS", *["0.300 0.290 to 0.310"] * 5, "0.375"] in rows
    assert ["hit rate@5", "0.100 0.090 to 0.110", "0.200 0.190 to 0.210", "0.300 0.290 to 0.310"] in rows
    assert [f"the champion {EVIL}", "+0.0150", "+0.0050 to +0.0250"] in rows
    assert ["NDCG@10", "new", "light", "heavy"] in rows
    assert ["users", "17", "700", "534"] in rows
    assert ["popular", "0.050 0.040 to 0.060", "0.100 0.090 to 0.110", "0.100 0.090 to 0.110"] in rows
    assert ["ALS", "0.375", "50"] in rows  # coverage of the whole list, median of the popularity


def test_the_report_shows_drift_newest_first_and_every_row_of_the_input(settings: Settings, stage_one: str) -> None:
    rows = page_of(report.write_report(settings=settings, model=RECOMMENDER, path=stage_one)).rows

    newest = rows.index([f"drift_2 because of {EVIL}", "7.50", "0.25", "yes"])
    assert rows[newest + 1] == [f"drift_1 because of {EVIL}", "0.50", "0.25", "no"]
    accepted = rows.index(["accepted", "98,765"])
    assert rows[accepted + 1 : accepted + 4] == [
        ["rejected: missing_user tolerated", "1,000"],
        [f"rejected: {EVIL}", "235"],
        ["read", "100,000"],
    ]


def test_rows_of_other_data_are_not_shown_as_those_of_the_training(settings: Settings, stage_one: str) -> None:
    etl = files.read_json(settings.paths.etl_report)
    files.write_json(settings.paths.etl_report, etl | {"fingerprint": "f2"})

    page = page_of(report.write_report(settings=settings, model=RECOMMENDER, path=stage_one))

    assert "98,765 interactions" in page.text
    assert "have been replaced since" in page.text
    assert ["accepted", "98,765"] not in page.rows


def test_the_seconds_stand_in_the_order_in_which_the_tasks_began(settings: Settings, stage_one: str) -> None:
    timings = {
        "task": "export",
        "started": "2026-01-01T00:05:00+00:00",
        "done": [
            {"task": "train", "started": "2026-01-01T00:01:00+00:00", "seconds": 120.25},
            None,
            {"task": "etl", "started": "2026-01-01T00:00:00+00:00", "seconds": 60.5},
        ],
    }
    told = report.write_report(settings=settings, model=RECOMMENDER, path=stage_one, timings=json.dumps(timings))
    page = page_of(told)

    first = page.rows.index(["etl", "60.5"])
    assert page.rows[first + 1] == ["train", "120.2"]
    assert page.rows[first + 2][0] == "export until this page was written"
    assert "Seconds of each task" in page.plots
    assert (
        "Seconds of each task"
        not in page_of(report.write_report(settings=settings, model=RECOMMENDER, path=stage_one)).plots
    )


def test_the_report_of_a_ranker_adds_importance_and_calibration_and_what_stage_one_knows_of_new_users(
    settings: Settings, ranker: str
) -> None:
    written = report.write_report(settings=settings, model=RANKER, path=ranker)

    assert written.page == f"{settings.paths.reports}/ranker_{VERSION}/index.html"
    assert written.headline == (
        "NDCG@10 0.400 (0.390 to 0.410) by ALS + CatBoost, best baseline ALS 0.300; the gate refused"
    )
    page = page_of(written)
    assert "The champion and what is served stay." in page.text
    assert ["feature_1", "50.00"] in page.rows
    assert ["feature_15", "0.00"] in page.rows
    assert "The other 3" in page.text
    assert ["0.500", "0.250"] in page.rows  # promised, taken
    assert ["ALS", "+0.1000", "+0.0900 to +0.1100"] in page.rows
    assert ["the champion", "-0.0020", "-0.0120 to +0.0080"] in page.rows
    assert ["users", "17", "700", "534"] in page.rows
    assert ["accepted", "98,765"] in page.rows  # of the data of stage one
    assert page.plots == [
        "NDCG at k = 5, 10", "recall at k = 5, 10", "MAP at k = 5, 10", "precision at k = 5, 10",
        "hit rate at k = 5, 10", "Difference in NDCG@10 from each rival", "NDCG@10 by segment of users",
        "Coverage by length of the list", "Popularity of what is recommended", "Precision and recall",
        "Importance of the features", "Calibration of the ranker", "Drift scores of the last runs",
        "Rows accepted and rejected",
    ]  # fmt: skip


def test_new_users_of_another_window_are_left_out(settings: Settings, ranker: str) -> None:
    found = files.read_json(f"{ranker}/metrics.json")
    files.write_json(f"{ranker}/metrics.json", found | {"window": {"from": "2025-12-08T00:00:00", "to": None}})

    assert ["users", "700", "534"] in page_of(report.write_report(settings=settings, model=RANKER, path=ranker)).rows


def test_candidates_made_elsewhere_make_a_report_without_what_is_not_known(settings: Settings, ranker: str) -> None:
    manifest = files.read_json(f"{ranker}/manifest.json")
    files.write_json(f"{ranker}/manifest.json", manifest | {"model_version": None})
    files.remove(f"{ranker}/curves.json")
    files.remove(settings.paths.drift)
    files.remove(settings.paths.etl_report)

    page = page_of(report.write_report(settings=settings, model=RANKER, path=ranker))

    assert "No new feedback has been compared yet." in page.text
    assert page.plots[6:] == ["NDCG@10 by segment of users", "Importance of the features"]


def test_what_became_of_the_version_is_told_in_place_of_what_was_written_before(
    settings: Settings, stage_one: str
) -> None:
    before = page_of(report.write_report(settings=settings, model=RECOMMENDER, path=stage_one))
    after = report.write_report(settings=settings, model=RECOMMENDER, path=stage_one, outcome="It is the champion.")

    assert "had not been handed over when this was written" in before.text
    assert "It is the champion." in page_of(after).text
    assert "had not been handed over" not in page_of(after).text


def test_a_report_needs_nothing_from_elsewhere_and_runs_nothing(settings: Settings, ranker: str) -> None:
    for model, path in ((RECOMMENDER, f"{settings.paths.model_versions}/{VERSION}"), (RANKER, ranker)):
        written = report.write_report(settings=settings, model=model, path=path)
        content = Path(written.page).read_text(encoding="utf-8")
        page = Page(content)

        assert not {"script", "link", "iframe", "img", "object", "form"} & page.tags
        assert "http" not in content
        assert not re.search(r"url\((?!#)|@import|javascript:| on\w+=", content)
        assert all(address.startswith("#") for address in page.addresses)
        assert content.count("&lt;script&gt;") > 3


def test_two_plots_of_a_page_share_no_id_that_is_referred_to_and_a_page_is_the_same_each_time(
    settings: Settings, stage_one: str
) -> None:
    def written() -> str:
        return Path(report.write_report(settings=settings, model=RECOMMENDER, path=stage_one).page).read_text()

    content = written()
    plots = content.split("<svg")[1:]
    assert len(plots) > 8
    referred = [set(re.findall(r"(?:href=\"|url\()#([^\")]+)", plot)) for plot in plots]
    for number, names in enumerate(referred):
        assert names
        assert all(f'id="{name}"' in plots[number] for name in names)
        assert not names & {name for other in referred[:number] for name in other}
    assert written() == content


def test_numbers_that_cannot_be_drawn_hold_no_model_back(
    settings: Settings, stage_one: str, caplog: pytest.LogCaptureFixture
) -> None:
    found = files.read_json(f"{stage_one}/metrics.json")
    del found["models"]["als"]["ndcg@10"]["low"]
    files.write_json(f"{stage_one}/metrics.json", found)

    assert report.leave_report(settings=settings, model=RECOMMENDER, path=stage_one) is None
    report.tell(None)

    (record,) = [record for record in caplog.records if record.name == "steps.report"]
    assert record.getMessage() == f"there is no report of {stage_one}: KeyError: 'low'"


def test_the_picture_is_one(settings: Settings, stage_one: str) -> None:
    written = report.write_report(settings=settings, model=RECOMMENDER, path=stage_one)
    place = Path(written.page).with_name("quality.png")
    assert place.read_bytes() == written.picture
    drawn = imread(str(place))
    assert drawn.shape[1] == 1080
    assert drawn.min() < drawn.max()


@pytest.fixture
def chat(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeBotApi]:
    with FakeBotApi() as api:
        monkeypatch.setenv("TELEGRAM_TOKEN", TOKEN)
        monkeypatch.setenv("TELEGRAM_CHAT_ID", "-1001")
        monkeypatch.setenv("TELEGRAM_API", api.url)
        yield api


def test_telegram_gets_the_headline_with_the_picture(settings: Settings, stage_one: str, chat: FakeBotApi) -> None:
    written = report.write_report(settings=settings, model=RECOMMENDER, path=stage_one)
    report.tell(written)

    (message,) = chat.messages
    assert message["photo"] == written.picture
    assert message["caption"] == f"📊 <b>Training {VERSION}</b>\n{written.headline}\n{written.page}"
    assert html_problem(message["caption"]) is None


def test_users_whom_no_model_has_met_are_judged_by_the_popular_items() -> None:
    found = evaluate_new_users([[3], [9], [3, 4]], [3, 4, 5], EvaluationSettings(bootstrap_samples=100))
    assert found["users"] == 3
    assert set(found["models"]) == set(MODELS)
    assert found["models"]["als"]["ndcg@10"]["mean"] == pytest.approx(np.mean([1, 0, 1]))


def test_reports_are_listed_newest_first_each_with_its_card(tmp_path: Path) -> None:
    folder = str(tmp_path)
    for name, kind in (
        ("drift_20260102T000000", report_files.DRIFT),
        ("training_version_20260103T040506", report_files.TRAINING),
        ("ranker_version_20251231T235959", report_files.RANKER),
    ):
        place = report_files.write_report(folder, name, kind=kind, headline=f"{EVIL} of {name}", page="<p>page")
        assert Path(place).read_text() == "<p>page"

    training, drift, ranker_card = report_files.list_reports(folder, 3)
    assert training == {
        "name": "training_version_20260103T040506",
        "kind": "training",
        "time": "2026-01-03T04:05:06+00:00",
        "headline": f"{EVIL} of training_version_20260103T040506",
    }
    assert json.loads((tmp_path / drift["name"] / "report.json").read_text()) == drift
    assert ranker_card["time"] == "2025-12-31T23:59:59+00:00"
    assert report_files.list_reports(folder, 2) == [training, drift]


def test_a_name_that_tells_no_time_is_of_the_time_of_writing(tmp_path: Path) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    report_files.write_report(str(tmp_path), "drift_20260300T000000", kind="drift", headline="h", page="p")
    (card,) = report_files.list_reports(str(tmp_path), 1)
    assert before <= datetime.fromisoformat(card["time"]) <= datetime.now(UTC)


def test_half_a_report_a_damaged_one_and_other_folders_are_not_listed(tmp_path: Path) -> None:
    assert report_files.list_reports(f"{tmp_path}/nothing", 9) == []
    for name, card in (
        ("drift_20260101T000000", "{"),
        ("drift_20260102T000000", '{"name": "drift_20260102T000000"}'),
        ("drift_20260103T000000", '["drift"]'),
        ("drift_20260104T000000", '{"name": "../x", "kind": "drift", "time": "t", "headline": "h"}'),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(card)
    (tmp_path / "20260105T000000").mkdir()  # of the demo
    (tmp_path / "notes.txt").write_text("mine")

    assert report_files.list_reports(str(tmp_path), 9) == []


def test_the_card_of_a_drift_report_says_what_was_decided() -> None:
    assert drift_report.headline(decision("drift_1", retrain=True, score=2.0)) == f"Retraining: because of {EVIL}"
    assert drift_report.headline(decision("drift_1", retrain=False, score=0.1)).startswith("No retraining: ")


def test_a_report_of_a_version_that_is_not_complete_is_a_named_error(settings: Settings) -> None:
    with pytest.raises(ModelVersionError, match="is no complete model version"):
        report.write_report(settings=settings, model=RANKER, path=f"{settings.paths.rankers}/{VERSION}")
    assert not files.exists(settings.paths.reports)
