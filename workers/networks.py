"""From an architecture to a torch module.

The modules are PyTorch's own; only where randomness comes from differs: every random number, of the
initial weights and of dropout, comes from a generator that is passed in, so that a network is a
function of its seed and not of what else the process did.
"""

import math
from functools import singledispatch

import torch
from torch import Tensor, nn

from search.layers import Architecture, AvgPool, BatchNorm, Conv, Dropout, Layer, MaxPool, Shape
from search.shapes import Rules, check


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


@singledispatch
def _modules(layer: Layer, _shape: Shape, _noise: torch.Generator) -> list[nn.Module]:
    raise TypeError(f"no torch module for {type(layer).__name__}; add it here and in search/layers.py")


@_modules.register
def _(layer: Conv, shape: Shape, _noise: torch.Generator) -> list[nn.Module]:
    channels = layer.output_channels(shape.channels)
    return [nn.Conv2d(shape.channels, channels, layer.kernel_size, layer.stride, layer.padding), nn.ReLU()]


@_modules.register
def _(layer: BatchNorm, shape: Shape, _noise: torch.Generator) -> list[nn.Module]:
    return [nn.BatchNorm2d(shape.channels, eps=float(layer.eps))]


@_modules.register
def _(layer: AvgPool, _shape: Shape, _noise: torch.Generator) -> list[nn.Module]:
    return [nn.AvgPool2d(layer.kernel_size, layer.stride, layer.padding)]


@_modules.register
def _(layer: MaxPool, _shape: Shape, _noise: torch.Generator) -> list[nn.Module]:
    return [nn.MaxPool2d(layer.kernel_size, layer.stride, layer.padding)]


@_modules.register
def _(layer: Dropout, _shape: Shape, noise: torch.Generator) -> list[nn.Module]:
    return [ChannelDropout(float(layer.p), noise)]


def build(architecture: Architecture, rules: Rules, weights: torch.Generator, noise: torch.Generator) -> nn.Sequential:
    """The network of an architecture, (B, C, H, W) -> logits (B, classes), on the device of ``noise``.

    ``weights``, a generator of the CPU, gives the initial weights, which are so the same on every
    device; ``noise`` gives dropout's masks. Raises ValueError if the checker rejects the architecture.
    """
    verdict = check(architecture, rules)
    if verdict.reason:
        raise ValueError(f"{verdict.reason} at layer {verdict.layer}: {verdict.detail}")
    modules: list[nn.Module] = []
    for layer, shape in zip(architecture, verdict.shapes, strict=False):  # the last shape is the classifier's
        modules += _modules(layer, shape, noise)
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
