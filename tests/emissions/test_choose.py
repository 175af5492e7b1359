"""Options that mean emissions: names, classes, partials, products, and the user's own; and how they are saved."""

import json
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy import stats
from torch import Tensor, nn

from unveil.core.model import Emission
from unveil.core.statistics import Statistics
from unveil.data.batch import Batches, MemoryRows
from unveil.emissions.categorical import Categorical
from unveil.emissions.choose import EMISSIONS, make_emission
from unveil.emissions.gaussian import Gaussian
from unveil.emissions.mixture import GaussianMixtureEmission
from unveil.emissions.poisson import Poisson
from unveil.emissions.product import Product, ProductEmission
from unveil.emissions.saving import emission_from_json, emission_to_json
from unveil.errors import ModelFileError, ParameterError
from unveil.learn.em import em
from unveil.models.chain_mixture import ChainMixture
from unveil.models.gaussian_mixture import Mixture


@dataclass(frozen=True)
class DurationStatistics(Statistics):
    count: Tensor
    total: Tensor


class Exponential(Emission):
    """A user's own family, which the library has never heard of: p(x | z = k) = prod_d a_kd exp(-a_kd x_d)."""

    def __init__(self, n_components, n_features):
        super().__init__()
        self.n_components, self.n_features = n_components, n_features
        self.rates = nn.Parameter(torch.ones(n_components, n_features, dtype=torch.float64))

    def initialize(self, values, responsibilities):
        self.maximize(self.expect(values, responsibilities))

    def features(self, values):
        return values.double()

    def log_density(self, features):
        return self.rates.log().sum(1) - features @ self.rates.T

    def expect(self, features, responsibilities):
        return DurationStatistics(responsibilities.sum(0)[:, None], responsibilities.T @ features)

    @torch.no_grad()
    def maximize(self, statistics):
        seen = statistics.count > 0
        self.rates.copy_(torch.where(seen, statistics.count / statistics.total.clamp_min(1e-300), self.rates))

    @torch.no_grad()
    def sample(self, classes, generator):
        uniform = torch.rand(len(classes), self.n_features, dtype=torch.float64, generator=generator)
        return -torch.log1p(-uniform) / self.rates[classes]

    def count_parameters(self):
        return self.rates.numel()


@pytest.mark.parametrize("name", EMISSIONS)
def test_names_are_families(name):
    emission = make_emission(name, 3, 2)
    assert type(emission) is EMISSIONS[name]
    assert (emission.n_components, emission.n_features) == (3, 2)


@pytest.mark.parametrize("option", [Poisson, partial(Poisson, prior=(2.0, 1.0)), lambda k, d: Poisson(k, d)])
def test_callables_give_what_they_make(option):
    assert isinstance(make_emission(option, 3, 2, covariance_type="diag", reg_covar=0.1), Poisson)


@pytest.mark.parametrize(
    "option", ["gaussian", Gaussian, "gaussian-mixture", GaussianMixtureEmission, Product({range(2): "gaussian"})]
)
def test_settings_reach_normal_densities(option):
    emission = make_emission(option, 3, 2, covariance_type="tied", reg_covar=0.25)
    normal = [each for each in emission.modules() if isinstance(each, Gaussian)]
    assert [(each.covariance_type, each.reg_covar) for each in normal] == [("tied", 0.25)]


def test_a_partial_keeps_its_own_settings():
    emission = make_emission(partial(Gaussian, covariance_type="spherical"), 3, 2, covariance_type="tied", reg_covar=0.25)
    assert (emission.covariance_type, emission.reg_covar) == ("spherical", 0.25)


def test_other_settings_reach_who_takes_them_and_are_refused_elsewhere():
    assert make_emission("categorical", 3, 2, n_categories=4, covariance_type="diag").probabilities.shape == (3, 2, 4)
    with pytest.raises(ParameterError, match="emission='poisson' takes no n_categories; leave it out"):
        make_emission("poisson", 3, 2, n_categories=4, covariance_type="diag")


