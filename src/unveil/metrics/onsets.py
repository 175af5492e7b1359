"""How well the times at which something begins were found."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from unveil.errors import InputError, ParameterError


class OnsetScore(NamedTuple):
    """Found onsets beside true ones.

    Attributes
    ----------
    f_measure : float
        2 P R / (P + R), the harmonic mean of precision and recall.
    precision : float
        P, the share of the found onsets that are matched.
    recall : float
        R, the share of the true onsets that are matched.
    """

    f_measure: float
    precision: float
    recall: float


def onset_f_measure(reference_s: ArrayLike, estimate_s: ArrayLike, tolerance: float = 0.05) -> OnsetScore:
    r"""F-measure of onsets, each true one matched with at most one that was found nearby, and the other way round.

    .. math:: F = \frac{2 |\mathcal M|}{n_{ref} + n_{est}}, \qquad
              \mathcal M = \text{a largest matching of pairs with } |t_i - \hat t_j| \le \text{tolerance}

    It is 0 where there is no true onset, or none was found.

    Parameters
    ----------
    reference_s : array of shape (n_ref,)
        The true times in seconds, in any order.
    estimate_s : array of shape (n_est,)
        The times that were found, in seconds.
    tolerance : float
        How far apart the two of a pair may be, in seconds.

    Returns
    -------
    OnsetScore
        The F-measure, the precision and the recall.

    Raises
    ------
    InputError
        When the times are not flat lists of finite numbers.
    ParameterError
        When the tolerance is not a number that is at least 0.

    References
    ----------
    Raffel et al. (2014), mir_eval: a transparent implementation of common MIR metrics.

    Examples
    --------
    >>> f_measure, precision, recall = onset_f_measure([0.5, 1.5, 2.5], [0.52, 1.49])
    >>> round(f_measure, 6), precision, round(recall, 6)
    (0.8, 1.0, 0.666667)
    """
    if not 0 <= tolerance < np.inf:
        raise ParameterError(f"tolerance={tolerance!r}: expected a number of seconds >= 0")
    reference, estimate = _times("reference_s", reference_s), _times("estimate_s", estimate_s)
    if not len(reference) or not len(estimate):
        return OnsetScore(0.0, 0.0, 0.0)
    near = csr_array(np.abs(reference[:, None] - estimate) <= tolerance)
    n_matched = int((maximum_bipartite_matching(near) >= 0).sum())
    return OnsetScore(2 * n_matched / (len(reference) + len(estimate)), n_matched / len(estimate), n_matched / len(reference))


def _times(name: str, times: ArrayLike) -> np.ndarray:
    times = np.asarray(times, dtype=np.float64)
    if times.ndim != 1 or not np.isfinite(times).all():
        raise InputError(f"{name} has shape {times.shape}; expected a flat list of finite times in seconds")
    return times
