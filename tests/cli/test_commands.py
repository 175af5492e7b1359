"""Every command does what it says, and its numbers are those of the library and of others."""

import functools
import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import multivariate_normal

import unveil as library
from unveil.audio import duet
from unveil.audio import separate as separation
from unveil.cli import output
from unveil.errors import IdentifiabilityWarning
from unveil.models import discover
from unveil.models.nmf import NMF

GROUPS = np.repeat([0, 1], [60, 40])
FIT = "fit GaussianMixture points.npy -o m.unveil --set n_components=2 --set random_state=0"


@pytest.fixture
def fitted(here, unveil):
    assert unveil(FIT).code == 0
    return library.load("m.unveil")


def same_partition(labels, truth):
    labels, truth = np.asarray(labels), np.asarray(truth)
    return len({*zip(labels.tolist(), truth.tolist(), strict=True)}) == len(set(truth.tolist())) == len(set(labels.tolist()))


def log_density(mixture, points):
    """The log-density of a Gaussian mixture, by scipy."""
    parts = zip(mixture.weights_, mixture.means_, mixture.covariances_, strict=True)
    return np.log(sum(w * multivariate_normal(mean, covariance).pdf(points) for w, mean, covariance in parts))


def test_fit_saves_a_model_and_says_how_it_went(here, unveil):
    result = unveil(f"{FIT} --json --report page.html")
    facts = result.json
    model = library.load(facts["file"])
    assert (result.code, result.err) == (0, "")
    assert facts["model"] == type(model).__name__ == "GaussianMixture"
    assert facts["converged"] is True
    assert facts["iterations"] == model.n_iter_
    points = np.load("points.npy")
    assert_allclose(facts["objective"], log_density(model, points).mean(), rtol=0, atol=1e-3)  # before the last step
    assert_allclose(np.sort(model.weights_), [0.4, 0.6], rtol=0, atol=1e-6)
    page = (here / "page.html").read_text(encoding="utf-8")
    assert "unveil fit GaussianMixture points.npy" in page
    told = unveil(FIT)
    assert (told.code, told.err) == (0, "")
    assert told.out.startswith("GaussianMixture: converged after ")
    assert told.out.endswith("nats per point; saved to m.unveil\n")


def test_settings_are_numbers_lists_or_words(here, unveil):
    line = "fit GaussianMixture points.csv -o m.unveil --set n_components=2 --set covariance_type=tied --set tol=0.01"
    assert unveil(f"{line} --set 'means_init=[[0, 0], [8, 8]]'").code == 0
    model = library.load("m.unveil")
    assert (model.covariance_type, model.tol) == ("tied", 0.01)
    assert_allclose(model.means_, [[0, 0], [8, 8]], rtol=0, atol=0.6)


def test_predict_names_the_group_of_each_item(fitted, unveil):
    printed = unveil("predict m.unveil points.npy")
    assert (printed.code, printed.err) == (0, "")
    labels = [int(line) for line in printed.out.splitlines()]
    assert same_partition(labels, GROUPS)
    assert unveil("predict m.unveil points.npy -o labels.csv").out == ""
    assert [int(line) for line in Path("labels.csv").read_text().splitlines()] == labels
    unveil("predict m.unveil points.npy -o labels.npy")
    assert_array_equal(np.load("labels.npy"), labels)
    unveil("predict m.unveil points.npy --proba -o proba.npy")
    probabilities = np.load("proba.npy")
    assert_allclose(probabilities.sum(1), np.ones(100), rtol=0, atol=1e-12)
    assert_array_equal(probabilities.argmax(1), labels)
    unveil("predict m.unveil points.npy --proba -o proba.csv")
    assert_allclose(np.loadtxt("proba.csv", delimiter=","), probabilities, rtol=1e-9, atol=1e-300)


def test_score_is_the_mean_log_likelihood(fitted, unveil):
    expected = log_density(fitted, np.load("points.npy"))
    facts = unveil("score m.unveil points.npy --json").json
    assert facts["n_items"] == 100
    assert "scores" not in facts
    assert_allclose(facts["score"], expected.mean(), rtol=1e-9, atol=0)
    assert_allclose(unveil("score m.unveil points.npy --json --each").json["scores"], expected, rtol=1e-9, atol=0)
    assert unveil("score m.unveil points.npy").out == f"{expected.mean():.6f} nats per item, 100 items\n"
    printed = unveil("score m.unveil points.npy --each").out
    assert_allclose([float(line) for line in printed.splitlines()], expected, rtol=1e-8, atol=0)


