"""The report: what it says, that nothing breaks out of it, and that it is written whole or not at all."""

import html
import json
import os
import re
import stat
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from search.candidates import Status
from search.space import CLASSIC
from tests import recorded
from tests.recorded import SETTINGS, STRINGS, Row

pytest.importorskip("plotly", reason="pip install 'netsieve[report]': plotly draws the figures")

Cli = Callable[..., Result]
Make = Callable[..., "Page"]

NASTY = "</script><script>alert(1)</script><img src=x onerror=alert(2)>&amp;\"'<!--"
FIGURES = {
    "sieve", "reasons", "progress", "over-time", "best-so-far", "accuracy", "loss", "parameters", "macs", "effects",
    "positions", "curves",
}  # fmt: skip


class Page(HTMLParser):
    """A page as a browser reads it: elements, and the text of its scripts apart from that of the reader."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source = source
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self._texts: list[str] = []
        self._in: str | None = None
        self.feed(source)
        self.text = " ".join("".join(self._texts).replace("\u202f", " ").split())
        self.data = json.loads(self.scripts[0])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._in = tag if tag in {"script", "style"} else None
        if tag == "script":
            self.scripts.append("")
        self._texts.append("" if tag in {"wbr", "code", "b", "i", "a", "span"} else " ")

    def handle_endtag(self, tag: str) -> None:
        self._in = None

    def handle_data(self, data: str) -> None:
        if self._in == "script":
            self.scripts[-1] += data
        elif self._in != "style":
            self._texts.append(data)

    def points(self) -> dict[int, str]:
        """Index and layer string of the points of the scatter plots."""
        layers = self.data["layers"]
        return {point[0]: "".join(f"{layers[code]}-" for code in point[5]) for point in self.data["points"]}


@pytest.fixture
def page_of(cli: Cli, place: Path) -> Make:
    """The page of a search of those candidates."""

    def make(rows: Iterable[Row] = (), *, name: str = "first", **how: Any) -> Page:
        url = f"sqlite:///{place / 'made.db'}"
        recorded.record(url, rows, name=name, **how)
        result = cli("report", name, "--db", url)
        assert (result.exit_code, result.stdout) == (0, ""), result.stderr
        return Page((place / f"{name}.html").read_text(encoding="utf-8"))

    return make


# ------------------------------------------------------------------ what it says


def test_a_real_search_is_reported(cli: Cli, copied: Path, place: Path) -> None:
    """The file of the search's name, with what status and top say."""
    result = cli("report", "first")
    assert result.exit_code == 0
    assert re.fullmatch(r"wrote first\.html \(\d+\.\d MB\)\n", result.stderr)
    page = Page((place / "first.html").read_text(encoding="utf-8"))
    status = json.loads(cli("status", "first", "--format", "json").stdout)
    best = json.loads(cli("top", "first", "--format", "json").stdout)
    assert f"{status['drawn']} draws gave {status['distinct']} distinct strings" in page.text
    assert f"The best classifies {100 * best[0]['val_accuracy']:.1f} %" in page.text
    for row in best:
        assert row["layers"] in page.text
    assert len(page.points()) == status["completed"]
    assert set(page.data["figures"]) >= {"sieve", "reasons", "progress", "best-so-far", "parameters", "macs", "curves"}


def test_every_part_is_there(page_of: Make) -> None:
    """A figure each, with a numbered caption and the same sentence for those who do not see it."""
    page = page_of(recorded.mixed(300), drawn=320, target=400, runs=3, attempts=[None, "cancelled"])
    assert set(page.data["figures"]) == FIGURES
    assert [int(n) for n in re.findall(r"<b>Figure (\d+)\.", page.source)] == list(range(1, len(FIGURES) + 1))
    plots = [attrs for tag, attrs in page.tags if tag == "div" and "data-figure" in attrs]
    assert {plot["data-figure"] for plot in plots} == FIGURES
    assert all(plot["role"] == "img" and len(plot["aria-label"] or "") > 40 for plot in plots)
    assert "320 of 400 candidates are drawn (80.0 %), and of the 240 valid ones 180 have ended (75.0 %)" in page.text
    assert "timeout" in page.text
    assert "failed 3" in page.text
    assert "60 of 180 trainings that ended failed (33.3 %)" in page.text
    assert "1 attempt in flight; ended otherwise than by completing: cancelled 1" in page.text
    assert "there have been 3 runs" in page.text
    assert "SIGINT <once>" in page.text
    assert "associations in a random draw" in page.text


def test_links_lead_to_headings(page_of: Make) -> None:
    """Each anchor is there, once."""
    page = page_of(recorded.mixed(50))
    anchors = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    links = [attrs["href"] or "" for tag, attrs in page.tags if tag == "a"]
    assert len(anchors) == len(set(anchors))
    assert all(link.startswith("#") and link[1:] in anchors for link in links)
    assert len(links) > 15


