"""Pack a model trained with quantization into one small file."""

import argparse

from espnet_rand.bin.command import run
from espnet_rand.bin.packed_file import save
from espnet_rand.errors import QuantizationError
from espnet_rand.layers import quantized_layers
from espnet_rand.toolkit import eval_bits
from espnet_rand.toolkit.commands import checkpoints
from espnet_rand.toolkit.pretrained.fitting import PretrainedError


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="pack_weights", description=__doc__)
    checkpoints.add_arguments(parser)
    checkpoints.add_packing_arguments(parser)
    return parser


def pack_weights(args: argparse.Namespace) -> None:
    """Write the codes that the model evaluates with, and the rest of its checkpoint."""
    if args.model_file is None:
        raise PretrainedError("--model_file is not given: only a trained model is packed as it is")
    bits = eval_bits.command_precision(args)
    model, _ = checkpoints.load(args)
    if not quantized_layers(model):
        raise QuantizationError(
            "the model was trained in float: there is nothing to pack. Fix: espnet_rand.bin.quantize_weights rounds "
            "its weights; for few bits, espnet_rand.bin.calibrate_weights first"
        )
    save(checkpoints.pack(model, bits), args.output)


def main(cmd=None) -> None:
    run(pack_weights, get_parser(), cmd)


if __name__ == "__main__":
    main()
