"""Beta-divergences between non-negative spectra, and the ratios from which multiplicative updates are made.

====  ====================  ==========================================  ==========================
beta  name                  d(v | m)                                    maximum likelihood under
====  ====================  ==========================================  ==========================
0     Itakura-Saito         v / m - log(v / m) - 1                      multiplicative exponential noise
1     Kullback-Leibler      v log(v / m) - v + m                        Poisson counts
2     squared Euclidean     (v - m)^2 / 2                               Gaussian noise
====  ====================  ==========================================  ==========================

Fevotte and Idier (2011), Algorithms for nonnegative matrix factorization with the beta-divergence.
"""

from __future__ import annotations

import torch
from torch import Tensor

BETAS = {"itakura-saito": 0, "kullback-leibler": 1, "frobenius": 2}


def beta_divergence(values: Tensor, model: Tensor, beta: int, present: Tensor | None = None) -> Tensor:
    """The divergence of each row of ``values`` (n, F) from ``model`` (n, F), both floored above zero; shape (n,).

    ``present`` (n, F) is False where a value is missing; such entries count nothing.
    """
    if beta == 1:
        # 0 log 0 = 0; torch.xlogy knows that too, but is twice as slow as a logarithm of what is certainly positive
        each = (values / model).clamp_min_(torch.finfo(values.dtype).tiny).log_().mul_(values).sub_(values).add_(model)
    elif beta == 0:
        ratio = values / model
        each = ratio - ratio.log() - 1
    else:
        each = (values - model).square_().mul_(0.5)
    if present is not None:
        each = torch.where(present, each, 0.0)
    return each.sum(1)


def gradient_parts_(values: Tensor, model: Tensor, beta: int, present: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """The negative and the positive part of the divergence's derivative by the model: v m^(beta - 2) and m^(beta - 1).

    ``model`` is overwritten. The positive part is None where it is one everywhere (beta = 1 without missing values).
    """
    if beta == 1:
        negative, positive = torch.div(values, model, out=model), None
    elif beta == 0:
        positive = model.reciprocal_()
        negative = values * positive
        negative *= positive
    else:
        negative, positive = values, model
    if present is not None:
        positive = present.to(values.dtype) if positive is None else positive * present
        negative = negative * present
    return negative, positive
