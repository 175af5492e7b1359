"""Generators that leave out modes: which training makes a generative adversarial network cover all of a mixture, and which does not.

Two mixtures in the plane, on which collapse can be counted: a ring of 8 Gaussians (radius 2, standard deviation 0.02; Metz et al., 2017,
"Unrolled generative adversarial networks") and a grid of 5 x 5 (spacing 2, standard deviation 0.05). A mode is covered when at least
a tenth of its fair share of 5000 samples is within three standard deviations of its centre; the quality is the share of samples that
are that near to any centre, 0.989 of the mixture itself; the divergence is that of the shares of the modes from equal ones, in nats.

Each network learns from 25,600 points in batches of 256, with Adam at rates that fall linearly, and with a moving average (0.995) of the
generator. What differs is the momentum (Adam's first beta) and what the critic pays for its slope: nothing, R1 (Mescheder et al.,
2018), or the gradient penalty of Wasserstein networks (Gulrajani et al., 2017). With momentum both networks have a critic that is eight
times as fast as the generator, so that they differ in nothing but the penalty. Without momentum Adam also forgets squares of gradients
sooner (its second beta is 0.9), and with a penalty the critic is faster and the generator deeper. These papers show pictures of such
mixtures, and give no figures to compare with; settings are ours, and those with momentum were chosen with other seeds than are shown.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from unveil.learn.training import Epoch
from unveil.metrics.generation import mode_coverage
from unveil.models.gan import GAN
from unveil.report.drawing import WHOLE, blank, styled, whole_numbers
from unveil.report.page import Picture, Section, Table, Text
from unveil.report.theme import CATEGORIES, LIGHT

TITLE = "Mode collapse: what makes a generator leave out modes"
N_POINTS, N_SAMPLES, N_WATCHED = 25_600, 5000, 2000
SEEDS = (0, 1, 2)
QUICK_SHARE = 0.3  # of the epochs
RING, GRID = "ring", "grid"
COLLAPSED, RECOVERED = "GAN, momentum 0.9", "R1, momentum 0.9"
PLAIN, R1, WGAN_GP = "GAN, no momentum", "R1, no momentum", "WGAN-GP, no momentum"
IDEAL = 1 - np.exp(-4.5)  # the share of a Gaussian in the plane within three standard deviations

SHARED: dict[str, Any] = {"n_latent": 2, "hidden": (128, 128), "batch_size": 256, "learning_rate": 1e-3, "device": "cpu"}
DEEPER: dict[str, Any] = {"hidden": (128, 128, 128), "critic_hidden": (128, 128)}
WITH_MOMENTUM: dict[str, Any] = {"beta1": 0.9, "beta2": 0.999, "learning_rate": 5e-4, "critic_learning_rate": 4e-3}
SETTINGS: dict[str, dict[str, Any]] = {
    COLLAPSED: WITH_MOMENTUM | {"penalty": "none"},
    RECOVERED: WITH_MOMENTUM | {"penalty": "r1", "penalty_weight": 0.05},
    PLAIN: {"penalty": "none", "beta1": 0.0, "beta2": 0.9},
    R1: DEEPER | {"penalty": "r1", "penalty_weight": 0.05, "beta1": 0.0, "beta2": 0.9, "critic_learning_rate": 2e-3},
    WGAN_GP: DEEPER
    | {"loss": "wasserstein", "penalty": "gradient", "penalty_weight": 0.1, "beta1": 0.0, "beta2": 0.9}
    | {"critic_steps": 2, "critic_learning_rate": 4e-3},
}
EPOCHS = {  # of 100 moves of the critic
    RING: {COLLAPSED: 80, RECOVERED: 80, PLAIN: 80, R1: 40, WGAN_GP: 100},
    GRID: {PLAIN: 160, R1: 60, WGAN_GP: 100},
}
COLOURS = dict(zip(SETTINGS, CATEGORIES, strict=False))


@dataclass(frozen=True)
class World:
    """A mixture of equally probable round Gaussians.

    Attributes
    ----------
    centers : ndarray of shape (n_modes, 2)
    scale : float
        The standard deviation of each.
    """

    centers: np.ndarray
    scale: float

    def draw(self, n: int, seed: int) -> np.ndarray:
        """Points (n, 2)."""
        rng = np.random.default_rng(seed)
        return self.centers[rng.integers(len(self.centers), size=n)] + self.scale * rng.normal(size=(n, 2))


def ring() -> World:
    """Eight modes on a circle of radius 2."""
    angles = np.arange(8) * np.pi / 4
    return World(2 * np.stack([np.cos(angles), np.sin(angles)], axis=1), 0.02)


def grid() -> World:
    """Five by five modes, two apart."""
    return World(2.0 * np.array(list(itertools.product(range(-2, 3), repeat=2))), 0.05)


WORLDS: dict[str, Callable[[], World]] = {RING: ring, GRID: grid}


@dataclass(frozen=True)
class Outcome:
    """One generator that was learned.

    Attributes
    ----------
    world, method : str
    seed : int
        Of the data and of the learning.
    n_modes, covered : int
        How many modes there are, and how many of them are covered.
    quality, divergence : float
        The share of samples near a centre, and how unequal the shares of the modes are, in nats.
    seconds : float
        Of learning.
    watched : ndarray of shape (n_looks, 3)
        After some epochs: moves of the generator so far, covered modes, quality.
    samples : ndarray of shape (n, 2)
    """

    world: str
    method: str
    seed: int
    n_modes: int
    covered: int
    quality: float
    divergence: float
    seconds: float
    watched: np.ndarray
    samples: np.ndarray


@dataclass(frozen=True)
class ModeCollapse:
    """All generators that were learned.

    Attributes
    ----------
    outcomes : list of Outcome
    """

    outcomes: list[Outcome]

    @property
    def table(self) -> list[dict[str, object]]:
        """A row for each mixture and method."""
        return [_row(*kind, outcomes) for kind, outcomes in self.groups.items()]

    @property
    def groups(self) -> dict[tuple[str, str], list[Outcome]]:
        """The outcomes of all seeds by mixture and method."""
        kinds = dict.fromkeys((each.world, each.method) for each in self.outcomes)
        return {kind: [each for each in self.outcomes if (each.world, each.method) == kind] for kind in kinds}


def _row(world: str, method: str, outcomes: Sequence[Outcome]) -> dict[str, object]:
    qualities = np.array([each.quality for each in outcomes])
    return {
        "mixture": world,
        "method": method,
        "seeds": [each.seed for each in outcomes],
        "modes": outcomes[0].n_modes,
        "covered": [each.covered for each in outcomes],
        "quality": float(qualities.mean()),
        "quality of the worst": float(qualities.min()),
        "standard deviation of the quality": float(qualities.std()),
        "divergence, nats": float(np.mean([each.divergence for each in outcomes])),
        "moves": int(outcomes[0].watched[-1, 0]),
        "seconds": float(np.median([each.seconds for each in outcomes])),
    }


def run(quick: bool = False, on_progress: Callable[[float], object] = lambda fraction: None) -> ModeCollapse:
    """All methods with three seeds; ``quick`` makes fewer epochs, on the ring and with one seed only."""
    plan = [(world, method, seed) for world in EPOCHS for method in EPOCHS[world] for seed in SEEDS]
    if quick:
        plan = [(world, method, seed) for world, method, seed in plan if world == RING and seed == SEEDS[0]]
    outcomes = []
    for done, (world, method, seed) in enumerate(plan, 1):
        outcomes.append(measure(world, method, seed, QUICK_SHARE if quick else 1.0))
        on_progress(done / len(plan))
    return ModeCollapse(outcomes)


def measure(world: str, method: str, seed: int, share: float = 1.0, n_points: int = N_POINTS, **changes: Any) -> Outcome:
    """Learn a generator for a share of the epochs, watch which modes it covers, and count them at the end."""
    mixture, settings, epochs = WORLDS[world](), SHARED | SETTINGS[method] | changes, round(share * EPOCHS[world][method])
    of_round = settings["batch_size"] * settings.get("critic_steps", 1)
    watch = Watch(mixture, every=max(epochs // 20, 1), moves=-(-n_points // of_round))
    begin = time.perf_counter()
    gan = GAN(**settings, max_epochs=epochs, random_state=seed).fit(mixture.draw(n_points, seed), callbacks=[watch])
    seconds = time.perf_counter() - begin
    samples, _ = gan.sample(N_SAMPLES, random_state=seed + 1)
    found = mode_coverage(samples, mixture.centers, mixture.scale)
    return Outcome(
        world,
        method,
        seed,
        n_modes=len(mixture.centers),
        covered=found.n_covered,
        quality=found.high_quality,
        divergence=found.kl_to_uniform,
        seconds=seconds,
        watched=np.array(watch.looks),
        samples=samples,
    )


class Watch:
    """A callback that counts the modes which a generator covers, every so many epochs."""

    def __init__(self, mixture: World, every: int, moves: int):
        self._mixture, self._every, self._moves = mixture, every, moves
        self.looks: list[tuple[float, float, float]] = []

    def __call__(self, epoch: Epoch) -> None:
        """Look at samples, where it is time; always the same latent variables."""
        if (epoch.number + 1) % self._every and epoch.number + 1 < epoch.max_epochs:
            return
        with torch.no_grad():
            drawn = epoch.model.sample(N_WATCHED, 1, torch.Generator().manual_seed(0)).values.cpu().numpy()
        found = mode_coverage(drawn, self._mixture.centers, self._mixture.scale)
        self.looks.append(((epoch.number + 1) * self._moves, found.n_covered, found.high_quality))


def sections(result: ModeCollapse) -> list[Section]:
    """The counts, samples over the true modes, and coverage while learning."""
    worlds = list(dict.fromkeys(each.world for each in result.outcomes))
    return [
        Section("Counts", [tabulate(result), Text(reading(result))]),
        Section("Samples", [_samples_of(result, world) for world in worlds]),
        Section("While learning", [_coverage_of(result, world) for world in worlds]),
    ]


def tabulate(result: ModeCollapse) -> Table:
    """The table of the page, which is narrower than that of the file."""
    rows = [
        [
            f"{row['mixture']}: {row['method']}",
            f"{_listed(row['covered'])} of {row['modes']}",
            *(row[name] for name in ("quality", "quality of the worst", "divergence, nats")),
            row["moves"],
            round(row["seconds"]),  # type: ignore[call-overload]
        ]
        for row in result.table
    ]
    columns = ["mixture and method", "covered modes", "quality", "worst quality", "divergence", "moves", "seconds"]
    caption = (
        f"Modes that each seed covers (seeds {_listed(result.table[0]['seeds'])}); quality: share of samples near a mode, ideally "
        f"{IDEAL:.3f}, mean and worst seed; divergence of the modes' shares from equal ones, in nats; moves of the generator"
    )
    return Table(columns, rows, caption, digits=3)


def _listed(numbers: Any) -> str:
    return ", ".join(str(number) for number in numbers)


def reading(result: ModeCollapse) -> str:
    """What the table says, and what it does not."""
    said = [_of_momentum(result.groups), *(_of_world(world, result.groups) for world in EPOCHS)]
    return " ".join(sentence for sentence in said if sentence)


def _of_momentum(groups: Mapping[tuple[str, str], list[Outcome]]) -> str:
    collapsed, recovered = groups[RING, COLLAPSED], groups[RING, RECOVERED]
    return (
        f"With momentum 0.9 the plain network covers {_listed(each.covered for each in collapsed)} of 8 modes of the ring, with "
        f"{np.mean([each.quality for each in collapsed]):.2f} of its samples near one; R1 at the same momentum covers "
        f"{_listed(each.covered for each in recovered)}, with {np.mean([each.quality for each in recovered]):.2f}: quality alone "
        "does not tell of collapse."
    )


def _of_world(world: str, groups: Mapping[tuple[str, str], list[Outcome]]) -> str:
    """How the methods without momentum did on a mixture."""
    parts = [
        f"{method.partition(',')[0]} {_listed(each.covered for each in outcomes)} "
        f"(quality {np.mean([each.quality for each in outcomes]):.2f})"
        for (where, method), outcomes in groups.items()
        if where == world and method in (PLAIN, R1, WGAN_GP)
    ]
    return f"Without momentum, of the {len(WORLDS[world]().centers)} modes of the {world}: {'; '.join(parts)}." if parts else ""


def _samples_of(result: ModeCollapse, world: str) -> Picture:
    shown = [outcomes[0] for (where, _), outcomes in result.groups.items() if where == world]
    return Picture(
        _draw_samples(shown, WORLDS[world]()),
        f"Samples of {len(shown)} generators over the modes of the {world}",
        f"Dots: samples after learning, seed {shown[0].seed}; circles: the true modes, larger than they are.",
    )


@styled
def _draw_samples(outcomes: Sequence[Outcome], world: World) -> Figure:
    figure, reach = blank(WHOLE, WHOLE / len(outcomes) + 0.5), 1.25 * np.abs(world.centers).max()
    for axes, outcome in zip(figure.subplots(1, len(outcomes), squeeze=False)[0], outcomes, strict=True):
        axes.scatter(*world.centers.T, s=60, facecolor="none", edgecolor=LIGHT["muted"], linewidth=0.6)
        axes.scatter(*outcome.samples[:N_WATCHED].T, s=2, color=COLOURS[outcome.method], alpha=0.6, linewidth=0, rasterized=True)
        axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xticks=[], yticks=[])
        axes.set_title(f"{outcome.method}\n{outcome.covered} of {outcome.n_modes}")
        axes.spines[:].set_visible(False)
    return figure


def _coverage_of(result: ModeCollapse, world: str) -> Picture:
    groups = {method: outcomes for (where, method), outcomes in result.groups.items() if where == world}
    return Picture(
        _draw_coverage(groups, len(WORLDS[world]().centers)),
        f"Covered modes and quality on the {world} while learning, for {', '.join(groups)}",
        f"The {world}, of {N_WATCHED} samples of the averaged generator. Each line is one seed.",
    )


@styled
def _draw_coverage(groups: Mapping[str, Sequence[Outcome]], n_modes: int) -> Figure:
    figure = blank(WHOLE, 3.2)
    modes, quality = figure.subplots(1, 2)
    for method, outcomes in groups.items():
        for i, outcome in enumerate(outcomes):
            modes.plot(*outcome.watched[:, :2].T, color=COLOURS[method], lw=1.2, alpha=0.8, label=method if i == 0 else None)
            quality.plot(*outcome.watched[:, ::2].T, color=COLOURS[method], lw=1.2, alpha=0.8)
    _frame(modes, "covered modes", n_modes)
    whole_numbers(modes.yaxis)
    _frame(quality, "quality", 1.0)
    figure.legend(loc="outside upper right", ncols=3)
    return figure


def _frame(axes: Axes, name: str, top: float) -> None:
    axes.set(xlabel="moves of the generator", ylabel=name, ylim=(-0.03 * top, 1.05 * top))
