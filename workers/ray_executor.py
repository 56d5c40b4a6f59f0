"""The executor on Ray: long-lived actors that hold the data and stream back what happens.

The only file that imports ray. An actor prepares its trainer once, then takes batches; one call a batch
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
takes connections, stops the run after LOST_S, and asks for the nodes only when it does. A GCS that takes
connections and answers nothing (SIGSTOP) is not noticed before Ray's own end. If a single report of a
stream's item is lost and its connection is not, the stream is silent until the coordinator's timeout.
"""

import contextlib
import functools
import logging
import os
import pickle
import re
import shutil
import signal
import socket
import sys
import time
from collections import Counter, deque
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
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayError, RayTaskError

from search.candidates import FailureReason, Outcome, clean_detail, clean_error
from search.errors import SettingsError, Stopped
from search.messages import Finished, Started, Task, WorkerEvent, WorkerLost, WorkerReady, WorkerTime
from workers.executors import TrainerFactory, WorkerPlan, cores

FAILED_STARTS = 3  # in a row on one node, before it is left out: the fault is the node's, not a candidate's
START_TIMEOUT_S = 180.0  # for the first worker; a cluster may have to grow
CONNECT_TIMEOUT_S = 10.0
LOST_S = 30.0  # without an answer of the cluster's head before the run stops; Ray itself ends the process after 60
PROBE_S = 2.0  # between two looks whether it answers
PROBE_TIMEOUT_S = 0.5
DOUBT_S = 1.0  # from a worker's end to the decision who is to blame: does its node live?
DRAIN_S = 0.05  # that one poll goes on hearing what is ready
GET_S = 30.0  # for a reply that is already there
NODE_LABEL = "ray.io/node-id"  # that Ray gives every node
LITTLE_ROOM_BYTES = 16 * 2**20  # on the disk of Ray's logs: with less, that may be why Ray fails
OBJECT_STORE_BYTES = 256 * 2**20  # of a local session; it holds the dataset's few thousand images
PRELOAD = "RAY_preload_python_modules"
GPUS = Path("/proc/driver/nvidia/gpus")  # where Linux lists them, if there are any


RAY_FAILS = (RayError, OSError, RuntimeError, ValueError)  # what Ray's calls raise when a cluster is lost


# ------------------------------------------------------------------ the session


def resources() -> dict[str, float]:
    """What the cluster has in all: CPU, GPU, ..."""
    return dict(ray.cluster_resources())  # type: ignore[no-untyped-call]


def temp_dir() -> Path:
    """The folder in which a local session keeps its sockets and logs: RAY_TMPDIR, TMPDIR or the system's."""
    private: Any = ray._common.utils  # noqa: SLF001  there is no public way
    return Path(private.get_default_system_temp_dir())


def _no_room() -> str:
    """What to do about a full disk, if that may be why Ray fails: it does not say so itself."""
    try:
        free = shutil.disk_usage(temp_dir()).free
    except OSError as error:
        return f"; {temp_dir()}, where Ray keeps its logs: {error.strerror}; set RAY_TMPDIR"
    if free >= LITTLE_ROOM_BYTES:
        return ""
    return f"; {temp_dir()}, where Ray keeps its logs, has {free / 2**20:.1f} MiB left: make room, or set RAY_TMPDIR"


def disconnect() -> None:
    """Leave the cluster; end a local session."""
    ray.shutdown()


def library_version() -> str:
    """The version of Ray."""
    return str(ray.__version__)


@contextlib.contextmanager
def without_credentials() -> Iterator[None]:
    """Keep what opens the database from processes that are started inside, and from Ray's records.

    Takes NETSIEVE_DB and libpq's PG* variables out of this process's environment, which Ray's processes
    inherit, and the command line, where --db may stand, out of what Ray records as the job's entrypoint.
    Workers return values and never open the database. Not for use beside threads that read these variables.
    """
    names = [name for name in os.environ if name == "NETSIEVE_DB" or name.startswith("PG")]
    taken = {name: os.environ.pop(name) for name in names}
    private: Any = ray._private.utils  # noqa: SLF001  there is no public way
    entrypoint = private.get_entrypoint_name
    private.get_entrypoint_name = lambda: "netsieve"
    try:
        yield
    finally:
        private.get_entrypoint_name = entrypoint
        os.environ.update(taken)


