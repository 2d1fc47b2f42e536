"""Typed settings, one frozen dataclass per concern, read from `config/pipeline.toml` and checked when built."""

from __future__ import annotations

import codecs
import os
import re
import tomllib
from dataclasses import field
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from shortlist.errors import SettingsError

# Where config/ and sample_data/ lie. Code that was shipped or comes from Git lies elsewhere, and names the folder.
PROJECT_ROOT = Path(os.environ.get("SHORTLIST_PROJECT") or Path(__file__).resolve().parents[2])

_STRICT = ConfigDict(extra="forbid")

# Stands for the number of a page in `[catalogue.crawl].start_url`.
PAGE_NUMBER = "{page}"


@dataclass(frozen=True, config=_STRICT)
class ColumnSettings:
    """Names of the columns in the user's files. `None`: the file has no such column."""

    user: str = "user_id"
    item: str = "item_id"
    time: str = "time"
    weight: str | None = None
    event: str | None = None
    title: str | None = None
    category: str | None = None


@dataclass(frozen=True, config=_STRICT)
class FileSettings:
    """How to read files of interactions.

    Attributes:
        format: `auto` decides by the file name.
        timezone: IANA name; of times that carry no zone of their own.
        delimiter: Of CSV files.
        encoding: Of CSV and JSON lines files, a name Spark knows.
        multiline: Quoted CSV fields may hold line breaks. `False` lets Spark split one large file between cores.
        columns: What they are called there.
    """

    format: Literal["auto", "parquet", "csv", "jsonl", "netflix"] = "auto"
    timezone: str = "UTC"
    delimiter: str = ","
    encoding: str = "UTF-8"
    multiline: bool = True
    columns: ColumnSettings = field(default_factory=ColumnSettings)


@dataclass(frozen=True, config=_STRICT)
class InputSettings(FileSettings):
    """Where the interactions lie and how to read them.

    Attributes:
        path: A file, folder or glob, relative to the project or absolute or a URL such as `s3://…`.
    """

    path: str = "sample_data/online_retail.parquet"


@dataclass(frozen=True, config=_STRICT)
class CrawlFieldSettings:
    """Where a page says what is known of an item: selectors, from the item's element on. `None`: it does not."""

    item_id: str = "::attr(data-id)"
    title: str = ".title::text"
    category: str | None = None
    price: str | None = None
    currency: str | None = None
    available: str | None = None
    url: str | None = None


