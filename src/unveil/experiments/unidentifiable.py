"""A factorial hidden Markov model is not determined by its data: dictionaries that look different explain everything equally well.

K chains of M states add up to what is seen, x_t = sum_k O^k[z^k_t] + noise, so X = O R + noise with the K M indicators R of the states.
Each chain is in one state at a time, so the rows of R that belong to a chain add up to one, and rank(R) <= K M - (K - 1): there are
K - 1 directions of the dictionary for each feature of which the data says nothing (Ghahramani and Jordan, 1997, for the model;
Subakan, 2018, doctoral thesis, for the proof).

Three things are shown, all on simulated sequences: the ranks; two dictionaries with the same likelihood; and EM, which from different
starts reaches the same likelihood with different dictionaries. The source gives the bound and its proof, and no figures: the settings
are ours. Each start draws all means from a normal distribution as wide as the data.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.optimize import linear_sum_assignment

from unveil.models.factorial_hmm import FactorialHMM
from unveil.report.drawing import HALF, WHOLE, blank, styled, whole_numbers
from unveil.report.page import Card, Picture, Row, Section, Table, Text
from unveil.report.theme import LIGHT, category_colours

TITLE = "Factorial HMM: what the data cannot tell"
SETTINGS = ((2, 3), (3, 4), (4, 5))  # of K and M, for the ranks
N_STEPS = 3000
K, M, D = 2, 3, 2  # of the fits, so that dictionaries can be drawn
N_SEQUENCES, LENGTH, NOISE = 20, 100, 0.3
SAME = 1e-3  # nats per step: runs that come so near to the best one have found the same optimum
CHAIN_MARKERS = "os^D"


@dataclass(frozen=True)
class Ranks:
    """The rank of the indicators of simulated states.

    Attributes
    ----------
    n_chains, n_states : int
        K and M.
    found : tuple of int
        The rank of R, for each seed.
    singular_values : ndarray of shape (K M,)
        Of R, for the first seed, relative to the largest.
    """

    n_chains: int
    n_states: int
    found: tuple[int, ...]
    singular_values: np.ndarray

    @property
    def bound(self) -> int:
        """K M - (K - 1)."""
        return self.n_chains * self.n_states - (self.n_chains - 1)

    @property
    def row(self) -> dict[str, object]:
        """What a table says of it."""
        return {
            "K": self.n_chains,
            "M": self.n_states,
            "K M": self.n_chains * self.n_states,
            "K M - (K - 1)": self.bound,
            "lowest rank": min(self.found),
            "highest rank": max(self.found),
            "seeds": len(self.found),
        }


@dataclass(frozen=True)
class Starts:
    """EM from several starts on one data set.

    Attributes
    ----------
    seed : int
        Of the data.
    data : ndarray of shape (n_steps, D)
    log_likelihood : ndarray of shape (n_starts,)
        In nats per step.
    truth : float
        The same of the parameters that made the data.
    dictionaries, balanced : ndarray of shape (n_starts, K, M, D)
        As EM left them, and such that the means of all chains have the same average.
    difference : float
        The largest difference in log-likelihood, over sequences, between the best fit and its alternative, in nats.
    alternative : ndarray of shape (K, M, D)
        Of the best fit.
    """

    seed: int
    data: np.ndarray
    log_likelihood: np.ndarray
    truth: float
    dictionaries: np.ndarray
    balanced: np.ndarray
    difference: float
    alternative: np.ndarray

    @property
    def best(self) -> np.ndarray:
        """The starts that reached the highest likelihood, that one first."""
        order = np.argsort(-self.log_likelihood, kind="stable")
        return order[self.log_likelihood[order] > self.log_likelihood.max() - SAME]

    def distances(self) -> np.ndarray:
        """From the best fit to the others that are as good: of dictionaries, of balanced ones, and of sums, in noise deviations (n, 3)."""
        first, *others = self.best
        found = [
            [
                distance(self.dictionaries[first], self.dictionaries[i]),
                distance(self.balanced[first], self.balanced[i]),
                distance_of_sums(self.dictionaries[first], self.dictionaries[i]),
            ]
            for i in others
        ]
        return np.array(found).reshape(-1, 3) / NOISE

    @property
    def row(self) -> dict[str, object]:
        """What a table says of it; of distances the median."""
        apart = self.distances()
        dictionaries, balanced, sums = np.median(apart, axis=0).tolist() if len(apart) else [None] * 3
        return {
            "data seed": self.seed,
            "starts": len(self.log_likelihood),
            "as good": len(self.best),
            "nats per step": float(self.log_likelihood.max()),
            "of the truth": self.truth,
            "difference": self.difference,
            "dictionaries": dictionaries,
            "balanced": balanced,
            "sums": sums,
        }


@dataclass(frozen=True)
class Unidentifiable:
    """What was measured: ranks for each setting, and EM from several starts on each data set."""

    ranks: tuple[Ranks, ...]
    starts: tuple[Starts, ...]

    @property
    def table(self) -> list[dict[str, object]]:
        """The ranks beside the bound, and of each data set how far from each other equally good dictionaries are."""
        return [each.row for each in (*self.ranks, *self.starts)]


# ---- measures ------------------------------------------------------------------------------------------------------------


def distance(first: np.ndarray, second: np.ndarray) -> float:
    """The root mean squared difference of two dictionaries (K, M, D), with chains and states in the order that makes it least."""
    best = np.inf
    for order in itertools.permutations(range(len(first))):
        best = min(best, sum(_least_squares(mine, second[k]) for mine, k in zip(first, order, strict=True)))
    return float(np.sqrt(best / first.size))


def distance_of_sums(first: np.ndarray, second: np.ndarray) -> float:
    """The same of the M^K sums, in the order that makes it least."""
    sums = [sums_of(each) for each in (first, second)]
    return float(np.sqrt(_least_squares(*sums) / sums[0].size))


def sums_of(dictionary: np.ndarray) -> np.ndarray:
    """What the chains add up to, for every combination of states: (M^K, D)."""
    return np.array([sum(chosen) for chosen in itertools.product(*dictionary)])


def _least_squares(first: np.ndarray, second: np.ndarray) -> float:
    """The smallest sum of squared differences of rows (n, D), each with one of its own."""
    cost = ((first[:, None] - second) ** 2).sum(2)
    return float(cost[linear_sum_assignment(cost)].sum())


# ---- the experiment ------------------------------------------------------------------------------------------------------


def run(quick: bool = False, on_progress: Callable[[float], object] = lambda fraction: None) -> Unidentifiable:
    """Ranks over 10 seeds, and 20 starts on each of 5 data sets; ``quick``: 2 seeds, and 6 starts on one data set."""
    n_seeds, n_starts, n_data = (2, 6, 1) if quick else (10, 20, 5)
    ranks = tuple(measured_ranks(n_chains, n_states, n_seeds) for n_chains, n_states in SETTINGS)
    starts = []
    for seed in range(n_data):
        starts.append(fits(seed, n_starts))
        on_progress((seed + 1) / n_data)
    return Unidentifiable(ranks, tuple(starts))


def measured_ranks(n_chains: int, n_states: int, n_seeds: int) -> Ranks:
    """The rank of the indicators of states that follow random chains."""
    drawn = [_random_indicators(n_chains, n_states, np.random.default_rng(seed)) for seed in range(n_seeds)]
    values = np.linalg.svd(drawn[0], compute_uv=False)
    return Ranks(n_chains, n_states, tuple(int(np.linalg.matrix_rank(each)) for each in drawn), values / values[0])


def _random_indicators(n_chains: int, n_states: int, rng: np.random.Generator) -> np.ndarray:
    """R of shape (K M, n_steps): K ones in each column."""
    transition = rng.dirichlet(np.ones(n_states), (n_chains, n_states))
    return np.concatenate([np.eye(n_states)[random_path(each, N_STEPS, rng)].T for each in transition])


def random_path(transition: np.ndarray, length: int, rng: np.random.Generator) -> list[int]:
    """The states of one chain (length,), from any one."""
    path = [int(rng.integers(len(transition)))]
    while len(path) < length:
        path.append(int(rng.choice(len(transition), p=transition[path[-1]])))
    return path


def simulated(seed: int) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Sequences (length, D), the means (K, M, D) and transitions (K, M, M) that they are made of."""
    rng = np.random.default_rng(seed)
    means = rng.normal(scale=2.0, size=(K, M, D))
    transition = 0.8 * np.eye(M) + 0.2 * rng.dirichlet(np.ones(M), (K, M))
    sequences = []
    for _ in range(N_SEQUENCES):
        summed = sum(each[random_path(a, LENGTH, rng)] for each, a in zip(means, transition, strict=True))
        sequences.append(summed + NOISE * rng.normal(size=(LENGTH, D)))
    return sequences, means, transition


