"""Data in files equals the same data in memory, however it is cut; what cannot be used is named by file and place."""

import pickle
import struct
import zipfile

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import soundfile
import torch
from numpy.testing import assert_allclose, assert_array_equal

from unveil.data.streams import open_batches
from unveil.errors import InputError

CUTS = [1, 2, 3, 5, 7, 12, 1000]
LENGTHS = [5, 1, 4, 2]


def table(n_rows=12, n_features=3, seed=0):
    return np.random.default_rng(seed).normal(size=(n_rows, n_features))


def sequences():
    return np.split(table(), np.cumsum(LENGTHS)[:-1])


def assert_holds(path, expected, lengths, rtol=0.0, atol=0.0, **options):
    """The file holds ``expected``, in sequences of these lengths, for every cut into batches."""
    source = open_batches(path, **options)
    assert (source.n_steps, source.n_features, source.n_sequences) == (*expected.shape, len(lengths))
    for batch_steps in CUTS:
        batches = list(source.replace(batch_steps=batch_steps))
        assert_allclose(torch.cat([each.values for each in batches]), expected, rtol=rtol, atol=atol)
        assert torch.cat([each.lengths for each in batches]).tolist() == list(lengths)
        points = list(source.as_points().replace(batch_steps=batch_steps))
        assert max(each.n_steps for each in points) <= batch_steps
        assert_allclose(torch.cat([each.values for each in points]), expected, rtol=rtol, atol=atol)


def write_parquet(path, columns, row_group_size=None):
    pyarrow.parquet.write_table(pyarrow.table(columns), path, row_group_size=row_group_size)


# ---- arrays --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int16, np.uint8, np.bool_, np.float16, ">f8", ">i4"])
def test_npy_table(tmp_path, dtype):
    values = (10 * table()).astype(dtype)
    np.save(tmp_path / "x.npy", values)
    assert_holds(tmp_path / "x.npy", values.astype(np.float64), [12])


def test_npy_of_one_dimension_is_one_column(tmp_path):
    np.save(tmp_path / "x.npy", table()[:, 0])
    assert_holds(tmp_path / "x.npy", table()[:, :1], [12])


def test_npy_of_three_dimensions_is_many_sequences(tmp_path):
    np.save(tmp_path / "x.npy", table().reshape(4, 3, 3))
    assert_holds(tmp_path / "x.npy", table(), [3, 3, 3, 3])


@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
def test_npy_versions(tmp_path, version):
    with open(tmp_path / "x.npy", "wb") as file:
        np.lib.format.write_array(file, table(), version=version)
    assert_holds(tmp_path / "x.npy", table(), [12])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_of_a_table_for_each_sequence(tmp_path, save):
    save(tmp_path / "x.npz", **{f"s{i}": each for i, each in enumerate(sequences())})
    assert_holds(tmp_path / "x.npz", table(), LENGTHS)


def test_npz_members_come_in_the_order_of_their_numbers(tmp_path):
    np.savez(tmp_path / "x.npz", **{f"s{i}": np.full((1, 1), i) for i in (10, 2, 1, 11, 0)})
    assert_holds(tmp_path / "x.npz", np.array([[0.0], [1], [2], [10], [11]]), [1] * 5)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("division", [{}, {"lengths": LENGTHS}, {"offsets": [0, 5, 6, 10, 12]}], ids=["one", "lengths", "offsets"])
def test_npz_of_values_and_their_division(tmp_path, save, division):
    save(tmp_path / "x.npz", values=table(), **division)
    assert_holds(tmp_path / "x.npz", table(), LENGTHS if division else [12])


# ---- tables --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row_group_size", [1, 4, 5, 12, 100])
def test_parquet_with_row_groups(tmp_path, row_group_size):
    write_parquet(tmp_path / "x.parquet", {name: table()[:, i] for i, name in enumerate("abc")}, row_group_size)
    assert_holds(tmp_path / "x.parquet", table(), [12])


@pytest.mark.parametrize("row_group_size", [2, 5, 100])
@pytest.mark.parametrize("names", [[7, 8, 2, 7], ["b", "a", "c", "b"]], ids=["numbers", "strings"])
def test_parquet_with_a_column_of_sequences(tmp_path, row_group_size, names):
    columns = {"a": table()[:, 0], "sequence": np.repeat(names, LENGTHS), "b": table()[:, 1]}
    write_parquet(tmp_path / "x.parquet", columns, row_group_size)
    assert_holds(tmp_path / "x.parquet", table()[:, :2], LENGTHS)


