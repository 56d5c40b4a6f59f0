"""retrain: a candidate again, compared with what is stored, measured on test images, and kept."""

import json
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import Result

from search.candidates import FailureReason, Measurement, Outcome
from search.cli.retrain import TOLERANCE, Agreement, Difference, Request, agreement, largest_difference
from search.errors import NetsieveError
from workers import model_file
from workers.datasets import load

Cli = Callable[..., Result]

KEYS = [
    "index", "layers", "settings", "agreement", "largest_difference", "reason", "detail", "measurements", "test",
    "seconds", "out",
]  # fmt: skip
SETTINGS_KEYS = [
    "search", "seed", "dataset", "train_images", "batch_size", "epochs", "learning_rate", "device",
    "training_version", "torch",
]  # fmt: skip
SHARED = Path(__file__).parents[3].parent / "shared" / "data"
needs_mnist = pytest.mark.skipif(not (SHARED / "MNIST" / "raw").is_dir(), reason="the MNIST files are not here")


@pytest.fixture(scope="module")
def longer(tmp_path_factory: pytest.TempPathFactory, cli: Cli) -> str:
    """A database: ``short`` has 2 epochs on 500 digits, ``wild`` a learning rate at which losses explode."""
    url = f"sqlite:///{tmp_path_factory.mktemp('longer') / 'results.db'}"
    run = ("run", "--db", url, "--dataset", "digits", "--workers", 0, "--epochs", 2, "--train-images", 500)
    for search in (("short", "--max-completed", 2), ("wild", "--candidates", 40, "--learning-rate", 1000)):
        result = cli(*run, *search)
        assert result.exit_code == 0, result.stderr
    return url


def asked(cli: Cli, *words: object, exit_code: int = 0) -> dict[str, Any]:
    """The answer, from JSON."""
    result = cli("retrain", *words, "--format", "json")
    assert result.exit_code == exit_code, result.stderr
    answer: dict[str, Any] = json.loads(result.stdout)
    assert list(answer) == KEYS
    return answer


def first_with(cli: Cli, url: str, search: str, status: str) -> dict[str, Any]:
    """A search's first candidate of a status."""
    rows = json.loads(cli("candidates", search, "--db", url, "--format", "json").stdout)
    return next(row for row in rows if row["status"] == status)


def change(database: Path, index: int, search: str = "first", **values: Any) -> None:
    """Falsify a candidate's row."""
    columns = ", ".join(f"{name} = ?" for name in values)
    where = "search_id = (SELECT id FROM search WHERE name = ?) AND draw_index = ?"
    with closing(sqlite3.connect(database)) as connection, connection:
        done = connection.execute(f"UPDATE candidate SET {columns} WHERE {where}", [*values.values(), search, index])
        assert done.rowcount == 1


# ------------------------------------------------------------------ exactly as it was


def test_a_candidate_again_is_bit_equal(cli: Cli, searched: Path) -> None:
    """The same recipe, seed and images give the stored losses to the last bit; the answer says with what."""
    url = f"sqlite:///{searched}"
    best = first_with(cli, url, "first", "completed")
    answer = asked(cli, "first", best["index"], "--db", url)
    assert (answer["agreement"], answer["largest_difference"]) == ("bit_equal", 0.0)
    shown = json.loads(cli("show", "first", best["index"], "--db", url, "--format", "json").stdout)
    assert answer["measurements"] == shown["measurements"]
    assert (answer["index"], answer["layers"]) == (best["index"], best["layers"])
    assert (answer["reason"], answer["detail"], answer["test"], answer["out"]) == (None, None, None, None)
    assert list(answer["settings"]) == SETTINGS_KEYS
    used = {"search": "first", "seed": 0, "dataset": "digits", "train_images": 1797, "epochs": 1, "device": "cpu"}
    assert answer["settings"].items() >= used.items()


def test_people_read_the_same(cli: Cli, longer: str) -> None:
    """Progress is a line an epoch on stderr; the answer has the curve, the verdict, and why there is no test."""
    index = first_with(cli, longer, "short", "completed")["index"]
    result = cli("retrain", "short", index, "--db", longer)
    assert result.exit_code == 0
    assert [line.split("  ")[0] for line in result.stderr.splitlines()] == ["epoch 1 of 2", "epoch 2 of 2"]
    assert result.stdout.startswith(f"candidate {index} of search short, trained again: ")
    assert "\nbit-equal: losses and accuracies of epochs 1 to 2 are the search's, to the last bit\n" in result.stdout
    assert "\nno test accuracy: all digits are for training and validation\n" in result.stdout
    assert not any(word in result.stdout for word in ("None", "Agreement.", "nan"))


