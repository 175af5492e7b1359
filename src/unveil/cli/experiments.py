"""The command that repeats the project's experiments: reproduce."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import typer

from unveil.cli.arguments import JSON_OPTION
from unveil.cli.output import as_json, check_outputs, command_line, print_json, print_table, progress
from unveil.errors import ParameterError

if TYPE_CHECKING:
    from unveil.report.page import Points, Section, Text


def reproduce(
    name: str | None = typer.Argument(None, help="An experiment; without a name they are listed."),
    quick: bool = typer.Option(False, "--quick", help="A small version, for a first look."),
    out: Path | None = typer.Option(
        None, "--out", "-o", help="Folder for result.json and report.html; by default unveil-NAME.", show_default=False
    ),
    json: bool = JSON_OPTION,
) -> None:
    """Repeat an experiment: the same data, models and table; and write a page about it."""
    if name is None:
        _list(json)
        return
    experiment = _find(name)
    out = out or Path(f"unveil-{_typed(experiment)}")
    check_outputs([out / "result.json", out / "report.html"], [])
    with progress(experiment.TITLE, quiet=json) as advance:
        result = experiment.run(quick=quick, on_progress=advance)
    sections = experiment.sections(result)
    facts = {"experiment": _typed(experiment), "title": experiment.TITLE, "quick": quick, "table": result.table}
    _write(out, experiment, sections, facts)
    if json:
        print_json(facts)
    else:
        _show(sections)
        typer.echo(f"{out / 'report.html'}: the whole report")


def _list(json: bool) -> None:
    from unveil.experiments import discover

    found = [(_typed(module), module.TITLE) for module in discover().values()]
    if json:
        print_json([{"name": name, "title": title} for name, title in found])
    else:
        print_table(["experiment", "what"], [[name, title] for name, title in found])


def _find(name: str) -> ModuleType:
    from unveil.experiments import discover

    experiments = discover()
    found = experiments.get(name.replace("-", "_"))
    if found is None:
        raise ParameterError(f"no experiment {name!r}; there are {', '.join(map(_typed, experiments.values()))}")
    return found


def _typed(experiment: ModuleType) -> str:
    """Its name as it is typed: spoken-digits."""
    return experiment.__name__.rpartition(".")[2].replace("_", "-")


def _write(out: Path, experiment: ModuleType, sections: list[Section], facts: dict[str, Any]) -> None:
    """The table for programs, and the page for people."""
    from unveil.data.files import atomic_path
    from unveil.report.page import Page, Section, write_page
    from unveil.report.provenance import how_this_was_made

    summary, *details = (experiment.__doc__ or "").strip().split("\n\n")
    about = [Section("What was done", [_block(each) for each in details])] if details else []
    made = how_this_was_made([], command_line())
    write_page(out / "report.html", Page(experiment.TITLE, _line(summary), [*sections, *about, made]))
    with atomic_path(out / "result.json") as temporary:
        temporary.write_text(as_json(facts) + "\n", encoding="utf-8")


def _block(paragraph: str) -> Text | Points:
    """A paragraph of a docstring, or the list that it is."""
    from unveil.report.page import Points, Text

    if not paragraph.startswith("* "):
        return Text(_line(paragraph))
    return Points([_line(point) for point in paragraph.removeprefix("* ").split("\n* ")])


def _line(text: str) -> str:
    return " ".join(text.split())


def _show(sections: list[Section]) -> None:
    """The tables and paragraphs of a report."""
    from unveil.report.page import Table, Text, as_text

    for block in _blocks(sections):
        if isinstance(block, Table):
            print_table(list(block.columns), [[as_text(cell, block.digits) for cell in row] for row in block.rows], block.caption)
        elif isinstance(block, Text):
            typer.echo(block.text + "\n")


def _blocks(parts: Any) -> Iterator[Any]:
    """Everything in sections, rows and cards, in its order."""
    for part in parts:
        inner = getattr(part, "cards", None) or getattr(part, "blocks", None)
        if inner is None:
            yield part
        else:
            yield from _blocks(inner)
