"""Sound in and out, and writes that either happen or leave no trace."""

import errno
import os
import stat

import numpy as np
import pytest
import soundfile
from numpy.testing import assert_allclose, assert_array_equal

from unveil.data.files import (
    atomic_path,
    atomic_paths,
    audio_files,
    check_sound,
    check_writable,
    is_audio,
    open_audio,
    read_audio,
    read_samples,
    resample,
    write_audio,
)
from unveil.errors import InputError

RATE = 8000


def tone(n_samples=4000, frequency=440.0, amplitude=0.5, rate=RATE):
    return amplitude * np.sin(2 * np.pi * frequency * np.arange(n_samples) / rate)


# ---- there and back ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
@pytest.mark.parametrize("n_channels", [1, 2, 3])
def test_sound_comes_back_to_24_bits(tmp_path, suffix, n_channels):
    samples = np.stack([tone(frequency=300.0 + 100 * c) for c in range(n_channels)])
    write_audio(tmp_path / f"x{suffix}", samples, RATE)
    back, rate = read_audio(tmp_path / f"x{suffix}")
    assert (rate, back.dtype, back.shape) == (RATE, np.float64, (n_channels, 4000))
    assert_allclose(back, samples, rtol=0, atol=2**-23)
    assert soundfile.info(tmp_path / f"x{suffix}").subtype == "PCM_24"


def test_one_channel_may_be_given_flat(tmp_path):
    write_audio(tmp_path / "x.wav", tone(), RATE)
    assert read_audio(tmp_path / "x.wav")[0].shape == (1, 4000)
    assert_allclose(read_audio(tmp_path / "x.wav", mono=True)[0], tone(), rtol=0, atol=2**-23)


def test_mono_is_the_mean_of_the_channels(tmp_path):
    left, right = tone(), tone(frequency=700.0, amplitude=0.1)
    write_audio(tmp_path / "x.wav", np.stack([left, right]), RATE)
    assert_allclose(read_audio(tmp_path / "x.wav", mono=True)[0], (left + right) / 2, rtol=0, atol=2**-23)


def test_what_is_beyond_full_scale_is_not_clipped(tmp_path):
    samples = tone(amplitude=3.0)
    write_audio(tmp_path / "x.wav", samples, RATE)
    assert_allclose(read_audio(tmp_path / "x.wav", mono=True)[0], samples, rtol=1e-6, atol=0)


