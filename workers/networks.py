"""From an architecture to a torch module.

The modules are PyTorch's own; only where randomness comes from differs: every random number, of the
initial weights and of dropout, comes from a generator that is passed in, so that a network is a
function of its seed and not of what else the process did.

How a training computes has a version, which is stored with a search, for other ways of computing round
otherwise: in version 1 convolutions are PyTorch's own, in version 2 those are ``Convolution``, which gives
the same within rounding and is faster on the CPU. Outside training both are the same to the last bit.
"""

import math
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from search.layers import Architecture, AvgPool, BatchNorm, Conv, Dropout, Layer, MaxPool, Shape
from search.settings import TRAINING_VERSION
from search.shapes import Rules, check

# The rule of version 2: which convolutions are computed as matrix products. It is part of recorded results:
# another rule is another version. Read from tests/benchmarks/training.py --shapes: within it products were
# 1.2 times as fast as PyTorch's own convolution in the median (0.7 to 3.0), 1.5 times where the input needs no
# gradient; beyond it 0.9 and 1.1 times.
MOST_OUTPUTS = 12  # channels
MOST_CHANNEL_PAIRS = 48  # of an input and an output channel
MOST_PATCH_NUMBERS = 2**21  # of a batch, which are kept until its gradients are computed: 8 MiB


def is_small(inputs: int, outputs: int, kernel_size: int, stride: int, padding: int, pixels: int) -> bool:
    """Whether a convolution is computed as a matrix product; ``pixels`` are a whole batch's, of the output."""
    return (
        (stride, padding) == (1, 0)
        and outputs <= MOST_OUTPUTS
        and inputs * outputs <= MOST_CHANNEL_PAIRS
        and inputs * kernel_size**2 * pixels <= MOST_PATCH_NUMBERS
    )


class _PatchProduct(torch.autograd.Function):
    """A convolution with stride 1 and no padding as a product of its weights and the input's patches ("im2col").

    After Chellapilla, Puri and Simard, "High Performance Convolutional Neural Networks for Document
    Processing", 2006. It pays because oneDNN, PyTorch's way, fills registers of 16 with as few as one
    channel, most of all for the input's gradient, which here is a convolution of the output's gradient with the
    turned weights; and because patches are made once, for the output and for the weights' gradient.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """(B, C, H, W), (D, C, k, k), (D,) -> (B, D, H', W'), with H' = H - k + 1."""
        batch, inputs, *sides = x.shape
        outputs, _, k, _ = weight.shape
        height, width = (side - k + 1 for side in sides)
        image, channel, row, column = x.stride()
        windows = x.as_strided(  # one view, as x.unfold(2, k, 1).unfold(3, k, 1) would give by two, and a permutation
            (batch, inputs, k, k, height, width), (image, channel, row, column, row, column)
        )
        patches = windows.reshape(batch, inputs * k * k, height * width)  # (B, C k k, H' W')
        ctx.save_for_backward(patches, weight)
        out = x.new_empty(batch, outputs, height, width)  # not a view, which a ReLU could not change in place
        matrix = weight.view(outputs, -1).expand(batch, outputs, inputs * k * k)
        torch.baddbmm(bias.view(outputs, 1), matrix, patches, out=out.view(batch, outputs, -1))
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        """Of the input, if it is asked for, the weights and the biases."""
        patches, weight = ctx.saved_tensors
        of_weight = torch.bmm(gradient.flatten(2), patches.transpose(1, 2)).sum(0).view_as(weight)
        of_input = None
        if ctx.needs_input_grad[0]:
            of_input = conv2d(gradient, weight.flip(2, 3).transpose(0, 1), padding=weight.shape[2] - 1)
        return of_input, of_weight, gradient.sum((0, 2, 3))


