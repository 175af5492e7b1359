"""Commands about the known data sets."""

from __future__ import annotations

import typer

from unveil.cli.arguments import JSON_OPTION
from unveil.cli.output import print_json, print_table

app = typer.Typer(help="List the known data sets, or fetch one.", invoke_without_command=True)


@app.callback()
def show(context: typer.Context, json: bool = JSON_OPTION) -> None:
    """List the known data sets and where they are."""
    if context.invoked_subcommand:
        return
    from unveil.data import datasets

    found = datasets.available()
    if json:
        print_json([each._asdict() for each in found])
    else:
        print_table(["name", "what", "is", "where"], [[a.name, a.summary, a.status, str(a.folder or "")] for a in found])


@app.command()
def fetch(name: str = typer.Argument(..., help="A data set; `unveil data` lists them.", show_default=False)) -> None:
    """Download a data set, unless it is here already."""
    from unveil.data import datasets

    typer.echo(str(datasets.fetch(name)))
