"""The report of a fitted estimator: how learning went, and what it found in data."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from unveil.core.estimator import Estimator
from unveil.core.mixins import SeparateMixin
from unveil.core.units import score_unit
from unveil.report import figures
from unveil.report.bands import bands_figure
from unveil.report.clusters import classes, clusters, observations
from unveil.report.codes import codes, made_up, reconstructions
from unveil.report.fitted import dictionary_picture, learning_curve
from unveil.report.moments import moments
from unveil.report.page import Card, Fact, Facts, Page, Picture, Row, Section, write_page
from unveil.report.plane import latent_plane
from unveil.report.provenance import how_this_was_made, parameter_table
from unveil.report.sample import Sample, as_batches, sample_of
from unveil.report.states import states, transitions


def model_report(
    path: str | os.PathLike, estimator: Estimator, X: Any = None, *, title: str | None = None, command: str | None = None
) -> Path:
    """Write a page about a fitted estimator: how learning went, what it found, and with which parameters.

    Parameters
    ----------
    path : path
        The HTML file to write.
    estimator : Estimator
        A fitted one, of any kind.
    X : array, list of arrays, tensor or Batches, optional
        Data for the score and for the figures, which show an evenly spread part of it where it is large.
    title : str, optional
        By default the estimator's name.
    command : str, optional
        The command line that fitted it.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    sklearn.exceptions.NotFittedError
        When the estimator is not fitted.
    InputError
        When X does not fit the estimator, or the file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from unveil.models.gaussian_mixture import GaussianMixture
    >>> X = np.random.default_rng(0).normal(size=(50, 2))
    >>> model_report(f"{tempfile.mkdtemp()}/report.html", GaussianMixture(2, random_state=0, tol=0.1).fit(X), X).name
    'report.html'
    """
    check_is_fitted(estimator, "model_")
    facts = Facts(_facts(estimator, X))
    sample = None if X is None else sample_of(estimator, X)
    learning = [Card("Learning", [learning_curve(estimator)])] if estimator.history_.objective else []
    sections = [Section("The fit", [facts, *([Row(learning)] if learning else [])])]
    sections += [section for view in _VIEWS if (section := view(estimator, sample)) is not None]
    sections.append(how_this_was_made([parameter_table({"model": estimator})], command))
    return write_page(path, Page(title or type(estimator).__name__, _summary(estimator), sections))


def _summary(estimator: Estimator) -> str:
    story = (inspect.getdoc(type(estimator)) or type(estimator).__name__).splitlines()[0]
    history = estimator.history_
    end = "converged" if history.converged else "stopped before it converged"
    unit = "epoch" if estimator.learns_in_epochs else "iteration"
    if estimator.learns_in_epochs:
        end = "stopped when held-out data gained no more," if history.converged else "went through the data"
    iterations = (
        f"{'after ' * (history.converged or not estimator.learns_in_epochs)}{history.n_iter} {unit}{'s' * (history.n_iter != 1)}"
    )
    seconds = f"{history.seconds:.1f} s" if history.seconds >= 0.05 else "less than 0.1 s"
    return f"{story} Learning {end} {iterations}, in {seconds}."


# ---------------------------------------------------------------------------------------------------------------------
# Numbers
# ---------------------------------------------------------------------------------------------------------------------


def _facts(estimator: Estimator, X: Any) -> list[Fact]:
    history = estimator.history_
    facts = []
    if X is not None and estimator.has_likelihood:
        facts.append(Fact("score", estimator.score(X), score_unit(estimator)))
    if X is not None and hasattr(estimator, "bic"):
        facts.append(Fact("BIC", estimator.bic(X), "lower is better"))
    if estimator.learns_in_epochs:
        facts += [Fact("epochs", history.n_iter), *_losses(history.parts)]
    else:
        facts += [Fact("iterations", history.n_iter), Fact("converged", history.converged)]
    if history.restarts:
        facts.append(Fact("starts", len(history.restarts)))
    if hasattr(estimator.model_, "count_parameters"):
        facts.append(Fact("free parameters", estimator.model_.count_parameters()))
    return facts


def _losses(parts: dict[str, list[float]]) -> list[Fact]:
    """The last loss on held-out data and its parts; where nothing was held out, on the data that was learned from."""
    kind = "held-out " if "held-out loss" in parts else ""
    own = [name for name in parts if name.startswith(kind) and (kind or not name.startswith("held-out "))]
    return [Fact(name, parts[name][-1]) for name in (own[:1] if len(own) == 2 else own)]


# ---------------------------------------------------------------------------------------------------------------------
# What is shown of which kind of estimator: each view looks at what there is, and stays away where it has nothing to show
# ---------------------------------------------------------------------------------------------------------------------


def _dictionary(estimator: Estimator, sample: Sample | None) -> Section | None:
    """Of a factorisation of what is not negative: its atoms, and how items use them."""
    if not isinstance(estimator, SeparateMixin):
        return None
    blocks: list[Any] = [Row([Card("Atoms", [dictionary_picture(estimator.components_)])])]
    if sample is not None and hasattr(estimator, "transform"):
        values = np.asarray(estimator.transform(as_batches(estimator, sample.steps)))
        alt = f"Activations of {values.shape[1]} atoms in {len(values)} items."
        picture = Picture(figures.activations(values), alt, sample.drawn("items"))
        blocks.append(Card("Activations", [picture]))
    return Section("Dictionary", blocks)


def _smoothed(estimator: Estimator, sample: Sample | None) -> Section | None:
    """Of a linear dynamical system: what it makes of the first sequence."""
    if sample is None or not (hasattr(estimator, "observation_") and hasattr(estimator, "smooth")):
        return None
    n_missing = int(np.isnan(sample.items[0]).sum())
    alt = f"A sequence of {len(sample.items[0])} steps, its smoothed mean and a band around it; {n_missing} values are missing."
    caption = "What the model makes of all that was observed; 95 % of new values would lie in the band."
    return Section("Smoothed", [Card("First sequence", [Picture(bands_figure(estimator, sample.items[0]), alt, caption)])])


_VIEWS = (
    clusters,
    classes,
    states,
    transitions,
    observations,
    _dictionary,
    latent_plane,
    codes,
    reconstructions,
    made_up,
    _smoothed,
    moments,
)
