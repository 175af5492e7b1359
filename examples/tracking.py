"""Follow a target through an occlusion.

A target moves in the plane with nearly constant velocity, and is seen with noise, until something hides it for a while. Its dynamics are
known, how noisy they and the view are is not: a linear dynamical system learns that by EM, from data with a gap, and smooths. In the
gap the smoother uses both ends, the filter only the past, and a straight line neither speed.

    python examples/tracking.py [tracking.png]
"""

from __future__ import annotations

import sys

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Ellipse

import unveil

N_STEPS, SEEN_NOISE, PUSH = 140, 1.0, 0.12
GAP = slice(60, 84)  # steps in which the target is hidden
INSIDE_95 = 5.991  # of the squared distance of a normal vector in the plane, in units of its covariance
INK, BLUE, ORANGE, GREEN, GREY = "#1d2530", "#3b7ac9", "#d1661d", "#2f9668", "#5a6470"

# A state is (x, y, velocity of x, velocity of y); a step lasts one unit of time.
MOTION = np.block([[np.eye(2), np.eye(2)], [np.zeros((2, 2)), np.eye(2)]])
VIEW = np.eye(2, 4)
PUSHES = np.concatenate([0.5 * np.eye(2), np.eye(2)])  # what an acceleration during one step does to place and velocity


def simulate(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The true places (T, 2), and what is seen of them: NaN in the gap."""
    states = [np.array([0.0, 0.0, 1.0, 0.4])]
    for _ in range(N_STEPS - 1):
        states.append(MOTION @ states[-1] + PUSHES @ rng.normal(0, PUSH, 2))
    truth = np.array(states) @ VIEW.T
    seen = truth + rng.normal(0, SEEN_NOISE, truth.shape)
    seen[GAP] = np.nan
    return truth, seen


def fit(seen: np.ndarray) -> unveil.LinearDynamicalSystem:
    """Known motion and view; the noises and the start are learned."""
    given = {
        "transition_init": MOTION,
        "observation_init": VIEW,
        "transition_noise_init": 0.05 * PUSHES @ PUSHES.T + 1e-4 * np.eye(4),
    }
    fixed = ("transition", "observation")
    return unveil.LinearDynamicalSystem(4, fixed=fixed, tol=1e-4, max_iter=500, random_state=0, **given).fit(seen)


def straight_line(seen: np.ndarray) -> np.ndarray:
    """Linear interpolation over the gap."""
    steps, there = np.arange(len(seen)), ~np.isnan(seen[:, 0])
    return np.column_stack([np.interp(steps, steps[there], column[there]) for column in seen.T])


def rmse(estimate: np.ndarray, truth: np.ndarray) -> float:
    """Root mean squared distance inside the gap."""
    return float(np.sqrt(((estimate - truth)[GAP] ** 2).sum(1).mean()))


def share_inside(truth: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> float:
    """How many true places are within the 95 % ellipse around the estimate."""
    off = (truth - mean)[..., None]
    return float((np.squeeze(off.mT @ np.linalg.solve(covariance, off)) <= INSIDE_95).mean())


def ellipse(mean: np.ndarray, covariance: np.ndarray, **style) -> Ellipse:
    """The outline that holds 95 % of a normal distribution in the plane."""
    values, vectors = np.linalg.eigh(covariance)
    width, height = 2 * np.sqrt(INSIDE_95 * values)
    return Ellipse(mean, width, height, angle=float(np.degrees(np.arctan2(vectors[1, 0], vectors[0, 0]))), **style)


def draw(path: str, truth: np.ndarray, seen: np.ndarray, smoothed: tuple, filtered: np.ndarray, line: np.ndarray) -> None:
    """The plane, and beside it how wrong each estimate is over time."""
    mean, covariance = smoothed
    plt.rcParams.update({"font.size": 9, "axes.titlesize": 11, "axes.spines.top": False, "axes.spines.right": False})
    plt.rcParams.update({"axes.edgecolor": GREY, "axes.labelcolor": GREY, "xtick.color": GREY, "ytick.color": GREY})
    figure, (plane, errors) = plt.subplots(1, 2, figsize=(11.5, 4.8), width_ratios=[1.45, 1], layout="constrained")
    for t in range(GAP.start, GAP.stop):
        plane.add_patch(ellipse(mean[t], covariance[t], facecolor=BLUE, alpha=0.06, linewidth=0))
    for t in range(GAP.start, GAP.stop, 4):
        plane.add_patch(ellipse(mean[t], covariance[t], fill=False, edgecolor=BLUE, alpha=0.55, linewidth=0.7))
    hidden = slice(GAP.start - 1, GAP.stop)
    plane.scatter(*seen.T, s=9, color=GREY, alpha=0.55, linewidth=0, label="seen")
    plane.plot(*truth.T, color=INK, linewidth=1.0, linestyle=(0, (4, 2)), zorder=4, label="true path")
    plane.plot(*line[GAP.start - 1 : GAP.stop + 1].T, color=GREEN, linewidth=1.2, label="straight line")
    plane.plot(*filtered[hidden].T, color=ORANGE, linewidth=1.4, label="filtered")
    plane.plot(*filtered[GAP.stop - 1], color=ORANGE, marker="o", markersize=4)
    plane.plot(*mean.T, color=BLUE, linewidth=2.0, label="smoothed, with 95 % ellipses")
    plane.set(xlabel="x", ylabel="y", aspect="equal")
    plane.set_title("A target that is hidden for a while", loc="left", color=INK)
    plane.legend(frameon=False, fontsize=8.5, labelcolor=INK)
    plane.autoscale_view()
    steps = np.arange(len(truth))
    errors.axvspan(GAP.start - 0.5, GAP.stop - 0.5, color=GREY, alpha=0.1, linewidth=0)
    errors.text(
        (GAP.start + GAP.stop - 1) / 2, 0.985, "hidden", transform=errors.get_xaxis_transform(), ha="center", va="top", color=GREY
    )
    for estimate, colour, width in ((line, GREEN, 1.2), (filtered, ORANGE, 1.4), (mean, BLUE, 2.0)):
        errors.plot(steps, np.linalg.norm(estimate - truth, axis=1), color=colour, linewidth=width)
    errors.set(xlabel="step", ylabel="distance from the true place", xlim=(-0.5, len(truth) - 0.5))
    errors.set_ylim(bottom=0)
    errors.set_title("How far off", loc="left", color=INK)
    figure.savefig(path, dpi=160)


def main(path: str = "tracking.png") -> None:
    """Simulate, learn, compare and draw."""
    truth, seen = simulate(np.random.default_rng(28))
    system = fit(seen)
    states, covariances = system.smooth(seen, return_cov=True)
    mean, covariance = states @ VIEW.T, VIEW @ covariances @ VIEW.T
    filtered, line = system.filter(seen) @ VIEW.T, straight_line(seen)
    print("RMSE in the gap")
    for name, estimate in (("smoothed", mean), ("filtered", filtered), ("straight line", line)):
        print(f"  {name:14} {rmse(estimate, truth):6.2f}")
    print(f"true places inside the 95 % ellipse: {share_inside(truth, mean, covariance):.0%}")
    print(f"noise of the view, learned (true {SEEN_NOISE}): {np.sqrt(np.diagonal(system.observation_noise_)).round(2)}")
    draw(path, truth, seen, (mean, covariance), filtered, line)
    print(f"wrote {path}")


if __name__ == "__main__":
    main(*sys.argv[1:2])
