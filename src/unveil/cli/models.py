"""Commands about models: cluster, fit, predict, score, sample, report, models."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from unveil.cli.output import JSON_OPTION, check_outputs, command_line, print_json, print_table
from unveil.errors import InputError, ParameterError

if TYPE_CHECKING:
    from unveil.core.estimator import Estimator

MOST_SEED = 2**32 - 1
DATA = typer.Argument(..., help="A file (.npy, .npz, .parquet, .csv, sound) or a folder of them.", show_default=False)
MODEL_FILE = typer.Argument(..., help="A model that `unveil fit` or `save` wrote.", show_default=False)
SETTINGS = typer.Option([], "--set", metavar="KEY=VALUE", help="A setting of the model; can be repeated.")
SAMPLE_RATE = typer.Option(16000, "--sample-rate", min=100, help="To which sound is resampled, in hertz.")


def cluster(
    data: Path = DATA,
    clusters: int = typer.Option(..., "--clusters", "-k", min=1, help="How many clusters."),
    states: int = typer.Option(5, "--states", min=1, help="For sequences: hidden states of each cluster's model."),
    out: Path = typer.Option(Path("clusters"), "--out", "-o", help="Folder for labels.csv, the model and report.html."),
    points: bool = typer.Option(False, "--points", help="Treat every row as a point, also where there are several sequences."),
    starts: int = typer.Option(10, "--starts", min=1, help="How many starts to try."),
    seed: int = typer.Option(0, "--seed", min=0, max=MOST_SEED, help="Makes the result repeatable."),
    settings: list[str] = SETTINGS,
    sample_rate: int = SAMPLE_RATE,
    json: bool = JSON_OPTION,
) -> None:
    """Cluster points (Gaussian mixture) or sequences (mixture of hidden Markov models).

    Data with several sequences is clustered by sequence: an .npz with one table for each, a 3-D .npy, a Parquet file with a column
    named sequence, or a folder of tables or sounds. A single table is clustered by rows.
    """
    import numpy as np

    from unveil.data.streams import open_batches
    from unveil.models import discover
    from unveil.report import model_report

    batches = open_batches(data, sample_rate=sample_rate)
    check_outputs([out / name for name in ("labels.csv", "model.unveil", "report.html")], [data])
    by_sequence = batches.n_sequences > 1 and not points
    common: dict[str, Any] = {"n_init": starts, "random_state": seed, "verbose": int(not json)}
    if by_sequence:
        chosen = _settings("MixtureOfHMMs", settings)
        estimator = discover()["MixtureOfHMMs"](**(common | {"n_clusters": clusters, "n_states": states} | chosen))
    else:
        estimator = discover()["GaussianMixture"](**(common | {"n_components": clusters} | _settings("GaussianMixture", settings)))
    labels = estimator.fit_predict(batches)  # type: ignore[attr-defined]
    _write_labels(out / "labels.csv", labels)
    estimator.save(out / "model.unveil")
    model_report(out / "report.html", estimator, batches, command=command_line())
    sizes = np.bincount(labels, minlength=clusters).tolist()
    kind = "sequences" if by_sequence else "points"
    if json:
        print_json({"kind": kind, "sizes": sizes, "labels": labels, "score": estimator.score(batches), "folder": out})
    else:
        print_table(["cluster", kind], [[str(k), str(size)] for k, size in enumerate(sizes)])
        typer.echo(f"Wrote labels.csv, model.unveil and report.html to {out}")


def fit(
    model: str = typer.Argument(..., help="An estimator; `unveil models` lists them.", show_default=False),
    data: Path = DATA,
    out: Path = typer.Option(..., "--out", "-o", help="Where to save the fitted model.", show_default=False),
    settings: list[str] = SETTINGS,
    page: Path | None = typer.Option(None, "--report", help="Also write a page about the result, an .html file."),
    sample_rate: int = SAMPLE_RATE,
    json: bool = JSON_OPTION,
) -> None:
    """Fit any model to a file or folder, and save it."""
    from unveil.data.streams import open_batches
    from unveil.report import model_report

    estimator = _estimator(model, settings, verbose=int(not json))
    batches = open_batches(data, sample_rate=sample_rate)
    check_outputs([out, page] if page else [out], [data])
    estimator.fit(batches)
    estimator.save(out)
    if page:
        model_report(page, estimator, batches, command=command_line())
    history = estimator.history_
    facts = {
        "model": type(estimator).__name__,
        "iterations": history.n_iter,
        "converged": history.converged,
        "objective": history.objective[-1],
        "seconds": history.seconds,
        "file": out,
    }
    if json:
        print_json(facts)
    else:
        ended = "converged" if history.converged else "stopped"
        typer.echo(
            f"{facts['model']}: {ended} after {history.n_iter} iterations in {history.seconds:.1f} s, "
            f"{history.objective[-1]:.6g} nats per step; saved to {out}"
        )


def predict(
    model: Path = MODEL_FILE,
    data: Path = DATA,
    out: Path | None = typer.Option(None, "--out", "-o", help="A .npy or .csv file; by default standard output."),
    states: bool = typer.Option(False, "--states", help="For a mixture of HMMs: paths of states instead of clusters."),
    probabilities: bool = typer.Option(False, "--proba", help="Probabilities instead of the most probable."),
    sample_rate: int = SAMPLE_RATE,
) -> None:
    """The cluster or state of each item, one in a line."""
    from unveil.data.streams import open_batches

    estimator = _load(model)
    verb, what = (
        ("predict_states", "paths of states")
        if states
        else ("predict_proba", "probabilities")
        if probabilities
        else ("predict", "clusters or states")
    )
    if not hasattr(estimator, verb):
        raise InputError(f"{model}: holds {type(estimator).__name__}, which has no {what}; use another model, or `unveil score`")
    if out:
        check_outputs([out], [model, data])
    result = getattr(estimator, verb)(open_batches(data, sample_rate=sample_rate))
    _write_labels(out, result)


def score(
    model: Path = MODEL_FILE,
    data: Path = DATA,
    each: bool = typer.Option(False, "--each", help="Every item's score, one in a line."),
    sample_rate: int = SAMPLE_RATE,
    json: bool = JSON_OPTION,
) -> None:
    """The mean log-likelihood of data, in nats for each point or sequence."""
    from unveil.data.streams import open_batches

    scores = _load(model).score_samples(open_batches(data, sample_rate=sample_rate))
    if json:
        print_json({"score": float(scores.mean()), "n_items": len(scores)} | ({"scores": scores} if each else {}))
    elif each:
        _write_labels(None, scores)
    else:
        typer.echo(f"{scores.mean():.6f} nats per item, {len(scores)} items")


def sample(
    model: Path = MODEL_FILE,
    out: Path = typer.Option(..., "--out", "-o", help="A .npy file, or .csv for points.", show_default=False),
    n_samples: int = typer.Option(100, "--number", "-n", min=1, help="How many points or sequences."),
    length: int = typer.Option(100, "--length", min=1, help="The length of each sequence."),
    seed: int | None = typer.Option(None, "--seed", min=0, max=MOST_SEED, help="Makes the result repeatable."),
) -> None:
    """Draw points or sequences from a model."""
    estimator = _load(model)
    check_outputs([out], [model])
    sequences = estimator.items == "sequences"
    if sequences and out.suffix != ".npy":
        raise ParameterError(f"--out {out}: sequences do not fit a flat table; choose a name that ends in .npy")
    values, _ = estimator.sample(n_samples, length=length if sequences else 1, random_state=seed)
    _write_labels(out, values)
    typer.echo(f"Wrote {n_samples} {'sequences of ' + str(length) + ' steps' if sequences else 'points'} to {out}")


def report(
    run: Path = typer.Argument(..., help="A saved model, or a folder with model.unveil in it.", show_default=False),
    data: Path | None = typer.Argument(None, help="Data to show it on."),
    out: Path | None = typer.Option(None, "--out", "-o", help="The .html file; by default beside the model."),
    sample_rate: int = SAMPLE_RATE,
) -> None:
    """Write a page about a saved model."""
    from unveil.data.streams import open_batches
    from unveil.report import model_report

    file = run / "model.unveil" if run.is_dir() else run
    estimator = _load(file)
    target = out or file.with_suffix(".html")
    check_outputs([target], [file] if data is None else [file, data])
    model_report(target, estimator, None if data is None else open_batches(data, sample_rate=sample_rate), command=command_line())
    typer.echo(f"Wrote {target}")


def models(json: bool = JSON_OPTION) -> None:
    """List the models."""
    from unveil.models import discover

    rows = []
    for name, estimator in discover().items():
        summary = (estimator.__doc__ or "").strip().splitlines()[0]
        verbs = [verb for verb in ("predict", "transform", "explain", "sample") if hasattr(estimator, verb)]
        rows.append({"name": name, "items": estimator.items, "verbs": verbs, "summary": summary})
    if json:
        print_json(rows)
    else:
        print_table(["model", "of", "can", "what"], [[r["name"], r["items"], ", ".join(r["verbs"]), r["summary"]] for r in rows])


def _estimator(name: str, settings: list[str], **defaults: Any) -> Estimator:
    from unveil.models import discover

    chosen = _settings(name, settings)
    return discover()[name](**(defaults | chosen))


def _settings(name: str, settings: list[str]) -> dict[str, Any]:
    """Constructor parameters from KEY=VALUE texts, after making sure that the model has them."""
    from unveil.models import discover

    if name not in discover():
        raise ParameterError(f"no model {name!r}; there are {', '.join(discover())}")
    known = discover()[name]._get_param_names()
    chosen = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise ParameterError(f"--set {setting}: expected KEY=VALUE, such as --set n_init=10")
        if key not in known:
            raise ParameterError(f"{name} has no setting {key!r}; it has {', '.join(known)}")
        try:
            chosen[key] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            chosen[key] = text
    return chosen


def _load(path: Path) -> Estimator:
    from unveil.models import load

    return load(path)


def _write_labels(path: Path | None, values: Any) -> None:
    """Write numbers as .npy, or as text with a row on each line; to standard output where there is no path."""
    import sys

    import numpy as np

    from unveil.data.files import atomic_path

    values = np.asarray(values)
    if path is not None and path.suffix not in (".npy", ".csv"):
        raise ParameterError(f"--out {path}: expected a name that ends in .npy or .csv")
    if path is not None and path.suffix == ".npy":
        with atomic_path(path) as temporary:
            np.save(temporary, values)
        return
    table = values.reshape(len(values), -1)
    style = "%d" if values.dtype.kind in "iu" else "%.10g"
    if path is None:
        np.savetxt(sys.stdout, table, fmt=style, delimiter=",")
    else:
        with atomic_path(path) as temporary:
            np.savetxt(temporary, table, fmt=style, delimiter=",")
