"""Images: MNIST, in IDX files."""

from __future__ import annotations

import gzip
import math
import os
from pathlib import Path

import numpy as np

from unveil.data.datasets.checks import check_choice, reading
from unveil.data.datasets.dataset import Dataset, KnownSet
from unveil.errors import InputError

MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
MNIST_SHA256 = {  # of the original files at that address; a local file may be another compression of the same content
    "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
_NAMES = tuple(MNIST_SHA256)
_IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


class Mnist(KnownSet):
    """Images of digits, (n, 784); the target is the digit."""

    name = "mnist"
    summary = "images of handwritten digits, 28 by 28: 60000 to train and 10000 to test"
    licence = "MNIST: cite Y. LeCun, C. Cortes and C. J. C. Burges, The MNIST database of handwritten digits"
    origin = f"download {', '.join(_NAMES)} from {MNIST_URL}"
    part_option = "subset"
    files = {"train": _NAMES[:2], "test": _NAMES[2:], "all": _NAMES}

    def downloads(self, part: str) -> dict[str, str]:
        """Images and labels."""
        return {MNIST_URL + name: f"sha256:{MNIST_SHA256[name]}" for name in self.files[part]}

    def read(self, folder: Path, subset="train", pixels="unit") -> Dataset:
        """Read the ``subset`` "train", "test" or "all", with ``pixels`` "unit", float32 in [0, 1], or "raw", uint8."""
        check_choice("pixels", pixels, ("unit", "raw"))
        paths = [folder / name for name in self.files[subset]]
        parts = [_read_images(*pair) for pair in zip(paths[::2], paths[1::2], strict=True)]
        images, labels = map(np.concatenate, zip(*parts, strict=True))
        if pixels == "unit":
            images = images.astype(np.float32) / np.float32(255)
        return self.dataset(images, labels.astype(np.int64))


def _read_images(images_path: Path, labels_path: Path) -> tuple[np.ndarray, np.ndarray]:
    images, labels = read_idx(images_path), read_idx(labels_path)
    if images.ndim != 3:
        raise InputError(f"{images_path}: expected images, an array of 3 axes; got {images.ndim}; get it again")
    if labels.shape != images.shape[:1]:
        raise InputError(f"{labels_path}: expected {len(images)} labels; got shape {labels.shape}; get it again")
    return images.reshape(len(images), -1), labels


def read_idx(path: str | os.PathLike) -> np.ndarray:
    """Read an array from an IDX file, gzipped or not; InputError when it is missing, cut short, or not IDX.

    The file holds two zero bytes, one byte for the type, one for the number of axes, the sizes as big-endian 32-bit integers, and
    the values; the array is in the machine's byte order.
    """
    path = Path(path)
    with reading(path):
        content = path.read_bytes()
        if content.startswith(b"\x1f\x8b"):
            content = gzip.decompress(content)
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _IDX_TYPES:
        raise InputError(f"{path}: not an IDX file; get it again")
    n_axes, dtype = content[3], np.dtype(_IDX_TYPES[content[2]])
    start = 4 + 4 * n_axes
    shape = [int.from_bytes(content[at : at + 4], "big") for at in range(4, start, 4)]
    expected = start + math.prod(shape) * dtype.itemsize
    if len(content) != expected:
        raise InputError(f"{path}: expected {expected} bytes for an array of shape {tuple(shape)}; got {len(content)}")
    return np.frombuffer(content, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="))
