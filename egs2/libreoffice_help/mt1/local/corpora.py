"""Reads translations that are somewhere already: the files of multi30k, or data directories."""

import gzip
import zlib
from pathlib import Path
from typing import Dict, Iterable, List, Optional, Tuple

from pairs import Pair

from espnet_rand.kaldi import DataError, read_lines

#: What the files of multi30k's sets are named, in order of preference.
MULTI30K = {
    "train": ("train",),
    "dev": ("val", "dev", "valid"),
    "test": ("test_2016_flickr", "flickr2016", "test2016", "test"),
}


def read_text(path: Path) -> List[str]:
    """Read the lines of a text, which may be gzipped.

    Raises:
        DataError: it is damaged, or not UTF-8
    """
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
            return [line.strip() for line in file]
    except (OSError, EOFError, UnicodeError, zlib.error) as e:
        raise DataError(f"{path}: not to be read: {e}. Fix: get it again") from None


def find_text(folder: Path, names: Tuple[str, ...], language: str) -> Optional[Path]:
    """Find the text of a set below a folder: the first of these names that is there."""
    files = (f"{name}.{language}{suffix}" for name in names for suffix in ("", ".gz"))
    return next((path for file in files for path in sorted(folder.rglob(file))), None)


def spoken(pairs: Iterable[Pair], path: Path) -> List[Pair]:
    """Return the pairs that have a text in both languages, and say how many have not."""
    rows = list(pairs)
    kept = [pair for pair in rows if pair.source and pair.target]
    if len(kept) < len(rows):
        print(f"{path}: {len(rows) - len(kept)} of {len(rows)} sentences, or their translations, are empty: left out")
    return kept


def read_multi30k(folder: Path, languages: Tuple[str, str]) -> Dict[str, List[Pair]]:
    """Read the sets of multi30k below a folder: train, dev, test.

    Raises:
        DataError: a file is not there, or two of a set have not as many lines
    """
    sets = {}
    for part, names in MULTI30K.items():
        paths = [find_text(folder, names, language) for language in languages]
        for language, path in zip(languages, paths):
            if path is None:
                raise DataError(
                    f"{folder}: no {names[0]}.{language} (.gz) is below it. Fix: get multi30k's data/task1/raw"
                )
        texts = [read_text(path) for path in paths]
        if len(texts[0]) != len(texts[1]):
            raise DataError(f"{paths[1]} has not as many lines as {paths[0]}. Fix: take both from one folder")
        sets[part] = spoken((Pair(f"{part}-{i:05d}", *pair) for i, pair in enumerate(zip(*texts), 1)), paths[0])
    return sets


def read_folders(folder: Path, languages: Tuple[str, str]) -> Dict[str, List[Pair]]:
    """Read the data directories train, dev, test, test_NAME of a folder: text.SRC, text.TGT, or text.src, text.

    Raises:
        DataError: a file is not there, or the two of a set have other keys
    """
    sets = {}
    more = sorted(path.name for path in folder.glob("test_*") if path.is_dir())
    for part in ["train", "dev", "test", *more]:
        names = [[f"text.{language}" for language in languages], ["text.src", "text"]]
        found = [[folder / part / name for name in both] for both in names]
        paths = next((both for both in found if all(path.is_file() for path in both)), None)
        if paths is None:
            either = " nor ".join(" and ".join(both) for both in names)
            raise DataError(f"{folder / part}: has neither {either}. Fix: give it one of these two pairs of files")
        source, target = map(read_lines, paths)
        if source.keys() != target.keys():
            alone = min(source.keys() ^ target.keys())
            raise DataError(f"{alone} is in one of {paths[0]} and {paths[1]} alone. Fix: give both the same keys")
        sets[part] = spoken((Pair(key, text, target[key]) for key, text in source.items()), paths[0])
    return sets
