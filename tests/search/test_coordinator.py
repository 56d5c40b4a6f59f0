"""The state machine, without a process, a database or a second passing."""

import sys
from dataclasses import replace
from types import FrameType
from typing import Any, Self

import pytest

from search.candidates import FailureReason, Interruption, Measurement, Outcome
from search.coordinator import LARGEST_CLAIM, MOST_FAULTS, MOST_FAULTS_OF_A_NODE, Coordinator, cost
from search.messages import (
    MOST_LOSSES,
    Avoid,
    Claim,
    Claimed,
    Command,
    End,
    Finished,
    GiveBack,
    LeasesLost,
    Record,
    RecordAttempt,
    Recorded,
    RecordStart,
    Release,
    Replace,
    Started,
    StoodStill,
    StopAsked,
    Submit,
    Submitted,
    Task,
    Tick,
    WorkerGone,
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
    carry_out(machine, machine.step(Claimed(open_tasks), 0.0), 0.0)
    return machine


def carry_out(machine: Coordinator, commands: list[Command], now: float) -> list[Command]:
    """Give the workers what is submitted; the commands."""
    for command in commands:
        if isinstance(command, Submit):
            machine.step(Submitted(command.worker), now)
    return commands


def train_next(machine: Coordinator, worker: int, outcome: Outcome) -> list[Command]:
    """Let a worker train the first candidate in its line so, and start another one where it is replaced."""
    task, node = machine._workers[worker].tasks[0], machine._workers[worker].node
    machine.step(Started(worker, task.index, task.attempt), 0.0)
    commands = carry_out(machine, machine.step(Finished(worker, task.index, outcome, task.attempt), 0.0), 0.0)
    if Replace(worker) in commands and not only(End, commands):
        carry_out(machine, machine.step(WorkerReady(worker, node), 0.0), 0.0)
    return commands


def wait(machine: Coordinator, since: float, until: float) -> list[Command]:
    """Let time pass, a tick a second; what came of it."""
    ticks = [since + second for second in range(1, int(until - since) + 1)]
    return [command for now in (*ticks, until) for command in machine.step(Tick(), now)]


def tried(*tasks: Task, attempt: int = 1) -> tuple[Task, ...]:
    """The tasks as they are dispatched."""
    return tuple(replace(task, attempt=attempt) for task in tasks)


def begun(task: Task) -> Task:
    """A dispatched task whose training began."""
    return replace(task, attempt=task.attempt + 1, begun=task.begun + 1)


def test_asks_for_candidates_before_a_worker_is_ready() -> None:
    """Drawing begins while workers start."""
    (command,) = Coordinator(range(2), LIMITS).step(Tick(), 0.0)
    assert isinstance(command, Claim)
    assert command.count >= 2


def test_asks_once_until_answered() -> None:
    """A second tick does not ask again for what was asked."""
    machine = Coordinator(range(1), LIMITS)
    machine.step(Tick(), 0.0)
    assert machine.step(Tick(), 1.0) == []


def test_submits_only_to_ready_workers() -> None:
    """A worker gets its first batch when it says that it is ready."""
    machine = Coordinator(range(1), LIMITS)
    assert not only(Submit, machine.step(Claimed(tasks(0)), 0.0))
    assert machine.step(WorkerReady(0), 0.0) == [Submit(0, tried(*tasks(0)))]


def test_every_worker_is_busy_before_anyone_queues() -> None:
    """Two tasks on two workers go to one each."""
    machine = Coordinator(range(2), LIMITS)
    machine.step(WorkerReady(0), 0.0)
    machine.step(WorkerReady(1), 0.0)
    submitted = only(Submit, machine.step(Claimed(tasks(0, 1)), 0.0))
    assert submitted == [Submit(0, tried(*tasks(0))), Submit(1, tried(*tasks(1)))]


def test_a_starting_worker_is_not_left_without() -> None:
    """With as many tasks as workers, the first one up does not take them all."""
    machine = Coordinator(range(2), LIMITS)
    machine.step(Claimed(tasks(0, 1)), 0.0)
    assert only(Submit, machine.step(WorkerReady(0), 0.0)) == [Submit(0, tried(*tasks(0)))]
    assert only(Submit, machine.step(WorkerReady(1), 0.0)) == [Submit(1, tried(*tasks(1)))]


def test_keeps_a_second_batch_queued() -> None:
    """A worker that trains has one more batch waiting, and no third."""
    machine = Coordinator(range(1), LIMITS)
    machine.step(WorkerReady(0), 0.0)
    submitted = only(Submit, machine.step(Claimed(tasks(0, 1, 2)), 0.0))
    assert submitted == [Submit(0, tried(*tasks(0))), Submit(0, tried(*tasks(1)))]


def test_batches_grow_with_what_was_measured() -> None:
    """Once trainings are seen to take 0.1 s, a batch holds about two seconds of them."""
    machine = Coordinator(range(1), LIMITS)
    machine.step(WorkerReady(0), 0.0)
    machine.step(Claimed(tasks(*range(100)), left_to_draw=True), 0.0)
    machine.step(Started(0, 0), 0.0)
    (submit,) = only(Submit, machine.step(Finished(0, 0, completed(seconds=0.1)), 0.1))
    assert isinstance(submit, Submit)
    assert 19 <= len(submit.tasks) <= 20


def rated(workers: int, seconds_per_mac: float = 1e-6) -> Coordinator:
    """A machine with idle workers that has seen what a multiply-add takes here."""
    machine = Coordinator(range(workers), LIMITS)
    for worker in range(workers):
        machine.step(WorkerReady(worker), 0.0)
    machine._seconds, machine._cost = 1.0, 1.0 / seconds_per_mac
    return machine


def lasting(*seconds: float) -> tuple[Task, ...]:
    """Tasks that take so long at ``rated`` workers."""
    fixed = cost(Task(0, "", 0))
    return tuple(Task(index, "", round(s * 1e6) - fixed) for index, s in enumerate(seconds))


def given(commands: list[Command]) -> list[tuple[int, list[int]]]:
    """What is submitted: worker, indices."""
    return [(c.worker, [task.index for task in c.tasks]) for c in commands if isinstance(c, Submit)]


def finish(machine: Coordinator, worker: int, now: float, seconds: float) -> list[Command]:
    """Let a worker end the first candidate in its line, which took so long."""
    task = machine._workers[worker].tasks[0]
    commands = machine.step(Started(worker, task.index, task.attempt), now - seconds)
    commands += machine.step(Finished(worker, task.index, completed(seconds=seconds), task.attempt), now)
    return carry_out(machine, commands, now)


def test_convolutions_cost_more_than_their_multiply_adds() -> None:
    """What a network costs is counted in multiply-adds: its own, a network's and each convolution's calls."""
    conv = "conv=channel_factor:3,kernel_size:3,stride:1,padding:0-"
    costs = [cost(Task(0, layers, 1000)) for layers in ("", conv, conv + "dropout=p:0.4-" + conv)]
    assert costs[0] > 1000
    assert costs[1] - costs[0] == costs[2] - costs[1] > 0


def test_at_the_end_the_longest_come_first() -> None:
    """Once all that is left is at hand, so that nobody begins with something long when others are done."""
    machine = rated(2)
    assert given(machine.step(Claimed(lasting(3, 1, 5, 4, 2)), 0.0)) == [(0, [2]), (1, [3])]


def test_before_the_end_candidates_come_in_order() -> None:
    """While more is to come: order is what makes a search's progress, and its leases, compact."""
    machine = rated(2)
    submitted = given(machine.step(Claimed(lasting(3, 1, 5, 4, 2), left_to_draw=True), 0.0))
    assert submitted == [(0, [0]), (1, [1]), (0, [2]), (1, [3])]


def test_one_worker_keeps_the_order_to_the_end() -> None:
    """Nobody else could be idle."""
    machine = rated(1)
    assert given(machine.step(Claimed(lasting(3, 1, 5)), 0.0)) == [(0, [0]), (0, [1])]


def test_batches_shrink_towards_the_end() -> None:
    """So that the last ones end together: a batch is a part of a worker's share of what is left."""
    machine = rated(2)
    sizes = [len(c) for _, c in given(carry_out(machine, machine.step(Claimed(lasting(*[0.3] * 19)), 0.0), 0.0))]
    assert sizes == [4, 3]  # half of a worker's share of 5.7 s, then of 4.5 s: 1.43 s and 1.13 s
    while any(worker.tasks for worker in machine._workers.values()):
        for number in [number for number, worker in machine._workers.items() if worker.tasks]:
            sizes += [len(c) for _, c in given(finish(machine, number, 10.0 + sum(sizes), 0.3))]
    assert sum(sizes) == 19
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == 1


def test_at_the_end_nothing_waits_behind_something_long() -> None:
    """What is queued there cannot go to a worker that is idle sooner; what will be idle soon gets it in time."""
    machine = rated(2)
    assert given(carry_out(machine, machine.step(Claimed(lasting(9, 2, 1)), 0.0), 0.0)) == [(0, [0]), (1, [1])]
    machine.step(Started(0, 0), 0.0)
    machine.step(Started(1, 1), 0.0)
    assert not given(machine.step(Tick(), 1.4))
    assert given(machine.step(Tick(), 1.6)) == [(1, [2])]


def test_at_the_end_nothing_waits_behind_what_takes_longer_than_predicted() -> None:
    """It may hang."""
    machine = rated(2)
    carry_out(machine, machine.step(Claimed(lasting(3, 2.9, 2.8)), 0.0), 0.0)
    machine.step(Started(0, 0), 0.0)
    machine.step(Started(1, 1), 0.0)
    machine.step(Tick(), 4.0)
    assert not given(machine.step(Tick(), 4.2))
    assert given(finish(machine, 1, 4.3, 4.3)) == [(1, [2])]


def test_a_claim_is_not_larger_than_a_transaction_should_be() -> None:
    """Other coordinators wait for it."""
    (command,) = Coordinator(range(10_000), LIMITS).step(Tick(), 0.0)
    assert command == Claim(LARGEST_CLAIM)


class Counted:
    """How much Python executes inside: operations of its virtual machine."""

    def __enter__(self) -> Self:
        self.operations = 0
        self._before = sys.gettrace()
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)

    def _trace(self, frame: FrameType, event: str, _arg: Any) -> Any:
        frame.f_trace_opcodes = True
        self.operations += event == "opcode"
        return self._trace


