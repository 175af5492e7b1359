"""From frames of superimposed sources to the components of each: pure frames, what sounds together, and a partition."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from unveil.kernels.partition import affinity_within, partition
from unveil.kernels.separable import non_negative_least_squares, self_expression, successive_projection

# Finding components.
_RUNS = 2  # of k-means, the better of which counts
_TINY_CLUSTER = 2  # frames: fewer are no cluster
_ENOUGH, _NEAR_BEST = 0.03, 1.3  # of the residual: the fewest components that reach the one, or the other times the least
_NOT_TRIED = -1.0
_STEPS = 3  # multiplicative steps for each assignment of the frames
_LARGE_COEFFICIENT = 0.15  # of the largest one in the same column: smaller ones are no edge of the published recipe's graph

# Fitting at most one of each source.
_BLOCK = 256  # frames that are fitted at once
_TOO_MANY_COMBINATIONS = 2048
_CANDIDATES = 2  # components of a source that are tried in each frame where all combinations are too many

# Grouping components. The results are flat around these.
_ACTIVE = 0.25  # of a component's largest activation: below it does not play, it only mends what others leave
_EXPECTED = 0.3  # of the chance co-activity: sounding together more often speaks for two sources, less often for one
_MOST_TOGETHER = 2.0  # times the chance co-activity: more of it says no more
_STAND_IN = 0.7  # cosine from which on co-activity tells nothing
_SIMILAR = 0.3  # cosine above which spectra speak for one source
_LIKENESS = 4.0  # weight of what a cosine has above that
_EDGE = 0.05  # of the rarer component's time: together for less is chance
_SMALL_PART = 0.05  # of all activity: what is rarer is no part of its own


@dataclass(frozen=True)
class RevealingGraph:
    """Components, the source of each, and how well that fits.

    Attributes
    ----------
    components : Tensor of shape (S, F)
        Of unit length, the most telling first.
    sources : Tensor of shape (S,), int64
        The source, 0 .. K - 1, that each belongs to.
    residual : float
        The share of the centres' energy that at most one component of each source leaves.
    n_parts : int
        Connected parts of the graph of which components of different sources sound together.
    n_found : int
        How many sources the data speaks for.
    frustration : float
        The share of all sounding together that is of components of the same source.
    curve : Tensor
        The residual with 1, 2, .. components; -1 for numbers not tried.
    """

    components: Tensor
    sources: Tensor
    residual: float
    n_parts: int
    n_found: int
    frustration: float
    curve: Tensor


@dataclass(frozen=True)
class Centres:
    """Cluster centres of unit-length frames.

    Attributes
    ----------
    directions : Tensor of shape (C, F)
        The centres, at unit length.
    weights : Tensor of shape (C,)
        How many frames are in each.
    """

    directions: Tensor
    weights: Tensor


def cluster(frames: Tensor, weights: Tensor, n_clusters: int, generator: torch.Generator) -> Centres:
    """k-means centres of unit-length frames (n, F); at most one for three frames; the tiniest clusters are left out."""
    from sklearn.cluster import KMeans

    n_clusters = max(1, min(n_clusters, len(frames) // 3))
    seed = int(torch.randint(2**31 - 1, (), generator=generator))
    kmeans = KMeans(n_clusters, n_init=_RUNS, random_state=seed)  # pyright: ignore[reportArgumentType]  (its default is a string)
    kmeans.fit(frames.cpu().numpy(), sample_weight=weights.cpu().numpy())
    labels = torch.from_numpy(kmeans.labels_).long()
    counts, sizes = torch.bincount(labels, minlength=n_clusters), torch.bincount(labels, weights.cpu(), minlength=n_clusters)
    kept = (counts >= min(_TINY_CLUSTER, int(counts.max()))) & (sizes > 0)
    centres = torch.from_numpy(kmeans.cluster_centers_).double().clamp_min(0.0)[kept]
    return Centres(torch.nn.functional.normalize(centres, dim=1), sizes[kept])


def reveal_by_graph(
    frames: Tensor, centres: Centres, n_sources: int, max_components: int, generator: torch.Generator
) -> RevealingGraph:
    """Components by successive projection, as few as explain the centres; sources by which are active together in the frames.

    Parameters
    ----------
    frames : Tensor of shape (n, F)
        Of unit length.
    centres : Centres
    n_sources : int
        K.
    max_components : int
        The most components.
    generator : torch.Generator
    """
    points = centres.directions
    order = successive_projection((points / points.sum(1, keepdim=True).clamp_min(1e-300)).T, max_components)
    curve = torch.full((len(order),), _NOT_TRIED, dtype=torch.float64)
    for size in range(min(n_sources, len(order)), len(order) + 1):
        chosen = points[order[:size]]
        sources = group(frames, chosen, n_sources, generator, n_random=2)
        curve[size - 1] = unexplained(centres, chosen, sources, n_sources)
    enough = max(_ENOUGH, _NEAR_BEST * float(curve[curve >= 0].min()))
    size = int(((curve >= 0) & (curve <= enough)).nonzero()[0]) + 1
    chosen = points[order[:size]]
    return _graph(frames, centres, chosen, group(frames, chosen, n_sources, generator), n_sources, curve)


def reveal_by_lasso(
    frames: Tensor, centres: Centres, n_sources: int, max_components: int, penalty: float, generator: torch.Generator
) -> RevealingGraph:
    """The recipe as it was published: centres that no others express are components, the others are edges between these.

    H = argmin ||X - X H||^2 + penalty ||H||_1, H >= 0, diag H = 0; residuals of the columns are split at their largest gap.
    Centres that are not components are expressed by these, and the graph of which occur together is coloured.
    """
    points = centres.directions
    residuals = (points - self_expression(points.T, penalty).T @ points).norm(dim=1)
    order = residuals.argsort(descending=True)
    logs = (residuals[order] + 1e-6).log()
    low, high = max(1, len(order) // 10), max(2, 9 * len(order) // 10)
    gaps = (logs[:-1] - logs[1:])[low - 1 : high]
    size = low + int(gaps.argmax()) if len(gaps) else len(order)
    size = max(min(size, max_components), min(n_sources, len(order)))
    chosen, others = points[order[:size]], order[size:]
    used = activations(points[others], chosen)
    edges = (used > _LARGE_COEFFICIENT * used.amax(1, keepdim=True).clamp_min(1e-300)).double()
    together = edges.T @ (edges * centres.weights[others, None])
    sources = partition(_without_diagonal(_balanced(together.sqrt())), n_sources, generator)
    curve = torch.full((size,), _NOT_TRIED, dtype=torch.float64)
    curve[-1] = unexplained(centres, chosen, sources, n_sources)
    return _graph(frames, centres, chosen, sources, n_sources, curve)


def activations(frames: Tensor, components: Tensor) -> Tensor:
    """Non-negative activations (n, S) of components (S, F) in frames (n, F), by least squares."""
    return non_negative_least_squares(components @ components.T, frames @ components.T)


def active(frames: Tensor, components: Tensor) -> Tensor:
    """Which components play in which frames, (n, S), as ones and zeros."""
    found = activations(frames, components)
    return (found > _ACTIVE * found.amax(0)).double()


def group(frames: Tensor, components: Tensor, n_sources: int, generator: torch.Generator, *, n_random: int = 20) -> Tensor:
    """The source of each component, (S,), with the least affinity to different sources within a source; see ``affinity``."""
    return partition(affinity(frames, components), n_sources, generator, n_random=n_random)


def affinity(frames: Tensor, components: Tensor) -> Tensor:
    """How much speaks for different sources of each pair of components, (S, S): they play together, and do not sound alike.

    Components that play independently of each other, with probabilities p_i and p_j, are heard together in a share p_i p_j of the
    frames; those of one source never are. So the affinity to different sources is the co-activity less a part of p_i p_j, as in the
    ratio of the two likelihoods. But spectra that are much alike stand in for each other, and two of one note play at once: between
    them co-activity says nothing, and likeness itself, weighed by how often the rarer one plays, speaks for one source.
    """
    playing = active(frames, components)
    share = playing.mean(0)
    chance = torch.outer(share, share)
    together = torch.minimum(playing.T @ playing / len(playing), _MOST_TOGETHER * chance)
    cosines = components @ components.T
    telling = (1 - cosines / _STAND_IN).clamp(0.0, 1.0)
    alike = (cosines - _SIMILAR).clamp_min(0.0) * torch.minimum(share[:, None], share) * share.mean()
    return _without_diagonal(telling * (together - _EXPECTED * chance) - _LIKENESS * alike)


def _nobody_left_out(sources: Tensor, n_sources: int, frames: Tensor, components: Tensor) -> Tensor:
    """The same sources, but each with a component, where there are enough of them."""
    pulls = affinity(frames, components)
    sources = sources.clone()
    for k in range(min(n_sources, len(sources))):
        if not (sources == k).any():
            within = pulls.masked_fill(sources[:, None] != sources, 0.0).sum(1)
            within[torch.bincount(sources, minlength=n_sources)[sources] == 1] = -torch.inf
            sources[within.argmax()] = k
    return sources


def unexplained(centres: Centres, components: Tensor, sources: Tensor, n_sources: int) -> float:
    """The share of the centres' energy that at most one component of each source leaves, all combinations tried."""
    points = centres.directions
    left = points - sparse_activations(points, components, sources, n_sources) @ components
    return float(left.square().sum(1) @ centres.weights / centres.weights.sum())


