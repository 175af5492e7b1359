"""Statistics add and scale, and refuse what they must not be added to."""

import dataclasses
import itertools

import pytest
import torch

from unveil.core.statistics import ModelStatistics, Statistics, identity


@dataclasses.dataclass(frozen=True)
class Moments(Statistics):
    count: float
    first: torch.Tensor
    center: torch.Tensor = identity()


@dataclasses.dataclass(frozen=True)
class Nested(ModelStatistics):
    moments: Moments


@dataclasses.dataclass(frozen=True)
class Parts(Statistics):
    parts: tuple[Statistics, ...]


@dataclasses.dataclass(frozen=True)
class Other(Statistics):
    count: float
    first: torch.Tensor
    center: torch.Tensor = identity()


def moments(count, first, center=(5.0, 5.0)):
    return Moments(count, torch.tensor(first), torch.tensor(center))


def as_numbers(nested):
    inner = nested.moments
    return nested.weight, nested.log_likelihood, inner.count, inner.first.tolist(), inner.center.tolist()


A = Nested(3.0, -10.0, moments(1.0, [1.0, 2.0]))
B = Nested(4.0, -20.0, moments(0.5, [0.25, -2.0]))
C = Nested(0.0, 8.0, moments(2.0, [0.0, 1.0]))


def test_sums_are_by_field_and_keep_the_centre():
    assert as_numbers(A + B) == (7.0, -30.0, 1.5, [1.25, 0.0], [5.0, 5.0])


def test_they_count_their_numbers():
    assert A.numel() == 2 + (1 + 2 + 2)
    assert Parts((A.moments, B.moments, C.moments)).numel() == 3 * 5


def test_scaling_is_by_field_and_keeps_the_centre():
    for scaled in (A * 0.5, 0.5 * A):
        assert as_numbers(scaled) == (1.5, -5.0, 0.5, [0.5, 1.0], [5.0, 5.0])


def test_a_stochastic_step_is_a_weighted_mean():
    assert as_numbers(0.75 * A + 0.25 * B) == (3.25, -12.5, 0.875, [0.8125, 1.0], [5.0, 5.0])


def test_sums_do_not_depend_on_order_or_grouping():
    found = {str(as_numbers(x + (y + z))) for x, y, z in itertools.permutations([A, B, C])}
    found |= {str(as_numbers((x + y) + z)) for x, y, z in itertools.permutations([A, B, C])}
    assert len(found) == 1


def test_sums_leave_their_parts_alone():
    before = as_numbers(A)
    A + B
    2 * A
    assert as_numbers(A) == before
    with pytest.raises(dataclasses.FrozenInstanceError):
        A.weight = 1.0


@pytest.mark.parametrize("other", [Other(1.0, torch.zeros(2), torch.full((2,), 5.0)), A, 0, 1.0, None])
def test_another_type_is_refused(other):
    with pytest.raises(TypeError, match=f"cannot add {type(other).__name__} to Moments"):
        moments(1.0, [0.0, 0.0]) + other


@pytest.mark.parametrize("center", [(5.0, 5.1), (5.0, 5.0, 5.0), (float("nan"), 5.0)])
def test_another_centre_is_refused(center):
    with pytest.raises(ValueError, match="cannot add statistics with different center"):
        moments(1.0, [0.0, 0.0]) + moments(1.0, [0.0, 0.0], center)


def test_another_centre_is_refused_inside_other_statistics():
    with pytest.raises(ValueError, match="different center"):
        A + Nested(1.0, 0.0, moments(1.0, [0.0, 0.0], (0.0, 0.0)))


def test_tuples_of_statistics_add_and_scale_entry_by_entry():
    parts = Parts((moments(1.0, [1.0, 2.0]), A))
    total = 0.5 * parts + Parts((moments(2.0, [0.0, 1.0]), B))
    assert (total.parts[0].count, total.parts[0].first.tolist()) == (2.5, [0.5, 2.0])
    assert as_numbers(total.parts[1]) == as_numbers(0.5 * A + B)
    assert as_numbers(parts.parts[1]) == as_numbers(A)


def test_tuples_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="zip"):
        Parts((A, B)) + Parts((A,))


def test_another_centre_is_refused_inside_tuples():
    with pytest.raises(ValueError, match="different center"):
        Parts((A,)) + Parts((Nested(1.0, 0.0, moments(1.0, [0.0, 0.0], (0.0, 0.0))),))
