"""Imports go down only, heavy libraries stay where they belong, and the base package needs numpy alone."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

import spr

ROOT = Path(spr.__file__).parent
REPO = Path(__file__).parents[1]
# The way of the data, from the ground up. A module may import from its own room and the rooms before it.
ROOMS = (
    ("types", "errors"),
    ("boxes", "ranges"),
    ("ports",),
    ("store",),
    ("dialects",),
    ("models",),
    ("data",),
    ("stages",),
    ("training",),
    ("evaluation",),
    ("scenes",),
    ("report",),
    ("doctor",),
    ("run",),
    ("commands",),
    ("lab",),
    ("cli",),
    (
        "__main__",
        "scoring",
        "pairing",
        "rewards",
    ),  # doors: what a user starts or imports, with nothing behind them
)
FLOOR = {head: number for number, room in enumerate(ROOMS) for head in room}
HEAVY = {"torch", "transformers", "peft", "trl", "accelerate", "datasets"}
HEAVY_ALLOWED = ("models", "training", "scenes.recipe")
LONGEST_LINE = 110


def _name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(p for p in parts if p != "__init__")


MODULES = {_name(path): path for path in sorted(ROOT.rglob("*.py"))}


def _imports(tree: ast.AST) -> list[str]:
    """Every module that is imported anywhere in the tree, under `if TYPE_CHECKING` too; a name is not a
    module, its module is.
    """
    found: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports name their module whole"
            assert node.module
            below = f"{node.module}.".removeprefix("spr.")
            modules = [f"{node.module}.{a.name}" for a in node.names if below + a.name in MODULES]
            found += modules or [node.module]
    return found


def _inner(name: str) -> list[str]:
    """The modules of this package that a module imports."""
    targets = _imports(ast.parse(MODULES[name].read_text(encoding="utf-8")))
    return [target.removeprefix("spr.") for target in targets if target.startswith("spr.")]


@pytest.mark.parametrize("name", [name for name in MODULES if name])
def test_imports_go_down(name: str) -> None:
    head = name.split(".")[0]
    assert head in FLOOR, f"{name} stands in no room: give it one in ROOMS"
    for target in _inner(name):
        assert FLOOR[target.split(".")[0]] <= FLOOR[head], f"{name} imports {target} from a room above"


def test_nothing_imports_in_a_circle() -> None:
    """Not even inside a room: a circle means that two modules are one."""
    sorter = graphlib.TopologicalSorter({name: [t for t in _inner(name) if t != name] for name in MODULES})
    try:
        sorter.prepare()
    except graphlib.CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize(
    "path",
    [
        path
        for folder in ("src", "tests", "benchmarks", "examples")
        for path in sorted((REPO / folder).rglob("*"))
        if path.suffix in (".py", ".j2", ".css", ".js")
    ],
)
def test_lines_are_short_enough_to_stand_beside_each_other(path: Path) -> None:
    long = [
        n
        for n, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if len(line) > LONGEST_LINE
    ]
    assert not long, f"{path.relative_to(REPO)}: lines {long} have more than {LONGEST_LINE} characters"


@pytest.mark.parametrize("name", [name for name in MODULES if not name.startswith(HEAVY_ALLOWED)])
def test_heavy_libraries_stay_where_models_are(name: str) -> None:
    heavy = {t.split(".")[0] for t in _imports(ast.parse(MODULES[name].read_text(encoding="utf-8")))} & HEAVY
    assert not heavy, f"{name} imports {sorted(heavy)}"


@pytest.mark.parametrize(
    ("code", "forbidden"),
    [
        ("import spr", "torch transformers PIL pyarrow pydantic"),
        ("import spr.dialects", "torch transformers PIL pyarrow pydantic"),
        ("import spr.scoring, spr.pairing, spr.boxes, spr.evaluation.metrics", "torch transformers"),
        ("import spr.cli", "torch transformers"),
        (
            "from spr.cli import app; import contextlib\nwith contextlib.suppress(SystemExit): "
            "app(['--help'])",
            "torch transformers",
        ),
    ],
)
def test_import_hygiene(code: str, forbidden: str) -> None:
    """A user who only parses boxes must not pay for torch: checked in a fresh interpreter."""
    script = (
        f"import sys\n{code}\nfound = [m for m in {forbidden.split()!r} if m in "
        "sys.modules]\nsys.exit(', '.join(found) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
