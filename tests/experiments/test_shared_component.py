"""The scenes are what they are said to be, the measures are right, and real digits are taken apart."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from unveil.experiments import shared_component
from unveil.experiments.shared_component import (
    AS_THEY_ARE,
    DIGITS,
    DRAWN_ANEW,
    INCOHERENT,
    N_SEQUENCES,
    ORDINARY,
    REREAD,
    SHARED,
    Outcome,
    Scene,
    SharedComponentResult,
    make_scene,
    match,
    measure,
    orthogonal_to,
    sums_of,
)


@pytest.fixture(scope="module")
def images():
    """Twelve made-up images of 5 x 5 for each digit: a pattern, with variation."""
    rng = np.random.default_rng(0)
    return {digit: np.clip(rng.random(25) + 0.2 * rng.normal(size=(12, 25)), 0, 1) for digit in range(10)}


def test_an_image_is_made_orthogonal_and_keeps_its_length():
    rng = np.random.default_rng(0)
    others, image = rng.random((3, 10)), rng.random(10)
    found = orthogonal_to(others, image)
    assert_allclose(others @ found, 0.0, rtol=0, atol=1e-12)
    assert_allclose(np.linalg.norm(found), np.linalg.norm(image), rtol=1e-12, atol=0)
    rest = image - others.T @ np.linalg.lstsq(others.T, image, rcond=None)[0]
    assert_allclose(found / np.linalg.norm(found), rest / np.linalg.norm(rest), rtol=0, atol=1e-10)


@pytest.mark.parametrize("setting", [INCOHERENT, AS_THEY_ARE, DRAWN_ANEW])
def test_scenes(images, setting):
    scene = make_scene(images, setting, 40.0, seed=1)
    assert len(scene.X) == N_SEQUENCES
    assert scene.components.shape == (2, 4, 25)
    assert_array_equal(scene.components[0, -1], scene.components[1, -1])
    inner = scene.components[:, :-1] @ scene.components[0, -1]
    assert (np.abs(inner).max() < 1e-10) == (setting == INCOHERENT)
    sums = np.concatenate([scene.components[[0, 1], z].sum(1) for z in scene.states])
    error = np.square(np.concatenate(scene.X) - sums).mean() / np.square(sums).mean()
    if setting == DRAWN_ANEW:
        assert error > 0.01
        assert_allclose(scene.components[0, 0], images[DIGITS[0][0]].mean(0), rtol=1e-12, atol=0)
    else:
        assert_allclose(10 * np.log10(error), -40.0, rtol=0, atol=0.3)
        held = [images[digit] for source in DIGITS for digit in source[:-1]]
        for component, of_digit in zip(scene.components[:, :-1].reshape(6, -1), held, strict=True):
            assert (component == of_digit).all(1).any()
    assert_array_equal(make_scene(images, setting, 40.0, seed=1).X[3], scene.X[3])
    assert not np.array_equal(make_scene(images, setting, 40.0, seed=2).X[3], scene.X[3])


def test_matching_finds_the_order_of_chains_and_states():
    rng = np.random.default_rng(0)
    components = rng.normal(size=(2, 4, 9))
    states = [rng.integers(4, size=(30, 2))]
    orders = np.array([[2, 0, 3, 1], [1, 3, 2, 0]])  # chain k of the estimate is chain 1 - k of the truth
    estimate = np.stack([components[1][orders[0]], components[0][orders[1]]])
    paths = [np.stack([np.argsort(orders[0])[states[0][:, 1]], np.argsort(orders[1])[states[0][:, 0]]], 1)]
    chains, found = match(components, estimate)
    assert chains == (1, 0)
    assert_array_equal(estimate[1][found[0]], components[0])
    measured = measure(estimate, paths, Scene([], states, components))
    assert_allclose(measured["errors"], np.zeros((2, 4)), rtol=0, atol=1e-12)
    assert measured["states_right"] == 1.0
    assert measured["sums_error"] < 1e-12
    assert_array_equal(measured["components"], components)


def test_an_offset_shows_in_the_components_but_not_in_the_sums():
    rng = np.random.default_rng(1)
    components, states = rng.normal(size=(2, 3, 9)), [rng.integers(3, size=(30, 2))]
    offset = 0.1 * rng.normal(size=9)
    moved = components + np.stack([offset, -offset])[:, None]
    measured = measure(moved, states, Scene([], states, components))
    assert measured["sums_error"] < 1e-12
    expected = np.linalg.norm(offset) / np.linalg.norm(components, axis=2)
    assert_allclose(measured["errors"], expected, rtol=1e-10, atol=0)
    assert_allclose(sums_of(components)[5], components[0, 1] + components[1, 2], rtol=1e-12, atol=0)


def outcome(method, errors, seed=0, doubted=False):
    return Outcome(INCOHERENT, method, 20.0, seed, np.array(errors), 0.1, 0.9, doubted, 1.0, np.ones((2, 4, 25)))


def result(images):
    good, fair = np.full((2, 4), 0.01), np.full((2, 4), 0.01)
    fair[1, 2] = 0.5
    runs = [(SHARED, good), (ORDINARY, fair + 0.2), (REREAD, fair)]
    outcomes = [outcome(method, errors, seed, seed == 1) for seed in range(2) for method, errors in runs]
    return SharedComponentResult(outcomes, make_scene(images, INCOHERENT, 20.0, seed=0))


def test_the_table(images):
    shared, ordinary, reread = result(images).table
    assert [row["method"] for row in (shared, ordinary, reread)] == [SHARED, ORDINARY, REREAD]
    assert shared["runs"] == 2
    assert shared["seeds"] == "0 to 1"
    assert [row["components recovered, of 8"] for row in (shared, ordinary, reread)] == [8.0, 0.0, 7.0]
    assert [row["all recovered"] for row in (shared, ordinary, reread)] == [1.0, 0.0, 0.0]
    assert_allclose(reread["error of components"], (7 * 0.01 + 0.5) / 8, rtol=1e-12, atol=0)
    assert shared["warned"] == 1


def test_the_page(images):
    pictures, figures = shared_component.sections(result(images))
    figure = pictures.blocks[1].figure
    assert len(figure.axes) == 4 * 8
    table, text = figures.blocks
    assert len(table.rows) == 3
    assert all(len(row) == len(table.columns) for row in table.rows)
    assert "in 100% of the runs, with EM in 0%" in text.text


def test_made_up_images_are_taken_apart(images):
    """As sure as can be: small, incoherent images, and next to no noise."""
    outcomes = shared_component.compare(make_scene(images, INCOHERENT, 40.0, seed=0), INCOHERENT, 40.0, seed=0)
    shared, ordinary, reread = outcomes
    assert (shared.errors < 0.02).all()
    assert shared.states_right == 1.0
    assert ordinary.errors.max() > 0.1
    assert_allclose(reread.sums_error, ordinary.sums_error, rtol=1e-9, atol=0)


def test_real_digits(real_data):
    found = shared_component.run(quick=True).table
    assert [row["all recovered"] for row in found] == [1.0, 0.0, found[2]["all recovered"]]
    assert found[0]["most"] < 0.03 < 0.2 < found[1]["least"]
    assert found[0]["warned"] == 0


@pytest.mark.slow
def test_all_real_digits(real_data):
    rows = {(row["images"], row["signal to noise, dB"], row["method"]): row for row in shared_component.run().table}
    for noise in (20.0, 10.0):
        assert rows[INCOHERENT, noise, SHARED]["all recovered"] == 1.0
        assert rows[INCOHERENT, noise, ORDINARY]["all recovered"] == 0.0
    assert rows[AS_THEY_ARE, 20.0, SHARED]["warned"] == 10
    assert rows[DRAWN_ANEW, 20.0, SHARED]["warned"] == 10
