"""The same 24 candidates at 1 and at 10 epochs: netsieve end to end beside a plain notebook loop.

    python tests/benchmarks/end_to_end.py [--rounds 3] [--data-dir FOLDER]

Every contestant is a whole command, from its start to its exit, imports and Ray's start included; the
rounds alternate, so that a machine whose speed drifts is fair to all. MNIST is read from --data-dir
where it is, else digits are used; the table says which.

    netsieve             netsieve run, default workers (Ray, one a core)
    netsieve, no Ray     netsieve run --workers 0
    notebook             torchvision's dataset with ToTensor, DataLoader, SGD, loss.item() every step
    notebook, in memory  the same loop over tensors that are loaded once, without a DataLoader
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

CANDIDATES = 24
SHARED_DATA = Path(__file__).parents[2].parent / "shared" / "data"


def candidates() -> tuple[list[str], int]:
    """The first 24 distinct valid strings that a search of seed 0 draws, and how many draws that takes."""
    from search.samplers import RejectionSampler
    from search.sieve import judge_with
    from search.space import CLASSIC

    found: dict[str, int] = {}
    for drawn in judge_with(RejectionSampler(CLASSIC, 0), CLASSIC.rules)(0, 1000):
        if drawn.verdict.valid:
            found.setdefault(drawn.layers, drawn.index)
        if len(found) == CANDIDATES:
            return list(found), drawn.index + 1
    raise AssertionError("1,000 draws hold 24 valid strings")


# ------------------------------------------------------------------ the notebook


def notebook(epochs: int, data_dir: Path, *, in_memory: bool) -> None:
    """What people write first: one candidate after the other, on all cores."""
    import torch
    from torch import nn
    from torch.utils.data import DataLoader, Subset, TensorDataset

    from search.layer_string import parse
    from search.space import CLASSIC
    from workers.datasets import Dataset, load
    from workers.networks import build
    from workers.torchvision_on_cpu import import_datasets

    if in_memory or not data_dir.exists():
        data: Dataset = load("mnist" if data_dir.exists() else "digits", data_dir)
        images = torch.from_numpy(data.images[:5000].copy())
        images = images.float() / 255 if images.dtype == torch.uint8 else images
        dataset = TensorDataset(images, torch.from_numpy(data.labels[:5000].copy()))
    else:
        datasets = import_datasets()  # before anything else of torchvision
        from torchvision.transforms import ToTensor

        dataset = datasets.MNIST(str(data_dir), train=True, transform=ToTensor())
    count = min(5000, len(dataset))
    order = torch.randperm(count, generator=torch.Generator().manual_seed(42)).tolist()
    train, val = order[: count * 4 // 5], order[count * 4 // 5 :]

    def batches(indices: list[int], *, shuffle: bool) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        if not in_memory:
            yield from DataLoader(Subset(dataset, indices), batch_size=32, shuffle=shuffle, drop_last=shuffle)
            return
        chosen = torch.tensor(indices)
        chosen = chosen[torch.randperm(len(chosen))] if shuffle else chosen
        for batch in chosen[: len(chosen) // 32 * 32].split(32) if shuffle else chosen.split(32):
            yield dataset.tensors[0][batch], dataset.tensors[1][batch]

    for number, layers in enumerate(candidates()[0]):
        generator = torch.Generator().manual_seed(number)
        network = build(parse(layers), CLASSIC.rules, generator, generator)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
        criterion = nn.CrossEntropyLoss()
        for _ in range(epochs):
            network.train()
            running = 0.0
            for images, labels in batches(train, shuffle=True):
                optimizer.zero_grad()
                loss = criterion(network(images), labels)
                loss.backward()
                optimizer.step()
                running += loss.item()
            network.eval()
            correct = 0
            with torch.no_grad():
                for images, labels in batches(val, shuffle=False):
                    correct += (network(images).argmax(1) == labels).sum().item()
        print(f"{number:2} {correct / len(val):.4f}", flush=True)


# ------------------------------------------------------------------ the comparison


def timed(command: list[str]) -> float:
    """Seconds from a command's start to its exit."""
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - began


def contestants(epochs: int, data_dir: Path) -> dict[str, Callable[[], list[str]]]:
    """Each one's command, made anew for every round: a search is not trained twice."""
    draws = candidates()[1]
    dataset = ["--dataset", "mnist", "--data-dir", str(data_dir)] if data_dir.exists() else ["--dataset", "digits"]

    def netsieve(*more: str) -> Callable[[], list[str]]:
        def command() -> list[str]:
            database = f"sqlite:///{tempfile.mkdtemp()}/search.db"
            run = [str(Path(sys.executable).with_name("netsieve")), "run", "bench", "--db", database]
            return [*run, *dataset, "--candidates", str(draws), "--epochs", str(epochs), *more]

        return command

    loop = [sys.executable, __file__, "--epochs", str(epochs), "--data-dir", str(data_dir), "--as"]
    return {
        "netsieve": netsieve(),
        "netsieve, no Ray": netsieve("--workers", "0"),
        "notebook": lambda: [*loop, "notebook"],
        "notebook, in memory": lambda: [*loop, "notebook-in-memory"],
    }


def compare(rounds: int, data_dir: Path) -> None:
    """Run all, in turn, and print a table."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "ray", "numpy"))
    print(f"{CANDIDATES} candidates of the classic space, {'mnist' if data_dir.exists() else 'digits'}, n = {rounds}")
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {packages}\n")
    print("| epochs | contestant | seconds, median (min to max) | candidates a minute | times the notebook |")
    print("| ---: | --- | ---: | ---: | ---: |")
    for epochs in (1, 10):
        commands = contestants(epochs, data_dir)
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(rounds):
            for name, command in commands.items():
                seconds[name].append(timed(command()))
        for name, taken in seconds.items():
            median = statistics.median(taken)
            ratio = statistics.median(b / a for a, b in zip(taken, seconds["notebook"], strict=True))
            print(
                f"| {epochs} | {name} | {median:.1f} ({min(taken):.1f} to {max(taken):.1f}) "
                f"| {CANDIDATES / median * 60:.1f} | {ratio:.2f} |",
                flush=True,
            )


def main() -> None:
    """Compare, or be one of the notebooks."""
    arguments = argparse.ArgumentParser(description="netsieve end to end beside a notebook loop")
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--data-dir", type=Path, default=SHARED_DATA)
    arguments.add_argument("--as", dest="role", choices=["notebook", "notebook-in-memory"])
    arguments.add_argument("--epochs", type=int, default=1)
    given = arguments.parse_args()
    if given.role:
        notebook(given.epochs, given.data_dir, in_memory=given.role == "notebook-in-memory")
    else:
        compare(given.rounds, given.data_dir)


if __name__ == "__main__":
    main()
