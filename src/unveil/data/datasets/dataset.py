"""What a data set is: known, with all that it takes to read it, and loaded."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from unveil.data.datasets.checks import check_count
from unveil.data.files import read_audio
from unveil.errors import InputError


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set in memory, or within reach.

    Attributes
    ----------
    data : sequence of ndarray, or ndarray
        The items: one array per sequence or recording, or one array with an item per row.
    target : ndarray of shape (n_items,), or None
        The known class of each item: integers, or names.
    sample_rate : int, or None
        Of recordings, in hertz.
    groups : ndarray of shape (n_items,), or None
        Who spoke or wrote each item: to keep a person out of training, or to compare people.
    group_info : dict
        What is known about each group; for LibriSpeech the speaker's sex, "F" or "M".
    paths : list of Path
        The file of each item, for data with a file per item.
    """

    name: str
    data: Sequence[np.ndarray] | np.ndarray = field(repr=False)
    target: np.ndarray | None = field(repr=False)
    description: str
    licence: str
    sample_rate: int | None = None
    groups: np.ndarray | None = field(default=None, repr=False)
    group_info: dict[str, str] = field(default_factory=dict, repr=False)
    paths: list[Path] = field(default_factory=list, repr=False)


class Recordings(Sequence):
    """Mono recordings that are read when they are asked for: ``recordings[i]`` is an array (n_samples,) of float64.

    They are resampled to the ``sample_rate`` in hertz, if it is given.
    """

    def __init__(self, paths: Sequence[str | os.PathLike], sample_rate: int | None = None):
        self.paths = [Path(path) for path in paths]
        self.sample_rate = sample_rate

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return Recordings(self.paths[index], self.sample_rate)
        return read_audio(self.paths[index], self.sample_rate, mono=True)[0]


def read_recordings(paths: list[Path], sample_rate: int | None) -> tuple[list[np.ndarray], int]:
    """Read mono recordings into memory; also the sample rate, which they must share."""
    check_count("sample_rate", sample_rate)
    data, rate = [], sample_rate
    for path in paths:
        samples, own = read_audio(path, sample_rate, mono=True)
        rate = rate or own
        if own != rate:
            raise InputError(f"{path}: {own} Hz, but {paths[0]} has {rate} Hz; give sample_rate= to resample them all")
        data.append(samples)
    return data, rate


class KnownSet(ABC):
    """How to find, download and read one data set; its *part* is the value of the option that chooses files."""

    name: str
    summary: str
    licence: str
    origin: str  # what to get and from where: the first half of the remedy when the set is missing
    rank: int = 9  # place in the list of all sets; those of the same rank are sorted by name
    part_option: str | None = None
    files: Mapping[str, tuple[str, ...]] = {}  # of each part; empty: any name may be a part
    packaged: Path | None = None

    @abstractmethod
    def read(self, folder: Path, **options) -> Dataset:
        """Read from a folder that holds the part; the parameters after the folder are the options of `load`."""

    def holds(self, folder: Path, part: str | None) -> bool:
        """Whether a folder has every file of a part, or with None every file of any part."""
        parts = self.files.values() if part is None else [self.files[part]]
        return any(all((folder / name).is_file() for name in names) for names in parts)

    def downloads(self, part: str | None) -> dict[str, str]:
        """The checksums of what to download for a part, by address; nothing where no public address is known."""
        return {}

    def dataset(self, data, target=None, **fields) -> Dataset:
        """Put the name, the summary and the licence to what was read."""
        return Dataset(self.name, data, target, self.summary, self.licence, **fields)
