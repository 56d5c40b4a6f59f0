"""One contract for every executor, in process and on Ray; then what only Ray's workers survive.

The trainer is a fake that does what a layer string says, so nothing here trains. Not covered: GPUs, and a
cluster of several nodes.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import psutil
import pytest
from ray import cloudpickle
from ray.exceptions import RuntimeEnvSetupError

from search.candidates import FailureReason, Outcome
from search.errors import SettingsError, Stopped
from search.messages import Finished, Started, Task, WorkerEvent, WorkerGone, WorkerLost, WorkerReady
from search.run import Executor
from workers import ray_cluster, ray_executor
from workers.executors import InProcessExecutor, TrainerFactory, WorkerPlan, plan
from workers.ray_executor import FAILED_STARTS, RayExecutor

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # Ray's workers cannot import a test

PATIENCE_S = 60.0  # for what should happen
QUIET_S = 0.5  # for what should not

COMPLETED = Outcome((), 0.5)
FAILED = Outcome((), 0.5, FailureReason.EXCEPTION, "ValueError: as told")


# ------------------------------------------------------------------ a trainer that does as it is told


class Told:
    """Trains nothing: the layer string says how long it takes and how it ends."""

    def train(self, layers: str) -> Iterator[Outcome | None]:
        """``ok``, ``fail``, ``slow:SECONDS``, ``hang``, ``exit``, ``segfault``, ``spoil``."""
        what, _, argument = layers.partition(":")
        yield from pauses({"slow": float(argument or 0), "hang": 3_600.0}.get(what, 0.05))
        if what == "exit":
            os._exit(1)
        if what == "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        yield FAILED if what in ("fail", "spoil") else COMPLETED
        if what == "spoil":
            raise Stopped("this process has lost its GPU")


def pauses(seconds: float) -> Iterator[None]:
    """Sleeps in small steps."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.01)
        yield None


@dataclass(frozen=True)
class Factory:
    """Makes Told, or fails to."""

    complaint: str | None = None

    def prepare(self) -> Told:
        """Raises if there is something to complain about."""
        if self.complaint:
            raise OSError(self.complaint)
        return Told()


def tasks(first: int, *layers: str) -> list[Task]:
    """A batch, numbered from ``first``."""
    return [Task(index, text, 1) for index, text in enumerate(layers, first)]


def hear(executor: Executor, until: Callable[[list[WorkerEvent]], bool]) -> list[WorkerEvent]:
    """Poll until the events suffice; fails, saying what came, when that takes too long. Nodes are left out."""
    events: list[WorkerEvent] = []
    deadline = time.monotonic() + PATIENCE_S
    while not until(events):
        assert time.monotonic() < deadline, f"only {events}"
        heard = executor.poll(0.25)
        events += [WorkerReady(event.worker) if isinstance(event, WorkerReady) else event for event in heard]
    return events


def hear_many(executor: Executor, count: int) -> list[WorkerEvent]:
    """The next ``count`` events, and no more."""
    events = hear(executor, lambda heard: len(heard) >= count)
    assert len(events) == count, events
    return events


def hear_nothing(executor: Executor) -> None:
    """Polls for a while, in which nothing may come."""
    end = time.monotonic() + QUIET_S
    while time.monotonic() < end:
        assert executor.poll(0.1) == []


# ------------------------------------------------------------------ the contract


@pytest.fixture(scope="module")
def session() -> Iterator[None]:
    """A local Ray session of two cores."""
    handler = signal.getsignal(signal.SIGTERM)
    ray_cluster.connect(None, 2)
    signal.signal(signal.SIGTERM, handler)
    yield
    ray_cluster.disconnect()


@pytest.fixture
def ray_workers(session: None) -> Iterator[Callable[..., RayExecutor]]:
    """Executors on Ray, which are closed in the end."""
    made: list[RayExecutor] = []

    def make(
        workers: int | None = 1, factory: TrainerFactory | None = None, gpus: float = 0.0, **settled: float
    ) -> RayExecutor:
        planned = WorkerPlan("cuda" if gpus else "cpu", workers, gpus)
        made.append(RayExecutor(factory or Factory(), planned, **settled))
        return made[-1]

    yield make
    for executor in made:
        executor.close()


