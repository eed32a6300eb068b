"""Choose the bits of each weight for a budget: plan files, for --eval_bits.

Measures how much the loss on validation data grows with fewer bits in each weight alone, and solves for the bits that
add the least loss. Takes models that were trained with quantization, best with several precisions (bits: [2, 3, 4, 8]),
and float ones, with --quantizer.
"""

import argparse
import math
import tempfile
from pathlib import Path
from typing import Dict, List, Tuple

import yaml
from scipy.stats import spearmanr
from torch import nn

from espnet_rand.allocation import BudgetError, Table, allocate, candidates, curvature, measured
from espnet_rand.atomic import write_text
from espnet_rand.bin.command import run
from espnet_rand.layers import EvalBits, evaluating_at
from espnet_rand.options import a_precision
from espnet_rand.packing import PackedModel, write_packed
from espnet_rand.packing.bits import row_bytes
from espnet_rand.reporting import following
from espnet_rand.toolkit import context, options
from espnet_rand.toolkit.commands import checkpoints, validation


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="allocate_bits", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    checkpoints.add_arguments(parser)
    options.add_arguments(parser)
    validation.add_arguments(parser)
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument(
        "--target_mb",
        type=float,
        nargs="+",
        metavar="MB",
        help="largest packed file, in 1,000,000 bytes; a plan for each",
    )
    budget.add_argument(
        "--average_bits",
        type=float,
        nargs="+",
        metavar="BITS",
        help="largest mean over quantized weights; a plan for each",
    )
    parser.add_argument("--bits", type=int, nargs="+", default=[2, 3, 4, 5, 6, 8], help="those that a weight may get")
    parser.add_argument(
        "--sensitivity",
        choices=("mean", "measured", "curvature"),
        default="mean",
        help="measured: by evaluations, one for each weight and number of bits; curvature: estimated by 16 gradients, "
        "which is much faster; mean: of both, which made the best plans on egs2/mini/asr1",
    )
    parser.add_argument(
        "--output_dir",
        type=Path,
        required=True,
        help="for average_BITS.yaml or mb_MB.yaml, and sensitivity.yaml",
    )
    return parser


def allocate_bits(args: argparse.Namespace) -> None:
    """Write a plan for each budget, and say what loss it is predicted and found to add."""
    for bits in args.bits:
        a_precision("--bits", bits)
    device = context.device(args.ngpu)
    model, trained = checkpoints.load_quantized(args)
    model.eval()
    choices = candidates(model, args.bits)
    most = {name: max(bits) for name, bits in choices.items()}
    with evaluating_at(model, most):
        packed = checkpoints.pack(model)
    budgets = _budgets(args, packed, choices)
    model.to(device)
    data = validation.Validation(args, checkpoints.find_task(args.task), model, trained)
    estimated = curvature(model, data.add_gradients, choices)
    found = {"curvature": estimated}
    if args.sensitivity != "curvature":
        found["measured"] = measured(model, data.loss, choices, lambda names: following([*names], "weights"))
        _say_agreement(found["measured"], estimated)
        found["mean"] = {
            name: {bits: (change + estimated[name][bits]) / 2 for bits, change in row.items()}
            for name, row in found["measured"].items()
        }
    _write(args.output_dir / "sensitivity.yaml", "loss change of each weight alone, at each number of bits", found)
    losses = found[args.sensitivity]
    print(f"{'bits':22} {'mean bits':>9} {'predicted':>10} {'found':>10}   change of the loss")
    reference = _loss_at(model, data, most)
    for b in sorted({b for bits in choices.values() for b in bits}):
        plan = {name: b if b in bits else most[name] for name, bits in choices.items()}
        _say(f"{b} for all", plan, losses, _loss_at(model, data, plan) - reference, packed)
    for name, (sizes, budget) in budgets.items():
        plan = allocate(losses, sizes, budget)
        change = _loss_at(model, data, plan) - reference
        _say(name, plan, losses, change, packed)
        about = f"{args.sensitivity}: {packed.average_bits(plan):.3f} bits, loss {reference + change:.4f}"
        _write(args.output_dir / name, f"allocate_bits, {about}", plan)


def _budgets(args: argparse.Namespace, packed: PackedModel, choices: Dict[str, List[int]]) -> Dict[str, Tuple]:
    """The budget of each plan file: the sizes of weights at each number of bits, and the largest sum of them.

    Raises:
        BudgetError: a budget is impossible; this is said before the long part of the work
    """
    if args.average_bits:
        numbers = {name: math.prod(weight.shape) for name, weight in packed.weights.items()}
        sizes = {name: {b: b * numbers[name] for b in bits} for name, bits in choices.items()}
        unit, rest, option, given = sum(numbers.values()), 0, "average_bits", args.average_bits
    else:
        # a file whose every weight has the most bits: names and scales take no less in it than in any other
        with tempfile.TemporaryDirectory(dir=args.output_dir) as folder:
            write_packed(Path(folder) / "most", packed)
            whole = (Path(folder) / "most").stat().st_size
        shapes = {name: weight.matrix_shape for name, weight in packed.weights.items()}
        sizes = {n: {b: shapes[n][0] * row_bytes(shapes[n][1], b) for b in bits} for n, bits in choices.items()}
        rest = whole - sum(weight.packed.numel() for weight in packed.weights.values())
        unit, option, given = 1e6, "target_mb", args.target_mb
    budgets = {}
    for value in given:
        least = (rest + sum(min(row.values()) for row in sizes.values())) / unit
        if value < least:
            raise BudgetError(
                f"--{option}: {value:g} is not possible, it must be at least {math.ceil(least * 1000) / 1000}"
            )
        name = "mb" if option == "target_mb" else "average"
        budgets[f"{name}_{value:g}.yaml"] = (sizes, value * unit - rest)
    return budgets


def _loss_at(model: nn.Module, data: validation.Validation, bits: EvalBits) -> float:
    """The loss at a number of bits, or by a plan."""
    with evaluating_at(model, bits):
        return data.loss()


def _say(name: str, plan: Dict[str, int], losses: Table, change: float, packed: PackedModel) -> None:
    """Print the line of a plan: its mean bits, and the predicted and the found change of the loss."""
    predicted = sum(losses[weight][bits] for weight, bits in plan.items())
    print(f"{name:22} {packed.average_bits(plan):9.3f} {predicted:10.4f} {change:10.4f}")


def _say_agreement(measured: Table, estimated: Table) -> None:
    """Print both kinds of sensitivity for each weight at its fewest bits, and how they agree in rank at each number."""
    print(f"{'loss change at':>60} {'measured':>10} {'curvature':>10}")
    for name, row in measured.items():
        if len(row) > 1:
            bits = min(row)
            print(f"{name:52} {bits} bits {row[bits]:10.5f} {estimated[name][bits]:10.5f}")
    for bits in sorted({b for row in measured.values() for b in row}):
        names = [name for name, row in measured.items() if bits in row and bits < max(row)]
        if len(names) > 2:
            rank = spearmanr([measured[n][bits] for n in names], [estimated[n][bits] for n in names]).statistic
            print(f"rank correlation at {bits} bits: {rank:.2f} ({len(names)} weights)")


def _write(path: Path, about: str, content: Dict) -> None:
    """Write a YAML file with a comment at its top."""
    write_text(path, f"# {about}\n{yaml.safe_dump(content, sort_keys=False)}")


def main(cmd=None) -> None:
    run(allocate_bits, get_parser(), cmd)


if __name__ == "__main__":
    main()
