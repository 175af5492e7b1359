"""Information criteria beside other libraries', at the same parameters, and beside sums over all latent paths."""

import itertools

import numpy as np
import pytest
from hmmlearn import hmm as hmmlearn_hmm
from numpy.testing import assert_allclose
from scipy.stats import norm
from sklearn.mixture import GaussianMixture as SklearnMixture

from unveil.core.criteria import CriteriaMixin, information_criteria
from unveil.data.batch import Batches, MemoryRows
from unveil.data.layout import offsets_of
from unveil.errors import ParameterError
from unveil.models.gaussian_hmm import GaussianHMM
from unveil.models.gaussian_mixture import GaussianMixture
from unveil.models.mixture_of_hmms import MixtureOfHMMs
from unveil.models.nmf import NMF
from unveil.models.ppca import PPCA


class FactorizationWithCriteria(CriteriaMixin, NMF):
    pass


@pytest.fixture
def points():
    rng = np.random.default_rng(0)
    return np.concatenate([rng.normal(0, 1, size=(80, 3)), rng.normal(2, 0.7, size=(50, 3))])


@pytest.fixture
def sequences():
    rng = np.random.default_rng(1)
    return [rng.normal(np.repeat([0.0, 2.5, 0.0], n)[:, None], 1.0, size=(3 * n, 2)) for n in (3, 5, 8, 1)]


def as_sklearn(mixture, X):
    """scikit-learn's mixture at the same parameters, not fitted."""
    peer = SklearnMixture(mixture.n_components, covariance_type=mixture.covariance_type)
    peer.weights_, peer.means_, peer.covariances_ = mixture.weights_, mixture.means_, mixture.covariances_
    peer.precisions_cholesky_ = mixture.precisions_cholesky_
    return peer


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "spherical"])
def test_of_a_mixture_bic_and_aic_are_those_of_scikit_learn(points, covariance_type):
    mixture = GaussianMixture(2, covariance_type=covariance_type, random_state=0).fit(points)
    peer = as_sklearn(mixture, points)
    assert_allclose(mixture.bic(points), peer.bic(points), rtol=1e-10, atol=0)
    assert_allclose(mixture.aic(points), peer.aic(points), rtol=1e-10, atol=0)


@pytest.mark.parametrize("covariance_type", ["diag", "full"])
def test_of_a_hidden_markov_model_bic_and_aic_are_those_of_hmmlearn(sequences, covariance_type):
    hmm = GaussianHMM(2, covariance_type=covariance_type, random_state=0, max_iter=3, tol=0).fit(sequences)
    peer = hmmlearn_hmm.GaussianHMM(2, covariance_type=covariance_type)
    peer.startprob_, peer.transmat_, peer.means_, peer.n_features = hmm.startprob_, hmm.transmat_, hmm.means_, 2
    peer.covars_ = hmm.covariances_
    X, lengths = np.concatenate(sequences), [len(each) for each in sequences]
    assert_allclose(hmm.bic(sequences), peer.bic(X, lengths), rtol=1e-10, atol=0)
    assert_allclose(hmm.aic(sequences), peer.aic(X, lengths), rtol=1e-10, atol=0)
    assert_allclose(hmm.bic(X, lengths=lengths), peer.bic(X, lengths), rtol=1e-10, atol=0)


def test_of_a_mixture_icl_is_that_of_the_most_probable_components(points):
    mixture = GaussianMixture(2, covariance_type="diag", random_state=0).fit(points)
    joint = norm.logpdf(points[:, None], mixture.means_, np.sqrt(mixture.covariances_)).sum(2) + np.log(mixture.weights_)
    n_parameters = 1 + 2 * 3 + 2 * 3
    assert_allclose(mixture.icl(points), -2 * joint.max(1).sum() + n_parameters * np.log(len(points)), rtol=1e-10, atol=0)
    assert mixture.icl(points) > mixture.bic(points)


