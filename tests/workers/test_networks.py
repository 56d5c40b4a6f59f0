"""Networks against the checker, against PyTorch's own modules, and as a function of their generators."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from search.layer_string import parse
from search.layers import Architecture, Shape, Unweighted
from search.samplers import RejectionSampler
from search.shapes import Rules, check
from search.space import CLASSIC, SearchSpace
from workers.networks import ChannelDropout, Convolution, _PatchProduct, build, is_small

CONV = "conv=channel_factor:3,kernel_size:3,stride:1,padding:0-"
# What the classic space never draws: colour, unequal sides, strides, padding, overlap, layers twice.
ODD = SearchSpace(
    name="odd",
    input_shape=Shape(3, 23, 17),
    classes=7,
    min_layers=1,
    max_layers=6,
    replacement=True,
    channels_within_side=False,
    layers=parse(
        "conv=channel_factor:2,kernel_size:3,stride:2,padding:1-conv=channel_factor:0.7,kernel_size:4,stride:3,padding:2-"
        "conv=channel_factor:1.5,kernel_size:1,stride:1,padding:0-batchnorm=eps:0.5-dropout=p:1-dropout=p:0-"
        "avgpool=kernel_size:3,stride:2,padding:1-maxpool=kernel_size:3,stride:1,padding:1-"
    ),
)


def generator(seed: int) -> torch.Generator:
    """A generator of the CPU."""
    return torch.Generator().manual_seed(seed)


def made(layers: str | Architecture, rules: Rules = CLASSIC.rules, seed: int = 0) -> nn.Sequential:
    """A network whose generators have this seed."""
    architecture = parse(layers) if isinstance(layers, str) else layers
    return build(architecture, rules, generator(seed), generator(seed))


def drawn() -> list[tuple[Architecture, Rules]]:
    """The valid ones of 180 draws, from two spaces."""
    return [
        (architecture, space.rules)
        for space, draws in ((CLASSIC, 150), (ODD, 30))
        for architecture in RejectionSampler(space, seed=3).draw(0, draws)
        if check(architecture, space.rules).valid
    ]


def walk(network: nn.Sequential, x: Tensor) -> Iterator[tuple[int, ...]]:
    """The shape of one image after each layer of the string; a conv ends with its ReLU."""
    modules = list(network)[:-2]  # without the classifier
    for module, following in zip(modules, [*modules[1:], None], strict=True):
        x = module(x)
        if not isinstance(following, nn.ReLU):
            yield tuple(x.shape[1:])


# ------------------------------------------------------------------ what is built


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (CONV, [Convolution(1, 3, 3), nn.ReLU(inplace=True)]),
        (
            "conv=channel_factor:2,kernel_size:5,stride:3,padding:2-",
            [Convolution(1, 2, 5, stride=3, padding=2), nn.ReLU(inplace=True)],
        ),
        ("batchnorm=eps:0.0001-", [nn.BatchNorm2d(1, eps=0.0001)]),
        ("avgpool=kernel_size:4,stride:3,padding:1-", [nn.AvgPool2d(4, 3, 1)]),
        ("maxpool=kernel_size:2,stride:1,padding:1-", [nn.MaxPool2d(2, 1, 1)]),
        ("dropout=p:0.4-", [ChannelDropout(0.4, torch.Generator())]),
    ],
)
def test_every_kind_becomes_its_module(layers: str, expected: list[nn.Module]) -> None:
    """A layer becomes PyTorch's module with the same settings, a conv also a ReLU, and a classifier follows."""
    *modules, flatten, linear = made(layers)
    assert [repr(module) for module in modules] == [repr(module) for module in expected]
    assert isinstance(flatten, nn.Flatten)
    assert isinstance(linear, nn.Linear)
    assert (linear.in_features, linear.out_features) == (check(parse(layers), CLASSIC.rules).shapes[-1].elements, 10)


