"""Symbols, bits and counts against scipy, hmmlearn, closed forms and sums over all classes; zeros, missing and wrong entries."""

import numpy as np
import pytest
import torch
from hmmlearn import hmm
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats
from scipy.special import logsumexp

from unveil.data.batch import Batch, Batches, MemoryRows
from unveil.emissions.bernoulli import Bernoulli
from unveil.emissions.categorical import Categorical
from unveil.emissions.poisson import Poisson
from unveil.errors import InputError, ParameterError
from unveil.learn.em import em
from unveil.models.chain_mixture import ChainMixture
from unveil.models.gaussian_mixture import Mixture

RNG = np.random.default_rng(0)
PROBABILITIES = RNG.dirichlet(np.ones(5), size=(3, 4))  # 3 classes, 4 columns, 5 symbols
SYMBOLS = RNG.integers(5, size=(60, 4)).astype(float)
MEANS = RNG.random((3, 4))
BITS = (RNG.random((60, 4)) < 0.4).astype(float)
RATES = RNG.gamma(2.0, 2.0, size=(3, 4))
COUNTS = RNG.poisson(3.0, size=(60, 4)).astype(float)
START = np.array([0.5, 0.3, 0.2])
TRANSITIONS = np.array([[0.8, 0.15, 0.05], [0.1, 0.7, 0.2], [0.3, 0.1, 0.6]])


def with_parameters(emission, **values):
    with torch.no_grad():
        for name, value in values.items():
            getattr(emission, name).copy_(torch.as_tensor(value))
    return emission


def categorical(columns=4, **settings):
    emission = Categorical(3, columns, n_categories=5, **settings)
    return with_parameters(emission, probabilities=PROBABILITIES[:, :columns])


def bernoulli(columns=4, **settings):
    return with_parameters(Bernoulli(3, columns, **settings), means=MEANS[:, :columns])


def poisson(columns=4, **settings):
    return with_parameters(Poisson(3, columns, **settings), rates=RATES[:, :columns])


def log_densities(emission, values):
    with torch.no_grad():
        return emission.log_density(emission.features(torch.as_tensor(values))).numpy()


def step(emission, values, r):
    emission.maximize(emission.expect(emission.features(torch.as_tensor(values)), torch.as_tensor(r)))
    return emission


def with_holes(values, share=0.3, seed=5):
    holes = np.random.default_rng(seed).random(values.shape) < share
    return np.where(holes, np.nan, values)


def chain(emission):
    return with_parameters(ChainMixture(1, 3, emission), initial=START[None], transition=TRANSITIONS[None])


def theirs(kind, **parameters):
    model = kind(3, init_params="")
    model.startprob_, model.transmat_ = START, TRANSITIONS
    for name, value in parameters.items():
        setattr(model, name, value)
    return model


# ---- densities ---------------------------------------------------------------------------------------------------------


def test_categorical_densities_against_scipy():
    expected = [
        [sum(stats.rv_discrete(values=(range(5), p)).logpmf(x) for x, p in zip(row, each, strict=True)) for each in PROBABILITIES]
        for row in SYMBOLS
    ]
    assert_allclose(log_densities(categorical(), SYMBOLS), expected, rtol=1e-12, atol=0)


def test_bernoulli_densities_against_scipy():
    expected = stats.bernoulli.logpmf(BITS[:, None], MEANS).sum(2)
    assert_allclose(log_densities(bernoulli(), BITS), expected, rtol=1e-12, atol=1e-12)


def test_poisson_densities_against_scipy():
    expected = stats.poisson.logpmf(COUNTS[:, None], RATES).sum(2)
    assert_allclose(log_densities(poisson(), COUNTS), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("emission", "values", "logpmf", "parameters"),
    [(bernoulli, BITS, stats.bernoulli.logpmf, MEANS), (poisson, COUNTS, stats.poisson.logpmf, RATES)],
    ids=["bernoulli", "poisson"],
)
def test_missing_entries_contribute_nothing(emission, values, logpmf, parameters):
    """Each pattern of missing columns is a model of the others."""
    holes = with_holes(values)
    expected = np.nansum(logpmf(holes[:, None], parameters), axis=2)
    assert np.isnan(holes).any()
    assert_allclose(log_densities(emission(), holes), expected, rtol=1e-12, atol=1e-12)
    without = values.copy()
    without[:, 2:] = np.nan
    assert_allclose(log_densities(emission(), without), log_densities(emission(2), values[:, :2]), rtol=1e-12, atol=1e-12)
    everything = np.full_like(values, np.nan)
    assert_array_equal(log_densities(emission(), everything), np.zeros((60, 3)))


