"""Peak memory of a Gaussian mixture that learns from a large file: ``python -m benchmarks.memory [GIGABYTES]``.

Writes the file into a temporary folder, fits it in a process of its own, and compares with the fit in memory of a part that fits.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

N_FEATURES, N_COMPONENTS = 16, 8
SETTINGS = {"n_components": N_COMPONENTS, "max_iter": 3, "tol": 0.0, "random_state": 0}


def write(path: Path, n_rows: int) -> None:
    """A file of so many rows, written piece by piece."""
    rng = np.random.default_rng(0)
    means = rng.normal(size=(N_COMPONENTS, N_FEATURES)) * 3
    with open(path, "wb") as file:
        header = {"descr": "<f8", "fortran_order": False, "shape": (n_rows, N_FEATURES)}
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, n_rows, 1 << 18):
            n = min(1 << 18, n_rows - start)
            file.write((means[rng.integers(N_COMPONENTS, size=n)] + rng.normal(size=(n, N_FEATURES))).tobytes())


def fit(path: str) -> None:
    """Fit from the file, and print the peak memory of this process and the result."""
    from unveil import GaussianMixture, open_batches

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    mixture = GaussianMixture(**SETTINGS).fit(open_batches(path))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        json.dumps(
            {"before": before / 1024, "peak": peak / 1024, "seconds": mixture.history_.seconds, "means": mixture.means_.tolist()}
        )
    )


def run(path: Path) -> dict:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.memory", "--fit", str(path)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main(gigabytes: float) -> None:
    from unveil import GaussianMixture

    with tempfile.TemporaryDirectory() as folder:
        large, small = Path(folder, "large.npy"), Path(folder, "small.npy")
        write(large, int(gigabytes * 1e9 / (8 * N_FEATURES)))
        write(small, 500_000)
        result = run(large)
        print(f"{gigabytes:g} GB file: peak {result['peak']:.0f} MB, of which {result['before']:.0f} MB before the fit; ", end="")
        print(f"{result['seconds'] / SETTINGS['max_iter']:.1f} s per EM step")
        in_memory = GaussianMixture(**SETTINGS).fit(np.load(small)).means_
        difference = np.abs(np.array(run(small)["means"]) - in_memory).max()
        print(f"0.5 million rows, from the file and in memory: means differ by {difference:.2g}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--fit"]:
        fit(sys.argv[2])
    else:
        main(float(sys.argv[1]) if sys.argv[1:] else 4.0)
