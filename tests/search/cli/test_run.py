"""netsieve run and resume, in process on the digits: ends, extensions, refusals, configuration files."""

import gc
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import Result

from search.cli import launch
from search.cli.launch import resume, run
from search.cli.parameters import read_config
from search.errors import DatabaseAway, Stopped

Cli = Callable[..., Result]

QUICK = ("--dataset", "digits", "--workers", 0, "--epochs", 1, "--train-images", 200)
LIMITED = {
    "--max-completed": (2, "--max-completed 2"),
    "--max-time": ("0.5s", "--max-time"),
    "--target-accuracy": (0.05, "--target-accuracy 0.05"),
}  # an option's value, and what status says
TINY_SPACE = """name = "tiny"
input_shape = [3, 8, 8]
classes = 4
min_layers = 1
max_layers = 2
replacement = true
channels_within_side = true
layers = ["conv=channel_factor:2,kernel_size:3,stride:1,padding:0-", "batchnorm=eps:0.00001-"]
"""


def asked(cli: Cli, *question: object) -> Any:
    """The answer of the default database to a question."""
    result = cli(*question, "--format", "json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def refused(result: Result, *told: str) -> None:
    """A run was refused: exit code 2 and one line that says all of ``told``."""
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1), result.stderr
    assert result.stderr.startswith("Error: ")
    for text in told:
        assert text in result.stderr


# ------------------------------------------------------------------ to the end


def test_a_run_to_the_end(cli: Cli, place: Path) -> None:
    """A run ends with code 0, the five best on stdout, and progress and next commands on stderr."""
    result = cli("run", "first", *QUICK, "--candidates", 30)
    assert result.exit_code == 0
    best = asked(cli, "top", "first", "-n", 5)
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["rank", "accuracy", "loss", "parameters", "macs", "index", "layers"]
    assert [line.split()[-1] for line in lines[1:]] == [row["layers"] for row in best]
    assert "drawn 30 of 30" in result.stderr
    assert all(f"  netsieve {verb} first " in result.stderr for verb in ("top", "failures", "status"))
    assert asked(cli, "status", "first")["state"] == "finished"


def test_after_a_run_the_database_is_one_file(cli: Cli, place: Path) -> None:
    """A run closes all that it opened, so that SQLite moves its log into the file, which alone can then be copied."""
    gc.disable()  # closed, not collected some time
    try:
        for name in ("one", "two"):
            assert cli("run", name, *QUICK, "--candidates", 5).exit_code == 0
        log = place / "netsieve.db-wal"
        assert not log.exists() or log.stat().st_size == 0
    finally:
        gc.enable()


def test_where_nothing_is_valid_to_train_a_run_ends_as_well(cli: Cli, place: Path) -> None:
    """A search whose draws are all rejected is finished without a ranking; status has no best."""
    result = cli("run", "first", *QUICK, "--candidates", 1, "--seed", 1)
    assert (result.exit_code, result.stdout) == (0, "")
    status = asked(cli, "status", "first")
    assert (status["state"], status["rejected"], status["best"]) == ("finished", 1, None)


@pytest.mark.parametrize("command", ["run", "resume"])
def test_a_complete_search_is_complete(cli: Cli, copied: Path, command: str) -> None:
    """Running a complete search again says so, shows the ranking, and trains nothing."""
    before = copied.read_bytes()
    result = cli(command, "first", "--workers", 0)
    assert result.exit_code == 0
    assert "search first is complete: 60 candidates drawn" in result.stderr
    assert result.stdout.startswith("rank ")
    assert copied.read_bytes() == before


def test_the_next_commands_find_the_search(cli: Cli, place: Path) -> None:
    """What the epilogue prints to type next names the database that was typed."""
    result = cli("run", "first", *QUICK, "--candidates", 20, "--max-completed", 1, "--db", "sqlite:///my results.db")
    for verb in ("top", "status", "failures", "resume"):
        assert f"netsieve {verb} first --db 'sqlite:///my results.db'" in result.stderr
    assert "go on with: netsieve resume first" in result.stderr


