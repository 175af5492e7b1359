"""Linear Gaussian chains against the joint Gaussian distribution of all states and observations, written out as one matrix."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import multivariate_normal

from unveil.kernels import linear_gaussian, linear_gaussian_cpu
from unveil.kernels.linear_gaussian import LinearGaussian, completed

KERNELS = pytest.mark.parametrize("kernels", [linear_gaussian, linear_gaussian_cpu], ids=["definition", "twin"])
LENGTHS = [5, 1, 7, 5, 3]


def covariance(rng, size):
    root = rng.normal(size=(size, size))
    return root @ root.T + 0.1 * np.eye(size)


def draw_chain(seed=0, n_states=3, n_features=2):
    rng = np.random.default_rng(seed)
    transition = rng.normal(size=(n_states, n_states))
    parts = (
        0.8 * transition / np.abs(np.linalg.eigvals(transition)).max(),
        rng.normal(size=(n_features, n_states)),
        rng.normal(size=n_features),
        covariance(rng, n_states),
        covariance(rng, n_features),
        rng.normal(size=n_states),
        covariance(rng, n_states),
    )
    return LinearGaussian(*(torch.from_numpy(each) for each in parts))


def draw_values(lengths=LENGTHS, n_features=2, *, missing=0.0, seed=1):
    rng = np.random.default_rng(seed)
    values = 2.0 * rng.normal(size=(sum(lengths), n_features))
    values[rng.random(values.shape) < missing] = np.nan
    return torch.from_numpy(values), torch.tensor([0, *np.cumsum(lengths)])


class Dense:
    """Mean and covariance of (z_1 .. z_T, x_1 .. x_T) as sums of independent noises, and conditioning by the textbook formula."""

    def __init__(self, chain, n_steps):
        a, c, d, q, r, m, p = (each.numpy() for each in chain)
        k, n_features = len(a), len(d)
        powers = [np.linalg.matrix_power(a, t) for t in range(n_steps)]
        by_noise = np.block([[powers[t - s] if s <= t else 0 * a for s in range(n_steps)] for t in range(n_steps)])
        noises = np.zeros((n_steps * k, n_steps * k))
        for t in range(n_steps):
            noises[t * k : (t + 1) * k, t * k : (t + 1) * k] = q if t else p
        seen = np.kron(np.eye(n_steps), c)
        states = by_noise @ noises @ by_noise.T
        z = np.concatenate([power @ m for power in powers])
        self.mean = np.concatenate([z, seen @ z + np.tile(d, n_steps)])
        self.covariance = np.block(
            [[states, states @ seen.T], [seen @ states, seen @ states @ seen.T + np.kron(np.eye(n_steps), r)]]
        )
        self.n_steps, self.k, self.n_features = n_steps, k, n_features

    def state(self, t):
        return slice(t * self.k, (t + 1) * self.k)

    def observation(self, t):
        start = self.n_steps * self.k + t * self.n_features
        return slice(start, start + self.n_features)

    def given(self, x, n_known=None):
        """The distribution of everything given what is observed of the first ``n_known`` steps of x (T, D)."""
        known = x.copy()
        known[n_known if n_known is not None else len(x) :] = np.nan
        rows = self.n_steps * self.k + np.flatnonzero(~np.isnan(known))
        if len(rows) == 0:
            return self.mean, self.covariance
        gain = self.covariance[:, rows] @ np.linalg.inv(self.covariance[np.ix_(rows, rows)])
        values = known.ravel()[rows - self.n_steps * self.k]
        return self.mean + gain @ (values - self.mean[rows]), self.covariance - gain @ self.covariance[rows]

    def log_density(self, x, n_known=None):
        known = x[:n_known]
        rows = self.n_steps * self.k + np.flatnonzero(~np.isnan(known))
        if len(rows) == 0:
            return 0.0
        density = multivariate_normal(self.mean[rows], self.covariance[np.ix_(rows, rows)])
        return density.logpdf(known.ravel()[~np.isnan(known.ravel())])


def sequences_of(values, offsets):
    for start, stop in zip(offsets.tolist(), offsets[1:].tolist(), strict=False):
        yield start, values[start:stop].numpy()


@KERNELS
@pytest.mark.parametrize("missing", [0.0, 0.4], ids=["complete", "missing"])
@pytest.mark.parametrize(("n_states", "n_features"), [(3, 2), (1, 1), (2, 4)])
def test_filter_is_the_joint_gaussian_given_the_past(kernels, missing, n_states, n_features):
    chain = draw_chain(2, n_states, n_features)
    values, offsets = draw_values(n_features=n_features, missing=missing)
    found = kernels.filtered(chain, values, offsets)
    for start, x in sequences_of(values, offsets):
        dense = Dense(chain, len(x))
        for t in range(len(x)):
            state = dense.state(t)
            for n_known, means, covariances in (
                (t, found.predicted_means, found.predicted_covariances),
                (t + 1, found.means, found.covariances),
            ):
                mean, cov = dense.given(x, n_known)
                assert_allclose(means[start + t], mean[state], rtol=1e-9, atol=1e-10)
                assert_allclose(covariances[start + t], cov[state, state], rtol=1e-9, atol=1e-10)
            gain = dense.log_density(x, t + 1) - dense.log_density(x, t)
            assert_allclose(found.log_densities[start + t], gain, rtol=1e-8, atol=1e-9)


@KERNELS
@pytest.mark.parametrize("missing", [0.0, 0.4, 1.0], ids=["complete", "missing", "nothing"])
@pytest.mark.parametrize(("n_states", "n_features"), [(3, 2), (1, 1), (2, 4)])
def test_smoother_is_the_joint_gaussian_given_everything(kernels, missing, n_states, n_features):
    chain = draw_chain(3, n_states, n_features)
    values, offsets = draw_values(n_features=n_features, missing=missing)
    found = kernels.smoothed(chain, values, offsets)
    for n, (start, x) in enumerate(sequences_of(values, offsets)):
        dense = Dense(chain, len(x))
        mean, cov = dense.given(x)
        assert_allclose(found.log_likelihood[n], dense.log_density(x), rtol=1e-10, atol=1e-10)
        for t in range(len(x)):
            state = dense.state(t)
            assert_allclose(found.means[start + t], mean[state], rtol=1e-9, atol=1e-10)
            assert_allclose(found.covariances[start + t], cov[state, state], rtol=1e-9, atol=1e-10)
            expected = cov[state, dense.state(t - 1)] if t else np.zeros((n_states, n_states))
            assert_allclose(found.lagged[start + t], expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("missing", [0.0, 0.5, 1.0], ids=["complete", "missing", "nothing"])
def test_completed_observations_are_the_joint_gaussian(missing):
    chain = draw_chain(4, 2, 3)
    values, offsets = draw_values(n_features=3, missing=missing)
    smoothed = linear_gaussian.smoothed(chain, values, offsets)
    found = completed(chain, values, smoothed.means, smoothed.covariances)
    for start, x in sequences_of(values, offsets):
        dense = Dense(chain, len(x))
        mean, cov = dense.given(x)
        for t in range(len(x)):
            here = dense.observation(t)
            assert_allclose(found.means[start + t], mean[here], rtol=1e-9, atol=1e-10)
            assert_allclose(found.covariances[start + t], cov[here, here], rtol=1e-9, atol=1e-10)
            assert_allclose(found.cross[start + t], cov[here, dense.state(t)], rtol=1e-9, atol=1e-10)


@KERNELS
def test_singular_noises_are_allowed(kernels):
    """A target with a known start, pushed along one direction only: no covariance of the states has full rank at first."""
    chain = draw_chain(5)
    push = torch.tensor([[0.5], [1.0], [0.0]], dtype=torch.float64)
    chain = chain._replace(transition_noise=push @ push.T, initial_covariance=torch.zeros(3, 3, dtype=torch.float64))
    values, offsets = draw_values(missing=0.3)
    found = kernels.smoothed(chain, values, offsets)
    for n, (start, x) in enumerate(sequences_of(values, offsets)):
        dense = Dense(chain, len(x))
        mean, cov = dense.given(x)
        assert_allclose(found.log_likelihood[n], dense.log_density(x), rtol=1e-10, atol=1e-10)
        for t in range(len(x)):
            assert_allclose(found.means[start + t], mean[dense.state(t)], rtol=1e-9, atol=1e-10)
            assert_allclose(found.covariances[start + t], cov[dense.state(t), dense.state(t)], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("missing", [0.0, 0.02, 0.3], ids=["complete", "rarely missing", "missing"])
@pytest.mark.parametrize("lengths", [[90, 40, 90, 1, 89], [1, 1], [120]], ids=["ragged", "points", "long"])
def test_twin_is_the_definition(missing, lengths):
    """Also where covariances have settled, and where sequences of one length share theirs."""
    chain = draw_chain(6, 4, 3)
    values, offsets = draw_values(lengths, 3, missing=missing)
    for verb in ("filtered", "smoothed"):
        expected, found = (getattr(each, verb)(chain, values, offsets) for each in (linear_gaussian, linear_gaussian_cpu))
        for name, value in vars(expected).items():
            assert_allclose(getattr(found, name), value, rtol=1e-9, atol=1e-11, err_msg=name)
    expected, found = (each.log_likelihood(chain, values, offsets) for each in (linear_gaussian, linear_gaussian_cpu))
    assert_allclose(found, expected, rtol=1e-11, atol=0)


@KERNELS
def test_gradient_is_that_of_finite_differences(kernels):
    values, offsets = draw_values([3, 1], missing=0.3)

    def total(*parts):
        """Of symmetric covariances, whatever is moved."""
        symmetric = [part + part.T if i in (3, 4, 6) else part for i, part in enumerate(parts)]
        return kernels.log_likelihood(LinearGaussian(*symmetric), values, offsets).sum()

    parts = [part / 2 if i in (3, 4, 6) else part for i, part in enumerate(draw_chain(7))]
    assert torch.autograd.gradcheck(total, [part.clone().requires_grad_() for part in parts], rtol=1e-5, atol=1e-7)


@KERNELS
def test_covariances_stay_positive_when_a_vague_prior_meets_precise_observations(kernels):
    """Where P - G C P, the short form of the update, is not symmetric or not positive any more."""
    chain = draw_chain(8, 4, 2)
    chain = chain._replace(
        initial_covariance=1e4 * torch.eye(4, dtype=torch.float64), observation_noise=1e-4 * torch.eye(2, dtype=torch.float64)
    )
    values, offsets = draw_values([20])
    for each in (kernels.filtered(chain, values, offsets), kernels.smoothed(chain, values, offsets)):
        assert_array_equal(each.covariances, each.covariances.mT)
        assert torch.linalg.eigvalsh(each.covariances).min() > 0


@KERNELS
def test_inputs_are_not_written_to(kernels):
    chain, (values, offsets) = draw_chain(9), draw_values(missing=0.3)
    before = [each.clone() for each in (*chain, values)]
    kernels.smoothed(chain, values, offsets)
    kernels.filtered(chain, values, offsets)
    for mine, kept in zip((*chain, values), before, strict=True):
        assert_array_equal(mine, kept)


def test_a_noise_that_is_not_positive_gives_no_number():
    """The twin says NaN, by which learning stops; the definition raises."""
    chain, (values, offsets) = draw_chain(10), draw_values()
    chain = chain._replace(observation_noise=-100.0 * torch.eye(2, dtype=torch.float64))
    assert torch.isnan(linear_gaussian_cpu.log_likelihood(chain, values, offsets)).all()
    with pytest.raises(torch.linalg.LinAlgError):
        linear_gaussian.log_likelihood(chain, values, offsets)
