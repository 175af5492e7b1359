"""Imports go strictly downwards in the list of folders, wherever they stand: in functions and under TYPE_CHECKING too."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "unveil"
LAYERS = (
    "errors",
    "kernels",
    "metrics",
    "data",
    "core",
    "learn",
    "emissions",
    "nn",
    "models",
    "selection",
    "audio",
    "report",
    "experiments",
    "cli",
)
MODULES = sorted(path.relative_to(SOURCE) for path in SOURCE.rglob("*.py") if path != SOURCE / "__init__.py")


def layer_of(module: Path) -> str:
    return module.parts[0].removesuffix(".py")


def imported_layers(tree: ast.AST) -> list[tuple[int, str]]:
    """The line and the layer of each import from this library; "?" is one that the reader cannot place."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level:
            names = ["unveil.?"]
        elif isinstance(node, ast.ImportFrom) and node.module == "unveil":
            names = [f"unveil.{alias.name if alias.name in LAYERS else '?'}" for alias in node.names if alias.name != "__version__"]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            names = [_name_in_call(node)]
        else:
            continue
        found += [(node.lineno, [*name.split("."), "?"][1]) for name in names if name.split(".")[0] == "unveil"]
    return found


def _name_in_call(node: ast.Call) -> str:
    """What importlib.import_module is given: a constant, or a name below the module's own package."""
    text = ast.unparse(node.args[0])
    if isinstance(node.args[0], ast.Constant):
        return node.args[0].value
    return "own" if text.startswith(("f'{__name__}.", "f'{__package__}.")) else "unveil.?"


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_imports_go_downwards(module):
    own = LAYERS.index(layer_of(module))
    for line, layer in imported_layers(ast.parse((SOURCE / module).read_text(encoding="utf-8"))):
        assert layer in LAYERS, f"{module}:{line} imports in a way that cannot be placed; name the module in full"
        assert LAYERS.index(layer) <= own, f"{module}:{line}: {layer_of(module)} imports {layer}, which is above it"


def test_every_folder_has_a_place():
    assert MODULES
    assert {layer_of(module) for module in MODULES} <= set(LAYERS)


def test_the_package_itself_imports_nothing_of_the_library_at_once():
    tree = ast.parse((SOURCE / "__init__.py").read_text(encoding="utf-8"))
    at_once = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    assert {node.module if isinstance(node, ast.ImportFrom) else node.names[0].name for node in at_once} <= {
        "__future__",
        "importlib",
        "typing",
    }


@pytest.mark.parametrize(
    ("code", "layers"),
    [
        ("import unveil.cli.app", ["cli"]),
        ("import numpy, unveil.data.files as files", ["data"]),
        ("from unveil.audio.separate import Separator", ["audio"]),
        ("from unveil import report, __version__", ["report"]),
        ("from unveil import separate", ["?"]),
        ("from ..report import page", ["?"]),
        ("def f():\n    from unveil.learn.em import em", ["learn"]),
        ("if TYPE_CHECKING:\n    from unveil.core.model import Model", ["core"]),
        ("importlib.import_module('unveil.models')", ["models"]),
        ("importlib.import_module(name)", ["?"]),
        ("importlib.import_module(f'{__name__}.{module.name}')", []),
        ("import unveiled\nfrom unveiled.data import x", []),
    ],
)
def test_the_reader_of_imports_sees_all_kinds(code, layers):
    assert [layer for _, layer in imported_layers(ast.parse(code))] == layers
