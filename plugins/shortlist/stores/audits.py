"""The rules a loaded generation must keep before anybody may see it, each one SQL query for the rows that break it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shortlist.columns import AVAILABLE, ITEM, RANK, SCORE, SIMILAR_ITEM, SOURCE, SOURCES, TARGET, USER
from shortlist.stores.datasets import (
    CANDIDATES_INFERENCE,
    CANDIDATES_TRAIN,
    DEFAULT_RECS,
    ITEMS,
    ONLINE_RECS,
    PERSONAL_RECS,
    USER_HISTORY,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from psycopg2.extensions import cursor as Cursor  # noqa: N812 - the driver's own name is lower case

    from shortlist.settings import PublishSettings
    from shortlist.stores.datasets import Dataset

# Longer keys do not fit into an index row.
MAX_ID_BYTES = 1200
_EXAMPLES = 5


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        name: As stored in the metrics of a generation.
        problem: What it means when rows break it, for the message.
        query: Selects one text for each breach; empty if `not_checked` tells why it cannot be checked.
    """

    name: str
    problem: str
    query: str
    not_checked: str = ""


def check(
    cursor: Cursor, dataset: Dataset, rows: str, *, served: Mapping[str, int], publish: PublishSettings
) -> dict[str, Any]:
    """Check all rules of a data set.

    Args:
        cursor: Of the transaction that will also mark the generation.
        dataset: What the rows are.
        rows: The SQL relation with the generation's rows, one row an item of a list.
        served: The generations readers see now, by data set.
        publish: List lengths, and whether repeats are allowed.

    Returns:
        By rule: `{"broken": 0}`, `{"broken": n, "problem": text, "examples": [text]}` or `{"not_checked": reason}`.
    """
    found: dict[str, Any] = {}
    for rule in rules(dataset, rows, served=served, publish=publish):
        if rule.not_checked:
            found[rule.name] = {"not_checked": rule.not_checked}
            continue
        cursor.execute(
            f"WITH broken (example) AS MATERIALIZED ({rule.query})"
            f" SELECT (SELECT count(*) FROM broken), ARRAY(SELECT left(example, 200) FROM broken LIMIT {_EXAMPLES})"
        )
        count, examples = cursor.fetchone() or (0, [])
        found[rule.name] = {"broken": count, "problem": rule.problem, "examples": examples} if count else {"broken": 0}
    return found


def broken(found: Mapping[str, Any]) -> str:
    """Return one sentence with every broken rule, its count and examples; empty if all are kept."""
    return "; ".join(
        f"{name}: {result['problem']} ({result['broken']}, for example {', '.join(map(str, result['examples']))})"
        for name, result in found.items()
        if result.get("broken")
    )


def rules(dataset: Dataset, rows: str, *, served: Mapping[str, int], publish: PublishSettings) -> Iterator[Rule]:
    """Yield the rules of one data set; see `check`."""
    yield from _complete(dataset, rows, publish)
    if dataset.list_of is not None:
        yield from _ranked(dataset, rows, dataset.list_of)
    yield from _known_items(dataset, rows, served)
    if dataset.not_seen:
        yield _not_seen(rows, served, publish)
    if dataset is ONLINE_RECS:
        yield Rule(
            "self_similar", "an item similar to itself", f"SELECT {ITEM} FROM {rows} WHERE {ITEM} = {SIMILAR_ITEM}"
        )
    if dataset is CANDIDATES_TRAIN:
        yield Rule(
            "target_values",
            "a target that is neither 0 nor 1",
            f"SELECT {_label(USER, ITEM, TARGET)} FROM {rows} WHERE {TARGET} NOT IN (0, 1)",
        )
        yield Rule(
            "both_classes",
            "all targets are the same, so there is nothing to learn",
            f"SELECT 'target=' || min({TARGET}) FROM {rows} HAVING count(DISTINCT {TARGET}) = 1",
        )
    if any(column.name in (SOURCE, "sources") for column in dataset.columns):
        names = ", ".join(f"'{name}'" for name in SOURCES)
        yield Rule(
            "known_source",
            f"a source other than {', '.join(SOURCES)}, joined by +",
            f"SELECT {_label(USER, ITEM, SOURCE)} FROM {rows}"
            f" WHERE NOT string_to_array({SOURCE}, '+') <@ ARRAY[{names}]",
        )
    if dataset is PERSONAL_RECS:
        yield from _personal(rows, served, publish)


