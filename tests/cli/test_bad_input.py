"""Whatever is wrong, one line says what, where and what to do; and no file is begun or changed."""

import contextlib
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from unveil.core.storage import read_model, write_model
from unveil.models.gaussian_mixture import GaussianMixture
from unveil.models.nmf import NMF

RATE = 8000


@pytest.fixture(scope="module")
def all_ruins(trained, tmp_path_factory):
    """Beside the good material and models, all kinds of bad; and results of earlier, which must not change."""
    folder = shutil.copytree(trained, tmp_path_factory.mktemp("ruins") / "here")
    with contextlib.chdir(folder):
        make_ruins()
    return folder


@pytest.fixture
def ruins(all_ruins, tmp_path, monkeypatch):
    """A copy of them to work in."""
    copy = shutil.copytree(all_ruins, tmp_path / "ruins")
    monkeypatch.chdir(copy)
    return copy


def make_ruins():
    points, sound = np.load("points.npy"), soundfile.read("mix.wav")[0]
    endless = points.copy()
    endless[7, 1] = np.inf
    np.save("inf.npy", endless)
    gapped = np.load("counts.npy").astype(float)
    gapped[7] = np.nan
    np.save("gaps.npy", gapped)
    np.savetxt("labels.csv", np.arange(100) % 2, fmt="%d")
    np.savetxt("halves.csv", np.arange(100) / 2)
    np.savetxt("few.csv", [0, 1, -1], fmt="%d")
    np.savetxt("most.csv", np.full(100, 7) - 8 * (np.arange(100) > 50), fmt="%d")
    np.save("three.npy", points[:3])
    np.save("wide.npy", np.ones((5, 3)))
    np.save("words.npy", np.array(["a", "b"]))
    for name in ("empty.npy", "empty.csv", "empty.wav"):
        Path(name).touch()
    Path("header.csv").write_text("x,y\n")
    Path("word.csv").write_text("x,y\n1,2\n3,four\n")
    Path("ragged.csv").write_text("1,2\n3\n")
    Path("data.xlsx").write_text("?")
    Path("text.wav").write_text("These are words, and no sound at all.\n" * 9)
    cut("points.npy", "cut.npy")
    cut("sequences.npz", "cut.npz")
    cut("mix.wav", "cut.wav")
    soundfile.write("mix.flac", sound, RATE)
    cut("mix.flac", "cut.flac")
    soundfile.write("silent.wav", 0 * sound, RATE)
    soundfile.write("clipped.wav", np.clip(5 * sound, -1, 1), RATE)
    soundfile.write("nan.wav", np.where(np.arange(len(sound)) == 99, np.nan, sound), RATE, subtype="FLOAT")
    soundfile.write("stereo.wav", np.stack([sound, sound], 1), RATE)
    for folder in ("hollow", "estimates", "earlier"):
        Path(folder).mkdir()
    soundfile.write("estimates/low.wav", sound, RATE)
    GaussianMixture(2, random_state=0).fit(points).save("m.unveil")
    NMF(1, max_iter=2, tol=0, random_state=0).fit(np.abs(points)).save("nmf.unveil")
    cut("m.unveil", "cut.unveil")
    header, tensors = read_model("m.unveil")
    write_model("foreign.unveil", header | {"estimator": "os.system"}, tensors)
    write_model("misfit.unveil", header | {"estimator": "NMF"}, tensors)
    write_model("newer.unveil", header | {"format": 99}, tensors)
    for name in ("model.unveil", "low.wav", "high.wav", "report.html", "labels.csv", "out.npy", "page.html"):
        Path("earlier", name).write_text("precious")


