"""Stochastic gradient descent, for any model whose loss has a gradient."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from unveil.core.constraints import choice, integer, optional, real
from unveil.core.history import History
from unveil.core.neural import GradientModel, Loss
from unveil.core.run import Run
from unveil.data.batch import Batch, Batches
from unveil.data.minibatches import Minibatches, held_out, loaded
from unveil.data.rows import MemoryRows
from unveil.data.workers import cores_for
from unveil.errors import ParameterError
from unveil.learn.checkpoint import Checkpoint
from unveil.learn.epochs import EpochBar, JsonLines
from unveil.learn.processes import Processes
from unveil.learn.training import train

PRODUCTS_PER_NUMBER = 1024  # multiplications of networks, of which a core makes that many more than it reads numbers
BETAS = (0.9, 0.999)  # Adam's usual memory of gradients and of their squares
VALIDATION_STEPS = 2048  # of held-out data at a time
VALIDATION_SEED = 5  # the same random numbers in every epoch, so that losses can be compared


def _adam(parameters: Iterable[nn.Parameter], learning_rate: float, betas: tuple[float, float]) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, learning_rate, betas=betas, fused=True)


def _rmsprop(parameters: Iterable[nn.Parameter], learning_rate: float, betas: tuple[float, float]) -> torch.optim.Optimizer:
    return torch.optim.RMSprop(parameters, learning_rate)


def _plain(parameters: Iterable[nn.Parameter], learning_rate: float, betas: tuple[float, float]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, learning_rate, momentum=betas[0])


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {"adam": _adam, "rmsprop": _rmsprop, "sgd": _plain}
SCHEDULES: dict[str, Callable[[float], float]] = {  # the learning rate's factor when a share of the training is over
    "constant": lambda done: 1.0,
    "linear": lambda done: max(1.0 - done, 0.02),
    "cosine": lambda done: 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(done, 1.0))),
}
PRECISIONS = ("full", "bfloat16")
DTYPES = {"float32": torch.float32, "float64": torch.float64}

EPOCH_CONSTRAINTS = {
    "batch_size": integer(1),
    "max_epochs": integer(1),
    "learning_rate": real(0.0, open_below=True),
    "schedule": choice(*SCHEDULES),
    "device": choice("auto", "cpu", "cuda"),
    "dtype": choice(*DTYPES),
    "verbose": integer(0),
}
SGD_CONSTRAINTS = EPOCH_CONSTRAINTS | {
    "clip_norm": optional(real(0.0, open_below=True)),
    "validation_fraction": real(0.0, 0.9),
    "patience": optional(integer(1)),
    "precision": choice(*PRECISIONS),
}


def sgd_settings(estimator: Any, run: Run) -> dict[str, Any]:
    """The arguments of ``sgd`` from the constructor parameters that neural estimators share."""
    names = ("batch_size", "max_epochs", "learning_rate", "schedule", "device", *SGD_CONSTRAINTS.keys() - EPOCH_CONSTRAINTS.keys())
    title = type(estimator).__name__ if estimator.verbose else None
    return {name: getattr(estimator, name) for name in names} | {"run": run, "title": title}


def sgd(
    model: GradientModel,
    batches: Batches,
    generator: torch.Generator,
    *,
    batch_size: int = 128,
    max_epochs: int = 100,
    learning_rate: float = 1e-3,
    schedule: str = "constant",
    optimizer: str = "adam",
    clip_norm: float | None = None,
    validation_fraction: float = 0.1,
    patience: int | None = 10,
    patient_until: float = 0.0,
    device: str = "auto",
    precision: str = "full",
    run: Run = Run(),
    title: str | None = None,
) -> History:
    """Follow the gradient of the loss of minibatches, until held-out data gains no more.

    The model is initialised, learned, and left at its best on held-out data, on the device that it came on. Under ``torchrun``, each
    process works on its share of every minibatch, and all hold the same model.

    Parameters
    ----------
    model : GradientModel
        Learned in place.
    batches : Batches
        The data. Where it is in memory, or small, minibatches are drawn by indexing; else files are read ahead.
    generator : torch.Generator
        Chooses the start, what is held out, the order, and all random numbers.
    batch_size : int
        Items (points or sequences) in a minibatch.
    max_epochs : int
        The most passes over the data.
    learning_rate : float
        Of the optimizer, at the start.
    schedule : {"constant", "linear", "cosine"}
        How the learning rate falls until the last epoch: not, or to a fiftieth.
    optimizer : {"adam", "rmsprop", "sgd"}
        How steps are made.
    clip_norm : float, optional
        The gradient is made no longer than this.
    validation_fraction : float
        The share of the items that is held out to stop early by, where ``run.validation`` gives none.
    patience : int, optional
        How many epochs without a gain on held-out data are borne.
    patient_until : float
        Epochs before that, such as those of a warm-up, do not count.
    device : {"auto", "cpu", "cuda"}
        Where to work; "auto" takes a GPU where there is one.
    precision : {"full", "bfloat16"}
        Of matrix products; "bfloat16" is twice as fast on GPUs, and keeps parameters and losses in full precision.
    run : Run
        How this training is watched and kept.
    title : str, optional
        Show progress under this name.

    Returns
    -------
    History
    """
    processes, home = Processes.join(), next(model.parameters()).device
    place, dtype = working_device(device, batches.device), next(model.parameters()).dtype
    batches = loaded(batches)
    for source in (batches, run.validation or ()):
        for batch in source:  # which also looks for NaN and infinity, and names their place in all of the data
            model.inspect(batch)
    seed, split, noise = (int(torch.randint(2**31, (), generator=generator)) for _ in range(3))
    learned, kept = (
        (batches, run.validation) if run.validation is not None else held_out(batches, validation_fraction, seeded(split))
    )
    model.initialize(learned, generator)
    model.to(place)
    n_products = batch_size * sum(parameter.numel() for parameter in model.parameters())
    with EpochBar(title if processes.is_first else None) as bar, cores_for(n_products // PRODUCTS_PER_NUMBER):
        descent = Descent(
            model,
            OPTIMIZERS[optimizer](model.parameters(), learning_rate, BETAS),
            seeded(noise + processes.rank, place),
            held_out=None if kept is None else ready(kept, place, dtype),
            factor=lambda epoch: SCHEDULES[schedule](epoch / max_epochs),
            clip_norm=clip_norm,
            precision=precision,
            processes=processes,
        )
        checkpoint = Checkpoint(run.checkpoint, run.identity, writes=processes.is_first) if run.checkpoint else None
        log = [JsonLines(checkpoint.log)] if checkpoint and processes.is_first else []
        history = train(
            descent,
            Minibatches(learned, batch_size, seed=seed, device=place, dtype=dtype, share=(processes.rank, processes.count)),
            max_epochs=max_epochs,
            patience=patience,
            checkpoint=checkpoint,
            callbacks=(bar, *log, *run.callbacks),
            patient_until=patient_until,
        )
    model.zero_grad()
    model.to(home)
    return history


class Descent:
    """Steps down the gradient of a model's loss.

    Parameters
    ----------
    model : GradientModel
        Whose parameters the optimizer has.
    optimizer : Optimizer
        How a step is made.
    generator : torch.Generator
        For the random numbers that a loss needs, on the model's device.
    held_out : Batches, optional
        Data to validate on.
    factor : callable
        What the learning rate is multiplied with, from the number of epochs that are done.
    clip_norm : float, optional
        The longest gradient.
    precision : {"full", "bfloat16"}
        Of matrix products.
    processes : Processes
        Who shares the work.
    """

    def __init__(
        self,
        model: GradientModel,
        optimizer: torch.optim.Optimizer,
        generator: torch.Generator,
        *,
        held_out: Batches | None = None,
        factor: Callable[[float], float] = SCHEDULES["constant"],
        clip_norm: float | None = None,
        precision: str = "full",
        processes: Processes = Processes(),
    ):
        self.model, self._optimizer, self._generator, self._held_out = model, optimizer, generator, held_out
        self._factor, self._clip_norm, self._precision, self._processes = factor, clip_norm, precision, processes
        self._rates = [group["lr"] for group in optimizer.param_groups]
        self._loss = processes.shared(_LossOf(model))

    def step(self, batch: Batch, epoch: float) -> dict[str, float]:
        """One update; the parts of the loss before it."""
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * self._factor(epoch)
        with self._arithmetic():
            loss = self._loss(batch, self._generator, epoch)
        self._optimizer.zero_grad()
        loss.total.backward()
        if self._clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self._clip_norm)
        parts = self._processes.mean(as_numbers(loss))
        if math.isfinite(parts["loss"]):  # else the parameters stay what they are
            self._optimizer.step()
        return parts

    @torch.no_grad()
    def probe(self, batch: Batch, epoch: float) -> float:
        """The loss of a batch, without a step."""
        with self._arithmetic():
            return float(self.model.loss(batch, seeded(VALIDATION_SEED, self._generator.device), epoch).total)

    @torch.no_grad()
    def validate(self) -> dict[str, float] | None:
        """The parts of the loss on held-out data as they are after all warm-ups, per step of data."""
        if self._held_out is None:
            return None
        generator, sums, n_steps = seeded(VALIDATION_SEED, self._generator.device), {}, 0
        like = next(self.model.parameters())
        for batch in self._held_out:
            batch = batch.to(like.device, like.dtype)
            with self._arithmetic():
                parts = as_numbers(self.model.loss(batch, generator, math.inf))
            n_steps += batch.n_steps
            for name, value in parts.items():
                sums[name] = sums.get(name, 0.0) + value * batch.n_steps
        return {name: value / n_steps for name, value in sums.items()}

    def state(self) -> dict[str, Any]:
        """The model, the optimizer and the generator, as copies."""
        return {
            "model": copied(self.model.state_dict()),
            "optimizer": copied(self._optimizer.state_dict()),
            "generator": self._generator.get_state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what ``state`` gave."""
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._generator.set_state(state["generator"].cpu())

    def _arithmetic(self) -> AbstractContextManager:
        if self._precision == "full":
            return nullcontext()
        return torch.autocast(self._generator.device.type, torch.bfloat16)


