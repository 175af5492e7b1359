"""Spoken digits are told apart by a hidden Markov model for each, learned from its sound alone.

Data: the Free Spoken Digit Dataset. Sound becomes mel-frequency cepstral coefficients with their slopes; the chain of a digit goes
from left to right, x_t | z_t = m ~ N(mu_m, Sigma_m), from a flat start: each utterance cut into equal pieces, one for each state. An
utterance is the digit whose model gives it the highest likelihood (Rabiner, 1989).

There are two tables, on the same test recordings (takes 0 to 4, the split of the authors of the data). In the first the models
heard other takes of the same speakers; in the second they never heard the speaker. The settings were chosen on the takes from 5 on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix

from unveil.audio.features import mfcc
from unveil.data import datasets
from unveil.models.gaussian_hmm import GaussianHMM
from unveil.report.page import Section, Table, Text

TITLE = "Spoken digits: one left-to-right HMM for each"
FEATURES = {"n_coefficients": 13, "n_mels": 26, "normalize": "mean", "trim_db": 35.0}
N_STATES = 5
VARIANCE_FLOOR = 0.1  # of the covariances' eigenvalues: a digit has few frames for so many entries
TAKES, SPEAKER = "held-out takes", "held-out speaker"


@dataclass(frozen=True)
class SpokenDigits:
    """Test recordings and what they were taken for.

    Attributes
    ----------
    speakers : ndarray of shape (n,)
        Who spoke each test recording.
    digits : ndarray of shape (n,)
        What was said.
    heard : ndarray of shape (n,)
        What was recognised by models that learned from other takes of all speakers.
    unknown : ndarray of shape (n,), or None
        What was recognised by models that learned from the other speakers only.
    seconds : dict of str to float
        Time for the features, and for each of the two tables.
    """

    speakers: np.ndarray
    digits: np.ndarray
    heard: np.ndarray
    unknown: np.ndarray | None
    seconds: dict[str, float]

    @property
    def table(self) -> list[dict[str, object]]:
        """Accuracy on each speaker and on all, known and unknown to the models."""
        everyone = [(str(speaker), self.speakers == speaker) for speaker in np.unique(self.speakers)]
        columns = {TAKES: self.heard} | ({} if self.unknown is None else {SPEAKER: self.unknown})
        return [
            {"speaker": name, "recordings": int(chosen.sum())}
            | {column: float((found == self.digits)[chosen].mean()) for column, found in columns.items()}
            for name, chosen in [*everyone, ("all", np.ones(len(self.digits), bool))]
        ]

    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval for the accuracy on held-out takes."""
        found = binomtest(int((self.heard == self.digits).sum()), len(self.digits)).proportion_ci(method="wilson")
        return float(found.low), float(found.high)


@dataclass(frozen=True)
class Recognizer:
    """A model for each class of sequences: the class of a sequence is the one whose model makes it most likely."""

    models: dict[int, GaussianHMM]

    @classmethod
    def learn(cls, sequences: Sequence[np.ndarray], labels: np.ndarray, n_states: int = N_STATES) -> Recognizer:
        """One left-to-right model for each label, from the sequences (length, n_features) that have it."""
        classes = np.unique(labels)
        return cls({int(c): fit_left_right([sequences[i] for i in np.flatnonzero(labels == c)], n_states) for c in classes})

    def __call__(self, sequences: Sequence[np.ndarray]) -> np.ndarray:
        """The label of each sequence."""
        scores = np.stack([model.score_samples(list(sequences)) for model in self.models.values()])
        return np.array(list(self.models))[scores.argmax(0)]


def fit_left_right(sequences: list[np.ndarray], n_states: int) -> GaussianHMM:
    """A left-to-right chain with full covariances, from a flat start."""
    hmm = GaussianHMM(n_states, covariance_type="full", reg_covar=VARIANCE_FLOOR, transitions="bakis", tol=1e-3)
    return hmm.fit(sequences)


def run(quick: bool = False, on_progress: Callable[[float], object] = lambda fraction: None) -> SpokenDigits:
    """Learn and test; ``quick`` keeps to three digits and three speakers, and leaves out the second table."""
    chosen = {"digits": [1, 4, 7], "speakers": ["george", "jackson", "nicolas"]} if quick else {}
    train, test = (datasets.load("spoken_digits", subset=subset, **chosen) for subset in ("train", "test"))
    seconds: dict[str, float] = {}
    with _timing(seconds, "features"):
        known, tested = ([mfcc(x, data.sample_rate, **FEATURES) for x in data.data] for data in (train, test))
    with _timing(seconds, TAKES):
        heard = Recognizer.learn(known, train.target)(tested)
    on_progress(0.3)
    if quick:
        return SpokenDigits(test.groups, test.target, heard, None, seconds)
    with _timing(seconds, SPEAKER):
        unknown = np.empty_like(heard)
        for done, speaker in enumerate(speakers := np.unique(test.groups), 1):
            others, own = np.flatnonzero(train.groups != speaker), np.flatnonzero(test.groups == speaker)
            unknown[own] = Recognizer.learn([known[i] for i in others], train.target[others])([tested[i] for i in own])
            on_progress(0.3 + 0.7 * done / len(speakers))
    return SpokenDigits(test.groups, test.target, heard, unknown, seconds)


@contextmanager
def _timing(seconds: dict[str, float], name: str) -> Iterator[None]:
    begin = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - begin


def sections(result: SpokenDigits) -> list[Section]:
    """The accuracies by speaker, with their interval, and which digits were taken for which."""
    low, high = result.interval()
    columns, *_ = table = result.table
    accuracies = Table(
        [name if name in ("speaker", "recordings") else f"{name}, %" for name in columns],
        [[100 * cell if isinstance(cell, float) else cell for cell in row.values()] for row in table],
        "Recordings whose digit was recognised, in percent",
        digits=1,
    )
    digits = np.unique(result.digits)
    counts = confusion_matrix(result.digits, result.heard, labels=digits)
    confused = Table(
        ["said", *(f"heard {digit}" for digit in digits)],
        [[str(digit), *row.tolist()] for digit, row in zip(digits, counts, strict=True)],
        "What was heard for what was said, on held-out takes",
    )
    spent = ", ".join(f"{name} {value:.1f} s" for name, value in result.seconds.items())
    reading = f"On held-out takes the 95 % interval is {low:.1%} to {high:.1%} (Wilson). Time: {spent}."
    return [Section("Accuracy", [Text(reading), accuracies]), Section("Confusions", [confused])]
