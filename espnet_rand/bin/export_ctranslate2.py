"""Write a packed Whisper model as a directory of CTranslate2, for faster-whisper, with the packed file's codes."""

import argparse

from espnet_rand.bin import packed_file
from espnet_rand.bin.command import run
from espnet_rand.export import ctranslate2


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="export_ctranslate2", description=__doc__)
    packed_file.add_export_arguments(parser, "a directory that is not there yet")
    return parser


def export_ctranslate2(args: argparse.Namespace) -> None:
    """Write the directory, and say what it holds."""
    packed_file.export(ctranslate2.export, args)


def main(cmd=None) -> None:
    run(export_ctranslate2, get_parser(), cmd)


if __name__ == "__main__":
    main()
