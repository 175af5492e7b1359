"""States of different fits under one numbering: the same distribution, other names."""

import itertools

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import multivariate_normal

from unveil.emissions.product import Product
from unveil.errors import ParameterError
from unveil.models import load
from unveil.models.gaussian_hmm import GaussianHMM
from unveil.models.gaussian_mixture import GaussianMixture
from unveil.models.hmm import HMM
from unveil.models.mixture_of_hmms import MixtureOfHMMs
from unveil.models.nmf import NMF
from unveil.selection import align_states, permute_states

ORDER = [2, 0, 1]
COVARIANCES = ["full", "tied", "diag", "spherical"]


@pytest.fixture
def points():
    rng = np.random.default_rng(0)
    return np.concatenate([rng.normal(centre, 1, size=(n, 3)) for centre, n in ((-5, 30), (0, 50), (5, 70))])


@pytest.fixture
def sequences():
    rng = np.random.default_rng(0)
    return [rng.normal(np.repeat([0.0, 4.0, -4.0, 0.0], n)[:, None], 1.0, size=(4 * n, 3)) for n in (5, 7, 3)]


def fitted(estimator, X):
    return estimator.set_params(random_state=0, max_iter=5, tol=0).fit(X)


@pytest.mark.parametrize("covariance_type", COVARIANCES)
def test_a_mixture_of_renumbered_components_is_the_same(points, covariance_type):
    mixture = fitted(GaussianMixture(3, covariance_type=covariance_type), points)
    permuted = permute_states(mixture, ORDER)
    assert_allclose(permuted.score_samples(points), mixture.score_samples(points), rtol=1e-10, atol=0)
    assert_array_equal(permuted.predict(points), np.argsort(ORDER)[mixture.predict(points)])
    assert_array_equal(permuted.means_, mixture.means_[ORDER])
    assert_array_equal(permuted.weights_, mixture.weights_[ORDER])
    expected = mixture.covariances_ if covariance_type == "tied" else mixture.covariances_[ORDER]
    assert_array_equal(permuted.covariances_, expected)


@pytest.mark.parametrize("covariance_type", COVARIANCES)
def test_a_chain_of_renumbered_states_is_the_same(sequences, covariance_type):
    hmm = fitted(GaussianHMM(3, covariance_type=covariance_type), sequences)
    permuted = permute_states(hmm, ORDER)
    assert_allclose(permuted.score_samples(sequences), hmm.score_samples(sequences), rtol=1e-10, atol=0)
    for new, old in zip(permuted.predict(sequences), hmm.predict(sequences), strict=True):
        assert_array_equal(new, np.argsort(ORDER)[old])
    assert_array_equal(permuted.transmat_, hmm.transmat_[np.ix_(ORDER, ORDER)])
    assert_array_equal(permuted.startprob_, hmm.startprob_[ORDER])


@pytest.mark.parametrize("covariance_type", COVARIANCES)
def test_clusters_of_sequences_are_renumbered_with_their_chains(sequences, covariance_type):
    model = fitted(MixtureOfHMMs(2, 2, n_init=1, covariance_type=covariance_type), sequences)
    permuted = permute_states(model, [1, 0])
    assert_allclose(permuted.score_samples(sequences), model.score_samples(sequences), rtol=1e-10, atol=0)
    assert_allclose(permuted.predict_proba(sequences), model.predict_proba(sequences)[:, ::-1], rtol=1e-8, atol=1e-12)
    assert_array_equal(permuted.means_, model.means_[::-1])
    assert_array_equal(permuted.transmat_, model.transmat_[::-1])


def test_states_that_are_mixtures_or_products_are_renumbered_with_all_their_parts(sequences):
    for emission in (Product({(0, 1): "gaussian", 2: "gaussian"}), "gaussian-mixture"):
        hmm = fitted(HMM(3, emission=emission), sequences)
        permuted = permute_states(hmm, ORDER)
        assert_allclose(permuted.score_samples(sequences), hmm.score_samples(sequences), rtol=1e-10, atol=0)
        assert_array_equal(np.concatenate(permuted.predict(sequences)), np.argsort(ORDER)[np.concatenate(hmm.predict(sequences))])


def test_the_first_estimator_stays_and_the_second_can_be_saved(points, tmp_path):
    mixture = fitted(GaussianMixture(3), points)
    means = mixture.means_
    permuted = permute_states(mixture, ORDER)
    assert_array_equal(mixture.means_, means)
    permuted.save(tmp_path / "mixture.unveil")
    assert_array_equal(load(tmp_path / "mixture.unveil").means_, means[ORDER])