def cut(whole, part):
    content = Path(whole).read_bytes()
    Path(part).write_bytes(content[: len(content) // 2])


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


GAUSS = "fit GaussianMixture {} -o earlier/model.unveil --report earlier/page.html"
CLUSTER = "cluster {} -k 2 -o earlier"
SEPARATE = "separate {} --source low=low.wav --source high=highs -o earlier --atoms 1"
WITH_SOURCE = "separate mix.wav --source low=low.wav --source high={} -o earlier --atoms 1"
PREDICT = "predict {} points.npy -o earlier/out.npy"

INFINITE = "infinity at row 7 of inf.npy, column 1; replace it by a finite number"
SYMBOLS = "fit HMM gaps.npy -o earlier/model.unveil --set emission=categorical"
CLASSES = "fit GaussianMixtureClassifier {} -o earlier/model.unveil --labels {}"
CHAINS = "CategoricalHMM, GaussianHMM, HMM"
ALL_MODELS = "Autoencoder, CategoricalHMM, .*, GaussianHMM, GaussianMixture, .*, HMM, .*, NMF, PPCA"
SELECT = "select GaussianMixture points.npy -o earlier --grid {}"

FAILS = {  # command: what the line says, in order
    GAUSS.format("inf.npy"): INFINITE,
    CLUSTER.format("inf.npy"): INFINITE,
    "predict m.unveil inf.npy -o earlier/out.npy": INFINITE,
    "score m.unveil inf.npy --json": INFINITE,
    GAUSS.format("empty.npy"): "empty.npy: the file is empty (0 bytes); write it again",
    GAUSS.format("empty.csv"): "empty.csv: the file is empty (0 bytes); write it again",
    GAUSS.format("header.csv"): "header.csv: holds no rows; give at least one",
    GAUSS.format(
        "word.csv"
    ): "word.csv: not a table of numbers (could not convert string 'four' .* row 1, column 2); give one row a line",
    GAUSS.format("ragged.csv"): "ragged.csv: not a table of numbers (.* from 2 to 1 at row 2); give one row a line",
    GAUSS.format("words.npy"): "words.npy: holds <U1, not numbers; save it as float64",
    GAUSS.format("cut.npy"): "cut.npy: cut short, its header promises 100 rows and .* are there; copy it again",
    GAUSS.format("cut.npz"): "cut.npz: damaged or cut short, not a .npz archive; write it again",
    GAUSS.format("data.xlsx"): "data.xlsx: unknown kind of file; expected sound, or one of .npy, .npz",
    GAUSS.format("missing.npy"): "missing.npy: no such file or folder; check the name",
    GAUSS.format("hollow"): "hollow: no sound files in it; expected names that end in .*.wav",
    GAUSS.format("text.wav"): "text.wav: not a sound file that can be read (Format not recognised); expected WAV, FLAC, Ogg or MP3",
    GAUSS.format("silent.wav"): "silent.wav: silent, every sample is zero; check the recording",
    f"{GAUSS.format('three.npy')} --set n_components=5": "n_components=5 but X has n_samples=3; give more points or fewer",
    "cluster three.npy -k 5 -o earlier": "n_components=5 but X has n_samples=3; give more points or fewer",
    "cluster sequences.npz -k 13 -o earlier": "n_clusters=13 but X has 12 sequences; give more sequences or ask for fewer clusters",
    "fit NMF points.npy -o earlier/model.unveil": "Negative values in data passed to NMF: -.* at row .*, column .*; use magnitudes",
    PREDICT.format("missing.unveil"): "missing.unveil: no such model file; check the name",
    PREDICT.format("cut.unveil"): "cut.unveil: damaged or not a model file .*; save or copy the model again",
    PREDICT.format("points.csv"): "points.csv: damaged or not a model file .*; save or copy the model again",
    PREDICT.format(
        "foreign.unveil"
    ): "foreign.unveil: holds a 'os.system', which this version does not know; it knows Autoencoder, ",
    PREDICT.format("misfit.unveil"): "misfit.unveil: its contents do not fit a NMF .*; save the model again",
    PREDICT.format("newer.unveil"): "newer.unveil: written by a newer Unveil (format 99 > 1); upgrade Unveil",
    PREDICT.format(
        "nmf.unveil"
    ): "nmf.unveil: holds NMF, which has no clusters or states; use one of CategoricalHMM, GaussianHMM, GaussianMixture, .*",
    f"{PREDICT.format('m.unveil')} --states": "m.unveil: holds GaussianMixture, which has no paths of states; use one of .*MixtureOfHMMs",
    "predict m.unveil wide.npy -o earlier/out.npy": "X has 3 features, but GaussianMixture is expecting 2 .*; give the columns",
    "sample cut.unveil -o earlier/out.npy": "cut.unveil: damaged or not a model file .*; save or copy the model again",
    "report cut.unveil -o earlier/page.html": "cut.unveil: damaged or not a model file .*; save or copy the model again",
    "report hollow": "hollow/model.unveil: no such model file; check the name",
    "report m.unveil inf.npy -o earlier/page.html": INFINITE,
    SEPARATE.format("missing.wav"): "missing.wav: no such file; check the name",
    SEPARATE.format("empty.wav"): "empty.wav: the file is empty (0 bytes); record or export it again",
    SEPARATE.format(
        "text.wav"
    ): "text.wav: not a sound file that can be read (Format not recognised); expected WAV, FLAC, Ogg or MP3",
    SEPARATE.format("cut.wav"): "cut.wav: cut short, .* of .* bytes; copy the file again",
    SEPARATE.format("cut.flac"): "cut.flac: cannot be decoded (.*); record or export it again",
    SEPARATE.format("silent.wav"): "silent.wav: silent, every sample is zero; check the recording",
    SEPARATE.format("nan.wav"): "nan.wav: holds NaN or infinite samples; export it again",
    SEPARATE.format(
        "clipped.wav"
    ): "clipped.wav: clipped, .*% of its samples are cut off at full scale; record it at a lower level, or allow",
    WITH_SOURCE.format("missing"): "missing: no such file or folder; give a sound file or a folder of sound files",
    WITH_SOURCE.format("hollow"): "hollow: no sound files in it; expected names that end in .*.wav",
    WITH_SOURCE.format("silent.wav"): "silent.wav: silent, every sample is zero; check the recording",
    WITH_SOURCE.format("clipped.wav"): "clipped.wav: clipped, ",
    WITH_SOURCE.format("cut.wav"): "cut.wav: cut short, .* of .* bytes; copy the file again",
    WITH_SOURCE.format("text.wav"): "text.wav: not a sound file that can be read",
    "separate silent.wav --blind 2 -o earlier": "silent.wav: silent, every sample is zero; check the recording",
    "separate mix.wav --source low=low.wav -o earlier": "1 source is not a mixture; give clean examples of at least two",
    f"{SEPARATE.format('mix.wav')} --reference low=missing.wav --reference high=low.wav": "missing.wav: no such file; check the name",
    f"{SEPARATE.format('stereo.wav')} --reference low=low.wav --reference high=low.wav": "low.wav: channels: 1, and 2 in stereo.wav; give",
    "evaluate --reference true --estimate estimates": "estimates: no estimate named high; it holds low, give each the name of its",
    "evaluate --reference true --estimate missing": "missing: no such file or folder; give a sound file or a folder of sound files",
    "evaluate --reference hollow --estimate true": "hollow: no sound files in it; expected names that end in",
    # what a model cannot do, or not with this
    SYMBOLS: "column 0 of X holds nan; expected whole numbers from 0; code the categories, NaN too, as 0, 1, 2",
    CLASSES.format("points.npy", "few.csv"): "y has 3 labels for 100 items; give one for each, -1 where it is unknown",
    CLASSES.format("points.npy", "halves.csv"): "0.5 at row 1 of halves.csv is no whole number; give classes 0, 1, ..., and -1 for",
    CLASSES.format("points.npy", "points.csv"): "points.csv: has 2 columns; give one whole number a line, -1 where the class is",
    CLASSES.format("points.npy", "missing.csv"): "missing.csv: no such file or folder; check the name",
    "fit GaussianMixture points.npy -o earlier/model.unveil --labels labels.csv": "labels.csv: every class is known, .*; use GaussianMix",
    "fit GaussianMixture points.npy -o earlier/model.unveil --labels most.csv": "y holds 7 at item 0; expected 0, or -1 where it is unk",
    "impute nmf.unveil points.npy -o earlier/out.npy": "nmf.unveil: holds NMF, which has no way to fill what is missing; use one of .*PPCA",
    "transform mixture.unveil points.npy -o earlier/out.npy": "mixture.unveil: holds GaussianMixture, which has no latent variables",
    "filter mixture.unveil points.npy -o earlier/out.npy": f"which has no states that can be filtered; use one of {CHAINS}, Lin",
    "forecast ppca.unveil points.npy -o earlier/out.npy": f"ppca.unveil: holds PPCA, which has no forecasts; use one of {CHAINS}",
    "score mixture.unveil points.npy --steps": "mixture.unveil: holds GaussianMixture, which has no scores of single steps; use one of",
    "filter hmm.unveil points.npy -o earlier/out.npy": "X has 2 features, but HMM is expecting 1 .*; give the columns that it was",
    "forecast hmm.unveil points.npy --json": "X has 2 features, but HMM is expecting 1 .*; give the columns that it was fitted on",
    "impute lds.unveil inf.npy -o earlier/out.npy": INFINITE,
    "impute cut.unveil holed.npy -o earlier/out.npy": "cut.unveil: damaged or not a model file .*; save or copy the model again",
    "select GaussianMixture inf.npy --grid n_components=1:2 -o earlier": f"none of the 2 combinations can be fitted; .*{INFINITE}",
    "select HMM counts.npy --grid n_states=1:2 --criterion cv": "cv=5 but X has 1 sequences, and whole sequences are held out; give",
    # where the result cannot be
    "fit GaussianMixture points.npy -o low.wav/new": "cannot write low.wav/new: low.wav is not a folder, .*; choose another folder",
    "fit GaussianMixture points.npy -o earlier": "cannot write earlier: it is a folder; give the name of a file",
    "fit GaussianMixture points.npy -o earlier/new --report low.wav/p.html": "cannot write low.wav/p.html: low.wav is not a folder, ",
    "predict m.unveil points.npy -o low.wav/out.npy": "cannot write low.wav/out.npy: low.wav is not a folder, .*; choose another folder",
    "sample m.unveil -o low.wav/out.npy": "cannot write low.wav/out.npy: low.wav is not a folder, .*; choose another folder",
    "report m.unveil -o low.wav/p.html": "cannot write low.wav/p.html: low.wav is not a folder, .*; choose another folder",
    "cluster points.npy -k 2 -o low.wav": "cannot write low.wav/labels.csv: low.wav is not a folder, .*; choose another folder",
    "separate mix.wav --source low=low.wav --source high=highs -o low.wav/x": "cannot write low.wav/x/low.wav: .* is not a folder, ",
    "demo -o low.wav": "cannot write low.wav/mixture.wav: low.wav is not a folder, .*; choose another folder",
}

MISUSES = {
    "separate mix.wav --blind 2 --seconds 3 -o earlier": "--seconds: shortens the examples of --source, and --blind has none; leave it out",
    "separate mix.wav --blind 2 --reference low=low.wav -o earlier": "--reference: given 1 times for 2 sources; give one for each, or",
    "separate mix.wav --blind 2 --source low=low.wav -o earlier": "expected either --source, once for each source, or --blind",
    "separate mix.wav -o earlier": "expected either --source, once for each source, or --blind with the number of sources",
    "fit Mixture points.npy -o earlier/model.unveil": f"no model 'Mixture'; there are {ALL_MODELS}",
    f"{GAUSS.format('points.npy')} --set k=3": "GaussianMixture has no setting 'k'; it has .*n_components, ",
    f"{GAUSS.format('points.npy')} --set n_components": "--set n_components: expected KEY=VALUE, such as --set n_init=10",
    f"{GAUSS.format('points.npy')} --set n_components=0": "n_components=0: expected a whole number >= 1",
    f"{GAUSS.format('points.npy')} --set covariance_type=round": "covariance_type='round': expected one of 'full', 'tied', ",
    f"{GAUSS.format('points.npy')} --set random_state=-1": "random_state=-1: expected ",
    "cluster points.npy -k 2 -o earlier --set n_states=3": "GaussianMixture has no setting 'n_states'; it has ",
    "predict m.unveil points.npy -o out.xlsx": "--out out.xlsx: expected a name that ends in .npy or .csv",
    f"{SEPARATE.format('mix.wav')} --source low=highs": "--source low: given twice; put all examples of it into one folder",
    f"{SEPARATE.format('mix.wav')} --source ../up=highs": "--source ../up: the name becomes a file name; use letters and digits",
    f"{SEPARATE.format('mix.wav')} --source third": "--source third: expected NAME=PATH, such as --source flute=recordings/flute",
    f"{SEPARATE.format('mix.wav')} --reference third=low.wav": "--reference third: there is no --source of that name; expected one of low,",
    f"{SEPARATE.format('mix.wav')} --reference low=low.wav": "--reference: there is none for high, .*; give one for each source",
    f"{SEPARATE.format('mix.wav')} --model vae": "--model vae: expected nmf",
    "fit GaussianMixtureClassifier points.npy -o earlier/model.unveil": "GaussianMixtureClassifier learns classes from labels; give",
    "fit PPCA points.npy -o earlier/model.unveil --labels labels.csv": "--labels labels.csv: PPCA does not learn from labels; leave",
    "fit HMM counts.npy -o earlier/model.unveil --set emission=beta": "emission='beta': expected one of 'gaussian', ",
    "score hmm.unveil counts.npy --steps --each": "--each and --steps: scores of items or of steps, not both; leave one out",
    "forecast hmm.unveil counts.npy -o out.xlsx": "--out out.xlsx: expected a name that ends in .npy or .csv",
    "impute lds.unveil waves.npz -o out.wav": "--out out.wav: expected a name that ends in .npy, .csv or .npz",
    "select Mixture points.npy --grid n_components=1:2": "no model 'Mixture'; there are Autoencoder, CategoricalHMM, .*GaussianHMM, ",
    "select NMF points.npy --grid n_components=1:2 --set k=3": "NMF has no setting 'k'; it has ",
    f"{SELECT.format('n_components=1:2')} --criterion size": "--criterion='size': expected one of 'bic', 'aic', 'icl', 'cv'",
    SELECT.format("k=1:2"): "GaussianMixture has no setting 'k'; it has .*n_components, ",
    SELECT.format("n_components"): "--grid n_components: expected KEY=VALUES, such as --grid n_components=1:8 or cov",
    SELECT.format("n_components="): "--grid n_components=: expected KEY=VALUES, such as --grid n_components=1:8 or cov",
    SELECT.format("n_components=4:1"): "--grid n_components=4:1: there is nothing from 4 to 1; write 1:4",
    SELECT.format(
        "n_components=1:x"
    ): "--grid n_components=1:x: '1:x' is no range; expected two whole numbers FROM:TO, such as 1:8",
    SELECT.format("n_components=1:9:2"): "'1:9:2' is no range; expected two whole numbers FROM:TO, such as 1:8",
    SELECT.format("covariance_type=full,,diag"): "--grid covariance_type=full,,diag: a value is missing beside a comma; write it",
    f"{SELECT.format('tol=1')} --grid tol=2": "--grid tol=2: tol is given twice; write all its values in one list",
    "reproduce nothing -o earlier": "no experiment 'nothing'; there are .*spoken-digits",
    "data fetch nothing": "unknown data set 'nothing'; the known ones are notes, ",
    # what would destroy what it is made from
    "fit GaussianMixture points.npy -o points.npy": "points.npy: would be written over, and is needed as input; choose another --out",
    "impute mixture.unveil holed.npy -o holed.npy": "holed.npy: would be written over, and is needed as input; choose another --out",
    CLASSES.format("points.npy", "labels.csv").replace(
        "earlier/model.unveil", "labels.csv"
    ): "labels.csv: would be written over, and is",
    "predict m.unveil points.npy -o ./points.npy": "points.npy: would be written over, and is needed as input; choose another",
    "separate mix.wav --source low=low.wav --source high=highs -o .": "low.wav: would be written over, and is needed as input; choose",
    "separate mix.wav --source one=highs --source two=low.wav -o highs": "highs/one.wav: would be written over, and is needed as input",
    "separate low.wav --source low=true/low.wav --source x=highs -o .": "low.wav: would be written over, and is needed as input; choose",
}


@pytest.mark.parametrize(
    ("line", "message", "code"), [(*each, 1) for each in FAILS.items()] + [(*each, 2) for each in MISUSES.items()]
)
def test_one_line_says_what_and_where_and_the_remedy(ruins, unveil, line, message, code):
    before = contents(ruins)
    result = unveil(line)
    assert result.code == code, result
    assert result.out == ""
    assert result.err.startswith("unveil: ")
    assert result.err.count("\n") == 1
    assert re.search(re.escape(message).replace(re.escape(".*"), ".*"), result.err), result.err
    assert contents(ruins) == before


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("fly", ["No such command 'fly'"]),
        ("fit GaussianMixture points.npy", ["Missing option", "--out"]),
        ("fit GaussianMixture", ["Missing argument", "data"]),
        ("models --colour", ["No such option", "--colour"]),
        ("sample m.unveil -o new.npy -n 0", ["--number", "greater than or equal to 1"]),
        ("sample m.unveil -o new.npy --seed -1", ["--seed", "greater than or equal to 0"]),
        ("forecast hmm.unveil counts.npy --steps 0", ["--steps", "greater than or equal to 1"]),
        ("select GaussianMixture points.npy -o earlier", ["Missing option", "--grid"]),
        ("select GaussianMixture points.npy --grid n_components=1,2 --folds 1", ["--folds", "greater than or equal to 2"]),
        ("impute lds.unveil waves.npz", ["Missing option", "--out"]),
        ("cluster points.npy -k two", ["--clusters", "valid integer"]),
        ("fit NMF low.wav -o new.unveil --sample-rate 0", ["--sample-rate", "greater than or equal to"]),
        (f"{SEPARATE.format('mix.wav')} --atoms 0", ["--atoms", "greater than or equal to 1"]),
        (f"{SEPARATE.format('mix.wav')} --seconds -1", ["--seconds", "greater than or equal to"]),
    ],
)
def test_bad_usage_names_the_option(ruins, unveil, line, words):
    before = contents(ruins)
    result = unveil(line)
    assert (result.code, result.out) == (2, "")
    assert "Traceback" not in result.err
    told = " ".join(result.err.replace("│", " ").split())
    assert all(word in told for word in words), told
    assert contents(ruins) == before


