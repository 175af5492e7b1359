"""Thin applications of the models to sound."""
