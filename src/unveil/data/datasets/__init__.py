"""Known data sets: where they are on this machine, how to get them, and how to read their original files.

Each is a subclass of ``KnownSet`` in one of the files of this folder; there is no list to edit.
"""

from __future__ import annotations

import os
from pathlib import Path

from unveil.data.datasets.dataset import Dataset, Recordings
from unveil.data.datasets.finding import Availability, availability, cache_folder, discover, find
from unveil.data.datasets.images import read_idx
from unveil.data.datasets.pen import PenDigit, normalize_trajectory, read_unipen, resample_trajectory

__all__ = [
    "Availability",
    "Dataset",
    "PenDigit",
    "Recordings",
    "available",
    "cache_folder",
    "fetch",
    "load",
    "normalize_trajectory",
    "read_idx",
    "read_unipen",
    "resample_trajectory",
]


def load(name: str, *, folder: str | os.PathLike | None = None, **options) -> Dataset:
    """Load a known data set.

    It is looked for in ``folder``; else in the folder ``<name>`` of the folder that the environment variable UNVEIL_DATA names;
    else in the cache; else it is downloaded into the cache, where a public address is known for it.

    Parameters
    ----------
    name : str
        One of those that `available` lists.
    folder : path, optional
        The folder that holds this set's original files; nothing else is then looked at.
    **options
        By data set: the parameters of its ``read``, in the modules `notes`, `pen`, `speech` and so on of this package.

    Raises
    ------
    ParameterError
        When the name, an option or its value is not known.
    InputError
        When the set is neither here nor can be downloaded, or a file is not sound.

    Examples
    --------
    >>> notes = load("notes", instruments=["flute"])
    >>> len(notes.data), notes.sample_rate, notes.paths[0].stem
    (6, 22050, 'A4')
    """
    known, place, options = find(name, options, folder)
    return known.read(place, **options)


def fetch(name: str, **options) -> Path:
    """The folder that holds a data set, after downloading the set if need be; of the options, those that choose files matter."""
    return find(name, options)[1]


def available() -> list[Availability]:
    """Every known data set, in one line each, and where it is on this machine; nothing is downloaded.

    Examples
    --------
    >>> available()[0].name, available()[0].status
    ('notes', 'packaged')
    """
    return [availability(known) for known in discover().values()]
