"""Convolutions of many candidates in one launch, against cuDNN's one launch or two each.

    python -m tests.benchmarks.gpu.ragged [--count 128]
    TRITON_INTERPRET=1 python -m tests.benchmarks.gpu.ragged --device cpu --count 3 --batch 2  # tries it without a GPU

All convs (3x3, stride 1, padding 0) of the first valid candidates that a search of seed 0 draws, forward with bias and
ReLU, fp32. The kernel reads a table, a line a tile: a conv's offsets and shapes, which of its output's pixels (images
of the batch one after the other) and which eight of its channels. Nothing of it depends on which convs there are, so
one recorded launch serves any batch of candidates. Not covered: backward, and fusing more than bias and ReLU.
"""

import argparse
import math
import statistics
from dataclasses import dataclass
from functools import partial
from itertools import accumulate

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn.functional import conv2d

from search.layer_string import parse
from search.layers import Conv
from search.shapes import check
from search.space import CLASSIC
from tests.benchmarks.gpu.measure_first import timed
from tests.benchmarks.gpu.recorded import Recording, Runtime, branched, candidates, repeat
from tests.benchmarks.gpu.recorded import lanes as streams_for

PIXELS = 256  # of a tile
CHANNELS = 8  # output channels of a tile
BRANCHES = 32