def refined(frames: Tensor, components: Tensor, sources: Tensor, n_sources: int, n_iter: int) -> Tensor:
    """Components that fit the frames better: the best combination of each frame, then a multiplicative step, again and again.

    That is hard EM: where a component plays is known after the first step, and the frames in which others play too count as well.
    """
    for _ in range(n_iter):
        played = sparse_activations(frames, components, sources, n_sources)
        together, targets = played.T @ played, played.T @ frames
        for _ in range(_STEPS):
            components = components * targets / (together @ components).clamp_min(1e-300)
        lengths = components.norm(dim=1, keepdim=True)
        components = torch.where(lengths > 0, components / lengths.clamp_min(1e-300), components)
    return components


def sparse_activations(points: Tensor, components: Tensor, sources: Tensor, n_sources: int) -> Tensor:
    """Activations (n, S) of at most one component of each source, by least squares over all combinations."""
    padded = torch.cat([components, components.new_zeros(1, components.shape[1])])  # the last one is silence
    found = points.new_zeros(len(points), len(padded))
    gram = padded @ padded.T
    for start in range(0, len(points), _BLOCK):
        block = points[start : start + _BLOCK]
        chosen = _combinations(block, components, sources, n_sources).to(points.device)  # (1 or n, n_combinations, K)
        targets = (block @ padded.T).unsqueeze(1).expand(-1, chosen.shape[1], -1).gather(2, chosen.expand(len(block), -1, -1))
        gains = non_negative_least_squares(gram[chosen[..., :, None], chosen[..., None, :]], targets)
        best = (gains * targets).sum(2).argmax(1)  # what a least squares fit explains
        rows = torch.arange(len(block), device=points.device)
        indices = chosen.expand(len(block), -1, -1)[rows, best]
        found[start : start + _BLOCK].scatter_(1, indices, gains[rows, best])
    return found[:, :-1]


