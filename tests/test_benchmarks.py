"""The comparison with other tools runs, and notices a contestant that does other work.

What it measures is nobody's business here: no test asserts a time. A contestant whose packages are not
installed is skipped; they are the extra ``bench``.
"""

import itertools
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from search.settings import TRAINING_VERSION
from tests.benchmarks import end_to_end, fleet, measure, peers, scale
from tests.benchmarks.end_to_end import CONTESTANTS, Size, candidates, missing, require_same_work, run

STRINGS, _ = candidates(8)
RAY = {"netsieve", "ray-tune", "ray-tune-tuned"}


@pytest.mark.parametrize(
    "contestant", [pytest.param(name, marks=[pytest.mark.ray] if name in RAY else []) for name in CONTESTANTS]
)
def test_every_contestant_trains_each_string_once(contestant: str, tmp_path: Path) -> None:
    """Two strings for an epoch on digits, as a whole command; ``run`` compares the strings."""
    if missing(contestant):
        pytest.skip(f"pip install -e '.[bench]': {contestant} needs {', '.join(missing(contestant))}")
    found = run(contestant, Size(2, 1), tmp_path)
    assert all(0 <= accuracy <= 1 for accuracy in found.accuracies.values())
    assert len(found.accuracies) == 2


def test_a_command_that_fails_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what it said itself; its time is not taken for a success."""
    monkeypatch.setitem(end_to_end.NETSIEVE, "netsieve-no-ray", ["--workers", "-1"])
    with pytest.raises(AssertionError, match=r"exit code 2: (.|\n)*--workers"):
        run("netsieve-no-ray", Size(1, 1), tmp_path)


def test_a_contestant_that_trains_something_else_is_noticed() -> None:
    """A candidate that is far off by its seed is none of its doing; all of them a little better are."""
    expected = dict.fromkeys(STRINGS, 0.8)
    require_same_work("peer", expected | {STRINGS[0]: 0.1}, expected)
    with pytest.raises(AssertionError, match="peer did other work"):
        require_same_work("peer", dict.fromkeys(STRINGS, 0.9), expected)


def test_the_strings_are_what_a_search_draws_first() -> None:
    """Distinct, in the order of their draws; fewer are the beginning of more."""
    assert len(set(STRINGS)) == 8
    fewer, draws = candidates(3)
    assert fewer == STRINGS[:3]
    assert draws >= 3


def test_rounds_alternate() -> None:
    """Each is measured once a round, every second round backwards."""
    order = []
    clock = itertools.count()

    def measured(name: str) -> float:
        order.append(name)
        return float(next(clock))

    values = measure.in_turn(3, {name: lambda name=name: measured(name) for name in "ab"})
    assert "".join(order) == "abbaab"
    assert values == {"a": [0.0, 3.0, 4.0], "b": [1.0, 2.0, 5.0]}


def test_what_takes_long_is_measured_once() -> None:
    """Its ratio is of the round that it has."""
    values = measure.in_turn(2, {"short": lambda: 1.0, "long": lambda: 9.0}, once_above=5.0)
    assert values == {"short": [1.0, 1.0], "long": [9.0]}
    assert measure.times(values["long"], values["short"]) == 9.0


def test_ratios_are_of_the_same_round() -> None:
    """The median of the ratios, not the ratio of the medians: a slow round is slow for both."""
    assert measure.times([2.0, 20.0, 8.0], [1.0, 10.0, 2.0]) == 2.0
    assert measure.spread([3.0, 1.0, 2_000.0]) == "3.0 (1.0 to 2,000.0)"


def test_peers_train_what_their_users_would_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's own convolutions; only the contestant that says so has netsieve's."""

    def convolutions(*version: int) -> set[type[nn.Module]]:
        layers = "conv=channel_factor:2,kernel_size:3,stride:1,padding:0-"
        return {type(module) for module in peers.network_of(layers, *version) if isinstance(module, nn.Conv2d)}

    assert convolutions() == {nn.Conv2d}
    assert convolutions(TRAINING_VERSION) != {nn.Conv2d}
    used: Any = []
    monkeypatch.setattr(peers, "lean_pool", lambda *arguments: used.append(arguments[1:]))
    unread: Any = None
    peers.lean_pool_fast(unread)
    assert used == [(TRAINING_VERSION,)]


def test_a_simulated_fleet_trains_a_search() -> None:
    """It has all that the loop asks of an executor and of a store."""
    trainings = scale.Trainings(0, 2.0)
    ran = fleet.run(2, trainings.judge, 5 * scale.DRAWS_A_CANDIDATE, trainings.seconds, fleet.Prices())
    assert ran.trained == 5
    assert 0 < ran.busy <= 1


def test_every_peer_is_described() -> None:
    """The module's page says what each one is."""
    assert [name for name in peers.PEERS if f"\n    {name} " not in (peers.__doc__ or "")] == []


def test_simulated_coordinators_share_a_search() -> None:
    """All of it is trained, in less time than one of them would take, and not in less than there could be."""
    trainings, draws = scale.Trainings(0, 2.0), 60 * scale.DRAWS_A_CANDIDATE
    alone, shared = (
        fleet.run_together(coordinators, 1, trainings.judge, draws, trainings.seconds, fleet.WITH_POSTGRES)
        for coordinators in (1, 2)
    )
    assert scale.shortest_s(trainings, draws, 2) < shared < alone
