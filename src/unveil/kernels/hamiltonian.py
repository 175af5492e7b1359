"""Orders of states: the heaviest circuit or path that visits every node of a weighted graph once (a travelling salesman)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment

from unveil.errors import InputError

Weights = NDArray[np.float64]
Order = NDArray[np.int64]

EXACT_UP_TO = 13  # nodes of a circuit, and so 12 of a path, which has one more: the home that it leaves and returns to
GREEDY_STARTS = 12


def heaviest_circuit(weights: ArrayLike) -> Order:
    r"""Order of the nodes along the Hamiltonian circuit of largest weight.

    .. math:: \max_\sigma \; \sum_{t=0}^{n-1} w_{\sigma_t \sigma_{(t+1) \bmod n}}

    It is exact up to 13 nodes (dynamic programming over subsets). Beyond, it is the best of several local searches: from the
    assignment problem, whose cycles are patched together, and from greedy circuits.

    Parameters
    ----------
    weights : array of shape (n, n)
        ``weights[i, j]`` is the weight of going from i to j; the graph is directed. The diagonal is not read.

    Returns
    -------
    order : array of shape (n,), int64
        It begins with node 0.

    Raises
    ------
    InputError
        If the weights are not a square matrix of finite numbers.

    References
    ----------
    M. Held and R. Karp, "A dynamic programming approach to sequencing problems", J. SIAM 10, 1962.
    R. Karp, "A patching algorithm for the nonsymmetric traveling-salesman problem", SIAM J. Comput. 8, 1979.

    Examples
    --------
    >>> heaviest_circuit([[0, 1, 9], [9, 0, 1], [1, 9, 0]]).tolist()
    [0, 2, 1]
    """
    weights = _checked(weights)
    if len(weights) == 1:
        return np.zeros(1, dtype=np.int64)
    return _held_karp(weights) if len(weights) <= EXACT_UP_TO else _best_of_local_searches(weights)


def heaviest_path(weights: ArrayLike, starts: ArrayLike | None = None) -> Order:
    r"""Order of the nodes along the Hamiltonian path of largest weight, with a bonus for where it starts.

    .. math:: \max_\sigma \; b_{\sigma_0} + \sum_{t=1}^{n-1} w_{\sigma_{t-1} \sigma_t}

    A path is a circuit through one node more, home: leaving home for i weighs b_i, and coming home weighs nothing.

    Parameters
    ----------
    weights : array of shape (n, n)
        ``weights[i, j]`` is the weight of going from i to j; the graph is directed. The diagonal is not read.
    starts : array of shape (n,), optional
        The bonus b of each node as the first one; by default none.

    Returns
    -------
    order : array of shape (n,), int64

    Raises
    ------
    InputError
        If the weights are not a square matrix of finite numbers, or the bonuses not one finite number for each node.

    Examples
    --------
    >>> weights = [[0, 1, 9], [9, 0, 1], [1, 9, 0]]
    >>> heaviest_path(weights, starts=[0, 5, 0]).tolist()
    [1, 0, 2]
    """
    weights = _checked(weights)
    starts = np.zeros(len(weights)) if starts is None else np.asarray(starts, dtype=np.float64)
    if starts.shape != (len(weights),) or not np.isfinite(starts).all():
        raise InputError(f"starts are {len(weights)} finite numbers, one bonus for each node; they have shape {starts.shape}")
    with_home = np.pad(weights, (1, 0))
    with_home[0, 1:] = starts
    return heaviest_circuit(with_home)[1:] - 1


def _checked(weights: ArrayLike) -> Weights:
    """The weights as float64, if they are a square matrix of finite numbers off the diagonal, which is set to zero."""
    weights = np.array(weights, dtype=np.float64)
    if weights.ndim != 2 or weights.shape[0] != weights.shape[1] or not len(weights):
        raise InputError(f"weights are a square matrix, one row for each node; they have shape {weights.shape}")
    np.fill_diagonal(weights, 0.0)
    if not np.isfinite(weights).all():
        raise InputError("weights are finite numbers: give a forbidden step a large negative weight instead of -inf")
    return weights


def _weight(weights: Weights, order: ArrayLike) -> float:
    """The weight of a circuit."""
    return float(weights[order, np.roll(order, -1)].sum())


def _held_karp(weights: Weights) -> Order:
    """Exact, in O(2^n n^2): the best way through a set S that ends in j is the best one through S - {j}, and a step to j."""
    step = weights[1:, 1:]  # node 0 begins and ends the circuit; a set is a binary number whose bits are the other nodes
    n_others = len(step)
    sizes = np.bitwise_count(np.arange(2**n_others))
    best = np.full((2**n_others, n_others), -np.inf)
    previous = np.zeros((2**n_others, n_others), dtype=np.int8)
    best[1 << np.arange(n_others), np.arange(n_others)] = weights[0, 1:]
    for size in range(2, n_others + 1):
        sets = np.flatnonzero(sizes == size)
        for last in range(n_others):
            ending = sets[sets >> last & 1 == 1]
            totals = best[ending ^ 1 << last] + step[:, last]
            previous[ending, last] = totals.argmax(1)
            best[ending, last] = totals.max(1)
    return _walk_back(previous, int((best[-1] + weights[1:, 0]).argmax()))


def _walk_back(previous: NDArray[np.int8], last: int) -> Order:
    """The circuit from 0 whose last node is given, from the table of each set's last node but one."""
    visited, backwards = len(previous) - 1, []
    while visited:
        backwards.append(last + 1)
        visited, last = visited ^ 1 << last, int(previous[visited, last])
    return np.array([0, *reversed(backwards)])


