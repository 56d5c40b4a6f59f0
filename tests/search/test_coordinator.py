"""The state machine, without a process, a database or a second passing."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.candidates import FailureReason, Measurement, Outcome, Status
from search.coordinator import (
    Command,
    Coordinator,
    End,
    Event,
    Finished,
    Open,
    Opened,
    Record,
    RecordStart,
    Release,
    Replace,
    Started,
    StopAsked,
    Submit,
    Task,
    Tick,
    WorkerLost,
    WorkerReady,
)
from search.settings import Limits

LIMITS = Limits(trial_timeout_s=100.0)


def tasks(*indices: int) -> tuple[Task, ...]:
    return tuple(Task(index, f"layers {index}", 10_000) for index in indices)


def completed(accuracy: float = 0.5, seconds: float = 1.0) -> Outcome:
    return Outcome((Measurement(1, 1.0, 1.0, accuracy),), seconds)


def only(kind: type, commands: list[Command]) -> list[Command]:
    return [command for command in commands if isinstance(command, kind)]


def machine_with(open_tasks: tuple[Task, ...], *, workers: int = 1, limits: Limits = LIMITS) -> Coordinator:
    """A machine whose workers are ready, and whose only tasks are these; their batches are submitted."""
    machine = Coordinator(range(workers), limits)
    for worker in range(workers):
        machine.step(WorkerReady(worker), 0.0)
    machine.step(Opened(open_tasks, exhausted=True), 0.0)
    return machine


def test_asks_for_candidates_before_a_worker_is_ready() -> None:
    """Drawing begins while workers start."""
    (command,) = Coordinator(range(2), LIMITS).step(Tick(), 0.0)
    assert isinstance(command, Open)
    assert command.count >= 2


def test_asks_once_until_answered() -> None:
    """A second tick does not ask again for what was asked."""
    machine = Coordinator(range(1), LIMITS)
    machine.step(Tick(), 0.0)
    assert machine.step(Tick(), 1.0) == []


def test_submits_only_to_ready_workers() -> None:
    """A worker gets its first batch when it says that it is ready."""
    machine = Coordinator(range(1), LIMITS)
    assert not only(Submit, machine.step(Opened(tasks(0), exhausted=True), 0.0))
    assert machine.step(WorkerReady(0), 0.0) == [Submit(0, tasks(0))]


def test_every_worker_is_busy_before_anyone_queues() -> None:
    """Two tasks on two workers go to one each."""
    machine = Coordinator(range(2), LIMITS)
    machine.step(WorkerReady(0), 0.0)
    machine.step(WorkerReady(1), 0.0)
    submitted = only(Submit, machine.step(Opened(tasks(0, 1), exhausted=True), 0.0))
    assert submitted == [Submit(0, tasks(0)), Submit(1, tasks(1))]


def test_a_starting_worker_is_not_left_without() -> None:
    """With as many tasks as workers, the first one up does not take them all."""
    machine = Coordinator(range(2), LIMITS)
    machine.step(Opened(tasks(0, 1), exhausted=True), 0.0)
    assert only(Submit, machine.step(WorkerReady(0), 0.0)) == [Submit(0, tasks(0))]
    assert only(Submit, machine.step(WorkerReady(1), 0.0)) == [Submit(1, tasks(1))]


def test_keeps_a_second_batch_queued() -> None:
    """A worker that trains has one more batch waiting, and no third."""
    machine = Coordinator(range(1), LIMITS)
    machine.step(WorkerReady(0), 0.0)
    submitted = only(Submit, machine.step(Opened(tasks(0, 1, 2), exhausted=True), 0.0))
    assert submitted == [Submit(0, tasks(0)), Submit(0, tasks(1))]


def test_batches_grow_with_what_was_measured() -> None:
    """Once trainings are seen to take 0.1 s, a batch holds about two seconds of them."""
    machine = Coordinator(range(1), LIMITS)
    machine.step(WorkerReady(0), 0.0)
    machine.step(Opened(tasks(*range(100)), exhausted=False), 0.0)
    machine.step(Started(0, 0), 0.0)
    (submit,) = only(Submit, machine.step(Finished(0, 0, completed(seconds=0.1)), 0.1))
    assert isinstance(submit, Submit)
    assert 19 <= len(submit.tasks) <= 20


def test_records_starts_and_outcomes() -> None:
    """What a worker reports is recorded, and the last outcome ends the run."""
    machine = machine_with(tasks(7))
    assert machine.step(Started(0, 7), 1.0) == [RecordStart(7)]
    assert machine.training == list(tasks(7))
    outcome = completed()
    assert machine.step(Finished(0, 7, outcome), 2.0) == [Record(7, outcome), End(None)]


def test_ends_at_once_when_nothing_is_open() -> None:
    """A search whose draws are all rejected needs no worker."""
    machine = Coordinator(range(1), LIMITS)
    assert machine.step(Opened((), exhausted=True), 0.0) == [End(None)]


def test_nothing_follows_the_end() -> None:
    """After End the machine is silent."""
    machine = Coordinator(range(1), LIMITS)
    machine.step(Opened((), exhausted=True), 0.0)
    assert machine.step(WorkerReady(0), 1.0) == []


def test_a_lost_worker_charges_only_what_was_in_training() -> None:
    """The candidate in training fails; those that waited at the worker are submitted again, in order."""
    machine = machine_with(tasks(0, 1))
    machine.step(Started(0, 0), 0.0)
    commands = machine.step(WorkerLost(0, FailureReason.WORKER_DIED, "gone"), 3.0)
    assert commands == [Record(0, Outcome((), 3.0, FailureReason.WORKER_DIED, "gone"))]
    assert only(Submit, machine.step(WorkerReady(0), 4.0)) == [Submit(0, tasks(1))]


def test_a_worker_lost_between_candidates_charges_nobody() -> None:
    """A first loss before a start was seen may be chance: all go back."""
    machine = machine_with(tasks(0, 1))
    assert machine.step(WorkerLost(0, FailureReason.WORKER_DIED, "gone"), 1.0) == []
    submitted = only(Submit, machine.step(WorkerReady(0), 2.0))
    assert submitted == [Submit(0, tasks(0)), Submit(0, tasks(1))]


def test_a_candidate_that_kills_before_its_start_is_seen_is_found() -> None:
    """A second loss with the same candidate next blames it, so that it cannot kill workers for ever."""
    machine = machine_with(tasks(0))
    machine.step(WorkerLost(0, FailureReason.WORKER_DIED, "gone"), 1.0)
    machine.step(WorkerReady(0), 2.0)
    commands = machine.step(WorkerLost(0, FailureReason.WORKER_DIED, "gone again"), 3.0)
    assert commands == [Record(0, Outcome((), 1.0, FailureReason.WORKER_DIED, "gone again")), End(None)]


def test_a_timeout_replaces_the_worker_and_fails_the_candidate() -> None:
    """From its start on the coordinator's clock; the others of the batch go back."""
    machine = machine_with(tasks(0, 1))
    machine.step(Started(0, 0), 10.0)
    assert machine.step(Tick(), 110.0) == []
    replaced, recorded = machine.step(Tick(), 110.1)
    assert replaced == Replace(0)
    assert isinstance(recorded, Record)
    assert recorded.outcome.reason is FailureReason.TIMEOUT
    assert "--trial-timeout 100 s" in str(recorded.outcome.detail)
    assert only(Submit, machine.step(WorkerReady(0), 111.0)) == [Submit(0, tasks(1))]


