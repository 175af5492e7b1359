"""The mixture of HMMs against the block-diagonal HMM that it is, on made-up clusters, and on handwritten digits."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.linalg import block_diag
from scipy.special import logsumexp

from unveil.data.batch import Batches
from unveil.data.layout import as_rows, offsets_of
from unveil.errors import InputError
from unveil.learn.em import em
from unveil.metrics.clustering import clustering_accuracy
from unveil.models.gaussian_hmm import GaussianHMM
from unveil.models.mixture_of_hmms import MixtureOfHMMs

N_CLUSTERS, N_STATES = 2, 3
PLACES = 4.0 * np.array([[0.0, 1.0], [0.9, -0.5], [-0.9, -0.5]])


def clusters(n_each=15, seed=0, low=8, high=25):
    """Two clusters that visit the same places, one clockwise, one the other way."""
    rng = np.random.default_rng(seed)
    sequences, labels = [], []
    for i in range(2 * n_each):
        direction, length = i % 2, rng.integers(low, high)
        path = [rng.integers(3)]
        while len(path) < length:
            path.append((path[-1] + (1 if direction else -1) * (rng.random() < 0.7)) % 3)
        sequences.append(PLACES[path] + rng.normal(size=(length, 2)))
        labels.append(direction)
    return sequences, np.array(labels)


def start(covariance_type="diag"):
    rng = np.random.default_rng(3)
    n = N_CLUSTERS * N_STATES
    roots = rng.normal(size=(n, 2, 4))
    full = 2 * np.eye(2) + 0.3 * roots @ roots.transpose(0, 2, 1)
    variances = np.diagonal(full, axis1=1, axis2=2).copy()
    covariances = {"full": full, "tied": full[0], "diag": variances, "spherical": variances[:, 0]}[covariance_type]
    return {
        "weights": rng.dirichlet(3 * np.ones(N_CLUSTERS)),
        "startprob_init": rng.dirichlet(2 * np.ones(N_STATES), size=N_CLUSTERS),
        "transmat_init": rng.dirichlet(2 * np.ones(N_STATES), size=(N_CLUSTERS, N_STATES)),
        "means_init": PLACES + rng.normal(size=(N_CLUSTERS, N_STATES, 2)),
        "covariances_init": covariances
        if covariance_type == "tied"
        else covariances.reshape(N_CLUSTERS, N_STATES, *covariances.shape[1:]),
    }


def batches_of(X):
    return Batches(as_rows(np.concatenate(X)), offsets_of([len(each) for each in X]))


def both(X, covariance_type, n_iter):
    """A mixture's model and the block-diagonal HMM, from the same start, after the same number of iterations."""
    given = start(covariance_type)
    weights = given.pop("weights")
    common = {"covariance_type": covariance_type, "tol": 0.0, "reg_covar": 0.0}
    mixture = MixtureOfHMMs(N_CLUSTERS, N_STATES, **common, **given).build(2)
    mixture.initialize(batches_of(X), torch.Generator().manual_seed(0))
    with torch.no_grad():
        mixture.weights.copy_(torch.from_numpy(weights))
    history = em(mixture, batches_of(X), max_iter=n_iter, tol=0.0)
    covariances = given["covariances_init"]
    block = GaussianHMM(
        N_CLUSTERS * N_STATES,
        **common,
        max_iter=n_iter,
        startprob_init=(weights[:, None] * given["startprob_init"]).ravel(),
        transmat_init=block_diag(*given["transmat_init"]),
        means_init=given["means_init"].reshape(-1, 2),
        covariances_init=covariances if covariance_type == "tied" else covariances.reshape(-1, *covariances.shape[2:]),
    ).fit(X)
    return mixture, history, block


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "spherical"])
@pytest.mark.parametrize("n_iter", [1, 6])
def test_is_the_block_diagonal_hmm(covariance_type, n_iter):
    X, _ = clusters()
    mixture, history, block = both(X, covariance_type, n_iter)
    assert_allclose(history.objective, block.history_.objective, rtol=1e-11, atol=0)
    joint = (mixture.weights[:, None] * mixture.initial).detach().numpy().ravel()
    assert_allclose(joint, block.startprob_, rtol=1e-8, atol=1e-12)
    assert_allclose(block_diag(*mixture.transition.detach().numpy()), block.transmat_, rtol=1e-8, atol=1e-12)
    assert_allclose(mixture.emission.means.detach().numpy(), block.means_, rtol=1e-8, atol=1e-10)
    assert_allclose(mixture.emission.covariances.detach().numpy(), block.covariances_, rtol=1e-8, atol=1e-10)
    batch = next(iter(batches_of(X)))
    assert_allclose(mixture.objective(batch).detach().numpy(), block.score_samples(X), rtol=1e-10, atol=0)
    states = np.concatenate(block.predict_proba(X)).reshape(-1, N_CLUSTERS, N_STATES)
    posterior = mixture.posterior(batch)
    assert_allclose(posterior.states.numpy(), states, rtol=1e-7, atol=1e-12)
    first = [0, *np.cumsum([len(each) for each in X])[:-1]]
    assert_allclose(posterior.responsibilities.numpy(), states[first].sum(2), rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "spherical"])
