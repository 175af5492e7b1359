"""The public face of every model: scikit-learn's verbs over points, ragged sequences and streams."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar, Self, final

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from unveil.core.constraints import Check
from unveil.core.history import History
from unveil.core.model import Model
from unveil.core.reading import ReadsData
from unveil.core.run import Run
from unveil.core.storage import as_json, read_model, write_model
from unveil.data.batch import Batch, Batches
from unveil.data.layout import (
    Layout,
)
from unveil.data.minibatches import fingerprint
from unveil.data.workers import map_batches
from unveil.errors import InputError, ModelFileError, ParameterError


def _can_sample(estimator: Estimator) -> bool:
    return estimator.can_sample


def _has_likelihood(estimator: Estimator) -> bool:
    return estimator.has_likelihood


class Estimator(ReadsData, BaseEstimator, ABC):
    """An estimator says which model it builds and which learner improves it; the rest is here and final.

    ``X`` is a 2-D array: one point in each row for a model of points; for a model of sequences ONE sequence, or several with
    ``lengths=``. A model of sequences also takes a list of 2-D arrays of different lengths, or a 3-D array. Every
    estimator takes ``Batches``, in memory or on disk. Arrays give arrays, tensors give tensors on their device, and the
    work is done where the data is.

    Attributes
    ----------
    model_ : Model
        The fitted model, a ``torch.nn.Module``.
    history_ : History
        The objective at each iteration, and how the fit ended.
    n_features_in_ : int
        The width of the data.
    """

    constraints: ClassVar[dict[str, Check]] = {}
    saved_as: ClassVar[dict[str, Callable[[Any], Any]]] = {}
    has_likelihood: ClassVar[bool] = True  # without one there is nothing to score
    can_sample: ClassVar[bool] = True
    learns_in_epochs: ClassVar[bool] = False  # then ``learn`` also takes a ``Run``

    model_: Any
    history_: History
    feature_names_in_: np.ndarray

    @abstractmethod
    def build(self, n_features: int) -> Model:
        """The model, with the right shapes and no data seen."""

    @abstractmethod
    def learn(self, model: Any, batches: Batches, generator: torch.Generator, *run: Run) -> History:
        """Choose the model's start and improve it: one call of a learner.

        The ``Run`` comes to those that learn in epochs; others leave it out.
        """

    @final
    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        lengths: Any = None,
        sample_weight: Any = None,
        validation: Any = None,
        checkpoint: Any = None,
        callbacks: Iterable[Callable[[Any], bool | None]] = (),
    ) -> Self:
        """Learn the parameters.

        Parameters
        ----------
        X : array-like, list of arrays, tensor or Batches
            The data; see the class.
        y : array-like of int, or list of them, optional
            Known classes, -1 where unknown: for estimators that say so, which then learn with these fixed. Others ignore it.
        lengths : sequence of int, optional
            For a model of sequences: the lengths of the sequences in the rows of X.
        sample_weight : array-like of shape (n_items,), optional
            How often each point (or sequence) counts.
        validation : array-like, list of arrays, tensor or Batches, optional
            For neural models: held-out data to stop early by, in place of a part of X. Of sequences, a list.
        checkpoint : path, optional
            For neural models: a folder in which the training is kept as it goes on. Where it holds an unfinished one of the same
            settings and data, that is gone on from, and ends as if it had never stopped.
        callbacks : iterable of callable
            For neural models: each is called after every epoch, and stops the training by returning True.

        Returns
        -------
        self
        """
        earlier = dict(vars(self))
        try:
            self._check_parameters()
            batches = self._read_labelled(X, y, lengths, sample_weight, reset=True)
            self.n_features_in_ = batches.n_features
            model = self.build(batches.n_features).to(batches.device)
            run = self._run(batches, validation, checkpoint, callbacks)
            self.history_ = self.learn(model, batches, self._generator(), *run)
        except BaseException:  # an earlier fit stays usable
            vars(self).clear()
            vars(self).update(earlier)
            raise
        self.model_ = model
        return self

    @available_if(_has_likelihood)
    @final
    def score_samples(self, X: Any, *, lengths: Any = None) -> Any:
        """log p(x), or the bound on it that the model has, of each item in nats; shape (n_items,)."""
        values, layout = self._map(X, lengths, self._fitted_model().objective)
        return layout.per_item(values)

    @available_if(_has_likelihood)
    @final
    def score(self, X: Any, y: Any = None, *, lengths: Any = None) -> float:
        """The mean of ``score_samples``: nats per point, or per sequence. For a classifier with ``y``, the share that it gets right."""
        if y is not None and hasattr(self, "classes_"):
            return float(np.mean(self.predict(X) == np.asarray(y)))  # type: ignore[attr-defined]
        values, _ = self._map(X, lengths, self._fitted_model().objective)
        return float(values.mean())

    @available_if(_can_sample)
    @final
    def sample(self, n_samples: int = 1, *, length: int = 1, random_state: Any = None) -> tuple[Any, Any]:
        """Draw from the fitted distribution.

        Parameters
        ----------
        n_samples : int
            The number of points or sequences.
        length : int
            The length of each sequence, for a model of sequences.
        random_state : int, RandomState or None
            By default the estimator's own.

        Returns
        -------
        X : ndarray of shape (n_samples, n_features), or (n_samples, length, n_features) for a model of sequences
        labels : ndarray of shape (n_samples,) or (n_samples, length)
            The latent class of each step; -1 where the model has none.
        """
        model = self._fitted_model()
        for name, value in (("n_samples", n_samples), ("length", length)):
            if value < 1:
                raise InputError(f"{name}={value}: expected at least 1")
        with torch.no_grad():
            batch = model.sample(n_samples, length, self._generator(random_state))
        values = batch.values.cpu().numpy()
        labels = np.full(len(values), -1) if batch.labels is None else batch.labels.cpu().numpy()
        if self.items == "sequences":
            return values.reshape(n_samples, length, -1), labels.reshape(n_samples, length)
        return values, labels

    @property
    def converged_(self) -> bool:
        """Whether learning stopped by itself."""
        return self.history_.converged

    @property
    def n_iter_(self) -> int:
        """How many times the parameters were updated; at least 1."""
        return max(self.history_.n_iter, 1)

    @final
    def save(self, path: Any) -> None:
        """Write the fitted estimator to one file, which ``unveil.load`` reads; see ``unveil.core.storage``."""
        check_is_fitted(self, "model_")
        parameters, tensors = {}, {f"model.{name}": value for name, value in self.model_.state_dict().items()}
        for name, value in self.get_params(deep=False).items():
            if isinstance(value, (np.ndarray, Tensor)):
                tensors[f"parameter.{name}"] = torch.as_tensor(value)
            else:
                parameters[name] = self._parameter_as_json(name, value)
        names = getattr(self, "feature_names_in_", None)
        header = {
            "estimator": type(self).__name__,
            "parameters": parameters,
            "n_features": self.n_features_in_,
            "feature_names": None if names is None else [str(name) for name in names],
            "history": self.history_.to_dict(),
            "classes": np.asarray(self.classes_).tolist() if hasattr(self, "classes_") else None,
        }
        write_model(path, header, tensors)

    @final
    @classmethod
    def restore(cls, path: Any) -> Self:
        """Read an estimator of this class from a file that ``save`` wrote."""
        header, tensors = read_model(path)
        if header.get("estimator") != cls.__name__:
            raise ModelFileError(f"{path}: holds a {header.get('estimator')}, not a {cls.__name__}; use unveil.load")
        arrays = {name.removeprefix("parameter."): t.numpy() for name, t in tensors.items() if name.startswith("parameter.")}
        state = {name.removeprefix("model."): t for name, t in tensors.items() if name.startswith("model.")}
        try:
            estimator = cls(**header["parameters"], **arrays)
            if header.get("classes") is not None:
                estimator.classes_ = np.array(header["classes"])
            model = estimator.build(header["n_features"])
            model.load_state_dict(state)
            estimator.history_ = History(**header["history"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise ModelFileError(f"{path}: its contents do not fit a {cls.__name__} ({reason}); save the model again") from error
        estimator.n_features_in_ = header["n_features"]
        if header.get("feature_names"):
            estimator.feature_names_in_ = np.array(header["feature_names"], dtype=object)
        estimator.model_ = model
        return estimator

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self.allows_nan
        return tags

    def _run(self, batches: Batches, validation: Any, checkpoint: Any, callbacks: Any) -> tuple[Run] | tuple[()]:
        """What ``learn`` takes beside data: a ``Run``, or nothing."""
        if not self.learns_in_epochs:
            if validation is None and checkpoint is None and not callbacks:
                return ()
            raise InputError(
                f"{type(self).__name__} does not learn in epochs; leave out validation, checkpoint and callbacks, which neural models take"
            )
        callbacks = (callbacks,) if callable(callbacks) else tuple(callbacks)
        held_out = None if validation is None else self._read(validation)[0].replace(labels=None)
        folder = None if checkpoint is None else Path(checkpoint)
        return (Run(held_out, folder, callbacks, self._identity(batches) if folder else {}),)

    def _parameter_as_json(self, name: str, value: Any) -> Any:
        if isinstance(value, np.random.RandomState):
            return None  # its state has moved on; a saved model needs no generator
        return as_json(name, self.saved_as[name](value) if name in self.saved_as else value)

    def _identity(self, batches: Batches) -> dict[str, Any]:
        """What tells one training from another."""
        parameters = self.get_params(deep=False).items()
        return {
            "estimator": type(self).__name__,
            "parameters": {name: self._parameter_as_json(name, value) for name, value in parameters},
            "data": [batches.n_sequences, batches.n_steps, batches.n_features, fingerprint(batches)],
        }

    def _check_parameters(self) -> None:
        for name, check in self.constraints.items():
            check(name, getattr(self, name))

    def _generator(self, random_state: Any = None) -> torch.Generator:
        chosen = self.random_state if random_state is None else random_state  # type: ignore[attr-defined]
        try:
            seed = int(check_random_state(chosen).randint(np.iinfo(np.int32).max))
        except ValueError as error:
            raise ParameterError(f"random_state={chosen!r}: expected None, a whole number >= 0 or a RandomState") from error
        return torch.Generator().manual_seed(seed)

    def _fitted_model(self) -> Any:
        check_is_fitted(self, "model_")
        return self.model_

    def _map(self, X: Any, lengths: Any, function: Callable[[Batch], Tensor]) -> tuple[Tensor, Layout]:
        """The results of a function over the batches of X, one after the other, and the layout of X."""
        model = self._fitted_model()
        batches, layout = self._read(X, lengths)
        batches = batches.replace(labels=None)  # what is known of the data must not be mixed with what the model says
        model.to(batches.device)
        with torch.no_grad():
            return torch.cat(list(map_batches(function, batches))), layout


def as_array(parameter: Tensor) -> np.ndarray:
    """A model's parameter as an array of the user's own."""
    return parameter.detach().cpu().numpy().copy()
