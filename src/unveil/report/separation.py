"""The report of a separation: what went in, what came out, and how good it is."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from unveil.errors import InputError
from unveil.report import figures
from unveil.report.fitted import dictionary_picture, learning_curve
from unveil.report.page import Card, Page, Picture, Row, Section, Table, Text, write_page
from unveil.report.players import LONGEST_SECONDS, as_channels, excerpt, player, quieter, shared_gain
from unveil.report.provenance import how_this_was_made, parameter_table

if TYPE_CHECKING:
    from unveil.audio.separate import Separator

METRICS = {
    "SDR": "signal to distortion: all that is wrong with the estimate together",
    "SIR": "signal to interference: how little of the other sources is left in it",
    "SAR": "signal to artifacts: how little the separation itself added, such as warbling and hiss",
    "SI-SDR": "scale-invariant signal to distortion: all that is wrong, except for loudness",
    "SNR": "signal to noise: the source against the difference between the source and the estimate",
    "ISR": "source image to spatial distortion: how well tone and place are kept",
}


def separation_report(
    path: str | os.PathLike,
    *,
    mixture: np.ndarray,
    estimates: Mapping[str, np.ndarray],
    sample_rate: float,
    references: Mapping[str, np.ndarray] | None = None,
    scores: Mapping[str, Mapping[str, float]] | None = None,
    separator: Separator | None = None,
    learned: str = "learned from clean examples of each",
    found: Sequence[Section] = (),
    title: str | None = None,
    command: str | None = None,
) -> Path:
    """Write a page to listen to a separation, to look at it, and to see how it was scored.

    Sounds that are longer than a minute are played and shown for their first minute.

    Parameters
    ----------
    path : path
        The HTML file to write.
    mixture : ndarray of shape (n_samples,) or (n_channels, n_samples)
        What was separated; full scale is 1.
    estimates : dict of str to ndarray
        The separated sources.
    sample_rate : float
        Of everything, in hertz.
    references : dict of str to ndarray, optional
        The true sources, shown beside the estimates of the same names.
    scores : dict of str to dict of str to float, optional
        For each source its figures in decibels, by the metric's name; NaN is shown as a dash.
    separator : Separator, optional
        What separated: its learning curves, dictionaries and parameters are shown.
    learned : str
        What its models were learned from, in words.
    found : sequence of Section
        More of what was found, to show after the sounds.
    title : str, optional
        By default the names of the sources.
    command : str, optional
        The command line that made the estimates.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    InputError
        When there are no estimates, a sound is not sound, or the file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> rng = np.random.default_rng(0)
    >>> low, high = rng.normal(0, 0.1, (2, 4000))
    >>> path = separation_report(
    ...     f"{tempfile.mkdtemp()}/report.html", mixture=low + high, estimates={"low": low, "high": high}, sample_rate=8000
    ... )
    >>> path.name
    'report.html'
    """
    if not estimates:
        raise InputError("there are no estimates to report on; give at least one separated source")
    references, scores = references or {}, scores or {}
    duration = as_channels(mixture, "the mixture").shape[1] / sample_rate
    sections = [_sounds(mixture, estimates, references, scores, sample_rate), *found]
    parameters = [Table(("Parameter", "Value"), [["sample rate", f"{sample_rate:g} Hz"]], "The sound")]
    if separator is not None:
        sections.append(_models(separator))
        parameters = [_separator_table(separator), parameter_table(separator.models)]
    sections.append(how_this_was_made(parameters, command))
    names = _enumerated(list(estimates))
    return write_page(path, Page(title or f"Separation into {names}", _summary(duration, names, separator, learned), sections))


def _summary(duration: float, names: str, separator: Separator | None, learned: str) -> str:
    said = f"A mixture of {duration:.1f} s was separated into {names}"
    if separator is None:
        return f"{said}."
    kinds = _enumerated(list(dict.fromkeys(type(model).__name__ for model in separator.models.values())))
    return f"{said}, by {kinds} models {learned}. The estimates add up to the mixture."


def _enumerated(names: Sequence[str]) -> str:
    """Names as one says them: a, b and c."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else str(last)


