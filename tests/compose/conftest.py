"""One stack for all tests of the containers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.compose.stack import booted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.compose.stack import Airflow, Stack

# What runs in the stack, not here.
collect_ignore = ["dags", "deployed"]

# The first has a stack of its own; the last ends the one of all the others.
ORDER = (
    "light", "stack", "containers", "deploying", "changes", "spark", "tools", "surroundings", "approval", "drift",
    "survival", "teardown",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {f"test_{name}": place for place, name in enumerate(ORDER)}
    items.sort(key=lambda item: places.get(item.path.stem, -1))


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """The stack as `docker compose up --build` makes it, on a sample of the bundled data."""
    with booted("shortlist-test") as stack:
        yield stack


@pytest.fixture(scope="session")
def airflow(stack: Stack) -> Airflow:
    return stack.airflow()
