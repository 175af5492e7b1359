"""Learning on the command line: any emission, labels, grids, and experiments that are repeated."""

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import multivariate_normal
from sklearn.model_selection import KFold

import unveil as library
from unveil import experiments
from unveil.cli.settings import read_grid

GROUPS = np.repeat([0, 1], [60, 40])
COUNTS = "fit HMM counts.npy -o m.unveil --set emission=poisson --set n_states=2 --set random_state=0"


def test_the_settings_of_a_hidden_markov_model_are_words(with_models, unveil):
    told = unveil(COUNTS)
    assert (told.code, told.err) == (0, "")
    model = library.load("m.unveil")
    assert_allclose(np.sort(model.model_.emission.rates.detach().numpy()[:, 0]), [2, 30], rtol=0, atol=5 * np.sqrt(30 / 30))
    unveil(f"{COUNTS} --set transitions=left-right --set algorithm=hard-em")
    model = library.load("m.unveil")
    assert model.algorithm == "hard-em"
    assert model.transmat_[1, 0] == 0
    assert_array_equal(model.startprob_, [1, 0])


def test_missing_values_reach_the_model(with_models, unveil):
    assert unveil("fit GaussianMixture holed.npy -o m.unveil --set n_components=2 --set random_state=0").code == 0
    assert_allclose(np.sort(library.load("m.unveil").means_, axis=0), [[0, 0], [8, 8]], rtol=0, atol=0.8)


@pytest.mark.parametrize("kind", ["csv", "npy"])
def test_labels_name_the_classes(with_models, unveil, kind):
    labels = 3 - GROUPS
    np.save("labels.npy", labels)
    np.savetxt("labels.csv", labels, fmt="%d")
    assert unveil(f"fit GaussianMixtureClassifier points.npy -o m.unveil --labels labels.{kind}").code == 0
    model, points = library.load("m.unveil"), np.load("points.npy")
    assert_allclose(model.means_[:, 0], [points[labels == c].mean(0) for c in (2, 3)], rtol=1e-8, atol=1e-8)
    assert_array_equal([int(line) for line in unveil("predict m.unveil points.npy").out.splitlines()], labels)


def test_some_labels_fix_the_numbers_of_clusters(with_models, unveil):
    labels = np.full(100, -1)
    labels[[0, 99]] = [1, 0]
    np.save("labels.npy", labels)
    unveil("fit GaussianMixture points.npy -o m.unveil --labels labels.npy --set n_components=2 --set random_state=0")
    assert_array_equal([int(line) for line in unveil("predict m.unveil points.npy").out.splitlines()], 1 - GROUPS)


SELECT = "select GaussianMixture points.npy --grid n_components=1:3 --set random_state=0 --set tol=0.001"


def log_density(learned, points):
    """Of points, under the normal distribution that fits others best."""
    return multivariate_normal(learned.mean(0), np.cov(learned.T, bias=True)).logpdf(points)


def test_select_chooses_and_writes_the_best(with_models, unveil):
    told = unveil(f"{SELECT} --grid covariance_type=full,spherical -o out")
    assert told.code == 0
    rows = [line for line in told.out.splitlines() if " full " in line or " spherical " in line]
    assert len(rows) == 6
    assert [line.split()[1] for line in rows if line.startswith("*")] == ["2"]
    assert "the lowest BIC" in told.out
    assert told.out.endswith("Wrote table.csv, model.unveil and report.html to out\n")
    assert sorted(path.name for path in Path("out").iterdir()) == ["model.unveil", "report.html", "table.csv"]
    assert Path("out/table.csv").read_text().startswith("n_components,covariance_type,n_parameters,")
    assert "unveil select GaussianMixture points.npy" in Path("out/report.html").read_text(encoding="utf-8")
    assert library.load("out/model.unveil").n_components == 2


