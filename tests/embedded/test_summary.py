from __future__ import annotations

import io
import re
from typing import Any

import pytest
from rich.console import Console

from embedded import report, summary


def metric(mean: float) -> dict[str, float]:
    return {"mean": mean, "low": mean - 0.01, "high": mean + 0.01}


@pytest.fixture
def results() -> dict[str, Any]:
    models = {
        name: {m: metric(0.1 * place + 0.05) for m in ("ndcg@10", "recall@10", "map@10", "hit_rate@10")}
        | {"coverage@10": {"mean": 0.5}}
        for place, name in enumerate(("popular", "similar_to_last", "als", "ranker"), start=1)
    }
    return {
        "run": "20261121T211500",
        "started": "2026-11-21T21:15:00+00:00",
        "data": "shop.csv",
        "rows": {
            "read": 1010,
            "accepted": 1000,
            "rejected": {"not_a_product": 3, "missing_user": 7},
            "tolerated": ["missing_user"],
        },
        "interactions": {"users": 30, "items": 20, "first": "2025-01-01", "last": "2025-12-31", "fingerprint": "ab"},
        "evaluation": {
            "users": 25,
            "window": {"from": "2025-12-01", "to": "2025-12-31"},
            "models": models,
            "gate": {"passed": True, "reason": "passed: +0.100 against als"},
        },
        "published": {"default_recs": 100, "personal_recs": 600},
        "examples": [
            {
                "user_id": "[00]42",
                "history": [{"item_id": "1", "title": "RED [bold]MUG", "date": "2025-12-30"}],
                "recommendations": [
                    {"rank": 1, "item_id": "2", "title": "<script>\x1b[31m", "score": 0.9, "source": "als+popular"}
                ],
            }
        ],
        "seconds": [
            {"group": "set-up", "step": "java", "seconds": 0.1},
            {"group": "etl_train_test_pipeline", "step": "spark_etl", "seconds": 12.34},
            {"group": "etl_train_test_pipeline", "step": "create_futures", "seconds": 1.0},
        ],
        "total_seconds": 12.4,
        "where": {
            "report": "/p/reports/x/index.html",
            "stage_one_models": "/p/models/artifacts",
            "ranker": "/p/models/rankers/v",
            "quarantine": "/p/data/quarantine",
            "logs": "/p/.airflow/logs",
            "tables": "make psql",
        },
    }


def shown(results: dict[str, Any], width: int = 120) -> list[str]:
    screen = io.StringIO()
    summary.show(Console(file=screen, width=width), results)
    assert "\x1b" not in screen.getvalue()
    return [" ".join(line.split()) for line in screen.getvalue().splitlines()]


def test_rows_are_shown_by_reason_most_frequent_first(results: dict[str, Any]) -> None:
    lines = shown(results)
    start = lines.index("accepted 1,000")
    assert lines[start : start + 4] == [
        "accepted 1,000",
        "rejected: missing_user (tolerated) 7",
        "rejected: not_a_product 3",
        "read 1,010",
    ]


@pytest.mark.parametrize("width", [80, 120])
def test_every_model_has_a_line_with_intervals(results: dict[str, Any], width: int) -> None:
    lines = shown(results, width)
    assert "ALS + CatBoost 0.450 0.450 0.450 0.450 0.500" in lines
    assert "0.440–0.460 0.440–0.460 0.440–0.460 0.440–0.460" in lines
    assert "Held-out window 2025-12-01 to 2025-12-31: 25 users, with 95 % intervals" in lines
    assert "The gate passed: +0.100 against als" in lines
    assert [line.split(" 0.")[0] for line in lines if line.endswith(" 0.500")] == [
        "popular",
        "similar to last",
        "ALS",
        "ALS + CatBoost",
    ]


def test_titles_are_shown_as_they_are(results: dict[str, Any]) -> None:
    lines = shown(results)
    assert "User [00]42: 1 items so far, newest first" in lines
    assert "2025-12-30 RED [bold]MUG 1 <script> [31m als+popular" in lines


def test_every_place_and_every_second_is_told(results: dict[str, Any]) -> None:
    lines = shown(results)
    assert "12.4 seconds" in lines
    assert "set-up 0.1 java 0.1" in lines
    assert "etl_train_test_pipeline 13.3 spark_etl 12.3, create_futures 1.0" in lines
    for place in results["where"].values():
        assert any(place in line for line in lines), place


def test_the_report_holds_the_numbers_the_plot_and_escaped_titles(results: dict[str, Any]) -> None:
    page = report.render(results)
    assert "0.450" in page
    assert "0.440–0.460" in page
    assert "&lt;script&gt;" in page
    assert "<script" not in page
    assert page.count("<svg") == 1
    assert not re.findall(r"""(?:src|href|url)\W{1,3}(?:https?:|//)""", page)