@pytest.fixture(params=["in_process", pytest.param("ray", marks=pytest.mark.ray)])
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    """An executor with one worker, which has said that it is ready."""
    if request.param == "ray":
        made: Executor = request.getfixturevalue("ray_workers")()
    else:
        made = InProcessExecutor(Factory())
    assert made.workers == 1
    assert hear_many(made, 1) == [WorkerReady(0)]
    yield made
    made.close()


def test_tasks_start_and_finish_in_order(executor: Executor) -> None:
    """Every task of a batch is started, then finished with its outcome, then the next."""
    executor.submit(0, tasks(7, "ok", "slow:0.1", "ok"))
    assert hear_many(executor, 6) == [
        event for index in (7, 8, 9) for event in (Started(0, index, 0), Finished(0, index, COMPLETED, 0))
    ]
    hear_nothing(executor)


def test_batches_run_one_after_the_other(executor: Executor) -> None:
    """A batch that was queued before the first one ended begins when that has ended."""
    executor.submit(0, tasks(1, "slow:0.2", "slow:0.2"))
    executor.submit(0, tasks(3, "ok"))
    assert hear_many(executor, 6) == [
        event for index in (1, 2, 3) for event in (Started(0, index, 0), Finished(0, index, COMPLETED, 0))
    ]


def test_a_worker_takes_batches_again_and_again(executor: Executor) -> None:
    """A batch may come when the worker has nothing left to do."""
    for index in range(3):
        executor.submit(0, tasks(index, "ok"))
        assert hear_many(executor, 2) == [Started(0, index, 0), Finished(0, index, COMPLETED, 0)]


def test_outcomes_arrive_as_they_finish(executor: Executor) -> None:
    """The first outcome of a batch is there while the second task has no end."""
    executor.submit(0, tasks(1, "ok", "hang"))
    assert hear_many(executor, 3) == [Started(0, 1, 0), Finished(0, 1, COMPLETED, 0), Started(0, 2, 0)]
    hear_nothing(executor)


def test_a_failure_does_not_stop_the_batch(executor: Executor) -> None:
    """A failed candidate is an outcome like any other; the next one is trained."""
    executor.submit(0, tasks(1, "fail", "ok"))
    finished = [event for event in hear_many(executor, 4) if isinstance(event, Finished)]
    assert finished == [Finished(0, 1, FAILED, 0), Finished(0, 2, COMPLETED, 0)]


def test_replacing_drops_what_a_worker_had(executor: Executor) -> None:
    """After ``replace`` comes WorkerReady and nothing of the old batches; new ones are taken."""
    executor.submit(0, tasks(1, "hang", "ok"))
    executor.submit(0, tasks(3, "ok"))
    assert hear_many(executor, 1) == [Started(0, 1, 0)]
    executor.replace(0)
    assert hear_many(executor, 1) == [WorkerReady(0)]
    hear_nothing(executor)
    executor.submit(0, tasks(4, "ok"))
    assert hear_many(executor, 2) == [Started(0, 4, 0), Finished(0, 4, COMPLETED, 0)]


def test_replacing_forgets_events_that_nobody_heard(executor: Executor) -> None:
    """What had happened, and was not asked for before ``replace``, does not come afterwards."""
    executor.submit(0, tasks(1, "ok"))
    time.sleep(0.3)  # on Ray the outcome is on its way; in process nothing happens outside poll
    executor.replace(0)
    assert hear_many(executor, 1) == [WorkerReady(0)]
    hear_nothing(executor)