def operations_of_a_candidate(workers: int, *, left_to_draw: bool, stops: bool) -> int:
    """What it takes to hear of a start and an end, to dispatch the next, and that a second passed."""
    machine = rated(workers)
    carry_out(machine, machine.step(Claimed(lasting(*[2.0] * 4 * workers), left_to_draw), 0.0), 0.0)
    for worker in range(1, workers):
        task = machine._workers[worker].tasks[0]
        machine.step(Started(worker, task.index, task.attempt), 0.0)
    for now in (1.0, 1.01):
        machine.step(Tick(), now)  # looks at all, as it does now and then
    if stops:
        machine.step(StopAsked("why", None), 1.02)
    with Counted() as counted:
        finish(machine, 1, 1.03, 1.03)
        machine.step(Recorded(1, 0.5, 4 * workers, left_to_draw=left_to_draw), 1.04)
        machine.step(Tick(), 1.05)
        machine.step(Tick(), 1.06)
        _ = machine.is_anyone_idle  # as the shell asks, every turn
    return counted.operations


@pytest.mark.parametrize(("left_to_draw", "stops"), [(True, False), (False, False), (False, True)])
def test_an_event_costs_as_much_with_a_thousand_workers(left_to_draw: bool, stops: bool) -> None:
    """In the middle of a search, at its end, and when it is to stop: no event looks at every worker."""
    few, many = (operations_of_a_candidate(n, left_to_draw=left_to_draw, stops=stops) for n in (10, 1_000))
    assert many <= few + 200


