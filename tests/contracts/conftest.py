"""Every discovered estimator as a case: cheap constructor arguments, data of the kind that it takes, and its fitted numbers.

A new estimator needs no line here: what it is given follows from its parameters' names, its ``items`` and its tags.
"""

import functools
import inspect
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator
from sklearn.utils import get_tags

from unveil.core.model import EMModel
from unveil.core.statistics import Statistics
from unveil.data.batch import Batches
from unveil.data.layout import as_rows, offsets_of
from unveil.emissions.mixture import GaussianMixtureEmission
from unveil.emissions.product import Product
from unveil.kernels.gaussian import COVARIANCE_TYPES
from unveil.learn.em import em
from unveil.learn.reduce import REDUCTIONS
from unveil.models import discover
from unveil.models.autoencoder import Autoencoder
from unveil.models.gaussian_mixture import GaussianMixture

CHEAP = {
    "n_components": 3,
    "n_states": 3,
    "n_clusters": 2,
    "n_init": 1,
    "max_iter": 4,
    "tol": 0.0,
    "random_state": 0,
    "reduce": "serial",
    "n_latent": 2,
    "hidden": 8,
    "batch_size": 16,
    "max_epochs": 2,
    "dtype": "float64",
}
PARTS = {  # of models that are made of other estimators
    "autoencoder": lambda: Autoencoder(2, hidden=8, batch_size=16, max_epochs=2, dtype="float64"),
    "base": lambda: GaussianMixture(3, max_iter=4, tol=0.0),
}
VARIANTS = {
    "covariance_type": COVARIANCE_TYPES,
    "beta_loss": (0, 1, 2),
    "emission": (
        "categorical",
        "bernoulli",
        "poisson",
        partial(GaussianMixtureEmission, n_mixtures=2),
        Product({(0, 1): "gaussian", 2: "poisson", 3: "bernoulli"}),
    ),
    "emission_prior": ("conjugate",),
    "transitions": ("left-right", "bakis", "cyclic"),
    "weights_prior": (3.0,),
    "transmat_prior": (2.0,),
    "sticky": (5.0,),
    "tied_states": ((0, 1, 0),),
    "noise": ("isotropic", "diagonal"),
    "init": ("moments",),
}
WHOLE = {
    "categorical": 5,
    "bernoulli": 2,
    "poisson": 30,
}  # families of whole numbers, and the first number that is too large for them
QUICK = {  # of estimators that share their model with GaussianHMM or GaussianMixture, the variants that these lack; others are slow
    "HMM": ("emission",),
    "MixtureModel": ("emission",),
    "CategoricalHMM": ("transitions", "init"),
    "MixtureOfHMMs": ("covariance_type", "transitions", "init"),
}
VERBS = ("predict", "predict_proba", "filter_proba", "predict_states", "transform", "score_samples", "discriminate")
N_FEATURES = 4  # unlike any number of classes, so that no axis can be taken for another


