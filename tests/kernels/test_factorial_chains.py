"""Factorial chains, the definition and its twin, against the enumeration of all paths and one chain of all combinations."""

import itertools
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import logsumexp

from unveil.kernels import chains, factorial_chains, factorial_chains_cpu

BOTH = pytest.mark.parametrize("kernels", [factorial_chains, factorial_chains_cpu], ids=["definition", "twin"])


@dataclass
class Case:
    """K chains of M states over packed sequences, as numpy arrays."""

    initial: np.ndarray
    transition: np.ndarray
    log_emission: np.ndarray
    lengths: list[int]

    @property
    def offsets(self):
        return np.concatenate([[0], np.cumsum(self.lengths)])

    @property
    def arguments(self):
        return tuple(map(torch.from_numpy, (self.initial, self.transition, self.log_emission, self.offsets)))

    @property
    def combinations(self):
        """All combinations of states, the last chain the fastest."""
        return list(itertools.product(range(self.initial.shape[1]), repeat=len(self.initial)))

    def flattened(self):
        """The same as one chain of M^K states."""
        initial, transition = np.ones(1), np.ones((1, 1))
        for pi, a in zip(self.initial, self.transition, strict=True):
            initial, transition = np.kron(initial, pi), np.kron(transition, a)
        arrays = (initial[None], transition[None], self.log_emission[:, None], self.offsets)
        return tuple(map(torch.from_numpy, arrays))


def random_case(seed, n_chains, n_states, lengths, spread=2.0):
    rng = np.random.default_rng(seed)
    return Case(
        initial=rng.dirichlet(np.ones(n_states), n_chains),
        transition=rng.dirichlet(np.ones(n_states), (n_chains, n_states)),
        log_emission=spread * rng.normal(size=(sum(lengths), n_states**n_chains)) - 3.0,
        lengths=lengths,
    )


def two_chains():
    return random_case(0, 2, 3, [3, 1, 4])


def three_chains():
    return random_case(1, 3, 2, [4, 2, 1])


def one_chain():
    return random_case(2, 1, 4, [4, 1])


def one_state():
    return random_case(3, 3, 1, [3, 1])


def forbidden():
    """Transitions and starts that are impossible, in one chain and not in the other."""
    case = random_case(4, 2, 3, [4, 1, 3])
    case.initial[0], case.transition[0] = [1.0, 0.0, 0.0], np.triu(case.transition[0])
    case.transition[0] /= case.transition[0].sum(1, keepdims=True)
    return case


def many_combinations():
    """So many that the twin leaves products of matrices to a library."""
    return random_case(9, 3, 4, [4, 1, 3])


def out_of_reach():
    """The data wants combinations that lose their probability to underflow when messages are scaled."""
    case = random_case(5, 2, 2, [6, 2, 5])
    case.initial[:], case.transition[0] = [1.0, 0.0], [[0.5, 0.5], [0.0, 1.0]]
    case.log_emission[:4, 2:] -= 900.0
    case.log_emission[4:6, :2] -= 4000.0
    return case


def rare_transitions():
    case = random_case(6, 2, 2, [5, 3])
    case.transition[:] = [[1.0, 1e-130], [1e-130, 1.0]]
    case.log_emission *= 300.0
    return case


CASES = [two_chains, three_chains, one_chain, one_state, forbidden, many_combinations, out_of_reach, rare_transitions]
EACH = pytest.mark.parametrize("case", [make() for make in CASES], ids=[make.__name__ for make in CASES])


def paths_of(case, n):
    """Every sequence of combinations for sequence n, and the logarithm of its weight."""
    emission = case.log_emission[case.offsets[n] : case.offsets[n + 1]]
    with np.errstate(divide="ignore"):
        log_pi, log_a = np.log(case.initial), np.log(case.transition)
    every = list(itertools.product(range(len(case.combinations)), repeat=len(emission)))
    weights = []
    for path in every:
        states = [case.combinations[s] for s in path]
        weight = sum(emission[t, s] for t, s in enumerate(path))
        weight += sum(log_pi[k, m] for k, m in enumerate(states[0]))
        weight += sum(log_a[k, a[k], b[k]] for a, b in itertools.pairwise(states) for k in range(len(case.initial)))
        weights.append(weight)
    return np.array(every), np.array(weights)


