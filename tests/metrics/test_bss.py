"""BSS-eval and SI-SDR against mir_eval, dense projections, closed forms and enumeration."""

import itertools
import warnings

import numpy as np
import pytest
import scipy.linalg
import scipy.signal
from numpy.testing import assert_allclose, assert_array_equal

from unveil.errors import InputError, ParameterError
from unveil.metrics.bss import bss_eval, si_sdr

pytestmark = pytest.mark.filterwarnings("error")

HADAMARD = scipy.linalg.hadamard(8).astype(float)


def mixtures(n_sources, n_samples, seed=0, leak=0.3, noise=0.05):
    """Coloured sources with a slow envelope, and estimates with interference, noise and another gain."""
    rng = np.random.default_rng(seed)
    envelope = np.abs(scipy.signal.lfilter([0.05], [1, -0.999], rng.standard_normal((n_sources, n_samples))))
    reference = scipy.signal.lfilter([1], [1, -0.9], rng.standard_normal((n_sources, n_samples))) * envelope
    crosstalk = np.eye(n_sources) + leak * rng.uniform(-1, 1, (n_sources, n_sources))
    estimate = crosstalk @ reference + noise * reference.std() * rng.standard_normal(reference.shape)
    return reference, estimate * rng.uniform(0.1, 10, (n_sources, 1))


def decibels(numerator, denominator):
    return 10 * np.log10(np.sum(numerator**2) / np.sum(denominator**2))


def delayed(source, filter_length):
    """The columns that a filter of that length can mix: the source, delayed by 0 ... filter_length - 1 samples."""
    return scipy.linalg.toeplitz(np.pad(source, (0, filter_length - 1)), np.zeros(filter_length))


def dense_projection(columns, signal):
    return columns @ np.linalg.lstsq(columns, signal, rcond=1e-13)[0]


def dense_pairs(reference, estimate, filter_length):
    """Every pair's figures, by the definitions and an orthogonal decomposition of the delayed references."""
    columns = [delayed(source, filter_length) for source in reference]
    sdr, sir = np.empty((2, len(reference), len(estimate)))
    sar = np.empty(len(estimate))
    for k, signal in enumerate(np.pad(estimate, ((0, 0), (0, filter_length - 1)))):
        joint = dense_projection(np.hstack(columns), signal)
        sar[k] = decibels(joint, signal - joint)
        for j in range(len(reference)):
            target = dense_projection(columns[j], signal)
            sdr[j, k] = decibels(target, signal - target)
            sir[j, k] = decibels(target, joint - target)
    return sdr, sir, sar


def mir_eval_sources(*args, **options):
    separation = pytest.importorskip("mir_eval.separation")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated in mir_eval 0.8
        return separation.bss_eval_sources(*args, **options)


def test_two_sources_equal_mir_eval():
    reference, estimate = mixtures(2, 12_000)
    expected = mir_eval_sources(reference, estimate[::-1])
    scores = bss_eval(reference, estimate[::-1])
    assert_array_equal(scores.permutation, expected[3])
    assert_array_equal(scores.permutation, [1, 0])
    assert_allclose([scores.sdr, scores.sir, scores.sar], expected[:3], rtol=0, atol=1e-6)


def test_three_sources_equal_mir_eval():
    reference, estimate = mixtures(3, 12_000)
    expected = mir_eval_sources(reference, estimate, compute_permutation=False)  # seconds, if it goes through all pairs
    scores = bss_eval(reference, estimate[[2, 0, 1]])
    assert_array_equal(scores.permutation, [1, 2, 0])
    assert_allclose([scores.sdr, scores.sir, scores.sar], expected[:3], rtol=0, atol=1e-6)


