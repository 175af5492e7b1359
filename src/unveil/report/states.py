"""The views of hidden Markov models: when a chain is in which state, what the states are like, and where it goes from them."""

from __future__ import annotations

from typing import Any

import numpy as np

from unveil.core.mixins import ClusterMixin
from unveil.report.chains import state_sequence, transition_graph, transition_matrix
from unveil.report.clusters import beside, feature_columns, left_out, owners_of_chain, rows_of
from unveil.report.emissions import Points, columns_of_symbols, emission_cards
from unveil.report.figures import MOST_PANELS
from unveil.report.page import Card, Picture, Section, Table, Text
from unveil.report.sample import Sample, feature_names
from unveil.report.surprise import surprise_card
from unveil.report.theme import category_colours

STEPS_IN_A_ROW = 400  # as many as can be told apart in a figure over time
MOST_STATES_IN_A_GRAPH = 10


def states(estimator: Any, sample: Sample | None) -> Section | None:
    """Of a chain: when it is in which state, and how the states look."""
    transmat = getattr(estimator, "transmat_", None)
    if isinstance(estimator, ClusterMixin) or not (isinstance(transmat, np.ndarray) and transmat.ndim == 2):
        return None
    owners, emission = owners_of_chain(estimator.model_), estimator.model_.emission
    table = _state_table(estimator)
    if sample is None:
        return Section("States", beside(emission_cards(emission, owners, feature_names(estimator)), table))
    paths = [np.asarray(path) for path in estimator.predict(sample.items)]
    over_time = [Card("States over time", [_picture_of_states(estimator, sample, paths)])]
    surprise = surprise_card(estimator, sample.items[0])
    points = Points(sample.steps, np.concatenate(paths))
    cards = emission_cards(emission, owners, feature_names(estimator), points)
    return Section("States", [*over_time, *([surprise] if surprise else []), *beside(cards, table)])


def _picture_of_states(estimator: Any, sample: Sample, paths: list[np.ndarray]) -> Picture:
    steps, path = sample.steps[:STEPS_IN_A_ROW], np.concatenate(paths)[:STEPS_IN_A_ROW]
    breaks = [step for step in np.cumsum([len(path) for path in paths])[:-1] if step < len(steps)]
    figure = state_sequence(
        steps,
        path,
        n_states=len(estimator.transmat_),
        names=feature_names(estimator),
        breaks=breaks,
        symbols=columns_of_symbols(estimator.model_.emission),
    )
    alt = f"The features over {len(steps)} steps, coloured by the most probable of {len(estimator.transmat_)} states."
    caption = f"The first {len(steps)} steps" + (f", of {len(breaks) + 1} sequences end to end." if breaks else ".")
    return Picture(figure, alt, f"{caption} Colours are the most probable path of states.")


def _state_table(estimator: Any) -> Table:
    with np.errstate(divide="ignore"):
        stays = 1 / (1 - np.diagonal(estimator.transmat_))
    n_states, groups = len(stays), estimator.model_.structure.groups
    density = np.arange(n_states) if groups is None else groups.cpu().numpy()
    columns: dict[str, list[Any]] = {
        "State": [str(m) for m in range(n_states)],
        "Start": estimator.startprob_.tolist(),
        "Mean stay": stays.tolist(),
    }
    features = feature_columns(estimator)
    columns |= {name: [cells[k] for k in density] for name, cells in features.items()}
    caption = "Probability of starting in a state, and how many steps it lasts on average"
    caption += "; features: mean ± standard deviation" if features else ""
    caption += "".join(f"; states {name} share one density" for name in owners_of_chain(estimator.model_).names if "," in name)
    rows = list(zip(*columns.values(), strict=True))
    return Table(list(columns), rows, caption, digits=2, colours=category_colours(n_states))


def transitions(estimator: Any, sample: Sample | None) -> Section | None:
    """Of one chain or several: where they go."""
    transmat = getattr(estimator, "transmat_", None)
    if transmat is None:
        return None
    said = ""
    if isinstance(transmat, np.ndarray) and transmat.ndim == 2:
        cards = [Card("Probabilities", [_picture_of_matrix(transmat)])]
        if len(transmat) <= MOST_STATES_IN_A_GRAPH:
            cards.insert(0, Card("Paths", [_picture_of_graph(transmat, estimator.startprob_)]))
    else:
        kind = "Cluster" if isinstance(estimator, ClusterMixin) else "Chain"
        cards = [Card(f"{kind} {c}", [_picture_of_matrix(matrix)]) for c, matrix in enumerate(transmat[:MOST_PANELS])]
        said = left_out(len(transmat)).strip()
    return Section("Transitions", [*([Text(said)] if said else []), *rows_of(cards)])


def _picture_of_matrix(transmat: np.ndarray) -> Picture:
    stay = float(np.diagonal(transmat).mean())
    alt = f"Transition probabilities between {len(transmat)} states; staying has {stay:.2f} on average."
    n_impossible = int((transmat == 0).sum())
    caption = f"Empty cells cannot happen: {n_impossible} of {transmat.size}." if n_impossible else ""
    return Picture(transition_matrix(transmat), alt, caption)


def _picture_of_graph(transmat: np.ndarray, startprob: np.ndarray) -> Picture:
    alt = f"Graph of {len(transmat)} states; the start is most probably in state {int(np.argmax(startprob))}."
    caption = "Wider is more probable. A ring is staying; an arrow from outside is the start; below 1 % is left out."
    return Picture(transition_graph(transmat, startprob), alt, caption)
