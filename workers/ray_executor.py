"""The executor on Ray: long-lived actors that hold the data and stream back what happens.

The only file that imports ray. An actor prepares its trainer once, then takes batches; one call a
batch yields ``started`` and ``finished`` for each candidate. Actors never raise for a candidate, so
an error from Ray means a lost process. Ray restarts and retries nothing by itself (max_restarts=0,
max_task_retries=0): the coordinator must know what was in training when a process ended.

Not covered: a cluster that loses its head node. Every call fails then and the run ends; what is
recorded does not live in Ray, and ``netsieve resume`` goes on elsewhere.
"""

import contextlib
import logging
import os
import re
import socket
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

# Before ray is imported: no usage statistics, and no upload of the working directory under `uv run`.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")

# Also before: `ray start` turns token authentication on where a token lies, a driver that joins does not.
# Once ray is imported its mode is settled, and another one in the environment would only mislead its servers.
TOKEN_FILE = Path.home() / ".ray" / "auth_token"
_has_token = TOKEN_FILE.exists() or os.environ.keys() & {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"}
if _has_token and "ray" not in sys.modules:
    os.environ.setdefault("RAY_AUTH_MODE", "token")

import ray
from ray.exceptions import OutOfMemoryError, RayActorError, RayError

from search.candidates import FailureReason, Outcome, clean_detail, clean_error
from search.coordinator import Finished, Started, Task, WorkerEvent, WorkerLost, WorkerReady
from search.errors import SettingsError, Stopped
from workers.executors import TrainerFactory

FAILED_STARTS = 3  # in a row, before the run stops: the fault is the cluster's, not a candidate's
START_TIMEOUT_S = 180.0  # for the first worker; a cluster may have to grow
CONNECT_TIMEOUT_S = 10.0
OBJECT_STORE_BYTES = 256 * 2**20  # of a local session; it holds the dataset's few thousand images


# ------------------------------------------------------------------ the session


@dataclass(frozen=True)
class WorkerPlan:
    """How many workers, and what each one takes from the cluster."""

    device: str  # cpu or cuda
    workers: int
    gpus_per_worker: float  # 0 on the CPU


def plan(
    available: Mapping[str, float], device: str | None, workers: int | None, gpus_per_worker: float | None
) -> WorkerPlan:
    """A worker a GPU (or the share of one that is asked for) where there are GPUs, else a worker a CPU core.

    ``available`` is what ``resources`` gives. Raises SettingsError when the cluster lacks what is asked.
    """
    gpus, cpus = available.get("GPU", 0.0), available.get("CPU", 0.0)
    device = device or ("cuda" if gpus else "cpu")
    if device == "cpu":
        if gpus_per_worker:
            raise SettingsError(f"--gpus-per-worker {gpus_per_worker:g}: the workers of this search train on the CPU")
        return WorkerPlan("cpu", _at_most(workers, int(cpus), "CPU cores"), 0.0)
    if not gpus:
        raise SettingsError("--device cuda: Ray sees no GPU; give --device cpu, or the address of a cluster with GPUs")
    share = gpus_per_worker or 1.0
    most = int(gpus) * int(1 / share) if share <= 1 else int(gpus / share)  # a share is of one GPU
    most = min(most, int(cpus))  # and a worker takes a core as well
    return WorkerPlan("cuda", _at_most(workers, most, f"workers of {share:g} GPU and a CPU core"), share)


def _at_most(asked: int | None, most: int, what: str) -> int:
    if most < 1 or (asked or 0) > most:
        raise SettingsError(f"--workers {asked or 1}: the Ray cluster has {most} {what}")
    return asked or most


def resources() -> dict[str, float]:
    """What the cluster has in all: CPU, GPU, ..."""
    return dict(ray.cluster_resources())  # type: ignore[no-untyped-call]


def disconnect() -> None:
    """Leave the cluster; end a local session."""
    ray.shutdown()


def library_version() -> str:
    """The version of Ray."""
    return str(ray.__version__)


def _start_session(cores: int, quiet: dict[str, Any]) -> None:
    """A local session, without a dashboard, that ends with this process."""
    is_new = not TOKEN_FILE.exists()
    try:
        ray.init(
            address="local", num_cpus=cores, object_store_memory=OBJECT_STORE_BYTES, include_dashboard=False, **quiet
        )
    except (ConnectionError, RayError, RuntimeError, ValueError, OSError) as error:
        raise Stopped(
            f"Ray does not start ({clean_error(error)}); netsieve doctor looks for the cause, "
            "--workers 0 trains without it"
        ) from None
    if is_new and TOKEN_FILE.exists():
        TOKEN_FILE.chmod(0o600)  # Ray leaves the session's secret readable for everyone


def connect(address: str | None, workers: int | None) -> None:
    """Join the Ray cluster at ``address``, or start a local session that ends with this process.

    Call it from the main thread, and install signal handlers after it: ray.init replaces SIGTERM's.
    Raises SettingsError when nothing answers at the address, Stopped when a local session does not start.
    """
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        _start_session(max(workers or 1, cores), quiet)
        return
    try:
        host, colon, port = address.rpartition(":")
        if colon and port.isdigit():  # Ray itself would try for minutes
            socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S).close()
        ray.init(address=address, **quiet)
    except (ConnectionError, RayError, RuntimeError, ValueError, OSError) as error:
        raise SettingsError(
            f"--ray-address {address}: no Ray cluster to join there ({clean_error(error)}); a cluster with token "
            "authentication needs its token here too (RAY_AUTH_TOKEN_PATH); leave the option out for a local session"
        ) from None