@dataclass(frozen=True, config=_STRICT)
class CrawlSettings:
    """How `catalogue_refresh` reads the catalogue from pages of a web site.

    Selectors are CSS with `::text` and `::attr(…)`, or XPath after `xpath:`; with JSON they are JMESPath.

    Attributes:
        start_url: The first page. `None`: there is no such site. No page of another host is ever asked for. With
            `{page}` in it, pages are numbered from 1; the last one is the one before the first that has no items, has
            gone (404), or shows what the first or the one before it did.
        format: What the pages are.
        item: Selects the items of a page.
        next: Selects the links to further pages, one or many. `None`: there is one page, or pages are numbered.
        total: Selects the number of items that the site says it has; a crawl that finds fewer fails.
        encoding: Of the pages, where they do not say so or lie.
        currency: Of prices that name none, three letters.
        decimal_comma: Prices are written 1.234,50.
        in_stock: Regular expression of the texts that mean available; and so `out_of_stock`.
        optional: Fields an item may lack; one that lacks another is quarantined.
        tolerated: Reasons that do not count against `max_rejected_share`.
        max_rejected_share: Of the items; above it the crawl fails.
        min_share: Of the items of the crawl before; a crawl with fewer fails.
        delay_seconds: Between two requests, at least; robots.txt may ask for more, a slow site gets more.
        concurrent: Requests under way at the same time; more than one only helps where pages link to many others.
        retries: Of one page, for errors that may pass.
        backoff_seconds: Before the first retry, doubled for each further one.
        max_wait_seconds: The longest such wait. A site that asks for a longer one fails the crawl.
        timeout_seconds: For one page, from the request to its last byte.
        max_pages: A crawl that meets more fails.
        max_page_bytes: A larger page fails the crawl.
        user_agent: How the crawler introduces itself; robots.txt can name its first word.
    """

    start_url: str | None = None
    format: Literal["html", "json"] = "html"
    item: str = ".item"
    next: str | None = None
    total: str | None = None
    fields: CrawlFieldSettings = field(default_factory=CrawlFieldSettings)
    encoding: str | None = None
    currency: str | None = Field(default=None, pattern="^[A-Z]{3}$")
    decimal_comma: bool = False
    in_stock: str = r"(?i)^(https?://schema\.org/)?(in ?stock|available|true|yes|1)\b"
    out_of_stock: str = r"(?i)^(https?://schema\.org/)?(out ?of ?stock|sold ?out|unavailable|discontinued|false|no|0)\b"
    optional: tuple[Literal["category", "price", "currency", "available", "url"], ...] = ("category", "url")
    tolerated: tuple[str, ...] = ("duplicate", "not_a_product")
    max_rejected_share: float = Field(default=0.05, ge=0, le=1)
    min_share: float = Field(default=0.5, ge=0, le=1)
    delay_seconds: float = Field(default=0.5, ge=0)
    concurrent: int = Field(default=1, ge=1, le=16)
    retries: int = Field(default=5, ge=0, le=20)
    backoff_seconds: float = Field(default=1.0, gt=0)
    max_wait_seconds: float = Field(default=300.0, gt=0)
    timeout_seconds: float = Field(default=30.0, gt=0)
    max_pages: int = Field(default=5_000, ge=1)
    max_page_bytes: int = Field(default=5_000_000, ge=1_000)
    user_agent: str = Field(default="shortlist", pattern=r"^[A-Za-z][A-Za-z_-]*([ /][ -~]*)?$")

    @model_validator(mode="after")
    def _readable(self) -> CrawlSettings:
        try:
            codecs.lookup(self.encoding or "utf-8")
        except LookupError:
            raise ValueError(f"encoding = {self.encoding!r} is not known: write a name such as ISO-8859-1") from None
        for name in ("in_stock", "out_of_stock"):
            try:
                re.compile(getattr(self, name))
            except re.error as error:
                raise ValueError(f"{name} is no regular expression: {error}") from None
        if self.start_url is None:
            return self
        url = urlsplit(self.start_url)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ValueError(f"start_url = {self.start_url!r} must begin with http:// or https:// and name a host")
        if url.username is not None or url.password is not None:
            raise ValueError("start_url holds a user or password, which would show in logs: leave them out")
        if self.start_url.count(PAGE_NUMBER) > 1 or PAGE_NUMBER in url.netloc:
            raise ValueError(f"start_url has {PAGE_NUMBER} once, behind the host, or not at all")
        if PAGE_NUMBER in self.start_url and self.next is not None:
            raise ValueError(f"next finds links, {PAGE_NUMBER} in start_url counts pages: leave one of them out")
        return self

    def page_url(self, number: int) -> str:
        """Return the address of a page, from 1; where pages are not numbered, that of the first."""
        return (self.start_url or "").replace(PAGE_NUMBER, str(number))


@dataclass(frozen=True, config=_STRICT)
class CatalogueSettings:
    """An optional file with one row an item: titles, categories (several joined by `|`), availability.

    Attributes:
        crawl: Where the catalogue is read from a web site; that does not need the file.
    """

    path: str | None = None
    item: str = "item_id"
    title: str | None = None
    category: str | None = None
    available: str | None = None
    crawl: CrawlSettings = field(default_factory=CrawlSettings)


@dataclass(frozen=True, config=_STRICT)
class CancellationSettings:
    """Rows whose `column` matches the regular expression `pattern` take their amount back."""

    column: str
    pattern: str


