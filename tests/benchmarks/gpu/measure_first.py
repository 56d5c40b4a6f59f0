"""What bounds a GPU that trains thousands of tiny networks: the figures that a GPU engine's design follows from.

    python -m tests.benchmarks.gpu.measure_first [--data FILE.npz] [--parts eager,capture,...] [--device cpu] [--small]

Each part stands alone: one that fails prints its traceback, and the next begins. In fp32, without TF32, cuDNN
deterministic, as candidates are trained. ``--device cpu --small`` tries the script where there is no GPU; what it
prints then means nothing.

    eager       milliseconds a step of the training loop that ships
    capture     what a CUDA graph of 1, 25 and 125 steps of a candidate costs to make, and what a step costs in it
    kernels     where a step's time goes, by kernel
    beside      whether candidates side by side compute what they compute alone
    streams     the same candidates' steps in 1 to 128 streams of one process; as branches of one graph
    nodes       graph nodes a second: chains of small kernels, alone, in streams, as branches
    processes   1 to 16 processes on the GPU, eager and with graphs; with MPS if it starts
    whole       candidates a second, full recipe with evaluation, from the string to the curve
    shared      (only if named) what happens to recordings that share cuBLAS's workspace: it may hang
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from search.settings import Recipe
from search.space import CLASSIC
from tests.benchmarks.gpu.recorded import (
    Recording,
    Resident,
    Runtime,
    branched,
    candidates,
    images,
    macs,
    on,
    record_steps,
    repeat,
    sync,
)
from tests.benchmarks.gpu.recorded import (
    lanes as streams_for,
)
from workers.datasets import Dataset, Split
from workers.training import PreparedTrainer, Trainer


@dataclass(frozen=True)
class Bench:
    """What every part is given."""

    dataset: Dataset
    recipe: Recipe
    device: str
    small: bool  # sizes to try the script with
    curves: dict[str, Any]  # what against_cpu.py measured, by layer string
    write: Path | None  # where whole trainings' curves go

    def trainer(self) -> PreparedTrainer:
        """Its flags hold for the process: fp32, deterministic."""
        return Trainer(self.dataset, CLASSIC.rules, self.recipe, 0, self.device).prepare()

    def data(self) -> Split:
        """On the device, with the libraries started: cuDNN and cuBLAS must not begin inside a recording."""
        data = self.trainer().data
        warm = self.resident(candidates(1)[0], data)
        warm.step_many(3)
        warm.validate()
        return data

    def size(self, full: int, small: int) -> int:
        """A size, or one to try the script with."""
        return small if self.small else full

    def resident(self, layers: str, data: Split) -> Resident:
        """A candidate at its beginning."""
        return Resident(layers, data, self.recipe, self.device)


def spread(values: list[float], digits: int = 3) -> str:
    """Median (smallest to largest), n."""
    if not values:
        return "none"
    shown = [f"{value:.{digits}f}" for value in (statistics.median(values), min(values), max(values))]
    return f"{shown[0]} ({shown[1]} to {shown[2]}), n = {len(values)}, mean {statistics.mean(values):.{digits}f}"


def timed(work: Callable[[], Any], device: str) -> float:
    """Seconds until the device has done it."""
    sync(device)
    began = time.perf_counter()
    work()
    sync(device)
    return time.perf_counter() - began


# ------------------------------------------------------------------ eager


def eager(bench: Bench) -> None:
    """The loop that ships: milliseconds a step, with cuDNN's deterministic algorithms and without, in turn."""
    trainer = bench.trainer()
    warm, steps = bench.size(30, 2), bench.size(60, 3)
    taken: dict[bool, list[float]] = {True: [], False: []}
    for counts in (False, True):  # the first round loads kernels
        for layers in candidates(bench.size(20, 3)):
            for deterministic in (True, False):
                torch.backends.cudnn.deterministic = deterministic
                training = trainer.train(layers)
                for _ in range(warm):
                    next(training)
                seconds = timed(lambda t=training: [next(t) for _ in range(steps)], bench.device) / steps
                if counts:
                    taken[deterministic].append(seconds)
    torch.backends.cudnn.deterministic = True
    for deterministic, seconds in taken.items():
        print(f"eager, deterministic {deterministic}: ms a step {spread([1e3 * s for s in seconds])}")
    ratios = [a / b for a, b in zip(taken[True], taken[False], strict=True)]
    print(f"eager, deterministic / not: {spread(ratios)}")


