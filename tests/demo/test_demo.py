"""The demo from end to end on the first months of the bundled data: real Airflow, Spark, CatBoost and PostgreSQL."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import psycopg2
import pyarrow.parquet as pq
import pytest

from embedded.home import PROJECT
from embedded.postgres import EmbeddedPostgres

if TYPE_CHECKING:
    from collections.abc import Iterator

# Quality is not the question here, so the models are small, and neither the gate nor a drift stops anything.
SMALLER = {"rank": "8", "iterations": "10", "bootstrap_samples": "100", "tolerance": "1.0"}
SMALLER |= dict.fromkeys(("kl", "mean", "median", "new_users", "new_items", "waiting"), "9.0")
TABLES = ("default_recs", "online_recs", "candidates_train", "candidates_inference", "personal_recs")


class Demo:
    """A home of its own, and the data and settings it works on."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.root = folder / "root"
        self.root.mkdir()
        self.data = folder / "shop.parquet"
        until = datetime(2011, 2, 15)  # noqa: DTZ001 - as in the file
        source = PROJECT / "sample_data" / "online_retail.parquet"
        pq.write_table(pq.read_table(source, filters=[("InvoiceDate", "<", until)]), self.data)
        text = (PROJECT / "config" / "pipeline.toml").read_text()
        for key, value in SMALLER.items():
            text, found = re.subn(rf"^{key} = [\d.]+", f"{key} = {value}", text, flags=re.MULTILINE)
            assert found, key
        self.config = folder / "small.toml"
        self.config.write_text(text)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "embedded", *arguments, "--config", str(self.config)]
        variables = {"PYTHONPATH": f"{PROJECT}/plugins", "SHORTLIST_HOME": str(self.home), "DATA_ROOT": str(self.root)}
        return subprocess.Popen(
            command,
            env=os.environ | variables,
            cwd=PROJECT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, data: Path) -> tuple[int, str]:
        return self.finish("demo", "--data", str(data))

    def finish(self, *arguments: str) -> tuple[int, str]:
        with self.start(*arguments) as process:
            screen, _ = process.communicate()
            return process.returncode, screen

    @property
    def summary(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.root / "data" / "summary.json").read_text())
        return found

    @contextmanager
    def database(self) -> Iterator[Any]:
        with EmbeddedPostgres(self.home / "postgres") as server, closing(psycopg2.connect(server.url)) as connection:
            yield connection.cursor()

    def contents(self) -> dict[str, str]:
        """A hash of each served table."""
        with self.database() as cursor:
            found = {}
            for table in TABLES:
                cursor.execute(f"SELECT md5(string_agg(t::text, chr(10) ORDER BY t::text)) FROM {table} AS t")
                found[table] = cursor.fetchone()[0]
            return found

    def processes(self) -> list[str]:
        """What still runs for this home."""
        return [
            " ".join(process.info["cmdline"])
            for process in psutil.process_iter(["cmdline"])
            if process.pid != os.getpid() and any(str(self.home) in part for part in process.info["cmdline"] or ())
        ]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    return Demo(tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="module")
def screen(demo: Demo) -> str:
    """What the first run showed."""
    code, screen = demo.run(demo.data)
    assert code == 0, screen
    return screen


def test_the_screen_shows_progress_and_results_without_noise(demo: Demo, screen: str) -> None:
    assert "\x1b" not in screen
    assert not re.search(r"Traceback|WARN|Deprecat", screen)
    finished = re.findall(r"^  ([✓–✗]) (\w+)", screen, re.MULTILINE)
    load = [("✓", name) for name in ("load_reference", "load_file", "audit", "publish")]
    assert sorted(finished) == sorted(
        [
            ("✓", "java"),
            ("✓", "postgresql"),
            ("✓", "airflow"),
            ("✓", "spark_etl"),
            ("–", "create_futures"),
            ("✓", "spark_train_recommender"),
            ("✓", "find_latest_model"),
            ("✓", "spark_test_recommender"),
            ("✓", "export_recommendations"),
            *load * 4,
            ("✓", "wait_for_candidates"),
            ("✓", "train_ranker"),
            ("✓", "evaluate_ranker"),
            ("✓", "check_gate"),
            ("✓", "rank_candidates"),
            ("✓", "audit"),
            ("✓", "publish"),
            ("✓", "report"),
        ]
    )
    for text in (
        "NDCG@10",
        "ALS + CatBoost",
        "rejected: missing_user",
        "make psql",
        "make serve",
        str(demo.root / "reports"),
    ):
        assert text in screen


def test_the_summary_holds_everything_for_programs(demo: Demo, screen: str) -> None:
    summary = demo.summary
    rows = summary["rows"]
    assert rows["read"] == pq.read_metadata(demo.data).num_rows
    assert rows["accepted"] + sum(rows["rejected"].values()) == rows["read"]
    assert summary["evaluation"]["users"] > 0
    models = summary["evaluation"]["models"]
    assert set(models) == {"popular", "similar_to_last", "als", "ranker"}
    for model in models.values():
        for name in ("ndcg@10", "recall@10", "map@10", "hit_rate@10"):
            assert 0 <= model[name]["low"] <= model[name]["mean"] <= model[name]["high"] <= 1
        assert 0 < model["coverage@10"]["mean"] <= 1
    assert len(summary["examples"]) == 3
    for example in summary["examples"]:
        assert example["history"]
        assert [row["rank"] for row in example["recommendations"]] == list(range(1, 21))
        assert any(row["title"] != row["item_id"] for row in example["recommendations"])
        assert all(row["source"] for row in example["recommendations"])
    assert all(count > 0 for count in summary["published"].values())
    assert set(summary["published"]) == set(TABLES)
    for place in ("report", "stage_one_models", "ranker", "quarantine", "logs"):
        assert Path(summary["where"][place]).exists()


