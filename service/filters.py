"""What a request for a list may ask for, read from its query string.

FastAPI would look at each of these values in each request, which costs as much as everything else together. Most
requests ask for the same: each query string is read once, and the document gets its parameters from the model.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field, ValidationError, create_model

from service.answers import Id
from shortlist.recommender.blending import Wanted

if TYPE_CHECKING:
    from shortlist.settings import Settings

_MOST_CATEGORIES: Final = 50
_MOST_EXCLUDED: Final = 1000
_STRINGS_KEPT: Final = 4096


class Filters(BaseModel):
    """Values of a query string; unknown ones are left alone."""

    k: int
    category: list[Id] = Field(
        default=[], max_length=_MOST_CATEGORIES, description="Only items in one of these categories"
    )
    exclude: list[Id] = Field(default=[], max_length=_MOST_EXCLUDED, description="Items to leave out")
    available_only: bool = Field(default=True, description="Leave out what is not available")
    max_per_category: int | None = Field(default=None, description="At most so many items of one category")


class FilterReader:
    """Reads query strings; the limits are those of the settings."""

    def __init__(self, settings: Settings) -> None:
        """Prepare the model."""
        most = settings.service.max_k
        self._model: type[Filters] = create_model(
            "Filters",
            __base__=Filters,
            k=(
                int,
                Field(default=settings.publish.k, ge=1, le=most, description="Length of the list; exactly so many"),
            ),
            max_per_category=(
                int | None,
                Field(default=None, ge=1, le=most, description="At most so many items of one category"),
            ),
        )
        self._read = lru_cache(_STRINGS_KEPT)(self._parse)

    def wanted(self, query: bytes) -> Wanted:
        """Return what a query string asks for.

        Raises:
            RequestValidationError: If a value is not allowed.
        """
        return self._read(query)

    def parameters(self) -> dict[str, Any]:
        """Return the parameters for the OpenAPI document."""
        properties = self._model.model_json_schema()["properties"]
        return {
            "parameters": [
                {
                    "name": name,
                    "in": "query",
                    "required": False,
                    "description": schema.pop("description"),
                    "schema": schema,
                }
                for name, schema in properties.items()
            ]
        }

    def _parse(self, query: bytes) -> Wanted:
        values: dict[str, Any] = {"category": [], "exclude": []}
        for name, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True, errors="replace"):
            if name in ("category", "exclude"):
                values[name].append(value)
            else:
                values[name] = value
        try:
            filters = self._model.model_validate(values)
        except ValidationError as error:
            found = [{**one, "loc": ("query", *one["loc"])} for one in error.errors()]
            raise RequestValidationError(found) from None
        return Wanted(
            k=filters.k,
            categories=frozenset(filters.category),
            exclude=frozenset(filters.exclude),
            available_only=filters.available_only,
            max_per_category=filters.max_per_category,
        )