class _LossOf(nn.Module):
    """A model's loss as a module's forward pass, which is what DistributedDataParallel shares."""

    def __init__(self, model: GradientModel):
        super().__init__()
        self.model = model

    def forward(self, batch: Batch, generator: torch.Generator, epoch: float) -> Loss:
        return self.model.loss(batch, generator, epoch)


def as_numbers(loss: Loss) -> dict[str, float]:
    """The total under the name "loss", and the parts."""
    return {"loss": float(loss.total.detach()), **{name: float(part.detach()) for name, part in loss.parts.items()}}


def copied(value: Any) -> Any:
    """A nested state with copies of its tensors."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: copied(each) for key, each in value.items()}
    return [copied(each) for each in value] if isinstance(value, (list, tuple)) else value


def seeded(seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator of its own."""
    return torch.Generator(device).manual_seed(seed)


def working_device(device: str, home: torch.device) -> torch.device:
    """Where to work: what was asked for, or a GPU where there is one, or where the data is."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ParameterError("device='cuda', but torch finds no GPU here; use device='auto' or 'cpu'")
    if device == "auto":
        return torch.device("cuda") if torch.cuda.is_available() else home
    return torch.device(device)


def ready(batches: Batches, device: torch.device, dtype: torch.dtype) -> Batches:
    """Held-out data where and how it is needed, in batches that a network takes at once."""
    batches = loaded(batches).replace(batch_steps=VALIDATION_STEPS)
    if not isinstance(batches.rows, MemoryRows):
        return batches
    return batches.replace(rows=MemoryRows(batches.rows.read(0, batches.n_steps).to(device, dtype)))