@pytest.mark.parametrize(("path", "program"), [("", ".venv/bin/netsieve"), ("bin", "netsieve")])
def test_the_next_commands_can_be_typed(
    cli: Cli, copied: Path, monkeypatch: pytest.MonkeyPatch, path: str, program: str
) -> None:
    """As `make run` calls it, where the shell would not find it by its name."""
    Path("bin").mkdir()
    Path("bin/netsieve").write_text("", encoding="utf-8")
    Path("bin/netsieve").chmod(0o755)
    monkeypatch.setenv("PATH", path)
    monkeypatch.setattr(sys, "argv", [".venv/bin/netsieve", "run", "first"])
    assert f"\n  {program} top first " in cli("run", "first", "--workers", 0).stderr


def test_ray_address_in_the_environment_is_not_typed(cli: Cli, place: Path) -> None:
    """On a node of a cluster, where RAY_ADDRESS is set, --workers 0 still trains without Ray."""
    result = cli("run", "first", *QUICK, "--candidates", 2, RAY_ADDRESS="10.0.0.1:6379")
    assert result.exit_code == 0, result.stderr


# ------------------------------------------------------------------ extending


@pytest.mark.parametrize("command", ["run", "resume"])
def test_more_candidates_extend_a_search(cli: Cli, copied: Path, command: str) -> None:
    """A larger --candidates draws the indices that are missing; the rows that there were stay as they are."""
    before = asked(cli, "candidates", "first")
    assert cli(command, "first", "--workers", 0, "--candidates", 70).exit_code == 0
    after = asked(cli, "candidates", "first")
    assert after[: len(before)] == before
    assert [row["index"] for row in after[len(before) :]] == list(range(60, 70))
    status = asked(cli, "status", "first")
    assert (status["state"], status["target"], status["drawn"]) == ("finished", 70, 70)


def test_fewer_candidates_are_refused(cli: Cli, copied: Path) -> None:
    """A smaller --candidates is refused with the number that there are."""
    before = copied.read_bytes()
    refused(cli("run", "first", "--workers", 0, "--candidates", 59), "--candidates 59", "the search has 60 already")
    assert copied.read_bytes() == before


def test_a_search_in_two_runs_equals_one_in_one(cli: Cli, place: Path) -> None:
    """Stopped and extended searches hold what an uninterrupted one holds, but for the seconds."""

    def rows(name: str) -> list[dict[str, Any]]:
        return [{**row, "seconds": None} for row in asked(cli, "candidates", name)]

    cli("run", "whole", *QUICK, "--candidates", 24)
    cli("run", "parts", *QUICK, "--candidates", 20, "--max-completed", 2)
    cli("resume", "parts", "--workers", 0, "--candidates", 24)
    assert rows("parts") == rows("whole")
    assert [search["name"] for search in asked(cli, "list")] == ["whole", "parts"]


# ------------------------------------------------------------------ limits


@pytest.mark.parametrize("option", LIMITED)
def test_a_limit_ends_a_run_early(cli: Cli, place: Path, option: str) -> None:
    """A run that a limit ends exits 0 and says so; status says why; a later run goes on from there."""
    value, why = LIMITED[option]
    space = ("--candidates", 1000 if option == "--max-time" else 25)
    result = cli("run", "first", *QUICK, *space, option, value)
    assert result.exit_code == 0
    assert f"stopped: {why}" in result.stderr
    status = asked(cli, "status", "first")
    assert status["state"] == "stopped"
    assert why in status["stopped_because"]
    assert status["completed"] > 0
    assert status["open"] > 0

    completed = status["completed"] + 2
    assert cli("run", "first", "--workers", 0, "--max-completed", completed).exit_code == 0
    assert asked(cli, "status", "first")["completed"] == completed


