"""What the experiment on mode collapse draws, counts and says; and that modes do collapse, and are recovered."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from unveil.experiments import mode_collapse
from unveil.experiments.mode_collapse import (
    COLLAPSED,
    EPOCHS,
    GRID,
    R1,
    RECOVERED,
    RING,
    SETTINGS,
    WGAN_GP,
    ModeCollapse,
    Outcome,
    grid,
    measure,
    ring,
)
from unveil.models.gan import GAN


def outcome(world, method, seed, covered, quality=0.9):
    n_modes = 8 if world == RING else 25
    watched = np.array([[100.0, 1.0, 0.1], [200.0, covered, quality]])
    samples = np.random.default_rng(seed).normal(size=(50, 2))
    return Outcome(world, method, seed, n_modes, covered, quality, 0.5, 10.0 + seed, watched, samples)


@pytest.mark.parametrize(("make", "n_modes", "radius"), [(ring, 8, 2.0), (grid, 25, np.sqrt(32.0))])
def test_mixtures_have_their_modes_and_scale(make, n_modes, radius):
    world = make()
    assert world.centers.shape == (n_modes, 2)
    assert_allclose(np.linalg.norm(world.centers, axis=1).max(), radius, rtol=1e-12, atol=0)
    X = world.draw(20_000, 0)
    distances = np.linalg.norm(X[:, None] - world.centers, axis=2)
    assert_allclose((distances.min(1) < 3 * world.scale).mean(), mode_collapse.IDEAL, rtol=0, atol=0.003)
    assert_allclose(np.bincount(distances.argmin(1)) / 20_000, np.full(n_modes, 1 / n_modes), rtol=0, atol=0.01)


@pytest.mark.parametrize("method", SETTINGS)
def test_all_settings_are_those_of_an_estimator(method):
    GAN(**mode_collapse.SHARED | SETTINGS[method])._check_parameters()


@pytest.mark.parametrize(("method", "expected"), [(R1, [4, 8]), (WGAN_GP, [2, 4, 6, 8, 10])])
def test_moves_of_the_generator_are_counted(method, expected):
    """1024 points in batches of 256: four moves in an epoch, or two where the critic makes two for each."""
    found = measure(RING, method, 0, 0.05, n_points=1024, hidden=8, critic_hidden=8)
    assert_array_equal(found.watched[:, 0], expected)
    assert found.samples.shape == (mode_collapse.N_SAMPLES, 2)
    assert found.n_modes == 8


def test_what_is_watched_last_is_what_is_left():
    """The callback sees the averaged generator: with other latent variables, the same shares."""
    found = measure(RING, R1, 0, 1.0, n_points=2560, hidden=32, critic_hidden=32)
    assert_allclose(found.watched[-1, 2], found.quality, rtol=0, atol=0.03)


def test_tables_and_pages():
    outcomes = [outcome(world, method, seed, 3 + seed) for world in EPOCHS for method in EPOCHS[world] for seed in (0, 1)]
    result = ModeCollapse(outcomes)
    assert len(result.table) == 8
    first = result.table[0]
    assert first["covered"] == [3, 4]
    assert (first["mixture"], first["method"], first["modes"], first["moves"], first["seconds"]) == (RING, COLLAPSED, 8, 200, 10.5)
    counts, samples, learning = mode_collapse.sections(result)
    assert counts.blocks[0].rows[0][:2] == [f"{RING}: {COLLAPSED}", "3, 4 of 8"]
    assert "covers 3, 4 of 8 modes of the ring" in counts.blocks[1].text
    assert "of the 25 modes of the grid" in counts.blocks[1].text
    assert [len(block.figure.axes) for block in samples.blocks] == [5, 3]
    assert [len(block.figure.axes[0].lines) for block in learning.blocks] == [10, 6]


def test_a_page_of_the_ring_alone():
    result = ModeCollapse([outcome(RING, method, 0, 5) for method in EPOCHS[RING]])
    counts, samples, _ = mode_collapse.sections(result)
    assert GRID not in counts.blocks[1].text
    assert len(samples.blocks) == 1


@pytest.mark.slow
def test_momentum_makes_modes_collapse_and_the_penalty_recovers_them():
    """The shortest training that shows it: half of the full one, with one seed."""
    collapsed, recovered = (measure(RING, method, 0, 0.5) for method in (COLLAPSED, RECOVERED))
    assert collapsed.covered <= 6
    assert recovered.covered >= 7
