"""Moments find the parameters that generated the data, with an error that falls with the root of its amount, and no start to choose.

Simulated data. First, mixtures of 3 hidden Markov models of 3 states each, with 15 features of unit variance around means that are some
8 deviations apart, and sequences of 20 steps: relative error of the means, error of the transitions (absolute, summed over
a row, mean of the rows), and clusters of sequences, all before any EM step. Second, left-to-right and cyclic chains whose order of states
has to be found: the share of seeds in which all of it is right.

After Subakan, Traa and Smaragdis (2014) and Subakan, Traa, Smaragdis and Hsu (2015), whose figures are on other data.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from scipy.optimize import linear_sum_assignment

from unveil.errors import IdentifiabilityWarning
from unveil.metrics.clustering import clustering_accuracy
from unveil.models.gaussian_hmm import GaussianHMM
from unveil.models.mixture_of_hmms import MixtureOfHMMs
from unveil.report.drawing import WHOLE, blank, styled
from unveil.report.page import Picture, Section, Table, Text
from unveil.report.theme import CATEGORIES, LIGHT

TITLE = "Moments: errors that fall with the root of the data"
N_CHAINS, N_STATES, N_FEATURES, LENGTH, SEPARATION = 3, 3, 15, 20, 8.0
DEPERMUTATIONS = ("all-lag", "ncut", "eigen")
STRUCTURES = ("bakis", "cyclic")
ORDER_SEPARATION = 5.0


@dataclass(frozen=True)
class MomentRates:
    """What was measured.

    Attributes
    ----------
    sizes : tuple of int
        Numbers of sequences.
    errors : dict of str to ndarray of shape (n_sizes, n_seeds, 4)
        For each de-permutation: error of the means, of the transitions, accuracy of the clusters, seconds.
    orders : dict of (structure, n_states, n_sequences) to float
        The share of seeds with the right order.
    order_seeds : int
    """

    sizes: tuple[int, ...]
    errors: dict[str, np.ndarray]
    orders: dict[tuple[str, int, int], float]
    order_seeds: int

    @property
    def table(self) -> list[dict[str, object]]:
        """A row for each de-permutation and size, and one for each order that was sought."""
        rows: list[dict[str, object]] = []
        for depermute, errors in self.errors.items():
            for size, of_size in zip(self.sizes, errors, strict=True):
                means = dict(
                    zip(("error of means", "error of transitions", "right clusters", "seconds"), of_size.mean(0), strict=True)
                )
                rows.append({"depermute": depermute, "sequences": size, "seeds": len(of_size)} | means)
        for (structure, n_states, size), share in self.orders.items():
            row = {"structure": structure, "states": n_states, "sequences": size, "seeds": self.order_seeds, "right order": share}
            rows.append(row)
        return rows

    def slope(self, depermute: str, column: int) -> float:
        """The power of the number of sequences with which an error changes: -0.5 is the root."""
        errors = self.errors[depermute][:, :, column].mean(1)
        return float(np.polyfit(np.log(self.sizes), np.log(errors), 1)[0])


def run(quick: bool = False, on_progress: Callable[[float], object] = lambda fraction: None) -> MomentRates:
    """All sizes with four seeds, and orders with six; ``quick`` keeps to two small sizes."""
    sizes, seeds = ((100, 400), 2) if quick else ((300, 1000, 3000, 10_000, 30_000), 4)
    cases = [
        (structure, m, n)
        for structure in STRUCTURES
        for m in ((5,) if quick else (5, 8, 12))
        for n in ((100,) if quick else (30, 100, 300))
    ]
    order_seeds, total = (2 if quick else 6), sum(sizes) * len(DEPERMUTATIONS) * seeds
    errors, done = {name: np.empty((len(sizes), seeds, 4)) for name in DEPERMUTATIONS}, 0
    for i, size in enumerate(sizes):
        for seed in range(seeds):
            data = simulate_mixture(size, seed)
            for name in DEPERMUTATIONS:
                errors[name][i, seed] = measure_mixture(*data, name)
                on_progress(0.8 * (done := done + size) / total)
    orders = {}
    for done, case in enumerate(cases, 1):
        orders[case] = float(np.mean([finds_order(*case, seed) for seed in range(order_seeds)]))
        on_progress(0.8 + 0.2 * done / len(cases))
    return MomentRates(sizes, errors, orders, order_seeds)


def simulate(means: np.ndarray, transition: np.ndarray, start: np.ndarray, n_sequences: int, length: int, rng: np.random.Generator):
    """Sequences (n, length, D) of a chain whose states have unit Gaussians at ``means``, and its states (n, length)."""
    states = np.empty((n_sequences, length), dtype=np.int64)
    states[:, 0] = rng.choice(len(start), size=n_sequences, p=start)
    for t in range(1, length):
        passed = rng.random(n_sequences)[:, None] > transition.cumsum(1)[states[:, t - 1]]
        states[:, t] = passed.sum(1).clip(max=len(start) - 1)
    return means[states] + rng.normal(size=(n_sequences, length, means.shape[1])), states


def simulate_mixture(n_sequences: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Sequences, the cluster of each, the means of all states, and their transitions."""
    rng, n_all = np.random.default_rng(seed), N_CHAINS * N_STATES
    means = rng.normal(size=(n_all, N_FEATURES)) * SEPARATION / np.sqrt(2 * N_FEATURES)
    transition = np.zeros((n_all, n_all))
    for c in range(N_CHAINS):
        block = slice(c * N_STATES, (c + 1) * N_STATES)
        transition[block, block] = rng.dirichlet(np.ones(N_STATES), N_STATES)
    sequences, states = simulate(means, transition, rng.dirichlet(np.full(n_all, 3.0)), n_sequences, LENGTH, rng)
    return sequences, states[:, 0] // N_STATES, means, transition


