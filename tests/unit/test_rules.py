"""The shop's rules: what the file may say, and that an edit holds, a broken one does not."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import pytest

from service.rules import Experiment, LoadedRules, RulesFile, load_rules
from shortlist.errors import SettingsError
from shortlist.recommender.blending import Rules

COMMITTED = Path(__file__).resolve().parents[2] / "config" / "rules.toml"

EVERYTHING = """
pin = ["b", "a"]
block = ["c"]
block_categories = ["Adult"]
[boost]
"d e" = 1.5
f = 2
[boost_categories]
"Christmas" = 0.8
[experiment]
name = "rank 64"
generation = 7
share = 0.25
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "rules.toml"


def test_every_key_is_read(file: Path) -> None:
    file.write_text(EVERYTHING)

    assert load_rules(file) == LoadedRules(
        rules=Rules(
            pin=("b", "a"),
            block=frozenset({"c"}),
            boost={"d e": 1.5, "f": 2.0},
            boost_category={"Christmas": 0.8},
            block_category=frozenset({"Adult"}),
        ),
        experiment=Experiment(name="rank 64", generation=7, share=0.25),
    )


def test_the_committed_file_has_no_rules() -> None:
    assert load_rules(COMMITTED) == LoadedRules()


def test_the_examples_in_the_committed_file_hold_when_their_comment_is_taken_away(file: Path) -> None:
    lines = COMMITTED.read_text()
    lines = re.sub(r"= \[\] # ", "= ", lines)
    file.write_text(re.sub(r'^# (?="|\[|\w+ = )', "", lines, flags=re.MULTILINE))

    assert load_rules(file) == LoadedRules(
        rules=Rules(
            pin=("22423", "85123A"),
            block=frozenset({"21843"}),
            boost={"22423": 1.5},
            boost_category={"Christmas": 0.8},
            block_category=frozenset({"Adult"}),
        ),
        experiment=Experiment(name="rank 64", generation=7, share=0.5),
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('pins = ["a"]', "[pins] Unexpected keyword argument"),
        ("pin = [85123]", "[pin.0] Input should be a valid string"),
        ('pin = "a"', "[pin] Input should be a valid tuple"),
        ('block = [""]', "[block.0] String should have at least 1 character"),
        ("[boost]\na = 0", "[boost.a] Input should be greater than 0"),
        ('[boost]\na = "2"', "[boost.a] Input should be a valid number"),
        ("[boost]\na = true", "[boost.a] Input should be a valid number"),
        ("[boost]\na = inf", "[boost.a] Input should be a finite number"),
        ("[boost_categories]\na = nan", "[boost_categories.a] Input should be a finite number"),
        ('[experiment]\nname = "x"\nshare = 0.5', "[experiment.generation] Field required"),
        (
            '[experiment]\nname = "x"\ngeneration = 1.5\nshare = 50',
            "[experiment.generation] Input should be a valid integer; "
            "[experiment.share] Input should be less than or equal to 1",
        ),
        (
            f'[experiment]\nname = "x"\ngeneration = {2**31}\nshare = 0.5',
            "[experiment.generation] Input should be less than or equal to 2147483647",
        ),
    ],
)
def test_a_bad_value_is_named_with_its_file_and_key(file: Path, text: str, problem: str) -> None:
    file.write_text(text)

    with pytest.raises(SettingsError) as caught:
        load_rules(file)

    assert str(caught.value) == f"{file}: {problem}"


@pytest.mark.parametrize("content", [b"pin = [", b"pin = ['\xff']"])
def test_what_is_not_toml_is_named_with_its_file(file: Path, content: bytes) -> None:
    file.write_bytes(content)

    with pytest.raises(SettingsError, match=re.escape(f"{file} is not valid TOML: ")):
        load_rules(file)


def test_an_edit_holds_after_the_next_look(file: Path) -> None:
    file.write_text('block = ["a"]')
    rules = RulesFile(file)
    assert rules.current().rules == Rules(block=frozenset({"a"}))

    file.write_text('block = ["a", "b"]')

    assert rules.current().rules == Rules(block=frozenset({"a"}))
    assert rules.refresh()
    assert rules.current().rules == Rules(block=frozenset({"a", "b"}))


