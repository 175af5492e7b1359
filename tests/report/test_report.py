"""Reports: one file with everything in it, sounds that are the sounds that went in, and figures that hold their data."""

import base64
import io
import itertools
import os
import re
from html.parser import HTMLParser

import matplotlib
import numpy as np
import pytest
import soundfile
from matplotlib.colors import to_hex, to_rgb
from matplotlib.patches import Ellipse, FancyArrowPatch
from numpy.testing import assert_allclose, assert_array_equal

from unveil.audio.separate import Separator
from unveil.core.history import History
from unveil.data.batch import Batches, MemoryRows
from unveil.errors import InputError
from unveil.models import discover
from unveil.models.gaussian_hmm import GaussianHMM
from unveil.models.gaussian_mixture import GaussianMixture
from unveil.models.mixture_of_hmms import MixtureOfHMMs
from unveil.models.nmf import NMF
from unveil.report import chains, drawing, figures, model_report, page, separation_report
from unveil.report.fitted import dictionary_picture
from unveil.report.players import player
from unveil.report.svg import inline_svg
from unveil.report.theme import DARK, LIGHT, category_colours, relative_luminance

pytestmark = pytest.mark.filterwarnings(
    "error", "ignore::unveil.errors.ConvergenceWarning", "ignore::unveil.errors.IdentifiabilityWarning"
)

RATE = 8000
LOADING = {"src", "srcset", "href", "xlink:href", "poster", "data", "action", "background", "cite"}
ONE_STEP = 2**-15  # of 16-bit sound