def _best_of_local_searches(weights: Weights) -> Order:
    searched = [_or_opt(weights, order) for order in _first_circuits(weights)]
    order = max(searched, key=lambda order: _weight(weights, order))
    return np.roll(order, -int(order.argmin()))


def _first_circuits(weights: Weights) -> list[Order]:
    """Where the local searches start."""
    greedy = sorted((_greedy(weights, start) for start in range(len(weights))), key=lambda order: -_weight(weights, order))
    return [_patched_assignment(weights), *greedy[:GREEDY_STARTS]]


def _patched_assignment(weights: Weights) -> Order:
    """The best successor of each node, without regard to there being one circuit; then its cycles are patched together."""
    forbidden = weights.min() - len(weights) * np.ptp(weights) - 1.0
    _, successor = linear_sum_assignment(weights + np.diag(np.full(len(weights), forbidden)), maximize=True)
    nodes = np.arange(len(weights))
    while (cycle := _cycle_of_each_node(successor)).any():
        # i -> s(i) and j -> s(j) of two cycles become i -> s(j) and j -> s(i) of one
        swapped = weights[:, successor]
        gain = swapped + swapped.T - (own := weights[nodes, successor])[:, None] - own
        i, j = np.unravel_index(np.where(cycle[:, None] != cycle, gain, -np.inf).argmax(), gain.shape)
        successor[[i, j]] = successor[[j, i]]
    return _followed(successor, 0)


def _cycle_of_each_node(successor: Order) -> Order:
    """The number of the cycle that each node is on; all zero if there is but one."""
    cycle, found = np.full(len(successor), -1), 0
    while (cycle < 0).any():
        cycle[_followed(successor, int(cycle.argmin()))] = found
        found += 1
    return cycle


def _followed(successor: Order, start: int) -> Order:
    """The nodes of the cycle through ``start``."""
    order = [start]
    while (following := int(successor[order[-1]])) != start:
        order.append(following)
    return np.array(order)


def _greedy(weights: Weights, start: int) -> Order:
    """Always on to the unvisited node of largest weight."""
    order, left = [start], np.ones(len(weights), dtype=bool)
    for _ in range(len(weights) - 1):
        left[order[-1]] = False
        order.append(int(np.where(left, weights[order[-1]], -np.inf).argmax()))
    return np.array(order)


def _or_opt(weights: Weights, order: Order) -> Order:
    """Move a stretch of the circuit elsewhere while that gains, until no stretch of any length does.

    To exchange two neighbouring stretches is to move the shorter one past the other, or the rest past one of them: so the
    lengths up to a third give every exchange of three steps that turns none round.
    """
    tiny = 1e-12 * np.abs(weights).max()
    length, longest = 1, len(order) // 3
    while length <= longest:
        gain, start, after = _best_move(weights, order, length)
        if gain > tiny:
            order = _moved(order, start, length, after)
        length = 1 if gain > tiny else length + 1
    return order


def _best_move(weights: Weights, order: Order, length: int) -> tuple[float, int, int]:
    """The gain of the best move of a stretch of ``length`` nodes, the position where the stretch starts, and that after which it goes."""
    n = len(order)
    position = np.arange(n)
    first, last = order, order[(position + length - 1) % n]
    before, following = order[position - 1], order[(position + length) % n]
    taken_out = weights[before, following] - weights[before, first] - weights[last, following]
    put_in = (
        weights[np.ix_(order, first)] + weights[np.ix_(last, np.roll(order, -1))].T - weights[order, np.roll(order, -1)][:, None]
    )
    inside = (position[:, None] - position + 1) % n <= length  # after the node just before it, or after one of its own
    gain = np.where(inside, -np.inf, put_in + taken_out)
    after, start = np.unravel_index(gain.argmax(), gain.shape)
    return float(gain[after, start]), int(start), int(after)


def _moved(order: Order, start: int, length: int, after: int) -> Order:
    """The circuit with the stretch of ``length`` nodes from position ``start`` put after the node at position ``after``."""
    rotated = np.roll(order, -start)
    target = (after - start) % len(order) + 1
    return np.concatenate([rotated[length:target], rotated[:length], rotated[target:]])
