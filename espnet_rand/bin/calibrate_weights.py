"""Choose how the weights of a float checkpoint round, by data (post-training quantization).

Runs the float model on some utterances. Chooses the scales of linear layers and convolutions by clip search in which a
weight counts as much as its inputs do, and rounds so that other weights make up for the error of each (GPTQ). The
checkpoint that it writes has float weights that round to these codes, and the learned scales: for quantize_weights,
allocate_bits and --init_param with the same quantizer.
"""

import argparse
from pathlib import Path
from statistics import fmean
from typing import List

from espnet_rand.atomic import write_tensors
from espnet_rand.bin.command import run
from espnet_rand.calibration import Calibration, calibrate
from espnet_rand.reporting import following
from espnet_rand.toolkit import context, options
from espnet_rand.toolkit.commands import checkpoints, validation


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="calibrate_weights", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    checkpoints.add_arguments(parser)
    options.add_arguments(parser)
    validation.add_arguments(parser)
    parser.add_argument(
        "--propagate",
        choices=("true", "false"),
        default="false",
        help="Calibrate layer after layer, and let each make up for the errors before it: better at 3 bits and fewer, "
        "and several times slower",
    )
    parser.add_argument("--output", type=Path, required=True, help="the checkpoint, e.g. valid.acc.ave.calibrated.pth")
    return parser


def calibrate_weights(args: argparse.Namespace) -> None:
    """Write the calibrated checkpoint, and say how the errors of outputs and the loss changed."""
    device = context.device(args.ngpu)
    model, trained = checkpoints.load_quantized(args)
    model.eval().to(device)
    data = validation.Validation(args, checkpoints.find_task(args.task), model, trained)
    done = calibrate(model, data.loss, lambda names: following([*names], "weights"), args.propagate == "true")
    after = data.loss()
    write_tensors(args.output, model.cpu().state_dict())
    _say(done)
    print(f"loss {data.first_loss:.4f} rounded, {after:.4f} calibrated, on the same data\n{args.output}")


def _say(done: List[Calibration]) -> None:
    """Print the error of each layer's outputs, before and after."""
    print(f"{'error of outputs':60} {'rounded':>9} {'calibrated':>10}")
    for one in done:
        print(f"{one.name:60} " + (one.reason or f"{one.error_before:9.4%} {one.error_after:10.4%}"))
    found = [one for one in done if not one.reason]
    before, after = fmean(one.error_before for one in found), fmean(one.error_after for one in found)
    print(f"{f'mean of {len(found)} weights':60} {before:9.4%} {after:10.4%}")


def main(cmd=None) -> None:
    run(calibrate_weights, get_parser(), cmd)


if __name__ == "__main__":
    main()
