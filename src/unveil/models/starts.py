"""First assignments of data to latent classes, from which learning starts."""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from unveil.kernels.simplex import one_hot
from unveil.models.topology import share_of_changes, states_by_time, states_in_order

CENTER_SAMPLE = 2_000  # steps from which the centre of the data is estimated when nothing else is to be found
START_SAMPLE = 50_000  # steps: a start needs no more of the data than this, however much there is
_AGREEMENT = 0.8  # of the changes between clusters, the share in the right direction from which they are taken for states in order


def fill_missing(values: Tensor) -> Tensor:
    """Values with the mean of their column in place of NaN, for starts; 0 where a column has none."""
    missing = values.isnan()
    if not missing.any():
        return values
    return torch.where(missing, values.nanmean(0).nan_to_num(0.0), values)


def assign_steps(values: Tensor, weights: Tensor, known: Tensor | None, n_classes: int, generator: torch.Generator) -> Tensor:
    """Responsibilities (n, K) by k-means that keep to the classes that are known (n,), -1 where they are not.

    Where every class is known of some value, k-means starts from the means of those; otherwise clusters take the names of the classes
    that they share most values with.
    """
    if known is None or not (known >= 0).any():
        return assign_by_kmeans(values, weights, n_classes, generator)
    certain = known >= 0
    counts = torch.bincount(known[certain], weights[certain], minlength=n_classes)
    if (counts > 0).all():
        sums = torch.zeros(n_classes, values.shape[1], dtype=values.dtype).index_add_(
            0, known[certain], values[certain] * weights[certain, None]
        )
        found = assign_by_kmeans(values, weights, n_classes, generator, centers=sums / counts[:, None])
    else:
        found = relabelled(assign_by_kmeans(values, weights, n_classes, generator), known)
    return _keep_known(found, known, weights)


def assign_within_classes(values: Tensor, weights: Tensor, known: Tensor, classes: Tensor, generator: torch.Generator) -> Tensor:
    """Responsibilities (n, K) of components that belong to ``classes`` (K,): first the classes, then each one's components."""
    n_classes = int(classes.max()) + 1
    of_class = assign_steps(values, weights, known, n_classes, generator) > 0
    responsibilities = values.new_zeros(len(values), len(classes))
    for c in range(n_classes):
        inside, components = of_class[:, c], (classes == c).nonzero()[:, 0]
        if len(components) == 1 or inside.sum() < len(components):
            found = (weights[inside] / len(components))[:, None].expand(-1, len(components))
        else:
            found = assign_by_kmeans(values[inside], weights[inside], len(components), generator)
        responsibilities[inside.nonzero()[:, 0, None], components] = found
    return responsibilities


def assign_states(
    values: Tensor,
    weights: Tensor,
    sequences: Tensor,
    known: Tensor,
    allowed: Tensor,
    generator: torch.Generator,
    *,
    groups: Tensor | None,
    forwards: bool,
    adjacent: bool,
) -> Tensor:
    """Responsibilities (n, M) of the states of a chain, which follow each other as ``allowed`` (M, M) says and share densities in groups.

    Where not everything is allowed, they are clusters in the order that fits best. For chains that only go ``forwards``, and where
    clusters do not follow each other so, each sequence is cut into equal parts instead; so it is, too, where the steps are not
    ``adjacent`` in time, as in a sample of them.
    """
    n_states = len(allowed)
    if forwards and not (adjacent and groups is None):
        found = None
    elif groups is not None and bool(allowed.all()):
        found = assign_within_classes(values, weights, torch.where(known >= 0, groups[known], -1), groups, generator)
    else:
        found = assign_steps(values, weights, known, n_states, generator)
        if adjacent and not bool(allowed.all()):
            found = _in_order(found, sequences, known, allowed, forwards)
    if found is None:
        found = one_hot(states_by_time(sequences, n_states), n_states) * weights[:, None]
    return _keep_known(found, known, weights)


def _in_order(found: Tensor, sequences: Tensor, known: Tensor, allowed: Tensor, forwards: bool) -> Tensor | None:
    """Clusters in the order that fits best; None where they do not go forwards although they should."""
    if not (known >= 0).any():
        found = found[:, states_in_order(count_pairs(found, sequences), allowed)]
    return found if not forwards or share_of_changes(count_pairs(found, sequences), allowed) > _AGREEMENT else None


def _keep_known(responsibilities: Tensor, known: Tensor, weights: Tensor) -> Tensor:
    """The responsibilities (n, K), overwritten where the class is known (n,)."""
    certain = known >= 0
    responsibilities[certain] = one_hot(known[certain], responsibilities.shape[1]) * weights[certain, None]
    return responsibilities


