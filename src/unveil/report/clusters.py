"""The views of what puts items into clusters or classes: who is with whom, and what each of them is like."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import is_classifier

from unveil.core.estimator import Estimator
from unveil.core.mixins import ClusterMixin
from unveil.report import figures
from unveil.report.emissions import Owners, Points, columns_of_symbols, described_columns, emission_cards
from unveil.report.page import WIDE, Card, Picture, Row, Section, Table, Text
from unveil.report.sample import Sample, feature_names
from unveil.report.theme import category_colours

MOST_COLUMNS_OF_FEATURES = 6
COLUMNS_BESIDE_A_FIGURE = 5


def beside(cards: list[Card], table: Table) -> list[Any]:
    """Figures with a table beside the first of them, or below them all where one of these two is wide."""
    if cards and len(table.columns) <= COLUMNS_BESIDE_A_FIGURE and cards[0].blocks[0].width < WIDE:
        return [Row([cards[0], Card("In numbers", [table])]), *rows_of(cards[1:])]
    return [*rows_of(cards), table]


def rows_of(cards: list[Card]) -> list[Any]:
    """The cards two by two; one that is wide, or that is left over, alone."""
    narrow = [card for card in cards if card.blocks[0].width < WIDE]
    wide = [card for card in cards if card.blocks[0].width >= WIDE]
    return [*(Row(narrow[i : i + 2]) for i in range(0, len(narrow), 2)), *(Row([card]) for card in wide)]


def feature_columns(estimator: Any) -> dict[str, list[str]]:
    """Headings and cells for the normal densities of the features; none when there are too many to be read."""
    emission = getattr(estimator.model_, "emission", None)
    if emission is None or estimator.n_features_in_ > MOST_COLUMNS_OF_FEATURES:
        return {}
    names = feature_names(estimator)
    return {names[d]: cells for d, cells in described_columns(emission).items()}


# ---------------------------------------------------------------------------------------------------------------------
# Clusters
# ---------------------------------------------------------------------------------------------------------------------


def clusters(estimator: Any, sample: Sample | None) -> Section | None:
    """Of points or of sequences: the size of each cluster, and what it is like."""
    if not isinstance(estimator, ClusterMixin):
        return None
    labels = None if sample is None else np.asarray(estimator.predict(sample.batches))
    table = _cluster_table(estimator, labels)
    if estimator.items == "points":
        return Section("Clusters", beside(_cards_of_points(estimator, sample, labels), table))
    if sample is None:
        return Section("Clusters", [table])
    card = Card("Sequences by cluster", [_picture_of_sequences(estimator, sample, labels[sample.chosen])])
    return Section("Clusters", beside([card], table))


def _cards_of_points(estimator: Any, sample: Sample | None, labels: np.ndarray | None) -> list[Card]:
    n_clusters = len(estimator.weights_)
    names = [str(k) for k in range(n_clusters)]
    owners = Owners("cluster", np.arange(n_clusters), names, category_colours(n_clusters))
    points = None if sample is None else Points(sample.steps, labels[sample.chosen])
    if not hasattr(estimator.model_, "emission"):
        return _saying_how_many(_map_of_points(points, owners, feature_names(estimator)), sample)
    cards = emission_cards(estimator.model_.emission, owners, feature_names(estimator), points)
    return _saying_how_many(cards, sample)


def _map_of_points(points: Points | None, owners: Owners, names: list[str]) -> list[Card]:
    """Points by cluster, where clusters have no densities of their own to draw."""
    if points is None:
        return []
    figure = figures.clusters_of_points(points.values, points.labels, names=names, n_clusters=len(owners.names))
    return [Card("Points by cluster", [Picture(figure, f"{len(points.values)} points in {len(owners.names)} clusters.", "")])]


def _saying_how_many(cards: list[Card], sample: Sample | None) -> list[Card]:
    """The first card says how much of the data is drawn, where some is left out."""
    if sample is None or len(sample.chosen) == sample.batches.n_sequences:
        return cards
    said = Text(sample.drawn("points"))
    return [Card(card.title, [*card.blocks, said]) if i == 0 else card for i, card in enumerate(cards)]


def _picture_of_sequences(estimator: Any, sample: Sample, labels: np.ndarray) -> Picture:
    n_clusters = len(estimator.weights_)
    names, symbols = feature_names(estimator), columns_of_symbols(estimator.model_.emission)
    figure = figures.clusters_of_sequences(sample.items, labels, n_clusters=n_clusters, names=names, symbols=symbols)
    alt = f"{len(labels)} sequences, in a panel for each of {n_clusters} clusters."
    how = "each is a row of cells, brighter for a higher symbol" if 0 in symbols else "a dot is where a path begins"
    caption = f"{sample.drawn('sequences')} At most 40 in each panel; {how}."
    return Picture(figure, alt, caption + left_out(n_clusters))


def left_out(n_clusters: int) -> str:
    """That some clusters have no panel, where it is so."""
    return f" The first {figures.MOST_PANELS} of {n_clusters} clusters." if n_clusters > figures.MOST_PANELS else ""


def _cluster_table(estimator: Any, labels: np.ndarray | None) -> Table:
    n_clusters = len(estimator.weights_)
    columns: dict[str, list[Any]] = {
        "Cluster": [str(k) for k in range(n_clusters)],
        "Weight": [float(weight) for weight in estimator.weights_],
    }
    if labels is not None:
        columns[estimator.items.capitalize()] = np.bincount(labels, minlength=n_clusters).tolist()
    features = feature_columns(estimator) if estimator.items == "points" else {}
    caption = "Weights" if labels is None else "Weights and sizes"
    caption += "; features: mean ± standard deviation" if features else ""
    columns |= features
    rows = list(zip(*columns.values(), strict=True))
    return Table(list(columns), rows, caption, digits=3, colours=category_colours(n_clusters))


# ---------------------------------------------------------------------------------------------------------------------
# Classes
# ---------------------------------------------------------------------------------------------------------------------


def classes(estimator: Any, sample: Sample | None) -> Section | None:
    """Of a classifier whose classes are mixtures: which points it puts where, and its components."""
    if not is_classifier(estimator) or not hasattr(estimator, "class_prior_"):
        return None
    names, colours = [str(each) for each in estimator.classes_], category_colours(len(estimator.classes_))
    columns: dict[str, list[Any]] = {"Class": names, "Prior": [float(each) for each in estimator.class_prior_]}
    points = None
    if sample is not None:
        found = np.searchsorted(estimator.classes_, estimator.predict(sample.batches))
        columns["Points"] = np.bincount(found, minlength=len(names)).tolist()
        points = Points(sample.steps, found[sample.chosen])
    whose = estimator.model_.classes.cpu().numpy()
    owners = Owners("class", whose, [names[c] for c in whose], colours)
    cards = emission_cards(estimator.model_.emission, owners, feature_names(estimator), points)
    caption = "Probabilities of the classes" + ("" if sample is None else ", and to which the points most probably belong")
    table = Table(list(columns), list(zip(*columns.values(), strict=True)), caption, digits=3, colours=colours)
    return Section("Classes", beside(_saying_how_many(cards, sample), table))


# ---------------------------------------------------------------------------------------------------------------------
# Clusters of chains
# ---------------------------------------------------------------------------------------------------------------------


def observations(estimator: Estimator, sample: Sample | None) -> Section | None:
    """Of several chains: what their states give."""
    transmat = getattr(estimator, "transmat_", None)
    if not (isinstance(transmat, np.ndarray) and transmat.ndim == 3 and hasattr(estimator.model_, "emission")):
        return None
    cards = []
    for cluster in range(min(len(transmat), figures.MOST_PANELS)):
        owners = owners_of_chain(estimator.model_, cluster)
        cards += emission_cards(estimator.model_.emission, owners, feature_names(estimator), of=f", cluster {cluster}")
    if not cards:
        return None
    said = left_out(len(transmat))
    return Section("Observations", [*([Text(said.strip())] if said else []), *rows_of(cards)])


def owners_of_chain(model: Any, chain: int = 0) -> Owners:
    """The states of one chain, several of which may share a density."""
    n_states, groups = model.transition.shape[-1], model.structure.groups
    groups = np.arange(n_states) if groups is None else groups.cpu().numpy()
    n_groups = int(groups.max()) + 1
    of_density, names = np.full(model.emission.n_components, -1), [""] * model.emission.n_components
    for group in range(n_groups):
        members = np.flatnonzero(groups == group)
        of_density[chain * n_groups + group] = members[0]
        names[chain * n_groups + group] = ", ".join(map(str, members))
    return Owners("state", of_density, names, category_colours(n_states))