def test_the_database_is_only_read(cli: Cli, copied: Path) -> None:
    """Its bytes and time stay as they were."""
    index = first_with(cli, f"sqlite:///{copied}", "first", "completed")["index"]
    before = (copied.read_bytes(), copied.stat().st_mtime_ns)
    assert asked(cli, "first", index)["agreement"] == "bit_equal"
    assert (copied.read_bytes(), copied.stat().st_mtime_ns) == before


# ------------------------------------------------------------------ otherwise


@pytest.mark.parametrize(("epochs", "common"), [(1, "epoch 1"), (3, "epochs 1 to 2")])
def test_the_common_epochs_of_another_length_agree(cli: Cli, longer: str, epochs: int, common: str) -> None:
    """A training's beginning does not depend on its length, and the answer says what was compared."""
    index = first_with(cli, longer, "short", "completed")["index"]
    answer = asked(cli, "short", index, "--db", longer, "--epochs", epochs)
    assert (answer["agreement"], len(answer["measurements"])) == ("bit_equal", epochs)
    table = cli("retrain", "short", index, "--db", longer, "--epochs", epochs).stdout
    assert f"bit-equal: losses and accuracies of {common}, those that both have (2 then, {epochs} now), are" in table


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--seed", 7), "seed 7 (the search's: 0)"),
        (("--batch-size", 64), "batch size 64 (the search's: 32)"),
        (("--learning-rate", 0.01), "learning rate 0.01 (the search's: 0.05)"),
        (("--train-images", 400), "train images 400 (the search's: 500)"),
        (("--train-images", "all"), "train images 1797 (the search's: 500)"),
        (("--seed", 7, "--batch-size", 64), "batch size 64 (the search's: 32), seed 7 (the search's: 0)"),
    ],
)
def test_another_training_is_not_compared(cli: Cli, longer: str, options: tuple[object, ...], said: str) -> None:
    """What was changed is said, and nothing is claimed of the losses."""
    index = first_with(cli, longer, "short", "completed")["index"]
    words = ("short", index, "--db", longer, "--epochs", 1, *options)
    answer = asked(cli, *words)
    assert (answer["agreement"], answer["largest_difference"]) == ("not_compared", None)
    assert f"for this is another training: {said}\n" in cli("retrain", *words).stdout


@pytest.mark.parametrize("options", [("--seed", 0), ("--learning-rate", 0.05), ("--train-images", "all")])
def test_what_is_as_it_was_changes_nothing(cli: Cli, searched: Path, options: tuple[object, ...]) -> None:
    """Options that name the search's own values leave the comparison; all the digits are what it trained on."""
    url = f"sqlite:///{searched}"
    index = first_with(cli, url, "first", "completed")["index"]
    assert asked(cli, "first", index, "--db", url, *options)["agreement"] == "bit_equal"


# ------------------------------------------------------------------ when they do not agree


@pytest.mark.parametrize(("by", "agrees", "exit_code"), [(TOLERANCE / 2, "within_tolerance", 0), (0.5, "different", 1)])
def test_other_losses_are_found(cli: Cli, copied: Path, by: float, agrees: str, exit_code: int) -> None:
    """The largest difference is named, with its epoch and both values; beyond the tolerance the exit code is 1."""
    row = first_with(cli, f"sqlite:///{copied}", "first", "completed")
    stored = row["val_loss"] + by
    change(copied, row["index"], curve=json.dumps([[row["train_loss"], stored, row["val_accuracy"]]]))
    answer = asked(cli, "first", row["index"], exit_code=exit_code)
    assert answer["agreement"] == agrees
    assert answer["largest_difference"] == pytest.approx(by)
    table = cli("retrain", "first", row["index"]).stdout
    assert f"val loss of epoch 1: {stored!r} then, {row['val_loss']!r} now" in table
    assert str(TOLERANCE) in table
    assert ("another processor model or torch version" in table) == (agrees == "different")


def then(epochs: int, reason: FailureReason | None = None) -> Any:
    """A stored candidate, whose losses were 1."""
    return SimpleNamespace(candidate=SimpleNamespace(reason=reason), curve=[(1.0, 1.0, 0.5)] * epochs)


