"""Bad command lines: one line on stderr that names the thing, its value and the fix; nothing is written."""

import json
import os
import shutil
import socket
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result

from search.cli.start import no_gpu
from search.errors import Stopped

Cli = Callable[..., Result]
Refused = Callable[..., None]

RUN = ("run", "first", "--dataset", "digits", "--workers", 0)
LARGEST = 2**63 - 1
NAME_RULE = "1 to 64 letters, digits"


def contents(folder: Path) -> dict[Path, bytes | None]:
    """Every path below a folder, and what its file holds; not the index that SQLite keeps of its log."""
    found = {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}
    return {
        path: content
        for path, content in found.items()
        if path.suffix != ".db-shm" and (content or path.suffix != ".db-wal")
    }


def test_a_recipe_is_looked_at_before_images_are(refused: "Refused") -> None:
    """A dataset may have to be downloaded first."""
    refused(
        ("run", "first", "--dataset", "missing.npz", "--learning-rate", "nan"), "--learning-rate nan: must be above 0"
    )
    refused(("run", "first", "--dataset", "missing.npz", "--epochs", 0), "--epochs 0")


@pytest.fixture
def refused(cli: Cli, place: Path) -> Refused:
    """Assert that a command line is refused, with all that is ``told``, and leaves the folder as it was."""

    def check(words: tuple[object, ...], *told: str, **environment: str) -> None:
        before = contents(place)
        result = cli(*words, **environment)
        assert (result.exit_code, result.stdout) == (2, ""), result.output
        assert result.stderr.startswith("Error: ")
        assert (result.stderr.count("\n"), result.stderr[-1]) == (1, "\n")
        assert "Traceback" not in result.stderr
        for text in told:
            assert text in result.stderr
        assert contents(place) == before

    return check


@pytest.mark.parametrize("key", ["space", "strings", "data-dir", "db", "dataset"])
def test_a_config_with_a_character_that_no_file_has_is_refused(refused: Refused, place: Path, key: str) -> None:
    """TOML can write it, a command line cannot."""
    (place / "options.toml").write_text(f'{key} = "a\\u0000.toml"\n')
    refused(("run", "first", "--config", "options.toml"), f"--config options.toml: {key} = ", "character of number 0")


def test_a_dataset_whose_name_is_no_text_is_refused(refused: Refused, place: Path) -> None:
    """It could be searched, and then be neither reported nor merged."""
    (place / "n\udcff.npz").write_bytes(b"")
    refused(("run", "first", "--dataset", "n\udcff.npz"), "--dataset 'n\\udcff.npz': the name is no UTF-8 text")


# ------------------------------------------------------------------ options

