"""Which way imports point: cli -> coordinator, workers, storage -> the search core."""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CORE = sorted(f"search.{path.stem}" for path in (ROOT / "search").glob("*.py") if path.stem != "__init__")
THIRD_PARTY = {
    "alembic",
    "click",
    "pandas",
    "plotly",
    "pyarrow",
    "ray",
    "rich",
    "safetensors",
    "sklearn",
    "sqlalchemy",
    "torch",
    "torchvision",
}
SLOW = {"torch", "ray", "alembic", "numpy", "rich", "sklearn", "pandas", "pyarrow", "plotly"}
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ("search", "workers", "storage")
    for path in sorted((ROOT / package).rglob("*.py"))
}


def loaded_by(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter has after a statement."""
    script = f"{statement}; import sys; print(*{{name.partition('.')[0] for name in sys.modules}})"
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(answer.stdout.split())


def imports_of(path: Path, *, at_import: bool) -> set[str]:
    """Modules that a file imports; with ``at_import`` only those that importing it imports."""
    found = set[str]()
    nodes: list[ast.AST] = [ast.parse(path.read_text())]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = str(node.module)
            found |= {
                f"{module}.{alias.name}" if f"{module}.{alias.name}" in MODULES else module for alias in node.names
            }
        lazy = isinstance(node, ast.FunctionDef) or (
            isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        )
        if not (at_import and lazy):
            nodes += ast.iter_child_nodes(node)
    return found


def packages_of(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imports_of(path, at_import=False)}


def test_the_core_loads_the_standard_library_and_numpy_only() -> None:
    """In a fresh interpreter, all of the core."""
    assert len(CORE) >= 9
    assert not loaded_by("import " + ", ".join(CORE)) & (THIRD_PARTY | {"workers", "storage"})


def test_the_test_of_the_core_can_fail() -> None:
    """The same look finds what is loaded."""
    assert "click" in loaded_by("import search.layers, click")


@pytest.mark.parametrize(
    ("command", "unloaded"),
    [
        ("from search.cli import main", {*SLOW, "sqlalchemy"}),
        ("import search.cli, storage.queries, storage.engine, storage.frames", SLOW),
    ],
)
def test_help_and_questions_load_nothing_slow(command: str, unloaded: set[str]) -> None:
    """--help needs click; a question to the database needs sqlalchemy as well."""
    assert not loaded_by(command) & unloaded


def test_a_coordinator_loads_no_torch() -> None:
    """Its workers do, meanwhile: nor to read MNIST, nor to describe a trainer, nor to start Ray."""
    assert not loaded_by("import search.cli.launch, workers.deferred, workers.ray_executor") & {"torch", "torchvision"}


def test_workers_and_storage_do_not_know_each_other() -> None:
    """Workers return values, and only the coordinator writes."""
    for name, path in MODULES.items():
        assert not (name.startswith("workers") and "storage" in packages_of(path)), name
        assert not (name.startswith("storage") and "workers" in packages_of(path)), name


def test_only_the_command_line_knows_workers_and_storage() -> None:
    """One composition root."""
    knowing = {name for name, path in MODULES.items() if {"workers", "storage"} <= packages_of(path)}
    assert knowing
    assert all(name.startswith("search.cli") for name in knowing)


@pytest.mark.parametrize(
    ("package", "places"),
    [
        ("ray", ("workers.ray_cluster", "workers.ray_executor")),
        ("torch", ("workers", "search.cli")),
        ("sqlalchemy", ("storage", "search.cli.results", "search.cli.maintain", "search.cli.report.findings")),
        ("rich", ("search.cli.display",)),
        ("safetensors", ("workers.model_file",)),
        ("plotly", ("search.cli.report",)),
        ("pandas", ("storage.frames",)),
        ("pyarrow", ("search.cli.writers",)),
    ],
)
def test_a_library_is_known_in_its_place_only(package: str, places: tuple[str, ...]) -> None:
    """Replacing one touches one part."""
    knowing = {name for name, path in MODULES.items() if package in packages_of(path)}
    assert knowing
    assert {name for name in knowing if not name.startswith(places)} == set()


def test_there_is_no_import_cycle() -> None:
    """Modules can be put in an order in which each imports earlier ones only."""
    graph = {name: imports_of(path, at_import=True) & MODULES.keys() - {name} for name, path in MODULES.items()}
    try:
        order = list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"import cycle: {' -> '.join(error.args[1])}")
    assert set(order) == MODULES.keys()
