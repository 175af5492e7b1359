"""Commands about sound: demo, separate, evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from unveil.cli.arguments import JSON_OPTION
from unveil.cli.output import check_outputs, command_line, decibels, print_json, print_table, progress
from unveil.errors import InputError, ParameterError

if TYPE_CHECKING:
    import numpy as np

    from unveil.audio.separate import Separator

Scores = dict[str, dict[str, float]]


def demo(
    out: Path = typer.Option(Path("unveil-demo"), "--out", "-o", help="Folder for the sounds and report.html."),
    json: bool = JSON_OPTION,
) -> None:
    """Separate a duet of real notes, and write a page on which it can be heard."""
    from unveil.audio.duet import make_duet
    from unveil.audio.score import score_sources
    from unveil.audio.separate import Separator
    from unveil.data import datasets
    from unveil.data.files import write_audio

    check_outputs([out / "mixture.wav"], [])
    notes = datasets.load("notes")
    by_instrument = {
        name: [x for x, label in zip(notes.data, notes.target, strict=True) if label == name] for name in set(notes.target)
    }
    duet = make_duet(dict(sorted(by_instrument.items())), notes.sample_rate, note_seconds={"contrabass": 0.8, "flute": 0.45})
    with progress("Separating a duet", quiet=json) as advance:
        separator = Separator.learn(duet.training, duet.sample_rate, on_progress=lambda done: advance(done / 2))
        estimates = separator(duet.mixture, on_progress=lambda done: advance(0.5 + done / 2))
    scores = score_sources(duet.parts, estimates)
    write_audio(out / "mixture.wav", duet.mixture, duet.sample_rate)
    for folder, sounds in (("reference", duet.parts), ("separated", estimates)):
        for name, sound in sounds.items():
            write_audio(out / folder / f"{name}.wav", sound, duet.sample_rate)
    _write_page(out, duet.mixture, estimates, duet.parts, scores, separator, "A duet, separated")
    _tell(scores, out, json)


def separate(
    mixture: Path = typer.Argument(..., help="The sound file to take apart.", show_default=False),
    source: list[str] = typer.Option(
        ..., "--source", metavar="NAME=PATH", help="Clean examples of a source, a file or a folder; once for each source."
    ),
    out: Path = typer.Option(..., "--out", "-o", help="Folder for the separated sounds and report.html.", show_default=False),
    model: str = typer.Option("nmf", "--model", help="What a source is modelled by: nmf."),
    atoms: int = typer.Option(30, "--atoms", min=1, help="Spectra in each source's dictionary."),
    seconds: float | None = typer.Option(
        None, "--seconds", min=0.1, help="Learn from the first so many seconds of each example only."
    ),
    reference: list[str] = typer.Option(
        [], "--reference", metavar="NAME=FILE", help="The true source, to score the estimate against."
    ),
    allow_clipped: bool = typer.Option(False, "--allow-clipped", help="Also work on clipped sound."),
    json: bool = JSON_OPTION,
) -> None:
    """Separate a mixture into sources, given clean examples of each.

    Any sample rate and number of channels; the results have the mixture's. Memory does not depend on the length of the mixture.
    """
    from unveil.audio.score import score_sources
    from unveil.audio.separate import Separator, check_file, read_examples
    from unveil.data.files import audio_files, open_audio, read_audio
    from unveil.models.nmf import NMF

    if model != "nmf":
        raise ParameterError(f"--model {model}: expected nmf")
    examples, references = _by_name(source, "--source"), _by_name(reference, "--reference")
    for name in references:
        if name not in examples:
            raise ParameterError(f"--reference {name}: there is no --source of that name; expected one of {', '.join(examples)}")
    missing = [name for name in examples if references and name not in references]
    if missing:
        raise ParameterError(f"--reference: there is none for {missing[0]}, and scores compare all; give one for each source")
    rate = check_file(mixture, allow_clipped=allow_clipped)
    sounds = {name: read_examples(path, rate, seconds=seconds, allow_clipped=allow_clipped) for name, path in examples.items()}
    truth = {name: read_audio(path, rate)[0] for name, path in references.items()}
    with open_audio(mixture) as file:
        n_channels = file.channels
    for name, sound in truth.items():
        if len(sound) != n_channels:
            raise InputError(
                f"{references[name]}: channels: {len(sound)}, and {n_channels} in {mixture}; give a reference with those"
            )
    used = [mixture, *references.values(), *(file for path in examples.values() for file in audio_files(path))]
    check_outputs([out / f"{name}.wav" for name in examples] + [out / "report.html"], used)
    template = NMF(n_components=atoms, max_iter=200, random_state=0)
    with progress("Separating", quiet=json) as advance:
        separator = Separator.learn(sounds, rate, model=template, on_progress=lambda done: advance(done / 2))
        written = separator.separate_file(mixture, out, on_progress=lambda done: advance(0.5 + done / 2))
    estimates = {name: read_audio(path)[0] for name, path in written.items()} if truth else {}
    scores = score_sources(truth, {name: estimates[name] for name in truth}) if truth else None
    _write_page_of_files(out, mixture, written, truth, scores, separator)
    _tell(scores, out, json)


def evaluate(
    reference: Path = typer.Option(..., "--reference", help="A folder of true sources.", show_default=False),
    estimate: Path = typer.Option(..., "--estimate", help="A folder of estimates with the same names.", show_default=False),
    filter_length: int = typer.Option(
        512, "--filter-length", min=1, help="Taps of the allowed distortion: 512 is BSS-eval v3, 1 is a gain."
    ),
    json: bool = JSON_OPTION,
) -> None:
    """Score separated sources against true ones: SDR, SIR, SAR and SI-SDR, in decibels."""
    from unveil.audio.score import score_sources
    from unveil.data.files import audio_files, read_audio

    truth, guess = _by_stem(audio_files(reference)), _by_stem(audio_files(estimate))
    missing = [name for name in truth if name not in guess]
    if missing:
        raise InputError(
            f"{estimate}: no estimate named {missing[0]}; it holds {', '.join(guess)}, give each the name of its reference"
        )
    _, rate = read_audio(next(iter(truth.values())))
    references, estimates = ({name: read_audio(files[name], rate)[0] for name in truth} for files in (truth, guess))
    _tell(score_sources(references, estimates, filter_length=filter_length), None, json)


def _by_stem(files: list[Path]) -> dict[str, Path]:
    """Files by their names without the ending."""
    named: dict[str, Path] = {}
    for file in files:
        if file.stem in named:
            raise InputError(f"{file}: has the same name as {named[file.stem]}; give every source a name of its own")
        named[file.stem] = file
    return named


def _by_name(texts: list[str], option: str) -> dict[str, Path]:
    """NAME=PATH texts as a dict."""
    named: dict[str, Path] = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if not equals or not name or not path:
            raise ParameterError(f"{option} {text}: expected NAME=PATH, such as {option} flute=recordings/flute")
        if name in named:
            raise ParameterError(f"{option} {name}: given twice; put all examples of it into one folder")
        if "/" in name or name.startswith("."):
            raise ParameterError(f"{option} {name}: the name becomes a file name; use letters and digits")
        named[name] = Path(path)
    return named


def _write_page_of_files(
    out: Path, mixture: Path, written: dict[str, Path], truth: dict[str, np.ndarray], scores: Scores | None, separator: Separator
) -> None:
    """The page about separated files, of which it shows the first minute."""
    from unveil.audio.separate import read_beginning

    beginning = read_beginning(mixture)
    estimates = {name: read_beginning(path) for name, path in written.items()}
    parts = {name: sound[..., : beginning.shape[-1]] for name, sound in truth.items()}
    _write_page(out, beginning, estimates, parts, scores, separator, f"{mixture.name}, separated")


def _write_page(
    out: Path,
    mixture: np.ndarray,
    estimates: dict[str, np.ndarray],
    truth: dict[str, np.ndarray],
    scores: Scores | None,
    separator: Separator,
    title: str,
) -> None:
    from unveil.report import separation_report

    separation_report(
        out / "report.html",
        mixture=mixture,
        estimates=estimates,
        sample_rate=separator.sample_rate,
        references=truth or None,
        scores=scores,
        separator=separator,
        title=title,
        command=command_line(),
    )


def _tell(scores: Scores | None, out: Path | None, json: bool) -> None:
    if json:
        print_json({"scores": scores, "folder": out})
        return
    if scores:
        metrics = list(next(iter(scores.values())))
        print_table(["source", *metrics], [[name, *(decibels(each[m]) for m in metrics)] for name, each in scores.items()])
    if out:
        typer.echo(f"Wrote the sounds and report.html to {out}; open {out / 'report.html'} to listen")
