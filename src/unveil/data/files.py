"""Files in and out: sound, and atomic writes of anything."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile
import soxr

from unveil.errors import InputError

AUDIO_SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".caf", ".w64"})


@contextmanager
def atomic_path(target: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path beside ``target`` and rename it over ``target`` only when the block succeeds.

    A failure of any kind leaves neither a partial file nor a changed ``target``.

    Raises
    ------
    InputError
        When the folder cannot be written to or the disk is full.
    """
    with atomic_paths([target]) as (temporary,):
        yield temporary


@contextmanager
def atomic_paths(targets: Sequence[str | os.PathLike]) -> Iterator[list[Path]]:
    """The same for several files: they are renamed only after the last of them is safely on the disk."""
    paths, temporary = [Path(target) for target in targets], list[Path]()
    try:
        current = paths[0]
        for current in paths:
            temporary.append(_new_file_beside(current))
        current = paths[0] if len(paths) == 1 else paths[0].parent
        yield temporary
        for current, written in zip(paths, temporary, strict=True):  # noqa: B007  (an error names it)
            with open(written, "rb+") as file:
                os.fsync(file.fileno())
            os.chmod(written, 0o666 & ~_umask())  # mkstemp makes private files; a result should be as readable as any
        for current, written in zip(paths, temporary, strict=True):
            os.replace(written, current)
    except (OSError, soundfile.SoundFileError) as error:
        raise _cannot_write(current, error) from error
    finally:
        for written in temporary:
            written.unlink(missing_ok=True)


def check_writable(target: str | os.PathLike) -> None:
    """Make sure that ``target`` can be written, before the work whose result it will hold; its folder is made.

    Raises
    ------
    InputError
        When the folder cannot be made or written to, or ``target`` is itself a folder.
    """
    target = Path(target)
    try:
        _new_file_beside(target).unlink()
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    except OSError as error:
        raise _cannot_write(target, error) from error


def _new_file_beside(target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.stem}-", suffix=target.suffix)
    os.close(handle)
    return Path(name)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _cannot_write(target: Path, error: Exception) -> InputError:
    code, folder = getattr(error, "errno", None), target.parent
    if code in (errno.ENOSPC, errno.EDQUOT):
        return InputError(f"cannot write {target}: the disk is full; free some space")
    if code in (errno.EEXIST, errno.ENOTDIR):
        return InputError(f"cannot write {target}: {folder} is not a folder, and cannot become one; choose another folder")
    if code == errno.EISDIR:
        return InputError(f"cannot write {target}: it is a folder; give the name of a file")
    if code is None:  # libsndfile and numpy do not say why
        return InputError(f"cannot write {target}: {str(error).rstrip('.')}; see whether the disk is full")
    return InputError(f"cannot write {target}: {getattr(error, 'strerror', error)}; choose a folder that you may write to")


def is_audio(path: str | os.PathLike) -> bool:
    """Whether the file's name says that it holds sound."""
    return Path(path).suffix.lower() in AUDIO_SUFFIXES


def audio_files(folder: str | os.PathLike) -> list[Path]:
    """The sound files in a folder and the folders below it, sorted by name; a file stands for itself."""
    folder = Path(folder)
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        raise InputError(f"{folder}: no such file or folder; give a sound file or a folder of sound files")
    files = sorted(path for path in folder.rglob("*") if path.is_file() and is_audio(path))
    if not files:
        raise InputError(f"{folder}: no sound files in it; expected names that end in {', '.join(sorted(AUDIO_SUFFIXES))}")
    return files


