"""The shop's own rules and its experiment, from `config/rules.toml`; an edit holds without a restart."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import tomllib
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import ConfigDict, Field, Strict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from shortlist.errors import SettingsError
from shortlist.recommender.blending import Rules

if TYPE_CHECKING:
    from pathlib import Path

logger = logging.getLogger(__name__)

_STRICT = ConfigDict(extra="forbid")

_Name = Annotated[str, Field(min_length=1)]
_Names = tuple[_Name, ...]
# Strict, so that neither "2" nor true is a number.
_Factors = dict[_Name, Annotated[float, Strict(), Field(gt=0, allow_inf_nan=False)]]


@dataclass(frozen=True, config=_STRICT)
class Experiment:
    """Two generations of `personal_recs` side by side: A is the served one, B another that is kept.

    Attributes:
        name: Another name deals the users anew.
        generation: Of B.
        share: Of the users who get B, 0 to 1.
    """

    name: _Name
    generation: Annotated[int, Strict()] = Field(ge=1, le=2**31 - 1)
    share: Annotated[float, Strict()] = Field(ge=0, le=1)

    def variant_of(self, user_id: str) -> Literal["A", "B"]:
        """Say which variant a user gets; the same in every process and after every restart.

        The first 8 bytes of SHA-256 of `name:user_id`, as a share of 2^64, are below `share` for B. So a larger share
        moves users from A to B only.

        Example:
            >>> experiment = Experiment(name="rank 64", generation=7, share=0.5)
            >>> [experiment.variant_of(user) for user in ("ann", "bob")]
            ['A', 'A']
        """
        # A lone surrogate, which JSON may bring, is no reason to fail.
        name = f"{self.name}:{user_id}".encode("utf-8", "surrogatepass")
        place = int.from_bytes(hashlib.sha256(name).digest()[:8])
        # Compared as an exact integer: divided, the last places would round to 1 and miss a share of 1.
        return "B" if place < self.share * 2**64 else "A"


@dataclass(frozen=True, config=_STRICT)
class RuleSettings:
    """Everything in `config/rules.toml`."""

    pin: _Names = ()
    block: _Names = ()
    block_categories: _Names = ()
    boost: _Factors = dataclasses.field(default_factory=dict)
    boost_categories: _Factors = dataclasses.field(default_factory=dict)
    experiment: Experiment | None = None


@dataclasses.dataclass(frozen=True)
class LoadedRules:
    """What holds now."""

    rules: Rules = dataclasses.field(default_factory=Rules)
    experiment: Experiment | None = None


_NO_RULES = LoadedRules()


def load_rules(path: Path) -> LoadedRules:
    """Read and check a file of rules.

    Raises:
        SettingsError: Naming the file and each key that is unknown or wrong, or why the file cannot be read.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not valid TOML: {error}") from error
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from error
    try:
        read = TypeAdapter(RuleSettings).validate_python(values)
    except ValidationError as error:
        problems = "; ".join(
            f"[{'.'.join(str(part) for part in problem['loc'])}] {problem['msg']}" for problem in error.errors()
        )
        raise SettingsError(f"{path}: {problems}") from None
    rules = Rules(
        pin=read.pin,
        block=frozenset(read.block),
        boost=read.boost,
        boost_category=read.boost_categories,
        block_category=frozenset(read.block_categories),
    )
    return LoadedRules(rules, read.experiment)


class RulesFile:
    """A file of rules that people edit while the service runs.

    Attributes:
        problem: What is wrong with the file as it lies there; `None`: nothing. The last good rules hold meanwhile.
    """

    def __init__(self, path: Path) -> None:
        """Read the file. A broken one starts with empty rules and a problem; a missing one is empty rules."""
        self.problem: str | None = None
        self._path = path
        self._current = _NO_RULES
        self._stamp: tuple[int, ...] | None = None
        self.refresh()

    def current(self) -> LoadedRules:
        """Return the rules that hold now. Cheap: asks nothing of the disk."""
        return self._current

    def refresh(self) -> bool:
        """Read the file again if it is not as it was read last; say whether it was read.

        Another time of change, size or inode makes it another file. One that is gone leaves empty rules.
        """
        try:
            found = self._path.stat()
        except FileNotFoundError:
            # The same object as long as nothing changes: answers are kept by it.
            self._current, self._stamp, self.problem = _NO_RULES, None, None
            return False
        # Also the time of change that nobody can set back: an older copy may bring its old time along.
        stamp = (found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino)
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        try:
            self._current, self.problem = load_rules(self._path), None
        except SettingsError as error:
            self.problem = str(error)
            logger.warning("rules not taken over: %s", self.problem)
        else:
            logger.info("rules read from %s", self._path)
        return True