def test_knows_who_waits_for_what_is_to_be_recorded_first() -> None:
    """A worker is idle from the decision to the news that it was given its batch; then it has something."""
    machine = Coordinator(range(2), LIMITS)
    machine.step(WorkerReady(0), 0.0)
    assert not machine.is_anyone_idle  # there is nothing for it
    machine.step(Claimed(tasks(1), left_to_draw=True), 0.0)
    assert machine.is_anyone_idle
    machine.step(Submitted(0), 0.0)
    assert not machine.is_anyone_idle
    machine.step(WorkerReady(1), 0.0)
    machine.step(Claimed(tasks(2), left_to_draw=True), 0.0)
    assert machine.is_anyone_idle
    machine.step(WorkerLost(1, None, "gone"), 0.0)
    assert not machine.is_anyone_idle


def test_records_starts_and_outcomes() -> None:
    """What a worker reports is recorded, and the last outcome ends the run."""
    machine = machine_with(tasks(7))
    training = begun(*tasks(7))
    assert machine.step(Started(0, 7), 1.0) == [RecordStart(training)]
    assert list(machine.training) == [training]
    outcome = completed()
    assert machine.step(Finished(0, 7, outcome), 2.0) == [Record(training, outcome), End(None)]


def test_ends_at_once_when_nothing_is_open() -> None:
    """A search whose draws are all rejected needs no worker."""
    machine = Coordinator(range(1), LIMITS)
    assert machine.step(Claimed(()), 0.0) == [End(None)]


