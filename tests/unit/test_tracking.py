"""Trainings in MLflow: a real local store, and servers that are away, silent or broken (real sockets)."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from mlflow import MlflowClient

from shortlist.recommender import ranking
from shortlist.recommender.ranking import LabelledCandidates
from shortlist.settings import PathSettings, RankerSettings, Settings
from shortlist.stores import model_versions
from shortlist.stores.tracking import tracking_uri
from steps import tracking
from steps.tracking import RANKER, RECOMMENDER, follow_champion, log_training, promote

if TYPE_CHECKING:
    from collections.abc import Iterator

FIRST, SECOND = "version_20260101T000000", "version_20260108T000000"
FEATURES = ("als_score", "als_rank")
INTERVAL = {"mean": 0.2, "low": 0.1, "high": 0.3}
METRICS = {
    "users": 7,
    "window": {"from": "2026-01-01", "to": "2026-01-08"},
    "models": {"als": {"ndcg@10": INTERVAL, "coverage@10": {"mean": 0.5}}},
    "gate": {"passed": True, "reason": "passed: against the champion", "difference": INTERVAL},
    "segments": {"light": {"users": 4, "models": {"als": {"ndcg@10": INTERVAL}}}},
}
RANKER_METRICS = {
    "users": 7,
    "window": {"from": None, "to": None},
    "models": {"ranker": {"ndcg@10": INTERVAL}},
    "difference": {"popular": INTERVAL},
    "gate": {"passed": True, "reason": "passed: against popular", "tolerance": 0.01},
}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(paths=PathSettings(root=str(tmp_path)))


@pytest.fixture
def client(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    uri = tracking_uri(settings.paths)
    assert uri == f"file://{settings.paths.root}/models/mlflow"
    # The store of files makes further clients, of what the environment names.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return MlflowClient()


def recommender(settings: Settings, version: str = FIRST) -> str:
    """An evaluated stage-one version."""
    folder = settings.paths.model_versions
    model_versions.begin(folder, version)
    manifest = {
        "fingerprint": "f1",
        "parameters": {"als": {"rank": 8}, "interactions": {"event_weights": {"view": 1.0}, "tolerated": ["old"]}},
    }
    path = model_versions.complete(folder, version, manifest)
    Path(path, "metrics.json").write_text(json.dumps(METRICS))
    tracking.save_plots(path, {"popularity": b"png"})
    return path


def ranker(settings: Settings, version: str = FIRST) -> str:
    """An evaluated ranker, of two features."""
    generator = np.random.default_rng(7)
    score = generator.random(80).astype(np.float32)
    data = LabelledCandidates(
        group=np.repeat(np.arange(20), 4),
        features=np.column_stack([score, np.argsort(np.argsort(-score)) + 1.0]).astype(np.float32),
        target=(score > 0.7).astype(np.int64),
        names=FEATURES,
    )
    model = ranking.fit(data, RankerSettings(iterations=5))
    manifest = {"fingerprint": "f1", "parameters": {"depth": 6, "loss": "Logloss"}, "features": list(FEATURES)}
    path = model_versions.save_ranker(settings.paths.rankers, version, {model_versions.SERVED: model}, manifest)
    Path(path, "metrics.json").write_text(json.dumps(RANKER_METRICS))
    return path


def test_a_training_is_logged_with_parameters_metrics_plots_and_where_it_comes_from(
    settings: Settings, client: MlflowClient
) -> None:
    path = recommender(settings)
    log_training(settings=settings, model=RECOMMENDER, path=path)

    experiment = client.get_experiment_by_name("shortlist-recommender")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == (FIRST, "FINISHED")
    assert run.data.params == {
        "als.rank": "8",
        "interactions.event_weights.view": "1.0",
        "interactions.tolerated": '["old"]',
    }
    assert run.data.metrics == {
        "users": 7.0,
        "ndcg_10/als": 0.2,
        "ndcg_10/als.low": 0.1,
        "ndcg_10/als.high": 0.3,
        "coverage_10/als": 0.5,
        "users.light": 4.0,
        "ndcg_10.light/als": 0.2,
        "ndcg_10.light/als.low": 0.1,
        "ndcg_10.light/als.high": 0.3,
        "gate.passed": 1.0,
        "ndcg_10.difference/champion": 0.2,
        "ndcg_10.difference/champion.low": 0.1,
        "ndcg_10.difference/champion.high": 0.3,
    }
    code = model_versions.read_manifest(path)["code"]
    assert {name: value for name, value in run.data.tags.items() if not name.startswith("mlflow.")} == {
        "version": FIRST,
        "data_fingerprint": "f1",
        "code_commit": code["commit"],
        "code_sha256": code["sha256"],
        "window_from": "2026-01-01",
        "window_to": "2026-01-08",
    }
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {
        "manifest.json", "metrics.json", "model", "plots",
    }  # fmt: skip
    assert [file.path for file in client.list_artifacts(run.info.run_id, "plots")] == ["plots/popularity.png"]


def test_the_report_is_logged_beside_the_plots(settings: Settings, client: MlflowClient) -> None:
    path = recommender(settings)
    page = Path(settings.paths.reports, f"training_{FIRST}", "index.html")
    page.parent.mkdir(parents=True)
    page.write_text("<h1>Training</h1>")
    log_training(settings=settings, model=RECOMMENDER, path=path)

    (run,) = client.search_runs([str(client.get_experiment_by_name("shortlist-recommender").experiment_id)])  # type: ignore[union-attr]
    assert [file.path for file in client.list_artifacts(run.info.run_id, "report")] == ["report/index.html"]
    artifacts = Path(str(run.info.artifact_uri).removeprefix("file://"))
    assert (artifacts / "report/index.html").read_text() == "<h1>Training</h1>"


def test_stage_one_is_registered_with_its_signature_and_where_it_lies_not_with_its_factors(
    settings: Settings, client: MlflowClient
) -> None:
    path = recommender(settings)
    log_training(settings=settings, model=RECOMMENDER, path=path)

    challenger = client.get_model_version_by_alias("shortlist-recommender", "challenger")
    assert challenger.tags == {"version": FIRST, "location": path}
    assert challenger.description == (
        "NDCG@10 0.2000 [0.1000, 0.3000] on 7 held-out users; gate passed: against the champion"
    )
    model = Path(str(challenger.source).removeprefix("file://"))
    assert [file.name for file in model.iterdir()] == ["MLmodel"]
    assert '"name": "user_id"' in (model / "MLmodel").read_text()


def test_a_logged_ranker_scores_as_the_pipeline_does_where_the_project_is_not_installed(
    settings: Settings, client: MlflowClient, tmp_path: Path
) -> None:
    """The first row has no rank: fed to CatBoost as it is, that would be the best rank of all."""
    path = ranker(settings)
    log_training(settings=settings, model=RANKER, path=path)

    challenger = client.get_model_version_by_alias("shortlist-ranker", "challenger")
    assert challenger.description == (
        "NDCG@10 0.2000 [0.1000, 0.3000] on 7 held-out users; gate passed: against popular"
    )
    script = (
        "import json, sys, pandas, mlflow.pyfunc\n"
        "model = mlflow.pyfunc.load_model(sys.argv[1])\n"
        "rows = pandas.DataFrame({'als_score': [0.5, 0.5], 'als_rank': [None, 1.0]}, dtype='float32')\n"
        "names = model.metadata.signature.inputs.input_names()\n"
        "print(json.dumps([names, [float(score) for score in model.predict(rows)]]))\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", script, str(challenger.source)],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    rows = np.array([[0.5, np.nan], [0.5, 1.0]], np.float32)
    assert done.returncode == 0, done.stderr
    expected = ranking.predict(model_versions.load_ranker(path, model_versions.SERVED), rows, FEATURES)
    assert expected[0] < expected[1]
    assert json.loads(done.stdout) == [list(FEATURES), expected.tolist()]


def test_a_retry_replaces_what_an_earlier_attempt_logged(settings: Settings, client: MlflowClient) -> None:
    path = recommender(settings)
    for _ in range(2):
        log_training(settings=settings, model=RECOMMENDER, path=path)
    log_training(settings=settings, model=RECOMMENDER, path=recommender(settings, SECOND))

    experiment = client.get_experiment_by_name("shortlist-recommender")
    assert experiment is not None
    assert sorted(run.info.run_name for run in client.search_runs([experiment.experiment_id])) == [FIRST, SECOND]
    registered = client.search_model_versions("name = 'shortlist-recommender'")
    assert sorted(version.tags["version"] for version in registered) == [FIRST, SECOND]
    assert client.get_model_version_by_alias("shortlist-recommender", "challenger").tags["version"] == SECOND


def test_a_champion_that_is_evaluated_again_stays_champion(settings: Settings, client: MlflowClient) -> None:
    path = recommender(settings)
    log_training(settings=settings, model=RECOMMENDER, path=path)
    promote(settings=settings, model=RECOMMENDER, version=FIRST, reason="first")
    log_training(settings=settings, model=RECOMMENDER, path=path)

    champion = client.get_model_version_by_alias("shortlist-recommender", "champion")
    assert champion.tags["champion_reason"] == "first"
    assert list(client.get_registered_model("shortlist-recommender").aliases) == ["champion"]


def test_the_alias_follows_the_pointer_there_and_back(settings: Settings, client: MlflowClient) -> None:
    for version in (FIRST, SECOND):
        log_training(settings=settings, model=RANKER, path=ranker(settings, version))
        promote(settings=settings, model=RANKER, version=version, reason=f"passed the gate, {version}")

    champion = client.get_model_version_by_alias("shortlist-ranker", "champion")
    assert champion.tags["version"] == SECOND
    assert champion.tags["champion_reason"] == f"passed the gate, {SECOND}"
    assert set(client.get_registered_model("shortlist-ranker").aliases) == {"champion"}

    model_versions.roll_back(settings.paths.rankers)
    assert follow_champion(settings=settings, model=RANKER)
    assert client.get_model_version_by_alias("shortlist-ranker", "champion").tags["version"] == FIRST


def test_a_champion_from_the_time_when_mlflow_was_away_is_one_line_in_the_log(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    recommender(settings)
    promote(settings=settings, model=RECOMMENDER, version=FIRST, reason="first")

    champion = model_versions.champion(settings.paths.model_versions)
    assert champion is not None
    assert champion.version == FIRST
    (record,) = [record for record in caplog.records if record.name == "steps.tracking"]
    assert f"{FIRST} is not registered as shortlist-recommender" in record.getMessage()


@contextmanager
def silent_server() -> Iterator[str]:
    """Takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@contextmanager
