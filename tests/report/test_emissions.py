"""Pictures of states and components: what is drawn is what the emission says."""

from functools import partial

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.patches import Ellipse
from numpy.testing import assert_allclose, assert_array_equal

from unveil.emissions.bernoulli import Bernoulli
from unveil.emissions.categorical import Categorical
from unveil.emissions.gaussian import Gaussian
from unveil.emissions.mixture import GaussianMixtureEmission
from unveil.emissions.poisson import Poisson
from unveil.emissions.product import Product
from unveil.models.gaussian_hmm import GaussianHMM
from unveil.models.hmm import HMM
from unveil.report import chains, figures
from unveil.report.emissions import (
    Owners,
    Points,
    columns_of_symbols,
    described_columns,
    emission_cards,
    normals_of,
    picture_of,
    spread,
    symbol_probabilities,
    value_bars,
)
from unveil.report.surprise import surprise_card, surprise_figure
from unveil.report.theme import category_colours

COLOURS = category_colours(3)
ALL = Owners("state", np.arange(3), ["0", "1", "2"], COLOURS)
SHARED = Owners("state", np.array([-1, 0, 1]), ["", "0, 2", "1"], COLOURS)


def given(emission, **values):
    with torch.no_grad():
        for name, value in values.items():
            emission.get_parameter(name).copy_(torch.as_tensor(value))
    return emission


def colours_of(collection):
    return [to_hex(colour) for colour in collection.get_facecolors()]


def test_bars_are_the_values_of_the_densities_that_are_drawn():
    values = np.array([[1.0, 20.0], [0.001, 4.0], [3.0, 123.0]])
    for owners, rows in ((ALL, [0, 1, 2]), (SHARED, [1, 2])):
        first, second = value_bars(values, owners, ["a", "b"]).axes
        assert_array_equal([bar.get_width() for bar in first.patches], values[rows, 0])
        assert_array_equal([bar.get_width() for bar in second.patches], values[rows, 1])
        assert [to_hex(bar.get_facecolor()) for bar in first.patches] == [COLOURS[k] for k in range(len(rows))]
    assert [text.get_text() for text in first.texts] == ["<.01", "3.00"]
    assert [text.get_text() for text in second.texts] == ["4.00", "123"]
    assert [label.get_text() for label in first.get_yticklabels()] == ["0, 2", "1"]


def test_values_of_many_columns_are_an_image():
    values = np.random.default_rng(0).random((3, 9))
    axes = value_bars(values, SHARED, [f"c{d}" for d in range(9)]).axes[0]
    assert_array_equal(axes.images[0].get_array(), values[1:])
    assert_array_equal(spread(values, values, ALL, [f"c{d}" for d in range(9)]).axes[0].images[0].get_array(), values)


def test_spread_reaches_two_deviations_to_either_side():
    means, deviations = np.array([[0.0], [1.0], [5.0]]), np.array([[0.5], [1.0], [2.0]])
    [axes] = spread(means, deviations, ALL, ["a"]).axes
    lines, dots = axes.collections
    assert_array_equal(
        [segment[:, 0] for segment in lines.get_segments()], np.hstack([means - 2 * deviations, means + 2 * deviations])
    )
    assert_array_equal(dots.get_offsets(), np.column_stack([means[:, 0], [0, 1, 2]]))


def test_cells_are_the_probabilities_of_the_symbols_that_a_column_has():
    probabilities = np.zeros((3, 2, 3))
    probabilities[:, 0] = [[0.5, 0.5, 0.0], [0.001, 0.998, 0.001], [0.2, 0.3, 0.5]]
    probabilities[:, 1, :2] = [[0.9, 0.1], [0.0, 1.0], [0.4, 0.6]]
    first, second = symbol_probabilities(probabilities, np.array([3, 2]), ALL, ["a", "b"]).axes
    assert_array_equal(first.images[0].get_array(), probabilities[:, 0])
    assert_array_equal(second.images[0].get_array(), probabilities[:, 1, :2])
    assert [text.get_text() for text in first.texts] == [".50", ".50", "<.01", "1", "<.01", ".20", ".30", ".50"]
    assert [text.get_text() for text in second.texts] == [".90", ".10", "1", ".40", ".60"]