def count_pairs(responsibilities: Tensor, sequences: Tensor) -> Tensor:
    """How often each state follows each other one (M, M), from responsibilities (n, M) that are certain up to weights."""
    follows = sequences[1:] == sequences[:-1]
    return responsibilities[:-1][follows].T @ (responsibilities[1:][follows] > 0).double()


def relabelled(responsibilities: Tensor, known: Tensor) -> Tensor:
    """The same responsibilities with classes in the order that agrees best with the known ones (n,)."""
    certain = known >= 0
    shared = one_hot(known[certain], responsibilities.shape[1]).T @ responsibilities[certain].double()
    _, order = linear_sum_assignment(shared.cpu().numpy(), maximize=True)
    return responsibilities[:, torch.from_numpy(order)]


def assign_by_kmeans(
    values: Tensor, weights: Tensor, n_classes: int, generator: torch.Generator, centers: Tensor | None = None
) -> Tensor:
    """Responsibilities (n, K) of the clusters of one run of k-means on values (n, D), from the given centers (K, D) or its own."""
    from sklearn.cluster import KMeans

    seed = int(torch.randint(2**31 - 1, (), generator=generator))
    init = "k-means++" if centers is None else centers.numpy()
    kmeans = KMeans(n_classes, init=init, n_init=1, max_iter=30, random_state=seed)  # a start need not have converged
    labels = kmeans.fit(values.cpu().numpy(), sample_weight=weights.cpu().numpy()).labels_
    return one_hot(torch.from_numpy(labels).long(), n_classes).to(weights.device) * weights[:, None]


def assign_by_seeds(values: Tensor, weights: Tensor, n_classes: int, generator: torch.Generator, *, spread: bool) -> Tensor:
    """Responsibilities that give each class one seed among the values: far from each other, or drawn evenly."""
    from sklearn.cluster import kmeans_plusplus

    if spread:
        seed = int(torch.randint(2**31 - 1, (), generator=generator))
        _, chosen = kmeans_plusplus(values.cpu().numpy(), n_classes, sample_weight=weights.cpu().numpy(), random_state=seed)
        chosen = torch.from_numpy(chosen).long()
    else:
        chosen = torch.multinomial(weights.cpu(), n_classes, generator=generator)
    responsibilities = values.new_zeros(len(values), n_classes)
    responsibilities[chosen, torch.arange(n_classes)] = 1.0
    return responsibilities


def assign_at_random(values: Tensor, weights: Tensor, n_classes: int, generator: torch.Generator) -> Tensor:
    """Responsibilities drawn evenly and normalised over the classes."""
    responsibilities = torch.rand(len(values), n_classes, dtype=values.dtype, generator=generator)
    return (responsibilities / responsibilities.sum(1, keepdim=True)).to(values.device) * weights[:, None]


def assign_sequences(
    values: Tensor, sequences: Tensor, n_sequences: int, n_clusters: int, n_words: int, generator: torch.Generator
) -> Tensor:
    """A cluster for each sequence, by which regions of the space it visits, and in which order.

    The steps are quantised into ``2 n_clusters n_words`` words by k-means. A sequence is the square roots of its frequencies of words
    and of pairs of successive words (so distances are Hellinger's), and those are clustered by k-means.

    Parameters
    ----------
    values : Tensor of shape (n, D)
        Steps of the sequences, in their order.
    sequences : Tensor of shape (n,)
        The sequence that each step is in.
    n_sequences, n_clusters, n_words : int
        ``n_words`` is how many words a cluster is worth.

    Returns
    -------
    clusters : Tensor of shape (n_sequences,), int64
    """
    if n_clusters == 1:
        return torch.zeros(n_sequences, dtype=torch.int64)
    n_words = min(2 * n_clusters * n_words, len(values))
    words = assign_by_kmeans(values, values.new_ones(len(values)), n_words, generator).argmax(1).cpu()
    within = sequences[1:] == sequences[:-1]
    pairs = (words[:-1] * n_words + words[1:])[within]
    features = [
        _root_frequencies(words, sequences, n_sequences),
        _root_frequencies(pairs, sequences[1:][within], n_sequences),
    ]
    ones = torch.ones(n_sequences, dtype=torch.float64)
    return assign_by_kmeans(torch.cat(features, 1), ones, n_clusters, generator).argmax(1)


def _root_frequencies(symbols: Tensor, sequences: Tensor, n_sequences: int) -> Tensor:
    """Square roots of how often each sequence has each symbol that occurs at all, of shape (n_sequences, n_occurring)."""
    occurring, symbols = symbols.unique(return_inverse=True)
    counts = torch.bincount(sequences * len(occurring) + symbols, minlength=n_sequences * len(occurring))
    counts = counts.view(n_sequences, len(occurring)).double()
    return (counts / counts.sum(1, keepdim=True).clamp_min(1)).sqrt()
