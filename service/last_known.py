"""The newest default list on disk, for a start at which PostgreSQL is away."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from service.catalogue import Catalogue, CatalogueItem
from shortlist.recommender.blending import Proposal

if TYPE_CHECKING:
    from collections.abc import Sequence

logger = logging.getLogger(__name__)


class LastKnown:
    """One small file: the default items with titles. An empty path: nothing is kept."""

    def __init__(self, file: str) -> None:
        self._file = Path(file) if file else None

    def read(self) -> tuple[Catalogue, tuple[Proposal, ...], int | None]:
        """Return catalogue, default list and its generation, all empty if there is no usable file."""
        if self._file is None or not self._file.exists():
            return Catalogue(), (), None
        try:
            kept = json.loads(self._file.read_text(encoding="utf-8"))
            items = {
                str(item_id): CatalogueItem(title, category, available=True)
                for item_id, title, category, _ in kept["items"]
            }
            proposals = tuple(Proposal(str(item_id), "default", score) for item_id, _, _, score in kept["items"])
            return Catalogue(items=items), proposals, kept["generation"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            logger.warning("%s is not used (%s): it is written anew when PostgreSQL answers", self._file, error)
            return Catalogue(), (), None

    def write(self, catalogue: Catalogue, defaults: Sequence[Proposal], generation: int | None) -> None:
        """Keep a default list; a disk that takes no file is told once a change and does no harm."""
        if self._file is None:
            return
        rows = [
            (proposal.item_id, *catalogue.get(proposal.item_id)[:2], proposal.score)
            for proposal in defaults
            if catalogue.get(proposal.item_id).available
        ]
        temporary = self._file.with_name(f".{self._file.name}.{os.getpid()}.tmp")
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps({"generation": generation, "items": rows}), encoding="utf-8")
            temporary.rename(self._file)
        except OSError as error:
            logger.warning("the last known list is not kept in %s: %s", self._file, error.strerror)
