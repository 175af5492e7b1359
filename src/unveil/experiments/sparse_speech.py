"""Speech is said again from sparse codes: how good it sounds, and how sparse the codes are, for VAE, VSC and SDM-VAE.

Power spectra of speech are zero-mean complex Gaussians whose variances a network makes from latent variables: Gaussian ones (VAE); ones
that are mostly zero (variational sparse coding; Tonolini et al., 2020); or combinations of a dictionary's atoms, each with a variance of
its own in each frame (SDM-VAE; Sadeghi and Magron, "A sparsity-promoting dictionary model for variational autoencoders", Interspeech
2022, where the published figures are from). A sound is said again from the posterior means, with its own phases.

Data: LibriSpeech; one utterance of each of 251 speakers of train-clean-100, 226 to learn from and 25 to stop by, and up to three of 2.5
to 8 s of each speaker of test-other to score. Waveforms are divided by their peaks; windows are halves of a sine of 64 ms, with an
overlap of 75 %. Networks have one hidden layer of 128 units (tanh); Adam with 1e-3, 128 frames at a time, 10 epochs, of which the best on
held-out speakers is kept.

Where we depart: the published figures are on TCD-TIMIT, with a tenth of the learning rate and up to 500 epochs, so only orderings can be
compared; and which band their PESQ is of is not known. STOI is higher here for all models. The prior of VSC is the one of the paper's
first version.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.base import BaseEstimator
from torch import Tensor

from unveil.audio.resynthesize import power_frames, resynthesize
from unveil.data import datasets
from unveil.errors import IdentifiabilityWarning
from unveil.kernels.divergences import beta_divergence
from unveil.metrics.sparsity import hoyer
from unveil.metrics.speech import score_speech
from unveil.models.sparse_dictionary_vae import SparseDictionaryVAE
from unveil.models.vae import VAE
from unveil.models.variational_sparse_coding import VariationalSparseCoding
from unveil.report.drawing import WHOLE, blank, styled
from unveil.report.page import Card, Fact, Facts, Picture, Row, Section, Table, Text
from unveil.report.players import player, shared_gain
from unveil.report.theme import CATEGORIES

TITLE = "Sparse codes of speech: VAE, VSC and SDM-VAE"
RATE = 16_000
N_HELD_OUT = 25  # speakers
HELD_OUT_STEP = 3  # of their frames, every third is enough to stop by
PER_SPEAKER, SHORTEST, LONGEST = 3, 2.5, 8.0  # utterances to score, in seconds
ACTIVE_NATS = 0.1
FLOOR = 1e-10  # of powers, whose logarithms are taken
SETTINGS = {"likelihood": "power", "hidden": 128, "activation": "tanh", "batch_size": 128, "max_epochs": 10, "patience": 4}
SCORES = ("PESQ wide", "PESQ narrow", "STOI", "ESTOI")
MEANS = {"Hoyer": "hoyer", "Hoyer, scaled": "hoyer_scaled", "KL": "kl", "Itakura-Saito": "distortion", "seconds": "seconds"}
READ = ("pesq", "n_active", "hoyer", "hoyer_scaled")
QUALITY = (*SCORES, "published PESQ", "published STOI")
OF_QUALITY = "Means over utterances and seeds. PESQ is given for both bands; which band the published one is of is not known"
SPARSITY = ("Hoyer", "Hoyer, scaled", "published Hoyer", "scales", "active")
OF_SPARSITY = (
    "Hoyer's measure (0 to 1) of codes as they are, and with each dimension divided by its root mean square; the smallest and the largest "
    f"of these scales, of the first seed; dimensions of more than {ACTIVE_NATS} nats, seed by seed"
)
LEARNING = ("PESQ, each seed", "Itakura-Saito", "KL", "seconds")
OF_LEARNING = "PESQ (wide) seed by seed; distortion and divergence of a frame; processor time of learning"


MODELS: dict[str, Callable[..., Any]] = {
    "VAE": VAE,
    **{f"VSC {alpha}": partial(VariationalSparseCoding, alpha=alpha, warmup_epochs=4) for alpha in (0.05, 0.5, 0.9)},
    "SDM identity": SparseDictionaryVAE,
    **{f"SDM DCT {n_atoms}": partial(SparseDictionaryVAE, dictionary="dct", n_atoms=n_atoms) for n_atoms in (32, 64)},
}
PUBLISHED = {  # PESQ, STOI and Hoyer, by the number of latent variables
    "VAE": {32: (3.29, 0.85, 0.40), 64: (3.26, 0.85, 0.56)},
    "VSC 0.05": {32: (3.00, 0.81, 0.57)},
    "VSC 0.5": {32: (3.25, 0.84, 0.54), 64: (3.32, 0.85, 0.65)},
    "VSC 0.9": {32: (3.25, 0.84, 0.47)},
    "SDM identity": {32: (3.33, 0.86, 0.64), 64: (3.45, 0.87, 0.73)},
    "SDM DCT 32": {32: (3.37, 0.86, 0.66), 64: (3.28, 0.84, 0.66)},
    "SDM DCT 64": {32: (3.32, 0.86, 0.87), 64: (3.33, 0.86, 0.76)},
}
UNKNOWN = (math.nan,) * 3


class Baseline(BaseEstimator):
    """Says each frame as it is, or as the mean of all frames: what phases leave to gain, and what they tell alone."""

    def __init__(self, mean: bool):
        self.mean = mean

    def fit(self, X: np.ndarray) -> Self:
        """Take down the mean."""
        self.n_features_in_, self.mean_ = X.shape[1], X.mean(0, dtype=np.float64)
        return self

    def reconstruct(self, X: Tensor) -> Tensor:
        """X, or the mean for each row."""
        return X.new_tensor(self.mean_).expand_as(X) if self.mean else X


BASELINES = {"true magnitudes": Baseline(mean=False), "mean spectrum": Baseline(mean=True)}


@dataclass(frozen=True)
class Speech:
    """What is learned from, stopped by, and scored."""

    learned: np.ndarray  # (n_frames, n_frequencies)
    held_out: np.ndarray
    utterances: list[np.ndarray]


@dataclass(frozen=True)
class Fit:
    """One model, learned with one seed."""

    model: str
    n_latent: int
    seed: int
    scores: tuple[float, ...]  # means over the utterances, as SCORES
    hoyer: float  # mean over the frames
    hoyer_scaled: float  # after each dimension was divided by its root mean square
    scales: tuple[float, float]  # the smallest and the largest root mean square of a dimension that is active
    n_active: int  # dimensions of more than ACTIVE_NATS
    n_codes: int
    kl: float  # nats in a frame
    distortion: float  # Itakura-Saito divergence of a frame from how it is said again
    seconds: float  # of processor time, of learning
    said_again: np.ndarray  # the first utterance

    @property
    def pesq(self) -> float:
        """Of the wide band."""
        return self.scores[0]


@dataclass(frozen=True)
class SparseSpeech:
    """All fits, the scores of the baselines, and how much data there was."""

    fits: tuple[Fit, ...]
    baselines: dict[str, tuple[float, ...]]
    utterance: np.ndarray
    n_learned: int
    n_utterances: int

    @property
    def table(self) -> list[dict[str, object]]:
        """A row for each model and number of latent variables: means over seeds, the spread of PESQ, and the published figures."""
        rows = []
        for model, n_latent in dict.fromkeys((fit.model, fit.n_latent) for fit in self.fits):
            chosen = self.of(model, n_latent)
            scores = np.array([fit.scores for fit in chosen])
            published = PUBLISHED[model].get(n_latent, UNKNOWN)
            rows.append(
                {"model": model, "latent": n_latent, "seeds": [fit.seed for fit in chosen]}
                | dict(zip(SCORES, scores.mean(0).tolist(), strict=True))
                | {name: self.mean(model, n_latent, of) for name, of in MEANS.items()}
                | {"PESQ, each seed": scores[:, 0].tolist(), "active": [fit.n_active for fit in chosen]}
                | {"codes": chosen[0].n_codes, "scales": list(chosen[0].scales)}
                | dict(zip(("published PESQ", "published STOI", "published Hoyer"), published, strict=True))
            )
        rows += [{"model": name} | dict(zip(SCORES, scores, strict=True)) for name, scores in self.baselines.items()]
        return rows

    def of(self, model: str, n_latent: int) -> list[Fit]:
        """The fits of one model, seed by seed."""
        return [fit for fit in self.fits if (fit.model, fit.n_latent) == (model, n_latent)]

    def mean(self, model: str, n_latent: int, what: str) -> float:
        """A number of a model's fits, as the mean over its seeds; NaN where they have none of this name."""
        return float(np.mean([getattr(fit, what, math.nan) for fit in self.of(model, n_latent)]))


