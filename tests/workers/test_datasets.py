"""Datasets: what they hold, how they are split, and what is said when they cannot be had."""

import hashlib
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from search.errors import DataError, NetsieveError
from search.layers import Shape
from search.settings import Recipe
from search.space import CLASSIC
from workers import datasets
from workers.datasets import FILES, Dataset, load, load_test, present, require_fit, split

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
needs_mnist = pytest.mark.skipif(not (SHARED / "MNIST" / "raw").is_dir(), reason="the MNIST files are not here")


def numbered(count: int) -> Dataset:
    """Images of one pixel that say their own position, in the label and (scaled) in the pixel."""
    positions = np.arange(count, dtype=np.int64)
    return Dataset("numbered", (positions / count).astype(np.float32).reshape(count, 1, 1, 1), positions)


# ------------------------------------------------------------------ digits


def test_digits_are_scikit_learns(tmp_path: Path) -> None:
    """All 1,797 digits, as float32 images 1x28x28 from 0 to 1, with labels 0 to 9."""
    digits = load("digits", tmp_path)
    assert digits.images.shape == (1797, 1, 28, 28)
    assert digits.images.dtype == np.float32
    assert (digits.images.min(), digits.images.max()) == (0.0, 1.0)
    assert digits.labels.dtype == np.int64
    assert np.unique(digits.labels).tolist() == list(range(10))
    assert digits.labels[:10].tolist() == list(range(10))
    assert digits.image_shape == Shape(1, 28, 28)


def test_digits_need_no_folder(tmp_path: Path) -> None:
    """Loading them writes nothing."""
    load("digits", tmp_path / "missing")
    assert list(tmp_path.iterdir()) == []


def test_digits_are_bilinear(tmp_path: Path) -> None:
    """Each pixel is the bilinear mean of its four neighbours in the 8x8 original, computed here by hand."""
    from sklearn.datasets import load_digits

    position = np.clip((np.arange(28) + 0.5) * 8 / 28 - 0.5, 0, 7)
    low, share = np.floor(position).astype(int), position - np.floor(position)
    weights = np.zeros((28, 8))
    weights[np.arange(28), low] += 1 - share
    weights[np.arange(28), np.minimum(low + 1, 7)] += share
    expected = weights @ (load_digits().images / 16) @ weights.T
    np.testing.assert_allclose(load("digits", tmp_path).images[:, 0], expected, atol=1e-6)


# ------------------------------------------------------------------ mnist


@needs_mnist
def test_mnist_is_the_original() -> None:
    """60,000 images as bytes, in the original's order, to the last bit."""
    mnist = load("mnist", SHARED)
    assert mnist.images.shape == (60_000, 1, 28, 28)
    assert mnist.images.dtype == np.uint8
    assert mnist.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert mnist.sha256() == "7260a7355c338e8392209e125b7d63c7ff7749e3d215d14dee1e731393040450"
    assert mnist.first(5_000).sha256() == "c3cbfbae033be0e66bebc9f4600ef29b6fabd296195c7b370d4fab1d0bc66fe5"


@needs_mnist
def test_mnist_is_scaled_once() -> None:
    """The workers' images are the bytes over 255."""
    mnist = load("mnist", SHARED).first(5)
    data = split(mnist, Recipe(train_images=5, batch_size=1))
    whole = torch.cat([data.train_images, data.val_images])
    order = torch.randperm(5, generator=torch.Generator().manual_seed(42))
    torch.testing.assert_close(whole, torch.from_numpy(mnist.images)[order].float() / 255)
    assert whole.max() == 1.0


# ------------------------------------------------------------------ what a dataset knows of itself


def test_first_takes_the_first() -> None:
    """The first images and labels, in order; all of them are allowed."""
    data = numbered(10)
    assert data.first(3).labels.tolist() == [0, 1, 2]
    assert data.first(3).images.shape == (3, 1, 1, 1)
    assert data.first(10).sha256() == data.sha256()


