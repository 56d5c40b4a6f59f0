"""Datasets, as arrays that stay in memory, and their split.

    mnist, fashion-mnist, kmnist   torchvision's, read from a folder, downloaded into it if missing
    digits                         scikit-learn's 1,797 handwritten digits; needs no download
    FILE.npz                       the user's own: images uint8 (N, H, W) or (N, C, H, W), labels (N,);
                                   test_images and test_labels, if it has any

Nothing falls back from one to another. ``load`` reads a whole training set once, in the
coordinator; workers are handed the few thousand images that the recipe names. ``load_test`` reads
the images that no network is trained or chosen by. Torch and torchvision take seconds to import and the
coordinator needs neither, so what needs them imports them: digits, downloads, and what runs in workers.
"""

import contextlib
import hashlib
import io
import shutil
import socket
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from search.candidates import clean_error
from search.errors import DataError, quoted
from search.layers import Shape
from search.settings import SPLIT_SEED, Recipe
from search.space import SearchSpace
from workers.torchvision_on_cpu import import_datasets

if TYPE_CHECKING:
    import torch
    from torch import Tensor

TORCHVISION = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "kmnist": "KMNIST"}
NAMES = (*TORCHVISION, "digits")
CHANNELS = (1, 3, 4)  # grey, colours, and colours with transparency
TRANSPOSE = "store images.transpose(0, 3, 1, 2)"  # from (N, H, W, C) to (N, C, H, W)
DOWNLOAD_TIMEOUT_S = 30.0  # of silence


@dataclass(frozen=True)
class Dataset:
    """Images and labels, in the dataset's own order: for training and validation, or for the test."""

    name: str  # of a test set "NAME (test)"
    images: npt.NDArray[Any]  # (N, C, H, W), uint8 from 0 to 255, or float32 from 0 to 1
    labels: npt.NDArray[np.int64]  # (N,)

    @property
    def image_shape(self) -> Shape:
        """Of one image."""
        return Shape(*self.images.shape[1:])

    @property
    def looks_channels_last(self) -> bool:
        """Whether images seem to be stored as (N, H, W, C), which TensorFlow and image files have."""
        channels, _, width = self.image_shape
        return width in CHANNELS and channels not in CHANNELS

    def first(self, count: int) -> "Dataset":
        """The first ``count`` images. Raises DataError if there are fewer."""
        if count > len(self.images):
            raise DataError(f"--train-images {count}: dataset {self.name} has {len(self.images):,} training images")
        return Dataset(self.name, self.images[:count], self.labels[:count])

    def sha256(self) -> str:
        """SHA-256 over the images and labels, their types and shapes, in hex."""
        digest = hashlib.sha256()
        for array in (self.images, self.labels):
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


def load(name: str, data_dir: Path) -> Dataset:
    """The training set of a named dataset, or of an ``.npz`` file.

    Raises DataError: unknown name, files missing and no network, files damaged, wrong shapes or labels.
    """
    if name == "digits":
        dataset = _load_digits()
    elif name in TORCHVISION:
        dataset = _load_torchvision(name, data_dir, train=True)
    elif name.endswith(".npz"):
        dataset = _load_npz(Path(name))
    else:
        raise _unknown(name)
    return _require_whole(dataset)


def load_test(name: str, data_dir: Path) -> Dataset | None:
    """The test set of a named dataset, or of an ``.npz`` file; None if it has none.

    Digits have none: all of them are for training and validation. Raises DataError, as ``load`` does.
    """
    if name == "digits":
        return None
    if name in TORCHVISION:
        return _require_whole(_load_torchvision(name, data_dir, train=False))
    if name.endswith(".npz"):
        dataset = _load_npz_test(Path(name))
        return dataset and _require_whole(dataset)
    raise _unknown(name)


def require_stored(name: str, search: str, *, may_be_elsewhere: bool = True) -> None:
    """Raise DataError where a search was made with a file of one's own that is gone; can another place be named?"""
    if name.endswith(".npz") and not Path(name).exists():
        otherwise = ", or give --dataset with its new place" if may_be_elsewhere else ""
        raise DataError(f"dataset {name}: no such file, and search {search} trains on it; put it back there{otherwise}")


def _unknown(name: str) -> DataError:
    return DataError(f"--dataset {quoted(name)}: must be one of {', '.join(NAMES)}, or a file ending in .npz")


