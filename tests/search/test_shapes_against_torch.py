"""The checker against PyTorch: the same architectures, built with real modules and run in train mode."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal

import numpy as np
import pytest
import torch
from torch import nn

from search.candidates import RejectionReason
from search.layers import Architecture, AvgPool, BatchNorm, Conv, Dropout, Layer, MaxPool, Shape
from search.samplers import RejectionSampler
from search.shapes import Rules, Verdict, check
from search.space import CLASSIC

pytestmark = pytest.mark.filterwarnings("ignore:Initializing zero-element tensors:UserWarning")

BATCH = 32
CHUNK = 2_600  # strings; eight chunks make 20,800
OWN_RULES = {RejectionReason.CHANNELS_EXCEED_SIDE, RejectionReason.OVER_BUDGET}  # PyTorch does not know them
FACTORS = ("0.1", "0.3", "0.4", "0.5", "0.7", "0.99", "1", "1.5", "2", "2.25", "3")


def torch_module(layer: Layer, channels: int) -> nn.Module:
    """The module that a layer stands for; written apart from ``workers.networks`` on purpose."""
    match layer:
        case Conv():
            out = int(Decimal(channels) * layer.channel_factor)
            conv = nn.Conv2d(channels, out, layer.kernel_size, stride=layer.stride, padding=layer.padding)
            return nn.Sequential(conv, nn.ReLU())
        case BatchNorm():
            return nn.BatchNorm2d(channels, eps=float(layer.eps))
        case AvgPool():
            return nn.AvgPool2d(layer.kernel_size, stride=layer.stride, padding=layer.padding)
        case MaxPool():
            return nn.MaxPool2d(layer.kernel_size, stride=layer.stride, padding=layer.padding)
        case Dropout():
            return nn.Dropout2d(float(layer.p))


def torch_walk(architecture: Architecture, rules: Rules) -> tuple[list[Shape], int | None, int | None]:
    """Shapes after each layer, the layer that PyTorch refuses, and the parameters of the whole network.

    A layer is refused when building or running it raises, or when its result holds nothing: a
    convolution to no channels is built by some versions, and gives an empty tensor.
    """
    shapes = [rules.input_shape]
    parameters = 0
    x = torch.rand(BATCH, *rules.input_shape)
    for position, layer in enumerate(architecture):
        try:
            module = torch_module(layer, shapes[-1].channels).train()
            x = module(x)
        except (RuntimeError, ValueError):
            return shapes, position, None
        if x.numel() == 0:
            return shapes, position, None
        shapes.append(Shape(*x.shape[1:]))
        parameters += sum(p.numel() for p in module.parameters())
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(shapes[-1].elements, rules.classes)).train()
    assert classifier(x).shape == (BATCH, rules.classes)
    return shapes, None, parameters + sum(p.numel() for p in classifier.parameters())


def classic_strings(seed: int) -> Iterator[tuple[Architecture, Rules]]:
    """Draws of the classic space, by its rules."""
    for architecture in RejectionSampler(CLASSIC, seed).draw(0, CHUNK):
        yield architecture, CLASSIC.rules


def wild_strings(seed: int) -> Iterator[tuple[Architecture, Rules]]:
    """Other kernels, strides, paddings, factors and input shapes, from a seed."""
    random = np.random.default_rng(seed)

    def layer() -> Layer:
        kernel, stride = int(random.integers(1, 8)), int(random.integers(1, 5))
        match random.integers(8):
            case 0 | 1 | 2:
                factor = Decimal(FACTORS[random.integers(len(FACTORS))])
                return Conv(factor, kernel, stride, int(random.integers(0, 5)))
            case 3 | 4:
                return MaxPool(kernel, stride, int(random.integers(0, kernel // 2 + 2)))
            case 5 | 6:
                return AvgPool(kernel, stride, int(random.integers(0, kernel // 2 + 2)))
            case _:
                return BatchNorm(Decimal("0.001")) if random.integers(2) else Dropout(Decimal("0.3"))

    for _ in range(CHUNK):
        shape = Shape(int(random.integers(1, 6)), int(random.integers(1, 33)), int(random.integers(1, 33)))
        rules = Rules(shape, int(random.integers(1, 12)), channels_within_side=bool(random.integers(2)))
        yield tuple(layer() for _ in range(random.integers(1, 7))), replace(rules, max_macs=2_000_000)


def compare(architecture: Architecture, rules: Rules) -> Verdict:
    """Check one string both ways; the checker's verdict."""
    verdict = check(architecture, rules)
    if verdict.reason is RejectionReason.OVER_BUDGET:
        return verdict
    reached = architecture[: verdict.layer] if verdict.reason in OWN_RULES else architecture
    shapes, refused, parameters = torch_walk(reached, rules)
    assert list(verdict.shapes) == shapes, (architecture, rules)
    if verdict.reason not in OWN_RULES:
        assert verdict.layer == refused, (architecture, rules, verdict)
        assert verdict.parameters == parameters, (architecture, rules)
    return verdict


CHUNKS = [(classic_strings, seed) for seed in range(4)] + [(wild_strings, seed) for seed in range(4, 8)]
ALWAYS = {None: 100, RejectionReason.CHANNELS_BELOW_ONE: 100, RejectionReason.KERNEL_EXCEEDS_INPUT: 100}


@pytest.mark.parametrize(("strings", "seed"), CHUNKS, ids=lambda value: getattr(value, "__name__", value))
def test_the_checker_agrees_with_pytorch(strings: object, seed: int) -> None:
    """Same shapes, same verdict at the same layer, same number of parameters, on every string."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    with torch.no_grad():
        seen = Counter(compare(*string).reason for string in strings(seed))  # type: ignore[operator]
    assert sum(seen.values()) == CHUNK
    expected = ALWAYS if strings is classic_strings else {**ALWAYS, RejectionReason.PADDING_EXCEEDS_HALF_KERNEL: 100}
    assert {reason: seen[reason] for reason, least in expected.items() if seen[reason] < least} == {}


def test_the_comparison_can_fail() -> None:
    """A checker that miscounts one shape, or one parameter, would be found."""
    architecture = (Conv(Decimal(2), 3, 1, 0),)
    shapes, refused, parameters = torch_walk(architecture, Rules())
    assert (shapes, refused, parameters) == ([Shape(1, 28, 28), Shape(2, 26, 26)], None, 2 * 9 + 2 + 1352 * 10 + 10)
    assert torch_walk((MaxPool(4, 4, 3),), Rules())[1] == 0
    assert torch_walk((Conv(Decimal("0.4"), 3, 1, 0),), Rules())[1] == 0
