"""Fits of all combinations of a grid, compared by an information criterion or on held-out data."""

from __future__ import annotations

import itertools
import math
import time
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from sklearn.base import clone

from unveil.core.constraints import choice, integer
from unveil.core.criteria import information_criteria
from unveil.core.estimator import Estimator
from unveil.errors import ConvergenceWarning, InputError, ParameterError
from unveil.learn.em import Progress as Iteration
from unveil.learn.progress import ProgressBar
from unveil.selection.folds import Folds, held_out_scores, make_folds
from unveil.selection.result import LARGER_IS_BETTER, Candidate, Selection

CRITERIA = ("bic", "aic", "icl", "cv")


def select(
    estimator: Estimator,
    X: Any,
    grid: Mapping[str, Iterable],
    *,
    criterion: str = "bic",
    y: Any = None,
    lengths: Any = None,
    cv: int = 5,
    verbose: int = 0,
) -> Selection:
    r"""Fit every combination of a grid of parameters, and choose the best.

    With n steps, d free parameters and the most probable latent values :math:`\hat z`, the criteria are

    .. math::
        \mathrm{BIC} = -2 \log p(x) + d \log n, \qquad \mathrm{AIC} = -2 \log p(x) + 2 d, \qquad
        \mathrm{ICL} = -2 \log p(x, \hat z) + d \log n,

    of which the lowest is best, and the mean log-likelihood per step of data that was held out ("cv"), of which the highest is.
    BIC finds the number of components of a density, ICL rather that of clusters that stand apart.

    Parameters
    ----------
    estimator : Estimator
        What is cloned for each fit, with all settings that the grid does not change.
    X : array, list of arrays, tensor or Batches
        The data, as the estimator's ``fit`` takes it.
    grid : dict of str to iterable
        Values for the parameters that change, such as ``{"n_states": range(1, 6), "covariance_type": ["diag", "full"]}``.
    criterion : {"bic", "aic", "icl", "cv"}
        What to choose by.
    y : array-like of int, or list of them, optional
        Known classes, -1 where unknown, for an estimator that learns with them.
    lengths : sequence of int, optional
        For a model of sequences: the lengths of the sequences in the rows of X.
    cv : int
        The number of folds, for ``criterion="cv"``. Whole items are held out: points, or sequences. The folds are the same for all
        combinations, and depend on the estimator's ``random_state``.
    verbose : int
        1 shows the progress.

    Returns
    -------
    Selection
        A combination that cannot be fitted is a row with its error.

    Raises
    ------
    ParameterError
        When the grid is empty or names what is no parameter, or when the estimator does not have the criterion.
    InputError
        When no combination can be fitted, or there are fewer items than folds.

    Warns
    -----
    ConvergenceWarning
        When the best fit did not converge; of the others, the table says it.

    References
    ----------
    Schwarz (1978), Estimating the dimension of a model. Biernacki, Celeux and Govaert (2000), Assessing a mixture model for
    clustering with the integrated completed likelihood. Smyth (2000), Model selection for probabilistic clustering using
    cross-validated likelihood.

    Examples
    --------
    >>> import numpy as np
    >>> from unveil.models.gaussian_mixture import GaussianMixture
    >>> rng = np.random.default_rng(0)
    >>> X = np.concatenate([rng.normal(-4, 1, size=(100, 1)), rng.normal(4, 1, size=(100, 1))])
    >>> select(GaussianMixture(random_state=0), X, {"n_components": range(1, 4)}).best_params
    {'n_components': 2}
    """
    choice(*CRITERIA)("criterion", criterion)
    combinations = _combinations(estimator, grid)
    folds = _divided(estimator, X, lengths, cv) if criterion == "cv" else []
    candidates: list[Candidate] = []
    best: tuple[float, int, Estimator] | None = None
    with ProgressBar(f"Comparing {type(estimator).__name__}s", quiet=not verbose) as progress:
        for index, params in enumerate(combinations):
            candidate, fitted = _try(clone(estimator).set_params(**params), params, X, y, lengths, folds)
            candidates.append(candidate)
            if fitted is not None:
                badness = _badness(candidate, criterion, fitted)
                if best is None or badness < best[0]:
                    best = badness, index, fitted
            progress(Iteration(index, len(combinations), math.nan, model=None))
    if best is None:
        raise InputError(f"none of the {len(candidates)} combinations can be fitted; the first says: {candidates[0].error}")
    _warn_of_the_best(best[2], candidates[best[1]])
    return Selection(tuple(candidates), criterion, best[1], best[2])