def _require_whole(dataset: Dataset) -> Dataset:
    """Raise DataError for a dataset that is empty, or has a label too few."""
    images, labels = dataset.images, dataset.labels
    if len(images) == 0 or 0 in images.shape:
        raise DataError(f"dataset {dataset.name}: images of shape {images.shape} hold nothing")
    if len(images) != len(labels):
        raise DataError(f"dataset {dataset.name}: {len(images)} images but {len(labels)} labels")
    return dataset


def require_fit(dataset: Dataset, space: SearchSpace) -> None:
    """Raise DataError unless the dataset's images and labels fit the space's input shape and classes."""
    if dataset.image_shape != space.input_shape:
        if dataset.looks_channels_last:
            remedy = f"this looks like height x width x channels: {TRANSPOSE}"
        else:
            remedy = f"give a space with input_shape = {list(dataset.image_shape)} (--space FILE.toml)"
        raise DataError(
            f"dataset {dataset.name} has images of {dataset.image_shape} (channels x height x width), but space "
            f"{space.name} takes {space.input_shape}; {remedy}"
        )
    low, high = int(dataset.labels.min()), int(dataset.labels.max())
    if low < 0 or high >= space.classes:
        raise DataError(
            f"dataset {dataset.name} has labels from {low} to {high}, but space {space.name} has classes = "
            f"{space.classes}, so labels must be from 0 to {space.classes - 1}"
        )


# ------------------------------------------------------------------ the split


@dataclass(frozen=True)
class Split:
    """What a worker keeps on its device: float32 images from 0 to 1, and int64 labels."""

    train_images: "Tensor"  # (n, C, H, W)
    train_labels: "Tensor"  # (n,)
    val_images: "Tensor"  # (m, C, H, W)
    val_labels: "Tensor"  # (m,)


def split(dataset: Dataset, recipe: Recipe, device: "torch.device | str" = "cpu") -> Split:
    """The recipe's images, 0.8 for training and the rest for validation, by a fixed permutation."""
    import torch  # noqa: PLC0415  # takes a second or two

    images, labels = tensors(dataset.first(recipe.train_images))
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(SPLIT_SEED))
    train, val = order[: recipe.images_for_training], order[recipe.images_for_training :]
    return Split(*(part.to(device) for part in (images[train], labels[train], images[val], labels[val])))


def tensors(dataset: Dataset, device: "torch.device | str" = "cpu") -> "tuple[Tensor, Tensor]":
    """A dataset's images, float32 from 0 to 1 (N, C, H, W), and its labels, int64 (N,)."""
    import torch  # noqa: PLC0415  # takes a second or two

    images = torch.from_numpy(np.array(dataset.images))
    if images.dtype == torch.uint8:
        images = images.float() / 255
    return images.to(device), torch.from_numpy(np.array(dataset.labels)).to(device)


# ------------------------------------------------------------------ where they come from


def _load_digits() -> Dataset:
    """Scikit-learn's digits: 8x8, values 0 to 16; bilinearly resized to 28x28 and scaled to 0..1."""
    import torch  # noqa: PLC0415  # takes a second or two
    from sklearn.datasets import load_digits  # noqa: PLC0415  # likewise

    digits = load_digits()
    small = torch.from_numpy(digits.images).float()[:, None] / 16  # (N, 1, 8, 8)
    images = torch.nn.functional.interpolate(small, size=(28, 28), mode="bilinear", align_corners=False)
    return Dataset("digits", images.numpy(), digits.target.astype(np.int64))


def present(data_dir: Path) -> list[str]:
    """The datasets that can be had without a download."""
    return [*(name for name in TORCHVISION if not _missing(_folder(name, data_dir))), "digits"]


FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def _folder(name: str, data_dir: Path) -> Path:
    """Where torchvision keeps a dataset's files."""
    return data_dir / TORCHVISION[name] / "raw"


def _missing(folder: Path) -> list[str]:
    return [file for file in FILES if not (folder / file).is_file()]


def _load_torchvision(name: str, data_dir: Path, *, train: bool) -> Dataset:
    folder = _folder(name, data_dir)
    if _missing(folder):
        _download(getattr(import_datasets(), TORCHVISION[name]), name, data_dir)
    images_file, labels_file = (folder / file for file in (FILES[:2] if train else FILES[2:]))
    try:
        images, labels = _read_idx(images_file), _read_idx(labels_file)
    except Exception as error:  # noqa: BLE001  # what is not there, or damaged, shows as a dozen types
        raise DataError(
            f"dataset {name}: the files {', '.join(FILES)} in {folder} cannot be read "
            f"({clean_error(error)}); delete them and let netsieve download them again"
        ) from None
    if images.ndim != 3 or labels.ndim != 1:
        raise DataError(f"dataset {name}: {images_file} holds no grey images; delete it to download it again")
    return Dataset(name if train else f"{name} (test)", images[:, None], labels.astype(np.int64))