def test_first_refuses_more_than_there_are() -> None:
    """The message names the option, the dataset and how many it has."""
    with pytest.raises(DataError, match=r"--train-images 2001: dataset numbered has 2,000 training images"):
        numbered(2_000).first(2_001)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: replace(data, images=data.images + np.float32(1)),
        lambda data: replace(data, labels=data.labels[::-1]),
        lambda data: replace(data, images=data.images.astype(np.float64)),
        lambda data: replace(data, images=data.images.reshape(2, 1, 5, 1)),
        lambda data: data.first(9),
    ],
    ids=["values", "labels", "type", "shape", "fewer"],
)
def test_the_hash_is_of_the_content(change: Callable[[Dataset], Dataset]) -> None:
    """The name does not count; any other change gives another hash."""
    data = numbered(10)
    assert replace(data, name="other").sha256() == data.sha256()
    assert change(data).sha256() != data.sha256()


def test_the_hash_does_not_depend_on_the_layout_in_memory() -> None:
    """Views and copies of the same values are the same dataset."""
    data = numbered(10)
    backwards = Dataset("numbered", data.images[::-1].copy()[::-1], data.labels[::-1].copy()[::-1])
    assert not backwards.images.flags["C_CONTIGUOUS"]
    assert backwards.sha256() == data.sha256()


def test_unknown_names_are_refused(tmp_path: Path) -> None:
    """The message lists what there is."""
    with pytest.raises(DataError, match=r"'mnits': must be one of mnist, fashion-mnist, kmnist, digits, or a file"):
        load("mnits", tmp_path)


# ------------------------------------------------------------------ the split


@pytest.mark.parametrize(("images", "train", "val"), [(5_000, 4_000, 1_000), (1_797, 1_437, 360), (40, 32, 8)])
def test_split_is_a_fixed_permutation(images: int, train: int, val: int) -> None:
    """Four fifths train, the rest validates: the two parts of torch.randperm seeded with 42, disjoint and complete."""
    data = split(numbered(images), Recipe(train_images=images))
    assert (len(data.train_images), len(data.val_images)) == (train, val)
    order = torch.randperm(images, generator=torch.Generator().manual_seed(42))
    assert torch.equal(torch.cat([data.train_labels, data.val_labels]), order)
    assert sorted(order.tolist()) == list(range(images))


def test_split_keeps_images_with_their_labels() -> None:
    """The pixel of every image says the position that its label says, and float images are not scaled again."""
    data = split(numbered(1_000), Recipe(train_images=1_000))
    for images, labels in ((data.train_images, data.train_labels), (data.val_images, data.val_labels)):
        torch.testing.assert_close(images.flatten(), labels / 1_000)
        assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)


def test_split_uses_the_recipes_images_only() -> None:
    """Of a larger dataset the first ones are split, as of the smaller one."""
    recipe = Recipe(train_images=100)
    of_many, of_few = split(numbered(1_000), recipe), split(numbered(100), recipe)
    assert torch.equal(of_many.train_labels, of_few.train_labels)
    assert torch.equal(of_many.val_labels, of_few.val_labels)


def test_split_ignores_and_leaves_the_global_generator() -> None:
    """Torch's global seed neither changes the split nor is changed by it."""
    recipe = Recipe(train_images=100)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        first = split(numbered(100), recipe)
        after = torch.rand(1)
        torch.manual_seed(1)
        assert torch.equal(torch.rand(1), after)
    assert torch.equal(split(numbered(100), recipe).val_labels, first.val_labels)


def test_split_takes_arrays_that_cannot_be_written() -> None:
    """Ray hands its workers read-only arrays; they are copied without a warning."""
    data = numbered(100)
    data.images.flags.writeable = data.labels.flags.writeable = False
    assert len(split(data, Recipe(train_images=100)).val_images) == 20


# ------------------------------------------------------------------ does it fit the space?


