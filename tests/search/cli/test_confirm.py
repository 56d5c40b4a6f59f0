"""confirm: the best of a search under other seeds, recorded like any search."""

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result

from search.errors import Stopped
from search.run import Run

Cli = Callable[..., Result]

KEYS = ["rank", "index", "found", "seeds", "failed", "mean", "std", "low", "high", "test_mean", "test_std", "layers"]
RUN = ("--dataset", "digits", "--workers", 0, "--epochs", 1, "--candidates", 25)


def answer(cli: Cli, *words: object) -> Any:
    result = cli(*words, "--format", "json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def confirmed(cli: Cli, *words: object) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = answer(cli, "confirm", *words, "--workers", 0)
    return found


def save_with_test_images(tested: slice) -> None:
    """Images that are easy to tell apart, in mine.npz; some of them are the test images."""
    labels = np.random.default_rng(0).integers(0, 10, 300)
    images = (np.eye(28, dtype=np.uint8)[labels] * 255)[:, None, :].repeat(28, axis=1)
    np.savez("mine.npz", images=images, labels=labels, test_images=images[tested], test_labels=labels[tested])


def test_the_best_are_trained_again_under_other_seeds(cli: Cli, database_url: str, place: Path) -> None:
    """On both databases: a search a seed, whose accuracies have the mean and the deviation that are reported."""
    db = ("--db", database_url)
    assert cli("run", "first", *RUN, *db).exit_code == 0
    found = confirmed(cli, "first", "--top", 3, "--seeds", 2, *db)
    best = answer(cli, "top", "first", "-n", 3, *db)
    assert sorted((row["rank"], row["index"], row["found"], row["layers"]) for row in found) == [
        (rank, row["index"], row["val_accuracy"], row["layers"]) for rank, row in enumerate(best, 1)
    ]
    under = [
        {row["layers"]: row["val_accuracy"] for row in answer(cli, "candidates", f"first.confirm-{n}", *db)}
        for n in (1, 2)
    ]
    for row in found:
        assert list(row) == KEYS
        values = [each[row["layers"]] for each in under]
        assert (row["seeds"], row["failed"], row["low"], row["high"]) == (2, 0, min(values), max(values))
        assert row["mean"] == pytest.approx(statistics.fmean(values))
        assert row["std"] == pytest.approx(statistics.stdev(values))
        assert row["test_mean"] is None  # digits have no test images
    assert [row["mean"] for row in found] == sorted((row["mean"] for row in found), reverse=True)
    assert cli("db", "check", *db).exit_code == 0


def test_a_seed_is_not_the_one_that_they_were_found_under(cli: Cli, place: Path) -> None:
    """Everything else is as it was."""
    cli("run", "first", *RUN, "--seed", 2**63 - 1)
    confirmed(cli, "first", "--top", 1, "--seeds", 2)
    losses = {
        answer(cli, "top", name, "-n", 1)[0]["val_loss"] for name in ("first", "first.confirm-1", "first.confirm-2")
    }
    assert len(losses) == 3


def test_a_second_call_trains_only_what_is_new(cli: Cli, place: Path) -> None:
    """More seeds, or more of the best, are added to what there is; the same again trains nothing."""
    cli("run", "first", *RUN)
    few = confirmed(cli, "first", "--top", 2, "--seeds", 1)
    more = confirmed(cli, "first", "--top", 3, "--seeds", 2)
    by_index = {row["index"]: row for row in more}
    assert [by_index[row["index"]]["seeds"] for row in few] == [2, 2]
    before = answer(cli, "candidates", "first.confirm-1")
    assert confirmed(cli, "first", "--top", 2, "--seeds", 1) == few
    assert answer(cli, "candidates", "first.confirm-1") == before
    assert len(before) == 3


def test_what_stops_a_seed_leaves_all_to_the_same_command(
    cli: Cli, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on with the seeds that are left, which resuming the one would not."""
    cli("run", "first", *RUN)

    def stop(_: Run) -> None:
        raise Stopped("the workers are gone")

    with monkeypatch.context() as patch:
        patch.setattr(Run, "__call__", stop)
        stopped = cli("confirm", "first", "--top", 1, "--seeds", 2, "--workers", 0)
    assert stopped.exit_code == 75
    assert stopped.stderr.splitlines()[-2:] == ["Error: the workers are gone", "go on with: the same command"]
    assert [row["seeds"] for row in confirmed(cli, "first", "--top", 1, "--seeds", 2)] == [2]


def test_accuracy_on_test_images_where_there_are_any(cli: Cli, place: Path) -> None:
    """Of each seed's final network, in the candidates and in the report."""
    save_with_test_images(slice(50))
    assert cli("run", "first", *RUN, "--dataset", "mine.npz", "--batch-size", 8).exit_code == 0
    found = confirmed(cli, "first", "--top", 2, "--seeds", 2)
    columns = ("--columns", "layers,test_accuracy,test_loss")
    under = [{row["layers"]: row for row in answer(cli, "candidates", f"first.confirm-{n}", *columns)} for n in (1, 2)]
    for row in found:
        values = [each[row["layers"]]["test_accuracy"] for each in under]
        assert row["test_mean"] == pytest.approx(statistics.fmean(values))
        assert 0 < row["test_mean"] <= 1
    shown = cli("show", "first.confirm-1", 0).stdout
    assert "on the test images: accuracy" in shown
    assert all(row["test_accuracy"] is None for row in answer(cli, "candidates", "first", *columns))


def test_other_test_images_than_before_are_refused(cli: Cli, place: Path) -> None:
    """A mean over seeds that were measured on different images would mean nothing."""
    save_with_test_images(slice(50))
    assert cli("run", "first", *RUN, "--dataset", "mine.npz", "--batch-size", 8).exit_code == 0
    (before,) = confirmed(cli, "first", "--top", 1, "--seeds", 1)
    save_with_test_images(slice(50, 90))
    refused = cli("confirm", "first", "--top", 2, "--seeds", 2, "--workers", 0)
    assert refused.exit_code == 2
    assert "test-sha256: stored" in refused.stderr
    save_with_test_images(slice(50))
    assert confirmed(cli, "first", "--top", 1, "--seeds", 1) == [before]


def test_the_table_says_what_was_luck(cli: Cli, place: Path) -> None:
    """Data on stdout, the summary on stderr."""
    cli("run", "first", *RUN)
    result = cli("confirm", "first", "--top", 2, "--seeds", 2, "--workers", 0)
    assert result.stdout.splitlines()[0].split() == KEYS
    assert "when found" in result.stderr
    assert "over 2 seeds" in result.stderr
    assert "under other seeds" in result.stderr
    assert "has no test images" in result.stderr


def test_a_search_without_results_has_nothing_to_confirm(cli: Cli, place: Path) -> None:
    """It says what to do; so does an unknown name, and one that is too long to be continued."""
    bad = "conv=channel_factor:0.4,kernel_size:3,stride:1,padding:0-"
    Path("bad.txt").write_text(bad)
    cli("run", "none", "--strings", "bad.txt", "--dataset", "digits", "--workers", 0)
    result = cli("confirm", "none", "--workers", 0)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "no candidate is completed yet" in result.stderr
    assert cli("confirm", "unknown").exit_code == 2


def test_other_images_are_refused(cli: Cli, place: Path) -> None:
    """A file that was changed meanwhile would give another experiment."""
    rng = np.random.default_rng(0)
    for _ in range(2):
        images, labels = rng.integers(0, 255, (60, 28, 28), dtype=np.uint8), rng.integers(0, 10, 60)
        np.savez("mine.npz", images=images, labels=labels)
        if not Path("netsieve.db").exists():
            cli("run", "first", *RUN, "--dataset", "mine.npz", "--batch-size", 8)
    result = cli("confirm", "first", "--workers", 0)
    assert result.exit_code == 2
    assert "are not those that search first was trained on" in result.stderr
