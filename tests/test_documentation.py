"""The documentation runs: its commands, its links, every command's help, every test's sentence."""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from search.cli import main

ROOT = Path(__file__).parents[1]
PAGES = sorted(page for page in ROOT.glob("**/*.md") if ".venv" not in page.parts)
QUESTIONS = {
    "status",
    "top",
    "failures",
    "candidates",
    "show",
    "list",
    "check",
    "sample",
    "space",
    "doctor",
    "db check",
    "sql",
    "export",
    "report",
    "merge",
    "watch",
}
FAILS = {"check --explain": 1}  # what exits with another code than 0, as it says


def commands_of(page: Path) -> list[str]:
    """The netsieve commands that a page shows, without what it says of them."""
    blocks = re.findall(r"```console\n(.*?)```", page.read_text(), flags=re.DOTALL)
    lines = re.findall(r"^\$ netsieve (.*)$", "\n".join(blocks), flags=re.MULTILINE)
    return [re.split(r"\s+(?:#|>)\s", line)[0].strip() for line in lines]


SHOWN = [(page.relative_to(ROOT).as_posix(), command) for page in PAGES for command in commands_of(page)]


def leaves(group: click.Group, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command under a group, with the words that call it."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from leaves(command, (*words, name))
        else:
            yield (*words, name), command


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A database with the search that the README speaks of, on digits."""
    url = f"sqlite:///{tmp_path_factory.mktemp('readme') / 'search.db'}"
    options = ["--dataset", "digits", "--candidates", "30", "--epochs", "1", "--workers", "0"]
    result = CliRunner().invoke(main, ["run", "mnist", "--db", url, *options])
    assert result.exit_code == 0, result.output
    return url


def test_pages_show_commands() -> None:
    """The search for commands finds some: the tests below are not about nothing."""
    assert len(SHOWN) >= 15
    assert {page for page, _ in SHOWN} == {"README.md", "deploy/README.md", "deploy/kubernetes/README.md"}


@pytest.mark.parametrize(("page", "command"), SHOWN)
def test_commands_of_the_pages_work(
    page: str, command: str, searched: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Questions are asked for real; a run, which would take its time, is taken apart as far as its options."""
    monkeypatch.setenv("NETSIEVE_DB", searched)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.txt").write_text("dropout=p:0.4-\n")
    (tmp_path / "mine.toml").write_text(CliRunner().invoke(main, ["space", "show", "--format", "toml"]).stdout)
    words = shlex.split(command)
    if {words[0], " ".join(words[:2])} & QUESTIONS:
        result = CliRunner().invoke(main, words)
        assert result.exit_code == FAILS.get(" ".join(words[:2]), 0), f"{page}: netsieve {command}: {result.output}"
        assert result.stdout or len(list(tmp_path.iterdir())) > 2  # an answer, or a file
    else:
        main.commands[words[0]].make_context(words[0], words[1:])


@pytest.mark.parametrize(("words", "command"), [pytest.param(*leaf, id=" ".join(leaf[0])) for leaf in leaves(main)])
def test_every_command_has_help_and_a_place_in_the_readme(words: tuple[str, ...], command: click.Command) -> None:
    """A command that nobody can find is not there."""
    result = CliRunner().invoke(main, [*words, "--help"])
    assert result.exit_code == 0
    assert command.help
    assert f"netsieve {' '.join(words)}" in (ROOT / "README.md").read_text()


def test_every_option_says_what_it_does() -> None:
    """Each option has a help text, or a name and a default that say it."""
    silent = [
        f"{' '.join(words)} {option.opts[0]}"
        for words, command in leaves(main)
        for option in command.params
        if isinstance(option, click.Option) and not option.help and not (option.show_default and option.default)
    ]
    assert [name for name in silent if not name.endswith("--seed")] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_resolve(page: Path) -> None:
    """Links to files of the repository lead somewhere."""
    links = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text())
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize("path", sorted(Path(__file__).parent.glob("**/test_*.py")), ids=lambda path: path.name)
def test_every_test_says_its_behaviour(path: Path) -> None:
    """One sentence a test."""
    tests = [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]
    assert tests
    assert [node.name for node in tests if not ast.get_docstring(node)] == []


def test_the_readme_names_every_make_target_it_uses() -> None:
    """The commands that a newcomer types exist."""
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    used = set(re.findall(r"make (\w+)", (ROOT / "README.md").read_text()))
    assert used
    assert used <= targets


NAMED = re.findall(r"`([\w/]+\.py)(?:::(\w+))?`", (ROOT / "tests/README.md").read_text())


@pytest.mark.parametrize(("file", "test"), sorted(set(NAMED)), ids="::".join)
def test_the_tests_that_are_named_are_there(file: str, test: str) -> None:
    """The tables of tests/README.md name what exists."""
    text = (ROOT / "tests" / file).read_text()
    assert not test or f"\ndef {test}(" in text


def test_every_fault_and_every_bad_input_has_its_line() -> None:
    """All 35 and all 59."""
    faults, inputs = (ROOT / "tests/README.md").read_text().split("## Faults")[1].split("## Bad inputs")
    lines = [re.findall(r"^\| ([0-9, to]+) \|", part, flags=re.MULTILINE) for part in (faults, inputs)]
    assert [int(line) for line in lines[0]] == list(range(1, 36))
    covered = set[int]()
    for line in lines[1]:
        for part in line.split(","):
            first, _, last = part.partition(" to ")
            covered |= set(range(int(first), int(last or first) + 1))
    assert covered == set(range(1, 60))
