"""netsieve run and resume: from options to a search, and an end.

Everything that can be wrong with what was typed is found before Ray starts and before anything is
written: options, space, dataset, database, and differences from the stored search.
"""

import os
import platform
import shlex
import shutil
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from search.cli.options import Options, gather, run_options
from search.cli.output import columns, tell
from search.cli.parameters import NO_LENGTHS, Reasons, default_data_dir, name_argument
from search.cli.results import best_candidates, ranking_table, reading
from search.cli.signals import asking_to_stop, ending_at_once, exit_code
from search.cli.start import no_gpu, quiet_stdout, require_cores, sees_gpu, start_workers, trainers_of, wants_gpu
from search.errors import DatabaseAway, NetsieveError, SettingsError, Stopped, quoted
from search.run import Counts, Executor, Run, StopRequest
from search.settings import Limits, Recipe, SearchSettings, difference, require_trainable
from search.space import require_something_valid
from search.standstill import Standstill

if TYPE_CHECKING:
    from search.samplers import Sampler
    from search.sieve import Drawn, Judge
    from storage.queries import Beside, SearchRow, Standing
    from workers.datasets import Dataset


# ------------------------------------------------------------------ the commands


@click.command()
@name_argument()
@run_options
@click.pass_context
def run(ctx: click.Context, /, name: str, **values: Any) -> None:
    """Start the search NAME, or go on with it when it exists.

    What makes a search (space, sampler, seed, dataset, recipe, device) is stored with it; a run that
    names something else is refused. Ctrl-C finishes what is in training; a second one stops at once.
    """
    ctx.exit(launch(name, gather(ctx, values), must_exist=False))


@click.command()
@name_argument()
@run_options
@click.option(
    "--retry",
    type=Reasons(),
    default=frozenset(),
    help="Open candidates again that failed for these reasons, such as timeout,out_of_memory.",
)
@click.pass_context
def resume(ctx: click.Context, /, name: str, **values: Any) -> None:
    """Go on with the search NAME, as it was created."""
    ctx.exit(launch(name, gather(ctx, values), must_exist=True))


# ------------------------------------------------------------------ from options to a run


def launch(name: str, options: Options, *, must_exist: bool) -> int:
    """Run a search to an end, and say what came of it; the exit code. Raises NetsieveError."""
    if options.dry_run:
        _forecast(name, options, _settle(name, options, must_exist=must_exist))
        return 0
    why, signals = work_on(name, options, must_exist=must_exist)
    return _conclude(name, options, why, signals)


def work_on(name: str, options: Options, *, must_exist: bool) -> tuple[str | None, list[int]]:
    """Run a search to an end: why it ended before it was finished, if it did, and the signals that came.

    Raises NetsieveError.
    """
    settled = _settle(name, options, must_exist=must_exist)
    is_longer = settled.standing is None or settled.limits.candidates > settled.standing.counts.target
    if settled.standing and settled.standing.state == "finished" and not is_longer and not options.retry:
        return None, []
    dataset, test, settings = _prepare(name, options, settled.stored)
    with ExitStack() as stack:
        stack.enter_context(quiet_stdout())
        with ending_at_once():
            executor, settings = start_workers(options, dataset, test, settings, stack)
        return _work(name, options, settings, settled.limits, executor, settled.listed, stack)


@dataclass(frozen=True)
class _Settled:
    """What is known of a search before its images are read, once nothing contradicts."""

    stored: "SearchSettings | None"  # of a search that exists
    standing: "Standing | None"  # likewise
    limits: Limits  # how much is drawn, in the end
    listed: tuple[str, ...]  # the strings that it draws from, if it is given a list


def _settle(name: str, options: Options, *, must_exist: bool) -> _Settled:
    """Look at what was typed and at what is stored. Raises NetsieveError when they do not agree."""
    from search.samplers import sampler_of

    limits = _limits(options)
    _require_consistent(options)
    require_cores(options)
    stored, standing = _look_up(name, options, must_exist=must_exist)
    _warn_of_a_password(options)
    if stored is None or standing is None:
        listed = options.strings
        _recipe(options, options.train_images)  # checks it, before images are read
        end = _end(_sampler(options, listed))
        if end is None:
            require_something_valid(options.space)
        limits = replace(limits, candidates=_target(options, None, end))
        return _Settled(None, None, limits, listed)
    require_trainable(name, stored.settings)
    _refuse_difference(name, stored.settings, _given_settings(options, stored.settings))
    listed = _list(name, options, stored)
    limits = replace(
        limits, candidates=_target(options, standing.counts.target, _end(sampler_of(stored.settings, listed)))
    )
    return _Settled(stored.settings, standing, limits, listed)


