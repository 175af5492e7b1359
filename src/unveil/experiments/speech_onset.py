"""When words begin is found by a cyclic hidden Markov model, which the method of moments starts and a few EM iterations finish.

A chain that stays or goes on to the next state, from the last one to the first, goes round once for each word; its state of lowest
energy is the silence between words, and an onset is where the most probable path leaves it. It learns without labels. From moments the
order of the states is a travelling-salesman problem; EM from random means, beside it, has to be lucky. (Subakan, Traa, Smaragdis and
Hsu, "Method of moments learning for left-to-right hidden Markov models", WASPAA 2015; and the thesis talk of C. Subakan, 2018, whose
figure of run time against F-measure gives no numbers.)

Data: the Free Spoken Digit Dataset, since the recordings of the source are not known. It has 20 takes of a digit by a speaker. Of
them 12 are strung to 30 words to learn from and the other 8 to 20 words to test, all takes about equally often, with gaps of 0.2 to
0.6 s drawn for each, and coloured noise. The true onset is where the word was put, after its silence was cut off. The features and
the rule for silence were chosen by F-measure with other seeds, but from the same takes, most of them of "seven": expect less of others.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from unveil.audio.features import trim_silence
from unveil.audio.onsets import HOP, VARIANCE_FLOOR, OnsetDetector, cyclic_hmm, onset_features
from unveil.data import datasets
from unveil.errors import IdentifiabilityWarning
from unveil.metrics.onsets import onset_f_measure
from unveil.models.gaussian_hmm import GaussianHMM
from unveil.report.drawing import WHOLE, blank, draw_image, styled
from unveil.report.page import Card, Picture, Section, Table, Text
from unveil.report.players import player
from unveil.report.theme import CATEGORIES, LIGHT, category_colours

TITLE = "Speech onsets: a cyclic HMM, by moments and by EM"
SPEAKER, DIGIT = "jackson", 7
OTHER_SPEAKERS, OTHER_DIGITS = ("george", "lucas", "nicolas", "theo", "yweweler"), (0, 1, 2, 3, 4, 5, 6, 8, 9)
SNRS = (20, 10)  # dB
SEEDS = tuple(range(100, 105))
N_LEARNED_TAKES, N_LEARNED_WORDS, N_TESTED_WORDS = 12, 30, 20
GAPS = (0.2, 0.6)  # seconds
COLOUR = (1.0, 0.7, 0.4, 0.2)  # the filter that colours the noise
TRIM_DB = 26.0
N_STATES, N_RANDOM_STARTS = 6, 5
MOMENTS, RANDOM, BEST, THRESHOLD = "moments", "random", f"best of {N_RANDOM_STARTS} random", "energy threshold"
ITERATIONS = {MOMENTS: (0, 2, 5, 20), RANDOM: (5, 20, 60)}
N_SHOWN_WORDS = 8


@dataclass(frozen=True)
class Words:
    """Words strung together in noise."""

    samples: np.ndarray  # (n_samples,)
    onsets: np.ndarray  # (n_words,), in seconds


@dataclass(frozen=True)
class Run:
    """One model learned from one string of words, and tested on another."""

    speaker: str
    digit: int
    snr: int  # dB
    start: str  # where EM began; or "energy threshold"
    n_iter: int  # of EM
    seed: int
    f_measure: float  # within 50 ms
    seconds: float  # processor time of learning
    log_likelihood: float = float("nan")  # of what was learned from

    @property
    def setting(self) -> tuple[str, int, int, str, int]:
        """What it has in common with its repetitions."""
        return self.speaker, self.digit, self.snr, self.start, self.n_iter


@dataclass(frozen=True)
class SpeechOnset:
    """All runs; and a detector with words that it has not heard, to look at and to listen to."""

    runs: tuple[Run, ...]
    detector: OnsetDetector
    words: Words

    @property
    def table(self) -> list[dict[str, object]]:
        """One row for each speaker, digit, level of noise, start and number of iterations: means over runs, and their spread."""
        names = ("speaker", "digit", "SNR, dB", "start", "EM iterations")
        rows = []
        for setting in dict.fromkeys(run.setting for run in self.runs):
            chosen = [run for run in self.runs if run.setting == setting]
            scores = np.array([run.f_measure for run in chosen])
            measured = {"F": scores.mean(), "spread": scores.std(), "worst": scores.min()}
            measured["seconds"] = np.median([run.seconds for run in chosen])
            seeds = {"runs": len(chosen), "seeds": sorted({run.seed for run in chosen})}
            rows.append(dict(zip(names, setting, strict=True)) | {name: float(x) for name, x in measured.items()} | seeds)
        return rows


@dataclass(frozen=True)
class Takes:
    """All takes of one word by one speaker, without the silence around them."""

    speaker: str
    digit: int
    sounds: tuple[np.ndarray, ...]
    sample_rate: int

    @classmethod
    def load(cls, speaker: str, digit: int) -> Takes:
        """Read them, each as loud as full scale."""
        data = datasets.load("spoken_digits", speakers=[speaker], digits=[digit])
        trimmed = (trim_silence(x / np.abs(x).max(), data.sample_rate, threshold_db=TRIM_DB) for x in data.data)
        return cls(speaker, digit, tuple(trimmed), data.sample_rate)

    def learned_and_tested(self, snr: int, seed: int) -> tuple[Words, Words]:
        """A string of words of some takes, and one of the others."""
        rng = np.random.default_rng(seed)
        shuffled = rng.permutation(len(self.sounds))
        learned, tested = shuffled[:N_LEARNED_TAKES], shuffled[N_LEARNED_TAKES:]
        return self._string(learned, N_LEARNED_WORDS, snr, rng), self._string(tested, N_TESTED_WORDS, snr, rng)

    def _string(self, takes: np.ndarray, n_words: int, snr: int, rng: np.random.Generator) -> Words:
        order = np.concatenate([rng.permutation(takes) for _ in range(-(-n_words // len(takes)))])[:n_words]
        pieces, onsets, n_samples = [], [], 0
        for take in order:
            gap = np.zeros(round(rng.uniform(*GAPS) * self.sample_rate))
            onsets.append((n_samples + len(gap)) / self.sample_rate)
            pieces += [gap, self.sounds[take]]
            n_samples += len(gap) + len(self.sounds[take])
        clean = np.concatenate([*pieces, np.zeros(round(GAPS[0] * self.sample_rate))])
        noise = np.convolve(rng.normal(size=len(clean)), COLOUR, "same")
        power = np.square(np.concatenate([self.sounds[take] for take in order])).mean()
        noise *= np.sqrt(power / np.square(noise).mean() / 10 ** (snr / 10))
        return Words(clean + noise, np.array(onsets))


def random_start(frames: np.ndarray, n_iter: int, rng: np.random.Generator) -> GaussianHMM:
    """EM from means that are frames drawn at random, variances of 1, and a random cyclic transition matrix."""
    stay = rng.uniform(size=N_STATES)
    return GaussianHMM(
        N_STATES,
        transitions="cyclic",
        max_iter=n_iter,
        tol=0.0,
        reg_covar=VARIANCE_FLOOR,
        startprob_init=np.full(N_STATES, 1 / N_STATES),
        fixed=("startprob",),
        transmat_init=np.diag(stay) + np.roll(np.diag(1 - stay), 1, axis=1),
        means_init=frames[rng.choice(len(frames), N_STATES, replace=False)],
        covariances_init=np.ones((N_STATES, frames.shape[1])),
    )


def energy_threshold(samples: np.ndarray, sample_rate: int) -> np.ndarray:
    """Onsets where the mean of the features rises through the middle between its 20 % and its 80 % quantile."""
    energy = onset_features(samples, sample_rate).mean(1)
    loud = energy > np.quantile(energy, [0.2, 0.8]).mean()
    return (np.flatnonzero(~loud[:-1] & loud[1:]) + 1) * round(HOP * sample_rate) / sample_rate


def _runs(takes: Takes, snr: int, seed: int, iterations: dict[str, Sequence[int]]) -> Iterator[Run]:
    """All starts on one pair of strings."""
    learned, tested = takes.learned_and_tested(snr, seed)
    frames = onset_features(learned.samples, takes.sample_rate)
    about = (takes.speaker, takes.digit, snr)

    def run(start: str, hmm: GaussianHMM) -> Run:
        begin = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", IdentifiabilityWarning)  # the table says how good it is
            hmm.fit(frames)
        seconds = time.process_time() - begin
        score = onset_f_measure(tested.onsets, OnsetDetector(hmm, takes.sample_rate)(tested.samples)).f_measure
        return Run(*about, start, hmm.max_iter, seed, score, seconds, float(hmm.score(frames)))

    for n_iter in iterations.get(MOMENTS, ()):
        yield run(MOMENTS, cyclic_hmm(N_STATES, init="moments", max_iter=n_iter, random_state=seed))
    for n_iter in iterations.get(RANDOM, ()):
        starts = [run(RANDOM, random_start(frames, n_iter, np.random.default_rng([seed, i]))) for i in range(N_RANDOM_STARTS)]
        yield from starts
        best, seconds = max(starts, key=lambda each: each.log_likelihood), sum(each.seconds for each in starts)
        yield Run(*about, BEST, n_iter, seed, best.f_measure, seconds, best.log_likelihood)
    found = energy_threshold(tested.samples, takes.sample_rate)
    yield Run(*about, THRESHOLD, 0, seed, onset_f_measure(tested.onsets, found).f_measure, 0.0)


def run(quick: bool = False, on_progress: Callable[[float], object] = lambda fraction: None) -> SpeechOnset:
    """Learn and test with every start; ``quick`` keeps to one speaker's "seven", two seeds and few iterations."""
    few = {MOMENTS: (5,), RANDOM: (20,)}
    takes = Takes.load(SPEAKER, DIGIT)
    jobs = [(takes, snr, seed, few if quick else ITERATIONS) for snr in SNRS for seed in (SEEDS[:2] if quick else SEEDS)]
    if not quick:
        others = [(speaker, DIGIT) for speaker in OTHER_SPEAKERS] + [(SPEAKER, digit) for digit in OTHER_DIGITS]
        jobs += [(Takes.load(*other), snr, seed, few) for other in others for snr in SNRS for seed in SEEDS]
    list(_runs(takes, SNRS[0], SEEDS[0], few))  # what is compiled at its first use shall not count
    runs: list[Run] = []
    for done, job in enumerate(jobs, 1):
        runs += _runs(*job)
        on_progress(done / len(jobs))
    learned, tested = takes.learned_and_tested(SNRS[-1], SEEDS[0])
    detector = OnsetDetector.learn(learned.samples, takes.sample_rate, n_states=N_STATES, random_state=SEEDS[0])
    return SpeechOnset(tuple(runs), detector, tested)