def dead_server() -> Iterator[str]:
    """A port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{probe.getsockname()[1]}"


@contextmanager
def broken_server() -> Iterator[str]:
    """Answers everything with 500."""

    class Broken(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(500)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Broken)
    threading.Thread(target=server.serve_forever).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("server", [dead_server, silent_server, broken_server])
def test_without_mlflow_the_training_goes_on_after_one_warning(
    server: object, settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = ranker(settings)
    with server() as url:  # type: ignore[operator]
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        before = dict(os.environ)
        started = time.monotonic()
        log_training(settings=settings, model=RANKER, path=path)
        assert time.monotonic() - started < 10
        promote(settings=settings, model=RANKER, version=FIRST, reason="passed the gate")

    first, second = [record for record in caplog.records if record.name.startswith(("steps", "shortlist"))]
    assert (first.levelno, second.levelno) == (logging.WARNING, logging.WARNING)
    assert f"{path} is not logged: MLflow at {url}" in first.getMessage()
    assert f"MLflow does not know that {FIRST} is the champion" in second.getMessage()
    champion = model_versions.champion(settings.paths.rankers)
    assert champion is not None
    assert champion.version == FIRST
    assert dict(os.environ) == before
    assert not Path(settings.paths.experiments).exists()


def test_the_warning_does_not_tell_the_password(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with dead_server() as url:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url.replace("http://", "http://me:secret-word@"))
        log_training(settings=settings, model=RECOMMENDER, path=recommender(settings))
    assert "is not logged" in caplog.text
    assert "secret-word" not in caplog.text


def test_there_is_no_local_store_on_object_storage(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = PathSettings(root="s3://bucket/shop")
    assert tracking_uri(paths) is None
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert tracking_uri(paths) == "http://mlflow:5000"
