"""The plane of latent variables and the spectrum: what is drawn is what the model says."""

from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.colors import to_rgba
from numpy.testing import assert_allclose

from unveil.errors import InputError
from unveil.models.mixture_of_ppca import MixtureOfPPCA
from unveil.models.ppca import PPCA
from unveil.report.page import Page, write_page
from unveil.report.plane import MOST_ARROWS, _apart, latent_plane, plane_figure, spectrum_figure
from unveil.report.theme import CATEGORIES


@pytest.fixture(scope="module")
def X():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 3)) @ rng.normal(size=(3, 6)) + 0.5 * rng.normal(size=(80, 6))
    X[:7, 2] = np.nan
    return X


@pytest.fixture(scope="module")
def ppca(X):
    return PPCA(n_components=3).fit(X)


def arrows(axes):
    return np.array([each.xy for each in axes.texts if getattr(each, "arrow_patch", None) is not None])


def test_points_are_the_latent_variables_and_rings_lack_something(ppca, X):
    dots, rings = plane_figure(ppca, X).axes[0].collections
    assert_allclose(dots.get_offsets(), ppca.transform(X)[7:, :2], rtol=1e-12, atol=0)
    assert_allclose(rings.get_offsets(), ppca.transform(X)[:7, :2], rtol=1e-12, atol=0)
    assert len(rings.get_facecolor()) == 0
    assert tuple(dots.get_facecolor()[0][:3]) == to_rgba(CATEGORIES[0])[:3]


def test_arrows_are_in_the_proportions_of_the_loadings(ppca, X):
    drawn, loadings = arrows(plane_figure(ppca, X).axes[0]), ppca.components_[:2].T
    longest = np.linalg.norm(loadings, axis=1).argmax()
    scale = np.linalg.norm(drawn, axis=1).max() / np.linalg.norm(loadings[longest])
    order = np.argsort(-np.linalg.norm(loadings, axis=1))
    assert_allclose(drawn, scale * loadings[order], rtol=1e-9, atol=1e-12)


def test_names_of_features(X):
    pandas = pytest.importorskip("pandas")
    names = ["a", "b", "c", "d$x$", "e", "a name that is much too long to be written"]
    frame = pandas.DataFrame(X, columns=names)
    written = {each.get_text() for each in plane_figure(PPCA(n_components=2).fit(frame), X).axes[0].texts}
    assert {*names[:5], "a name that is …"} <= written


def test_many_features_and_few_dots():
    X = np.random.default_rng(1).normal(size=(6000, 20))
    axes = plane_figure(PPCA(n_components=2).fit(X), X).axes[0]
    assert len(arrows(axes)) == MOST_ARROWS
    assert sum(len(each.get_offsets()) for each in axes.collections) == 5000


def test_heights_are_kept_apart_and_in_order():
    rng = np.random.default_rng(2)
    for n in (0, 1, 2, 9):
        heights = rng.normal(size=n)
        found = _apart(heights, 0.3)
        assert (np.diff(np.sort(found)) >= 0.3 - 1e-9).all()
        assert (np.argsort(found) == np.argsort(heights)).all()
    assert_allclose(_apart(np.array([3.0, 1.0, 2.0]), 0.5), [3, 1, 2], rtol=0, atol=1e-12)
    assert_allclose(_apart(np.array([1.0, 1.0]), 0.5), [0.75, 1.25], rtol=0, atol=1e-12)


@pytest.mark.parametrize("noise", ["isotropic", "diagonal"])
def test_bars_are_what_components_explain(X, noise):
    ppca = PPCA(n_components=3, noise=noise).fit(X)
    axes = spectrum_figure(ppca).axes[0]
    assert_allclose([bar.get_height() for bar in axes.patches], ppca.explained_variance_, rtol=1e-12, atol=0)
    assert [each.get_text() for each in axes.texts] == [f"{share:.0%}" for share in ppca.explained_variance_ratio_]
    levels = [line.get_ydata()[0] for line in axes.lines]
    assert_allclose(levels, [ppca.noise_variance_] if noise == "isotropic" else [], rtol=1e-12, atol=0)


def test_section_of_a_page(ppca, X, tmp_path):
    section = latent_plane(ppca, SimpleNamespace(steps=X))
    page = write_page(tmp_path / "page.html", Page("PPCA", "A test.", [section])).read_text(encoding="utf-8")
    assert "component 1 (" in page
    assert "Rings are points of which something is missing" in page
    assert latent_plane(MixtureOfPPCA(n_clusters=1, n_components=2).fit(X), SimpleNamespace(steps=X)) is None
    alone = latent_plane(PPCA(n_components=1).fit(X), SimpleNamespace(steps=X))
    assert len(alone.blocks[0].cards) == 1
    assert len(latent_plane(ppca, None).blocks[0].cards) == 1


def test_one_component_makes_no_plane(X):
    with pytest.raises(InputError, match="n_components=1, which makes no plane"):
        plane_figure(PPCA(n_components=1).fit(X), X)
