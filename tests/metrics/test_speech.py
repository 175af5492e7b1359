"""STOI against pystoi, PESQ against its package, and what is done where these cannot tell."""

import sys

import numpy as np
import pytest
import scipy.signal
import soxr
from numpy.testing import assert_allclose, assert_array_equal

from unveil.data import datasets
from unveil.errors import InputError, ParameterError
from unveil.metrics import speech
from unveil.metrics.speech import pesq, score_speech, stoi

pytestmark = pytest.mark.filterwarnings("error")

RATE = 16_000


def babble(seconds=3.0, rate=RATE, seed=0):
    """Coloured noise that comes in syllables, with silence in between."""
    rng = np.random.default_rng(seed)
    n = int(seconds * rate)
    syllables = np.clip(np.sin(2 * np.pi * 3 * np.arange(n) / rate) + 0.3, 0, None)
    return 0.1 * syllables * scipy.signal.lfilter([1], [1, -0.9], rng.normal(size=n))


def noisy(clean, snr, seed=1):
    noise = np.random.default_rng(seed).normal(size=len(clean))
    return clean + noise * clean.std() * 10 ** (-snr / 20)


@pytest.mark.parametrize("extended", [False, True])
@pytest.mark.parametrize("snr", [-10, 0, 20])
@pytest.mark.parametrize("n_samples", [30_000, 30_080, 256 + 128 * 100])  # the last two end with a frame
def test_stoi_is_pystois(snr, extended, n_samples):
    pystoi = pytest.importorskip("pystoi")
    clean = babble(rate=10_000, seconds=n_samples / 10_000)
    estimate = noisy(clean, snr)
    expected = pystoi.stoi(clean, estimate, 10_000, extended=extended)
    assert_allclose(stoi(clean, estimate, 10_000, extended=extended), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("extended", [False, True])
@pytest.mark.parametrize("rate", [8000, 16_000, 22_050, 44_100])
def test_stoi_is_pystois_at_other_rates(rate, extended):
    pystoi = pytest.importorskip("pystoi")
    clean = babble(rate=rate)
    estimate = noisy(clean, 5)
    expected = pystoi.stoi(clean, estimate, rate, extended=extended)
    assert_allclose(stoi(clean, estimate, rate, extended=extended), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("extended", [False, True])
def test_stoi_of_the_signal_itself_is_1_at_any_level(extended):
    clean = babble()
    assert_allclose(stoi(clean, 0.01 * clean, RATE, extended=extended), 1.0, rtol=1e-6, atol=0)
    assert abs(stoi(clean, babble(seed=5), RATE, extended=True)) < 0.4


def test_stoi_falls_with_noise():
    clean = babble()
    scores = [stoi(clean, noisy(clean, snr), RATE) for snr in (20, 10, 0, -10)]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] - scores[-1] > 0.2


@pytest.mark.parametrize("extended", [False, True])
def test_stoi_without_speech_is_nan_and_of_a_silent_estimate_is_zero(extended):
    clean = babble()
    assert np.isnan(stoi(0 * clean, clean, RATE, extended=extended))
    assert np.isnan(stoi(clean[:4000], clean[:4000], RATE, extended=extended))
    assert np.isnan(stoi(clean[:100], clean[:100], RATE, extended=extended))
    assert stoi(clean, 0 * clean, RATE, extended=extended) == 0


def test_a_band_in_which_nothing_varies_is_not_correlated():
    constant, varying = np.full((1, 2, 30), 0.1), np.random.default_rng(0).normal(size=(1, 1, 30)) ** 2
    half = np.concatenate([constant[:, :1], varying], axis=1)
    assert_allclose(speech._similarity(half, half), 0.5, rtol=1e-12, atol=0)  # rounding makes 0.1 - mean(0.1) other than zero
    assert speech._extended_similarity(constant, constant) == 0


def test_pesq_is_the_packages_after_resampling():
    package = pytest.importorskip("pesq")
    clean = babble()
    estimate = noisy(clean, 10)
    for mode in ("wb", "nb"):
        assert_allclose(pesq(clean, estimate, RATE, mode), package.pesq(RATE, clean, estimate, mode), rtol=1e-12, atol=0)
    assert pesq(clean, estimate, RATE) == pesq(clean, estimate, RATE, "wb")
    high = [soxr.resample(x, RATE, 48_000) for x in (clean, estimate)]
    back = [soxr.resample(x, 48_000, RATE) for x in high]
    assert_allclose(pesq(*high, 48_000), package.pesq(RATE, *back, "wb"), rtol=1e-12, atol=0)
    low = [soxr.resample(x, RATE, 8000) for x in (clean, estimate)]
    assert_allclose(pesq(*low, 8000, "nb"), package.pesq(8000, *low, "nb"), rtol=1e-12, atol=0)


def test_pesq_of_the_signal_itself_is_the_highest():
    pytest.importorskip("pesq")
    clean = babble()
    assert_allclose([pesq(clean, clean, RATE), pesq(clean, clean, RATE, "nb")], [4.644, 4.549], rtol=0, atol=1e-3)


def test_pesq_without_speech_is_nan():
    pytest.importorskip("pesq")
    clean = babble()
    silence = 0 * clean
    assert np.isnan([pesq(silence, clean, RATE), pesq(clean, silence, RATE), pesq(silence, silence, RATE)]).all()
    click = np.zeros(RATE)
    click[8000:8400] = clean[2000:2400]  # too short for an utterance
    assert np.isnan(pesq(click, clean[:RATE], RATE))


def test_more_utterances_than_the_recommendations_code_can_hold_are_refused():
    pytest.importorskip("pesq")
    # The densest bursts that count as utterances of their own: 50 frames of 4 ms each, apart by more than 50.
    seconds, period = int(speech.PESQ_LONGEST), int(0.412 * RATE)
    clean = np.random.default_rng(0).normal(size=seconds * RATE)
    clean *= np.arange(len(clean)) % period < period // 2
    assert 1 < pesq(clean, noisy(clean, 30), RATE) < 4.64
    with pytest.raises(InputError, match=r"PESQ takes clips of 0.25 to 20 s, got 20.0\d* s; cut longer ones into clips"):
        pesq(np.ones(len(clean) + 160), np.ones(len(clean) + 160), RATE)


def test_the_summary_counts_clips_without_speech():
    pytest.importorskip("pesq")
    clean = babble()
    estimate = noisy(clean, 10)
    found = score_speech([(clean, estimate), (0 * clean, estimate), (clean, clean)], RATE)
    assert found.n_without_speech == 1
    for name in ("pesq_wb", "pesq_nb", "stoi", "estoi"):
        assert_array_equal(np.isnan(getattr(found, name)), [False, True, False])
    assert_allclose(found.pesq_nb[0], pesq(clean, estimate, RATE, "nb"), rtol=1e-12, atol=0)
    assert_allclose(found.estoi[0], stoi(clean, estimate, RATE, extended=True), rtol=1e-12, atol=0)
    assert_allclose(found.means()["pesq_wb"], (pesq(clean, estimate, RATE) + pesq(clean, clean, RATE)) / 2, rtol=1e-12, atol=0)
    assert np.isnan(score_speech([], RATE).means()["stoi"])


def test_a_missing_package_is_told_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "pesq", None)
    speech._pesq_package.cache_clear()
    with pytest.raises(InputError, match=r"^PESQ needs the package pesq; pip install 'unveil\[speech\]'$"):
        pesq(babble(), babble(), RATE)


