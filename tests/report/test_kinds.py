"""Every estimator with every kind of observations has a page, with gaps in the data too, and with states that share a density."""

import re
import xml.etree.ElementTree as ElementTree
from functools import partial
from inspect import signature

import numpy as np
import pytest

from unveil.emissions.choose import EMISSIONS
from unveil.emissions.mixture import GaussianMixtureEmission
from unveil.emissions.product import Product
from unveil.models import discover
from unveil.models.gaussian_hmm import GaussianHMM
from unveil.models.gaussian_mixture_classifier import GaussianMixtureClassifier
from unveil.models.hmm import HMM
from unveil.models.mixture_model import MixtureModel
from unveil.models.mixture_of_hmms import MixtureOfHMMs
from unveil.report import model_report
from unveil.report.emissions import parts_of

pytestmark = pytest.mark.filterwarnings(
    "error", "ignore::unveil.errors.ConvergenceWarning", "ignore::unveil.errors.IdentifiabilityWarning"
)

MIXED = Product({(0, 1): "gaussian", 2: "poisson", 3: "bernoulli", 4: partial(EMISSIONS["categorical"], n_categories=3)})
KINDS = [*EMISSIONS, partial(GaussianMixtureEmission, n_mixtures=2), MIXED]


CASES = [
    (cls, emission) for cls in discover().values() for emission in (KINDS if "emission" in signature(cls).parameters else [None])
]


def slow_if_shown_before(cases):
    """Figures of observations are the same whatever the estimator, and have tests of their own: most kinds run with the slow tests."""
    quick = [case for case in cases if case[1] in (None, MIXED) or (case[0] is HMM and case[1] == "poisson")]
    return quick + [pytest.param(*case, marks=pytest.mark.slow) for case in cases if case not in quick]


def name_of(value):
    return getattr(value, "__name__", None) or (value if isinstance(value, str) else type(value).__name__)


def quick(cls, **options):
    allowed = {"max_iter": 2, "random_state": 0, "n_init": 1, "max_epochs": 2, "hidden": 8}
    return cls(**{name: value for name, value in allowed.items() if name in signature(cls).parameters} | options)


def values_for(emission, n_sequences=5, length=12):
    """Small data that an emission takes: a list of sequences of five columns."""
    emission = getattr(emission, "emission", emission)  # of an estimator for one family only
    rng = np.random.default_rng(0)
    if emission in ("categorical", "bernoulli", "poisson"):
        top = {"categorical": 4, "bernoulli": 2, "poisson": 9}[emission]
        return [rng.integers(top, size=(length, 5)).astype(float) for _ in range(n_sequences)]
    made = [np.abs(rng.normal(i % 3, 0.5, (length, 5))) for i in range(n_sequences)]
    if emission is MIXED:
        for each in made:
            each[:, 2:] = np.floor(np.minimum(each[:, 2:], [9, 1, 2]))
    return made


def holes(sequences, share=0.2):
    rng = np.random.default_rng(1)
    return [np.where(rng.random(each.shape) < share, np.nan, each) for each in sequences]


def fitted(cls, emission, sequences):
    of_sequences = cls().items == "sequences"
    X = sequences if of_sequences else np.concatenate(sequences)
    y = None if of_sequences else np.arange(len(X)) % 2
    return quick(cls, **({} if emission is None else {"emission": emission})).fit(
        X, y if cls is GaussianMixtureClassifier else None
    ), X


def titles(html):
    return re.findall(r"<h[23][^>]*>(.*?)</h[23]>", html)


@pytest.mark.parametrize(("cls", "emission"), slow_if_shown_before(CASES), ids=name_of)
def test_every_estimator_has_a_page_for_every_kind_of_observations(tmp_path, cls, emission):
    estimator, X = fitted(cls, emission, values_for(emission or cls))
    for data in (X, None):
        html = model_report(tmp_path / "page.html", estimator, data).read_text(encoding="utf-8")
        for figure in re.findall(r"<svg.*?</svg>", html, re.S):
            ElementTree.fromstring(figure.replace("xlink:", ""))
            assert "nan" not in re.sub(r'href="[^"]*"|<text.*?</text>', "", figure).lower()
        if emission is not None and (data is not None or cls is not MixtureOfHMMs):
            assert sum(" by " in title for title in titles(html)) >= len(list(parts_of(estimator.model_.emission)))


