"""What the experiment says follows from its fits; made-up speech goes all the way through, and real speech where it is."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from unveil.audio.resynthesize import power_frames
from unveil.experiments import sparse_speech
from unveil.experiments.sparse_speech import BASELINES, MODELS, PUBLISHED, RATE, Fit, SparseSpeech, Speech, claims, load_speech
from unveil.report.page import Page, Player, Table, render


def voice(seed, seconds=1.0):
    """Syllables: bursts of a hoarse and changing tone."""
    rng, t = np.random.default_rng(seed), np.arange(round(seconds * RATE)) / RATE
    tone = sum(np.sin(2 * np.pi * k * (110 + 20 * seed) * t + k) / k for k in range(1, 20))
    return (tone + 0.3 * rng.normal(size=len(t))) * np.sin(2 * np.pi * 2 * t).clip(0) ** 2


@pytest.fixture(scope="module")
def speech():
    rows = [power_frames([voice(seed) for seed in seeds], RATE) for seeds in ((0, 1, 2, 3), (4,))]
    return Speech(*rows, [voice(5), voice(6)])


@pytest.fixture(scope="module")
def measured(speech):
    cases = [("VAE", 32, 0), ("VAE", 32, 1), ("VSC 0.05", 32, 0), ("SDM DCT 64", 32, 0), ("SDM identity", 32, 0)]
    return sparse_speech.measure(speech, cases, hidden=8, max_epochs=2)


def fit(model, n_latent, seed=0, pesq=2.0, hoyer=0.3, scaled=0.25):
    figures = {"n_active": 30, "n_codes": n_latent, "kl": 50.0, "distortion": 400.0, "seconds": 9.0}
    said_again = np.zeros(100)
    return Fit(model, n_latent, seed, (pesq, 2.5, 0.9, 0.8), hoyer, scaled, (0.5, 2.0), **figures, said_again=said_again)


def result(*fits):
    baselines = dict.fromkeys(BASELINES, (4.6, 4.5, 1.0, 1.0))
    return SparseSpeech(fits, baselines, np.zeros(100), 1000, 3)


def test_every_model_is_built_as_it_is_called():
    latents = {name: model(8).build(20).latent for name, model in MODELS.items()}
    assert {name: latent.n_codes for name, latent in latents.items()} == {
        "VAE": 8,
        "VSC 0.05": 8,
        "VSC 0.5": 8,
        "VSC 0.9": 8,
        "SDM identity": 8,
        "SDM DCT 32": 32,
        "SDM DCT 64": 64,
    }
    assert [MODELS[f"VSC {alpha}"](8).alpha for alpha in (0.05, 0.5, 0.9)] == [0.05, 0.5, 0.9]
    assert PUBLISHED.keys() == MODELS.keys()


def test_made_up_speech_goes_all_the_way_through(measured):
    rows = measured.table
    assert [(row["model"], row.get("latent"), row.get("seeds")) for row in rows] == [
        ("VAE", 32, [0, 1]),
        ("VSC 0.05", 32, [0]),
        ("SDM DCT 64", 32, [0]),
        ("SDM identity", 32, [0]),
        ("true magnitudes", None, None),
        ("mean spectrum", None, None),
    ]
    assert [row["codes"] for row in rows[:4]] == [32, 32, 64, 32]
    assert_allclose(rows[4]["STOI"], 1.0, rtol=0, atol=1e-6)
    assert rows[5]["STOI"] < 0.9
    for each in measured.fits:
        assert 0 < each.hoyer < 1
        assert 0 < each.hoyer_scaled < 1
        assert each.said_again.shape == measured.utterance.shape


def test_fits_are_repeated_by_their_seed(measured, speech):
    again = sparse_speech.learn(speech, "SDM identity", 32, 0, hidden=8, max_epochs=2)
    assert_array_equal(again.said_again, measured.of("SDM identity", 32)[0].said_again)
    one, other = measured.of("VAE", 32)
    assert np.abs(one.said_again - other.said_again).max() > 0


def test_baselines():
    X = np.random.default_rng(0).random((5, 3))
    unchanged, mean = (each.fit(X).reconstruct(sparse_speech.torch.from_numpy(X)) for each in BASELINES.values())
    assert_array_equal(unchanged, X)
    assert_allclose(mean, np.tile(X.mean(0), (5, 1)), rtol=1e-12, atol=0)


def test_the_table_has_means_over_seeds_beside_published_figures():
    fits = [fit("VAE", 64, seed, pesq, hoyer) for seed, pesq, hoyer in ((0, 2.0, 0.3), (1, 3.0, 0.4), (2, 2.5, 0.2))]
    row, *baselines = result(*fits).table
    assert row["seeds"] == [0, 1, 2]
    assert row["PESQ, each seed"] == [2.0, 3.0, 2.5]
    assert_allclose([row["PESQ wide"], row["Hoyer"]], [2.5, 0.3], rtol=1e-12, atol=0)
    assert (row["published PESQ"], row["published STOI"], row["published Hoyer"]) == (3.26, 0.85, 0.56)
    assert [each["model"] for each in baselines] == ["true magnitudes", "mean spectrum"]


def test_claims_are_differences_of_means():
    fits = [fit("VAE", 32, pesq=2.4, hoyer=0.25), fit("SDM identity", 32, pesq=2.2, hoyer=0.45, scaled=0.27)]
    fits += [fit("VAE", 64, 0, pesq=3.0), fit("VAE", 64, 1, pesq=2.6), fit("SDM identity", 64, pesq=3.2)]
    fits += [fit("VSC 0.05", 64, hoyer=0.5), fit("VSC 0.5", 64, hoyer=0.4)]
    found = {text: numbers for text, *numbers in claims(result(*fits))}
    assert_allclose(found["PESQ: SDM identity, 32 above VAE, 32"], [0.04, -0.2, np.nan], rtol=0, atol=1e-9)
    assert_allclose(found["PESQ: SDM identity, 64 above VAE, 64"], [0.19, 0.4, np.nan], rtol=0, atol=1e-9)
    assert_allclose(found["PESQ: VAE, 64 above VAE, 32"], [-0.03, 0.4, np.nan], rtol=0, atol=1e-9)
    assert_allclose(found["Hoyer: SDM identity, 32 above VAE, 32"], [0.24, 0.2, 0.02], rtol=0, atol=1e-9)
    assert_allclose(found["Hoyer: VSC 0.05, 64 above VSC 0.5, 64"], [np.nan, 0.1, 0.0], rtol=0, atol=1e-9)
    assert "Hoyer: VSC 0.5, 32 above VSC 0.9, 32" not in found


def test_the_page_tells_what_does_not_hold(measured):
    quality, sparsity, holds, _, listen = sections = sparse_speech.sections(measured)
    assert [type(block) for block in holds.blocks][-1] is Table
    assert "With 32 latent variables" in holds.blocks[0].text
    assert [card.title for card in listen.blocks[0].cards] == [
        "Original",
        "VAE, 32",
        "VSC 0.05, 32",
        "SDM DCT 64, 32",
        "SDM identity, 32",
    ]
    assert all(isinstance(card.blocks[0], Player) for card in listen.blocks[0].cards)
    assert quality.blocks[1].rows[0][0] == sparsity.blocks[0].rows[0][0] == "VAE, 32"
    lost = result(fit("VAE", 32, pesq=2.4), fit("SDM identity", 32, pesq=2.2, hoyer=0.5))
    table = sparse_speech.sections(lost)[2].blocks[1]
    assert [row[3] for row in table.rows] == [False, True]
    assert "With 32 latent variables" in render(Page("Page", "", sections))


def test_speakers_are_either_learned_from_or_held_out(real_data):
    few, fewer = (load_speech(n_speakers=3, n_held_out=n, per_speaker=1) for n in (1, 2))
    assert few.learned.dtype == np.float32
    assert few.learned.shape[1] == few.held_out.shape[1] == 513
    learned, also_learned, kept, also_kept = (
        {row.tobytes() for row in rows if row.any()} for rows in (few.learned, fewer.learned, few.held_out, fewer.held_out)
    )
    assert also_learned < learned
    assert not kept & learned
    assert len(also_kept) > len(kept)
    assert not also_kept & also_learned
    assert also_kept & learned
    assert len(few.utterances) == 10
    assert all(2.5 <= len(each) / RATE <= 8 for each in few.utterances)


@pytest.mark.slow
def test_real_speech_with_32_latent_variables(real_data):
    cases = [(model, 32, 0) for model in ("VAE", "SDM identity", "VSC 0.05", "VSC 0.9")]
    found = sparse_speech.measure(load_speech(), cases)
    vae, sdm, sparse, dense = (each for each in found.fits)
    assert found.baselines["true magnitudes"][0] >= 4.6
    assert found.baselines["mean spectrum"][0] <= 1.15
    assert vae.pesq >= 2.1
    assert sdm.pesq >= 1.9
    assert sdm.hoyer >= vae.hoyer + 0.08
    assert sparse.hoyer >= dense.hoyer + 0.1
    assert vae.n_active >= 30