def test_nothing_follows_the_end() -> None:
    """After End the machine is silent."""
    machine = Coordinator(range(1), LIMITS)
    machine.step(Claimed(()), 0.0)
    assert machine.step(WorkerReady(0), 1.0) == []


def test_a_first_fault_is_charged_and_the_candidate_tried_again() -> None:
    """What was in training gets a second try; those that waited at the worker come first, uncharged."""
    machine = machine_with(tasks(0, 1))
    machine.step(Started(0, 0), 0.0)
    commands = machine.step(WorkerLost(0, FailureReason.WORKER_DIED, "gone"), 3.0)
    assert commands == [
        RecordAttempt(*tried(*tasks(1)), Interruption.NOT_STARTED, "gone"),
        RecordAttempt(begun(*tasks(0)), FailureReason.WORKER_DIED, "gone"),
    ]
    submitted = only(Submit, machine.step(WorkerReady(0), 4.0))
    assert [[task.index for task in submit.tasks] for submit in submitted] == [[0]]  # type: ignore[attr-defined]


def test_a_second_fault_fails_the_candidate() -> None:
    """Twice at most; the outcome names the last fault."""
    (task,) = tasks(0)
    machine = machine_with((replace(task, charges=1, attempt=1, begun=1),))
    machine.step(Started(0, 0, attempt=2), 0.0)
    commands = machine.step(WorkerLost(0, FailureReason.WORKER_DIED, "gone"), 3.0)
    failed = replace(task, attempt=2, begun=2, charges=2)
    assert commands == [Record(failed, Outcome((), 3.0, FailureReason.WORKER_DIED, "gone")), End(None)]


def test_memory_that_ran_out_in_training_gets_a_second_try() -> None:
    """Alone it may fit."""
    machine = machine_with(tasks(0))
    machine.step(Started(0, 0), 0.0)
    outcome = Outcome((), 1.0, FailureReason.OUT_OF_MEMORY, "no memory")
    attempt, again = machine.step(Finished(0, 0, outcome), 1.0)
    assert attempt == RecordAttempt(begun(*tasks(0)), FailureReason.OUT_OF_MEMORY, "no memory")
    assert isinstance(again, Submit)


def test_a_node_that_is_lost_charges_nobody() -> None:
    """The candidate stays open, and is tried again, as long as something else may have taken the node down."""
    machine = machine_with(tasks(0))
    for attempt in range(1, MOST_LOSSES + 1):
        machine.step(Started(0, 0, attempt), 0.0)
        (ended,) = machine.step(WorkerLost(0, None, "node died"), 3.0)
        assert isinstance(ended, RecordAttempt)
        assert (ended.ending, ended.task.attempt) == (Interruption.WORKER_UNAVAILABLE, attempt)
        carry_out(machine, machine.step(WorkerReady(0), 4.0), 4.0)


def test_a_candidate_that_takes_its_nodes_down_is_found() -> None:
    """After five lost nodes it is tried with nothing beside it; two more, and it has failed."""
    machine = machine_with(tasks(0))
    for loss in range(1, MOST_LOSSES + 3):
        machine.step(Started(0, 0, loss), loss)
        commands = machine.step(WorkerLost(0, None, "node died"), loss + 0.5)
        endings = [command.ending for command in commands if isinstance(command, RecordAttempt)]
        assert endings == (
            [Interruption.WORKER_UNAVAILABLE] if loss <= MOST_LOSSES
            else [FailureReason.WORKER_DIED] if loss == MOST_LOSSES + 1
            else []
        )  # fmt: skip
        carry_out(machine, machine.step(WorkerReady(0), loss + 0.6), loss + 0.6)
    (record,) = only(Record, commands)
    assert isinstance(record, Record)
    assert record.outcome.reason is FailureReason.WORKER_DIED


def test_a_suspect_has_its_worker_for_itself() -> None:
    """Nothing is queued behind a second try, and it is not queued behind others."""
    first, suspect, third = tasks(0, 1, 2)
    machine = machine_with((first, replace(suspect, charges=1), third))
    machine.step(Started(0, 0), 0.0)
    (submit,) = only(Submit, machine.step(Finished(0, 0, completed(seconds=0.01)), 0.1))
    assert isinstance(submit, Submit)
    assert [task.index for task in submit.tasks] == [1]
    machine.step(Started(0, 1), 0.1)
    (submit,) = only(Submit, machine.step(Finished(0, 1, completed(seconds=0.01)), 0.2))
    assert isinstance(submit, Submit)
    assert [task.index for task in submit.tasks] == [2]


