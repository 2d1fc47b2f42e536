"""Real runs of tiny DAGs under `dag.test()`: what is skipped, retried, failed, and which messages arrive."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.fake_bot_api import TOKEN, FakeBotApi

if TYPE_CHECKING:
    from collections.abc import Callable

PROBE_DAGS = Path(__file__).parent / "probes" / "dags"


@pytest.fixture(scope="module")
def api() -> Any:
    with FakeBotApi() as api:
        yield api


@pytest.fixture(scope="module")
def runs(run_probe: Callable[..., Any], api: FakeBotApi) -> Any:
    return run_probe(
        "run_dags.py",
        PROBE_DAGS,
        TELEGRAM_TOKEN=TOKEN,
        TELEGRAM_CHAT_ID="-1001",
        TELEGRAM_API=api.url,
        AIRFLOW_CONN_SPARK_DEFAULT='{"conn_type": "spark", "host": "local[1]"}',
        SPARK_LOCAL_IP="127.0.0.1",
        PYSPARK_PYTHON=sys.executable,
    )


def messages_of(api: FakeBotApi, dag_id: str) -> list[str]:
    return [text for text in api.texts if f"<b>{dag_id}</b>" in text]


def test_nothing_to_do_skips_the_task_and_what_hangs_on_it_and_the_run_succeeds(runs: Any) -> None:
    assert runs["states"]["probe_success"] == {
        "load": "success",
        "nothing": "skipped",
        "after_nothing": "skipped",
        "publish": "success",
        "run": "success",
    }
    assert "no file data/raw/future.csv" in runs["output"]


def test_nothing_to_do_skips_a_spark_task_too(runs: Any) -> None:
    assert runs["states"]["probe_nothing"] == {"nothing_on_spark": "skipped", "publish": "skipped", "run": "success"}
    assert "no rows for today" in runs["output"]


def test_a_skipped_run_sends_nothing(runs: Any, api: FakeBotApi) -> None:
    assert messages_of(api, "probe_nothing") == []


def test_success_is_one_message_with_the_rows(runs: Any, api: FakeBotApi) -> None:
    run_id = runs["results"]["probe_success"]["run_id"]

    assert messages_of(api, "probe_success") == [
        f"✅ <b>probe_success</b> succeeded\n{run_id}\n<b>load</b> rows 3\n<b>publish</b> rows 3"
    ]


def test_templates_render_in_a_run_without_a_logical_date(runs: Any) -> None:
    run = runs["results"]["probe_success"]
    moment = run["run_after"][:19].replace("-", "").replace(":", "")

    assert run["loaded"] == {
        "rows": 3,
        "run_after": run["run_after"],
        "run_key": f"probe_success/{run['run_id']}",
        "version": f"version_{moment}",
        "source": "of the form",
    }


def test_a_failing_task_sends_one_retry_and_one_failure_and_the_run_nothing_more(runs: Any, api: FakeBotApi) -> None:
    assert runs["states"]["probe_failure"] == {"stumble": "failed", "publish": "upstream_failed", "run": "failed"}
    retry, failure, timeout = messages_of(api, "probe_failure")
    assert retry.startswith("🔁 <b>probe_failure</b> tries <b>stumble</b> again after try 1 of 2\n")
    assert failure.startswith("❌ <b>probe_failure</b> failed in <b>stumble</b>, try 2 of 2\n")
    assert "try_number=2" in failure.splitlines()[-1]
    assert timeout.startswith("❌ <b>probe_failure</b> failed: timed out\n")


def test_html_and_token_in_an_error_text_reach_the_chat_harmless(runs: Any, api: FakeBotApi) -> None:
    for text in messages_of(api, "probe_failure")[:2]:
        assert "ConnectionError: &lt;b&gt;no &amp; answer&lt;/b&gt; from https://host/bot***/x" in text


def test_the_token_is_in_no_log(runs: Any) -> None:
    assert "from https://host/bot***/x" in runs["output"]
    assert TOKEN not in runs["output"]


def test_the_masker_of_task_logs_knows_the_token(runs: Any) -> None:
    # `dag.test()` prints unmasked what a library logs; a worker's log goes through this masker.
    assert runs["masked"] == "a library wrote ***"


def test_a_final_error_is_not_tried_again_and_told_once_by_its_own_name(runs: Any, api: FakeBotApi) -> None:
    assert runs["states"]["probe_refusal"] == {"refuse": "failed", "run": "failed"}
    (failure,) = messages_of(api, "probe_refusal")
    assert failure.splitlines()[:2] == [
        "❌ <b>probe_refusal</b> failed in <b>refuse</b>, try 1 of 2",
        "GateRefusedError: challenger 0.10 &lt; champion 0.12",
    ]


def test_a_run_that_times_out_is_told_by_the_dag_processor(runs: Any, api: FakeBotApi) -> None:
    assert messages_of(api, "probe_failure")[-1] == "❌ <b>probe_failure</b> failed: timed out\nslow_run"


def test_a_task_that_the_gate_refused_links_to_its_report_and_one_that_never_ran_to_none(runs: Any) -> None:
    assert runs["states"]["probe_report"] == {
        "train": "success", "evaluate": "failed", "export": "upstream_failed", "run": "failed",
    }  # fmt: skip
    assert runs["results"]["probe_report"]["links"] == {
        "evaluate": "http://localhost:8000/reports/training_version_20260101T000000/index.html",
        "export": "",
    }


def test_a_step_is_told_what_the_tasks_before_it_took(runs: Any) -> None:
    (card,) = runs["reports"]
    timings = json.loads(card["headline"])

    assert timings["task"] == "evaluate"
    (train,) = [step for step in timings["done"] if step]
    assert (train["task"], set(train)) == ("train", {"task", "started", "seconds"})
    assert 0 <= train["seconds"] < 60
    assert datetime.fromisoformat(train["started"]) < datetime.fromisoformat(timings["started"])
