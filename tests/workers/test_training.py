"""Training: the recipe against a plain PyTorch loop, results as a function of their seeds, failures as values."""

import json
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

from search.candidates import FailureReason, Measurement, Outcome, Status
from search.errors import Stopped
from search.layer_string import parse
from search.settings import TRAINING_VERSION, Recipe
from search.shapes import Rules
from workers import training
from workers.datasets import Dataset, Split, load, split
from workers.networks import build
from workers.training import Trainer, Training, derived_seed, evaluate, main

ROOT = Path(__file__).parents[2]
DIGITS = load("digits", Path())
CONV = "conv=channel_factor:3,kernel_size:3,stride:1,padding:0-"
POOL = "maxpool=kernel_size:2,stride:2,padding:0-"
EVERYTHING = f"{POOL}{CONV}batchnorm=eps:0.0001-dropout=p:0.4-avgpool=kernel_size:2,stride:2,padding:0-"
SHORT = Recipe(train_images=500, epochs=2)  # 400 for training: 12 full batches and 16 images over


def steps(layers: str, recipe: Recipe = SHORT, seed: int = 0) -> list[Outcome | None]:
    """All that training yields."""
    return list(Trainer(DIGITS, Rules(), recipe, seed).prepare().train(layers))


def trained(layers: str, recipe: Recipe = SHORT, seed: int = 0) -> Outcome:
    """The outcome of training."""
    *pauses, outcome = steps(layers, recipe, seed)
    assert not any(pauses)
    assert outcome is not None
    return outcome


@pytest.fixture(scope="module")
def reference() -> tuple[Measurement, ...]:
    """What EVERYTHING gives with search seed 0."""
    outcome = trained(EVERYTHING)
    assert outcome.status is Status.COMPLETED
    return outcome.measurements


# ------------------------------------------------------------------ a function of seed, string and recipe


def test_again_is_bit_equal(reference: tuple[Measurement, ...]) -> None:
    """The same seed, string and recipe give the same floats."""
    assert trained(EVERYTHING).measurements == reference


def test_other_work_does_not_matter(reference: tuple[Measurement, ...]) -> None:
    """Neither global seeds nor other candidates, trained before or in between, change a result."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(123)
        trainer = Trainer(DIGITS, Rules(), SHORT, 0).prepare()
        interrupted = trainer.train(CONV)
        next(interrupted)
        outcomes = []
        for pause in trainer.train(EVERYTHING):
            torch.rand(7)
            next(interrupted, None)
            outcomes.append(pause)
    assert outcomes[-1] is not None
    assert outcomes[-1].measurements == reference


def test_other_seeds_and_strings_give_other_numbers(reference: tuple[Measurement, ...]) -> None:
    """A search's seed enters every candidate's numbers."""
    assert trained(EVERYTHING, seed=1).measurements[0].train_loss != reference[0].train_loss


def test_a_longer_training_begins_with_the_shorter(reference: tuple[Measurement, ...]) -> None:
    """One and two epochs are the beginnings of three."""
    long = trained(EVERYTHING, replace(SHORT, epochs=3)).measurements
    assert long[:2] == reference
    assert long[:1] == trained(EVERYTHING, replace(SHORT, epochs=1)).measurements
    assert [measurement.epoch for measurement in long] == [1, 2, 3]


def test_a_pickled_trainer_trains_the_same(reference: tuple[Measurement, ...]) -> None:
    """A trainer that Ray ships is the same trainer."""
    shipped = pickle.loads(pickle.dumps(Trainer(DIGITS.first(500), Rules(), SHORT, 0)))
    *_, outcome = shipped.prepare().train(EVERYTHING)
    assert outcome.measurements == reference


WEIGHTS_SEED = 2_114_407_531_177_517_522  # of search seed 0 and CONV


def test_seeds_never_change() -> None:
    """A candidate's seed is part of recorded results: 63 bits of the SHA-256 of seed, string and purpose."""
    assert derived_seed(0, CONV, "weights") == WEIGHTS_SEED
    others = [derived_seed(*what) for what in ((1, CONV, "weights"), (0, POOL, "weights"), (0, CONV, "shuffle"))]
    assert len({WEIGHTS_SEED, *others}) == 4
    assert all(0 <= seed < 2**63 for seed in others)