def _forecast(name: str, options: Options, settled: _Settled) -> None:
    """Say what the search will cost. Raises SettingsError where that cannot be measured here."""
    from search.cli.dry_run import Begun, begun, print_costs
    from storage.engine import serves_many_machines

    dataset, _, settings = _prepare(name, options, settled.stored)
    wanted, is_gpu = wants_gpu(options, settings), sees_gpu()
    if wanted and not is_gpu:
        raise SettingsError(
            f"--dry-run {wanted}: {no_gpu()} to time a training on; ask on a machine that has one, or with --device cpu"
        )
    if settled.standing is None:
        before = Begun(Counts(settled.limits.candidates, drawn=0, rejected=0, completed=0, failed=0, open=0))
    else:
        before = begun(options.url, name, settled.standing.counts, options.retry)
    print_costs(
        name,
        replace(settings, device=settings.device or ("cuda" if is_gpu else "cpu")),
        settled.listed,
        dataset,
        settled.limits,
        before,
        trainers_of(options, settings),
        is_postgres=serves_many_machines(options.url),
    )


def _require_consistent(options: Options) -> None:
    """Raise SettingsError for options that contradict each other or themselves."""
    if options.strings and options.census_all:
        raise SettingsError("--strings --census-all: a list is searched in its order; drop one")
    if options.strings and "sampler" in options.typed:
        raise SettingsError(f"--strings --sampler {options.sampler}: a list is searched in its order; drop one")
    if options.strings and options.lengths is not None:
        raise SettingsError(NO_LENGTHS)
    if options.census_all and options.sampler != "census":
        raise SettingsError(f"--census-all --sampler {options.sampler}: the census is a sampler of its own; drop one")
    if options.census_all and "candidates" in options.typed:
        raise SettingsError(f"--census-all --candidates {options.candidates}: all are searched; drop one")
    share = options.gpus_per_worker
    if share is not None and not (0.0001 <= share <= 1 or (share > 1 and share.is_integer())):  # Ray counts as finely
        raise SettingsError(f"--gpus-per-worker {share:g}: must be a share above 0 and up to 1, or a whole number")
    if options.workers == 0 and share is not None:
        raise SettingsError(f"--workers 0 --gpus-per-worker {share:g}: 0 workers train without Ray; drop one")
    if options.workers == 0 and options.ray_address is not None and "RAY_ADDRESS" not in os.environ:
        raise SettingsError(f"--workers 0 --ray-address {options.ray_address}: 0 workers train without Ray; drop one")
    if options.workers != 0 and options.ray_address is not None:
        _require_address(options.ray_address)


def _limits(options: Options) -> Limits:
    """Of this run; Limits checks them."""
    return Limits(
        candidates=options.candidates,
        max_completed=options.max_completed,
        max_time_s=options.max_time,
        target_accuracy=options.target_accuracy,
        trial_timeout_s=options.trial_timeout,
        grace_s=options.grace,
        db_outage_limit_s=options.db_outage_limit,
    )


def _warn_of_a_password(options: Options) -> None:
    """What is typed can be read by every user of the machine, in its list of processes."""
    from storage.engine import has_password

    if "url" in options.typed and options.url != os.environ.get("NETSIEVE_DB") and has_password(options.url):
        tell("a password on the command line shows in the list of processes; NETSIEVE_DB keeps it out")


def _beside(options: Options) -> "Beside":
    """Beside which other coordinators this one may work."""
    from storage import engine, queries

    if engine.serves_many_machines(options.url):
        return queries.Beside.ANYBODY
    return queries.Beside.SAME_HOST if options.join else queries.Beside.NOBODY


