"""What each kind of autoencoder is good for: linear ones find the principal subspace, deep ones say more with as few numbers, and the
regularised ones give up some precision for codes that are sparse, robust or smooth.

MNIST, grey levels in [0, 1]. All codes have 32 numbers, but for the sparse one, which has 128 of which few are not zero. On 2000 test
images: the squared error of the reconstruction; the same from images half of whose pixels were blackened (the error is to the whole
image); the accuracy of a logistic regression from the codes, learned on 5000 training images; the Hoyer sparsity of the codes; and how
much they change with the image, as the root mean square of the Jacobian dz/dx relative to that of the code. Before that, a linear
autoencoder of 6 numbers is compared with PCA, whose 6th and 7th variances differ enough for its subspace to be well determined.

After lecture notes on autoencoders by He and Xu (2020), which have no figures; Baldi and Hornik (1989); Vincent et al. (2010); Rifai et
al. (2011).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.linalg import subspace_angles
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from unveil.core.noise import RandomNoise
from unveil.data import datasets
from unveil.metrics.sparsity import hoyer
from unveil.models.autoencoder import Autoencoder, squared_jacobian
from unveil.report.drawing import WHOLE
from unveil.report.images import mosaic
from unveil.report.page import Card, Fact, Facts, Picture, Section, Table, Text

TITLE = "Autoencoders: linear, deep, sparse, denoising, contractive"
N_CODES, N_LINEAR, BLACKENED, N_SHOWN = 32, 6, 0.5, 24
KINDS: dict[str, dict[str, Any]] = {
    "linear": {"hidden": ()},
    "one hidden layer": {"hidden": 400},
    "deep": {"hidden": (400, 200)},
    "deep, cross-entropy": {"hidden": (400, 200), "loss": "cross-entropy"},
    "sparse": {"n_latent": 128, "hidden": 400, "code_activation": "relu", "sparsity": 0.05},
    "denoising, masking": {"hidden": (400, 200), "corruption": "masking", "corruption_level": BLACKENED, "loss": "cross-entropy"},
    "denoising, Gaussian": {"hidden": (400, 200), "corruption": "gaussian", "corruption_level": 0.3, "loss": "cross-entropy"},
    "contractive": {"hidden": (400, 200), "contraction": 0.02},
}


@dataclass(frozen=True, eq=False)
class Comparison:
    """What was measured.

    Attributes
    ----------
    rows : dict of str to dict of str to float
        For each kind: the squared errors, the accuracy, the sparsity, the sensitivity, and the seconds of its training.
    angle : float
        The largest angle between the subspace of the linear autoencoder and that of PCA, in radians.
    images : dict of str to ndarray of shape (n_shown, 784)
        Test images, the same blackened, and what each kind makes of these.
    n_images, n_epochs, seed : int
        How much was learned from, and how long.
    """

    rows: dict[str, dict[str, float]]
    angle: float
    images: dict[str, np.ndarray]
    n_images: int
    n_epochs: int
    seed: int

    @property
    def table(self) -> list[dict[str, object]]:
        """A row for each kind."""
        return [{"kind": kind, "seed": self.seed} | row for kind, row in self.rows.items()] + [{"angle to PCA (rad)": self.angle}]


def run(quick: bool = False, on_progress: Callable[[float], object] = lambda fraction: None, seed: int = 0) -> Comparison:
    """All kinds on 20000 images for 30 epochs; ``quick`` takes 4000 images and 6 epochs."""
    n_images, n_epochs = (4000, 6) if quick else (20_000, 30)
    train, test = datasets.load("mnist"), datasets.load("mnist", subset="test")
    X, y = as_rows(train.data)[:n_images], np.asarray(train.target)[:n_images]
    test_X, test_y = as_rows(test.data)[::5], np.asarray(test.target)[::5]
    return compare(X, y, test_X, test_y, n_epochs, on_progress, seed)


def compare(
    X: np.ndarray,
    y: np.ndarray,
    test_X: np.ndarray,
    test_y: np.ndarray,
    n_epochs: int,
    on_progress: Callable[[float], object] = lambda fraction: None,
    seed: int = 0,
) -> Comparison:
    """All kinds on some images."""
    blackened = test_X * (np.random.default_rng(seed).random(test_X.shape) >= BLACKENED)
    shown = {"test images": test_X[:N_SHOWN], "blackened": blackened[:N_SHOWN]}
    pca = PCA(N_CODES, random_state=seed).fit(X)
    rows = {"PCA": measure(pca, X, y, test_X, test_y, blackened)}
    shown["PCA"] = pca.inverse_transform(pca.transform(blackened[:N_SHOWN]))
    angle = angle_to_pca(X, n_epochs, seed)
    for done, (kind, options) in enumerate(KINDS.items(), 1):
        settings = {
            "n_latent": N_CODES,
            "max_epochs": n_epochs,
            "schedule": "cosine",
            "random_state": seed,
            "validation_fraction": 0.05,
        }
        model = Autoencoder(**settings | options).fit(X)
        rows[kind] = measure(model, X, y, test_X, test_y, blackened) | {"seconds": model.history_.seconds}
        shown[kind] = np.asarray(model.reconstruct(blackened[:N_SHOWN]))
        on_progress(done / len(KINDS))
    return Comparison(rows, angle, shown, len(X), n_epochs, seed)


def as_rows(images: Any) -> np.ndarray:
    """Images as rows of grey levels in [0, 1]."""
    rows = np.asarray(images, dtype=np.float32).reshape(len(images), -1)
    return rows / max(float(rows.max()), 1.0)


def angle_to_pca(X: np.ndarray, n_epochs: int, seed: int) -> float:
    """The largest angle between what a linear autoencoder and PCA keep, in radians."""
    settings = {"hidden": (), "max_epochs": n_epochs, "learning_rate": 3e-3, "schedule": "cosine", "validation_fraction": 0.0}
    linear = Autoencoder(N_LINEAR, **settings, random_state=seed).fit(X)
    weights = linear.model_.decoder.first_weight().detach().numpy().astype(np.float64)
    return float(subspace_angles(weights, PCA(N_LINEAR).fit(X).components_.T.astype(np.float64)).max())


def measure(
    model: Any, X: np.ndarray, y: np.ndarray, test_X: np.ndarray, test_y: np.ndarray, blackened: np.ndarray
) -> dict[str, float]:
    """Errors on test images, and what their codes are like."""
    codes, test_codes = np.asarray(model.transform(X[:5000])), np.asarray(model.transform(test_X))
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300)).fit(codes, y[:5000])
    return {
        "squared error": squared_error(model, test_X, test_X),
        "from blackened": squared_error(model, blackened, test_X),
        "accuracy": float(classifier.score(test_codes, test_y)),
        "Hoyer sparsity": float(np.nanmean(hoyer(test_codes))),
        "sensitivity": sensitivity(model, test_X[:500], test_codes),
    }


def squared_error(model: Any, inputs: np.ndarray, expected: np.ndarray) -> float:
    """The mean of |x - x'|^2."""
    again = model.reconstruct(inputs) if hasattr(model, "reconstruct") else model.inverse_transform(model.transform(inputs))
    return float(np.square(np.asarray(again) - expected).sum(1).mean())