def test_a_worker_lost_between_candidates_charges_nobody() -> None:
    """The next in line may have done it, or not: it is tried alone."""
    machine = machine_with(tasks(0, 1))
    ended = machine.step(WorkerLost(0, FailureReason.WORKER_DIED, "gone"), 1.0)
    assert [command.ending for command in ended if isinstance(command, RecordAttempt)] == [Interruption.NOT_STARTED] * 2
    (submit,) = carry_out(machine, only(Submit, machine.step(WorkerReady(0), 2.0)), 2.0)
    assert isinstance(submit, Submit)
    assert [task.index for task in submit.tasks] == [1]
    machine.step(Started(0, 1, attempt=2), 2.0)
    (submit,) = only(Submit, machine.step(Finished(0, 1, completed(), attempt=2), 3.0))
    assert isinstance(submit, Submit)
    assert [(task.index, task.charges) for task in submit.tasks] == [(0, 0)]


def test_a_candidate_that_kills_before_its_start_is_seen_is_found() -> None:
    """Alone at its worker it is to blame, so that it cannot kill workers for ever."""
    machine = machine_with(tasks(0))
    for charged in (False, True, True):
        commands = machine.step(WorkerLost(0, FailureReason.WORKER_DIED, "gone"), 1.0)
        endings = [c.ending for c in commands if isinstance(c, RecordAttempt)]
        assert endings == ([FailureReason.WORKER_DIED] if charged else [Interruption.NOT_STARTED]) or only(
            End, commands
        )
        carry_out(machine, machine.step(WorkerReady(0), 2.0), 2.0)
    assert only(Record, commands)


def test_a_timeout_replaces_the_worker_and_charges_the_candidate() -> None:
    """From its start on the coordinator's clock; the others of the batch go back."""
    machine = machine_with(tasks(0, 1))
    machine.step(Started(0, 0), 10.0)
    wait(machine, 0.0, 10.0)
    assert wait(machine, 10.0, 110.0) == []
    replaced, returned, charged = machine.step(Tick(), 110.1)
    assert replaced == Replace(0)
    assert isinstance(returned, RecordAttempt)
    assert returned.ending is Interruption.NOT_STARTED
    assert isinstance(charged, RecordAttempt)
    assert charged.ending is FailureReason.TIMEOUT
    assert "--trial-timeout 100 s" in charged.detail


def test_what_waits_for_the_database_does_not_time_out() -> None:
    """A batch whose attempts could not be recorded yet is not at the worker."""
    machine = Coordinator(range(1), LIMITS)
    machine.step(WorkerReady(0), 0.0)
    machine.step(Claimed(tasks(0)), 0.0)
    assert wait(machine, 0.0, 500.0) == []
    machine.step(Submitted(0), 500.0)
    assert wait(machine, 500.0, 600.0) == []
    assert only(Replace, wait(machine, 600.0, 601.0))


def test_time_in_which_the_coordinator_stood_still_is_nobodys() -> None:
    """After a SIGSTOP, or a laptop's sleep, a training has the time that it had before."""
    machine = machine_with(tasks(0))
    machine.step(Started(0, 0), 0.0)
    wait(machine, 0.0, 60.0)
    assert machine.step(StoodStill(4940.0), 5000.0) == []
    assert machine.step(Tick(), 5000.0) == []
    assert wait(machine, 5000.0, 5040.0) == []
    assert only(Replace, wait(machine, 5040.0, 5041.0))


def test_a_training_that_hangs_is_seen_however_slow_the_coordinator_is() -> None:
    """A database that takes ten seconds a call is no reason to wait for ever."""
    machine = machine_with(tasks(0))
    machine.step(Started(0, 0), 0.0)
    assert [bool(only(Replace, machine.step(Tick(), 10.0 * turn))) for turn in range(1, 12)] == [False] * 10 + [True]


def test_after_five_lost_coordinators_a_candidate_is_tried_with_nothing_beside_it() -> None:
    """Last, one at a time, so that the one that takes the host down is found."""
    clean, *lost = tasks(0, 1, 2)
    isolated = [replace(task, losses=MOST_LOSSES) for task in lost]
    machine = Coordinator(range(2), LIMITS)
    machine.step(WorkerReady(0), 0.0)
    machine.step(WorkerReady(1), 0.0)
    (submit,) = carry_out(machine, machine.step(Claimed((*isolated, clean)), 0.0), 0.0)
    assert isinstance(submit, Submit)
    assert submit == Submit(0, tried(clean))
    machine.step(Started(0, 0), 0.0)
    for index in (1, 2):
        (submit,) = only(Submit, machine.step(Finished(submit.worker, index - 1, completed(seconds=0.01)), 1.0))
        assert isinstance(submit, Submit)
        assert [task.index for task in submit.tasks] == [index]
        assert not only(Submit, machine.step(Tick(), 1.0))
        machine.step(Submitted(submit.worker), 1.0)
        machine.step(Started(submit.worker, index), 1.0)


