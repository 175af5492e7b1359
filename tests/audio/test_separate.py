"""Separation: the parts come out, they add up to the mixture, and chunks and files change nothing."""

import itertools
import os
import tracemalloc

import numpy as np
import pytest
import soundfile
import torch
from numpy.testing import assert_allclose, assert_array_equal

import unveil
from unveil.audio import separate as module
from unveil.audio.separate import Separator, check_file, check_signal, read_beginning, read_examples
from unveil.errors import InputError, ParameterError
from unveil.metrics.bss import bss_eval
from unveil.models.gaussian_mixture import GaussianMixture
from unveil.models.nmf import NMF

RATE = 8000


def snr_db(reference, estimate):
    """10 log10 of the energy of the reference over that of the error: no gain, no filter is forgiven."""
    return 10 * np.log10((reference**2).sum() / ((estimate - reference) ** 2).sum())


def write(path, samples, rate=RATE, **settings):
    soundfile.write(path, np.asarray(samples).T, rate, **({"subtype": "FLOAT"} | settings))
    return path


@pytest.fixture
def short_chunks(monkeypatch):
    monkeypatch.setattr(module, "CHUNK_SECONDS", 1.0)
    monkeypatch.setattr(module, "OVERLAP_SECONDS", 0.25)


def test_tones_come_out(tones):
    parts, examples = tones
    mixture = parts["low"] + parts["high"]
    before = mixture.copy(), {name: x.copy() for name, x in examples.items()}
    states = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002  (to see that it is left alone)
    estimates = unveil.separate(mixture, RATE, examples, model=NMF(2, max_iter=60, random_state=0))
    assert list(estimates) == ["low", "high"]
    for name, part in parts.items():
        assert snr_db(part, mixture) < 6
        assert snr_db(part, estimates[name]) > 25
    assert_allclose(estimates["low"] + estimates["high"], mixture, rtol=0, atol=1e-10)
    assert_array_equal(mixture, before[0])
    assert all(np.array_equal(examples[name], before[1][name]) for name in examples)
    assert torch.equal(states[0], torch.get_rng_state())
    assert_array_equal(states[1], np.random.get_state()[1])  # noqa: NPY002


def test_a_duet_of_real_notes_comes_out(duet):
    separator = Separator.learn(duet.training, duet.sample_rate, model=NMF(10, max_iter=40, random_state=0))
    estimates = separator(duet.mixture)
    assert_allclose(sum(estimates.values()), duet.mixture, rtol=0, atol=1e-10)
    truth = np.stack(list(duet.parts.values()))
    mixed = bss_eval(truth, np.stack([duet.mixture] * 2), permute=False)
    found = bss_eval(truth, np.stack([estimates[name] for name in duet.parts]), permute=False)
    assert (mixed.sdr < 3).all()
    assert (found.sdr > 15).all()
    assert (found.sir > 20).all()


@pytest.mark.parametrize("shape", [(16000,), (1, 16000), (2, 16000), (3, 16000)])
def test_estimates_have_the_mixtures_shape_and_add_up_to_it(separator, tones, shape):
    noise = 0.05 * np.random.default_rng(1).normal(size=shape)
    mixture = noise + (tones[0]["low"] + tones[0]["high"])[:16000]
    estimates = separator(mixture)
    assert {each.shape for each in estimates.values()} == {shape}
    assert_allclose(estimates["low"] + estimates["high"], mixture, rtol=0, atol=1e-10)


def test_channels_are_taken_apart_by_themselves(separator, tones):
    low, high = (tones[0][name][:16000] for name in ("low", "high"))
    left, right = low + 0.2 * high, 0.3 * high
    together = separator(np.stack([left, right]))
    for channel, alone in enumerate((left, right)):
        for name, estimate in separator(alone).items():
            assert_allclose(together[name][channel], estimate, rtol=0, atol=1e-3)  # as far as the floor, which they share
    assert snr_db(np.stack([low, 0 * low]), together["low"]) > 25


def test_silent_channels_and_stretches_stay_silent(separator, tones, short_chunks):
    mixture = np.stack([tones[0]["low"], 0 * tones[0]["low"]])
    mixture[:, 8000:20000] = 0.0
    for estimate in separator(mixture).values():
        assert not estimate[1].any()
        assert not estimate[:, 12000:18000].any()


