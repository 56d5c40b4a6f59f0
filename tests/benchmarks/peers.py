"""What people use instead of netsieve, each as its users write it: the contestants of ``end_to_end.py``.

    python -m tests.benchmarks.peers CONTESTANT --strings FILE --out FILE [--epochs 1] [--data-dir FOLDER]

trains each layer string of a file once and writes ``[[string, validation accuracy], ...]`` as JSON.
The networks are made of PyTorch's own modules, as a peer's user writes them: netsieve's of version 1
(``workers.networks.build``), where netsieve itself trains by version 2 with its faster convolutions. The
loops and all around them are not netsieve's. All but the notebook train by one and the same lean loop; its
DataLoader, which the peers' own tutorials use as well, would slow all of them down. lean-pool-fast is there to
separate the two: it differs from lean-pool in the arithmetic alone, and from netsieve in the orchestration.

    notebook            torchvision's dataset with ToTensor, DataLoader, loss.item() every step; one process
    lean                tensors in memory, indexed by batch; one process, one thread
    lean-pool           the same in multiprocessing.Pool: what a person can do without any framework
    lean-pool-fast      the same with netsieve's networks of version 2
    ray-tune            tune.Tuner with a function trainable and Tune's defaults: a process a trial
    ray-tune-tuned      what Tune's documentation has for many short trials
    optuna-sqlite       two processes on one study in SQLite, in WAL mode
    optuna-journal      the same in JournalStorage, which Optuna's FAQ recommends on one machine

Ray Tune 2.60, tuned. ``reuse_actors`` is off by default: every trial is a new process, which imports
torch again. Function trainables can be reused too (``FunctionTrainable.reset_config``), at a thread and
one more result a trial; a class with ``reset_config`` is what the documentation shows. A class saves a
checkpoint at its end by default, and one that cannot has failed there and is not reused, hence
``checkpoint_at_end=False``. Loggers are off (TUNE_DISABLE_AUTO_CALLBACK_LOGGERS), the state of the
experiment is written every ten minutes instead of as often as 5 % of the time allow
(TUNE_GLOBAL_CHECKPOINT_S), there is no dashboard, and the progress report is silent. How many trials wait
for a placement group (TUNE_MAX_PENDING_TRIALS_PG, 200 by default) is left alone: 2 and 4 are no faster, and
with 1 a second actor is never started. Reports come once an epoch, as netsieve's measurements do.

Optuna 5.0. Its FAQ advises against SQLite for several processes: RDBStorage may hand a trial that was
enqueued to two of them there. So string i is trained by the trial with number i, of which there is one.
"""

import argparse
import json
import os
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from search.settings import TRAINING_VERSION
from workers.executors import cores

PLAIN = 1  # the version of the training whose convolutions are PyTorch's
BATCH = 32
LEARNING_RATE = 0.05
Accuracies = list[tuple[str, float]]  # layer string and accuracy after the last epoch, 0 to 1


@dataclass(frozen=True)
class Job:
    """The same for every contestant."""

    strings: list[str]
    epochs: int
    data_dir: Path  # MNIST's; digits are used where it is not
    processes: int  # of those that use several: a core each


# ------------------------------------------------------------------ loops


@dataclass(frozen=True)
class Images:
    """Tensors in memory: float32 images (N, 1, 28, 28) from 0 to 1, and labels (N,)."""

    train_images: Any
    train_labels: Any
    val_images: Any
    val_labels: Any


def dataset_name(data_dir: Path) -> str:
    """MNIST where it is, else digits."""
    return "mnist" if (data_dir / "MNIST").exists() else "digits"


