"""What is compared: each case makes its data, and each contestant does the same work from the same start.

A contestant is prepared (imports, compilation, one small run), and then returns a function whose run is timed and which leaves its
result in ``data["fitted"]``. ``data["score"]`` turns that into the figure by which results are compared: a final log-likelihood,
the mean of a dictionary, a score.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Work = Callable[[], None]


@dataclass(frozen=True)
class Case:
    """One comparison; ``goal`` is the ratio to each peer below which we would be ashamed."""

    title: str
    make: Callable[[], Any]
    contestants: dict[str, Callable[[Any], Work]]
    steps: int
    goal: dict[str, float] = field(default_factory=dict)


# ---- Gaussian mixture ----------------------------------------------------------------------------------------------


def mixture_data(n: int = 200_000, d: int = 16, k: int = 32) -> dict:
    rng = np.random.default_rng(0)
    means = rng.normal(size=(k, d)) * 4
    X = means[rng.integers(k, size=n)] + rng.normal(size=(n, d))
    return {"X": X, "k": k, "means": means + rng.normal(size=means.shape)}


def mixture(library: str, covariance_type: str, steps: int) -> Callable[[dict], Work]:
    def prepare(data: dict) -> Work:
        if library == "unveil":
            from unveil import GaussianMixture
        else:
            from sklearn.mixture import GaussianMixture
        k, d = data["means"].shape
        settings = {
            "n_components": k,
            "covariance_type": covariance_type,
            "weights_init": np.full(k, 1 / k),
            "means_init": data["means"],
            "precisions_init": np.stack([np.eye(d)] * k) if covariance_type == "full" else np.ones((k, d)),
            "init_params": "random_from_data",
            "random_state": 0,
            "tol": 0.0,
        }
        GaussianMixture(**settings, max_iter=1).fit(data["X"][:2000])

        def work() -> None:
            estimator = GaussianMixture(**settings, max_iter=steps).fit(data["X"])
            data["fitted"] = estimator

        return work

    return prepare


def mixture_score(data: dict) -> float:
    return float(data["fitted"].score(data["X"][:20_000]))


# ---- hidden Markov model -------------------------------------------------------------------------------------------


def chain_data(n: int, length: int, d: int, m: int) -> dict:
    rng = np.random.default_rng(0)
    means = rng.normal(size=(m, d)) * 2
    states = np.zeros(n * length, dtype=int)
    jumps = rng.integers(1, 4, size=n * length)
    for t in range(1, n * length):
        states[t] = (states[t - 1] + jumps[t]) % m
    X = means[states] + rng.normal(size=(n * length, d))
    transition = rng.dirichlet(np.ones(m) * 5, size=m)
    return {"X": X, "lengths": [length] * n, "transition": transition, "means": X[rng.choice(n * length, m)]}


def covariances_of(covariance_type: str, m: int, d: int) -> np.ndarray:
    return np.stack([np.eye(d)] * m) if covariance_type == "full" else np.ones((m, d))


def chain_unveil(steps: int, covariance_type: str = "diag") -> Callable[[dict], Work]:
    def prepare(data: dict) -> Work:
        from unveil import GaussianHMM

        m, d = data["means"].shape
        settings = {
            "n_states": m,
            "startprob_init": np.full(m, 1 / m),
            "transmat_init": data["transition"],
            "means_init": data["means"],
            "covariance_type": covariance_type,
            "covariances_init": covariances_of(covariance_type, m, d),
            "reg_covar": 1e-3,
            "tol": 0.0,
            "random_state": 0,
        }
        GaussianHMM(**settings, max_iter=1).fit(data["X"][:10_000], lengths=[500] * 20)  # enough for all threads to start

        def work() -> None:
            data["fitted"] = GaussianHMM(**settings, max_iter=steps).fit(data["X"], lengths=data["lengths"])

        return work

    return prepare


def chain_hmmlearn(implementation: str, steps: int, covariance_type: str = "diag") -> Callable[[dict], Work]:
    def prepare(data: dict) -> Work:
        from hmmlearn.hmm import GaussianHMM

        m, d = data["means"].shape

        def work() -> None:
            hmm = GaussianHMM(
                m, covariance_type, n_iter=steps, tol=-np.inf, init_params="", implementation=implementation,
                min_covar=1e-3, covars_prior=0, covars_weight=0,
            )  # fmt: skip
            hmm.startprob_, hmm.transmat_ = np.full(m, 1 / m), data["transition"]
            hmm.means_, hmm.covars_ = data["means"], covariances_of(covariance_type, m, d)
            data["fitted"] = hmm.fit(data["X"], data["lengths"])

        return work

    return prepare


def chain_dynamax(steps: int) -> Callable[[dict], Work]:
    """Full covariances, with its own weak prior, in float64; its first fit, which compiles, is not counted."""

    def prepare(data: dict) -> Work:
        import jax

        jax.config.update("jax_enable_x64", True)
        from dynamax.hidden_markov_model import GaussianHMM

        m, d = data["means"].shape
        emissions = jax.numpy.asarray(data["X"].reshape(len(data["lengths"]), -1, d))

        def work() -> None:
            hmm = GaussianHMM(m, d)
            parameters, properties = hmm.initialize(
                initial_probs=np.full(m, 1 / m), transition_matrix=data["transition"], emission_means=data["means"],
                emission_covariances=covariances_of("full", m, d),
            )  # fmt: skip
            _, log_posteriors = hmm.fit_em(parameters, properties, emissions, num_iters=steps, verbose=False)
            data["fitted"] = float(log_posteriors[-1]) / len(data["X"])

        work()
        return work

    return prepare


def chain_score(data: dict) -> float:
    """The log-likelihood of all steps, per step, by whichever library fitted."""
    fitted = data["fitted"]
    if isinstance(fitted, float):  # the log-posterior before the last step, from dynamax
        return fitted
    if hasattr(fitted, "transmat_") and hasattr(fitted, "score_samples") and hasattr(fitted, "history_"):
        return float(fitted.score_samples(data["X"], lengths=data["lengths"]).sum()) / len(data["X"])
    return float(fitted.score(data["X"], data["lengths"])) / len(data["X"])


def chain_case(n: int, length: int, d: int, m: int, goal: dict[str, float], steps: int = 10) -> Case:
    return Case(
        f"Gaussian HMM diag, {n} x {length}, D={d}, M={m}",
        lambda: chain_data(n, length, d, m) | {"score": chain_score},
        {
            "unveil": chain_unveil(steps),
            "hmmlearn scaling": chain_hmmlearn("scaling", steps),
            "hmmlearn log": chain_hmmlearn("log", steps),
        },
        steps,
        goal,
    )


# ---- hidden Markov model of symbols ----------------------------------------------------------------------------------


def symbol_data(n: int = 1000, length: int = 200, s: int = 50, m: int = 16) -> dict:
    rng = np.random.default_rng(0)
    table, states = rng.dirichlet(np.full(s, 0.2), size=m), np.zeros(n * length, dtype=int)
    jumps = rng.integers(1, 4, size=n * length)
    for t in range(1, n * length):
        states[t] = (states[t - 1] + jumps[t]) % m
    cumulative = table.cumsum(1)
    symbols = (rng.random(n * length)[:, None] > cumulative[states]).sum(1).clip(max=s - 1)
    return {
        "X": symbols[:, None],
        "lengths": [length] * n,
        "transition": rng.dirichlet(np.ones(m) * 5, size=m),
        "table": rng.dirichlet(np.ones(s), size=m),
    }


def symbols_unveil(steps: int) -> Callable[[dict], Work]:
    def prepare(data: dict) -> Work:
        from functools import partial

        from unveil import HMM, Categorical

        m, s = data["table"].shape
        settings = {
            "n_states": m,
            "emission": partial(Categorical, n_categories=s),
            "startprob_init": np.full(m, 1 / m),
            "transmat_init": data["transition"],
            "emission_init": {"probabilities": data["table"][:, None, :]},
            "tol": 0.0,
            "random_state": 0,
        }
        HMM(**settings, max_iter=1).fit(data["X"][:10_000], lengths=[200] * 50)

        def work() -> None:
            data["fitted"] = HMM(**settings, max_iter=steps).fit(data["X"], lengths=data["lengths"])

        return work

    return prepare


def symbols_hmmlearn(implementation: str, steps: int) -> Callable[[dict], Work]:
    def prepare(data: dict) -> Work:
        from hmmlearn.hmm import CategoricalHMM

        m, s = data["table"].shape

        def work() -> None:
            hmm = CategoricalHMM(m, n_iter=steps, tol=-np.inf, init_params="", implementation=implementation, n_features=s)
            hmm.startprob_, hmm.transmat_, hmm.emissionprob_ = np.full(m, 1 / m), data["transition"], data["table"]
            data["fitted"] = hmm.fit(data["X"], data["lengths"])

        return work

    return prepare


# ---- few factors behind many columns -------------------------------------------------------------------------------


def factor_data(n: int = 200_000, d: int = 64, q: int = 10) -> dict:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, q)) @ rng.normal(size=(q, d)) + rng.normal(size=(n, d)) * np.linspace(0.5, 2.0, d)
    return {"X": X, "q": q, "score": lambda data: float(data["fitted"].score(data["X"][:20_000]))}


def factors_unveil(noise: str) -> Callable[[dict], Work]:
    def prepare(data: dict) -> Work:
        from unveil import PPCA

        PPCA(data["q"], noise=noise).fit(data["X"][:5000])

        def work() -> None:
            data["fitted"] = PPCA(data["q"], noise=noise, tol=1e-6).fit(data["X"])

        return work

    return prepare


def factors_sklearn(noise: str) -> Callable[[dict], Work]:
    def prepare(data: dict) -> Work:
        from sklearn.decomposition import PCA, FactorAnalysis

        def work() -> None:
            if noise == "isotropic":
                data["fitted"] = PCA(data["q"], svd_solver="covariance_eigh").fit(data["X"])
            else:
                data["fitted"] = FactorAnalysis(data["q"], tol=1e-2, max_iter=1000).fit(data["X"])

        return work

    return prepare


# ---- linear dynamical system -----------------------------------------------------------------------------------------


def motion_data(n: int = 200, length: int = 500, k: int = 4, d: int = 4) -> dict:
    rng = np.random.default_rng(0)
    rotation = np.linalg.qr(rng.normal(size=(k, k)))[0] * 0.98
    observation, states = rng.normal(size=(d, k)), np.zeros((n, length, k))
    for t in range(1, length):
        states[:, t] = states[:, t - 1] @ rotation.T + rng.normal(size=(n, k))
    X = states @ observation.T + rng.normal(size=(n, length, d))
    return {"X": X, "rotation": rotation, "observation": observation, "score": lambda data: data["fitted"]}


def motion_unveil(steps: int) -> Callable[[dict], Work]:
    def prepare(data: dict) -> Work:
        from unveil import LinearDynamicalSystem

        k = len(data["rotation"])
        settings = {
            "n_states": k,
            "transition_init": data["rotation"],
            "observation_init": data["observation"],
            "transition_noise_init": np.eye(k),
            "observation_noise_init": np.eye(data["observation"].shape[0]),
            "initial_mean_init": np.zeros(k),
            "initial_covariance_init": np.eye(k),
            "tol": 0.0,
        }
        LinearDynamicalSystem(**settings, max_iter=1).fit(data["X"][:20])

        def work() -> None:
            fitted = LinearDynamicalSystem(**settings, max_iter=steps).fit(data["X"])
            data["fitted"] = fitted.history_.objective[0]

        return work

    return prepare


def motion_dynamax(steps: int) -> Callable[[dict], Work]:
    """In float64; its first fit, which compiles, is not counted.

    The result is the log-likelihood at the start: from the fourth step on dynamax 1.0.3 loses likelihood on this data.
    """

    def prepare(data: dict) -> Work:
        import jax

        jax.config.update("jax_enable_x64", True)
        from dynamax.linear_gaussian_ssm import LinearGaussianSSM

        d, k = data["observation"].shape
        emissions = jax.numpy.asarray(data["X"])

        def work() -> None:
            model = LinearGaussianSSM(k, d)
            parameters, properties = model.initialize(
                dynamics_weights=data["rotation"], emission_weights=data["observation"], dynamics_covariance=np.eye(k),
                emission_covariance=np.eye(d), initial_mean=np.zeros(k), initial_covariance=np.eye(k),
            )  # fmt: skip
            _, log_posteriors = model.fit_em(parameters, properties, emissions, num_iters=steps, verbose=False)
            data["fitted"] = float(log_posteriors[0]) / emissions[..., 0].size

        work()
        return work

    return prepare


# ---- non-negative matrix factorisation -----------------------------------------------------------------------------


def spectra(n: int = 2000, f: int = 513, k: int = 40) -> dict:
    rng = np.random.default_rng(0)
    X = (rng.poisson(5 * rng.gamma(0.3, size=(n, k)) @ rng.gamma(0.3, size=(k, f))) + 1e-3).astype(float)
    components = rng.random((k, f))
    activations = np.repeat(X.sum(1, keepdims=True) / components.sum(), k, axis=1)  # where ours starts
    return {"X": X, "components": components, "activations": activations, "score": spectra_score}


def nmf_unveil(steps: int) -> Callable[[dict], Work]:
    def prepare(data: dict) -> Work:
        from unveil import NMF

        k = len(data["components"])
        settings = {"n_components": k, "components_init": data["components"], "tol": 0.0, "random_state": 0}
        NMF(**settings, max_iter=2).fit(data["X"])

        def work() -> None:
            data["fitted"] = NMF(**settings, max_iter=steps).fit(data["X"]).components_

        return work

    return prepare


def nmf_sklearn(steps: int) -> Callable[[dict], Work]:
    def prepare(data: dict) -> Work:
        from sklearn.decomposition import non_negative_factorization

        def run(n: int) -> np.ndarray:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                _, components, _ = non_negative_factorization(
                    data["X"], W=data["activations"].copy(), H=data["components"].copy(), n_components=len(data["components"]),
                    init="custom", solver="mu", beta_loss="kullback-leibler", max_iter=n, tol=0,
                )  # fmt: skip
            return components

        run(2)

        def work() -> None:
            data["fitted"] = run(steps)

        return work

    return prepare


def spectra_score(data: dict) -> float:
    """The mean of the dictionary: the same start and number of updates must give the same one."""
    return float(data["fitted"].mean())


# ---- BSS-eval ------------------------------------------------------------------------------------------------------


def sources(seconds: int = 5, rate: int = 16_000) -> dict:
    from scipy.signal import lfilter

    rng = np.random.default_rng(0)
    n = seconds * rate

    def source() -> np.ndarray:
        envelope = np.abs(lfilter([1], [1, -0.9995], rng.standard_normal(n)))
        x = lfilter([1], [1, -0.9], rng.standard_normal(n)) * envelope
        return 0.9 * x / np.abs(x).max()

    reference = np.stack([source(), source()])
    estimate = reference + 0.2 * reference[::-1] + 0.02 * rng.standard_normal(reference.shape)
    return {"reference": reference, "estimate": estimate, "score": lambda data: data["fitted"]}


def bss_unveil(data: dict) -> Work:
    from unveil.metrics.bss import bss_eval

    def work() -> None:
        data["fitted"] = float(bss_eval(data["reference"], data["estimate"]).sdr.sum())

    work()
    return work


def bss_mir_eval(data: dict) -> Work:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mir_eval.separation import bss_eval_sources

    def work() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data["fitted"] = float(bss_eval_sources(data["reference"], data["estimate"])[0].sum())

    work()
    return work


CASES: dict[str, Case] = {
    "gmm-full": Case(
        "Gaussian mixture, full covariance, 200000 x 16, K=32",
        lambda: mixture_data() | {"score": mixture_score},
        {"unveil": mixture("unveil", "full", 10), "scikit-learn": mixture("scikit-learn", "full", 10)},
        10,
        {"scikit-learn": 10},
    ),
    "gmm-diag": Case(
        "Gaussian mixture, diagonal, 200000 x 16, K=32",
        lambda: mixture_data() | {"score": mixture_score},
        {"unveil": mixture("unveil", "diag", 10), "scikit-learn": mixture("scikit-learn", "diag", 10)},
        10,
        {"scikit-learn": 4},
    ),
    "hmm-8": chain_case(200, 500, 12, 8, {"hmmlearn scaling": 5, "hmmlearn log": 18}),
    "hmm-32": chain_case(200, 500, 12, 32, {"hmmlearn scaling": 8, "hmmlearn log": 40}, steps=5),
    "hmm-long": chain_case(1, 100_000, 4, 8, {"hmmlearn scaling": 2.5}),
    "hmm-full": Case(
        "Gaussian HMM full, 200 x 500, D=12, M=8",
        lambda: chain_data(200, 500, 12, 8) | {"score": chain_score},
        {
            "unveil": chain_unveil(5, "full"),
            "hmmlearn scaling": chain_hmmlearn("scaling", 5, "full"),
            "dynamax": chain_dynamax(5),
        },
        5,
        {"hmmlearn scaling": 10, "dynamax": 1},
    ),
    "hmm-categorical": Case(
        "Categorical HMM, 1000 x 200, 50 symbols, M=16",
        lambda: symbol_data() | {"score": chain_score},
        {
            "unveil": symbols_unveil(5),
            "hmmlearn scaling": symbols_hmmlearn("scaling", 5),
            "hmmlearn log": symbols_hmmlearn("log", 5),
        },
        5,
        {"hmmlearn scaling": 3, "hmmlearn log": 15},
    ),
    "ppca": Case(
        "Probabilistic PCA, 200000 x 64, 10 components: a whole fit",
        factor_data,
        {"unveil": factors_unveil("isotropic"), "scikit-learn": factors_sklearn("isotropic")},
        1,
    ),
    "factors": Case(
        "Factor analysis, 200000 x 64, 10 factors: a whole fit",
        factor_data,
        {"unveil": factors_unveil("diagonal"), "scikit-learn": factors_sklearn("diagonal")},
        1,
        {"scikit-learn": 1},
    ),
    "lds": Case(
        "Linear dynamical system, 200 x 500, 4 states, D=4",
        motion_data,
        {"unveil": motion_unveil(5), "dynamax": motion_dynamax(5)},
        5,
        {"dynamax": 1},
    ),
    "nmf": Case(
        "NMF, Kullback-Leibler, 513 x 2000, rank 40",
        spectra,
        {"unveil": nmf_unveil(100), "scikit-learn": nmf_sklearn(100)},
        100,
        {"scikit-learn": 2},
    ),
    "bss-eval": Case(
        "BSS-eval, 2 sources x 5 s at 16 kHz, all pairs",
        sources,
        {"unveil": bss_unveil, "mir_eval": bss_mir_eval},
        1,
        {"mir_eval": 5},
    ),
}