def run(quick: bool = False, on_progress: Callable[[float], object] = lambda fraction: None) -> SparseSpeech:
    """All models with 32 and 64 latent variables, three seeds of VAE and SDM-VAE with 64; ``quick`` learns from a fifth of the data."""
    cases = [(model, n_latent, 0) for n_latent in (32, 64) for model in MODELS]
    if quick:
        cases = [(model, n_latent, 0) for n_latent in (32, 64) for model in ("VAE", "VSC 0.05", "VSC 0.9", "SDM identity")]
        return measure(load_speech(n_speakers=50, n_held_out=8, per_speaker=1), cases, on_progress)
    cases += [(model, 64, seed) for seed in (1, 2) for model in ("VAE", "SDM identity")]
    return measure(load_speech(), cases, on_progress)


def load_speech(n_speakers: int | None = None, n_held_out: int = N_HELD_OUT, per_speaker: int = PER_SPEAKER) -> Speech:
    """LibriSpeech, split by speaker."""
    found = datasets.load("librispeech", subset="train-clean-100", sample_rate=RATE)
    groups = np.asarray(found.groups)
    speakers = np.random.default_rng(0).permutation(np.unique(groups))[:n_speakers]
    of_all = (np.flatnonzero(np.isin(groups, chosen)).tolist() for chosen in (speakers[n_held_out:], speakers[:n_held_out]))
    learned, held_out = (power_frames([found.data[i] for i in chosen], RATE) for chosen in of_all)
    return Speech(learned, held_out[::HELD_OUT_STEP], _utterances(per_speaker))