def test_chunks_change_next_to_nothing(separator, tones, monkeypatch):
    mixture = tones[0]["low"] + tones[0]["high"]
    whole = separator(mixture)
    monkeypatch.setattr(module, "CHUNK_SECONDS", 1.0)
    monkeypatch.setattr(module, "OVERLAP_SECONDS", 0.25)
    calls = []
    plain = Separator._separate_chunk
    monkeypatch.setattr(Separator, "_separate_chunk", lambda self, x: calls.append(x.shape[-1]) or plain(self, x))
    pieces = separator(mixture)
    assert calls == [8000, 8000, 8000, 8000, 8000]
    for name in whole:
        assert snr_db(whole[name], pieces[name]) > 30
    assert_allclose(pieces["low"] + pieces["high"], mixture, rtol=0, atol=1e-10)


@pytest.mark.parametrize("n_samples", [1, 5, 24, 25, 26, 74, 75, 76, 99, 100, 101, 124, 125, 126, 175, 176, 250, 1000, 1003])
def test_chunks_join_without_a_seam_at_any_length(monkeypatch, n_samples):
    monkeypatch.setattr(module, "CHUNK_SECONDS", 1.0)
    monkeypatch.setattr(module, "OVERLAP_SECONDS", 0.25)
    monkeypatch.setattr(Separator, "_separate_chunk", lambda self, x: np.stack([0.25 * x, 0.75 * x]))
    sizes, progress = [], []
    separator = Separator({"a": None, "b": None}, sample_rate=100, n_fft=64, hop=16)
    mixture = np.random.default_rng(n_samples).normal(size=(2, n_samples))

    def read(start, stop):
        sizes.append(stop - start)
        return mixture[:, start:stop]

    joined = np.concatenate(list(separator._stream(read, n_samples, progress.append)), axis=-1)
    assert_allclose(joined, np.stack([0.25 * mixture, 0.75 * mixture]), rtol=0, atol=1e-12)
    assert max(sizes) <= 100
    assert progress == sorted(progress)
    assert progress[-1] == 1.0 or n_samples <= 100


def test_neighbouring_chunks_fade_into_each_other(monkeypatch):
    monkeypatch.setattr(module, "CHUNK_SECONDS", 1.0)
    monkeypatch.setattr(module, "OVERLAP_SECONDS", 0.25)
    levels = itertools.count()
    monkeypatch.setattr(Separator, "_separate_chunk", lambda self, x: np.full((1, *x.shape), float(next(levels))))
    separator = Separator({"a": None}, sample_rate=100, n_fft=64, hop=16)
    joined = np.concatenate(list(separator._stream(lambda start, stop: np.ones((1, stop - start)), 250, print)), axis=-1)[0, 0]
    ramp = np.arange(1, 26) / 26
    expected = np.concatenate([np.zeros(75), ramp, np.ones(50), 1 + ramp, np.full(75, 2.0)])
    assert_allclose(joined, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("rate", "shape"), [(8000, (1, 20000)), (11025, (2, 20001))])
def test_files_keep_rate_channels_and_length(tmp_path, tones, short_chunks, rate, shape):
    separator = Separator.learn(tones[1], rate, model=NMF(2, max_iter=20, random_state=0))
    mixture = np.random.default_rng(0).normal(size=shape).astype(np.float32) * 0.1
    written = separator.separate_file(write(tmp_path / "mix.wav", mixture, rate), tmp_path / "out")
    assert written == {name: tmp_path / "out" / f"{name}.wav" for name in ("low", "high")}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["high.wav", "low.wav"]
    inside = separator(mixture.astype(np.float64))
    for name, path in written.items():
        info = soundfile.info(path)
        assert (info.samplerate, info.channels, info.frames, info.format) == (rate, *shape, "WAV")
        assert_allclose(soundfile.read(path, always_2d=True)[0].T, inside[name], rtol=0, atol=1e-6)


