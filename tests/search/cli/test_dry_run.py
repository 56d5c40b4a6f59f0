"""run --dry-run: what a search will cost, and nothing else."""

import json
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import Result

from search.cli.dry_run import CANDIDATE_BYTES, PROBES, Begun, Seconds, print_costs, probe
from search.coordinator import cost
from search.forecast import Basis, Forecast
from search.messages import Task
from search.run import Counts
from search.samplers import RejectionSampler
from search.settings import Limits, Recipe, SearchSettings
from search.sieve import judge_with
from search.space import CLASSIC
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
    return {line[0]: line[1] for line in lines}


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
    answer = said(cli("resume", "part", "--candidates", 100, "--workers", 3, "--dry-run"))
    valid = int(answer["valid"].split()[0])
    is_open = json.loads(cli("status", "part", "--format", "json").stdout)["open"]
    left = f"{is_open} open, {valid - 2 - is_open} still to draw; 2 are trained already"
    assert re.split(r"  +", answer["to train"]) == [str(valid - 2), left]
    assert "with 3 workers" in answer["hours"]
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
    assert "other runs of the search" in answer["hours"]
    store.leave(None)
    engine.dispose()


def seconds_each(monkeypatch: pytest.MonkeyPatch, mean: float | None) -> None:
    """Let a training take so long."""
    found = None if mean is None else Seconds(mean, mean / 2, 2 * mean, 20)
    monkeypatch.setattr("search.cli.dry_run.probe", lambda *_: found)


