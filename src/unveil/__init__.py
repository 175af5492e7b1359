"""Unveil: generative models with latent variables, for sequences and sound.

Everything public is here, and is imported when it is first used, so ``import unveil`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_PLACES = {
    "Batch": "unveil.data.batch",
    "Batches": "unveil.data.batch",
    "load": "unveil.models",
    "open_batches": "unveil.data.streams",
    "read_audio": "unveil.data.files",
    "write_audio": "unveil.data.files",
    "separate": "unveil.audio.separate",
    "Separator": "unveil.audio.separate",
    "separate_blind": "unveil.audio.blind",
    "resynthesize": "unveil.audio.resynthesize",
    "power_frames": "unveil.audio.resynthesize",
    "bss_eval": "unveil.metrics.bss",
    "si_sdr": "unveil.metrics.bss",
    "select": "unveil.selection",
    "align_states": "unveil.selection",
    "permute_states": "unveil.selection",
    "clustering_accuracy": "unveil.metrics.clustering",
    "adjusted_rand": "unveil.metrics.clustering",
    "Gaussian": "unveil.emissions.gaussian",
    "NormalInverseWishart": "unveil.emissions.gaussian",
    "GaussianMixtureEmission": "unveil.emissions.mixture",
    "Categorical": "unveil.emissions.categorical",
    "Bernoulli": "unveil.emissions.bernoulli",
    "Poisson": "unveil.emissions.poisson",
    "Product": "unveil.emissions.product",
    "Emission": "unveil.core.model",
    "mfcc": "unveil.audio.features",
    "detect_onsets": "unveil.audio.onsets",
    "OnsetDetector": "unveil.audio.onsets",
    "onset_f_measure": "unveil.metrics.onsets",
    "match_moments": "unveil.learn.moments",
}
_MODULES = {
    "datasets": "unveil.data.datasets",
    "errors": "unveil.errors",
    "metrics": "unveil.metrics",
    "report": "unveil.report",
}


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(importlib.import_module(_PLACES[name]), name)
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    if name == "__all__":  # what ``from unveil import *`` asks for
        return [each for each in __dir__() if not each.startswith("_")]
    if not name.startswith("_"):
        models = importlib.import_module("unveil.models").discover()
        if name in models:
            return models[name]
    raise AttributeError(f"module 'unveil' has no attribute {name!r}")


def __dir__() -> list[str]:
    models = importlib.import_module("unveil.models").discover()
    return sorted(["__version__", *_PLACES, *_MODULES, *models])
