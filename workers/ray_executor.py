"""The executor on Ray: long-lived actors that hold the data and stream back what happens.

An actor prepares its trainer once, then takes batches; one call a batch
yields an item a candidate, which says that the last one has ended and that the next begins. Actors never
raise for a candidate, so an error from Ray means a lost process. Ray restarts and retries nothing by itself
(max_restarts=0, max_task_retries=0): the coordinator must know what was in training when a process ended.

Who is to blame, as ray 2.60 tells it. A process that ends on a healthy node gives ActorDiedError after
10 ms. A node that leaves in order gives the same error, and its text says so. A node that is cut off, or
whose raylet is killed, gives ActorUnavailableError after 1 to 3 s, and is listed as alive for about 15 s
more. A node whose processes are killed one by one may still report its worker's end; so a candidate is
charged only if the node's raylet takes connections a second later. All else charges nobody.

Not covered: a cluster that loses its head (GCS) ends the run, and ``netsieve resume`` goes on elsewhere,
for what is recorded does not live in Ray. Actors and their streams work on without it; ray.nodes() and
ray.cluster_resources() block; and 60 s after the loss (gcs_rpc_server_reconnect_timeout_s) Ray ends the
process that called ray.init, with exit code 1 and no exception. So ``poll`` looks whether the GCS still
answers, stops the run after LOST_S, and asks for the nodes only when it does. If a single report of a
stream's item is lost and its connection is not, the stream is silent until the coordinator's timeout.

Nodes that come and go. Every worker that is asked for is an actor from the beginning, and one that has no place yet
waits in Ray, which lets an autoscaler grow. How many are asked for is what ``--workers`` says, or else all that the
nodes have room for, as far as others leave it free, looked at again and again: more would make an autoscaler buy nodes
for what others do. The run is told of those that there is room for, of others when they are ready (``WorkerReady``),
and of those that lose their place (``WorkerGone``). A node on which workers do not start, or whose versions are others,
is left out; the run goes on as long as there is another.
"""

import contextlib
import itertools
import os
import pickle
import re
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from search.candidates import FailureReason, Outcome, clean_detail, clean_error
from search.errors import Stopped
from search.messages import Finished, Started, Task, WorkerEvent, WorkerGone, WorkerLost, WorkerReady, WorkerTime
from workers import ray_cluster as cluster  # before ray: it settles what ray reads when it is imported
from workers.executors import START_TIMEOUT_S, TrainerFactory, WorkerPlan

import ray  # isort: skip
from ray.exceptions import (  # isort: skip
    ActorDiedError,
    ActorUnschedulableError,
    OutOfMemoryError,
    RayError,
    RayTaskError,
    RuntimeEnvSetupError,
)

FAILED_STARTS = 3  # in a row on one node, before it is left out: the fault is the node's, not a candidate's
START_AGAIN_S = 60.0  # after so many on nodes that are not known, while others work
LONGEST_POLL_S = 5.0  # of a process that was not stopped, or asleep, meanwhile
LOST_S = 30.0  # without an answer of the cluster's head before the run stops; Ray itself ends the process after 60
PROBE_S = 2.0  # between two looks whether it answers, and which nodes there are
DOUBT_S = 1.0  # from a worker's end to the decision who is to blame: does its node live?
DRAIN_S = 0.05  # that one poll goes on hearing what is ready
GET_S = 30.0  # for a reply that is already there
KILL_S = 5.0  # for Ray to take note that a process is to end
NODE_LABEL = "ray.io/node-id"  # that Ray gives every node


# ------------------------------------------------------------------ the actor


@dataclass(frozen=True)
class Hello:
    """A worker's first reply."""

    pid: int
    host: str  # the node's address
    node: str  # Ray's id of it
    versions: dict[str, str]  # of netsieve's code and of torch there
    complaint: str | None  # why the trainer could not be prepared, as one line; then versions are empty


