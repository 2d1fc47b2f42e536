"""What a run of the demo achieved, for programs (`data/summary.json`) and on the screen."""

from __future__ import annotations

from contextlib import closing
from itertools import groupby, zip_longest
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from embedded import report
from embedded.progress import printable
from shortlist.reports.plots import MODELS
from shortlist.stores import files

if TYPE_CHECKING:
    from datetime import datetime

    from rich.console import Console

    from shortlist.settings import Settings

_VIEWS = ("default_recs", "online_recs", "candidates_train", "candidates_inference", "personal_recs")
_SHOWN = 10

# A light, a middling and a heavy user: those at a quarter, half and nine tenths of all history lengths.
_EXAMPLE_USERS = """
WITH lengths AS (
    SELECT user_id, row_number() OVER (ORDER BY count(*), user_id) AS place, count(*) OVER () AS users
    FROM user_history JOIN (SELECT user_id FROM personal_recs WHERE rank = 1) AS served USING (user_id)
    GROUP BY user_id
)
SELECT user_id FROM lengths
WHERE place IN (ceil(users * 0.25), ceil(users * 0.5), ceil(users * 0.9)) ORDER BY place
"""
_HISTORY = """
SELECT item_id, coalesce(title, item_id) AS title, to_char(time AT TIME ZONE 'UTC', 'YYYY-MM-DD') AS date
FROM user_history LEFT JOIN items USING (item_id) WHERE user_id = %s ORDER BY time DESC, item_id
"""
_RECOMMENDATIONS = """
SELECT rank, item_id, coalesce(title, item_id) AS title, score, source
FROM personal_recs LEFT JOIN items USING (item_id) WHERE user_id = %s ORDER BY rank
"""


def collect(
    settings: Settings, url: str, *, ranker_path: str, started: datetime, seconds: list[dict[str, Any]]
) -> dict[str, Any]:
    """Gather counts, metrics, examples, times and places of a finished run.

    Args:
        settings: Tells where the reports of the steps lie.
        url: Of the database with the served views.
        ranker_path: Version folder with `metrics.json`.
        started: When the run began.
        seconds: From `Progress.seconds`.
    """
    from embedded.home import home_folder

    etl = files.read_json(settings.paths.etl_report)
    evaluation = files.read_json(f"{ranker_path}/metrics.json")
    window = evaluation["window"]
    run = f"{started:%Y%m%dT%H%M%S}"
    return {
        "run": run,
        "started": started.isoformat(timespec="seconds"),
        "data": settings.input.path,
        "rows": {name: etl[name] for name in ("read", "accepted", "rejected", "tolerated")},
        "interactions": {name: etl[name] for name in ("users", "items", "first", "last", "fingerprint")},
        "evaluation": evaluation | {"window": {"from": window["from"] or "", "to": window["to"] or etl["last"]}},
        **_read_tables(url),
        "seconds": seconds,
        "total_seconds": round(sum(step["seconds"] for step in seconds), 1),
        "where": {
            "report": f"{settings.paths.reports}/{run}/index.html",
            "stage_one_models": settings.paths.model_versions,
            "ranker": ranker_path,
            "quarantine": settings.paths.quarantine,
            "logs": str(home_folder() / "logs"),
            "tables": "make psql",
        },
    }


def write(settings: Settings, results: dict[str, Any]) -> None:
    """Write `data/summary.json` and the HTML report."""
    files.write_bytes(results["where"]["report"], report.render(results).encode())
    files.write_json(f"{settings.paths.root}/data/summary.json", results)


def show(console: Console, results: dict[str, Any]) -> None:
    """Print the results."""
    _show_rows(console, results)
    _show_metrics(console, results["evaluation"])
    for example in results["examples"]:
        _show_example(console, example)
    _show_seconds(console, results)
    where = results["where"]
    places = Table.grid(padding=(0, 2))
    for name, place in (
        ("page", "make serve"),
        ("tables", f"{', '.join(results['published'])}: {where['tables']}"),
        ("report", where["report"]),
        ("models", f"{where['stage_one_models']}, {where['ranker']}"),
        ("rejected rows", where["quarantine"]),
        ("logs", where["logs"]),
    ):
        places.add_row(Text(name, style="bold"), Text(place, overflow="fold"))
    console.print()
    console.print(places)