def test_a_worker_measures_what_it_does_with_its_time(executor: Executor) -> None:
    """Training counts while it lasts, all else is waiting; a worker that is replaced takes nothing away."""
    waited = executor.worked
    executor.submit(0, tasks(1, "slow:0.3", "hang"))
    hear(executor, lambda events: Started(0, 2, 0) in events)
    trained = executor.worked
    assert waited.training_s == 0
    assert 0.25 <= trained.training_s <= trained.worker_s - waited.worker_s  # steps are timed one by one
    hear_nothing(executor)
    assert executor.worked.training_s > trained.training_s + QUIET_S / 2  # it hangs: in training
    executor.replace(0)
    replaced = executor.worked
    hear(executor, lambda events: WorkerReady(0) in events)
    hear_nothing(executor)
    executor.release(0)
    worked = executor.worked
    assert worked.training_s == pytest.approx(replaced.training_s, abs=0.1)
    assert worked.worker_s >= replaced.worker_s + QUIET_S
    executor.close()


def test_a_released_worker_is_silent(executor: Executor) -> None:
    """After ``release`` nothing comes any more, neither of what was training nor of what was queued."""
    executor.submit(0, tasks(1, "slow:0.2", "ok"))
    assert hear_many(executor, 1) == [Started(0, 1, 0)]
    executor.release(0)
    hear_nothing(executor)


@pytest.mark.parametrize("batch", [(), ("hang",)], ids=["idle", "in training"])
def test_poll_returns_in_time(executor: Executor, batch: tuple[str, ...]) -> None:
    """When nothing happens, ``poll`` is back with nothing after its timeout, or soon after."""
    if batch:
        executor.submit(0, tasks(1, *batch))
        assert hear_many(executor, 1) == [Started(0, 1, 0)]
    start = time.monotonic()
    assert executor.poll(0.2) == []
    assert time.monotonic() - start < 0.4


def test_closing_twice_is_once(executor: Executor) -> None:
    """``close`` ends what is in training; a second one finds nothing to do."""
    executor.submit(0, tasks(1, "hang"))
    assert hear_many(executor, 1) == [Started(0, 1, 0)]
    executor.close()
    executor.close()


# ------------------------------------------------------------------ processes that end, on Ray


def is_there(pid: int) -> bool:
    """Whether a process runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_for_the_end_of(pid: int) -> None:
    """Fails when a process lives on."""
    deadline = time.monotonic() + PATIENCE_S
    while is_there(pid):
        assert time.monotonic() < deadline, f"process {pid} lives on"
        time.sleep(0.05)


def of_worker(number: int, events: list[WorkerEvent]) -> list[WorkerEvent]:
    """The events of one worker, in order."""
    return [event for event in events if event.worker == number]


@dataclass(frozen=True)
class Preloaded:
    """Made only where torch is there already."""

    def prepare(self) -> Told:
        """Raises if it still has to be imported."""
        if "workers.training" not in sys.modules:
            raise OSError("workers.training is not imported")
        return Told()


@pytest.mark.ray
def test_a_local_session_imports_torch_while_it_starts(ray_workers: Callable[..., RayExecutor]) -> None:
    """Its processes have what a trainer needs, before they are told which one they are."""
    assert hear_many(ray_workers(1, Preloaded()), 1) == [WorkerReady(0)]


@pytest.mark.ray
def test_a_local_session_starts_no_server_that_nobody_asks(session: None) -> None:
    """The store's and the scheduler's are there; no dashboard, no autoscaler, nobody who copies logs."""
    commands = []
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it ended meanwhile
            commands.append(" ".join(child.cmdline()))
    assert any("gcs_server" in command for command in commands)
    assert not any(name in command for command in commands for name in ("dashboard.py", "monitor.py"))


@pytest.mark.ray
def test_a_ray_without_our_private_names_starts_as_it_would(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another version may start its servers in another way: it is let, and the rest is still left out."""
    node = ray_cluster.ray._private.node.Node
    before = node.start_log_monitor
    monkeypatch.delattr(node, "start_monitor")
    with ray_cluster._without_idle_servers():
        assert not hasattr(node, "start_monitor")
        assert node.start_log_monitor is not before
    assert node.start_log_monitor is before