def grey(shape: tuple[int, int, int], labels: list[int]) -> Dataset:
    """A dataset of black images."""
    return Dataset("own.npz", np.zeros((len(labels), *shape), np.uint8), np.array(labels, np.int64))


LABEL_RULE = ", so labels must be from 0 to 9"


@pytest.mark.parametrize("labels", [[0, 9], [3, 4]])
def test_a_dataset_that_fits_is_accepted(labels: list[int]) -> None:
    """The shape is the space's and the labels are among its classes; not every class need occur."""
    require_fit(grey((1, 28, 28), labels), CLASSIC)


@pytest.mark.parametrize("shape", [(32, 32, 3), (28, 28, 1), (2, 9, 4)])
def test_images_look_as_if_their_channels_were_last(shape: tuple[int, int, int]) -> None:
    """Their last side is a number of channels that images have, and their first is not."""
    assert grey(shape, [0]).looks_channels_last


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (4, 4, 4), (1, 9, 3), (8, 8, 8), (2, 8, 2)])
def test_images_whose_channels_are_first(shape: tuple[int, int, int]) -> None:
    """Also where they are as wide as channels are many."""
    assert not grey(shape, [0]).looks_channels_last


@pytest.mark.parametrize(
    ("data", "complaint", "remedy"),
    [
        (
            grey((3, 32, 30), [0]),
            "has images of 3x32x30 (channels x height x width), but space classic takes 1x28x28",
            "; give a space with input_shape = [3, 32, 30] (--space FILE.toml)",
        ),
        (
            grey((32, 30, 3), [0]),
            "has images of 32x30x3 (channels x height x width), but space classic takes 1x28x28",
            "; this looks like height x width x channels: store images.transpose(0, 3, 1, 2)",
        ),
        (grey((1, 28, 28), [1, 10]), "has labels from 1 to 10, but space classic has classes = 10", LABEL_RULE),
        (grey((1, 28, 28), [-1, 5]), "has labels from -1 to 5, but space classic has classes = 10", LABEL_RULE),
    ],
    ids=["shape", "channels last", "too many classes", "negative label"],
)
def test_a_dataset_that_does_not_fit_is_refused(data: Dataset, complaint: str, remedy: str) -> None:
    """The message gives both sides, and what to change."""
    with pytest.raises(DataError) as refusal:
        require_fit(data, CLASSIC)
    assert str(refusal.value) == f"dataset own.npz {complaint}{remedy}"


# ------------------------------------------------------------------ .npz files

IMAGES = np.arange(6 * 5 * 4, dtype=np.uint8).reshape(6, 5, 4)
LABELS = np.array([0, 1, 2, 0, 1, 2])


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (IMAGES, LABELS),
        (IMAGES[:, None], LABELS.astype(np.uint8)),
        (np.asfortranarray(IMAGES), LABELS.astype(">i4")),
    ],
    ids=["grey", "with a channel", "other layouts"],
)
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_is_read(tmp_path: Path, save: Any, images: Any, labels: Any) -> None:
    """Grey images may leave out the channel; labels of any integer type become int64."""
    path = tmp_path / "own.npz"
    save(path, images=images, labels=labels)
    data = load(str(path), tmp_path / "unused")
    assert data.name == str(path)
    assert np.array_equal(data.images, IMAGES[:, None])
    assert data.images.dtype == np.uint8
    assert np.array_equal(data.labels, LABELS)
    assert data.labels.dtype == np.int64
    assert len(split(data, Recipe(train_images=6, batch_size=1)).train_images) == 4


