"""The comparison of autoencoders, on few images of its own."""

import numpy as np
from numpy.testing import assert_allclose
from sklearn.decomposition import PCA

from unveil.experiments import autoencoders
from unveil.report.page import Page, render


def images(n, seed=0):
    """Blobs of two sizes at any place of 8 x 8 pixels."""
    rng = np.random.default_rng(seed)
    classes = rng.integers(2, size=n)
    place, size = rng.uniform(2, 5, size=(n, 2, 1, 1)), np.where(classes, 1.0, 2.5)[:, None, None]
    x, y = np.meshgrid(np.arange(8), np.arange(8))
    return np.exp(-((x - place[:, 0]) ** 2 + (y - place[:, 1]) ** 2) / size).reshape(n, 64).astype(np.float32), classes


def test_every_kind_is_measured_and_shown(monkeypatch):
    monkeypatch.setattr(autoencoders, "N_CODES", 6)
    X, y = images(300)
    told = []
    result = autoencoders.compare(X, y, *images(60, seed=1), n_epochs=2, on_progress=told.append)
    assert told[-1] == 1.0
    assert list(result.rows) == ["PCA", *autoencoders.KINDS]
    assert all(np.isfinite(list(row.values())).all() for row in result.rows.values())
    assert result.table[-1] == {"angle to PCA (rad)": result.angle}
    html = render(Page(autoencoders.TITLE, "", autoencoders.sections(result)))
    assert "contractive" in html


def test_measures_of_pca_are_those_of_linear_algebra():
    (X, y), (test_X, test_y) = images(300), images(60, seed=1)
    pca = PCA(6).fit(X)
    measured = autoencoders.measure(pca, X, y, test_X, test_y, test_X)
    centred = test_X - pca.mean_
    assert_allclose(
        measured["squared error"],
        np.square(centred - centred @ pca.components_.T @ pca.components_).sum(1).mean(),
        rtol=1e-4,
        atol=0,
    )
    assert measured["squared error"] == measured["from blackened"]
    codes = pca.transform(test_X)
    spread = np.sqrt(np.square(codes - codes.mean(0)).sum(1).mean())
    assert_allclose(measured["sensitivity"], np.linalg.norm(pca.components_) / spread, rtol=1e-5, atol=0)


def test_sensitivity_of_a_linear_encoder_is_its_norm():
    from unveil.models.autoencoder import Autoencoder

    X, _ = images(300)
    model = Autoencoder(4, hidden=(), max_epochs=3, random_state=0).fit(X)
    weights = model.model_.encoder.first_weight().detach() / model.model_.likelihood.scale
    codes = model.transform(X)
    spread = np.sqrt(np.square(codes - codes.mean(0)).sum(1).mean())
    found = autoencoders.sensitivity(model, X, codes)
    assert_allclose(found, weights.norm().item() / spread, rtol=0.15, atol=0)
