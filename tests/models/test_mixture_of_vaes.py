"""Mixtures of variational autoencoders: one of one is a VAE, and the bound is that of its parts."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.cluster import KMeans

from unveil.data.batch import Batch
from unveil.errors import InputError
from unveil.metrics.clustering import clustering_accuracy
from unveil.models.mixture_of_vaes import MixtureOfVAEs

QUICK = {"hidden": 8, "max_epochs": 3, "batch_size": 32, "random_state": 0, "dtype": "float64"}


def curves(n=300, seed=0):
    """Two arcs back to back, which k-means cuts in the wrong places."""
    rng = np.random.default_rng(seed)
    angles = rng.uniform(0, np.pi, size=(2, n))
    arcs = np.stack([np.cos(angles), np.sin(angles)], 2) + 0.04 * rng.normal(size=(2, n, 2))
    arcs[1] = arcs[1] * [1, -1] + [0.9, -0.15]
    return np.concatenate(arcs), np.repeat([0, 1], n)


def test_bound_is_that_of_the_parts():
    X, _ = curves()
    mixture = MixtureOfVAEs(3, 1, **QUICK).fit(X)
    batch = Batch(torch.from_numpy(X), torch.arange(len(X) + 1))
    with torch.no_grad():
        parts = np.stack([component.objective(batch).numpy() for component in mixture.model_.components], 1)
    joint = np.exp(parts) * mixture.weights_
    assert_allclose(mixture.score_samples(X), np.log(joint.sum(1)), rtol=1e-9, atol=1e-9)
    assert_allclose(mixture.predict_proba(X), joint / joint.sum(1, keepdims=True), rtol=1e-9, atol=1e-12)
    assert_allclose(mixture.weights_.sum(), 1, rtol=1e-12, atol=0)


def test_gradient_is_that_of_expectation_maximisation():
    """d loss / d log w_k = w_k - mean responsibility, with the same draws of latent variables."""
    X, _ = curves()
    model = MixtureOfVAEs(2, 1, **QUICK).fit(X).model_
    batch = Batch(torch.from_numpy(X), torch.arange(len(X) + 1))
    loss = model.loss(batch, torch.Generator().manual_seed(3), 9.0)
    model.zero_grad()
    loss.total.backward()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        bounds = torch.stack([-component.losses(batch, generator, 9.0)[0] for component in model.components], 1)
        weights = model.logits.softmax(0)
        responsibilities = (bounds + weights.log()).softmax(1)
    assert_allclose(model.logits.grad, weights - responsibilities.mean(0), rtol=1e-8, atol=1e-12)


def test_curved_clusters_are_told_apart_better_than_by_k_means():
    X, classes = curves()
    by_distance = clustering_accuracy(classes, KMeans(2, n_init=10, random_state=0).fit_predict(X))
    found = [
        clustering_accuracy(classes, MixtureOfVAEs(2, 1, hidden=16, max_epochs=60, batch_size=32, learning_rate=5e-3, random_state=seed)
                            .fit_predict(X))
        for seed in range(2)
    ]  # fmt: skip
    assert max(found) > by_distance
    assert np.mean(found) > 0.9


def test_samples_carry_their_cluster():
    X, _ = curves()
    mixture = MixtureOfVAEs(2, 1, **QUICK | {"max_epochs": 20, "learning_rate": 5e-3}).fit(X)
    values, clusters = mixture.sample(4000, random_state=1)
    assert_allclose(np.bincount(clusters, minlength=2) / 4000, mixture.weights_, rtol=0, atol=0.03)
    assert clustering_accuracy(mixture.predict(values), clusters) > 0.8


def test_fewer_points_than_clusters():
    with pytest.raises(InputError, match="n_clusters=5 but X has 3 points"):
        MixtureOfVAEs(5, 1, **QUICK).fit(curves()[0][:3])
