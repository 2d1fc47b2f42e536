"""Schemathesis makes requests up from the service's own OpenAPI document: it has to keep its word, whatever comes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import hypothesis
import schemathesis
from schemathesis.specs.openapi.checks import positive_data_acceptance

from tests.running_service import KEY

if TYPE_CHECKING:
    import pytest

    from tests.running_service import RunningService

EXAMPLES = 25
OPERATIONS = {
    "DELETE /v1/users/{user_id}",
    "GET /health/live",
    "GET /health/ready",
    "GET /metrics",
    "GET /v1/drift",
    "GET /v1/experiment",
    "GET /v1/explain/{user_id}/{item_id}",
    "GET /v1/generations",
    "GET /v1/items",
    "GET /v1/items/{item_id}/similar",
    "GET /v1/parts",
    "GET /v1/popular",
    "GET /v1/recommendations/{user_id}",
    "GET /v1/reports",
    "GET /v1/users",
    "GET /v1/users/{user_id}",
    "POST /v1/admin/refresh",
    "POST /v1/events",
}
# No schema can say that a time may not be more than a day ahead.
DEPENDS_ON_THE_DAY = {"POST /v1/events"}


def test_the_service_does_what_its_document_says(service: RunningService, subtests: pytest.Subtests) -> None:
    """Not by `schemathesis.pytest`: that needs a document before the service runs, or an older pytest."""
    document: Any = schemathesis.openapi.from_url(f"{service.url}/openapi.json")
    operations = {operation.label: operation for operation in (one.ok() for one in document.get_all_operations())}
    assert operations.keys() == OPERATIONS
    for label, operation in operations.items():
        with subtests.test(label):
            _fuzz(operation, excluded=[positive_data_acceptance] if label in DEPENDS_ON_THE_DAY else [])
    assert "Traceback" not in service.log.read_text(encoding="utf-8")


def _fuzz(operation: Any, excluded: list[Any]) -> None:
    @hypothesis.settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(case=operation.as_strategy())
    def keeps_its_word(case: Any) -> None:
        case.call_and_validate(headers={"X-API-Key": KEY}, excluded_checks=excluded, timeout=10)

    keeps_its_word()
