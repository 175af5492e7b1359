"""The record of a learner's run."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field


@dataclass
class History:
    """How a fit went.

    Attributes
    ----------
    objective : list of float
        Mean log-likelihood (or bound) for each step of data, in nats, before each parameter update at which it was evaluated; of
        learning in epochs, minus the loss for each step, as a mean over each epoch.
    iterations : list of int
        The iterations, from 0, at which ``objective`` was evaluated.
    n_iter : int
        How many parameter updates were made.
    converged : bool
        Whether the gain fell below the tolerance.
    seconds : float
        Wall-clock time.
    restarts : list of float
        The objective that each short run from its own start had reached, where there were several.
    parts : dict of str to list of float
        Of learning in epochs: the loss of each and what it is made of, for each step of data; names that begin with "held-out" are
        of data that was not learned from.
    waiting : float
        Of learning in epochs: the share of the time that was spent waiting for data.
    """

    objective: list[float] = field(default_factory=list)
    iterations: list[int] = field(default_factory=list)
    n_iter: int = 0
    converged: bool = False
    seconds: float = 0.0
    restarts: list[float] = field(default_factory=list)
    parts: dict[str, list[float]] = field(default_factory=dict)
    waiting: float = 0.0

    def to_dict(self) -> dict:
        """As plain lists and numbers, for JSON."""
        return asdict(self)
