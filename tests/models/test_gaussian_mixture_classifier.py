"""The mixture classifier against discriminant analysis, and what unlabelled points and outliers do to it."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import logsumexp, softmax
from scipy.stats import multivariate_normal
from sklearn.base import clone
from sklearn.datasets import load_digits, load_iris
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis, QuadraticDiscriminantAnalysis
from sklearn.metrics import accuracy_score
from sklearn.mixture import GaussianMixture as TheirMixture
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.naive_bayes import GaussianNB

import unveil
from unveil.errors import InputError, ParameterError
from unveil.models.gaussian_mixture_classifier import GaussianMixtureClassifier

EXACT = {"reg_covar": 0.0, "random_state": 0}


@pytest.fixture(scope="module")
def iris():
    return load_iris(return_X_y=True)


def by_hand(X, y, covariances):
    """log pi_c N(x; mean_c, S_c), (n, C), with shares, means and the given covariances."""
    classes = np.unique(y)
    parts = [
        multivariate_normal(X[y == c].mean(0), S).logpdf(X) + np.log(np.mean(y == c))
        for c, S in zip(classes, covariances, strict=True)
    ]
    return np.array(parts).T


def maximum_likelihood(X, y, covariance_type):
    scatters = np.array([np.cov(X[y == c].T, bias=True) for c in np.unique(y)])
    shares = np.bincount(np.unique(y, return_inverse=True)[1]) / len(y)
    return {
        "full": scatters,
        "tied": np.repeat(np.einsum("c,cij->ij", shares, scatters)[None], len(shares), 0),
        "diag": np.array([np.diag(np.diag(S)) for S in scatters]),
        "spherical": np.array([np.trace(S) / len(S) * np.eye(len(S)) for S in scatters]),
    }[covariance_type]


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "spherical"])
def test_with_all_labels_it_is_bayes_rule(iris, covariance_type):
    X, y = iris
    classifier = GaussianMixtureClassifier(covariance_type=covariance_type, **EXACT).fit(X, y)
    joint = by_hand(X, y, maximum_likelihood(X, y, covariance_type))
    assert_allclose(classifier.predict_proba(X), softmax(joint, 1), rtol=1e-7, atol=1e-12)
    assert_array_equal(classifier.predict(X), joint.argmax(1))
    assert_allclose(classifier.score_samples(X), logsumexp(joint, 1), rtol=1e-9, atol=0)
    assert_allclose(classifier.class_prior_, np.full(3, 1 / 3), rtol=1e-12, atol=0)
    assert_allclose(classifier.means_[:, 0], [X[y == c].mean(0) for c in range(3)], rtol=1e-10, atol=0)


def test_is_naive_bayes(iris):
    X, y = iris
    ours = GaussianMixtureClassifier(covariance_type="diag", **EXACT).fit(X[20:], y[20:])
    theirs = GaussianNB(var_smoothing=0.0).fit(X[20:], y[20:])
    assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), rtol=1e-7, atol=1e-12)


def test_is_quadratic_discriminant_analysis(iris):
    """Some versions of scikit-learn divide by n_c - 1: then data is scaled such that it gets the covariances of maximum likelihood."""
    X, y = iris
    centers = np.array([X[y == c].mean(0) for c in range(3)])
    ratio = QuadraticDiscriminantAnalysis(store_covariance=True).fit(X, y).covariance_[0][0, 0] / X[y == 0, 0].var()
    ours = GaussianMixtureClassifier(**EXACT).fit(X, y)
    theirs = QuadraticDiscriminantAnalysis().fit(centers[y] + (X - centers[y]) / np.sqrt(ratio), y)
    assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), rtol=1e-6, atol=1e-10)


def test_is_linear_discriminant_analysis(iris):
    X, y = iris
    ours = GaussianMixtureClassifier(covariance_type="tied", **EXACT).fit(X, y)
    theirs = LinearDiscriminantAnalysis(solver="lsqr").fit(X, y)  # this solver divides by n
    assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), rtol=1e-6, atol=1e-10)


def two_moons_of_blobs(n=400, seed=0):
    """Two classes with two clusters each, crosswise, so that one component each cannot tell them apart."""
    rng = np.random.default_rng(seed)
    places = np.array([[0.0, 0.0], [6.0, 6.0], [6.0, 0.0], [0.0, 6.0]])
    cluster = rng.integers(4, size=n)
    return places[cluster] + rng.normal(size=(n, 2)), np.where(cluster < 2, "same", "other")


def test_several_components_are_a_mixture_in_each_class():
    X, y = two_moons_of_blobs()
    one = GaussianMixtureClassifier(1, covariance_type="diag", random_state=0).fit(X, y)
    two = GaussianMixtureClassifier(2, random_state=0, tol=1e-10, max_iter=500, reg_covar=0.0).fit(X, y)
    assert one.score(X, y) < 0.8
    assert two.score(X, y) > 0.95
    joint = []
    for name in two.classes_:  # with all labels, the classes have nothing to do with each other
        theirs = TheirMixture(2, tol=1e-10, max_iter=500, n_init=3, reg_covar=0.0, random_state=0).fit(X[y == name])
        joint.append(theirs.score_samples(X) + np.log(np.mean(y == name)))
    assert_allclose(two.predict_proba(X), softmax(np.array(joint).T, 1), rtol=1e-3, atol=1e-5)
    assert two.means_.shape == (2, 2, 2)
    assert (np.diff(two.history_.objective) >= -1e-12).all()


def test_names_of_classes(iris):
    X, y = iris
    names = np.array(["setosa", "versicolor", "virginica"])
    numbers, words = (GaussianMixtureClassifier(**EXACT).fit(X, labels) for labels in (y, names[y]))
    assert_array_equal(words.classes_, names)
    assert_array_equal(words.predict(X), names[numbers.predict(X)])
    far = GaussianMixtureClassifier(**EXACT).fit(X, np.array([40, 7, 13])[y])
    assert_array_equal(far.classes_, [7, 13, 40])
    assert_array_equal(far.predict(X), np.array([40, 7, 13])[numbers.predict(X)])
    assert_allclose(far.predict_proba(X)[:, [2, 0, 1]], numbers.predict_proba(X), rtol=1e-9, atol=1e-12)


def test_unknown_classes_are_learned_from(iris):
    X, y = iris
    some = np.where(np.arange(150) % 10 == 0, y, -1)
    classifier = GaussianMixtureClassifier(covariance_type="tied", random_state=0, tol=1e-8).fit(X, some)
    assert_array_equal(classifier.classes_, [0, 1, 2])
    assert (np.diff(classifier.history_.objective) >= -1e-12).all()
    assert_array_equal(classifier.predict_proba(X).argmax(1), classifier.predict(X))
    known_only = GaussianMixtureClassifier(covariance_type="tied", random_state=0).fit(X[some >= 0], y[some >= 0])
    assert classifier.score(X, y) > 0.9
    assert not np.allclose(classifier.means_, known_only.means_)


def test_probabilities(iris):
    X, y = iris
    classifier = GaussianMixtureClassifier(2, random_state=0).fit(X, y)
    probabilities = classifier.predict_proba(X)
    assert probabilities.shape == (150, 3)
    assert_allclose(probabilities.sum(1), 1.0, rtol=1e-12, atol=0)
    assert_allclose(classifier.class_prior_.sum(), 1.0, rtol=1e-12, atol=0)
    assert_array_equal(classifier.classes_[probabilities.argmax(1)], classifier.predict(X))


def test_outliers_are_unlikely(iris):
    X, y = iris
    classifier = GaussianMixtureClassifier(**EXACT).fit(X, y)
    outliers = X.mean(0) + 20.0 * np.array([[1.0, 1.0, 1.0, 1.0], [-1.0, 1.0, -1.0, 1.0]])
    assert classifier.score_samples(outliers).max() < classifier.score_samples(X).min()
    assert classifier.predict_proba(outliers).max() > 0.99  # the posterior does not say so


def test_missing_values_are_left_out(iris):
    """p(y | x_observed) of a normal density is that of its observed part."""
    X, y = iris
    classifier = GaussianMixtureClassifier(**EXACT).fit(X, y)
    holes = X.copy()
    holes[:, 2] = np.nan
    kept = [0, 1, 3]
    S = maximum_likelihood(X, y, "full")[:, kept][:, :, kept]
    assert_allclose(classifier.predict_proba(holes), softmax(by_hand(X[:, kept], y, S), 1), rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("named", [False, True], ids=["numbers", "names"])
def test_the_same_after_saving_and_loading(iris, named, tmp_path):
    X, y = iris
    labels = np.array(["a", "bb", "ccc"])[y] if named else y + 3
    classifier = GaussianMixtureClassifier(2, random_state=0, emission_prior="conjugate").fit(X, labels)
    classifier.save(tmp_path / "classifier")
    loaded = unveil.load(tmp_path / "classifier")
    assert_array_equal(loaded.classes_, classifier.classes_)
    assert_array_equal(loaded.predict(X), classifier.predict(X))
    assert_array_equal(loaded.predict_proba(X), classifier.predict_proba(X))
    assert loaded.score(X, labels) == classifier.score(X, labels)


def test_in_cross_validation(iris):
    X, y = iris
    classifier, folds = GaussianMixtureClassifier(**EXACT), StratifiedKFold(3)
    scores = cross_val_score(classifier, X, y, cv=folds)
    expected = [
        accuracy_score(y[test], clone(classifier).fit(X[train], y[train]).predict(X[test])) for train, test in folds.split(X, y)
    ]
    assert_array_equal(scores, expected)
    copy = clone(classifier.set_params(n_components=2, covariance_type="diag"))
    assert copy.get_params() == classifier.get_params()
    assert not hasattr(copy, "classes_")


def test_weights_are_repeats(iris):
    X, y = iris
    counts = np.arange(150) % 3 + 1
    weighted = GaussianMixtureClassifier(**EXACT).fit(X, y, sample_weight=counts)
    repeated = GaussianMixtureClassifier(**EXACT).fit(np.repeat(X, counts, 0), np.repeat(y, counts))
    assert_allclose(weighted.predict_proba(X), repeated.predict_proba(X), rtol=1e-8, atol=1e-12)


def test_bad_labels(iris):
    X, y = iris
    with pytest.raises(InputError, match="requires y to be passed"):
        GaussianMixtureClassifier().fit(X)
    with pytest.raises(InputError, match="all labels are -1"):
        GaussianMixtureClassifier().fit(X, np.full(150, -1))
    with pytest.raises(InputError, match="y has 149 labels for 150 items"):
        GaussianMixtureClassifier().fit(X, y[:-1])
    fitted = GaussianMixtureClassifier(warm_start=True, **EXACT).fit(X, y)
    with pytest.raises(ParameterError, match="warm_start"):
        fitted.fit(X, y % 2)
    assert_array_equal(fitted.classes_, [0, 1, 2])  # the earlier fit is as it was


def test_unlabelled_digits_help():
    """Five labels in each class, and all other digits without: mean gain in accuracy over five draws of the labels."""
    X, y = load_digits(return_X_y=True)
    X = PCA(20, random_state=0).fit_transform(X)
    gains = []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        known = np.concatenate([rng.choice(np.flatnonzero(y == c), 5, replace=False) for c in range(10)])
        rest = np.setdiff1d(np.arange(len(y)), known)
        some = np.full(len(y), -1)
        some[known] = y[known]
        semi = GaussianMixtureClassifier(covariance_type="tied", random_state=seed).fit(X, some)
        alone = GaussianMixtureClassifier(covariance_type="tied", random_state=seed).fit(X[known], y[known])
        gains.append(semi.score(X[rest], y[rest]) - alone.score(X[rest], y[rest]))
    assert np.mean(gains) >= 0.05
