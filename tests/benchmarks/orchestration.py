"""What a candidate costs beside its training: whole searches with a trainer that does nothing.

    python -m tests.benchmarks.orchestration                        some five minutes
    python -m tests.benchmarks.orchestration --most 1000000 --rounds 1
    python -m tests.benchmarks.orchestration --most 10000 --only valid/sqlite/ray --profile

The real loop, state machine, store and executor; a trainer whose outcome, a made-up curve of ten epochs, is there
at once. Wall time, so what the workers do on the same cores counts too; "here" is what the coordinator's process
computes for one, "all" what it, Ray's processes and Postgres do together: on a machine with other work to do they
say more than the wall time. ``valid`` candidates come from a list that costs nothing to draw or check; ``classic``
ones are drawn and checked as ever, about 18 draws for one that is valid, and a search of them ends at a tenth of the
others' number. Every search is a process of its own, and the rounds go round all of them. Resident memory is the
coordinator's (on SQLite its caches included): when all was imported and the workers were up, and what came on top.
"""

import argparse
import cProfile
import json
import pstats
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import Engine

from search.candidates import Measurement, Outcome
from search.run import Executor, Progress, Run, StopRequest
from search.samplers import RejectionSampler
from search.settings import Limits, Recipe, SearchSettings
from search.shapes import Verdict
from search.sieve import Drawn, judge_with
from search.space import CLASSIC
from storage.engine import open_for_writing
from storage.store import SqlStore
from tests.benchmarks.measure import machine
from tests.databases import postgres_server
from workers.executors import InProcessExecutor, plan

SETTINGS = SearchSettings(CLASSIC, "rejection", 1, 0, "none", "00", Recipe(), "cpu")
CURVE = tuple(Measurement(epoch, 2.30 / epoch, 2.31 / epoch, 0.9 + epoch / 1000) for epoch in range(1, 11))
WORKERS = 2
LAYERS = "conv=channel_factor:2,kernel_size:3,stride:1,padding:0-batchnorm=eps:0.00001-dropout=p:0.2-"
CLASSIC_SHARE = 10  # of the number of the valid ones that a search of classic draws completes: a tenth


class Nothing:
    """Trains nothing."""

    def prepare(self) -> "Nothing":
        return self

    def train(self, layers: str) -> Iterator[Outcome | None]:
        yield Outcome(CURVE, 0.001)


def made_up(start: int, stop: int) -> Sequence[Drawn]:
    """Distinct candidates that are valid, whatever their strings say."""
    verdict = Verdict(((1, 28, 28),), None, None, None, 50_890, 508_900)  # type: ignore[arg-type]
    return [Drawn(index, f"{LAYERS}{index:08}", verdict) for index in range(start, stop)]


JUDGES: dict[str, Callable[[int, int], Sequence[Drawn]]] = {
    "valid": made_up,
    "classic": judge_with(RejectionSampler(CLASSIC, 0), CLASSIC.rules),
}


# ------------------------------------------------------------------ one search, in a process of its own


