"""What estimators with an encoder and a decoder share: how networks are put together, and what can be asked of codes."""

from __future__ import annotations

from typing import Any, Literal

import torch
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin

from unveil.core.estimator import as_array
from unveil.core.neural import CodingModel, Latent, Likelihood, Network
from unveil.data.batch import Batch
from unveil.data.layout import as_numeric
from unveil.errors import InputError
from unveil.nn.architectures import decoder, encoder
from unveil.nn.conv import shape_of_row
from unveil.nn.likelihoods import negative_is_wrong


class CodesMixin(ClassNamePrefixFeaturesOutMixin, TransformerMixin):
    """For estimators with an encoder and a decoder: rows to codes, and back."""

    learns_in_epochs = True

    @property
    def items(self) -> Literal["points", "sequences"]:
        """A recurrent network takes sequences, others points."""
        return "sequences" if self.architecture == "recurrent" else "points"

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.positive_only = negative_is_wrong(self.family)
        tags.transformer_tags.preserves_dtype = []  # codes are in the type of the networks
        return tags

    @property
    def family(self) -> str:
        """The name of the family of observations."""
        return self.likelihood

    def networks(self, latent: Latent, likelihood: Likelihood) -> tuple[Network, Network]:
        """Encoder and decoder of the chosen architecture."""
        shape = shape_of_row(likelihood.n_features, self.shape) if self.architecture == "conv" else ()
        settings = {"hidden": self.hidden, "activation": self.activation, "shape": shape}
        return (
            encoder(self.architecture, likelihood.n_inputs, latent.n_statistics, **settings),
            decoder(self.architecture, latent.n_latent, likelihood.n_outputs, **settings),
        )

    def transform(self, X: Any, *, lengths: Any = None) -> Any:
        """E[z | x] of each row, of shape (n, n_codes)."""
        codes, layout = self._map(X, lengths, self._fitted_model().codes)
        return layout.per_step(codes)

    def reconstruct(self, X: Any, *, lengths: Any = None) -> Any:
        """The rows as the model says them again, E[x | z] at z = E[z | x], of the shape of X."""
        values, layout = self._map(X, lengths, self._fitted_model().reconstruct)
        return layout.per_step(values)

    def inverse_transform(self, Z: Any) -> Any:
        """The observations E[x | z] (n, n_features) that codes (n, n_codes) stand for; of a recurrent network, of one sequence."""
        model: CodingModel = self._fitted_model()
        codes = torch.as_tensor(as_numeric(Z, "Z")).to(next(model.parameters()))
        if codes.ndim != 2 or codes.shape[1] != self._n_features_out:
            raise InputError(f"Z has shape {tuple(codes.shape)}; expected (n, {self._n_features_out}), as transform gives")
        whole = Batch(codes, torch.tensor([0, len(codes)])) if self.items == "sequences" else None
        with torch.no_grad():
            return as_array(model.likelihood.mean(model.decode(codes, whole)))

    @property
    def code_variances_(self) -> Any:
        """The variance of E[z_l | x] over the data that was learned from: 0 for a dimension that is not used."""
        return as_array(self._fitted_model().code_variances)

    @property
    def _n_features_out(self) -> int:
        return self._fitted_model().latent.n_codes


def check_fewer_latent(n_latent: int, n_features: int) -> None:
    """Raise InputError where latent variables are more than what they stand for."""
    if n_latent > n_features:
        raise InputError(f"n_latent={n_latent} but X has {n_features} features; latent variables are fewer, lower n_latent")
