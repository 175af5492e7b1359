"""Hidden Markov chains, the definition and its compiled twin, against the enumeration of all paths and closed forms."""

import itertools
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import logsumexp, softmax

from unveil.kernels import chains, chains_cpu

BOTH = pytest.mark.parametrize("kernels", [chains, chains_cpu], ids=["definition", "twin"])


# ---- cases, and the oracle: every path of every sequence -----------------------------------------------------------------


@dataclass
class Case:
    """C chains of M states over packed sequences, as numpy arrays."""

    initial: np.ndarray
    transition: np.ndarray
    log_emission: np.ndarray
    lengths: list[int]

    @property
    def offsets(self):
        return np.concatenate([[0], np.cumsum(self.lengths)])

    @property
    def arguments(self):
        arrays = (self.initial, self.transition, self.log_emission, self.offsets)
        return tuple(map(torch.from_numpy, arrays))

    def sequences(self):
        return np.split(self.log_emission, self.offsets[1:-1])


def random_case(seed, n_chains, n_states, lengths, spread=2.0):
    rng = np.random.default_rng(seed)
    return Case(
        initial=rng.dirichlet(np.ones(n_states), n_chains),
        transition=rng.dirichlet(np.ones(n_states), (n_chains, n_states)),
        log_emission=spread * rng.normal(size=(sum(lengths), n_chains, n_states)) - 3.0,
        lengths=lengths,
    )


def dense():
    return random_case(0, n_chains=2, n_states=3, lengths=[4, 1, 6, 2])


def one_state():
    return random_case(1, n_chains=2, n_states=1, lengths=[3, 1, 2])


def one_chain():
    return random_case(2, n_chains=1, n_states=4, lengths=[5, 1])


def left_to_right():
    case = random_case(3, n_chains=2, n_states=3, lengths=[5, 1, 3])
    case.transition *= np.triu(np.ones((3, 3))) - np.diag([1, 1], 1)[:3, :3] * [[0], [1], [0]]
    case.transition /= case.transition.sum(2, keepdims=True)
    case.initial[:] = [1.0, 0.0, 0.0]
    return case


def forbidden_starts():
    case = random_case(4, n_chains=2, n_states=3, lengths=[4, 2, 1])
    case.initial[0], case.initial[1] = [0.0, 0.3, 0.7], [0.0, 0.0, 1.0]
    case.transition[0, 1, 2] = case.transition[1, 2, 2] = case.transition[0, :, 0] = 0.0
    case.transition /= case.transition.sum(2, keepdims=True)
    return case


def forbidden_emissions():
    case = random_case(5, n_chains=2, n_states=3, lengths=[5, 3, 1])
    case.log_emission[np.random.default_rng(5).random(case.log_emission.shape) < 0.3] = -np.inf
    case.log_emission[:, :, 0] = np.where(np.isinf(case.log_emission[:, :, 0]), -9.0, case.log_emission[:, :, 0])
    return case


def alternating():
    """Two states that take turns, while the data speaks for the other one each time."""
    case = random_case(6, n_chains=1, n_states=2, lengths=[7, 1, 4])
    case.initial[0], case.transition[0] = [1.0, 0.0], [[0.0, 1.0], [1.0, 0.0]]
    case.log_emission[:, 0] = [[-30.0, 0.0] if t % 2 == 0 else [0.0, -30.0] for n in case.lengths for t in range(n)]
    return case


def vanishing_transitions():
    case = random_case(7, n_chains=2, n_states=3, lengths=[5, 1, 4])
    case.transition[0, 0] = [1.0, 1e-150, 1e-250]
    case.transition[1, 1] = [1e-120, 1.0, 0.0]
    case.initial[0] = [1.0, 1e-180, 0.0]
    case.log_emission *= 100.0
    return case


def denormal_everywhere():
    """No transition is forbidden, but the state that the data wants is out of reach of ordinary numbers."""
    case = random_case(17, n_chains=1, n_states=3, lengths=[8, 1])
    case.initial[0], case.transition[0] = [0.6, 0.4, 3e-320], [[0.7, 0.3, 3e-320], [0.2, 0.8, 7e-320], [0.3, 0.2, 0.5]]
    case.log_emission[1:8, 0, :2] -= 120.0
    case.log_emission[0, 0, 2] -= 100.0
    return case


