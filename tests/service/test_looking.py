"""What the page shows: search, users, explanations, generations, drift, reports, parts."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from shortlist.columns import CANDIDATE_FEATURES
from shortlist.recommender import ranking
from shortlist.settings import RankerSettings
from shortlist.stores import drift_records, model_versions, report_files

if TYPE_CHECKING:
    from tests.running_service import RunningService
    from tests.shop import Shop


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("tea", ["tea", "pot"]),  # the id first, then the title
        ("TEA%20p", ["pot"]),
        ("lamp", ["old"]),
        ("script", ["bag"]),
        ("%25", []),
        ("zz%00", []),
        ("nothing", []),
        ("%3A*%20%26%20%21", []),
    ],
)
def test_items_are_found_by_id_and_by_words_of_their_title(
    service: RunningService, query: str, found: list[str]
) -> None:
    assert [item["item_id"] for item in service.get(f"/v1/items?q={query}")["items"]] == found


def test_users_are_found_by_the_beginning_of_their_id(service: RunningService) -> None:
    assert service.get("/v1/users?q=a") == {"users": [{"user_id": "ann", "interactions": 2}]}
    assert service.get("/v1/users?q=%25") == {"users": []}


def test_a_user_has_a_history_newest_first(service: RunningService) -> None:
    assert service.get("/v1/users/ann?limit=1") == {
        "user_id": "ann",
        "known": True,
        "interactions": 2,
        "history": [
            {
                "item_id": "hat",
                "title": "Red hat",
                "category": "clothes",
                "time": "2026-10-02T10:00:00Z",
                "weight": 2.0,
            }
        ],
        "recent": [],
    }


def _rank(shop: Shop) -> None:
    """A ranker that has learned that a small rank of ALS is good, and the candidates that it ranked."""
    generator = np.random.default_rng(1)
    features = generator.random((400, len(CANDIDATE_FEATURES))).astype(np.float32)
    place = CANDIDATE_FEATURES.index("als_score")
    data = ranking.LabelledCandidates(
        features=features,
        target=(features[:, place] > 0.7).astype(np.int64),
        group=np.repeat(np.arange(40), 10),
        names=CANDIDATE_FEATURES,
    )
    model = ranking.fit(data, RankerSettings(iterations=20))
    model_versions.save_ranker(
        shop.settings.paths.rankers,
        "version_ranked",
        {model_versions.SERVED: model},
        {"fingerprint": "f-1", "features": list(CANDIDATE_FEATURES)},
    )
    shop.publish(
        "candidates_inference",
        """
        user_id,item_id,source,als_score,als_rank,popular_rank
        ann,pot,als,0.95,1,4
        ann,tea,als+popular,0.2,2,
        ann,pin,popular,,,9
        """,
    )


def test_an_explanation_has_sources_features_and_what_each_was_worth(shop: Shop, service: RunningService) -> None:
    _rank(shop)
    service.refresh()
    told = service.get("/v1/explain/ann/pot")
    contributions, features = told.pop("contributions"), told.pop("features")
    assert told == {
        "user_id": "ann",
        "item_id": "pot",
        "title": "Tea pot",
        "listed": True,
        "rank": 1,
        "score": pytest.approx(0.9),
        "sources": [
            {"source": "als", "rank": 1, "score": pytest.approx(0.95)},
            {"source": "popular", "rank": 4, "score": None},
        ],
        "base_value": pytest.approx(told["base_value"]),
        "model_version": "version_a+version_ranked",
        "ranker": "version_ranked",
        "training_run": "ranked",
        "data_fingerprint": "f-1",
        "generation": 5,
        "reason": "Fits what people with this taste take",
    }
    assert (contributions[0]["feature"], contributions[0]["contribution"] > 0) == ("als_score", True)
    assert {name: value for name, value in features.items() if value is not None} == {
        "als_score": pytest.approx(0.95),
        "als_rank": 1.0,
        "popular_rank": 4.0,
    }
    not_listed = service.get("/v1/explain/ann/pin")
    assert (not_listed["listed"], not_listed["rank"]) == (False, None)
    assert service.call("GET", "/v1/explain/ann/old")[0] == 404


def test_generations_come_with_metrics_and_online_rates(shop: Shop, service: RunningService) -> None:
    with shop.database.cursor() as cursor:
        models = {"als": {"ndcg@10": {"mean": 0.1, "low": 0.05, "high": 0.2}}}
        cursor.execute(
            "UPDATE internal.generations SET metrics = metrics || %s WHERE generation_id = 5",
            [json.dumps({"evaluation": {"models": models}})],
        )
    events = [{"user_id": "ann", "item_id": "pot", "kind": "impression", "generation": 5}] * 4
    events.append({"user_id": "ann", "item_id": "pot", "kind": "click", "generation": 5})
    service.call("POST", "/v1/events", {"events": events})
    datasets = service.get("/v1/generations")["datasets"]
    assert [(dataset["dataset"], dataset["served"]) for dataset in datasets] == [
        ("personal_recs", 5),
        ("default_recs", 3),
        ("items", 1),
        ("online_recs", 4),
        ("user_history", 2),
    ]
    (generation,) = datasets[0]["generations"]
    assert (generation["rows"], generation["status"], generation["week"]) == (2, "published", "2026-11-02")
    assert generation["metrics"] == {"als": {"mean": 0.1, "low": 0.05, "high": 0.2}}
    online = generation["online"]
    assert (online["impressions"], online["clicks"], online["rate"]) == (4, 1, 0.25)
    assert online["low"] < 0.25 < online["high"]


def test_drift_decisions_and_reports_are_listed_and_handed_out_in_a_sandbox(
    shop: Shop, service: RunningService
) -> None:
    paths = shop.settings.paths
    name = "drift_20261121T000000"
    decision = {
        "batch": name,
        "retrain": True,
        "reason": "weights <b>moved</b>",
        "score": 1.5,
        "data_drift": 1.5,
        "model_drift": 0.2,
        "waiting": 40,
        "champion": "version_a",
    }
    drift_records.record(paths.drift, name, decision)
    assert service.get("/v1/drift")["runs"] == [{**decision, "report": None}]
    report_files.write_report(paths.reports, name, kind=report_files.DRIFT, headline="retraining", page="<p>page</p>")
    assert service.get("/v1/drift")["runs"][0]["report"] == f"/reports/{name}/index.html"
    assert service.get("/v1/reports") == {
        "reports": [
            {
                "name": name,
                "kind": "drift",
                "time": "2026-11-21T00:00:00Z",
                "headline": "retraining",
                "url": f"/reports/{name}/index.html",
            }
        ]
    }
    headers, body = service.raw(f"/reports/{name}/index.html")
    assert body == b"<p>page</p>"
    assert headers["content-security-policy"].startswith("sandbox;")
    for path in (f"/reports/{name}/..%2f..%2fpipeline.toml", "/reports/..%2f/pipeline.toml", f"/reports/{name}/x.html"):
        assert service.call("GET", path)[0] == 404


def test_parts_say_what_is_there_and_what_is_not(service: RunningService) -> None:
    parts = {part["name"]: (part["ok"], part["detail"]) for part in service.get("/v1/parts")["parts"]}
    assert parts["personal_recs"] == (True, "generation 5 of the week 2026-11-02, 2 rows")
    assert parts["rules"] == (True, "in use")
    assert parts["ranker"][0] is False
    assert (parts["postgresql"][0], parts["redis"][0]) == (True, True)
    assert service.call("GET", "/health/ready") == (200, {"status": "ready", "missing": []})


def test_the_log_of_a_normal_day_is_quiet(service: RunningService) -> None:
    service.get("/v1/recommendations/ann")
    service.call("GET", "/nowhere")
    service.call("POST", "/v1/events", {"events": []})
    assert service.stop() == 0
    lines = service.log.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1, lines
    service.start()