@pytest.mark.parametrize(
    "line",
    [
        "fit GaussianMixture points.npy -o earlier/model.unveil",
        "predict m.unveil points.npy -o earlier/out.npy",
        "sample m.unveil -o earlier/out.npy",
        "impute mixture.unveil holed.npy -o earlier/out.npy",
        "forecast hmm.unveil counts.npy -o earlier/new.csv",
        "select GaussianMixture points.npy --grid n_components=1:2 -o earlier --json",
        "report m.unveil -o earlier/page.html",
        "cluster points.npy -k 2 --starts 1 -o earlier",
        SEPARATE.format("mix.wav"),
    ],
)
def test_a_full_disk_leaves_what_was_there(ruins, unveil, monkeypatch, line):
    before = contents(ruins)

    def fail(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    result = unveil(line)
    assert (result.code, result.out) == (1, "")
    assert re.fullmatch(r"unveil: cannot write earlier/\S+: the disk is full; free some space\n", result.err)
    assert contents(ruins) == before


def test_too_little_memory_is_said(ruins, unveil, monkeypatch):
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(GaussianMixture, "build", fail)
    result = unveil("fit GaussianMixture points.npy -o earlier/model.unveil")
    assert result.code == 1
    assert result.err == "unveil: not enough memory; use a smaller model, or data in a .npy file, which is read piece by piece\n"


def in_new_process(line, most_bytes=None):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))

    command = [sys.executable, "-m", "unveil.cli", *line.split()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, preexec_fn=limit if most_bytes else None)


def test_the_process_ends_with_one_line_and_its_exit_code(ruins):
    failed = in_new_process("fit GaussianMixture inf.npy -o new.unveil")
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr == f"unveil: Input X contains {INFINITE}\n"
    assert not Path("new.unveil").exists()
    assert in_new_process("fly").returncode == 2
    told = in_new_process("--version")
    assert (told.returncode, told.stderr) == (0, "")
    assert re.fullmatch(r"unveil \d+\.\d+\.\d+\n", told.stdout)


def test_a_write_that_really_fails_midway_leaves_nothing(ruins):
    before = contents(ruins)
    failed = in_new_process(SEPARATE.format("mix.wav"), most_bytes=16_000)
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr == "unveil: cannot write earlier: System error; see whether the disk is full\n"
    assert contents(ruins) == before