BAD_OPTIONS: list[tuple[tuple[object, ...], tuple[str, ...]]] = [
    (("--candidates", 0), ("'--candidates'", "0 is not in the range 1<=x<=")),
    (("--candidates", -1), ("'--candidates'", "-1 is not in the range 1<=x<=")),
    (("--candidates", 1.5), ("'--candidates'", "'1.5'")),
    (("--candidates", "1e6"), ("'--candidates'", "'1e6'")),
    (("--candidates", 10**30), ("'--candidates'", f"x<={LARGEST}")),
    (("--candidates", "9" * 5000), ("'--candidates'",)),
    (("--max-completed", 0), ("'--max-completed'", "0 is not in the range 1<=x<=")),
    (("--seed", -1), ("'--seed'", "-1 is not in the range 0<=x<=")),
    (("--seed", "abc"), ("'--seed'", "'abc'")),
    (("--seed", 2**64), ("'--seed'", f"x<={LARGEST}")),
    (("--candidats", 3), ("'--candidats'", "--candidates")),
    (("--sampler", "best"), ("'--sampler'", "'best'", "'rejection'")),
    (("--epochs", 0), ("--epochs 0", "from 1 to 100000")),
    (("--epochs", -1), ("--epochs -1", "from 1 to 100000")),
    (("--epochs", 10**6), ("--epochs 1000000", "from 1 to 100000")),
    (("--epochs", "2.5"), ("'--epochs'", "'2.5'")),
    (("--batch-size", 0), ("--batch-size 0", "from 1 to")),
    (("--batch-size", 1438), ("--batch-size 1438", "1437 images that are trained on")),
    (("--batch-size", 10**30), ("--batch-size 1000", "from 1 to")),
    (("--learning-rate", 0), ("--learning-rate 0.0", "above 0, up to 1000")),
    (("--learning-rate", -1), ("--learning-rate -1.0", "above 0, up to 1000")),
    (("--learning-rate", "nan"), ("--learning-rate nan", "above 0, up to 1000")),
    (("--learning-rate", "inf"), ("--learning-rate inf", "above 0, up to 1000")),
    (("--learning-rate", "1e9"), ("--learning-rate 1000000000.0", "above 0, up to 1000")),
    (("--learning-rate", "fast"), ("'--learning-rate'", "'fast'")),
    (("--train-images", 0), ("--train-images 0", "from 5 to")),
    (("--train-images", -1), ("--train-images -1", "from 5 to")),
    (("--train-images", 1798), ("--train-images 1798", "dataset digits has 1,797")),
    (("--train-images", 5), ("--batch-size 32", "--train-images 5")),
    (("--trial-timeout", 0), ("'--trial-timeout'", "'0'", "90, 90s, 10m or 2h")),
    (("--trial-timeout", -1), ("'--trial-timeout'", "'-1'", "90, 90s, 10m or 2h")),
    (("--trial-timeout", "10 minutes"), ("'--trial-timeout'", "'10 minutes'", "90, 90s, 10m or 2h")),
    (("--trial-timeout", "1e12"), ("'--trial-timeout'", "'1e12'", "90, 90s, 10m or 2h")),
    (("--trial-timeout", 10**12), ("'--trial-timeout'", "'1000000000000'", "up to a year")),
    (("--trial-timeout", "9" * 400), ("'--trial-timeout'", "up to a year")),
    (("--max-time", "0s"), ("'--max-time'", "'0s'", "90, 90s, 10m or 2h")),
    (("--max-time", "1d"), ("'--max-time'", "'1d'", "90, 90s, 10m or 2h")),
    (("--max-time", "\u0663m"), ("'--max-time'", r"'\u0663m'")),
    (("--grace", 0), ("'--grace'", "'0'", "above 0")),
    (("--grace", "nan"), ("'--grace'", "'nan'", "above 0")),
    (("--target-accuracy", 0), ("--target-accuracy 0.0", "above 0, up to 1")),
    (("--target-accuracy", 1.5), ("--target-accuracy 1.5", "above 0, up to 1")),
    (("--target-accuracy", "nan"), ("--target-accuracy nan", "above 0, up to 1")),
    (("--target-accuracy", "90%"), ("'--target-accuracy'", "'90%'")),
    (("--workers", -1), ("'--workers'", "-1 is not in the range x>=0")),
    (("--workers", "abc"), ("'--workers'", "'abc'")),
    (("--workers", 2, "--gpus-per-worker", 0), ("--gpus-per-worker 0", "a share above 0 and up to 1")),
    (("--workers", 2, "--gpus-per-worker", -1), ("--gpus-per-worker -1", "a share above 0 and up to 1")),
    (("--workers", 2, "--gpus-per-worker", "nan"), ("--gpus-per-worker nan", "a share above 0 and up to 1")),
    (("--workers", 2, "--gpus-per-worker", "inf"), ("--gpus-per-worker inf", "a share above 0 and up to 1")),
    (("--workers", 2, "--gpus-per-worker", 1.5), ("--gpus-per-worker 1.5", "or a whole number")),
    (("--gpus-per-worker", 0.5), ("--workers 0", "--gpus-per-worker 0.5", "drop one")),
    (("--ray-address", "auto"), ("--workers 0", "--ray-address auto", "drop one")),
    (("--workers", "2", "--ray-address", "head"), ("--ray-address head", "HOST:PORT", "6379")),
    (("--workers", "2", "--ray-address", "head:"), ("--ray-address head:", "HOST:PORT")),
    (("--workers", "2", "--ray-address", "head:99999"), ("--ray-address head:99999", "HOST:PORT")),
    (("--workers", 2, "--gpus-per-worker", 0.00001), ("--gpus-per-worker 1e-05", "a share above 0 and up to 1")),
    (("--workers", "2", "--ray-address", "local"), ("--ray-address local", "HOST:PORT")),
    (
        ("--workers", "2", "--ray-address", "ray://head:10001"),
        ("--ray-address ray://head:10001", "not through Ray Client"),
    ),
    (("--workers", "2", "--ray-address", "http://head:8265"), ("--ray-address http://head:8265", "the Jobs API")),
    (("--device", "tpu"), ("'--device'", "'tpu'", "'cpu', 'cuda'")),
    (("--device", "cuda"), ("--device cuda", "no GPU", "--device cpu")),
    (("--workers", 2, "--device", "cuda"), ("--device cuda", "no GPU", "--device cpu")),
    (("--workers", 2, "--gpus-per-worker", 1), ("--gpus-per-worker 1", "no GPU")),
    (("--workers",), ("'--workers'", "requires an argument")),
    (("second",), ("unexpected extra argument", "second")),
    (("--config", "none.toml"), ("--config none.toml", "No such file")),
    (("--space", "none.toml"), ("'--space'", "none.toml", "No such file")),
    (("--config", "\x1b[31m.toml"), (r"\x1b[31m.toml",)),
    (("--space", "\x1b[31m.toml"), (r"\x1b[31m.toml",)),
]


