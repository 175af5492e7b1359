"""scikit-learn's own checks of what an estimator must do, over every estimator of points."""

import inspect

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from unveil.models import discover

QUICK = {"max_iter": 20, "tol": 0.0}


def estimators_of_points():
    made = []
    for cls in discover().values():
        if cls.items == "points":
            made.append(cls(**{name: value for name, value in QUICK.items() if name in inspect.signature(cls).parameters}))
    return made


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@parametrize_with_checks(estimators_of_points())
def test_scikit_learn_check(estimator, check):
    check(estimator)


def test_there_are_estimators_of_points():
    assert {type(each).__name__ for each in estimators_of_points()} >= {"GaussianMixture", "NMF"}
