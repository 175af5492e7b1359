"""Mixed columns: independent parts, each with its own family."""

from functools import partial

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

from unveil.core.model import log_prior_of
from unveil.data.batch import Batches, MemoryRows
from unveil.emissions.bernoulli import Bernoulli
from unveil.emissions.categorical import Categorical
from unveil.emissions.gaussian import Gaussian
from unveil.emissions.poisson import Poisson
from unveil.emissions.product import Product
from unveil.errors import InputError, ParameterError
from unveil.learn.em import em
from unveil.models.gaussian_mixture import Mixture

RNG = np.random.default_rng(0)
CLASSES = RNG.integers(2, size=200)
VALUES = np.column_stack(
    [
        RNG.poisson([2.0, 7.0], size=(200, 2))[np.arange(200), CLASSES],
        RNG.normal(CLASSES, 1.0),
        RNG.integers(3, size=200),
        RNG.normal(-CLASSES, 2.0),
        RNG.random(200) < 0.2 + 0.6 * CLASSES,
    ]
).astype(float)
MIXED = Product({(1, 3): "gaussian", 0: "poisson", (2,): partial(Categorical, n_categories=3, prior=2.0), 4: Bernoulli})
R = RNG.dirichlet(np.ones(2), size=200)


def fitted(option=MIXED):
    emission = option(2, 5)
    emission.initialize(torch.as_tensor(VALUES), torch.as_tensor(R))
    return emission


def log_densities(emission, values=VALUES):
    with torch.no_grad():
        return emission.log_density(emission.features(torch.as_tensor(values))).numpy()


def test_density_is_the_product_against_scipy():
    emission = fitted()
    normal, counts, symbols, bits = emission.parts
    parameters = [[each.detach().numpy() for each in part.parameters()] for part in (normal, counts, symbols, bits)]
    (means, covariances), (rates,), (probabilities,), (chances,) = parameters
    expected = np.stack(
        [
            stats.multivariate_normal(means[k], covariances[k]).logpdf(VALUES[:, [1, 3]])
            + stats.poisson.logpmf(VALUES[:, 0], rates[k, 0])
            + np.log(probabilities[k, 0, VALUES[:, 2].astype(int)])
            + stats.bernoulli.logpmf(VALUES[:, 4], chances[k, 0])
            for k in range(2)
        ],
        axis=1,
    )
    assert_allclose(log_densities(emission), expected, rtol=1e-10, atol=0)


def test_each_part_learns_as_if_it_were_alone():
    emission = fitted()
    emission.maximize(emission.expect(emission.features(torch.as_tensor(VALUES)), torch.as_tensor(R)))
    alone = [
        (Gaussian(2, 2), [1, 3]),
        (Poisson(2, 1), [0]),
        (Categorical(2, 1, 3, prior=2.0), [2]),
        (Bernoulli(2, 1), [4]),
    ]
    for part, (other, columns) in zip(emission.parts, alone, strict=True):
        values = torch.as_tensor(VALUES[:, columns])
        other.initialize(values, torch.as_tensor(R))
        other.maximize(other.expect(other.features(values), torch.as_tensor(R)))
        for mine, theirs in zip(part.parameters(), other.parameters(), strict=True):
            assert_array_equal(mine.detach(), theirs.detach())
    assert emission.log_prior() == sum(log_prior_of(part) for part in emission.parts) < 0
    assert emission.count_parameters() == sum(other.count_parameters() for other, _ in alone)


@pytest.mark.parametrize(
    "columns",
    [
        {(0, 1, 2): "gaussian", (3, 4): "gaussian"},
        {range(3): "gaussian", range(3, 5): "gaussian"},
        [(slice(0, 3), "gaussian"), (slice(3, None), "gaussian")],
        [([0, 1, 2], "gaussian"), (np.array([3, -1]), "gaussian")],
        [(slice(None, 3), "gaussian"), (3, "gaussian"), (np.int64(-1), "gaussian")],
    ],
)
def test_columns_can_be_written_in_many_ways(columns):
    emission = fitted(Product({(0, 1, 2): "gaussian", (3, 4): "gaussian"}))
    diagonal = [fitted(lambda k, d, c=c: Product(c)(k, d, covariance_type="diag")) for c in (columns, {range(5): "gaussian"})]
    assert_allclose(log_densities(diagonal[0]), log_densities(diagonal[1]), rtol=1e-10, atol=0)
    if len(columns) == 2:
        assert_allclose(log_densities(fitted(Product(columns))), log_densities(emission), rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({(0, 1): "gaussian", (1, 2, 3, 4): "poisson"}, "column 1 named 2 times; put every column in one group"),
        ({(0, 1): "gaussian", (3, 4): "poisson"}, "column 2 in no group; put every column in one group"),
        ({(0, 1): "gaussian", (2, 3, 4, 5): "poisson"}, r"columns \(2, 3, 4, 5\), but X has columns 0 to 4"),
        ({range(5): "gaussian", (): "poisson"}, "a group without columns"),
        ({"age": "gaussian"}, "columns 'age'; expected an int, a slice or several ints"),
        ({0.5: "gaussian"}, "columns 0.5; expected an int, a slice or several ints"),
        ({range(5): "gausian"}, "emission='gausian': expected one of 'gaussian'"),
    ],
)
def test_columns_that_are_no_partition(columns, message):
    with pytest.raises(ParameterError, match=message):
        Product(columns)(2, 5)