CASES = [
    dense,
    one_state,
    one_chain,
    left_to_right,
    forbidden_starts,
    forbidden_emissions,
    alternating,
    vanishing_transitions,
    denormal_everywhere,
]
ALL = pytest.mark.parametrize("make", CASES, ids=lambda make: make.__name__)


def log(probabilities):
    with np.errstate(divide="ignore"):
        return np.log(probabilities)


def all_paths(n_states, n_steps):
    return np.array(list(itertools.product(range(n_states), repeat=n_steps)))


def path_log_weights(initial, transition, emission, paths):
    """log pi(z_1) + sum log A(z_{t-1}, z_t) + sum log b_t(z_t) of each path."""
    steps = np.arange(len(emission))
    total = log(initial)[paths[:, 0]] + emission[steps, paths].sum(1)
    return total + log(transition)[paths[:, :-1], paths[:, 1:]].sum(1)


def visits(paths, probabilities, n_states):
    """How probable each state is at each step: (n_steps, n_states)."""
    return np.einsum("p,ptm->tm", probabilities, np.eye(n_states)[paths])


def moves(paths, probabilities, n_states):
    """How often each transition is expected to be made: (n_states, n_states)."""
    one_hot = np.eye(n_states)[paths]
    return np.einsum("p,pti,ptj->ij", probabilities, one_hot[:, :-1], one_hot[:, 1:])


def enumerated(case, log_weights=None, weights=None):
    """What ``expectations`` should give, and log Z and the filtered probabilities, from all paths."""
    n_chains, n_states = case.initial.shape
    log_weights = np.zeros(n_chains) if log_weights is None else log_weights
    weights = np.ones(len(case.lengths)) if weights is None else weights
    found = {name: [] for name in ("log_z", "log_evidence", "responsibilities", "states", "filtered")}
    transitions, initial = np.zeros((n_chains, n_states, n_states)), np.zeros((n_chains, n_states))
    for emission, weight in zip(case.sequences(), weights, strict=True):
        paths = all_paths(n_states, len(emission))
        by_path = np.stack([path_log_weights(case.initial[c], case.transition[c], emission[:, c], paths) for c in range(n_chains)])
        joint = by_path + log_weights[:, None]
        posterior = softmax(joint)
        found["log_z"].append(np.logaddexp.reduce(by_path, axis=1))
        found["log_evidence"].append(logsumexp(joint))
        found["responsibilities"].append(posterior.sum(1))
        states = np.stack([visits(paths, posterior[c], n_states) for c in range(n_chains)], axis=1)
        found["states"].append(weight * states)
        initial += weight * states[0]
        transitions += weight * np.stack([moves(paths, posterior[c], n_states) for c in range(n_chains)])
        found["filtered"].append(np.stack([filtered_by_prefix(case, emission, c) for c in range(n_chains)], axis=1))
    packed = {name: np.concatenate(each) if name in ("states", "filtered") else np.array(each) for name, each in found.items()}
    return packed | {"transitions": transitions, "initial": initial}


def filtered_by_prefix(case, emission, c):
    """p(z_t | x_1 .. x_t): the paths of the first t steps alone."""
    n_states, rows = case.initial.shape[1], []
    for t in range(1, len(emission) + 1):
        paths = all_paths(n_states, t)
        joint = path_log_weights(case.initial[c], case.transition[c], emission[:t, c], paths)
        posterior = softmax(joint) if joint.max() > -np.inf else np.zeros(len(paths))
        rows.append(visits(paths, posterior, n_states)[-1])
    return np.array(rows)


FIELDS = ("log_evidence", "responsibilities", "states", "transitions", "initial")


def assert_expected(found, expected, rtol=1e-9, atol=1e-11):
    for name in FIELDS:
        assert_allclose(getattr(found, name), expected[name], rtol=rtol, atol=atol, err_msg=name)


def assert_same(found, expected, rtol=1e-8, atol=1e-9):
    for name in FIELDS:
        assert_allclose(getattr(found, name), getattr(expected, name), rtol=rtol, atol=atol, err_msg=name)


# ---- against enumeration -------------------------------------------------------------------------------------------------


@BOTH
@ALL
def test_log_partition_sums_over_all_paths(kernels, make):
    case = make()
    assert_allclose(kernels.log_partition(*case.arguments), enumerated(case)["log_z"], rtol=1e-11, atol=1e-11)


