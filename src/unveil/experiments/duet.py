"""A double bass and a flute are separated from one microphone with no example of either, by the moments in which one of them rests.

The example of a talk on identifiable factorial models (Subakan, 2018, doctoral thesis), which plays "almost perfect source separation"
and says that it is robust to the number of clusters, with no figures and no audio files: the score, the notes and the measures here
are ours.

Data: recorded notes of a contrabass and a flute at 16 kHz. Each instrument plays notes at random, one after the other (0.8 s and
0.45 s, so that the rhythms do not align), rests in 35 % of its slots, and has a random gain for each note; both are equally loud in
all, and a scene lasts 30 s. Only the sum is given.

* "graph": our procedure, for several numbers of clusters; nothing is told of the instruments but that there are two.
* "lasso": the recipe of the talk as it is: components are cluster centres that are no sparse non-negative combination of others.
* "ideal mask": the Wiener mask of the true parts, which no method of this kind can beat by much.
* "never alone": both instruments are muted wherever one of them rests, so that no component is ever heard alone. The theory says
  that nothing can be known then, and the model has to say so.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from unveil.audio.blind import BlindSeparation, separate_blind
from unveil.data import datasets
from unveil.errors import IdentifiabilityWarning, InputError
from unveil.kernels.stft import istft, stft
from unveil.kernels.wiener import wiener_masks
from unveil.metrics.bss import bss_eval
from unveil.models.revealing_factorial_hmm import UNEXPLAINED, RevealingFactorialHMM
from unveil.report.blind import activations_picture, residuals_picture
from unveil.report.figures import level_limits, spectrogram
from unveil.report.page import Card, Picture, Row, Section, Table, Text
from unveil.report.players import player, shared_gain

TITLE = "A duet taken apart blindly"
SAMPLE_RATE, SECONDS = 16000, 30.0
NOTE_SECONDS = {"contrabass": 0.8, "flute": 0.45}
RESTS = 0.35
MOST_NOTES = 5  # of each instrument
SKIPPED_SECONDS, FADE_SECONDS = 0.2, 0.0125  # of each note: its attack is left out, and both ends are faded
LEVEL = 0.1  # of each part, as a standard deviation
N_CLUSTERS = (60, 100, 150)
AUDIBLE = 1e-5  # of the loudest moment's power: below it a part rests
GRAPH, LASSO, IDEAL = "graph", "lasso", "ideal mask"
DUET, NEVER_ALONE = "duet", "never alone"


@dataclass(frozen=True)
class Outcome:
    """One separation.

    Attributes
    ----------
    scene : str
        DUET or NEVER_ALONE.
    method : str
        GRAPH, LASSO or IDEAL.
    n_clusters : int
        Of the frames; 0 for the ideal mask.
    seed : int
        Of the score.
    sdr : tuple of float
        In decibels, of the contrabass and the flute.
    warned : bool
        Whether the result was said to be in doubt.
    residual : float
        The share of energy that the components leave.
    """

    scene: str
    method: str
    n_clusters: int
    seed: int
    sdr: tuple[float, ...]
    warned: bool = False
    residual: float = float("nan")


@dataclass(frozen=True)
class DuetResult:
    """All separations, and one of them to look at and to listen to.

    Attributes
    ----------
    outcomes : list of Outcome
    parts : dict of str to ndarray
        The true parts of the first scene.
    shown : BlindSeparation
        What was found in it.
    curves : dict of str to ndarray
        The residual by the number of components, of the first scene of each kind.
    """

    outcomes: list[Outcome]
    parts: dict[str, np.ndarray]
    shown: BlindSeparation
    curves: dict[str, np.ndarray]

    @property
    def table(self) -> list[dict[str, object]]:
        """For each kind of scene and method, the SDR over all runs and both instruments."""
        kinds = dict.fromkeys((each.scene, each.method, each.n_clusters) for each in self.outcomes)
        return [
            _row(*kind, [each for each in self.outcomes if (each.scene, each.method, each.n_clusters) == kind]) for kind in kinds
        ]


def _row(scene: str, method: str, n_clusters: int, outcomes: list[Outcome]) -> dict[str, object]:
    sdr = np.array([each.sdr for each in outcomes])
    return {
        "scene": scene,
        "method": method,
        "clusters": n_clusters or None,
        "runs": len(outcomes),
        "seeds": [each.seed for each in outcomes],
        "mean SDR, dB": float(sdr.mean()),
        "standard deviation, dB": float(sdr.mean(1).std()),
        "contrabass, dB": float(sdr[:, 0].mean()),
        "flute, dB": float(sdr[:, 1].mean()),
        "worst, dB": float(sdr.min()),
        "largest residual": None if method == IDEAL else max(each.residual for each in outcomes),
        "warned": None if method == IDEAL else sum(each.warned for each in outcomes),
        "talk": "almost perfect, no figures" if (scene, method) == (DUET, LASSO) else None,
    }


def load_notes(sample_rate: int = SAMPLE_RATE) -> dict[str, list[np.ndarray]]:
    """Recordings of single notes by instrument: those in full length where the real data is, else the packaged ones."""
    try:
        found = datasets.load("instruments", sample_rate=sample_rate, instruments=list(NOTE_SECONDS))
    except InputError:
        found = datasets.load("notes", sample_rate=sample_rate, instruments=list(NOTE_SECONDS))
    played = np.asarray(found.target)
    return {name: [np.asarray(found.data[i]) for i in np.flatnonzero(played == name)[:MOST_NOTES]] for name in NOTE_SECONDS}


def compose(
    notes: Mapping[str, Sequence[np.ndarray]],
    seed: int,
    *,
    sample_rate: int = SAMPLE_RATE,
    seconds: float = SECONDS,
    rests: float = RESTS,
    note_seconds: Mapping[str, float] = NOTE_SECONDS,
) -> dict[str, np.ndarray]:
    """What each instrument plays, (n_samples,): notes and rests at random, all parts equally loud."""
    rng = np.random.default_rng(seed)
    n_samples, skipped = int(seconds * sample_rate), int(SKIPPED_SECONDS * sample_rate)
    parts = {}
    for name, recordings in notes.items():
        length, part = int(note_seconds[name] * sample_rate), np.zeros(n_samples)
        edge = np.arange(length) / (FADE_SECONDS * sample_rate)
        envelope = np.minimum(1.0, np.minimum(edge, edge[::-1]))
        for start in range(0, n_samples - length, length):
            if rng.random() >= rests:
                note = recordings[int(rng.integers(len(recordings)))][skipped : skipped + length]
                part[start : start + len(note)] = note * envelope[: len(note)] * rng.uniform(0.5, 1.0)
        parts[name] = LEVEL * part / part.std()
    return parts


def never_alone(parts: Mapping[str, np.ndarray], sample_rate: int = SAMPLE_RATE) -> dict[str, np.ndarray]:
    """The same with every part muted, with short fades, wherever one of them rests."""
    width = int(0.005 * sample_rate)
    window = np.hanning(width + 2)[1:-1] / np.hanning(width + 2).sum()
    powers = [np.convolve(part**2, np.ones(width) / width, "same") for part in parts.values()]
    together = np.all([power > AUDIBLE * power.max() for power in powers], axis=0)
    gate = np.convolve(together, window, "same") * together
    return {name: part * gate for name, part in parts.items()}


def ideal(parts: Mapping[str, np.ndarray], n_fft: int = 2048) -> np.ndarray:
    """What the Wiener masks of the true parts make of their mixture, (n_parts, n_samples)."""
    spectra = stft(torch.from_numpy(np.stack(list(parts.values()))), n_fft, n_fft // 4)
    return istft(wiener_masks(spectra.abs(), 2.0) * spectra.sum(0), n_fft, n_fft // 4, len(next(iter(parts.values())))).numpy()


def separate(parts: Mapping[str, np.ndarray], method: str, n_clusters: int) -> tuple[BlindSeparation | None, bool]:
    """What is found in the sum of the parts, None where only one source was; and whether a warning came with it."""
    model = RevealingFactorialHMM(method=method, n_clusters=n_clusters, random_state=0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", IdentifiabilityWarning)
        try:
            found = separate_blind(np.sum(list(parts.values()), axis=0), SAMPLE_RATE, len(parts), model=model)
        except InputError:
            return None, True
    return found, any(issubclass(each.category, IdentifiabilityWarning) for each in caught)


def run(quick: bool = False, on_progress: Callable[[float], object] = lambda fraction: None) -> DuetResult:
    """Eight scores, or two with only one number of clusters where it is to be ``quick``."""
    notes, seeds = load_notes(), range(2 if quick else 8)
    plan = [(DUET, GRAPH, n) for n in (N_CLUSTERS[1:2] if quick else N_CLUSTERS)]
    plan += [(DUET, LASSO, N_CLUSTERS[1]), (NEVER_ALONE, GRAPH, N_CLUSTERS[1])]
    outcomes, shown, curves = [], None, {}
    for done, (seed, (scene, method, n_clusters)) in enumerate(itertools.product(seeds, plan)):
        parts = compose(notes, seed)
        parts = never_alone(parts) if scene == NEVER_ALONE else parts
        found, warned = separate(parts, method, n_clusters)
        estimates = np.zeros((2, len(parts["flute"]))) if found is None else np.stack(list(found.sources.values()))
        residual = float("nan") if found is None else found.diagnostics.residual
        outcomes.append(Outcome(scene, method, n_clusters, seed, _sdr(parts, estimates), warned, residual))
        if seed == 0 and method == GRAPH and n_clusters == N_CLUSTERS[1] and found is not None:
            curves[scene] = found.diagnostics.residual_curve
            shown = found if scene == DUET else shown
        on_progress((done + 1) / (len(seeds) * len(plan)))
    outcomes += [Outcome(DUET, IDEAL, 0, seed, _sdr(compose(notes, seed), ideal(compose(notes, seed)))) for seed in seeds]
    if shown is None:
        raise InputError("the first duet was not taken apart; give more notes of each instrument")
    return DuetResult(outcomes, compose(notes, 0), shown, curves)


def _sdr(parts: Mapping[str, np.ndarray], estimates: np.ndarray) -> tuple[float, ...]:
    """SDR of each part in decibels, by the best permutation of the estimates; of silent ones that of the mixture, 0."""
    found = bss_eval(np.stack(list(parts.values())), estimates).sdr
    return tuple(float(each) for each in np.nan_to_num(found, nan=0.0))


def sections(result: DuetResult) -> list[Section]:
    """The figures, the sound of one scene, and what was found in it."""
    return [
        Section("Figures", [tabulate(result), Text(reading(result))]),
        Section("Listen", listen(result)),
        Section(
            "What was found",
            [
                activations_picture(result.shown.activations, result.shown.model.sources_, SAMPLE_RATE / result.shown.hop),
                residuals_picture(result.curves, UNEXPLAINED),
            ],
        ),
    ]


def tabulate(result: DuetResult) -> Table:
    """The table of the page, which is narrower than that of the file."""
    columns = ["scene", "method", "clusters", "mean", "deviation", "contrabass", "flute", "worst", "residual at most", "warned"]
    rows = [
        [
            *(row[name] for name in ("scene", "method", "clusters", "mean SDR, dB", "standard deviation, dB")),
            *(row[name] for name in ("contrabass, dB", "flute, dB", "worst, dB")),
            None if row["largest residual"] is None else f"{row['largest residual']:.3f}",
            None if row["warned"] is None else f"{row['warned']} of {row['runs']}",
        ]
        for row in result.table
    ]
    first = result.table[0]
    caption = f"SDR in dB (BSS-eval, 512 taps; 0 is the mixture), means over {first['runs']} scores, seeds {first['seeds']}."
    return Table(columns, rows, caption, digits=1)


def reading(result: DuetResult) -> str:
    """What the table says, and what it does not."""
    rows = {(row["scene"], row["method"], row["clusters"]): row for row in result.table}
    graph = [row for (scene, method, _), row in rows.items() if (scene, method) == (DUET, GRAPH)]
    means, worst = [float(row["mean SDR, dB"]) for row in graph], min(float(row["worst, dB"]) for row in graph)  # type: ignore[arg-type]
    lasso, best = rows[DUET, LASSO, N_CLUSTERS[1]], rows[DUET, IDEAL, None]
    alone = rows[NEVER_ALONE, GRAPH, N_CLUSTERS[1]]
    false_alarms, n_runs = sum(int(row["warned"]) for row in graph), sum(int(row["runs"]) for row in graph)  # type: ignore[call-overload]
    return (
        f"With {', '.join(str(row['clusters']) for row in graph)} clusters the mean SDR is "
        f"{', '.join(f'{mean:.1f}' for mean in means)} dB, and the worst instrument of the worst score has {worst:.1f} dB; "
        f"the ideal mask has {best['mean SDR, dB']:.1f} dB. The recipe of "
        f"the talk as it is has {lasso['mean SDR, dB']:.1f} dB, at worst {lasso['worst, dB']:.1f} dB: the threshold that tells components "
        f"from mixtures is hard to place on real sound. Of the duets that can be taken apart, {false_alarms} of {n_runs} were called "
        f"doubtful. Where neither instrument is ever heard alone, {alone['warned']} of {alone['runs']} were, and rightly: their mean SDR "
        f"is {alone['mean SDR, dB']:.1f} dB. Each note sounds the same whenever it returns, in one room with no echo; real "
        "performances are harder."
    )


def listen(result: DuetResult) -> list[Card | Row]:
    """Players of the mixture, the estimates and the true parts, with what they look like."""
    names = list(result.parts)
    mixture = np.sum(list(result.parts.values()), axis=0)
    estimates = np.stack(list(result.shown.sources.values()))
    order = bss_eval(np.stack(list(result.parts.values())), estimates).permutation
    sounds = {"Mixture": mixture} | {f"{name}, estimated": estimates[i] for name, i in zip(names, order, strict=True)}
    sounds |= {f"{name}, true": result.parts[name] for name in names}
    gain, limits = shared_gain(sounds.values()), level_limits(sounds.values(), SAMPLE_RATE)
    cards = [
        Card(
            name[0].upper() + name[1:],
            [
                player(sound, SAMPLE_RATE, name, gain=gain),
                Picture(spectrogram(sound, SAMPLE_RATE, limits=limits), f"Spectrogram: {name}.", timed=True),
            ],
        )
        for name, sound in sounds.items()
    ]
    return [cards[0], Row(cards[1:3]), Row(cards[3:5])]
