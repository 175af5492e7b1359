"""What the code never does, read from its syntax: each rule is tried on a line that breaks it, too."""

import ast
import inspect
from pathlib import Path

import pytest

from unveil.core.estimator import Estimator
from unveil.models import discover

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "unveil"
MODULES = sorted(SOURCE.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))

PICKLERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
SEEDED = {"default_rng", "Generator", "RandomState", "SeedSequence", "PCG64", "BitGenerator"}
DRAWS = {"rand", "randn", "randint", "randperm", "multinomial", "poisson", "bernoulli", "normal"}
DRAWS_IN_PLACE = {"normal_", "uniform_", "exponential_", "bernoulli_", "random_", "cauchy_", "geometric_", "log_normal_"}
DRAWERS_OF_ODDS_AND_ENDS = {"util", "utils", "helper", "helpers", "misc", "common", "tools", "stuff"}
LONGEST = {"models": 450, "kernels": 550, "report": 650}  # lines; 350 elsewhere


def identities(paths):
    return [str(path.relative_to(ROOT)) for path in paths]


def unpickles(node: ast.AST) -> bool:
    if isinstance(node, ast.Import):
        return any(alias.name.split(".")[0] in PICKLERS for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        return (node.module or "").split(".")[0] in PICKLERS
    if not isinstance(node, ast.Call):
        return False
    allowed = any(
        k.arg == "allow_pickle" and not (isinstance(k.value, ast.Constant) and k.value.value is False) for k in node.keywords
    )
    return allowed or ast.unparse(node.func) in ("torch.load", "joblib.load", "pandas.read_pickle", "pd.read_pickle")


def uses_global_random_state(node: ast.AST) -> bool:
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module]
        return "random" in names or "numpy.random" in names
    if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("np.random", "numpy.random"):
        return node.attr not in SEEDED
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return False
    owner, verb = ast.unparse(node.func.value), node.func.attr
    if (owner == "torch" and verb in ("manual_seed", "seed", "set_rng_state")) or ast.unparse(node.func) == "np.random.default_rng":
        return owner == "torch" or not node.args
    draws = (owner == "torch" and verb in DRAWS) or verb in DRAWS_IN_PLACE
    return draws and not any(keyword.arg == "generator" for keyword in node.keywords)


def sets_threads(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and node.attr in ("set_num_threads", "set_num_interop_threads")


def is_abstract(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef) and any("abstract" in ast.unparse(each) for each in node.decorator_list)


def compares_without_tolerances(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call) or ast.unparse(node.func).split(".")[-1] != "assert_allclose":
        return False
    return len(node.args) > 2 or not {"rtol", "atol"} <= {keyword.arg for keyword in node.keywords}


def lines_that(rule, source: str) -> list[int]:
    return [node.lineno for node in ast.walk(ast.parse(source)) if rule(node)]


@pytest.mark.parametrize("path", MODULES, ids=identities(MODULES))
@pytest.mark.parametrize("rule", [unpickles, uses_global_random_state, sets_threads], ids=lambda rule: rule.__name__)
def test_the_library_never(rule, path):
    assert lines_that(rule, path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", TESTS, ids=identities(TESTS))
def test_every_comparison_names_its_tolerances(path):
    assert lines_that(compares_without_tolerances, path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("rule", "code"),
    [
        (unpickles, "import pickle"),
        (unpickles, "from joblib import load"),
        (unpickles, "def f():\n    import dill as d"),
        (unpickles, "np.load(path, allow_pickle=True)"),
        (unpickles, "np.load(path, allow_pickle=trusted)"),
        (unpickles, "torch.load(path)"),
        (uses_global_random_state, "np.random.seed(0)"),
        (uses_global_random_state, "x = np.random.normal(size=3)"),
        (uses_global_random_state, "np.random.default_rng()"),
        (uses_global_random_state, "import random"),
        (uses_global_random_state, "torch.manual_seed(0)"),
        (uses_global_random_state, "torch.randn(3)"),
        (uses_global_random_state, "torch.empty(3).normal_()"),
        (sets_threads, "torch.set_num_threads(2)"),
        (is_abstract, "class A(ABC):\n    @abstractmethod\n    def f(self): ..."),
        (is_abstract, "class A(ABC):\n    @property\n    @abc.abstractmethod\n    def f(self): ..."),
        (compares_without_tolerances, "assert_allclose(a, b)"),
        (compares_without_tolerances, "np.testing.assert_allclose(a, b, 4)"),
        (compares_without_tolerances, "assert_allclose(a, b, rtol=1e-3)"),
    ],
)
def test_the_rules_can_be_broken(rule, code):
    assert len(lines_that(rule, code)) == 1


@pytest.mark.parametrize(
    ("rule", "code"),
    [
        (unpickles, "np.load(path, allow_pickle=False); safetensors.torch.load(data); json.load(file)"),
        (
            uses_global_random_state,
            "np.random.default_rng(0); torch.randn(3, generator=g); rng.normal(size=3); torch.Generator().manual_seed(0)",
        ),
        (sets_threads, "torch.get_num_threads()"),
        (compares_without_tolerances, "assert_allclose(a, b, rtol=0, atol=1e-9)"),
    ],
)
def test_the_rules_can_be_kept(rule, code):
    assert lines_that(rule, code) == []


def test_abstract_classes_are_contracts():
    with_some = {path.relative_to(SOURCE) for path in MODULES if lines_that(is_abstract, path.read_text(encoding="utf-8"))}
    contracts = {path for path in with_some if path.parts[0] == "core"}
    assert contracts, "there are contracts in core/"
    assert with_some - contracts == {Path("data/datasets/dataset.py")}, "KnownSet, below core, is the only other one"


def test_nothing_final_is_overridden():
    final = {
        name
        for name, member in vars(Estimator).items()
        if getattr(inspect.unwrap(getattr(member, "__func__", member)), "__final__", False)
    }
    assert {"fit", "score", "sample", "save"} <= final
    for estimator in discover().values():
        for base in estimator.__mro__[: estimator.__mro__.index(Estimator)]:
            assert not final & set(vars(base)), f"{base.__name__} overrides what is final"


def test_there_is_no_drawer_of_odds_and_ends():
    names = {part.removesuffix(".py").strip("_") for path in MODULES for part in path.relative_to(SOURCE).parts}
    assert len(names) > 20
    assert not names & DRAWERS_OF_ODDS_AND_ENDS


@pytest.mark.parametrize("path", MODULES, ids=identities(MODULES))
def test_a_file_is_one_idea_that_can_be_read(path):
    n_lines = len(path.read_text(encoding="utf-8").splitlines())
    assert n_lines <= LONGEST.get(path.relative_to(SOURCE).parts[0], 350), f"{n_lines} lines; split it where the ideas part"