@dataclass(frozen=True, config=_STRICT)
class InteractionSettings:
    """What a valid interaction is and how much it counts."""

    time_format: str = "auto"
    min_weight: float = 0.0
    max_weight: float = 1e6
    event_weights: dict[str, float] = field(default_factory=dict)
    item_pattern: str | None = None
    cancellation: CancellationSettings | None = None
    repeated: Literal["sum", "last"] = "sum"
    weight_transform: Literal["log", "raw", "one"] = "log"
    tolerated: tuple[str, ...] = ("duplicate",)
    max_rejected_share: float = Field(default=0.05, ge=0, le=1)
    earliest: str = "1990-01-01"
    max_id_length: int = Field(default=256, ge=1, le=600)


@dataclass(frozen=True, config=_STRICT)
class ItemSettings:
    """Which items may be recommended. `available_within_days` = 0: no matter when they were last taken."""

    available_within_days: int = Field(default=0, ge=0)


@dataclass(frozen=True, config=_STRICT)
class SplitSettings:
    """Shares of the interactions, by time, or the exact start of the windows (`YYYY-MM-DDTHH:MM:SS`, UTC)."""

    target_share: float = Field(default=0.1, gt=0, lt=0.5)
    test_share: float = Field(default=0.1, gt=0, lt=0.5)
    target_from: str | None = None
    test_from: str | None = None


@dataclass(frozen=True, config=_STRICT)
class AlsSettings:
    """Implicit-feedback ALS (Hu, Koren, Volinsky 2008); confidence = 1 + alpha · weight."""

    rank: int = Field(default=32, ge=1, le=1024)
    iterations: int = Field(default=6, ge=1)
    regularization: float = Field(default=0.1, gt=0)
    alpha: float = Field(default=2.0, gt=0)
    seed: int = 42


@dataclass(frozen=True, config=_STRICT)
class SimilaritySettings:
    """Item to item by shrunk cosine of co-occurrence."""

    history: int = Field(default=100, ge=2)
    neighbours: int = Field(default=100, ge=1)
    shrinkage: float = Field(default=10.0, ge=0)


@dataclass(frozen=True, config=_STRICT)
class CandidateSettings:
    """How many items each source proposes to a user, before they are merged."""

    als: int = Field(default=100, ge=1)
    similar: int = Field(default=100, ge=1)
    popular: int = Field(default=50, ge=1)
    popular_half_life_days: float = Field(default=7.0, gt=0)
    train_users: int = Field(default=10_000, ge=1)


@dataclass(frozen=True, config=_STRICT)
class RankerSettings:
    """CatBoost ranker; of the items a user did not take, `negatives` a user are kept for training."""

    iterations: int = Field(default=500, ge=1)
    learning_rate: float = Field(default=0.1, gt=0, le=1)
    depth: int = Field(default=6, ge=1, le=12)
    early_stopping_rounds: int = Field(default=50, ge=1)
    negatives: int = Field(default=50, ge=1)
    loss: Literal["YetiRank", "QuerySoftMax", "QueryRMSE", "Logloss"] = "Logloss"
    seed: int = 42


@dataclass(frozen=True, config=_STRICT)
class EvaluationSettings:
    """Cut-offs of the metrics and the bootstrap of their intervals."""

    k: tuple[int, ...] = (5, 10, 20)
    bootstrap_samples: int = Field(default=1000, ge=100)
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    seed: int = 42


@dataclass(frozen=True, config=_STRICT)
class GateSettings:
    """Publish only if the lower bound of the difference in NDCG@10 is not below `-tolerance`.

    Attributes:
        tolerance: Difference in NDCG@10.
        approval: Whether what has passed waits for a person to agree, in the Airflow UI.
        approval_hours: How long it waits; then the run fails, and what is served stays.
    """

    tolerance: float = Field(default=0.01, ge=0)
    approval: bool = False
    approval_hours: float = Field(default=72.0, gt=0, le=24 * 30)