def test_sample_draws_from_the_model(fitted, unveil):
    told = unveil("sample m.unveil -o new.npy -n 4000 --seed 3")
    assert (told.out, told.err) == ("Wrote 4000 points to new.npy\n", "")
    new = np.load("new.npy")
    mean = fitted.weights_ @ fitted.means_
    assert_allclose(new.mean(0), mean, rtol=0, atol=5 * 4.1 / np.sqrt(4000))  # five standard errors
    unveil("sample m.unveil -o again.csv -n 4000 --seed 3")
    assert_allclose(np.loadtxt("again.csv", delimiter=","), new, rtol=1e-9, atol=1e-9)
    unveil("sample m.unveil -o other.npy -n 4000 --seed 4")
    assert np.abs(np.load("other.npy") - new).max() > 1


def test_sequences_are_fitted_predicted_and_sampled(here, unveil):
    line = "fit MixtureOfHMMs sequences.npz -o m.unveil --set n_clusters=2 --set n_states=2 --set n_init=3 --set random_state=0"
    assert unveil(line).code == 0
    clusters = [int(line) for line in unveil("predict m.unveil sequences.npz").out.splitlines()]
    assert same_partition(clusters, np.arange(12) % 2)
    paths = unveil("predict m.unveil sequences.npz --states").out.splitlines()
    assert len(paths) == sum(20 + i for i in range(12))
    assert unveil("score m.unveil sequences.npz --json").json["n_items"] == 12
    told = unveil("sample m.unveil -o new.npy -n 5 --length 30 --seed 1")
    assert told.out == "Wrote 5 sequences of 30 steps to new.npy\n"
    assert np.load("new.npy").shape == (5, 30, 1)


def test_points_are_clustered(here, unveil):
    result = unveil("cluster points.csv -k 2 --starts 3 -o out --json")
    facts = result.json
    assert (result.code, result.err) == (0, "")
    assert (facts["kind"], facts["folder"], sorted(facts["sizes"])) == ("points", "out", [40, 60])
    assert same_partition(facts["labels"], GROUPS)
    assert [int(line) for line in Path("out/labels.csv").read_text().splitlines()] == facts["labels"]
    model = library.load("out/model.unveil")
    assert_allclose(facts["score"], log_density(model, np.load("points.npy")).mean(), rtol=1e-9, atol=0)
    assert "unveil cluster points.csv" in (here / "out" / "report.html").read_text(encoding="utf-8")
    assert sorted(path.name for path in (here / "out").iterdir()) == ["labels.csv", "model.unveil", "report.html"]


def test_sequences_are_clustered_by_sequence_or_by_step(here, unveil):
    facts = unveil("cluster sequences.npz -k 2 --states 2 --starts 3 -o out --json").json
    assert (facts["kind"], facts["sizes"]) == ("sequences", [6, 6])
    assert same_partition(facts["labels"], np.arange(12) % 2)
    told = unveil("cluster sequences.npz -k 2 --starts 2 --points -o out")
    assert "points" in told.out
    assert "Wrote labels.csv, model.unveil and report.html to out" in told.out
    steps = np.concatenate([each for _, each in sorted(np.load("sequences.npz").items(), key=lambda item: int(item[0][1:]))])
    assert same_partition(np.loadtxt("out/labels.csv", dtype=int), steps[:, 0] > 2.5)


SOURCES = "--source low=low.wav --source high=highs --atoms 2"


def test_separate_takes_a_mixture_apart(here, unveil):
    line = f"separate mix.wav {SOURCES} -o out --reference low=true/low.wav --reference high=true/high.wav"
    result = unveil(f"{line} --json")
    assert (result.code, result.err) == (0, "")
    assert sorted(path.name for path in (here / "out").iterdir()) == ["high.wav", "low.wav", "report.html"]
    parts = {name: soundfile.read(f"out/{name}.wav")[0] for name in ("low", "high")}
    assert_allclose(parts["low"] + parts["high"], soundfile.read("mix.wav")[0], rtol=0, atol=1e-6)
    for name, figures in result.json["scores"].items():
        true = soundfile.read(f"true/{name}.wav")[0]
        gain = parts[name] @ true / (true @ true)
        by_hand = 10 * np.log10(((gain * true) ** 2).sum() / ((gain * true - parts[name]) ** 2).sum())
        assert_allclose(figures["SI-SDR"], by_hand, rtol=0, atol=1e-3)
        assert by_hand > 20
        assert figures["SDR"] > 20
        assert set(figures) == {"SDR", "SIR", "SAR", "SI-SDR"}
    page = (here / "out" / "report.html").read_text(encoding="utf-8")
    assert "mix.wav, separated" in page
    assert page.count("<audio") >= 5
    assert "unveil separate mix.wav" in page
    again = unveil(line)  # into the same folder
    rows = [row for row in again.out.splitlines() if " dB" in row]
    assert [row.split()[1] for row in rows] == ["low", "high"]
    for row, figures in zip(rows, result.json["scores"].values(), strict=True):
        assert re.findall(r"([-\d.]+) dB", row) == [f"{value:.1f}" for value in figures.values()]