@dataclass(frozen=True)
class Item:
    """What a worker says between two candidates, and before and after a batch."""

    ended: tuple[int, int, Outcome] | None  # index, attempt and outcome of the candidate that it has trained
    begins: tuple[int, int] | None  # index and attempt of the one that it trains next
    worked: WorkerTime  # so far


class TrainingActor:
    """One worker process."""

    def __init__(self, trainer: TrainerFactory) -> None:
        self._factory = trainer
        self._training_s = 0.0

    def hello(self) -> Hello:
        """Prepare the trainer, and say who is here; a failure is a value, so that its node is known."""
        complaint, versions = None, dict[str, str]()
        try:
            self._trainer = self._factory.prepare()
            versions = cluster.versions()
        except Exception as error:  # noqa: BLE001  whatever data and devices raise
            complaint = clean_error(error)
        self._ready_at = time.monotonic()
        host = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        return Hello(os.getpid(), host, ray.get_runtime_context().get_node_id(), versions, complaint)

    def train(self, tasks: list[tuple[int, int, str]]) -> Iterator[bytes]:
        """Train a batch of (index, attempt, layers): yields a pickled Item before, between and after them.

        Raises nothing for a candidate. Bytes are what Ray sends fastest.
        """
        ended: tuple[int, int, Outcome] | None = None
        for index, attempt, layers in tasks:
            yield self._item(ended, (index, attempt))
            taken, ended = time.monotonic(), None
            try:
                for outcome in self._trainer.train(layers):
                    if outcome is not None:
                        ended = index, attempt, outcome
            except Stopped:  # after an outcome that this process will not survive; it must not go with it
                yield self._item(ended, None)
                raise
            self._training_s += time.monotonic() - taken
        yield self._item(ended, None)

    def _item(self, ended: tuple[int, int, Outcome] | None, begins: tuple[int, int] | None) -> bytes:
        worked = WorkerTime(time.monotonic() - self._ready_at, self._training_s)
        return pickle.dumps(Item(ended, begins, worked), pickle.HIGHEST_PROTOCOL)


# ------------------------------------------------------------------ the executor


@dataclass
class _Slot:
    """A worker's place: the actor that fills it now, and what it was asked."""

    actor: Any
    hello: Any  # ObjectRef of its first reply, until it came
    batches: deque[Any] = field(default_factory=deque)  # ObjectRefGenerators, in order
    pid: int | None = None
    node: str = ""  # Ray's id, from the first reply
    told: WorkerTime = WorkerTime()  # of its process, by the last item
    told_at: float = 0.0  # monotonic, here
    is_training: bool = False  # since then

    def worked(self) -> WorkerTime:
        """Up to now: what it told, and since then by the clock here."""
        since = time.monotonic() - self.told_at if self.hello is None else 0.0
        return self.told + WorkerTime(since, since if self.is_training else 0.0)


@dataclass(frozen=True)
class _Doubt:
    """A worker whose process ended, while it is open whether its node did."""

    lost: WorkerLost  # what is said if the node lives
    node: str
    until: float  # monotonic; the decision


