"""The conjugate prior of Gaussian observations."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import Any

from torch import Tensor

from unveil.core.constraints import as_covariances, as_shape, real
from unveil.errors import ParameterError
from unveil.kernels.gaussian import identity_covariance


@dataclass(frozen=True)
class NormalInverseWishart:
    """The conjugate prior of a Gaussian: Sigma ~ inverse Wishart(nu_0, Psi), mu | Sigma ~ N(m_0, Sigma / kappa_0).

    Variances have the inverse gamma distribution with shape nu_0 / 2 and scale Psi / 2.

    Parameters
    ----------
    mean : array of shape (D,)
        m_0.
    mean_precision : float
        kappa_0 > 0: how many observations the prior mean is worth.
    degrees_of_freedom : float
        nu_0: above D - 1 for matrices, and above 0 for variances.
    scale : float, or array of shape (D, D), (D,) or ()
        Psi: a matrix for full and tied covariances, a number for each feature for diagonal ones, a number for spherical ones. A number
        alone stands for itself times the identity.

    Examples
    --------
    >>> from unveil.emissions.gaussian import Gaussian
    >>> prior = NormalInverseWishart(mean=[0.0, 0.0], mean_precision=0.01, degrees_of_freedom=4, scale=1.0)
    >>> Gaussian(3, 2, "full", prior=prior).prior_scale.tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """

    mean: Any
    mean_precision: float
    degrees_of_freedom: float
    scale: Any

    def __post_init__(self):
        real(0.0, open_below=True)("mean_precision", self.mean_precision)
        real(0.0, open_below=True)("degrees_of_freedom", self.degrees_of_freedom)

    def hyperparameters(self, n_features: int, covariance_type: str) -> tuple[Tensor, float, float, Tensor]:
        """m_0, kappa_0, nu_0 and Psi for covariances of a type, checked."""
        identity = identity_covariance(n_features, covariance_type)
        least = n_features - 1 if identity.ndim == 2 else 0
        if self.degrees_of_freedom <= least:
            raise ParameterError(
                f"prior.degrees_of_freedom={self.degrees_of_freedom!r}: expected a number > {least} for {n_features} features"
            )
        scale = self.scale * identity if isinstance(self.scale, Real) else self.scale
        scale = as_covariances("prior.scale", scale, identity.shape, covariance_type)
        return as_shape("prior.mean", self.mean, (n_features,)), self.mean_precision, self.degrees_of_freedom, scale
