"""From cluster centres to the components of a factorial model in which all chains share one: identification by incoherence.

Every centre is a sum of one component from each of K chains. If the shared component s is orthogonal to all others (incoherent),
the projection x . s / |s|^2 of a centre x is the number of chains that are in the shared state: a whole number. That singles s out; the
centres with K - 1 chains in it give the other components one by one; and components that occur together belong to different chains.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from sklearn.cluster import AgglomerativeClustering, KMeans

_NEGLIGIBLE = 1e-9  # of the largest norm: a centre that is explained so well holds nothing new


@dataclass(frozen=True)
class Identification:
    """Components read from cluster centres.

    Attributes
    ----------
    components : ndarray of shape (K, M, D)
        Those of each chain, the shared one last.
    incoherence : float
        The mean distance of the centres' projections on s from whole numbers: 0 where s is incoherent, 1/4 by chance.
    n_singles : int
        How many centres have all chains but one in the shared state: K (M - 1) where every component was seen alone, once.
    """

    components: np.ndarray
    incoherence: float
    n_singles: int


def identify_components(centers: np.ndarray, n_chains: int, n_states: int, seed: int) -> Identification:
    """Read the components from centres (C, D) of all combinations.

    Where too many centres look like a component alone, the nearest are averaged (a cluster was split); where too few do, the missing
    components are what the best explained part of the worst explained centre leaves over.
    """
    n_own = n_chains * (n_states - 1)
    shared, projections = find_shared(centers, n_chains)
    alone = np.rint(projections) == n_chains - 1
    singles = centers[alone] - (n_chains - 1) * shared
    n_singles = len(singles)
    if n_singles > n_own:
        singles = _averaged(singles, n_own)
    while len(singles) < n_own:
        singles = np.vstack([singles, _missing_component(centers, singles, shared, n_chains)])
    chains = group_by_occurrence(co_occurrence(centers, singles, shared, n_chains), n_chains, seed)
    components = [np.vstack([singles[chains == k], shared]) for k in range(n_chains)]
    return Identification(np.stack(components), float(_from_whole(projections, n_chains).mean()), n_singles)


def find_shared(centers: np.ndarray, n_chains: int) -> tuple[np.ndarray, np.ndarray]:
    """The shared component (D,) and the projections (C,) of the centres on it, which are nearest to whole numbers in 0 .. K.

    Where all chains are in the shared state the centre is K s, so each centre, divided by K, is tried.
    """
    gram = centers @ centers.T
    norms = np.diag(gram)
    usable = norms > _NEGLIGIBLE**2 * norms.max()
    if not usable.any():
        return np.zeros(centers.shape[1]), np.full(len(centers), float(n_chains))
    projections = n_chains * gram / np.where(usable, norms, 1.0)  # column c: on the centre c, divided by K
    scores = np.where(usable, _from_whole(projections, n_chains).mean(0), np.inf)
    best = int(scores.argmin())
    return centers[best] / n_chains, projections[:, best]


def _from_whole(projections: np.ndarray, n_chains: int) -> np.ndarray:
    """The distance to the nearest of 0, 1, .., K."""
    return np.abs(projections - np.rint(projections).clip(0, n_chains))


def _averaged(singles: np.ndarray, n_components: int) -> np.ndarray:
    """So many means of singles that are near each other."""
    if n_components == 0:
        return singles[:0]
    labels = AgglomerativeClustering(n_components, linkage="average").fit_predict(singles)
    return np.stack([singles[labels == label].mean(0) for label in range(n_components)])


def _subsets(n: int, largest: int) -> list[tuple[int, ...]]:
    """All sets of at most ``largest`` of n things."""
    return [chosen for size in range(min(n, largest) + 1) for chosen in combinations(range(n), size)]


def _sums(subsets: list[tuple[int, ...]], singles: np.ndarray, shared: np.ndarray, n_terms: int) -> np.ndarray:
    """The sum of the singles of each subset, filled up to ``n_terms`` terms with the shared component, of shape (n_subsets, D)."""
    inside = np.zeros((len(subsets), len(singles)))
    for row, chosen in enumerate(subsets):
        inside[row, list(chosen)] = 1.0
    return inside @ singles + (n_terms - inside.sum(1))[:, None] * shared


def _missing_component(centers: np.ndarray, singles: np.ndarray, shared: np.ndarray, n_chains: int) -> np.ndarray:
    """A component that, beside the known ones, explains the centres best: of what the worst explained one may hold."""
    whole = _sums(_subsets(len(singles), n_chains), singles, shared, n_chains)
    errors = cdist(centers, whole, "sqeuclidean").min(1)
    if errors.max() <= _NEGLIGIBLE**2 * np.square(centers).sum(1).max():
        return shared
    parts = _sums(_subsets(len(singles), n_chains - 1), singles, shared, n_chains - 1)
    candidates = centers[errors.argmax()] - parts
    gains = [np.minimum(errors, cdist(centers, parts + each, "sqeuclidean").min(1)).sum() for each in candidates]
    return candidates[int(np.argmin(gains))]


def co_occurrence(centers: np.ndarray, singles: np.ndarray, shared: np.ndarray, n_chains: int) -> np.ndarray:
    """In how many centres each two of the singles (P, D) are together: in the sum of at most K that is nearest; of shape (P, P)."""
    subsets = _subsets(len(singles), n_chains)
    nearest = cdist(centers, _sums(subsets, singles, shared, n_chains), "sqeuclidean").argmin(1)
    together = np.zeros((len(singles), len(singles)))
    for index in nearest:
        for a, b in combinations(subsets[index], 2):
            together[a, b] = together[b, a] = together[a, b] + 1.0
    return together


def group_by_occurrence(together: np.ndarray, n_groups: int, seed: int) -> np.ndarray:
    """Groups (P,) of equal size, of things that are not found together.

    Where things of different groups are, and those of one are not, the graph is complete K-partite, and the K - 1 most negative
    eigenvectors of its normalised adjacency matrix are constant on each group.
    """
    n_things = len(together)
    if n_groups == 1 or n_things == 0:
        return np.zeros(n_things, dtype=int)
    scale = 1.0 / np.sqrt(np.maximum(together.sum(0), 1e-9))
    _, vectors = np.linalg.eigh(together * scale[:, None] * scale)
    embedded = vectors[:, : n_groups - 1]
    middles = KMeans(n_groups, n_init=10, random_state=seed).fit(embedded).cluster_centers_
    places = np.repeat(middles, n_things // n_groups, axis=0)  # each group has as many places as it has components
    _, place = linear_sum_assignment(cdist(embedded, places, "sqeuclidean"))
    return place // (n_things // n_groups)


def read_as_shared(components: np.ndarray, state: Sequence[int]) -> np.ndarray:
    """The same sums with the component of another combination of states shared, and last.

    s = (1/K) sum_k O^k[i_k] is shared, and the other components are O^k[j] - O^k[i_k] + s: no combination changes its sum, so no likelihood
    can tell which is the shared state, and any factorial model, with a shared component or without, can be read so.

    Parameters
    ----------
    components : ndarray of shape (K, M, D)
        O^1 .. O^K.
    state : sequence of K ints
        i_1 .. i_K.
    """
    chosen = components[np.arange(len(components)), list(state)]
    moved = components - (chosen - chosen.mean(0))[:, None]
    return np.stack([moved[k, shared_last(i, components.shape[1])] for k, i in enumerate(state)])


def shared_last(state: int, n_states: int) -> list[int]:
    """The states of a chain with one moved to the end."""
    return [m for m in range(n_states) if m != state] + [state]


def coherence(components: np.ndarray) -> float:
    """The share of the other components' length that lies along the shared one, which is last in ``components`` (K, M, D): in [0, 1].

    sqrt(sum (m^T s)^2 / sum |m|^2) / |s|, where m runs over all other components: 0 where s is incoherent.
    """
    shared, others = components[0, -1], components[:, :-1]
    length = np.square(others).sum() * np.square(shared).sum()
    return float(np.sqrt(np.square(others @ shared).sum() / length)) if length > 0 else 0.0


def coherences(components: np.ndarray) -> np.ndarray:
    """The coherence that each combination's component would have, were it the shared one; of shape (M, .., M), K times."""
    n_chains, n_states, _ = components.shape
    found = np.empty((n_states,) * n_chains)
    for state in np.ndindex(found.shape):
        found[state] = coherence(read_as_shared(components, state))
    return found
