"""From the constructor parameters about emissions that estimators share to the emission, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from numbers import Real
from typing import Any

import numpy as np
from sklearn.base import clone
from torch import Tensor

from unveil.core.constraints import as_covariances, as_shape, choice, real
from unveil.core.model import Emission
from unveil.emissions.choose import EMISSIONS, make_emission
from unveil.emissions.gaussian import NormalInverseWishart
from unveil.emissions.saving import emission_from_json, emission_to_json
from unveil.errors import ModelFileError, ParameterError
from unveil.kernels.gaussian import COVARIANCE_TYPES


def _check_emission(name: str, value: Any) -> None:
    if (isinstance(value, str) and value in EMISSIONS) or callable(value) or isinstance(value, Mapping):
        return
    known = ", ".join(map(repr, EMISSIONS))
    raise ParameterError(
        f"{name}={value!r}: expected one of {known}, or a callable (n_components, n_features) that gives an Emission"
    )


def _check_prior(name: str, value: Any) -> None:
    pair = isinstance(value, (tuple, list)) and len(value) == 2
    known = value is None or (isinstance(value, str) and value == "conjugate") or isinstance(value, (NormalInverseWishart, Mapping))
    number = isinstance(value, Real) and not isinstance(value, bool) and value >= 1
    if not (known or pair or number):
        raise ParameterError(
            f"{name}={value!r}: expected None; 'conjugate' or a NormalInverseWishart for Gaussians; a number >= 1 for symbols, or "
            "(shape, rate) for counts"
        )


GAUSSIAN_CONSTRAINTS = {
    "covariance_type": choice(*COVARIANCE_TYPES),
    "reg_covar": real(0.0),
    "emission_prior": _check_prior,
}
EMISSION_CONSTRAINTS = GAUSSIAN_CONSTRAINTS | {"emission": _check_emission}


def _prior_to_json(prior: Any) -> Any:
    if not isinstance(prior, NormalInverseWishart):
        return prior
    return {name: np.asarray(value).tolist() for name, value in asdict(prior).items()}


SAVED_AS = {"emission": emission_to_json, "emission_prior": _prior_to_json}


def build_emission(estimator: Any, n_components: int, n_features: int, **changes: Any) -> Emission:
    """The emission of an estimator: ``emission`` (by default Gaussian) with its covariance type, floor and prior, or with changes."""
    option = getattr(estimator, "emission", "gaussian")
    option = emission_from_json(option) if isinstance(option, Mapping) else option
    settings = {name: getattr(estimator, name) for name in ("covariance_type", "reg_covar") if hasattr(estimator, name)}
    prior = estimator.emission_prior
    if prior is not None:
        try:
            settings["prior"] = NormalInverseWishart(**prior) if isinstance(prior, Mapping) else prior
        except TypeError as error:
            raise ModelFileError(f"the saved prior {prior!r} is not one that this version of Unveil has; upgrade Unveil") from error
    return make_emission(option, n_components, n_features, **settings | changes)


@dataclass(frozen=True)
class EmissionMaker:
    """From a number of densities to an emission by an estimator's settings, with changes."""

    settings: Any
    n_features: int
    changes: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, estimator: Any, n_features: int, **changes: Any) -> EmissionMaker:
        """With the settings that the estimator has now."""
        return cls(clone(estimator), n_features, changes)

    def __call__(self, n_components: int) -> Emission:
        """An emission of so many densities."""
        return build_emission(self.settings, n_components, self.n_features, **self.changes)


def given_emission(estimator: Any, emission: Emission, stacked: tuple[int, ...] = ()) -> dict[str, Tensor]:
    """Starting values of the densities, by the names of the emission's parameters.

    They are ``emission_init``; or ``means_init`` and ``covariances_init``, with the ``stacked`` axis of clusters first.
    """
    if getattr(estimator, "emission_init", None) is not None:
        return _by_name(estimator.emission_init, emission)
    given = {}
    per_cluster = emission.n_components // (stacked[0] if stacked else 1)
    if getattr(estimator, "means_init", None) is not None:
        means = as_shape("means_init", estimator.means_init, (*stacked, per_cluster, emission.n_features))
        given["means"] = means.view(-1, emission.n_features)
    if getattr(estimator, "covariances_init", None) is not None:
        shape = _named(emission)["covariances"].shape
        outer = (*stacked, per_cluster, *shape[1:]) if estimator.covariance_type != "tied" else shape
        checked = as_covariances("covariances_init", estimator.covariances_init, outer, estimator.covariance_type)
        given["covariances"] = checked.view(shape)
    return _known(given, emission)


def _named(emission: Emission) -> dict[str, Any]:
    return dict(emission.named_parameters())


def _known(given: dict[str, Any], emission: Emission) -> dict[str, Any]:
    for name in given.keys() - _named(emission).keys():
        known = ", ".join(_named(emission))
        raise ParameterError(f"there is no starting value {name!r}: {type(emission).__name__} has {known}; use emission_init")
    return given


def _by_name(values: Any, emission: Emission) -> dict[str, Tensor]:
    if not isinstance(values, Mapping):
        raise ParameterError(f"emission_init={values!r}: expected a dict of the emission's parameters by their names")
    given = {}
    for name, value in _known(dict(values), emission).items():
        shape = _named(emission)[name].shape
        if 0 in shape:
            raise ParameterError(
                f"emission_init[{name!r}] needs the number of categories; use partial(Categorical, n_categories=...)"
            )
        given[name] = as_shape(f"emission_init[{name!r}]", value, shape)
    return given