def _complete(dataset: Dataset, rows: str, publish: PublishSettings) -> Iterator[Rule]:
    at_least = publish.k if dataset is DEFAULT_RECS else 1
    yield Rule(
        "enough_rows",
        f"fewer than {at_least} rows",
        f"SELECT count(*) || ' rows' FROM {rows} HAVING count(*) < {at_least}",
    )
    columns = [column for column in dataset.columns if not column.kind.endswith("[]")]
    texts = [column.name for column in columns if column.kind == "text" and not column.optional]
    reals = [column.name for column in columns if column.kind == "real"]
    required = [column.name for column in columns if not column.optional]
    if dataset is PERSONAL_RECS:
        texts, reals, required = [USER, ITEM, SOURCE], [SCORE], [USER, RANK, ITEM, SCORE, SOURCE]
    label = _label(*dataset.key)
    yield Rule(
        "no_missing_value",
        f"an empty {', '.join(required)}",
        f"SELECT {label} FROM {rows} WHERE "
        + " OR ".join([*(f"{name} IS NULL" for name in required), *(f"{name} = ''" for name in texts)]),
    )
    yield Rule(
        "short_ids",
        f"an id of more than {MAX_ID_BYTES} bytes",
        f"SELECT {label} FROM {rows} WHERE " + " OR ".join(f"octet_length({name}) > {MAX_ID_BYTES}" for name in texts),
    )
    if reals:
        # NaN is greater than infinity in PostgreSQL.
        yield Rule(
            "finite_numbers",
            "NaN or infinity",
            f"SELECT {label} FROM {rows} WHERE " + " OR ".join(f"NOT abs({name}) < 'Infinity'" for name in reals),
        )
    yield Rule(
        "unique_rows",
        f"more than one row with the same {', '.join(dataset.key)}",
        f"SELECT {label} FROM {rows} GROUP BY {', '.join(dataset.key)} HAVING count(*) > 1",
    )


def _ranked(dataset: Dataset, rows: str, list_of: tuple[str, ...]) -> Iterator[Rule]:
    label = _label(*list_of) if list_of else "'the list'"
    group = f"GROUP BY {', '.join(list_of)}" if list_of else ""
    partition = f"PARTITION BY {', '.join(list_of)}" if list_of else ""
    yield Rule(
        "ranks_without_gaps",
        "ranks that are not 1, 2, 3, …",
        f"SELECT {label} FROM {rows} {group}"
        f" HAVING min({RANK}) <> 1 OR max({RANK}) <> count(*) OR count(DISTINCT {RANK}) <> count(*)",
    )
    yield Rule(
        "scores_fall",
        "a score above that of the rank before",
        f"SELECT {_label(*dict.fromkeys((*list_of, RANK)))} FROM (SELECT *, {SCORE} >"
        f" lag({SCORE}) OVER ({partition} ORDER BY {RANK}) AS rises FROM {rows}) AS neighbours WHERE rises",
    )


