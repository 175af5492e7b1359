"""scikit-learn's own checks of what an estimator must do, over every estimator of points."""

import inspect

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from unveil.models import discover
from unveil.models.autoencoder import Autoencoder
from unveil.models.gaussian_mixture import GaussianMixture

QUICK = {
    "max_iter": 20,
    "tol": 0.0,
    "max_epochs": 3,
    "hidden": 8,
    "n_latent": 1,
    "autoencoder": Autoencoder(1, hidden=8, max_epochs=3),
    "base": GaussianMixture(1),
}


def estimators_of_points():
    made = []
    for cls in discover().values():
        estimator = cls(**{name: value for name, value in QUICK.items() if name in inspect.signature(cls).parameters})
        if estimator.items == "points":
            made.append(estimator)
    return made


def not_for_minibatches(estimator):
    """What cannot hold of learning in epochs, and why."""
    if not estimator.learns_in_epochs:
        return {}
    reason = "an item of weight 2 is in one minibatch, and two equal items are in two"
    return dict.fromkeys(
        ("check_sample_weight_equivalence_on_dense_data", "check_sample_weight_equivalence_on_sparse_data"), reason
    )


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning", "ignore::unveil.errors.IdentifiabilityWarning")
@parametrize_with_checks(estimators_of_points(), expected_failed_checks=not_for_minibatches)
def test_scikit_learn_check(estimator, check):
    check(estimator)


def test_there_are_estimators_of_points():
    assert {type(each).__name__ for each in estimators_of_points()} >= {"GaussianMixture", "NMF"}