def test_one_cluster_is_an_hmm(covariance_type):
    X, _ = clusters()
    common = {"n_states": 3, "covariance_type": covariance_type, "n_init": 1, "max_iter": 8, "tol": 0.0, "random_state": 4}
    mixture, chain = MixtureOfHMMs(1, **common).fit(X), GaussianHMM(**common).fit(X)
    assert_array_equal(mixture.history_.objective, chain.history_.objective)
    assert_array_equal(mixture.weights_, [1.0])
    assert_array_equal(mixture.startprob_[0], chain.startprob_)
    assert_array_equal(mixture.transmat_[0], chain.transmat_)
    assert_array_equal(mixture.means_[0], chain.means_)
    assert_array_equal(mixture.covariances_ if covariance_type == "tied" else mixture.covariances_[0], chain.covariances_)
    assert_array_equal(mixture.score_samples(X), chain.score_samples(X))
    assert_array_equal(np.concatenate(mixture.predict_states(X)), np.concatenate(chain.predict(X)))
    assert_array_equal(mixture.predict(X), np.zeros(len(X)))


def chains_of(estimator):
    """Each cluster as an HMM of its own."""
    made = []
    for c in range(N_CLUSTERS):
        chain = GaussianHMM(N_STATES, max_iter=1, tol=0.0, means_init=estimator.means_[c]).fit(clusters()[0])
        state = chain.model_.state_dict()
        state["initial"][0] = torch.from_numpy(estimator.startprob_[c])
        state["transition"][0] = torch.from_numpy(estimator.transmat_[c])
        state["emission.means"].copy_(torch.from_numpy(estimator.means_[c]))
        state["emission.covariances"].copy_(torch.from_numpy(estimator.covariances_[c]))
        made.append(chain)
    return made


def test_predictions_are_bayes_rule_over_hmms():
    X, _ = clusters()
    estimator = MixtureOfHMMs(N_CLUSTERS, N_STATES, max_iter=4, tol=0.0, n_init=1, random_state=1).fit(X)
    chains = chains_of(estimator)
    joint = np.log(estimator.weights_) + np.stack([chain.score_samples(X) for chain in chains], 1)
    assert_allclose(estimator.score_samples(X), logsumexp(joint, 1), rtol=1e-10, atol=0)
    probabilities = estimator.predict_proba(X)
    assert probabilities.shape == (len(X), N_CLUSTERS)
    assert_allclose(probabilities, np.exp(joint - logsumexp(joint, 1)[:, None]), rtol=1e-8, atol=1e-12)
    found = estimator.predict(X)
    assert found.shape == (len(X),)
    assert_array_equal(found, joint.argmax(1))
    states = estimator.predict_states(X)
    assert [each.shape for each in states] == [(len(each),) for each in X]
    for sequence, path, cluster in zip(X, states, found, strict=True):
        assert_array_equal(path, chains[cluster].predict(sequence))
    assert_array_equal(estimator.fit_predict(X), MixtureOfHMMs(**estimator.get_params()).fit(X).predict(X))


