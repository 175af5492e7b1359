"""Make up handwritten digits, in two ways.

A variational autoencoder draws its codes from N(0, I), to which the codes of data are pulled while it learns. An implicit model first
learns an autoencoder, whose codes may lie as they like, and then their distribution, here a mixture of Gaussians: its samples come from
where codes are. The digits are the small ones (8 x 8 pixels) that come with scikit-learn, so nothing is downloaded.

    python examples/digits.py [digits.png]
"""

from __future__ import annotations

import sys

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import unveil
from unveil.metrics.generation import memorization, precision_recall

N_SHOWN, PER_ROW = 60, 15
NETWORKS = {"hidden": (256,), "max_epochs": 150, "patience": 15, "batch_size": 64}


def learn(X: np.ndarray) -> dict[str, object]:
    """Both models."""
    vae = unveil.VAE(8, likelihood="bernoulli", **NETWORKS, random_state=0)
    autoencoder = unveil.Autoencoder(8, loss="cross-entropy", **NETWORKS)
    implicit = unveil.ImplicitModel(autoencoder, unveil.GaussianMixture(30), variance=0.0, random_state=0)
    return {"VAE": vae.fit(X), "Implicit model": implicit.fit(X)}


def grid(images: np.ndarray) -> np.ndarray:
    """Images side by side."""
    framed = np.pad(images.reshape(-1, PER_ROW, 8, 8), ((0, 0), (0, 0), (1, 1), (1, 1)))
    return framed.swapaxes(1, 2).reshape(-1, PER_ROW * 10)


def main(path: str) -> None:
    """Learn, compare, and draw."""
    X = load_digits().data.astype(np.float32) / 16
    order = np.random.default_rng(0).permutation(len(X))
    train, test = X[order[:1400]], X[order[1400:]]
    shown = {"Data": test[:N_SHOWN]}
    for name, model in learn(train).items():
        samples = model.sample(1000)[0] if name != "VAE" else vae_means(model)
        quality = precision_recall(test, samples)
        copied = memorization(train, test, samples)
        print(
            f"{name}: covers {quality.coverage:.0%} of the test images; {copied.ratio:.2f} times as far from training images as these are"
        )
        shown[name] = samples[:N_SHOWN]
    figure, axes = plt.subplots(len(shown), 1, figsize=(7, 2.1 * len(shown)), layout="constrained")
    for axis, (name, images) in zip(axes, shown.items(), strict=True):
        axis.imshow(grid(images), cmap="gray_r", vmin=0, vmax=1)
        axis.set_title(name, loc="left", fontsize=10)
        axis.set_axis_off()
    figure.savefig(path, dpi=150)


def vae_means(vae: unveil.VAE) -> np.ndarray:
    """Grey levels E[x | z] at codes from N(0, I): a draw of x itself would be black and white."""
    return vae.inverse_transform(np.random.default_rng(0).normal(size=(1000, 8)))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "digits.png")
