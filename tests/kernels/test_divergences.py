"""Beta-divergences against their closed forms and scipy; the parts of their gradients against automatic differentiation."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.special import kl_div, rel_entr

from unveil.kernels.divergences import BETAS, beta_divergence, gradient_parts_

EACH_BETA = pytest.mark.parametrize("beta", [0, 1, 2])


def spectra(seed=0):
    rng = np.random.default_rng(seed)
    return tuple(torch.from_numpy(rng.gamma(1.0, size=(6, 5)) + 0.01) for _ in range(2))


def by_definition(v, m, beta):
    """The general formula (v^b + (b - 1) m^b - b v m^(b - 1)) / (b (b - 1)), or its limits."""
    if beta == 0:
        return v / m - np.log(v / m) - 1
    if beta == 1:
        return kl_div(v, m)
    return (v**beta + (beta - 1) * m**beta - beta * v * m ** (beta - 1)) / (beta * (beta - 1))


@EACH_BETA
def test_against_the_general_formula(beta):
    values, model = spectra()
    expected = by_definition(values.numpy(), model.numpy(), beta).sum(1)
    assert_allclose(beta_divergence(values, model, beta), expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize(("beta", "near"), [(0, 1e-5), (1, 1 + 1e-5)])
def test_the_limits_are_those_of_the_general_formula(beta, near):
    values, model = spectra()
    expected = by_definition(values.numpy(), model.numpy(), near).sum(1)
    assert_allclose(beta_divergence(values, model, beta), expected, rtol=1e-3, atol=0)


@pytest.mark.parametrize(("beta", "expected"), [(0, 2 - np.log(2) - 1), (1, 2 * np.log(2) - 1), (2, 0.5)])
def test_two_from_one_by_hand(beta, expected):
    two, one = torch.full((1, 3), 2.0).double(), torch.ones(1, 3).double()
    assert_allclose(beta_divergence(two, one, beta), [3 * expected], rtol=1e-14, atol=0)


def test_kullback_leibler_is_relative_entropy_where_sums_agree():
    values, model = spectra()
    values, model = values / values.sum(1, keepdim=True), model / model.sum(1, keepdim=True)
    expected = rel_entr(values.numpy(), model.numpy()).sum(1)
    assert_allclose(beta_divergence(values, model, 1), expected, rtol=1e-10, atol=1e-14)


def test_kullback_leibler_of_zeros_is_what_the_model_has_there():
    values, model = torch.tensor([[0.0, 1.0]], dtype=torch.float64), torch.tensor([[0.3, 1.0]], dtype=torch.float64)
    assert_allclose(beta_divergence(values, model, 1), [0.3], rtol=1e-14, atol=0)


@EACH_BETA
def test_nothing_diverges_from_itself_and_everything_from_another(beta):
    values, model = spectra()
    assert_allclose(beta_divergence(values, values.clone(), beta), np.zeros(6), rtol=0, atol=1e-14)
    assert (beta_divergence(values, model, beta) > 1e-3).all()


@EACH_BETA
def test_missing_values_count_nothing(beta):
    values, model = spectra()
    present = torch.from_numpy(np.random.default_rng(1).random((6, 5)) < 0.7)
    each = by_definition(values.numpy(), model.numpy(), beta)
    with_holes = torch.where(present, values, 0.0)
    expected = np.where(present, each, 0.0).sum(1)
    assert_allclose(beta_divergence(with_holes, model, beta, present), expected, rtol=1e-10, atol=0)


@EACH_BETA
def test_the_arguments_of_the_divergence_are_not_written_to(beta):
    values, model = spectra()
    before = values.clone(), model.clone()
    beta_divergence(values, model, beta)
    assert torch.equal(values, before[0])
    assert torch.equal(model, before[1])


@EACH_BETA
@pytest.mark.parametrize("missing", [False, True])
def test_positive_less_negative_part_is_the_gradient(beta, missing):
    values, model = spectra()
    present = torch.from_numpy(np.random.default_rng(2).random((6, 5)) < 0.6) if missing else None
    model.requires_grad_()
    (gradient,) = torch.autograd.grad(by_autograd(values, model, beta, present), model)
    model = model.detach()
    expected_negative, expected_positive = values * model ** (beta - 2.0), model ** (beta - 1.0)
    negative, positive = gradient_parts_(values, model.clone(), beta, present)
    positive = torch.ones_like(model) if positive is None else positive
    assert_allclose(positive - negative, gradient, rtol=1e-9, atol=1e-9)
    shown = torch.ones_like(model) if present is None else present.double()
    assert_allclose(negative, expected_negative * shown, rtol=1e-10, atol=0)
    assert_allclose(positive, expected_positive * shown, rtol=1e-10, atol=0)


def by_autograd(values, model, beta, present):
    """The divergence once more, in plain operations."""
    each = {
        0: lambda: values / model + model.log() - values.log() - 1,
        1: lambda: values * (values.log() - model.log()) - values + model,
        2: lambda: (values - model) ** 2 / 2,
    }[beta]()
    return each.sum() if present is None else each[present].sum()


def test_names_stand_for_the_exponents():
    assert BETAS == {"itakura-saito": 0, "kullback-leibler": 1, "frobenius": 2}