def test_with_a_number_to_complete_it_says_when_that_is_reached(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what the run leaves behind: what it draws, and a smaller database; also of a search that has begun."""
    seconds_each(monkeypatch, 36.0)
    limits = ("--candidates", 5_000, "--max-completed", 4)
    without = said(cli("run", "some", *RUN, "--candidates", 5_000, "--dry-run"))
    answer = said(cli("run", "some", *RUN, *limits, "--dry-run"))
    assert answer["--max-completed 4"] == "4 trainings  if none fails"
    assert answer["this run"].startswith("4 trainings")
    assert answer["this run"].endswith("% of what is to train; --max-completed 4 ends it")
    assert [answer[key].split()[0] for key in ("worker-hours", "hours")] == ["0.04", "0.04"]
    whole = f"{int(without['valid'].split()[0].replace(',', '')) / 100:.0f}"  # hours
    assert f"; {whole} for the whole search" in answer["hours"]
    assert "this run" not in without
    assert without["hours"].split()[0] == whole
    cli("run", "some", *RUN, *limits)
    status = json.loads(cli("status", "some", "--format", "json").stdout)
    assert answer["drawn then"].split()[0] == f"{status['drawn']:,}"
    assert Path("netsieve.db").stat().st_size < 2e6
    assert [of["database"].split()[1] for of in (without, answer)] == ["MB", "kB"]
    later = said(cli("resume", "some", "--workers", 0, "--max-completed", 6, "--dry-run"))
    assert later["--max-completed 6"] == "2 trainings  more, if none fails"
    assert later["drawn then"].split()[0] == f"{status['drawn']:,}"  # which are open already
    over = said(cli("resume", "some", "--workers", 0, "--max-completed", 3, "--dry-run"))
    assert over["--max-completed 3"] == "0 trainings  it is reached"
    assert [over[key].split()[0] for key in ("this run", "hours")] == ["0", "0"]


def test_with_a_time_it_says_what_fits(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run takes so long at most; of several limits the first one ends it."""
    seconds_each(monkeypatch, 7.0)
    run = ("run", "short", *RUN, "--candidates", 2_000, "--workers", 3, "--dry-run")
    answer = said(cli(*run, "--max-time", "6m"))
    assert answer["--max-time 360 s"].startswith("154 trainings  fit, with 3 workers")
    assert answer["this run"].endswith("--max-time 360 s ends it")
    assert [answer[key].split()[0] for key in ("worker-hours", "hours")] == ["0.3", "0.1"]
    assert said(cli(*run, "--max-time", "6m", "--max-completed", 100))["this run"].endswith(
        "--max-completed 100 ends it"
    )
    assert said(cli(*run, "--max-time", "6m", "--max-completed", 200))["this run"].endswith("--max-time 360 s ends it")
    plenty = said(cli(*run, "--max-time", "200h", "--max-completed", 2_000))
    for limit in ("--max-time 720000 s", "--max-completed 2,000"):
        assert plenty[limit].startswith("not reached")
    assert "this run" not in plenty
    assert said(cli(*run, "--max-time", "1s"))["this run"].startswith("3 trainings")  # each worker's first is finished


def test_what_cannot_be_told_is_said(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """No limit is passed over in silence."""
    seconds_each(monkeypatch, 7.0)
    run = ("run", "dark", *RUN[:2], "--candidates", 100, "--dry-run")
    answer = said(cli(*run, "--target-accuracy", 0.9, "--ray-address", "ray://nowhere:1", "--max-time", "70s"))
    assert answer["--target-accuracy 0.9"].startswith("unknown  cannot be foretold")
    assert answer["--max-time 70 s"].startswith("unknown  10 trainings a worker")
    assert answer["hours"].startswith("unknown  --workers says how many")
    assert "--trial-timeout" not in " ".join(answer)
    cut = said(cli(*run, "--workers", 1, "--trial-timeout", "10s"))
    assert cut["--trial-timeout 10 s"].startswith("too short  for some")
    seconds_each(monkeypatch, None)
    answer = said(cli(*run, "--workers", 1, "--max-time", "70s"))
    assert answer["--max-time 70 s"] == "unknown  no training could be timed"
    refused = cli(*run, "--gpus-per-worker", 0.5)
    assert (refused.exit_code, "--dry-run --gpus-per-worker 0.5: torch sees no GPU" in refused.stderr) == (2, True)


def test_an_accuracy_that_is_reached_ends_the_run_at_once(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it does when it is run."""
    seconds_each(monkeypatch, 7.0)
    cli("run", "good", *RUN, "--candidates", 60, "--max-completed", 1)
    answer = said(cli("resume", "good", "--target-accuracy", 0.001, "--dry-run"))
    assert answer["--target-accuracy 0.001"] == "0 trainings  it is reached"
    assert answer["this run"].startswith("0 trainings")


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
    assert re.sub(" +", " ", other["to train"]) == f"0 0 open, 0 still to draw; {failed} are trained already"
    reason = json.loads(cli("candidates", "failed", "--where", "status=failed", "--format", "json").stdout)[0]["reason"]
    answer = said(cli("resume", "failed", "--workers", 0, "--retry", f"timeout,{reason}", "--dry-run"))
    left = f"0 open, {failed} are tried again, 0 still to draw; 0 are trained already"
    assert re.split(r"  +", answer["to train"]) == [str(failed), left]
    assert answer["hours"].split()[0] == f"{failed / 100:.2g}"
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
    assert float(answer["worker-hours"].split()[0].replace(",", "")) > 1_000


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
    alike = Forecast(4, 4, 4, Basis.COUNTED, (layers,) * 4, (1_000,) * 4)
    all_images = 1_797 / 1_000  # a probe trains 25 batches of 32 images, four fifths of 1,000
    for epochs in (1, 1_000):
        clock(99, 4, 1, 3, 2)
        whole = epochs * all_images
        assert probe(settings(epochs), digits, alike) == Seconds(
            pytest.approx(2.5 * whole), pytest.approx(1 * whole), pytest.approx(4 * whole), 4
        )
    uneven = Forecast(60, 60, 60, Basis.COUNTED, (layers,) * 60, (0,) * 59 + (10**9,))
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
    found = Forecast(2, 2, 2, Basis.COUNTED, ("dropout=p:0.2-",) * 2, (1_000,) * 2)
    assert probe(settings(1), digits, found) is None


def test_a_search_with_nothing_valid_to_train(digits: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    """Needs no training to be timed, and is said to need none."""
    listed = ("conv=channel_factor:0.4,kernel_size:3,stride:1,padding:0-",)
    of_list = SearchSettings(CLASSIC, "listed", 1, 0, "digits", "", settings(1).recipe, "cpu")
    nothing = Begun(Counts(1, 0, 0, 0, 0, 0))
    print_costs("x", of_list, listed, digits, Limits(candidates=1), nothing, 2, is_postgres=False)
    out = capsys.readouterr().out
    assert re.search(r"valid +0 +0.0% of the draws", out)
    assert "worker-hours" not in out


def test_a_database_is_about_as_large_as_is_said(place: Path) -> None:
    """Of 20,000 draws: a quarter more or less, whatever columns and indexes are added."""
    path = place / "size.db"
    engine = open_for_writing(f"sqlite:///{path}")
    store = SqlStore.open(engine, "size", settings(1), 20_000)
    while store.extend(5_000, judge_with(RejectionSampler(CLASSIC, 0), CLASSIC.rules)):
        pass
    distinct = store.counts().distinct
    engine.dispose()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert path.stat().st_size == pytest.approx(distinct * CANDIDATE_BYTES, rel=0.25)
