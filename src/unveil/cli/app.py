"""All commands, in the order in which help shows them."""

from __future__ import annotations

import typer

from unveil import __version__
from unveil.cli import datasets, experiments, inference, models, resynthesis, sound

app = typer.Typer(
    help="Generative models with latent variables, for sequences and sound: cluster, separate, generate.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"unveil {__version__}")
        raise typer.Exit


@app.callback()
def unveil(
    version: bool = typer.Option(False, "--version", callback=_show_version, is_eager=True, help="Show the version."),
) -> None:
    """Generative models with latent variables, for sequences and sound: cluster, separate, generate."""


for command in (
    sound.demo,
    sound.separate,
    resynthesis.resynthesize,
    sound.evaluate,
    models.cluster,
    models.fit,
    models.select,
    inference.predict,
    inference.score,
    inference.sample,
    inference.transform,
    inference.reconstruct,
    inference.impute,
    inference.filter,
    inference.forecast,
    models.report,
    models.models,
    experiments.reproduce,
):
    app.command()(command)
app.add_typer(datasets.app, name="data")