def test_the_commands_that_it_shows_are_commands(cli: Cli, page_of: Make) -> None:
    """The settings as options of run, and questions to the same database, which answer."""
    page = page_of(recorded.mixed(50))
    blocks = [html.unescape(block) for block in re.findall(r"<pre>(.*?)</pre>", page.source, flags=re.DOTALL)]
    run = blocks[0].replace("\\\n", " ").split()
    assert run[:3] == ["netsieve", "run", "first"]
    options = dict(zip(run[3::2], run[4::2], strict=True))
    assert options == {
        "--candidates": "100", "--space": "classic", "--sampler": "rejection", "--seed": "7", "--dataset": "digits",
        "--train-images": "5000", "--epochs": "2", "--batch-size": "32", "--learning-rate": "0.05", "--device": "cpu",
    }  # fmt: skip
    from search.cli import main

    main.commands["run"].make_context("run", run[2:])
    asked = [line.split()[1:] for line in blocks[1].splitlines()]
    assert [words[0] for words in asked] == ["status", "top", "show", "db", "resume"]
    for words in asked[:3]:
        assert cli(*words).exit_code == 0
    assert "netsieve 0.0.9" in page.text


def test_another_space_is_given_as_its_file(page_of: Make) -> None:
    """Of a space that is no preset the report holds the TOML that --space reads."""
    from search.space import read_space

    space = replace(CLASSIC, name="mine", max_layers=4, max_macs=123_456)
    page = page_of([], settings=replace(SETTINGS, space=space))
    blocks = [html.unescape(block) for block in re.findall(r"<pre>(.*?)</pre>", page.source, flags=re.DOTALL)]
    assert "--space mine.toml" in blocks[0]
    assert read_space(blocks[1]) == space
    assert "at most 123,456 multiply-adds per image" in page.text


def listing(strings: Iterable[str]) -> dict[str, Any]:
    """What recorded.record needs for a search of a list."""
    strings = list(strings)
    settings = replace(SETTINGS, sampler="listed")
    return {"settings": settings, "listed": strings, "target": len(strings)}


def test_layers_that_only_a_list_has_are_compared(page_of: Make) -> None:
    """Of a list the effects are those of its own layers, which the space need not have."""
    strings = [recorded.CONV.format(5) + "dropout=p:0.3-", recorded.CONV.format(5), "dropout=p:0.3-", STRINGS[3]]
    rows = [Row(text, accuracy=0.5 + number / 10) for number, text in enumerate(strings)]
    page = page_of(rows, **listing(strings))
    (table,) = re.findall(r"<summary>The numbers.*?</details>", page.source, flags=re.DOTALL)
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", line) for line in table.split("<tr>")[2:]]
    n = {cell[0]: (cell[4], cell[6]) for cell in cells}
    assert n["conv"] == ("2", "2")
    assert n["dropout, p 0.3"] == ("2", "2")
    assert "batchnorm" not in n


def test_a_list_is_not_called_a_random_draw(page_of: Make) -> None:
    """Somebody chose its strings, so nothing that is said of them holds beyond them."""
    rows = list(recorded.mixed(100))
    page = page_of(rows, **listing(row.layers for row in rows))
    assert "positions" in page.data["figures"]
    assert "100 of 100 strings of a list, in its order, chosen by whoever made it, have been taken" in page.text
    assert "A network is a string of the list, of layers of any kind and number, on inputs of 1x28x28" in page.text
    assert "associations within a list" in page.text
    assert "the intervals do not generalise beyond it" in page.text
    assert "20 strings of the list were rejected and are missing" in page.text
    for untrue in ("random draw", "been drawn at random", "drawn uniformly", "replacement", "twenty", "if nothing"):
        assert untrue not in page.text


def test_a_list_is_searched_again_from_its_strings(cli: Cli, page_of: Make) -> None:
    """They are exported from the database in the form that run --strings reads; there is no sampler to name."""
    from search.cli import main

    page = page_of([Row(text) for text in STRINGS], **listing(STRINGS))
    block = html.unescape(re.findall(r"<pre>(.*?)</pre>", page.source, flags=re.DOTALL)[0])
    export, run = (line.split() for line in block.replace("\\\n", " ").splitlines())
    assert cli(*export[1:]).exit_code == 0
    assert run[:3] == ["netsieve", "run", "first"]
    options = dict(zip(run[3::2], run[4::2], strict=True))
    assert options.keys() == {
        "--strings", "--space", "--seed", "--dataset", "--train-images", "--epochs", "--batch-size", "--learning-rate",
        "--device",
    }  # fmt: skip
    context = main.commands["run"].make_context("run", run[2:])
    assert context.params["strings"] == STRINGS