def _known_items(dataset: Dataset, rows: str, served: Mapping[str, int]) -> Iterator[Rule]:
    if dataset in (ITEMS, USER_HISTORY):
        return
    item_columns = [ITEM, SIMILAR_ITEM] if dataset is ONLINE_RECS else [ITEM]
    generation = served.get(ITEMS.name)
    missing = "" if generation else f"no {ITEMS.name} served"
    items = f"internal.{ITEMS.name}_{generation}"
    yield Rule(
        "known_items",
        f"an item that the served generation of {ITEMS.name} does not have",
        " UNION ALL ".join(
            f"SELECT DISTINCT {_label(name)} FROM {rows}"
            f" WHERE {name} <> '' AND NOT EXISTS (SELECT FROM {items} AS i WHERE i.{ITEM} = rows.{name})"
            for name in item_columns
        ),
        missing,
    )
    if dataset.recommended:
        yield Rule(
            "available_items",
            "an item that is not available",
            f"SELECT {_label(dataset.recommended)} FROM {rows} WHERE EXISTS"
            f" (SELECT FROM {items} AS i WHERE i.{ITEM} = rows.{dataset.recommended} AND NOT i.{AVAILABLE})",
            missing,
        )


def _not_seen(rows: str, served: Mapping[str, int], publish: PublishSettings) -> Rule:
    generation = served.get(USER_HISTORY.name)
    missing = "" if generation else f"no {USER_HISTORY.name} served"
    if publish.allow_repeats:
        missing = "repeats are allowed"
    return Rule(
        "not_seen",
        "an item that the user already has",
        f"SELECT {_label(USER, ITEM)} FROM {rows} WHERE EXISTS"
        f" (SELECT FROM internal.{USER_HISTORY.name}_{generation} AS h CROSS JOIN unnest(h.item_ids) AS seen ({ITEM})"
        f" WHERE h.{USER} = rows.{USER} AND seen.{ITEM} = rows.{ITEM})",
        missing,
    )


def _personal(rows: str, served: Mapping[str, int], publish: PublishSettings) -> Iterator[Rule]:
    left = _left_for_user(served, publish)
    yield Rule(
        "exactly_k",
        f"a user who has not exactly {publish.k} recommendations, nor all that are left for them",
        f"SELECT {_label(USER)} || ' items=' || n FROM (SELECT {USER}, count({ITEM}) AS n FROM {rows} GROUP BY {USER})"
        f" AS lists WHERE CASE WHEN n < {publish.k} THEN n < {left} ELSE n > {publish.k} END",
    )
    candidates, history = served.get(CANDIDATES_INFERENCE.name), served.get(USER_HISTORY.name)
    yield Rule(
        "no_user_missing",
        f"a user of {USER_HISTORY.name} with candidates, but without recommendations",
        f"SELECT {_label('h.' + USER)} FROM internal.{USER_HISTORY.name}_{history} AS h"
        f" WHERE EXISTS (SELECT FROM internal.{CANDIDATES_INFERENCE.name}_{candidates} AS c WHERE c.{USER} = h.{USER})"
        f" AND NOT EXISTS (SELECT FROM {rows} WHERE rows.{USER} = h.{USER})",
        "" if candidates and history else f"no {USER_HISTORY.name} or no {CANDIDATES_INFERENCE.name} served",
    )


def _left_for_user(served: Mapping[str, int], publish: PublishSettings) -> str:
    """SQL for the number of available items that the user of `lists` has not met; a small shop has fewer than K."""
    items, history = served.get(ITEMS.name), served.get(USER_HISTORY.name)
    if items is None:
        return str(publish.k)
    unseen = ""
    if history and not publish.allow_repeats:
        unseen = (
            f" AND NOT EXISTS (SELECT FROM internal.{USER_HISTORY.name}_{history} AS h"
            f" WHERE h.{USER} = lists.{USER} AND i.{ITEM} = ANY (h.item_ids))"
        )
    return f"(SELECT count(*) FROM internal.{ITEMS.name}_{items} AS i WHERE i.{AVAILABLE}{unseen})"


def _label(*names: str) -> str:
    """SQL for `user_id=7 item_id=9`."""
    texts = (f"'{name.rpartition('.')[2]}=' || coalesce({name}::text, 'missing')" for name in names)
    return f"concat_ws(' ', {', '.join(texts)})"