def test_npz_in_colour(tmp_path: Path) -> None:
    """Images (N, C, H, W) keep their channels."""
    path = tmp_path / "colour.npz"
    np.savez(path, images=np.zeros((6, 3, 5, 4), np.uint8), labels=LABELS)
    assert load(str(path), tmp_path).image_shape == Shape(3, 5, 4)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": IMAGES}, "has no array 'labels'; it must hold images and labels"),
        ({"labels": LABELS}, "has no array 'images'; it must hold images and labels"),
        ({"images": IMAGES.astype(float), "labels": LABELS}, "images are float64 of shape"),
        ({"images": IMAGES[0], "labels": LABELS}, r"images are uint8 of shape \(5, 4\); they must be uint8 \(N, H, W"),
        ({"images": IMAGES[None, None], "labels": LABELS}, "images are uint8 of shape"),
        ({"images": IMAGES, "labels": LABELS * 1.0}, r"labels are float64 of shape \(6,\); they must be whole numbers"),
        ({"images": IMAGES, "labels": LABELS[:, None]}, r"labels are int64 of shape \(6, 1\)"),
        ({"images": IMAGES, "labels": LABELS == 1}, "labels are bool"),
        ({"images": IMAGES, "labels": LABELS[:5]}, "6 images but 5 labels"),
        ({"images": IMAGES[:0], "labels": LABELS[:0]}, "hold nothing"),
        ({"images": IMAGES[:, :0], "labels": LABELS}, "hold nothing"),
        ({"images": np.array([None] * 6), "labels": LABELS}, r"not a readable \.npz file"),
    ],
)
def test_npz_of_the_wrong_kind_is_refused(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    """The message names the file, what it holds, and what it should."""
    path = tmp_path / "own.npz"
    np.savez(path, **arrays)
    with pytest.raises(DataError, match=message) as refusal:
        load(str(path), tmp_path)
    assert str(path) in str(refusal.value)


def good_npz(tmp_path: Path) -> bytes:
    """A readable file, as bytes."""
    np.savez(tmp_path / "good", images=IMAGES, labels=LABELS)
    return (tmp_path / "good.npz").read_bytes()


def bare_members(tmp_path: Path) -> bytes:
    """A zip file whose members have the right names and are no arrays, as bytes."""
    with zipfile.ZipFile(tmp_path / "bare.zip", "w") as archive:
        archive.writestr("images", b"no array")
        archive.writestr("labels", b"no array")
    return (tmp_path / "bare.zip").read_bytes()


def single_array(tmp_path: Path) -> bytes:
    """A .npy file, as bytes."""
    np.save(tmp_path / "single", IMAGES)
    return (tmp_path / "single.npy").read_bytes()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda _: b"", r"not a readable \.npz file"),
        (lambda _: b"images and labels", r"not a readable \.npz file"),
        (lambda folder: good_npz(folder)[:200], r"not a readable \.npz file"),
        (lambda folder: good_npz(folder).replace(IMAGES.tobytes(), bytes(IMAGES.size)), r"not a readable \.npz file"),
        (bare_members, r"not a readable \.npz file|must"),
        (single_array, r"not a readable \.npz file"),
    ],
    ids=["empty", "text", "cut", "changed bytes", "no arrays", "npy"],
)
def test_npz_that_is_damaged_is_refused(tmp_path: Path, content: Callable[[Path], bytes], message: str) -> None:
    """Whatever the file holds, the answer is one line that names it."""
    path = tmp_path / "own.npz"
    path.write_bytes(content(tmp_path))
    with pytest.raises(DataError, match=message) as refusal:
        load(str(path), tmp_path)
    assert str(refusal.value).startswith(f"--dataset {path}: ")
    assert "\n" not in str(refusal.value)


def test_npz_with_damaged_compression_is_refused(tmp_path: Path) -> None:
    """A compressed file with changed bytes is refused like any other damage."""
    path = tmp_path / "own.npz"
    np.savez_compressed(path, images=np.random.default_rng(0).integers(0, 9, (60, 9, 9), np.uint8), labels=LABELS)
    content = bytearray(path.read_bytes())
    content[300:340] = bytes(40)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"not a readable \.npz file"):
        load(str(path), tmp_path)


