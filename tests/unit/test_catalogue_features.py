"""What is said of a catalogue, and its runs in a real MLflow store of files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from shortlist.errors import NothingToDoError, TrackingError
from shortlist.recommender import catalogue_features
from shortlist.settings import PathSettings, Settings
from shortlist.stores.tracking import tracking_uri
from steps.catalogue_tables import log_features
from tests.catalogue_files import item, write_crawl

MUG = item("mug", "White mug", category="kitchen|gift", price=2.0, currency="GBP")
POT = item("pot", "Pot", category="kitchen", price=4.0, currency="GBP", available=False)
BAG = item("bag", "Bag", price=90.0, currency="USD")
PIN = item("pin", None)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(paths=PathSettings(root=str(tmp_path), jobs=str(tmp_path / "jobs")))


@pytest.fixture
def client(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", str(tracking_uri(settings.paths)))
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return MlflowClient()


def log(settings: Settings, tmp_path: Path, *items: dict[str, Any], day: int = 0) -> dict[str, Any]:
    write_crawl(tmp_path / "jobs" / "catalogue", *items, day=day)
    return log_features(settings=settings)


def runs(client: MlflowClient) -> list[Any]:
    experiment = client.get_experiment_by_name("catalogue")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"]))


def test_the_figures_of_a_catalogue() -> None:
    described = catalogue_features.describe([MUG, POT, BAG, PIN])
    assert described.metrics == {
        "items": 4,
        "available_share": 0.75,
        "priced_share": 0.75,
        "other_currency_share": 0.25,
        "categorised_share": 0.5,
        "categories": 2,
        "title_length_mean": 3.75,
        "title_length_p90": pytest.approx(7.2),
        "price_p10": pytest.approx(2.2),
        "price_p25": 2.5,
        "price_p50": 3.0,
        "price_p75": 3.5,
        "price_p90": pytest.approx(3.8),
        "category_price_p10/kitchen": pytest.approx(2.2),
        "category_price_p25/kitchen": 2.5,
        "category_price_p50/kitchen": 3.0,
        "category_price_p75/kitchen": 3.5,
        "category_price_p90/kitchen": pytest.approx(3.8),
        **{f"category_price_p{place}/gift": 2.0 for place in (10, 25, 50, 75, 90)},
    }
    assert described.currency == "GBP"
    assert [(row["category"], row["items"], row["available_share"]) for row in described.table] == [
        ("kitchen", 2, 0.5),
        ("gift", 1, 1.0),
    ]


def test_a_catalogue_without_prices_or_categories_has_no_figures_of_them() -> None:
    described = catalogue_features.describe([PIN])
    assert described.metrics == {
        "items": 1,
        "available_share": 1.0,
        "priced_share": 0.0,
        "other_currency_share": 0.0,
        "categorised_share": 0.0,
        "categories": 0,
        "title_length_mean": 0.0,
        "title_length_p90": 0.0,
    }


def test_each_crawl_is_a_run_with_its_figures_and_what_is_new_since_the_one_before(
    settings: Settings, client: MlflowClient, tmp_path: Path
) -> None:
    odd = item("odd", "Odd", category="../Über & unter: <b>", price=1.0, currency="GBP")
    first = log(settings, tmp_path, MUG, POT, odd)
    second = log(settings, tmp_path, MUG, BAG, day=1)
    assert (first["logged"], second["logged"]) == (True, True)
    assert "new" not in first["metrics"]
    assert (second["metrics"]["new"], second["metrics"]["gone"]) == (1, 2)
    logged = runs(client)
    assert [run.info.run_id for run in logged] == [first["run"], second["run"]]
    assert [run.info.status for run in logged] == ["FINISHED", "FINISHED"]
    assert [run.info.run_name for run in logged] == ["crawl_20261122T000000", "crawl_20261123T000000"]
    assert logged[0].data.metrics == pytest.approx(first["metrics"])
    assert logged[1].data.metrics == pytest.approx(second["metrics"])
    table = json.loads(Path(client.download_artifacts(second["run"], "categories.json", str(tmp_path))).read_bytes())
    assert table["currency"] == "GBP"


def test_a_crawl_is_logged_once_and_an_attempt_that_was_killed_is_replaced(
    settings: Settings, client: MlflowClient, tmp_path: Path
) -> None:
    log(settings, tmp_path, MUG)
    killed = log(settings, tmp_path, MUG, POT, day=1)["run"]
    client.update_run(killed, status="RUNNING")
    again = log_features(settings=settings)
    assert again["logged"] is True
    assert (again["metrics"]["new"], again["metrics"]["gone"]) == (1, 0)
    assert log_features(settings=settings) == {
        "run": again["run"],
        "logged": False,
        "metrics": {name: value for name, value in again["metrics"].items() if name not in ("new", "gone")},
    }
    assert [run.info.run_id for run in runs(client)][1:] == [again["run"]]


def test_mlflow_that_is_away_fails_the_task(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    with pytest.raises(TrackingError, match="MLflow at http://127.0.0.1:1"):
        log(settings, tmp_path, MUG)


def test_without_a_crawl_or_a_place_there_is_nothing_to_do(settings: Settings) -> None:
    with pytest.raises(NothingToDoError, match="items.parquet yet"):
        log_features(settings=settings)
    elsewhere = Settings(paths=PathSettings(root="s3://bucket/shop"))
    with pytest.raises(NothingToDoError, match="MLFLOW_TRACKING_URI is not set"):
        log_features(settings=elsewhere)
