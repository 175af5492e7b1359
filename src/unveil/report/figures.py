"""The figures of a report. Each function draws one kind, from arrays, and returns a matplotlib ``Figure``; those of chains are apart."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse

from unveil.core.history import History
from unveil.kernels.stft import stft, window_length
from unveil.report.drawing import (
    HALF,
    MANY_DOTS,
    MOST_POINTS,
    WHOLE,
    add_colour_bar,
    blank,
    draw_image,
    names_or_numbers,
    pooled,
    styled,
    thinned,
    whole_numbers,
)
from unveil.report.theme import CATEGORIES, LIGHT, category_colours

MOST_COLUMNS = 600
MOST_ROWS = 240
MOST_PANELS = 12
LOWEST_HZ, HIGHEST_HZ = 40.0, 16_000.0
SILENCE = 1e-12  # -120 dB

# ---------------------------------------------------------------------------------------------------------------------
# Sound
# ---------------------------------------------------------------------------------------------------------------------


def levels(samples: np.ndarray, sample_rate: float) -> np.ndarray:
    """Levels (n_frequencies, n_frames) in decibels on a logarithmic frequency axis; 0 dB is a sine of full scale.

    Long sounds are looked at in at most some hundred places; channels are averaged in power.
    """
    n_fft = window_length(round(sample_rate))
    hop = max(n_fft // 4, math.ceil(samples.shape[-1] / MOST_COLUMNS))
    channels = torch.from_numpy(np.ascontiguousarray(np.atleast_2d(samples), dtype=np.float64))
    power = stft(channels, n_fft, hop).abs().square().mean(0).numpy() / (n_fft / 4) ** 2
    rows = _log_filters(np.linspace(0, sample_rate / 2, len(power)), _frequency_limits(sample_rate))
    return 10 * np.log10(np.maximum(rows @ power, SILENCE))


def level_limits(sounds: Iterable[np.ndarray], sample_rate: float, span: float = 70.0) -> tuple[float, float]:
    """A range of decibels for several spectrograms: from ``span`` below the loudest of all to the loudest."""
    loudest = max(float(levels(sound, sample_rate).max()) for sound in sounds)
    top = max(5 * math.ceil(loudest / 5), -50)  # so that silence is dark
    return top - span, top


def _frequency_limits(sample_rate: float) -> tuple[float, float]:
    highest = min(sample_rate / 2, HIGHEST_HZ)
    return min(LOWEST_HZ, highest / 8), highest


def _log_filters(frequencies: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    """Triangles (MOST_ROWS, n_frequencies) whose centres go up by equal factors, none narrower than the spacing."""
    centres = np.geomspace(*limits, MOST_ROWS)
    width = np.maximum(frequencies[1], centres * (centres[1] / centres[0] - 1))[:, None]
    triangles = np.clip(1 - np.abs(frequencies - centres[:, None]) / width, 0, None)
    return triangles / triangles.sum(1, keepdims=True)


def _frequency_axis(axes: Axes, limits: tuple[float, float]) -> None:
    """Label an axis of log10 Hz with round frequencies."""
    round_ones = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000]
    shown = [f for f in round_ones if limits[0] <= f <= limits[1]]
    axes.set_yticks(np.log10(shown), [f"{f // 1000}k" if f >= 1000 else str(f) for f in shown])
    axes.set_ylabel("frequency (Hz)")


@styled
def spectrogram(
    samples: np.ndarray,
    sample_rate: float,
    *,
    limits: tuple[float, float] | None = None,
    seconds: float | None = None,
    width: float = HALF,
) -> Figure:
    """Levels over time (seconds) and frequency (hertz, logarithmic).

    Parameters
    ----------
    samples : ndarray of shape (n_samples,) or (n_channels, n_samples)
        Channels are averaged in power.
    sample_rate : float
        In hertz.
    limits : (float, float), optional
        The range of colours in decibels, see `level_limits`: spectrograms with the same range can be compared.
    seconds : float, optional
        The length of the time axis; by default the sound's own.
    width : float
        Of the figure, in inches.
    """
    duration = samples.shape[-1] / sample_rate
    bottom, top = limits or level_limits([samples], sample_rate)
    frequencies = _frequency_limits(sample_rate)
    figure = blank(width, 2.5)
    axes = figure.add_subplot()
    image = draw_image(axes, levels(samples, sample_rate), (0, duration, *np.log10(frequencies)), (bottom, top))
    axes.set_xlim(0, seconds or duration)
    axes.set_xlabel("time (s)")
    _frequency_axis(axes, frequencies)
    add_colour_bar(figure, image, "level (dB)", np.arange(math.ceil(bottom / 20) * 20, top + 1, 20))
    return figure


# ---------------------------------------------------------------------------------------------------------------------
# Learning
# ---------------------------------------------------------------------------------------------------------------------


@styled
def objective_curve(history: History, *, unit: str = "nats per step") -> Figure:
    """The objective over the iterations; what each of several starts had reached is marked at the right edge.

    Parameters
    ----------
    history : History
        Of a fit.
    unit : str
        What the objective is, for the axis.
    """
    figure = blank(HALF, 2.5)
    axes = figure.add_subplot()
    axes.grid(axis="y")
    axes.plot(history.iterations, history.objective, color=CATEGORIES[0], marker="o" if len(history.objective) < 3 else None)
    if history.restarts:
        beside = np.full(len(history.restarts), 1.0)
        axes.plot(
            beside,
            history.restarts,
            linestyle="none",
            marker="_",
            markersize=14,
            color=LIGHT["muted"],
            alpha=0.7,
            transform=axes.get_yaxis_transform(),
            clip_on=False,
        )
    axes.margins(x=0.03, y=0.08)
    axes.set_xlabel("iteration")
    axes.set_ylabel(unit)
    whole_numbers(axes.xaxis)
    axes.ticklabel_format(axis="y", useOffset=False)
    _look_closer(axes, np.array(history.objective), np.array(history.restarts))
    return figure


@styled
def loss_curves(parts: dict[str, list[float]]) -> Figure:
    """A line for each part of a loss over the epochs; those on held-out data are dashed, in the same colour.

    Parameters
    ----------
    parts : dict of str to list of float
        As in ``History.parts``.
    """
    figure = blank(HALF, 2.9)
    axes = figure.add_subplot()
    n_epochs = len(parts["loss"])  # what has another length, such as a second step, is no loss of these epochs
    names = [name for name in parts if not name.startswith("held-out ") and len(parts[name]) == n_epochs]
    if len(names) == 2:  # the whole, and its only part
        names = names[:1]
    for name, colour in zip(names, category_colours(len(names)), strict=True):
        axes.plot(np.arange(1, len(parts[name]) + 1), parts[name], color=colour, label=name)
        held_out = parts.get(f"held-out {name}")
        if held_out:
            axes.plot(np.arange(1, len(held_out) + 1), held_out, "--", color=colour, lw=1.2)
    axes.set_xlabel("epoch")
    axes.set_ylabel("loss")
    whole_numbers(axes.xaxis)
    if len(names) > 1:
        figure.legend(loc="outside upper left", ncols=3)
    return figure


def _look_closer(axes: Axes, objective: np.ndarray, restarts: np.ndarray) -> None:
    """Let a curve that leaps in its first tenth come from below the figure: else nothing is seen of the rest."""
    after = np.concatenate([objective[max(1, len(objective) // 10) :], restarts])
    if len(objective) < 4 or np.ptp(objective) < 8 * np.ptp(after):
        return
    axes.set_ylim(after.min() - 0.15 * np.ptp(after), after.max() + 0.08 * np.ptp(after))
    axes.text(0.97, 0.05, f"from {objective[0]:,.4g}".replace("-", "−"), transform=axes.transAxes, ha="right", color=LIGHT["muted"])


# ---------------------------------------------------------------------------------------------------------------------
# Clusters
# ---------------------------------------------------------------------------------------------------------------------


def covariance_matrices(covariances: np.ndarray, covariance_type: str, n_components: int, n_features: int) -> np.ndarray:
    """Covariances of any type as matrices (n_components, n_features, n_features)."""
    eye = np.eye(n_features)
    if covariance_type == "full":
        return covariances
    if covariance_type == "tied":
        return np.broadcast_to(covariances, (n_components, n_features, n_features))
    if covariance_type == "diag":
        return covariances[:, None, :] * eye
    return covariances[:, None, None] * eye


@styled
def clusters_of_points(
    X: np.ndarray,
    labels: np.ndarray,
    means: np.ndarray | None = None,
    covariances: np.ndarray | None = None,
    covariance_type: str = "full",
    *,
    names: Sequence[str] | None = None,
    n_clusters: int | None = None,
    owners: np.ndarray | None = None,
    badges: Sequence[str] | None = None,
    noun: str = "cluster",
) -> Figure:
    """Points coloured by cluster, with an ellipse at two standard deviations around each mean.

    Parameters
    ----------
    X : ndarray of shape (n, n_features)
        Of more than two features the two principal components are drawn, of one feature a histogram. More than 5000 points are
        thinned out; those with NaN are left out.
    labels : ndarray of int of shape (n,)
    means : ndarray of shape (n_components, n_features), optional
    covariances : ndarray, optional
        Shaped by ``covariance_type``.
    covariance_type : {"full", "tied", "diag", "spherical"}
    names : sequence of str, optional
        Of the features.
    n_clusters : int, optional
        By default as many as there are labels and means.
    owners : ndarray of int of shape (n_components,), optional
        Of which cluster each ellipse is; by default there is one for each.
    badges : sequence of str, optional
        What is written at each mean; by default the cluster's number.
    noun : str
        What a cluster is called.
    """
    n_clusters = n_clusters or max(int(labels.max()) + 1, 0 if means is None else len(means))
    colours = category_colours(n_clusters)
    figure = blank(HALF, 3.6)
    axes = figure.add_subplot()
    if X.shape[1] == 1:
        _histogram(axes, X[:, 0], labels, colours, names_or_numbers(names, 1)[0], noun)
        return figure
    complete = np.flatnonzero(np.isfinite(X).all(1))
    centre, basis, titles = _plane(X[complete] if len(complete) else np.zeros_like(X[:1]), names)
    shown = complete[thinned(len(complete))]
    points = (X[shown] - centre) @ basis
    size = np.clip(2500 / max(len(shown), 1), 3, 16)
    axes.scatter(*points.T, c=np.array(colours)[labels[shown]], s=size, alpha=0.6, linewidth=0, rasterized=len(shown) > MANY_DOTS)
    if means is not None:
        owners = np.arange(len(means)) if owners is None else owners
        matrices = (
            None if covariances is None else basis.T @ covariance_matrices(covariances, covariance_type, *means.shape) @ basis
        )
        _densities(axes, (means - centre) @ basis, matrices, [colours[k] for k in owners], badges or [str(k) for k in owners])
    axes.autoscale_view()
    axes.set(xlabel=titles[0], ylabel=titles[1])
    return figure


def _densities(
    axes: Axes, means: np.ndarray, covariances: np.ndarray | None, colours: Sequence[str], badges: Sequence[str]
) -> None:
    """Ellipses (none where there are no covariances), and what is written in their middles."""
    for mean, covariance, colour in zip(means, [] if covariances is None else covariances, colours, strict=False):
        _ellipse(axes, mean, covariance, colour)
    for mean, colour, badge in zip(means, colours, badges, strict=True):
        if not badge:
            continue
        box = {"boxstyle": "circle,pad=0.22" if len(badge) < 3 else "round,pad=0.25,rounding_size=0.6"}
        box |= {"facecolor": LIGHT["card"], "edgecolor": colour, "linewidth": 1.4}
        axes.text(*mean, badge, fontsize=8, fontweight="bold", ha="center", va="center", bbox=box)


def _plane(X: np.ndarray, names: Sequence[str] | None) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """The plane that points are drawn in: its origin, its two directions (n_features, 2), and what they are called."""
    n_features = X.shape[1]
    if n_features == 2:
        return np.zeros(2), np.eye(2), names_or_numbers(names, 2)
    centre = X.mean(0)
    _, singular, directions = np.linalg.svd(X[thinned(len(X))] - centre, full_matrices=False)
    shares = singular**2 / max(np.sum(singular**2), np.finfo(float).tiny)
    directions, shares = np.pad(directions, ((0, 2), (0, 0)))[:2], np.pad(shares, (0, 2))[:2]
    return centre, directions.T, [f"principal component {i + 1} ({share:.0%} of the variance)" for i, share in enumerate(shares)]


def _ellipse(axes: Axes, mean: np.ndarray, covariance: np.ndarray, colour: str) -> None:
    variances, directions = np.linalg.eigh(covariance)
    width, height = 4 * np.sqrt(np.maximum(variances, 0))  # two standard deviations on either side
    angle = math.degrees(math.atan2(directions[1, 0], directions[0, 0]))
    axes.add_patch(Ellipse(mean, width, height, angle=angle, fill=False, edgecolor=colour, linewidth=1.4))


def _histogram(axes: Axes, values: np.ndarray, labels: np.ndarray, colours: list[str], name: str, noun: str) -> None:
    finite = np.isfinite(values)
    present = [k for k in range(len(colours)) if (labels[finite] == k).any()]
    groups = [values[(labels == k) & finite] for k in present]
    axes.hist(groups, bins=40, stacked=True, color=[colours[k] for k in present], label=[str(k) for k in present])
    axes.set(xlabel=name, ylabel="points")
    whole_numbers(axes.yaxis)
    if present:
        axes.legend(title=noun, frameon=False, ncols=math.ceil(len(present) / 8))


@styled
def clusters_of_sequences(
    sequences: Sequence[np.ndarray],
    labels: np.ndarray,
    *,
    n_clusters: int | None = None,
    names: Sequence[str] | None = None,
    symbols: Container[int] = (),
) -> Figure:
    """A panel for each cluster with its sequences: paths in the plane, the first feature over time, or its symbols as an image.

    Parameters
    ----------
    sequences : sequence of ndarray of shape (n_steps, n_features)
        Those of two to four features are drawn as paths of the first two, x and y, with a dot where they begin; else the first
        feature is drawn over time. At most 40 are drawn for each cluster.
    labels : ndarray of int of shape (n_sequences,)
    n_clusters : int, optional
        By default as many as ``labels`` has; the first 12 are drawn.
    names : sequence of str, optional
        Of the features.
    symbols : container of int
        The features that are symbols: of such a first feature a sequence is a row of cells, brighter for a higher symbol.
    """
    labels = np.asarray(labels)
    n_clusters = n_clusters or int(labels.max()) + 1
    n_panels = min(n_clusters, MOST_PANELS)
    n_columns = min(n_panels, 4)
    n_rows = math.ceil(n_panels / n_columns)
    planar = 2 <= sequences[0].shape[1] <= 4 and 0 not in symbols and 1 not in symbols
    highest = max(float(np.nanmax(each[:, 0], initial=1)) for each in sequences) if 0 in symbols else None
    figure = blank(HALF if n_columns <= 2 else WHOLE, 0.4 + n_rows * (2.4 if planar else 1.9))
    panels = figure.subplots(n_rows, n_columns, sharex=True, sharey=True, squeeze=False).ravel()
    names = names_or_numbers(names, sequences[0].shape[1])
    for cluster, (panel, colour) in enumerate(zip(panels, category_colours(n_clusters), strict=False)):
        members = [sequences[i] for i in np.flatnonzero(labels == cluster)]
        chosen = [members[i] for i in thinned(len(members), 40)] if members else []
        if highest is not None:
            _draw_cells(panel, [each[:MOST_COLUMNS, 0] for each in chosen], highest)
        else:
            _draw_paths(panel, chosen, planar, colour)
        panel.set_title(f"cluster {cluster}")
        if planar:
            panel.set_aspect("equal")
    for panel in panels[n_panels:]:
        panel.axis("off")
    for panel in panels[max(0, n_panels - n_columns) : n_panels]:  # the lowest of each column, also above an empty place
        panel.tick_params(labelbottom=True)
    figure.supxlabel(names[0] if planar else "step", fontsize=9, color=LIGHT["muted"])
    upwards = names[1] if planar else names[0]
    figure.supylabel(upwards if highest is None else f"sequences: {upwards}", fontsize=9, color=LIGHT["muted"])
    return figure


def _draw_cells(axes: Axes, sequences: list[np.ndarray], highest: float) -> None:
    """A row of cells for each sequence, and nothing where it has ended or a value is missing."""
    if not sequences:
        return
    cells = np.full((len(sequences), max(map(len, sequences))), np.nan)
    for row, values in zip(cells, sequences, strict=True):
        row[: len(values)] = values
    draw_image(axes, cells, (-0.5, cells.shape[1] - 0.5, -0.5, len(cells) - 0.5), (0, highest))
    axes.set_yticks([])


def _draw_paths(axes: Axes, sequences: list[np.ndarray], planar: bool, colour: str) -> None:
    paths = [each[:, :2] if planar else np.column_stack([np.arange(len(each)), each[:, 0]]) for each in sequences]
    paths = [path[thinned(len(path), MOST_POINTS // 40)] for path in paths]
    axes.add_collection(LineCollection(paths, colors=colour, linewidth=0.8, alpha=0.45))
    begins = [path[there[0]] for path in paths if len(there := np.flatnonzero(np.isfinite(path).all(1)))]
    if planar and begins:
        axes.scatter(*np.array(begins).T, color=colour, s=7, linewidth=0, zorder=3)
    axes.autoscale_view()


# ---------------------------------------------------------------------------------------------------------------------
# Dictionaries
# ---------------------------------------------------------------------------------------------------------------------


@styled
def dictionary(components: np.ndarray, sample_rate: float | None = None) -> Figure:
    """The atoms of a factorisation side by side, each relative to its largest value.

    Parameters
    ----------
    components : ndarray of shape (n_components, n_features)
        Non-negative.
    sample_rate : float, optional
        In hertz, where atoms are magnitude spectra from 0 to half of it: they are then drawn in decibels over a logarithmic
        frequency axis.
    """
    relative = components / np.maximum(components.max(1, keepdims=True), np.finfo(float).tiny)
    figure = blank(HALF, 2.7)
    axes = figure.add_subplot()
    if sample_rate is None:
        _atoms(figure, axes, pooled(relative, MOST_ROWS).T, (-0.5, components.shape[1] - 0.5), (0, 1), "relative value")
        axes.set_ylabel("feature")
    else:
        limits = _frequency_limits(sample_rate)
        rows = _log_filters(np.linspace(0, sample_rate / 2, components.shape[1]), limits)
        decibels = 10 * np.log10(np.maximum(rows @ relative.T**2, SILENCE))
        _atoms(figure, axes, decibels, tuple(np.log10(limits)), (-60, 0), "relative level (dB)")
        _frequency_axis(axes, limits)
    axes.set_xlabel("atom")
    whole_numbers(axes.xaxis)
    return figure


def _atoms(figure: Figure, axes: Axes, image: np.ndarray, vertical: tuple, colours: tuple, label: str) -> None:
    extent = (-0.5, image.shape[1] - 0.5, *vertical)
    drawn = draw_image(axes, image, extent, colours)
    add_colour_bar(figure, drawn, label)


@styled
def activations(values: np.ndarray, *, seconds_per_item: float | None = None, noun: str = "atom") -> Figure:
    """How much of each atom is in each item, relative to the atom's largest activation.

    Parameters
    ----------
    values : ndarray of shape (n_items, n_components)
        Non-negative.
    seconds_per_item : float, optional
        Where the items are frames of a sound: the time axis is then in seconds.
    """
    relative = values.T / np.maximum(values.max(0), np.finfo(float).tiny)[:, None]
    n_atoms, n_items = relative.shape
    figure = blank(WHOLE, 2.7)
    axes = figure.add_subplot()
    extent = (0, n_items * (seconds_per_item or 1), -0.5, n_atoms - 0.5)
    image = draw_image(axes, pooled(relative, 2 * MOST_COLUMNS), extent, (0, 1))
    axes.set(xlabel="item" if seconds_per_item is None else "time (s)", ylabel=noun)
    whole_numbers(axes.yaxis)
    add_colour_bar(figure, image, "relative activation")
    return figure
