#!/usr/bin/env python3
"""Make data directories of a corpus of translations: each with text.src and text."""

import argparse
import random
import sys
from pathlib import Path

from corpora import read_folders, read_multi30k
from libreoffice import read_help
from pairs import Said, set_of, unsaid, worthy, write_set
from wesnoth import read_game

from espnet_rand.kaldi import DataError

SHARES = {"test": 0.06, "dev": 0.03}  # of the documents
MIN_WORDS = {"libreoffice": 3, "wesnoth": 4}
WESNOTH, SEED = 1000, 1  # pairs that are drawn of the game's


def libreoffice_sets(folder, target):
    """Return the pairs of the help's train, dev and test, by these names."""
    pages = [(set_of(page, SHARES), pairs) for page, pairs in read_help(folder, target)]
    # what stands in several pages is training's, if it stands in one of its
    pages.sort(key=lambda page: page[0] != "train")
    part_of = {pair.key: part for part, pairs in pages for pair in pairs}
    sets = {"train": [], **{part: [] for part in SHARES}}
    for pair in worthy((pair for _, pairs in pages for pair in pairs), MIN_WORDS["libreoffice"]):
        sets[part_of[pair.key]].append(pair)
    return sets


def wesnoth_set(folder, target):
    """Return the game's pairs, in an order that is drawn by a fixed seed."""
    pairs = sorted(worthy(read_game(folder, target), MIN_WORDS["wesnoth"]))
    random.Random(SEED).shuffle(pairs)
    return pairs


def read_sets(args):
    """Return the pairs of each set of the corpus, by its name."""
    languages = ("en", args.target)
    if args.corpus == "multi30k":
        return read_multi30k(args.multi30k, languages)
    if args.corpus != "libreoffice":
        return read_folders(Path(args.corpus), languages)
    sets = libreoffice_sets(args.libreoffice, args.target)
    if args.wesnoth:
        sets["test_wesnoth"] = wesnoth_set(args.wesnoth, args.target)
    said = Said(sets["train"])
    for part, pairs in sets.items():  # in this order: what dev and test have in common stays in test
        if part != "train":
            sets[part] = unsaid(pairs, said)
    sets["test_wesnoth"] = sets.get("test_wesnoth", [])[:WESNOTH]
    return {part: pairs for part, pairs in sets.items() if pairs or part != "test_wesnoth"}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data_dir", type=Path)
    parser.add_argument(
        "--corpus", default="libreoffice", help="libreoffice, multi30k, or a folder of data directories"
    )
    parser.add_argument("--target", default="de", help="the language that English is translated into")
    parser.add_argument("--libreoffice", type=Path, help="has the pages of libreoffice-help-en-us and of the target's")
    parser.add_argument("--wesnoth", type=Path, help="has the catalogues of wesnoth-1.16-data and of its campaigns")
    parser.add_argument("--multi30k", type=Path, help="has multi30k's texts, such as train.en and train.de")
    args = parser.parse_args()
    try:
        for part, pairs in read_sets(args).items():
            write_set(args.data_dir / part, pairs)
    except DataError as e:
        sys.exit(f"{sys.argv[0]}: {e}")


if __name__ == "__main__":
    main()
