"""Three species of penguins, found by BIC from four measurements."""

import numpy as np

from unveil.data import datasets
from unveil.metrics.clustering import adjusted_rand
from unveil.models.gaussian_mixture import GaussianMixture
from unveil.selection import select


def test_bic_finds_three_species_of_penguins():
    penguins = datasets.load("penguins")
    measured = ~np.isnan(penguins.data).any(1)
    X, species = penguins.data[measured], penguins.target[measured]
    found = select(
        GaussianMixture(n_init=10, tol=1e-5, max_iter=300, random_state=0),
        X,
        {"n_components": range(1, 5), "covariance_type": ["full", "tied"]},
        criterion="bic",
    )
    assert found.best_params == {"n_components": 3, "covariance_type": "tied"}
    assert adjusted_rand(species, found.best_estimator.predict(X)) > 0.9


def test_measurements_that_are_missing_need_not_be_dropped():
    penguins = datasets.load("penguins")
    assert np.isnan(penguins.data).any()
    mixture = GaussianMixture(3, covariance_type="tied", n_init=10, random_state=0).fit(penguins.data)
    assert adjusted_rand(penguins.target, mixture.predict(penguins.data)) > 0.9
