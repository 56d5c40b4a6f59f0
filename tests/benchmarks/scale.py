"""Where one coordinator saturates, what several give, and how a search ends: measured, then simulated.

    python -m tests.benchmarks.scale                                  all of it, some ten minutes
    python -m tests.benchmarks.scale machine ends                     some parts
    python -m tests.benchmarks.scale several                          several coordinators at a search's end
    python -m tests.benchmarks.scale ends --against FILE              beside another search/coordinator.py

    machine   processor time and memory of the state machine, for each event, with 10 to 10,000 workers
    ray       the coordinator's time for each item of a stream, each batch, each look at what is ready
    store     the same for each row that is drawn, claimed, dispatched and recorded, on SQLite and Postgres
    ends      how long workers are idle, in whole searches of 100 to 10,000 candidates
    scale     the share of the time in which 10 to 10,000 workers train, at the prices of ``fleet.py``

``ends`` and ``scale`` run the real loop and state machine in simulated time (``fleet.py``): whatever they say
rests on the prices and on the costs of trainings (``population``), and on nothing ever failing.
"""

import argparse
import importlib.util
import math
import random
import statistics
import tempfile
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path

from search import run as shell
from search.candidates import Measurement, Outcome, RejectionReason
from search.coordinator import Coordinator
from search.messages import Claimed, Event, Finished, Task, WorkerReady
from search.run import News
from search.samplers import RejectionSampler
from search.settings import Limits
from search.shapes import Verdict
from search.sieve import Drawn, judge_with
from search.space import CLASSIC
from tests.benchmarks import database, fleet
from tests.benchmarks.costs import features
from tests.benchmarks.measure import machine as machine_line
from tests.databases import postgres_server

CURVE = tuple(Measurement(epoch, 1.0, 1.0, 0.5) for epoch in range(1, 11))
REJECTED = Verdict((), RejectionReason.KERNEL_EXCEEDS_INPUT, 0, "")
DRAWS_A_CANDIDATE = 6  # distinct and valid, early in a search of the classic space; 17 after 19 million draws
SIZES = (100, 1_000, 10_000)  # of searches, in candidates
MEANS_S = (2.0, 0.2, 0.03)  # of a training: on a core, and as GPUs may do it
PRICES = {"SQLite": fleet.Prices(), "Postgres": fleet.WITH_POSTGRES}
COORDINATORS = (1, 2, 4, 8)
TOGETHER = ((2.0, 100, 16), (2.0, 1_000, 16), (2.0, 1_000, 256), (2.0, 10_000, 256), (20.0, 1_000, 16))


# ------------------------------------------------------------------ what is trained


@cache
def population() -> list[tuple[str, int, float]]:
    """(layers, multiply-adds, cost; 1 on average) of the first 10,000 distinct valid candidates of seed 0.

    Costs are those of ``costs.py``'s formula for the shape trace, fitted to version 1 of the training, times the
    noise that it leaves.
    """
    judge, found, chance = judge_with(RejectionSampler(CLASSIC, 0), CLASSIC.rules), {}, random.Random(1)
    for start in range(0, 10**6, 8_192):
        found.update({d.layers: d for d in judge(start, start + 8_192) if d.verdict.valid and d.layers not in found})
        if len(found) >= 10_000:
            break
    rows = []
    for drawn in list(found.values())[:10_000]:
        f = features(drawn.layers)
        s = (
            0.0239
            + 6.15e-7 * f["macs"]
            + 9.27e-5 * f["elements into convs"]
            + 0.017 * f["convs"]
            + 0.00885 * f["layers"]
        )
        rows.append((drawn.layers, drawn.verdict.macs or 0, s * math.exp(chance.gauss(0, 0.2))))
    mean = statistics.fmean(cost for *_, cost in rows)
    return [(layers, macs, cost / mean) for layers, macs, cost in rows]


@cache
def mean_macs() -> float:
    return statistics.fmean(macs for _, macs, _ in population())


