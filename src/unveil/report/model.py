"""The report of a fitted estimator: how learning went, and what it found in data."""

from __future__ import annotations

import inspect
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from unveil.core.estimator import ClusterMixin, Estimator
from unveil.data.batch import Batches
from unveil.data.layout import as_numeric, as_rows, is_many_sequences, offsets_of, read_sequences
from unveil.report import figures
from unveil.report.fitted import dictionary_picture, learning_curve, objective_unit
from unveil.report.page import WIDE, Card, Fact, Facts, Page, Picture, Row, Section, Table, Text, as_text, write_page
from unveil.report.provenance import how_this_was_made, parameter_table
from unveil.report.theme import category_colours

MOST_POINTS, MOST_SEQUENCES, MOST_STEPS = 5000, 400, 5000
STEPS_IN_A_ROW = 400  # as many as can be told apart in a figure over time
MOST_COLUMNS_OF_FEATURES = 6
COLUMNS_BESIDE_A_FIGURE = 5
MOST_STATES_IN_A_GRAPH = 10


@dataclass(frozen=True)
class Sample:
    """The part of the data that is drawn.

    Attributes
    ----------
    batches : Batches
        All of the data.
    chosen : ndarray of int
        The items that are drawn, evenly spread.
    items : list of ndarray of shape (n_steps, n_features)
        Those items, at most their first 5000 steps; points have one.
    """

    batches: Batches
    chosen: np.ndarray
    items: list[np.ndarray]

    @property
    def steps(self) -> np.ndarray:
        """All steps that are drawn, of shape (n, n_features)."""
        return np.concatenate(self.items)


def model_report(
    path: str | os.PathLike, estimator: Estimator, X: Any = None, *, title: str | None = None, command: str | None = None
) -> Path:
    """Write a page about a fitted estimator: how learning went, what it found, and with which parameters.

    Parameters
    ----------
    path : path
        The HTML file to write.
    estimator : Estimator
        A fitted one, of any kind.
    X : array, list of arrays, tensor or Batches, optional
        Data for the score and for the figures, which show an evenly spread part of it where it is large.
    title : str, optional
        By default the estimator's name.
    command : str, optional
        The command line that fitted it.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    sklearn.exceptions.NotFittedError
        When the estimator is not fitted.
    InputError
        When X does not fit the estimator, or the file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from unveil.models.gaussian_mixture import GaussianMixture
    >>> X = np.random.default_rng(0).normal(size=(50, 2))
    >>> model_report(f"{tempfile.mkdtemp()}/report.html", GaussianMixture(2, random_state=0, tol=0.1).fit(X), X).name
    'report.html'
    """
    check_is_fitted(estimator, "model_")
    facts = Facts(_facts(estimator, X))
    sample = None if X is None else _sample(estimator, X)
    learning = [Card("Learning", [learning_curve(estimator)])] if estimator.history_.objective else []
    sections = [Section("The fit", [facts, *([Row(learning)] if learning else [])])]
    sections += [section for view in _VIEWS if (section := view(estimator, sample)) is not None]
    sections.append(how_this_was_made([parameter_table({"model": estimator})], command))
    return write_page(path, Page(title or type(estimator).__name__, _summary(estimator), sections))


def _summary(estimator: Estimator) -> str:
    story = (inspect.getdoc(type(estimator)) or type(estimator).__name__).splitlines()[0]
    history = estimator.history_
    end = "converged" if history.converged else "stopped before it converged"
    iterations = f"{history.n_iter} iteration{'s' * (history.n_iter != 1)}"
    seconds = f"{history.seconds:.1f} s" if history.seconds >= 0.05 else "less than 0.1 s"
    return f"{story} Learning {end} after {iterations}, in {seconds}."


# ---------------------------------------------------------------------------------------------------------------------
# Numbers
# ---------------------------------------------------------------------------------------------------------------------