def _combinations(points: Tensor, components: Tensor, sources: Tensor, n_sources: int) -> Tensor:
    """Indices of at most one component of each source, S for none: (1, n_combinations, K), or (n, n_combinations, K)."""
    silence = len(components)
    own = [(sources == k).nonzero()[:, 0].tolist() for k in range(n_sources)]
    if np.prod([len(each) + 1 for each in own]) <= _TOO_MANY_COMBINATIONS:
        return torch.tensor([list(itertools.product(*([silence, *each] for each in own)))])
    found = activations(points, components)
    likely = []
    for each in own:
        n_kept = min(_CANDIDATES, len(each))
        best = torch.tensor(each, dtype=torch.int64)[found[:, each].topk(n_kept, dim=1).indices] if each else None
        none = torch.full((len(points), 1), silence)
        likely.append(none if best is None else torch.cat([none, best], 1))
    picks = torch.tensor(list(itertools.product(*(range(each.shape[1]) for each in likely))))
    return torch.stack([each[:, picks[:, k]] for k, each in enumerate(likely)], 2)


def _graph(frames: Tensor, centres: Centres, components: Tensor, sources: Tensor, n_sources: int, curve: Tensor) -> RevealingGraph:
    """The components with how well they fit; a source that has none gets the one that costs least, so that there is an answer."""
    n_found = len(sources.unique())
    sources = _nobody_left_out(sources, n_sources, frames, components)
    playing = active(frames, components)
    together = playing.T @ playing
    rarer = torch.minimum(together.diagonal()[:, None], together.diagonal())
    different = sources[:, None] != sources
    edges = (together > _EDGE * rarer) & different
    parts = connected_components(edges.numpy(), directed=False)[1]
    played = np.bincount(parts, weights=together.diagonal().numpy())
    pairs = _without_diagonal(_balanced(together))
    return RevealingGraph(
        components=components,
        sources=sources,
        residual=unexplained(centres, components, sources, n_sources),
        n_parts=int((played >= _SMALL_PART * played.sum()).sum()),
        n_found=n_found,
        frustration=affinity_within(pairs, sources) / max(float(pairs.sum()), 1e-300),
        curve=curve,
    )


def _balanced(together: Tensor) -> Tensor:
    """Counts of pairs (S, S) as cosines, so that frequent components do not outweigh rare ones."""
    scale = together.diagonal().clamp_min(1e-300).sqrt()
    return together / torch.outer(scale, scale)


def _without_diagonal(matrix: Tensor) -> Tensor:
    return matrix - matrix.diagonal().diag()
