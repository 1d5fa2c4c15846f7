"""Imports go down only, heavy libraries stay where they belong, and the base package needs numpy alone."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import spr

ROOT = Path(spr.__file__).parent
# From the bottom up. A module may import from its own layer and the layers below it.
LAYERS: list[tuple[str, ...]] = [
    ("types", "errors"),
    ("boxes",),
    ("dialects",),
    ("artifacts", "config", "executor"),
    ("ports",),
    ("data", "regions", "prompts", "pairing", "describe", "scoring", "evaluation", "rewards", "export"),
    ("models", "training", "report", "scenes"),
    ("wiring",),
    ("rounds", "depends", "pipeline", "ablate", "previews", "doctor"),
    ("cli", "__main__"),
]
# Commands that drive the pipeline from inside the embedded world.
EXCEPTIONS = {"scenes.demo", "scenes.results", "scenes.measure", "scenes.tune", "scenes.recipe.__main__"}
HEAVY = {"torch", "transformers", "peft", "trl", "accelerate", "datasets"}
HEAVY_ALLOWED = ("models", "training", "scenes")
HEAVY_LAZY = {"data.hf", "evaluation.readers.hf", "rewards"}  # inside functions only


def _modules() -> list[Path]:
    return sorted(p for p in ROOT.rglob("*.py"))


def _name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(p for p in parts if p != "__init__")


def _layer(name: str) -> int:
    head = name.split(".")[0]
    for number, layer in enumerate(LAYERS):
        if head in layer:
            return number
    raise AssertionError(f"module {name!r} stands in no layer: add it to LAYERS")


def _imports(tree: ast.AST) -> list[str]:
    found: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found += [f"{node.module}.{alias.name}" for alias in node.names] if node.module == "spr" else [node.module]
    return found


@pytest.mark.parametrize("path", _modules(), ids=_name)
def test_imports_go_down(path: Path) -> None:
    name = _name(path)
    if not name or name in EXCEPTIONS:
        return
    for target in _imports(ast.parse(path.read_text(encoding="utf-8"))):
        if target.startswith("spr."):
            below = target.removeprefix("spr.")
            if below != "__version__":
                assert _layer(below) <= _layer(name), f"{name} imports {target} from a layer above"


@pytest.mark.parametrize("path", _modules(), ids=_name)
def test_heavy_libraries_stay_in_models_training_and_the_recipe(path: Path) -> None:
    name = _name(path)
    if name.split(".")[0] in HEAVY_ALLOWED:
        return
    tree = ast.parse(path.read_text(encoding="utf-8"))
    scope = ast.Module(body=[n for n in tree.body if not isinstance(n, ast.FunctionDef | ast.ClassDef | ast.If)], type_ignores=[])
    heavy = {t.split(".")[0] for t in _imports(scope if name in HEAVY_LAZY else tree)} & HEAVY
    assert not heavy, f"{name} imports {sorted(heavy)}"


@pytest.mark.parametrize(
    ("code", "forbidden"),
    [
        ("import spr", "torch transformers PIL pyarrow pydantic"),
        ("import spr.dialects", "torch transformers PIL pyarrow pydantic"),
        ("import spr.scoring, spr.pairing, spr.boxes, spr.evaluation.metrics", "torch transformers"),
        ("import spr.cli", "torch transformers"),
        ("from spr.cli import app; import contextlib\nwith contextlib.suppress(SystemExit): app(['--help'])", "torch transformers"),
    ],
)
def test_import_hygiene(code: str, forbidden: str) -> None:
    """A user who only parses boxes must not pay for torch: checked in a fresh interpreter."""
    script = f"import sys\n{code}\nfound = [m for m in {forbidden.split()!r} if m in sys.modules]\nsys.exit(', '.join(found) or 0)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