class RayExecutor:
    """Trains on Ray actors; ``connect`` must have been called. Raises nothing but Stopped.

    ``start_timeout_s``: how long it may be without any worker.
    """

    def __init__(self, trainer: TrainerFactory, workers: WorkerPlan, start_timeout_s: float = START_TIMEOUT_S) -> None:
        self._plan, self._start_timeout_s = workers, start_timeout_s
        self._actor_class: Any = ray.remote(TrainingActor)
        self._options = {
            "num_cpus": 1,
            "num_gpus": workers.gpus_per_worker,
            "max_restarts": 0,
            "max_task_retries": 0,
            "enable_task_events": False,
        }
        self._failed_starts: Counter[str] = Counter()  # in a row, by node; "": on a node that is not known
        self._slots: dict[int, _Slot] = {}
        self._left_out: dict[str, str] = {}  # nodes on which nothing is started any more, and why
        self._start_at = 0.0  # monotonic; no further worker is started before
        self._doubts: dict[int, _Doubt] = {}
        self._worked_before = WorkerTime()  # by the workers that are no more
        self._stopped: Stopped | None = None  # to be raised by the next poll
        self._waited_s = 0.0  # without any worker
        self._polled = time.monotonic()
        self._is_ending = False
        self._is_slow_to_kill = False  # as it was the last time
        self._probed = time.monotonic()
        self._silent_since: float | None = None  # the cluster's head
        with _translated():
            self._head = cluster.head()
            self._trainer = ray.put(trainer)
            self._room = self._count_room(cluster.nodes())
            free = min(self._room, workers.room(cluster.free()))
            self._many = workers.workers or max(1, free)  # actors that there are to be
            self._slots = {number: self._start() for number in range(self._many)}
        self._numbers = itertools.count(self._many)
        self._known = set(range(min(self._many, free)))  # to the run: it is ready, or has a place to start

    @property
    def workers(self) -> int:
        """How many there is room for; in the beginning their numbers are 0, 1, ..."""
        return len(self._known)

    @property
    def _is_anyone_up(self) -> bool:
        return any(slot.hello is None for slot in self._slots.values())

    @property
    def worked(self) -> WorkerTime:
        """What all workers so far have done with their time: each one's until it was lost or released."""
        return sum((slot.worked() for slot in self._slots.values()), self._worked_before)

    @property
    def trains_in_poll(self) -> bool:
        """Actors train all the time."""
        return False

    @property
    def pids(self) -> list[int]:
        """Process ids of the actors that are up."""
        return [slot.pid for slot in self._slots.values() if slot.pid]

    def _start(self) -> _Slot:
        elsewhere = {NODE_LABEL: f"!in({','.join(self._left_out)})"} if self._left_out else None
        actor = self._actor_class.options(**self._options, label_selector=elsewhere).remote(self._trainer)
        return _Slot(actor, actor.hello.remote())

    def submit(self, worker: int, tasks: Sequence[Task]) -> bool:
        """Queue a batch at an actor: one streaming call. Not at one that is lost, nor at its successor.

        The actor waits until an item is taken before it goes on: else what it yielded shortly before its process
        ends is lost, and the wrong candidate is blamed. So an item carries an end and a start, and a candidate waits
        once.
        """
        if worker in self._doubts:
            return False
        slot = self._slots[worker]
        batch = [(task.index, task.attempt, task.layers) for task in tasks]
        with _translated():
            slot.batches.append(slot.actor.train.options(_generator_backpressure_num_objects=1).remote(batch))
        return True

    # -------------------------------------------------- hearing

    def poll(self, timeout_s: float) -> list[WorkerEvent]:
        """What happened since the last call; waits up to ``timeout_s``.

        Raises Stopped when no worker starts or the cluster is lost, after the events that came before.
        """
        if self._stopped:
            raise self._stopped
        events: list[WorkerEvent] = []
        try:
            with _translated():
                self._count_waiting()
                events += self._look_after_the_cluster()
                events += self._decide()
                self._drain(0.0 if events else timeout_s, events)
        except Stopped as stopped:
            if not events:
                raise
            self._stopped = stopped
        return events

    def _drain(self, timeout_s: float, events: list[WorkerEvent]) -> None:
        """Hear sources until none has anything, or for DRAIN_S."""
        ready = self._ready(timeout_s, 1)  # Ray returns with the first one only if no more are asked for
        deadline = time.monotonic() + DRAIN_S
        while ready:
            for worker, source in ready:
                events += self._hear(worker, source)
            ready = self._ready(0.0, len(self._slots)) if time.monotonic() < deadline else []

    def _ready(self, timeout_s: float, most: int) -> list[tuple[int, Any]]:
        """Up to so many workers of which there is something to hear, each with where; waits until it is so many."""
        owner = {}
        for number, slot in self._slots.items():
            if number in self._doubts:  # its loss comes first
                continue
            if slot.hello is not None:
                owner[slot.hello] = number
            if slot.batches:
                owner[slot.batches[0]] = number
        if not owner:
            time.sleep(timeout_s)
            return []
        ready, _ = ray.wait(list(owner), num_returns=min(most, len(owner)), timeout=timeout_s, fetch_local=False)
        return [(owner[source], source) for source in ready]

    def _hear(self, worker: int, source: Any) -> list[WorkerEvent]:
        slot = self._slots[worker]
        try:
            if source is slot.hello:
                return self._greet(worker, slot)
            item: Item = pickle.loads(ray.get(next(source), timeout=GET_S))  # noqa: S301  our own worker's
        except StopIteration:
            slot.batches.popleft()
            return []
        except RayError as error:
            return self._lose(worker, slot, error)
        slot.told, slot.told_at, slot.is_training = item.worked, time.monotonic(), item.begins is not None
        events: list[WorkerEvent] = []
        if item.ended:
            index, attempt, outcome = item.ended
            events.append(Finished(worker, index, outcome, attempt))
        if item.begins:
            events.append(Started(worker, *item.begins))
        return events

    def _greet(self, worker: int, slot: _Slot) -> list[WorkerEvent]:
        hello: Hello = ray.get(slot.hello, timeout=GET_S)
        if hello.node in self._left_out:  # it was about to start there
            self.replace(worker)
            return []
        if hello.complaint is not None:
            return self._fail_to_start(worker, hello.node, hello.complaint)
        if difference := _difference(hello):
            self.avoid(hello.node, difference)
            self.replace(worker)
            if self._head_answers():
                self._require_a_node(cluster.nodes())
            return []
        slot.hello, slot.pid, slot.node, slot.told_at = None, hello.pid, hello.node, time.monotonic()
        self._known.add(worker)
        self._failed_starts[""] = self._failed_starts[slot.node] = 0
        return [WorkerReady(worker, slot.node)]

    # -------------------------------------------------- losing workers

    def _lose(self, worker: int, slot: _Slot, error: RayError) -> list[WorkerEvent]:
        cause, reason = _cause(error), _reason(error)
        is_fault = reason or isinstance(error, RuntimeEnvSetupError | ActorUnschedulableError)
        if slot.hello is not None and is_fault:
            return self._fail_to_start(worker, "", cause)
        self.replace(worker)
        if slot.hello is not None:
            return []
        if reason is FailureReason.WORKER_DIED:
            self._doubts[worker] = _Doubt(WorkerLost(worker, reason, cause), slot.node, time.monotonic() + DOUBT_S)
            return []
        return [WorkerLost(worker, reason, cause)]

    def _decide(self) -> list[WorkerEvent]:
        """Of the workers that ended a moment ago: charged if the node lives, else nobody's fault."""
        due = [doubt for doubt in self._doubts.values() if time.monotonic() >= doubt.until]
        if not due or not self._head_answers():
            return []
        nodes = cluster.nodes()
        for doubt in due:
            del self._doubts[doubt.lost.worker]
        return [
            doubt.lost if cluster.lives(nodes.get(doubt.node)) else replace(doubt.lost, reason=None) for doubt in due
        ]

    def _fail_to_start(self, worker: int, node: str, cause: str) -> list[WorkerEvent]:
        """Try again: after some times on another node, or, where it is not known on which it was, later."""
        self._failed_starts[node] += 1
        often = f"workers do not start, {FAILED_STARTS} times in a row: {cause}"
        if self._failed_starts[node] < FAILED_STARTS:
            self.replace(worker)
        elif node:
            self.avoid(node, often)
            self.replace(worker)
            if self._head_answers():
                self._require_a_node(cluster.nodes())
        elif self._is_anyone_up:
            self._failed_starts[node] = 0
            self._start_at = time.monotonic() + START_AGAIN_S
            self._end(worker)
            return self._forget(worker)
        else:
            is_token = os.environ.get("RAY_AUTH_MODE") == "token" and "cancelled before it started" in cause
            hint = "; a cluster without token authentication needs RAY_AUTH_MODE=disabled here" if is_token else ""
            raise Stopped(f"{often}{cluster.no_room()}{hint}")
        return []

    def _forget(self, worker: int) -> list[WorkerEvent]:
        """The run need not wait for it."""
        if worker not in self._known:
            return []
        self._known.remove(worker)
        return [WorkerGone(worker)]

    # -------------------------------------------------- the cluster

    def _look_after_the_cluster(self) -> list[WorkerEvent]:
        """Now and then: does the head answer, is there a node to work on, and room for more or for fewer?"""
        now = time.monotonic()
        if now - self._probed < PROBE_S:
            return []
        self._probed = now
        if not self._head_answers():
            if now - (self._silent_since or now) >= LOST_S:
                host, port = self._head
                raise Stopped(
                    f"the Ray cluster is lost: its head at {host}:{port} has not answered for {LOST_S:g} s; "
                    "netsieve resume goes on, on another one"
                )
            return []
        nodes = cluster.nodes()
        self._require_a_node(nodes)
        self._room = self._count_room(nodes)
        return [] if self._is_ending else self._follow()

    def _count_room(self, nodes: Mapping[str, Mapping[str, Any]]) -> int:
        """For how many workers the nodes have room that are there and are not left out; those included that are up."""
        good = (node for name, node in nodes.items() if node["Alive"] and name not in self._left_out)
        elsewhere = sum(slot.hello is None and slot.node in self._left_out for slot in self._slots.values())
        return sum(self._plan.room(node["Resources"]) for node in good) + elsewhere

    def _follow(self) -> list[WorkerEvent]:
        """Start workers that there is room for now, unless it was said how many; give up what has lost its place."""
        if self._plan.workers is None:
            self._many = max(1, min(self._room, self._many))
            if all(slot.hello is None for slot in self._slots.values()):  # else what is free is about to be ours
                self._many = max(1, min(self._room, len(self._slots) + self._plan.room(cluster.free())))
        while len(self._slots) < self._many and time.monotonic() >= self._start_at:
            self._slots[next(self._numbers)] = self._start()
        waiting = [number for number, slot in self._slots.items() if slot.hello is not None]
        waiting.sort(key=lambda number: number not in self._known)
        soon = max(0, self._room - (len(self._slots) - len(waiting)))
        gone: list[WorkerEvent] = []
        for number in waiting[soon:]:
            if number in self._doubts:  # its loss comes first
                continue
            gone += self._forget(number)
            if len(self._slots) > self._many:
                self._end(number)
        return gone

    def _head_answers(self) -> bool:
        answers = cluster.head_answers(self._head)
        if answers:
            self._silent_since = None
        elif self._silent_since is None:
            self._silent_since = time.monotonic()
        return answers

    def _require_a_node(self, nodes: Mapping[str, Mapping[str, Any]]) -> None:
        """Stop if no worker is up, and all nodes that have room for one are left out."""
        if self._is_anyone_up:
            return
        alive = {name: node for name, node in nodes.items() if node["Alive"]}
        if not alive:
            raise Stopped("the Ray cluster is lost: it has no node any more; netsieve resume goes on, on another one")
        fit = {name for name, node in alive.items() if self._plan.room(node["Resources"])}
        if fit and fit <= self._left_out.keys():
            why = [why for node, why in self._left_out.items() if node in fit]
            where = f" (likewise, or otherwise, {len(why) - 1} more nodes)" if len(why) > 1 else ""
            raise Stopped(f"{why[-1]}{where}; netsieve resume goes on when that is mended")

    def _count_waiting(self) -> None:
        """Give up if there was no worker for too long, the time in which this process stood still not counted."""
        now, before = time.monotonic(), self._polled
        self._polled = now
        self._waited_s = 0.0 if self._is_anyone_up else self._waited_s + min(now - before, LONGEST_POLL_S)
        if self._waited_s >= self._start_timeout_s:
            raise Stopped(
                f"no worker for --worker-timeout {self._start_timeout_s:g} s: there is room for {self._room}, of "
                f"{self._plan.need} each; see what else uses it (ray status), then go on with netsieve resume"
            )

    def avoid(self, node: str, why: str) -> None:
        """Start no more workers on a node, as long as there is another."""
        self._left_out.setdefault(node, why)

    # -------------------------------------------------- ending workers

    def replace(self, worker: int) -> None:
        """Kill an actor and start another in its place."""
        self._end(worker)
        with _translated():
            self._slots[worker] = self._start()

    def release(self, worker: int) -> None:
        """Kill an actor; the run begins to end, so that no other is started for it."""
        self._is_ending = True
        waiting = [number for number, slot in self._slots.items() if slot.hello is not None]
        for number in {worker, *waiting} - (self._known - {worker}):  # the run releases those that it knows
            self._end(number)
        self._known.discard(worker)

    def _end(self, worker: int) -> None:
        self._doubts.pop(worker, None)
        slot = self._slots.pop(worker, None)
        if slot is not None:  # else it was given up a moment ago
            self._worked_before += slot.worked()
            self._kill(slot.actor)

    def _kill(self, actor: Any) -> None:
        """End an actor's process at once: graceful ends can hang, and can leave a GPU's memory held (ray#59872).

        By a thread, for of a cluster that goes down meanwhile the call may never come back. After one that did not in
        time the next is not waited for, but asked for: a cluster may only have been slow.
        """
        thread = threading.Thread(target=_kill, args=(actor,), name="kill", daemon=True)
        thread.start()
        thread.join(0.0 if self._is_slow_to_kill else KILL_S)
        self._is_slow_to_kill = thread.is_alive()

    def close(self) -> None:
        """Kill what is left."""
        for worker in list(self._slots):
            self.release(worker)


