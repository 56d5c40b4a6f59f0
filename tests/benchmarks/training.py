"""Where the time of a training on the CPU goes, and what version 2 of the training gains over version 1.

    python -m tests.benchmarks.training [--rounds 3] [--data-dir FOLDER] [--shapes]

The candidates are the first 60 distinct valid ones that a search of seed 0 draws, and, apart, the heaviest
6 of its first 2,000 draws, with MNIST's images, or noise of their shape. Seconds are the processor's, of
the one thread that trains: other processes disturb them less than the clock's. What is compared takes turns.

With --shapes: single convolutions both ways, as products of patches and as PyTorch does it, from which
the rule of version 2 in workers/networks.py was read.
"""

import argparse
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, cross_entropy

from search.layer_string import parse
from search.samplers import RejectionSampler
from search.settings import TRAINING_VERSION, Recipe
from search.sieve import judge_with
from search.space import CLASSIC
from tests.benchmarks.measure import machine
from workers.datasets import Dataset, load
from workers.networks import ChannelDropout, _PatchProduct, build, is_small
from workers.training import PreparedTrainer, Trainer, Training, evaluate

FIRST, HEAVIEST, DRAWS = 60, 6, 2_000
STEPS = 20  # of which the parts are timed, after as many that are not
SHARED_DATA = Path(__file__).parents[2].parent / "shared" / "data"
KINDS: dict[type[nn.Module], str] = {
    nn.Conv2d: "conv",
    nn.ReLU: "conv's ReLU",
    nn.BatchNorm2d: "batchnorm",
    nn.AvgPool2d: "avgpool",
    nn.MaxPool2d: "maxpool",
    ChannelDropout: "dropout",
    nn.Flatten: "classifier",
    nn.Linear: "classifier",
}


def candidates() -> tuple[list[str], list[str]]:
    """The first, and the heaviest by multiply-adds."""
    drawn = judge_with(RejectionSampler(CLASSIC, 0), CLASSIC.rules)(0, DRAWS)
    macs = {each.layers: each.verdict.macs or 0 for each in drawn if each.verdict.valid}
    return list(macs)[:FIRST], sorted(macs, key=lambda layers: -macs[layers])[:HEAVIEST]


def images_in(data_dir: Path) -> Dataset:
    """5,000 of MNIST, or noise that costs the same."""
    if data_dir.exists():
        return load("mnist", data_dir).first(5_000)
    random = np.random.default_rng(0)
    return Dataset("noise", random.integers(0, 256, (5_000, 1, 28, 28), np.uint8), random.integers(0, 10, 5_000))


def clocked(function: Callable[[], object]) -> float:
    """Processor seconds of this thread."""
    began = time.thread_time()
    function()
    return time.thread_time() - began


# ------------------------------------------------------------------ where the time goes