def _combinations(estimator: Estimator, grid: Mapping[str, Iterable]) -> list[dict[str, Any]]:
    """Every combination of the values, the last parameter changing fastest."""
    known = estimator.get_params()
    values = {}
    for name, each in grid.items():
        if name not in known:
            raise ParameterError(f"{name!r} is no parameter of {type(estimator).__name__}; it has {', '.join(sorted(known))}")
        if isinstance(each, str) or not isinstance(each, Iterable):
            raise ParameterError(f"grid[{name!r}]={each!r}: expected several values; write [{each!r}]")
        values[name] = list(each)
        if not values[name]:
            raise ParameterError(f"grid[{name!r}] has no values; give at least one")
    if not values:
        raise ParameterError('the grid is empty; name parameters and their values, such as {"n_components": range(1, 9)}')
    return [dict(zip(values, each, strict=True)) for each in itertools.product(*values.values())]


def _divided(estimator: Estimator, X: Any, lengths: Any, cv: int) -> Folds:
    """Folds of the items that the estimator sees in X."""
    integer(2)("cv", cv)
    batches, _ = clone(estimator)._read(X, lengths, reset=True)
    return make_folds(batches, cv, estimator.get_params().get("random_state"))


def _try(
    estimator: Estimator, params: dict[str, Any], X: Any, y: Any, lengths: Any, folds: Folds
) -> tuple[Candidate, Estimator | None]:
    """One row of the table, and the fitted estimator where there is one."""
    begin = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the table says it
            fitted = estimator.fit(X, y, lengths=lengths)
            candidate = _judged(fitted, params, X, lengths)
            if folds:
                batches = clone(estimator)._read_labelled(X, y, lengths, None, reset=True)
                scores = held_out_scores(estimator, batches, folds)
                candidate = replace(candidate, cv_mean=float(scores.mean()), cv_std=float(scores.std()))
    except (InputError, ParameterError) as error:
        return Candidate(params, seconds=time.perf_counter() - begin, error=str(error)), None
    return replace(candidate, seconds=time.perf_counter() - begin), fitted


def _judged(fitted: Estimator, params: dict[str, Any], X: Any, lengths: Any) -> Candidate:
    """The criteria on the data of the fit; those that the model does not have are NaN."""
    converged = bool(fitted.history_.converged)
    if not hasattr(fitted.model_, "count_parameters"):
        return Candidate(params, log_likelihood=float(fitted.score_samples(X, lengths=lengths).sum()), converged=converged)
    found = information_criteria(fitted, X, lengths)
    return Candidate(
        params,
        n_parameters=found.n_parameters,
        log_likelihood=found.log_likelihood,
        bic=found.bic,
        aic=found.aic,
        icl=found.icl,
        converged=converged,
    )


def _badness(candidate: Candidate, criterion: str, fitted: Estimator) -> float:
    """The criterion as a number of which less is better."""
    value = candidate.value(criterion)
    if math.isnan(value):
        raise ParameterError(f"{type(fitted).__name__} has no {criterion.upper()}; {_remedy(candidate)}")
    return -value if criterion in LARGER_IS_BETTER else value


def _remedy(candidate: Candidate) -> str:
    available = [repr(name) for name in CRITERIA if name == "cv" or not math.isnan(candidate.value(name))]
    return f"choose by criterion={' or '.join(available)}"


def _warn_of_the_best(fitted: Estimator, candidate: Candidate) -> None:
    if not candidate.converged and fitted.get_params().get("tol", 1.0) > 0:  # with tol=0 a number of iterations was asked for
        message = f"the best fit ({candidate.params}) did not converge; raise max_iter or tol, which may change the choice"
        warnings.warn(message, ConvergenceWarning, stacklevel=3)
