"""Neural models on the command line: trainings that are cut off and resumed, codes, samples, and sounds that are said again."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.testing import assert_allclose, assert_array_equal

import unveil as library

SETTINGS = "--set n_latent=1 --set hidden=8 --set batch_size=16 --set random_state=0"
FIT = f"fit VAE points.npy -o m.unveil {SETTINGS} --set max_epochs=3"


def same_models(first, second):
    mine, theirs = (library.load(each).model_.state_dict() for each in (first, second))
    for name in mine:
        assert_array_equal(mine[name], theirs[name], err_msg=name)


def test_fit_tells_the_loss_and_leaves_nothing_but_the_model(with_models, unveil):
    before = set(os.listdir())
    told = unveil(FIT)
    assert told.code == 0
    assert "VAE: stopped after 3 epochs" in told.out
    assert "whose model is kept; saved to m.unveil" in told.out
    assert "held-out loss" in told.out
    assert "epoch 1/3" in told.err
    assert "KL" in told.err
    assert set(os.listdir()) == before | {"m.unveil"}
    facts = unveil(f"{FIT} --json").json
    assert {"loss", "reconstruction", "KL", "held-out loss"} <= facts["parts"].keys()
    assert_allclose(facts["objective"], -facts["parts"]["loss"], rtol=1e-12, atol=0)


def test_codes_and_back_and_samples_and_page(with_models, unveil):
    unveil(FIT)
    model, points = library.load("m.unveil"), np.load("points.npy")
    assert unveil("transform m.unveil points.npy -o codes.npy").code == 0
    assert_allclose(np.load("codes.npy"), model.transform(points), rtol=1e-6, atol=0)
    assert unveil("reconstruct m.unveil points.npy -o again.csv").code == 0
    assert_allclose(np.loadtxt("again.csv", delimiter=","), model.reconstruct(points), rtol=1e-6, atol=0)
    assert unveil("sample m.unveil -o new.npy -n 7 --seed 1").code == 0
    assert np.load("new.npy").shape == (7, 2)
    assert unveil("report m.unveil points.npy -o page.html").code == 0
    assert "Latent variables" in Path("page.html").read_text(encoding="utf-8")
    unveil("fit PPCA points.npy -o linear.unveil --set n_components=1")
    told = unveil("reconstruct linear.unveil points.npy -o again.csv")
    assert told.code == 1
    assert "holds PPCA, which has no decoder to say rows again with; use one of Autoencoder" in told.err


LEARN = "import sys; from unveil.cli import main; import unveil.learn.training as t; t.SECONDS_BETWEEN_CHECKPOINTS = 0.0; main()"


def test_training_that_was_killed_is_resumed(with_models, unveil):
    settings = SETTINGS.split()
    long = ["fit", "VAE", "points.npy", "-o", "m.unveil", *settings, "--set", "max_epochs=1000000", "--set", "patience=None"]
    process = subprocess.Popen(
        [sys.executable, "-c", LEARN, *long], stderr=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    while not Path("m.unveil.training/log.jsonl").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not Path("m.unveil").exists()
    short = f"fit VAE points.npy -o m.unveil {SETTINGS} --set patience=None --set max_epochs="
    done = len(Path("m.unveil.training/log.jsonl").read_text().splitlines())
    told = unveil(f"{short}{done + 5}")
    assert told.code == 2
    assert "m.unveil.training: holds a training that was cut off; add --resume" in told.err
    told = unveil(f"{short}{done + 5} --resume")
    assert told.code == 0
    assert not Path("m.unveil.training").exists()
    unveil(f"fit VAE points.npy -o whole.unveil {SETTINGS} --set patience=None --set max_epochs={done + 5}")
    same_models("m.unveil", "whole.unveil")


def test_checkpoint_that_was_asked_for_stays(with_models, unveil):
    assert unveil(f"{FIT} --checkpoint kept").code == 0
    log = [json.loads(line) for line in Path("kept/log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in log] == [1, 2, 3]
    assert unveil(f"{FIT.replace('max_epochs=3', 'max_epochs=5')} --checkpoint kept --resume").code == 0
    unveil(f"{FIT.replace('max_epochs=3', 'max_epochs=5').replace('m.unveil', 'whole.unveil')}")
    same_models("m.unveil", "whole.unveil")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (f"{FIT} --resume", "m.unveil.training: there is no training to resume"),
        ("fit PPCA points.npy -o m.unveil --resume", "PPCA does not learn in epochs"),
        ("fit PPCA points.npy -o m.unveil --checkpoint kept", "PPCA does not learn in epochs"),
        ("fit PPCA points.npy -o m.unveil --validation points.npy", "PPCA does not learn in epochs"),
        (f"{FIT} --set likelihood=bernoulli", "likelihood='bernoulli'"),
        (f"{FIT} --set n_latent=3", "n_latent=3 but X has 2 features"),
        (f"{FIT} --set hidden=x", "hidden='x': expected a whole number"),
        (f"{FIT} --tensorboard points.npy/events", "points.npy"),
    ],
)
def test_wrong_use_is_one_line_and_leaves_nothing(with_models, unveil, line, said):
    told = unveil(line)
    assert told.code in (1, 2)
    assert said in told.err
    assert len(told.err.strip().splitlines()) == 1
    assert not Path("m.unveil").exists()


def test_validation_data_is_looked_at(with_models, unveil):
    np.save("other.npy", np.load("points.npy") + 100)
    far = unveil(f"{FIT} --validation other.npy --json").json["parts"]["held-out loss"]
    near = unveil(f"{FIT} --validation points.npy --json").json["parts"]["held-out loss"]
    assert far > near + 10


def test_tensorboard_gets_events(with_models, unveil):
    assert unveil(f"{FIT} --tensorboard events").code == 0
    assert any(path.name.startswith("events") for path in Path("events").iterdir())


def test_sound_is_said_again(with_models, unveil):
    told = unveil("resynthesize mix.wav -o said --model VAE --set n_latent=2 --set hidden=16 --set max_epochs=60 --json")
    assert told.code == 0
    assert {"STOI", "SI-SDR", "Hoyer sparsity"} <= told.json["scores"].keys()
    again, rate = soundfile.read("said/resynthesized.wav")
    original, _ = soundfile.read("mix.wav")
    assert rate == 8000
    assert again.shape == original.shape
    assert np.corrcoef(again, original)[0, 1] > 0.9
    assert "Said again" in Path("said/report.html").read_text(encoding="utf-8")
    fitted = unveil("resynthesize mix.wav -o twice --model said/model.unveil --json")
    assert fitted.json["scores"] == pytest.approx(told.json["scores"], rel=1e-6)
    assert not Path("twice/model.unveil").exists()
    soundfile.write("other.wav", np.stack([original, original], 1), 11025)
    assert unveil("resynthesize other.wav -o other --model said/model.unveil").code == 0  # at a rate that is not the model's
    again, rate = soundfile.read("other/resynthesized.wav")
    assert (again.shape, rate) == ((len(original), 2), 11025)
    assert unveil("transform said/model.unveil mix.wav -o codes.npy --sample-rate 8000").code == 0
    assert np.load("codes.npy").shape[1] == 2


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("resynthesize mix.wav -o said --model Nothing", "no model 'Nothing'"),
        ("resynthesize mix.wav -o said --model GaussianMixture", "--model GaussianMixture: expected a model of power spectra"),
        ("resynthesize none.wav -o said", "none.wav"),
        ("resynthesize mix.wav -o said --model none.unveil", "none.unveil: no such model file"),
        ("resynthesize mix.wav -o said --set n_atomz=3", "has no setting 'n_atomz'"),
    ],
)
def test_what_cannot_be_said_again(with_models, unveil, line, said):
    told = unveil(line)
    assert told.code in (1, 2)
    assert said in told.err
    assert len(told.err.strip().splitlines()) == 1
    assert not Path("said/resynthesized.wav").exists()


def test_parts_of_a_model_are_set_by_name(with_models, unveil):
    line = (
        "fit ImplicitModel sequences.npz -o m.unveil --set base=GaussianHMM --set base__n_states=2 --set autoencoder__max_epochs=2"
    )
    assert unveil(f"{line} --set autoencoder__n_latent=1 --set autoencoder__hidden=8 --set random_state=0").code == 0
    model = library.load("m.unveil")
    assert (type(model.base).__name__, model.base.n_states, model.autoencoder.max_epochs) == ("GaussianHMM", 2, 2)
    for wrong, said in (("base=Nothing", "no such model"), ("base__n_atoms=3", "GaussianMixture has no setting 'n_atoms'")):
        told = unveil(f"fit ImplicitModel points.npy -o n.unveil --set {wrong}")
        assert told.code == 2
        assert said in told.err
