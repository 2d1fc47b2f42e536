"""feature_engineering as Airflow runs it: what the form gives arrives as it was given, and Redis holds the result."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from shortlist.stores.feature_store import FeatureStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.redis_server import RedisServer

# Many small jobs: compiling their plans and methods to the last would cost more than it gains.
SMALL = """
spark.ui.enabled false
spark.sql.shuffle.partitions 1
spark.sql.adaptive.enabled false
spark.sql.codegen.wholeStage false
spark.driver.extraJavaOptions -Xss4m -XX:TieredStopAtLevel=1 -XX:+UseSerialGC
"""

DAGS = Path(__file__).resolve().parents[2] / "dags"


@pytest.fixture(scope="module")
def probed(run_probe: Callable[..., Any], redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Any:
    redis_server.reset()
    folder = tmp_path_factory.mktemp("shop")
    (folder / "pipeline.toml").write_text("")
    (folder / "shop.csv").write_text("user_id,item_id,time\nann,1,2026-03-01\nann,2,2026-03-02\nbob,1,2026-03-03\n")
    (folder / "spark-defaults.conf").write_text(SMALL)
    return run_probe(
        "run_features.py",
        DAGS,
        SHORTLIST_TASK_RETRIES="0",
        PROBE_INPUT=str(folder / "shop.csv"),
        SHORTLIST_CONFIG=str(folder / "pipeline.toml"),
        FEATURES_REDIS_URL=redis_server.url,
        AIRFLOW_CONN_SPARK_DEFAULT='{"conn_type": "spark", "host": "local[1]"}',
        SPARK_CONF_DIR=str(folder),
        SPARK_LOCAL_IP="127.0.0.1",
        PYSPARK_PYTHON=sys.executable,
        PYTHONPATH=str(DAGS.parent / "plugins"),
        AIRFLOW__LOGGING__NAMESPACE_LEVELS="steps=INFO shortlist=INFO",
    )


def test_every_task_succeeds(probed: Any) -> None:
    tasks = ("start", "check_redis", "process_and_save_features", "end", "run")
    assert probed["runs"][1]["states"] == dict.fromkeys(tasks, "success")


def test_false_is_no_text_that_is_true(probed: Any) -> None:
    assert probed["runs"][0]["states"] == dict.fromkeys(("start", "check_redis", "run"), "success")
    assert "save_to_db is false: the features go to the log, Redis is not needed" in probed["output"]


def test_the_version_is_the_runs_and_the_attempts(probed: Any) -> None:
    saved = probed["runs"][1]
    assert re.fullmatch(rf"{saved['run_after']}-\d+", saved["result"]["version"])
    assert (saved["result"]["users"], saved["result"]["items"]) == (2, 2)


def test_what_the_run_wrote_is_served(probed: Any, redis_server: RedisServer) -> None:
    store = FeatureStore(redis_server.url)
    assert store.served() == probed["runs"][1]["result"]["version"]
    assert store.read("user", ["ann"])["ann"]["user_items"] == 2


def test_the_password_of_redis_is_in_no_log(probed: Any, redis_server: RedisServer) -> None:
    assert redis_server.url.split(":")[2].split("@")[0] not in probed["output"]


def test_the_form_takes_a_path_and_a_boolean_only(probed: Any) -> None:
    assert probed["refused"] == [{"save_to_db": "perhaps"}, {"save_to_db": None}, {"input_path": ""}, {"input_path": 7}]