def now(epochs: int, reason: FailureReason | None = None) -> Outcome:
    """The same, as an outcome."""
    return Outcome(tuple(Measurement(epoch, 1.0, 1.0, 0.5) for epoch in range(1, epochs + 1)), 1.0, reason)


NON_FINITE, TIMEOUT, MEMORY = FailureReason.NON_FINITE_LOSS, FailureReason.TIMEOUT, FailureReason.OUT_OF_MEMORY


@pytest.mark.parametrize(
    ("stored", "outcome", "expected"),
    [
        (then(3), now(3), Agreement.BIT_EQUAL),
        (then(3, NON_FINITE), now(3, NON_FINITE), Agreement.BIT_EQUAL),
        (then(3, NON_FINITE), now(2, NON_FINITE), Agreement.DIFFERENT),
        (then(3, NON_FINITE), now(10), Agreement.DIFFERENT),
        (then(3, NON_FINITE), now(3), Agreement.BIT_EQUAL),  # asked for 3 epochs: the fourth was not reached
        (then(10), now(3, NON_FINITE), Agreement.DIFFERENT),
        (then(10), now(12, NON_FINITE), Agreement.BIT_EQUAL),  # asked for more epochs: beyond the stored ones
        (then(0, NON_FINITE), now(2), Agreement.DIFFERENT),
        (then(0, NON_FINITE), now(0, NON_FINITE), Agreement.NOT_COMPARED),
        (then(2, TIMEOUT), now(10), Agreement.BIT_EQUAL),
        (then(0, TIMEOUT), now(10), Agreement.NOT_COMPARED),
        (then(10), now(4, MEMORY), Agreement.BIT_EQUAL),
    ],
)
def test_trainings_that_fail_are_compared_as_far_as_they_came(
    stored: Any, outcome: Outcome, expected: Agreement
) -> None:
    """A loss that is not finite in one of two trainings only is a difference; other failures are the world's doing."""
    unread: Any = None
    request = Request("first", stored, unread, (), unread, unread)
    assert agreement(request, outcome, largest_difference(stored.curve, outcome.measurements)) is expected


def test_the_largest_difference_is_of_all_numbers_and_common_epochs() -> None:
    """Losses and accuracy count alike; what only one of the two has does not count."""
    measured = [Measurement(1, 1.0, 2.0, 0.5), Measurement(2, 1.0, 2.0, 0.75), Measurement(3, 9.0, 9.0, 0.0)]
    curve = [(1.0, 2.125, 0.5), (1.0, 2.0, 0.5)]
    assert largest_difference(curve, measured) == Difference(2, "val_accuracy", 0.5, 0.75)
    assert largest_difference(curve, []) is None


# ------------------------------------------------------------------ which candidates


def test_a_rejected_candidate_has_nothing_to_train(cli: Cli, searched: Path) -> None:
    """The error says why it was rejected."""
    row = first_with(cli, f"sqlite:///{searched}", "first", "rejected")
    result = cli("retrain", "first", row["index"], "--db", f"sqlite:///{searched}")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(
        f"Error: INDEX {row['index']}: was rejected, {row['reason']} at layer {row['layer']}"
    )


def test_an_open_candidate_is_not_trained_yet(cli: Cli, searched: Path) -> None:
    """The error names the command that goes on."""
    row = first_with(cli, f"sqlite:///{searched}", "second", "open")
    result = cli("retrain", "second", row["index"], "--db", f"sqlite:///{searched}")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "is not trained yet" in result.stderr
    assert "netsieve resume" in result.stderr


def test_an_index_beyond_what_is_drawn(cli: Cli, searched: Path) -> None:
    """As show says it."""
    result = cli("retrain", "first", 60, "--db", f"sqlite:///{searched}")
    assert result.exit_code == 2
    assert "INDEX 60: not drawn" in result.stderr


def test_an_unknown_search_suggests_the_nearest(cli: Cli, searched: Path) -> None:
    """As the other commands do."""
    result = cli("retrain", "frist", 0, "--db", f"sqlite:///{searched}")
    assert (result.exit_code, result.stderr) == (
        2,
        "Error: NAME 'frist': no such search in this database; did you mean first?\n",
    )