def test_parquet_columns_that_are_not_numbers_are_left_out(tmp_path):
    whole, yes = np.arange(12), np.arange(12) % 2 == 0
    columns = {"name": ["x"] * 12, "whole": whole, "yes": yes, "single": table()[:, 0].astype(np.float32)}
    write_parquet(tmp_path / "x.parquet", columns)
    expected = np.stack([whole, yes, table()[:, 0].astype(np.float32)], axis=1)
    assert_holds(tmp_path / "x.parquet", expected, [12])


def test_parquet_missing_values_are_nan(tmp_path):
    write_parquet(tmp_path / "x.parquet", {"a": [1, None, 3], "b": [0.5, 0.25, None]})
    (batch,) = open_batches(tmp_path / "x.parquet").replace(allow_nan=True)
    assert_array_equal(batch.values, [[1.0, 0.5], [np.nan, 0.25], [3.0, np.nan]])


@pytest.mark.parametrize("header", ["", "one,two,three\n", '"a b",c,"d"\n'], ids=["none", "names", "quoted"])
@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["plain", "byte order mark"])
def test_csv_with_and_without_a_header(tmp_path, header, mark):
    lines = "".join(",".join(map(repr, row)) + "\n" for row in table().tolist())
    (tmp_path / "x.csv").write_text(mark + header + lines, encoding="utf-8")
    assert_holds(tmp_path / "x.csv", table(), [12])


@pytest.mark.parametrize(("suffix", "separator"), [(".tsv", "\t"), (".txt", "  ")])
def test_other_separators(tmp_path, suffix, separator):
    path = tmp_path / f"x{suffix}"
    path.write_text("".join(separator.join(map(repr, row)) + "\n" for row in table().tolist()))
    assert_holds(path, table(), [12])


def test_csv_of_one_column_and_of_one_row(tmp_path):
    (tmp_path / "column.csv").write_text("1\n2\n3\n")
    (tmp_path / "row.csv").write_text("1,2,3\n")
    assert_holds(tmp_path / "column.csv", np.array([[1.0], [2.0], [3.0]]), [3])
    assert_holds(tmp_path / "row.csv", np.array([[1.0, 2.0, 3.0]]), [1])


def test_a_folder_of_tables_of_every_kind(tmp_path):
    parts = sequences()
    np.save(tmp_path / "1.npy", parts[0])
    (tmp_path / "2.csv").write_text("a,b,c\n" + ",".join(map(repr, parts[1][0].tolist())) + "\n")
    write_parquet(tmp_path / "3.parquet", {name: parts[2][:, i] for i, name in enumerate("abc")}, 3)
    (tmp_path / "4.tsv").write_text("".join("\t".join(map(repr, row)) + "\n" for row in parts[3].tolist()))
    (tmp_path / "README.md").write_text("not data")
    assert_holds(tmp_path, table(), LENGTHS)


# ---- sound ---------------------------------------------------------------------------------------------------------------


def spectra(samples, rate):
    """Magnitudes of windowed frames, one by one, with a window of the power of two nearest to 150 ms and a hop of a quarter."""
    n_fft = 2 ** round(np.log2(0.15 * rate))
    hop, window = n_fft // 4, 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    padded = np.concatenate([np.zeros(n_fft // 2), samples, np.zeros(n_fft)])
    return np.array([np.abs(np.fft.rfft(window * padded[start : start + n_fft])) for start in range(0, len(samples) + 1, hop)])


def sounds():
    rng = np.random.default_rng(1)
    return [0.1 * rng.normal(size=n) for n in (3000, 500, 2049)]


def write_sounds(folder, rate=8000):
    for name, samples in zip(("a.wav", "b.flac", "deeper/c.wav"), sounds(), strict=True):
        (folder / name).parent.mkdir(exist_ok=True)
        soundfile.write(folder / name, samples, rate, subtype="DOUBLE" if name.endswith("wav") else "PCM_24")


def test_a_folder_of_sounds_is_a_sequence_of_spectra_for_each(tmp_path):
    write_sounds(tmp_path)
    expected = [spectra(samples, 8000) for samples in sounds()]
    lengths = [len(each) for each in expected]
    assert_holds(tmp_path, np.concatenate(expected), lengths, atol=1e-4, sample_rate=8000)


