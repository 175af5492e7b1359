"""What fitted models are asked on the command line: the answers are those of short loops, or of the library."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import norm, poisson

import unveil as library
from unveil.data.streams import open_batches


def forward(model, counts):
    """p(z_t | x_1 .. x_t) and p(x_t | x_1 .. x_{t-1}) of an HMM over counts, step by step."""
    states, densities, ahead = [], [], model.startprob_
    for x in counts[:, 0]:
        joint = ahead * poisson(model.model_.emission.rates.detach().numpy()[:, 0]).pmf(x)
        densities.append(joint.sum())
        states.append(joint / joint.sum())
        ahead = states[-1] @ model.transmat_
    return np.array(states), np.array(densities)


def text(path):
    return np.loadtxt(path, delimiter=",", ndmin=2)


def test_filter_gives_what_is_known_of_the_state_so_far(with_models, unveil):
    expected, _ = forward(library.load("hmm.unveil"), np.load("counts.npy"))
    printed = unveil("filter hmm.unveil counts.npy")
    assert (printed.code, printed.err) == (0, "")
    assert_allclose(text(printed.out.splitlines()), expected, rtol=1e-8, atol=1e-12)
    assert unveil("filter hmm.unveil counts.npy -o states.npy").out == ""
    assert_allclose(np.load("states.npy"), expected, rtol=1e-10, atol=1e-14)
    unveil("filter lds.unveil waves.npz -o means.csv")
    means = library.load("lds.unveil").filter(open_batches("waves.npz"))
    assert means.shape == (50, 2)
    assert_allclose(text("means.csv"), means, rtol=1e-8, atol=1e-9)


def test_steps_are_scored_by_how_surprising_they_are(with_models, unveil):
    _, densities = forward(library.load("hmm.unveil"), np.load("counts.npy"))
    printed = unveil("score hmm.unveil counts.npy --steps").out
    assert_allclose([float(line) for line in printed.splitlines()], -np.log(densities), rtol=1e-8, atol=1e-9)
    facts = unveil("score hmm.unveil counts.npy --steps --json").json
    assert facts["n_steps"] == 60
    assert_allclose(-sum(facts["scores"]), unveil("score hmm.unveil counts.npy --json").json["score"], rtol=1e-10, atol=0)


def test_forecast_of_a_chain_has_moments_and_states(with_models, unveil):
    model = library.load("hmm.unveil")
    rates = model.model_.emission.rates.detach().numpy()[:, 0]
    states, _ = forward(model, np.load("counts.npy"))
    ahead = np.stack([states[-1] @ np.linalg.matrix_power(model.transmat_, h) for h in (1, 2, 3)])
    mean = ahead @ rates
    deviation = np.sqrt(ahead @ (rates + rates**2) - mean**2)
    told = unveil("forecast hmm.unveil counts.npy --steps 3 -o ahead.csv")
    assert (told.code, told.out, told.err) == (0, "", "")
    names, *_ = Path("ahead.csv").read_text().splitlines()
    assert names == "sequence,step,mean_0,sd_0,p_state_0,p_state_1"
    expected = np.column_stack([np.zeros(3), [1, 2, 3], mean, deviation, ahead])
    assert_allclose(np.loadtxt("ahead.csv", delimiter=",", skiprows=1), expected, rtol=1e-8, atol=1e-12)
    facts = unveil("forecast hmm.unveil counts.npy --steps 3 --json").json
    assert facts["steps"] == 3
    assert_allclose(facts["mean"], mean[None, :, None], rtol=1e-10, atol=0)
    assert_allclose(facts["sd"], deviation[None, :, None], rtol=1e-10, atol=0)
    assert_allclose(facts["p_state"], ahead[None], rtol=1e-10, atol=1e-14)


def test_forecast_of_a_linear_system_follows_each_sequence(with_models, unveil):
    mean, covariance = library.load("lds.unveil").forecast(open_batches("waves.npz"), 4)
    lines = unveil("forecast lds.unveil waves.npz --steps 4").out.splitlines()
    assert lines[0] == "sequence,step,mean_0,mean_1,sd_0,sd_1"
    table = text(lines[1:])
    assert_array_equal(table[:, :2], list(itertools.product([0, 1], [1, 2, 3, 4])))
    assert_allclose(table[:, 2:4], mean.reshape(8, 2), rtol=1e-8, atol=1e-9)
    assert_allclose(table[:, 4:] ** 2, np.einsum("stii->sti", covariance).reshape(8, 2), rtol=1e-8, atol=1e-9)
    assert len(unveil("forecast lds.unveil waves.npz").out.splitlines()) == 1 + 2 * 10


def test_impute_fills_with_what_is_expected(with_models, unveil):
    told = unveil("impute mixture.unveil holed.npy -o whole.npy")
    assert (told.code, told.out, told.err) == (0, "Filled 15 of 200 values; wrote whole.npy\n", "")
    whole, holed = np.load("whole.npy"), np.load("holed.npy")
    there = ~np.isnan(holed)
    assert_array_equal(whole[there], holed[there])
    model = library.load("mixture.unveil")
    x = holed[::7, :1]
    variance, slope = model.covariances_[:, 0, 0], model.covariances_[:, 0, 1] / model.covariances_[:, 0, 0]
    weighed = model.weights_ * norm(model.means_[:, 0], np.sqrt(variance)).pdf(x)
    expected = (weighed * (model.means_[:, 1] + slope * (x - model.means_[:, 0]))).sum(1) / weighed.sum(1)
    assert_allclose(whole[::7, 1], expected, rtol=1e-8, atol=1e-8)
    facts = unveil("impute mixture.unveil holed.npy -o whole.csv --json").json
    assert facts == {"filled": 15, "values": 200, "file": "whole.csv"}
    assert_allclose(text("whole.csv"), whole, rtol=1e-9, atol=1e-9)


def test_an_npz_keeps_the_sequences_apart(with_models, unveil):
    assert unveil("impute lds.unveil waves.npz -o whole.npz").out == "Filled 6 of 100 values; wrote whole.npz\n"
    given, whole = open_batches("waves.npz"), open_batches("whole.npz")
    assert_array_equal(whole.offsets, given.offsets)
    before, after = given.rows.read(0, 50).numpy(), whole.rows.read(0, 50).numpy()
    assert not np.isnan(after).any()
    assert_array_equal(np.where(np.isnan(before), before, after), before)


def test_transform_gives_the_latent_variables(with_models, unveil):
    points = np.load("points.npy")
    model = library.load("ppca.unveil")
    loadings = model.model_.emission.loadings.detach().numpy()[0]
    precision = loadings.T @ loadings + model.noise_variance_ * np.eye(1)
    expected = np.linalg.solve(precision, loadings.T @ (points - model.mean_).T).T
    assert unveil("transform ppca.unveil points.npy -o factors.npy").code == 0
    assert_allclose(np.load("factors.npy"), expected, rtol=1e-8, atol=1e-9)
    printed = text(unveil("transform lds.unveil waves.npz").out.splitlines())
    assert_allclose(printed, library.load("lds.unveil").smooth(open_batches("waves.npz")), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("first", ["", "x,y\n"])
def test_empty_cells_are_missing_values(with_models, unveil, first):
    Path("cells.csv").write_text(first + "1,\n2,2.5\n,NA\n8,7\n9,8.5\n7.5,9\n")
    assert unveil("impute mixture.unveil cells.csv -o whole.npy").out == "Filled 3 of 12 values; wrote whole.npy\n"
    assert_array_equal(np.load("whole.npy")[[1, 3]], [[2, 2.5], [8, 7]])
