"""Training a variational autoencoder: ours, a loop written by hand for this one model, and Pythae.

All learn the same 784-400-20 networks with Adam, 128 rows at a time, for the same number of epochs; the result is the loss on the
data afterwards, in nats.
"""

from __future__ import annotations

import logging
import tempfile
import warnings

import numpy as np

from benchmarks.cases import Case, Work

N_LATENT, N_HIDDEN, BATCH, RATE, EPOCHS = 20, 400, 128, 1e-3, 8


def images(n: int = 20_000, d: int = 784) -> dict:
    """Grey levels in [0, 1] with twenty directions of variation."""
    rng = np.random.default_rng(0)
    logits = 2 * rng.normal(size=(n, 20)) @ rng.normal(size=(20, d)) / np.sqrt(20) - 1
    return {"X": (1 / (1 + np.exp(-logits))).astype(np.float32), "score": lambda data: data["fitted"]}


def vae_unveil(epochs: int):
    def prepare(data: dict) -> Work:
        from unveil import VAE

        def learn(X: np.ndarray, n_epochs: int):
            settings = {"likelihood": "bernoulli", "hidden": N_HIDDEN, "batch_size": BATCH, "learning_rate": RATE}
            return VAE(N_LATENT, **settings, max_epochs=n_epochs, validation_fraction=0.0, random_state=0).fit(X)

        learn(data["X"][:1000], 1)

        def work() -> None:
            data["fitted"] = -learn(data["X"], epochs).history_.objective[-1]

        return work

    return prepare


def vae_by_hand(epochs: int):
    """Tensors that are indexed, fused Adam, and nothing else."""

    def prepare(data: dict) -> Work:
        import torch
        from torch import nn
        from torch.nn import functional

        X = torch.from_numpy(data["X"])

        def work() -> None:
            torch.manual_seed(0)
            encoder = nn.Sequential(nn.Linear(784, N_HIDDEN), nn.ReLU(), nn.Linear(N_HIDDEN, 2 * N_LATENT))
            decoder = nn.Sequential(nn.Linear(N_LATENT, N_HIDDEN), nn.ReLU(), nn.Linear(N_HIDDEN, 784))
            adam = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], RATE, fused=True)
            total = 0.0
            for _ in range(epochs):
                total, order = 0.0, torch.randperm(len(X))
                for i in range(0, len(X), BATCH):
                    x = X[order[i : i + BATCH]]
                    mean, log_variance = encoder(x).chunk(2, 1)
                    z = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
                    error = functional.binary_cross_entropy_with_logits(decoder(z), x, reduction="none").sum(1).mean()
                    loss = error + 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1).mean()
                    adam.zero_grad()
                    loss.backward()
                    adam.step()
                    total += float(loss.detach()) * len(x)
            data["fitted"] = total / len(X)

        work_on_little = X
        X = X[:1000]
        work()
        X = work_on_little
        return work

    return prepare


def vae_pythae(epochs: int):
    def prepare(data: dict) -> Work:
        import torch
        from pythae.models import VAE, VAEConfig
        from pythae.models.base.base_utils import ModelOutput
        from pythae.models.nn import BaseDecoder, BaseEncoder
        from pythae.trainers import BaseTrainer, BaseTrainerConfig
        from torch import nn

        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)

        class Encoder(BaseEncoder):
            def __init__(self):
                super().__init__()
                self.hidden, self.mean = nn.Linear(784, N_HIDDEN), nn.Linear(N_HIDDEN, N_LATENT)
                self.log_variance = nn.Linear(N_HIDDEN, N_LATENT)

            def forward(self, x):
                h = torch.relu(self.hidden(x.reshape(-1, 784)))
                return ModelOutput(embedding=self.mean(h), log_covariance=self.log_variance(h))

        class Decoder(BaseDecoder):
            def __init__(self):
                super().__init__()
                self.hidden, self.out = nn.Linear(N_LATENT, N_HIDDEN), nn.Linear(N_HIDDEN, 784)

            def forward(self, z):
                return ModelOutput(reconstruction=torch.sigmoid(self.out(torch.relu(self.hidden(z)))).reshape(-1, 1, 28, 28))

        def learn(X: torch.Tensor, n_epochs: int) -> float:
            from pythae.data.datasets import BaseDataset

            config = VAEConfig(input_dim=(1, 28, 28), latent_dim=N_LATENT, reconstruction_loss="bce")
            model = VAE(config, encoder=Encoder(), decoder=Decoder())
            settings = BaseTrainerConfig(
                output_dir=tempfile.mkdtemp(),
                num_epochs=n_epochs,
                learning_rate=RATE,
                per_device_train_batch_size=BATCH,
                no_cuda=True,
            )
            dataset = BaseDataset(X.reshape(-1, 1, 28, 28), torch.ones(len(X)))
            trainer = BaseTrainer(model=model, train_dataset=dataset, eval_dataset=None, training_config=settings)
            trainer.train()
            with torch.no_grad():
                return float(model({"data": X.reshape(-1, 1, 28, 28)}).loss)

        X = torch.from_numpy(data["X"])
        learn(X[:1000], 1)

        def work() -> None:
            data["fitted"] = learn(X, epochs)

        return work

    return prepare


CASES: dict[str, Case] = {
    "vae": Case(
        "VAE 784-400-20, batches of 128: an epoch of 20000",
        images,
        {"unveil": vae_unveil(EPOCHS), "by hand": vae_by_hand(EPOCHS), "pythae": vae_pythae(EPOCHS)},
        EPOCHS,
        {"by hand": 0.95, "pythae": 1.5},
    )
}