def parts_of(prepared: PreparedTrainer, layers: str) -> Counter[str]:
    """Seconds of a whole training by its parts, and by kind of layer; from a few steps, layer by layer.

    That every layer is differentiated by a call of its own makes cheap ones a little dearer than they are.
    """
    trainer, data, recipe = prepared.trainer, prepared.data, prepared.trainer.recipe
    generator = torch.Generator()

    def made() -> nn.Sequential:
        return build(parse(layers), trainer.rules, generator, generator, trainer.version)

    seconds = Counter(build=clocked(made))
    network = made().train()
    steps = recipe.epochs * (recipe.images_for_training // recipe.batch_size)
    order = torch.randperm(len(data.train_images), generator=generator)
    for number, batch in enumerate(order.split(recipe.batch_size)[: 2 * STEPS]):
        for part, taken in _parts_of_a_step(network, prepared, batch):
            seconds[part] += taken * steps / STEPS if number >= STEPS else 0
    evaluations = [clocked(lambda: evaluate(network, data.val_images, data.val_labels)) for _ in range(3)]
    return seconds + Counter(evaluation=statistics.median(evaluations) * recipe.epochs)


def _parts_of_a_step(network: nn.Sequential, prepared: PreparedTrainer, batch: Tensor) -> Iterator[tuple[str, float]]:
    data, rate = prepared.data, prepared.trainer.recipe.learning_rate
    began = time.thread_time()

    def lap() -> float:
        nonlocal began
        before, began = began, time.thread_time()
        return began - before

    x, labels = data.train_images.index_select(0, batch), data.train_labels.index_select(0, batch)
    yield "batch", lap()
    passed = []  # module, input, output
    for module in network:
        is_changed = isinstance(module, nn.ReLU)  # in place: its input must not be a leaf
        before = x if is_changed else x.detach().requires_grad_(x.requires_grad)
        lap()
        x = module(before)
        yield f"forward {KINDS[_base(module)]}", lap()
        passed.append((module, before, x))
    logits = x.detach().requires_grad_()
    lap()
    loss = cross_entropy(logits, labels)
    (gradient,) = torch.autograd.grad(loss, [logits])
    yield "loss", lap()
    while passed:
        module, before, out = passed.pop()
        joined = passed.pop() if isinstance(module, nn.ReLU) else (module, before, out)
        parameters = list(joined[0].parameters())
        wanted = ([joined[1]] if joined[1].requires_grad else []) + parameters
        if not wanted:
            break
        lap()
        gradients = list(torch.autograd.grad(out, wanted, gradient))
        yield f"backward {KINDS[_base(joined[0])]}", lap()
        with torch.no_grad():
            for parameter, change in zip(parameters, gradients[len(wanted) - len(parameters) :], strict=True):
                parameter.sub_(change, alpha=rate)
        yield "update", lap()
        gradient = gradients[0]


def _base(module: nn.Module) -> type[nn.Module]:
    return next(kind for kind in KINDS if isinstance(module, kind))


def print_parts(trainers: list[PreparedTrainer], layers: list[str]) -> None:
    """A line a part: its share of the sum over all candidates, for each version."""
    sums: list[Counter[str]] = [Counter() for _ in trainers]
    for each in layers:
        for total, prepared in zip(sums, trainers, strict=True):
            total.update(parts_of(prepared, each))
    print("| part | " + " | ".join(f"version {prepared.trainer.version}, ms | share" for prepared in trainers) + " |")
    print("| --- | " + " | ".join(["---: | ---:"] * len(trainers)) + " |")
    for part in sorted(sums[0], key=lambda part: -sums[0][part]):
        cells = (f"{total[part] / len(layers) * 1e3:,.0f} | {total[part] / total.total():.1%}" for total in sums)
        print(f"| {part} | {' | '.join(cells)} |")
    cells = (f"{total.total() / len(layers) * 1e3:,.0f} | " for total in sums)
    print(f"| all | {' | '.join(cells)} |\n", flush=True)


# ------------------------------------------------------------------ whole trainings


def print_trainings(trainers: list[PreparedTrainer], layers: list[str], rounds: int) -> None:
    """Whole trainings by each version in turn, and how many times faster the second is."""
    seconds: dict[tuple[int, str], list[float]] = {}
    for _ in range(rounds):
        for each in layers:
            for prepared in trainers:
                taken = clocked(lambda p=prepared, s=each: list(Training(p, s).steps()))  # type: ignore[misc]
                seconds.setdefault((prepared.trainer.version, each), []).append(taken)
    print("| version | sum, s | median candidate, s | slowest, s |")
    print("| ---: | ---: | ---: | ---: |")
    for prepared in trainers:
        medians = [statistics.median(seconds[prepared.trainer.version, each]) for each in layers]
        figures = f"{sum(medians):.1f} | {statistics.median(medians):.3f} | {max(medians):.3f}"
        print(f"| {prepared.trainer.version} | {figures} |")
    old, new = (prepared.trainer.version for prepared in trainers)
    sums = [
        sum(seconds[old, each][turn] for each in layers) / sum(seconds[new, each][turn] for each in layers)
        for turn in range(rounds)
    ]
    ratios = sorted(statistics.median(seconds[old, each]) / statistics.median(seconds[new, each]) for each in layers)
    tenth = len(ratios) // 10
    print(
        f"\ntimes faster: the sum {statistics.median(sums):.2f} ({min(sums):.2f} to {max(sums):.2f}, n = {rounds}); "
        f"a candidate {statistics.median(ratios):.2f} in the median, {ratios[tenth]:.2f} and {ratios[-1 - tenth]:.2f} "
        f"at a tenth and nine tenths, {ratios[0]:.2f} to {ratios[-1]:.2f}\n",
        flush=True,
    )


# ------------------------------------------------------------------ single convolutions


def print_shapes(rounds: int) -> None:
    """Forward and backward of a batch of 32, with the input's gradient and without: the best of all rounds."""
    print(
        "| inputs | outputs | side | patches, µs | PyTorch, µs | times | "
        "without the input's gradient, µs | PyTorch, µs | times | rule |"
    )
    print("| ---: " * 9 + "| --- |")
    for inputs, outputs, side in [
        *((i, o, s) for i in (1, 2, 4, 8) for o in (1, 4, 12, 16, 24) for s in (28, 13, 6)),
        *((12, 4, 24), (16, 3, 24), (24, 2, 24), (24, 24, 24), (1, 4, 64), (4, 12, 64)),
    ]:
        whole, partial = (_ratio(inputs, outputs, side, is_wanted, 3 * rounds) for is_wanted in (True, False))
        small = is_small(inputs, outputs, 3, 1, 0, 32 * (side - 2) ** 2)
        cells = (inputs, outputs, side, whole, partial, "patches" if small else "PyTorch")
        print(f"| {' | '.join(map(str, cells))} |", flush=True)


def _ratio(inputs: int, outputs: int, side: int, is_wanted: bool, rounds: int) -> str:
    """Both ways, and how many times PyTorch's takes, as cells of a table."""
    x = torch.rand(32, inputs, side, side, requires_grad=is_wanted)
    weight = torch.rand(outputs, inputs, 3, 3, requires_grad=True)
    bias = torch.rand(outputs, requires_grad=True)
    gradient = torch.rand(32, outputs, side - 2, side - 2)
    wanted = [x, weight, bias] if is_wanted else [weight, bias]

    def batches(way: Callable[..., Tensor], repeats: int) -> float:
        return clocked(lambda: [torch.autograd.grad(way(x, weight, bias), wanted, gradient) for _ in range(repeats)])

    repeats = max(1, round(0.004 / batches(conv2d, 1)))
    turns = [(batches(_PatchProduct.apply, repeats), batches(conv2d, repeats)) for _ in range(rounds)]
    patches, pytorchs = (min(way) / repeats * 1e6 for way in zip(*turns, strict=True))
    return f"{patches:.0f} | {pytorchs:.0f} | {pytorchs / patches:.2f}"


def main() -> None:
    """Print the tables."""
    arguments = argparse.ArgumentParser(description="where the time of a training goes")
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--data-dir", type=Path, default=SHARED_DATA)
    arguments.add_argument("--shapes", action="store_true", help="single convolutions instead of trainings")
    given = arguments.parse_args()
    torch.set_num_threads(1)
    print(f"## Training\n\n{machine('torch', 'numpy')}, one thread, n = {given.rounds}\n")
    if given.shapes:
        print_shapes(given.rounds)
        return
    dataset = images_in(given.data_dir)
    first, heaviest = candidates()
    for name, layers in ((f"the first {FIRST}", first), (f"the heaviest {HEAVIEST} of {DRAWS:,} draws", heaviest)):
        for epochs, table in ((10, print_parts), (1, None)):
            recipe = Recipe(epochs=epochs)
            trainers = [
                Trainer(dataset, CLASSIC.rules, recipe, 0, version=number).prepare() for number in (1, TRAINING_VERSION)
            ]
            if table:
                print(f"{name}: milliseconds of a training of {epochs} epochs, the mean of all candidates\n")
                table(trainers, layers)
            else:
                print(f"{name}: whole trainings of {epochs} epoch\n")
                print_trainings(trainers, layers, given.rounds)


if __name__ == "__main__":
    main()