def sections(result: SpeechOnset) -> list[Section]:
    """The F-measures, against run time and in a table; other speakers and digits; and one detection to listen to."""
    own = [row for row in result.table if (row["speaker"], row["digit"]) == (SPEAKER, DIGIT)]
    others = [row for row in result.table if row not in own]
    picture = Picture(
        run_time_figure(own, [run for run in result.runs if (run.speaker, run.digit) == (SPEAKER, DIGIT)]),
        "F-measure over processor time, one panel for each level of noise, for EM from moments and from random starts.",
        "Numbers are EM iterations, the fewest and the most. Triangles: single random starts, whose mean is the line. Dashed: a threshold.",
    )
    found = [
        Section("F-measure and run time", [Text(_reading(own)), picture, _table(own)]),
        Section("A detection", [_detection(result.detector, result.words)]),
    ]
    return found + ([Section("Other speakers and digits", _of_others(others))] if others else [])


def _table(rows: Sequence[dict]) -> Table:
    columns = ["SNR, dB", "start", "EM iterations", "runs", "F", "spread", "worst", "seconds"]
    cells = [[str(row["SNR, dB"]), *(row[column] for column in columns[1:])] for row in rows]
    caption = "F-measure within 50 ms: mean, standard deviation and least over runs; processor time of learning: median"
    return Table(columns, cells, caption, digits=3)