def test_states_are_those_of_the_cluster_that_the_weights_make_most_probable():
    X = [each[:4] for each in clusters()[0]]
    estimator = MixtureOfHMMs(N_CLUSTERS, N_STATES, max_iter=4, tol=0.0, n_init=1, random_state=1).fit(clusters()[0])
    chains = chains_of(estimator)
    evidence = np.stack([chain.score_samples(X) for chain in chains], 1)
    estimator.model_.weights.data.copy_(torch.tensor([1e-12, 1 - 1e-12]))
    joint = evidence + np.log(estimator.weights_)
    turned = joint.argmax(1) != evidence.argmax(1)
    assert turned.any()
    paths = [[chain.predict(sequence) for chain in chains] for sequence in X]
    assert any(not np.array_equal(*paths[i]) for i in np.flatnonzero(turned))
    assert_array_equal(estimator.predict(X), joint.argmax(1))
    for path, either, cluster in zip(estimator.predict_states(X), paths, joint.argmax(1), strict=True):
        assert_array_equal(path, either[cluster])


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "spherical"])
def test_shapes(covariance_type):
    X, _ = clusters()
    estimator = MixtureOfHMMs(2, 3, covariance_type=covariance_type, n_init=1, max_iter=2, tol=0.0, random_state=0).fit(X)
    assert estimator.weights_.shape == (2,)
    assert estimator.startprob_.shape == (2, 3)
    assert estimator.transmat_.shape == (2, 3, 3)
    assert estimator.means_.shape == (2, 3, 2)
    shape = {"full": (2, 3, 2, 2), "tied": (2, 2), "diag": (2, 3, 2), "spherical": (2, 3)}[covariance_type]
    assert estimator.covariances_.shape == shape
    assert_allclose(estimator.weights_.sum(), 1.0, rtol=1e-12, atol=0)
    assert_allclose(estimator.startprob_.sum(1), 1.0, rtol=1e-12, atol=0)
    assert_allclose(estimator.transmat_.sum(2), 1.0, rtol=1e-12, atol=0)
    free = {"full": 6 * 3, "tied": 3, "diag": 6 * 2, "spherical": 6}[covariance_type]
    assert estimator.model_.count_parameters() == 1 + 2 * 2 + 2 * 6 + 12 + free


def test_recovers_clusters_that_differ_only_in_their_transitions():
    X, labels = clusters(n_each=25, seed=1)
    estimator = MixtureOfHMMs(2, 3, n_init=8, random_state=0).fit(X)
    assert clustering_accuracy(labels, estimator.predict(X)) > 0.95
    others, other_labels = clusters(n_each=25, seed=2)
    assert clustering_accuracy(other_labels, estimator.predict(others)) > 0.95
    assert_allclose(np.sort(estimator.weights_), [0.5, 0.5], rtol=0, atol=0.05)
    assert_allclose(np.sort(np.max(estimator.transmat_, axis=2).ravel()), 0.7, rtol=0, atol=0.12)


def test_samples_come_from_the_clusters():
    X, _ = clusters()
    estimator = MixtureOfHMMs(2, 3, n_init=1, random_state=0, max_iter=5, tol=0.0).fit(X)
    n = 500
    values, labels = estimator.sample(n, length=20, random_state=5)
    assert values.shape == (n, 20, 2)
    cluster, state = labels // 3, labels % 3
    assert (cluster == cluster[:, :1]).all()
    share = np.bincount(cluster[:, 0], minlength=2) / n
    assert (np.abs(share - estimator.weights_) < 5 * np.sqrt(estimator.weights_ * (1 - estimator.weights_) / n)).all()
    for c in range(2):
        mine = state[cluster[:, 0] == c]
        counts = np.zeros((3, 3))
        np.add.at(counts, (mine[:, :-1], mine[:, 1:]), 1)
        rows, expected = counts.sum(1, keepdims=True), estimator.transmat_[c]
        assert (np.abs(counts / rows - expected) < 5 * np.sqrt(expected * (1 - expected) / rows) + 1e-6).all()
        for m in range(3):
            seen = values[(cluster == c) & (state == m)]
            assert (np.abs(seen.mean(0) - estimator.means_[c, m]) < 5 * np.sqrt(estimator.covariances_[c, m] / len(seen))).all()


def test_more_clusters_than_sequences_is_one_line():
    with pytest.raises(InputError, match=r"n_clusters=3 but X has 2 sequences.*fewer clusters") as raised:
        MixtureOfHMMs(3, 1).fit([np.ones((4, 2)), np.zeros((5, 2))])
    assert "\n" not in str(raised.value)


def test_handwritten_digits(real_data):
    """Ones and twos, by the path of the pen alone."""
    from unveil.data import datasets

    digits = datasets.load("pendigits", digits=(1, 2), per_class=60)
    estimator = MixtureOfHMMs(2, 4, covariance_type="full", n_init=3, random_state=0)
    assert clustering_accuracy(digits.target, estimator.fit_predict(digits.data)) > 0.9
