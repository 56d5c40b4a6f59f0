"""The options that ``run`` and ``resume`` share."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from search.candidates import FailureReason
from search.cli.parameters import (
    COUNT,
    SEED,
    Duration,
    data_dir_option,
    database_option,
    lengths_option,
    read_config,
    sampler_option,
    space_option,
)
from search.cli.strings import read_strings
from search.settings import CANDIDATES, TRAINING_VERSION, Recipe
from search.space import SearchSpace


@dataclass(frozen=True)
class Options:
    """What ``run`` and ``resume`` were given; the fields are the options."""

    url: str
    space: SearchSpace
    sampler: str
    lengths: tuple[int, int] | None  # of the census
    census_all: bool  # the whole of it
    dry_run: bool  # only say what the search will cost
    strings: tuple[str, ...]  # canonical layer strings to search instead of draws; empty: draws
    seed: int
    candidates: int
    max_completed: int | None
    max_time: float | None  # seconds
    target_accuracy: float | None
    dataset: str
    data_dir: Path | None
    epochs: int
    batch_size: int
    learning_rate: float
    train_images: int
    device: str | None
    workers: int | None
    gpus_per_worker: float | None
    ray_address: str | None
    worker_timeout: float | None  # seconds
    trial_timeout: float  # seconds
    grace: float  # seconds
    db_outage_limit: float  # seconds
    join: bool
    retry: frozenset[FailureReason]  # of failed candidates to open again
    test: bool  # measure final networks on the dataset's test images, too
    training_version: int  # of a new search
    typed: frozenset[str]  # the options that were given, on the command line, by environment or in a --config

    def given(self, *names: str) -> dict[str, Any]:
        """Those of the named options that were typed."""
        return {name: getattr(self, name) for name in names if name in self.typed}


_SEARCH = [  # what makes a search, and when a run of it ends
    space_option(),
    sampler_option(),
    lengths_option(),
    click.option(
        "--census-all", is_flag=True, help="Search the whole census: every valid string, or all of --lengths, once."
    ),
    click.option(
        "--strings", type=click.Path(path_type=Path), metavar="FILE",
        callback=lambda _ctx, _param, path: () if path is None else read_strings(path),
        help="Search these layer strings, one a line, instead of draws; also CSV or JSON lines with a key 'layers'. "
        "Empty lines and those that begin with '#' are skipped.",
    ),
    click.option("--seed", type=SEED, default=0, show_default=True),
    click.option(
        "--candidates", type=COUNT, default=CANDIDATES, show_default=True,
        help="Draws over the whole search; a larger number extends it.",
    ),
    click.option(
        "--dry-run", is_flag=True, help="Only say what the search will cost: candidates, hours, the database's size."
    ),
    click.option("--max-completed", type=COUNT, help="End at so many completed candidates, over the whole search."),
    click.option("--max-time", type=Duration(), help="End this run after so long: 90, 90s, 10m, 2h."),
    click.option("--target-accuracy", type=float, help="End once a candidate reaches it, 0 to 1."),
    click.option(
        "--dataset", default="mnist", show_default=True, help="mnist, fashion-mnist, kmnist, digits, or FILE.npz."
    ),
    click.option("--epochs", type=int, default=Recipe.epochs, show_default=True),
    click.option("--batch-size", type=int, default=Recipe.batch_size, show_default=True),
    click.option("--learning-rate", type=float, default=Recipe.learning_rate, show_default=True),
    click.option(
        "--train-images", type=int, default=Recipe.train_images, show_default=True,
        help="The dataset's first so many training images, a fifth of them for validation; "
        "all of a smaller dataset, unless given.",
    ),
    click.option("--device", type=click.Choice(["cpu", "cuda"]), help="Default: cuda where there are GPUs, else cpu."),
    click.option(
        "--config", type=click.Path(path_type=Path), callback=read_config, is_eager=True, expose_value=False,
        help="A TOML file of these options, flags as true or false; those that are typed win.",
    ),
]  # fmt: skip

_WORK = [  # where it is recorded, and who works on it
    database_option(),
    data_dir_option(),
    click.option(
        "--workers", type=click.IntRange(0),
        help="Default: one a GPU, else one a CPU core; of a cluster also of nodes that join later. 0: no Ray.",
    ),
    click.option("--gpus-per-worker", type=float, help="A share of a GPU, or whole GPUs.  [default: 1]"),
    click.option(
        "--ray-address", envvar="RAY_ADDRESS",
        help="HOST:PORT of a running Ray cluster that this machine is a node of, also RAY_ADDRESS; "
        "default: a local session.",
    ),
    click.option(
        "--worker-timeout", type=Duration(),
        help="Give up after so long without any worker.  [default: 3m, of a cluster 15m]",
    ),
    click.option("--trial-timeout", type=Duration(), default="600s", show_default=True, help="For one training."),
    click.option(
        "--grace", type=Duration(), default="30s", show_default=True,
        help="After a first Ctrl-C or SIGTERM, for what is in training.",
    ),
    click.option(
        "--db-outage-limit", type=Duration(), default="15m", show_default=True,
        help="Give up when the database has been away for so long; training goes on meanwhile.",
    ),
    click.option(
        "--join", is_flag=True,
        help="Work beside a coordinator that runs the search on this machine; on Postgres any may, on any machine.",
    ),
]  # fmt: skip


def run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that ``run`` and ``resume`` share."""
    for option in reversed([*_WORK[:1], *_SEARCH[:-1], *_WORK[1:], *_SEARCH[-1:]]):
        command = option(command)
    return command


def work_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of who trains, for a search that says itself what is trained."""
    for option in reversed(_WORK):
        command = option(command)
    return command


def _settle_census(ctx: click.Context, values: dict[str, Any], typed: set[str]) -> None:
    """The census, unless another sampler is named, and all of it; what a file has against what is typed is dropped."""
    if not values["census_all"]:
        return
    filed = {name for name in typed if ctx.get_parameter_source(name) is ParameterSource.DEFAULT_MAP}
    rivals = typed & ({"candidates"} if values["sampler"] == "census" else {"candidates", "sampler"})
    if "census_all" in filed and rivals - filed:
        values["census_all"] = False
        return
    if "census_all" not in filed:
        typed -= rivals & filed
    if "sampler" not in typed:
        values["sampler"] = "census"
        typed.add("sampler")


def gather(ctx: click.Context, values: dict[str, Any]) -> Options:
    """The options as they came, and which of them were typed."""
    values.setdefault("retry", frozenset())
    values.setdefault("test", False)
    values.setdefault("training_version", TRAINING_VERSION)
    typed = {name for name in values if ctx.get_parameter_source(name) is not ParameterSource.DEFAULT}
    _settle_census(ctx, values, typed)
    return Options(**values, typed=frozenset(typed))