def test_npz_that_is_missing_or_a_folder_is_refused(tmp_path: Path) -> None:
    """A path that leads nowhere says so; one that leads to a folder is no readable file."""
    with pytest.raises(DataError, match=r"none\.npz: no such file"):
        load(str(tmp_path / "none.npz"), tmp_path)
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(DataError, match=r"not a readable \.npz file"):
        load(str(tmp_path / "folder.npz"), tmp_path)


# ------------------------------------------------------------------ torchvision's, which may need a download


def idx(array: np.ndarray[Any, Any]) -> bytes:
    """An array in the IDX format of the MNIST files (http://yann.lecun.com/exdb/mnist)."""
    return bytes([0, 0, 8, array.ndim]) + b"".join(side.to_bytes(4, "big") for side in array.shape) + array.tobytes()


def write_raw(raw: Path, images: np.ndarray[Any, Any] | None = None) -> None:
    """The four files of a tiny dataset."""
    raw.mkdir(parents=True)
    images = np.arange(6 * 28 * 28).astype(np.uint8).reshape(6, 28, 28) if images is None else images
    for file in FILES:
        (raw / file).write_bytes(idx(images if "images" in file else LABELS.astype(np.uint8)))


class FakeSource:
    """Stands for torchvision.datasets: its classes download what the test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, download: Callable[[Path], None]) -> None:
        self.real = datasets.import_datasets()
        self.download = download
        fakes = {name: self.fake(name) for name in datasets.TORCHVISION.values()}
        monkeypatch.setattr(datasets, "import_datasets", lambda: SimpleNamespace(**fakes))

    def fake(self, name: str) -> Callable[..., Any]:
        """The class of one dataset: the real one, but for the network."""

        def make(root: str, *, train: bool, download: bool) -> Any:
            raw = Path(root) / name / "raw"
            if download:
                print("Downloading http://example.org")
                print("100%", file=sys.stderr)
                self.download(raw)
                return SimpleNamespace(raw_folder=str(raw))
            return getattr(self.real, name)(root=root, train=train, download=False)

        return make


def no_network(_: Path) -> None:
    """Fails as torchvision does without a network."""
    raise RuntimeError("Error downloading train-images-idx3-ubyte.gz")


def cut_half_way(raw: Path) -> None:
    """Two of four files arrive, then the network is gone."""
    raw.mkdir(parents=True)
    for file in FILES[:2]:
        (raw / file).write_bytes(b"half")
    raise ConnectionResetError("the other side hung up")


def everything_in(folder: Path) -> list[str]:
    """All files and folders below a folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("download", [no_network, cut_half_way])
def test_a_download_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], download: Callable[[Path], None]
) -> None:
    """The message names the files, the folder and what needs no download; no trace is left, and nothing is printed."""
    FakeSource(monkeypatch, download)
    with pytest.raises(DataError) as refusal:
        load("mnist", tmp_path)
    message = str(refusal.value)
    assert all(part in message for part in (*FILES, str(tmp_path / "MNIST" / "raw"), "--data-dir", "--dataset digits"))
    assert "\n" not in message
    assert everything_in(tmp_path) == []
    assert capfd.readouterr() == ("", "")


def test_torchvision_without_a_network_gives_the_same_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The real class, its mirrors out of reach, ends in the same one line."""
    real = datasets.import_datasets().MNIST
    monkeypatch.setattr(real, "mirrors", ["http://127.0.0.1:1/"])
    with pytest.raises(DataError, match=f"{FILES[0]}, {FILES[1]}, {FILES[2]}, {FILES[3]} not found in .* digits"):
        load("mnist", tmp_path)
    assert everything_in(tmp_path) == []
    assert capfd.readouterr().out == ""


def test_only_the_missing_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is there is not called missing, and stays when the download fails."""
    FakeSource(monkeypatch, no_network)
    write_raw(tmp_path / "MNIST" / "raw")
    (tmp_path / "MNIST" / "raw" / FILES[3]).unlink()
    with pytest.raises(DataError, match=f"^dataset mnist: {FILES[3]} not found in"):
        load("mnist", tmp_path)
    assert everything_in(tmp_path / "MNIST" / "raw") == sorted(FILES[:3])


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "kmnist"])
def test_a_download_is_renamed_into_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    """A folder that did not exist is made; afterwards it holds the four files and no other, quietly."""
    FakeSource(monkeypatch, write_raw)
    data = load(name, tmp_path / "new" / "data")
    assert data.images.shape == (6, 1, 28, 28)
    assert data.labels.tolist() == LABELS.tolist()
    folder = datasets.TORCHVISION[name]
    expected = [folder, f"{folder}/raw", *(f"{folder}/raw/{file}" for file in FILES)]
    assert everything_in(tmp_path / "new" / "data") == sorted(expected)
    assert capfd.readouterr() == ("", "")