# One block; several blocks; a filter as long as the signal; a signal that fills the 4096-point blocks exactly.
@pytest.mark.parametrize(
    ("n_sources", "n_samples", "filter_length"),
    [(1, 60, 8), (2, 9000, 1), (3, 9000, 33), (1, 40, 40), (2, 4065, 32), (2, 4034, 32)],
)
def test_pairs_equal_dense_least_squares(n_sources, n_samples, filter_length):
    reference, estimate = mixtures(n_sources, n_samples, seed=1)
    scores = bss_eval(reference, estimate, filter_length=filter_length)
    with np.errstate(divide="ignore"):
        sdr, sir, sar = dense_pairs(reference, estimate, filter_length)
    if n_sources == 1:
        sir[:] = np.inf
    assert_allclose(scores.pairs_sdr, sdr, rtol=0, atol=1e-8)
    assert_allclose(scores.pairs_sir, sir, rtol=0, atol=1e-8)
    assert_allclose(scores.pairs_sar, sar, rtol=0, atol=1e-8)


def test_figures_of_a_good_estimate_keep_their_digits():
    reference, _ = mixtures(2, 2000, seed=2)
    noise = np.random.default_rng(2).standard_normal(reference.shape)
    estimate = reference + 1e-6 * reference[::-1] + 1e-6 * noise
    expected = dense_pairs(reference, estimate, 16)
    scores = bss_eval(reference, estimate, filter_length=16)
    assert scores.sdr.min() > 100
    assert_allclose(scores.sdr, np.diag(expected[0]), rtol=0, atol=1e-5)
    assert_allclose(scores.sir, np.diag(expected[1]), rtol=0, atol=1e-5)
    assert_allclose(scores.sar, expected[2], rtol=0, atol=1e-5)


def test_orthogonal_signals_have_their_closed_form():
    wanted, other, noise = HADAMARD[1:4]
    leak, hiss = 0.2, 0.05
    scores = bss_eval([wanted, other], [wanted + leak * other + hiss * noise, other], filter_length=1)
    assert_allclose(scores.sir[0], -20 * np.log10(leak), rtol=1e-10, atol=0)
    assert_allclose(scores.sar[0], 10 * np.log10((1 + leak**2) / hiss**2), rtol=1e-10, atol=0)
    assert_allclose(scores.sdr[0], -10 * np.log10(leak**2 + hiss**2), rtol=1e-10, atol=0)


def test_a_filter_within_the_length_is_free():
    reference, _ = mixtures(2, 3000, seed=3)
    reference[:, -64:] = 0  # so that the filtered sources end within the signal
    taps = np.random.default_rng(3).standard_normal(64)
    estimate = scipy.signal.lfilter(taps, [1], reference)
    assert bss_eval(reference, estimate, filter_length=64).sdr.min() > 200
    assert bss_eval(reference, estimate, filter_length=63).sdr.max() < 60


@pytest.mark.parametrize("n_sources", [3, 4])
def test_permutation_is_the_best_of_all(n_sources):
    greedy_fails = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        reference = rng.standard_normal((n_sources, 50))
        estimate = rng.standard_normal((n_sources, n_sources)) @ reference + rng.standard_normal((n_sources, 50))
        scores = bss_eval(reference, estimate, filter_length=1)
        rows = np.arange(n_sources)
        orders = list(itertools.permutations(range(n_sources)))
        best = orders[np.argmax([scores.pairs_sir[rows, order].mean() for order in orders])]
        assert_array_equal(scores.permutation, best)
        assert_array_equal(scores.sdr, scores.pairs_sdr[rows, best])
        assert_array_equal(scores.sir, scores.pairs_sir[rows, best])
        assert_array_equal(scores.sar, scores.pairs_sar[list(best)])
        greedy_fails += not np.array_equal(scores.pairs_sir.argmax(axis=1), best)
    assert greedy_fails >= 3  # the cases are hard enough to tell


def test_permutation_goes_by_interference_not_by_distortion():
    # Mean SIR prefers the noisy estimate for the first source (10 - 8 dB against 8 - 10 dB), mean SDR the other one.
    first, second, noise = HADAMARD[1:4]
    noisy = first + second * 10 ** (-10 / 20) + 100 * noise
    clean = first + second * 10 ** (-8 / 20)
    scores = bss_eval([first, second], [clean, noisy], filter_length=1)
    assert_array_equal(scores.permutation, [1, 0])
    assert scores.sdr.mean() < np.diag(scores.pairs_sdr).mean()