def test_select_compares_by_the_criterion(with_models, unveil):
    points = np.load("points.npy")
    facts = unveil(f"{SELECT} --json").json
    assert (facts["criterion"], facts["best"], facts["folder"]) == ("bic", {"n_components": 2}, None)
    assert_allclose(facts["table"][0]["bic"], -2 * log_density(points, points).sum() + 5 * np.log(100), rtol=1e-6, atol=0)
    assert not list(Path().glob("**/table.csv"))
    held_out = unveil(f"{SELECT} --criterion cv --folds 3 --json").json
    assert held_out["best"] == {"n_components": 2}
    folds = KFold(3, shuffle=True, random_state=0).split(points)
    each = [log_density(points[learned], points[rest]).mean() for learned, rest in folds]
    assert_allclose(held_out["table"][0]["cv_mean"], np.mean(each), rtol=1e-6, atol=0)


def test_select_learns_from_labels(with_models, unveil):
    np.savetxt("labels.csv", np.where(np.arange(100) % 2, GROUPS, -1), fmt="%d")
    told = unveil(
        "select GaussianMixtureClassifier points.npy --labels labels.csv --grid n_components=1,2 --set random_state=0 -o out"
    )
    assert told.code == 0
    assert_array_equal([int(line) for line in unveil("predict out/model.unveil points.npy").out.splitlines()], GROUPS)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1:4", [1, 2, 3, 4]),
        ("-1:1", [-1, 0, 1]),
        ("3:3", [3]),
        ("1:3,8", [1, 2, 3, 8]),
        ("0.1,1e-3", [0.1, 0.001]),
        ("diag, full", ["diag", "full"]),
        ("full,None", ["full", None]),
        ("[[0, 0]],[[1, 1]]", [[[0, 0]], [[1, 1]]]),
    ],
)
def test_a_grid_is_ranges_and_lists(text, values):
    assert read_grid("GaussianMixture", [f"means_init={text}", "tol=1"]) == {"means_init": values, "tol": [1]}


FAIR_COIN = '''"""A coin is tossed.

By nobody
in particular.

* A coin
* A table
  with four legs
"""
from types import SimpleNamespace
from unveil.report.page import Card, Row, Section, Table, Text
TITLE = "A fair coin"

def run(quick=False, on_progress=print):
    return SimpleNamespace(table=[{"tosses": 10 if quick else 1000, "heads": 0.5}])

def sections(result):
    row = list(result.table[0].values())
    return [Section("Tosses", [Text("Fair indeed."), Row([Card("All", [Table(["tosses", "heads"], [row], "Counts", digits=2)])])])]
'''


@pytest.fixture
def fair_coin(here, monkeypatch):
    """An experiment beside the project's own, for as long as the test takes."""
    (here / "more").mkdir()
    (here / "more" / "fair_coin.py").write_text(FAIR_COIN)
    monkeypatch.setattr(experiments, "__path__", [*experiments.__path__, str(here / "more")])


def test_experiments_are_listed_and_repeated(fair_coin, here, unveil):
    names = {each["name"]: each["title"] for each in unveil("reproduce --json").json}
    assert names["fair-coin"] == "A fair coin"
    assert "spoken-digits" in names
    assert "fair-coin" in unveil("reproduce").out
    shown = unveil("reproduce fair-coin").out
    assert all(part in shown for part in ("Fair indeed.", "1,000", "0.50", "unveil-fair-coin/report.html"))
    page = Path("unveil-fair-coin/report.html").read_text()
    assert all(
        part in page
        for part in (
            "A fair coin",
            "A coin is tossed.",
            "By nobody in particular.",
            "<li>A coin</li>",
            "<li>A table with four legs</li>",
            "Fair indeed.",
            "1,000",
            "unveil reproduce fair-coin",
        )
    )
    assert json.loads(Path("unveil-fair-coin/result.json").read_text())["table"][0]["tosses"] == 1000
    facts = unveil("reproduce fair-coin --quick --json -o out").json
    assert facts == {
        "experiment": "fair-coin",
        "title": "A fair coin",
        "quick": True,
        "table": [{"tosses": 10, "heads": 0.5}],
    }
    assert json.loads(Path("out/result.json").read_text()) == facts
