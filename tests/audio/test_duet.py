"""The duet: what is played, what may be learned from, and that the two share nothing."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from unveil.audio.duet import FADE_SECONDS, make_duet
from unveil.errors import InputError

RATE = 1000
CUT = 2000  # samples for training: 2 s
LENGTHS = {"bass": 0.8, "flute": 0.45}


def coded_notes():
    """Each sample of a recording is its own index: so what is played says where it is from."""
    return {"bass": [np.arange(1.0, 4001), np.arange(1.0, 5001)], "flute": [np.arange(1.0, 3001)]}


@pytest.fixture(scope="module")
def coded():
    return make_duet(coded_notes(), RATE, note_seconds=LENGTHS, seconds=20.0, seed=3)


def test_not_one_sample_of_the_training_is_played(coded):
    fade = int(FADE_SECONDS * RATE)
    for name, part in coded.parts.items():
        length, heard = int(LENGTHS[name] * RATE), []
        for start in range(0, len(part) - length + 1, length):
            plateau = part[start + fade : start + length - fade]
            step = np.diff(plateau)
            assert_allclose(step, step[0], rtol=1e-6, atol=0)
            codes = plateau / step[0]
            assert_allclose(codes, np.round(codes), rtol=0, atol=1e-3)
            heard += [codes[0] - fade, codes[-1] + fade]  # the faded samples around the plateau, too
        assert min(heard) > CUT
        assert max(heard) <= max(len(each) for each in coded_notes()[name])
        assert len(set(np.round(heard))) > 10


def test_training_is_the_beginning_of_every_recording(coded):
    for name, recordings in coded_notes().items():
        assert len(coded.training[name]) == len(recordings)
        for kept, recording in zip(coded.training[name], recordings, strict=True):
            assert_array_equal(kept, recording[:CUT])


def test_parts_are_equally_loud_and_add_up(duet):
    first, second = duet.parts.values()
    assert_allclose(first.std(), second.std(), rtol=1e-12, atol=0)
    assert_array_equal(duet.mixture, first + second)
    assert_allclose(np.abs(duet.mixture).max(), 0.9, rtol=1e-12, atol=0)
    assert {len(each) for each in (first, second, duet.mixture)} == {6 * duet.sample_rate}
    assert duet.sample_rate == 22050


def test_notes_fade_in_and_out(coded):
    length = int(LENGTHS["bass"] * RATE)
    starts = np.arange(0, len(coded.mixture), length)
    assert not coded.parts["bass"][starts].any()
    assert not coded.parts["bass"][starts + length - 1].any()


def test_the_seed_decides(coded):
    again = make_duet(coded_notes(), RATE, note_seconds=LENGTHS, seconds=20.0, seed=3)
    other = make_duet(coded_notes(), RATE, note_seconds=LENGTHS, seconds=20.0, seed=4)
    assert_array_equal(coded.mixture, again.mixture)
    assert np.abs(coded.mixture - other.mixture).max() > 0.1


def test_a_note_that_is_too_short_is_named():
    notes = coded_notes()
    notes["flute"].append(np.ones(CUT + 449))
    with pytest.raises(InputError, match=r"a note of flute is shorter than 2.45 s; leave it out"):
        make_duet(notes, RATE, note_seconds=LENGTHS)