@pytest.mark.parametrize(
    ("column", "entry", "message"),
    [
        (2, np.nan, r"among the columns \[2\] of X, column 0 of X holds nan"),
        (0, -1.0, r"among the columns \[0\] of X, column 0 of X holds -1"),
    ],
)
def test_wrong_entries_are_named_by_the_columns_of_X(column, entry, message):
    values = VALUES.copy()
    values[7, column] = entry
    with pytest.raises(InputError, match=message):
        fitted().features(torch.as_tensor(values))
    with pytest.raises(InputError, match=message):
        MIXED(2, 5).initialize(torch.as_tensor(values), torch.as_tensor(R))


def test_samples_have_their_columns_in_place():
    emission = fitted()
    drawn = emission.sample(torch.zeros(4000, dtype=torch.int64), torch.Generator().manual_seed(0)).numpy()
    normal, counts, symbols, bits = (next(part.parameters()).detach().numpy()[0] for part in emission.parts)
    expected = [counts[0], normal[0], symbols[0] @ np.arange(3), normal[1], bits[0]]
    assert_allclose(drawn.mean(0), expected, rtol=0, atol=5 * 3.5 / np.sqrt(4000))
    assert set(np.unique(drawn[:, 2])) == {0.0, 1.0, 2.0}
    assert set(np.unique(drawn[:, 4])) == {0.0, 1.0}


def test_missing_entries_are_those_of_the_parts():
    emission, holes = fitted(), VALUES.copy()
    holes[::3, 0] = holes[::4, 4] = np.nan
    whole = log_densities(emission)
    rates, chances = (emission.parts[i] for i in (1, 3))
    dropped = np.where(np.isnan(holes[:, :1]), log_densities(rates, VALUES[:, :1]), 0)
    dropped = dropped + np.where(np.isnan(holes[:, 4:]), log_densities(chances, VALUES[:, 4:]), 0)
    assert_allclose(log_densities(emission, holes), whole - dropped, rtol=1e-10, atol=1e-12)
    filled = emission.impute(torch.as_tensor(holes), torch.as_tensor(R)).numpy()
    assert_allclose(filled[::3, 0], R[::3] @ rates.rates.detach().numpy()[:, 0], rtol=1e-12, atol=0)
    assert_allclose(filled[::4, 4], R[::4] @ chances.means.detach().numpy()[:, 0], rtol=1e-12, atol=0)
    assert_array_equal(filled[:, 1:4], VALUES[:, 1:4])
    assert np.isnan(holes).any(), "the input is left alone"


def test_mixed_columns_tell_classes_apart_better_than_any_part():
    batches = Batches(MemoryRows(VALUES), batch_steps=64)
    model = Mixture(MIXED(2, 5))
    model.initialize(batches, torch.Generator().manual_seed(0))
    objective = em(model, batches, max_iter=60, tol=0.0).objective
    assert (np.diff(objective) >= -1e-12).all()
    found = torch.cat([model.posterior(batch).responsibilities.argmax(1) for batch in batches]).numpy()
    agreement = (found == CLASSES).mean()
    assert max(agreement, 1 - agreement) > 0.85


def test_moments_are_those_of_the_parts_that_have_them():
    emission = Product({1: "poisson", 0: partial(Categorical, n_categories=3), 2: "bernoulli"})(2, 3)
    with torch.no_grad():
        emission.parts[0].rates.fill_(4.0)
    means, variances = emission.moments()
    assert_array_equal(means.detach(), [[np.nan, 4.0, 0.5]] * 2)
    assert_array_equal(variances.detach(), [[np.nan, 4.0, 0.25]] * 2)


def test_it_says_what_it_is():
    assert repr(Product({0: "gaussian"})) == "Product({0: 'gaussian'})"