@dataclass(frozen=True)
class Trainings:
    """Candidates of a search, and how long each trains."""

    seed: int
    mean_s: float
    heavy: bool = False  # costs in proportion to multiply-adds: half below a third of the mean, the largest 20 times it

    def _number(self, index: int) -> int:
        return random.Random(self.seed << 40 | index).randrange(10_000)

    def seconds(self, index: int) -> float:
        _, macs, cost = population()[self._number(index)]
        return self.mean_s * (macs / mean_macs() if self.heavy else cost)

    def judge(self, start: int, stop: int) -> list[Drawn]:
        return [self._drawn(index) for index in range(start, stop)]

    def _drawn(self, index: int) -> Drawn:
        if index % DRAWS_A_CANDIDATE:
            return Drawn(index, "", REJECTED)
        layers, macs, _ = population()[self._number(index)]
        return Drawn(index, layers, Verdict((), parameters=1, macs=macs))


# ------------------------------------------------------------------ the state machine


@dataclass
class Timed:
    """What the state machine costs, by what it hears."""

    seconds: Counter[str]
    events: Counter[str]

    def step(self, machine: Coordinator, event: Event, now: float) -> object:
        began = time.thread_time()
        commands = type(machine).step(machine, event, now)
        name = type(event).__name__
        self.seconds[name] += time.thread_time() - began
        self.events[name] += 1
        return commands


def machine(kinds: dict[str, type[Coordinator]]) -> None:
    """Processor time and memory."""
    names = ("WorkerReady", "Started", "Finished", "Submitted", "Tick")
    print(f"\n| workers | state machine | {' | '.join(f'us a {name}' for name in names)} | MB |")
    print(f"| ---: | --- | {'---: | ' * len(names)} ---: |")
    for workers in (10, 100, 1_000, 10_000):
        for name, kind in kinds.items():
            if workers > 1_000 and kind is not Coordinator:  # where an event costs a look at all workers: minutes
                continue
            trainings, timed = Trainings(0, 2.0), Timed(Counter(), Counter())
            shell.Coordinator = kind  # type: ignore[misc, attr-defined]
            fleet.run(
                workers, trainings.judge, 10**9, trainings.seconds, fleet.FREE, max(4.0, 2_000 / workers), timed.step
            )
            each = (f"{1e6 * timed.seconds[event] / timed.events[event]:.1f}" for event in names)
            print(f"| {workers:,} | {name} | {' | '.join(each)} | {megabytes(kind, workers):.1f} |", flush=True)
    shell.Coordinator = Coordinator  # type: ignore[misc, attr-defined]


def megabytes(kind: type[Coordinator], workers: int) -> float:
    """What the state machine holds once its workers are ready and its candidates claimed."""
    trainings = Trainings(0, 2.0)
    tracemalloc.start()
    held = kind(range(workers), Limits())
    for number in range(workers):
        held.step(WorkerReady(number, "node"), 0.0)
    drawn = trainings.judge(0, min(10 * workers, 65_536) * DRAWS_A_CANDIDATE)
    tasks = (Task(d.index, str(d.layers) + "", d.verdict.macs or 0, 1) for d in drawn if d.verdict.valid)
    held.step(Claimed(tuple(tasks), left_to_draw=True), 0.0)
    del drawn
    found = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return found / 2**20


# ------------------------------------------------------------------ Ray


@dataclass(frozen=True)
class TrainsNothing:
    """A trainer that is done at once."""

    def prepare(self) -> "TrainsNothing":
        return self

    def train(self, _layers: str) -> Iterator[Outcome | None]:
        yield Outcome(CURVE, 1.0)