@dataclass(frozen=True)
class Case:
    """An estimator class, with one choice of its options that change the model."""

    cls: type
    options: tuple = ()

    @property
    def takes_sequences(self):
        return self.new().items == "sequences"

    @property
    def limit(self):
        """The name of the parameter that ends learning."""
        names = self.new().get_params(deep=True)
        return next(name for name in ("max_iter", "max_epochs", "autoencoder__max_epochs") if name in names)

    @property
    def emission(self):
        return dict(self.options).get("emission", getattr(self.cls, "emission", None))

    @property
    def whole(self):
        """Whether data is of whole numbers, which cannot be scaled."""
        return self.emission is not None and not isinstance(self.emission, partial)

    @property
    def positive(self):
        return get_tags(self.cls()).input_tags.positive_only

    @property
    def starting_values(self):
        """The names of the parameters that are given arrays to start from."""
        names = self.new().get_params(deep=False)
        return [name for name in names if name.endswith("_init") and name not in ("n_init", "emission_init")]

    def new(self, **changes):
        accepted = inspect.signature(self.cls).parameters
        cheap = {name: value for name, value in CHEAP.items() if name in accepted}
        cheap |= {name: make() for name, make in PARTS.items() if name in accepted}
        nested = {name: value for name, value in changes.items() if "__" in name}
        own = {name: value for name, value in changes.items() if name not in nested}
        return self.cls(**cheap | dict(self.options) | own).set_params(**nested)

    def arrays(self, seed=0, n_items=40, scale=1.0, offset=0.0):
        """One table for each sequence, or one table of points in a list: clusters that can be told apart, but overlap."""
        rng = np.random.default_rng(seed)
        lengths = rng.integers(3, 12, n_items) if self.takes_sequences else [4 * n_items]
        centers = 2.0 * rng.normal(size=(3, N_FEATURES))
        made = []
        for length in lengths:
            classes = np.sort(rng.integers(3, size=length)) if self.takes_sequences else rng.integers(3, size=length)
            made.append(centers[classes] + rng.normal(size=(length, N_FEATURES)))
        if self.positive:
            made = [np.abs(each) + 0.01 for each in made]
        if self.whole:
            return [self._as_whole(each) for each in made]
        return [each * scale + offset for each in made]

    def _as_whole(self, values):
        """The same data in the numbers that the emission takes."""
        if self.emission in WHOLE:
            return np.clip(np.round(values + WHOLE[self.emission] / 2), 0, WHOLE[self.emission] - 1)
        mixed = values.copy()
        mixed[:, 2] = np.clip(np.round(values[:, 2] + 5), 0, None)
        mixed[:, 3] = values[:, 3] > 0
        return mixed

    def data(self, **options):
        """What the user hands over."""
        arrays = self.arrays(**options)
        return arrays if self.takes_sequences else arrays[0]

    def table(self, **options):
        """The same in one array, and the ``lengths`` that a model of sequences needs to tell them apart."""
        arrays = self.arrays(**options)
        return np.concatenate(arrays), {"lengths": [len(each) for each in arrays]} if self.takes_sequences else {}

    def batches(self, arrays=None, weights=None, batch_steps=None, **options):
        arrays = self.arrays(**options) if arrays is None else arrays
        offsets = offsets_of([len(each) for each in arrays]) if self.takes_sequences else None
        return Batches(as_rows(np.concatenate(arrays)), offsets, weights=weights, batch_steps=batch_steps)

    def edges(self, arrays):
        """Where items begin and end in the concatenated rows."""
        return offsets_of([len(each) for each in arrays] if self.takes_sequences else np.ones(len(arrays[0]), dtype=int))

    def select(self, arrays, items):
        """The same arrays with other items, in another order, or again."""
        return [arrays[i] for i in items] if self.takes_sequences else [arrays[0][items]]

    def n_items(self, arrays):
        return len(self.edges(arrays)) - 1

    def started(self, batches, **changes):
        """A model after its start and one step, so that everything it holds has been set from data."""
        model = self.new(**changes).build(batches.n_features)
        model.initialize(batches, torch.Generator().manual_seed(0))
        em(model, batches, max_iter=1, tol=0.0)
        forget(model)
        return model

    @property
    def scoring(self):
        """The verb that makes one number of data, where there is one."""
        return ("score",) if self.cls.has_likelihood else ()

    def score(self, estimator, X):
        """The score of data, or for a model without a likelihood the mean of its first output."""
        if self.scoring:
            return estimator.score(X)
        return float(np.mean(flat(next(iter(self.outputs(estimator, X).values())))))

    def outputs(self, estimator, X, **arguments):
        """The result of each verb that the estimator has."""
        return {verb: getattr(estimator, verb)(X, **arguments) for verb in VERBS if hasattr(estimator, verb)}


def forget(model):
    """Drop what a model keeps from one pass to the next."""
    getattr(model, "forget", lambda: None)()


def settings_of(estimator):
    """Constructor parameters, those of its parts too."""
    return {name: value for name, value in estimator.get_params().items() if not isinstance(value, BaseEstimator)}


def numbers_of(model):
    return {name: value.detach().cpu().numpy().copy() for name, value in model.state_dict().items()}


def flat(value):
    """Arrays of a result that may be a list with one for each sequence."""
    return np.concatenate([np.asarray(each) for each in value]) if isinstance(value, list) else np.asarray(value)