@triton.jit
def ragged_conv(tiles, x, w, b, y, PIXELS: tl.constexpr, CHANNELS: tl.constexpr):  # noqa: ANN001, ANN201, N803
    """One tile: relu(conv(x) + b) for CHANNELS channels of PIXELS pixels."""
    line = tiles + tl.program_id(0) * 10
    x += tl.load(line)
    w += tl.load(line + 1)
    b += tl.load(line + 2)
    y += tl.load(line + 3)
    c_in = tl.load(line + 4).to(tl.int32)
    c_out = tl.load(line + 5).to(tl.int32)
    side = tl.load(line + 6).to(tl.int32)  # of the input
    pixels = tl.load(line + 7).to(tl.int32)  # of all images' outputs
    pixel = tl.load(line + 8).to(tl.int32) + tl.arange(0, PIXELS)
    channel = tl.load(line + 9).to(tl.int32) + tl.arange(0, CHANNELS)
    out = side - 2
    image = pixel // (out * out)
    row = pixel % (out * out) // out
    column = pixel % out
    here, real = pixel < pixels, channel < c_out
    source = x + image * c_in * side * side + row * side + column
    weights = w + channel * c_in * 9
    total = tl.zeros((CHANNELS, PIXELS), dtype=tl.float32)
    for c in range(c_in):
        for k in tl.static_range(9):
            image_part = tl.load(source + c * side * side + (k // 3) * side + k % 3, mask=here, other=0.0)
            weight = tl.load(weights + c * 9 + k, mask=real, other=0.0)
            total += weight[:, None] * image_part[None, :]
    total += tl.load(b + channel, mask=real, other=0.0)[:, None]
    target = y + (image * c_out * out * out + row * out + column)[None, :] + (channel * out * out)[:, None]
    tl.store(target, tl.maximum(total, 0.0), mask=here[None, :] & real[:, None])


def convs(count: int) -> list[tuple[int, int, int]]:
    """Input channels, output channels and input side of every conv of the first candidates."""
    found = []
    for layers in candidates(count):
        architecture = parse(layers)
        for layer, shape in zip(architecture, check(architecture, CLASSIC.rules).shapes, strict=False):
            if isinstance(layer, Conv):
                found.append((shape.channels, layer.output_channels(shape.channels), shape.height))
    return found


@dataclass(frozen=True)
class Conv3x3:
    """One conv's tensors, views into buffers that all convs share."""

    image: Tensor  # (B, c_in, S, S)
    weight: Tensor  # (c_out, c_in, 3, 3)
    bias: Tensor  # (c_out,)
    output: Tensor  # (B, c_out, S - 2, S - 2), for the ragged kernel


class Convs:
    """All convs of some candidates, on random numbers."""

    def __init__(self, count: int, batch: int, device: str) -> None:
        self.shapes, self.batch, self.device = convs(count), batch, device
        self._generator = torch.Generator(device).manual_seed(0)
        shapes = self.shapes
        self.x, x_at, xs = self._pieces([(batch, c, s, s) for c, _, s in shapes])
        self.w, w_at, ws = self._pieces([(o, c, 3, 3) for c, o, _ in shapes])
        self.b, b_at, bs = self._pieces([(o,) for _, o, _ in shapes])
        self.y, y_at, ys = self._pieces([(batch, o, s - 2, s - 2) for _, o, s in shapes])
        self.y.fill_(float("nan"))
        self.convs = [Conv3x3(*parts) for parts in zip(xs, ws, bs, ys, strict=True)]
        lines = [
            (x_at[i], w_at[i], b_at[i], y_at[i], c, o, s, batch * (s - 2) ** 2, pixel, channel)
            for i, (c, o, s) in enumerate(shapes)
            for pixel in range(0, batch * (s - 2) ** 2, PIXELS)
            for channel in range(0, o, CHANNELS)
        ]
        self.tiles = torch.tensor(lines, device=device)  # (tiles, 10)

    def _pieces(self, shapes: list[tuple[int, ...]]) -> tuple[Tensor, list[int], list[Tensor]]:
        """One buffer of random numbers, where each part begins in it (on 16 bytes), and the parts."""
        sizes = [math.prod(shape) for shape in shapes]
        starts = [0, *accumulate(-(-size // 4) * 4 for size in sizes)]
        whole = torch.randn(starts[-1], device=self.device, generator=self._generator)
        parts = [whole[at : at + n].view(shape) for at, n, shape in zip(starts, sizes, shapes, strict=False)]
        return whole, starts, parts

    @property
    def flops(self) -> int:
        """Of all convs, a multiply-add counted as two."""
        return sum(2 * 9 * c * o * (s - 2) ** 2 * self.batch for c, o, s in self.shapes)

    @property
    def bytes_moved(self) -> int:
        """Every input read once, every output written once."""
        return 4 * (self.x.numel() + self.w.numel() + self.y.numel())

    def ragged(self) -> None:
        """All in one launch."""
        ragged_conv[(len(self.tiles),)](
            self.tiles, self.x, self.w, self.b, self.y, PIXELS=PIXELS, CHANNELS=CHANNELS, num_warps=4
        )

    def cudnn(self) -> None:
        """One after the other."""
        for conv in self.convs:
            conv2d(conv.image, conv.weight, conv.bias).relu_()

    def cudnn_in_branches(self) -> None:
        """In branches of a graph, round robin."""
        lanes = streams_for(BRANCHES, self.device)
        works = [partial(self._every, first) for first in range(BRANCHES)]
        branched(works, lanes)

    def _every(self, first: int) -> None:
        for conv in self.convs[first::BRANCHES]:
            conv2d(conv.image, conv.weight, conv.bias).relu_()

    def worst_error(self) -> float:
        """Of what the ragged kernel wrote, relative to float64, a conv at a time."""
        errors = []
        for conv in self.convs:
            exact = conv2d(conv.image.double(), conv.weight.double(), conv.bias.double()).relu()
            errors.append(((conv.output - exact).norm() / exact.norm().clamp(min=1e-30)).item())
        return max(errors)


def main() -> None:
    """Check against float64, then time."""
    arguments = argparse.ArgumentParser(description="convs of many candidates in one launch, against cuDNN")
    arguments.add_argument("--count", type=int, default=128)
    arguments.add_argument("--batch", type=int, default=32)
    arguments.add_argument("--device", default="cuda")
    given = arguments.parse_args()
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
    work = Convs(given.count, given.batch, given.device)
    print(
        f"{len(work.shapes)} convs of {given.count} candidates, batch {given.batch}: {work.flops / 1e9:.2f} GFLOP, "
        f"{len(work.tiles)} tiles"
    )
    work.ragged()
    print(f"ragged against float64: relative error {work.worst_error():.1e} at most")
    work.cudnn()  # before it is recorded
    ways = {"ragged, one launch": work.ragged, "cuDNN, one after the other": work.cudnn}
    ways[f"cuDNN, {BRANCHES} branches"] = work.cudnn_in_branches
    rounds = 20 if given.device == "cuda" else 1
    for label, way in ways.items():
        recording = Recording(way, given.device)
        recording.replay()
        taken = [timed(partial(repeat, recording.replay, rounds), given.device) / rounds for _ in range(5)]
        seconds = statistics.median(taken)
        nodes = Runtime().nodes(recording.raw)[0] if given.device == "cuda" else 0
        print(
            f"{label}: {1e6 * seconds:.0f} us ({1e6 * min(taken):.0f} to {1e6 * max(taken):.0f}), "
            f"{work.flops / seconds / 1e12:.2f} TFLOP/s, {work.bytes_moved / seconds / 1e12:.2f} TB/s, {nodes} nodes",
            flush=True,
        )


if __name__ == "__main__":
    main()
