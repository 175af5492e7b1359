"""Implicit generative models, learned by maximum likelihood in two steps: an autoencoder, then a density of its codes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin, clone
from sklearn.utils.metaestimators import available_if

from unveil.core.constraints import Check, integer, real
from unveil.core.estimator import Estimator, as_array
from unveil.core.history import History
from unveil.core.mixins import ClusterMixin
from unveil.core.run import Run
from unveil.data.batch import Batches
from unveil.errors import ModelFileError, ParameterError
from unveil.learn.two_step import SECOND, two_step
from unveil.models import discover
from unveil.models.autoencoder import Autoencoder
from unveil.models.coding import CodesMixin
from unveil.models.gaussian_mixture import GaussianMixture
from unveil.models.implicit_density import ImplicitDensity

RESIDUAL = "residual"
N_COMPONENTS = 30


def estimator_to_json(estimator: Any) -> Any:
    """An unfitted estimator as JSON can hold it: its name, and its parameters.

    Examples
    --------
    >>> estimator_to_json(GaussianMixture(3))["estimator"]
    'GaussianMixture'
    """
    if not isinstance(estimator, Estimator):
        return estimator
    parameters = {name: estimator._parameter_as_json(name, value) for name, value in estimator.get_params(deep=False).items()}
    return {"estimator": type(estimator).__name__, "parameters": parameters}


def estimator_from_json(saved: Any) -> Any:
    """The estimator that ``estimator_to_json`` wrote, looked up among those that are here; anything else as it is.

    Examples
    --------
    >>> estimator_from_json({"estimator": "GaussianMixture", "parameters": {"n_components": 3}})
    GaussianMixture(n_components=3)
    """
    if not isinstance(saved, dict) or saved.get("estimator") not in discover():
        return saved
    return discover()[saved["estimator"]](**saved["parameters"])


def _nested(what: str, fits: Callable[[Estimator], bool]) -> Check:
    """None, or an unfitted estimator of a kind, whose own parameters are in order."""

    def check(name: str, value: Any) -> None:
        if value is None:
            return
        if not isinstance(value, Estimator) or not fits(value):
            shown = f"{type(value).__name__}()" if isinstance(value, Estimator) else repr(value)
            raise ParameterError(f"{name}={shown}: expected {what}, not fitted, or None")
        try:
            value._check_parameters()
        except ParameterError as error:
            raise ParameterError(f"{name}__{error}") from None

    return check


def _variance(name: str, value: Any) -> None:
    """A variance, or the word for one that is found."""
    if isinstance(value, str) and value == RESIDUAL:
        return
    try:
        real(0.0)(name, value)
    except ParameterError as error:
        raise ParameterError(f"{error} or {RESIDUAL!r}") from None


def _is_coder(estimator: Estimator) -> bool:
    return isinstance(estimator, CodesMixin)


def _is_base(estimator: Estimator) -> bool:
    return estimator.can_sample and (estimator.supervision is None or bool(estimator.supervision.n_classes))


def _has_density(estimator: ImplicitModel) -> bool:
    return estimator.has_likelihood


def _base_predicts(estimator: ImplicitModel) -> bool:
    return hasattr(estimator._part("base"), "predict")


class ImplicitModel(ClassNamePrefixFeaturesOutMixin, TransformerMixin, Estimator):
    """Implicit generative model, for points or sequences, learned by maximum likelihood in two steps (IML).

    Latent variables come from any distribution that the library has, and a decoder makes them into data::

        z ~ p(z),      x = decoder(z) + e,   e ~ N(0, v I).

    First an autoencoder learns encoder and decoder; then the distribution ``p(z)`` is learned from the codes of the data. A prior that
    is fitted to codes has no gap between them and itself, as there is between N(0, I) and the codes of a VAE; and nothing plays against
    anything, as in adversarial learning. With an HMM as the distribution, items are sequences whose codes it ties together.

    Parameters
    ----------
    autoencoder : Autoencoder, VAE or another estimator with an encoder and a decoder, optional
        Unfitted; it is not changed. By default ``Autoencoder()``.
    base : estimator that can be sampled from, optional
        Of p(z), unfitted; it is not changed. By default ``GaussianMixture(30)``, with full covariances.
    variance : "residual" or float
        v, in squared units of the data. "residual" is the mean squared error of reconstruction. With 0 samples have no noise, and then
        there is no density to score with.
    random_state : int, RandomState or None
        Seeds both steps, in place of the parts' own, and the samples.

    Attributes
    ----------
    autoencoder_, base_ : estimators
        Fitted copies of the parts.
    variance_ : float
        v.
    code_variances_ : ndarray of shape (n_codes,)
        Of the codes of the data.
    history_ : History
        Of the first step; ``parts["second step"]`` holds the objective of the second.

    Notes
    -----
    ``score_samples`` is Laplace's approximation of log p(x) around the most probable code, which Newton steps find from the encoder's::

        log p(z) + log N(x; f(z), v I) + L/2 log 2 pi - 1/2 log det(J'J / v - d2/dz2 log p(z)).

    It is exact where the decoder is linear and p(z) one Gaussian. ``log_likelihood`` draws around the same codes, and is a bound that
    becomes exact with many draws. Both take the noise as Gaussian, whatever the loss of the autoencoder was, and integrate over
    at most 512 latent variables of an item. There is neither where the decoder is recurrent, or p(z) has no density.

    ``validation``, ``checkpoint`` and ``callbacks`` of ``fit`` are for the first step.

    References
    ----------
    Subakan, Koyejo and Smaragdis (2018), Learning the base distribution in implicit generative models.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> angles = rng.uniform(0, np.pi, size=400)
    >>> X = np.stack([np.cos(angles), np.sin(angles)], axis=1) + 0.02 * rng.normal(size=(400, 2))
    >>> autoencoder = Autoencoder(1, hidden=32, max_epochs=60, batch_size=32, learning_rate=5e-3)
    >>> model = ImplicitModel(autoencoder, GaussianMixture(5), random_state=0).fit(X)
    >>> samples, _ = model.sample(100)
    >>> bool(np.abs(np.hypot(*samples.T) - 1).mean() < 0.1)
    True
    """

    learns_in_epochs = True
    constraints = {
        "autoencoder": _nested("an estimator with an encoder and a decoder, such as Autoencoder or VAE", _is_coder),
        "base": _nested(
            "an estimator that can be sampled from and needs no classes, such as GaussianMixture or GaussianHMM", _is_base
        ),
        "variance": _variance,
    }
    saved_as = {"autoencoder": estimator_to_json, "base": estimator_to_json}

    def __init__(
        self,
        autoencoder: Any = None,
        base: Any = None,
        *,
        variance: str | float = RESIDUAL,
        random_state: Any = None,
    ):
        self.autoencoder = estimator_from_json(autoencoder)  # as a file has it
        self.base = estimator_from_json(base)
        self.variance = variance
        self.random_state = random_state

    def _part(self, name: str) -> Estimator:
        """The autoencoder or the base that is in force: the user's own, or the default one."""
        chosen = getattr(self, name)
        if chosen is None:
            return Autoencoder() if name == "autoencoder" else GaussianMixture(N_COMPONENTS)
        if isinstance(chosen, dict):
            raise ModelFileError(
                f"{name} is {chosen.get('estimator')!r}, which this version of Unveil does not have; upgrade Unveil"
            )
        return chosen

    @property
    def items(self) -> Literal["points", "sequences"]:
        """Sequences, where one of the parts takes them."""
        return "sequences" if "sequences" in (self._part("autoencoder").items, self._part("base").items) else "points"

    @property
    def has_likelihood(self) -> bool:
        """Whether there is a density of the data, and a way to it."""
        recurrent = self._part("autoencoder").items == "sequences"
        return self.variance != 0 and not recurrent and self._part("base").has_likelihood

    def build(self, n_features: int) -> ImplicitDensity:
        """Both parts, the second over the codes of the first."""
        autoencoder, base = self._part("autoencoder"), self._part("base")
        coder = autoencoder.build(n_features)
        return ImplicitDensity(
            coder,
            base.build(coder.latent.n_codes),
            coder_in_sequences=autoencoder.items == "sequences",
            base_in_sequences=base.items == "sequences",
            variance=None if self.variance == RESIDUAL else float(self.variance),
        )

    def learn(self, model: ImplicitDensity, batches: Batches, generator: torch.Generator, run: Run = Run()) -> History:
        """The autoencoder by gradients, then the base by its own learner."""
        autoencoder, base = clone(self._part("autoencoder")), clone(self._part("base"))
        if run.validation is not None:
            run = Run(model.observed(run.validation), run.checkpoint, run.callbacks, run.identity)
        history = two_step(
            model,
            batches,
            first=lambda coder, data: autoencoder.learn(coder, model.observed(data), generator, run),
            second=lambda density, codes: base.learn(density, codes, generator),
        )
        model.settle(batches)
        return history

    def transform(self, X: Any, *, lengths: Any = None) -> Any:
        """The code E[z | x] of each row, of shape (n, n_codes)."""
        codes, layout = self._map(X, lengths, self._fitted_model().codes)
        return layout.per_step(codes)

    def inverse_transform(self, Z: Any) -> Any:
        """The rows f(z) (n, n_features) that codes (n, n_codes) stand for; of a recurrent network, of one sequence."""
        return self.autoencoder_.inverse_transform(Z)

    def reconstruct(self, X: Any, *, lengths: Any = None) -> Any:
        """The rows as the model says them again, f(E[z | x]), of the shape of X."""
        values, layout = self._map(X, lengths, self._fitted_model().reconstruct)
        return layout.per_step(values)

    @available_if(_base_predicts)
    def predict(self, X: Any, *, lengths: Any = None) -> Any:
        """What the base predicts of the codes: the component or state of each row, or the cluster of each sequence."""
        codes, layout = self._map(X, lengths, self._fitted_model().codes)
        base = self.base_
        in_sequences = {"lengths": torch.from_numpy(layout.offsets).diff().tolist()} if base.items == "sequences" else {}
        found = base.predict(codes, **in_sequences)
        return layout.per_item(found) if in_sequences and isinstance(base, ClusterMixin) else layout.per_step(found)

    @available_if(_has_density)
    def log_likelihood(self, X: Any, *, lengths: Any = None, n_draws: int = 500, random_state: Any = None) -> Any:
        """log p(x) of each item in nats, by importance sampling around its most probable codes; a bound, tighter with more draws."""
        integer(1)("n_draws", n_draws)
        model, generator = self._fitted_model(), self._generator(random_state)
        seed = int(torch.randint(2**31, (), generator=generator))

        def estimate(batch):  # with the same numbers for every batch: batches may be worked on side by side
            return model.log_likelihood(batch, n_draws, torch.Generator(batch.values.device).manual_seed(seed + batch.start))

        values, layout = self._map(X, lengths, estimate)
        return layout.per_item(values)

    @property
    def autoencoder_(self) -> Any:
        """The fitted autoencoder."""
        model = self._fitted_model()
        history = History(**{**vars(self.history_), "parts": {k: v for k, v in self.history_.parts.items() if k != SECOND}})
        return _fitted(self._part("autoencoder"), model.coder, self.n_features_in_, history)

    @property
    def base_(self) -> Any:
        """The fitted distribution of the codes."""
        model = self._fitted_model()
        objective = self.history_.parts[SECOND]
        history = History(objective, list(range(len(objective))), len(objective), seconds=self.history_.seconds)
        return _fitted(self._part("base"), model.base, self._n_features_out, history)

    @property
    def variance_(self) -> float:
        """Of the noise."""
        return float(self._fitted_model().variance)

    @property
    def code_variances_(self) -> np.ndarray:
        """The variance over the data of each number of the codes."""
        return as_array(self._fitted_model().spreads.square())

    @property
    def _n_features_out(self) -> int:
        return self._fitted_model().coder.latent.n_codes


def _fitted(estimator: Estimator, model: Any, n_features: int, history: History) -> Estimator:
    """A copy of an estimator that holds a model which was learned elsewhere."""
    fitted = clone(estimator)
    fitted.model_, fitted.n_features_in_, fitted.history_ = model, n_features, history
    return fitted