# ---- maximisers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prior", [1.0, 3.0])
def test_categorical_maximiser_is_weighted_frequencies(prior):
    r = RNG.dirichlet(np.ones(3), size=60)
    found = step(categorical(prior=prior), SYMBOLS, r).probabilities.detach().numpy()
    for k in range(3):
        for d in range(4):
            counts = np.bincount(SYMBOLS[:, d].astype(int), weights=r[:, k], minlength=5) + prior - 1
            assert_allclose(found[k, d], counts / counts.sum(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("prior", [1.0, 3.0])
def test_bernoulli_maximiser_is_weighted_frequencies_of_what_is_seen(prior):
    r, holes = RNG.dirichlet(np.ones(3), size=60), with_holes(BITS)
    found = step(bernoulli(prior=prior), holes, r).means.detach().numpy()
    seen = r.T @ ~np.isnan(holes)
    assert_allclose(found, (r.T @ np.nan_to_num(holes) + prior - 1) / (seen + 2 * (prior - 1)), rtol=1e-12, atol=0)


@pytest.mark.parametrize("prior", [None, (2.5, 0.7)])
def test_poisson_maximiser_is_weighted_means_of_what_is_seen(prior):
    r, holes = RNG.dirichlet(np.ones(3), size=60), with_holes(COUNTS)
    shape, rate = prior or (1.0, 0.0)
    found = step(poisson(prior=prior), holes, r).rates.detach().numpy()
    seen = r.T @ ~np.isnan(holes)
    assert_allclose(found, (r.T @ np.nan_to_num(holes) + shape - 1) / (seen + rate), rtol=1e-12, atol=0)


def test_priors_are_scipys_up_to_a_constant():
    other = np.random.default_rng(1)
    for made, logpdf in (
        (lambda: with_parameters(Bernoulli(3, 4, prior=2.5), means=other.random((3, 4))), stats.beta(2.5, 2.5).logpdf),
        (
            lambda: with_parameters(Poisson(3, 4, prior=(2.5, 0.7)), rates=other.gamma(2.0, size=(3, 4))),
            stats.gamma(2.5, scale=1 / 0.7).logpdf,
        ),
        (
            lambda: with_parameters(Categorical(3, 4, 5, prior=2.5), probabilities=other.dirichlet(np.ones(5), size=(3, 4))),
            lambda p: np.array([stats.dirichlet(np.full(5, 2.5)).logpdf(each) for each in p.reshape(-1, 5)]),
        ),
    ):
        first, second = made(), made()
        values = [logpdf(next(each.parameters()).detach().numpy()).sum() for each in (first, second)]
        assert_allclose(first.log_prior() - second.log_prior(), values[0] - values[1], rtol=1e-10, atol=0)


@pytest.mark.parametrize("emission", [categorical, bernoulli, poisson])
def test_without_a_prior_there_is_none(emission):
    assert emission().log_prior() == 0.0


# ---- zeros -------------------------------------------------------------------------------------------------------------


def test_forbidden_symbols_stay_forbidden_and_their_gradient_is_zero():
    probabilities = PROBABILITIES[:, :1].copy()
    probabilities[1, 0, 2:] = 0.0
    probabilities /= probabilities.sum(2, keepdims=True)
    emission = with_parameters(Categorical(3, 1, 5, prior=2.0), probabilities=probabilities)
    found = log_densities(emission, SYMBOLS[:, :1])
    assert_array_equal(found[:, 1] == -np.inf, SYMBOLS[:, 0] >= 2)
    r = np.exp(found - logsumexp(found, axis=1, keepdims=True))
    step(emission, SYMBOLS[:, :1], r)
    assert_array_equal(emission.probabilities[1, 0, 2:].detach(), np.zeros(3))
    assert_allclose(emission.probabilities.detach().sum(2), np.ones((3, 1)), rtol=1e-12, atol=0)
    assert np.isfinite(emission.log_prior())
    torch.logsumexp(emission.log_density(emission.features(torch.as_tensor(SYMBOLS[:, :1]))), 1).sum().backward()
    assert torch.isfinite(emission.probabilities.grad).all()
    assert_array_equal(emission.probabilities.grad[1, 0, 2:], np.zeros(3))


def test_certain_bits_stay_certain():
    means = MEANS.copy()
    means[0, 0], means[1, 1] = 0.0, 1.0
    emission = with_parameters(Bernoulli(3, 4, prior=2.0), means=means)
    found = log_densities(emission, with_holes(BITS, 0.1))
    with np.errstate(divide="ignore"):
        expected = np.nansum(stats.bernoulli.logpmf(with_holes(BITS, 0.1)[:, None], means), axis=2)
    assert (expected == -np.inf).any()
    assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
    r = np.exp(found - logsumexp(found, axis=1, keepdims=True))
    step(emission, with_holes(BITS, 0.1), r)
    assert emission.means[0, 0] == 0.0
    assert emission.means[1, 1] == 1.0
    assert np.isfinite(emission.log_prior())
    torch.logsumexp(emission.log_density(emission.features(torch.as_tensor(BITS))), 1).sum().backward()
    assert torch.isfinite(emission.means.grad).all()


def test_a_rate_never_vanishes():
    emission = step(poisson(), np.zeros((60, 4)), np.full((60, 3), 1 / 3))
    assert (emission.rates > 0).all()
    assert np.isfinite(log_densities(emission, COUNTS)).all()
    assert np.isfinite(log_densities(with_parameters(poisson(), rates=np.zeros((3, 4))), COUNTS)).all()


def test_symbols_that_no_class_was_given_at_the_start_can_still_be_learned():
    """A hard first assignment by k-means gives each class its own symbols; with zeros EM could never leave that."""
    labels = np.arange(60) % 3
    symbols = torch.as_tensor(labels[:, None].astype(float))
    emission = Categorical(3, 1, n_categories=4)
    emission.initialize(symbols, torch.nn.functional.one_hot(torch.as_tensor(labels), 3).double())
    assert (emission.probabilities > 0).all()
    assert_array_equal(emission.probabilities[:, 0].argmax(1), np.arange(3))
    bits = Bernoulli(2, 1)
    bits.initialize(torch.tensor([[0.0], [1.0]]).double(), torch.eye(2).double())
    assert 0 < bits.means[0] < 0.5 < bits.means[1] < 1


# ---- what is missing, and what is wrong --------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "values"), [(Bernoulli, BITS), (Poisson, COUNTS)])
def test_a_start_and_a_step_with_missing_columns(family, values):
    """Class 2 sees nothing of column 1: its parameter there is that of all classes at the start, and then stays."""
    holes = values.copy()
    r = np.eye(3)[np.arange(60) % 3]
    holes[r[:, 2] == 1, 1] = np.nan
    emission = family(3, 4)
    emission.initialize(torch.as_tensor(holes), torch.as_tensor(r))
    parameter = next(emission.parameters()).detach()
    assert torch.isfinite(parameter).all()
    assert_allclose(float(parameter[2, 1]), np.nanmean(holes[:, 1]), rtol=0.05, atol=0)
    before = float(parameter[2, 1])
    step(emission, holes, r)
    assert float(parameter[2, 1]) == before
    assert_allclose(parameter[2, 0], holes[r[:, 2] == 1, 0].mean(), rtol=1e-12, atol=0)


@pytest.mark.parametrize(("emission", "values"), [(bernoulli, BITS), (poisson, COUNTS)])
def test_missing_entries_are_imputed_by_their_expectation(emission, values):
    holes, family = with_holes(values), emission()
    before = holes.copy()
    parameter = next(family.parameters()).detach().numpy()
    r = RNG.dirichlet(np.ones(3), size=60)
    found = family.impute(torch.as_tensor(holes), torch.as_tensor(r)).numpy()
    assert_allclose(found, np.where(np.isnan(holes), r @ parameter, values), rtol=1e-12, atol=0)
    assert_array_equal(holes, before)


@pytest.mark.parametrize(
    ("emission", "expected"),
    [(bernoulli(), stats.bernoulli(MEANS).stats()), (poisson(), stats.poisson(RATES).stats())],
    ids=["bernoulli", "poisson"],
)
def test_moments_against_scipy(emission, expected):
    for mine, other in zip(emission.moments(), expected, strict=True):
        assert_allclose(mine.detach(), other, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("emission", "entry", "message"),
    [
        (categorical(), np.nan, "column 2 of X holds nan; expected whole numbers from 0; code the categories, NaN too"),
        (categorical(), -1.0, "column 2 of X holds -1; expected whole numbers"),
        (categorical(), 0.5, "column 2 of X holds 0.5; expected whole numbers"),
        (categorical(), np.inf, "column 2 of X holds inf; expected whole numbers"),
        (categorical(), 7.0, "column 2 of X holds 7; the model knows 5 categories, from 0; pass n_categories=8"),
        (Categorical(3, 4, (5, 5, 2, 5)), 2.0, "column 2 of X holds .*knows .5, 5, 2, 5. categories"),
        (bernoulli(), 2.0, "column 2 of X holds 2; expected 0, 1 or NaN"),
        (bernoulli(), -1.0, "column 2 of X holds -1; expected 0, 1 or NaN"),
        (poisson(), -1.0, "column 2 of X holds -1; expected whole numbers from 0, or NaN"),
        (poisson(), 1.5, "column 2 of X holds 1.5; expected whole numbers from 0, or NaN"),
    ],
)
def test_wrong_entries_are_named(emission, entry, message):
    values = torch.zeros(6, 4, dtype=torch.float64)
    values[3, 2] = entry
    with pytest.raises(InputError, match=message):
        emission.features(values)
    with pytest.raises(InputError, match=message):
        emission.initialize(values, torch.full((6, 3), 1 / 3, dtype=torch.float64))


@pytest.mark.parametrize("entry", [np.nan, -1.0, 0.5])
def test_wrong_symbols_are_named_where_the_categories_are_to_be_found(entry):
    values = torch.tensor([[0.0], [entry]], dtype=torch.float64)
    with pytest.raises(InputError, match=r"column 0 of X holds .*; expected whole numbers from 0"):
        Categorical(2, 1).initialize(values, torch.ones(2, 2, dtype=torch.float64))


def test_a_symbol_that_is_met_after_the_start_is_an_error_with_a_remedy():
    emission = Categorical(2, 1)
    emission.initialize(torch.tensor([[0.0], [2.0]]).double(), torch.eye(2).double())
    with pytest.raises(InputError, match="column 0 of X holds 3; the model knows 3 categories, from 0; pass n_categories=4"):
        emission.features(torch.tensor([[3.0]]).double())


def test_categories_of_each_column_are_found():
    emission = Categorical(2, 2)
    emission.initialize(torch.tensor([[0.0, 1.0], [2.0, 0.0]]).double(), torch.eye(2).double())
    assert_array_equal(emission.n_symbols, [3, 2])
    assert emission.probabilities.shape == (2, 2, 3)
    assert_array_equal(emission.probabilities[:, 1, 2].detach(), [0.0, 0.0])
    assert emission.count_parameters() == 2 * (2 + 1)
    emission.initialize(torch.tensor([[0.0, 1.0], [4.0, 0.0]]).double(), torch.eye(2).double())  # another start sees more
    assert emission.count_parameters() == 2 * (4 + 1)


def test_given_categories_must_fit_what_is_loaded():
    with pytest.raises(RuntimeError, match="size mismatch"):
        Categorical(3, 4, n_categories=3).load_state_dict(categorical().state_dict())
    with pytest.raises(RuntimeError, match="size mismatch"):
        Categorical(3, 2).load_state_dict(categorical().state_dict())


@pytest.mark.parametrize(
    ("family", "settings", "message"),
    [
        (Categorical, {"prior": 0.5}, "prior=0.5: expected a number >= 1"),
        (Categorical, {"n_categories": 0}, "n_categories=0"),
        (Categorical, {"n_categories": (3, 3)}, "has 2 numbers; expected one for each of 4 columns"),
        (Bernoulli, {"prior": 0.0}, "prior=0.0: expected a number >= 1"),
        (Poisson, {"prior": 2.0}, "prior=2.0: expected None or the pair"),
        (Poisson, {"prior": (0.5, 1.0)}, "prior shape=0.5"),
        (Poisson, {"prior": (2.0, -1.0)}, "prior rate=-1.0"),
    ],
)
def test_settings_out_of_range(family, settings, message):
    with pytest.raises(ParameterError, match=message):
        family(3, 4, **settings)


# ---- in models ---------------------------------------------------------------------------------------------------------


def test_a_categorical_mixture_against_the_sum_over_classes():
    model = with_parameters(Mixture(categorical()), weights=START)
    batch = Batch(torch.as_tensor(SYMBOLS), torch.arange(61))
    by_class = np.prod(PROBABILITIES[:, np.arange(4), SYMBOLS.astype(int)], axis=2).T  # (60, 3)
    joint = START * by_class
    assert_allclose(model.objective(batch).detach(), np.log(joint.sum(1)), rtol=1e-12, atol=0)
    assert_allclose(model.posterior(batch).responsibilities, joint / joint.sum(1, keepdims=True), rtol=1e-10, atol=0)
    assert_allclose(model.expect(batch).log_likelihood, np.log(joint.sum(1)).sum(), rtol=1e-12, atol=0)


def test_latent_classes_are_found_again():
    """A mixture of bits, from its samples: each mean within five standard errors."""
    truth = np.array([[0.9, 0.1, 0.8, 0.2, 0.9, 0.1], [0.1, 0.9, 0.3, 0.7, 0.2, 0.6]])
    drawn = with_parameters(Mixture(Bernoulli(2, 6)), weights=[0.4, 0.6])
    with_parameters(drawn.emission, means=truth)
    values = drawn.sample(6000, 1, torch.Generator().manual_seed(0)).values
    model = Mixture(Bernoulli(2, 6))
    model.initialize(Batches(MemoryRows(values)), torch.Generator().manual_seed(0))
    em(model, Batches(MemoryRows(values)), max_iter=200, tol=1e-9)
    order = model.emission.means[:, 0].argsort(descending=True)
    assert_allclose(model.emission.means[order].detach(), truth, rtol=0, atol=5 * np.sqrt(0.25 / 2400) * 1.5)


@pytest.mark.parametrize(
    ("emission", "values", "other"),
    [
        (categorical(1), SYMBOLS[:, :1], theirs(hmm.CategoricalHMM, emissionprob_=PROBABILITIES[:, 0], n_features=5)),
        (poisson(2), COUNTS[:, :2], theirs(hmm.PoissonHMM, lambdas_=RATES[:, :2])),
    ],
    ids=["categorical", "poisson"],
)
def test_chains_against_hmmlearn(emission, values, other):
    lengths = [1, 24, 35]
    batch = Batch(torch.as_tensor(values), torch.tensor([0, 1, 25, 60]))
    model = chain(emission)
    whole = values.astype(int)
    assert_allclose(model.objective(batch).sum().item(), other.score(whole, lengths), rtol=1e-10, atol=0)
    posterior = model.posterior(batch)
    assert_allclose(posterior.states[:, 0], other.predict_proba(whole, lengths), rtol=1e-8, atol=1e-12)
    path, _ = model.viterbi(batch)
    assert_array_equal(path, other.predict(whole, lengths))


@pytest.mark.parametrize("kind", ["categorical", "poisson"])
def test_em_steps_against_hmmlearn(kind):
    lengths, offsets = [20, 40], torch.tensor([0, 20, 60])
    if kind == "categorical":
        emission, values = categorical(1), SYMBOLS[:, :1]
        other, name = theirs(hmm.CategoricalHMM, emissionprob_=PROBABILITIES[:, 0].copy(), n_features=5), "emissionprob_"
    else:
        emission, values = poisson(2), COUNTS[:, :2]
        other, name = theirs(hmm.PoissonHMM, lambdas_=RATES[:, :2].copy()), "lambdas_"
    other.n_iter, other.tol = 5, -np.inf
    other.fit(values.astype(int), lengths)
    model = chain(emission)
    em(model, [Batch(torch.as_tensor(values), offsets)], max_iter=5, tol=0.0)
    parameter = next(model.emission.parameters()).detach().squeeze(1)
    assert_allclose(parameter, getattr(other, name), rtol=1e-7, atol=1e-10)
    assert_allclose(model.transition[0].detach(), other.transmat_, rtol=1e-7, atol=1e-10)


def test_a_chain_with_forbidden_symbols_against_all_paths():
    probabilities = PROBABILITIES[:, :1].copy()
    probabilities[0, 0, :2], probabilities[2, 0, 3:] = 0.0, 0.0
    probabilities /= probabilities.sum(2, keepdims=True)
    model = chain(with_parameters(Categorical(3, 1, 5), probabilities=probabilities))
    symbols = np.array([0, 4, 1, 3, 2])
    alpha = START * probabilities[:, 0, symbols[0]]
    for symbol in symbols[1:]:
        alpha = (alpha @ TRANSITIONS) * probabilities[:, 0, symbol]
    batch = Batch(torch.as_tensor(symbols[:, None].astype(float)), torch.tensor([0, 5]))
    assert_allclose(model.objective(batch).item(), np.log(alpha.sum()), rtol=1e-12, atol=0)
    model.maximize(model.expect(batch))
    assert (model.emission.probabilities[0, 0, :2] == 0).all()
    assert (model.emission.probabilities[2, 0, 3:] == 0).all()