# ------------------------------------------------------------------ what Ray says


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """The seam: whatever Ray raises of a cluster that is lost becomes Stopped."""
    try:
        yield
    except cluster.RAY_FAILS as error:
        raise Stopped(f"the Ray cluster fails ({clean_error(error)}); netsieve resume goes on") from None


def _difference(hello: Hello) -> str | None:
    """What a worker has of another version, if anything."""
    for what, here in cluster.versions().items():
        there = hello.versions.get(what)
        if there != here:
            return (
                f"a worker on {hello.host} has {what} {there}, the coordinator {here}, and results would depend on "
                "where they are trained: have the same version on every node, and no other netsieve there"
            )
    return None


def _reason(error: RayError) -> FailureReason | None:
    """What an error blames a candidate for; None: not its fault, as when an actor's node went."""
    if isinstance(error, OutOfMemoryError):
        return FailureReason.OUT_OF_MEMORY
    if isinstance(error, RayTaskError):  # a trainer that raised, or whose outcome cannot be sent
        return FailureReason.EXCEPTION
    died = isinstance(error, ActorDiedError) and not error.preempted and "its node has died" not in str(error)
    return FailureReason.WORKER_DIED if died else None


def _cause(error: RayError) -> str:
    """What Ray says of a lost process, as one line; of a failed start, the exception at its traceback's end."""
    text = re.sub("\x1b\\[[0-9;]*m", "", str(error)).strip()
    if getattr(error, "actor_init_failed", False):
        text = text.splitlines()[-1]
    return clean_detail(f"{type(error).__name__}: {text}")


def _kill(actor: Any) -> None:
    with contextlib.suppress(*cluster.RAY_FAILS):  # it was dead already, or the whole cluster is
        ray.kill(actor, no_restart=True)
