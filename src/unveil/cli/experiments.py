"""The command that repeats the project's experiments: reproduce."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import typer

from unveil.cli.arguments import JSON_OPTION
from unveil.cli.output import check_outputs, print_json, print_table
from unveil.errors import ParameterError


def reproduce(
    name: str | None = typer.Argument(None, help="An experiment; without a name they are listed."),
    quick: bool = typer.Option(False, "--quick", help="A small version, for a first look."),
    out: Path | None = typer.Option(None, "--out", "-o", help="Folder for result.json; by default nothing is written."),
    json: bool = JSON_OPTION,
) -> None:
    """Repeat an experiment: the same data, models and table."""
    if name is None:
        _list(json)
        return
    experiment = _find(name)
    if out:
        check_outputs([out / "result.json"], [])
    result = experiment.run(quick=quick)
    facts = {"experiment": _typed(experiment), "title": experiment.TITLE, "quick": quick, "table": result.table}
    if json:
        print_json(facts)
    else:
        experiment.show(result)
    if out:
        _write(out / "result.json", facts)


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


def _write(path: Path, facts: dict[str, Any]) -> None:
    from unveil.cli.output import as_json
    from unveil.data.files import atomic_path

    with atomic_path(path) as temporary:
        temporary.write_text(as_json(facts) + "\n", encoding="utf-8")