def test_a_candidate_that_took_the_host_down_twice_has_failed() -> None:
    """Two coordinators lost while nothing else was in training are charged to it."""
    (task,) = tasks(0)
    machine = Coordinator(range(1), LIMITS)
    record, end = machine.step(Claimed((replace(task, losses=7, charges=2),)), 0.0)
    assert isinstance(record, Record)
    assert record.outcome.reason is FailureReason.WORKER_DIED
    assert "lost with nothing else in training" in str(record.outcome.detail)
    assert end == End(None)


def test_lost_leases_take_their_tasks_along() -> None:
    """What another coordinator has now is not dispatched here, and does not go on at its worker."""
    ours = [replace(task, lease=1) for task in tasks(0, 1)]
    theirs = [replace(task, lease=2) for task in tasks(2, 3)]
    machine = machine_with((theirs[0], ours[0], theirs[1], ours[1]))
    machine.step(Started(0, 2), 0.0)
    assert machine.leases == {1, 2}
    commands = machine.step(LeasesLost(frozenset({2})), 1.0)
    assert machine.leases == {1}
    assert Replace(0) in commands  # it trains what does not count, and may end by it with ours in line
    assert [command.task.index for command in commands if isinstance(command, RecordAttempt)] == [0]
    submit = only(Submit, machine.step(WorkerReady(0), 2.0))[0]
    assert isinstance(submit, Submit)
    assert [(task.index, task.charges, task.alone) for task in submit.tasks] == [(0, 0, False)]


def test_what_another_one_took_over_is_not_blamed_on_what_waits_behind() -> None:
    """A worker that is lost while it trains what is not ours any more: the next in line is no suspect."""
    (theirs, ours) = (replace(task, lease=2 - task.index) for task in tasks(0, 1))
    machine = machine_with((theirs, ours))
    machine.step(Started(0, 0), 0.0)
    machine.step(LeasesLost(frozenset({2})), 1.0)
    assert machine.step(WorkerLost(0, FailureReason.WORKER_DIED, "gone"), 1.1) == []
    assert machine.leases == {1}


def test_does_not_end_while_something_is_open_after_all() -> None:
    """Failed candidates may be opened again, and the search be extended, while its last candidates are in training."""
    for event in (Recorded(0, 0.0, 2, left_to_draw=False), Recorded(0, 0.0, 1, left_to_draw=True)):
        machine = machine_with(tasks(0))
        machine.step(Started(0, 0), 0.0)
        machine.step(event, 10.0)
        assert not only(End, machine.step(Finished(0, 0, completed()), 11.0))
        assert not only(End, machine.step(Tick(), 12.0))
        assert only(End, machine.step(Claimed(()), 13.0))


def test_waits_for_what_others_hold() -> None:
    """With nothing of its own a coordinator asks again now and then: the others may die."""
    machine = Coordinator(range(1), LIMITS)
    assert machine.step(Claimed((), open_elsewhere=True), 0.0) == []
    assert machine.step(Tick(), 1.0) == []
    assert only(Claim, machine.step(Tick(), 2.1))
    assert machine.step(Claimed(()), 2.2) == [End(None)]


def test_a_sparse_space_is_drawn_from_without_a_pause() -> None:
    """Nothing valid came, but there is more to draw."""
    machine = Coordinator(range(1), LIMITS)
    assert only(Claim, machine.step(Claimed((), left_to_draw=True), 0.0))


def test_where_everything_fails_the_run_stops_instead_of_burning_the_search() -> None:
    """Twenty faults in a row are not the candidates' fault; the cause is named."""
    machine = machine_with(tasks(*range(100)))
    failed = Outcome((), 0.01, FailureReason.EXCEPTION, "RuntimeError: no kernel image")
    for _ in range(MOST_FAULTS):
        assert not machine.stopping
        commands = train_next(machine, 0, failed)
    (end,) = only(End, commands)
    assert isinstance(end, End)
    assert end.is_fault
    assert "no kernel image" in str(end.why)


def test_a_completed_candidate_ends_a_series_of_faults() -> None:
    """Failures among successes are the candidates'."""
    machine = machine_with(tasks(*range(100)))
    for index in range(60):
        train_next(machine, 0, replace(completed(seconds=0.01), reason=FailureReason.EXCEPTION if index % 19 else None))
    assert not machine.stopping


