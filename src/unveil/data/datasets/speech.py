"""Speech: LibriSpeech and spoken digits."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from unveil.data.datasets.checks import check_choice, check_count, reading, selection
from unveil.data.datasets.dataset import Dataset, KnownSet, Recordings, read_recordings
from unveil.data.files import open_audio
from unveil.errors import InputError

LIBRISPEECH_URL = "https://www.openslr.org/resources/12/"
LIBRISPEECH_MD5 = {
    "test-other": "fb5a50374b501bb3bac4815ee91d3135",
    "train-clean-100": "2a93770f6d5c6c964bc36631d331a522",
}
_UTTERANCE = re.compile(r"(\d+)-(\d+)-(\d+)\.flac")  # {subset}/{speaker}/{chapter}/{speaker}-{chapter}-{utterance}.flac
_SPOKEN_DIGIT = re.compile(r"([0-9])_([^_]+)_(\d+)\.wav")  # {digit}_{speaker}_{take}.wav
_TEST_TAKES = range(5)  # the split that the authors of the spoken digits define


class LibriSpeech(KnownSet):
    """Read speech; the groups are the speakers, and ``group_info`` tells their sexes."""

    name = "librispeech"
    summary = "read English speech, 16000 Hz, by subset, speaker and chapter"
    licence = "CC BY 4.0: V. Panayotov, G. Chen, D. Povey and S. Khudanpur, LibriSpeech"
    origin = "unpack the subset's .tar.gz from https://www.openslr.org/12"
    rank = 2
    part_option = "subset"

    def holds(self, folder: Path, part: str | None) -> bool:
        """Whether there is speech of the subset."""
        return any(folder.rglob("*.flac")) if part is None else _subset_folder(folder, part) is not None

    def downloads(self, part: str) -> dict[str, str]:
        """The archive of the subset."""
        return {f"{LIBRISPEECH_URL}{part}.tar.gz": f"md5:{LIBRISPEECH_MD5[part]}"} if part in LIBRISPEECH_MD5 else {}

    def read(self, folder: Path, subset="test-other", speakers=None, max_per_speaker=None, sample_rate=None) -> Dataset:
        """Find the recordings of a ``subset``, which are read when they are asked for.

        ``speakers``: a list; ``max_per_speaker``: how many, the first ones; ``sample_rate``: in hertz, instead of the files' own.
        """
        check_count("max_per_speaker", max_per_speaker)
        check_count("sample_rate", sample_rate)
        place = _subset_folder(folder, subset)
        utterances = _utterances(place)
        if speakers is not None:
            speakers = [str(speaker) for speaker in np.atleast_1d(speakers)]
        chosen = selection("speakers", speakers, utterances)
        kept = [(speaker, path) for speaker in chosen for path in utterances[speaker][:max_per_speaker]]
        groups, paths = map(list, zip(*kept, strict=True))
        if sample_rate is None:
            with open_audio(paths[0]) as file:  # one rate for all of LibriSpeech
                sample_rate = file.samplerate
        sexes = _speaker_sexes(place)
        known = {speaker: sexes[speaker] for speaker in chosen if speaker in sexes}
        data = Recordings(paths, sample_rate)
        return self.dataset(data, sample_rate=sample_rate, groups=np.array(groups), group_info=known, paths=paths)


def _subset_folder(folder: Path, subset: str) -> Path | None:
    places = (folder / name for name in (subset, f"librispeech_{subset}", f"LibriSpeech/{subset}"))
    return next((place for place in places if any(place.rglob("*.flac"))), None)


def _utterances(folder: Path) -> dict[str, list[Path]]:
    """The files of each speaker; speakers, chapters and utterances in numerical order."""
    found = []
    for path in folder.rglob("*.flac"):
        name = _UTTERANCE.fullmatch(path.name)
        if not name:
            raise InputError(f"{path}: expected a name like 1688-142285-0000.flac (speaker-chapter-utterance)")
        found.append((*map(int, name.groups()), path))
    utterances: dict[str, list[Path]] = {}
    for speaker, _, _, path in sorted(found):
        utterances.setdefault(str(speaker), []).append(path)
    return utterances


def _speaker_sexes(folder: Path) -> dict[str, str]:
    """Sex of each speaker from SPEAKERS.TXT, which lists the whole corpus, so the copy of any subset will do."""
    places = [folder, folder / "LibriSpeech", folder.parent, *sorted(folder.parent.glob("*/"))]
    for path in (place / "SPEAKERS.TXT" for place in places):
        if path.is_file():
            with reading(path):
                lines = [line.split("|") for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith(";")]
            return {fields[0].strip(): fields[1].strip() for fields in lines if len(fields) > 1}
    return {}


class SpokenDigits(KnownSet):
    """Spoken digits; the target is the digit, the groups are the speakers."""

    name = "spoken_digits"
    summary = "spoken English digits, 8000 Hz: the Free Spoken Digit Dataset"
    licence = "CC BY-SA 4.0: Z. Jackson and others, Free Spoken Digit Dataset"
    origin = "take the folder recordings of https://github.com/Jakobovski/free-spoken-digit-dataset"
    rank = 2

    def holds(self, folder: Path, part: str | None) -> bool:
        """Whether there is a file with the name of a spoken digit."""
        return any(_spoken_digits(folder))

    def read(self, folder: Path, subset="all", digits=None, speakers=None, sample_rate=None) -> Dataset:
        """Read the ``subset`` "all", "train" or "test" (takes 0 to 4); ``digits`` and ``speakers``: lists, or None for all."""
        check_choice("subset", subset, ("all", "train", "test"))
        found = sorted(_spoken_digits(folder))
        digits = selection("digits", digits, range(10))
        speakers = selection("speakers", speakers, sorted({speaker for _, speaker, _, _ in found}))
        kept = [
            (digit, speaker, path)
            for digit, speaker, take, path in found
            if digit in digits and speaker in speakers and subset in ("all", "test" if take in _TEST_TAKES else "train")
        ]
        if not kept:
            raise InputError(f"{folder}: no recording of these digits and speakers in the subset {subset!r}; choose others")
        target, groups, paths = map(list, zip(*kept, strict=True))
        data, rate = read_recordings(paths, sample_rate)
        return self.dataset(data, np.array(target), sample_rate=rate, groups=np.array(groups), paths=paths)


def _spoken_digits(folder: Path) -> Iterator[tuple[int, str, int, Path]]:
    """Digit, speaker, take and file."""
    for path in (*folder.glob("*.wav"), *folder.glob("recordings/*.wav")):
        if name := _SPOKEN_DIGIT.fullmatch(path.name):
            yield int(name[1]), name[2], int(name[3]), path