def test_separate_keeps_rate_and_channels(here, unveil):
    rate, n_samples = 44100, 30001
    rng = np.random.default_rng(0)
    mixture = 0.1 * rng.normal(size=(n_samples, 2))
    soundfile.write("stereo.wav", mixture, rate, subtype="FLOAT")
    told = unveil(f"separate stereo.wav {SOURCES} --seconds 0.5 -o out")
    assert told.code == 0
    assert all(line.startswith("Separating: ") for line in told.err.splitlines())  # as often as the machine is slow
    assert told.out == "Wrote the sounds and report.html to out; open out/report.html to listen\n"
    infos = [soundfile.info(f"out/{name}.wav") for name in ("low", "high")]
    assert {(info.samplerate, info.channels, info.frames) for info in infos} == {(rate, 2, n_samples)}
    total = sum(soundfile.read(f"out/{name}.wav")[0] for name in ("low", "high"))
    assert_allclose(total, mixture, rtol=0, atol=1e-6)
    assert (here / "out" / "report.html").stat().st_size > 10_000


def melodies(n_seconds=16, rate=8000):
    """Two instruments with three notes each, which rest at times: (2, n_samples)."""
    rng = np.random.default_rng(0)

    def played(pitches, seconds):
        t, notes = np.arange(int(seconds * rate)) / rate, []
        while sum(map(len, notes)) < n_seconds * rate:
            pitch = rng.choice(pitches)
            partials = sum(np.exp(-0.3 * h) * np.sin(2 * np.pi * h * pitch * t) for h in (1, 2, 3))
            fade = np.minimum(1.0, np.minimum(t, t[::-1]) / 0.02)
            notes.append(fade * partials * (rng.random() > 0.35) * rng.uniform(0.5, 1.0))
        return np.concatenate(notes)[: n_seconds * rate]

    parts = np.stack([played((110.0, 147.0, 196.0), 0.7), played((660.0, 880.0, 1047.0), 0.4)])
    return 0.1 * parts / parts.std(1, keepdims=True)


def test_separate_needs_no_examples_where_the_recording_reveals_its_sources(here, unveil):
    parts = melodies()
    soundfile.write("duet.wav", parts.sum(0), 8000, subtype="FLOAT")
    for name, part in zip(("low", "high"), parts, strict=True):
        soundfile.write(f"{name}-part.wav", part, 8000, subtype="FLOAT")
    result = unveil("separate duet.wav --blind 2 -o out --reference high=high-part.wav --reference low=low-part.wav --json")
    assert (result.code, result.err) == (0, "")
    facts = result.json
    assert facts["doubts"] == []
    assert facts["files"] == {"high": "source2.wav", "low": "source1.wav"}  # the lowest first
    assert min(each["SDR"] for each in facts["scores"].values()) > 15
    estimates = [soundfile.read(f"out/source{k}.wav")[0] for k in (1, 2)]
    assert_allclose(sum(estimates), parts.sum(0), rtol=0, atol=1e-6)
    page = (here / "out" / "report.html").read_text(encoding="utf-8")
    assert "of notes that were found in the mixture itself" in page
    assert "Nothing speaks against the result." in page
    told = unveil("separate duet.wav --blind 2 -o out")
    assert re.match(r"Found 3 and 3 components; .*% is left unexplained\n", told.out)


def test_a_recording_that_does_not_reveal_its_sources_is_doubted(here, unveil):
    soundfile.write("solo.wav", melodies()[0], 8000, subtype="FLOAT")
    with pytest.warns(IdentifiabilityWarning, match="only 1 of 2 sources were found; give more data, or ask for fewer"):
        result = unveil("separate solo.wav --blind 2 -o out --json")
    assert result.code == 0
    assert result.json["doubts"]
    assert "Doubtful: only 1 of 2 sources were found" in (here / "out" / "report.html").read_text(encoding="utf-8")


def test_clipped_sound_is_separated_when_that_is_allowed(here, unveil):
    mixture = soundfile.read("mix.wav")[0]
    soundfile.write("loud.wav", np.clip(5 * mixture, -1, 1), 8000)
    assert unveil(f"separate loud.wav {SOURCES} -o out --allow-clipped --json").json == {"scores": None, "folder": "out"}
    assert (here / "out" / "low.wav").exists()