class Convolution(nn.Conv2d):
    """torch.nn.Conv2d, which computes small convolutions otherwise while it trains on the CPU."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, D, H', W')."""
        (k, _), (stride, _), padding = self.kernel_size, self.stride, int(self.padding[0])
        pixels = x.shape[0] * (x.shape[2] - k + 1) * (x.shape[3] - k + 1)
        small = is_small(self.in_channels, self.out_channels, k, stride, padding, pixels)
        if not (small and self.training and x.device.type == "cpu"):
            return super().forward(x)
        out: Tensor = _PatchProduct.apply(x, self.weight, self.bias)  # type: ignore[no-untyped-call]
        return out


class ChannelDropout(nn.Module):
    """torch.nn.Dropout2d with a generator of its own: whole channels of an image are zeroed while training."""

    def __init__(self, p: float, generator: torch.Generator) -> None:
        super().__init__()
        self.p = p
        self.generator = generator

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        if not self.training or self.p == 0:
            return x
        if self.p == 1:
            return x * 0
        keep = x.new_empty(x.shape[0], x.shape[1], 1, 1).bernoulli_(1 - self.p, generator=self.generator)
        return x * (keep / (1 - self.p))


@dataclass(frozen=True)
class _Making:
    """What is the same for all layers of a network."""

    noise: torch.Generator  # of dropout
    convolution: type[nn.Conv2d]  # by the version of the training


@singledispatch
def _modules(layer: Layer, _shape: Shape, _making: _Making) -> list[nn.Module]:
    raise TypeError(f"no torch module for {type(layer).__name__}; add it here and in search/layers.py")


@_modules.register
def _(layer: Conv, shape: Shape, making: _Making) -> list[nn.Module]:
    channels = layer.output_channels(shape.channels)
    convolution = making.convolution(shape.channels, channels, layer.kernel_size, layer.stride, layer.padding)
    return [convolution, nn.ReLU(inplace=True)]


@_modules.register
def _(layer: BatchNorm, shape: Shape, _making: _Making) -> list[nn.Module]:
    return [nn.BatchNorm2d(shape.channels, eps=float(layer.eps))]


@_modules.register
def _(layer: AvgPool, _shape: Shape, _making: _Making) -> list[nn.Module]:
    return [nn.AvgPool2d(layer.kernel_size, layer.stride, layer.padding)]


@_modules.register
def _(layer: MaxPool, _shape: Shape, _making: _Making) -> list[nn.Module]:
    return [nn.MaxPool2d(layer.kernel_size, layer.stride, layer.padding)]


@_modules.register
def _(layer: Dropout, _shape: Shape, making: _Making) -> list[nn.Module]:
    return [ChannelDropout(float(layer.p), making.noise)]


def build(
    architecture: Architecture,
    rules: Rules,
    weights: torch.Generator,
    noise: torch.Generator,
    training_version: int = TRAINING_VERSION,
) -> nn.Sequential:
    """The network of an architecture, (B, C, H, W) -> logits (B, classes), on the device of ``noise``.

    ``weights``, a generator of the CPU, gives the initial weights, which are so the same on every
    device; ``noise`` gives dropout's masks. Raises ValueError if the checker rejects the architecture.
    """
    verdict = check(architecture, rules)
    if verdict.reason:
        raise ValueError(f"{verdict.reason} at layer {verdict.layer}: {verdict.detail}")
    making = _Making(noise, nn.Conv2d if training_version == 1 else Convolution)
    modules: list[nn.Module] = []
    for layer, shape in zip(architecture, verdict.shapes, strict=False):  # the last shape is the classifier's
        modules += _modules(layer, shape, making)
    modules += [nn.Flatten(), nn.Linear(verdict.shapes[-1].elements, rules.classes)]
    network = nn.Sequential(*modules)
    initialise(network, weights)
    return network.to(noise.device)


def initialise(network: nn.Module, generator: torch.Generator) -> None:
    """Draw the weights of convolutions and linear layers, in order, as PyTorch's reset_parameters does."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_uniform_(module.weight, a=math.sqrt(5), generator=generator)
            bound = 1 / math.sqrt(module.weight[0].numel())  # 1 / sqrt(fan in)
            assert module.bias is not None
            nn.init.uniform_(module.bias, -bound, bound, generator=generator)