def test_without_permutation_estimates_stay_in_their_places():
    reference, estimate = mixtures(3, 500, seed=4)
    estimate = estimate[[2, 0, 1]]
    scores = bss_eval(reference, estimate, filter_length=4, permute=False)
    assert_array_equal(scores.permutation, [0, 1, 2])
    assert_array_equal(scores.sdr, np.diag(scores.pairs_sdr))
    assert_array_equal(scores.sir, np.diag(scores.pairs_sir))
    assert_array_equal(scores.sar, scores.pairs_sar)
    matched = bss_eval(reference, estimate, filter_length=4)
    assert_array_equal(matched.permutation, [1, 2, 0])


def test_silent_reference_is_nan_and_leaves_the_others_alone():
    reference, estimate = mixtures(3, 1000, seed=5)
    alone = bss_eval(reference[[0, 2]], estimate[[0, 2]], filter_length=8)
    reference[1] = 0
    scores = bss_eval(reference, estimate, filter_length=8)
    assert_array_equal(scores.permutation, [0, 1, 2])
    assert np.isnan([scores.sdr[1], scores.sir[1], scores.sar[1]]).all()
    assert np.isfinite(scores.pairs_sar[1])  # the estimate itself is not silent
    for field in ("sdr", "sir", "sar"):
        assert_allclose(getattr(scores, field)[[0, 2]], getattr(alone, field), rtol=0, atol=1e-9)


def test_silent_estimate_is_nan_and_leaves_the_others_alone():
    reference, estimate = mixtures(3, 1000, seed=6)
    full = bss_eval(reference, estimate, filter_length=8)
    estimate[0] = 0
    scores = bss_eval(reference, estimate[[1, 0, 2]], filter_length=8)
    assert_array_equal(scores.permutation, [1, 0, 2])
    for field in ("sdr", "sir", "sar"):
        assert np.isnan(getattr(scores, field)[0])
        assert_allclose(getattr(scores, field)[1:], getattr(full, field)[1:], rtol=0, atol=1e-9)


def test_silent_estimate_goes_to_the_silent_reference():
    # Whichever estimate the first source gets, its SIR is negative; it must be matched to an audible one all the same.
    first, second, silence = HADAMARD[1], HADAMARD[2], np.zeros(8)
    scores = bss_eval([first, second, silence], [silence, 0.1 * first + second, 0.2 * first + second], filter_length=1)
    assert_array_equal(scores.permutation, [2, 1, 0])
    assert_allclose(scores.sir[:2], [20 * np.log10(0.2), 20], rtol=1e-10, atol=0)


def test_all_silent_is_all_nan():
    scores = bss_eval(np.zeros((2, 20)), np.zeros((2, 20)), filter_length=4)
    assert np.isnan([scores.sdr, scores.sir, scores.sar]).all()
    assert sorted(scores.permutation) == [0, 1]


def test_one_audible_source_has_no_interference():
    reference, estimate = mixtures(2, 200, seed=7)
    assert_array_equal(bss_eval(reference[0], estimate[0], filter_length=8).sir, [np.inf])
    reference[1] = 0
    assert bss_eval(reference, estimate, filter_length=8, permute=False).sir[0] == np.inf


@pytest.mark.parametrize("filter_length", [1, 16])
def test_perfect_estimate_is_very_large_never_nan(filter_length):
    reference, _ = mixtures(3, 900, seed=8)
    order = np.array([2, 0, 1])
    scores = bss_eval(reference, (reference * [[3.0], [0.1], [7.0]])[order], filter_length=filter_length)
    assert_array_equal(scores.permutation, np.argsort(order))
    assert min(scores.sdr.min(), scores.sir.min(), scores.sar.min()) > 200