def test_memory_does_not_grow_with_length(tmp_path, monkeypatch, short_chunks):
    monkeypatch.setattr(Separator, "_separate_chunk", lambda self, x: np.stack([0.5 * x, 0.5 * x]))  # arrays, which can be counted
    separator = Separator({"a": None, "b": None}, RATE, n_fft=256, hop=64)
    n_read, peaks = [], []
    plain = soundfile.SoundFile.read
    monkeypatch.setattr(
        soundfile.SoundFile, "read", lambda self, n=-1, *rest, **more: n_read.append(n) or plain(self, n, *rest, **more)
    )
    for seconds in (20, 120):
        path = write(tmp_path / f"{seconds}.wav", np.full(seconds * RATE, 0.25))
        tracemalloc.start()
        check_file(path)
        written = separator.separate_file(path, tmp_path / "out")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert 0 < min(n_read) <= max(n_read) <= RATE  # never a whole file, which is -1
        assert_array_equal(soundfile.read(written["b"])[0], np.full(seconds * RATE, 0.125))
        n_read.clear()
    assert peaks[1] < 1.2 * peaks[0]
    assert peaks[1] < 120 * RATE * 8 / 2


def test_a_failure_leaves_what_was_there(tmp_path, separator, tones, monkeypatch, short_chunks):
    path = write(tmp_path / "mix.wav", tones[0]["low"])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "low.wav").write_text("precious")
    plain, calls = Separator._separate_chunk, itertools.count()

    def fail_at_the_third(self, channels):
        if next(calls) == 2:
            raise InputError("the third chunk")
        return plain(self, channels)

    monkeypatch.setattr(Separator, "_separate_chunk", fail_at_the_third)
    with pytest.raises(InputError, match="the third chunk"):
        separator.separate_file(path, tmp_path / "out")
    assert [each.name for each in (tmp_path / "out").iterdir()] == ["low.wav"]
    assert (tmp_path / "out" / "low.wav").read_text() == "precious"


def test_all_of_the_files_or_none(tmp_path, separator, tones, monkeypatch):
    path = write(tmp_path / "mix.wav", tones[0]["low"][:4000])
    synced, plain = [], os.fsync

    def full_at_the_second(descriptor):
        synced.append(descriptor)
        if len(synced) == 2:
            raise OSError(28, "No space left on device")
        plain(descriptor)

    monkeypatch.setattr(os, "fsync", full_at_the_second)
    with pytest.raises(InputError, match=r"cannot write .*wav: the disk is full; free some space"):
        separator.separate_file(path, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_file_of_another_rate_is_refused(tmp_path, separator, tones):
    path = write(tmp_path / "mix.wav", tones[0]["low"], 16000)
    with pytest.raises(InputError, match=r"mix.wav: has 16000 Hz, the sources were learned at 8000 Hz; resample one"):
        separator.separate_file(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_damaged_file_is_named_and_not_called_a_full_disk(tmp_path, separator, tones):
    whole = write(tmp_path / "whole.flac", tones[0]["low"], subtype="PCM_16")
    cut = tmp_path / "cut.flac"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    for work in (lambda: separator.separate_file(cut, tmp_path / "out"), lambda: check_file(cut), lambda: read_beginning(cut)):
        with pytest.raises(InputError, match=r"cut.flac: (cannot be decoded|cut short)"):
            work()
    assert not any((tmp_path / "out").glob("*"))


def test_learning_says_how_far_it_is_and_takes_every_form_of_examples(tones):
    progress, model = [], NMF(2, max_iter=20, random_state=0)
    low, high = tones[1]["low"], tones[1]["high"]
    listed = Separator.learn({"low": [low], "high": [high]}, RATE, model=model, on_progress=progress.append)
    stereo = Separator.learn({"low": np.stack([1.5 * low, 0.5 * low]), "high": high}, RATE, model=model)
    assert progress == [0.5, 1.0]
    assert not hasattr(model, "model_")
    for name in ("low", "high"):
        assert_allclose(stereo.models[name].components_, listed.models[name].components_, rtol=1e-9, atol=1e-12)


def test_a_window_is_the_power_of_two_nearest_to_150_ms():
    frequencies = {8000: 1024, 16000: 2048, 22050: 4096, 44100: 8192, 48000: 8192}
    for rate, n_fft in frequencies.items():
        noise = np.random.default_rng(0).normal(size=2 * n_fft)
        found = Separator.learn({"a": noise, "b": noise}, rate, model=NMF(1, max_iter=1, tol=0))
        assert (found.n_fft, found.hop) == (n_fft, n_fft // 4)


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ({}, "0 source is not a mixture; give clean examples of at least two"),
        ({"a": np.ones(999)}, "1 source is not a mixture; give clean examples of at least two"),
        ({"a": np.ones(999), "b": []}, "source 'b' has no examples; give at least one clean recording of it"),
        ({"a": np.ones(999), "b": [np.ones(99), np.zeros(99)]}, "example 1 of source 'b': silent, every sample is zero"),
        (
            {"a": np.ones((999, 2)), "b": np.ones(9)},
            r"example 0 of source 'a' has shape \(999, 2\), more channels than samples; transpose",
        ),
    ],
)
def test_sources_that_cannot_be_learned_from(sources, message):
    with pytest.raises(InputError, match=message):
        Separator.learn(sources, RATE)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros(100), "x: silent"),
        (np.zeros((0,)), r"x has shape \(0,\); expected \(n_samples,\) or \(n_channels, n_samples\)"),
        (np.ones((2, 2, 9)), r"x has shape \(2, 2, 9\); expected"),
        (np.array([1.0, np.nan, 1.0]), "x holds NaN or infinite samples; repair or export it again"),
        (np.array([1.0, np.inf]), "x holds NaN or infinite samples"),
    ],
)
def test_what_is_not_a_signal(samples, message):
    with pytest.raises(InputError, match=message):
        check_signal(samples, "x")


