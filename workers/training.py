"""Train one candidate by the recipe, start to end, and measure it after every epoch.

    python -m workers.training "conv=channel_factor:3,kernel_size:3,stride:1,padding:0-" --dataset digits

The loop reads from top to bottom: the data are tensors that live on the device (no DataLoader), a
batch is an index, and nothing waits for the device before an epoch ends. A result is a function of
(search seed, layer string, recipe), and of the version of the training, which is stored with a search:
the seed of a candidate is a hash of the first two, and every random number comes from a generator made
from it. It is the same, to the last bit, on the same processor or GPU model, thread count and torch
version; elsewhere it agrees within rounding, which grows in networks with batchnorm, and but for dropout's
masks, which are the device type's own. The recipe's epochs do not enter the seed: a longer training begins
with the shorter one's losses.

Test images, where the trainer is given any, are looked at once, after the last epoch; nothing else
depends on them.

Covered: plain SGD, cross-entropy, one device, one process, one candidate at a time.
Not covered: momentum, schedules, augmentation, mixed precision, early stopping, checkpoints.
"""

import hashlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import click
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from search.candidates import FailureReason, Measurement, Outcome, TestResult, clean_error
from search.errors import NetsieveError, Stopped
from search.layer_string import format_architecture, parse
from search.settings import TRAINING_VERSION, Recipe
from search.shapes import Rules, check
from workers.datasets import Dataset, Split, load, split, tensors
from workers.networks import build

VALIDATION_BATCH = 250  # images; bounds the memory of a forward pass, does not change the result's meaning


@dataclass(frozen=True)
class Trainer:
    """All that a worker needs to train any candidate of a search; picklable, so that Ray can ship it."""

    dataset: Dataset  # at least the recipe's images
    rules: Rules
    recipe: Recipe
    search_seed: int
    device: str = "cpu"
    test: Dataset | None = None  # images to measure the final networks on
    version: int = TRAINING_VERSION  # of how a training computes; networks.py says what differs

    def prepare(self) -> "PreparedTrainer":
        """Put the data on the device. Called once in the process that trains."""
        torch.set_num_threads(1)  # many small trainings: one core each, and bit-equal results
        torch.backends.cudnn.allow_tf32 = False  # by default cuDNN rounds the factors of a conv to 10 bits
        torch.backends.cudnn.deterministic = True  # and may add up in any order: no result would come twice
        test = tensors(self.test, self.device) if self.test else None
        return PreparedTrainer(self, split(self.dataset, self.recipe, self.device), test)


@dataclass(frozen=True)
class PreparedTrainer:
    """A trainer whose data are on its device."""

    trainer: Trainer
    data: Split
    test: tuple[Tensor, Tensor] | None  # images (N, C, H, W) and labels (N,)

    def train(self, layers: str) -> Iterator[Outcome | None]:
        """Train one layer string. Yields None after every batch, and its outcome last.

        The pauses let a caller in the same process stop, or look at the clock; a caller elsewhere skips them.
        Raises nothing for a candidate; after its outcome Stopped, if the process can train no other one.
        """
        yield from Training(self, layers).steps()
        if self.trainer.device == "cuda":
            _require_gpu()


@dataclass
class Training:
    """One candidate in training: its network as far as it has come, and what was measured of it."""

    prepared: PreparedTrainer
    layers: str
    network: nn.Sequential | None = None  # once it is built
    measurements: list[Measurement] = field(default_factory=list)  # one an epoch that is finished, all finite

    def steps(self) -> Iterator[Outcome | None]:
        """Train to the end. Yields None after every batch, and the outcome last; never raises."""
        start = time.perf_counter()
        reason, detail, test = None, None, None
        try:
            for measurement in self._epochs():
                if measurement is None:
                    yield None
                elif math.isfinite(measurement.train_loss) and math.isfinite(measurement.val_loss):
                    self.measurements.append(measurement)
                else:
                    reason = FailureReason.NON_FINITE_LOSS
                    detail = f"in epoch {measurement.epoch}"
                    break
            if reason is None:
                test = self._test()
        except Exception as error:  # noqa: BLE001  # a candidate's failure is a value
            reason, detail = _blame(error), clean_error(error)
        if reason is FailureReason.OUT_OF_MEMORY and self.prepared.trainer.device == "cuda":
            self.network = None
            torch.cuda.empty_cache()
        yield Outcome(tuple(self.measurements), time.perf_counter() - start, reason, detail, test)

    def _epochs(self) -> Iterator[Measurement | None]:
        trainer, recipe, data = self.prepared.trainer, self.prepared.trainer.recipe, self.prepared.data
        weights, shuffle, noise = (
            torch.Generator(device).manual_seed(derived_seed(trainer.search_seed, self.layers, purpose))
            for device, purpose in (("cpu", "weights"), ("cpu", "shuffle"), (trainer.device, "dropout"))
        )
        network = self.network = build(parse(self.layers), trainer.rules, weights, noise, trainer.version)
        parameters = list(network.parameters())
        images_used = len(data.train_images) // recipe.batch_size * recipe.batch_size
        for epoch in range(1, recipe.epochs + 1):
            network.train()
            order = torch.randperm(len(data.train_images), generator=shuffle).to(trainer.device)
            loss_sum = torch.zeros((), device=trainer.device)
            for batch in torch.split(order[:images_used], recipe.batch_size):
                logits = network(data.train_images.index_select(0, batch))  # (B, classes)
                loss = cross_entropy(logits, data.train_labels.index_select(0, batch))
                gradients = torch.autograd.grad(loss, parameters)
                with torch.no_grad():  # plain SGD; torch.optim would import torch._dynamo: 1.3 s for every worker
                    for parameter, gradient in zip(parameters, gradients, strict=True):
                        parameter.sub_(gradient, alpha=recipe.learning_rate)
                loss_sum += loss.detach() * len(batch)
                yield None
            val_loss, val_accuracy = evaluate(network, data.val_images, data.val_labels)
            yield Measurement(epoch, loss_sum.item() / images_used, val_loss, val_accuracy)

    def _test(self) -> TestResult | None:
        """The final network on the test images; a loss there that is not finite is none, and no failure."""
        if self.network is None or self.prepared.test is None:
            return None
        images, labels = self.prepared.test
        loss, accuracy = evaluate(self.network, images, labels)
        return TestResult(loss, accuracy, len(labels)) if math.isfinite(loss) else None


