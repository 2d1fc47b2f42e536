"""Who looks after which container, so that one whose task has died does not stay for ever."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


class Attendance:
    """Counts the open streams of each container, and remembers when the last one ended.

    >>> now = 0.0
    >>> attendance = Attendance(clock=lambda: now)
    >>> with attendance.to("a"):
    ...     now = 100.0
    ...     attendance.abandoned(["a", "b"], 10)
    []
    >>> now = 109.0
    >>> attendance.abandoned(["a", "b"], 10)
    []
    >>> now = 110.0
    >>> attendance.abandoned(["a", "b"], 10)
    ['a', 'b']
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._streams: Counter[str] = Counter()
        self._left: dict[str, float] = {}

    @contextmanager
    def to(self, container: str) -> Iterator[None]:
        """Attend a container for as long as the context lasts."""
        self._streams[container] += 1
        try:
            yield
        finally:
            self._streams[container] -= 1
            self._left[container] = self._clock()

    def abandoned(self, present: Iterable[str], seconds: float) -> list[str]:
        """Return those that nobody has attended for so long.

        Args:
            present: The containers that there are; others are forgotten. One seen for the first time has been left
                just now.
            seconds: How long.
        """
        present = list(present)
        now = self._clock()
        self._left = {container: self._left.get(container, now) for container in present}
        self._streams = +self._streams
        return [each for each in present if not self._streams[each] and now - self._left[each] >= seconds]