def test_a_process_in_which_an_error_stays_is_replaced() -> None:
    """After two exceptions in a row, while its neighbours on the same node succeed; what waits is not blamed."""
    machine = machine_with(tasks(*range(100)), workers=2)
    failed = replace(completed(seconds=0.01), reason=FailureReason.EXCEPTION, detail="CUDA error")
    replaced = []
    for _ in range(4):
        train_next(machine, 0, completed(seconds=0.01))
        commands = train_next(machine, 1, failed)
        replaced.append(Replace(1) in commands)
        assert all(c.ending is Interruption.NOT_STARTED for c in commands if isinstance(c, RecordAttempt))
    assert replaced == [False, True, False, True]


def test_a_stop_that_was_asked_for_is_not_overridden_by_faults() -> None:
    """The run ends as the signal said."""
    machine = machine_with(tasks(*range(100)))
    failed = replace(completed(seconds=0.01), reason=FailureReason.EXCEPTION, detail="CUDA error")
    for _ in range(MOST_FAULTS - 1):
        train_next(machine, 0, failed)
    task = machine._workers[0].tasks[0]
    machine.step(Started(0, task.index, task.attempt), 0.0)
    machine.step(StopAsked("interrupted", 5.0), 0.0)
    commands = machine.step(Finished(0, task.index, failed, task.attempt), 0.0)
    assert only(End, commands) == [End("interrupted")]


def test_a_node_on_which_everything_fails_is_left() -> None:
    """While another one works; its workers start elsewhere."""
    machine = Coordinator(range(2), LIMITS)
    machine.step(WorkerReady(0, "good"), 0.0)
    machine.step(WorkerReady(1, "bad"), 0.0)
    carry_out(machine, machine.step(Claimed(tasks(*range(100))), 0.0), 0.0)
    failed = Outcome((), 0.01, FailureReason.EXCEPTION, "CUDA error")
    train_next(machine, 0, completed(seconds=0.01))
    for _ in range(MOST_FAULTS_OF_A_NODE):
        commands = train_next(machine, 1, failed)
    (avoid,) = only(Avoid, commands)
    assert isinstance(avoid, Avoid)
    assert avoid.node == "bad"
    assert only(Replace, commands) == [Replace(1)]


def test_limits_count_what_other_coordinators_completed() -> None:
    """What the store says when recording counts, over the whole search."""
    machine = Coordinator(range(1), replace(LIMITS, max_completed=10))
    machine.step(Tick(), 0.0)
    assert only(End, machine.step(Recorded(10, 0.5, 0, left_to_draw=False), 1.0)) == [End("--max-completed 10 reached")]


def test_an_idle_worker_does_not_time_out() -> None:
    """Waiting for work is not training."""
    machine = Coordinator(range(1), LIMITS)
    machine.step(WorkerReady(0), 0.0)
    assert not only(Replace, machine.step(Tick(), 10_000.0))


def test_news_of_a_replaced_worker_is_ignored() -> None:
    """What a killed worker had still sent changes nothing: the first outcome stays."""
    machine = machine_with(tasks(0, 1))
    machine.step(Started(0, 0), 0.0)
    wait(machine, 0.0, 200.0)
    assert machine.step(Finished(0, 0, completed()), 200.0) == []
    assert machine.step(Started(0, 1), 200.0) == []


def test_a_stop_finishes_what_is_training() -> None:
    """Idle workers are released at once, a training one after its candidate; what waited is left open."""
    machine = machine_with(tasks(0, 1, 2), workers=2)
    machine.step(Started(0, 0), 0.0)
    assert machine.step(StopAsked("why", 30.0), 1.0) == [Release(1)]
    assert machine.stopping == "why"
    outcome = completed()
    assert machine.step(Finished(0, 0, outcome), 2.0) == [Record(begun(*tasks(0)), outcome), Release(0), End("why")]


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
    ended, *rest = machine.step(WorkerLost(0, FailureReason.WORKER_DIED, "gone"), 2.0)
    assert ended == RecordAttempt(begun(*tasks(0)), Interruption.CANCELLED, "gone")
    assert rest == [Release(0), End("interrupted")]


