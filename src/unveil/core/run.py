"""What a user asks of one run of a long training, beside the settings of the estimator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unveil.data.batch import Batches


@dataclass(frozen=True)
class Run:
    """How one training is watched, kept and stopped.

    Attributes
    ----------
    validation : Batches, optional
        Held-out data to stop early by.
    checkpoint : Path, optional
        A folder in which the training is kept, and from which it goes on.
    callbacks : tuple of callable
        Each is called after every epoch, and stops the training by returning True.
    identity : dict
        What a checkpoint must have been made by, to be gone on from: the estimator's name, its parameters, and its data's shape.
    """

    validation: Batches | None = None
    checkpoint: Path | None = None
    callbacks: tuple[Callable[[Any], bool | None], ...] = ()
    identity: dict[str, Any] = field(default_factory=dict)