def test_an_incomplete_folder_is_replaced_by_a_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an interrupted copy left is overwritten."""
    FakeSource(monkeypatch, write_raw)
    (tmp_path / "MNIST" / "raw").mkdir(parents=True)
    (tmp_path / "MNIST" / "raw" / FILES[0]).write_bytes(b"half")
    assert len(load("mnist", tmp_path).images) == 6


def test_a_faster_run_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When another run put the files there while this one's download failed, they are used."""

    def overtaken(_: Path) -> None:
        write_raw(tmp_path / "MNIST" / "raw")
        raise ConnectionResetError

    FakeSource(monkeypatch, overtaken)
    assert len(load("mnist", tmp_path).images) == 6


def test_files_that_are_there_are_not_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the four files in place the network is not asked, and nothing is written."""
    FakeSource(monkeypatch, no_network)
    write_raw(tmp_path / "MNIST" / "raw")
    before = everything_in(tmp_path)
    assert load("mnist", tmp_path).labels.tolist() == LABELS.tolist()
    assert everything_in(tmp_path) == before


@pytest.mark.parametrize(
    "content",
    [b"", b"not an IDX file", idx(np.zeros((6, 28, 28), np.uint8))[:500], idx(LABELS.astype(np.uint8))],
    ids=["empty", "text", "cut", "labels"],
)
def test_damaged_files_are_named(tmp_path: Path, content: bytes) -> None:
    """Files that are no IDX images are refused with their folder, and are not deleted by netsieve."""
    raw = tmp_path / "MNIST" / "raw"
    write_raw(raw)
    (raw / FILES[0]).write_bytes(content)
    with pytest.raises(DataError) as refusal:
        load("mnist", tmp_path)
    assert str(raw) in str(refusal.value)
    assert "download" in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert (raw / FILES[0]).read_bytes() == content


def test_a_file_in_place_of_the_folder_is_an_error_in_one_line(tmp_path: Path) -> None:
    """A --data-dir that is a file cannot take a download."""
    (tmp_path / "data").write_text("a file")
    with pytest.raises(NetsieveError, match="--data-dir"):
        load("mnist", tmp_path / "data")


def test_present_lists_what_needs_no_download(tmp_path: Path) -> None:
    """A dataset is present with all of its four files; digits always are."""
    assert present(tmp_path) == ["digits"]
    write_raw(tmp_path / "KMNIST" / "raw")
    write_raw(tmp_path / "MNIST" / "raw")
    (tmp_path / "MNIST" / "raw" / FILES[2]).unlink()
    assert present(tmp_path) == ["kmnist", "digits"]


def test_the_hash_is_that_of_the_documented_bytes() -> None:
    """SHA-256 over type, shape and bytes of the images, then of the labels."""
    data = Dataset("two", np.array([[[[1]]], [[[2]]]], np.uint8), np.array([3, 4], np.int64))
    digest = hashlib.sha256(b"|u1(2, 1, 1, 1)\x01\x02<i8(2,)" + np.array([3, 4], "<i8").tobytes())
    assert data.sha256() == digest.hexdigest()


# ------------------------------------------------------------------ test images


def test_digits_have_no_test_images(tmp_path: Path) -> None:
    """All of them are for training and validation."""
    assert load_test("digits", tmp_path) is None


@needs_mnist
def test_mnists_test_images_are_the_original() -> None:
    """10,000 images as bytes, in the original's order, and none of the training images."""
    test = load_test("mnist", SHARED)
    assert test is not None
    assert (test.name, test.images.shape, test.images.dtype) == ("mnist (test)", (10_000, 1, 28, 28), np.uint8)
    assert test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    trained_on = {image.tobytes() for image in load("mnist", SHARED).images}
    assert not trained_on & {image.tobytes() for image in test.images}