@pytest.mark.parametrize(("words", "told"), BAD_OPTIONS, ids=lambda value: " ".join(str(word)[:20] for word in value))
def test_a_bad_option_of_run(
    refused: Refused, monkeypatch: pytest.MonkeyPatch, words: tuple[object, ...], told: tuple[str, ...]
) -> None:
    """A value out of range, of a wrong type, or that contradicts another is refused by the option's name."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refused((*RUN, "--max-completed", 1, *words), *told)


@pytest.mark.parametrize("group", [(), ("db",), ("space",)], ids=" ".join)
def test_a_group_without_a_command_prints_its_help(cli: Cli, group: tuple[str, ...]) -> None:
    """Laid out as --help does it; on stderr, with exit code 2, for nothing was answered."""
    bare, helped = cli(*group), cli(*group, "--help")
    assert (bare.exit_code, bare.stdout, bare.stderr) == (2, "", helped.stdout)


def test_more_workers_than_the_cores_can_serve(refused: Refused, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four a core are the most of a local session, also for a forecast; a cluster's cores are not this machine's."""
    monkeypatch.setattr("workers.executors.cores", lambda: 2)
    told = "--workers 9: the most is 8, for this machine has 2 cores; leave it out"
    run = ("run", "first", "--dataset", "missing.npz")
    refused((*run, "--workers", 9), told)
    refused((*run, "--workers", 9, "--dry-run"), told)
    refused((*run, "--workers", 8), "missing.npz: no such file")
    refused((*run, "--workers", 9, "--ray-address", "10.0.0.5:6379"), "missing.npz: no such file")


@pytest.mark.parametrize(("workers", "told"), [(2, ""), (3, "3 workers share 2 cores: they train no faster than 2\n")])
def test_workers_that_share_cores_are_told_of(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, workers: int, told: str
) -> None:
    """Before Ray starts, which they make longer as well."""

    def connect(*_: object) -> None:
        raise Stopped("no Ray")

    monkeypatch.setattr("workers.executors.cores", lambda: 2)
    cluster = SimpleNamespace(connect=connect, disconnect=None, resources=None, exit_with=sys.exit)
    monkeypatch.setitem(sys.modules, "workers.ray_cluster", cluster)
    monkeypatch.setitem(sys.modules, "workers.ray_executor", SimpleNamespace(RayExecutor=None))
    result = cli("run", "first", "--dataset", "digits", "--workers", workers)
    assert (result.exit_code, result.stderr) == (75, f"{told}starting Ray\nError: no Ray\n")


