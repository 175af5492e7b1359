"""The report of a comparison of fits: which size was chosen, and by how much."""

from __future__ import annotations

import os
from numbers import Real
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from unveil.report.drawing import WHOLE
from unveil.report.page import Card, Fact, Facts, Page, Picture, Row, Section, Table, as_text, write_page
from unveil.report.provenance import how_this_was_made, parameter_table, setting_text
from unveil.report.theme import LIGHT, STYLE, category_colours
from unveil.selection.result import LARGER_IS_BETTER, Candidate, Selection

NAMES = {
    "bic": "Bayesian information criterion (BIC)",
    "aic": "Akaike information criterion (AIC)",
    "icl": "integrated complete likelihood (ICL)",
    "cv": "mean log-likelihood of held-out data (CV)",
}


def selection_report(
    path: str | os.PathLike, selection: Selection, *, title: str | None = None, command: str | None = None
) -> Path:
    """Write a page about a comparison of fits: the criterion against the size, and the table.

    Parameters
    ----------
    path : path
        The HTML file to write.
    selection : Selection
        As ``unveil.selection.select`` gives it.
    title : str, optional
        By default it names the estimator.
    command : str, optional
        The command line that made it.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    InputError
        When the file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from unveil.models.gaussian_mixture import GaussianMixture
    >>> from unveil.selection import select
    >>> X = np.random.default_rng(0).normal(size=(60, 2))
    >>> found = select(GaussianMixture(random_state=0, tol=0.1), X, {"n_components": [1, 2]})
    >>> selection_report(f"{tempfile.mkdtemp()}/report.html", found).name
    'report.html'
    """
    name = type(selection.best_estimator).__name__
    sections = [
        Section("The choice", [Facts(_facts(selection)), Row([Card("Criterion against size", [_picture(selection)])])]),
        Section("All fits", _tables(selection)),
        how_this_was_made([parameter_table({"best": selection.best_estimator})], command),
    ]
    return write_page(path, Page(title or f"How large a {name}?", _summary(selection), sections))


def _summary(selection: Selection) -> str:
    fitted = sum(not each.error for each in selection.candidates)
    better = "highest" if selection.criterion in LARGER_IS_BETTER else "lowest"
    best = ", ".join(f"{name} {setting_text(value)}" for name, value in selection.best_params.items())
    return (
        f"{fitted} of {len(selection.candidates)} combinations were fitted; {best} has the {better} {selection.criterion.upper()}."
    )


def _facts(selection: Selection) -> list[Fact]:
    best, criterion = selection.best, selection.criterion
    facts = [Fact(name, setting_text(value)) for name, value in best.params.items()]
    facts.append(Fact(criterion.upper(), best.value(criterion), _unit(selection) if criterion == "cv" else "lower is better"))
    values = sorted(abs(each.value(criterion) - best.value(criterion)) for each in selection.candidates if not each.error)
    if len(values) > 1:
        facts.append(Fact("ahead of the next", values[1], _unit(selection) if criterion == "cv" else criterion.upper()))
    if best.n_parameters is not None:
        facts.append(Fact("free parameters", best.n_parameters))
    return facts


def _unit(selection: Selection) -> str:
    return f"nats per {selection.best_estimator.items.removesuffix('s').replace('sequence', 'step')}"


def _tables(selection: Selection) -> list[Table]:
    """The fits, and the combinations that could not be fitted."""
    names = list(selection.best_params)
    columns = {name: heading for name, heading in selection.shown_columns().items() if name not in {*names, "seconds", "converged"}}
    rows, failed = [], []
    for i, row in enumerate(selection.table):
        params = [setting_text(row[name]) for name in names]
        rows.append([*params, _note(selection, i), *(row[name] for name in columns)])
        failed += [[*params, row["error"]]] if row["error"] else []
    better = "higher" if selection.criterion in LARGER_IS_BETTER else "lower"
    caption = f"Every combination. Of {selection.criterion.upper()}, {better} is better; log-likelihoods are in nats, of all data."
    tables = [Table([*names, "", *columns.values()], rows, caption, colours=_colours(selection))]
    return [*tables, Table([*names, "error"], failed, "Combinations that could not be fitted")] if failed else tables


def _note(selection: Selection, index: int) -> str:
    candidate = selection.candidates[index]
    if candidate.error:
        return "failed"
    return ", ".join(["best"] * (index == selection.best_index) + ["not converged"] * (not candidate.converged))


def _colours(selection: Selection) -> list[str]:
    """The colour of the line that each candidate is on."""
    _, lines = _lines(selection)
    colour_of = dict(zip(lines, category_colours(len(lines)), strict=True))
    return [next(colour_of[label] for label, members in lines.items() if each in members) for each in selection.candidates]


