"""Sound that no model can make sense of is refused, and all other sound is not; so are files that are not whole."""

import numpy as np
import pytest
import soundfile

from unveil.data.files import audio_files, check_sound, read_audio
from unveil.errors import InputError


def with_peaks(n_runs, run=3, peak=1.0, n_samples=10_002):
    """Noise below 0.5 with runs of equal samples at the peak."""
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, size=n_samples)
    for i in range(n_runs):
        samples[50 * i : 50 * i + run] = peak * (-1) ** i
    return samples


def is_clipped(samples):
    try:
        check_sound(samples, "x")
    except InputError as error:
        return str(error).startswith("x: clipped, ")
    return False


@pytest.mark.parametrize(
    ("samples", "clipped"),
    [
        (with_peaks(0), False),
        (with_peaks(10), False),  # 10 of 10000 triples: one in a thousand
        (with_peaks(11), True),
        (with_peaks(5, run=4), False),  # a run of four is two triples
        (with_peaks(6, run=4), True),
        (with_peaks(200, run=2), False),  # two equal samples can be a sine's own
        (with_peaks(200, peak=0.98), False),  # not at full scale
        (with_peaks(200, peak=0.99), True),
        (with_peaks(200, peak=1.7), True),  # clipped, then amplified
        (np.stack([with_peaks(0), with_peaks(200)]), True),  # in one of the channels
        (np.sin(np.arange(100_000) * 0.05), False),
        (np.clip(1.5 * np.sin(np.arange(100_000) * 0.05), -1, 1), True),
        (np.array([1.0]), False),
        (np.array([1.0, 1.0]), False),
    ],
)
@pytest.mark.filterwarnings("error")
def test_clipping_is_long_stretches_at_full_scale(samples, clipped):
    assert is_clipped(samples) == clipped
    check_sound(samples, "x", allow_clipped=True)


@pytest.mark.parametrize("samples", [np.zeros(100), np.zeros((2, 100)), np.zeros(0)])
@pytest.mark.parametrize("allow_clipped", [False, True])
def test_silence_is_refused(samples, allow_clipped):
    with pytest.raises(InputError, match="x: silent, every sample is zero; check the recording"):
        check_sound(samples, "x", allow_clipped=allow_clipped)


def test_real_music_passes_at_full_level_and_not_when_it_was_recorded_too_loud(notes):
    for recording in [each for group in notes[0].values() for each in group]:
        full = recording / np.abs(recording).max()
        assert not is_clipped(full)
        assert not is_clipped(np.round(full * 32767) / 32767)
        assert is_clipped(np.clip(4 * full, -1, 1))


def test_real_recordings_pass(real_data):
    for folder in ("instruments", "spoken_digits", "librispeech"):
        files = audio_files(real_data / folder)
        for path in files[:: max(1, len(files) // 15)]:
            samples, _ = read_audio(path)
            assert not is_clipped(samples / np.abs(samples).max())


@pytest.mark.parametrize(("suffix", "settings"), [("wav", {}), ("aiff", {}), ("wav", {"endian": "BIG"})])
@pytest.mark.parametrize("kept", [0.3, 0.9, 0.995])
def test_a_file_that_is_cut_short_is_refused(tmp_path, suffix, settings, kept):
    path = tmp_path / f"x.{suffix}"
    soundfile.write(path, np.linspace(-0.5, 0.5, 4000), 8000, **settings)
    whole = path.read_bytes()
    assert read_audio(path)[0].shape == (1, 4000)
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(
        InputError, match=rf"x.{suffix}: cut short, {int(kept * len(whole))} of {len(whole)} bytes; copy the file again"
    ):
        read_audio(path)


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFF024, 0])
def test_a_recording_written_to_a_pipe_is_read(tmp_path, size):
    path = tmp_path / "x.wav"
    soundfile.write(path, np.linspace(-0.5, 0.5, 4000), 8000)
    content = bytearray(path.read_bytes())
    content[4:8] = size.to_bytes(4, "little")
    path.write_bytes(content)
    assert read_audio(path)[0].shape == (1, 4000)
