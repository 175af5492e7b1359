"""What a page shows of neural models: their codes, what they make of data, and what they make up."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from unveil.models.coding import CodesMixin
from unveil.report.drawing import HALF, MANY_DOTS, blank, styled, thinned, whole_numbers
from unveil.report.images import mosaic
from unveil.report.page import Card, Picture, Row, Section
from unveil.report.sample import Sample
from unveil.report.theme import CATEGORIES, LIGHT, category_colours

N_IMAGES, PER_ROW = 96, 12
LEAST_PIXELS = 64
USED = 0.01  # nats or variance: the line below which a latent dimension is not used


def codes(estimator: Any, sample: Sample | None) -> Section | None:
    """Of a model with an encoder: where data lies in the plane of two latent dimensions, and how much each is used."""
    if not isinstance(estimator, CodesMixin):
        return None
    cards = [Card("Use of the latent dimensions", [_picture_of_use(estimator)])]
    if sample is not None and len(estimator.code_variances_) > 1:
        cards.insert(0, Card("Map of the codes", [_picture_of_map(estimator, sample)]))
    return Section("Latent variables", [Row(cards)])


def _picture_of_use(estimator: Any) -> Picture:
    variances = estimator.code_variances_
    divergences = getattr(estimator, "kl_per_dimension_", None)
    if divergences is not None and len(divergences) == len(variances):
        said = (
            f"{estimator.n_active_} of {len(variances)} dimensions are active: their mean varies over the data by more than {USED}."
        )
        figure = _bars(np.sort(divergences)[::-1], "KL divergence (nats)")
        return Picture(figure, f"Kullback-Leibler divergence of {len(divergences)} latent dimensions.", said)
    figure = _bars(np.sort(variances)[::-1], "variance of the code")
    return Picture(figure, f"Variances of the {len(variances)} numbers of a code.", "Over the data that was learned from, sorted.")


@styled
def _bars(values: np.ndarray, label: str) -> Figure:
    figure = blank(HALF, 3.2)
    axes = figure.add_subplot()
    axes.bar(np.arange(1, len(values) + 1), values, color=CATEGORIES[0], width=0.8)
    axes.set(xlabel="latent dimension, sorted", ylabel=label, xlim=(0, len(values) + 1))
    whole_numbers(axes.xaxis)
    return figure


def _picture_of_map(estimator: Any, sample: Sample) -> Picture:
    values = np.concatenate([np.atleast_2d(each) for each in _codes_of(estimator, sample)])
    first, second = np.sort(np.argsort(-estimator.code_variances_)[:2])
    labels = np.asarray(estimator.predict(sample.steps)) if _has_clusters(estimator) else None
    alt = f"{len(values)} codes in the plane of the latent dimensions {first} and {second}."
    caption = "The two dimensions whose mean varies most." + (" Colours are clusters of the prior." if labels is not None else "")
    return Picture(_map(values[:, [first, second]], (first, second), labels), alt, caption)


def _codes_of(estimator: Any, sample: Sample) -> list[np.ndarray]:
    """One table for each sequence, or one for all points."""
    if estimator.items == "sequences":
        return list(estimator.transform(sample.items))
    return [np.asarray(estimator.transform(sample.steps))]


def _has_clusters(estimator: Any) -> bool:
    return estimator.items == "points" and hasattr(estimator, "predict")


@styled
def _map(points: np.ndarray, dimensions: tuple[int, int], labels: np.ndarray | None) -> Figure:
    figure = blank(HALF, 3.6)
    axes = figure.add_subplot()
    shown = thinned(len(points))
    colours = CATEGORIES[0] if labels is None else np.array(category_colours(int(labels.max()) + 1))[labels[shown]]
    size = np.clip(2500 / max(len(shown), 1), 3, 16)
    axes.scatter(*points[shown].T, c=colours, s=size, alpha=0.6, linewidth=0, rasterized=len(shown) > MANY_DOTS)
    axes.set(xlabel=f"z {dimensions[0]}", ylabel=f"z {dimensions[1]}")
    return figure


def reconstructions(estimator: Any, sample: Sample | None) -> Section | None:
    """Of a model with an encoder: some of the data above what it makes of it."""
    if sample is None or not hasattr(estimator, "reconstruct") or estimator.items != "points":
        return None
    rows = sample.steps[thinned(len(sample.steps), N_IMAGES // 2)]
    again = np.asarray(estimator.reconstruct(rows))
    if are_images(rows):
        pairs = np.concatenate(
            [part for i in range(0, len(rows), PER_ROW) for part in (rows[i : i + PER_ROW], again[i : i + PER_ROW])]
        )
        picture = Picture(mosaic(pairs, per_row=PER_ROW), f"{len(rows)} images, and below each its reconstruction.", "")
        return Section("Reconstructions", [Card("Data, and below each row what the model makes of it", [picture])])
    errors = np.sqrt(np.square(again - rows).mean(0))
    return Section("Reconstructions", [Card("Error of each feature", [_picture_of_errors(errors, rows.std(0))])])


def _picture_of_errors(errors: np.ndarray, deviations: np.ndarray) -> Picture:
    alt = f"Root mean square error of {len(errors)} features, beside their standard deviations."
    return Picture(
        _errors(errors, deviations),
        alt,
        "Root mean square; the line is the standard deviation of the data.",
    )


@styled
def _errors(errors: np.ndarray, deviations: np.ndarray) -> Figure:
    figure = blank(HALF, 3.0)
    axes = figure.add_subplot()
    positions = np.arange(len(errors))
    axes.bar(positions, errors, width=1.0, color=CATEGORIES[0], alpha=0.6, linewidth=0)
    axes.stairs(deviations, np.arange(len(errors) + 1) - 0.5, color=LIGHT["muted"], lw=1)
    axes.set(xlabel="feature", ylabel="error", ylim=(0, None))
    whole_numbers(axes.xaxis)
    return figure


def made_up(estimator: Any, sample: Sample | None) -> Section | None:
    """Of a neural model: what it generates, beside data."""
    if sample is None or not estimator.learns_in_epochs or not estimator.can_sample or estimator.items != "points":
        return None
    n_shown = N_IMAGES if are_images(sample.steps) else min(len(sample.steps), 2000)
    generated = np.asarray(estimator.sample(n_shown, random_state=0)[0])
    if are_images(sample.steps):
        generated = _without_noise(estimator, n_shown, generated)
        data = sample.steps[thinned(len(sample.steps), n_shown)]
        drawn = Picture(mosaic(np.clip(generated, 0, 1), per_row=PER_ROW), f"{n_shown} images that the model has made up.")
        seen = Picture(mosaic(data, per_row=PER_ROW), f"{len(data)} images of the data.")
        return Section("Samples", [Row([Card("Samples", [drawn]), Card("Data", [seen])])])
    data = sample.steps[thinned(len(sample.steps), n_shown)]
    picture = Picture(_beside(data, generated), f"{len(data)} points of the data and {n_shown} samples.", _plane_of(data))
    return Section("Samples", [Card("Samples over data", [picture])])


def _without_noise(estimator: Any, n: int, generated: np.ndarray) -> np.ndarray:
    """What codes that are made up decode to, where a model has codes: grey levels say more than black and white that is drawn from them."""
    latent = getattr(estimator.model_, "latent", None)
    if latent is not None:
        return np.asarray(estimator.inverse_transform(latent.sample(n, torch.Generator().manual_seed(0))[0]))
    if hasattr(estimator, "base_") and estimator.base_.items == "points":
        return np.asarray(estimator.inverse_transform(estimator.base_.sample(n, random_state=0)[0]))
    return generated


def _plane_of(data: np.ndarray) -> str:
    return "" if data.shape[1] <= 2 else "In the plane of the two principal components of the data."


@styled
def _beside(data: np.ndarray, generated: np.ndarray) -> Figure:
    figure = blank(HALF, 3.6)
    axes = figure.add_subplot()
    if data.shape[1] == 1:
        bins = np.histogram_bin_edges(np.concatenate([data, generated]), 40)
        for values, colour, label in ((data, LIGHT["muted"], "data"), (generated, CATEGORIES[1], "samples")):
            axes.hist(values[:, 0], bins, color=colour, alpha=0.5, density=True, label=label)
    else:
        if data.shape[1] > 2:
            centre = data.mean(0)
            directions = np.linalg.svd(data - centre, full_matrices=False)[2][:2].T
            data, generated = (data - centre) @ directions, (generated - centre) @ directions
        for values, colour, label in ((data, LIGHT["muted"], "data"), (generated, CATEGORIES[1], "samples")):
            axes.scatter(*values.T, c=colour, s=6, alpha=0.5, linewidth=0, label=label, rasterized=True)
    figure.legend(loc="outside upper left", ncols=2, markerscale=2.5)
    return figure


def are_images(rows: np.ndarray) -> bool:
    """Whether rows look like square images of grey levels in [0, 1]."""
    side = math.isqrt(rows.shape[1])
    return side * side == rows.shape[1] >= LEAST_PIXELS and rows.min() >= 0 and rows.max() <= 1