@dataclass(frozen=True, config=_STRICT)
class PublishSettings:
    """What is published: list lengths, repeats, how many generations stay for a roll-back."""

    k: int = Field(default=20, ge=1, le=1000)
    default_recs: int = Field(default=100, ge=1)
    online_recs: int = Field(default=20, ge=1)
    allow_repeats: bool = False
    keep_generations: int = Field(default=3, ge=1)

    @model_validator(mode="after")
    def _defaults_fill_every_list(self) -> PublishSettings:
        if self.default_recs < self.k:
            raise ValueError(f"default_recs = {self.default_recs} must be at least k = {self.k}")
        return self


@dataclass(frozen=True, config=_STRICT)
class FeatureStoreSettings:
    """What the feature store keeps, and how it is written."""

    ttl_days: int = Field(default=14, ge=1)
    batch_size: int = Field(default=500, ge=1)
    category_shares: int = Field(default=5, ge=0)


@dataclass(frozen=True, config=_STRICT)
class StreamingColumnSettings(ColumnSettings):
    """Names of the columns in files of new feedback."""

    user: str = "CUST_ID"
    item: str = "MOVIE_ID"
    time: str = "DATE"
    weight: str | None = "RATING"


@dataclass(frozen=True, config=_STRICT)
class StreamingSettings(FileSettings):
    """How to read new feedback, which lies in `data/streaming/`.

    Attributes:
        cancellation: As in `InteractionSettings`. `None`: no row takes an amount back.
        archive: Whether files that were processed are kept, in `data/streaming_archive/`.
    """

    multiline: bool = False
    columns: StreamingColumnSettings = field(default_factory=StreamingColumnSettings)
    cancellation: CancellationSettings | None = None
    archive: bool = True


@dataclass(frozen=True, config=_STRICT)
class DriftSettings:
    """When new data differs too much. A score of 1 is at the threshold.

    Attributes:
        kl: Kullback-Leibler divergence, in nats, of weights, predictions, items, popularity, activity and weekdays.
        mean: Shift of the mean of weights and predictions; and so `median`.
        kl_part: Part of the divergence in the score of weights and predictions; and so `mean_part`, `median_part`.
        new_users: Share of interactions of users whom the model does not know, beyond the usual; and so `new_items`.
        waiting: Interactions in batches that wait, as a share of those the champion knows; with more it is retrained
            without any drift.
        false_alarms: Share of days without drift on which chance may exceed the limits of chance.
        seed: Of the draws.
    """

    kl: float = Field(default=0.1, gt=0)
    mean: float = Field(default=0.2, gt=0)
    median: float = Field(default=0.5, gt=0)
    kl_part: float = Field(default=0.5, ge=0)
    mean_part: float = Field(default=0.3, ge=0)
    median_part: float = Field(default=0.2, ge=0)
    new_users: float = Field(default=0.2, gt=0)
    new_items: float = Field(default=0.1, gt=0)
    waiting: float = Field(default=0.25, gt=0)
    false_alarms: float = Field(default=0.005, gt=0, lt=0.5)
    seed: int = 42


@dataclass(frozen=True, config=_STRICT)
class TuneSettings:
    """The search for better settings: minutes a call, trials a study, about how many users of the target window."""

    minutes: float = Field(default=30.0, gt=0, le=600)
    trials: int = Field(default=100, ge=1)
    users: int = Field(default=5_000, ge=1)
    seed: int = 42