def _read_idx(path: Path) -> npt.NDArray[np.uint8]:
    """An array of bytes in the IDX format of the MNIST files (http://yann.lecun.com/exdb/mnist)."""
    content = np.fromfile(path, np.uint8)
    if content[:3].tolist() != [0, 0, 8]:
        raise ValueError(f"{path.name} is no IDX file of bytes")
    start = 4 + 4 * int(content[3])
    return content[start:].reshape(content[4:start].view(">u4"))


def _download(dataset_class: Any, name: str, data_dir: Path) -> None:
    """Download into a folder beside the final one, then rename: two runs at once, or a cut one, do no harm."""
    folder = _folder(name, data_dir)
    missing = _missing(folder)
    is_new = not data_dir.exists()
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=data_dir, prefix=".downloading-") as fresh, _impatient():
            got = dataset_class(root=fresh, train=True, download=True)
            folder.parent.mkdir(exist_ok=True)
            shutil.rmtree(folder, ignore_errors=True)
            Path(got.raw_folder).replace(folder)
    except Exception as error:  # noqa: BLE001  # no network, or a broken answer of it, shows as many types
        if not _missing(folder):
            return  # another run was faster
        if is_new:
            with contextlib.suppress(OSError):
                data_dir.rmdir()
        raise DataError(
            f"dataset {name}: {', '.join(missing)} not found in {folder}, and downloading them failed "
            f"({clean_error(error)}); put them there, name another folder with --data-dir, "
            "or use --dataset digits, which needs no download"
        ) from None


@contextlib.contextmanager
def _impatient() -> Iterator[None]:
    """Silence torchvision's progress on stdout, and give up on a network that does not answer."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_S)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        socket.setdefaulttimeout(before)


def _load_npz(path: Path) -> Dataset:
    arrays = _read_npz(path, ("images", "labels"))
    for name in ("images", "labels"):
        if name not in arrays:
            raise DataError(f"--dataset {path}: has no array {name!r}; it must hold images and labels")
    return _dataset_of(path, arrays, str(path))


def _load_npz_test(path: Path) -> Dataset | None:
    """The file's test_images and test_labels: both, or None."""
    arrays = _read_npz(path, ("test_images", "test_labels"))
    if len(arrays) == 1:
        (there,) = arrays
        missing = "test_labels" if there == "test_images" else "test_images"
        raise DataError(f"--dataset {path}: has {there} but no array {missing!r}; it must hold both or neither")
    return _dataset_of(path, arrays, f"{path} (test)") if arrays else None


def _read_npz(path: Path, names: tuple[str, str]) -> dict[str, npt.NDArray[Any]]:
    """Those of the named arrays that the file has, in the order of the names."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise DataError(
            f"--dataset {quoted(str(path), 200)}: the name is no UTF-8 text; give the file another"
        ) from None
    where = f"--dataset {path}"
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            return {name: _read_array(archive, name) for name in names if f"{name}.npy" in archive.namelist()}
    except FileNotFoundError:
        raise DataError(f"{where}: no such file") from None
    except Exception as error:  # noqa: BLE001  # a damaged file shows as a dozen types, zlib's among them
        raise DataError(f"{where}: not a readable .npz file ({clean_error(error)})") from None


def _dataset_of(path: Path, arrays: dict[str, npt.NDArray[Any]], name: str) -> Dataset:
    """Images and labels, by whatever names. Raises DataError if they are of another kind."""
    (images_name, images), (labels_name, labels) = arrays.items()
    if images.ndim == 3:
        images = images[:, None]
    if images.ndim != 4 or images.dtype != np.uint8:
        raise DataError(
            f"--dataset {path}: {images_name} are {images.dtype} of shape {images.shape}; "
            "they must be uint8 (N, H, W) or (N, C, H, W)"
        )
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(
            f"--dataset {path}: {labels_name} are {labels.dtype} of shape {labels.shape}; "
            "they must be whole numbers (N,)"
        )
    return Dataset(name, images, labels.astype(np.int64))


def _read_array(archive: zipfile.ZipFile, name: str) -> npt.NDArray[Any]:
    """One array of an .npz file (a zip of .npy files); nothing in it is ever executed."""
    with archive.open(f"{name}.npy") as file:
        return np.asarray(np.lib.format.read_array(file, allow_pickle=False))