def test_a_limit_that_is_reached_already_trains_nothing(cli: Cli, copied: Path) -> None:
    """--max-completed counts over the whole search: as many as there are end a run at once."""
    assert cli("run", "second", "--workers", 0, "--max-completed", 2).exit_code == 0
    assert asked(cli, "status", "second")["completed"] == 2


# ------------------------------------------------------------------ what a search was created with

OTHER = {
    ("--seed", 7): "seed: stored 0, given 7",
    ("--epochs", 2): "epochs: stored 1, given 2",
    ("--batch-size", 16): "batch-size: stored 32, given 16",
    ("--learning-rate", 0.1): "learning-rate: stored 0.05, given 0.1",
    ("--train-images", 500): "train-images: stored 1797, given 500",
    ("--dataset", "mnist"): "dataset: stored digits, given mnist",
    ("--device", "cuda"): "device: stored cpu, given cuda",
    ("--space", "other.toml"): "space: stored classic (",
}  # and the difference that is shown


@pytest.mark.parametrize("command", ["run", "resume"])
@pytest.mark.parametrize("name", ["first", "second"])
@pytest.mark.parametrize("option", OTHER, ids=lambda option: str(option[0]))
def test_other_settings_are_refused(
    cli: Cli, copied: Path, option: tuple[object, ...], name: str, command: str
) -> None:
    """Settings other than the stored ones are refused with both values, also for a finished search."""
    toml = cli("space", "show", "--format", "toml").stdout
    Path("other.toml").write_text(toml.replace("max_layers = 10", "max_layers = 9"), encoding="utf-8")
    before = copied.read_bytes()
    refused(
        cli(command, name, "--workers", 0, *option), f"search {name} was created with other settings", OTHER[option]
    )
    assert copied.read_bytes() == before


def test_all_differences_are_shown_at_once(cli: Cli, copied: Path) -> None:
    """A refusal shows every difference, and how to go on."""
    result = cli("run", "second", "--workers", 0, "--seed", 7, "--epochs", 2, "--device", "cuda")
    refused(result, "seed: stored 0, given 7", "epochs: stored 1, given 2", "leave these options out", "another name")


def test_the_same_settings_are_accepted(cli: Cli, copied: Path) -> None:
    """Typing what is stored is no difference, nor is a copy of the space under another name."""
    toml = cli("space", "show", "--format", "toml").stdout
    Path("copy.toml").write_text(toml.replace('"classic"', '"copy"'), encoding="utf-8")
    same = ("--seed", 0, "--space", "copy.toml", "--sampler", "rejection", "--dataset", "digits", "--device", "cpu",
            "--epochs", 1, "--batch-size", 32, "--learning-rate", 0.05, "--train-images", 1797)  # fmt: skip
    result = cli("run", "second", "--workers", 0, *same, "--max-completed", 2)
    assert result.exit_code == 0, result.stderr


def test_two_searches_in_one_database(cli: Cli, place: Path) -> None:
    """Searches in one database have their own settings, candidates and counts."""
    for name, seed in (("one", 1), ("two", 2)):
        assert cli("run", name, *QUICK, "--candidates", 8, "--seed", seed).exit_code == 0
    for name, seed in (("one", 1), ("two", 2)):
        drawn = json.loads(cli("sample", "-n", 8, "--seed", seed, "--format", "json").stdout)
        assert [row["layers"] for row in asked(cli, "candidates", name)] == [draw["layers"] for draw in drawn]


