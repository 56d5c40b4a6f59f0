"""run --dry-run: what a search will cost, and nothing else."""

import json
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import Result

from search.candidates import Measurement, Outcome
from search.cli.dry_run import PROBES, Begun, Seconds, database_bytes, duration, print_costs, probe
from search.coordinator import cost
from search.forecast import Basis, Forecast, forecast
from search.messages import Task
from search.run import Counts, News
from search.samplers import RejectionSampler
from search.settings import Limits, Recipe, SearchSettings
from search.sieve import judge_with
from search.space import CLASSIC, SearchSpace
from storage import queries
from storage.engine import open_for_writing
from storage.store import SqlStore
from workers.datasets import Dataset, load

Cli = Callable[..., Result]

RUN = ("--dataset", "digits", "--workers", 0, "--epochs", 2)


def said(result: Result) -> dict[str, str]:
    """What each line of the answer says, by its first words."""
    assert result.exit_code == 0, result.stderr
    lines = [re.split(r"  +", line, maxsplit=1) for line in result.stdout.splitlines()[1:]]
    return {line[0]: re.sub("  +", "  ", line[1]) for line in lines}


def test_it_says_what_the_search_then_finds(cli: Cli) -> None:
    """The counts of a short search are exact; nothing is written before it begins."""
    answer = said(cli("run", "soon", *RUN, "--candidates", 150, "--dry-run"))
    assert not Path("netsieve.db").exists()
    cli("run", "soon", *RUN, "--candidates", 150, "--max-completed", 1)
    while (status := json.loads(cli("status", "soon", "--format", "json").stdout))["drawn"] < 150:
        cli("resume", "soon", "--workers", 0, "--max-completed", status["completed"] + 1)
    valid = status["completed"] + status["failed"] + status["open"]
    assert answer["draws"] == "150"
    assert answer["distinct"].split()[0] == str(status["distinct"])
    assert answer["valid"].split()[0] == str(valid)
    assert "exactly: every draw was made" in answer["distinct"]


def test_of_a_search_that_exists_it_says_what_is_left(cli: Cli) -> None:
    """What is trained is not trained again; nothing is drawn or trained."""
    cli("run", "part", *RUN, "--candidates", 60, "--max-completed", 2)
    before = Path("netsieve.db").read_bytes()
    answer = said(cli("resume", "part", "--candidates", 100, "--workers", 1, "--dry-run"))
    valid = int(answer["valid"].split()[0])
    is_open = json.loads(cli("status", "part", "--format", "json").stdout)["open"]
    left = f"{is_open} open, {valid - 2 - is_open} to be drawn; 2 have ended"
    assert re.split(r"  +", answer["to train"]) == [str(valid - 2), left]
    assert "with 1 worker:" in answer["time"]
    assert Path("netsieve.db").read_bytes() == before


def test_it_looks_beside_a_running_search(cli: Cli) -> None:
    """It writes nothing, so it need not wait; and to extend what runs is when one asks."""
    cli("run", "busy", *RUN, "--candidates", 20, "--max-completed", 1)
    engine = open_for_writing("sqlite:///netsieve.db")
    with engine.connect() as connection:
        found = queries.require(connection, "busy")
    store = SqlStore(engine, found.id)
    store.join()
    assert "is being run by" in cli("resume", "busy", "--workers", 0).stderr
    answer = said(cli("resume", "busy", "--candidates", 40, "--dry-run"))
    assert answer["draws"] == "40"
    store.leave(None)
    engine.dispose()


def seconds_each(monkeypatch: pytest.MonkeyPatch, mean: float | None) -> None:
    """Let a training take so long."""
    found = None if mean is None else Seconds(mean, mean / 2, 2 * mean, 20)
    monkeypatch.setattr("search.cli.dry_run.probe", lambda *_: found)