@pytest.mark.parametrize("mixing", [[[1, 0], [1, 0], [0, 1]], [[1, 0], [3, 0], [0, 1]], [[1, 0], [0, 1], [1, 1]]])
def test_dependent_references_are_projected_by_least_squares(mixing):
    rng = np.random.default_rng(9)
    reference = np.array(mixing) @ rng.standard_normal((2, 400))
    estimate = reference + 0.3 * np.roll(reference, 1, axis=0) + 0.1 * rng.standard_normal((3, 400))
    scores = bss_eval(reference, estimate, filter_length=12)
    sdr, sir, sar = dense_pairs(reference, estimate, 12)
    distinct = sir < 200  # proportional references do not interfere: there the two differ by rounding only
    assert distinct.sum() >= 5
    assert_allclose(scores.pairs_sdr, sdr, rtol=0, atol=1e-6)
    assert_allclose(scores.pairs_sir[distinct], sir[distinct], rtol=0, atol=1e-6)
    assert scores.pairs_sir[~distinct].min(initial=np.inf) > 200
    assert_allclose(scores.pairs_sar, sar, rtol=0, atol=1e-6)
    perfect = bss_eval(reference, reference, filter_length=12)
    assert min(perfect.sdr.min(), perfect.sar.min()) > 200


def test_band_limited_reference():
    # Its delayed versions are dependent to rounding. A Levinson recursion loses all digits here, plain Cholesky stops.
    rng = np.random.default_rng(10)
    spectrum = np.fft.rfft(rng.standard_normal(3000))
    spectrum[150:] = 0
    reference = np.fft.irfft(spectrum) * np.hanning(3000) ** 4
    estimate = reference + 0.2 * reference.std() * rng.standard_normal(3000)
    padded = np.pad(estimate, (0, 127))
    projection = dense_projection(delayed(reference, 128), padded)
    scores = bss_eval(reference, estimate, filter_length=128)
    # How many dimensions such a signal spans is a matter of the threshold; each one that differs takes a bit of noise.
    assert_allclose(scores.sdr, decibels(projection, padded - projection), rtol=0, atol=0.05)


@pytest.mark.parametrize("scale", [1e-300, 1e200])
def test_bss_eval_does_not_depend_on_the_scale(scale):
    reference, estimate = mixtures(2, 300, seed=11)
    expected = bss_eval(reference, estimate, filter_length=8)
    for scaled in (
        bss_eval(reference * [[scale], [1.0]], estimate, filter_length=8),
        bss_eval(reference, estimate * [[scale], [1.0]], filter_length=8),
    ):
        for field in ("sdr", "sir", "sar"):
            assert_allclose(getattr(scaled, field), getattr(expected, field), rtol=0, atol=1e-9)


def test_integer_samples_are_taken_as_numbers_and_inputs_stay_as_they_are():
    reference, estimate = (np.round(3000 * x / np.abs(x).max()).astype(np.int16) for x in mixtures(2, 300, seed=12))
    before = reference.copy(), estimate.copy()
    scores = bss_eval(reference, estimate, filter_length=8)
    expected = bss_eval(reference.astype(float), estimate.astype(float), filter_length=8)
    assert_array_equal(scores.sdr, expected.sdr)
    loud = 10 * reference
    loud[:, 0] = -30_000  # so far from the others that their differences do not fit in 16 bits
    centred = si_sdr(loud.astype(float), estimate.astype(float), zero_mean=True)
    assert_allclose(si_sdr(loud, estimate, zero_mean=True), centred, rtol=1e-12, atol=0)
    assert_array_equal(reference, before[0])
    assert_array_equal(estimate, before[1])


