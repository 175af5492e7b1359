"""Every model is learned and measured on made-up images, and on some of MNIST when it is there."""

import dataclasses
import math

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import logsumexp

from unveil.experiments import implicit_images
from unveil.experiments.implicit_images import (
    CLIPPED,
    IML,
    PENALIZED,
    PLAIN,
    QUICK,
    VARIATIONAL,
    Images,
    Plan,
    contestants,
    measure,
    self_checks,
)
from unveil.models import decoder_based
from unveil.report.page import Picture, Table, Text

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # so little data is less than a minibatch, and less than VAEs need

TINY = Plan((0,), 200, 40, 60, 30, 6, 20, 2, 1, ((PLAIN, 2), (CLIPPED, 1), (PENALIZED, 1)))


def made_up(seed=0):
    """Squares at ten places: classes that anything tells apart."""
    rng = np.random.default_rng(seed)
    digits = np.arange(240) % 10
    images = np.zeros((240, 28, 28), np.float32)
    for image, digit in zip(images, digits, strict=True):
        row, column = 5 + 12 * (digit // 5), 1 + 5 * (digit % 5)
        image[row : row + 6, column : column + 5] = rng.uniform(0.7, 1.0)
    rows = images.reshape(240, -1)
    return Images(rows[:200], digits[:200], rows[200:])


@pytest.fixture(scope="module")
def few_starts():
    """Of the search for modes, of which real images need many."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoder_based, "N_TRIED", 200)
        yield


@pytest.fixture(scope="module")
def result(few_starts):
    return measure(made_up(), TINY)


@pytest.fixture(scope="module")
def with_two_seeds(few_starts):
    return measure(made_up(), dataclasses.replace(TINY, seeds=(0, 1), moves=()))


def test_every_model_with_every_seed(result, with_two_seeds):
    assert [each.model for each in result.scores] == [IML, VARIATIONAL, PLAIN, CLIPPED, PENALIZED]
    assert [(each.seed, each.model) for each in with_two_seeds.scores] == [(0, IML), (0, VARIATIONAL), (1, IML), (1, VARIATIONAL)]
    for each in result.scores:
        numbers = [value for value in dataclasses.asdict(each).values() if isinstance(value, float)]
        assert np.isfinite(numbers).all()
        assert 1 <= each.effective <= 20
        assert min(each.coverage, each.precision, each.recall, each.rarest) >= 0
    for samples, neighbours in result.shown.values():
        assert samples.shape == neighbours.shape == (30, 784)


def test_table_has_means_deviations_and_the_published_figures(result, with_two_seeds):
    rows = {row["model"]: row for row in result.table}
    assert list(rows) == [IML, VARIATIONAL, PLAIN, CLIPPED, PENALIZED, "60 training images", "mean image"]
    assert [rows[name]["published"] for name in (IML, VARIATIONAL, CLIPPED, PENALIZED, PLAIN)] == [143, 132, 64, 64, -5]
    assert rows[IML]["Parzen, deviation"] is None
    row, runs = with_two_seeds.table[0], [each.parzen for each in with_two_seeds.scores if each.model == IML]
    assert row["seeds"] == [0, 1]
    assert row["Parzen, runs"] == runs
    assert_allclose([row["Parzen"], row["Parzen, deviation"]], [np.mean(runs), np.std(runs)], rtol=1e-12, atol=0)


def test_self_checks_are_those_of_the_formula():
    images = made_up()
    found = self_checks(images, TINY)
    rows = images.train.mean(0, keepdims=True)
    squares = np.square(images.test[:, None] - rows[None]).sum(2)
    expected = logsumexp(-squares / 0.2, axis=1).mean() - 392 * math.log(2 * math.pi * 0.1)
    assert_allclose(found["mean image"], expected, rtol=0, atol=1e-3)  # single precision
    assert_allclose(found["60 training images"], 182.2 - math.log(60), rtol=0, atol=3)  # each class in some shade


def test_numbers_of_moves_are_those_of_generators():
    models = contestants(Plan(), 55000, 0)
    steps = {
        name: models[name].max_epochs * math.ceil(55000 / 128) / models[name].critic_steps for name in (PLAIN, CLIPPED, PENALIZED)
    }
    assert_allclose([steps[PLAIN], steps[CLIPPED], steps[PENALIZED]], [3000, 1200, 600], rtol=0.01, atol=0)


def test_adversarial_models_are_those_of_their_sources():
    models = contestants(Plan(), 55000, 0)
    found = {name: (models[name].loss, models[name].penalty, models[name].beta1, models[name].beta2) for name in (PLAIN, PENALIZED)}
    assert found == {PLAIN: ("non-saturating", "none", 0.5, 0.999), PENALIZED: ("wasserstein", "gradient", 0.5, 0.9)}
    assert (models[CLIPPED].penalty, models[CLIPPED].optimizer, models[CLIPPED].clip_bound) == ("clip", "rmsprop", 0.01)
    assert {models[name].average for name in found} == {0.0}


def test_what_the_report_says(result):
    scores, drawn = implicit_images.sections(result)
    table, *said, picture = scores.blocks
    assert isinstance(table, Table)
    assert isinstance(picture, Picture)
    assert [row[0] for row in table.rows][:2] == [IML, VARIATIONAL]
    text = " ".join(block.text for block in said if isinstance(block, Text))
    assert "By the Parzen score the order is" in text
    assert "The published order is IML > VAE > WGAN-GP > WGAN-clip > GAN" in text
    assert len(drawn.blocks) == 5


def test_the_same_again(result, with_two_seeds):
    for first, second in zip(result.scores[:2], with_two_seeds.scores[:2], strict=True):
        assert dataclasses.replace(first, seconds=0) == dataclasses.replace(second, seconds=0)
    assert_array_equal(with_two_seeds.shown[IML][0], result.shown[IML][0])
    assert with_two_seeds.scores[2].parzen != with_two_seeds.scores[0].parzen


@pytest.mark.slow
def test_some_real_digits(real_data):
    plan = dataclasses.replace(QUICK, moves=())
    found = measure(implicit_images.load_images(plan), plan)
    two_steps, variational = found.scores
    assert two_steps.parzen >= max(54, variational.parzen + 12)
    assert two_steps.coverage >= 0.85
    assert two_steps.coverage - variational.coverage >= 0.25
    assert two_steps.likelihood > variational.likelihood
    assert 0.85 <= two_steps.memorisation <= 1.1
    assert two_steps.rarest >= 0.03
    real, mean = found.checks.values()
    assert_allclose([real, mean], [52, -84], rtol=0, atol=3)
