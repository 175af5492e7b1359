"""Linear dynamics as a model: z_1 ~ N(m, P), z_t = A z_{t-1} + w_t, x_t = C z_t + d + v_t, with w_t ~ N(0, Q) and v_t ~ N(0, R)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor, nn

from unveil.core.model import EMModel, Posterior
from unveil.core.statistics import ModelStatistics, identity
from unveil.data.batch import Batch, Batches
from unveil.errors import InputError
from unveil.kernels import linear_gaussian, linear_gaussian_cpu
from unveil.kernels.gaussian import floor_covariances
from unveil.kernels.linear_gaussian import Filtered, LinearGaussian, completed
from unveil.models.linear_starts import (
    START_STEPS,
    interpolated,
    mean_of,
    principal_states,
    regression_of,
    scatter_of,
    some_sequences,
    stable,
)

PARTS = ("transition", "observation", "transition_noise", "observation_noise", "initial_mean", "initial_covariance")
_START_RADIUS = 0.98  # the first dynamics forget, so that they are told from a trend
_START_NOISE = 0.1  # of the first states, relative to their spread: other seeds make other starts


@dataclass(frozen=True)
class DynamicsStatistics(ModelStatistics):
    """Expected moments of states z, of u = (z, 1), and of observations y = x - center; what is missing of x is expected too.

    Attributes
    ----------
    n_sequences, n_transitions, n_observed : float
        Weighted numbers of sequences, of steps after a first one, and of steps at which something is observed.
    first, first_products : Tensor of shape (K,), (K, K)
        sum E[z_1] and sum E[z_1 z_1'] over sequences.
    before, across, after : Tensor of shape (K, K)
        sum E[z_{t-1} z_{t-1}'], sum E[z_t z_{t-1}'] and sum E[z_t z_t'] over steps after a first one.
    regressors, products, squares : Tensor of shape (K + 1, K + 1), (D, K + 1), (D, D)
        sum E[u u'], sum E[y u'] and sum E[y y'] over steps at which something is observed.
    center : Tensor of shape (D,)
        Where observations are measured from: raw moments of data far from zero cancel.
    """

    n_sequences: float
    n_transitions: float
    n_observed: float
    first: Tensor
    first_products: Tensor
    before: Tensor
    across: Tensor
    after: Tensor
    regressors: Tensor
    products: Tensor
    squares: Tensor
    center: Tensor = identity()


@dataclass(frozen=True)
class DynamicsPosterior(Posterior):
    """The posterior of the states, which is Gaussian.

    Attributes
    ----------
    means, covariances : Tensor of shape (n_steps, K), (n_steps, K, K)
        Of z_t given its whole sequence.
    lagged : Tensor of shape (n_steps, K, K)
        Cov[z_t, z_{t-1} | x]; zeros at the first step of a sequence.
    """

    means: Tensor
    covariances: Tensor
    lagged: Tensor


class LinearDynamics(EMModel):
    """A state of K numbers that follows linear dynamics, seen through a linear map as D numbers.

    Parameters
    ----------
    n_states, n_features : int
        K and D.
    reg_covar : float
        No eigenvalue of a learned covariance falls below it.
    given : dict of str to Tensor
        Starting values that replace the ones found, by the names of the parameters.
    fixed : collection of str
        Of ``PARTS``: what learning leaves as it is. "observation" is both ``observation`` and ``observation_offset``.
    """

    def __init__(
        self,
        n_states: int,
        n_features: int,
        reg_covar: float = 1e-6,
        given: dict[str, Tensor] | None = None,
        fixed: Collection[str] = (),
    ):
        super().__init__()
        self.n_states, self.n_features, self.reg_covar = n_states, n_features, reg_covar
        self.transition = nn.Parameter(0.5 * torch.eye(n_states, dtype=torch.float64))
        self.observation = nn.Parameter(torch.eye(n_features, n_states, dtype=torch.float64))
        self.observation_offset = nn.Parameter(torch.zeros(n_features, dtype=torch.float64))
        self.transition_noise = nn.Parameter(torch.eye(n_states, dtype=torch.float64))
        self.observation_noise = nn.Parameter(torch.eye(n_features, dtype=torch.float64))
        self.initial_mean = nn.Parameter(torch.zeros(n_states, dtype=torch.float64))
        self.initial_covariance = nn.Parameter(torch.eye(n_states, dtype=torch.float64))
        self.register_buffer("center", torch.zeros(n_features, dtype=torch.float64))
        self._given, self._fixed = given or {}, frozenset(fixed)

    @torch.no_grad()
    def initialize(self, batches: Batches, generator: torch.Generator) -> None:
        """Take principal components of windows for states (or see them through the map that is given), and fit everything to them."""
        if batches.n_steps < self.n_states:
            raise InputError(
                f"n_states={self.n_states} but X has {batches.n_steps} steps in all; give more data or use fewer states"
            )
        values, weights, first = some_sequences(batches, START_STEPS, generator)
        self.center.copy_(mean_of(values, weights))
        y = interpolated(values - self.center, first)
        if not bool(scatter_of(y, weights).isfinite().all()):
            raise InputError("the squares of the numbers in X overflow; rescale the data")
        self._take_given()
        noise = _START_NOISE * torch.randn(len(y), self.n_states, dtype=y.dtype, generator=generator).to(y)
        if "observation" in self._given:
            states = (y + self.center - self.observation_offset) @ torch.linalg.pinv(self.observation).T
            states += noise * scatter_of(states - mean_of(states, weights), weights).diagonal().mean().sqrt()
        else:
            states = principal_states(y, weights, first, self.n_states) + noise
        self._fit_to(states, y, weights, first)
        self._take_given()

    def _take_given(self) -> None:
        """Replace what was found by what the user gave; a map that is given has no offset unless that is given too."""
        if "observation" in self._given:
            self.observation_offset.zero_()
        for name, value in self._given.items():
            getattr(self, name).copy_(value)

    def _fit_to(self, states: Tensor, y: Tensor, weights: Tensor, first: Tensor) -> None:
        """Least squares for the maps, and for the noises the scatter of what they leave and a little more, which EM can shrink."""
        eye, later = torch.eye(self.n_states).to(y), ~first[1:]
        spread = scatter_of(states - mean_of(states, weights), weights).diagonal().mean().clamp_min(self._floor)
        before, after, after_weights = states[:-1][later], states[1:][later], weights[1:][later]
        if len(before) and "transition" not in self._given:
            self.transition.copy_(stable(regression_of(after, before, after_weights), _START_RADIUS))
        noise = scatter_of(after - before @ self.transition.T, after_weights) if len(before) else spread * eye
        self.transition_noise.copy_(noise + 0.1 * noise.diagonal().mean().clamp_min(1e-3 * spread) * eye)
        if "observation" not in self._given:
            mapped = regression_of(y, torch.cat([states, torch.ones_like(y[:, :1])], 1), weights)
            self.observation.copy_(mapped[:, :-1])
            self.observation_offset.copy_(mapped[:, -1] + self.center)
        left = y + self.center - self.observation_offset - states @ self.observation.T
        noise = scatter_of(left, weights) + 0.05 * scatter_of(y, weights).diagonal().diag()
        self.observation_noise.copy_(self._floored(noise))
        self.initial_mean.copy_(mean_of(states[first], weights[first]))
        self.initial_covariance.copy_(scatter_of(states[first] - self.initial_mean, weights[first]) + 0.1 * spread * eye)

    @property
    def _floor(self) -> float:
        return max(self.reg_covar, 1e-300)

    def _floored(self, covariance: Tensor) -> Tensor:
        return floor_covariances(0.5 * (covariance + covariance.T), self._floor, "full")

    def objective(self, batch: Batch) -> Tensor:
        """log p(x), by the Kalman filter."""
        return self._kernels.log_likelihood(*self._arguments(batch))

    def _arguments(self, batch: Batch) -> tuple[LinearGaussian, Tensor, Tensor]:
        """The parameters and the data, both about the centre, and the offsets."""
        y = batch.values.double().contiguous() - self.center
        return self._chain(self.observation_offset - self.center), y, batch.offsets

    def _chain(self, offset: Tensor) -> LinearGaussian:
        return LinearGaussian(
            self.transition,
            self.observation,
            offset,
            self.transition_noise,
            self.observation_noise,
            self.initial_mean,
            self.initial_covariance,
        )

    @property
    def _kernels(self) -> ModuleType:
        return linear_gaussian_cpu if self.transition.device.type == "cpu" else linear_gaussian

    @torch.no_grad()
    def expect(self, batch: Batch, *, evaluate: bool = True) -> DynamicsStatistics:
        """The Kalman smoother, and the moments of what it says."""
        chain, y, offsets = self._arguments(batch)
        found = self._kernels.smoothed(chain, y, offsets)
        z, starts, ends = found.means, offsets[:-1].to(y.device), offsets[1:].to(y.device) - 1
        weights = torch.ones_like(y[:, 0]) if batch.weights is None else batch.step_weights.to(y)
        after, before = weights.clone(), weights.clone()
        after[starts], before[ends] = 0.0, 0.0
        missing = y.isnan()
        observed = weights * ~missing.all(1)
        partly = (missing.any(1) & (observed > 0)).nonzero()[:, 0]
        filled = completed(chain, y[partly], z[partly], found.covariances[partly])
        y = y.nan_to_num()
        y[partly] = filled.means
        u = torch.cat([z, torch.ones_like(z[:, :1])], 1)
        regressors, products = (u * observed[:, None]).T @ u, (y * observed[:, None]).T @ u
        regressors[:-1, :-1] += _weighted_sum(observed, found.covariances)
        products[:, :-1] += _weighted_sum(observed[partly], filled.cross)
        return DynamicsStatistics(
            weight=batch.total_weight,
            log_likelihood=float((found.log_likelihood * weights[starts]).sum()),
            n_sequences=float(weights[starts].sum()),
            n_transitions=float(after.sum()),
            n_observed=float(observed.sum()),
            first=weights[starts] @ z[starts],
            first_products=_second_moment(weights[starts], z[starts], found.covariances[starts]),
            before=_second_moment(before, z, found.covariances),
            across=(z[1:] * after[1:, None]).T @ z[:-1] + _weighted_sum(after, found.lagged),
            after=_second_moment(after, z, found.covariances),
            regressors=regressors,
            products=products,
            squares=(y * observed[:, None]).T @ y + _weighted_sum(observed[partly], filled.covariances),
            center=self.center,
        )

    @torch.no_grad()
    def maximize(self, statistics: DynamicsStatistics) -> None:
        """Least squares for both maps, and the scatter of what they leave (Shumway and Stoffer, 1982); no data, no change."""
        s, learned = statistics, set(PARTS) - self._fixed
        if s.n_transitions > 0:
            if "transition" in learned:
                self.transition.copy_(_least_squares(s.across, s.before))
            if "transition_noise" in learned:
                left = _residual(self.transition, s.after, s.across, s.before)
                self.transition_noise.copy_(self._floored(left / s.n_transitions))
        if s.n_observed > 0:
            if "observation" in learned:
                mapped = _least_squares(s.products, s.regressors)
                self.observation.copy_(mapped[:, :-1])
                self.observation_offset.copy_(mapped[:, -1] + self.center)
            if "observation_noise" in learned:
                mapped = torch.cat([self.observation, (self.observation_offset - self.center)[:, None]], 1)
                left = _residual(mapped, s.squares, s.products, s.regressors)
                self.observation_noise.copy_(self._floored(left / s.n_observed))
        if s.n_sequences > 0:
            if "initial_mean" in learned:
                self.initial_mean.copy_(s.first / s.n_sequences)
            if "initial_covariance" in learned:
                mean, one = self.initial_mean[:, None], torch.full_like(s.first[:1, None], s.n_sequences)
                left = _residual(mean, s.first_products, s.first[:, None], one)
                self.initial_covariance.copy_(self._floored(left / s.n_sequences))

    @torch.no_grad()
    def posterior(self, batch: Batch) -> DynamicsPosterior:
        """The Kalman smoother."""
        found = self._kernels.smoothed(*self._arguments(batch))
        return DynamicsPosterior(found.log_likelihood, found.means, found.covariances, found.lagged)

    @torch.no_grad()
    def filtered(self, batch: Batch) -> Filtered:
        """The Kalman filter: without a look into the future."""
        return self._kernels.filtered(*self._arguments(batch))

    @torch.no_grad()
    def forecast(self, batch: Batch, n_steps: int) -> tuple[Tensor, Tensor]:
        """Means (n_sequences, n_steps, D) and covariances of the observations that follow each sequence."""
        found, last = self.filtered(batch), batch.offsets[1:].to(batch.values.device) - 1
        mean, covariance, means, covariances = found.means[last], found.covariances[last], [], []
        for _ in range(n_steps):
            mean = mean @ self.transition.T
            covariance = self.transition @ covariance @ self.transition.T + self.transition_noise
            means.append(mean @ self.observation.T + self.observation_offset)
            covariances.append(self.observation @ covariance @ self.observation.T + self.observation_noise)
        return torch.stack(means, 1), torch.stack(covariances, 1)

    @torch.no_grad()
    def impute(self, batch: Batch) -> Tensor:
        """The values with E[missing | all that is observed of the sequence] in place of NaN."""
        chain, y, offsets = self._arguments(batch)
        found, values = self._kernels.smoothed(chain, y, offsets), batch.values.double()
        rows = y.isnan().any(1).nonzero()[:, 0]
        expected = completed(chain, y[rows], found.means[rows], found.covariances[rows]).means + self.center
        return values.index_put((rows,), torch.where(y[rows].isnan(), expected, values[rows]))

    @torch.no_grad()
    def sample(self, n_sequences: int, length: int, generator: torch.Generator) -> Batch:
        """Sequences of observations; the states have no classes, so there are no labels."""

        def noise(covariance: Tensor, n: int) -> Tensor:
            drawn = torch.randn(n, len(covariance), dtype=covariance.dtype, generator=generator)
            return drawn.to(covariance) @ _square_root(covariance)

        states = [self.initial_mean + noise(self.initial_covariance, n_sequences)]
        for _ in range(length - 1):
            states.append(states[-1] @ self.transition.T + noise(self.transition_noise, n_sequences))
        values = torch.stack(states, 1).flatten(0, 1) @ self.observation.T + self.observation_offset
        return Batch(values + noise(self.observation_noise, len(values)), torch.arange(n_sequences + 1) * length)

    def count_parameters(self) -> int:
        """The entries of what is learned, less K^2 where all is: any invertible K x K change of the states' basis gives the same p(x)."""
        k, d = self.n_states, self.n_features
        triangle = k * (k + 1) // 2
        sizes = dict(zip(PARTS, (k * k, d * k + d, triangle, d * (d + 1) // 2, k, triangle), strict=True))
        free = sum(size for name, size in sizes.items() if name not in self._fixed)
        return free if self._fixed - {"observation_noise"} else free - k * k


def _weighted_sum(weights: Tensor, matrices: Tensor) -> Tensor:
    return (weights @ matrices.flatten(1)).view(matrices.shape[1:])


def _second_moment(weights: Tensor, means: Tensor, covariances: Tensor) -> Tensor:
    """sum_t w_t E[z_t z_t']."""
    return (means * weights[:, None]).T @ means + _weighted_sum(weights, covariances)


def _least_squares(products: Tensor, regressors: Tensor) -> Tensor:
    """The map B with B E[u u'] = E[y u']; the shortest one where the regressors depend on each other."""
    factor, info = torch.linalg.cholesky_ex(regressors)
    if int(info) == 0:
        return torch.cholesky_solve(products.T, factor).T
    return products @ torch.linalg.pinv(regressors, hermitian=True)


def _residual(mapped: Tensor, squares: Tensor, products: Tensor, regressors: Tensor) -> Tensor:
    """sum E[(y - B u)(y - B u)']."""
    explained = products @ mapped.T
    return squares - explained - explained.T + mapped @ regressors @ mapped.T


def _square_root(covariance: Tensor) -> Tensor:
    """The symmetric square root, also of a singular matrix."""
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.T
