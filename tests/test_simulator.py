"""A thousand simulated searches, each with faults of its own; and planted bugs, which they must find."""

from typing import Any

import pytest

from search import coordinator, messages
from search.coordinator import Coordinator
from search.run import Run
from tests import simulator
from tests.ledger import ModelStore
from tests.simulator import simulate

SEEDS = 1_000
SEEDS_FOR_A_BUG = 300


def test_a_thousand_searches_end_with_their_table() -> None:
    """A seed that fails is named, with the command that replays it."""
    wrong = [found for found in map(simulate, range(SEEDS)) if found]
    assert wrong == []


def test_a_seed_replays() -> None:
    """The same seed tells the same story."""
    stories: list[list[str]] = [[], []]
    for story in stories:
        simulate(9, story.append)
    assert stories[0] == stories[1] != []


def forget_what_waited(self: Any, tasks: list[Any]) -> None:
    """A lost worker's batch is not given back."""


def nothing(*_: object) -> None:
    """An event is ignored."""


def record_without_fence(self: ModelStore, news: Any) -> Any:
    """Whoever writes is believed."""
    owner = self.owner
    for lease in self.ledger.leases.values():
        lease.owner = owner
    return RECORD(self, news)


RECORD = ModelStore.record

BUGS: list[tuple[str, object, str, object]] = [
    ("a lost batch", Coordinator, "_give_back", forget_what_waited),
    ("lost leases are kept", Coordinator, "_forget", nothing),
    ("one charge is enough", coordinator, "MOST_CHARGES", 1),
    ("nobody is isolated", messages, "MOST_LOSSES", 10**9),
    ("dead worker, waiting batch", Run, "_unqueue", nothing),
    ("the last results are left", Run, "finish", nothing),
    ("no fence", ModelStore, "record", record_without_fence),
]


@pytest.mark.parametrize(("target", "name", "bug"), [pytest.param(*bug[1:], id=bug[0]) for bug in BUGS])
def test_a_planted_bug_is_found(target: object, name: str, bug: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """The simulator is not blind: some of a few hundred seeds fail."""
    monkeypatch.setattr(target, name, bug)
    monkeypatch.setattr(simulator, "TURNS", 5_000)
    assert any(map(simulate, range(SEEDS_FOR_A_BUG)))