def measure_mixture(
    sequences: np.ndarray, clusters: np.ndarray, means: np.ndarray, transition: np.ndarray, depermute: str
) -> tuple[float, float, float, float]:
    """Relative error of the means, mean error of a row of transitions, accuracy of the clusters, and seconds, of moments alone."""
    model = MixtureOfHMMs(
        N_CHAINS, N_STATES, covariance_type="spherical", init="moments", depermute=depermute, max_iter=0, random_state=0
    )
    begin = time.perf_counter()
    model.fit(sequences)
    seconds = time.perf_counter() - begin
    found = np.zeros_like(transition)
    for c, own in enumerate(model.transmat_):
        found[c * N_STATES : (c + 1) * N_STATES, c * N_STATES : (c + 1) * N_STATES] = own
    found_means = model.means_.reshape(means.shape)
    order = in_true_order(found_means, means)
    of_means = np.linalg.norm(found_means[order] - means) / np.linalg.norm(means)
    of_transitions = np.abs(found[np.ix_(order, order)] - transition).sum(1).mean()
    return of_means, of_transitions, clustering_accuracy(clusters, model.predict(sequences)), seconds


def in_true_order(found: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Which found row is which true one, at the least total distance."""
    rows, columns = linear_sum_assignment(((found[:, None] - true) ** 2).sum(2))
    return rows[np.argsort(columns)]


def finds_order(structure: str, n_states: int, n_sequences: int, seed: int) -> bool:
    """Whether moments put all states of a chain into their order."""
    rng, around = np.random.default_rng(seed), structure == "cyclic"
    means = rng.normal(size=(n_states, n_states + 7)) * ORDER_SEPARATION / np.sqrt(2 * (n_states + 7))
    stay = rng.uniform(0.5, 0.85, n_states)
    transition = np.diag(stay) + np.diag(1 - stay[:-1], 1)
    transition[-1, 0 if around else -1] += 1 - stay[-1]
    start = np.full(n_states, 1 / n_states) if around else np.eye(n_states)[0]
    sequences, _ = simulate(means, transition, start, n_sequences, 4 * n_states, rng)
    model = GaussianHMM(n_states, covariance_type="spherical", transitions=structure, init="moments", max_iter=0, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", IdentifiabilityWarning)  # of few sequences
        order = in_true_order(model.fit(sequences).means_, means)
    shift = order[0] if around else 0
    return bool(((order - shift) % n_states == np.arange(n_states)).all())


def sections(result: MomentRates) -> list[Section]:
    """The errors against the number of sequences, and the orders that were found."""
    first = DEPERMUTATIONS[0]
    said = (
        f"With n sequences the errors fall as n to the power {result.slope(first, 0):.2f} (means) and {result.slope(first, 1):.2f} "
        f"(transitions), where sequences are clustered first ({first}); the root would be -0.50. Each figure is a mean over "
        f"{result.errors[first].shape[1]} seeds."
    ).replace("-0", "−0")
    rows = [
        [size, *(float(result.errors[name][i, :, column].mean()) for column in range(2) for name in DEPERMUTATIONS)]
        for i, size in enumerate(result.sizes)
    ]
    names = [f"{of}, {name}" for of in ("means", "transitions") for name in DEPERMUTATIONS]
    clusters = [
        [size, *(100 * float(result.errors[name][i, :, 2].mean()) for name in DEPERMUTATIONS)]
        + [float(np.median(result.errors[name][i, :, 3])) for name in DEPERMUTATIONS]
        for i, size in enumerate(result.sizes)
    ]
    picture = Picture(
        _draw(result),
        "Errors of means and transitions against the number of sequences, on logarithmic axes",
        "Dots are seeds, lines go through their means; the dashed line falls with the root.",
    )
    return [
        Section(
            "Mixtures of chains",
            [
                Text(said),
                picture,
                Table(["sequences", *names], rows, "Errors before EM", digits=4),
                Table(
                    ["sequences", *(f"right, {name}" for name in DEPERMUTATIONS), *(f"time, {name}" for name in DEPERMUTATIONS)],
                    clusters,
                    "Sequences in the right cluster, in percent, and median time, in seconds",
                    digits=2,
                ),
            ],
        ),
        Section("Orders", [_orders(result)]),
    ]


def _orders(result: MomentRates) -> Table:
    sizes = list(dict.fromkeys(n for _, _, n in result.orders))
    kinds = list(dict.fromkeys((structure, m) for structure, m, _ in result.orders))
    rows = [[f"{structure}, {m} states", *(100 * result.orders[structure, m, n] for n in sizes)] for structure, m in kinds]
    caption = f"Seeds of {result.order_seeds} in which all states are in their order, in percent"
    return Table(["chain", *(f"{n} sequences" for n in sizes)], rows, caption, digits=0)


@styled
def _draw(result: MomentRates) -> Figure:
    figure = blank(WHOLE, 3.4)
    for column, (axes, name) in enumerate(zip(figure.subplots(1, 2), ("means", "transitions"), strict=True)):
        for i, depermute in enumerate(DEPERMUTATIONS):
            errors = result.errors[depermute][:, :, column]
            axes.loglog(result.sizes, errors.mean(1), "-", color=CATEGORIES[i], label=depermute if column == 0 else None)
            axes.loglog(result.sizes, errors, "o", ms=3, alpha=0.6, color=CATEGORIES[i])
        top = result.errors[DEPERMUTATIONS[0]][0, :, column].mean()
        root = top * (np.array(result.sizes) / result.sizes[0]) ** -0.5
        axes.loglog(result.sizes, root, "--", lw=1, color=LIGHT["muted"])
        axes.set_xticks(result.sizes, [f"{size:,}" for size in result.sizes])
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
        axes.set_xlabel("sequences")
        axes.set_ylabel(f"error of {name}")
    figure.legend(loc="outside upper right", ncols=len(DEPERMUTATIONS))
    return figure
