"""Check an input file against the settings, without writing anything."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from shortlist.columns import RAW, REASON, SOURCE_FILE, SOURCE_ROW
from shortlist.errors import InputError
from shortlist.recommender import interactions
from shortlist.stores import readers
from steps import etl

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pyspark.sql import DataFrame, SparkSession

    from shortlist.settings import Settings

_EXAMPLES = 3
_LONGEST_EXAMPLE = 300


def validate_file(spark: SparkSession, *, settings: Settings, path: str) -> dict[str, Any]:
    """Find every problem that `spark_etl` would have with a file.

    Args:
        spark: Session owned by the caller.
        settings: What is valid.
        path: A file, folder or glob.

    Returns:
        `path`; `passes`; `error` (why nothing could be read, else null); `read`, `accepted`; `share` of the rows that
        count as bad and its `limit`; `problems`: a list of `reason`, `count`, `tolerated`, `remedy`, `examples`
        (`file`, `row`, `raw`), most frequent first.
    """
    settings = replace(settings, input=replace(settings.input, path=path))
    result: dict[str, Any] = {
        "path": path,
        "passes": False,
        "error": None,
        "read": 0,
        "accepted": 0,
        "share": 0.0,
        "limit": settings.interactions.max_rejected_share,
        "problems": [],
    }
    try:
        found = readers.list_files(path)
        with readers.readable_errors():
            as_of = datetime.now(UTC).isoformat()
            rows = etl.validated_rows(spark, found, settings=settings, as_of=as_of).persist()
            try:
                result |= _inspect(spark, rows, settings)
            finally:
                rows.unpersist()
        readers.check_unchanged(path, found)
    except InputError as error:
        result |= {"error": str(error), "passes": False}
    return result


def render_validation(result: Mapping[str, Any]) -> str:
    """Return the result of `validate_file` as text for a person."""
    if result["error"]:
        return f"{result['path']}: does not pass\n  {result['error']}"
    verdict = "passes" if result["passes"] else "does not pass"
    lines = [
        f"{result['path']}: {verdict}",
        f"  {result['read']:,} rows, {result['accepted']:,} accepted; {result['share']:.2%} of the rows are bad beyond "
        f"what is tolerated, the limit is {result['limit']:.2%}",
    ]
    for problem in result["problems"]:
        note = "tolerated" if problem["tolerated"] else problem["remedy"]
        lines.append(f"  {problem['reason']}: {problem['count']:,} rows ({note})")
        lines += [f"    {each['file']}, row {each['row']:,}: {each['raw']}" for each in problem["examples"]]
    return "\n".join(lines)


def _inspect(spark: SparkSession, rows: DataFrame, settings: Settings) -> dict[str, Any]:
    blocks = etl.count_by_block(rows)
    read = sum(block["rows"] for block in blocks)
    valid = sum(block["rows"] for block in blocks if block[REASON] is None)
    distinct = interactions.distinct_interactions(rows).persist()
    try:
        counts = etl.count_reasons(blocks, valid - distinct.count())
        rejected = etl.rejected_rows(spark, rows, distinct, blocks, settings=settings)
        examples = {reason: _examples(rejected, reason) for reason in counts}
    finally:
        distinct.unpersist()
    share = etl.counted_share(counts, read, settings.interactions)
    accepted = read - sum(counts.values())
    return {
        "passes": bool(accepted) and share <= settings.interactions.max_rejected_share,
        "read": read,
        "accepted": accepted,
        "share": share,
        "problems": [
            {
                "reason": reason,
                "count": count,
                "tolerated": reason in settings.interactions.tolerated,
                "remedy": interactions.REMEDIES[reason],
                "examples": examples[reason],
            }
            for reason, count in counts.items()
        ],
    }


def _examples(rejected: DataFrame, reason: str) -> list[dict[str, Any]]:
    from pyspark.sql import functions as F

    first = rejected.where(F.col(REASON) == reason).orderBy(SOURCE_FILE, SOURCE_ROW).limit(_EXAMPLES).collect()
    return [{"file": row[SOURCE_FILE], "row": row[SOURCE_ROW], "raw": row[RAW][:_LONGEST_EXAMPLE]} for row in first]