def test_each_limit_says_what_it_is_worth(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """--max-completed in time, --max-time in trainings; also of a search that has begun, and no more than is left."""
    seconds_each(monkeypatch, 36.0)
    monkeypatch.setattr("workers.executors.cores", lambda: 4)
    run = ("run", "some", *RUN[:2], "--candidates", 5_000)
    plain = said(cli(*run, "--workers", 4, "--dry-run"))
    valid = int(plain["valid"].split()[0].replace(",", ""))
    assert plain["worker time"].split("  ")[0] == f"{valid / 100:.0f} hours"
    assert plain["time"] == f"{valid / 400:.2g} hours  with 4 workers: 400 trainings an hour"
    answer = said(cli(*run, "--workers", 4, "--max-completed", 40, "--max-time", "9m", "--dry-run"))
    assert answer["--max-completed 40"] == "6 minutes  for the 40 to come, if none fails"
    assert answer["--max-time 540 s"].split()[:2] == ["60", "trainings"]
    assert {key: text for key, text in answer.items() if key in plain} == plain
    plenty = said(cli(*run, "--workers", 4, "--max-completed", 10**18, "--max-time", "200h", "--dry-run"))
    for option in (f"--max-completed {10**18:,}", "--max-time 720000 s"):
        assert plenty[option] == f"not reached  the search ends sooner, after {valid:,} trainings"
    cli(*run[:-1], 60, "--workers", 0, "--epochs", 2, "--max-completed", 2)
    later = said(cli("resume", "some", "--workers", 1, "--max-completed", 12, "--dry-run"))
    assert later["--max-completed 12"].startswith("6 minutes  for the 10 to come")


def test_a_search_that_is_finished_costs_nothing_more(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is trained to say so."""
    cli("run", "over", *RUN, "--candidates", 5)
    monkeypatch.setattr("search.cli.dry_run.probe", lambda *_: pytest.fail("a probe"))
    answer = said(cli("resume", "over", "--max-time", "1h", "--dry-run"))
    assert answer["to train"].startswith("0  0 open, 0 to be drawn; ")
    assert "time" not in answer


def test_where_drawing_takes_longer_it_is_what_takes_time(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """One coordinator draws, and waits for nobody."""
    seconds_each(monkeypatch, 1e-4)
    answer = said(cli("run", "fast", *RUN, "--candidates", 2**63 - 1, "--dry-run"))
    assert answer["time"].startswith("1,754,827 years")
    assert answer["time"].endswith("drawing takes longer")
    assert answer["drawing"].startswith("1,754,827 years")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.004, "0.004 s"), (119.6, "120 s"), (120, "2 minutes"), (7_199, "120 minutes"), (7_200, "2 hours"),
     (4 * 86_400, "4 days"), (3e8, "9.5 years")],
)  # fmt: skip
def test_durations_are_read_at_a_glance(seconds: float, text: str) -> None:
    """In the largest unit of which there are two."""
    assert duration(seconds) == text


def test_the_time_is_that_of_the_workers_that_the_run_has(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not more than there are cores; and none where nobody can tell without the cluster."""
    seconds_each(monkeypatch, 36.0)
    monkeypatch.setattr("workers.executors.cores", lambda: 2)
    run = ("run", "dark", *RUN[:2], "--candidates", 100, "--dry-run")
    assert "with 2 workers" in said(cli(*run))["time"]
    many = cli(*run, "--workers", 8)
    assert "with 2 workers" in said(many)["time"]
    assert many.stderr.count("8 workers share 2 cores: they train no faster than 2\n") == 1
    cluster = ("--ray-address", "10.0.0.1:6379", "--max-time", "70s", "--max-completed", 5)
    for options in ((), ("--workers", 8), ("--device", "cpu")):
        answer = said(cli(*run, *cluster, *options))
        for key in ("time", "--max-time 70 s", "--max-completed 5"):
            assert answer[key].startswith("unknown  --workers and --device say")
    assert "with 8 workers" in said(cli(*run, *cluster, "--workers", 8, "--device", "cpu"))["time"]
    refused = cli(*run, "--gpus-per-worker", 0.5)
    assert (refused.exit_code, "--dry-run --gpus-per-worker 0.5: torch sees no GPU" in refused.stderr) == (2, True)


@pytest.mark.parametrize(
    ("options", "hours"),
    [
        ((), "with 2 workers"),
        (("--gpus-per-worker", 0.25), "unknown  workers that share a GPU"),
        (("--device", "cpu"), "with 8 workers"),
    ],
)
def test_a_worker_is_a_gpu(cli: Cli, monkeypatch: pytest.MonkeyPatch, options: tuple[object, ...], hours: str) -> None:
    """As the run has it, which also refuses more than there are."""
    seconds_each(monkeypatch, 36.0)
    monkeypatch.setattr("workers.executors.cores", lambda: 8)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    run = ("run", "gpu", *RUN[:2], "--candidates", 100, "--dry-run")
    assert hours in said(cli(*run, *options))["time"]
    refused = cli(*run, "--device", "cuda", "--workers", 4)
    assert (refused.exit_code, "--workers 4: there is room for 2, of 1 GPU" in refused.stderr) == (2, True)


def test_what_cannot_be_told_is_said(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """No limit is passed over in silence."""
    seconds_each(monkeypatch, 7.0)
    run = ("run", "dark", *RUN[:2], "--candidates", 100, "--workers", 1, "--dry-run")
    answer = said(cli(*run, "--target-accuracy", 0.9))
    assert answer["--target-accuracy 0.9"].startswith("unknown  the run ends once")
    assert "--trial-timeout" not in " ".join(answer)
    cut = said(cli(*run, "--trial-timeout", "10s"))
    assert cut["--trial-timeout 10 s"].startswith("too short  for some")
    seconds_each(monkeypatch, None)
    answer = said(cli(*run, "--max-time", "70s", "--max-completed", 5))
    for key in ("--max-time 70 s", "--max-completed 5"):
        assert answer[key] == "unknown  no training could be timed"


def test_failed_candidates_that_are_tried_again_are_to_be_trained(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the named reasons; as many as are then opened."""
    seconds_each(monkeypatch, 36.0)
    with monkeypatch.context() as patch:
        patch.setattr("workers.training.build", lambda *_: (_ for _ in ()).throw(MemoryError()))
        cli("run", "failed", *RUN, "--candidates", 20)
    status = json.loads(cli("status", "failed", "--format", "json").stdout)
    failed = status["failed"]
    assert failed > 1
    before = Path("netsieve.db").read_bytes()
    other = said(cli("resume", "failed", "--workers", 0, "--retry", "timeout", "--dry-run"))
    assert other["to train"] == f"0  0 open, 0 to be drawn; {failed} have ended"
    reason = json.loads(cli("candidates", "failed", "--where", "status=failed", "--format", "json").stdout)[0]["reason"]
    answer = said(cli("resume", "failed", "--workers", 0, "--retry", f"timeout,{reason}", "--dry-run"))
    left = f"0 open, {failed} to be tried again, 0 to be drawn; 0 have ended"
    assert re.split(r"  +", answer["to train"]) == [str(failed), left]
    assert answer["worker time"].split("  ")[0] == duration(36.0 * failed)
    assert Path("netsieve.db").read_bytes() == before


def test_it_refuses_what_the_run_would_refuse(cli: Cli) -> None:
    """With the same words."""
    cli("run", "one", *RUN, "--candidates", 1)
    refused = cli("run", "one", "--seed", 7, "--dry-run")
    assert (refused.exit_code, "seed: stored 0, given 7" in refused.stderr) == (2, True)
    assert cli("resume", "other", "--dry-run").exit_code == 2


def test_the_whole_census(cli: Cli) -> None:
    """All 140 million of it, without drawing them."""
    answer = said(cli("run", "all", *RUN, "--census-all", "--dry-run"))
    assert answer["valid"].split() == ["140,708,079", "100.0%", "of", "the", "draws"]
    assert "the census repeats and rejects nothing" in answer["distinct"]
    assert re.match(r"[0-9,.]+ (days|years)", answer["worker time"])


def settings(epochs: int) -> SearchSettings:
    recipe = Recipe(train_images=1_797, epochs=epochs)
    return SearchSettings(CLASSIC, "rejection", 1, 0, "digits", "", recipe, "cpu")


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load("digits", Path())


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Say how many seconds the next trainings take, one after the other, whatever the machine does."""
    readings: list[float] = []

    def take(*seconds: float) -> None:
        readings[:] = [reading for each in seconds for reading in (0.0, each)]

    monkeypatch.setattr("workers.training.time", SimpleNamespace(perf_counter=lambda: readings.pop(0)))
    return take


def test_a_probe_stands_for_its_part(digits: Dataset, clock: Callable[..., None]) -> None:
    """Its time for the whole recipe, scaled by what its part costs; the training before all probes only warms up."""
    layers = "dropout=p:0.2-"
    alike = Forecast(4, 4, 4, 100.0, Basis.COUNTED, (layers,) * 4, (1_000,) * 4)
    all_images = 1_797 / 1_000  # a probe trains 25 batches of 32 images, four fifths of 1,000
    for epochs in (1, 1_000):
        clock(99, 4, 1, 3, 2)
        whole = epochs * all_images
        assert probe(settings(epochs), digits, alike) == Seconds(
            pytest.approx(2.5 * whole), pytest.approx(1 * whole), pytest.approx(4 * whole), 4
        )
    uneven = Forecast(60, 60, 60, 100.0, Basis.COUNTED, (layers,) * 60, (0,) * 59 + (10**9,))
    clock(99, *[1] * PROBES)
    heavy = probe(settings(1), digits, uneven)
    assert heavy is not None
    assert heavy.least == heavy.most == pytest.approx(all_images)
    times = cost(Task(0, layers, 10**9)) / cost(Task(0, layers, 0))  # the last candidate, of its part's probe
    assert times > 10_000
    assert heavy.mean == pytest.approx((59 + times) / 60 * all_images)


def test_a_failed_probe_is_no_measurement(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """However fast it fails."""
    monkeypatch.setattr("workers.training.build", lambda *_: (_ for _ in ()).throw(MemoryError()))
    found = Forecast(2, 2, 2, 100.0, Basis.COUNTED, ("dropout=p:0.2-",) * 2, (1_000,) * 2)
    assert probe(settings(1), digits, found) is None


def test_valid_candidates_that_are_expected_but_not_seen(
    digits: Dataset, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Too rare for the draws that are counted: how long they train is unknown, and that is said."""
    rare = Forecast(10**9, 10**9, 3, 100.0, Basis.EXPECTED, (), ())
    monkeypatch.setattr("search.cli.dry_run.forecast", lambda *_: rare)
    nothing = Begun(Counts(10**9, 0, 0, 0, 0, 0))
    print_costs("x", settings(1), (), digits, Limits(candidates=10**9), nothing, 2, is_postgres=False)
    assert re.search(r"^a training +unknown", capsys.readouterr().out, re.MULTILINE)


def test_a_search_with_nothing_valid_to_train(digits: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    """Needs no training to be timed, and is said to need none."""
    listed = ("conv=channel_factor:0.4,kernel_size:3,stride:1,padding:0-",)
    of_list = SearchSettings(CLASSIC, "listed", 1, 0, "digits", "", settings(1).recipe, "cpu")
    nothing = Begun(Counts(1, 0, 0, 0, 0, 0))
    print_costs("x", of_list, listed, digits, Limits(candidates=1), nothing, 2, is_postgres=False)
    out = capsys.readouterr().out
    assert re.search(r"valid +0 +0.0% of the draws", out)
    assert "worker time" not in out


SHORT = replace(CLASSIC, min_layers=2, max_layers=4)


@pytest.mark.parametrize(("space", "epochs"), [(CLASSIC, 0), (CLASSIC, 3), (SHORT, 0), (SHORT, 10)])
def test_a_database_is_about_as_large_as_is_said(place: Path, space: SearchSpace, epochs: int) -> None:
    """A quarter more or less, whatever columns and indexes are added; ``epochs`` of those that are trained."""
    path, draws, sampler = place / "size.db", 10_000, RejectionSampler(space, 0)
    engine = open_for_writing(f"sqlite:///{path}")
    store = SqlStore.open(engine, "size", replace(settings(1), space=space), draws)
    store.join()
    while store.extend(5_000, judge_with(sampler, space.rules)):
        pass
    curve = tuple(Measurement(epoch, 2.123456789 / epoch, 2.3123456789 / epoch, 0.9) for epoch in range(1, epochs + 1))
    while epochs and (tasks := store.claim(500, set()).tasks):
        first = [replace(task, attempt=1, begun=1) for task in tasks]
        store.record(News(dispatched=first))
        store.record(News(outcomes=[(task, Outcome(curve, 1.2345678)) for task in first]))
    counts = store.counts()
    engine.dispose()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    found = forecast(sampler, space.rules, draws)
    said = database_bytes(found.distinct, found.characters, counts.completed, epochs)
    assert path.stat().st_size == pytest.approx(said, rel=0.25)
