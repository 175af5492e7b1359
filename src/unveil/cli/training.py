"""Where the command line keeps the training of a neural model until it is over."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from unveil.errors import ParameterError

if TYPE_CHECKING:
    from unveil.core.estimator import Estimator


def training_folder(estimator: Estimator, out: Path, checkpoint: Path | None, resume: bool) -> Path | None:
    """The folder of a training: the one that was asked for, or one beside the model; None for models that do not learn in epochs.

    Raises
    ------
    ParameterError
        When there is a training that nobody asked to go on with, or none to go on with.
    """
    from unveil.learn.checkpoint import FILE

    name = type(estimator).__name__
    if not estimator.learns_in_epochs:
        if checkpoint or resume:
            raise ParameterError(f"{name} does not learn in epochs, so nothing is kept; leave out --checkpoint and --resume")
        return None
    folder = checkpoint or out.with_name(out.name + ".training")
    kept = (folder / FILE).exists()
    if kept and not resume:
        raise ParameterError(f"{folder}: holds a training that was cut off; add --resume to go on with it, or remove the folder")
    if resume and not kept:
        raise ParameterError(f"{folder}: there is no training to resume; leave out --resume, or give its folder with --checkpoint")
    return folder


def forget_training(folder: Path) -> None:
    """Remove the files of a training that is over, and their folder where it held nothing else."""
    from unveil.learn.checkpoint import FILE, LOG

    for name in (FILE, LOG):
        (folder / name).unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
