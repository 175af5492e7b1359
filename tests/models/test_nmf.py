"""NMF against scikit-learn's multiplicative updates and a masked loop in numpy, and what it is for: parts, gaps and streams."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.decomposition import non_negative_factorization

from unveil.data.batch import Batch, Batches
from unveil.data.layout import as_rows
from unveil.errors import InputError, ParameterError
from unveil.kernels.divergences import beta_divergence
from unveil.models.nmf import NMF

NAMES = {0: "itakura-saito", 1: "kullback-leibler", 2: "frobenius"}


def spectra(n=40, n_features=12, n_components=3, seed=0, noise=0.05):
    rng = np.random.default_rng(seed)
    exact = rng.gamma(0.6, size=(n, n_components)) @ rng.gamma(0.6, size=(n_components, n_features))
    return exact * rng.uniform(1 - noise, 1 + noise, exact.shape) + 1e-3


def atoms(n_components=3, n_features=12, seed=1):
    return np.random.default_rng(seed).uniform(0.1, 1.0, size=(n_components, n_features))


def first_activations(X, W, beta):
    """Ours before any update."""
    model = NMF(len(W), beta_loss=beta, components_init=W).build(X.shape[1])
    with torch.no_grad():
        model.components.copy_(torch.from_numpy(W))
    return model.start_activations(torch.from_numpy(X)).detach().numpy()


def divergence(X, model, beta):
    if beta == 2:
        return 0.5 * (X - model) ** 2
    if beta == 1:
        return X * np.log(X / model) - X + model
    return X / model - np.log(X / model) - 1


def by_hand(X, W, beta, n_iter, mask=None, weights=None, H=None):
    """Multiplicative updates on the observed entries alone, written out: activations, then atoms."""
    mask = np.ones_like(X, dtype=bool) if mask is None else mask
    weights = np.ones(len(X)) if weights is None else weights
    V, W = np.where(mask, X, 0.0), W.copy()
    if H is None:
        H = np.repeat(V.sum(1, keepdims=True) / W.sum(), len(W), 1)
    gamma = 0.5 if beta == 0 else 1.0
    for _ in range(n_iter):
        M = H @ W
        H = H * ((mask * V * M ** (beta - 2.0)) @ W.T / ((mask * M ** (beta - 1.0)) @ W.T)) ** gamma
        M = H @ W
        G = weights[:, None] * H
        W = W * (G.T @ (mask * V * M ** (beta - 2.0)) / (G.T @ (mask * M ** (beta - 1.0)))) ** gamma
    return H, W


@pytest.mark.parametrize("beta", [0, 1, 2])
@pytest.mark.parametrize("n_iter", [1, 25])
def test_equals_scikit_learn(beta, n_iter):
    X, W = spectra(), atoms()
    ours = NMF(3, beta_loss=beta, components_init=W, max_iter=n_iter, tol=0.0).fit(X)
    _, theirs, _ = non_negative_factorization(
        X,
        W=first_activations(X, W, beta),
        H=W.copy(),
        n_components=3,
        init="custom",
        solver="mu",
        beta_loss=NAMES[beta],
        max_iter=n_iter,
        tol=0.0,
    )
    assert ours.n_iter_ == n_iter
    assert_allclose(ours.components_, theirs, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("beta", [0, 1, 2])
def test_transform_by_hand(beta):
    X, new = spectra(), spectra(seed=5)
    ours = NMF(3, beta_loss=beta, components_init=atoms(), max_iter=15, tol=0.0).fit(X)
    W, H = ours.components_, first_activations(new, ours.components_, beta)
    for _ in range(15):
        M = H @ W
        H = H * ((new * M ** (beta - 2.0)) @ W.T / (M ** (beta - 1.0) @ W.T)) ** (0.5 if beta == 0 else 1.0)
    assert_allclose(ours.transform(new), H, rtol=1e-8, atol=1e-12)
    assert_allclose(ours.inverse_transform(ours.transform(new)), H @ W, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("beta", [1, 2])
@pytest.mark.filterwarnings("ignore:When update_H=False:RuntimeWarning")
def test_transform_ends_where_scikit_learn_does(beta):
    """These problems are convex, so the start does not matter."""
    X, new = spectra(), spectra(seed=5)
    ours = NMF(3, beta_loss=beta, components_init=atoms(), max_iter=3000, tol=0.0).fit(X)
    options = {"update_H": False, "solver": "mu", "beta_loss": NAMES[beta], "max_iter": 3000, "tol": 0.0, "n_components": 3}
    theirs, _, _ = non_negative_factorization(new, H=ours.components_, **options)
    assert_allclose(ours.transform(new), theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("beta", [0, 1, 2])
def test_updates_and_objective_by_hand(beta):
    X, W = spectra(), atoms()
    ours = NMF(3, beta_loss=beta, components_init=W, max_iter=11, tol=0.0).fit(X)
    H, expected = by_hand(X, W, beta, 10)
    M = H @ expected
    H = H * ((X * M ** (beta - 2.0)) @ expected.T / (M ** (beta - 1.0) @ expected.T)) ** (0.5 if beta == 0 else 1.0)
    assert ours.history_.iterations == [0, 10]
    assert_allclose(-ours.history_.objective[1] * len(X), divergence(X, H @ expected, beta).sum(), rtol=1e-9, atol=0)
    assert_allclose(ours.components_, by_hand(X, W, beta, 11)[1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("beta", [0, 1, 2])
def test_divergence_of_numbers_by_hand(beta):
    values, model = torch.tensor([[2.0, 1.0]]).double(), torch.tensor([[1.0, 4.0]]).double()
    expected = {
        0: (2 - np.log(2) - 1) + (0.25 - np.log(0.25) - 1),
        1: (2 * np.log(2) - 2 + 1) + (np.log(0.25) - 1 + 4),
        2: 0.5 * (1 + 9),
    }[beta]
    assert_allclose(beta_divergence(values, model, beta).numpy(), [expected], rtol=1e-12, atol=0)
    assert_array_equal(beta_divergence(values, values.clone(), beta).numpy(), [0.0])


@pytest.mark.parametrize("beta", [0, 1, 2])
def test_score_is_minus_the_divergence(beta):
    X = spectra()
    estimator = NMF(3, beta_loss=beta, max_iter=100, tol=0.0, random_state=0).fit(X)
    model = estimator.inverse_transform(estimator.transform(X))
    assert_allclose(estimator.score_samples(X), -divergence(X, model, beta).sum(1), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("beta", [0, 1, 2])
def test_exact_low_rank_is_found(beta):
    X = spectra(noise=0.0) - 1e-3 + 1e-9
    estimator = NMF(3, beta_loss=beta, max_iter=3000, tol=0.0, random_state=1).fit(X)
    error = np.linalg.norm(estimator.inverse_transform(estimator.transform(X)) - X) / np.linalg.norm(X)
    assert error < 0.01


@pytest.mark.parametrize("beta", [0, 1, 2])
@pytest.mark.parametrize("sparsity", [0.0, 0.2])
def test_no_update_raises_the_loss(beta, sparsity):
    """With and without the penalty, on data of any scale."""
    for scale in (1.0, 1e-3, 1e3):
        X = scale * spectra()
        penalty = sparsity * scale ** (beta - 1.0)
        model = NMF(3, beta_loss=beta, sparsity=penalty).build(X.shape[1])
        model.initialize(Batches(as_rows(X)), torch.Generator().manual_seed(0))
        batch = Batch(torch.from_numpy(X), torch.arange(len(X) + 1))
        objective = []
        for _ in range(60):
            statistics = model.expect(batch)
            objective.append(statistics.log_likelihood)
            model.maximize(statistics)
        objective = np.array(objective)
        assert (np.diff(objective) >= -1e-9 * np.abs(objective[:-1])).all()
        assert objective[-1] > objective[0]


def hoyer(H):
    """1 for one active atom, 0 for all alike."""
    root = np.sqrt(H.shape[1])
    return ((root - H.sum(1) / np.linalg.norm(H, axis=1)) / (root - 1)).mean()


@pytest.mark.parametrize("beta", [0, 1, 2])
def test_sparsity_makes_activations_sparse(beta):
    X = spectra(n_components=6, n=60)
    plain, sparse = (
        NMF(6, beta_loss=beta, sparsity=weight, max_iter=200, random_state=0, tol=0.0).fit(X) for weight in (1e-12, 1.0)
    )
    assert hoyer(sparse.transform(X)) > hoyer(plain.transform(X)) + 0.05
    assert_allclose(np.linalg.norm(sparse.components_, axis=1), 1.0, rtol=1e-10, atol=0)
    assert sparse.transform(X).sum() < plain.transform(X).sum()


@pytest.mark.parametrize("beta", [0, 1, 2])
def test_missing_entries_count_nothing(beta):
    """The fit is the fit on the observed entries, by a loop in numpy."""
    X, W = spectra(), atoms()
    mask = np.random.default_rng(2).random(X.shape) > 0.25
    holed = np.where(mask, X, np.nan)
    ours = NMF(3, beta_loss=beta, components_init=W, max_iter=12, tol=0.0).fit(holed)
    _, expected = by_hand(X, W, beta, 12, mask)
    assert_allclose(ours.components_, expected, rtol=1e-8, atol=1e-12)
    assert not np.allclose(by_hand(X, W, beta, 12)[1], expected, rtol=1e-3, atol=0)


@pytest.mark.parametrize("beta", [0, 1, 2])
def test_score_of_items_with_gaps_is_of_what_is_there(beta):
    X = spectra()
    mask = np.random.default_rng(2).random(X.shape) > 0.25
    holed = np.where(mask, X, np.nan)
    estimator = NMF(3, beta_loss=beta, max_iter=100, tol=0.0, random_state=0).fit(holed)
    model = estimator.inverse_transform(estimator.transform(holed))
    expected = np.where(mask, divergence(X, model, beta), 0.0).sum(1)
    assert_allclose(estimator.score_samples(holed), -expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("beta", [0, 1, 2])
def test_missing_entries_are_filled_in(beta):
    X = spectra(n=120)
    mask = np.random.default_rng(3).random(X.shape) > 0.2
    holed = np.where(mask, X, np.nan)
    estimator = NMF(3, beta_loss=beta, max_iter=400, tol=0.0, random_state=0).fit(holed)
    filled = estimator.inverse_transform(estimator.transform(holed))
    means = np.broadcast_to(np.nanmean(holed, axis=0), X.shape)
    error, of_means = (np.sqrt(((each - X)[~mask] ** 2).mean()) for each in (filled, means))
    assert error < 0.2 * of_means
    assert np.isfinite(estimator.score(holed))


@pytest.mark.parametrize("beta", [0, 1, 2])
def test_weights_count_items(beta):
    X, W = spectra(), atoms()
    weights = np.random.default_rng(4).integers(0, 4, len(X)).astype(float)
    ours = NMF(3, beta_loss=beta, components_init=W, max_iter=8, tol=0.0).fit(X, sample_weight=weights)
    _, expected = by_hand(X, W, beta, 8, weights=weights)
    assert_allclose(ours.components_, expected, rtol=1e-9, atol=1e-12)


def test_start_uses_the_weights():
    """An item that counts nothing has no influence, however loud."""
    X = spectra()
    loud = np.concatenate([X, 1e6 * X[:1]])
    weights = np.r_[np.ones(len(X)), 0.0]
    for init in ("random", "samples"):
        with_loud = NMF(3, max_iter=5, tol=0.0, init=init, random_state=0).fit(loud, sample_weight=weights)
        assert with_loud.components_.max() < 10 * X.max()
    with_loud, without = (
        NMF(3, max_iter=5, tol=0.0, random_state=0).fit(data, sample_weight=each) for data, each in ((loud, weights), (X, None))
    )
    assert_allclose(with_loud.components_, without.components_, rtol=1e-9, atol=0)


@pytest.mark.parametrize("beta", [0, 1, 2])
def test_a_stream_gives_the_same_atoms(beta):
    X = spectra(n=50)
    one, five = (
        NMF(3, beta_loss=beta, max_iter=15, tol=0.0, random_state=0).fit(Batches(as_rows(X), batch_steps=steps))
        for steps in (50, 10)
    )
    assert_allclose(five.components_, one.components_, rtol=1e-9, atol=1e-12)
    assert not one.model_._kept


@pytest.mark.parametrize("beta", [0, 1, 2])
def test_parts_add_up_to_the_joint_model(beta):
    """Two dictionaries side by side explain a mixture as one dictionary would."""
    first, second = spectra(seed=0), 3 * spectra(seed=1)
    sources = [NMF(3, beta_loss=beta, max_iter=60, tol=0.0, random_state=seed).fit(X) for seed, X in enumerate((first, second))]
    mixture = torch.from_numpy(first + second)
    parts = sources[0].explain(mixture, sources[1:])
    assert [tuple(part.shape) for part in parts] == [tuple(mixture.shape)] * 2
    W = np.concatenate([source.components_ for source in sources])
    H = first_activations(mixture.numpy(), W, beta)
    for _ in range(60):
        M = H @ W
        H = H * ((mixture.numpy() * M ** (beta - 2.0)) @ W.T / (M ** (beta - 1.0) @ W.T)) ** (0.5 if beta == 0 else 1.0)
    assert_allclose((parts[0] + parts[1]).numpy(), H @ W, rtol=1e-7, atol=1e-9)
    assert_allclose(parts[0].numpy(), H[:, :3] @ W[:3], rtol=1e-7, atol=1e-9)
    assert_allclose(parts[1].numpy(), H[:, 3:] @ W[3:], rtol=1e-7, atol=1e-9)
    assert (torch.cat(parts) >= 0).all()


@pytest.mark.parametrize("beta", [0, 1, 2])
def test_zero_rows_and_columns(beta):
    X = spectra()
    X[4] = 0.0
    X[:, 7] = 0.0
    estimator = NMF(3, beta_loss=beta, max_iter=50, tol=0.0, random_state=0).fit(X)
    H = estimator.transform(X)
    assert np.isfinite(estimator.components_).all()
    assert np.isfinite(H).all()
    assert (estimator.components_ >= 0).all()
    assert (H >= 0).all()
    assert np.isfinite(estimator.score_samples(X)).all()
    model = estimator.inverse_transform(H)
    assert_allclose(model[4], 0.0, rtol=0, atol=1e-5 * X.mean())
    assert_allclose(model[:, 7], 0.0, rtol=0, atol=1e-3 * X.mean())


def test_silence_is_one_line():
    for X in (np.zeros((5, 4)), np.where(np.eye(4) > 0, np.nan, 0.0)):
        with pytest.raises(InputError, match=r"silence.*give data") as raised:
            NMF(2).fit(X)
        assert "\n" not in str(raised.value)


def test_negative_starting_atoms_are_refused():
    with pytest.raises((InputError, ParameterError), match="components_init"):
        NMF(3, components_init=-atoms()).fit(spectra())


def test_atoms_from_samples():
    X = spectra()
    estimator = NMF(4, init="samples", max_iter=1, tol=0.0, random_state=0)
    model = estimator.build(X.shape[1])
    model.initialize(Batches(as_rows(X)), torch.Generator().manual_seed(0))
    atoms_ = model.components.detach().numpy() - 0.01 * X.mean()
    distance = np.abs(atoms_[:, None] - X).max(2).min(1)
    assert_allclose(distance, 0.0, rtol=0, atol=1e-12)
    few = NMF(4, init="samples", max_iter=3, tol=0.0, random_state=0).fit(X[:2])
    assert np.isfinite(few.components_).all()


def test_stops_when_it_gains_little():
    X = spectra()
    estimator = NMF(3, max_iter=5000, tol=1e-4, random_state=0).fit(X)
    assert estimator.converged_
    assert estimator.n_iter_ < 5000
    assert estimator.n_iter_ % 10 == 0
    objective = estimator.history_.objective
    gains = np.diff(objective) / 10 / abs(objective[0])
    assert gains[-1] < 1e-4
    assert (gains[:-1] >= 1e-4).all()


@pytest.mark.parametrize("beta", [0, 1, 2])
def test_samples_have_the_mean_of_the_model(beta):
    X = spectra(n=200)
    estimator = NMF(3, beta_loss=beta, max_iter=801, tol=0.0, random_state=0).fit(X)
    values, labels = estimator.sample(60_000, random_state=1)
    assert (values >= 0).all()
    assert_array_equal(labels, -1)
    activations = estimator.model_.mean_activation.numpy()
    expected = activations @ estimator.components_
    standard_error = values.std(0) / np.sqrt(len(values))
    if beta == 2:  # noise below zero is cut off, so the mean is higher
        assert (values.mean(0) > expected - 5 * standard_error).all()
        noise = float(estimator.model_.noise)
        M = by_hand_model(estimator, X)
        assert_allclose(noise, ((X - M) ** 2).mean(), rtol=0.05, atol=0)
    else:
        assert (np.abs(values.mean(0) - expected) < 5 * standard_error).all()
    spread = values.var(0)
    doubled = (activations[:, None] * estimator.components_) ** 2
    inner = {0: expected**2 + doubled.sum(0), 1: expected, 2: np.zeros_like(expected)}[beta]
    if beta != 2:  # exponential activations have the square of their mean as variance; then the noise of the divergence
        assert_allclose(spread, doubled.sum(0) + inner, rtol=0.15, atol=0)


def by_hand_model(estimator, X):
    return estimator.inverse_transform(estimator.transform(X))


def test_pipeline_names_and_frames():
    estimator = NMF(3, max_iter=3, tol=0.0, random_state=0).fit(spectra())
    assert list(estimator.get_feature_names_out()) == ["nmf0", "nmf1", "nmf2"]