def fits(seed: int, n_starts: int) -> Starts:
    """EM from each of several random starts, and the alternative dictionary of the best one."""
    X, means, transition = simulated(seed)
    settings = {"n_chains": K, "n_states": M, "covariance_type": "spherical", "n_init": 1}
    given = {"means_init": means, "transmat_init": transition, "covariance_init": NOISE**2}
    truth = FactorialHMM(**settings, **given, max_iter=1, tol=0.0).fit(X).history_.objective[0]
    spread = np.concatenate(X).std(0)
    drawn = [np.random.default_rng([seed, start]).normal(scale=spread, size=means.shape) for start in range(n_starts)]
    found = [FactorialHMM(**settings, means_init=each, max_iter=2000, tol=1e-7).fit(X) for each in drawn]
    log_likelihood = np.array([each.score(X) / LENGTH for each in found])
    best = found[int(log_likelihood.argmax())]
    alternative = best.identifiability().alternative
    difference = np.abs(best.with_means(alternative).score_samples(X) - best.score_samples(X)).max()
    dictionaries = np.array([each.means_ for each in found])
    balanced = np.array([each.identifiability().balanced for each in found])
    return Starts(seed, np.concatenate(X), log_likelihood, truth, dictionaries, balanced, float(difference), alternative)


# ---- the report ----------------------------------------------------------------------------------------------------------


