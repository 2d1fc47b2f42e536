"""On the real stack: the branch without a retraining, by thresholds that nothing reaches. The other: test_survival."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.compose.stack import deliver_feedback

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.compose.stack import Airflow, Stack

DAG = "drift_detection_retrain_pipeline"


@pytest.fixture
def high_thresholds(stack: Stack) -> Iterator[None]:
    """What a customer's days look like again is not what a model has not seen: its predictions are too good."""
    settings = stack.folder / "config" / "pipeline.toml"
    text = settings.read_text()
    settings.write_text(re.sub(r"(?m)^(kl|mean|median|new_users|new_items|waiting)( +)?= [\d.]+", r"\1 = 9.0", text))
    yield
    settings.write_text(text)


@pytest.mark.usefixtures("high_thresholds")
def test_feedback_below_the_thresholds_skips_the_retraining(stack: Stack, airflow: Airflow) -> None:
    champion = (stack.folder / "models" / "artifacts" / "champion.json").read_text()
    deliver_feedback(stack)
    run_id = airflow.trigger(DAG)

    assert airflow.wait(DAG, run_id) == "success"

    states = airflow.states(DAG, run_id)
    assert {states[task] for task in ("merge_streaming_data", "train_recommender", "export_recommendations")} == {
        "skipped"
    }
    assert states["skip_retrain"] == "success"
    decision = airflow.xcom(DAG, run_id, "check_retrain", "retrain_decision")
    assert decision["retrain"] is False
    assert decision["score"] > 0
    data_drift = airflow.xcom(DAG, run_id, "detect_drift", "data_drift")
    model_drift = airflow.xcom(DAG, run_id, "detect_drift", "model_drift")
    assert decision["terms"] == data_drift["terms"] + model_drift["terms"]
    assert decision["reason"] in stack.task_log(DAG, run_id, "skip_retrain")
    assert (stack.folder / "reports" / decision["batch"] / "index.html").read_text().count("<svg") == 2
    assert not list((stack.folder / "data" / "streaming").iterdir())
    assert (stack.folder / "models" / "artifacts" / "champion.json").read_text() == champion