def _utterances(per_speaker: int) -> list[np.ndarray]:
    """The first ones of each speaker whose length is right."""
    found = datasets.load("librispeech", subset="test-other", sample_rate=RATE)
    groups, chosen = np.asarray(found.groups), []
    for speaker in np.unique(groups):
        sounds = (found.data[i] for i in np.flatnonzero(groups == speaker).tolist())
        chosen += [sound for sound in sounds if SHORTEST <= len(sound) / RATE <= LONGEST][:per_speaker]
    return chosen


def measure(
    speech: Speech,
    cases: Sequence[tuple[str, int, int]],
    on_progress: Callable[[float], object] = lambda fraction: None,
    **changes: Any,
) -> SparseSpeech:
    """Learn and score every case (model, number of latent variables, seed); ``changes`` of the settings are for tests."""
    fits = []
    for case in cases:
        fits.append(learn(speech, *case, **changes))
        on_progress(len(fits) / len(cases))
    baselines = {name: _scores(baseline.fit(speech.learned), speech.utterances)[0] for name, baseline in BASELINES.items()}
    return SparseSpeech(tuple(fits), baselines, speech.utterances[0], len(speech.learned), len(speech.utterances))


def learn(speech: Speech, model: str, n_latent: int, seed: int, **changes: Any) -> Fit:
    """Learn one model, say the utterances again, and look at their codes."""
    estimator = MODELS[model](n_latent, **SETTINGS | changes, random_state=seed)
    begin = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", IdentifiabilityWarning)  # how many dimensions are in use is in the table
        estimator.fit(speech.learned, validation=speech.held_out)
    seconds = time.process_time() - begin
    scores, said_again = _scores(estimator, speech.utterances)
    frames = power_frames(speech.utterances, RATE)
    codes, spectra = estimator.transform(frames), torch.from_numpy(estimator.reconstruct(frames))
    divergences, scales = estimator.kl_per_dimension_, np.sqrt(np.square(codes).mean(0))
    active = divergences > ACTIVE_NATS
    raw, scaled = (float(hoyer(codes, scaled=scaled).mean()) for scaled in (False, True))
    range_of_scales = float(scales[active].min(initial=np.inf)), float(scales[active].max(initial=0.0))
    distortion = float(beta_divergence(torch.from_numpy(frames) + FLOOR, spectra, 0).mean())
    used = int(active.sum()), len(active), float(divergences.sum())
    return Fit(model, n_latent, seed, scores, raw, scaled, range_of_scales, *used, distortion, seconds, said_again)


def _scores(estimator: Any, utterances: Sequence[np.ndarray]) -> tuple[tuple[float, ...], np.ndarray]:
    """Mean PESQ of both bands, STOI and extended STOI; and the first utterance as it is said again."""
    again = [resynthesize(utterance, RATE, estimator) for utterance in utterances]
    return tuple(score_speech(zip(utterances, again, strict=True), RATE).means().values()), again[0]


def sections(result: SparseSpeech) -> list[Section]:
    """Quality and sparsity of all models, which published orderings hold, and sound."""
    rows = [row for row in result.table if "latent" in row]
    facts = [Fact(f"PESQ of {name}", scores[0]) for name, scores in result.baselines.items()]
    facts += [Fact("frames to learn from", result.n_learned), Fact("utterances to score", result.n_utterances)]
    picture = Picture(
        sparsity_figure(result),
        "PESQ over Hoyer's sparsity of all fits, twice: of codes as they are, and of codes whose dimensions were made of one scale.",
        "Each mark is a fit. Left: codes as they are. Right: each dimension divided by its root mean square.",
    )
    return [
        Section("Quality", [Facts(facts), _table(rows, QUALITY, OF_QUALITY)]),
        Section("Sparsity", [_table(rows, SPARSITY, OF_SPARSITY), picture]),
        Section("What holds", [Text(_reading(result)), _claims(result)]),
        Section("Learning", [_table(rows, LEARNING, OF_LEARNING)]),
        Section("To listen", [_players(result)]),
    ]