@pytest.mark.parametrize("fails", [False, True])
def test_a_run_without_results_tells_what_its_workers_did(
    cli: Cli, place: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    """When it leaves: their time since something was last recorded counts as any other."""

    class Idle:
        def __init__(self, *_: object, **__: object) -> None:
            pass

        def __call__(self) -> str:
            if fails:
                raise Stopped("no worker starts")
            return "asked to"

    monkeypatch.setattr(launch, "Run", Idle)
    cli("run", "first", *QUICK, "--candidates", 5)
    assert asked(cli, "status", "first")["worker_seconds"] > 0


# ------------------------------------------------------------------ resume


def test_resume_of_an_unknown_search(cli: Cli, copied: Path) -> None:
    """To resume a name that does not exist suggests the nearest and changes nothing."""
    before = copied.read_bytes()
    refused(cli("resume", "secnd", "--workers", 0), "NAME 'secnd': no such search in", "; did you mean second?")
    assert copied.read_bytes() == before


def test_resume_without_a_database(cli: Cli, place: Path) -> None:
    """To resume does not create a database."""
    refused(cli("resume", "first", "--workers", 0), "--db netsieve.db: no such file")
    assert list(place.iterdir()) == []


# ------------------------------------------------------------------ configuration files


def test_a_configuration_file_gives_options(cli: Cli, place: Path) -> None:
    """--config gives options by their names, with '-' or '_'; those that are typed win."""
    Path("run.toml").write_text(
        'dataset = "digits"\nworkers = 0\nepochs = 1\ntrain-images = 200\nseed = 3\ncandidates = 5\n'
        'learning_rate = 0.1\ndb = "sqlite:///mine.db"\n',
        encoding="utf-8",
    )
    result = cli("run", "first", "--config", "run.toml", "--candidates", 7)
    assert result.exit_code == 0, result.stderr
    status = asked(cli, "status", "first", "--db", "sqlite:///mine.db")
    assert (status["state"], status["drawn"]) == ("finished", 7)
    refused(
        cli("run", "first", "--config", "run.toml", "--candidates", 7, "--seed", 4, "--learning-rate", 0.2),
        "seed: stored 3, given 4",
        "learning-rate: stored 0.1, given 0.2",
    )


def test_options_of_a_configuration_file_count_as_typed(cli: Cli, copied: Path) -> None:
    """A file's settings are compared with the stored ones, as typed ones are."""
    Path("run.toml").write_text("seed = 3\n", encoding="utf-8")
    refused(cli("run", "second", "--workers", 0, "--config", "run.toml"), "seed: stored 0, given 3")


@pytest.mark.parametrize("lengths", ["lengths = [2, 3]", 'lengths = "2-3"'])
def test_flags_and_lists_stand_in_a_configuration_file(cli: Cli, place: Path, lengths: str) -> None:
    """A flag is true, or false as if it were not there; several values are a list, or what one types."""
    Path("run.toml").write_text(f"census-all = true\ndry_run = true\njoin = false\n{lengths}\n", encoding="utf-8")
    result = cli("run", "first", "--dataset", "digits", "--workers", 0, "--config", "run.toml")
    assert result.exit_code == 0, result.stderr
    assert re.search(r"^valid +1,320 ", result.stdout, re.MULTILINE)
    assert not Path("netsieve.db").exists()
    Path("run.toml").write_text("census-all = false\n", encoding="utf-8")
    assert cli("run", "first", *QUICK, "--candidates", 3, "--config", "run.toml").exit_code == 0
    assert asked(cli, "status", "first")["drawn"] == 3


def test_what_is_typed_wins_over_what_contradicts_it_in_a_file(cli: Cli) -> None:
    """The census, or a number of draws, or another sampler: whichever stands on the command line."""
    run = ("run", "first", "--dataset", "digits", "--workers", 0, "--config", "run.toml", "--dry-run")
    draws = re.compile(r"^draws +([0-9,]+)", re.MULTILINE)
    for content, typed, expected in (
        ('sampler = "rejection"\ncandidates = 5\n', ("--census-all", "--lengths", "2-3"), "1,320"),
        ("census-all = true\n", ("--candidates", 7), "7"),
        ("census-all = true\n", ("--candidates", 7, "--sampler", "rejection"), "7"),
    ):
        Path("run.toml").write_text(content, encoding="utf-8")
        result = cli(*run, *typed)
        assert result.exit_code == 0, result.stderr
        assert draws.findall(result.stdout) == [expected]
    Path("run.toml").write_text('census-all = true\nsampler = "rejection"\n', encoding="utf-8")
    refused(cli(*run), "--census-all --sampler rejection", "drop one")


def test_a_configuration_file_names_reasons_to_retry(cli: Cli, copied: Path) -> None:
    """As a list, or with commas between them; of resume only, as on the command line."""
    for reasons in ('["timeout", "worker_died"]', '"timeout,worker_died"'):
        Path("run.toml").write_text(f"retry = {reasons}\n", encoding="utf-8")
        result = cli("resume", "second", "--workers", 0, "--max-completed", 1, "--config", "run.toml")
        assert "opened 0 failed candidates again (timeout, worker_died)" in result.stderr
    Path("run.toml").write_text('retry = ["timeout", "boredom"]\n', encoding="utf-8")
    refused(cli("resume", "second", "--config", "run.toml"), "'boredom' is no reason of a failure")


@pytest.mark.parametrize("command", [run, resume], ids=["run", "resume"])
def test_every_option_can_stand_in_a_configuration_file(command: click.Command, place: Path) -> None:
    """By its name, with a value of TOML that is what one types; flags with true."""
    for option in command.params:
        if isinstance(option, click.Option) and option.name != "config":
            value = "true" if option.is_flag else '"1"'
            Path("run.toml").write_text(f"{option.opts[0].lstrip('-')} = {value}\n", encoding="utf-8")
            ctx = click.Context(command)
            read_config(ctx, option, Path("run.toml"))
            assert ctx.default_map == {option.name: True if option.is_flag else "1"}


BAD_CONFIGS = {
    "unknown key": ("candidats = 5", ("unknown key 'candidats'", "batch-size, candidates, census-all, data-dir")),
    "config in config": ('config = "other.toml"', ("unknown key 'config'",)),
    "the name": ('name = "first"', ("unknown key 'name'",)),
    "a table": ("[run]\nseed = 1", ("unknown key 'run'",)),
    "a list": ("seed = [1]", ("seed = [1]: ", "must be a number or a string")),
    "a number for a flag": ("census-all = 1", ("census-all = 1: ", "must be true or false")),
    "a string for a flag": ('join = "yes"', ("join = 'yes'", "must be true or false")),
    "a list for a flag": ("dry-run = [true]", ("dry-run", "must be true or false")),
    "true among numbers": ("lengths = [true, 3]", ("lengths", "must be a number or a string, or a list of them")),
    "a list in a list": ("lengths = [[2, 3]]", ("lengths", "must be a number or a string, or a list of them")),
    "three lengths": ("lengths = [2, 3, 4]", ("'--lengths'", "'2-3-4' is no range of lengths")),
    "no lengths": ("lengths = []", ("'--lengths'", "is no range of lengths")),
    "true": ("seed = true", ("seed", "must be a number or a string")),
    "wrong type": ('seed = "abc"', ("--config run.toml: ", "'--seed'", "'abc'")),
    "out of range": ("candidates = 0", ("--config run.toml: ", "'--candidates'", "0")),
    "a float for a whole number": ("epochs = 1.5", ("'--epochs'", "'1.5'")),
    "not TOML": ("seed: 3", ("--config run.toml", "Expected '=' after a key")),
    "a key twice": ("seed = 1\nseed = 2", ("Cannot overwrite a value",)),
    "nested too deep": ("seed = " + "[" * 100_000, ("nested too deep",)),
    "a key in both spellings": ("batch_size = 8\nbatch-size = 16", ("--config run.toml", "batch")),
}


@pytest.mark.parametrize(("content", "told"), BAD_CONFIGS.values(), ids=BAD_CONFIGS)
def test_a_bad_configuration_file_is_refused(cli: Cli, place: Path, content: str, told: tuple[str, ...]) -> None:
    """A key or value that is none of an option's is refused by name, with the file's."""
    Path("run.toml").write_text(content, encoding="utf-8")
    command = ("run", "first", "--dataset", "digits", "--workers", 0, "--max-completed", 1, "--config", "run.toml")
    refused(cli(*command), *told)
    assert [path.name for path in place.iterdir()] == ["run.toml"]


@pytest.mark.parametrize(
    ("path", "told"),
    [("missing.toml", "No such file or directory"), (".", "Is a directory"), ("binary.toml", "is not UTF-8 text")],
)
def test_a_configuration_file_that_cannot_be_read(cli: Cli, place: Path, path: str, told: str) -> None:
    """A configuration file that is missing, a folder or no text is named."""
    Path("binary.toml").write_bytes(b"\xff\xfe\x00")
    refused(cli("run", "first", *QUICK, "--config", path), f"--config {path}", told)


# ------------------------------------------------------------------ the user's own images


def save_images(path: Path, shape: tuple[int, ...] = (40, 3, 8, 8), classes: int = 4) -> None:
    """Random images with their labels."""
    random = np.random.default_rng(0)
    np.savez(path, images=random.integers(0, 256, shape, np.uint8), labels=random.integers(0, classes, shape[0]))


def test_images_of_any_shape_train(cli: Cli, place: Path) -> None:
    """Colour images of another size, of four classes, train in a space of their own."""
    save_images(Path("own.npz"))
    Path("tiny.toml").write_text(TINY_SPACE, encoding="utf-8")
    own = ("--dataset", "own.npz", "--space", "tiny.toml", "--workers", 0, "--epochs", 1, "--batch-size", 8)
    result = cli("run", "own", *own, "--candidates", 6)
    assert result.exit_code == 0, result.stderr
    status = asked(cli, "status", "own")
    assert (status["failed"], status["completed"] > 0) == (0, True)
    assert asked(cli, "show", "own", status["best"]["index"])["shapes"][0] == [3, 8, 8]


def test_other_content_of_the_same_file_is_refused(cli: Cli, place: Path) -> None:
    """A search remembers what its images were: the same file with other ones is another dataset."""
    Path("tiny.toml").write_text(TINY_SPACE, encoding="utf-8")
    save_images(Path("own.npz"))
    own = ("--space", "tiny.toml", "--dataset", "own.npz", "--epochs", 1, "--batch-size", 8)
    assert cli("run", "own", *own, "--workers", 0, "--candidates", 6, "--max-completed", 1).exit_code == 0
    save_images(Path("own.npz"), classes=3)
    refused(cli("resume", "own", "--workers", 0), "dataset-sha256: stored", "given")


@pytest.mark.parametrize(
    ("shape", "classes", "told"),
    [
        ((40, 1, 8, 8), 4, "has images of 1x8x8 (channels x height x width), but space tiny takes 3x8x8"),
        ((40, 28, 28), 4, "has images of 1x28x28"),
        ((40, 3, 8, 8), 7, "labels from 0 to 6, but space tiny has classes = 4"),
    ],
)
def test_images_that_do_not_fit_the_space_are_refused(
    cli: Cli, place: Path, shape: tuple[int, ...], classes: int, told: str
) -> None:
    """Images of another shape, or labels beyond the space's classes, are refused before anything is written."""
    save_images(Path("own.npz"), shape, classes)
    Path("tiny.toml").write_text(TINY_SPACE, encoding="utf-8")
    refused(cli("run", "own", "--dataset", "own.npz", "--space", "tiny.toml", "--workers", 0), told)
    assert sorted(path.name for path in place.iterdir()) == ["own.npz", "tiny.toml"]


def test_images_that_look_channels_last_are_told_of(cli: Cli, place: Path) -> None:
    """Where the space takes them as they stand they train, for it may be meant."""
    save_images(Path("own.npz"), (40, 5, 8, 4))
    Path("odd.toml").write_text(TINY_SPACE.replace("[3, 8, 8]", "[5, 8, 4]"), encoding="utf-8")
    own = ("--dataset", "own.npz", "--space", "odd.toml", "--workers", 0, "--epochs", 1, "--batch-size", 8)
    result = cli("run", "own", *own, "--candidates", 6)
    assert result.exit_code == 0
    assert result.stderr.startswith(
        "dataset own.npz has images of 5x8x4 (channels x height x width), as the space takes them, but this looks like "
        "height x width x channels: if it is, store images.transpose(0, 3, 1, 2)\n"
    )


def test_images_that_were_moved_are_looked_for_in_vain(cli: Cli, place: Path) -> None:
    """It is said where they were, and what goes on: the file put back, or --dataset with its new place."""
    save_images(Path("own.npz"))
    Path("tiny.toml").write_text(TINY_SPACE, encoding="utf-8")
    own = ("--space", "tiny.toml", "--dataset", "own.npz", "--epochs", 1, "--batch-size", 8, "--candidates", 6)
    assert cli("run", "own", *own, "--workers", 0, "--max-completed", 1).exit_code == 0
    Path("own.npz").rename("moved.npz")
    told = f"dataset {place / 'own.npz'}: no such file, and search own trains on it; put it back there"
    refused(cli("resume", "own", "--workers", 0), f"{told}, or give --dataset with its new place\n")
    refused(cli("confirm", "own", "--workers", 0), f"{told}\n")
    refused(
        cli("retrain", "own", asked(cli, "top", "own")[0]["index"]), f"{told}, or give --dataset with its new place\n"
    )
    result = cli("resume", "own", "--workers", 0, "--dataset", "moved.npz")
    assert result.exit_code == 0, result.stderr
    Path("moved.npz").rename("own.npz")
    assert cli("resume", "own", "--workers", 0, "--candidates", 8).exit_code == 0


def test_a_run_from_another_folder_finds_its_images(cli: Cli, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A search stores the absolute path of its file, so that it resumes from anywhere."""
    save_images(Path("own.npz"))
    Path("tiny.toml").write_text(TINY_SPACE, encoding="utf-8")
    own = ("--space", "tiny.toml", "--dataset", "own.npz", "--epochs", 1, "--batch-size", 8, "--candidates", 6)
    assert cli("run", "own", *own, "--workers", 0, "--max-completed", 1).exit_code == 0
    elsewhere = place / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    result = cli("resume", "own", "--workers", 0, "--db", f"sqlite:///{place / 'netsieve.db'}")
    assert result.exit_code == 0, result.stderr


def test_an_end_that_cannot_be_shown_is_an_end(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the database is away once all is recorded, the exit code is that of the run."""

    def away(*_: object) -> None:
        raise DatabaseAway("the database: away")

    monkeypatch.setattr(launch, "best_candidates", away)
    result = cli("run", "first", "--dataset", "digits", "--workers", 0, "--epochs", 1, "--candidates", 20)
    assert (result.exit_code, result.stdout) == (0, "")
    assert "the search is complete; what came of it cannot be read now: the database: away" in result.stderr


def test_nobody_reads_the_log(place: Path) -> None:
    """A run whose stderr is full, or closed by its reader, is done all the same, and exits with 0."""
    run = [Path(sys.executable).with_name("netsieve"), "run", "first", "--dataset", "digits", "--workers", "0"]
    run += ["--epochs", "1", "--candidates", "20"]
    with Path("/dev/full").open("w") as full:
        assert subprocess.run(run, stdout=subprocess.DEVNULL, stderr=full, cwd=place, check=False).returncode == 0
    reader, writer = os.pipe()
    os.close(reader)
    again = [*run, "--candidates", "30"]
    assert subprocess.run(again, stdout=subprocess.DEVNULL, stderr=writer, cwd=place, check=False).returncode == 0
    os.close(writer)
    closed = f"{run[0]} --help 2>&- >/dev/null"
    assert subprocess.run(["bash", "-c", closed], cwd=place, check=False).returncode == 0
