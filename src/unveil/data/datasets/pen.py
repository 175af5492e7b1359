"""Handwriting: trajectories of a pen, and the UNIPEN text in which digits are kept."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from unveil.data.datasets.checks import check_choice, check_count, is_count, reading, selection
from unveil.data.datasets.dataset import Dataset, KnownSet
from unveil.errors import InputError, ParameterError

_TRAIN, _TEST = "pendigits-orig.tra", "pendigits-orig.tes"
_WRITERS_BEFORE = {_TRAIN: 0, _TEST: 30}  # each file counts writers from 1

_SEGMENT = re.compile(r"^\.SEGMENT\b", re.MULTILINE)
_LABEL = re.compile(r'"([0-9])"\s*$')
_WRITER = re.compile(r"^\.COMMENT\s+\d+\s+(\d+)", re.MULTILINE)


class PenDigits(KnownSet):
    """Pen trajectories of handwritten digits; the target is the digit, the groups are the writers.

    Writers 1 to 30 wrote the training file, 31 to 44 the test file, and 0 is unknown.
    """

    name = "pendigits"
    summary = "pen trajectories of handwritten digits: 7494 by 30 writers and 3498 by 14 others"
    licence = "UCI: cite E. Alpaydin and F. Alimoglu, Pen-Based Recognition of Handwritten Digits"
    origin = "unpack pendigits-orig.tra.Z and pendigits-orig.tes.Z from https://archive.ics.uci.edu/dataset/81"
    rank = 1
    part_option = "subset"
    files = {"train": (_TRAIN,), "test": (_TEST,), "all": (_TRAIN, _TEST)}

    def read(
        self, folder: Path, subset="train", digits=(1, 5), per_class=200, random_state=None, features="direction", n_points=20
    ) -> Dataset:
        """Read the trajectories of a ``subset``, "train", "test" or "all"; strokes are joined end to end.

        ``digits``: a list, or None for all; ``per_class``: how many of each, the first ones or with a ``random_state`` a random draw,
        or None for all; ``features``: "direction", x, y and the unit tangent, (n_points, 4), or "position", x, y, (n_points, 2), both
        resampled along the arc and scaled by `normalize_trajectory`, or "raw", x, y in tablet units as written, of any length.
        """
        check_choice("features", features, ("direction", "position", "raw"))
        chosen = selection("digits", digits, range(10))
        samples, writers = [], []
        for name in self.files[subset]:
            found = read_unipen(folder / name)
            samples += found
            writers += [sample.writer + _WRITERS_BEFORE[name] if sample.writer else 0 for sample in found]
        target = np.array([sample.label for sample in samples])
        kept = _draw(target, chosen, per_class, random_state)
        data = [np.concatenate(samples[i].strokes) for i in kept]
        if features != "raw":
            data = [resample_trajectory(normalize_trajectory(points), n_points) for points in data]
        if features == "direction":
            data = [np.concatenate([points, _unit_tangent(points)], axis=1) for points in data]
        return self.dataset(data, target[kept], groups=np.array(writers)[kept])


def _draw(target: np.ndarray, classes: list[int], per_class: int | None, random_state) -> np.ndarray:
    """Indices, in order, of the first ``per_class`` items of each class, or of a random draw."""
    check_count("per_class", per_class)
    generator = None if random_state is None else np.random.default_rng(random_state)
    kept = []
    for label in classes:
        (members,) = np.nonzero(target == label)
        if per_class is not None and per_class > len(members):
            raise ParameterError(f"expected per_class of at most {len(members)}, the items of {label}; got {per_class}")
        kept.append((generator.permutation(members) if generator else members)[:per_class])
    return np.sort(np.concatenate(kept))


def normalize_trajectory(points: np.ndarray) -> np.ndarray:
    """Centre the bounding box of points (n, n_dims) on the origin and scale its longer side to [-1, 1].

    The aspect ratio is kept: to stretch both sides would blow the tremor of a straight "1" up to its full width. Zeros where all
    points coincide; InputError when there are none, or one is not finite.

    Examples
    --------
    >>> normalize_trajectory([[100, 100], [100, 300], [150, 300]]).tolist()
    [[-0.25, -1.0], [-0.25, 1.0], [0.25, 1.0]]
    """
    points = _check_trajectory(points)
    low, high = points.min(axis=0), points.max(axis=0)
    half = (high - low).max() / 2
    return (points - (low + high) / 2) / (half if half > 0 else 1.0)


def resample_trajectory(points: np.ndarray, n_points: int) -> np.ndarray:
    """Resample points (n, n_dims) to ``n_points``, at least 2, that lie equally far apart along the trajectory.

    The trajectory is the polyline through the points, s its arc length and L the length of all of it; the result is the polyline
    at s = 0, L / (n_points - 1), …, L. So it forgets the speed of the pen, and keeps both ends. Repeated points (a pen at rest) do
    no harm; a trajectory of no length gives its point n_points times. InputError when a point is not finite, or there is none.

    Examples
    --------
    >>> resample_trajectory([[0, 0], [0, 0], [3, 0], [3, 1]], 5).tolist()
    [[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [3.0, 0.0], [3.0, 1.0]]
    """
    points = _check_trajectory(points)
    if not is_count(n_points, least=2):
        raise ParameterError(f"expected n_points to be an integer of at least 2; got {n_points!r}")
    steps = np.linalg.norm(np.diff(points, axis=0), axis=1)
    moved = np.concatenate([[True], steps > 0])  # repeated points would make the arc length not strictly increasing
    arc = np.concatenate([[0.0], np.cumsum(steps)])[moved]
    wanted = np.linspace(0.0, arc[-1], n_points)
    return np.stack([np.interp(wanted, arc, column) for column in points[moved].T], axis=1)


def _unit_tangent(points: np.ndarray) -> np.ndarray:
    """Direction by central differences, of length one; zero where the trajectory stands still or turns right back."""
    direction = np.gradient(points, axis=0)
    length = np.linalg.norm(direction, axis=1, keepdims=True)
    return np.divide(direction, length, out=np.zeros_like(direction), where=length > 1e-12)


def _check_trajectory(points: np.ndarray) -> np.ndarray:
    points = np.asarray(points, dtype=np.float64)
    if points.ndim != 2 or len(points) == 0 or not np.isfinite(points).all():
        raise InputError(f"expected finite points of shape (n, n_dims) with n >= 1; got shape {points.shape}")
    return points


class PenDigit(NamedTuple):
    """A handwritten digit: strokes of shape (n_points, 2) in tablet units, the digit, and its writer where noted."""

    strokes: tuple[np.ndarray, ...]
    label: int
    writer: int | None


def read_unipen(path: str | os.PathLike) -> list[PenDigit]:
    """Read handwritten digits from a UNIPEN file: the points between .PEN_DOWN and .PEN_UP of each .SEGMENT.

    The label stands at the end of the .SEGMENT line in quotes; the second number of a .COMMENT line that follows is taken as the
    writer, as in the pen digits of UCI. InputError when the file is missing, not UNIPEN, or cut short.
    """
    path = Path(path)
    with reading(path):
        segments = _SEGMENT.split(path.read_text(encoding="utf-8"))[1:]
    if not segments:
        raise InputError(f"{path}: no .SEGMENT record; expected a UNIPEN file of digits")
    return [_parse_segment(path, number, segment) for number, segment in enumerate(segments)]


def _parse_segment(path: Path, number: int, segment: str) -> PenDigit:
    header, _, body = segment.partition("\n")
    label = _LABEL.search(header)
    if not label:
        raise InputError(f'{path}: expected a digit in quotes, like "7", at the end of .SEGMENT; got {header!r}')
    writer = _WRITER.search(body)
    strokes = tuple(_parse_stroke(path, number, stroke) for stroke in body.split(".PEN_DOWN")[1:])
    if not strokes:
        raise InputError(f"{path}: segment {number} holds no stroke (cut short?); get the file again")
    return PenDigit(strokes, int(label[1]), int(writer[1]) if writer else None)


def _parse_stroke(path: Path, number: int, text: str) -> np.ndarray:
    coordinates, pen_up, _ = text.partition(".PEN_UP")
    if not pen_up:
        raise InputError(f"{path}: cut short, a stroke of segment {number} does not end in .PEN_UP; get the file again")
    try:
        values = list(map(float, coordinates.split()))  # several times faster than letting numpy parse the words
    except ValueError as error:
        raise InputError(f"{path}: segment {number} holds more than numbers ({error}); get it again") from error
    if not values or len(values) % 2 or not all(map(math.isfinite, values)):
        raise InputError(f"{path}: a stroke of segment {number} is not a list of pairs x y; get the file again")
    return np.array(values).reshape(-1, 2)