# ------------------------------------------------------------------ the actor


class TrainingActor:
    """One worker process."""

    def __init__(self, trainer: TrainerFactory) -> None:
        self._trainer = trainer.prepare()

    def hello(self) -> tuple[str, int]:
        """The version of netsieve here, and the process id."""
        return version("netsieve"), os.getpid()

    def train(self, tasks: list[tuple[int, str]]) -> Iterator[tuple[int, Outcome | None]]:
        """Train a batch of (index, layers): yields (index, None) when one starts, (index, outcome) when it ends."""
        for index, layers in tasks:
            yield index, None
            for outcome in self._trainer.train(layers):
                if outcome is not None:
                    yield index, outcome


@dataclass
class _Slot:
    """A worker's place: the actor that fills it now, and what it was asked."""

    actor: Any
    hello: Any  # ObjectRef of its first reply, until it came
    batches: deque[Any] = field(default_factory=deque)  # ObjectRefGenerators, in order
    pid: int | None = None


class RayExecutor:
    """Trains on Ray actors; ``connect`` must have been called."""

    def __init__(self, trainer: TrainerFactory, workers: WorkerPlan) -> None:
        self._plan = workers
        self._trainer = ray.put(trainer)
        self._actor_class = ray.remote(TrainingActor).options(
            num_cpus=1, num_gpus=workers.gpus_per_worker, max_restarts=0, max_task_retries=0, enable_task_events=False
        )
        self._failed_starts = 0
        self._waited_s = 0.0
        self._slots = {number: self._start() for number in range(workers.workers)}

    @property
    def workers(self) -> int:
        """How many actors."""
        return self._plan.workers

    @property
    def pids(self) -> list[int]:
        """Process ids of the actors that are up."""
        return [slot.pid for slot in self._slots.values() if slot.pid]

    def _start(self) -> _Slot:
        actor: Any = self._actor_class.remote(self._trainer)
        return _Slot(actor, actor.hello.remote())

    def submit(self, worker: int, tasks: Sequence[Task]) -> None:
        """Queue a batch at an actor: one streaming call."""
        slot = self._slots[worker]
        slot.batches.append(slot.actor.train.remote([(task.index, task.layers) for task in tasks]))

    def poll(self, timeout_s: float) -> list[WorkerEvent]:
        """What happened since the last call; waits up to ``timeout_s``. Raises Stopped when no worker starts."""
        owner = {}
        for number, slot in self._slots.items():
            if slot.hello is not None:
                owner[slot.hello] = number
            if slot.batches:
                owner[slot.batches[0]] = number
        if not owner:
            time.sleep(timeout_s)
            return []
        ready, _ = ray.wait(list(owner), num_returns=1, timeout=timeout_s, fetch_local=False)
        if not ready:
            self._wait_for_first(timeout_s)
            return []
        ready, _ = ray.wait(list(owner), num_returns=len(owner), timeout=0, fetch_local=False)
        events = [self._hear(owner[source], source) for source in ready]
        return [event for event in events if event is not None]

    def _hear(self, worker: int, source: Any) -> WorkerEvent | None:
        slot = self._slots[worker]
        try:
            if source is slot.hello:
                return self._greet(worker, slot)
            index, outcome = ray.get(next(source))
        except StopIteration:
            slot.batches.popleft()
            return None
        except RayError as error:
            return self._lose(worker, slot, error)
        return Started(worker, index) if outcome is None else Finished(worker, index, outcome)

    def _greet(self, worker: int, slot: _Slot) -> WorkerEvent:
        there, slot.pid = ray.get(slot.hello)
        here = version("netsieve")
        if there != here:
            raise Stopped(
                f"a worker has netsieve {there}, the coordinator {here}: install the same version on every node"
            )
        slot.hello = None
        self._failed_starts = 0
        self._waited_s = 0.0
        return WorkerReady(worker)

    def _lose(self, worker: int, slot: _Slot, error: RayError) -> WorkerEvent | None:
        started = slot.hello is None
        cause = _cause(error)
        if not started:
            self._failed_starts += 1
            if self._failed_starts >= FAILED_STARTS:
                hint = "; a cluster without token authentication needs RAY_AUTH_MODE=disabled here"
                hint = hint if os.environ.get("RAY_AUTH_MODE") == "token" else ""
                raise Stopped(f"workers do not start, {FAILED_STARTS} times in a row: {cause}{hint}") from None
        self.replace(worker)
        if not started:
            return None
        reason = FailureReason.OUT_OF_MEMORY if isinstance(error, OutOfMemoryError) else FailureReason.WORKER_DIED
        return WorkerLost(worker, reason, cause)

    def _wait_for_first(self, waited_s: float) -> None:
        """Give up if no worker came up for too long."""
        if any(slot.hello is None for slot in self._slots.values()):
            return
        self._waited_s += waited_s
        if self._waited_s >= START_TIMEOUT_S:
            raise Stopped(
                f"no worker started within {START_TIMEOUT_S:g} s; see what else uses the cluster (ray status), "
                "then go on with netsieve resume"
            )

    def replace(self, worker: int) -> None:
        """Kill an actor and start another in its place."""
        _kill(self._slots[worker].actor)
        self._slots[worker] = self._start()

    def release(self, worker: int) -> None:
        """Kill an actor."""
        _kill(self._slots.pop(worker).actor)

    def close(self) -> None:
        """Kill what is left."""
        for worker in list(self._slots):
            self.release(worker)


def _cause(error: RayError) -> str:
    """What Ray says of a lost process, as one line; of a failed start, the exception at its traceback's end."""
    text = re.sub("\x1b\\[[0-9;]*m", "", str(error)).strip()
    if getattr(error, "actor_init_failed", False):
        text = text.splitlines()[-1]
    return clean_detail(f"{type(error).__name__}: {text}")


def _kill(actor: Any) -> None:
    """End an actor's process at once: graceful ends can hang, and can leave a GPU's memory held (ray#59872)."""
    with contextlib.suppress(RayActorError):  # it was dead already
        ray.kill(actor, no_restart=True)
