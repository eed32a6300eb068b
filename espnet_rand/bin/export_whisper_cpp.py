"""Write a packed Whisper model as a file of whisper.cpp, with the packed file's codes."""

import argparse

from espnet_rand.bin import packed_file
from espnet_rand.bin.command import run
from espnet_rand.export import ggml


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="export_whisper_cpp", description=__doc__)
    packed_file.add_export_arguments(parser, "the file, e.g. whisper.q4_0.bin")
    return parser


def export_whisper_cpp(args: argparse.Namespace) -> None:
    """Write the file, and say what it holds."""
    packed_file.export(ggml.export, args)


def main(cmd=None) -> None:
    run(export_whisper_cpp, get_parser(), cmd)


if __name__ == "__main__":
    main()