def test_workers_train_side_by_side(ray_workers: Callable[..., RayExecutor]) -> None:
    """Two workers are two processes, and both have started before either ends."""
    executor = ray_workers(2)
    assert set(hear_many(executor, 2)) == {WorkerReady(0), WorkerReady(1)}
    assert executor.workers == 2
    assert len({*executor.pids, os.getpid()}) == 3
    executor.submit(0, tasks(1, "hang"))
    executor.submit(1, tasks(2, "hang"))
    assert set(hear_many(executor, 2)) == {Started(0, 1, 0), Started(1, 2, 0)}


@pytest.mark.ray
@pytest.mark.parametrize("end", ["exit", "segfault"])
def test_a_network_that_ends_its_process_is_lost_alone(ray_workers: Callable[..., RayExecutor], end: str) -> None:
    """Its worker is lost after the start was seen, and replaced unasked; the other worker goes on."""
    executor = ray_workers(2)
    hear_many(executor, 2)
    executor.submit(0, tasks(1, "ok", end, "ok"))
    executor.submit(1, tasks(4, "slow:1", "ok"))
    events = hear(executor, lambda heard: WorkerReady(0) in heard and Finished(1, 5, COMPLETED, 0) in heard)
    first, second, third, lost, ready = of_worker(0, events)
    assert [first, second, third] == [Started(0, 1, 0), Finished(0, 1, COMPLETED, 0), Started(0, 2, 0)]
    assert isinstance(lost, WorkerLost)
    assert lost.reason is FailureReason.WORKER_DIED
    assert lost.detail
    assert ready == WorkerReady(0)
    assert of_worker(1, events) == [
        event for index in (4, 5) for event in (Started(1, index, 0), Finished(1, index, COMPLETED, 0))
    ]
    executor.submit(0, tasks(3, "ok"))
    assert hear_many(executor, 2) == [Started(0, 3, 0), Finished(0, 3, COMPLETED, 0)]


@pytest.mark.ray
def test_a_process_that_can_train_no_more_is_replaced(ray_workers: Callable[..., RayExecutor]) -> None:
    """It is lost after the outcome of the candidate that spoiled it, before the next one has begun."""
    executor = ray_workers()
    assert hear_many(executor, 1) == [WorkerReady(0)]
    executor.submit(0, tasks(1, "spoil", "ok"))
    started, finished, lost, ready = hear_many(executor, 4)
    assert (started, finished, ready) == (Started(0, 1, 0), Finished(0, 1, FAILED, 0), WorkerReady(0))
    assert isinstance(lost, WorkerLost)
    assert lost.reason is FailureReason.EXCEPTION
    assert "this process has lost its GPU" in lost.detail
    executor.submit(0, tasks(2, "ok"))
    assert hear_many(executor, 2) == [Started(0, 2, 0), Finished(0, 2, COMPLETED, 0)]


def test_in_process_the_run_stops_when_the_process_can_train_no_more() -> None:
    """After the outcome of the candidate that spoiled it: there is no other process, and the others stay open."""
    executor = InProcessExecutor(Factory())
    assert hear_many(executor, 1) == [WorkerReady(0)]
    executor.submit(0, tasks(1, "spoil", "ok"))
    assert hear_many(executor, 2) == [Started(0, 1, 0), Finished(0, 1, FAILED, 0)]
    with pytest.raises(Stopped, match="this process has lost its GPU"):
        executor.poll(0.25)


@pytest.mark.ray
def test_a_killed_worker_is_replaced(ray_workers: Callable[..., RayExecutor]) -> None:
    """A kill -9 from outside, as the kernel does it without memory: lost with what was queued, then ready again."""
    executor = ray_workers()
    hear_many(executor, 1)
    (pid,) = executor.pids
    executor.submit(0, tasks(1, "hang"))
    executor.submit(0, tasks(2, "ok"))
    assert hear_many(executor, 1) == [Started(0, 1, 0)]
    os.kill(pid, signal.SIGKILL)
    lost, ready = hear_many(executor, 2)
    assert isinstance(lost, WorkerLost)
    assert lost.reason is FailureReason.WORKER_DIED
    assert ready == WorkerReady(0)
    assert executor.pids != [pid]
    hear_nothing(executor)


