"""What the coordinator hears and says: a candidate as a task, events in, commands out.

Values only; workers, stores and the shell speak by them, and need not know the machine that decides.
"""

from dataclasses import dataclass

from search.candidates import AttemptEnding, FailureReason, Outcome

MOST_LOSSES = 5  # coordinators and nodes lost with a candidate, before it is tried with nothing beside it


@dataclass(frozen=True)
class Task:
    """An open candidate that this coordinator holds, ready to be trained."""

    index: int
    layers: str  # canonical layer string
    macs: int  # multiply-adds per image: predicts its cost
    lease: int = 0  # epoch of the lease under which it is held: what is written for it counts only under this one
    attempt: int = 0  # number of the attempt that is in flight, or was last
    begun: int = 0  # trainings of it that were seen to begin
    charges: int = 0  # attempts that it is blamed for
    losses: int = 0  # coordinators that were lost with it in flight, and nodes with it in training
    suspected: bool = False  # was first in line at a worker that was lost before a start was seen

    @property
    def alone(self) -> bool:
        """Whether it must have its worker for itself."""
        return self.charges > 0 or self.suspected

    @property
    def isolated(self) -> bool:
        """Whether nothing else may be in flight with it."""
        return self.losses >= MOST_LOSSES


@dataclass(frozen=True)
class WorkerTime:
    """What workers have done with their time, summed over them; the fields are columns of ``coordinator``."""

    worker_s: float = 0.0  # seconds since each was ready for its first candidate
    training_s: float = 0.0  # of these, from taking a candidate up to its end; the rest was spent waiting

    @property
    def training_share(self) -> float | None:
        """Of their time, 0 to 1; None if there was none."""
        return self.training_s / self.worker_s if self.worker_s else None

    def __add__(self, other: "WorkerTime") -> "WorkerTime":
        return WorkerTime(self.worker_s + other.worker_s, self.training_s + other.training_s)


# ------------------------------------------------------------------ events


@dataclass(frozen=True)
class WorkerReady:
    """A worker, its replacement, or one that was not there before, can take batches."""

    worker: int
    node: str = ""  # the machine that it runs on


@dataclass(frozen=True)
class WorkerLost:
    """A worker's process ended with what it had; the executor replaces it."""

    worker: int
    reason: FailureReason | None  # what its candidate is charged with; None: not the candidate's fault
    detail: str


@dataclass(frozen=True)
class WorkerGone:
    """A worker that is not ready will not be soon, for its node went; it says WorkerReady if it comes after all."""

    worker: int


@dataclass(frozen=True)
class Started:
    """A worker began to train a candidate."""

    worker: int
    index: int
    attempt: int = 1  # the task's number of it: news of an earlier one is not news


@dataclass(frozen=True)
class Finished:
    """A worker ended training a candidate, in whatever way."""

    worker: int
    index: int
    outcome: Outcome
    attempt: int = 1


@dataclass(frozen=True)
class Claimed:
    """The answer to Claim."""

    tasks: tuple[Task, ...]
    left_to_draw: bool = False  # the target is not drawn yet
    open_elsewhere: bool = False  # candidates may be open that are not held here; they may come free


@dataclass(frozen=True)
class Submitted:
    """A worker was given the batch of a Submit, once its attempts were recorded."""

    worker: int


@dataclass(frozen=True)
class LeasesLost:
    """Another coordinator has taken these leases over: their tasks are not ours any more."""

    leases: frozenset[int]


@dataclass(frozen=True)
class Recorded:
    """All commands so far are recorded; how the search, with all its coordinators, stands then."""

    completed: int
    best_accuracy: float
    open: int  # candidates, held here or elsewhere
    left_to_draw: bool  # the target, which may have grown, is not drawn yet


@dataclass(frozen=True)
class StopAsked:
    """Someone wants the run to end: what is training is finished, nothing new begins."""

    why: str
    grace_s: float | None  # how long that may take; None: as long as it takes
    is_fault: bool = False  # circumstances, not a wish


@dataclass(frozen=True)
class StoodStill:
    """So many seconds of the time that has passed are nobody's training time."""

    seconds: float


@dataclass(frozen=True)
class Tick:
    """Time passed."""


WorkerEvent = WorkerReady | WorkerLost | WorkerGone | Started | Finished
Event = WorkerEvent | Claimed | Submitted | LeasesLost | Recorded | StopAsked | StoodStill | Tick


# ------------------------------------------------------------------ commands


@dataclass(frozen=True)
class Claim:
    """Claim up to ``count`` more open candidates, drawing them if need be; answer with Claimed."""

    count: int


@dataclass(frozen=True)
class Submit:
    """Record an attempt at each task, then queue them as a batch at a worker."""

    worker: int
    tasks: tuple[Task, ...]


@dataclass(frozen=True)
class Replace:
    """Kill a worker with what it has, and start another in its place."""

    worker: int


@dataclass(frozen=True)
class Release:
    """Kill a worker with what it has; it is not needed any more."""

    worker: int


@dataclass(frozen=True)
class Avoid:
    """Start no more workers on a node."""

    node: str
    why: str


@dataclass(frozen=True)
class RecordStart:
    """Record that an attempt began."""

    task: Task


@dataclass(frozen=True)
class RecordAttempt:
    """Record how an attempt ended whose candidate stays open."""

    task: Task
    ending: AttemptEnding
    detail: str


@dataclass(frozen=True)
class Record:
    """Record a candidate's outcome, the end of its last attempt."""

    task: Task
    outcome: Outcome


@dataclass(frozen=True)
class GiveBack:
    """Let others have what is held under these leases, all of it: nothing of it is in flight."""

    leases: frozenset[int]


@dataclass(frozen=True)
class End:
    """The run is over. ``why`` is None when the search is finished."""

    why: str | None
    is_fault: bool = False  # circumstances ended it


Command = Claim | Submit | Replace | Release | Avoid | RecordStart | RecordAttempt | Record | GiveBack | End
