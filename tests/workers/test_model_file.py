"""A trained network as files: what they give without netsieve, what they say, and that they are whole or not there."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from search.candidates import TestResult
from search.errors import NetsieveError, SettingsError
from search.layer_string import format_architecture, parse
from search.layers import Shape
from search.samplers import RejectionSampler
from search.settings import Recipe
from search.shapes import Rules, check
from search.space import CLASSIC
from workers import model_file
from workers.model_file import MODULE, WEIGHTS, Provenance, require_free, source, write
from workers.networks import build

CONV = "conv=channel_factor:3,kernel_size:3,stride:1,padding:0-"
COLOUR = Rules(Shape(3, 23, 17), classes=7, channels_within_side=False)
ODD = (
    "conv=channel_factor:2,kernel_size:3,stride:2,padding:1-",
    "conv=channel_factor:0.7,kernel_size:4,stride:3,padding:2-",
    "batchnorm=eps:0.00001-",
    "batchnorm=eps:0.12345678901234567891-",
    "batchnorm=eps:1-",
    "avgpool=kernel_size:3,stride:2,padding:1-",
    "maxpool=kernel_size:3,stride:1,padding:1-",
    "dropout=p:0-",
    "dropout=p:0.35-",
    "dropout=p:1-",
)  # every kind, with padding, strides and decimals
TOGETHER = "".join(layer for layer in ODD if layer != "dropout=p:1-")
DRAWN = [
    format_architecture(architecture)
    for architecture in RejectionSampler(CLASSIC, seed=5).draw(0, 60)
    if check(architecture, CLASSIC.rules).valid
]
CASES = [*((layers, COLOUR) for layers in (*ODD, TOGETHER)), *((layers, CLASSIC.rules) for layers in DRAWN)]

PLAIN = """
import importlib.util, sys
sys.modules.update(dict.fromkeys(["search", "workers", "storage"]))  # None: cannot be imported
import torch
from pathlib import Path
from safetensors.torch import load_file, save_file
torch.set_num_threads(1)
for folder in sorted(Path(sys.argv[1]).iterdir()):
    spec = importlib.util.spec_from_file_location("model", folder / "model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with torch.no_grad():
        logits = module.load()(load_file(folder.parent.parent / f"{folder.name}-images")["images"])
    save_file({"logits": logits}, folder.parent.parent / f"{folder.name}-logits")
"""


def provenance(layers: str) -> Provenance:
    """Of a network that was not really trained."""
    return Provenance("first", 7, layers, 3, "mnist", Recipe(), 0.974, TestResult(0.0912, 0.9712, 10_000))


def network_of(layers: str, rules: Rules) -> nn.Sequential:
    """A network with statistics of a batch, and weights that no other seed gives."""
    network = build(parse(layers), rules, torch.Generator().manual_seed(1), torch.Generator().manual_seed(2))
    network.train()(torch.rand(16, *rules.input_shape, generator=torch.Generator().manual_seed(3)))
    return network.eval()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models of all cases, by number, beside images and the logits that they give without netsieve."""
    place = tmp_path_factory.mktemp("written")
    for number, (layers, rules) in enumerate(CASES):
        images = torch.rand(5, *rules.input_shape, generator=torch.Generator().manual_seed(number))
        write(place / "models" / str(number), network_of(layers, rules), rules, provenance(layers))
        save_file({"images": images}, place / f"{number}-images")
    subprocess.run([sys.executable, "-W", "error", "-c", PLAIN, place / "models"], check=True, timeout=120)
    return place


each_case = pytest.mark.parametrize("number", range(len(CASES)))


# ------------------------------------------------------------------ without netsieve


@each_case
def test_logits_are_those_of_the_trained_network(written: Path, number: int) -> None:
    """A fresh interpreter in which netsieve's packages cannot be imported computes the same, to the last bit."""
    network = network_of(*CASES[number])
    torch.set_num_threads(1)
    with torch.no_grad():
        expected = network(load_file(written / f"{number}-images")["images"])
    assert torch.equal(load_file(written / f"{number}-logits")["logits"], expected)


@each_case
def test_the_comments_are_the_shapes(written: Path, number: int) -> None:
    """Each comment is the output's shape of its line, a conv's with its ReLU."""
    text = (written / "models" / str(number) / MODULE).read_text()
    lines = re.findall(r"^        (nn\..*),(?:  # \(B, (.*)\))?$", text, flags=re.MULTILINE)
    x = torch.zeros(2, *CASES[number][1].input_shape)
    for (_, shape), module in zip(lines, network_of(*CASES[number]), strict=True):
        x = module(x)
        assert shape in {"", ", ".join(map(str, x.shape[1:]))}
    assert sum(shape == "" for _, shape in lines) == CASES[number][0].count("conv=")


def test_all_kinds_are_among_the_cases() -> None:
    """The tests above are not about nothing."""
    text = "".join(layers for layers, _ in CASES)
    assert all(f"{kind}=" in text for kind in ("conv", "batchnorm", "avgpool", "maxpool", "dropout"))
    assert len(DRAWN) >= 10


def test_the_modules_pass_ruff(written: Path) -> None:
    """By its default rules."""
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--isolated", written / "models"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "All checks passed!\n")


def test_the_module_as_a_program(written: Path) -> None:
    """It prints the network, and how many parameters it has: as many as the checker counts."""
    number = CASES.index((TOGETHER, COLOUR))
    command = [sys.executable, written / "models" / str(number) / MODULE]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    *network, parameters = done.stdout.splitlines()
    assert network[0] == "Sequential("
    assert parameters == f"{check(parse(TOGETHER), COLOUR).parameters:,} parameters"


# ------------------------------------------------------------------ what they say


def docstring(text: str) -> str:
    """Of a module's text, which must compile without a warning."""
    return str(compile(text, "model.py", "exec").co_consts[0])


def test_the_docstring_says_where_the_network_comes_from() -> None:
    """Search and index, data, recipe and accuracies, the layer string, and what goes in and out."""
    said = " ".join(docstring(source(Rules(), provenance(CONV * 2))).split())
    for part in (
        "Network 7 of the search first",
        "Dataset mnist: the first 5,000 training images, 4,000 to train on and 1,000 to validate on",
        "10 epochs of SGD, batch 32, learning rate 0.05, search seed 3",
        "0.9740 on the validation images",
        "0.9712 on 10,000 test images",
        f"{CONV} {CONV}",
        "float32 images (B, 1, 28, 28), from 0 to 1: byte values over 255",
        "logits (B, 10)",
    ):
        assert part in said


def test_digits_are_scaled_otherwise() -> None:
    """Their values are sixteenths, and there are no test images."""
    said = docstring(source(Rules(), replace(provenance(CONV), dataset="digits", test=None)))
    assert "over 16" in said
    assert "not measured on test images" in said


@pytest.mark.parametrize(
    "name", ['"""\nimport os  # .npz', "C:\\data\\x.npz", 'ends in "', "über {brace}.npz", "\x1b[31m\x00"]
)
def test_no_name_breaks_the_module(name: str) -> None:
    """Whatever a dataset's file is called, it stands in the docstring as text."""
    text = source(Rules(), replace(provenance(CONV), dataset=name))
    expected = " ".join("".join(c if c.isprintable() else " " for c in name).split())
    assert f"Dataset {expected}: the first" in docstring(text)
    assert "\nimport os" not in text


def test_the_weights_say_where_they_come_from(written: Path) -> None:
    """The metadata, as text: layer string, search, seed, recipe and accuracies."""
    with safe_open(written / "models" / "0" / WEIGHTS, "pt") as file:
        said = file.metadata()
    assert (said["layers"], said["search"], said["index"], said["seed"]) == (ODD[0], "first", "7", "3")
    assert json.loads(said["recipe"]) == {"train_images": 5000, "batch_size": 32, "epochs": 10, "learning_rate": 0.05}
    assert (float(said["val_accuracy"]), json.loads(said["test"])["accuracy"]) == (0.974, 0.9712)


def test_a_rejected_string_has_no_module() -> None:
    """What cannot be built is not written."""
    with pytest.raises(ValueError, match="kernel_exceeds_input at layer 0"):
        source(Rules(), provenance("maxpool=kernel_size:99,stride:1,padding:0-"))


# ------------------------------------------------------------------ whole, or not there


def everything_in(folder: Path) -> list[str]:
    """All files and folders below a folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("made", ["nothing", "above", "empty", "link"])
def test_a_new_or_empty_folder_is_filled(tmp_path: Path, made: str) -> None:
    """It is made, with those above it; an empty one is taken; files get the rights that the user's files get."""
    out = tmp_path / "above" / "out"
    if made != "nothing":
        (tmp_path / "above").mkdir()
    if made == "empty":
        out.mkdir()
    if made == "link":
        (tmp_path / "above" / "real").mkdir()
        out.symlink_to(tmp_path / "above" / "real")
    require_free(out)
    write(out, network_of(CONV, Rules()), Rules(), provenance(CONV))
    assert everything_in(out) == sorted([MODULE, WEIGHTS])
    assert len(list(out.resolve().parent.iterdir())) == (2 if made == "link" else 1)
    (tmp_path / "usual").touch()
    usual = (tmp_path / "usual").stat().st_mode
    assert {path.stat().st_mode for path in out.iterdir()} == {usual}


def test_what_is_there_is_not_overwritten(tmp_path: Path) -> None:
    """A folder with something in it, a file, or a link to nothing is refused, beforehand and in the end."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    before = everything_in(tmp_path)
    for name, message in (("full", "is not empty"), ("file", "is not a folder"), ("link", "is not a folder")):
        with pytest.raises(SettingsError, match=rf"--out .*{name}: {message}"):
            require_free(tmp_path / name)
    for name in ("full", "file"):
        with pytest.raises(NetsieveError, match=rf"--out .*{name}: cannot be written"):
            write(tmp_path / name, network_of(CONV, Rules()), Rules(), provenance(CONV))
    with pytest.raises(SettingsError, match="nothing can be written in"):
        require_free(tmp_path / "file" / "below")
    assert everything_in(tmp_path) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_takes_no_files_is_found_out_beforehand(tmp_path: Path) -> None:
    """Before hours of training, not after them."""
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(SettingsError, match="nothing can be written in"):
        require_free(tmp_path / "closed" / "out")


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["full", "ctrl-c"])
def test_what_is_cut_short_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """A disk that fills up, or Ctrl-C between the files, leaves no folder and no part of one."""

    def fail(_tensors: dict[str, Tensor], _metadata: dict[str, str]) -> Any:
        raise error

    monkeypatch.setattr(model_file, "save", fail)
    with pytest.raises(NetsieveError if isinstance(error, OSError) else KeyboardInterrupt) as raised:
        write(tmp_path / "out", network_of(CONV, Rules()), Rules(), provenance(CONV))
    assert isinstance(error, KeyboardInterrupt) or "No space left on device" in str(raised.value)
    assert everything_in(tmp_path) == []


def test_a_folder_that_is_there_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files and their folder are synced before they get their name, and the folders above that are new, after it."""
    steps: list[int | str] = []
    sync, replace = os.fsync, Path.replace

    def noted_sync(descriptor: int) -> None:
        steps.append(os.fstat(descriptor).st_ino)
        sync(descriptor)

    def noted_replace(path: Path, target: Path) -> Path:
        steps.append("named")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(Path, "replace", noted_replace)
    out = tmp_path / "above" / "out"
    write(out, network_of(CONV, Rules()), Rules(), provenance(CONV))
    before, after = steps[: steps.index("named")], steps[steps.index("named") :]
    assert before == [path.stat().st_ino for path in (out / MODULE, out / WEIGHTS, out)]
    assert after == ["named", (tmp_path / "above").stat().st_ino, tmp_path.stat().st_ino]


def test_a_disk_that_fills_while_it_syncs_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not on the disk gets no name."""

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(NetsieveError, match="No space left on device"):
        write(tmp_path / "out", network_of(CONV, Rules()), Rules(), provenance(CONV))
    assert everything_in(tmp_path) == []