@pytest.mark.parametrize("command", ["run", "resume", "status", "top", "candidates", "failures"])
@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("", "''"),
        ("a/b", "'a/b'"),
        ("../a", "'../a'"),
        (".", "'.'"),
        ("n" * 300, "'" + "n" * 40 + "...'"),
        ("🦊", r"'\U0001f98a'"),
        ("-x", "'-x'"),
        ("first ", "'first '"),
        ("first\n", r"'first\n'"),
        ("\x1b[31m", r"'\x1b[31m'"),
        ("a\0b", r"'a\x00b'"),
    ],
)
def test_a_bad_name(refused: Refused, searched: Path, command: str, name: str, shown: str) -> None:
    """A name that breaks the rule is shown escaped, with the rule."""
    refused((command, "--db", f"sqlite:///{searched}", "--", name), f"NAME {shown}", NAME_RULE)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("rn",), ("'rn'", "Did you mean 'run'?")),
        (("stauts", "first"), ("'stauts'", "Did you mean 'status'?")),
        (("--formt", "json"), ("'--formt'",)),
        (("status", "first", "--fromat", "json"), ("'--fromat'", "--format")),
        (("status", "first", "--format", "yaml"), ("'--format'", "'yaml'", "'jsonl'")),
        (("status",), ("NAME",)),
        (("run",), ("NAME",)),
        (("check",), ("STRING",)),
        (("space", "sho"), ("'sho'", "'show'")),
        (("top", "first", "-n", 0), ("'-n'", "0 is not in the range")),
        (("top", "first", "-n", 10**30), ("'-n'", "not in the range")),
        (("candidates", "first", "--limit", -1), ("'--limit'", "-1 is not in the range")),
        (("show", "first", -1), ("-1",)),
        (("show", "first", "abc"), ("'INDEX'", "'abc'")),
        (("show", "first", 2**63), ("'INDEX'", "not in the range")),
        (("\x1b[31m",), (r"\x1b[31m",)),
    ],
    ids=str,
)
def test_a_bad_command_line(refused: Refused, words: tuple[object, ...], told: tuple[str, ...]) -> None:
    """A mistyped command, option or argument is named, with the nearest that there is."""
    refused(words, *told)


def test_nothing_starts_ray() -> None:
    """In a process of its own, a refused run has imported neither Ray nor torch when only options were wrong."""
    probe = "import sys; from search.cli import main; main(sys.argv[1:], standalone_mode=False); "
    probe += "print(sorted({'ray', 'torch'} & sys.modules.keys()))"
    words = [sys.executable, "-c", probe, "run", "first", "--candidates", "0"]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("visible", ["", "-1", "GPU-00000000-0000-0000-0000-000000000000"])