def _table(rows: Sequence[dict], names: Sequence[str], caption: str) -> Table:
    """A row for each model, with some of its figures; several numbers in a cell where there are several."""
    cells = [[f"{row['model']}, {row['latent']}", *(_joined(row[name]) for name in names)] for row in rows]
    return Table(["model", *names], cells, caption, digits=2)


def _joined(value: Any) -> Any:
    several = value if isinstance(value, list) else []
    return " / ".join(str(each) if isinstance(each, int) else f"{each:.2f}" for each in several) or value


def claims(result: SparseSpeech) -> Iterator[tuple[str, float, float, float]]:
    """Which models are above which in the publication, by how much there, by how much here, and of sparsity with scaled codes."""
    known = {(fit.model, fit.n_latent) for fit in result.fits}
    sdm = [(("SDM identity", n), ("VAE", n)) for n in (32, 64)]
    larger = [((model, 64), (model, 32)) for model in ("VAE", "SDM identity")]
    vsc = [((f"VSC {more}", n), (f"VSC {less}", n)) for n in (32, 64) for more, less in ((0.05, 0.5), (0.5, 0.9))]
    for name, column, what, pairs in (("PESQ", 0, "pesq", sdm + larger), ("Hoyer", 2, "hoyer", sdm + vsc)):
        for pair in pairs:
            if not known.issuperset(pair):
                continue
            there = [PUBLISHED[model].get(n_latent, UNKNOWN)[column] for model, n_latent in pair]
            here, scaled = (result.mean(*pair[0], of) - result.mean(*pair[1], of) for of in (what, f"{what}_scaled"))
            text = "{}: {}, {} above {}, {}".format(name, *pair[0], *pair[1])
            yield text, there[0] - there[1], here, scaled


def _claims(result: SparseSpeech) -> Table:
    columns = ["what was published", "by", "here", "holds", "scaled"]
    rows = [
        [text, there, here, None if math.isnan(there) else there * here > 0, scaled] for text, there, here, scaled in claims(result)
    ]
    return Table(columns, rows, "Differences of means over seeds; of Hoyer's measure also with scaled codes", digits=2)


def _reading(result: SparseSpeech) -> str:
    """What to make of it, with the figures."""
    said = []
    for n in (n for n in (32, 64) if result.of("VAE", n) and result.of("SDM identity", n)):
        sdm, vae = ([result.mean(model, n, what) for what in READ] for model in ("SDM identity", "VAE"))
        numbers = [each for pair in zip(sdm, vae, strict=True) for each in pair]
        said.append(
            "With {} latent variables SDM-VAE has PESQ {:.2f} and VAE {:.2f}; {:.0f} and {:.0f} dimensions are active. Hoyer's measure of "
            "their codes is {:.2f} and {:.2f}, but {:.2f} and {:.2f} once all dimensions have one scale.".format(n, *numbers)
        )
    said.append(
        "Where a VAE uses all its dimensions, sparsity has none to free. Free prior variances leave the scale of each dimension free, and "
        "unlike scales look like sparsity: it is the scaled measure that tells how few dimensions a frame needs."
    )
    spread = max(np.ptp([fit.pesq for fit in result.of(fit.model, fit.n_latent)]) for fit in result.fits)
    if spread:
        said.append(
            f"PESQ of one model differs by up to {spread:.2f} between seeds: smaller differences of single fits tell nothing."
        )
    return " ".join(said)


@styled
def sparsity_figure(result: SparseSpeech) -> Figure:
    """PESQ over Hoyer's measure, of codes as they are and scaled."""
    figure = blank(WHOLE, 3.8)
    for axes, scaled in zip(figure.subplots(1, 2, sharey=True, sharex=True), (False, True), strict=True):
        for colour, model in zip(CATEGORIES, MODELS, strict=False):
            for n_latent, marker in ((32, "o"), (64, "s")):
                fits = result.of(model, n_latent)
                label = f"{model}, {n_latent}" if fits and not scaled else None
                x = [fit.hoyer_scaled if scaled else fit.hoyer for fit in fits]
                axes.scatter(
                    x, [fit.pesq for fit in fits], marker=marker, s=30, color=colour, alpha=0.85, linewidths=0, label=label
                )
        axes.set_xlabel("Hoyer's measure, one scale" if scaled else "Hoyer's measure")
    figure.axes[0].set_ylabel("PESQ, wide band")
    figure.legend(loc="outside right upper")
    return figure


def _players(result: SparseSpeech) -> Row:
    """The first utterance, and how each model says it."""
    again = {f"{fit.model}, {fit.n_latent}": fit.said_again for fit in result.fits if not fit.seed}
    sounds = {"Original": result.utterance} | again
    gain = shared_gain(sounds.values())
    cards = [Card(name, [player(sound, RATE, name, gain=gain)]) for name, sound in sounds.items()]
    return Row(cards)