@contextlib.contextmanager
def _handlers_kept() -> Iterator[None]:
    """Have SIGTERM handled afterwards as it was before: ray.init takes it twice, in Python and in C++."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _in_their_own_groups() -> Iterator[None]:
    """Start Ray's servers in process groups of their own, where they end with this process all the same.

    A SIGTERM to the whole group, as schedulers and terminals send it, would end them while what is in training
    is finished, and Ray ends a driver that has lost its raylet with exit code 1.
    """
    private: Any = ray._private  # noqa: SLF001  there is no public way
    popen = private.services.ConsolePopen
    if private.utils.detect_fate_sharing_support():
        private.services.ConsolePopen = functools.partial(popen, process_group=0)
    try:
        yield
    finally:
        private.services.ConsolePopen = popen


@contextlib.contextmanager
def _without_idle_servers() -> Iterator[None]:
    """Start none of the servers that nobody asks in a local session; starting them takes seconds of two cores.

    The dashboard's, for which ray.init would wait although it shows nothing (include_dashboard=False starts it all
    the same), the autoscaler's monitor, and the one that copies workers' logs to the driver.
    """
    private: Any = ray._private  # noqa: SLF001  there is no public way
    places = [
        (private.services, "start_api_server", lambda *_, **__: (None, None)),  # as where it fails, which is no error
        (private.node.Node, "start_monitor", lambda *_: None),
        (private.node.Node, "start_log_monitor", lambda *_: None),
    ]
    with contextlib.ExitStack() as stack:
        for owner, name, nothing in places:
            if hasattr(owner, name):  # else this Ray starts it in another way: slower, no worse
                stack.enter_context(_in_place_of(owner, name, nothing))
        yield


@contextlib.contextmanager
def _in_place_of(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Put something in an attribute's place for a while."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextlib.contextmanager
def _preloading() -> Iterator[None]:
    """Have torch imported, while Ray starts, by the processes that it starts then; one a core, each to be a worker.

    A setting of Ray's own; in the environment, where a Ray that does not know it leaves it alone.
    """
    is_given = PRELOAD in os.environ or GPUS.exists()
    if not is_given:
        os.environ[PRELOAD] = "workers.training"
    try:
        yield
    finally:
        if not is_given:
            del os.environ[PRELOAD]


def _start_session(cores: int, quiet: dict[str, Any]) -> None:
    """A local session, without a dashboard, that ends with this process."""
    is_new = not TOKEN_FILE.exists()
    try:
        with without_credentials(), _handlers_kept(), _in_their_own_groups(), _without_idle_servers(), _preloading():
            ray.init(
                address="local",
                num_cpus=cores,
                object_store_memory=OBJECT_STORE_BYTES,
                include_dashboard=False,
                **quiet,
            )
    except (ConnectionError, RayError, RuntimeError, ValueError, OSError) as error:
        raise Stopped(
            f"Ray does not start ({clean_error(error)}){_no_room()}; netsieve doctor looks for the cause, "
            "--workers 0 trains without it"
        ) from None
    if is_new and TOKEN_FILE.exists():
        TOKEN_FILE.chmod(0o600)  # Ray leaves the session's secret readable for everyone


def connect(address: str | None, workers: int | None) -> None:
    """Join the Ray cluster at ``address``, or start a local session that ends with this process.

    Call it from the main thread: signal handlers are left as they are.
    Raises SettingsError when nothing answers at the address, Stopped when a local session does not start.
    """
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        _start_session(workers or cores(), quiet)
        return
    try:
        host, colon, port = address.rpartition(":")
        if colon and port.isdigit():  # Ray itself would try for minutes
            socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S).close()
        with without_credentials(), _handlers_kept():
            ray.init(address=address, **quiet)
    except (ConnectionError, RayError, RuntimeError, ValueError, OSError) as error:
        raise SettingsError(
            f"--ray-address {address}: no Ray cluster to join there ({clean_error(error)}); a cluster with token "
            "authentication needs its token here too (RAY_AUTH_TOKEN_PATH); leave the option out for a local session"
        ) from None


# ------------------------------------------------------------------ the actor


@dataclass(frozen=True)
class Hello:
    """A worker's first reply."""

    version: str  # of netsieve there
    pid: int
    node: str  # Ray's id of the node
    complaint: str | None  # why the trainer could not be prepared, as one line


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
        complaint = None
        try:
            self._trainer = self._factory.prepare()
        except Exception as error:  # noqa: BLE001  whatever data and devices raise
            complaint = clean_error(error)
        self._ready_at = time.monotonic()
        return Hello(version("netsieve"), os.getpid(), ray.get_runtime_context().get_node_id(), complaint)

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
    """Trains on Ray actors; ``connect`` must have been called. Raises nothing but Stopped."""

    def __init__(self, trainer: TrainerFactory, workers: WorkerPlan) -> None:
        self._plan = workers
        self._actor_class: Any = ray.remote(TrainingActor)
        self._options = {
            "num_cpus": 1,
            "num_gpus": workers.gpus_per_worker,
            "max_restarts": 0,
            "max_task_retries": 0,
            "enable_task_events": False,
        }
        self._failed_starts: Counter[str] = Counter()  # in a row, by node; "": on a node that is not known
        self._bad_nodes: list[str] = []  # where nothing is started any more
        self._complaint = ""  # of the last failed start
        self._doubts: dict[int, _Doubt] = {}
        self._worked_before = WorkerTime()  # by the workers that are no more
        self._stopped: Stopped | None = None  # to be raised by the next poll
        self._waited_s = 0.0
        self._probed = time.monotonic()
        self._silent_since: float | None = None  # the cluster's head
        with _translated():
            self._head = _host_and_port(ray.get_runtime_context().gcs_address)
            self._trainer = ray.put(trainer)
            self._slots = {number: self._start() for number in range(workers.workers)}

    @property
    def workers(self) -> int:
        """How many actors."""
        return self._plan.workers

    @property
    def worked(self) -> WorkerTime:
        """What all workers so far have done with their time: each one's until it was lost or released."""
        return sum((slot.worked() for slot in self._slots.values()), self._worked_before)

    @property
    def pids(self) -> list[int]:
        """Process ids of the actors that are up."""
        return [slot.pid for slot in self._slots.values() if slot.pid]

    def _start(self) -> _Slot:
        elsewhere = {NODE_LABEL: f"!in({','.join(self._bad_nodes)})"} if self._bad_nodes else None
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
                self._look_after_the_cluster()
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
        if not ready:
            self._wait_for_first(timeout_s)
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
        here = version("netsieve")
        if hello.version != here:
            raise Stopped(
                f"a worker has netsieve {hello.version}, the coordinator {here}: install the same version on every node"
            )
        if hello.complaint is not None:
            self._count_failed_start(hello.node, hello.complaint)
            self.replace(worker)
            return []
        slot.hello, slot.pid, slot.node, slot.told_at = None, hello.pid, hello.node, time.monotonic()
        self._failed_starts[""] = self._failed_starts[slot.node] = 0
        self._waited_s = 0.0
        return [WorkerReady(worker, slot.node)]

    # -------------------------------------------------- losing workers

    def _lose(self, worker: int, slot: _Slot, error: RayError) -> list[WorkerEvent]:
        started, cause, reason = slot.hello is None, _cause(error), _reason(error)
        self.replace(worker)
        if not started:
            if reason:
                self._count_failed_start("", cause)
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
        nodes = _nodes()
        for doubt in due:
            del self._doubts[doubt.lost.worker]
        return [
            doubt.lost if _lives(nodes.get(doubt.node)) else WorkerLost(doubt.lost.worker, None, doubt.lost.detail)
            for doubt in due
        ]

    def _count_failed_start(self, node: str, cause: str) -> None:
        self._complaint = cause
        self._failed_starts[node] += 1
        if self._failed_starts[node] < FAILED_STARTS:
            return
        if not node:
            hint = "; a cluster without token authentication needs RAY_AUTH_MODE=disabled here"
            hint = hint if os.environ.get("RAY_AUTH_MODE") == "token" else ""
            raise Stopped(f"workers do not start, {FAILED_STARTS} times in a row: {cause}{_no_room()}{hint}")
        if node not in self._bad_nodes:
            self._bad_nodes.append(node)
        self._look_for_nodes()

    # -------------------------------------------------- the cluster

    def _look_after_the_cluster(self) -> None:
        """Now and then: does the head answer, and is there a node to work on?"""
        now = time.monotonic()
        if now - self._probed < PROBE_S:
            return
        self._probed = now
        if not self._head_answers():
            if now - (self._silent_since or now) >= LOST_S:
                host, port = self._head
                raise Stopped(
                    f"the Ray cluster is lost: its head at {host}:{port} has not answered for {LOST_S:g} s; "
                    "netsieve resume goes on, on another one"
                )
            return
        self._look_for_nodes()

    def _head_answers(self) -> bool:
        answers = _takes_connections(*self._head)
        if answers:
            self._silent_since = None
        elif self._silent_since is None:
            self._silent_since = time.monotonic()
        return answers

    def _look_for_nodes(self) -> None:
        """Stop if no worker is up, and there is no node for one."""
        if any(slot.hello is None for slot in self._slots.values()) or not self._head_answers():
            return
        alive = {name: node for name, node in _nodes().items() if node["Alive"]}
        if not alive:
            raise Stopped("the Ray cluster is lost: it has no node any more; netsieve resume goes on, on another one")
        fit = {name for name, node in alive.items() if self._fits(node["Resources"])}
        if self._bad_nodes and fit <= set(self._bad_nodes):
            where = f", on each of {len(self._bad_nodes)} nodes" if len(self._bad_nodes) > 1 else ""
            raise Stopped(
                f"workers do not start, {FAILED_STARTS} times in a row{where}: {self._complaint}; "
                "netsieve resume goes on when that is mended"
            )

    def _fits(self, node: Mapping[str, float]) -> bool:
        return node.get("CPU", 0.0) >= 1 and node.get("GPU", 0.0) >= self._plan.gpus_per_worker

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

    def avoid(self, node: str, why: str) -> None:
        """Start no more workers on a node, as long as there is another."""
        self._complaint = why
        if node not in self._bad_nodes:
            self._bad_nodes.append(node)

    # -------------------------------------------------- ending workers

    def replace(self, worker: int) -> None:
        """Kill an actor and start another in its place."""
        self._end(worker)
        with _translated():
            self._slots[worker] = self._start()

    def release(self, worker: int) -> None:
        """Kill an actor."""
        self._end(worker)

    def _end(self, worker: int) -> None:
        self._doubts.pop(worker, None)
        slot = self._slots.pop(worker)
        self._worked_before += slot.worked()
        _kill(slot.actor)

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
    except RAY_FAILS as error:
        raise Stopped(f"the Ray cluster fails ({clean_error(error)}); netsieve resume goes on") from None


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


def _nodes() -> dict[str, Mapping[str, Any]]:
    """What Ray knows of every node, by id; only while the head answers, else it blocks."""
    return {node["NodeID"]: node for node in ray.nodes()}  # type: ignore[no-untyped-call]


def _lives(node: Mapping[str, Any] | None) -> bool:
    """Whether a node is there: Ray lists a node that was killed as alive for a while, but its raylet is gone."""
    if node is None or not node["Alive"]:
        return False
    return not _refuses_connections(node["NodeManagerAddress"], node["NodeManagerPort"])


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _takes_connections(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=PROBE_TIMEOUT_S).close()
    except OSError:
        return False
    return True


def _refuses_connections(host: str, port: int) -> bool:
    """Whether nobody listens; a firewall, or a host that takes long, says neither yes nor no."""
    try:
        socket.create_connection((host, port), timeout=PROBE_TIMEOUT_S).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return False


def _kill(actor: Any) -> None:
    """End an actor's process at once: graceful ends can hang, and can leave a GPU's memory held (ray#59872)."""
    with contextlib.suppress(*RAY_FAILS):  # it was dead already, or the whole cluster is
        ray.kill(actor, no_restart=True)
