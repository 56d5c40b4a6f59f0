"""netsieve retrain: train one candidate of a search again, in this process, and say whether it agrees.

A result is a function of (search seed, layer string, recipe), to the last bit on the same processor
model and torch version. This command puts that to the test, measures the network on test images, and
can keep it. The database is only read. Not covered: GPUs that this machine lacks, several candidates.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from search.candidates import FailureReason, Measurement, Outcome, Status
from search.cli.output import Record, as_record, cell, columns, print_one, tell
from search.cli.parameters import (
    INDEX,
    SEED,
    AllOrCount,
    data_dir_option,
    database_option,
    default_data_dir,
    name_argument,
)
from search.cli.results import find_candidate, reading
from search.errors import InvalidInput, NetsieveError, SettingsError
from search.layer_string import parse
from search.settings import LARGEST_INTEGER, Recipe, SearchSettings, require_trainable
from search.shapes import check

if TYPE_CHECKING:
    from torch import nn

    from storage.queries import CandidateDetails
    from workers.datasets import Dataset

# Of losses and accuracies. Rounding alone moves them further in many networks: with ATen, oneDNN and MKL held to
# AVX2 on a processor with AVX-512 (torch 2.13.0, MNIST, 10 epochs, one training each of 7 candidates), 3 stayed
# below it, and 4 reached 0.08 to 0.18.
TOLERANCE = 0.01


class Agreement(StrEnum):
    """Whether a candidate that was trained again measures what it did."""

    BIT_EQUAL = "bit_equal"  # every loss and accuracy of the common epochs, to the last bit
    WITHIN_TOLERANCE = "within_tolerance"  # none differs by more than TOLERANCE
    DIFFERENT = "different"  # one does, or only one of the two trainings came to its end
    NOT_COMPARED = "not_compared"  # another recipe or seed was asked for, or there is no common epoch


@dataclass(frozen=True)
class Difference:
    """A number of an epoch, then and now."""

    epoch: int  # counted from 1
    what: str  # a field of Measurement
    then: float
    now: float

    @property
    def size(self) -> float:
        """How far apart the two are."""
        return abs(self.now - self.then)

    def __str__(self) -> str:
        what = self.what.replace("_", " ")
        return f"{self.size:.2g}, {what} of epoch {self.epoch}: {self.then!r} then, {self.now!r} now"


@dataclass(frozen=True)
class Request:
    """A candidate to train again, and how."""

    search: str  # its name
    stored: "CandidateDetails"
    settings: SearchSettings  # those of the search, but for what was asked to be otherwise
    changed: tuple[str, ...]  # what was, for people; more or fewer epochs are no change of what an epoch gives
    dataset: "Dataset"
    test: "Dataset | None"


@click.command()
@name_argument()
@click.argument("index", type=INDEX)
@database_option()
@data_dir_option()
@click.option("--dataset", metavar="FILE.npz", help="Where a file that the search was trained on is now.")
@click.option(
    "--train-images",
    type=AllOrCount(),
    metavar="N|all",
    help="Other than the search's: the first so many training images, a fifth of them for validation; or all.",
)
@click.option("--epochs", type=int, help="Other than the search's; those that both have must agree as well.")
@click.option("--batch-size", type=int, help="Other than the search's.")
@click.option("--learning-rate", type=float, help="Other than the search's.")
@click.option("--seed", type=SEED, help="Other than the search's.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="A new folder for the trained network: weights.safetensors, and model.py, which loads them without netsieve.",
)
@click.option(
    "--format",
    "style",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="How to print the answer; table is for people only.",
)
@click.pass_context
def retrain(
    ctx: click.Context, /, name: str, index: int, url: str, data_dir: Path | None, dataset: str | None,
    out: Path | None, style: str, **changes: Any,
) -> None:  # fmt: skip
    """Train the candidate of the search NAME that was drawn at INDEX again, and compare.

    It is trained in this process, without Ray, as it was in the search unless options say otherwise;
    the database is only read. Exit code 1 if the losses differ, or training fails.
    """
    with reading(url) as connection:
        from storage import queries

        search = queries.require(connection, name)
        stored = find_candidate(connection, search, index)
    _require_trained(stored, search.settings, index)
    require_trainable(name, search.settings)
    if out is not None:
        from workers.model_file import require_free

        require_free(out)
    request = _request(name, stored, search.settings, dataset, data_dir or default_data_dir(), changes)
    if stored.candidate.index != index:
        tell(f"index {index} drew the architecture of index {stored.candidate.index} again")
    outcome, network = _train(request)
    ctx.exit(_answer(request, outcome, network, out, style))


# ------------------------------------------------------------------ what to train


def _require_trained(stored: "CandidateDetails", settings: SearchSettings, index: int) -> None:
    """Raise InvalidInput for a candidate that the search has not trained."""
    candidate = stored.candidate
    if candidate.status is Status.REJECTED:
        verdict = check(parse(candidate.layers), settings.space.rules)
        at = "" if candidate.layer is None else f" at layer {candidate.layer}"
        raise InvalidInput(
            f"INDEX {index}: was rejected, {candidate.reason}{at} ({verdict.detail}), so there is nothing to train; "
            "netsieve top lists what is trained"
        )
    if candidate.status is Status.OPEN:
        raise InvalidInput(f"INDEX {index}: is not trained yet; go on with the search first (netsieve resume)")


def _request(
    name: str,
    stored: "CandidateDetails",
    settings: SearchSettings,
    source: str | None,
    data_dir: Path,
    changes: dict[str, Any],
) -> Request:
    """The images and the settings to train with. Raises DataError, SettingsError."""
    given = {key: value for key, value in changes.items() if value is not None}
    numbers = {key: LARGEST_INTEGER if value == AllOrCount.ALL else value for key, value in given.items()}
    numbers.pop("seed", None)
    replace(settings.recipe, **numbers)  # out of range: said before torch and the images are loaded
    import torch

    from workers.datasets import load, load_test, require_fit, require_stored

    if source is None:
        require_stored(settings.dataset, name)
    dataset = load(source or settings.dataset, data_dir)
    test = load_test(source or settings.dataset, data_dir)
    for images in (dataset, test):
        if images is not None:
            require_fit(images, settings.space)
    require_same_images(dataset, name, settings)
    if given.get("train_images") == AllOrCount.ALL:
        given["train_images"] = len(dataset.images)
    seed = given.pop("seed", settings.seed)
    device = settings.device if settings.device == "cpu" or torch.cuda.is_available() else "cpu"
    used = replace(settings, recipe=replace(settings.recipe, **given), seed=seed, device=device)
    changed = _changes(settings, used)
    return Request(name, stored, used, changed, dataset.first(used.recipe.train_images), test)


def require_same_images(dataset: "Dataset", name: str, settings: SearchSettings) -> None:
    """Raise SettingsError unless the search was trained on the first of these images."""
    found = dataset.first(settings.recipe.train_images).sha256()
    if found != settings.dataset_sha256:
        raise SettingsError(
            f"dataset {dataset.name}: the first {settings.recipe.train_images} images and labels are not those that "
            f"search {name} was trained on (SHA-256 {found[:12]}, the search's is {settings.dataset_sha256[:12]}); "
            "put the old files there, or name others with --data-dir or --dataset"
        )


def _changes(stored: SearchSettings, used: SearchSettings) -> tuple[str, ...]:
    """What makes the epochs themselves other ones: ``batch size 64 (the search's: 32)``."""
    names = [field.name for field in fields(Recipe) if field.name != "epochs"]
    pairs = [(name, getattr(stored.recipe, name), getattr(used.recipe, name)) for name in names]
    pairs += [(name, getattr(stored, name), getattr(used, name)) for name in ("seed", "device")]
    return tuple(f"{name.replace('_', ' ')} {now} (the search's: {then})" for name, then, now in pairs if now != then)


# ------------------------------------------------------------------ training


def _train(request: Request) -> "tuple[Outcome, nn.Module | None]":
    """Train to the end, with a line an epoch on stderr; the outcome, and the network."""
    from workers.training import Trainer, Training

    settings, layers = request.settings, request.stored.candidate.layers
    prepared = Trainer(
        request.dataset, settings.space.rules, settings.recipe, settings.seed, settings.device, request.test,
        settings.training_version,
    ).prepare()  # fmt: skip
    training = Training(prepared, layers)
    told = 0
    for outcome in training.steps():
        for measurement in training.measurements[told:]:
            told = measurement.epoch
            tell(_progress(measurement, settings.recipe.epochs))
        if outcome is not None:
            return outcome, training.network
    raise AssertionError("a training ends with its outcome")


def _progress(m: Measurement, epochs: int) -> str:
    return (
        f"epoch {m.epoch:{len(str(epochs))}} of {epochs}  train loss {m.train_loss:.4f}  "
        f"val loss {m.val_loss:.4f}  val accuracy {m.val_accuracy:.4f}"
    )


# ------------------------------------------------------------------ comparing


def largest_difference(then: Sequence[Sequence[float]], now: Sequence[Measurement]) -> Difference | None:
    """Of all numbers of the common epochs; None without a common epoch. ``then`` has a Measurement's numbers."""
    names = [field.name for field in fields(Measurement)][1:]
    differences = [
        Difference(measurement.epoch, name, before, getattr(measurement, name))
        for numbers, measurement in zip(then, now, strict=False)
        for name, before in zip(names, numbers, strict=True)
    ]
    return max(differences, key=lambda difference: difference.size, default=None)


def agreement(request: Request, outcome: Outcome, largest: Difference | None) -> Agreement:
    """Whether the training agrees with the stored one, as far as both have come."""
    if request.changed:
        return Agreement.NOT_COMPARED
    if not _diverge_alike(request.stored, outcome):
        return Agreement.DIFFERENT
    if largest is None:
        return Agreement.NOT_COMPARED
    if largest.size == 0:
        return Agreement.BIT_EQUAL
    return Agreement.WITHIN_TOLERANCE if largest.size <= TOLERANCE else Agreement.DIFFERENT


def _diverge_alike(stored: "CandidateDetails", outcome: Outcome) -> bool:
    """Whether no loss is finite in the one training where it is not in the other.

    Other failures are the world's doing and say nothing here.
    """
    then = stored.candidate.reason == FailureReason.NON_FINITE_LOSS
    now = outcome.reason is FailureReason.NON_FINITE_LOSS
    epochs_then, epochs_now = len(stored.curve), len(outcome.measurements)
    if then and now:
        return epochs_then == epochs_now
    return not (then and epochs_now > epochs_then) and not (now and epochs_then > epochs_now)


# ------------------------------------------------------------------ the answer


def _answer(request: Request, outcome: Outcome, network: "nn.Module | None", out: Path | None, style: str) -> int:
    """Write the network, print the answer; the exit code. Raises NetsieveError if the network cannot be written."""
    largest = None if request.changed else largest_difference(request.stored.curve, outcome.measurements)
    agrees = agreement(request, outcome, largest)
    error = None
    try:
        written = _write(request, outcome, network, out)
    except NetsieveError as caught:  # the training is done: its answer comes first
        written, error = None, caught
    record = {
        "index": request.stored.candidate.index,
        "layers": request.stored.candidate.layers,
        "settings": _settings_used(request),
        "agreement": agrees,
        "largest_difference": largest and largest.size,
        "reason": outcome.reason,
        "detail": outcome.detail,
        "measurements": [as_record(measurement) for measurement in outcome.measurements],
        "test": outcome.test and as_record(outcome.test),
        "seconds": outcome.seconds,
        "out": written and str(written),
    }
    lines = [*_table(request, outcome, agrees, largest), *([f"written to {written}"] if written else [])]
    print_one(style, record, lambda: "\n".join(lines))
    if error is not None:
        raise error
    return 1 if outcome.reason or agrees is Agreement.DIFFERENT else 0


def _write(request: Request, outcome: Outcome, network: "nn.Module | None", out: Path | None) -> Path | None:
    """Where the network was written to; None if that was not asked for, or it was not trained to the end."""
    if out is None or network is None or outcome.reason:
        return None
    from workers.model_file import Provenance, write

    settings, candidate = request.settings, request.stored.candidate
    accuracy = outcome.measurements[-1].val_accuracy
    provenance = Provenance(
        request.search, candidate.index, candidate.layers, settings.seed, Path(settings.dataset).name, settings.recipe,
        accuracy, outcome.test,
    )  # fmt: skip
    write(out, network, settings.space.rules, provenance)
    return out


def _settings_used(request: Request) -> Record:
    import torch

    settings = request.settings
    used = {"seed": settings.seed, "dataset": settings.dataset, **asdict(settings.recipe), "device": settings.device}
    versions = {"training_version": settings.training_version, "torch": torch.__version__}
    return {"search": request.search, **used, **versions}


def _table(request: Request, outcome: Outcome, agrees: Agreement, largest: Difference | None) -> list[str]:
    candidate = request.stored.candidate
    lines = [f"candidate {candidate.index} of search {request.search}, trained again: {candidate.layers}", ""]
    if outcome.measurements:
        names = [field.name for field in fields(Measurement)]
        rows = [[getattr(measurement, name) for name in names] for measurement in outcome.measurements]
        lines += [*columns(names, rows), ""]
    if candidate.status is Status.FAILED:
        now = "it fails again" if outcome.reason else "it is trained to the end now"
        lines.append(f"it failed in the search, {candidate.reason}: {request.stored.detail or '-'}; {now}")
    if outcome.reason:
        lines.append(f"failed, {outcome.reason}: {outcome.detail}; there is no trained network")
    lines.append(_verdict(request, outcome, agrees, largest))
    if outcome.reason is None:
        lines.append(_tested(request, outcome))
    return [*lines, f"{outcome.seconds:.1f} s in training"]


def _verdict(request: Request, outcome: Outcome, agrees: Agreement, largest: Difference | None) -> str:
    """The agreement, for people."""
    then, now = len(request.stored.curve), len(outcome.measurements)
    first = "epoch 1" if min(then, now) == 1 else f"epochs 1 to {min(then, now)}"
    common = first if then == now else f"{first}, those that both have ({then} then, {now} now),"
    if request.changed:
        return f"not compared with the search's losses, for this is another training: {', '.join(request.changed)}"
    if agrees is Agreement.NOT_COMPARED:
        return "not compared: the two trainings have no epoch in common"
    if agrees is Agreement.BIT_EQUAL:
        return f"bit-equal: losses and accuracies of {common} are the search's, to the last bit"
    if agrees is Agreement.WITHIN_TOLERANCE:
        return f"agrees within {TOLERANCE}; the largest difference of {common} is {largest}"
    why = "another processor model or torch version rounds otherwise, and training amplifies it"
    if largest is None or largest.size <= TOLERANCE:
        return f"differs: one training came to a loss that is not finite ({then} epochs then, {now} now); {why}"
    return f"differs by more than {TOLERANCE}; the largest difference of {common} is {largest}; {why}"


def _tested(request: Request, outcome: Outcome) -> str:
    test = outcome.test
    if test is not None:
        return (
            f"test accuracy {cell(test.accuracy)}, loss {cell(test.loss)}, on {cell(test.images)} images that no "
            "network was trained or chosen by"
        )
    if request.test is not None:
        return "no test accuracy: the loss on the test images is not finite"
    if request.settings.dataset == "digits":
        return "no test accuracy: all digits are for training and validation"
    return f"no test accuracy: {request.settings.dataset} has no test_images and test_labels"
