"""What one asks of a fitted hidden Markov model, whatever its emission."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unveil.core.estimator import as_array
from unveil.core.model import Imputes, Moments
from unveil.errors import InputError
from unveil.models.chain_mixture import ChainMixture


@dataclass(frozen=True)
class Forecast:
    """What comes after the end of each sequence; for a single sequence without the first axis.

    Attributes
    ----------
    states : ndarray of shape (n_sequences, n_steps, M)
        p(z_{T+h} | x_1 .. x_T).
    mean, standard_deviation : ndarray of shape (n_sequences, n_steps, D), or None
        Of x_{T+h} given x_1 .. x_T; None where the emission has no moments, as symbols have none.
    """

    states: np.ndarray
    mean: np.ndarray | None
    standard_deviation: np.ndarray | None


class HiddenStatesMixin:
    """The verbs of an estimator whose model is one hidden Markov chain."""

    model_: ChainMixture
    _map: Any
    _read: Any
    _fitted_model: Any
    _generator: Any

    def predict(self, X: Any, *, lengths: Any = None) -> Any:
        """The most probable path of states (Viterbi): one integer for each step, in the form of X."""
        path, layout = self._map(X, lengths, lambda batch: self.model_.viterbi(batch)[0])
        return layout.per_step(path)

    def decode(self, X: Any, *, lengths: Any = None) -> tuple[np.ndarray, Any]:
        """log p(x, path) of each sequence (n_sequences,), and the most probable paths: the true joint log-probability."""
        score, layout = self._map(X, lengths, lambda batch: self.model_.viterbi(batch)[1])
        return layout.per_item(score), self.predict(X, lengths=lengths)

    def predict_proba(self, X: Any, *, lengths: Any = None) -> Any:
        """Smoothed posteriors p(z_t | x_1 .. x_T): (n_steps, M), in the form of X."""
        states, layout = self._map(X, lengths, lambda batch: self.model_.posterior(batch).states[:, 0])
        return layout.per_step(states)

    def filter_proba(self, X: Any, *, lengths: Any = None) -> Any:
        """Filtered posteriors p(z_t | x_1 .. x_t), which use no later observation: (n_steps, M), in the form of X."""
        states, layout = self._map(X, lengths, lambda batch: self.model_.filtered(batch)[:, 0])
        return layout.per_step(states)

    def score_steps(self, X: Any, *, lengths: Any = None) -> Any:
        """How surprising each step is after those before it: -log p(x_t | x_1 .. x_{t-1}) in nats, in the form of X.

        An anomaly score. Over a sequence it adds up to minus its log-likelihood.
        """
        surprise, layout = self._map(X, lengths, lambda batch: -self.model_.predicted(batch)[1][:, 0])
        return layout.per_step(surprise)

    def impute(self, X: Any, *, lengths: Any = None) -> Any:
        """X with E[missing | everything observed] in place of NaN, in the form of X; frames may be missing entirely."""
        model = self._fitted_model()
        if not isinstance(model.emission, Imputes):
            raise InputError(f"{type(model.emission).__name__} emissions do not take missing values; there is nothing to impute")
        filled, layout = self._map(
            X, lengths, lambda batch: model.emission.impute(batch.values.double(), model.density_posterior(batch))
        )
        return layout.per_step(filled)

    def sample_posterior(self, X: Any, n_samples: int = 1, *, lengths: Any = None, random_state: Any = None) -> list[Any]:
        """Paths of states drawn from p(z | x): ``n_samples`` of them, each in the form of X.

        Unlike the best path they show how sure the model is.
        """
        _at_least_one("n_samples", n_samples)
        batches, layout = self._read(X, lengths)
        self._fitted_model().to(batches.device)
        generator = self._generator(random_state)
        draws = [
            torch.cat([self.model_.sample_paths(batch, generator) for batch in batches.replace(labels=None)])
            for _ in range(n_samples)
        ]
        return [layout.per_step(path) for path in draws]

    def forecast(self, X: Any, n_steps: int = 1, *, lengths: Any = None) -> Forecast:
        """States and observations ``1 .. n_steps`` steps after the end of each sequence.

        p(z_{T+h} | x) = p(z_T | x) A^h, and the mean and standard deviation of x_{T+h} follow from the states'.
        """
        _at_least_one("n_steps", n_steps)
        ends, layout = self._map(X, lengths, lambda batch: self.model_.filtered(batch)[batch.offsets[1:] - 1, 0])
        transition, states = self.model_.transition[0].detach(), [ends]
        for _ in range(n_steps):
            states.append(states[-1] @ transition)
        ahead = torch.stack(states[1:], 1)
        squeeze = layout.form == "array" and len(ahead) == 1
        mean, deviation = self._moments(ahead)
        return Forecast(*(None if each is None else as_array(each[0] if squeeze else each) for each in (ahead, mean, deviation)))

    def _moments(self, states: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Mean and standard deviation of the observations under state probabilities (..., M)."""
        emission = self.model_.emission
        if not isinstance(emission, Moments):
            return None, None
        means, variances = (each.detach() for each in emission.moments())
        if self.model_.structure.groups is not None:
            means, variances = means[self.model_.structure.groups], variances[self.model_.structure.groups]
        mean = states @ means
        return mean, (states @ (variances + means.square()) - mean.square()).clamp_min(0.0).sqrt()

    @property
    def startprob_(self) -> np.ndarray:
        """The initial probabilities pi, of shape (M,)."""
        return as_array(self.model_.initial[0])

    @property
    def transmat_(self) -> np.ndarray:
        """The transition probabilities A, of shape (M, M): rows are where from."""
        return as_array(self.model_.transition[0])


def _at_least_one(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise InputError(f"{name}={value!r}: expected a whole number that is at least 1")