@BOTH
@ALL
def test_expectations_average_over_all_paths(kernels, make):
    case = make()
    log_weights, weights = np.log([0.3, 0.7])[: len(case.initial)], np.linspace(0.0, 2.0, len(case.lengths))
    found = kernels.expectations(*case.arguments, torch.from_numpy(log_weights), torch.from_numpy(weights))
    assert_expected(found, enumerated(case, log_weights, weights))


@BOTH
@ALL
def test_expectations_by_default_have_even_chains_and_weights_of_one(kernels, make):
    case = make()
    assert_expected(kernels.expectations(*case.arguments), enumerated(case))


@BOTH
@ALL
def test_filtered_uses_no_later_step(kernels, make):
    case = make()
    assert_allclose(kernels.filtered(*case.arguments), enumerated(case)["filtered"], rtol=1e-9, atol=1e-12)


@BOTH
@ALL
def test_viterbi_finds_the_best_of_all_paths(kernels, make):
    case = make()
    n_chains, n_states = case.initial.shape
    chain = np.arange(len(case.lengths)) % n_chains
    path, log_probability = kernels.viterbi(*case.arguments, torch.from_numpy(chain))
    found = np.split(path.numpy(), case.offsets[1:-1])
    for n, emission in enumerate(case.sequences()):
        c, paths = chain[n], all_paths(n_states, len(emission))
        joint = path_log_weights(case.initial[c], case.transition[c], emission[:, c], paths)
        assert_array_equal(found[n], paths[joint.argmax()])
        assert_allclose(log_probability[n], joint.max(), rtol=1e-12, atol=1e-12)