def in_a_fresh_process(code: str) -> Any:
    """The JSON that a program prints."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def imported_by(code: str) -> set[str]:
    """Which of the packages that training must not need are loaded after ``code``."""
    probe = (
        "import json, sys; print(json.dumps([m for m in ('ray', 'sqlalchemy', 'torch._dynamo') if m in sys.modules]))"
    )
    return set(in_a_fresh_process(f"{code}\n{probe}"))


TRAIN = f"""
import pathlib, torch
from dataclasses import astuple
from search.settings import Recipe
from search.shapes import Rules
from workers.datasets import load
from workers.training import Trainer
torch.rand(3)
trainer = Trainer(load("digits", pathlib.Path()), Rules(), Recipe(train_images=500, epochs=2), 0).prepare()
*_, outcome = trainer.train({EVERYTHING!r})
"""


def test_a_fresh_process_gives_the_same(reference: tuple[Measurement, ...]) -> None:
    """Another process computes the same floats."""
    there = in_a_fresh_process(TRAIN + "import json; print(json.dumps([astuple(m) for m in outcome.measurements]))")
    assert [tuple(measurement) for measurement in there] == [astuple(measurement) for measurement in reference]


def test_training_imports_neither_ray_nor_a_database_nor_a_compiler() -> None:
    """A worker loads what it needs: torch._dynamo alone would cost each over a second."""
    assert imported_by(TRAIN) == set()


def test_the_probe_of_imports_can_fail() -> None:
    """It sees a package that was imported."""
    assert imported_by("import sqlalchemy") == {"sqlalchemy"}


def test_one_thread_a_worker() -> None:
    """Preparing a trainer leaves one thread, so that results do not depend on the cores."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        Trainer(DIGITS, Rules(), SHORT, 0).prepare()
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


# ------------------------------------------------------------------ the recipe


@pytest.mark.parametrize(
    ("images", "batch_size", "batches"), [(500, 32, 12), (500, 400, 1), (500, 201, 1), (500, 200, 2), (5, 1, 4)]
)
def test_the_last_partial_batch_is_dropped(images: int, batch_size: int, batches: int) -> None:
    """An epoch pauses after each full batch, and only there."""
    *pauses, outcome = steps(POOL, Recipe(train_images=images, batch_size=batch_size, epochs=2))
    assert pauses == [None] * (2 * batches)
    assert outcome is not None
    assert outcome.status is Status.COMPLETED


