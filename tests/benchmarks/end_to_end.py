"""The same candidates by netsieve and by what people use instead, end to end, in turn.

    python -m tests.benchmarks.end_to_end                        all of it; some forty minutes on two cores
    python -m tests.benchmarks.end_to_end --sizes 24x1 --rounds 1 --contestants netsieve lean     a minute

Every contestant is a whole command, from its start to its exit: imports, reading the data, Ray's start and
end included. All train the first valid distinct strings that netsieve draws with seed 0, once each, for
as many epochs, on the same 4,000 images, and are validated on the same 1,000. MNIST is read from --data-dir where
it is, else digits are used; the table says which. netsieve draws and checks the strings, and the thousand
others that it rejects, and records all in SQLite; the peers (``peers.py``) are given them in a file.

It is tool against tool as their users have them: netsieve trains by the latest version of its training, whose small
convolutions are faster on the CPU; the peers' networks are made of PyTorch's own modules. What of the difference is
arithmetic, lean-pool-fast shows, which is lean-pool with netsieve's networks: netsieve against lean-pool-fast is
orchestration alone, lean-pool against lean-pool-fast arithmetic alone.

Seeds differ, so accuracies do. A contestant that trained other strings, or one of them twice, or whose
accuracies are further from the first contestant's than TOLERANCE allows, ends the comparison: it did
other work.
"""

import argparse
import csv
import io
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from search.settings import TRAINING_VERSION
from tests.benchmarks.measure import in_turn, machine, spread, times
from tests.benchmarks.peers import NEEDS, PEERS, dataset_name

ROOT = Path(__file__).parents[2]
SHARED_DATA = ROOT.parent / "shared" / "data"
NETSIEVE: dict[str, list[str]] = {"netsieve": [], "netsieve-no-ray": ["--workers", "0"]}  # and their options
CONTESTANTS = [*NETSIEVE, *PEERS]
SIZES = ["24x1", "24x10", "200x1"]
ROUNDS = 2
MANY = 100  # candidates; of more, one round by default
LONG_S = 600.0  # a contestant that takes longer in its first round runs once
TOLERANCE = 0.2  # of an accuracy, divided by the root of the number of candidates: five standard errors
NOTE = (
    f"netsieve and lean-pool-fast train by version {TRAINING_VERSION} of netsieve's training, the others PyTorch's own "
    "modules, as their users do: lean-pool-fast beside lean-pool is arithmetic alone, netsieve beside lean-pool-fast "
    "orchestration alone."
)
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}  # no network; as netsieve sets them


@dataclass(frozen=True)
class Size:
    """How much is trained."""

    candidates: int
    epochs: int

    @classmethod
    def parse(cls, text: str) -> "Size":
        """From ``24x10``."""
        candidates, epochs = text.split("x")
        return cls(int(candidates), int(epochs))


@dataclass(frozen=True)
class Run:
    """What came of one command."""

    seconds: float
    accuracies: dict[str, float]  # by layer string: on the validation images, after the last epoch


def candidates(count: int) -> tuple[list[str], int]:
    """The first distinct valid strings that a search of seed 0 draws, and how many draws that takes."""
    from search.samplers import RejectionSampler
    from search.sieve import judge_with
    from search.space import CLASSIC

    judge = judge_with(RejectionSampler(CLASSIC, 0), CLASSIC.rules)
    found = dict[str, int]()
    start = 0
    while True:
        for drawn in judge(start, start + 1000):
            if drawn.verdict.valid:
                found.setdefault(drawn.layers, drawn.index)
            if len(found) == count:
                return list(found), drawn.index + 1
        start += 1000


def missing(contestant: str) -> list[str]:
    """Packages that a contestant needs and that are not installed: those of the extra ``bench``."""
    return [package for package in NEEDS.get(contestant, ()) if find_spec(package) is None]


def run(contestant: str, size: Size, data_dir: Path) -> Run:
    """One contestant, once. Raises AssertionError if it trained anything but the strings, once each."""
    strings, draws = candidates(size.candidates)
    with tempfile.TemporaryDirectory(prefix="netsieve-bench-") as folder:
        database, given, out = f"sqlite:///{folder}/search.db", Path(folder, "strings.txt"), Path(folder, "out.json")
        netsieve = [str(Path(sys.executable).with_name("netsieve"))]
        common = ["--epochs", str(size.epochs), "--data-dir", str(data_dir)]
        if contestant in NETSIEVE:
            search = ["--db", database, "--candidates", str(draws), "--dataset", dataset_name(data_dir)]
            seconds = timed([*netsieve, "run", "bench", *search, *common, *NETSIEVE[contestant]])
            columns = ["--where", "status=completed", "--columns", "layers,val_accuracy", "--format", "csv"]
            table = io.StringIO(output([*netsieve, "candidates", "bench", "--db", database, *columns]))
            found = [(row["layers"], float(row["val_accuracy"])) for row in csv.DictReader(table)]
        else:
            given.write_text("\n".join(strings))
            peer = [sys.executable, "-m", "tests.benchmarks.peers", contestant]
            seconds = timed([*peer, "--strings", str(given), "--out", str(out), *common])
            found = [(layers, accuracy) for layers, accuracy in json.loads(out.read_text())]
    assert sorted(layers for layers, _ in found) == sorted(strings), (
        f"{contestant} trained other strings, or some twice"
    )
    return Run(seconds, dict(found))


