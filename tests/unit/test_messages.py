"""What the messages say, and that sending one never harms a run (fault 56)."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from shortlist.stores import telegram
from steps import messages
from tests.fake_bot_api import TOKEN, FakeBotApi, html_problem

DATABASE_URL = "postgresql://recs:p%40ss%26word@127.0.0.1:5432/recs"
PROBLEM: dict[str, Any] = {
    "dag_id": "load_default_recs",
    "run_id": "manual__2026-11-21",
    "task_id": "audit",
    "attempt": "2 of 3",
    "log_url": "http://localhost:8080/dags/load_default_recs/runs/r/tasks/audit?try_number=2",
}


@pytest.fixture
def configured(bot_api: FakeBotApi, monkeypatch: pytest.MonkeyPatch) -> FakeBotApi:
    monkeypatch.setenv("TELEGRAM_TOKEN", TOKEN)
    monkeypatch.setenv("TELEGRAM_CHAT_ID", "-1001")
    monkeypatch.setenv("TELEGRAM_API", bot_api.url)
    monkeypatch.setattr(telegram, "_WAITS_SECONDS", (0.01, 0.01))
    return bot_api


def test_a_training_is_its_headline_and_where_the_report_lies() -> None:
    text = messages.training(
        title="Training version_1", headline="NDCG@10 0.2 by ALS & co; the gate passed", page="/r/index.html"
    )
    assert text == "📊 <b>Training version_1</b>\nNDCG@10 0.2 by ALS &amp; co; the gate passed\n/r/index.html"
    assert html_problem(text) is None


def test_success_tells_counts_and_metrics_and_leaves_out_paths() -> None:
    text = messages.success(
        dag_id="etl_train_test_pipeline",
        run_id="manual__1",
        results={
            "spark_etl": {"read": 541909, "rejected": {"missing_user": 135080}, "first": "2010-12-01"},
            "create_futures": None,
            "find_latest_model": "models/artifacts/version_1",
            "spark_test_recommender": {
                "users": 900,
                "models": {
                    "popular": {"ndcg@10": {"mean": 0.0412, "low": 0.04, "high": 0.05}},
                    "als": {"ndcg@10": {"mean": 0.123456, "low": 0.1, "high": 0.2}, "recall@10": {"mean": 0.3}},
                },
                "passed": True,
                "share": 0.25,
            },
            "evaluate_ranker": {"ndcg@10": {"ranker": 0.2}, "gate": {"passed": True, "tolerance": 0.01}},
        },
    )

    assert text.splitlines() == [
        "✅ <b>etl_train_test_pipeline</b> succeeded",
        "manual__1",
        "<b>spark_etl</b> read 541,909, rejected missing_user 135,080",
        "<b>spark_test_recommender</b> users 900, NDCG@10 popular 0.0412, NDCG@10 als 0.1235, share 0.25",
        "<b>evaluate_ranker</b> NDCG@10 ranker 0.2000",
    ]


def test_failure_tells_dag_task_try_first_line_and_log() -> None:
    text = messages.failure(**PROBLEM, error=ValueError("3 users have too few items\nTraceback: …"))

    assert text.splitlines() == [
        "❌ <b>load_default_recs</b> failed in <b>audit</b>, try 2 of 3",
        "ValueError: 3 users have too few items",
        "manual__2026-11-21",
        "http://localhost:8080/dags/load_default_recs/runs/r/tasks/audit?try_number=2",
    ]


def test_retry_tells_that_there_will_be_another_try() -> None:
    text = messages.retry(**PROBLEM, error=ConnectionError())

    assert text.splitlines()[:2] == [
        "🔁 <b>load_default_recs</b> tries <b>audit</b> again after try 2 of 3",
        "ConnectionError: ",
    ]


@pytest.mark.parametrize(("error", "line"), [("killed\nby hand", "killed"), ("", "no reason given")])
def test_an_error_may_be_a_text(error: str, line: str) -> None:
    assert messages.failure(**PROBLEM, error=error).splitlines()[1] == line


def test_a_run_that_failed_without_a_task_says_why() -> None:
    text = messages.run_failure(dag_id="load_online_recs", run_id="r", reason="timed_out")

    assert text == "❌ <b>load_online_recs</b> failed: timed out\nr"


def test_html_in_an_error_text_arrives_as_text(configured: FakeBotApi) -> None:
    assert messages.send_message(messages.failure(**PROBLEM, error=ValueError("<b>no & such <table>")))

    assert "ValueError: &lt;b&gt;no &amp; such &lt;table&gt;" in configured.texts[0]


@pytest.mark.parametrize("length", [400, 500, 5000])
def test_an_error_text_of_any_length_makes_a_message_telegram_takes(configured: FakeBotApi, length: int) -> None:
    text = messages.failure(**PROBLEM, error=ValueError("<&" * length))

    assert html_problem(text) is None
    assert messages.send_message(text)
    assert configured.texts[0].endswith("try_number=2")


@pytest.mark.parametrize(
    "secret", [TOKEN, "p%40ss%26word", "p@ss&word"], ids=["token", "password in the URL", "password as typed"]
)
def test_a_secret_inside_an_exception_text_is_not_told(monkeypatch: pytest.MonkeyPatch, secret: str) -> None:
    monkeypatch.setenv("TELEGRAM_TOKEN", TOKEN)
    monkeypatch.setenv("RECS_DATABASE_URL", DATABASE_URL)

    text = messages.failure(**PROBLEM, error=ConnectionError(f"no answer from {secret}@host"))

    assert text.splitlines()[1] == "ConnectionError: no answer from ***@host"


def test_the_password_of_redis_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEATURES_REDIS_URL", "redis://features:of-redis@redis:6379/2")

    text = messages.failure(**PROBLEM, error=ConnectionError("no answer from redis://features:of-redis@redis:6379/2"))

    assert text.splitlines()[1] == "ConnectionError: no answer from redis://features:***@redis:6379/2"


def test_a_database_address_that_is_no_url_is_wholly_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECS_DATABASE_URL", "postgresql://recs:pass@[half")

    text = messages.failure(**PROBLEM, error=ValueError("bad: postgresql://recs:pass@[half"))

    assert text.splitlines()[1] == "ValueError: bad: ***"


def test_not_configured_is_one_log_line_and_no_failure(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("TELEGRAM_TOKEN", raising=False)

    with caplog.at_level(logging.INFO):
        sent = messages.send_message("hello")

    assert not sent
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("INFO", "No message sent: TELEGRAM_TOKEN and TELEGRAM_CHAT_ID are not set")
    ]


def test_telegram_refusing_is_one_warning_and_no_failure(
    configured: FakeBotApi, caplog: pytest.LogCaptureFixture
) -> None:
    configured.refuse(403, f"Forbidden: {TOKEN} was kicked")

    with caplog.at_level(logging.INFO):
        sent = messages.send_message("hello")

    assert not sent
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("WARNING", "No message sent: Telegram did not take the message: 403 Forbidden: *** was kicked")
    ]


def test_a_drift_decision_is_told_with_its_reason_and_where_the_report_lies() -> None:
    decision = {
        "retrain": True,
        "reason": "over the threshold of 1 and over chance: weights 2.10 (chance: 0.40)",
        "batch": "drift_20261121T000000",
        "score": 2.1,
        "report": "/reports/<x>/index.html",
    }
    assert messages.drift(decision, {"accepted": 12345}).splitlines() == [
        "🔁 <b>retraining</b>: over the threshold of 1 and over chance: weights 2.10 (chance: 0.40)",
        "12,345 new interactions in drift_20261121T000000, drift score 2.10",
        "/reports/&lt;x&gt;/index.html",
    ]
    assert messages.drift(decision | {"retrain": False}, {"accepted": 1}).startswith("✅ <b>no retraining</b>")


def test_a_question_holds_the_reason_and_where_to_answer() -> None:
    text = messages.question(
        dag_id="load_candidates_ranked",
        run_id="manual__1",
        reason="The gate passed: against als the difference in NDCG@10 is +0.0420 [+0.0310, +0.0520] <fine>.",
        link="https://airflow.example.com/dags/load_candidates_ranked/required_actions?map_index=-1",
    )
    head, reason, run, link = text.splitlines()
    assert head == "❓ <b>load_candidates_ranked</b> waits for your word"
    assert reason.endswith("&lt;fine&gt;.")
    assert (run, link) == (
        "manual__1",
        "https://airflow.example.com/dags/load_candidates_ranked/required_actions?map_index=-1",
    )
