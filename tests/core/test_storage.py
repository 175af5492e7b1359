"""Models in files: what is written comes back, and what is no model file is refused in one line."""

import json
import pickle
import zipfile

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from numpy.testing import assert_allclose, assert_array_equal

import unveil
from unveil.core.storage import FORMAT, read_model, write_model
from unveil.errors import ModelFileError
from unveil.models import load
from unveil.models.gaussian_mixture import GaussianMixture

HEADER = {"estimator": "Nothing", "parameters": {"a": [1, 2.5, None, "é"]}, "history": {"objective": [-1.5, float("nan")]}}


def tensors():
    return {"b": torch.arange(6.0, dtype=torch.float64).reshape(2, 3), "a": torch.tensor(3), "empty": torch.zeros(0, 2)}


@pytest.fixture
def fitted():
    X = np.random.default_rng(0).normal(size=(60, 2)) + np.repeat([[0.0], [9.0]], 30, axis=0)
    return GaussianMixture(n_components=2, random_state=0).fit(X), X


def refused(path, message, read=read_model):
    with pytest.raises(ModelFileError, match=message) as caught:
        read(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


# ---- there and back ------------------------------------------------------------------------------------------------------


def test_headers_and_tensors_come_back(tmp_path):
    write_model(tmp_path / "m", HEADER, tensors())
    header, back = read_model(tmp_path / "m")
    assert header["format"] == FORMAT
    assert header["parameters"] == HEADER["parameters"]
    assert header["history"]["objective"][0] == -1.5
    assert np.isnan(header["history"]["objective"][1])
    assert header["versions"]["torch"] == torch.__version__.split("+")[0] or header["versions"]["torch"] == torch.__version__
    assert set(back) == set(tensors())
    for name, tensor in tensors().items():
        assert torch.equal(back[name], tensor)
        assert back[name].dtype == tensor.dtype


def test_tensors_of_any_layout_come_back(tmp_path):
    transposed = torch.arange(6.0).reshape(2, 3).T
    write_model(tmp_path / "m", HEADER, {"t": transposed, "g": torch.ones(2, requires_grad=True)})
    back = read_model(tmp_path / "m")[1]
    assert torch.equal(back["t"], transposed)
    assert back["g"].tolist() == [1.0, 1.0]


def test_the_file_is_plain_safetensors(tmp_path):
    write_model(tmp_path / "m", HEADER, tensors())
    assert_array_equal(safetensors.torch.load_file(tmp_path / "m")["b"], tensors()["b"])
    assert not zipfile.is_zipfile(tmp_path / "m")


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    write_model(tmp_path / "m", HEADER, tensors())
    content = (tmp_path / "m").read_bytes()
    with pytest.raises(TypeError):
        write_model(tmp_path / "m", {"parameters": object()}, tensors())
    assert (tmp_path / "m").read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_fitted_estimator_comes_back(tmp_path, fitted):
    mixture, X = fitted
    mixture.save(tmp_path / "m")
    for back in (load(tmp_path / "m"), unveil.load(tmp_path / "m"), GaussianMixture.restore(tmp_path / "m")):
        assert type(back) is GaussianMixture
        assert back.get_params() == mixture.get_params()
        assert_allclose(back.score_samples(X), mixture.score_samples(X), rtol=0, atol=0)
        assert back.history_ == mixture.history_
        assert back.n_features_in_ == 2


def test_starting_values_come_back(tmp_path, fitted):
    _, X = fitted
    mixture = GaussianMixture(2, means_init=np.array([[0.0, 0.0], [9.0, 9.0]]), random_state=0).fit(X)
    mixture.save(tmp_path / "m")
    assert_array_equal(load(tmp_path / "m").means_init, [[0.0, 0.0], [9.0, 9.0]])


# ---- what is refused -----------------------------------------------------------------------------------------------------


def test_missing_and_foreign_files(tmp_path):
    refused(tmp_path / "m", "no such model file")
    refused(tmp_path, "no such model file")
    for content in (b"", b"hello", b"\xff" * 100, pickle.dumps([1, 2, 3])):
        (tmp_path / "m").write_bytes(content)
        refused(tmp_path / "m", "damaged or not a model file")


@pytest.mark.parametrize("share", [0.01, 0.3, 0.9, 0.999])
def test_files_cut_short(tmp_path, share):
    write_model(tmp_path / "m", HEADER, tensors())
    content = (tmp_path / "m").read_bytes()
    (tmp_path / "m").write_bytes(content[: int(len(content) * share)])
    refused(tmp_path / "m", "damaged or not a model file")


@pytest.mark.parametrize(
    "metadata", [None, {"other": "{}"}, {"unveil": "not json"}, {"unveil": "[]"}, {"unveil": "{}"}, {"unveil": "3"}]
)
def test_safetensors_of_others(tmp_path, metadata):
    safetensors.torch.save_file(tensors(), tmp_path / "m", metadata=metadata)
    refused(tmp_path / "m", "a safetensors file, but not one that Unveil wrote")


@pytest.mark.parametrize("number", [None, "1", [1], 0.5])
def test_formats_that_are_no_whole_number(tmp_path, number):
    safetensors.torch.save_file(tensors(), tmp_path / "m", metadata={"unveil": json.dumps({"format": number})})
    refused(tmp_path / "m", "not one that Unveil wrote")


def test_newer_formats(tmp_path):
    safetensors.torch.save_file(tensors(), tmp_path / "m", metadata={"unveil": json.dumps({"format": FORMAT + 1})})
    refused(tmp_path / "m", rf"newer Unveil \(format {FORMAT + 1} > {FORMAT}\); upgrade")


def rewritten(path, **changes):
    """The model file with other entries in its header."""
    header, state = read_model(path)
    header.update(changes)
    safetensors.torch.save_file(state, path, metadata={"unveil": json.dumps(header)})


def test_entries_that_a_later_version_may_add_do_no_harm(tmp_path, fitted):
    mixture, X = fitted
    mixture.save(tmp_path / "m")
    rewritten(tmp_path / "m", extra={"more": [1, 2]}, __class__="os.system")
    assert_allclose(load(tmp_path / "m").score_samples(X), mixture.score_samples(X), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["os.system", "Nothing", None, 3, "sklearn.mixture.GaussianMixture", ["GaussianMixture"]])
def test_estimators_that_are_not_here(tmp_path, fitted, name):
    fitted[0].save(tmp_path / "m")
    rewritten(tmp_path / "m", estimator=name)
    refused(tmp_path / "m", "which this version does not know; it knows .*GaussianMixture", load)


def test_an_estimator_of_another_class(tmp_path, fitted):
    fitted[0].save(tmp_path / "m")
    refused(tmp_path / "m", "holds a GaussianMixture, not a GaussianHMM", unveil.GaussianHMM.restore)


@pytest.mark.parametrize(
    "changes",
    [
        {"parameters": {"n_components": 2, "unknown": 1}},
        {"parameters": {"n_components": 3}},
        {"parameters": {"n_components": 2, "covariance_type": "round"}},
        {"parameters": None},
        {"n_features": 7},
        {"n_features": "two"},
        {"history": {"objective": [], "unknown": 1}},
        {"history": None},
    ],
)
def test_contents_that_do_not_fit_the_estimator(tmp_path, fitted, changes):
    fitted[0].save(tmp_path / "m")
    rewritten(tmp_path / "m", **changes)
    refused(tmp_path / "m", "its contents do not fit a GaussianMixture", load)


def test_tensors_that_are_missing_or_too_many(tmp_path, fitted):
    fitted[0].save(tmp_path / "m")
    header, state = read_model(tmp_path / "m")
    for changed in ({**state, "model.more": torch.zeros(1)}, dict(list(state.items())[1:])):
        write_model(tmp_path / "m", header, changed)
        refused(tmp_path / "m", "its contents do not fit a GaussianMixture", load)


def test_nothing_is_unpickled(tmp_path, fitted, monkeypatch):
    def fail(*arguments, **options):
        pytest.fail("something was unpickled")

    fitted[0].save(tmp_path / "m")
    torch.save({"model.means": torch.zeros(2)}, tmp_path / "torch")
    for place in ("pickle.load", "pickle.loads", "pickle.Unpickler", "torch.load"):
        monkeypatch.setattr(place, fail)
    load(tmp_path / "m")
    refused(tmp_path / "torch", "damaged or not a model file", load)


def test_parameters_that_a_file_cannot_hold_are_refused(tmp_path, fitted):
    mixture, _ = fitted
    mixture.set_params(weights_init=lambda: None)
    with pytest.raises(ModelFileError, match="cannot save the parameter weights_init"):
        mixture.save(tmp_path / "m")
    assert list(tmp_path.iterdir()) == []
