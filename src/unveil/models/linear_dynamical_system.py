"""The linear dynamical system: z_1 ~ N(m, P), z_t = A z_{t-1} + w_t, x_t = C z_t + d + v_t; its model is in ``linear_dynamics``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unveil.core.constraints import as_covariances, as_shape, integer, real
from unveil.core.estimator import Estimator, as_array
from unveil.core.history import History
from unveil.data.batch import Batch, Batches
from unveil.errors import InputError, ParameterError
from unveil.learn.restarts import EM_CONSTRAINTS, em_from_starts, em_settings
from unveil.models.linear_dynamics import PARTS, LinearDynamics


def _check_fixed(name: str, value: Any) -> None:
    """None, or names of parts."""
    names = () if value is None else value
    if not isinstance(names, (tuple, list)) or not all(isinstance(each, str) and each in PARTS for each in names):
        raise ParameterError(f"{name}={value!r}: expected a tuple of names out of {', '.join(PARTS)}")


def _as_semidefinite(name: str, value: Any, shape: tuple[int, ...]) -> Tensor:
    """A covariance that may be singular."""
    matrix = as_shape(name, value, shape)
    if not torch.allclose(matrix, matrix.T) or torch.linalg.eigvalsh(matrix)[0] < -1e-12 * matrix.abs().max():
        raise ParameterError(f"{name} is not symmetric and positive semidefinite; check it")
    return matrix


class LinearDynamicalSystem(Estimator):
    """Linear dynamical system (Gaussian state space model), learned by maximum likelihood with EM.

    A hidden state of K numbers moves by linear dynamics, and is observed through a linear map, both with Gaussian noise::

        z_1 ~ N(m, P),   z_t = A z_{t-1} + w_t,   w_t ~ N(0, Q),   x_t = C z_t + d + v_t,   v_t ~ N(0, R).

    NaN is a missing value: single ones and whole steps are integrated out, in learning and afterwards. With known dynamics, which
    ``fixed`` keeps as they are given, this is the Kalman smoother for tracking. ``X`` is a list of 2-D arrays (length, n_features) of any
    lengths; or one 2-D array, a single sequence unless ``lengths`` divides it.

    Parameters
    ----------
    n_states : int
        K, the dimension of the hidden state.
    transition_init : array of shape (K, K), optional
        A.
    observation_init : array of shape (D, K), optional
        C; where it is given, d starts at zero.
    observation_offset_init : array of shape (D,), optional
        d.
    transition_noise_init : array of shape (K, K), optional
        Q, which may be singular.
    observation_noise_init : array of shape (D, D), optional
        R.
    initial_mean_init : array of shape (K,), optional
        m.
    initial_covariance_init : array of shape (K, K), optional
        P, which may be singular. Starting values replace the ones found; what is given without the others has them fitted to it.
    fixed : sequence of str, optional
        What learning leaves as it is given: "transition", "observation" (C and d), "transition_noise", "observation_noise",
        "initial_mean", "initial_covariance".
    tol : float
        EM stops when an iteration gains less than this, in nats per step.
    max_iter : int
        The most EM iterations.
    reg_covar : float
        No eigenvalue of a learned covariance falls below this, in squared units of the states or the data.
    random_state : int, RandomState or None
        Seeds the start and the samples.
    warm_start : bool
        Whether ``fit`` goes on from the fitted parameters, where there are some.
    verbose : int
        1 shows the progress.
    reduce : {"threads", "serial"}
        Where the E-step runs: batches side by side on all cores, or one after the other.

    Attributes
    ----------
    transition_ : ndarray of shape (K, K)
    observation_ : ndarray of shape (D, K)
    observation_offset_ : ndarray of shape (D,)
    transition_noise_ : ndarray of shape (K, K)
    observation_noise_ : ndarray of shape (D, D)
    initial_mean_ : ndarray of shape (K,)
    initial_covariance_ : ndarray of shape (K, K)
        The states are known up to an invertible linear map, unless what is fixed settles it.
    converged_ : bool
    n_iter_ : int
    history_ : History

    References
    ----------
    Shumway and Stoffer (1982), An approach to time series smoothing and forecasting using the EM algorithm.
    Ghahramani and Hinton (1996), Parameter estimation for linear dynamical systems.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> X = np.cumsum(rng.normal(size=(200, 1)), axis=0) + rng.normal(size=(200, 1))
    >>> X[80:90] = np.nan
    >>> system = LinearDynamicalSystem(n_states=1, tol=0.01, random_state=0).fit(X)
    >>> bool(np.isnan(system.impute(X)).any())
    False
    >>> mean, covariance = system.forecast(X, n_steps=3)
    >>> mean.shape, covariance.shape
    ((1, 3, 1), (1, 3, 1, 1))
    """

    items = "sequences"
    allows_nan = True
    constraints = EM_CONSTRAINTS | {"n_states": integer(1), "reg_covar": real(0.0), "fixed": _check_fixed}

    def __init__(
        self,
        n_states: int = 2,
        *,
        transition_init: Any = None,
        observation_init: Any = None,
        observation_offset_init: Any = None,
        transition_noise_init: Any = None,
        observation_noise_init: Any = None,
        initial_mean_init: Any = None,
        initial_covariance_init: Any = None,
        fixed: Any = None,
        tol: float = 1e-4,
        max_iter: int = 100,
        reg_covar: float = 1e-6,
        random_state: Any = None,
        warm_start: bool = False,
        verbose: int = 0,
        reduce: str = "threads",
    ):
        self.n_states = n_states
        self.transition_init = transition_init
        self.observation_init = observation_init
        self.observation_offset_init = observation_offset_init
        self.transition_noise_init = transition_noise_init
        self.observation_noise_init = observation_noise_init
        self.initial_mean_init = initial_mean_init
        self.initial_covariance_init = initial_covariance_init
        self.fixed = fixed
        self.tol = tol
        self.max_iter = max_iter
        self.reg_covar = reg_covar
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose
        self.reduce = reduce

    def build(self, n_features: int) -> LinearDynamics:
        """The dynamics, with what is given."""
        given = self._given(self.n_states, n_features)
        fixed = tuple(self.fixed or ())
        for name in fixed:
            if name not in given:
                raise ParameterError(f"fixed holds {name!r}, but {name}_init is not given; give the value to hold")
        return LinearDynamics(self.n_states, n_features, self.reg_covar, given, fixed)

    def _given(self, k: int, d: int) -> dict[str, Tensor]:
        """The user's starting values, checked."""
        checks: dict[str, Callable[[str, Any], Tensor]] = {
            "transition": lambda name, value: as_shape(name, value, (k, k)),
            "observation": lambda name, value: as_shape(name, value, (d, k)),
            "observation_offset": lambda name, value: as_shape(name, value, (d,)),
            "transition_noise": lambda name, value: _as_semidefinite(name, value, (k, k)),
            "observation_noise": lambda name, value: as_covariances(name, value, (d, d), "full"),
            "initial_mean": lambda name, value: as_shape(name, value, (k,)),
            "initial_covariance": lambda name, value: _as_semidefinite(name, value, (k, k)),
        }
        values = {name: getattr(self, f"{name}_init") for name in checks}
        return {name: check(f"{name}_init", values[name]) for name, check in checks.items() if values[name] is not None}

    def learn(self, model: LinearDynamics, batches: Batches, generator: torch.Generator) -> History:
        """EM from one start."""
        return em_from_starts(model, batches, generator, **em_settings(self))

    def smooth(self, X: Any, *, lengths: Any = None, return_cov: bool = False) -> Any:
        """E[z_t | x_1 .. x_T], and with ``return_cov`` also the covariances: (n_steps, K) and (n_steps, K, K), in the form of X."""
        return self._states(X, lengths, lambda model, batch: model.posterior(batch), return_cov)

    def filter(self, X: Any, *, lengths: Any = None, return_cov: bool = False) -> Any:
        """E[z_t | x_1 .. x_t], which uses no later observation, and with ``return_cov`` also the covariances."""
        return self._states(X, lengths, lambda model, batch: model.filtered(batch), return_cov)

    def _states(self, X: Any, lengths: Any, infer: Callable[[LinearDynamics, Batch], Any], return_cov: bool) -> Any:
        def packed(batch: Batch) -> Tensor:
            found = infer(self.model_, batch)
            return torch.cat([found.means, found.covariances.flatten(1)], 1) if return_cov else found.means

        states, layout = self._map(X, lengths, packed)
        k = self.model_.n_states
        if not return_cov:
            return layout.per_step(states)
        return layout.per_step(states[:, :k]), layout.per_step(states[:, k:].unflatten(1, (k, k)))

    def transform(self, X: Any, *, lengths: Any = None) -> Any:
        """The smoothed means of the states: ``smooth(X)``."""
        return self.smooth(X, lengths=lengths)

    def forecast(self, X: Any, n_steps: int = 1, *, lengths: Any = None) -> tuple[Any, Any]:
        """What follows each sequence: means (n_sequences, n_steps, D) and covariances (n_sequences, n_steps, D, D) of observations."""
        if isinstance(n_steps, bool) or not isinstance(n_steps, (int, np.integer)) or n_steps < 1:
            raise InputError(f"n_steps={n_steps!r}: expected a whole number >= 1")

        def packed(batch: Batch) -> Tensor:
            means, covariances = self.model_.forecast(batch, n_steps)
            return torch.cat([means, covariances.flatten(2)], 2)

        ahead, layout = self._map(X, lengths, packed)
        d = self.n_features_in_
        return layout.per_item(ahead[..., :d]), layout.per_item(ahead[..., d:].unflatten(2, (d, d)))

    def impute(self, X: Any, *, lengths: Any = None) -> Any:
        """X with E[missing | all that is observed of the sequence] in place of NaN."""
        values, layout = self._map(X, lengths, lambda batch: self.model_.impute(batch))
        return layout.per_step(values)

    def score_steps(self, X: Any, *, lengths: Any = None) -> Any:
        """-log p(x_t | x_1 .. x_{t-1}) in nats: how surprising each step is; 0 where it is missing. Shape (n_steps,), in the form of X."""
        surprise, layout = self._map(X, lengths, lambda batch: -self.model_.filtered(batch).log_densities)
        return layout.per_step(surprise)

    def bic(self, X: Any, *, lengths: Any = None) -> float:
        """Bayesian information criterion on X (lower is better), with n the number of steps at which something is observed.

        Where everything is learned the K^2 directions in which only the basis of the states changes are not counted.
        """
        observed, _ = self._map(X, lengths, lambda batch: (~batch.values.isnan()).any(1).double())
        return self._deviance(X, lengths) + self.model_.count_parameters() * float(observed.sum().log())

    def aic(self, X: Any, *, lengths: Any = None) -> float:
        """Akaike information criterion on X (lower is better); see ``bic`` for what is counted."""
        return self._deviance(X, lengths) + 2.0 * self.model_.count_parameters()

    def _deviance(self, X: Any, lengths: Any) -> float:
        return -2.0 * float(self.score_samples(X, lengths=lengths).sum())

    @property
    def transition_(self) -> np.ndarray:
        """The dynamics A, of shape (K, K)."""
        return as_array(self.model_.transition)

    @property
    def observation_(self) -> np.ndarray:
        """The map C from states to observations, of shape (D, K)."""
        return as_array(self.model_.observation)

    @property
    def observation_offset_(self) -> np.ndarray:
        """The observation d of the state zero, of shape (D,)."""
        return as_array(self.model_.observation_offset)

    @property
    def transition_noise_(self) -> np.ndarray:
        """The covariance Q, of shape (K, K)."""
        return as_array(self.model_.transition_noise)

    @property
    def observation_noise_(self) -> np.ndarray:
        """The covariance R, of shape (D, D)."""
        return as_array(self.model_.observation_noise)

    @property
    def initial_mean_(self) -> np.ndarray:
        """The mean m of the first state, of shape (K,)."""
        return as_array(self.model_.initial_mean)

    @property
    def initial_covariance_(self) -> np.ndarray:
        """The covariance P of the first state, of shape (K, K)."""
        return as_array(self.model_.initial_covariance)