def plain_loop(
    modules: Callable[[], nn.Sequential], layers: str, recipe: Recipe
) -> Iterator[tuple[float, nn.Sequential, Split]]:
    """The recipe as PyTorch's tutorials write it: an epoch's mean loss, the network after it, and the images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(0, layers, "weights"))
        network = modules()
    shuffle = torch.Generator().manual_seed(derived_seed(0, layers, "shuffle"))
    data = split(DIGITS, recipe)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(network.parameters(), lr=recipe.learning_rate)
    for _ in range(recipe.epochs):
        network.train()
        order = torch.randperm(len(data.train_images), generator=shuffle)
        losses = []
        for start in range(0, len(order) - recipe.batch_size + 1, recipe.batch_size):
            batch = order[start : start + recipe.batch_size]
            optimizer.zero_grad()
            loss = criterion(network(data.train_images[batch]), data.train_labels[batch])
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        yield sum(losses) / len(losses), network.eval(), data


def two_convs() -> nn.Sequential:
    """CONV + CONV."""
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 9, 3), nn.ReLU(), nn.Flatten(), nn.Linear(9 * 24**2, 10)
    )


@pytest.mark.parametrize(
    ("layers", "modules"),
    [
        (
            f"{POOL}{CONV}batchnorm=eps:0.0001-avgpool=kernel_size:4,stride:4,padding:0-",
            lambda: nn.Sequential(
                nn.MaxPool2d(2),
                nn.Conv2d(1, 3, 3),
                nn.ReLU(),
                nn.BatchNorm2d(3, eps=0.0001),
                nn.AvgPool2d(4),
                nn.Flatten(),
                nn.Linear(27, 10),
            ),
        ),
        (CONV + CONV, two_convs),
    ],
    ids=["batchnorm", "convs"],
)
@pytest.mark.parametrize("version", range(1, TRAINING_VERSION + 1))
def test_losses_are_those_of_a_plain_loop(layers: str, modules: Callable[[], nn.Sequential], version: int) -> None:
    """From the same weights, in the same order, torch.optim.SGD and nn.CrossEntropyLoss give the same curve."""
    recipe = Recipe(train_images=500, batch_size=48, epochs=2, learning_rate=0.03)
    *_, outcome = Trainer(DIGITS, Rules(), recipe, 0, version=version).prepare().train(layers)
    assert outcome is not None
    plain = plain_loop(modules, layers, recipe)
    for measurement, (train_loss, network, data) in zip(outcome.measurements, plain, strict=True):
        with torch.no_grad():
            logits = network(data.val_images)
        val_loss = nn.CrossEntropyLoss()(logits, data.val_labels).item()
        accuracy = (logits.argmax(dim=1) == data.val_labels).float().mean().item()
        assert astuple(measurement)[1:] == pytest.approx((train_loss, val_loss, accuracy), abs=1e-5)


def test_the_first_version_is_a_plain_loop_to_the_last_bit() -> None:
    """A search of version 1 goes on with the numbers that PyTorch's own layers give; later versions round otherwise."""
    recipe = Recipe(train_images=500, batch_size=48, epochs=2, learning_rate=0.03)
    *_, (_, plain, _) = plain_loop(two_convs, CONV + CONV, recipe)
    for version in (1, 2):
        begun = Training(Trainer(DIGITS, Rules(), recipe, 0, version=version).prepare(), CONV + CONV)
        list(begun.steps())
        assert begun.network is not None
        weights = zip(begun.network.parameters(), plain.parameters(), strict=True)
        assert all(torch.equal(one, other) for one, other in weights) == (version == 1)


def test_evaluation_is_over_all_images_in_eval_mode() -> None:
    """In slices or at once, mean loss and accuracy are the same, without dropout's noise or batchnorm's batches."""
    data = split(DIGITS, Recipe(train_images=1_797))
    images, labels = data.train_images[:610], data.train_labels[:610]  # two full slices and a part
    noise = torch.Generator().manual_seed(1)
    network = build(parse(EVERYTHING), Rules(), torch.Generator().manual_seed(2), noise).train()
    before = [buffer.clone() for buffer in network.buffers()]
    loss, accuracy = evaluate(network, images, labels)
    with torch.no_grad():
        logits = network.eval()(images)
    assert loss == pytest.approx(nn.CrossEntropyLoss()(logits, labels).item(), abs=1e-5)
    assert accuracy == (logits.argmax(dim=1) == labels).sum().item() / 610
    assert all(torch.equal(old, new) for old, new in zip(before, network.buffers(), strict=True))


def test_a_network_learns() -> None:
    """On the digits a convolution and a pooling classify nine of ten after five epochs, and the loss falls."""
    layers = f"conv=channel_factor:4,kernel_size:3,stride:1,padding:0-{POOL}"
    measurements = trained(layers, Recipe(train_images=1_797, epochs=5)).measurements
    assert measurements[-1].val_accuracy > 0.9
    assert measurements[-1].val_loss < measurements[0].val_loss < 2.3
    assert measurements[-1].train_loss < measurements[0].train_loss


# ------------------------------------------------------------------ test images, and the network

TEST = Dataset("digits (test)", DIGITS.images[1_000:1_610], DIGITS.labels[1_000:1_610])  # none of SHORT's
REST = slice(1_000, 1_610)


def test_the_final_network_is_measured_on_all_test_images(reference: tuple[Measurement, ...]) -> None:
    """The losses stay as they are without a test, to the last bit; the result is that of a pass in eval mode."""
    finished = Training(Trainer(DIGITS, Rules(), SHORT, 0, test=TEST).prepare(), EVERYTHING)
    *_, outcome = finished.steps()
    assert outcome is not None
    assert outcome.measurements == reference == tuple(finished.measurements)
    assert outcome.test is not None
    assert finished.network is not None
    with torch.no_grad():
        logits = finished.network.eval()(torch.from_numpy(DIGITS.images[REST]))
    labels = torch.from_numpy(DIGITS.labels[REST])
    assert outcome.test.images == 610
    assert outcome.test.accuracy == (logits.argmax(dim=1) == labels).sum().item() / 610
    assert outcome.test.loss == pytest.approx(nn.CrossEntropyLoss()(logits, labels).item(), abs=1e-5)