@dataclass(frozen=True, config=_STRICT)
class ServiceSettings:
    """Limits of the service that hands recommendations out, and how long it waits for what lies behind it.

    Attributes:
        max_k: Longest list that may be asked for.
        recent: Events kept of a user in Redis, the newest; and so `recent_days`.
        events: At most, in one request.
        writes_a_minute: Requests that change something, of one client's address.
        database_seconds: A query that takes longer counts as an answer that does not come; and so `redis_seconds`.
        search_seconds: Elasticsearch that takes longer is not waited for: PostgreSQL finds the items then.
        refresh_seconds: Between two looks at what is served and at the rules.
        lists_mib: The lists of all users are kept in memory if they take no more mebibytes than this; 0: never.
        users_in_memory: Users whose answers, and lists where not all are in memory, are kept, the last ones asked for.
        body_bytes: Largest body of a request.
        connections: Open at the same time; a further one is turned away.
        header_seconds: A client that has not sent its request by then is let go.
    """

    max_k: int = Field(default=100, ge=1, le=1000)
    recent: int = Field(default=20, ge=1, le=200)
    recent_days: int = Field(default=30, ge=1)
    events: int = Field(default=1000, ge=1, le=10_000)
    writes_a_minute: int = Field(default=600, ge=1)
    database_seconds: float = Field(default=0.5, gt=0, le=10)
    redis_seconds: float = Field(default=0.25, gt=0, le=10)
    search_seconds: float = Field(default=1.0, gt=0, le=10)
    refresh_seconds: float = Field(default=1.0, gt=0, le=60)
    lists_mib: int = Field(default=160, ge=0)
    users_in_memory: int = Field(default=10_000, ge=0)
    body_bytes: int = Field(default=1_000_000, ge=1000)
    connections: int = Field(default=512, ge=1)
    header_seconds: float = Field(default=10.0, gt=0)


@dataclass(frozen=True, config=_STRICT)
class TransformColumnSettings(ColumnSettings):
    """Names of the fields of raw events. `None`: raw events have no such field.

    Attributes:
        cancellation: Becomes the column that `[interactions].cancellation` looks at.
    """

    weight: str | None = "weight"
    cancellation: str | None = None


@dataclass(frozen=True, config=_STRICT)
class TransformSettings:
    """Where raw events lie, how to read them, and where what is made of them goes.

    Attributes:
        raw: Folder, `s3://bucket/prefix` or relative to the project; JSON lines, CSV or Parquet, also `.gz`.
        processed: Folder of Parquet files with the columns of `[input.columns]`; and so `viz` of the tables for charts,
            `quarantine` of what was rejected.
        format: `auto` decides by the name of an object.
        timezone: IANA name; of times that carry no zone of their own.
        time_format: `auto`: ISO 8601, or seconds since 1970.
        delimiter: Of CSV files.
        encoding: Of CSV and JSON lines files.
        max_rejected_share: Of the rows of the new objects, without the reasons that `[interactions].tolerated` names,
            and of the bytes in objects that cannot be read; above it the run fails.
        max_object_bytes: A larger object is rejected as a whole.
        timeout_seconds: Object storage that is silent for so long is away.
        columns: What fields are called in raw events.
    """

    raw: str = "s3://shortlist-raw/events"
    processed: str = "s3://shortlist-data/processed"
    viz: str = "s3://shortlist-data/viz"
    quarantine: str = "s3://shortlist-data/quarantine"
    format: Literal["auto", "jsonl", "csv", "parquet"] = "auto"
    timezone: str = "UTC"
    time_format: Literal["auto", "epoch_s", "epoch_ms", "epoch_us"] = "auto"
    delimiter: str = Field(default=",", min_length=1, max_length=1)
    encoding: str = "UTF-8"
    max_rejected_share: float = Field(default=0.05, ge=0, le=1)
    max_object_bytes: int = Field(default=1_000_000_000, ge=1)
    timeout_seconds: float = Field(default=30.0, gt=0, le=600)
    columns: TransformColumnSettings = field(default_factory=TransformColumnSettings)

    @model_validator(mode="after")
    def _folders_lie_apart(self) -> TransformSettings:
        folders = {name: f"{getattr(self, name).rstrip('/')}/" for name in ("raw", "processed", "viz", "quarantine")}
        for name, folder in folders.items():
            for other, inside in folders.items():
                if name != other and inside.startswith(folder):
                    raise ValueError(
                        f"{other} = {inside!r} lies in {name} = {folder!r}: each needs a folder of its own"
                    )
        return self

    @model_validator(mode="after")
    def _known_names(self) -> TransformSettings:
        try:
            ZoneInfo(self.timezone)
            codecs.lookup(self.encoding)
        except (ZoneInfoNotFoundError, LookupError, ValueError):
            raise ValueError(
                f"timezone = {self.timezone!r} and encoding = {self.encoding!r} must be names such as Europe/London "
                "and ISO-8859-1"
            ) from None
        return self