def ray_costs(rounds: int) -> None:
    """The coordinator's side of a session on this machine; its main thread's time, for that is what saturates."""
    from workers.executors import WorkerPlan
    from workers.ray_cluster import connect, disconnect
    from workers.ray_executor import RayExecutor

    print(
        "\n| actors | items/s | main thread, us an item | all threads | main thread, us a batch of 64 | items a poll |"
    )
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    for actors in (2, 4, 8, 16):
        connect(None, actors)
        executor = RayExecutor(TrainsNothing(), WorkerPlan("cpu", actors, 0.0))
        try:
            found = sorted(messages(executor, rounds))
        finally:
            executor.close()
            disconnect()
        rates, main, everything, call, polled = (statistics.median(values) for values in zip(*found, strict=True))
        spread = f"{found[0][0]:,.0f} to {found[-1][0]:,.0f}"
        print(
            f"| {actors} | {rates:,.0f} ({spread}) | {1e6 * main:.0f} | {1e6 * everything:.0f} | {1e6 * call:.0f} "
            f"| {polled:.0f} |",
            flush=True,
        )
    waiting()


def messages(executor: "fleet.Fleet | object", rounds: int) -> Iterator[tuple[float, float, float, float, float]]:
    """Items a second; seconds an item, of this thread and of this process, and a batch; items a poll."""
    numbers, left = iter(range(10**9)), Counter[int]()
    calls: list[float] = []

    def give(worker: int) -> None:
        tasks = [Task(next(numbers), population()[0][0], 1, attempt=1) for _ in range(64)]
        began = time.thread_time()
        executor.submit(worker, tasks)  # type: ignore[attr-defined]
        calls.append(time.thread_time() - began)
        left[worker] += 64

    ready: set[int] = set()
    while len(ready) < executor.workers:  # type: ignore[attr-defined]
        ready |= {e.worker for e in executor.poll(0.25) if isinstance(e, WorkerReady)}  # type: ignore[attr-defined]
    for worker in [*ready, *ready]:
        give(worker)
    for number in range(rounds + 1):
        items = polls = 0
        calls.clear()
        clocks = (time.perf_counter, time.thread_time, time.process_time)
        began = [clock() for clock in clocks]
        while time.perf_counter() < began[0] + 4.0:
            heard = executor.poll(0.25)  # type: ignore[attr-defined]
            items, polls = items + len(heard), polls + 1
            for event in heard:
                if isinstance(event, Finished):
                    left[event.worker] -= 1
                    if left[event.worker] == 64:
                        give(event.worker)
        wall, main, everything = (clock() - at for clock, at in zip(clocks, began, strict=True))
        if number:  # the first round warms up
            yield items / wall, main / items, everything / items, statistics.median(calls), items / polls


def waiting() -> None:
    """What it takes to see which of many workers have said something; RayExecutor looks twice a round."""
    import ray

    from workers.ray_cluster import connect, disconnect

    connect(None, 1)
    actor = ray.remote(Blocked).remote()
    streams: list[object] = []
    print("\n| workers waited for | ms a ray.wait, median (min to max), n = 9 |\n| ---: | ---: |")
    for count in (16, 100, 1_000, 10_000):
        while len(streams) < count:
            streams.append(actor.items.options(num_returns="streaming").remote())
        took = []
        for _ in range(9):
            began = time.perf_counter()
            ray.wait(streams, num_returns=1, timeout=0, fetch_local=False)
            took.append(time.perf_counter() - began)
        median = statistics.median(took)
        print(f"| {count:,} | {1e3 * median:.2f} ({1e3 * min(took):.2f} to {1e3 * max(took):.2f}) |", flush=True)
    ray.kill(actor)
    disconnect()


class Blocked:
    """An actor that says nothing."""

    def items(self) -> Iterator[int]:
        time.sleep(3_600)
        yield 0


# ------------------------------------------------------------------ the store