def test_a_sound_is_one_sequence(tmp_path):
    write_sounds(tmp_path)
    expected = spectra(sounds()[0], 8000)
    assert_holds(tmp_path / "a.wav", expected, [len(expected)], atol=1e-9, sample_rate=8000)


def test_channels_are_averaged(tmp_path):
    left, right = sounds()[0], sounds()[0][::-1]
    soundfile.write(tmp_path / "x.wav", np.stack([left, right], 1), 8000, subtype="DOUBLE")
    expected = spectra((left + right) / 2, 8000)
    assert_holds(tmp_path / "x.wav", expected, [len(expected)], atol=1e-9, sample_rate=8000)


@pytest.mark.parametrize("rate", [6000, 11025, 16000])
def test_sounds_of_another_rate_have_as_many_frames_as_promised(tmp_path, rate):
    write_sounds(tmp_path)
    n_fft = 2 ** round(np.log2(0.15 * rate))
    source = open_batches(tmp_path, sample_rate=rate)
    lengths = [int(np.ceil(len(samples) * rate / 8000)) // (n_fft // 4) + 1 for samples in sounds()]
    assert np.diff(source.offsets).tolist() == lengths
    assert sum(batch.n_steps for batch in source.replace(batch_steps=2)) == sum(lengths)


# ---- what cannot be used -------------------------------------------------------------------------------------------------


def refused(path, message, read=True, **options):
    def go_through():
        source = open_batches(path, **options)
        if read:
            list(source.replace(batch_steps=2))

    with pytest.raises(InputError, match=message) as caught:
        go_through()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_no_such_file(tmp_path):
    refused(tmp_path / "x.npy", "x.npy: no such file or folder", read=False)


@pytest.mark.parametrize("name", ["x.npy", "x.npz", "x.parquet", "x.csv", "x.tsv", "x.txt", "x.wav"])
def test_empty_files(tmp_path, name):
    (tmp_path / name).touch()
    refused(tmp_path / name, rf"{name}: the file is empty \(0 bytes\)", read=False)


def test_unknown_suffixes(tmp_path):
    (tmp_path / "x.xlsx").write_text("1,2")
    refused(tmp_path / "x.xlsx", "x.xlsx: unknown kind of file; expected sound, or one of .npy", read=False)


def test_folders_without_data(tmp_path):
    refused(tmp_path, "no sound files in it", read=False)


@pytest.mark.parametrize("keep", [4, 20, 90])
def test_npy_cut_short_in_its_header(tmp_path, keep):
    np.save(tmp_path / "x.npy", table())
    content = (tmp_path / "x.npy").read_bytes()
    (tmp_path / "x.npy").write_bytes(content[:keep])
    refused(tmp_path / "x.npy", "x.npy: not an array in numpy's format", read=False)


@pytest.mark.parametrize("missing", [1, 24, 100])
def test_npy_cut_short_in_its_values(tmp_path, missing):
    np.save(tmp_path / "x.npy", table())
    content = (tmp_path / "x.npy").read_bytes()
    (tmp_path / "x.npy").write_bytes(content[:-missing])
    have = 12 - -(-missing // 24)
    refused(tmp_path / "x.npy", f"x.npy: cut short, its header promises 12 rows and {have} are there")


@pytest.mark.parametrize("content", [b"hello, I am text\n", b"\x93NUMPY\x09\x00", b"PK\x03\x04"])
def test_npy_that_is_something_else(tmp_path, content):
    (tmp_path / "x.npy").write_bytes(content)
    refused(tmp_path / "x.npy", "x.npy: not an array in numpy's format", read=False)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (2, 0, 3), (), (1, 1, 1, 1)])
def test_npy_of_a_shape_that_means_nothing(tmp_path, shape):
    np.save(tmp_path / "x.npy", np.zeros(shape))
    refused(tmp_path / "x.npy", "x.npy: has shape", read=False)


@pytest.mark.parametrize("values", [np.array(["a", "b"]), np.ones((2, 2), dtype=complex), np.zeros(2, dtype=[("a", float)])])
def test_npy_of_something_else_than_numbers(tmp_path, values):
    np.save(tmp_path / "x.npy", values)
    refused(tmp_path / "x.npy", "not numbers; save it as float64", read=False)


