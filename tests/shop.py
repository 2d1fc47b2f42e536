"""Shop: a folder of hand-over files, a database, and the four steps between them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from shortlist.settings import PathSettings, PublishSettings, Settings
from steps import hand_over

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from shortlist.stores.database import Database

WEEK_1 = "2026-11-07T21:05:00+00:00"
WEEK_2 = "2026-11-14T21:05:00+00:00"
WEEK_3 = "2026-11-21T21:05:00+00:00"


@dataclass(frozen=True)
class Shop:
    """A folder of hand-over files, the database, and the four steps that lie between."""

    database: Database
    folder: Path
    publish_settings: PublishSettings = PublishSettings(k=2, default_recs=2, online_recs=2, keep_generations=3)

    @property
    def settings(self) -> Settings:
        return Settings(publish=self.publish_settings, paths=PathSettings(root=str(self.folder)))

    def with_settings(self, **changes: Any) -> Shop:
        return replace(self, publish_settings=replace(self.publish_settings, **changes))

    def file(self, name: str) -> Path:
        (self.folder / "postgres_data").mkdir(exist_ok=True)
        return self.folder / "postgres_data" / name

    def write(self, dataset: str, text: str) -> None:
        """Write a CSV file; indentation is removed, so that tables can be shown in place."""
        lines = [line.strip() for line in text.strip().splitlines()]
        self.file(f"{dataset}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def load(self, dataset: str, *, run: str = "run", after: str = WEEK_1, run_type: str = "manual") -> int:
        return hand_over.load_file(
            settings=self.settings, dataset=dataset, run_key=run, run_after=after, run_type=run_type
        )

    def audit(self, generation_id: int) -> dict[str, Any]:
        return hand_over.audit_generation(settings=self.settings, generation_id=generation_id)

    def flip(self, generation_id: int) -> dict[str, Any]:
        return hand_over.publish_generation(settings=self.settings, generation_id=generation_id)

    def publish(self, dataset: str, text: str | None = None, *, run: str = "run", after: str = WEEK_1) -> int:
        """Write, load, audit and publish."""
        if text is not None:
            self.write(dataset, text)
        generation_id = self.load(dataset, run=run, after=after)
        self.audit(generation_id)
        self.flip(generation_id)
        return generation_id

    def reference(self, **tables: str) -> None:
        for name, text in tables.items():
            self.write(name, text)
        hand_over.load_reference(settings=self.settings, datasets=tuple(tables), run_key="reference", run_after=WEEK_1)

    def read(self, query: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        with self.database.cursor() as cursor:
            cursor.execute(query, values)
            return cursor.fetchall()

    def leftovers(self) -> set[str]:
        """Tables that belong to one generation."""
        rows = self.read(
            "SELECT relname FROM pg_class WHERE relnamespace = 'internal'::regnamespace"
            " AND relkind = 'r' AND relname ~ '_[0-9]+(_rows)?$'"
        )
        return {name for (name,) in rows}