def test_every_user_gets_exactly_k_new_available_items_with_source(demo: Demo, screen: str) -> None:
    with demo.database() as cursor:
        cursor.execute("""
            SELECT count(*), min(n), max(n), min(ranks), min(items) FROM (
                SELECT user_id, count(*) AS n, count(DISTINCT rank) AS ranks, count(DISTINCT item_id) AS items
                FROM personal_recs WHERE rank BETWEEN 1 AND 20 AND source <> '' GROUP BY user_id
            ) AS lists
        """)
        users, *sizes = cursor.fetchone()
        assert sizes == [20, 20, 20, 20]
        cursor.execute("SELECT count(*), count(DISTINCT user_id) FROM personal_recs")
        assert cursor.fetchone() == (20 * users, users)
        cursor.execute("SELECT count(*) FROM personal_recs JOIN user_history USING (user_id, item_id)")
        assert cursor.fetchone() == (0,)
        cursor.execute("SELECT count(*) FROM personal_recs JOIN items USING (item_id) WHERE available")
        assert cursor.fetchone() == (20 * users,)
        cursor.execute("SELECT count(DISTINCT user_id) FROM user_history")
        assert cursor.fetchone() == (users,)


def test_nothing_is_left_running(demo: Demo, screen: str) -> None:
    assert demo.processes() == []


def test_secrets_are_neither_shown_nor_logged(demo: Demo, screen: str) -> None:
    password = (demo.home / "postgres" / "password").read_text()
    assert password not in screen
    assert password not in (demo.root / "data" / "summary.json").read_text()
    for log in (demo.home / "logs").rglob("*.log"):
        assert password not in log.read_text(errors="replace"), log


def test_the_same_data_gives_the_same_tables_again(demo: Demo, screen: str) -> None:
    before = demo.contents()
    code, again = demo.run(demo.data)
    assert code == 0, again
    assert demo.contents() == before


def test_a_missing_file_ends_with_its_name_and_leaves_what_is_served(demo: Demo, screen: str) -> None:
    before = demo.contents()
    code, failed = demo.run(demo.root / "nothing.csv")
    assert code == 1
    assert "✗ spark_etl" in failed
    assert str(demo.root / "nothing.csv") in failed.splitlines()[-2]
    assert failed.splitlines()[-1] == f"Everything that was logged: {demo.home}/logs/demo.log"
    assert "Traceback" not in failed
    assert demo.contents() == before
    assert demo.processes() == []


def test_an_interrupt_stops_everything_and_leaves_what_is_served(demo: Demo, screen: str) -> None:
    before = demo.contents()
    with demo.start("demo", "--data", str(demo.data)) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "reading 1 file" in line:
                process.send_signal(signal.SIGINT)
                break
        rest = process.stdout.read()
    assert process.returncode == 130
    assert rest.splitlines()[-1] == "Interrupted. What was served before is still served."
    assert demo.processes() == []
    assert demo.contents() == before


def test_feedback_is_taken_in_and_the_decision_shown(demo: Demo, screen: str) -> None:
    rows = pq.read_table(demo.data).to_pandas().dropna(subset="CustomerID")
    feedback = rows[(rows.Quantity > 0) & (rows.CustomerID % 3 == 0)]
    lines = feedback.apply(
        lambda row: f"{row.InvoiceDate:%Y-%m-%d %H:%M:%S},{row.CustomerID:.0f},{row.StockCode},{row.Quantity}", axis=1
    )
    streaming = demo.root / "data" / "streaming"
    streaming.mkdir()
    (streaming / "current.csv").write_text("\n".join(["DATE,CUST_ID,MOVIE_ID,RATING", *lines]) + "\n")
    code, told = demo.finish("drift")
    assert code == 0, told
    assert "The model stays: no term is over the threshold of 1" in told
    assert "skip_retrain" in told
    assert "merge_streaming_data" not in told
    report = Path(told.splitlines()[-1].removeprefix("Report: "))
    assert "<svg" in report.read_text()
    assert not list(streaming.iterdir())
    assert demo.processes() == []


def test_an_interrupted_search_for_settings_goes_on_with_the_next_call(demo: Demo, screen: str) -> None:
    with demo.start("tune", "--trials", "2") as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "trial 1 of 2" in line:
                process.send_signal(signal.SIGINT)
                break
        rest = process.stdout.read()
    assert process.returncode == 130
    assert rest.splitlines()[-1] == "Interrupted. The next call goes on where this one stopped."
    (study,) = (demo.root / "models" / "tuning").iterdir()
    tried = (study / "trials.csv").read_text().splitlines()
    code, found = demo.finish("tune", "--trials", "2")
    assert code == 0, found
    assert "trial 2 of 2" in found
    assert "trial 1 of 2" not in found
    assert (study / "trials.csv").read_text().splitlines()[:2] == tried
    assert found.splitlines()[-1].endswith(f"{study}/trials.csv")
    proposal = demo.config.with_name("small.proposed.toml")
    assert proposal.exists() != ("Nothing better found in 2 trials" in found)
    assert demo.processes() == []