# ------------------------------------------------------------------ every state of a search


def test_an_empty_search_has_a_report(page_of: Make) -> None:
    """Nothing drawn, no run: every figure is the sentence that says so."""
    page = page_of([], runs=0)
    assert page.data["figures"] == {}
    assert page.data["points"] == []
    assert "No run of the search has begun" in page.text
    assert "Nothing has been drawn yet" in page.text
    assert "No training has ended yet" in page.text


def test_one_completed_candidate_has_a_report(page_of: Make) -> None:
    """Where a comparison needs more, the report says so."""
    page = page_of([Row(STRINGS[0], accuracy=0.75)])
    assert page.points() == {0: STRINGS[0]}
    assert FIGURES - set(page.data["figures"]) == {"reasons", "effects", "positions"}
    assert "1 completed candidate" in page.text
    assert "nan" not in page.text.lower().split()


def test_a_search_in_which_all_failed_has_a_report(page_of: Make) -> None:
    """Reasons, details and an example, and no best."""
    rows = [Row(STRINGS[i % 5], Status.FAILED, reason="non_finite_loss", detail="loss is nan") for i in range(20)]
    page = page_of(rows)
    assert "20 of 20 trainings that ended failed (100.0 %)" in page.text
    assert "loss is nan" in page.text
    assert STRINGS[0] in page.text
    assert "No candidate has completed yet" in page.text


def test_a_running_search_says_so(page_of: Make) -> None:
    """The numbers are of a moment."""
    page = page_of(recorded.mixed(50), at_work=True)
    assert "running: the numbers are of this moment" in page.text
    assert "at work" in page.text


def test_a_diverged_candidate_has_a_place(page_of: Make) -> None:
    """Losses beyond all measure, and of zero, are still losses."""
    rows = [Row(STRINGS[0], curve=[[1e30, 1e30, 0.1]]), Row(STRINGS[1], curve=[[0.0, 0.0, 1.0]], accuracy=1.0)]
    assert "loss" in page_of(rows).data["figures"]