def timed(command: Sequence[str]) -> float:
    """Seconds from a command's start to its exit."""
    began = time.perf_counter()
    output(command)
    return time.perf_counter() - began


def output(command: Sequence[str]) -> str:
    """Run it; what it prints. Raises AssertionError with the end of what it says if it fails."""
    done = subprocess.run(command, cwd=ROOT, env=os.environ | QUIET, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: exit code {done.returncode}: {done.stderr[-2000:]}"
    return done.stdout


def compare(contestants: Sequence[str], size: Size, rounds: int, data_dir: Path) -> None:
    """Run all, in turn, and print a table. Raises AssertionError if one did other work."""
    runs: dict[str, list[Run]] = {name: [] for name in contestants}

    def measured(name: str) -> Callable[[], float]:
        def seconds() -> float:
            runs[name].append(run(name, size, data_dir))
            print(f"{name}, {size.candidates} x {size.epochs}: {runs[name][-1].seconds:.1f} s", file=sys.stderr)
            return runs[name][-1].seconds

        return seconds

    found = in_turn(rounds, {name: measured(name) for name in contestants}, once_above=LONG_S)
    first = contestants[0]
    print(f"\n{size.candidates} candidates, {size.epochs} epoch{'s' * (size.epochs > 1)}:\n")
    print(f"| contestant | seconds, median (min to max) | n | candidates a minute | times {first} | accuracy | best |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, seconds in found.items():
        accuracies = [accuracy for run in runs[name] for accuracy in run.accuracies.values()]
        print(
            f"| {name} | {spread(seconds)} | {len(seconds)} | {60 * size.candidates / statistics.median(seconds):,.1f} "
            f"| {times(seconds, found[first]):.2f} | {statistics.mean(accuracies):.3f} | {max(accuracies):.3f} |"
        )
    sys.stdout.flush()
    for name in contestants:
        require_same_work(name, mean_accuracies(runs[name]), mean_accuracies(runs[first]))


def mean_accuracies(runs: Sequence[Run]) -> dict[str, float]:
    """Over the runs of one contestant, by layer string."""
    return {layers: statistics.mean(run.accuracies[layers] for run in runs) for layers in runs[0].accuracies}


def require_same_work(name: str, found: Mapping[str, float], expected: Mapping[str, float]) -> None:
    """Raise AssertionError if the accuracies, by layer string, differ by more than seeds make them differ.

    It is the median of the differences that decides, not the mean: after an epoch one network in ten is still
    at chance with one seed and well on its way with another.
    """
    difference = statistics.median(found[layers] - accuracy for layers, accuracy in expected.items())
    tolerance = TOLERANCE / math.sqrt(len(expected))
    assert abs(difference) <= tolerance, (
        f"{name} did other work: its accuracies differ by {difference:+.3f} (median over the candidates), "
        f"more than {tolerance:.3f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="netsieve and what people use instead, end to end.")
    parser.add_argument("--rounds", type=int, help=f"default: {ROUNDS}, and 1 of more than {MANY} candidates")
    parser.add_argument("--sizes", nargs="+", default=SIZES, help="candidates x epochs")
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=CONTESTANTS)
    parser.add_argument("--data-dir", type=Path, default=SHARED_DATA)
    given = parser.parse_args()
    present = [name for name in given.contestants if not missing(name)]
    data_dir = given.data_dir.resolve()
    packages = [name for name in ("torch", "ray", "optuna", "numpy") if find_spec(name)]
    print(f"## End to end\n\n{machine(*packages)}; {dataset_name(data_dir)}, the classic space")
    print(f"\n{NOTE}")
    for name in given.contestants:
        if name not in present:
            print(f"\n{name} is left out: {', '.join(missing(name))} not installed (pip install -e '.[bench]')")
    for size in map(Size.parse, given.sizes):
        rounds = given.rounds or (ROUNDS if size.candidates <= MANY else 1)
        compare(present, size, rounds, data_dir)


if __name__ == "__main__":
    main()
