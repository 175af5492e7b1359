"""What missing values cost: clusters and states are found as without them, and what is missing is guessed from what is not."""

import numpy as np
import pytest

from unveil.metrics.clustering import adjusted_rand
from unveil.models.gaussian_hmm import GaussianHMM
from unveil.models.gaussian_mixture import GaussianMixture


def with_holes(X, rng, share=0.2):
    holes = X.copy()
    holes[rng.random(X.shape) < share] = np.nan
    return holes


def correlated_clusters(rng, n=900, d=5):
    """Three well-separated clusters with full covariances."""
    means, mixing = 10 * rng.normal(size=(3, d)), rng.normal(size=(3, d, d))
    clusters = rng.integers(3, size=n)
    return means[clusters] + np.einsum("nij,nj->ni", mixing[clusters], rng.normal(size=(n, d))), clusters


@pytest.mark.parametrize("seed", range(3))
def test_clusters_are_found_with_a_fifth_of_the_entries_missing(seed):
    rng = np.random.default_rng(seed)
    X, clusters = correlated_clusters(rng)
    holes = with_holes(X, rng)
    complete, incomplete = (GaussianMixture(3, n_init=5, random_state=0).fit(each) for each in (X, holes))
    agreement = [adjusted_rand(clusters, found) for found in (complete.predict(X), incomplete.predict(holes))]
    assert agreement[1] >= agreement[0] - 0.03
    missing, filled = np.isnan(holes), incomplete.impute(holes)
    np.testing.assert_array_equal(filled[~missing], X[~missing])
    errors = [np.sqrt(np.mean((guess - X)[missing] ** 2)) for guess in (filled, np.nanmean(holes, 0) + 0 * X)]
    assert errors[0] <= 0.5 * errors[1]


def test_states_are_found_with_entries_and_whole_frames_missing():
    rng = np.random.default_rng(0)
    means = np.array([[0.0, 0.0], [5.0, 5.0], [0.0, 8.0]])
    states = [np.repeat(rng.integers(3, size=6), 15) for _ in range(30)]
    whole = [means[path] + rng.normal(size=(90, 2)) for path in states]
    holes = [with_holes(X, rng) for X in whole]
    for X in holes:
        X[30:35] = np.nan
    hmm = GaussianHMM(3, n_init=3, random_state=0).fit(holes)
    order = [int(np.argmin(((hmm.means_ - mean) ** 2).sum(1))) for mean in means]
    np.testing.assert_allclose(hmm.means_[order], means, rtol=0, atol=0.15)
    found = np.concatenate(hmm.predict(holes))
    assert np.mean(found == np.array(order)[np.concatenate(states)]) > 0.97
    filled = hmm.impute(holes)
    missing = np.isnan(np.concatenate(holes))
    error = np.sqrt(np.mean((np.concatenate(filled) - np.concatenate(whole))[missing] ** 2))
    assert error < 1.5  # the noise has a standard deviation of 1, the columns one of 3
