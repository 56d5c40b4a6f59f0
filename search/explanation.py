"""What happened at the layer that a rejection names, in plain words: its input, the rule, and the rule's numbers."""

from typing import Any

from search.candidates import RejectionReason
from search.layers import Architecture, Shape, format_layer, plain
from search.shapes import Verdict


def explain(architecture: Architecture, verdict: Verdict) -> str | None:
    """A paragraph on why an architecture was rejected; None for a valid one."""
    if verdict.reason is None:
        return None
    if verdict.layer is None:
        return (
            f"No layer is at fault, but the network as a whole, its classifier included, is over budget: "
            f"{verdict.detail}. That is a limit of the space, not of PyTorch."
        )
    layer, shape = architecture[verdict.layer], verdict.shapes[-1]
    rule = _rule(verdict.reason, layer, shape)
    return f"Layer {verdict.layer}, {format_layer(layer)}, gets {shape} (channels x height x width). {rule}"


def _rule(reason: RejectionReason, layer: Any, shape: Shape) -> str:
    side = min(shape.height, shape.width)
    match reason:
        case RejectionReason.CHANNELS_EXCEED_SIDE:
            return (
                f"A conv's input may have no more channels than its height or width, but {shape.channels} is more than "
                f"{side}. That is a rule of the space (channels_within_side), not of PyTorch."
            )
        case RejectionReason.CHANNELS_BELOW_ONE:
            return (
                "A conv gives floor(input channels * channel_factor) channels, and a network needs at least 1: "
                f"floor({shape.channels} * {plain(layer.channel_factor)}) = {layer.output_channels(shape.channels)}."
            )
        case RejectionReason.PADDING_EXCEEDS_HALF_KERNEL:
            return (
                "A pool's padding may be at most floor(kernel_size / 2), but "
                f"{layer.padding} is more than floor({layer.kernel_size} / 2) = {layer.kernel_size // 2}. "
                "PyTorch refuses it too."
            )
        case _:
            return (
                "A side becomes floor((side + 2 * padding - kernel_size) / stride) + 1, and the kernel must fit in the "
                f"padded side, but {layer.kernel_size} is more than {side} + 2 * {layer.padding} = "
                f"{side + 2 * layer.padding}. PyTorch refuses it too."
            )