@dataclass(frozen=True)
class Stage:
    """What all sounds of a page share, so that they can be compared by ear and by eye.

    Attributes
    ----------
    sample_rate : float
        In hertz.
    limits : (float, float)
        The range of colours, in decibels.
    seconds : float
        The length of the time axes.
    gain : float
        The factor that they are played with.
    cut : bool
        Whether some are longer than what is played.
    """

    sample_rate: float
    limits: tuple[float, float]
    seconds: float
    gain: float
    cut: bool

    @classmethod
    def of(cls, sounds: Mapping[str, np.ndarray], sample_rate: float) -> Stage:
        """The one that several sounds fit on."""
        whole = [as_channels(sound, name) for name, sound in sounds.items()]
        shown = [excerpt(sound, sample_rate) for sound in whole]
        longest = max(sound.shape[1] for sound in shown)
        return cls(
            sample_rate=sample_rate,
            limits=figures.level_limits(shown, sample_rate),
            seconds=longest / sample_rate,
            gain=shared_gain(shown),
            cut=longest < max(sound.shape[1] for sound in whole),
        )

    def described(self) -> str:
        """What a reader should know before comparing."""
        said = "Colours mean the same level in all spectrograms; 0 dB is a sine of full scale."
        if self.gain < 1:
            said += f" All sounds are {quieter(self.gain)}."
        if self.cut:
            said += f" Played and shown are the first {LONGEST_SECONDS:g} s."
        return said

    def card(self, name: str, samples: np.ndarray, width: float = figures.HALF) -> Card:
        """A player over a spectrogram."""
        shown = excerpt(as_channels(samples, name), self.sample_rate)
        figure = figures.spectrogram(shown, self.sample_rate, limits=self.limits, seconds=self.seconds, width=width)
        duration, (low, high) = shown.shape[1] / self.sample_rate, self.limits
        alt = f"Spectrogram of {name}: {duration:.1f} s, colours for levels from {low:g} to {high:g} dB."
        return Card(name, [player(shown, self.sample_rate, name, gain=self.gain), Picture(figure, alt, timed=True)])


def _sounds(
    mixture: np.ndarray,
    estimates: Mapping[str, np.ndarray],
    references: Mapping[str, np.ndarray],
    scores: Mapping[str, Mapping[str, float]],
    sample_rate: float,
) -> Section:
    """The mixture beside the scores, and each estimate beside its reference."""
    named = {source: _roles(source, estimates, references) for source in dict.fromkeys([*estimates, *references])}
    stage = Stage.of({"Mixture": mixture} | {name: sound for roles in named.values() for name, sound in roles.items()}, sample_rate)
    alone = references and not scores
    first = [stage.card("Mixture", mixture, figures.WHOLE if alone else figures.HALF), *([_scores(scores)] if scores else [])]
    others = [[stage.card(name, sound) for name, sound in roles.items()] for roles in named.values()]
    rows = [first, *others] if references else [[*first, *(card for cards in others for card in cards)]]
    return Section("Sounds", [Text(stage.described()), *map(Row, rows)])


def _roles(source: str, estimates: Mapping[str, np.ndarray], references: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    roles = (("estimate", estimates), ("reference", references))
    return {f"{source}: {role}": sounds[source] for role, sounds in roles if source in sounds}


def _scores(scores: Mapping[str, Mapping[str, float]]) -> Card:
    """The table of metrics, and a line on each."""
    metrics = list(dict.fromkeys(metric for each in scores.values() for metric in each))
    rows = [[source, *(each.get(metric) for metric in metrics)] for source, each in scores.items()]
    blocks = [Table(("Source", *(f"{metric} (dB)" for metric in metrics)), rows, "In decibels; higher is better", digits=1)]
    known = [[metric, METRICS[metric.upper()]] for metric in metrics if metric.upper() in METRICS]
    if known:
        blocks.append(Table(("Metric", "What it says"), known, "The metrics"))
    return Card("How good it is", blocks)


def _models(separator: Separator) -> Section:
    cards = []
    for name, model in separator.models.items():
        blocks = [learning_curve(model)] if model.history_.objective else []
        if hasattr(model, "components_"):
            blocks.insert(0, dictionary_picture(model.components_, separator.sample_rate))
        cards.append(Card(name, blocks))
    return Section("What was learned", [Row(cards)])


def _separator_table(separator: Separator) -> Table:
    milliseconds = 1000 / separator.sample_rate
    rows = [
        ["sample rate", f"{separator.sample_rate:g} Hz"],
        ["window (n_fft)", f"{separator.n_fft} samples, {separator.n_fft * milliseconds:.1f}\u00a0ms"],
        ["step (hop)", f"{separator.hop} samples, {separator.hop * milliseconds:.1f}\u00a0ms"],
        ["exponent of the masks (power)", f"{separator.power:g}"],
    ]
    return Table(("Parameter", "Value"), rows, "The separation")