def _facts(estimator: Estimator, X: Any) -> list[Fact]:
    history = estimator.history_
    facts = []
    if X is not None:
        facts.append(Fact("score", estimator.score(X), _score_unit(estimator)))
    if X is not None and hasattr(estimator, "bic"):
        facts.append(Fact("BIC", estimator.bic(X), "lower is better"))
    facts += [Fact("iterations", history.n_iter), Fact("converged", history.converged)]
    if history.restarts:
        facts.append(Fact("starts", len(history.restarts)))
    if hasattr(estimator.model_, "count_parameters"):
        facts.append(Fact("free parameters", estimator.model_.count_parameters()))
    return facts


def _score_unit(estimator: Estimator) -> str:
    unit = objective_unit(estimator)
    return unit.replace("step", "sequence") if estimator.items == "sequences" else unit


def _described(means: np.ndarray, covariances: np.ndarray, covariance_type: str) -> list[list[str]]:
    """Mean and standard deviation of each class (row) and feature (column)."""
    matrices = figures.covariance_matrices(covariances, covariance_type, *means.shape)
    deviations = np.sqrt(np.diagonal(matrices, axis1=1, axis2=2))
    return [
        [f"{as_text(m, 2)}\u00a0±\u00a0{as_text(s, 2)}" for m, s in zip(*pair, strict=True)]
        for pair in zip(means, deviations, strict=True)
    ]


def _feature_columns(estimator: Estimator) -> tuple[list[str], list[list[str]]]:
    """Headings and cells for the means of the features; none when there are too many to be read."""
    described = all(hasattr(estimator, name) for name in ("means_", "covariances_", "covariance_type"))
    if not described or estimator.n_features_in_ > MOST_COLUMNS_OF_FEATURES:
        return [], []
    names = getattr(estimator, "feature_names_in_", [f"feature {d}" for d in range(estimator.n_features_in_)])
    return list(names), _described(estimator.means_, estimator.covariances_, estimator.covariance_type)


# ---------------------------------------------------------------------------------------------------------------------
# Data
# ---------------------------------------------------------------------------------------------------------------------


def _sample(estimator: Estimator, X: Any) -> Sample:
    batches = _batches(estimator, X)
    most = MOST_POINTS if estimator.items == "points" else MOST_SEQUENCES
    chosen = np.unique(np.linspace(0, batches.n_sequences - 1, min(most, batches.n_sequences)).round().astype(int))
    items = []
    for batch in batches:
        for i in chosen[(chosen >= batch.start) & (chosen < batch.start + batch.n_sequences)] - batch.start:
            start, stop = int(batch.offsets[i]), int(batch.offsets[i + 1])
            items.append(batch.values[start : min(stop, start + MOST_STEPS)].double().cpu().numpy())
    return Sample(batches, chosen, items)


def _batches(estimator: Estimator, X: Any) -> Batches:
    """X, which the estimator has already found to be sound, as it is read in pieces."""
    points, allow_nan = estimator.items == "points", estimator.allows_nan
    if isinstance(X, Batches):
        return (X.as_points() if points else X).replace(allow_nan=allow_nan)
    if not points and is_many_sequences(X):
        return read_sequences(X, allow_nan=allow_nan)[0]
    table = as_numeric(X)
    return Batches(as_rows(table), None if points else offsets_of([len(table)]), allow_nan=allow_nan)


# ---------------------------------------------------------------------------------------------------------------------
# What is shown of which kind of estimator: each view looks at what there is, and stays away where it has nothing to show
# ---------------------------------------------------------------------------------------------------------------------


def _clusters(estimator: Estimator, sample: Sample | None) -> Section | None:
    """Of points or of sequences: who is with whom, and the size of each cluster."""
    if not isinstance(estimator, ClusterMixin):
        return None
    if sample is None:
        return Section("Clusters", [_cluster_table(estimator)]) if hasattr(estimator, "weights_") else None
    labels = np.asarray(estimator.predict(sample.batches))
    draw = _picture_of_points if estimator.items == "points" else _picture_of_sequences
    picture = draw(estimator, sample, labels[sample.chosen], _n_clusters(estimator, labels))
    card = Card(f"{estimator.items.capitalize()} by cluster", [picture])
    return Section("Clusters", _with_table(card, _cluster_table(estimator, labels)))


