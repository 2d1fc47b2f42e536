"""The data sets of the database: columns of their files, stored tables and the views that readers use.

Tables live in the schema `internal`, one partition a generation; readers see the views of the same names in `public`.
Lists that are read as a whole (similar items, personal recs, a user's history) are stored as arrays, one row an entity.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final, Literal

from shortlist.columns import (
    AS_OF,
    AVAILABLE,
    CANDIDATE_FEATURES,
    CATEGORY,
    CURRENCY,
    ITEM,
    PRICE,
    RANK,
    RELEVANT,
    SCORE,
    SIMILAR_ITEM,
    SOURCE,
    TARGET,
    TIME,
    TITLE,
    URL,
    USER,
    WEIGHT,
)

Kind = Literal["text", "integer", "real", "boolean", "time", "text[]", "real[]", "time[]"]

# Byte order, not the server's language: the same order, hence the same result, on every server.
_SQL_TYPES: Final[dict[Kind, str]] = {
    "text": 'text COLLATE "C"',
    "integer": "integer",
    "real": "real",
    "boolean": "boolean",
    "time": "timestamptz",
    "text[]": 'text[] COLLATE "C"',
    "real[]": "real[]",
    "time[]": "timestamptz[]",
}


@dataclass(frozen=True)
class Column:
    """One column of a file. Where `optional`, the file may lack it, and a value may be missing."""

    name: str
    kind: Kind
    optional: bool = False

    @property
    def ddl(self) -> str:
        """Name and type of the stored column, nullable: the audit names what is missing, not the COPY."""
        return f"{self.name} {_SQL_TYPES[self.kind]}"


@dataclass(frozen=True)
class Packing:
    """How long rows become one row an entity.

    Attributes:
        stored: Array columns of the table.
        aggregates: One SQL aggregate a stored column.
    """

    entity: str
    stored: tuple[Column, ...]
    aggregates: tuple[str, ...]


@dataclass(frozen=True)
class Dataset:
    """One data set from file to view.

    Attributes:
        name: Of the file, the parent table and the view.
        columns: Of the file, or of the batches that the ranker writes.
        key: Columns that make a row unique.
        view: Columns of the view, as SQL over the stored table `t`.
        primary_key: Of the stored table, after `generation_id`; empty where nobody looks up single rows.
        packing: Where rows are stored as arrays.
        unnest: SQL that turns stored arrays into rows `r`, for the view.
        list_of: Whose ranked list a row belongs to; empty = one list for all. `None`: not ranked.
        recommended: The column with the items that are recommended: they must be available.
        not_seen: A user must not have the recommended item in `user_history`.
    """

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    view: dict[str, str]
    primary_key: tuple[str, ...] = ()
    packing: Packing | None = None
    unnest: str = ""
    list_of: tuple[str, ...] | None = None
    recommended: str | None = None
    not_seen: bool = False

    @property
    def stored(self) -> tuple[Column, ...]:
        """Columns of the stored table."""
        return (Column(self.packing.entity, "text"), *self.packing.stored) if self.packing else self.columns

    def select(self, generation: str) -> str:
        """Return the view's query over one generation: a number, or a subquery that finds it."""
        columns = ", ".join(f"{expression} AS {name}" for name, expression in self.view.items())
        return f"SELECT {columns} FROM internal.{self.name} AS t{self.unnest} WHERE t.generation_id = {generation}"


def _plain(*names: str) -> dict[str, str]:
    return {name: f"t.{name}" for name in names}


_FEATURES = tuple(Column(name, "real", optional=True) for name in CANDIDATE_FEATURES)

ITEMS: Final = Dataset(
    name="items",
    columns=(
        Column(ITEM, "text"),
        Column(TITLE, "text", optional=True),
        Column(CATEGORY, "text", optional=True),
        Column(AVAILABLE, "boolean"),
    ),
    key=(ITEM,),
    primary_key=(ITEM,),
    view=_plain(ITEM, TITLE)
    | {"attributes": f"jsonb_strip_nulls(jsonb_build_object('{CATEGORY}', t.{CATEGORY}))", AVAILABLE: f"t.{AVAILABLE}"},
)

