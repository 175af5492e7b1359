"""A fit that started from moments shows what they say; another one does not."""

import numpy as np
import pytest

from unveil.models.gaussian_mixture import GaussianMixture
from unveil.models.mixture_of_hmms import MixtureOfHMMs
from unveil.report import model_report
from unveil.report.moments import moments


@pytest.fixture
def sequences():
    rng = np.random.default_rng(0)
    return [np.repeat(rng.permutation([0.0, 4.0]) + 8.0 * (i % 2), 10)[:, None] + rng.normal(size=(20, 3)) for i in range(40)]


def test_the_values_and_what_is_counted(sequences, tmp_path):
    model = MixtureOfHMMs(2, 2, init="moments", random_state=0).fit(sequences)
    section = moments(model, None)
    states, clusters = section.blocks[1].figure.axes
    assert states.get_ylabel() == "eigenvalue of the covariance"
    assert clusters.get_ylabel() == "eigenvalue of clusters"
    filled, hollow = clusters.lines
    np.testing.assert_allclose(filled.get_ydata(), model.moments_.eigenvalues[:2], rtol=1e-12, atol=0)
    np.testing.assert_allclose(hollow.get_ydata(), model.moments_.eigenvalues[2:40], rtol=1e-12, atol=0)
    assert len(states.lines[0].get_ydata()) == 1  # two densities have means on a line
    page = model_report(tmp_path / "page.html", model, sequences).read_text(encoding="utf-8")
    assert "Learning started from moments: 2 densities by" in page


def test_other_starts_say_nothing(sequences):
    assert moments(MixtureOfHMMs(2, 2, n_init=1, random_state=0).fit(sequences), None) is None
    assert moments(GaussianMixture(2, random_state=0).fit(np.concatenate(sequences)), None) is None


def test_points_have_one_spectrum(sequences):
    mixture = GaussianMixture(2, init_params="moments", random_state=0).fit(np.concatenate(sequences))
    assert len(moments(mixture, None).blocks[1].figure.axes) == 1