def test_gpus_that_are_hidden_are_not_there(place: Path, visible: str) -> None:
    """CUDA_VISIBLE_DEVICES decides what torch sees; what it does not, is refused before anything starts."""
    netsieve = Path(sys.executable).with_name("netsieve")
    answer = subprocess.run(
        [netsieve, "run", "first", "--dataset", "digits", "--workers", "0", "--device", "cuda"],
        env=os.environ | {"CUDA_VISIBLE_DEVICES": visible}, cwd=place, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (answer.returncode, answer.stdout) == (2, "")
    assert answer.stderr == (f"Error: --device cuda: {no_gpu()}; train with --device cpu, or give --ray-address\n")
    assert not list(place.glob("*.db"))


@pytest.mark.parametrize("is_built", [True, False])
def test_a_torch_without_cuda_is_the_reason_that_is_given(monkeypatch: pytest.MonkeyPatch, is_built: bool) -> None:
    """Another torch is to be installed then; where it has CUDA, it is the machine that has no GPU."""
    monkeypatch.setattr("torch.backends.cuda.is_built", lambda: is_built)
    assert no_gpu().endswith("torch sees no GPU here") == is_built
    assert no_gpu().endswith(" is built for CPUs)") != is_built


# ------------------------------------------------------------------ the user's own images

IMAGES = np.zeros((40, 28, 28), np.uint8)
LABELS = np.arange(40) % 10
BAD_ARRAYS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "no labels": ({"images": IMAGES}, ("has no array 'labels'", "images and labels")),
    "no images": ({"labels": LABELS}, ("has no array 'images'", "images and labels")),
    "float images": ({"images": IMAGES / 255, "labels": LABELS}, ("float64", "must be uint8")),
    "flat images": ({"images": IMAGES.reshape(40, -1), "labels": LABELS}, ("(40, 784)", "must be uint8 (N, H, W)")),
    "channels last": ({"images": np.zeros((40, 28, 28, 3), np.uint8), "labels": LABELS}, ("28x28x3", "1x28x28")),
    "object images": ({"images": np.array([None] * 40), "labels": LABELS}, ("not a readable .npz file", "pickle")),
    "object labels": ({"images": IMAGES, "labels": np.array([None] * 40)}, ("not a readable .npz file", "pickle")),
    "float labels": ({"images": IMAGES, "labels": LABELS / 2}, ("labels are float64", "whole numbers (N,)")),
    "one-hot labels": ({"images": IMAGES, "labels": np.eye(10, dtype=int)[LABELS]}, ("(40, 10)", "whole numbers (N,)")),
    "labels above": ({"images": IMAGES, "labels": LABELS + 1}, ("labels from 1 to 10", "classes = 10", "from 0 to 9")),
    "labels below": ({"images": IMAGES, "labels": LABELS - 1}, ("labels from -1 to 8", "from 0 to 9")),
    "huge labels": ({"images": IMAGES, "labels": LABELS.astype(np.uint64) + 2**63}, ("labels",)),
    "lengths differ": ({"images": IMAGES, "labels": LABELS[1:]}, ("40 images but 39 labels",)),
    "no rows": ({"images": IMAGES[:0], "labels": LABELS[:0]}, ("(0, 1, 28, 28)", "hold nothing")),
    "no sides": ({"images": IMAGES[:, :0], "labels": LABELS}, ("(40, 1, 0, 28)", "hold nothing")),
}


@pytest.mark.parametrize(("arrays", "told"), BAD_ARRAYS.values(), ids=BAD_ARRAYS)
def test_bad_arrays(refused: Refused, arrays: dict[str, Any], told: tuple[str, ...]) -> None:
    """Images or labels of a wrong type, shape, range or number are refused with what they are and must be."""
    np.savez("own.npz", **arrays)
    refused(("run", "first", "--dataset", "own.npz", "--workers", 0), "own.npz", *told)


@pytest.mark.parametrize(("count", "told"), [(8, "--batch-size 32: more than the 6 images"), (4, "must be from 5")])
def test_too_few_images(refused: Refused, count: int, told: str) -> None:
    """Images that do not fill a batch, or cannot be split, are refused."""
    np.savez("own.npz", images=IMAGES[:count], labels=LABELS[:count])
    refused(("run", "first", "--dataset", "own.npz", "--workers", 0), told)


BAD_DATA_FILES = {
    "text": b"images,labels\n1,2\n",
    "empty": b"",
    "an HTML page": b"<!DOCTYPE html><html><body>404</body></html>",
    "a zip without arrays": b"PK\x05\x06" + bytes(18),
    "a zip that is cut": b"PK\x03\x04" + bytes(100),
    "a single array": b"\x93NUMPY\x01\x00v\x00{'descr': '|u1', 'fortran_order': False, 'shape': (1,), }".ljust(128)
    + b"\0",
    "a pickle": b"\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00]\x94.",
}


@pytest.mark.parametrize("content", BAD_DATA_FILES.values(), ids=BAD_DATA_FILES)
def test_a_file_that_is_no_npz(refused: Refused, content: bytes) -> None:
    """A file that is no .npz, whatever it is, is refused by name."""
    Path("own.npz").write_bytes(content)
    refused(("run", "first", "--dataset", "own.npz", "--workers", 0), "--dataset own.npz")