@pytest.mark.parametrize("score", [pesq, stoi])
@pytest.mark.parametrize(
    ("reference", "estimate", "rate", "error", "message"),
    [
        (np.ones(9000), np.ones(8999), RATE, InputError, "signals of one length, got 9000 and 8999 samples; cut them alike"),
        (np.ones((2, 9000)), np.ones(9000), RATE, InputError, r"reference: expected one channel, .* got \(2, 9000\)"),
        (np.ones(9000), np.full(9000, np.nan), RATE, InputError, "estimate: expected real and finite samples"),
        (np.ones(0), np.ones(0), RATE, InputError, r"reference: expected one channel, .* got \(0,\)"),
        (np.ones(9000), np.ones(9000), 0, ParameterError, "sample_rate=0: expected a positive number of Hz"),
    ],
)
def test_bad_clips_are_told(score, reference, estimate, rate, error, message):
    with pytest.raises(error, match=message):
        score(reference, estimate, rate)


def test_other_bad_settings_are_told():
    with pytest.raises(ParameterError, match="mode='fb': expected 'wb' or 'nb'"):
        pesq(babble(), babble(), RATE, "fb")
    with pytest.raises(InputError, match=r"0.25 to 20 s, got 0.25 s"):
        pesq(np.ones(4000), np.ones(4000), RATE)


def with_magnitudes(clean, change):
    """Another magnitude at the clean signal's phase, by a transform with a sine window of 1024 samples."""
    window = np.sin(np.pi * (np.arange(1024) + 0.5) / 1024)
    transform = scipy.signal.ShortTimeFFT(window, 256, RATE)
    spectrum = transform.stft(clean)
    changed = change(np.abs(spectrum)) * np.exp(1j * np.angle(spectrum))
    return transform.istft(changed, k1=len(clean))


def test_real_speech(real_data):
    pytest.importorskip("pesq")
    pystoi = pytest.importorskip("pystoi")
    speakers = datasets.load("librispeech", max_per_speaker=1).data
    clips = [clip[: 8 * RATE] for clip in list(speakers)[:4]]
    exact = score_speech([(clip, with_magnitudes(clip, lambda magnitude: magnitude)) for clip in clips], RATE)
    assert min(exact.pesq_wb) > 4.6
    assert min(exact.stoi) > 0.999
    # A steady spectrum keeps nothing of the speech but its phase.
    steady = [(clip, with_magnitudes(clip, lambda x: np.broadcast_to(x.mean(1, keepdims=True), x.shape))) for clip in clips]
    found = score_speech(steady, RATE)
    assert found.n_without_speech == 0
    assert max(found.pesq_wb) < 1.2
    assert 0.4 < min(found.stoi) < max(found.stoi) < 0.65
    for extended, scores in ((False, found.stoi), (True, found.estoi)):
        expected = [pystoi.stoi(*pair, RATE, extended=extended) for pair in steady]
        assert_allclose(scores, expected, rtol=0, atol=1e-12)


def test_the_shortest_clip():
    pytest.importorskip("pesq")
    clean = babble(0.3)
    assert not np.isnan(pesq(clean, clean, RATE))
    pesq(babble(0.2501), babble(0.2501), RATE)
