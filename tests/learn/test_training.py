"""Learning in epochs: it goes on from a checkpoint as if it had never stopped, notices what is not finite, and stops when it should."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

import unveil.data.minibatches
import unveil.learn.training
from unveil.core.storage import read_model
from unveil.errors import ConvergenceWarning, InputError, ModelFileError, ParameterError
from unveil.learn.checkpoint import FILE, LOG
from unveil.models.autoencoder import Autoencoder
from unveil.models.vae import VAE

SETTINGS = {"hidden": 8, "batch_size": 16, "learning_rate": 1e-2, "random_state": 0, "patience": None}


class Stop(Exception):
    """What a test stops a training with."""


def data(n=200, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 2)) @ rng.normal(size=(2, 5)) + 0.1 * rng.normal(size=(n, 5))


def numbers_of(estimator):
    return {name: value.numpy().copy() for name, value in estimator.model_.state_dict().items()}


def assert_same(first, second):
    mine, theirs = numbers_of(first), numbers_of(second)
    assert mine.keys() == theirs.keys()
    for name in mine:
        assert_array_equal(mine[name], theirs[name], err_msg=name)
    assert first.history_.objective == second.history_.objective
    assert first.history_.parts == second.history_.parts


def stop_after(n_steps, monkeypatch):
    """Raise Stop at a step of the descent, as a process that is killed ends there."""
    from unveil.learn.sgd import Descent

    done, step = [], Descent.step

    def counted(self, batch, epoch):
        if len(done) == n_steps:
            raise Stop
        done.append(epoch)
        return step(self, batch, epoch)

    monkeypatch.setattr(Descent, "step", counted)


@pytest.mark.parametrize("n_steps", [3, 12, 24, 30])
@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_resumed_is_uninterrupted_bit_for_bit(tmp_path, n_steps, schedule):
    """An epoch has 12 steps: the training is stopped within the first, at its end, and later."""
    settings = SETTINGS | {"max_epochs": 4, "schedule": schedule}
    straight = VAE(2, **settings).fit(data())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unveil.learn.training, "SECONDS_BETWEEN_CHECKPOINTS", -1.0)
        stop_after(n_steps, patch)
        with pytest.raises(Stop):
            VAE(2, **settings).fit(data(), checkpoint=tmp_path)
    resumed = VAE(2, **settings).fit(data(), checkpoint=tmp_path)
    assert_same(resumed, straight)
    again = VAE(2, **settings).fit(data(), checkpoint=tmp_path)  # there is nothing left to do
    assert_same(again, straight)


def test_longer_training_goes_on_from_a_finished_one(tmp_path):
    VAE(2, **SETTINGS, max_epochs=2).fit(data(), checkpoint=tmp_path)
    longer = VAE(2, **SETTINGS, max_epochs=5).fit(data(), checkpoint=tmp_path)
    assert_same(longer, VAE(2, **SETTINGS, max_epochs=5).fit(data()))


def test_log_has_a_line_for_each_epoch(tmp_path):
    VAE(2, **SETTINGS, max_epochs=3).fit(data(), checkpoint=tmp_path)
    lines = [json.loads(line) for line in (tmp_path / LOG).read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert {"loss", "reconstruction", "KL", "held-out loss", "seconds", "waiting"} <= lines[0].keys()


KILLED = """
import sys, numpy as np
import unveil.learn.training
from unveil.models.vae import VAE
unveil.learn.training.SECONDS_BETWEEN_CHECKPOINTS = 0.0
rng = np.random.default_rng(0)
X = rng.normal(size=(200, 2)) @ rng.normal(size=(2, 5)) + 0.1 * rng.normal(size=(200, 5))
print("ready", flush=True)
VAE(2, hidden=8, batch_size=16, learning_rate=1e-2, random_state=0, patience=None, max_epochs=1000000).fit(X, checkpoint=sys.argv[1])
"""


@pytest.mark.parametrize("repeat", [0, *(pytest.param(i, marks=pytest.mark.slow) for i in range(1, 10))])
def test_killed_at_a_random_moment_goes_on(tmp_path, repeat):
    """SIGKILL while a checkpoint is written in every step: there is always a whole one, and it is that of an uninterrupted run."""
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, tmp_path], stdout=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    process.stdout.readline()
    while not (tmp_path / FILE).exists():
        time.sleep(0.01)
    time.sleep(0.3 * np.random.default_rng(repeat).random())
    process.send_signal(signal.SIGKILL)
    process.wait()
    reached = read_model(tmp_path / FILE)[0]["state"]
    epoch = dict(dict(reached["dict"])["progress"]["dict"])["epoch"]
    settings = SETTINGS | {"max_epochs": epoch + 2}
    resumed = VAE(2, **settings).fit(data(), checkpoint=tmp_path)
    assert_same(resumed, VAE(2, **settings).fit(data()))
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".safetensors"] == [FILE]


def test_checkpoint_of_another_training_is_refused(tmp_path):
    VAE(2, **SETTINGS, max_epochs=1).fit(data(), checkpoint=tmp_path)
    before = (tmp_path / FILE).read_bytes()
    for estimator, X, match in (
        (VAE(3, **SETTINGS, max_epochs=1), data(), "n_latent=2, not 3; give the same settings"),
        (Autoencoder(2, **SETTINGS, max_epochs=1), data(), "of estimator VAE, not Autoencoder"),
        (VAE(2, **SETTINGS, max_epochs=1), data(199), r"of data \[200, 200, 5, \d+\], not \[199, 199, 5, \d+\]"),
    ):
        with pytest.raises(ModelFileError, match=match) as raised:
            estimator.fit(X, checkpoint=tmp_path)
        assert "\n" not in str(raised.value)
    assert (tmp_path / FILE).read_bytes() == before
    VAE(2, **SETTINGS, max_epochs=1).fit(data()).save(tmp_path / FILE)
    with pytest.raises(ModelFileError, match="not a checkpoint of a training"):
        VAE(2, **SETTINGS, max_epochs=1).fit(data(), checkpoint=tmp_path)
    (tmp_path / FILE).write_bytes(before[: len(before) // 2])
    with pytest.raises(ModelFileError, match="damaged"):
        VAE(2, **SETTINGS, max_epochs=1).fit(data(), checkpoint=tmp_path)


def test_folder_that_cannot_be_written_is_refused_before_learning(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("unveil.learn.sgd.train", lambda *arguments, **options: pytest.fail("it learned"))
    with pytest.raises(InputError, match="cannot"):
        VAE(2, **SETTINGS, max_epochs=1).fit(data(), checkpoint=tmp_path / "file")


def test_full_disk_is_told_and_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    """/dev/full stands for a disk with no space left."""
    VAE(2, **SETTINGS, max_epochs=1).fit(data(), checkpoint=tmp_path)
    before = (tmp_path / FILE).read_bytes()

    def to_a_full_disk(self, payload):
        with open("/dev/full", "wb") as file:
            file.write(payload)

    monkeypatch.setattr("pathlib.Path.write_bytes", to_a_full_disk)
    with pytest.raises(InputError, match=r"No space left on device|full"):
        VAE(2, **SETTINGS, max_epochs=3).fit(data(), checkpoint=tmp_path)
    assert (tmp_path / FILE).read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([FILE, LOG])


def test_models_that_do_not_learn_in_epochs_say_so(tmp_path):
    from unveil.models.ppca import PPCA

    for options in ({"checkpoint": tmp_path}, {"validation": data()}, {"callbacks": [print]}):
        with pytest.raises(InputError, match="does not learn in epochs"):
            PPCA().fit(data(), **options)


def test_loss_that_is_not_finite_names_the_item():
    X = data()
    X[137] = 3e19  # whose square is more than single precision holds
    with pytest.raises(InputError, match=r"the loss became (inf|nan) in epoch 1, minibatch \d+, of item 137; lower"):
        Autoencoder(2, **SETTINGS, max_epochs=2, validation_fraction=0.0).fit(X)


def test_loss_that_diverges_later_goes_back_to_the_last_good_epoch(monkeypatch):
    """A step that ruins the parameters in the third epoch: the model is that of the end of the second."""
    from unveil.learn.sgd import Descent

    step, done = Descent.step, []

    def ruined(self, batch, epoch):
        if len(done) == 30:
            with torch.no_grad():
                next(self.model.parameters()).fill_(torch.nan)
        done.append(epoch)
        return step(self, batch, epoch)

    settings = SETTINGS | {"validation_fraction": 0.0, "batch_size": 16}
    expected = VAE(2, **settings, max_epochs=2).fit(data())
    monkeypatch.setattr(Descent, "step", ruined)
    with pytest.warns(
        ConvergenceWarning, match="epoch 3, minibatch 5.*infinite parameters; learning stopped with the model of epoch 2"
    ):
        stopped = VAE(2, **settings, max_epochs=9).fit(data())
    assert len(stopped.history_.objective) == 2
    mine, theirs = numbers_of(stopped), numbers_of(expected)
    for name in mine:
        assert_array_equal(mine[name], theirs[name], err_msg=name)


def test_best_is_a_copy_and_patience_ends_learning():
    """With a learning rate that ruins what was learned, the model is left as it was when held-out data liked it best."""
    seen = []

    def remember(epoch):
        seen.append({name: value.clone() for name, value in epoch.model.state_dict().items() if "layers" in name})

    estimator = VAE(2, **SETTINGS | {"learning_rate": 0.3, "patience": 3}, max_epochs=60).fit(data(), callbacks=[remember])
    held_out = estimator.history_.parts["held-out loss"]
    best = int(np.argmin(held_out))
    assert estimator.history_.converged
    assert len(held_out) == best + 1 + 3
    for name, value in seen[best].items():
        assert torch.equal(value, estimator.model_.state_dict()[name]), name
    assert not all(torch.equal(value, estimator.model_.state_dict()[name]) for name, value in seen[-1].items())


def test_callback_stops_learning():
    estimator = VAE(2, **SETTINGS, max_epochs=9).fit(data(), callbacks=[lambda epoch: epoch.number == 1])
    assert len(estimator.history_.objective) == 2


def test_validation_that_is_given_replaces_a_part_of_the_data():
    given = VAE(2, **SETTINGS, max_epochs=2).fit(data(), validation=data(50, seed=1))
    other = VAE(2, **SETTINGS, max_epochs=2).fit(data(), validation=data(50, seed=2))
    assert given.history_.parts["loss"] == other.history_.parts["loss"]
    assert given.history_.parts["held-out loss"] != other.history_.parts["held-out loss"]
    with pytest.raises(InputError, match="4 features"):
        VAE(2, **SETTINGS, max_epochs=2).fit(data(), validation=data()[:, :4])


def test_gradient_is_clipped():
    from unveil.data.batch import Batch
    from unveil.learn.sgd import Descent, seeded

    model = Autoencoder(2, hidden=()).build(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.5)
    before = torch.cat([parameter.detach().flatten() for parameter in model.parameters()]).clone()
    descent = Descent(model, torch.optim.SGD(model.parameters(), 1.0), seeded(0), clip_norm=0.01)
    descent.step(Batch(torch.ones(4, 5), torch.arange(5)), 0.0)
    after = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    assert_allclose((after - before).norm().item(), 0.01, rtol=1e-4, atol=0)


def test_gpu_that_is_not_there():
    if torch.cuda.is_available():
        VAE(2, **SETTINGS, max_epochs=1, device="cuda").fit(data())
        return
    with pytest.raises(ParameterError, match="no GPU"):
        VAE(2, **SETTINGS, max_epochs=1, device="cuda").fit(data())


def test_bfloat16_learns():
    estimator = VAE(2, **SETTINGS, max_epochs=20, precision="bfloat16").fit(data())
    full = VAE(2, **SETTINGS, max_epochs=20).fit(data())
    assert estimator.model_.dtype is torch.float32
    assert_allclose(estimator.score(data()), full.score(data()), rtol=0, atol=0.5)


SHARED = """
import sys, numpy as np, torch, warnings
from unveil.models.autoencoder import Autoencoder
warnings.simplefilter("ignore")
rng = np.random.default_rng(0)
X = rng.normal(size=(203, 2)) @ rng.normal(size=(2, 5)) + 0.1 * rng.normal(size=(203, 5))
settings = {"hidden": 8, "batch_size": 16, "learning_rate": 1e-2, "random_state": 0, "max_epochs": 3, "dtype": "float64"}
model = Autoencoder(2, **settings).fit(X, checkpoint=sys.argv[1])
model.save(sys.argv[2] + __import__("os").environ.get("RANK", "0"))
"""


@pytest.mark.slow
def test_two_processes_learn_what_one_does(tmp_path):
    """As torchrun starts them; an odd number of items leaves minibatches that do not divide evenly."""
    import unveil

    common = os.environ | {"OMP_NUM_THREADS": "1"}
    common = {name: value for name, value in common.items() if name not in ("RANK", "WORLD_SIZE")}
    subprocess.run([sys.executable, "-c", SHARED, tmp_path / "one", str(tmp_path / "alone")], check=True, env=common)
    (tmp_path / "learn.py").write_text(SHARED)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", tmp_path / "learn.py"]
    subprocess.run([*launch, tmp_path / "two", str(tmp_path / "shared")], check=True, env=common, capture_output=True)
    alone, first, second = (unveil.load(tmp_path / name) for name in ("alone0", "shared0", "shared1"))
    for name, expected in numbers_of(alone).items():
        assert_array_equal(numbers_of(first)[name], numbers_of(second)[name], err_msg=name)
        assert_allclose(numbers_of(first)[name], expected, rtol=1e-8, atol=1e-10, err_msg=name)
    assert_allclose(first.history_.objective, alone.history_.objective, rtol=1e-8, atol=0)
    assert len((tmp_path / "two" / LOG).read_text().splitlines()) == 3


def test_small_file_is_read_into_memory_and_a_large_one_is_streamed(tmp_path, monkeypatch):
    np.save(tmp_path / "X.npy", data(1000))
    settings = SETTINGS | {"max_epochs": 8}
    in_memory = VAE(2, **settings).fit(data(1000))
    assert_same(VAE(2, **settings).fit(unveil.open_batches(tmp_path / "X.npy")), in_memory)
    monkeypatch.setattr(unveil.data.minibatches, "IN_MEMORY_BYTES", 0)
    monkeypatch.setattr(unveil.data.minibatches, "BLOCK_BYTES", 8 * 5 * 200)
    streamed = VAE(2, **settings).fit(unveil.open_batches(tmp_path / "X.npy"))
    assert_allclose(streamed.score(data(1000)), in_memory.score(data(1000)), rtol=0, atol=1.0)
    assert streamed.score(data(1000)) > VAE(2, **settings | {"max_epochs": 1}).fit(data(1000)).score(data(1000)) + 1.0
    assert 0 <= streamed.history_.waiting < 1
    assert_same(VAE(2, **settings).fit(unveil.open_batches(tmp_path / "X.npy")), streamed)


@pytest.mark.gpu
@pytest.mark.parametrize("architecture", ["mlp", "recurrent"])
def test_gpu_learns_what_the_cpu_learns(architecture):
    """Random numbers differ, so the scores are compared; and the model comes back to where the data is."""
    X = data().reshape(20, 10, 5) if architecture == "recurrent" else data()
    settings = SETTINGS | {"max_epochs": 40, "architecture": architecture, "batch_size": 4 if architecture == "recurrent" else 16}
    on_gpu, on_cpu = (VAE(2, **settings, device=device).fit(X) for device in ("cuda", "cpu"))
    assert next(on_gpu.model_.parameters()).device.type == "cpu"
    n_steps = 10 if architecture == "recurrent" else 1
    assert_allclose(on_gpu.score(X) / n_steps, on_cpu.score(X) / n_steps, rtol=0, atol=0.5)
    resident = torch.from_numpy(X).cuda()
    assert on_gpu.transform(resident).device.type == "cuda"


def test_step_on_a_loss_that_is_not_finite_changes_nothing():
    from unveil.data.batch import Batch
    from unveil.learn.sgd import Descent, seeded

    model = Autoencoder(2, **SETTINGS, max_epochs=1).fit(data()).model_
    before = {name: value.clone() for name, value in model.state_dict().items()}
    descent = Descent(model, torch.optim.SGD(model.parameters(), 1.0), seeded(0))
    parts = descent.step(Batch(torch.full((4, 5), 1e25), torch.arange(5)), 0.0)
    assert not np.isfinite(parts["loss"])
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_checkpoint_of_other_data_or_weights_is_refused(tmp_path):
    VAE(2, **SETTINGS, max_epochs=1).fit(data(), checkpoint=tmp_path)
    for X, weights in ((data() + 1e-3, None), (data(seed=1), None), (data(), np.arange(1.0, 201.0))):
        with pytest.raises(ModelFileError, match="a checkpoint of data"):
            VAE(2, **SETTINGS, max_epochs=2).fit(X, sample_weight=weights, checkpoint=tmp_path)


@pytest.fixture
def interruptible():
    """As in a terminal: a process in the background ignores Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("how", ["Ctrl-C", "callback"])
def test_interrupted_training_is_kept(tmp_path, how):
    """What was learned until then, however short the time: it goes on from there as if nothing had been."""

    def interrupt(epoch):
        if epoch.number == 2:
            if how == "callback":
                raise Stop
            os.kill(os.getpid(), signal.SIGINT)

    settings = SETTINGS | {"max_epochs": 6}
    with pytest.raises(Stop if how == "callback" else KeyboardInterrupt):
        VAE(2, **settings).fit(data(), checkpoint=tmp_path, callbacks=interrupt)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert_same(VAE(2, **settings).fit(data(), checkpoint=tmp_path), VAE(2, **settings).fit(data()))
    log = [json.loads(line)["epoch"] for line in (tmp_path / LOG).read_text().splitlines()]
    assert log == [1, 2, 3, 4, 5, 6]
