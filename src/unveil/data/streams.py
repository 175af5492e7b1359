"""Batches from files, read piece by piece: arrays (.npy, .npz), tables (Parquet, CSV), and spectra of sound files."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from io import BytesIO
from itertools import groupby
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from unveil.data.batch import Batches, MemoryRows, Rows
from unveil.data.files import audio_files, check_sound, is_audio, open_audio, read_audio
from unveil.data.layout import as_rows, check_lengths, offsets_of
from unveil.data.text_tables import read_text_table
from unveil.errors import InputError
from unveil.kernels.stft import n_frames, stft, window_length

TABLE_SUFFIXES = (".npy", ".npz", ".parquet", ".csv", ".tsv", ".txt")
SEQUENCE_COLUMN = "sequence"
MOST_IN_COLUMN_ORDER = 1 << 30  # bytes


def open_batches(path: str | os.PathLike, *, sample_rate: int = 16000) -> Batches:
    """Batches of the data in a file or a folder; memory does not depend on how much there is.

    Parameters
    ----------
    path : path
        ``.npy``: a table (rows, columns), or (sequences, steps, columns).
        ``.npz``: one table for each sequence; or one array ``values`` with ``lengths`` (or ``offsets``) of its sequences.
        ``.parquet``: numeric columns; a column named ``sequence`` tells which rows belong together.
        ``.csv``, ``.tsv``, ``.txt``: a table, with or without names in its first line; read into memory.
        An empty cell, or NA, is a missing value.
        A sound file, or a folder with sound files: the magnitude spectra of each, a sequence.
        A folder of tables: each a sequence.
    sample_rate : int
        To which sound is resampled, in hertz.

    Returns
    -------
    Batches

    Raises
    ------
    InputError
        When there is no such file, or it cannot be used.
    """
    path = Path(path)
    if path.is_dir():
        return _open_folder(path, sample_rate)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder; check the name")
    if is_audio(path):
        return _open_sounds([path], sample_rate)
    if path.suffix.lower() not in TABLE_SUFFIXES:
        raise InputError(f"{path}: unknown kind of file; expected sound, or one of {', '.join(TABLE_SUFFIXES)}")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty (0 bytes); write it again")
    return {
        ".npy": _open_npy,
        ".npz": _open_npz,
        ".parquet": _open_parquet,
    }.get(path.suffix.lower(), _open_text)(path)


def holds_sound(path: Path) -> bool:
    """Whether a file, or a folder, would be opened as sound."""
    return not _tables_in(path) if path.is_dir() else is_audio(path)


def _tables_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in (".npy", ".parquet", ".csv", ".tsv"))


def _open_folder(folder: Path, sample_rate: int) -> Batches:
    tables = _tables_in(folder)
    if not tables:
        return _open_sounds(audio_files(folder), sample_rate)
    parts = [open_batches(table) for table in tables]
    widths = {part.n_features for part in parts}
    if len(widths) > 1:
        odd = next(table for table, part in zip(tables, parts, strict=True) if part.n_features != parts[0].n_features)
        raise InputError(f"{odd}: has other columns than {tables[0].name}; give all sequences the same features")
    lengths = np.concatenate([np.diff(_offsets(part)) for part in parts])
    return Batches(JoinedRows([part.rows for part in parts]), offsets_of(lengths))


def _offsets(batches: Batches) -> np.ndarray:
    assert batches.offsets is not None
    return batches.offsets


def _open_npy(path: Path) -> Batches:
    rows = NpyRows(partial(open, path, "rb"), str(path))
    return Batches(rows, offsets_of([rows.sequence_length] * (rows.n_rows // rows.sequence_length)))


def _open_npz(path: Path) -> Batches:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
    except zipfile.BadZipFile as error:
        raise InputError(f"{path}: damaged or cut short, not a .npz archive; write it again") from error
    if not names:
        raise InputError(f"{path}: holds no arrays; write tables into it with numpy.savez")

    def member(name: str) -> BinaryIO:
        return zipfile.ZipFile(path).open(f"{name}.npy")  # type: ignore[return-value]

    if "values" in names:
        rows = NpyRows(partial(member, "values"), f"{path}[values]")
        return Batches(rows, _npz_offsets(path, names, rows.n_rows))
    parts = [NpyRows(partial(member, name), f"{path}[{name}]") for name in sorted(names, key=_natural)]
    for name, part in zip(sorted(names, key=_natural), parts, strict=True):
        if part.n_features != parts[0].n_features:
            raise InputError(f"{path}: {name} has {part.n_features} columns where the first has {parts[0].n_features}")
    return Batches(JoinedRows(parts), offsets_of([part.n_rows for part in parts]))


def _npz_offsets(path: Path, names: list[str], n_rows: int) -> np.ndarray:
    name = next((name for name in ("lengths", "offsets") if name in names), None)
    if name is None:
        return offsets_of([n_rows])
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = arrays[name]
    except (ValueError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise InputError(f"{path}[{name}]: cannot be read ({error}); write whole numbers into it with numpy.savez") from error
    if name == "offsets":
        if found.ndim != 1 or found[:1].tolist() != [0]:
            raise InputError(f"{path}[offsets]: expected a list of whole numbers that begins with 0, and ends with {n_rows}")
        found = np.diff(found)
    return offsets_of(check_lengths(found, n_rows))


def _natural(name: str) -> list:
    """A key that sorts x2 before x10."""
    return [int(part) if digits else part for digits, part in ((d, "".join(g)) for d, g in groupby(name, str.isdigit))]


def _open_parquet(path: Path) -> Batches:
    rows = ParquetRows(path)
    return Batches(rows, rows.offsets)


def _open_text(path: Path) -> Batches:
    table = read_text_table(path)
    return Batches(as_rows(table, str(path)), offsets_of([len(table)]))


def _open_sounds(paths: Sequence[Path], sample_rate: int) -> Batches:
    rows = SpectrumRows(paths, sample_rate)
    return Batches(rows, rows.offsets)


class NpyRows:
    """Rows of an array in numpy's format, read with ordinary reads: the memory of a map would count as ours."""

    def __init__(self, opener: Callable[[], Any], name: str):
        self._name, self.device = name, torch.device("cpu")
        self._file, self._one_at_a_time = (
            opener(),
            Lock(),
        )  # one handle: going on in a compressed file is cheap, starting over is not
        shape, fortran, self._dtype = self._read_header(self._file)
        self._begin = self._file.tell()
        if len(shape) not in (1, 2, 3) or 0 in shape:
            raise InputError(f"{name}: has shape {shape}; expected (rows, columns) or (sequences, steps, columns), not empty")
        if self._dtype.kind not in "fiub":
            raise InputError(f"{name}: holds {self._dtype}, not numbers; save it as float64")
        self.n_features = shape[-1] if len(shape) > 1 else 1
        self.n_rows = int(np.prod(shape, dtype=np.int64)) // self.n_features
        self.sequence_length = shape[1] if len(shape) == 3 else self.n_rows
        if fortran and len(shape) > 1:
            self._put_in_row_order(shape)

    def _put_in_row_order(self, shape: tuple[int, ...]) -> None:
        """Go on from a copy in memory of an array whose columns are contiguous: its rows cannot be read one after the other."""
        n_bytes = int(np.prod(shape, dtype=np.int64)) * self._dtype.itemsize
        if n_bytes > MOST_IN_COLUMN_ORDER:
            raise InputError(f"{self._name}: is large and in column order; save numpy.ascontiguousarray(X) instead")
        numbers = self._read_bytes(self._begin, np.empty(n_bytes, dtype=np.uint8)).view(self._dtype)
        self._file, self._begin = BytesIO(np.ascontiguousarray(numbers.reshape(shape[::-1]).T).tobytes()), 0

    def _read_header(self, file: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
        try:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            return read(file)
        except ValueError as error:
            raise InputError(f"{self._name}: not an array in numpy's format ({error}); save it again with numpy.save") from error

    def read(self, start: int, stop: int) -> Tensor:
        """Rows ``start`` to ``stop``."""
        width = self._dtype.itemsize * self.n_features
        block = np.empty((stop - start, self.n_features), dtype=self._dtype)
        self._read_bytes(self._begin + start * width, block.reshape(-1).view(np.uint8))
        return MemoryRows(block).read(0, len(block))

    def _read_bytes(self, position: int, out: np.ndarray) -> np.ndarray:
        """Fill ``out`` with the bytes from a position on."""
        with self._one_at_a_time:
            try:
                self._file.seek(position)
                n_read = self._file.readinto(out)
            except (EOFError, OSError, zlib.error, zipfile.BadZipFile) as error:
                raise InputError(f"{self._name}: damaged ({error}); copy or write it again") from error
        if n_read < out.nbytes:
            have = (position - self._begin + n_read) // (self._dtype.itemsize * self.n_features)
            raise InputError(f"{self._name}: cut short, its header promises {self.n_rows} rows and {have} are there; copy it again")
        return out

    def place(self, row: int) -> str:
        """Where a row is, in words."""
        return f"row {row} of {self._name}"


class ParquetRows:
    """Numeric columns of a Parquet file, read by row groups."""

    def __init__(self, path: Path):
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError as error:
            raise InputError(f"{path}: reading Parquet needs pyarrow; pip install 'unveil[parquet]'") from error
        try:
            self._file = pyarrow.parquet.ParquetFile(path)
        except (pyarrow.ArrowInvalid, OSError) as error:
            raise InputError(f"{path}: damaged or not a Parquet file ({str(error).splitlines()[0]}); write it again") from error
        self._path, self.device = path, torch.device("cpu")
        numeric = [
            field.name
            for field in self._file.schema_arrow
            if pyarrow.types.is_integer(field.type) or pyarrow.types.is_floating(field.type) or pyarrow.types.is_boolean(field.type)
        ]
        self.columns = [name for name in numeric if name != SEQUENCE_COLUMN]
        groups = self._file.metadata
        self._edges = offsets_of([groups.row_group(i).num_rows for i in range(groups.num_row_groups)])
        self.n_rows, self.n_features = int(self._edges[-1]), len(self.columns)
        if not self.columns or not self.n_rows:
            raise InputError(
                f"{path}: has {self.n_rows} rows and {len(self.columns)} numeric columns; expected one of each at least"
            )
        self.offsets = self._find_sequences()
        self._group = lru_cache(maxsize=1)(self._read_group)

    def _find_sequences(self) -> np.ndarray:
        if SEQUENCE_COLUMN not in self._file.schema_arrow.names:
            return offsets_of([self.n_rows])
        names = self._file.read([SEQUENCE_COLUMN]).column(0).to_numpy(zero_copy_only=False)
        changes = np.flatnonzero(names[1:] != names[:-1]) + 1
        return np.concatenate([[0], changes, [len(names)]]).astype(np.int64)

    def _read_group(self, index: int) -> np.ndarray:
        table = self._file.read_row_group(index, columns=self.columns)
        columns = [table.column(name).to_numpy(zero_copy_only=False).astype(np.float64) for name in self.columns]
        return np.stack(columns, axis=1)

    def read(self, start: int, stop: int) -> Tensor:
        """Rows ``start`` to ``stop``."""
        first = int(np.searchsorted(self._edges, start, side="right")) - 1
        last = int(np.searchsorted(self._edges, stop, side="left"))
        parts = []
        for index in range(first, last):
            edge = int(self._edges[index])
            parts.append(self._group(index)[max(start - edge, 0) : stop - edge])
        return torch.from_numpy(np.concatenate(parts))

    def place(self, row: int) -> str:
        """Where a row is, in words."""
        return f"row {row} of {self._path}"


class JoinedRows:
    """Several tables, one after the other."""

    def __init__(self, parts: Sequence[Rows]):
        self._parts, self._edges = parts, offsets_of([part.n_rows for part in parts])
        self.n_rows, self.n_features, self.device = int(self._edges[-1]), parts[0].n_features, parts[0].device

    def read(self, start: int, stop: int) -> Tensor:
        """Rows ``start`` to ``stop``."""
        first = int(np.searchsorted(self._edges, start, side="right")) - 1
        pieces = []
        for part, edge in zip(self._parts[first:], self._edges[first:], strict=False):
            if edge >= stop:
                break
            pieces.append(part.read(max(start - int(edge), 0), min(stop - int(edge), part.n_rows)))
        return torch.cat(pieces) if len(pieces) > 1 else pieces[0]

    def place(self, row: int) -> str:
        """Where a row is, in words."""
        index = int(np.searchsorted(self._edges, row, side="right")) - 1
        return self._parts[index].place(row - int(self._edges[index]))


class SpectrumRows:
    """The magnitude spectra of sound files: each row a frame of the short-time Fourier transform, each file a sequence."""

    def __init__(self, paths: Sequence[Path], sample_rate: int):
        self._paths, self._sample_rate, self.device = list(paths), sample_rate, torch.device("cpu")
        self.n_fft = window_length(sample_rate)
        self.hop = self.n_fft // 4
        self.n_features = self.n_fft // 2 + 1
        self._lengths = [self._n_samples(path) for path in self._paths]
        self.offsets = offsets_of([n_frames(length, self.hop) for length in self._lengths])
        self.n_rows = int(self.offsets[-1])
        self._spectra = lru_cache(maxsize=1)(self._read_spectra)

    def _n_samples(self, path: Path) -> int:
        with open_audio(path) as file:
            return -(-file.frames * self._sample_rate // file.samplerate)

    def _read_spectra(self, index: int) -> Tensor:
        samples, _ = read_audio(self._paths[index], self._sample_rate, mono=True)
        check_sound(samples, str(self._paths[index]), may_allow=False)
        fitted = np.zeros(self._lengths[index])  # resampling may give a sample more or less than promised
        fitted[: len(samples)] = samples[: len(fitted)]
        return stft(torch.from_numpy(fitted), self.n_fft, self.hop).abs().T

    def read(self, start: int, stop: int) -> Tensor:
        """Frames ``start`` to ``stop``, of shape (stop - start, n_fft // 2 + 1)."""
        first = int(np.searchsorted(self.offsets, start, side="right")) - 1
        pieces = []
        for index in range(first, len(self._paths)):
            edge = int(self.offsets[index])
            if edge >= stop:
                break
            pieces.append(self._spectra(index)[max(start - edge, 0) : stop - edge])
        return torch.cat(pieces)

    def place(self, row: int) -> str:
        """Where a frame is, in words."""
        index = int(np.searchsorted(self.offsets, row, side="right")) - 1
        return f"frame {row - int(self.offsets[index])} of {self._paths[index]}"