def test_test_images_are_scaled_as_the_others_are() -> None:
    """Bytes over 255."""
    as_bytes = Dataset("bytes", (TEST.images * 255).astype(np.uint8), TEST.labels)
    prepared = Trainer(DIGITS, Rules(), SHORT, 0, test=as_bytes).prepare()
    assert prepared.test is not None
    assert prepared.test[0].max() == 1.0


def test_without_test_images_there_is_no_test() -> None:
    """None was asked for, none is made up."""
    assert trained(POOL).test is None


def test_a_failure_is_not_tested() -> None:
    """A network that was not trained to the end has no result."""
    recipe = replace(SHORT, learning_rate=1000.0)
    *_, outcome = Trainer(DIGITS, Rules(), recipe, 0, test=TEST).prepare().train(CONV + "batchnorm=eps:0.0001-")
    assert outcome is not None
    assert (outcome.reason, outcome.test) == (FailureReason.NON_FINITE_LOSS, None)


def test_a_test_loss_that_is_not_finite_fails_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """How a candidate ends does not depend on the test images: there is no result then, and no failure."""
    monkeypatch.setattr(training, "evaluate", FromSecondEpoch(lambda: (float("nan"), 0.5)))
    *_, outcome = Trainer(DIGITS, Rules(), replace(SHORT, epochs=1), 0, test=TEST).prepare().train(POOL)
    assert outcome is not None
    assert (outcome.status, outcome.test) == (Status.COMPLETED, None)


def test_a_training_shows_how_far_it_has_come() -> None:
    """Whoever takes its steps sees the network from the first batch, and an epoch's losses once it is over."""
    begun = Training(Trainer(DIGITS, Rules(), SHORT, 0).prepare(), POOL)
    assert begun.network is None
    epochs = [len(begun.measurements) for _ in begun.steps()]
    assert epochs == [0] * 12 + [1] * 12 + [2]
    assert isinstance(begun.network, nn.Sequential)


# ------------------------------------------------------------------ failures are values


def test_a_loss_that_explodes_is_a_failure() -> None:
    """A learning rate of 1,000 ends in epoch 1, without a measurement."""
    outcome = trained(CONV + "batchnorm=eps:0.0001-", replace(SHORT, learning_rate=1000.0))
    assert (outcome.status, outcome.reason) == (Status.FAILED, FailureReason.NON_FINITE_LOSS)
    assert (outcome.measurements, outcome.detail) == ((), "in epoch 1")


class FromSecondEpoch:
    """Stands for ``evaluate``: something else happens in the second epoch."""

    def __init__(self, instead: Callable[[], tuple[float, float]]) -> None:
        self.instead = instead
        self.epoch = 0

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor) -> tuple[float, float]:
        self.epoch += 1
        return evaluate(network, images, labels) if self.epoch == 1 else self.instead()


def out_of_memory() -> tuple[float, float]:
    """Python has no memory left."""
    raise MemoryError


@pytest.mark.parametrize(
    ("instead", "reason", "detail"),
    [
        (lambda: (float("nan"), 0.5), FailureReason.NON_FINITE_LOSS, "in epoch 2"),
        (lambda: (float("inf"), 0.5), FailureReason.NON_FINITE_LOSS, "in epoch 2"),
        (lambda: (1 / 0, 0.5), FailureReason.EXCEPTION, "ZeroDivisionError: division by zero"),
        (out_of_memory, FailureReason.OUT_OF_MEMORY, "MemoryError:"),
    ],
    ids=["nan", "inf", "exception", "memory"],
)
def test_a_failure_keeps_its_finished_epochs(
    monkeypatch: pytest.MonkeyPatch,
    reference: tuple[Measurement, ...],
    instead: Callable[[], tuple[float, float]],
    reason: FailureReason,
    detail: str,
) -> None:
    """What was measured before the failure is in the outcome, the failing epoch is not, and no later one is begun."""
    monkeypatch.setattr(training, "evaluate", FromSecondEpoch(instead))
    *pauses, outcome = steps(EVERYTHING, replace(SHORT, epochs=5))
    assert len(pauses) == 2 * 12
    assert outcome is not None
    assert outcome.measurements == reference[:1]
    assert (outcome.reason, outcome.detail) == (reason, detail)
    assert outcome.seconds > 0


