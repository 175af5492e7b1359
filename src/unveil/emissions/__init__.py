"""Observation densities given the latent class, one family in each file."""
