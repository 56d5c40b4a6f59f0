"""The sieve: candidates drawn by their indices, and checked."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from search.automaton import Automaton, compiled
from search.layer_string import format_architecture
from search.layers import format_layer
from search.samplers import CensusSampler, ListedSampler, RejectionSampler, Sampler
from search.shapes import Rules, Verdict, check


@dataclass(frozen=True)
class Drawn:
    """A candidate as drawn and checked, for the store."""

    index: int
    layers: str  # canonical layer string
    verdict: Verdict


Judge = Callable[[int, int], Sequence[Drawn]]  # the candidates of indices from the first to before the second


def judge_with(sampler: Sampler, rules: Rules) -> Judge:
    """What draws a range of indices, and checks each.

    Whole batches at once; one by one what a list names, which need not be of the space, and where the space
    reaches too many shapes for a table.
    """
    automaton = None if isinstance(sampler, ListedSampler) else compiled(sampler.space)
    if automaton is None or isinstance(sampler, ListedSampler):
        return lambda start, stop: list(_one_by_one(sampler, rules, start, stop))
    return lambda start, stop: list(_at_once(sampler, automaton, start, stop))


def _one_by_one(sampler: Sampler, rules: Rules, start: int, stop: int) -> Iterator[Drawn]:
    for index, architecture in enumerate(sampler.draw(start, stop), start):
        yield Drawn(index, format_architecture(architecture), check(architecture, rules))


def _at_once(sampler: RejectionSampler | CensusSampler, automaton: Automaton, start: int, stop: int) -> Iterator[Drawn]:
    positions = sampler.positions(start, stop)
    texts = [*(format_layer(layer) + "-" for layer in automaton.space.layers), ""]
    strings = ("".join([texts[p] for p in row]) for row in positions.tolist())
    verdicts = automaton.check(positions).scalar()
    for index, layers, verdict in zip(range(start, stop), strings, verdicts, strict=True):
        yield Drawn(index, layers, verdict)