@pytest.mark.parametrize(
    ("dataset", "told"),
    [
        ("missing.npz", ("--dataset missing.npz", "no such file")),
        ("folder.npz", ("--dataset folder.npz", "Is a directory")),
        ("cifar10", ("--dataset 'cifar10'", "mnist, fashion-mnist, kmnist, digits", ".npz")),
        ("MNIST", ("--dataset 'MNIST'", "mnist, fashion-mnist, kmnist, digits")),
        ("", ("--dataset ''", "mnist, fashion-mnist, kmnist, digits")),
        ("\x1b[31m", (r"--dataset '\x1b[31m'",)),
        ("\x1b[31m.npz", ("no such file",)),
    ],
    ids=repr,
)
def test_a_dataset_that_is_not_there(cli: Cli, refused: Refused, dataset: str, told: tuple[str, ...]) -> None:
    """A dataset that is neither known nor a file is named, escaped, with those that are known."""
    Path("folder.npz").mkdir()
    words = ("run", "first", "--dataset", dataset, "--workers", 0)
    refused(words, *told)
    assert "\x1b" not in cli(*words).stderr


# ------------------------------------------------------------------ MNIST's files

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
MNIST = ("run", "first", "--dataset", "mnist", "--workers", 0, "--data-dir", "data")


def idx(*shape: int) -> bytes:
    """An IDX file of zeros, as MNIST's are."""
    return bytes((0, 0, 8, len(shape))) + struct.pack(f">{len(shape)}I", *shape) + bytes(int(np.prod(shape)))


GOOD = dict(zip(FILES, (idx(40, 28, 28), idx(40), idx(10, 28, 28), idx(10)), strict=True))
TRAIN_IMAGES, TRAIN_LABELS = FILES[:2]
DAMAGED = {
    "cut short": {TRAIN_IMAGES: GOOD[TRAIN_IMAGES][:-1]},
    "cut in the header": {TRAIN_IMAGES: GOOD[TRAIN_IMAGES][:9]},
    "too long": {TRAIN_LABELS: GOOD[TRAIN_LABELS] + b"\0"},
    "swapped": {TRAIN_IMAGES: GOOD[TRAIN_LABELS], TRAIN_LABELS: GOOD[TRAIN_IMAGES]},
    "an HTML page": {TRAIN_IMAGES: b"<!DOCTYPE html><html><body>404 Not Found</body></html>"},
    "zero bytes": {TRAIN_LABELS: b""},
    "still compressed": {TRAIN_IMAGES: b"\x1f\x8b\x08\x00" + bytes(100)},
    "a huge size": {TRAIN_IMAGES: bytes((0, 0, 8, 3)) + struct.pack(">3I", 2**32 - 1, 28, 28)},
    "other sides": {TRAIN_IMAGES: idx(40, 20, 20)},
    "lengths that differ": {TRAIN_IMAGES: idx(39, 28, 28)},
    "no images": {TRAIN_IMAGES: idx(0, 28, 28), TRAIN_LABELS: idx(0)},
}


def save_mnist(files: dict[str, bytes]) -> Path:
    """The files where torchvision keeps them."""
    folder = Path("data/MNIST/raw")
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """No name is resolved."""

    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", fail)


@pytest.mark.usefixtures("no_network")
def test_intact_mnist_files_are_read(cli: Cli, place: Path) -> None:
    """MNIST's four files in --data-dir are all that it takes: no download is tried."""
    save_mnist(GOOD)
    result = cli(*MNIST, "--candidates", 1, "--epochs", 1)
    assert result.exit_code == 0, result.stderr


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED)
def test_damaged_mnist_files(refused: Refused, damage: dict[str, bytes]) -> None:
    """Files of MNIST that are not what they should be are refused, before anything is written."""
    save_mnist(GOOD | damage)
    refused(MNIST, "mnist")


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("present", [(), (TRAIN_IMAGES,)])
def test_mnist_without_files_and_network(refused: Refused, present: tuple[str, ...]) -> None:
    """Without MNIST's files and a network the error names the files, the folder, and --dataset digits."""
    folder = save_mnist({name: GOOD[name] for name in present})
    missing = [name for name in FILES if name not in present]
    refused(MNIST, ", ".join(missing), str(folder), "--data-dir", "use --dataset digits")


@pytest.mark.usefixtures("no_network")
def test_a_new_data_dir_is_not_left_behind(refused: Refused) -> None:
    """A --data-dir that does not exist yet is not created when the download fails."""
    refused(MNIST, "use --dataset digits")