def _n_clusters(estimator: Estimator, labels: np.ndarray | None) -> int:
    """As many as the estimator weighs, some of which may be empty; else as many as there are."""
    return len(estimator.weights_) if hasattr(estimator, "weights_") else int(labels.max()) + 1


def _with_table(card: Card, table: Table) -> list[Any]:
    """A figure with a table beside it, or below it where one of them is wide."""
    if len(table.columns) <= COLUMNS_BESIDE_A_FIGURE and card.blocks[0].width < WIDE:
        return [Row([card, Card("In numbers", [table])])]
    return [Row([card]), table]


def _picture_of_points(estimator: Estimator, sample: Sample, labels: np.ndarray, n_clusters: int) -> Picture:
    shape = [getattr(estimator, name, None) for name in ("means_", "covariances_", "covariance_type")]
    names = getattr(estimator, "feature_names_in_", None)
    figure = figures.clusters_of_points(sample.steps, labels, *shape, names=names)
    alt = f"{len(labels)} points coloured by their cluster, one of {n_clusters}."
    return Picture(figure, alt, f"{_drawn(sample, 'points')} {_ellipses(sample)}")


def _ellipses(sample: Sample) -> str:
    return "The ellipses are two standard deviations wide on either side." if sample.steps.shape[1] > 1 else ""


def _picture_of_sequences(estimator: Estimator, sample: Sample, labels: np.ndarray, n_clusters: int) -> Picture:
    names = getattr(estimator, "feature_names_in_", None)
    figure = figures.clusters_of_sequences(sample.items, labels, n_clusters=n_clusters, names=names)
    alt = f"{len(labels)} sequences, in a panel for each of {n_clusters} clusters."
    caption = f"{_drawn(sample, 'sequences')} At most 40 in each panel; a dot is where a path begins."
    return Picture(figure, alt, caption + _left_out(n_clusters))


def _left_out(n_clusters: int) -> str:
    return f" The first {figures.MOST_PANELS} of {n_clusters} clusters." if n_clusters > figures.MOST_PANELS else ""


def _drawn(sample: Sample, items: str) -> str:
    """How much of the data is in a figure."""
    n_items = sample.batches.n_sequences
    if len(sample.chosen) == n_items:
        return f"All {as_text(n_items)} {items}."
    return f"{as_text(len(sample.chosen))} of {as_text(n_items)} {items}, evenly spread."


def _cluster_table(estimator: Estimator, labels: np.ndarray | None = None) -> Table:
    n_clusters = _n_clusters(estimator, labels)
    columns: dict[str, list[Any]] = {"Cluster": [str(k) for k in range(n_clusters)]}
    if hasattr(estimator, "weights_"):
        columns["Weight"] = [float(weight) for weight in estimator.weights_]
    if labels is not None:
        columns[estimator.items.capitalize()] = np.bincount(labels, minlength=n_clusters).tolist()
    names, cells = _feature_columns(estimator) if estimator.items == "points" else ([], [])
    columns |= dict(zip(names, zip(*cells, strict=True), strict=True))
    caption = "Weights" if labels is None else "Weights and sizes"
    caption += "; features: mean ± standard deviation" if cells else ""
    rows = list(zip(*columns.values(), strict=True))
    return Table(list(columns), rows, caption, digits=3, colours=category_colours(n_clusters))


def _states(estimator: Estimator, sample: Sample | None) -> Section | None:
    """Of a chain: when it is in which state, and how the states look."""
    if isinstance(estimator, ClusterMixin) or np.ndim(getattr(estimator, "transmat_", None)) != 2:
        return None
    table = _state_table(estimator)
    if sample is None or not hasattr(estimator, "predict"):
        return Section("States", [table])
    paths = [np.asarray(path) for path in estimator.predict(sample.items)]
    over_time = Card("States over time", [_picture_of_states(estimator, sample, paths)])
    observed = Card("Observations by state", [_picture_of_steps(estimator, sample, paths)])
    return Section("States", [over_time, *_with_table(observed, table)])