USER_HISTORY: Final = Dataset(
    name="user_history",
    columns=(Column(USER, "text"), Column(ITEM, "text"), Column(TIME, "time"), Column(WEIGHT, "real")),
    key=(USER, ITEM),
    primary_key=(USER,),
    packing=Packing(
        entity=USER,
        stored=(Column("item_ids", "text[]"), Column("times", "time[]"), Column("weights", "real[]")),
        aggregates=tuple(f"array_agg({name} ORDER BY {TIME}, {ITEM})" for name in (ITEM, TIME, WEIGHT)),
    ),
    unnest=f" CROSS JOIN unnest(t.item_ids, t.times, t.weights) AS r({ITEM}, {TIME}, {WEIGHT})",
    view={USER: f"t.{USER}", ITEM: f"r.{ITEM}", TIME: f"r.{TIME}", WEIGHT: f"r.{WEIGHT}"},
)

DEFAULT_RECS: Final = Dataset(
    name="default_recs",
    columns=(Column(RANK, "integer"), Column(ITEM, "text"), Column(SCORE, "real")),
    key=(ITEM,),
    primary_key=(RANK,),
    view=_plain(RANK, ITEM, SCORE),
    list_of=(),
    recommended=ITEM,
)

ONLINE_RECS: Final = Dataset(
    name="online_recs",
    columns=(Column(ITEM, "text"), Column(RANK, "integer"), Column(SIMILAR_ITEM, "text"), Column(SCORE, "real")),
    key=(ITEM, SIMILAR_ITEM),
    primary_key=(ITEM,),
    packing=Packing(
        entity=ITEM,
        stored=(Column("similar_item_ids", "text[]"), Column("scores", "real[]")),
        aggregates=tuple(f"array_agg({name} ORDER BY {RANK})" for name in (SIMILAR_ITEM, SCORE)),
    ),
    unnest=(f" CROSS JOIN unnest(t.similar_item_ids, t.scores) WITH ORDINALITY AS r({SIMILAR_ITEM}, {SCORE}, {RANK})"),
    view={
        ITEM: f"t.{ITEM}",
        RANK: f"r.{RANK}::integer",
        SIMILAR_ITEM: f"r.{SIMILAR_ITEM}",
        SCORE: f"r.{SCORE}",
    },
    list_of=(ITEM,),
    recommended=SIMILAR_ITEM,
)

CANDIDATES_TRAIN: Final = Dataset(
    name="candidates_train",
    columns=(
        Column(USER, "text"),
        Column(ITEM, "text"),
        Column(SOURCE, "text", optional=True),
        *_FEATURES,
        Column(TARGET, "integer"),
        Column(AS_OF, "time", optional=True),
        Column(RELEVANT, "integer", optional=True),
    ),
    key=(USER, ITEM, AS_OF),
    view=_plain(USER, ITEM, SOURCE, *CANDIDATE_FEATURES, TARGET, AS_OF, RELEVANT),
)

CANDIDATES_INFERENCE: Final = Dataset(
    name="candidates_inference",
    columns=(Column(USER, "text"), Column(ITEM, "text"), Column(SOURCE, "text", optional=True), *_FEATURES),
    key=(USER, ITEM),
    primary_key=(USER, ITEM),
    view=_plain(USER, ITEM, SOURCE, *CANDIDATE_FEATURES),
    recommended=ITEM,
    not_seen=True,
)

PERSONAL_RECS: Final = Dataset(
    name="personal_recs",
    columns=(
        Column(USER, "text"),
        Column("item_ids", "text[]"),
        Column("scores", "real[]"),
        Column("sources", "text[]"),
    ),
    key=(USER, ITEM),
    primary_key=(USER,),
    unnest=(
        f" CROSS JOIN unnest(t.item_ids, t.scores, t.sources) WITH ORDINALITY AS r({ITEM}, {SCORE}, {SOURCE}, {RANK})"
    ),
    view={
        USER: f"t.{USER}",
        RANK: f"r.{RANK}::integer",
        ITEM: f"r.{ITEM}",
        SCORE: f"r.{SCORE}",
        SOURCE: f"r.{SOURCE}",
    },
    recommended=ITEM,
    not_seen=True,
)

DATASETS: Final = {
    dataset.name: dataset
    for dataset in (
        ITEMS,
        USER_HISTORY,
        DEFAULT_RECS,
        ONLINE_RECS,
        CANDIDATES_TRAIN,
        CANDIDATES_INFERENCE,
        PERSONAL_RECS,
    )
}


def _table_ddl(dataset: Dataset) -> str:
    columns = ", ".join(column.ddl for column in dataset.stored)
    key = f", PRIMARY KEY (generation_id, {', '.join(dataset.primary_key)})" if dataset.primary_key else ""
    return (
        f"CREATE TABLE internal.{dataset.name} (generation_id integer NOT NULL, {columns}{key})"
        " PARTITION BY LIST (generation_id)"
    )


