from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from embedded import tune

RESULT: dict[str, Any] = {
    "study": "/shop/models/tuning/5f0c",
    "trials": 12,
    "seconds_per_trial": 8.5,
    "ndcg@10": {"in_use": 0.1, "proposed": 0.12},
    "changed": {"als.rank": [32, 48], "ranker.loss": ["Logloss", "QueryRMSE"]},
    "proposal": "/shop/config/pipeline.proposed.toml",
    "outcome": "NDCG@10 0.1200 instead of 0.1000 on 300 users with no part in the choice",
}


def shown(result: dict[str, Any]) -> list[str]:
    screen = io.StringIO()
    tune.show(Console(file=screen, width=80), result)
    return [line.rstrip() for line in screen.getvalue().splitlines() if line.strip()]


def test_a_proposal_is_shown_with_what_changes_and_how_to_accept_it() -> None:
    first, head, _, rank, loss, accept, trials = shown(RESULT)

    assert first == "NDCG@10 0.1200 instead of 0.1000 on 300 users with no part in the choice."
    assert head.split() == ["setting", "in", "use", "proposed"]
    assert (rank.split(), loss.split()) == (["als.rank", "32", "48"], ["ranker.loss", "Logloss", "QueryRMSE"])
    assert accept.startswith("To accept it: mv /shop/config/pipeline.proposed.toml /")
    assert accept.endswith("/config/pipeline.toml")
    assert trials == "All trials, 8.5 s each: /shop/models/tuning/5f0c/trials.csv"


def test_without_a_proposal_there_is_nothing_to_accept() -> None:
    outcome = "nothing better found in 12 trials; the settings in use are the best"
    assert shown(RESULT | {"proposal": None, "outcome": outcome}) == [
        "Nothing better found in 12 trials; the settings in use are the best.",
        "All trials, 8.5 s each: /shop/models/tuning/5f0c/trials.csv",
    ]
