"""Handwritten digits are clustered, from the movements of the pen alone, by mixtures of hidden Markov models learned from moments.

Data: pen trajectories, resampled along their arc to 20 points with positions and directions; 200 of each digit, drawn anew for each
seed. Each cluster is a chain of 8 states with variances. "spectral" is the method of moments without any EM, "EM from spectral" goes on
from there, and "random EM" starts from means at random steps and random transitions, as EM is often started.

The source (Subakan, Traa and Smaragdis, 2014, as told in Subakan's thesis talk, 2018) gives one figure for each pair, with features and
a choice of trajectories that are not known: patterns can be compared, single entries cannot. Its literal recipe finds all states at
once and sorts them by the eigenvectors of their transitions; it is shown as it is, with 5 states. Here there are fewer features than
states, which the recipe does not foresee; ours clusters the sequences first, by which of many fine states occur in the same ones.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from unveil.data import datasets
from unveil.errors import ConvergenceWarning, IdentifiabilityWarning
from unveil.metrics.clustering import clustering_accuracy
from unveil.models.mixture_of_hmms import MixtureOfHMMs
from unveil.report.drawing import WHOLE, blank, styled
from unveil.report.page import Fact, Facts, Picture, Section, Table, Text
from unveil.report.theme import CATEGORIES

TITLE = "Pen digits: clusters of handwriting from moments"
N_STATES, VARIANCE_FLOOR = 8, 1e-3
LITERAL_STATES, LITERAL_PER_CLASS = 5, 100
PAIRS = ((1, 2), (1, 3), (1, 4), (1, 5), (2, 3), (2, 4), (2, 5))
MORE = ((1, 2, 3), (1, 2, 3, 4), (0, 2, 4, 6, 8))
SPECTRAL, RANDOM, REFINED = METHODS = "spectral", "random EM", "EM from spectral"
LITERAL, LITERAL_REFINED = "literal recipe", "EM from it"
PUBLISHED = {  # percent, in the order of METHODS
    (1, 2): (100, 96, 100),
    (1, 3): (70, 99, 99),
    (1, 4): (54, 98, 100),
    (1, 5): (55, 54, 100),
    (2, 3): (83, 83, 96),
    (2, 4): (99, 100, 100),
    (2, 5): (99, 100, 100),
}


@dataclass(frozen=True)
class PenDigits:
    """Accuracies in percent.

    Attributes
    ----------
    accuracy : dict of (digits, method) to ndarray of shape (n_seeds,)
        The share of trajectories in the right cluster, clusters named as fits best.
    seconds : dict of method to float
        Median time of a pair's fit.
    seeds, per_class : int
    """

    accuracy: dict[tuple[tuple[int, ...], str], np.ndarray]
    seconds: dict[str, float]
    seeds: int
    per_class: int

    @property
    def tasks(self) -> list[tuple[int, ...]]:
        """The sets of digits."""
        return list(dict.fromkeys(digits for digits, _ in self.accuracy))

    @property
    def table(self) -> list[dict[str, object]]:
        """Each set of digits: mean, spread and lowest over the seeds of each method, and the published figure."""
        rows = []
        for digits in self.tasks:
            row: dict[str, object] = {"digits": _name(digits), "seeds": self.seeds, "per_class": self.per_class}
            for method in (*METHODS, LITERAL, LITERAL_REFINED):
                if (digits, method) in self.accuracy:
                    found = self.accuracy[digits, method]
                    row |= {method: found.mean(), f"{method}, sd": found.std(), f"{method}, lowest": found.min()}
                if digits in PUBLISHED and method in METHODS:
                    row[f"{method}, published"] = PUBLISHED[digits][METHODS.index(method)]
            rows.append(row)
        return rows

    def over_pairs(self, method: str) -> np.ndarray:
        """The mean over the pairs, for each seed."""
        return np.mean([self.accuracy[digits, method] for digits in self.tasks if len(digits) == 2], axis=0)

    def spread(self, method: str) -> float:
        """The standard deviation over the seeds, averaged over the pairs as variances are."""
        return float(np.sqrt(np.mean([self.accuracy[digits, method].var() for digits in self.tasks if len(digits) == 2])))


def _name(digits: Sequence[int]) -> str:
    return "v".join(map(str, digits)) if len(digits) == 2 else ", ".join(map(str, digits))


def run(quick: bool = False, on_progress: Callable[[float], object] = lambda fraction: None) -> PenDigits:
    """All sets of digits with several seeds; ``quick`` takes two pairs, two seeds and 60 trajectories of each digit."""
    tasks, seeds, per_class = ((PAIRS[0], PAIRS[5]), 2, 60) if quick else (PAIRS + MORE, 6, 200)
    accuracy: dict[tuple[tuple[int, ...], str], list[float]] = {}
    seconds: dict[str, list[float]] = {}
    for done, digits in enumerate(tasks):
        for seed in range(seeds):
            found = _cluster(digits, seed, per_class)
            if len(digits) == 2:
                found |= _cluster_literally(digits, seed, min(per_class, LITERAL_PER_CLASS))
            for method, (share, spent) in found.items():
                accuracy.setdefault((digits, method), []).append(100 * share)
                if len(digits) == 2:
                    seconds.setdefault(method, []).append(spent)
            on_progress((done + (seed + 1) / seeds) / len(tasks))
    return PenDigits(
        {key: np.array(values) for key, values in accuracy.items()},
        {method: float(np.median(each)) for method, each in seconds.items()},
        seeds,
        per_class,
    )


def _cluster(digits: tuple[int, ...], seed: int, per_class: int) -> dict[str, tuple[float, float]]:
    """Accuracy and time of each method on one draw of trajectories."""
    data = datasets.load("pendigits", digits=digits, per_class=per_class, random_state=seed)
    common = {"n_clusters": len(digits), "n_states": N_STATES, "reg_covar": VARIANCE_FLOOR, "random_state": seed}
    found = _from_moments(MixtureOfHMMs(init="moments", **common), data, (SPECTRAL, REFINED))
    begin = time.perf_counter()
    model = MixtureOfHMMs(**common, n_init=1, **random_start(data.data, len(digits), N_STATES, seed))
    return found | {RANDOM: (_accuracy(model, data), time.perf_counter() - begin)}


def _cluster_literally(digits: tuple[int, ...], seed: int, per_class: int) -> dict[str, tuple[float, float]]:
    """The same for the published recipe."""
    data = datasets.load("pendigits", digits=digits, per_class=per_class, random_state=seed)
    model = MixtureOfHMMs(
        len(digits), LITERAL_STATES, init="moments", depermute="eigen", reg_covar=VARIANCE_FLOOR, random_state=seed
    )
    return _from_moments(model, data, (LITERAL, LITERAL_REFINED))


def _from_moments(model: MixtureOfHMMs, data: datasets.Dataset, names: tuple[str, str]) -> dict[str, tuple[float, float]]:
    """Before EM and after it."""
    begin = time.perf_counter()
    before = _accuracy(model.set_params(max_iter=0), data)
    middle = time.perf_counter()
    after = _accuracy(model.set_params(max_iter=100, warm_start=True), data)
    return {names[0]: (before, middle - begin), names[1]: (after, time.perf_counter() - begin)}


def _accuracy(model: MixtureOfHMMs, data: datasets.Dataset) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", IdentifiabilityWarning)
        return float(clustering_accuracy(data.target, model.fit_predict(list(data.data))))


def random_start(sequences: Sequence[np.ndarray], n_clusters: int, n_states: int, seed: int) -> dict[str, np.ndarray]:
    """Means at random steps, the variances of all steps, and random probabilities."""
    rng, steps = np.random.default_rng(seed), np.concatenate(list(sequences))
    shape = (n_clusters, n_states)
    return {
        "means_init": steps[rng.choice(len(steps), n_clusters * n_states, replace=False)].reshape(*shape, -1),
        "covariances_init": np.broadcast_to(steps.var(0), (*shape, steps.shape[1])).copy(),
        "startprob_init": rng.dirichlet(np.ones(n_states), n_clusters),
        "transmat_init": rng.dirichlet(np.ones(n_states), shape),
    }


def sections(result: PenDigits) -> list[Section]:
    """What was reached, for each set of digits, beside what was published."""
    facts = [Fact(f"{method}, mean over pairs", f"{result.over_pairs(method).mean():.1f}", "%") for method in METHODS]
    facts.append(Fact(f"spread of {REFINED} over {RANDOM}", f"{result.spread(REFINED) / max(result.spread(RANDOM), 1e-9):.2f}"))
    spent = ", ".join(f"{method} {seconds:.2f} s" for method, seconds in result.seconds.items())
    reading = (
        f"Each figure is a mean over {result.seeds} seeds, each with its own draw of {result.per_class} trajectories of a digit; ± is "
        f"the standard deviation over the seeds. Median time of a pair: {spent}. EM can lower the accuracy: the likelihood does not ask "
        "which digit was meant."
    )
    picture = Picture(
        _draw(result),
        "Accuracies of three methods on each set of digits, a dot for each seed",
        "A dot for each seed; bars are what was published for a pair.",
    )
    literal = Table(
        ["digits", LITERAL, LITERAL_REFINED],
        [
            [_name(digits), *(_with_spread(result.accuracy[digits, method]) for method in (LITERAL, LITERAL_REFINED))]
            for digits in result.tasks
            if (digits, LITERAL) in result.accuracy
        ],
        f"The published recipe as it stands: {LITERAL_STATES} states, {min(result.per_class, LITERAL_PER_CLASS)} trajectories of each "
        "digit, percent in the right cluster",
    )
    return [
        Section("Accuracy", [Facts(facts), Text(reading), _comparison(result), picture]),
        Section("The literal recipe", [literal]),
    ]


def _comparison(result: PenDigits) -> Table:
    rows = [
        [_name(digits), *(_beside(_with_spread(result.accuracy[digits, method]), digits, method) for method in METHODS)]
        for digits in result.tasks
    ]
    theirs = np.mean(list(PUBLISHED.values()), axis=0)
    ours = [_with_spread(result.over_pairs(method)) for method in METHODS]
    rows.append(["mean of pairs", *(f"{own} ({other:.1f})" for own, other in zip(ours, theirs, strict=True))])
    return Table(
        ["digits", *METHODS], rows, "Percent of the trajectories in the right cluster; in brackets the published figure of a pair"
    )


def _beside(ours: str, digits: tuple[int, ...], method: str) -> str:
    return f"{ours} ({PUBLISHED[digits][METHODS.index(method)]})" if digits in PUBLISHED else ours


def _with_spread(values: np.ndarray) -> str:
    return f"{values.mean():.1f} ± {values.std():.1f}"


@styled
def _draw(result: PenDigits) -> Figure:
    figure = blank(WHOLE, 3.6)
    axes = figure.subplots()
    for m, method in enumerate(METHODS):
        for place, digits in enumerate(result.tasks):
            values = result.accuracy[digits, method]
            spread = np.linspace(-0.07, 0.07, len(values)) if len(values) > 1 else np.zeros(1)
            axes.plot(
                place + 0.26 * (m - 1) + spread,
                values,
                "o",
                ms=4,
                alpha=0.8,
                color=CATEGORIES[m],
                label=method if place == 0 else None,
            )
            if digits in PUBLISHED:
                axes.plot(
                    place + 0.26 * (m - 1) + np.array([-0.11, 0.11]),
                    [PUBLISHED[digits][m]] * 2,
                    "-",
                    lw=2,
                    alpha=0.5,
                    color=CATEGORIES[m],
                )
    axes.set_xticks(range(len(result.tasks)), [_name(digits) for digits in result.tasks])
    axes.set_ylabel("right cluster (%)")
    figure.legend(loc="outside upper right", ncols=len(METHODS))
    return figure
