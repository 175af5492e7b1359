"""The command that says a sound again through a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from unveil.cli.arguments import JSON_OPTION, MOST_SEED, SETTINGS
from unveil.cli.output import check_outputs, command_line, print_json, print_table
from unveil.cli.settings import make_estimator
from unveil.errors import InputError, ParameterError

LEARNED = {"likelihood": "power", "loss": "itakura-saito", "n_latent": 32, "hidden": 128, "activation": "tanh"}
STEPS, BATCH = 20000, 128  # of learning: minutes of sound need few passes over them, seconds many


def resynthesize(
    sound: Path = typer.Argument(..., help="The sound file to say again.", show_default=False),
    out: Path = typer.Option(
        ..., "--out", "-o", help="Folder for resynthesized.wav, model.unveil and report.html.", show_default=False
    ),
    model: str = typer.Option(
        "SparseDictionaryVAE", "--model", help="A fitted model's file; or an estimator's name, to learn one now."
    ),
    examples: Path | None = typer.Option(
        None, "--examples", help="To learn a model: sounds like this one, a file or a folder; by default the sound itself."
    ),
    settings: list[str] = SETTINGS,
    seed: int = typer.Option(0, "--seed", min=0, max=MOST_SEED, help="Makes the result repeatable."),
    json: bool = JSON_OPTION,
) -> None:
    """Say a sound again from the codes that a model of its power spectra gives it, with the original phases.

    What the few numbers of each code keep can be heard, and how sparse the codes are is told.
    """
    from unveil.audio.resynthesize import power_frames, power_frames_for, resynthesize
    from unveil.data.files import audio_files, read_audio, write_audio
    from unveil.models import load
    from unveil.report.resynthesis import resynthesis_report

    fitted = Path(model).is_file()
    if not fitted and (Path(model).suffix or "/" in model):
        raise InputError(f"{model}: no such model file; check the name, or give an estimator's name, such as SparseDictionaryVAE")
    if fitted and (settings or examples):
        raise ParameterError(f"--model {model}: is fitted; --set and --examples are for one that is learned now, leave them out")
    used = [sound, *(audio_files(examples) if examples else []), *([Path(model)] if fitted else [])]
    check_outputs([out / name for name in ("resynthesized.wav", "model.unveil", "report.html")], used)
    samples, rate = read_audio(sound)
    if fitted:
        estimator: Any = load(model)
    else:
        heard = power_frames(examples or sound, rate)
        max_epochs = min(max(STEPS * BATCH // len(heard), 5), 500)
        estimator = make_estimator(model, settings, **LEARNED, max_epochs=max_epochs, random_state=seed, verbose=int(not json))
        if getattr(estimator, "family", None) != "power":
            raise ParameterError(
                f"--model {model}: expected a model of power spectra, such as VAE or Autoencoder, or the file of one"
            )
        estimator.fit(heard)
        estimator.save(out / "model.unveil")
    again, frames = resynthesize(samples, rate, estimator), power_frames_for(estimator, samples, rate)
    scores = resynthesis_report(
        out / "report.html",
        estimator,
        samples,
        again,
        rate,
        frames=frames,
        title=f"{sound.name}, said again",
        command=command_line(),
    )
    write_audio(out / "resynthesized.wav", again, rate)
    if json:
        print_json({"scores": scores, "folder": out})
        return
    print_table(["score", "value"], [[name, "–" if value is None else f"{value:.3f}"] for name, value in scores.items()])
    typer.echo(f"Wrote resynthesized.wav and report.html to {out}; open {out / 'report.html'} to listen")
