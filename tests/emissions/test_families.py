"""What every family of observation densities keeps to: additive, weighted statistics, the maximiser, monotone EM, fair samples."""

import copy
from dataclasses import fields
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from unveil.core.model import log_prior_of
from unveil.core.statistics import Statistics
from unveil.data.batch import Batches, MemoryRows
from unveil.emissions.bernoulli import Bernoulli
from unveil.emissions.categorical import Categorical
from unveil.emissions.gaussian import Gaussian
from unveil.emissions.mixture import GaussianMixtureEmission
from unveil.emissions.poisson import Poisson
from unveil.emissions.product import Product
from unveil.learn.em import em
from unveil.models.chain_mixture import ChainMixture
from unveil.models.gaussian_mixture import Mixture

K, D = 3, 2
MIXED = Product({(0,): "gaussian", (1,): partial(Categorical, n_categories=4, prior=1.5)})
FAMILIES = {
    "categorical": partial(Categorical, n_categories=4),
    "categorical-unknown": Categorical,
    "categorical-map": partial(Categorical, n_categories=(4, 5), prior=2.5),
    "bernoulli": Bernoulli,
    "bernoulli-map": partial(Bernoulli, prior=3.0),
    "poisson": Poisson,
    "poisson-map": partial(Poisson, prior=(3.0, 0.5)),
    "mixture-diag": partial(GaussianMixtureEmission, n_mixtures=2),
    "mixture-full": partial(GaussianMixtureEmission, n_mixtures=2, covariance_type="full"),
    "mixture-tied": partial(GaussianMixtureEmission, n_mixtures=2, covariance_type="tied"),
    "product": MIXED,
}
EXACT = [name for name in FAMILIES if "mixture" not in name]  # whose M-step is the maximiser, not only a step towards it


def draw(name, n=120, seed=0):
    rng = np.random.default_rng(seed)
    classes = rng.integers(K, size=n)
    symbols = np.array([rng.choice(4, p=[0.1, 0.2, 0.3, 0.4][c:] + [0.1, 0.2, 0.3, 0.4][:c], size=D) for c in classes])
    symbols[:4, 0] = np.arange(4)  # each symbol occurs
    symbols[:4, 1] = np.arange(4)
    normal = rng.normal(size=(n, D)) + 3.0 * classes[:, None]
    made = {
        "categorical": symbols,
        "bernoulli": rng.random((n, D)) < np.array([[0.1, 0.4], [0.5, 0.9], [0.9, 0.2]])[classes],
        "poisson": rng.poisson(np.array([[1.0, 4.0], [5.0, 2.0], [9.0, 9.0]])[classes]),
        "mixture": normal,
        "product": np.column_stack([normal[:, 0], symbols[:, 1]]),
    }[name.split("-")[0]]
    return torch.from_numpy(made.astype(float))


def responsibilities(n, seed=1):
    return torch.from_numpy(np.random.default_rng(seed).dirichlet(np.ones(K), size=n))


def started(name, seed=0):
    values = draw(name, seed=seed)
    emission = FAMILIES[name](K, D)
    emission.initialize(values, responsibilities(len(values)))
    return emission, values


def numbers(statistics):
    """All the numbers that statistics hold, nested ones too."""
    if isinstance(statistics, Statistics):
        statistics = tuple(getattr(statistics, each.name) for each in fields(statistics))
    if isinstance(statistics, tuple):
        return np.concatenate([numbers(each) for each in statistics])
    return np.ravel(np.asarray(statistics))


def log_densities(emission, values):
    return emission.log_density(emission.features(values))


def expected(emission, values, r):
    """sum_nk r_nk log p(x_n | k) + log p(parameters): what the M-step maximises."""
    with torch.no_grad():
        return float((r * log_densities(emission, values)).sum()) + log_prior_of(emission)


def perturbed(emission, rng, size):
    """The same family with every parameter moved a little, within its domain."""
    moved = copy.deepcopy(emission)
    for name, value in moved.named_parameters():
        noise = torch.from_numpy(size * rng.normal(size=value.shape))
        with torch.no_grad():
            if "probabilities" in name:
                weighted = value * noise.exp()
                value.copy_(weighted / weighted.sum(-1, keepdim=True))
            elif isinstance(moved, Bernoulli):
                value.copy_(torch.sigmoid(torch.logit(value) + noise))
            elif "covariances" in name:
                value.mul_(noise[:, :1, :1].exp())
            elif "rates" in name:
                value.mul_(noise.exp())
            else:
                value.add_(noise)
    return moved