def test_of_a_hidden_markov_model_icl_is_that_of_the_best_of_all_paths(sequences):
    short = [each[:5] for each in sequences]
    hmm = GaussianHMM(2, random_state=0, max_iter=3, tol=0).fit(short)

    def log_joint(x, path):
        chain = np.log(hmm.startprob_[path[0]]) + np.log(hmm.transmat_[path[:-1], path[1:]]).sum()
        return chain + norm.logpdf(x, hmm.means_[path], np.sqrt(hmm.covariances_[path])).sum()

    best = [max(log_joint(x, np.array(path)) for path in itertools.product(range(2), repeat=len(x))) for x in short]
    n_parameters = 1 + 2 + 4 + 4
    n_steps = sum(map(len, short))
    assert_allclose(hmm.icl(short), -2 * sum(best) + n_parameters * np.log(n_steps), rtol=1e-10, atol=0)


def test_of_clusters_of_sequences_icl_is_that_of_the_most_probable_clusters(sequences):
    clusters = MixtureOfHMMs(2, 2, n_init=1, random_state=0, max_iter=2, tol=0).fit(sequences)
    certain = np.log(clusters.predict_proba(sequences).max(1)).sum()
    assert certain < -1e-6, "clusters that are certain would test nothing"
    assert_allclose(clusters.icl(sequences), clusters.bic(sequences) - 2 * certain, rtol=1e-10, atol=0)


def test_the_price_of_a_parameter_grows_with_steps_and_not_with_sequences(sequences):
    hmm = GaussianHMM(2, random_state=0, max_iter=2, tol=0).fit(sequences)
    difference = hmm.bic(sequences) - hmm.aic(sequences)
    assert_allclose(difference, 11 * (np.log(sum(map(len, sequences))) - 2), rtol=1e-9, atol=0)


def test_an_item_of_weight_two_counts_as_two_items(points):
    mixture = GaussianMixture(2, random_state=0).fit(points)
    weighted = Batches(MemoryRows(points), weights=np.repeat([2.0, 1.0], [10, len(points) - 10]), batch_steps=37)
    repeated = np.concatenate([points[:10], points])
    for name in ("bic", "aic", "icl"):
        assert_allclose(getattr(mixture, name)(weighted), getattr(mixture, name)(repeated), rtol=1e-10, atol=0)


def test_data_in_batches_gives_the_same(sequences):
    hmm = GaussianHMM(2, random_state=0, max_iter=2, tol=0).fit(sequences)
    rows, offsets = MemoryRows(np.concatenate(sequences)), offsets_of([len(each) for each in sequences])
    for name in ("bic", "aic", "icl"):
        expected = getattr(hmm, name)(sequences)
        assert_allclose(getattr(hmm, name)(Batches(rows, offsets, batch_steps=10)), expected, rtol=1e-12, atol=0)


def test_a_model_that_does_not_count_its_parameters_has_no_criteria():
    X = np.random.default_rng(0).random((20, 4))
    factorization = FactorizationWithCriteria(2, max_iter=5, tol=0).fit(X)
    for criterion in (factorization.bic, factorization.aic, factorization.icl):
        with pytest.raises(ParameterError, match=r"does not count its parameters.*held-out"):
            criterion(X)


def test_a_model_without_most_probable_latent_values_has_no_icl(points):
    ppca = PPCA(1).fit(points)
    assert np.isfinite(ppca.bic(points))
    with pytest.raises(ParameterError, match="no most probable latent values"):
        ppca.icl(points)


def test_the_parts_add_up(points):
    mixture = GaussianMixture(2, random_state=0).fit(points)
    found = information_criteria(mixture, points)
    assert_allclose(found.log_likelihood, mixture.score_samples(points).sum(), rtol=1e-12, atol=0)
    assert found.n_steps == len(points)
    assert found.n_parameters == mixture.model_.count_parameters() == 1 + 6 + 12