def _require_address(address: str) -> None:
    """Raise SettingsError for what cannot be a cluster's head: Ray would look for it for minutes."""
    host, _, port = address.rpartition(":")
    is_port = port.isdecimal() and 0 < int(port) < 65536
    if address != "auto" and not ("://" not in address and host and is_port):
        raise SettingsError(
            f"--ray-address {address}, or RAY_ADDRESS: must be HOST:PORT of a Ray head, 6379 by default, or auto; "
            "netsieve joins as a driver, not through Ray Client or the Jobs API"
        )


def _look_up(name: str, options: Options, *, must_exist: bool) -> "tuple[SearchRow | None, Standing | None]":
    """The stored search, if the database has it. Raises SettingsError while others run it, unless it is shared."""
    from storage import engine, queries

    if not options.dry_run:
        engine.require_writable(options.url)
    if not must_exist and not engine.holds_something(options.url):
        return None, None
    with reading(options.url) as connection:
        found = queries.require(connection, name) if must_exist else queries.find(connection, name)
        if found is None:
            return None, None
        if not options.dry_run:
            queries.require_room(connection, found.id, _beside(options))
        return found, queries.standing(connection, found.id)


def _list(name: str, options: Options, stored: "SearchRow") -> tuple[str, ...]:
    """The strings that a stored search draws from, those that were typed included, if it was given a list.

    Raises SettingsError unless what was typed goes on with the stored ones, or is the beginning of them.
    """
    from storage import queries

    with reading(options.url) as connection:
        known = tuple(queries.listed(connection, stored.id))
    for number, (one, other) in enumerate(zip(known, options.strings, strict=False), 1):
        if one != other:
            raise SettingsError(
                f"--strings: string {number} is {quoted(other, 100)}, the search {name} has {quoted(one, 100)}; a list "
                "can only be extended at its end; leave --strings out to go on, or give the new search another name"
            )
    return max(known, options.strings, key=len)


def _sampler(options: Options, listed: tuple[str, ...]) -> "Sampler":
    """What a new search will draw with."""
    from search.samplers import ListedSampler, drawing

    if listed:
        return ListedSampler(listed)
    if options.lengths is not None and options.sampler != "census":
        raise SettingsError(NO_LENGTHS)
    return drawing(options.sampler, options.space, options.seed, options.lengths)


@dataclass(frozen=True)
class _End:
    """What a search ends with that draws from something finite."""

    draws: int
    what: str


def _end(sampler: "Sampler") -> _End | None:
    """The end of a list or of the census; the classic draw has none. Raises SpaceError."""
    from search.samplers import CensusSampler, ListedSampler

    match sampler:
        case ListedSampler(strings):
            return _End(len(strings), f"the list has {len(strings):,} strings")
        case CensusSampler():
            return _End(sampler.size, f"the census has {sampler.size:,} architectures")
        case _:
            return None


def _target(options: Options, stored: int | None, end: _End | None) -> int:
    """Draws over the whole search: as many as typed, if that extends it, and no more than there are."""
    if end and (options.census_all or (options.strings and "candidates" not in options.typed)):
        return end.draws
    if "candidates" not in options.typed and stored is not None:
        return stored
    if stored is not None and options.candidates < stored:
        raise SettingsError(
            f"--candidates {options.candidates}: the search has {stored} already and can only be extended; "
            "leave it out to go on"
        )
    if end and options.candidates > end.draws:
        asked = f"--candidates {options.candidates}: " if "candidates" in options.typed else ""
        tell(f"{asked}{end.what}, and ends the search")
        return end.draws
    return options.candidates


def _given_settings(options: Options, stored: SearchSettings) -> dict[str, Any]:
    """What was typed of what makes a search, and the sampler's version here.

    Files of one's own are compared by content, once they are read.
    """
    from search.samplers import VERSIONS, ListedSampler

    given = options.given(
        "space", "sampler", "lengths", "seed", "device", "dataset", *(field.name for field in fields(Recipe))
    )
    if options.dataset.endswith(".npz") and stored.dataset.endswith(".npz"):
        given.pop("dataset", None)
    if options.strings:
        given["sampler"] = ListedSampler.name
    if options.test:
        given["test"] = True
    return {**given, "sampler_version": VERSIONS[stored.sampler]}