def test_a_large_search_is_sampled_and_the_page_says_so(page_of: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fronts, the best and the steps are always there; the sample is the same each time; counts are of all."""
    from search.cli.report import findings

    monkeypatch.setattr(findings, "MOST_POINTS", 60)
    rows = [Row(STRINGS[i % 5], accuracy=((i * 7919) % 1000) / 1001) for i in range(1_000)]
    page = page_of(rows, target=1_000)
    assert 50 <= len(page.points()) <= 60
    assert "of the 1,000 completed candidates: the fronts, the best 10" in page.text
    best = {row["index"] for row in _by_rank(rows)[:10]}
    assert best <= set(page.points())
    for name in ("parameters", "macs"):
        front = page.data["figures"][name]["data"][0]
        assert [page.data["points"][place][3] for place in page.data["fronts"][name]] == pytest.approx(
            front["y"], abs=1e-6
        )


def _by_rank(rows: list[Row]) -> list[dict[str, Any]]:
    ranked = sorted(enumerate(rows), key=lambda entry: (-entry[1].accuracy, entry[0]))
    return [{"index": index} for index, _ in ranked]


def test_the_same_database_gives_the_same_data(page_of: Make, cli: Cli, place: Path) -> None:
    """Nothing in figures or points is drawn by lot."""
    page = page_of(recorded.mixed(200))
    cli("report", "first", "--db", f"sqlite:///{place / 'made.db'}", "--out", "again.HTM")
    assert Page((place / "again.HTM").read_text(encoding="utf-8")).data == page.data


# ------------------------------------------------------------------ nothing breaks out


def test_text_from_the_database_stays_text(page_of: Make) -> None:
    """Layer strings, details and hosts cannot end a script, open an element, or become an attribute."""
    rows = [
        Row(f"{NASTY}-", accuracy=0.9),
        Row(f"conv={NASTY}-{NASTY}-", accuracy=0.8),
        Row(STRINGS[0], Status.FAILED, reason="exception", detail=NASTY),
        Row(f"x{NASTY}-", Status.REJECTED, reason="over_budget", detail=NASTY),
    ]
    page = page_of(rows)
    assert [tag for tag, _ in page.tags].count("script") == 3
    assert not [tag for tag, _ in page.tags if tag == "img"]
    assert not [attrs for _, attrs in page.tags if any(name.startswith("on") for name in attrs)]
    assert " ".join(NASTY.split()) in page.text


def test_hover_texts_are_text_for_plotly_too(page_of: Make) -> None:
    """Plotly reads some tags in its texts; a string's own are escaped."""
    page = page_of([Row("<b>bold<br>&-", accuracy=0.9)])
    (marks,) = [trace for trace in page.data["figures"]["best-so-far"]["data"] if trace["mode"] == "markers"]
    assert "&lt;b&gt;bold&lt;br&gt;&amp;-" in marks["text"][0]


def test_the_page_names_no_address(page_of: Make) -> None:
    """No element loads anything, and a policy forbids the scripts to."""
    page = page_of(recorded.mixed(50))
    assert not [attrs for _, attrs in page.tags if "src" in attrs]
    assert [tag for tag, _ in page.tags if tag in {"link", "iframe", "object", "embed"}] == []
    (policy,) = [a["content"] for t, a in page.tags if t == "meta" and a.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in (policy or "")


def test_no_password_is_shown(cli: Cli, postgres_url: str, place: Path) -> None:
    """A report is made to be passed on."""
    recorded.record(postgres_url, recorded.mixed(50))
    url = postgres_url.replace("postgres:@", "postgres:secret@")
    result = cli("report", "first", "--db", url)
    assert result.exit_code == 0, result.stderr
    assert "secret@" not in (place / "first.html").read_text(encoding="utf-8")


# ------------------------------------------------------------------ the file


def test_a_name_with_dots_keeps_them(page_of: Make, place: Path) -> None:
    """The file is NAME.html, whatever the name looks like."""
    assert "a.b-v1.2" in page_of([], name="a.b-v1.2").text
    assert (place / "a.b-v1.2.html").is_file()


def test_an_older_report_is_replaced_whole(cli: Cli, copied: Path, place: Path) -> None:
    """Nothing else is left in the folder, and the file is readable as any other."""
    (place / "first.html").write_text("old")
    os.umask(before := os.umask(0))
    assert cli("report", "first").exit_code == 0
    assert (place / "first.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert stat.S_IMODE((place / "first.html").stat().st_mode) == 0o666 & ~before
    assert {path.name for path in place.iterdir()} - {"first.html"} <= {
        "netsieve.db",
        "netsieve.db-wal",
        "netsieve.db-shm",
    }


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_disk_that_fills_leaves_the_older_report(
    cli: Cli, copied: Path, place: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """And no part of the new one, nor is another process's file touched."""
    (place / "first.html").write_text("old")
    other = place / f".netsieve-report-{os.getpid()}.tmp"  # a process of the same number on another machine
    other.write_text("another's")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*{"fsync": (os, "fsync"), "replace": (Path, "replace")}[step], full)
    result = cli("report", "first")
    assert result.exit_code == 1
    assert result.stderr == "Error: --out first.html: No space left on device; nothing was written\n"
    assert (place / "first.html").read_text() == "old"
    assert other.read_text() == "another's"
    assert not list(place.glob(".*.part"))


@pytest.mark.parametrize(
    ("out", "says"),
    [
        ("folder", "--out folder: is a folder; give a file in it"),
        (os.devnull, f"--out {os.devnull}: is no plain file"),
        ("first.pdf", "--out first.pdf: a report is an HTML page; give a file that ends in .html"),
        ("first", "--out first: a report is an HTML page"),
        ("nowhere/first.html", "--out nowhere/first.html: folder nowhere does not exist"),
        ("x" * 300, "File name too long"),
    ],
)
def test_a_place_that_cannot_be_written_is_named(cli: Cli, copied: Path, place: Path, out: str, says: str) -> None:
    """In one line, before the database is read; a device is not replaced by a file."""
    (place / "folder").mkdir()
    result = cli("report", "first", "--out", out)
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert says in result.stderr
    assert not Path(os.devnull).is_file()


def test_a_link_stays_a_link(cli: Cli, copied: Path, place: Path) -> None:
    """What it points at is replaced."""
    (place / "shared").mkdir()
    (place / "first.html").symlink_to(place / "shared" / "report.html")
    assert cli("report", "first").exit_code == 0
    assert (place / "first.html").is_symlink()
    assert (place / "shared" / "report.html").is_file()


def test_an_unknown_search_leaves_no_file(cli: Cli, copied: Path, place: Path) -> None:
    """As every question says it."""
    result = cli("report", "third")
    assert result.exit_code == 2
    assert "no such search" in result.stderr
    assert not list(place.glob("*.html"))


def test_a_missing_plotly_is_named_with_the_command_that_installs_it(
    cli: Cli, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one line, and nothing is written."""
    monkeypatch.setitem(sys.modules, "plotly", None)
    result = cli("report", "first")
    assert result.exit_code == 2
    assert result.stderr.endswith("pip install 'netsieve[report]'\n")
    assert result.stderr.count("\n") == 1
