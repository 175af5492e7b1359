"""Commands about sound: demo, separate, evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

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
        [], "--source", metavar="NAME=PATH", help="Clean examples of a source, a file or a folder; once for each source."
    ),
    blind: int | None = typer.Option(
        None, "--blind", min=2, max=6, metavar="K", help="Without examples: find K sources that rest at times.", show_default=False
    ),
    out: Path = typer.Option(..., "--out", "-o", help="Folder for the separated sounds and report.html.", show_default=False),
    model: str = typer.Option("nmf", "--model", help="What a source with examples is modelled by: nmf."),
    atoms: int = typer.Option(30, "--atoms", min=1, help="Spectra in each source's dictionary, learned from its examples."),
    seconds: float | None = typer.Option(
        None, "--seconds", min=0.1, help="Learn from the first so many seconds of each example only."
    ),
    reference: list[str] = typer.Option(
        [], "--reference", metavar="NAME=FILE", help="The true source, to score the estimate against."
    ),
    allow_clipped: bool = typer.Option(False, "--allow-clipped", help="Also work on clipped sound."),
    json: bool = JSON_OPTION,
) -> None:
    """Separate a mixture into sources: given clean examples of each, or blindly.

    Any sample rate and number of channels; the results have the mixture's. Memory does not depend on the length of the mixture.
    With --blind the recording has to reveal its sources: each note has to be heard alone at some time, and a warning says where
    that does not seem so.
    """
    from unveil.audio.separate import check_file

    if bool(source) == (blind is not None):
        raise ParameterError("expected either --source, once for each source, or --blind with the number of sources")
    if model != "nmf":
        raise ParameterError(f"--model {model}: expected nmf")
    references = _by_name(reference, "--reference")
    if blind is None:
        examples = _by_name(source, "--source")
        _check_names(references, examples)
        rate = check_file(mixture, allow_clipped=allow_clipped)
        truth = _read_references(references, rate, mixture)
        _separate_by_examples(mixture, examples, references, truth, out, atoms, seconds, rate, allow_clipped, json)
    else:
        if seconds is not None:
            raise ParameterError("--seconds: shortens the examples of --source, and --blind has none; leave it out")
        if references and len(references) != blind:
            raise ParameterError(f"--reference: given {len(references)} times for {blind} sources; give one for each, or none")
        rate = check_file(mixture, allow_clipped=allow_clipped)
        _separate_blindly(mixture, blind, references, _read_references(references, rate, mixture), out, json)


def _check_names(references: dict[str, Path], examples: dict[str, Path]) -> None:
    for name in references:
        if name not in examples:
            raise ParameterError(f"--reference {name}: there is no --source of that name; expected one of {', '.join(examples)}")
    missing = [name for name in examples if references and name not in references]
    if missing:
        raise ParameterError(f"--reference: there is none for {missing[0]}, and scores compare all; give one for each source")


def _read_references(references: dict[str, Path], rate: int, mixture: Path) -> dict[str, np.ndarray]:
    """True sources at a rate, with as many channels as the mixture."""
    from unveil.data.files import open_audio, read_audio

    truth = {name: read_audio(path, rate)[0] for name, path in references.items()}
    with open_audio(mixture) as file:
        n_channels = file.channels
    for name, sound in truth.items():
        if len(sound) != n_channels:
            raise InputError(
                f"{references[name]}: channels: {len(sound)}, and {n_channels} in {mixture}; give a reference with those"
            )
    return truth


def _separate_by_examples(
    mixture: Path,
    examples: dict[str, Path],
    references: dict[str, Path],
    truth: dict[str, np.ndarray],
    out: Path,
    atoms: int,
    seconds: float | None,
    rate: int,
    allow_clipped: bool,
    json: bool,
) -> None:
    from unveil.audio.score import score_sources
    from unveil.audio.separate import Separator, read_examples
    from unveil.data.files import audio_files, read_audio
    from unveil.models.nmf import NMF

    sounds = {name: read_examples(path, rate, seconds=seconds, allow_clipped=allow_clipped) for name, path in examples.items()}
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


def _separate_blindly(
    mixture: Path, n_sources: int, references: dict[str, Path], truth: dict[str, np.ndarray], out: Path, json: bool
) -> None:
    from unveil.audio.blind import separate_file_blind, source_names
    from unveil.audio.score import match_sources, score_sources
    from unveil.data.files import read_audio
    from unveil.report.blind import found_section

    check_outputs(
        [out / f"{name}.wav" for name in source_names(n_sources)] + [out / "report.html"], [mixture, *references.values()]
    )
    with progress("Separating", quiet=json) as advance:
        written, learned = separate_file_blind(mixture, out, n_sources, on_progress=advance)
    scores = None
    if truth:  # which source is which is part of what was hidden
        estimates = {name: read_audio(path)[0] for name, path in written.items()}
        names = match_sources(truth, estimates)
        scores = score_sources(truth, {name: estimates[found] for name, found in names.items()})
        written = {name: written[found] for name, found in names.items()}
    separator, diagnostics = learned.separator, learned.model.diagnostics_
    _write_page_of_files(
        out,
        mixture,
        written,
        truth,
        scores,
        separator,
        learned="of notes that were found in the mixture itself",
        found=[found_section(learned.model, learned.activations, separator.sample_rate / separator.hop)],
    )
    files = {name: path.name for name, path in written.items()}
    facts = {
        "files": files,
        "components": learned.model.n_components_,
        "residual": diagnostics.residual,
        "doubts": diagnostics.doubts,
    }
    if not json:
        counts = [int((learned.model.sources_ == k).sum()) for k in range(n_sources)]
        typer.echo(
            f"Found {', '.join(map(str, counts[:-1]))} and {counts[-1]} components; {diagnostics.residual:.1%} is left unexplained"
        )
    _tell(scores, out, json, **facts)


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
    out: Path,
    mixture: Path,
    written: dict[str, Path],
    truth: dict[str, np.ndarray],
    scores: Scores | None,
    separator: Separator,
    **more: Any,
) -> None:
    """The page about separated files, of which it shows the first minute."""
    from unveil.audio.separate import read_beginning

    beginning = read_beginning(mixture)
    estimates = {name: read_beginning(path) for name, path in written.items()}
    parts = {name: sound[..., : beginning.shape[-1]] for name, sound in truth.items()}
    _write_page(out, beginning, estimates, parts, scores, separator, f"{mixture.name}, separated", **more)


def _write_page(
    out: Path,
    mixture: np.ndarray,
    estimates: dict[str, np.ndarray],
    truth: dict[str, np.ndarray],
    scores: Scores | None,
    separator: Separator,
    title: str,
    **more: Any,
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
        **more,
    )


def _tell(scores: Scores | None, out: Path | None, json: bool, **facts: Any) -> None:
    if json:
        print_json({"scores": scores, "folder": out} | facts)
        return
    if scores:
        metrics = list(next(iter(scores.values())))
        print_table(["source", *metrics], [[name, *(decibels(each[m]) for m in metrics)] for name, each in scores.items()])
    if out:
        typer.echo(f"Wrote the sounds and report.html to {out}; open {out / 'report.html'} to listen")