@dataclass(frozen=True, config=_STRICT)
class DatasetSettings:
    """Where versions of the transformed data are kept.

    Attributes:
        repository: Git URL or path; `None`: a repository of its own, `datasets.git` in the folder of the jobs. Without
            credentials: `$DATASETS_TOKEN` is the password for an `https://` URL.
        remote: Folder in object storage that holds the data itself, `s3://bucket/prefix`, or an absolute path.
        timeout_seconds: A command of Git or DVC that takes longer has failed.
    """

    repository: str | None = None
    remote: str = Field(default="s3://shortlist-data/versions", pattern=r"^(s3:/)?/[A-Za-z0-9][A-Za-z0-9._/-]*$")
    timeout_seconds: float = Field(default=1800.0, gt=0)

    @model_validator(mode="after")
    def _no_credentials(self) -> DatasetSettings:
        if self.repository is None:
            return self
        url = urlsplit(self.repository)
        if self.repository.startswith("-") or not self.repository.strip() or "::" in self.repository:
            raise ValueError("repository must be a path or a URL such as https://git.example.org/team/datasets.git")
        if url.scheme and (url.password or (url.username and url.scheme != "ssh")):
            raise ValueError("repository must not hold credentials: put the token into DATASETS_TOKEN")
        if url.scheme == "http":
            raise ValueError("repository must be https://, ssh:// or a path: over http:// anybody could read the token")
        return self


@dataclass(frozen=True, config=_STRICT)
class PathSettings:
    """Folders and files, all below one root: a folder, or a URL such as `s3://bucket/shortlist`.

    Attributes:
        jobs: A folder, never a URL: what container jobs keep and hand to each other.
    """

    root: str = str(PROJECT_ROOT)
    jobs: str = str(PROJECT_ROOT / "data" / "jobs")

    @property
    def catalogue(self) -> str:
        """What crawls left: `items.parquet`, the quarantine, the pages."""
        return f"{self.jobs}/catalogue"

    @property
    def raw(self) -> str:
        """Files a user drops in."""
        return f"{self.root}/data/raw"

    @property
    def processed(self) -> str:
        """Everything `spark_etl` and `create_futures` write."""
        return f"{self.root}/data/processed"

    @property
    def train(self) -> str:
        """Interactions before the test window, Parquet."""
        return f"{self.processed}/parquet/train"

    @property
    def test(self) -> str:
        """Interactions of the test window, Parquet."""
        return f"{self.processed}/parquet/test"

    @property
    def items(self) -> str:
        """The catalogue, Parquet."""
        return f"{self.processed}/parquet/items"

    @property
    def quarantine(self) -> str:
        """Rejected rows with reason and position, Parquet."""
        return f"{self.processed}/parquet/quarantine"

    @property
    def etl_report(self) -> str:
        """Counts, cuts and fingerprint of the last `spark_etl`, JSON."""
        return f"{self.processed}/etl.json"

    @property
    def streaming(self) -> str:
        """New feedback a user drops in."""
        return f"{self.root}/data/streaming"

    @property
    def streaming_archive(self) -> str:
        """Files of feedback that were processed, by batch."""
        return f"{self.root}/data/streaming_archive"

    @property
    def batches(self) -> str:
        """Processed feedback that is not merged yet, one folder a batch."""
        return f"{self.root}/data/batches"

    @property
    def futures(self) -> str:
        """Pairs without a rating, CSV `user_id,item_id,time`."""
        return f"{self.processed}/future.csv"

    @property
    def model_versions(self) -> str:
        """Folder of the stage-one versions."""
        return f"{self.root}/models/artifacts"

    @property
    def rankers(self) -> str:
        """Folder of the ranker versions."""
        return f"{self.root}/models/rankers"

    @property
    def drift(self) -> str:
        """Decisions about retraining, one file a run."""
        return f"{self.root}/models/drift"

    @property
    def experiments(self) -> str:
        """MLflow's local store, where no server is set."""
        return f"{self.root}/models/mlflow"

    @property
    def tuning(self) -> str:
        """Folder of the studies that search for better settings."""
        return f"{self.root}/models/tuning"

    @property
    def hand_over(self) -> str:
        """Files on their way into the database."""
        return f"{self.root}/postgres_data"

    @property
    def reports(self) -> str:
        """One folder a run, each with `index.html`."""
        return f"{self.root}/reports"