def test_evaluate_compares_sounds_of_the_same_name(here, unveil):
    n = np.arange(8000)
    a, b = (0.3 * np.sin(2 * np.pi * k * n / 8000) for k in (100, 350))  # orthogonal, of equal energy
    for path, sound in {"r/a.wav": a, "r/b.wav": b, "e/a.wav": a + 0.1 * b, "e/b.flac": 0.5 * b + 0.005 * a, "e/c.wav": b}.items():
        (here / path).parent.mkdir(exist_ok=True)
        soundfile.write(path, sound, 8000, subtype="PCM_24")
    facts = unveil("evaluate --reference r --estimate e --filter-length 1 --json").json
    assert sorted(facts["scores"]) == ["a", "b"]
    for name, expected in {"a": 20, "b": 40}.items():
        figures = facts["scores"][name]
        assert_allclose([figures["SDR"], figures["SIR"], figures["SI-SDR"]], [expected] * 3, rtol=0, atol=0.01)
    shown = unveil("evaluate --reference r --estimate e --filter-length 1").out
    assert shown.count("20.0 dB") == 3
    assert shown.count("40.0 dB") == 3


def test_models_are_listed(unveil):
    listed = unveil("models --json").json
    assert [each["name"] for each in listed] == sorted(discover())
    verbs = {each["name"]: each["verbs"] for each in listed}
    assert "predict" in verbs["GaussianMixture"]
    assert {"transform", "explain", "sample"} <= set(verbs["NMF"])
    assert {"predict", "impute", "forecast"} <= set(verbs["HMM"])
    assert {each["items"] for each in listed} == {"points", "sequences"}
    table = unveil("models").out
    assert all(name in table for name in discover())


def test_data_sets_are_listed_and_fetched(unveil, monkeypatch):
    monkeypatch.delenv("UNVEIL_DATA", raising=False)
    listed = {each["name"]: each for each in unveil("data --json").json}
    assert listed["notes"]["status"] == "packaged"
    assert set(listed["notes"]) == {"name", "summary", "status", "folder"}
    fetched = unveil("data fetch notes")
    assert fetched.out == listed["notes"]["folder"] + "\n"
    shown = unveil("data").out
    cells = [line.strip("│").split("│")[-1].strip() for line in shown.splitlines() if line.startswith("│")]
    assert listed["notes"]["folder"] in "".join(cells).replace(" ", "")  # whole, however narrow the table


def test_a_report_is_written_beside_the_model_or_elsewhere(fitted, here, unveil):
    assert unveil("report m.unveil points.npy").out == "Wrote m.html\n"
    unveil("cluster points.csv -k 2 --starts 1 -o out --json")
    assert unveil("report out").out == "Wrote out/model.html\n"
    assert unveil("report out points.csv -o deep/er/page.html").out == "Wrote deep/er/page.html\n"
    pages = {name: (here / name).read_text(encoding="utf-8") for name in ("m.html", "out/model.html", "deep/er/page.html")}
    assert all("GaussianMixture" in page for page in pages.values())
    assert "<svg" in pages["m.html"]


def test_the_demo_can_be_heard(here, unveil, monkeypatch):
    monkeypatch.setattr(duet, "make_duet", functools.partial(duet.make_duet, seconds=4.0))
    monkeypatch.setattr(separation, "default_source_model", lambda: NMF(8, max_iter=25, random_state=0))
    facts = unveil("demo -o out --json").json
    assert sorted(facts["scores"]) == ["contrabass", "flute"]
    assert all(figures["SDR"] > 10 for figures in facts["scores"].values())
    sounds = {}
    for name in ("mixture", "reference/contrabass", "reference/flute", "separated/contrabass", "separated/flute"):
        sounds[name], rate = soundfile.read(f"out/{name}.wav")
        assert (rate, len(sounds[name])) == (22050, 4 * 22050)
    for folder in ("reference", "separated"):
        assert_allclose(sounds[f"{folder}/contrabass"] + sounds[f"{folder}/flute"], sounds["mixture"], rtol=0, atol=1e-6)
    page = (here / "out" / "report.html").read_text(encoding="utf-8")
    assert "A duet, separated" in page
    assert page.count("<audio") >= 5


def test_json_has_no_nan(capsys):
    output.print_json({"a": float("nan"), "b": [np.float64("inf"), np.arange(2)], "c": {"d": np.float32(0.5)}})
    printed = capsys.readouterr().out
    assert json.loads(printed) == {"a": None, "b": [None, [0, 1]], "c": {"d": 0.5}}
    assert "NaN" not in printed


def test_progress_is_told_seldom_where_there_is_no_terminal(monkeypatch, capsys):
    clock = [0.0]
    monkeypatch.setattr(output.time, "monotonic", lambda: clock[0])
    with output.progress("Working") as advance:
        for clock[0], fraction in ((1.0, 0.1), (5.5, 0.25), (7.0, 0.3), (10.4, 0.4), (12.0, 0.5)):
            advance(fraction)
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "Working: 25%\nWorking: 50%\n")
    with output.progress("Working", quiet=True) as advance:
        clock[0] = 99.0
        advance(0.5)
    assert capsys.readouterr().err == ""