def test_a_model_that_cannot_explain_is_refused_before_it_learns(tones):
    with pytest.raises(
        ParameterError, match="model=GaussianMixture: expected an estimator that can explain a mixture, such as NMF"
    ):
        unveil.separate(tones[0]["low"][:2000], RATE, tones[1], model=GaussianMixture(1))


def test_examples_are_mono_at_the_wanted_rate_and_as_long_as_wanted(tmp_path, tones):
    low = tones[0]["low"]
    (tmp_path / "deep").mkdir()
    write(tmp_path / "b.wav", np.stack([low, np.zeros_like(low)]))
    write(tmp_path / "deep" / "a.flac", low, subtype="PCM_24")
    (tmp_path / "notes.txt").write_text("not sound")
    first, second = read_examples(tmp_path, RATE)
    assert_allclose(first, low / 2, rtol=0, atol=1e-7)
    assert_allclose(second, low, rtol=0, atol=1e-6)
    (short, _) = read_examples(tmp_path, 16000, seconds=0.5)
    assert short.shape == (8000,)
    assert snr_db(low[1000:3900] / 2, short[2000:7800:2]) > 40


def test_a_file_is_checked_to_its_end(tmp_path, tones, short_chunks):
    low = tones[0]["low"] / np.abs(tones[0]["low"]).max()
    assert check_file(write(tmp_path / "quiet at first.wav", np.concatenate([np.zeros(9000), low]))) == RATE
    loud_end = np.concatenate([low * 0.5, np.clip(2 * low, -1, 1)])
    path = write(tmp_path / "loud at last.wav", loud_end)
    with pytest.raises(InputError, match=r"loud at last.wav: clipped, .*% of its samples are cut off at full scale"):
        check_file(path)
    assert check_file(path, allow_clipped=True) == RATE
    broken = low.copy()
    broken[-1] = np.nan
    with pytest.raises(InputError, match=r"broken.wav: holds NaN or infinite samples; export it again"):
        check_file(write(tmp_path / "broken.wav", broken))
    with pytest.raises(InputError, match=r"silent.wav: silent, every sample is zero"):
        check_file(write(tmp_path / "silent.wav", 0 * low))


def test_the_beginning_is_the_first_minute_or_less(tmp_path):
    ramp = np.linspace(-0.5, 0.5, 1000).astype(np.float32)
    path = write(tmp_path / "ramp.wav", np.stack([ramp, -ramp]), 100)
    assert_array_equal(read_beginning(path, 2.5), np.stack([ramp, -ramp])[:, :250])
    assert_array_equal(read_beginning(path), np.stack([ramp, -ramp]))