class Html(HTMLParser):
    """The elements, the text and the table cells of a page."""

    def __init__(self, path):
        super().__init__()
        self.elements, self.texts, self.rows, self._open = [], [], [], []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data):
        if self._open and self._open[-1] in ("style", "script"):
            return
        self.texts.append(data)
        if {"td", "th"} & set(self._open):
            self.rows[-1][-1] += data

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())

    def attributes(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    def row(self, head):
        return next(row[1:] for row in self.rows if row and row[0] == head)


def sines(*frequencies, seconds=0.5, amplitude=0.1):
    t = np.arange(int(seconds * RATE)) / RATE
    return [amplitude * np.sin(2 * np.pi * f * t) for f in frequencies]


def decoded(source):
    kind, _, payload = source.partition(",")
    assert kind == "data:audio/flac;base64"
    return soundfile.read(io.BytesIO(base64.b64decode(payload)))


def ragged(n_features=2, n_sequences=9, seed=0):
    rng = np.random.default_rng(seed)
    return [np.abs(rng.normal(i % 3, 0.5, (8 + i, n_features))) for i in range(n_sequences)]


def points(n=60, n_features=3, seed=0):
    return np.concatenate(ragged(n_features, 20, seed))[:n]


def classes_of(data):
    """Classes for those that need some; others ignore them."""
    return None if isinstance(data, list) else np.where(data[:, 0] > 1, "high", "low")


@pytest.fixture(scope="module")
def separation(tmp_path_factory):
    """A page with everything that a separation report can show."""
    low, high = sines(200, 1500)
    separator = Separator.learn({"low": low, "high": high}, RATE, model=NMF(2, max_iter=20, random_state=0))
    estimates = separator(low + high)
    path = separation_report(
        tmp_path_factory.mktemp("separation") / "report.html",
        mixture=low + high,
        estimates=estimates,
        sample_rate=RATE,
        references={"low": low, "high": high},
        scores={"low": {"SDR": 22.46, "SIR": np.nan}, "high": {"SDR": -3.0, "SAR": np.inf}},
        separator=separator,
        command="unveil separate mix.wav",
    )
    return Html(path), [low + high, estimates["low"], low, estimates["high"], high], separator


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A page for each estimator that there is."""
    folder = tmp_path_factory.mktemp("models")
    pages = {}
    for name, kind in discover().items():
        data = ragged() if kind().items == "sequences" else points()
        if hasattr(kind, "emission"):  # for symbols only
            data = type(data)(np.floor(np.abs(each)) for each in data) if isinstance(data, list | tuple) else np.floor(np.abs(data))
        quick = {"random_state": 0, "max_iter": 5, "max_epochs": 2, "hidden": 8}
        fitted = kind(**{key: value for key, value in quick.items() if key in kind().get_params()}).fit(data, classes_of(data))
        pages[name] = Html(model_report(folder / f"{name}.html", fitted, data)), fitted, data
    return pages


@pytest.fixture(params=["separation", *discover()])
def html(request, separation, models):
    return separation[0] if request.param == "separation" else models[request.param][0]


# --- the page --------------------------------------------------------------------------------------------------------


def test_nothing_is_loaded_from_elsewhere(html):
    loaded = [value for _, attributes in html.elements for name, value in attributes.items() if name in LOADING]
    assert len(loaded) > 5
    assert [value for value in loaded if not value.startswith(("data:", "#"))] == []
    assert not re.search(r"@import|url\((?!#)|https?:", html.source)


def test_references_inside_the_page_are_unique_and_lead_somewhere(html):
    ids = [attributes["id"] for _, attributes in html.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    local = [
        value[1:] for _, attributes in html.elements for name, value in attributes.items() if name == "href" and value[0] == "#"
    ]
    local += re.findall(r"url\(#([^)]+)\)", html.source)
    local += [attributes["aria-labelledby"] for _, attributes in html.elements if "aria-labelledby" in attributes]
    assert len(local) > 10
    assert set(local) <= set(ids)


def test_what_is_seen_or_heard_is_described_and_tables_have_headings(html):
    pictures = [attributes for _, attributes in html.elements if attributes.get("role") == "img"]
    assert pictures
    assert all(len(attributes["aria-label"]) > 20 for attributes in pictures)
    assert all(attributes["aria-label"] for attributes in html.attributes("audio"))
    assert all(attributes.get("scope") in ("row", "col") for attributes in html.attributes("th"))
    assert html.attributes("html") == [{"lang": "en"}]
    headings = [int(tag[1]) for tag, _ in html.elements if re.fullmatch("h[1-6]", tag)]
    assert headings[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(headings))


def test_the_end_says_how_it_was_made(html):
    end = html.source[html.source.rindex("<h2") :]
    assert "How this was made" in end
    assert re.search(r"Made on \d+ \w+ 20\d\d, \d\d:\d\d", end)
    assert html.row("numpy") == [np.__version__]


def test_names_are_shown_as_they_are_and_never_run(tmp_path):
    name = '<script>alert(1)</script> & "co" $x$'
    [sound] = sines(300)
    path = separation_report(
        tmp_path / "report.html",
        mixture=sound,
        estimates={name: sound},
        sample_rate=RATE,
        scores={name: {"<i>SDR</i>": 1.0}},
        title=f"Title {name}",
        command=f"unveil {name}",
    )
    html = Html(path)
    assert len(html.attributes("script")) == 1
    assert not html.attributes("i")
    assert html.row(name) == ["1.0"]
    assert html.attributes("audio")[1]["aria-label"] == f"{name}: estimate"
    for part in (f"Title {name}", f"unveil {name}", f"separated into {name}"):
        assert part in html.text


def test_feature_names_are_shown_as_they_are_in_figures(tmp_path):
    name = "<script>x</script> $a_b$"
    figure = figures.clusters_of_points(points(n_features=2), np.zeros(60, int), names=[name, "b"])
    path = page.write_page(tmp_path / "p.html", page.Page("t", "s", [page.Section("s", [page.Picture(figure, "a" * 30)])]))
    html = Html(path)
    assert len(html.attributes("script")) == 1
    assert name in html.text


def test_file_names_that_are_no_text_can_be_reported(tmp_path):
    path = page.write_page(tmp_path / "p.html", page.Page(os.fsdecode(b"a\xffb"), "s", []))
    assert "a?b" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("broken", ["os.replace", "os.fsync"])
def test_a_write_that_fails_leaves_nothing_behind_and_what_was_there_unharmed(tmp_path, monkeypatch, broken):
    old = tmp_path / "old.html"
    old.write_text("old")

    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(broken, fail)
    for name in ("old.html", "new.html"):
        with pytest.raises(InputError, match="disk is full"):
            page.write_page(tmp_path / name, page.Page("t", "s", [page.Section("s", [page.Text("x")])]))
    assert [path.name for path in tmp_path.iterdir()] == ["old.html"]
    assert old.read_text() == "old"


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (np.float64("nan"), 1, "–"),
        (None, None, "–"),
        (-np.inf, 1, "−∞"),
        (22.46, 1, "22.5"),
        (-0.00012345, None, "−0.0001234"),
        (1234567.8, None, "1,234,568"),
        (1e-12, None, "1e−12"),
        (0.0, None, "0"),
        (np.int64(-1200), 1, "−1,200"),
        (np.bool_(False), None, "no"),
        ("a", 1, "a"),
    ],
)
def test_cells(value, digits, text):
    assert page.as_text(value, digits) == text


def test_text_can_be_read_and_categories_told_from_the_background_in_both_themes():
    def contrast(a, b):
        darker, brighter = sorted(relative_luminance(to_rgb(each)) for each in (a, b))
        return (brighter + 0.05) / (darker + 0.05)

    for theme in (LIGHT, DARK):
        grounds = [theme[name] for name in ("paper", "card", "tint")]
        assert min(contrast(theme[name], ground) for name in ("ink", "muted", "accent") for ground in grounds) >= 4.5
        assert min(contrast(colour, theme["card"]) for n in (8, 9, 30) for colour in category_colours(n)) >= 3
    assert len(set(category_colours(30))) == 30


def test_figures_take_the_colours_of_the_page():
    svg = inline_svg(figures.objective_curve(History([1.0, 2.0], [0, 1])), "f1-")
    left = re.sub(r"var\(--\w+, #\w+\)", "", svg)
    assert f"var(--muted, {LIGHT['muted']})" in svg
    assert [colour for colour in LIGHT.values() if colour in left] == []


# --- separations -----------------------------------------------------------------------------------------------------


def test_sounds_in_the_page_are_the_sounds_that_went_in(separation):
    html, sounds, _ = separation
    players = html.attributes("audio")
    assert [each["aria-label"] for each in players] == [
        "Mixture",
        "low: estimate",
        "low: reference",
        "high: estimate",
        "high: reference",
    ]
    for each, sound in zip(players, sounds, strict=True):
        samples, rate = decoded(each["src"])
        assert rate == RATE
        assert_allclose(samples, sound, rtol=0, atol=ONE_STEP)


def test_each_player_has_its_spectrogram(separation):
    html, sounds, _ = separation
    tracks = [attributes for _, attributes in html.elements if attributes.get("class") == "track"]
    assert [(float(each["data-start"]), float(each["data-stop"])) for each in tracks] == [(0.0, 0.5)] * len(sounds)


def test_scores(separation):
    html, _, _ = separation
    assert ["Source", "SDR (dB)", "SIR (dB)", "SAR (dB)"] in html.rows
    assert html.row("low") == ["22.5", "–", "–"]
    assert html.row("high") == ["−3.0", "–", "∞"]
    assert "interference" in html.row("SIR")[0]


def test_the_separator_is_described(separation):
    html, _, separator = separation
    assert html.row("window (n_fft)") == [f"{separator.n_fft} samples, {1000 * separator.n_fft / RATE:.1f}\u00a0ms"]
    assert html.row("n_components") == ["2"]
    labels = [attributes["aria-label"] for _, attributes in html.elements if attributes.get("role") == "img"]
    assert sum(label.startswith("Learning curve") for label in labels) == 2
    assert sum(label.startswith("Image of 2 atoms") for label in labels) == 2


def test_parameters_that_differ_between_sources_have_a_column_each(tmp_path):
    low, high = sines(200, 1500)
    separator = Separator.learn({"low": low, "high": high}, RATE, model=NMF(2, max_iter=3, random_state=0))
    separator.models["high"].set_params(sparsity=0.5)
    path = separation_report(tmp_path / "report.html", mixture=low, estimates={"low": low}, sample_rate=RATE, separator=separator)
    html = Html(path)
    assert ["Parameter", "low", "high"] in html.rows
    assert html.row("sparsity") == ["0.0", "0.5"]


def test_loud_sounds_are_all_made_quieter_by_one_factor(tmp_path):
    quiet, loud = sines(300)[0], 20 * sines(300)[0]
    path = separation_report(tmp_path / "r.html", mixture=loud, estimates={"quiet": quiet}, sample_rate=RATE)
    html = Html(path)
    samples = [decoded(each["src"])[0] for each in html.attributes("audio")]
    peak = np.abs(loud).max()
    assert_allclose(samples[0], loud / peak, rtol=0, atol=2 * ONE_STEP)
    assert_allclose(samples[1], quiet / peak, rtol=0, atol=2 * ONE_STEP)
    assert f"played {20 * np.log10(peak):.1f} dB quieter" in html.text


def test_long_sounds_are_cut_in_players_and_figures_alike(tmp_path):
    long = np.random.default_rng(0).normal(0, 0.05, (2, 75 * 1000))
    html = Html(separation_report(tmp_path / "r.html", mixture=long, estimates={"a": long[0]}, sample_rate=1000))
    stereo, mono = (decoded(each["src"])[0] for each in html.attributes("audio"))
    assert_allclose(stereo.T, long[:, :60_000], rtol=0, atol=ONE_STEP)
    assert mono.shape == (60_000,)
    tracks = [attributes for _, attributes in html.elements if attributes.get("class") == "track"]
    assert [float(each["data-stop"]) for each in tracks] == [60.0, 60.0]
    assert "A mixture of 75.0 s" in html.text
    assert "the first 60 s" in html.text


def test_a_player_says_what_it_changed():
    samples = np.full((4, 61 * 100), [[1.0], [1.0], [3.0], [3.0]])
    sound = player(samples, 100, "four")
    heard, _ = decoded(sound.source)
    assert_allclose(heard, np.ones(6000), rtol=0, atol=2 * ONE_STEP)
    assert sound.note == "the first 60 s of 61.0 s; the average of its 4 channels; played 6.0 dB quieter, to stay within full scale"
    assert player(samples / 3, 100, "four", gain=0.5).note == "the first 60 s of 61.0 s; the average of its 4 channels"
    assert player(samples[0, :100], 100, "one").note == ""


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"estimates": {}}, "no estimates"),
        ({"mixture": np.array([0.1, np.nan])}, "Mixture holds NaN|the mixture holds NaN"),
        ({"estimates": {"flute": np.zeros((5, 2))}}, r"flute: estimate has shape \(5, 2\)"),
        ({"references": {"flute": np.zeros(0)}}, r"flute: reference has shape \(0,\)"),
        ({"references": {"flute": np.zeros((0, 5))}}, r"flute: reference has shape \(0, 5\)"),
    ],
)
def test_what_is_no_sound_is_refused(tmp_path, changed, said):
    [sound] = sines(300)
    arguments = {"mixture": sound, "estimates": {"flute": sound}, "sample_rate": RATE} | changed
    with pytest.raises(InputError, match=said):
        separation_report(tmp_path / "r.html", **arguments)
    assert list(tmp_path.iterdir()) == []


# --- models ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", discover())
def test_every_estimator_has_a_report(models, name):
    html, fitted, data = models[name]
    assert all(html.row(parameter)[0] == str(value) for parameter, value in fitted.get_params().items())
    facts = re.findall(r"<dt>(.*?)</dt><dd><span class=\"value\">(.*?)</span>", html.source)
    if fitted.has_likelihood:
        assert dict(facts)["score"] == page.as_text(float(np.mean(fitted.score_samples(data))))
    labels = [attributes["aria-label"] for _, attributes in html.elements if attributes.get("role") == "img"]
    if fitted.learns_in_epochs:
        assert dict(facts)["epochs"] == str(fitted.history_.n_iter)
        last = page.as_text(fitted.history_.parts["loss"][-1])
        assert last in next(label for label in labels if label.startswith("Losses over"))
        return
    assert dict(facts)["iterations"] == str(fitted.history_.n_iter)
    assert dict(facts)["converged"] == ("yes" if fitted.history_.converged else "no")
    assert page.as_text(fitted.history_.objective[-1]) in next(label for label in labels if label.startswith("Learning curve"))


@pytest.mark.parametrize(
    ("name", "sections"),
    [
        ("GaussianMixture", ["The fit", "Clusters", "How this was made"]),
        ("GaussianHMM", ["The fit", "States", "Transitions", "How this was made"]),
        ("MixtureOfHMMs", ["The fit", "Clusters", "Transitions", "Observations", "How this was made"]),
        ("NMF", ["The fit", "Dictionary", "How this was made"]),
        ("HMM", ["The fit", "States", "Transitions", "How this was made"]),
        ("MixtureModel", ["The fit", "Clusters", "How this was made"]),
        ("MixtureOfPPCA", ["The fit", "Clusters", "How this was made"]),
        ("GaussianMixtureClassifier", ["The fit", "Classes", "How this was made"]),
        ("PPCA", ["The fit", "Components", "How this was made"]),
        ("LinearDynamicalSystem", ["The fit", "Smoothed", "How this was made"]),
        ("VAE", ["The fit", "Latent variables", "Reconstructions", "Samples", "How this was made"]),
        ("Autoencoder", ["The fit", "Latent variables", "Reconstructions", "How this was made"]),
        ("GAN", ["The fit", "Samples", "How this was made"]),
        ("MixtureOfVAEs", ["The fit", "Clusters", "Samples", "How this was made"]),
    ],
)
def test_each_kind_shows_what_it_found(models, name, sections):
    html, _, _ = models[name]
    assert re.findall(r"<h2[^>]*>(.*?)</h2>", html.source) == sections


def test_mixture_in_numbers(tmp_path):
    X = np.concatenate([np.full((30, 2), 5.0), np.zeros((10, 2))]) + np.random.default_rng(0).normal(0, 0.1, (40, 2))
    fitted = GaussianMixture(2, random_state=0).fit(X)
    html = Html(model_report(tmp_path / "r.html", fitted, X))
    for k in range(2):
        weight, size, *features = html.row(str(k))
        assert (weight, size) == (f"{fitted.weights_[k]:.3f}", str(np.sum(fitted.predict(X) == k)))
        deviation = np.sqrt(fitted.covariances_[k, 1, 1])
        assert features[1] == f"{page.as_text(fitted.means_[k, 1], 2)}\u00a0±\u00a0{deviation:.2f}"
    assert page.as_text(fitted.bic(X)) in html.text


def test_states_in_numbers(tmp_path):
    fitted = GaussianHMM(
        2, startprob_init=[1.0, 0.0], transmat_init=[[0.8, 0.2], [0.0, 1.0]], means_init=[[0.0], [5.0]], max_iter=1, tol=0
    )
    fitted.fit([np.array([[0.0], [0.1], [0.0], [5.0], [5.1]])] * 2)
    html = Html(model_report(tmp_path / "r.html", fitted))
    stay = 1 / (1 - fitted.transmat_[0, 0])
    assert html.row("0")[:2] == ["1.00", f"{stay:.2f}"]
    assert html.row("1")[:2] == ["0.00", "∞"]


def test_without_data_the_report_shows_the_model_alone(tmp_path):
    for fitted in (GaussianMixture(2, random_state=0).fit(points()), MixtureOfHMMs(2, 2, n_init=1, random_state=0).fit(ragged())):
        html = Html(model_report(tmp_path / "r.html", fitted))
        assert "score" not in html.text
        assert html.row("1")[0] == f"{fitted.weights_[1]:.3f}"


def test_batches_are_shown_as_arrays_are(tmp_path):
    X = ragged()
    fitted = MixtureOfHMMs(2, 2, n_init=1, random_state=0).fit(X)
    offsets = np.concatenate([[0], np.cumsum([len(x) for x in X])])
    batches = Batches(MemoryRows(np.concatenate(X)), offsets, batch_steps=20)
    bodies = []
    for name, data in (("list", X), ("batches", batches)):
        text = model_report(tmp_path / f"{name}.html", fitted, data).read_text(encoding="utf-8")
        text = re.sub(r"f\d+-[\w.]+|Made on [^.]*", "", text)
        bodies.append(text)
    assert bodies[0] == bodies[1]


def test_of_much_data_a_part_is_drawn_but_all_is_counted(tmp_path):
    X = np.random.default_rng(0).normal(size=(12_000, 1))
    fitted = GaussianMixture(1).fit(X)
    html = Html(model_report(tmp_path / "r.html", fitted, X))
    assert "5,000 of 12,000 points, evenly spread." in html.text
    assert html.row("0")[:2] == ["1.000", "12,000"]


def test_an_estimator_that_is_not_fitted_is_refused(tmp_path):
    with pytest.raises(ValueError, match="not fitted"):
        model_report(tmp_path / "r.html", GaussianMixture())


@pytest.fixture
def pictures(monkeypatch, tmp_path):
    """The figures that a report of an estimator shows, in their order, after the learning curve."""

    def of(estimator, data):
        pages = []
        monkeypatch.setattr("unveil.report.model.write_page", lambda path, made: pages.append(made))
        model_report(tmp_path / "r.html", estimator, data)
        return [block.figure for block in flattened(pages[0].sections) if isinstance(block, page.Picture)][1:]

    def flattened(blocks):
        for block in blocks:
            yield block
            yield from flattened(getattr(block, "blocks", getattr(block, "cards", ())))

    return of


def test_the_figure_of_clusters_shows_points_in_their_clusters(pictures):
    X = np.random.default_rng(0).normal(size=(12_000, 2)) + 3 * (np.arange(12_000) % 2)[:, None]
    fitted = GaussianMixture(2, random_state=0, max_iter=5).fit(X)
    [figure] = pictures(fitted, X)
    chosen = np.linspace(0, 11_999, 5000).round().astype(int)
    drawn = figure.axes[0].collections[0]
    assert_array_equal(drawn.get_offsets(), X[chosen])
    assert colours_of(drawn) == [category_colours(2)[label] for label in fitted.predict(X)[chosen]]


def test_the_figures_of_states_show_steps_in_their_states(pictures):
    means = 10.0 * np.arange(10)[:, None] + [0.0, 1.0]
    X = [means[[0, 0, 3, 3, 5]], means[[3, 5, 5, 0]]]
    rng = np.random.default_rng(0)
    around = means[rng.integers(10, size=300)] + rng.normal(0, 0.1, (300, 2))
    fitted = GaussianHMM(10, means_init=means, max_iter=10, tol=0, random_state=0).fit(around)
    over_time, _, by_state, graph, matrix = pictures(fitted, X)
    path = np.concatenate(fitted.predict(X))
    assert path.max() < 9  # so colours can only be right when all states are known of
    colours = [category_colours(10)[state] for state in path]
    assert_array_equal(over_time.axes[0].lines[0].get_ydata(), np.concatenate(X)[:, 0])
    assert over_time.axes[0].lines[1].get_xdata()[0] == 4.5  # where the second sequence begins
    assert colours_of(over_time.axes[0].collections[0]) == colours
    assert_array_equal(over_time.axes[-1].images[0].get_array(), path[None])
    assert_array_equal(by_state.axes[0].collections[0].get_offsets(), np.concatenate(X))
    assert colours_of(by_state.axes[0].collections[0]) == colours
    assert len(graph.axes[0].texts) == 10
    assert_array_equal(image_of(matrix), fitted.transmat_)


def test_long_sequences_are_looked_at_from_their_beginning(pictures):
    X = np.random.default_rng(0).normal(size=(7000, 2))
    _, _, by_state, *_ = pictures(GaussianHMM(2, max_iter=1, tol=0, random_state=0).fit(X), X)
    assert_array_equal(by_state.axes[0].collections[0].get_offsets(), X[:5000])


def test_the_figures_of_clusters_of_sequences_show_each_in_its_cluster(pictures):
    X = ragged(2, 300)
    fitted = MixtureOfHMMs(2, 2, n_init=1, random_state=0).fit(X)
    clusters, *matrices, _, _ = pictures(fitted, X * 2)  # 600, of which 400 are looked at
    chosen = np.linspace(0, 599, 400).round().astype(int)
    for cluster, panel in enumerate(clusters.axes):
        members = chosen[fitted.predict(X * 2)[chosen] == cluster]
        assert_array_equal(panel.collections[0].get_segments()[0], X[members[0] % 300])
    for matrix, transmat in zip(matrices, fitted.transmat_, strict=True):
        assert_array_equal(image_of(matrix), transmat)


def test_the_figures_of_a_dictionary_show_atoms_and_activations(pictures):
    X = points(50, 4)
    fitted = NMF(2, random_state=0, max_iter=20).fit(X)
    atoms, used = pictures(fitted, X)
    assert_array_equal(image_of(atoms).T, fitted.components_ / fitted.components_.max(1, keepdims=True))
    assert_allclose(image_of(used).T, fitted.transform(X) / fitted.transform(X).max(0), rtol=1e-12, atol=1e-12)


def test_spectra_are_in_the_order_of_their_pitch():
    components = np.full((3, 257), 1e-9)
    components[[0, 1, 2], [200, 10, 60]] = 1.0
    rows = image_of(dictionary_picture(components, RATE).figure).argmax(0)
    assert list(rows) == sorted(rows)


# --- figures ---------------------------------------------------------------------------------------------------------


def image_of(figure, index=0):
    return figure.axes[index].images[0].get_array()


def outline(axes, patch):
    """The points of a patch's edge, in the units of the data."""
    return axes.transData.inverted().transform(patch.get_verts())


def colours_of(collection):
    return [to_hex(colour) for colour in collection.get_facecolors()]


def test_drawing_leaves_the_settings_of_matplotlib_alone():
    with matplotlib.rc_context({"font.size": 23, "svg.fonttype": "path"}):
        figure = figures.objective_curve(History([1.0, 2.0], [0, 1]))
        assert matplotlib.rcParams["font.size"] == 23
        inline_svg(figure, "f1-")
        assert matplotlib.rcParams["svg.fonttype"] == "path"


def test_objective_curve_is_the_history():
    history = History([-3.0, -2.0, -1.5], [0, 10, 20], restarts=[-2.2, -2.0])
    curve, starts = figures.objective_curve(history).axes[0].lines
    assert_array_equal(curve.get_xdata(), history.iterations)
    assert_array_equal(curve.get_ydata(), history.objective)
    assert_array_equal(starts.get_ydata(), history.restarts)


def test_a_leap_at_the_start_is_left_out_of_the_view_and_said():
    axes = figures.objective_curve(History([-1e4, -3.0, -2.0, -1.5, -1.2], list(range(5)), restarts=[-4.0])).axes[0]
    low, high = axes.get_ylim()
    assert -6 < low < -4
    assert -1.2 < high < 0
    assert [text.get_text() for text in axes.texts] == ["from −1e+04"]
    steady = figures.objective_curve(History([-4.0, -3.0, -2.0, -1.5, -1.2], list(range(5)))).axes[0]
    assert steady.get_ylim()[0] < -4.0
    assert not steady.texts


@pytest.mark.parametrize("frequency", [100, 1000, 3500])
def test_spectrogram_shows_a_sine_where_and_as_loud_as_it_is(frequency):
    [sound] = sines(frequency, seconds=1.0, amplitude=0.1)
    figure = figures.spectrogram(np.stack([sound, sound]), RATE)
    axes, image = figure.axes[0], image_of(figure)
    row, _ = np.unravel_index(np.argmax(image[:, 5:-5]), image[:, 5:-5].shape)
    left, right, bottom, top = axes.images[0].get_extent()
    assert (left, right) == (0, 1.0)
    assert_allclose(10 ** np.interp(row, [0, len(image) - 1], [bottom, top]), frequency, rtol=0.04, atol=1.0)
    if frequency < 200:  # higher up a row is wider than the peak of a sine
        assert_allclose(image[row, 10], -20, rtol=0, atol=1.0)
    assert figure.axes[0].get_ylabel() == "frequency (Hz)"


def test_spectrograms_share_colours_and_time():
    quiet, loud = sines(300)[0], 5 * sines(300)[0]
    limits = figures.level_limits([quiet, loud], RATE)
    assert limits == (-75.0, -5)
    for sound in (quiet, loud):
        axes = figures.spectrogram(sound, RATE, limits=limits, seconds=2.0).axes[0]
        assert axes.images[0].get_clim() == limits
        assert axes.get_xlim() == (0, 2.0)


def test_silence_is_dark_and_long_sound_is_thinned():
    silent = figures.spectrogram(np.zeros(RATE), RATE).axes[0].images[0]
    assert silent.get_array().max() <= silent.get_clim()[0]
    assert figures.levels(np.zeros(200 * RATE), RATE).shape[1] <= figures.MOST_COLUMNS + 1


def test_transition_matrix_holds_the_probabilities():
    transmat = np.array([[0.9, 0.1, 0.0], [0.004, 0.996, 0.0], [0.0, 0.0, 1.0]])
    figure = chains.transition_matrix(transmat)
    assert_array_equal(image_of(figure), transmat)
    assert [text.get_text() for text in figure.axes[0].texts] == [".90", ".10", "<.01", ">.99", "1"]
    assert not chains.transition_matrix(np.eye(20)).axes[0].texts


def test_transition_graph_has_an_arrow_for_each_transition():
    transmat = np.array([[0.5, 0.4, 0.1], [0.0, 0.995, 0.005], [0.3, 0.0, 0.7]])
    axes = chains.transition_graph(transmat, np.array([0.2, 0.0, 0.8])).axes[0]
    arrows = [patch for patch in axes.patches if isinstance(patch, FancyArrowPatch)]
    places = {text.get_text(): np.array(text.get_position()) for text in axes.texts}
    found = {}
    for arrow in arrows:
        ends = [[k for k, place in places.items() if np.allclose(place, end, rtol=0, atol=1e-9)] for end in arrow._posA_posB]
        found["".join(ends[0] + ["→"] + ends[1])] = arrow.get_linewidth()
    assert sorted(found) == ["0→1", "0→2", "2→0", "→0", "→2"]
    assert found["0→1"] > found["2→0"] > found["0→2"]
    assert found["→2"] > found["→0"]


def test_state_sequence_holds_features_and_states():
    X = points(40, 2)
    states = np.arange(40) % 3
    *panels, strip = chains.state_sequence(X, states, n_states=5, breaks=[20]).axes
    for d, panel in enumerate(panels):
        assert_array_equal(panel.lines[0].get_ydata(), X[:, d])
        assert_array_equal(panel.collections[0].get_offsets()[:, 1], X[:, d])
        assert colours_of(panel.collections[0]) == [category_colours(5)[state] for state in states]
        assert_array_equal(panel.lines[1].get_xdata(), [19.5, 19.5])
    assert_array_equal(strip.images[0].get_array(), states[None])
    assert strip.images[0].get_clim() == (-0.5, 4.5)


def test_state_sequence_of_many_features_and_steps():
    X = np.random.default_rng(0).normal(size=(7000, 6))
    figure = chains.state_sequence(X, np.zeros(7000, int))
    shown = image_of(figure)
    assert shown.shape == (6, 5000)
    assert_array_equal(shown[:, [0, -1]], X[[0, -1]].T)
    assert figure.axes[0].images[0].get_extent()[:2] == [-0.5, 6999.5]


@pytest.mark.parametrize(
    ("covariance_type", "covariances"),
    [
        ("full", np.array([np.diag([4.0, 1.0]), np.diag([4.0, 1.0])])),
        ("tied", np.diag([4.0, 1.0])),
        ("diag", np.array([[4.0, 1.0], [4.0, 1.0]])),
        ("spherical", np.array([4.0, 4.0])),
    ],
)
def test_clusters_of_points_have_ellipses_of_two_standard_deviations(covariance_type, covariances):
    X, labels = points(50, 2), np.arange(50) % 2
    means = np.array([[0.0, 1.0], [2.0, 3.0]])
    axes = figures.clusters_of_points(X, labels, means, covariances, covariance_type).axes[0]
    assert_array_equal(axes.collections[0].get_offsets(), X)
    assert colours_of(axes.collections[0]) == [category_colours(2)[label] for label in labels]
    ellipses = [patch for patch in axes.patches if isinstance(patch, Ellipse)]
    assert_allclose([ellipse.center for ellipse in ellipses], means, rtol=1e-9, atol=1e-12)
    for ellipse in ellipses:
        corners = outline(axes, ellipse) - ellipse.center
        assert_allclose(np.abs(corners).max(0), [4.0, 4.0 if covariance_type == "spherical" else 2.0], rtol=1e-3, atol=1e-9)


def test_tilted_ellipses():
    covariance = np.array([[2.0, 0.9], [0.9, 1.0]])
    axes = figures.clusters_of_points(points(9, 2), np.zeros(9, int), np.zeros((1, 2)), covariance[None]).axes[0]
    corners = outline(axes, axes.patches[0])
    distances = np.einsum("ni,ij,nj->n", corners, np.linalg.inv(covariance), corners)
    assert_allclose(np.sqrt(distances), 2.0, rtol=0.01, atol=1e-9)


def test_more_than_two_features_are_seen_from_where_they_differ_most():
    rng = np.random.default_rng(0)
    flat = rng.normal(size=(40, 2)) * [5.0, 2.0]
    basis = np.linalg.qr(rng.normal(size=(4, 4)))[0][:, :2]
    X = flat @ basis.T + 100
    mean, covariance = X.mean(0), np.cov(X.T, bias=True)
    axes = figures.clusters_of_points(X, np.zeros(40, int), mean[None], covariance[None]).axes[0]
    drawn = np.asarray(axes.collections[0].get_offsets())
    assert_allclose(
        np.linalg.norm(drawn[:, None] - drawn, axis=2), np.linalg.norm(flat[:, None] - flat, axis=2), atol=1e-9, rtol=1e-9
    )
    assert_allclose([axes.patches[0].width, axes.patches[0].height][::-1], 4 * drawn.std(0), rtol=1e-9, atol=1e-12)
    assert axes.get_xlabel().startswith("principal component 1 (8")


def test_points_of_one_feature_are_counted():
    X = np.concatenate([np.zeros((30, 1)), np.ones((12, 1))])
    labels = (X[:, 0] > 0).astype(int)
    axes = figures.clusters_of_points(X, labels).axes[0]
    heights = [sum(bar.get_height() for bar in group) for group in axes.containers]
    assert heights == [30, 12]


def test_many_points_are_thinned_evenly():
    X = np.random.default_rng(0).normal(size=(20_000, 2))
    labels = np.repeat([0, 1], 10_000)
    drawn = figures.clusters_of_points(X, labels).axes[0].collections[0]
    assert len(drawn.get_offsets()) == drawing.MOST_POINTS
    assert colours_of(drawn).count(category_colours(2)[0]) == drawing.MOST_POINTS / 2


@pytest.mark.parametrize("n_features", [1, 2, 4, 5])
def test_clusters_of_sequences_hold_the_members(n_features):
    X, labels = ragged(n_features), np.arange(9) % 2
    panels = figures.clusters_of_sequences(X, labels, n_clusters=3).axes
    assert [panel.get_title(loc="left") for panel in panels] == ["cluster 0", "cluster 1", "cluster 2"]
    for cluster, panel in enumerate(panels):
        members = [x for x, label in zip(X, labels, strict=True) if label == cluster]
        paths = panel.collections[0].get_segments()
        assert len(paths) == len(members)
        for path, x in zip(paths, members, strict=True):
            expected = x[:, :2] if n_features in (2, 4) else np.column_stack([np.arange(len(x)), x[:, 0]])
            assert_array_equal(path, expected)


def test_of_many_sequences_forty_are_drawn():
    X = [np.full((300, 2), float(i)) for i in range(100)]
    [panel] = figures.clusters_of_sequences(X, np.zeros(100, int)).axes
    paths = panel.collections[0].get_segments()
    assert len(paths) == 40
    assert sum(len(path) for path in paths) <= drawing.MOST_POINTS
    assert (paths[0][0, 0], paths[-1][0, 0]) == (0, 99)


def test_dictionary_holds_each_atom_relative_to_its_largest_value():
    components = np.array([[0.0, 1.0, 2.0, 4.0], [10.0, 5.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    assert_array_equal(image_of(figures.dictionary(components)).T, components / [[4.0], [10.0], [1.0]])


def test_dictionary_of_spectra_is_in_hertz():
    components = np.full((2, 513), 1e-9)
    components[0, 64], components[1, 256] = 3.0, 7.0  # 500 and 2000 Hz
    figure = figures.dictionary(components, RATE)
    image = image_of(figure)
    _, _, bottom, top = figure.axes[0].images[0].get_extent()
    peaks = 10 ** np.interp(image.argmax(0), [0, len(image) - 1], [bottom, top])
    assert_allclose(peaks, [500, 2000], rtol=0.02, atol=1e-9)
    assert figure.axes[0].images[0].get_clim() == (-60, 0)


def test_activations_hold_the_peaks():
    values = np.zeros((5000, 2))
    values[1234, 0], values[:, 1] = 8.0, 2.0
    figure = figures.activations(values, seconds_per_item=0.01)
    image = image_of(figure)
    assert image.shape[1] <= 2 * figures.MOST_COLUMNS
    left, right, _, _ = figure.axes[0].images[0].get_extent()
    assert_allclose(np.interp(image[0].argmax() + 0.5, [0, image.shape[1]], [left, right]), 12.34, atol=0.05, rtol=0)
    assert image[0].max() == 1.0
    assert_array_equal(image[1], np.ones(image.shape[1]))
