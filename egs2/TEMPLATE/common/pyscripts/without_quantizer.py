#!/usr/bin/env python3
"""Make a system of the float weights of one that was trained with a quantizer: its config.yaml and its checkpoint."""

import argparse
import os
import sys
from pathlib import Path

import yaml

from espnet_rand.atomic import replacing, write_text
from espnet_rand.toolkit import options


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trained", type=Path, required=True, help="the directory of its training")
    parser.add_argument("--model", required=True, help="its checkpoint there, e.g. valid.acc.ave.pth")
    parser.add_argument("--output_dir", type=Path, required=True)
    args = parser.parse_args()
    model = args.trained / args.model
    if not model.is_file():
        sys.exit(f"{model} is not there: --inference_model must name a checkpoint of {args.trained}")
    config = yaml.safe_load((args.trained / "config.yaml").read_text(encoding="utf-8"))
    config = {name: value for name, value in config.items() if name not in options.NAMES}
    args.output_dir.mkdir(parents=True, exist_ok=True)
    write_text(args.output_dir / "config.yaml", yaml.safe_dump(config, sort_keys=False))
    with replacing(args.output_dir / args.model) as temporary:
        temporary.symlink_to(os.path.relpath(model, args.output_dir))


if __name__ == "__main__":
    main()
