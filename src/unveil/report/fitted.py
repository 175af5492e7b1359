"""What can be shown of any fitted estimator."""

from __future__ import annotations

from typing import Any

import numpy as np

from unveil.core.estimator import Estimator
from unveil.core.history import History
from unveil.core.units import objective_unit
from unveil.report import figures
from unveil.report.page import Picture, as_text


def learning_curve(estimator: Estimator) -> Picture:
    """The objective over the iterations of the fit, or the losses over its epochs."""
    history, unit = estimator.history_, objective_unit(estimator)
    if history.parts:
        return _loss_curves(history, unit.removeprefix("minus "))
    first, last = as_text(history.objective[0]), as_text(history.objective[-1])
    alt = f"Learning curve: {unit} from {first} at the start to {last} after {history.n_iter} iterations."
    caption = "Higher is better."
    if history.restarts:
        caption += f" The marks at the right edge: what each of the {len(history.restarts)} starts had reached in its short run."
    return Picture(figures.objective_curve(history, unit=unit), alt, caption)


def _loss_curves(history: History, unit: str) -> Picture:
    """Losses on the data that was learned from and on held-out data."""
    first, last = as_text(history.parts["loss"][0]), as_text(history.parts["loss"][-1])
    alt = f"Losses over {len(history.objective)} epochs, from {first} to {last} {unit}."
    caption = "Lower is better."
    if "held-out loss" in history.parts:
        best = int(np.argmin(history.parts["held-out loss"])) + 1
        caption += f" Dashed: on held-out data, least in epoch {best}, whose model is kept."
    return Picture(figures.loss_curves(history.parts), alt, caption)


def dictionary_picture(components: np.ndarray, sample_rate: float | None = None) -> Picture:
    """The atoms of a factorisation; those that are spectra from low to high."""
    if sample_rate is None:
        caption = "Each column is an atom, relative to its largest value."
    else:
        components = components[np.argsort(_centroids(components))]
        caption = "Each column is an atom: a spectrum that the source can sound with, from low to high."
    alt = f"Image of {len(components)} atoms with {components.shape[1]} features each."
    return Picture(figures.dictionary(components, sample_rate), alt, caption)


def _centroids(components: np.ndarray) -> Any:
    """The mean frequency (bin) of each atom, on a logarithmic scale."""
    power = components**2
    octaves = np.log2(1 + np.arange(components.shape[1]))
    return power @ octaves / np.maximum(power.sum(1), np.finfo(float).tiny)
