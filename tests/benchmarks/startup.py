"""Where the seconds go from a command's start until its first candidate trains.

    python -m tests.benchmarks.startup [--rounds 5] [--data-dir FOLDER] [--against CHECKOUT]

``netsieve run`` of MNIST, or of digits where that is not, with Ray on two workers, a fresh database each time; the
moments are taken by wrapping the functions that the steps consist of. With --against another checkout takes turns
with this one. Files are in the system's cache after the first round, which is not counted.
"""

import argparse
import functools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).parents[2]
SHARED_DATA = CHECKOUT.parent / "shared" / "data"
STEPS = (  # name, and what its end is
    "Python, the command line",
    "options, database, what is stored",
    "dataset",
    "import ray",
    "ray.init",
    "actors asked for",
    "database, first draws, meanwhile",
    "first worker ready (torch, data)",
    "first candidate trains",
)


def traced(began: float, words: list[str]) -> None:
    """Be the command, and print when each step had ended, in seconds since ``began`` (time.time)."""
    ends: dict[str, float] = {}

    def note(step: int) -> None:
        ends.setdefault(STEPS[step], time.time() - began)

    def then(owner: Any, name: str, after: Callable[[Any], None], before: int | None = None) -> None:
        function = getattr(owner, name)

        @functools.wraps(function)
        def wrapped(*args: Any, **named: Any) -> Any:
            if before is not None:
                note(before)
            result = function(*args, **named)
            after(result)
            return result

        setattr(owner, name, wrapped)

    import search.cli
    from search.cli import launch

    note(0)
    then(launch, "_prepare", lambda _: note(2), before=1)
    start_workers = launch.start_workers

    def start(*args: Any) -> Any:
        from workers import ray_cluster, ray_executor

        note(3)
        then(ray_cluster, "connect", lambda _: note(4))
        then(ray_executor.RayExecutor, "__init__", lambda _: note(5))
        then(ray_executor.RayExecutor, "poll", heard)
        return start_workers(*args)

    def heard(events: Any) -> None:
        kinds = {type(event).__name__ for event in events}
        if "WorkerReady" in kinds:
            note(7)
        if "Started" in kinds:
            note(8)
            print(json.dumps(ends), file=sys.__stdout__, flush=True)  # stdout is put aside in a run
            os.kill(os.getpid(), signal.SIGINT)

    launch.start_workers = start
    from search import run

    then(run.Run, "_claim", lambda _: note(6))
    sys.argv = ["netsieve", *words]
    search.cli.main()


def once(checkout: Path, dataset: str, data_dir: Path) -> dict[str, float]:
    """The ends of the steps of one command."""
    with tempfile.TemporaryDirectory(prefix="netsieve-bench-") as folder:
        command = [sys.executable, str(Path(__file__)), "--trace", repr(time.time())]
        words = ["run", "bench", "--dataset", dataset, "--data-dir", str(data_dir), "--workers", "2"]
        answer = subprocess.run(
            [*command, *words, "--db", f"sqlite:///{folder}/search.db", "--candidates", "100", "--grace", "1s"],
            check=False,
            capture_output=True,
            text=True,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(checkout)},
        )
    lines = [line for line in answer.stdout.splitlines() if line.startswith("{")]
    assert lines, answer.stderr
    ends: dict[str, float] = json.loads(lines[0])
    return ends


def main() -> None:
    if sys.argv[1:2] == ["--trace"]:
        traced(float(sys.argv[2]), sys.argv[3:])
        return
    parser = argparse.ArgumentParser(description="Where the seconds until the first training go.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data-dir", type=Path, default=SHARED_DATA)
    parser.add_argument("--against", type=Path, help="another checkout of netsieve")
    options = parser.parse_args()
    # not at the top: what is traced is a process of its own, in another checkout perhaps, and its imports count
    from tests.benchmarks.measure import machine
    from tests.benchmarks.peers import dataset_name

    dataset = dataset_name(options.data_dir)
    print(f"## Startup\n\n{machine('ray', 'torch')}; {dataset}, 2 Ray workers\n", flush=True)
    checkouts = {"here": CHECKOUT, **({"against": options.against} if options.against else {})}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in checkouts}
    for number in range(options.rounds + 1):
        for name, checkout in checkouts.items():
            ends = once(checkout, dataset, options.data_dir)
            if number:
                found[name].append(ends)
    print(f"| seconds from the start to the end of, median (min to max), n = {options.rounds} | {' | '.join(found)} |")
    print(f"| --- |{' ---: |' * len(found)}")
    for step in STEPS:
        cells = []
        for each in found.values():
            seconds = [ends[step] for ends in each if step in ends]
            cells.append(f"{statistics.median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f})")
        print(f"| {step} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