# ------------------------------------------------------------------ capture and replay


def capture(bench: Bench) -> None:
    """What graphs cost to make and to replay, candidate by candidate; and that they compute what eager steps do."""
    data = bench.data()
    names = candidates(bench.size(20, 2))
    rounds = bench.size(100, 2)
    for label in ("first time", "again"):
        rows = [_captured(bench, layers, data, 1, rounds) for layers in names]
        _print_captured(f"graph of 1 step, {label}", rows)
    torch.backends.cudnn.deterministic = False
    other = [_captured(bench, layers, data, 1, rounds) for layers in names]
    torch.backends.cudnn.deterministic = True
    name = "replay, us a step"
    ratios = [ours[name] / theirs[name] for ours, theirs in zip(rows, other, strict=True)]
    print(f"replayed, deterministic / not: {spread(ratios)}")
    for count, steps in (
        (bench.size(20, 1), bench.size(5, 2)),
        (bench.size(10, 1), bench.size(25, 2)),
        (bench.size(3, 1), bench.size(125, 3)),
    ):
        rows = [_captured(bench, layers, data, steps, max(1, rounds * 3 // steps)) for layers in names[:count]]
        _print_captured(f"graph of {steps} steps", rows)
    _check_recordings(bench, data, names)
    _check_chains(bench, data, [layers for layers in names if "dropout" not in layers][:3])


def _captured(bench: Bench, layers: str, data: Split, steps: int, rounds: int) -> dict[str, float]:
    build_s = time.perf_counter()
    resident = Resident(layers, data, Recipe(bench.recipe.train_images, 32, 30), bench.device)
    build_s = time.perf_counter() - build_s
    reserved = torch.cuda.memory_reserved() if bench.device == "cuda" else 0
    recording = record_steps(resident, steps, bench.device)
    reserved = (torch.cuda.memory_reserved() if bench.device == "cuda" else 0) - reserved
    first_s = timed(recording.replay, bench.device)
    recording.replay()
    replay_s = timed(lambda: [recording.replay() for _ in range(rounds)], bench.device) / rounds
    sync(bench.device)
    host = time.perf_counter()
    recording.replay()
    host = time.perf_counter() - host
    nodes, kernels = Runtime().nodes(recording.raw) if bench.device == "cuda" else (0, 0)
    return {
        "build ms": 1e3 * build_s,
        "capture ms": 1e3 * recording.capture_s,
        "instantiate ms": 1e3 * recording.instantiate_s,
        "first replay ms": 1e3 * first_s,
        "launch on the host, us": 1e6 * host,
        "replay, us a step": 1e6 * replay_s / steps,
        "nodes a step": nodes / steps,
        "kernels a step": kernels / steps,
        "us a node": 1e6 * replay_s / max(1, nodes),
        "MiB reserved": reserved / 2**20,
    }


def _print_captured(label: str, rows: list[dict[str, float]]) -> None:
    for name in rows[0]:
        print(f"{label}: {name} {spread([row[name] for row in rows], 2)}")


def _check_recordings(bench: Bench, data: Split, names: list[str]) -> None:
    """Replayed and eager steps from the same seed."""
    equal, steps = 0, bench.size(50, 3)
    for layers in names:
        plain, recorded = bench.resident(layers, data), bench.resident(layers, data)
        recording = record_steps(recorded, 1, bench.device)
        plain.step_many(steps)
        for _ in range(steps):
            recording.replay()
        sync(bench.device)
        same = all(torch.equal(a, b) for a, b in zip(plain.parameters, recorded.parameters, strict=True))
        equal += same
        if not same:
            print(f"replayed differs from eager: {layers}")
    print(f"replayed weights after {steps} steps bit-equal to eager ones: {equal} of {len(names)}")


def _check_chains(bench: Bench, data: Split, names: list[str]) -> None:
    """A graph of 125 steps from one recorded step: child graphs in a row."""
    if bench.device != "cuda":
        return
    runtime = Runtime()
    for layers in names:
        resident, plain = bench.resident(layers, data), bench.resident(layers, data)
        recording = record_steps(resident, 1, bench.device)
        began = time.perf_counter()
        executable = runtime.chain(recording.raw, 125)
        made_s = time.perf_counter() - began
        runtime.launch(executable)
        replay_s = timed(lambda e=executable: [runtime.launch(e) for _ in range(3)], bench.device) / 3
        plain.step_many(500)
        same = all(torch.equal(a, b) for a, b in zip(plain.parameters, resident.parameters, strict=True))
        print(f"125 children: made in {1e3 * made_s:.2f} ms, {1e6 * replay_s / 125:.2f} us a step, bit-equal {same}")


# ------------------------------------------------------------------ streams and branches of real candidates


def streams(bench: Bench) -> None:
    """The same work, every candidate so many steps, with n of them at a time."""
    data = bench.data()
    names = candidates(bench.size(128, 4))
    steps = bench.size(100, 4)
    recipe = Recipe(bench.recipe.train_images, 32, 40)
    lanes = streams_for(len(names), bench.device)
    began = time.perf_counter()
    residents = [Resident(layers, data, recipe, bench.device) for layers in names]
    print(f"{len(names)} candidates built in {time.perf_counter() - began:.2f} s")
    for each in (1, bench.size(25, 2)):
        began = time.perf_counter()
        recordings = [
            record_steps(resident, each, bench.device, None, lane)
            for resident, lane in zip(residents, lanes, strict=True)
        ]
        nodes = sum(Runtime().nodes(r.raw)[0] for r in recordings) * steps // each if bench.device == "cuda" else 0
        reserved = torch.cuda.memory_reserved() / 2**30 if bench.device == "cuda" else 0
        print(f"graphs of {each} steps: recorded in {time.perf_counter() - began:.2f} s, {reserved:.1f} GiB reserved")
        for recording in recordings:
            recording.replay()
        sync(bench.device)
        for width in (1, 2, 4, 8, 16, 32, 64, 128):
            if width > len(names):
                break
            host_s = 0.0
            began = time.perf_counter()
            for start in range(0, len(names), width):
                for _ in range(steps // each):
                    for recording, lane in zip(recordings[start : start + width], lanes, strict=False):
                        with on(lane):
                            recording.replay()
                host_s -= time.perf_counter()
                sync(bench.device)
                host_s += time.perf_counter()
            taken = time.perf_counter() - began
            done = len(names) * steps
            print(
                f"graphs of {each} steps in {width} streams: {done / taken:,.0f} steps/s, "
                f"{nodes / taken:,.0f} nodes/s, {done / taken / 1250:.1f} trainings' steps/s; "
                f"waited for the device {100 * host_s / taken:.0f} %",
                flush=True,
            )
        if each > 1:
            del recordings
    _branches(bench, residents)


def _branches(bench: Bench, residents: list[Resident]) -> None:
    """N candidates' steps as parallel branches of one graph."""
    if bench.device != "cuda":
        return
    runtime, steps = Runtime(), 5
    for width in (1, 8, 32, 128):
        group = residents[:width]
        lanes = streams_for(width, bench.device)
        works = [partial(resident.step_many, steps) for resident in group]
        try:
            noises = [resident.noise for resident in group if resident.has_noise]
            recording = Recording(partial(branched, works, lanes), bench.device, noises)
        except RuntimeError as error:
            print(f"{width} branches: {error}")
            continue
        recording.replay()
        rounds = 10
        taken = timed(partial(repeat, recording.replay, rounds), bench.device) / rounds
        nodes = runtime.nodes(recording.raw)[0]
        print(
            f"{width} candidates x {steps} steps as branches of a graph: {width * steps / taken:,.0f} steps/s, "
            f"{nodes / taken:,.0f} nodes/s; captured in {1e3 * recording.capture_s:.0f} ms, "
            f"instantiated in {1e3 * recording.instantiate_s:.0f} ms",
            flush=True,
        )


# ------------------------------------------------------------------ side by side


def beside(bench: Bench) -> None:
    """Do candidates that are replayed side by side compute what they compute alone?"""
    data = bench.data()
    names = candidates(bench.size(32, 4))
    steps = bench.size(100, 3)
    lanes = streams_for(len(names), bench.device)
    plain, beside = ([bench.resident(layers, data) for layers in names] for _ in range(2))
    recordings = [record_steps(r, 1, bench.device, None, lane) for r, lane in zip(beside, lanes, strict=True)]
    for resident in plain:
        resident.step_many(steps)
    _side_by_side(recordings, lanes, steps, bench.device)
    equal = sum(
        all(torch.equal(a, b) for a, b in zip(one.parameters, two.parameters, strict=True))
        for one, two in zip(plain, beside, strict=True)
    )
    print(f"recorded each in its own stream, {len(names)} side by side: bit-equal to eager {equal} of {len(names)}")


def shared(bench: Bench) -> None:
    """Recorded in one stream and replayed in two: they share a workspace of cuBLAS. This may never end."""
    data = bench.data()
    names = candidates(bench.size(32, 4))
    lanes = streams_for(2, bench.device)
    for pair in zip(names[::2], names[1::2], strict=True):
        residents = [bench.resident(layers, data) for layers in pair]
        recordings = [record_steps(resident, 1, bench.device) for resident in residents]
        print(f"recorded in one stream, side by side: {' | '.join(pair)} ...", flush=True)
        _side_by_side(recordings, lanes, bench.size(100, 3), bench.device)
        print("    ended", flush=True)


def _side_by_side(recordings: list[Recording], lanes: list[Any], steps: int, device: str) -> None:
    sync(device)
    for _ in range(steps):
        for recording, lane in zip(recordings, lanes, strict=True):
            with on(lane):
                recording.replay()
    sync(device)


# ------------------------------------------------------------------ where a step's time goes


def kernels(bench: Bench) -> None:
    """Kernels of the candidates' steps by name: how many a step, and how long."""
    from torch.profiler import ProfilerActivity, profile

    data = bench.data()
    names = candidates(bench.size(20, 2))
    residents = [bench.resident(layers, data) for layers in names]
    steps = bench.size(20, 2)
    for resident in residents:
        resident.step_many(3)
    sync(bench.device)
    activity = ProfilerActivity.CUDA if bench.device == "cuda" else ProfilerActivity.CPU
    with profile(activities=[activity]) as seen:
        for resident in residents:
            resident.step_many(steps)
        sync(bench.device)
    rows = [(e.self_device_time_total, e.count, e.key) for e in seen.key_averages() if e.self_device_time_total > 0]
    per = len(names) * steps
    print(f"kernels: {sum(r[0] for r in rows) / per:.1f} us and {sum(r[1] for r in rows) / per:.1f} kernels a step")
    for time_us, count, key in sorted(rows, reverse=True)[:40]:
        print(f"{time_us / per:7.2f} us a step, {count / per:5.2f} a step, {time_us / count:6.2f} us each  {key[:110]}")


# ------------------------------------------------------------------ nodes a second


def nodes(bench: Bench) -> None:
    """Chains of small elementwise kernels: how many nodes a second the GPU's front end starts."""
    length, rounds = bench.size(400, 3), 20

    def chain(tensor: torch.Tensor) -> None:
        for _ in range(length):
            tensor.add_(1.0)

    for elements in (256, 65_536):
        for width in (1, 8, 32, 128):
            chains = [partial(chain, torch.zeros(elements, device=bench.device)) for _ in range(width)]
            lanes = streams_for(width, bench.device)
            whole = Recording(partial(branched, chains, lanes), bench.device)
            each = [Recording(one, bench.device) for one in chains]
            replays = {
                "branches of a graph": whole.replay,
                "streams": partial(_side_by_side, each, lanes, 1, "cpu"),  # without waiting
            }
            for label, replay in replays.items():
                replay()
                taken = timed(partial(repeat, replay, rounds), bench.device) / rounds
                print(
                    f"{width} {label}, {length} kernels of {elements} elements each: "
                    f"{width * length / taken:,.0f} nodes/s, {1e6 * taken / length:.2f} us a node of a chain; "
                    f"the graph instantiated in {1e3 * whole.instantiate_s:.1f} ms",
                    flush=True,
                )


# ------------------------------------------------------------------ processes


def processes(bench: Bench, source: Path | None) -> None:
    """Several processes on one GPU: eager, and with graphs; then the same under MPS."""
    counts = [1, 4, 8, 15] if not bench.small else [1, 2]
    _with_processes(bench, source, counts, "without MPS", {})
    with _mps() as variables:
        if variables:
            _with_processes(bench, source, counts, "with MPS", variables)


def _with_processes(bench: Bench, source: Path | None, counts: list[int], label: str, more: dict[str, str]) -> None:
    command = [sys.executable, "-m", "tests.benchmarks.gpu.measure_first", "--serve", "--device", bench.device]
    command += ["--data", str(source)] if source else []
    command += ["--small"] if bench.small else []
    workers = [
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | more, bufsize=1
        )
        for _ in range(counts[-1])
    ]
    try:
        began = time.perf_counter()
        for worker in workers:
            _hear(worker, "ready")
        print(f"{len(workers)} processes ready in {time.perf_counter() - began:.1f} s, {label}", flush=True)
        for job in ("eager", "replay 1", "replay 8"):
            for count in counts:
                seconds = 1.2 if not bench.small else 0.2
                for worker in workers[:count]:
                    print(f"{job} {seconds}", file=worker.stdin, flush=True)
                answers = [_hear(worker, "did").split() for worker in workers[:count]]
                rate = sum(int(steps) / float(taken) for steps, taken in answers)
                print(
                    f"{label}, {job}, {count} processes: {rate:,.0f} steps/s, {rate / 1250:.2f} trainings' steps/s",
                    flush=True,
                )
        for job, each in (("whole", bench.size(4, 1)), ("lanes", bench.size(16, 2))):
            for count in counts[1:]:
                began = time.perf_counter()
                for number, worker in enumerate(workers[:count]):
                    print(f"{job} {number * each} {(number + 1) * each}", file=worker.stdin, flush=True)
                for worker in workers[:count]:
                    _hear(worker, "did")
                taken = time.perf_counter() - began
                how = "eager" if job == "whole" else "16 streams each, graphs of 5 steps"
                print(
                    f"{label}, whole trainings, {how}, {count} processes: {count * each} in {taken:.2f} s, "
                    f"{count * each / taken:.2f} candidates/s",
                    flush=True,
                )
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()


def _hear(worker: "subprocess.Popen[str]", word: str) -> str:
    assert worker.stdout is not None
    for line in worker.stdout:
        if line.startswith(word):
            return line[len(word) :]
    raise RuntimeError(f"a process ended with {worker.wait()} before it was {word}")


@contextmanager
def _mps() -> Iterator[dict[str, str]]:
    """MPS's server with its files in a folder of its own, or {}. It changes no setting of the card."""
    control = shutil.which("nvidia-cuda-mps-control", path=f"{os.environ['PATH']}:/usr/local/nvidia/bin:/usr/bin")
    if control is None:
        print("MPS: nvidia-cuda-mps-control is not there")
        yield {}
        return
    folder = tempfile.mkdtemp()
    variables = {"CUDA_MPS_PIPE_DIRECTORY": folder, "CUDA_MPS_LOG_DIRECTORY": folder}
    started = subprocess.run(
        [control, "-d"], env=os.environ | variables, timeout=10, check=False, capture_output=True, text=True
    )
    print(f"MPS: exit code {started.returncode} {started.stdout} {started.stderr}", flush=True)
    try:
        yield variables if started.returncode == 0 else {}
    finally:
        for log in Path(folder).glob("*.log"):
            print(log.name, log.read_text()[-600:])
        subprocess.run([control], input="quit\n", env=os.environ | variables, timeout=20, check=False, text=True)


def serve(bench: Bench) -> None:
    """One of the processes: does what a line on standard input says for so many seconds, and says how many steps."""
    trainer = bench.trainer()
    names = candidates(bench.size(240, 8))
    mine = names[: bench.size(8, 2)]
    recipe = Recipe(bench.recipe.train_images, 32, 200)  # batches enough for a job
    residents = [Resident(layers, trainer.data, recipe, bench.device) for layers in mine]
    lanes = streams_for(len(mine), bench.device)
    recordings = [record_steps(r, 25, bench.device, None, lane) for r, lane in zip(residents, lanes, strict=True)]
    for recording in recordings:
        recording.replay()
    many = Lanes(bench, bench.size(16, 2), bench.size(5, 3))
    many.train(names[: bench.size(8, 2)])
    sync(bench.device)
    print("ready", flush=True)
    for line in sys.stdin:
        job, *numbers = line.split()
        if job == "whole":
            for layers in names[int(numbers[0]) : int(numbers[1])]:
                for _ in trainer.train(layers):
                    pass
            print("did", flush=True)
        elif job == "lanes":
            many.train(names[int(numbers[0]) : int(numbers[1])])
            print("did", flush=True)
        else:
            for resident in residents:
                resident.at.zero_()
            sync(bench.device)
            began = time.perf_counter()
            until = began + float(numbers[-1])
            if job == "eager":
                steps = _eager_until(trainer, mine, until, bench.device)
            else:
                steps = _replay_until(recordings, 25, lanes[: int(numbers[0])], until, bench.device)
            print(f"did {steps} {time.perf_counter() - began}", flush=True)


def _eager_until(trainer: PreparedTrainer, names: list[str], until: float, device: str) -> int:
    steps = 0
    while time.perf_counter() < until:
        for layers in names:
            training = trainer.train(layers)
            for _ in range(20):
                next(training)
                steps += 1
            sync(device)
            if time.perf_counter() >= until:
                break
    return steps


def _replay_until(recordings: list[Recording], each: int, lanes: list[Any], until: float, device: str) -> int:
    steps = 0
    while time.perf_counter() < until:
        for start in range(0, len(recordings), len(lanes)):
            for _ in range(4):
                for recording, lane in zip(recordings[start:], lanes, strict=False):
                    with on(lane):
                        recording.replay()
                    steps += each
            sync(device)
    return steps


# ------------------------------------------------------------------ whole trainings


@dataclass
class _Running:
    """A candidate in training, its recordings, and what was asked of the device so far."""

    layers: str
    resident: Resident
    steps: Recording
    validation: Recording
    epochs: int = 0  # asked for
    ends: deque[Any] = field(default_factory=deque)  # events, of epochs not known to be done


class Lanes:
    """Trains candidates in streams of one process, from the string to the curve."""

    def __init__(self, bench: Bench, width: int, each: int) -> None:
        self.bench, self.each, self.data = bench, each, bench.data()
        self.lanes = streams_for(width, bench.device)
        self.running: list[_Running | None] = [None] * width
        self.last: list[_Running | None] = [None] * width  # keeps a lane's memory for its next candidate
        self.host_s = {"build": 0.0, "record": 0.0, "launch": 0.0, "wait": 0.0}

    def train(self, names: list[str]) -> dict[str, list[tuple[float, float, float]]]:
        """The curves."""
        queue, curves = deque(names), dict[str, list[tuple[float, float, float]]]()
        while len(curves) < len(names):
            advanced = False
            for number in range(len(self.lanes)):
                running = self.running[number]
                if running is not None:
                    while running.ends and (running.ends[0] is None or running.ends[0].query()):
                        running.ends.popleft()
                    if running.epochs == self.bench.recipe.epochs and not running.ends:
                        curves[running.layers] = running.resident.measured()
                        self.last[number], self.running[number], running = running, None, None
                        advanced = True
                if running is None and queue:
                    running = self.running[number] = self._begin(queue.popleft(), number)
                if running is not None and len(running.ends) < 2 and running.epochs < self.bench.recipe.epochs:
                    self._ask_for_an_epoch(running, number)
                    advanced = True
            if not advanced:
                began = time.perf_counter()
                time.sleep(0.0002)
                self.host_s["wait"] += time.perf_counter() - began
        return curves

    def _begin(self, layers: str, number: int) -> _Running:
        began = time.perf_counter()
        resident = self.bench.resident(layers, self.data)
        built = time.perf_counter()
        last = self.last[number]
        steps = record_steps(
            resident, self.each, self.bench.device, last.steps.pool if last else None, self.lanes[number]
        )
        validation = Recording(resident.validate, self.bench.device, (), steps.pool, self.lanes[number])
        if self.bench.device == "cuda":
            self.lanes[number].wait_stream(torch.cuda.current_stream())
        self.host_s["build"] += built - began
        self.host_s["record"] += time.perf_counter() - built
        return _Running(layers, resident, steps, validation)

    def _ask_for_an_epoch(self, running: _Running, number: int) -> None:
        began = time.perf_counter()
        with on(self.lanes[number]):
            for _ in range(running.resident.steps // self.each):
                running.steps.replay()
            running.validation.replay()
            end = None
            if self.bench.device == "cuda":
                end = torch.cuda.Event()
                end.record()
        running.ends.append(end)
        running.epochs += 1
        self.host_s["launch"] += time.perf_counter() - began


def whole(bench: Bench) -> None:
    """Candidates a second for whole trainings, one process; and whether their curves are the eager ones."""
    names = candidates(bench.size(128, 3))
    plans = [
        (1, 5, 20),
        (8, 5, 64),
        (16, 5, 128),
        (32, 1, 128),
        (32, 5, 128),
        (32, 25, 128),
        (64, 5, 128),
        (128, 5, 128),
    ]
    if bench.small:
        plans = [(1, 1, 2), (2, 3, 3)]
    everything = {}
    Lanes(bench, 1, 1).train(names[:1])  # warm
    for width, each, count in plans:
        lanes = Lanes(bench, width, each)
        began = time.perf_counter()
        curves = lanes.train(names[:count])
        everything |= curves
        sync(bench.device)
        taken = time.perf_counter() - began
        flops = sum(macs(layers) for layers in names[:count]) * 2 * 3 * 32 * 125 * bench.recipe.epochs
        host = ", ".join(f"{name} {1e3 * seconds / count:.1f}" for name, seconds in lanes.host_s.items())
        print(
            f"whole trainings, {width} streams, graphs of {each} steps: {count} in {taken:.2f} s, "
            f"{count / taken:.2f} candidates/s, {flops / taken / 1e12:.3f} TFLOP/s of training; host ms each: {host}; "
            f"{_agreement(bench, curves)}",
            flush=True,
        )
    if bench.write:
        bench.write.write_text(json.dumps(everything))


def _agreement(bench: Bench, curves: dict[str, list[tuple[float, float, float]]]) -> str:
    known = [layers for layers in curves if bench.curves.get(layers)]
    same = sum(
        [list(row[1:]) for row in bench.curves[layers]]
        == [[train, loss, accuracy] for train, loss, accuracy in curves[layers]]
        for layers in known
    )
    worst = max(
        (abs(bench.curves[layers][-1][3] - curves[layers][-1][2]) for layers in known if len(bench.curves[layers])),
        default=0.0,
    )
    return f"{same} of {len(known)} curves bit-equal to the eager ones, last accuracies differ by {worst:.4f} at most"


# ------------------------------------------------------------------ all


PARTS = {
    "eager": eager,
    "capture": capture,
    "kernels": kernels,
    "beside": beside,
    "streams": streams,
    "nodes": nodes,
    "processes": processes,
    "whole": whole,
}


def main() -> None:
    """Run the parts, in order."""
    arguments = argparse.ArgumentParser(description="what bounds a GPU that trains thousands of tiny networks")
    arguments.add_argument("--data", type=Path, help="an .npz file; default: the digits")
    arguments.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    arguments.add_argument("--parts", default=",".join(PARTS))
    arguments.add_argument("--small", action="store_true", help="sizes to try the script with")
    arguments.add_argument("--curves", type=Path, help="what against_cpu.py wrote of trainings on the GPU")
    arguments.add_argument("--write", type=Path, help="a file for the curves of whole trainings")
    arguments.add_argument("--serve", action="store_true", help="be one of the processes")
    given = arguments.parse_args()
    dataset = images(given.data)
    recipe = Recipe(
        train_images=min(5000, len(dataset.images)) if not given.small else 500, epochs=2 if given.small else 10
    )
    curves = json.loads(given.curves.read_text()) if given.curves and given.curves.exists() else {}
    bench = Bench(dataset, recipe, given.device, given.small, curves, given.write)
    if given.serve:
        serve(bench)
        return
    card = torch.cuda.get_device_name() if given.device == "cuda" else platform.processor()
    print(f"{card}, torch {torch.__version__}, Python {platform.python_version()}, {os.cpu_count()} cores", flush=True)
    parts = PARTS | {"shared": shared}
    for name in given.parts.split(","):
        began = time.perf_counter()
        print(f"\n== {name}", flush=True)
        try:
            if name == "processes":
                processes(bench, given.data)
            else:
                parts[name](bench)
        except Exception:  # noqa: BLE001  # the other parts matter too
            traceback.print_exc(file=sys.stdout)
        print(f"== {name}: {time.perf_counter() - began:.1f} s", flush=True)


if __name__ == "__main__":
    main()