def fields_of(statistics, prefix=""):
    """The arrays of statistics, nested ones too, by name."""
    found = {}
    for name, value in vars(statistics).items():
        if isinstance(value, Statistics):
            found |= fields_of(value, f"{prefix}{name}.")
        elif isinstance(value, tuple):
            for i, part in enumerate(value):
                found |= fields_of(part, f"{prefix}{name}.{i}.")
        else:
            found[prefix + name] = np.asarray(value)
    return found


def is_em(cls):
    return isinstance(Case(cls).new().build(N_FEATURES), EMModel)


def needs_classes(cls):
    """Whether an estimator can only be fitted with y: it has tests of its own."""
    return get_tags(cls()).target_tags.required


@functools.cache
def all_cases():
    return [Case(cls) for cls in discover().values() if not needs_classes(cls)]


def has_exchangeable_classes(case):
    """Whether latent classes can be put in another order: there are several, and nothing tells them apart."""
    model = case.new().build(N_FEATURES)
    structure = getattr(model, "structure", None)
    if structure is not None:
        return structure.groups is None and bool(structure.allowed.all())
    return hasattr(model, "components") or len(getattr(model, "weights", ())) > 1


@functools.cache
def em_variants():
    made = []
    for cls in discover().values():
        if needs_classes(cls) or not is_em(cls):
            continue
        accepted = inspect.signature(cls).parameters
        names = [name for name in VARIANTS if name in accepted]
        if hasattr(cls, "emission"):  # a family of its own, whose priors are numbers
            names.remove("emission_prior")
        if {"emission", "covariance_type"} <= set(names) and cls.__name__ in ("HMM", "MixtureModel"):
            names.remove("covariance_type")  # the same model as those of GaussianHMM and GaussianMixture
        choices = [((name, value),) for name in names for value in VARIANTS[name]] or [()]
        made += [Case(cls, choice) for choice in choices]
    return made


def is_quick(variant):
    """Whether no other estimator has the same model with the same option."""
    return all(name in QUICK.get(variant.cls.__name__, [name]) for name, _ in variant.options)


def is_first(variant):
    """Whether it is the first of its estimator's variants."""
    return variant == next(each for each in em_variants() if each.cls is variant.cls)


def slow_unless(quick, cases):
    """The cases, of which those that are not quick run with the slow tests."""
    return [each if quick(each) else pytest.param(each, marks=pytest.mark.slow) for each in cases]


def label(case):
    return "-".join([case.cls.__name__, *(_named(name, value) for name, value in case.options)])


def _named(option, value):
    if isinstance(value, partial):
        return value.func.__name__
    return type(value).__name__ if isinstance(value, Product) else f"{option}={value}"


def pytest_generate_tests(metafunc):
    for name, cases in (
        ("case", all_cases()),
        ("point_case", [each for each in all_cases() if not each.takes_sequences]),
        ("sequence_case", [each for each in all_cases() if each.takes_sequences]),
        ("positive_case", [each for each in all_cases() if each.positive]),
        ("scored_case", [each for each in all_cases() if each.scoring]),
        ("drawn_case", [each for each in all_cases() if each.cls.can_sample]),
        ("warm_case", [each for each in all_cases() if "warm_start" in each.new().get_params()]),
        ("given_case", [each for each in all_cases() if each.starting_values]),
        ("em_case", slow_unless(is_first, em_variants())),
        ("variant", slow_unless(is_quick, em_variants())),
        ("exchangeable_variant", slow_unless(is_quick, [each for each in em_variants() if has_exchangeable_classes(each)])),
        ("scaled_variant", slow_unless(is_quick, [each for each in em_variants() if not each.whole])),
        ("free_variant", slow_unless(is_quick, [each for each in em_variants() if not each.positive and not each.whole])),
    ):
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, cases, ids=label)


@pytest.fixture
def tools():
    """The helpers of this file, which test modules cannot import."""
    from types import SimpleNamespace

    return SimpleNamespace(
        forget=forget,
        numbers_of=numbers_of,
        settings_of=settings_of,
        flat=flat,
        fields_of=fields_of,
        n_features=N_FEATURES,
        reductions=REDUCTIONS,
    )