def test_families_have_the_pictures_of_their_parameters():
    rates, means = np.array([[1.0], [2.0], [3.0]]), np.array([[0.1], [0.5], [1.0]])
    poisson = picture_of(given(Poisson(3, 1), rates=rates), ALL, ["a"], None).figure
    assert_array_equal([bar.get_width() for bar in poisson.axes[0].patches], rates[:, 0])
    bernoulli = picture_of(given(Bernoulli(3, 1), means=means), ALL, ["a"], None).figure
    assert_array_equal([bar.get_width() for bar in bernoulli.axes[0].patches], means[:, 0])
    assert bernoulli.axes[0].get_xticks().tolist() == [0, 0.5, 1]
    symbols = picture_of(Categorical(3, 1, n_categories=4), ALL, ["a"], None).figure
    assert_array_equal(symbols.axes[0].images[0].get_array(), np.full((3, 4), 0.25))
    assert picture_of(torch.nn.Identity(), ALL, ["a"], None) is None


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "spherical"])
def test_ellipses_are_the_normal_densities_in_the_colours_of_their_owners(covariance_type):
    rng = np.random.default_rng(0)
    family = given(Gaussian(3, 2, covariance_type), means=rng.normal(size=(3, 2)))
    X = rng.normal(size=(20, 2))
    X[3, 1] = np.nan
    labels = rng.integers(3, size=20)
    owners = Owners("class", np.array([0, 0, 1]), ["a", "a", "b"], COLOURS)
    picture = picture_of(family, owners, ["x", "y"], Points(X, labels))
    [axes] = picture.figure.axes
    whole = np.delete(np.arange(20), 3)
    assert_array_equal(axes.collections[0].get_offsets(), X[whole])
    assert colours_of(axes.collections[0]) == [COLOURS[label] for label in labels[whole]]
    ellipses = [patch for patch in axes.patches if isinstance(patch, Ellipse)]
    assert_allclose([each.center for each in ellipses], family.means.detach().numpy(), rtol=1e-12, atol=0)
    assert [to_hex(each.get_edgecolor()) for each in ellipses] == [COLOURS[0], COLOURS[0], COLOURS[1]]
    assert [text.get_text() for text in axes.texts] == ["a", "a", "b"]
    assert "Not drawn, for lack of a value: 1 of 20." in picture.caption


def test_long_names_are_written_once():
    owners = Owners("class", np.array([0, 0, 1]), ["a long name", "a long name", "b"], COLOURS)
    figure = picture_of(Gaussian(3, 2), owners, ["x", "y"], Points(np.zeros((1, 2)), np.zeros(1, int))).figure
    assert [text.get_text() for text in figure.axes[0].texts] == ["a long …", "b"]


def test_mixtures_of_normals_belong_to_their_state_and_have_its_moments():
    rng = np.random.default_rng(0)
    family = given(GaussianMixtureEmission(3, 1, n_mixtures=2), weights=[[0.3, 0.7], [0.5, 0.5], [1.0, 0.0]])
    given(family.densities, means=rng.normal(size=(6, 1)), covariances=rng.random((6, 1)) + 0.1)
    assert normals_of(family).of_density.tolist() == [0, 0, 1, 1, 2, 2]
    drawn = family.sample(torch.zeros(200_000, dtype=torch.int64), torch.Generator().manual_seed(0)).numpy()
    [axes] = picture_of(family, ALL, ["a"], None).figure.axes
    low, high = axes.collections[0].get_segments()[0][:, 0]
    assert_allclose([(low + high) / 2, (high - low) / 4], [drawn.mean(), drawn.std()], rtol=0, atol=0.01)  # four standard errors


def test_products_are_described_by_their_parts():
    family = Product([(2, "gaussian"), ((0, 3), "poisson"), (1, "bernoulli")])(3, 4)
    cards = emission_cards(family, ALL, ["a", "b", "c", "d"], of="!")
    assert [card.title for card in cards] == ["Observations by state!", "Rates by state!", "Probabilities of a one by state!"]
    headings = [[axes.get_title(loc="left") for axes in card.blocks[0].figure.axes] for card in cards]
    assert headings == [["c"], ["a", "d"], ["b"]]
    assert columns_of_symbols(family) == {1}
    assert described_columns(family) == {2: ["0.00\u00a0±\u00a01.00"] * 3}


