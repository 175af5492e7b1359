"""Networks, and what stands at their ends: families of observations, and of latent variables."""