@pytest.mark.parametrize("dtype", ["f8", "f4", "i2"])
def test_npy_in_column_order_is_the_same_table(tmp_path, monkeypatch, dtype):
    given = np.asfortranarray(np.arange(30).reshape(3, 5, 2).astype(dtype))
    np.save(tmp_path / "stack.npy", given)
    np.savez(tmp_path / "several.npz", first=given[0], second=given[1])
    stack, several = open_batches(tmp_path / "stack.npy"), open_batches(tmp_path / "several.npz")
    assert_array_equal(np.concatenate([batch.values.numpy() for batch in stack]), given.reshape(15, 2))
    assert_array_equal(np.concatenate([batch.values.numpy() for batch in several]), given[:2].reshape(10, 2))
    assert_array_equal(stack.offsets, [0, 5, 10, 15])
    monkeypatch.setattr("unveil.data.streams.MOST_IN_COLUMN_ORDER", 10)
    refused(tmp_path / "stack.npy", "column order", read=False)


class Trap:
    """Raises the alarm when it is unpickled."""

    def __reduce__(self):
        return pytest.fail, ("something was unpickled",)


def test_a_trap_would_go_off():
    with pytest.raises(pytest.fail.Exception, match="unpickled"):
        pickle.loads(pickle.dumps(Trap()))


def objects():
    return np.array([[Trap()]], dtype=object)


def test_objects_are_never_unpickled(tmp_path):
    np.save(tmp_path / "x.npy", objects(), allow_pickle=True)
    refused(tmp_path / "x.npy", "holds object, not numbers")
    np.savez(tmp_path / "table.npz", a=objects())
    refused(tmp_path / "table.npz", "holds object, not numbers")
    np.savez(tmp_path / "values.npz", values=objects(), lengths=[1])
    refused(tmp_path / "values.npz", "holds object, not numbers")


@pytest.mark.parametrize("name", ["lengths", "offsets"])
def test_divisions_are_never_unpickled(tmp_path, name):
    np.savez(tmp_path / "x.npz", values=table(), **{name: objects()})
    refused(tmp_path / "x.npz", rf"x.npz\[{name}\]: cannot be read", read=False)


@pytest.mark.parametrize(
    ("division", "message"),
    [
        ({"lengths": [5, 5]}, "lengths sum to 10 where X has 12 rows"),
        ({"lengths": [12.0]}, "expected a list of whole numbers"),
        ({"lengths": [12, 0]}, r"lengths\[1\] is 0"),
        ({"offsets": [0, 5, 10]}, "lengths sum to 10"),
        ({"offsets": [0, 8, 5, 12]}, r"lengths\[1\] is -3"),
        ({"offsets": [1, 5, 13]}, r"x.npz\[offsets\]: expected a list of whole numbers that begins with 0, and ends with 12"),
        ({"offsets": 12}, r"x.npz\[offsets\]: expected a list"),
    ],
)
def test_divisions_that_do_not_fit(tmp_path, division, message):
    np.savez(tmp_path / "x.npz", values=table(), **division)
    refused(tmp_path / "x.npz", message, read=False)