@pytest.mark.parametrize(
    ("cls", "emission"),
    slow_if_shown_before([(c, e) for c, e in CASES if c.allows_nan and e not in ("categorical", MIXED)]),
    ids=name_of,
)
def test_gaps_in_the_data_are_no_obstacle(tmp_path, cls, emission):
    sequences = holes(values_for(emission))
    sequences[0][:3] = np.nan
    estimator, X = fitted(cls, emission, sequences)
    assert len(titles(model_report(tmp_path / "page.html", estimator, X).read_text(encoding="utf-8"))) > 3


@pytest.mark.parametrize("cls", [c for c in discover().values() if c.allows_nan], ids=name_of)
def test_data_without_one_complete_row_has_a_page(tmp_path, cls):
    sequences = values_for(None)
    for each in sequences:
        each[np.arange(len(each)), np.arange(len(each)) % 5] = np.nan
    estimator, X = fitted(cls, None, sequences)
    assert model_report(tmp_path / "page.html", estimator, X).exists()


@pytest.mark.parametrize(
    ("cls", "emission"), [(GaussianHMM, None), (HMM, "poisson"), (HMM, "gaussian"), (HMM, "categorical")], ids=name_of
)
def test_states_that_share_a_density_are_named_together(tmp_path, cls, emission):
    options = {} if emission is None else {"emission": emission}
    X = values_for(emission)
    estimator = quick(cls, n_states=4, tied_states=(0, 1, 0, 2), **options).fit(X)
    html = model_report(tmp_path / "page.html", estimator, X).read_text(encoding="utf-8")
    assert "states 0, 2 share one density" in html
    assert len(re.findall(">0, 2<", html)) == (2 if emission == "categorical" else 1)  # in each row of panels


def test_mixtures_of_chains_show_the_states_of_each_cluster(tmp_path):
    X = values_for("bernoulli", n_sequences=8)
    estimator = quick(MixtureOfHMMs, n_clusters=2, n_states=2, emission="bernoulli").fit(X)
    html = model_report(tmp_path / "page.html", estimator, X).read_text(encoding="utf-8")
    shown = [title for title in titles(html) if title.startswith("Probabilities of a one")]
    assert shown == ["Probabilities of a one by state, cluster 0", "Probabilities of a one by state, cluster 1"]
    for mean in estimator.model_.emission.means.detach().numpy().ravel():
        assert f">{mean:.2f}<" in html or mean < 0.005


def test_products_have_a_card_for_each_family(tmp_path):
    X = np.concatenate(values_for(MIXED))
    html = model_report(tmp_path / "page.html", quick(MixtureModel, emission=MIXED).fit(X), X).read_text(encoding="utf-8")
    expected = ["Observations", "Rates", "Probabilities of a one", "Probabilities of symbols"]
    assert [title for title in titles(html) if " by " in title] == [f"{each} by cluster" for each in expected]


def test_classes_are_shown_by_their_names(tmp_path):
    X = np.concatenate(values_for(None))
    y = np.where(X[:, 0] > 1, "a rather long name", "b")
    estimator = quick(GaussianMixtureClassifier, n_components=2).fit(X, y)
    html = model_report(tmp_path / "page.html", estimator, X).read_text(encoding="utf-8")
    rows = re.findall(r"<tr>(.*?)</tr>", html, re.S)
    for name, prior in zip(estimator.classes_, estimator.class_prior_, strict=True):
        [row] = [row for row in rows if f"{name}</th>" in row]
        assert f"{prior:.3f}" in row
        assert str(np.sum(estimator.predict(X) == name)) in row
    assert len(re.findall("a rather…|a rathe…", html)) == 1  # at one of the two components


def test_only_what_is_taken_apart_into_sources_has_a_dictionary(tmp_path):
    for name in ("PPCA", "MixtureOfPPCA", "NMF"):
        estimator, X = fitted(discover()[name], None, values_for(None))
        html = model_report(tmp_path / "page.html", estimator, X).read_text(encoding="utf-8")
        assert ("Dictionary" in titles(html)) == (name == "NMF")
        assert ("Components" in titles(html)) == (name == "PPCA")