def sections(result: Unidentifiable) -> list[Section]:
    """The ranks, the two dictionaries, and what EM finds."""
    first = result.starts[0]
    best = first.dictionaries[first.best][:4]
    names = [f"start {i}: {first.log_likelihood[i]:.4f} nats per step" for i in first.best[:4]]
    two = Picture(
        dictionaries_figure([best[0], first.alternative], first.data, ["fitted", "alternative"]),
        "Two panels with the same data and the same nine sums, but with means of the chains in different places.",
        "Grey: data. Crosses: the sums, which are the same in both panels. Circles and squares: the means of the two chains. What one "
        "chain's means have more, the other's have less.",
    )
    several = Picture(
        dictionaries_figure(best, first.data, names),
        f"{len(best)} fits with the same sums and different means of the chains.",
        "Their sums agree; where the means of a chain are is left from the start.",
    )
    caption = (
        f"EM on {N_SEQUENCES} sequences of {LENGTH} steps, K = {K}, M = {M}, D = {D}. As good: within {SAME:g} nats per step of the "
        "best. Difference: what the alternative of the best changes at most, in nats. The last three columns: median root mean squared "
        "distance from the best fit to those as good, in standard deviations of the noise, with chains and states in the best order."
    )
    return [
        Section("The rank of the states' indicators", [_ranks_row(result)]),
        Section("Two dictionaries, one likelihood", [Card("The best fit, and its alternative", [two])]),
        Section(
            "EM from different starts",
            [Text(_reading(result)), _table(result.starts, caption), Card("Equally good fits", [several])],
        ),
    ]


