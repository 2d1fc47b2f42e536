"""`make compose-demo`: trigger the whole chain through Airflow's REST API, show its progress, then what is served."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from typing import Any

import psycopg2
import requests
from rich.console import Console
from rich.table import Table

API = "http://airflow-apiserver:8080"
LOADS = ("load_default_recs", "load_online_recs", "load_candidates_train", "load_candidates_inference")
STAGES = (("etl_train_test_pipeline",), LOADS, ("load_candidates_ranked",))
LIMIT_SECONDS = 3 * 60 * 60

_TRIES = 24

_ENDED = {"success": "✓", "failed": "✗", "skipped": "-", "upstream_failed": "✗"}

# The users with the longest lists of titles that everybody knows make the poorest examples: take some of the middle.
_EXAMPLES = """
    SELECT user_id FROM user_history WHERE user_id IN (SELECT user_id FROM personal_recs)
    GROUP BY user_id HAVING count(*) BETWEEN 5 AND 40 ORDER BY md5(user_id) LIMIT 3
"""
_HISTORY = """
    SELECT coalesce(title, item_id) FROM user_history LEFT JOIN items USING (item_id)
    WHERE user_id = %s ORDER BY time DESC, item_id LIMIT 10
"""
_RECOMMENDED = """
    SELECT coalesce(title, item_id), source FROM personal_recs LEFT JOIN items USING (item_id)
    WHERE user_id = %s ORDER BY rank LIMIT 10
"""


class Airflow:
    """Airflow's REST API, version 2."""

    def __init__(self, base: str, user: str, password: str) -> None:
        self._base = base
        self._session = requests.Session()
        answer = self._session.post(f"{base}/auth/token", json={"username": user, "password": password}, timeout=60)
        answer.raise_for_status()
        self._session.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"

    def trigger(self, dag_id: str) -> str:
        """Start a run and return its id. The DAG is switched on if it is off."""
        self.call("PATCH", f"dags/{dag_id}", {"is_paused": False})
        return str(self.call("POST", f"dags/{dag_id}/dagRuns", {"logical_date": None})["dag_run_id"])

    def state(self, dag_id: str, run_id: str) -> str:
        """Return the state of a run."""
        return str(self.call("GET", f"dags/{dag_id}/dagRuns/{run_id}")["state"])

    def tasks(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """Return the tasks of a run."""
        answer = self.call("GET", f"dags/{dag_id}/dagRuns/{run_id}/taskInstances")
        return list(answer["task_instances"])

    def call(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        """Send a request and return what is answered. While Airflow is being restarted, all but POST are sent again.

        Raises:
            requests.RequestException: If Airflow refuses, or does not answer for two minutes.
        """
        for attempt in range(_TRIES):
            with suppress(requests.ConnectionError):
                answer = self._session.request(method, f"{self._base}/api/v2/{path}", json=body, timeout=60)
                if answer.status_code < 500 or method == "POST" or attempt == _TRIES - 1:
                    answer.raise_for_status()
                    return dict(answer.json()) if answer.content else {}
            time.sleep(5)
        raise requests.ConnectionError(f"{self._base} does not answer")


def main() -> int:
    """Run the chain.

    Returns:
        The exit code.
    """
    console = Console(highlight=False)
    started = time.monotonic()
    airflow = Airflow(API, os.environ["ADMIN_USER"], os.environ["ADMIN_PASSWORD"])
    for stage in STAGES:
        if not run_stage(airflow, stage, console):
            console.print("The chain stopped; what was served before is still served.", style="red")
            return 1
    show_served(console)
    console.print(f"\nThe whole chain took {time.monotonic() - started:.0f} s.")
    return 0


def run_stage(airflow: Airflow, dag_ids: tuple[str, ...], console: Console) -> bool:
    """Run some DAGs side by side and print each task as it ends.

    Returns:
        Whether all of them succeeded.
    """
    runs = {dag_id: airflow.trigger(dag_id) for dag_id in dag_ids}
    told: set[tuple[str, str]] = set()
    deadline = time.monotonic() + LIMIT_SECONDS
    while time.monotonic() < deadline:
        states = {dag_id: airflow.state(dag_id, run_id) for dag_id, run_id in runs.items()}
        with console.status(", ".join(dag_id for dag_id, state in states.items() if state not in _ENDED) or "done"):
            for dag_id, run_id in runs.items():
                for task in airflow.tasks(dag_id, run_id):
                    key = (dag_id, task["task_id"])
                    if task["state"] in _ENDED and key not in told:
                        told.add(key)
                        console.print(
                            f"{_ENDED[task['state']]} {dag_id:<26} {task['task_id']:<26} {task['duration'] or 0:6.1f} s"
                        )
            if all(state in _ENDED for state in states.values()):
                return all(state == "success" for state in states.values())
            time.sleep(1)
    console.print(f"not done after {LIMIT_SECONDS} s: {', '.join(dag_ids)}", style="red")
    return False


def show_served(console: Console) -> None:
    """Print the served generations, and three users with their history and recommendations."""
    with psycopg2.connect(os.environ["RECS_DATABASE_URL"]) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT dataset, generation_id, rows FROM served")
        served = Table("served", "generation", "rows", title="What readers see now")
        for row in sorted(cursor.fetchall()):
            served.add_row(*map(str, row))
        console.print(served)
        cursor.execute(_EXAMPLES)
        for (user,) in cursor.fetchall():
            cursor.execute(_HISTORY, [user])
            history = [title for (title,) in cursor.fetchall()]
            cursor.execute(_RECOMMENDED, [user])
            recommended = [f"{title} ({source})" for title, source in cursor.fetchall()]
            example = Table("took last", "is recommended", title=f"user {user}")
            for position in range(10):
                example.add_row(*(part[position] if position < len(part) else "" for part in (history, recommended)))
            console.print(example)


if __name__ == "__main__":
    sys.exit(main())