def test_dropout_keeps_its_probability() -> None:
    """The p of the string reaches the module."""
    (dropout,) = (module for module in made("dropout=p:0.4-") if isinstance(module, ChannelDropout))
    assert dropout.p == 0.4


def test_shapes_and_parameters_equal_the_checkers() -> None:
    """After every layer of dozens of drawn strings the shape is the trace's, and so is the number of parameters."""
    architectures = drawn()
    assert len(architectures) >= 48
    for architecture, rules in architectures:
        network, verdict = made(architecture, rules), check(architecture, rules)
        images = torch.rand(2, *rules.input_shape)
        assert list(walk(network, images)) == [tuple(shape) for shape in verdict.shapes[1:]]
        assert network(images).shape == (2, rules.classes)
        assert sum(parameter.numel() for parameter in network.parameters()) == verdict.parameters


def test_refuses_what_the_checker_rejects() -> None:
    """An architecture that cannot be built is a ValueError with the checker's reason, layer and detail."""
    with pytest.raises(ValueError, match=r"kernel_exceeds_input at layer 1: a 9x9 kernel does not fit in 7x7"):
        made("avgpool=kernel_size:4,stride:4,padding:0-maxpool=kernel_size:9,stride:1,padding:0-")


@dataclass(frozen=True)
class Mirror(Unweighted):
    """A kind of layer that only the checker knows."""

    kind = "mirror"

    def output_shape(self, shape: Shape) -> Shape:
        """The input's shape."""
        return shape


def test_a_kind_without_a_module_says_where_to_add_it() -> None:
    """A layer that torch knows nothing of is a TypeError that names it and the two places to edit."""
    with pytest.raises(TypeError, match=r"no torch module for Mirror; add it here and in search/layers\.py"):
        made((Mirror(),))  # type: ignore[arg-type]


# ------------------------------------------------------------------ convolutions


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ((1, 2, 3, 1, 0, 32 * 26**2), True),
        ((4, 12, 3, 1, 0, 32 * 24**2), True),
        ((1, 13, 3, 1, 0, 32 * 26**2), False),  # many output channels
        ((7, 7, 3, 1, 0, 32), False),  # many pairs of channels
        ((1, 1, 1, 1, 0, 2**21), True),
        ((1, 1, 1, 1, 0, 2**21 + 1), False),  # a large batch, or large images
        ((1, 2, 3, 2, 0, 32), False),
        ((1, 2, 3, 1, 1, 32), False),
    ],
)
def test_which_convolutions_are_small_never_changes(what: tuple[int, int, int, int, int, int], expected: bool) -> None:
    """The rule is part of recorded results: a change of it is a new version of the training."""
    assert is_small(*what) is expected


def in_training(module: nn.Conv2d, x: Tensor) -> tuple[Tensor, ...]:
    """The output, and the gradients of input, weights and biases, of a sum that weighs every number differently."""
    out = module.train()(x)
    by = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    return out, *torch.autograd.grad((out * by).sum(), [x, module.weight, module.bias])


def twins(inputs: int, outputs: int, kernel_size: int, stride: int, padding: int) -> tuple[nn.Conv2d, nn.Conv2d]:
    """Ours and PyTorch's, with the same weights."""
    ours, torchs = (kind(inputs, outputs, kernel_size, stride, padding) for kind in (Convolution, nn.Conv2d))
    with torch.no_grad():
        for number, (one, other) in enumerate(zip(ours.parameters(), torchs.parameters(), strict=True)):
            one.uniform_(-1, 1, generator=generator(number))
            other.copy_(one)
    return ours, torchs


@pytest.mark.parametrize("inputs", [1, 4])
@pytest.mark.parametrize(("outputs", "kernel_size"), [(1, 3), (3, 1), (12, 2), (5, 5)])
def test_small_convolutions_are_pytorchs_within_rounding(inputs: int, outputs: int, kernel_size: int) -> None:
    """Output and all gradients, with unequal sides, and of an input that does not lie in one piece."""
    ours, torchs = twins(inputs, outputs, kernel_size, 1, 0)
    x = torch.rand(6, inputs, 9, 7, generator=generator(3))[1:].transpose(2, 3).requires_grad_()
    results = list(zip(in_training(ours, x), in_training(torchs, x), strict=True))
    for one, other in results:
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    assert kernel_size == 1 or not all(torch.equal(one, other) for one, other in results)  # not the same code