@pytest.mark.parametrize("target", [4000, 11025, 16000, 44100])
def test_resampled_sound_is_the_same_sound(tmp_path, target):
    write_audio(tmp_path / "x.wav", np.stack([tone(), -tone()]), RATE)
    samples, rate = read_audio(tmp_path / "x.wav", target)
    assert rate == target
    expected = tone(n_samples=samples.shape[1], rate=target)
    assert abs(samples.shape[1] - 4000 * target / RATE) <= 1
    inner = slice(target // 20, -target // 20)  # at its ends, a sine that is cut off is not band limited
    assert_allclose(samples[0, inner], expected[inner], rtol=0, atol=1e-3)
    assert_allclose(samples[1], -samples[0], rtol=0, atol=1e-6)


def test_the_rate_that_it_has_already_changes_nothing(tmp_path):
    write_audio(tmp_path / "x.wav", tone(), RATE)
    assert_array_equal(read_audio(tmp_path / "x.wav", RATE)[0], read_audio(tmp_path / "x.wav")[0])
    samples = tone()
    assert resample(samples, RATE, RATE) is samples


def test_a_result_replaces_an_older_one(tmp_path):
    write_audio(tmp_path / "x.wav", tone(), RATE)
    write_audio(tmp_path / "x.wav", tone(100), RATE)
    assert read_audio(tmp_path / "x.wav")[0].shape == (1, 100)
    assert os.listdir(tmp_path) == ["x.wav"]


@pytest.mark.parametrize(("start", "stop"), [(0, None), (0, 10), (100, 4000), (3990, 5000), (500, 500)])
def test_a_stretch_of_an_open_sound(tmp_path, start, stop):
    write_audio(tmp_path / "x.wav", np.stack([tone(), -tone()]), RATE)
    with open_audio(tmp_path / "x.wav") as file:
        file.read(7)
        found = read_samples(file, start, stop)
    assert found.shape == (2, len(tone()[start:stop]))
    assert_allclose(found[0], tone()[start:stop], rtol=0, atol=2**-23)


class Short:
    """An open sound that has fewer samples than it says."""

    name, frames = "x.ogg", 100

    def tell(self):
        return 0

    def seek(self, start):
        return start

    def read(self, n_samples, **options):
        return np.zeros((min(n_samples, 50), 2))


@pytest.mark.parametrize(("start", "there"), [(0, 50), (40, 90)])
def test_a_sound_with_fewer_samples_than_it_says(start, there):
    with pytest.raises(InputError, match=f"x.ogg: cut short, {there} of 100 samples; copy the file again"):
        read_samples(Short(), start)
    assert read_samples(Short(), 0, 50).shape == (2, 50)


# ---- finding sound -------------------------------------------------------------------------------------------------------


def test_sound_is_found_by_its_name_at_any_depth(tmp_path):
    for name in ("b.WAV", "a.flac", "deeper/c.ogg", "notes.txt", "wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.wav").mkdir()
    assert [str(path.relative_to(tmp_path)) for path in audio_files(tmp_path)] == ["a.flac", "b.WAV", "deeper/c.ogg"]
    assert audio_files(tmp_path / "notes.txt") == [tmp_path / "notes.txt"]
    assert is_audio("x.Mp3")
    assert not is_audio("x.npy")


def test_folders_without_sound(tmp_path):
    with pytest.raises(InputError, match="no sound files in it; expected names that end in"):
        audio_files(tmp_path)
    with pytest.raises(InputError, match="no such file or folder"):
        audio_files(tmp_path / "nothing")


# ---- sound that cannot be used -------------------------------------------------------------------------------------------


def refused(path, message):
    with pytest.raises(InputError, match=message) as caught:
        read_audio(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_missing_and_empty_files(tmp_path):
    refused(tmp_path / "x.wav", "no such file")
    refused(tmp_path, "no such file")
    (tmp_path / "x.wav").touch()
    refused(tmp_path / "x.wav", r"the file is empty \(0 bytes\)")


@pytest.mark.parametrize("name", ["x.wav", "x.flac", "x.ogg", "x.mp3"])
def test_text_under_the_name_of_a_sound(tmp_path, name):
    (tmp_path / name).write_text("I am a letter, not a sound.\n" * 20)
    refused(tmp_path / name, "not a sound file that can be read|holds no samples|cannot be decoded")


@pytest.mark.parametrize("keep", [10, 44])
def test_a_wav_cut_short_in_its_header(tmp_path, keep):
    soundfile.write(tmp_path / "x.wav", tone(), RATE, subtype="PCM_16")
    content = (tmp_path / "x.wav").read_bytes()
    (tmp_path / "x.wav").write_bytes(content[:keep])
    refused(tmp_path / "x.wav", f"cut short, {keep} of {len(content)} bytes; copy the file again")


@pytest.mark.parametrize("form", [".wav", ".aiff"])
@pytest.mark.parametrize("missing", [9, 100, 4000])
def test_samples_that_are_missing_at_the_end(tmp_path, form, missing):
    path = tmp_path / f"x{form}"
    soundfile.write(path, tone(), RATE, subtype="PCM_16")
    content = path.read_bytes()
    path.write_bytes(content[:-missing])
    refused(path, f"cut short, {len(content) - missing} of {len(content)} bytes")


def test_headers_that_promise_no_length_are_believed(tmp_path):
    """Writers to a pipe cannot know it, and say 4 GB."""
    soundfile.write(tmp_path / "x.wav", tone(), RATE, subtype="PCM_16")
    content = (tmp_path / "x.wav").read_bytes()
    (tmp_path / "x.wav").write_bytes(content[:4] + b"\xff\xff\xff\xff" + content[8:])
    assert_allclose(read_audio(tmp_path / "x.wav", mono=True)[0], tone(), rtol=0, atol=2**-15)


def test_a_flac_cut_short(tmp_path):
    soundfile.write(tmp_path / "x.flac", np.random.default_rng(0).normal(size=40_000) * 0.1, RATE)
    content = (tmp_path / "x.flac").read_bytes()
    (tmp_path / "x.flac").write_bytes(content[: len(content) // 2])
    refused(tmp_path / "x.flac", "cut short, [0-9]+ of 40000 samples|cannot be decoded")


def test_a_wav_without_samples(tmp_path):
    soundfile.write(tmp_path / "x.wav", np.zeros(0), RATE)
    refused(tmp_path / "x.wav", "holds no samples")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_samples_that_are_not_finite(tmp_path, value):
    samples = tone()
    samples[100] = value
    soundfile.write(tmp_path / "x.wav", samples, RATE, subtype="FLOAT")
    refused(tmp_path / "x.wav", "NaN or infinite samples")


def test_silence_is_refused():
    with pytest.raises(InputError, match="song: silent, every sample is zero"):
        check_sound(np.zeros((2, 100)), "song")


@pytest.mark.parametrize("channels", [1, 2])
def test_clipped_sound_is_refused_unless_allowed(channels):
    samples = np.clip(tone(amplitude=1.5), -1.0, 1.0)
    samples = samples if channels == 1 else np.stack([tone(), samples])
    with pytest.raises(InputError, match=r"song: clipped, [0-9.]+% of its samples"):
        check_sound(samples, "song")
    check_sound(samples, "song", allow_clipped=True)


def test_sound_as_it_should_be_passes():
    check_sound(tone(), "song")
    check_sound(tone(amplitude=1.0), "song")  # full scale, but not flat there
    check_sound(0.5 * np.clip(tone(amplitude=1.5), -1.0, 1.0), "song")  # flat, but below full scale


def test_a_few_clipped_samples_pass():
    """20 equal samples are 18 runs of three, of the 18 998 or so that there are; one in a thousand may be."""
    samples = tone(19_000)
    samples[:20] = 1.0
    check_sound(samples, "song")
    samples[:21] = 1.0
    with pytest.raises(InputError, match="clipped"):
        check_sound(samples, "song")


# ---- writes --------------------------------------------------------------------------------------------------------------


def assert_only(folder, **contents):
    """The folder holds files of these names and texts, and nothing else: no temporary file either."""
    assert {path.name: path.read_text() for path in folder.iterdir()} == {f"{stem}.txt": text for stem, text in contents.items()}


def write(path, text):
    with atomic_path(path) as temporary:
        temporary.write_text(text)


def write_half(path, error):
    with atomic_path(path) as temporary:
        temporary.write_text("new")
        raise error


def write_all(paths, text):
    with atomic_paths(paths) as temporary:
        for path in temporary:
            path.write_text(text)


def test_a_block_that_succeeds_writes_its_target(tmp_path):
    with atomic_path(tmp_path / "x.txt") as temporary:
        temporary.write_text("new")
        assert not (tmp_path / "x.txt").exists()
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".txt"
    assert_only(tmp_path, x="new")


def test_folders_are_made(tmp_path):
    with atomic_path(tmp_path / "a" / "b" / "x.txt") as temporary:
        temporary.write_text("new")
    assert_only(tmp_path / "a" / "b", x="new")


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, InputError])
def test_a_block_that_fails_leaves_the_target_as_it_was(tmp_path, kind):
    (tmp_path / "x.txt").write_text("old")
    with pytest.raises(kind, match="half way"):
        write_half(tmp_path / "x.txt", kind("half way"))
    assert_only(tmp_path, x="old")


def test_a_block_that_fails_leaves_nothing_where_nothing_was(tmp_path):
    with pytest.raises(ZeroDivisionError):
        write_half(tmp_path / "x.txt", ZeroDivisionError())
    assert_only(tmp_path)


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_said_to_be_full(tmp_path, monkeypatch, call, code):
    def fail(*arguments):
        raise OSError(code, os.strerror(code))

    (tmp_path / "x.txt").write_text("old")
    monkeypatch.setattr(os, call, fail)
    with pytest.raises(InputError, match=r"cannot write .*x.txt: the disk is full; free some space"):
        write(tmp_path / "x.txt", "new")
    assert_only(tmp_path, x="old")


def test_a_disk_that_fills_up_while_sound_is_written(tmp_path, monkeypatch):
    def fail(path, *arguments, **options):
        path.write_bytes(b"RIFF")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(soundfile, "write", fail)
    with pytest.raises(InputError, match="the disk is full"):
        write_audio(tmp_path / "x.wav", tone(), RATE)
    assert os.listdir(tmp_path) == []


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("old")
    with pytest.raises(InputError, match=r"cannot write .*x.txt: .*file is not a folder, and cannot become one"):
        write(tmp_path / "file" / "x.txt", "new")
    assert (tmp_path / "file").read_text() == "old"


def test_a_folder_that_may_not_be_written_to(tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("tempfile.mkstemp", fail)
    with pytest.raises(InputError, match=r"cannot write .*x.txt: Permission denied; choose a folder"):
        write(tmp_path / "x.txt", "new")


def test_a_target_that_is_a_folder(tmp_path):
    (tmp_path / "x.txt").mkdir()
    with pytest.raises(InputError, match=r"cannot write .*x.txt: it is a folder; give the name of a file"):
        write(tmp_path / "x.txt", "new")
    assert os.listdir(tmp_path) == ["x.txt"]


def test_a_sound_of_an_unknown_kind_is_not_written(tmp_path):
    with pytest.raises((InputError, TypeError, ValueError)):
        write_audio(tmp_path / "x.xyz", tone(), RATE)
    assert os.listdir(tmp_path) == []


def test_several_files_are_written_together(tmp_path):
    with atomic_paths([tmp_path / "x.txt", tmp_path / "y.txt"]) as temporary:
        for path, text in zip(temporary, ("one", "two"), strict=True):
            path.write_text(text)
        assert not (tmp_path / "x.txt").exists()
    assert_only(tmp_path, x="one", y="two")


@pytest.mark.parametrize("failing", [1, 2])
def test_of_several_files_none_is_written_when_one_cannot_be(tmp_path, monkeypatch, failing):
    (tmp_path / "x.txt").write_text("old")
    calls, fsync = [], os.fsync

    def fail_at_last(handle):
        calls.append(handle)
        if len(calls) == failing:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", fail_at_last)
    with pytest.raises(InputError, match=f"cannot write .*{'xy'[failing - 1]}.txt: the disk is full"):
        write_all([tmp_path / "x.txt", tmp_path / "y.txt"], "new")
    assert_only(tmp_path, x="old")


def test_whether_a_target_can_be_written_is_known_before(tmp_path):
    check_writable(tmp_path / "a" / "x.txt")
    assert list((tmp_path / "a").iterdir()) == []
    (tmp_path / "x.txt").write_text("old")
    check_writable(tmp_path / "x.txt")
    assert (tmp_path / "x.txt").read_text() == "old"
    with pytest.raises(InputError, match="it is a folder; give the name of a file"):
        check_writable(tmp_path / "a")
    with pytest.raises(InputError, match="is not a folder, and cannot become one"):
        check_writable(tmp_path / "x.txt" / "y.txt")


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_results_are_as_readable_as_other_files(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        write(tmp_path / "x.txt", "new")
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x.txt").stat().st_mode) == mode
