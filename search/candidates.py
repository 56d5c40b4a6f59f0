"""What becomes of a candidate: its statuses, the reasons, its measurements and its outcome.

    drawn ── rejected          the checker refused it; terminal
          └─ open ── completed  trained to the last epoch; terminal
                  └─ failed     training ended early, with a reason; terminal

A terminal candidate never changes, but by an explicit ``resume --retry``. An attempt is one dispatch of
an open candidate. What the candidate may be blamed for (``CHARGED``) is charged to it, and with the
second charge it fails; what it may not is an ``Interruption``. Rejections and failures are values, not
exceptions: they are what a search is for.
"""

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """Where a candidate stands."""

    REJECTED = "rejected"  # cannot be built, or breaks a rule of the space; has a RejectionReason
    OPEN = "open"  # valid, and not yet trained to an end
    COMPLETED = "completed"  # trained for every epoch of the recipe
    FAILED = "failed"  # training ended early; has a FailureReason


class RejectionReason(StrEnum):
    """Why the checker refuses an architecture, in the order in which the rules are tried at a layer."""

    CHANNELS_EXCEED_SIDE = "channels_exceed_side"  # a rule of the space, not of PyTorch
    CHANNELS_BELOW_ONE = "channels_below_one"  # a conv's channel factor leaves no channel
    PADDING_EXCEEDS_HALF_KERNEL = "padding_exceeds_half_kernel"  # pools; PyTorch refuses it
    KERNEL_EXCEEDS_INPUT = "kernel_exceeds_input"  # kernel larger than the padded input
    OVER_BUDGET = "over_budget"  # whole network beyond a budget of the space; has no layer


class FailureReason(StrEnum):
    """Why a training ended early."""

    NON_FINITE_LOSS = "non_finite_loss"  # the loss became infinite or not a number
    OUT_OF_MEMORY = "out_of_memory"  # the device or the host had no memory left
    TIMEOUT = "timeout"  # longer in training than --trial-timeout
    WORKER_DIED = "worker_died"  # the worker's process ended while training it
    EXCEPTION = "exception"  # anything else; the detail keeps type and message


CHARGED = frozenset({FailureReason.TIMEOUT, FailureReason.WORKER_DIED, FailureReason.OUT_OF_MEMORY})
UNSEEN_LOSSES = 3  # coordinators lost before an isolated candidate was seen to start that make one charge
MOST_CHARGES = 2  # attempts that a candidate may be blamed for; with the last one it has failed


def charges_of_losses(started: int, unseen: int) -> int:
    """What a candidate is charged with that was in flight alone when its coordinators were lost.

    One each, if it had been seen to start: its host went down in its training. What takes a host down at
    once is not seen to start, but so are many that a kill of the coordinator meets between two records;
    only a series of those counts.
    """
    return started + unseen // UNSEEN_LOSSES


class Interruption(StrEnum):
    """Why an attempt ended through no fault of its candidate, which stays open."""

    NOT_STARTED = "not_started"  # was queued at a worker that was lost, and did not begin
    WORKER_UNAVAILABLE = "worker_unavailable"  # the worker was lost with its node, or cannot be reached
    COORDINATOR_LOST = "coordinator_lost"  # in flight when its coordinator's lease was taken over
    CANCELLED = "cancelled"  # ended by its coordinator, which stopped, left a node, or replaced its worker


AttemptEnding = FailureReason | Interruption


@dataclass(frozen=True)
class Measurement:
    """Losses and accuracy of one candidate after one epoch."""

    epoch: int  # counted from 1
    train_loss: float  # mean cross-entropy over the epoch's training batches
    val_loss: float  # mean cross-entropy over all validation images, in eval mode
    val_accuracy: float  # fraction of validation images classified correctly, 0 to 1


@dataclass(frozen=True)
class TestResult:
    """Loss and accuracy of one candidate on images that it was neither trained nor chosen by."""

    __test__ = False  # not a class of tests, whatever pytest makes of its name

    loss: float  # mean cross-entropy over all test images, in eval mode
    accuracy: float  # fraction of test images classified correctly, 0 to 1
    images: int  # test images


@dataclass(frozen=True)
class Outcome:
    """How a training ended: completed (no reason), or failed with a reason. Finished epochs are kept."""

    measurements: tuple[Measurement, ...]  # one an epoch that was finished, in order
    seconds: float  # wall time in training
    reason: FailureReason | None = None  # None: completed
    detail: str | None = None  # for a failure: what happened, one cleaned line
    test: TestResult | None = None  # of the network after the last epoch, where there are test images

    @property
    def status(self) -> Status:
        """The status that this outcome gives its candidate."""
        return Status.COMPLETED if self.reason is None else Status.FAILED


DETAIL_LIMIT = 500  # characters


def clean_detail(text: str) -> str:
    """``text`` as one storable line: control characters, NULs and lone surrogates out, cut at 500 characters."""
    printable = "".join(c if c.isprintable() else " " for c in text[: 4 * DETAIL_LIMIT])
    line = " ".join(printable.split())
    return line if len(line) <= DETAIL_LIMIT else line[: DETAIL_LIMIT - 3] + "..."


def clean_error(error: BaseException) -> str:
    """An exception as one storable line: its type and message."""
    return clean_detail(f"{type(error).__name__}: {error}")
