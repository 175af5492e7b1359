"""Arguments and options that several commands have."""

from __future__ import annotations

import typer

MOST_SEED = 2**32 - 1
MODEL_NAME = typer.Argument(..., help="An estimator; `unveil models` lists them.", show_default=False)
MODEL_FILE = typer.Argument(..., help="A model that `unveil fit` or `save` wrote.", show_default=False)
DATA = typer.Argument(..., help="A file (.npy, .npz, .parquet, .csv, sound) or a folder of them.", show_default=False)
SETTINGS = typer.Option([], "--set", metavar="KEY=VALUE", help="A setting of the model; can be repeated.")
LABELS = typer.Option(
    None, "--labels", help="A .csv or .npy file: a whole number for each row or item, -1 where its class is unknown."
)
SAMPLE_RATE = typer.Option(16000, "--sample-rate", min=100, help="To which sound is resampled, in hertz.")
JSON_OPTION = typer.Option(False, "--json", help="Print JSON, for programs to read.")
NUMBERS = typer.Option(None, "--out", "-o", help="A .npy or .csv file; by default standard output.")
STEPS = typer.Option(None, "--out", "-o", help="A .npy or .csv file, or .npz for a table per sequence; by default standard output.")
