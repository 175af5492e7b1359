"""Which data sets there are, where one is on this machine, and its download into the cache where it is not."""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import pkgutil
import shutil
import tarfile
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from unveil.data.datasets.checks import check_choice
from unveil.data.datasets.dataset import KnownSet
from unveil.errors import InputError, ParameterError


class Availability(NamedTuple):
    """Where a data set is: ``status`` is "packaged", "local", "cached" or "missing", and then ``folder`` is None."""

    name: str
    summary: str
    status: str
    folder: Path | None


@functools.cache
def discover() -> dict[str, KnownSet]:
    """Every known set by its name: all the modules in this folder are looked through for subclasses of `KnownSet`."""
    found = {}
    for module in pkgutil.iter_modules([os.path.dirname(__file__)]):
        for member in vars(importlib.import_module(f"{__package__}.{module.name}")).values():
            if inspect.isclass(member) and issubclass(member, KnownSet) and not inspect.isabstract(member):
                found[member.name] = member()
    return dict(sorted(found.items(), key=lambda item: (item[1].rank, item[0])))


def find(name: str, options: dict, folder: str | os.PathLike | None = None) -> tuple[KnownSet, Path, dict]:
    """The set of that name, the folder that holds it, and its complete options; it is downloaded if need be."""
    if name not in discover():
        raise ParameterError(f"unknown data set {name!r}; the known ones are {', '.join(discover())}")
    known = discover()[name]
    options = _complete(known, options)
    return known, _locate(known, options.get(known.part_option), folder), options


def availability(known: KnownSet) -> Availability:
    """Where any part of a set is on this machine."""
    for status, place in _places(known).items():
        if known.holds(place, None):
            return Availability(known.name, known.summary, status, place)
    return Availability(known.name, known.summary, "missing", None)


def cache_folder() -> Path:
    """Where downloaded data sets are kept: this user's cache folder."""
    import pooch

    return Path(pooch.os_cache("unveil"))


def _complete(known: KnownSet, options: dict) -> dict:
    """Fill in the defaults of the options, after a check of their names and of the part."""
    _, *parameters = inspect.signature(known.read).parameters.values()
    defaults = {parameter.name: parameter.default for parameter in parameters}
    for option in options:
        if option not in defaults:
            raise ParameterError(f"{known.name} has no option {option!r}; its options are {', '.join(defaults)}")
    options = defaults | options
    part = options.get(known.part_option)
    if known.files:
        check_choice(known.part_option, part, known.files)
    elif known.part_option and (not isinstance(part, str) or not part):
        raise ParameterError(f"expected {known.part_option} to be a name; got {part!r}")
    return options


def _places(known: KnownSet) -> dict[str, Path]:
    """The folders in which to look for a set, in order, by status; the last is the one to download into."""
    if known.packaged:
        return {"packaged": known.packaged}
    root = os.environ.get("UNVEIL_DATA")
    local = {"local": Path(root).expanduser() / known.name} if root else {}
    return local | {"cached": cache_folder() / known.name}


def _locate(known: KnownSet, part: str | None, folder: str | os.PathLike | None) -> Path:
    places = list(_places(known).values()) if folder is None else [Path(folder).expanduser()]
    for place in places:
        if known.holds(place, part):
            return place
    downloads = known.downloads(part) if folder is None else {}
    if not downloads:
        raise _missing(known, part, places)
    _download(known, part, downloads, places)
    return places[-1]


def _missing(known: KnownSet, part: str | None, places: list[Path], reason: str = "") -> InputError:
    what = f"{known.name} ({part})" if part else known.name
    looked = " or ".join(map(str, places))
    return InputError(f"{what}: not found in {looked}{reason}; {known.origin} and put the files into {places[0]}")


def _download(known: KnownSet, part: str | None, downloads: dict[str, str], places: list[Path]) -> None:
    """Download into a temporary folder of the cache, check, unpack, and only then move into the last place."""
    import requests

    target = places[-1]
    created = [folder for folder in (target, *target.parents) if not folder.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{known.name}-") as staging:
            for url, checksum in downloads.items():
                _retrieve(url, checksum, Path(staging, known.name))
            shutil.copytree(Path(staging, known.name), target, copy_function=os.replace, dirs_exist_ok=True)  # it moves
    except requests.RequestException as error:
        status = type(error).__name__ if error.response is None else f"HTTP status {error.response.status_code}"
        raise _missing(known, part, places, f", and {url} cannot be downloaded ({status})") from error
    except ValueError as error:  # this is how pooch says that the checksum differs
        reason = f", and what came from {url} is not the expected file (its checksum differs)"
        raise _missing(known, part, places, reason) from error
    except (OSError, tarfile.TarError) as error:
        raise InputError(f"{known.name}: cannot write into {target} ({error}); free space, or allow writing") from error
    finally:
        for folder in created:  # those that are left empty by a failure
            with suppress(OSError):
                folder.rmdir()


def _retrieve(url: str, checksum: str, folder: Path) -> None:
    import pooch

    name = url.rpartition("/")[2]
    downloader = pooch.HTTPDownloader(chunk_size=1 << 20)
    pooch.retrieve(url, known_hash=checksum, fname=name, path=folder, downloader=downloader)
    if name.endswith(".tar.gz"):
        with tarfile.open(folder / name) as archive:
            archive.extraction_filter = getattr(tarfile, "data_filter", None)  # absent before Python 3.11.4
            archive.extractall(folder)
        (folder / name).unlink()