def test_an_idle_worker_does_not_time_out() -> None:
    """Waiting for work is not training."""
    machine = Coordinator(range(1), LIMITS)
    machine.step(WorkerReady(0), 0.0)
    assert not only(Replace, machine.step(Tick(), 10_000.0))


def test_news_of_a_replaced_worker_is_ignored() -> None:
    """What a killed worker had still sent changes nothing: the first outcome stays."""
    machine = machine_with(tasks(0, 1))
    machine.step(Started(0, 0), 0.0)
    machine.step(Tick(), 200.0)
    assert machine.step(Finished(0, 0, completed()), 200.0) == []
    assert machine.step(Started(0, 1), 200.0) == []


def test_a_stop_finishes_what_is_training() -> None:
    """Idle workers are released at once, a training one after its candidate; what waited is left open."""
    machine = machine_with(tasks(0, 1, 2), workers=2)
    machine.step(Started(0, 0), 0.0)
    assert machine.step(StopAsked("why", 30.0), 1.0) == [Release(1)]
    assert machine.stopping == "why"
    outcome = completed()
    assert machine.step(Finished(0, 0, outcome), 2.0) == [Record(0, outcome), Release(0), End("why")]


def test_a_stop_waits_no_longer_than_its_grace() -> None:
    """After the grace the training is abandoned, uncharged."""
    machine = machine_with(tasks(0))
    machine.step(Started(0, 0), 0.0)
    assert machine.step(StopAsked("why", 30.0), 1.0) == []
    assert machine.step(Tick(), 30.9) == []
    assert machine.step(Tick(), 31.0) == [Release(0), End("why")]


@pytest.mark.parametrize(
    ("limits", "why"),
    [
        (replace(LIMITS, max_completed=1), "--max-completed 1 reached"),
        (replace(LIMITS, target_accuracy=0.5), "--target-accuracy 0.5 reached"),
        (replace(LIMITS, max_time_s=1.5), "--max-time 1.5 s reached"),
    ],
)
def test_limits_end_a_run_early(limits: Limits, why: str) -> None:
    """A limit that is reached ends the run after what is in training, and says which it was."""
    machine = machine_with(tasks(0, 1, 2), workers=2, limits=limits)
    machine.step(Started(0, 0), 0.0)
    machine.step(Started(1, 1), 0.0)
    commands = machine.step(Finished(0, 0, completed(0.5)), 2.0)
    assert only(Release, commands) == [Release(0)]
    assert only(End, machine.step(Finished(1, 1, completed(0.1)), 3.0)) == [End(why)]