def _refuse_difference(name: str, stored: SearchSettings, given: dict[str, Any]) -> None:
    """Raise SettingsError if what was given is not what the search was created with."""
    different = difference(stored, given)
    if different:
        raise SettingsError(
            f"search {name} was created with other settings ({'; '.join(different)}); "
            "leave these options out to go on, or give the new search another name"
        )


def _recipe(options: Options, images: int) -> Recipe:
    return Recipe(images, options.batch_size, options.epochs, options.learning_rate)


def _prepare(
    name: str, options: Options, stored: SearchSettings | None
) -> "tuple[Dataset, Dataset | None, SearchSettings]":
    """The images that the recipe names, the test images if the search is measured on them, and its settings.

    A stored search's own, once they agree. Raises DataError, SettingsError.
    """
    from workers.datasets import TRANSPOSE, load, load_test, require_fit, require_stored

    if stored is None or "dataset" in options.typed:
        source = options.dataset
    else:
        source = stored.dataset
        require_stored(source, name)
    dataset = load(source, options.data_dir or default_data_dir())
    require_fit(dataset, stored.space if stored else options.space)
    is_tested = stored.test if stored else options.test
    test = load_test(source, options.data_dir or default_data_dir()) if is_tested else None
    if dataset.looks_channels_last:
        tell(
            f"dataset {dataset.name} has images of {dataset.image_shape} (channels x height x width), as the space "
            f"takes them, but this looks like height x width x channels: if it is, {TRANSPOSE}"
        )
    if stored:
        dataset = dataset.first(stored.recipe.train_images)
        found = {"dataset_sha256": dataset.sha256()}
        if test and stored.test_sha256:
            found["test_sha256"] = test.sha256()
        _refuse_difference(name, stored, found)
        return dataset, test, stored
    images = options.train_images if "train_images" in options.typed else min(options.train_images, len(dataset.images))
    recipe = _recipe(options, images)
    dataset = dataset.first(images)
    return dataset, test, _new_settings(options, recipe, source, dataset, test)


def _new_settings(
    options: Options, recipe: Recipe, source: str, dataset: "Dataset", test: "Dataset | None"
) -> SearchSettings:
    from search.samplers import VERSIONS, ListedSampler

    sampler = ListedSampler.name if options.strings else options.sampler
    return SearchSettings(
        space=options.space,
        sampler=sampler,
        sampler_version=VERSIONS[sampler],
        seed=options.seed,
        dataset=str(Path(source).absolute()) if source.endswith(".npz") else source,
        dataset_sha256=dataset.sha256(),
        recipe=recipe,
        device=options.device or "",  # settled by the workers that there are
        test=options.test,
        lengths=options.lengths,
        training_version=options.training_version,
        test_sha256=test.sha256() if test else "",
    )


# ------------------------------------------------------------------ the run


def _versions() -> dict[str, str]:
    """Of what the numbers of a training depend on, here; workers of a cluster are to have the same."""
    packages = {name: version(name) for name in ("netsieve", "torch", "ray", "numpy")}
    return {**packages, "python": platform.python_version(), "processor": _processor()}


