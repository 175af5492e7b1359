"""What estimators can do beyond fitting and scoring, by capability."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Self

from sklearn.utils import ClassifierTags
from torch import Tensor

from unveil.core.model import Imputes
from unveil.errors import InputError


class ClusterMixin:
    """For models whose posterior has ``responsibilities`` (n_items, n_clusters): the cluster of each item."""

    def predict(self, X: Any, *, lengths: Any = None) -> Any:
        """The most probable cluster of each item, of shape (n_items,)."""
        model = self._fitted_model()  # type: ignore[attr-defined]
        best, layout = self._map(X, lengths, lambda batch: model.posterior(batch).responsibilities.argmax(1))  # type: ignore[attr-defined]
        return layout.per_item(best)

    def predict_proba(self, X: Any, *, lengths: Any = None) -> Any:
        """p(cluster | item), of shape (n_items, n_clusters)."""
        model = self._fitted_model()  # type: ignore[attr-defined]
        probabilities, layout = self._map(X, lengths, lambda batch: model.posterior(batch).responsibilities)  # type: ignore[attr-defined]
        return layout.per_item(probabilities)

    def fit_predict(self, X: Any, y: Any = None, *, lengths: Any = None, sample_weight: Any = None) -> Any:
        """Fit, and give the cluster of each item: ``fit(X).predict(X)``."""
        return self.fit(X, y, lengths=lengths, sample_weight=sample_weight).predict(X, lengths=lengths)  # type: ignore[attr-defined]


class ImputeMixin:
    """For mixtures whose emission says what it expects in place of a missing value."""

    def impute(self, X: Any) -> Any:
        """X with E[missing | observed] in place of NaN, of the same shape; what is observed stays as it is."""
        model = self._fitted_model()  # type: ignore[attr-defined]
        if not isinstance(model.emission, Imputes):
            raise InputError(f"{type(model.emission).__name__} emissions do not take missing values; there is nothing to impute")
        filled, layout = self._map(  # type: ignore[attr-defined]
            X, None, lambda batch: model.emission.impute(batch.values.double(), model.posterior(batch).responsibilities)
        )
        return layout.per_item(filled)


class SeparateMixin(ABC):
    """For models of one source's non-negative spectra: what each of several sources contributes to a mixture."""

    @abstractmethod
    def explain(self, mixture: Tensor, others: list[Self]) -> list[Tensor]:
        """The spectra of this source, and then of each other one, that together explain the mixture best.

        Parameters
        ----------
        mixture : Tensor of shape (n_frames, n_frequencies)
            Non-negative.
        others : list of fitted estimators of the same class
            The other sources.

        Returns
        -------
        list of Tensor of shape (n_frames, n_frequencies)
            One for each source.
        """


class ClassifyMixin:
    """For estimators that are fitted with classes in ``y`` and predict them: scikit-learn then takes them for classifiers."""

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()  # type: ignore[misc]
        tags.estimator_type = "classifier"
        tags.classifier_tags = ClassifierTags()
        tags.target_tags.required = True
        return tags
