"""Writes recommendations as JSON out of pieces that are written once for each item: most of an answer is the same text.

The model of the answer, `Recommendations`, says what it looks like; writing it by way of the model takes longer than
everything else that a request asks for.
"""

from __future__ import annotations

from json.encoder import encode_basestring
from math import isfinite
from typing import TYPE_CHECKING, Final

from service.reasons import reason_of, told_because

if TYPE_CHECKING:
    from collections.abc import Sequence

    from service.answers import Variant
    from service.catalogue import Catalogue
    from shortlist.recommender.blending import Proposal

# Of items that the catalogue does not know, nobody says how many there are.
_MOST_PIECES: Final = 200_000


class Writer:
    """Writes the answers of one catalogue after another."""

    def __init__(self) -> None:
        """Begin without any piece."""
        self._catalogue: Catalogue | None = None
        self._items: dict[str, str] = {}
        # What follows a score: by the source, or by the item of the event that a recommendation is due to.
        self._sources: dict[str, str] = {}
        self._events: dict[str, str] = {}

    def recommendations(
        self,
        chosen: Sequence[Proposal],
        catalogue: Catalogue,
        *,
        user_id: str,
        known: bool,
        generation: int | None,
        model_version: str | None,
        variant: Variant | None,
        stale: bool,
        complete: bool,
    ) -> bytes:
        """Return an object of `Recommendations` but for its time and its closing brace.

        Args:
            chosen: Best first.
            catalogue: Of the titles and categories.
            user_id: As the attribute of the model; and so are the following.
            known: Of the user.
            generation: Of the list.
            model_version: Of the list.
            variant: Of the experiment.
            stale: Of the answer.
            complete: Of the answer.
        """
        if catalogue is not self._catalogue or len(self._items) + len(self._sources) + len(self._events) > _MOST_PIECES:
            self._catalogue = catalogue
            self._items.clear()
            self._sources.clear()
            self._events.clear()
        pieces, sources, events = self._items, self._sources, self._events
        written = []
        # Scores are single precision: seven digits are all they have.
        for rank, (item_id, source, score, because) in enumerate(chosen, start=1):
            piece = pieces.get(item_id) or self._item(item_id, catalogue)
            end = sources.get(source) if because is None else events.get(because)
            if end is None:
                end = self._end(source, because, catalogue)
            number = "null" if score is None or not isfinite(score) else f"{score:.7g}"
            written.append(f'{{"rank":{rank},{piece}{number}{end}')
        head = (
            f'{{"generation":{"null" if generation is None else generation},"model_version":{_text(model_version)}'
            f',"variant":{_text(variant)},"stale":{_truth(stale)},"complete":{_truth(complete)},"items":['
        )
        return f'{head}{",".join(written)}],"user_id":{_text(user_id)},"known":{_truth(known)}'.encode()

    def _item(self, item_id: str, catalogue: Catalogue) -> str:
        title, category, _ = catalogue.get(item_id)
        piece = f'"item_id":{_text(item_id)},"title":{_text(title)},"category":{_text(category)},"score":'
        self._items[item_id] = piece
        return piece

    def _end(self, source: str, because: str | None, catalogue: Catalogue) -> str:
        reason = reason_of(source) if because is None else told_because(because, catalogue)
        end = f',"source":{_text(source)},"reason":{_text(reason)}}}'
        if because is None:
            self._sources[source] = end
        else:
            self._events[because] = end
        return end


def _text(value: str | None) -> str:
    return "null" if value is None else encode_basestring(value)


def _truth(value: bool) -> str:  # noqa: FBT001 - a value of JSON
    return "true" if value else "false"