def test_a_repeat_is_trained_as_it_was_first_drawn(cli: Cli, copied: Path) -> None:
    """And a candidate that failed through no fault of its own is trained to the end; both are said."""
    draws = json.loads(cli("sample", "-n", 400, "--format", "json").stdout)
    texts = [draw["layers"] for draw in draws]
    again = next(i for i, draw in enumerate(draws) if draw["valid"] and texts.index(draw["layers"]) < i)
    first = texts.index(texts[again])
    change(copied, first, "second", status="failed", reason="timeout", detail="more than 600 s in training", curve=None)
    result = cli("retrain", "second", again)
    assert result.exit_code == 0
    assert result.stderr.startswith(f"index {again} drew the architecture of index {first} again\n")
    assert (
        "it failed in the search, timeout: more than 600 s in training; it is trained to the end now" in result.stdout
    )
    assert "not compared: the two trainings have no epoch in common" in result.stdout
    assert asked(cli, "second", again)["index"] == first


def test_a_failure_that_comes_again_is_told(cli: Cli, longer: str, tmp_path: Path) -> None:
    """The reasons then and now; exit code 1, and no network; with a recipe that works there is one."""
    row = first_with(cli, longer, "wild", "failed")
    result = cli("retrain", "wild", row["index"], "--db", longer, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "it failed in the search, non_finite_loss: in epoch 1; it fails again\n" in result.stdout
    assert "failed, non_finite_loss: in epoch 1; there is no trained network\n" in result.stdout
    answer = asked(cli, "wild", row["index"], "--db", longer, exit_code=1)
    assert (answer["reason"], answer["measurements"]) == ("non_finite_loss", [])
    assert not (tmp_path / "out").exists()
    works = ("--learning-rate", 0.05, "--out", tmp_path / "out")
    assert asked(cli, "wild", row["index"], "--db", longer, *works)["reason"] is None
    assert (tmp_path / "out").exists()


# ------------------------------------------------------------------ the images


@pytest.fixture
def own(cli: Cli, place: Path) -> Path:
    """A search, in the default database, on a file of one's own with test images."""
    digits = load("digits", Path())
    images = (digits.images * 255).astype(np.uint8)
    path = place / "own.npz"
    np.savez(
        path,
        images=images[:200],
        labels=digits.labels[:200],
        test_images=images[200:350],
        test_labels=digits.labels[200:350],
    )
    assert cli("run", "own", "--dataset", path, "--workers", 0, "--epochs", 1, "--max-completed", 1).exit_code == 0
    return path


def test_a_file_of_ones_own_may_have_test_images(cli: Cli, own: Path) -> None:
    """Loss and accuracy of the final network on all of them; a file that was moved is named with --dataset."""
    index = first_with(cli, "sqlite:///netsieve.db", "own", "completed")["index"]
    answer = asked(cli, "own", index)
    assert answer["agreement"] == "bit_equal"
    assert list(answer["test"]) == ["loss", "accuracy", "images"]
    assert answer["test"]["images"] == 150
    assert "on 150 images that no network was trained or chosen by" in cli("retrain", "own", index).stdout
    own.rename(own.with_name("moved.npz"))
    assert "own.npz: no such file" in cli("retrain", "own", index).stderr
    assert asked(cli, "own", index, "--dataset", "moved.npz")["test"] == answer["test"]


def test_other_images_are_refused(cli: Cli, own: Path) -> None:
    """A file that has changed since gives no comparison and no network, whatever else was asked for."""
    index = first_with(cli, "sqlite:///netsieve.db", "own", "completed")["index"]
    arrays = dict(np.load(own))
    arrays["labels"][0] += 1
    np.savez(own, **arrays)
    for options in ((), ("--seed", 7), ("--dataset", "digits")):
        result = cli("retrain", "own", index, *options)
        assert (result.exit_code, result.stdout) == (2, "")
        assert "the first 200 images and labels are not those that search own was trained on" in result.stderr


def test_without_test_images_it_says_so(cli: Cli, own: Path) -> None:
    """A file may have none; test images do not enter the hash."""
    index = first_with(cli, "sqlite:///netsieve.db", "own", "completed")["index"]
    arrays = dict(np.load(own))
    np.savez(own, images=arrays["images"], labels=arrays["labels"])
    assert "own.npz has no test_images and test_labels" in cli("retrain", "own", index).stdout


@needs_mnist
def test_mnist_has_ten_thousand_test_images(cli: Cli, place: Path) -> None:
    """They are read from the same folder; so are all 60,000 training images."""
    data = ("--data-dir", SHARED)
    run = ("run", "mnist", *data, "--workers", 0, "--epochs", 1, "--train-images", 100, "--max-completed", 1)
    assert cli(*run).exit_code == 0
    index = first_with(cli, "sqlite:///netsieve.db", "mnist", "completed")["index"]
    answer = asked(cli, "mnist", index, *data)
    assert (answer["agreement"], answer["test"]["images"]) == ("bit_equal", 10_000)
    assert 0 < answer["test"]["accuracy"] < 1
    answer = asked(cli, "mnist", index, *data, "--train-images", "all", "--batch-size", 1000)
    assert (answer["settings"]["train_images"], answer["agreement"]) == (60_000, "not_compared")


# ------------------------------------------------------------------ keeping the network


def test_the_network_is_kept(cli: Cli, longer: str, place: Path) -> None:
    """The folder has the weights and the module, and they say what the answer says."""
    from safetensors import safe_open

    index = first_with(cli, longer, "short", "completed")["index"]
    answer = asked(cli, "short", index, "--db", longer, "--out", "kept")
    assert answer["out"] == "kept"
    assert sorted(path.name for path in Path("kept").iterdir()) == ["model.py", "weights.safetensors"]
    with safe_open("kept/weights.safetensors", "pt") as file:
        said = file.metadata()
    assert (said["search"], said["index"], said["layers"]) == ("short", str(index), answer["layers"])
    assert float(said["val_accuracy"]) == answer["measurements"][-1]["val_accuracy"]
    assert json.loads(said["recipe"]) == {"train_images": 500, "batch_size": 32, "epochs": 2, "learning_rate": 0.05}
    refused = cli("retrain", "short", index, "--db", longer, "--out", "kept")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert refused.stderr == "Error: --out kept: is not empty; name a new folder\n"


def test_the_answer_comes_also_where_the_network_cannot_be_kept(
    cli: Cli, longer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training that is done is not lost for a disk that has filled up meanwhile; exit code 1."""

    def fail(*_: Any) -> None:
        raise NetsieveError("--out kept: cannot be written (No space left on device)")

    monkeypatch.setattr(model_file, "write", fail)
    index = first_with(cli, longer, "short", "completed")["index"]
    result = cli("retrain", "short", index, "--db", longer, "--out", "kept", "--format", "json")
    assert result.exit_code == 1
    assert (json.loads(result.stdout)["agreement"], json.loads(result.stdout)["out"]) == ("bit_equal", None)
    assert result.stderr.endswith("Error: --out kept: cannot be written (No space left on device)\n")


def test_ctrl_c_leaves_nothing(cli: Cli, copied: Path, place: Path) -> None:
    """Exit code 130, no answer, and no folder."""
    index = first_with(cli, f"sqlite:///{copied}", "first", "completed")["index"]
    netsieve = Path(sys.executable).with_name("netsieve")
    words = [netsieve, "retrain", "first", str(index), "--epochs", "10000", "--out", "kept"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("epoch     1 of 10000  train loss")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "")
    assert err.endswith("Error: interrupted\n")
    assert [path.name for path in place.iterdir() if not path.name.startswith("netsieve.db")] == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--epochs", 0), "--epochs 0: must be from 1"),
        (("--learning-rate", "nan"), "--learning-rate nan: must be above 0"),
        (("--batch-size", 5000), "--batch-size 5000: more than the 1437 images"),
        (("--train-images", 1798), "--train-images 1798: dataset digits has 1,797 training images"),
        (("--train-images", "most"), "'most' is neither a whole number nor 'all'."),
        (("--train-images", "-1"), "'-1' is neither a whole number nor 'all'."),
        (("--format", "csv"), "'csv' is not one of"),
    ],
)
def test_bad_options_are_one_line(cli: Cli, searched: Path, options: tuple[object, ...], message: str) -> None:
    """Exit code 2, before anything is trained."""
    index = first_with(cli, f"sqlite:///{searched}", "first", "completed")["index"]
    result = cli("retrain", "first", index, "--db", f"sqlite:///{searched}", *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--epochs", 0), "--epochs 0"),
        (("--learning-rate", "nan"), "--learning-rate nan"),
        (("--train-images", 4), "4"),
    ],
)
def test_a_number_out_of_range_is_said_before_anything_is_loaded(
    cli: Cli, longer: str, monkeypatch: pytest.MonkeyPatch, words: tuple[str, object], says: str
) -> None:
    """Reading images, and torch itself, takes seconds."""
    monkeypatch.setattr("workers.datasets.load", None)
    index = first_with(cli, longer, "short", "completed")["index"]
    result = cli("retrain", "short", index, "--db", longer, *words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert says in result.stderr