@pytest.mark.parametrize("name", FAMILIES)
def test_statistics_add_and_weights_are_repeats(name):
    emission, values = started(name)
    r = responsibilities(len(values))
    together = numbers(emission.expect(emission.features(values), r))
    cuts = [0, 1, 50, 120]
    pieces = [emission.expect(emission.features(values[a:b]), r[a:b]) for a, b in pairwise(cuts)]
    assert_allclose(numbers(pieces[0] + (pieces[1] + pieces[2])), together, rtol=1e-10, atol=1e-10)
    twice = torch.cat([torch.arange(len(values)), torch.arange(10)])
    weights = torch.ones(len(values), 1, dtype=torch.float64)
    weights[:10] = 2.0
    repeated = emission.expect(emission.features(values[twice]), r[twice])
    weighted = emission.expect(emission.features(values), r * weights)
    assert_allclose(numbers(repeated), numbers(weighted), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", FAMILIES)
def test_statistics_do_not_depend_on_how_responsibilities_lie_in_memory(name):
    emission, values = started(name)
    r = responsibilities(len(values))
    across = emission.expect(emission.features(values), r.T.contiguous().T)
    assert_allclose(numbers(across), numbers(emission.expect(emission.features(values), r)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("size", [1e-3, 0.1, 1.0])
def test_no_other_parameters_explain_the_data_better(name, size):
    emission, values = started(name)
    r = responsibilities(len(values), seed=2)
    emission.maximize(emission.expect(emission.features(values), r))
    best = expected(emission, values, r)
    rng = np.random.default_rng(3)
    others = [expected(perturbed(emission, rng, size), values, r) for _ in range(10)]
    assert max(others) < best


@pytest.mark.parametrize("name", FAMILIES)
def test_maximize_never_lowers_what_it_should_raise(name):
    emission, values = started(name)
    for seed in range(2, 6):
        r = responsibilities(len(values), seed)
        before = expected(emission, values, r)
        emission.maximize(emission.expect(emission.features(values), r))
        assert expected(emission, values, r) >= before


@pytest.mark.parametrize("name", sorted(FAMILIES.keys() - {"mixture-tied"}))  # whose one matrix is fitted to the other classes
def test_a_class_without_data_keeps_its_parameters(name):
    emission, values = started(name)
    before = {key: value.clone() for key, value in emission.state_dict().items()}
    r = torch.zeros(len(values), K, dtype=torch.float64)
    r[:, 0] = 1.0
    emission.maximize(emission.expect(emission.features(values), r))
    for key, value in emission.named_parameters():
        classes = value.unflatten(0, (K, -1))
        earlier = before[key].unflatten(0, (K, -1))
        assert_array_equal(classes[1:].detach(), earlier[1:])
        assert not torch.equal(classes[0], earlier[0])


def directions(emission, rng):
    """A direction for each parameter in which it can move: zeros stay zero, matrices stay symmetric."""
    found = []
    for value in emission.parameters():
        direction = torch.from_numpy(rng.normal(size=value.shape)) * (value.detach() != 0)
        is_matrix = value.ndim > 1 and torch.equal(value, value.mT)
        found.append((direction + direction.mT) / 2 if is_matrix else direction)
    return found


def moved(emission, along, step):
    there = copy.deepcopy(emission)
    with torch.no_grad():
        for value, direction in zip(there.parameters(), along, strict=True):
            value.add_(step * direction)
    return there


@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_are_those_of_finite_differences(name):
    emission, values = started(name)
    r = responsibilities(len(values))
    (r * log_densities(emission, values)).sum().backward()
    rng = np.random.default_rng(4)
    for _ in range(5):
        along = directions(emission, rng)
        slope = sum(float((each.grad * direction).sum()) for each, direction in zip(emission.parameters(), along, strict=True))
        ends = []
        with torch.no_grad():
            for step in (1e-5, -1e-5):
                ends.append(float((r * log_densities(moved(emission, along, step), values)).sum()))
        assert_allclose(slope, (ends[0] - ends[1]) / 2e-5, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_samples_have_the_density_that_they_are_drawn_from(name):
    """A fit to samples of each class beats the drawer on them, and by no more than chance: about half a nat for each parameter."""
    emission, _ = started(name)
    classes = torch.arange(K).repeat_interleave(1000)
    drawn = emission.sample(classes, torch.Generator().manual_seed(0))
    assert drawn.shape == (3000, D)
    assert drawn.dtype == torch.float64
    r = torch.nn.functional.one_hot(classes, K).double()
    fitted = copy.deepcopy(emission)
    for _ in range(1 if name in EXACT else 10):
        fitted.maximize(fitted.expect(fitted.features(drawn), r))
    gain = expected(fitted, drawn, r) - expected(emission, drawn, r)
    assert 0 <= gain < 2 * emission.count_parameters()


@pytest.mark.parametrize("name", FAMILIES)
def test_draws_repeat_with_the_generator_and_only_with_it(name):
    emission, _ = started(name)
    classes = torch.arange(K).repeat(50)
    first, again, other = (emission.sample(classes, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert_array_equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("structure", ["mixture", "chain"])
def test_em_is_monotone(name, structure):
    values = draw(name).numpy()
    emission = FAMILIES[name](K, D)
    if structure == "mixture":
        model, batches = Mixture(emission), Batches(MemoryRows(values), batch_steps=50)
    else:
        model, batches = ChainMixture(1, K, emission), Batches(MemoryRows(values), np.array([0, 1, 30, 90, 120]), batch_steps=50)
    model.initialize(batches, torch.Generator().manual_seed(0))
    objective = np.array(em(model, batches, max_iter=15, tol=0.0).objective)
    assert (np.diff(objective) >= -1e-12 * np.abs(objective[1:])).all()
    assert objective[-1] > objective[0]


@pytest.mark.parametrize("name", FAMILIES)
def test_state_loads_into_a_new_model(name):
    emission, values = started(name)
    other = FAMILIES[name](K, D)
    other.load_state_dict(emission.state_dict())
    assert_array_equal(log_densities(other, values).detach(), log_densities(emission, values).detach())
    assert other.count_parameters() == emission.count_parameters()


@pytest.mark.parametrize("name", FAMILIES)
def test_float32_is_as_float64(name):
    emission, values = started(name)
    values = values.float()
    assert_array_equal(log_densities(emission, values).detach(), log_densities(emission, values.double()).detach())


@pytest.mark.parametrize("name", FAMILIES)
def test_inputs_are_left_alone(name):
    values = draw(name)
    r = responsibilities(len(values))
    before = values.clone(), r.clone()
    emission = FAMILIES[name](K, D)
    emission.initialize(values, r)
    emission.expect(emission.features(values), r)
    assert_array_equal(values, before[0])
    assert_array_equal(r, before[1])


@pytest.mark.parametrize(
    ("emission", "n_parameters"),
    [
        (Categorical(3, 2, 4), 3 * 2 * 3),
        (Categorical(3, 2, (4, 2)), 3 * (3 + 1)),
        (Bernoulli(3, 5), 15),
        (Poisson(3, 5), 15),
        (GaussianMixtureEmission(4, 2, n_mixtures=3), 4 * 2 + 12 * 4),
        (GaussianMixtureEmission(4, 2, n_mixtures=3, covariance_type="tied"), 4 * 2 + 12 * 2 + 3),
        (MIXED(3, 2), 3 * 2 + 3 * 3),
    ],
    ids=lambda each: type(each).__name__,
)
def test_free_parameters_are_counted(emission, n_parameters):
    assert emission.count_parameters() == n_parameters


def test_with_one_density_a_mixture_is_gaussian():
    values = draw("mixture")
    for covariance_type in ("diag", "full", "tied", "spherical"):
        models = [
            Mixture(GaussianMixtureEmission(K, D, 1, covariance_type)),
            Mixture(Gaussian(K, D, covariance_type)),
        ]
        histories = []
        for model in models:
            model.initialize(Batches(MemoryRows(values)), torch.Generator().manual_seed(0))
            histories.append(em(model, Batches(MemoryRows(values)), max_iter=5, tol=0.0).objective)
        assert_allclose(*histories, rtol=1e-12, atol=0)
        assert models[0].count_parameters() == models[1].count_parameters()
