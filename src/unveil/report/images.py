"""Images side by side."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.figure import Figure

from unveil.report.drawing import HALF, blank, styled


@styled
def mosaic(rows: np.ndarray, *, per_row: int = 12, width: float = HALF) -> Figure:
    """Square images of grey levels in [0, 1], each in a row (n, n_pixels) of the array: ink is dark where levels are high."""
    side = math.isqrt(rows.shape[1])
    framed = np.pad(rows.reshape(-1, side, side), ((0, -len(rows) % per_row), (1, 1), (1, 1)))
    grid = framed.reshape(-1, per_row, side + 2, side + 2).swapaxes(1, 2).reshape(-1, per_row * (side + 2))
    figure = blank(width, width * grid.shape[0] / grid.shape[1])
    axes = figure.subplots()
    axes.imshow(grid, cmap="gray_r", vmin=0, vmax=1)
    axes.set_axis_off()
    return figure
