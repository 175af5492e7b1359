"""How long starts from moments take, and how that grows with the data: ``python -m benchmarks.moments``.

Pen trajectories where ``UNVEIL_DATA`` has them, and simulated sequences of 20 steps with 15 features from 3 chains of 3 states; the
method of moments alone, without EM. Medians of three.
"""

from __future__ import annotations

import statistics
import time

import numpy as np

from unveil.data import datasets
from unveil.errors import InputError
from unveil.experiments.moment_rates import DEPERMUTATIONS, LENGTH, N_CHAINS, N_STATES, simulate_mixture
from unveil.experiments.pen_digits import VARIANCE_FLOOR
from unveil.models.mixture_of_hmms import MixtureOfHMMs

SIZES = (3_000, 10_000, 30_000)
REPEATS = 3


def seconds(model: MixtureOfHMMs, sequences: list | np.ndarray) -> float:
    """The median time of a fit."""
    spent = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        model.fit(sequences)
        spent.append(time.perf_counter() - begin)
    return statistics.median(spent)


def main() -> None:
    settings = {"init": "moments", "max_iter": 0, "random_state": 0}
    try:
        pen = datasets.load("pendigits", digits=(1, 5), per_class=200).data
        print(
            f"400 pen trajectories, 2 x 8 states: {seconds(MixtureOfHMMs(2, 8, reg_covar=VARIANCE_FLOOR, **settings), list(pen)):.2f} s"
        )
    except InputError as error:
        print(f"pen trajectories left out: {error}")
    for depermute in DEPERMUTATIONS:
        model = MixtureOfHMMs(N_CHAINS, N_STATES, covariance_type="spherical", depermute=depermute, **settings)
        for size in SIZES:
            print(f"{size * LENGTH} frames x 15, 9 states, {depermute}: {seconds(model, simulate_mixture(size, 0)[0]):.2f} s")


if __name__ == "__main__":
    main()