def _view_ddl(dataset: Dataset) -> str:
    served = f"(SELECT generation_id FROM internal.served WHERE dataset = '{dataset.name}')"
    return f"CREATE VIEW public.{dataset.name} AS {dataset.select(served)}"


# `kept`: the rows are still in the database. `status`: loading → loaded → audited → published; else it came to nothing:
# refused (by the audit or because of its file), abandoned (a later attempt took over), superseded (a later week was
# served already), rolled_back, retired.
SCHEMA_DDL: Final = (
    "CREATE SCHEMA IF NOT EXISTS internal",
    """
    CREATE TABLE internal.generations (
        generation_id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        dataset       text NOT NULL,
        run_key       text NOT NULL,
        week          date NOT NULL,
        fingerprint   text NOT NULL,
        model_version text,
        status        text NOT NULL DEFAULT 'loading',
        kept          boolean NOT NULL DEFAULT true,
        rows          bigint,
        metrics       jsonb NOT NULL DEFAULT '{}',
        created_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
        loaded_at     timestamptz,
        audited_at    timestamptz,
        published_at  timestamptz
    )
    """,
    "CREATE INDEX ON internal.generations (dataset, run_key)",
    """
    CREATE TABLE internal.served (
        dataset       text PRIMARY KEY,
        generation_id integer NOT NULL REFERENCES internal.generations,
        since         timestamptz NOT NULL
    )
    """,
    "CREATE VIEW public.generations AS SELECT * FROM internal.generations",
    """
    CREATE VIEW public.served AS
    SELECT s.dataset, s.generation_id, g.run_key, g.week, g.model_version, g.rows, g.metrics, s.since
    FROM internal.served AS s JOIN internal.generations AS g USING (generation_id)
    """,
    *(_table_ddl(dataset) for dataset in DATASETS.values()),
    *(_view_ddl(dataset) for dataset in DATASETS.values()),
)

_ATTRIBUTES: Final = (
    f"jsonb_strip_nulls(jsonb_build_object('{CATEGORY}', {{category}}, '{PRICE}', c.{PRICE},"
    f" '{CURRENCY}', c.{CURRENCY}, '{URL}', c.{URL}))"
)
_SERVED_ITEMS: Final = f"(SELECT generation_id FROM internal.served WHERE dataset = '{ITEMS.name}')"


def items_with_catalogue(catalogue: str) -> str:
    """Return the query of the view `items`: the served generation, and over it what a catalogue tells.

    What the catalogue does not tell is that of the generation; items that only the catalogue has are there, too.

    Args:
        catalogue: SQL relation with the columns of `service.catalogue_items`.
    """
    category = _ATTRIBUTES.format(category=f"coalesce(c.{CATEGORY}, t.{CATEGORY})")
    return f"""
        SELECT t.{ITEM}, coalesce(c.{TITLE}, t.{TITLE}) AS {TITLE}, {category} AS attributes,
               coalesce(c.{AVAILABLE}, t.{AVAILABLE}) AS {AVAILABLE}
        FROM internal.{ITEMS.name} AS t LEFT JOIN {catalogue} AS c ON c.{ITEM} = t.{ITEM}
        WHERE t.generation_id = {_SERVED_ITEMS}
        UNION ALL
        SELECT c.{ITEM}, c.{TITLE}, {_ATTRIBUTES.format(category=f"c.{CATEGORY}")}, coalesce(c.{AVAILABLE}, true)
        FROM {catalogue} AS c WHERE NOT EXISTS (
            SELECT FROM internal.{ITEMS.name} AS t WHERE t.generation_id = {_SERVED_ITEMS} AND t.{ITEM} = c.{ITEM}
        )
    """


# Takes the place of the first view `items`, with the same columns: readers notice nothing, no table changes. Audits and
# loads read the generations, never this view.
ITEMS_VIEW_DDL: Final = (
    f"CREATE OR REPLACE VIEW public.{ITEMS.name} AS {items_with_catalogue('service.catalogue_items')}"
)
ITEMS_VIEW_VERSION: Final = hashlib.sha256(ITEMS_VIEW_DDL.encode()).hexdigest()[:16]

# Changes with every table and column.
SCHEMA_VERSION: Final = hashlib.sha256("".join(SCHEMA_DDL).encode()).hexdigest()[:16]
