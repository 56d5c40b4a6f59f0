"""How well a candidate's shape trace predicts what its training costs.

    python -m tests.benchmarks.costs                          about four minutes
    python -m tests.benchmarks.costs --measured costs.json    keep the measurement there, or fit again what is there
    python -m tests.benchmarks.costs --version 1              of older searches; by default what new ones train

The first distinct valid candidates of the classic space, seed 0, train for an epoch by the real trainer on one
thread, all of them in turn, in several rounds; a candidate's cost is its least processor time over the rounds, so
that what else runs on the machine hardly counts. Then formulas of the shape trace are fitted by least squares of
the errors' logarithms, and judged on candidates that the fit did not see (ten folds). Not covered: GPUs.
"""

import argparse
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from search import coordinator
from search.layer_string import parse
from search.layers import KINDS
from search.messages import Task
from search.samplers import RejectionSampler
from search.settings import TRAINING_VERSION, Recipe
from search.shapes import check
from search.sieve import judge_with
from search.space import CLASSIC
from tests.benchmarks.end_to_end import SHARED_DATA
from tests.benchmarks.measure import machine
from tests.benchmarks.peers import dataset_name

DRAWS = 20_000  # of which enough are valid
FOLDS = 10


@dataclass(frozen=True)
class Cost:
    """What a candidate cost in one round."""

    layers: str
    processor_s: float
    wall_s: float


def strings(count: int) -> list[str]:
    """The first distinct valid strings that a search of seed 0 draws."""
    drawn = judge_with(RejectionSampler(CLASSIC, 0), CLASSIC.rules)(0, DRAWS)
    return list(dict.fromkeys(d.layers for d in drawn if d.verdict.valid))[:count]


def measure(candidates: Sequence[str], options: argparse.Namespace) -> list[list[Cost]]:
    """Train them all for an epoch, in some rounds; the costs of each round."""
    from workers.datasets import load
    from workers.training import Trainer

    rounds, data_dir = options.rounds, options.data_dir
    dataset = load(dataset_name(data_dir), data_dir)
    recipe = Recipe(train_images=min(5_000, len(dataset.images)), epochs=1)
    prepared = Trainer(dataset, CLASSIC.rules, recipe, 0, version=options.version).prepare()
    for layers in candidates[:3]:  # what a first use loads
        list(prepared.train(layers))
    found = []
    for number in range(rounds):
        found.append([train(prepared.train, layers) for layers in candidates])
        print(f"round {number + 1} of {rounds}: {sum(c.wall_s for c in found[-1]):.0f} s", file=sys.stderr, flush=True)
    return found


def train(training: Callable[[str], object], layers: str) -> Cost:
    wall, processor = time.perf_counter(), time.process_time()
    (*_, outcome) = training(layers)  # type: ignore[misc, attr-defined]
    assert outcome.reason is None, outcome
    return Cost(layers, time.process_time() - processor, time.perf_counter() - wall)


# ------------------------------------------------------------------ what the shape trace gives


def features(layers: str) -> dict[str, float]:
    """Numbers that may tell what a training costs, per image."""
    architecture = parse(layers)
    verdict = check(architecture, CLASSIC.rules)
    assert verdict.macs is not None
    assert verdict.parameters is not None
    kinds = Counter(layer.kind for layer in architecture)
    steps = list(zip(architecture, verdict.shapes, strict=False))  # each with its input; the last is the classifier's
    return {
        "macs": verdict.macs,
        "1": 1,
        "layers": len(architecture),
        "elements": sum(shape.elements for shape in verdict.shapes),
        "parameters": verdict.parameters,
        **{f"{kind}s": kinds[kind] for kind in KINDS},
        **{f"elements into {k}s": sum(shape.elements for layer, shape in steps if layer.kind == k) for k in KINDS},
    }


ALL_KINDS = tuple(f"{kind}s" for kind in KINDS)
INTO_KINDS = tuple(f"elements into {kind}s" for kind in KINDS)
FORMULAS: dict[str, tuple[str, ...]] = {
    "multiply-adds, 1": ("macs", "1"),
    "multiply-adds, 1, layers": ("macs", "1", "layers"),
    "multiply-adds, 1, convs": ("macs", "1", "convs"),  # what search/coordinator.py takes, with constants of its own
    "multiply-adds, 1, layers by kind": ("macs", "1", *ALL_KINDS),
    "multiply-adds, 1, layers by kind, parameters": ("macs", "1", *ALL_KINDS, "parameters"),
    "elements, 1, layers": ("elements", "1", "layers"),
    "multiply-adds, elements, 1, layers by kind": ("macs", "elements", "1", *ALL_KINDS),
    "multiply-adds, elements into convs, 1, convs, layers": ("macs", "elements into convs", "1", "convs", "layers"),
    "multiply-adds, elements by kind, 1, layers by kind": ("macs", *INTO_KINDS, "1", *ALL_KINDS),
}  # fmt: skip