def test_limits_count_what_earlier_runs_did() -> None:
    """A run that starts beyond its limit trains nothing."""
    machine = Coordinator(range(1), replace(LIMITS, max_completed=5), completed=5)
    assert machine.step(Tick(), 0.0) == [Release(0), End("--max-completed 5 reached")]
    machine = Coordinator(range(1), replace(LIMITS, target_accuracy=0.9), best_accuracy=0.95)
    assert machine.step(Tick(), 0.0) == [Release(0), End("--target-accuracy 0.9 reached")]


def test_a_signal_bounds_a_limit_that_waits() -> None:
    """Ctrl-C during an early end brings its grace."""
    machine = machine_with(tasks(0), limits=replace(LIMITS, max_time_s=1.0))
    machine.step(Started(0, 0), 0.0)
    machine.step(Tick(), 2.0)
    machine.step(StopAsked("interrupted", 5.0), 3.0)
    assert machine.step(Tick(), 8.0) == [Release(0), End("interrupted")]


def test_workers_that_a_signal_took_charge_nobody() -> None:
    """A SIGTERM to the whole process group ends the workers as well; their candidates stay open."""
    machine = machine_with(tasks(0))
    machine.step(Started(0, 0), 0.0)
    machine.step(StopAsked("interrupted", 30.0), 1.0)
    assert machine.step(WorkerLost(0, FailureReason.WORKER_DIED, "gone"), 2.0) == [Release(0), End("interrupted")]


class World:
    """A simulated executor and store that the machine drives; faults come from the seed."""

    def __init__(self, candidates: int, workers: int, faults: list[int]) -> None:
        self.machine = Coordinator(range(workers), LIMITS)
        self.left = list(tasks(*range(candidates)))
        self.queues: dict[int, list[Task]] = {worker: [] for worker in range(workers)}
        self.training: dict[int, Task] = {}
        self.to_start = set(range(workers))
        self.outcomes: dict[int, Outcome] = {}
        self.starts: Counter[int] = Counter()
        self.faults = faults
        self.now = 0.0
        self.end: End | None = None

    def feed(self, event: Event) -> None:
        for command in self.machine.step(event, self.now):
            self.obey(command)

    def obey(self, command: Command) -> None:
        match command:
            case Open(count):
                opened, self.left = self.left[:count], self.left[count:]
                self.feed(Opened(tuple(opened), exhausted=not self.left))
            case Submit(worker, batch):
                assert worker not in self.to_start, "submitted to a worker that is not ready"
                self.queues[worker] += batch
            case Replace(worker):
                self.forget(worker)
            case RecordStart(index):
                self.starts[index] += 1
            case Record(index, outcome):
                assert index not in self.outcomes, "a second outcome"
                self.outcomes[index] = outcome
            case End():
                self.end = command

    def forget(self, worker: int) -> None:
        self.queues[worker] = []
        self.training.pop(worker, None)
        self.to_start.add(worker)

    def turn(self, choice: int) -> None:
        """One thing happens at one worker."""
        self.now += 1.0
        worker = choice % len(self.queues)
        if worker in self.to_start:
            self.to_start.remove(worker)
            self.feed(WorkerReady(worker))
        elif self.faults and self.faults.pop():
            self.forget(worker)
            self.feed(WorkerLost(worker, FailureReason.WORKER_DIED, "fault"))
        elif worker in self.training:
            task = self.training.pop(worker)
            self.feed(Finished(worker, task.index, completed()))
        elif self.queues[worker]:
            task = self.training[worker] = self.queues[worker].pop(0)
            self.feed(Started(worker, task.index))
        else:
            self.feed(Tick())


@settings(max_examples=300, deadline=None)
@given(
    candidates=st.integers(0, 40),
    workers=st.integers(1, 4),
    faults=st.lists(st.integers(0, 1), max_size=30),
    choices=st.randoms(use_true_random=False),
)
def test_every_candidate_ends_once_whatever_is_lost(
    candidates: int, workers: int, faults: list[int], choices: object
) -> None:
    """With finite faults a run ends; each candidate has one outcome, and only a lost worker's is charged."""
    world = World(candidates, workers, list(faults))
    world.feed(Tick())
    turns = 0
    while world.end is None:
        world.turn(choices.randrange(1000))  # type: ignore[attr-defined]
        turns += 1
        assert turns < 5_000, "no progress"
    assert world.end == End(None)
    assert sorted(world.outcomes) == list(range(candidates))
    failed = [o for o in world.outcomes.values() if o.status is Status.FAILED]
    assert len(failed) <= sum(faults)