# ---------------------------------------------------------------------------------------------------------------------
# The figure
# ---------------------------------------------------------------------------------------------------------------------


def _lines(selection: Selection) -> tuple[str, dict[str, list[Candidate]]]:
    """The parameter that is the horizontal axis, and the candidates of each line: those that agree in the other parameters."""
    size, others = _size(selection), _other_parameters(selection)
    lines: dict[str, list[Candidate]] = {}
    for each in selection.candidates:
        settings = {name: setting_text(each.params[name]) for name in others}
        label = ", ".join(settings.values() if len(others) == 1 else map(" ".join, settings.items()))
        lines.setdefault(label, []).append(each)
    return size, lines


def _size(selection: Selection) -> str:
    """The first parameter that changes and is a number; else the first one."""
    changing = [name for name in selection.best_params if len(_settings(selection, name)) > 1]
    numbers = (name for name in changing if _is_number(selection, name))
    return next(numbers, next(iter(selection.best_params)))


def _other_parameters(selection: Selection) -> list[str]:
    size = _size(selection)
    return [name for name in selection.best_params if name != size and len(_settings(selection, name)) > 1]


def _settings(selection: Selection, name: str) -> list[str]:
    """The different values of a parameter, in words, in their order."""
    return list(dict.fromkeys(setting_text(each.params[name]) for each in selection.candidates))


def _is_number(selection: Selection, name: str) -> bool:
    values = [each.params[name] for each in selection.candidates]
    return all(isinstance(value, Real) and not isinstance(value, bool) for value in values)


def _picture(selection: Selection) -> Picture:
    size, lines = _lines(selection)
    best, criterion = selection.best, selection.criterion
    count = f"{len(lines)} line{'s' * (len(lines) != 1)}"
    alt = f"{NAMES[criterion]} against {size}, {count}; the best is {as_text(best.value(criterion))}."
    caption = f"{NAMES[criterion][0].upper()}{NAMES[criterion][1:]}. The ring is the best."
    if criterion == "cv":
        caption += " The bars are one standard deviation over the folds."
    if _worst_shown(selection) is not None:
        caption += " Much worse fits are beyond the edge; the table has them."
    return Picture(criterion_curve(selection), alt, caption)


def criterion_curve(selection: Selection) -> Figure:
    """The criterion against the first parameter that is a number, a line for each combination of the others; the best has a ring.

    Parameters
    ----------
    selection : Selection
        As ``unveil.selection.select`` gives it.
    """
    criterion, (size, lines) = selection.criterion, _lines(selection)
    numeric, settings = _is_number(selection, size), _settings(selection, size)

    def place(each: Candidate) -> float:
        return each.params[size] if numeric else settings.index(setting_text(each.params[size]))

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WHOLE, 3.4), layout="constrained")
        axes = figure.add_subplot()
        axes.grid(axis="y")
        for (label, members), colour in zip(lines.items(), category_colours(len(lines)), strict=True):
            fitted = sorted((each for each in members if not each.error), key=place)
            values, bars = [each.value(criterion) for each in fitted], [each.cv_std for each in fitted]
            style = {
                "linestyle": "-" if numeric else "none",
                "color": colour,
                "marker": "o",
                "markersize": 4.5,
                "elinewidth": 1,
                "capsize": 2.5,
                "label": label,
            }
            axes.errorbar([place(each) for each in fitted], values, bars if criterion == "cv" else None, **style)
        ring = {"marker": "o", "markersize": 12, "markerfacecolor": "none", "markeredgecolor": LIGHT["ink"], "markeredgewidth": 1.4}
        axes.plot(place(selection.best), selection.best.value(criterion), **ring)
        axes.set(xlabel=size, ylabel=criterion.upper())
        axes.yaxis.set_major_formatter(lambda value, _: as_text(value))
        if not numeric:
            axes.set_xticks(range(len(settings)), settings)
        elif all(setting.lstrip("-").isdigit() for setting in settings):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=12))
        _look_closer(axes, selection)
        if len(lines) > 1:
            others = _other_parameters(selection)
            figure.legend(loc="outside right upper", frameon=False, title=others[0] if len(others) == 1 else None)
    return figure


def _worst_shown(selection: Selection) -> float | None:
    """Where the figure ends, if some fits are so much worse than most that nothing would be seen of the others."""
    best = selection.best.value(selection.criterion)
    behind = np.array([each.value(selection.criterion) - best for each in selection.candidates if not each.error])
    usual = np.median(behind)
    return best + 5 * usual if abs(behind).max() > 12 * abs(usual) > 0 else None


def _look_closer(axes: Axes, selection: Selection) -> None:
    worst, best = _worst_shown(selection), selection.best.value(selection.criterion)
    if worst is not None:
        axes.set_ylim(*sorted([worst, best - 0.08 * (worst - best)]))