@pytest.mark.parametrize(
    ("reference", "estimate", "message"),
    [
        (np.ones((2, 600)), np.ones((3, 600)), r"same shape, got \(2, 600\) and \(3, 600\); give one estimate"),
        (np.ones((2, 600)), np.ones((2, 599)), r"same shape, got \(2, 600\) and \(2, 599\)"),
        (np.ones((2, 511)), np.ones((2, 511)), r"at least 512 samples, .* got 511; .* smaller filter_length"),
        (np.ones((2, 600, 2)), np.ones((2, 600, 2)), r"\(n_sources, n_samples\), got \(2, 600, 2\); score"),
        (np.full((2, 600), np.nan), np.ones((2, 600)), r"reference: expected finite samples, got NaN"),
        (np.ones((2, 600)), np.full((2, 600), np.inf), r"estimate: expected finite samples, got NaN or inf"),
        (np.ones((2, 600)), np.ones((2, 600)) * 1j, r"estimate: expected real samples, got complex128"),
        ([np.ones(600), np.ones(599)], np.ones((2, 600)), r"reference: expected signals of one length"),
        (np.ones((0, 600)), np.ones((0, 600)), r"expected signals with samples, got shape \(0, 600\)"),
    ],
)
def test_bss_eval_says_what_is_wrong_in_one_line(reference, estimate, message):
    with pytest.raises(InputError, match=message) as caught:
        bss_eval(reference, estimate)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("filter_length", [0, -1, 2.0, "512"])
def test_filter_length_must_be_a_positive_integer(filter_length):
    with pytest.raises(ParameterError, match=r"filter_length: expected a positive integer, got"):
        bss_eval(np.ones(600), np.ones(600), filter_length=filter_length)


def cosine_db(first, second):
    """SI-SDR in another form: cos^2 / (1 - cos^2) of the angle between the signals."""
    cosine = first @ second / np.sqrt((first @ first) * (second @ second))
    return 10 * np.log10(cosine**2 / (1 - cosine**2))


def test_si_sdr_is_the_cotangent_of_the_angle_for_any_leading_axes():
    rng = np.random.default_rng(13)
    reference = rng.standard_normal((2, 3, 100)) + 0.5
    estimate = 5 * reference + 2 * rng.standard_normal((2, 3, 100)) + 1
    expected = [[cosine_db(reference[i, j], estimate[i, j]) for j in range(3)] for i in range(2)]
    assert_allclose(si_sdr(reference, estimate), expected, rtol=1e-10, atol=0)
    pearson = [[np.corrcoef(reference[i, j], estimate[i, j])[0, 1] for j in range(3)] for i in range(2)]
    expected = 10 * np.log10(np.square(pearson) / (1 - np.square(pearson)))
    assert_allclose(si_sdr(reference, estimate, zero_mean=True), expected, rtol=1e-10, atol=0)


def test_si_sdr_of_orthogonal_noise_is_its_level():
    assert_allclose(si_sdr(HADAMARD[1], 4 * HADAMARD[1] + 0.4 * HADAMARD[2]), 20, rtol=1e-12, atol=0)
    assert_allclose(si_sdr(1e200 * HADAMARD[1], 1e-200 * (HADAMARD[1] + 10 * HADAMARD[2])), -20, rtol=1e-12, atol=0)


def test_si_sdr_at_the_limits():
    signal, other, silence = HADAMARD[1], HADAMARD[2], np.zeros(8)
    reference = np.array([silence, signal, silence, signal, signal])
    estimate = np.array([signal, silence, silence, 3 * signal, other])
    assert_array_equal(si_sdr(reference, estimate), [np.nan, np.nan, np.nan, np.inf, -np.inf])
    constant, ramp = np.full(7, 0.1), np.arange(-3.0, 4.0)  # rounding makes 0.1 - mean(0.1) other than zero here
    assert np.isnan(si_sdr(constant, ramp, zero_mean=True))
    assert si_sdr(constant, ramp) < -300


@pytest.mark.parametrize(
    ("reference", "estimate", "message"),
    [
        (np.ones((2, 9)), np.ones(9), r"same shape, got \(2, 9\) and \(9,\)"),
        (np.ones((2, 0)), np.ones((2, 0)), r"signals with samples, got shape \(2, 0\)"),
        (1.0, 1.0, r"signals with samples, got shape \(\)"),
        (np.ones(9), np.full(9, np.nan), r"estimate: expected finite samples"),
    ],
)
def test_si_sdr_says_what_is_wrong(reference, estimate, message):
    with pytest.raises(InputError, match=message):
        si_sdr(reference, estimate)
