"""Drawing, checking, counting, ranking and unranking, on one core: strings a second.

    python -m tests.benchmarks.space                       some ten seconds
    python -m tests.benchmarks.space --space my.toml

Everything is measured in turn, round by round, in this process. "One by one" is the scalar checker, and
what spaces without a table get; the rest works on batches. Nothing is trained or recorded. Seconds are of
processor time: what else runs on a shared core does not count, but for what it does to the cache.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from search.automaton import architectures, compiled, compiled_or_depth
from search.census import census
from search.samplers import CensusSampler, RejectionSampler
from search.shapes import check
from search.sieve import judge_with
from search.space import CLASSIC, SearchSpace, read_space
from tests.benchmarks.measure import in_turn, machine, spread

BATCH = 8_192  # strings that are drawn or checked at once
FEW = 4_096  # of what goes one by one
BATCHES = 32


def rate(count: int, what: Callable[[], object]) -> float:
    """How many a second of processor time, if ``what`` does ``count`` of them."""
    began = time.process_time()
    what()
    return count / (time.process_time() - began)


def compile_anew(space: SearchSpace) -> object:
    compiled_or_depth.cache_clear()
    return compiled(space)


def count_anew(space: SearchSpace) -> object:
    census.cache_clear()
    return census(space)


def contestants(space: SearchSpace) -> dict[str, Callable[[], float]]:
    """By name, what measures strings a second."""
    automaton, counted = compiled(space), census(space)
    assert automaton is not None, "the space reaches too many shapes for a table"
    draws, valid = RejectionSampler(space, 0), CensusSampler(space, 0)
    batches = [draws.positions(i * BATCH, (i + 1) * BATCH) for i in range(BATCHES)]
    few = architectures(space, batches[0][:FEW])
    ranks = np.random.default_rng(0).integers(0, counted.size, BATCH * BATCHES)
    ranked = counted.unrank(ranks)
    end = min(valid.size, BATCH * BATCHES)
    judge = judge_with(draws, space.rules)
    starts = range(0, BATCH * BATCHES, BATCH)
    many = BATCH * BATCHES
    return {
        "draw (rejection)": lambda: rate(many, lambda: [draws.positions(i, i + BATCH) for i in starts]),
        "check": lambda: rate(many, lambda: [automaton.check(batch) for batch in batches]),
        "draw and check": lambda: rate(many, lambda: [automaton.check(draws.positions(i, i + BATCH)) for i in starts]),
        "check one by one": lambda: rate(FEW, lambda: [check(string, space.rules) for string in few]),
        "draw, check, and make rows for the store": lambda: rate(BATCH, lambda: judge(0, BATCH)),
        "unrank": lambda: rate(many, lambda: counted.unrank(ranks)),
        "rank": lambda: rate(many, lambda: counted.rank(ranked)),
        "draw (census: permute and unrank)": lambda: rate(end, lambda: valid.positions(0, end)),
    }


def main() -> None:
    """Print the tables."""
    arguments = argparse.ArgumentParser(description="drawing, checking, counting and unranking")
    arguments.add_argument("--space", type=lambda path: read_space(Path(path).read_text()), default=CLASSIC)
    arguments.add_argument("--rounds", type=int, default=9)
    given = arguments.parse_args()
    space, rounds = given.space, given.rounds
    count_anew(space)
    print(f"## Space\n\n{machine('numpy')}; space {space.name}, one core, n = {rounds}\n", flush=True)
    found = in_turn(rounds, contestants(space))
    print("| million strings a second | median (min to max) |\n| --- | ---: |")
    for name, rates in found.items():
        print(f"| {name} | {spread((value / 1e6 for value in rates), 3)} |")
    seconds = in_turn(rounds, {
        "compile the table": lambda: 1 / rate(1, lambda: compile_anew(space)),
        "count the space, table included": lambda: 1 / rate(1, lambda: (compile_anew(space), count_anew(space))),
    })  # fmt: skip
    print("\n| milliseconds | median (min to max) |\n| --- | ---: |")
    for name, values in seconds.items():
        print(f"| {name} | {spread((value * 1000 for value in values), 0)} |")


if __name__ == "__main__":
    main()
