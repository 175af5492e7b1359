"""Data from a file or folder, in the form that an estimator takes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unveil.data.batch import Batches


def open_for(estimator: Any, data: Path, sample_rate: int) -> Batches:
    """Batches of the data; for a model of power spectra, sound becomes those that ``resynthesize`` uses."""
    from unveil.data.batch import Batches
    from unveil.data.layout import as_rows
    from unveil.data.streams import holds_sound, open_batches

    if getattr(estimator, "family", None) == "power" and data.exists() and holds_sound(data):
        from unveil.audio.resynthesize import power_frames

        return Batches(as_rows(power_frames(data, sample_rate), source=str(data)))
    return open_batches(data, sample_rate=sample_rate)