def _reading(rows: Sequence[dict]) -> str:
    """What the numbers say, whichever way they come out."""
    said = [f'{SPEAKER}\'s "seven"; {len(rows[0]["seeds"])} seeds.']
    for snr in SNRS:
        ours = next(row for row in rows if (row["SNR, dB"], row["start"], row["EM iterations"]) == (snr, MOMENTS, 5))
        as_good = [row for row in rows if row["SNR, dB"] == snr and row["start"] in (RANDOM, BEST) and row["F"] >= ours["F"]]
        other = min(as_good, key=lambda row: row["seconds"], default=None)
        said.append(f"At {snr} dB moments and 5 EM iterations have F = {ours['F']:.3f}, at worst {ours['worst']:.3f},")
        said.append(f"in {ours['seconds']:.3f} s of processor time; EM from random starts")
        if other is None:
            said.append("does not reach that.")
        else:
            said.append(f"reaches that in {other['seconds']:.3f} s ({other['start']}, {other['EM iterations']} iterations).")
    return " ".join(said)


def _of_others(rows: Sequence[dict]) -> list[Text | Table]:
    """Other words, one in each row."""
    shown = [(snr, start) for snr in SNRS for start in (MOMENTS, BEST)]
    score = {(row["speaker"], row["digit"], row["SNR, dB"], row["start"]): row["F"] for row in rows}
    words = list(dict.fromkeys((row["speaker"], row["digit"]) for row in rows))
    scores = np.array([[score[*word, *column] for column in shown] for word in words])
    cells = [[f"{speaker} {digit}", *row] for (speaker, digit), row in zip(words, scores.tolist(), strict=True)]
    cells.append(["mean", *scores.mean(0).tolist()])
    gain = scores[:, ::2] - scores[:, 1::2]
    said = (
        "The same settings, with 5 EM iterations from moments, and 20 from random starts, of which the likeliest is taken. By more than "
        f"0.02 moments are better in {(gain > 0.02).sum()} of {gain.size} cases, and worse in {(gain < -0.02).sum()}."
    )
    names = ["speaker, digit", *(f"{start}, {snr} dB" for snr, start in shown)]
    return [Text(said), Table(names, cells, f"F-measure within 50 ms: mean over {len(rows[0]['seeds'])} seeds", digits=2)]


