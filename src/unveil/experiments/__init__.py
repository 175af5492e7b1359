"""Experiments that anyone can repeat: data, models, and the numbers they give; each module has a ``TITLE`` and a ``run``."""