def test_small_convolutions_gradients_are_those_of_differences() -> None:
    """Independently of PyTorch's convolution, in double precision."""
    x, weight, bias = (
        torch.rand(shape, dtype=torch.float64, generator=generator(4)).requires_grad_()
        for shape in ((2, 2, 5, 4), (3, 2, 3, 3), (3,))
    )
    assert torch.autograd.gradcheck(_PatchProduct.apply, (x, weight, bias))


@pytest.mark.parametrize("shape", [(1, 13, 3, 1, 0), (7, 7, 3, 1, 0), (2, 3, 3, 2, 0), (2, 3, 3, 1, 1)])
def test_other_convolutions_are_pytorchs(shape: tuple[int, int, int, int, int]) -> None:
    """To the last bit, with their gradients."""
    ours, torchs = twins(*shape)
    x = torch.rand(4, shape[0], 9, 8, generator=generator(3)).requires_grad_()
    for one, other in zip(in_training(ours, x), in_training(torchs, x), strict=True):
        assert torch.equal(one, other)


def test_outside_training_all_convolutions_are_pytorchs() -> None:
    """To the last bit: what a network says does not depend on how it was trained."""
    ours, torchs = twins(1, 3, 3, 1, 0)
    x = torch.rand(32, 1, 28, 28, generator=generator(3))
    assert torch.equal(ours.eval()(x), torchs(x))
    assert not torch.equal(ours.train()(x), torchs(x))


def test_the_first_version_has_pytorchs_convolutions() -> None:
    """Searches of version 1 go on with the numbers that they began with."""
    old = build(parse(CONV), CLASSIC.rules, generator(0), generator(0), training_version=1)
    assert [type(module) for module in old] == [nn.Conv2d, nn.ReLU, nn.Flatten, nn.Linear]
    assert type(made(CONV)[0]) is Convolution
    assert same(old, made(CONV))


# ------------------------------------------------------------------ initial weights


def weights_of(network: nn.Module) -> list[Tensor]:
    """All parameters, in order."""
    return [parameter.detach() for parameter in network.parameters()]


def same(one: nn.Module, other: nn.Module) -> bool:
    """Whether two networks have equal weights, to the last bit."""
    return all(torch.equal(a, b) for a, b in zip(weights_of(one), weights_of(other), strict=True))


def test_weights_depend_on_the_generator_only() -> None:
    """Whatever was drawn from torch's global generator before, two builds are equal; another seed gives others."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        first = made(CONV + CONV, seed=5)
        torch.manual_seed(2)
        torch.rand(1_000)
        again, other = made(CONV + CONV, seed=5), made(CONV + CONV, seed=6)
    assert same(first, again)
    assert not any(torch.equal(a, b) for a, b in zip(weights_of(first), weights_of(other), strict=True))


def test_weights_do_not_depend_on_the_noise() -> None:
    """Dropout's generator does not enter the weights."""
    one, other = (
        build(parse(CONV + "dropout=p:0.2-"), CLASSIC.rules, generator(5), generator(noise)) for noise in (1, 2)
    )
    assert same(one, other)