@pytest.mark.ray
def test_a_batch_for_a_worker_in_doubt_goes_nowhere(ray_workers: Callable[..., RayExecutor]) -> None:
    """Between a worker's end and the news of it a batch is refused: its successor must not train it unasked."""
    executor = ray_workers()
    hear_many(executor, 1)
    (pid,) = executor.pids
    assert executor.submit(0, tasks(1, "hang"))
    assert hear_many(executor, 1) == [Started(0, 1, 0)]
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while not executor._doubts:
        assert time.monotonic() < deadline
        assert executor.poll(0.01) == []
    assert not executor.submit(0, tasks(2, "ok"))
    lost, ready = hear_many(executor, 2)
    assert isinstance(lost, WorkerLost)
    assert ready == WorkerReady(0)
    hear_nothing(executor)


@pytest.mark.ray
def test_a_worker_killed_while_idle_is_replaced_at_its_next_batch(ray_workers: Callable[..., RayExecutor]) -> None:
    """The batch is lost without a start, and the replacement takes the next one."""
    executor = ray_workers()
    hear_many(executor, 1)
    (pid,) = executor.pids
    os.kill(pid, signal.SIGKILL)
    wait_for_the_end_of(pid)
    executor.submit(0, tasks(1, "ok"))
    lost, ready = hear_many(executor, 2)
    assert isinstance(lost, WorkerLost)
    assert ready == WorkerReady(0)


@pytest.mark.ray
@pytest.mark.parametrize(
    "end",
    [lambda executor: executor.replace(0), lambda executor: executor.release(0), lambda executor: executor.close()],
    ids=["replace", "release", "close"],
)
def test_a_hanging_process_is_killed(
    ray_workers: Callable[..., RayExecutor], end: Callable[[RayExecutor], None]
) -> None:
    """However a worker is ended, its process is gone."""
    executor = ray_workers()
    hear_many(executor, 1)
    (pid,) = executor.pids
    executor.submit(0, tasks(1, "hang"))
    hear_many(executor, 1)
    end(executor)
    wait_for_the_end_of(pid)


