"""In which units an estimator speaks."""

from __future__ import annotations

from unveil.core.estimator import Estimator


def objective_unit(estimator: Estimator) -> str:
    """What the objective of learning is, in words."""
    each = "point" if estimator.items == "points" else "step"
    if hasattr(estimator, "beta_loss"):
        return "minus divergence per item"
    if not (estimator.has_likelihood and estimator.can_sample):
        return f"minus loss per {each}"
    return f"nats per {each}"


def score_unit(estimator: Estimator) -> str:
    """What a score is, in words: that of the objective, for a whole item."""
    return objective_unit(estimator).replace("step", "sequence")