@pytest.mark.parametrize("option", ["Gaussian", "", None, 3, ["gaussian"]])
def test_what_means_no_emission(option):
    with pytest.raises(
        ParameterError, match=r"expected one of 'gaussian', .*, or a callable that takes .n_components, n_features."
    ):
        make_emission(option, 3, 2)


@pytest.mark.parametrize("option", [lambda k, d: None, lambda k, d: nn.Linear(k, d)])
def test_a_callable_that_gives_no_emission(option):
    with pytest.raises(ParameterError, match=r"gave a .*; expected a callable that takes"):
        make_emission(option, 3, 2)


def test_a_family_of_the_users_own_needs_no_change_of_the_library():
    truth = np.array([[0.2, 0.3], [5.0, 2.0]])
    classes = np.repeat([0, 1], 500)
    values = np.random.default_rng(0).exponential(1 / truth[classes])
    emission = make_emission(Exponential, 2, 2, covariance_type="diag", reg_covar=1e-6)
    with torch.no_grad():
        found = emission.log_density(emission.features(torch.as_tensor(values)))
    assert_allclose(found, np.repeat(stats.expon.logpdf(values).sum(1)[:, None], 2, 1), rtol=1e-12, atol=0)
    for model, offsets in (
        (Mixture(emission), None),
        (ChainMixture(1, 2, make_emission(Exponential, 2, 2)), np.array([0, 400, 1000])),
    ):
        batches = Batches(MemoryRows(values), offsets, batch_steps=300)
        model.initialize(batches, torch.Generator().manual_seed(0))
        objective = em(model, batches, max_iter=60, tol=0.0).objective
        assert (np.diff(objective) >= -1e-12).all()
        rates = model.emission.rates.detach().numpy()
        assert_allclose(rates[rates[:, 0].argsort()], truth, rtol=0.25, atol=0)  # five standard errors: 5 / sqrt(500)


def test_a_family_of_the_users_own_can_be_part_of_a_product():
    emission = Product({0: Exponential, 1: "poisson"})(3, 2)
    assert isinstance(emission.parts[0], Exponential)


# ---- saving ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "option",
    [
        "gaussian",
        Gaussian,
        partial(Gaussian, covariance_type="tied", reg_covar=0.5),
        partial(Categorical, n_categories=(3, 4), prior=2.0),
        partial(GaussianMixtureEmission, n_mixtures=np.int64(3)),
        Product({(0,): "poisson", 1: partial(Categorical, n_categories=3)}),
        Product([(slice(0, 1), Poisson), (range(1, 2), Product({0: "bernoulli"}))]),
    ],
)
def test_options_come_back_from_json(option):
    again = emission_from_json(json.loads(json.dumps(emission_to_json(option))))
    mine, other = (make_emission(each, 3, 2) for each in (option, again))
    assert str(mine) == str(other)
    for name in ("covariance_type", "reg_covar", "prior", "n_mixtures"):
        assert getattr(mine, name, None) == getattr(other, name, None)
    assert {k: v.shape for k, v in mine.state_dict().items()} == {k: v.shape for k, v in other.state_dict().items()}
    if isinstance(mine, ProductEmission):
        assert mine.columns == other.columns


@pytest.mark.parametrize(
    "option",
    [
        Exponential,
        lambda k, d: Gaussian(k, d),
        partial(Exponential),
        partial(Gaussian, 3),
        partial(Gaussian, covariance_type=np.array(["full"])),
        Product({0: "poisson", 1: Exponential}),
    ],
)
def test_what_is_not_ours_is_not_saved(option):
    with pytest.raises(ModelFileError, match=r"cannot save emission=.*save model_.state_dict\(\) instead"):
        emission_to_json(option)


@pytest.mark.parametrize(
    "saved",
    [
        {"emission": "os.system"},
        {"emission": "product"},
        {"emission": "product", "columns": 3},
        {},
        7,
        ["gaussian"],
        {"emission": ["a"]},
    ],
)
def test_a_file_names_nothing_but_our_own(saved):
    with pytest.raises(ModelFileError, match="is not one that this version of Unveil has"):
        emission_from_json(saved)
