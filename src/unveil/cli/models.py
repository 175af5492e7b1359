"""Commands that learn models and look at them: cluster, fit, select, report, models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from unveil.cli.arguments import DATA, JSON_OPTION, LABELS, MODEL_NAME, MOST_SEED, SAMPLE_RATE, SETTINGS
from unveil.cli.output import check_outputs, command_line, print_json, print_table, write_numbers
from unveil.cli.reading import open_for
from unveil.cli.settings import make_estimator, read_grid, read_labels
from unveil.cli.training import forget_training, training_folder

VERBS = ("predict", "transform", "reconstruct", "impute", "forecast", "explain", "sample")


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
    from unveil.report import model_report

    batches = open_batches(data, sample_rate=sample_rate)
    check_outputs([out / name for name in ("labels.csv", "model.unveil", "report.html")], [data])
    by_sequence = batches.n_sequences > 1 and not points
    common: dict[str, Any] = {"n_init": starts, "random_state": seed, "verbose": int(not json)}
    if by_sequence:
        estimator = make_estimator("MixtureOfHMMs", settings, n_clusters=clusters, n_states=states, **common)
    else:
        estimator = make_estimator("GaussianMixture", settings, n_components=clusters, **common)
    labels = estimator.fit_predict(batches)  # type: ignore[attr-defined]
    write_numbers(out / "labels.csv", labels)
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
    model: str = MODEL_NAME,
    data: Path = DATA,
    out: Path = typer.Option(..., "--out", "-o", help="Where to save the fitted model.", show_default=False),
    settings: list[str] = SETTINGS,
    labels: Path | None = LABELS,
    validation: Path | None = typer.Option(None, "--validation", help="For neural models: held-out data to stop early by."),
    checkpoint: Path | None = typer.Option(
        None,
        "--checkpoint",
        help="For neural models: a folder to keep the training in; by default one beside --out, until it is over.",
    ),
    resume: bool = typer.Option(False, "--resume", help="Go on with a training that was cut off."),
    tensorboard: Path | None = typer.Option(None, "--tensorboard", help="For neural models: a folder for TensorBoard's events."),
    page: Path | None = typer.Option(None, "--report", help="Also write a page about the result, an .html file."),
    sample_rate: int = SAMPLE_RATE,
    json: bool = JSON_OPTION,
) -> None:
    """Fit any model to a file or folder, and save it.

    The training of a neural model is kept every minute, in a folder beside --out: the same command with --resume goes on with it,
    and ends with the model that it would have had without the interruption.
    """
    estimator = make_estimator(model, settings, verbose=int(not json))
    known = read_labels(labels, estimator)
    folder = training_folder(estimator, out, checkpoint, resume)
    batches = open_for(estimator, data, sample_rate)
    run: dict[str, Any] = {"checkpoint": folder} if folder else {}
    if validation:
        run["validation"] = open_for(estimator, validation, sample_rate)
    if tensorboard:
        from unveil.learn.epochs import TensorBoard

        run["callbacks"] = [TensorBoard(tensorboard)]
    check_outputs([out, page] if page else [out], [each for each in (data, labels, validation) if each])
    try:
        estimator.fit(batches, known, **run)
    except KeyboardInterrupt:
        if folder:
            typer.echo(f"Interrupted; the training is kept in {folder}: the same command with --resume goes on with it", err=True)
        raise
    estimator.save(out)
    if folder and not checkpoint:
        forget_training(folder)
    if page:
        from unveil.report import model_report

        model_report(page, estimator, batches, command=command_line())
    history = estimator.history_
    facts = {
        "model": type(estimator).__name__,
        "iterations": history.n_iter,
        "converged": history.converged,
        "objective": history.objective[-1],
        "seconds": history.seconds,
        "file": out,
    } | ({"parts": {name: values[-1] for name, values in history.parts.items()}} if history.parts else {})
    if json:
        print_json(facts)
    else:
        typer.echo(f"{facts['model']}: {_how_it_went(estimator)}; saved to {out}")


def _how_it_went(estimator: Any) -> str:
    """How learning ended, how long it took, and what was reached."""
    from unveil.core.units import objective_unit

    history = estimator.history_
    ended = "converged" if history.converged else "stopped"
    if not estimator.learns_in_epochs:
        iterations = f"{history.n_iter} iteration{'s' * (history.n_iter != 1)}"
        return f"{ended} after {iterations} in {history.seconds:.1f} s, {history.objective[-1]:.6g} {objective_unit(estimator)}"
    said = f"{ended} after {history.n_iter} epoch{'s' * (history.n_iter != 1)} in {history.seconds:.1f} s"
    held_out = history.parts.get("held-out loss")
    if held_out:
        return f"{said}, held-out loss {min(held_out):.6g} in epoch {held_out.index(min(held_out)) + 1}, whose model is kept"
    return f"{said}, loss {history.parts['loss'][-1]:.6g}" if estimator.has_likelihood else said


def select(
    model: str = MODEL_NAME,
    data: Path = DATA,
    grid: list[str] = typer.Option(
        ..., "--grid", metavar="KEY=VALUES", help="Values to try: 1:8 is 1 to 8, or a list diag,full. Can be repeated."
    ),
    criterion: str = typer.Option("bic", "--criterion", help="What to choose by: bic, aic, icl, or cv (held-out likelihood)."),
    folds: int = typer.Option(5, "--folds", min=2, help="For cv: parts of the data that are held out in turn."),
    out: Path | None = typer.Option(None, "--out", "-o", help="Folder for table.csv, the best model and report.html."),
    settings: list[str] = SETTINGS,
    labels: Path | None = LABELS,
    sample_rate: int = SAMPLE_RATE,
    json: bool = JSON_OPTION,
) -> None:
    """Fit a model with every combination of some settings, and choose the best."""
    from unveil.core.constraints import choice
    from unveil.data.streams import open_batches
    from unveil.report.selection import selection_report
    from unveil.selection import select as compare
    from unveil.selection.search import CRITERIA

    choice(*CRITERIA)("--criterion", criterion)
    estimator, values = make_estimator(model, settings), read_grid(model, grid)
    known = read_labels(labels, estimator)
    batches = open_batches(data, sample_rate=sample_rate)
    if out:
        used = [data, labels] if labels else [data]
        check_outputs([out / name for name in ("table.csv", "model.unveil", "report.html")], used)
    found = compare(estimator, batches, values, criterion=criterion, y=known, cv=folds, verbose=int(not json))
    if out:
        found.to_csv(out / "table.csv")
        found.best_estimator.save(out / "model.unveil")
        selection_report(out / "report.html", found, command=command_line())
    if json:
        print_json({"criterion": criterion, "best": found.best_params, "table": found.table, "folder": out})
        return
    typer.echo(str(found))
    if out:
        typer.echo(f"Wrote table.csv, model.unveil and report.html to {out}")


def report(
    run: Path = typer.Argument(..., help="A saved model, or a folder with model.unveil in it.", show_default=False),
    data: Path | None = typer.Argument(None, help="Data to show it on."),
    out: Path | None = typer.Option(None, "--out", "-o", help="The .html file; by default beside the model."),
    sample_rate: int = SAMPLE_RATE,
) -> None:
    """Write a page about a saved model."""
    from unveil.models import load
    from unveil.report import model_report

    file = run / "model.unveil" if run.is_dir() else run
    estimator = load(file)
    target = out or file.with_suffix(".html")
    check_outputs([target], [file] if data is None else [file, data])
    model_report(target, estimator, None if data is None else open_for(estimator, data, sample_rate), command=command_line())
    typer.echo(f"Wrote {target}")


def models(json: bool = JSON_OPTION) -> None:
    """List the models."""
    from unveil.models import discover

    rows = []
    for name, estimator in discover().items():
        summary = (estimator.__doc__ or "").strip().splitlines()[0]
        verbs = [verb for verb in VERBS if hasattr(estimator(), verb)]
        rows.append({"name": name, "items": estimator().items, "verbs": verbs, "summary": summary})
    if json:
        print_json(rows)
    else:
        cells = [[r["name"], r["items"], ", ".join(r["verbs"]), r["summary"].rstrip(".").split(",")[0]] for r in rows]
        print_table(["model", "of", "can", "what"], cells)