def test_a_file_that_did_not_change_is_not_read_again(file: Path) -> None:
    file.write_text('block = ["a"]')
    rules = RulesFile(file)
    loaded = rules.current()

    assert not rules.refresh()
    assert rules.current() is loaded


def test_an_edit_of_the_same_length_with_the_old_time_is_seen(file: Path) -> None:
    file.write_text('block = ["a"]')
    before = file.stat()
    rules = RulesFile(file)

    file.write_text('block = ["b"]')
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))

    assert rules.refresh()
    assert rules.current().rules == Rules(block=frozenset({"b"}))


def test_a_broken_edit_keeps_the_last_good_rules_and_says_so_until_it_is_mended(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file.write_text(EVERYTHING)
    rules = RulesFile(file)
    good = rules.current()
    assert rules.problem is None

    file.write_text('block = ["c"]\nblok = ["d"]')
    rules.refresh()

    assert rules.current() == good
    assert rules.problem == f"{file}: [blok] Unexpected keyword argument"
    assert caplog.messages[-1] == f"rules not taken over: {rules.problem}"
    assert not rules.refresh()
    assert rules.problem is not None

    file.write_text('block = ["c", "d"]')
    rules.refresh()

    assert rules.current() == LoadedRules(Rules(block=frozenset({"c", "d"})))
    assert rules.problem is None


def test_a_start_with_a_broken_file_has_empty_rules_and_the_problem(file: Path) -> None:
    file.write_text("[boost]\na = -1")

    rules = RulesFile(file)

    assert rules.current() == LoadedRules()
    assert rules.problem == f"{file}: [boost.a] Input should be greater than 0"


def test_a_folder_in_the_file_s_place_is_a_problem(tmp_path: Path) -> None:
    rules = RulesFile(tmp_path)

    assert rules.current() == LoadedRules()
    assert rules.problem == f"{tmp_path} cannot be read: Is a directory"


def test_without_a_file_there_are_no_rules_and_no_problem_until_it_appears(file: Path) -> None:
    rules = RulesFile(file)
    assert (rules.current(), rules.problem) == (LoadedRules(), None)

    file.write_text('pin = ["a"]')
    assert rules.refresh()
    assert rules.current().rules == Rules(pin=("a",))

    file.write_text("pin = [")
    rules.refresh()
    file.unlink()
    assert not rules.refresh()
    assert (rules.current(), rules.problem) == (LoadedRules(), None)


def test_a_file_that_comes_back_untouched_holds_again(tmp_path: Path) -> None:
    folder = tmp_path / "config"
    folder.mkdir()
    (folder / "rules.toml").write_text('pin = ["a"]')
    rules = RulesFile(folder / "rules.toml")
    # As when a volume is away: nothing about the file itself changes.
    aside = folder.rename(tmp_path / "aside")
    rules.refresh()
    assert rules.current() == LoadedRules()

    aside.rename(folder)
    rules.refresh()

    assert rules.current().rules == Rules(pin=("a",))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_users_are_dealt_by_the_hash_of_the_experiment_s_name_and_their_id(share: float) -> None:
    experiment = Experiment(name="rank 64", generation=7, share=share)
    users = [f"user{number}" for number in range(2000)]
    places = [int(hashlib.sha256(f"rank 64:{user}".encode()).hexdigest()[:16], 16) / 2**64 for user in users]

    variants = [experiment.variant_of(user) for user in users]

    assert variants == ["B" if place < share else "A" for place in places]
    assert variants.count("B") == pytest.approx(share * len(users), abs=4 * (len(users) * share * (1 - share)) ** 0.5)


def test_a_larger_share_takes_no_user_out_of_b_and_another_name_deals_anew() -> None:
    users = [f"user{number}" for number in range(500)]

    def in_b(name: str, share: float) -> set[str]:
        experiment = Experiment(name=name, generation=7, share=share)
        return {user for user in users if experiment.variant_of(user) == "B"}

    assert in_b("x", 0.2) < in_b("x", 0.6)
    assert not in_b("y", 0.2) <= in_b("x", 0.6)


@pytest.mark.parametrize("user", ["", "ann:1", "Å\u0000", "\ud800"])
def test_any_id_has_a_variant(user: str) -> None:
    assert Experiment(name="x", generation=1, share=1.0).variant_of(user) == "B"