def split(count: int) -> tuple[list[int], list[int]]:
    """Netsieve's split: indices for training, four fifths, and for validation."""
    import torch

    order = torch.randperm(count, generator=torch.Generator().manual_seed(42)).tolist()
    return order[: count * 4 // 5], order[count * 4 // 5 :]


def images_in_memory(data_dir: Path) -> Images:
    """The first 5,000 images, read once."""
    import torch

    from workers.datasets import load

    data = load(dataset_name(data_dir), data_dir)
    images, labels = torch.from_numpy(data.images[:5000].copy()), torch.from_numpy(data.labels[:5000].copy())
    images = images.float() / 255 if images.dtype == torch.uint8 else images
    train, val = split(len(images))
    return Images(images[train], labels[train], images[val], labels[val])


def network_of(layers: str, version: int = PLAIN) -> Any:
    """Initial weights, and dropout's randomness, depend on the string; any seed will do."""
    import torch

    from search.layer_string import parse
    from search.space import CLASSIC
    from workers.networks import build

    generator = torch.Generator().manual_seed(zlib.crc32(layers.encode()))
    return build(parse(layers), CLASSIC.rules, generator, generator, version)


def lean_loop(layers: str, images: Images, epochs: int, version: int = PLAIN) -> Iterator[dict[str, float]]:
    """As a careful person writes it: no DataLoader, nothing read back within an epoch, losses kept like netsieve's."""
    import torch
    from torch.nn.functional import cross_entropy

    network = network_of(layers, version)
    optimizer = torch.optim.SGD(network.parameters(), lr=LEARNING_RATE)
    full = len(images.train_images) // BATCH * BATCH
    for _ in range(epochs):
        network.train()
        train_loss = torch.zeros(())
        for batch in torch.randperm(len(images.train_images))[:full].split(BATCH):
            optimizer.zero_grad()
            loss = cross_entropy(network(images.train_images[batch]), images.train_labels[batch])
            loss.backward()
            optimizer.step()
            train_loss += loss.detach()
        network.eval()
        with torch.inference_mode():
            logits = network(images.val_images)
            val_loss = cross_entropy(logits, images.val_labels)
            val_accuracy = (logits.argmax(1) == images.val_labels).float().mean()
        yield {
            "train_loss": train_loss.item() / (full // BATCH),
            "val_loss": val_loss.item(),
            "val_accuracy": val_accuracy.item(),
        }


def final_accuracy(layers: str, images: Images, epochs: int, version: int = PLAIN) -> float:
    """Of one string, by the lean loop."""
    return list(lean_loop(layers, images, epochs, version))[-1]["val_accuracy"]


# ------------------------------------------------------------------ without a framework


def notebook(job: Job) -> Accuracies:
    """What people write first: one candidate after the other, on all cores."""
    import torch
    from torch import nn
    from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

    from workers.torchvision_on_cpu import import_datasets

    dataset: Dataset[Any]
    if dataset_name(job.data_dir) == "mnist":
        datasets = import_datasets()  # before anything else of torchvision
        from torchvision.transforms import ToTensor

        dataset = Subset(datasets.MNIST(str(job.data_dir), train=True, transform=ToTensor()), range(5000))
    else:
        images = images_in_memory(job.data_dir)
        both = zip((images.train_images, images.train_labels), (images.val_images, images.val_labels), strict=True)
        dataset = TensorDataset(*(torch.cat(parts) for parts in both))
    train, val = split(len(dataset))  # type: ignore[arg-type]
    train_loader = DataLoader(Subset(dataset, train), batch_size=BATCH, shuffle=True, drop_last=True)
    val_loader = DataLoader(Subset(dataset, val), batch_size=BATCH)
    found = []
    for layers in job.strings:
        network = network_of(layers)
        optimizer = torch.optim.SGD(network.parameters(), lr=LEARNING_RATE)
        criterion = nn.CrossEntropyLoss()
        for epoch in range(job.epochs):
            network.train()
            running = 0.0
            for images, labels in train_loader:
                optimizer.zero_grad()
                loss = criterion(network(images), labels)
                loss.backward()
                optimizer.step()
                running += loss.item()
            network.eval()
            val_loss, correct = 0.0, 0
            with torch.no_grad():
                for images, labels in val_loader:
                    logits = network(images)
                    val_loss += criterion(logits, labels).item() * len(labels)
                    correct += (logits.argmax(1) == labels).sum().item()
            accuracy = correct / len(val)
            print(f"{epoch} {running / len(train_loader):.4f} {val_loss / len(val):.4f} {accuracy:.4f}", flush=True)
        found.append((layers, accuracy))
    return found


def lean(job: Job) -> Accuracies:
    """One process, one thread."""
    import torch

    torch.set_num_threads(1)
    images = images_in_memory(job.data_dir)
    return [(layers, final_accuracy(layers, images, job.epochs)) for layers in job.strings]


def lean_pool(job: Job, version: int = PLAIN) -> Accuracies:
    """Forked after imports and data, which all processes then share."""
    import torch
    import torch._dynamo  # what SGD imports when it is first made: once, before the fork

    torch.set_num_threads(1)
    images = images_in_memory(job.data_dir)
    with get_context("fork").Pool(job.processes, _keep, (images, job.epochs, version)) as pool:
        return pool.map(_train_kept, job.strings, chunksize=1)


def lean_pool_fast(job: Job) -> Accuracies:
    """With the networks that netsieve trains."""
    return lean_pool(job, TRAINING_VERSION)


_kept: tuple[Images, int, int]  # of a process of the pool


def _keep(images: Images, epochs: int, version: int) -> None:
    global _kept  # noqa: PLW0603  # how Pool's initializer hands anything over
    _kept = images, epochs, version


def _train_kept(layers: str) -> tuple[str, float]:
    return layers, final_accuracy(layers, *_kept)


# ------------------------------------------------------------------ Ray Tune


def trainable(config: dict[str, Any], images: Images, epochs: int) -> None:
    """A function trainable, with a report after every epoch."""
    from ray import tune

    for measurement in lean_loop(config["layers"], images, epochs):
        tune.report(measurement)


def ray_tune(job: Job) -> Accuracies:
    """As the user guide has it: with_parameters for the data, a grid over the strings, one core a trial."""
    from ray import tune

    with tempfile.TemporaryDirectory(prefix="tune-") as folder:
        tuner = tune.Tuner(
            tune.with_parameters(trainable, images=images_in_memory(job.data_dir), epochs=job.epochs),
            param_space={"layers": tune.grid_search(job.strings)},
            run_config=tune.RunConfig(storage_path=folder),
        )
        return results_of(tuner)


def ray_tune_tuned(job: Job) -> Accuracies:
    """With all that makes many short trials quick."""
    os.environ |= {
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_GLOBAL_CHECKPOINT_S": "600",
    }
    import ray
    from ray import tune

    class Candidate(tune.Trainable):
        def setup(self, config: dict[str, Any], images: Images, epochs: int) -> None:
            self.images, self.epochs = images, epochs
            self.reset_config(config)

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.measurements = lean_loop(new_config["layers"], self.images, self.epochs)
            return True

        def step(self) -> dict[str, float]:
            return next(self.measurements)

    ray.init(address="local", num_cpus=job.processes, include_dashboard=False, log_to_driver=False)
    with tempfile.TemporaryDirectory(prefix="tune-") as folder:
        tuner = tune.Tuner(
            tune.with_parameters(Candidate, images=images_in_memory(job.data_dir), epochs=job.epochs),
            param_space={"layers": tune.grid_search(job.strings)},
            tune_config=tune.TuneConfig(reuse_actors=True),
            run_config=tune.RunConfig(
                storage_path=folder,
                stop={"training_iteration": job.epochs},
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                verbose=0,
            ),
        )
        return results_of(tuner)


def results_of(tuner: Any) -> Accuracies:
    """Run it. Raises AssertionError if a trial failed, be it after its last report: its actor is not reused then."""
    os.environ["RAY_ADDRESS"] = "local"  # Tune joins any cluster that it finds, also one whose address was left behind
    results = tuner.fit()
    assert not results.errors, results.errors[0]
    return [(result.config["layers"], result.metrics["val_accuracy"]) for result in results]


# ------------------------------------------------------------------ Optuna


def sqlite_storage(folder: str) -> Any:
    """SQLite as it serves several processes best."""
    import sqlite3

    import optuna

    file = Path(folder) / "study.db"
    with sqlite3.connect(file) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
    return optuna.storages.RDBStorage(f"sqlite:///{file}", engine_kwargs={"connect_args": {"timeout": 20.0}})


def journal_storage(folder: str) -> Any:
    """A file of operations."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    return JournalStorage(JournalFileBackend(str(Path(folder) / "journal.log")))


def optimise(job: Job, images: Images, storage_of: Callable[[str], Any], folder: str) -> None:
    """One process's share of the study, of which it learns nothing in advance."""
    import optuna

    def objective(trial: optuna.Trial) -> float:
        if trial.number >= len(job.strings):
            trial.study.stop()
            raise optuna.TrialPruned
        layers = job.strings[trial.number]
        trial.set_user_attr("layers", layers)
        for epoch, measurement in enumerate(lean_loop(layers, images, job.epochs), 1):
            trial.report(measurement["val_accuracy"], epoch)
        return measurement["val_accuracy"]

    optuna.load_study(study_name="peer", storage=storage_of(folder)).optimize(objective)


def optuna_study(job: Job, storage_of: Callable[[str], Any]) -> Accuracies:
    """Two processes on one study, forked after imports and data."""
    import optuna
    import torch
    import torch._dynamo

    torch.set_num_threads(1)
    images = images_in_memory(job.data_dir)
    with tempfile.TemporaryDirectory(prefix="optuna-") as folder:
        study = optuna.create_study(study_name="peer", storage=storage_of(folder), direction="maximize")
        work = (job, images, storage_of, folder)
        processes = [get_context("fork").Process(target=optimise, args=work) for _ in range(job.processes)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        done = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
        return [(trial.user_attrs["layers"], trial.value) for trial in done]


def optuna_sqlite(job: Job) -> Accuracies:
    """In SQLite."""
    return optuna_study(job, sqlite_storage)


def optuna_journal(job: Job) -> Accuracies:
    """In a journal."""
    return optuna_study(job, journal_storage)


# ------------------------------------------------------------------ one of them, as a command

PEERS: dict[str, Callable[[Job], Accuracies]] = {
    "notebook": notebook,
    "lean": lean,
    "lean-pool": lean_pool,
    "lean-pool-fast": lean_pool_fast,
    "ray-tune": ray_tune,
    "ray-tune-tuned": ray_tune_tuned,
    "optuna-sqlite": optuna_sqlite,
    "optuna-journal": optuna_journal,
}
_TUNE = ("pandas", "pyarrow", "pydantic", "tensorboardX")  # what ray[tune] adds to ray
NEEDS: dict[str, tuple[str, ...]] = {  # packages of the extra "bench"
    "ray-tune": _TUNE,
    "ray-tune-tuned": _TUNE,
    "optuna-sqlite": ("optuna",),
    "optuna-journal": ("optuna",),
}


def main() -> None:
    """Be one of the contestants."""
    parser = argparse.ArgumentParser(description="One contestant, from its start to its exit.")
    parser.add_argument("contestant", choices=PEERS)
    parser.add_argument("--strings", type=Path, required=True, help="layer strings, one a line")
    parser.add_argument("--out", type=Path, required=True, help="where the accuracies go")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--data-dir", type=Path, default=Path())
    given = parser.parse_args()
    job = Job(given.strings.read_text().split(), given.epochs, given.data_dir, cores())
    given.out.write_text(json.dumps(PEERS[given.contestant](job)))


if __name__ == "__main__":
    main()