@torch.inference_mode()
def evaluate(network: nn.Module, images: Tensor, labels: Tensor) -> tuple[float, float]:
    """Mean cross-entropy and accuracy (0 to 1) over all of ``images``, in eval mode."""
    network.eval()
    loss_sum = torch.zeros((), device=images.device)
    correct = torch.zeros((), device=images.device)
    batches = zip(torch.split(images, VALIDATION_BATCH), torch.split(labels, VALIDATION_BATCH), strict=True)
    for batch, truth in batches:
        logits = network(batch)
        loss_sum += cross_entropy(logits, truth, reduction="sum")
        correct += (logits.argmax(dim=1) == truth).sum()
    return loss_sum.item() / len(labels), correct.item() / len(labels)


def derived_seed(search_seed: int, layers: str, purpose: str) -> int:
    """63 bits of the SHA-256 of a search's seed, a canonical layer string, and what the numbers are for."""
    digest = hashlib.sha256(f"{search_seed}\n{layers}\n{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def _require_gpu() -> None:
    """Raise Stopped if CUDA has an error that stays: every later call fails then, until the process ends."""
    try:
        torch.cuda.synchronize()
    except RuntimeError as error:
        raise Stopped(f"this process has lost its GPU ({clean_error(error)}); netsieve resume goes on") from None


NO_MEMORY = (  # in messages; the first is of the CPU, the others of CUDA where torch's own allocator is not asked
    "DefaultCPUAllocator",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


def _blame(error: Exception) -> FailureReason:
    """Lack of memory has many faces: torch's, Python's, and those that only a message shows."""
    told = isinstance(error, RuntimeError) and any(words in str(error) for words in NO_MEMORY)
    if told or isinstance(error, torch.OutOfMemoryError | MemoryError):
        return FailureReason.OUT_OF_MEMORY
    return FailureReason.EXCEPTION


# ------------------------------------------------------------------ one candidate, by hand


@click.command()
@click.argument("layers", metavar="STRING")
@click.option("--dataset", default="digits", show_default=True, help="mnist, fashion-mnist, kmnist, digits, FILE.npz.")
@click.option("--data-dir", type=click.Path(path_type=Path), default=Path(), help="Where the dataset's files are.")
@click.option("--seed", default=0, show_default=True, help="The search's seed.")
@click.option("--epochs", default=Recipe.epochs, show_default=True)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
def main(layers: str, dataset: str, data_dir: Path, seed: int, epochs: int, device: str) -> None:
    """Train one layer STRING by the default recipe, and print its losses after every epoch."""
    try:
        data = load(dataset, data_dir)
        rules = Rules(data.image_shape, int(data.labels.max()) + 1)
        recipe = Recipe(train_images=min(Recipe.train_images, len(data.images)), epochs=epochs)
        architecture = parse(layers)
    except NetsieveError as error:
        click.echo(f"Error: {error}", err=True)
        raise SystemExit(error.exit_code) from None
    verdict = check(architecture, rules)
    if verdict.reason:
        raise click.ClickException(f"{verdict.reason} at layer {verdict.layer}: {verdict.detail}")
    click.echo(f"{verdict.parameters:,} parameters, {verdict.macs:,} multiply-adds per image")
    trainer = Trainer(data, rules, recipe, seed, device).prepare()
    outcome = list(trainer.train(format_architecture(architecture)))[-1]
    assert outcome is not None
    for m in outcome.measurements:
        click.echo(
            f"epoch {m.epoch:3}  train loss {m.train_loss:.4f}  val loss {m.val_loss:.4f}  "
            f"val accuracy {m.val_accuracy:.4f}"
        )
    if outcome.reason:
        raise click.ClickException(f"{outcome.reason}: {outcome.detail}")
    click.echo(f"{outcome.seconds:.2f} s")


if __name__ == "__main__":
    main()