def fit(names: Sequence[str], rows: Sequence[dict[str, float]], seconds: np.ndarray) -> np.ndarray:
    """Coefficients above 0 that minimise the squares of the logarithms of (predicted / measured).

    By Levenberg and Marquardt's method, in the logarithms of the coefficients.
    """
    matrix = np.array([[row[name] for name in names] for row in rows], dtype=float)
    scale = matrix.mean(axis=0) + 1e-12
    matrix, found, damping = matrix / scale, np.log(np.full(len(names), seconds.mean() / len(names))), 1e-2
    errors = np.log(matrix @ np.exp(found) / seconds)
    for _ in range(400):
        slopes = matrix * np.exp(found) / (matrix @ np.exp(found))[:, None]
        step = np.linalg.solve(slopes.T @ slopes + damping * np.eye(len(names)), -slopes.T @ errors)
        tried = np.clip(found + np.clip(step, -3, 3), -40, 20)
        errors_then = np.log(matrix @ np.exp(tried) / seconds)
        if errors_then @ errors_then < errors @ errors:
            found, errors, damping = tried, errors_then, max(damping / 3, 1e-6)
        else:
            damping *= 3
    return np.asarray(np.exp(found) / scale)


def predict(names: Sequence[str], rows: Sequence[dict[str, float]], seconds: np.ndarray) -> np.ndarray:
    """Predictions of every candidate by a fit to those of the other folds."""
    predicted = np.empty(len(rows))
    for fold in range(FOLDS):
        is_out = np.arange(len(rows)) % FOLDS == fold
        coefficients = fit(names, [r for r, out in zip(rows, is_out, strict=True) if not out], seconds[~is_out])
        chosen = [r for r, out in zip(rows, is_out, strict=True) if out]
        predicted[is_out] = np.array([[row[name] for name in names] for row in chosen]) @ coefficients
    return predicted


def judged(what: str, predicted: np.ndarray, seconds: np.ndarray) -> str:
    """A line of the table: R^2 of the seconds, and relative errors once the whole is right by a factor."""
    predicted = predicted * seconds.sum() / predicted.sum()
    error = np.abs(predicted / seconds - 1)
    r2 = 1 - ((seconds - predicted) ** 2).sum() / ((seconds - seconds.mean()) ** 2).sum()
    p50, p90 = np.quantile(error, (0.5, 0.9))
    spread = float(np.std(np.log(predicted / seconds)))
    return f"| {what} | {r2:.3f} | {p50:.1%} | {p90:.1%} | {spread:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description="How well a shape trace predicts what a training costs.")
    parser.add_argument("--candidates", type=int, default=150)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--version", type=int, default=TRAINING_VERSION, help="of the training")
    parser.add_argument("--data-dir", type=Path, default=SHARED_DATA)
    parser.add_argument("--measured", type=Path, help="file of the measurement, written if it is not there")
    options = parser.parse_args()
    print(f"## Costs\n\n{machine('torch', 'numpy')}\n")
    if options.measured and options.measured.exists():
        kept = json.loads(options.measured.read_text())
        version, found = kept["version"], [[Cost(**cost) for cost in each] for each in kept["rounds"]]
    else:
        version, found = options.version, measure(strings(options.candidates), options)
        if options.measured:
            kept = {"version": version, "rounds": [[asdict(cost) for cost in each] for each in found]}
            options.measured.write_text(json.dumps(kept))
    rows = [features(cost.layers) for cost in found[0]]
    seconds = np.array([min(cost.processor_s for cost in each) for each in zip(*found, strict=True)])
    again = np.array([min(cost.processor_s for cost in each) for each in zip(*found[::2], strict=True)])
    print(f"Version {version} of the training, {len(rows)} candidates, an epoch, {len(found)} rounds.")
    print(f"Processor seconds: {quantiles(seconds)}")
    print(f"Wall seconds a round: {', '.join(f'{sum(c.wall_s for c in each):.0f}' for each in found)}\n")
    print("| predicted from | R^2 | error, median | error, 90 % | standard deviation of its logarithm |")
    print("| --- | ---: | ---: | ---: | ---: |")
    print(judged("every other round (the noise)", again, seconds))
    print(judged("macs + 100,000", np.array([row["macs"] + 100_000 for row in rows]), seconds))
    tasks = [Task(0, each.layers, int(row["macs"])) for each, row in zip(found[0], rows, strict=True)]
    print(judged("search/coordinator.py", np.array([float(coordinator.cost(task)) for task in tasks]), seconds))
    for what, names in FORMULAS.items():
        print(judged(what, predict(names, rows, seconds), seconds))
    print("\nFitted to all, seconds of an epoch:")
    for what, names in FORMULAS.items():
        terms = zip(fit(names, rows, seconds), names, strict=True)
        print(f"- {what}: {' + '.join(f'{factor:.3g} {name}' for factor, name in terms if factor > 1e-9)}")


def quantiles(values: np.ndarray) -> str:
    numbers = (*np.quantile(values, (0.0, 0.5, 0.9, 1.0)), statistics.fmean(values))
    return "least {:.3f}, median {:.3f}, 90 % {:.3f}, most {:.3f}, mean {:.3f}".format(*numbers)


if __name__ == "__main__":
    main()