@pytest.mark.ray
def test_a_cluster_that_takes_no_orders_holds_nobody_up(
    ray_workers: Callable[..., RayExecutor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where Ray's calls never come back the run ends all the same; still each worker's end is asked for."""
    executor = ray_workers(2)
    hear_many(executor, 2)
    is_over = threading.Event()
    asked = []
    with monkeypatch.context() as patched:
        patched.setattr(ray_executor, "KILL_S", 0.1)
        patched.setattr(ray_executor.ray, "kill", lambda *_, **__: (asked.append(1), is_over.wait()))
        kept = [slot.actor for slot in executor._slots.values()]
        executor.close()
        is_over.set()
    assert len(asked) == len(kept) == 2
    for actor in kept:
        ray_executor.ray.kill(actor)


# ------------------------------------------------------------------ workers that do not start, on Ray


@pytest.mark.ray
def test_what_was_heard_comes_before_the_end(
    ray_workers: Callable[..., RayExecutor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events of the poll in which Ray fails are returned; the next poll raises."""
    executor = ray_workers()
    hear_many(executor, 1)
    executor.submit(0, tasks(1, "ok", "hang"))
    hear_many(executor, 1)

    def hear_and_fail(timeout_s: float, events: list[WorkerEvent]) -> None:
        events.append(Finished(0, 1, COMPLETED, 0))
        raise ConnectionError("the cluster is gone")

    monkeypatch.setattr(executor, "_drain", hear_and_fail)
    assert executor.poll(0.1) == [Finished(0, 1, COMPLETED, 0)]
    for _ in range(2):
        with pytest.raises(Stopped, match=r"the Ray cluster fails .*the cluster is gone.*netsieve resume goes on"):
            executor.poll(0.1)


@pytest.mark.ray
def test_three_failed_starts_stop_the_run(ray_workers: Callable[..., RayExecutor]) -> None:
    """A trainer that cannot be prepared is nobody's candidate's fault: the run stops and names the cause."""
    executor = ray_workers(1, Factory("no such disk"))
    with pytest.raises(Stopped, match=r"workers do not start, 3 times in a row: .*OSError.*no such disk"):
        hear(executor, lambda _: False)


@pytest.mark.ray
def test_starts_that_fail_somewhere_do_not_stop_those_who_work(ray_workers: Callable[..., RayExecutor]) -> None:
    """Where it is not known on which node, as with an environment that cannot be made, it is tried again later."""
    executor = ray_workers(2)
    hear_many(executor, 2)
    executor.replace(1)
    full = RuntimeEnvSetupError("no space left on device")
    heard = [event for _ in range(FAILED_STARTS) for event in executor._lose(1, executor._slots[1], full)]
    assert heard == [WorkerGone(1)]
    assert executor._follow() == []
    assert list(executor._slots) == [0]
    executor._start_at = 0.0
    assert executor._follow() == []
    assert hear_many(executor, 1) == [WorkerReady(2)]


@pytest.mark.ray
@pytest.mark.parametrize("what", ["netsieve", "torch"])
def test_another_version_on_a_node_stops_the_run(
    ray_workers: Callable[..., RayExecutor], monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Coordinator and workers have the same version, or the results are not comparable."""
    monkeypatch.setattr(ray_cluster, "versions", lambda: {what: "0.0.1"})
    with pytest.raises(Stopped, match=rf"a worker on \S+ has {what} .*, the coordinator 0\.0\.1, .*the same version"):
        hear(ray_workers(), lambda _: False)


@pytest.mark.ray
def test_no_worker_for_too_long_stops_the_run(
    ray_workers: Callable[..., RayExecutor],
) -> None:
    """Workers that the cluster never has room for are given up."""
    executor = ray_workers(1, gpus=1.0, start_timeout_s=1.0)
    with pytest.raises(Stopped, match=r"--worker-timeout 1 s: .*room for 0, of 1 GPU and a CPU core each; .* resume"):
        hear(executor, lambda _: False)


@pytest.mark.ray
def test_waiting_ends_with_a_worker(ray_workers: Callable[..., RayExecutor]) -> None:
    """The time that one start took does not count against the next, or many quick deaths would stop a run."""
    executor = ray_workers()
    while not executor.poll(0.01):
        pass
    executor.poll(0.01)
    assert executor._waited_s == 0.0


# ------------------------------------------------------------------ which workers, and where

CPUS = {"CPU": 4.0, "memory": 1e9}
GPUS = {"CPU": 8.0, "GPU": 2.0}


@pytest.mark.parametrize(
    ("available", "device", "workers", "share", "expected"),
    [
        (CPUS, None, None, None, WorkerPlan("cpu", 4, 0.0)),
        (CPUS, None, 3, None, WorkerPlan("cpu", 3, 0.0)),
        (CPUS, "cpu", 4, None, WorkerPlan("cpu", 4, 0.0)),
        (GPUS, "cpu", None, None, WorkerPlan("cpu", 8, 0.0)),
        (GPUS, None, None, None, WorkerPlan("cuda", 2, 1.0)),
        (GPUS, "cuda", 1, None, WorkerPlan("cuda", 1, 1.0)),
        (GPUS, None, None, 0.5, WorkerPlan("cuda", 4, 0.5)),
        (GPUS, None, 3, 0.25, WorkerPlan("cuda", 3, 0.25)),
        (GPUS, None, None, 0.25, WorkerPlan("cuda", 8, 0.25)),
        (GPUS, None, None, 2.0, WorkerPlan("cuda", 1, 2.0)),
        ({"CPU": 8.0, "GPU": 1.0}, None, None, 0.2, WorkerPlan("cuda", 5, 0.2)),
        ({"CPU": 8.0, "GPU": 1.5}, None, None, None, WorkerPlan("cuda", 1, 1.0)),
    ],
)
def test_a_worker_is_a_gpu_or_a_core(
    available: dict[str, float], device: str | None, workers: int | None, share: float | None, expected: WorkerPlan
) -> None:
    """With GPUs a worker is one of them, or the share asked for; without, or told so, a CPU core."""
    assert plan(available, device, workers, share) == expected


@pytest.mark.parametrize(
    ("gpus", "share", "workers"), [(1.0, 0.1, 10), (3.0, 0.1, 30), (3.0, 0.6, 3), (3.0, 0.4, 6), (7.0, 0.14, 49)]
)
def test_a_share_is_of_one_gpu(gpus: float, share: float, workers: int) -> None:
    """Ray never gives a worker parts of two GPUs, so what is left of one is left; tenths fill it exactly."""
    assert plan({"CPU": 64.0, "GPU": gpus}, None, None, share).workers == workers


@pytest.mark.parametrize(
    ("available", "device", "workers", "share", "message"),
    [
        (CPUS, None, 5, None, "--workers 5: there is room for 4, of a CPU core each"),
        (GPUS, None, 3, None, "--workers 3: there is room for 2, of 1 GPU and a CPU core each"),
        (GPUS, None, 5, 0.5, "--workers 5: there is room for 4, of 0.5 GPU and a CPU core"),
        (GPUS, None, None, 3.0, "--workers 1: there is room for 0, of 3 GPU and a CPU core"),
        ({"CPU": 0.5}, None, None, None, "--workers 1: there is room for 0, of a CPU core each"),
        ({}, None, None, None, "--workers 1: there is room for 0, of a CPU core each"),
        (CPUS, "cuda", None, None, "--device cuda: Ray sees no GPU; give --device cpu, or the address of a cluster"),
        (CPUS, None, None, 0.5, "--gpus-per-worker 0.5: the workers of this search train on the CPU"),
        (GPUS, "cpu", None, 1.0, "--gpus-per-worker 1: the workers of this search train on the CPU"),
    ],
)
def test_a_plan_beyond_the_cluster_is_refused(
    available: dict[str, float], device: str | None, workers: int | None, share: float | None, message: str
) -> None:
    """The message names the option, and what the cluster has."""
    with pytest.raises(SettingsError) as refusal:
        plan(available, device, workers, share)
    assert str(refusal.value).startswith(message)


@pytest.mark.parametrize(
    ("available", "device", "workers", "share", "expected"),
    [
        ({}, None, None, None, WorkerPlan("cpu", None, 0.0)),
        (CPUS, None, 64, None, WorkerPlan("cpu", 64, 0.0)),
        (GPUS, None, 64, None, WorkerPlan("cuda", 64, 1.0)),
        (CPUS, "cuda", None, None, WorkerPlan("cuda", None, 1.0)),
        (CPUS, None, None, 0.25, WorkerPlan("cuda", None, 0.25)),
    ],
)
def test_a_cluster_that_may_grow_is_never_too_small(
    available: dict[str, float], device: str | None, workers: int | None, share: float | None, expected: WorkerPlan
) -> None:
    """What is asked for is waited for; what is not said is as many as there is room for, later too."""
    assert plan(available, device, workers, share, may_grow=True) == expected


@pytest.mark.ray
def test_a_local_session_has_the_cores_that_were_asked_for(session: None) -> None:
    """Two workers fit, on a machine with one core too; a Ray version is known."""
    assert ray_cluster.resources()["CPU"] >= 2
    assert plan(ray_cluster.resources(), "cpu", 2, None) == WorkerPlan("cpu", 2, 0.0)
    assert ray_cluster.library_version().count(".") == 2