def _ranks_row(result: Unidentifiable) -> Row:
    table = _table(result.ranks, f"Ranks of R over {N_STEPS} simulated steps.")
    alt = "Singular values of R, relative to the largest: all but the last K - 1 are near one, and those are zero up to rounding."
    return Row([Card("Ranks", [table]), Card("Singular values", [Picture(singular_values_figure(result.ranks), alt, alt)])])


def _table(measured: Sequence[Ranks] | Sequence[Starts], caption: str) -> Table:
    rows = [each.row for each in measured]
    return Table(list(rows[0]), [list(row.values()) for row in rows], caption)


def _reading(result: Unidentifiable) -> str:
    reached = sum(len(each.best) for each in result.starts)
    total = sum(len(each.log_likelihood) for each in result.starts)
    met = [rank == each.bound for each in result.ranks for rank in each.found]
    largest = max(each.difference for each in result.starts)
    dictionaries, together, sums = np.median(np.concatenate([each.distances() for each in result.starts]), axis=0)
    return (
        f"The rank met its bound in {sum(met)} of {len(met)} cases. The alternative changes the log-likelihood of no sequence by more than "
        f"{largest:.0e} nats. {reached} of {total} starts came within {SAME:g} nats per step of the best one on their data; the others "
        "ended in poorer optima, which is another matter. Among those that are equally good, dictionaries are "
        f"{dictionaries:.1f} deviations of the noise apart in the median, and their sums {sums:.0e}. Once balanced, so that the means of "
        f"all chains have the same average, they are {together:.0e} apart: here nothing but the redundant directions is left open. The "
        "dictionary of a factorial model must not be read before these are settled."
    )


@styled
def singular_values_figure(ranks: Sequence[Ranks]) -> Figure:
    """Singular values of R in their order, on a logarithmic scale."""
    figure = blank(HALF, 2.8)
    axes = figure.subplots()
    for each, colour, marker in zip(ranks, category_colours(len(ranks)), CHAIN_MARKERS, strict=False):
        values, name = np.maximum(each.singular_values, 1e-18), f"K = {each.n_chains}, M = {each.n_states}"
        axes.plot(np.arange(len(values)) + 1, values, marker, color=colour, markersize=4, label=name)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:.0e}")
    axes.set_xlabel("singular value")
    axes.set_ylabel("relative to the largest")
    axes.legend(frameon=False)
    whole_numbers(axes.xaxis)
    return figure


@styled
def dictionaries_figure(dictionaries: Sequence[np.ndarray], data: np.ndarray, names: Sequence[str]) -> Figure:
    """Dictionaries (K, M, 2) in the plane of the data, two side by side, each with its sums."""
    n_rows = -(-len(dictionaries) // 2)
    figure = blank(WHOLE, 3.6 * n_rows)
    panels = figure.subplots(n_rows, 2, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, dictionary, name in zip(panels, dictionaries, names, strict=False):
        _draw_dictionary(axes, dictionary, data)
        axes.set_title(name)
    for axes in panels[len(dictionaries) :]:
        axes.set_visible(False)
    panels[0].legend(frameon=False, loc="best")
    return figure


def _draw_dictionary(axes: Axes, dictionary: np.ndarray, data: np.ndarray) -> None:
    axes.plot(*data[:: max(1, len(data) // 300)].T, ".", color=LIGHT["line"], markersize=3)
    axes.plot(*sums_of(dictionary).T, "+", color=LIGHT["ink"], markersize=7, label="sums")
    for k, (means, colour) in enumerate(zip(dictionary, category_colours(len(dictionary)), strict=True)):
        axes.plot(*means.T, CHAIN_MARKERS[k], color=colour, markersize=6, label=f"chain {k}")
    axes.set_xlabel("feature 0")
    axes.set_ylabel("feature 1")