def raising(error: Exception) -> Callable[..., nn.Sequential]:
    """Stands for ``build``."""

    def fail(*_: Any) -> nn.Sequential:
        raise error

    return fail


FULL_GPU = "CUDA error: out of memory Search for `cudaErrorMemoryAllocation' in https://docs.nvidia.com"
NO_HANDLE = "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"
ASSERTED = "CUDA error: device-side assert triggered"
ALLOCATOR = "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"


@pytest.mark.parametrize(
    ("error", "reason", "detail"),
    [
        (ValueError("no such thing"), FailureReason.EXCEPTION, "ValueError: no such thing"),
        (KeyError("x"), FailureReason.EXCEPTION, "KeyError: 'x'"),
        (OSError("two\nlines,\ttab"), FailureReason.EXCEPTION, "OSError: two lines, tab"),
        (ValueError("a\x00b\x1b[31m\ud800c"), FailureReason.EXCEPTION, "ValueError: a b [31m c"),
        (ValueError("x" * 10_000), FailureReason.EXCEPTION, "ValueError: " + "x" * 485 + "..."),
        (RuntimeError(""), FailureReason.EXCEPTION, "RuntimeError:"),
        (MemoryError(), FailureReason.OUT_OF_MEMORY, "MemoryError:"),
        (RuntimeError(ALLOCATOR), FailureReason.OUT_OF_MEMORY, f"RuntimeError: {ALLOCATOR}"),
        (torch.OutOfMemoryError("CUDA"), FailureReason.OUT_OF_MEMORY, "OutOfMemoryError: CUDA"),
        (RuntimeError(FULL_GPU), FailureReason.OUT_OF_MEMORY, f"RuntimeError: {FULL_GPU}"),
        (RuntimeError(NO_HANDLE), FailureReason.OUT_OF_MEMORY, f"RuntimeError: {NO_HANDLE}"),
        (RuntimeError(ASSERTED), FailureReason.EXCEPTION, f"RuntimeError: {ASSERTED}"),
    ],
    ids=[
        "message",
        "key",
        "lines",
        "unprintable",
        "long",
        "no message",
        "python",
        "allocator",
        "cuda",
        "driver",
        "library",
        "assertion",
    ],
)
def test_an_exception_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, error: Exception, reason: FailureReason, detail: str
) -> None:
    """Type and message stay, as one printable line of at most 500 characters; lack of memory has its own reason."""
    monkeypatch.setattr(training, "build", raising(error))
    outcome = trained(CONV)
    assert (outcome.reason, outcome.detail, outcome.measurements) == (reason, detail, ())
    assert outcome.detail is not None
    assert len(outcome.detail) <= 500


def test_an_allocation_that_fails_is_lack_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error of torch's own allocator on the CPU is recognised."""
    monkeypatch.setattr(training, "build", lambda *_: torch.empty(2**50))
    outcome = trained(CONV)
    assert outcome.reason is FailureReason.OUT_OF_MEMORY


@pytest.mark.parametrize(
    ("layers", "detail"),
    [
        ("conv", "LayerStringError: malformed layer string: at position 4"),
        ("maxpool=kernel_size:99,stride:1,padding:0-", "ValueError: kernel_exceeds_input at layer 0"),
    ],
)
def test_a_string_that_cannot_be_built_is_a_failure(layers: str, detail: str) -> None:
    """A worker does not fall over what should not have reached it."""
    outcome = trained(layers)
    assert outcome.reason is FailureReason.EXCEPTION
    assert (outcome.detail or "").startswith(detail)


