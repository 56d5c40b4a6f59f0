"""A trained network as two files that need netsieve no more: its weights, and a module that loads them.

    FOLDER/weights.safetensors   the state dict; its metadata say where it comes from
    FOLDER/model.py              plain torch.nn, a layer a line, and ``load()``

The folder appears whole or not at all, also when power fails. The module is text made from the layer
string, not from the network, so that a test can hold one against the other. Not covered: ONNX,
TorchScript, other formats.
"""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import singledispatch
from pathlib import Path

from safetensors.torch import save
from torch import nn

from search.candidates import TestResult, clean_detail
from search.errors import NetsieveError, SettingsError
from search.layer_string import format_architecture, parse
from search.layers import AvgPool, BatchNorm, Conv, Dropout, Layer, MaxPool, Shape
from search.settings import Recipe
from search.shapes import Rules, check

WEIGHTS = "weights.safetensors"
MODULE = "model.py"


@dataclass(frozen=True)
class Provenance:
    """Where a trained network comes from; stands in both files."""

    search: str  # its name
    index: int  # of the candidate
    layers: str
    seed: int  # the search's, or what was given instead
    dataset: str
    recipe: Recipe
    val_accuracy: float  # after the last epoch, 0 to 1
    test: TestResult | None


def require_free(folder: Path) -> None:
    """Raise SettingsError unless a new folder can be put there; asked before a training, not after it."""
    try:
        if folder.is_dir() and any(folder.iterdir()):
            raise SettingsError(f"--out {folder}: is not empty; name a new folder")
        if not folder.is_dir() and (folder.exists() or folder.is_symlink()):
            raise SettingsError(f"--out {folder}: is not a folder; name a new one")
        above = next(parent for parent in folder.absolute().parents if parent.exists())
    except OSError as error:
        raise SettingsError(f"--out {folder}: cannot be looked at ({error.strerror}); name another folder") from None
    if not (above.is_dir() and os.access(above, os.W_OK | os.X_OK)):
        raise SettingsError(f"--out {folder}: nothing can be written in {above}; name another folder")


def write(folder: Path, network: nn.Module, rules: Rules, provenance: Provenance) -> None:
    """Write both files into a new folder, made beside its place, forced to the disk and renamed.

    Raises NetsieveError.
    """
    target = folder.resolve()
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    try:
        fresh = sum(not parent.exists() for parent in target.parents)
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name[:100]}-") as beside:
            whole = Path(beside) / "whole"
            whole.mkdir()
            _write_through(whole / MODULE, source(rules, provenance).encode())
            _write_through(whole / WEIGHTS, save(tensors, metadata(provenance)))
            _keep_names(whole)
            whole.replace(target)
        for above in target.parents[: fresh + 1]:
            _keep_names(above)
    except OSError as error:
        raise NetsieveError(
            f"--out {folder}: cannot be written ({error.strerror}); make room, or name another folder"
        ) from None


def _write_through(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _keep_names(folder: Path) -> None:
    """Have a folder's list of names on the disk too, where folders can be synced."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def metadata(provenance: Provenance) -> dict[str, str]:
    """What stands in the weights' file beside them: text, as safetensors wants it."""
    values = {name: value for name, value in asdict(provenance).items() if value is not None}
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}


# ------------------------------------------------------------------ the module's text

_MODULE = '''"""{summary}

{origin}

Layer string, a layer a line; a ReLU follows every conv, a linear classifier the last layer:

{layers}

Input: float32 images {input}, {scaling}.
Output: logits {output}.

    import torch
    from model import load

    network = load()
    with torch.no_grad():
        classes = network(images).argmax(dim=1)  # (B,)

Needs torch and safetensors, and {weights} beside this file.
"""

from pathlib import Path

from safetensors.torch import load_file
from torch import nn

WEIGHTS = Path(__file__).with_name("{weights}")


def build() -> nn.Sequential:
    """The network with random weights: {input} -> {output}."""
    return nn.Sequential(
{modules}
    )


def load(weights: Path = WEIGHTS) -> nn.Sequential:
    """The trained network, in eval mode, on the CPU."""
    network = build()
    network.load_state_dict(load_file(weights))
    return network.eval()


if __name__ == "__main__":
    trained = load()
    print(trained)
    print(f"{{sum(p.numel() for p in trained.parameters()):,}} parameters")
'''