def test_a_data_dir_that_is_a_file(refused: Refused) -> None:
    """A --data-dir that is a file is named."""
    Path("data").write_bytes(b"")
    refused(MNIST, "'--data-dir'", "'data'", "is a file")


# ------------------------------------------------------------------ databases

EXAMPLE = "give --db sqlite:///FILE.db"
BAD_URLS = {
    "": ("--db", EXAMPLE),
    "results.db": ("--db", "'results.db'", EXAMPLE),
    "/tmp/results.db": ("--db", "'/tmp/results.db'", EXAMPLE),
    "postgres://u:secret@h/db": ("--db", "write postgresql://, not postgres://", EXAMPLE),
    "postgresql://u:secret@h.invalid/db": ("--db", "'h.invalid'", "check the host; write @ / : % in", "%40"),
    "postgresql:///db?port=secret": ("--db postgresql:///db?***", "options after '?' are malformed", EXAMPLE),
    "postgresql+psycopg2://u:secret@h/db": ("--db", "the driver is psycopg 3; write postgresql://", EXAMPLE),
    "postgresql://u:secret@h:port/db": ("--db ***", "is no database URL", "%40", EXAMPLE),
    "postgresql://u:p@secret:x/y@h/db": ("--db ***", "is no database URL", "%40", EXAMPLE),
    "postgresql://u:p@secret@h/db": ("--db postgresql://***", "more than one @", "%40", EXAMPLE),
    "postgresql://u:p@secret/word@h/db": ("--db postgresql://***", "more than one @", "%40", EXAMPLE),
    "postgresql://u:secret": ("--db ***", "is no database URL", EXAMPLE),
    "host=h password=secret": ("--db ***", "is no database URL", EXAMPLE),
    "mysql://u:secret@h/db": ("--db", "'mysql'", "not supported", EXAMPLE),
    "sqlite://rel.db": ("--db", "two slashes", "write sqlite:///rel.db"),
    "sqlite://": ("--db", "in memory", EXAMPLE),
    "sqlite:///": ("--db", "in memory", EXAMPLE),
    "sqlite:///:memory:": ("--db", "in memory", EXAMPLE),
    "sqlite:///file.db?mode=ro": ("--db", "options after '?'", EXAMPLE),
    "sqlite:///.": ("--db .", "is a folder", EXAMPLE),
    "sqlite:///missing/results.db": ("--db missing/results.db", "folder missing does not exist", EXAMPLE),
    "sqlite:///text.db/results.db": ("--db text.db/results.db", "folder text.db does not exist", EXAMPLE),
    "sqlite:///text.db": ("--db text.db", "not a database", "is it the right file?"),
    "sqlite:///other.db": ("--db other.db", "another program's database", EXAMPLE),
    "sqlite:///" + "x" * 300: ("--db 'xxx",),
    "\x1b[31m": ("--db", r"'\x1b[31m'", EXAMPLE),
    "sqlite:///\x1b[31m/results.db": ("--db", "does not exist"),
}
SILENT_URLS = {
    "postgresql://u:secret@127.0.0.1:1/db": ("--db postgresql://u:***@127.0.0.1:1/db", "refused", "server started"),
    "postgresql+psycopg://u:secret@127.0.0.1:1/db": ("--db", "Connection refused", "server started"),
    "postgresql://u@127.0.0.1:1/db?password=secret": ("--db postgresql://u@127.0.0.1:1/db?***", "server started"),
    "postgresql:///db?host=/none&password=secret": ("--db postgresql:///db?host=/none&***:", "server started"),
}
READERS = {
    "list": ("list",),
    "status": ("status", "first"),
    "show": ("show", "first", 0),
    "resume": ("resume", "first", "--workers", 0),
}
COMMANDS = {"run": (*RUN, "--max-completed", 1), **READERS}


@pytest.fixture
def files_that_are_none(place: Path) -> None:
    """A text file and another program's database."""
    (place / "text.db").write_text("This is no database.\n" * 100, encoding="utf-8")
    with closing(sqlite3.connect(place / "other.db")) as other, other:
        other.execute("CREATE TABLE candidate (id INTEGER PRIMARY KEY, name TEXT)")