@BOTH
@pytest.mark.parametrize("make", [dense, left_to_right, forbidden_emissions], ids=lambda make: make.__name__)
def test_sampled_paths_are_as_frequent_as_they_are_probable(kernels, make):
    case, n_draws = make(), 3000
    emission, c = case.sequences()[0][:3], len(case.initial) - 1
    n_states = case.initial.shape[1]
    many = Case(case.initial, case.transition, np.tile(emission, (n_draws, 1, 1)), [3] * n_draws)
    uniforms = torch.rand(3 * n_draws, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    drawn = kernels.sample_paths(*many.arguments, torch.full((n_draws,), c), uniforms).numpy().reshape(n_draws, 3)
    paths = all_paths(n_states, 3)
    probability = softmax(path_log_weights(case.initial[c], case.transition[c], emission[:, c], paths))
    frequency = np.array([(drawn == path).all(1).mean() for path in paths])
    standard_error = np.sqrt(probability * (1 - probability) / n_draws)
    assert (np.abs(frequency - probability) <= 4.5 * standard_error + 1e-12).all()


@ALL
def test_the_same_uniforms_give_the_same_paths(make):
    case = make()
    chain = torch.arange(len(case.lengths)) % len(case.initial)
    for seed in range(5):
        uniforms = torch.rand(sum(case.lengths), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        by_definition = chains.sample_paths(*case.arguments, chain, uniforms)
        assert_array_equal(chains_cpu.sample_paths(*case.arguments, chain, uniforms), by_definition)


@BOTH
def test_a_uniform_chooses_by_cumulative_posterior(kernels):
    log_emission = torch.tensor([[[0.0, 0.2, 0.0, 0.5, 0.3]]], dtype=torch.float64).log().repeat(6, 1, 1)
    initial, transition = torch.full((1, 5), 0.2).double(), torch.full((1, 5, 5), 0.2).double()
    uniforms = torch.tensor([0.0, 0.19, 0.21, 0.69, 0.71, 1 - 1e-16], dtype=torch.float64)
    drawn = kernels.sample_paths(initial, transition, log_emission, torch.arange(7), torch.zeros(6, dtype=torch.int64), uniforms)
    assert drawn.tolist() == [1, 1, 3, 3, 4, 4]


@BOTH
def test_weight_two_counts_like_the_sequence_twice(kernels):
    case = dense()
    once = kernels.expectations(*case.arguments, weights=torch.tensor([1.0, 2.0, 0.0, 1.0]).double())
    kept = [case.sequences()[n] for n in (0, 1, 1, 3)]
    twice = kernels.expectations(*Case(case.initial, case.transition, np.concatenate(kept), [len(e) for e in kept]).arguments)
    assert_allclose(once.transitions, twice.transitions, rtol=1e-12, atol=1e-14)
    assert_allclose(once.initial, twice.initial, rtol=1e-12, atol=1e-14)
    assert_allclose(once.states[4], twice.states[4] + twice.states[5], rtol=1e-12, atol=1e-14)
    assert_allclose(once.states[5:11], torch.zeros(6, 2, 3), rtol=0, atol=0)


# ---- gradients -----------------------------------------------------------------------------------------------------------


def with_gradients(case):
    return [each.clone().requires_grad_() for each in case.arguments[:3]]


@BOTH
def test_gradients_are_those_of_finite_differences(kernels):
    case = random_case(8, n_chains=2, n_states=3, lengths=[4, 1, 3])
    offsets = case.arguments[3]
    assert torch.autograd.gradcheck(lambda *parts: kernels.log_partition(*parts, offsets), with_gradients(case))


@pytest.mark.parametrize("make", CASES[:-1], ids=lambda make: make.__name__)  # those by denormal numbers are infinite
def test_gradients_of_the_twin_are_those_of_the_definition(make):
    case = make()
    mix = torch.from_numpy(np.random.default_rng(0).normal(size=(len(case.lengths), len(case.initial))))
    gradients = []
    for kernels in (chains, chains_cpu):
        parts = with_gradients(case)
        gradients.append(torch.autograd.grad((kernels.log_partition(*parts, case.arguments[3]) * mix).sum(), parts))
    for by_definition, by_twin in zip(*gradients, strict=True):
        assert torch.isfinite(by_definition).all()
        assert_allclose(by_twin, by_definition, rtol=1e-9, atol=1e-11)


def test_gradients_of_the_twin_keep_the_type_of_their_input():
    case = dense()
    parts = [each.float().requires_grad_() for each in case.arguments[:3]]
    gradients = torch.autograd.grad(chains_cpu.log_partition(*parts, case.arguments[3]).sum(), parts)
    assert [each.dtype for each in gradients] == [torch.float32] * 3


def test_second_derivatives_of_the_twin_are_refused_rather_than_wrong():
    case = dense()
    parts = with_gradients(case)
    first = torch.autograd.grad(chains_cpu.log_partition(*parts, case.arguments[3]).sum(), parts[1], create_graph=True)[0]
    with pytest.raises(RuntimeError, match="does not require grad"):
        first.sum().backward()


# ---- the twin against the definition, on more than can be enumerated -----------------------------------------------------


@pytest.mark.parametrize(
    ("n_chains", "n_states", "lengths"),
    [(1, 1, [300, 1]), (1, 2, [1] * 50), (2, 5, [300, 17, 1, 120]), (3, 12, [60, 60]), (1, 40, [300, 2])],
)
def test_the_twin_agrees_on_random_chains(n_chains, n_states, lengths):
    case = random_case(n_states, n_chains, n_states, lengths, spread=5.0)
    log_weights = torch.from_numpy(np.log(np.random.default_rng(0).dirichlet(np.ones(n_chains))))
    weights = torch.linspace(0.5, 2.0, len(lengths), dtype=torch.float64)
    by_definition = chains.expectations(*case.arguments, log_weights, weights)
    assert_same(chains_cpu.expectations(*case.arguments, log_weights, weights), by_definition)
    assert_allclose(chains_cpu.filtered(*case.arguments), chains.filtered(*case.arguments), rtol=1e-9, atol=1e-12)
    chain = torch.arange(len(lengths)) % n_chains
    (path, score), (true_path, true_score) = (k.viterbi(*case.arguments, chain) for k in (chains_cpu, chains))
    assert_array_equal(path, true_path)
    assert_allclose(score, true_score, rtol=1e-12, atol=0)


@pytest.mark.parametrize("epsilon", [1e-9, 1e-6, 1e-3])
@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_the_twin_agrees_on_long_left_to_right_chains(epsilon, scale):
    case = long_left_to_right(epsilon, scale, n_states=4, n_steps=500)
    found = chains_cpu.expectations(*case.arguments)
    assert torch.isfinite(found.states).all()
    assert_same(found, chains.expectations(*case.arguments), rtol=1e-7, atol=1e-9)


def long_left_to_right(epsilon, scale, n_states, n_steps):
    transition = (1 - epsilon) * np.eye(n_states) + epsilon * np.eye(n_states, k=1)
    transition[-1, -1] = 1.0
    log_emission = scale * np.random.default_rng(9).normal(size=(n_steps, 1, n_states))
    return Case(np.eye(1, n_states), transition[None], log_emission, [n_steps])


# ---- closed forms, where others were found to fail -----------------------------------------------------------------------


def by_time_of_change(emission, transition, initial=(1.0, 0.0)):
    """All paths of the chain 0 .. 0 1 .. 1: one for each number of steps in state 0, and so a closed form at any length."""
    n_steps = len(emission)
    before = np.concatenate([[0.0], np.cumsum(emission[:, 0])])
    after = np.concatenate([np.cumsum(emission[::-1, 1])[::-1], [0.0]])
    in_zero = np.arange(n_steps + 1)
    logs = log(np.asarray(transition))
    moves = np.maximum(in_zero - 1, 0) * logs[0, 0] + np.where((in_zero > 0) & (in_zero < n_steps), logs[0, 1], 0.0)
    start = np.where(in_zero > 0, log(np.asarray(initial))[0], log(np.asarray(initial))[1])
    joint = start + before + after + moves
    posterior = softmax(joint)
    state_one = np.cumsum(posterior)[:-1]
    return logsumexp(joint), np.stack([1 - state_one, state_one], 1), posterior[1:-1].sum()


@BOTH
@pytest.mark.parametrize("epsilon", [1e-9, 1e-6, 1e-3])
@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_two_states_left_to_right_over_2000_steps(kernels, epsilon, scale):
    case = long_left_to_right(epsilon, scale, n_states=2, n_steps=2000)
    found = kernels.expectations(*case.arguments)
    log_z, states, changes = by_time_of_change(case.log_emission[:, 0], case.transition[0])
    assert_allclose(found.log_evidence, [log_z], rtol=1e-12, atol=1e-9)
    assert_allclose(found.states[:, 0], states, rtol=0, atol=1e-8)
    assert_allclose(found.transitions[0, 0, 1], changes, rtol=1e-7, atol=1e-12)
    assert_allclose(found.transitions.sum(), 1999.0, rtol=1e-9, atol=0)


@BOTH
@pytest.mark.parametrize("rare", [1e-100, 1e-101, 1e-150, 1e-250, 1e-300])
def test_a_transition_however_rare_is_made_where_the_data_wants_it(kernels, rare):
    log_emission = np.zeros((60, 1, 2))
    log_emission[:30, 0, 1] = log_emission[30:, 0, 0] = -30.0
    case = Case(np.array([[1.0, 0.0]]), np.array([[[1.0, rare], [0.0, 1.0]]]), log_emission, [60])
    found = kernels.expectations(*case.arguments, weights=torch.tensor([3.0], dtype=torch.float64))
    log_z, states, changes = by_time_of_change(log_emission[:, 0], case.transition[0])
    assert changes > 0.99, "the case is not what it should be"
    assert_allclose(found.log_evidence, [log_z], rtol=1e-12, atol=1e-9)
    assert_allclose(found.transitions[0, 0, 1], 3 * changes, rtol=1e-9, atol=0)
    assert_allclose(found.states[:, 0], 3 * states, rtol=0, atol=1e-10)


@BOTH
@pytest.mark.parametrize("drop", [100.0, 450.0, 700.0, 740.0, 800.0, 1e4])
def test_a_state_that_seems_lost_comes_back(kernels, drop):
    """One step speaks against state 0 by up to 10 000 nats, and all later ones for it: they win, but only just."""
    log_emission = np.zeros((30, 1, 2))
    log_emission[4, 0, 0], log_emission[5:25, 0, 1] = -drop, -drop / 20 - np.log(2)
    log_emission[25:, 0, 0] = -50.0
    case = Case(np.array([[1.0, 0.0]]), np.array([[[0.5, 0.5], [0.0, 1.0]]]), log_emission, [30])
    found = kernels.expectations(*case.arguments)
    log_z, states, changes = by_time_of_change(log_emission[:, 0], case.transition[0])
    assert 0.01 < states[20, 0] < 0.99, "the case is not what it should be"
    assert_allclose(found.log_evidence, [log_z], rtol=1e-12, atol=1e-9)
    assert_allclose(found.states[:, 0], states, rtol=0, atol=1e-8)
    assert_allclose(found.transitions[0, 0, 1], changes, rtol=1e-8, atol=0)
    assert_allclose(kernels.filtered(*case.arguments)[-1, 0], states[-1], rtol=0, atol=1e-8)


@BOTH
def test_rare_transitions_are_counted(kernels):
    """Three changes of state that the data leaves no doubt about, each of probability 1e-9."""
    epsilon, truth = 1e-9, np.repeat([0, 1, 2, 3], 100)
    log_emission = np.where(np.arange(4) == truth[:, None], 0.0, -1000.0)[:, None]
    case = long_left_to_right(epsilon, 1.0, n_states=4, n_steps=400)
    case.log_emission = log_emission
    found = kernels.expectations(*case.arguments)
    assert_allclose(found.transitions[0].diagonal(1), [1.0, 1.0, 1.0], rtol=1e-9, atol=0)
    assert_allclose(found.transitions[0].diagonal(), [99.0] * 4, rtol=1e-9, atol=0)
    assert_allclose(found.log_evidence, [3 * np.log(epsilon) + 396 * np.log1p(-epsilon)], rtol=0, atol=1e-5)
    assert_allclose(found.states[:, 0], np.eye(4)[truth], rtol=0, atol=1e-9)


@BOTH
def test_states_that_no_path_reaches_do_not_disturb_however_well_they_fit(kernels):
    """The only path alternates, 5 nats below the other one at every step: what is out of reach grows like exp(5 t)."""
    n_steps = 400
    log_emission = np.array([[[-5.0, 0.0]], [[0.0, -5.0]]] * (n_steps // 2))
    case = Case(np.array([[1.0, 0.0]]), np.array([[[0.0, 1.0], [1.0, 0.0]]]), log_emission, [n_steps])
    found = kernels.expectations(*case.arguments)
    assert_allclose(found.log_evidence, [-5.0 * n_steps], rtol=1e-12, atol=0)
    assert_allclose(found.states[:, 0], np.eye(2)[np.arange(n_steps) % 2], rtol=0, atol=1e-12)
    assert_allclose(found.transitions[0], [[0.0, 200.0], [199.0, 0.0]], rtol=1e-12, atol=0)


@BOTH
def test_a_state_that_is_never_entered_stays_empty(kernels):
    log_emission = np.tile([0.0, -6.0, -7.0], (300, 1))[:, None]
    transition = np.array([[[0.5, 0.5, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]])
    case = Case(np.array([[0.0, 0.25, 0.75]]), transition, log_emission, [300])
    found = kernels.expectations(*case.arguments)
    in_one, in_two = np.log(0.25) - 6.0 * 300, np.log(0.75) - 7.0 * 300
    assert_allclose(found.log_evidence, [np.logaddexp(in_one, in_two)], rtol=1e-12, atol=0)
    assert_allclose(found.transitions[0, 0], [0.0, 0.0, 0.0], rtol=0, atol=0)
    assert_allclose(found.transitions[0, 1, 1], 299.0, rtol=1e-12, atol=0)


def scaled_recursion(case):
    """log Z of one sequence and chain by the textbook's scaled recursion, in extended precision where there is one."""
    alpha, log_z = case.initial[0].astype(np.longdouble), np.longdouble(0)
    shift = case.log_emission[:, 0].max(1)
    likelihood = np.exp(case.log_emission[:, 0] - shift[:, None])
    for t, density in enumerate(likelihood):
        alpha = (alpha if t == 0 else alpha @ case.transition[0]) * density
        total = alpha.sum()
        log_z += np.log(total) + shift[t]
        alpha = alpha / total
    return float(log_z)


def test_a_hundred_thousand_steps_in_single_precision():
    n_steps, n_states = 100_000, 8
    case = random_case(11, n_chains=1, n_states=n_states, lengths=[n_steps])
    single = [each.float() for each in case.arguments[:3]]
    rounded = Case(*(each.double().numpy() for each in single), case.lengths)
    found = chains_cpu.expectations(*single, case.arguments[3])
    assert_allclose(found.transitions.sum(), n_steps - 1.0, rtol=1e-6, atol=0)
    assert_allclose(found.initial.sum(), 1.0, rtol=1e-9, atol=0)
    assert_allclose(found.states.sum((1, 2)), np.ones(n_steps), rtol=1e-6, atol=0)
    assert_allclose(found.log_evidence, [scaled_recursion(rounded)], rtol=1e-9, atol=0)
    assert found.log_evidence.dtype == torch.float64


@BOTH
def test_single_precision_emissions_are_worked_on_in_double(kernels):
    case = dense()
    single = case.arguments[2].float()
    found = kernels.expectations(*case.arguments[:2], single, case.arguments[3])
    case.log_emission = single.double().numpy()
    assert_expected(found, enumerated(case))


# ---- what cannot happen --------------------------------------------------------------------------------------------------


def no_state_emits(case):
    case.log_emission[case.offsets[1] + 1, :] = -np.inf


def no_transition_leads_on(case):
    case.transition[:] = np.eye(3)
    case.log_emission[case.offsets[1], :, 1:] = case.log_emission[case.offsets[1] + 1, :, 0] = -np.inf


def no_start_emits(case):
    case.initial[:] = [1.0, 0.0, 0.0]
    case.log_emission[case.offsets[1], :, 0] = -np.inf


@BOTH
@pytest.mark.parametrize("forbid", [no_state_emits, no_transition_leads_on, no_start_emits], ids=lambda forbid: forbid.__name__)
def test_an_impossible_sequence_has_no_evidence_and_no_posterior(kernels, forbid):
    case = random_case(12, n_chains=2, n_states=3, lengths=[3, 4, 2])
    forbid(case)
    found = kernels.expectations(*case.arguments)
    assert found.log_evidence[1] == -torch.inf
    assert_array_equal(kernels.log_partition(*case.arguments)[1], [-np.inf, -np.inf])
    assert_array_equal(found.responsibilities[1], [0.0, 0.0])
    assert_array_equal(found.states[3:7], np.zeros((4, 2, 3)))
    possible = [case.sequences()[n] for n in (0, 2)]
    others = enumerated(Case(case.initial, case.transition, np.concatenate(possible), [3, 2]))
    assert_allclose(found.transitions, others["transitions"], rtol=1e-10, atol=1e-12)
    assert_allclose(found.initial, others["initial"], rtol=1e-10, atol=1e-12)
    assert_allclose(found.log_evidence[[0, 2]], others["log_evidence"], rtol=1e-12, atol=0)


@BOTH
def test_the_filter_goes_as_far_as_the_sequence_is_possible(kernels):
    case = random_case(13, n_chains=1, n_states=2, lengths=[4])
    case.log_emission[2] = -np.inf
    found = kernels.filtered(*case.arguments)[:, 0]
    assert_allclose(found[:2], filtered_by_prefix(case, case.log_emission[:2], 0), rtol=1e-10, atol=1e-12)
    assert_array_equal(found[2:], np.zeros((2, 2)))


@BOTH
def test_paths_of_an_impossible_sequence_stay_within_the_states(kernels):
    case = random_case(14, n_chains=1, n_states=3, lengths=[3, 2])
    case.log_emission[1] = -np.inf
    chain = torch.zeros(2, dtype=torch.int64)
    assert set(kernels.sample_paths(*case.arguments, chain, torch.full((5,), 0.5)).tolist()) <= {0, 1, 2}
    path, log_probability = kernels.viterbi(*case.arguments, chain)
    assert log_probability[0] == -torch.inf
    assert torch.isfinite(log_probability[1])
    assert set(path.tolist()) <= {0, 1, 2}


@BOTH
def test_a_sequence_that_one_chain_cannot_make_belongs_to_the_other(kernels):
    case = random_case(15, n_chains=2, n_states=2, lengths=[3, 2])
    case.log_emission[1, 0] = -np.inf
    found = kernels.expectations(*case.arguments)
    assert_expected(found, enumerated(case))
    assert_array_equal(found.responsibilities[0], [0.0, 1.0])


@BOTH
def test_a_chain_without_weight_takes_nothing_even_where_it_is_alone(kernels):
    case = random_case(16, n_chains=2, n_states=2, lengths=[3, 2])
    case.log_emission[1, 1] = -np.inf  # the first sequence is possible only for the chain that has no weight
    found = kernels.expectations(*case.arguments, torch.tensor([-torch.inf, 0.0]).double())
    assert_array_equal(found.responsibilities, [[0.0, 0.0], [0.0, 1.0]])
    assert found.log_evidence[0] == -torch.inf
    assert_array_equal(found.states[:, 0], np.zeros((5, 2)))
    assert_allclose(found.states[3:, 1].sum(1), [1.0, 1.0], rtol=1e-12, atol=0)
    assert not found.transitions.isnan().any()
