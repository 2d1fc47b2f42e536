"""What `make drift` prints."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from embedded import drift


def shown(decision: dict[str, Any] | None) -> list[str]:
    screen = io.StringIO()
    drift.show(Console(file=screen, width=80), decision)
    return [line.rstrip() for line in screen.getvalue().splitlines() if line.strip()]


def test_a_retraining_is_told_with_every_term_and_the_report() -> None:
    terms = [
        {"name": "weights", "score": 2.1, "limit": 0.4, "drifted": True},
        {"name": "items", "score": 0.2, "limit": 0.5, "drifted": False},
    ]
    reason = "over the threshold of 1 and over chance: weights 2.10 (chance: 0.40)"
    first, head, _, weights, items, report = shown(
        {"retrain": True, "reason": reason, "terms": terms, "report": "/shop/reports/drift_1/index.html"}
    )
    assert first == f"Retrained: {reason}."
    assert head.split() == ["term", "score", "chance", "reaches"]
    assert (weights.split(), items.split()) == (["weights", "2.10", "0.40"], ["items", "0.20", "0.50"])
    assert report == "Report: /shop/reports/drift_1/index.html"


def test_without_feedback_nothing_is_done() -> None:
    assert shown(None) == ["There is no new feedback in data/streaming: nothing was done."]
