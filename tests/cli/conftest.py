"""The command, run inside this process, and small material to run it on."""

import json
import shlex
import shutil
import sys
import warnings
from dataclasses import dataclass

import numpy as np
import pytest
import soundfile

from unveil.cli import main
from unveil.models.gaussian_mixture import GaussianMixture
from unveil.models.hmm import HMM
from unveil.models.linear_dynamical_system import LinearDynamicalSystem
from unveil.models.ppca import PPCA

RATE = 8000


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


@pytest.fixture
def unveil(monkeypatch, capsys):
    """Run ``unveil`` with a line of arguments, as a shell would."""
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # which the command replaces

    def run(line: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["unveil", *shlex.split(line)])
        capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code or 0
        return Result(code, *capsys.readouterr())

    return run


def tone(frequency: float, swell: float, seconds: float = 1.0, rate: int = RATE) -> np.ndarray:
    t = np.arange(int(seconds * rate)) / rate
    return 0.4 * np.sin(np.pi * t / seconds) * (0.6 + 0.4 * np.sin(2 * np.pi * swell * t)) * np.sin(2 * np.pi * frequency * t)


@pytest.fixture(scope="session")
def material(tmp_path_factory):
    """Points in two groups, sequences in two groups, and sounds of two kinds with their mixture; to be copied."""
    folder = tmp_path_factory.mktemp("material")
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.normal(0, 1, size=(60, 2)), rng.normal(8, 1, size=(40, 2))])
    np.save(folder / "points.npy", points)
    np.savetxt(folder / "points.csv", points, delimiter=",", header="x,y", comments="")
    swings = [np.repeat([0.0, 5.0], 8), np.tile([0.0, 5.0], 8)]  # the same values, in another order
    sequences = [np.tile(swings[i % 2], 2)[: 20 + i, None] + rng.normal(0, 0.3, size=(20 + i, 1)) for i in range(12)]
    np.savez(folder / "sequences.npz", **{f"s{i}": each for i, each in enumerate(sequences)})
    low, high = tone(250, 1), tone(1700, 2)
    for path, sound in {
        "mix.wav": low + high,
        "low.wav": tone(250, 3),
        "highs/one.wav": tone(1700, 4),
        "highs/deeper/two.flac": tone(1700, 5),
        "true/low.wav": low,
        "true/high.wav": high,
    }.items():
        (folder / path).parent.mkdir(exist_ok=True, parents=True)
        soundfile.write(folder / path, sound, RATE, subtype="PCM_24")
    return folder


@pytest.fixture
def here(material, tmp_path, monkeypatch):
    """A folder of the test's own with the material, where it works."""
    shutil.copytree(material, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def trained(material, tmp_path_factory):
    """The material with counts, waves and what is missing, and models of them; to be copied."""
    folder = shutil.copytree(material, tmp_path_factory.mktemp("trained") / "here")
    rng = np.random.default_rng(1)
    points = np.load(folder / "points.npy")
    holed = points.copy()
    holed[::7, 1] = np.nan
    np.save(folder / "holed.npy", holed)
    counts = rng.poisson(np.repeat([2.0, 30.0, 2.0, 30.0], 15))[:, None]
    np.save(folder / "counts.npy", counts)
    t = np.arange(50)
    waves = np.stack([np.sin(t / 4), np.cos(t / 4)], 1) + rng.normal(0, 0.1, size=(50, 2))
    waves[30:33] = np.nan
    np.savez(folder / "waves.npz", a=waves[:20], b=waves[20:])
    for name, model, data in (
        ("mixture", GaussianMixture(2, random_state=0), points),
        ("hmm", HMM(2, emission="poisson", random_state=0), counts),
        ("lds", LinearDynamicalSystem(2, tol=0.1, random_state=0), [waves[:20], waves[20:]]),
        ("ppca", PPCA(1, random_state=0), holed),
    ):
        model.fit(data).save(folder / f"{name}.unveil")
    return folder


@pytest.fixture
def with_models(trained, tmp_path, monkeypatch):
    """A folder of the test's own with the material and the models, where it works."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path