@pytest.mark.parametrize("command", ["run", "list", "resume"])
@pytest.mark.parametrize("url", SILENT_URLS, ids=lambda url: repr(url)[:40])
def test_a_server_that_does_not_answer_may_be_back(cli: Cli, place: Path, url: str, command: str) -> None:
    """Exit code 75, for whoever starts netsieve again on it; one line with the URL, and no password."""
    result = cli(*COMMANDS[command], "--db", url)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (75, "", 1), result.output
    assert all(text in result.stderr for text in SILENT_URLS[url]), result.stderr
    assert "secret" not in result.stderr
    assert list(place.iterdir()) == []


@pytest.mark.usefixtures("files_that_are_none")
@pytest.mark.parametrize("command", ["run", "list", "resume"])
@pytest.mark.parametrize("url", BAD_URLS, ids=lambda url: repr(url)[:40])
def test_a_bad_database(cli: Cli, refused: Refused, url: str, command: str) -> None:
    """A URL or file that cannot hold a search is refused with an example; a password is never shown."""
    words = (*COMMANDS[command], "--db", url)
    refused(words, *BAD_URLS[url])
    shown = cli(*words).stderr
    assert "secret" not in shown
    assert "\x1b" not in shown


@pytest.mark.parametrize("command", ["run", "list"])
def test_the_environment_is_checked_alike(refused: Refused, command: str) -> None:
    """A bad NETSIEVE_DB is refused like a bad --db."""
    refused(COMMANDS[command], "--db", "'results.db'", EXAMPLE, NETSIEVE_DB="results.db")


@pytest.mark.parametrize("command", READERS)
def test_an_empty_file_holds_no_search(refused: Refused, command: str) -> None:
    """To a reader, an empty file is not netsieve's."""
    Path("netsieve.db").write_bytes(b"")
    refused(READERS[command], "--db netsieve.db: is empty; start a search with netsieve run, or", EXAMPLE)


def test_run_begins_in_an_empty_file(cli: Cli, place: Path) -> None:
    """An empty file, such as mktemp makes, is as good as none to begin in."""
    Path("netsieve.db").write_bytes(b"")
    assert cli(*RUN, "--epochs", 1, "--candidates", 3).exit_code == 0
    assert json.loads(cli("status", "first", "--format", "json").stdout)["state"] == "finished"


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("kept", [100, 4096, 3 * 4096, -4096], ids=lambda kept: f"{kept} bytes")
def test_a_truncated_database(refused: Refused, copied: Path, command: str, kept: int) -> None:
    """A database that was cut off somewhere is refused; what is left of it stays as it is."""
    copied.write_bytes(copied.read_bytes()[:kept])
    refused(COMMANDS[command], "--db netsieve.db")


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("revision", ["9999", "0000"])
def test_another_schema_revision(refused: Refused, copied: Path, command: str, revision: str) -> None:
    """A database of another netsieve's schema is refused with both revisions."""
    with closing(sqlite3.connect(copied)) as connection, connection:
        connection.execute("PRAGMA journal_mode=DELETE")
        connection.execute("UPDATE alembic_version SET version_num = ?", (revision,))
    refused(COMMANDS[command], f"--db netsieve.db: has schema {revision}, this netsieve works with", "--db")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_database_without_its_version(refused: Refused, copied: Path, command: str) -> None:
    """A database that lost the table with its schema's revision is refused."""
    with closing(sqlite3.connect(copied)) as connection, connection:
        connection.execute("DROP TABLE alembic_version")
    refused(COMMANDS[command], "--db netsieve.db")


def test_a_copy_beside_the_original_is_its_own(cli: Cli, copied: Path) -> None:
    """A copy of a database is a database: a run in it leaves the original alone."""
    shutil.copy(copied, "copy.db")
    before = copied.read_bytes()
    assert cli("run", "first", "--workers", 0, "--candidates", 61, "--db", "sqlite:///copy.db").exit_code == 0
    assert copied.read_bytes() == before
