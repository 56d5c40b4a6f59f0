"""Training on a GPU: the numbers are fp32's and come twice, and what goes wrong with a GPU is an outcome.

Every test needs a GPU that torch sees, and is skipped without one. What these outcomes look like was
measured on one kind of card; see tests/benchmarks/gpu/README.md.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import astuple
from pathlib import Path
from typing import Any

import pytest
import torch

from search.candidates import FailureReason, Measurement, Outcome, Status
from search.settings import Recipe
from search.shapes import Rules
from workers.datasets import Dataset, load
from workers.model_file import Provenance, write
from workers.training import PreparedTrainer, Trainer, Training, evaluate

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch sees")

ROOT = Path(__file__).parents[2]
CONV = "conv=channel_factor:{},kernel_size:3,stride:1,padding:0-"
MAX, AVG = "maxpool=kernel_size:2,stride:2,padding:0-", "avgpool=kernel_size:4,stride:4,padding:0-"
DROPOUT = "dropout=p:0.4-"
STEADY = f"{CONV.format(4)}batchnorm=eps:0.0001-{MAX}{CONV.format(3)}{AVG}"  # nothing random but its start
EVERYTHING = STEADY.replace(MAX, MAX + DROPOUT)
# Two million channels: the weights are nothing, but the first activations of a batch are 173 GB.
HUGE = CONV.format(2_000_000) + "avgpool=kernel_size:26,stride:26,padding:0-"
SHORT = Recipe(train_images=500, epochs=2)  # 400 for training: 12 full batches and 16 images over


@pytest.fixture(scope="module")
def digits() -> Dataset:
    """Real images that need no download."""
    return load("digits", Path())


@pytest.fixture
def trainer(digits: Dataset) -> Iterator[PreparedTrainer]:
    """On the GPU, with test images; channels may exceed the side."""
    test = Dataset("digits (test)", digits.images[1_000:1_610], digits.labels[1_000:1_610])
    yield Trainer(digits, Rules(channels_within_side=False), SHORT, 0, "cuda", test).prepare()
    torch.cuda.empty_cache()


def trained(trainer: PreparedTrainer, layers: str) -> Outcome:
    """The outcome of training."""
    *_, outcome = trainer.train(layers)
    assert outcome is not None
    return outcome


def in_a_fresh_process(code: str) -> Any:
    """What the last line that a program prints holds, as JSON; nobody cares how a process with a lost GPU exits."""
    done = subprocess.run([sys.executable, "-c", PREPARE + code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


PREPARE = f"""
import json
import sys
from dataclasses import astuple, replace
from pathlib import Path
import torch
from search.settings import Recipe
from search.shapes import Rules
from workers.datasets import load
from workers.training import Trainer
EVERYTHING, STEADY = {EVERYTHING!r}, {STEADY!r}
digits = load("digits", Path())
trainer = Trainer(digits, Rules(), Recipe(train_images=500, epochs=2), 0, "cuda").prepare()
def ending(layers, trainer=trainer):
    *_, outcome = trainer.train(layers)
    return [outcome.reason, outcome.detail, [astuple(m) for m in outcome.measurements]]
"""


# ------------------------------------------------------------------ the numbers


def test_again_is_bit_equal(trainer: PreparedTrainer) -> None:
    """The same seed, string and recipe give the same floats: alone, between others' batches, in another process."""
    alone = trained(trainer, EVERYTHING)
    assert alone.status is Status.COMPLETED
    other = trainer.train(STEADY)
    between: list[Outcome] = []
    for pause in trainer.train(EVERYTHING):
        torch.rand(7, device="cuda")
        next(other, None)
        between += [pause] if pause else []
    assert between[0].measurements == alone.measurements
    _, _, there = in_a_fresh_process("print(json.dumps(ending(EVERYTHING)))")
    assert [Measurement(*numbers) for numbers in there] == list(alone.measurements)


def test_losses_are_the_cpus_but_for_rounding(trainer: PreparedTrainer, digits: Dataset) -> None:
    """Weights and order come from generators of the CPU; without dropout nothing else is random."""
    on_cpu = trained(Trainer(digits, Rules(), SHORT, 0).prepare(), STEADY)
    on_gpu = trained(trainer, STEADY)
    for ours, theirs in zip(on_gpu.measurements, on_cpu.measurements, strict=True):
        assert astuple(ours) == pytest.approx(astuple(theirs), abs=1e-3)


def test_convolutions_are_fp32(trainer: PreparedTrainer) -> None:
    """A conv of 1,024 products is as near to float64's as fp32 allows; with TF32 it is a thousand times farther off."""
    generator = torch.Generator("cuda").manual_seed(0)
    images = torch.randn(32, 64, 14, 14, device="cuda", generator=generator)
    weight = torch.randn(64, 64, 4, 4, device="cuda", generator=generator)
    exact = torch.nn.functional.conv2d(images.double(), weight.double())

    def error() -> float:
        got = torch.nn.functional.conv2d(images, weight)
        return ((got - exact).norm() / exact.norm()).item()

    assert error() < 2e-6
    torch.backends.cudnn.allow_tf32 = True
    try:
        assert error() > 1e-5  # so the line above can fail
    finally:
        torch.backends.cudnn.allow_tf32 = False