def test_a_worker_goes_on_after_a_failure(monkeypatch: pytest.MonkeyPatch, reference: tuple[Measurement, ...]) -> None:
    """The next candidate of the same trainer is trained as if nothing had been."""
    trainer = Trainer(DIGITS, Rules(), SHORT, 0).prepare()
    with monkeypatch.context() as patch:
        patch.setattr(training, "build", raising(ValueError()))
        list(trainer.train(EVERYTHING))
    *_, outcome = trainer.train(EVERYTHING)
    assert outcome is not None
    assert outcome.measurements == reference


def test_a_process_that_lost_its_gpu_trains_no_other_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the outcome of the candidate, which tells what happened, the trainer says that the process is of no use."""
    prepared = Trainer(DIGITS, Rules(), SHORT, 0).prepare()
    prepared = replace(prepared, trainer=replace(prepared.trainer, device="cuda"))
    monkeypatch.setattr(training, "build", raising(RuntimeError(ASSERTED)))
    monkeypatch.setattr(torch, "Generator", lambda _device: torch.default_generator)
    monkeypatch.setattr(torch.cuda, "synchronize", raising(RuntimeError(ASSERTED)))
    with torch.random.fork_rng(devices=[]):
        outcomes = prepared.train(CONV)
        outcome = next(outcomes)
    assert outcome is not None
    assert (outcome.reason, outcome.detail) == (FailureReason.EXCEPTION, f"RuntimeError: {ASSERTED}")
    with pytest.raises(Stopped, match=r"lost its GPU \(RuntimeError: CUDA error: device-side assert triggered\)"):
        next(outcomes)


def test_numbers_on_a_gpu_are_fp32_and_come_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Preparing a trainer takes back what torch allows cuDNN: shorter factors, and sums in any order."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    Trainer(DIGITS, Rules(), SHORT, 0).prepare()
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic) == (False, True)


def test_interrupts_are_not_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends the training, not the candidate."""
    monkeypatch.setattr(training, "build", raising(KeyboardInterrupt()))  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        trained(CONV)


# ------------------------------------------------------------------ by hand


def test_the_module_trains_one_string() -> None:
    """``python -m workers.training`` prints the costs, a line an epoch, and the time."""
    command = [sys.executable, "-m", "workers.training", CONV + POOL[:-1], "--epochs", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    costs, epoch, seconds = done.stdout.splitlines()
    assert costs == "5,110 parameters, 23,322 multiply-adds per image"
    _, number, *words = epoch.split()
    assert number == "1"
    assert " ".join(word for word in words if word.isalpha()) == "train loss val loss val accuracy"
    assert seconds.endswith(" s")


@pytest.mark.parametrize(
    ("arguments", "exit_code", "message"),
    [
        (["avgpool=kernel_size:99,stride:1,padding:0-"], 1, "kernel_exceeds_input at layer 0: a 99x99 kernel"),
        ([CONV, "--epochs", "0"], 2, "--epochs 0: must be from 1"),
        ([CONV, "--dataset", "mnits"], 2, "--dataset 'mnits': must be one of"),
        (["conv=channel_factor:x-"], 2, "malformed layer string: at position 20"),
    ],
    ids=["rejected", "epochs", "dataset", "malformed"],
)
def test_by_hand_errors_are_one_line(arguments: list[str], exit_code: int, message: str) -> None:
    """A rejected string exits with 1, unusable input with 2; the error is one line, and nothing is trained."""
    result = CliRunner().invoke(main, arguments)
    assert result.stdout == ""
    assert result.stderr.startswith(f"Error: {message}")
    assert result.stderr.count("\n") == 1
    assert result.exit_code == exit_code


def test_by_hand_a_failure_is_an_error_after_its_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A training that fails prints what was measured, then the reason, and exits with 1."""
    monkeypatch.setattr(training, "evaluate", FromSecondEpoch(lambda: (float("nan"), 0.5)))
    monkeypatch.setattr(training, "load", lambda *_: DIGITS.first(100))
    result = CliRunner().invoke(main, [POOL, "--epochs", "3"])
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["1,970", "epoch"]
    assert result.stderr == "Error: non_finite_loss: in epoch 2\n"
    assert result.exit_code == 1