@pytest.mark.parametrize("charges", [0, 1])
def test_a_process_that_breaks_after_an_outcome_blames_nobody(charges: int) -> None:
    """What waited behind it had not begun: it is neither charged nor suspected."""
    machine = machine_with((tasks(1)[0], replace(tasks(2)[0], charges=charges)))
    for index in (1, 2):
        machine.step(Submitted(0), 0.5)
        if index == 1:
            machine.step(Started(0, 1, 1), 1.0)
            carry_out(machine, machine.step(Finished(0, 1, completed(), 1), 2.0), 2.0)
    commands = machine.step(WorkerLost(0, FailureReason.EXCEPTION, "its GPU is lost"), 3.0)
    assert not only(Record, commands)
    assert [(c.task.index, c.ending) for c in only(RecordAttempt, commands)] == [(2, Interruption.NOT_STARTED)]  # type: ignore[attr-defined]
    again = carry_out(machine, machine.step(WorkerReady(0), 4.0), 4.0)
    (submit,) = only(Submit, again)
    assert [(t.index, t.charges, t.suspected) for t in submit.tasks] == [(2, charges, False)]  # type: ignore[attr-defined]


# ------------------------------------------------------------------ workers that come and go


def test_a_worker_that_comes_later_gets_work() -> None:
    """From then on what is left is shared with it."""
    machine = machine_with(tasks(*range(8)))
    assert 7 in {submit.worker for submit in only(Submit, machine.step(WorkerReady(7), 1.0))}


def test_a_worker_that_went_is_not_waited_for() -> None:
    """Its candidate goes to another, which takes it as a second batch, for nobody else is about to come."""
    machine = Coordinator(range(2), LIMITS)
    machine.step(WorkerReady(0), 0.0)
    carry_out(machine, machine.step(Claimed(tasks(1, 2), left_to_draw=True), 0.0), 0.0)
    assert not only(Submit, machine.step(Tick(), 1.0))
    (submit,) = only(Submit, machine.step(WorkerGone(1), 1.0))
    assert submit == Submit(0, (replace(tasks(2)[0], attempt=1),))
    assert only(Submit, machine.step(WorkerReady(1), 2.0)) == []


def test_with_no_worker_left_candidates_are_given_back_until_one_comes() -> None:
    """Others may have workers. It need not be one that was there before."""
    machine = machine_with((replace(tasks(1)[0], lease=3), replace(tasks(2)[0], lease=4)))
    machine.step(Started(0, 1), 0.0)
    assert only(RecordAttempt, machine.step(WorkerLost(0, None, "its node went"), 1.0))
    assert machine.step(WorkerGone(0), 1.0) == [GiveBack(frozenset({3, 4}))]
    assert machine.leases == set()
    assert machine.step(Tick(), 2.0) == []
    assert only(Claim, machine.step(WorkerReady(5), 3.0))
    again = machine.step(Claimed((replace(tasks(1)[0], lease=5),)), 3.0)
    assert [submit.tasks[0].index for submit in only(Submit, again)] == [1]


def test_what_was_claimed_for_a_worker_that_went_meanwhile_is_given_back() -> None:
    """The answer may come late."""
    machine = Coordinator(range(1), LIMITS)
    assert only(Claim, machine.step(WorkerReady(0), 0.0))
    machine.step(WorkerLost(0, None, "its node went"), 1.0)
    assert machine.step(WorkerGone(0), 1.0) == []
    late = Claimed((replace(tasks(1)[0], lease=2),), left_to_draw=True)
    assert machine.step(late, 2.0) == [GiveBack(frozenset({2}))]


@pytest.mark.parametrize(("left", "still_open"), [(True, 0), (False, 1)])
def test_a_run_without_a_worker_ends_when_others_have_done_all(left: bool, still_open: int) -> None:
    """And not before."""
    machine = Coordinator(range(0), LIMITS)
    assert machine.step(Recorded(5, 0.5, open=still_open, left_to_draw=left), 1.0) == []
    assert machine.step(Recorded(6, 0.5, open=0, left_to_draw=False), 2.0) == [End(None)]


def test_while_a_run_ends_nobody_new_is_taken_in() -> None:
    """And what went is not missed."""
    machine = machine_with(tasks(1), workers=2)
    machine.step(Started(0, 1), 0.0)
    assert only(Release, machine.step(StopAsked("enough", None), 1.0)) == [Release(1)]
    assert machine.step(WorkerReady(1), 1.0) == []
    assert machine.step(WorkerReady(2), 1.0) == []
    assert only(End, machine.step(Finished(0, 1, completed()), 2.0))


def test_nothing_is_claimed_without_a_worker() -> None:
    """On a cluster whose cores another coordinator has, which would wait for what this one holds."""
    machine = Coordinator(range(0), LIMITS)
    assert machine.step(Tick(), 0.0) == []
    assert only(Claim, machine.step(WorkerReady(0), 1.0))
