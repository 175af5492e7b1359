"""How well clusters or hidden states agree with known classes, whatever they are called."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from unveil.errors import InputError


def clustering_accuracy(reference: Sequence | np.ndarray, estimate: Sequence | np.ndarray) -> float:
    r"""Share of items whose cluster is the one matched to their class, under the best one-to-one matching.

    .. math:: \mathrm{ACC} = \max_\sigma \frac1n \sum_{i=1}^n \mathbb 1[y_i = \sigma(\hat y_i)]

    where :math:`\sigma` runs over the one-to-one matchings of clusters with classes (Hungarian algorithm).

    Parameters
    ----------
    reference : sequence of shape (n_items,)
        The class :math:`y_i` of each item: numbers, strings, or anything that can be hashed.
    estimate : sequence of shape (n_items,)
        The cluster :math:`\hat y_i` of each item. There may be more or fewer clusters than classes; the items of a
        cluster that is left without a class count as errors.

    Returns
    -------
    float
        The accuracy, in (0, 1].

    Raises
    ------
    InputError
        When the two have different lengths, are empty, or are not one label per item.

    References
    ----------
    .. [1] Y. Yang, D. Xu, F. Nie, S. Yan, Y. Zhuang, "Image clustering using local discriminant models and global
       integration", IEEE Transactions on Image Processing 19(10), 2010.

    Examples
    --------
    >>> clustering_accuracy(["a", "a", "b", "b"], [1, 1, 0, 1])
    0.75
    """
    (_, class_of), (_, cluster_of) = _coded(reference, estimate)
    counts = _contingency(class_of, cluster_of)
    return float(counts[linear_sum_assignment(counts, maximize=True)].sum() / counts.sum())


def adjusted_rand(reference: Sequence | np.ndarray, estimate: Sequence | np.ndarray) -> float:
    r"""Agreement of two clusterings over pairs of items, corrected for chance.

    .. math:: \mathrm{ARI} = \frac{R - \mathbb E[R]}{\max R - \mathbb E[R]}, \qquad
              R = \sum_{c, k} \binom{n_{ck}}{2}

    where :math:`n_{ck}` counts the items of class :math:`c` in cluster :math:`k`, and the expectation and
    :math:`\max R = \frac12 \bigl[\sum_c \binom{n_c}{2} + \sum_k \binom{n_k}{2}\bigr]` are for fixed cluster sizes.

    Parameters
    ----------
    reference : sequence of shape (n_items,)
        The class of each item: numbers, strings, or anything that can be hashed.
    estimate : sequence of shape (n_items,)
        The cluster of each item.

    Returns
    -------
    float
        1 for the same partition, about 0 for an independent one, down to -0.5.

    Raises
    ------
    InputError
        When the two have different lengths, are empty, or are not one label per item.

    References
    ----------
    .. [1] L. Hubert, P. Arabie, "Comparing partitions", Journal of Classification 2, 1985.

    Examples
    --------
    >>> adjusted_rand(["a", "a", "b", "b"], [1, 1, 0, 0])
    1.0
    """
    from sklearn.metrics import adjusted_rand_score  # here, because it takes a second to import

    (_, class_of), (_, cluster_of) = _coded(reference, estimate)
    return float(adjusted_rand_score(class_of, cluster_of))


def match_labels(reference: Sequence | np.ndarray, estimate: Sequence | np.ndarray) -> np.ndarray:
    r"""Rename the estimate's clusters to the reference's classes by the matching of :func:`clustering_accuracy`.

    .. math:: \hat y_i \leftarrow \sigma(\hat y_i)

    Parameters
    ----------
    reference : sequence of shape (n_items,)
        The class of each item: numbers, strings, or anything that can be hashed.
    estimate : sequence of shape (n_items,)
        The cluster of each item.

    Returns
    -------
    ndarray of shape (n_items,)
        The same partition as ``estimate``, in the reference's labels. Where there are more clusters than classes, a
        cluster without a class keeps its label, or takes another label of ``estimate`` if a class has that one.

    Raises
    ------
    InputError
        When the two have different lengths, are empty, or are not one label per item.

    Examples
    --------
    >>> match_labels([0, 0, 1, 1, 1], [7, 7, 0, 0, 7])
    array([0, 0, 1, 1, 0])
    """
    (classes, class_of), (clusters, cluster_of) = _coded(reference, estimate)
    classes, clusters = classes.tolist(), clusters.tolist()
    rows, columns = linear_sum_assignment(_contingency(class_of, cluster_of), maximize=True)
    names = {k: classes[c] for c, k in zip(rows.tolist(), columns.tolist(), strict=True)}
    # If clusters are left over, every class is matched: then there are enough spare labels for those that need one.
    taken = set(classes)
    spare = iter([label for k, label in enumerate(clusters) if k in names and label not in taken])
    for k, label in enumerate(clusters):
        if k not in names:
            names[k] = next(spare) if label in taken else label
    return _as_array([names[k] for k in range(len(clusters))])[cluster_of]


def _contingency(class_of: np.ndarray, cluster_of: np.ndarray) -> np.ndarray:
    """How many items of each class (row) are in each cluster (column)."""
    counts = np.zeros((class_of.max() + 1, cluster_of.max() + 1), dtype=int)
    np.add.at(counts, (class_of, cluster_of), 1)
    return counts


def _coded(
    reference: Sequence | np.ndarray, estimate: Sequence | np.ndarray
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """The distinct labels and, for each item, the index of its own: for the reference and for the estimate."""
    if len(reference) != len(estimate):
        raise InputError(
            f"expected one class and one cluster per item, got {len(reference)} classes and {len(estimate)} clusters; "
            "give both for the same items"
        )
    return _distinct("reference", reference), _distinct("estimate", estimate)


def _distinct(name: str, labels: Sequence | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    labels = np.asarray(labels) if hasattr(labels, "__array__") else _as_array(list(labels))
    if labels.ndim != 1 or labels.size == 0:
        raise InputError(f"{name}: expected one label per item, got shape {labels.shape}; give a flat, non-empty list")
    if labels.dtype != object:
        return np.unique(labels, return_inverse=True)
    try:
        index = {label: i for i, label in enumerate(dict.fromkeys(labels))}
    except TypeError as error:
        raise InputError(f"{name}: expected labels that can be hashed, got {error}; use numbers or strings") from error
    return _as_array(list(index)), np.array([index[label] for label in labels])


def _as_array(labels: list) -> np.ndarray:
    """A flat array; of objects where numpy would turn labels into something else, as 1 and "1" into two strings."""
    plain = len({type(label) for label in labels}) == 1 and np.isscalar(labels[0])
    return np.array(labels) if plain else np.fromiter(labels, dtype=object, count=len(labels))