def _processor() -> str:
    """The processor's model, as Linux names it; elsewhere its kind."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def _work(
    name: str,
    options: Options,
    settings: SearchSettings,
    limits: Limits,
    executor: Executor,
    listed: tuple[str, ...],
    stack: ExitStack,
) -> tuple[str | None, list[int]]:
    """Run to an end: why it ended before the search was finished, if it did, and the signals that came."""
    from search.cli.display import Display
    from storage import maintenance
    from storage.engine import open_for_writing
    from storage.renewal import Renewal
    from storage.store import SqlStore

    stop, signals = StopRequest(), list[int]()
    stack.enter_context(asking_to_stop(stop, signals))
    engine = open_for_writing(options.url)
    stack.callback(engine.dispose)
    store = SqlStore.open(engine, name, settings, limits.candidates, strings=listed)
    store.join(_beside(options), _versions())
    if options.retry:
        opened = maintenance.reopen(engine, store.search_id, options.retry)
        tell(f"opened {opened:,} failed candidates again ({', '.join(sorted(options.retry))})")
    title = f"netsieve {name}  {Path(settings.dataset).name}, space {settings.space.name}, seed {settings.seed}"
    judge = _judge(options.url, store.search_id, settings, listed)
    why: str | None = "an error in netsieve"
    is_away = False
    try:
        with Renewal(store), Standstill() as stood_still, Display(title) as display:
            why = Run(store, executor, judge, limits, stop, display, stood_still=stood_still)()
    except NetsieveError as error:
        why, is_away = str(error), isinstance(error, DatabaseAway)
        if isinstance(error, Stopped):
            error.add_note(f"go on with: {'the same command' if options.test else _command('resume', name, options)}")
        raise
    finally:
        if not is_away:  # else others see it by the leases, which expire
            with suppress(Stopped):
                store.leave(why, executor.worked)
    return why, signals


def _judge(url: str, search_id: int, settings: SearchSettings, listed: tuple[str, ...]) -> "Judge":
    """Draws and checks, also the strings that another run has added to the search's list meanwhile."""
    from search.automaton import MOST_CELLS, compiled
    from search.samplers import ListedSampler, sampler_of
    from search.sieve import judge_with
    from storage import queries

    space = settings.space
    if settings.sampler != ListedSampler.name:
        if compiled(space) is None:
            shapes = MOST_CELLS // (len(space.layers) + 1)
            tell(f"space {space.name} reaches more than {shapes:,} shapes: its candidates are checked one by one")
        return judge_with(sampler_of(settings), space.rules)

    def judge(start: int, stop: int) -> "Sequence[Drawn]":
        nonlocal listed
        if stop > len(listed):
            with reading(url) as connection:
                listed = tuple(queries.listed(connection, search_id))
        return judge_with(ListedSampler(listed), space.rules)(start, stop)

    return judge


def _conclude(name: str, options: Options, why: str | None, signals: list[int]) -> int:
    """The top five, how it ended, and the commands to look further or go on; the exit code."""
    from storage import queries

    code = exit_code(signals[0]) if signals else 0
    try:
        with reading(options.url) as connection:
            standing = queries.standing(connection, queries.require(connection, name).id)
            best = best_candidates(connection, name, 5)
    except NetsieveError as error:  # all is recorded: how the run ended does not change with that
        tell(f"\n{why or 'the search is complete'}; what came of it cannot be read now: {error}")
        return code
    tell("")
    for line in ranking_table(iter(best)) if best else ():
        click.echo(line)
    further = [("top", "the ranking"), ("failures", "why others were rejected or failed"), ("status", "the counts")]
    if standing.state == queries.State.FINISHED:
        tell(f"\nsearch {name} is complete: {standing.counts.drawn:,} candidates drawn")
    else:
        stopped = f"stopped: {why or standing.stopped_because or 'others go on with it'}"
        tell(f"\n{stopped}; go on with: {_command('resume', name, options)}")
    for line in columns(("", ""), [(f"  {_command(verb, name, options)}", what) for verb, what in further]):
        if line:
            tell(line)
    return code


def _program() -> str:
    """How to call netsieve: as it was called, where the shell does not find it by its name."""
    is_found = Path(sys.argv[0]).name != "netsieve" or shutil.which("netsieve")
    return "netsieve" if is_found else sys.argv[0]


def _command(verb: str, name: str, options: Options) -> str:
    """A command to type, with the options that it needs to find this search and its data; a password is masked."""
    from storage.engine import shown

    words = [_program(), verb, name]
    if "url" in options.typed and "NETSIEVE_DB" not in os.environ:
        words += ["--db", options.url if options.url.startswith("sqlite:") else shown(options.url)]
    if verb == "resume" and options.data_dir and "NETSIEVE_DATA_DIR" not in os.environ:
        words += ["--data-dir", str(options.data_dir)]
    if verb == "resume" and options.workers is not None:
        words += ["--workers", str(options.workers)]
    if verb == "resume" and options.gpus_per_worker is not None:
        words += ["--gpus-per-worker", f"{options.gpus_per_worker:g}"]
    if verb == "resume" and options.ray_address is not None and "RAY_ADDRESS" not in os.environ:
        words += ["--ray-address", options.ray_address]
    return shlex.join(words)
