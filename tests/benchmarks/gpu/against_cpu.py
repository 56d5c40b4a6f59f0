"""The same candidates trained on the GPU and on the CPU: how far apart, and does a result come twice?

    python -m tests.benchmarks.gpu.against_cpu [--data FILE.npz] [--count 20] [--epochs 10] [--out FOLDER]

Trains the first valid candidates that a search of seed 0 draws by ``workers.training``, in several processes at once
(so that seconds mean nothing), with cuDNN set in three ways, each twice: as netsieve sets it (fp32, deterministic),
fp32 with whatever algorithm cuDNN likes, and torch's own default (TF32). Dropout's masks come from the device's
generator, so candidates with dropout are compared apart: on the CPU they are other networks.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import astuple
from pathlib import Path

import torch

from search.settings import Recipe
from search.space import CLASSIC
from tests.benchmarks.gpu.recorded import candidates, images
from workers.training import Trainer

SETTINGS = ("deterministic", "any order", "TF32")
CPU_PROCESSES = 7


def train(given: argparse.Namespace) -> None:
    """Train every ``of``-th candidate, and write the curves."""
    dataset = images(given.data)
    recipe = Recipe(train_images=min(given.train_images, len(dataset.images)), epochs=given.epochs)
    trainer = Trainer(dataset, CLASSIC.rules, recipe, 0, given.device).prepare()
    torch.backends.cudnn.deterministic = given.setting == "deterministic"
    torch.backends.cudnn.allow_tf32 = given.setting == "TF32"
    curves = {}
    for layers in candidates(given.count)[given.first :: given.of]:
        *_, outcome = trainer.train(layers)
        assert outcome is not None
        curves[layers] = [astuple(m) for m in outcome.measurements]
        if outcome.reason:
            print(outcome.reason, outcome.detail, layers, flush=True)
    given.write.write_text(json.dumps(curves))


def compare(given: argparse.Namespace) -> None:
    """Train everywhere, then print the differences."""
    folder = given.out or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    base = [sys.executable, "-m", "tests.benchmarks.gpu.against_cpu", "--count", str(given.count)]
    base += ["--epochs", str(given.epochs), "--train-images", str(given.train_images)]
    base += ["--data", str(given.data)] if given.data else []
    jobs = []
    for setting in SETTINGS:
        for time in (1, 2):
            write = folder / f"{setting.replace(' ', '-')}-{time}.json"
            jobs.append(["--device", given.device, "--setting", setting, "--write", str(write)])
    for first in range(CPU_PROCESSES):
        write = folder / f"part{first}.json"
        jobs.append(["--device", "cpu", "--first", str(first), "--of", str(CPU_PROCESSES), "--write", str(write)])
    running = [subprocess.Popen(base + job, env=os.environ | {"OMP_NUM_THREADS": "1"}) for job in jobs]
    print("exit codes:", [process.wait() for process in running], flush=True)
    on_cpu: dict[str, list[tuple[float, ...]]] = {}
    for first in range(CPU_PROCESSES):
        part = folder / f"part{first}.json"
        on_cpu |= json.loads(part.read_text())
        part.unlink()
    (folder / "cpu.json").write_text(json.dumps(on_cpu))
    for setting in SETTINGS:
        once, twice = (json.loads((folder / f"{setting.replace(' ', '-')}-{time}.json").read_text()) for time in (1, 2))
        equal = sum(once[layers] == twice[layers] for layers in once)
        print(f"\n{setting}: trained twice, bit-equal {equal} of {len(once)}")
        for label, other in (("itself, again", twice), ("the CPU", on_cpu)):
            for has_dropout in (False, True):
                names = [layers for layers in once if ("dropout" in layers) == has_dropout]
                report(f"  against {label}, {'with' if has_dropout else 'without'} dropout", names, once, other)


def report(
    label: str, names: list[str], ours: dict[str, list[tuple[float, ...]]], theirs: dict[str, list[tuple[float, ...]]]
) -> None:
    """Differences after the first and after the last epoch: the median, the largest."""
    for epoch in (0, -1):
        parts = []
        for column, name in ((1, "train loss"), (2, "val loss"), (3, "val accuracy")):
            differences = sorted(
                abs(ours[layers][epoch][column] - theirs[layers][epoch][column])
                for layers in names
                if ours[layers] and theirs[layers] and len(ours[layers]) == len(theirs[layers])
            )
            if differences:
                parts.append(f"{name} {statistics.median(differences):.1e}, {differences[-1]:.1e}")
        print(f"{label}, {'first' if epoch == 0 else 'last'} epoch: {'; '.join(parts)}; n = {len(names)}")


def main() -> None:
    """Compare, or be one of the processes."""
    arguments = argparse.ArgumentParser(description="trainings on the GPU against trainings on the CPU")
    arguments.add_argument("--data", type=Path, help="an .npz file; default: the digits")
    arguments.add_argument("--count", type=int, default=20)
    arguments.add_argument("--epochs", type=int, default=10)
    arguments.add_argument("--train-images", type=int, default=5000)
    arguments.add_argument("--device", default="cuda")
    arguments.add_argument("--out", type=Path, help="a folder for the curves")
    arguments.add_argument("--setting", choices=SETTINGS, default="deterministic")
    arguments.add_argument("--first", type=int, default=0)
    arguments.add_argument("--of", type=int, default=1)
    arguments.add_argument("--write", type=Path, help="be one of the processes")
    given = arguments.parse_args()
    if given.write:
        train(given)
    else:
        compare(given)


if __name__ == "__main__":
    main()