def sensitivity(model: Any, X: np.ndarray, codes: np.ndarray) -> float:
    """The root mean square of |dz/dx|, relative to the root mean square of |z - mean z|."""
    spread = np.sqrt(np.square(codes - codes.mean(0)).sum(1).mean())
    if isinstance(model, PCA):
        return float(np.sqrt(model.n_components_) / spread)  # its axes are orthonormal
    inputs = torch.from_numpy(X).float().requires_grad_()
    network = model.model_
    values = network.latent.mean(network.encoder(network.likelihood.encoder_input(inputs)))
    draws = [squared_jacobian(values, inputs, RandomNoise(torch.Generator().manual_seed(i))).detach().mean() for i in range(20)]
    return float(torch.stack(draws).mean().sqrt() / spread)


def sections(result: Comparison) -> list[Section]:
    """The table, and what each kind makes of blackened images."""
    rows = result.rows
    measures = [name for name in next(iter(rows.values())) if name != "seconds"]
    table = [[kind, *(row[name] for name in measures), row.get("seconds")] for kind, row in rows.items()]
    best = min((kind for kind in rows), key=lambda kind: rows[kind]["squared error"])
    robust = min((kind for kind in rows), key=lambda kind: rows[kind]["from blackened"])
    calm = min((kind for kind in rows), key=lambda kind: rows[kind]["sensitivity"])
    said = (
        f"The least error is that of “{best}”, {rows[best]['squared error']:.2f} against {rows['PCA']['squared error']:.2f} of PCA. "
        f"From half of the pixels, “{robust}” does best ({rows[robust]['from blackened']:.2f}; “deep” "
        f"{rows['deep']['from blackened']:.2f}). The codes of “sparse” have a Hoyer sparsity of {rows['sparse']['Hoyer sparsity']:.2f} "
        f"(“deep” {rows['deep']['Hoyer sparsity']:.2f}), and those of “{calm}” change least with the image. One seed; errors of "
        "two seeds differ by some percent."
    )
    facts = [
        Fact("angle to PCA", result.angle, f"rad, linear autoencoder of {N_LINEAR}"),
        Fact("images", result.n_images, "learned from"),
        Fact("epochs", result.n_epochs),
    ]
    pictures = [
        Card(f"From blackened images: {kind}" if kind in rows else kind.capitalize(), [_row_of(images, kind)])
        for kind, images in result.images.items()
    ]
    return [
        Section(
            "What they are good for",
            [Facts(facts), Text(said), Table(["kind", *measures, "seconds"], table, "On 2000 test images", digits=3)],
        ),
        Section("Half of the pixels", pictures),
    ]


def _row_of(images: np.ndarray, kind: str) -> Picture:
    return Picture(mosaic(np.clip(images, 0, 1), per_row=N_SHOWN, width=WHOLE), f"{len(images)} images: {kind}.")