def source(rules: Rules, provenance: Provenance) -> str:
    """The text of the module. Raises ValueError if the checker rejects the layer string."""
    architecture = parse(provenance.layers)
    verdict = check(architecture, rules)
    if verdict.reason:
        raise ValueError(f"{verdict.reason} at layer {verdict.layer}: {verdict.detail}")
    features, logits = f"(B, {verdict.shapes[-1].elements})", f"(B, {rules.classes})"
    lines = []
    for layer, before, after in zip(architecture, verdict.shapes, verdict.shapes[1:], strict=False):
        first, *others = _modules(layer, before)
        lines += [f"{first},  # {_batch_of(after)}", *(f"{other}," for other in others)]
    lines += [
        f"nn.Flatten(),  # {features}",
        f"nn.Linear({verdict.shapes[-1].elements}, {rules.classes}),  # {logits}",
    ]
    return _MODULE.format(
        summary=f"Network {provenance.index} of the search {provenance.search}, found and trained by netsieve.",
        origin="\n".join(_origin(provenance)),
        layers="\n".join(f"    {format_architecture((layer,))}" for layer in architecture),
        input=_batch_of(rules.input_shape),
        output=logits,
        scaling=_scaling(provenance.dataset),
        weights=WEIGHTS,
        modules="\n".join(f"        {line}" for line in lines),
    )


def _origin(provenance: Provenance) -> Iterator[str]:
    recipe = provenance.recipe
    val_images = recipe.train_images - recipe.images_for_training
    yield f"Dataset {_in_docstring(provenance.dataset)}: the first {recipe.train_images:,} training images,"
    yield f"{recipe.images_for_training:,} to train on and {val_images:,} to validate on."
    yield f"Recipe: {recipe.epochs:,} epochs of SGD, batch {recipe.batch_size}, learning rate {recipe.learning_rate},"
    yield f"search seed {provenance.seed}."
    yield f"Accuracy: {provenance.val_accuracy:.4f} on the validation images, by which searches choose;"
    if provenance.test is None:
        yield "not measured on test images."
    else:
        yield f"{provenance.test.accuracy:.4f} on {provenance.test.images:,} test images."


def _scaling(dataset: str) -> str:
    """What was done to the dataset's pixels, as workers/datasets.py does it."""
    if dataset == "digits":
        return "from 0 to 1: scikit-learn's 8x8 values over 16,\nbilinearly resized to 28x28 (align_corners=False)"
    return "from 0 to 1: byte values over 255"


def _in_docstring(text: str) -> str:
    """Any text, a path for example, as it may stand in a docstring."""
    return clean_detail(text).replace("\\", "\\\\").replace('"', '\\"')


def _batch_of(shape: Shape) -> str:
    return f"(B, {shape.channels}, {shape.height}, {shape.width})"


@singledispatch
def _modules(layer: Layer, _shape: Shape) -> list[str]:
    raise TypeError(f"no module's text for {type(layer).__name__}; add it here and in workers/networks.py")


@_modules.register
def _(layer: Conv, shape: Shape) -> list[str]:
    channels = f"{shape.channels}, {layer.output_channels(shape.channels)}"
    return [f"nn.Conv2d({channels}, {_window(layer)})", "nn.ReLU()"]


@_modules.register
def _(layer: BatchNorm, shape: Shape) -> list[str]:
    return [f"nn.BatchNorm2d({shape.channels}, eps={float(layer.eps)!r})"]


@_modules.register
def _(layer: AvgPool, _shape: Shape) -> list[str]:
    return [f"nn.AvgPool2d({_window(layer)})"]


@_modules.register
def _(layer: MaxPool, _shape: Shape) -> list[str]:
    return [f"nn.MaxPool2d({_window(layer)})"]


@_modules.register
def _(layer: Dropout, _shape: Shape) -> list[str]:
    return [f"nn.Dropout2d(p={float(layer.p)!r})"]


def _window(layer: Conv | AvgPool | MaxPool) -> str:
    return f"kernel_size={layer.kernel_size}, stride={layer.stride}, padding={layer.padding}"