@pytest.mark.parametrize("case", [two_chains(), three_chains(), forbidden()], ids=["two chains", "three chains", "forbidden"])
@BOTH
def test_against_all_paths(kernels, case):
    found = kernels.expectations(*case.arguments)
    n_chains, n_states = case.initial.shape
    states, pairs = np.zeros(found.states.shape), np.zeros(found.transitions.shape)
    for n in range(len(case.lengths)):
        every, weights = paths_of(case, n)
        assert_allclose(found.log_evidence[n], logsumexp(weights), rtol=1e-12, atol=0)
        probabilities = np.exp(weights - logsumexp(weights))
        of_chains = np.array(case.combinations)[every]  # (n_paths, length, K)
        for k, m in itertools.product(range(n_chains), range(n_states)):
            states[case.offsets[n] : case.offsets[n + 1], k, m] = probabilities @ (of_chains[:, :, k] == m)
            for j in range(n_states):
                moves = (of_chains[:, :-1, k] == m) & (of_chains[:, 1:, k] == j)
                pairs[k, m, j] += probabilities @ moves.sum(1)
    assert_allclose(found.states, states, rtol=0, atol=1e-12)
    assert_allclose(found.transitions, pairs, rtol=0, atol=1e-11)


@EACH
@BOTH
def test_against_one_chain_of_all_combinations(kernels, case):
    weights = torch.linspace(0.5, 2.0, len(case.lengths), dtype=torch.float64)
    found, expected = kernels.expectations(*case.arguments, weights), chains.expectations(*case.flattened(), weights=weights)
    joint = expected.states[:, 0]
    n_chains, n_states = case.initial.shape
    assert_allclose(found.log_evidence, expected.log_evidence, rtol=1e-12, atol=0)
    assert_allclose(kernels.log_partition(*case.arguments), expected.log_evidence, rtol=1e-12, atol=0)
    assert_allclose(found.combinations, joint.sum(0), rtol=0, atol=1e-10)
    of_chains = np.array(case.combinations)
    pairs = expected.transitions[0].numpy()
    for k, i in itertools.product(range(n_chains), range(n_states)):
        mine = of_chains[:, k] == i
        assert_allclose(found.states[:, k, i], joint[:, mine].sum(1), rtol=0, atol=1e-11)
        assert_allclose(found.initial[k, i], expected.initial[0, mine].sum(), rtol=0, atol=1e-11)
        for j in range(n_states):
            assert_allclose(found.transitions[k, i, j], pairs[mine][:, of_chains[:, k] == j].sum(), rtol=0, atol=1e-10)


@EACH
@BOTH
def test_best_paths_against_one_chain_of_all_combinations(kernels, case):
    paths, log_probability = kernels.viterbi(*case.arguments)
    flat, expected = chains.viterbi(*case.flattened(), torch.zeros(len(case.lengths), dtype=torch.int64))
    assert_allclose(log_probability, expected, rtol=1e-12, atol=0)
    assert_array_equal(paths, np.array(case.combinations)[flat])


def test_the_scaled_messages_are_not_trusted_where_something_is_lost():
    """The case that the definition has to step in for is one where it does."""
    chains_of = factorial_chains_cpu._run_forward(*out_of_reach().arguments)
    assert_array_equal(chains_of.exact, [False, True, True])
    for case in (two_chains(), many_combinations()):
        assert factorial_chains_cpu._run_forward(*case.arguments).exact.all()


def test_long_sequences_do_not_underflow():
    case = random_case(7, 2, 3, [3000], spread=30.0)
    expected = chains.log_partition(*case.flattened())[:, 0]
    assert_allclose(factorial_chains_cpu.log_partition(*case.arguments), expected, rtol=1e-12, atol=0)


def test_the_definition_differentiates():
    initial, transition, log_emission, offsets = forbidden().arguments
    parts = [each.clone().requires_grad_() for each in (initial, transition, log_emission)]
    factorial_chains.log_partition(*parts, offsets).sum().backward()
    found = factorial_chains_cpu.expectations(initial, transition, log_emission, offsets)
    assert_allclose(parts[0].grad * initial, found.initial, rtol=0, atol=1e-12)
    assert_allclose(parts[1].grad * transition, found.transitions, rtol=0, atol=1e-12)
    assert_allclose(parts[2].grad.sum(0), found.combinations, rtol=0, atol=1e-12)


def test_sums_over_chains_and_back():
    rng = np.random.default_rng(8)
    values, joint = rng.normal(size=(4, 3, 2)), rng.random((4, 8))
    of_chains = np.array(list(itertools.product(range(2), repeat=3)))
    expected = np.array([[sum(row[k, s[k]] for k in range(3)) for s in of_chains] for row in values])
    assert_allclose(factorial_chains.summed(torch.from_numpy(values)), expected, rtol=0, atol=1e-14)
    on = factorial_chains.indicators(3, 2).numpy()
    assert_array_equal(on, np.eye(2)[of_chains].reshape(8, 6))
    marginals = factorial_chains.marginals(torch.from_numpy(joint), 3, 2)
    assert_allclose(marginals.flatten(1), joint @ on, rtol=0, atol=1e-14)
    assert_array_equal(factorial_chains.split(torch.arange(8), 3, 2), of_chains)