def resident_mib() -> float:
    """Of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def server_of(engine: Engine) -> list[psutil.Process]:
    """The process of the Postgres server, whose children the others are; none for SQLite."""
    if engine.dialect.name != "postgresql":
        return []
    with engine.connect() as connection:
        backend = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
    parent = psutil.Process(backend).parent()
    return [parent] if parent else []


def computed_s(roots: Sequence[psutil.Process]) -> float:
    """Processor seconds of processes and all that come from them, as far as those are there."""
    total = 0.0
    for process in [each for root in roots for each in (root, *root.children(recursive=True))]:
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()  # of children that have ended as well, once their parent knows
            total += times.user + times.system + times.children_user + times.children_system
    return total


class Checkpoints:
    """Seconds, draws and memory when so many candidates had been recorded."""

    def __init__(self, most: int, others: Sequence[psutil.Process]) -> None:
        self.roots = [psutil.Process(), *others]
        self.left = [number for number in (10**power for power in range(2, 9)) if number < most] + [most]
        self.seen: list[dict[str, float]] = []
        self.start()

    def start(self) -> None:
        """From now on."""
        self.began, self.resident = time.perf_counter(), resident_mib()
        self.here, self.all = time.process_time(), computed_s(self.roots)

    def __call__(self, progress: Progress) -> None:
        while self.left and progress.counts.completed >= self.left[0]:
            self.left.pop(0)
            self.seen.append(
                {
                    "completed": progress.counts.completed,
                    "drawn": progress.counts.drawn,
                    "seconds": time.perf_counter() - self.began,
                    "here": time.process_time() - self.here,
                    "all": computed_s(self.roots) - self.all,
                    "resident": resident_mib(),
                }
            )


def search(draws: str, url: str, executor_name: str, most: int, *, profile: bool) -> dict[str, Any]:
    """Run one; what was seen at each checkpoint."""
    with ExitStack() as stack:
        executor: Executor
        if executor_name == "ray":
            from workers.ray_cluster import connect, disconnect, resources
            from workers.ray_executor import RayExecutor

            connect(None, WORKERS)
            stack.callback(disconnect)
            executor = RayExecutor(Nothing(), plan(resources(), "cpu", WORKERS, None))
        else:
            executor = InProcessExecutor(Nothing())
        stack.callback(executor.close)
        engine = open_for_writing(url)
        stack.callback(engine.dispose)
        target = most if draws == "valid" else 10**9
        limits = Limits(candidates=target, max_completed=None if draws == "valid" else most)
        store = SqlStore.open(engine, "nothing", SETTINGS, target)
        store.join()
        checkpoints = Checkpoints(most, server_of(engine))
        run = Run(store, executor, JUDGES[draws], limits, StopRequest(), checkpoints)
        while not run._machine.training and not run._ended:  # until the workers are up
            run.turn()
        checkpoints.start()
        profiler = cProfile.Profile() if profile else None
        if profiler:
            profiler.runcall(run)
            pstats.Stats(profiler, stream=sys.stderr).sort_stats("tottime").print_stats(45)
        else:
            run()
    return {"resident": checkpoints.resident, "seen": checkpoints.seen}


# ------------------------------------------------------------------ all of them


def main() -> None:
    parser = argparse.ArgumentParser(description="What a candidate costs beside its training.")
    parser.add_argument("--most", type=int, default=10_000, help="candidates of a search of valid ones")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="searches whose name, such as valid/sqlite/ray, contains this")
    parser.add_argument("--profile", action="store_true", help="where the time goes, of each search, to stderr")
    parser.add_argument("--search", nargs=4, metavar="WORD", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.search:
        draws, url, executor, most = options.search
        print(json.dumps(search(draws, url, executor, int(most), profile=options.profile)))
        return
    versions = f"{machine('ray', 'sqlalchemy', 'psycopg')}, SQLite {sqlite3.sqlite_version}"
    print(f"## Orchestration\n\n{versions}; {WORKERS} Ray workers, n = {options.rounds}\n", flush=True)
    kinds = [(d, db, e) for d in JUDGES for db in ("sqlite", "postgres") for e in ("in-process", "ray")]
    kinds = [kind for kind in kinds if options.only in "/".join(kind)]
    found: dict[tuple[str, str, str], list[dict[str, Any]]] = {kind: [] for kind in kinds}
    with tempfile.TemporaryDirectory(prefix="netsieve-bench-") as folder, postgres_server() as server:
        for number in range(options.rounds):
            for kind in kinds:
                draws, database, executor = kind
                path = Path(folder, f"{number}{'-'.join(kind)}.db")
                url = f"sqlite:///{path}" if database == "sqlite" else server.new_database()
                most = options.most if draws == "valid" else max(100, options.most // CLASSIC_SHARE)
                more = ["--profile"] if options.profile else []
                command = [sys.executable, "-m", "tests.benchmarks.orchestration", *more, "--search"]
                answer = subprocess.run(
                    [*command, draws, url, executor, str(most)], check=True, stdout=subprocess.PIPE, text=True
                )
                found[kind].append(json.loads(answer.stdout.splitlines()[-1]))
                path.unlink(missing_ok=True)
    print("| draws | database | executor | completed | ms each, median (min to max) | here | all | µs a draw | MiB |")
    print("| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for kind, searches in found.items():
        for line in lines(searches):
            print(f"| {' | '.join(kind)} | {line} |")


def lines(searches: list[dict[str, Any]]) -> Iterator[str]:
    """A line a checkpoint: what a candidate cost since the one before."""
    stretches = [list(pairwise([dict.fromkeys(one["seen"][0], 0.0), *one["seen"]])) for one in searches]
    base = statistics.median(one["resident"] for one in searches)
    for same in zip(*stretches, strict=True):

        def each(what: str, per: str, same: Any = same) -> list[float]:
            return [(after[what] - before[what]) / max(1, after[per] - before[per]) for before, after in same]

        wall, here, all_ = ([1e3 * s for s in each(what, "completed")] for what in ("seconds", "here", "all"))
        draw_us = 1e6 * statistics.median(each("seconds", "drawn"))
        grown = statistics.median(after["resident"] for _, after in same) - base
        cells = (
            f"{statistics.median(after['completed'] for _, after in same):,.0f}",
            f"{statistics.median(wall):.2f} ({min(wall):.2f} to {max(wall):.2f})",
            f"{statistics.median(here):.2f}",
            f"{statistics.median(all_):.2f}",
            f"{draw_us:.0f}" if any(each("drawn", "completed")) else "-",
            f"{base:.0f} + {grown:.0f}",
        )
        yield " | ".join(cells)


if __name__ == "__main__":
    main()
