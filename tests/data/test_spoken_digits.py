"""The spoken digits as the experiment takes them; and the penguins, a table with missing values."""

import importlib.util
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from unveil.data import datasets
from unveil.data.datasets import finding, penguins
from unveil.errors import InputError, ParameterError

TABLE = """species,island,bill_length_mm,bill_depth_mm,flipper_length_mm,body_mass_g,sex,year
Adelie,Torgersen,39.1,18.7,181,3750,male,2007
Adelie,Dream,NA,NA,NA,NA,NA,2007
Gentoo,Biscoe,46.1,,211,4500,female,2008
"""


def test_takes_and_speakers_of_the_real_spoken_digits(real_data):
    train, test = (datasets.load("spoken_digits", subset=subset) for subset in ("train", "test"))
    for found, takes in ((train, range(5, 20)), (test, range(5))):
        names = [path.stem.split("_") for path in found.paths]
        assert_array_equal(found.target, [int(digit) for digit, _, _ in names])
        assert_array_equal(found.groups, [speaker for _, speaker, _ in names])
        expected = {(digit, speaker, take) for digit in range(10) for speaker in set(found.groups) for take in takes}
        assert {(int(digit), speaker, int(take)) for digit, speaker, take in names} == expected
        assert len(names) == 60 * len(takes)


@pytest.fixture
def without_package(monkeypatch, tmp_path):
    """As if palmerpenguins were not installed, and with an empty cache."""
    monkeypatch.setattr(penguins, "find_spec", lambda name: None)
    monkeypatch.setattr(finding, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.delenv("UNVEIL_DATA", raising=False)


def write_table(folder, text=TABLE):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "penguins.csv").write_text(text)
    return folder


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("species", ["Adelie", "Adelie", "Gentoo"]),
        ("island", ["Torgersen", "Dream", "Biscoe"]),
        ("sex", ["male", "", "female"]),
    ],
)
def test_penguins_by_hand(tmp_path, target, expected):
    found = datasets.load("penguins", folder=write_table(tmp_path), target=target)
    nan = np.nan
    assert_array_equal(found.data, [[39.1, 18.7, 181, 3750], [nan, nan, nan, nan], [46.1, nan, 211, 4500]])
    assert_array_equal(found.target, expected)
    assert_array_equal(found.groups, ["Torgersen", "Dream", "Biscoe"])
    assert found.licence.startswith("CC0")


def test_penguins_are_found_where_unveil_data_says(without_package, tmp_path, monkeypatch):
    write_table(tmp_path / "data" / "penguins")
    monkeypatch.setenv("UNVEIL_DATA", str(tmp_path / "data"))
    assert len(datasets.load("penguins").data) == 3
    assert next(each.status for each in datasets.available() if each.name == "penguins") == "local"


def test_missing_penguins_say_where_to_get_them(without_package):
    with pytest.raises(InputError, match=r"install the Python package palmerpenguins, or take .*https://github\.com/allisonhorst"):
        datasets.load("penguins")


def test_penguins_of_the_package(monkeypatch, tmp_path):
    origin = write_table(tmp_path / "palmerpenguins" / "data").parent / "__init__.py"
    monkeypatch.setattr(penguins, "find_spec", lambda name: SimpleNamespace(origin=str(origin)))
    assert len(datasets.load("penguins").data) == 3
    assert next(each.status for each in datasets.available() if each.name == "penguins") == "packaged"


def test_penguins_of_the_real_package_are_complete():
    if importlib.util.find_spec("palmerpenguins") is None:
        pytest.skip("palmerpenguins is not installed: its table is not read")
    found = datasets.load("penguins")
    assert found.data.shape == (344, 4)
    assert np.isnan(found.data).sum() == 8  # two penguins without any measurement
    assert dict(zip(*np.unique(found.target, return_counts=True), strict=True)) == {"Adelie": 152, "Chinstrap": 68, "Gentoo": 124}
    # the means that the authors of the data publish, by species
    means = np.array([np.nanmean(found.data[found.target == name], axis=0) for name in ("Adelie", "Chinstrap", "Gentoo")])
    published = np.array([[38.8, 18.3, 190, 3701], [48.8, 18.4, 196, 3733], [47.5, 15.0, 217, 5076]])
    last_digit = np.array([0.1, 0.1, 1, 1])
    assert_allclose(means / last_digit, published / last_digit, rtol=0, atol=0.5)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text.replace("39.1", "39,1"), "line 2 has more or fewer"),
        (lambda text: text.replace(",female,2008", ""), "line 4 has more or fewer"),
        (lambda text: text.replace("181", "long"), "line 2 has 'long'"),
        (lambda text: text.replace("island", "isle"), "no column island"),
        (lambda text: "", "no column"),
        (lambda text: text.splitlines()[0], "no row"),
    ],
)
def test_a_damaged_table_is_refused_by_name(tmp_path, damage, message):
    folder = write_table(tmp_path, damage(TABLE))
    with pytest.raises(InputError, match=message) as excinfo:
        datasets.load("penguins", folder=folder)
    assert str(folder / "penguins.csv") in str(excinfo.value)
    assert "\n" not in str(excinfo.value)


def test_an_unknown_target_is_refused(tmp_path):
    with pytest.raises(ParameterError, match="species, island, sex; got 'year'"):
        datasets.load("penguins", folder=write_table(tmp_path), target="year")