def test_test_images_are_downloaded_as_training_images_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Either brings both; the test images are those of the test files."""
    FakeSource(monkeypatch, write_raw)
    assert load_test("kmnist", tmp_path) is not None
    (tmp_path / "KMNIST" / "raw" / FILES[2]).write_bytes(idx(np.full((6, 28, 28), 7, np.uint8)))
    test = load_test("kmnist", tmp_path)
    assert test is not None
    assert np.unique(test.images).tolist() == [7]
    assert len(np.unique(load("kmnist", tmp_path).images)) > 1


@pytest.mark.parametrize("content", [b"not an IDX file", idx(LABELS.astype(np.uint8))], ids=["text", "labels"])
def test_damaged_test_files_are_named(tmp_path: Path, content: bytes) -> None:
    """As the training files are; those can still be read."""
    raw = tmp_path / "MNIST" / "raw"
    write_raw(raw)
    (raw / FILES[2]).write_bytes(content)
    with pytest.raises(DataError, match="download") as refusal:
        load_test("mnist", tmp_path)
    assert str(raw) in str(refusal.value)
    assert len(load("mnist", tmp_path).images) == 6


def test_an_unknown_name_has_no_test_images(tmp_path: Path) -> None:
    """The message lists what there is."""
    with pytest.raises(DataError, match=r"'mnits': must be one of mnist, fashion-mnist, kmnist, digits, or a file"):
        load_test("mnits", tmp_path)


def test_npz_may_hold_test_images(tmp_path: Path) -> None:
    """By the same rules as the others, which do not change; a file without them has none."""
    path = tmp_path / "own.npz"
    np.savez(path, images=IMAGES, labels=LABELS, test_images=IMAGES[:2], test_labels=LABELS[:2].astype(np.uint8))
    test = load_test(str(path), tmp_path)
    assert test is not None
    assert (test.name, test.images.shape, test.labels.dtype) == (f"{path} (test)", (2, 1, 5, 4), np.int64)
    with_test = load(str(path), tmp_path).sha256()
    np.savez(path, images=IMAGES, labels=LABELS)
    assert load_test(str(path), tmp_path) is None
    assert load(str(path), tmp_path).sha256() == with_test


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"test_images": IMAGES}, "has test_images but no array 'test_labels'; it must hold both or neither"),
        ({"test_labels": LABELS}, "has test_labels but no array 'test_images'; it must hold both or neither"),
        ({"test_images": IMAGES * 1.0, "test_labels": LABELS}, "test_images are float64 of shape"),
        ({"test_images": IMAGES, "test_labels": LABELS * 1.0}, "test_labels are float64 of shape"),
        ({"test_images": IMAGES, "test_labels": LABELS[:5]}, r"own\.npz \(test\): 6 images but 5 labels"),
        ({"test_images": IMAGES[:0], "test_labels": LABELS[:0]}, r"own\.npz \(test\): images of shape .* hold nothing"),
    ],
)
def test_npz_with_wrong_test_images_is_refused(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    """The message names the file, what it holds, and what it should."""
    path = tmp_path / "own.npz"
    np.savez(path, images=IMAGES, labels=LABELS, **arrays)
    with pytest.raises(DataError, match=message) as refusal:
        load_test(str(path), tmp_path)
    assert str(path) in str(refusal.value)
