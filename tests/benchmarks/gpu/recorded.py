"""A candidate whose training step reads everything from the device, and CUDA graphs of such steps.

For the benchmarks beside it; nothing that ships uses it. A step takes its batch by a counter that lives on the
device, so a graph of one step, or of many, trains on by being replayed, and the host need not know how far it is. The
numbers are those of ``workers.training``, to the last bit where its settings make results come twice.

On the CPU a recording is the function itself: everything here can be tried without a GPU, if not measured.
"""

import contextlib
import ctypes
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from search.layer_string import format_architecture, parse
from search.samplers import RejectionSampler
from search.settings import Recipe
from search.shapes import check
from search.space import CLASSIC
from workers.datasets import Dataset, Split, load
from workers.networks import build
from workers.training import VALIDATION_BATCH, derived_seed


def candidates(count: int) -> list[str]:
    """The first distinct valid strings that a search of seed 0 draws, most of them small, as searches meet them."""
    found: dict[str, None] = {}
    start, sampler = 0, RejectionSampler(CLASSIC, 0)
    while len(found) < count:
        for architecture in sampler.draw(start, start + 1_000):
            if check(architecture, CLASSIC.rules).valid:
                found.setdefault(format_architecture(architecture))
        start += 1_000
    return list(found)[:count]


def macs(layers: str) -> int:
    """Multiply-adds of a candidate, per image, forward."""
    return check(parse(layers), CLASSIC.rules).macs or 0


def images(path: Path | None) -> Dataset:
    """What is trained on: an ``.npz`` file's images, else the digits."""
    return load(str(path), Path()) if path else load("digits", Path())


def sync(device: str) -> None:
    """Wait until the device has done what it was asked."""
    if device == "cuda":
        torch.cuda.synchronize()


# ------------------------------------------------------------------ a candidate


class Resident:
    """One candidate in training, all of whose state is on the device."""

    def __init__(self, layers: str, data: Split, recipe: Recipe, device: str, seed: int = 0) -> None:
        weights, shuffle, self.noise = (
            torch.Generator(where).manual_seed(derived_seed(seed, layers, purpose))
            for where, purpose in (("cpu", "weights"), ("cpu", "shuffle"), (device, "dropout"))
        )
        self.layers, self.data, self.recipe, self.device = layers, data, recipe, device
        self.has_noise = "dropout" in layers
        self.network: nn.Sequential = build(parse(layers), CLASSIC.rules, weights, self.noise)
        self.parameters = list(self.network.parameters())
        count = len(data.train_images)
        self.steps = count // recipe.batch_size  # an epoch
        used = self.steps * recipe.batch_size
        orders = [torch.randperm(count, generator=shuffle)[:used] for _ in range(recipe.epochs)]
        self.batches = torch.stack(orders).view(-1, recipe.batch_size).to(device)  # (epochs * steps, B)
        self.at = torch.zeros(1, dtype=torch.int64, device=device)  # the next batch
        self.epoch = torch.zeros(1, dtype=torch.int64, device=device)
        self.loss_sum = torch.zeros((), device=device)
        self.curve = torch.zeros(recipe.epochs, 3, device=device)  # sums: train loss, val loss, val correct

    def step(self) -> None:
        """One batch."""
        batch = self.batches.index_select(0, self.at).view(-1)
        loss = cross_entropy(self.network(self.data.train_images[batch]), self.data.train_labels[batch])
        gradients = torch.autograd.grad(loss, self.parameters)
        with torch.no_grad():
            for parameter, gradient in zip(self.parameters, gradients, strict=True):
                parameter.sub_(gradient, alpha=self.recipe.learning_rate)
            self.loss_sum += loss.detach() * len(batch)
            self.at += 1

    def step_many(self, times: int) -> None:
        """Some batches."""
        self.network.train()
        for _ in range(times):
            self.step()

    @torch.no_grad()
    def validate(self) -> None:
        """After an epoch: its row of the curve."""
        self.network.eval()
        loss_sum, correct = torch.zeros_like(self.loss_sum), torch.zeros_like(self.loss_sum)
        for batch, truth in zip(
            self.data.val_images.split(VALIDATION_BATCH), self.data.val_labels.split(VALIDATION_BATCH), strict=True
        ):
            logits = self.network(batch)
            loss_sum += cross_entropy(logits, truth, reduction="sum")
            correct += (logits.argmax(dim=1) == truth).sum()
        self.curve.index_copy_(0, self.epoch, torch.stack((self.loss_sum, loss_sum, correct))[None])
        self.loss_sum.zero_()
        self.epoch += 1

    def measured(self) -> list[tuple[float, float, float]]:
        """Of each epoch: train loss, val loss, val accuracy."""
        used, val = self.steps * self.recipe.batch_size, len(self.data.val_labels)
        return [(train / used, loss / val, correct / val) for train, loss, correct in self.curve.tolist()]


# ------------------------------------------------------------------ recordings


