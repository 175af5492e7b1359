"""Gaussian latent variables, under a standard normal prior or a mixture of Gaussians."""

from __future__ import annotations

import math

import torch
from sklearn.cluster import KMeans
from torch import Tensor, nn

from unveil.core.neural import HasDensities, Latent
from unveil.core.noise import Noise

LOG_2PI = math.log(2 * math.pi)
LOG_VARIANCE_RANGE = (-20.0, 20.0)  # beyond, exp() leaves float32


def normal_parts(statistics: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log-variance of q(z | x), from what the encoder gives."""
    mean, log_variance = statistics.chunk(2, -1)
    return mean, log_variance.clamp(*LOG_VARIANCE_RANGE)


def drawn_from(mean: Tensor, log_variance: Tensor, noise: Noise) -> Tensor:
    """mean + sd * e, with e ~ N(0, I): the reparametrisation through which gradients flow (Kingma and Welling, 2014)."""
    return mean + (0.5 * log_variance).exp() * noise.normal(mean)


def log_normal(values: Tensor, mean: Tensor | float, log_variance: Tensor | float) -> Tensor:
    """log N(x; mean, variance) of each entry."""
    log_variance = torch.as_tensor(log_variance, dtype=values.dtype, device=values.device)
    return -0.5 * ((values - mean).square() * (-log_variance).exp() + log_variance + LOG_2PI)


class NormalLatent(Latent, HasDensities):
    """z ~ N(0, I) and q(z | x) = N(m(x), diag(s^2(x)))."""

    def __init__(self, n_latent: int):
        super().__init__()
        self.n_latent, self.n_codes, self.n_statistics = n_latent, n_latent, 2 * n_latent

    def initialize(self, generator: torch.Generator) -> None:
        """There are no parameters."""

    def draw(self, statistics: Tensor, noise: Noise, epoch: float) -> Tensor:
        """Reparametrised."""
        return drawn_from(*normal_parts(statistics), noise)

    def divergence(self, statistics: Tensor, codes: Tensor, epoch: float) -> Tensor:
        """1/2 (m^2 + s^2 - 1 - log s^2), of shape (n, n_latent)."""
        mean, log_variance = normal_parts(statistics)
        return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)

    def mean(self, statistics: Tensor) -> Tensor:
        """m."""
        return normal_parts(statistics)[0]

    def mean_square(self, statistics: Tensor) -> Tensor:
        """m^2 + s^2."""
        mean, log_variance = normal_parts(statistics)
        return mean.square() + log_variance.exp()

    def observe(self, codes: Tensor) -> Tensor:
        """The codes themselves."""
        return codes

    def sample(self, n_samples: int, generator: torch.Generator) -> tuple[Tensor, None]:
        """Standard normal."""
        return torch.randn(n_samples, self.n_latent, generator=generator), None

    def log_prior(self, codes: Tensor) -> Tensor:
        """log N(z; 0, I)."""
        return log_normal(codes, 0.0, 0.0).sum(-1)

    def log_posterior(self, codes: Tensor, statistics: Tensor) -> Tensor:
        """log N(z; m, s^2)."""
        return log_normal(codes, *normal_parts(statistics)).sum(-1)


class MixtureLatent(Latent, HasDensities):
    """z ~ sum_k w_k N(mu_k, diag(s_k^2)), learned with the rest, and q(z | x) = N(m(x), diag(s^2(x))).

    The divergence has no closed form; its estimate log q(z | x) - log p(z) at the drawn z has the right mean
    (Jiang et al., 2017, and Tomczak and Welling, 2018, on mixtures as priors). Clusters that are there from the beginning capture
    the data at random, so the prior is N(0, I) until ``begins``, an epoch, and the clusters are then placed on the codes.
    """

    def __init__(self, n_latent: int, n_clusters: int, begins: float = 0.0):
        super().__init__()
        self.begins = begins
        self.n_latent, self.n_codes, self.n_statistics, self.n_clusters = n_latent, n_latent, 2 * n_latent, n_clusters
        self.logits = nn.Parameter(torch.zeros(n_clusters))
        self.means = nn.Parameter(torch.zeros(n_clusters, n_latent))
        self.log_variances = nn.Parameter(torch.zeros(n_clusters, n_latent))

    def initialize(self, generator: torch.Generator) -> None:
        """Means about 0, so far apart that no two clusters are the same."""
        with torch.no_grad():
            self.logits.zero_()
            self.log_variances.zero_()
            self.means.normal_(generator=generator)

    @torch.no_grad()
    def place(self, codes: Tensor, seed: int) -> None:
        """Put the clusters where k-means finds some in the codes (n, n_latent)."""
        values = codes.double().cpu().numpy()
        n_clusters = min(self.n_clusters, len(values))
        found = KMeans(n_clusters, n_init=10, random_state=seed).fit(values)
        for k in range(n_clusters):
            mine = codes[torch.from_numpy(found.labels_ == k)]
            self.means[k], self.logits[k] = mine.mean(0), math.log(len(mine) / len(codes))
            self.log_variances[k] = mine.var(0, correction=0).clamp_min(1e-3).log()

    def draw(self, statistics: Tensor, noise: Noise, epoch: float) -> Tensor:
        """Reparametrised."""
        return drawn_from(*normal_parts(statistics), noise)

    def divergence(self, statistics: Tensor, codes: Tensor, epoch: float) -> Tensor:
        """log q(z | x) - log p(z) at the codes, of shape (n, 1)."""
        if epoch < self.begins:
            mean, log_variance = normal_parts(statistics)
            return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1, keepdim=True)
        return (self.log_posterior(codes, statistics) - self.log_prior(codes))[:, None]

    def mean(self, statistics: Tensor) -> Tensor:
        """m."""
        return normal_parts(statistics)[0]

    def mean_square(self, statistics: Tensor) -> Tensor:
        """m^2 + s^2."""
        mean, log_variance = normal_parts(statistics)
        return mean.square() + log_variance.exp()

    def observe(self, codes: Tensor) -> Tensor:
        """The codes themselves."""
        return codes

    def sample(self, n_samples: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """A cluster by its weight, then a code."""
        clusters = torch.multinomial(self.logits.detach().softmax(0).cpu(), n_samples, replacement=True, generator=generator)
        noise = torch.randn(n_samples, self.n_latent, generator=generator)
        means, deviations = self.means.detach().cpu(), (0.5 * self.log_variances.detach().cpu()).exp()
        return means[clusters] + deviations[clusters] * noise, clusters

    def log_joint(self, codes: Tensor) -> Tensor:
        """log w_k N(z; mu_k, s_k^2), of shape (..., n_clusters)."""
        log_weights = self.logits.log_softmax(0)
        return log_weights + log_normal(codes.unsqueeze(-2), self.means, self.log_variances.clamp(*LOG_VARIANCE_RANGE)).sum(-1)

    def log_prior(self, codes: Tensor) -> Tensor:
        """log sum_k w_k N(z; mu_k, s_k^2)."""
        return self.log_joint(codes).logsumexp(-1)

    def log_posterior(self, codes: Tensor, statistics: Tensor) -> Tensor:
        """log N(z; m, s^2)."""
        return log_normal(codes, *normal_parts(statistics)).sum(-1)
