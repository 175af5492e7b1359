"""What a user meets first: names, how long they wait for them, and that the documentation is true."""

import ast
import doctest
import importlib
import json
import re
import resource
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

import unveil
from unveil.cli.app import app
from unveil.models import discover

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "unveil"
MODULES = sorted(SOURCE.rglob("*.py"))
PROMISED = {
    *("Batch", "Batches", "GaussianHMM", "GaussianMixture", "MixtureOfHMMs", "NMF", "Separator", "__version__", "adjusted_rand"),
    *("bss_eval", "clustering_accuracy", "datasets", "errors", "load", "metrics", "open_batches", "read_audio", "report"),
    *("separate", "si_sdr", "write_audio", "select", "align_states", "permute_states", "mfcc"),
    *("HMM", "MixtureModel", "GaussianMixtureClassifier", "PPCA", "MixtureOfPPCA", "LinearDynamicalSystem"),
    *("CategoricalHMM", "FactorialHMM", "SharedComponentFactorialHMM", "RevealingFactorialHMM", "match_moments"),
    *("separate_blind", "OnsetDetector", "detect_onsets", "onset_f_measure"),
    *("Emission", "Gaussian", "NormalInverseWishart", "Categorical", "Bernoulli", "Poisson", "Product", "GaussianMixtureEmission"),
}
HEAVY = ("torch", "numpy", "scipy", "sklearn", "numba", "matplotlib", "soundfile")
TRIES = 12


def module_name(path: Path) -> str:
    return ".".join(("unveil", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__")


def children_seconds() -> float:
    """Processor time of the processes that have ended: unlike the clock, it does not depend on what else the machine does."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def in_new_process(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout


def test_every_public_name_is_there():
    assert set(dir(unveil)) >= PROMISED
    for name in dir(unveil):
        assert getattr(unveil, name) is not None
    assert {name: getattr(unveil, name) for name in discover()} == discover()
    assert unveil.separate.__module__ == "unveil.audio.separate"
    assert unveil.datasets.__name__ == "unveil.data.datasets"
    assert unveil.load is importlib.import_module("unveil.models").load


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'unveil' has no attribute 'GausianMixture'"):
        unveil.GausianMixture  # noqa: B018


def test_importing_loads_nothing_heavy_and_is_quick():
    code = f"""
import json, sys, time
begin = time.process_time()
import unveil
seconds = time.process_time() - begin
print(json.dumps([seconds, [name for name in {HEAVY} if name in sys.modules]]))
"""
    best = float("inf")
    for _ in range(TRIES):
        seconds, loaded = json.loads(in_new_process(code))
        assert loaded == []
        best = min(best, seconds)
        if best < 0.1:
            return
    pytest.fail(f"import unveil took {best:.2f} s at best of {TRIES} tries; expected less than 0.1 s")


@pytest.mark.parametrize("command", ["--help", "separate --help", "fit --help", "data --help"])
def test_help_loads_nothing_heavy(command):
    code = f"""
import sys
sys.argv = ["unveil", *{command.split()}]
from unveil.cli import main
try:
    main()
except SystemExit as end:
    assert end.code == 0
print("LOADED", [name for name in {HEAVY} if name in sys.modules])
"""
    assert in_new_process(code).splitlines()[-1] == "LOADED []"


def test_help_answers_at_once():
    best = float("inf")
    for _ in range(TRIES):
        begin = children_seconds()
        shown = subprocess.run(
            [sys.executable, "-m", "unveil.cli", "--help"], capture_output=True, text=True, check=True, timeout=60
        )
        best = min(best, children_seconds() - begin)
        assert "separate" in shown.stdout
        if best < 0.3:
            return
    pytest.fail(f"unveil --help took {best:.2f} s at best of {TRIES} tries; expected less than 0.3 s")


def without_docstring(tree: ast.Module) -> list[str]:
    """Public functions, classes and methods without one; what is inside a function is its own affair."""
    found = [] if ast.get_docstring(tree) else ["the module"]

    def look(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                if child.name.startswith("_"):
                    continue
                name = prefix + child.name
                if not ast.get_docstring(child):
                    found.append(name)
                if isinstance(child, ast.ClassDef):
                    look(child, name + ".")

    look(tree, "")
    return found


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_everything_public_is_documented(path):
    assert without_docstring(ast.parse(path.read_text(encoding="utf-8"))) == []


def test_what_is_not_documented_is_found():
    code = 'class A:\n    """A."""\n    def f(self): ...\n    def _g(self): ...\nclass B:\n    def f(self):\n        """F."""\ndef h(): ...'
    assert without_docstring(ast.parse(code)) == ["the module", "A.f", "B", "h"]


WITH_EXAMPLES = [path for path in MODULES if ">>> " in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=module_name)
def test_examples_in_docstrings_are_true(path, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(importlib.import_module(module_name(path)))
    assert result.attempted > 0
    assert result.failed == 0


def blocks(document: str, language: str) -> list[str]:
    text = (ROOT / document).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_code_in_documents_runs(document, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    for i, block in enumerate(blocks(document, "python")):
        exec(compile(block, f"{document}, block {i}", "exec", dont_inherit=True), names)


def documented_commands() -> list[str]:
    lines = [line.split("#")[0] for block in blocks("README.md", "sh") for line in block.splitlines()]
    return [command for line in lines for command in re.split(r"\s{2,}", line.strip()) if command.startswith("unveil ")]


def test_commands_in_the_readme_exist_with_their_options():
    for text in documented_commands():
        command, group = typer.main.get_command(app), shlex.split(text)[1:]
        while group and group[0] in getattr(command, "commands", {}):
            command = command.commands[group.pop(0)]
        assert command.name != "unveil", f"{text}: there is no such command"
        options = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        unknown = {word for word in group if word.startswith("-")} - options
        assert not unknown, f"{text}: {command.name} has no {unknown}"
        required = {
            parameter.opts[0] for parameter in command.params if parameter.required and parameter.param_type_name == "option"
        }
        missing = {option for option in required if not {option, *_short(command, option)} & set(group)}
        assert not missing, f"{text}: {command.name} also needs {missing}"


def _short(command, option):
    return next(parameter.opts for parameter in command.params if option in parameter.opts)


def test_a_star_import_brings_all_that_is_public():
    names: dict = {}
    exec("from unveil import *", names)  # a star is only allowed at the top of a module
    assert {name for name in names if not name.startswith("__")} == {name for name in dir(unveil) if not name.startswith("_")}