class Runtime:
    """The few calls of CUDA's runtime that torch does not offer, in the library that torch has loaded."""

    def __init__(self) -> None:
        torch.cuda.init()
        with Path("/proc/self/maps").open() as maps:
            path = next(line.split()[-1] for line in maps if "libcudart" in line)
        self._library = ctypes.CDLL(path)

    def _call(self, name: str, *arguments: Any) -> None:
        error = getattr(self._library, name)(*arguments)
        if error:
            raise RuntimeError(f"{name}: CUDA error {error}")

    def nodes(self, graph: int) -> tuple[int, int]:
        """Nodes of a graph, and those of them that are kernels."""
        count = ctypes.c_size_t()
        self._call("cudaGraphGetNodes", ctypes.c_void_p(graph), None, ctypes.byref(count))
        nodes = (ctypes.c_void_p * count.value)()
        self._call("cudaGraphGetNodes", ctypes.c_void_p(graph), nodes, ctypes.byref(count))
        kind, kernels = ctypes.c_int(), 0
        for node in nodes:
            self._call("cudaGraphNodeGetType", ctypes.c_void_p(node), ctypes.byref(kind))
            kernels += kind.value == 0
        return count.value, kernels

    def stream(self) -> torch.cuda.Stream:
        """A stream of its own: torch hands out 32 in turn. It does not wait for the default stream, nor that for it."""
        stream = ctypes.c_void_p()
        self._call("cudaStreamCreateWithFlags", ctypes.byref(stream), ctypes.c_uint(1))
        return torch.cuda.ExternalStream(stream.value)

    def chain(self, graph: int, times: int) -> int:
        """An executable of a graph, ``times`` times in a row, without recording it again. Not for random numbers."""
        whole, executable, node = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cudaGraphCreate", ctypes.byref(whole), ctypes.c_uint(0))
        for number in range(times):
            before = ctypes.c_void_p(node.value)
            self._call(
                "cudaGraphAddChildGraphNode", ctypes.byref(node), whole,
                ctypes.byref(before) if number else None, ctypes.c_size_t(1 if number else 0), ctypes.c_void_p(graph),
            )  # fmt: skip
        self._call("cudaGraphInstantiate", ctypes.byref(executable), whole, ctypes.c_ulonglong(0))
        return executable.value or 0

    def launch(self, executable: int) -> None:
        """Start an executable graph on torch's current stream."""
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        self._call("cudaGraphLaunch", ctypes.c_void_p(executable), stream)


class Recording:
    """Work that is recorded once and done again by one call. Recording does nothing but record.

    Record in a stream of its own what shall run beside others: cuBLAS keeps a workspace for every stream, and a
    recording names that of the stream in which it was recorded, wherever it is replayed.
    """

    def __init__(
        self,
        work: Callable[[], None],
        device: str,
        noises: Iterable[torch.Generator] = (),
        pool: Any = None,
        stream: "torch.cuda.Stream | None" = None,
    ) -> None:
        self._work = work
        self._graph: torch.cuda.CUDAGraph | None = None
        self.capture_s = self.instantiate_s = 0.0
        if device != "cuda":
            return
        began = time.perf_counter()
        graph = torch.cuda.CUDAGraph(keep_graph=True)
        for noise in noises:
            graph.register_generator_state(noise)
        stream = stream or _recording_stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            graph.capture_begin(pool=pool, capture_error_mode="relaxed")  # kernels may be loaded meanwhile
            try:
                work()
            finally:
                graph.capture_end()
        captured = time.perf_counter()
        graph.instantiate()
        self._graph, self.capture_s, self.instantiate_s = graph, captured - began, time.perf_counter() - captured

    def replay(self) -> None:
        """Do it, on the current stream."""
        if self._graph is None:
            self._work()
        else:
            self._graph.replay()

    @property
    def pool(self) -> Any:
        """Its memory, for a recording that never runs beside it."""
        return self._graph.pool() if self._graph else None

    @property
    def raw(self) -> int:
        """The graph, for CUDA's runtime."""
        return self._graph.raw_cuda_graph() if self._graph else 0


_STREAMS: list[torch.cuda.Stream] = []
_LANES: list[torch.cuda.Stream] = []


def lanes(count: int, device: str) -> "list[torch.cuda.Stream | None]":
    """So many streams, always the same ones: cuBLAS takes 32 MiB and more for every stream that it has seen."""
    if device != "cuda":
        return [None] * count
    _LANES.extend(Runtime().stream() for _ in range(count - len(_LANES)))
    return [*_LANES[:count]]


def _recording_stream() -> torch.cuda.Stream:
    """One for all that is replayed one after the other."""
    if not _STREAMS:
        _STREAMS.append(torch.cuda.Stream())
    return _STREAMS[0]


def on(stream: "torch.cuda.Stream | None") -> contextlib.AbstractContextManager[Any]:
    """Work that follows goes to a stream."""
    return torch.cuda.stream(stream) if stream else contextlib.nullcontext()


def record_steps(
    resident: Resident, steps: int, device: str, pool: Any = None, stream: "torch.cuda.Stream | None" = None
) -> Recording:
    """A graph of some batches. Says so where that needs a batch without a graph first."""
    noises = [resident.noise] if resident.has_noise else []
    try:
        return Recording(lambda: resident.step_many(steps), device, noises, pool, stream)
    except RuntimeError as error:
        print(f"cannot be recorded unless it was done before: {resident.layers}: {error}", flush=True)
        Resident(resident.layers, resident.data, resident.recipe, device).step_many(1)
        return Recording(lambda: resident.step_many(steps), device, noises, pool, stream)


def branched(works: list[Callable[[], None]], lanes: list[Any]) -> None:
    """Each in a branch of its own: all begin before any is waited for, else the branches are one chain."""
    main = torch.cuda.current_stream() if lanes[0] else None
    for lane in lanes:
        if lane:
            lane.wait_stream(main)
    for work, lane in zip(works, lanes, strict=True):
        with on(lane):
            work()
    for lane in lanes:
        if lane:
            main.wait_stream(lane)


def repeat(work: Callable[[], None], times: int) -> None:
    """Do it so often."""
    for _ in range(times):
        work()