def test_permuting_back_gives_what_there_was(points):
    mixture = fitted(GaussianMixture(3), points)
    again = permute_states(permute_states(mixture, ORDER), np.argsort(ORDER))
    assert_array_equal(again.means_, mixture.means_)
    assert_array_equal(again.weights_, mixture.weights_)


@pytest.mark.parametrize("with_data", [False, True])
@pytest.mark.parametrize("covariance_type", COVARIANCES)
def test_a_renumbered_estimator_is_aligned_again(points, covariance_type, with_data):
    mixture = fitted(GaussianMixture(3, covariance_type=covariance_type), points)
    other = permute_states(mixture, ORDER)
    permutation = align_states(mixture, other, points if with_data else None)
    assert_array_equal(permutation, np.argsort(ORDER))
    assert_array_equal(permute_states(other, permutation).means_, mixture.means_)


@pytest.mark.parametrize("form", ["list", "lengths", "parameters"])
def test_chains_are_aligned(sequences, form):
    hmm = fitted(GaussianHMM(3), sequences)
    other = permute_states(hmm, ORDER)
    X, lengths = {
        "list": (sequences, None),
        "lengths": (np.concatenate(sequences), [len(each) for each in sequences]),
        "parameters": (None, None),
    }[form]
    assert_array_equal(align_states(hmm, other, X, lengths=lengths), np.argsort(ORDER))


def test_clusters_of_sequences_are_aligned_on_data(sequences):
    model = fitted(MixtureOfHMMs(2, 2, n_init=1), sequences)
    assert_array_equal(align_states(model, permute_states(model, [1, 0]), sequences), [1, 0])
    with pytest.raises(ParameterError, match="not single Gaussians; give data X"):
        align_states(model, model)


def test_without_data_the_sum_of_symmetric_divergences_is_smallest():
    rng = np.random.default_rng(3)
    a, b = (GaussianMixture(3, random_state=0, max_iter=3, tol=0).fit(rng.normal(size=(60, 2))) for _ in range(2))

    def divergence(k, m):  # by quadrature: E_p[log p - log q] over a grid
        p = multivariate_normal(a.means_[k], a.covariances_[k])
        q = multivariate_normal(b.means_[m], b.covariances_[m])
        axis = np.linspace(-9, 9, 361)
        grid = np.stack(np.meshgrid(axis, axis), -1)
        return float(((p.pdf(grid) - q.pdf(grid)) * (p.logpdf(grid) - q.logpdf(grid))).sum() * (axis[1] - axis[0]) ** 2)

    costs = {order: sum(divergence(k, order[k]) for k in range(3)) for order in itertools.permutations(range(3))}
    assert tuple(align_states(a, b)) == min(costs, key=costs.get)


def test_divergences_of_different_widths_decide_where_means_are_equal():
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.normal(0, 1, size=(200, 1)), rng.normal(0, 20, size=(200, 1))])
    mixture = GaussianMixture(
        2, means_init=[[0.0], [0.0]], weights_init=[0.5, 0.5], precisions_init=[[[1.0]], [[0.01]]], max_iter=3, tol=0
    )
    mixture.fit(X)
    assert_array_equal(align_states(mixture, permute_states(mixture, [1, 0])), [1, 0])


def test_different_numbers_of_states(points):
    with pytest.raises(ParameterError, match="reference has 2 states and other 3"):
        align_states(fitted(GaussianMixture(2), points), fitted(GaussianMixture(3), points))
    with pytest.raises(ParameterError, match="3 features and other 2"):
        align_states(fitted(GaussianMixture(2), points), fitted(GaussianMixture(2), points[:, :2]))


@pytest.mark.parametrize("permutation", [[0, 1], [0, 1, 1], [0, 1, 3], [[0, 1, 2]], [0.0, 1.0, 2.5], 1])
def test_what_is_no_permutation(points, permutation):
    with pytest.raises(ParameterError, match=r"expected each of 0 \.\. 2 once"):
        permute_states(fitted(GaussianMixture(3), points), permutation)


def test_models_without_states(points):
    factorization = fitted(NMF(2), np.abs(points))
    with pytest.raises(ParameterError, match="NMF is no mixture and no hidden Markov model"):
        permute_states(factorization, [1, 0])
    with pytest.raises(ParameterError, match="NMF has no states"):
        align_states(factorization, factorization, np.abs(points))


def test_states_with_a_place_in_a_structure_stay(sequences):
    hmm = fitted(GaussianHMM(3, transitions="left-right"), sequences)
    with pytest.raises(ParameterError, match="places in a structure"):
        permute_states(hmm, ORDER)