def cell(value: dict[str, float] | None) -> str:
    """Return a metric as text, with its interval where there is one."""
    if value is None:
        return ""
    interval = f" {value['low']:.3f}–{value['high']:.3f}" if "low" in value else ""
    return f"{value['mean']:.3f}{interval}"


def _read_tables(url: str) -> dict[str, Any]:
    import psycopg2
    from psycopg2.extras import RealDictCursor

    with closing(psycopg2.connect(url)) as connection, connection.cursor(cursor_factory=RealDictCursor) as cursor:

        def rows(query: str, *arguments: str) -> list[dict[str, Any]]:
            cursor.execute(query, arguments)
            return [dict(row) for row in cursor.fetchall()]

        published = {view: rows(f"SELECT count(*) AS rows FROM {view}")[0]["rows"] for view in _VIEWS}  # noqa: S608
        examples = [
            {
                "user_id": user["user_id"],
                "history": rows(_HISTORY, user["user_id"]),
                "recommendations": rows(_RECOMMENDATIONS, user["user_id"]),
            }
            for user in rows(_EXAMPLE_USERS)
        ]
    return {"published": published, "examples": examples}


def _table(title: str) -> Table:
    return Table(
        title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True
    )


def _show_rows(console: Console, results: dict[str, Any]) -> None:
    rows, facts = results["rows"], results["interactions"]
    table = _table(escape(f"Rows of {printable(results['data'])}"))
    table.add_column("outcome")
    table.add_column("rows", justify="right")
    table.add_row("accepted", f"{rows['accepted']:,}")
    for reason, count in sorted(rows["rejected"].items(), key=lambda item: -item[1]):
        note = " (tolerated)" if reason in rows["tolerated"] else ""
        table.add_row(f"rejected: {reason}{note}", f"{count:,}")
    table.add_row("read", f"{rows['read']:,}", style="bold")
    console.print()
    console.print(table)
    days = f"{facts['first'][:10]} to {facts['last'][:10]}"
    console.print(f"{facts['users']:,} users and {facts['items']:,} items, {days}")


def _show_metrics(console: Console, evaluation: dict[str, Any]) -> None:
    window = evaluation["window"]
    span = f"{window['from'][:10]} to {window['to'][:10]}"
    title = f"Held-out window {span}: {evaluation['users']:,} users, with 95 % intervals"
    table = _table(title)
    table.add_column("model", no_wrap=True)
    for metric in report.METRICS.values():
        table.add_column(metric, justify="right")
    for model, name in MODELS.items():
        values = evaluation["models"].get(model, {})
        table.add_row(name, *(cell(values.get(metric)).replace(" ", "\n") for metric in report.METRICS))
    console.print()
    console.print(table)
    console.print(Text(f"The gate {evaluation['gate']['reason']}"))


def _show_example(console: Console, example: dict[str, Any]) -> None:
    history, recommendations = example["history"], example["recommendations"]
    columns = _table(escape(f"User {printable(example['user_id'])}: {len(history)} items so far, newest first"))
    columns.add_column("history")
    columns.add_column("recommended")
    columns.add_column("source")
    for taken, offered in zip_longest(history[:_SHOWN], recommendations[:_SHOWN]):
        columns.add_row(
            Text(f"{taken['date']}  {printable(taken['title'])}" if taken else ""),
            Text(f"{offered['rank']:>2}  {printable(offered['title'])}" if offered else ""),
            Text(str(offered["source"]) if offered else ""),
        )
    console.print()
    console.print(columns)


def _show_seconds(console: Console, results: dict[str, Any]) -> None:
    table = _table(f"{results['total_seconds']:.1f} seconds")
    table.add_column("group", no_wrap=True)
    table.add_column("all", justify="right")
    table.add_column("each step")
    for group, steps in groupby(results["seconds"], key=itemgetter("group")):
        each = list(steps)
        table.add_row(
            group,
            f"{sum(step['seconds'] for step in each):.1f}",
            ", ".join(f"{step['step']} {step['seconds']:.1f}" for step in each),
        )
    console.print()
    console.print(table)
