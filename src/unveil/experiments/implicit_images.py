"""An autoencoder with a mixture over its codes generates digits with a higher likelihood, and more of their variety, than VAEs and GANs.

After Subakan, Koyejo and Smaragdis (2018), Learning the base distribution in implicit generative models, whose table has
log-likelihoods of 143 for two-step maximum likelihood (IML), 132 for a variational autoencoder, 64 for a Wasserstein GAN, and -5 for
a GAN. All have 20 latent variables and one hidden layer of 600 units; pixels are grey levels in [0, 1], as they are.

* "IML": an autoencoder with cross-entropy, then a mixture of 30 Gaussians with full covariances over the codes of all training images.
* "VAE": the same networks and a standard normal prior; its samples are the means of what the decoder says.
* "GAN", "WGAN-clip", "WGAN-GP": a generator against a critic, with the logistic loss, with clipped parameters and with a gradient penalty.

Two likelihoods are measured, both with a variance of 0.1 for each pixel. The Parzen score puts a Gaussian on each of 10,000 samples, and
asks how likely 2000 test images are. The marginal likelihood integrates over the latent variables, by importance sampling. The
source says Parzen, but there 10,000 real images have only 52, so that no model can be expected to have 143: the published
figures have the size of the marginal likelihood. That this is what they are is our guess.

Likelihoods say little of how samples look: blurred ones do well. So we also measure coverage (how many test images have a sample near
them), precision and recall, in 64 features of a small classifier, the share of the rarest digit, and how far samples are from the
training images, as a ratio to how far test images are: a copy has 0. Training is shorter than in the source (6 epochs of autoencoders in
place of 250), where these figures no longer change; those of adversarial models go on changing, and depend on when they are stopped.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from sklearn.exceptions import ConvergenceWarning as NotConverged
from sklearn.neural_network import MLPClassifier

from unveil.core.estimator import Estimator
from unveil.data import datasets
from unveil.metrics.generation import kde_score, memorization, precision_recall
from unveil.models.autoencoder import Autoencoder
from unveil.models.decoder_based import decoder_of, marginal_likelihood
from unveil.models.gan import GAN
from unveil.models.gaussian_mixture import GaussianMixture
from unveil.models.implicit_model import ImplicitModel
from unveil.models.vae import VAE
from unveil.report.drawing import WHOLE, blank, styled
from unveil.report.images import mosaic
from unveil.report.page import Card, Picture, Row, Section, Table, Text
from unveil.report.theme import CATEGORIES, LIGHT

TITLE = "Digits from models learned in two steps"
VARIANCE = 0.1
N_LATENT, N_HIDDEN, BATCH_SIZE, N_SHOWN = 20, 600, 128, 48
IML, VARIATIONAL, PLAIN, CLIPPED, PENALIZED = "IML", "VAE", "GAN", "WGAN-clip", "WGAN-GP"
PUBLISHED = {IML: 143.0, VARIATIONAL: 132.0, PENALIZED: 64.0, CLIPPED: 64.0, PLAIN: -5.0}
WASSERSTEIN = {"loss": "wasserstein", "critic_steps": 5}
CRITICS: dict[str, dict[str, Any]] = {
    PLAIN: {"penalty": "none", "learning_rate": 2e-4, "beta2": 0.999},
    CLIPPED: WASSERSTEIN | {"penalty": "clip", "optimizer": "rmsprop", "learning_rate": 2e-4},
    PENALIZED: WASSERSTEIN | {"penalty": "gradient", "penalty_weight": 10.0, "learning_rate": 3e-4, "beta2": 0.9},
}


@dataclass(frozen=True)
class Plan:
    """How much of everything; the numbers of moves are those of generators."""

    seeds: Sequence[int] = (0, 1, 2)
    n_train: int = 55000
    n_test: int = 2000
    n_samples: int = 10000
    n_near: int = 1000  # samples whose nearest training image is sought
    n_integrated: int = 300
    n_draws: int = 1000
    n_components: int = 30
    epochs: int = 6
    moves: tuple[tuple[str, int], ...] = ((PLAIN, 3000), (CLIPPED, 1200), (PENALIZED, 600))


QUICK = Plan((0,), 20000, 1000, 10000, 300, 100, 300, 30, 2, ((PLAIN, 2000),))


@dataclass(frozen=True, eq=False)
class Images:
    """Grey levels (n, 784) in [0, 1], and digits."""

    train: np.ndarray
    digits: np.ndarray
    test: np.ndarray


@dataclass(frozen=True)
class Scores:
    """What was measured of one model; likelihoods in nats for each image.

    Attributes
    ----------
    parzen_error, likelihood_error : float
        Standard errors over test images.
    effective : float
        Median effective sample size of the importance sampling.
    rarest : float
        Share of the rarest digit among the samples, by the classifier.
    memorisation : float
        Distance of samples to the nearest training image, in units of that of test images.
    seconds : float
        Of learning.
    """

    model: str
    seed: int
    parzen: float
    parzen_error: float
    likelihood: float
    likelihood_error: float
    effective: float
    coverage: float
    precision: float
    recall: float
    rarest: float
    memorisation: float
    seconds: float


@dataclass(frozen=True)
class ImplicitImages:
    """All scores, what is known to hold of the measures, and samples of the first seed with their nearest training images.

    Attributes
    ----------
    checks : dict of str to float
        Parzen scores of training images in place of samples, and of their mean.
    shown : dict of str to (ndarray of shape (n, 784), ndarray of shape (n, 784))
    """

    plan: Plan
    scores: list[Scores]
    checks: dict[str, float]
    shown: dict[str, tuple[np.ndarray, np.ndarray]]

    @property
    def table(self) -> list[dict[str, object]]:
        """Means over seeds, and their standard deviations, for each model; and the self-checks."""
        return [self._row(name) for name in self.shown] + [{"model": name, "Parzen": value} for name, value in self.checks.items()]

    def _row(self, name: str) -> dict[str, object]:
        row: dict[str, object] = {"model": name, "seeds": self.of(name, "seed").tolist()}
        for title, field in COLUMNS.items():
            values = self.of(name, field)
            spread = float(values.std()) if len(values) > 1 else None
            row |= {title: float(values.mean()), f"{title}, deviation": spread, f"{title}, runs": values.tolist()}
        return row | {"published": PUBLISHED[name]}

    def means(self, field: str) -> dict[str, float]:
        """A score of each model, as a mean over its runs."""
        return {name: float(self.of(name, field).mean()) for name in self.shown}

    def of(self, model: str, field: str) -> np.ndarray:
        """A score of one model in each run."""
        return np.array([getattr(each, field) for each in self.scores if each.model == model])


COLUMNS = {
    "Parzen": "parzen",
    "marginal likelihood": "likelihood",
    "effective draws": "effective",
    "coverage": "coverage",
    "precision": "precision",
    "recall": "recall",
    "rarest digit": "rarest",
    "memorisation": "memorisation",
    "seconds": "seconds",
}


def run(quick: bool = False, on_progress: Callable[[float], object] = lambda fraction: None) -> ImplicitImages:
    """Three seeds; ``quick`` keeps to one, to a third of the images, and to one GAN."""
    return measure(load_images(plan := QUICK if quick else Plan()), plan, on_progress)


def load_images(plan: Plan) -> Images:
    """The first training images, and test images that are spread over all writers."""
    train, test = datasets.load("mnist", subset="train"), np.asarray(datasets.load("mnist", subset="test").data)
    images, digits = np.asarray(train.data), np.asarray(train.target)
    return Images(images[: plan.n_train], digits[: plan.n_train], test[:: len(test) // plan.n_test][: plan.n_test])


def measure(images: Images, plan: Plan, on_progress: Callable[[float], object] = lambda fraction: None) -> ImplicitImages:
    """Every model, once for each seed."""
    eye, scores, shown = Eye(images), [], {}
    plays = [(seed, name, model) for seed in plan.seeds for name, model in contestants(plan, len(images.train), seed).items()]
    for seed, name, model in plays:
        model.fit(images.train)
        found, samples, neighbours = assess(name, model, images, eye, plan, seed)
        scores.append(found)
        shown.setdefault(name, (samples, neighbours))
        on_progress(len(scores) / len(plays))
    return ImplicitImages(plan, scores, self_checks(images, plan), shown)


def contestants(plan: Plan, n_images: int, seed: int) -> dict[str, Estimator]:
    """The models, before they are learned."""
    coding: dict[str, Any] = {"hidden": N_HIDDEN, "batch_size": BATCH_SIZE, "max_epochs": plan.epochs}
    coding |= {"validation_fraction": 0.0, "patience": None}
    playing: dict[str, Any] = {"hidden": N_HIDDEN, "batch_size": BATCH_SIZE, "output": "sigmoid", "average": 0.0}
    playing |= {"schedule": "constant", "beta1": 0.5, "random_state": seed}
    autoencoder, mixture = Autoencoder(N_LATENT, loss="cross-entropy", **coding), GaussianMixture(plan.n_components, reg_covar=1e-4)
    models: dict[str, Estimator] = {
        IML: ImplicitModel(autoencoder, mixture, variance=0.0, random_state=seed),
        VARIATIONAL: VAE(N_LATENT, likelihood="bernoulli", random_state=seed, **coding),
    }
    for name, n_moves in plan.moves:
        n_steps = CRITICS[name].get("critic_steps", 1)
        n_epochs = max(round(n_moves * n_steps * BATCH_SIZE / n_images), 1)
        models[name] = GAN(N_LATENT, max_epochs=n_epochs, **playing, **CRITICS[name])
    return models


class Eye:
    """A small classifier of digits, whose last hidden layer says which images are alike."""

    def __init__(self, images: Images):
        self._network = MLPClassifier((256, 64), batch_size=256, max_iter=5, random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotConverged)  # it need not
            self._network.fit(images.train, images.digits)

    def features(self, rows: np.ndarray) -> np.ndarray:
        """The 64 units of the last hidden layer."""
        for weights, bias in list(zip(self._network.coefs_, self._network.intercepts_, strict=True))[:-1]:
            rows = np.maximum(rows @ weights + bias, 0.0)
        return rows

    def rarest(self, rows: np.ndarray) -> float:
        """The share of the rarest digit."""
        return float(np.bincount(self._network.predict(rows), minlength=10).min() / len(rows))


def assess(name: str, model: Estimator, images: Images, eye: Eye, plan: Plan, seed: int) -> tuple[Scores, np.ndarray, np.ndarray]:
    """All scores of a fitted model, some samples, and the training image that is nearest to each."""
    samples = decoder_of(model).generate(plan.n_samples, seed)
    parzen = kde_score(images.test, samples, VARIANCE**0.5)
    chosen = images.test[:: len(images.test) // plan.n_integrated][: plan.n_integrated]
    integrated = marginal_likelihood(model, chosen, VARIANCE, n_draws=plan.n_draws, random_state=seed)
    alike = precision_recall(eye.features(images.test), eye.features(samples[: len(images.test)]))
    near = memorization(images.train, images.test[: plan.n_near], samples[: plan.n_near])
    scores = Scores(
        model=name,
        seed=seed,
        parzen=parzen.score,
        parzen_error=parzen.standard_error,
        likelihood=float(integrated.log_likelihood.mean()),
        likelihood_error=float(integrated.log_likelihood.std() / len(chosen) ** 0.5),
        effective=float(integrated.effective_sample_size.median()),
        coverage=alike.coverage,
        precision=alike.precision,
        recall=alike.recall,
        rarest=eye.rarest(samples),
        memorisation=near.ratio,
        seconds=model.history_.seconds,
    )
    return scores, samples[: len(near.nearest)][:N_SHOWN], images.train[near.nearest[:N_SHOWN]]


def self_checks(images: Images, plan: Plan) -> dict[str, float]:
    """What the Parzen score is known to be: of training images in place of samples, and of nothing but their mean."""
    chosen = np.random.default_rng(0).permutation(len(images.train))[: plan.n_samples]
    rows = {f"{len(chosen):,} training images": images.train[chosen], "mean image": images.train.mean(0, keepdims=True)}
    return {name: kde_score(images.test, each, VARIANCE**0.5).score for name, each in rows.items()}


def sections(result: ImplicitImages) -> list[Section]:
    """The scores, what they say, and what the models draw."""
    alt = "Parzen scores and marginal likelihoods of all models, a dot for each run, beside the published figures."
    caption = "A dot is a run; a cross is the published figure; the dashed line is the Parzen score of training images."
    picture, said = Picture(_draw_scores(result), alt, caption), [Text(reading(result)), Text(doubts(result))]
    drawn = [_drawn(name, *images) for name, images in result.shown.items()]
    return [Section("Scores", [tabulate(result), *said, picture]), Section("What they draw", drawn)]


def tabulate(result: ImplicitImages) -> Table:
    """The table of the page, which is narrower than that of the file."""
    plan, names = result.plan, ["published", "coverage", "precision", "recall", "rarest digit", "memorisation"]
    likelihoods = ("Parzen", "marginal likelihood")
    rows = [[row["model"], *(_spread(row, name) for name in likelihoods), *map(row.get, names)] for row in result.table]
    caption = (
        f"Nats for each image with a variance of {VARIANCE}: Parzen of {plan.n_test:,} test images under {plan.n_samples:,} samples, "
        f"marginal likelihood of {plan.n_integrated} of them. Means over seeds {list(plan.seeds)}, ± their standard deviation."
    )
    return Table(["model", "Parzen", "marginal", *names], rows, caption, digits=2)


def _spread(row: Mapping[str, Any], name: str) -> str | float | None:
    spread = row.get(f"{name}, deviation")
    return row.get(name) if spread is None else f"{row[name]:.1f} ± {spread:.1f}".replace("-", "−").replace(" ", "\u00a0")


def reading(result: ImplicitImages) -> str:
    """What the scores say."""
    parzen, likelihood, coverage = (result.means(field) for field in ("parzen", "likelihood", "coverage"))
    gains = result.of(IML, "parzen") - result.of(VARIATIONAL, "parzen")
    real = next(iter(result.checks.values()))
    return (
        f"By the Parzen score the order is {_ordered(parzen)}; by the marginal likelihood it is {_ordered(likelihood)}. The published "
        f"order is {_ordered(PUBLISHED)}, where one figure stands for both kinds of Wasserstein GAN. IML is above the VAE by "
        f"{', '.join(f'{gain:.1f}' for gain in gains)} nats in its {len(gains)} run{'s' * (len(gains) > 1)}, and covers "
        f"{100 * coverage[IML]:.0f} % of the test images where the VAE covers {100 * coverage[VARIATIONAL]:.0f} %. The Parzen score "
        f"of IML is {'above' if parzen[IML] > real else 'below'} that of as many training images, {real:.1f}: it rewards blur, and "
        "tells an order, not a quality."
    )


def doubts(result: ImplicitImages) -> str:
    """Where the scores are not to be trusted."""
    draws, copies = result.means("effective"), result.means("memorisation")
    collapsed = [name for name in result.shown if result.of(name, "rarest").min() < 0.01]
    lost = f"A digit is all but missing in a run of {', '.join(collapsed)}. " if collapsed else "All models draw all ten digits. "
    return (
        "Importance sampling gives a lower bound in expectation, which is the looser the fewer draws count: of "
        f"{result.plan.n_draws:,}, as many as {', '.join(f'{n:.0f} ({name})' for name, n in draws.items())}. So the figures of adversarial "
        "models, which have no encoder to start from, are the least certain. How these fare depends on when they are stopped: in "
        f"trials, the recall of a WGAN-GP went on rising while its Parzen score fell. {lost}Samples are {min(copies.values()):.2f} to "
        f"{max(copies.values()):.2f} times as far from the nearest training image as test images are; copies would be at 0."
    )


def _ordered(scores: Mapping[str, float]) -> str:
    return " > ".join(sorted(scores, key=lambda name: -scores[name]))


def _drawn(name: str, samples: np.ndarray, neighbours: np.ndarray) -> Row:
    left = Picture(mosaic(samples), f"Samples of {name}.")
    right = Picture(mosaic(neighbours), f"Training images, each the nearest to a sample of {name}.")
    return Row([Card(f"{name}: samples, none chosen", [left]), Card("The nearest training images", [right])])


@styled
def _draw_scores(result: ImplicitImages) -> Figure:
    figure = blank(WHOLE, 2.8)
    for axes, (title, field) in zip(figure.subplots(1, 2, sharey=True), list(COLUMNS.items())[:2], strict=True):
        for i, name in enumerate(result.shown):
            values = result.of(name, field)
            axes.plot(values, np.full(len(values), i), "o", ms=5, alpha=0.7, color=CATEGORIES[i])
            axes.plot(PUBLISHED[name], i, "x", ms=6, mew=1.2, color=LIGHT["muted"])
        if field == "parzen":
            axes.axvline(next(iter(result.checks.values())), ls="--", lw=1, color=LIGHT["muted"])
        axes.set_yticks(range(len(result.shown)), list(result.shown))
        axes.set_xlabel(f"{title}, nats for each image")
        axes.grid(axis="x")
    axes.invert_yaxis()
    return figure
