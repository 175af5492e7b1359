"""Games: players that each follow the gradient of a loss of their own, for any model that has some."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from unveil.core.constraints import choice, integer, optional, real
from unveil.core.history import History
from unveil.core.neural import AdversarialModel
from unveil.core.run import Run
from unveil.data.batch import Batch, Batches
from unveil.data.minibatches import Minibatches, as_batches, loaded
from unveil.data.workers import cores_for
from unveil.errors import InputError
from unveil.learn.checkpoint import Checkpoint
from unveil.learn.epochs import EpochBar, JsonLines
from unveil.learn.sgd import (
    EPOCH_CONSTRAINTS,
    OPTIMIZERS,
    PRODUCTS_PER_NUMBER,
    SCHEDULES,
    VALIDATION_SEED,
    copied,
    seeded,
    working_device,
)
from unveil.learn.training import Epoch, train

UPDATES = ("alternating", "simultaneous")
MOST_MOMENTUM = 1 - 1e-6

ADVERSARIAL_CONSTRAINTS = EPOCH_CONSTRAINTS | {
    "critic_steps": integer(1),
    "updates": choice(*UPDATES),
    "average": real(0.0, MOST_MOMENTUM),
    "critic_learning_rate": optional(real(0.0, open_below=True)),
    "beta1": real(0.0, MOST_MOMENTUM),
    "beta2": real(0.0, MOST_MOMENTUM),
    "optimizer": choice(*OPTIMIZERS),
}


def adversarial(
    model: AdversarialModel,
    batches: Batches,
    generator: torch.Generator,
    *,
    batch_size: int = 128,
    max_epochs: int = 100,
    learning_rates: Mapping[str, float],
    moves: Mapping[str, int] | None = None,
    updates: str = "alternating",
    averages: Mapping[str, float] | None = None,
    optimizer: str = "adam",
    beta1: float = 0.0,
    beta2: float = 0.9,
    schedule: str = "constant",
    device: str = "auto",
    run: Run = Run(),
    title: str | None = None,
) -> History:
    """Let players move down the gradients of their own losses, in rounds, until the last epoch.

    The model is initialised, learned, and left on the device that it came on, in evaluation mode, with averages in place of the
    players that have one. Callbacks see it so, too.

    Parameters
    ----------
    model : AdversarialModel
        Learned in place.
    batches : Batches
        The data. An epoch is one pass over it.
    generator : torch.Generator
        Chooses the start, the order, and all random numbers.
    batch_size : int
        Items in the minibatch of each move.
    max_epochs : int
        How many passes over the data are made.
    learning_rates : mapping of str to float
        Of each player, at the start.
    moves : mapping of str to int, optional
        How many moves each player makes in a round, each on a minibatch of its own; 1 where it is not said.
    updates : {"alternating", "simultaneous"}
        Whether each player sees the moves that others have made in this round, or all move from where the round began.
    averages : mapping of str to float, optional
        The decay of the exponential moving average of the parameters of some players.
    optimizer : {"adam", "rmsprop", "sgd"}
        How moves are made.
    beta1 : float
        The momentum of Adam, and of plain gradient descent.
    beta2 : float
        How long Adam remembers the squares of gradients. These change while players move, so a short memory serves best.
    schedule : {"constant", "linear", "cosine"}
        How the learning rates fall until the last epoch: not, or to a fiftieth.
    device : {"auto", "cpu", "cuda"}
        Where to work; "auto" takes a GPU where there is one.
    run : Run
        How this training is watched and kept. Held-out data has no place in it: no player's loss tells how good the model is.
    title : str, optional
        Show progress under this name.

    Returns
    -------
    History
        Its loss is the sum of the players' losses; each player's, and the parts of it, stand beside it.

    Raises
    ------
    InputError
        When the run has held-out data, or the loss is not finite before a single epoch was finished.

    References
    ----------
    Goodfellow et al. (2014), Generative adversarial nets. Heusel et al. (2017), GANs trained by a two time-scale update rule converge
    to a local Nash equilibrium. Yazici et al. (2019), The unusual effectiveness of averaging in GAN training.
    """
    if run.validation is not None:
        raise InputError("validation: the losses of players do not tell when to stop; leave it out, and watch samples by callbacks")
    home, dtype = next(model.parameters()).device, next(model.parameters()).dtype
    place, batches = working_device(device, batches.device), loaded(batches)
    seed, noise = (int(torch.randint(2**31, (), generator=generator)) for _ in range(2))
    model.initialize(batches, generator)
    model.to(place).train()
    moves = {name: (moves or {}).get(name, 1) for name in model.players()}
    n_products = batch_size * sum(parameter.numel() for parameter in model.parameters())
    with EpochBar(title) as bar, cores_for(n_products // PRODUCTS_PER_NUMBER):
        game = Game(
            model,
            {
                name: OPTIMIZERS[optimizer](player.parameters(), learning_rates[name], (beta1, beta2))
                for name, player in model.players().items()
            },
            seeded(noise, place),
            moves=moves,
            updates=updates,
            averages=averages or {},
            factor=lambda epoch: SCHEDULES[schedule](epoch / max_epochs),
        )
        checkpoint = Checkpoint(run.checkpoint, run.identity) if run.checkpoint else None
        log = [JsonLines(checkpoint.log)] if checkpoint else []
        history = train(
            game,
            Minibatches(batches, batch_size * max(moves.values()), seed=seed, device=place, dtype=dtype),
            max_epochs=max_epochs,
            checkpoint=checkpoint,
            callbacks=(bar, *log, *(game.shown_to(callback) for callback in run.callbacks)),
        )
    game.settle()
    model.to(home)
    return history


class Game:
    """Rounds in which players move.

    Parameters
    ----------
    model : AdversarialModel
        Who plays, and for what.
    optimizers : dict of str to Optimizer
        How each player moves.
    generator : torch.Generator
        For the random numbers that losses need, on the model's device.
    moves : mapping of str to int
        How many each player makes in a round.
    updates : {"alternating", "simultaneous"}
        Whether a player sees what others have done in this round.
    averages : mapping of str to float
        The decay of the average of some players' parameters.
    factor : callable
        What the learning rates are multiplied with, from the number of epochs that are done.
    """

    def __init__(
        self,
        model: AdversarialModel,
        optimizers: dict[str, torch.optim.Optimizer],
        generator: torch.Generator,
        *,
        moves: Mapping[str, int],
        updates: str = "alternating",
        averages: Mapping[str, float] = {},
        factor: Callable[[float], float] = SCHEDULES["constant"],
    ):
        self.model, self._optimizers, self._generator, self._moves = model, optimizers, generator, moves
        self._factor, self._decays = factor, averages
        self._rates = {name: optimizer.param_groups[0]["lr"] for name, optimizer in optimizers.items()}
        self._turns = _turns(moves, updates)
        self._parameters: dict[str, list[Tensor]] = {name: list(player.parameters()) for name, player in model.players().items()}
        self._averages = {name: [each.detach().clone() for each in self._parameters[name]] for name in averages}

    def step(self, batch: Batch, epoch: float) -> dict[str, float]:
        """One round; the parts of each player's loss before its moves, as means over them. What is not finite ends the round."""
        for name, optimizer in self._optimizers.items():
            optimizer.param_groups[0]["lr"] = self._rates[name] * self._factor(epoch)
        parts, totals = _split(batch, max(self._moves.values())), {}
        for turn in self._turns:
            for name, move in turn:
                found = self._look(name, parts[move % len(parts)])
                for key, value in found.items():
                    totals[key] = totals.get(key, 0.0) + value / self._moves[name]
                if not math.isfinite(found["loss"]):  # the parameters stay what they are
                    return {**totals, "loss": found["loss"]}
            for name, _ in turn:
                self._move(name)
        self._follow()
        return totals

    def _look(self, name: str, batch: Batch) -> dict[str, float]:
        """Find the gradient of a player's loss in its own parameters; the loss and its parts."""
        loss, parameters = self.model.player_loss(name, batch, self._generator), self._parameters[name]
        self._optimizers[name].zero_grad()
        loss.total.backward(inputs=parameters)  # which lays gradients out as parameters are: fused optimizers rely on that
        total, parts = float(loss.total.detach()), {key: float(part.detach()) for key, part in loss.parts.items()}
        return {"loss": total, name: total, **{f"{name} {key}": part for key, part in parts.items()}}

    def _move(self, name: str) -> None:
        """Follow the gradient that was found."""
        self._optimizers[name].step()
        self.model.after_move(name)

    @torch.no_grad()
    def _follow(self) -> None:
        """Bring the averages nearer to their players: a <- d a + (1 - d) p, after each round."""
        for name, decay in self._decays.items():
            get_ema_multi_avg_fn(decay)(self._averages[name], self._parameters[name], None)

    def probe(self, batch: Batch, epoch: float) -> float:
        """The sum of the players' losses, without a move."""
        generator = seeded(VALIDATION_SEED, self._generator.device)
        return sum(float(self.model.player_loss(name, batch, generator).total.detach()) for name in self._optimizers)

    def validate(self) -> None:
        """No loss of a player says how good the model is."""

    def state(self) -> dict[str, Any]:
        """The model, its averages, the optimizers and the generator, as copies."""
        return {
            "model": copied(self.model.state_dict()),
            "averages": copied(self._averages),
            "optimizers": {name: copied(optimizer.state_dict()) for name, optimizer in self._optimizers.items()},
            "generator": self._generator.get_state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what ``state`` gave."""
        self.model.load_state_dict(state["model"])
        for name, average in self._averages.items():
            _assign(average, state["averages"][name])
        for name, optimizer in self._optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        self._generator.set_state(state["generator"].cpu())

    def settle(self) -> None:
        """Leave the model with the averages in place of their players, as it is used after learning."""
        for name, average in self._averages.items():
            _assign(self._parameters[name], average)
        self.model.eval()

    @contextmanager
    def settled(self) -> Iterator[None]:
        """The model as it would be left now, for a while."""
        own = {name: [each.detach().clone() for each in self._parameters[name]] for name in self._averages}
        self.settle()
        try:
            yield
        finally:
            for name, values in own.items():
                _assign(self._parameters[name], values)
            self.model.train()

    def shown_to(self, callback: Callable[[Epoch], bool | None]) -> Callable[[Epoch], bool | None]:
        """A callback that sees the model as it would be left now."""

        def watch(epoch: Epoch) -> bool | None:
            with self.settled():
                return callback(epoch)

        return watch


def _turns(moves: Mapping[str, int], updates: str) -> list[list[tuple[str, int]]]:
    """Who moves in each turn of a round, and for which time: those of one turn look before any of them moves.

    Examples
    --------
    >>> _turns({"critic": 2, "generator": 1}, "alternating")
    [[('critic', 0)], [('critic', 1)], [('generator', 0)]]
    >>> _turns({"critic": 2, "generator": 1}, "simultaneous")
    [[('critic', 0), ('generator', 0)], [('critic', 1)]]
    """
    if updates == "alternating":
        return [[(name, move)] for name, count in moves.items() for move in range(count)]
    return [[(name, move) for name, count in moves.items() if move < count] for move in range(max(moves.values()))]


def _split(batch: Batch, n_parts: int) -> list[Batch]:
    """Parts of about the same number of items, none of them empty."""
    if n_parts == 1 or batch.n_sequences == 1:
        return [batch]
    source = as_batches(batch)
    return [source.take(items) for items in np.array_split(np.arange(batch.n_sequences), min(n_parts, batch.n_sequences))]


@torch.no_grad()
def _assign(targets: list[Tensor], values: list[Tensor]) -> None:
    """Give tensors new values in place."""
    for target, value in zip(targets, values, strict=True):
        target.copy_(value)