def _picture_of_states(estimator: Estimator, sample: Sample, paths: list[np.ndarray]) -> Picture:
    steps, states = sample.steps[:STEPS_IN_A_ROW], np.concatenate(paths)[:STEPS_IN_A_ROW]
    breaks = [step for step in np.cumsum([len(path) for path in paths])[:-1] if step < len(steps)]
    names = getattr(estimator, "feature_names_in_", None)
    figure = figures.state_sequence(steps, states, n_states=len(estimator.transmat_), names=names, breaks=breaks)
    alt = f"The features over {len(steps)} steps, coloured by the most probable of {len(estimator.transmat_)} states."
    caption = f"The first {len(steps)} steps" + (f", of {len(breaks) + 1} sequences end to end." if breaks else ".")
    return Picture(figure, alt, f"{caption} Colours are the most probable path of states.")


def _picture_of_steps(estimator: Estimator, sample: Sample, paths: list[np.ndarray]) -> Picture:
    shape = [getattr(estimator, name, None) for name in ("means_", "covariances_", "covariance_type")]
    names = getattr(estimator, "feature_names_in_", None)
    figure = figures.clusters_of_points(sample.steps, np.concatenate(paths), *shape, names=names)
    alt = f"Observations coloured by the most probable of {len(estimator.transmat_)} states."
    return Picture(figure, alt, _ellipses(sample))


def _state_table(estimator: Estimator) -> Table:
    names, cells = _feature_columns(estimator)
    with np.errstate(divide="ignore"):
        stays = 1 / (1 - np.diagonal(estimator.transmat_))
    n_states = len(stays)
    rows = [[str(m), float(estimator.startprob_[m]), float(stays[m]), *(cells[m] if cells else [])] for m in range(n_states)]
    caption = "Probability of starting in a state, and how many steps it lasts on average"
    caption += "; features: mean ± standard deviation" if cells else ""
    return Table(["State", "Start", "Mean stay", *names], rows, caption, digits=2, colours=category_colours(n_states))


def _transitions(estimator: Estimator, sample: Sample | None) -> Section | None:
    """Of one chain or several: where they go."""
    transmat = getattr(estimator, "transmat_", None)
    if transmat is None:
        return None
    said = ""
    if transmat.ndim == 2:
        cards = [Card("Probabilities", [_picture_of_matrix(transmat)])]
        if len(transmat) <= MOST_STATES_IN_A_GRAPH:
            cards.insert(0, Card("Paths", [_picture_of_graph(transmat, estimator.startprob_)]))
    else:
        cards = [Card(f"Cluster {c}", [_picture_of_matrix(matrix)]) for c, matrix in enumerate(transmat[: figures.MOST_PANELS])]
        said = _left_out(len(transmat))
    return Section("Transitions", [*([Text(said)] if said else []), Row(cards)])


def _picture_of_matrix(transmat: np.ndarray) -> Picture:
    stay = float(np.diagonal(transmat).mean())
    alt = f"Transition probabilities between {len(transmat)} states; staying has {stay:.2f} on average."
    return Picture(figures.transition_matrix(transmat), alt)


def _picture_of_graph(transmat: np.ndarray, startprob: np.ndarray) -> Picture:
    alt = f"Graph of {len(transmat)} states; the start is most probably in state {int(np.argmax(startprob))}."
    caption = "Wider is more probable. A ring is staying; an arrow from outside is the start; below 1 % is left out."
    return Picture(figures.transition_graph(transmat, startprob), alt, caption)


def _dictionary(estimator: Estimator, sample: Sample | None) -> Section | None:
    """Of a factorisation: its atoms, and how items use them."""
    if not hasattr(estimator, "components_"):
        return None
    blocks: list[Any] = [Row([Card("Atoms", [dictionary_picture(estimator.components_)])])]
    if sample is not None and hasattr(estimator, "transform"):
        values = np.asarray(estimator.transform(_batches(estimator, sample.steps)))
        alt = f"Activations of {values.shape[1]} atoms in {len(values)} items."
        picture = Picture(figures.activations(values), alt, _drawn(sample, "items"))
        blocks.append(Card("Activations", [picture]))
    return Section("Dictionary", blocks)


_VIEWS = (_clusters, _states, _transitions, _dictionary)