@dataclass(frozen=True, config=_STRICT)
class Settings:
    """Everything in `config/pipeline.toml`."""

    input: InputSettings = field(default_factory=InputSettings)
    catalogue: CatalogueSettings = field(default_factory=CatalogueSettings)
    interactions: InteractionSettings = field(default_factory=InteractionSettings)
    items: ItemSettings = field(default_factory=ItemSettings)
    split: SplitSettings = field(default_factory=SplitSettings)
    als: AlsSettings = field(default_factory=AlsSettings)
    similarity: SimilaritySettings = field(default_factory=SimilaritySettings)
    candidates: CandidateSettings = field(default_factory=CandidateSettings)
    ranker: RankerSettings = field(default_factory=RankerSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    gate: GateSettings = field(default_factory=GateSettings)
    publish: PublishSettings = field(default_factory=PublishSettings)
    features: FeatureStoreSettings = field(default_factory=FeatureStoreSettings)
    streaming: StreamingSettings = field(default_factory=StreamingSettings)
    drift: DriftSettings = field(default_factory=DriftSettings)
    tune: TuneSettings = field(default_factory=TuneSettings)
    service: ServiceSettings = field(default_factory=ServiceSettings)
    transform: TransformSettings = field(default_factory=TransformSettings)
    datasets: DatasetSettings = field(default_factory=DatasetSettings)
    paths: PathSettings = field(default_factory=PathSettings)

    @model_validator(mode="after")
    def _popular_items_fill_every_list(self) -> Settings:
        if self.candidates.popular < self.publish.k:
            raise ValueError(
                f"[candidates].popular = {self.candidates.popular} must be at least [publish].k = {self.publish.k}:"
                " popular items fill the lists of users whom nothing else reaches"
            )
        return self


def settings_file() -> str:
    """Return the path of the settings in use: `$SHORTLIST_CONFIG`, else `config/pipeline.toml`."""
    return os.environ.get("SHORTLIST_CONFIG") or str(PROJECT_ROOT / "config" / "pipeline.toml")


def load_settings(path: str | None = None) -> Settings:
    """Read and check the settings.

    The file is `path`, else that of `settings_file`. `$SHORTLIST_INPUT` replaces `[input].path`; `$DATA_ROOT` replaces
    the root of all folders, `$JOBS_DATA` the folder of container jobs.

    Raises:
        SettingsError: Naming the file and each key that is unknown or wrong.
    """
    file = Path(path or settings_file())
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(f"no settings file at {file}: copy config/pipeline.toml there") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file} is not valid TOML: {error}") from error
    if source := os.environ.get("SHORTLIST_INPUT"):
        values["input"] = {**values.get("input", {}), "path": source}
    if root := os.environ.get("DATA_ROOT"):
        values["paths"] = {"root": root.rstrip("/")}
    if jobs := os.environ.get("JOBS_DATA"):
        values["paths"] = {**values.get("paths", {}), "jobs": str((PROJECT_ROOT / jobs).absolute())}
    try:
        return TypeAdapter(Settings).validate_python(values)
    except ValidationError as error:
        problems = "; ".join(
            f"[{'.'.join(str(part) for part in problem['loc'])}] {problem['msg']}" for problem in error.errors()
        )
        raise SettingsError(f"{file}: {problems}") from None