@contextmanager
def open_audio(path: str | os.PathLike) -> Iterator[soundfile.SoundFile]:
    """Open a sound file for reading, with one-line errors for what is not one."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; check the name")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty (0 bytes); record or export it again")
    _check_whole(path)
    try:
        file = soundfile.SoundFile(path)
    except soundfile.SoundFileError as error:
        reason = str(error).split(": ", 1)[-1].rstrip(".")
        raise InputError(f"{path}: not a sound file that can be read ({reason}); expected WAV, FLAC, Ogg or MP3") from error
    with file:
        if file.frames == 0:
            raise InputError(f"{path}: holds no samples (cut short, or only a header); record or export it again")
        yield file


def _check_whole(path: Path) -> None:
    """Refuse a WAV or AIFF file that is shorter than its header says, of which libsndfile would read what is left."""
    with open(path, "rb") as file:
        kind, size = file.read(4), file.read(4)
    order: Literal["little", "big"] = "little" if kind == b"RIFF" else "big"
    promised, there = 8 + int.from_bytes(size, order), path.stat().st_size
    # some writers count 8 bytes too many, and those that write to a pipe give a length of 2 GB or more
    if kind in (b"RIFF", b"RIFX", b"FORM") and there + 8 < promised < 0x7FFF0000:
        raise InputError(f"{path}: cut short, {there} of {promised} bytes; copy the file again")


def read_samples(file: soundfile.SoundFile, start: int = 0, stop: int | None = None) -> np.ndarray:
    """Samples ``start`` to ``stop``, by default the last, of an open file: (n_channels, n_samples), all there and finite."""
    stop = file.frames if stop is None else min(stop, file.frames)
    try:
        if file.tell() != start:
            file.seek(start)
        samples = file.read(stop - start, dtype="float64", always_2d=True).T
    except soundfile.SoundFileError as error:
        reason = str(error).removeprefix("Error : ").rstrip(". ") or "no reason given"
        raise InputError(f"{file.name}: cannot be decoded ({reason}); record or export it again") from error
    if samples.shape[1] < stop - start:
        raise InputError(f"{file.name}: cut short, {start + samples.shape[1]} of {file.frames} samples; copy the file again")
    if not np.isfinite(samples).all():
        raise InputError(f"{file.name}: holds NaN or infinite samples; export it again")
    return samples


def read_audio(path: str | os.PathLike, sample_rate: int | None = None, *, mono: bool = False) -> tuple[np.ndarray, int]:
    """Read a sound file.

    Parameters
    ----------
    path : path
        WAV, FLAC, Ogg, MP3 or another format of libsndfile; any sample rate, any number of channels.
    sample_rate : int, optional
        Resample to this rate in hertz; by default the file's own.
    mono : bool
        Average the channels.

    Returns
    -------
    samples : ndarray of shape (n_channels, n_samples), or (n_samples,) when mono
        Float64 in [-1, 1].
    sample_rate : int
        In hertz.

    Raises
    ------
    InputError
        When the file is missing, empty, cut short or not sound.
    """
    with open_audio(path) as file:
        samples, rate = read_samples(file), file.samplerate
    if mono:
        samples = samples.mean(axis=0)
    if sample_rate is not None and sample_rate != rate:
        samples, rate = resample(samples, rate, sample_rate), sample_rate
    return np.ascontiguousarray(samples), rate


def resample(samples: np.ndarray, sample_rate: int, target_rate: int) -> np.ndarray:
    """Resample sound whose last axis is time, from ``sample_rate`` to ``target_rate`` hertz."""
    if sample_rate == target_rate:
        return samples
    return np.ascontiguousarray(soxr.resample(samples.T, sample_rate, target_rate).T)


def write_audio(path: str | os.PathLike, samples: np.ndarray, sample_rate: int) -> None:
    """Write sound, (n_samples,) or (n_channels, n_samples), as 24-bit PCM (16-bit for other formats than WAV and FLAC).

    Samples beyond [-1, 1] are written as 32-bit float where the format has it, so nothing is clipped.
    """
    path = Path(path)
    samples = np.asarray(samples, dtype=np.float64).T
    suffix = path.suffix.lower()
    beyond = samples.size and np.abs(samples).max() > 1
    subtype = {".wav": "FLOAT" if beyond else "PCM_24", ".flac": "PCM_24"}.get(suffix)
    with atomic_path(path) as temporary:
        soundfile.write(temporary, samples, sample_rate, subtype=subtype)


def check_sound(samples: np.ndarray, name: str, *, allow_clipped: bool = False, may_allow: bool = True) -> None:
    """Refuse sound that no model can make sense of: silence, and recordings that were cut off at full scale.

    Clipping is three or more equal samples in a row at the signal's largest magnitude, 0.99 or more; up to one sample in a thousand
    is let pass. ``may_allow`` says whether the user has a way to allow it.
    """
    loudest = np.abs(samples).max(initial=0.0)
    if loudest == 0:
        raise InputError(f"{name}: silent, every sample is zero; check the recording")
    if allow_clipped or loudest < 0.99 or np.shape(samples)[-1] < 3:
        return
    at_peak = np.abs(np.atleast_2d(samples)) >= loudest * (1 - 1e-4)
    in_runs = at_peak[:, 2:] & at_peak[:, 1:-1] & at_peak[:, :-2]
    share = in_runs.mean()
    if share > 1e-3:
        raise InputError(
            f"{name}: clipped, {share:.1%} of its samples are cut off at full scale; record it at a lower level"
            + (", or allow clipped sound" if may_allow else "")
        )