def test_npz_that_is_something_else(tmp_path):
    (tmp_path / "x.npz").write_bytes(b"hello")
    refused(tmp_path / "x.npz", "not a .npz archive", read=False)
    with zipfile.ZipFile(tmp_path / "y.npz", "w") as archive:
        archive.writestr("readme.txt", "hello")
    refused(tmp_path / "y.npz", "holds no arrays", read=False)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_cut_short(tmp_path, save):
    save(tmp_path / "x.npz", a=table())
    content = (tmp_path / "x.npz").read_bytes()
    (tmp_path / "x.npz").write_bytes(content[: len(content) // 2])
    refused(tmp_path / "x.npz", "x.npz: damaged or cut short", read=False)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_with_a_damaged_member(tmp_path, save):
    path = tmp_path / "x.npz"
    save(path, a=table(1000))
    content = bytearray(path.read_bytes())
    for at in range(len(content) // 2, len(content) // 2 + 50):
        content[at] ^= 0xFF
    path.write_bytes(content)
    refused(path, r"x.npz\[a\]: damaged")


def test_npz_with_other_columns(tmp_path):
    np.savez(tmp_path / "x.npz", s1=np.zeros((2, 3)), s2=np.zeros((2, 2)))
    refused(tmp_path / "x.npz", "s2 has 2 columns where the first has 3", read=False)


def test_folders_with_other_columns(tmp_path):
    np.save(tmp_path / "1.npy", np.zeros((2, 3)))
    np.save(tmp_path / "2.npy", np.zeros((2, 2)))
    refused(tmp_path, "2.npy: has other columns than 1.npy", read=False)


def test_parquet_that_is_something_else(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"hello")
    refused(tmp_path / "x.parquet", "x.parquet: damaged or not a Parquet file", read=False)


def test_parquet_cut_short(tmp_path):
    write_parquet(tmp_path / "x.parquet", {"a": table()[:, 0]})
    content = (tmp_path / "x.parquet").read_bytes()
    (tmp_path / "x.parquet").write_bytes(content[:-5])
    refused(tmp_path / "x.parquet", "x.parquet: damaged or not a Parquet file", read=False)


@pytest.mark.parametrize("columns", [{"a": ["x", "y"]}, {"sequence": [1, 2]}, {"a": pyarrow.array([], pyarrow.float64())}])
def test_parquet_without_numbers(tmp_path, columns):
    write_parquet(tmp_path / "x.parquet", columns)
    refused(tmp_path / "x.parquet", "expected one of each at least", read=False)


@pytest.mark.parametrize("text", ["a,b\n1,2\n3\n", "1,2\n3,x\n", "1,\n3,x\n", "a,b\nc,d\n"])
def test_csv_that_is_no_table_of_numbers(tmp_path, text):
    (tmp_path / "x.csv").write_text(text)
    refused(tmp_path / "x.csv", "x.csv: not a table of numbers", read=False)


@pytest.mark.parametrize("text", ["1,\nNA,2\n", "x,y\n1, \n,2\n", "\ufeff,y\n1,\n NA,2\n"])
def test_csv_with_what_is_missing(tmp_path, text):
    (tmp_path / "x.csv").write_text(text, encoding="utf-8")
    batches = open_batches(tmp_path / "x.csv").replace(allow_nan=True)
    assert_array_equal(batches.rows.read(0, 2), [[1, np.nan], [np.nan, 2]])


@pytest.mark.filterwarnings("ignore:.*input contained no data")
def test_csv_with_only_a_header(tmp_path):
    (tmp_path / "x.csv").write_text("a,b\n")
    refused(tmp_path / "x.csv", "x.csv: holds no rows", read=False)


def test_csv_that_is_binary(tmp_path):
    (tmp_path / "x.csv").write_bytes(b"\xff\xfe\x00" + struct.pack("8d", *range(8)))
    refused(tmp_path / "x.csv", "x.csv: not a table of numbers", read=False)


def write_with_nan(folder, kind):
    """A NaN in row 7, column 1; where in which file that is."""
    values = table()
    values[7, 1] = np.nan
    path = folder / f"x.{kind}"
    if kind == "npy":
        np.save(path, values)
    elif kind == "npz":
        np.savez(path, values=values)
        return path, f"row 7 of {path}[values], column 1"
    elif kind == "parquet":
        write_parquet(path, {name: values[:, i] for i, name in enumerate("abc")}, 4)
    elif kind == "csv":
        path.write_text("".join(",".join(map(repr, row)) + "\n" for row in values.tolist()))
    else:
        path.mkdir()
        np.save(path / "1.npy", values[:4])
        np.save(path / "2.npy", values[4:])
        return path, f"row 3 of {path / '2.npy'}, column 1"
    return path, f"row 7 of {path}, column 1"


@pytest.mark.parametrize("kind", ["npy", "npz", "parquet", "csv", "folder"])
def test_nan_is_named_by_row_column_and_file(tmp_path, kind):
    path, place = write_with_nan(tmp_path, kind)
    assert f"contains NaN at {place};" in refused(path, "NaN")


def test_frames_are_named_by_their_sound(tmp_path):
    write_sounds(tmp_path)
    source = open_batches(tmp_path, sample_rate=8000)
    first = len(spectra(sounds()[0], 8000))
    assert source.rows.place(first + 1) == f"frame 1 of {tmp_path / 'b.flac'}"


def test_silent_sounds_are_refused_by_name(tmp_path):
    soundfile.write(tmp_path / "x.wav", np.zeros(1000), 8000)
    refused(tmp_path, "x.wav: silent", sample_rate=8000)
