"""Memory that is used again: on large pieces, the system takes as long to hand over fresh memory as the work in it takes."""

from __future__ import annotations

import sys
from threading import local

import numpy as np
import torch
from torch import Tensor

_LEAST, _MOST = 1 << 15, 1 << 22  # numbers: less is handed over quickly, and more is not kept
_MOST_PIECES = 4
_UNUSED = 3  # references to a piece that nobody else holds: from the list, the loop and the question itself
_kept = local()


def empty(*shape: int) -> Tensor:
    """An uninitialised float64 tensor on the CPU, in memory that this thread has had before where nobody holds that any more."""
    size = int(np.prod(shape))
    if not _LEAST <= size <= _MOST:
        return torch.empty(shape, dtype=torch.float64)
    pieces = getattr(_kept, "pieces", None)
    if pieces is None:
        pieces = _kept.pieces = []
    for piece in pieces:
        if size <= piece.size <= 4 * size and sys.getrefcount(piece) == _UNUSED:
            return torch.from_numpy(piece[:size].reshape(shape))
    piece = np.empty(size)
    pieces.append(piece)
    del pieces[:-_MOST_PIECES]
    return torch.from_numpy(piece[:size].reshape(shape))
