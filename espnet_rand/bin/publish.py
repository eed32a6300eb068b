"""Make a folder of a packed model that ESPnet's users load by its name, and upload it to the Hugging Face hub.

The folder has the packed file, its configuration with relative paths, the files that it names, and a model card. It is
loaded once as a user would, in a process of its own. Nothing is uploaded without --repo.
"""

import argparse
from pathlib import Path

from espnet_rand.bin.command import run
from espnet_rand.errors import MissingFileError
from espnet_rand.publishing import Publication, publish
from espnet_rand.publishing.account import add_arguments, read
from espnet_rand.toolkit import zoo
from espnet_rand.toolkit.commands import checkpoints


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="publish", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    checkpoints.add_packed_arguments(parser)
    parser.add_argument(
        "--output", dest="output_dir", type=Path, required=True, help="the folder; an earlier one is replaced"
    )
    parser.add_argument("--repo", help="USER/NAME on the hub, to upload to")
    parser.add_argument(
        "--exported", type=Path, nargs="+", default=[], help="folders or files for other runtimes, to go with it"
    )
    zoo.add_search_arguments(parser)
    parser.add_argument(
        "--with_float",
        choices=("true", "false"),
        default="false",
        help="add a checkpoint that ESPnet decodes without this package (default: false)",
    )
    add_arguments(parser)
    return parser


def publish_model(args: argparse.Namespace) -> None:
    """Make the folder, and say which files are in it."""
    packed = checkpoints.read_model_file(args)
    config = args.train_config or args.model_file.parent / "config.yaml"
    if not config.is_file():
        raise MissingFileError(f"--train_config: no such file: {config}. Fix: give config.yaml of the training")
    what = Publication(
        args.model_file,
        packed,
        config,
        args.task,
        read(args),
        args.output_dir,
        args.exported,
        args.with_float == "true",
        args.repo,
        args.search_conf,
    )
    for name in publish(what):
        print(name)


def main(cmd=None) -> None:
    run(publish_model, get_parser(), cmd)


if __name__ == "__main__":
    main()
