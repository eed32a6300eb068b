"""Say what packed files hold: layers, bits, scales, bytes, and the ratio to float32; and draw it."""

import argparse
from pathlib import Path
from typing import Dict, List

from espnet_rand.bin.command import run
from espnet_rand.bin.packed_file import say
from espnet_rand.errors import few
from espnet_rand.options import OptionError
from espnet_rand.packing import PackedModel, picture, read_packed

# names in a line
_SHOWN = 3


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="inspect_weights", description=__doc__)
    parser.add_argument("packed_file", type=Path, nargs="+", help="several are drawn side by side")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="a picture of bits and bytes, e.g. weights.png")
    parser.add_argument(
        "--float_model", metavar="MODEL", help="with --plot: what errors are measured against: what --init_param takes"
    )
    return parser


def inspect_weights(args: argparse.Namespace) -> None:
    """Print the tables and the metadata, and draw them if that is asked for.

    Raises:
        PictureError, OptionError, NotInstalledError: the picture cannot be drawn as asked
        PackedFileError, PretrainedError: a file cannot be read, or the float model has none of the weights
    """
    if args.plot is not None:
        picture.check(args.plot)
        if args.plot.resolve() in {path.resolve() for path in args.packed_file}:
            raise OptionError(
                f"--plot: {args.plot} is a packed file, which the picture would replace. Fix: name another file"
            )
    elif args.float_model is not None:
        raise OptionError("--float_model: errors are drawn, not printed. Fix: add --plot FILE.png")
    models = {}
    for path in args.packed_file:
        models[path] = packed = read_packed(path)
        if len(args.packed_file) > 1:
            print(f"{path}:")
        for line in (f"{name}: {value}" for name, value in packed.info.items()):
            print(line if line.isprintable() else ascii(line))  # the file may be from anybody
        say(packed, path)
    if args.plot is not None:
        _draw(args, models)


def _draw(args: argparse.Namespace, models: Dict[Path, PackedModel]) -> None:
    """Draw packed files side by side."""
    labels = {
        path: f"{packed.average_bits():.2f} bits, {path.stat().st_size:,} bytes: {path}"
        for path, packed in models.items()
    }
    errors = {} if args.float_model is None else _errors(args.float_model, models)
    picture.draw(
        args.plot,
        {labels[path]: packed for path, packed in models.items()},
        {labels[path]: found for path, found in errors.items()},
        f"squared error against {args.float_model}, of the weight's square",
    )
    print(args.plot)


def _errors(float_model: str, models: Dict[Path, PackedModel]) -> Dict[Path, Dict[str, float]]:
    """The errors of each file's weights, by name."""
    from espnet_rand.toolkit.pretrained.sources import open_pretrained, read_weights  # seconds: ESPnet is imported

    with open_pretrained(float_model) as files:
        floats = read_weights(files.model_file)
    found = {path: picture.errors(packed, floats) for path, packed in models.items()}
    for path, packed in models.items():
        missing: List[str] = [name for name in packed.weights if name not in found[path]]
        if len(missing) == len(packed.weights):
            raise OptionError(
                f"--float_model: {float_model} has none of the weights of {path}, or of other shapes, or not finite. "
                "Fix: give the float model that it was made of"
            )
        if missing:
            shown = few(missing, _SHOWN)
            print(f"{path}: no error is drawn for {shown}: not in {float_model}, or of another shape, or not finite")
    return found


def main(cmd=None) -> None:
    run(inspect_weights, get_parser(), cmd)


if __name__ == "__main__":
    main()
