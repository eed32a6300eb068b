"""Round the weights of any ESPnet checkpoint into a packed file (post-training quantization)."""

import argparse

from espnet_rand.bin.command import run
from espnet_rand.bin.packed_file import save
from espnet_rand.errors import QuantizationError
from espnet_rand.toolkit import eval_bits, options
from espnet_rand.toolkit.commands import checkpoints


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="quantize_weights", description=__doc__)
    checkpoints.add_arguments(parser)
    checkpoints.add_packing_arguments(parser)
    options.add_arguments(parser)
    return parser


def quantize_weights(args: argparse.Namespace) -> None:
    """Quantize a float checkpoint as the options say, and pack it."""
    if options.resolve(args) is None:
        raise QuantizationError("--quantizer is not given: absmax rounds to nearest, clip searches the best range")
    bits = eval_bits.command_precision(args)
    model, _ = checkpoints.load_quantized(args)
    save(checkpoints.pack(model, bits), args.output)


def main(cmd=None) -> None:
    run(quantize_weights, get_parser(), cmd)


if __name__ == "__main__":
    main()