def test_dropout_is_the_candidates_own(trainer: PreparedTrainer, digits: Dataset) -> None:
    """Masks come from the candidate's generator on the GPU: another search's seed gives others."""
    first = trained(trainer, DROPOUT + MAX)
    torch.cuda.manual_seed(99)
    assert trained(trainer, DROPOUT + MAX).measurements == first.measurements
    other = Trainer(digits, Rules(), SHORT, 1, "cuda").prepare()
    assert trained(other, DROPOUT + MAX).measurements != first.measurements


def test_weights_from_a_gpu_load_on_a_cpu(trainer: PreparedTrainer, tmp_path: Path) -> None:
    """The module that is written gives the logits that the network gave on the GPU, but for rounding."""
    training = Training(trainer, EVERYTHING)
    *_, outcome = training.steps()
    assert outcome is not None
    assert outcome.test is not None
    assert training.network is not None
    provenance = Provenance("first", 7, EVERYTHING, 0, "digits", SHORT, 0.5, outcome.test)
    write(tmp_path / "out", training.network, Rules(), provenance)
    assert trainer.test is not None
    images, labels = (part.cpu() for part in trainer.test)
    sys.path.insert(0, str(tmp_path / "out"))
    try:
        import model
    finally:
        sys.path.pop(0)
    loss, accuracy = evaluate(model.load(), images, labels)
    assert loss == pytest.approx(outcome.test.loss, abs=1e-4)
    assert accuracy == pytest.approx(outcome.test.accuracy, abs=2 / 610)


# ------------------------------------------------------------------ memory


def test_a_candidate_beyond_the_gpus_memory_fails_alone(trainer: PreparedTrainer) -> None:
    """It is out of memory; what it took is given back, and the next candidate trains as if nothing had been."""
    before = trained(trainer, EVERYTHING)
    torch.cuda.empty_cache()
    held = torch.cuda.memory_allocated()
    outcome = trained(trainer, HUGE)
    print(outcome)
    assert outcome.reason is FailureReason.OUT_OF_MEMORY
    assert torch.cuda.memory_allocated() == held
    after = trained(trainer, EVERYTHING)
    assert after.measurements == before.measurements


def test_a_share_of_the_memory_that_runs_out_is_lack_of_memory(trainer: PreparedTrainer) -> None:
    """Activations of half a gigabyte do not fit what is left; the same candidate trains once there is room."""
    layers = CONV.format(4_000) + "avgpool=kernel_size:26,stride:26,padding:0-"
    held = torch.cuda.memory_reserved()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((held + 2**28) / total)
    try:
        outcome = trained(trainer, layers)
        print(outcome)
        assert outcome.reason is FailureReason.OUT_OF_MEMORY
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert trained(trainer, layers).status is Status.COMPLETED


FULL = """
keep, size = [], 2**34
while size >= 2**LAST:
    try:
        keep.append(torch.empty(size, dtype=torch.uint8, device="cuda"))
    except torch.OutOfMemoryError:
        size //= 2
reason, detail, _ = ending(STEADY)
del keep
torch.cuda.empty_cache()
print(json.dumps([reason, detail, ending(STEADY)[0]]))
"""


@pytest.mark.parametrize("last", [21, 24, 27])
def test_no_room_for_the_libraries_is_lack_of_memory(last: int) -> None:
    """A process that finds the GPU full has no memory, also where cuDNN or cuBLAS is the one to say so."""
    reason, detail, then = in_a_fresh_process(FULL.replace("LAST", str(last)))
    print(last, reason, detail, then)
    assert reason == FailureReason.OUT_OF_MEMORY, detail
    assert then is None


# ------------------------------------------------------------------ errors that stay

STICKY = """
spoiled = replace(trainer.data, train_labels=trainer.data.train_labels + 1_000)
steps = replace(trainer, data=spoiled).train(STEADY)
outcome = next(o for o in steps if o)
endings = [[outcome.reason, outcome.detail]]
try:
    next(steps, None)
    raised = None
except Exception as error:
    raised = [type(error).__name__, str(error)]
outcome = next(o for o in trainer.train(EVERYTHING) if o)
endings += [[outcome.reason, outcome.detail]]
print(json.dumps([endings, raised]), flush=True)
"""


def test_an_error_that_stays_ends_the_process_of_its_candidate() -> None:
    """A failed assertion on the GPU spoils it for the whole process: the candidate fails, and the trainer says so."""
    endings, raised = in_a_fresh_process(STICKY)
    print(endings, raised)
    assert [reason for reason, _ in endings] == [FailureReason.EXCEPTION] * 2
    assert "device-side assert" in endings[-1][1]  # the first text may be that of a library, which met it first
    assert raised is not None
    assert raised[0] == "Stopped"
    assert "this process has lost its GPU" in raised[1]