# --- over time -------------------------------------------------------------------------------------------------------


def test_lines_have_gaps_and_symbols_no_lines():
    X = np.array([[0.0, 1.0], [np.nan, 2.0], [2.0, np.nan], [3.0, 0.0]])
    numbers, symbols, _ = chains.state_sequence(X, np.array([0, 0, 1, 1]), symbols={1}).axes
    assert_array_equal(numbers.lines[0].get_ydata(), X[:, 0])
    assert_array_equal(numbers.collections[0].get_offsets(), [[0, 0], [2, 2], [3, 3]])
    assert colours_of(numbers.collections[0]) == [COLOURS[0], COLOURS[1], COLOURS[1]]
    assert not symbols.lines
    assert_array_equal(symbols.collections[0].get_offsets(), [[0, 1], [1, 2], [3, 0]])


def test_sequences_of_symbols_are_rows_of_cells():
    X = [np.array([[0.0], [2.0]]), np.array([[1.0], [1.0], [0.0]]), np.array([[2.0]])]
    first, second = figures.clusters_of_sequences(X, np.array([0, 0, 1]), symbols={0}).axes
    assert_array_equal(np.ma.filled(first.images[0].get_array(), -1), [[0, 2, -1], [1, 1, 0]])
    assert first.images[0].get_clim() == second.images[0].get_clim() == (0, 2)


def test_paths_begin_where_something_was_observed():
    X = [np.array([[np.nan, 1.0], [2.0, 3.0], [4.0, 5.0]])]
    [axes] = figures.clusters_of_sequences(X, np.zeros(1, int)).axes
    assert_array_equal(np.ma.filled(axes.collections[1].get_offsets(), np.nan), [[2, 3]])


def test_surprise_and_shares_of_states():
    surprise, shares = np.array([1.0, 5.0, 2.0]), np.array([[0.2, 0.8], [1.0, 0.0], [0.5, 0.5]])
    above, filtered, smoothed = surprise_figure(surprise, shares, np.eye(2)[[0, 0, 1]]).axes
    assert_array_equal(above.lines[0].get_ydata(), surprise)
    for axes, expected in ((filtered, shares), (smoothed, np.eye(2)[[0, 0, 1]])):
        for patch, share, colour in zip(axes.patches, expected.T, COLOURS, strict=False):
            tops, edges, bottoms = patch.get_data()
            assert_allclose(tops - bottoms, share, rtol=0, atol=1e-12)
            assert_array_equal(edges, [-0.5, 0.5, 1.5, 2.5])
            assert to_hex(patch.get_facecolor()) == colour


def test_the_card_shows_what_the_estimator_says():
    X = np.random.default_rng(0).normal(size=(30, 1)) + np.repeat([0.0, 6.0, 0.0], 10)[:, None]
    X[20] = 40.0
    hmm = GaussianHMM(
        2, random_state=0, means_init=[[0.0], [6.0]], covariances_init=[[1.0], [1.0]], max_iter=1, tol=0.0, fixed=("emission",)
    )
    card = surprise_card(hmm.fit(X), X)
    [picture] = card.blocks
    above, filtered, _ = picture.figure.axes
    assert_allclose(above.lines[0].get_ydata(), hmm.score_steps(X), rtol=1e-12, atol=0)
    assert_allclose(above.lines[0].get_ydata().sum(), -hmm.score(X), rtol=1e-9, atol=0)
    assert "most so is step 20" in picture.alt
    tops, _, bottoms = filtered.patches[0].get_data()
    assert_allclose(tops - bottoms, hmm.filter_proba(X)[:, 0], rtol=0, atol=1e-9)
    assert surprise_card(object(), X) is None


def test_the_section_of_states_has_the_surprise_of_any_emission():
    X = np.random.default_rng(0).poisson(3.0, size=(500, 1)).astype(float)
    fitted = HMM(2, emission=partial(Poisson, prior=(2.0, 1.0)), max_iter=1, tol=0.0, random_state=0).fit(X)
    axes = surprise_card(fitted, X).blocks[0].figure.axes[0]
    assert len(axes.lines[0].get_ydata()) == 400
