"""Clustering figures against enumeration of all matchings and of all pairs of items."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from unveil.errors import InputError
from unveil.metrics.clustering import adjusted_rand, clustering_accuracy, match_labels


def all_renamings(clusters, classes):
    """Every one-to-one renaming of clusters as classes; a cluster that is left over becomes None."""
    padded = list(classes) + [None] * max(0, len(clusters) - len(classes))
    for names in itertools.permutations(padded, len(clusters)):
        yield dict(zip(clusters, names, strict=True))


@pytest.mark.parametrize(("n_classes", "n_clusters"), [(3, 3), (2, 4), (4, 2), (1, 3), (3, 1)])
def test_accuracy_is_the_best_of_all_matchings(n_classes, n_clusters):
    for seed in range(10):
        rng = np.random.default_rng(seed)
        reference, estimate = rng.integers(n_classes, size=15), rng.integers(n_clusters, size=15)
        best = max(
            np.mean([names[k] == c for c, k in zip(reference.tolist(), estimate.tolist(), strict=True)])
            for names in all_renamings(range(n_clusters), range(n_classes))
        )
        assert_allclose(clustering_accuracy(reference, estimate), best, rtol=1e-12, atol=0)


def test_accuracy_by_hand_where_greedy_matching_fails():
    # counts [[5, 4], [4, 0]]: greedy takes the 5 and is left with 0; the best matching is 4 + 4.
    reference = [0] * 9 + [1] * 4
    estimate = ["x"] * 5 + ["y"] * 4 + ["x"] * 4
    assert_allclose(clustering_accuracy(reference, estimate), 8 / 13, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    "reference",
    [
        ["a", "b", "a", "c"],
        [1, "1", 1, None],
        [(0, 1), (1, 0), (0, 1), (1, 1)],
        np.array([0.5, -1.0, 0.5, 2.0]),
        np.array([True, False, True, 7], dtype=object),
        np.array([3, 9, 3, 1], dtype=np.uint8),
    ],
)
def test_labels_of_any_type(reference):
    assert clustering_accuracy(reference, [2, 0, 2, 1]) == 1
    assert clustering_accuracy([2, 0, 2, 1], reference) == 1
    assert clustering_accuracy(reference, [2, 0, 2, 0]) == 0.75
    assert adjusted_rand(reference, [2, 0, 2, 1]) == 1
    assert match_labels(reference, [2, 0, 2, 1]).tolist() == list(reference)


def test_adjusted_rand_counts_pairs():
    for seed in range(5):
        rng = np.random.default_rng(seed)
        reference, estimate = rng.integers(3, size=20), rng.integers(4, size=20)
        pairs = list(itertools.combinations(range(20), 2))
        same_class = np.array([reference[i] == reference[j] for i, j in pairs])
        same_cluster = np.array([estimate[i] == estimate[j] for i, j in pairs])
        expected = same_class.sum() * same_cluster.sum() / len(pairs)
        largest = (same_class.sum() + same_cluster.sum()) / 2
        rand = ((same_class & same_cluster).sum() - expected) / (largest - expected)
        names = np.array(["d", "b", "a", "c"])
        assert_allclose(adjusted_rand(reference, names[estimate]), rand, rtol=1e-12, atol=1e-15)


def test_adjusted_rand_by_hand():
    # Crossed halves of four items: 0 pairs agree, 2 * 2 / 6 expected, 2 at most.
    assert_allclose(adjusted_rand([0, 0, 1, 1], [0, 1, 0, 1]), (0 - 2 / 3) / (2 - 2 / 3), rtol=1e-12, atol=0)


@pytest.mark.parametrize(("n_classes", "n_clusters"), [(3, 3), (2, 5), (5, 2)])
def test_match_labels_renames_one_to_one_and_reaches_the_accuracy(n_classes, n_clusters):
    for seed in range(10):
        rng = np.random.default_rng(seed)
        reference, estimate = rng.integers(n_classes, size=30), rng.integers(n_clusters, size=30)
        renamed = match_labels(reference, estimate)
        assert_allclose(np.mean(renamed == reference), clustering_accuracy(reference, estimate), rtol=1e-12, atol=0)
        n_names = len(set(estimate.tolist()))
        assert len(set(renamed.tolist())) == n_names
        assert len(set(zip(renamed.tolist(), estimate.tolist(), strict=True))) == n_names


def test_match_labels_undoes_a_renaming():
    states = np.random.default_rng(0).integers(4, size=200)
    assert_array_equal(match_labels(states, np.array([2, 0, 3, 1])[states]), states)


def test_match_labels_of_clusters_without_a_class():
    # Clusters 8 and 5 take classes 0 and 1. Cluster 7 keeps its label; cluster 0 cannot, class 0 has it.
    reference = [0, 0, 0, 1, 1, 1, 0, 1]
    estimate = [7, 8, 8, 5, 5, 5, 0, 5]
    *others, was_zero, last = match_labels(reference, estimate).tolist()
    assert [*others, last] == [7, 0, 0, 1, 1, 1, 1]
    assert was_zero in (5, 8)
    assert match_labels(["a", "a", "a"], [0, 0, 1]).tolist() == ["a", "a", 1]


@pytest.mark.parametrize("measure", [clustering_accuracy, adjusted_rand, match_labels])
@pytest.mark.parametrize(
    ("reference", "estimate", "message"),
    [
        ([0, 1], [0, 1, 1], "got 2 classes and 3 clusters; give both for the same items"),
        ([], [], r"reference: expected one label per item, got shape \(0,\)"),
        ([0, 1], np.zeros((2, 1)), r"estimate: expected one label per item, got shape \(2, 1\)"),
        ([[0], [1]], [0, 1], "reference: expected labels that can be hashed, got unhashable type: 'list'"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(measure, reference, estimate, message):
    with pytest.raises(InputError, match=message) as caught:
        measure(reference, estimate)
    assert "\n" not in str(caught.value)


def test_importing_the_metrics_stays_light():
    code = "import sys, unveil.metrics.bss, unveil.metrics.clustering; print({'torch', 'sklearn'} & set(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "set()"