@styled
def run_time_figure(rows: Sequence[dict], runs: Sequence[Run]) -> Figure:
    """F-measure over processor time, one panel for each level of noise."""
    figure = blank(WHOLE, 3.8)
    for axes, snr in zip(figure.subplots(1, len(SNRS), sharey=True, sharex=True), SNRS, strict=True):
        here = [row for row in rows if row["SNR, dB"] == snr]
        single = [(each.seconds, each.f_measure) for each in runs if each.snr == snr and each.start == RANDOM]
        axes.scatter(*zip(*single, strict=True), marker="^", s=14, color=CATEGORIES[1], alpha=0.3, linewidths=0)
        for start, colour in ((MOMENTS, CATEGORIES[0]), (RANDOM, CATEGORIES[1]), (BEST, CATEGORIES[2])):
            _draw_start(axes, [row for row in here if row["start"] == start], start, colour)
        threshold = next(row["F"] for row in here if row["start"] == THRESHOLD)
        axes.axhline(threshold, color=LIGHT["muted"], linestyle="--", linewidth=1, label=THRESHOLD)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("processor time of learning (s)")
        axes.set_title(f"{snr} dB")
    figure.axes[0].set_ylabel("F-measure within 50 ms")
    figure.axes[0].set_ylim(max(0.0, min(run.f_measure for run in runs) - 0.05), 1.05)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    return figure


def _draw_start(axes: Axes, rows: Sequence[dict], start: str, colour: str) -> None:
    seconds, scores = [row["seconds"] for row in rows], [row["F"] for row in rows]
    axes.plot(seconds, scores, marker="o", markersize=4, color=colour, label=start)
    for row in (rows[0], rows[-1]):
        offset = (0, 6) if start == MOMENTS else (0, -13)
        place, text = (row["seconds"], row["F"]), str(row["EM iterations"])
        axes.annotate(text, place, offset, textcoords="offset points", ha="center", color=colour, size=8)


def _detection(detector: OnsetDetector, words: Words) -> Card:
    """The first words, to listen to."""
    until = words.onsets[N_SHOWN_WORDS] - GAPS[0] / 2
    words = Words(words.samples[: round(until * detector.sample_rate)], words.onsets[:N_SHOWN_WORDS])
    picture = Picture(
        detection_figure(detector, words),
        f"Mel bands over {until:.1f} s with {N_SHOWN_WORDS} true onsets and {len(detector(words.samples))} found ones, above the states.",
        "Triangles on top are true onsets, lines are found ones. Below: the state of each frame; pale is silence.",
        timed=True,
    )
    heard = player(words.samples / np.abs(words.samples).max(), detector.sample_rate, "Words in noise")
    return Card(f"Words at {SNRS[-1]} dB, by moments and 5 EM iterations", [heard, picture])


@styled
def detection_figure(detector: OnsetDetector, words: Words) -> Figure:
    """The features over time, with onsets, above the states."""
    features, states = onset_features(words.samples, detector.sample_rate), detector.states(words.samples)
    (n_frames, n_bands), half = features.shape, detector.hop / 2  # frames are centred on their times
    figure = blank(WHOLE, 3.0)
    bands, strip = figure.subplots(2, 1, sharex=True, height_ratios=[1, 0.12])
    draw_image(bands, features.T, (-half, n_frames * detector.hop - half, 0, n_bands), (None, None))
    bands.vlines(detector(words.samples), 0, n_bands, color="white", linewidth=1.2)
    bands.plot(words.onsets, np.full(len(words.onsets), n_bands + 0.8), "v", color=CATEGORIES[1], markersize=6, clip_on=False)
    bands.set_ylabel("mel band")
    colours = category_colours(N_STATES)
    for first, after in pairwise(np.flatnonzero(np.diff(states, prepend=-1, append=-1))):
        alpha = 0.2 if detector.silent_states[states[first]] else 1.0
        place = (np.array([first, after]) * detector.hop - half).clip(0)
        strip.axvspan(*place, color=colours[states[first]], alpha=alpha, linewidth=0)
    strip.set_yticks([])
    strip.set_ylabel("state")
    strip.set_xlabel("time (s)")
    strip.set_xlim(0, len(words.samples) / detector.sample_rate)
    return figure
