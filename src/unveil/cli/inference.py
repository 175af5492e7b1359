"""Commands that ask a fitted model: predict, score, sample, transform, impute, filter, forecast."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from unveil.cli.arguments import DATA, JSON_OPTION, MODEL_FILE, MOST_SEED, NUMBERS, SAMPLE_RATE, STEPS
from unveil.cli.output import check_numbers_file, print_json, write_numbers
from unveil.cli.reading import open_for
from unveil.errors import InputError, ParameterError

if TYPE_CHECKING:
    import numpy as np

    from unveil.data.batch import Batches


def predict(
    model: Path = MODEL_FILE,
    data: Path = DATA,
    out: Path | None = NUMBERS,
    states: bool = typer.Option(False, "--states", help="For a mixture of HMMs: paths of states instead of clusters."),
    probabilities: bool = typer.Option(False, "--proba", help="Probabilities instead of the most probable."),
    sample_rate: int = SAMPLE_RATE,
) -> None:
    """The cluster, class or state of each item, one in a line."""
    verb, what = (
        ("predict_states", "paths of states")
        if states
        else ("predict_proba", "probabilities")
        if probabilities
        else ("predict", "clusters or states")
    )
    _, estimator = _load(model, (verb,), what)
    check_numbers_file(out, [model, data])
    write_numbers(out, getattr(estimator, verb)(open_for(estimator, data, sample_rate)))


def score(
    model: Path = MODEL_FILE,
    data: Path = DATA,
    each: bool = typer.Option(False, "--each", help="Every item's score, one in a line."),
    steps: bool = typer.Option(
        False, "--steps", help="How surprising each step is after those before it, one in a line: an anomaly score."
    ),
    sample_rate: int = SAMPLE_RATE,
    json: bool = JSON_OPTION,
) -> None:
    """The mean log-likelihood of data, in nats for each point or sequence."""
    if each and steps:
        raise ParameterError("--each and --steps: scores of items or of steps, not both; leave one out")
    verb = "score_steps" if steps else "score_samples"
    _, estimator = _load(model, (verb,), "scores of single steps" if steps else "likelihood to score with")
    scores = getattr(estimator, verb)(open_for(estimator, data, sample_rate))
    if json and steps:
        print_json({"n_steps": len(scores), "scores": scores})
    elif json:
        print_json({"score": float(scores.mean()), "n_items": len(scores)} | ({"scores": scores} if each else {}))
    elif each or steps:
        write_numbers(None, scores)
    else:
        from unveil.core.units import objective_unit

        measure = objective_unit(estimator).rpartition(" per ")[0]
        typer.echo(f"{scores.mean():.6f} {measure} per item, {len(scores)} items")


def sample(
    model: Path = MODEL_FILE,
    out: Path = typer.Option(..., "--out", "-o", help="A .npy file, or .csv for points.", show_default=False),
    n_samples: int = typer.Option(100, "--number", "-n", min=1, help="How many points or sequences."),
    length: int = typer.Option(100, "--length", min=1, help="The length of each sequence."),
    seed: int | None = typer.Option(None, "--seed", min=0, max=MOST_SEED, help="Makes the result repeatable."),
) -> None:
    """Draw points or sequences from a model."""
    _, estimator = _load(model, ("sample",), "samples")
    sequences = estimator.items == "sequences"
    if sequences and out.suffix != ".npy":
        raise ParameterError(f"--out {out}: sequences do not fit a flat table; choose a name that ends in .npy")
    check_numbers_file(out, [model])
    values, _ = estimator.sample(n_samples, length=length if sequences else 1, random_state=seed)
    write_numbers(out, values)
    typer.echo(f"Wrote {n_samples} {'sequences of ' + str(length) + ' steps' if sequences else 'points'} to {out}")


def filter(model: Path = MODEL_FILE, data: Path = DATA, out: Path | None = STEPS, sample_rate: int = SAMPLE_RATE) -> None:
    """What is known of the state at each step from that step and those before it, as one would in real time.

    A row in a line: the probability of each state of a hidden Markov model, or the mean of a linear dynamical system's state.
    """
    _write_steps(model, ("filter_proba", "filter"), "states that can be filtered", data, out, sample_rate)


def transform(model: Path = MODEL_FILE, data: Path = DATA, out: Path | None = STEPS, sample_rate: int = SAMPLE_RATE) -> None:
    """The latent variables of each row, one row in a line: factors, activations, or smoothed states."""
    _write_steps(model, ("transform",), "latent variables of rows", data, out, sample_rate)


def reconstruct(
    model: Path = MODEL_FILE,
    data: Path = DATA,
    out: Path = typer.Option(..., "--out", "-o", help="A .npy or .csv file, or .npz for a table per sequence.", show_default=False),
    sample_rate: int = SAMPLE_RATE,
) -> None:
    """The rows as a model with an encoder and a decoder says them again from their codes."""
    values = _write_steps(model, ("reconstruct",), "decoder to say rows again with", data, out, sample_rate)
    typer.echo(f"Wrote {len(values)} rows to {out}")


def impute(
    model: Path = MODEL_FILE,
    data: Path = DATA,
    out: Path = typer.Option(..., "--out", "-o", help="A .npy or .csv file, or .npz for a table per sequence.", show_default=False),
    sample_rate: int = SAMPLE_RATE,
    json: bool = JSON_OPTION,
) -> None:
    """Fill what is missing (NaN, or an empty cell) with what the model expects there; the rest stays as it is."""
    from unveil.data.streams import open_batches

    n_missing = sum(
        int(batch.values.isnan().sum()) for batch in open_batches(data, sample_rate=sample_rate).replace(allow_nan=True)
    )
    filled = _write_steps(model, ("impute",), "way to fill what is missing", data, out, sample_rate)
    if json:
        print_json({"filled": n_missing, "values": filled.size, "file": out})
    else:
        typer.echo(f"Filled {n_missing} of {filled.size} values; wrote {out}")


def forecast(
    model: Path = MODEL_FILE,
    data: Path = DATA,
    steps: int = typer.Option(10, "--steps", min=1, help="How many steps ahead."),
    out: Path | None = NUMBERS,
    sample_rate: int = SAMPLE_RATE,
    json: bool = JSON_OPTION,
) -> None:
    """What comes after the end of each sequence: means and standard deviations, and probabilities of states.

    A row for each sequence and step: sequence, step, mean_0 .., sd_0 .., and for a hidden Markov model p_state_0 ...
    """
    from unveil.data.streams import open_batches

    _, estimator = _load(model, ("forecast",), "forecasts")
    check_numbers_file(out, [model, data])
    parts = _forecast(estimator, open_batches(data, sample_rate=sample_rate), steps)
    if out or not json:
        write_numbers(out, *_forecast_table(parts))
    if json:
        print_json({"steps": steps, "file": out} | parts)


def _forecast(estimator: Any, batches: Batches, n_steps: int) -> dict[str, np.ndarray]:
    """What there is of mean, sd and p_state, each of shape (n_sequences, n_steps, ...)."""
    import numpy as np

    ahead = estimator.forecast(batches, n_steps)
    if isinstance(ahead, tuple):  # Gaussian: means and covariances
        return {"mean": ahead[0], "sd": np.sqrt(np.diagonal(ahead[1], axis1=-2, axis2=-1))}
    found = {"mean": ahead.mean, "sd": ahead.standard_deviation, "p_state": ahead.states}
    return {name: values for name, values in found.items() if values is not None}


def _forecast_table(parts: dict[str, np.ndarray]) -> tuple[np.ndarray, list[str]]:
    """One row for each sequence and step, and the names of its columns."""
    import numpy as np

    n_sequences, n_steps = next(iter(parts.values())).shape[:2]
    sequence, step = np.indices((n_sequences, n_steps))
    table = np.concatenate([np.stack([sequence, step + 1], -1), *parts.values()], axis=-1)
    names = [f"{name}_{i}" for name, values in parts.items() for i in range(values.shape[-1])]
    return table.reshape(n_sequences * n_steps, -1), ["sequence", "step", *names]


def _write_steps(model: Path, verbs: tuple[str, ...], what: str, data: Path, out: Path | None, sample_rate: int) -> np.ndarray:
    """Write, and return, what the model's verb gives for each row of the data."""
    verb, estimator = _load(model, verbs, what)
    check_numbers_file(out, [model, data], suffixes=(".npy", ".csv", ".npz"))
    batches = open_for(estimator, data, sample_rate)
    values = getattr(estimator, verb)(batches)
    write_numbers(out, values, offsets=batches.offsets)
    return values


def _load(path: Path, verbs: tuple[str, ...], what: str) -> tuple[str, Any]:
    """The first of the verbs that a saved model has, and the model."""
    from unveil.models import discover, load

    estimator = load(path)
    verb = next((verb for verb in verbs if hasattr(estimator, verb)), None)
    if verb is None:
        able = [name for name, each in discover().items() if any(hasattr(each(), verb) for verb in verbs)]
        raise InputError(f"{path}: holds {type(estimator).__name__}, which has no {what}; use one of {', '.join(able)}")
    return verb, estimator
