"""What executors have in common, and the one without Ray: a candidate at a time, in the coordinator's own process.

For small searches, debugging, and machines on which Ray does not start. Training advances a batch
at a time inside ``poll``, so the loop stays awake for signals and deadlines. Not covered: a network
that takes its whole process down takes the search with it (resume goes on), and a single batch that
never ends cannot be interrupted; Ray's workers survive both.
"""

import os
import platform
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from search.candidates import Outcome
from search.errors import SettingsError
from search.messages import Finished, Started, Task, WorkerEvent, WorkerReady, WorkerTime


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


MOST_WORKERS_A_CORE = 4  # of a local session: each is a process that imports torch before it trains
START_TIMEOUT_S = 180.0  # that a run may be without any worker; a local session's processes start within it
GROWTH_TIMEOUT_S = 900.0  # likewise, of a cluster that may have to get its machines first


@dataclass(frozen=True)
class WorkerPlan:
    """How many workers, and what each one takes from its node."""

    device: str  # cpu or cuda
    workers: int | None  # None: as many as there is room for, while nodes come and go
    gpus_per_worker: float  # 0 on the CPU

    @property
    def need(self) -> str:
        """What a worker takes, in words."""
        return f"{self.gpus_per_worker:g} GPU and a CPU core" if self.gpus_per_worker else "a CPU core"

    def room(self, node: Mapping[str, float]) -> int:
        """For how many workers a node has room, which has so much CPU and GPU."""
        most, gpus, share = int(node.get("CPU", 0.0)), node.get("GPU", 0.0), self.gpus_per_worker
        if not share:
            return most
        return min(most, int(gpus) * int(1 / share) if share <= 1 else int(gpus / share))  # a share is of one GPU


def plan(
    available: Mapping[str, float],
    device: str | None,
    workers: int | None,
    gpus_per_worker: float | None,
    *,
    may_grow: bool = False,
) -> WorkerPlan:
    """A worker a GPU (or the share of one that is asked for) where there are GPUs, else a worker a CPU core.

    ``available`` is the CPU and the GPU that there are in all. Raises SettingsError when they are too few; of a cluster
    that may grow nothing is too few, and it is followed.
    """
    gpus = available.get("GPU", 0.0)
    device = device or ("cuda" if gpus or (gpus_per_worker and may_grow) else "cpu")
    if device == "cpu" and gpus_per_worker:
        raise SettingsError(f"--gpus-per-worker {gpus_per_worker:g}: the workers of this search train on the CPU")
    planned = WorkerPlan(device, workers, 0.0 if device == "cpu" else gpus_per_worker or 1.0)
    if may_grow:
        return planned
    if device == "cuda" and not gpus:
        raise SettingsError("--device cuda: Ray sees no GPU; give --device cpu, or the address of a cluster with GPUs")
    most = planned.room(available)
    if most < (workers or 1):
        raise SettingsError(f"--workers {workers or 1}: there is room for {most}, of {planned.need} each")
    return replace(planned, workers=workers or most)


class Prepared(Protocol):
    """A trainer in the process that trains."""

    def train(self, layers: str) -> Iterator[Outcome | None]:
        """Train one layer string: None after every batch, its outcome last.

        Raises nothing for a candidate; after its outcome Stopped, if this process can train no other one.
        """
        ...


class TrainerFactory(Protocol):
    """What an executor is given: picklable, prepared once in every process that trains."""

    def prepare(self) -> Prepared:
        """Load what training needs."""
        ...


class InProcessExecutor:
    """Trains in this process."""

    def __init__(self, trainer: TrainerFactory) -> None:
        self._trainer = trainer.prepare()
        self._queue: deque[Task] = deque()
        self._training: tuple[Task, Iterator[Outcome | None]] | None = None
        self._ended: Iterator[Outcome | None] = iter(())  # the last training, after its outcome
        self._events: list[WorkerEvent] = [WorkerReady(0, platform.node())]
        self._ready_at = time.monotonic()
        self._training_s = 0.0

    @property
    def workers(self) -> int:
        """This process."""
        return 1

    @property
    def worked(self) -> WorkerTime:
        """This process trains, or does all the rest of a run meanwhile."""
        return WorkerTime(time.monotonic() - self._ready_at, self._training_s)

    @property
    def trains_in_poll(self) -> bool:
        """In this process nothing trains meanwhile."""
        return True

    def submit(self, worker: int, tasks: Sequence[Task]) -> bool:
        """Queue a batch."""
        self._queue.extend(tasks)
        return True

    def poll(self, timeout_s: float) -> list[WorkerEvent]:
        """Train until something happens, or for ``timeout_s``. Raises Stopped if this process can train no more."""
        deadline = time.monotonic() + timeout_s
        while not self._events:
            if self._training is None and not self._queue:
                time.sleep(timeout_s)
            else:
                self._advance()  # at least one batch, however short the time
            if time.monotonic() >= deadline:
                break
        events, self._events = self._events, []
        return events

    def _advance(self) -> None:
        if self._training is None:
            next(self._ended, None)  # raises what the last training left behind
            task = self._queue.popleft()
            self._training = (task, self._trainer.train(task.layers))
            self._events.append(Started(0, task.index, task.attempt))
            return
        task, batches = self._training
        began = time.monotonic()
        outcome = next(batches)
        self._training_s += time.monotonic() - began
        if outcome is not None:
            self._training, self._ended = None, batches
            self._events.append(Finished(0, task.index, outcome, task.attempt))

    def replace(self, worker: int) -> None:
        """Drop what is queued and in training, and be ready again."""
        self.release(worker)
        self._events.append(WorkerReady(0, platform.node()))

    def avoid(self, node: str, why: str) -> None:
        """There is no other node than this process."""

    def release(self, worker: int) -> None:
        """Drop what is queued and in training."""
        self._queue.clear()
        self._training = None
        self._events = []

    def close(self) -> None:
        """Drop what is queued and in training."""
        self.release(0)