def store_costs(rounds: int) -> None:
    """What each row costs in transactions as a busy coordinator has them; the least of some rounds."""
    print(f"\n| us a row, least of {rounds} (here) | drawn, checked, inserted | claimed | dispatched | recorded |")
    print("| --- | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory(prefix="netsieve-bench-") as folder, postgres_server() as server:
        for name, url in (("SQLite", f"sqlite:///{folder}/scale.db"), ("Postgres", server.new_database())):
            found = (f"{1e6 * wall:.0f} ({1e6 * here:.0f})" for wall, here in rows(url, rounds))
            print(f"| {name} | {' | '.join(found)} |", flush=True)


def rows(url: str, rounds: int) -> list[tuple[float, float]]:
    """Least seconds a row, by the clock and of this process: drawn, claimed, dispatched, recorded."""
    engine, store = database.opened(url, "scale", 10**7)
    judge = judge_with(RejectionSampler(CLASSIC, 0), CLASSIC.rules)
    found = []
    for _ in range(rounds):
        tasks: list[Task] = []
        drawn = timed(8 * 1_024, lambda: [store.extend(1_024, judge) for _ in range(8)])
        claimed = timed(256, lambda: tasks.extend(store.claim(256, set()).tasks))  # noqa: B023
        begun = [replace(task, attempt=task.attempt + 1, begun=1) for task in tasks]
        dispatched = timed(256, lambda: store.record(News(dispatched=begun)))  # noqa: B023
        ended = News(started=begun, outcomes=[(task, Outcome(CURVE, 1.0)) for task in begun])
        found.append((drawn, claimed, dispatched, timed(256, lambda: store.record(ended))))  # noqa: B023
    store.leave(None)
    engine.dispose()
    return [(min(w for w, _ in column), min(h for _, h in column)) for column in zip(*found, strict=True)]


def timed(count: int, call: Callable[[], object]) -> tuple[float, float]:
    """Seconds for each of ``count``: by the clock, and of this thread."""
    clocks = (time.perf_counter, time.thread_time)
    began = [clock() for clock in clocks]
    call()
    wall, here = ((clock() - at) / count for clock, at in zip(clocks, began, strict=True))
    return wall, here


# ------------------------------------------------------------------ the end of a search


def ends(kinds: dict[str, type[Coordinator]]) -> None:
    """Whole searches: beyond the shortest time that there could be, and idle at the end."""
    print("\n| mean training | candidates | workers | state machine | beyond the bound | training | idle at the end |")
    print("| ---: | ---: | ---: | --- | ---: | ---: | ---: |")
    cases = [(mean_s, False, n) for mean_s in MEANS_S for n in SIZES] + [(2.0, True, n) for n in SIZES]
    for (mean_s, heavy, candidates), workers in product(cases, (2, 16, 256)):
        for name, kind in kinds.items():
            shell.Coordinator = kind  # type: ignore[misc, attr-defined]
            seeds = range(5 if candidates < 10_000 else 2)
            found = [end(candidates, workers, Trainings(seed, mean_s, heavy)) for seed in seeds]
            beyond, busy, tail_s = (statistics.median(values) for values in zip(*found, strict=True))
            print(
                f"| {mean_s:g} s{', heavy' if heavy else ''} | {candidates:,} | {workers} | {name} "
                f"| {beyond:.1%} | {busy:.1%} | {tail_s:.2f} s |",
                flush=True,
            )
    shell.Coordinator = Coordinator  # type: ignore[misc, attr-defined]


def end(candidates: int, workers: int, trainings: Trainings) -> tuple[float, float, float]:
    """One search: time beyond the bound, as a share of it; share of training; seconds idle at the end."""
    draws = candidates * DRAWS_A_CANDIDATE
    ran = fleet.run(workers, trainings.judge, draws, trainings.seconds, fleet.Prices())
    return ran.seconds / shortest_s(trainings, draws, workers) - 1, ran.busy, ran.tail_s


def several() -> None:
    """Whole searches of one coordinator and of several with the same workers: what nobody else can train at the end."""
    print("\n| mean training | candidates | workers | coordinators | beyond the bound, median of 5 (min to max) |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    for (mean_s, candidates, workers), coordinators in product(TOGETHER, COORDINATORS[:3]):
        beyond = [together(coordinators, candidates, workers, Trainings(seed, mean_s)) for seed in range(5)]
        spread = f"{statistics.median(beyond):.1%} ({min(beyond):.1%} to {max(beyond):.1%})"
        print(f"| {mean_s:g} s | {candidates:,} | {workers} | {coordinators} | {spread} |", flush=True)


def together(coordinators: int, candidates: int, workers: int, trainings: Trainings) -> float:
    """One search: time beyond the bound, as a share of it."""
    draws = candidates * DRAWS_A_CANDIDATE
    own = workers // coordinators
    seconds = fleet.run_together(coordinators, own, trainings.judge, draws, trainings.seconds, fleet.WITH_POSTGRES)
    return seconds / shortest_s(trainings, draws, workers) - 1


def shortest_s(trainings: Trainings, draws: int, workers: int) -> float:
    """The larger of a worker's fair share of all training, and the longest one."""
    all_s = [trainings.seconds(index) for index in range(0, draws, DRAWS_A_CANDIDATE)]
    return max(math.fsum(all_s) / workers, *all_s)


# ------------------------------------------------------------------ scale


def scale() -> None:
    """How much of the time workers train, and how many candidates that is; what several coordinators could do."""
    for name, prices in PRICES.items():
        candidate_s = 2 * prices.item_s + prices.dispatch_s + prices.result_s + prices.claimed_s
        drawn_s = prices.draw_s * DRAWS_A_CANDIDATE
        print(
            f"\n{name}, us a candidate: {1e6 * candidate_s:.0f}, and {1e6 * drawn_s:.0f} for {DRAWS_A_CANDIDATE} draws"
        )
        for coordinators in COORDINATORS if prices is fleet.WITH_POSTGRES else (1,):
            alone = coordinators / (candidate_s + drawn_s)  # each draws for its own
            print(f"{coordinators} on paper: {min(alone, 1 / drawn_s):,.0f}/s; drawing, in turns: {1 / drawn_s:,.0f}/s")
        print("\n| mean training | workers | training | candidates/s |\n| ---: | ---: | ---: | ---: |")
        for mean_s, workers in product(MEANS_S, (10, 30, 100, 300, 1_000, 3_000, 10_000)):
            trainings, last_s = Trainings(0, mean_s), max(40.0, 30 * mean_s)
            ran = fleet.run(workers, trainings.judge, 10**9, trainings.seconds, prices, last_s)
            print(f"| {mean_s:g} s | {workers:,} | {ran.busy:.1%} | {ran.trained / ran.seconds:,.0f} |", flush=True)


# ------------------------------------------------------------------ all of it


def other(file: Path) -> type[Coordinator]:
    """The state machine of another version's search/coordinator.py."""
    spec = importlib.util.spec_from_file_location("other_coordinator", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: type[Coordinator] = module.Coordinator
    return found


def main() -> None:
    parts: Sequence[str] = ("machine", "ray", "store", "ends", "several", "scale")
    parser = argparse.ArgumentParser(description="Where one coordinator saturates, and how a search ends.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(parts))
    parser.add_argument("--against", type=Path, help="another version's search/coordinator.py")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print(f"## Scale\n\n{machine_line('ray', 'sqlalchemy', 'psycopg')}", flush=True)
    kinds: dict[str, type[Coordinator]] = {"here": Coordinator}
    if options.against:
        kinds = {"other": other(options.against), **kinds}
    does: dict[str, Callable[[], None]] = {
        "machine": lambda: machine(kinds),
        "ray": lambda: ray_costs(options.rounds),
        "store": lambda: store_costs(options.rounds),
        "ends": lambda: ends(kinds),
        "several": several,
        "scale": scale,
    }
    for part in options.parts or parts:
        does[part]()


if __name__ == "__main__":
    main()
