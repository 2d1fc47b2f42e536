"""A ranker trained, evaluated and logged on candidates made elsewhere, which say little of the items."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from shortlist.errors import GateRefusedError, ModelVersionError
from shortlist.settings import EvaluationSettings, GateSettings, RankerSettings
from shortlist.stores import files, model_versions, report_files
from steps.ranked_data import check_gate, evaluate_ranker, publish_ranked, rank_candidates, train_ranker
from tests.shop import WEEK_1

if TYPE_CHECKING:
    from shortlist.settings import Settings
    from tests.shop import Shop

VERSION = "version_20261107T210500"


def candidates(columns: str = "") -> str:
    """Forty users with five candidates each; the one with the largest `als_score` is taken."""
    generator = np.random.default_rng(5)
    rows = [f"user_id,item_id,target,als_score,als_rank,popular_rank{columns and ',' + columns}"]
    for user in range(40):
        best = np.argsort(-(scores := generator.random(5)))
        for item in range(5):
            rank = int(np.flatnonzero(best == item)[0]) + 1
            row = f"u{user},i{item},{int(rank == 1)},{scores[item]:.3f},{rank},{item + 1}"
            rows.append(f"{row},{item * 10}" if columns else row)
    return "\n".join(rows)


def settings_of(shop: Shop, ranker: RankerSettings) -> Settings:
    return replace(shop.settings, ranker=ranker, evaluation=EvaluationSettings(k=(5, 10), bootstrap_samples=100))


def evaluated(shop: Shop, table: str, ranker: RankerSettings) -> str:
    shop.publish("candidates_train", table)
    settings = settings_of(shop, ranker)
    path = train_ranker(settings=settings, version=VERSION, run_after=WEEK_1)
    evaluate_ranker(settings=settings, ranker_path=path)
    assert check_gate(settings=settings, ranker_path=path)["passed"]
    return path


def test_an_evaluated_ranker_has_its_plots_and_its_run(shop: Shop) -> None:
    path = evaluated(shop, candidates("item_count"), RankerSettings(iterations=20))

    assert files.names(f"{path}/plots") == [
        "calibration.png", "importance.png", "popularity.png", "precision_recall.png",
    ]  # fmt: skip
    store = shop.folder / "models/mlflow"
    (registered,) = (store / "models/shortlist-ranker").glob("version-*")
    assert (registered / "tags/version").read_text() == VERSION
    (run,) = [run for run in store.glob("*/*") if (run / "params").is_dir()]
    assert (run / "metrics/gate.passed").read_text().split()[1] == "1.0"
    assert (run / "tags/data_fingerprint").read_text() == model_versions.read_manifest(path)["fingerprint"]


def two_windows(*, taken: str = "best") -> str:
    """The candidates at two moments; `taken` = "worst" teaches the ranker the wrong way round in the first."""
    head, *rows = candidates().split("\n")
    lines = [f"as_of,{head}"]
    for moment in ("2026-10-01 00:00:00", "2026-10-20 00:00:00"):
        for row in rows:
            user, item, target, score, rank, popular = row.split(",")
            if taken == "worst" and moment.startswith("2026-10-01"):
                target = str(int(rank == "5"))
            lines.append(f"{moment},{user},{item},{target},{score},{rank},{popular}")
    return "\n".join(lines)


def test_the_gate_holds_a_ranker_against_the_champion(shop: Shop) -> None:
    settings = replace(settings_of(shop, RankerSettings(iterations=20)), gate=GateSettings(tolerance=2.0))
    shop.publish("candidates_train", two_windows())
    champion = train_ranker(settings=settings, version=VERSION, run_after=WEEK_1)
    model_versions.promote(settings.paths.rankers, VERSION, "the first")
    shop.publish("candidates_train", two_windows(taken="worst"))
    worse = train_ranker(settings=settings, version="version_20261114T210500", run_after=WEEK_1)
    strict = replace(settings, gate=GateSettings())

    evaluate_ranker(settings=settings, ranker_path=worse)
    difference = files.read_json(f"{worse}/metrics.json")["difference"]["the champion"]
    assert difference["high"] < 0
    evaluate_ranker(settings=strict, ranker_path=worse)
    with pytest.raises(GateRefusedError, match="What is served stays"):
        check_gate(settings=strict, ranker_path=worse)
    (card,) = report_files.list_reports(settings.paths.reports, 9)
    assert card["headline"].endswith("; the gate refused")

    Path(champion, "evaluated.cbm").write_bytes(b"half of a mod")
    with pytest.raises(
        ModelVersionError, match=r"cannot be compared with: .* is no ranker .*make rollback MODEL=ranker"
    ):
        evaluate_ranker(settings=strict, ranker_path=worse)


def test_a_champion_that_may_have_seen_the_window_is_no_rival(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    settings = settings_of(shop, RankerSettings(iterations=20))
    shop.publish("candidates_train", two_windows())
    train_ranker(settings=settings, version=VERSION, run_after=WEEK_1)
    model_versions.promote(settings.paths.rankers, VERSION, "the first")
    shop.publish("candidates_train", two_windows().replace("2026-10-20", "2026-10-10"))
    path = train_ranker(settings=settings, version="version_20261114T210500", run_after=WEEK_1)

    evaluate_ranker(settings=settings, ranker_path=path)

    assert "the champion" not in files.read_json(f"{path}/metrics.json")["difference"]
    assert "may have seen what is held out" in caplog.text


def test_a_ranking_loss_promises_no_probability_and_unknown_counts_are_not_drawn(shop: Shop) -> None:
    path = evaluated(shop, candidates(), RankerSettings(iterations=20, loss="QuerySoftMax"))

    assert files.names(f"{path}/plots") == ["importance.png", "precision_recall.png"]


def test_the_ranker_whose_lists_are_published_becomes_the_champion(shop: Shop) -> None:
    path = evaluated(shop, candidates("item_count"), RankerSettings(iterations=20))
    inference = re.sub(r"(?m)^(\w+,\w+),\w+,", r"\1,als,", candidates("item_count")).replace(
        "item_id,als", "item_id,source"
    )
    shop.publish("candidates_inference", inference)
    settings = settings_of(shop, RankerSettings())
    generation = rank_candidates(settings=settings, ranker_path=path, run_key="run", run_after=WEEK_1)
    shop.audit(generation)
    assert model_versions.champion(settings.paths.rankers) is None

    for _ in range(2):
        publish_ranked(settings=settings, generation_id=generation, ranker_path=path)

    (card,) = report_files.list_reports(settings.paths.reports, 9)
    assert (card["name"], card["kind"]) == (f"ranker_{VERSION}", "ranker")
    page = Path(settings.paths.reports, card["name"], "index.html").read_text()
    assert f"It is the champion, and what it ranked is served as generation {generation}." in page
    champion = model_versions.champion(settings.paths.rankers)
    assert champion is not None
    assert (champion.version, champion.previous) == (VERSION, ())
    assert champion.reason == files.read_json(f"{path}/metrics.json")["gate"]["reason"]
    assert (shop.folder / "models/mlflow/models/shortlist-ranker/aliases/champion").read_text() == "1"