def test_weights_are_those_of_reset_parameters() -> None:
    """Given the same random numbers, the weights equal those that PyTorch's modules give themselves."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        torchs = nn.Sequential(
            nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 9, 3), nn.ReLU(), nn.Flatten(), nn.Linear(9 * 24**2, 10)
        )
    assert same(made(CONV + CONV, seed=11), torchs)


@pytest.mark.parametrize("position", [0, -1], ids=["conv", "linear"])
def test_weights_are_uniform_within_the_fan_in(position: int) -> None:
    """Weights fill [-1, 1] / sqrt(fan in) evenly, and biases keep to it too."""
    module = made("conv=channel_factor:20,kernel_size:5,stride:2,padding:0-")[position]
    assert isinstance(module, nn.Conv2d | nn.Linear)
    bound = 1 / math.sqrt(module.weight[0].numel())
    weights = module.weight.detach()
    assert 0.98 * bound < weights.abs().max() <= bound
    assert weights.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.06)
    assert module.bias is not None
    assert module.bias.abs().max() <= bound


def test_batchnorm_begins_as_the_identity() -> None:
    """Scale 1 and shift 0, as PyTorch begins."""
    norm = made("batchnorm=eps:0.00001-")[0]
    assert [parameter.tolist() for parameter in norm.parameters()] == [[1.0], [0.0]]


# ------------------------------------------------------------------ dropout

CHANNELS = torch.rand(200, 50, 2, 3, generator=generator(1)) + 0.5  # (B, C, H, W), nowhere zero


@pytest.mark.parametrize("p", [0.1, 0.2, 0.4, 0.9])
def test_dropout_zeroes_whole_channels_and_scales_the_others(p: float) -> None:
    """A channel of an image is zero everywhere, or its values over 1 - p; the share of zeros is near p."""
    out = ChannelDropout(p, generator(2))(CHANNELS)
    zeroed = (out == 0).flatten(2)
    assert torch.equal(zeroed.any(dim=2), zeroed.all(dim=2))
    kept = ~zeroed.all(dim=2)
    torch.testing.assert_close(out[kept], CHANNELS[kept] / (1 - p))
    assert 1 - kept.float().mean().item() == pytest.approx(p, abs=5 * math.sqrt(p * (1 - p) / kept.numel()))


@pytest.mark.parametrize("p", [0.2, 0.4])
def test_dropout_agrees_with_torchs(p: float) -> None:
    """Zeroed channels an image have the mean and variance of nn.Dropout2d's, and so have the outputs."""
    images = torch.ones(4_000, 20, 1, 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        torchs = nn.Dropout2d(p)(images)
    ours = ChannelDropout(p, generator(1))(images)
    for out in (ours, torchs):
        zeroed = (out == 0).sum(dim=(1, 2, 3)).float()
        assert zeroed.mean().item() == pytest.approx(20 * p, rel=0.03)
        assert zeroed.var().item() == pytest.approx(20 * p * (1 - p), rel=0.1)
    torch.testing.assert_close(ours.unique(), torchs.unique())


def test_dropout_does_nothing_in_eval_mode_and_at_zero() -> None:
    """Outside training, and with p = 0, the input passes unchanged and no random number is drawn."""
    noise = generator(4)
    before = noise.get_state()
    assert torch.equal(ChannelDropout(0.4, noise).eval()(CHANNELS), CHANNELS)
    assert torch.equal(ChannelDropout(0.0, noise)(CHANNELS), CHANNELS)
    assert torch.equal(noise.get_state(), before)


def test_dropout_of_everything_gives_zeros() -> None:
    """With p = 1 nothing is left, and nothing is divided by zero."""
    assert torch.equal(ChannelDropout(1.0, generator(4))(CHANNELS), torch.zeros_like(CHANNELS))


def test_dropout_passes_gradients_to_what_is_kept() -> None:
    """The gradient is the mask: 0 where a channel is dropped, 1 / (1 - p) elsewhere."""
    x = torch.ones(8, 6, 2, 2, requires_grad=True)
    out = ChannelDropout(0.4, generator(4))(x)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    assert torch.equal(gradient, out.detach())


def test_dropout_is_reproducible_from_its_generator() -> None:
    """Equal generators give equal masks, one after the other; another seed gives other masks."""
    one, again, other = (ChannelDropout(0.4, generator(seed)) for seed in (7, 7, 8))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        first = [one(CHANNELS) for _ in range(3)]
        torch.manual_seed(2)
        second = [again(CHANNELS) for _ in range(3)]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], other(CHANNELS))
