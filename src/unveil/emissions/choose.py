"""Which family of observation densities an option means."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from unveil.core.model import Emission
from unveil.emissions.bernoulli import Bernoulli
from unveil.emissions.categorical import Categorical
from unveil.emissions.gaussian import Gaussian
from unveil.emissions.mixture import GaussianMixtureEmission
from unveil.emissions.poisson import Poisson
from unveil.errors import ParameterError

EMISSIONS: dict[str, Callable[..., Emission]] = {
    "gaussian": Gaussian,
    "gaussian-mixture": GaussianMixtureEmission,
    "categorical": Categorical,
    "bernoulli": Bernoulli,
    "poisson": Poisson,
}

_FOR_NORMAL_DENSITIES = {"covariance_type", "reg_covar"}


def make_emission(option: Any, n_components: int, n_features: int, **settings: Any) -> Emission:
    """The emission that an option means.

    Parameters
    ----------
    option : str or callable
        A name in ``EMISSIONS``; or anything that, called with ``(n_components, n_features)``, gives an ``Emission``: a class,
        yours too, a ``functools.partial`` of one, a ``Product``.
    n_components, n_features : int
        K and D.
    **settings
        Further arguments for what takes them. What has no normal densities has no use for ``covariance_type`` and ``reg_covar``,
        and a partial, which has its own, is given none of the two.

    Raises
    ------
    ParameterError
        When the option is none of these, or takes a setting amiss.

    Examples
    --------
    >>> make_emission("poisson", 3, 2, covariance_type="diag").rates.shape
    torch.Size([3, 2])
    >>> make_emission(partial(Gaussian, covariance_type="tied"), 3, 2, covariance_type="diag").covariances.shape
    torch.Size([2, 2])
    """
    factory = EMISSIONS.get(option) if isinstance(option, str) else option
    if not callable(factory):
        raise ParameterError(f"emission={option!r}: expected one of {', '.join(map(repr, EMISSIONS))}, or {_CALLABLE}")
    emission = factory(n_components, n_features, **_taken(option, factory, settings))
    if not isinstance(emission, Emission):
        raise ParameterError(f"emission={option!r} gave a {type(emission).__name__}; expected {_CALLABLE}")
    return emission


_CALLABLE = "a callable that takes (n_components, n_features) and gives an unveil Emission"


def _taken(option: Any, factory: Callable, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that a factory takes."""
    parameters = inspect.signature(factory).parameters
    own = factory.keywords if isinstance(factory, partial) else {}
    takes_all = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    taken = {name: value for name, value in settings.items() if name not in own and (takes_all or name in parameters)}
    for name in settings.keys() - taken.keys() - _FOR_NORMAL_DENSITIES:
        raise ParameterError(f"emission={option!r} takes no {name}; leave it out")
    return taken
